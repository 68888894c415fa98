//! One setting: its tag, its environment variable, its default and its bounds.

use std::collections::BTreeMap;
use std::fmt;

/// A setting of type `T`. A secret's tag wins over the stack's environment variable, and the variable wins over the
/// default.
///
/// A kind of secret declares its settings beside its code. It lists them in [`SecretKind::SETTINGS`], and reads them
/// with [`RotationPolicy::get`]. If [`read`](Self::read) refuses a text, the rotation fails with [`InvalidPolicy`]
/// before any step begins.
///
/// ```
/// use rotation::policy::{AnySetting, Choices, Setting};
///
/// /// How many old peppers the secret keeps, 1 to 9.
/// const KEPT: Setting<u8> = Setting {
///     tag: "rotation:kept",
///     variable: Some("ROTATION_KEPT"),
///     default_text: "3",
///     default: |_| 3,
///     read: |text, _| match text.parse() {
///         Ok(kept @ 1..=9) => Ok(kept),
///         _ => Err("expected a number from 1 to 9".to_owned()),
///     },
/// };
///
/// assert_eq!(Choices::default().get(&KEPT), 3);
/// assert_eq!(KEPT.check("10", &Choices::default()), Err("expected a number from 1 to 9".to_owned()));
/// ```
///
/// [`SecretKind::SETTINGS`]: crate::kind::SecretKind::SETTINGS
/// [`RotationPolicy::get`]: super::RotationPolicy::get
/// [`InvalidPolicy`]: crate::error::RotationError::InvalidPolicy
pub struct Setting<T> {
    /// The secret's tag. It begins with `rotation:`.
    pub tag: &'static str,
    /// The stack's environment variable. It begins with `ROTATION_`. With `None`, only a tag makes the setting.
    pub variable: Option<&'static str>,
    /// The default as an operator would write it. `status` shows it.
    pub default_text: &'static str,
    /// The value if neither tag nor variable is set. It may depend on the other choices.
    pub default: fn(&Choices) -> T,
    /// Parses the text of a tag or a variable. `Err` says what is expected. The result may depend on the other choices.
    pub read: fn(&str, &Choices) -> Result<T, String>,
}

impl<T> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag)
    }
}

impl<T> fmt::Display for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag)?;
        self.variable.map_or(Ok(()), |variable| write!(f, " ({variable})"))
    }
}

/// A setting of any type.
pub trait AnySetting: fmt::Debug + Sync {
    /// See [`Setting::tag`].
    fn tag(&self) -> &'static str;

    /// See [`Setting::variable`].
    fn variable(&self) -> Option<&'static str>;

    /// See [`Setting::default_text`].
    fn default_text(&self) -> &'static str;

    /// Checks that `text` may be chosen beside `choices`.
    ///
    /// # Errors
    /// A text that says what is expected.
    fn check(&self, text: &str, choices: &Choices) -> Result<(), String>;
}

impl<T> AnySetting for Setting<T> {
    fn tag(&self) -> &'static str {
        self.tag
    }

    fn variable(&self) -> Option<&'static str> {
        self.variable
    }

    fn default_text(&self) -> &'static str {
        self.default_text
    }

    fn check(&self, text: &str, choices: &Choices) -> Result<(), String> {
        (self.read)(text, choices).map(drop)
    }
}

/// The settings of a kind of secret, as [`SecretKind::SETTINGS`](crate::kind::SecretKind::SETTINGS) lists them.
pub type Settings = &'static [&'static dyn AnySetting];

/// The texts of tags and environment, by tag. In a policy in force, each setting has accepted its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices(BTreeMap<&'static str, String>);

impl Choices {
    /// Whether a tag or the environment sets `setting`.
    #[must_use]
    pub fn has<T>(&self, setting: &Setting<T>) -> bool {
        self.0.contains_key(setting.tag)
    }

    /// The value of `setting`, or its default. The default also applies if the kind does not list the setting.
    #[must_use]
    pub fn get<T>(&self, setting: &Setting<T>) -> T {
        let chosen = self.0.get(setting.tag).and_then(|text| (setting.read)(text, self).ok());
        chosen.unwrap_or_else(|| (setting.default)(self))
    }
}

impl FromIterator<(&'static str, String)> for Choices {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(choices: I) -> Self {
        Self(choices.into_iter().collect())
    }
}

/// Finds the value with the name `text` among `values`, for [`Setting::read`].
///
/// # Errors
/// A text that lists the expected names.
///
/// ```
/// use rotation::policy::one_of;
///
/// let sides = [("left", -1), ("right", 1), ("both", 0)];
/// assert_eq!(one_of("right", &sides), Ok(1));
/// assert_eq!(one_of("Right", &sides), Err("expected left, right or both".to_owned()));
/// ```
pub fn one_of<T: Copy>(text: &str, values: &[(&str, T)]) -> Result<T, String> {
    let found = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("expected {} or {last}", rest.join(", ")),
            _ => format!("expected {}", names.concat()),
        }
    })
}
