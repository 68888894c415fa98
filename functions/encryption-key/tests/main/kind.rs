//! The value that follows a value.

use rotation::error::RotationError;
use rotation::keyring::{Dates, Key, KeyState, Keyring, KeyringError};
use rotation::kind::SecretKind as _;
use rotation::policy::RotationPolicy;

use crate::*;

/// By when a key was in the current value though no rotation is known to have succeeded: the longest time that a pending ring
/// waits for its promotion, and Lambda's longest invocation.
const SEEN: Duration = Duration::from_secs((24 * 60 + 15) * 60);

/// The states and ids of a ring, as `["primary 1a2b3c4d", …]`.
fn states(ring: &Keyring) -> Vec<String> {
    let name = |state| match state {
        KeyState::Primary => "primary",
        KeyState::Staged => "staged",
        KeyState::Secondary => "secondary",
    };
    ring.keys().map(|(state, key)| format!("{} {}", name(state), key.id())).collect()
}

fn compromised(key: Key) -> Key {
    let dates = Dates { compromised: Some(now()), ..*key.dates() };
    key.with_dates(dates)
}

#[test]
fn the_first_rotation_of_a_bare_key_only_adds_a_staged_one() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let current = rotation.bare(&key(1));
        // Not even a declaration is needed: nothing is encrypted with the new key yet. But a list of two is no Fernet key.
        let created = unproven().create(&rotation.at(now(), None), &current, &mut rng(9));
        let created = match (name, created) {
            ("fernet", refused) => {
                assert_eq!(refused.unwrap_err().name(), "ConsumersUnproven");
                aware().create(&rotation.at(now(), None), &current, &mut rng(9))
            }
            (_, created) => created,
        };
        let next = rotation.ring(&created.unwrap());
        assert_eq!(next.primary(), &key(1), "{name}: untouched, and nothing is claimed of it");
        let staged = next.staged().unwrap();
        assert_eq!(*staged.dates(), Dates { created: Some(now()), ..Dates::default() }, "{name}");
        assert_eq!(next.secondary(), [], "{name}");
    }
}

#[test]
fn later_rotation_promotes_the_staged_key_and_stages_another() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let current = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap();
        let next = rotation.next(&aware(), now(), &current).unwrap();
        let expected = Dates { created: Some(now() - 90 * DAY), promoted: Some(now()), compromised: None };
        assert_eq!(next.primary(), &key(2).with_dates(expected), "{name}");
        assert_eq!(next.secondary(), [key(1)], "{name}: kept");
        let staged = next.staged().unwrap();
        assert!(![key(1).id(), key(2).id()].contains(&staged.id()), "{name}: a new one");
        assert_eq!(staged.dates().created, Some(now()), "{name}");
    }
}

#[test]
fn staged_key_is_promoted_exactly_after_the_cache_time() {
    let created = now();
    for (what, cache_time, last_rotated, age) in [
        ("never rotated", HOUR, None, SEEN + HOUR),
        ("rotated before it was made", HOUR, Some(created - SECOND), SEEN + HOUR),
        ("rotated as it was made", HOUR, Some(created), HOUR),
        ("rotated 40 s later", HOUR, Some(created + 40 * SECOND), HOUR + 40 * SECOND),
        ("rotated a day later", HOUR, Some(created + DAY), HOUR + DAY),
        ("no cache", Duration::ZERO, Some(created + 40 * SECOND), 40 * SECOND),
        ("a long cache", DAY, Some(created + 40 * SECOND), DAY + 40 * SECOND),
    ] {
        let (rotation, kind) = (Rotation::staged(), cached_for(cache_time));
        let current = rotation.value(&ring(key(1)).stage(key_of(2, created)).unwrap());
        let create = |at| {
            let document = kind.create(&rotation.at(at, last_rotated), &current, &mut rng(9))?;
            Ok(rotation.ring(&document).primary().id())
        };
        let from = created + age;
        let young = RotationError::StagedTooYoung { name: NAME.to_owned(), key: key(2).id(), from };
        for early in [created + SECOND, from - SECOND] {
            assert_eq!(create(early), Err(young.clone()), "{what}: {early:?}");
        }
        assert_eq!(create(from), Ok(key(2).id()), "{what}");
        assert_eq!(create(from + 90 * DAY), Ok(key(2).id()), "{what}");
    }
}

#[test]
fn the_age_of_a_key_means_nothing_where_every_instance_is_asked() {
    let rotation = Rotation::staged();
    let counted = || Application::silent().of_instances(2);
    for staged in [key(2), key_of(2, now())] {
        let current = ring(key(1)).stage(staged).unwrap();
        let next = rotation.next(&asking(counted()), now(), &current).unwrap();
        assert_eq!(next.primary().id(), key(2).id());
    }

    // A declaration is no answer of an instance, and without their number one may not have been asked.
    let declared = Consumers { keyring_aware: true, ..Consumers::default() };
    let declared = EncryptionKey::new(Some((counted(), token_secret())), declared);
    for kind in [declared, asking(Application::silent())] {
        let current = ring(key(1)).stage(key_of(2, now())).unwrap();
        assert_eq!(rotation.next(&kind, now(), &current).unwrap_err().name(), "StagedTooYoung");
    }
}

#[test]
fn no_primary_is_made_without_a_target_or_a_declaration() {
    let old_enough = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap();
    for (rotation, current) in [
        (Rotation::staged(), &old_enough),
        (Rotation::immediate(), &old_enough),
        (Rotation::immediate(), &ring(key(1))),
        (Rotation::text("raw", "immediate"), &ring(key(1))),
    ] {
        let error = rotation.next(&unproven(), now(), current).unwrap_err();
        assert_eq!(error.name(), "ConsumersUnproven");
        assert!(error.to_string().contains("CONSUMERS_KEYRING_AWARE=true"), "says what to do: {error}");
        for kind in [aware(), asking(Application::silent())] {
            assert_ne!(rotation.next(&kind, now(), current).unwrap().primary(), current.primary());
        }
    }
}

#[test]
fn staged_key_without_a_date_is_dated_and_promoted_later() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let current = ring(key(1)).stage(key(2)).unwrap().with_secondary(key(3)).unwrap();
        let dated = rotation.next(&unproven(), now(), &current).unwrap();
        assert_eq!(dated, current.clone().date_staged(now()), "{name}: and nothing else");
        assert_eq!(rotation.next(&aware(), now() + HOUR, &dated).unwrap_err().name(), "StagedTooYoung", "{name}");
        let later = rotation.next(&aware(), now() + SEEN + HOUR, &dated).unwrap();
        assert_eq!(later.primary().id(), key(2).id(), "{name}");
    }
}

#[test]
fn a_compromised_staged_key_is_replaced_and_never_promoted() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let leaked = compromised(key_of(2, now() - 90 * DAY));
        let mut current = ring(key(1)).stage(leaked.clone()).unwrap();
        for turn in 1..=5_u32 {
            let at = now() + 90 * DAY * turn;
            let document =
                aware().create(&rotation.at(at, Some(at - 89 * DAY)), &rotation.value(&current), &mut rng(turn.into()));
            let next = rotation.ring(&document.unwrap());
            assert!(next.holds_all_of(&current), "{name}");
            if turn == 1 {
                assert_eq!(next.primary(), &key(1), "{name}: nothing is promoted in its place");
            }
            assert_ne!(next.primary().id(), leaked.id(), "{name} {turn}");
            assert_ne!(next.staged().unwrap().id(), leaked.id(), "{name} {turn}");
            assert_eq!(next.get(leaked.id()), Some(&leaked), "{name} {turn}: what is encrypted with it stays readable");
            current = next;
        }
    }
    // Where every instance is asked, too.
    let current = ring(key(1)).stage(compromised(key(2))).unwrap();
    let next = Rotation::staged().next(&asking(Application::silent().of_instances(1)), now(), &current).unwrap();
    assert_eq!((next.primary().id(), next.secondary()), (key(1).id(), &[compromised(key(2))][..]));
}

#[test]
fn immediate_rotation_makes_a_new_primary_and_replaces_staged() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "immediate");
        let next = rotation.next(&aware(), now(), &ring(key(1))).unwrap();
        let made = Dates { created: Some(now()), promoted: Some(now()), compromised: None };
        assert_eq!(*next.primary().dates(), made, "{name}");
        assert_eq!((next.staged(), next.secondary()), (None, &[key(1)][..]), "{name}");

        let current = ring(key(1)).stage(key(2)).unwrap().with_secondary(key(3)).unwrap();
        let next = rotation.next(&aware(), now(), &current).unwrap();
        assert!(current.get(next.primary().id()).is_none(), "{name}: a new key");
        let staged = next.staged().unwrap();
        assert!(current.get(staged.id()).is_none(), "{name}: the old one was as exposed as the primary");
        assert_eq!(staged.dates().created, Some(now()), "{name}");
        assert!(next.holds_all_of(&current), "{name}");
        assert_eq!(next.secondary().len(), 3, "{name}");
    }
}

#[test]
fn compromised_primary_is_replaced_at_once_under_any_policy() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        // What was staged was as exposed, however old it is.
        for current in
            [ring(compromised(key(1))), ring(compromised(key(1))).stage(key_of(2, now() - 90 * DAY)).unwrap()]
        {
            let next = rotation.next(&aware(), now(), &current).unwrap();
            assert!(current.get(next.primary().id()).is_none(), "{name}");
            assert!(next.staged().is_none_or(|staged| current.get(staged.id()).is_none()), "{name}");
            assert!(next.holds_all_of(&current), "{name}");
            let succession = aware().check_succession(
                &rotation.at(now(), None),
                &rotation.value(&current),
                &rotation.following(&current, &next),
                now(),
            );
            assert_eq!(succession, Ok(()), "{name}");
            assert_eq!(rotation.next(&unproven(), now(), &current).unwrap_err().name(), "ConsumersUnproven", "{name}");
        }
    }
}

#[test]
fn text_secret_has_no_staged_key_and_rotates_at_once() {
    for (name, _) in FORMATS {
        let staged = Rotation::text(name, "staged");
        let (subject, current) = (staged.at(now(), None), staged.bare(&key(1)));
        let problem = "a text secret has no place for a staged key";
        assert_policy_refuses(aware().create(&subject, &current, &mut rng(9)), "promotion", problem);
        assert_policy_refuses(aware().first(&subject, &mut rng(9)), "promotion", problem);

        let rotation = Rotation::text(name, "immediate");
        let mut current = rotation.bare(&key(1));
        let mut keys = vec![key(1).id()];
        for turn in 0..3 {
            let next = aware().create(&rotation.at(now(), None), &current, &mut rng(turn)).unwrap();
            assert_eq!(next.field(), None, "{name}");
            let (was, is) = (rotation.ring(&current), rotation.ring(&next));
            assert!(is.holds_all_of(&was), "{name}");
            keys.insert(0, is.primary().id());
            assert_eq!(is.keys().map(|(_, key)| key.id()).collect::<Vec<_>>(), keys, "{name}: newest first");
            current = next;
        }
    }
}

#[test]
fn configuration_test_finds_a_text_secret_that_is_to_be_staged() {
    let rotation = Rotation::text("raw", "staged");
    assert_policy_refuses(aware().check_configuration(&rotation.policy, None), "promotion", "choose immediate");
}

#[test]
fn first_ring_has_a_staged_key_where_keys_are_staged() {
    for (name, _) in FORMATS {
        for (promotion, staged) in [("staged", true), ("immediate", false)] {
            let rotation = Rotation::json(name, promotion);
            let first = unproven().first(&rotation.at(now(), None), &mut rng(1)).unwrap();
            let first = rotation.ring(&rotation.parse(first.text().expose()));
            let made = Dates { created: Some(now()), promoted: Some(now()), compromised: None };
            assert_eq!(*first.primary().dates(), made, "{name}");
            assert_eq!(first.staged().map(|key| key.dates().created), staged.then_some(Some(now())), "{name}");
            assert_eq!(first.secondary(), [], "{name}");
        }
        let rotation = Rotation::text(name, "immediate");
        let first = unproven().first(&rotation.at(now(), None), &mut rng(1)).unwrap();
        let first = rotation.ring(&rotation.parse(first.text().expose()));
        assert_eq!((first.staged(), first.secondary()), (None, &[][..]), "{name}");
    }
}

#[test]
fn two_rotations_never_make_the_same_key() {
    for rotation in [Rotation::staged(), Rotation::immediate()] {
        let made = |seed| {
            let first = rotation.bare(&key(1));
            let next = aware().create(&rotation.at(now(), None), &first, &mut rng(seed)).unwrap();
            states(&rotation.ring(&next))
        };
        assert_eq!(made(5), made(5), "all randomness comes from the generator that is handed in");
        assert_ne!(made(5), made(6));
    }
}

#[test]
fn value_that_is_no_keyring_is_refused_before_a_key_is_made() {
    let rotation = Rotation::staged();
    let twice =
        rotation.bare(&key(1)).with_member(&field().with_suffix("_STAGED"), &rotation.bare(&key(1)).secret().unwrap());
    let error = unproven().create(&rotation.at(now(), None), &twice.unwrap(), &mut rng(1)).unwrap_err();
    assert_eq!(error, RotationError::Keyring(KeyringError::Duplicate { id: key(1).id() }));
}

#[test]
fn a_rotation_writes_the_members_of_its_format_and_no_other() {
    for (name, expected) in
        [("raw", &["", "_STAGED", "_PREVIOUS", "_RING"][..]), ("fernet", &["", "_RING"]), ("tink", &["", "_RING"])]
    {
        let rotation = Rotation::json(name, "staged");
        let policy: &RotationPolicy = &rotation.policy;
        let members = unproven().members(policy, &rotation.bare(&key(1)));
        assert_eq!(members, expected.iter().map(|suffix| field().with_suffix(suffix)).collect::<Vec<_>>(), "{name}");
    }
}

/// The other members of a JSON secret, in all that JSON allows, around the rotated one.
fn crowded(written: &str) -> String {
    let before = "{\r\n  \"a\": 1.10,\"b\" :1e400 ,\t\"c\":\"\\u00e9\\/\", \"d\": [ ], \"e\":{\"TOKEN_ENCRYPTION_KEY\":\"x\"},\n\"f\":null, \"g\":true,\"h\":-0.0,\"i\":\"\", \"dup\": 1";
    let after = "  ,\"dup\":2,\"k\":12345678901234567890123,\"l\":\"a,b\",\"m\":[{\"n\":[]}],\"TOKEN_ENCRYPTION_KEY_STAGE\":\"s\",\r\n\"TOKEN_ENCRYPTION_KEYS\":3,\"token_encryption_key\":\"lower\",\"q\":\"\\ud83d\\ude00\",\"r\":\"}\",\"s\": false ,\"\":0 }\n";
    format!("{before},\n  {written}{after}")
}

#[test]
fn twenty_other_members_stay_byte_for_byte_in_ten_rotations() {
    for (name, _) in FORMATS {
        for promotion in ["staged", "immediate"] {
            let rotation = Rotation::json(name, promotion);
            let bare = rotation.bare(&key(1));
            let member = bare.text().expose().strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap();
            let member = member.replacen("\":", "\" : ", 1);
            let mut current = rotation.parse(&crowded(&member));
            let frame = crowded("\0");
            let (before, after) = frame.split_once('\0').unwrap();
            let mut primaries = vec![rotation.ring(&current).primary().id()];
            for turn in 1..=10_u32 {
                let at = now() + 90 * DAY * turn;
                let next = aware()
                    .create(&rotation.at(at, Some(at - 90 * DAY + SECOND)), &current, &mut rng(turn.into()))
                    .unwrap();
                let text = next.text().expose();
                assert!(text.starts_with(before) && text.ends_with(after), "{name} {promotion}: {text}");
                let members = aware().members(&rotation.policy, &current);
                assert!(current.same_other_members(&next, &members), "{name} {promotion}");
                let (was, is) = (rotation.ring(&current), rotation.ring(&next));
                assert!(is.holds_all_of(&was), "{name} {promotion}: no rotation drops a key");
                assert_eq!(aware().check_succession(&rotation.at(at, None), &current, &next, at), Ok(()));
                primaries.push(is.primary().id());
                current = next;
            }
            primaries.dedup();
            let expected = if promotion == "staged" { 10 } else { 11 };
            assert_eq!(primaries.len(), expected, "{name} {promotion}: the first staged rotation promotes nothing");
        }
    }
}

/// Every key of a value as it is written, of whatever member.
fn written(document: &Document) -> Vec<String> {
    let members = ["", "_STAGED", "_PREVIOUS"].map(|suffix| field().with_suffix(suffix));
    let texts = members.iter().filter_map(|member| document.member(member).unwrap());
    texts.flat_map(|text| text.expose().split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn rotated_keys_are_written_as_the_first_one_was() {
    let rotation = Rotation::staged();
    let hex = |key: &Key| -> String { key.material().expose().iter().map(|byte| format!("{byte:02x}")).collect() };
    for seed in 0..60 {
        let first = key(seed);
        let usual = KeyFormat::Raw.wire().first(&first).expose().to_owned();
        let url = usual.replace('+', "-").replace('/', "_");
        // Who reads one alphabet alone: neither, where the first key does not say.
        let shows = |text: &str| (text.contains(['+', '/']), text.contains(['-', '_']));
        for text in [
            &usual,
            usual.trim_end_matches('='),
            &url,
            url.trim_end_matches('='),
            &format!("base64:{url}"),
            &hex(&first),
        ] {
            let (mut value, mut at) = (Document::first(&secret(text), Some(&field())).unwrap(), now());
            for _ in 0..3 {
                let subject = rotation.at(at, Some(at - 80 * DAY));
                value = aware().create(&subject, &value, &mut rng(seed + 1_000)).unwrap();
                at += 90 * DAY;
            }
            let keys = written(&value);
            assert_eq!(keys.len(), 4);
            assert!(keys.contains(&text.to_owned()), "as it was");
            for key in &keys {
                assert_eq!(key.len(), text.len());
                assert_eq!(
                    (key.ends_with('='), key.starts_with("base64:")),
                    (text.ends_with('='), text.starts_with("base64:"))
                );
                let [(standard, url), (may_standard, may_url)] = [key, text].map(shows);
                assert!((!standard || may_standard) && (!url || may_url), "another alphabet");
            }
        }
    }
}
