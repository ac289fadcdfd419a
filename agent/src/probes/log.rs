//! Brings the programs' own few messages into the agent's log. What they say, and how seldom, is theirs.
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor it polls")]

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The programs' messages, until someone runs it.
#[must_use = "messages wait in a ring buffer of 128 KiB until this runs"]
pub struct ProbeLog {
    logger: EbpfLogger<Bridge>,
}

impl ProbeLog {
    /// Takes the message map out of a loaded object.
    pub(super) fn new(ebpf: &mut aya::Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(ebpf, Bridge).map(|logger| Self { logger })
    }

    /// Passes messages on as they come; ends only with an error of the event loop. Spawn it on the control runtime.
    ///
    /// # Errors
    /// The ring buffer cannot be polled.
    pub async fn run(self) -> std::io::Result<()> {
        // SAFETY: the logger owns its ring buffer's descriptor, which stays open and the same until it is dropped.
        let mut logger = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE)? };
        logger.get_mut().flush();
        loop {
            let mut ready = logger.readable_mut().await?;
            // Cleared first: a message that comes while flushing makes it ready again.
            ready.clear_ready();
            ready.get_inner_mut().flush();
        }
    }
}

/// From aya-log's facade to tracing, under one fixed target.
struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "wayspan::probes", "{message}"),
            log::Level::Warn => tracing::warn!(target: "wayspan::probes", "{message}"),
            log::Level::Info => tracing::info!(target: "wayspan::probes", "{message}"),
            log::Level::Debug | log::Level::Trace => tracing::debug!(target: "wayspan::probes", "{message}"),
        }
    }

    fn flush(&self) {}
}
