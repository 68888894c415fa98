//! The census: how many stored rows are under which key. The function `reencrypt` counts the rows, and a retirement
//! depends on the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keyring::KeyId;
use crate::rows::Form;
use crate::time::Timestamp;
use crate::versions::VersionId;

/// The log message of `reencrypt` after all rows are counted. The line also has the secret, its primary key, and the
/// worn keys. `operate` has no connection to the database, and reads this line in the log.
pub const LOGGED: &str = "all rows are counted";

/// How many values one AES-GCM key may encrypt with random nonces (NIST SP 800-38D, section 8.3). The stored values are
/// a lower bound for the values that a key has encrypted.
pub const MOST_VALUES: u64 = 1 << 32;

/// The most unreadable rows that an answer lists. The counts include all of them.
const MOST_LISTED: usize = 20;

/// A column, by its names in the catalogue of the database. The names are as the catalogue stores them, case included,
/// and not as SQL would quote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColumnName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.schema, self.table, self.column)
    }
}

/// The reason why a value cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unreadable {
    /// No key of the ring opens it.
    Unknown,
    /// The key that the value names does not open it, or a column of its associated data is null.
    Damaged,
    /// The value is not in the configured encoding and format.
    Foreign,
}

/// A row whose value cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRow {
    /// The row's primary key in the database, as text.
    pub key: String,
    /// The reason.
    pub state: Unreadable,
}

/// Counts of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// How many rows were read.
    pub rows: u64,
    /// Rows without a value: null or empty.
    pub nulls: u64,
    /// Rows under each key. A census counts the rows; a slice counts the rows that it encrypted again, by their old
    /// key.
    pub keys: BTreeMap<KeyId, u64>,
    /// Rows that no key of the ring opens.
    pub unknown: u64,
    /// Rows whose value is not a ciphertext, or not intact.
    pub damaged: u64,
    /// Damaged rows that are not in the configured encoding and format, and that the configuration does not exempt.
    #[serde(default)]
    pub foreign: u64,
    /// The first rows that cannot be opened; foreign rows displace other rows.
    #[serde(default)]
    pub unreadable: Vec<UnreadableRow>,
    /// The form that the values show.
    #[serde(default, skip_serializing_if = "Form::shows_nothing")]
    pub form: Form,
}

impl Tally {
    /// A tally of no rows. It lists every key of `keys`, with the count zero.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = KeyId>) -> Self {
        Self { keys: keys.into_iter().map(|key| (key, 0)).collect(), ..Self::default() }
    }

    /// The rows that are under another key than `primary`.
    #[must_use]
    pub fn not_under(&self, primary: KeyId) -> u64 {
        self.keys.iter().filter(|(key, _)| **key != primary).map(|(_, rows)| *rows).sum()
    }

    /// Whether the tally says for every row which key it is under, or why it is under none.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let counted = [self.nulls, self.unknown, self.damaged].into_iter().chain(self.keys.values().copied());
        counted.into_iter().try_fold(0_u64, u64::checked_add) == Some(self.rows)
    }

    /// Counts a row under `key`.
    pub fn under(&mut self, key: KeyId) {
        *self.keys.entry(key).or_default() += 1;
    }

    /// Counts the row with the database's primary key `key`, whose value cannot be opened.
    pub fn unreadable(&mut self, key: &str, state: Unreadable) {
        match state {
            Unreadable::Unknown => self.unknown += 1,
            Unreadable::Damaged => self.damaged += 1,
            Unreadable::Foreign => {
                self.damaged += 1;
                self.foreign += 1;
            }
        }
        let row = || UnreadableRow { key: key.to_owned(), state };
        if self.unreadable.len() < MOST_LISTED {
            self.unreadable.push(row());
        } else if state == Unreadable::Foreign {
            let other = self.unreadable.iter().rposition(|listed| listed.state != Unreadable::Foreign);
            if let Some(other) = other {
                self.unreadable.remove(other);
                self.unreadable.push(row());
            }
        }
    }

    /// Adds the counts of other rows.
    pub fn add(&mut self, other: Self) {
        let Self { rows, nulls, keys, unknown, damaged, foreign, unreadable, form } = other;
        self.rows += rows;
        self.nulls += nulls;
        self.unknown += unknown;
        self.damaged += damaged;
        self.foreign += foreign;
        self.form = self.form.and(form);
        for (key, rows) in keys {
            *self.keys.entry(key).or_default() += rows;
        }
        let room = MOST_LISTED.saturating_sub(self.unreadable.len());
        self.unreadable.extend(unreadable.into_iter().take(room));
    }
}

/// The counts of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The column.
    #[serde(flatten)]
    pub column: ColumnName,
    /// The counts of its rows.
    #[serde(flatten)]
    pub tally: Tally,
}

/// The counts of several columns, in the order of counting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(pub Vec<Counted>);

impl Columns {
    /// Adds the counts of a column. All columns together list no more unreadable rows than one column may. An answer is
    /// the input of the next request and of a state machine, and keys of tables may be long.
    pub fn add(&mut self, column: &ColumnName, mut tally: Tally) {
        let listed: usize = self.0.iter().map(|counted| counted.tally.unreadable.len()).sum();
        tally.unreadable.truncate(MOST_LISTED.saturating_sub(listed));
        match self.0.iter_mut().find(|counted| counted.column == *column) {
            Some(counted) => counted.tally.add(tally),
            None => self.0.push(Counted { column: column.clone(), tally }),
        }
    }

    /// The names of the columns.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&ColumnName> {
        self.0.iter().map(|counted| &counted.column).collect()
    }

    /// The rows under this key; `None` if a column was counted without the key.
    #[must_use]
    pub fn rows_under(&self, key: KeyId) -> Option<u64> {
        self.0.iter().try_fold(0_u64, |rows, counted| Some(rows.saturating_add(*counted.tally.keys.get(&key)?)))
    }

    /// The keys with at least `least` values, and how many values each of them has.
    #[must_use]
    pub fn keys_with(&self, least: u64) -> BTreeMap<KeyId, u64> {
        let mut keys = BTreeMap::<KeyId, u64>::new();
        for (key, rows) in self.0.iter().flat_map(|counted| &counted.tally.keys) {
            let sum = keys.entry(*key).or_default();
            *sum = sum.saturating_add(*rows);
        }
        keys.retain(|_, rows| *rows >= least);
        keys
    }

    /// The sum of one count over all columns.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.0.iter().map(|counted| of(&counted.tally)).sum()
    }
}

/// A census of all columns. It is the answer of `reencrypt`, and a retirement needs two of them. A reader requires the
/// members without a default, and ignores unknown members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Census {
    /// The keyring's name.
    pub secret: String,
    /// The version of the ring that opened the rows.
    pub version: VersionId,
    /// The primary key of that version; null if it is no longer known.
    #[serde(default)]
    pub primary_key: Option<KeyId>,
    /// When the census began, by the service's clock.
    pub began: Timestamp,
    /// When the census ended; null if it is not complete.
    pub ended: Option<Timestamp>,
    /// The counts, column by column.
    pub columns: Columns,
    /// Rows of all columns under another key than the primary; null if the primary is no longer known.
    #[serde(default)]
    pub on_old_keys: Option<u64>,
    /// Rows of all columns that no key of the ring opens.
    #[serde(default)]
    pub unknown: u64,
    /// Rows of all columns whose value is not a ciphertext, or not intact.
    #[serde(default)]
    pub damaged: u64,
    /// Whether every transaction that was open at the beginning had ended before the first row was read.
    #[serde(default)]
    pub settled: bool,
    /// Whether the version was delivered to all consumers when the census began. Without consumers it never is.
    #[serde(default)]
    pub delivered: bool,
    /// Whether another version became current during the census.
    #[serde(default)]
    pub superseded: bool,
    /// The request that continues the census, if it is not complete.
    pub next: Option<Value>,
    /// Columns of the database that look like ciphertexts of the ring and were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted: Option<Vec<String>>,
    /// How many columns could not be checked for such ciphertexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_looked_at: Option<usize>,
    /// Worn keys: keys with at least half of the values that random nonces allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worn_keys: Option<BTreeMap<KeyId, u64>>,
}
