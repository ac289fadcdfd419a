//! Waiting for what should come about: deadlines and polling, instead of sleeps for luck.

use std::time::{Duration, Instant};

/// How long a test waits before it fails: far beyond what a busy machine of two cores needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

// Short enough that waiting costs a test little, long enough that polling costs a busy machine little.
const POLL: Duration = Duration::from_millis(10);

/// A point in time after which waiting ends.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline that far from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(now() + span)
    }

    /// What is left; zero when it has passed.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Calls `check` until it gives a value, and gives that; panics after [`PATIENCE`], saying `what` did not come.
#[track_caller]
pub fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    let Some(value) = wait_until(PATIENCE, check) else {
        panic!("waited {} s in vain: {what}", PATIENCE.as_secs());
    };
    value
}

/// Calls `check` until it gives a value or `span` has passed. It is called at least once.
pub fn wait_until<T>(span: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Deadline::after(span);
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if deadline.passed() {
            return None;
        }
        std::thread::sleep(POLL.min(deadline.left()));
    }
}

#[expect(clippy::disallowed_methods, reason = "the harness's one clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_gives_the_first_value_and_ends_at_the_deadline() {
        let mut calls = 0;
        let value = wait_until(PATIENCE, || {
            calls += 1;
            (calls == 3).then_some(calls)
        });
        assert_eq!(value, Some(3));
        assert_eq!(wait_until(Duration::ZERO, || None::<()>), None);
    }
}
