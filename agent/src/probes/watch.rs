//! The proxy's observer over the probes' maps: tags listeners, names slots, reads marks. Loading belongs to `load`,
//! the layout of a slot to `slots`.
#![expect(unsafe_code, reason = "aya asks for `Pod`, a promise about the bytes of map values")]

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use abi::{Free, NO_SLOT, ROLE_CLIENT, ROLE_LISTENER, ROLE_UPSTREAM, Tag, counter};
use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, PerCpuArray, Queue, SkStorage};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Marks, Missing, Off, SocketObserver, Token};

use super::slots::Slots;

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
    slots: Slots,
    tags: SkStorage<MapData, TagValue>,
    counters: PerCpuArray<MapData, u64>,
    /// aya wants `&mut` to write a map. Held for two system calls per new upstream connection and one per listener;
    /// never for a request.
    writer: Mutex<Writer>,
    /// Connections to upstreams that got no slot; the probes count the clients' themselves.
    no_slot: AtomicU64,
    warned_ns: AtomicU64,
    rest_ns: u64,
    /// Said of every range while `sk_data_ready` is off.
    missing: Missing,
}

struct Writer {
    tags: SkStorage<MapData, TagValue>,
    free: Queue<MapData, FreeValue>,
}

/// Watches sockets through the probes. Cloning is cheap.
#[derive(Clone)]
pub struct Watch {
    maps: Arc<Maps>,
}

/// The programs' hits, foreign sockets' misses and refusals, all CPUs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// `sk_data_ready` on a socket of ours.
    pub data_ready_hits: u64,
    /// `sk_data_ready` on a foreign socket.
    pub data_ready_misses: u64,
    /// `inet_sock_set_state` on a socket of ours.
    pub state_hits: u64,
    /// `inet_sock_set_state` on a foreign socket.
    pub state_misses: u64,
    /// `tcp_destroy_sock` on a socket of ours.
    pub destroy_hits: u64,
    /// `tcp_destroy_sock` on a foreign socket.
    pub destroy_misses: u64,
    /// Connections that got no slot.
    pub no_slot: u64,
    /// Slots that could not be given back.
    pub lost_slots: u64,
}

impl Watch {
    /// Takes the maps out of a loaded object and fills the FIFO of free slots. `has_marks` is whether `sk_data_ready`
    /// is attached.
    pub(super) fn new(ebpf: &mut Ebpf, slots: u32, rest: Duration, has_marks: bool) -> Result<Self, MapError> {
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
        let mut free: Queue<MapData, FreeValue> = take(abi::map::FREE)?.try_into()?;
        for slot in 0..slots {
            free.push(FreeValue(Free { freed_ns: 0, slot, reserved: 0 }), 0)?;
        }
        let tags = take(abi::map::TAGS)?;
        let Map::SkStorage(data) = &tags else { return Err(MapError::InvalidMapType { map_type: 0 }) };
        let reader = MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?;
        let array = take(abi::map::SLOTS)?;
        let Map::Array(data) = &array else { return Err(MapError::InvalidMapType { map_type: 0 }) };
        let maps = Maps {
            slots: Slots::map(data.fd(), slots)?,
            tags: Map::SkStorage(reader).try_into()?,
            counters: take(abi::map::COUNTERS)?.try_into()?,
            writer: Mutex::new(Writer { tags: tags.try_into()?, free }),
            no_slot: AtomicU64::new(0),
            warned_ns: AtomicU64::new(0),
            rest_ns: u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX),
            missing: if has_marks { Missing::NOTHING } else { Missing::UNAVAILABLE },
        };
        Ok(Self { maps: Arc::new(maps) })
    }

    /// Reads the counters: a system call each, for the page of metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |index: u32| {
            let per_cpu = self.maps.counters.get(&index, 0);
            per_cpu.map_or(0, |values| values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)))
        };
        Counters {
            data_ready_hits: read(counter::DATA_READY_HITS),
            data_ready_misses: read(counter::DATA_READY_MISSES),
            state_hits: read(counter::STATE_HITS),
            state_misses: read(counter::STATE_MISSES),
            destroy_hits: read(counter::DESTROY_HITS),
            destroy_misses: read(counter::DESTROY_MISSES),
            no_slot: read(counter::NO_SLOT).wrapping_add(self.maps.no_slot.load(Ordering::Relaxed)),
            lost_slots: read(counter::LOST_SLOT),
        }
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
        let slot = self.maps.slots.get(free.slot).filter(|_| has_rested);
        let tagged = slot.and_then(|slot| {
            let tag = Tag { generation: slot.begin(), slot: free.slot, role: ROLE_UPSTREAM };
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

/// A token that names no slot, and why: `marks` says so.
fn no_slot(reason: Missing) -> Token {
    if reason == Missing::NO_SLOT { Token::NONE } else { Token { generation: u64::from(reason.0), ..Token::NONE } }
}

/// What [`no_slot`] put into a token.
fn reason(token: Token) -> Missing {
    match u8::try_from(token.generation) {
        Ok(bits) if bits != 0 => Missing(bits),
        _ => Missing::NO_SLOT,
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
        match self.maps.tags.get(&socket.as_raw_fd(), 0) {
            Ok(TagValue(tag)) if tag.role != ROLE_CLIENT => no_slot(Missing::JOINED_LATE),
            Ok(TagValue(tag)) if tag.slot == NO_SLOT => no_slot(Missing::NO_SLOT),
            Ok(TagValue(tag)) => Token { generation: tag.generation, slot: tag.slot },
            Err(MapError::KeyNotFound) => no_slot(Missing::JOINED_LATE),
            Err(_) => no_slot(Missing::UNAVAILABLE),
        }
    }

    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        self.begin_upstream(socket).unwrap_or_else(|| {
            self.refused();
            no_slot(Missing::NO_SLOT)
        })
    }

    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        let Some(slot) = self.maps.slots.get(token.slot) else {
            return Marks { missing: reason(token), ..Marks::default() };
        };
        let mut marks = slot.marks(token.generation, &bytes);
        if self.maps.missing != Missing::NOTHING {
            marks.missing = marks.missing.with(self.maps.missing);
        }
        marks
    }

    fn closed(&self, _: Token) {
        // Not here: the kernel's socket may outlive its descriptor, so its slot goes back at tcp_destroy_sock.
    }

    fn absence(&self) -> Missing {
        self.maps.missing
    }
}

/// What the proxy is given: the probes, or nobody. One branch per call.
#[derive(Clone)]
pub enum Observer {
    /// The probes are on.
    Watch(Watch),
    /// They are not.
    Off(Off),
}

impl SocketObserver for Observer {
    fn listening(&self, socket: BorrowedFd<'_>) {
        match self {
            Self::Watch(watch) => watch.listening(socket),
            Self::Off(off) => off.listening(socket),
        }
    }

    fn accepted(&self, socket: BorrowedFd<'_>) -> Token {
        match self {
            Self::Watch(watch) => watch.accepted(socket),
            Self::Off(off) => off.accepted(socket),
        }
    }

    fn connecting(&self, socket: BorrowedFd<'_>) -> Token {
        match self {
            Self::Watch(watch) => watch.connecting(socket),
            Self::Off(off) => off.connecting(socket),
        }
    }

    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        match self {
            Self::Watch(watch) => watch.marks(token, bytes),
            Self::Off(off) => off.marks(token, bytes),
        }
    }

    fn closed(&self, token: Token) {
        match self {
            Self::Watch(watch) => watch.closed(token),
            Self::Off(off) => off.closed(token),
        }
    }

    fn absence(&self) -> Missing {
        match self {
            Self::Watch(watch) => watch.absence(),
            Self::Off(off) => off.absence(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_without_a_slot_says_why() {
        for missing in [Missing::NO_SLOT, Missing::JOINED_LATE, Missing::UNAVAILABLE] {
            let token = no_slot(missing);
            assert_eq!((token.slot, reason(token)), (Token::NONE.slot, missing));
        }
        assert_eq!(no_slot(Missing::NO_SLOT), Token::NONE);
    }
}
