//! How many of a worker's connections hold hyper's state, and what follows from it: in a crowd an idle connection folds at
//! once, and when a crowd has gone the allocator is told. When a connection is idle is known to `client`, and of those to
//! servers to `upstream`.

use std::cell::Cell;

/// What hyper's state of a connection takes, most of it two buffers of 8 KiB; measured.
const HELD_BYTES: usize = 18 << 10;
/// What a connection takes beside that, with its task; measured.
const OPEN_BYTES: usize = 3 << 10;
/// What hyper's state of a connection to a server takes; measured.
const POOLED_BYTES: usize = 26 << 10;
/// How many connections of the whole process may idle with hyper's state: 36 MiB.
const UNFOLDED_MAX: usize = 2048;
/// A worker's share of these, also where there are many workers: what a busy client or load balancer keeps open.
const SHARE_MIN: usize = 64;
/// Freeing less than this is not worth the faults of the pages that are needed again.
const GIVE_BACK_MIN_BYTES: usize = 4 << 20;

/// The count of one worker.
#[derive(Debug)]
pub(crate) struct Unfolded {
    now: Cell<usize>,
    /// The most since memory was last given back.
    most: Cell<usize>,
    /// The most open connections likewise, as the sweeps saw them.
    most_open: Cell<usize>,
    /// Of pooled connections to servers that hold it.
    most_pooled: Cell<usize>,
    max: usize,
    give_back: fn() -> bool,
}

/// A connection that holds hyper's state, as long as this lives.
#[derive(Debug)]
pub(crate) struct Held<'u>(&'u Unfolded);

impl Unfolded {
    /// For one of so many workers; `give_back` is as in [`crate::server::Settings`].
    pub(crate) fn new(workers: usize, give_back: fn() -> bool) -> Self {
        let max = UNFOLDED_MAX.checked_div(workers).unwrap_or(UNFOLDED_MAX).max(SHARE_MIN);
        let (now, most, most_open, most_pooled) = Default::default();
        Self { now, most, most_open, most_pooled, max, give_back }
    }

    /// One more.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.now.set(self.now.get() + 1);
        self.most.set(self.most.get().max(self.now.get()));
        Held(self)
    }

    /// Whether a connection that idles should fold now, not later.
    pub(crate) fn is_crowded(&self) -> bool {
        self.now.get() > self.max
    }

    /// Called by the worker's sweep: gives memory back after a crowd. `open` connections are left, and `pooled` ones to
    /// servers with hyper's state.
    pub(crate) fn sweep(&self, open: usize, pooled: usize) {
        let now = self.now.get();
        self.most_open.set(self.most_open.get().max(open));
        self.most_pooled.set(self.most_pooled.get().max(pooled));
        let folded = self.most.get().saturating_sub(now).saturating_mul(HELD_BYTES);
        let closed = self.most_open.get().saturating_sub(open).saturating_mul(OPEN_BYTES);
        let of_servers = self.most_pooled.get().saturating_sub(pooled).saturating_mul(POOLED_BYTES);
        let freed = folded.saturating_add(closed).saturating_add(of_servers);
        if freed >= GIVE_BACK_MIN_BYTES && (self.give_back)() {
            self.most.set(now);
            self.most_open.set(open);
            self.most_pooled.set(pooled);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.now.set(self.0.now.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_worker_is_crowded_beyond_its_share() {
        for (workers, share) in [(0, 2048), (1, 2048), (2, 1024), (32, 64), (1000, 64)] {
            let unfolded = Unfolded::new(workers, || true);
            let mut held: Vec<_> = (0..share).map(|_| unfolded.hold()).collect();
            assert!(!unfolded.is_crowded(), "{workers} workers");
            held.push(unfolded.hold());
            assert!(unfolded.is_crowded(), "{workers} workers");
            held.pop();
            assert!(!unfolded.is_crowded(), "{workers} workers");
        }
    }

    #[test]
    fn memory_is_given_back_once_after_a_crowd_and_asked_for_again_when_refused() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        // Refuses the first time.
        let unfolded = Unfolded::new(1, || ASKED.fetch_add(1, Ordering::Relaxed) > 0);
        let asked = |open| {
            unfolded.sweep(open, 0);
            ASKED.load(Ordering::Relaxed)
        };
        let mut held: Vec<_> = (0..400).map(|_| unfolded.hold()).collect();
        assert_eq!(asked(2000), 0, "they are all here");
        held.truncate(200);
        assert_eq!(asked(2000), 0, "a few come and go all the time");
        held.truncate(100);
        assert_eq!((asked(2000), asked(2000)), (1, 2));
        assert_eq!(asked(2000), 2, "once");
        held.clear();
        assert_eq!(asked(1500), 2, "100 folded and 500 closed are not worth it");
        assert_eq!((asked(800), asked(0)), (3, 3), "100 and 1200 are, the rest is not");
        let pooled = |pooled| {
            unfolded.sweep(0, pooled);
            ASKED.load(Ordering::Relaxed)
        };
        assert_eq!((pooled(300), pooled(200)), (3, 4), "100 to servers are with that rest");
        assert_eq!((pooled(100), pooled(0)), (4, 5), "200 are by themselves");
    }
}
