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
use rotation::rows::{Encoding, Form, Lines, Opened, Rewrapped, RowCodec, RowFormat, Untold};

use crate::fuzzed::targets::STORED;
use crate::keys::{bare, key, to_hex, write};

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
        Opened::Foreign => Err("foreign"),
    }
}

fn rewrapped(codec: &RowCodec<'_>, value: &[u8], aad: &[u8]) -> Rewrapped {
    codec.rewrap(value, aad, &mut StdRng::seed_from_u64(9))
}

fn aad_of(format: RowFormat) -> &'static [u8] {
    if format.takes_aad() { b"tenant-7" } else { b"" }
}

#[test]
fn value_under_an_old_key_is_rewrapped_and_names_that_key() {
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
fn what_is_no_ciphertext_of_the_format_is_foreign() {
    let keys = [key(1), key(2)];
    for (format, encoding) in STORED {
        let ciphers = ciphers(format, &keys);
        let codec = RowCodec::new(format, encoding, &ciphers);
        let value = stored(format, encoding, &key(2), b"text", b"", 4);
        let mut broken = vec![vec![], b"not a ciphertext".to_vec(), value[..20].to_vec()];
        if encoding != Encoding::Binary {
            broken.extend([[b" ", &value[..]].concat(), [&value[..8], b"\xff"].concat()]);
        }
        for broken in broken {
            assert_eq!(opened(&codec, &broken, b""), Err("foreign"), "{format:?} {broken:?}");
            assert_eq!(rewrapped(&codec, &broken, b""), Rewrapped::Foreign);
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
        assert_eq!(opened(&codec, wrong.as_bytes(), b""), Err("foreign"), "{wrong}");
    }
    let empty = stored(RowFormat::AesGcmHex, Encoding::Base64, &key(1), b"", b"", 4);
    assert_eq!(opened(&codec, &empty, b""), Ok((key(1).id(), vec![])));
}

#[test]
fn unopened_value_is_damaged_if_it_names_its_key_else_unknown() {
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
fn value_does_not_open_with_the_data_of_another_row() {
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
fn associated_data_of_columns_is_never_that_of_others() {
    assert_eq!(associated_data(&[]), b"");
    assert_eq!(associated_data(&[b"42"]), b"42");
    assert_eq!(associated_data(&[b"tenant", b"42"]), b"6:tenant,2:42,");
    assert_ne!(associated_data(&[b"ab", b"c"]), associated_data(&[b"a", b"bc"]));
    assert_ne!(associated_data(&[b"a,1:b", b""]), associated_data(&[b"a", b"b", b""]));
}

#[test]
fn time_in_a_fernet_token_is_kept_even_an_impossible_one() {
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
fn base64_keeps_the_padding_and_alphabet_of_the_old_value() {
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
fn key_without_a_prefix_opens_what_looks_like_another_keys() {
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
        prop_assert!(matches!(rewrapped(&codec, &bytes, b""), Rewrapped::Unknown | Rewrapped::Damaged | Rewrapped::Foreign));
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

/// A keyset's keys with these output prefixes, in their order.
fn prefixed(keys: &[Key], prefixes: [&str; 2]) -> Ciphers {
    let mut text = ring(KeyFormat::Tink, keys).text().expose().to_owned();
    for (key, prefix) in keys.iter().zip(prefixes) {
        let of_key = |prefix| format!("\"keyId\":{},\"outputPrefixType\":\"{prefix}\"", key.id().number());
        text = text.replace(&of_key("TINK"), &of_key(prefix));
    }
    let document = KeyFormat::Tink.wire().document(crate::secret(&text), None).unwrap();
    KeyFormat::Tink.wire().ciphers(&document).unwrap()
}

/// How an application writes the bytes of its ciphertexts, and the strict reader of just that.
#[derive(Clone, Copy, Debug)]
struct Written {
    encoding: Encoding,
    padded: bool,
    upper_case: bool,
    /// Characters of a line, and whether lines end in CR LF.
    lines: Option<(usize, bool)>,
    /// Whether the last line ends as well.
    ends: bool,
}

impl Written {
    fn line_break(self) -> &'static str {
        if self.lines.is_some_and(|(_, crlf)| crlf) { "\r\n" } else { "\n" }
    }

    fn write(self, format: RowFormat, bytes: &[u8]) -> Vec<u8> {
        let text = match (format, self.encoding, self.padded) {
            (RowFormat::Fernet, ..) => return URL_SAFE.encode(bytes).into_bytes(),
            (RowFormat::AesGcmHex, ..) => {
                let text = String::from_utf8(written(format, self.encoding, bytes)).unwrap();
                return if self.upper_case { text.to_uppercase() } else { text }.into_bytes();
            }
            (_, Encoding::Binary, _) => return bytes.to_vec(),
            (_, Encoding::Base64, true) => STANDARD.encode(bytes),
            (_, Encoding::Base64, false) => STANDARD_NO_PAD.encode(bytes),
            (_, Encoding::Base64Url, true) => URL_SAFE.encode(bytes),
            (_, Encoding::Base64Url, false) => URL_SAFE_NO_PAD.encode(bytes),
        };
        let Some((width, _)) = self.lines else { return text.into_bytes() };
        let lines: Vec<&str> = text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let end = if self.ends { self.line_break() } else { "" };
        (lines.join(self.line_break()) + end).into_bytes()
    }

    /// The bytes of a text that is written just so, and of no other.
    fn read(self, format: RowFormat, stored: &[u8]) -> Option<Vec<u8>> {
        let bytes = match (format, self.encoding) {
            (RowFormat::Fernet, _) => URL_SAFE.decode(stored).ok()?,
            (RowFormat::AesGcmHex, _) => {
                let text = std::str::from_utf8(stored).ok()?;
                let parts: Vec<Vec<u8>> = text.split(':').map(crate::keys::from_hex).collect();
                [&parts[0][..], &parts[2], &parts[1]].concat()
            }
            (_, Encoding::Binary) => stored.to_vec(),
            (_, encoding) => {
                let text: Vec<u8> = stored.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
                match (encoding, self.padded) {
                    (Encoding::Base64, true) => STANDARD.decode(text),
                    (Encoding::Base64, false) => STANDARD_NO_PAD.decode(text),
                    (_, true) => URL_SAFE.decode(text),
                    (_, false) => URL_SAFE_NO_PAD.decode(text),
                }
                .ok()?
            }
        };
        (self.write(format, &bytes) == stored).then_some(bytes)
    }
}

fn any_written() -> impl Strategy<Value = Written> {
    let encodings = prop_oneof![Just(Encoding::Binary), Just(Encoding::Base64), Just(Encoding::Base64Url)];
    // 60 is Ruby's, 64 that of OpenSSL, 76 that of MIME and Python.
    let lines = proptest::option::of((prop_oneof![Just(60_usize), Just(64), Just(76)], any::<bool>()));
    (encodings, any::<bool>(), any::<bool>(), lines, any::<bool>())
        .prop_map(|(encoding, padded, upper_case, lines, ends)| Written { encoding, padded, upper_case, lines, ends })
}

#[test]
fn padding_stays_when_the_new_key_has_another_prefix() {
    let keys = [key(1), key(2)];
    let mut broken = 0;
    for prefixes in [["TINK", "RAW"], ["RAW", "TINK"]] {
        let ciphers = prefixed(&keys, prefixes);
        let codec = RowCodec::new(RowFormat::Tink, Encoding::Base64, &ciphers);
        let values: Vec<String> = (0..300)
            .map(|length| {
                let rng = &mut StdRng::seed_from_u64(length);
                let cipher = ciphers.get(key(2).id()).unwrap();
                STANDARD.encode(cipher.seal_bytes(&vec![7; length as usize], b"", 0, rng).unwrap())
            })
            .collect();
        let form = values.iter().fold(Form::default(), |form, value| form.and(codec.form_of(value.as_bytes())));
        let codec = codec.knowing(form);
        broken += values
            .iter()
            .filter(|value| match rewrapped(&codec, value.as_bytes(), b"") {
                Rewrapped::Anew { stored, .. } => STANDARD.decode(stored).is_err(),
                _ => true,
            })
            .count();
    }
    assert_eq!(broken, 0, "of 600 values are not padded");
}

#[test]
fn a_form_that_nothing_tells_is_not_guessed() {
    let keys = [key(1), key(2)];
    let ciphers = prefixed(&keys, ["TINK", "RAW"]);
    let sealed = |length: usize| {
        let cipher = ciphers.get(key(2).id()).unwrap();
        cipher.seal_bytes(&vec![7; length], b"", 0, &mut StdRng::seed_from_u64(1)).unwrap()
    };
    let codec = || RowCodec::new(RowFormat::Tink, Encoding::Base64, &ciphers);
    // 30 bytes are 40 characters, padded or not; with the prefix of the primary key they are 35.
    let value = STANDARD.encode(sealed(2));
    let untold = |codec: RowCodec<'_>, value: &str| match rewrapped(&codec, value.as_bytes(), b"") {
        Rewrapped::Untold(untold) => Some(untold),
        Rewrapped::Anew { .. } => None,
        other => panic!("{other:?}"),
    };
    let form = Form { alphabet: true, ..Form::default() };
    assert_eq!(untold(codec(), &value), Some(Untold::Padding));
    assert_eq!(untold(codec().knowing(Form { padded: true, unpadded: true, ..form }), &value), Some(Untold::Padding));
    assert_eq!(untold(codec().knowing(Form { padded: true, ..form }), &value), None);
    // A line that ends tells that lines are at least so long.
    let line = format!("{}\n", STANDARD.encode(sealed(3)));
    let padded = Form { padded: true, ..form };
    assert_eq!(untold(codec().knowing(padded), &line), Some(Untold::Lines));
    let of = |width| Form { lines: Lines::Of { width, crlf: false }, ..padded };
    assert_eq!(untold(codec().knowing(Form { lines: Lines::Differ, ..padded }), &line), Some(Untold::Lines));
    assert_eq!(untold(codec().knowing(of(60)), &line), None);
}

#[test]
fn a_column_that_shows_no_alphabet_gets_a_value_that_shows_none() {
    let keys = [key(1), key(2)];
    let ciphers = ciphers(RowFormat::AesGcm, &keys);
    let shows = |text: &[u8]| text.iter().any(|byte| b"+/-_".contains(byte));
    let unconfigured = RowCodec::new(RowFormat::AesGcm, Encoding::Base64, &ciphers).knowing(Form::default());
    let mut quiet = (0..).map(|seed| {
        let bytes = stored(RowFormat::AesGcm, Encoding::Binary, &key(2), b"text", b"", seed);
        URL_SAFE.encode(bytes)
    });
    for _ in 0..20 {
        let value = quiet.find(|value| !shows(value.as_bytes())).unwrap();
        let Rewrapped::Anew { stored, .. } = rewrapped(&unconfigured, value.as_bytes(), b"") else { panic!("{value}") };
        assert!(!shows(&stored) && URL_SAFE.decode(stored).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_stored_reads_back_by_a_strict_reader_of_the_old_form(
        format in prop_oneof![
            Just(RowFormat::Fernet), Just(RowFormat::Tink), Just(RowFormat::AesGcm), Just(RowFormat::AesGcmHex)
        ],
        written in any_written(),
        prefixes in prop_oneof![Just(["TINK", "RAW"]), Just(["RAW", "TINK"]), Just(["TINK", "TINK"]), Just(["RAW", "RAW"])],
        lengths in proptest::collection::vec(0..300_usize, 8),
        seed in any::<u64>(),
    ) {
        let keys = [key(1), key(2)];
        let ciphers = if format == RowFormat::Tink { prefixed(&keys, prefixes) } else { ciphers(format, &keys) };
        let rng = &mut StdRng::seed_from_u64(seed);
        let old = ciphers.get(key(2).id()).unwrap();
        // Three lengths in a row, so that one shows the padding, and one that needs several lines.
        let lengths = lengths.into_iter().chain([100, 101, 102]);
        let values: Vec<(Vec<u8>, Vec<u8>)> = lengths
            .map(|length| {
                let text = vec![7; length];
                let bytes = old.seal_bytes(&text, b"", 1_700_000_000, rng).unwrap();
                (written.write(format, &bytes), text)
            })
            .collect();
        let codec = RowCodec::new(format, written.encoding, &ciphers);
        let form = values.iter().fold(Form::default(), |form, (value, _)| form.and(codec.form_of(value)));
        let codec = codec.knowing(Form { alphabet: true, ..form });
        let primary = ciphers.get(key(1).id()).unwrap();
        for (value, text) in values {
            let Rewrapped::Anew { stored, .. } = codec.rewrap(&value, b"", rng) else {
                return Err(TestCaseError::fail(format!("{:?}", String::from_utf8_lossy(&value))));
            };
            let bytes = written.read(format, &stored);
            prop_assert!(bytes.is_some(), "{:?} became {:?}", String::from_utf8_lossy(&value), String::from_utf8_lossy(&stored));
            prop_assert_eq!(primary.open_bytes(&bytes.unwrap(), b"").map(|text| text.to_vec()), Some(text));
        }
    }
}
