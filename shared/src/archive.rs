//! The archive of keys: a secret beside the keyring that holds every key before the key encrypts anything. So no edit
//! of the ring can lose a key. The archive keeps a retired key for as long as backups may need it.
//!
//! ```json
//! {"keys":[{"id":"5e6f7081","key":"…","archived":"2026-08-24T00:00:00Z","retired":"2026-12-01T00:00:00Z"},
//!          {"id":"1a2b3c4d","key":"…","archived":"2026-11-24T00:00:00Z"}]}
//! ```
//!
//! `key` is the 32 bytes in base64 (RFC 4648 §4), whatever the format of the ring. Several processes may write the
//! archive at once, so a write has two calls. The first stores a version under a staging label of the archive. The
//! second makes that version current by a move that names the version it was made from.
//!
//! The archive is one list, and not one version for each key. A secret has at most 20 staging labels and about 100
//! versions, and versions without a label do not last. The version id is a digest of the ids, the dates and the version
//! that the list was made from. So two processes that write the same list write it once. A value of unknown form is
//! never overwritten.

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
/// How long the archive keeps a retired key, unless the stack sets `KEY_ARCHIVE_RETENTION`: longer than a year of
/// backups.
pub const DEFAULT_RETENTION: Duration = DAY.saturating_mul(400);
/// The shortest retention that a stack can set. Operators notice a wrong retirement, and undo it, in that time.
const SHORTEST_RETENTION: Duration = DAY.saturating_mul(30);
/// The longest retention: ten years. A `SystemTime` of today plus ten years does not overflow.
const LONGEST_RETENTION: Duration = DAY.saturating_mul(3650);

const SECRET: &str = "KEY_ARCHIVE_SECRET";
const RETENTION: &str = "KEY_ARCHIVE_RETENTION";
/// The staging label of a version that becomes current with the next call.
/// The staging label of an archive that was written last.
pub const STAGE: &str = "ROTATION-ARCHIVE";
/// The waits before the archive is read again. Another process has written it, or a stale read shows the former value.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// The secrets with the keys of keyrings, and how long they keep retired keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveSettings {
    pattern: String,
    retention: Duration,
}

impl ArchiveSettings {
    /// Reads the variables of the archive; `None` if there is no archive.
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
        // The check needs a name with enough parts for every placeholder.
        settings.secret("a/b/c/d/e/f/g/h/i")?;
        Ok(Some(settings))
    }

    /// Settings with a secret's name or a pattern of names, and the time for which retired keys are kept.
    #[must_use]
    pub fn new(pattern: String, retention: Duration) -> Self {
        Self { pattern, retention }
    }

    /// The archive of the keyring named `name`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] if the name lacks a part for a placeholder, or if the keyring would be
    /// its own archive.
    pub fn secret(&self, name: &str) -> Result<String, RotationError> {
        let secret = secret_of(SECRET, &self.pattern, name)?;
        if secret == name { Err(invalid(SECRET, "is the keyring itself: name another secret")) } else { Ok(secret) }
    }
}

impl ArchiveSettings {
    /// The keys of `ring` and the keys that are about to leave it, for the archive of the keyring named `name`.
    ///
    /// # Errors
    /// Those of [`ArchiveSettings::secret`].
    pub fn of(&self, name: &str, ring: Keyring, retired: Vec<Key>) -> Result<ToArchive, RotationError> {
        Ok(ToArchive { secret: self.secret(name)?, retention: self.retention, ring, retired })
    }
}

/// The keys that must be in an archive, and the archive's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToArchive {
    /// Name or ARN of the archive.
    pub secret: String,
    /// How long the archive keeps a retired key.
    pub retention: Duration,
    /// The ring. All its keys must be in the archive.
    pub ring: Keyring,
    /// The keys that are about to leave the ring.
    pub retired: Vec<Key>,
}

impl ToArchive {
    /// Ensures that the archive holds these keys: writes the missing keys, and reads them back. It removes retired keys
    /// after their retention. Two calls if there is nothing to write, else six; retries take more.
    ///
    /// # Errors
    /// [`RotationError::ArchiveUnavailable`] says why the archive could not be read or written.
    pub async fn keep<S: SecretStore>(&self, store: &S, deadline: Deadline) -> Result<(), RotationError> {
        let unavailable = |reason| self.unavailable(reason);
        let (mut pauses, mut read_back) = (PAUSES.into_iter(), false);
        loop {
            let (described, held) = self.read(store, deadline).await.map_err(unavailable)?;
            let Some(next) = held.with(self, described.as_of) else { return Ok(()) };
            match (self.write(store, &described, &next).await, pauses.next()) {
                // A stale read may still show the former value, so the read is repeated.
                (Ok(()), _) if !read_back => read_back = true,
                (Ok(()), Some(pause)) if deadline.pause(pause).await => {}
                (Ok(()), _) => return Err(unavailable(RotationError::CurrentChanged { name: described.name })),
                // Another process was faster, or the answer was lost.
                (Err(RotationError::Store(error)), Some(pause))
                    if may_have_moved(&error) && deadline.pause(pause).await => {}
                (Err(error), _) => return Err(unavailable(error)),
            }
        }
    }

    /// Checks that the archive can be read, and has the form of an archive.
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
            // A value of the same second, from the same version, with other content.
            let detail = Some("written by somebody else".to_owned());
            let kind = StoreErrorKind::Conflict;
            return Err(crate::store::StoreError { operation: "PutSecretValue", kind, detail }.into());
        }
        // The first version of a secret is current as soon as it is stored (Secrets Manager API reference,
        // PutSecretValue). AWS does not document whether a move to the version that has the label already succeeds.
        // After a refusal, the caller reads the archive again.
        Ok(store.move_stage(&self.secret, Stage::Current, from, Some(&version)).await?)
    }
}

/// The content of an archive, the oldest key first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive(Vec<Archived>);

/// A key in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The key.
    pub material: KeyMaterial,
    /// When the key came into the archive.
    pub archived: SystemTime,
    /// When the key left the ring.
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
    /// Parses the value of an archive. `Err` says what is wrong, by the number of the entry.
    ///
    /// # Errors
    /// Every value that this project does not write: a value of unknown form must not be overwritten.
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

    /// The archive with the content that `wanted` asks for at `now`; `None` if it has that content already.
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
        // The capacity is large enough from the beginning. A string that grows would leave a copy of the keys in freed
        // memory.
        let mut text = Zeroizing::new(String::with_capacity(16 + self.0.len() * 192));
        text.push_str("{\"keys\":[");
        for (number, Archived { material, archived, retired }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key = Zeroizing::new(STANDARD.encode(material.expose()));
            // A write to a string cannot fail.
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

    /// The id of the version that stores this archive. It is the same for the same content, made in the same second
    /// from the same version.
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
