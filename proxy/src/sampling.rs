//! The head decision: keep a trace or not, made before trace context is injected. The policy is an immutable value
//! made by the agent (from the ratio, or from Jaeger's remote strategies) and swapped whole. Pure: time and randomness
//! are arguments.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::MonoNs;
use crate::trace_context::TraceId;

/// What to keep, by operation (the SERVER span's name).
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether an incoming `traceparent`'s sampled flag decides for its trace. Root spans are decided by the rules.
    pub parent_based: bool,
    /// For operations without a rule of their own.
    pub default: Rule,
    /// By operation name, as an operator writes it in Jaeger's strategies file.
    pub operations: HashMap<Box<str>, Rule>,
}

impl Policy {
    /// Keeps this share of root traces, 0.0 to 1.0.
    #[must_use]
    pub fn ratio(share: f64) -> Self {
        Self { parent_based: true, default: Rule::ratio(share), operations: HashMap::new() }
    }
}

/// How one operation's root traces are decided.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Keeps a trace when the low 56 bits of its id (the random part, W3C level 2) are below this: the same choice
    /// everywhere for the same trace. 2^56 keeps all.
    pub threshold: u64,
    /// The share as the operator wrote it, for `sampler.param`.
    pub share: f64,
    /// Instead of the threshold: at most this many traces a second.
    pub limit: Option<Arc<Gcra>>,
    /// Beside the threshold: a guaranteed minimum rate (Jaeger's lower bound).
    pub at_least: Option<Arc<Gcra>>,
}

const ALL: u64 = 1 << 56;

impl Rule {
    /// A probabilistic rule.
    #[must_use]
    pub fn ratio(share: f64) -> Self {
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0..=2^56 by the clamp"
        )]
        let threshold = (share * ALL as f64) as u64;
        Self { threshold, share, limit: None, at_least: None }
    }

    /// A rate-limiting rule.
    #[must_use]
    pub fn rate(per_second: f64) -> Self {
        Self { threshold: 0, share: per_second, limit: Some(Arc::new(Gcra::new(per_second))), at_least: None }
    }
}

/// A decision with its reason, as the record keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Whether spans are exported and `sampled` goes to the upstream.
    pub sampled: bool,
    /// Who decided.
    pub reason: Reason,
    /// The share or rate, for `sampler.param`; meaningless under [`Reason::Parent`].
    pub param: f64,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The caller's trace context.
    Parent = 0,
    /// A ratio.
    Probabilistic = 1,
    /// A rate limit.
    RateLimiting = 2,
    /// Jaeger's lower bound let it through.
    LowerBound = 3,
    /// Tracing is off for this entry point, router or process.
    Off = 4,
}

impl Policy {
    /// Decides for one request. `parent` is the caller's sampled flag where a valid context came in.
    #[must_use]
    pub fn decide(
        &self,
        operation: impl FnOnce() -> String,
        parent: Option<bool>,
        trace: TraceId,
        now: MonoNs,
    ) -> Decision {
        if let (true, Some(sampled)) = (self.parent_based, parent) {
            return Decision { sampled, reason: Reason::Parent, param: 1.0 };
        }
        // Names are built only when an operator has written rules for names.
        let rule = if self.operations.is_empty() {
            &self.default
        } else {
            self.operations.get(operation().as_str()).unwrap_or(&self.default)
        };
        rule.decide(trace, now)
    }
}

impl Rule {
    fn decide(&self, trace: TraceId, now: MonoNs) -> Decision {
        if let Some(limit) = &self.limit {
            return Decision { sampled: limit.allow(now), reason: Reason::RateLimiting, param: self.share };
        }
        if trace.random_bits() < self.threshold {
            return Decision { sampled: true, reason: Reason::Probabilistic, param: self.share };
        }
        match &self.at_least {
            Some(floor) if floor.allow(now) => {
                Decision { sampled: true, reason: Reason::LowerBound, param: self.share }
            }
            _ => Decision { sampled: false, reason: Reason::Probabilistic, param: self.share },
        }
    }
}

/// A rate limit for the whole process in one word: the generic cell rate algorithm's theoretical arrival time.
#[derive(Debug)]
pub struct Gcra {
    next_ns: AtomicU64,
    interval_ns: u64,
    burst_ns: u64,
    per_second: f64,
}

impl Gcra {
    /// `per_second` may be below one; a burst of one second's worth (at least one) may pass at once.
    #[must_use]
    pub fn new(per_second: f64) -> Self {
        if !(per_second.is_finite() && per_second > 0.0) {
            return Self { next_ns: AtomicU64::new(0), interval_ns: 0, burst_ns: 0, per_second: 0.0 };
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int saturates")]
        let interval_ns = ((1e9 / per_second) as u64).max(1);
        let burst_ns = interval_ns.max(1_000_000_000) - interval_ns;
        Self { next_ns: AtomicU64::new(0), interval_ns, burst_ns, per_second }
    }

    /// The rate it holds, as it was given; zero for none.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Takes one token if there is one.
    pub fn allow(&self, now: MonoNs) -> bool {
        if self.interval_ns == 0 {
            return false;
        }
        self.next_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next <= now.0.saturating_add(self.burst_ns)).then(|| next.max(now.0).saturating_add(self.interval_ns))
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(low: u64) -> TraceId {
        TraceId((1_u128 << 100 | u128::from(low)).to_be_bytes())
    }

    #[test]
    fn a_parent_decides_for_its_trace() {
        for sampled in [true, false] {
            let decision = Policy::ratio(0.5).decide(String::new, Some(sampled), trace(0), MonoNs(1));
            assert_eq!((decision.sampled, decision.reason), (sampled, Reason::Parent));
        }
    }

    #[test]
    fn ratios_keep_their_share_of_the_random_bits() {
        let keep = |share, low| Policy::ratio(share).decide(String::new, None, trace(low), MonoNs(1)).sampled;
        assert!(keep(1.0, (1 << 56) - 1));
        assert!(!keep(0.0, 0));
        assert!(keep(0.5, (1 << 55) - 1));
        assert!(!keep(0.5, 1 << 55));
    }

    #[test]
    fn a_rule_for_an_operation_beats_the_default() {
        let mut policy = Policy::ratio(1.0);
        policy.operations.insert("GET /health".into(), Rule::ratio(0.0));
        let decide = |name: &str| policy.decide(|| name.to_owned(), None, trace(3), MonoNs(1)).sampled;
        assert!(decide("GET /"));
        assert!(!decide("GET /health"));
    }

    #[test]
    fn a_rate_holds_over_time_and_lets_one_second_burst() {
        let limit = Gcra::new(5.0);
        let start = 1_000_000_000_000;
        assert_eq!((0..20).filter(|_| limit.allow(MonoNs(start))).count(), 5);
        let spread = (0..100).filter(|i| limit.allow(MonoNs(start + (i + 1) * 100_000_000))).count();
        assert_eq!(spread, 50);
        assert!(!Gcra::new(0.0).allow(MonoNs(1)));
    }
}
