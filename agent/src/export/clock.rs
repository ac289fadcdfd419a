//! The wall clock of spans: how far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC, measured anew once a second. All spans of
//! one request use one offset, so a step of the wall clock never bends a duration.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wayspan_proxy::clock::MonoNs;

/// How long a measurement holds: NTP slews by at most 500 ppm, half a millisecond in this time.
const HOLDS: Duration = Duration::from_secs(1);
/// Tries per measurement: one of three is rarely interrupted between its two readings.
const TRIES: usize = 3;

/// What to add to the monotonic clock for nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallOffset(pub i64);

impl WallOffset {
    /// Microseconds since 1970, to the nearest.
    #[must_use]
    pub fn unix_us(self, at: MonoNs) -> u64 {
        at.0.saturating_add_signed(self.0).saturating_add(500) / 1000
    }
}

/// Knows the offset; each owner has its own.
#[derive(Debug)]
pub struct WallClock {
    offset: WallOffset,
    measured: MonoNs,
}

impl WallClock {
    /// Measures at once.
    #[must_use]
    pub fn new(now: MonoNs) -> Self {
        Self { offset: measure(), measured: now }
    }

    /// The offset, measured at most a second before `now`.
    pub fn offset(&mut self, now: MonoNs) -> WallOffset {
        if now > self.measured + HOLDS {
            *self = Self::new(now);
        }
        self.offset
    }
}

/// Reads the wall clock between two readings of the monotonic one; the narrowest pair of some is the best.
fn measure() -> WallOffset {
    let tries = (0..TRIES).map(|_| {
        let (before, wall, after) = (MonoNs::now(), wall_ns(), MonoNs::now());
        let width = after.since(before);
        (width, wall.saturating_sub_unsigned(before.0.saturating_add(width / 2)))
    });
    WallOffset(tries.min_by_key(|(width, _)| *width).map_or(0, |(_, offset)| offset))
}

fn wall_ns() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_the_systems() {
        let before = wall_ns() / 1000;
        let now = MonoNs::now();
        let at = i64::try_from(WallClock::new(now).offset(now).unix_us(MonoNs::now())).unwrap();
        let after = wall_ns() / 1000;
        assert!((before - 2..=after + 2).contains(&at), "{before} {at} {after}");
    }

    #[test]
    fn an_offset_holds_for_a_second() {
        let now = MonoNs::now();
        let mut clock = WallClock { offset: WallOffset(7), measured: now };
        assert_eq!(clock.offset(now + HOLDS), WallOffset(7));
        assert_ne!(clock.offset(now + HOLDS + Duration::from_nanos(1)), WallOffset(7));
    }

    #[test]
    fn times_round_to_the_nearest_microsecond() {
        for (mono, offset, us) in [(1_499, 0, 1), (1_500, 0, 2), (500, 1_000_000, 1_001), (5, -10, 0)] {
            assert_eq!(WallOffset(offset).unix_us(MonoNs(mono)), us);
        }
    }
}
