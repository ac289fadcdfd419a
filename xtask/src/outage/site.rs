//! The parts: nginx behind the agent, the agent as it is shipped, the real Jaeger, and the two ways in which Jaeger goes
//! away and comes back.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Serialize;
use wayspan_tests::{Agent, Jaeger, PATIENCE, config, private_loopback, wait_until};

use super::account::{final_count, final_count_argument};
use super::cpu::Processes;
use super::load::Target;
use crate::bench::upstream::{PAGE, Upstream, page_body};

/// What Jaeger keeps in memory: enough to be a store, few enough that it does not take the machine's.
const TRACES_KEPT: u32 = 10_000;
/// The ports that Jaeger takes and we ask.
const JAEGER_PORTS: [u16; 4] = [16686, 16685, 4317, 8888];

/// How Jaeger stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stop {
    /// SIGSTOP: its sockets stay open, and nothing is ever answered.
    Frozen,
    /// The process ends, and connections are refused.
    Ended,
}

/// The running parts. Dropping it ends them.
pub(super) struct Site {
    /// The ingress and what it is asked.
    pub(super) target: Target,
    /// Where /metrics is.
    pub(super) api: SocketAddr,
    agent: Agent,
    jaeger: Option<Jaeger>,
    jaeger_binary: PathBuf,
    jaeger_host: IpAddr,
    /// What the Jaegers that have ended were given.
    received: u64,
    upstream: Upstream,
}

impl Site {
    /// Starts them all, with every request traced and the probes on.
    pub(super) fn start(scratch: &Path, jaeger_binary: PathBuf) -> Result<Self> {
        let upstream = Upstream::start(&scratch.join("upstream"))?;
        let jaeger_host = private_loopback(&JAEGER_PORTS)?.into();
        let jaeger = start_jaeger(&jaeger_binary, jaeger_host)?;
        let server = SocketAddr::from(([127, 0, 0, 1], upstream.port));
        let config = config::forward("Host(`bench.localhost`)", server)
            + &config::traced(&jaeger)
            // Two spans a request, whatever took long: they can be counted from outside.
            + "attribution: {spans: attributes}\n"
            + "workers: {count: 1}\nprobes: {required: true}\n"
            + "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\n";
        let mut agent = Agent::start(&config)?;
        let target = Target {
            address: agent.address("web")?,
            request: format!("GET {PAGE} HTTP/1.1\r\nHost: bench.localhost\r\n\r\n"),
            body: page_body(),
        };
        let api = agent.address("api")?;
        Ok(Self { target, api, agent, jaeger: Some(jaeger), jaeger_binary, jaeger_host, received: 0, upstream })
    }

    /// The parts' processes.
    pub(super) fn processes(&self) -> Processes {
        Processes {
            agent: self.agent.process.pid(),
            jaeger: self.jaeger.as_ref().map(|jaeger| jaeger.process.pid()),
            upstream: self.upstream.pid(),
        }
    }

    /// Stops Jaeger.
    pub(super) fn stop_jaeger(&mut self, how: Stop) -> Result<()> {
        match how {
            Stop::Frozen => self.jaeger.as_mut().context("Jaeger is up")?.process.signal(Signal::STOP),
            Stop::Ended => self.end_jaeger(),
        }
    }

    /// Brings it back.
    pub(super) fn return_jaeger(&mut self) -> Result<()> {
        match &mut self.jaeger {
            Some(frozen) => frozen.process.signal(Signal::CONT)?,
            ended @ None => *ended = Some(start_jaeger(&self.jaeger_binary, self.jaeger_host)?),
        }
        Ok(())
    }

    /// Ends all, the agent first; how many spans all Jaegers were given.
    pub(super) fn finish(mut self) -> Result<u64> {
        let status = self.agent.process.stop(Duration::from_secs(20))?;
        if !status.success() {
            bail!("wayspan ended with {status} on SIGTERM:\n{}", self.agent.process.log_tail());
        }
        self.end_jaeger()?;
        Ok(self.received)
    }

    fn end_jaeger(&mut self) -> Result<()> {
        let mut jaeger = self.jaeger.take().context("Jaeger is up")?;
        jaeger.process.stop(PATIENCE)?;
        // Its last lines may come after it has gone.
        let count = wait_until(Duration::from_secs(5), || final_count(&jaeger.process.log()));
        self.received += count.with_context(|| {
            format!("Jaeger did not say how many spans it was given:\n{}", jaeger.process.log_tail())
        })?;
        Ok(())
    }
}

fn start_jaeger(binary: &Path, host: IpAddr) -> Result<Jaeger> {
    let kept = format!("--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces={TRACES_KEPT}");
    Jaeger::start_on(binary, host, &[kept, final_count_argument(host)])
}
