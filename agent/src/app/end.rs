//! The signals that end the agent.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, noticed from when this was made: from then on they end nobody by themselves.
pub(super) struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them, also where it came meanwhile. Cancel-safe.
    pub(super) async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does `work`, unless one of them comes first: then nothing.
    pub(super) async fn unless_told<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        tokio::select! {
            done = work => done.map(Some),
            () = self.told() => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_between_two_waits_is_not_lost() {
        let mut end = End::new().unwrap();
        assert_eq!(end.unless_told(async { Ok(1) }).await.unwrap(), Some(1));
        // Whoever starts up is at something else when it has come.
        let mut noticed = signal(SignalKind::terminate()).unwrap();
        kill_process(getpid(), rustix::process::Signal::TERM).unwrap();
        noticed.recv().await;
        let told = timeout(Duration::from_secs(10), end.unless_told(std::future::pending::<Result<()>>()));
        assert_eq!(told.await.expect("it had come").unwrap(), None);
    }
}
