//! The second emulator, which `cargo verify` installs.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::{Child, Command};

use crate::common::post;

/// ministack on a free port of this machine. It ends with the test.
pub(crate) struct Ministack {
    process: Child,
    endpoint: String,
    _home: tempfile::TempDir,
}

impl Ministack {
    pub(crate) async fn start(workspace: &Path) -> Self {
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..3 {
            if let Some(emulator) = Self::start_on(workspace, free_port()).await {
                return emulator;
            }
        }
        panic!("ministack does not start");
    }

    async fn start_on(workspace: &Path, port: u16) -> Option<Self> {
        let program = workspace.join("target/emulator-tools/bin/ministack");
        assert!(program.is_file(), "ministack is missing: `cargo verify` installs it into target/emulator-tools");
        let home = tempfile::tempdir().unwrap();
        // The kernel kills it when the thread that started it ends: a test that is killed cannot.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).env_clear();
        command.envs([("PATH", "/usr/bin:/bin"), ("BIND_HOST", "127.0.0.1"), ("IOT_MQTT_ENABLED", "0")]);
        command.env("GATEWAY_PORT", port.to_string()).env("HOME", home.path()).env("TMPDIR", home.path());
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.kill_on_drop(true).process_group(0).spawn();
        let process = process.unwrap_or_else(|error| panic!("setpriv, of util-linux: {error}"));
        let mut emulator = Self { process, endpoint: format!("http://127.0.0.1:{port}"), _home: home };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if emulator.process.try_wait().unwrap().is_some() {
                return None;
            }
            if emulator.is_ready(port).await {
                return Some(emulator);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    async fn is_ready(&self, port: u16) -> bool {
        let listens = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
        listens && post(&self.endpoint, "AmazonEC2ContainerServiceV20141113.ListClusters", "{}").await.1 != json!(null)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
