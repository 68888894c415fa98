//! CloudWatch metrics: takes PutMetricData and answers ListMetrics, GetMetricStatistics and GetMetricData from what it
//! took.
//!
//! The crates `rustack-cloudwatch-core` and `-http` were no fit: they read the machine's clock where the sandbox has
//! its own, they don't take gzip (the SDK compresses from 10 KB up), and bring 8,900 lines for four operations.
//!
//! Bounds, defaults and rounding are those of the API reference
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/>). Not served, and refused with an error that
//! says so: percentiles and other extended statistics, metric math. Unlike the real service's, metrics show at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use self::wire::{ApiError, Code, Input, Output, Protocol, Value};

/// How many data are kept; the oldest go first.
const KEPT_DATA: usize = 100_000;

const MAX_METRICS_PER_REQUEST: usize = 1000;
const MAX_DIMENSIONS: usize = 30;
const MAX_VALUES_PER_METRIC: usize = 150;
const MAX_DATAPOINTS: u64 = 1440;
const METRICS_PER_PAGE: usize = 500;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// ListMetrics forgets a metric that had no data for so long.
const LISTED_FOR: Duration = Duration::from_secs(14 * DAY);

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

const STATISTICS: [&str; 5] = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"];

/// The metrics of the sandbox. Clones share them.
#[derive(Clone)]
pub struct CloudWatch {
    shared: Arc<Shared>,
}

struct Shared {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    store: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    put_calls: u64,
    data: VecDeque<Datum>,
}

/// One datum of a PutMetricData request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Datum {
    /// For example `SecretRotation`.
    pub namespace: String,
    /// The metric's name.
    pub name: String,
    /// By name.
    pub dimensions: BTreeMap<String, String>,
    /// The value; when the datum holds several, their average.
    pub value: f64,
    /// What the datum holds.
    pub statistics: StatisticSet,
    /// One of CloudWatch's units, `None` when the request said nothing.
    pub unit: String,
    /// As the request says, or when it arrived, by the clock of the sandbox.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: SystemTime,
    /// 60, or 1 for a high-resolution metric; in seconds.
    pub storage_resolution: u32,
    /// Which PutMetricData request brought it, counted from 0 and including refused ones.
    pub request: u64,
}

/// A number of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StatisticSet {
    /// How many; more than zero.
    pub sample_count: f64,
    /// All together.
    pub sum: f64,
    /// The smallest.
    pub minimum: f64,
    /// The largest.
    pub maximum: f64,
}

impl CloudWatch {
    /// Without any metric. `now` is the clock: data without a time get it, and the age of data is told by it.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let shared = Shared { now: Box::new(now), store: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Whether a request is meant for CloudWatch, in any of its protocols.
    #[must_use]
    pub fn accepts(parts: &Parts) -> bool {
        Protocol::of(parts).is_some()
    }

    /// Answers a request that [`CloudWatch::accepts`]; any other is answered 404.
    pub async fn handle(&self, parts: Parts, body: Bytes) -> Response<Body> {
        let Some((protocol, operation)) = Protocol::of(&parts) else {
            return wire::respond(StatusCode::NOT_FOUND, &[], Body::empty());
        };
        let answer = protocol.read(&parts.headers, &body, operation).and_then(|(operation, input)| {
            let input = Input::of_request(&input);
            Ok((self.call(&operation, &input)?, operation))
        });
        match answer {
            Ok((output, operation)) => protocol.write(&operation, output),
            Err(error) => protocol.write_error(&error),
        }
    }

    /// Everything that was put, in the order of arrival; the last 100,000 data.
    #[must_use]
    pub fn data(&self) -> Vec<Datum> {
        self.store().data.iter().cloned().collect()
    }

    /// How many PutMetricData requests have arrived, including refused ones.
    #[must_use]
    pub fn put_calls(&self) -> u64 {
        self.store().put_calls
    }

    fn call(&self, operation: &str, input: &Input) -> Result<Output, ApiError> {
        match operation {
            "PutMetricData" => self.put_metric_data(input).map(|()| None),
            "ListMetrics" => self.list_metrics(input).map(Some),
            "GetMetricStatistics" => self.get_metric_statistics(input).map(Some),
            "GetMetricData" => self.get_metric_data(input).map(Some),
            other => Err(ApiError::new(Code::UnknownOperation, format!("The sandbox does not serve {other}."))),
        }
    }

    fn put_metric_data(&self, input: &Input) -> Result<(), ApiError> {
        let now = self.now();
        let mut store = self.store();
        let request = store.put_calls;
        store.put_calls += 1;
        // All or nothing: one bad datum refuses the request.
        let data = read_data(input, request, now)?;
        store.data.extend(data);
        let excess = store.data.len().saturating_sub(KEPT_DATA);
        store.data.drain(..excess);
        Ok(())
    }

    fn list_metrics(&self, input: &Input) -> Result<Value, ApiError> {
        let namespace = input.text("Namespace")?;
        let name = input.text("MetricName")?;
        let mut filters = Vec::new();
        for filter in input.structures("Dimensions")? {
            filters.push((filter.required_text("Name")?.to_owned(), filter.text("Value")?.map(str::to_owned)));
        }
        let age = match input.text("RecentlyActive")? {
            None => LISTED_FOR,
            Some("PT3H") => Duration::from_secs(3 * HOUR),
            Some(other) => return Err(input.invalid_value("RecentlyActive", other)),
        };
        let first = match input.text("NextToken")? {
            None => 0,
            Some(token) => token.parse().map_err(|_| {
                ApiError::new(Code::InvalidParameterValue, "Request parameter NextToken is invalid".to_owned())
            })?,
        };

        let since = self.now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        let store = self.store();
        let matches = |datum: &&Datum| {
            datum.time >= since
                && namespace.is_none_or(|namespace| namespace == datum.namespace)
                && name.is_none_or(|name| name == datum.name)
                && filters.iter().all(|(name, value)| match datum.dimensions.get(name) {
                    Some(own) => value.as_ref().is_none_or(|value| value == own),
                    None => false,
                })
        };
        let metrics: BTreeSet<_> =
            store.data.iter().filter(matches).map(|datum| (&datum.namespace, &datum.name, &datum.dimensions)).collect();
        let page: Vec<Value> = metrics
            .iter()
            .skip(first)
            .take(METRICS_PER_PAGE)
            .map(|(namespace, name, dimensions)| {
                Value::map([
                    ("Namespace", Value::text(*namespace)),
                    ("MetricName", Value::text(*name)),
                    ("Dimensions", Value::dimensions(dimensions)),
                ])
            })
            .collect();
        let next = first.saturating_add(page.len());
        let mut output = vec![("Metrics", Value::List(page))];
        if next < metrics.len() {
            output.push(("NextToken", Value::text(next.to_string())));
        }
        Ok(Value::map(output))
    }

    fn get_metric_statistics(&self, input: &Input) -> Result<Value, ApiError> {
        let metric = Metric::read(input)?;
        let period = read_period(input)?;
        let range = self.read_range(input, period)?;
        let unit = read_unit(input)?;
        let statistics = input.texts("Statistics")?;
        if !input.list("ExtendedStatistics")?.is_empty() {
            let message = "The parameter ExtendedStatistics is not served by the sandbox.";
            return Err(ApiError::new(Code::InvalidParameterValue, message.to_owned()));
        }
        if statistics.is_empty() {
            let message = "At least one of the parameters Statistics and ExtendedStatistics must be specified.";
            return Err(ApiError::new(Code::InvalidParameterCombination, message.to_owned()));
        }
        if let Some(unknown) = statistics.iter().find(|statistic| !STATISTICS.contains(statistic)) {
            return Err(input.invalid_value("Statistics", unknown));
        }
        let requested = (range.end - range.start).div_ceil(period);
        if requested > MAX_DATAPOINTS {
            let message = format!(
                "You have requested up to {requested} datapoints, which exceeds the limit of {MAX_DATAPOINTS}. You may \
                 reduce the datapoints requested by increasing Period, or decreasing the time range."
            );
            return Err(ApiError::new(Code::InvalidParameterCombination, message));
        }

        let now = self.now();
        let store = self.store();
        // Data of different units are different datapoints.
        let mut points: BTreeMap<(u64, &str), StatisticSet> = BTreeMap::new();
        for (start, datum) in metric.select(&store.data, &range, period, now) {
            if unit.is_none_or(|unit| unit == datum.unit) {
                merge(points.entry((start, &datum.unit)), datum.statistics);
            }
        }
        let points = points.iter().map(|((start, unit), set)| {
            let time = ("Timestamp", Value::Time(*start as f64));
            let unit = ("Unit", Value::text(*unit));
            let statistics = statistics.iter().filter_map(|name| Some((*name, Value::Number(set.get(name)?))));
            Value::map([time, unit].into_iter().chain(statistics))
        });
        Ok(Value::map([("Label", Value::text(metric.name)), ("Datapoints", Value::List(points.collect()))]))
    }

    fn get_metric_data(&self, input: &Input) -> Result<Value, ApiError> {
        for member in ["NextToken", "MaxDatapoints"] {
            if input.has(member) {
                let message = format!("The parameter {member} is not served by the sandbox: answers have one page.");
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
        }
        let ascending = match input.text("ScanBy")? {
            None | Some("TimestampDescending") => false,
            Some("TimestampAscending") => true,
            Some(other) => return Err(input.invalid_value("ScanBy", other)),
        };
        let queries = input.structures("MetricDataQueries")?;
        if queries.is_empty() {
            return Err(input.missing("MetricDataQueries"));
        }
        let mut results = Vec::new();
        for query in &queries {
            let result = self.query(input, query, ascending)?;
            if query.flag("ReturnData")?.unwrap_or(true) {
                results.push(result);
            }
        }
        Ok(Value::map([("MetricDataResults", Value::List(results)), ("Messages", Value::List(Vec::new()))]))
    }

    fn query(&self, input: &Input, query: &Input, ascending: bool) -> Result<Value, ApiError> {
        let id = query.required_text("Id")?;
        if query.text("Expression")?.is_some() {
            let message = format!("Error in expression '{id}': metric math is not served by the sandbox.");
            return Err(ApiError::new(Code::ValidationError, message));
        }
        let stat = query.structure("MetricStat")?.ok_or_else(|| query.missing("MetricStat"))?;
        let metric = stat.structure("Metric")?.ok_or_else(|| stat.missing("Metric"))?;
        let metric = Metric::read(&metric)?;
        let period = read_period(&stat)?;
        let range = self.read_range(input, period)?;
        let unit = read_unit(&stat)?;
        let statistic = stat.required_text("Stat")?;
        if !STATISTICS.contains(&statistic) {
            let message = format!(
                "The value {statistic} for parameter {} is not served by the sandbox, only {}.",
                stat.name("Stat"),
                STATISTICS.join(", ")
            );
            return Err(ApiError::new(Code::ValidationError, message));
        }

        let now = self.now();
        let store = self.store();
        let mut points: BTreeMap<u64, StatisticSet> = BTreeMap::new();
        for (start, datum) in metric.select(&store.data, &range, period, now) {
            if unit.is_none_or(|unit| unit == datum.unit) {
                merge(points.entry(start), datum.statistics);
            }
        }
        let mut points: Vec<(u64, f64)> =
            points.iter().filter_map(|(start, set)| Some((*start, set.get(statistic)?))).collect();
        if !ascending {
            points.reverse();
        }
        Ok(Value::map([
            ("Id", Value::text(id)),
            ("Label", Value::text(query.text("Label")?.unwrap_or(metric.name))),
            ("Timestamps", Value::List(points.iter().map(|(start, _)| Value::Time(*start as f64)).collect())),
            ("Values", Value::List(points.iter().map(|(_, value)| Value::Number(*value)).collect())),
            ("StatusCode", Value::text("Complete")),
        ]))
    }

    /// `StartTime` (rounded down, as the service does) and `EndTime`, in seconds.
    fn read_range(&self, input: &Input, period: u64) -> Result<Range<u64>, ApiError> {
        let start = seconds(input.required_time("StartTime")?);
        let end = seconds(input.required_time("EndTime")?);
        if start >= end {
            let message = "The parameter StartTime must be less than the parameter EndTime.";
            return Err(ApiError::new(Code::InvalidParameterValue, message.to_owned()));
        }
        let age = seconds(self.now()).saturating_sub(start);
        let step = if period < 60 { period } else { finest_period(age).clamp(60, HOUR) };
        Ok(start - start % step..end)
    }

    fn now(&self) -> SystemTime {
        (self.shared.now)()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing in the store is half done when a panic can happen.
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The metric that a request asks for: data of exactly these dimensions.
struct Metric<'a> {
    namespace: &'a str,
    name: &'a str,
    dimensions: BTreeMap<String, String>,
}

impl<'a> Metric<'a> {
    fn read(input: &Input<'a>) -> Result<Self, ApiError> {
        Ok(Self {
            namespace: input.required_text("Namespace")?,
            name: input.required_text("MetricName")?,
            dimensions: read_dimensions(input)?,
        })
    }

    /// Its data in the range, each with the start of its period.
    fn select<'d>(
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

/// Data are kept in full for three hours, then by the minute for 15 days, by five minutes for 63 days and by the hour
/// for 455 days. A request for a shorter period gets none of them.
fn finest_period(age: u64) -> u64 {
    match age {
        _ if age <= 3 * HOUR => 1,
        _ if age <= 15 * DAY => 60,
        _ if age <= 63 * DAY => 300,
        _ if age <= 455 * DAY => HOUR,
        _ => u64::MAX,
    }
}

fn merge<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, StatisticSet>, other: StatisticSet) {
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
    fn of(values: &[(f64, f64)]) -> Self {
        let mut set = Self { sample_count: 0.0, sum: 0.0, minimum: f64::INFINITY, maximum: f64::NEG_INFINITY };
        for (value, count) in values {
            set.sample_count += count;
            set.sum += value * count;
            set.minimum = set.minimum.min(*value);
            set.maximum = set.maximum.max(*value);
        }
        set
    }

    fn average(&self) -> f64 {
        self.sum / self.sample_count
    }

    /// By the API's name of the statistic.
    fn get(&self, statistic: &str) -> Option<f64> {
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

/// The data of a PutMetricData request, if each of them is valid.
fn read_data(input: &Input, request: u64, now: SystemTime) -> Result<Vec<Datum>, ApiError> {
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

/// Exactly one of `Value`, `Values` (with `Counts`) and `StatisticValues`.
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

fn read_dimensions(input: &Input) -> Result<BTreeMap<String, String>, ApiError> {
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

fn read_unit<'a>(input: &Input<'a>) -> Result<Option<&'a str>, ApiError> {
    let unit = input.text("Unit")?;
    if unit.is_some_and(|unit| !UNITS.contains(&unit)) {
        let message =
            format!("The parameter {} must be a value in the set [ {} ].", input.name("Unit"), UNITS.join(", "));
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    Ok(unit)
}

/// In seconds.
fn read_period(input: &Input) -> Result<u64, ApiError> {
    let period = input.number("Period")?.ok_or_else(|| input.missing("Period"))?;
    let whole = period as u64;
    if (matches!(whole, 1 | 5 | 10 | 20 | 30) || (whole > 0 && whole.is_multiple_of(60))) && whole as f64 == period {
        return Ok(whole);
    }
    let message = format!("The parameter {} must be 1, 5, 10, 20, 30 or a multiple of 60.", input.name("Period"));
    Err(ApiError::new(Code::InvalidParameterValue, message))
}

/// Names and values are ASCII without control characters, and not blank.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !text.trim().is_empty()
}

/// Since 1970; what is earlier is 0.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn as_rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&time)
}

mod wire {
    //! The protocols of CloudWatch. It speaks three, and so does this module, because clients of different age are in
    //! use: rpcv2Cbor (the SDK for Rust, AWS CLI 1.45, boto3 1.43), JSON 1.0, and the query protocol with XML answers.
    //! Each request is read into one [`Value`], each answer is written from one. CBOR is `minicbor`'s, which the AWS
    //! SDK links anyway.

    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::io::Read as _;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use axum::body::{Body, Bytes};
    use flate2::read::GzDecoder;
    use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
    use http::request::Parts;
    use http::{HeaderMap, Method, Response, StatusCode};
    use jiff::Timestamp;
    use minicbor::data::{IanaTag, Tag, Type};
    use uuid::Uuid;

    /// A request as it is sent, in bytes.
    const MAX_BODY: usize = 1 << 20;

    /// A request after decompression, in bytes. A bound of this file, so that a small request can't fill the memory.
    const MAX_INFLATED: u64 = 16 << 20;

    /// The answer of an operation; `None` where the API has none.
    pub(super) type Output = Option<Value>;

    /// An error that a client can tell apart by its code.
    #[derive(Debug)]
    pub(super) struct ApiError {
        code: Code,
        message: String,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Code {
        InvalidParameterValue,
        InvalidParameterCombination,
        MissingParameter,
        ValidationError,
        MalformedInput,
        RequestEntityTooLarge,
        UnknownOperation,
    }

    impl ApiError {
        pub(super) fn new(code: Code, message: String) -> Self {
            Self { code, message }
        }

        fn malformed(reason: impl std::fmt::Display) -> Self {
            Self::new(Code::MalformedInput, format!("The request can't be read: {reason}"))
        }
    }

    impl Code {
        /// The name in the query protocol, the name of the shape, and the status.
        fn names(self) -> (&'static str, &'static str, StatusCode) {
            let bad = StatusCode::BAD_REQUEST;
            match self {
                Self::InvalidParameterValue => ("InvalidParameterValue", "InvalidParameterValueException", bad),
                Self::InvalidParameterCombination => {
                    ("InvalidParameterCombination", "InvalidParameterCombinationException", bad)
                }
                Self::MissingParameter => ("MissingParameter", "MissingRequiredParameterException", bad),
                Self::ValidationError => ("ValidationError", "ValidationError", bad),
                Self::MalformedInput => ("MalformedInput", "SerializationException", bad),
                Self::RequestEntityTooLarge => {
                    ("RequestEntityTooLarge", "RequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE)
                }
                Self::UnknownOperation => ("InvalidAction", "UnknownOperationException", bad),
            }
        }
    }

    /// A structure of a request.
    pub(super) struct Input<'a> {
        /// Its name in error messages, as the service writes it: `MetricData.member.1`; empty for the request itself.
        path: String,
        members: &'a BTreeMap<String, Value>,
    }

    impl<'a> Input<'a> {
        pub(super) fn of_request(members: &'a BTreeMap<String, Value>) -> Self {
            Self { path: String::new(), members }
        }

        /// Whether a member says something; an empty list doesn't.
        pub(super) fn has(&self, member: &str) -> bool {
            match self.members.get(member) {
                Some(Value::List(values)) => !values.is_empty(),
                other => other.is_some(),
            }
        }

        pub(super) fn name(&self, member: &str) -> String {
            if self.path.is_empty() { member.to_owned() } else { format!("{}.{member}", self.path) }
        }

        pub(super) fn missing(&self, member: &str) -> ApiError {
            ApiError::new(Code::MissingParameter, format!("The parameter {} is required.", self.name(member)))
        }

        pub(super) fn invalid_value(&self, member: &str, value: &str) -> ApiError {
            let message = format!("The value {value} for parameter {} is invalid.", self.name(member));
            ApiError::new(Code::InvalidParameterValue, message)
        }

        fn wrong_type(&self, member: &str) -> ApiError {
            ApiError::malformed(format!("{} has another type", self.name(member)))
        }

        pub(super) fn check_length(&self, member: &str, text: &str, max: usize) -> Result<(), ApiError> {
            if (1..=max).contains(&text.chars().count()) {
                return Ok(());
            }
            let message = format!("The parameter {} must have 1 to {max} characters.", self.name(member));
            Err(ApiError::new(Code::InvalidParameterValue, message))
        }

        pub(super) fn check_size(&self, member: &str, size: usize, max: usize) -> Result<(), ApiError> {
            if size <= max {
                return Ok(());
            }
            let message = format!("The collection {} must not have a size greater than {max}.", self.name(member));
            Err(ApiError::new(Code::InvalidParameterValue, message))
        }

        pub(super) fn text(&self, member: &str) -> Result<Option<&'a str>, ApiError> {
            match self.members.get(member) {
                None => Ok(None),
                Some(Value::Text(text)) => Ok(Some(text)),
                Some(_) => Err(self.wrong_type(member)),
            }
        }

        pub(super) fn required_text(&self, member: &str) -> Result<&'a str, ApiError> {
            self.text(member)?.ok_or_else(|| self.missing(member))
        }

        pub(super) fn flag(&self, member: &str) -> Result<Option<bool>, ApiError> {
            match self.members.get(member) {
                None => Ok(None),
                Some(Value::Bool(flag)) => Ok(Some(*flag)),
                Some(Value::Text(text)) => text.parse().map(Some).map_err(|_| self.wrong_type(member)),
                Some(_) => Err(self.wrong_type(member)),
            }
        }

        pub(super) fn number(&self, member: &str) -> Result<Option<f64>, ApiError> {
            let number = self.members.get(member).map(|value| value.number().ok_or_else(|| self.wrong_type(member)));
            number.transpose()
        }

        /// A value of a metric: -2^360 to 2^360, no NaN.
        pub(super) fn required_value(&self, member: &str) -> Result<f64, ApiError> {
            let value = self.number(member)?.ok_or_else(|| self.missing(member))?;
            self.check_value(member, value)
        }

        fn check_value(&self, member: &str, value: f64) -> Result<f64, ApiError> {
            let bound = 2f64.powi(360);
            if (-bound..=bound).contains(&value) {
                Ok(value)
            } else {
                Err(self.invalid_value(member, &value.to_string()))
            }
        }

        pub(super) fn values(&self, member: &str) -> Result<Vec<f64>, ApiError> {
            let values = self.list(member)?.iter();
            values
                .map(|value| self.check_value(member, value.number().ok_or_else(|| self.wrong_type(member))?))
                .collect()
        }

        pub(super) fn required_time(&self, member: &str) -> Result<SystemTime, ApiError> {
            self.time(member)?.ok_or_else(|| self.missing(member))
        }

        pub(super) fn time(&self, member: &str) -> Result<Option<SystemTime>, ApiError> {
            let Some(value) = self.members.get(member) else { return Ok(None) };
            let time = match value {
                Value::Time(seconds) | Value::Number(seconds) => {
                    // In whole milliseconds, as the service keeps them.
                    let since = Duration::try_from_secs_f64((seconds * 1000.0).round() / 1000.0).ok();
                    since.and_then(|since| UNIX_EPOCH.checked_add(since))
                }
                Value::Text(text) => text.parse::<Timestamp>().ok().map(SystemTime::from),
                _ => return Err(self.wrong_type(member)),
            };
            time.map(Some).ok_or_else(|| {
                let message = format!("The parameter {} must be a time since 1970.", self.name(member));
                ApiError::new(Code::InvalidParameterValue, message)
            })
        }

        pub(super) fn list(&self, member: &str) -> Result<&'a [Value], ApiError> {
            match self.members.get(member) {
                None => Ok(&[]),
                Some(Value::List(values)) => Ok(values),
                Some(_) => Err(self.wrong_type(member)),
            }
        }

        pub(super) fn texts(&self, member: &str) -> Result<Vec<&'a str>, ApiError> {
            let text = |value: &'a Value| match value {
                Value::Text(text) => Ok(text.as_str()),
                _ => Err(self.wrong_type(member)),
            };
            self.list(member)?.iter().map(text).collect()
        }

        pub(super) fn structure(&self, member: &str) -> Result<Option<Input<'a>>, ApiError> {
            match self.members.get(member) {
                None => Ok(None),
                Some(Value::Map(members)) => Ok(Some(Input { path: self.name(member), members })),
                Some(_) => Err(self.wrong_type(member)),
            }
        }

        pub(super) fn structures(&self, member: &str) -> Result<Vec<Input<'a>>, ApiError> {
            let structure = |(index, value): (usize, &'a Value)| match value {
                Value::Map(members) => {
                    Ok(Input { path: format!("{}.member.{}", self.name(member), index + 1), members })
                }
                _ => Err(self.wrong_type(member)),
            };
            self.list(member)?.iter().enumerate().map(structure).collect()
        }
    }

    /// What all three protocols can say. A member that is null is absent.
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Value {
        Null,
        Bool(bool),
        Number(f64),
        Text(String),
        /// Seconds since 1970.
        Time(f64),
        List(Vec<Value>),
        Map(BTreeMap<String, Value>),
    }

    impl Value {
        pub(super) fn text(text: impl Into<String>) -> Self {
            Self::Text(text.into())
        }

        pub(super) fn map<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
            Self::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        }

        pub(super) fn dimensions(dimensions: &BTreeMap<String, String>) -> Self {
            let dimension = |(name, value): (&String, &String)| {
                Self::map([("Name", Self::text(name)), ("Value", Self::text(value))])
            };
            Self::List(dimensions.iter().map(dimension).collect())
        }

        /// The query protocol knows texts only, and JSON has no other way to say `NaN`.
        fn number(&self) -> Option<f64> {
            match self {
                Self::Number(number) => Some(*number),
                Self::Text(text) => text.parse().ok(),
                _ => None,
            }
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Protocol {
        Cbor,
        Json,
        Query,
    }

    const SERVICE: &str = "GraniteServiceVersion20100801";
    const XML_NAMESPACE: &str = "http://monitoring.amazonaws.com/doc/2010-08-01/";

    /// How deep a request may be nested; the API needs 6.
    const MAX_DEPTH: usize = 16;

    impl Protocol {
        /// The protocol of a request to CloudWatch, and the operation unless that is in the body.
        pub(super) fn of(parts: &Parts) -> Option<(Self, Option<String>)> {
            if parts.method != Method::POST {
                return None;
            }
            let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
            let path = parts.uri.path().strip_prefix("/service/").and_then(|path| path.strip_prefix(SERVICE));
            if let Some(operation) = path.and_then(|path| path.strip_prefix("/operation/")) {
                return Some((Self::Cbor, Some(operation.to_owned())));
            }
            if let Some(target) = header("x-amz-target") {
                let operation = target.strip_prefix(SERVICE)?.strip_prefix('.')?;
                return Some((Self::Json, Some(operation.to_owned())));
            }
            let is_form = header(CONTENT_TYPE.as_str())?.starts_with("application/x-www-form-urlencoded");
            // Other services speak this protocol, too; a signature names the service.
            let is_ours = header(AUTHORIZATION.as_str()).is_none_or(|signature| signature.contains("/monitoring/"));
            (is_form && is_ours && parts.uri.path() == "/").then_some((Self::Query, None))
        }

        /// The operation and its input.
        pub(super) fn read(
            self,
            headers: &HeaderMap,
            body: &Bytes,
            operation: Option<String>,
        ) -> Result<(String, BTreeMap<String, Value>), ApiError> {
            if body.len() > MAX_BODY {
                let message = format!("The request must not be larger than {MAX_BODY} bytes.");
                return Err(ApiError::new(Code::RequestEntityTooLarge, message));
            }
            let body = inflate(headers, body)?;
            let input = match self {
                Self::Cbor if body.is_empty() => Value::Map(BTreeMap::new()),
                Self::Cbor => read_cbor(&body)?,
                Self::Json => from_json(serde_json::from_slice(&body).map_err(ApiError::malformed)?),
                Self::Query => read_query(&body)?,
            };
            let Value::Map(input) = input else { return Err(ApiError::malformed("it is no structure")) };
            let operation = match (operation, input.get("Action")) {
                (Some(operation), _) => operation,
                (None, Some(Value::Text(operation))) => operation.clone(),
                _ => return Err(ApiError::new(Code::MissingParameter, "The parameter Action is required.".to_owned())),
            };
            Ok((operation, input))
        }

        pub(super) fn write(self, operation: &str, output: Output) -> Response<Body> {
            match (self, output) {
                (Self::Cbor, None) => respond(StatusCode::OK, &[("smithy-protocol", "rpc-v2-cbor")], Vec::new()),
                (Self::Cbor, Some(output)) => respond_cbor(StatusCode::OK, &output, &[]),
                (Self::Json, output) => {
                    let output = output.unwrap_or_else(|| Value::map([]));
                    respond_json(StatusCode::OK, &output, &[])
                }
                (Self::Query, output) => {
                    let mut result = String::new();
                    if let Some(output) = output {
                        element(&mut result, &format!("{operation}Result"), &output);
                    }
                    respond_xml(StatusCode::OK, &format!("{operation}Response"), &result)
                }
            }
        }

        pub(super) fn write_error(self, error: &ApiError) -> Response<Body> {
            let (code, shape, status) = error.code.names();
            // Clients that were written for the query protocol go by its codes.
            let query_error = format!("{code};Sender");
            let headers = [("x-amzn-query-error", query_error.as_str())];
            let output = Value::map([
                ("__type", Value::text(format!("com.amazonaws.cloudwatch#{shape}"))),
                ("message", Value::text(&error.message)),
            ]);
            match self {
                Self::Cbor => respond_cbor(status, &output, &headers),
                Self::Json => respond_json(status, &output, &headers),
                Self::Query => {
                    let error = Value::map([
                        ("Code", Value::text(code)),
                        ("Message", Value::text(&error.message)),
                        ("Type", Value::text("Sender")),
                    ]);
                    let mut content = String::new();
                    element(&mut content, "Error", &error);
                    respond_xml(status, "ErrorResponse", &content)
                }
            }
        }
    }

    fn inflate(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, ApiError> {
        match headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(body.clone()),
            Some(b"gzip") => {
                let mut inflated = Vec::new();
                let read = GzDecoder::new(&body[..]).take(MAX_INFLATED + 1).read_to_end(&mut inflated);
                if read.map_err(ApiError::malformed)? as u64 > MAX_INFLATED {
                    let message = format!("The request must not inflate to more than {MAX_INFLATED} bytes.");
                    return Err(ApiError::new(Code::RequestEntityTooLarge, message));
                }
                Ok(inflated.into())
            }
            Some(_) => Err(ApiError::malformed("only gzip is understood as Content-Encoding")),
        }
    }

    fn read_cbor(body: &[u8]) -> Result<Value, ApiError> {
        let mut decoder = minicbor::Decoder::new(body);
        let value = cbor_value(&mut decoder, 0).map_err(ApiError::malformed)?;
        if decoder.position() < body.len() {
            return Err(ApiError::malformed("it goes on after its end"));
        }
        Ok(value)
    }

    fn cbor_value(decoder: &mut minicbor::Decoder<'_>, depth: usize) -> Result<Value, minicbor::decode::Error> {
        if depth > MAX_DEPTH {
            return Err(minicbor::decode::Error::message("nested too deeply"));
        }
        Ok(match decoder.datatype()? {
            Type::Null | Type::Undefined => {
                decoder.skip()?;
                Value::Null
            }
            Type::Bool => Value::Bool(decoder.bool()?),
            Type::F16 | Type::F32 | Type::F64 => Value::Number(decoder.f64()?),
            Type::String | Type::StringIndef => Value::Text(decoder.str_iter()?.collect::<Result<_, _>>()?),
            Type::Tag => {
                let tag = decoder.tag()?;
                match cbor_value(decoder, depth + 1)? {
                    Value::Number(seconds) if tag == Tag::from(IanaTag::Timestamp) => Value::Time(seconds),
                    other => other,
                }
            }
            Type::Array | Type::ArrayIndef => {
                let length = decoder.array()?;
                let mut values = Vec::new();
                while more(decoder, length, values.len())? {
                    values.push(cbor_value(decoder, depth + 1)?);
                }
                Value::List(values)
            }
            Type::Map | Type::MapIndef => {
                let length = decoder.map()?;
                let mut members = BTreeMap::new();
                let mut read = 0;
                while more(decoder, length, read)? {
                    read += 1;
                    let name = decoder.str_iter()?.collect::<Result<String, _>>()?;
                    match cbor_value(decoder, depth + 1)? {
                        Value::Null => {}
                        value => drop(members.insert(name, value)),
                    }
                }
                Value::Map(members)
            }
            // What is left and can be read is a whole number.
            _ => Value::Number(i128::from(decoder.int()?) as f64),
        })
    }

    /// Whether a list or map has another item; the end of one of unknown length is passed over.
    fn more(
        decoder: &mut minicbor::Decoder<'_>,
        length: Option<u64>,
        read: usize,
    ) -> Result<bool, minicbor::decode::Error> {
        if let Some(length) = length {
            return Ok((read as u64) < length);
        }
        let ends = decoder.datatype()? == Type::Break;
        if ends {
            decoder.skip()?;
        }
        Ok(!ends)
    }

    fn from_json(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(values) => Value::List(values.into_iter().map(from_json).collect()),
            serde_json::Value::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (name, from_json(value)));
                Value::Map(members.filter(|(_, value)| *value != Value::Null).collect())
            }
        }
    }

    /// `MetricData.member.1.MetricName=Age&…`
    fn read_query(body: &[u8]) -> Result<Value, ApiError> {
        let mut root = BTreeMap::new();
        for (name, text) in form_urlencoded::parse(body) {
            let mut members = &mut root;
            let mut segments: Vec<&str> = name.split('.').collect();
            let last = segments.pop().unwrap_or_default();
            if segments.len() > MAX_DEPTH {
                return Err(ApiError::malformed("nested too deeply"));
            }
            for segment in segments {
                let inner = members.entry(segment.to_owned()).or_insert_with(|| Value::Map(BTreeMap::new()));
                let Value::Map(inner) = inner else {
                    return Err(ApiError::malformed(format!("{name} contradicts another parameter")));
                };
                members = inner;
            }
            members.insert(last.to_owned(), Value::Text(text.into_owned()));
        }
        Ok(lists(Value::Map(root)))
    }

    /// Makes a list of each `{"member": {"1": …, "2": …}}`.
    fn lists(value: Value) -> Value {
        let Value::Map(mut members) = value else { return value };
        if members.len() == 1
            && let Some(Value::Map(items)) = members.remove("member")
        {
            let mut items: Vec<(u64, Value)> =
                items.into_iter().map(|(index, value)| (index.parse().unwrap_or(u64::MAX), lists(value))).collect();
            items.sort_by_key(|(index, _)| *index);
            return Value::List(items.into_iter().map(|(_, value)| value).collect());
        }
        Value::Map(members.into_iter().map(|(name, value)| (name, lists(value))).collect())
    }

    pub(super) fn respond(status: StatusCode, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
        let mut response = Response::builder().status(status).header("x-amzn-requestid", Uuid::new_v4().to_string());
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        // All headers are this file's own and well-formed.
        response.body(body.into()).unwrap_or_default()
    }

    fn respond_cbor(status: StatusCode, output: &Value, headers: &[(&str, &str)]) -> Response<Body> {
        let mut encoder = minicbor::Encoder::new(Vec::new());
        // A vector takes whatever is written to it.
        let _ = write_cbor(&mut encoder, output);
        let own = [("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")];
        respond(status, &[&own[..], headers].concat(), encoder.into_writer())
    }

    type CborResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

    fn write_cbor(encoder: &mut minicbor::Encoder<Vec<u8>>, value: &Value) -> CborResult {
        match value {
            Value::Null => encoder.null()?,
            Value::Bool(flag) => encoder.bool(*flag)?,
            Value::Number(number) => encoder.f64(*number)?,
            Value::Text(text) => encoder.str(text)?,
            Value::Time(seconds) => encoder.tag(IanaTag::Timestamp)?.f64(*seconds)?,
            Value::List(values) => {
                encoder.array(values.len() as u64)?;
                values.iter().try_for_each(|value| write_cbor(encoder, value))?;
                encoder
            }
            Value::Map(members) => {
                encoder.map(members.len() as u64)?;
                for (name, value) in members {
                    encoder.str(name)?;
                    write_cbor(encoder, value)?;
                }
                encoder
            }
        };
        Ok(())
    }

    fn respond_json(status: StatusCode, output: &Value, headers: &[(&str, &str)]) -> Response<Body> {
        let own = [("content-type", "application/x-amz-json-1.0")];
        respond(status, &[&own[..], headers].concat(), to_json(output).to_string())
    }

    fn to_json(value: &Value) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) | Value::Time(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(values) => values.iter().map(to_json).collect(),
            Value::Map(members) => members.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        }
    }

    fn respond_xml(status: StatusCode, root: &str, content: &str) -> Response<Body> {
        let id = Uuid::new_v4();
        let metadata = format!("<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata>");
        let body = format!("<{root} xmlns=\"{XML_NAMESPACE}\">{content}{metadata}</{root}>");
        respond(status, &[("content-type", "text/xml")], body)
    }

    fn element(xml: &mut String, name: &str, value: &Value) {
        let _ = write!(xml, "<{name}>");
        match value {
            Value::Null => {}
            Value::Bool(flag) => *xml += &flag.to_string(),
            Value::Number(number) => *xml += &format!("{number:?}"),
            Value::Text(text) => {
                for character in text.chars() {
                    match character {
                        '<' => *xml += "&lt;",
                        '>' => *xml += "&gt;",
                        '&' => *xml += "&amp;",
                        other => xml.push(other),
                    }
                }
            }
            Value::Time(seconds) => {
                let time = Timestamp::from_second(*seconds as i64).unwrap_or(Timestamp::MAX);
                *xml += &time.to_string();
            }
            Value::List(values) => values.iter().for_each(|value| element(xml, "member", value)),
            Value::Map(members) => members.iter().for_each(|(name, value)| element(xml, name, value)),
        }
        let _ = write!(xml, "</{name}>");
    }
}
