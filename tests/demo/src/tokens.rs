//! The admin token: rotated on demand, on schedule, and by a function that is killed half way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use application::{Load, LoadReport};
use end_to_end::{FIELD, FUNCTION, Failure, Plan, ROTATION_TIMEOUT, SECRET, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::time::format_timestamp;
use rotation::token::{TokenEncoding, TokenFormat};
use sandbox::{EventKind, Fault, FaultRule, Moment, RotationOutcome};

use crate::stage::{Output, Viewer};
use crate::{DAY, HOUR, check, metric, next_rotation};

/// How often fresh clients read the secret again.
const CLIENT_CACHE: Duration = Duration::from_millis(500);

pub(crate) async fn perform(out: &Output, executable: PathBuf) -> Result<(), Failure> {
    let first = format(48).generate(&mut StdRng::try_from_os_rng()?);
    let value =
        format!("{{\n  \"{FIELD}\": \"{}\",\n  \"port\": 8080,\n  \"peers\": [\"a\", \"b\"]\n}}\n", first.expose());
    let scene = Scene::start(Plan { executable: Some(executable), ..Plan::json(&value) }).await?;
    let started = Instant::now();
    let viewer = Viewer::new(&scene.sandbox, out.clone());
    let mut act = Act { out, scene: &scene, viewer, secrets: vec![] };
    act.configure().await?;

    let fresh = scene.load(scene.fresh_clients(CLIENT_CACHE), 100).await?;
    let stale = scene.load(scene.stale_clients(), 50).await?;
    out.detail("  load: 100 requests/s by clients that read AWSCURRENT, 50/s by clients that keep the token they have");
    act.rotate_on_demand(&fresh, &stale).await?;
    let stale = finished(stale.stop().await)?;
    act.end_overlap().await?;
    act.rotate_on_schedule(&fresh).await?;
    act.kill_a_function(&fresh).await?;
    let fresh = finished(fresh.stop().await)?;
    act.result()?;
    let (sent, refused) = (fresh.sent + stale.sent, fresh.refused + stale.refused);
    out.line(&format!(
        "  {sent} authorised requests sent, {refused} refused, in {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The secret on its stage, and the tokens that it has had.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    secrets: Vec<String>,
}

impl Act<'_> {
    async fn configure(&mut self) -> Result<(), Failure> {
        self.out.title(&format!("{SECRET}: the member {FIELD} of a JSON secret, rotation every 90 days"));
        let configured = self.viewer.during(self.scene.configure()).await?;
        check(matches!(configured, RotationOutcome::TestSucceeded { .. }), "the configuration test succeeds")?;
        self.secrets.push(self.scene.token("AWSCURRENT").await?);
        Ok(())
    }

    async fn rotate_on_demand(&mut self, fresh: &Load, stale: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Rotation on demand (aws secretsmanager rotate-secret)");
        scene.sandbox.reset_calls();
        let before = [fresh.report().sent, stale.report().sent];
        rotated(scene, &self.viewer.during(scene.rotate()).await?, &mut self.secrets).await?;
        let calls: u64 = scene.sandbox.calls_of(FUNCTION).values().sum();
        out.detail(&format!("  calls of the function to Secrets Manager: {calls}"));
        tokio::time::sleep(CLIENT_CACHE * 2).await;
        report(out, "clients that read AWSCURRENT", fresh, before[0])?;
        report(out, "clients with the old token", stale, before[1])?;
        let now = scene.value("AWSCURRENT").await?.unwrap_or_default();
        check(
            now.ends_with(",\n  \"port\": 8080,\n  \"peers\": [\"a\", \"b\"]\n}\n"),
            "the other members are unchanged",
        )?;
        out.line("  the other members of the secret are byte for byte as they were");
        Ok(())
    }

    async fn end_overlap(&self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        let [old, new] = [&self.secrets[0], &self.secrets[1]];
        out.title("The end of the overlap, 24 hours later");
        check(scene.accepted(old).await? == [true, true], "the old token is accepted during the overlap")?;
        scene.sandbox.advance(DAY + HOUR).await?;
        scene.token("AWSCURRENT").await?;
        check(scene.accepted(old).await? == [false, false], "the old token is refused after the overlap")?;
        check(scene.accepted(new).await? == [true, true], "the new token is accepted after the overlap")?;
        out.line(
            "  the old token was accepted by both instances until then; now they refuse it, and accept the new one",
        );
        Ok(())
    }

    async fn rotate_on_schedule(&mut self, fresh: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Rotation on schedule: the clock moves into the next rotation window");
        let next = next_rotation(scene).await?;
        let ahead = next.duration_since(scene.sandbox.now()).unwrap_or_default();
        let days = ahead.as_secs() / DAY.as_secs();
        out.detail(&format!("  next rotation: {} (in {days} days)", format_timestamp(next)));
        let before = fresh.report().sent;
        // The window of a rotation by days is the day that ends at the next rotation date.
        self.viewer.during(scene.sandbox.advance((ahead + HOUR).saturating_sub(DAY))).await?;
        let outcome = scene.sandbox.wait_for_rotation(SECRET, ROTATION_TIMEOUT).await?;
        rotated(scene, &outcome, &mut self.secrets).await?;
        tokio::time::sleep(CLIENT_CACHE * 2).await;
        report(out, "clients that read AWSCURRENT", fresh, before)
    }

    async fn kill_a_function(&mut self, fresh: &Load) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("A function that is killed after it moved AWSCURRENT");
        scene.sandbox.advance(DAY + HOUR).await?;
        scene.token("AWSCURRENT").await?;
        let kill = Fault::KillFunction { function: FUNCTION.to_owned(), when: Moment::After };
        scene.sandbox.faults().add(FaultRule::on("UpdateSecretVersionStage", kill).from_caller(FUNCTION));
        let before = fresh.report().sent;
        let outcome = self.viewer.during(scene.rotate()).await?;
        rotated(scene, &outcome, &mut self.secrets).await?;
        repaired(scene, outcome.version_id())?;
        out.line("  repaired by the retry: the same version, promoted once, accepted by both instances");
        tokio::time::sleep(CLIENT_CACHE * 2).await;
        report(out, "clients that read AWSCURRENT", fresh, before)
    }

    fn result(&self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Result for the token");
        let (succeeded, failed) = (metric(scene, "RotationSucceeded"), metric(scene, "RotationFailed"));
        check((succeeded, failed) == (3, 0), "three rotations and no failure are counted in CloudWatch")?;
        out.line(&format!("  CloudWatch: {succeeded} × RotationSucceeded, {failed} × RotationFailed"));
        let leaked = leaks(scene, out, &self.secrets);
        check(leaked == 0, "no token and no RotationToken is in any log or in this output")?;
        out.line(&format!(
            "  searched the function's logs and this output for {} tokens: none found",
            self.secrets.len()
        ));
        Ok(())
    }
}

fn format(bytes: usize) -> TokenFormat {
    TokenFormat { bytes, encoding: TokenEncoding::Base64Url, prefix: None }
}

/// Checks that the rotation succeeded with a new token that every instance accepts beside the old one.
async fn rotated(scene: &Scene, outcome: &RotationOutcome, secrets: &mut Vec<String>) -> Result<(), Failure> {
    check(outcome.is_success(), "the rotation succeeds")?;
    let current = scene.client.get_secret_value().secret_id(SECRET).send().await?;
    check(current.version_id() == Some(outcome.version_id()), "AWSCURRENT is on the rotation's version")?;
    let token = scene.token("AWSCURRENT").await?;
    check(!secrets.contains(&token) && token.len() == 64, "AWSCURRENT holds a new token of 64 characters")?;
    check(scene.accepted(&token).await?.iter().all(|accepted| *accepted), "every instance accepts the new token")?;
    let random = format(48).generate(&mut StdRng::try_from_os_rng()?);
    check(!scene.accepted(random.expose()).await?.contains(&true), "no instance accepts a random token")?;
    secrets.push(token);
    Ok(())
}

/// Checks that the function was killed in the rotation of this version, and that the version was promoted once.
fn repaired(scene: &Scene, version: &str) -> Result<(), Failure> {
    let current = |stages: &BTreeSet<String>| stages.contains("AWSCURRENT");
    let (mut killed, mut promoted) = (0, 0);
    for event in scene.sandbox.events().iter().filter(|event| event.version_id == version) {
        match &event.kind {
            EventKind::StepEnded { error: Some(error), .. } if error.error_type == "Runtime.ExitError" => killed += 1,
            EventKind::StagesChanged { from, to } if !current(from) && current(to) => promoted += 1,
            _ => {}
        }
    }
    check(killed == 1, "the function was killed once in this rotation")?;
    check(promoted == 1, "AWSCURRENT was moved to this version once")
}

fn report(out: &Output, who: &str, load: &Load, before: u64) -> Result<(), Failure> {
    let report = finished(load.report())?;
    check(report.sent > before, "requests were sent meanwhile")?;
    out.line(&format!("  {who}: {} requests sent, {} refused", report.sent - before, report.refused));
    Ok(())
}

fn finished(report: LoadReport) -> Result<LoadReport, Failure> {
    check(report.refused == 0, "no authorised request was refused")?;
    match &report.first_failure {
        Some(failure) => Err(format!("{} requests failed, the first: {failure}", report.failed).into()),
        None => Ok(report),
    }
}

/// How often a secret occurs in the function's logs or in what this demo printed.
fn leaks(scene: &Scene, out: &Output, secrets: &[String]) -> usize {
    let rotation_tokens = scene.sandbox.rotation_tokens_seen();
    let needles = secrets.iter().chain(rotation_tokens.iter().map(|seen| &seen.token));
    let haystack = [scene.sandbox.host().logs(FUNCTION).join("\n"), out.text()].join("\n");
    needles.filter(|needle| haystack.contains(needle.as_str())).count()
}
