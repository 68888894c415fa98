//! What others issue: a session cookie that an issuer rotates every week, and a key that a person has to rotate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::types::RotationRulesType;
use end_to_end::{Failure, OPERATE, Plan, ROTATION_TIMEOUT, Scene};
use rotation::time::format_timestamp;
use sandbox::{Fault, FaultRule, Moment, RotationOutcome};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{Output, Viewer};
use crate::{DAY, HOUR, check, next_rotation};

pub(crate) const ISSUED: &str = "issued-credential";
const SECRET: &str = "shop/production/providers";
const ISSUER: &str = "issuer";
const COOKIE: &str = "SESSION_COOKIE";
const KEY: &str = "OPENAI_API_KEY";

pub(crate) async fn perform(out: &Output, executable: PathBuf, operate: PathBuf) -> Result<(), Failure> {
    let first = "session=0123456789abcdef0123456789abcdef";
    let site = Site::with(first)?;
    let plan = Plan {
        function: ISSUED,
        secret: SECRET,
        tags: vec![("rotation:fields", COOKIE), ("rotation:remind", "OPENAI_API_KEY:7d")],
        environment: vec![("ALLOWED_FIELDS", COOKIE.to_owned()), ("ISSUER_FUNCTION", ISSUER.to_owned())],
        executable: Some(executable),
        instances: 0,
        ..Plan::text(&json!({ COOKIE: first, KEY: "sk-key-before-0123456789" }).to_string())
    };
    let actions = ("ALLOWED_ACTIONS", "doctor,put,sweep");
    let scene = Scene::start(plan).await?.with_operator_at(operate, &[actions])?;
    let variables = [("SITE".to_owned(), site.path.display().to_string())];
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/issuer.py");
    scene.sandbox.register_function(ISSUER, program, variables)?;
    let viewer = Viewer::new(&scene.sandbox, out.clone());
    let mut act = Act { out, scene: &scene, site, viewer, values: vec![first.to_owned()] };
    act.configure().await?;
    act.rotate_every_week().await?;
    act.kill_after_it_issued().await?;
    act.find_early_end().await?;
    act.put_by_hand().await?;
    act.result()
}

/// The file of the site: the sessions that are alive, and until when the next one lives.
struct Site {
    path: PathBuf,
    _folder: TempDir,
}

impl Site {
    fn with(cookie: &str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let site = Self { path: folder.path().join("site.json"), _folder: folder };
        let state = json!({ "sessions": { cookie: "by hand" }, "made": 0, "expires": "2099-01-01T00:00:00Z" });
        std::fs::write(&site.path, state.to_string())?;
        Ok(site)
    }

    fn state(&self) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&std::fs::read(&self.path)?)?)
    }

    fn alive(&self) -> Result<BTreeSet<String>, Failure> {
        let sessions: BTreeMap<String, Value> = serde_json::from_value(self.state()?["sessions"].take())?;
        Ok(sessions.into_keys().collect())
    }

    /// How many sessions the issuer has made.
    fn made(&self) -> Result<u64, Failure> {
        Ok(self.state()?["made"].as_u64().unwrap_or_default())
    }

    fn next_lives_until(&self, end: SystemTime) -> Result<(), Failure> {
        let mut state = self.state()?;
        state["expires"] = json!(format_timestamp(end));
        Ok(std::fs::write(&self.path, state.to_string())?)
    }
}

/// The secret, the site, and every value that there was.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    site: Site,
    viewer: Viewer,
    values: Vec<String>,
}

impl Act<'_> {
    async fn configure(&mut self) -> Result<(), Failure> {
        self.out.title(&format!("{SECRET}: a session cookie that an issuer of yours gets by a login, every 7 days"));
        let rules = RotationRulesType::builder().automatically_after_days(7).build();
        let request = self.scene.client.rotate_secret().secret_id(SECRET).rotation_rules(rules);
        let request = request.rotation_lambda_arn(self.scene.function_arn()).rotate_immediately(false);
        request.send().await?;
        let tested = self.viewer.during(self.scene.sandbox.wait_for_rotation(SECRET, ROTATION_TIMEOUT)).await?;
        check(matches!(tested, RotationOutcome::TestSucceeded { .. }), "the configuration test succeeds")?;
        check(self.site.alive()?.len() == 1, "the test issues nothing")
    }

    /// The next rotation of the schedule.
    async fn next_week(&mut self) -> Result<RotationOutcome, Failure> {
        let ahead = next_rotation(self.scene).await?.duration_since(self.scene.sandbox.now()).unwrap_or_default();
        // The window of a rotation by days is the day that ends at the next rotation date.
        self.viewer.during(self.scene.sandbox.advance((ahead + HOUR).saturating_sub(DAY))).await?;
        Ok(self.scene.sandbox.wait_for_rotation(SECRET, ROTATION_TIMEOUT).await?)
    }

    async fn rotate_every_week(&mut self) -> Result<(), Failure> {
        check(self.next_week().await?.is_success(), "the rotation succeeds")?;
        let old = self.values[0].clone();
        let new = self.current_cookie().await?;
        check(self.site.alive()? == [old.clone(), new.clone()].into(), "both sessions live during the overlap")?;
        self.sweep_after_overlap().await?;
        check(self.site.alive()? == [new].into(), "the old session is logged out after the overlap")?;
        self.out.line("  both sessions lived during the overlap; then the sweep had the old one logged out");
        Ok(())
    }

    async fn kill_after_it_issued(&mut self) -> Result<(), Failure> {
        self.out.title("The function is killed after the site has issued, and before the cookie is stored");
        let kill = Fault::KillFunction { function: ISSUED.to_owned(), when: Moment::Before };
        self.scene.sandbox.faults().add(FaultRule::on("PutSecretValue", kill).from_caller(ISSUED));
        let old = self.values.last().cloned().unwrap_or_default();
        let made = self.site.made()?;
        check(self.next_week().await?.is_success(), "the retry succeeds")?;
        let new = self.current_cookie().await?;
        check(self.site.made()? == made + 2, "the site has issued twice")?;
        check(self.site.alive()? == [old, new.clone()].into(), "the first of the two is logged out")?;
        self.sweep_after_overlap().await?;
        check(self.site.alive()? == [new].into(), "the old session is logged out after the overlap")?;
        self.out.line("  the retry issued another, and had the one logged out that no version of the secret holds");
        Ok(())
    }

    async fn find_early_end(&mut self) -> Result<(), Failure> {
        self.out.title("The site now gives sessions that end before the next rotation");
        self.site.next_lives_until(self.scene.sandbox.now() + 10 * DAY)?;
        check(self.next_week().await?.is_success(), "the rotation succeeds")?;
        self.current_cookie().await?;
        let doctor = self.ask(json!({ "action": "doctor", "secret_id": SECRET })).await?;
        let findings = doctor["findings"].as_array().into_iter().flatten();
        let mut wrong = findings.filter(|one| one["check"] == "expires" && one["ok"] == false);
        let found = wrong.next().ok_or("the doctor does not tell that the cookie ends too early")?;
        self.out.line(&format!("  operate doctor: {}", found["detail"].as_str().unwrap_or_default()));
        Ok(())
    }

    async fn put_by_hand(&mut self) -> Result<(), Failure> {
        self.out.title(&format!("{KEY}: only the provider's portal makes it, so a person puts it every 7 days"));
        let due = self.ask(json!({ "action": "sweep" })).await?;
        check(due["dueByHand"] == json!([SECRET]), "the sweep reminds of the key")?;
        let key = "sk-key-of-the-portal-0123456789";
        self.values.push(key.to_owned());
        let put = json!({ "action": "put", "secret_id": SECRET, "members": { KEY: key }, "reason": "the demo" });
        check(self.ask(put).await?["members"] == json!([KEY]), "the key is stored")?;
        let value = self.scene.value("AWSCURRENT").await?.unwrap_or_default();
        check(value.contains(key) && value.contains(COOKIE), "the cookie is still there")?;
        let due = self.ask(json!({ "action": "sweep" })).await?;
        check(due["dueByHand"] == json!([]), "the reminder is gone")?;
        self.out
            .line("  operate sweep: it is due. operate put: stored beside the cookie. operate sweep: nothing is due");
        Ok(())
    }

    fn result(&self) -> Result<(), Failure> {
        self.out.title("Result for the cookie");
        let host = self.scene.sandbox.host();
        let logs = [ISSUED, OPERATE, ISSUER].map(|function| host.logs(function)).concat();
        let shown = [logs.join("\n"), self.out.text()].join("\n");
        check(!self.values.iter().any(|value| shown.contains(value)), "no value is in any log or in this output")?;
        self.out.line(&format!("  searched all logs and this output for {} values: none found", self.values.len()));
        Ok(())
    }

    /// The current cookie, which is remembered.
    async fn current_cookie(&mut self) -> Result<String, Failure> {
        let value: Value = serde_json::from_str(&self.scene.value("AWSCURRENT").await?.unwrap_or_default())?;
        let cookie = value[COOKIE].as_str().unwrap_or_default().to_owned();
        check(
            !self.values.contains(&cookie) && self.site.alive()?.contains(&cookie),
            "AWSCURRENT holds a new session",
        )?;
        self.values.push(cookie.clone());
        Ok(cookie)
    }

    async fn sweep_after_overlap(&self) -> Result<(), Failure> {
        self.scene.sandbox.advance(DAY + Duration::from_secs(2 * 60 * 60)).await?;
        let swept = self.ask(json!({ "action": "sweep" })).await?;
        check(swept["revokedSecrets"] == json!([SECRET]), "the sweep revokes")
    }

    async fn ask(&self, request: Value) -> Result<Value, Failure> {
        self.out.detail(&format!("  operate {}", request["action"]));
        self.scene.operate(&request).await?.map_err(|error| format!("{}: {error}", request["action"]).into())
    }
}
