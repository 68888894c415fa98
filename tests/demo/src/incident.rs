//! An incident: a broken version of the application, seen, given up and repaired by the function for operators; and a drill for
//! a token that has leaked.

use std::path::PathBuf;
use std::time::Duration;

use application::Load;
use end_to_end::{FIELD, Failure, Plan, SECRET, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::secret::SecretText;
use rotation::token::{TokenEncoding, TokenFormat};
use sandbox::RotationOutcome;
use serde_json::{Value, json};

use crate::stage::{Output, Viewer};
use crate::{HOUR, check};

/// How often clients read the secret again.
const CLIENT_CACHE: Duration = Duration::from_millis(500);

pub(crate) async fn perform(out: &Output, executable: PathBuf, operate: PathBuf) -> Result<(), Failure> {
    let first = new_token()?;
    let mut plan = Plan::json(&format!("{{ \"{FIELD}\": \"{}\", \"port\": 8080 }}", first.expose()));
    plan.tags.push(("rotation:verify", "after"));
    plan.environment.push(("TARGET_TIMEOUT", "3s".to_owned()));
    plan.sandbox.rotation_attempts = 1;
    let scene = Scene::start(Plan { executable: Some(executable), ..plan }).await?.with_operator_at(operate, &[])?;
    check(scene.rotate().await?.is_success(), "the rotation before the incident succeeds")?;
    let viewer = Viewer::new(&scene.sandbox, out.clone());
    let good = scene.token("AWSCURRENT").await?;
    let mut act = Act { out, scene: &scene, viewer, secrets: vec![first.expose().to_owned(), good] };

    let load = scene.load(scene.stale_clients(), 100).await?;
    act.fail_after_promotion(&load).await?;
    act.fail_before_promotion(&load).await?;
    act.diagnose().await?;
    act.repair(&load).await?;
    load.stop().await;
    act.replace_leaked_token().await?;
    act.result()
}

/// The secret in its incident, and the tokens that it has had. The second one is current when the incident begins.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    secrets: Vec<String>,
}

impl Act<'_> {
    fn good(&self) -> &str {
        &self.secrets[1]
    }

    async fn fail_after_promotion(&mut self, load: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("An incident: a version of the application is deployed that does not load new tokens");
        scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
        let outcome = self.viewer.during(scene.rotate()).await?;
        failed_with(&outcome, "VerificationFailed")?;
        check(scene.token("AWSCURRENT").await? == self.good(), "the token from before is current again")?;
        out.line("  put back by the rotation itself; the token from before is AWSCURRENT");
        served(load).map(drop)
    }

    async fn fail_before_promotion(&mut self, load: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("The application reads AWSPENDING too: rotation:verify=before keeps AWSCURRENT out of it");
        scene.client.untag_resource().secret_id(SECRET).tag_keys("rotation:verify").send().await?;
        let outcome = self.viewer.during(scene.rotate()).await?;
        failed_with(&outcome, "TargetRefused")?;
        check(scene.token("AWSCURRENT").await? == self.good(), "AWSCURRENT was not touched")?;
        self.secrets.extend(scene.token("AWSPENDING").await.ok());
        served(load).map(drop)
    }

    async fn diagnose(&self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        let status = done(out, scene, "status").await?;
        show(out, &status);
        check(status["lastFailure"]["error"] == "TargetRefused", "status tells of the last failure")?;
        let doctor = done(out, scene, "doctor").await?;
        show(out, &doctor);
        let findings = doctor["findings"].as_array().into_iter().flatten().filter(|finding| finding["ok"] == false);
        let wrong: Vec<&str> = findings.filter_map(|finding| finding["check"].as_str()).collect();
        check(wrong == ["AWSPENDING", "log"], "the doctor finds the open rotation and its failure")?;
        out.line("  operate status and doctor: a rotation is open; testSecret has failed with TargetRefused");
        Ok(())
    }

    async fn repair(&mut self, load: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("An hour later: the rotation is given up, the application repaired, the token rotated");
        scene.sandbox.advance(HOUR).await?;
        scene.instances.iter().for_each(|instance| instance.freeze_refresh(false));
        let aborted = done(out, scene, "abort").await?;
        show(out, &aborted);
        check(aborted["verified"] == true, "the current token verifies")?;
        out.line("  operate abort: given up; the current token is verified");
        check(self.viewer.during(scene.rotate()).await?.is_success(), "the rotation succeeds")?;
        self.secrets.push(scene.token("AWSCURRENT").await?);
        let verified = done(out, scene, "verify").await?;
        show(out, &verified);
        check(verified["instances"].as_array().map(Vec::len) == Some(2), "both instances were asked")?;
        out.line("  operate verify: both instances accept the new token, and refuse a random one");
        out.line(&format!("  clients with the token from before: {} requests sent, 0 refused", served(load)?));
        Ok(())
    }

    async fn replace_leaked_token(&mut self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("A drill: the token has leaked");
        let leaked = scene.token("AWSCURRENT").await?;
        let load = scene.load(scene.fresh_clients(CLIENT_CACHE), 100).await?;
        let compromised = self.viewer.during(done(out, scene, "compromise")).await?;
        show(out, &compromised);
        check(compromised["provenRefused"] == true, "the application refuses the leaked token")?;
        check(scene.accepted(&leaked).await? == [false, false], "both instances refuse the leaked token")?;
        let new = scene.token("AWSCURRENT").await?;
        check(scene.accepted(&new).await? == [true, true], "both instances accept the new token")?;
        out.line(
            "  operate compromise: replaced and revoked; both instances refuse the leaked token, and accept the new one",
        );
        self.secrets.push(new);
        tokio::time::sleep(CLIENT_CACHE * 2).await;
        let refused = load.report().refused;
        tokio::time::sleep(CLIENT_CACHE).await;
        let report = load.stop().await;
        check(report.refused == refused, "clients that have read the new token are not refused")?;
        out.line(&format!(
            "  {} requests by clients that read AWSCURRENT every {} ms: {refused} refused, until they had read the new token",
            report.sent,
            CLIENT_CACHE.as_millis()
        ));
        Ok(())
    }

    fn result(&self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Result for the incident");
        let host = scene.sandbox.host();
        let logs = [host.logs(scene.function()), host.logs(end_to_end::OPERATE)].concat();
        let shown = [logs.join("\n"), out.text()].join("\n");
        let is_shown = |secret: &String| shown.contains(secret);
        check(!self.secrets.iter().any(is_shown), "no token is in any log or in this output")?;
        out.line(&format!("  searched all logs and this output for {} tokens: none found", self.secrets.len()));
        Ok(())
    }
}

pub(crate) fn new_token() -> Result<SecretText, Failure> {
    let format = TokenFormat { bytes: 48, encoding: TokenEncoding::Base64Url, prefix: None };
    Ok(format.generate(&mut StdRng::try_from_os_rng()?))
}

pub(crate) fn failed_with(outcome: &RotationOutcome, name: &str) -> Result<(), Failure> {
    let RotationOutcome::Failed { error, .. } = outcome else { return Err("the rotation was not refused".into()) };
    check(error.error_type == name, "the rotation is refused with the error that is expected")
}

/// Asks the function for operators, and prints the request.
async fn done(out: &Output, scene: &Scene, action: &str) -> Result<Value, Failure> {
    let mut request = json!({ "action": action, "secret_id": SECRET });
    if ["abort", "compromise"].contains(&action) {
        request["reason"] = json!("the demo");
    }
    if action == "compromise" {
        request["confirm"] = json!(SECRET);
    }
    out.detail(&format!("  operate {request}"));
    scene.operate(&request).await?.map_err(|error| format!("{action}: {error}").into())
}

/// The whole answer, with `-v`.
fn show(out: &Output, answer: &Value) {
    format!("{answer:#}").lines().for_each(|line| out.detail(&format!("    {line}")));
}

/// The requests of clients with the token from before, none of them refused.
pub(crate) fn served(load: &Load) -> Result<u64, Failure> {
    let report = load.report();
    check(report.sent > 0 && report.refused == 0, "no client with the token from before is refused")?;
    Ok(report.sent)
}
