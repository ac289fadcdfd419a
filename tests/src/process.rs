//! Child processes: started in a group of their own with their output captured, ended by pid, and never left behind,
//! not even when this process is killed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::time::{PATIENCE, wait_until};

// A server under load must not fill memory with its log: the newest lines are kept.
const LOG_LINES_MAX: usize = 20_000;

// What is shown of a log when something failed.
const LOG_TAIL: usize = 40;

/// A running child. Dropping it kills it and its group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: Arc<Mutex<VecDeque<String>>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with stdin closed, and its output captured.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let mut command = tied(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = spawn(command).with_context(|| format!("{name}: could not be started"))?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stdout) = child.stdout.take() {
            capture(stdout, Arc::clone(&log));
        }
        if let Some(stderr) = child.stderr.take() {
            capture(stderr, Arc::clone(&log));
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid that is no pid")?;
        Ok(Self { name: name.to_owned(), child, pid, log, ended: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far, both streams, oldest line first, without colours.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The last lines of its output, to stand in an error.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let lines = self.log();
        let from = lines.len().saturating_sub(LOG_TAIL);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// Waits for a line of which `pick` makes something.
    ///
    /// # Errors
    /// It ended before, or [`PATIENCE`] did; with the end of its log.
    pub fn wait_for_line<T>(&mut self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let found = wait_until(PATIENCE, || {
            // Its last lines may still be on their way after it has ended: the two readers hold the log until then.
            let ended = self.exited().filter(|_| Arc::strong_count(&self.log) == 1);
            match self.log().iter().find_map(|line| pick(line)) {
                Some(value) => Some(Ok(value)),
                None => ended.map(Err),
            }
        });
        match found {
            Some(Ok(value)) => Ok(value),
            Some(Err(status)) => bail!("{} ended ({status}) before: {what}\n{}", self.name, self.log_tail()),
            None => bail!("{}: waited in vain for: {what}\n{}", self.name, self.log_tail()),
        }
    }

    /// Its exit status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited().is_some() {
            bail!("{} has ended already\n{}", self.name, self.log_tail());
        }
        kill_process(self.pid, signal).map_err(|error| anyhow!("{}: {error}", self.name))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It did not within `span`; with the end of its log.
    pub fn wait(&mut self, span: Duration) -> Result<ExitStatus> {
        wait_until(span, || self.exited())
            .with_context(|| format!("{} did not end within {} s\n{}", self.name, span.as_secs(), self.log_tail()))
    }

    /// SIGTERM, then waits.
    ///
    /// # Errors
    /// It was gone before, or did not end within `span`.
    pub fn stop(&mut self, span: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(span)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last lines of {} ---\n{}", self.name, self.log_tail());
        }
        if self.exited().is_none() {
            // The group also holds what it started; the pid is not reused before we have waited for it.
            let _gone = kill_process_group(self.pid, Signal::KILL);
            let _status = self.child.wait();
        }
    }
}

/// The same command under `setpriv --pdeathsig`, which ends it when we die, however we die. Setting that in the child
/// ourselves would need `unsafe`. It dies with the thread that spawns it, so spawn from one that lives on. setpriv is
/// part of util-linux, which every Debian has; elsewhere the command runs as it is.
#[must_use]
pub fn tied(command: &Command) -> Command {
    static HAS_SETPRIV: OnceLock<bool> = OnceLock::new();
    let has = *HAS_SETPRIV.get_or_init(|| {
        Command::new("setpriv").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    let mut tied = if has {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        tied
    } else {
        Command::new(command.get_program())
    };
    tied.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        tied.current_dir(directory);
    }
    tied
}

type Spawn = (Command, SyncSender<std::io::Result<Child>>);

/// Spawns from one thread that lives as long as this process: the kernel ties the death signal to the thread that
/// forked, and a test's thread ends with its test while a shared server goes on.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Spawn>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Spawn>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _asker_gone = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = sync_channel(1);
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| anyhow!("the spawning thread ended"))?;
    Ok(child.recv()??)
}

fn capture(stream: impl Read + Send + 'static, log: Arc<Mutex<VecDeque<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let text = without_colours(&String::from_utf8_lossy(&line));
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES_MAX {
                log.pop_front();
            }
            log.push_back(text);
        }
    });
}

/// A line without the terminal's `ESC [ .. m` sequences.
fn without_colours(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        text.push_str(before);
        rest = after.split_once('m').map_or("", |(_codes, tail)| tail);
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("sh", command).expect("sh exists")
    }

    #[test]
    fn the_log_has_both_streams_without_colours() {
        let mut process = shell("printf '\\033[32mout\\033[0m\\n'; echo err >&2");
        process.wait_for_line("out", |line| (line == "out").then_some(())).unwrap();
        process.wait_for_line("err", |line| (line == "err").then_some(())).unwrap();
    }

    #[test]
    fn waiting_for_a_line_ends_when_the_process_does() {
        let error = shell("echo last words; exit 3").wait_for_line("never", |_| None::<()>).unwrap_err().to_string();
        assert!(error.contains("before: never") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_dropped_process_is_gone_with_its_children() {
        let mut process = shell("sleep 1000 & echo child $!; wait");
        let child: u32 = process
            .wait_for_line("the child's pid", |line| line.strip_prefix("child ").and_then(|pid| pid.parse().ok()))
            .unwrap();
        drop(process);
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).ok().filter(|stat| !stat.contains(") Z"));
        crate::eventually("the grandchild is gone", || state().is_none().then_some(()));
    }
}
