//! The protocols of older and newer clients.

use super::*;

#[tokio::test]
async fn the_query_protocol_of_older_clients_is_served() {
    let service = Service::start().await;
    let put = "Action=PutMetricData&Version=2010-08-01&Namespace=SecretRotation&MetricData.member.1.MetricName=m\
               &MetricData.member.1.Value=2.5&MetricData.member.1.Unit=Count\
               &MetricData.member.1.Timestamp=2026-11-22T10%3A00%3A00Z\
               &MetricData.member.1.Dimensions.member.1.Name=Function\
               &MetricData.member.1.Dimensions.member.1.Value=a%20%26%20%3Cb%3E";
    let (status, body) = service.query(put).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with("<PutMetricDataResponse xmlns=") && body.contains("<RequestId>"), "{body}");
    let kept = service.metrics.data();
    assert_eq!((kept[0].value, kept[0].time), (2.5, at(START - 30)));
    assert_eq!(kept[0].dimensions, BTreeMap::from([("Function".to_owned(), "a & <b>".to_owned())]));

    let (_, body) = service.query("Action=ListMetrics&Namespace=SecretRotation").await;
    let expected = "<ListMetricsResult><Metrics><member><Dimensions><member><Name>Function</Name>\
                    <Value>a &amp; &lt;b&gt;</Value></member></Dimensions><MetricName>m</MetricName>\
                    <Namespace>SecretRotation</Namespace></member></Metrics></ListMetricsResult>";
    assert!(body.contains(expected), "{body}");
    let statistics = "Action=GetMetricStatistics&Namespace=SecretRotation&MetricName=m&Period=60\
                      &StartTime=2026-11-22T10:00:00Z&EndTime=2026-11-22T10:01:00Z&Statistics.member.1=Sum\
                      &Dimensions.member.1.Name=Function&Dimensions.member.1.Value=a%20%26%20%3Cb%3E";
    let (_, body) = service.query(statistics).await;
    let expected = "<member><Sum>2.5</Sum><Timestamp>2026-11-22T10:00:00Z</Timestamp><Unit>Count</Unit></member>";
    assert!(body.contains(expected), "{body}");

    let (status, body) = service.query("Action=PutMetricData&Namespace=AWS/EC2").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.starts_with("<ErrorResponse") && body.contains("<Code>InvalidParameterValue</Code>"), "{body}");
    let (_, body) = service.query("Action=DeleteEverything").await;
    assert!(body.contains("<Code>InvalidAction</Code>"), "{body}");
    assert!(service.query("Action=ListMetrics&A=1&A.B=2").await.1.contains("MalformedInput"));
}

#[tokio::test]
async fn the_json_protocol_is_served() {
    let service = Service::start().await;
    let call = async |operation: &str, body: &str| {
        let target = format!("GraniteServiceVersion20100801.{operation}");
        let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.0")];
        let (status, body) = service.raw(&headers, body.to_owned()).await;
        (status, serde_json::from_str::<serde_json::Value>(&body).unwrap())
    };
    let datum = format!(r#"{{"MetricName":"m","Value":3,"Timestamp":{START}.5,"Unit":null}}"#);
    let put = format!(r#"{{"Namespace":"SecretRotation","MetricData":[{datum}]}}"#);
    assert_eq!(call("PutMetricData", &put).await, (StatusCode::OK, serde_json::json!({})));
    let kept = service.metrics.data();
    assert_eq!((kept[0].value, kept[0].time), (3.0, at(START) + Duration::from_millis(500)));
    let (_, list) = call("ListMetrics", "{}").await;
    assert_eq!(list["Metrics"][0]["MetricName"], "m");
    let (status, error) =
        call("PutMetricData", r#"{"Namespace":"N","MetricData":[{"MetricName":"m","Value":"NaN"}]}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(error["__type"], "com.amazonaws.cloudwatch#InvalidParameterValueException");
    assert_eq!(call("PutMetricData", "{").await.1["__type"], "com.amazonaws.cloudwatch#SerializationException");
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused() {
    let service = Service::start().await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let (status, _) = service.raw(&[form], vec![b'x'; (1 << 20) + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![b'x'; 32 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let (status, _) = service.raw(&[form, ("content-encoding", "gzip")], bomb).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = service.raw(&[form, ("content-encoding", "gzip")], "no gzip").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[test]
fn requests_to_other_services_are_left_alone() {
    let accepts = |request: http::request::Builder| CloudWatch::accepts(&request.body(()).unwrap().into_parts().0);
    let form = |service: &str| {
        Request::post("/")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", format!("AWS4-HMAC-SHA256 Credential=x/20261122/us-east-1/{service}/aws4_request"))
    };
    assert!(accepts(form("monitoring")));
    assert!(!accepts(form("sts")));
    assert!(!accepts(Request::post("/").header("x-amz-target", "secretsmanager.GetSecretValue")));
    assert!(!accepts(Request::post("/2015-03-31/functions/admin-token/invocations")));
    assert!(!accepts(Request::get("/service/GraniteServiceVersion20100801/operation/ListMetrics")));
    assert!(accepts(Request::post("/service/GraniteServiceVersion20100801/operation/ListMetrics")));
}

#[tokio::test]
async fn broken_cbor_is_an_error_and_not_the_end() {
    let service = Service::start().await;
    let whole = b"\xa1\x69Namespace\x6eSecretRotation";
    let deep = [0x81; 100_000];
    let endless = b"\xbf\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff";
    let mut bodies: Vec<&[u8]> = (1..whole.len()).map(|end| &whole[..end]).collect();
    bodies.extend([&deep[..], &endless[..], b"\x80", b"\xa0\x00", b"\xff"]);
    for body in bodies {
        let request = Request::post("/service/GraniteServiceVersion20100801/operation/PutMetricData");
        let (parts, body) = request.body(body.to_vec()).unwrap().into_parts();
        let response = service.metrics.handle(parts, body.into()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["x-amzn-query-error"], "MalformedInput;Sender");
    }
}

#[tokio::test]
async fn the_aws_cli_puts_lists_and_reads_metrics() {
    let service = Service::start().await;
    let common = ["--namespace", "SecretRotation", "--metric-name", "RotationSucceeded"];
    let put = ["--value", "2", "--unit", "Count", "--dimensions", "Function=admin-token"];
    service.aws(&[&["put-metric-data"], &common[..], &put].concat()).await;
    assert_eq!(service.metrics.data()[0].time, at(START));
    let list = service.aws(&["list-metrics", "--namespace", "SecretRotation"]).await;
    let dimensions = serde_json::json!([{"Name": "Function", "Value": "admin-token"}]);
    let metric = serde_json::json!({
        "Namespace": "SecretRotation", "MetricName": "RotationSucceeded", "Dimensions": dimensions,
    });
    assert_eq!(list["Metrics"], serde_json::json!([metric]));
    let range = ["--start-time", "2026-11-22T09:00:00Z", "--end-time", "2026-11-22T10:01:00Z"];
    let how = ["--period", "3600", "--statistics", "Sum", "Average", "--dimensions", "Name=Function,Value=admin-token"];
    let statistics = service.aws(&[&["get-metric-statistics"], &common[..], &range, &how].concat()).await;
    let point =
        serde_json::json!({"Timestamp": "2026-11-22T10:00:00+00:00", "Sum": 2.0, "Average": 2.0, "Unit": "Count"});
    assert_eq!(statistics["Datapoints"], serde_json::json!([point]));
    let query = serde_json::json!([{"Id": "a", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}]);
    let query = ["get-metric-data", "--metric-data-queries", &query.to_string()].map(str::to_owned);
    let arguments: Vec<&str> = query.iter().map(String::as_str).chain(range).collect();
    let data = service.aws(&arguments).await;
    assert_eq!(data["MetricDataResults"][0]["Values"], serde_json::json!([2.0]));
}
