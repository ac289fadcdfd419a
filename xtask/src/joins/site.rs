//! The parts that are not the load: the agent as it is shipped, the backends' listeners, the receiver of spans.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wayspan_tests::{Agent, wait_until};

use super::book::Id;
use super::judge::{Given, Verdict, judge};
use super::load::{self, Outcome, Plan};
use super::receiver::Receiver;
use super::sink::Received;
use crate::outage::account::Account;
use crate::progress::Stopwatch;
use crate::setup;

/// Spans leave every 50 ms.
pub(super) const LAST_SPANS: Duration = Duration::from_secs(10);
/// The two clocks may be apart by other than before by so much: what is less is how exactly that can be measured.
const WALL_DRIFT_MAX_NS: u64 = 1_000;

/// The running parts. Dropping it ends them.
pub(super) struct Site {
    pub(super) agent: Agent,
    pub(super) web: SocketAddr,
    pub(super) api: SocketAddr,
    listeners: [TcpListener; 2],
    sink: Receiver<Received>,
    backends: bool,
}

/// Builds what is started.
pub(super) fn build(root: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the probes need root here");
    }
    setup::ensure(root, &[setup::Need::Ebpf])?;
    if wayspan_tests::environment("WAYSPAN_BIN").is_none() {
        crate::agent::build(root)?;
    }
    Ok(())
}

impl Site {
    /// Starts them, every request traced.
    pub(super) fn start(requests: Id, backends: bool) -> Result<Self> {
        let sink = Receiver::start(Received::of_requests(requests), Received::take)?;
        let listeners = load::listeners()?;
        let [kept, fresh] = &listeners;
        let (kept, fresh) = (kept.local_addr()?, fresh.local_addr()?);
        // An export may take long: somebody may stop us all for a while.
        let mut agent = Agent::start(&format!(
            "entryPoints:\n  web: {{address: \"0.0.0.0:0\"}}\nhttp:\n  routers:\n    \
             kept: {{rule: \"PathPrefix(`/r/`)\", service: kept}}\n    \
             fresh: {{rule: \"PathPrefix(`/f/`)\", service: fresh}}\n  services:\n    \
             kept: {{loadBalancer: {{servers: [{{url: \"http://{kept}\"}}]}}}}\n    \
             fresh: {{loadBalancer: {{servers: [{{url: \"http://{fresh}\"}}]}}}}\n\
             tracing: {{sampleRate: 1.0, otlp: {{interval: 50ms, timeout: 5m, http: {{endpoint: \"http://{}\"}}}}}}\n\
             attribution: {{spans: attributes}}\nprobes: {{required: true, slots: 16384, backends: {backends}}}\n\
             api: {{address: \"127.0.0.1:0\"}}\nmetrics: {{prometheus: {{}}}}\n",
            sink.address
        ))?;
        let (web, api) = (agent.address("web")?, agent.address("api")?);
        Ok(Self { agent, web, api, listeners, sink, backends })
    }

    /// Plays the load and waits for the last spans. What was judged, the agent's account of it all, and what is left of the
    /// load.
    pub(super) fn play(&self, plan: Plan) -> Result<(Verdict, Account, Outcome, f64)> {
        let (watch, wall_ns, all) = (Stopwatch::start(), wall_offset_ns(), u64::from(plan.quota.all()));
        let outcome = load::run(self.web, &self.listeners, plan, || self.sink.count())
            .with_context(|| format!("under load; the agent's last words:\n{}", self.agent.process.log_tail()))?;
        let seconds = watch.elapsed().as_secs_f64();
        // What does not come is the judge's.
        let _all = wait_until(LAST_SPANS, || (self.sink.count() >= all).then_some(()));
        let account = settled(self.api, watch)?;
        check_wall(wall_ns)?;
        let verdict = judge(&outcome.book, &self.sink.received(), Given { wall_ns, backends: self.backends });
        Ok((verdict, account, outcome, seconds))
    }

    /// Ends the agent.
    pub(super) fn stop(mut self) -> Result<()> {
        end(&mut self.agent)
    }
}

/// The agent's account once it has sent all its spans.
pub(super) fn settled(api: SocketAddr, watch: Stopwatch) -> Result<Account> {
    let account = wait_until(LAST_SPANS, || {
        let account = Account::read(api, watch.elapsed()).ok()?;
        (account.pending == 0).then_some(account)
    });
    account.context("the agent still has spans to send")
}

/// Whether the wall clock is still so far ahead.
pub(super) fn check_wall(wall_ns: i64) -> Result<()> {
    if wall_offset_ns().abs_diff(wall_ns) > WALL_DRIFT_MAX_NS {
        bail!("the wall clock was set meanwhile: times in spans cannot be compared");
    }
    Ok(())
}

/// Ends an agent.
pub(super) fn end(agent: &mut Agent) -> Result<()> {
    let status = agent.process.stop(LAST_SPANS)?;
    if !status.success() {
        bail!("wayspan ended with {status} on SIGTERM:\n{}", agent.process.log_tail());
    }
    Ok(())
}

/// Whether every request has left its two spans: what was sent twice would be one more.
pub(super) fn is_even(account: &Account, requests: Id) -> bool {
    account.is_even() && account.lost + account.records_lost == 0 && account.sent == 2 * u64::from(requests)
}

/// How far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC; it moves only when the clock is set. The narrowest of some readings.
pub(super) fn wall_offset_ns() -> i64 {
    use rustix::time::ClockId::{Monotonic, Realtime};
    let now = |clock| {
        let time = rustix::time::clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    let tries = (0..100).map(|_| {
        let (before, wall, after) = (now(Monotonic), now(Realtime), now(Monotonic));
        (after - before, wall - (before + (after - before) / 2))
    });
    tries.min().map_or(0, |(_, offset)| offset)
}
