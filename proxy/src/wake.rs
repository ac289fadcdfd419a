//! When a worker's thread last woke up from waiting for events, and what it had used of the CPU by then: they tell a late
//! wake-up from a busy loop, and both from a thread that was kept off the CPU. The runtime calls; the taps ask.

use std::cell::Cell;

use crate::clock::MonoNs;

thread_local! {
    static WOKEN: Cell<(MonoNs, u64)> = const { Cell::new((MonoNs::UNKNOWN, 0)) };
    /// How long the thread had been off the CPU since it woke up, and when that was asked.
    static ASKED: Cell<(MonoNs, u64)> = const { Cell::new((MonoNs::UNKNOWN, 0)) };
}

/// An answer is good for so long: a worker that is never idle has many waits above a millisecond at a time.
const FRESH_NS: u64 = 250_000;

/// A wait at least this long is asked for what the thread did meanwhile: the question is a system call.
const NOTABLE_NS: u64 = 1_000_000;

/// The thread was parked and goes on: 22 ns, and a system call of 0.2 us, which a busy worker seldom comes to.
pub(crate) fn note() {
    WOKEN.set((MonoNs::now(), thread_cpu_ns()));
}

/// When this thread last woke up; unknown if it never waited.
pub(crate) fn last() -> MonoNs {
    WOKEN.get().0
}

/// How long this thread was off the CPU between its last wake-up and now, at most since `readable`. Zero for waits that
/// are too short to ask for.
pub(crate) fn preempted_ns(readable: MonoNs, now: MonoNs) -> u64 {
    let (woken, cpu_ns) = WOKEN.get();
    let waited_ns = now.since(readable.max(woken));
    if woken.0 == 0 || readable.0 == 0 || waited_ns < NOTABLE_NS {
        return 0;
    }
    let (asked, kept_off_ns) = ASKED.get();
    if asked >= woken && now.since(asked) < FRESH_NS {
        return kept_off_ns.min(waited_ns);
    }
    let used_ns = thread_cpu_ns().saturating_sub(cpu_ns);
    let kept_off_ns = now.since(woken).saturating_sub(used_ns);
    ASKED.set((now, kept_off_ns));
    kept_off_ns.min(waited_ns)
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spins until the thread has used so much CPU.
    fn burn(ns: u64) {
        let until = thread_cpu_ns() + ns;
        while thread_cpu_ns() < until {}
    }

    #[test]
    fn a_busy_thread_is_not_taken_for_one_off_the_cpu() {
        note();
        let readable = last();
        burn(3 * NOTABLE_NS);
        let now = MonoNs::now();
        // Whatever the machine took from the thread meanwhile is all that counts.
        assert!(preempted_ns(readable, now) <= now.since(readable) - 2 * NOTABLE_NS);
    }

    #[test]
    fn a_thread_off_the_cpu_is_told() {
        note();
        let readable = last();
        std::thread::park_timeout(std::time::Duration::from_millis(5));
        let now = MonoNs::now();
        let preempted = preempted_ns(readable, now);
        assert!(preempted > 0 && preempted <= now.since(readable), "{preempted}");
        assert_eq!(preempted_ns(now, now), 0, "what has not waited was not kept");
    }
}
