//! Issued credentials: a provider makes them, and they live until they are revoked. What is alive is known at every moment, and
//! so is who has to be able to use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rotation::aws::FunctionErrorKind;
use rotation::deadline::Deadline;
use rotation::secret::SecretText;
use rotation::target::TargetSettings;
use rotation::versions::{Stage, VersionId};
use serde_json::{Value, json};

use super::{Model, Port, Shape, member, object, told};
use crate::invariants::{Change, Checked, Moved, require};
use crate::scenario::{Scenario, Staleness};
use crate::schedule::Edit;
use crate::state::State;
use crate::world::Inner;

const FIELD: &str = "API_KEY";
const ID: &str = "API_KEY_ID";

/// The overlap in force: the function's default.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

/// A credential of two members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential;

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("issued credential")
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
    /// Until when the credential before the last rotation has to work.
    accepted: Option<(Arc<str>, SystemTime)>,
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
    /// Whether a credential works: its two members belong together.
    fn works(&self, credential: &Value) -> bool {
        let (key, id) = (key(credential), credential[ID].as_str());
        key.is_some_and(|key| {
            self.alive.contains_key(key) && key.strip_prefix("key-") == id.and_then(|id| id.strip_prefix("id-"))
        })
    }
}

/// What must hold when a credential is revoked.
fn may_revoke(world: &Inner<Credential>, revoked: &str) -> Checked {
    let state = world.state();
    let holds = |value: &Arc<str>| member(value, FIELD).as_deref() == Some(revoked);
    require(!state.value_at(&Stage::Current).is_some_and(holds), || "the current credential was revoked".to_owned())?;
    let accepted = world.memory.accepted.as_ref();
    let in_overlap = accepted.is_some_and(|(key, until)| **key == *revoked && world.now() < *until);
    require(!in_overlap, || "a credential was revoked within its overlap".to_owned())
}

impl Model for Credential {
    type Kind<T: Port> = IssuedCredential<Asked<T>>;
    type Instance = ();
    type Memory = Provider;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        let sound = Scenario::new(Self);
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

    fn issue(world: &mut Inner<Self>, request: &Value, admitted_at: usize) -> (String, Checked) {
        let version = request["version_id"].as_str().map(|version| VersionId::new(version.to_owned()));
        match request["operation"].as_str() {
            Some("create") => {
                let is_known =
                    version.as_ref().is_some_and(|version| world.state_after(admitted_at).value(version).is_some());
                let held = require(!is_known || world.scenario.staleness != Staleness::None, || {
                    "a credential was issued again for a version that has one".to_owned()
                });
                world.memory.made += 1;
                let members = members(&world.memory.made.to_string());
                let made = key(&members).map(Arc::from);
                world.memory.alive.extend(made.map(|key| (key, version)));
                (json!({ "version": 1, "members": members }).to_string(), held)
            }
            Some("verify") => {
                let status = if world.memory.works(&request["members"]) { "ok" } else { "refused" };
                (json!({ "version": 1, "status": status }).to_string(), Ok(()))
            }
            operation => {
                let keep: Vec<_> = request["keep"].as_array().into_iter().flatten().filter_map(key).collect();
                let is_meant = |alive: &Arc<str>, of: &Option<VersionId>| match operation {
                    Some("revoke") => key(&request["members"]) == Some(&**alive),
                    _ => version.is_some() && *of == version && !keep.contains(&&**alive),
                };
                let meant = world.memory.alive.iter().filter(|(alive, of)| is_meant(alive, of));
                let meant: Vec<_> = meant.map(|(alive, _)| Arc::clone(alive)).collect();
                let held = meant.iter().try_for_each(|revoked| may_revoke(world, revoked));
                world.memory.alive.retain(|alive, _| !meant.contains(alive));
                (json!({ "version": 1, "status": "gone" }).to_string(), held)
            }
        }
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        let key = |value: Option<&Arc<str>>| value.and_then(|value| member(value, FIELD));
        let (before, after) = (key(change.old), key(change.new));
        world.memory.accepted = match change.moved {
            Moved::Promoted { .. } => before.map(|key| (key, change.now + OVERLAP)),
            Moved::ByHand => {
                // Who stores a credential by hand has made it.
                if let Some(own) = after.filter(|own| own.contains("person") || own.contains("initial")) {
                    world.memory.alive.entry(own).or_insert(None);
                }
                return Ok(());
            }
            Moved::PutBack | Moved::Operated(_) => None,
        };
        Ok(())
    }

    /// The current credential is alive, and so is the one before it in its overlap. Nothing else is alive that no version with
    /// a label holds, and for whose version no attempt is recorded.
    fn judge(world: &mut Inner<Self>) -> Checked {
        let (state, provider) = (world.state(), &world.memory);
        let current = state.value_at(&Stage::Current).and_then(|value| member(value, FIELD));
        require(current.as_ref().is_none_or(|current| provider.alive.contains_key(current)), || {
            "the current credential is dead".to_owned()
        })?;
        let accepted = provider.accepted.as_ref().filter(|(_, until)| world.now() < *until);
        require(accepted.is_none_or(|(key, _)| provider.alive.contains_key(key)), || {
            "the credential before the current one is dead within its overlap".to_owned()
        })?;
        let is_named = |version: &VersionId| {
            let own = [Stage::Current, Stage::Pending, Stage::issued(version)];
            own.iter().any(|stage| state.is_at(version, stage))
        };
        let named: Vec<_> = state
            .versions
            .iter()
            .filter(|(version, _)| is_named(version))
            .filter_map(|(_, version)| member(version.value.as_ref()?, FIELD))
            .collect();
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
