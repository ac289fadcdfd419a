//! When a worker's thread last woke up from waiting for events, and what it had used of the CPU by then: they tell a late
//! wake-up from a busy loop, and both from a thread that was kept off the CPU. The runtime calls; the taps ask.

use std::cell::Cell;

use crate::clock::MonoNs;

/// One wait for events.
#[derive(Clone, Copy)]
struct Wait {
    /// It began. What was readable before had come while the thread was busy: the wait ended at once, and nobody was woken.
    begun: MonoNs,
    woken: MonoNs,
    /// What the thread had used of the CPU when it woke up.
    cpu_ns: u64,
}

impl Wait {
    const NONE: Self = Self { begun: MonoNs::UNKNOWN, woken: MonoNs::UNKNOWN, cpu_ns: 0 };
}

thread_local! {
    static BEGUN: Cell<MonoNs> = const { Cell::new(MonoNs::UNKNOWN) };
    /// The last two, the newest first: what came while the thread was busy is told by the end of the next.
    static WAITS: Cell<[Wait; 2]> = const { Cell::new([Wait::NONE; 2]) };
    /// How long the thread had been off the CPU since that wake-up, and when that was asked.
    static ASKED: Cell<(MonoNs, MonoNs, u64)> = const { Cell::new((MonoNs::UNKNOWN, MonoNs::UNKNOWN, 0)) };
}

/// An answer is good for so long: a worker that is never idle has many waits above a millisecond at a time.
const FRESH_NS: u64 = 250_000;

/// A wait at least this long is asked for what the thread did meanwhile: the question is a system call.
const NOTABLE_NS: u64 = 1_000_000;

/// The thread has nothing to do and waits for events: 22 ns.
pub(crate) fn waits() {
    BEGUN.set(MonoNs::now());
}

/// The thread was parked and goes on: 22 ns, and a system call of 0.2 us, which a busy worker seldom comes to.
pub(crate) fn note() {
    let [newest, _] = WAITS.get();
    let wait = Wait { begun: BEGUN.get(), woken: MonoNs::now(), cpu_ns: thread_cpu_ns() };
    WAITS.set([wait, newest]);
}

/// When this thread woke up to read what became readable then, or before that to do what it did first; unknown if it never
/// waited. And for how long it was off the CPU since, until now, at most since `readable`: zero for waits that are too short to
/// ask for.
pub(crate) fn delay(readable: MonoNs, now: MonoNs) -> (MonoNs, u64) {
    let [newest, before] = WAITS.get();
    let was_busy = readable.known().is_some() && readable < newest.begun && before.woken.known().is_some();
    let wait = if was_busy { before } else { newest };
    (wait.woken, preempted_ns(wait, readable, now))
}

fn preempted_ns(Wait { woken, cpu_ns, .. }: Wait, readable: MonoNs, now: MonoNs) -> u64 {
    let waited_ns = now.since(readable.max(woken));
    if woken.0 == 0 || readable.0 == 0 || waited_ns < NOTABLE_NS {
        return 0;
    }
    let (asked, since, kept_off_ns) = ASKED.get();
    if since == woken && now.since(asked) < FRESH_NS {
        return kept_off_ns.min(waited_ns);
    }
    let used_ns = thread_cpu_ns().saturating_sub(cpu_ns);
    let kept_off_ns = now.since(woken).saturating_sub(used_ns);
    ASKED.set((now, woken, kept_off_ns));
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

    /// The thread has waited; when it woke up.
    fn wait() -> MonoNs {
        waits();
        note();
        MonoNs::now()
    }

    #[test]
    fn a_busy_thread_is_not_taken_for_one_off_the_cpu() {
        let readable = wait();
        burn(3 * NOTABLE_NS);
        let now = MonoNs::now();
        // Whatever the machine took from the thread meanwhile is all that counts.
        assert!(delay(readable, now).1 <= now.since(readable) - 2 * NOTABLE_NS);
    }

    #[test]
    fn a_thread_off_the_cpu_is_told() {
        let readable = wait();
        std::thread::park_timeout(std::time::Duration::from_millis(5));
        let now = MonoNs::now();
        let (_, preempted) = delay(readable, now);
        assert!(preempted > 0 && preempted <= now.since(readable), "{preempted}");
        assert_eq!(delay(now, now).1, 0, "what has not waited was not kept");
    }

    #[test]
    fn what_comes_while_the_thread_is_busy_wakes_nobody() {
        let woken = wait();
        let readable = MonoNs::now();
        std::thread::park_timeout(std::time::Duration::from_millis(5));
        // Nothing is left to do, and the wait ends at once.
        wait();
        let (found, preempted) = delay(readable, MonoNs::now());
        assert!(found <= woken && preempted > 0, "{found:?} after {woken:?}, {preempted}");
    }

    #[test]
    fn what_comes_while_the_thread_waits_wakes_it() {
        wait();
        waits();
        let readable = MonoNs::now();
        note();
        let now = MonoNs::now();
        assert!((readable..=now).contains(&delay(readable, now).0));
        assert!((readable..=now).contains(&delay(MonoNs::UNKNOWN, now).0), "not known: the last");
    }
}
