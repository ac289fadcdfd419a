//! The requests that are more than a small head: bodies either way, interim and early answers, requests that are sent again or
//! given up. As of the small ones, client and backend stamp each, and every point of its span must lie in its own window.

mod book;
mod exchange;
mod judge;
mod load;
mod script;
mod sink;
mod wire;

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};
use serde::Serialize;
use wayspan_tests::{Agent, wait_until};

use super::book::Id;
use super::receiver::Receiver;
use super::site::{self, LAST_SPANS};
use crate::bench::probes::by_probe;
use crate::outage::account::{Account, page, value};
use crate::progress::Stopwatch;
use judge::{Verdict, judge};
use sink::Received;

/// `probes.slots`: few enough that each is used many times over, more than rest at a time.
const SLOTS: u32 = 16_384;

/// What it came to.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seconds: f64,
    requests: Id,
    spans: u64,
    /// Connections that found no slot.
    refused: u64,
    /// Runs of probes that the kernel left out: what they would have told of bytes is unseen.
    skipped: f64,
    #[serde(flatten)]
    verdict: Verdict,
    pub(super) passed: bool,
}

/// Asks so many, and judges.
pub(super) fn measure(requests: Id, seed: u64) -> Result<Report> {
    let sink = Receiver::start(Received::default(), Received::take)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    // Every phase a span of its own: so each point is told, and not sums alone.
    let mut agent = Agent::start(&format!(
        "entryPoints:\n  web: {{address: \"0.0.0.0:0\"}}\nhttp:\n  routers:\n    \
         mixed: {{rule: \"PathPrefix(`/m/`)\", service: mixed}}\n  services:\n    \
         mixed: {{loadBalancer: {{servers: [{{url: \"http://{}\"}}]}}}}\n\
         tracing: {{sampleRate: 1.0, otlp: {{interval: 50ms, timeout: 5m, http: {{endpoint: \"http://{}\"}}}}}}\n\
         attribution: {{spans: all}}\nprobes: {{required: true, slots: {SLOTS}, backends: true, ack: true}}\n\
         api: {{address: \"127.0.0.1:0\"}}\nmetrics: {{prometheus: {{}}}}\n",
        listener.local_addr()?,
        sink.address
    ))?;
    let (web, api) = (agent.address("web")?, agent.address("api")?);
    let (watch, wall_ns) = (Stopwatch::start(), site::wall_offset_ns());
    let book = load::run(web, &listener, (requests, seed), || sink.count())
        .with_context(|| format!("under load; the agent's last words:\n{}", agent.process.log_tail()))?;
    let seconds = watch.elapsed().as_secs_f64();
    // What does not come is the judge's.
    let _all = wait_until(LAST_SPANS, || (sink.count() >= u64::from(requests)).then_some(()));
    let account = site::settled(api, watch)?;
    site::check_wall(wall_ns)?;
    let metrics = page(api)?;
    let refused = value(&metrics, "wayspan_probe_refusals_total")?;
    // Where the kernel does not tell, there is none.
    let skipped = by_probe(&metrics, "wayspan_probe_skipped_total").map_or(0.0, |runs| runs.values().sum());
    site::end(&mut agent)?;
    let received = sink.received();
    let verdict = judge(&book, &received, wall_ns);
    let is_even = is_even(&account, received.spans);
    Ok(Report {
        seconds,
        requests,
        spans: received.spans,
        refused,
        skipped,
        passed: verdict.passed() && is_even && refused == 0,
        verdict,
    })
}

/// Whether all spans have come, and none twice.
fn is_even(account: &Account, came: u64) -> bool {
    account.is_even() && account.lost + account.records_lost == 0 && account.sent == came
}

impl Report {
    /// In a line.
    pub(super) fn told(&self) -> String {
        let points: u64 = self.verdict.lines.values().map(|line| line.points).sum();
        format!("{points} of {} requests of {} other kinds", self.requests, self.verdict.lines.len())
    }

    /// For people.
    pub(super) fn print(&self) {
        println!(
            "\nother kinds, seed as above: {} requests in {:.1} s; {} spans; slots refused: {}; runs of probes \
             that the kernel left out: {}",
            self.requests, self.seconds, self.spans, self.refused, self.skipped
        );
        println!(
            "| requests | count | as meant | full | accept not visible | as stated beforehand | unexplained | acknowledged, of those that must be | early answers told, divided | points in both bounds | \
             points on their neighbour | wrong |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        for (kind, line) in &self.verdict.lines {
            println!(
                "| {} | {} | {} | {} | {} | {:?} | {:?} | {} of {} | {} of {}, {} | {} | {} | {} |",
                kind.name(),
                line.requests,
                line.as_meant,
                line.full,
                line.unaccepted,
                line.hidden,
                line.unexplained,
                line.acknowledged,
                line.acknowledges,
                line.early_told,
                line.early,
                line.early_divided,
                line.points,
                line.on_neighbour,
                line.wrong
            );
        }
        for (kind, line) in &self.verdict.lines {
            if let Some((id, fault)) = &line.first {
                println!("wrong: the first of {} is request {id}: {fault}", kind.name());
            }
            if let Some((id, what)) = &line.first_unexplained {
                println!("unexplained: the first of {} is request {id}: {what}", kind.name());
            }
        }
        println!(
            "requests with a point outside its window, phases that are not the whole, or not exactly one span: {}; strange \
             spans: {}; coverage {}",
            self.verdict.wrong(),
            self.verdict.strange,
            if self.verdict.covers() { "as stated" } else { "NOT as stated" }
        );
        if !self.verdict.is_acknowledged() {
            println!("MORE than one of a hundred acknowledgements is not known");
        }
        if !self.verdict.tells_early() {
            println!("MORE than one of ten early answers is not told as it must be");
        }
        if !self.verdict.is_played() {
            println!("FEWER than seven of ten requests of a kind went as it is meant to: it shows nothing");
        }
        println!("{}", if self.passed { "passed" } else { "FAILED" });
    }
}
