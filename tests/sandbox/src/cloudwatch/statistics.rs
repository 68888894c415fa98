//! The statistics of a metric's data.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::SystemTime;

use super::data::read_dimensions;
use super::input::Input;
use super::wire::ApiError;
use super::{DAY, Datum, HOUR, StatisticSet, seconds};

/// The requested metric: data with exactly these dimensions.
pub(crate) struct Metric<'a> {
    namespace: &'a str,
    pub(crate) name: &'a str,
    dimensions: BTreeMap<String, String>,
}

impl<'a> Metric<'a> {
    pub(crate) fn read(input: &Input<'a>) -> Result<Self, ApiError> {
        Ok(Self {
            namespace: input.required_text("Namespace")?,
            name: input.required_text("MetricName")?,
            dimensions: read_dimensions(input)?,
        })
    }

    /// The metric's data in the range, each with the start of its period.
    pub(crate) fn select<'d>(
        &'d self,
        data: &'d VecDeque<Datum>,
        range: &'d Range<u64>,
        period: u64,
        now: SystemTime,
    ) -> impl Iterator<Item = (u64, &'d Datum)> {
        data.iter().filter_map(move |datum| {
            let time = seconds(datum.time);
            let time = time - time % u64::from(datum.storage_resolution);
            let finest = finest_period(seconds(now).saturating_sub(time));
            let chosen = datum.namespace == self.namespace
                && datum.name == self.name
                && datum.dimensions == self.dimensions
                && range.contains(&time)
                && period.is_multiple_of(finest);
            chosen.then(|| (time - (time - range.start) % period, datum))
        })
    }
}

/// The shortest period that data of this age still have. The service keeps data in full for three hours, and by the
/// minute for 15 days. It keeps them by five minutes for 63 days, and by the hour for 455 days. A request for a shorter
/// period gets none of them.
pub(crate) fn finest_period(age: u64) -> u64 {
    match age {
        _ if age <= 3 * HOUR => 1,
        _ if age <= 15 * DAY => 60,
        _ if age <= 63 * DAY => 300,
        _ if age <= 455 * DAY => HOUR,
        _ => u64::MAX,
    }
}

pub(crate) fn merge<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, StatisticSet>, other: StatisticSet) {
    entry
        .and_modify(|set| {
            set.sample_count += other.sample_count;
            set.sum += other.sum;
            set.minimum = set.minimum.min(other.minimum);
            set.maximum = set.maximum.max(other.maximum);
        })
        .or_insert(other);
}

impl StatisticSet {
    pub(crate) fn of(values: &[(f64, f64)]) -> Self {
        let mut set = Self { sample_count: 0.0, sum: 0.0, minimum: f64::INFINITY, maximum: f64::NEG_INFINITY };
        for (value, count) in values {
            set.sample_count += count;
            set.sum += value * count;
            set.minimum = set.minimum.min(*value);
            set.maximum = set.maximum.max(*value);
        }
        set
    }

    pub(crate) fn average(&self) -> f64 {
        self.sum / self.sample_count
    }

    /// The statistic with this name in the API.
    pub(crate) fn get(&self, statistic: &str) -> Option<f64> {
        Some(match statistic {
            "SampleCount" => self.sample_count,
            "Average" => self.average(),
            "Sum" => self.sum,
            "Minimum" => self.minimum,
            "Maximum" => self.maximum,
            _ => return None,
        })
    }
}
