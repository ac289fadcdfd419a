//! Histograms of phases, counted by the merge: one writer, any readers, no locked instruction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::merge::phase::{Attributed, Phase};

/// Upper bounds in microseconds: from what a probe can tell apart to what a person waits for.
pub(crate) const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Buckets: one per bound, and one for the rest.
pub(crate) const BUCKETS: usize = BOUNDS_US.len() + 1;

#[derive(Debug, Default)]
struct Cells {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// The merge thread's end. Not `Clone`: two writers would lose counts.
#[derive(Debug, Default)]
pub struct PhaseWriter(Arc<[Cells; Phase::COUNT]>);

/// The readers' end; one per merge thread, added up where they are shown.
#[derive(Debug, Clone)]
pub struct PhaseReader(Arc<[Cells; Phase::COUNT]>);

/// One phase's histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PhaseReading {
    /// Sum, microseconds.
    pub(crate) sum_us: u64,
    /// By bound, not cumulative; the last is above all bounds.
    pub(crate) buckets: [u64; BUCKETS],
}

/// One writer per cell: no locked instruction is needed.
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl PhaseWriter {
    /// A reader of what this one counts.
    #[must_use]
    pub fn reader(&self) -> PhaseReader {
        PhaseReader(Arc::clone(&self.0))
    }

    /// Counts a request: each phase that took time in it.
    pub fn observe(&mut self, attributed: &Attributed<'_>) {
        for (cells, us) in self.0.iter().zip(attributed.phases) {
            if us == 0 {
                continue;
            }
            add(&cells.sum_us, us);
            // Most phases are short: they are found at once.
            let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
            if let Some(cell) = cells.buckets.get(bucket) {
                add(cell, 1);
            }
        }
    }
}

impl PhaseReader {
    /// All phases, by [`Phase`] as index.
    #[must_use]
    pub(crate) fn read(&self) -> [PhaseReading; Phase::COUNT] {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        self.0
            .each_ref()
            .map(|cells| PhaseReading { sum_us: load(&cells.sum_us), buckets: cells.buckets.each_ref().map(load) })
    }
}

#[cfg(test)]
mod tests {
    use wayspan_proxy::clock::MonoNs;
    use wayspan_proxy::record::{Head, Record, Texts};

    use super::*;
    use crate::merge::attribute::attribute;

    #[test]
    fn each_phase_that_took_time_is_counted_once() {
        let mut writer = PhaseWriter::default();
        let reader = writer.reader();
        for (sent_us, total_us) in [(100, 400), (101, 20_000_101)] {
            let head = Head {
                first_readable: MonoNs(1_000),
                head_readable: MonoNs(1_000 + sent_us * 1_000),
                head_read: MonoNs(1_000 + sent_us * 1_000),
                head_written: MonoNs(1_000 + total_us * 1_000),
                ended: MonoNs(1_000 + total_us * 1_000),
                ..Head::default()
            };
            let record = Record {
                head,
                attempts: Vec::new(),
                calls: Vec::new(),
                texts: Texts::default(),
                request_headers: Vec::new(),
                response_headers: Vec::new(),
            };
            writer.observe(&attribute(&record));
        }
        let readings = reader.read();
        let sent = readings[Phase::ClientSend as usize];
        assert_eq!((sent.sum_us, sent.buckets[0], sent.buckets[1]), (201, 1, 1));
        let response = readings[Phase::ProxyResponse as usize];
        assert_eq!((response.buckets[2], response.buckets[BUCKETS - 1]), (1, 1));
        assert_eq!(response.buckets.iter().sum::<u64>(), 2);
        assert_eq!(readings[Phase::ReadWait as usize], PhaseReading::default());
    }
}
