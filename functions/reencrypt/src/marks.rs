//! Keys at equal distances in a table that is read in the order of its keys: they part it into ranges of about equal size, and nobody
//! needs to know before how large it is.

use serde::{Deserialize, Serialize};

/// So many keys are kept while a table is read: the ranges of the usual number differ by less than one percent.
const MOST: usize = 4096;
/// So many for each range are sent from one invocation to the next.
const SENT_FOR_EACH: usize = 8;
/// Their bytes, of all columns together: the state of an execution has 256 KB (Step Functions quotas).
const MOST_SENT: usize = 100_000;

/// The keys of every so many rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marks {
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
    /// The next row has this key.
    pub(crate) fn pass(&mut self, key: &str) {
        self.rows += 1;
        if self.rows.is_multiple_of(self.every.max(1)) {
            self.keys.push(key.to_owned());
            self.thin_out(MOST);
        }
    }

    /// Keeps as many as another invocation needs, and as can be sent for so many columns.
    pub(crate) fn thin_out_for(&mut self, slices: u64, columns: usize) {
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

    /// The last keys of all ranges but the last.
    pub(crate) fn bounds(&self, slices: u64) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(rows: u64, slices: u64, sent_at: &[u64]) -> Vec<u64> {
        let mut marks = Marks::default();
        for row in 1..=rows {
            marks.pass(&row.to_string());
            if sent_at.contains(&row) {
                marks.thin_out_for(slices, 1);
            }
        }
        let bounds = marks.bounds(slices).into_iter().map(|key| key.parse::<u64>().unwrap()).chain([rows]);
        let mut before = 0;
        bounds.map(|bound| bound - std::mem::replace(&mut before, bound)).collect()
    }

    #[test]
    fn ranges_are_of_about_equal_size() {
        for (rows, slices) in [(1, 1), (1003, 4), (5000, 16), (100_000, 16), (100_000, 1000), (17, 16), (4096, 3)] {
            let sizes = sizes(rows, slices, &[]);
            let about = rows as f64 / slices as f64;
            assert_eq!(sizes.len() as u64, slices, "{rows} {sizes:?}");
            let spread = sizes.iter().all(|size| (*size as f64 - about).abs() <= 1.0 + about / 2.0);
            assert!(spread, "{rows} {slices}: {sizes:?}");
        }
        let sizes = sizes(100_000, 16, &[10_000, 60_000]);
        assert!(sizes.len() == 16 && sizes.iter().all(|size| (5000..7600).contains(size)), "{sizes:?}");
    }

    #[test]
    fn what_is_sent_fits_into_the_state_of_an_execution() {
        let mut marks = Marks::default();
        for row in 0..10_000 {
            marks.pass(&format!("{row:01000}"));
        }
        marks.thin_out_for(1000, 4);
        let bytes: usize = marks.keys.iter().map(String::len).sum();
        assert!((10_000..=25_000).contains(&bytes), "{bytes}");
        assert_eq!(marks.bounds(4).len(), 3);
    }

    #[test]
    fn a_table_of_fewer_rows_than_ranges_has_no_empty_range() {
        for rows in 0..20 {
            let sizes = sizes(rows, 16, &[]);
            assert!(rows == 0 || sizes.iter().all(|size| *size > 0), "{rows}: {sizes:?}");
            assert!(sizes.len() as u64 <= rows.max(1), "{rows}: {sizes:?}");
        }
    }
}
