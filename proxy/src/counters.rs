//! What metrics are made of: counters that one worker writes and anyone reads, without a lock on the hot path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::record::Method;

/// Upper bounds of the duration buckets: positive, ascending, at most [`Bounds::MAX`]. They hold for the life of the
/// process, since a histogram's buckets cannot change under its counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    seconds: Arc<[f64]>,
    ns: Arc<[u64]>,
}

impl Default for Bounds {
    fn default() -> Self {
        // OpenTelemetry's for `http.server.request.duration`.
        let seconds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
        Self::of(&seconds)
    }
}

impl Bounds {
    /// More are of no use to a reader, and each costs eight bytes a series and worker.
    pub const MAX: usize = 64;

    /// These bounds in seconds, if they can be bounds.
    #[must_use]
    pub fn new(seconds: &[f64]) -> Option<Self> {
        let positive = seconds.iter().all(|bound| bound.is_finite() && *bound > 0.0);
        let ascending = seconds.iter().zip(seconds.iter().skip(1)).all(|(a, b)| a < b);
        (positive && ascending && seconds.len() <= Self::MAX).then(|| Self::of(seconds))
    }

    fn of(seconds: &[f64]) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a cast saturates")]
        let ns = seconds.iter().map(|bound| (bound * 1e9).round() as u64).collect();
        Self { seconds: seconds.into(), ns }
    }

    /// In seconds, as they were given.
    #[must_use]
    pub fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    /// The bucket of a duration; the one after the last bound holds what is above all.
    fn bucket(&self, duration_ns: u64) -> usize {
        // Most requests are short: their bucket is among the first, and a loop that always ends there is well predicted.
        self.ns.iter().position(|bound| duration_ns <= *bound).unwrap_or(self.ns.len())
    }

    /// One bucket per bound, and one for the rest.
    fn buckets(&self) -> usize {
        self.ns.len() + 1
    }
}

/// Series per worker: 10,000 routes with one status each, 300 bytes a series. Beyond it, requests are counted under
/// their entry point alone.
const SERIES_MAX: usize = 16_384;

/// What tells one series from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Entry point, by its stable id.
    pub entry_point: u32,
    /// Route, by its stable id or [`crate::record::NO_ID`].
    pub route: u32,
    /// Service, by its stable id or [`crate::record::NO_ID`].
    pub service: u32,
    /// The request's method.
    pub method: Method,
    /// The response's status; 0 when none was sent.
    pub code: u16,
}

/// One worker's counts for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Which requests.
    pub key: Key,
    /// How many.
    pub requests: u64,
    /// Sum of their durations, nanoseconds.
    pub duration_ns: u64,
    /// By duration, not cumulative; one per bound, and one for the rest.
    pub buckets: Box<[u64]>,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of response bodies.
    pub response_bytes: u64,
}

/// One worker's counts that have no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client connections accepted.
    pub accepted: u64,
    /// Client connections refused at the cap.
    pub refused: u64,
    /// Requests whose head was refused by the framer.
    pub refused_requests: u64,
    /// Connections made to upstreams.
    pub connected: u64,
    /// Requests sent over a pooled connection.
    pub reused: u64,
    /// Client connections that became tunnels.
    pub tunnels_begun: u64,
    /// Tunnels that ended.
    pub tunnels_ended: u64,
    /// Copies of requests that mirrors answered.
    pub mirrored: u64,
    /// Copies of requests that came to nothing.
    pub mirrors_lost: u64,
    /// TLS handshakes that were done.
    pub tls_handshakes: u64,
    /// Those of them that resumed a session.
    pub tls_resumed: u64,
    /// TLS handshakes that came to nothing, by reason: [`TLS_FAILURES`].
    pub tls_failed: [u64; TLS_FAILURES.len()],
}

/// Why TLS handshakes fail, in the order of [`Totals::tls_failed`].
pub const TLS_FAILURES: [&str; 7] = [
    "timeout",
    "client_gone",
    "refused_by_client",
    "client_certificate",
    "incompatible",
    "no_certificate",
    "malformed",
];

/// The readers' handle: all workers' counters.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    bounds: Bounds,
    workers: Arc<Mutex<Vec<Arc<Shared>>>>,
}

/// The writer's handle: one worker's counters.
#[derive(Debug)]
pub struct WorkerCounters {
    bounds: Bounds,
    shared: Arc<Shared>,
    series: HashMap<Key, Arc<Cells>>,
    /// The series of the last request: most requests are like their predecessor.
    last: Option<(Key, Arc<Cells>)>,
}

#[derive(Debug, Default)]
struct Shared {
    series: Mutex<Vec<(Key, Arc<Cells>)>>,
    totals: [AtomicU64; TOTALS],
}

#[derive(Debug)]
struct Cells {
    requests: AtomicU64,
    duration_ns: AtomicU64,
    buckets: Box<[AtomicU64]>,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// Client connections that are open, by entry point. The workers share it, since a cap holds for all of them: it is
/// written twice per connection, never per request.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<ArcSwap<HashMap<u32, Arc<AtomicUsize>>>>);

impl OpenConnections {
    /// Entry points' ids and how many connections are open there. One that left the configuration stays for as long as
    /// it has some.
    #[must_use]
    pub fn read(&self) -> Vec<(u32, usize)> {
        self.0.load().iter().map(|(id, count)| (*id, count.load(Ordering::Relaxed))).collect()
    }

    /// These are the entry points from now on.
    pub(crate) fn keep(&self, entry_points: impl Iterator<Item = u32>) {
        let old = self.0.load();
        let mut new: HashMap<_, _> = entry_points.map(|id| (id, old.get(&id).cloned().unwrap_or_default())).collect();
        let still_open = old.iter().filter(|(id, count)| !new.contains_key(id) && count.load(Ordering::Relaxed) > 0);
        let still_open: Vec<_> = still_open.map(|(id, count)| (*id, Arc::clone(count))).collect();
        new.extend(still_open);
        self.0.store(Arc::new(new));
    }

    /// The count of one entry point.
    pub(crate) fn of(&self, entry_point: u32) -> Option<Arc<AtomicUsize>> {
        self.0.load().get(&entry_point).cloned()
    }
}

const TOTALS: usize = 11 + TLS_FAILURES.len();

/// The totals, by name of what happened.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
#[expect(missing_docs, reason = "the fields of Totals say it")]
pub enum Total {
    Accepted = 0,
    Refused,
    RefusedRequests,
    Connected,
    Reused,
    TunnelsBegun,
    TunnelsEnded,
    Mirrored,
    MirrorsLost,
    TlsHandshakes,
    TlsResumed,
    TlsTimedOut,
    TlsClientGone,
    TlsRefusedByClient,
    TlsClientCertificate,
    TlsIncompatible,
    TlsNoCertificate,
    TlsMalformed,
}

/// One writer per cell: no locked instruction is needed.
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Counters {
    /// Counters with these buckets.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, workers: Arc::default() }
    }

    /// The bounds of all series' buckets.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Registers a worker.
    #[must_use]
    pub fn worker(&self) -> WorkerCounters {
        let shared = Arc::new(Shared::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shared));
        WorkerCounters { bounds: self.bounds.clone(), shared, series: HashMap::new(), last: None }
    }

    /// Reads everything; series of different workers are not yet added up.
    #[must_use]
    pub fn read(&self) -> (Vec<Series>, Totals) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        let mut sums = [0; TOTALS];
        for worker in workers {
            for (sum, cell) in sums.iter_mut().zip(&worker.totals) {
                *sum += cell.load(Ordering::Relaxed);
            }
            let series = worker.series.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(series.iter().map(|(key, cells)| cells.read(*key)));
        }
        let [
            accepted,
            refused,
            refused_requests,
            connected,
            reused,
            tunnels_begun,
            tunnels_ended,
            mirrored,
            mirrors_lost,
            tls_handshakes,
            tls_resumed,
            tls_failed @ ..,
        ] = sums;
        let totals = Totals {
            accepted,
            refused,
            refused_requests,
            connected,
            reused,
            tunnels_begun,
            tunnels_ended,
            mirrored,
            mirrors_lost,
            tls_handshakes,
            tls_resumed,
            tls_failed,
        };
        (all, totals)
    }
}

impl WorkerCounters {
    /// Counts one of the totals.
    pub fn count(&self, total: Total) {
        if let Some(cell) = self.shared.totals.get(total as usize) {
            add(cell, 1);
        }
    }

    /// Counts one request.
    pub fn request(&mut self, key: Key, duration_ns: u64, request_bytes: u64, response_bytes: u64) {
        let cells = match &self.last {
            Some((last, cells)) if *last == key => cells,
            _ => {
                let cells = self.find(key);
                &self.last.insert((key, cells)).1
            }
        };
        add(&cells.requests, 1);
        add(&cells.duration_ns, duration_ns);
        add(&cells.request_bytes, request_bytes);
        add(&cells.response_bytes, response_bytes);
        if let Some(cell) = cells.buckets.get(self.bounds.bucket(duration_ns)) {
            add(cell, 1);
        }
    }

    fn find(&mut self, key: Key) -> Arc<Cells> {
        let full = self.series.len() >= SERIES_MAX;
        let none = crate::record::NO_ID;
        let key = if full && !self.series.contains_key(&key) { Key { route: none, service: none, ..key } } else { key };
        Arc::clone(self.series.entry(key).or_insert_with(|| {
            let cells = Arc::new(Cells::new(self.bounds.buckets()));
            self.shared.series.lock().unwrap_or_else(PoisonError::into_inner).push((key, Arc::clone(&cells)));
            cells
        }))
    }
}

impl Cells {
    fn new(buckets: usize) -> Self {
        Self {
            requests: AtomicU64::new(0),
            duration_ns: AtomicU64::new(0),
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }

    fn read(&self, key: Key) -> Series {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Series {
            key,
            requests: load(&self.requests),
            duration_ns: load(&self.duration_ns),
            buckets: self.buckets.iter().map(load).collect(),
            request_bytes: load(&self.request_bytes),
            response_bytes: load(&self.response_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_by_key_and_bucket() {
        let counters = Counters::default();
        let mut worker = counters.worker();
        let key = Key { entry_point: 1, route: 2, service: 3, method: Method::Get, code: 200 };
        worker.request(key, 5_000_000, 1, 10);
        worker.request(key, 5_000_001, 2, 20);
        worker.request(Key { code: 404, ..key }, u64::MAX / 2, 0, 0);
        worker.request(key, 1, 0, 0);
        worker.count(Total::Accepted);
        let (series, totals) = counters.read();
        assert_eq!(totals.accepted, 1);
        let ok = series.iter().find(|s| s.key == key).unwrap();
        assert_eq!((ok.requests, ok.request_bytes, ok.response_bytes), (3, 3, 30));
        assert_eq!((ok.buckets[0], ok.buckets[1]), (2, 1));
        let missing = series.iter().find(|s| s.key.code == 404).unwrap();
        assert_eq!((missing.buckets.len(), missing.buckets[14]), (15, 1));
    }

    #[test]
    fn an_entry_point_that_left_is_counted_until_its_last_connection_ends() {
        let open = OpenConnections::default();
        let read = || {
            let mut all = open.read();
            all.sort_unstable();
            all
        };
        open.keep([1, 2].into_iter());
        open.of(1).unwrap().fetch_add(3, Ordering::Relaxed);
        assert_eq!(read(), [(1, 3), (2, 0)]);
        open.keep([2].into_iter());
        assert_eq!(read(), [(1, 3), (2, 0)]);
        // Back again, it still knows of them: they count against its cap.
        open.keep([1].into_iter());
        assert_eq!(read(), [(1, 3)]);
        open.of(1).unwrap().fetch_sub(3, Ordering::Relaxed);
        open.keep([2].into_iter());
        assert_eq!(read(), [(2, 0)]);
        assert!(open.of(1).is_none());
    }

    #[test]
    fn bounds_are_those_that_were_asked_for() {
        let counters = Counters::new(Bounds::new(&[0.1, 0.3, 1.2]).unwrap());
        let mut worker = counters.worker();
        let key = Key { entry_point: 1, route: 2, service: 3, method: Method::Get, code: 200 };
        for duration_ns in [0, 100_000_000, 100_000_001, 300_000_001, 1_200_000_001] {
            worker.request(key, duration_ns, 0, 0);
        }
        assert_eq!(*counters.read().0[0].buckets, [2, 1, 1, 1]);
        assert_eq!(counters.bounds().seconds(), [0.1, 0.3, 1.2]);
    }

    #[test]
    fn only_positive_ascending_and_not_too_many_numbers_are_bounds() {
        let ascending = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        for (seconds, taken) in [
            (vec![], true),
            (vec![1e-9, f64::MAX], true),
            (ascending(64), true),
            (ascending(65), false),
            (vec![1.0, 1.0], false),
            (vec![2.0, 1.0], false),
            (vec![0.0], false),
            (vec![-1.0], false),
            (vec![f64::NAN], false),
            (vec![f64::INFINITY], false),
        ] {
            assert_eq!(Bounds::new(&seconds).is_some(), taken, "{seconds:?}");
        }
    }
}
