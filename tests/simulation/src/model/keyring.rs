//! Encryption keys: the application encrypts records with the primary key that it holds, all the time, and has to decrypt all
//! of them for ever.

mod promises;
pub mod rows;
mod values;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use encryption_key::{Consumers, EncryptionKey, MAX_PENDING_AGE};
use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::archive::{ArchiveSettings, DEFAULT_RETENTION};
use rotation::census::Census;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyFormat, KeyId, Keyring as Ring};
use rotation::kind::{SecretKind, Subject};
use rotation::policy::Promotion;
use rotation::target::http::TokenSecret;
use rotation::target::{ReportedKeys, TargetSettings};
use rotation::versions::Stage;

use self::promises::{in_use, invariant_every_record_is_readable, invariant_known_before_it_encrypts};
use self::values::{key, marked, name};
use super::{CREDENTIAL, CREDENTIAL_SECRET, Model, Port, Refusal, Shape, told};
use crate::invariants::{Change, Checked};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::{Defect, Scenario, Staleness};
use crate::schedule::{Action, Edit, Operation};
use crate::state::State;
use crate::world::Inner;

const FIELD: &str = "DATA_KEY";
const PROMOTION_TAG: &str = "rotation:promotion";
/// Declares that the primary key has to be replaced at once.
pub const EMERGENCY: Action = Action::Tag(PROMOTION_TAG, Some("immediate"));
/// Takes that back.
pub const NO_EMERGENCY: Action = Action::Tag(PROMOTION_TAG, None);
/// How long every application keeps what it has read, at most.
pub const CACHE_TIME: Duration = Duration::from_secs(60 * 60);
/// By so much the function's clock may be behind: it has whole seconds, and is read when an invocation begins.
const CLOCK_BEHIND: Duration = Duration::from_secs(2);

/// A person adds a secondary key of their own.
pub const ADDS_SECONDARY: Edit = Edit::OfKind("adds a secondary key");
/// An operator marks the staged key as compromised.
pub const MARKS_STAGED: Edit = Edit::OfKind("marks the staged key as compromised");
/// An operator marks the primary key as compromised: the next rotation replaces it at once.
pub const MARKS_PRIMARY: Edit = Edit::OfKind("marks the primary key as compromised");

thread_local! {
    /// The rings of values that were looked at before: every instance looks at every value, again and again.
    static RINGS: RefCell<HashMap<String, Rc<Ring>>> = RefCell::default();
}

/// Who encrypts and decrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// Two instances with ids, that read `AWSCURRENT` and `AWSPENDING`, and report their keys.
    Told,
    /// The same, reading `AWSCURRENT` only: rotated with `rotation:verify=after`. With immediate promotion the stack declares
    /// that they read the whole keyring.
    CurrentOnly,
    /// Two instances without ids, that read `AWSCURRENT` and `AWSPENDING`: one of them answers for both.
    Uncounted,
    /// Two instances that nobody asks: the stack declares that they read the whole keyring. With immediate promotion it is one
    /// process, which reads the secret before each use.
    Silent,
    /// Two instances that know nothing of keyrings: they read one key, and report none.
    NameOnly,
}

/// What is broken in the kind on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It drops the oldest secondary key.
    DropsOldest,
    /// It promotes a fresh key in the place of the staged one.
    PromotesFresh,
    /// It does not look at the staged key's age.
    IgnoresAge,
    /// It holds a staged key back for longer than caches live.
    HoldsBack,
    /// It does not look whether a pending ring is what has to follow the current one.
    IgnoresSuccession,
}

/// A keyring, and who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// Whether the ring is in a JSON object.
    pub shape: Shape,
    /// How it is written.
    pub format: KeyFormat,
    /// How a new key becomes primary.
    pub promotion: Promotion,
    /// Who uses it.
    pub application: Application,
    /// Whether its keys are archived, and rows are stored under them.
    pub archived: bool,
    /// What is broken in the kind on purpose.
    pub broken: Option<Broken>,
}

impl fmt::Display for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, format, promotion, application, archived, broken } = self;
        write!(f, "{shape:?} {format:?} {promotion:?}, application {application:?}")?;
        if *archived {
            write!(f, ", keys archived")?;
        }
        broken.iter().try_for_each(|broken| write!(f, ", kind {broken:?}"))
    }
}

/// What one instance holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    keys: BTreeSet<KeyId>,
    primary: Option<KeyId>,
    /// The values that they are from.
    current: Option<Arc<str>>,
    pending: Option<Arc<str>>,
}

/// What became of keys.
#[derive(Debug, Default)]
pub struct Memory {
    /// Those with which a record was encrypted.
    used: BTreeSet<KeyId>,
    /// Those that were in the current ring.
    current: BTreeSet<KeyId>,
    /// Those that came with the last promotion.
    new: BTreeSet<KeyId>,
    /// Those that became primary at once, and when.
    at_once: BTreeMap<KeyId, SystemTime>,
    /// Those that an operator has marked.
    compromised: BTreeSet<KeyId>,
    /// Those that were in use in the last ring whose rotation or operation had succeeded: none of them disappears unnoticed.
    complete: BTreeSet<KeyId>,
    /// Those that a person has taken out of the ring.
    gone: BTreeSet<KeyId>,
    /// Those of them that have to be missed.
    lost: BTreeSet<KeyId>,
    /// Those that came back, and when: an instance may lack them until its cache is too old.
    restored: BTreeMap<KeyId, SystemTime>,
    /// What is stored under them.
    table: rows::Table,
}

impl Model for Keyring {
    type Kind<T: Port> = EncryptionKey<T>;
    type Instance = Held;
    type Memory = Memory;

    const FIELD: &'static str = FIELD;

    fn scenarios() -> Vec<Scenario<Self>> {
        use Application::{CurrentOnly, NameOnly, Silent, Told, Uncounted};
        use Promotion::{Immediate, Staged};
        let silent = Self::scenario(Staged, Silent);
        let mut all = vec![
            Self::scenario(Staged, Told),
            Self::scenario(Staged, CurrentOnly),
            silent,
            silent.with_staleness(Staleness::NeverRotated),
            silent.with_staleness(Staleness::RotatedBefore),
            Self::scenario(Staged, Uncounted),
            Self::scenario(Staged, NameOnly),
            Self::scenario(Staged, Told).empty(),
            silent.empty(),
            Self::scenario(Immediate, Told),
            Self::scenario(Immediate, CurrentOnly),
            Self::scenario(Immediate, Silent),
            Self::written(Self::scenario(Immediate, Told), Shape::Text, KeyFormat::Raw),
            Self::written(Self::scenario(Immediate, Silent), Shape::Text, KeyFormat::Raw),
        ];
        for promotion in [Staged, Immediate] {
            for format in [KeyFormat::Fernet, KeyFormat::Tink] {
                all.push(Self::written(Self::scenario(promotion, Told), Shape::Json, format));
            }
            all.push(Self::scenario(promotion, Told).with_defect(Defect::Frozen));
            all.push(Self::scenario(promotion, Told).with_defect(Defect::DropsPromoted));
            all.push(Self::scenario(promotion, CurrentOnly).with_defect(Defect::Frozen));
        }
        all
    }

    fn shape(self) -> Shape {
        self.shape
    }

    fn variables(self) -> Vec<(&'static str, &'static str)> {
        let format = match self.format {
            KeyFormat::Raw => "raw",
            KeyFormat::Fernet => "fernet",
            KeyFormat::Tink => "tink",
        };
        let promotion = match (self.promotion, self.broken) {
            (Promotion::Immediate, _) | (_, Some(Broken::PromotesFresh)) => "immediate",
            (Promotion::Staged, _) => "staged",
        };
        let verify = if self.application == Application::CurrentOnly { "after" } else { "before" };
        // Censuses are no farther apart than they have to be.
        let overlap = if self.archived { "1h" } else { "24h" };
        vec![
            ("ROTATION_KEY_FORMAT", format),
            ("ROTATION_PROMOTION", promotion),
            ("ROTATION_VERIFY", verify),
            ("ROTATION_OVERLAP", overlap),
        ]
    }

    fn kind<T: Port>(self, target: Option<T>) -> EncryptionKey<T> {
        let target = target.map(|target| (target, TokenSecret::new(CREDENTIAL_SECRET.to_owned(), None)));
        let cache_time = match self.broken {
            Some(Broken::IgnoresAge) => Duration::ZERO,
            Some(Broken::HoldsBack) => 3 * CACHE_TIME,
            _ => CACHE_TIME,
        };
        let archive = self.archived.then(|| ArchiveSettings::new("{name}-archive".to_owned(), DEFAULT_RETENTION));
        EncryptionKey::new(target, Consumers { cache_time, keyring_aware: self.is_declared() }).with_archive(archive)
    }

    fn initial(self, number: u64, created: SystemTime) -> String {
        self.initial_ring(number, created).and_then(|ring| self.value(&ring)).unwrap_or_default()
    }

    fn edits(self) -> &'static [Edit] {
        match (self.shape, self.application) {
            (Shape::Text, _) => &[Edit::Secret, ADDS_SECONDARY],
            // Nobody gives an application another key that can read only one.
            (_, Application::NameOnly) => &[Edit::OtherMember, ADDS_SECONDARY],
            _ => &[Edit::OtherMember, Edit::Secret, ADDS_SECONDARY, MARKS_STAGED, MARKS_PRIMARY],
        }
    }

    fn edited(self, edit: Edit, old: Option<&Arc<str>>, number: u64, now: SystemTime) -> String {
        let own = key(number + 1000, now);
        let Some(old) = old else { return Ring::new(own).ok().and_then(|ring| self.value(&ring)).unwrap_or_default() };
        let edited = match edit {
            MARKS_STAGED => marked(old, "staged", now),
            MARKS_PRIMARY => marked(old, "primary", now),
            ADDS_SECONDARY => self.by_hand(old, |ring| ring.with_secondary(own).ok()),
            _ => self.by_hand(old, |ring| ring.replace_primary(own, now).ok()),
        };
        edited.unwrap_or_else(|| old.to_string())
    }

    fn instances(self) -> usize {
        if self.cache_age() == Some(Duration::ZERO) { 1 } else { 2 }
    }

    fn target(self) -> Option<TargetSettings> {
        match self.application {
            Application::Silent => None,
            Application::Uncounted => told(None),
            Application::Told | Application::CurrentOnly | Application::NameOnly => told(Some(2)),
        }
    }

    fn loaded(self, state: &State) -> Option<Held> {
        let current = state.value_at(&Stage::Current)?;
        let ring = self.ring(current)?;
        let (primary, mut held_pending) = (ring.primary().id(), None);
        let mut keys: BTreeSet<_> = match self.application {
            Application::NameOnly => [primary].into(),
            _ => ring.keys().map(|(_, key)| key.id()).collect(),
        };
        if matches!(self.application, Application::Told | Application::Uncounted)
            && let Some(pending) = state.value_at(&Stage::Pending)
        {
            keys.extend(self.ids(pending));
            held_pending = Some(Arc::clone(pending));
        }
        Some(Held { keys, primary: Some(primary), current: Some(Arc::clone(current)), pending: held_pending })
    }

    fn accepts(self, _: &Held, token: &str, _: SystemTime) -> bool {
        token == CREDENTIAL
    }

    fn reports(self, held: &Held) -> Option<ReportedKeys> {
        let reported =
            ReportedKeys { decrypts_with: held.keys.clone(), encrypts_with: held.primary.map(|id| [id].into()) };
        (self.application != Application::NameOnly).then_some(reported)
    }

    fn cache_age(self) -> Option<Duration> {
        let each_time = self.application == Application::Silent && self.promotion == Promotion::Immediate;
        Some(if each_time { Duration::ZERO } else { CACHE_TIME })
    }

    fn reloads(self) -> &'static [Action] {
        &[Action::Reload, Action::ReloadOne(0), Action::ReloadOne(1)]
    }

    fn is_broken_in(self, instance: usize) -> bool {
        instance == 0
    }

    fn is_made_from(self, new: &str, old: &str) -> bool {
        self.ring(new).zip(self.ring(old)).is_some_and(|(new, old)| new.holds_all_of(&old))
    }

    /// No key is revoked: what is encrypted with it has to stay readable.
    const OPERATIONS: &'static [Operation] = &[Operation::Abort, Operation::Rollback, Operation::Compromise];

    fn operate(self, operator: Operator<Self>) -> Operating {
        let kind = self.kind(operator.target(self));
        Box::pin(operator.perform_on_keyring(kind))
    }

    fn censuses(world: &Inner<Self>) -> Option<[Census; 2]> {
        rows::censuses(world)
    }

    fn in_use(self, value: &Arc<str>) -> Option<Name> {
        Some(name(self.ring(value)?.primary()))
    }

    fn exposed_with(self, value: &Arc<str>) -> BTreeSet<Name> {
        let ring = self.ring(value);
        ring.iter().flat_map(|ring| std::iter::once(ring.primary()).chain(ring.staged())).map(name).collect()
    }

    fn back(self, state: &State) -> Option<Name> {
        let ring = self.ring(state.value_at(&Stage::Current)?)?;
        let previous = state.value_at(&Stage::Previous).and_then(|value| self.in_use(value));
        let of_version = ring.secondary().iter().find(|key| Some(name(key)) == previous);
        of_version.or_else(|| ring.secondary().iter().rev().max_by_key(|key| key.dates().promoted)).map(name)
    }

    fn is_marked(self, value: &Arc<str>, of: &Name) -> bool {
        let ring = self.ring(value);
        ring.iter().flat_map(|ring| ring.keys()).any(|(_, key)| name(key) == *of && key.dates().compromised.is_some())
    }

    fn is_made_by(self, operation: Operation, new: &str, old: &str) -> bool {
        let Some((is, was)) = self.ring(new).zip(self.ring(old)) else { return false };
        let staged = is.staged().map(Key::id) == was.staged().map(Key::id);
        let reinstated = is.primary().id() != was.primary().id() && was.get(is.primary().id()).is_some();
        if operation == Operation::Retire {
            let kept = was.secondary().iter().filter(|key| is.get(key.id()).is_some());
            let same = is.primary() == was.primary() && is.staged() == was.staged();
            return same && is.secondary().iter().eq(kept);
        }
        let made = match operation {
            Operation::Rollback => reinstated,
            // It puts keys back first that are missing.
            Operation::Compromise if is.keys().count() > was.keys().count() => return is.holds_all_of(&was),
            Operation::Compromise => is.primary().id() == was.primary().id(),
            Operation::Restore => return is.holds_all_of(&was),
            Operation::Abort | Operation::Revoke | Operation::EndOverlap | Operation::Retire => false,
        };
        made && staged && is.keys().count() == was.keys().count() && is.holds_all_of(&was)
    }

    /// After a rollback the key that it replaced is in the ring, and everybody who is told works with that. After a compromise
    /// what it replaced is marked, where there is a place for it.
    fn judge_operation(world: &Inner<Self>, operation: Operation) -> Checked {
        promises::judge_operation(world, operation)
    }

    /// Where nobody can prove a key that is new, a compromise is refused before anything is marked.
    fn operation_refusal(world: &Inner<Self>, operation: Operation, error: &str) -> Refusal {
        promises::operation_refusal(world, operation, error)
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        promises::remember(world, change)
    }

    fn judge(world: &mut Inner<Self>) -> Checked {
        for number in 0..world.instances.len() {
            let Some(primary) = world.instances[number].primary else { continue };
            if world.memory.used.insert(primary) {
                invariant_known_before_it_encrypts(world, primary)?;
            }
        }
        invariant_every_record_is_readable(world)?;
        rows::invariant_every_row_is_readable(world)
    }

    /// Who is told works with the ring.
    fn rotation_succeeded(world: &mut Inner<Self>) {
        let state = world.state();
        let ring = state.value_at(&Stage::Current).and_then(|value| world.scenario.model.ring(value));
        world.memory.complete = ring.iter().flat_map(|ring| in_use(ring)).collect();
    }

    fn judge_success(world: &Inner<Self>) -> Checked {
        promises::judge_success(world)
    }

    fn may_stand(self) -> bool {
        self.promotion == Promotion::Immediate
    }

    fn refusal(world: &Inner<Self>, version: &VersionId, error: &str) -> Refusal {
        promises::refusal(world, version, error)
    }

    fn patience(self) -> Duration {
        if self.asks_every_instance() { CACHE_TIME } else { MAX_PENDING_AGE + 2 * CACHE_TIME }
    }

    fn between(self, rng: &mut StdRng) -> Vec<Action> {
        let mut actions = vec![];
        if rng.random_bool(0.7) {
            actions.push(Action::Wait(self.pause(rng)));
        }
        if self.shape == Shape::Json && self.promotion == Promotion::Staged {
            // An emergency is one rotation long.
            actions.push(if rng.random_bool(0.2) { EMERGENCY } else { NO_EMERGENCY });
        }
        if self.edits().contains(&MARKS_STAGED) && rng.random_bool(0.2) {
            actions.push(Action::Edit(if rng.random_bool(0.5) { MARKS_STAGED } else { MARKS_PRIMARY }));
        }
        if self.application != Application::NameOnly && rng.random_bool(0.1) {
            actions.push(Action::Edit(Edit::FirstValue));
        }
        actions
    }

    /// A minute to a hundred days.
    fn pause(self, rng: &mut StdRng) -> Duration {
        Duration::from_secs_f64(60.0 * rng.random_range(0.0..17.1_f64).exp2())
    }

    fn most_rotations(self) -> usize {
        5
    }

    fn create<K: SecretKind>(
        self,
        kind: &K,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        let &Subject { admitted, name, policy, now, last_rotated, current_created, credential, delivered } = subject;
        let last_rotated = if self.broken == Some(Broken::IgnoresAge) { Some(now) } else { last_rotated };
        let new = kind.create(
            &Subject { admitted, name, policy, now, last_rotated, current_created, credential, delivered },
            current,
            rng,
        )?;
        let wire = self.format.wire();
        let ring = wire.parse(&new)?;
        match ring.secondary().last().map(Key::id).filter(|_| self.broken == Some(Broken::DropsOldest)) {
            Some(oldest) => wire.write(&new, &ring.retire(oldest)?),
            None => Ok(new),
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
        match self.broken {
            Some(Broken::DropsOldest | Broken::IgnoresSuccession) => Ok(()),
            _ => kind.check_succession(subject, old, new, created),
        }
    }
}
