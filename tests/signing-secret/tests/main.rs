//! A kind that has all that a kind can have, through whole rotations: settings of its own, a list of members that depends on the
//! value, a report, and refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, RotationToken, Step, VersionId};
use rotation::kind::SecretKind as _;
use rotation::policy::StackPolicy;
use rotation::protocol::{Outcome, Promotion, Rotator};
use rotation::schedule::RotationRules;
use rotation::secret::SecretText;
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use rotation::target::http::HttpTarget;
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::time::parse_timestamp;
use rotation::versions::Stage;
use serde_json::{Value, json};
use signing_secret::{SigningSecret, id};

const NAME: &str = "shop/signing-secret";
const FIELD: &str = "KEY";
/// 32 bytes in base64.
const FIRST: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];

type Kind = SigningSecret<HttpTarget>;

fn now() -> SystemTime {
    parse_timestamp("2026-11-01T12:00:00Z").unwrap()
}

fn version(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

/// Secrets Manager with one secret. The rules of its stages are those of [`rotation::testing`].
#[derive(Default)]
struct Store {
    tags: Mutex<BTreeMap<String, String>>,
    values: Mutex<BTreeMap<VersionId, String>>,
    stages: Mutex<Stages>,
}

impl Store {
    fn with(value: &str) -> Self {
        let store = Self::default();
        assert_eq!(store.put(&version("v0"), value, None), Ok(Put::Stored));
        store
    }

    /// PutSecretValue under these labels; without any it moves `AWSCURRENT`.
    fn put(&self, id: &VersionId, value: &str, stages: Option<&[Stage]>) -> Result<Put, StoreError> {
        let (mut values, mut of_secret) = (self.values.lock().unwrap(), self.stages.lock().unwrap());
        let value = value.to_owned();
        let existing = match values.get(id) {
            Some(stored) => Existing::Value(stored),
            None if !of_secret.of(id).is_empty() => Existing::Opened,
            None if values.is_empty() => Existing::Nothing,
            None => Existing::Others,
        };
        match of_secret.put(id, existing, &value, stages, PrivatePut::default()) {
            Ok(Written::Unchanged) => {}
            Ok(Written::Filled | Written::Created) => {
                values.insert(id.clone(), value);
            }
            Err(Refusal::TokenUsed) => return Ok(Put::Exists),
            Err(_) => {
                let (operation, kind) = ("PutSecretValue", StoreErrorKind::Rejected);
                return Err(StoreError { operation, kind, detail: None });
            }
        }
        Ok(Put::Stored)
    }

    /// Another value under a version that has one, which the service does not allow.
    fn falsify(&self, id: &str, value: &str) {
        self.values.lock().unwrap().insert(version(id), value.to_owned()).unwrap();
    }

    /// RotateSecret.
    fn open_rotation(&self, id: &str) {
        self.stages.lock().unwrap().open_rotation(&version(id)).unwrap();
    }

    fn tag(&self, tag: &str, value: &str) {
        self.tags.lock().unwrap().insert(tag.to_owned(), value.to_owned());
    }

    fn current(&self) -> Value {
        let current = self.stages.lock().unwrap().holder(&Stage::Current).unwrap().clone();
        serde_json::from_str(&self.values.lock().unwrap()[&current]).unwrap()
    }

    async fn step(&self, id: &str, step: Step) -> Result<Outcome, RotationError> {
        let variables = environment(&[("ALLOWED_FIELDS", FIELD), ("ROTATION_FIELD", FIELD)]);
        let stack = StackPolicy::from_environment(&variables, Kind::SETTINGS).unwrap();
        let event = RotationEvent { step, secret_id: NAME.to_owned(), version: version(id), rotation_token: None };
        let rotator = Rotator { kind: &Kind::new(None), store: self, stack: &stack };
        let mut rng = StdRng::seed_from_u64(id.bytes().map(u64::from).sum());
        Ok(rotator.perform(&event, Deadline::after(Duration::from_secs(60)), &mut rng).await?.outcome)
    }

    /// All four steps, or those up to the first that fails.
    async fn rotate(&self, id: &str) -> Result<Promotion, RotationError> {
        self.open_rotation(id);
        for step in STEPS {
            if let Outcome::Promoted(promotion) = self.step(id, step).await? {
                return Ok(promotion);
            }
        }
        panic!("nothing was promoted");
    }
}

impl SecretStore for Store {
    async fn describe(&self, _: &str) -> Result<Described, StoreError> {
        Ok(Described {
            name: NAME.to_owned(),
            rotation_enabled: true,
            deleted: false,
            replica_of: None,
            tags: self.tags.lock().unwrap().clone(),
            versions: self.stages.lock().unwrap().listed(),
            last_rotated: None,
            next_rotation: None,
            last_changed: None,
            rotation_function: None,
            rotation_rules: RotationRules::default(),
            as_of: now(),
        })
    }

    async fn get(&self, _: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let value = self.values.lock().unwrap().get(version).cloned();
        Ok(value.map(|value| VersionValue { text: SecretText::new(value), created: now() }))
    }

    async fn get_current(&self, _: &str) -> Result<VersionValue, StoreError> {
        panic!("nobody is asked")
    }

    async fn put_pending(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        self.put(version, value.expose(), Some(&[Stage::Pending]))
    }

    async fn put_private(&self, _: &str, _: &VersionId, _: &SecretText, _: &[Stage]) -> Result<Put, StoreError> {
        panic!("a rotation without an archive writes nothing else")
    }

    async fn move_stage(
        &self,
        _: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let (values, mut stages) = (self.values.lock().unwrap(), self.stages.lock().unwrap());
        // A version that a rotation has opened has no value yet.
        let listed = stages.listed();
        let is_known = |version: &VersionId| values.contains_key(version) || listed.contains(version);
        let moved = stages.move_stage(&stage, from, to, is_known);
        let (operation, kind) = ("UpdateSecretVersionStage", StoreErrorKind::Conflict);
        moved.map_err(|_| StoreError { operation, kind, detail: None })
    }
}

fn value(members: &Value) -> String {
    let mut value = json!({ FIELD: FIRST });
    value.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    value.to_string()
}

/// The secrets of a value that receivers accept, the newest first.
fn held(value: &Value) -> Vec<&str> {
    let names = ["KEY", "KEY_PREVIOUS", "KEY_PREVIOUS_2", "KEY_PREVIOUS_3", "KEY_PREVIOUS_4"];
    names.iter().filter_map(|name| value[name].as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn as_many_older_secrets_stay_as_the_tag_says() {
    let store = Store::with(&value(&json!({ "port": 8080 })));
    store.tag("rotation:kept", "3");
    let mut all = vec![FIRST.to_owned()];
    for turn in 1..=5 {
        store.rotate(&format!("v{turn}")).await.unwrap();
        let value = store.current();
        all.insert(0, value[FIELD].as_str().unwrap().to_owned());
        all.truncate(4);
        assert_eq!(held(&value), all, "after {turn}");
        assert_eq!(value["port"], 8080);
    }
    // Fewer from the next rotation on: what was kept is this kind's to remove.
    store.tag("rotation:kept", "1");
    store.rotate("v6").await.unwrap();
    assert_eq!(held(&store.current())[1..], all[..1]);
}

#[tokio::test(start_paused = true)]
async fn member_of_another_is_guarded_though_its_name_is_alike() {
    let store = Store::with(&value(&json!({ "KEY_PREVIOUS_10": "ours" })));
    store.open_rotation("v1");
    for step in &STEPS[..3] {
        store.step("v1", *step).await.unwrap();
    }
    // Under another version the edit would be seen without looking at members.
    store.falsify("v0", &value(&json!({ "KEY_PREVIOUS_10": "theirs" })));
    assert_eq!(store.step("v1", Step::FinishSecret).await.unwrap_err().name(), "CurrentChanged");
    assert_eq!(store.current()["KEY_PREVIOUS_10"], "theirs");
}

#[tokio::test(start_paused = true)]
async fn the_report_names_secrets_by_their_ids() {
    let store = Store::with(&value(&json!({})));
    let report = store.rotate("v1").await.unwrap().of_kind;
    let name = |secret: &str| json!(id(&SecretText::new(secret.to_owned())).unwrap());
    let current = store.current();
    assert_eq!(report["signsWith"], json!([name(current[FIELD].as_str().unwrap())]));
    assert_eq!(report["acceptsToo"], json!([name(FIRST)]));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_signing_secret_is_refused_and_given_up() {
    let store = Store::with(r#"{"KEY":"a password"}"#);
    let error = store.rotate("v1").await.unwrap_err();
    assert_eq!(error.name(), "InvalidValue");
    assert!(error.to_string().starts_with("the value is no signing secret of 32 bytes in base64: "), "{error}");
    assert!(!error.to_string().contains("a password"), "{error}");
    assert_eq!(store.stages.lock().unwrap().holder(&Stage::Pending), None);
    assert_eq!(store.current()[FIELD], "a password");
}

#[tokio::test(start_paused = true)]
async fn tags_of_other_kinds_and_bad_choices_are_refused() {
    for (tag, value, problem) in [
        (
            "rotation:overlap",
            "24h",
            "is not a setting of this function; known are rotation:field, rotation:hold, rotation:verify, rotation:kept",
        ),
        ("rotation:token-bytes", "48", "is not a setting of this function"),
        ("rotation:kept", "10", "expected a number from 1 to 9"),
        ("rotation:kept", "0", "expected a number from 1 to 9"),
    ] {
        let store = Store::with(&self::value(&json!({})));
        store.tag(tag, value);
        let error = store.rotate("v1").await.unwrap_err();
        assert_eq!(error.name(), "InvalidPolicy");
        assert!(error.to_string().starts_with(&format!("tag {tag}: {problem}")), "{error}");
        assert_eq!(store.current(), json!({ FIELD: FIRST }));
    }
}

#[test]
fn variables_of_other_kinds_are_refused() {
    for variable in ["CONSUMERS_CACHE_TIME", "KEY_ARCHIVE_SECRET"] {
        let refused = environment(&[(variable, "1h")]).refuse_foreign(Kind::VARIABLES).unwrap_err();
        assert!(refused.to_string().contains(variable), "{refused}");
    }
    assert_eq!(environment(&[("TARGET_TIMEOUT", "1s")]).refuse_foreign(Kind::VARIABLES), Ok(()));
}
