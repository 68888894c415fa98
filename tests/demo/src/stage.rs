//! What the demo prints: its own lines, and the rotation as it happens.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use sandbox::{Event, EventKind, Sandbox};
use tokio::sync::broadcast;

/// The terminal, and a copy of all that was printed, so that it can be searched for secrets.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<Mutex<String>>);

impl Output {
    pub(crate) fn line(&self, line: &str) {
        println!("{line}");
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    pub(crate) fn title(&self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Prints the sandbox's events as they happen.
pub(crate) struct Viewer {
    events: broadcast::Receiver<Event>,
    out: Output,
    /// What the ARNs have in them of the secrets whose events are printed.
    only: String,
}

impl Viewer {
    pub(crate) fn new(sandbox: &Sandbox, out: Output) -> Self {
        Self { events: sandbox.subscribe(), out, only: String::new() }
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

    fn print(&self, event: &Event) {
        if let Some(line) = describe(event).filter(|_| event.secret_arn.contains(&self.only)) {
            self.out.line(&line);
        }
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
