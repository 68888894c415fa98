//! A task: a process that reads its secrets once, when it starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};

use super::declaration::ServiceDeclaration;

/// Real time for a program to say where it listens.
const LISTEN_WITHIN: Duration = Duration::from_secs(30);
/// Real time between a task's removal from the load balancer and SIGTERM: a connection that the load balancer is just
/// opening gets its answer.
const DEREGISTRATION: Duration = Duration::from_millis(200);
/// Real time between SIGTERM and SIGKILL, as ECS's default stop timeout.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_REASON: usize = 500;
const LISTENING: &str = "listening on http://";

/// A running process of a service. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    stop: Arc<Notify>,
    kill: Arc<Notify>,
    exited: watch::Receiver<bool>,
}

impl Process {
    /// Starts the program with exactly this environment. `ended` is called when the process ends.
    pub(crate) async fn start(
        declaration: &ServiceDeclaration,
        environment: &BTreeMap<String, String>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, String> {
        let mut command = Command::new(&declaration.program);
        command.args(&declaration.arguments).env_clear().envs(environment).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("CannotStartContainerError: {}: {error}", declaration.program.display()))?;
        let lifeline = Lifeline::tie(&child);
        let listening = tokio::time::timeout(LISTEN_WITHIN, address(&mut child)).await;
        let address = listening.map_err(|_| format!("no line `{LISTENING}…` within {LISTEN_WITHIN:?}"))??;
        let (stop, kill) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (report, exited) = watch::channel(false);
        let signals = (stop.clone(), kill.clone());
        tokio::spawn(async move {
            supervise(child, signals).await;
            drop(lifeline);
            report.send_replace(true);
            ended();
        });
        Ok(Self { address, stop, kill, exited })
    }

    pub(crate) fn has_exited(&self) -> bool {
        *self.exited.borrow()
    }

    /// Kills the process with SIGKILL, as a lack of memory does.
    pub(crate) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits for answers that are under way, and ends the process.
    pub(crate) async fn stop(mut self) {
        tokio::time::sleep(DEREGISTRATION).await;
        self.stop.notify_one();
        let ended = self.exited.wait_for(|exited| *exited);
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            self.kill.notify_one();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

/// The address in the program's first line; or else why there is none.
async fn address(child: &mut Child) -> Result<SocketAddr, String> {
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the process has no output".to_owned());
    };
    let mut lines = BufReader::new(stdout).lines();
    let found = lines.next_line().await.ok().flatten();
    let found = found.and_then(|line| line.strip_prefix(LISTENING)?.trim_end_matches('/').parse().ok());
    let Some(address) = found else {
        child.start_kill().ok();
        let mut reason = String::new();
        stderr.read_to_string(&mut reason).await.ok();
        let reason: String = reason.trim().chars().take(LONGEST_REASON).collect();
        return Err(format!("Essential container in task exited: {reason}"));
    };
    // A process whose output nobody reads would wait.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await });
    Ok(address)
}

async fn supervise(mut child: Child, (stop, kill): (Arc<Notify>, Arc<Notify>)) {
    tokio::select! {
        _ = child.wait() => return,
        () = kill.notified() => {}
        () = stop.notified() => {
            terminate(&child).await;
            tokio::select! {
                _ = child.wait() => return,
                () = kill.notified() => {}
            }
        }
    }
    child.kill().await.ok();
}

/// Kills a process when this one is killed, and cannot do it itself: a shell waits for the end of a pipe.
struct Lifeline(Option<Child>);

impl Lifeline {
    fn tie(child: &Child) -> Self {
        let watch = child.id().and_then(|id| {
            let mut command = Command::new("sh");
            command.args(["-c", "read -r _; kill -KILL \"$0\"", &id.to_string()]).stdin(Stdio::piped());
            command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().ok()
        });
        Self(watch)
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Before the pipe closes: the process has ended, and its number may have a new holder.
        if let Some(watch) = &mut self.0 {
            watch.start_kill().ok();
        }
    }
}

/// Sends SIGTERM. The standard library and Tokio know SIGKILL alone.
async fn terminate(child: &Child) {
    if let Some(id) = child.id() {
        let id = id.to_string();
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).stderr(Stdio::null()).status().await.ok();
    }
}
