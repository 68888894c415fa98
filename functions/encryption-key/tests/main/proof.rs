//! What is proven before and after promotion: the ring by itself, and the keys that the application reports.

use rotation::deadline::Deadline;
use rotation::keyring::KeyId;
use rotation::kind::{Phase, SecretKind as _, Values};

use crate::*;

const PHASES: [Phase; 3] = [Phase::BeforePromotion, Phase::AfterPromotion, Phase::Configuration];

/// The ring before a staged rotation.
fn old() -> Keyring {
    ring(key(1)).stage(key(2)).unwrap()
}

/// The ring after it.
fn new() -> Keyring {
    old().promote(now()).unwrap().stage(key(3)).unwrap()
}

/// The ring when nothing but a staged key was added.
fn only_staged() -> Keyring {
    ring(key(1)).stage(key(2)).unwrap()
}

async fn test(
    kind: &Kind,
    rotation: &Rotation,
    phase: Phase,
    old: &Keyring,
    new: &Keyring,
) -> Result<(), RotationError> {
    // One that lost a key cannot be written over the old one.
    let new = if new.holds_all_of(old) { rotation.following(old, new) } else { rotation.value(new) };
    let old = rotation.value(old);
    let old = (phase != Phase::Configuration).then_some(&old);
    let token = secret(TOKEN);
    let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
    kind.test(&subject, Values { old, new: &new }, phase, Deadline::after(60 * SECOND), &mut rng(1)).await
}

/// What keeps consumers from being proven.
#[track_caller]
fn unproven_because(result: Result<(), RotationError>, problem: &str) {
    match result {
        Err(RotationError::ConsumersUnproven { problem: told }) => assert!(told.contains(problem), "{told}"),
        other => panic!("{other:?}"),
    }
}

fn with_verify(verify: &str) -> Rotation {
    Rotation::of(&[("ROTATION_FIELD", FIELD), ("ROTATION_VERIFY", verify)])
}

#[tokio::test]
async fn ring_is_proven_by_canaries_in_each_format_without_a_target() {
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        for phase in PHASES {
            assert_eq!(test(&unproven(), &rotation, phase, &old(), &new()).await, Ok(()), "{name} {phase:?}");
        }
        let lacking = ring(key(2)).stage(key(3)).unwrap();
        let error = test(&unproven(), &rotation, Phase::AfterPromotion, &old(), &lacking).await.unwrap_err();
        let problem = format!("it lacks key {}", key(1).id());
        assert_eq!(error, RotationError::KeyringUnproven { problem }, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn pending_ring_not_made_from_current_is_given_up_unasked() {
    let [one, other] = same_id();
    for (old, new) in [
        (old().with_secondary(key(7)).unwrap(), new()),
        (ring(key(1)), ring(key(7)).with_secondary(key(1)).unwrap()),
        (ring(key(1)).with_secondary(one).unwrap(), ring(key(1)).with_secondary(other).unwrap()),
    ] {
        let kind = asking(Application::silent());
        let error = test(&kind, &Rotation::staged(), Phase::BeforePromotion, &old, &new).await.unwrap_err();
        assert_eq!(error, RotationError::CurrentChanged { name: NAME.to_owned() });
        assert_asked(&kind, &[]);
    }
}

#[tokio::test]
async fn replaced_key_with_the_same_id_is_found_by_its_canary() {
    let [one, other] = same_id();
    for (name, _) in FORMATS {
        let rotation = Rotation::json(name, "staged");
        let old = ring(key(1)).with_secondary(one.clone()).unwrap();
        let new = ring(key(1)).with_secondary(other.clone()).unwrap();
        let error = test(&unproven(), &rotation, Phase::AfterPromotion, &old, &new).await.unwrap_err();
        let problem = format!("it does not decrypt a canary under key {}", one.id());
        assert_eq!(error, RotationError::KeyringUnproven { problem }, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_reports_every_key_proves_the_ring() {
    let rotation = Rotation::staged();
    for (phase, primary) in [
        (Phase::BeforePromotion, Some(key(1))),
        (Phase::AfterPromotion, Some(key(2))),
        (Phase::AfterPromotion, None),
        (Phase::Configuration, None),
    ] {
        let kind = asking(Application::with(&new(), primary.as_ref()));
        assert_eq!(test(&kind, &rotation, phase, &old(), &new()).await, Ok(()), "{phase:?}");
        assert_asked(&kind, &[Operation::Keys]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_application_proves_no_new_primary_key() {
    let rotation = Rotation::staged();
    let silence = "the target reports no key_ids: let the application report the keys that it reads";
    for phase in [Phase::BeforePromotion, Phase::AfterPromotion] {
        let silent = || asking(Application::silent());
        unproven_because(test(&silent(), &rotation, phase, &old(), &new()).await, silence);
        // Nothing is encrypted with another key than before.
        assert_eq!(test(&silent(), &rotation, phase, &ring(key(1)), &only_staged()).await, Ok(()), "{phase:?}");
        let declared = Consumers { keyring_aware: true, ..Consumers::default() };
        let declared = Kind::new(Some((Application::silent(), token_secret())), declared);
        assert_eq!(test(&declared, &rotation, phase, &old(), &new()).await, Ok(()), "{phase:?}");
    }
    let configured = test(&asking(Application::silent()), &rotation, Phase::Configuration, &old(), &new()).await;
    assert_eq!(configured, Ok(()), "nothing is being promoted");
}

#[tokio::test(start_paused = true)]
async fn application_that_lacks_a_key_proves_nothing() {
    let rotation = Rotation::staged();
    let lacking = format!("instance i-1 does not report {}: it must load the keyring first", key(3).id());
    for keyring_aware in [false, true] {
        for phase in [Phase::BeforePromotion, Phase::AfterPromotion] {
            let consumers = Consumers { keyring_aware, ..Consumers::default() };
            let kind = Kind::new(Some((Application::with(&old(), None), token_secret())), consumers);
            unproven_because(test(&kind, &rotation, phase, &old(), &new()).await, &lacking);
        }
    }
    let kind = asking(Application::with(&ring(key(9)), None));
    let mut missing: Vec<KeyId> = [1, 2].map(|seed| key(seed).id()).into();
    missing.sort_unstable();
    let [one, other] = missing[..] else { panic!() };
    let both = format!("does not report {one}, {other}:");
    unproven_because(test(&kind, &rotation, Phase::BeforePromotion, &ring(key(1)), &only_staged()).await, &both);
}

#[tokio::test(start_paused = true)]
async fn application_with_another_primary_is_found_after_promotion() {
    let rotation = Rotation::staged();
    let stuck = || asking(Application::with(&new(), Some(&key(1))));
    let other = format!("instance i-1 does not encrypt with the new primary key {}", key(2).id());
    unproven_because(test(&stuck(), &rotation, Phase::AfterPromotion, &old(), &new()).await, &other);
    assert_eq!(test(&stuck(), &rotation, Phase::BeforePromotion, &old(), &new()).await, Ok(()), "as it should by then");
}

#[tokio::test(start_paused = true)]
async fn reader_of_awscurrent_must_hold_the_next_primary_beforehand() {
    let rotation = with_verify("after");
    let holds_old = || asking(Application::with(&old(), Some(&key(1))));
    assert_eq!(test(&holds_old(), &rotation, Phase::BeforePromotion, &old(), &new()).await, Ok(()));
    let lacking = format!("does not report {}", key(3).id());
    unproven_because(test(&holds_old(), &rotation, Phase::AfterPromotion, &old(), &new()).await, &lacking);
    unproven_because(
        test(&holds_old(), &with_verify("before"), Phase::BeforePromotion, &old(), &new()).await,
        &lacking,
    );
    let bare = asking(Application::with(&ring(key(1)), None));
    let lacking = format!("does not report {}", key(2).id());
    unproven_because(test(&bare, &rotation, Phase::BeforePromotion, &old(), &new()).await, &lacking);
}

#[tokio::test(start_paused = true)]
async fn refused_admin_token_is_told_from_a_missing_key() {
    let rotation = Rotation::staged();
    let (old, new) = (rotation.value(&old()), rotation.following(&old(), &new()));
    let token = secret("another");
    let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
    for phase in PHASES {
        let kind = asking(Application::silent());
        let values = Values { old: (phase != Phase::Configuration).then_some(&old), new: &new };
        let error = kind.test(&subject, values, phase, Deadline::after(60 * SECOND), &mut rng(1)).await.unwrap_err();
        assert_eq!(error.name(), "TargetRefused");
        let told = "the target refuses the admin token: is it the one in TARGET_TOKEN_SECRET, and TARGET_HEADER right?";
        assert_eq!(error.to_string(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn application_is_refreshed_with_its_own_token_when_needed() {
    let refreshed = async |verify, phase| {
        let (rotation, kind) = (with_verify(verify), asking(Application::silent()));
        let (old, new) = (rotation.value(&old()), rotation.following(&old(), &new()));
        let token = secret(TOKEN);
        let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
        kind.set(&subject, Values { old: Some(&old), new: &new }, phase, Deadline::after(60 * SECOND)).await.unwrap();
        kind
    };
    for (verify, phase, asked) in [
        ("before", Phase::BeforePromotion, &[Operation::Refresh][..]),
        ("before", Phase::AfterPromotion, &[Operation::Refresh]),
        ("after", Phase::BeforePromotion, &[]),
        ("after", Phase::AfterPromotion, &[Operation::Refresh]),
    ] {
        assert_asked(&refreshed(verify, phase).await, asked);
    }
}

#[tokio::test(start_paused = true)]
async fn ring_comes_into_use_within_the_settle_time() {
    struct Slow(TargetSettings);
    impl Target for Slow {
        async fn ask(&self, operation: Operation, _: &str, _: &SecretText) -> Result<Answer, String> {
            tokio::time::sleep(Duration::from_millis(9_900)).await;
            let verdict = if operation == Operation::Refresh { Verdict::Accepted } else { Verdict::Unwell(503) };
            Ok(Answer { verdict, instance: None, keys: None })
        }
        fn settings(&self) -> &TargetSettings {
            &self.0
        }
    }
    let slow = Slow(TargetSettings { can_refresh: true, instances: None, timeout: 10 * SECOND });
    let kind = EncryptionKey::new(Some((slow, token_secret())), Consumers::default());
    let rotation = Rotation::staged();
    let (old, new) = (rotation.value(&old()), rotation.following(&old(), &new()));
    let (values, token) = (Values { old: Some(&old), new: &new }, secret(TOKEN));
    let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
    let (start, deadline) = (tokio::time::Instant::now(), Deadline::after(DAY));
    kind.set(&subject, values, Phase::AfterPromotion, deadline).await.unwrap();
    let error = kind.test(&subject, values, Phase::AfterPromotion, deadline, &mut rng(1)).await.unwrap_err();
    assert_eq!(error.name(), "TargetUnavailable");
    let taken = start.elapsed();
    assert!(taken > 19 * SECOND && taken <= kind.settle_time(), "{taken:?} of {:?}", kind.settle_time());
    assert_eq!((unproven().has_target(), unproven().settle_time()), (false, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn key_unknown_before_it_encrypts_fails_with_verify_after() {
    let rotation =
        Rotation::of(&[("ROTATION_FIELD", FIELD), ("ROTATION_VERIFY", "after"), ("ROTATION_PROMOTION", "immediate")]);
    let current = ring(key(1));
    let asked = || asking(Application::with(&current, Some(&key(1))));
    let told = "with rotation:verify=after the application cannot know the new key before it encrypts";
    unproven_because(rotation.next(&asked(), now(), &current).map(drop), told);
    let next = rotation.next(&aware(), now(), &current).unwrap();
    unproven_because(test(&asked(), &rotation, Phase::BeforePromotion, &current, &next).await, told);
}
