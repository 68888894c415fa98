//! What must hold of every input that somebody else writes, one function for each fuzz target: it is read or refused, nothing
//! panics, and what was read means the same when it is written again.
//!
//! The tests of `rotation` run these functions on the seeds, so that they compile and hold without a fuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a panic, which the fuzzer keeps")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::event::RotationEvent;
use rotation::keyring::{Ciphers, KEY_SETTINGS, Key, KeyFormat, KeyId, KeyMaterial, KeyState, Keyring};
use rotation::policy::StackPolicy;
use rotation::rows::{Encoding, Opened, Rewrapped, RowCodec, RowFormat};
use rotation::secret::SecretText;
use rotation::target::ReportedKeys;
use rotation::token::TOKEN_SETTINGS;

/// Stands in the seeds where a secret value would: no error may show it.
const VALUE: &str = "the-value-nobody-may-see";
const FIELD: &str = "KEY";

fn field(name: &str) -> FieldName {
    FieldName::new(name).expect("a name of a member")
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn shows_no_value(error: impl std::fmt::Display + std::fmt::Debug) {
    assert!(!format!("{error} {error:?}").contains(VALUE), "an error shows a value");
}

/// An event of Secrets Manager.
pub fn event(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    match RotationEvent::parse(json) {
        Ok(event) => {
            assert!((32..=64).contains(&event.version.as_str().len()));
            assert!((1..=2048).contains(&event.secret_id.len()));
            // The other members are no secrets, and may say the same. Debug writes a tab as \t.
            let told =
                [event.version.as_str(), &event.secret_id].iter().any(|text| format!("{text:?}").contains(VALUE));
            assert!(told || !format!("{event:?}").contains(VALUE), "Debug shows the RotationToken");
        }
        Err(error) => shows_no_value(error),
    }
}

/// A secret's value, of which one member is replaced, one is added and one is taken away.
pub fn document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (member, beside) = (field(FIELD), field("KEY_PREVIOUS"));
    let document = match Document::parse(SecretText::new(text.to_owned()), Some(&member)) {
        Ok(document) => document,
        Err(error) => return shows_no_value(error),
    };
    let new = SecretText::new("new \"value\"\n".to_owned());
    let changed = match document.with_secret(&new) {
        Ok(changed) => changed,
        Err(error) => return shows_no_value(error),
    };
    let again = Document::parse(changed.text().clone(), Some(&member)).expect("what is written is read");
    assert_eq!(again.secret().expect("the new member"), new);
    assert!(document.same_other_members(&again, std::slice::from_ref(&member)), "another member has changed");
    if document.has_member(&beside) {
        return;
    }
    let added = changed.with_member(&beside, &new).expect("there was none");
    let added = Document::parse(added.text().clone(), Some(&member)).expect("what is written is read");
    assert_eq!(added.member(&beside).expect("one member"), Some(new));
    let removed = added.without_member(&beside).expect("it is there");
    // White space around a member that comes and goes may stay.
    assert!(removed.same_other_members(&changed, &[]), "what was added is taken away, and nothing else");
}

/// The tags of a secret: a line `name=value` for each.
pub fn tags(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let tags: BTreeMap<String, String> = pairs.map(|(tag, value)| (tag.to_owned(), value.to_owned())).collect();
    let variables = [("ALLOWED_FIELDS", "KEY,TOKEN"), ("MAX_OVERLAP", "48h"), ("MAX_HOLD", "30d")];
    let environment: Environment = variables.into_iter().collect();
    for settings in [TOKEN_SETTINGS, KEY_SETTINGS] {
        let stack = StackPolicy::from_environment(&environment, settings).expect("the bounds of the stack are right");
        match stack.for_secret(&tags, now()) {
            Ok(policy) => {
                assert!(policy.field.is_none_or(|field| ["KEY", "TOKEN"].contains(&field.as_str())));
                assert!(policy.overlap <= Duration::from_secs(48 * 3600), "longer than the stack allows");
                assert!(policy.hold_until.is_none_or(|until| until <= now() + Duration::from_secs(31 * 86_400)));
            }
            Err(error) => drop(error.to_string()),
        }
    }
}

/// A raw keyring: the value of a text secret, or a JSON secret with its members.
pub fn raw_keyring(bytes: &[u8]) {
    keyring(KeyFormat::Raw, bytes);
}

/// A list of Fernet keys.
pub fn fernet_keyring(bytes: &[u8]) {
    keyring(KeyFormat::Fernet, bytes);
}

/// A Tink keyset.
pub fn tink_keyring(bytes: &[u8]) {
    keyring(KeyFormat::Tink, bytes);
}

/// A keyset keeps the order in which its keys stand, which is not that of a ring.
fn states(ring: &Keyring) -> BTreeMap<KeyId, KeyState> {
    ring.keys().map(|(state, key)| (key.id(), state)).collect()
}

fn keyring(format: KeyFormat, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let wire = format.wire();
    for member in [None, Some(field(FIELD))] {
        let document = match wire.document(SecretText::new(text.to_owned()), member.as_ref()) {
            Ok(document) => document,
            Err(error) => {
                shows_no_value(error);
                continue;
            }
        };
        let ring = match wire.parse(&document) {
            Ok(ring) => ring,
            Err(error) => {
                shows_no_value(error);
                continue;
            }
        };
        let ciphers = wire.ciphers(&document).expect("a ring has its ciphers");
        let (primary, cipher) = ciphers.iter().next().expect("a ring has a primary key");
        assert_eq!(primary, ring.primary().id());
        let sealed = cipher.seal(b"canary", now(), &mut StdRng::seed_from_u64(1)).expect("it is short");
        let opened = ciphers.iter().find_map(|(id, cipher)| Some((id, cipher.open(&sealed)?)));
        let (opener, opened) = opened.expect("what a ring encrypts it decrypts");
        assert_eq!((opener, opened.as_slice()), (primary, &b"canary"[..]));
        // Written with one key more, it is read with one key more.
        let added = Key::generate(now(), &mut StdRng::seed_from_u64(2));
        if !wire.fits(&document, &added).unwrap_or(false) {
            continue;
        }
        let Ok(grown) = ring.clone().with_secondary(added) else { continue };
        let written = match wire.write(&document, &grown) {
            Ok(written) => written,
            Err(error) => {
                shows_no_value(error);
                continue;
            }
        };
        let again = wire.document(written.text().clone(), member.as_ref()).expect("what is written is read");
        let again = wire.parse(&again).expect("what is written is a ring");
        assert_eq!(states(&again), states(&grown));
    }
}

/// Every way of storing a value.
pub const STORED: [(RowFormat, Encoding); 8] = [
    (RowFormat::Fernet, Encoding::Base64Url),
    (RowFormat::Tink, Encoding::Binary),
    (RowFormat::Tink, Encoding::Base64),
    (RowFormat::Tink, Encoding::Base64Url),
    (RowFormat::AesGcm, Encoding::Binary),
    (RowFormat::AesGcm, Encoding::Base64),
    (RowFormat::AesGcm, Encoding::Base64Url),
    (RowFormat::AesGcmHex, Encoding::Base64),
];

/// A ring of two keys in a format.
fn ciphers(format: KeyFormat) -> Ciphers {
    let key = |byte| Key::new(KeyMaterial::new(&[byte; 32]).expect("32 bytes"));
    let wire = format.wire();
    let first = wire.document(wire.first(&key(7)), None).expect("what is written is read");
    let ring = Keyring::new(key(9)).expect("one key").with_secondary(key(7)).expect("another key");
    wire.ciphers(&wire.write(&first, &ring).expect("there is room")).expect("a ring has its ciphers")
}

/// How an application writes a ciphertext.
fn written(format: RowFormat, encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (format, encoding) {
        (RowFormat::AesGcmHex, _) => {
            let (nonce, sealed) = bytes.split_at(12);
            let (text, tag) = sealed.split_at(sealed.len() - 16);
            [hex(nonce), hex(tag), hex(text)].join(":").into_bytes()
        }
        (RowFormat::Fernet, _) | (_, Encoding::Base64Url) => URL_SAFE.encode(bytes).into_bytes(),
        (_, Encoding::Binary) => bytes.to_vec(),
        (_, Encoding::Base64) => STANDARD.encode(bytes).into_bytes(),
    }
}

/// A stored value. The first byte chooses how it is stored, the second whether the rest is the stored value or the text that an
/// application encrypted with the older of two keys.
pub fn rows(bytes: &[u8]) {
    let [way, sealed, rest @ ..] = bytes else { return };
    let (format, encoding) = STORED[usize::from(*way) % STORED.len()];
    let ciphers = ciphers(format.ring());
    let codec = RowCodec::new(format, encoding, &ciphers);
    let mut rng = StdRng::seed_from_u64(u64::from(*way));
    let (old, aad): (_, &[u8]) = match ciphers.iter().nth(1) {
        Some((_, cipher)) if sealed % 2 == 1 => {
            let aad: &[u8] = if format.takes_aad() { b"row 1" } else { b"" };
            let ciphertext = cipher.seal_bytes(rest, aad, 1_700_000_000, &mut rng).expect("it is short");
            (written(format, encoding, &ciphertext), aad)
        }
        _ => (rest.to_vec(), b""),
    };
    let text = match codec.open(&old, aad) {
        Opened::Under(_, text) => Some(text),
        Opened::Unknown | Opened::Damaged | Opened::Foreign => None,
    };
    assert!(text.is_some() || sealed % 2 == 0, "a value under a key of the ring does not open");
    if let Rewrapped::Anew { stored, .. } = codec.rewrap(&old, aad, &mut rng) {
        let Opened::Under(key, new) = codec.open(&stored, aad) else { panic!("what was written does not open") };
        assert_eq!(Some(key), ciphers.iter().next().map(|(primary, _)| primary));
        assert_eq!(Some(new), text, "another text");
    }
}

/// What an application answers when it is asked for its keys.
pub fn target_answer(bytes: &[u8]) {
    let Some(reported) = ReportedKeys::read(bytes) else { return };
    for id in reported.decrypts_with.iter().chain(reported.encrypts_with.iter().flatten()) {
        assert_eq!(id.to_string().parse(), Ok(*id));
    }
}
