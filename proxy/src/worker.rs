//! A worker: one OS thread with a runtime of its own, its listeners, its upstream pool, and everything that its
//! connections share without a lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use memchr::memmem::Finder;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::client::{self, ClientConn};
use crate::clock::MonoNs;
use crate::counters::{OpenConnections, Total, WorkerCounters};
use crate::fold::Unfolded;
use crate::live::Live;
use crate::observer::{Account, SocketObserver};
use crate::record::Head;
use crate::ring::RecordWriter;
use crate::sampling::Policy;
use crate::server::{BACKLOG, Place as Listening};
use crate::snapshot::{EntryPoint, Service, Snapshot};
use crate::upstream::Pool;

/// What all workers of a process share.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) policy: Arc<ArcSwap<Policy>>,
    /// For X-Forwarded-Server.
    pub(crate) hostname: Option<HeaderValue>,
    pub(crate) connections: AtomicU64,
    pub(crate) open: OpenConnections,
    pub(crate) stopping: AtomicBool,
    /// When draining ends whatever is left; 0 while not draining.
    pub(crate) drain_until: AtomicU64,
    /// By worker: somebody waits under a cap while others' connections idle.
    pub(crate) summons: Box<[Notify]>,
}

impl Process {
    /// Asks all other workers to let idle connections go where they are waited for.
    pub(crate) fn summon(&self, by: u16) {
        for (_, summons) in self.summons.iter().enumerate().filter(|(worker, _)| *worker != usize::from(by)) {
            summons.notify_one();
        }
    }

    async fn summoned(&self, worker: u16) {
        match self.summons.get(usize::from(worker)) {
            Some(summons) => summons.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept from this listener.
    Listen { key: u64, place: Arc<Listening>, listener: std::net::TcpListener },
    /// Stop accepting from it when nobody waits there.
    Close { key: u64 },
    /// Stop accepting from all, finish what is open, end.
    Drain,
}

/// One worker's state, shared by its tasks.
pub(crate) struct Worker<O: SocketObserver> {
    pub(crate) id: u16,
    pub(crate) observer: O,
    pub(crate) process: Arc<Process>,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    policy: RefCell<Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>>,
    /// Reads land here first: one hot buffer for all connections.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// The same for what is read of TLS, before it is opened; empty until some connection speaks it.
    pub(crate) sealed: RefCell<Vec<u8>>,
    /// Finds the end of a head.
    pub(crate) head_end: Finder<'static>,
    pub(crate) random: RefCell<fastrand::Rng>,
    records: RefCell<RecordWriter>,
    pub(crate) counters: RefCell<WorkerCounters>,
    pub(crate) pool: Pool<O>,
    pub(crate) unfolded: Unfolded,
    turns: RefCell<HashMap<u32, usize>>,
    connections: RefCell<Vec<Weak<ClientConn<O>>>>,
    spare: RefCell<Vec<Rc<RefCell<Live>>>>,
    open: Cell<usize>,
    errands: mpsc::Sender<Errand>,
    errands_told: Cell<Option<mpsc::Receiver<Errand>>>,
}

/// Work that no connection waits for.
pub(crate) type Errand = Pin<Box<dyn Future<Output = ()>>>;

/// Errands under way; what comes beyond is lost, and counted.
const ERRANDS_MAX: usize = 1024;
/// Errands that the worker has not begun: it comes to them when its tasks wait.
const ERRANDS_TOLD_MAX: usize = 256;

/// What a head ends with.
pub(crate) const HEAD_END: &[u8] = b"\r\n\r\n";
/// Reads of up to this much: what one skb run of GRO brings.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Behind an answer of so much the client has acknowledged several windows since its last bytes: TCP begins with ten segments,
/// 14 KiB (RFC 6928). A smaller one costs no system call.
const UNHEARD_BYTES_MAX: u64 = 64 * 1024;
/// Requests kept for reuse of their memory.
const SPARE_MAX: usize = 64;
/// How often deadlines are looked at: their resolution.
pub(crate) const SWEEP: Duration = Duration::from_millis(250);

impl<O: SocketObserver> Worker<O> {
    pub(crate) fn new(
        id: u16,
        observer: O,
        process: Arc<Process>,
        records: RecordWriter,
        counters: WorkerCounters,
        unfolded: Unfolded,
    ) -> Rc<Self> {
        let (errands, errands_told) = mpsc::channel(ERRANDS_TOLD_MAX);
        Rc::new(Self {
            errands,
            errands_told: Cell::new(Some(errands_told)),
            id,
            observer,
            snapshot: RefCell::new(Cache::new(Arc::clone(&process.snapshot))),
            policy: RefCell::new(Cache::new(Arc::clone(&process.policy))),
            process,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            sealed: RefCell::default(),
            head_end: Finder::new(HEAD_END),
            random: RefCell::new(fastrand::Rng::new()),
            records: RefCell::new(records),
            counters: RefCell::new(counters),
            pool: Pool::new(id),
            unfolded,
            turns: RefCell::new(HashMap::new()),
            connections: RefCell::new(Vec::new()),
            spare: RefCell::new(Vec::new()),
            open: Cell::new(0),
        })
    }

    /// The routing state of this moment: one atomic load unless it changed.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    /// Whether an entry point is gone, so that its connections should end.
    pub(crate) fn has_left(&self, entry_point: u32) -> bool {
        !self.snapshot.borrow_mut().load().has(entry_point)
    }

    /// The sampling policy of this moment.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(self.policy.borrow_mut().load())
    }

    /// What X-Forwarded-Server says.
    pub(crate) fn hostname(&self) -> Option<HeaderValue> {
        self.process.hostname.clone()
    }

    /// Gives work to whoever has time; its loss is counted.
    pub(crate) fn errand(&self, errand: Errand) {
        if self.errands.try_send(errand).is_err() {
            self.counters.borrow().count(Total::MirrorsLost);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.process.stopping.load(Ordering::Relaxed)
    }

    /// The next server in a service's turn.
    pub(crate) fn pick(&self, service: &Service) -> Option<usize> {
        if service.turn.len() <= 1 {
            return service.turn.first().map(|server| usize::from(*server));
        }
        let mut turns = self.turns.borrow_mut();
        // Workers start at different places, so that few requests over many workers spread too.
        let cursor = turns.entry(service.id).or_insert(usize::from(self.id));
        let server = service.turn.get(*cursor % service.turn.len());
        *cursor = cursor.wrapping_add(1);
        server.map(|server| usize::from(*server))
    }

    /// A request's state, from the spares where there is one.
    pub(crate) fn live(&self) -> Rc<RefCell<Live>> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps a request's memory for the next, if nobody else holds it.
    pub(crate) fn recycle(&self, mut live: Rc<RefCell<Live>>) {
        if let Some(unshared) = Rc::get_mut(&mut live) {
            unshared.get_mut().reset();
            let mut spare = self.spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(live);
            }
        }
    }

    /// A request of the client at this socket has ended: counts it and sends its record up. So many bytes were written to the
    /// client since any of its own were read.
    pub(crate) fn leave(&self, live: &Live, client: BorrowedFd<'_>, unheard_bytes: u64) {
        let head = &live.head;
        let start = [head.first_readable, head.first_read, head.ended].into_iter().find_map(MonoNs::known);
        let duration = head.ended.since(start.unwrap_or(head.ended));
        let snapshot = self.snapshot();
        let its_entry_point = || snapshot.entry_point(head.entry_point).is_none_or(|entry_point| entry_point.metered);
        if live.metered.unwrap_or_else(its_entry_point) {
            let (came, went) = (head.request_body_bytes, head.response_body_bytes);
            self.counters.borrow_mut().request(live.key(), duration, came, went);
        }
        let accounted = self.accounted(head, client, unheard_bytes);
        let head = accounted.as_ref().unwrap_or(head);
        self.records.borrow_mut().write(|out| live.encode(head, &snapshot, out));
    }

    /// The head of a sampled request with what the kernel counts of its connection by itself, where nobody watches that, or
    /// what was seen of it has grown old.
    fn accounted(&self, head: &Head, client: BorrowedFd<'_>, unheard_bytes: u64) -> Option<Head> {
        let observer = &self.observer;
        let is_asked =
            || observer.keeps_accounts() || (unheard_bytes > UNHEARD_BYTES_MAX && observer.round_trips_age());
        if !head.sampled || !is_asked() {
            return None;
        }
        let Account { srtt_us, rttvar_us, .. } = observer.account(client)?;
        Some(Head { srtt_us, rttvar_us, asked_at_end: true, ..*head })
    }

    fn sweep(&self) {
        let now = MonoNs::now();
        let until = self.process.drain_until.load(Ordering::Relaxed);
        let draining = (until != 0).then_some(MonoNs(until));
        let snapshot = self.snapshot();
        // Waking is all that a sweep does, so no connection comes or goes meanwhile.
        self.connections.borrow_mut().retain(|conn| match conn.upgrade() {
            Some(conn) => {
                // Connections of an entry point that is gone end as in a drain, but what is under way has all its time.
                let left = (!snapshot.has(conn.entry_point)).then_some(MonoNs(u64::MAX));
                conn.sweep(now, draining.or(left));
                true
            }
            None => false,
        });
        let pooled = self.pool.sweep(now);
        // What this sweep folds of clients' is gone at the next.
        self.unfolded.sweep(self.connections.borrow().len(), pooled);
    }
}

/// Runs a worker until it is drained. Called on the worker's own thread, inside its local runtime.
pub(crate) async fn run<O: SocketObserver>(worker: Rc<Worker<O>>, mut commands: mpsc::Receiver<Command>) {
    let mut tasks = JoinSet::new();
    let mut accepting: HashMap<u64, Vec<Rc<Notify>>> = HashMap::new();
    let (arrivals, mut arrived) = mpsc::channel(256);
    let Some(mut errands) = worker.errands_told.take() else { return };
    // Those of a worker that ends are cut off.
    let mut under_way = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            command = commands.recv(), if !draining => match command {
                Some(Command::Listen { key, place, listener }) => {
                    let Ok(listener) = TcpListener::from_std(listener) else { continue };
                    let stop = Rc::new(Notify::new());
                    accepting.entry(key).or_default().push(Rc::clone(&stop));
                    tasks.spawn_local(accept(Rc::clone(&worker), place, listener, arrivals.clone(), stop));
                }
                Some(Command::Close { key }) => {
                    accepting.remove(&key).into_iter().flatten().for_each(|stop| stop.notify_one());
                }
                Some(Command::Drain) | None => {
                    draining = true;
                    accepting.drain().flat_map(|(_, stops)| stops).for_each(|stop| stop.notify_one());
                }
            },
            Some(conn) = arrived.recv() => {
                tasks.spawn_local(serve(Rc::clone(&worker), conn));
            }
            _ = sweep.tick() => worker.sweep(),
            () = worker.process.summoned(worker.id) => worker.pool.shed(),
            Some(errand) = errands.recv() => {
                if under_way.len() < ERRANDS_MAX {
                    under_way.spawn_local(errand);
                } else {
                    worker.counters.borrow().count(Total::MirrorsLost);
                }
            }
            Some(_) = under_way.join_next() => {}
            Some(_) = tasks.join_next() => {}
        }
        if draining {
            worker.sweep();
            if worker.open.get() == 0 && arrived.is_empty() && tasks.is_empty() {
                break;
            }
        }
    }
    worker.pool.clear();
}

/// A connection and the guard of its place under the cap.
struct Arrival<O: SocketObserver> {
    conn: Rc<ClientConn<O>>,
    place: Place,
}

/// One connection's place under its entry point's cap.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve<O: SocketObserver>(worker: Rc<Worker<O>>, arrival: Arrival<O>) {
    let Arrival { conn, place } = arrival;
    client::serve(conn).await;
    worker.open.set(worker.open.get().saturating_sub(1));
    drop(place);
}

/// Accepts until it is told to stop, and then those who wait.
async fn accept<O: SocketObserver>(
    worker: Rc<Worker<O>>,
    at: Arc<Listening>,
    listener: TcpListener,
    arrivals: mpsc::Sender<Arrival<O>>,
    stop: Rc<Notify>,
) {
    // Those that may have waited when it was told to stop: later ones could come for ever.
    let mut last: Option<i32> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.notified(), if last.is_none() => {
                last = Some(BACKLOG);
                continue;
            }
            accepted = listener.accept(), if last != Some(0) => accepted,
            () = std::future::ready(()), if last.is_some() => return,
        };
        last = last.map(|left| left - 1);
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // Out of descriptors or memory: the backlog keeps the connection until there is room again.
            Err(error) if is_exhaustion(&error) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            // The client was gone before we came (accept(2): treat network errors as a retry).
            Err(_) => continue,
        };
        let snapshot = worker.snapshot();
        let Some(entry_point) = at.entry_point(&snapshot) else { continue };
        let Some(place) = place(&worker, entry_point) else {
            worker.counters.borrow().count(Total::Refused);
            continue;
        };
        worker.counters.borrow().count(Total::Accepted);
        let id = worker.process.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(conn) = ClientConn::accept(&worker, entry_point, stream, peer, id) else { continue };
        worker.connections.borrow_mut().push(Rc::downgrade(&conn));
        worker.open.set(worker.open.get() + 1);
        if let Err(error) = arrivals.send(Arrival { conn, place }).await {
            // Only when the worker ends: the connection closes with the arrival.
            drop(error);
            return;
        }
    }
}

fn place<O: SocketObserver>(worker: &Worker<O>, entry_point: &EntryPoint) -> Option<Place> {
    let open = worker.process.open.of(entry_point.id)?;
    let place = Place(open);
    let before = place.0.fetch_add(1, Ordering::Relaxed);
    (before < entry_point.limits.connections_max).then_some(place)
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM.
fn is_exhaustion(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}
