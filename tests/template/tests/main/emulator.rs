//! An emulator of AWS that enforces IAM, and the hands that make calls to it.

use std::io::{BufRead as _, BufReader, Write as _};
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
    _home: tempfile::TempDir,
}

impl Emulator {
    pub(crate) fn start() -> Self {
        let program = root().join("target/emulator-tools/bin/ministack");
        assert!(program.is_file(), "ministack is missing: `cargo verify` installs it into target/emulator-tools");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.env_clear().envs([
            ("PATH", "/usr/bin:/bin"),
            ("BIND_HOST", "127.0.0.1"),
            ("AUTH", "true"),
            ("IOT_MQTT_ENABLED", "0"),
        ]);
        command.env("GATEWAY_PORT", port.to_string()).env("HOME", home.path()).env("TMPDIR", home.path());
        // A group of its own, so that the functions which it runs can be ended with it.
        let log = home.path().join("ministack.log");
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        command.stderr(std::fs::File::create(&log).unwrap());
        let process = command.spawn().unwrap();
        let emulator = Self { process, endpoint: format!("http://127.0.0.1:{port}"), _home: home };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "ministack does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
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
        let mut hands = Self { process, requests, answers, application: 0 };
        hands.application = hands.line()["application"].as_u64().unwrap();
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
