//! What became of every span: `made = sent + lost + pending` at every instant. Each span is held by exactly one
//! [`Ticket`], which settles it once, at the latest when it is dropped. Moving spans about is `queue`'s and `sender`'s.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why spans were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// They came while the queue was full.
    QueueFull = 0,
    /// The receiver accepted their batch, less them.
    Rejected,
    /// The receiver refused their batch for good.
    Refused,
    /// The receiver could not be reached, or asked to come back, for too long.
    Unavailable,
    /// They were sent, and no answer came: they are not sent twice.
    Unknown,
    /// The process ended first.
    Shutdown,
}

impl Loss {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::QueueFull, Self::Rejected, Self::Refused, Self::Unavailable, Self::Unknown, Self::Shutdown];

    /// The value of a metric's `reason` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The counts at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Spans encoded since the start.
    pub made: u64,
    /// Spans that the receiver acknowledged, less those it rejected.
    pub sent: u64,
    /// Spans that will not arrive, or may not have, by [`Loss`] as index.
    pub lost_by: [u64; Loss::COUNT],
    /// Bytes of the spans that are pending.
    pub pending_bytes: u64,
}

impl Totals {
    /// Spans that will not arrive, or may not have.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_by.iter().sum()
    }

    /// Spans whose fate is open: in a batch that fills, in the queue, on their way.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.made - self.sent - self.lost()
    }

    fn lose(&mut self, spans: u64, why: Loss) {
        if let Some(count) = self.lost_by.get_mut(why as usize) {
            *count += spans;
        }
    }
}

/// The ledger. One lock for all numbers, so that a reader sees one instant; it is taken once per request on the merge's
/// thread and once per batch by the sender, for some nanoseconds, never on a worker.
#[derive(Debug, Default)]
pub struct SpanCounts(Mutex<Totals>);

/// What may be pending at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) spans: u64,
    pub(super) bytes: u64,
}

impl SpanCounts {
    /// All numbers of one instant.
    #[must_use]
    pub fn read(&self) -> Totals {
        *self.lock()
    }

    /// Counts spans as made. Where they would exceed the bounds they are lost at once, and the answer is `false`.
    pub(super) fn admit(&self, spans: u64, bytes: u64, bounds: Bounds) -> bool {
        let mut totals = self.lock();
        let room =
            totals.pending() + spans <= bounds.spans && totals.pending_bytes.saturating_add(bytes) <= bounds.bytes;
        totals.made += spans;
        if room {
            totals.pending_bytes += bytes;
        } else {
            totals.lose(spans, Loss::QueueFull);
        }
        room
    }

    // A panic elsewhere leaves whole numbers behind: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spans that were admitted and whose fate is open.
// Not `Clone`: two owners could settle twice.
#[derive(Debug)]
pub(super) struct Ticket {
    counts: Arc<SpanCounts>,
    spans: u64,
    bytes: u64,
}

impl Ticket {
    /// For spans still to come.
    pub(super) fn new(counts: Arc<SpanCounts>) -> Self {
        Self { counts, spans: 0, bytes: 0 }
    }

    /// Takes on spans if there is room for them.
    pub(super) fn admit(&mut self, spans: u64, bytes: u64, bounds: Bounds) -> bool {
        let admitted = self.counts.admit(spans, bytes, bounds);
        if admitted {
            self.spans += spans;
            self.bytes += bytes;
        }
        admitted
    }

    /// How many spans it stands for.
    pub(super) fn spans(&self) -> u64 {
        self.spans
    }

    /// The receiver took them, less the rejected.
    pub(super) fn acknowledged(mut self, rejected: u64) {
        let rejected = rejected.min(self.spans);
        let mut totals = self.counts.lock();
        totals.sent += self.spans - rejected;
        totals.lose(rejected, Loss::Rejected);
        totals.pending_bytes -= self.bytes;
        drop(totals);
        (self.spans, self.bytes) = (0, 0);
    }

    /// They will not arrive, or may not have.
    pub(super) fn lost(mut self, why: Loss) {
        self.settle_lost(why);
    }

    fn settle_lost(&mut self, why: Loss) {
        if self.spans > 0 {
            let mut totals = self.counts.lock();
            totals.lose(self.spans, why);
            totals.pending_bytes -= self.bytes;
        }
        (self.spans, self.bytes) = (0, 0);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle_lost(Loss::Shutdown);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const WIDE: Bounds = Bounds { spans: u64::MAX >> 1, bytes: u64::MAX >> 1 };

    #[test]
    fn every_way_of_a_ticket_settles_its_spans_once() {
        let counts = Arc::new(SpanCounts::default());
        let ticket = |spans| {
            let mut ticket = Ticket::new(Arc::clone(&counts));
            assert!(ticket.admit(spans, 10, WIDE));
            ticket
        };
        ticket(5).acknowledged(2);
        ticket(7).lost(Loss::Unknown);
        drop(ticket(11));
        ticket(3).acknowledged(99);
        let held = ticket(13);
        let totals = counts.read();
        assert_eq!((totals.made, totals.sent, totals.lost_by), (39, 3, [0, 5, 0, 0, 7, 11]));
        assert_eq!((totals.pending(), totals.pending_bytes), (13, 10));
        drop(held);
        assert_eq!((counts.read().pending(), counts.read().pending_bytes), (0, 0));
    }

    #[test]
    fn what_exceeds_a_bound_is_lost_at_once() {
        let counts = Arc::new(SpanCounts::default());
        let mut ticket = Ticket::new(Arc::clone(&counts));
        let bounds = Bounds { spans: 4, bytes: 100 };
        assert!(ticket.admit(3, 60, bounds));
        assert!(!ticket.admit(2, 1, bounds));
        assert!(!ticket.admit(1, 41, bounds));
        assert!(ticket.admit(1, 40, bounds));
        assert_eq!((counts.read().made, counts.read().lost(), ticket.spans()), (7, 3, 4));
    }

    #[test]
    fn readers_see_one_instant_while_others_write() {
        let counts = Arc::new(SpanCounts::default());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for step in 1..4_u64 {
                let counts = Arc::clone(&counts);
                let done = &done;
                scope.spawn(move || {
                    for i in 0..20_000 {
                        let mut ticket = Ticket::new(Arc::clone(&counts));
                        ticket.admit(step, 8, Bounds { spans: 7, bytes: 1000 });
                        match i % 3 {
                            0 => ticket.acknowledged(i % 2),
                            1 => ticket.lost(Loss::Unknown),
                            _ => drop(ticket),
                        }
                    }
                    done.store(true, Ordering::Release);
                });
            }
            let mut before = counts.read();
            while !done.load(Ordering::Acquire) {
                let now = counts.read();
                // Six at most are held at once; a torn reading would show more, or go below zero and panic.
                assert!(now.pending() <= 6 && now.pending_bytes <= 24);
                assert!(now.made >= before.made && now.sent >= before.sent && now.lost() >= before.lost());
                before = now;
            }
        });
        let end = counts.read();
        assert_eq!((end.made, end.pending(), end.pending_bytes), (120_000, 0, 0));
    }
}
