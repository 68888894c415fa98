//! What is particular to encryption keys: the ring that follows a ring, what must be proven before its primary key encrypts
//! anything, and whole rotations with a small Secrets Manager and an application that reports its keys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod archive;
mod delivery;
mod environment;
mod kind;
mod proof;
mod protocol;
mod succession;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use encryption_key::{Consumers, DEFAULT_CACHE_TIME, EncryptionKey};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::admission::{Admission, Admitted};
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::keyring::{KEY_SETTINGS, Key, KeyFormat, KeyMaterial, Keyring};
use rotation::kind::{SecretKind as _, Subject};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::secret::SecretText;
use rotation::target::http::TokenSecret;
use rotation::target::{Answer, Operation, ReportedKeys, Target, TargetSettings, Verdict};
use rotation::time::parse_timestamp;
use rotation::versions::Stage;

const NAME: &str = "shop/production/encryption-key";
const FIELD: &str = "TOKEN_ENCRYPTION_KEY";
/// What the application is asked with.
const TOKEN: &str = "t0kenOfTheAdmin";
const FORMATS: [(&str, KeyFormat); 3] =
    [("raw", KeyFormat::Raw), ("fernet", KeyFormat::Fernet), ("tink", KeyFormat::Tink)];

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    parse_timestamp("2026-11-01T12:00:00Z").unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn stack(variables: &[(&str, &str)]) -> StackPolicy {
    StackPolicy::from_environment(&environment(variables), KEY_SETTINGS).unwrap()
}

fn version(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn field() -> FieldName {
    FieldName::new(FIELD).unwrap()
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// The key of a seed, of which nothing else is known.
fn key(seed: u64) -> Key {
    Key::new(KeyMaterial::generate(&mut rng(seed)))
}

/// The same key, made at `created`.
fn key_of(seed: u64, created: SystemTime) -> Key {
    let key = key(seed);
    let dates = rotation::keyring::Dates { created: Some(created), ..*key.dates() };
    key.with_dates(dates)
}

/// Two keys with the same id, found by hashing 52951 keys: SHA-256 of `collision 20096` and of `collision 52950`.
fn same_id() -> [Key; 2] {
    [
        "30ff2de6a458ad467505e63fa4957056afd0733ef4fa4b877dcf23ef7429c053",
        "ab94d84e20ba0269178e89bcf4b48019bd3ec333c58e96f07a8f65be84a3bcdc",
    ]
    .map(|hex| {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        Key::new(KeyMaterial::new(&bytes).unwrap())
    })
}

/// Panics when a part of a key that is long enough to be told from chance is shown, in any of the usual encodings.
#[track_caller]
fn assert_shows_no_key(shown: &str, keys: impl IntoIterator<Item = Key>) {
    for key in keys {
        let [raw, fernet, tink] = FORMATS.map(|(_, format)| format.wire().first(&key).expose().to_owned());
        let value = tink.split("\"value\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let hex: String = key.material().expose().iter().map(|byte| format!("{byte:02x}")).collect();
        let decimals = format!("{:?}", key.material().expose());
        let parts = [raw, fernet, value, hex, decimals];
        for part in parts.iter().flat_map(|text| (0..text.len() - 12).map(|at| &text[at..at + 12])) {
            assert!(!shown.contains(part), "shows {part}: {shown}");
        }
    }
}

fn ring(primary: Key) -> Keyring {
    Keyring::new(primary).unwrap()
}

/// The policy of a secret, and a rotation of it in which steps are admitted.
struct Rotation {
    admitted: Admitted,
    policy: RotationPolicy,
}

impl Rotation {
    fn of(variables: &[(&str, &str)]) -> Self {
        let policy = stack(variables).for_secret(&BTreeMap::new(), now()).unwrap();
        let versions: rotation::versions::Versions =
            [(version("old"), [Stage::Current].into()), (version("new"), [Stage::Pending].into())]
                .into_iter()
                .collect();
        let Ok(Admission::Perform(admitted)) = versions.admit(&version("new"), Step::CreateSecret) else { panic!() };
        Self { admitted, policy }
    }

    /// Of the member `TOKEN_ENCRYPTION_KEY` of a JSON secret.
    fn json(format: &str, promotion: &str) -> Self {
        let field = ("ROTATION_FIELD", FIELD);
        Self::of(&[field, ("ROTATION_KEY_FORMAT", format), ("ROTATION_PROMOTION", promotion)])
    }

    /// Of a text secret.
    fn text(format: &str, promotion: &str) -> Self {
        Self::of(&[("ROTATION_KEY_FORMAT", format), ("ROTATION_PROMOTION", promotion)])
    }

    /// Raw keys, staged.
    fn staged() -> Self {
        Self::json("raw", "staged")
    }

    fn immediate() -> Self {
        Self::json("raw", "immediate")
    }

    fn at(&self, now: SystemTime, last_rotated: Option<SystemTime>) -> Subject<'_> {
        let (admitted, policy) = (&self.admitted, &self.policy);
        Subject {
            admitted,
            name: NAME,
            policy,
            now,
            last_rotated,
            current_created: None,
            credential: None,
            delivered: false,
        }
    }

    fn parse(&self, text: &str) -> Document {
        aware().parse(&self.policy, secret(text)).unwrap()
    }

    /// The value that is the key alone, as an owner would have stored it.
    fn bare(&self, key: &Key) -> Document {
        let text = KeyFormat::of(&self.policy).wire().first(key);
        match &self.policy.field {
            None => self.parse(text.expose()),
            field => Document::first(&text, field.as_ref()).unwrap(),
        }
    }

    fn value(&self, ring: &Keyring) -> Document {
        KeyFormat::of(&self.policy).wire().write(&self.bare(ring.primary()), ring).unwrap()
    }

    /// The value that a rotation makes of the ring `new`, over one that holds `old`.
    fn following(&self, old: &Keyring, new: &Keyring) -> Document {
        KeyFormat::of(&self.policy).wire().write(&self.value(old), new).unwrap()
    }

    fn ring(&self, document: &Document) -> Keyring {
        KeyFormat::of(&self.policy).wire().parse(document).unwrap()
    }

    /// The ring that a rotation makes of `current` at `now`.
    fn next(&self, kind: &Kind, now: SystemTime, current: &Keyring) -> Result<Keyring, RotationError> {
        let document = kind.create(&self.at(now, None), &self.value(current), &mut rng(99))?;
        Ok(self.ring(&document))
    }
}

type Kind = EncryptionKey<Application>;

/// Nobody is asked, and nothing is declared.
fn unproven() -> Kind {
    EncryptionKey::new(None, Consumers::default())
}

/// Nobody is asked, and the stack declares that consumers read the whole keyring.
fn aware() -> Kind {
    EncryptionKey::new(None, Consumers { cache_time: DEFAULT_CACHE_TIME, keyring_aware: true })
}

fn cached_for(cache_time: Duration) -> Kind {
    EncryptionKey::new(None, Consumers { cache_time, keyring_aware: true })
}

/// Asks `application`, and nothing is declared.
fn asking(application: Application) -> Kind {
    EncryptionKey::new(Some((application, token_secret())), Consumers::default())
}

fn token_secret() -> TokenSecret {
    TokenSecret::new("{1}/{2}/admin-token".to_owned(), None)
}

type Answering = Box<dyn Fn(Operation) -> Option<ReportedKeys> + Send + Sync>;

/// An application that takes `TOKEN` and answers by a rule which keys it reports.
struct Application {
    settings: TargetSettings,
    reports: Answering,
    asked: Mutex<Vec<Operation>>,
}

impl Application {
    fn new(reports: impl Fn(Operation) -> Option<ReportedKeys> + Send + Sync + 'static) -> Self {
        let settings = TargetSettings { can_refresh: true, instances: None, timeout: 2 * SECOND };
        Self { settings, reports: Box::new(reports), asked: Mutex::default() }
    }

    /// One that reports no keys.
    fn silent() -> Self {
        Self::new(|_| None)
    }

    /// One that always reports these keys, and encrypts with `primary`.
    fn with(keys: &Keyring, primary: Option<&Key>) -> Self {
        let reported = ReportedKeys {
            decrypts_with: keys.keys().map(|(_, key)| key.id()).collect(),
            encrypts_with: primary.map(|key| [key.id()].into()),
        };
        Self::new(move |_| Some(reported.clone()))
    }

    fn of_instances(mut self, instances: usize) -> Self {
        self.settings.instances = NonZeroUsize::new(instances);
        self
    }
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "asked {:?}", self.asked.lock().unwrap())
    }
}

impl Target for Application {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        assert_eq!(secret_name, NAME);
        self.asked.lock().unwrap().push(operation);
        if token.expose() != TOKEN {
            return Ok(Answer { verdict: Verdict::Refused, instance: None, keys: None });
        }
        let keys = (self.reports)(operation).filter(|_| operation == Operation::Keys);
        Ok(Answer { verdict: Verdict::Accepted, instance: Some("i-1".to_owned()), keys })
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

/// What `kind` was asked so far, as its Debug shows it.
#[track_caller]
fn assert_asked(kind: &Kind, asked: &[Operation]) {
    let (shown, expected) = (format!("{kind:?}"), format!("asked {asked:?}"));
    assert!(shown.contains(&expected), "{shown}: expected {expected}");
}

/// The message of a refusal by the policy.
#[track_caller]
fn assert_policy_refuses<T: std::fmt::Debug>(result: Result<T, RotationError>, setting: &str, problem: &str) {
    match result {
        Err(RotationError::InvalidPolicy { setting: named, problem: told }) => {
            assert!(named.starts_with(&format!("rotation:{setting} (ROTATION_")), "{named}");
            assert!(told.contains(problem), "{told}");
        }
        other => panic!("{other:?}"),
    }
}
