//! What stays as it was when a ring is written.

use super::keysets::snake;
use super::*;

/// A date to the second, from 1970 to 9999.
pub(super) fn date() -> impl Strategy<Value = Option<SystemTime>> {
    prop::option::of((0..253_402_300_800_u64).prop_map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

pub(super) fn dates() -> impl Strategy<Value = Dates> {
    (date(), date(), date()).prop_map(|(created, promoted, compromised)| Dates { created, promoted, compromised })
}

/// Any ring of one to twenty keys.
pub(super) fn any_ring() -> impl Strategy<Value = Keyring> {
    (keys(20), any::<bool>(), prop::collection::vec(dates(), 20)).prop_map(|(keys, staged, dates)| {
        let mut keys = keys.into_iter().zip(dates).map(|(key, dates)| key.with_dates(dates));
        let mut ring = Keyring::new(keys.next().unwrap()).unwrap();
        if let Some(key) = keys.next() {
            ring = if staged { ring.stage(key) } else { ring.with_secondary(key) }.unwrap();
        }
        keys.fold(ring, |ring, key| ring.with_secondary(key).unwrap())
    })
}

pub(super) fn any_format() -> impl Strategy<Value = KeyFormat> {
    prop::sample::select(FORMATS.to_vec())
}

/// The same keys, of which nothing is known.
pub(super) fn undated(ring: &Keyring) -> Keyring {
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
