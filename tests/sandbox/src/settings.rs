//! The settings of a sandbox.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rotation::testing::PrivatePut;

use crate::invoker::Invoker;

/// The temporary version of `RotateImmediately=false`. AWS documents that it exists. Sources disagree on whether it has
/// a value, so a function must cope with both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfigurationTest {
    /// No value, like the version of a rotation before createSecret.
    #[default]
    WithoutValue,
    /// A copy of the current value.
    WithCurrentValue,
}

/// The settings of a sandbox.
#[derive(Clone)]
pub struct Settings {
    /// The port on 127.0.0.1; 0, the default, takes a free one.
    pub port: u16,
    /// The folder that keeps the secrets across restarts, **with their values**, in `secrets.json` (mode 0600). `None`,
    /// the default, keeps them in memory only.
    pub state_dir: Option<PathBuf>,
    /// Whether changes stay out of `state_dir`. Every write rewrites a file of all secrets. A measurement with many
    /// secrets would measure that write.
    pub state_is_read_only: bool,
    /// How often the service tries a rotation before it gives up, at least 1. AWS documents "multiple times"; the
    /// default is 5.
    pub rotation_attempts: u32,
    /// Real time before the second attempt, doubled before each further one. Default 100 ms.
    pub retry_backoff: Duration,
    /// The form of the version in a configuration test.
    pub configuration_test: ConfigurationTest,
    /// The effect of a version under a private label on an open rotation.
    pub private_put: PrivatePut,
    /// Runs the functions. `None`, the default, is the sandbox's own [`crate::Sandbox::host`].
    pub invoker: Option<Arc<dyn Invoker>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 0,
            state_dir: None,
            state_is_read_only: false,
            rotation_attempts: 5,
            retry_backoff: Duration::from_millis(100),
            configuration_test: ConfigurationTest::default(),
            private_put: PrivatePut::default(),
            invoker: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("port", &self.port)
            .field("state_dir", &self.state_dir)
            .field("state_is_read_only", &self.state_is_read_only)
            .field("rotation_attempts", &self.rotation_attempts)
            .field("retry_backoff", &self.retry_backoff)
            .field("configuration_test", &self.configuration_test)
            .field("private_put", &self.private_put)
            .finish_non_exhaustive()
    }
}
