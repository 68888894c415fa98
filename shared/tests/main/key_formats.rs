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

/// What is no list of keys, in the alphabet of a format: the text, and what is said of it.
fn malformed_lists(encode: fn(&[u8]) -> String, place: &str, expected: &str) -> Vec<(String, String)> {
    let canary = encode(CANARY_KEY);
    let more = [&CANARY_KEY[..], b"!"].concat();
    let says = |number: usize, problem: &str| format!("key {number} of {place} is {problem}: {expected}");
    let unlike = |characters: usize| format!("{characters} characters that are not of this form");
    // The last character before the padding has two bits that mean nothing, and must be zero.
    let loose = format!("{}B=", &canary[..42]);
    assert_eq!(&canary[42..], "A=");
    let long = canary.repeat(30);
    vec![
        (encode(&CANARY_KEY[..31]), says(1, "31 bytes long")),
        (encode(&more), says(1, "33 bytes long")),
        (encode(&CANARY_KEY[..16]), says(1, "16 bytes long")),
        (format!(" {canary}"), says(1, "surrounded by white space")),
        (format!("{canary}\n"), says(1, "surrounded by white space")),
        (format!("{canary}\u{a0}"), says(1, "surrounded by white space")),
        (" ".to_owned(), says(1, "surrounded by white space")),
        (format!("{}\n{}", &canary[..20], &canary[20..]), says(1, &unlike(45))),
        (format!("{}-+", &canary[..42]), says(1, &unlike(44))),
        (format!("{canary}="), says(1, &unlike(45))),
        (loose, says(1, &unlike(44))),
        (String::from_utf8(CANARY_KEY.to_vec()).unwrap(), says(1, "32 characters of text")),
        (to_hex(&CANARY_KEY[..16]), says(1, "32 characters of text, or 16 bytes in hex")),
        (format!("{canary};{canary}"), says(1, &unlike(89))),
        (format!("{}é", &canary[..42]), says(1, &unlike(44))),
        (long, says(1, &format!("{} characters long", 30 * 44))),
    ]
}

/// What is no list, though each of its items is a key.
fn broken_lists(encode: fn(&[u8]) -> String, place: &str, expected: &str) -> Vec<(String, String)> {
    let (canary, one) = (encode(CANARY_KEY), encode(key(1).material().expose()));
    let empty = |number: usize| format!("key {number} of {place} is empty: {expected}");
    let [same, other] = same_id().map(|key| encode(key.material().expose()));
    vec![
        (",".to_owned(), empty(1)),
        (format!(",{canary}"), empty(1)),
        (format!("{canary},"), empty(2)),
        (format!("{canary},,{one}"), empty(2)),
        (format!("{canary} ,{one}"), format!("key 1 of {place} is surrounded by white space: {expected}")),
        (format!("{canary}, {one} "), format!("key 2 of {place} is surrounded by white space: {expected}")),
        (format!("{canary},\u{a0}{one}"), format!("key 2 of {place} is surrounded by white space: {expected}")),
        (
            format!("{canary},{one},{}", encode(&CANARY_KEY[..31])),
            format!("key 3 of {place} is 31 bytes long: {expected}"),
        ),
        (encode(&[0; 32]), "key 2a0626a4 is all zero: it protects nothing; replace it".to_owned()),
        (
            format!("{canary},{}", encode(&[0; 32])),
            "key 2a0626a4 is all zero: it protects nothing; replace it".to_owned(),
        ),
        (format!("{canary},{one},{canary}"), duplicate(&canary_key())),
        (
            format!("{canary},{same},{other}"),
            "two different keys have the id 8bcd2844: they could not be told apart; replace the one that no row needs"
                .to_owned(),
        ),
    ]
}

fn duplicate(key: &Key) -> String {
    format!("key {} stands in the keyring twice: remove one of them", key.id())
}

#[test]
fn a_malformed_raw_key_is_named_by_its_place_and_never_shown() {
    let value = "the value";
    for (text, message) in malformed_lists(standard, value, RAW).into_iter().chain(broken_lists(standard, value, RAW)) {
        refused(KeyFormat::Raw, false, &text, &message);
    }
    for (text, message) in malformed_lists(standard, "member K", RAW) {
        refused(KeyFormat::Raw, true, &object(&[(FIELD, &text)]), &message);
    }
    let list = [1, 2].map(std64).join(",");
    let message = format!("key 1 of member K is 89 characters that are not of this form: {RAW}");
    refused(KeyFormat::Raw, true, &object(&[(FIELD, &list)]), &message);
    for (text, message) in malformed_lists(standard, "member K_STAGED", RAW) {
        refused(KeyFormat::Raw, true, &object(&[(FIELD, &std64(9)), ("K_STAGED", &text)]), &message);
    }
    let previous = "member K_PREVIOUS";
    for (text, message) in
        malformed_lists(standard, previous, RAW).into_iter().chain(broken_lists(standard, previous, RAW))
    {
        refused(KeyFormat::Raw, true, &object(&[(FIELD, &std64(9)), ("K_PREVIOUS", &text)]), &message);
    }
}

#[test]
fn a_malformed_fernet_key_is_named_by_its_place_and_never_shown() {
    for (in_json, place) in [(false, "the value"), (true, "member K")] {
        let lists = malformed_lists(url_safe, place, FERNET);
        for (text, message) in lists.into_iter().chain(broken_lists(url_safe, place, FERNET)) {
            let value = if in_json { object(&[(FIELD, &text)]) } else { text };
            refused(KeyFormat::Fernet, in_json, &value, &message);
        }
    }
}

#[test]
fn a_fernet_key_in_hex_or_without_padding_is_refused() {
    // No software that takes Fernet keys reads them.
    for (text, characters) in [(to_hex(CANARY_KEY), 64), (url_safe(CANARY_KEY).trim_end_matches('=').to_owned(), 43)] {
        let message = format!("key 1 of the value is {characters} characters that are not of this form: {FERNET}");
        refused(KeyFormat::Fernet, false, &text, &message);
    }
}

#[test]
fn what_is_no_key_is_refused_with_what_to_do() {
    let key = standard(CANARY_KEY);
    for (text, problem, what_to_do) in [
        ("correct horse battery staple", "28 characters that are not", "a passphrase or a key of another length"),
        (&standard(&CANARY_KEY[..16]), "16 bytes long", "encrypt again what is under this one"),
        (&to_hex(&CANARY_KEY[..16]), "32 characters of text, or 16 bytes in hex", "store the base64 of them"),
        ("an0ther-32-characters-long-text!", "32 characters of text", "store the base64 of them"),
        (&format!("{key}\n"), "surrounded by white space", "printf writes no line break"),
        (&format!("hex:{}", to_hex(CANARY_KEY)), "68 characters that are not", "or hex; a passphrase"),
    ] {
        let error = read(KeyFormat::Raw, true, &object(&[(FIELD, text)])).unwrap_err();
        assert_eq!(error.name(), "KeyringInvalid");
        let told = error.to_string();
        assert!(told.contains(problem) && told.contains(what_to_do) && told.contains("member K"), "{told}");
        assert_shows_no_part_of(CANARY_KEY, &told);
    }
}

/// A way in which keys are written in the field, and how a reader of that way alone reads it.
#[derive(Clone, Copy, Debug)]
struct Way {
    encode: fn(&[u8]) -> String,
    decode: fn(&str) -> Option<Vec<u8>>,
}

fn hex(text: &str, digits: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| digits.find(text.get(at..=at)?).and_then(|digit| u8::try_from(digit).ok());
    let at = 0..text.len() / 2;
    at.map(|byte| Some(digit(2 * byte)? << 4 | digit(2 * byte + 1)?)).collect()
}

/// With readers that take nothing else, and Laravel's prefix.
const WAYS: [Way; 7] = [
    Way { encode: standard, decode: |text| STANDARD.decode(text).ok() },
    Way { encode: |key| STANDARD_NO_PAD.encode(key), decode: |text| STANDARD_NO_PAD.decode(text).ok() },
    Way { encode: url_safe, decode: |text| URL_SAFE.decode(text).ok() },
    Way { encode: |key| URL_SAFE_NO_PAD.encode(key), decode: |text| URL_SAFE_NO_PAD.decode(text).ok() },
    Way { encode: to_hex, decode: |text| hex(text, "0123456789abcdef") },
    Way { encode: |key| to_hex(key).to_uppercase(), decode: |text| hex(text, "0123456789ABCDEF") },
    Way {
        encode: |key| format!("base64:{}", standard(key)),
        decode: |text| STANDARD.decode(text.strip_prefix("base64:")?).ok(),
    },
];

/// The value of a ring as its owner wrote it: no dates, and a list with white space after its commas or without.
fn by_hand(format: KeyFormat, in_json: bool, way: Way, space: &str, ring: &Keyring) -> Document {
    let list = |keys: &mut dyn Iterator<Item = &Key>| {
        let texts: Vec<_> = keys.map(|key| (way.encode)(key.material().expose())).collect();
        texts.join(&format!(",{space}"))
    };
    let all = list(&mut ring.keys().map(|(_, key)| key));
    let text = match (in_json, format) {
        (false, _) => all,
        (true, KeyFormat::Fernet) => object(&[(FIELD, &all), ("other", "x")]),
        (true, _) => {
            let primary = list(&mut std::iter::once(ring.primary()));
            let (staged, previous) = (list(&mut ring.staged().into_iter()), list(&mut ring.secondary().iter()));
            let members = [(FIELD, &*primary), ("K_STAGED", &*staged), ("other", "x"), ("K_PREVIOUS", &*previous)];
            object(&members.into_iter().filter(|(_, text)| !text.is_empty()).collect::<Vec<_>>())
        }
    };
    format.wire().document(secret(&text), in_json.then(|| field(FIELD)).as_ref()).unwrap()
}

/// Every key of a value, as a reader of one way reads it.
fn read_by(way: Way, document: &Document) -> Option<Vec<Vec<u8>>> {
    let members = ["", "_STAGED", "_PREVIOUS"].map(|suffix| field(FIELD).with_suffix(suffix));
    let texts = match document.field() {
        None => vec![document.text().clone()],
        Some(_) => members.iter().filter_map(|member| document.member(member).unwrap()).collect(),
    };
    let items = texts.iter().flat_map(|text| text.expose().split(','));
    items.map(|item| (way.decode)(item.trim_start())).collect()
}

fn way_of(format: KeyFormat) -> impl Strategy<Value = (KeyFormat, Way)> {
    let ways = if format == KeyFormat::Fernet { vec![WAYS[0], WAYS[2]] } else { WAYS.to_vec() };
    prop::sample::select(ways).prop_map(move |way| (format, way))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_as_its_owner_wrote_it_is_read_and_kept(
        (format, way) in prop_oneof![way_of(KeyFormat::Raw), way_of(KeyFormat::Fernet)],
        in_json in any::<bool>(),
        space in prop::sample::select(vec!["", " ", "\t", "\n  "]),
        ring in any_ring(),
    ) {
        let ring = undated(&ring);
        let document = by_hand(format, in_json, way, space, &ring);
        prop_assert_eq!(parse(format, &document), ring.clone());
        let written = write(format, &document, &ring);
        let states = field(FIELD).with_suffix("_RING");
        let without_states = written.without_member(&states).unwrap();
        prop_assert_eq!(without_states.text(), document.text(), "byte for byte");
    }

    #[test]
    fn a_new_key_is_written_as_the_others_are(
        (format, way) in prop_oneof![way_of(KeyFormat::Raw), way_of(KeyFormat::Fernet)],
        in_json in any::<bool>(),
        ring in any_ring(),
        seed in any::<u64>(),
    ) {
        let ring = undated(&ring);
        let document = by_hand(format, in_json, way, "", &ring);
        let mut rng = StdRng::seed_from_u64(seed);
        let now = SystemTime::UNIX_EPOCH;
        let fits = |key: &Key| format.wire().fits(&document, key).unwrap() && ring.get(key.id()).is_none();
        let new = std::iter::repeat_with(|| Key::generate(now, &mut rng)).find(fits).unwrap();
        let next = ring.clone().replace_primary(new.clone(), now).unwrap();
        let written = write(format, &document, &next);
        let read = read_by(way, &written);
        let expected: Vec<Vec<u8>> = next.keys().map(|(_, key)| key.material().expose().to_vec()).collect();
        prop_assert_eq!(read, Some(expected), "{:?}", way);
        // Where no key shows the alphabet, readers of the other one read it too.
        let shown = document.text().expose().contains(['+', '/', '-', '_']);
        let other = |encoded: &str| WAYS.into_iter().filter(|way| (way.decode)(encoded).is_some()).count();
        let text = (way.encode)(new.material().expose());
        prop_assert!(shown || other(&text) == 2 || text.len() == 64 || text.starts_with("base64:"), "{}", text.len());
    }
}

#[test]
fn a_key_that_stands_in_two_members_is_refused() {
    let (canary, zero) = (standard(CANARY_KEY), standard(&[0; 32]));
    let [same, other] = same_id().map(|key| standard(key.material().expose()));
    for members in [
        [(FIELD, &*canary), ("K_STAGED", &canary)],
        [(FIELD, &*canary), ("K_PREVIOUS", &*format!("{},{canary}", std64(1)))],
    ] {
        refused(KeyFormat::Raw, true, &object(&members), &duplicate(&canary_key()));
    }
    let members = [(FIELD, &*std64(1)), ("K_STAGED", &canary), ("K_PREVIOUS", &canary)];
    refused(KeyFormat::Raw, true, &object(&members), &duplicate(&canary_key()));
    let message =
        "two different keys have the id 8bcd2844: they could not be told apart; replace the one that no row needs";
    refused(KeyFormat::Raw, true, &object(&[(FIELD, &same), ("K_STAGED", &other)]), message);
    let message = "key 2a0626a4 is all zero: it protects nothing; replace it";
    for members in [&[(FIELD, &*zero)][..], &[(FIELD, &*canary), ("K_STAGED", &zero)]] {
        refused(KeyFormat::Raw, true, &object(members), message);
    }
}

#[test]
fn ring_member_that_is_no_text_or_stands_twice_is_refused() {
    let canary = standard(CANARY_KEY);
    for member in ["K_STAGED", "K_PREVIOUS", "K_RING"] {
        for (value, problem) in [
            ("\"\"", "an empty string"),
            ("null", "null"),
            ("7", "a number"),
            (&format!("[{canary:?}]"), "an array"),
            (&format!("{{{canary:?}:1}}"), "an object"),
        ] {
            let text = format!(r#"{{"K":"{canary}","{member}":{value}}}"#);
            let message =
                format!("member {member} of the JSON value is {problem}: expected a string that is not empty");
            refused(KeyFormat::Raw, true, &text, &message);
        }
        let twice = format!(r#"{{"{member}":"{canary}","K":"{canary}","{member}":"x"}}"#);
        let message = format!(
            "member {member} stands more than once in the JSON value: readers differ in which one they take; remove all but one"
        );
        refused(KeyFormat::Raw, true, &twice, &message);
    }
}

#[test]
fn foreign_name_ring_is_refused_with_what_is_expected() {
    let (id, lost) = (canary_key().id(), key(9).id());
    let id_form = "expected an \"id\" of 8 lower-case hexadecimal digits";
    let state_form = "expected a \"state\": primary, staged or secondary";
    let date_form = |name| format!("entry 1: expected a time such as 2026-11-24T00:00:00Z in \"{name}\"");
    let entry = |rest: &str| format!(r#"{{"keys":[{{"id":"{id}"{rest}}}]}}"#);
    let canary = standard(CANARY_KEY);
    for (ring, problem) in [
        ("no JSON".to_owned(), "expected a JSON object".to_owned()),
        (canary.clone(), "expected a JSON object".to_owned()),
        ("[]".to_owned(), "expected a JSON object".to_owned()),
        ("{\"keys\":[]} x".to_owned(), "expected a JSON object".to_owned()),
        ("{}".to_owned(), "expected an array \"keys\"".to_owned()),
        ("{\"keys\":{}}".to_owned(), "expected an array \"keys\"".to_owned()),
        ("{\"keys\":[],\"keys\":[]}".to_owned(), "\"keys\" stands there twice".to_owned()),
        ("{\"keys\":[7]}".to_owned(), "entry 1: expected a JSON object".to_owned()),
        (format!("{{\"keys\":[{canary:?}]}}"), "entry 1: expected a JSON object".to_owned()),
        ("{\"keys\":[{}]}".to_owned(), format!("entry 1: {id_form}")),
        (format!("{{\"keys\":[{{\"id\":{canary:?},\"state\":\"staged\"}}]}}"), format!("entry 1: {id_form}")),
        (entry("").replace(&id.to_string(), "1A2B3C4D"), format!("entry 1: {id_form}")),
        (entry("").replace(&id.to_string(), "1a2b3c4"), format!("entry 1: {id_form}")),
        (entry("").replace(&id.to_string(), "+a2b3c4d"), format!("entry 1: {id_form}")),
        (entry(""), format!("entry 1: {state_form}")),
        (entry(r#","state":"Primary""#), format!("entry 1: {state_form}")),
        (entry(&format!(r#","state":{canary:?}"#)), format!("entry 1: {state_form}")),
        (entry(r#","state":"primary","state":"staged""#), "entry 1: \"state\" stands there twice".to_owned()),
        (entry(r#","state":"primary","created":"2026-11-24""#), date_form("created")),
        (entry(r#","state":"primary","created":"2026-02-30T00:00:00Z""#), date_form("created")),
        (entry(r#","state":"primary","promoted":1764000000"#), date_form("promoted")),
        (entry(r#","state":"primary","promoted":null"#), date_form("promoted")),
        (entry(&format!(r#","state":"primary","compromised":{canary:?}"#)), date_form("compromised")),
        (
            format!(r#"{{"keys":[{{"id":"{id}","state":"secondary"}},{{"id":"{id}","state":"primary"}}]}}"#),
            format!("key {id} stands there twice"),
        ),
        (
            format!(r#"{{"keys":[{{"id":"{id}","state":"staged"}},{{"id":"{lost}","state":"staged"}}]}}"#),
            "entry 2 is a second key in its state".to_owned(),
        ),
        (
            format!(r#"{{"keys":[{{"id":"{id}","state":"primary"}},{{"id":"{lost}","state":"primary"}}]}}"#),
            "entry 2 is a second key in its state".to_owned(),
        ),
    ] {
        for format in FORMATS {
            let name = format.wire().first(&canary_key());
            let value = object(&[(FIELD, name.expose()), ("K_RING", &ring)]);
            refused(format, true, &value, &format!("K_RING is not as a rotation writes it: {problem}"));
        }
    }
}

#[test]
fn key_listed_by_name_ring_and_absent_is_lost_and_stops_all() {
    let lost = key(9).id();
    let message = format!(
        "K_RING lists key {lost}, which is not among the keys that the value can be decrypted with: put the key back from an earlier version, or, if no row needs it, take its entry out of K_RING"
    );
    for state in ["primary", "staged", "secondary"] {
        let ring = format!(r#"{{"keys":[{{"id":"{lost}","state":"{state}"}}]}}"#);
        for format in FORMATS {
            let name = format.wire().first(&canary_key());
            refused(format, true, &object(&[(FIELD, name.expose()), ("K_RING", &ring)]), &message);
        }
        // A key that Tink does not use is none.
        let disabled = Entry { status: "\"DISABLED\"".to_owned(), ..Entry::of(8, key(9).material().expose()) };
        let name = keyset(7, &[Entry::of(7, CANARY_KEY).text(), disabled.text()]);
        refused(KeyFormat::Tink, true, &object(&[(FIELD, &name), ("K_RING", &ring)]), &message);
    }
}

/// An entry of a Tink keyset, each part as it is written in JSON.
#[derive(Clone)]
struct Entry {
    kind: String,
    value: String,
    status: String,
    id: String,
    prefix: String,
}

impl Entry {
    fn of(id: u32, key: &[u8]) -> Self {
        Self {
            kind: "\"type.googleapis.com/google.crypto.tink.AesGcmKey\"".to_owned(),
            value: quoted(&standard(&message(key))),
            status: "\"ENABLED\"".to_owned(),
            id: id.to_string(),
            prefix: "\"TINK\"".to_owned(),
        }
    }

    /// The canary with the message `bytes`.
    fn holding(bytes: &[u8]) -> Self {
        Self { value: quoted(&standard(bytes)), ..Self::of(7, CANARY_KEY) }
    }

    fn text(&self) -> String {
        let Self { kind, value, status, id, prefix } = self;
        format!(
            r#"{{"keyData":{{"typeUrl":{kind},"value":{value},"keyMaterialType":"SYMMETRIC"}},"status":{status},"keyId":{id},"outputPrefixType":{prefix}}}"#
        )
    }

    fn snake(&self) -> String {
        snake(&self.text())
    }
}

/// The message `AesGcmKey` with this key.
fn message(key: &[u8]) -> Vec<u8> {
    [&[0x1a, u8::try_from(key.len()).unwrap()][..], key].concat()
}

fn keyset(primary: u32, entries: &[String]) -> String {
    format!(r#"{{"primaryKeyId":{primary},"key":[{}]}}"#, entries.join(","))
}

fn snake(text: &str) -> String {
    [
        ("primaryKeyId", "primary_key_id"),
        ("keyData", "key_data"),
        ("typeUrl", "type_url"),
        ("keyMaterialType", "key_material_type"),
        ("keyId", "key_id"),
        ("outputPrefixType", "output_prefix_type"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (camel, snake)| text.replace(&quoted(camel), &quoted(snake)))
}

/// The keyset is refused, as text and in a member.
#[track_caller]
fn keyset_refused(text: &str, message: &str) {
    refused(KeyFormat::Tink, false, text, message);
    refused(KeyFormat::Tink, true, &object(&[(FIELD, text)]), message);
}

#[test]
fn a_keyset_that_is_none_is_refused() {
    let canary = Entry::of(7, CANARY_KEY).text();
    let with = |start: &str| format!("{{{start},\"key\":[{canary}]}}");
    let not_an_id = "the keyset has a primaryKeyId that is not a number of 32 bits";
    for (text, message) in [
        (standard(CANARY_KEY), "the keyset is not a JSON object"),
        (format!("[{canary}]"), "the keyset is not a JSON object"),
        (keyset(7, std::slice::from_ref(&canary)).replace("]}", "]"), "the keyset is not a JSON object"),
        ("{}".to_owned(), "the keyset has no primaryKeyId"),
        (canary.clone(), "the keyset has no primaryKeyId"),
        (r#"{"primaryKeyId":7}"#.to_owned(), "the keyset has no key"),
        (format!(r#"{{"primaryKeyId":7,"key":{canary}}}"#), "the keyset has a key that is not an array"),
        (r#"{"primaryKeyId":7,"key":null}"#.to_owned(), "the keyset has a key that is not an array"),
        (keyset(7, &[]), "the keyset has no key with its primaryKeyId 7"),
        (keyset(9, std::slice::from_ref(&canary)), "the keyset has no key with its primaryKeyId 9"),
        (keyset(0, std::slice::from_ref(&canary)), "the keyset has no key with its primaryKeyId 0"),
        (with("\"primaryKeyId\":-7"), not_an_id),
        (with("\"primaryKeyId\":7.0"), not_an_id),
        (with("\"primaryKeyId\":\"7\""), not_an_id),
        (with("\"primaryKeyId\":4294967303"), not_an_id),
        (with("\"primaryKeyId\":null"), not_an_id),
        (with(&format!("\"primaryKeyId\":{:?}", standard(CANARY_KEY))), not_an_id),
        (with("\"primaryKeyId\":7,\"primaryKeyId\":7"), "the keyset has primaryKeyId twice"),
        (with("\"primaryKeyId\":7,\"primary_key_id\":7"), "the keyset has primaryKeyId twice"),
        (with("\"primaryKeyId\":7,\"primary\\u004beyId\":9"), "the keyset has primaryKeyId twice"),
        (with(&format!("\"primaryKeyId\":7,\"key\":[{canary}]")), "the keyset has key twice"),
        (with(&format!("\"primaryKeyId\":7,\"\\u006bey\":[{canary}]")), "the keyset has key twice"),
    ] {
        keyset_refused(&text, message);
    }
}

#[test]
fn an_entry_that_is_no_key_is_refused_by_its_number() {
    let with = |id: &str| Entry { id: id.to_owned(), ..Entry::of(7, CANARY_KEY) }.text();
    let [not_a_key, without] =
        ["that is not a key", "without a keyId"].map(|problem| format!("the keyset has an entry 2 {problem}"));
    let canary = quoted(&standard(CANARY_KEY));
    for (entry, message) in [
        (with("-7"), &not_a_key),
        (with("7.0"), &not_a_key),
        (with("\"7\""), &not_a_key),
        (with("4294967296"), &not_a_key),
        (with("7,\"keyId\":8"), &not_a_key),
        (with("7,\"key_id\":8"), &not_a_key),
        (with("7,\"status\":\"DISABLED\""), &not_a_key),
        (with(&canary), &not_a_key),
        (canary.clone(), &not_a_key),
        ("null".to_owned(), &not_a_key),
        (format!("[{canary}]"), &not_a_key),
        (Entry { status: "7".to_owned(), ..Entry::of(7, CANARY_KEY) }.text(), &not_a_key),
        (Entry { value: format!("[{canary}]"), ..Entry::of(7, CANARY_KEY) }.text(), &not_a_key),
        (with("0"), &without),
        (with("null"), &without),
        ("{}".to_owned(), &without),
    ] {
        keyset_refused(&keyset(1, &[Entry::of(1, key(1).material().expose()).text(), entry]), message);
    }
    let twice = keyset(7, &[Entry::of(7, key(1).material().expose()).text(), Entry::of(7, CANARY_KEY).text()]);
    keyset_refused(&twice, "the keyset has two keys with keyId 7");
    let disabled = Entry { status: "\"DESTROYED\"".to_owned(), ..Entry::of(7, CANARY_KEY) };
    let twice = keyset(7, &[Entry::of(7, key(1).material().expose()).text(), disabled.text()]);
    keyset_refused(&twice, "the keyset has two keys with keyId 7");
}

#[test]
fn a_primary_key_that_is_not_enabled_is_refused() {
    for status in ["DISABLED", "DESTROYED"] {
        let disabled = Entry { status: quoted(status), ..Entry::of(7, CANARY_KEY) };
        let message = "the keyset has a primary key, keyId 7, that is not enabled: nobody can encrypt";
        keyset_refused(&keyset(7, &[disabled.text(), Entry::of(8, key(1).material().expose()).text()]), message);
    }
}

#[test]
fn a_key_of_another_kind_is_named_by_its_key_id_and_never_shown() {
    let canary = || Entry::of(7, CANARY_KEY);
    let of_type =
        |name: &str| Entry { kind: quoted(&format!("type.googleapis.com/google.crypto.tink.{name}")), ..canary() };
    let kind = |kind: &str| Entry { kind: kind.to_owned(), ..canary() };
    let prefix = |prefix: &str| Entry { prefix: prefix.to_owned(), ..canary() };
    let status = |status: &str| Entry { status: status.to_owned(), ..canary() };
    let no_message = "not a message AesGcmKey";
    let good = message(CANARY_KEY);
    let key_text = standard(CANARY_KEY);
    for (entry, problem) in [
        (of_type("AesCtrHmacAeadKey"), "of the type AesCtrHmacAeadKey"),
        (of_type("AesSivKey"), "of the type AesSivKey"),
        (of_type("ChaCha20Poly1305Key"), "of the type ChaCha20Poly1305Key"),
        (of_type("AesGcmKeyOfNobody"), "of the type AesGcmKeyOfNobody"),
        (of_type("aesgcmkey"), "of the type aesgcmkey"),
        (of_type(&key_text), "of an unknown type"),
        (of_type(&"x".repeat(65)), "of an unknown type"),
        (kind("\"AesGcmKey\""), "of an unknown type"),
        (kind("\"type.example.com/AesGcmKey\""), "of an unknown type"),
        (kind(&quoted(&key_text)), "of an unknown type"),
        (kind("null"), "of an unknown type"),
        (prefix("\"LEGACY\""), "with the output prefix LEGACY: only TINK and RAW are read"),
        (prefix("\"CRUNCHY\""), "with the output prefix CRUNCHY: only TINK and RAW are read"),
        (prefix("\"UNKNOWN_PREFIX\""), "without a known outputPrefixType: only TINK and RAW are read"),
        (prefix(&quoted(&key_text)), "without a known outputPrefixType: only TINK and RAW are read"),
        (prefix("null"), "without a known outputPrefixType: only TINK and RAW are read"),
        (status("\"UNKNOWN_STATUS\""), "without a known status"),
        (status("\"enabled\""), "without a known status"),
        (status(&quoted(&key_text)), "without a known status"),
        (status("null"), "without a known status"),
        (Entry { value: "null".to_owned(), ..canary() }, "without a value"),
        (Entry { value: quoted(&format!("{key_text}!")), ..canary() }, "not in base64"),
        (Entry { value: quoted(&format!(" {key_text}")), ..canary() }, "not in base64"),
        (Entry::holding(&message(&CANARY_KEY[..16])), "16 bytes long"),
        (Entry::holding(&message(&CANARY_KEY[..31])), "31 bytes long"),
        (Entry::holding(&message(&[CANARY_KEY, &b"!"[..]].concat())), "33 bytes long"),
        (Entry::holding(&message(b"")), "0 bytes long"),
        (Entry::holding(&[&[8, 1][..], &good].concat()), "of a version that is not known"),
        (Entry::holding(&[&good[..], &[8, 2]].concat()), "of a version that is not known"),
        (Entry::holding(&[&[8, 0x80, 1][..], &good].concat()), no_message),
        (Entry::holding(&[8, 0]), no_message),
        (Entry::holding(&good[..33]), no_message),
        (Entry::holding(&good[..1]), no_message),
        (Entry::holding(&[&good[..], &[0]].concat()), no_message),
        (Entry::holding(&[&good[..], &[8]].concat()), no_message),
        (Entry::holding(&[&good[..], &good].concat()), no_message),
        (Entry::holding(&[&good[..], &[0x22, 0]].concat()), no_message),
        (Entry::holding(&[&[0x1a, 0xa0, 0][..], CANARY_KEY].concat()), no_message),
        (Entry::holding(CANARY_KEY), no_message),
        (Entry::holding(b""), no_message),
    ] {
        let message = format!("the key with keyId 7 of the keyset is {problem}: {GCM}");
        // Also when it is not the primary key.
        for primary in [7, 1] {
            keyset_refused(
                &keyset(primary, &[Entry::of(1, key(1).material().expose()).text(), entry.text()]),
                &message,
            );
            keyset_refused(
                &snake(&keyset(primary, &[entry.text(), Entry::of(1, key(1).material().expose()).text()])),
                &message,
            );
        }
    }
    let without = Entry::of(7, CANARY_KEY).text().replace("keyData", "data");
    keyset_refused(&keyset(7, &[without]), &format!("the key with keyId 7 of the keyset is without keyData: {GCM}"));
}

#[test]
fn keyset_with_a_repeated_or_all_zero_key_is_refused() {
    let keyset_of = |other: &[u8]| keyset(7, &[Entry::of(7, CANARY_KEY).text(), Entry::of(8, other).text()]);
    keyset_refused(&keyset_of(CANARY_KEY), &duplicate(&canary_key()));
    keyset_refused(&keyset_of(&[0; 32]), "key 2a0626a4 is all zero: it protects nothing; replace it");
    let [one, other] = same_id();
    let message =
        "two different keys have the id 8bcd2844: they could not be told apart; replace the one that no row needs";
    let entries = [one, other].map(|key| (key.id().number(), key.material().clone()));
    let [one, other] = [(7, &entries[0].1), (8, &entries[1].1)].map(|(id, key)| Entry::of(id, key.expose()).text());
    keyset_refused(&keyset(7, &[one, other]), message);
}

#[test]
fn both_base64_alphabets_and_no_padding_are_read_in_a_keyset() {
    let good = message(CANARY_KEY);
    for value in [standard(&good), url_safe(&good)] {
        for value in [value.trim_end_matches('='), &value] {
            let entry = Entry { value: quoted(value), ..Entry::of(7, CANARY_KEY) };
            let ring = Keyring::new(canary_key()).unwrap();
            assert_eq!(read(KeyFormat::Tink, false, &keyset(7, &[entry.text()])), Ok(ring), "{value}");
        }
    }
    let versioned = Entry::holding(&[&[8, 0][..], &good].concat());
    assert!(read(KeyFormat::Tink, false, &keyset(7, &[versioned.text()])).is_ok(), "a version that is written out");
}

#[test]
fn a_text_secret_has_no_place_for_a_staged_key() {
    for format in FORMATS {
        let ring = Keyring::new(key(1)).unwrap().stage(key(2)).unwrap();
        let error = format.wire().write(&bare(format, false, &key(1)), &ring).unwrap_err();
        assert_eq!(error, RotationError::Keyring(KeyringError::NoPlaceForStaged), "{format:?}");
    }
}

// What stays as it was.

/// A date to the second, from 1970 to 9999.
fn date() -> impl Strategy<Value = Option<SystemTime>> {
    prop::option::of((0..253_402_300_800_u64).prop_map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn dates() -> impl Strategy<Value = Dates> {
    (date(), date(), date()).prop_map(|(created, promoted, compromised)| Dates { created, promoted, compromised })
}

/// Any ring of one to twenty keys.
fn any_ring() -> impl Strategy<Value = Keyring> {
    (keys(20), any::<bool>(), prop::collection::vec(dates(), 20)).prop_map(|(keys, staged, dates)| {
        let mut keys = keys.into_iter().zip(dates).map(|(key, dates)| key.with_dates(dates));
        let mut ring = Keyring::new(keys.next().unwrap()).unwrap();
        if let Some(key) = keys.next() {
            ring = if staged { ring.stage(key) } else { ring.with_secondary(key) }.unwrap();
        }
        keys.fold(ring, |ring, key| ring.with_secondary(key).unwrap())
    })
}

fn any_format() -> impl Strategy<Value = KeyFormat> {
    prop::sample::select(FORMATS.to_vec())
}

/// The same keys, of which nothing is known.
fn undated(ring: &Keyring) -> Keyring {
    let mut keys = ring.keys().map(|(_, key)| Key::new(key.material().clone()));
    let first = Keyring::new(keys.next().unwrap()).unwrap();
    keys.fold(first, |ring, key| ring.with_secondary(key).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_ring_is_read_back_with_its_states_and_dates(format in any_format(), ring in any_ring()) {
        let written = write(format, &bare(format, true, ring.primary()), &ring);
        prop_assert_eq!(&parse(format, &written), &ring);
        // Also where another key was primary before.
        if let Some(other) = ring.secondary().first() {
            let written = write(format, &bare(format, true, other), &ring);
            let read = parse(format, &written);
            prop_assert_eq!(read.keys().count(), ring.keys().count());
            prop_assert_eq!((read.primary(), read.staged()), (ring.primary(), ring.staged()));
        }
    }

    #[test]
    fn a_value_that_was_written_is_written_back_byte_for_byte(format in any_format(), ring in any_ring()) {
        let written = write(format, &bare(format, true, ring.primary()), &ring);
        let again = write(format, &written, &parse(format, &written));
        prop_assert_eq!(again.text(), written.text());
    }

    #[test]
    fn a_text_keeps_every_key_and_which_is_primary(format in any_format(), ring in any_ring()) {
        let ring = undated(&ring);
        let written = write(format, &bare(format, false, ring.primary()), &ring);
        prop_assert_eq!(&parse(format, &written), &ring);
        let again = write(format, &written, &parse(format, &written));
        prop_assert_eq!(again.text(), written.text());
    }

    #[test]
    fn a_part_of_a_second_is_all_that_is_lost_of_a_date(format in any_format(), seconds in 0..253_402_300_800_u64, nanos in 0..1_000_000_000_u32) {
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let dated = |date| key(1).with_dates(Dates { created: Some(date), ..Dates::default() });
        let ring = Keyring::new(dated(whole + Duration::from_nanos(nanos.into()))).unwrap();
        let written = write(format, &bare(format, true, &key(1)), &ring);
        prop_assert_eq!(parse(format, &written), Keyring::new(dated(whole)).unwrap());
    }

    #[test]
    fn a_key_that_is_taken_out_leaves_the_others_in_each_format(format in any_format(), ring in any_ring(), at in any::<Index>()) {
        prop_assume!(!ring.secondary().is_empty());
        let id = ring.secondary()[at.index(ring.secondary().len())].id();
        let written = write(format, &bare(format, true, ring.primary()), &ring);
        let without = ring.retire(id).unwrap();
        let rewritten = write(format, &written, &without);
        prop_assert_eq!(parse(format, &rewritten), without);
    }

    #[test]
    fn no_text_makes_a_format_panic(format in any_format(), in_json in any::<bool>(), text in any::<String>(), bytes in any::<Vec<u8>>()) {
        for text in [text, String::from_utf8_lossy(&bytes).into_owned(), standard(&bytes), url_safe(&bytes)] {
            let _ = read(format, in_json, &text);
            let _ = read(format, true, &object(&[(FIELD, &text)]));
            let name = format.wire().first(&key(1));
            for member in ["K_STAGED", "K_PREVIOUS", "K_RING"] {
                let _ = read(format, true, &object(&[(FIELD, name.expose()), (member, &text)]));
            }
            let entry = Entry { value: quoted(&text), ..Entry::of(7, CANARY_KEY) };
            let _ = read(KeyFormat::Tink, false, &keyset(7, &[entry.text()]));
        }
    }

    #[test]
    fn no_change_to_a_value_makes_a_format_panic_or_show_a_key(
        format in any_format(),
        in_json in any::<bool>(),
        edits in prop::collection::vec((any::<Index>(), any::<Index>(), prop::sample::select(vec!["", "\"", "{", "}", ",", "\\", "=", "0", "-", "é", " ", "null"])), 1..4),
    ) {
        let ring = Keyring::new(canary_key()).unwrap().with_secondary(key(2)).unwrap();
        let ring = if in_json { ring.stage(key(3)).unwrap() } else { ring };
        let mut text = write(format, &bare(format, in_json, &canary_key()), &ring).text().expose().to_owned();
        for (start, end, piece) in edits {
            let start = start.index(text.len() + 1);
            let end = (start + end.index(12)).min(text.len());
            let (Some(before), Some(after)) = (text.get(..start), text.get(end..)) else { continue };
            text = format!("{before}{piece}{after}");
        }
        match read(format, in_json, &text) {
            Ok(ring) => {
                let document = format.wire().document(secret(&text), in_json.then(|| field(FIELD)).as_ref()).unwrap();
                prop_assert_eq!(parse(format, &write(format, &document, &ring)), ring, "what is read can be written");
            }
            Err(error) => {
                for shown in [error.to_string(), format!("{error:?}")] {
                    assert_shows_no_part_of(CANARY_KEY, &shown);
                    assert_shows_no_part_of(key(2).material().expose(), &shown);
                }
            }
        }
    }
}

#[test]
fn what_is_not_known_in_name_ring_stays_byte_for_byte() {
    let (one, two) = (key(1).id(), key(2).id());
    let of_ring = [r#""note" : 1.10"#, r#""\u00e9":1e400"#, r#""owner":{ "a" : [ 1 , -0 ] }"#, r#""\ud800":"\/""#];
    let of_entry = [r#""rows":12345678901234567890123"#, r#""by":"é\u0041""#];
    let ring_text = format!(
        r#"{{ {}, "keys" : [ {{"id":"{one}","state":"primary", {}}} ,{{"state":"staged","id":"{two}"}} ] , {} }}"#,
        of_ring[..2].join(" ,"),
        of_entry.join(" , "),
        of_ring[2..].join(",")
    );
    for format in FORMATS {
        let with_staged =
            write(format, &bare(format, true, &key(1)), &Keyring::new(key(1)).unwrap().stage(key(2)).unwrap());
        let mut document = with_staged.with_member(&field("K_RING"), &secret(&ring_text)).unwrap();
        for turn in 10..13 {
            let ring = parse(format, &document).promote(SystemTime::UNIX_EPOCH).unwrap().stage(key(turn)).unwrap();
            document = write(format, &document, &ring);
            let ring_text = document.member(&field("K_RING")).unwrap().unwrap();
            for member in of_ring.iter().chain(&of_entry) {
                // What stands between a name and its value is not kept.
                let member = member.replace("\"note\" : ", "\"note\":");
                assert_eq!(ring_text.expose().matches(&member).count(), 1, "{member} {}", ring_text.expose());
            }
            let parts: Vec<_> =
                ring_text.expose().split("\"id\":").filter(|part| part.contains(&one.to_string())).collect();
            let [own] = parts[..] else { panic!("{parts:?}") };
            assert!(of_entry.iter().all(|member| own.contains(member)), "beside its key: {own}");
        }
    }
}

#[test]
fn a_key_that_somebody_put_into_name_ring_is_not_shown() {
    let canary = standard(CANARY_KEY);
    let ring = format!(
        r#"{{"{canary}":1,"note":"{canary}","keys":[{{"id":"{}","state":"primary","key":"{canary}"}}]}}"#,
        canary_key().id()
    );
    let document = in_json(KeyFormat::Raw, &object(&[(FIELD, &canary), ("K_RING", &ring)]));
    let states = States::read(&document).unwrap().unwrap();
    assert_shows_no_part_of(CANARY_KEY, &format!("{states:?} {states:#?} {document:?}"));
}

#[test]
fn disabled_and_unknown_parts_of_a_keyset_stay_byte_for_byte() {
    let disabled =
        Entry { status: "\"DISABLED\"".to_owned(), kind: "\"nobody/knows\"".to_owned(), ..Entry::of(8, CANARY_KEY) };
    let destroyed = r#"{ "status":"DESTROYED", "keyId" : 9 ,"outputPrefixType":"LEGACY","why":"\u00e9" }"#;
    let own = Entry::of(7, key(1).material().expose()).text().replacen('{', "{ \"x\" : 1.10 ,", 1);
    let old = Entry::of(6, key(3).material().expose()).text();
    let text = format!(
        "{{ \"more\":[1e400] ,\r\n\"key\" : [ {} , {destroyed},\t{own},\n{old} ],\"primaryKeyId\" : 7, \"\\u00e9\":null }}\n",
        disabled.text()
    );
    let document = KeyFormat::Tink.wire().document(secret(&text), None).unwrap();
    let ring = parse(KeyFormat::Tink, &document);
    assert_eq!(ids(&ring), [key(1), key(3)].map(|key| key.id().to_string()));

    let next =
        write(KeyFormat::Tink, &document, &ring.clone().replace_primary(key(2), SystemTime::UNIX_EPOCH).unwrap());
    let added = Entry::of(key(2).id().number(), key(2).material().expose()).text();
    let list = format!("[{},{destroyed},{own},{old},{added}]", disabled.text());
    let expected = format!(
        "{{ \"more\":[1e400] ,\r\n\"key\" : {list},\"primaryKeyId\" : {}, \"\\u00e9\":null }}\n",
        key(2).id().number()
    );
    assert_eq!(next.text().expose(), expected);

    // A key that is taken out takes nothing with it.
    let without = write(KeyFormat::Tink, &next, &parse(KeyFormat::Tink, &next).retire(key(1).id()).unwrap());
    assert_eq!(without.text().expose(), expected.replace(&format!("{own},"), ""));
    assert_eq!(ids(&parse(KeyFormat::Tink, &without)), [key(2), key(3)].map(|key| key.id().to_string()));
}

#[test]
fn a_new_key_of_a_keyset_is_written_as_the_keyset_is() {
    let new = || Keyring::new(key(1)).unwrap().replace_primary(key(2), SystemTime::UNIX_EPOCH).unwrap();
    let number = key(2).id().number();
    for prefix in ["\"TINK\"", "\"RAW\""] {
        let of = |id, seed| Entry { prefix: prefix.to_owned(), ..Entry::of(id, key(seed).material().expose()) };
        for names in [str::to_owned as fn(&str) -> String, snake] {
            let text = names(&keyset(7, &[of(7, 1).text()]));
            let document = KeyFormat::Tink.wire().document(secret(&text), None).unwrap();
            let written = write(KeyFormat::Tink, &document, &new());
            assert_eq!(written.text().expose(), names(&keyset(number, &[of(7, 1).text(), of(number, 2).text()])));
        }
    }
    // The new key is like the primary one, whatever the others are.
    let tink = Entry::of(8, key(3).material().expose());
    let raw = Entry { prefix: "\"RAW\"".to_owned(), ..Entry::of(7, key(1).material().expose()) };
    let text = snake(&keyset(7, &[tink.text(), raw.text()]));
    let document = KeyFormat::Tink.wire().document(secret(&text), None).unwrap();
    let ring = parse(KeyFormat::Tink, &document).replace_primary(key(2), SystemTime::UNIX_EPOCH).unwrap();
    let new = Entry { prefix: "\"RAW\"".to_owned(), ..Entry::of(number, key(2).material().expose()) };
    let expected = format!(r#"{{"primary_key_id":{number},"key":[{},{},{}]}}"#, tink.snake(), raw.snake(), new.snake());
    assert_eq!(write(KeyFormat::Tink, &document, &ring).text().expose(), expected);
}

#[test]
fn new_key_with_a_taken_id_is_refused_and_another_is_made() {
    let taken = Entry::of(key(2).id().number(), key(1).material().expose());
    let text = keyset(key(2).id().number(), &[taken.text()]);
    let document = KeyFormat::Tink.wire().document(secret(&text), None).unwrap();
    let ring = Keyring::new(key(1)).unwrap().replace_primary(key(2), SystemTime::UNIX_EPOCH).unwrap();
    let error = KeyFormat::Tink.wire().write(&document, &ring).unwrap_err();
    let problem = format!("has a key with the keyId {} of a new one: rotate again", key(2).id().number());
    assert_eq!(error, RotationError::Keyring(KeyringError::Keyset { problem }));
}

#[test]
fn members_beside_the_ring_stay_and_states_without_keys_go() {
    let text = format!(
        "{{\n  \"port\": 8080,\n  \"K_PREVIOUS\": \"{}\",\n  \"K\": \"{}\",\n  \"K_STAGED\": \"{}\",\n  \"z\": 1.0\n}}\n",
        std64(3),
        std64(1),
        std64(2)
    );
    let document = in_json(KeyFormat::Raw, &text);
    let promoted = parse(KeyFormat::Raw, &document).promote(SystemTime::UNIX_EPOCH).unwrap();
    let ring_text = quoted(&format!(
        r#"{{"keys":[{{"id":"{}","state":"primary","promoted":"1970-01-01T00:00:00Z"}},{{"id":"{}","state":"secondary"}},{{"id":"{}","state":"secondary"}}]}}"#,
        key(2).id(),
        key(1).id(),
        key(3).id()
    ));
    let expected = format!(
        "{{\n  \"port\": 8080,\n  \"K_PREVIOUS\": \"{},{}\",\n  \"K\": \"{}\",\n  \"K_RING\": {ring_text},\n  \"z\": 1.0\n}}\n",
        std64(1),
        std64(3),
        std64(2)
    );
    assert_eq!(write(KeyFormat::Raw, &document, &promoted).text().expose(), expected);
    let without = promoted.retire(key(1).id()).unwrap().retire(key(3).id()).unwrap();
    let written = write(KeyFormat::Raw, &document, &without);
    assert!(!written.text().expose().contains("K_PREVIOUS"), "{}", written.text().expose());
    assert_eq!(parse(KeyFormat::Raw, &written), without);
}

#[test]
fn the_members_of_each_format_are_those_that_it_writes() {
    for format in FORMATS {
        let before: Document =
            in_json(format, &format!("{{\"a\":1,{}", &bare(format, true, &key(1)).text().expose()[1..]));
        let ring = Keyring::new(key_from(CANARY_KEY)).unwrap().stage(key(2)).unwrap().with_secondary(key(1)).unwrap();
        let after = write(format, &before, &ring);
        let members = format.wire().members(&field(FIELD));
        assert!(before.same_other_members(&after, &members), "{format:?}");
        for member in members {
            assert!(after.member(&member).unwrap().is_some(), "{format:?} {member}");
        }
    }
}
