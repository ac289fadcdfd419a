//! Receives spans, and lends what was kept of them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use wayspan_tests::otlp;

/// A running receiver; ends with this process.
#[derive(Debug)]
pub(super) struct Receiver<R> {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<R>>,
    count: Arc<AtomicU64>,
}

impl<R: Send + 'static> Receiver<R> {
    /// Listens. `take` keeps an export, and says how many requests got their first SERVER span by it.
    pub(super) fn start(received: R, take: fn(&mut R, &[u8]) -> u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (received, count) = (Arc::new(Mutex::new(received)), Arc::<AtomicU64>::default());
        let (kept, counted) = (Arc::clone(&received), Arc::clone(&count));
        otlp::receive(listener, move |message| {
            let came = take(&mut kept.lock().unwrap_or_else(PoisonError::into_inner), message);
            counted.fetch_add(came, Ordering::Relaxed);
        });
        Ok(Self { address, received, count })
    }

    /// How many requests have a SERVER span.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// What came so far. Held, nothing more comes.
    pub(super) fn received(&self) -> MutexGuard<'_, R> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
