//! The proxy as the agent holds it: starts the workers, opens and closes their listeners as snapshots come, drains.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::clock::MonoNs;
use crate::counters::{Bounds, Counters, OpenConnections};
use crate::fold::Unfolded;
use crate::observer::SocketObserver;
use crate::ring::{self, RecordReader};
use crate::sampling::Policy;
use crate::snapshot::Snapshot;
use crate::wake;
use crate::worker::{self, Command, Process, Worker};

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads, at least one.
    pub workers: usize,
    /// Pin each worker to one of the CPUs that the process may use.
    pub pin: bool,
    /// What X-Forwarded-Server says.
    pub hostname: String,
    /// Of the buckets that requests' durations are counted in.
    pub bounds: Bounds,
    /// Gives the calling thread's free memory back to the system; called by a worker when it has freed much. `false` where
    /// it could not be done now, and should be asked for again.
    pub give_back: fn() -> bool,
}

/// A running proxy. Dropping it without [`Proxy::drain`] ends the workers and cuts what is open.
pub struct Proxy {
    process: Arc<Process>,
    commands: Vec<mpsc::Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
    counters: Counters,
    listening: HashMap<(u32, SocketAddr), Listening>,
    next_key: u64,
    tag: Box<dyn Fn(BorrowedFd<'_>) + Send + Sync>,
}

#[derive(Debug, Clone)]
struct Listening {
    key: u64,
    bound: SocketAddr,
    name: Box<str>,
}

/// An address that could not be opened. The others are.
#[derive(Debug, thiserror::Error)]
#[error("entryPoints.{entry_point}.address: cannot listen on {address}: {source}")]
pub struct ListenFault {
    /// The entry point's name.
    pub entry_point: String,
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Connections that wait for accept: more than a burst of a busy node, cut to `net.core.somaxconn` by the kernel.
const BACKLOG: i32 = 4096;
/// Commands under way to a worker: opens and closes of one reload.
const COMMANDS_MAX: usize = 1024;

impl Proxy {
    /// Starts the workers; nothing listens until a snapshot is applied. Also returns what reads their records.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start<O: SocketObserver + Sync>(
        settings: &Settings,
        observer: O,
        policy: Arc<ArcSwap<Policy>>,
    ) -> io::Result<(Self, Vec<RecordReader>)> {
        let process = Arc::new(Process {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            policy,
            hostname: http::HeaderValue::from_str(&settings.hostname).ok(),
            connections: AtomicU64::new(0),
            open: OpenConnections::default(),
            stopping: AtomicBool::new(false),
            drain_until: AtomicU64::new(0),
        });
        let counters = Counters::new(settings.bounds.clone());
        let (mut commands, mut threads, mut readers) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..settings.workers.max(1) {
            let id = u16::try_from(number).map_err(|_| io::Error::other("more than 65,536 workers"))?;
            let (records, reader) = ring::ring(id, ring::RING_BYTES);
            let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
            let (observer, process, counters) = (observer.clone(), Arc::clone(&process), counters.worker());
            let runtime = tokio::runtime::Builder::new_current_thread;
            let pin = settings.pin.then_some(number);
            let (workers, give_back) = (settings.workers, settings.give_back);
            let run = move || {
                if let Some(number) = pin {
                    pin_to(number);
                }
                let mut runtime = runtime();
                runtime.enable_io().enable_time().on_thread_unpark(wake::note);
                let Ok(runtime) = runtime.build_local(Default::default()) else { return };
                runtime.block_on(async move {
                    let unfolded = Unfolded::new(workers, give_back);
                    let worker = Worker::new(id, observer, process, records, counters, unfolded);
                    worker::run(worker, receiver).await;
                });
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
            commands.push(sender);
            readers.push(reader);
        }
        let tag = Box::new(move |socket: BorrowedFd<'_>| observer.listening(socket));
        let listening = HashMap::new();
        Ok((Self { process, commands, threads, counters, listening, next_key: 0, tag }, readers))
    }

    /// The counters of all workers.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> OpenConnections {
        self.process.open.clone()
    }

    /// Entry points' names and the addresses that they are bound to (where port 0 was asked for, the port got).
    #[must_use]
    pub fn addresses(&self) -> Vec<(Box<str>, SocketAddr)> {
        let mut all: Vec<_> = self.listening.values().map(|open| (open.name.clone(), open.bound)).collect();
        all.sort();
        all
    }

    /// Makes a snapshot the truth: opens what is new, swaps, closes what is gone. Connections stay.
    pub async fn apply(&mut self, snapshot: Snapshot) -> Vec<ListenFault> {
        self.process.open.keep(snapshot.entry_points.iter().map(|entry| entry.id));
        let wanted: Vec<(u32, Box<str>, SocketAddr)> = snapshot
            .entry_points
            .iter()
            .flat_map(|entry| entry.addresses.iter().map(|address| (entry.id, entry.name.clone(), *address)))
            .collect();
        // The table first: a connection that comes in right after the bind finds its routes.
        self.process.snapshot.store(Arc::new(snapshot));
        let gone: Vec<_> = self
            .listening
            .keys()
            .filter(|(id, address)| !wanted.iter().any(|(other, _, at)| (other, at) == (id, address)))
            .copied()
            .collect();
        for place in gone {
            if let Some(old) = self.listening.remove(&place) {
                self.tell(|| Command::Close { key: old.key }).await;
            }
        }
        let mut faults = Vec::new();
        for (entry_point, name, address) in wanted {
            if self.listening.contains_key(&(entry_point, address)) {
                continue;
            }
            if let Err(source) = self.listen(entry_point, &name, address).await {
                faults.push(ListenFault { entry_point: name.into(), address, source });
            }
        }
        faults
    }

    async fn tell(&self, command: impl Fn() -> Command) {
        for sender in &self.commands {
            // A worker that is gone takes no commands, and needs none.
            let _ = sender.send(command()).await;
        }
    }

    async fn listen(&mut self, entry_point: u32, name: &str, address: SocketAddr) -> io::Result<()> {
        // Without SO_REUSEPORT first: with it, two processes of one user would share the port without a word.
        if address.port() != 0 {
            drop(bound(address, false)?);
        }
        let mut bound_at = address;
        let mut listeners = Vec::new();
        for _ in &self.commands {
            let socket = bound(bound_at, true)?;
            (self.tag)(socket.as_fd());
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            bound_at = socket.local_addr()?.as_socket().unwrap_or(bound_at);
            listeners.push(std::net::TcpListener::from(socket));
        }
        let key = self.next_key;
        self.next_key += 1;
        for (sender, listener) in self.commands.iter().zip(listeners) {
            let _ = sender.send(Command::Listen { entry_point, key, listener }).await;
        }
        self.listening.insert((entry_point, address), Listening { key, bound: bound_at, name: name.into() });
        Ok(())
    }

    /// Stops accepting, lets what is open end for up to `grace`, and waits for the workers.
    pub async fn drain(self, grace: Duration) {
        let until = MonoNs::now() + grace;
        self.process.drain_until.store(until.0.max(1), Ordering::Relaxed);
        self.tell(|| Command::Drain).await;
        let Self { process, commands, threads, .. } = self;
        drop(commands);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        process.stopping.store(true, Ordering::Relaxed);
    }
}

fn bound(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if !share {
        // Another listener shows only here: SO_REUSEADDR lets bind pass beside it.
        socket.listen(1)?;
    }
    Ok(socket)
}

/// Pins this thread to the `number`-th CPU of those that it may use.
fn pin_to(number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some(cpu) = cpus.get(number % cpus.len().max(1)) else { return };
    let mut one = rustix::thread::CpuSet::new();
    one.set(*cpu);
    let _ = rustix::thread::sched_setaffinity(None, &one);
}
