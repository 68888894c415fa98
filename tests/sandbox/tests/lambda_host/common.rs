//! What the test files share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandbox::lambda_host::{FunctionConfig, Invocation, LambdaHost};
use serde_json::Value;

/// A binary built from `examples/`, which `cargo test` builds beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo build -p sandbox --examples", path.display());
    path
}

pub(crate) fn config(name: &str) -> FunctionConfig {
    FunctionConfig {
        name: name.to_owned(),
        executable: example("test-function"),
        environment: BTreeMap::new(),
        timeout: Duration::from_secs(20),
        memory_mb: 128,
    }
}

pub(crate) fn host() -> LambdaHost {
    let host = LambdaHost::new();
    host.register(config("function")).unwrap();
    host
}

pub(crate) async fn invoke(host: &LambdaHost, event: Value) -> Invocation {
    host.invoke("function", Bytes::from(event.to_string())).await.unwrap()
}

pub(crate) fn json(payload: &Bytes) -> Value {
    serde_json::from_slice(payload).unwrap()
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
