//! What a secret's owner may choose: built-in defaults, then the stack's environment, then the secret's tags, within
//! bounds that the stack sets and a floor that nothing goes under. A function knows the settings that all kinds of secrets
//! have, and those of its own kind; any other `rotation:*` is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::document::FieldName;
use crate::environment::{Environment, invalid};
use crate::error::RotationError;
use crate::keyring::KeyFormat;
use crate::time::{format_timestamp, parse_timestamp};
use crate::token::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, TokenEncoding, TokenFormat, TokenPrefix};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest overlap that any stack can allow.
pub const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How far away the end of a hold may be, unless the stack sets `MAX_HOLD`.
pub const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The longest `MAX_HOLD` that a stack can set: ten years, which every time can be moved by.
pub const LONGEST_MAX_HOLD: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

const TAG_PREFIX: &str = "rotation:";
const EXPECTED_DATE: &str = "expected a date such as 2026-12-24 or 2026-12-24T18:00:00Z";

/// A setting, by its tag and its environment variable. One table, so that the two cannot drift apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    tag: &'static str,
    variable: &'static str,
    /// In force when neither says anything, as an operator would write it.
    default: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.tag, self.variable)
    }
}

const FIELD: Setting = Setting { tag: "rotation:field", variable: "ROTATION_FIELD", default: "the whole value" };
const OVERLAP: Setting = Setting { tag: "rotation:overlap", variable: "ROTATION_OVERLAP", default: "24h" };
const HOLD: Setting = Setting { tag: "rotation:hold", variable: "ROTATION_HOLD", default: "none" };
const VERIFY: Setting = Setting { tag: "rotation:verify", variable: "ROTATION_VERIFY", default: "before" };
const TOKEN_BYTES: Setting = Setting { tag: "rotation:token-bytes", variable: "ROTATION_TOKEN_BYTES", default: "48" };
const TOKEN_ENCODING: Setting =
    Setting { tag: "rotation:token-encoding", variable: "ROTATION_TOKEN_ENCODING", default: "base64url" };
const TOKEN_PREFIX: Setting =
    Setting { tag: "rotation:token-prefix", variable: "ROTATION_TOKEN_PREFIX", default: "none" };
const KEY_FORMAT: Setting = Setting { tag: "rotation:key-format", variable: "ROTATION_KEY_FORMAT", default: "raw" };
/// How a new key becomes primary.
pub const PROMOTION: Setting = Setting { tag: "rotation:promotion", variable: "ROTATION_PROMOTION", default: "staged" };

/// What every kind of secret has.
const COMMON_SETTINGS: [Setting; 4] = [FIELD, OVERLAP, HOLD, VERIFY];
/// The settings of kinds that make tokens.
pub const TOKEN_SETTINGS: &[Setting] = &[TOKEN_BYTES, TOKEN_ENCODING, TOKEN_PREFIX];
/// The settings of kinds that keep keyrings.
pub const KEY_SETTINGS: &[Setting] = &[KEY_FORMAT, PROMOTION];

/// When the application is asked whether it accepts the new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Before promotion, and again after it: the application accepts the token of `AWSPENDING`.
    Before,
    /// After promotion, with an automatic rollback: the application reads `AWSCURRENT` only.
    After,
}

/// How a new key becomes primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// A rotation makes the staged key primary and stages a new one: every consumer has had a key for a whole period before
    /// anything is encrypted with it.
    Staged,
    /// A rotation makes a new key primary at once: single-process applications, and emergencies.
    Immediate,
}

/// The policy in force for one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// The member of the JSON object that is rotated; `None` means the whole text.
    pub field: Option<FieldName>,
    /// How long the previous token is accepted, 0 s to 30 days.
    pub overlap: Duration,
    /// Until when no rotation may begin.
    pub hold_until: Option<SystemTime>,
    /// The format of new tokens.
    pub token: TokenFormat,
    /// When the application is asked.
    pub verify: Verify,
    /// How a keyring is written.
    pub key_format: KeyFormat,
    /// How a new key becomes primary.
    pub promotion: Promotion,
}

impl RotationPolicy {
    /// Whether every previous token is accepted for the overlap, when the schedule may rotate again after `period`.
    ///
    /// # Errors
    /// [`RotationError::InvalidPolicy`].
    pub fn check_overlap_fits(&self, period: Duration) -> Result<(), RotationError> {
        if self.overlap <= period {
            return Ok(());
        }
        let [overlap, period] = [self.overlap, period].map(humantime::format_duration);
        let problem = format!(
            "is {overlap}, and the schedule may rotate again after {period} (its period less the rotation window), which ends it early: rotate less often (aws secretsmanager rotate-secret --no-rotate-immediately --rotation-rules …), or choose a shorter overlap"
        );
        Err(RotationError::InvalidPolicy { setting: OVERLAP.to_string(), problem })
    }
}

/// What the stack fixes for all its secrets: its own choices, and the bounds for those of the tags.
#[derive(Clone, Debug)]
pub struct StackPolicy {
    settings: Vec<Setting>,
    choices: BTreeMap<&'static str, String>,
    name_prefix: Option<String>,
    allowed_fields: Vec<FieldName>,
    max_overlap: Duration,
    max_hold: Duration,
}

/// Where a choice was made, for the error that names it.
#[derive(Clone, Copy)]
enum Source {
    Environment(Setting),
    Tag(Setting),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(setting) => write!(f, "environment variable {}", setting.variable),
            Self::Tag(setting) => write!(f, "tag {}", setting.tag),
        }
    }
}

impl StackPolicy {
    /// Reads the stack's part of the policy for a kind with these settings of its own: the variables `ROTATION_*`, one for
    /// each tag, and the bounds `SECRET_NAME_PREFIX`, `ALLOWED_FIELDS` (comma-separated), `MAX_OVERLAP` and `MAX_HOLD`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] or [`RotationError::InvalidPolicy`] with the variable's name.
    pub fn from_environment(environment: &Environment, of_kind: &[Setting]) -> Result<Self, RotationError> {
        let settings = [&COMMON_SETTINGS, of_kind].concat();
        let known: Vec<_> = settings.iter().map(|setting| setting.variable).collect();
        environment.refuse_unknown("ROTATION_", &known)?;
        let choices = settings
            .iter()
            .filter_map(|setting| Some((setting.tag, environment.get(setting.variable)?.to_owned())))
            .collect();
        let field = |variable: &str, name: &str| {
            FieldName::new(name.trim()).ok_or_else(|| {
                invalid(variable, "expected member names of letters, digits, _, - and ., separated by commas")
            })
        };
        let mut allowed_fields = environment
            .get("ALLOWED_FIELDS")
            .map_or(Ok(vec![]), |list| list.split(',').map(|name| field("ALLOWED_FIELDS", name)).collect())?;
        if let Some(name) = environment.get(FIELD.variable) {
            allowed_fields.push(field(FIELD.variable, name)?);
        }
        let max_overlap = environment.duration("MAX_OVERLAP")?.unwrap_or(MAX_OVERLAP);
        if max_overlap > MAX_OVERLAP {
            return Err(invalid("MAX_OVERLAP", "expected at most 30d"));
        }
        let max_hold = environment.duration("MAX_HOLD")?.unwrap_or(DEFAULT_MAX_HOLD);
        if max_hold > LONGEST_MAX_HOLD {
            return Err(invalid("MAX_HOLD", "expected at most 3650d"));
        }
        if environment.get(HOLD.variable).is_some_and(|text| parse_date(text).is_none()) {
            return Err(invalid(HOLD.variable, EXPECTED_DATE));
        }
        let stack = Self {
            settings,
            choices,
            name_prefix: environment.get("SECRET_NAME_PREFIX").map(str::to_owned),
            allowed_fields,
            max_overlap,
            max_hold,
        };
        // The stack's own choices must hold by themselves; whether a hold is too far away, a clock tells later.
        let mut untagged = stack.clone();
        untagged.choices.remove(HOLD.tag);
        untagged.for_secret(&BTreeMap::new(), SystemTime::UNIX_EPOCH)?;
        Ok(stack)
    }

    /// The same for secrets of one kind: the settings of another are an error in their tags.
    #[must_use]
    pub fn for_kind(&self, of_kind: &[Setting]) -> Self {
        Self { settings: [&COMMON_SETTINGS, of_kind].concat(), ..self.clone() }
    }

    /// Where each setting of a secret with these tags comes from: its name, its value, and `tag`, `environment` or `default`.
    #[must_use]
    pub fn sources<'a>(&'a self, tags: &'a BTreeMap<String, String>) -> Vec<(&'static str, &'a str, &'static str)> {
        let source = |setting: &Setting| match (tags.get(setting.tag), self.choices.get(setting.tag)) {
            (Some(value), _) => (setting.tag, value.as_str(), "tag"),
            (None, Some(value)) => (setting.tag, value.as_str(), "environment"),
            (None, None) => (setting.tag, setting.default, "default"),
        };
        self.settings.iter().map(source).collect()
    }

    /// The prefix of the names that this stack may rotate.
    #[must_use]
    pub fn name_prefix(&self) -> Option<&str> {
        self.name_prefix.as_deref()
    }

    /// Whether this stack may rotate the secret.
    ///
    /// # Errors
    /// [`RotationError::NameNotAllowed`].
    pub fn check_name(&self, name: &str) -> Result<(), RotationError> {
        match &self.name_prefix {
            Some(prefix) if !name.starts_with(prefix) => {
                Err(RotationError::NameNotAllowed { name: name.to_owned(), prefix: prefix.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The policy for a secret with these tags, at the time `now`.
    ///
    /// # Errors
    /// [`RotationError::InvalidPolicy`] names the tag or the variable and says what is allowed. A tag `rotation:*`
    /// that is not known is an error too: a misspelt one would silently not be in force.
    pub fn for_secret(
        &self,
        tags: &BTreeMap<String, String>,
        now: SystemTime,
    ) -> Result<RotationPolicy, RotationError> {
        if let Some(unknown) = tags
            .keys()
            .find(|tag| tag.starts_with(TAG_PREFIX) && !self.settings.iter().any(|setting| setting.tag == tag.as_str()))
        {
            let known: Vec<_> = self.settings.iter().map(|setting| setting.tag).collect();
            return Err(RotationError::InvalidPolicy {
                setting: format!("tag {unknown}"),
                problem: format!("is not a setting of this function; known are {}", known.join(", ")),
            });
        }
        let choice = |setting: Setting| -> Option<(Source, &str)> {
            let tag = tags.get(setting.tag).map(|value| (Source::Tag(setting), value.as_str()));
            tag.or_else(|| Some((Source::Environment(setting), self.choices.get(setting.tag)?.as_str())))
        };
        let refuse =
            |source: Source, problem: String| RotationError::InvalidPolicy { setting: source.to_string(), problem };

        let field = match choice(FIELD) {
            None => None,
            Some((source, name)) => {
                let field = FieldName::new(name).filter(|field| self.allowed_fields.contains(field));
                let allowed = || match self.allowed_fields.as_slice() {
                    [] => "this stack allows no member to be chosen; set ALLOWED_FIELDS".to_owned(),
                    fields => {
                        let names: Vec<_> = fields.iter().map(FieldName::as_str).collect();
                        format!("expected one of {} (ALLOWED_FIELDS)", names.join(", "))
                    }
                };
                Some(field.ok_or_else(|| refuse(source, allowed()))?)
            }
        };
        let overlap = match choice(OVERLAP) {
            None => DAY.min(self.max_overlap),
            Some((source, text)) => humantime::parse_duration(text)
                .ok()
                .filter(|overlap| *overlap <= self.max_overlap)
                .ok_or_else(|| {
                    let most = humantime::format_duration(self.max_overlap);
                    refuse(source, format!("expected a duration such as 24h, at most {most} (MAX_OVERLAP)"))
                })?,
        };
        let hold_until = match choice(HOLD) {
            None => None,
            Some((source, text)) => {
                let latest = now + self.max_hold;
                let until = parse_date(text).filter(|until| *until <= latest).ok_or_else(|| {
                    refuse(
                        source,
                        format!(
                            "{EXPECTED_DATE}, at most {} away (MAX_HOLD; now until {})",
                            humantime::format_duration(self.max_hold),
                            format_timestamp(latest)
                        ),
                    )
                })?;
                (until > now).then_some(until)
            }
        };
        let bytes = match choice(TOKEN_BYTES) {
            None => 48,
            Some((source, text)) => text
                .parse()
                .ok()
                .filter(|bytes| (MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(bytes))
                .ok_or_else(|| {
                    refuse(source, format!("expected a number of bytes from {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES}"))
                })?,
        };
        let prefix =
            match choice(TOKEN_PREFIX) {
                None => None,
                Some((source, text)) => Some(TokenPrefix::new(text).ok_or_else(|| {
                    refuse(source, "expected 2 to 16 letters and digits, the first a letter".to_owned())
                })?),
            };
        let encoding = match choice(TOKEN_ENCODING) {
            None if prefix.is_some() => TokenEncoding::Base62,
            None => TokenEncoding::Base64Url,
            Some((source, text)) => {
                let encoding = match text {
                    "base64url" => TokenEncoding::Base64Url,
                    "hex" => TokenEncoding::Hex,
                    "base62" => TokenEncoding::Base62,
                    _ => return Err(refuse(source, "expected base64url, hex or base62".to_owned())),
                };
                if prefix.is_some() && encoding != TokenEncoding::Base62 {
                    return Err(refuse(source, format!("expected base62, because {} is set", TOKEN_PREFIX.tag)));
                }
                encoding
            }
        };
        let verify = match choice(VERIFY) {
            None | Some((_, "before")) => Verify::Before,
            Some((_, "after")) => Verify::After,
            Some((source, _)) => return Err(refuse(source, "expected before or after".to_owned())),
        };
        let key_format = match choice(KEY_FORMAT) {
            None | Some((_, "raw")) => KeyFormat::Raw,
            Some((_, "fernet")) => KeyFormat::Fernet,
            Some((_, "tink")) => KeyFormat::Tink,
            Some((source, _)) => return Err(refuse(source, "expected raw, fernet or tink".to_owned())),
        };
        let promotion = match choice(PROMOTION) {
            None | Some((_, "staged")) => Promotion::Staged,
            Some((_, "immediate")) => Promotion::Immediate,
            Some((source, _)) => return Err(refuse(source, "expected staged or immediate".to_owned())),
        };
        let token = TokenFormat { bytes, encoding, prefix };
        Ok(RotationPolicy { field, overlap, hold_until, token, verify, key_format, promotion })
    }
}

/// RFC 3339 with a time in UTC, or a date alone, which means its first moment in UTC.
fn parse_date(text: &str) -> Option<SystemTime> {
    let midnight = format!("{text}T00:00:00Z");
    parse_timestamp(text).or_else(|| parse_timestamp(&midnight))
}
