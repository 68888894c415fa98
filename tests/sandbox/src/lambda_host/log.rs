use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::net::unix::pipe;

use crate::lambda_host::lock;

/// The most lines that the host keeps of a function.
const KEPT_LINES: usize = 100_000;

/// The most bytes in an answer to `LogType=Tail`.
const TAIL: usize = 4096;

/// The most bytes of a line; a longer line is cut, like an event in CloudWatch Logs.
const MAX_LINE: usize = 256 * 1024;

/// One line of a function's log, an event in CloudWatch Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The number of earlier lines in this log, also of those that are no longer kept.
    pub sequence: u64,
    /// When the line arrived, by the clock of the host.
    pub time: SystemTime,
    /// The line.
    pub message: String,
}

/// The clock that dates lines.
#[derive(Clone)]
pub(crate) struct LogClock(pub(crate) Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Default for LogClock {
    fn default() -> Self {
        Self(Arc::new(SystemTime::now))
    }
}

/// The log of one function, across all its processes.
pub(crate) struct Logs {
    clock: LogClock,
    events: Mutex<VecDeque<LogEvent>>,
}

impl Logs {
    pub(crate) fn new(clock: LogClock) -> Self {
        Self { clock, events: Mutex::default() }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.events).iter().map(|event| event.message.clone()).collect()
    }

    pub(crate) fn events(&self) -> Vec<LogEvent> {
        lock(&self.events).iter().cloned().collect()
    }

    pub(crate) fn push(&self, message: String) {
        let mut events = lock(&self.events);
        let sequence = events.back().map_or(0, |last| last.sequence + 1);
        if events.len() == KEPT_LINES {
            events.pop_front();
        }
        events.push_back(LogEvent { sequence, time: (self.clock.0)(), message });
    }
}

/// The lines of one invocation. All lines go to the function's log. The last 4 KB go to the caller, on request.
pub(crate) struct Transcript {
    logs: Arc<Logs>,
    tail: Mutex<Vec<u8>>,
}

impl Transcript {
    pub(crate) fn new(logs: Arc<Logs>) -> Arc<Self> {
        Arc::new(Self { logs, tail: Mutex::default() })
    }

    pub(crate) fn push(&self, line: String) {
        let mut tail = lock(&self.tail);
        tail.extend_from_slice(line.as_bytes());
        tail.push(b'\n');
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
        self.logs.push(line);
    }

    pub(crate) fn tail(&self) -> String {
        String::from_utf8_lossy(&lock(&self.tail)).into_owned()
    }
}

/// The output of one process. Its standard output and error are one pipe, so the lines keep their order.
pub(crate) struct ProcessLog {
    pipe: pipe::Receiver,
    state: Mutex<State>,
}

struct State {
    /// The start of a line whose end has not been read.
    partial: Vec<u8>,
    transcript: Arc<Transcript>,
}

impl ProcessLog {
    pub(crate) fn new(output: OwnedFd, transcript: Arc<Transcript>) -> io::Result<Self> {
        let state = State { partial: Vec::new(), transcript };
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(output)?, state: state.into() })
    }

    /// Reads until the process and all heirs of its output have closed the pipe.
    pub(crate) async fn pump(&self) -> io::Result<()> {
        loop {
            self.pipe.readable().await?;
            if read(&self.pipe, &mut lock(&self.state))? == Pipe::Closed {
                return Ok(());
            }
        }
    }

    /// Logs all output so far, to its last byte. The output before a request to the Runtime API is in the pipe when
    /// that request arrives.
    pub(crate) fn settle(&self) {
        let mut state = lock(&self.state);
        // An unreadable pipe has nothing to log.
        let _ = read(&self.pipe, &mut state);
        state.end_line();
    }

    /// Sends the lines from here on to another invocation.
    pub(crate) fn attach(&self, transcript: Arc<Transcript>) {
        self.settle();
        lock(&self.state).transcript = transcript;
    }
}

impl State {
    fn end_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.partial);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.strip_suffix('\n').unwrap_or(&line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        self.transcript.push(line.to_owned());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipe {
    Open,
    Closed,
}

/// Reads the available output.
fn read(pipe: &pipe::Receiver, state: &mut State) -> io::Result<Pipe> {
    let mut buffer = [0; 8192];
    loop {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return Ok(Pipe::Closed),
            Ok(read) => {
                for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                    state.partial.extend_from_slice(piece);
                    if piece.ends_with(b"\n") || state.partial.len() >= MAX_LINE {
                        state.end_line();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Pipe::Open),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
