//! The last look before promotion, what may be put back, and what is reported.

use encryption_key::MAX_PENDING_AGE;
use rotation::keyring::Dates;
use rotation::kind::SecretKind as _;
use serde_json::{Value, json};

use crate::*;

fn check(rotation: &Rotation, late: Duration, old: &Keyring, new: &Keyring) -> Result<(), RotationError> {
    let (old, new) = (rotation.value(old), rotation.following(old, new));
    unproven().check_succession(&rotation.at(now() + late, None), &old, &new, now())
}

fn changed() -> Result<(), RotationError> {
    Err(RotationError::CurrentChanged { name: NAME.to_owned() })
}

/// Every ring that a rotation can make, with the one that it is made from.
fn made() -> Vec<(&'static str, Rotation, Keyring, Keyring)> {
    let bare = ring(key(1));
    let staged = bare.clone().stage(key_of(2, now() - 90 * DAY)).unwrap();
    let undated = bare.clone().stage(key(2)).unwrap();
    [
        ("adds a staged key", Rotation::staged(), bare.clone()),
        ("promotes", Rotation::staged(), staged.clone()),
        ("dates the staged key", Rotation::staged(), undated),
        ("at once", Rotation::immediate(), bare),
        ("at once, with a staged key", Rotation::immediate(), staged),
    ]
    .map(|(what, rotation, old)| {
        let new = rotation.next(&aware(), now(), &old).unwrap();
        (what, rotation, old, new)
    })
    .into()
}

#[test]
fn a_ring_made_from_the_current_one_may_follow_it() {
    for (what, rotation, old, new) in made() {
        assert_eq!(check(&rotation, Duration::ZERO, &old, &new), Ok(()), "{what}");
    }
}

#[test]
fn a_ring_that_lacks_a_key_of_the_current_one_may_not_follow() {
    for (what, rotation, old, new) in made() {
        let edited = old.with_secondary(key(7)).unwrap();
        assert_eq!(check(&rotation, Duration::ZERO, &edited, &new), changed(), "{what}: a key was added by hand");
    }
    let [one, other] = same_id();
    let (old, new) = (ring(key(1)).with_secondary(one).unwrap(), ring(key(1)).with_secondary(other).unwrap());
    assert_eq!(check(&Rotation::staged(), Duration::ZERO, &old, &new), changed(), "another key with the same id");
}

#[test]
fn with_staged_promotion_only_a_staged_key_becomes_primary() {
    for old in [ring(key(1)), ring(key(1)).stage(key(2)).unwrap()] {
        let fresh = old.clone().replace_primary(key(7), now()).unwrap();
        assert_eq!(check(&Rotation::staged(), Duration::ZERO, &old, &fresh), changed());
        // At once means both: a staged key was as exposed as the primary.
        let at_once = check(&Rotation::immediate(), Duration::ZERO, &old, &fresh);
        assert_eq!(at_once, if old.staged().is_some() { changed() } else { Ok(()) });
    }
    let old = ring(key(1)).with_secondary(key(2)).unwrap();
    let back = ring(key(2)).with_secondary(key(1)).unwrap();
    assert_eq!(check(&Rotation::staged(), Duration::ZERO, &old, &back), changed(), "nor one that was secondary");
}

#[test]
fn a_pending_ring_may_wait_a_day_and_no_second_more() {
    for (what, rotation, old, new) in made() {
        for late in [Duration::ZERO, HOUR, MAX_PENDING_AGE] {
            assert_eq!(check(&rotation, late, &old, &new), Ok(()), "{what}");
        }
        let too_old = Err(RotationError::PendingTooOld { name: NAME.to_owned(), created: now() });
        for late in [MAX_PENDING_AGE + SECOND, 90 * DAY] {
            assert_eq!(check(&rotation, late, &old, &new), too_old, "{what}");
        }
    }
}

#[test]
fn a_ring_that_changes_nothing_is_given_up() {
    for (what, rotation, old, new) in made() {
        for same in [old, new] {
            let unchanged = Err(RotationError::ValueUnchanged { version: version("new") });
            assert_eq!(check(&rotation, Duration::ZERO, &same, &same), unchanged, "{what}");
        }
    }
}

#[test]
fn previous_ring_is_put_back_only_with_the_new_primary() {
    let back: Vec<_> = made()
        .into_iter()
        .map(|(what, rotation, old, new)| {
            let (old, new) = (rotation.value(&old), rotation.following(&old, &new));
            (what, unproven().may_be_put_back(&rotation.at(now(), None), &old, &new))
        })
        .collect();
    let expected = [
        ("adds a staged key", true),
        ("promotes", true),
        ("dates the staged key", true),
        ("at once", false),
        ("at once, with a staged key", false),
    ];
    assert_eq!(back, expected);

    let rotation = Rotation::staged();
    let [one, other] = same_id();
    let (old, new) = (rotation.value(&ring(one)), rotation.value(&ring(other)));
    let subject = rotation.at(now(), None);
    assert!(!unproven().may_be_put_back(&subject, &old, &new), "another key with the same id");
    assert!(!unproven().may_be_put_back(&subject, &old, &rotation.parse(r#"{"TOKEN_ENCRYPTION_KEY":"no key"}"#)));
}

fn report(rotation: &Rotation, old: Option<&Keyring>, new: &Keyring) -> serde_json::Value {
    let (old, new) = (old.map(|old| rotation.value(old)), rotation.value(new));
    unproven().report(&rotation.at(now(), None), old.as_ref(), &new).into()
}

#[test]
fn the_report_names_keys_by_id_and_says_what_is_left_to_do() {
    let id = |seed| key(seed).id().to_string();
    let (bare, rotation) = (ring(key(1)), Rotation::staged());
    let staged = bare.clone().stage(key(2)).unwrap();
    let promoted = staged.clone().promote(now()).unwrap().stage(key(3)).unwrap();
    let readable = |primary| {
        format!(
            "data under the secondary keys stays readable and has to be re-encrypted under {primary} before they are retired"
        )
    };
    let waits = |key| {
        format!(
            "key {key} is staged and encrypts nothing yet: the next rotation makes it primary, when every consumer has it"
        )
    };
    let exposed = |keys: &str| {
        format!(
            "{keys} no longer encrypt: if they were exposed, what is encrypted with them still is; {}",
            readable(id(4))
        )
    };

    let expected = json!({"primaryKey": id(1), "stagedKey": id(2), "secondaryKeys": [], "remaining": waits(id(2))});
    assert_eq!(report(&rotation, Some(&bare), &staged), expected);
    assert_eq!(report(&rotation, None, &staged), expected, "of a first value as well");
    assert_eq!(
        report(&rotation, Some(&staged), &promoted),
        json!({"primaryKey": id(2), "stagedKey": id(3), "secondaryKeys": [id(1)], "remaining": readable(id(2))})
    );
    let at_once = bare.clone().replace_primary(key(4), now()).unwrap();
    assert_eq!(
        report(&rotation, Some(&bare), &at_once),
        json!({"primaryKey": id(4), "stagedKey": null, "secondaryKeys": [id(1)], "remaining": exposed(&id(1))})
    );
    let both = staged.clone().unstage().replace_primary(key(4), now()).unwrap().stage(key(5)).unwrap();
    assert_eq!(
        report(&rotation, Some(&staged), &both),
        json!({"primaryKey": id(4), "stagedKey": id(5), "secondaryKeys": [id(1), id(2)],
            "remaining": exposed(&format!("{}, {}", id(1), id(2)))})
    );
    let alone = json!({"primaryKey": id(1), "stagedKey": null, "secondaryKeys": [], "remaining": null});
    assert_eq!(report(&Rotation::text("raw", "immediate"), None, &bare), alone, "nothing is left to do");
}

#[test]
fn a_report_shows_no_key() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let dates = Dates { created: Some(now()), ..Dates::default() };
        let old = ring(key(1)).stage(key(2).with_dates(dates)).unwrap();
        let new = old.clone().promote(now()).unwrap().stage(key(3)).unwrap();
        let reported = report(&rotation, Some(&old), &new).to_string();
        assert_shows_no_key(&reported, [1, 2, 3].map(key));
    }
}

/// What a person can do to the ring between createSecret and finishSecret, beside adding a key.
#[test]
fn mark_retirement_or_disabled_key_in_between_is_never_undone() {
    let rotation = Rotation::staged();
    let old = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap().with_secondary(key(5)).unwrap();
    let new = rotation.following(&old, &rotation.next(&aware(), now(), &old).unwrap());
    let check = |old: &Document| unproven().check_succession(&rotation.at(now(), None), old, &new, now());
    assert_eq!(check(&rotation.value(&old)), Ok(()), "nothing came in between");

    let compromised = Dates { compromised: Some(now()), ..*old.staged().unwrap().dates() };
    let marked = ring(key(1)).stage(key(2).with_dates(compromised)).unwrap().with_secondary(key(5)).unwrap();
    assert_eq!(check(&rotation.value(&marked)), changed(), "the staged key was marked as compromised");
    assert_eq!(check(&rotation.value(&old.clone().retire(key(5).id()).unwrap())), changed(), "a key was retired");
    let text = rotation.value(&old).text().expose().replacen("\\\"keys\\\"", "\\\"owner\\\":1,\\\"keys\\\"", 1);
    let noted = Document::parse(secret(&text), rotation.policy.field.as_ref()).unwrap();
    assert_eq!(rotation.ring(&noted), old, "the note is well-formed");
    assert_eq!(check(&noted), changed(), "a note was made in NAME_RING");
}

#[test]
fn a_ring_that_was_made_before_the_emergency_is_given_up_in_it() {
    let old = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap();
    let before = Rotation::staged().next(&aware(), now(), &old).unwrap();
    assert_eq!(check(&Rotation::staged(), Duration::ZERO, &old, &before), Ok(()));
    assert_eq!(check(&Rotation::immediate(), Duration::ZERO, &old, &before), changed(), "its primary was exposed too");
    let only_staged = Rotation::staged().next(&aware(), now(), &ring(key(1))).unwrap();
    assert_eq!(check(&Rotation::immediate(), Duration::ZERO, &ring(key(1)), &only_staged), changed());
}

#[test]
fn a_keyset_entry_that_no_ring_tells_of_is_never_lost() {
    let rotation = Rotation::json("tink", "staged");
    let old = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap();
    let new = rotation.following(&old, &rotation.next(&aware(), now(), &old).unwrap());
    let check = |old: &Document| unproven().check_succession(&rotation.at(now(), None), old, &new, now());
    assert_eq!(check(&rotation.value(&old)), Ok(()));
    // A disabled key, which somebody put there in between.
    let mut members: Value = serde_json::from_str(rotation.value(&old).text().expose()).unwrap();
    let mut keyset: Value = serde_json::from_str(members[FIELD].as_str().unwrap()).unwrap();
    let entry = json!({ "status": "DISABLED", "keyId": 77, "outputPrefixType": "TINK" });
    keyset["key"].as_array_mut().unwrap().push(entry);
    members[FIELD] = json!(keyset.to_string());
    let edited = Document::parse(secret(&members.to_string()), rotation.policy.field.as_ref()).unwrap();
    assert_eq!(rotation.ring(&edited), old, "the ring is the same");
    assert_eq!(check(&edited), changed());
}

#[test]
fn a_date_with_a_fraction_of_a_second_does_not_stop_rotations() {
    let rotation = Rotation::staged();
    let old = rotation.value(&ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap());
    for member in ["created", "promoted", "compromised"] {
        let dated = format!("\\\"state\\\":\\\"primary\\\",\\\"{member}\\\":\\\"2026-11-24T00:00:00.123Z\\\"");
        let text = old.text().expose().replacen("\\\"state\\\":\\\"primary\\\"", &dated, 1);
        let old = Document::parse(secret(&text), rotation.policy.field.as_ref()).unwrap();
        let new = aware().create(&rotation.at(now(), None), &old, &mut rng(3)).unwrap();
        let checked = unproven().check_succession(&rotation.at(now(), None), &old, &new, now());
        assert_eq!(checked, Ok(()), "{member}");
    }
}

#[test]
fn ring_of_a_left_version_may_not_follow_the_restored_one() {
    let rotation = Rotation::immediate();
    let first = ring(key(1));
    let second = rotation.next(&aware(), now(), &first).unwrap();
    let third = rotation.next(&aware(), now(), &second).unwrap();
    assert_eq!(check(&rotation, Duration::ZERO, &second, &third), Ok(()));
    assert_eq!(check(&rotation, Duration::ZERO, &first, &third), changed());
}

#[test]
fn ring_is_put_back_only_with_every_key_that_may_have_encrypted() {
    let rotation = Rotation::staged();
    let held = ring(key(1)).stage(key(2)).unwrap();
    let current = held.clone().with_secondary(key(7)).unwrap();
    let back = |old: &Keyring, new: &Keyring| {
        unproven().may_be_put_back(&rotation.at(now(), None), &rotation.value(old), &rotation.value(new))
    };
    assert!(back(&current, &held));
    assert!(!back(&held, &current), "a secondary key would be dropped");
    assert!(back(&ring(key(1)), &held), "a staged key has encrypted nothing");
}
