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

use super::plan::ROWS;
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

/// One program's cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// Its tracepoint.
    pub tracepoint: &'static str,
    /// Whether the sockets were ours; otherwise the program left after its look-up.
    pub own: bool,
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds of a run, the kernel's two clock readings around it in part included.
    pub run_ns: u64,
}

/// Measures: some 100 ms per phase.
///
/// # Errors
/// See [`Error`].
pub fn measure() -> Result<Vec<Cost>, Error> {
    // Every connection finds a slot, also while the ones before it still close.
    let config = model::Probes { slots: CONNECTIONS * 4, ..model::Probes::default() };
    let probes = Probes::load_resting(&config, Duration::ZERO);
    let off = probes.states().iter().find_map(|probe| probe.off.clone());
    let (Some(ebpf), None) = (&probes.ebpf, &off) else { return Err(Error::Off(off.unwrap_or(Reason::NotBuilt))) };
    let observer = probes.observer();
    // Held until both phases are over: dropping it switches the statistics off.
    let _statistics = enable_stats(Stats::RunTime).map_err(|error| Error::Statistics(super::load::chain(&error)))?;
    let mut costs = Vec::with_capacity(ROWS.len() * 2);
    for own in [true, false] {
        let before = run_times(ebpf)?;
        exchange(own.then_some(&observer))?;
        for ((row, before), after) in ROWS.iter().zip(before).zip(run_times(ebpf)?) {
            let (runs, time) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            costs.push(Cost { tracepoint: row.tracepoint, own, runs, run_ns: ns.checked_div(runs).unwrap_or(0) });
        }
    }
    Ok(costs)
}

fn run_times(ebpf: &Ebpf) -> Result<[(u64, Duration); ROWS.len()], Error> {
    let read = |name: &str| -> Result<(u64, Duration), ProgramError> {
        let Some(Program::BtfTracePoint(program)) = ebpf.program(name) else { return Err(ProgramError::NotLoaded) };
        program.info().map(|info| (info.run_count(), info.run_time()))
    };
    let mut times = [(0, Duration::ZERO); ROWS.len()];
    for (row, time) in ROWS.iter().zip(&mut times) {
        *time = read(row.tracepoint).map_err(|error| Error::Statistics(super::load::chain(&error)))?;
    }
    Ok(times)
}

/// Keep-alive connections that carry requests and answers, both ends on this thread and watched where asked.
fn exchange(observer: Option<&Observer>) -> io::Result<()> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    if let Some(observer) = observer {
        observer.listening(listener.as_fd());
    }
    listener.listen(16)?;
    let listener = TcpListener::from(listener);
    let mut buffer = [0; MESSAGE.len()];
    for _ in 0..CONNECTIONS {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(observer) = observer {
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

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.own { "own" } else { "foreign" };
        write!(f, "{:<22}{whose:<9}{:>7} runs{:>6} ns each", self.tracepoint, self.runs, self.run_ns)
    }
}
