//! A notification: one event of a rotation, as one JSON message and as attributes.
//!
//! The message is a custom notification of Amazon Q Developer in chat applications (formerly AWS Chatbot), which shows
//! it in Slack and Microsoft Teams. Source of the schema:
//! <https://docs.aws.amazon.com/chatbot/latest/adminguide/custom-notifs.html>, "Event schema".
//! The attributes hold the same facts for filter policies of SNS, and for programs.
//!
//! A notification never holds a secret value. It is sent at least once: a reader drops a second message with the same
//! [`Notification::id`].
//!
//! # Why it is so
//!
//! - The page of the schema names the members, and its limits are not stored with this project. Only two are confirmed:
//!   250 characters of a title and 8,000 of a description. All other texts stay far below them.
//! - Names and reasons stand in code spans. Slack finds no mention and no link there, and Teams no formatting.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::time::format_timestamp;
use crate::versions::{VersionId, digest};

/// The version of the facts: it changes when a fact is renamed, removed, or means something else.
pub const SCHEMA: &str = "1";

/// The longest name of a secret (Secrets Manager API reference, CreateSecret).
const MAX_NAME: usize = 512;
const MAX_SUBJECT: usize = 99;
const MAX_REASON: usize = 1000;
const MAX_STEP: usize = 800;
const MAX_STEPS: usize = 5;
/// The longest text for which the published page was not found to give a limit.
const MAX_TEXT: usize = 200;
/// The most keys that a description names.
const MAX_KEYS: usize = 20;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The version became current, and was verified.
    Promoted {
        /// The end of the time in which the application accepts the token before; `None` for a secret without.
        accepted_until: Option<SystemTime>,
    },
    /// Every consumer has the current value.
    Delivered,
    /// A consumer cannot get the current value without a person.
    DeliveryFailed {
        /// The consumer, and why.
        reason: String,
    },
    /// A consumer lacks the current value for longer than a quarter of the overlap.
    DeliveryLate {
        /// Since when.
        since: SystemTime,
        /// The consumer, and why.
        reason: String,
    },
    /// The application refuses the token before.
    OverlapEnded,
    /// A rotation gave up, or does not come to its end.
    RotationFailed {
        /// The error's stable name.
        error: String,
        /// The error's message.
        reason: String,
    },
    /// Keys disappeared from the ring by somebody else's hand.
    KeysMissing {
        /// Their ids.
        keys: Vec<String>,
    },
    /// A rotation is due.
    Due {
        /// Since when.
        since: SystemTime,
    },
}

impl State {
    /// The state's stable name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Promoted { .. } => "Promoted",
            Self::Delivered => "Delivered",
            Self::DeliveryFailed { .. } => "DeliveryFailed",
            Self::DeliveryLate { .. } => "DeliveryLate",
            Self::OverlapEnded => "OverlapEnded",
            Self::RotationFailed { .. } => "RotationFailed",
            Self::KeysMissing { .. } => "KeysMissing",
            Self::Due { .. } => "Due",
        }
    }

    /// Whether a person has to do something.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        !matches!(self, Self::Promoted { .. } | Self::Delivered | Self::OverlapEnded)
    }

    fn heading(&self) -> &'static str {
        match self {
            Self::Promoted { .. } => "Secret rotated",
            Self::Delivered => "Secret delivered",
            Self::DeliveryFailed { .. } => "Delivery failed",
            Self::DeliveryLate { .. } => "Delivery is late",
            Self::OverlapEnded => "Old token refused",
            Self::RotationFailed { .. } => "Rotation failed",
            Self::KeysMissing { .. } => "Keys are missing",
            Self::Due { .. } => "Rotation is due",
        }
    }

    fn description(&self) -> String {
        match self {
            Self::Promoted { accepted_until: None } => "A new version is current, and was verified.".to_owned(),
            Self::Promoted { accepted_until: Some(until) } => format!(
                "A new version is current, and was verified. The application accepts the old token until {}.",
                format_timestamp(*until)
            ),
            Self::Delivered => "Every consumer has the current version.".to_owned(),
            Self::DeliveryFailed { reason } => format!(
                "A consumer does not have the current version. Until it has, nothing is rotated or revoked: {}",
                span(reason, MAX_REASON)
            ),
            Self::DeliveryLate { since, reason } => format!(
                "A consumer does not have the current version since {}. Until it has, nothing is rotated or revoked: {}",
                format_timestamp(*since),
                span(reason, MAX_REASON)
            ),
            Self::OverlapEnded => "The application refuses the token before the current one.".to_owned(),
            Self::RotationFailed { error, reason } => {
                format!("{}: {}", span(error, MAX_TEXT), span(reason, MAX_REASON))
            }
            Self::KeysMissing { keys } => {
                let named: Vec<_> = keys.iter().take(MAX_KEYS).map(|key| span(key, MAX_TEXT)).collect();
                let more = match keys.len().saturating_sub(MAX_KEYS) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let named = named.join(", ");
                format!("The ring lacks keys {named}{more}. What they encrypted cannot be read until they are back.")
            }
            Self::Due { since } => format!("A rotation is due since {}.", format_timestamp(*since)),
        }
    }
}

/// An attribute of a message for filter policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// Its value, which is never empty.
    pub value: String,
    /// Its type as SNS names it: `String` or `Number`.
    pub data_type: &'static str,
}

/// One event of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The secret's name.
    pub secret: String,
    /// The version that the event is about: that of the rotation, or the current one.
    pub version: VersionId,
    /// When it happened, or was found.
    pub at: SystemTime,
    /// What has happened.
    pub state: State,
    /// Commands that repair it. At most five are shown, each with at most 800 characters.
    pub next_steps: Vec<String>,
}

impl Notification {
    /// The id of this version and state. It is the same for each sending. Of one version, two values may be due at
    /// different times.
    #[must_use]
    pub fn id(&self) -> String {
        let due = if let State::Due { since } = &self.state { format_timestamp(*since) } else { String::new() };
        let parts = [self.secret.as_str(), self.version.as_str(), self.state.name(), &due];
        digest(parts.into_iter().filter(|part| !part.is_empty()))
    }

    /// The subject of an email: at most 99 printable ASCII characters (SNS API reference, Publish).
    #[must_use]
    pub fn subject(&self) -> String {
        let subject = self.title();
        if subject.len() <= MAX_SUBJECT { subject } else { format!("{}...", &subject[..MAX_SUBJECT - 3]) }
    }

    /// The title in plain text. A heading and a name are ASCII.
    fn title(&self) -> String {
        let name: String = name(&self.secret).chars().take(MAX_TEXT).collect();
        format!("{}: {name}", self.state.heading())
    }

    /// The facts by their names, which are the attributes. Their number is at most nine.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("schema", SCHEMA.to_owned()),
            ("id", self.id()),
            ("state", self.state.name().to_owned()),
            ("attention", self.state.needs_attention().to_string()),
            ("secret", name(&self.secret)),
            ("secretVersion", plain(self.version.as_str(), MAX_TEXT)),
            ("at", format_timestamp(self.at)),
        ];
        match &self.state {
            State::Promoted { accepted_until: Some(until) } => facts.push(("acceptedUntil", format_timestamp(*until))),
            State::RotationFailed { error, .. } => facts.push(("error", plain(error, MAX_TEXT))),
            State::Due { since } | State::DeliveryLate { since, .. } => facts.push(("since", format_timestamp(*since))),
            _ => {}
        }
        facts
    }

    /// The same facts as message attributes. SNS delivers at most ten to a queue with raw message delivery (SNS developer
    /// guide, "Message attributes").
    #[must_use]
    pub fn attributes(&self) -> Vec<Attribute> {
        let data_type = |name| if name == "schema" { "Number" } else { "String" };
        let attribute = |(name, value)| Attribute { name, value, data_type: data_type(name) };
        self.facts().into_iter().map(attribute).collect()
    }

    /// The message: JSON in the schema of custom notifications, below 16 KiB.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { secret, version, at, state, next_steps } = self;
        let shown = span(&name(secret), MAX_TEXT);
        let description = format!(
            "{}\nVersion {} at {}.",
            state.description(),
            span(version.as_str(), MAX_TEXT),
            format_timestamp(*at)
        );
        let attention = state.needs_attention().then_some("attention");
        let event = Event {
            version: "1.0",
            source: "custom",
            id: self.id(),
            content: Content {
                text_type: "client-markdown",
                title: format!("{}: {shown}", state.heading()),
                description,
                next_steps: next_steps.iter().take(MAX_STEPS).map(|step| span(step, MAX_STEP)).collect(),
                keywords: [Some(state.name()), attention].into_iter().flatten().collect(),
            },
            metadata: Metadata {
                thread_id: digest([secret.as_str(), version.as_str()]),
                summary: cut(&self.title(), MAX_TEXT),
                event_type: state.name(),
                related_resources: vec![cut(&name(secret), MAX_TEXT)],
                additional_context: self.facts().into_iter().map(|(name, fact)| (name, cut(&fact, MAX_TEXT))).collect(),
            },
        };
        // Maps of texts, lists of texts and texts: nothing that JSON cannot express.
        serde_json::to_string(&event).unwrap_or_default()
    }
}

/// The schema of the message. Its page requires version, source and description.
#[derive(Serialize)]
struct Event<'a> {
    version: &'a str,
    source: &'a str,
    id: String,
    content: Content<'a>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    text_type: &'a str,
    title: String,
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_steps: Vec<String>,
    keywords: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    thread_id: String,
    summary: String,
    event_type: &'a str,
    related_resources: Vec<String>,
    additional_context: BTreeMap<&'a str, String>,
}

/// A name with only the characters that a secret's name has (Secrets Manager API reference, CreateSecret).
fn name(text: &str) -> String {
    let known = |c: char| if c.is_ascii_alphanumeric() || "/_+=.@!-".contains(c) { c } else { '?' };
    let name: String = text.chars().map(known).collect();
    if name.is_empty() { "?".to_owned() } else { name.chars().take(MAX_NAME).collect() }
}

/// One line that shows nothing but what it says: no control or invisible character, no link, and no end of a code span.
fn plain(text: &str, longest: usize) -> String {
    let shown = |c: char| match c {
        '`' => '\'',
        '<' => '(',
        '>' => ')',
        c if c.is_ascii_graphic() || c == ' ' || c == '…' || c.is_alphanumeric() => c,
        _ => '?',
    };
    let words: Vec<_> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().map(shown).collect();
    if line.is_empty() { "?".to_owned() } else { cut(&line, longest) }
}

fn span(text: &str, longest: usize) -> String {
    format!("`{}`", plain(text, longest))
}

/// At most `longest` characters; the last one says that there were more.
fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}
