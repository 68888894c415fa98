//! Keys and lists that are refused.

use super::kept::{any_ring, undated};
use super::*;

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

pub(super) fn duplicate(key: &Key) -> String {
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
pub(super) struct Way {
    encode: fn(&[u8]) -> String,
    decode: fn(&str) -> Option<Vec<u8>>,
}

pub(super) fn hex(text: &str, digits: &str) -> Option<Vec<u8>> {
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
pub(super) fn by_hand(format: KeyFormat, in_json: bool, way: Way, space: &str, ring: &Keyring) -> Document {
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
pub(super) fn read_by(way: Way, document: &Document) -> Option<Vec<Vec<u8>>> {
    let members = ["", "_STAGED", "_PREVIOUS"].map(|suffix| field(FIELD).with_suffix(suffix));
    let texts = match document.field() {
        None => vec![document.text().clone()],
        Some(_) => members.iter().filter_map(|member| document.member(member).unwrap()).collect(),
    };
    let items = texts.iter().flat_map(|text| text.expose().split(','));
    items.map(|item| (way.decode)(item.trim_start())).collect()
}

pub(super) fn way_of(format: KeyFormat) -> impl Strategy<Value = (KeyFormat, Way)> {
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
