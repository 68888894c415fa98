//! What a function and its caller see of the host is what they see of Lambda.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::common::{config, example, host, invoke, json, until};
use bytes::Bytes;
use jiff::Timestamp;
use sandbox::lambda_host::{ConfigurationError, InvokeError, LambdaHost, MAX_PAYLOAD};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

mod ending;

async fn pid(host: &LambdaHost) -> u64 {
    json(&invoke(host, json!({"do": "process"})).await.payload)["pid"].as_u64().unwrap()
}

fn alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Gone, or waiting for whoever has to reap it.
fn ended(pid: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

fn logged(host: &LambdaHost, text: &str) -> bool {
    host.logs("function").iter().any(|line| line.contains(text))
}

/// Invokes the function, and goes away when it has logged `text`.
async fn give_up(host: &LambdaHost, event: &'static [u8], text: &str) {
    tokio::select! {
        _ = host.invoke("function", Bytes::from_static(event)) => panic!("it was too fast"),
        () = until("the function runs", || logged(host, text)) => {}
    }
}

#[tokio::test]
async fn a_process_is_used_again_for_the_next_event() {
    let host = host();
    let first = invoke(&host, json!({"do": "process"})).await;
    let second = invoke(&host, json!({"do": "process"})).await;
    assert_eq!(json(&first.payload)["pid"], json(&second.payload)["pid"]);
    assert!(first.cold && first.init_duration.unwrap() > Duration::ZERO);
    assert!(!second.cold && second.init_duration.is_none());
    assert_ne!(first.request_id, second.request_id);
    assert!(first.usage.unwrap().max_memory_kb > 100);
}

#[tokio::test]
async fn a_changed_environment_starts_cold_and_ends_the_warm_process() {
    let host = host();
    let before = pid(&host).await;
    host.set_environment("function", "COLOUR", "blue").unwrap();
    let after = invoke(&host, json!({"do": "process"})).await;
    assert!(after.cold);
    assert_eq!(json(&after.payload)["environment"]["COLOUR"], "blue");
    until("the old process is gone", || !alive(before)).await;
}

#[tokio::test]
async fn an_invocation_finishes_although_its_function_is_replaced() {
    let host = host();
    let running = tokio::spawn({
        let host = host.clone();
        async move { invoke(&host, json!({"do": "sleep", "ms": 400})).await }
    });
    until("it runs", || logged(&host, "\"sleep\"")).await;
    host.register(config("function")).unwrap();
    let finished = running.await.unwrap();
    assert_eq!(finished.function_error, None);
    let process = json(&finished.payload).as_u64().unwrap();
    until("its process is not kept", || !alive(process)).await;
    assert!(invoke(&host, json!({})).await.cold);
}

#[tokio::test]
async fn slow_invocation_is_killed_and_reported_as_timed_out() {
    let host = LambdaHost::new();
    let mut config = config("function");
    config.timeout = Duration::from_millis(400);
    host.register(config).unwrap();
    let process = pid(&host).await;
    let begin = Instant::now();
    let invocation = invoke(&host, json!({"do": "sleep", "ms": 60_000})).await;
    assert!(begin.elapsed() < Duration::from_secs(50));
    assert!(invocation.duration >= Duration::from_millis(400));
    assert_eq!(invocation.function_error.as_deref(), Some("Unhandled"));
    let message = format!("RequestId: {} Error: Task timed out after 0.40 seconds", invocation.request_id);
    assert_eq!(json(&invocation.payload), json!({"errorType": "Sandbox.Timedout", "errorMessage": message}));
    assert!(!alive(process));
    assert!(invocation.log_tail.contains("Task timed out after 0.40 seconds"));
    assert!(invocation.log_tail.contains("\tStatus: timeout\n"));
    assert!(invoke(&host, json!({})).await.cold);
}

#[tokio::test]
async fn crash_is_an_exit_error_and_the_next_event_is_served() {
    let host = host();
    for (event, reason) in [
        (json!({"do": "exit", "code": 3}), "Runtime exited with error: exit status 3"),
        (json!({"do": "exit", "code": 0}), "Runtime exited without providing a reason"),
        (json!({"do": "abort"}), "Runtime exited with error: signal: aborted"),
    ] {
        let invocation = invoke(&host, event).await;
        assert_eq!(invocation.function_error.as_deref(), Some("Unhandled"));
        let answer = json(&invocation.payload);
        assert_eq!(answer["errorType"], "Runtime.ExitError");
        let message = answer["errorMessage"].as_str().unwrap();
        let expected = format!("RequestId: {} Error: {reason}", invocation.request_id);
        assert!(message.starts_with(&expected), "{message}");
        assert!(invocation.log_tail.contains(&expected));
        assert!(invocation.log_tail.contains("\tStatus: error\tError Type: Runtime.ExitError\n"));
        assert_eq!(invoke(&host, json!({"a": 1})).await.payload, r#"{"a":1}"#);
    }
}

#[tokio::test]
async fn a_killed_function_is_answered_as_one_that_lambda_killed() {
    let host = host();
    let process = pid(&host).await;
    assert_eq!(host.kill_running("function"), 0, "an idle process runs nothing");
    let running = tokio::spawn({
        let host = host.clone();
        async move { invoke(&host, json!({"do": "sleep", "ms": 60_000})).await }
    });
    until("it runs", || logged(&host, "\"sleep\"")).await;
    assert_eq!(host.kill_running("function"), 1);
    let invocation = running.await.unwrap();
    let message = format!("RequestId: {} Error: Runtime exited with error: signal: killed", invocation.request_id);
    assert_eq!(json(&invocation.payload), json!({"errorType": "Runtime.ExitError", "errorMessage": message}));
    assert!(!alive(process));
    assert!(invoke(&host, json!({})).await.cold);
}

#[tokio::test]
async fn a_process_that_died_idle_fails_nobody() {
    let host = host();
    let process = pid(&host).await;
    let kill = std::process::Command::new("sh").args(["-c", &format!("kill -9 {process}")]).status().unwrap();
    assert!(kill.success());
    until("it is gone", || !alive(process)).await;
    let next = invoke(&host, json!({})).await;
    assert_eq!((next.cold, next.function_error), (true, None));
}

#[tokio::test]
async fn concurrent_events_get_a_process_each_and_both_stay_warm() {
    let host = host();
    let event = || invoke(&host, json!({"do": "sleep", "ms": 300}));
    let (one, two) = tokio::join!(event(), event());
    assert_ne!(one.payload, two.payload);
    assert!(one.cold && two.cold);
    let (three, four) = tokio::join!(event(), event());
    assert!(!three.cold && !four.cold);
    assert_ne!(three.payload, four.payload);
}

#[tokio::test]
async fn reserved_concurrency_refuses_further_events() {
    let host = host();
    host.set_reserved_concurrency("function", Some(1)).unwrap();
    let event = || host.invoke("function", Bytes::from_static(br#"{"do":"sleep","ms":300}"#));
    let (one, two) = tokio::join!(event(), event());
    assert!(one.is_ok());
    assert!(matches!(two, Err(InvokeError::TooManyRequests)));
    assert!(event().await.is_ok());
    host.set_environment("function", "A", "b").unwrap();
    let (_, two) = tokio::join!(event(), event());
    assert!(matches!(two, Err(InvokeError::TooManyRequests)), "the limit outlives a change of configuration");
    host.set_reserved_concurrency("function", Some(0)).unwrap();
    assert!(matches!(event().await, Err(InvokeError::TooManyRequests)));
}

#[tokio::test]
async fn errors_and_panics_are_passed_on_as_reported() {
    let host = host();
    let failed = invoke(&host, json!({"do": "fail"})).await;
    assert_eq!(failed.function_error.as_deref(), Some("Unhandled"));
    assert_eq!(json(&failed.payload)["errorMessage"], "it did not work");
    let panicked = invoke(&host, json!({"do": "panic"})).await;
    assert_eq!(panicked.function_error.as_deref(), Some("Unhandled"));
    let answer = json(&panicked.payload);
    assert!(answer["errorMessage"].as_str().unwrap().contains("it broke"));
    assert!(answer["errorType"].is_string());
    assert!(!invoke(&host, json!({})).await.cold, "the runtime caught both");
}

#[tokio::test]
async fn the_environment_is_lambdas_and_nothing_of_the_parents() {
    let host = LambdaHost::new();
    let mut config = config("function");
    config.environment = [("MINE", "1"), ("LANG", "C"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    config.memory_mb = 256;
    host.register(config).unwrap();
    let answer = json(&invoke(&host, json!({"do": "process"})).await.payload);
    let environment = answer["environment"].as_object().unwrap();
    let names: BTreeSet<&str> = environment.keys().map(String::as_str).collect();
    let expected = [
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "LANG",
        "LD_LIBRARY_PATH",
        "MINE",
        "PATH",
        "TZ",
        "_HANDLER",
        // Set by the runtime, from the header of the event.
        "_X_AMZN_TRACE_ID",
    ];
    assert_eq!(names, expected.into());
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_NAME"], "function");
    assert_eq!(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "256");
    assert_eq!(environment["AWS_LAMBDA_LOG_GROUP_NAME"], "/aws/lambda/function");
    assert_eq!(environment["AWS_REGION"], "us-east-1");
    assert_eq!(environment["LANG"], "C", "not reserved, so the function's own");
    assert_eq!(environment["LAMBDA_TASK_ROOT"], answer["directory"]);
    assert_eq!(answer["files"], json!(["bootstrap"]));
    let key = environment["AWS_ACCESS_KEY_ID"].as_str().unwrap();
    assert!(key.starts_with("ASIA") && key.len() == 20);
    host.set_environment("function", "MINE", "2").unwrap();
    assert_eq!(host.function_of_access_key(key).as_deref(), Some("function"), "the role is the same");
    assert_eq!(host.function_of_access_key("ASIAAAAAAAAAAAAAAAAA"), None);
}

#[tokio::test]
async fn the_context_tells_request_arn_deadline_and_trace() {
    let host = host();
    let invocation = invoke(&host, json!({"do": "process"})).await;
    let answer = json(&invocation.payload);
    assert_eq!(answer["request_id"], invocation.request_id);
    assert_eq!(answer["arn"], "arn:aws:lambda:us-east-1:000000000000:function:function");
    assert!(answer["trace"].as_str().unwrap().starts_with("Root=1-"));
    let now = Timestamp::now().as_millisecond();
    let left = answer["deadline"].as_i64().unwrap() - now;
    assert!((15_000..=20_000).contains(&left), "{left} ms of 20 s are left");
}

#[tokio::test]
async fn a_function_is_named_by_name_partial_arn_or_arn() {
    let host = host();
    for name in [
        "function",
        "function:$LATEST",
        "000000000000:function:function",
        "arn:aws:lambda:us-east-1:000000000000:function:function",
        "arn:aws:lambda:us-east-1:000000000000:function:function:$LATEST",
    ] {
        let invocation = host.invoke(name, Bytes::new()).await.unwrap();
        assert_eq!(invocation.payload, "{}", "an empty payload is an empty event");
    }
    for (name, arn) in [
        ("other", "arn:aws:lambda:us-east-1:000000000000:function:other"),
        ("function:live", "arn:aws:lambda:us-east-1:000000000000:function:function:live"),
        (
            "arn:aws:lambda:eu-west-1:000000000000:function:function",
            "arn:aws:lambda:eu-west-1:000000000000:function:function",
        ),
    ] {
        let error = host.invoke(name, Bytes::new()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("Function not found: {arn}"));
    }
    let error = host.invoke("a function", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, InvokeError::InvalidName(_)));
}

#[tokio::test]
async fn lines_of_the_function_stand_in_order_between_lambdas_own() {
    let host = host();
    let invocation = invoke(&host, json!({"do": "say", "lines": 2})).await;
    let id = &invocation.request_id;
    let logs = host.logs("function");
    let expected = [
        format!("START RequestId: {id} Version: $LATEST"),
        r#"event {"do":"say","lines":2}"#.to_owned(),
        "out 0".to_owned(),
        "err 0".to_owned(),
        "out 1".to_owned(),
        "err 1".to_owned(),
        "unfinished".to_owned(),
        format!("END RequestId: {id}"),
    ];
    assert_eq!(logs[..8], expected);
    let report = logs[8].split('\t').collect::<Vec<_>>();
    let [request, duration, billed, size, used, init] = report[..] else { panic!("{report:?}") };
    assert_eq!(request, format!("REPORT RequestId: {id}"));
    let number = |text: &str, name: &str, unit: &str| -> f64 {
        text.strip_prefix(name).unwrap().strip_suffix(unit).unwrap().parse().unwrap()
    };
    let duration = number(duration, "Duration: ", " ms");
    let init = number(init, "Init Duration: ", " ms");
    assert!((number(billed, "Billed Duration: ", " ms") - (duration + init)).abs() <= 1.0);
    assert_eq!(size, "Memory Size: 128 MB");
    assert!(number(used, "Max Memory Used: ", " MB") >= 1.0);
    assert_eq!(logs.len(), 9);
    assert_eq!(invocation.log_tail, logs.join("\n") + "\n");
}

#[tokio::test]
async fn tail_is_the_last_4_kb_and_the_log_has_every_line() {
    let host = host();
    // Far more than a pipe holds.
    let loud = invoke(&host, json!({"do": "say", "lines": 20_000})).await;
    assert_eq!(loud.log_tail.len(), 4096);
    assert!(loud.log_tail.contains("err 19999\nunfinished\nEND RequestId: "));
    let lines = host.logs("function");
    assert_eq!(lines.iter().filter(|line| line.starts_with("out ") || line.starts_with("err ")).count(), 40_000);
    let quiet = invoke(&host, json!({})).await;
    assert!(!quiet.log_tail.contains("err "));
}

#[tokio::test]
async fn lines_are_numbered_and_dated_by_the_clock_of_the_host() {
    let seconds = Arc::new(AtomicU64::new(100));
    let clock = seconds.clone();
    let host = LambdaHost::with_log_clock(move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst)));
    assert_eq!(host.log_events("function"), None);
    host.register(config("function")).unwrap();
    assert_eq!(host.log_events("function"), Some(vec![]));
    invoke(&host, json!({"do": "say", "lines": 1})).await;
    seconds.store(200, Ordering::SeqCst);
    // Also after the function has been replaced.
    host.set_environment("function", "A", "b").unwrap();
    invoke(&host, json!({})).await;
    let events = host.log_events("function").unwrap();
    let lines: Vec<String> = events.iter().map(|event| event.message.clone()).collect();
    assert_eq!(lines, host.logs("function"));
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let second = lines.iter().rposition(|line| line.starts_with("START")).unwrap();
    for (index, event) in events.iter().enumerate() {
        let expected = if index < second { 100 } else { 200 };
        assert_eq!(event.time, UNIX_EPOCH + Duration::from_secs(expected), "{}", event.message);
    }
}

#[tokio::test]
async fn a_failed_start_is_tried_again_and_then_fails_the_invocation() {
    let host = host();
    host.set_environment("function", "INIT", "exit").unwrap();
    let invocation = invoke(&host, json!({})).await;
    let id = &invocation.request_id;
    let message = format!("RequestId: {id} Error: Runtime exited with error: exit status 7");
    assert_eq!(json(&invocation.payload), json!({"errorType": "Runtime.ExitError", "errorMessage": message}));
    assert!(invocation.cold);
    let logs = host.logs("function");
    let phases: Vec<&str> = logs.iter().filter_map(|line| line.split_once("\tPhase: ")).map(|(_, rest)| rest).collect();
    let ending = "\tStatus: error\tError Type: Runtime.ExitError";
    assert_eq!(phases, [format!("init{ending}"), format!("invoke{ending}")]);
    assert_eq!(logs.iter().filter(|line| *line == "about to fail").count(), 2);
    assert_eq!(invocation.log_tail, logs.join("\n") + "\n");
}

#[tokio::test]
async fn a_start_that_failed_once_is_forgiven() {
    let folder = tempfile::tempdir().unwrap();
    let host = host();
    host.set_environment("function", "INIT", "exit").unwrap();
    host.set_environment("function", "INIT_ONCE", folder.path().join("marker").to_str().unwrap()).unwrap();
    let invocation = invoke(&host, json!({"a": 1})).await;
    assert_eq!((invocation.payload, invocation.function_error), (Bytes::from_static(br#"{"a":1}"#), None));
    assert!(invocation.cold && invocation.init_duration.is_none());
}

#[tokio::test]
async fn a_start_that_hangs_ends_with_the_time_of_the_invocation() {
    let host = LambdaHost::new();
    let mut config = config("function");
    config.environment = [("INIT".to_owned(), "hang".to_owned())].into();
    config.timeout = Duration::from_millis(300);
    host.register(config).unwrap();
    let begin = Instant::now();
    let invocation = invoke(&host, json!({})).await;
    assert_eq!(json(&invocation.payload)["errorType"], "Sandbox.Timedout");
    let elapsed = begin.elapsed().as_secs_f64();
    assert!((10.3..60.0).contains(&elapsed), "10 s to initialise, then the timeout: {elapsed} s");
    assert!(logged(&host, "\tPhase: init\tStatus: timeout"));
    assert_eq!(host.kill_running("function"), 0);
}

#[tokio::test]
async fn a_missing_or_unusable_executable_is_an_invalid_entrypoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("binary");
    let host = LambdaHost::new();
    let mut config = config("function");
    config.executable = path.clone();
    host.register(config).unwrap();
    let message = async || {
        let answer = json(&invoke(&host, json!({})).await.payload);
        assert_eq!(answer["errorType"], "Runtime.InvalidEntrypoint");
        answer["errorMessage"].as_str().unwrap().to_owned()
    };
    assert!(message().await.contains("Couldn't find valid bootstrap(s)"));
    std::fs::write(&path, "neither a program nor a script").unwrap();
    assert!(message().await.ends_with("permission denied"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(message().await.ends_with("exec format error"));
}

#[tokio::test]
async fn a_function_that_the_caller_gave_up_runs_on() {
    let host = host();
    give_up(&host, br#"{"do":"sleep","ms":500}"#, "\"sleep\"").await;
    until("it ended", || logged(&host, "END RequestId")).await;
    assert!(!logged(&host, "Status: "));
    assert!(!invoke(&host, json!({})).await.cold);
}

#[tokio::test]
async fn payloads_are_json_of_6_mb_at_most_in_both_directions() {
    let host = host();
    let error = host.invoke("function", Bytes::from_static(b"{")).await.unwrap_err();
    assert!(matches!(error, InvokeError::InvalidRequestContent(_)));
    let error = host.invoke("function", vec![b' '; MAX_PAYLOAD + 1].into()).await.unwrap_err();
    assert_eq!(error.to_string(), "Request must be smaller than 6291456 bytes for the InvokeFunction operation");
    assert!(host.logs("function").is_empty(), "the function saw neither");

    let whole = invoke(&host, json!({"do": "bytes", "count": MAX_PAYLOAD - 2})).await;
    assert_eq!((whole.payload.len(), whole.function_error), (MAX_PAYLOAD, None));
    let excess = invoke(&host, json!({"do": "bytes", "count": 6_291_556})).await;
    assert_eq!(excess.function_error.as_deref(), Some("Unhandled"));
    assert_eq!(json(&excess.payload)["errorType"], "Function.ResponseSizeTooLarge");
}

#[test]
fn what_lambda_refuses_to_configure_is_refused() {
    let host = LambdaHost::new();
    let refused = |change: &dyn Fn(&mut sandbox::lambda_host::FunctionConfig)| {
        let mut config = config("function");
        change(&mut config);
        host.register(config).unwrap_err()
    };
    let variable = |key: &'static str, value: String| {
        refused(&|config| {
            config.environment.insert(key.to_owned(), value.clone());
        })
    };
    let error = variable("AWS_REGION", "eu-west-1".to_owned());
    assert!(error.to_string().ends_with("Reserved keys used in this request: AWS_REGION"));
    assert!(matches!(variable("A", "x".repeat(4096)), ConfigurationError::EnvironmentTooLarge { measured: 4104 }));
    assert!(matches!(variable("A=B", String::new()), ConfigurationError::Variable(_)));
    assert!(matches!(variable("A", "\0".to_owned()), ConfigurationError::Variable(_)));
    assert!(matches!(refused(&|config| config.name = "a b".to_owned()), ConfigurationError::Name(_)));
    assert!(matches!(refused(&|config| config.timeout = Duration::ZERO), ConfigurationError::Timeout(_)));
    assert!(matches!(refused(&|config| config.timeout = Duration::from_secs(901)), ConfigurationError::Timeout(_)));
    assert!(matches!(refused(&|config| config.memory_mb = 127), ConfigurationError::Memory(127)));
    assert!(host.functions().is_empty());
    assert!(host.set_environment("function", "A", "b").unwrap_err().to_string().starts_with("Function not found"));
}
