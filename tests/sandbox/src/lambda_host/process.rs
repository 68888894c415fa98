use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use uuid::Uuid;

use crate::lambda_host::environment::{self, RoleCredentials};
use crate::lambda_host::log::{ProcessLog, Transcript};
use crate::lambda_host::runtime_api::{self, Conversation};
use crate::lambda_host::{FunctionConfig, Usage, lock};

/// A running `bootstrap`, with its Runtime API and its log.
pub(crate) struct Process {
    child: Mutex<Child>,
    id: Option<u32>,
    log: ProcessLog,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// The process's working directory.
    _task_root: TempDir,
}

/// The reason why no process started.
pub(crate) enum StartError {
    /// The executable is missing or is not executable. The text is Lambda's message.
    Entrypoint(String),
    /// The machine cannot give another process, port or folder.
    Machine(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Machine(error)
    }
}

impl Process {
    pub(crate) async fn start(
        config: &FunctionConfig,
        credentials: &RoleCredentials,
        transcript: Arc<Transcript>,
    ) -> Result<(Arc<Self>, Conversation), StartError> {
        if !config.executable.is_file() {
            return Err(StartError::Entrypoint(format!(
                "Couldn't find valid bootstrap(s): [{}]",
                config.executable.display()
            )));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let task_root = tempfile::Builder::new().prefix("lambda-task-root-").tempdir()?;
        let bootstrap = task_root.path().join("bootstrap");
        std::os::unix::fs::symlink(&config.executable, &bootstrap)?;
        let (output, input) = io::pipe()?;
        let log = ProcessLog::new(OwnedFd::from(output), transcript)?;
        let variables = environment::of_process(
            config,
            credentials,
            &listener.local_addr()?.to_string(),
            &log_stream_name(),
            task_root.path(),
        );
        // The command holds the pipe's other end, so it must not outlive this block.
        let child = {
            let mut command = Command::new(&bootstrap);
            command.env_clear().envs(variables).current_dir(task_root.path()).kill_on_drop(true);
            command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
            command.spawn().map_err(|error| entrypoint_or_machine(error, config))?
        };
        let (router, conversation) = runtime_api::open();
        let (report_exit, exit) = watch::channel(None);
        let process = Arc::new(Self { id: child.id(), child: Mutex::new(child), log, exit, _task_root: task_root });
        tokio::spawn(process.clone().supervise(listener, router, report_exit));
        Ok((process, conversation))
    }

    /// Serves the process until it ends.
    async fn supervise(
        self: Arc<Self>,
        listener: TcpListener,
        router: axum::Router,
        report_exit: watch::Sender<Option<ExitStatus>>,
    ) {
        let serve = async {
            let _ = tokio::join!(axum::serve(listener, router).into_future(), self.log.pump());
            std::future::pending::<Infallible>().await
        };
        let status = tokio::select! {
            status = self.wait() => status,
            never = serve => match never {},
        };
        // The output before the end comes before the line about the end.
        self.log.settle();
        // Without a status the end is unknown. That happens only when another part of the program reaped the process.
        report_exit.send_replace(Some(status.unwrap_or_else(|_| ExitStatus::from_raw(0))));
    }

    async fn wait(&self) -> io::Result<ExitStatus> {
        // The lock is held only during a poll, so that `kill` can take it in between.
        std::future::poll_fn(|context| {
            let mut child = lock(&self.child);
            pin!(child.wait()).poll(context)
        })
        .await
    }

    /// Sends SIGKILL, unless the process has ended.
    pub(crate) fn kill(&self) {
        let _ = lock(&self.child).start_kill();
    }

    pub(crate) fn log(&self) -> &ProcessLog {
        &self.log
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the process has ended and its output is logged. Returns the end in Lambda's words.
    pub(crate) async fn exited(&self) -> String {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.map_or_else(|| "Runtime exited without providing a reason".to_owned(), describe)
    }

    /// The usage of the process so far. `None` after its end, and on systems without `/proc`.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.id?));
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let max_memory_kb = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(process.join("task")).ok()? {
            // A thread that has ended since the listing has no file any more.
            let Ok(spent) = std::fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
            nanoseconds += spent.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(Usage { max_memory_kb, cpu_time: Duration::from_nanos(nanoseconds) })
    }
}

fn entrypoint_or_machine(error: io::Error, config: &FunctionConfig) -> StartError {
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::NotFound => "no such file or directory",
        io::ErrorKind::InvalidInput | io::ErrorKind::Other => "exec format error",
        _ if error.raw_os_error() == Some(ENOEXEC) => "exec format error",
        _ => return StartError::Machine(error),
    };
    StartError::Entrypoint(format!("fork/exec {}: {reason}", config.executable.display()))
}

/// The same number on Linux, macOS and the BSDs; the standard library has no name for it.
const ENOEXEC: i32 = 8;

fn log_stream_name() -> String {
    format!("{}/[$LATEST]{}", Timestamp::now().strftime("%Y/%m/%d"), Uuid::new_v4().simple())
}

fn describe(status: ExitStatus) -> String {
    if let Some(signal) = status.signal() {
        let core = if status.core_dumped() { " (core dumped)" } else { "" };
        return format!("Runtime exited with error: signal: {}{core}", signal_name(signal));
    }
    match status.code() {
        None | Some(0) => "Runtime exited without providing a reason".to_owned(),
        Some(code) => format!("Runtime exited with error: exit status {code}"),
    }
}

/// The name of a signal that ends a process, in Go's words: Lambda's supervisor is written in Go.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
