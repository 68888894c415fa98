//! An incident drill: a rotation fails, and an operator heals it with three commands of a shell.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use application::Load;
use end_to_end::{FIELD, FUNCTION, Failure, OPERATE, Plan, SECRET, Scene};
use sandbox::RotationOutcome;

use crate::check;
use crate::incident::{failed_with, new_token, served};
use crate::keys::aws_tag;
use crate::shell::{Shell, repair};
use crate::stage::{Output, Viewer};

/// The longest time from the alarm to the proof that all is well.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn perform(out: &Output, executable: PathBuf, operate: PathBuf) -> Result<(), Failure> {
    let first = new_token()?;
    let mut plan = Plan::json(&format!("{{ \"{FIELD}\": \"{}\", \"port\": 8080 }}", first.expose()));
    plan.sandbox.rotation_attempts = 1;
    let scene = Scene::start(Plan { executable: Some(executable), ..plan }).await?.with_operator_at(operate, &[])?;
    let configured = scene.configure().await?;
    check(matches!(configured, RotationOutcome::TestSucceeded { .. }), "the configuration test succeeds")?;
    let viewer = Viewer::new(&scene.sandbox, out.clone());
    let load = scene.load(scene.stale_clients(), 50).await?;
    let mut act = Act { out, scene: &scene, viewer, shell: Shell::open(&scene, out)? };
    act.fail().await?;
    act.heal().await?;
    let tokens = [first.expose(), &act.new_token(first.expose()).await?];
    act.result(&load, &tokens)
}

struct Act<'a> {
    out: &'a Output,
    scene: &'a Scene,
    viewer: Viewer,
    shell: Shell,
}

impl Act<'_> {
    async fn fail(&mut self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        out.title(
            "A drill at 02:00: somebody has tagged the secret rotation:overlap=for ever; what can an operator type?",
        );
        let tag = aws_tag("rotation:overlap", "for ever");
        scene.client.tag_resource().secret_id(SECRET).tags(tag).send().await?;
        failed_with(&self.viewer.during(scene.rotate()).await?, "InvalidPolicy")
    }

    /// From the alarm to a rotation that succeeds. What the operator types is printed as it is run.
    async fn heal(&self) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        let began = Instant::now();
        let failed = failed_steps(scene);
        check(failed == 1, "the alarm rotation-failed sees one failed step")?;
        out.line(&format!("  alarm rotation-failed: RotationFailed of {FUNCTION} is {failed}, and its threshold is 0"));
        let found = self.shell.types(&format!("rotation doctor {SECRET}"), 4).await?;
        let is_wrong = |line: &&str| line.starts_with("BAD") || line.starts_with(' ');
        self.shell.show(found.lines().filter(is_wrong));
        self.shell.types(repair(&found, "BAD  policy")?, 0).await?;
        let rotated = self.shell.types(&format!("rotation rotate {SECRET} --wait"), 0).await?;
        self.shell.show(rotated.lines().last());
        let took = began.elapsed();
        check(took < LIMIT, "three commands heal it within a minute")?;
        out.line(&format!("  healed by three commands, {:.1} s after the alarm", took.as_secs_f64()));
        Ok(())
    }

    /// The token of the rotation that succeeded.
    async fn new_token(&self, old: &str) -> Result<String, Failure> {
        let new = self.scene.token("AWSCURRENT").await?;
        check(new != old, "the rotation has made a new token")?;
        check(self.scene.accepted(&new).await? == [true, true], "both instances accept the new token")?;
        Ok(new)
    }

    fn result(&self, load: &Load, tokens: &[&str]) -> Result<(), Failure> {
        let Self { out, scene, .. } = *self;
        let sent = served(load)?;
        let logs = [FUNCTION, OPERATE].map(|function| scene.sandbox.host().logs(function).join("\n"));
        let shown = [&logs[..], &[out.text()]].concat().join("\n");
        check(!tokens.iter().any(|token| shown.contains(token)), "no token is in any log or in this output")?;
        out.line(&format!(
            "  {sent} requests with the token from before: 0 refused; searched all logs and this output for {} tokens: \
             none found",
            tokens.len()
        ));
        Ok(())
    }
}

/// What the alarm `rotation-failed` looks at: the metric of the function. Each value counts one failed step.
fn failed_steps(scene: &Scene) -> usize {
    let of_function = BTreeMap::from([("Function".to_owned(), FUNCTION.to_owned())]);
    let data = scene.sandbox.cloudwatch().data();
    data.iter().filter(|datum| datum.name == "RotationFailed" && datum.dimensions == of_function).count()
}
