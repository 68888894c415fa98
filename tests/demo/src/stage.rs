//! What the demo prints: its own lines, and the rotation as it happens.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use sandbox::{Event, EventKind, Sandbox};
use tokio::sync::broadcast;

/// The terminal, and a copy of all that was printed, so that it can be searched for secrets.
#[derive(Clone)]
pub(crate) struct Output {
    /// Whether each step and each move of a staging label is printed.
    verbose: bool,
    printed: Arc<Mutex<String>>,
}

impl Output {
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, printed: Arc::default() }
    }

    pub(crate) fn line(&self, line: &str) {
        println!("{line}");
        let mut text = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    /// A line that only `-v` shows.
    pub(crate) fn detail(&self, line: &str) {
        if self.verbose {
            self.line(line);
        }
    }

    /// A line that `-v` shows in its full text.
    pub(crate) fn brief(&self, line: &str) {
        if !self.verbose {
            self.line(line);
        }
    }

    pub(crate) fn title(&self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    /// How far work is: a bar that grows on a terminal, a line with `-v`.
    pub(crate) fn progress(&self, what: &str, done: u64, of: u64) {
        if self.verbose {
            self.line(&format!("  {what}: {done} of {of}"));
        } else if std::io::stdout().is_terminal() {
            let full = usize::try_from((done * 40).checked_div(of).unwrap_or(40)).unwrap_or(40);
            print!("\r  [{:<40}] {what}: {done} of {of} ", "#".repeat(full));
            let _ = std::io::stdout().flush();
        }
    }

    /// The end of a bar that grew.
    pub(crate) fn end_of_progress(&self) {
        if !self.verbose && std::io::stdout().is_terminal() {
            println!();
        }
    }

    pub(crate) fn text(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Prints the sandbox's events as they happen.
pub(crate) struct Viewer {
    events: broadcast::Receiver<Event>,
    out: Output,
    /// What the ARNs have in them of the secrets whose events are printed.
    only: String,
    /// The steps of the rotation that is going on, without `-v`.
    steps: Vec<String>,
}

impl Viewer {
    pub(crate) fn new(sandbox: &Sandbox, out: Output) -> Self {
        Self { events: sandbox.subscribe(), out, only: String::new(), steps: vec![] }
    }

    /// Prints the events of this secret only.
    pub(crate) fn only(self, secret: &str) -> Self {
        Self { only: format!(":secret:{secret}-"), ..self }
    }

    /// Does `work`, and prints what happens meanwhile.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                Ok(event) = self.events.recv() => self.print(&event),
                result = &mut work => break result,
            }
        };
        while let Ok(event) = self.events.try_recv() {
            self.print(&event);
        }
        result
    }

    fn print(&mut self, event: &Event) {
        if !event.secret_arn.contains(&self.only) {
            return;
        }
        if self.out.verbose {
            describe(event).into_iter().for_each(|line| self.out.line(&line));
            return;
        }
        let result = match &event.kind {
            EventKind::StepEnded { attempt, step, duration, error, .. } => {
                let again = if *attempt > 1 { format!(" (try {attempt})") } else { String::new() };
                let failed = error.as_ref().map(|error| format!(" {}", error.error_type)).unwrap_or_default();
                self.steps.push(format!("{step}{again} {:.0} ms{failed}", duration.as_secs_f64() * 1e3));
                return;
            }
            EventKind::RotationSucceeded => "succeeded",
            EventKind::TestRotationSucceeded => return self.steps.clear(),
            EventKind::RotationFailed { .. } | EventKind::TestRotationFailed { .. } => "FAILED",
            EventKind::RotationAbandoned => "ABANDONED",
            _ => return,
        };
        let version = event.version_id.get(..8).unwrap_or(&event.version_id);
        let steps = std::mem::take(&mut self.steps);
        self.out.line(&format!("  {version}: {}: {result}", steps.join(", ")));
    }
}

fn describe(event: &Event) -> Option<String> {
    let version = event.version_id.get(..8).unwrap_or(&event.version_id);
    Some(match &event.kind {
        EventKind::RotationStarted => format!("  version {version}…  rotation started"),
        EventKind::RotationSucceeded => format!("  version {version}…  rotation succeeded"),
        EventKind::RotationFailed { error } => format!("  version {version}…  ROTATION FAILED: {}", error.error_type),
        EventKind::RotationAbandoned => format!("  version {version}…  ROTATION ABANDONED"),
        EventKind::TestRotationStarted => format!("  version {version}…  test of the configuration"),
        EventKind::TestRotationSucceeded => "  the configuration works; nothing was rotated".to_owned(),
        EventKind::TestRotationFailed { error } => format!("  THE CONFIGURATION FAILED: {}", error.message),
        EventKind::StepStarted { .. } => return None,
        EventKind::StepEnded { attempt, step, cold, duration, error } => {
            let start = if *cold == Some(true) { "cold" } else { "warm" };
            let result = error.as_ref().map_or("done".to_owned(), |error| error.error_type.clone());
            let again = if *attempt > 1 { format!(" (try {attempt})") } else { String::new() };
            format!("    {step:<13} {start} {:>6.1} ms  {result}{again}", duration.as_secs_f64() * 1e3)
        }
        EventKind::StagesChanged { from, to } => {
            format!("    version {version}…  {} → {}", stages(from), stages(to))
        }
    })
}

fn stages(stages: &BTreeSet<String>) -> String {
    if stages.is_empty() {
        "no stage".to_owned()
    } else {
        Vec::from_iter(stages.iter().map(String::as_str)).join(" + ")
    }
}
