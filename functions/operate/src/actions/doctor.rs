//! `doctor`: what keeps rotations from working, each finding with the command that repairs it.

use rand::rngs::StdRng;
use rotation::document::MAX_VALUE_BYTES;
use rotation::error::RotationError;
use rotation::marked_ring::{self, Missing};
use rotation::store::{Described, OperationStore};
use rotation::time::format_timestamp;
use rotation::versions::{MAX_STAGES, Stage};
use serde::Serialize;

use crate::action::Action;
use crate::error::OperateError;
use crate::findings::Findings;
use crate::kinds::OperatedKind;
use crate::marker::{open_rotation, unfinished};
use crate::members::{Inquiry, Members};
use crate::session::{Operation, Snapshot};

/// How much of the largest value may be used before doctor speaks of it, in percent.
const NEARLY_FULL: usize = 80;
/// So many staging labels have to be free for a rotation and an action.
const SPARE_STAGES: usize = 6;
/// A stage that no version has.
const DOCTOR_STAGE: &str = "ROTATION-DOCTOR";

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doctor(pub Inquiry);

impl Doctor {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.inquiry().map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DoctorAnswer {
    healthy: bool,
    findings: Findings,
    not_checked: Vec<String>,
}

impl DoctorAnswer {
    pub(crate) fn of(findings: Findings, unknown: Option<String>, name: &str) -> Self {
        // Said plainly, because no call that changes nothing shows it.
        let always = [
            "whether the role may encrypt with the secret's key (kms:GenerateDataKey)".to_owned(),
            format!(
                "the rotation function's own role and network, which this tests, and rotates nothing: aws secretsmanager rotate-secret --secret-id {name} --no-rotate-immediately"
            ),
        ];
        let not_checked = always.into_iter().chain(unknown).collect();
        Self { healthy: findings.healthy(), findings, not_checked }
    }
}

impl Findings {
    /// What the description of a secret of any kind tells.
    pub(crate) fn of_description(secret: &Described) -> Self {
        let mut findings = Self::default();
        findings.good("describe", "the secret exists, and Secrets Manager can be reached");
        check_rotation(&mut findings, secret);
        check_versions(&mut findings, secret);
        check_stages(&mut findings, secret);
        match unfinished(secret) {
            None => findings.good("operations", "none died half way"),
            Some(action) => findings.bad(
                "operations",
                format!("the action {action} was begun, and has not come to its end"),
                command(action, &secret.name),
            ),
        }
        findings
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Checks everything that a rotation needs, by calls that change nothing.
    pub async fn doctor(&self, secret: &Described, rng: &mut StdRng) -> Findings {
        let mut findings = Findings::of_description(secret);
        self.check_policy(&mut findings, secret);
        self.check_configuration(&mut findings, secret);
        match self.snapshot_of(secret.clone()).await {
            Err(error) => findings.bad("value", error.to_string(), repair_of(&error, secret)),
            Ok(snapshot) => {
                self.check_value(&mut findings, &snapshot);
                self.check_permissions(&mut findings, &snapshot).await;
                self.check_ring(&mut findings, &snapshot).await;
                self.check_archive(&mut findings, &snapshot).await;
                self.check_delivery(&mut findings, &snapshot).await;
                self.check_target(&mut findings, &snapshot, rng).await;
                self.check_end(&mut findings, &snapshot);
            }
        }
        findings
    }

    fn check_policy(&self, findings: &mut Findings, secret: &Described) {
        let name = &secret.name;
        match self.session.stack.for_secret(&secret.tags, secret.as_of) {
            Err(error) => {
                let repair = match &error {
                    RotationError::InvalidPolicy { setting, .. } if setting.starts_with("tag ") => {
                        let tag = setting.trim_start_matches("tag ");
                        format!(
                            "aws secretsmanager untag-resource --secret-id {name} --tag-keys {tag} # the stack's default is in force then"
                        )
                    }
                    _ => "correct the function's variable that the message names".to_owned(),
                };
                findings.bad("policy", error.to_string(), repair);
            }
            Ok(policy) => match policy.hold_until {
                None => findings.good("policy", "every setting is usable"),
                Some(until) => findings.bad(
                    "policy",
                    format!("no rotation until {} (rotation:hold)", format_timestamp(until)),
                    format!("aws secretsmanager untag-resource --secret-id {name} --tag-keys rotation:hold"),
                ),
            },
        }
    }

    /// Whether the policy fits the kind and the schedule: `cron` too, which no test of the configuration reads.
    fn check_configuration(&self, findings: &mut Findings, secret: &Described) {
        let Ok(policy) = self.session.stack.for_secret(&secret.tags, secret.as_of) else { return };
        match self.session.kind.check_configuration(&policy, secret.rotation_rules.shortest_period()) {
            Ok(()) => findings.good("configuration", "the policy fits the kind of secret and the schedule"),
            Err(error) => findings.bad("configuration", error.to_string(), "see the message"),
        }
    }

    fn check_value(&self, findings: &mut Findings, snapshot: &Snapshot) {
        match self.session.kind.summary(&snapshot.subject(), &snapshot.current) {
            Ok(_) => findings.good("value", "it can be read, decrypted by KMS, and taken apart"),
            Err(error) => findings.bad("value", error.to_string(), "see the message"),
        }
        let bytes = snapshot.current.text().len();
        if bytes * 100 > MAX_VALUE_BYTES * NEARLY_FULL {
            let detail = format!("{bytes} of {MAX_VALUE_BYTES} bytes are used");
            findings.bad("size", detail, "move members that need not be in this secret to another one");
        } else {
            findings.good("size", format!("{bytes} of {MAX_VALUE_BYTES} bytes"));
        }
    }

    /// Whether the role may write, by two calls that change nothing. The first stores the current value again under its own version, which
    /// the service ignores. The second takes a staging label off a version that does not carry it.
    async fn check_permissions(&self, findings: &mut Findings, snapshot: &Snapshot) {
        let allow = |action: &str| format!("give the function's role secretsmanager:{action} on the secret");
        let stage = Stage::from(DOCTOR_STAGE);
        let (version, text) = (&snapshot.current_id, snapshot.current.text());
        match self.session.store.put_private(self.session.secret_id, version, text, std::slice::from_ref(&stage)).await
        {
            Ok(_) => findings.good("PutSecretValue", "allowed"),
            Err(error) => findings.bad("PutSecretValue", error.to_string(), allow("PutSecretValue")),
        }
        match self.session.take_off(stage, version).await {
            Ok(()) => findings.good("UpdateSecretVersionStage", "allowed"),
            Err(error) => {
                findings.bad("UpdateSecretVersionStage", error.to_string(), allow("UpdateSecretVersionStage"))
            }
        }
        match self.session.store.versions(self.session.secret_id).await {
            Ok(_) => findings.good("ListSecretVersionIds", "allowed"),
            Err(error) => findings.bad("ListSecretVersionIds", error.to_string(), allow("ListSecretVersionIds")),
        }
    }

    /// Whether every key of the last complete ring is there. A kind without keys has none.
    async fn check_ring(&self, findings: &mut Findings, snapshot: &Snapshot) {
        let Ok(Some(_)) = self.session.kind.ring(&snapshot.policy, &snapshot.current) else { return };
        let restore = command(Action::Restore, &snapshot.secret.name);
        match (self.require_all_keys(snapshot).await, self.session.marked_ring(&snapshot.secret).version()) {
            (Err(error @ RotationError::KeysMissing { .. }), _) => findings.bad("ring", error.to_string(), restore),
            (Err(error), _) => findings.bad("ring", error.to_string(), "see the message"),
            (Ok(_), None) => findings.good("ring", "not marked yet: the next rotation or sweep marks it as complete"),
            (Ok(Missing { staged: Some(staged), .. }), _) => {
                let detail = format!(
                    "the staged key {staged} is missing: it encrypted nothing, and the next rotation stages another"
                );
                findings.good("ring", detail);
            }
            (Ok(_), Some(marked)) => {
                findings.good("ring", format!("every key of version {marked}, the last complete one, is there"))
            }
        }
    }

    /// Whether the archive of keys can be read. A kind without keys needs none.
    async fn check_archive(&self, findings: &mut Findings, snapshot: &Snapshot) {
        let Ok(Some(_)) = self.session.kind.ring(&snapshot.policy, &snapshot.current) else { return };
        match self.session.kind.archive(&snapshot.subject(), &snapshot.current) {
            Err(error) => findings.bad("archive", error.to_string(), "correct KEY_ARCHIVE_SECRET"),
            // A stack without one keeps every key in the ring for ever; retire says so.
            Ok(None) => {}
            Ok(Some(archive)) => match archive.check(self.session.store, self.session.deadline).await {
                Ok(()) => findings.good("archive", format!("{} can be read", archive.secret)),
                Err(error) => findings.bad(
                    "archive",
                    error.to_string(),
                    format!(
                        "give the function's role secretsmanager:DescribeSecret and GetSecretValue on {}, and kms:Decrypt on its key",
                        archive.secret
                    ),
                ),
            },
        }
    }

    /// Whether the consumers have the current value. A secret without consumers has no such finding.
    async fn check_delivery(&self, findings: &mut Findings, snapshot: &Snapshot) {
        if !self.has_consumers(snapshot) {
            return;
        }
        match self.undelivered(snapshot).await {
            Ok(undelivered) => findings.delivery(undelivered, &snapshot.secret.name),
            Err(error) => findings.bad("delivery", error.to_string(), "see the message"),
        }
    }

    /// Whether a value that ends by itself is rotated before.
    fn check_end(&self, findings: &mut Findings, snapshot: &Snapshot) {
        let Some(end) = self.session.kind.expires(&snapshot.current) else { return };
        let (name, text) = (&snapshot.secret.name, format_timestamp(end));
        match snapshot.secret.next_rotation {
            Some(next) if next < end => findings.good("expires", format!("{text}, after the next rotation")),
            next => findings.bad(
                "expires",
                format!(
                    "the value ends at {text}, and the next rotation is {}",
                    next.map_or("none".to_owned(), format_timestamp)
                ),
                format!(
                    "aws secretsmanager rotate-secret --secret-id {name}, and a schedule that rotates it before its end"
                ),
            ),
        }
    }

    async fn check_issuer(&self, findings: &mut Findings, snapshot: &Snapshot, rng: &mut StdRng) {
        match self.verify(snapshot, rng).await {
            Ok(()) => {
                findings.good("issuer", "it says that the current credential works, and that a damaged one does not")
            }
            Err(error) => findings.bad("issuer", error.to_string(), "repair the issuer, or the ISSUER_* variables"),
        }
    }

    async fn check_target(&self, findings: &mut Findings, snapshot: &Snapshot, rng: &mut StdRng) {
        if self.session.kind.is_issued() {
            return self.check_issuer(findings, snapshot, rng).await;
        }
        if !K::VARIABLES.contains(&"TARGET_") {
            return findings.good("target", "this kind of secret asks no application");
        }
        if !self.session.kind.has_target() {
            return findings.bad(
                "target",
                "no application is asked: a rotation proves nothing of consumers",
                "set TARGET_VERIFY_URL and TARGET_REFRESH_URL",
            );
        }
        match self.verify(snapshot, rng).await {
            Ok(()) => findings.good("target", "the application answers, and the current value is proven"),
            Err(error) => {
                findings.bad("target", error.to_string(), "repair the application, or the TARGET_* variables")
            }
        }
    }
}

fn check_rotation(findings: &mut Findings, secret: &Described) {
    let name = &secret.name;
    if secret.deleted {
        let repair = format!("aws secretsmanager restore-secret --secret-id {name}");
        findings.bad("deletion", "the secret is scheduled for deletion", repair);
    }
    if let Some(primary) = &secret.replica_of {
        findings.bad("replica", format!("this is a replica; rotate it in {primary}"), "run doctor there");
    }
    let function = secret.rotation_function.as_deref().unwrap_or_default();
    if secret.rotation_enabled {
        findings.good("rotation", format!("enabled, by {function}"));
    } else {
        let enable = format!(
            "aws secretsmanager rotate-secret --secret-id {name} --rotation-lambda-arn {function} --rotation-rules AutomaticallyAfterDays=90 # rotates it at once; for the role that deploys"
        );
        findings.bad("rotation", "it is switched off", enable);
    }
    match secret.next_rotation {
        Some(next) if next < secret.as_of => findings.bad(
            "schedule",
            format!("overdue since {}", format_timestamp(next)),
            format!(
                "aws secretsmanager rotate-secret --secret-id {name} # the reason is in the rotation function's log"
            ),
        ),
        Some(next) => findings.good("schedule", format!("next rotation {}", format_timestamp(next))),
        None if secret.rotation_enabled => findings.good("schedule", "on demand"),
        None => {}
    }
}

fn check_versions(findings: &mut Findings, secret: &Described) {
    let name = &secret.name;
    match &secret.versions.holder(&Stage::Current) {
        Some(version) => findings.good("AWSCURRENT", format!("on version {version}")),
        None => findings.bad(
            "AWSCURRENT",
            "no version has a value: applications get nothing",
            format!("aws secretsmanager rotate-secret --secret-id {name}"),
        ),
    }
    match open_rotation(secret) {
        None => findings.good("AWSPENDING", "no rotation is open"),
        Some(version) => findings.bad(
            "AWSPENDING",
            format!("a rotation to version {version} is open; if it does not end, no other begins"),
            format!(
                "aws secretsmanager rotate-secret --secret-id {name} # takes it up again; {} gives it up",
                command(Action::Abort, name)
            ),
        ),
    }
}

/// A rotation takes three labels at most, an action three more.
fn check_stages(findings: &mut Findings, secret: &Described) {
    let used = secret.versions.all().count();
    let detail = format!("{used} of {MAX_STAGES} staging labels are used");
    if used + SPARE_STAGES <= MAX_STAGES {
        return findings.good("stages", detail);
    }
    let repair = format!(
        "a sweep takes away what actions left behind that died; take off the others that nobody needs: aws secretsmanager update-secret-version-stage --secret-id {} --version-stage LABEL --remove-from-version-id VERSION",
        secret.name
    );
    findings.bad("stages", detail, repair);
}

fn repair_of(error: &OperateError, secret: &Described) -> String {
    let name = &secret.name;
    match error.name() {
        "ValueLost" if secret.versions.holder(&marked_ring::stage()).is_some() => command(Action::Restore, name),
        "KmsDenied" => "give the function's role kms:Decrypt on the secret's key".to_owned(),
        "AccessDenied" => "give the function's role secretsmanager:GetSecretValue on the secret".to_owned(),
        "EmptyValue" => format!("aws secretsmanager rotate-secret --secret-id {name}"),
        "Unreachable" => "add a VPC endpoint for secretsmanager, or NAT, to the function's subnets".to_owned(),
        _ => "see the message".to_owned(),
    }
}

/// What to type: the command asks for the confirmation.
fn command(action: Action, name: &str) -> String {
    format!("rotation {action} {name} --reason '…'")
}
