//! Keyrings: what is read of a secret, what encrypts, what decrypts, and what is never shown.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, SystemTime};

use application::secrets::{Unusable, Version, Versions};
use application::{KeyFormat, KeyMode, Keyring};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::{CryptoRng, RngCore};
use serde_json::{Value, json};
use support::keys::*;

const FORMATS: [KeyFormat; 3] = [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink];
const PLAINTEXT: &[u8] = b"refresh-token-of-a-user";

fn version(id: &str, value: &str) -> Version {
    Version { id: id.to_owned(), value: value.to_owned().into(), created: SystemTime::UNIX_EPOCH }
}

fn current(value: &str) -> Versions {
    Versions { current: version("v1", value), pending: None, previous: None }
}

fn with_pending(value: &str, pending: &str) -> Versions {
    Versions { pending: Some(version("v2", pending)), ..current(value) }
}

/// Reads a text secret.
fn text(value: &str, format: KeyFormat) -> Result<Keyring, Unusable> {
    Keyring::read(&current(value), None, format, KeyMode::Keyring)
}

/// Reads the member `KEYS` of a JSON secret.
fn member(versions: &Versions, format: KeyFormat) -> Result<Keyring, Unusable> {
    Keyring::read(versions, Some("KEYS"), format, KeyMode::Keyring)
}

fn encrypt(ring: &Keyring, plaintext: &[u8]) -> String {
    ring.encrypt(plaintext, SystemTime::UNIX_EPOCH, &mut rand::rng()).unwrap()
}

fn decrypt(ring: &Keyring, ciphertext: &str) -> Option<Vec<u8>> {
    ring.decrypt(ciphertext).map(|plaintext| plaintext.to_vec())
}

/// Counts 0, 1, 2, … as the vectors do.
struct Counting(u8);

impl RngCore for Counting {
    fn next_u32(&mut self) -> u32 {
        unreachable!()
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0;
            self.0 += 1;
        }
    }
}

impl CryptoRng for Counting {}

/// python3 -c "import hashlib; print(hashlib.sha256(b'rotation.key-id.v1\0' + bytes(range(32))).hexdigest()[:8])"
#[test]
fn a_key_id_is_the_start_of_the_hash_that_every_format_shares() {
    let key: Vec<u8> = (0..32).collect();
    let keyset = json!({ "primaryKeyId": 7, "key": [tink_entry(&key, 7, "TINK")] });
    for (format, value) in [
        (KeyFormat::Raw, STANDARD.encode(&key)),
        (KeyFormat::Fernet, URL_SAFE.encode(&key)),
        (KeyFormat::Tink, keyset.to_string()),
    ] {
        let ring = text(&value, format).unwrap();
        assert_eq!(ring.primary_key_id(), "107f3c51", "{format}");
        assert_eq!(ring.key_ids(), ["107f3c51"], "{format}");
    }
    // The others of these tests, by the same command.
    for (number, id) in [(1, "0fc6d896"), (2, "07efb8db"), (3, "2a50c719"), (4, "fdc26bb6"), (5, "ae906016")] {
        assert_eq!(text(&raw(number), KeyFormat::Raw).unwrap().primary_key_id(), id);
    }
}

#[test]
fn every_format_is_read_from_current_and_pending() {
    // Current: primary 1, secondary 2 and 3. Pending: primary 1, staged 4, secondary 2 and 3.
    for format in FORMATS {
        let versions = with_pending(&ring(format, 1, None, &[2, 3]), &ring(format, 1, Some(4), &[2, 3]));
        let read = member(&versions, format).unwrap();
        assert_eq!(read.primary_key_id(), id(1), "{format}");
        assert_eq!(read.key_ids().first().unwrap(), id(1), "{format}");
        let mut ids = read.key_ids();
        ids.sort();
        let mut expected = [1, 2, 3, 4].map(id);
        expected.sort_unstable();
        assert_eq!(ids, expected, "{format}");

        // The staged key in the current value, and a pending value that makes it primary: the current one still encrypts.
        let versions = with_pending(&ring(format, 1, Some(4), &[2]), &ring(format, 4, None, &[1, 2]));
        let read = member(&versions, format).unwrap();
        assert_eq!(read.primary_key_id(), id(1), "{format}");
        assert_eq!(read.key_ids().len(), 3, "{format}");
        let by_the_next = member(&current(&ring(format, 4, None, &[])), format).unwrap();
        assert_eq!(decrypt(&read, &encrypt(&by_the_next, PLAINTEXT)).unwrap(), PLAINTEXT, "{format}");
    }
}

#[test]
fn every_format_is_read_from_a_text_secret() {
    for (format, current_value, pending) in [
        (KeyFormat::Raw, format!("{},{}\n", raw(1), raw(2)), format!("{}, {},{}", raw(3), raw(1), raw(2))),
        (KeyFormat::Fernet, format!("{},{}", fernet(1), fernet(2)), format!("{},{}", fernet(3), fernet(1))),
        (KeyFormat::Tink, keyset(&[1, 2]), keyset(&[3, 1, 2])),
    ] {
        let read = Keyring::read(&with_pending(&current_value, &pending), None, format, KeyMode::Keyring).unwrap();
        assert_eq!(read.key_ids(), [1, 2, 3].map(id), "{format}");
        assert_eq!(read.primary_key_id(), id(1));
    }
}

#[test]
fn pending_version_that_is_current_or_unusable_changes_nothing() {
    for format in FORMATS {
        let value = ring(format, 1, None, &[2]);
        let same = Versions { pending: Some(version("v1", &value)), ..current(&value) };
        assert_eq!(member(&same, format).unwrap().key_ids(), [id(1), id(2)], "{format}");
        for pending in ["no json", "{}", r#"{"KEYS":7}"#, r#"{"KEYS":"x"}"#, r#"{"KEYS":""}"#] {
            let read = member(&with_pending(&value, pending), format).unwrap();
            assert_eq!(read.key_ids(), [id(1), id(2)], "{format} {pending}");
        }
    }
}

#[test]
fn reader_of_the_name_has_the_one_key_of_current() {
    let versions = with_pending(&ring(KeyFormat::Raw, 1, Some(2), &[3]), &ring(KeyFormat::Raw, 4, None, &[1]));
    let read = |versions: &Versions, field, format| Keyring::read(versions, field, format, KeyMode::NameOnly);
    let old = read(&versions, Some("KEYS"), KeyFormat::Raw).unwrap();
    assert_eq!(old.key_ids(), [id(1)]);
    for number in [2, 3, 4] {
        let other = text(&raw(number), KeyFormat::Raw).unwrap();
        assert_eq!(decrypt(&old, &encrypt(&other, PLAINTEXT)), None);
    }
    let alone = text(&raw(1), KeyFormat::Raw).unwrap();
    assert_eq!(decrypt(&old, &encrypt(&alone, PLAINTEXT)).unwrap(), PLAINTEXT);

    assert_eq!(read(&current(&raw(5)), None, KeyFormat::Raw).unwrap().key_ids(), [id(5)]);
    let list = format!("{},{}", raw(1), raw(2));
    assert_eq!(read(&current(&list), None, KeyFormat::Raw).unwrap_err(), Unusable::NotAKey);
    assert_eq!(read(&current(&fernet(1)), None, KeyFormat::Fernet).unwrap_err(), Unusable::NotOneKey);
}

#[test]
fn keys_are_read_in_the_encodings_of_the_field() {
    let key = [0xfb; 32];
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = STANDARD.encode(key);
    let raw = [
        hex.to_uppercase(),
        hex,
        encoded.trim_end_matches('=').to_owned(),
        URL_SAFE.encode(key),
        format!("base64:{encoded}"),
    ];
    let expected = text(&encoded, KeyFormat::Raw).unwrap();
    for written in raw {
        assert_eq!(text(&written, KeyFormat::Raw).unwrap().key_ids(), expected.key_ids(), "{written}");
        let json = current(&format!("\u{feff}{{\"KEYS\":\"{written}\"}}"));
        assert_eq!(member(&json, KeyFormat::Raw).unwrap().key_ids(), expected.key_ids(), "{written}");
    }
    assert_eq!(text(&encoded, KeyFormat::Fernet).unwrap().key_ids(), expected.key_ids());
}

#[test]
fn non_keyring_is_refused_with_a_reason_without_the_value() {
    let entry = |change: &dyn Fn(&mut Value)| {
        let mut entry = tink_entry(&[1; 32], 1, "TINK");
        change(&mut entry);
        json!({ "primaryKeyId": 1, "key": [entry] }).to_string()
    };
    let short = STANDARD.encode([1; 16]);
    for (format, value, expected) in [
        (KeyFormat::Raw, String::new(), Unusable::NotAKey),
        (KeyFormat::Raw, short.clone(), Unusable::NotAKey),
        (KeyFormat::Raw, format!("{},", raw(1)), Unusable::NotAKey),
        (KeyFormat::Raw, "z".repeat(64), Unusable::NotAKey),
        (KeyFormat::Raw, "32 characters that are no key at ".to_owned(), Unusable::NotAKey),
        (KeyFormat::Fernet, short, Unusable::NotAKey),
        (KeyFormat::Tink, raw(1), Unusable::NotAKeyset),
        (KeyFormat::Tink, r#"{"primaryKeyId":1}"#.to_owned(), Unusable::NotAKeyset),
        (KeyFormat::Tink, r#"{"primaryKeyId":1,"key":[]}"#.to_owned(), Unusable::NoPrimaryKey),
        (KeyFormat::Tink, entry(&|entry| entry["status"] = json!("DISABLED")), Unusable::NoPrimaryKey),
        (KeyFormat::Tink, entry(&|entry| entry["keyId"] = json!(2)), Unusable::NoPrimaryKey),
        (KeyFormat::Tink, entry(&|entry| entry["outputPrefixType"] = json!("CRUNCHY")), Unusable::UnknownTinkKey),
        (KeyFormat::Tink, entry(&|entry| entry["keyData"]["typeUrl"] = json!("x.AesSivKey")), Unusable::UnknownTinkKey),
        (KeyFormat::Tink, entry(&|entry| entry["keyData"]["value"] = json!("GhABAQ==")), Unusable::NotAKey),
    ] {
        assert_eq!(text(&value, format).unwrap_err(), expected, "{format} {value}");
        let shown = expected.to_string();
        assert!(!shown.contains("AQEB") && !shown.contains("GhAB"), "{shown}");
    }

    for (value, expected) in [
        (json!([]), Unusable::NotAnObject),
        (json!({ "OTHER": raw(1) }), Unusable::NoMember),
        (json!({ "KEYS": 7 }), Unusable::NotAString),
        (json!({ "KEYS": raw(1), "KEYS_STAGED": null }), Unusable::NotAString),
        (json!({ "KEYS": raw(1), "KEYS_STAGED": format!("{},{}", raw(2), raw(3)) }), Unusable::NotAKey),
        (json!({ "KEYS": format!("{},{}", raw(2), raw(3)) }), Unusable::NotAKey),
        (json!({ "KEYS": raw(1), "KEYS_PREVIOUS": "x" }), Unusable::NotAKey),
    ] {
        assert_eq!(member(&current(&value.to_string()), KeyFormat::Raw).unwrap_err(), expected, "{value}");
    }
}

#[test]
fn encryption_round_trips_and_never_repeats_itself() {
    for format in FORMATS {
        let ring = member(&current(&ring(format, 1, None, &[])), format).unwrap();
        for length in [0, 1, 15, 16, 17, 31, 32, 1_000, 65_536] {
            let plaintext: Vec<u8> = (0..length).map(|index: usize| index.to_le_bytes()[0]).collect();
            let (first, second) = (encrypt(&ring, &plaintext), encrypt(&ring, &plaintext));
            assert_ne!(first, second);
            assert_eq!(decrypt(&ring, &first).unwrap(), plaintext, "{format} {length}");
            assert_eq!(decrypt(&ring, &second).unwrap(), plaintext, "{format} {length}");
        }
    }
}

#[test]
fn a_changed_ciphertext_and_another_key_open_nothing() {
    for format in FORMATS {
        let base64 = if format == KeyFormat::Fernet { URL_SAFE } else { STANDARD };
        let ours = member(&current(&ring(format, 1, None, &[2])), format).unwrap();
        let other = member(&current(&ring(format, 3, None, &[4])), format).unwrap();
        let ciphertext = encrypt(&ours, PLAINTEXT);
        assert_eq!(decrypt(&other, &ciphertext), None, "{format}");
        let bytes = base64.decode(&ciphertext).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert_eq!(decrypt(&ours, &base64.encode(&changed)), None, "{format} byte {index}");
            assert_eq!(decrypt(&ours, &base64.encode(&bytes[..index])), None, "{format} {index} bytes");
        }
        for text in ["", "%", "no base64", "gAAAAAA="] {
            assert_eq!(decrypt(&ours, text), None, "{format} {text}");
        }
    }
}

#[test]
fn an_old_ciphertext_stays_readable_while_the_ring_grows() {
    for format in FORMATS {
        let read = |primary, staged, secondary: &[u8]| {
            member(&current(&ring(format, primary, staged, secondary)), format).unwrap()
        };
        let mut records = vec![];
        for ring in [
            read(1, None, &[]),
            read(1, Some(2), &[]),
            read(2, None, &[1]),
            read(2, Some(3), &[1]),
            read(3, None, &[2, 1]),
            read(3, Some(4), &[2, 1]),
            read(4, None, &[3, 2, 1]),
        ] {
            records.push(encrypt(&ring, PLAINTEXT));
            for record in &records {
                assert_eq!(decrypt(&ring, record).unwrap(), PLAINTEXT, "{format} {ring:?}");
            }
        }
        // Without the first key, what it encrypted is lost, and nothing else.
        let pruned = read(4, None, &[3, 2]);
        let lost: Vec<bool> = records.iter().map(|record| decrypt(&pruned, record).is_none()).collect();
        assert_eq!(lost, [true, true, false, false, false, false, false], "{format}");
    }
}

/// Made with Python's package cryptography 48: `AESGCM` and `Fernet` with the key 1 and counting nonces.
#[test]
fn ciphertexts_equal_those_of_another_implementation() {
    const RAW: &str = "AAECAwQFBgcICQoLycPzVEWNblSKBYyhTkSnxYOnRn+G9De9jVoUQEaq5lhgaEtNgfIr";
    const TINK: &str = "AQ/G2JYAAQIDBAUGBwgJCgvJw/NURY1uVIoFjKFORKfFg6dGf4b0N72NWhRARqrmWGBoS02B8is=";
    const FERNET: &str = "gAAAAABlU_EAAAECAwQFBgcICQoLDA0OD48aOP2NaFpZKUi_N-r2I8yXE2spCae4C28l4vR4wtuxYc5yb9_Fe8lod4AqTcAMDelmaMk4rvJI12nq7FlGq_o=";
    let without_prefix = json!({ "primaryKeyId": 9, "key": [tink_entry(&[1; 32], 9, "RAW")] }).to_string();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (format, value, expected) in [
        (KeyFormat::Raw, raw(1), RAW),
        (KeyFormat::Tink, keyset(&[1]), TINK),
        (KeyFormat::Tink, without_prefix, RAW),
        (KeyFormat::Fernet, fernet(1), FERNET),
    ] {
        let ring = text(&value, format).unwrap();
        assert_eq!(ring.encrypt(PLAINTEXT, at, &mut Counting(0)).unwrap(), expected, "{format}");
        assert_eq!(decrypt(&ring, expected).unwrap(), PLAINTEXT, "{format}");
    }
}

/// generate.json and verify.json of <https://github.com/fernet/spec>, without the entries for a version 129 that was never
/// specified.
#[test]
fn the_vectors_of_the_fernet_specification_hold() {
    let token = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
    let vector = json!({
        "token": token,
        "now": "1985-10-26T01:20:00-07:00",
        "iv": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        "src": "hello",
        "secret": "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    });
    let now: jiff::Timestamp = vector["now"].as_str().unwrap().parse().unwrap();
    let ring = text(vector["secret"].as_str().unwrap(), KeyFormat::Fernet).unwrap();
    let src = vector["src"].as_str().unwrap().as_bytes();
    assert_eq!(ring.encrypt(src, now.into(), &mut Counting(0)).unwrap(), token);
    assert_eq!(decrypt(&ring, token).unwrap(), src);
}

#[test]
fn tink_keyset_is_read_in_both_spellings_enabled_keys_only() {
    let mut disabled = tink_entry(&[2; 32], 2, "TINK");
    disabled["status"] = json!("DISABLED");
    let destroyed = json!({ "keyId": 3, "status": "DESTROYED", "outputPrefixType": "TINK" });
    let keyset = json!({
        "primaryKeyId": 4,
        "key": [tink_entry(&[1; 32], 1, "TINK"), disabled, destroyed, tink_entry(&[4; 32], 4, "RAW")],
    });
    let camel = keyset.to_string();
    let mut snake = camel.clone();
    for (from, to) in [
        ("primaryKeyId", "primary_key_id"),
        ("keyData", "key_data"),
        ("typeUrl", "type_url"),
        ("keyMaterialType", "key_material_type"),
        ("keyId", "key_id"),
        ("outputPrefixType", "output_prefix_type"),
    ] {
        assert!(snake.contains(from));
        snake = snake.replace(from, to);
    }
    for value in [camel, snake] {
        let ring = text(&value, KeyFormat::Tink).unwrap();
        assert_eq!(ring.primary_key_id(), id(4));
        assert_eq!(ring.key_ids(), [id(4), id(1)]);
        for (number, opens) in [(1, true), (2, false)] {
            let other = text(&support::keys::keyset(&[number]), KeyFormat::Tink).unwrap();
            // In these keysets the key id in the ciphertext is the key's own.
            let opened = decrypt(&ring, &with_tink_id(&encrypt(&other, PLAINTEXT), number.into()));
            assert_eq!(opened.is_some(), opens, "{number}");
        }
        assert_eq!(decrypt(&ring, &encrypt(&ring, PLAINTEXT)).unwrap(), PLAINTEXT);
    }
}

/// The same ciphertext under another key id.
fn with_tink_id(ciphertext: &str, id: u32) -> String {
    let mut bytes = STANDARD.decode(ciphertext).unwrap();
    assert_eq!(bytes[0], 1);
    bytes[1..5].copy_from_slice(&id.to_be_bytes());
    STANDARD.encode(bytes)
}

#[test]
fn no_keyring_shows_a_key_in_debug() {
    for format in FORMATS {
        let value = ring(format, 1, Some(2), &[3]);
        let versions = current(&value);
        let ring = member(&versions, format).unwrap();
        let shown = format!("{ring:?} {versions:?}");
        assert!(shown.contains(id(1)), "{shown}");
        for number in [1_u8, 2, 3] {
            let hex = format!("{number:02x}").repeat(4);
            for form in [&raw(number)[..16], &hex, &format!("{number}, {number}, {number}")] {
                assert!(!shown.contains(form), "{form} in {shown}");
            }
        }
    }
}

#[test]
fn formats_and_modes_are_named_as_in_the_settings() {
    for format in FORMATS {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    for mode in [KeyMode::Keyring, KeyMode::NameOnly] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert_eq!("RAW".parse::<KeyFormat>().unwrap_err().to_string(), "the format is raw, fernet or tink");
    assert_eq!("name".parse::<KeyMode>().unwrap_err().to_string(), "the mode is keyring or name-only");
}
