//! The keyring itself: every operation, every refusal, and what no sequence of operations can do.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::Index;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::keyring::{Dates, KEY_BYTES, Key, KeyId, KeyMaterial, KeyState, Keyring, KeyringError, NotAKeyId};

use crate::keys::{CANARY_KEY, assert_shows_no_part_of, canary_key, from_hex, key, key_from, keys, same_id};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn at(seconds: u64) -> SystemTime {
    NOW + Duration::from_secs(seconds)
}

/// Primary 1, staged 2, secondary 3 and 4.
fn full() -> Keyring {
    let ring = Keyring::new(key(1)).unwrap().stage(key(2)).unwrap();
    ring.with_secondary(key(3)).unwrap().with_secondary(key(4)).unwrap()
}

fn compromised(key: Key) -> Key {
    let dates = Dates { compromised: Some(NOW), ..*key.dates() };
    key.with_dates(dates)
}

#[test]
fn the_id_of_a_key_is_what_other_programs_compute() {
    // python3: hashlib.sha256(b"rotation.key-id.v1\0" + key).hexdigest()[:8]
    for (key, id) in [
        ("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "107f3c51"),
        ("ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "16400e43"),
        ("0000000000000000000000000000000000000000000000000000000000000000", "2a0626a4"),
        ("30ff2de6a458ad467505e63fa4957056afd0733ef4fa4b877dcf23ef7429c053", "8bcd2844"),
    ] {
        let key = key_from(&from_hex(key));
        assert_eq!(key.id().to_string(), id);
        assert_eq!(key.id(), id.parse().unwrap());
        assert_eq!(key.id().number(), u32::from_str_radix(id, 16).unwrap());
        assert_eq!(key.id(), key.material().id());
        assert_eq!(serde_json::to_string(&key.id()).unwrap(), format!("\"{id}\""));
    }
}

#[test]
fn an_id_is_8_lower_case_hexadecimal_digits() {
    for good in ["00000000", "ffffffff", "1a2b3c4d", "00000001"] {
        assert_eq!(good.parse::<KeyId>().map(|id| id.to_string()).as_deref(), Ok(good));
    }
    for bad in
        ["", "1a2b3c4", "1a2b3c4d5", "1A2B3C4D", "1a2b3c4g", "+a2b3c4d", "0x2b3c4d", " a2b3c4d", "1a2b3c4\n", "éééé"]
    {
        assert_eq!(bad.parse::<KeyId>(), Err(NotAKeyId), "{bad:?}");
    }
    assert_eq!(NotAKeyId.to_string(), "expected 8 lower-case hexadecimal digits");
}

#[test]
fn a_key_has_32_bytes() {
    for length in 0..=65 {
        assert_eq!(KeyMaterial::new(&vec![7; length]).is_some(), length == KEY_BYTES, "{length}");
    }
    assert_eq!(KeyMaterial::new(CANARY_KEY).unwrap().expose(), CANARY_KEY);
}

#[test]
fn keys_are_the_same_when_every_byte_is() {
    let canary = KeyMaterial::new(CANARY_KEY).unwrap();
    assert_eq!(canary, KeyMaterial::new(CANARY_KEY).unwrap());
    for bit in 0..256 {
        let mut other = *CANARY_KEY;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(canary, KeyMaterial::new(&other).unwrap(), "bit {bit}");
    }
}

#[test]
fn a_new_key_comes_from_the_generator_alone_and_is_dated() {
    let made = |seed| Key::generate(at(7), &mut StdRng::seed_from_u64(seed));
    assert_eq!(made(1), made(1));
    assert_ne!(made(1).material(), made(2).material());
    assert_eq!(*made(1).dates(), Dates { created: Some(at(7)), ..Dates::default() });
    assert_eq!(*key(1).dates(), Dates::default());
    let mut rng = StdRng::seed_from_u64(1);
    let ids: BTreeSet<_> = (0..100).map(|_| Key::generate(NOW, &mut rng).id()).collect();
    assert_eq!(ids.len(), 100);
}

#[test]
fn a_ring_lists_its_keys_from_the_primary_to_the_oldest() {
    let ring = full();
    let states: Vec<_> = ring.keys().map(|(state, key)| (state, key.clone())).collect();
    let expected = [
        (KeyState::Primary, key(1)),
        (KeyState::Staged, key(2)),
        (KeyState::Secondary, key(3)),
        (KeyState::Secondary, key(4)),
    ];
    assert_eq!(states, expected);
    assert_eq!((ring.primary(), ring.staged(), ring.secondary()), (&key(1), Some(&key(2)), &[key(3), key(4)][..]));
    for held in 1..=4 {
        assert_eq!(ring.get(key(held).id()), Some(&key(held)));
    }
    assert_eq!(ring.get(key(5).id()), None);
}

#[test]
fn promotion_moves_staged_to_primary_and_primary_to_secondary() {
    let staged = key(2).with_dates(Dates { created: Some(at(1)), ..Dates::default() });
    let ring = Keyring::new(key(1)).unwrap().with_secondary(key(3)).unwrap().stage(staged.clone()).unwrap();
    let promoted = ring.promote(at(9)).unwrap();
    assert_eq!(promoted.primary(), &staged.promoted_at(at(9)));
    assert_eq!(promoted.primary().dates().promoted, Some(at(9)));
    assert_eq!(promoted.primary().dates().created, Some(at(1)), "what was known stays known");
    assert_eq!((promoted.staged(), promoted.secondary()), (None, &[key(1), key(3)][..]));
}

#[test]
fn key_made_primary_at_once_leaves_the_others_in_place() {
    let ring = full().replace_primary(key(5), at(9)).unwrap();
    assert_eq!(ring.primary(), &key(5).promoted_at(at(9)));
    assert_eq!((ring.staged(), ring.secondary()), (Some(&key(2)), &[key(1), key(3), key(4)][..]));
    let ring = full().unstage().replace_primary(key(5), at(9)).unwrap();
    assert_eq!((ring.staged(), ring.secondary()), (None, &[key(1), key(2), key(3), key(4)][..]));
    assert_eq!(Keyring::new(key(1)).unwrap().unstage(), Keyring::new(key(1)).unwrap(), "nothing to unstage");
}

#[test]
fn a_staged_key_is_dated_once() {
    let dated = full().date_staged(at(5));
    assert_eq!(dated.staged().unwrap().dates().created, Some(at(5)));
    assert_eq!(dated.clone().date_staged(at(6)), dated);
    let bare = Keyring::new(key(1)).unwrap();
    assert_eq!(bare.clone().date_staged(at(5)), bare);
}

#[test]
fn what_a_ring_does_not_allow_is_refused_by_name() {
    let ring = || Keyring::new(key(1)).unwrap();
    let [one, two] = [1, 2].map(|seed| key(seed).id());
    assert_eq!(full().stage(key(5)), Err(KeyringError::AlreadyStaged { id: two }));
    assert_eq!(ring().promote(NOW), Err(KeyringError::NothingStaged));
    let leaked = ring().stage(compromised(key(2))).unwrap();
    assert_eq!(leaked.promote(NOW), Err(KeyringError::Compromised { id: two }));

    let duplicate = |id| Err(KeyringError::Duplicate { id });
    for held in 1..=4 {
        let id = key(held).id();
        assert_eq!(full().with_secondary(key(held)), duplicate(id), "{held}");
        assert_eq!(full().replace_primary(key(held), NOW), duplicate(id), "{held}");
        assert_eq!(full().with_secondary(key(held).promoted_at(NOW)), duplicate(id), "dates make no other key of it");
    }
    assert_eq!(ring().stage(key(1)), duplicate(one));

    let zero = || key_from(&[0; 32]);
    let all_zero = Err(KeyringError::AllZero { id: zero().id() });
    assert_eq!(Keyring::new(zero()), all_zero);
    assert_eq!(ring().stage(zero()), all_zero);
    assert_eq!(ring().with_secondary(zero()), all_zero);
    assert_eq!(ring().replace_primary(zero(), NOW), all_zero);

    assert_eq!(full().retire(one), Err(KeyringError::NotSecondary { id: one }));
    assert_eq!(full().retire(two), Err(KeyringError::NotSecondary { id: two }));
    assert_eq!(full().retire(key(5).id()), Err(KeyringError::NoSuchKey { id: key(5).id() }));
}

#[test]
fn two_keys_with_the_same_id_are_never_in_one_ring() {
    let [one, other] = same_id();
    assert_ne!(one.material(), other.material());
    let id = one.id();
    assert_eq!((id, id.to_string().as_str()), (other.id(), "8bcd2844"));
    let same = Err(KeyringError::SameId { id });
    let ring = || Keyring::new(one.clone()).unwrap();
    assert_eq!(ring().stage(other.clone()), same);
    assert_eq!(ring().with_secondary(other.clone()), same);
    assert_eq!(ring().replace_primary(other.clone(), NOW), same);
    assert_eq!(Keyring::new(key(1)).unwrap().stage(one.clone()).unwrap().with_secondary(other.clone()), same);
    assert!(!ring().holds_all_of(&Keyring::new(other).unwrap()), "an id is not the key");
    assert!(ring().holds_all_of(&ring()));
}

#[test]
fn ring_holds_all_of_another_with_its_keys_in_any_state() {
    let promoted = full().promote(NOW).unwrap();
    assert!(promoted.holds_all_of(&full()) && full().holds_all_of(&promoted));
    let more = full().with_secondary(key(5)).unwrap();
    assert!(more.holds_all_of(&full()) && !full().holds_all_of(&more));
    let without = full().retire(key(3).id()).unwrap();
    assert!(full().holds_all_of(&without) && !without.holds_all_of(&full()));
}

#[test]
fn nothing_that_is_printed_of_a_ring_shows_a_key() {
    let canary = canary_key();
    let ring = Keyring::new(canary.clone()).unwrap().stage(key(2)).unwrap();
    let shown = format!("{canary:?} {canary:#?} {:?} {ring:?} {ring:#?} {}", canary.material(), canary.id());
    assert!(shown.contains("[REDACTED]"));
    assert_shows_no_part_of(CANARY_KEY, &shown);
    assert_shows_no_part_of(key(2).material().expose(), &shown);
    for error in [
        ring.clone().with_secondary(canary.clone()).unwrap_err(),
        ring.clone().stage(key(3)).unwrap_err(),
        ring.clone().retire(canary.id()).unwrap_err(),
        ring.clone().retire(key(9).id()).unwrap_err(),
    ] {
        assert_shows_no_part_of(CANARY_KEY, &format!("{error} {error:?} {error:#?}"));
    }
}

/// Something that a rotation, or an owner, does to a ring.
#[derive(Clone, Debug)]
enum Operation {
    Stage(Index),
    Secondary(Index),
    Promote,
    ReplacePrimary(Index),
    Unstage,
    DateStaged,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        3 => any::<Index>().prop_map(Operation::Stage),
        1 => any::<Index>().prop_map(Operation::Secondary),
        3 => Just(Operation::Promote),
        2 => any::<Index>().prop_map(Operation::ReplacePrimary),
        1 => Just(Operation::Unstage),
        1 => Just(Operation::DateStaged),
    ];
    prop::collection::vec(operation, 0..40)
}

fn perform(ring: Keyring, operation: &Operation, keys: &[Key], now: SystemTime) -> Result<Keyring, KeyringError> {
    let key = |index: &Index| keys[index.index(keys.len())].clone();
    match operation {
        Operation::Stage(index) => ring.stage(key(index)),
        Operation::Secondary(index) => ring.with_secondary(key(index)),
        Operation::Promote => ring.promote(now),
        Operation::ReplacePrimary(index) => ring.replace_primary(key(index), now),
        Operation::Unstage => Ok(ring.unstage()),
        Operation::DateStaged => Ok(ring.date_staged(now)),
    }
}

fn ids(ring: &Keyring) -> Vec<KeyId> {
    ring.keys().map(|(_, key)| key.id()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_operations_loses_a_key_or_doubles_one(keys in keys(20), operations in operations()) {
        let mut ring = Keyring::new(keys[0].clone()).unwrap();
        for (number, operation) in operations.iter().enumerate() {
            let before = ring.clone();
            let now = at(number as u64);
            // What is refused changes nothing: the ring before goes on.
            let Ok(after) = perform(ring.clone(), operation, &keys, now) else { continue };
            prop_assert!(after.holds_all_of(&before), "{operation:?}");
            let unique: BTreeSet<_> = ids(&after).into_iter().collect();
            prop_assert_eq!(unique.len(), ids(&after).len(), "{:?}", operation);
            let primaries = after.keys().filter(|(state, _)| *state == KeyState::Primary).count();
            let staged = after.keys().filter(|(state, _)| *state == KeyState::Staged).count();
            prop_assert!(primaries == 1 && staged <= 1, "{operation:?}");
            let grown = ids(&after).len() - ids(&before).len();
            let adds = matches!(operation, Operation::Stage(_) | Operation::Secondary(_) | Operation::ReplacePrimary(_));
            prop_assert_eq!(grown, usize::from(adds), "{:?}", operation);
            if after.primary().id() != before.primary().id() {
                prop_assert_eq!(after.primary().dates().promoted, Some(now), "{:?}", operation);
                prop_assert_eq!(after.secondary()[0].id(), before.primary().id(), "{:?}", operation);
            }
            ring = after;
        }
    }

    #[test]
    fn retiring_takes_exactly_the_one_key(keys in keys(20), operations in operations(), which in any::<Index>()) {
        let ring = Keyring::new(keys[0].clone()).unwrap();
        let ring = operations.iter().fold(ring, |ring, operation| {
            perform(ring.clone(), operation, &keys, NOW).unwrap_or(ring)
        });
        let id = keys[which.index(keys.len())].id();
        let state = ring.keys().find(|(_, key)| key.id() == id).map(|(state, _)| state);
        match (state, ring.clone().retire(id)) {
            (Some(KeyState::Secondary), Ok(after)) => {
                let expected: Vec<_> = ids(&ring).into_iter().filter(|held| *held != id).collect();
                prop_assert_eq!(ids(&after), expected);
                prop_assert!(ring.holds_all_of(&after));
            }
            (Some(KeyState::Primary | KeyState::Staged), refused) => {
                prop_assert_eq!(refused, Err(KeyringError::NotSecondary { id }));
            }
            (None, refused) => prop_assert_eq!(refused, Err(KeyringError::NoSuchKey { id })),
            (state, result) => prop_assert!(false, "{state:?} {result:?}"),
        }
    }
}

#[test]
fn keys_of_another_ring_come_as_the_oldest_and_marks_stay() {
    let other = Keyring::new(compromised(key(3))).unwrap().stage(key(2)).unwrap().with_secondary(key(5)).unwrap();
    let both = full().with_keys_of(&other).unwrap();
    let states: Vec<_> = both.keys().map(|(state, key)| (state, key.id())).collect();
    let of = |number| key(number).id();
    let (secondary, expected) = (KeyState::Secondary, [(KeyState::Primary, of(1)), (KeyState::Staged, of(2))]);
    assert_eq!(states, [&expected[..], &[(secondary, of(3)), (secondary, of(4)), (secondary, of(5))]].concat());
    assert_eq!(both.get(of(3)).unwrap().dates().compromised, Some(NOW), "known to others there is known to others");
    assert_eq!(other.lacking(&full()).map(|(_, key)| key.id()).collect::<Vec<_>>(), [of(1), of(4)]);
    assert_eq!(full().with_keys_of(&full()).unwrap(), full());
}
