//! The encryption key: staged, promoted on schedule, held back by an instance that does not load it, and replaced at once.

use std::path::PathBuf;
use std::time::Instant;

use application::{KeyFormat, RecordLoad};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{Failure, KEY_FIELD, KEY_SECRET, Plan, ROTATION_TIMEOUT, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::FieldName;
use rotation::keyring::{Key, KeyFormat as Wire, KeyMaterial, KeyState, Keyring};
use rotation::secret::SecretText;
use rotation::time::format_timestamp;
use sandbox::RotationOutcome;

use crate::stage::{Output, Viewer};
use crate::{DAY, HOUR, check, metric, next_rotation};

pub(crate) async fn perform(out: &Output, executable: PathBuf) -> Result<(), Failure> {
    let first = KeyMaterial::generate(&mut StdRng::try_from_os_rng()?);
    let value = format!("{{\n  \"{KEY_FIELD}\": \"{}\",\n  \"port\": 8080\n}}\n", STANDARD.encode(first.expose()));
    let mut plan = Plan::key_json(&value, KeyFormat::Raw);
    plan.environment.push(("TARGET_TIMEOUT", "1s".to_owned()));
    plan.sandbox.rotation_attempts = 1;
    let scene = Scene::start(Plan { executable: Some(executable), ..plan }).await?;
    let started = Instant::now();
    let mut viewer = Viewer::new(&scene.sandbox, out.clone());

    out.title(&format!("{KEY_SECRET}: the member {KEY_FIELD} of a JSON secret, rotation every 90 days"));
    let configured = viewer.during(scene.configure()).await?;
    check(matches!(configured, RotationOutcome::TestSucceeded { .. }), "the configuration test succeeds")?;
    let load = scene.records(100, 1);
    out.detail("  load: 100 records/s, encrypted by one instance and read by another, now and later");

    let mut act = Act { out, scene: &scene, viewer, load };
    let bare = show(out, &scene).await?;
    let staged = act.stage(&bare).await?;
    let promoted = act.promote(&staged).await?;
    let before = act.hold_back(&promoted).await?;
    let after = act.replace_at_once(&before).await?;
    act.result(&after, started).await
}

/// The secret on its stage, and the load of records.
struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    load: RecordLoad,
}

impl Act<'_> {
    async fn stage(&mut self, bare: &Keyring) -> Result<Keyring, Failure> {
        let Self { out, scene, .. } = *self;
        out.title("First rotation: the next key is staged, and encrypts nothing yet");
        succeeded(&self.viewer.during(scene.rotate()).await?)?;
        let staged = show(out, scene).await?;
        check(staged.primary().id() == bare.primary().id(), "the primary key is the same")?;
        check(staged.staged().is_some(), "a key is staged")?;
        self.readable().await?;
        Ok(staged)
    }

    async fn promote(&mut self, staged: &Keyring) -> Result<Keyring, Failure> {
        let Self { out, scene, .. } = *self;
        out.title("Rotation on schedule: the staged key becomes primary, the old one goes on decrypting");
        let next = next_rotation(scene).await?;
        let ahead = next.duration_since(scene.sandbox.now()).unwrap_or_default();
        let days = ahead.as_secs() / DAY.as_secs();
        out.detail(&format!("  next rotation: {} (in {days} days)", format_timestamp(next)));
        self.viewer.during(scene.sandbox.advance((ahead + HOUR).saturating_sub(DAY))).await?;
        succeeded(&scene.sandbox.wait_for_rotation(KEY_SECRET, ROTATION_TIMEOUT).await?)?;
        let promoted = show(out, scene).await?;
        check(Some(promoted.primary().id()) == staged.staged().map(Key::id), "the staged key is primary")?;
        check(promoted.holds_all_of(staged), "no key was dropped")?;
        self.readable().await?;
        Ok(promoted)
    }

    async fn hold_back(&mut self, promoted: &Keyring) -> Result<Keyring, Failure> {
        let Self { out, scene, .. } = *self;
        out.title("An instance that does not load the new ring");
        scene.instances[1].freeze_refresh(true);
        let outcome = self.viewer.during(scene.rotate()).await?;
        let RotationOutcome::Failed { error, .. } = &outcome else {
            return Err("the rotation was not refused".into());
        };
        check(error.error_type == "ConsumersUnproven", "the rotation is refused with ConsumersUnproven")?;
        out.line(&format!("  {}", error.message));
        check(ring(scene).await?.primary().id() == promoted.primary().id(), "AWSCURRENT was not touched")?;
        scene.instances[1].freeze_refresh(false);
        // RotateSecret takes it up again while it answers with an error, as AWS does.
        let request = scene.client.rotate_secret().secret_id(KEY_SECRET).rotation_lambda_arn(scene.function_arn());
        check(request.send().await.is_err(), "RotateSecret says that the previous rotation is not complete")?;
        let outcome = self.viewer.during(scene.sandbox.wait_for_rotation(KEY_SECRET, ROTATION_TIMEOUT)).await?;
        succeeded(&outcome)?;
        out.line("  repaired: the same version, taken up again");
        let repaired = show(out, scene).await?;
        self.readable().await?;
        Ok(repaired)
    }

    async fn replace_at_once(&mut self, before: &Keyring) -> Result<Keyring, Failure> {
        let Self { out, scene, .. } = *self;
        out.title("A compromise: rotation:promotion=immediate replaces the primary and the staged key at once");
        let tag = aws_tag("rotation:promotion", "immediate");
        scene.client.tag_resource().secret_id(KEY_SECRET).tags(tag).send().await?;
        succeeded(&self.viewer.during(scene.rotate()).await?)?;
        scene.client.untag_resource().secret_id(KEY_SECRET).tag_keys("rotation:promotion").send().await?;
        let after = show(out, scene).await?;
        let in_use = [Some(after.primary()), after.staged()];
        let fresh = in_use.into_iter().flatten().all(|key| before.get(key.id()).is_none());
        check(fresh && after.holds_all_of(before), "both keys are fresh, and no key was dropped")?;
        let remaining = self.logs().iter().rev().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
            Some(line["remaining"].as_str()?.to_owned())
        });
        out.line(&format!("  {}", remaining.ok_or("the log does not say what remains to be done")?));
        self.readable().await?;
        Ok(after)
    }

    async fn result(self, after: &Keyring, started: Instant) -> Result<(), Failure> {
        let logs = self.logs();
        let Self { out, scene, load, .. } = self;
        out.title("Result for the key");
        let report = load.stop().await;
        let (succeeded, failed) = (metric(scene, "RotationSucceeded"), metric(scene, "RotationFailed"));
        check((succeeded, failed) == (4, 1), "four rotations and one failed step are counted in CloudWatch")?;
        out.line(&format!("  CloudWatch: {succeeded} × RotationSucceeded, {failed} × RotationFailed"));
        let everywhere = scene.read_everywhere().await?;
        check((everywhere.unreadable, everywhere.failed) == (0, 0), "every instance reads every record")?;
        let keys = after.keys().count();
        let shown = [logs.join("\n"), out.text()].join("\n");
        let leaked = after.keys().any(|(_, key)| shown.contains(&STANDARD.encode(key.material().expose())));
        check(!leaked, "no key is in any log or in this output")?;
        out.line(&format!("  searched the function's logs and this output for {keys} keys: none found"));
        out.line(&format!(
            "  {} records written, {} times read, 0 unreadable, in {:.1} s",
            report.written,
            report.read + everywhere.read,
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn logs(&self) -> Vec<String> {
        self.scene.sandbox.host().logs(self.scene.function())
    }

    /// Waits until the load has gone on for a while, and prints how it fares.
    async fn readable(&self) -> Result<(), Failure> {
        let before = self.load.report().written;
        while self.load.report().written < before + 30 && self.load.report().failed == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let (report, everywhere) = (self.load.report(), self.scene.read_everywhere().await?);
        if let Some(failure) = report.first_failure.or(everywhere.first_failure) {
            return Err(failure.into());
        }
        self.out.detail(&format!("  {} records written so far, every one readable by both instances", report.written));
        Ok(())
    }
}

pub(crate) fn aws_tag(key: &str, value: &str) -> aws_sdk_secretsmanager::types::Tag {
    aws_sdk_secretsmanager::types::Tag::builder().key(key).value(value).build()
}

pub(crate) fn succeeded(outcome: &RotationOutcome) -> Result<(), Failure> {
    check(outcome.is_success(), "the rotation succeeds")
}

async fn ring(scene: &Scene) -> Result<Keyring, Failure> {
    let value = scene.value("AWSCURRENT").await?.ok_or("the secret has no value")?;
    let wire = Wire::Raw.wire();
    let document = wire.document(SecretText::new(value), FieldName::new(KEY_FIELD).as_ref())?;
    Ok(wire.parse(&document)?)
}

/// Prints the ring by its key ids, and checks that both instances hold it when they report what they hold.
pub(crate) async fn show(out: &Output, scene: &Scene) -> Result<Keyring, Failure> {
    let ring = ring(scene).await?;
    let ids = |wanted: KeyState| -> Vec<String> {
        ring.keys().filter(|(state, _)| *state == wanted).map(|(_, key)| key.id().to_string()).collect()
    };
    let or_none = |ids: Vec<String>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
    let [primary, staged, secondary] = [KeyState::Primary, KeyState::Staged, KeyState::Secondary].map(ids).map(or_none);
    out.line(&format!("  keyring: primary {primary}, staged {staged}, secondary {secondary}"));
    for health in scene.health().await? {
        let reported = health["key_ids"].as_array().map_or(0, Vec::len);
        check(reported == ring.keys().count(), "every instance reports every key of the ring")?;
    }
    Ok(ring)
}
