//! Commands that take minutes, and never run in silence.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The longest time without a line.
pub const PULSE: Duration = Duration::from_secs(10);

/// Runs a command to its end, and shows its progress.
///
/// A terminal shows the command's own output, such as Cargo's progress bar. Other output gets the command's lines. At
/// least every [`PULSE`] it gets a line with the time since the start. Cargo's line for each crate is only counted.
///
/// # Errors
/// The command cannot be started, or fails.
/// When the command cannot be started, or fails.
#[allow(clippy::print_stdout, reason = "it talks to a terminal")]
pub fn run(what: &str, mut command: Command) -> Result<(), String> {
    command.stdin(Stdio::null());
    if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
        let status = command.status().map_err(|error| format!("{what}: {command:?} did not start: {error}"))?;
        return if status.success() { Ok(()) } else { Err(format!("{what} failed ({status}): {command:?}")) };
    }
    follow(what, command, |line| println!("{line}"))
}

/// As [`run`], without a terminal: every line goes to `say`.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn follow(what: &str, mut command: Command, mut say: impl FnMut(&str)) -> Result<(), String> {
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("{what}: {command:?} did not start: {error}"))?;
    let (sender, lines) = channel();
    let readers = [
        child.stdout.take().map(|output| read(output, sender.clone())),
        child.stderr.take().map(|output| read(output, sender)),
    ];
    let (mut crates, mut last) = (0_u32, Instant::now());
    loop {
        match lines.recv_timeout(PULSE.saturating_sub(last.elapsed())) {
            Ok(line) if is_a_crate(&line) => crates += 1,
            Ok(line) => {
                say(&line);
                last = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if last.elapsed() >= PULSE {
            let counted = if crates > 0 { format!(", {crates} crates") } else { String::new() };
            say(&format!("   {what}: {} s{counted} …", started.elapsed().as_secs()));
            last = Instant::now();
        }
    }
    readers.into_iter().flatten().for_each(|reader| drop(reader.join()));
    let status = child.wait().map_err(|error| format!("{what}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed ({status}): {command:?}")) }
}

fn read(output: impl Read + Send + 'static, lines: Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })
}

/// Whether Cargo reports the start of a crate.
fn is_a_crate(line: &str) -> bool {
    let verb = line.trim_start().split(' ').next().unwrap_or_default();
    ["Compiling", "Checking", "Documenting", "Downloaded", "Downloading", "Fresh"].contains(&verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_slow_build_is_never_silent_for_15_seconds() {
        let mut said = vec![(Instant::now(), String::new())];
        let slow = "echo '   Compiling first v1.0.0' >&2; sleep 22; echo end";
        follow("the build", shell(slow), |line| said.push((Instant::now(), line.to_owned()))).unwrap();
        let longest = said.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(longest < Duration::from_secs(15), "{said:?}");
        let words: Vec<&str> = said.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(words, ["", "   the build: 10 s, 1 crates …", "   the build: 20 s, 1 crates …", "end"]);
    }

    #[test]
    fn what_a_command_says_is_shown_and_its_failure_told() {
        let mut said = vec![];
        let failed = follow("it", shell("echo out; echo err >&2; exit 3"), |line| said.push(line.to_owned()));
        said.sort();
        assert_eq!(said, ["err", "out"]);
        assert!(failed.unwrap_err().starts_with("it failed (exit status: 3)"));
    }
}
