//! Traefik's `rateLimit`: a token bucket per source, kept as one time (GCRA: when the bucket would be full again is all that
//! there is to know of it). Workers share the times without a lock. A fixed number of places bounds memory; a source that has
//! not been seen for as long as its bucket takes to fill costs nothing to forget.

use std::fmt::Write as _;
use std::hash::RandomState;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;

use super::source::Source;
use super::{Answer, Client};
use crate::clock::MonoNs;

static X_RETRY_IN: HeaderName = HeaderName::from_static("x-retry-in");

/// Traefik's `rateLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// Requests per period; 0: no limit.
    pub average: u64,
    /// The period.
    pub period: Duration,
    /// Requests at once, at least 1.
    pub burst: u64,
    /// What is counted together.
    pub source: Source,
}

/// Places that a source may be in: a set.
const WAYS: usize = 8;
/// Sets of the first level: 128 places in 2 KiB.
const SETS: usize = 16;
/// Levels, each with twice as many as the one before, where more sources are busy at once: 65,408 places, about as many as in
/// Traefik, in 1 MiB.
const LEVELS: usize = 9;

/// One that counts.
#[derive(Debug)]
pub struct RateLimiter {
    source: Source,
    /// Between two requests, nanoseconds; 0: no limit.
    interval_ns: u64,
    /// By how much a bucket may be ahead of its time.
    tolerance_ns: u64,
    /// As in Traefik, who is early by no more than half an interval is kept waiting instead of refused.
    patience_ns: u64,
    hasher: RandomState,
    levels: [OnceLock<Box<[Place]>>; LEVELS],
    /// The highest level in use.
    top: AtomicUsize,
}

/// One source's bucket.
#[derive(Debug, Default)]
struct Place {
    /// Whose it is, by hash; 0: nobody's.
    source: AtomicU64,
    /// When it is full again.
    full_at: AtomicU64,
}

impl RateLimiter {
    /// One that has counted nothing.
    #[must_use]
    pub fn new(settings: &RateLimit) -> Self {
        let period_ns = u64::try_from(settings.period.as_nanos()).unwrap_or(u64::MAX).max(1);
        let interval_ns = period_ns.checked_div(settings.average).map_or(0, |interval| interval.max(1));
        let per_second = 1_000_000_000_u64.checked_div(interval_ns).unwrap_or(0);
        Self {
            source: settings.source.clone(),
            interval_ns,
            tolerance_ns: settings.burst.max(1).saturating_sub(1).saturating_mul(interval_ns),
            patience_ns: 500_000_000 / per_second.max(1),
            hasher: RandomState::new(),
            levels: [const { OnceLock::new() }; LEVELS],
            top: AtomicUsize::new(0),
        }
    }

    /// How long the request has to wait.
    ///
    /// # Errors
    /// The refusal of one that would have to wait too long.
    pub fn request(&self, parts: &Parts, client: &Client, now: MonoNs) -> Result<Duration, Box<Answer>> {
        if self.interval_ns == 0 {
            return Ok(Duration::ZERO);
        }
        let source = self.source.key(parts, client, &self.hasher);
        self.admit(source, now.0).map(Duration::from_nanos).map_err(|early_ns| too_many(Duration::from_nanos(early_ns)))
    }

    /// Takes a token; says how many nanoseconds too early it is.
    fn admit(&self, source: u64, now: u64) -> Result<u64, u64> {
        let bucket = self.bucket(source, now);
        let mut full_at = bucket.load(Ordering::Relaxed);
        loop {
            let from = full_at.max(now);
            let early_ns = (from - now).saturating_sub(self.tolerance_ns);
            if early_ns > self.patience_ns {
                return Err(early_ns);
            }
            let next = from.saturating_add(self.interval_ns);
            match bucket.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(early_ns),
                Err(other) => full_at = other,
            }
        }
    }

    /// The bucket of a source, in place of the fullest where it has none.
    fn bucket(&self, source: u64, now: u64) -> &AtomicU64 {
        let tag = source | 1;
        let top = self.top.load(Ordering::Relaxed);
        let is_free = |place: &Place| place.full_at.load(Ordering::Relaxed) <= now;
        let mut free = None;
        for set in (0..=top).flat_map(|level| self.sets(source, level)) {
            if let Some(own) = set.iter().find(|place| place.source.load(Ordering::Acquire) == tag) {
                return &own.full_at;
            }
            free = free.or_else(|| set.iter().any(is_free).then_some(set));
        }
        if let Some(set) = free {
            return Self::claimed(set, tag, now);
        }
        let level = (top + 1).min(LEVELS - 1);
        self.top.fetch_max(level, Ordering::Relaxed);
        let [first, _] = self.sets(source, level);
        Self::claimed(first, tag, now)
    }

    /// A place of a set for a source that has none there.
    fn claimed(places: &[Place], tag: u64, now: u64) -> &AtomicU64 {
        // Another worker may take the same place; two rounds are rare, and at worst two sources share.
        let mut fullest = places.first().expect("a set has places");
        for _ in 0..WAYS {
            if let Some(own) = places.iter().find(|place| place.source.load(Ordering::Acquire) == tag) {
                return &own.full_at;
            }
            fullest = places.iter().min_by_key(|place| place.full_at.load(Ordering::Relaxed)).unwrap_or(fullest);
            let full_at = fullest.full_at.load(Ordering::Relaxed);
            let other = fullest.source.load(Ordering::Relaxed);
            if fullest.source.compare_exchange(other, tag, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                if full_at > now {
                    // All places are busy: what the other has used is not this one's.
                    let _ = fullest.full_at.compare_exchange(full_at, now, Ordering::Relaxed, Ordering::Relaxed);
                }
                break;
            }
        }
        &fullest.full_at
    }

    /// The two sets of a level that a source may be in: with two of them nearly all places are busy before both are full.
    fn sets(&self, source: u64, level: usize) -> [&[Place]; 2] {
        let sets = SETS << level;
        let places = self.levels.get(level).expect("levels are counted");
        let places = places.get_or_init(|| (0..sets * WAYS).map(|_| Place::default()).collect());
        [source >> 32, source & 0xffff_ffff].map(|hash| {
            let set = usize::try_from(hash).unwrap_or(0) % sets;
            places.get(set * WAYS..(set + 1) * WAYS).expect("the set is a remainder")
        })
    }

    /// Places that there are.
    #[cfg(test)]
    fn places(&self) -> usize {
        self.levels.iter().filter_map(OnceLock::get).map(|places| places.len()).sum()
    }
}

fn too_many(wait: Duration) -> Box<Answer> {
    let mut answer = Answer::status(StatusCode::TOO_MANY_REQUESTS);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer.headers.insert(RETRY_AFTER, seconds.into());
    if let Ok(text) = HeaderValue::from_str(&go_duration(wait)) {
        answer.headers.insert(&X_RETRY_IN, text);
    }
    answer
}

/// As Go writes a duration: `1m30.5s`, `350.25ms`.
fn go_duration(duration: Duration) -> String {
    let mut text = String::new();
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let (unit_ns, unit) = match nanos {
        _ if seconds > 0 => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1_000.. => (1_000, "µs"),
        _ => (1, "ns"),
    };
    if seconds >= 3600 {
        let _ = write!(text, "{}h", seconds / 3600);
    }
    if seconds >= 60 {
        let _ = write!(text, "{}m", seconds / 60 % 60);
    }
    let whole = if seconds > 0 { seconds % 60 } else { u64::from(nanos / unit_ns) };
    let digits = unit_ns.ilog10() as usize;
    let fraction = if digits == 0 { String::new() } else { format!("{:0digits$}", nanos % unit_ns) };
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let _ = write!(text, "{whole}{dot}{fraction}{unit}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::source::IpStrategy;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(average: u64, period: Duration, burst: u64) -> RateLimiter {
        RateLimiter::new(&RateLimit { average, period, burst, source: Source::Ip(IpStrategy::default()) })
    }

    /// Traefik's own loads: so many requests a second for so long, the first ones at once; how many come through.
    #[test]
    fn the_average_holds_under_every_load() {
        let second = Duration::from_secs(1);
        for (average, period, burst, load, seconds, at_once) in [
            (100, second, 1, 400, 2, 0),
            (100, second, 100, 200, 2, 0),
            (100, second, 100, 200, 2, 50),
            (100, second, 100, 200, 2, 150),
            (100, second, 200, 200, 2, 300),
            (5, 10 * second, 1, 100, 2, 0),
            (5, 10 * second, 1, 100, 60, 0),
            (1, 60 * second, 1, 100, 60, 0),
            (50, second / 2, 1, 300, 2, 0),
        ] {
            let limiter = limiter(average, period, burst);
            let (mut now, mut passed, mut sent) = (SECOND, 0, 0);
            while now < SECOND + seconds * SECOND {
                passed += u64::from(limiter.admit(7, now).is_ok());
                sent += 1;
                now += if sent < at_once { 1 } else { SECOND / load };
            }
            let period_ns = u64::try_from(period.as_nanos()).unwrap();
            let most = average * seconds * SECOND / period_ns + burst;
            let least = (average * seconds * SECOND / period_ns).min(load * seconds);
            // One more may be let on early, who has to wait.
            assert!(
                (least..=most + 1).contains(&passed),
                "{average}/{period:?}+{burst} at {load}: {passed} of {least}..={most}"
            );
        }
    }

    #[test]
    fn who_is_a_little_early_waits_and_who_is_too_early_is_told_when() {
        let limiter = limiter(10, Duration::from_secs(1), 2);
        assert_eq!((limiter.admit(1, SECOND), limiter.admit(1, SECOND)), (Ok(0), Ok(0)));
        assert_eq!(limiter.admit(1, SECOND), Err(100_000_000));
        assert_eq!(limiter.admit(1, SECOND + 49_999_999), Err(50_000_001));
        assert_eq!(limiter.admit(1, SECOND + 50_000_000), Ok(50_000_000));
        // Another source, and no limit at all.
        assert_eq!(limiter.admit(1 << 40, SECOND), Ok(0));
        assert_eq!(super::tests::limiter(2, Duration::from_secs(10), 1).patience_ns, 500_000_000);
        assert_eq!(super::tests::limiter(200, Duration::from_secs(1), 1).patience_ns, 2_500_000);
        let answer = too_many(Duration::from_millis(2_350));
        let said = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap();
        assert_eq!((answer.status.as_u16(), said("retry-after"), said("x-retry-in")), (429, "3", "2.35s"));
        assert_eq!(&*answer.body, b"Too Many Requests");
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (duration, text) in [
            (Duration::from_millis(350), "350ms"),
            (Duration::from_nanos(1_500), "1.5µs"),
            (Duration::from_nanos(7), "7ns"),
            (Duration::from_micros(90_500_000), "1m30.5s"),
            (Duration::from_secs(7_200), "2h0m0s"),
            (Duration::from_nanos(12_345_678), "12.345678ms"),
        ] {
            assert_eq!(go_duration(duration), text);
        }
    }

    #[test]
    fn many_sources_fit_and_beyond_that_the_idle_ones_go_first() {
        let limiter = limiter(1, Duration::from_secs(1), 1);
        let hasher = RandomState::new();
        let source = |n: u64| std::hash::BuildHasher::hash_one(&hasher, n);
        // A busy one among a flood that comes and goes.
        assert_eq!(limiter.admit(source(0), 10 * SECOND), Ok(0));
        for n in 1..20_000 {
            assert_eq!(limiter.admit(source(n), SECOND), Ok(0), "{n}");
        }
        assert!(limiter.admit(source(0), 10 * SECOND).is_err(), "it was forgotten while others were idle");
        // All at once, ten times more than there are places: each is let on, and memory is what it was.
        for n in 0..655_360 {
            let _ = limiter.admit(source(n), 20 * SECOND);
        }
        assert_eq!(limiter.places(), 65_408);
    }

    #[test]
    fn memory_is_for_as_many_sources_as_are_busy_at_once() {
        let limiter = limiter(1, Duration::from_secs(1), 1);
        let hasher = RandomState::new();
        let source = |n: u64| std::hash::BuildHasher::hash_one(&hasher, n);
        // One after the other, each at rest when the next comes.
        for n in 0..10_000 {
            assert_eq!(limiter.admit(source(n), SECOND + n * 2 * SECOND), Ok(0));
        }
        assert_eq!(limiter.places(), 128);
        // Who was busy before there were more places keeps its bucket.
        let now = 100_000 * SECOND;
        assert_eq!(limiter.admit(source(0), now), Ok(0));
        for n in 1..5_000 {
            assert_eq!(limiter.admit(source(n), now), Ok(0), "{n}");
        }
        assert!((5_000..17_000).contains(&limiter.places()), "{}", limiter.places());
        for n in 0..5_000 {
            assert!(limiter.admit(source(n), now).is_err(), "{n} was forgotten");
        }
    }

    #[test]
    fn threads_that_race_for_one_source_get_no_more_together_than_one_alone() {
        let limiter = limiter(1, Duration::from_secs(3600), 1000);
        let passed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        passed.fetch_add(u64::from(limiter.admit(42, SECOND) == Ok(0)), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 1000);
    }
}
