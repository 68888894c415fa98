//! The server of the tests leaves nothing behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use end_to_end::postgres::Postgres;

const HOLDS: &str = "STORED_ROWS_TEST_HOLDS_A_SERVER";

/// Runs itself once more as a process that holds a server, and kills that.
#[test]
fn server_and_its_folder_end_with_its_process() {
    if std::env::var_os(HOLDS).is_some() {
        let server = Postgres::start(&[]).unwrap();
        println!("\nserver {} {}", server.process().unwrap(), server.socket().display());
        std::thread::sleep(Duration::from_secs(600));
    }
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder.args(["--exact", "--nocapture", "server::server_and_its_folder_end_with_its_process"]);
    let mut holder = holder.env(HOLDS, "1").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.starts_with("server ")).unwrap();
    let [_, process, folder] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let alive = || Path::new("/proc").join(process).join("fd").exists() || Path::new(folder).exists();
    assert!(alive());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let began = Instant::now();
    while alive() {
        assert!(began.elapsed() < Duration::from_secs(20), "process {process} or folder {folder} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
