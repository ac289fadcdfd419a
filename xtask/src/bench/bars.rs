//! What the project promises of its cost, held against what was measured.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a set of probes takes of one request: `prices` of `wayspan doctor --cost --json`.
#[derive(Debug, Deserialize)]
pub(super) struct Price {
    pub(super) set: String,
    pub(super) whose: String,
    /// With what the kernel's measuring takes, which is not there while nobody measures.
    pub(super) ns: f64,
    pub(super) measuring_ns: f64,
}

/// One promise.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    of: &'static str,
    measured: f64,
    at_most: f64,
}

/// All of them: the probes' own, and that of a request with everything on, as a multiple of HAProxy's untraced one.
pub(super) fn all(prices: &[Price], everything: Option<f64>) -> Vec<Bar> {
    let own = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        let prices = prices.iter().filter(|price| price.whose == "own" && wanted(&price.set));
        prices.map(|price| (price.ns - price.measuring_ns) / 1000.0).sum()
    };
    let mut bars = vec![
        Bar { of: "us of a request, the probes of our two sockets", measured: own(&|set| set == "core"), at_most: 0.4 },
        Bar { of: "us of a request, with backends and acknowledgements", measured: own(&|_| true), at_most: 0.8 },
    ];
    let of = "x HAProxy untraced, 100 % traced with all probes";
    bars.extend(everything.map(|measured| Bar { of, measured, at_most: 1.25 }));
    bars
}

impl Bar {
    /// Nothing measured is not met.
    pub(super) fn is_met(&self) -> bool {
        self.measured > 0.0 && self.measured <= self.at_most
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, measured, at_most } = self;
        write!(f, "{}: {measured:.2} {of}, at most {at_most:.2}", if self.is_met() { "met" } else { "MISSED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_held_to_our_own_sockets_and_nothing_measured_meets_none() {
        let price = |set: &str, whose: &str, ns: f64| Price {
            set: set.into(),
            whose: whose.into(),
            ns: ns + 100.0,
            measuring_ns: 100.0,
        };
        let met = |prices: &[Price], ratio| all(prices, ratio).iter().map(Bar::is_met).collect::<Vec<_>>();
        let prices = [price("core", "own", 390.0), price("ack", "own", 400.0), price("core", "backend", 900.0)];
        assert_eq!(met(&prices, Some(1.25)), [true, true, true]);
        assert_eq!(met(&prices, Some(1.26)), [true, true, false]);
        assert_eq!(met(&[price("core", "own", 410.0), price("ack", "own", 400.0)], None), [false, false]);
        assert_eq!(met(&[], None), [false, false]);
    }
}
