use std::path::PathBuf;
use std::time::Duration;

use application::{KeyFormat, KeyMode, Mode};
use sandbox::{ServiceDeclaration, Settings};

use crate::delivery::ConsumerPlan;
use crate::{FIELD, FUNCTION, KEY_FIELD, KEY_FUNCTION, KEY_SECRET, SECRET};

/// What to set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The function's name; a folder of `functions/` unless there is an `executable`.
    pub function: &'static str,
    /// The secret's name.
    pub secret: &'static str,
    /// The secret's first value; `None` makes an empty secret.
    pub value: Option<String>,
    /// The member that is rotated; sets the tag `rotation:field` as well.
    pub field: Option<&'static str>,
    /// Further tags.
    pub tags: Vec<(&'static str, &'static str)>,
    /// How many instances of the application run; none means that the function has no target.
    pub instances: usize,
    /// Which tokens they accept.
    pub mode: Mode,
    /// What the instances encrypt with, when the secret is a keyring. Their admin token is [`crate::ADMIN_TOKEN`] then.
    pub keys: Option<KeyPlan>,
    /// The PostgreSQL database that they keep records in, by a session for each; `None` keeps them in memory.
    pub database: Option<tokio_postgres::Config>,
    /// Whether the function asks the instances.
    pub asked: bool,
    /// The program to run as the function; `None` builds and runs the function of that name.
    pub executable: Option<PathBuf>,
    /// How long one invocation of the function may take.
    pub timeout: Duration,
    /// Variables of the function, over those that the scene sets.
    pub environment: Vec<(&'static str, String)>,
    /// Other secrets, by name and value.
    pub others: Vec<(&'static str, String)>,
    /// Services of ECS.
    pub services: Vec<ServiceDeclaration>,
    /// Where values go; `None` without the function `deliver`.
    pub consumers: Option<ConsumerPlan>,
    /// The sandbox's settings.
    pub sandbox: Settings,
}

/// How the instances keep their keyring.
#[derive(Clone, Copy, Debug)]
pub struct KeyPlan {
    /// The format.
    pub format: KeyFormat,
    /// How much of the ring is read.
    pub mode: KeyMode,
    /// How long it is kept, by the sandbox's clock.
    pub cache: Duration,
    /// Whether a record that no key opens has the instance look for more keys.
    pub reload_on_unknown_key: bool,
}

impl Plan {
    /// A text secret, two instances.
    #[must_use]
    pub fn text(value: &str) -> Self {
        Self {
            function: FUNCTION,
            secret: SECRET,
            keys: None,
            database: None,
            asked: true,
            value: Some(value.to_owned()),
            field: None,
            tags: vec![],
            instances: 2,
            mode: Mode::AllStages,
            executable: None,
            timeout: Duration::from_secs(60),
            environment: vec![],
            others: vec![],
            services: vec![],
            consumers: None,
            sandbox: Settings::default(),
        }
    }

    /// A JSON secret of which [`FIELD`] is rotated, two instances.
    #[must_use]
    pub fn json(value: &str) -> Self {
        Self { field: Some(FIELD), ..Self::text(value) }
    }

    /// A keyring in a text secret, two instances that keep it for an hour and look for no other keys meanwhile.
    #[must_use]
    pub fn key_text(value: &str, format: KeyFormat) -> Self {
        let (mode, cache) = (KeyMode::Keyring, Duration::from_secs(3600));
        let tag = match format {
            KeyFormat::Raw => "raw",
            KeyFormat::Fernet => "fernet",
            KeyFormat::Tink => "tink",
        };
        Self {
            function: KEY_FUNCTION,
            secret: KEY_SECRET,
            keys: Some(KeyPlan { format, mode, cache, reload_on_unknown_key: false }),
            tags: vec![("rotation:key-format", tag), ("rotation:promotion", "immediate")],
            ..Self::text(value)
        }
    }

    /// A keyring in a JSON secret whose member is [`KEY_FIELD`], with staged promotion.
    #[must_use]
    pub fn key_json(value: &str, format: KeyFormat) -> Self {
        let mut plan = Self { field: Some(KEY_FIELD), ..Self::key_text(value, format) };
        plan.tags.retain(|(tag, _)| *tag != "rotation:promotion");
        plan
    }
}
