//! Four layouts without a key that stands twice.

use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use application::{
    Connections, Instance, InstanceSettings, Load, LoadSettings, Mode, SecretReference, ServiceClock, TOKEN_HEADER,
    TokenSource,
};
use axum::routing::post;
use axum::{Json, Router};
use end_to_end::{get, program};
use http::HeaderValue;
use sandbox::{ServiceDeclaration, secret};
use serde_json::{Value, json};

use super::page::Section;
use super::team::{QUARTER, Team};

/// Longer than a rolling deployment takes.
const DEPLOYED: Duration = Duration::from_secs(600);
/// The period of the signing keys.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The addresses of the example that stand for the application.
const EXAMPLE: &str = "https://api.example.com";

/// An application that reads `AWSCURRENT` only.
async fn reader(team: &Team, name: &str) -> Instance {
    let secret = SecretReference { id: name.to_owned(), field: None };
    let mut settings = InstanceSettings::new(HeaderValue::from_static("instance-1"), secret);
    settings.mode = Mode::CurrentOnly;
    Instance::start(settings, team.client.clone(), ServiceClock::default().clock()).await.unwrap()
}

/// Whether the application accepts a token.
async fn accepts(reader: &Instance, token: &str) -> bool {
    get(&format!("http://{}/admin/jobs", reader.address()), token).await.unwrap().is_success()
}

const STATE: &str = "instagram-demo/prod/oauth-state";
const STATE_MEMBER: &str = "OAUTH_STATE_SECRET";

/// Clients that sign with the member that is current.
async fn signers(team: &Team) -> Load {
    let address = team.sandbox.ecs().service("demo/web").unwrap().address;
    let secret = SecretReference { id: STATE.to_owned(), field: Some(STATE_MEMBER.to_owned()) };
    let clock = ServiceClock::default().clock();
    let [workers, rate] = [2, 10].map(|number| NonZeroU32::new(number).unwrap());
    let settings = LoadSettings {
        url: format!("http://{address}/admin/jobs").parse().unwrap(),
        header: TOKEN_HEADER,
        tokens: TokenSource::current(team.client.clone(), &secret, Duration::from_millis(200), clock),
        workers,
        rate,
        connections: Connections::PerRequest,
    };
    Load::start(settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_read_at_start_are_adopted_without_refusal() {
    const DELIVER: &str = "instagram-demo-prod-deliver";
    let (team, first) = (Team::new().await, "a-secret-that-signs-the-state.0123456789");
    for (name, value) in [
        (STATE_MEMBER, first),
        ("APP_ID", "1000000000000001"),
        ("APP_SECRET", "the first secret of the app"),
        ("VERIFY_TOKEN", "a token of a webhook"),
        ("OAUTH_REDIRECT_URI", "https://demo.example.com/callback"),
        ("SCOPES", "instagram_basic"),
    ] {
        team.has(&format!("instagram-demo/prod/{name}"), value).await;
    }
    let mut section = Section::of("One secret per value, read at start");
    team.types(&section.commands()).await;
    assert_eq!(team.members(STATE).await, json!({ STATE_MEMBER: first }));
    let service = ServiceDeclaration::new("demo", "web", program("application").await.unwrap())
        .with_variable("FIELD", STATE_MEMBER)
        .with_variable("LOG_LEVEL", "error")
        .with_secret("SECRET_JSON", &secret(STATE))
        .with_secret("APP_SECRET", &secret("instagram-demo/prod/APP_SECRET"));
    team.sandbox.ecs().run(service).await.unwrap();
    team.deploys(&section.parameters()).await;
    let load = signers(&team).await;

    team.types(&section.commands()).await;
    team.rotated(STATE).await;
    team.uses_none_of(&["instagram-demo/prod/admin-token", "instagram-demo/prod/encryption-key"]).await;
    team.types(&section.commands()).await;
    team.until_delivered(DELIVER, &[STATE]).await;
    assert!(team.types(&section.commands()).await.contains("ROTATION-DELIVERED"));
    team.rotated(STATE).await;
    let staged = team.members(STATE).await;
    assert_eq!(staged[STATE_MEMBER], first, "the first rotation changes nothing that is in use");
    team.until_delivered(DELIVER, &[STATE]).await;
    team.advances(QUARTER).await;
    team.rotated(STATE).await;
    let promoted = team.members(STATE).await;
    assert_eq!(promoted[STATE_MEMBER], staged["OAUTH_STATE_SECRET_NEXT"]);
    assert_eq!(promoted["OAUTH_STATE_SECRET_PREVIOUS"], first);
    team.until_delivered(DELIVER, &[STATE]).await;
    let report = load.stop().await;
    assert_eq!((report.refused, report.failed), (0, 0), "{report:?}");
    assert!(report.accepted > 20, "{report:?}");

    by_hand(&team, &mut section).await;
    section.ends();
}

/// What a person rotates in the provider's portal.
async fn by_hand(team: &Team, section: &mut Section) {
    const APP_SECRET: &str = "instagram-demo/prod/APP_SECRET";
    team.has_file("new-secret.txt", "the second secret of the app\n");
    let before = team.sandbox.ecs().deployments("demo/web").unwrap().len();
    team.types(&section.commands()).await;
    team.advances(DEPLOYED).await;
    assert_eq!(team.value(APP_SECRET).await, "the second secret of the app");
    let service = team.sandbox.ecs().service("demo/web").unwrap();
    assert_eq!(service.deployments.len(), before + 1);
    assert_eq!(service.deployments.last(), Some(&"SUCCESSFUL"), "{service:?}");
    let due =
        async || team.invokes("instagram-demo-prod-sweep", &json!({ "action": "sweep" })).await["dueByHand"].clone();
    assert_eq!(due().await, json!([]));
    team.advances(QUARTER + DEPLOYED).await;
    assert_eq!(due().await, json!([APP_SECRET]));
}

/// Answers GetParameter with this value. The sandbox has no Parameter Store, and no stand-in could prove what AWS
/// answers to the name of a reference: the test reads the secret itself.
async fn parameter_store(value: &'static str) -> String {
    let answer = async move |Json(request): Json<Value>| {
        assert_eq!(request["WithDecryption"], true);
        let parameter = json!({ "Name": request["Name"], "Type": "SecureString", "Value": value });
        Json(json!({ "Parameter": parameter }))
    };
    // The CLI says application/x-amz-json-1.1.
    let json = async |mut request: axum::extract::Request, next: axum::middleware::Next| {
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        next.run(request).await
    };
    let routes = Router::new().route("/", post(answer)).layer(axum::middleware::from_fn(json));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn parameter_becomes_a_secret_that_rotates() {
    const TOKEN: &str = "shop/production/partner-token";
    let (mut team, first) = (Team::new().await, "a-token-of-a-partner.0123456789");
    team.parameter_store = Some(parameter_store(first).await);
    let mut section = Section::of("Parameter Store");
    team.types(&section.commands()).await;
    assert_eq!(team.value(TOKEN).await, first, "byte for byte");
    // A client of the reference reads AWSCURRENT only, as this one does.
    let reader = reader(&team, TOKEN).await;
    let url = |path: &str| format!("http://{}/admin/{path}", reader.address());
    let (verify, refresh) = (url("secrets/health"), url("refresh-secrets"));
    let stack = [("Application", "shop"), ("Environment", "production"), ("TargetVerifyUrl", &verify)];
    let stack = stack.into_iter().chain([("TargetRefreshUrl", refresh.as_str())]);
    team.deploys(&stack.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()).await;
    team.types(&section.commands()).await;
    team.rotated(TOKEN).await;
    team.types(&section.commands()).await;
    team.rotated(TOKEN).await;
    section.ends();
    let now = team.value(TOKEN).await;
    assert!(now != first && accepts(&reader, &now).await && !accepts(&reader, first).await);
}

/// A function that restarts a service: `pending` when it hears of a version for the first time, then `done`.
const RESTART: &str = r#"#!/usr/bin/env python3
import json, os, urllib.request

runtime = "http://%s/2018-06-01/runtime/invocation" % os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    with urllib.request.urlopen(runtime + "/next") as response:
        id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    with open(os.environ["RESTARTS"], "a+") as restarts:
        restarts.seek(0)
        done = event["version_id"] in restarts.read().split()
        restarts.write(event["version_id"] + "\n")
    answer = {"status": "done"} if done else {"status": "pending", "reason": "the service restarts"}
    urllib.request.urlopen("%s/%s/response" % (runtime, id), json.dumps(answer).encode())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_signing_keys_of_one_secret_rotate_apart() {
    const DELIVER: &str = "imip-production-deliver";
    const KEYS: [(&str, &str); 2] =
        [("imip/production/secret-key", "SECRET_KEY"), ("imip/production/refresh-secret-key", "REFRESH_SECRET_KEY")];
    const APP: &str = "imip/production/app";
    const OTHERS: &str = "\"MONGO_URI\":\"mongodb+srv:\\/\\/db.internal\",  \"OPENAI_API_KEY\" : \"sk-dummy\"";
    let (team, folder) = (Team::new().await, tempfile::tempdir().unwrap());
    let first = format!(
        "{{\"SECRET_KEY\": \"{:0<40}\", \"REFRESH_SECRET_KEY\": \"{:1<40}\", {OTHERS}}}",
        "signs-", "refreshes-"
    );
    team.has("imip/production", &first).await;
    let [restart, restarts] = ["restart-imip", "restarts"].map(|name| folder.path().join(name));
    std::fs::write(&restart, RESTART).unwrap();
    std::fs::set_permissions(&restart, PermissionsExt::from_mode(0o755)).unwrap();
    let environment = [("RESTARTS".to_owned(), restarts.display().to_string())];
    team.sandbox.register_function("restart-imip", restart, environment).unwrap();

    let mut section = Section::of("One JSON secret with two signing keys");
    team.types(&section.commands()).await;
    team.types(&section.commands()).await;
    team.deploys(&section.parameters()).await;
    team.types(&section.commands()).await;
    let secrets = KEYS.map(|(name, _)| name);
    for name in secrets {
        team.rotated(name).await;
    }
    team.uses_none_of(&["imip/production/admin-token", "imip/production/encryption-key"]).await;
    team.until_delivered(DELIVER, &secrets).await;
    assert_eq!(team.value(APP).await.trim_end(), first, "the copies are equal already");
    team.types(&section.commands()).await;
    section.ends();
    let rotated = async || {
        for name in secrets {
            team.rotated(name).await;
        }
        team.until_delivered(DELIVER, &secrets).await;
    };
    rotated().await;
    // The first rotation stages the next keys, and the schedule makes them current.
    let staged = [team.members(KEYS[0].0).await, team.members(KEYS[1].0).await];
    team.advances(MONTH).await;
    rotated().await;
    let (app, was) = (team.value(APP).await, serde_json::from_str::<Value>(&first).unwrap());
    assert!(app.contains(OTHERS), "{app}");
    let app: Value = serde_json::from_str(&app).unwrap();
    for ((name, member), staged) in KEYS.into_iter().zip(staged) {
        assert_eq!(app[member], staged[format!("{member}_NEXT")]);
        assert_eq!(app[format!("{member}_PREVIOUS")], was[member]);
        let source = team.members(name).await;
        let own = source.as_object().unwrap().iter();
        assert!(own.clone().count() >= 4 && own.into_iter().all(|(member, value)| app[member] == *value), "{name}");
    }
    assert!(std::fs::read_to_string(restarts).unwrap().lines().count() >= 2 * 3 * secrets.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_secret_rotates_in_the_words_of_the_teams_scripts() {
    const TOKEN: &str = "whatsapp-saas/mvp/admin-token";
    let (mut team, first) = (Team::new().await, "0123456789abcdef".repeat(4));
    for (name, value) in
        [("admin-token", first.as_str()), ("meta-app-secret", "a-secret"), ("openai-api-key", "sk-dummy")]
    {
        team.has(&format!("whatsapp-saas/mvp/{name}"), value).await;
    }
    let reader = reader(&team, TOKEN).await;
    team.replaced.push((EXAMPLE, format!("http://{}", reader.address())));
    let mut section = Section::of("One secret per value, cached for an hour");
    let arn = team.types(&section.commands()).await;
    assert!(arn.trim_end().starts_with("arn:aws:secretsmanager:") && arn.contains(TOKEN), "{arn}");
    team.deploys(&section.parameters()).await;
    team.types(&section.commands()).await;
    team.rotated(TOKEN).await;
    assert_eq!(team.value(TOKEN).await, first, "nothing is rotated yet");
    let printed = team.types(&section.commands()).await;
    assert!(printed.contains("finishSecret done"), "{printed}");
    let second = team.value(TOKEN).await;
    assert!(second != first && accepts(&reader, &second).await);
    team.uses_none_of(&["whatsapp-saas/mvp/encryption-key"]).await;

    team.types(&section.commands()).await;
    section.ends();
    assert_eq!(team.value(TOKEN).await, first);
    assert!(accepts(&reader, &first).await);
}
