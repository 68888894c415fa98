//! No process outlives its host.

use super::*;

#[tokio::test]
async fn no_process_survives_the_last_handle_of_the_host() {
    let host = host();
    // An invocation of a configuration that has been replaced.
    give_up(&host, br#"{"do":"hold"}"#, "holding in ").await;
    let mut logs = host.logs("function").into_iter();
    let replaced: u64 = logs.find_map(|line| line.strip_prefix("holding in ")?.parse().ok()).unwrap();
    host.register(config("function")).unwrap();
    let (busy, idle) = {
        let event = || invoke(&host, json!({"do": "sleep", "ms": 200}));
        let (one, two) = tokio::join!(event(), event());
        (json(&one.payload).as_u64().unwrap(), json(&two.payload).as_u64().unwrap())
    };
    give_up(&host, br#"{"do":"sleep","ms":60000}"#, "60000").await;
    let all = [replaced, busy, idle];
    assert!(all.into_iter().all(alive));
    drop(host);
    until("all are gone", || !all.into_iter().any(alive)).await;
}

#[tokio::test]
async fn a_closed_host_runs_nothing() {
    let host = host();
    let process = pid(&host).await;
    host.close();
    until("the process is gone", || !alive(process)).await;
    let error = host.invoke("function", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, InvokeError::Closed));
}

#[test]
fn no_process_survives_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = host();
    let process = runtime.block_on(pid(&host));
    drop(runtime);
    drop(host);
    // Nobody is left to reap it.
    let another = tokio::runtime::Runtime::new().unwrap();
    another.block_on(until("the process has ended", || ended(process)));
}

#[tokio::test]
async fn no_process_survives_a_host_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = tokio::process::Command::new(example("test-host"))
        .env("TMPDIR", folder.path())
        .arg(example("test-function"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let process: u64 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    assert!(alive(process));
    host.kill().await.unwrap();
    until("the function's process has ended", || ended(process)).await;
}
