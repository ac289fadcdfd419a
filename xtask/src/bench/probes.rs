//! What the probes take of a request: how often each ran under the load, from the agent's own counters, times what a run
//! takes here, from the kernel's statistics by way of `wayspan doctor --cost`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::contenders::{Contender, Site};
use super::measure;

/// Of one contender.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    contender: &'static str,
    /// Runs on sockets of the ingress per request.
    own_runs: f64,
    /// Microseconds of these.
    own_us: f64,
    /// Runs on other sockets, here those of the load generator and of the upstream.
    foreign_runs: f64,
    /// Microseconds of these.
    foreign_us: f64,
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
}

/// Measures the contenders that have probes, each under a load of its own.
pub(super) fn cost(site: &Site, contenders: &[Contender], connections: u32) -> Result<Vec<Cost>> {
    let doctor = site.wayspan().args(["doctor", "--cost", "--json"]).output().context("wayspan doctor")?;
    let said: Doctor = serde_json::from_slice(&doctor.stdout).context("what wayspan doctor says")?;
    let runs = said.costs.context("wayspan doctor says nothing of costs")?.map_err(anyhow::Error::msg)?;
    let ns = |probe: &str, whose: &str| {
        let of = |whose: &str| runs.iter().find(|run| run.tracepoint == probe && run.whose == whose);
        of(whose).or_else(|| of("own")).map_or(0.0, |run| run.run_ns)
    };
    let mut all = Vec::new();
    for contender in contenders.iter().filter(|contender| contender.has_probes) {
        let running = contender.start(site)?;
        measure::load(site, &running, Duration::from_secs(1), connections)?;
        let before = counted(site)?;
        let load = measure::load(site, &running, Duration::from_secs(2), connections)?;
        let after = counted(site)?;
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let requests = load.requests.max(1) as f64;
        let mut cost =
            Cost { contender: contender.name, own_runs: 0.0, own_us: 0.0, foreign_runs: 0.0, foreign_us: 0.0 };
        for ((kind, probe), count) in &after {
            let runs = (count - before.get(&(*kind, probe.clone())).unwrap_or(&0.0)) / requests;
            match kind {
                Kind::Own => {
                    cost.own_runs += runs;
                    cost.own_us += runs * ns(probe, "own") / 1000.0;
                }
                Kind::Foreign => {
                    cost.foreign_runs += runs;
                    cost.foreign_us += runs * ns(probe, "foreign") / 1000.0;
                }
            }
        }
        all.push(cost);
    }
    Ok(all)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Own,
    Foreign,
}

/// The agent's counters of the probes.
fn counted(site: &Site) -> Result<BTreeMap<(Kind, String), f64>> {
    let mut stream = TcpStream::connect(("127.0.0.1", site.api_port)).context("the agent's api")?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n", site.api_port).as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let mut counts = BTreeMap::new();
    for line in page.lines() {
        let kinds =
            [("wayspan_probe_hits_total{probe=\"", Kind::Own), ("wayspan_probe_misses_total{probe=\"", Kind::Foreign)];
        for (prefix, kind) in kinds {
            if let Some((probe, count)) = line.strip_prefix(prefix).and_then(|rest| rest.split_once("\"} ")) {
                counts.insert((kind, probe.to_owned()), count.trim().parse()?);
            }
        }
    }
    ensure!(
        !counts.is_empty(),
        "the agent's api tells nothing of its probes: {}",
        page.lines().next().unwrap_or_default()
    );
    Ok(counts)
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contender, own_runs, own_us, foreign_runs, foreign_us } = self;
        write!(
            f,
            "{contender}: {own_runs:.2} runs = {own_us:.2} us per request on sockets of ours, {foreign_runs:.2} = {foreign_us:.2} us on others"
        )
    }
}
