//! What `doctor` says of a kind that this project does not ship.

use std::time::{Duration, SystemTime};

use operate::error::OperateError;
use operate::kinds::{Kind, OperatedKind, Summary};
use operate::session::Operation;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::lambda::randomness;
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::session::Session;
use rotation::store::SecretStore as _;

use crate::environment;
use crate::store::{DAY, Store};

const NAME: &str = "shop/pepper";

/// A kind that never asks an application: its function refuses the variables `TARGET_*`.
struct Alone;

impl SecretKind for Alone {
    fn first(&self, _: &Subject<'_>, _: &mut StdRng) -> Result<Document, RotationError> {
        Err(RotationError::EmptyValue)
    }

    fn create(&self, _: &Subject<'_>, current: &Document, _: &mut StdRng) -> Result<Document, RotationError> {
        Ok(current.clone())
    }

    fn check_succession(
        &self,
        _: &Subject<'_>,
        _: &Document,
        _: &Document,
        _: SystemTime,
    ) -> Result<(), RotationError> {
        Ok(())
    }

    async fn test(
        &self,
        _: &Subject<'_>,
        _: Values<'_>,
        _: Phase,
        _: Deadline,
        _: &mut StdRng,
    ) -> Result<(), RotationError> {
        Ok(())
    }
}

impl OperatedKind for Alone {
    const KIND: Kind = Kind::Other;
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;

    fn summary(&self, _: &Subject<'_>, _: &Document) -> Result<Summary, RotationError> {
        Ok(Summary::Keyring { keys: vec![] })
    }

    fn same_in_use(&self, _: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        Ok(one.secret()? == other.secret()?)
    }

    fn value_before(
        &self,
        _: &Subject<'_>,
        _: &Document,
        _: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_kind_that_asks_nobody_is_well_without_a_target() {
    let store = Store::new();
    store.secret(NAME, Some("stack-pepper"), |secret| secret.with_version("v", "a pepper", DAY, &["AWSCURRENT"]));
    let stack = StackPolicy::from_environment(&environment(&[]), Alone::SETTINGS).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let operation = Operation::new(Session { kind: &Alone, store: &store, stack: &stack, secret_id: NAME, deadline });
    let secret = store.describe(NAME).await.unwrap();
    let findings = operation.doctor(&secret, &mut randomness().unwrap()).await;
    let findings = serde_json::to_value(findings).unwrap();
    let target = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "target").unwrap();
    assert_eq!((&target["ok"], target.get("repair")), (&true.into(), None), "{findings:#}");
}
