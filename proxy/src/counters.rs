//! What metrics are made of: counters that one worker writes and anyone reads, without a lock on the hot path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::record::Method;

/// Upper bounds of the duration buckets, seconds: OpenTelemetry's for `http.server.request.duration`.
pub const BOUNDS_S: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const BOUNDS_NS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];
/// Buckets: one per bound, and one for the rest.
pub const BUCKETS: usize = BOUNDS_S.len() + 1;
/// Series per worker: 10,000 routes with one status each, 200 bytes a series. Beyond it, requests are counted under
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
    /// By duration, not cumulative; bounds are [`BOUNDS_S`].
    pub buckets: [u64; BUCKETS],
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
    /// Client connections that ended.
    pub closed: u64,
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
}

/// The readers' handle: all workers' counters.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    workers: Arc<Mutex<Vec<Arc<Shared>>>>,
}

/// The writer's handle: one worker's counters.
#[derive(Debug)]
pub struct WorkerCounters {
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

#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    duration_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

const TOTALS: usize = 8;

/// The totals, by name of what happened.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
#[expect(missing_docs, reason = "the fields of Totals say it")]
pub enum Total {
    Accepted = 0,
    Closed,
    Refused,
    RefusedRequests,
    Connected,
    Reused,
    TunnelsBegun,
    TunnelsEnded,
}

/// One writer per cell: no locked instruction is needed.
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Counters {
    /// Registers a worker.
    #[must_use]
    pub fn worker(&self) -> WorkerCounters {
        let shared = Arc::new(Shared::default());
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shared));
        WorkerCounters { shared, series: HashMap::new(), last: None }
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
        let [accepted, closed, refused, refused_requests, connected, reused, tunnels_begun, tunnels_ended] = sums;
        let totals =
            Totals { accepted, closed, refused, refused_requests, connected, reused, tunnels_begun, tunnels_ended };
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
        let bucket = BOUNDS_NS.iter().position(|bound| duration_ns <= *bound).unwrap_or(BOUNDS_NS.len());
        if let Some(cell) = cells.buckets.get(bucket) {
            add(cell, 1);
        }
    }

    fn find(&mut self, key: Key) -> Arc<Cells> {
        let full = self.series.len() >= SERIES_MAX;
        let none = crate::record::NO_ID;
        let key = if full && !self.series.contains_key(&key) { Key { route: none, service: none, ..key } } else { key };
        Arc::clone(self.series.entry(key).or_insert_with(|| {
            let cells = Arc::new(Cells::default());
            self.shared.series.lock().unwrap_or_else(PoisonError::into_inner).push((key, Arc::clone(&cells)));
            cells
        }))
    }
}

impl Cells {
    fn read(&self, key: Key) -> Series {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Series {
            key,
            requests: load(&self.requests),
            duration_ns: load(&self.duration_ns),
            buckets: self.buckets.each_ref().map(load),
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
        assert_eq!(missing.buckets[BUCKETS - 1], 1);
    }
}
