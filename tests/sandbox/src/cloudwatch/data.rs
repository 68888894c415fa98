//! The data of a PutMetricData request, and the parameters that all operations share.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::input::Input;
use super::wire::{ApiError, Code};
use super::{DAY, Datum, HOUR, StatisticSet};

const MAX_METRICS_PER_REQUEST: usize = 1000;
const MAX_DIMENSIONS: usize = 30;
const MAX_VALUES_PER_METRIC: usize = 150;

const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

/// The data of a PutMetricData request, if each of them is valid.
pub(crate) fn read_data(input: &Input, request: u64, now: SystemTime) -> Result<Vec<Datum>, ApiError> {
    let namespace = input.required_text("Namespace")?;
    input.check_length("Namespace", namespace, 255)?;
    if namespace.starts_with("AWS/") || namespace.starts_with(':') || !is_printable(namespace) {
        return Err(input.invalid_value("Namespace", namespace));
    }
    let mut data = input.structures("MetricData")?;
    for entity in input.structures("EntityMetricData")? {
        data.extend(entity.structures("MetricData")?);
    }
    if data.is_empty() {
        return Err(input.missing("MetricData"));
    }
    input.check_size("MetricData", data.len(), MAX_METRICS_PER_REQUEST)?;
    data.iter().map(|datum| read_datum(datum, namespace, request, now)).collect()
}

fn read_datum(input: &Input, namespace: &str, request: u64, now: SystemTime) -> Result<Datum, ApiError> {
    let name = input.required_text("MetricName")?;
    input.check_length("MetricName", name, 255)?;
    if !is_printable(name) {
        return Err(input.invalid_value("MetricName", name));
    }
    let statistics = read_statistics(input)?;
    let time = input.time("Timestamp")?.unwrap_or(now);
    if time > now + Duration::from_secs(2 * HOUR) {
        let message = format!(
            "The parameter {} must specify a time no more than two hours in the future.",
            input.name("Timestamp")
        );
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    if time + Duration::from_secs(14 * DAY) < now {
        let message =
            format!("The parameter {} must specify a time within the past two weeks.", input.name("Timestamp"));
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    let storage_resolution = match input.number("StorageResolution")? {
        None => 60,
        Some(60.0) => 60,
        Some(1.0) => 1,
        Some(other) => return Err(input.invalid_value("StorageResolution", &other.to_string())),
    };
    Ok(Datum {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dimensions: read_dimensions(input)?,
        value: statistics.average(),
        statistics,
        unit: read_unit(input)?.unwrap_or("None").to_owned(),
        time,
        storage_resolution,
        request,
    })
}

/// The statistics from exactly one of `Value`, `Values` (with `Counts`) and `StatisticValues`.
fn read_statistics(input: &Input) -> Result<StatisticSet, ApiError> {
    let given: Vec<&str> =
        ["Value", "Values", "StatisticValues"].into_iter().filter(|member| input.has(member)).collect();
    match given[..] {
        [] => Err(input.missing("Value")),
        [one, other, ..] => {
            let (one, other) = (input.name(one), input.name(other));
            let message =
                format!("The parameters {one} and {other} are mutually exclusive and you have specified both.");
            Err(ApiError::new(Code::InvalidParameterCombination, message))
        }
        ["Value"] => {
            let value = input.required_value("Value")?;
            Ok(StatisticSet::of(&[(value, 1.0)]))
        }
        ["Values"] => {
            let values = input.values("Values")?;
            let counts = input.values("Counts")?;
            input.check_size("Values", values.len(), MAX_VALUES_PER_METRIC)?;
            if !counts.is_empty() && counts.len() != values.len() {
                let (values, counts) = (input.name("Values"), input.name("Counts"));
                let message = format!("The parameters {values} and {counts} must be of the same size.");
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
            if let Some(count) = counts.iter().find(|count| **count <= 0.0) {
                return Err(input.invalid_value("Counts", &count.to_string()));
            }
            let counts = counts.into_iter().chain(std::iter::repeat(1.0));
            Ok(StatisticSet::of(&values.into_iter().zip(counts).collect::<Vec<_>>()))
        }
        // `StatisticValues`.
        [_] => {
            let set = input.structure("StatisticValues")?.ok_or_else(|| input.missing("StatisticValues"))?;
            let set = StatisticSet {
                sample_count: set.required_value("SampleCount")?,
                sum: set.required_value("Sum")?,
                minimum: set.required_value("Minimum")?,
                maximum: set.required_value("Maximum")?,
            };
            if set.sample_count <= 0.0 {
                let name = input.name("StatisticValues.SampleCount");
                let message = format!("The parameter {name} must be greater than 0.");
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
            if set.minimum > set.maximum {
                let name = input.name("StatisticValues");
                let message = format!("The parameter {name}.Maximum must be greater than {name}.Minimum.");
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
            Ok(set)
        }
    }
}

pub(crate) fn read_dimensions(input: &Input) -> Result<BTreeMap<String, String>, ApiError> {
    let given = input.structures("Dimensions")?;
    input.check_size("Dimensions", given.len(), MAX_DIMENSIONS)?;
    let mut dimensions = BTreeMap::new();
    for dimension in given {
        let name = dimension.required_text("Name")?;
        let value = dimension.required_text("Value")?;
        dimension.check_length("Name", name, 255)?;
        dimension.check_length("Value", value, 1024)?;
        if name.starts_with(':') || !is_printable(name) {
            return Err(dimension.invalid_value("Name", name));
        }
        if !is_printable(value) {
            return Err(dimension.invalid_value("Value", value));
        }
        if dimensions.insert(name.to_owned(), value.to_owned()).is_some() {
            let message = format!("The collection {} must not name {name} twice.", input.name("Dimensions"));
            return Err(ApiError::new(Code::InvalidParameterValue, message));
        }
    }
    Ok(dimensions)
}

pub(crate) fn read_unit<'a>(input: &Input<'a>) -> Result<Option<&'a str>, ApiError> {
    let unit = input.text("Unit")?;
    if unit.is_some_and(|unit| !UNITS.contains(&unit)) {
        let message =
            format!("The parameter {} must be a value in the set [ {} ].", input.name("Unit"), UNITS.join(", "));
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    Ok(unit)
}

/// The period in seconds.
pub(crate) fn read_period(input: &Input) -> Result<u64, ApiError> {
    let period = input.number("Period")?.ok_or_else(|| input.missing("Period"))?;
    let whole = period as u64;
    if (matches!(whole, 1 | 5 | 10 | 20 | 30) || (whole > 0 && whole.is_multiple_of(60))) && whole as f64 == period {
        return Ok(whole);
    }
    let message = format!("The parameter {} must be 1, 5, 10, 20, 30 or a multiple of 60.", input.name("Period"));
    Err(ApiError::new(Code::InvalidParameterValue, message))
}

/// Whether a name or value is ASCII without control characters, and not blank.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.trim().is_empty()
}
