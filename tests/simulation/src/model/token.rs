//! Admin tokens: the application lets pass who has one of the tokens that it holds.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use rotation::target::TargetSettings;
use rotation::time::parse_timestamp;
use rotation::versions::Stage;

use super::{Model, Port, Refusal, Shape, member, object, told};
use crate::invariants::{Change, Checked, Moved, require};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::{Defect, Scenario, Staleness};
use crate::schedule::{Edit, Operation};
use crate::state::State;
use crate::world::Inner;

const FIELD: &str = "ADMIN_TOKEN";

/// The overlap in force: the function's default.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

/// Who uses the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// Nobody is asked or told.
    None,
    /// Two instances with ids, that accept all stages and load the secret only when they are told to: the rotation has to
    /// reach each of them.
    Told,
    /// Two instances without ids, that accept all stages and load the secret again when they meet an unknown token.
    Reloading,
    /// Two instances with ids, that accept `AWSCURRENT` only: rotated with `rotation:verify=after`.
    CurrentOnly,
}

/// An admin token, and who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the value looks like.
    pub shape: Shape,
    /// Who uses the token.
    pub application: Application,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, application {:?}", self.shape, self.application)
    }
}

/// What one instance holds: tokens, each until a time or until it loads again.
#[derive(Clone, Debug, Default)]
pub struct Held(Vec<(Arc<str>, Option<SystemTime>)>);

/// Which tokens have to be accepted beside the current one.
#[derive(Debug, Default)]
pub struct Memory {
    /// The token that was current before a rotation, and until when it has to be accepted.
    previous: Option<(Arc<str>, SystemTime)>,
    /// The token that was current before the last move by a rotation, whichever direction that had.
    displaced: Option<Arc<str>>,
    /// The instances may have dropped the token that has just become current, until they are told: its version was put
    /// back once, and promoted again by an invocation that was admitted before; or a rollback came after the overlap.
    until_told: bool,
}

impl Memory {
    fn previous(&self, now: SystemTime) -> Option<&Arc<str>> {
        self.previous.as_ref().filter(|(_, until)| now < *until).map(|(token, _)| token)
    }
}

impl Token {
    /// A token in a secret that is in use.
    #[must_use]
    pub fn scenario(shape: Shape, application: Application) -> Scenario<Self> {
        Scenario::new(Self { shape, application })
    }

    fn token(self, value: &Arc<str>) -> Option<Arc<str>> {
        match self.shape {
            Shape::Text => Some(Arc::clone(value)),
            Shape::Json => member(value, FIELD),
        }
    }

    /// When an overlap with `AWSPREVIOUS` ends for an application that goes by the age of the current version. One that does not accepts
    /// the token as long as the stage is there.
    fn end_of_text(self, state: &State) -> Option<SystemTime> {
        let current = state.versions.get(state.holder(&Stage::Current)?)?;
        (self.application == Application::Told).then_some(current.created + OVERLAP)
    }

    /// Whether the secret still has an overlap that was over a while ago.
    fn is_still_over(self, world: &Inner<Self>) -> bool {
        let (state, ago) = (world.state(), world.now() - Duration::from_secs(2));
        let current = state.holder(&Stage::Current).and_then(|current| state.versions.get(current));
        let Some(current) = current else { return false };
        match self.shape {
            Shape::Json => {
                previous_member(current.value.as_ref()).is_some_and(|(_, until)| until.is_some_and(|until| until < ago))
            }
            Shape::Text => {
                let previous = state.holder(&Stage::Previous);
                let began = world.last_rotated(&state).map_or(current.created, |rotated| rotated.max(current.created));
                // Long after a rotation it is a person's own way back.
                let tried = world.last_rotated(&state).is_some_and(|rotated| world.now() < rotated + 7 * OVERLAP);
                previous.is_some() && previous != state.holder(&Stage::Current) && began + OVERLAP < ago && tried
            }
        }
    }

    /// Whether an instance accepts the token, or would after starting now.
    fn is_accepted(self, world: &Inner<Self>, token: &Name) -> bool {
        let (now, state) = (world.now(), world.state());
        let fresh = self.loaded(&state).filter(|_| self.application != Application::None);
        world.instances.iter().chain(&fresh).any(|held| self.accepts(held, token, now))
    }

    /// A token of any version but the one in use, which is accepted.
    fn accepted_wrongly(self, world: &Inner<Self>, in_use: &Name) -> Option<Name> {
        let state = world.state();
        let mut tokens = state.versions.values().filter_map(|version| self.token(version.value.as_ref()?));
        tokens.find(|token| token != in_use && self.is_accepted(world, token))
    }
}

fn previous_member(current: Option<&Arc<str>>) -> Option<(Arc<str>, Option<SystemTime>)> {
    let current = current?;
    let until = parse_timestamp(&member(current, &format!("{FIELD}_PREVIOUS_UNTIL"))?)?;
    Some((member(current, &format!("{FIELD}_PREVIOUS"))?, Some(until)))
}

impl Model for Token {
    type Kind<T: Port> = AdminToken<T>;
    type Instance = Held;
    type Memory = Memory;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        let mut all = vec![];
        for shape in [Shape::Text, Shape::Json] {
            for application in [Application::None, Application::Told, Application::Reloading, Application::CurrentOnly]
            {
                all.push(Self::scenario(shape, application));
            }
            all.push(Self::scenario(shape, Application::None).empty());
            all.push(Self::scenario(shape, Application::Reloading).empty());
            all.push(Self::scenario(shape, Application::Told).with_defect(Defect::Frozen));
            all.push(Self::scenario(shape, Application::Told).with_defect(Defect::DropsPromoted));
            all.push(Self::scenario(shape, Application::CurrentOnly).with_defect(Defect::Frozen));
        }
        all
    }

    fn shape(self) -> Shape {
        self.shape
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        match self.application {
            Application::CurrentOnly => vec![("ROTATION_VERIFY", "after")],
            _ => vec![],
        }
    }

    fn kind<T: Port>(self, target: Option<T>) -> AdminToken<T> {
        AdminToken::new(target)
    }

    fn initial(self, number: u64, _: SystemTime) -> String {
        match self.shape {
            Shape::Text => format!("initial-token-{number}"),
            Shape::Json => object(&format!(r#""{FIELD}": "initial-token-{number}""#)),
        }
    }

    fn edits(self) -> &'static [Edit] {
        match self.shape {
            Shape::Text => &[Edit::Secret],
            Shape::Json => &[Edit::OtherMember, Edit::Secret],
        }
    }

    fn edited(self, _: Edit, old: Option<&Arc<str>>, number: u64, _: SystemTime) -> String {
        let token = format!("token-of-a-person-{number}");
        match (self.shape, old) {
            (Shape::Text, _) => token,
            (Shape::Json, None) => format!(r#"{{"{FIELD}":"{token}","port":8080}}"#),
            (Shape::Json, Some(old)) => match self.token(old) {
                Some(old_token) => old.replacen(&format!("\"{old_token}\""), &format!("\"{token}\""), 1),
                None => old.to_string(),
            },
        }
    }

    fn instances(self) -> usize {
        if self.application == Application::None { 0 } else { 2 }
    }

    fn target(self) -> Option<TargetSettings> {
        match self.application {
            Application::None => None,
            Application::Told | Application::CurrentOnly => told(Some(2)),
            Application::Reloading => told(None),
        }
    }

    fn loaded(self, state: &State) -> Option<Held> {
        let token = |stage| self.token(state.value_at(&stage)?);
        let mut tokens = vec![(token(Stage::Current)?, None)];
        if self.application != Application::CurrentOnly {
            tokens.extend(token(Stage::Pending).map(|token| (token, None)));
            tokens.extend(match self.shape {
                Shape::Text => token(Stage::Previous).map(|token| (token, self.end_of_text(state))),
                Shape::Json => previous_member(state.value_at(&Stage::Current)),
            });
        }
        Some(Held(tokens))
    }

    fn accepts(self, held: &Held, token: &str, now: SystemTime) -> bool {
        held.0.iter().any(|(held, until)| **held == *token && until.is_none_or(|until| now < until))
    }

    fn reloads_when_asked(self) -> bool {
        self.application == Application::Reloading
    }

    fn is_made_from(self, new: &str, old: &str) -> bool {
        let kept = member(new, &format!("{FIELD}_PREVIOUS"));
        self.shape == Shape::Text || (kept.is_some() && kept == member(old, FIELD))
    }

    const OPERATIONS: &'static [Operation] = &Operation::ALL;

    fn operate(self, operator: Operator<Self>) -> Operating {
        let kind = self.kind(operator.target(self));
        Box::pin(operator.perform_on_token(kind))
    }

    fn in_use(self, value: &Arc<str>) -> Option<Name> {
        self.token(value)
    }

    fn tokens(self, value: &Arc<str>) -> BTreeSet<Name> {
        let previous = previous_member(Some(value)).filter(|_| self.shape == Shape::Json);
        self.token(value).into_iter().chain(previous.map(|(token, _)| token)).collect()
    }

    fn back(self, state: &State) -> Option<Name> {
        let current = state.value_at(&Stage::Current)?;
        let held = previous_member(Some(current)).filter(|_| self.shape == Shape::Json);
        let back = held.map(|(token, _)| token).or_else(|| self.token(state.value_at(&Stage::Previous)?));
        back.filter(|back| Some(back) != self.token(current).as_ref())
    }

    fn is_made_by(self, operation: Operation, new: &str, old: &str) -> bool {
        let same = |name: &str| member(new, name) == member(old, name);
        match (self.shape, operation) {
            (Shape::Text, Operation::Rollback) => new != old,
            (Shape::Json, Operation::Rollback) => self.is_made_from(new, old),
            (Shape::Json, Operation::Revoke | Operation::EndOverlap | Operation::Compromise) => {
                same(FIELD) && member(new, &format!("{FIELD}_PREVIOUS")).is_none()
            }
            _ => false,
        }
    }

    fn accumulated(self, old: Held, mut new: Held) -> Held {
        new.0.extend(old.0.into_iter().map(|(token, _)| (token, None)));
        new
    }

    fn previous_taken_away(world: &mut Inner<Self>) {
        if world.scenario.model.shape == Shape::Text {
            world.memory.previous = None;
        }
    }

    fn knows_current(world: &Inner<Self>) -> bool {
        let (model, state) = (world.scenario.model, world.state());
        let in_use = state.value_at(&Stage::Current).and_then(|current| model.token(current));
        in_use.is_none_or(|in_use| accepted_everywhere(world, &in_use))
    }

    /// After a rollback the token from before is accepted, and the other one readable. After the others, no token is
    /// accepted but the current one.
    fn judge_operation(world: &Inner<Self>, operation: Operation) -> Checked {
        let (model, state) = (world.scenario.model, world.state());
        let Some(current) = state.value_at(&Stage::Current) else { return Ok(()) };
        let Some(in_use) = model.token(current) else { return Err("no token is in use".to_owned()) };
        // A sweep that finds nothing to end does not ask.
        if !matches!(operation, Operation::Abort | Operation::EndOverlap) {
            let accepted = accepted_everywhere(world, &in_use);
            require(accepted, || format!("a {operation} succeeded, and an instance refuses the current token"))?;
        }
        match operation {
            Operation::Abort | Operation::Retire | Operation::Restore => Ok(()),
            Operation::EndOverlap => {
                let stale = world.scenario.staleness != Staleness::None;
                require(stale || !model.is_still_over(world), || "a sweep left an overlap that is over".to_owned())?;
                // What is remembered is half of the overlap.
                let end = |until: SystemTime| until + OVERLAP / 2 + Duration::from_secs(60);
                let ended = world.memory.previous.as_ref();
                let ended = ended.filter(|(_, until)| end(*until) < world.now()).map(|(token, _)| token);
                let dead = ended.is_none_or(|token| *token == in_use || !model.is_accepted(world, token));
                require(dead, || "a sweep ended an overlap, and an old token is accepted".to_owned())
            }
            // Unless it was revoked since.
            Operation::Rollback => require(world.memory.previous.is_none() || model.back(&state).is_some(), || {
                "a rollback succeeded, and the token that it replaced cannot be read".to_owned()
            }),
            Operation::Revoke | Operation::Compromise => {
                let dead = model.accepted_wrongly(world, &in_use);
                require(dead.is_none(), || format!("a {operation} succeeded, and an old token is accepted"))
            }
        }
    }

    fn operation_refusal(world: &Inner<Self>, operation: Operation, error: &str) -> Refusal {
        let (model, state) = (world.scenario.model, world.state());
        let in_use = state.value_at(&Stage::Current).and_then(|current| model.token(current));
        let Some(in_use) = in_use else { return Refusal::Wrong };
        let revokes = matches!(operation, Operation::Revoke | Operation::EndOverlap | Operation::Compromise);
        let holds = match error {
            "TargetAcceptsRevoked" => revokes && model.accepted_wrongly(world, &in_use).is_some(),
            // An hour without a change comes first.
            "OnHold" => operation == Operation::EndOverlap && world.quiet() <= Duration::from_secs(60 * 60),
            _ => false,
        };
        if holds { Refusal::ForNow } else { Refusal::Wrong }
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        let (model, memory) = (world.scenario.model, &mut world.memory);
        let token = |value: Option<&Arc<str>>| value.and_then(|value| model.token(value));
        let (Some(old), new) = (token(change.old), token(change.new)) else { return Ok(()) };
        match change.moved {
            Moved::Promoted { again } => {
                memory.until_told = again;
                // A retry may come late; then half of the overlap is promised. The times are written in whole seconds.
                memory.previous = Some((old.clone(), change.now + OVERLAP / 2 - Duration::from_secs(1)));
                memory.displaced = Some(old);
            }
            Moved::PutBack => {
                memory.until_told = memory.previous(change.now).is_none();
                memory.previous = None;
                memory.displaced = Some(old);
            }
            Moved::Operated(Operation::Rollback) => {
                memory.until_told = memory.previous(change.now) != new.as_ref();
                memory.previous = Some((old.clone(), change.now + OVERLAP / 2));
                memory.displaced = Some(old);
            }
            Moved::Operated(Operation::EndOverlap) => {}
            Moved::Operated(_) => memory.previous = None,
            Moved::ByHand if Some(old) != new => *memory = Memory::default(),
            Moved::ByHand => {}
        }
        Ok(())
    }

    /// Promise 1, and the overlap: whoever holds the current token, or the one before it until the overlap ends, is let pass
    /// by every instance, and by one that starts now.
    ///
    /// An application that reads `AWSCURRENT` only cannot promise that: each of its instances accepts the current token, or
    /// the one that the rotation's last move displaced. The same holds for all after a version was promoted again that had
    /// been put back, and after a rollback that came later than the overlap's end.
    ///
    /// A secret that never had a value has no clients. A broken application accepts the token from before the rotation at
    /// all times.
    fn judge(world: &mut Inner<Self>) -> Checked {
        let model = world.scenario.model;
        let (now, state) = (world.now(), world.state());
        let current = state.value_at(&Stage::Current).and_then(|value| model.token(value));
        let (Some(current), true) = (current, model.application != Application::None) else { return Ok(()) };
        if !world.is_healthy() {
            let first = world.first.as_ref().and_then(|value| model.token(value));
            let accepted = first.is_none_or(|first| accepted_everywhere(world, &first));
            return require(accepted, || "the token from before the rotation is refused".to_owned());
        }
        if model.application == Application::CurrentOnly || world.memory.until_told {
            let displaced = world.memory.displaced.as_ref();
            let accepts = |held: &Held| {
                let accepts = |token| model.accepts(held, token, now);
                accepts(&current) || displaced.is_some_and(|displaced| accepts(displaced))
            };
            return require(world.instances.iter().all(accepts), || {
                "an instance accepts neither the current token nor the one before".to_owned()
            });
        }
        let fresh = model.loaded(&state).unwrap_or_default();
        for (which, token) in [("current", Some(&current)), ("previous", world.memory.previous(now))] {
            let Some(token) = token else { continue };
            require(accepted_everywhere(world, token), || format!("an instance refuses the {which} token"))?;
            require(model.accepts(&fresh, token, now), || format!("a new instance would refuse the {which} token"))?;
        }
        Ok(())
    }

    /// The application accepts the token of the version.
    fn judge_success(world: &Inner<Self>) -> Checked {
        let (model, state) = (world.scenario.model, world.state());
        let token = state.value_at(&Stage::Current).and_then(|value| model.token(value));
        // The first value of a secret is made before any application can know it.
        let told = state.holder(&Stage::Previous).is_some() || model.application == Application::Reloading;
        let accepted = token.is_some_and(|token| accepted_everywhere(world, &token));
        require(!told || accepted, || "a rotation succeeded, and an instance refuses its token".to_owned())
    }
}

/// Whether every instance lets the token pass by what it holds, or would after loading.
fn accepted_everywhere(world: &Inner<Token>, token: &str) -> bool {
    let (model, now) = (world.scenario.model, world.now());
    let reloads = model.application == Application::Reloading && world.is_healthy();
    let fresh = model.loaded(&world.state()).unwrap_or_default();
    let accepts = |held: &Held| model.accepts(held, token, now) || (reloads && model.accepts(&fresh, token, now));
    world.instances.iter().all(accepts)
}
