//! The load and the load balancer: they count what happens, and see what a rotation does to an application.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use application::{
    Connections, Instance, Load, LoadBalancer, LoadSettings, Mode, SecretReference, ServiceClock, TOKEN_HEADER,
    TokenSource,
};
use axum::http::Method;
use support::*;

fn secret() -> SecretReference {
    SecretReference { id: SECRET.to_owned(), field: None }
}

fn load(address: std::net::SocketAddr, tokens: TokenSource) -> LoadSettings {
    LoadSettings {
        url: format!("http://{address}/admin/jobs").parse().unwrap(),
        header: TOKEN_HEADER,
        tokens,
        workers: NonZeroU32::new(4).unwrap(),
        rate: NonZeroU32::new(100).unwrap(),
        connections: Connections::PerRequest,
    }
}

fn following(fake: &FakeSecretsManager) -> TokenSource {
    TokenSource::current(fake.client(), &secret(), Duration::from_millis(50), ServiceClock::default().clock())
}

/// What a rotation does, with everything that the application is told about it.
async fn rotate(fake: &FakeSecretsManager, instances: &[&Instance]) {
    fake.put("v2", "two", &["AWSPENDING"]);
    for instance in instances {
        assert_eq!(refresh(instance, "one").await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.move_stage("AWSPREVIOUS", Some("v1"));
    fake.move_stage("AWSCURRENT", Some("v2"));
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn no_client_is_refused_by_a_reader_of_all_stages() {
    let fake = FakeSecretsManager::with_current("one").await;
    let (a, b) = (fake.instance(text_secret("a")).await, fake.instance(text_secret("b")).await);
    let balancer = LoadBalancer::start(vec![a.address(), b.address()]).await.unwrap();
    let kept = TokenSource::kept(fake.client(), &secret());
    let follower = Load::start(load(balancer.address(), following(&fake))).await.unwrap();
    let keeper = Load::start(load(balancer.address(), kept)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    rotate(&fake, &[&a, &b]).await;

    let follower = follower.stop().await;
    assert!(follower.sent > 50, "{follower:?}");
    assert_eq!(follower.accepted, follower.sent, "{follower:?}");
    assert!(follower.refusals.is_empty());
    let during = keeper.report();
    assert_eq!(during.accepted, during.sent, "{during:?}");

    // The end of the overlap ends it for the client that never read the new token.
    fake.move_stage("AWSPREVIOUS", None);
    for instance in [&a, &b] {
        assert_eq!(refresh(instance, "two").await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let keeper = keeper.stop().await;
    assert!(keeper.refused > 0 && keeper.failed == 0, "{keeper:?}");
    assert_eq!(keeper.sent, keeper.accepted + keeper.refused);
    let [window] = keeper.refusals.as_slice() else {
        panic!("{keeper:?}");
    };
    assert_eq!(window.refused, keeper.refused);
}

#[tokio::test]
async fn window_of_a_reader_of_current_only_is_measured() {
    let fake = FakeSecretsManager::with_current("one").await;
    let mut settings = text_secret("a");
    settings.mode = Mode::CurrentOnly;
    let instance = fake.instance(settings).await;
    let load = Load::start(load(instance.address(), following(&fake))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Promotes, and leaves the application alone for 0.3 s.
    rotate(&fake, &[]).await;
    assert_eq!(refresh(&instance, "one").await.status, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = load.stop().await;

    assert!(report.accepted > 0 && report.refused > 0, "{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    let [window] = report.refusals.as_slice() else {
        panic!("{report:?}");
    };
    let duration = window.duration();
    assert!((Duration::from_millis(50)..Duration::from_secs(2)).contains(&duration), "{duration:?}");
}

#[tokio::test]
async fn a_load_that_finds_nobody_counts_failures_and_says_the_first() {
    let fake = FakeSecretsManager::with_current("one").await;
    let instance = fake.instance(text_secret("a")).await;
    let mut settings = load(instance.address(), following(&fake));
    settings.url = format!("http://{}/nowhere", instance.address()).parse().unwrap();
    settings.connections = Connections::Kept;
    let load = Load::start(settings).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let report = load.stop().await;
    assert!(report.sent > 0);
    assert_eq!(report.failed, report.sent);
    assert_eq!(report.first_failure.as_deref(), Some("404 Not Found"));
    assert!(report.slowest > Duration::ZERO);
}

#[tokio::test]
async fn a_load_keeps_to_its_rate() {
    let fake = FakeSecretsManager::with_current("one").await;
    let instance = fake.instance(text_secret("a")).await;
    let load = Load::start(load(instance.address(), following(&fake))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = load.stop().await;
    assert!((30..=110).contains(&report.sent), "{report:?}");
}

#[tokio::test]
async fn a_load_without_a_first_token_does_not_start() {
    let fake = FakeSecretsManager::start().await;
    let instance = fake.instance(text_secret("a")).await;
    let error = Load::start(load(instance.address(), following(&fake))).await.err().unwrap();
    assert_eq!(error, application::LoadError::NoCurrentValue);
}

#[tokio::test]
async fn connections_take_turns_and_skip_backends_that_are_gone() {
    let fake = FakeSecretsManager::with_current("one").await;
    let (a, b) = (fake.instance(text_secret("a")).await, fake.instance(text_secret("b")).await);
    let balancer = LoadBalancer::start(vec![a.address()]).await.unwrap();
    let served = async |requests: usize| {
        let mut served = String::new();
        for _ in 0..requests {
            let answer = send(balancer.address(), Method::GET, "/healthz", None).await;
            served += answer.headers["x-instance-id"].to_str().unwrap();
        }
        served
    };
    assert_eq!(served(2).await, "aa");
    balancer.add(b.address());
    balancer.add(b.address());
    assert_eq!(balancer.backends(), [a.address(), b.address()]);
    let both = served(4).await;
    assert!(both == "abab" || both == "baba", "{both}");

    assert!(balancer.remove(a.address()));
    assert!(!balancer.remove(a.address()));
    assert_eq!(served(3).await, "bbb");

    balancer.add(a.address());
    b.stop().await;
    assert_eq!(served(3).await, "aaa");
}

#[tokio::test]
async fn a_balancer_that_is_dropped_takes_its_connections_with_it() {
    use tokio::io::AsyncReadExt;

    let fake = FakeSecretsManager::with_current("one").await;
    let instance = fake.instance(text_secret("a")).await;
    let balancer = LoadBalancer::start(vec![instance.address()]).await.unwrap();
    let address = balancer.address();
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(balancer);
    let ended = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
