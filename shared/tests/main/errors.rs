//! Errors: one stable name each, and a message that says what to do.

use std::collections::BTreeSet;
use std::time::Duration;

use lambda_runtime::Diagnostic;
use rotation::error::{IssuerError, Restored, RotationError};
use rotation::event::VersionId;
use rotation::keyring::KeyringError;
use rotation::store::{StoreError, StoreErrorKind};
use rotation::time::parse_timestamp;

/// Every error: its name, which alarms and dashboards are made of, and the part of its message that says what to do.
/// A change here is a change of what users rely on.
fn golden() -> Vec<(&'static str, RotationError, &'static str)> {
    use IssuerError as I;
    use RotationError as E;
    let name = || "shop/admin-token".to_owned();
    let version = || VersionId::new("v-1".to_owned());
    let until = parse_timestamp("2026-12-24T18:00:00Z").unwrap();
    let field = || "ADMIN_TOKEN".to_owned();
    let key = "1a2b3c4d".parse().unwrap();
    let store = |kind| E::Store(StoreError { operation: "GetSecretValue", kind, detail: Some("code".to_owned()) });
    let failed =
        |restored| E::VerificationFailed { version: version(), reason: Box::new(E::TargetAcceptsAnyToken), restored };
    let issuer = || "oauth-issuer".to_owned();
    vec![
        (
            "InvalidEvent",
            E::InvalidEvent { field: "Step", problem: "is missing".to_owned() },
            "event member Step: is missing",
        ),
        (
            "InvalidConfiguration",
            E::InvalidConfiguration { variable: "AWS_REGION".to_owned(), problem: "is not set".to_owned() },
            "environment variable AWS_REGION: is not set",
        ),
        (
            "InsecureUrl",
            E::InsecureUrl { variable: "TARGET_VERIFY_URL".to_owned() },
            "TARGET_VERIFY_URL: an http:// URL would send the secret in clear text; use https://",
        ),
        (
            "InvalidPolicy",
            E::InvalidPolicy { setting: "tag rotation:verify".to_owned(), problem: "expected x".to_owned() },
            "tag rotation:verify: expected x",
        ),
        (
            "NameNotAllowed",
            E::NameNotAllowed { name: name(), prefix: "bank/".to_owned() },
            "rename the secret, or rotate it with the stack that owns it",
        ),
        (
            "ScheduledForDeletion",
            E::ScheduledForDeletion { name: name() },
            "aws secretsmanager restore-secret --secret-id shop/admin-token",
        ),
        (
            "ReplicaRegion",
            E::ReplicaRegion { name: name(), primary_region: "eu-west-1".to_owned() },
            "the one in eu-west-1: rotate it there",
        ),
        (
            "RotationNotEnabled",
            E::RotationNotEnabled { name: name() },
            "aws secretsmanager describe-secret --secret-id shop/admin-token",
        ),
        (
            "OnHold",
            E::OnHold { name: name(), until },
            "until 2026-12-24T18:00:00Z (rotation:hold): remove the tag to rotate earlier",
        ),
        (
            "NotDelivered",
            E::NotDelivered { name: name(), since: until },
            "`rotation deliver shop/admin-token` says what is missing",
        ),
        ("UnknownVersion", E::UnknownVersion { version: version(), holder: None }, "start a rotation with"),
        ("NotPending", E::NotPending { version: version(), holder: Some(version()) }, "run rotate-secret again"),
        (
            "NotPending",
            E::NotPending { version: version(), holder: None },
            "v-1 is not AWSPENDING: this rotation is over",
        ),
        (
            "RolledBack",
            E::RolledBack { version: version() },
            "find the cause in the log of that time, then run rotate-secret",
        ),
        ("CurrentChanged", E::CurrentChanged { name: name() }, "run rotate-secret again"),
        ("PromotionConflict", E::PromotionConflict { name: name() }, "the retry will see it"),
        (
            "OverlapTooShort",
            E::OverlapTooShort { name: name(), until },
            "only until 2026-12-24T18:00:00Z, less than half of the overlap from now: it was given up",
        ),
        (
            "PendingTooOld",
            E::PendingTooOld { name: name(), created: until },
            "was made at 2026-12-24T18:00:00Z, too long ago to be promoted: it was given up; run rotate-secret again",
        ),
        (
            "KeyringInvalid",
            E::Keyring(KeyringError::Duplicate { id: key }),
            "the keyring is not usable: key 1a2b3c4d stands in the keyring twice: remove one of them",
        ),
        (
            "WrongKind",
            E::WrongKind {
                found: "a keyring",
                sign: "member A_RING".to_owned(),
                rotates: "tokens",
                function: "…encryption-key",
            },
            "(member A_RING), and this function rotates tokens, which would destroy it: nothing was written; have the secret rotated by the function for its kind (…encryption-key), or correct the tag rotation:field",
        ),
        (
            "InvalidValue",
            E::InvalidValue { expected: "pepper of 32 bytes in hex", problem: "member A holds 31 bytes".to_owned() },
            "the value is no pepper of 32 bytes in hex: member A holds 31 bytes; nothing was written: store one",
        ),
        (
            "NextTokenUnproven",
            E::NextTokenUnproven { name: name(), member: "ADMIN_TOKEN_NEXT".to_owned() },
            "nothing proves that every server of secret shop/admin-token holds its next token (member ADMIN_TOKEN_NEXT), so promoting it could lock clients out: nothing was written; have the function deliver bring the value to the secret's consumers (CONSUMED_SECRETS), or have every instance asked (TARGET_VERIFY_URL and TARGET_INSTANCES), then run rotate-secret again",
        ),
        (
            "StagedTooYoung",
            E::StagedTooYoung { name: name(), key, from: until },
            "rotate from 2026-12-24T18:00:00Z on; or have every instance asked (TARGET_INSTANCES, without CONSUMERS_KEYRING_AWARE); or, in an emergency, tag the secret rotation:promotion=immediate",
        ),
        (
            "ConsumersUnproven",
            E::ConsumersUnproven { problem: "do this".to_owned() },
            "unreadable for consumers that do not read the whole keyring: do this",
        ),
        (
            "KeysMissing",
            E::KeysMissing { name: name(), version: version(), keys: vec![key] },
            "have it leave the value alone (Terraform: `lifecycle { ignore_changes = [secret_string] }`), then put the keys back with the action restore",
        ),
        (
            "MarkedRingUnreadable",
            E::MarkedRingUnreadable { name: name(), version: version(), reason: Box::new(E::EmptyValue) },
            "if format or member were changed on purpose, the action forget of operate marks the current ring instead",
        ),
        (
            "TooFewStages",
            E::TooFewStages { name: name(), used: 19, needed: 2 },
            "uses 19 of its 20 staging labels, and 2 more are needed: nothing was written",
        ),
        (
            "KeyringUnproven",
            E::KeyringUnproven { problem: "it lacks key 1a2b3c4d".to_owned() },
            "failed its proof: it lacks key 1a2b3c4d; a pending version is given up: run rotate-secret again",
        ),
        (
            "CredentialUnavailable",
            E::CredentialUnavailable { secret: "shop/token".to_owned(), reason: Box::new(E::EmptyValue) },
            "the credential for the target could not be read from secret shop/token: the current value is empty",
        ),
        (
            "ArchiveUnavailable",
            E::ArchiveUnavailable { secret: "shop/key-archive".to_owned(), reason: Box::new(E::EmptyValue) },
            "the archive of keys, secret shop/key-archive, cannot be used: the current value is empty",
        ),
        (
            "ArchiveFull",
            E::ArchiveFull { bytes: 65_537 },
            "it would have 65537 bytes and Secrets Manager takes 65536; it holds every key that became current",
        ),
        (
            "InvalidArchive",
            E::InvalidArchive { problem: "entry 2: expected times as RFC 3339".to_owned() },
            "not as a rotation writes it: entry 2: expected times as RFC 3339",
        ),
        ("ValueMissing", E::ValueMissing { version: version() }, "run rotate-secret again"),
        (
            "TimeTooShort",
            E::TimeTooShort { left: Duration::from_millis(2_900), needed: Duration::from_millis(35_100) },
            "2 s are left and promoting needs 36 s, so that a bad value can be put back: raise the function's timeout",
        ),
        (
            "FieldNotChosen",
            E::FieldNotChosen,
            "name the member to rotate with the tag rotation:field (or ROTATION_FIELD)",
        ),
        (
            "NotAnObject",
            E::NotAnObject { field: field(), problem: "not JSON" },
            "store a JSON object, or remove the tag rotation:field",
        ),
        (
            "FieldMissing",
            E::FieldMissing { field: field() },
            "no member ADMIN_TOKEN: add it, or correct the tag rotation:field",
        ),
        (
            "FieldNotText",
            E::FieldNotText { field: field(), problem: "null" },
            "member ADMIN_TOKEN of the JSON value is null: expected a string that is not empty",
        ),
        ("FieldRepeated", E::FieldRepeated { field: field() }, "remove all but one"),
        (
            "EmptyValue",
            E::EmptyValue,
            "store a value, or run `aws secretsmanager rotate-secret`, which fills an empty JSON object",
        ),
        (
            "ValueLost",
            E::ValueLost {
                name: name(),
                current: version(),
                lost: vec!["K".to_owned(), "K_RING".to_owned()],
                previous: Some(VersionId::new("v-0".to_owned())),
            },
            "is an empty object, and version v-0 had K, K_RING: nothing was written; put it back with `aws secretsmanager update-secret-version-stage --secret-id shop/admin-token --version-stage AWSCURRENT --remove-from-version-id v-1 --move-to-version-id v-0`",
        ),
        (
            "ValueTooLarge",
            E::ValueTooLarge { bytes: 65_537 },
            "65537 bytes and Secrets Manager takes 65536: remove members",
        ),
        ("ValueUnchanged", E::ValueUnchanged { version: version() }, "it was given up; run rotate-secret again"),
        (
            "TargetUnavailable",
            E::TargetUnavailable { operation: "verify", problem: "status 503".to_owned() },
            "(status 503): check the application, its DNS name, and this function's subnets and security groups",
        ),
        (
            "TargetFailed",
            E::TargetFailed { operation: "refresh", status: 404 },
            "answered refresh with status 404: check TARGET_REFRESH_URL",
        ),
        (
            "TargetRedirects",
            E::TargetRedirects { operation: "verify", status: 302 },
            "set TARGET_VERIFY_URL to the final address",
        ),
        ("RefreshRefused", E::RefreshRefused, "is the header right (TARGET_HEADER)?"),
        (
            "TargetRefused",
            E::TargetRefused { which: "pending", hint: ": do this" },
            "the target refuses the pending token: do this",
        ),
        (
            "TargetAcceptsRevoked",
            E::TargetAcceptsRevoked,
            "still accepts a token that was revoked: does it read this secret",
        ),
        ("TargetAcceptsAnyToken", E::TargetAcceptsAnyToken, "TARGET_VERIFY_URL must name an endpoint that requires"),
        (
            "InstanceMissing",
            E::InstanceMissing { operation: "refresh", seen: 2, expected: 3 },
            "2 of 3 instances answered refresh in time: a missing one would not know the new value until its cache expires; check it, or correct TARGET_INSTANCES",
        ),
        (
            "VerificationFailed",
            failed(Restored::Yes(VersionId::new("v-0".to_owned()))),
            "version v-1 did not verify (the target accepts a random token, so its answer proves nothing: TARGET_VERIFY_URL must name an endpoint that requires the admin token); version v-0 is AWSCURRENT again",
        ),
        ("VerificationFailed", failed(Restored::ChangedSince), "the secret was changed since, and that change stands"),
        ("RollbackFailed", failed(Restored::NothingToRestore), "it is still AWSCURRENT"),
        (
            "RollbackFailed",
            failed(Restored::MustStay),
            "it is still AWSCURRENT, because data may already be encrypted with its primary key",
        ),
        (
            "RollbackFailed",
            failed(Restored::Failed(StoreError {
                operation: "UpdateSecretVersionStage",
                kind: StoreErrorKind::Throttled,
                detail: None,
            })),
            "putting the previous version back FAILED (UpdateSecretVersionStage: throttled",
        ),
        (
            "SecretNotFound",
            store(StoreErrorKind::SecretNotFound),
            "does not exist in this Region and account, or has no value yet (code)",
        ),
        ("BinarySecret", store(StoreErrorKind::Binary), "GetSecretValue: the value is a SecretBinary"),
        ("StageConflict", store(StoreErrorKind::Conflict), "nothing was changed"),
        ("AccessDenied", store(StoreErrorKind::AccessDenied), "give the function's role this action on the secret"),
        ("KmsDenied", store(StoreErrorKind::Kms), "give the function's role kms:Decrypt and kms:GenerateDataKey"),
        ("Throttled", store(StoreErrorKind::Throttled), "Secrets Manager will repeat the rotation"),
        ("Unreachable", store(StoreErrorKind::Unreachable), "VPC endpoint or NAT missing? (code)"),
        ("ServiceFailure", store(StoreErrorKind::Service), "Secrets Manager will repeat the rotation"),
        ("CallRejected", store(StoreErrorKind::Rejected), "the service refused the call (code)"),
        ("IssuerMissing", E::Issuer(I::IssuerMissing { function: issuer() }), "oauth-issuer does not exist: deploy"),
        (
            "IssuerDenied",
            E::Issuer(I::IssuerDenied { function: issuer(), problem: "AccessDenied".to_owned() }),
            "give this function's role lambda:InvokeFunction on it; nothing was issued",
        ),
        ("IssuerThrottled", E::Issuer(I::IssuerThrottled { function: issuer() }), "will repeat the rotation; nothing"),
        (
            "IssuerTimedOut",
            E::Issuer(I::IssuerTimedOut { function: issuer(), operation: "create" }),
            "give it a timeout below ISSUER_TIMEOUT",
        ),
        (
            "IssuerFailed",
            E::Issuer(I::IssuerFailed { function: issuer(), operation: "create", problem: "it threw".to_owned() }),
            "failed at create (it threw): look into its log",
        ),
        (
            "IssuerAnswer",
            E::Issuer(I::IssuerAnswer { function: issuer(), operation: "verify", problem: "no JSON".to_owned() }),
            "answered verify with no JSON: correct it",
        ),
        (
            "IssuerAcceptsAny",
            E::Issuer(I::IssuerAcceptsAny { function: issuer() }),
            "have verify ask the provider with the members that it is given",
        ),
        (
            "CredentialUnchanged",
            E::Issuer(I::CredentialUnchanged { function: issuer() }),
            "have create make a new one beside it",
        ),
        (
            "CredentialRefused",
            E::Issuer(I::CredentialRefused { function: issuer(), which: "pending" }),
            "says that the pending credential does not work",
        ),
        ("CurrentRefused", E::Issuer(I::CurrentRefused { function: issuer() }), "use the action put of operate"),
        (
            "CredentialExpired",
            E::Issuer(I::CredentialExpired { function: issuer(), version: version() }),
            "that has expired already: nothing was stored",
        ),
        ("NoRandomness", E::NoRandomness, "nothing was changed, Secrets Manager will repeat the rotation"),
    ]
}

#[test]
fn every_error_has_a_stable_name_and_says_what_to_do() {
    for (name, error, advice) in golden() {
        assert_eq!(error.name(), name, "{error}");
        assert!(error.to_string().contains(advice), "{name}: {error}");
    }
}

#[test]
fn no_error_is_missing_from_the_golden_list() {
    let listed: BTreeSet<_> = golden().into_iter().map(|(name, ..)| name).collect();
    let golden = golden();
    let variants = golden.iter().map(|(_, error, _)| variant(&format!("{error:?}")));
    assert_eq!(variants.collect::<BTreeSet<_>>(), RotationError::VARIANTS.iter().map(ToString::to_string).collect());
    assert!(IssuerError::VARIANTS.iter().all(|name| listed.contains(name)), "an error of issuers is missing");
    // The names of failed calls, as they stand in the source.
    let (_, body) = include_str!("../../src/error/store.rs").split_once("fn told(self)").unwrap();
    let (body, _) = body.split_once("\n    }").unwrap();
    let of_calls: BTreeSet<_> = body.split("Self::").skip(1).filter_map(|rest| rest.split('"').nth(1)).collect();
    assert!(of_calls.len() > 8 && of_calls.is_subset(&listed), "{of_calls:?}");
}

fn variant(debug: &str) -> String {
    debug.split([' ', '{', '(']).next().unwrap().to_owned()
}

#[test]
fn two_kinds_of_error_never_share_a_name() {
    // By name, the variants that carry it; the inner enum of a failed call counts as its own variants.
    let mut seen = std::collections::BTreeMap::<&str, BTreeSet<String>>::new();
    for (name, error, _) in golden() {
        let kind = match &error {
            RotationError::Store(error) => format!("{:?}", error.kind),
            RotationError::Issuer(error) => variant(&format!("{error:?}")),
            error => variant(&format!("{error:?}")),
        };
        seen.entry(name).or_default().insert(kind);
    }
    assert!(seen.values().all(|kinds| kinds.len() == 1), "{seen:?}");
}

#[test]
fn a_name_fits_a_metric_dimension_and_an_error_type() {
    for (name, ..) in golden() {
        assert!(name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphabetic()), "{name}");
    }
}

#[test]
fn lambda_answers_with_the_name_as_error_type_and_the_message() {
    for (name, error, _) in golden() {
        let message = error.to_string();
        let diagnostic = Diagnostic::from(error);
        assert_eq!((diagnostic.error_type.as_str(), diagnostic.error_message), (name, message));
    }
}

#[test]
fn documents_say_what_to_do_about_every_error() {
    let page = include_str!("../../README.md");
    let table = page.split("\n## Errors\n").nth(1).unwrap().split("\n## ").next().unwrap();
    for (name, _, _) in golden() {
        assert!(table.contains(&format!("`{name}`")), "{name} is not in the table of shared/README.md");
    }
}
