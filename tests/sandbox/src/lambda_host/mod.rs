//! Runs built `bootstrap` binaries on this machine as AWS Lambda does. Each process has a Runtime API, and Lambda's
//! environment with nothing of the parent's. A process runs one invocation at a time, and is used again while warm. The
//! host applies time limits, survives crashes, and writes Lambda's log lines.
//!
//! [`LambdaHost`] is the whole interface. [`LambdaHost::router`] serves the Invoke API for the AWS CLI and SDKs.
//!
//! The host differs from Lambda:
//!
//! - It does not limit memory and processor. It reports memory.
//! - It offers no extensions.
//! - It does not freeze an idle process: the process waits for its next event.
//! - Deadlines are in the machine's own time.

mod environment;
mod error;
mod forward;
mod function;
mod identity;
mod invoke_api;
mod log;
mod process;
mod runtime_api;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use crate::lambda_host::error::{ConfigurationError, InvokeError};
pub use crate::lambda_host::identity::{ACCOUNT, REGION, function_arn};
pub use crate::lambda_host::log::LogEvent;

use crate::lambda_host::forward::Forward;
use crate::lambda_host::function::Function;
use crate::lambda_host::identity::FunctionName;
use crate::lambda_host::log::{LogClock, Logs};

/// The largest request or response payload of a synchronous invocation, in bytes (Lambda quotas, 6 MB).
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024;

/// The configuration of a function.
#[derive(Clone, Debug)]
pub struct FunctionConfig {
    /// 1 to 64 of `[a-zA-Z0-9-_]`.
    pub name: String,
    /// The built binary. The host starts it as `bootstrap` in a task root of its own. Each start reads the file, so a
    /// rebuilt binary takes effect with the next cold start.
    pub executable: PathBuf,
    /// The function's own variables, at most 4 KB together. Lambda's reserved variables are refused, such as region and
    /// credentials.
    pub environment: BTreeMap<String, String>,
    /// The longest time of one invocation, more than zero and at most 15 minutes. Unlike in Lambda, it may be a
    /// fraction of a second.
    pub timeout: Duration,
    /// 128 to 10,240 MB. The host passes it to the function and reports it, but does not enforce it.
    pub memory_mb: u32,
}

/// The result of an invocation. A failed function has one too: see `function_error`.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The request's id, which is in the function's log lines.
    pub request_id: String,
    /// The function's answer, or its error as JSON with `errorType` and `errorMessage`.
    pub payload: Bytes,
    /// `Unhandled`, as in Lambda, when the function returned an error, crashed or ran out of time.
    pub function_error: Option<String>,
    /// Whether the host started a process for this invocation.
    pub cold: bool,
    /// How long the function worked on the event, without initialisation.
    pub duration: Duration,
    /// The time from the start of the process to its first request for an event. `None` when warm, or when no
    /// initialisation succeeded before the invocation began.
    pub init_duration: Option<Duration>,
    /// The usage of the process since its start; `None` where the machine does not report it.
    pub usage: Option<Usage>,
    /// The last 4 KB of this invocation's log.
    pub log_tail: String,
}

/// The usage of a process since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The largest memory of the process (`VmHWM`), in KiB.
    pub max_memory_kb: u64,
    /// Processor time of all threads that still run (`schedstat`).
    pub cpu_time: Duration,
}

/// Functions, and the processes that run them. Clones share both. When the last clone is dropped, every process is
/// killed.
///
/// The host needs a Tokio runtime with time and I/O enabled. An invocation continues when its caller goes away.
#[derive(Clone, Default)]
pub struct LambdaHost {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    functions: BTreeMap<String, Entry>,
    clock: LogClock,
    closed: bool,
}

struct Entry {
    backend: Backend,
    /// Each names `$LATEST`: the host has no other versions.
    aliases: BTreeSet<String>,
    /// Replaced configurations that had a running invocation.
    retired: Vec<Weak<Function>>,
    logs: Arc<Logs>,
}

#[derive(Clone)]
enum Backend {
    Processes(Arc<Function>),
    Forward(Arc<Forward>),
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    /// Ends every process. A running invocation then fails as after a crash.
    fn close(&self) {
        let mut registry = lock(&self.registry);
        registry.closed = true;
        let entries = registry.functions.values();
        entries.flat_map(Entry::processes).for_each(|function| function.close());
    }
}

impl Entry {
    /// The functions that may have a process.
    fn processes(&self) -> impl Iterator<Item = Arc<Function>> {
        let current = match &self.backend {
            Backend::Processes(function) => Some(function.clone()),
            Backend::Forward(_) => None,
        };
        current.into_iter().chain(self.retired.iter().filter_map(Weak::upgrade))
    }
}

impl Registry {
    fn logs(&self, name: &str) -> Arc<Logs> {
        let logs = self.functions.get(name).map(|entry| entry.logs.clone());
        logs.unwrap_or_else(|| Arc::new(Logs::new(self.clock.clone())))
    }

    fn function(&self, name: &str) -> Result<&Function, ConfigurationError> {
        match self.functions.get(name).map(|entry| &entry.backend) {
            Some(Backend::Processes(function)) => Ok(function),
            Some(Backend::Forward(_)) => Err(ConfigurationError::Forwarded { name: name.to_owned() }),
            None => Err(ConfigurationError::FunctionNotFound { arn: function_arn(name) }),
        }
    }

    fn register(&mut self, config: FunctionConfig) -> Result<(), ConfigurationError> {
        let config = check(config)?;
        let name = config.name.clone();
        let logs = self.logs(&name);
        let function = match self.functions.get(&name).map(|entry| &entry.backend) {
            Some(Backend::Processes(old)) => old.reconfigured(config),
            _ => Function::new(config, logs.clone()),
        };
        self.put(name, Backend::Processes(Arc::new(function)), logs);
        Ok(())
    }

    fn put(&mut self, name: String, backend: Backend, logs: Arc<Logs>) {
        let (mut retired, mut aliases) = (Vec::new(), BTreeSet::new());
        if let Some(old) = self.functions.remove(&name) {
            (retired, aliases) = (old.retired, old.aliases);
            retired.retain(|function| function.strong_count() > 0);
            if let Backend::Processes(function) = old.backend {
                function.retire();
                retired.push(Arc::downgrade(&function));
            }
        }
        self.functions.insert(name, Entry { backend, aliases, retired, logs });
    }
}

impl LambdaHost {
    /// A host without functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A host without functions that dates logs by this clock. Deadlines stay in the machine's time.
    #[must_use]
    pub fn with_log_clock(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let host = Self::default();
        lock(&host.inner.registry).clock = LogClock(Arc::new(now));
        host
    }

    /// Adds a function, or replaces the function of that name. Warm processes end. Busy processes finish their
    /// invocation, and are not used again. Logs stay.
    ///
    /// # Errors
    ///
    /// Lambda would refuse the configuration; nothing has changed then. A missing executable is not an error here:
    /// invocations fail with `Runtime.InvalidEntrypoint`.
    pub fn register(&self, config: FunctionConfig) -> Result<(), ConfigurationError> {
        lock(&self.inner.registry).register(config)
    }

    /// Sends the invocations of `name` to `base_url` instead of a process. `cargo lambda watch` listens there
    /// (`http://127.0.0.1:9000`).
    ///
    /// # Errors
    ///
    /// Lambda would refuse the name, or the URL is not `http://host:port`.
    pub fn forward(&self, name: &str, base_url: &str) -> Result<(), ConfigurationError> {
        FunctionName::check(name)?;
        let backend = Backend::Forward(Arc::new(Forward::new(name, base_url)?));
        let mut registry = lock(&self.inner.registry);
        let logs = registry.logs(name);
        registry.put(name.to_owned(), backend, logs);
        Ok(())
    }

    /// Gives a function an alias, which names its newest code. An alias that is there stays.
    ///
    /// # Errors
    ///
    /// The function is unknown, or Lambda would refuse the alias.
    pub fn add_alias(&self, name: &str, alias: &str) -> Result<(), ConfigurationError> {
        if !identity::is_alias(alias) {
            return Err(ConfigurationError::Name(alias.to_owned()));
        }
        match lock(&self.inner.registry).functions.get_mut(name) {
            Some(entry) => {
                entry.aliases.insert(alias.to_owned());
                Ok(())
            }
            None => Err(ConfigurationError::FunctionNotFound { arn: function_arn(name) }),
        }
    }

    /// Sets one variable of a function's environment, like UpdateFunctionConfiguration. The next invocation starts
    /// cold, even if the value is the same.
    ///
    /// # Errors
    ///
    /// The function is unknown or forwarded, or Lambda would refuse the environment.
    pub fn set_environment(&self, name: &str, key: &str, value: &str) -> Result<(), ConfigurationError> {
        let mut registry = lock(&self.inner.registry);
        let mut config = registry.function(name)?.config().clone();
        config.environment.insert(key.to_owned(), value.to_owned());
        registry.register(config)
    }

    /// Sets the longest time of one invocation, in the same way.
    ///
    /// # Errors
    ///
    /// The function is unknown or forwarded, or Lambda would refuse the timeout.
    pub fn set_timeout(&self, name: &str, timeout: Duration) -> Result<(), ConfigurationError> {
        let mut registry = lock(&self.inner.registry);
        let mut config = registry.function(name)?.config().clone();
        config.timeout = timeout;
        registry.register(config)
    }

    /// Limits how many processes of a function run at a time; `None`, the default, is no limit. Further invocations get
    /// [`InvokeError::TooManyRequests`].
    ///
    /// # Errors
    ///
    /// The function is unknown or forwarded.
    pub fn set_reserved_concurrency(&self, name: &str, limit: Option<u32>) -> Result<(), ConfigurationError> {
        lock(&self.inner.registry).function(name)?.set_reserved_concurrency(limit);
        Ok(())
    }

    /// Invokes a function and waits for its answer (`RequestResponse`). `name` is a name, a partial or a whole ARN,
    /// with or without `$LATEST` or an alias. An empty payload becomes `{}`.
    ///
    /// # Errors
    ///
    /// [`InvokeError`] when the function was not invoked. A failed function is no error: see
    /// [`Invocation::function_error`].
    pub async fn invoke(&self, name: &str, payload: Bytes) -> Result<Invocation, InvokeError> {
        self.invoke_with_id(Uuid::new_v4().to_string(), name, payload).await
    }

    async fn invoke_with_id(&self, request_id: String, name: &str, payload: Bytes) -> Result<Invocation, InvokeError> {
        let backend = self.backend(name)?;
        let payload = check_payload(payload)?;
        // A task of its own, so that the invocation continues when the caller goes away.
        let invocation = match backend {
            Backend::Processes(function) => tokio::spawn(function.invoke(request_id, payload)),
            Backend::Forward(forward) => tokio::spawn(forward.invoke(request_id, payload)),
        };
        invocation.await.map_err(|_| InvokeError::Closed)?
    }

    /// Kills the processes of `name` in an invocation or in their initialisation, with SIGKILL, before this returns.
    /// Returns their number.
    pub fn kill_running(&self, name: &str) -> usize {
        let registry = lock(&self.inner.registry);
        let entry = registry.functions.get(name);
        entry.map_or(0, |entry| entry.processes().map(|function| function.kill_running()).sum())
    }

    /// Every line of the function's standard output and error, with Lambda's own lines (`START`, `END`, `REPORT`,
    /// `INIT_REPORT`). Oldest first; the last 100,000 lines. Empty for an unknown function.
    #[must_use]
    pub fn logs(&self, name: &str) -> Vec<String> {
        // The registry is not locked while lines are copied.
        let logs = lock(&self.inner.registry).logs(name);
        logs.lines()
    }

    /// The same lines, each with the time of its arrival; `None` for an unknown function.
    #[must_use]
    pub fn log_events(&self, name: &str) -> Option<Vec<LogEvent>> {
        let logs = lock(&self.inner.registry).functions.get(name).map(|entry| entry.logs.clone());
        logs.map(|logs| logs.events())
    }

    /// The names of all functions, sorted.
    #[must_use]
    pub fn functions(&self) -> Vec<String> {
        lock(&self.inner.registry).functions.keys().cloned().collect()
    }

    /// The function whose role has this access key id. A service tells its callers apart by it.
    #[must_use]
    pub fn function_of_access_key(&self, access_key_id: &str) -> Option<String> {
        lock(&self.inner.registry).functions.iter().find_map(|(name, entry)| match &entry.backend {
            Backend::Processes(function) if function.access_key_id() == access_key_id => Some(name.clone()),
            _ => None,
        })
    }

    /// The Invoke API: `POST /2015-03-31/functions/{name}/invocations`, `GET /2015-03-31/functions`,
    /// `GET /2015-03-31/functions/{name}` and `…/{name}/configuration`. The router holds a clone of this host.
    pub fn router(&self) -> axum::Router {
        invoke_api::router(self.clone())
    }

    /// Kills every process, also during an invocation. Functions stay registered, but invocations get
    /// [`InvokeError::Closed`].
    pub fn close(&self) {
        self.inner.close();
    }

    fn backend(&self, name: &str) -> Result<Backend, InvokeError> {
        let name = FunctionName::parse(name)?;
        let registry = lock(&self.inner.registry);
        if registry.closed {
            return Err(InvokeError::Closed);
        }
        let entry = registry.functions.get(name.as_str());
        let entry = entry.filter(|entry| name.qualifier().is_none_or(|alias| entry.aliases.contains(alias)));
        entry.map(|entry| entry.backend.clone()).ok_or_else(|| InvokeError::FunctionNotFound { arn: name.arn() })
    }
}

impl std::fmt::Debug for LambdaHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LambdaHost").field("functions", &self.functions()).finish()
    }
}

fn check(mut config: FunctionConfig) -> Result<FunctionConfig, ConfigurationError> {
    FunctionName::check(&config.name)?;
    environment::check(&config.environment)?;
    if config.timeout.is_zero() || config.timeout > Duration::from_secs(900) {
        return Err(ConfigurationError::Timeout(config.timeout));
    }
    if !(128..=10_240).contains(&config.memory_mb) {
        return Err(ConfigurationError::Memory(config.memory_mb));
    }
    // The process starts in another folder, so the path must be absolute. Without a current folder or a path this
    // fails, and then the executable is reported as missing.
    if let Ok(absolute) = std::path::absolute(&config.executable) {
        config.executable = absolute;
    }
    Ok(config)
}

fn check_payload(payload: Bytes) -> Result<Bytes, InvokeError> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if payload.len() > MAX_PAYLOAD {
        return Err(InvokeError::RequestTooLarge { limit: MAX_PAYLOAD });
    }
    match serde_json::from_slice::<&RawValue>(&payload) {
        Ok(_) => Ok(payload),
        Err(error) => Err(InvokeError::InvalidRequestContent(error.to_string())),
    }
}

/// Locks a mutex, also a poisoned one: no code can panic while it breaks an invariant under a lock of this crate.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
