//! CloudWatch metrics: takes PutMetricData, and answers ListMetrics, GetMetricStatistics and GetMetricData from the
//! stored data.
//!
//! The crates `rustack-cloudwatch-core` and `-http` did not fit. They read the machine's clock, where the sandbox has
//! its own. They do not take gzip, and the SDK compresses requests from 10 KB up. They bring 8,900 lines for four
//! operations.
//!
//! Bounds, defaults and rounding follow the API reference
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/>). An error refuses percentiles, other extended
//! statistics, and metric math. Unlike in the real service, metrics show at once.

mod data;
mod input;
mod statistics;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use self::data::{read_data, read_period, read_unit};
use self::input::Input;
use self::statistics::{Metric, finest_period, merge};
use self::wire::{ApiError, Code, Output, Protocol, Value};

/// The most data that are kept. The oldest data go first.
const KEPT_DATA: usize = 100_000;

const MAX_DATAPOINTS: u64 = 1440;
const METRICS_PER_PAGE: usize = 500;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// ListMetrics forgets a metric after this time without data.
const LISTED_FOR: Duration = Duration::from_secs(14 * DAY);

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
    /// The value of each dimension, by name.
    pub dimensions: BTreeMap<String, String>,
    /// The value, or the average when the datum holds several values.
    pub value: f64,
    /// The statistics of the datum's values.
    pub statistics: StatisticSet,
    /// A unit of CloudWatch; `None` when the request names no unit.
    pub unit: String,
    /// The time in the request, or else the time of arrival by the sandbox's clock.
    #[serde(serialize_with = "as_rfc3339")]
    pub time: SystemTime,
    /// The resolution in seconds: 60, or 1 for a high-resolution metric.
    pub storage_resolution: u32,
    /// The number of the PutMetricData request, counted from 0 with refused requests.
    pub request: u64,
}

/// The statistics of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StatisticSet {
    /// The number of samples, more than zero.
    pub sample_count: f64,
    /// The sum of the samples.
    pub sum: f64,
    /// The smallest sample.
    pub minimum: f64,
    /// The largest sample.
    pub maximum: f64,
}

impl CloudWatch {
    /// An empty store. `now` dates data without a time, and sets the age of data.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let shared = Shared { now: Box::new(now), store: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Whether a request is for CloudWatch, in any of its protocols.
    #[must_use]
    pub fn accepts(parts: &Parts) -> bool {
        Protocol::of(parts).is_some()
    }

    /// Answers a request that [`CloudWatch::accepts`]. Any other request gets 404.
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

    /// The data in the order of arrival; the last 100,000.
    #[must_use]
    pub fn data(&self) -> Vec<Datum> {
        self.store().data.iter().cloned().collect()
    }

    /// The number of PutMetricData requests so far, with refused requests.
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
        // All or nothing: one bad datum refuses the whole request.
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
        // No operation can panic between two writes of the store.
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970; 0 for an earlier time.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn as_rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = Timestamp::try_from(*time).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&time)
}
