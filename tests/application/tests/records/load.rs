//! The load of records, which counts what is lost and what is unreadable.

use super::*;

/// A load through a balancer, and its seed in the output.
fn load(address: SocketAddr, seed: u64) -> RecordLoad {
    println!("seed {seed}");
    let workers = NonZeroU32::new(4).unwrap();
    RecordLoad::start(RecordLoadSettings { address, workers, rate: NonZeroU32::new(200).unwrap(), first: 0, seed })
}

/// Waits until the load has written so many more records.
async fn more(load: &RecordLoad, records: u64) {
    let target = load.report().written + records;
    tokio::time::timeout(Duration::from_secs(20), async {
        while load.report().written < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_record_is_unreadable_while_a_staged_key_becomes_primary() {
    for format in FORMATS {
        let fake = fake(&ring(format, 1, None, &[])).await;
        let database = Database::default();
        let settings = || KeySettings { reload_on_unknown_key: false, ..keys(format, &database) };
        let (a, b) = (fake.instance(with_keys("a", settings())).await, fake.instance(with_keys("b", settings())).await);
        let balancer = LoadBalancer::start(vec![a.address(), b.address()]).await.unwrap();
        let load = load(balancer.address(), rand::random());
        more(&load, 10).await;
        for (version, primary, staged, secondary) in
            [("k2", 1, Some(2), &[][..]), ("k3", 2, None, &[1]), ("k4", 2, Some(3), &[1]), ("k5", 3, None, &[2, 1])]
        {
            let value = ring(format, primary, staged, secondary);
            fake.keyring().put(version, &value, &["AWSPENDING"]);
            for instance in [&a, &b] {
                assert_eq!(refresh(instance, TOKEN).await.status, 200);
                more(&load, 5).await;
            }
            fake.keyring().move_stage("AWSCURRENT", Some(version));
            for instance in [&a, &b] {
                assert_eq!(refresh(instance, TOKEN).await.status, 200);
                more(&load, 5).await;
            }
        }
        let report = load.finish(&[a.address()]).await;
        assert!(report.written >= 90, "{format} {report:?}");
        let wrong = (report.unreadable, report.lost, report.failed);
        assert_eq!((wrong, report.first_failure.as_ref()), ((0, 0, 0), None), "{format}");
        // Each round reads two records and replaces what is in the second, except the first one of each worker. At last every
        // record was read once more.
        assert_eq!(report.refreshed, report.written - 4, "{format}");
        assert_eq!(report.read, 3 * report.written - 4, "{format}");
        for instance in [&a, &b] {
            let all = RecordLoad::read_all(instance.address(), &database).await.unwrap();
            assert_eq!(all, RecordReport { read: report.written, ..RecordReport::default() }, "{format}");
        }
    }
}

#[tokio::test]
async fn load_sees_records_unreadable_when_the_only_key_is_replaced() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let settings = || KeySettings { mode: KeyMode::NameOnly, ..without_reload(&database) };
    let (a, b) = (fake.instance(with_keys("a", settings())).await, fake.instance(with_keys("b", settings())).await);
    let balancer = LoadBalancer::start(vec![a.address(), b.address()]).await.unwrap();
    let load = load(balancer.address(), rand::random());
    more(&load, 10).await;
    assert_eq!(load.report().unreadable, 0);
    fake.keyring().put("k2", &raw(2, None, &[1]), &["AWSCURRENT"]);
    assert_eq!(refresh(&a, TOKEN).await.status, 200);
    more(&load, 20).await;
    let report = load.stop().await;
    assert!(report.unreadable > 0, "{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.first_failure.as_ref().unwrap().ends_with(": unreadable"), "{report:?}");
    let (all_a, all_b) =
        (RecordLoad::read_all(a.address(), &database).await, RecordLoad::read_all(b.address(), &database).await);
    let (all_a, all_b) = (all_a.unwrap(), all_b.unwrap());
    assert!(all_a.unreadable > 0 && all_b.unreadable > 0, "{all_a:?} {all_b:?}");
    // Each record was written under one of the two keys.
    assert_eq!(all_a.unreadable + all_b.unreadable, report.written);
}

#[tokio::test]
async fn load_counts_other_plaintext_as_unreadable_and_loss_as_failed() {
    use axum::Router;
    use axum::routing::{get, post};

    // An application that mixes its records up, and one that loses them.
    for (answer, unreadable) in [(StatusCode::OK, true), (StatusCode::NOT_FOUND, false)] {
        let application = Router::new()
            .route("/records", post(|| async { (StatusCode::CREATED, r#"{"id":"1"}"#) }))
            .route("/records/1", get(move || async move { (answer, "another record altogether") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, application).await.unwrap() });
        let load = load(address, 7);
        more(&load, 40).await;
        let report = load.stop().await;
        assert_eq!(report.read, 0, "{report:?}");
        let (counted, other) =
            if unreadable { (report.unreadable, report.failed) } else { (report.failed, report.unreadable) };
        assert_eq!((counted, other), (2 * report.written - 4, 0), "{report:?}");
        assert!(report.first_failure.is_some());
        server.abort();
    }
}

#[tokio::test]
async fn load_counts_a_lost_update_while_it_works_and_at_its_end() {
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::Path;
    use axum::routing::{get, post};
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    // An application that says it has replaced what is in a record, and has not.
    let records: Arc<Mutex<BTreeMap<usize, Bytes>>> = Arc::default();
    let stored = Arc::clone(&records);
    let write = post(move |body: Bytes| async move {
        let mut stored = stored.lock().unwrap();
        let id = stored.len();
        stored.insert(id, body);
        (StatusCode::CREATED, json!({ "id": id.to_string() }).to_string())
    });
    let read = get(move |Path(id): Path<usize>| async move { records.lock().unwrap()[&id].clone() });
    let application =
        Router::new().route("/records", write).route("/records/{id}", read.put(|| async { StatusCode::NO_CONTENT }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, application).await.unwrap() });
    let load = load(address, 7);
    more(&load, 40).await;
    let before = load.report();
    let report = load.finish(&[address]).await;
    assert!(before.lost > 0 && report.refreshed > 0, "{before:?}");
    assert!(report.lost > before.lost, "{report:?}");
    assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
    assert!(report.first_failure.unwrap().ends_with("a plaintext that was replaced"));
    server.abort();
}

#[tokio::test]
async fn a_load_that_finds_nobody_counts_failures_and_says_the_first() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let load = load(closed, 7);
    tokio::time::timeout(Duration::from_secs(20), async {
        while load.report().failed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let report = load.stop().await;
    assert_eq!((report.written, report.read, report.unreadable), (0, 0, 0));
    assert!(report.first_failure.is_some());
    let database = Database::default();
    stored(&database, "x").await;
    assert_eq!(RecordLoad::read_all(closed, &database).await.unwrap().failed, 1);
}
