//! Which row is under way, and which agent it is played to: what clients, backends and relays look up.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::ledger::now_ns;
use super::machine::{Workers, state};
use super::plan::Running;

/// A stopped process is stopped within microseconds: five seconds are given to it.
const STOP_TRIES: u32 = 50_000;
const STOP_LOOK: Duration = Duration::from_micros(100);
/// Between pieces of a body that shall be segments of their own.
const PIECE_PAUSE: Duration = Duration::from_micros(500);

/// What all injectors share.
#[derive(Debug, Default)]
pub(super) struct Stage {
    running: Mutex<Option<Arc<Running>>>,
    agent: Mutex<Option<Arc<Agent>>>,
}

/// When the agent was stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// It was not stopped yet.
    pub(super) begun_ns: u64,
    /// What arrived had to wait for certain.
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// It had been told to go on.
    pub(super) ended_ns: u64,
}

/// The agent that the row is played to.
#[derive(Debug)]
pub(super) struct Agent {
    pid: u32,
    pub(super) workers: Workers,
}

impl Stage {
    /// The row that is under way.
    pub(super) fn running(&self) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another row begins, or none.
    pub(super) fn set(&self, running: Option<Arc<Running>>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// Another agent has started.
    pub(super) fn set_agent(&self, pid: u32) -> Result<()> {
        let agent = Agent { pid, workers: Workers::of(pid)? };
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(agent));
        Ok(())
    }

    /// The agent.
    pub(super) fn agent(&self) -> Result<Arc<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone().context("no agent runs")
    }

    /// Stops the agent, sends it so many pieces, lets it go on after that time, and accounts for it: the agent waited for the first
    /// of them when it was stopped.
    pub(super) fn stopped_while_pieces_come(
        &self,
        mut stream: &TcpStream,
        (piece, count): (&[u8], usize),
        (request, (injection, delay)): (u64, (usize, Duration)),
    ) -> Result<()> {
        let (mut sending_ns, mut sent_ns) = (0, 0);
        let stop = self.stopped(delay, || {
            for index in 0..count {
                if index == 0 {
                    sending_ns = now_ns();
                }
                stream.write_all(piece)?;
                if index == 0 {
                    sent_ns = now_ns();
                }
                std::thread::sleep(PIECE_PAUSE);
            }
            Ok(())
        })?;
        let ledger = &self.running().context("no row is under way")?.ledger;
        ledger.add(request, injection, true, sent_ns, stop.to_ns);
        ledger.unsure(request, injection, 0, sent_ns - sending_ns + (stop.ended_ns - stop.to_ns));
        Ok(())
    }

    /// Stops the agent, lets `arrive` bring something to it, and lets it go on after that time.
    pub(super) fn stopped(&self, delay: Duration, arrive: impl FnOnce() -> Result<()>) -> Result<Stop> {
        let begun_ns = now_ns();
        let agent = self.agent()?;
        let pid = i32::try_from(agent.pid).ok().and_then(Pid::from_raw).context("no agent")?;
        // What it does for an earlier request, or with this one so far, shall not be hit.
        agent.workers.settle()?;
        kill_process(pid, Signal::STOP)?;
        let stopped = (0..STOP_TRIES).any(|_| {
            let stopped = is_stopped(agent.pid);
            if !stopped {
                std::thread::sleep(STOP_LOOK);
            }
            stopped
        });
        let arrived = arrive();
        let from_ns = now_ns();
        std::thread::sleep(delay);
        let to_ns = now_ns();
        kill_process(pid, Signal::CONT)?;
        let ended_ns = now_ns();
        if !stopped {
            bail!("the agent did not stop");
        }
        arrived.map(|()| Stop { begun_ns, from_ns, to_ns, ended_ns })
    }
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let stopped = |stat: std::io::Result<String>| stat.is_ok_and(|stat| state(&stat) == Some('T'));
    tasks.flatten().all(|task| stopped(std::fs::read_to_string(task.path().join("stat"))))
}
