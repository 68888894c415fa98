//! An emulator of AWS that enforces IAM, and the hands that make calls to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use template::root;

/// ministack on a free port of this machine, with `AUTH=true`. It ends with the test, and what it started with it.
pub(crate) struct Emulator {
    process: Child,
    endpoint: String,
    home: tempfile::TempDir,
}

impl Emulator {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further variables.
    pub(crate) fn start_with(variables: &[(&str, &str)]) -> Self {
        // Between the choice of a port and its use somebody else may take it.
        let mut said = vec![];
        for _ in 0..3 {
            match Self::start_on(free_port(), variables) {
                Ok(emulator) => return emulator,
                Err(error) => said.push(error),
            }
        }
        panic!("ministack does not start: {said:?}");
    }

    fn start_on(port: u16, variables: &[(&str, &str)]) -> Result<Self, String> {
        let program = root().join("target/emulator-tools/bin/ministack");
        assert!(program.is_file(), "ministack is missing: `cargo verify` installs it into target/emulator-tools");
        let home = tempfile::tempdir().unwrap();
        // The kernel kills it when the thread that started it ends: a test that is killed cannot.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.env_clear().envs([
            ("PATH", "/usr/bin:/bin"),
            ("BIND_HOST", "127.0.0.1"),
            ("AUTH", "true"),
            ("IOT_MQTT_ENABLED", "0"),
        ]);
        command.envs(variables.iter().copied());
        command.env("GATEWAY_PORT", port.to_string()).env("HOME", home.path()).env("TMPDIR", home.path());
        // A group of its own, so that the functions which it runs can be ended with it.
        let log = home.path().join("ministack.log");
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        command.stderr(std::fs::File::create(&log).unwrap());
        let process = command.spawn().expect("setpriv, of util-linux, starts ministack");
        let mut emulator = Self { process, endpoint: format!("http://127.0.0.1:{port}"), home };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ready = is_ministack(port);
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = emulator.process.try_wait().unwrap() {
                return Err(format!("{status}: {}", said()));
            }
            if ready {
                return Ok(emulator);
            }
            if Instant::now() > deadline {
                return Err(format!("it does not listen: {}", said()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The folder that it works in, and unpacks functions into.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Whether it is ministack that answers there.
fn is_ministack(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let request = format!("GET /_ministack/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
        && answer.contains("secretsmanager")
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

/// What AWS answers to a call: the answer, or the error's code.
pub(crate) type Answer = Result<Value, String>;

/// A zip, as it would be deployed.
pub(crate) struct Zip {
    pub(crate) base64: String,
    pub(crate) bytes: usize,
    pub(crate) names: Vec<String>,
}

/// boto3 of `target/tools`, with an application beside it that requires the admin token of a secret.
pub(crate) struct Hands {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    application: u64,
    relay: u64,
}

impl Hands {
    pub(crate) fn new(endpoint: &str, token_secret: &str, token_field: &str) -> Self {
        let python = root().join("target/tools/bin/python");
        assert!(python.is_file(), "boto3 is missing: `cargo verify` installs it into target/tools");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/main/aws.py");
        let mut command = Command::new(python);
        command.arg("-B").arg(script).args([endpoint, token_secret, token_field]).env_clear();
        command.env("PATH", "/usr/bin:/bin").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut hands = Self { process, requests, answers, application: 0, relay: 0 };
        let ports = hands.line();
        [hands.application, hands.relay] = ["application", "relay"].map(|name| ports[name].as_u64().unwrap());
        hands
    }

    /// For work that needs no AWS.
    pub(crate) fn without_an_emulator() -> Self {
        Self::new("http://127.0.0.1:9", "none", "none")
    }

    /// Where the application listens.
    pub(crate) fn application(&self) -> String {
        format!("http://127.0.0.1:{}", self.application)
    }

    /// Another way to the emulator, which tells of secrets what the emulator leaves out, see [`Hands::list`].
    pub(crate) fn relay(&self) -> String {
        format!("http://127.0.0.1:{}", self.relay)
    }

    /// Has the relay tell which function rotates a secret, and that it was rotated and changed two days ago.
    pub(crate) fn list(&mut self, secret: &str, function_arn: &str) {
        self.ask(&json!({ "list": secret, "function": function_arn }));
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "aws.py ended");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        self.line()
    }

    /// A call by the account's root, or by a role.
    pub(crate) fn call(&mut self, role: Option<&str>, service: &str, operation: &str, parameters: Value) -> Answer {
        let request = json!({ "service": service, "operation": operation, "parameters": parameters, "role": role });
        let answer = self.ask(&request);
        match answer["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", answer["message"].as_str().unwrap_or_default())),
            None => Ok(answer["answer"].clone()),
        }
    }

    /// A call by the account's root that has to succeed.
    pub(crate) fn root(&mut self, service: &str, operation: &str, parameters: Value) -> Value {
        self.call(None, service, operation, parameters).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    pub(crate) fn zip(&mut self, folder: &Path) -> Zip {
        let answer = self.ask(&json!({ "zip": folder }));
        let base64 = answer["answer"]["zip"].as_str().unwrap().to_owned();
        let names = answer["answer"]["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        Zip { bytes: base64.len() / 4 * 3, base64, names: names.collect() }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a process is there and not only waited for.
fn runs(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_emulator_ends_with_whoever_started_it() {
    let started = std::thread::spawn(|| {
        let emulator = Emulator::start();
        let process = emulator.process.id();
        assert!(runs(process));
        // As when the test is killed: nothing is dropped.
        std::mem::forget(emulator);
        process
    });
    let process = started.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(process) {
        assert!(Instant::now() < deadline, "ministack still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn taken_port_is_an_error_and_never_the_emulator() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    // It answers as long as the test runs.
    std::thread::spawn(move || {
        for mut stream in taken.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1_024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    });
    let refused = Emulator::start_on(port, &[]).err().expect("it is taken for ministack");
    assert!(!refused.contains("it does not listen"), "{refused}");
}
