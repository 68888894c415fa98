//! Primary keys at equal distances, taken while a table is read in key order. These marks divide the table into ranges
//! of about equal size, without knowing its size before.

use serde::{Deserialize, Serialize};

/// The most marks while a table is read. With them, ranges of the usual number differ by less than one percent.
const MOST: usize = 4096;
/// The marks for each range that one invocation sends to the next.
const SENT_FOR_EACH: usize = 8;
/// The most bytes of marks of all columns together. The state of an execution has 256 KB (Step Functions quotas).
const MOST_SENT: usize = 100_000;

/// The primary key of every `every`-th row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marks {
    rows: u64,
    every: u64,
    keys: Vec<String>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { rows: 0, every: 1, keys: vec![] }
    }
}

impl Marks {
    /// Notes the next row's primary key.
    pub fn pass(&mut self, key: &str) {
        self.rows += 1;
        if self.rows.is_multiple_of(self.every.max(1)) {
            self.keys.push(key.to_owned());
            self.thin_out(MOST);
        }
    }

    /// Drops marks until the next invocation has no more than it needs, and until they may be sent for `columns`
    /// columns.
    pub fn thin_out_for(&mut self, slices: u64, columns: usize) {
        self.thin_out(SENT_FOR_EACH * usize::try_from(slices).unwrap_or(MOST));
        while self.keys.len() > 1 && self.keys.iter().map(String::len).sum::<usize>() > MOST_SENT / columns.max(1) {
            self.thin_out(self.keys.len() - 1);
        }
    }

    fn thin_out(&mut self, most: usize) {
        while self.keys.len() > most.max(1) {
            let mut number = 0;
            self.keys.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.every *= 2;
        }
    }

    /// The last primary key of each range, except the last range.
    #[must_use]
    pub fn bounds(&self, slices: u64) -> Vec<String> {
        let every = u128::from(self.every.max(1));
        let (rows, slices) = (u128::from(self.rows), u128::from(slices.max(1)));
        let places = (1..slices).map(|number| (number * rows + slices * every / 2) / (slices * every));
        let mut bounds: Vec<&String> = places
            .filter(|place| *place > 0 && place * every < rows)
            .filter_map(|place| self.keys.get(usize::try_from(place - 1).ok()?))
            .collect();
        bounds.dedup();
        bounds.into_iter().cloned().collect()
    }
}
