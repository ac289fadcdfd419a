//! What injectors really did to each request, on the clock that all processes of the machine share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// CLOCK_MONOTONIC, nanoseconds: the clock of the kernel's marks and of the agent.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What one injection did to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// It was chosen; otherwise this is the time that the same place takes by itself.
    pub(super) disturbed: bool,
    /// When, from and to; they may overlap.
    intervals: Vec<(u64, u64)>,
    /// It may have been that much longer.
    at_most_more_ns: u64,
    /// It may have been that much shorter.
    at_most_less_ns: u64,
}

/// How long a request was delayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Truth {
    pub(super) least_ns: u64,
    pub(super) most_ns: u64,
    /// In so many stretches.
    pub(super) stretches: u64,
}

impl Done {
    /// Overlapping intervals count once.
    pub(super) fn truth(&self) -> Truth {
        let (sum, stretches) = covered(self.intervals.clone());
        Truth {
            least_ns: sum.saturating_sub(self.at_most_less_ns),
            most_ns: sum.saturating_add(self.at_most_more_ns),
            stretches,
        }
    }
}

/// How much time intervals cover, in how many stretches: what several cover counts once.
pub(super) fn covered(mut intervals: Vec<(u64, u64)>) -> (u64, u64) {
    intervals.sort_unstable();
    let (mut sum, mut stretches, mut end) = (0, 0, 0);
    for (from, to) in intervals {
        if from > end || stretches == 0 {
            stretches += 1;
        }
        sum += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    (sum, stretches)
}

/// The account of a row.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    done: Mutex<HashMap<u64, BTreeMap<usize, Done>>>,
    /// When a relay handed the first segment of a request on.
    delivered: Mutex<HashMap<u64, u64>>,
    /// How long the agent's workers ran, or waited for a core, meanwhile; less what was meant.
    noise: Mutex<HashMap<u64, u64>>,
    /// By request and injection: from when to when whoever injects has seen all that the place can hold.
    seen: Mutex<HashMap<(u64, usize), (u64, u64)>>,
    /// From when a request was at the relay to the backend until its response's first segment was at the agent.
    away: Mutex<HashMap<u64, (u64, u64)>>,
    /// From before a client asked until it had all that it waited for.
    asked: Mutex<HashMap<u64, (u64, u64)>>,
}

impl Ledger {
    fn entry(&self, request: u64, injection: usize, change: impl FnOnce(&mut Done)) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        change(done.entry(request).or_default().entry(injection).or_default());
    }

    /// A request was disturbed, or not, in that interval.
    pub(super) fn add(&self, request: u64, injection: usize, disturbed: bool, from_ns: u64, to_ns: u64) {
        self.entry(request, injection, |done| {
            done.disturbed |= disturbed;
            done.intervals.push((from_ns, to_ns));
        });
    }

    /// The whole delay of a request may have been so much shorter or longer than its intervals.
    pub(super) fn unsure(&self, request: u64, injection: usize, less_ns: u64, more_ns: u64) {
        self.entry(request, injection, |done| {
            done.at_most_less_ns += less_ns;
            done.at_most_more_ns += more_ns;
        });
    }

    /// What an injection did to a request.
    pub(super) fn of(&self, request: u64, injection: usize) -> Done {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.get(&request).and_then(|injections| injections.get(&injection)).cloned().unwrap_or_default()
    }

    /// When the last of what an injection did to a request ended.
    pub(super) fn ended(&self, request: u64, injection: usize) -> Option<u64> {
        self.of(request, injection).intervals.iter().map(|(_, to_ns)| *to_ns).max()
    }

    /// A relay handed the first segment of a request on.
    pub(super) fn deliver(&self, request: u64, at_ns: u64) {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).entry(request).or_insert(at_ns);
    }

    /// Whatever an injection's place holds of a request lies between these, disturbed or not: nothing of it was before, and
    /// it was over then. Of several the widest counts.
    pub(super) fn saw(&self, request: u64, injection: usize, from_ns: u64, to_ns: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = seen.entry((request, injection)).or_insert((from_ns, to_ns));
        (*from, *to) = ((*from).min(from_ns), (*to).max(to_ns));
    }

    /// How long that was; 0 where nobody said.
    pub(super) fn seen(&self, request: u64, injection: usize) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(request, injection)).map_or(0, |(from_ns, to_ns)| to_ns.saturating_sub(*from_ns))
    }

    /// A request came to the relay that leads to its backend, and its response had been handed on to the agent: it was away.
    pub(super) fn away(&self, request: u64, from_ns: u64, to_ns: u64) {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).entry(request).or_insert((from_ns, to_ns));
    }

    /// How long that was; 0 where no relay has seen it.
    pub(super) fn away_ns(&self, request: u64) -> u64 {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(&request).map_or(0, |(from_ns, to_ns)| to_ns.saturating_sub(*from_ns))
    }

    /// A client was at a request between these.
    pub(super) fn asked(&self, request: u64, from_ns: u64, to_ns: u64) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(request, (from_ns, to_ns));
    }

    /// When that was.
    pub(super) fn asked_at(&self, request: u64) -> Option<(u64, u64)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(&request).copied()
    }

    /// The agent's workers were busy for so long while a request was under way.
    pub(super) fn noise(&self, request: u64, ns: u64) {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner).insert(request, ns);
    }

    /// How long that was.
    pub(super) fn noise_of(&self, request: u64) -> u64 {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner).get(&request).copied().unwrap_or(0)
    }

    /// When that was.
    pub(super) fn delivered(&self, request: u64) -> Option<u64> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).get(&request).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_intervals_count_once() {
        let ledger = Ledger::default();
        for (from, to) in [(100, 200), (150, 250), (400, 500), (160, 170)] {
            ledger.add(1, 0, from == 100, from, to);
        }
        ledger.unsure(1, 0, 50, 10);
        assert_eq!(ledger.of(1, 0).truth(), Truth { least_ns: 200, most_ns: 260, stretches: 2 });
        assert!(ledger.of(1, 0).disturbed);
        assert_eq!(ledger.of(2, 0), Done::default());
        assert_eq!(Done::default().truth(), Truth::default());
    }
}
