//! The event that Secrets Manager sends, parsed into types that hold only valid values.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::error::RotationError;
use crate::secret::SecretText;

pub use crate::versions::{VersionId, digest};

/// One of the four steps of a rotation.
///
/// Source: AWS Secrets Manager User Guide, "Lambda rotation functions".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Make the new value and store it as `AWSPENDING`.
    CreateSecret,
    /// Have the application accept the new value.
    SetSecret,
    /// Prove that the application accepts the new value.
    TestSecret,
    /// Promote the new value to `AWSCURRENT`.
    FinishSecret,
}

impl Step {
    /// The step's name as Secrets Manager spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateSecret => "createSecret",
            Self::SetSecret => "setSecret",
            Self::TestSecret => "testSecret",
            Self::FinishSecret => "finishSecret",
        }
    }

    /// Whether an event's `name` means this step. One page of the Secrets Manager User Guide writes `create_secret`.
    fn is_called(self, name: &str) -> bool {
        let other = match self {
            Self::CreateSecret => "create_secret",
            Self::SetSecret => "set_secret",
            Self::TestSecret => "test_secret",
            Self::FinishSecret => "finish_secret",
        };
        name == self.name() || name == other
    }

    const ALL: [Self; 4] = [Self::CreateSecret, Self::SetSecret, Self::TestSecret, Self::FinishSecret];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The secret that lets a function write to a rotation from another account or through an assumed role.
///
/// Secrets Manager sends it in some events, with 36 to 256 characters. The function passes it on in PutSecretValue and
/// nowhere else. Source: API reference, `PutSecretValue`, `RotationToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationToken(SecretText);

impl RotationToken {
    /// The token, for PutSecretValue.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// The event of one rotation step. Unknown members are ignored.
///
/// This project has a type of its own because of the type in `aws_lambda_events` 1.2. There, the `step` of
/// `SecretsManagerSecretRotationEvent` is a `String`, and `RotationToken` is missing. The token would be dropped, or
/// printed with the catch-all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationEvent {
    /// The step to perform.
    pub step: Step,
    /// The ARN of the secret, or its name in an event written by hand.
    pub secret_id: String,
    /// The version that this rotation creates, by its ClientRequestToken of 32 to 64 characters.
    pub version: VersionId,
    /// The token, if Secrets Manager sent one.
    pub rotation_token: Option<RotationToken>,
}

impl RotationEvent {
    /// Parses an event.
    ///
    /// ```
    /// use rotation::event::{RotationEvent, Step};
    ///
    /// let event = RotationEvent::parse(serde_json::json!({
    ///     "Step": "createSecret",
    ///     "SecretId": "arn:aws:secretsmanager:us-east-1:111122223333:secret:shop/admin-token-AbCdEf",
    ///     "ClientRequestToken": "b6e2c9f1-0d5a-4c39-9f57-6f0e6a1c2d3e",
    /// })).unwrap();
    /// assert_eq!(event.step, Step::CreateSecret);
    /// ```
    ///
    /// # Errors
    /// [`RotationError::InvalidEvent`] names the member and the shape of its value, never the value: a foreign event
    /// may hold anything.
    pub fn parse(event: Value) -> Result<Self, RotationError> {
        let Value::Object(mut members) = event else {
            return Err(invalid("event", format!("expected an object, got {}", shape(&event))));
        };
        // The member is optional, so null means the same as no member.
        if members.get("RotationToken").is_some_and(Value::is_null) {
            members.remove("RotationToken");
        }
        let mut text = |name: &'static str| match members.remove(name) {
            Some(Value::String(text)) => Ok(Some(text)),
            None => Ok(None),
            Some(other) => Err(invalid(name, format!("expected a string, got {}", shape(&other)))),
        };
        let (step, secret_id) = (text("Step")?, text("SecretId")?);
        let (version, rotation_token) = (text("ClientRequestToken")?, text("RotationToken")?.map(SecretText::new));

        let missing = |name| {
            invalid(
                name,
                "is missing: this function takes the rotation events of Secrets Manager; see tests/events for examples"
                    .into(),
            )
        };
        let step = step.ok_or_else(|| missing("Step"))?;
        let step = Step::ALL.into_iter().find(|known| known.is_called(&step)).ok_or_else(|| {
            invalid(
                "Step",
                format!(
                    "expected createSecret, setSecret, testSecret or finishSecret, got a string of {} characters",
                    step.chars().count()
                ),
            )
        })?;
        let secret_id = secret_id.ok_or_else(|| missing("SecretId"))?;
        // The API reference sets these bounds for SecretId and ClientRequestToken.
        if !(1..=2048).contains(&secret_id.len()) {
            return Err(invalid("SecretId", format!("expected 1 to 2048 characters, got {}", secret_id.len())));
        }
        let version = version.ok_or_else(|| missing("ClientRequestToken"))?;
        if !(32..=64).contains(&version.len()) || !version.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(invalid(
                "ClientRequestToken",
                format!("expected 32 to 64 printable characters, got {} bytes", version.len()),
            ));
        }
        let rotation_token = match rotation_token {
            Some(token) if !(36..=256).contains(&token.len()) => {
                return Err(invalid("RotationToken", format!("expected 36 to 256 characters, got {}", token.len())));
            }
            token => token.map(RotationToken),
        };
        Ok(Self { step, secret_id, version: VersionId::new(version), rotation_token })
    }
}

fn invalid(field: &'static str, problem: String) -> RotationError {
    RotationError::InvalidEvent { field, problem }
}

fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(_) => "a number".into(),
        Value::String(text) => format!("a string of {} characters", text.chars().count()),
        Value::Array(items) => format!("an array of {} items", items.len()),
        Value::Object(members) => format!("an object of {} members", members.len()),
    }
}
