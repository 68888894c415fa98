//! Staged tokens: servers and clients that read the secret only when they start. A model of `deliver` starts them anew, one by
//! one, and keeps the labels of a delivery by the real functions. No client is ever refused, except from a compromise until
//! everything is started anew.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::delivery::{Delivery, delivered_stage, delivering, delivering_stage};
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{SecretKind, Subject};
use rotation::secret::SecretText;
use rotation::target::TargetSettings;
use rotation::target::http::HttpTarget;
use rotation::time::parse_timestamp;
use rotation::versions::Stage;

use super::{Model, Port, Refusal, Shape, member, object};
use crate::invariants::{Change, Checked, Moved, require};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::Scenario;
use crate::schedule::{Action, Edit, Operation};
use crate::state::State;
use crate::world::{Actor, Inner};

const FIELD: &str = "ADMIN_TOKEN";
/// The first instances are servers, and the others are clients.
const SERVERS: usize = 2;
const CLIENTS: usize = 2;
/// A deployment reads a version whose label is older than this: reads are eventually consistent.
const READ_AFTER: Duration = Duration::from_secs(60);

/// What proves that servers hold the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `deliver` has delivered the value.
    Delivery,
    /// Every server is asked.
    Servers,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing.
    Nothing,
    /// Rotations begin whether or not the value is delivered.
    IgnoresDelivery,
    /// A rotation makes a fresh token current, in place of the next one.
    PromotesFresh,
}

/// A staged token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    proof: Proof,
    broken: Broken,
}

impl fmt::Display for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "staged token, proof {:?}", self.proof)?;
        if self.broken == Broken::Nothing { Ok(()) } else { write!(f, ", broken {:?}", self.broken) }
    }
}

/// What one process read when it started: the tokens that it accepts, and the one that it sends.
#[derive(Clone, Debug, Default)]
pub struct Started {
    accepts: Vec<(Arc<str>, Option<SystemTime>)>,
    sends: Option<Arc<str>>,
}

/// What has to be remembered.
#[derive(Debug, Default)]
pub struct Memory {
    /// When the last delivery ended. A step that was admitted before may still refuse.
    delivered: Option<SystemTime>,
    /// A compromise has replaced the tokens, and not everything was started anew since.
    compromised: bool,
}

/// The longest that the attempts of one rotation take after its createSecret, when nobody waits.
const REFUSED_FOR: Duration = Duration::from_secs(10 * 60);

impl Staged {
    /// A staged token in a secret that is in use and delivered.
    #[must_use]
    pub fn scenario(proof: Proof) -> Scenario<Self> {
        Scenario::new(Self { proof, broken: Broken::Nothing })
    }

    /// The same, broken.
    #[must_use]
    pub fn broken(scenario: Scenario<Self>, broken: Broken) -> Scenario<Self> {
        Scenario { model: Self { broken, ..scenario.model }, ..scenario }
    }

    /// Whether consumers with the value of `delivered` need nothing more for the one of `current`.
    fn needs_nothing(world: &Inner<Self>, delivered: &VersionId, current: &VersionId) -> bool {
        let (kind, state, now) = (AdminToken::<HttpTarget>::new(None), world.state(), world.now());
        let Ok(policy) = world.scenario.stack(&kind).and_then(|stack| stack.for_secret(&world.tags, now)) else {
            return false;
        };
        let value = |version| {
            let text = SecretText::new(state.value(version)?.to_string());
            kind.parse(&policy, text).ok()
        };
        let (Some(delivered), Some(current)) = (value(delivered), value(current)) else { return false };
        kind.needs_no_delivery(&policy, &delivered, &current, now).unwrap_or_default()
    }

    fn move_label(world: &mut Inner<Self>, stage: &Stage, from: Option<&VersionId>, to: Option<&VersionId>) {
        let mut state = world.changed();
        let moved = state.move_stage(stage, from, to);
        world.found(moved.map_err(|refusal| format!("deliver could not move {stage:?}: {refusal:?}")));
        world.commit(&Actor::Service, state);
    }

    /// One step of `deliver`; whether there may be more to do. It may die after every one.
    fn step(world: &mut Inner<Self>) -> bool {
        let versions = world.state().listed();
        let Some(current) = versions.holder(&Stage::Current).cloned() else { return false };
        match Delivery::of(&versions) {
            Delivery::Delivered => return false,
            Delivery::DeliveredBefore(before) if Self::needs_nothing(world, before, &current) => {
                let before = before.clone();
                Self::move_label(world, &delivered_stage(), Some(&before), Some(&current));
                return true;
            }
            Delivery::DeliveredBefore(_) | Delivery::NotDelivered { .. } => {}
        }
        let (own, others): (Vec<_>, Vec<_>) = delivering(&versions).partition(|label| *label.version == current);
        let Some(newest) = own.iter().max_by_key(|label| label.began) else {
            let same = others.iter().find(|label| Self::needs_nothing(world, label.version, &current));
            let stage = same.map_or_else(|| delivering_stage(world.now()), |label| label.stage.clone());
            let from = versions.holder(&stage).cloned();
            Self::move_label(world, &stage, from.as_ref(), Some(&current));
            return true;
        };
        if let Some(old) = others.iter().chain(own.iter().filter(|label| *label != newest)).next() {
            let (stage, version) = (old.stage.clone(), old.version.clone());
            Self::move_label(world, &stage, Some(&version), None);
            return true;
        }
        let from = newest.began + READ_AFTER;
        if let Some(instance) = (0..SERVERS + CLIENTS).find(|instance| world.loaded_at(*instance) < from) {
            world.wait_until(from);
            world.load(instance);
            return true;
        }
        match versions.holder(&delivered_stage()).cloned() {
            Some(delivered) if delivered == current => {
                let stage = newest.stage.clone();
                Self::move_label(world, &stage, Some(&current), None);
                world.memory = Memory { delivered: Some(world.now()), compromised: false };
            }
            delivered => Self::move_label(world, &delivered_stage(), delivered.as_ref(), Some(&current)),
        }
        true
    }

    fn is_delivered(world: &Inner<Self>) -> bool {
        let versions = world.state().listed();
        let Some(current) = versions.holder(&Stage::Current) else { return false };
        match Delivery::of(&versions) {
            Delivery::Delivered => true,
            Delivery::DeliveredBefore(before) => Self::needs_nothing(world, before, current),
            Delivery::NotDelivered { .. } => false,
        }
    }
}

fn of(value: &str, suffix: &str) -> Option<Arc<str>> {
    member(value, &format!("{FIELD}{suffix}"))
}

impl Model for Staged {
    type Kind<T: Port> = AdminToken<T>;
    type Instance = Started;
    type Memory = Memory;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        vec![Self::scenario(Proof::Delivery), Self::scenario(Proof::Servers)]
    }

    fn shape(self) -> Shape {
        Shape::Json
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        let gated = self.proof == Proof::Delivery && self.broken != Broken::IgnoresDelivery;
        if gated { vec![("CONSUMED_SECRETS", "shop/secret")] } else { vec![] }
    }

    fn tags(self) -> &'static [(&'static str, &'static str)] {
        &[("rotation:promotion", "staged")]
    }

    fn kind<T: Port>(self, target: Option<T>) -> AdminToken<T> {
        AdminToken::new(target)
    }

    fn initial(self, number: u64, _: SystemTime) -> String {
        object(&format!(r#""{FIELD}": "initial-token-{number}", "{FIELD}_NEXT": "initial-next-{number}""#))
    }

    fn begin(self, state: &mut State) {
        let current = state.holder(&Stage::Current).cloned();
        if let (Proof::Delivery, Some(current)) = (self.proof, current) {
            // It stands at no other version.
            state.move_stage(&delivered_stage(), None, Some(&current)).unwrap_or_default();
        }
    }

    fn edits(self) -> &'static [Edit] {
        &[Edit::OtherMember, Edit::Secret, Edit::OfKind("another next token")]
    }

    /// Whoever stores a token of their own starts everything anew; `Edit::Secret` does that.
    fn edited(self, edit: Edit, old: Option<&Arc<str>>, number: u64, _: SystemTime) -> String {
        let Some(old) = old else { return object(&format!(r#""{FIELD}": "token-of-a-person-{number}""#)) };
        let replaced = if edit == Edit::Secret { of(old, "") } else { of(old, "_NEXT") };
        replaced.map_or(old.to_string(), |replaced| {
            old.replacen(&format!("\"{replaced}\""), &format!("\"token-of-a-person-{number}\""), 1)
        })
    }

    fn instances(self) -> usize {
        SERVERS + CLIENTS
    }

    fn target(self) -> Option<TargetSettings> {
        let instances = NonZeroUsize::new(SERVERS);
        let settings = TargetSettings { can_refresh: false, instances, timeout: Duration::from_secs(2) };
        (self.proof == Proof::Servers).then_some(settings)
    }

    fn asked_instances(self) -> usize {
        SERVERS
    }

    fn loaded(self, state: &State) -> Option<Started> {
        let value = state.value_at(&Stage::Current)?;
        let token = of(value, "")?;
        let until = of(value, "_PREVIOUS_UNTIL").and_then(|until| parse_timestamp(&until));
        let previous = of(value, "_PREVIOUS").zip(until).map(|(previous, until)| (previous, Some(until)));
        let accepts = [Some((token.clone(), None)), of(value, "_NEXT").map(|next| (next, None)), previous];
        Some(Started { accepts: accepts.into_iter().flatten().collect(), sends: Some(token) })
    }

    fn accepts(self, held: &Started, token: &str, now: SystemTime) -> bool {
        held.accepts.iter().any(|(held, until)| **held == *token && until.is_none_or(|until| now < until))
    }

    fn is_made_from(self, new: &str, old: &str) -> bool {
        let promoted = of(new, "") == of(old, "_NEXT") && of(new, "_PREVIOUS") == of(old, "");
        let only_staged = of(old, "_NEXT").is_none() && of(new, "") == of(old, "");
        of(new, "_NEXT").is_some() && (promoted || only_staged || self.broken == Broken::PromotesFresh)
    }

    const OPERATIONS: &'static [Operation] = &[Operation::Rollback, Operation::Revoke, Operation::Compromise];

    fn operate(self, operator: Operator<Self>) -> Operating {
        let kind = self.kind(operator.target(self));
        Box::pin(operator.perform_on_token(kind))
    }

    fn in_use(self, value: &Arc<str>) -> Option<Name> {
        of(value, "")
    }

    fn exposed_with(self, value: &Arc<str>) -> BTreeSet<Name> {
        ["", "_NEXT", "_PREVIOUS"].into_iter().filter_map(|suffix| of(value, suffix)).collect()
    }

    fn back(self, state: &State) -> Option<Name> {
        of(state.value_at(&Stage::Current)?, "_PREVIOUS")
    }

    fn is_made_by(self, operation: Operation, new: &str, old: &str) -> bool {
        let (swapped, same) = (of(new, "") == of(old, "_PREVIOUS"), |suffix| of(new, suffix) == of(old, suffix));
        match operation {
            Operation::Rollback => swapped && of(new, "_PREVIOUS") == of(old, "") && same("_NEXT"),
            Operation::Revoke | Operation::EndOverlap => same("") && same("_NEXT") && of(new, "_PREVIOUS").is_none(),
            Operation::Compromise => {
                let exposed = self.exposed_with(&Arc::from(old));
                exposed.is_disjoint(&self.exposed_with(&Arc::from(new))) && of(new, "_NEXT").is_some()
            }
            Operation::Abort | Operation::Restore | Operation::Retire => false,
        }
    }

    fn operation_refusal(world: &Inner<Self>, operation: Operation, error: &str) -> Refusal {
        let undelivered = !Self::is_delivered(world) || world.memory.compromised;
        let honest = match (operation, error) {
            (Operation::Revoke, "NotDelivered") | (Operation::Compromise, "NotFinished") => undelivered,
            (Operation::EndOverlap, "OnHold") => undelivered || world.quiet() <= Duration::from_secs(60 * 60),
            _ => false,
        };
        if honest { Refusal::ForNow } else { Refusal::Wrong }
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        world.memory.compromised |= change.moved == Moved::Operated(Operation::Compromise);
        Ok(())
    }

    /// Every server accepts what every client sends. A token whose overlap is over is refused by its own date: whoever
    /// holds it was not started anew in all that time, and the delivery is late.
    fn judge(world: &mut Inner<Self>) -> Checked {
        if world.memory.compromised {
            return Ok(());
        }
        let (model, now) = (world.scenario.model, world.now());
        let in_use = world.state().value_at(&Stage::Current).and_then(|value| of(value, ""));
        let (servers, clients) = world.instances.split_at(SERVERS);
        for (server, sent) in clients
            .iter()
            .filter_map(|client| client.sends.as_ref())
            .flat_map(|sent| servers.iter().map(move |server| (server, sent)))
        {
            let is_over = in_use.as_ref() != Some(sent)
                && server.accepts.iter().any(|(held, until)| held == sent && until.is_some());
            require(is_over || model.accepts(server, sent, now), || "a client is refused".to_owned())?;
        }
        Ok(())
    }

    fn judge_success(world: &Inner<Self>) -> Checked {
        let state = world.state();
        let next = state.value_at(&Stage::Current).and_then(|value| of(value, "_NEXT"));
        require(next.is_some(), || "a rotation succeeded, and no next token is staged".to_owned())
    }

    fn refusal(world: &Inner<Self>, _: &VersionId, error: &str) -> Refusal {
        let (model, now, state) = (world.scenario.model, world.now(), world.state());
        let next = state.value_at(&Stage::Current).and_then(|value| of(value, "_NEXT"));
        let lacks = |next: &Arc<str>| world.instances[..SERVERS].iter().any(|held| !model.accepts(held, next, now));
        let ended = world.memory.delivered.is_some_and(|ended| now < ended + REFUSED_FOR);
        let honest = match error {
            // Who gave the version up may have died before it said why.
            "NotDelivered" | "UnknownVersion" => ended || !Self::is_delivered(world),
            "TargetRefused" => next.is_some_and(|next| lacks(&next)),
            _ => false,
        };
        if honest { Refusal::ForNow } else { Refusal::Wrong }
    }

    fn between(self, rng: &mut StdRng) -> Vec<Action> {
        if self.proof == Proof::Servers {
            // Nobody looks after the clients: who rotates has started them anew.
            let clients = (SERVERS..SERVERS + CLIENTS).map(Action::ReloadOne);
            let servers = (0..SERVERS).filter(|_| rng.random_bool(0.7)).map(Action::ReloadOne).collect::<Vec<_>>();
            return clients.chain(servers).collect();
        }
        let steps = rng.random_range(0..8);
        let mut between = vec![Action::Deliver; steps];
        if rng.random_bool(0.5) {
            between.push(Action::Wait(self.pause(rng)));
        }
        if rng.random_bool(0.6) {
            between.push(Action::Reload);
        }
        between
    }

    fn most_rotations(self) -> usize {
        4
    }

    fn reloads(self) -> &'static [Action] {
        match self.proof {
            Proof::Delivery => {
                &[Action::Reload, Action::Deliver, Action::ReloadOne(0), Action::ReloadOne(2), Action::ReloadOne(3)]
            }
            Proof::Servers => &[Action::Reload, Action::ReloadOne(0), Action::ReloadOne(2)],
        }
    }

    fn reload(world: &mut Inner<Self>) {
        if world.scenario.model.proof == Proof::Servers {
            let state = world.state();
            world.memory.compromised = false;
            return world.load_all(&state);
        }
        while Self::step(world) && world.violation.is_none() {}
    }

    fn deliver(world: &mut Inner<Self>) {
        Self::step(world);
    }

    fn create<K: SecretKind>(
        self,
        kind: &K,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        let Subject { admitted, name, policy, now, last_rotated, current_created, credential, delivered } = *subject;
        let delivered = delivered || self.broken == Broken::IgnoresDelivery;
        let subject = Subject { admitted, name, policy, now, last_rotated, current_created, credential, delivered };
        match self.broken {
            Broken::PromotesFresh => {
                let mut seeded = StdRng::seed_from_u64(rng.random());
                let fresh = AdminToken::<HttpTarget>::with_fresh_tokens(&subject, current, &mut seeded)?.secret()?;
                AdminToken::<HttpTarget>::with_token(&subject, current, &fresh)
            }
            Broken::Nothing | Broken::IgnoresDelivery => kind.create(&subject, current, rng),
        }
    }

    fn check_succession<K: SecretKind>(
        self,
        kind: &K,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        if self.broken == Broken::PromotesFresh { Ok(()) } else { kind.check_succession(subject, old, new, created) }
    }
}
