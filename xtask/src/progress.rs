//! Says what is being done and what it took, on stderr: a line that moves on a terminal, plain lines elsewhere. Steps
//! shorter than a second stay silent. Captures the output of commands and shows its end when they fail.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wayspan_tests::target_dir;

// What is not noticed needs no words.
const SILENT: Duration = Duration::from_secs(1);

// Often enough to be seen moving.
const REDRAW: Duration = Duration::from_millis(200);

// Enough of a compiler's last error.
const TAIL_LINES: usize = 60;

/// Time since it was made.
#[derive(Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    #[expect(clippy::disallowed_methods, reason = "xtask's one clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What has passed.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Does `work`, meanwhile showing `what`.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let watch = Stopwatch::start();
    let display = Display::show(what, watch);
    let result = work();
    let spoke = display.end();
    let took = watch.elapsed();
    match &result {
        Ok(_) if took < SILENT && !spoke => {}
        Ok(_) => eprintln!("  ok {what} ({})", seconds(took)),
        Err(_) => eprintln!("FAIL {what} ({})", seconds(took)),
    }
    result
}

/// Runs a command to its end, its output in a file under `target/xtask`; that output's end stands in the error. Gives
/// the output.
pub fn command(what: &str, command: &Command) -> Result<String> {
    step(what, || run_quietly(what, wayspan_tests::tied(command)))
}

/// The same for package managers, which must not be killed half-way when we are.
pub fn uninterrupted(what: &str, command: Command) -> Result<String> {
    step(what, || run_quietly(what, command))
}

/// Whole seconds, with a tenth below ten.
pub fn seconds(span: Duration) -> String {
    if span < Duration::from_secs(10) {
        format!("{:.1} s", span.as_secs_f64())
    } else {
        format!("{} s", span.as_secs())
    }
}

fn run_quietly(what: &str, mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let path = log_path(what)?;
    let log = File::create(&path)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().with_context(|| format!("{what}: {program} could not be started"))?;
    let output = std::fs::read(&path).unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    if status.success() {
        return Ok(output);
    }
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
    bail!("{what}: {status}\n{tail}\n(all of it: {})", path.display());
}

fn log_path(what: &str) -> Result<PathBuf> {
    let directory = target_dir().join("xtask");
    std::fs::create_dir_all(&directory)?;
    let name: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(directory.join(format!("{name}.log")))
}

/// The thread that shows a step while it runs.
struct Display {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Display {
    fn show(what: &str, watch: Stopwatch) -> Self {
        let (stop, stopped) = channel::<()>();
        let what = what.to_owned();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(SILENT) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            let mut stderr = std::io::stderr();
            if !stderr.is_terminal() {
                eprintln!("  .. {what}");
                let _stopped = stopped.recv();
                return true;
            }
            for mark in ["|", "/", "-", "\\"].iter().cycle() {
                let _shown = write!(stderr, "\r\u{1b}[K   {mark} {what} ({})", seconds(watch.elapsed()));
                let _shown = stderr.flush();
                if stopped.recv_timeout(REDRAW) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            let _cleared = write!(stderr, "\r\u{1b}[K");
            true
        });
        Self { stop, thread }
    }

    /// Stops; whether it had said anything.
    fn end(self) -> bool {
        let _ended = self.stop.send(());
        self.thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_says_its_last_lines_and_where_all_of_them_are() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo the reason >&2; exit 7"]);
        let error = command("a command that fails", &shell).unwrap_err().to_string();
        for part in ["a command that fails", "7", "the reason", "a-command-that-fails.log"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
