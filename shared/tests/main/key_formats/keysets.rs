//! Keysets of Tink.

use super::refused::duplicate;
use super::*;

/// An entry of a Tink keyset, each part as it is written in JSON.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) kind: String,
    pub(super) value: String,
    pub(super) status: String,
    pub(super) id: String,
    pub(super) prefix: String,
}

impl Entry {
    pub(super) fn of(id: u32, key: &[u8]) -> Self {
        Self {
            kind: "\"type.googleapis.com/google.crypto.tink.AesGcmKey\"".to_owned(),
            value: quoted(&standard(&message(key))),
            status: "\"ENABLED\"".to_owned(),
            id: id.to_string(),
            prefix: "\"TINK\"".to_owned(),
        }
    }

    /// The canary with the message `bytes`.
    pub(super) fn holding(bytes: &[u8]) -> Self {
        Self { value: quoted(&standard(bytes)), ..Self::of(7, CANARY_KEY) }
    }

    pub(super) fn text(&self) -> String {
        let Self { kind, value, status, id, prefix } = self;
        format!(
            r#"{{"keyData":{{"typeUrl":{kind},"value":{value},"keyMaterialType":"SYMMETRIC"}},"status":{status},"keyId":{id},"outputPrefixType":{prefix}}}"#
        )
    }

    pub(super) fn snake(&self) -> String {
        snake(&self.text())
    }
}

/// The message `AesGcmKey` with this key.
pub(super) fn message(key: &[u8]) -> Vec<u8> {
    [&[0x1a, u8::try_from(key.len()).unwrap()][..], key].concat()
}

pub(super) fn keyset(primary: u32, entries: &[String]) -> String {
    format!(r#"{{"primaryKeyId":{primary},"key":[{}]}}"#, entries.join(","))
}

pub(super) fn snake(text: &str) -> String {
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
pub(super) fn keyset_refused(text: &str, message: &str) {
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
