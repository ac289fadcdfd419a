//! When the machine stood still: its host runs a virtual machine's core when it likes, and nothing in the machine is told. A thread
//! above all others on each core looks at the clock again and again; where it comes late, nobody could have come in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::ledger::{covered, now_ns};
use super::machine::OnEachCore;
use super::space::{Urgency, urgent};

/// How often it looks: a pause is known but for so long.
const TURN: Duration = Duration::from_micros(500);
/// So late a thread wakes up by itself.
const LATE_NS: u64 = 300_000;

/// Stretches in which a core did not run, as they come to be known.
type Stretches = Arc<Mutex<Vec<(u64, u64)>>>;

/// Watches all cores that this process may use, until it goes.
pub(super) struct Pauses {
    _watch: OnEachCore,
    stretches: Stretches,
}

/// What was seen of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Stood {
    /// How often a core stood.
    pub(super) times: u64,
    /// At most so long, microseconds.
    pub(super) most_us: u64,
}

impl Pauses {
    pub(super) fn watch() -> Result<Self> {
        let stretches = Stretches::default();
        let noted = Arc::clone(&stretches);
        // Only above all others: else it would be late by them.
        let watch = OnEachCore::start(|| urgent(Urgency::Watch), move |stop| look(stop, &noted))?;
        Ok(Self { _watch: watch, stretches })
    }

    /// For how long some core stood between these, at most.
    pub(super) fn within(&self, (from_ns, to_ns): (u64, u64)) -> u64 {
        overlap(&self.stretches.lock().unwrap_or_else(PoisonError::into_inner), from_ns, to_ns)
    }

    /// All of it.
    pub(super) fn stood(&self) -> Stood {
        let stretches = self.stretches.lock().unwrap_or_else(PoisonError::into_inner);
        let most_ns = stretches.iter().map(|(from_ns, to_ns)| to_ns - from_ns).max().unwrap_or(0);
        Stood { times: u64::try_from(stretches.len()).unwrap_or(0), most_us: most_ns / 1000 }
    }
}

fn look(stop: &AtomicBool, stretches: &Mutex<Vec<(u64, u64)>>) {
    let turn_ns = u64::try_from(TURN.as_nanos()).unwrap_or(0);
    let mut last_ns = now_ns();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TURN);
        let now = now_ns();
        if now.saturating_sub(last_ns) > turn_ns + LATE_NS {
            // It began at some time after the last look.
            stretches.lock().unwrap_or_else(PoisonError::into_inner).push((last_ns, now));
        }
        last_ns = now;
    }
}

/// How much of an interval these cover; what two cores stood at once counts once.
fn overlap(stretches: &[(u64, u64)], from_ns: u64, to_ns: u64) -> u64 {
    let mut cut: Vec<_> = stretches.iter().map(|(from, to)| ((*from).max(from_ns), (*to).min(to_ns))).collect();
    cut.retain(|(from, to)| from < to);
    covered(cut).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cores_stood_at_once_counts_once_and_only_within() {
        let stretches = [(100, 200), (150, 260), (10, 20), (400, 500)];
        assert_eq!(overlap(&stretches, 120, 450), 140 + 50);
        assert_eq!(overlap(&stretches, 270, 390), 0);
        assert_eq!(overlap(&[], 0, 10), 0);
    }
}
