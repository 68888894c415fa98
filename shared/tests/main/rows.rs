//! Stored values: under which key they are, and that nothing of them but the key changes.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyId, Keyring};
use rotation::rows::aad::associated_data;
use rotation::rows::{Encoding, Opened, Rewrapped, RowCodec, RowFormat};

use crate::keys::{bare, key, to_hex, write};

/// Every way of storing a value.
const STORED: [(RowFormat, Encoding); 8] = [
    (RowFormat::Fernet, Encoding::Base64Url),
    (RowFormat::Tink, Encoding::Binary),
    (RowFormat::Tink, Encoding::Base64),
    (RowFormat::Tink, Encoding::Base64Url),
    (RowFormat::AesGcm, Encoding::Binary),
    (RowFormat::AesGcm, Encoding::Base64),
    (RowFormat::AesGcm, Encoding::Base64Url),
    (RowFormat::AesGcmHex, Encoding::Base64),
];

fn ring(format: KeyFormat, keys: &[Key]) -> Document {
    let ring = Keyring::new(keys[0].clone()).unwrap();
    let ring = keys[1..].iter().fold(ring, |ring, key| ring.with_secondary(key.clone()).unwrap());
    let last = bare(format, false, &keys[keys.len() - 1]);
    write(format, &last, &ring)
}

fn ciphers(format: RowFormat, keys: &[Key]) -> Ciphers {
    format.ring().wire().ciphers(&ring(format.ring(), keys)).unwrap()
}

fn written(format: RowFormat, encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
    match (format, encoding) {
        (RowFormat::Fernet, _) => URL_SAFE.encode(bytes).into_bytes(),
        (RowFormat::AesGcmHex, _) => {
            let (nonce, sealed) = bytes.split_at(12);
            let (text, tag) = sealed.split_at(sealed.len() - 16);
            format!("{}:{}:{}", to_hex(nonce), to_hex(tag), to_hex(text)).into_bytes()
        }
        (_, Encoding::Binary) => bytes.to_vec(),
        (_, Encoding::Base64) => STANDARD.encode(bytes).into_bytes(),
        (_, Encoding::Base64Url) => URL_SAFE.encode(bytes).into_bytes(),
    }
}

/// A value that an application with `key` alone has stored.
fn stored(format: RowFormat, encoding: Encoding, key: &Key, text: &[u8], aad: &[u8], seed: u64) -> Vec<u8> {
    let ciphers = ciphers(format, std::slice::from_ref(key));
    let cipher = ciphers.get(key.id()).unwrap();
    let bytes = cipher.seal_bytes(text, aad, 1_700_000_000, &mut StdRng::seed_from_u64(seed)).unwrap();
    written(format, encoding, &bytes)
}

fn opened(codec: &RowCodec<'_>, value: &[u8], aad: &[u8]) -> Result<(KeyId, Vec<u8>), &'static str> {
    match codec.open(value, aad) {
        Opened::Under(id, text) => Ok((id, text.to_vec())),
        Opened::Unknown => Err("unknown"),
        Opened::Damaged => Err("damaged"),
    }
}

fn rewrapped(codec: &RowCodec<'_>, value: &[u8], aad: &[u8]) -> Rewrapped {
    codec.rewrap(value, aad, &mut StdRng::seed_from_u64(9))
}

fn aad_of(format: RowFormat) -> &'static [u8] {
    if format.takes_aad() { b"tenant-7" } else { b"" }
}

#[test]
fn a_value_under_an_old_key_is_encrypted_again_under_the_primary_and_says_which_key_it_was() {
    let keys = [key(1), key(2), key(3)];
    for (format, encoding) in STORED {
        let (ciphers, aad) = (ciphers(format, &keys), aad_of(format));
        let codec = RowCodec::new(format, encoding, &ciphers);
        for old in &keys[1..] {
            let value = stored(format, encoding, old, b"an OAuth token", aad, 4);
            assert_eq!(opened(&codec, &value, aad), Ok((old.id(), b"an OAuth token".to_vec())), "{format:?}");
            let Rewrapped::Anew { from, stored: new } = rewrapped(&codec, &value, aad) else { panic!("{format:?}") };
            assert_eq!(from, old.id());
            assert_eq!(new.len(), value.len());
            assert_eq!(opened(&codec, &new, aad), Ok((keys[0].id(), b"an OAuth token".to_vec())));
            assert_eq!(rewrapped(&codec, &new, aad), Rewrapped::UnderPrimary);
        }
    }
}

#[test]
fn a_value_under_a_key_that_the_ring_lacks_is_unknown_and_stays() {
    for (format, encoding) in STORED {
        let (ciphers, aad) = (ciphers(format, &[key(1), key(2)]), aad_of(format));
        let codec = RowCodec::new(format, encoding, &ciphers);
        let value = stored(format, encoding, &key(3), b"text", aad, 4);
        assert_eq!(opened(&codec, &value, aad), Err("unknown"), "{format:?}");
        assert_eq!(rewrapped(&codec, &value, aad), Rewrapped::Unknown);
    }
}

#[test]
fn what_is_no_ciphertext_of_the_format_is_damaged() {
    let keys = [key(1), key(2)];
    for (format, encoding) in STORED {
        let ciphers = ciphers(format, &keys);
        let codec = RowCodec::new(format, encoding, &ciphers);
        let value = stored(format, encoding, &key(2), b"text", b"", 4);
        let mut broken = vec![vec![], b"not a ciphertext".to_vec(), value[..20].to_vec()];
        if encoding != Encoding::Binary {
            broken.extend([[&value[..], b"\n"].concat(), [b" ", &value[..]].concat(), [&value[..8], b"\xff"].concat()]);
        }
        for broken in broken {
            assert_eq!(opened(&codec, &broken, b""), Err("damaged"), "{format:?} {broken:?}");
            assert_eq!(rewrapped(&codec, &broken, b""), Rewrapped::Damaged);
        }
    }
}

#[test]
fn hexadecimal_parts_are_read_in_both_cases_and_nothing_else_is() {
    let ciphers = ciphers(RowFormat::AesGcmHex, &[key(1)]);
    let codec = RowCodec::new(RowFormat::AesGcmHex, Encoding::Base64, &ciphers);
    let value = String::from_utf8(stored(RowFormat::AesGcmHex, Encoding::Base64, &key(1), b"text", b"", 4)).unwrap();
    assert!(opened(&codec, value.to_uppercase().as_bytes(), b"").is_ok());
    let parts: Vec<&str> = value.split(':').collect();
    for wrong in [
        format!("{value}:"),
        format!("{value}0"),
        format!(":{value}"),
        format!("{}:{}", parts[0], parts[1]),
        format!("{}:{}:{}", parts[1], parts[0], parts[2]),
        value.replace(':', ";"),
        format!("{}g", &value[..value.len() - 1]),
    ] {
        assert_eq!(opened(&codec, wrong.as_bytes(), b""), Err("damaged"), "{wrong}");
    }
    let empty = stored(RowFormat::AesGcmHex, Encoding::Base64, &key(1), b"", b"", 4);
    assert_eq!(opened(&codec, &empty, b""), Ok((key(1).id(), vec![])));
}

#[test]
fn a_value_that_names_its_key_and_does_not_open_is_damaged_and_one_that_names_none_is_unknown() {
    let keys = [key(1), key(2)];
    for format in [RowFormat::Tink, RowFormat::AesGcm] {
        let ciphers = ciphers(format, &keys);
        let codec = RowCodec::new(format, Encoding::Binary, &ciphers);
        let mut value = stored(format, Encoding::Binary, &key(2), b"text", b"", 4);
        *value.last_mut().unwrap() ^= 1;
        let expected = if format == RowFormat::Tink { "damaged" } else { "unknown" };
        assert_eq!(opened(&codec, &value, b""), Err(expected));
    }
    // A token whose signature is right, and whose text is not padded as it must be: made with the keys, and wrongly.
    let ciphers = ciphers(RowFormat::Fernet, &keys);
    let codec = RowCodec::new(RowFormat::Fernet, Encoding::Base64Url, &ciphers);
    let token = URL_SAFE.decode(stored(RowFormat::Fernet, Encoding::Base64Url, &key(2), b"text", b"", 4)).unwrap();
    let mut signed = token[..token.len() - 32].to_vec();
    *signed.last_mut().unwrap() ^= 1;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&key(2).material().expose()[..16]).unwrap();
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    let badly_padded = URL_SAFE.encode([&signed[..], &signature].concat());
    assert_eq!(opened(&codec, badly_padded.as_bytes(), b""), Err("damaged"));
    let mut unsigned = token;
    *unsigned.last_mut().unwrap() ^= 1;
    assert_eq!(opened(&codec, URL_SAFE.encode(unsigned).as_bytes(), b""), Err("unknown"));
}

#[test]
fn a_value_does_not_open_with_the_associated_data_of_another_row() {
    let keys = [key(1), key(2)];
    for (format, encoding) in STORED.into_iter().filter(|(format, _)| format.takes_aad()) {
        let ciphers = ciphers(format, &keys);
        let codec = RowCodec::new(format, encoding, &ciphers);
        let value = stored(format, encoding, &key(2), b"text", b"row 1", 4);
        let expected = if format == RowFormat::Tink { "damaged" } else { "unknown" };
        assert_eq!(opened(&codec, &value, b"row 2"), Err(expected));
        let Rewrapped::Anew { stored: new, .. } = rewrapped(&codec, &value, b"row 1") else { panic!("{format:?}") };
        assert_eq!(opened(&codec, &new, b"row 2"), Err(expected));
        assert!(opened(&codec, &new, b"row 1").is_ok());
    }
}

#[test]
fn associated_data_of_one_column_is_its_value_and_of_several_is_not_that_of_any_others() {
    assert_eq!(associated_data(&[]), b"");
    assert_eq!(associated_data(&[b"42"]), b"42");
    assert_eq!(associated_data(&[b"tenant", b"42"]), b"6:tenant,2:42,");
    assert_ne!(associated_data(&[b"ab", b"c"]), associated_data(&[b"a", b"bc"]));
    assert_ne!(associated_data(&[b"a,1:b", b""]), associated_data(&[b"a", b"b", b""]));
}

#[test]
fn the_time_in_a_fernet_token_is_kept_even_one_that_no_clock_can_show() {
    let keys = [key(1), key(2)];
    let ciphers = ciphers(RowFormat::Fernet, &keys);
    let codec = RowCodec::new(RowFormat::Fernet, Encoding::Base64Url, &ciphers);
    for seconds in [0, 1_700_000_000, u64::MAX] {
        let old = ciphers.get(key(2).id()).unwrap();
        let token = old.seal_bytes(b"text", b"", seconds, &mut StdRng::seed_from_u64(1)).unwrap();
        let Rewrapped::Anew { stored, .. } = rewrapped(&codec, URL_SAFE.encode(token).as_bytes(), b"") else {
            panic!("{seconds}")
        };
        assert_eq!(URL_SAFE.decode(stored).unwrap()[1..9], seconds.to_be_bytes());
    }
}

#[test]
fn base64_is_padded_as_the_old_value_was_and_stays_in_its_alphabet() {
    let keys = [key(1), key(2)];
    for format in [RowFormat::Tink, RowFormat::AesGcm] {
        let ciphers = ciphers(format, &keys);
        for length in 0..6 {
            let bytes = stored(format, Encoding::Binary, &key(2), &b"texts"[..length.min(5)], b"", 4);
            for (encoding, value) in [
                (Encoding::Base64, STANDARD.encode(&bytes)),
                (Encoding::Base64, STANDARD_NO_PAD.encode(&bytes)),
                (Encoding::Base64Url, URL_SAFE.encode(&bytes)),
                (Encoding::Base64Url, URL_SAFE_NO_PAD.encode(&bytes)),
            ] {
                let codec = RowCodec::new(format, encoding, &ciphers);
                let Rewrapped::Anew { stored: new, .. } = rewrapped(&codec, value.as_bytes(), b"") else {
                    panic!("{format:?} {value}")
                };
                assert_eq!((new.len(), new.ends_with(b"=")), (value.len(), value.ends_with('=')));
                let foreign = if encoding == Encoding::Base64 { b"-_" } else { b"+/" };
                assert!(!new.iter().any(|byte| foreign.contains(byte)));
            }
        }
    }
}

#[test]
fn a_key_of_a_keyset_without_a_prefix_opens_what_begins_like_another_keys_ciphertext() {
    // Output prefix RAW for the primary, and TINK for the other.
    let ring = ring(KeyFormat::Tink, &[key(1), key(2)]);
    let text = ring.text().expose().to_owned();
    let number = key(1).id().number().to_string();
    let at = text.find(&format!("\"keyId\":{number},\"outputPrefixType\":\"TINK\"")).unwrap();
    let raw = format!("{}{}", &text[..at], text[at..].replacen("TINK", "RAW", 1));
    let document = KeyFormat::Tink.wire().document(crate::secret(&raw), None).unwrap();
    let ciphers = KeyFormat::Tink.wire().ciphers(&document).unwrap();
    let codec = RowCodec::new(RowFormat::Tink, Encoding::Binary, &ciphers);
    let named = stored(RowFormat::Tink, Encoding::Binary, &key(2), b"text", b"", 1);
    let unnamed = stored(RowFormat::AesGcm, Encoding::Binary, &key(1), b"text", b"", 1);
    assert_eq!(opened(&codec, &named, b"").unwrap().0, key(2).id());
    assert_eq!(opened(&codec, &unnamed, b"").unwrap().0, key(1).id());
    let Rewrapped::Anew { stored: new, .. } = rewrapped(&codec, &named, b"") else { panic!() };
    assert_eq!(new.len() + 5, named.len(), "the primary key's ciphertexts have no prefix");
    assert_eq!(opened(&codec, &new, b"").unwrap().0, key(1).id());
}

#[test]
fn no_key_and_no_text_is_shown() {
    let value = stored(RowFormat::AesGcm, Encoding::Base64, &crate::keys::canary_key(), b"text", b"", 1);
    let ciphers = ciphers(RowFormat::AesGcm, &[key(1), crate::keys::canary_key()]);
    let codec = RowCodec::new(RowFormat::AesGcm, Encoding::Base64, &ciphers);
    crate::keys::assert_shows_no_part_of(
        crate::keys::CANARY_KEY,
        &format!("{codec:?} {:?}", rewrapped(&codec, &value, b"")),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives_any_number_of_rotations(
        text in proptest::collection::vec(any::<u8>(), 0..300),
        which in 0..STORED.len(),
        rotations in 1_u64..5,
    ) {
        let (format, encoding) = STORED[which];
        let mut value = stored(format, encoding, &key(1), &text, b"", 7);
        for round in 1..=rotations {
            let ciphers = ciphers(format, &[key(round + 1), key(round)]);
            let codec = RowCodec::new(format, encoding, &ciphers);
            let Rewrapped::Anew { stored, .. } = codec.rewrap(&value, b"", &mut StdRng::seed_from_u64(round)) else {
                panic!("{format:?}")
            };
            value = stored;
            prop_assert_eq!(opened(&codec, &value, b""), Ok((key(round + 1).id(), text.clone())));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_open(bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0..STORED.len()) {
        let (format, encoding) = STORED[which];
        let ciphers = ciphers(format, &[key(1), key(2)]);
        let codec = RowCodec::new(format, encoding, &ciphers);
        prop_assert!(opened(&codec, &bytes, b"").is_err());
        prop_assert!(matches!(rewrapped(&codec, &bytes, b""), Rewrapped::Unknown | Rewrapped::Damaged));
    }
}

#[test]
fn a_time_before_1970_is_sealed_as_1970() {
    let ciphers = ciphers(RowFormat::Fernet, &[key(1)]);
    let cipher = ciphers.get(key(1).id()).unwrap();
    let early = SystemTime::UNIX_EPOCH - Duration::from_secs(10);
    let token = cipher.seal(b"text", early, &mut StdRng::seed_from_u64(1)).unwrap();
    assert_eq!(URL_SAFE.decode(token).unwrap()[1..9], [0; 8]);
}
