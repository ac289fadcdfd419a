//! The one clock inside: CLOCK_MONOTONIC nanoseconds, the clock of the kernel's marks. Wall time belongs to export.

use std::time::Duration;

/// A reading of CLOCK_MONOTONIC in nanoseconds. Zero means "not known": no boot is that young.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoNs(pub u64);

impl MonoNs {
    /// The absent reading.
    pub const UNKNOWN: Self = Self(0);

    /// Reads the clock: 22 ns by the vDSO.
    #[must_use]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + nanos)
    }

    /// `None` where the reading is absent.
    #[must_use]
    pub fn known(self) -> Option<Self> {
        (self.0 != 0).then_some(self)
    }

    /// Nanoseconds from `earlier` to `self`, zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for MonoNs {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
