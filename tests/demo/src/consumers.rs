//! Consumers: two services that read their environment when they start. A staged token and a shared key reach them by
//! deployments; then the circuit breaker rolls one of them back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use application::{Load, LoadReport, RecordLoad};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::connections::Connections;
use end_to_end::postgres::Postgres;
use end_to_end::{
    DELIVER, FIELD, FUNCTION, Failure, KEY_FIELD, KEY_FUNCTION, KEY_SECRET, OPERATE, Plan, ROTATION_TIMEOUT, SECRET,
    Scene,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::keyring::KeyMaterial;
use sandbox::{RotationOutcome, ServiceDeclaration, secret};
use serde_json::{Value, json};

use crate::keys::{aws_tag, succeeded};
use crate::shell::{Shell, repair};
use crate::stage::{Output, Viewer};
use crate::{DAY, HOUR, check};

const WEB: &str = "shop/web";
const WORKER: &str = "shop/worker";
/// The secrets with a copy of the key, which the services of the same names read.
const COPIES: [&str; 2] = ["shop/production/app", "shop/production/worker"];
/// A member of the copies that nobody rotates, in a layout that no program writes.
const OTHER: &str = "\"LIMITS\" : [1.0, 2e3,  null]";
/// How often fresh clients read the secret again.
const CLIENT_CACHE: Duration = Duration::from_millis(200);

/// The programs of the act.
pub(crate) struct Programs {
    pub(crate) admin_token: PathBuf,
    pub(crate) encryption_key: PathBuf,
    pub(crate) operate: PathBuf,
    pub(crate) application: PathBuf,
}

pub(crate) async fn perform(out: &Output, programs: Programs) -> Result<(), Failure> {
    let started = Instant::now();
    let server = tokio::task::spawn_blocking(|| Postgres::start(&[])).await??;
    let connections = Connections::create(&server).await?;
    out.title("Consumers: two ECS services read a token and a key when they start, and never again");
    let scene = scene(programs, &connections.application_url()).await?;
    let viewer = Viewer::new(&scene.sandbox, out.clone());
    let mut act = Act { out, scene: &scene, viewer, secrets: BTreeSet::new(), deliveries: 0 };
    act.deliver_first().await?;

    let mut load = Loads {
        fresh: scene.load(scene.fresh_clients(CLIENT_CACHE), 40).await?,
        stale: scene.load(scene.stale_clients(), 20).await?,
        records: scene.records(20, 1),
        ended: 0,
        told: 0,
    };
    act.rotate_twice(&mut load).await?;
    act.end_overlap(&mut load).await?;
    act.roll_back(&mut load).await?;
    act.diagnose_and_repair(&mut load).await?;
    act.result(load, started).await
}

/// The secrets, the services, and the functions beside the one that rotates the token.
async fn scene(programs: Programs, database: &str) -> Result<Scene, Failure> {
    let mut rng = StdRng::try_from_os_rng()?;
    let [token, key] = [(); 2].map(|()| STANDARD.encode(KeyMaterial::generate(&mut rng).expose()));
    let mut plan = Plan { instances: 0, ..Plan::json(&format!("{{ \"{FIELD}\": \"{token}\", \"port\": 8080 }}")) };
    plan.executable = Some(programs.admin_token);
    plan.tags.push(("rotation:promotion", "staged"));
    plan.sandbox.rotation_attempts = 1;
    let mut plan = plan.also(KEY_SECRET, &format!("{{ \"{KEY_FIELD}\": \"{key}\" }}"));
    for (id, copy) in [WEB, WORKER].into_iter().zip(COPIES) {
        plan = plan.also(copy, &format!("{{ \"{KEY_FIELD}\": \"{key}\", {OTHER} }}"));
        plan = plan.service(service(id, copy, &programs.application, database));
    }
    let [app, worker] = COPIES.map(|name| json!({ "copy": unprefixed(name) }));
    let services = [json!({ "ecs": WEB }), json!({ "ecs": WORKER })];
    let [web_service, worker_service] = &services;
    let plan = plan.consumers(json!({
        (unprefixed(SECRET)): services,
        (unprefixed(KEY_SECRET)): [app, worker, web_service, worker_service],
    }));
    let scene = Scene::start(plan).await?.with_operator_at(programs.operate, &[])?;
    let scene = scene.with_function(KEY_FUNCTION, programs.encryption_key, &[("CONSUMERS_KEYRING_AWARE", "true")])?;
    let tag = aws_tag("rotation:field", KEY_FIELD);
    scene.client.tag_resource().secret_id(KEY_SECRET).tags(tag).send().await?;
    for id in [WEB, WORKER] {
        scene.balancer.add(scene.service(id)?.address);
    }
    Ok(scene)
}

fn unprefixed(name: &str) -> &str {
    name.strip_prefix(end_to_end::PREFIX).unwrap_or(name)
}

/// Two tasks of the sample application, which reads both secrets when it starts.
fn service(id: &str, copy: &str, application: &Path, database: &str) -> ServiceDeclaration {
    let (cluster, name) = id.split_once('/').unwrap_or((id, id));
    ServiceDeclaration::new(cluster, name, application.to_path_buf())
        .with_secret("SECRET_JSON", &secret(SECRET))
        .with_secret("KEYRING_JSON", &secret(copy))
        .with_variable("FIELD", FIELD)
        .with_variable("KEYRING_FIELD", KEY_FIELD)
        .with_variable("DATABASE_URL", database)
}

/// Both services under load, through one address in front of them.
struct Loads {
    fresh: Load,
    /// Clients that keep the token that was current before the last promotion.
    stale: Load,
    records: RecordLoad,
    /// The requests of clients that have ended.
    ended: u64,
    /// The requests that were printed already.
    told: u64,
}

impl Loads {
    /// Checks how all clients have fared since the last time.
    async fn served(&mut self, out: &Output) -> Result<(), Failure> {
        tokio::time::sleep(2 * CLIENT_CACHE).await;
        let sent = self.ended + served(&self.fresh.report())? + served(&self.stale.report())?;
        let records = self.records.report();
        if let Some(failure) = records.first_failure {
            return Err(format!("a record: {failure}").into());
        }
        check(sent > self.told && records.read > 0, "requests were sent meanwhile")?;
        out.detail(&format!(
            "  {} requests with the current and an earlier token: 0 refused; {} records written so far, 0 unreadable",
            sent - self.told,
            records.written
        ));
        self.told = sent;
        Ok(())
    }
}

/// Checks that every request was answered and none was refused. Returns their number.
fn served(report: &LoadReport) -> Result<u64, Failure> {
    check(report.refused == 0, "no authorised request is refused")?;
    match &report.first_failure {
        Some(failure) => Err(format!("{} requests failed, the first: {failure}", report.failed).into()),
        None => Ok(report.sent),
    }
}

/// The services on their stage.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    /// Every token and key so far.
    secrets: BTreeSet<String>,
    /// How often each service was deployed to deliver a value.
    deliveries: usize,
}

impl Act<'_> {
    async fn deliver_first(&mut self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        for (name, function) in [(SECRET, FUNCTION), (KEY_SECRET, KEY_FUNCTION)] {
            let rules = aws_sdk_secretsmanager::types::RotationRulesType::builder().automatically_after_days(90);
            let request = scene.client.rotate_secret().secret_id(name).rotation_lambda_arn(arn(function));
            request.rotation_rules(rules.build()).rotate_immediately(false).send().await?;
            let tested = self.viewer.during(scene.sandbox.wait_for_rotation(name, ROTATION_TIMEOUT)).await?;
            check(matches!(tested, RotationOutcome::TestSucceeded { .. }), "the configuration test succeeds")?;
        }
        self.remember().await?;
        self.deliver().await?;
        let calls = scene.sandbox.calls_of(DELIVER);
        check(!calls.contains_key("PutSecretValue"), "copies that are equal already are not written")?;
        out.line("  shop/web and shop/worker, two tasks each. The key is a secret of its own, and copied into the secret of each");
        out.line("  first run of deliver: both copies are equal; each service was deployed once, as a proof");
        Ok(())
    }

    async fn rotate_twice(&mut self, load: &mut Loads) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        for (title, promoted) in [
            ("The token and the key are rotated: the next ones are staged, and nobody uses them yet", false),
            ("Both are rotated again: what is staged becomes current; every task has it already", true),
        ] {
            out.title(title);
            let mut expected = Vec::new();
            for (name, field, suffix) in [(SECRET, FIELD, "NEXT"), (KEY_SECRET, KEY_FIELD, "STAGED")] {
                let field_before = if promoted { format!("{field}_{suffix}") } else { field.to_owned() };
                expected.push((name, field, member(scene, name, &field_before).await?));
                succeeded(&self.rotate(name).await?)?;
            }
            for (name, field, value) in expected {
                check(
                    member(scene, name, field).await? == value,
                    "the staged value is promoted by the second rotation",
                )?;
            }
            self.deliver().await?;
            for id in [WEB, WORKER] {
                check(knows_next(scene, id).await? == [true, true], "every task accepts the next token")?;
            }
            out.line(
                "  deliver: both copies written; each service deployed once for token and key together; both delivered",
            );
            load.served(out).await?;
        }
        Ok(())
    }

    /// Rotates on demand, and prints the rotation.
    async fn rotate(&mut self, name: &str) -> Result<RotationOutcome, Failure> {
        let scene = self.scene;
        let function = if name == SECRET { FUNCTION } else { KEY_FUNCTION };
        let rotating = async {
            scene.client.rotate_secret().secret_id(name).rotation_lambda_arn(arn(function)).send().await?;
            Ok::<_, Failure>(scene.sandbox.wait_for_rotation(name, ROTATION_TIMEOUT).await?)
        };
        let outcome = self.viewer.during(rotating).await?;
        self.remember().await?;
        Ok(outcome)
    }

    /// Lets time pass until events and the hourly schedule have delivered both secrets.
    async fn deliver(&mut self) -> Result<(), Failure> {
        let scene = self.scene;
        pass(scene, 3 * HOUR).await?;
        self.deliveries += 1;
        let plan = run_deliver(scene, &json!({ "dry_run": true })).await?;
        check(plan["delivered"] == 2, "both secrets are delivered")?;
        for id in [WEB, WORKER] {
            let deployed = deployments(scene, id, "SUCCESSFUL")?;
            check(deployed == 1 + self.deliveries, "one deployment of each service delivers both secrets")?;
        }
        let source = members(scene, KEY_SECRET).await?;
        for name in COPIES {
            let copy = members(scene, name).await?;
            let equal = source.iter().all(|(name, value)| copy.get(name) == Some(value));
            check(equal, "the copy has the key's members")?;
            check(
                value(scene, name).await?.contains(OTHER),
                "the copy's other members are byte for byte as they were",
            )?;
        }
        Ok(())
    }

    /// Begins with clients that have the token of now.
    async fn end_overlap(&mut self, load: &mut Loads) -> Result<(), Failure> {
        let scene = self.scene;
        let clients = scene.load(scene.stale_clients(), 20).await?;
        let report = std::mem::replace(&mut load.stale, clients).stop().await;
        load.ended += served(&report)?;
        pass(scene, DAY + HOUR).await
    }

    async fn roll_back(&mut self, load: &mut Loads) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("A day later, a rotation while new tasks of shop/web do not start: the circuit breaker rolls back");
        scene.sandbox.ecs().fail_new_tasks(WEB, true)?;
        succeeded(&self.rotate(SECRET).await?)?;
        pass(scene, 3 * HOUR).await?;
        let rolled_back = deployments(scene, WEB, "ROLLBACK_SUCCESSFUL")?;
        check(rolled_back == 1, "the deployment of shop/web is rolled back, and not repeated")?;
        let deployed = deployments(scene, WORKER, "SUCCESSFUL")?;
        check(deployed == 2 + self.deliveries, "shop/worker is deployed with the new value")?;
        check(knows_next(scene, WORKER).await? == [true, true], "the tasks of shop/worker have the new value")?;
        check(knows_next(scene, WEB).await? == [false, false], "the tasks of shop/web have the value before")?;
        let [failed, late] = alarms(scene)?;
        check((failed, late) == (1, 0), "one failed delivery is counted, and none is late")?;
        out.line("  alarm delivery-failed: DeliveryFailed 1; shop/worker has the value, shop/web the one before");
        let outcome = self.rotate(SECRET).await?;
        let RotationOutcome::Failed { error, .. } = outcome else { return Err("the rotation was not refused".into()) };
        check(error.error_type == "NotDelivered", "no rotation begins before the value is delivered")?;
        load.served(out).await
    }

    async fn diagnose_and_repair(&mut self, load: &mut Loads) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        pass(scene, 4 * HOUR).await?;
        let began = Instant::now();
        out.title("Seven hours after the rotation, a quarter of the overlap is over: what is there?");
        let [failed, late] = alarms(scene)?;
        check((failed, late) == (1, 1), "one delivery failed and is late")?;
        out.line(&format!("  alarms delivery-failed and delivery-late: DeliveryFailed {failed}, DeliveryLate {late}"));
        let shell = Shell::open(scene, out)?;
        let found = shell.types(&format!("rotation doctor {SECRET}"), 4).await?;
        let look = repair(&found, "BAD  delivery")?;
        shell.show(found.lines().skip_while(|line| !line.starts_with("BAD  delivery")).take(2));
        let looked = shell.types(look, 4).await?;
        check(looked.contains("DeploymentFailed"), "deliver names the deployment that failed")?;
        shell.show(looked.lines().filter(|line| line.contains(WEB)));
        let deploy = repair(&looked, "repair of ecs shop/web")?;
        out.line("  somebody repairs the image of shop/web: new tasks start again");
        scene.sandbox.ecs().fail_new_tasks(WEB, false)?;
        shell.types(deploy, 0).await?;
        self.healed(load, began).await
    }

    async fn healed(&mut self, load: &mut Loads, began: Instant) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        // The event of the deployment's end invokes deliver. A busy machine starts tasks slowly.
        let mut delivered = false;
        for _ in 0..8 {
            pass(scene, Duration::from_secs(300)).await?;
            delivered = scene.is_delivered().await?;
            if delivered {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        check(delivered, "the value is delivered")?;
        check(knows_next(scene, WEB).await? == [true, true], "the tasks of shop/web have the new value")?;
        // An hourly run looks at all secrets, and publishes metrics.
        pass(scene, HOUR).await?;
        check(alarms(scene)? == [0, 0], "no delivery failed and none is late")?;
        check(finding(scene).await?["ok"] == true, "the doctor finds that every consumer has the value")?;
        out.line(&format!(
            "  healed by three commands, {:.1} s after the alarm: delivered; DeliveryFailed 0, DeliveryLate 0",
            began.elapsed().as_secs_f64()
        ));
        load.served(out).await
    }

    async fn result(&self, load: Loads, started: Instant) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Result for the consumers");
        let sent = load.ended + served(&load.fresh.stop().await)? + served(&load.stale.stop().await)?;
        let addresses = [scene.service(WEB)?.address, scene.service(WORKER)?.address];
        let report = load.records.finish(&addresses).await;
        check((report.unreadable, report.lost, report.failed) == (0, 0, 0), "both services read every record")?;
        out.line(&format!(
            "  {sent} authorised requests: 0 refused; {} records, each read by both services at the end: 0 unreadable",
            report.written
        ));
        let logs = [FUNCTION, KEY_FUNCTION, DELIVER, OPERATE].map(|name| scene.sandbox.host().logs(name).join("\n"));
        let shown = [&logs[..], &[out.text()]].concat().join("\n");
        let leaked = self.secrets.iter().any(|value| shown.contains(value));
        check(!leaked, "no token and no key is in any log or in this output")?;
        out.line(&format!(
            "  searched all logs and this output for {} tokens and keys: none found, in {:.1} s",
            self.secrets.len(),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Notes the tokens and keys of now, so that logs can be searched for them.
    async fn remember(&mut self) -> Result<(), Failure> {
        for (name, field) in [(SECRET, FIELD), (KEY_SECRET, KEY_FIELD)] {
            for suffix in ["", "_NEXT", "_STAGED"] {
                let found = members(self.scene, name).await?.remove(&format!("{field}{suffix}"));
                self.secrets.extend(found.as_ref().and_then(Value::as_str).map(str::to_owned));
            }
        }
        Ok(())
    }
}

fn arn(function: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:function:{function}")
}

/// Moves the clock, between two moments without a running function.
async fn pass(scene: &Scene, time: Duration) -> Result<(), Failure> {
    scene.until_events_are_handled().await?;
    scene.sandbox.advance(time).await?;
    scene.until_events_are_handled().await
}

async fn value(scene: &Scene, name: &str) -> Result<String, Failure> {
    let answer = scene.client.get_secret_value().secret_id(name).send().await?;
    Ok(answer.secret_string.ok_or("the secret has no text")?)
}

async fn members(scene: &Scene, name: &str) -> Result<serde_json::Map<String, Value>, Failure> {
    Ok(serde_json::from_str(&value(scene, name).await?)?)
}

async fn member(scene: &Scene, name: &str, field: &str) -> Result<String, Failure> {
    let members = members(scene, name).await?;
    Ok(members.get(field).and_then(Value::as_str).ok_or_else(|| format!("{name} has no {field}"))?.to_owned())
}

fn deployments(scene: &Scene, id: &str, status: &str) -> Result<usize, Failure> {
    Ok(scene.service(id)?.deployments.iter().filter(|one| **one == status).count())
}

/// Whether each task of a service accepts the next token, which no value before the current one holds.
async fn knows_next(scene: &Scene, id: &str) -> Result<Vec<bool>, Failure> {
    let token = member(scene, SECRET, &format!("{FIELD}_NEXT")).await?;
    let mut accepted = Vec::new();
    for task in scene.service(id)?.tasks {
        accepted.push(end_to_end::get(&format!("http://{task}/admin/jobs"), &token).await?.is_success());
    }
    Ok(accepted)
}

/// What the alarms on deliveries see: the last counts of failed and of late secrets.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are small counts")]
fn alarms(scene: &Scene) -> Result<[u32; 2], Failure> {
    let data = scene.sandbox.cloudwatch().data();
    let last = |name: &str| {
        let of_deliver = |function: Option<&String>| function.is_some_and(|function| function == DELIVER);
        let datum = data.iter().rfind(|datum| datum.name == name && of_deliver(datum.dimensions.get("Function")));
        Ok::<_, Failure>(datum.ok_or_else(|| format!("deliver has not published {name}"))?.value as u32)
    };
    Ok([last("DeliveryFailed")?, last("DeliveryLate")?])
}

async fn run_deliver(scene: &Scene, request: &Value) -> Result<Value, Failure> {
    scene.deliver(request).await?.map_err(|error| format!("deliver: {error}").into())
}

/// What the doctor says of the delivery.
async fn finding(scene: &Scene) -> Result<Value, Failure> {
    let request = json!({ "action": "doctor", "secret_id": SECRET });
    let doctor = scene.operate(&request).await?.map_err(|error| format!("doctor: {error}"))?;
    let mut findings = doctor["findings"].as_array().into_iter().flatten();
    Ok(findings
        .find(|finding| finding["check"] == "delivery")
        .ok_or("the doctor says nothing of the delivery")?
        .clone())
}
