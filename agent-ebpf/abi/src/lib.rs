//! The layout of what crosses the kernel border: slots, storage values, counters and the names of what the loader sets.
//! Plain unsigned integers, widest first; both sides compile this one definition. Reading and writing belong elsewhere.
#![no_std]

/// Marks kept per ring. 16 cover the reads of a head that arrives in pieces, and every mark of a 64 KiB burst after GRO.
pub const MARKS: usize = 16;
/// Segments that were sent again, kept per connection: the newest so many different ones.
pub const RESENT: usize = 8;
/// Times kept per connection in which the other end's window was shut.
pub const STALLS: usize = 4;

/// One event at an offset of a stream.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Stream offset just behind the newest byte that the event concerns (for sends: of the first byte). The first byte
    /// of a stream has offset 0 and a FIN counts one.
    pub end: u64,
    /// When, in CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
}

/// A segment that was sent again.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Resent {
    /// Stream offset of its first byte.
    pub start: u64,
    /// Stream offset just behind its last byte.
    pub end: u64,
    /// How often.
    pub count: u64,
}

/// A time in which the other end's window was shut. Where it was shut more than once for bytes of one message and of no other,
/// these times together.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Stream offset of the first byte that could not leave, nor could any behind it; [`NO_OFFSET`] while the others are written.
    pub first: u64,
    /// For how long, nanoseconds.
    pub lasted_ns: u64,
    /// Until when, as far as is known, in CLOCK_MONOTONIC nanoseconds.
    pub until_ns: u64,
}

impl Stall {
    /// How much of it may still have to be told at that time, if nothing that is under way began before `since_ns`: of what is longer
    /// ago no more than lies behind that. The one with the least makes room for a new one.
    #[inline(always)]
    pub const fn kept_ns(&self, at_ns: u64, since_ns: u64) -> u64 {
        let under_way_ns = self.until_ns.saturating_sub(since_ns);
        if self.until_ns.wrapping_add(STALL_TOLD_NS) < at_ns && under_way_ns < self.lasted_ns {
            under_way_ns
        } else {
            self.lasted_ns
        }
    }
}

/// In [`Trail::stall_count`]: where the newest entry's index begins, in bits.
pub const NEWEST: u32 = 32;
/// Whoever was over for so long has been told of its stalls: records wait for less.
pub const STALL_TOLD_NS: u64 = 1_000_000_000;

/// No stream is as long.
pub const NO_OFFSET: u64 = u64::MAX;

/// A mark together with the end of the one before it: it alone tells which offsets it made readable.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Latch {
    /// As in [`Mark`].
    pub end: u64,
    /// As in [`Mark`]; 0 while the latch is being written, and before the first mark.
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
    /// Counts the uses of this slot; moves on when it is taken again, before anything of the use before is cleared. Until
    /// then what was seen of a connection that has ended is still told to whoever has its token.
    pub generation: u64,
    /// Events ever recorded for this use; the newest is `rx[(rx_head - 1) % MARKS]`.
    pub rx_head: u64,
    /// Written by user space: the first mark whose `end` is greater goes to `latch` too, so that no burst between two
    /// reads can overwrite it. One that came before this was written goes there with the next, from the ring.
    pub arm_offset: u64,
    /// The mark that `arm_offset` asked for.
    pub latch: Latch,
    /// When the connection reached ESTABLISHED, 0 if not seen: a client's connection was acceptable from then on.
    pub established_ns: u64,
    /// Smoothed round trip at the newest mark, microseconds; 0 if not measured yet.
    pub srtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// "Bytes became readable", each `end` being `tcp_sock.bytes_received`. On lines of its own.
    pub rx: [Mark; MARKS],
    /// When the connection left its handshake's first state (SYN_SENT or SYN_RECV), 0 if not seen.
    pub handshake_ns: u64,
    /// When the first SYN-ACK was sent again to this client, 0 if none was.
    pub synack_resent_ns: u64,
    /// Of a backend's connection: bytes before this offset were readable before the backend accepted.
    pub unaccepted_end: u64,
    /// The generation of `peer_slot`.
    pub peer_generation: u64,
    /// Of a connection to a backend on this node: the slot of the backend's own socket.
    pub peer_slot: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// The handshake's round trip as the kernel took it, microseconds; 0 if it took none.
    pub handshake_rtt_us: u32,
    /// Keeps the size free of hidden padding; zero.
    pub reserved: [u32; 3],
}

const _: () = assert!(size_of::<Slot>() == 384 && align_of::<Slot>() == 64);
const _: () = assert!(core::mem::offset_of!(Slot, rx) == 64 && core::mem::offset_of!(Slot, handshake_ns) == 320);

/// [`Slot::flags`]: the backend's own socket was looked for when this connection to it was made.
pub const FLAG_SOUGHT: u32 = 1;
/// [`Slot::flags`]: it was found on this node; `peer_slot` and `peer_generation` name its slot.
pub const FLAG_PAIRED: u32 = 1 << 1;
/// [`Slot::flags`]: it was found, but no slot was free for it, or the kernel had no memory to tie one to it.
pub const FLAG_PEER_NO_SLOT: u32 = 1 << 2;

/// What the optional probes saw of the connection with the same index in the slots.
///
/// A backend's socket: `taken` is what the backend has read, `sent` where each of its writes began. A client's socket:
/// `taken` is what the client has acknowledged, and `sent` what had left for it when a segment of its came while more waited to
/// leave. `stalls` are of our own sockets. Read like a [`Slot`], whose generation covers this too.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    /// Events ever recorded in `taken`.
    pub taken_head: u64,
    /// Events ever recorded in `sent`.
    pub sent_head: u64,
    /// Entries of `resent` ever begun.
    pub resent_head: u64,
    /// `end` of the newest mark in `taken`.
    pub taken_end: u64,
    /// A backend's first write after it has read something: where its answer begins. On a socket of ours user space writes into
    /// `at_ns` since when the oldest message is under way that is written to it, for which stalls are kept.
    pub turn: Mark,
    /// `taken_end` when `turn` was written.
    pub turn_taken_end: u64,
    /// When the newest segment came in that found bytes waiting to leave: the other end's window is what that segment said until
    /// another comes in.
    pub heard_ns: u64,
    /// See above.
    pub taken: [Mark; MARKS],
    /// See above.
    pub sent: [Mark; MARKS],
    /// The newest segments that were sent again, on any socket of ours.
    pub resent: [Resent; RESENT],
    /// What the other end's window kept back.
    pub stalls: [Stall; STALLS],
    /// How many of `stalls` are in use, and above [`NEWEST`] which is the newest.
    pub stall_count: u64,
    /// Stream offset of the first byte that could not leave when the newest of them went on last.
    pub stall_last: u64,
    /// What had left when the newest segment came in (`snd_nxt`), with [`HEARD`], and [`HEARD_WAITING`] if bytes waited to leave;
    /// 0 before the first.
    pub heard: u64,
    /// Stream offset from which on what is sent is of the newest message. To a client user space writes it before the message; a
    /// server's newest data ends what was sent to it by then.
    pub message_start: u64,
}

/// Beside the sequence number in [`Trail::heard`]: something came in.
pub const HEARD: u64 = 1 << 33;
/// Beside it there: bytes waited to leave then.
pub const HEARD_WAITING: u64 = 1 << 32;

const _: () = assert!(size_of::<Trail>() == 896 && align_of::<Trail>() == 64);
const _: () = assert!(core::mem::offset_of!(Trail, taken) == 64 && core::mem::offset_of!(Trail, resent) == 576);

/// Whose connection to a backend awaits the backend's own socket. The key is the pair of initial sequence numbers: they are
/// the same at both ends whatever addresses were translated between, and 64 bits that no other handshake shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The generation of `slot`.
    pub generation: u64,
    /// The slot of our socket.
    pub slot: u32,
    /// Keeps the size free of hidden padding; zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Pair>() == 16);

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
/// The tagged socket is a backend's end of a connection of ours; it belongs to another process.
pub const ROLE_BACKEND: u32 = 4;

/// Bits of the word in [`map::SWITCHES`].
pub mod switch {
    /// Backends' own sockets are looked for.
    pub const BACKENDS: u64 = 1;
    /// The element with these bits.
    pub const BITS: u32 = 0;
    /// The element with the time since when `ack` is switched on.
    pub const ACK_SINCE: u32 = 1;
}

/// Names of the maps.
pub mod map {
    /// Array of [`Slot`](crate::Slot), mmapable.
    pub const SLOTS: &str = "SLOTS";
    /// Queue of [`Free`](crate::Free).
    pub const FREE: &str = "FREE";
    /// Socket storage of [`Tag`](crate::Tag).
    pub const TAGS: &str = "TAGS";
    /// Array of [`Trail`](crate::Trail), mmapable, by the slots' index.
    pub const TRAILS: &str = "TRAILS";
    /// LRU hash of [`Pair`](crate::Pair) by sequence numbers.
    pub const PAIRS: &str = "PAIRS";
    /// LRU hash of `u64` by sequence numbers: when a SYN-ACK was first sent again.
    pub const SYNACKS: &str = "SYNACKS";
    /// Array of two `u64`: what is switched on, by [`switch`](crate::switch), and since when `ack` is, in CLOCK_MONOTONIC
    /// nanoseconds.
    pub const SWITCHES: &str = "SWITCHES";
    /// Per-CPU array of `u64`, by [`counter`](crate::counter).
    pub const COUNTERS: &str = "COUNTERS";
}

/// Names of the constants that the loader sets before the verifier sees the programs. All are `u64`; an offset is the
/// member's in its struct.
pub mod global {
    /// `struct tcp_sock`: `bytes_received`, `u64`.
    pub const BYTES_RECEIVED_OFFSET: &str = "BYTES_RECEIVED_OFFSET";
    /// `struct tcp_sock`: `tcp_clock_cache`, `u64`.
    pub const CLOCK_OFFSET: &str = "CLOCK_OFFSET";
    /// `struct tcp_sock`: `bytes_acked`, `u64`.
    pub const BYTES_ACKED_OFFSET: &str = "BYTES_ACKED_OFFSET";
    /// `struct tcp_sock`: `rcv_nxt`, `u32`.
    pub const RCV_NXT_OFFSET: &str = "RCV_NXT_OFFSET";
    /// `struct tcp_sock`: `copied_seq`, `u32`.
    pub const COPIED_SEQ_OFFSET: &str = "COPIED_SEQ_OFFSET";
    /// `struct tcp_sock`: `snd_nxt`, `u32`.
    pub const SND_NXT_OFFSET: &str = "SND_NXT_OFFSET";
    /// `struct tcp_sock`: `snd_una`, `u32`.
    pub const SND_UNA_OFFSET: &str = "SND_UNA_OFFSET";
    /// `struct tcp_sock`: `write_seq`, `u32`.
    pub const WRITE_SEQ_OFFSET: &str = "WRITE_SEQ_OFFSET";
    /// `struct tcp_sock`: `snd_wnd`, `u32`, from `snd_una` on.
    pub const SND_WND_OFFSET: &str = "SND_WND_OFFSET";
    /// `struct tcp_sock`: `tcp_wstamp_ns`, `u64`: when the newest segment left, or may leave where the socket is paced.
    pub const SENT_CLOCK_OFFSET: &str = "SENT_CLOCK_OFFSET";
    /// `struct tcp_sock`: `mss_cache`, `u32`.
    pub const MSS_OFFSET: &str = "MSS_OFFSET";
    /// `struct tcp_sock`: `srtt_us`, `u32`, eight times the microseconds.
    pub const SRTT_OFFSET: &str = "SRTT_OFFSET";
    /// `struct tcp_sock`: `mdev_us`, `u32`, four times the microseconds that TCP_INFO calls `tcpi_rttvar`.
    pub const MDEV_OFFSET: &str = "MDEV_OFFSET";
    /// `struct tcp_sock`: `total_retrans`, `u32`; of an accepted connection also the SYN-ACKs that were sent again.
    pub const TOTAL_RETRANS_OFFSET: &str = "TOTAL_RETRANS_OFFSET";
    /// `struct sock`: `sk_socket`, a pointer.
    pub const SK_SOCKET_OFFSET: &str = "SK_SOCKET_OFFSET";
    /// `struct sk_buff`: `cb`, with `struct tcp_skb_cb`'s `seq` in it, `u32`.
    pub const SKB_SEQ_OFFSET: &str = "SKB_SEQ_OFFSET";
    /// The same for `end_seq`.
    pub const SKB_END_SEQ_OFFSET: &str = "SKB_END_SEQ_OFFSET";
    /// The same for `ack_seq`.
    pub const SKB_ACK_SEQ_OFFSET: &str = "SKB_ACK_SEQ_OFFSET";
    /// `struct tcp_request_sock`: `snt_isn`, `u32`.
    pub const SENT_ISN_OFFSET: &str = "SENT_ISN_OFFSET";
    /// `struct tcp_request_sock`: `rcv_isn`, `u32`.
    pub const RECEIVED_ISN_OFFSET: &str = "RECEIVED_ISN_OFFSET";
    /// How long a freed slot rests, nanoseconds.
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
    /// `tcp_rcv_space_adjust` on a backend's socket of ours.
    pub const READ_HITS: u32 = 8;
    /// `tcp_rcv_space_adjust` on any other socket.
    pub const READ_MISSES: u32 = 9;
    /// `tcp_sendmsg_locked` or `sock_send_length` on a backend's socket of ours.
    pub const SEND_HITS: u32 = 10;
    /// The same on any other socket.
    pub const SEND_MISSES: u32 = 11;
    /// `tcp_probe` on a socket of ours.
    pub const ACK_HITS: u32 = 12;
    /// `tcp_probe` on any other socket.
    pub const ACK_MISSES: u32 = 13;
    /// `tcp_retransmit_skb` or `tcp_retransmit_synack` on a socket of ours.
    pub const RESENT_HITS: u32 = 14;
    /// The same on a foreign socket.
    pub const RESENT_MISSES: u32 = 15;
    /// Backends' sockets found.
    pub const PAIRED: u32 = 16;
    /// Backends' sockets found that got no slot.
    pub const PEER_NO_SLOT: u32 = 17;
    /// How many counters there are.
    pub const COUNT: u32 = 18;
}
