//! The policy of a secret: built-in defaults, then the stack's environment, then the secret's tags; the last one wins.
//! The stack sets bounds for the tags, and no stack can pass the limits in this module.
//!
//! Every secret has `rotation:field` and `rotation:hold`. It may have `rotation:remind` and `rotation:done…`, for members
//! that people rotate ([`by_hand`]). All other settings belong to the kinds that list them ([`SecretKind::SETTINGS`]).
//! Any other tag `rotation:*` is an error, because a misspelt setting would silently not be in force.
//!
//! [`SecretKind::SETTINGS`]: crate::kind::SecretKind::SETTINGS

mod by_hand;
mod setting;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use crate::document::FieldName;
use crate::environment::{Environment, invalid};
use crate::error::RotationError;
use crate::time::{format_timestamp, parse_timestamp};

pub use by_hand::{ByHand, REMIND, by_hand, done_tag};
pub use setting::{AnySetting, Choices, Setting, Settings, one_of};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest overlap that any stack can allow.
pub const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest time from now to the end of a hold, unless the stack sets `MAX_HOLD`.
pub const DEFAULT_MAX_HOLD: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The longest `MAX_HOLD` that a stack can set: ten years. A `SystemTime` of today plus ten years does not overflow.
pub const LONGEST_MAX_HOLD: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

const CONSUMED_SECRETS: &str = "CONSUMED_SECRETS";
const TAG_PREFIX: &str = "rotation:";
const EXPECTED_DATE: &str = "expected a date such as 2026-12-24 or 2026-12-24T18:00:00Z";

/// A setting whose bounds the stack sets. [`StackPolicy::for_secret`] reads it into a field of [`RotationPolicy`].
const fn bounded_by_stack(tag: &'static str, variable: &'static str, default_text: &'static str) -> Setting<()> {
    Setting { tag, variable: Some(variable), default_text, default: |_| (), read: |_, _| Ok(()) }
}

const ROTATION_FIELD: &str = "ROTATION_FIELD";
const ROTATION_FIELDS: &str = "ROTATION_FIELDS";
const ROTATION_HOLD: &str = "ROTATION_HOLD";
const FIELD: Setting<()> = bounded_by_stack("rotation:field", ROTATION_FIELD, "the whole value");
const HOLD: Setting<()> = bounded_by_stack("rotation:hold", ROTATION_HOLD, "none");
/// The members that one rotation replaces together, separated by spaces: each one of the stack's `ALLOWED_FIELDS`. The
/// first one stands for `rotation:field`, unless that names another of them. Only kinds whose values have several
/// members list it. [`RotationPolicy::fields`] holds the members.
pub const FIELDS: Setting<()> = bounded_by_stack("rotation:fields", ROTATION_FIELDS, "rotation:field alone");
/// How long the application accepts the previous value: 0 s to 30 days, and at most the stack's `MAX_OVERLAP`. Only
/// kinds with an overlap list it. [`RotationPolicy::overlap`] holds the value.
pub const OVERLAP: Setting<()> = bounded_by_stack("rotation:overlap", "ROTATION_OVERLAP", "24h");
/// When the function asks the application whether it accepts the new value: before promotion, or only after it. Only
/// kinds that ask an application list it.
pub const VERIFY: Setting<Verify> = Setting {
    tag: "rotation:verify",
    variable: Some("ROTATION_VERIFY"),
    default_text: "before",
    default: |_| Verify::Before,
    read: |text, _| one_of(text, &[("before", Verify::Before), ("after", Verify::After)]),
};
/// How a new key becomes primary: `staged` or `immediate`.
pub const PROMOTION: Setting<Promotion> = Setting {
    variable: Some("ROTATION_PROMOTION"),
    default_text: "staged",
    default: |_| Promotion::Staged,
    ..TOKEN_PROMOTION
};
/// How a new token becomes current: `immediate` or `staged`. The stack's variable is the one of keys, so only a tag
/// makes this setting.
pub const TOKEN_PROMOTION: Setting<Promotion> = Setting {
    tag: "rotation:promotion",
    variable: None,
    default_text: "immediate",
    default: |_| Promotion::Immediate,
    read: |text, _| one_of(text, &[("staged", Promotion::Staged), ("immediate", Promotion::Immediate)]),
};

/// The settings in the order of listings. Those with `false` appear only for kinds that list them.
const FIRST: [(&'static dyn AnySetting, bool); 5] =
    [(&FIELD, true), (&FIELDS, false), (&OVERLAP, false), (&HOLD, true), (&VERIFY, false)];

/// The settings of kinds that list `of_kind`, each once. Two kinds may read one tag differently, each with a variable of
/// its own.
fn settings(of_kind: &[&'static dyn AnySetting]) -> Vec<&'static dyn AnySetting> {
    let listed = |setting: &dyn AnySetting| of_kind.iter().any(|own| own.tag() == setting.tag());
    let first = FIRST.into_iter().filter(|(setting, always)| *always || listed(*setting)).map(|(setting, _)| setting);
    let mut settings: Vec<_> = first.collect();
    for own in of_kind {
        if settings.iter().all(|setting| (setting.tag(), setting.variable()) != (own.tag(), own.variable())) {
            settings.push(*own);
        }
    }
    settings
}

/// When the function asks the application whether it accepts the new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Before promotion, and again after it. The application has to accept the token of `AWSPENDING`.
    Before,
    /// After promotion, with an automatic rollback. The application reads `AWSCURRENT` only.
    After,
}

/// How a new key becomes primary, or a new token current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// A rotation brings the staged key, or the next token, into use and stages a new one. Every consumer has had it for
    /// a whole period before anybody uses it.
    Staged,
    /// A rotation brings a new key or token into use at once. For keys it is for single-process applications, and for
    /// emergencies.
    Immediate,
}

/// The policy in force for one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// The member of the JSON object that the function rotates; `None` means the whole text.
    pub field: Option<FieldName>,
    /// The members of the JSON object that the function rotates together, `field` among them. Empty if the whole text is
    /// rotated.
    pub fields: Vec<FieldName>,
    /// How long the application accepts the previous value: 0 s to 30 days. It has no effect for a kind that does not
    /// list [`OVERLAP`].
    pub overlap: Duration,
    /// The end of a hold. No rotation may begin before it.
    pub hold_until: Option<SystemTime>,
    /// The choices for the kind's own settings, see [`RotationPolicy::get`].
    pub own: Choices,
}

impl RotationPolicy {
    /// The value of one of the kind's settings.
    #[must_use]
    pub fn get<T>(&self, setting: &Setting<T>) -> T {
        self.own.get(setting)
    }

    /// Checks that the application accepts every previous token for the whole overlap. The schedule may rotate again
    /// after `period`, so the overlap must not be longer.
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

/// The stack's part of the policy, the same for all its secrets: the stack's own choices, and the bounds for the tags.
#[derive(Clone, Debug)]
pub struct StackPolicy {
    settings: Vec<&'static dyn AnySetting>,
    /// By variable.
    choices: BTreeMap<&'static str, String>,
    name_prefix: Option<String>,
    consumed: BTreeSet<String>,
    allowed_fields: Vec<FieldName>,
    max_overlap: Duration,
    max_hold: Duration,
}

/// The place of a choice, for the error that names it.
#[derive(Clone, Copy)]
enum Source {
    Environment(&'static str),
    Tag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

impl Source {
    fn refuse(self, problem: String) -> RotationError {
        RotationError::InvalidPolicy { setting: self.to_string(), problem }
    }
}

impl StackPolicy {
    /// Reads the stack's part of the policy for a kind with the settings `of_kind`. It reads the variables
    /// `ROTATION_*`, one for each tag, and the bounds `SECRET_NAME_PREFIX`, `ALLOWED_FIELDS` (comma-separated),
    /// `MAX_OVERLAP` and `MAX_HOLD`, and `CONSUMED_SECRETS`, see [`consumed_secrets`].
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] or [`RotationError::InvalidPolicy`] with the variable's name.
    pub fn from_environment(
        environment: &Environment,
        of_kind: &[&'static dyn AnySetting],
    ) -> Result<Self, RotationError> {
        let settings = settings(of_kind);
        let known: Vec<_> = settings.iter().filter_map(|setting| setting.variable()).collect();
        environment.refuse_unknown("ROTATION_", &known)?;
        let choices =
            known.iter().filter_map(|variable| Some((*variable, environment.get(variable)?.to_owned()))).collect();
        let field = |variable: &str, name: &str| {
            FieldName::new(name.trim()).ok_or_else(|| {
                invalid(variable, "expected member names of letters, digits, _, - and ., separated by commas")
            })
        };
        let mut allowed_fields = environment
            .get("ALLOWED_FIELDS")
            .map_or(Ok(vec![]), |list| list.split(',').map(|name| field("ALLOWED_FIELDS", name)).collect())?;
        if let Some(name) = environment.get(ROTATION_FIELD) {
            allowed_fields.push(field(ROTATION_FIELD, name)?);
        }
        for name in environment.get(ROTATION_FIELDS).iter().flat_map(|names| names.split_whitespace()) {
            allowed_fields.push(field(ROTATION_FIELDS, name)?);
        }
        let max_overlap = environment.duration("MAX_OVERLAP")?.unwrap_or(MAX_OVERLAP);
        if max_overlap > MAX_OVERLAP {
            return Err(invalid("MAX_OVERLAP", "expected at most 30d"));
        }
        let max_hold = environment.duration("MAX_HOLD")?.unwrap_or(DEFAULT_MAX_HOLD);
        if max_hold > LONGEST_MAX_HOLD {
            return Err(invalid("MAX_HOLD", "expected at most 3650d"));
        }
        if environment.get(ROTATION_HOLD).is_some_and(|text| parse_date(text).is_none()) {
            return Err(invalid(ROTATION_HOLD, EXPECTED_DATE));
        }
        let stack = Self {
            settings,
            choices,
            name_prefix: environment.get("SECRET_NAME_PREFIX").map(str::to_owned),
            consumed: consumed_secrets(environment)?,
            allowed_fields,
            max_overlap,
            max_hold,
        };
        // The stack's own choices must be valid without tags. Only a clock tells whether a hold is too far away, so the
        // hold is checked later.
        let mut untagged = stack.clone();
        untagged.choices.remove(ROTATION_HOLD);
        untagged.for_secret(&BTreeMap::new(), SystemTime::UNIX_EPOCH)?;
        Ok(stack)
    }

    /// The same stack for secrets of another kind. The settings of other kinds are an error in the tags of such
    /// secrets.
    #[must_use]
    pub fn for_kind(&self, of_kind: &[&'static dyn AnySetting]) -> Self {
        Self { settings: settings(of_kind), ..self.clone() }
    }

    /// The source of each setting of a secret with these tags: its name, its value, and `tag`, `environment` or
    /// `default`.
    #[must_use]
    pub fn sources<'a>(&'a self, tags: &'a BTreeMap<String, String>) -> Vec<(&'static str, &'a str, &'static str)> {
        let source = |setting: &&'static dyn AnySetting| {
            let tag = setting.tag();
            match (tags.get(tag), setting.variable().and_then(|variable| self.choices.get(variable))) {
                (Some(value), _) => (tag, value.as_str(), "tag"),
                (None, Some(value)) => (tag, value.as_str(), "environment"),
                (None, None) => (tag, setting.default_text(), "default"),
            }
        };
        self.settings.iter().map(source).collect()
    }

    /// The prefix of the names that this stack may rotate.
    #[must_use]
    pub fn name_prefix(&self) -> Option<&str> {
        self.name_prefix.as_deref()
    }

    /// Whether the stack names consumers of the secret, to which the function `deliver` brings its value.
    #[must_use]
    pub fn has_consumers(&self, name: &str) -> bool {
        self.consumed.contains(name)
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
    /// [`RotationError::InvalidPolicy`] names the tag or the variable, and says what is allowed. An unknown tag
    /// `rotation:*` is an error too: a misspelt setting would silently not be in force.
    pub fn for_secret(
        &self,
        tags: &BTreeMap<String, String>,
        now: SystemTime,
    ) -> Result<RotationPolicy, RotationError> {
        self.refuse_unknown(tags)?;
        by_hand(tags)?;
        let chosen = |setting: &dyn AnySetting| self.chosen(tags, setting);
        let (field, fields) = self.fields(tags)?;
        Ok(RotationPolicy {
            field,
            fields,
            overlap: match chosen(&OVERLAP) {
                None => DAY.min(self.max_overlap),
                Some((source, text)) => self.overlap(source, text)?,
            },
            hold_until: match chosen(&HOLD) {
                None => None,
                Some((source, text)) => self.hold(source, text, now)?,
            },
            own: self.own(tags)?,
        })
    }

    fn refuse_unknown(&self, tags: &BTreeMap<String, String>) -> Result<(), RotationError> {
        let is_known = |tag: &String| {
            self.settings.iter().any(|setting| setting.tag() == tag.as_str()) || by_hand::is_by_hand(tag)
        };
        let Some(unknown) = tags.keys().find(|tag| tag.starts_with(TAG_PREFIX) && !is_known(tag)) else {
            return Ok(());
        };
        let mut known: Vec<_> = self.settings.iter().map(|setting| setting.tag()).collect();
        let mut seen = BTreeSet::new();
        known.retain(|tag| seen.insert(*tag));
        Err(RotationError::InvalidPolicy {
            setting: format!("tag {unknown}"),
            problem: format!("is not a setting of this function; known are {}", known.join(", ")),
        })
    }

    /// The choice for `setting`, and its source. `None` if nothing is chosen, or if the kind does not list the setting.
    fn chosen<'a>(&'a self, tags: &'a BTreeMap<String, String>, setting: &dyn AnySetting) -> Option<(Source, &'a str)> {
        let tag = tags.get(setting.tag()).map(|value| (Source::Tag(setting.tag()), value.as_str()));
        let in_environment = || {
            let variable = setting.variable()?;
            Some((Source::Environment(variable), self.choices.get(variable)?.as_str()))
        };
        let listed = self.settings.iter().any(|own| own.tag() == setting.tag());
        tag.or_else(in_environment).filter(|_| listed)
    }

    fn field(&self, source: Source, name: &str) -> Result<FieldName, RotationError> {
        let field = FieldName::new(name).filter(|field| self.allowed_fields.contains(field));
        field.ok_or_else(|| {
            let names: Vec<_> = self.allowed_fields.iter().map(FieldName::as_str).collect();
            source.refuse(if names.is_empty() {
                "this stack allows no member to be chosen; set ALLOWED_FIELDS".to_owned()
            } else {
                format!("expected one of {} (ALLOWED_FIELDS)", names.join(", "))
            })
        })
    }

    /// The member that stands for all, and all members that are rotated together.
    fn fields(&self, tags: &BTreeMap<String, String>) -> Result<(Option<FieldName>, Vec<FieldName>), RotationError> {
        let field = match self.chosen(tags, &FIELD) {
            None => None,
            Some((source, text)) => Some((source, self.field(source, text)?)),
        };
        let Some((source, text)) = self.chosen(tags, &FIELDS) else {
            let field = field.map(|(_, field)| field);
            return Ok((field.clone(), field.into_iter().collect()));
        };
        let mut fields = vec![];
        for name in text.split_whitespace() {
            let name = self.field(source, name)?;
            if fields.contains(&name) {
                return Err(source.refuse(format!("names the member {name} twice")));
            }
            fields.push(name);
        }
        match field {
            Some((_, field)) if fields.contains(&field) => Ok((Some(field), fields)),
            Some((source @ Source::Tag(_), field)) => {
                Err(source.refuse(format!("names {field}, which is none of the members in {FIELDS}: remove this tag")))
            }
            _ if fields.is_empty() => Err(source.refuse("expected names of members, separated by spaces".to_owned())),
            _ => Ok((fields.first().cloned(), fields)),
        }
    }

    fn overlap(&self, source: Source, text: &str) -> Result<Duration, RotationError> {
        let overlap = humantime::parse_duration(text).ok().filter(|overlap| *overlap <= self.max_overlap);
        overlap.ok_or_else(|| {
            let most = humantime::format_duration(self.max_overlap);
            source.refuse(format!("expected a duration such as 24h, at most {most} (MAX_OVERLAP)"))
        })
    }

    fn hold(&self, source: Source, text: &str, now: SystemTime) -> Result<Option<SystemTime>, RotationError> {
        let latest = now + self.max_hold;
        let until = parse_date(text).filter(|until| *until <= latest).ok_or_else(|| {
            source.refuse(format!(
                "{EXPECTED_DATE}, at most {} away (MAX_HOLD; now until {})",
                humantime::format_duration(self.max_hold),
                format_timestamp(latest)
            ))
        })?;
        Ok((until > now).then_some(until))
    }

    /// The choices for the settings that have no field of their own. Each may depend on the other choices.
    fn own(&self, tags: &BTreeMap<String, String>) -> Result<Choices, RotationError> {
        let by_stack = [FIELD, FIELDS, OVERLAP, HOLD].map(|setting| setting.tag);
        let own = || self.settings.iter().filter(|setting| !by_stack.contains(&setting.tag()));
        let texts = own().filter_map(|setting| Some((setting.tag(), self.chosen(tags, *setting)?.1.to_owned())));
        let choices = Choices::from_iter(texts);
        for setting in own() {
            if let Some((source, text)) = self.chosen(tags, *setting) {
                setting.check(text, &choices).map_err(|problem| source.refuse(problem))?;
            }
        }
        Ok(choices)
    }
}

/// The full names of the secrets with consumers. `CONSUMED_SECRETS` lists them without `SECRET_NAME_PREFIX`, separated
/// by commas.
///
/// # Errors
/// [`RotationError::InvalidConfiguration`] if a name is empty or stands twice, or if the variable is misspelt.
pub fn consumed_secrets(environment: &Environment) -> Result<BTreeSet<String>, RotationError> {
    // Without it, no rotation would wait for a delivery.
    environment.refuse_unknown("CONSUMED_", &[CONSUMED_SECRETS])?;
    let prefix = environment.get("SECRET_NAME_PREFIX").unwrap_or_default();
    let mut names = BTreeSet::new();
    for name in environment.get(CONSUMED_SECRETS).map(|list| list.split(',')).into_iter().flatten().map(str::trim) {
        if name.is_empty() || !names.insert(format!("{prefix}{name}")) {
            let expected = "expected names of secrets without SECRET_NAME_PREFIX, each once, separated by commas";
            return Err(invalid(CONSUMED_SECRETS, expected));
        }
    }
    Ok(names)
}

/// Parses RFC 3339 with a time in UTC, or a date alone. A date alone means its first moment in UTC.
fn parse_date(text: &str) -> Option<SystemTime> {
    let midnight = format!("{text}T00:00:00Z");
    parse_timestamp(text).or_else(|| parse_timestamp(&midnight))
}
