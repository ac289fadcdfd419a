//! The layout of what crosses the kernel border: slots, storage values, counters and the names of what the loader sets.
//! Plain unsigned integers, widest first; both sides compile this one definition. Reading and writing belong elsewhere.
#![no_std]

/// Marks kept per slot. 16 cover the reads of a head that arrives in pieces, and every mark of a 64 KiB burst after GRO.
pub const RX_MARKS: usize = 16;

/// One "bytes became readable" event.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct RxMark {
    /// Stream offset just behind the newest readable byte: `tcp_sock.bytes_received`, so the first byte has offset 0
    /// and a FIN counts one.
    pub end: u64,
    /// When, in CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
}

/// A mark together with the end of the one before it: it alone tells which offsets it made readable.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Latch {
    /// As in [`RxMark`].
    pub end: u64,
    /// As in [`RxMark`]; 0 while the latch is being written, and before the first mark.
    pub at_ns: u64,
    /// `end` of the mark before: the bytes `previous_end..end` became readable at `at_ns`.
    pub previous_end: u64,
}

/// What the kernel has seen of one connection. Written by the probes, read by the proxy through a shared mapping.
///
/// All that an event touches beside its mark is in the first cache line, so an event writes two lines. A reader copies
/// what it needs, then checks that `generation` is still the one of its token and that `rx_head` has not moved past
/// what it copied.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Counts the uses of this slot; moves on when the socket is destroyed, so an old token is never believed.
    pub generation: u64,
    /// Events ever recorded for this use; the newest is `rx[(rx_head - 1) % RX_MARKS]`.
    pub rx_head: u64,
    /// Written by user space: the first mark whose `end` is greater goes to `latch` too, so that no burst between two
    /// reads can overwrite it.
    pub arm_offset: u64,
    /// The mark that `arm_offset` asked for.
    pub latch: Latch,
    /// When the connection reached ESTABLISHED, 0 if not seen: a client's connection was acceptable from then on.
    pub established_ns: u64,
    /// When the connection left its handshake's first state (SYN_SENT or SYN_RECV), 0 if not seen.
    pub handshake_ns: u64,
    /// The ring of marks, on lines of its own.
    pub rx: [RxMark; RX_MARKS],
}

const _: () = assert!(size_of::<Slot>() == 320 && align_of::<Slot>() == 64);
const _: () = assert!(core::mem::offset_of!(Slot, rx) == 64);

/// The value in the SK_STORAGE map: on a listener (and cloned to its children before they have a slot) and on every
/// socket that has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The slot's generation when it was given to this socket.
    pub generation: u64,
    /// Index into the slots, or [`NO_SLOT`].
    pub slot: u32,
    /// One of the `ROLE_*` constants.
    pub role: u32,
}

const _: () = assert!(size_of::<Tag>() == 16);

/// An entry of the FIFO of free slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// When the slot was given back, 0 if it was never used; it rests before it is used again, so that its last marks
    /// stay readable.
    pub freed_ns: u64,
    /// Index into the slots.
    pub slot: u32,
    /// Keeps the size free of hidden padding; zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Free>() == 16);

/// [`Tag::slot`] of a listener, and of a connection for which no slot was free.
pub const NO_SLOT: u32 = u32::MAX;
/// The tagged socket listens: its children get slots.
pub const ROLE_LISTENER: u32 = 1;
/// The tagged socket is a client's connection to us.
pub const ROLE_CLIENT: u32 = 2;
/// The tagged socket is our connection to an upstream.
pub const ROLE_UPSTREAM: u32 = 3;

/// Names of the maps.
pub mod map {
    /// Array of [`Slot`](crate::Slot), mmapable.
    pub const SLOTS: &str = "SLOTS";
    /// Queue of [`Free`](crate::Free).
    pub const FREE: &str = "FREE";
    /// Socket storage of [`Tag`](crate::Tag).
    pub const TAGS: &str = "TAGS";
    /// Per-CPU array of `u64`, by [`counter`](crate::counter).
    pub const COUNTERS: &str = "COUNTERS";
}

/// Names of the constants that the loader sets before the verifier sees the programs.
pub mod global {
    /// `u64`: offset of `bytes_received` in `struct tcp_sock`.
    pub const BYTES_RECEIVED_OFFSET: &str = "BYTES_RECEIVED_OFFSET";
    /// `u64`: offset of `tcp_clock_cache` in `struct tcp_sock`.
    pub const CLOCK_OFFSET: &str = "CLOCK_OFFSET";
    /// `u64`: how long a freed slot rests, nanoseconds.
    pub const REST_NS: &str = "REST_NS";
}

/// Index into the per-CPU counters.
pub mod counter {
    /// `sk_data_ready` on a socket of ours, listeners too.
    pub const DATA_READY_HITS: u32 = 0;
    /// `sk_data_ready` on a foreign socket.
    pub const DATA_READY_MISSES: u32 = 1;
    /// `inet_sock_set_state` on a socket of ours.
    pub const STATE_HITS: u32 = 2;
    /// `inet_sock_set_state` on a foreign socket.
    pub const STATE_MISSES: u32 = 3;
    /// `tcp_destroy_sock` on a socket of ours.
    pub const DESTROY_HITS: u32 = 4;
    /// `tcp_destroy_sock` on a foreign socket.
    pub const DESTROY_MISSES: u32 = 5;
    /// Connections that got no slot because none was free, or none had rested.
    pub const NO_SLOT: u32 = 6;
    /// Slots that could not be given back.
    pub const LOST_SLOT: u32 = 7;
    /// How many counters there are.
    pub const COUNT: u32 = 8;
}
