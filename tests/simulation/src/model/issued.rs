//! Issued credentials: a provider makes them, and they live until they are revoked. What is alive is known at every moment, and
//! so is who has to be able to use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use operate::actions::abort::DEFAULT_ABORT_AFTER;
use operate::marker::Marker;
use rotation::aws::FunctionErrorKind;
use rotation::deadline::Deadline;
use rotation::issue::LONGEST_ATTEMPT;
use rotation::secret::SecretText;
use rotation::target::TargetSettings;
use rotation::versions::{Stage, VersionId};
use serde_json::{Value, json};

use super::{Issued, Model, Port, Refusal, Shape, member, object, told};
use crate::invariants::{Change, Checked, Moved, require};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::{Sabotage, Scenario, Staleness};
use crate::schedule::{Edit, Operation, Task};
use crate::state::{Author, State};
use crate::world::Inner;

const FIELD: &str = "API_KEY";
const ID: &str = "API_KEY_ID";

/// The overlap in force: the function's default.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

/// A credential of two members, by how many of them its provider lets live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// All that it has made.
    Many,
    /// Two at most: it makes none beside them.
    Two,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Many => "issued credential",
            Self::Two => "issued credential, two alive at most",
        })
    }
}

/// The issuer behind the port of an invocation.
pub struct Asked<T>(Option<T>);

impl<T: Port> Issuer for Asked<T> {
    fn name(&self) -> &str {
        "issuer"
    }

    fn timeout(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, Issuer::timeout)
    }

    async fn invoke(&self, payload: &SecretText, deadline: Deadline) -> Result<SecretText, FunctionErrorKind> {
        match &self.0 {
            Some(port) => port.invoke(payload, deadline).await,
            None => Err(FunctionErrorKind::Missing),
        }
    }
}

/// The provider, and who has to be able to use what.
#[derive(Debug, Default)]
pub struct Provider {
    /// The credentials that are alive, each with the version that it was made for; none if a person made it.
    alive: BTreeMap<Arc<str>, Option<VersionId>>,
    /// How many were made.
    made: u32,
    /// Until when the credential has to work that was current before the last rotation or rollback.
    accepted: Option<(Arc<str>, SystemTime)>,
    /// The same before that one, for when it is put back.
    accepted_before: Option<(Arc<str>, SystemTime)>,
}

fn members(number: &str) -> Value {
    json!({ FIELD: format!("key-{number}"), ID: format!("id-{number}") })
}

fn value(number: &str) -> String {
    object(&format!(r#""{FIELD}": "key-{number}", "{ID}": "id-{number}""#))
}

fn key(value: &Value) -> Option<&str> {
    value[FIELD].as_str()
}

impl Provider {
    fn is_full(&self, model: Credential) -> bool {
        model == Credential::Two && self.alive.len() >= 2
    }

    /// Whether a credential works: its two members belong together.
    fn works(&self, credential: &Value) -> bool {
        let (key, id) = (key(credential), credential[ID].as_str());
        key.is_some_and(|key| {
            self.alive.contains_key(key) && key.strip_prefix("key-") == id.and_then(|id| id.strip_prefix("id-"))
        })
    }
}

/// What must hold when a credential is revoked. An operator ends the overlap.
fn may_revoke(world: &Inner<Credential>, task: Task, revoked: &Arc<str>) -> Checked {
    let state = world.state();
    require(current(&state).as_ref() != Some(revoked), || "the current credential was revoked".to_owned())?;
    if ends_overlap(task) {
        return require(goes_back_to(world).as_ref() != Some(revoked), || {
            "a credential was revoked that may be put back".to_owned()
        });
    }
    let accepted = world.memory.accepted.as_ref();
    let in_overlap = accepted.is_some_and(|(key, until)| key == revoked && world.now() < *until);
    require(!in_overlap, || "a credential was revoked within its overlap".to_owned())
}

fn ends_overlap(task: Task) -> bool {
    matches!(task, Task::Operation(Operation::Revoke | Operation::Compromise))
}

fn current(state: &State) -> Option<Arc<str>> {
    state.value_at(&Stage::Current).and_then(|value| member(value, FIELD))
}

/// What becomes current again when what made the current version current finds it not working: a rollback that is not proven, or a
/// rotation that the service has not seen succeed. After so long it is dead.
fn goes_back_to(world: &Inner<Credential>) -> Option<Arc<str>> {
    let state = world.state();
    let id = state.holder(&Stage::Current)?;
    let is_young = world.now() < world.current_since() + DEFAULT_ABORT_AFTER;
    let is_made = state.versions.get(id)?.author != Author::Person;
    let replaced = world.promises.replaced_by(id).filter(|_| is_young && is_made && looks_open(world))?;
    member(state.value(replaced)?, FIELD)
}

/// Whether nothing tells that what made the current version current is over.
fn looks_open(world: &Inner<Credential>) -> bool {
    let state = world.state();
    let Some(id) = state.holder(&Stage::Current) else { return false };
    let (created, listed) = (state.versions.get(id).map(|version| version.created), state.listed());
    let is_marked = |marker: Marker| marker.holders(&listed).any(|holder| holder == id);
    let has_succeeded = world.rotated.iter().any(|rotated| Some(*rotated) >= created);
    let is_rotated_to = state.is_at(id, &Stage::issued(id)) && !has_succeeded;
    is_rotated_to || is_marked(Marker::Operation) && is_marked(Marker::RolledBack)
}

/// Whether a version holds the credential, dead or alive.
fn is_held(state: &State, credential: &Value) -> bool {
    let mut values = state.versions.values().filter_map(|version| version.value.as_ref());
    values.any(|value| member(value, FIELD).as_deref() == key(credential))
}

/// The credentials of the versions of which nobody has said that theirs is revoked.
fn named(state: &State) -> Vec<Arc<str>> {
    let is_named = |version: &VersionId| {
        let own = [Stage::Current, Stage::Pending, Stage::issued(version)];
        own.iter().any(|stage| state.is_at(version, stage))
    };
    let named = state.versions.iter().filter(|(version, _)| is_named(version));
    named.filter_map(|(_, version)| member(version.value.as_ref()?, FIELD)).collect()
}

/// A credential beside the current one that was issued, or that a version names. What an attempt has made counts when the attempt is over.
fn lives_on(world: &Inner<Credential>) -> Option<Arc<str>> {
    let (state, now) = (world.state(), world.now());
    let (current, named) = (current(&state), named(&state));
    let attempts = state.marks().filter_map(|(stage, _)| stage.attempt());
    let attempts = attempts.filter(|attempt| now < attempt.began + LONGEST_ATTEMPT + Duration::from_secs(60));
    let attempts: Vec<_> = attempts.map(|attempt| attempt.of).collect();
    let mut alive = world.memory.alive.iter().filter(|(key, _)| Some(*key) != current.as_ref());
    let old = alive.find(|(key, of)| match of {
        Some(of) => !attempts.contains(of) || named.contains(key),
        None => named.contains(key),
    });
    old.map(|(key, _)| Arc::clone(key))
}

impl Model for Credential {
    type Kind<T: Port> = IssuedCredential<Asked<T>>;
    type Instance = ();
    type Memory = Provider;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        let sound = Scenario::new(Self::Many);
        vec![sound, sound.empty()]
    }

    fn shape(self) -> Shape {
        Shape::Json
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        vec![("ROTATION_FIELDS", "API_KEY API_KEY_ID")]
    }

    fn kind<T: Port>(self, target: Option<T>) -> IssuedCredential<Asked<T>> {
        IssuedCredential::new(Asked(target))
    }

    fn initial(self, number: u64, _: SystemTime) -> String {
        value(&format!("initial-{number}"))
    }

    fn edits(self) -> &'static [Edit] {
        &[Edit::OtherMember, Edit::Secret]
    }

    fn edited(self, _: Edit, old: Option<&Arc<str>>, number: u64, _: SystemTime) -> String {
        let own = format!("person-{number}");
        let held = old.and_then(|old| Some((old, member(old, FIELD)?, member(old, ID)?)));
        match held {
            Some((old, key, id)) => old.replacen(&format!("\"{key}\""), &format!("\"key-{own}\""), 1).replacen(
                &format!("\"{id}\""),
                &format!("\"id-{own}\""),
                1,
            ),
            None => value(&own),
        }
    }

    fn instances(self) -> usize {
        1
    }

    fn target(self) -> Option<TargetSettings> {
        told(None)
    }

    fn loaded(self, _: &State) -> Option<()> {
        Some(())
    }

    fn accepts(self, (): &(), _: &str, _: SystemTime) -> bool {
        false
    }

    fn is_made_from(self, new: &str, old: &str) -> bool {
        member(new, FIELD).is_some_and(|key| Some(key) != member(old, FIELD))
    }

    fn issue(world: &mut Inner<Self>, request: &Value, (task, admitted_at): (Task, usize)) -> (Issued, Checked) {
        let version = request["version_id"].as_str().map(|version| VersionId::new(version.to_owned()));
        match request["operation"].as_str() {
            Some("create") => {
                let is_known =
                    version.as_ref().is_some_and(|version| world.state_after(admitted_at).value(version).is_some());
                let held = require(!is_known || world.scenario.staleness != Staleness::None, || {
                    "a credential was issued again for a version that has one".to_owned()
                });
                if world.memory.is_full(world.scenario.model) {
                    return (Err(FunctionErrorKind::Threw(None)), held);
                }
                world.memory.made += 1;
                let members = members(&world.memory.made.to_string());
                let made = key(&members).map(Arc::from);
                world.memory.alive.extend(made.map(|key| (key, version)));
                (Ok(json!({ "version": 1, "members": members }).to_string()), held)
            }
            Some("verify") => {
                let members = &request["members"];
                let is_believed = world.scenario.sabotage == Sabotage::SaysAllWorks && is_held(&world.state(), members);
                let status = if is_believed || world.memory.works(members) { "ok" } else { "refused" };
                (Ok(json!({ "version": 1, "status": status }).to_string()), Ok(()))
            }
            operation => {
                let keep: Vec<_> = request["keep"].as_array().into_iter().flatten().filter_map(key).collect();
                let is_meant = |alive: &Arc<str>, of: &Option<VersionId>| match operation {
                    Some("revoke") => key(&request["members"]) == Some(&**alive),
                    _ if world.scenario.sabotage == Sabotage::KeepsOrphans => false,
                    _ => version.is_some() && *of == version && !keep.contains(&&**alive),
                };
                let meant = world.memory.alive.iter().filter(|(alive, of)| is_meant(alive, of));
                let meant: Vec<_> = meant.map(|(alive, _)| Arc::clone(alive)).collect();
                let held = meant.iter().try_for_each(|revoked| may_revoke(world, task, revoked));
                let memory = &mut world.memory;
                memory.alive.retain(|alive, _| !meant.contains(alive));
                if ends_overlap(task) {
                    memory.accepted.take_if(|(key, _)| meant.contains(key));
                }
                (Ok(json!({ "version": 1, "status": "gone" }).to_string()), held)
            }
        }
    }

    const OPERATIONS: &'static [Operation] = &Operation::ALL;

    fn operate(self, operator: Operator<Self>) -> Operating {
        let kind = self.kind(operator.target(self));
        Box::pin(operator.perform_on_issued(kind))
    }

    fn in_use(self, value: &Arc<str>) -> Option<Name> {
        member(value, FIELD)
    }

    fn back(self, state: &State) -> Option<Name> {
        let back = member(state.value_at(&Stage::Previous)?, FIELD);
        back.filter(|back| Some(back) != current(state).as_ref())
    }

    fn is_made_by(self, operation: Operation, new: &str, old: &str) -> bool {
        operation == Operation::Rollback && self.is_made_from(new, old)
    }

    /// What a rollback has brought into use works, as everything that is current. After a revocation nothing else does.
    fn judge_operation(world: &Inner<Self>, operation: Operation) -> Checked {
        let lives_on = lives_on(world).filter(|_| ends_overlap(Task::Operation(operation)));
        require(lives_on.is_none(), || format!("a {operation} succeeded, and {lives_on:?} is alive"))
    }

    fn operation_refusal(world: &Inner<Self>, operation: Operation, error: &str) -> Refusal {
        let back = world.scenario.model.back(&world.state());
        let is_young = world.now() < world.last_changed() + DEFAULT_ABORT_AFTER;
        match (operation, error) {
            (Operation::Revoke, "RotationOpen") if looks_open(world) && is_young => Refusal::ForNow,
            (Operation::Revoke | Operation::Compromise, "TargetAcceptsRevoked") if lives_on(world).is_some() => {
                Refusal::ForNow
            }
            (Operation::Rollback, "DidNotVerify")
                if back.is_some_and(|back| !world.memory.alive.contains_key(&back)) =>
            {
                Refusal::ForGood
            }
            _ => Refusal::Wrong,
        }
    }

    fn refusal(world: &Inner<Self>, _: &VersionId, error: &str) -> Refusal {
        let is_full = error == "IssuerFailed" && world.memory.is_full(world.scenario.model);
        if is_full { Refusal::ForNow } else { Refusal::Wrong }
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        let key = |value: Option<&Arc<str>>| value.and_then(|value| member(value, FIELD));
        let (before, after) = (key(change.old), key(change.new));
        let (model, named) = (world.scenario.model, named(&world.state()));
        let memory = &mut world.memory;
        match change.moved {
            Moved::Promoted { .. } | Moved::Operated(_) => {
                memory.accepted_before = memory.accepted.take();
                memory.accepted = before.map(|key| (key, change.now + OVERLAP));
            }
            Moved::PutBack => {
                let (alive, before) = (&memory.alive, memory.accepted_before.take());
                memory.accepted = before.filter(|(key, _)| alive.contains_key(key));
            }
            Moved::ByHand => {
                // Who stores a credential by hand has made it.
                if let Some(own) = after.filter(|own| own.contains("person") || own.contains("initial")) {
                    memory.alive.entry(own).or_insert(None);
                    if model == Self::Two {
                        // And has made room for it, by deleting the one of which nothing else tells.
                        memory.alive.retain(|key, of| of.is_some() || named.contains(key));
                    }
                }
            }
        }
        Ok(())
    }

    /// The current credential is alive, and so is the one before it in its overlap. Nothing else is alive that no version with
    /// a label holds, and for whose version no attempt is recorded.
    fn judge(world: &mut Inner<Self>) -> Checked {
        let (state, provider) = (world.state(), &world.memory);
        require(current(&state).is_none_or(|current| provider.alive.contains_key(&current)), || {
            "the current credential is dead".to_owned()
        })?;
        let accepted = provider.accepted.as_ref().filter(|(_, until)| world.now() < *until);
        require(accepted.is_none_or(|(key, _)| provider.alive.contains_key(key)), || {
            "the credential before the current one is dead within its overlap".to_owned()
        })?;
        let named = named(&state);
        let attempts: Vec<_> = state.marks().filter_map(|(stage, _)| Some(stage.attempt()?.of)).collect();
        let made = provider.alive.iter().filter_map(|(key, of)| Some((key, of.as_ref()?)));
        let mut orphans = made.filter(|(key, of)| !named.contains(key) && !attempts.contains(of));
        require(orphans.next().is_none(), || "a credential is alive that no version names".to_owned())
    }

    fn judge_success(_: &Inner<Self>) -> Checked {
        // Every moment was judged.
        Ok(())
    }
}
