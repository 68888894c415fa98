//! How keyrings are written: what is read, what is refused without showing a key, and what stays as it was.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use proptest::sample::Index;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::{Dates, Key, KeyFormat, Keyring, KeyringError, States};
use rotation::time::parse_timestamp;

use crate::keys::{
    CANARY_KEY, FIELD, FORMATS, assert_shows_no_part_of, bare, canary_key, in_json, key, key_from, keys, parse,
    same_id, standard, to_hex, url_safe, write,
};
use crate::{field, secret};

use self::keysets::{Entry, keyset};

mod kept;
mod keysets;
mod refused;

const RAW: &str = "expected 32 bytes in base64 (openssl rand -base64 32), base64url or hex";
const FERNET: &str = "expected a Fernet key: 32 bytes in base64url or base64 with padding, 44 characters";
const GCM: &str = "expected an AES-256-GCM key";

fn std64(seed: u64) -> String {
    standard(key(seed).material().expose())
}

fn url64(seed: u64) -> String {
    url_safe(key(seed).material().expose())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A JSON object of strings.
fn object(members: &[(&str, &str)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    format!("{{{}}}", members.join(","))
}

fn read(format: KeyFormat, in_json: bool, text: &str) -> Result<Keyring, RotationError> {
    let field = in_json.then(|| field(FIELD));
    let document = format.wire().document(secret(text), field.as_ref())?;
    let ring = format.wire().parse(&document);
    assert!(ring.is_err() || format.wire().ciphers(&document).is_ok(), "a ring has its ciphers");
    ring
}

/// The value is refused with this message, which shows no part of the canary.
#[track_caller]
fn refused(format: KeyFormat, in_json: bool, text: &str, message: &str) {
    let error = read(format, in_json, text).unwrap_err();
    for shown in [format!("{error}"), format!("{error:?}"), format!("{error:#?}")] {
        assert_shows_no_part_of(CANARY_KEY, &shown);
    }
    let told = error.to_string();
    let told = told.strip_prefix("the keyring is not usable: ").unwrap_or(&told);
    // What to do depends on the text, see what_is_no_key_is_refused_with_what_to_do.
    assert!(told == message || (message.ends_with(RAW) && told.starts_with(message)), "{told}, not {message}");
}

fn ids(ring: &Keyring) -> Vec<String> {
    ring.keys().map(|(_, key)| key.id().to_string()).collect()
}

// What is read.

#[test]
fn a_bare_key_is_a_ring_of_one_key_in_each_format() {
    for format in FORMATS {
        for in_json in [false, true] {
            let document = bare(format, in_json, &key(1));
            assert_eq!(read(format, in_json, document.text().expose()), Keyring::new(key(1)).map_err(Into::into));
        }
    }
}

#[test]
fn a_text_is_a_list_of_keys_with_the_primary_first() {
    let ring = Keyring::new(key(1)).unwrap().with_secondary(key(2)).unwrap().with_secondary(key(3)).unwrap();
    assert_eq!(read(KeyFormat::Raw, false, &[1, 2, 3].map(std64).join(",")), Ok(ring.clone()));
    assert_eq!(read(KeyFormat::Fernet, false, &[1, 2, 3].map(url64).join(",")), Ok(ring.clone()));
    assert_eq!(read(KeyFormat::Fernet, true, &object(&[(FIELD, &[1, 2, 3].map(url64).join(","))])), Ok(ring));
}

#[test]
fn raw_keys_have_a_member_for_each_state() {
    let members =
        [(FIELD, &*std64(1)), ("K_STAGED", &std64(2)), ("K_PREVIOUS", &[3, 4].map(std64).join(",")), ("port", "1")];
    let ring = Keyring::new(key(1)).unwrap().stage(key(2)).unwrap();
    let ring = ring.with_secondary(key(3)).unwrap().with_secondary(key(4)).unwrap();
    assert_eq!(read(KeyFormat::Raw, true, &object(&members)), Ok(ring));
}

#[test]
fn odd_layout_and_needless_escapes_are_read_as_meant() {
    let escaped = |text: &str| text.replace('=', "\\u003d").replace('/', "\\/").replace('+', "\\u002B");
    let ring = Keyring::new(canary_key()).unwrap();
    for (format, value) in [(KeyFormat::Raw, standard(CANARY_KEY)), (KeyFormat::Fernet, url_safe(CANARY_KEY))] {
        let odd = format!("\r\n{{\t\"x\" : [1e400,\r\n{{}}] ,\r\n \"\\u004b\"\r\n:\r\n\"{}\" }}\r\n", escaped(&value));
        assert_eq!(read(format, true, &odd), Ok(ring.clone()));
    }
    let pretty = keyset(7, &[Entry::of(7, CANARY_KEY).text()]).replace(',', " ,\r\n\t").replace(':', "\r\n: ");
    let pretty = pretty.replace("type.googleapis.com\r\n: ", "type.googleapis.com:");
    assert_eq!(read(KeyFormat::Tink, false, &pretty), Ok(ring.clone()));
    let inner = quoted(&pretty).replace('=', "\\u003D").replace('/', "\\/");
    assert_eq!(read(KeyFormat::Tink, true, &format!("{{ \"\\u004B\" : {inner} }}")), Ok(ring));
}

#[test]
fn name_ring_says_which_key_is_staged_and_since_when_in_lists() {
    let [primary, staged, other] = [1, 2, 3].map(|seed| key(seed).id());
    let ring_text = format!(
        r#"{{"keys":[{{"id":"{other}","state":"secondary","compromised":"2026-01-02T03:04:05Z"}},{{"id":"{staged}","state":"staged","created":"2026-11-24T00:00:00Z"}},{{"id":"{primary}","state":"primary","promoted":"2026-08-24T00:00:00.9Z"}}]}}"#
    );
    let at = |text| parse_timestamp(text);
    let none = Dates::default();
    let ring = Keyring::new(key(1).with_dates(Dates { promoted: at("2026-08-24T00:00:00Z"), ..none })).unwrap();
    let ring = ring.stage(key(2).with_dates(Dates { created: at("2026-11-24T00:00:00Z"), ..none })).unwrap();
    let compromised = Dates { compromised: at("2026-01-02T03:04:05Z"), ..none };
    let ring = ring.with_secondary(key(3).with_dates(compromised)).unwrap();

    let fernet = [1, 3, 2].map(url64).join(",");
    assert_eq!(read(KeyFormat::Fernet, true, &object(&[(FIELD, &fernet), ("K_RING", &ring_text)])), Ok(ring.clone()));
    let entries = [3, 2, 1].map(|seed| Entry::of(seed as u32, key(seed).material().expose()).text());
    let tink = keyset(1, &entries);
    assert_eq!(read(KeyFormat::Tink, true, &object(&[("K_RING", &ring_text), (FIELD, &tink)])), Ok(ring.clone()));
    let raw = [(FIELD, &*std64(1)), ("K_STAGED", &std64(2)), ("K_PREVIOUS", &std64(3)), ("K_RING", &ring_text)];
    assert_eq!(read(KeyFormat::Raw, true, &object(&raw)), Ok(ring));
}

#[test]
fn where_a_raw_key_stands_is_its_state_whatever_name_ring_says() {
    let ring_text = format!(
        r#"{{"keys":[{{"id":"{}","state":"staged","created":"2026-11-24T00:00:00Z"}},{{"id":"{}","state":"primary"}}]}}"#,
        key(1).id(),
        key(2).id()
    );
    // The application takes the first as its primary key, and the second as one that never will be.
    let members = [(FIELD, &*std64(1)), ("K_PREVIOUS", &std64(2)), ("K_RING", &ring_text)];
    let ring = read(KeyFormat::Raw, true, &object(&members)).unwrap();
    assert_eq!((ring.primary().id(), ring.staged(), ring.secondary()), (key(1).id(), None, &[key(2)][..]));

    let staged = ring_text.replace("primary", "secondary");
    let members = [(FIELD, &*std64(2)), ("K_PREVIOUS", &std64(1)), ("K_RING", &staged)];
    let ring = read(KeyFormat::Raw, true, &object(&members)).unwrap();
    assert_eq!((ring.primary().id(), ring.staged()), (key(2).id(), None));
    assert_eq!(ring.secondary()[0].dates().created, parse_timestamp("2026-11-24T00:00:00Z"));
}

#[test]
fn keys_that_name_ring_does_not_list_are_secondary() {
    let ring_text = format!(r#"{{"keys":[{{"id":"{}","state":"staged"}}]}}"#, key(2).id());
    for (format, name) in [
        (KeyFormat::Fernet, [1, 2, 3].map(url64).join(",")),
        (
            KeyFormat::Tink,
            keyset(1, &[1, 2, 3].map(|seed| Entry::of(seed as u32, key(seed).material().expose()).text())),
        ),
    ] {
        let ring = read(format, true, &object(&[(FIELD, &name), ("K_RING", &ring_text)])).unwrap();
        assert_eq!((ring.primary(), ring.staged(), ring.secondary()), (&key(1), Some(&key(2)), &[key(3)][..]));
    }
}

// What is refused.
