//! The proxy as the agent holds it: starts the workers, hands them their listeners as snapshots come, drains.

mod listeners;
mod neighbours;

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use crate::clock::MonoNs;
use crate::counters::{Bounds, Counters, OpenConnections};
use crate::fold::Unfolded;
use crate::observer::SocketObserver;
use crate::ring::{self, RecordReader};
use crate::sampling::Policy;
use crate::snapshot::Snapshot;
use crate::wake;
use crate::worker::{self, Command, Process, Worker};
pub(crate) use listeners::{BACKLOG, Place};
use listeners::{Changes, Listeners};
pub use listeners::{ListenFault, Sockets};

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
    listeners: Listeners,
    retired: Vec<Arc<Snapshot>>,
    tag: Box<dyn Fn(BorrowedFd<'_>) + Send + Sync>,
}

/// Commands under way to a worker: opens and closes of one reload.
const COMMANDS_MAX: usize = 1024;
/// Snapshots of before that are remembered; a worker drops what is beyond.
const RETIRED_MAX: usize = 64;

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
            summons: (0..settings.workers.max(1)).map(|_| Notify::new()).collect(),
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
                runtime.enable_io().enable_time().on_thread_park(wake::waits).on_thread_unpark(wake::note);
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
        let listeners = Listeners::default();
        Ok((Self { process, commands, threads, counters, listeners, retired: Vec::new(), tag }, readers))
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

    /// Entry points' names and the addresses that they are bound to (where port 0 was asked for, the port got). What
    /// only closes later is not among them.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Box<str>, SocketAddr)> {
        self.listeners.addresses()
    }

    /// Takes over the sockets of a process before, with all who wait there to be accepted. To be called before the first
    /// snapshot is applied, which closes those that it does not name.
    pub fn inherit(&mut self, sockets: Vec<Sockets>) {
        self.listeners.inherit(sockets);
    }

    /// The sockets that listen, for a process after this one: as long as it has them nobody is turned away, whoever of the
    /// two accepts, and when the other closes them.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn sockets(&self) -> io::Result<Vec<Sockets>> {
        self.listeners.sockets()
    }

    /// Makes a snapshot the truth: swaps, opens what is new, closes what is gone when nobody is on the way to it.
    /// Connections stay; those of entry points that are gone end with their next response, or when they are idle.
    pub async fn apply(&mut self, mut snapshot: Snapshot) -> Vec<ListenFault> {
        let before = self.process.snapshot.load_full();
        let open = self.process.open.read();
        let is_used = |id| self.listeners.serve(id) || open.iter().any(|(of, count)| *of == id && *count > 0);
        let gone = before.entry_points.iter().chain(&before.left);
        let gone = gone.filter(|old| !snapshot.has(old.id) && is_used(old.id)).cloned().collect();
        snapshot.left = gone;
        self.process.open.keep(snapshot.entry_points.iter().chain(&snapshot.left).map(|entry| entry.id));
        // The table first: a connection that comes in right after the bind finds its routes.
        self.store(snapshot);
        self.settle().await
    }

    /// Makes a snapshot the truth whose entry points are those of before: other services, or other routes.
    pub fn swap(&mut self, mut snapshot: Snapshot) {
        snapshot.left.clone_from(&self.process.snapshot.load().left);
        self.store(snapshot);
    }

    /// Whoever lets go of a table of thousands of routes last has to take it apart: not a worker, while it has requests.
    fn store(&mut self, snapshot: Snapshot) {
        let before = self.process.snapshot.swap(Arc::new(snapshot));
        self.retired.push(before);
        let beyond = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..beyond);
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    /// Tries again what could not be opened, and closes what lingered long enough. To be called about every second
    /// while there is something to do.
    pub async fn settle(&mut self) -> Vec<ListenFault> {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
        let snapshot = self.process.snapshot.load_full();
        let Changes { opened, closed, faults } =
            self.listeners.settle(&snapshot, self.commands.len(), &*self.tag, MonoNs::now());
        for (key, place, sockets) in opened {
            // More sockets than workers where the process before had more of them.
            for (sender, listener) in self.commands.iter().cycle().zip(sockets) {
                // A worker that is gone takes no commands, and needs none.
                let _ = sender.send(Command::Listen { key, place: Arc::clone(&place), listener }).await;
            }
        }
        for key in closed {
            self.tell(|| Command::Close { key }).await;
        }
        faults
    }

    /// Whether [`Proxy::settle`] has nothing to do.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.listeners.is_settled()
    }

    async fn tell(&self, command: impl Fn() -> Command) {
        for sender in &self.commands {
            let _ = sender.send(command()).await;
        }
    }

    /// Stops accepting, lets what is open end for up to `grace`, and waits for the workers.
    pub async fn drain(mut self, grace: Duration) {
        // First, so that the workers' are the last, and a client finds nobody there as soon as they accept no more.
        self.listeners = Listeners::default();
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

/// Pins this thread to the `number`-th CPU of those that it may use.
fn pin_to(number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some(cpu) = cpus.get(number % cpus.len().max(1)) else { return };
    let mut one = rustix::thread::CpuSet::new();
    one.set(*cpu);
    let _ = rustix::thread::sched_setaffinity(None, &one);
}
