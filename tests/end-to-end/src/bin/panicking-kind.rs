//! A rotation function whose testSecret panics, with the value at hand: what a bug in a new kind of secret looks like.

use std::time::SystemTime;

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::policy::Settings;
use rotation::token::{TOKEN_SETTINGS, TokenFormat};

struct PanickingKind;

impl SecretKind for PanickingKind {
    const SETTINGS: Settings = TOKEN_SETTINGS;
    const VARIABLES: &'static [&'static str] = &["TARGET_"];

    fn has_target(&self) -> bool {
        true
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        Document::first(&TokenFormat::of(subject.policy).generate(rng), subject.policy.field.as_ref())
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        current.with_secret(&TokenFormat::of(subject.policy).generate(rng))
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
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        _: Deadline,
        _: &mut StdRng,
    ) -> Result<(), RotationError> {
        // Everything that such a kind has in its hands, as careless code would print it.
        panic!("a bug met {subject:?} {values:?} {phase:?} {:?}", values.new.secret())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::run(|_| Ok(PanickingKind)).await
}
