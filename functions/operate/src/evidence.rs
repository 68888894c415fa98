//! What two censuses say for a retirement.

use std::collections::BTreeSet;
use std::time::Duration;

use encryption_key::LONGEST_INVOCATION;
use rotation::census::{Census, Counted, Tally};
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyId, Keyring};
use rotation::time::{Timestamp, format_timestamp};

use crate::census::require_complete;
use crate::error::OperateError;
use crate::marker::put_back_times;
use crate::session::Snapshot;

/// The service tells whole seconds: what has just been may lie in the future by one.
const CLOCK: Duration = Duration::from_secs(2);
/// A second census that ended earlier tells nothing of the rows as they are: a backup may have been restored since.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// What speaks for taking keys out, checked as far as that takes no ring.
pub(crate) struct Evidence<'a> {
    pub(crate) version: VersionId,
    /// How far apart the censuses have to be.
    apart: Duration,
    censuses: &'a [Census; 2],
}

impl<'a> Evidence<'a> {
    pub(crate) fn of(censuses: &'a [Census; 2], snapshot: &Snapshot, apart: Duration) -> Result<Self, OperateError> {
        let [first, second] = censuses;
        let first_ended = require_complete(first, &snapshot.secret.name, "first")?;
        let second_ended = require_complete(second, &snapshot.secret.name, "second")?;
        if first.version != second.version {
            let problem = format!("they are of different versions, {} and {}", first.version, second.version);
            return Err(OperateError::CensusOutdated { problem });
        }
        let (first_columns, second_columns) = (first.columns.names(), second.columns.names());
        let by_one: Vec<_> = first_columns.symmetric_difference(&second_columns).map(ToString::to_string).collect();
        if !by_one.is_empty() {
            // No other second census makes it good: those who go on ask for both again.
            let problem = format!(
                "rows of {} were counted by one of the censuses only, and may need any key: count both times with the same REENCRYPT_COLUMNS",
                by_one.join(", ")
            );
            return Err(OperateError::KeysStillNeeded { problem });
        }
        let from = first_ended + apart;
        if second.began.0 < from {
            return Err(OperateError::CensusesTooClose { apart, from });
        }
        if second_ended > snapshot.secret.as_of + CLOCK {
            let problem = format!("the second ends in the future, at {}", format_timestamp(second_ended));
            return Err(OperateError::CensusOutdated { problem });
        }
        for Counted { column, tally } in censuses.iter().flat_map(|census| &census.columns.0) {
            let Tally { unknown, damaged, .. } = tally;
            if unknown + damaged > 0 {
                let problem = format!(
                    "{} rows of {column} cannot be opened ({unknown} with no key of the ring, {damaged} are damaged), and may need any key: the census lists them",
                    unknown + damaged
                );
                return Err(OperateError::KeysStillNeeded { problem });
            }
        }
        if let Some(unlisted) = second.unlisted.as_ref().filter(|unlisted| !unlisted.is_empty()) {
            let problem = format!(
                "{} look like ciphertexts of this ring, and nobody counts their rows: list them in REENCRYPT_COLUMNS, or excuse them there",
                unlisted.join(", ")
            );
            return Err(OperateError::KeysStillNeeded { problem });
        }
        Ok(Self { version: first.version.clone(), apart, censuses })
    }

    /// The second census tells of the rows as they are. Transactions that were open before it had ended when it counted, and it ended
    /// within the last hour.
    pub(crate) fn require_fresh(&self, snapshot: &Snapshot) -> Result<(), OperateError> {
        let [_, second] = self.censuses;
        let outdated = |problem: String| Err(OperateError::CensusOutdated { problem });
        if !second.settled {
            return outdated(
                "transactions that were open when the second began had not ended when it counted, and may hold rows under any key: end them, and count again".to_owned(),
            );
        }
        match second.ended {
            Some(Timestamp(ended)) if ended + FRESH < snapshot.secret.as_of => {
                outdated(format!("the second ended at {}, more than an hour ago: count again", format_timestamp(ended)))
            }
            _ => Ok(()),
        }
    }

    /// Every consumer had the ring when the first census began. One that reads it at its start may encrypt with an older
    /// ring until it is started anew.
    pub(crate) fn require_delivered(&self) -> Result<(), OperateError> {
        let Some(census) = self.censuses.iter().find(|census| !census.delivered) else { return Ok(()) };
        let problem = format!(
            "version {} was not delivered to all consumers when the one of {} began: count again, both times",
            self.version,
            format_timestamp(census.began.0)
        );
        Err(OperateError::CensusOutdated { problem })
    }

    /// A version can become current again: a rollback that does not verify is put back. Who loaded the ring in between encrypts with
    /// an older key, and the version does not tell.
    pub(crate) fn require_no_other_ring_since(&self, snapshot: &Snapshot) -> Result<(), OperateError> {
        let [_, second] = self.censuses;
        let Some(at) = put_back_times(&snapshot.secret.versions).map(|(_, _, at)| at).max() else { return Ok(()) };
        // The move came as long after that as an invocation lives, at most.
        let from = at.checked_add(LONGEST_INVOCATION + self.apart);
        if from.is_some_and(|from| second.began.0 >= from) {
            return Ok(());
        }
        let problem = format!(
            "a rollback was put back at {}, whose ring may be in use: the second has to begin from {} on",
            format_timestamp(at),
            format_timestamp(from.unwrap_or(at))
        );
        Err(OperateError::CensusOutdated { problem })
    }

    /// How many rows need the key; `None` when a census did not count it.
    pub(crate) fn rows(&self, key: KeyId) -> Option<u64> {
        let [first, second] = self.censuses;
        Some(first.columns.rows_under(key)?.max(second.columns.rows_under(key)?))
    }

    /// The secondary keys that no row needs.
    pub(crate) fn unneeded(&self, ring: &Keyring) -> BTreeSet<KeyId> {
        ring.secondary().iter().map(Key::id).filter(|key| self.rows(*key) == Some(0)).collect()
    }
}
