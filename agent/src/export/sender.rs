//! Delivers batches: a task on the control runtime that sends several at once, tries again what was surely not taken,
//! and settles every ticket. Connections are `connection`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Outcome, Request};
use super::counts::{Loss, SpanCounts};
use super::queue::{Batch, BatchWriter, Entrance, Payload};
use super::resource::{Envelope, Resource};
use super::target::{BadTarget, Target};
use crate::config::model::Otlp;

/// Requests under way at once: with a receiver that takes 10 ms for 512 spans that is 200,000 spans a second.
const LANES_MAX: usize = 4;
/// Waits between tries: the first, and the longest.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long one batch is tried: a receiver's restart, not its absence. Behind it the newest spans are lost.
const TRIED_FOR: Duration = Duration::from_secs(60);

/// The running export. Ends with [`Exporter::shutdown`]; dropped, what is pending is lost, and counted as that.
#[derive(Debug)]
pub struct Exporter {
    otlp: Otlp,
    entrance: Entrance,
    counts: Arc<SpanCounts>,
    healthy: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Exporter {
    /// Starts the sender's task on a runtime.
    ///
    /// # Errors
    /// Where the endpoint or a header cannot be used.
    pub fn start(otlp: &Otlp, resource: &Resource, seed: u64, runtime: &Handle) -> Result<Self, BadTarget> {
        let counts = Arc::new(SpanCounts::default());
        let (entrance, batches) = Entrance::new(otlp, Arc::clone(&counts));
        let healthy = Arc::new(AtomicBool::new(true));
        let stop = CancellationToken::new();
        let sender = Sender {
            target: Arc::new(Target::new(otlp)?),
            envelope: Envelope::new(resource),
            healthy: Arc::clone(&healthy),
            random: fastrand::Rng::with_seed(seed),
        };
        let mut task = JoinSet::new();
        task.spawn_on(sender.run(batches, stop.clone()), runtime);
        Ok(Self { otlp: otlp.clone(), entrance, counts, healthy, stop, task })
    }

    /// A writer of batches, for one thread.
    #[must_use]
    pub fn writer(&self) -> BatchWriter {
        BatchWriter::new(self.entrance.clone(), &self.otlp)
    }

    /// What became of every span.
    #[must_use]
    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }

    /// Whether the last request was answered.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// Sends what is pending for at most this long; then the rest is lost. Writers have been dropped before: what they
    /// push later is lost. Afterwards nothing is pending.
    pub async fn shutdown(mut self, within: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(within, self.task.join_next()).await.is_err() {
            self.task.shutdown().await;
        }
    }
}

struct Sender {
    target: Arc<Target>,
    envelope: Envelope,
    healthy: Arc<AtomicBool>,
    random: fastrand::Rng,
}

impl Sender {
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>, stop: CancellationToken) {
        let mut idle: Vec<Connection> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut open = true;
        while open || !under_way.is_empty() {
            tokio::select! {
                Some(connection) = under_way.next() => idle.push(connection),
                batch = batches.recv(), if open && under_way.len() < LANES_MAX => match batch {
                    Some(batch) => {
                        let connection = idle.pop().unwrap_or_else(|| Connection::new(Arc::clone(&self.target)));
                        under_way.push(self.deliver(connection, batch));
                    }
                    None => open = false,
                },
                // What is in the channel is still received after this.
                () = stop.cancelled(), if !batches.is_closed() => batches.close(),
            }
        }
    }

    /// A future that delivers one batch and gives the connection back.
    fn deliver(&mut self, connection: Connection, batch: Batch) -> impl Future<Output = Connection> + use<> {
        let request = match batch.payload {
            Payload::Spans(spans) => Request { head: self.envelope.open(spans.len()).into(), spans },
            Payload::Request(whole) => Request { head: whole, spans: Bytes::new() },
        };
        let (ticket, healthy, random) = (batch.ticket, Arc::clone(&self.healthy), self.random.fork());
        async move {
            let mut connection = connection;
            match persist(&mut connection, &request, &healthy, random).await {
                Ok(rejected) => ticket.acknowledged(rejected),
                Err(loss) => ticket.lost(loss),
            }
            connection
        }
    }
}

/// Tries until there is an answer, the outcome is unknown, or the time is up. Returns how many spans were rejected.
async fn persist(
    connection: &mut Connection,
    request: &Request,
    healthy: &AtomicBool,
    mut random: fastrand::Rng,
) -> Result<u64, Loss> {
    let begun = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let outcome = connection.send(request).await;
        report(&outcome, healthy);
        let asked = match outcome {
            Outcome::Accepted { rejected } => return Ok(rejected),
            Outcome::Refused(_) => return Err(Loss::Refused),
            Outcome::Unknown(_) => return Err(Loss::Unknown),
            Outcome::Later { after, .. } => after,
        };
        let wait = backoff.next(begun.elapsed(), asked, random.f64()).ok_or(Loss::Unavailable)?;
        sleep(wait).await;
    }
}

/// How long to wait between tries: pure.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_FIRST)
    }
}

impl Backoff {
    /// The next wait after so much time, not shorter than the receiver asked; nothing when the time is up. `random` is
    /// from 0 to 1: half to one and a half of the usual wait, so that many senders do not come back together.
    fn next(&mut self, tried_for: Duration, asked: Option<Duration>, random: f64) -> Option<Duration> {
        let wait = self.0.mul_f64(0.5 + random).max(asked.unwrap_or_default());
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
        (tried_for.saturating_add(wait) <= TRIED_FOR).then_some(wait)
    }
}

/// One line per change between good and bad, not per batch; the counters tell the extent.
fn report(outcome: &Outcome, healthy: &AtomicBool) {
    let why = match outcome {
        Outcome::Accepted { .. } => {
            if !healthy.swap(true, Ordering::Relaxed) {
                tracing::info!("spans are delivered again");
            }
            return;
        }
        Outcome::Refused(why) | Outcome::Later { why, .. } | Outcome::Unknown(why) => why,
    };
    if healthy.swap(false, Ordering::Relaxed) {
        tracing::warn!(%why, "spans are not delivered");
    }
}

#[cfg(test)]
mod tests;
