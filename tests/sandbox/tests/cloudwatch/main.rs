//! Metrics that the real clients put are kept as they were meant, and are answered as CloudWatch answers them.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

#[path = "../tools/mod.rs"]
mod tools;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudwatch::operation::get_metric_statistics::builders::GetMetricStatisticsFluentBuilder;
use aws_sdk_cloudwatch::operation::list_metrics::builders::ListMetricsFluentBuilder;
use aws_sdk_cloudwatch::operation::put_metric_data::PutMetricDataError;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::builders::MetricDatumBuilder;
use aws_sdk_cloudwatch::types::{
    Dimension, DimensionFilter, Metric, MetricDataQuery, MetricDatum, MetricStat, RecentlyActive, ScanBy, StandardUnit,
    Statistic, StatisticSet,
};
use aws_smithy_http_client::tls;
use axum::body::{Body, to_bytes};
use http::{Request, Response, StatusCode};
use sandbox::CloudWatch;
use tokio::net::TcpListener;
use tools::tool;

mod protocols;

/// 2026-11-22T10:00:30Z, half a minute into a minute.
const START: u64 = 1_795_341_630;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

struct Service {
    metrics: CloudWatch,
    clock: Arc<Mutex<SystemTime>>,
    endpoint: String,
    client: Client,
}

impl Service {
    async fn start() -> Self {
        let clock = Arc::new(Mutex::new(at(START)));
        let now = clock.clone();
        let metrics = CloudWatch::new(move || *now.lock().unwrap());
        let answering = metrics.clone();
        let router = axum::Router::new().fallback(move |request: Request<Body>| {
            let metrics = answering.clone();
            async move {
                let (parts, body) = request.into_parts();
                if !CloudWatch::accepts(&parts) {
                    return Response::builder().status(StatusCode::IM_A_TEAPOT).body(Body::empty()).unwrap();
                }
                metrics.handle(parts, to_bytes(body, usize::MAX).await.unwrap()).await
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, router).into_future());
        let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let config = aws_sdk_cloudwatch::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("sandbox", "sandbox", None, None, "test"))
            .endpoint_url(&endpoint)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(provider).build_https())
            .build();
        Self { metrics, clock, endpoint, client: Client::from_conf(config) }
    }

    fn advance(&self, seconds: u64) {
        *self.clock.lock().unwrap() += Duration::from_secs(seconds);
    }

    async fn put(&self, data: impl IntoIterator<Item = MetricDatum>) -> Result<(), SdkError<PutMetricDataError>> {
        let data = Some(data.into_iter().collect());
        self.client.put_metric_data().namespace("SecretRotation").set_metric_data(data).send().await?;
        Ok(())
    }

    /// The code and message with which a datum is refused.
    async fn refusal(&self, data: impl IntoIterator<Item = MetricDatum>) -> (String, String) {
        code_and_message(&self.put(data).await.unwrap_err())
    }

    /// A request as an older client sends it.
    async fn raw(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, String) {
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, body) = request.body(body.into()).unwrap().into_parts();
        assert!(CloudWatch::accepts(&parts));
        let response = self.metrics.handle(parts, to_bytes(body, usize::MAX).await.unwrap()).await;
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    }

    async fn query(&self, parameters: &str) -> (StatusCode, String) {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=x/20261122/us-east-1/monitoring/aws4_request, …"),
        ];
        self.raw(&headers, parameters.to_owned()).await
    }

    async fn aws(&self, arguments: &[&str]) -> serde_json::Value {
        // Not the user's: how times are written is a setting.
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::write(&config, "[default]\ncli_timestamp_format = iso8601\n").unwrap();
        let output = tokio::process::Command::from(tool("aws", &self.endpoint))
            .arg("cloudwatch")
            .args(arguments)
            .args(["--output", "json"])
            .env("AWS_CONFIG_FILE", &config)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        if output.stdout.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() }
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn time(seconds: u64) -> DateTime {
    DateTime::from_secs(seconds.try_into().unwrap())
}

fn dimension(name: &str, value: &str) -> Dimension {
    Dimension::builder().name(name).value(value).build()
}

fn datum(name: &str, value: f64) -> MetricDatum {
    MetricDatum::builder().metric_name(name).value(value).build()
}

fn code_and_message<E: ProvideErrorMetadata>(error: &SdkError<E>) -> (String, String) {
    let error = error.as_service_error().unwrap();
    (error.code().unwrap().to_owned(), error.message().unwrap().to_owned())
}

#[tokio::test]
async fn datum_is_kept_as_requested_with_the_time_of_the_sandbox() {
    let service = Service::start().await;
    let rotated = MetricDatum::builder()
        .metric_name("RotationFailed")
        .dimensions(dimension("Step", "testSecret"))
        .dimensions(dimension("Function", "admin-token"))
        .value(1.0)
        .unit(StandardUnit::Count)
        .timestamp(time(START - 60))
        .build();
    service.put([rotated, datum("RotationDuration", 1.5)]).await.unwrap();
    service.advance(5);
    service.put([datum("SecretAgeMax", 90.0)]).await.unwrap();

    let data = service.metrics.data();
    let [failed, duration, age] = &data[..] else { panic!("{data:?}") };
    assert_eq!((failed.namespace.as_str(), failed.name.as_str()), ("SecretRotation", "RotationFailed"));
    let dimensions = [("Function", "admin-token"), ("Step", "testSecret")];
    assert_eq!(failed.dimensions, dimensions.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!((failed.value, failed.unit.as_str(), failed.time), (1.0, "Count", at(START - 60)));
    assert_eq!((duration.value, duration.unit.as_str(), duration.time), (1.5, "None", at(START)));
    assert_eq!((age.time, failed.request, duration.request, age.request), (at(START + 5), 0, 0, 1));
    assert_eq!(service.metrics.put_calls(), 2);
    let json = serde_json::to_value(age).unwrap();
    assert_eq!((&json["time"], &json["statistics"]["sum"]), (&"2026-11-22T10:00:35Z".into(), &90.0.into()));
}

#[tokio::test]
async fn a_compressed_request_is_read_like_any_other() {
    let service = Service::start().await;
    // Far beyond the 10,240 bytes from which the SDK compresses.
    let names: Vec<String> = (0..1000).map(|n| format!("a-metric-with-quite-a-long-name-{n:04}")).collect();
    service.put(names.iter().map(|name| datum(name, 1.0))).await.unwrap();
    let kept: Vec<String> = service.metrics.data().into_iter().map(|datum| datum.name).collect();
    assert_eq!(kept, names);
}

#[tokio::test]
async fn sets_of_values_are_one_datum_with_their_statistics() {
    let service = Service::start().await;
    let counted = MetricDatum::builder()
        .metric_name("Latency")
        .set_values(Some(vec![10.0, 20.0]))
        .set_counts(Some(vec![3.0, 1.0]))
        .storage_resolution(1)
        .build();
    let uncounted = MetricDatum::builder().metric_name("Latency").set_values(Some(vec![1.0, 2.0])).build();
    let set = StatisticSet::builder().sample_count(4.0).sum(8.0).minimum(1.0).maximum(5.0).build();
    let aggregated = MetricDatum::builder().metric_name("Latency").statistic_values(set).build();
    service.put([counted, uncounted, aggregated]).await.unwrap();
    let kept: Vec<_> = service
        .metrics
        .data()
        .into_iter()
        .map(|datum| {
            let set = datum.statistics;
            (datum.value, set.sample_count, set.sum, set.minimum, set.maximum, datum.storage_resolution)
        })
        .collect();
    assert_eq!(kept, [(12.5, 4.0, 50.0, 10.0, 20.0, 1), (1.5, 2.0, 3.0, 1.0, 2.0, 60), (2.0, 4.0, 8.0, 1.0, 5.0, 60)]);
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_as_a_whole() {
    let service = Service::start().await;
    let invalid = |message: &str| ("InvalidParameterValue".to_owned(), message.to_owned());
    let many = |count: usize| (0..count).map(|n| datum(&format!("m{n}"), 1.0)).collect::<Vec<_>>();
    let too_many = "The collection MetricData must not have a size greater than 1000.";
    assert_eq!(service.refusal(many(1001)).await, invalid(too_many));
    let nan = "The value NaN for parameter MetricData.member.2.Value is invalid.";
    assert_eq!(service.refusal([datum("good", 1.0), datum("bad", f64::NAN)]).await, invalid(nan));
    let (code, _) = service.refusal([datum("bad", f64::INFINITY)]).await;
    assert_eq!(code, "InvalidParameterValue");
    assert_eq!(service.refusal([datum("bad", 2f64.powi(361))]).await.0, "InvalidParameterValue");

    let dimensions = |count: usize| {
        let all = (0..count).map(|n| dimension(&format!("d{n}"), "x")).collect();
        MetricDatum::builder().metric_name("m").value(1.0).set_dimensions(Some(all)).build()
    };
    let message = "The collection MetricData.member.1.Dimensions must not have a size greater than 30.";
    assert_eq!(service.refusal([dimensions(31)]).await, invalid(message));
    let twice = datum_with(|datum| datum.dimensions(dimension("a", "1")).dimensions(dimension("a", "2")));
    assert_eq!(service.refusal([twice]).await.0, "InvalidParameterValue");
    let empty = datum_with(|datum| datum.dimensions(dimension("a", "")));
    assert_eq!(service.refusal([empty]).await.0, "InvalidParameterValue");

    let unit = datum_with(|datum| datum.unit(StandardUnit::from("Furlongs")));
    assert!(service.refusal([unit]).await.1.starts_with("The parameter MetricData.member.1.Unit must be a value in"));
    let late = datum_with(|datum| datum.timestamp(time(START + 2 * HOUR + 1)));
    assert!(service.refusal([late]).await.1.ends_with("no more than two hours in the future."));
    let early = datum_with(|datum| datum.timestamp(time(START - 14 * DAY - 1)));
    assert!(service.refusal([early]).await.1.ends_with("within the past two weeks."));
    let resolution = datum_with(|datum| datum.storage_resolution(30));
    assert_eq!(service.refusal([resolution]).await.0, "InvalidParameterValue");

    let missing = |message: &str| ("MissingParameter".to_owned(), message.to_owned());
    let no_value = MetricDatum::builder().metric_name("m").build();
    let message = "The parameter MetricData.member.1.Value is required.";
    assert_eq!(service.refusal([no_value]).await, missing(message));
    assert_eq!(service.refusal([]).await, missing("The parameter MetricData is required."));
    let both = datum_with(|datum| datum.set_values(Some(vec![1.0])));
    let message = "The parameters MetricData.member.1.Value and MetricData.member.1.Values are mutually exclusive and \
                   you have specified both.";
    assert_eq!(service.refusal([both]).await, ("InvalidParameterCombination".to_owned(), message.to_owned()));
    let uneven = MetricDatum::builder().metric_name("m").values(1.0).counts(1.0).counts(2.0).build();
    assert!(service.refusal([uneven]).await.1.ends_with("must be of the same size."));
    let long = MetricDatum::builder().metric_name("m").set_values(Some(vec![1.0; 151])).build();
    assert!(service.refusal([long]).await.1.ends_with("must not have a size greater than 150."));

    let request = service.client.put_metric_data().namespace("AWS/Lambda").metric_data(datum("m", 1.0));
    let refused = request.send().await.unwrap_err();
    assert_eq!(code_and_message(&refused), invalid("The value AWS/Lambda for parameter Namespace is invalid."));

    assert!(service.metrics.data().is_empty());
    let refused = service.metrics.put_calls();
    service.put(many(1000)).await.unwrap();
    service.put([dimensions(30)]).await.unwrap();
    assert_eq!((service.metrics.data().len(), service.metrics.put_calls()), (1001, refused + 2));
}

fn datum_with(change: impl FnOnce(MetricDatumBuilder) -> MetricDatumBuilder) -> MetricDatum {
    change(MetricDatum::builder().metric_name("m").value(1.0)).build()
}

#[tokio::test]
async fn metrics_are_listed_once_by_namespace_name_and_dimensions() {
    let service = Service::start().await;
    let of = |function: &str| {
        MetricDatum::builder().metric_name("Failed").dimensions(dimension("Function", function)).value(1.0).build()
    };
    service.put([of("a"), of("a"), of("b"), datum("Failed", 2.0), datum("Done", 1.0)]).await.unwrap();
    let names = async |request: ListMetricsFluentBuilder| {
        let output = request.send().await.unwrap();
        let describe = |metric: &Metric| {
            assert_eq!(metric.namespace(), Some("SecretRotation"));
            let dimensions: Vec<_> = metric.dimensions().iter().filter_map(Dimension::value).collect();
            format!("{}{dimensions:?}", metric.metric_name().unwrap())
        };
        output.metrics().iter().map(describe).collect::<Vec<_>>()
    };
    let list = || service.client.list_metrics();
    assert_eq!(names(list()).await, ["Done[]", "Failed[]", r#"Failed["a"]"#, r#"Failed["b"]"#]);
    assert_eq!(names(list().metric_name("Done").namespace("SecretRotation")).await, ["Done[]"]);
    assert_eq!(names(list().namespace("Other")).await, [""; 0]);
    let by =
        |value: Option<&str>| DimensionFilter::builder().name("Function").set_value(value.map(str::to_owned)).build();
    assert_eq!(names(list().dimensions(by(None))).await, [r#"Failed["a"]"#, r#"Failed["b"]"#]);
    assert_eq!(names(list().dimensions(by(Some("b")))).await, [r#"Failed["b"]"#]);

    service.advance(3 * HOUR + 1);
    assert_eq!(names(list().recently_active(RecentlyActive::Pt3H)).await, [""; 0]);
    assert_eq!(names(list()).await.len(), 4);
    service.advance(14 * DAY);
    assert_eq!(names(list()).await, [""; 0], "nothing for two weeks");
}

#[tokio::test]
async fn long_lists_have_pages() {
    let service = Service::start().await;
    service.put((0..1000).map(|n| datum(&format!("m{n:04}"), 1.0))).await.unwrap();
    service.put([datum("m1000", 1.0)]).await.unwrap();
    let pages = service.client.list_metrics().into_paginator().send().try_collect().await.unwrap();
    let sizes: Vec<usize> = pages.iter().map(|page| page.metrics().len()).collect();
    assert_eq!(sizes, [500, 500, 1]);
    let names: Vec<_> = pages.iter().flat_map(|page| page.metrics()).filter_map(Metric::metric_name).collect();
    assert!(names.is_sorted() && names.len() == 1001);
    let refused = service.client.list_metrics().next_token("nonsense").send().await.unwrap_err();
    assert_eq!(code_and_message(&refused).0, "InvalidParameterValue");
}

/// A request for the quarter of an hour that ends at the start of the test.
fn statistics(service: &Service) -> GetMetricStatisticsFluentBuilder {
    let request = service.client.get_metric_statistics().namespace("SecretRotation").metric_name("m");
    request.start_time(time(START - 900)).end_time(time(START)).period(600)
}

#[tokio::test]
async fn statistics_are_those_of_each_period() {
    let service = Service::start().await;
    let of = |value: f64, seconds_ago: u64, unit: StandardUnit| {
        datum_with(|datum| datum.value(value).timestamp(time(START - seconds_ago)).unit(unit))
    };
    service
        .put([
            of(1.0, 700, StandardUnit::Seconds),
            of(4.0, 60, StandardUnit::Seconds),
            of(2.0, 20, StandardUnit::Seconds),
            of(7.0, 20, StandardUnit::Count),
            datum("other", 100.0),
            datum_with(|datum| datum.dimensions(dimension("Function", "x"))),
        ])
        .await
        .unwrap();
    let request = || statistics(&service);
    let all = [Statistic::SampleCount, Statistic::Sum, Statistic::Average, Statistic::Minimum, Statistic::Maximum];
    let output = request().set_statistics(Some(all.into())).send().await.unwrap();
    assert_eq!(output.label(), Some("m"));
    let points: Vec<_> = output
        .datapoints()
        .iter()
        .map(|point| {
            let numbers = [point.sample_count(), point.sum(), point.average(), point.minimum(), point.maximum()];
            (point.timestamp().unwrap().secs() as u64, point.unit().unwrap().as_str(), numbers.map(Option::unwrap))
        })
        .collect();
    // The start is rounded down to the minute.
    let first = START - 900 - 30;
    assert_eq!(
        points,
        [
            (first, "Seconds", [1.0, 1.0, 1.0, 1.0, 1.0]),
            (first + 600, "Count", [1.0, 7.0, 7.0, 7.0, 7.0]),
            (first + 600, "Seconds", [2.0, 6.0, 3.0, 2.0, 4.0]),
        ]
    );

    let output = request().statistics(Statistic::Sum).unit(StandardUnit::Count).send().await.unwrap();
    let [point] = output.datapoints() else { panic!("{output:?}") };
    assert_eq!((point.sum(), point.average()), (Some(7.0), None), "only what was asked for");
    let other = request().statistics(Statistic::Sum).dimensions(dimension("Function", "y"));
    assert!(other.send().await.unwrap().datapoints().is_empty());
}

#[tokio::test]
async fn statistics_refuse_what_cloudwatch_refuses() {
    let service = Service::start().await;
    let request = || statistics(&service);
    let refused =
        async |request: GetMetricStatisticsFluentBuilder| code_and_message(&request.send().await.unwrap_err()).0;
    let sum = || request().statistics(Statistic::Sum);
    assert_eq!(refused(sum().period(61)).await, "InvalidParameterValue");
    assert_eq!(refused(sum().period(0)).await, "InvalidParameterValue");
    assert_eq!(refused(sum().end_time(time(START - 900))).await, "InvalidParameterValue");
    assert_eq!(refused(sum().start_time(time(START - 2 * DAY)).period(60)).await, "InvalidParameterCombination");
    assert_eq!(refused(request()).await, "InvalidParameterCombination");
    assert_eq!(refused(request().statistics(Statistic::from("Mode"))).await, "InvalidParameterValue");
    assert_eq!(refused(request().extended_statistics("p99")).await, "InvalidParameterValue");
}

#[tokio::test]
async fn old_data_are_answered_by_longer_periods_only() {
    let service = Service::start().await;
    let detailed = datum_with(|datum| datum.storage_resolution(1));
    service.put([detailed, datum("m", 2.0)]).await.unwrap();
    let sums = async |period: u64, around: u64| {
        let output = service
            .client
            .get_metric_statistics()
            .namespace("SecretRotation")
            .metric_name("m")
            .start_time(time(START - around))
            .end_time(time(START + 1))
            .period(period.try_into().unwrap())
            .statistics(Statistic::Sum)
            .send()
            .await
            .unwrap();
        output.datapoints().iter().map(|point| point.sum().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(sums(1, 40).await, [2.0, 1.0], "by the second, and by the minute");
    assert_eq!(sums(60, 60).await, [3.0]);
    for (age, finest) in [(4 * HOUR, 60), (16 * DAY, 300), (64 * DAY, 3600)] {
        *service.clock.lock().unwrap() = at(START + age);
        let finer = [1, 60, 300].into_iter().rfind(|period| *period < finest).unwrap();
        assert_eq!(sums(finer, finer).await, [0.0; 0], "{finer} s after {age} s");
        assert_eq!(sums(finest, finest).await, [3.0], "{finest} s after {age} s");
    }
    *service.clock.lock().unwrap() = at(START + 456 * DAY);
    assert_eq!(sums(HOUR, HOUR).await, [0.0; 0]);
}

#[tokio::test]
async fn metric_data_answers_each_query() {
    let service = Service::start().await;
    let of = |value: f64, seconds_ago: u64| datum_with(|datum| datum.value(value).timestamp(time(START - seconds_ago)));
    service.put([of(1.0, 90), of(3.0, 90), of(5.0, 10)]).await.unwrap();
    let query = |id: &str, statistic: &str| {
        let metric = Metric::builder().namespace("SecretRotation").metric_name("m").build();
        let stat = MetricStat::builder().metric(metric).period(60).stat(statistic).build();
        MetricDataQuery::builder().id(id).metric_stat(stat)
    };
    let request = || service.client.get_metric_data().start_time(time(START - 300)).end_time(time(START));
    let output = request()
        .metric_data_queries(query("sums", "Sum").label("all").build())
        .metric_data_queries(query("averages", "Average").build())
        .metric_data_queries(query("hidden", "Maximum").return_data(false).build())
        .send()
        .await
        .unwrap();
    let [sums, averages] = output.metric_data_results() else { panic!("{output:?}") };
    let minute = |ago: u64| time(START - 30 - ago);
    assert_eq!((sums.id(), sums.label(), sums.values()), (Some("sums"), Some("all"), &[5.0, 4.0][..]));
    assert_eq!(sums.timestamps(), [minute(0), minute(60)], "the newest first");
    assert_eq!((averages.label(), averages.values()), (Some("m"), &[5.0, 2.0][..]));
    assert_eq!(averages.status_code().unwrap().as_str(), "Complete");

    let ascending = request().scan_by(ScanBy::TimestampAscending).metric_data_queries(query("sums", "Sum").build());
    assert_eq!(ascending.send().await.unwrap().metric_data_results()[0].values(), [4.0, 5.0]);
    let unserved = [
        request().metric_data_queries(MetricDataQuery::builder().id("e").expression("m*2").build()),
        request().metric_data_queries(query("p", "p99").build()),
    ];
    for request in unserved {
        let (code, message) = code_and_message(&request.send().await.unwrap_err());
        assert_eq!(code, "ValidationError");
        assert!(message.contains("not served by the sandbox"), "{message}");
    }
}
