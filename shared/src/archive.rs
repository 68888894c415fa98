//! The archive of keys: a secret beside the keyring that holds every key before anything is encrypted with it, so that no
//! edit of the ring, by whomever, can lose one, and that keeps a retired key for as long as backups may need it.
//!
//! ```json
//! {"keys":[{"id":"5e6f7081","key":"…","archived":"2026-08-24T00:00:00Z","retired":"2026-12-01T00:00:00Z"},
//!          {"id":"1a2b3c4d","key":"…","archived":"2026-11-24T00:00:00Z"}]}
//! ```
//!
//! `key` is the 32 bytes in base64 (RFC 4648 §4), whatever the format of the ring. It is written as everything is that more than
//! one may write at once: under a stage of its own first, and then made current by a move that names the version it was made
//! from.
//!
//! The archive is one list, and not one version for each key: a secret has at most 20 stages and about 100 versions, and versions
//! without a stage do not last. The version id is a digest of what the list is made from, of ids and of dates: two processes that
//! write the same list do it once. A value that is not understood is not written over.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::deadline::Deadline;
use crate::document::MAX_VALUE_BYTES;
use crate::environment::{Environment, invalid};
use crate::error::RotationError;
use crate::event::{VersionId, digest};
use crate::keyring::{Key, KeyId, KeyMaterial, Keyring};
use crate::moves::{may_have_moved, read_version};
use crate::pattern::secret_of;
use crate::secret::SecretText;
use crate::store::{Described, Put, SecretStore, StoreErrorKind};
use crate::time::{format_timestamp, parse_timestamp};
use crate::versions::Stage;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a retired key is kept, unless the stack sets `KEY_ARCHIVE_RETENTION`: longer than a year of backups.
pub const DEFAULT_RETENTION: Duration = DAY.saturating_mul(400);
/// The shortest that a stack can set: a retirement that was wrong is noticed, and undone, in that time.
const SHORTEST_RETENTION: Duration = DAY.saturating_mul(30);
/// The longest: ten years, which every time can be moved by.
const LONGEST_RETENTION: Duration = DAY.saturating_mul(3650);

const SECRET: &str = "KEY_ARCHIVE_SECRET";
const RETENTION: &str = "KEY_ARCHIVE_RETENTION";
/// The stage of a version that is about to become current.
const STAGE: &str = "ROTATION-ARCHIVE";
/// Waits before the archive is looked at again after somebody else has written it, or a read shows it as it was.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Where the keys of each keyring are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveSettings {
    pattern: String,
    retention: Duration,
}

impl ArchiveSettings {
    /// Reads the variables of the archive; `None` when there is none.
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `KEY_ARCHIVE_SECRET` | name or ARN of the secret with the keys; `{name}` stands for the keyring's name and `{1}`, `{2}`, … for its parts between slashes | no archive |
    /// | `KEY_ARCHIVE_RETENTION` | how long a retired key is kept, `30d` to `3650d` | `400d` |
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable.
    pub fn from_environment(environment: &Environment) -> Result<Option<Self>, RotationError> {
        environment.refuse_unknown("KEY_ARCHIVE_", &[SECRET, RETENTION])?;
        let retention = environment.duration(RETENTION)?;
        if retention.is_some_and(|retention| !(SHORTEST_RETENTION..=LONGEST_RETENTION).contains(&retention)) {
            let problem = "expected 30d to 3650d: longer than any backup is kept that may be restored";
            return Err(invalid(RETENTION, problem));
        }
        let Some(pattern) = environment.get(SECRET) else {
            return match retention {
                None => Ok(None),
                Some(_) => Err(invalid(RETENTION, "is set, but KEY_ARCHIVE_SECRET is not: nothing is kept")),
            };
        };
        let settings = Self::new(pattern.to_owned(), retention.unwrap_or(DEFAULT_RETENTION));
        // Tried with a name that has parts enough.
        settings.secret("a/b/c/d/e/f/g/h/i")?;
        Ok(Some(settings))
    }

    /// The name of the secret, or its pattern, and how long a retired key is kept.
    #[must_use]
    pub fn new(pattern: String, retention: Duration) -> Self {
        Self { pattern, retention }
    }

    /// The archive of the keyring named `name`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] when the name has no part for a place, or the keyring would be its own archive.
    pub fn secret(&self, name: &str) -> Result<String, RotationError> {
        let secret = secret_of(SECRET, &self.pattern, name)?;
        if secret == name { Err(invalid(SECRET, "is the keyring itself: name another secret")) } else { Ok(secret) }
    }
}

impl ArchiveSettings {
    /// The keys of `ring`, and those that are about to leave it, for the archive of the keyring named `name`.
    ///
    /// # Errors
    /// Those of [`ArchiveSettings::secret`].
    pub fn of(&self, name: &str, ring: Keyring, retired: Vec<Key>) -> Result<ToArchive, RotationError> {
        Ok(ToArchive { secret: self.secret(name)?, retention: self.retention, ring, retired })
    }
}

/// What is to be in an archive, and in which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToArchive {
    /// Name or ARN of the archive.
    pub secret: String,
    /// How long a retired key is kept.
    pub retention: Duration,
    /// The ring whose keys are to be there.
    pub ring: Keyring,
    /// Keys that are about to leave the ring.
    pub retired: Vec<Key>,
}

impl ToArchive {
    /// Sees to it that the archive holds these keys: writes those that are missing, and reads them back. Retired keys whose time is
    /// over go. Takes two calls when there is nothing to write, else six.
    ///
    /// # Errors
    /// [`RotationError::ArchiveUnavailable`] says why it could not be read or written.
    pub async fn keep<S: SecretStore>(&self, store: &S, deadline: Deadline) -> Result<(), RotationError> {
        let unavailable = |reason| self.unavailable(reason);
        let (mut pauses, mut read_back) = (PAUSES.into_iter(), false);
        loop {
            let (described, held) = self.read(store, deadline).await.map_err(unavailable)?;
            let Some(next) = held.with(self, described.as_of) else { return Ok(()) };
            match (self.write(store, &described, &next).await, pauses.next()) {
                // What is there now is read back, and again when a read still shows what was there before.
                (Ok(()), _) if !read_back => read_back = true,
                (Ok(()), Some(pause)) if deadline.pause(pause).await => {}
                (Ok(()), _) => return Err(unavailable(RotationError::CurrentChanged { name: described.name })),
                // Somebody else was faster, or the answer was lost.
                (Err(RotationError::Store(error)), Some(pause))
                    if may_have_moved(&error) && deadline.pause(pause).await => {}
                (Err(error), _) => return Err(unavailable(error)),
            }
        }
    }

    /// Whether the archive can be read, and is one.
    ///
    /// # Errors
    /// [`RotationError::ArchiveUnavailable`].
    pub async fn check<S: SecretStore>(&self, store: &S, deadline: Deadline) -> Result<(), RotationError> {
        self.read(store, deadline).await.map(drop).map_err(|reason| self.unavailable(reason))
    }

    fn unavailable(&self, reason: RotationError) -> RotationError {
        RotationError::ArchiveUnavailable { secret: self.secret.clone(), reason: Box::new(reason) }
    }

    async fn read<S: SecretStore>(&self, store: &S, deadline: Deadline) -> Result<(Described, Archive), RotationError> {
        let described = store.describe(&self.secret).await?;
        if described.deleted {
            return Err(RotationError::ScheduledForDeletion { name: described.name });
        }
        let Some(version) = described.versions.holder(&Stage::Current) else {
            return Ok((described, Archive::default()));
        };
        let value = read_version(store, &self.secret, version, deadline).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: version.clone() })?;
        let archive = Archive::parse(&value.text).map_err(|problem| RotationError::InvalidArchive { problem })?;
        Ok((described, archive))
    }

    async fn write<S: SecretStore>(
        &self,
        store: &S,
        described: &Described,
        next: &Archive,
    ) -> Result<(), RotationError> {
        let (text, from) = (next.text(), described.versions.holder(&Stage::Current));
        if text.len() > MAX_VALUE_BYTES {
            return Err(RotationError::ArchiveFull { bytes: text.len() });
        }
        let version = next.version(from, described.as_of);
        let stage = Stage::Other(STAGE.to_owned());
        if store.put_private(&self.secret, &version, &text, std::slice::from_ref(&stage)).await? == Put::Exists {
            // Of the same second and from the same version, and not the same.
            let detail = Some("written by somebody else".to_owned());
            let kind = StoreErrorKind::Conflict;
            return Err(crate::store::StoreError { operation: "PutSecretValue", kind, detail }.into());
        }
        // The first version of a secret is current as it is stored (Secrets Manager API reference, PutSecretValue). Whether the move to
        // where the stage is already succeeds is not on record; a refusal has the archive looked at again.
        Ok(store.move_stage(&self.secret, Stage::Current, from, Some(&version)).await?)
    }
}

/// What an archive holds, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive(Vec<Archived>);

/// A key in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The key.
    pub material: KeyMaterial,
    /// Since when it is there.
    pub archived: SystemTime,
    /// Since when the ring is without it.
    pub retired: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    #[serde(borrow)]
    keys: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    id: &'a str,
    key: SecretText,
    archived: &'a str,
    retired: Option<&'a str>,
}

impl Archive {
    /// Reads the value of an archive. `Err` says what is wrong with it, by the number of the entry.
    ///
    /// # Errors
    /// Anything that this project does not write: what is not understood is not written over.
    pub fn parse(text: &SecretText) -> Result<Self, String> {
        let form: Form<'_> = serde_json::from_str(text.expose())
            .map_err(|_| "expected {\"keys\":[{\"id\",\"key\",\"archived\",\"retired\"}]} and no other member")?;
        let entry = |(number, entry): (usize, Entry<'_>)| {
            let wrong = |problem: &str| format!("entry {number}: {problem}");
            let bytes = STANDARD.decode(entry.key.expose()).map(Zeroizing::new);
            let material = bytes.ok().and_then(|bytes| KeyMaterial::new(&bytes));
            let material = material.ok_or_else(|| wrong("expected 32 bytes in base64 as \"key\""))?;
            if entry.id.parse() != Ok(material.id()) {
                return Err(wrong("its \"id\" is not that of its \"key\""));
            }
            let time = |text: &str| parse_timestamp(text).ok_or_else(|| wrong("expected times as RFC 3339"));
            let retired = entry.retired.map(time).transpose()?;
            Ok(Archived { material, archived: time(entry.archived)?, retired })
        };
        (1..).zip(form.keys).map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// The keys, the oldest first.
    #[must_use]
    pub fn keys(&self) -> &[Archived] {
        &self.0
    }

    /// The archive with what is to be in it at `now`; `None` when that is so already.
    fn with(&self, wanted: &ToArchive, now: SystemTime) -> Option<Self> {
        let mut next = self.0.clone();
        let retired = wanted.retired.iter().map(|key| (key, true));
        for (key, retired) in wanted.ring.keys().map(|(_, key)| (key, false)).chain(retired) {
            let at = next.iter().position(|held| held.material == *key.material()).unwrap_or_else(|| {
                next.push(Archived { material: key.material().clone(), archived: now, retired: None });
                next.len() - 1
            });
            let since = next[at].retired;
            next[at].retired = retired.then(|| since.unwrap_or(now));
        }
        let end = |held: &Archived| held.retired?.checked_add(wanted.retention);
        next.retain(|held| end(held).is_none_or(|end| end > now));
        (next != self.0).then_some(Self(next))
    }

    /// The value of the secret.
    fn text(&self) -> SecretText {
        // Large enough from the beginning: nothing is copied into a larger piece of memory and left behind in the smaller.
        let mut text = Zeroizing::new(String::with_capacity(16 + self.0.len() * 192));
        text.push_str("{\"keys\":[");
        for (number, Archived { material, archived, retired }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key = Zeroizing::new(STANDARD.encode(material.expose()));
            // Writing into a text cannot fail.
            let _ = write!(text, "{comma}{{\"id\":\"{}\",\"key\":\"", material.id());
            text.push_str(&key);
            let _ = write!(text, "\",\"archived\":\"{}\"", format_timestamp(*archived));
            if let Some(retired) = retired {
                let _ = write!(text, ",\"retired\":\"{}\"", format_timestamp(*retired));
            }
            text.push('}');
        }
        text.push_str("]}");
        SecretText::new(std::mem::take(&mut *text))
    }

    /// The version in which this is stored: the same for the same archive, made at the same time from the same version.
    fn version(&self, from: Option<&VersionId>, now: SystemTime) -> VersionId {
        let ids = self.0.iter().map(|held| {
            let retired = held.retired.map(format_timestamp).unwrap_or_default();
            let id: KeyId = held.material.id();
            format!("{id} {retired}")
        });
        let made_from = [from.map(ToString::to_string).unwrap_or_default(), format_timestamp(now)];
        VersionId::new(digest(made_from.into_iter().chain(ids)))
    }
}
