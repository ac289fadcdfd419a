//! What the probes take of a request: how often each ran under the load, from the agent's own counters, times what a run
//! takes here, from the kernel's statistics by way of `wayspan doctor --cost`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::bars::Price;
use super::contenders::{Contender, Site};
use super::measure;
use crate::outage::account;

/// Of one contender.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    contender: &'static str,
    /// On sockets that a program watches: the ingress's own, and for some a backend's.
    watched: Runs,
    /// On the others: the program leaves after its look-up.
    foreign: Runs,
}

/// Runs of all programs per request.
#[derive(Debug, Default, Serialize)]
struct Runs {
    count: f64,
    us: f64,
}

/// What `wayspan doctor --cost --json` says of one program.
#[derive(Debug, Deserialize)]
struct Run {
    tracepoint: String,
    whose: String,
    run_ns: f64,
}

#[derive(Debug, Deserialize)]
struct Doctor {
    costs: Option<Result<Vec<Run>, String>>,
    prices: Option<Vec<Price>>,
}

/// The counters' families, and on whose sockets the doctor measured a run that they count. A program watches our own sockets
/// or a backend's, and on those that it does not it is quicker: of both the longer is a hit's.
const HITS: (&str, &[&str]) = ("wayspan_probe_hits_total", &["own", "backend"]);
const MISSES: (&str, &[&str]) = ("wayspan_probe_misses_total", &["foreign"]);

/// Measures the contenders that have probes, each under a load of its own; and what the doctor says of a request.
pub(super) fn cost(site: &Site, contenders: &[Contender], connections: u32) -> Result<(Vec<Cost>, Vec<Price>)> {
    let doctor = site.wayspan().args(["doctor", "--cost", "--json"]).output().context("wayspan doctor")?;
    let said: Doctor = serde_json::from_slice(&doctor.stdout).context("what wayspan doctor says")?;
    let prices = said.costs.context("wayspan doctor says nothing of costs")?.map_err(anyhow::Error::msg)?;
    let mut all = Vec::new();
    for contender in contenders.iter().filter(|contender| contender.has_probes) {
        let running = contender.start(site)?;
        measure::load(site, &running, Duration::from_secs(1), connections)?;
        let before = account::page(api(site))?;
        let load = measure::load(site, &running, Duration::from_secs(2), connections)?;
        let after = account::page(api(site))?;
        let runs = |counted| runs(&prices, counted, [&before, &after], load.requests);
        all.push(Cost { contender: contender.name, watched: runs(HITS)?, foreign: runs(MISSES)? });
    }
    Ok((all, said.prices.unwrap_or_default()))
}

fn api(site: &Site) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, site.api_port).into()
}

fn runs(prices: &[Run], (family, whose): (&str, &[&str]), [before, after]: [&str; 2], requests: u64) -> Result<Runs> {
    let (before, after) = (by_probe(before, family)?, by_probe(after, family)?);
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let requests = requests.max(1) as f64;
    let mut sum = Runs::default();
    for (probe, count) in after {
        let of_probe = prices.iter().filter(|run| run.tracepoint == probe && whose.contains(&run.whose.as_str()));
        let run_ns = of_probe.map(|run| run.run_ns).fold(0.0, f64::max);
        let count = (count - before.get(probe).unwrap_or(&0.0)) / requests;
        sum.count += count;
        sum.us += count * run_ns / 1000.0;
    }
    Ok(sum)
}

/// The series of a family, by their probe.
pub(crate) fn by_probe<'p>(page: &'p str, family: &str) -> Result<BTreeMap<&'p str, f64>> {
    let series =
        page.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix("{probe=\"")?.split_once("\"} "));
    let counts: BTreeMap<&str, f64> =
        series.map(|(probe, count)| Ok((probe, count.trim().parse()?))).collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "/metrics has no {family}");
    Ok(counts)
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contender, watched, foreign } = self;
        write!(
            f,
            "{contender}: {:.2} runs = {:.2} us per request on watched sockets, {:.2} = {:.2} us on others",
            watched.count, watched.us, foreign.count, foreign.us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_has_the_price_of_the_sockets_that_are_watched_and_a_miss_that_of_others() {
        let run =
            |tracepoint: &str, whose: &str, run_ns| Run { tracepoint: tracepoint.into(), whose: whose.into(), run_ns };
        let prices =
            [run("a", "own", 90.0), run("a", "foreign", 70.0), run("b", "own", 72.0), run("b", "backend", 120.0)];
        let page = |a: u32, b: u32, miss: u32| {
            format!(
                "wayspan_probe_hits_total{{probe=\"a\"}} {a}\nwayspan_probe_hits_total{{probe=\"b\"}} {b}\n\
                 wayspan_probe_misses_total{{probe=\"a\"}} {miss}\n"
            )
        };
        let (before, after) = (page(10, 5, 1), page(30, 15, 41));
        let of = |counted| runs(&prices, counted, [&before, &after], 10).unwrap();
        let hits = of(HITS);
        assert_eq!((hits.count, hits.us), (3.0, (2.0 * 90.0 + 120.0) / 1000.0));
        let misses = of(MISSES);
        assert_eq!((misses.count, misses.us), (4.0, 4.0 * 70.0 / 1000.0));
        assert!(runs(&prices, HITS, ["", ""], 1).is_err());
    }
}
