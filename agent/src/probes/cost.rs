//! What a hit costs on this machine: the kernel's own run-time statistics of each program over a loopback ping-pong,
//! for sockets of ours and for foreign ones. Needs CAP_SYS_ADMIN for the statistics; printing belongs to the caller.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{Program, ProgramError};
use aya::sys::{Stats, enable_stats};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use wayspan_proxy::observer::SocketObserver;

use super::plan::{ROWS, Set};
use super::{Observer, Probes, Reason};
use crate::config::model;

/// Connections of one phase; handshakes and ends are measured over these.
const CONNECTIONS: u32 = 200;
/// Request and answer on each: enough that a run of 10 ms of them outlasts the scheduler's ticks.
const ROUNDS: u32 = 100;
/// How many bytes go each way: a small request.
const MESSAGE: [u8; 100] = [b'x'; 100];

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not all probes are on.
    #[error("probes are off: {0}")]
    Off(Reason),
    /// Statistics cannot be switched on, or not be read.
    #[error("the kernel's statistics need CAP_SYS_ADMIN: {0}")]
    Statistics(String),
    /// The ping-pong failed.
    #[error("the loopback exchange failed")]
    Exchange(#[from] io::Error),
}

/// Whose sockets a program ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// A client's connection to us and ours to a server, both watched.
    Own,
    /// Ours to a server, and the server's end of it.
    Backend,
    /// Nobody's: the program leaves after its look-up.
    Foreign,
}

/// One program's cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// Its tracepoint.
    pub tracepoint: &'static str,
    /// The set that it is switched with.
    pub set: &'static str,
    /// What it ran for.
    pub whose: Whose,
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds of a run, of the kernel's measuring what is in it.
    pub run_ns: u64,
    /// That: what the kernel says of a program that does nothing. It takes no time while nobody measures.
    pub measuring_ns: u64,
}

/// Measures: some 100 ms per phase.
///
/// # Errors
/// See [`Error`].
pub fn measure() -> Result<Vec<Cost>, Error> {
    // Every connection finds a slot, also while the ones before it still close.
    let config = model::Probes { slots: CONNECTIONS * 4, backends: true, ack: true, ..model::Probes::default() };
    let probes = Probes::load_resting(&config, Duration::ZERO);
    let lacking = probes.states().into_iter().find(super::Probe::is_lacking).and_then(|probe| probe.off);
    let loaded = match (&probes.loaded, &lacking) {
        (Ok(loaded), None) => loaded,
        (Err(super::Unloaded { reason, .. }), _) | (_, Some(reason)) => return Err(Error::Off(reason.clone())),
    };
    let observer = probes.observer();
    let measured = |whose| -> Result<Vec<Cost>, Error> {
        let times = || run_times(loaded.programs().ebpf_ref());
        let before = times()?;
        exchange(whose, &observer)?;
        Ok(of_programs(whose, before, times()?))
    };
    // Held until both phases are over: dropping it switches the statistics off.
    let _statistics = enable_stats(Stats::RunTime).map_err(|error| Error::Statistics(super::load::chain(&error)))?;
    let mut costs = Vec::with_capacity(ROWS.len() * 3);
    let idle = loaded.programs().attach_idle().map_err(Error::Off)?;
    for whose in [Whose::Own, Whose::Backend, Whose::Foreign] {
        costs.extend(measured(whose)?);
    }
    // What it costs beside the program that it makes up for, once it has to.
    probes.make_up();
    costs.extend(measured(Whose::Own)?.into_iter().filter(|cost| makes_up(cost.tracepoint)));
    let (runs, time) = run_time(loaded.programs().ebpf_ref(), idle)?;
    let measuring_ns = nanos(time).checked_div(runs).unwrap_or(0);
    costs.iter_mut().for_each(|cost| cost.measuring_ns = measuring_ns);
    Ok(costs)
}

/// Whether a program is there only where another one's runs are left out: see [`Probes::make_up`].
fn makes_up(name: &str) -> bool {
    ROWS.iter().any(|row| row.tracepoint == name && row.makes_up_for().is_some())
}

fn of_programs(whose: Whose, before: Times, after: Times) -> Vec<Cost> {
    let mut costs = Vec::with_capacity(ROWS.len());
    for ((row, before), after) in ROWS.iter().zip(before).zip(after) {
        let (runs, time) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        if let Some(run_ns) = nanos(time).checked_div(runs) {
            let (tracepoint, set) = (row.tracepoint, row.set.name());
            costs.push(Cost { tracepoint, set, whose, runs, run_ns, measuring_ns: 0 });
        }
    }
    costs
}

/// What a set takes of one request and its answer over a kept connection.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Price {
    /// The set.
    pub set: &'static str,
    /// `own`: a proxied request, on both of its sockets that are ours. Otherwise an exchange between two processes of this
    /// node, the second of them a server of ours (`backend`) or not (`foreign`).
    pub whose: Whose,
    /// How often its programs run.
    pub runs: f64,
    /// Nanoseconds of all these runs, of the kernel's measuring what is in them.
    pub ns: f64,
    /// That.
    pub measuring_ns: f64,
}

/// The prices that follow from the costs. A connection's begin and end are in them, spread over its hundred requests.
#[must_use]
pub fn prices(costs: &[Cost]) -> Vec<Price> {
    let exchanges = f64::from(CONNECTIONS * ROUNDS);
    let mut prices = Vec::with_capacity(Set::ALL.len() * 3);
    for whose in [Whose::Own, Whose::Backend, Whose::Foreign] {
        for set in Set::ALL.map(Set::name) {
            // What makes up for left-out runs is not there as a rule.
            let of_set = |cost: &&Cost| cost.whose == whose && cost.set == set && !makes_up(cost.tracepoint);
            let all = costs.iter().filter(of_set);
            #[expect(clippy::cast_precision_loss, reason = "counts of a short measurement")]
            let (runs, ns, measuring_ns) = all.fold((0.0, 0.0, 0.0), |(runs, ns, measuring_ns), cost| {
                let its = cost.runs as f64 / exchanges;
                (runs + its, ns + its * cost.run_ns as f64, measuring_ns + its * cost.measuring_ns as f64)
            });
            prices.push(Price { set, whose, runs, ns, measuring_ns });
        }
    }
    prices
}

/// Runs of each program, and how long they took.
type Times = [(u64, Duration); ROWS.len()];

fn run_times(ebpf: &Ebpf) -> Result<Times, Error> {
    let mut times = [(0, Duration::ZERO); ROWS.len()];
    for (row, time) in ROWS.iter().zip(&mut times) {
        *time = run_time(ebpf, row.tracepoint)?;
    }
    Ok(times)
}

fn run_time(ebpf: &Ebpf, name: &str) -> Result<(u64, Duration), Error> {
    let (is_loaded, info) = match ebpf.program(name) {
        Some(Program::BtfTracePoint(program)) => (program.fd().is_ok(), program.info()),
        Some(Program::FEntry(program)) => (program.fd().is_ok(), program.info()),
        _ => (true, Err(ProgramError::NotLoaded)),
    };
    // Another does its work, or this kernel has not got it.
    let told = if is_loaded { info.map(|info| (info.run_count(), info.run_time())) } else { Ok((0, Duration::ZERO)) };
    told.map_err(|error| Error::Statistics(super::load::chain(&error)))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Keep-alive connections that carry requests and answers, both ends on this thread.
fn exchange(whose: Whose, observer: &Observer) -> io::Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    if whose == Whose::Own {
        observer.listening(listener.as_fd());
    }
    listener.listen(16)?;
    let listener = TcpListener::from(listener);
    let mut buffer = [0; MESSAGE.len()];
    for _ in 0..CONNECTIONS {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if whose != Whose::Foreign {
            observer.connecting(client.as_fd());
        }
        client.connect(&listener.local_addr()?.into())?;
        let mut client = TcpStream::from(client);
        let (mut server, _) = listener.accept()?;
        for _ in 0..ROUNDS {
            client.write_all(&MESSAGE)?;
            server.read_exact(&mut buffer)?;
            server.write_all(&MESSAGE)?;
            client.read_exact(&mut buffer)?;
        }
    }
    Ok(())
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Backend => "backend",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tracepoint, whose, runs, run_ns, .. } = self;
        write!(f, "{tracepoint:<26}{:<9}{runs:>7} runs{run_ns:>6} ns each", whose.name())
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.whose {
            Whose::Own => "a request through the proxy, on our two sockets",
            Whose::Backend => "an exchange with a server on this node, on both sockets",
            Whose::Foreign => "an exchange between others on this node, on both sockets",
        };
        let (all, own) = (self.ns / 1000.0, (self.ns - self.measuring_ns).max(0.0) / 1000.0);
        write!(f, "{:<9}{own:>5.2} us, measured with {all:.2}, {:>4.1} runs: {of}", self.set, self.runs)
    }
}
