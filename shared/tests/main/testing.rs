//! The rulebook that the fakes of all tests go by: what is recorded of Secrets Manager.

use rotation::event::VersionId;
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::versions::Stage;

fn version(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn stages(stages: &[(&str, &str)]) -> Stages {
    stages.iter().map(|(stage, id)| (Stage::from(*stage), version(id))).collect()
}

fn private(count: usize) -> Vec<Stage> {
    (0..count).map(|number| Stage::Other(format!("MINE-{number}"))).collect()
}

#[test]
fn moving_awscurrent_moves_awsprevious_by_itself() {
    let mut secret = stages(&[("AWSCURRENT", "old"), ("AWSPREVIOUS", "older"), ("AWSPENDING", "new")]);
    secret.move_stage(&Stage::Current, Some(&version("old")), Some(&version("new")), |_| true).unwrap();
    assert_eq!(secret, stages(&[("AWSCURRENT", "new"), ("AWSPREVIOUS", "old"), ("AWSPENDING", "new")]));
    // Back: the failed version has the previous stage now.
    secret.move_stage(&Stage::Current, Some(&version("new")), Some(&version("old")), |_| true).unwrap();
    assert_eq!(secret, stages(&[("AWSCURRENT", "old"), ("AWSPREVIOUS", "new"), ("AWSPENDING", "new")]));
}

#[test]
fn refused_move_changes_nothing_and_says_why() {
    let before = stages(&[("AWSCURRENT", "old"), ("AWSPENDING", "new")]);
    let (old, new, other) = (version("old"), version("new"), version("other"));
    let known = |id: &VersionId| id.as_str() != "other";
    for (stage, from, to, refusal) in [
        (Stage::Current, Some(&new), Some(&new), Refusal::NotThere(new.clone())),
        (Stage::Current, None, Some(&new), Refusal::Elsewhere(old.clone())),
        (Stage::Current, Some(&old), Some(&other), Refusal::UnknownVersion(other.clone())),
        (Stage::Current, Some(&old), None, Refusal::CurrentStays),
        (Stage::Pending, None, None, Refusal::NoVersion),
        (Stage::Previous, Some(&old), None, Refusal::NotThere(old.clone())),
    ] {
        let mut secret = before.clone();
        assert_eq!(secret.move_stage(&stage, from, to, known), Err(refusal));
        assert_eq!(secret, before);
    }
}

#[test]
fn first_version_is_current_whatever_stage_its_caller_names() {
    let mut secret = Stages::default();
    let put = secret.put(&version("a"), Existing::Nothing, &1, Some(&private(1)), PrivatePut::Abandons);
    assert_eq!(put, Ok(Written::Created));
    assert_eq!(secret, stages(&[("AWSCURRENT", "a"), ("MINE-0", "a")]));
}

#[test]
fn token_takes_one_value_and_ignores_it_the_next_time() {
    let mut secret = stages(&[("AWSCURRENT", "old"), ("AWSPENDING", "new")]);
    let before = secret.clone();
    let mut put =
        |existing, value| secret.put(&version("new"), existing, &value, Some(&[Stage::Pending]), PrivatePut::Abandons);
    assert_eq!(put(Existing::Opened, 1), Ok(Written::Filled));
    assert_eq!(put(Existing::Value(&1), 1), Ok(Written::Unchanged));
    assert_eq!(put(Existing::Value(&1), 2), Err(Refusal::TokenUsed));
    assert_eq!(secret, before);
}

#[test]
fn new_version_takes_awspending_away_as_the_rules_say() {
    let open = || stages(&[("AWSCURRENT", "old"), ("AWSPENDING", "new")]);
    for (labels, private_put, stays) in [
        (None, PrivatePut::Leaves, false),
        (Some(private(1)), PrivatePut::Abandons, false),
        (Some(private(1)), PrivatePut::Leaves, true),
        (Some(vec![Stage::Current]), PrivatePut::Leaves, false),
    ] {
        let mut secret = open();
        secret.put(&version("by hand"), Existing::Others, &1, labels.as_deref(), private_put).unwrap();
        assert_eq!(secret.holder(&Stage::Pending).is_some(), stays, "{labels:?} {private_put:?}");
    }
}

#[test]
fn twenty_first_stage_is_refused_and_nothing_has_moved() {
    let mut secret = stages(&[("AWSCURRENT", "old")]);
    let mut put = |count| secret.put(&version("new"), Existing::Others, &1, Some(&private(count)), PrivatePut::Leaves);
    assert_eq!(put(20), Err(Refusal::TooManyStages));
    assert_eq!(put(19), Ok(Written::Created));
    let full = secret.clone();
    // AWSPREVIOUS comes with it.
    let moved = secret.move_stage(&Stage::Current, Some(&version("old")), Some(&version("new")), |_| true);
    assert_eq!(moved, Err(Refusal::TooManyStages));
    assert_eq!(secret.open_rotation(&version("newer")), Err(Refusal::TooManyStages));
    assert_eq!(secret, full);
}

#[test]
fn versions_without_a_stage_are_not_listed() {
    let mut secret = stages(&[("AWSCURRENT", "old"), ("AWSPENDING", "new")]);
    secret.move_stage(&Stage::Pending, Some(&version("new")), None, |_| true).unwrap();
    assert!(secret.listed().contains(&version("old")) && !secret.listed().contains(&version("new")));
}
