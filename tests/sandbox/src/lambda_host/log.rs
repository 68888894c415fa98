use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::net::unix::pipe;

use crate::lambda_host::lock;

/// How many lines of a function are kept.
const KEPT_LINES: usize = 100_000;

/// What `LogType=Tail` answers, in bytes.
const TAIL: usize = 4096;

/// A line is cut here, as an event in CloudWatch Logs is, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// One line of a function's log, an event in CloudWatch Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// How many came before it in this log, those that are no longer kept included.
    pub sequence: u64,
    /// When it arrived, by the clock of the host.
    pub time: SystemTime,
    /// The line.
    pub message: String,
}

/// The clock by which lines arrive.
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

/// What one invocation logs: all of it goes to the function's log, and the last 4 KB to the caller who asks for them.
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

/// What one process writes. Its standard output and error are one pipe, so the order of lines is that of writing.
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

    /// Reads until the process, and whatever inherited its output, have closed it.
    pub(crate) async fn pump(&self) -> io::Result<()> {
        loop {
            self.pipe.readable().await?;
            if read(&self.pipe, &mut lock(&self.state))? == Pipe::Closed {
                return Ok(());
            }
        }
    }

    /// Logs what has been written, to its last byte. Everything that the process wrote before a request to the Runtime
    /// API has been written when that request arrives.
    pub(crate) fn settle(&self) {
        let mut state = lock(&self.state);
        // A pipe that can't be read has nothing to log.
        let _ = read(&self.pipe, &mut state);
        state.end_line();
    }

    /// From here on the process works for another invocation.
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

/// Reads what is there.
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
