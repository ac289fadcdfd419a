//! The proxy's observer over the probes' maps: tags listeners, names slots, counts. Loading belongs to `load`, what slots tell to
//! `reader`, their layout to `slots`.
#![expect(unsafe_code, reason = "aya asks for `Pod`, a promise about the bytes of map values")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use abi::{Free, NO_SLOT, ROLE_LISTENER, ROLE_UPSTREAM, Tag, counter, switch};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, Queue, SkStorage};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{
    Account, Acknowledged, BackendAsk, BackendMarks, Marks, Missing, Off, SocketObserver, Token,
};

use super::plan::Set;
use super::reader::{Reader, no_slot, token_of};
use super::skips::Skips;
use super::slots::Shared;
use super::tcp_info::{self, TcpInfo};
use super::timestamps;
use crate::merge::gaps::Skipped;
use crate::merge::late::{Ask, Facts, Late};

/// [`Tag`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct TagValue(Tag);

// SAFETY: unsigned integers without padding (abi asserts the size): any bytes are lawful, and all are initialised.
unsafe impl aya::Pod for TagValue {}

/// [`Free`] as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct FreeValue(Free);

// SAFETY: as above.
unsafe impl aya::Pod for FreeValue {}

/// Exhaustion is told once in this time, as the probes do.
const WARN_EVERY_NS: u64 = 10_000_000_000;

/// The maps, shared by all workers.
struct Maps {
    reader: Reader,
    tags: SkStorage<MapData, TagValue>,
    counters: PerCpuArray<MapData, u64>,
    skips: Skips,
    /// aya wants `&mut` to write a map. Held for two system calls per new upstream connection and one per listener;
    /// never for a request.
    writer: Mutex<Writer>,
    /// Connections to upstreams that got no slot; the probes count the clients' themselves.
    no_slot: AtomicU64,
    warned_ns: AtomicU64,
    rest_ns: u64,
}

struct Writer {
    switches: Array<MapData, u64>,
    tags: SkStorage<MapData, TagValue>,
    free: Queue<MapData, FreeValue>,
}

/// Watches sockets through the probes. Cloning is cheap.
#[derive(Clone)]
pub struct Watch {
    maps: Arc<Maps>,
    /// Where the core is refused when it is switched on again, sockets are asked for stamps.
    timestamps: bool,
}

/// The programs' hits, foreign sockets' misses and refusals, all CPUs together.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// By kind of event.
    pub events: Vec<Events>,
    /// Backends' sockets found on this node.
    pub paired: u64,
    /// Backends' sockets found that got no slot.
    pub peer_no_slot: u64,
    /// Connections that got no slot.
    pub no_slot: u64,
    /// Slots that could not be given back.
    pub lost_slots: u64,
}

/// How often a probe ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Events {
    /// Its tracepoint; for a kind that several give, the usual one.
    pub tracepoint: &'static str,
    /// On a socket of ours.
    pub hits: u64,
    /// On another, left after one look-up.
    pub misses: u64,
}

impl Counters {
    /// One probe's.
    #[must_use]
    pub fn of(&self, tracepoint: &str) -> Events {
        self.events.iter().find(|events| events.tracepoint == tracepoint).copied().unwrap_or_default()
    }
}

/// Tracepoint, counter of its hits, counter of its misses.
const EVENTS: [(&str, u32, u32); 7] = [
    ("sk_data_ready", counter::DATA_READY_HITS, counter::DATA_READY_MISSES),
    ("inet_sock_set_state", counter::STATE_HITS, counter::STATE_MISSES),
    ("tcp_destroy_sock", counter::DESTROY_HITS, counter::DESTROY_MISSES),
    ("tcp_rcv_space_adjust", counter::READ_HITS, counter::READ_MISSES),
    ("tcp_sendmsg_locked", counter::SEND_HITS, counter::SEND_MISSES),
    ("tcp_probe", counter::ACK_HITS, counter::ACK_MISSES),
    ("tcp_retransmit_skb", counter::RESENT_HITS, counter::RESENT_MISSES),
];

impl Watch {
    /// Takes the maps out of a loaded object and fills the FIFO of free slots. Every set is off.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        skips: Skips,
        (slots, rest): (u32, Duration),
        timestamps: bool,
    ) -> Result<Self, MapError> {
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
        let mut free: Queue<MapData, FreeValue> = take(abi::map::FREE)?.try_into()?;
        for slot in 0..slots {
            free.push(FreeValue(Free { freed_ns: 0, slot, reserved: 0 }), 0)?;
        }
        let tags = take(abi::map::TAGS)?;
        let Map::SkStorage(data) = &tags else { return Err(MapError::InvalidMapType { map_type: 0 }) };
        let reader = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        let (slots_map, trails_map) = (take(abi::map::SLOTS)?, take(abi::map::TRAILS)?);
        let (Map::Array(slots_data), Map::Array(trails_data)) = (&slots_map, &trails_map) else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let switches = take(abi::map::SWITCHES)?.try_into()?;
        let maps = Maps {
            reader: Reader::new(Shared::map(slots_data.fd(), slots)?, Shared::map(trails_data.fd(), slots)?),
            tags: Map::SkStorage(reader).try_into()?,
            counters: take(abi::map::COUNTERS)?.try_into()?,
            skips,
            writer: Mutex::new(Writer { switches, tags: tags.try_into()?, free }),
            no_slot: AtomicU64::new(0),
            warned_ns: AtomicU64::new(0),
            rest_ns: u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX),
        };
        Ok(Self { maps: Arc::new(maps), timestamps })
    }

    /// A set was attached without a gap since then, or was detached. `missing` is what the core says from now on.
    pub(super) fn switched(&self, set: Set, since: Option<MonoNs>, missing: Missing) {
        match set {
            Set::Core => {}
            Set::Backends => self.tell(switch::BITS, if since.is_some() { switch::BACKENDS } else { 0 }),
            Set::Ack => self.tell(switch::ACK_SINCE, since.map_or(u64::MAX, |since| since.0)),
        }
        self.reader().switched(set, since, missing);
    }

    /// Whether another program does what the kernel leaves out of the runs of [`MADE_UP_FOR`](super::skips::MADE_UP_FOR).
    pub(super) fn make_up(&self, is_made_up_for: bool) {
        self.maps.skips.make_up(is_made_up_for);
    }

    /// See [`Skips::left_out`].
    pub(super) async fn left_out(&self) {
        self.maps.skips.left_out().await;
    }

    /// What slots and trails tell.
    pub(super) fn reader(&self) -> &Reader {
        &self.maps.reader
    }

    /// Tells the programs.
    fn tell(&self, element: u32, word: u64) {
        let mut writer = self.maps.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.switches.set(element, word, 0) {
            tracing::warn!(target: "wayspan::probes", %error, "a set of probes cannot be switched");
        }
    }

    /// Reads the counters: a system call each, for the page of metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |index: u32| {
            let per_cpu = self.maps.counters.get(&index, 0);
            per_cpu.map_or(0, |values| values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)))
        };
        let events =
            EVENTS.map(|(tracepoint, hits, misses)| Events { tracepoint, hits: read(hits), misses: read(misses) });
        Counters {
            events: events.into(),
            paired: read(counter::PAIRED),
            peer_no_slot: read(counter::PEER_NO_SLOT),
            no_slot: read(counter::NO_SLOT).wrapping_add(self.maps.no_slot.load(Ordering::Relaxed)),
            lost_slots: read(counter::LOST_SLOT),
        }
    }

    /// How often the kernel has left out a run of each program, by the program's name: a system call each.
    pub(super) fn skipped_by_program(&self) -> Vec<(&'static str, u64)> {
        self.maps.skips.by_program()
    }

    fn tag(&self, socket: BorrowedFd<'_>, tag: Tag) -> Result<(), MapError> {
        let mut writer = self.maps.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.tags.insert(&socket.as_raw_fd(), TagValue(tag), 0)
    }

    /// A slot of our own choice: the token is wanted before the kernel sees the connection.
    fn begin_upstream(&self, socket: BorrowedFd<'_>) -> Option<Token> {
        let mut writer = self.maps.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(FreeValue(free)) = writer.free.pop(0) else { return None };
        let has_rested = free.freed_ns == 0 || free.freed_ns.saturating_add(self.maps.rest_ns) <= MonoNs::now().0;
        let (slots, trails) = (&self.reader().slots, &self.reader().trails);
        let slot = slots.get(free.slot).zip(trails.get(free.slot)).filter(|_| has_rested);
        let tagged = slot.and_then(|(slot, trail)| {
            // The slot's generation covers its trail too, so it moves on first.
            let tag = Tag { generation: slot.begin(), slot: free.slot, role: ROLE_UPSTREAM };
            trail.begin();
            writer.tags.insert(&socket.as_raw_fd(), TagValue(tag), 0).ok().map(|()| tag)
        });
        if tagged.is_none() && writer.free.push(FreeValue(free), 0).is_err() {
            tracing::error!(target: "wayspan::probes", slot = free.slot, "a free slot is lost: its queue is full");
        }
        tagged.map(|tag| Token { generation: tag.generation, slot: tag.slot })
    }

    /// Counted always, told seldom.
    fn refused(&self) {
        self.maps.no_slot.fetch_add(1, Ordering::Relaxed);
        let (now_ns, warned_ns) = (MonoNs::now().0, self.maps.warned_ns.load(Ordering::Relaxed));
        if warned_ns == 0 || now_ns.saturating_sub(warned_ns) > WARN_EVERY_NS {
            self.maps.warned_ns.store(now_ns, Ordering::Relaxed);
            tracing::warn!(
                target: "wayspan::probes",
                "no free slot: connections to upstreams are unobserved; raise probes.slots"
            );
        }
    }
}

impl SocketObserver for Watch {
    fn listening(&self, socket: BorrowedFd<'_>) {
        let tag = Tag { generation: 0, slot: NO_SLOT, role: ROLE_LISTENER };
        if let Err(error) = self.tag(socket, tag) {
            tracing::warn!(target: "wayspan::probes", %error, "a listener is not watched");
        }
    }

    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        if self.stamps() {
            // Its listener is older than the need for it.
            timestamps::arm(socket);
        }
        match self.maps.tags.get(&socket.as_raw_fd(), 0) {
            Ok(TagValue(tag)) => token_of(Some(tag)),
            Err(MapError::KeyNotFound) => token_of(None),
            Err(_) => no_slot(Missing::UNAVAILABLE),
        }
    }

    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        // Nobody would see it: it joins late where the probes are switched on again.
        if !self.reader().is_on(Set::Core) {
            if self.stamps() {
                timestamps::arm(socket);
            }
            return no_slot(Missing::JOINED_LATE);
        }
        self.begin_upstream(socket).unwrap_or_else(|| {
            self.refused();
            no_slot(Missing::NO_SLOT)
        })
    }

    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        self.reader().marks(token, &bytes)
    }

    fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks {
        self.reader().backend(token, ask)
    }

    fn watches_acknowledgements(&self) -> bool {
        self.waits()
    }

    fn answers(&self, token: Token, start: u64) {
        self.reader().answers(token, start);
    }

    fn under_way(&self, token: Token, since: MonoNs) {
        self.reader().under_way(token, since);
    }

    fn acknowledged(&self, token: Token, last: u64, ended: MonoNs) -> Acknowledged {
        self.reader().acknowledged(token, last, ended)
    }

    fn closed(&self, _: Token) {
        // Not here: the kernel's socket may outlive its descriptor, so its slot goes back at tcp_destroy_sock.
    }

    fn keeps_accounts(&self) -> bool {
        self.absence().has(tcp_info::ANSWERS)
    }

    fn round_trips_age(&self) -> bool {
        self.reader().round_trips_age()
    }

    fn account(&self, socket: BorrowedFd<'_>) -> Option<Account> {
        tcp_info::ask(socket)
    }

    fn stamps(&self) -> bool {
        self.timestamps && self.absence().has(Missing::TIMESTAMPS)
    }

    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], disordered: &mut u32) -> io::Result<(usize, MonoNs)> {
        timestamps::receive(socket, buffer, disordered)
    }

    fn absence(&self) -> Missing {
        self.reader().missing()
    }
}

impl Facts for Watch {
    fn waits(&self) -> bool {
        self.reader().is_on(Set::Ack)
    }

    fn late(&self, ask: &Ask) -> Late {
        self.reader().late(ask)
    }

    fn skipped(&self) -> Option<Skipped> {
        self.maps.skips.of_points(|set| self.reader().is_on(set))
    }
}

impl Facts for Observer {
    fn waits(&self) -> bool {
        matches!(self, Self::Watch(watch) if watch.waits())
    }

    fn late(&self, ask: &Ask) -> Late {
        match self {
            Self::Watch(watch) => watch.late(ask),
            Self::TcpInfo(_) | Self::Off(_) => Late::default(),
        }
    }

    fn skipped(&self) -> Option<Skipped> {
        match self {
            Self::Watch(watch) => watch.skipped(),
            Self::TcpInfo(_) | Self::Off(_) => None,
        }
    }
}

/// What the proxy is given: the probes, or nobody. One branch per call.
#[derive(Clone)]
pub enum Observer {
    /// The probes are on.
    Watch(Watch),
    /// They cannot be: sockets are asked themselves.
    TcpInfo(TcpInfo),
    /// They are not, and nobody else is.
    Off(Off),
}

impl SocketObserver for Observer {
    fn listening(&self, socket: BorrowedFd<'_>) {
        match self {
            Self::Watch(watch) => watch.listening(socket),
            Self::TcpInfo(info) => info.listening(socket),
            Self::Off(off) => off.listening(socket),
        }
    }

    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        match self {
            Self::Watch(watch) => watch.accepted(socket),
            Self::TcpInfo(info) => info.accepted(socket),
            Self::Off(off) => off.accepted(socket),
        }
    }

    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        match self {
            Self::Watch(watch) => watch.connecting(socket),
            Self::TcpInfo(info) => info.connecting(socket),
            Self::Off(off) => off.connecting(socket),
        }
    }

    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        match self {
            Self::Watch(watch) => watch.marks(token, bytes),
            Self::TcpInfo(info) => info.marks(token, bytes),
            Self::Off(off) => off.marks(token, bytes),
        }
    }

    fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks {
        match self {
            Self::Watch(watch) => watch.backend(token, ask),
            Self::TcpInfo(info) => info.backend(token, ask),
            Self::Off(off) => off.backend(token, ask),
        }
    }

    fn closed(&self, token: Token) {
        match self {
            Self::Watch(watch) => watch.closed(token),
            Self::TcpInfo(info) => info.closed(token),
            Self::Off(off) => off.closed(token),
        }
    }

    fn watches_acknowledgements(&self) -> bool {
        matches!(self, Self::Watch(watch) if watch.watches_acknowledgements())
    }

    fn answers(&self, token: Token, start: u64) {
        if let Self::Watch(watch) = self {
            watch.answers(token, start);
        }
    }

    fn under_way(&self, token: Token, since: MonoNs) {
        if let Self::Watch(watch) = self {
            watch.under_way(token, since);
        }
    }

    fn acknowledged(&self, token: Token, last: u64, ended: MonoNs) -> Acknowledged {
        match self {
            Self::Watch(watch) => watch.acknowledged(token, last, ended),
            Self::TcpInfo(_) | Self::Off(_) => Acknowledged::default(),
        }
    }

    fn keeps_accounts(&self) -> bool {
        match self {
            Self::Watch(watch) => watch.keeps_accounts(),
            Self::TcpInfo(info) => info.keeps_accounts(),
            Self::Off(_) => false,
        }
    }

    fn round_trips_age(&self) -> bool {
        matches!(self, Self::Watch(watch) if watch.round_trips_age())
    }

    fn account(&self, socket: BorrowedFd<'_>) -> Option<Account> {
        match self {
            Self::Watch(watch) => watch.account(socket),
            Self::TcpInfo(info) => info.account(socket),
            Self::Off(_) => None,
        }
    }

    fn stamps(&self) -> bool {
        match self {
            Self::Watch(watch) => watch.stamps(),
            Self::TcpInfo(info) => info.stamps(),
            Self::Off(_) => false,
        }
    }

    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], disordered: &mut u32) -> io::Result<(usize, MonoNs)> {
        match self {
            Self::Watch(watch) => watch.receive(socket, buffer, disordered),
            Self::TcpInfo(info) => info.receive(socket, buffer, disordered),
            Self::Off(off) => off.receive(socket, buffer, disordered),
        }
    }

    fn absence(&self) -> Missing {
        match self {
            Self::Watch(watch) => watch.absence(),
            Self::TcpInfo(info) => info.absence(),
            Self::Off(off) => off.absence(),
        }
    }
}
