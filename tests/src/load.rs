//! A steady load while something is updated: half of the clients open a connection for each request, half keep theirs. Every
//! request must be answered with 200.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::http::{self, Connection};
use crate::wait_until;
use anyhow::{Context as _, Result, bail};

// Of each kind.
const CLIENTS: usize = 4;

// 4 x 2 clients send 400 requests a second: enough to meet each moment of an update, little for two cores.
const PACE: Duration = Duration::from_millis(20);

// What is shown of what went wrong.
const FAULTS_SHOWN: usize = 5;

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts it, against `host` at `address`.
    #[must_use]
    pub fn start(address: SocketAddr, host: &'static str) -> Self {
        let load = Self { stop: Arc::default(), answered: Arc::default(), faults: Arc::default(), threads: Vec::new() };
        let mut threads = Vec::new();
        for client in 0..2 * CLIENTS {
            let (stop, answered, faults) =
                (Arc::clone(&load.stop), Arc::clone(&load.answered), Arc::clone(&load.faults));
            threads.push(std::thread::spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    match ask(address, host, &mut kept, client % 2 == 0) {
                        Ok(()) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            faults.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                        }
                    }
                    std::thread::sleep(PACE);
                }
            }));
        }
        Self { threads, ..load }
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered.
    ///
    /// # Errors
    /// They are not within that time.
    pub fn settle(&self, more: u64, patience: Duration) -> Result<()> {
        let from = self.answered();
        wait_until(patience, || (self.answered() >= from + more).then_some(()))
            .context("requests are no longer answered")
    }

    /// Stops; how many requests were answered.
    ///
    /// # Errors
    /// A request failed.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ended = thread.join();
        }
        let answered = self.answered.load(Ordering::Relaxed);
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if !faults.is_empty() {
            let shown = faults.iter().take(FAULTS_SHOWN).cloned().collect::<Vec<_>>().join("; ");
            bail!("{} of {} requests failed: {shown}", faults.len(), answered + u64::try_from(faults.len())?);
        }
        Ok(answered)
    }
}

/// One request. A kept connection that the server has closed meanwhile is opened anew, as every client does; one that is
/// closed instead of answering is a fault.
fn ask(address: SocketAddr, host: &str, kept: &mut Option<Connection>, keep: bool) -> Result<()> {
    let answer = if keep {
        let reusable = kept.take().filter(|connection| !has_ended(connection));
        let mut connection = match reusable {
            Some(connection) => connection,
            None => Connection::open(address)?,
        };
        let answer = connection.get(host, "/")?;
        let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        *kept = (!closes).then_some(connection);
        answer
    } else {
        http::get(address, host, "/")?
    };
    if answer.status != 200 {
        bail!("status {}: {:.200}", answer.status, answer.text());
    }
    Ok(())
}

/// Whether the server has closed its side, as far as is known without waiting.
fn has_ended(connection: &Connection) -> bool {
    let stream = connection.stream();
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let mut byte = [0];
    let ended = match stream.peek(&mut byte) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || ended
}
