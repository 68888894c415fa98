//! What the staging labels of a delivery say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rotation::delivery::{
    Delivery, Undelivered, delivered_stage, delivered_to, delivered_to_stage, delivering, delivering_stage,
    is_compromised,
};
use rotation::error::RotationError;
use rotation::policy::{RotationPolicy, StackPolicy, consumed_secrets};
use rotation::token::TOKEN_SETTINGS;
use rotation::versions::{Stage, VersionId, Versions};

use crate::environment;

const BEGAN: &str = "ROTATION-DELIVERING-1764409800";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn version(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn versions(labels: &[(&str, &[&str])]) -> Versions {
    let stages = |labels: &&[&str]| labels.iter().map(|label| Stage::from(*label)).collect::<BTreeSet<_>>();
    labels.iter().map(|(id, labels)| (version(id), stages(labels))).collect()
}

#[test]
fn a_secret_is_delivered_by_the_label_on_its_current_version() {
    let now = versions(&[("v1", &["AWSPREVIOUS"]), ("v2", &["AWSCURRENT", "ROTATION-DELIVERED"])]);
    assert_eq!(Delivery::of(&now), Delivery::Delivered);
}

#[test]
fn a_delivery_that_has_begun_counts_against_any_version() {
    for labels in [
        [("v1", &["ROTATION-DELIVERED"][..]), ("v2", &["AWSCURRENT", BEGAN])],
        [("v1", &[BEGAN]), ("v2", &["AWSCURRENT", "ROTATION-DELIVERED"])],
        [("v1", &["AWSPREVIOUS"]), ("v2", &["AWSCURRENT", "ROTATION-DELIVERED", BEGAN])],
        [("v1", &["AWSPREVIOUS"]), ("v2", &["AWSCURRENT", BEGAN])],
    ] {
        let expected = Delivery::NotDelivered { began: Some(at(1_764_409_800)) };
        assert_eq!(Delivery::of(&versions(&labels)), expected, "{labels:?}");
    }
}

#[test]
fn without_labels_nothing_is_delivered() {
    for labels in [&[("v1", &["AWSCURRENT"][..])][..], &[]] {
        assert_eq!(Delivery::of(&versions(labels)), Delivery::NotDelivered { began: None });
    }
    let before = versions(&[("v1", &["ROTATION-DELIVERED"]), ("v2", &["AWSCURRENT"])]);
    assert_eq!(Delivery::of(&before), Delivery::DeliveredBefore(&version("v1")));
}

#[test]
fn foreign_and_broken_labels_begin_no_delivery() {
    let labels: &[&str] = &[
        "ROTATION-DELIVERING-",
        "ROTATION-DELIVERING-x",
        "ROTATION-DELIVERING--1",
        "ROTATION-DELIVERING-99999999999999999999",
        "ROTATION-DELIVERINGS",
        "rotation-delivering-1",
        "AWSCURRENT",
    ];
    assert_eq!(delivering(&versions(&[("v1", labels)])).count(), 0);
}

#[test]
fn a_label_reads_back_as_it_was_written() {
    let began = at(1_764_409_800);
    assert_eq!(delivering_stage(began + Duration::from_millis(999)).as_str(), BEGAN);
    let versions = versions(&[("v1", &["AWSCURRENT", BEGAN])]);
    let found: Vec<_> = delivering(&versions).collect();
    assert_eq!((found[0].version.as_str(), found[0].stage.as_str(), found[0].began), ("v1", BEGAN, began));
    for stage in [delivering_stage(began), delivered_stage(), delivered_to_stage(["ecs shop/api"])] {
        assert!(stage.is_of_delivery() && !stage.is_restored_after_any());
    }
    let to = delivered_to_stage(["ecs shop/api", "function restart"]);
    assert_ne!(to, delivered_to_stage(["ecs shop/api"]));
    let told = self::versions(&[("v1", &["AWSCURRENT", "ROTATION-DELIVERED", to.as_str()])]);
    assert_eq!(delivered_to(&told).collect::<Vec<_>>(), [(&version("v1"), &to)]);
    for stage in [Stage::Current, Stage::Previous, Stage::from("ROTATION-DELIVER"), Stage::from("ROTATION-RING")] {
        assert!(!stage.is_of_delivery(), "{}", stage.as_str());
    }
}

fn policy(overlap: &str) -> RotationPolicy {
    let stack = StackPolicy::from_environment(&environment(&[("ROTATION_OVERLAP", overlap)]), TOKEN_SETTINGS).unwrap();
    stack.for_secret(&BTreeMap::new(), at(0)).unwrap()
}

#[test]
fn a_value_waits_since_the_earlier_of_version_and_delivery() {
    let begun: &[&str] = &["ROTATION-DELIVERING-400", "ROTATION-DELIVERED"];
    let versions = versions(&[("v1", &["AWSCURRENT", "ROTATION-DELIVERING-500"]), ("v2", begun)]);
    assert_eq!(Undelivered::of(&versions, at(450)).since(), at(400));
    assert_eq!(Undelivered::of(&versions, at(300)).since(), at(300));
}

#[test]
fn a_first_delivery_counts_from_its_beginning() {
    let begun = Undelivered::of(&versions(&[("v1", &["AWSCURRENT", "ROTATION-DELIVERING-400"])]), at(300));
    assert_eq!((begun.since(), begun.late_from(&policy("24h"))), (at(400), Some(at(400 + 6 * 3600))));
    let before = Undelivered::of(&versions(&[("v1", &["AWSCURRENT"])]), at(300));
    assert_eq!((before.since(), before.late_from(&policy("24h"))), (at(300), None));
}

#[test]
fn a_delivery_is_late_after_a_quarter_of_the_overlap() {
    let versions = versions(&[("v1", &["ROTATION-DELIVERED"]), ("v2", &["AWSCURRENT"])]);
    for (overlap, late) in [("24h", 6 * 3600), ("1h", 15 * 60), ("0s", 15 * 60)] {
        assert_eq!(Undelivered::of(&versions, at(300)).late_from(&policy(overlap)), Some(at(300 + late)), "{overlap}");
    }
}

#[test]
fn only_the_label_of_a_leak_on_the_current_version_counts() {
    let leaked = "ROTATION-COMPROMISED-01234567";
    assert!(is_compromised(&versions(&[("v1", &["AWSCURRENT", leaked])])));
    assert!(!is_compromised(&versions(&[("v1", &[leaked]), ("v2", &["AWSCURRENT"])])));
    assert!(!is_compromised(&versions(&[("v1", &["AWSCURRENT", "ROTATION-COMPROMISED", "ROTATION-EXPOSED-0"])])));
    assert!(!is_compromised(&Versions::default()));
}

#[test]
fn labels_of_a_delivery_tell_of_no_other_value() {
    let labels: &[&str] = &["AWSCURRENT", "ROTATION-DELIVERED", BEGAN];
    assert!(versions(&[("v1", labels)]).only_ever(&[&version("v1")]));
    let other = versions(&[("v1", &["AWSCURRENT"]), ("v0", &["ROTATION-DELIVERED"])]);
    assert!(!other.only_ever(&[&version("v1")]), "another version was delivered");
}

#[test]
fn consumed_secrets_are_named_without_the_prefix() {
    let read = |list: &'static str| {
        consumed_secrets(&environment(&[("SECRET_NAME_PREFIX", "shop/"), ("CONSUMED_SECRETS", list)]))
    };
    let expected: BTreeSet<_> = ["shop/key", "shop/a/b"].map(str::to_owned).into();
    assert_eq!(read("key, a/b"), Ok(expected));
    for list in [",", "key,", "key,,b", "key,key", "key, key "] {
        let Err(RotationError::InvalidConfiguration { variable, .. }) = read(list) else { panic!("{list}") };
        assert_eq!(variable, "CONSUMED_SECRETS");
    }
    assert_eq!(consumed_secrets(&environment(&[])), Ok(BTreeSet::new()));
    let misspelt = consumed_secrets(&environment(&[("CONSUMED_SECRET", "key")])).unwrap_err();
    assert!(misspelt.to_string().contains("CONSUMED_SECRETS"), "{misspelt}");
}
