//! What keys encrypt with: published vectors, and that nothing damaged or foreign is ever opened.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyId, Keyring};
use serde::Deserialize;

use crate::keys::{
    CANARY_KEY, FORMATS, assert_shows_no_part_of, bare, canary_key, from_hex, key, key_from, standard, write,
};
use crate::secret;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn ciphers(format: KeyFormat, document: &Document) -> Ciphers {
    format.wire().ciphers(document).unwrap()
}

/// The ciphers of a value that is this key alone.
fn of_key(format: KeyFormat, key: &Key) -> Ciphers {
    ciphers(format, &bare(format, true, key))
}

fn of_text(format: KeyFormat, text: &str) -> Ciphers {
    ciphers(format, &format.wire().document(secret(text), None).unwrap())
}

/// The first key that opens it, and the text.
fn opened(ciphers: &Ciphers, ciphertext: &[u8]) -> Option<(KeyId, Vec<u8>)> {
    ciphers.iter().find_map(|(id, cipher)| Some((id, cipher.open(ciphertext)?.to_vec())))
}

fn open(ciphers: &Ciphers, ciphertext: &[u8]) -> Option<Vec<u8>> {
    opened(ciphers, ciphertext).map(|(_, plaintext)| plaintext)
}

fn seal(ciphers: &Ciphers, plaintext: &[u8], seed: u64) -> Vec<u8> {
    let (_, primary) = ciphers.iter().next().unwrap();
    primary.seal(plaintext, NOW, &mut StdRng::seed_from_u64(seed)).unwrap()
}

#[derive(Deserialize)]
struct FernetVector {
    #[serde(default)]
    desc: String,
    token: String,
    secret: String,
    #[serde(default)]
    src: String,
    #[serde(default)]
    iv: Vec<u8>,
}

fn fernet_vectors(json: &str) -> Vec<FernetVector> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn tokens_of_the_fernet_specification_are_opened() {
    let generate = fernet_vectors(include_str!("../vectors/fernet-generate.json"));
    let verify = fernet_vectors(include_str!("../vectors/fernet-verify.json"));
    assert_eq!((generate.len(), verify.len()), (1, 1));
    for vector in generate.iter().chain(&verify) {
        let opened = open(&of_text(KeyFormat::Fernet, &vector.secret), vector.token.as_bytes());
        assert_eq!(opened.as_deref(), Some(vector.src.as_bytes()));
        assert_eq!(vector.src, "hello");
    }
}

#[test]
fn a_fernet_token_has_the_structure_of_the_specification() {
    // The initialisation vector comes from the generator, so the published token is not made again but taken apart: a
    // token made at its time, for its text, has all its other parts.
    let [vector] = &fernet_vectors(include_str!("../vectors/fernet-generate.json"))[..] else { panic!("one vector") };
    let published = URL_SAFE.decode(&vector.token).unwrap();
    let time = NOW + Duration::from_secs(499_162_800); // 1985-10-26T01:20:00-07:00
    assert_eq!(published[1..9], 499_162_800_u64.to_be_bytes());
    assert_eq!(published[9..25], vector.iv);

    let ciphers = of_text(KeyFormat::Fernet, &vector.secret);
    let (_, cipher) = ciphers.iter().next().unwrap();
    let mut ivs = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let token = cipher.seal(vector.src.as_bytes(), time, &mut StdRng::seed_from_u64(seed)).unwrap();
        let bytes = URL_SAFE.decode(&token).unwrap();
        assert_eq!(bytes.len(), published.len());
        assert_eq!(bytes[..9], published[..9], "version and time");
        assert_eq!(open(&ciphers, &token).as_deref(), Some(vector.src.as_bytes()));
        ivs.insert(bytes[9..25].to_vec());
    }
    assert_eq!(ivs.len(), 20, "a new initialisation vector for each token");
}

#[test]
fn invalid_tokens_of_the_fernet_specification_are_not_opened() {
    let vectors = fernet_vectors(include_str!("../vectors/fernet-invalid.json"));
    // These two are invalid by their age alone, and what a ring has encrypted must be readable at any age.
    let by_age = ["far-future TS (unacceptable clock skew)", "expired TTL"];
    let mut refused = 0;
    for FernetVector { desc, token, secret, .. } in &vectors {
        let opened = open(&of_text(KeyFormat::Fernet, secret), token.as_bytes());
        if by_age.contains(&desc.as_str()) {
            assert_eq!(opened.as_deref(), Some(&b""[..]), "{desc}");
        } else {
            assert_eq!(opened, None, "{desc}");
            refused += 1;
        }
    }
    assert_eq!((vectors.len(), refused), (8, 6));
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wycheproof {
    number_of_tests: usize,
    test_groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    key_size: usize,
    iv_size: usize,
    tag_size: usize,
    tests: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    tc_id: usize,
    key: String,
    iv: String,
    aad: String,
    msg: String,
    ct: String,
    tag: String,
    result: String,
}

#[test]
fn only_valid_wycheproof_vectors_of_aes_256_gcm_are_opened() {
    let file: Wycheproof = serde_json::from_str(include_str!("../vectors/aes-256-gcm.json")).unwrap();
    let (mut all, mut with_aad, mut valid, mut invalid) = (0, 0, 0, 0);
    for group in &file.test_groups {
        assert_eq!((group.key_size, group.iv_size, group.tag_size), (256, 96, 128));
        for vector in &group.tests {
            all += 1;
            let [key, iv, msg, ct, tag] =
                [&vector.key, &vector.iv, &vector.msg, &vector.ct, &vector.tag].map(|hex| from_hex(hex));
            let ciphers = of_text(KeyFormat::Raw, &standard(&key));
            let opened = open(&ciphers, &[iv, ct, tag].concat());
            if !vector.aad.is_empty() {
                // Keys encrypt without additional data, so whatever has some does not verify.
                with_aad += 1;
                assert_eq!(opened, None, "{}", vector.tc_id);
            } else if vector.result == "valid" {
                valid += 1;
                assert_eq!(opened, Some(msg), "{}", vector.tc_id);
            } else {
                invalid += 1;
                assert_eq!((opened, vector.result.as_str()), (None, "invalid"), "{}", vector.tc_id);
            }
        }
    }
    assert_eq!(all, file.number_of_tests);
    assert_eq!((all, with_aad, valid, invalid), (66, 18, 21, 27));
}

#[test]
fn each_format_opens_what_it_sealed() {
    for format in FORMATS {
        let ciphers = of_key(format, &key(1));
        for length in [0, 1, 15, 16, 17, 31, 32, 33, 1_000, 100_000] {
            let plaintext = vec![7; length];
            let sealed = seal(&ciphers, &plaintext, length as u64);
            assert_eq!(open(&ciphers, &sealed), Some(plaintext.clone()), "{format:?} {length}");
            assert_ne!(seal(&ciphers, &plaintext, 1_000_000), sealed, "{format:?}: never the same twice");
        }
    }
}

#[test]
fn ciphertext_flipped_cut_or_grown_is_not_opened() {
    for format in FORMATS {
        let ciphers = of_key(format, &key(1));
        for plaintext in [&b""[..], b"hello", b"sixteen bytes it", b"more than one block of plaintext"] {
            let sealed = seal(&ciphers, plaintext, 1);
            for bit in 0..8 * sealed.len() {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open(&ciphers, &damaged), None, "{format:?} bit {bit}");
            }
            for length in 0..sealed.len() {
                assert_eq!(open(&ciphers, &sealed[..length]), None, "{format:?} first {length}");
                assert_eq!(open(&ciphers, &sealed[sealed.len() - length..]), None, "{format:?} last {length}");
            }
            for more in [&b"\0"[..], b"=", b"A", b"AAAA", b"\n"] {
                assert_eq!(open(&ciphers, &[&sealed, more].concat()), None, "{format:?}");
                assert_eq!(open(&ciphers, &[more, &sealed].concat()), None, "{format:?}");
            }
        }
    }
}

#[test]
fn a_ciphertext_of_another_key_is_not_opened() {
    for format in FORMATS {
        let sealed = seal(&of_key(format, &key(1)), b"hello", 1);
        assert_eq!(open(&of_key(format, &key(2)), &sealed), None, "{format:?}");
        // One bit of any byte of the key makes it another one.
        for byte in 0..32 {
            let mut near = *CANARY_KEY;
            near[byte] ^= 1;
            let sealed = seal(&of_key(format, &canary_key()), b"hello", 1);
            assert_eq!(open(&of_key(format, &key_from(&near)), &sealed), None, "{format:?} byte {byte}");
        }
    }
}

#[test]
fn every_key_of_a_ring_opens_and_the_first_is_the_primary_one() {
    for format in FORMATS {
        let ring = Keyring::new(key(1)).unwrap().stage(key(2)).unwrap();
        let ring = ring.with_secondary(key(3)).unwrap().with_secondary(key(4)).unwrap();
        let all = ciphers(format, &write(format, &bare(format, true, &key(1)), &ring));
        let mut ids: Vec<_> = all.iter().map(|(id, _)| id).collect();
        assert_eq!(ids[0], key(1).id(), "{format:?}");
        let mut expected = [1, 2, 3, 4].map(|seed| key(seed).id());
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected, "{format:?}");
        for seed in 1..=4 {
            let sealed = seal(&of_key(format, &key(seed)), b"hello", seed);
            let (id, plaintext) = opened(&all, &sealed).unwrap();
            assert_eq!((id, plaintext.as_slice()), (key(seed).id(), &b"hello"[..]), "{format:?}");
            let own = all.get(key(seed).id()).unwrap();
            assert!(own.open(&sealed).is_some(), "{format:?}");
        }
        assert!(all.get(key(5).id()).is_none() && open(&all, &seal(&of_key(format, &key(5)), b"x", 1)).is_none());
        assert_shows_no_part_of(key(1).material().expose(), &format!("{all:?} {all:#?}"));
    }
}

/// A keyset with the key of `seed` as its primary one, under this `keyId`.
fn keyset(id: u32, seed: u64, prefix: &str) -> String {
    let value = standard(&[&[0x1a, 32][..], key(seed).material().expose()].concat());
    format!(
        r#"{{"primaryKeyId":{id},"key":[{{"keyData":{{"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey","value":"{value}","keyMaterialType":"SYMMETRIC"}},"status":"ENABLED","keyId":{id},"outputPrefixType":"{prefix}"}}]}}"#
    )
}

#[test]
fn tink_ciphertext_begins_with_the_key_id_unless_raw() {
    let tink = of_text(KeyFormat::Tink, &keyset(0x0102_0304, 1, "TINK"));
    let sealed = seal(&tink, b"hello", 1);
    assert_eq!((&sealed[..5], sealed.len()), (&[1, 1, 2, 3, 4][..], 5 + 12 + 5 + 16));

    let other_id = of_text(KeyFormat::Tink, &keyset(0x0102_0305, 1, "TINK"));
    assert_eq!(open(&other_id, &sealed), None, "the same key under another id");

    let raw = of_text(KeyFormat::Tink, &keyset(0x0102_0304, 1, "RAW"));
    assert_eq!(open(&raw, &sealed), None, "the prefix is no part of it");
    assert_eq!(open(&raw, &sealed[5..]).as_deref(), Some(&b"hello"[..]));
    assert_eq!(open(&tink, &sealed[5..]), None);
    let sealed = seal(&raw, b"hello", 1);
    assert_eq!(sealed.len(), 12 + 5 + 16);
    assert_eq!(
        open(&of_key(KeyFormat::Raw, &key(1)), &sealed).as_deref(),
        Some(&b"hello"[..]),
        "as the format raw has it"
    );
}

#[test]
fn a_raw_key_of_a_keyset_is_tried_for_every_ciphertext() {
    // Its ciphertext may begin as the prefix of another key does.
    let (tink, raw) = (keyset(0x0102_0304, 1, "TINK"), keyset(9, 2, "RAW"));
    let entry = |keyset: &str| keyset.split_once('[').unwrap().1.trim_end_matches("]}").to_owned();
    let both =
        of_text(KeyFormat::Tink, &format!(r#"{{"primaryKeyId":16909060,"key":[{},{}]}}"#, entry(&tink), entry(&raw)));
    let (id, _) = opened(&both, &seal(&of_text(KeyFormat::Tink, &raw), b"hello", 1)).unwrap();
    assert_eq!(id, key(2).id());
    let (id, _) = opened(&both, &seal(&of_text(KeyFormat::Tink, &tink), b"hello", 1)).unwrap();
    assert_eq!(id, key(1).id());
}

#[test]
fn keys_that_are_not_enabled_open_nothing() {
    for status in ["DISABLED", "DESTROYED"] {
        let (own, other) = (keyset(1, 1, "TINK"), keyset(2, 2, "TINK"));
        let entry = other.split_once('[').unwrap().1.replace("ENABLED", status);
        let both = own.replace("]}", &format!(",{entry}"));
        let ciphers = of_text(KeyFormat::Tink, &both);
        assert_eq!(ciphers.iter().count(), 1, "{status}");
        assert_eq!(open(&ciphers, &seal(&of_text(KeyFormat::Tink, &other), b"hello", 1)), None, "{status}");
    }
}
