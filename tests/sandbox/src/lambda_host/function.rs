use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::lambda_host::environment::RoleCredentials;
use crate::lambda_host::log::{Logs, Transcript};
use crate::lambda_host::process::{Process, StartError};
use crate::lambda_host::runtime_api::{Conversation, Event, Failure, Signal};
use crate::lambda_host::{FunctionConfig, Invocation, InvokeError, Usage, function_arn, lock};

/// How long initialisation may take before Lambda repeats it as a part of the invocation.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// One configuration of a function, and the processes that run it.
pub(crate) struct Function {
    config: FunctionConfig,
    credentials: RoleCredentials,
    logs: Arc<Logs>,
    pool: Mutex<Pool>,
}

struct Pool {
    /// Idle processes. The most recently used process is last, and is used first.
    idle: Vec<Worker>,
    /// Processes in an invocation or in their initialisation.
    busy: Vec<Arc<Process>>,
    in_flight: u32,
    reserved_concurrency: Option<u32>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Another configuration has replaced this one. Running invocations end normally, and their processes are not used
    /// again.
    Retired,
    /// No process may run.
    Closed,
}

/// A process that waits for an event or works on one. Dropping this kills the process.
struct Worker {
    process: Arc<Process>,
    conversation: Conversation,
    /// The usage at the last measurement: a dead process cannot be measured.
    usage: Option<Usage>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Worker {
    /// Waits until the process asks for its first event.
    async fn initialise(&mut self, request_id: &str, deadline: Instant, limit: Duration) -> End {
        let mut failure = None;
        let lost = loop {
            tokio::select! {
                biased;
                Some(signal) = self.conversation.signals.recv() => match signal {
                    Signal::Ready => {
                        self.settle();
                        return End::Ready;
                    }
                    // The process should now end by itself.
                    Signal::InitError(reported) => failure = Some(reported),
                    Signal::Answer(_) => {}
                },
                reason = self.process.exited() => break Lost::exited(request_id, &reason),
                () = sleep_until(deadline) => {
                    self.process.kill();
                    self.process.exited().await;
                    break Lost::timed_out(request_id, limit);
                }
            }
        };
        End::Lost(failure.map_or(lost, Lost::init_error))
    }

    /// Gives the process an event, and waits until it asks for the next one. Returns the answer, and the end of the
    /// work.
    async fn work(
        &mut self,
        event: Event,
        deadline: Instant,
        limit: Duration,
    ) -> (Option<Result<Bytes, Failure>>, End) {
        let request_id = event.request_id.clone();
        // Without a receiver the process has ended. The code below notices that.
        let _ = self.conversation.events.send(event).await;
        let mut answer = None;
        let lost = loop {
            tokio::select! {
                biased;
                Some(signal) = self.conversation.signals.recv() => match signal {
                    Signal::Answer(said) => {
                        // The process may die before it asks for the next event.
                        self.look_at_usage();
                        answer = Some(said);
                    }
                    Signal::Ready if answer.is_some() => {
                        self.settle();
                        return (answer, End::Ready);
                    }
                    Signal::Ready | Signal::InitError(_) => {}
                },
                reason = self.process.exited() => break Lost::exited(&request_id, &reason),
                () = sleep_until(deadline) => {
                    self.look_at_usage();
                    self.process.kill();
                    self.process.exited().await;
                    break Lost::timed_out(&request_id, limit);
                }
            }
        };
        (answer, End::Lost(lost))
    }

    fn settle(&mut self) {
        self.look_at_usage();
        self.process.log().settle();
    }

    fn look_at_usage(&mut self) {
        self.usage = self.process.usage().or(self.usage);
    }
}

/// A place among the invocations under way, and the process that is busy with it.
struct Slot {
    function: Arc<Function>,
    process: Option<Arc<Process>>,
}

impl Slot {
    fn hold(&mut self, process: &Arc<Process>) {
        let mut pool = lock(&self.function.pool);
        pool.release(self.process.take());
        pool.busy.push(process.clone());
        self.process = Some(process.clone());
        if pool.state == State::Closed {
            process.kill();
        }
    }

    /// Returns the worker to the idle ones if its process can take another event.
    fn release(&mut self, worker: Worker, end: End) -> Option<Lost> {
        let mut pool = lock(&self.function.pool);
        pool.release(self.process.take());
        match end {
            End::Ready if pool.state == State::Active => pool.idle.push(worker),
            End::Ready => {}
            End::Lost(lost) => return Some(lost),
        }
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pool = lock(&self.function.pool);
        pool.release(self.process.take());
        pool.in_flight -= 1;
    }
}

impl Pool {
    fn new(reserved_concurrency: Option<u32>) -> Self {
        Self { idle: Vec::new(), busy: Vec::new(), in_flight: 0, reserved_concurrency, state: State::Active }
    }

    fn release(&mut self, process: Option<Arc<Process>>) {
        if let Some(process) = process {
            self.busy.retain(|busy| !Arc::ptr_eq(busy, &process));
        }
    }
}

/// A lost process, with Lambda's error in place of the function's answer.
struct Lost {
    failure: Failure,
    status: &'static str,
    /// Lambda's log lines about the loss.
    lines: Vec<String>,
}

impl Lost {
    fn init_error(failure: Failure) -> Self {
        Self { failure, status: "error", lines: Vec::new() }
    }

    fn exited(request_id: &str, reason: &str) -> Self {
        Self::error(request_id, "Runtime.ExitError", reason)
    }

    fn error(request_id: &str, error_type: &str, reason: &str) -> Self {
        let message = format!("RequestId: {request_id} Error: {reason}");
        let failure = Failure::of_lambda(error_type, &message);
        Self { failure, status: "error", lines: vec![message, error_type.to_owned()] }
    }

    fn timed_out(request_id: &str, limit: Duration) -> Self {
        let reason = format!("Task timed out after {:.2} seconds", limit.as_secs_f64());
        let failure = Failure::of_lambda("Sandbox.Timedout", &format!("RequestId: {request_id} Error: {reason}"));
        let line = format!("{} {request_id} {reason}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ"));
        Self { failure, status: "timeout", lines: vec![line] }
    }

    fn in_report(&self) -> String {
        match self.status {
            "error" => format!("\tStatus: error\tError Type: {}", self.failure.error_type),
            status => format!("\tStatus: {status}"),
        }
    }
}

/// The end of a process's work on an event.
enum End {
    /// The process asked for the next event.
    Ready,
    Lost(Lost),
}

impl Function {
    pub(crate) fn new(config: FunctionConfig, logs: Arc<Logs>) -> Self {
        Self { config, credentials: RoleCredentials::generate(), logs, pool: Pool::new(None).into() }
    }

    /// The same role and limit, with another configuration and no process yet.
    pub(crate) fn reconfigured(&self, config: FunctionConfig) -> Self {
        let pool = Pool::new(lock(&self.pool).reserved_concurrency);
        Self { config, credentials: self.credentials.clone(), logs: self.logs.clone(), pool: pool.into() }
    }

    pub(crate) fn config(&self) -> &FunctionConfig {
        &self.config
    }

    pub(crate) fn access_key_id(&self) -> &str {
        &self.credentials.access_key_id
    }

    pub(crate) fn set_reserved_concurrency(&self, limit: Option<u32>) {
        lock(&self.pool).reserved_concurrency = limit;
    }

    pub(crate) fn kill_running(&self) -> usize {
        let pool = lock(&self.pool);
        pool.busy.iter().for_each(|process| process.kill());
        pool.busy.len()
    }

    pub(crate) fn retire(&self) {
        let mut pool = lock(&self.pool);
        pool.idle.clear();
        if pool.state == State::Active {
            pool.state = State::Retired;
        }
    }

    pub(crate) fn close(&self) {
        let mut pool = lock(&self.pool);
        pool.state = State::Closed;
        pool.idle.clear();
        pool.busy.iter().for_each(|process| process.kill());
    }

    pub(crate) async fn invoke(self: Arc<Self>, request_id: String, payload: Bytes) -> Result<Invocation, InvokeError> {
        let transcript = Transcript::new(self.logs.clone());
        let limit = self.config.timeout;
        let (mut slot, warm) = self.clone().take_slot(&transcript)?;
        let cold = warm.is_none();
        let mut init_duration = None;
        let mut begin = Instant::now();
        let started = match warm {
            Some(worker) => Ok(worker),
            None => match self.start(&mut slot, &transcript, &request_id, INIT_LIMIT).await? {
                Ok(worker) => {
                    init_duration = Some(begin.elapsed());
                    begin = Instant::now();
                    Ok(worker)
                }
                Err(lost) => {
                    transcript.push(init_report(begin.elapsed(), "init", &lost));
                    // Lambda retries once, within the time of the invocation.
                    begin = Instant::now();
                    let again = self.start(&mut slot, &transcript, &request_id, limit).await?;
                    if let Err(lost) = &again {
                        transcript.push(init_report(begin.elapsed(), "invoke", lost));
                    }
                    again
                }
            },
        };

        transcript.push(format!("START RequestId: {request_id} Version: $LATEST"));
        let (answer, lost, usage) = match started {
            Err(lost) => (None, Some(lost), None),
            Ok(mut worker) => {
                let event = self.event(&request_id, payload, begin);
                let (answer, end) = worker.work(event, begin + limit, limit).await;
                let usage = worker.usage;
                let lost = slot.release(worker, end);
                (answer, lost, usage)
            }
        };
        let duration = begin.elapsed();

        for line in lost.iter().flat_map(|lost| &lost.lines) {
            transcript.push(line.clone());
        }
        transcript.push(format!("END RequestId: {request_id}"));
        transcript.push(self.report(&request_id, duration, init_duration, usage, lost.as_ref()));
        // A process that died after its answer has still answered.
        let answer = answer.or_else(|| lost.map(|lost| Err(lost.failure)));
        let (payload, function_error) = match answer {
            Some(Ok(payload)) => (payload, None),
            Some(Err(failure)) => (failure.payload, Some("Unhandled".to_owned())),
            None => return Err(InvokeError::Closed),
        };
        let log_tail = transcript.tail();
        Ok(Invocation { request_id, payload, function_error, cold, duration, init_duration, usage, log_tail })
    }

    fn take_slot(self: Arc<Self>, transcript: &Arc<Transcript>) -> Result<(Slot, Option<Worker>), InvokeError> {
        let mut pool = lock(&self.pool);
        if pool.state == State::Closed {
            return Err(InvokeError::Closed);
        }
        if pool.reserved_concurrency.is_some_and(|limit| pool.in_flight >= limit) {
            return Err(InvokeError::TooManyRequests);
        }
        pool.in_flight += 1;
        // A process that died while idle must not fail an invocation.
        pool.idle.retain(|worker| !worker.process.has_exited());
        let worker = pool.idle.pop();
        let process = worker.as_ref().map(|worker| worker.process.clone());
        if let Some(process) = &process {
            process.log().attach(transcript.clone());
            pool.busy.push(process.clone());
        }
        drop(pool);
        Ok((Slot { function: self, process }, worker))
    }

    /// Starts a process and waits for its first request for an event.
    async fn start(
        &self,
        slot: &mut Slot,
        transcript: &Arc<Transcript>,
        request_id: &str,
        limit: Duration,
    ) -> Result<Result<Worker, Lost>, InvokeError> {
        let deadline = Instant::now() + limit;
        let (process, conversation) = match Process::start(&self.config, &self.credentials, transcript.clone()).await {
            Ok(started) => started,
            Err(StartError::Entrypoint(reason)) => {
                return Ok(Err(Lost::error(request_id, "Runtime.InvalidEntrypoint", &reason)));
            }
            Err(StartError::Machine(error)) => {
                return Err(InvokeError::Service(error.to_string()));
            }
        };
        slot.hold(&process);
        let mut worker = Worker { process, conversation, usage: None };
        Ok(match worker.initialise(request_id, deadline, limit).await {
            End::Ready => Ok(worker),
            End::Lost(lost) => Err(lost),
        })
    }

    fn event(&self, request_id: &str, payload: Bytes, begin: Instant) -> Event {
        // Deadlines are in the machine's time: Lambda does not know the sandbox's clock.
        let now = Timestamp::now();
        let left = self.config.timeout.saturating_sub(begin.elapsed());
        let trace = Uuid::new_v4().simple().to_string();
        Event {
            request_id: request_id.to_owned(),
            function_arn: function_arn(&self.config.name),
            trace_id: format!("Root=1-{:08x}-{};Parent={};Sampled=0", now.as_second(), &trace[..24], &trace[16..]),
            deadline_ms: u128::try_from(now.as_millisecond()).unwrap_or_default() + left.as_millis(),
            payload,
        }
    }

    fn report(
        &self,
        request_id: &str,
        duration: Duration,
        init_duration: Option<Duration>,
        usage: Option<Usage>,
        lost: Option<&Lost>,
    ) -> String {
        let billed = (duration + init_duration.unwrap_or_default()).as_secs_f64() * 1000.0;
        let mut report = format!(
            "REPORT RequestId: {request_id}\tDuration: {:.2} ms\tBilled Duration: {:.0} ms\tMemory Size: {} MB",
            milliseconds(duration),
            billed.ceil(),
            self.config.memory_mb
        );
        if let Some(usage) = usage {
            report += &format!("\tMax Memory Used: {} MB", usage.max_memory_kb.div_ceil(1024));
        }
        if let Some(init) = init_duration {
            report += &format!("\tInit Duration: {:.2} ms", milliseconds(init));
        }
        if let Some(lost) = lost {
            report += &lost.in_report();
        }
        report
    }
}

fn init_report(duration: Duration, phase: &str, lost: &Lost) -> String {
    format!("INIT_REPORT Init Duration: {:.2} ms\tPhase: {phase}{}", milliseconds(duration), lost.in_report())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
