//! The table of admission, row by row and exhaustively.

use std::collections::BTreeSet;

use rotation::admission::Admission;
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::versions::{Stage, Versions};

const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Perform,
    NothingToDo,
    RepeatAfterPromotion,
    FinishRollback,
    NotPending,
}
use Decision::{FinishRollback, NotPending, NothingToDo, Perform, RepeatAfterPromotion};

/// The stages of the event's version, and what each step may do. A combination that the service does not make
/// (current and previous at once) is decided as well: what is current is never rotated again.
#[rustfmt::skip]
const TABLE: [(&[&str], [Decision; 4]); 8] = [
    //                                              createSecret    setSecret       testSecret      finishSecret
    (&[],                                          [NotPending,     NotPending,     NotPending,     NotPending]),
    (&["AWSPREVIOUS"],                             [NotPending,     NotPending,     NotPending,     NotPending]),
    (&["AWSPENDING"],                              [Perform,        Perform,        Perform,        Perform]),
    (&["AWSPENDING", "AWSPREVIOUS"],               [FinishRollback, FinishRollback, FinishRollback, FinishRollback]),
    (&["AWSCURRENT"],                              [NothingToDo,    NothingToDo,    NothingToDo,    RepeatAfterPromotion]),
    (&["AWSCURRENT", "AWSPENDING"],                [NothingToDo,    NothingToDo,    NothingToDo,    RepeatAfterPromotion]),
    (&["AWSCURRENT", "AWSPREVIOUS"],               [NothingToDo,    NothingToDo,    NothingToDo,    RepeatAfterPromotion]),
    (&["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"], [NothingToDo,    NothingToDo,    NothingToDo,    RepeatAfterPromotion]),
];

fn version(name: &str) -> VersionId {
    VersionId::new(name.to_owned())
}

fn versions(listed: &[(&str, &[&str])]) -> Versions {
    let stages = |names: &[&str]| names.iter().copied().map(Stage::from).collect::<BTreeSet<_>>();
    listed.iter().map(|(id, names)| (version(id), stages(names))).collect()
}

fn decision(admission: &Result<Admission, RotationError>) -> Decision {
    match admission {
        Ok(Admission::Perform(_)) => Perform,
        Ok(Admission::NothingToDo) => NothingToDo,
        Ok(Admission::RepeatAfterPromotion(_)) => RepeatAfterPromotion,
        Ok(Admission::FinishRollback(_)) => FinishRollback,
        Err(RotationError::NotPending { .. }) => NotPending,
        Err(error) => panic!("no decision of the table: {error}"),
    }
}

#[test]
fn every_row_of_the_table_holds_for_every_step() {
    let rows: BTreeSet<_> = TABLE.iter().map(|(stages, _)| *stages).collect();
    assert_eq!(rows.len(), 8, "all combinations of three stages");
    for (stages, expected) in TABLE {
        for (step, expected) in STEPS.into_iter().zip(expected) {
            for other in [&[] as &[&str], &["AWSPENDING"]] {
                let secret = versions(&[("mine", stages), ("other", other)]);
                let admission = secret.admit(&version("mine"), step);
                assert_eq!(decision(&admission), expected, "{stages:?} {step} beside {other:?}");
                if let Err(RotationError::NotPending { version: named, holder }) = admission {
                    assert_eq!(named, version("mine"));
                    assert_eq!(holder, (!other.is_empty()).then(|| version("other")), "{stages:?} {step}");
                }
            }
        }
    }
}

#[test]
fn a_version_that_is_not_listed_is_unknown_at_every_step() {
    for listed in [versions(&[]), versions(&[("other", &["AWSCURRENT", "AWSPENDING"])])] {
        for step in STEPS {
            let holder = listed.holder(&Stage::Pending).cloned();
            let unknown = RotationError::UnknownVersion { version: version("mine"), holder };
            assert_eq!(listed.admit(&version("mine"), step), Err(unknown));
        }
    }
}

#[test]
fn stages_of_other_names_do_not_admit() {
    for name in ["awspending", "AWSPENDING ", "AWSPENDING2", "CUSTOM", ""] {
        for step in STEPS {
            let admission = versions(&[("mine", &[name])]).admit(&version("mine"), step);
            assert_eq!(decision(&admission), NotPending, "{name:?} {step}");
        }
    }
}

#[test]
fn foreign_pending_version_is_never_admitted() {
    let secret = versions(&[("old", &["AWSCURRENT"]), ("foreign", &["AWSPENDING"]), ("mine", &["AWSPREVIOUS"])]);
    for step in STEPS {
        let error = secret.admit(&version("mine"), step).unwrap_err();
        assert_eq!(error.name(), "NotPending");
        assert!(error.to_string().contains("foreign"), "names who is pending: {error}");
    }
}

#[test]
fn the_proof_of_admission_holds_what_was_seen() {
    let secret = versions(&[("older", &["AWSPREVIOUS"]), ("old", &["AWSCURRENT", "CUSTOM"]), ("new", &["AWSPENDING"])]);
    for step in STEPS {
        let Ok(Admission::Perform(admitted)) = secret.admit(&version("new"), step) else { panic!("{step}") };
        assert_eq!(admitted.version(), &version("new"));
        assert_eq!(admitted.current(), Some(&version("old")));
        assert_eq!(admitted.previous(), Some(&version("older")));
    }
    let first = versions(&[("new", &["AWSPENDING"])]);
    let Ok(Admission::Perform(admitted)) = first.admit(&version("new"), Step::CreateSecret) else { panic!() };
    assert_eq!((admitted.current(), admitted.previous()), (None, None), "a secret without a value");

    let promoted = versions(&[("new", &["AWSCURRENT", "AWSPENDING"]), ("old", &["AWSPREVIOUS"])]);
    let Ok(Admission::RepeatAfterPromotion(admitted)) = promoted.admit(&version("new"), Step::FinishSecret) else {
        panic!()
    };
    assert_eq!((admitted.current(), admitted.previous()), (Some(&version("new")), Some(&version("old"))));
}

#[test]
fn stages_are_spelled_as_secrets_manager_spells_them() {
    for name in ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS", "blue", ""] {
        assert_eq!(Stage::from(name).as_str(), name);
    }
    let other = |name: &str| matches!(Stage::from(name), Stage::Other(_));
    assert!(other("blue") && !other("AWSCURRENT") && !other("AWSPENDING") && !other("AWSPREVIOUS"));
}
