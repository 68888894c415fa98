//! Encryption keys: the application encrypts records with the primary key that it holds, all the time, and has to decrypt all
//! of them for ever.

pub mod rows;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use encryption_key::{Consumers, EncryptionKey, LONGEST_INVOCATION, MAX_PENDING_AGE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rotation::archive::{ArchiveSettings, DEFAULT_RETENTION};
use rotation::census::Census;
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyFormat, KeyId, Keyring as Ring};
use rotation::kind::{SecretKind, Subject};
use rotation::policy::Promotion;
use rotation::secret::SecretText;
use rotation::target::http::TokenSecret;
use rotation::target::{ReportedKeys, Target, TargetSettings};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::Value;

use super::{CREDENTIAL, CREDENTIAL_SECRET, Model, Refusal, Shape, member, object, told};
use crate::invariants::{Change, Checked, Moved, require};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::{Defect, Scenario, Staleness};
use crate::schedule::{Action, Edit, Operation};
use crate::state::State;
use crate::world::{Inner, Tags};

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

impl Keyring {
    /// A raw keyring in a JSON secret.
    #[must_use]
    pub fn scenario(promotion: Promotion, application: Application) -> Scenario<Self> {
        let (shape, format) = (Shape::Json, KeyFormat::Raw);
        Scenario::new(Self { shape, format, promotion, application, archived: false, broken: None })
    }

    /// The same with an archive of its keys, by which they can be retired.
    #[must_use]
    pub fn archived(scenario: Scenario<Self>) -> Scenario<Self> {
        Scenario { model: Self { archived: true, ..scenario.model }, ..scenario }
    }

    /// The same in another format.
    #[must_use]
    pub fn written(scenario: Scenario<Self>, shape: Shape, format: KeyFormat) -> Scenario<Self> {
        Scenario { model: Self { shape, format, ..scenario.model }, ..scenario }
    }

    /// The same with a kind that is broken on purpose.
    #[must_use]
    pub fn broken(scenario: Scenario<Self>, broken: Broken) -> Scenario<Self> {
        Scenario { model: Self { broken: Some(broken), ..scenario.model }, ..scenario }
    }

    fn document(self, value: &str) -> Option<Document> {
        let field = FieldName::new(FIELD).filter(|_| self.shape == Shape::Json);
        self.format.wire().document(SecretText::new(value.to_owned()), field.as_ref()).ok()
    }

    fn ring(self, value: &str) -> Option<Rc<Ring>> {
        if let Some(known) = RINGS.with_borrow(|rings| rings.get(value).cloned()) {
            return Some(known);
        }
        let ring = Rc::new(self.format.wire().parse(&self.document(value)?).ok()?);
        RINGS.with_borrow_mut(|rings| {
            if rings.len() > 200 {
                rings.clear();
            }
            rings.insert(value.to_owned(), Rc::clone(&ring));
        });
        Some(ring)
    }

    fn ids(self, value: &str) -> BTreeSet<KeyId> {
        self.ring(value).iter().flat_map(|ring| ring.keys()).map(|(_, key)| key.id()).collect()
    }

    /// A value with this ring, which nobody has rotated yet.
    fn value(self, ring: &Ring) -> Option<String> {
        let primary = self.format.wire().first(ring.primary());
        let primary = primary.expose();
        let value = match self.shape {
            Shape::Text => primary.to_owned(),
            Shape::Json => object(&format!(r#""{FIELD}": {}"#, Value::from(primary))),
        };
        Some(self.format.wire().write(&self.document(&value)?, ring).ok()?.text().expose().to_owned())
    }

    /// What a person makes of a value, who leaves the member with the states as it is.
    fn by_hand(self, value: &str, change: impl FnOnce(Ring) -> Option<Ring>) -> Option<String> {
        let document = self.document(value)?;
        let ring = change(Ring::clone(&*self.ring(value)?))?;
        let mut edited = self.format.wire().write(&document, &ring).ok()?;
        if let Some(states) = FieldName::new(&format!("{FIELD}_RING")) {
            edited = match document.member(&states).ok()? {
                Some(kept) => edited.with_member(&states, &kept).ok()?,
                None => edited.without_member(&states).ok()?,
            };
        }
        Some(edited.text().expose().to_owned())
    }

    /// The ring that stood there from the beginning, or the one before it.
    fn initial_ring(self, number: u64, created: SystemTime) -> Option<Ring> {
        let key = |number| key(number, created);
        // An old application has one key for ever.
        if self.application == Application::NameOnly {
            return Ring::new(key(1)).ok();
        }
        let ring = Ring::new(key(number)).ok()?;
        let ring = if number > 0 { ring.with_secondary(key(number - 1)).ok()? } else { ring };
        if self.promotion == Promotion::Staged { ring.stage(key(number + 1)).ok() } else { Some(ring) }
    }

    /// Whether a rotation that was told these tags has to replace the primary key of `ring` by a fresh one.
    fn promotes_at_once(self, ring: &Ring, tags: &Tags) -> bool {
        let immediate = match tags.get(PROMOTION_TAG) {
            Some(tag) => tag == "immediate",
            None => self.promotion == Promotion::Immediate,
        };
        immediate || ring.primary().dates().compromised.is_some()
    }

    /// Whether the stack declares that all read the whole keyring.
    fn is_declared(self) -> bool {
        // With verify=after nobody can prove a key that is new.
        let at_once = self.promotion == Promotion::Immediate && self.application == Application::CurrentOnly;
        at_once || self.application == Application::Silent
    }

    /// Whether every instance is asked what it holds; else the age of a staged key tells.
    fn asks_every_instance(self) -> bool {
        matches!(self.application, Application::Told | Application::CurrentOnly | Application::NameOnly)
    }
}

fn name(key: &Key) -> Name {
    key.id().to_string().into()
}

/// A key by its number.
fn key(number: u64, created: SystemTime) -> Key {
    Key::generate(created, &mut StdRng::seed_from_u64(number << 32))
}

/// The value with a mark on its key in this state.
fn marked(value: &str, state: &str, now: SystemTime) -> Option<String> {
    let states = member(value, &format!("{FIELD}_RING"))?;
    let mut ring: Value = serde_json::from_str(&states).ok()?;
    let key = ring["keys"].as_array_mut()?.iter_mut().find(|key| key["state"] == state)?;
    key["compromised"] = Value::from(format_timestamp(now));
    let quoted = |text: &str| Value::from(text).to_string();
    Some(value.replacen(&quoted(&states), &quoted(&ring.to_string()), 1))
}

impl Model for Keyring {
    type Kind<T: Target + Send> = EncryptionKey<T>;
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

    fn kind<T: Target + Send>(self, target: Option<T>) -> EncryptionKey<T> {
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
            Operation::Abort | Operation::Revoke | Operation::Retire => false,
        };
        made && staged && is.keys().count() == was.keys().count() && is.holds_all_of(&was)
    }

    /// After a rollback the key that it replaced is in the ring, and everybody who is told works with that. After a compromise
    /// what it replaced is marked, where there is a place for it.
    fn judge_operation(world: &Inner<Self>, operation: Operation) -> Checked {
        let (model, state) = (world.scenario.model, world.state());
        let Some(ring) = state.value_at(&Stage::Current).and_then(|value| model.ring(value)) else { return Ok(()) };
        if operation == Operation::Restore {
            let lost = world.memory.lost.iter().next();
            require(lost.is_none(), || format!("a restore succeeded, and key {lost:?} is not in the ring"))?;
        }
        if operation == Operation::Compromise {
            let clean = |id: &Name| ring.keys().any(|(_, key)| name(key) == *id && key.dates().compromised.is_none());
            let unmarked = model.shape == Shape::Json && world.asked.replaced_at_last().iter().any(clean);
            require(!unmarked, || "a compromise succeeded, and a key that it replaced is not marked".to_owned())?;
            let taken = |id: &Name| world.memory.gone.iter().any(|gone| gone.to_string() == **id);
            let held = |id: &Name| ring.keys().any(|(_, key)| name(key) == *id) || taken(id);
            require(world.asked.replaced().iter().all(held), || {
                "a compromise succeeded, and a key that it replaced is not in the ring".to_owned()
            })?;
        }
        if operation == Operation::Abort { Ok(()) } else { Self::judge_success(world) }
    }

    /// Where nobody can prove a key that is new, a compromise is refused before anything is marked.
    fn operation_refusal(world: &Inner<Self>, operation: Operation, error: &str) -> Refusal {
        let model = world.scenario.model;
        let unprovable = matches!(model.application, Application::NameOnly | Application::CurrentOnly);
        match (operation, error) {
            (Operation::Rollback | Operation::Retire, "KeysMissing") if !world.memory.lost.is_empty() => {
                Refusal::ForGood
            }
            (Operation::Compromise, "ConsumersUnproven") if unprovable && !model.is_declared() => Refusal::ForGood,
            _ => Refusal::Wrong,
        }
    }

    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked {
        let model = world.scenario.model;
        let Some(new) = change.new.and_then(|new| model.ring(new)) else {
            return Err("no keyring is current".to_owned());
        };
        let promoted = matches!(change.moved, Moved::Promoted { .. });
        if change.moved == Moved::Operated(Operation::Retire) {
            rows::invariant_retired_keys_are_not_needed(world, &new)?;
        }
        if !matches!(change.moved, Moved::ByHand) {
            rows::invariant_what_becomes_primary_is_archived(world, &new)?;
        }
        let old = change.old.filter(|_| promoted).and_then(|old| model.ring(old));
        let memory = &mut world.memory;
        require(!promoted || memory.lost.is_empty(), || {
            format!("a rotation went on while keys are missing: {:?}", memory.lost)
        })?;
        memory.find_lost_keys(change, &new);
        invariant_no_key_is_lost(memory, change.moved, &new)?;
        invariant_no_compromised_key_becomes_primary(memory, change.moved, &new)?;
        if let Some(old) = old.filter(|old| model.promotes_at_once(old, change.tags)) {
            invariant_at_once_means_fresh_keys(&old, &new)?;
            memory.at_once.insert(new.primary().id(), change.now);
        }
        let marked = new.keys().map(|(_, key)| key).filter(|key| key.dates().compromised.is_some());
        memory.compromised.extend(marked.map(Key::id));
        let ids: BTreeSet<KeyId> = new.keys().map(|(_, key)| key.id()).collect();
        memory.new = if promoted { &ids - &memory.current } else { BTreeSet::new() };
        memory.current = ids;
        Ok(())
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
        let (model, state) = (world.scenario.model, world.state());
        // The first value of a secret is made before any application can know it.
        let is_told = matches!(model.application, Application::Told | Application::CurrentOnly);
        let (Some(value), true) =
            (state.value_at(&Stage::Current), is_told && state.holder(&Stage::Previous).is_some())
        else {
            return Ok(());
        };
        let (ids, primary) = (model.ids(value), model.ring(value).map(|ring| ring.primary().id()));
        let works = |held: &Held| held.keys.is_superset(&ids) && held.primary == primary;
        require(world.instances.iter().all(works), || {
            "a rotation succeeded, and an instance does not work with its keyring".to_owned()
        })
    }

    fn may_stand(self) -> bool {
        self.promotion == Promotion::Immediate
    }

    fn refusal(world: &Inner<Self>, version: &VersionId, error: &str) -> Refusal {
        let (model, state) = (world.scenario.model, world.state());
        let current = state.holder(&Stage::Current).and_then(|version| state.versions.get(version));
        let ring = current.and_then(|current| model.ring(current.value.as_ref()?));
        match (model.application, error) {
            // Until somebody puts them back.
            (_, "KeysMissing") if !world.memory.lost.is_empty() => Refusal::ForNow,
            (Application::NameOnly, "ConsumersUnproven") => Refusal::ForGood,
            (Application::CurrentOnly, "ConsumersUnproven") if !model.is_declared() => {
                let at_once = ring.is_some_and(|ring| model.promotes_at_once(&ring, &world.tags));
                if at_once { Refusal::ForGood } else { Refusal::Wrong }
            }
            (_, "StagedTooYoung") if !model.asks_every_instance() => {
                let created = ring.and_then(|ring| ring.staged()?.dates().created);
                let seen = created.zip(current).map(|(created, current)| {
                    let succeeded = world.last_rotated(&state).filter(|rotated| *rotated >= created);
                    succeeded.unwrap_or(created + MAX_PENDING_AGE + LONGEST_INVOCATION).max(current.created)
                });
                let too_young = seen.is_some_and(|seen| world.now() < seen + CACHE_TIME + CLOCK_BEHIND);
                if too_young { Refusal::ForNow } else { Refusal::Wrong }
            }
            // It was opened by a rotation that was refused, and taken up too late: it was given up.
            (_, "PendingTooOld" | "UnknownVersion") => {
                let opened = state.versions.get(version).map(|version| version.created);
                let late = opened.is_some_and(|opened| opened + MAX_PENDING_AGE < world.now());
                if late { Refusal::ForNow } else { Refusal::Wrong }
            }
            _ => Refusal::Wrong,
        }
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
        let &Subject { admitted, name, policy, now, last_rotated, current_created, credential } = subject;
        let last_rotated = if self.broken == Some(Broken::IgnoresAge) { Some(now) } else { last_rotated };
        let new = kind.create(
            &Subject { admitted, name, policy, now, last_rotated, current_created, credential },
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

/// The keys that may have encrypted something.
fn in_use(ring: &Ring) -> impl Iterator<Item = KeyId> {
    std::iter::once(ring.primary()).chain(ring.secondary()).map(Key::id)
}

impl Memory {
    /// Takes note of the keys that a person takes out of the ring, and of those that come back.
    fn find_lost_keys(&mut self, change: &Change<'_>, new: &Ring) {
        if change.moved == Moved::Operated(Operation::Retire) {
            self.complete.retain(|id| new.get(*id).is_some());
        }
        let missing: BTreeSet<KeyId> = self.complete.iter().copied().filter(|id| new.get(*id).is_none()).collect();
        let back: Vec<KeyId> = self.gone.iter().copied().filter(|id| new.get(*id).is_some()).collect();
        self.restored.extend(back.iter().map(|id| (*id, change.now)));
        self.gone.retain(|id| new.get(*id).is_none());
        if change.moved == Moved::ByHand {
            self.gone.extend(self.current.iter().copied().filter(|id| new.get(*id).is_none()));
            // A value from before a retirement: nobody has its key, until the caches are too old.
            let retired = new.keys().map(|(_, key)| key.id()).filter(|id| self.table.has_retired(*id));
            self.restored.extend(retired.map(|id| (id, change.now)));
        }
        if matches!(change.moved, Moved::ByHand | Moved::Operated(Operation::Restore)) {
            // An old value does not know what a person has marked since; nor does the last complete ring, when no sweep has seen it.
            let unmarked = |id: &KeyId| new.get(*id).is_some_and(|key| key.dates().compromised.is_none());
            self.compromised.retain(|id| !unmarked(id));
        }
        self.lost = &missing & &self.gone;
    }
}

/// Data is never lost: a key that was current stays current, unless it came with a version that is put back and has encrypted
/// nothing.
fn invariant_no_key_is_lost(memory: &Memory, moved: Moved, new: &Ring) -> Checked {
    let lost = memory.current.iter().filter(|id| new.get(**id).is_none() && !memory.gone.contains(id));
    let mut lost = lost.filter(|id| moved != Moved::PutBack || memory.used.contains(id) || !memory.new.contains(id));
    lost.next().map_or(Ok(()), |id| Err(format!("key {id} is no longer in the current keyring")))
}

/// No rotation makes a key primary, or leaves it so, that an operator has marked as compromised.
fn invariant_no_compromised_key_becomes_primary(memory: &Memory, moved: Moved, new: &Ring) -> Checked {
    let primary = new.primary().id();
    let promoted = matches!(moved, Moved::Promoted { .. } | Moved::Operated(Operation::Rollback));
    require(!promoted || !memory.compromised.contains(&primary), || {
        format!("a ring became current whose primary key {primary} is compromised")
    })
}

/// Where the primary key may be known to others, so is the staged key beside it: neither a new primary nor a new staged key
/// was in the ring that is replaced.
fn invariant_at_once_means_fresh_keys(old: &Ring, new: &Ring) -> Checked {
    let encrypts = std::iter::once(new.primary()).chain(new.staged());
    let known = encrypts.map(Key::id).find(|id| old.get(*id).is_some());
    known.map_or(Ok(()), |id| Err(format!("key {id} was to be replaced at once, and is in use or staged again")))
}

/// When a key encrypts for the first time, every instance decrypts with it.
fn invariant_known_before_it_encrypts(world: &Inner<Keyring>, primary: KeyId) -> Checked {
    let mut knows =
        (0..world.instances.len()).map(|number| !must_know(world, number, primary) || holds(world, number, primary));
    require(knows.all(|knows| knows), || format!("key {primary} encrypts, and an instance does not know it yet"))
}

/// Every record that was ever encrypted is readable for every instance, and for one that starts now.
fn invariant_every_record_is_readable(world: &Inner<Keyring>) -> Checked {
    for id in &world.memory.used {
        for number in 0..world.instances.len() {
            require(!must_know(world, number, *id) || holds(world, number, *id), || {
                format!("instance {number} cannot read what is encrypted with key {id}")
            })?;
        }
    }
    let Some(fresh) = world.scenario.model.loaded(&world.state()) else { return Ok(()) };
    let unreadable = world.memory.used.difference(&fresh.keys).find(|id| !world.memory.gone.contains(id));
    unreadable.map_or(Ok(()), |id| Err(format!("a new instance cannot read what is encrypted with key {id}")))
}

fn holds(world: &Inner<Keyring>, number: usize, id: KeyId) -> bool {
    world.instances[number].keys.contains(&id)
}

/// Whether an instance has to read what is encrypted with this key. One that holds nothing has not started. A key that became
/// primary at once is known beforehand only where every instance loads what is pending; others may lack it until their
/// cache is old, or, when they are broken, until they are repaired.
fn must_know(world: &Inner<Keyring>, number: usize, id: KeyId) -> bool {
    if world.instances[number].primary.is_none() || world.memory.gone.contains(&id) {
        return false;
    }
    if world.memory.restored.get(&id).is_some_and(|since| world.now() < *since + CACHE_TIME) {
        return false;
    }
    let Some(since) = world.memory.at_once.get(&id) else { return true };
    // Of a broken one the rotation cannot know that it will drop what it has loaded.
    let is_proven = world.scenario.model.application == Application::Told
        && (!world.is_broken(number) || world.scenario.defect == Some(Defect::Frozen));
    is_proven || (!world.is_broken(number) && world.now() >= *since + CACHE_TIME)
}
