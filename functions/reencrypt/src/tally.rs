//! What became of rows.

use std::collections::BTreeMap;

use rotation::keyring::KeyId;
use rotation::rows::Form;
use serde::{Deserialize, Serialize};

use crate::settings::ColumnName;
use crate::understood::tells_nothing;

/// The most rows that cannot be opened which an answer lists; all are counted.
const MOST_LISTED: usize = 20;

/// Why a value cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unreadable {
    /// No key of the ring opens it.
    Unknown,
    /// The key that it names does not open it, or a column of its associated data is null.
    Damaged,
    /// It is not in the configured encoding and format.
    Foreign,
}

/// A row whose value cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnreadableRow {
    /// Its primary key.
    pub(crate) key: String,
    pub(crate) state: Unreadable,
}

/// Counts of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    /// How many were read.
    pub(crate) rows: u64,
    /// Those without a value: null or empty.
    pub(crate) nulls: u64,
    /// Those that were under each key: what a census counts, and what a slice has encrypted again.
    pub(crate) keys: BTreeMap<KeyId, u64>,
    pub(crate) unknown: u64,
    pub(crate) damaged: u64,
    /// Those of the damaged that are not in the configured encoding and format, and that the configuration does not leave alone.
    #[serde(default)]
    pub(crate) foreign: u64,
    /// The first of those that cannot be opened; the foreign ones before others.
    pub(crate) unreadable: Vec<UnreadableRow>,
    /// What the values show of how they are written.
    #[serde(default, skip_serializing_if = "tells_nothing")]
    pub(crate) form: Form,
}

impl Tally {
    /// Every key counts, be it zero.
    pub(crate) fn of(keys: impl IntoIterator<Item = KeyId>) -> Self {
        Self { keys: keys.into_iter().map(|key| (key, 0)).collect(), ..Self::default() }
    }

    /// Rows that are under another key than this one.
    pub(crate) fn not_under(&self, primary: KeyId) -> u64 {
        self.keys.iter().filter(|(key, _)| **key != primary).map(|(_, rows)| *rows).sum()
    }

    pub(crate) fn under(&mut self, key: KeyId) {
        *self.keys.entry(key).or_default() += 1;
    }

    pub(crate) fn unreadable(&mut self, key: &str, state: Unreadable) {
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
    pub(crate) fn add(&mut self, other: Self) {
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

/// What a census of all columns has counted of one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    #[serde(flatten)]
    pub(crate) column: ColumnName,
    #[serde(flatten)]
    pub(crate) tally: Tally,
}

/// The counts of all columns so far.
#[derive(Debug, Default)]
pub(crate) struct Columns(pub(crate) Vec<Counted>);

impl Columns {
    /// Adds what was counted of a column. All of them together list no more rows than one does: an answer is the input of the next
    /// request, and of a state machine, and keys of tables may be long.
    pub(crate) fn add(&mut self, column: &ColumnName, mut tally: Tally) {
        let listed: usize = self.0.iter().map(|counted| counted.tally.unreadable.len()).sum();
        tally.unreadable.truncate(MOST_LISTED.saturating_sub(listed));
        match self.0.iter_mut().find(|counted| counted.column == *column) {
            Some(counted) => counted.tally.add(tally),
            None => self.0.push(Counted { column: column.clone(), tally }),
        }
    }

    /// The keys with at least so many values, and how many those are.
    pub(crate) fn keys_with(&self, least: u64) -> BTreeMap<KeyId, u64> {
        let mut keys = BTreeMap::<KeyId, u64>::new();
        for (key, rows) in self.0.iter().flat_map(|counted| &counted.tally.keys) {
            let sum = keys.entry(*key).or_default();
            *sum = sum.saturating_add(*rows);
        }
        keys.retain(|_, rows| *rows >= least);
        keys
    }

    pub(crate) fn sum(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.0.iter().map(|counted| of(&counted.tally)).sum()
    }
}
