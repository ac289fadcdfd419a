//! Whether memory grows with the connections that come and go: what was resident before the load, after a warm-up and at the end,
//! and its trend in between. Pure.

use std::time::Duration;

/// In the first third of the load the allocator takes what it will need.
const WARM_UP_PARTS: u32 = 3;
/// What it may take until then: the spans of some seconds that wait while the machine has other work among it.
const WARM_UP_BYTES: u64 = 64 << 20;
/// Parts of the rest, of which the least counts (4 s of a minute): spans that wait take ten megabytes for a second or three, and
/// give them back.
const WINDOWS: u32 = 10;
/// So many of the largest rises between neighbouring parts are taken for steps of the allocator's. What is left behind by each
/// connection rises in all of them.
const STEPS: usize = 2;
/// And all of it together is no more than this.
const STEPS_BYTES: u64 = 24 << 20;
/// The trend over a minute, for each connection of a minute: what is left by one of the smallest things that an allocator gives,
/// with its place in a list.
const TREND_PER_CONNECTION: u64 = 40;
const MINUTE: Duration = Duration::from_secs(60);

/// How much memory was resident, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// When the load began.
    pub(super) begin: u64,
    /// After the warm-up.
    pub(super) settled: u64,
    /// At the end of the load.
    pub(super) end: u64,
    /// By which it grows in a minute after the warm-up.
    pub(super) per_minute: u64,
}

impl Memory {
    /// From looks at it, by their time, while the load lasted so long.
    pub(super) fn of(looks: &[(Duration, u64)], load: Duration) -> Self {
        let warm_up = load / WARM_UP_PARTS;
        let window = (load - warm_up) / WINDOWS;
        let windows = least(looks, warm_up, window);
        let known = |window: Option<&Option<u64>>| window.copied().flatten().unwrap_or(0);
        let per_window = trend(&windows);
        let per_minute = per_window * i128::try_from(MINUTE.as_micros()).unwrap_or(0)
            / i128::try_from(window.as_micros()).unwrap_or(0).max(1);
        Self {
            begin: looks.first().map_or(0, |(_, bytes)| *bytes),
            settled: known(windows.first()),
            end: known(windows.last()),
            // A shrinking one counts as none.
            per_minute: u64::try_from(per_minute).unwrap_or(0),
        }
    }

    /// What is wrong with it, where so many connections come in a minute. A load of less than a minute is too short for a trend.
    pub(super) fn faults(&self, per_minute: u64, load: Duration) -> Vec<&'static str> {
        let mut faults = Vec::new();
        let mut check = |is_well: bool, told: &'static str| {
            if !is_well {
                faults.push(told);
            }
        };
        check(self.settled > 0 && self.end > 0, "memory was not looked at");
        check(self.settled.saturating_sub(self.begin) <= WARM_UP_BYTES, "the warm-up took too much memory");
        check(self.end.saturating_sub(self.settled) <= STEPS_BYTES, "memory has grown too much after the warm-up");
        let is_long = load >= MINUTE - MINUTE / 60;
        check(!is_long || self.per_minute <= per_minute * TREND_PER_CONNECTION, "memory grows");
        faults
    }
}

/// The least of each part after the warm-up.
fn least(looks: &[(Duration, u64)], warm_up: Duration, window: Duration) -> Vec<Option<u64>> {
    let within = |number: u32| {
        let part = warm_up + window * number..warm_up + window * (number + 1);
        looks.iter().filter(|(at, _)| part.contains(at)).map(|(_, bytes)| *bytes).min()
    };
    (0..WINDOWS).map(within).collect()
}

/// The trend in bytes a window: the median of the slopes between any two (Theil and Sen), of which about a third can be wrong,
/// but for pairs with a step between them.
fn trend(windows: &[Option<u64>]) -> i128 {
    let known: Vec<(i128, i128)> =
        (0..).zip(windows).filter_map(|(at, bytes)| Some((at, i128::from((*bytes)?)))).collect();
    let mut rises: Vec<(i128, i128)> = known
        .windows(2)
        .filter_map(|pair| match pair {
            [(_, bytes), (at, grown)] if grown > bytes => Some((grown - bytes, *at)),
            _ => None,
        })
        .collect();
    rises.sort_unstable_by_key(|(rise, _)| -rise);
    rises.truncate(STEPS);
    let mut slopes = Vec::new();
    for (index, (at, bytes)) in known.iter().enumerate() {
        for (later, grown) in known.iter().skip(index + 1) {
            if rises.iter().all(|(_, step)| !(*at < *step && *step <= *later)) {
                slopes.push((grown - bytes) / (later - at));
            }
        }
    }
    slopes.sort_unstable();
    slopes.get(slopes.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joins::load::hash;

    const LOOK: Duration = Duration::from_millis(500);
    const LOOKS: u64 = 120;
    /// Connections of the minute.
    const CONNECTIONS: u64 = 300_000;
    const MB: u64 = 1 << 20;

    /// A minute's looks, from 60 MB on; what grew, by the look.
    fn memory(grown: impl Fn(u64) -> u64) -> Memory {
        let looks: Vec<_> =
            (0..=LOOKS).map(|look| (LOOK * u32::try_from(look).unwrap(), 60 * MB + grown(look))).collect();
        Memory::of(&looks, MINUTE)
    }

    fn faults(grown: impl Fn(u64) -> u64) -> Vec<&'static str> {
        memory(grown).faults(CONNECTIONS, MINUTE)
    }

    /// Of each connection so much is left.
    fn leak(look: u64, bytes: u64) -> u64 {
        look * CONNECTIONS / LOOKS * bytes
    }

    /// Half a megabyte at random, and for up to three seconds of each ten some megabytes of spans that wait.
    fn noise(seed: u64, look: u64) -> u64 {
        let random = |of: u64, below: u64| hash(seed, 1, of) % below;
        let (turn, within) = (look / 20, look % 20);
        let (from, lasts) = (random(1_000 + turn, 14), random(2_000 + turn, 7));
        let waiting = if (from..from + lasts).contains(&within) { 2 + random(3_000 + turn, 9) } else { 0 };
        waiting * MB + random(look, MB / 2)
    }

    /// Two steps somewhere.
    fn steps(seed: u64, look: u64) -> u64 {
        let step = |of: u64| {
            let (at, bytes) = (hash(seed, 2, of) % LOOKS, hash(seed, 3, of) % (11 * MB));
            if look > at { bytes } else { 0 }
        };
        step(1) + step(2)
    }

    #[test]
    fn what_comes_and_goes_and_what_an_allocator_takes_at_once_is_no_trend() {
        assert_eq!(memory(|_| 0).per_minute, 0);
        assert_eq!(memory(|look| (LOOKS - look) << 17).per_minute, 0, "less is not more");
        for seed in 1..300 {
            let told = |grown: &dyn Fn(u64) -> u64| assert_eq!(faults(grown), [""; 0], "{seed}: {:?}", memory(grown));
            told(&|look| noise(seed, look));
            told(&|look| steps(seed, look));
            told(&|look| noise(seed, look) + steps(seed, look));
        }
    }

    #[test]
    fn what_each_connection_leaves_behind_fails_whatever_comes_and_goes_beside_it() {
        assert_eq!(memory(|look| leak(look, 100)).per_minute, 100 * CONNECTIONS);
        for seed in 1..300 {
            let fails = |grown: &dyn Fn(u64) -> u64| {
                assert!(faults(grown).contains(&"memory grows"), "{seed}: {:?}", memory(grown));
            };
            fails(&|look| leak(look, 100));
            fails(&|look| leak(look, 100) + steps(seed, look));
            fails(&|look| leak(look, 100) + noise(seed, look) + steps(seed, look));
        }
        assert_eq!(faults(|look| leak(look, 48)), ["memory grows"]);
        assert_eq!(faults(|look| leak(look, 32)), [""; 0], "less than the bar");
    }

    #[test]
    fn neither_the_warm_up_nor_steps_may_take_what_they_like() {
        let after = |look: u64, from: u64, bytes: u64| if look > from { bytes } else { 0 };
        assert_eq!(faults(|look| after(look, 20, 64 * MB)), [""; 0]);
        assert_eq!(faults(|look| after(look, 20, 64 * MB + 1)), ["the warm-up took too much memory"]);
        assert_eq!(faults(|look| after(look, 60, 24 * MB)), [""; 0]);
        assert_eq!(faults(|look| after(look, 60, 24 * MB + 1)), ["memory has grown too much after the warm-up"]);
        assert_eq!(Memory::of(&[], MINUTE).faults(CONNECTIONS, MINUTE), ["memory was not looked at"]);
    }

    #[test]
    fn what_comes_after_the_load_is_not_judged_and_a_look_shows_no_trend() {
        let looks: Vec<_> = (0..200).map(|look| (LOOK * look, if look < 120 { 7 } else { 1 << 40 })).collect();
        let known = Memory { begin: 7, settled: 7, end: 7, per_minute: 0 };
        assert_eq!(Memory::of(&looks, MINUTE), known);
        let grows = Memory { per_minute: 1 << 40, ..known };
        assert_eq!(grows.faults(CONNECTIONS, MINUTE / 3), [""; 0]);
        assert_eq!(grows.faults(CONNECTIONS, MINUTE), ["memory grows"]);
    }
}
