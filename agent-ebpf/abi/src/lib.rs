//! The layout of what crosses the kernel border: slots, storage values, counters and the names of field offsets.
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

/// What the kernel has seen of one connection. Written by the probes, read by the proxy through a shared mapping.
///
/// A reader copies what it needs, then checks that `generation` is still the one of its token and that `rx_head` has
/// not moved past what it copied.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Counts the uses of this slot; moves on when the socket is destroyed, so an old token is never believed.
    pub generation: u64,
    /// Events ever recorded for this use; the newest is `rx[(rx_head - 1) % RX_MARKS]`.
    pub rx_head: u64,
    /// When the connection reached ESTABLISHED, 0 if not seen.
    pub established_ns: u64,
    /// When the connection left its handshake's first state (SYN_SENT or SYN_RECV), 0 if not seen.
    pub handshake_ns: u64,
    /// When the slot was given back; it rests before it is used again, so that late facts stay readable.
    pub freed_ns: u64,
    /// Written by user space: the first mark whose `end` is greater goes to `latch` too, so that a body of any size
    /// cannot overwrite it. `u64::MAX` when nothing is armed.
    pub arm_offset: u64,
    /// The mark that `arm_offset` asked for; `at_ns` is 0 until it came.
    pub latch: RxMark,
    /// The ring of marks.
    pub rx: [RxMark; RX_MARKS],
}

const _: () = assert!(size_of::<Slot>() == 320 && align_of::<Slot>() == 64);

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

/// [`Tag::slot`] of a listener, and of a connection for which no slot was free.
pub const NO_SLOT: u32 = u32::MAX;
/// The tagged socket listens: its children get slots.
pub const ROLE_LISTENER: u32 = 1;
/// The tagged socket is a client's connection to us.
pub const ROLE_CLIENT: u32 = 2;
/// The tagged socket is our connection to an upstream.
pub const ROLE_UPSTREAM: u32 = 3;

/// Index into the per-CPU counters.
pub mod counter {
    /// `sk_data_ready` on a socket of ours.
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
    /// Connections that got no slot because none was free.
    pub const NO_SLOT: u32 = 6;
    /// How many counters there are.
    pub const COUNT: u32 = 8;
}
