//! A third kind, which the rest knows nothing of: signing secrets. Senders sign messages with what is in `AWSCURRENT`, or was
//! before the last rotation; every instance of the receiving application has to accept both.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::keyring::{Key, KeyFormat};
use rotation::secret::SecretText;
use rotation::target::http::TokenSecret;
use rotation::target::{ReportedKeys, TargetSettings};
use rotation::versions::Stage;
use signing_secret::SigningSecret;

use super::{CREDENTIAL, CREDENTIAL_SECRET, Model, Port, Shape, member, object, told};
use crate::invariants::{Change, Checked, Moved, require};
use crate::scenario::{Defect, Scenario};
use crate::schedule::Edit;
use crate::state::State;
use crate::world::Inner;

const FIELD: &str = "SIGNING_SECRET";
const PREVIOUS: &str = "SIGNING_SECRET_PREVIOUS";

/// A signing secret, whose two receivers accept all stages and load the secret when they are told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signing;

impl fmt::Display for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("signing secret")
    }
}

/// The secrets that one receiver accepts.
#[derive(Clone, Debug, Default)]
pub struct Held(Vec<Arc<str>>);

/// The secret that senders may still have: the one before the last rotation.
#[derive(Debug, Default)]
pub struct Memory(Option<Arc<str>>);

fn secret(number: u64, now: SystemTime) -> String {
    let key = Key::generate(now, &mut StdRng::seed_from_u64(number << 32));
    KeyFormat::Raw.wire().first(&key).expose().to_owned()
}

impl Model for Signing {
    type Kind<T: Port> = SigningSecret<T>;
    type Instance = Held;
    type Memory = Memory;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        let sound = Scenario::new(Self);
        vec![sound, sound.empty(), sound.with_defect(Defect::Frozen), sound.with_defect(Defect::DropsPromoted)]
    }

    fn shape(self) -> Shape {
        Shape::Json
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        vec![]
    }

    fn kind<T: Port>(self, target: Option<T>) -> SigningSecret<T> {
        SigningSecret::new(target.map(|target| (target, TokenSecret::new(CREDENTIAL_SECRET.to_owned(), None))))
    }

    fn initial(self, number: u64, created: SystemTime) -> String {
        object(&format!(r#""{FIELD}": "{}""#, secret(number, created)))
    }

    fn edits(self) -> &'static [Edit] {
        &[Edit::OtherMember, Edit::Secret]
    }

    fn edited(self, _: Edit, old: Option<&Arc<str>>, number: u64, now: SystemTime) -> String {
        let own = secret(number + 1000, now);
        let held = old.and_then(|old| Some((old, member(old, FIELD)?)));
        match held {
            Some((old, secret)) => old.replacen(&*secret, &own, 1),
            None => object(&format!(r#""{FIELD}": "{own}""#)),
        }
    }

    fn instances(self) -> usize {
        2
    }

    fn target(self) -> Option<TargetSettings> {
        told(Some(2))
    }

    fn loaded(self, state: &State) -> Option<Held> {
        let current = state.value_at(&Stage::Current)?;
        let pending = state.value_at(&Stage::Pending).and_then(|pending| member(pending, FIELD));
        Some(Held([Some(member(current, FIELD)?), member(current, PREVIOUS), pending].into_iter().flatten().collect()))
    }

    fn accepts(self, _: &Held, token: &str, _: SystemTime) -> bool {
        token == CREDENTIAL
    }

    fn reports(self, held: &Held) -> Option<ReportedKeys> {
        let ids = held.0.iter().filter_map(|secret| signing_secret::id(&SecretText::new(secret.to_string())).ok());
        Some(ReportedKeys { decrypts_with: ids.collect(), ..ReportedKeys::default() })
    }

    fn is_made_from(self, new: &str, old: &str) -> bool {
        member(new, PREVIOUS).is_some_and(|kept| Some(kept) == member(old, FIELD))
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        let before = change.old.and_then(|old| member(old, FIELD));
        let after = change.new.and_then(|new| member(new, FIELD));
        match change.moved {
            // One that is promoted again was put back, and may be known no more until the receivers are told.
            Moved::Promoted { again: false } => world.memory.0 = before,
            Moved::ByHand if before == after => {}
            _ => world.memory.0 = None,
        }
        Ok(())
    }

    /// Whoever signs with the current secret is accepted by every receiver, and by one that starts now; so is who signs with
    /// the one before the last rotation. A broken receiver accepts the secret from before all rotations at all times; one that
    /// holds nothing has not started.
    fn judge(world: &mut Inner<Self>) -> Checked {
        let state = world.state();
        let Some(fresh) = world.scenario.model.loaded(&state) else { return Ok(()) };
        let current = state.value_at(&Stage::Current).and_then(|value| member(value, FIELD));
        let first = world.first.as_ref().and_then(|first| member(first, FIELD));
        let signed_with = if world.is_healthy() { [current, world.memory.0.clone()] } else { [first, None] };
        for secret in signed_with.iter().flatten() {
            let accept = world.instances.iter().all(|held| held.0.is_empty() || held.0.contains(secret));
            require(accept, || "a receiver refuses a signature".to_owned())?;
            let accepts = !world.is_healthy() || fresh.0.contains(secret);
            require(accepts, || "a new receiver would refuse a signature".to_owned())?;
        }
        Ok(())
    }

    fn judge_success(_: &Inner<Self>) -> Checked {
        // Every moment was judged.
        Ok(())
    }
}
