//! Bytes became readable on a socket: one mark into its slot.
//!
//! The tracepoint fires in order, after the offsets moved, also for FIN, and on a listener when a connection becomes
//! acceptable (that has no slot, so it leaves no mark: acceptable is `established_ns`).

use core::ffi::c_void;
use core::ptr;

use abi::{Latch, MARKS, Mark, ROLE_BACKEND, Slot, counter};
use aya_ebpf::macros::{btf_tracepoint, fentry};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext};

use crate::maps::{self, BYTES_RECEIVED_OFFSET, CLOCK_OFFSET, SK_SOCKET_OFFSET};

const MASK: u64 = MARKS as u64 - 1;

// include/trace/events/sock.h, v6.12: sk_data_ready(const struct sock *sk)
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    maps::set_seen(sk);
    readable::<false>(sk)
}

/// The same tracepoint, behind the other program. Bytes that were held back while their socket was in use are handed on where
/// interrupts come through, and what one of these brings finds the other program running on this CPU: the kernel leaves that run out,
/// so this program makes up for it. What both do, by an interrupt between them, is the same mark twice.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn again_sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    if maps::take_seen(sk) {
        return 0;
    }
    readable::<true>(sk)
}

// net/core/sock.c, v6.1: sock_def_readable(struct sock *sk), which tcp_data_ready() calls there without a tracepoint.
#[fentry(function = "sock_def_readable")]
pub fn enter_sock_def_readable(ctx: FEntryContext) -> i32 {
    readable::<false>(ctx.arg(0))
}

/// `AGAIN`: the mark may be there already.
#[inline(always)]
fn readable<const AGAIN: bool>(sk: *mut c_void) -> i32 {
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::DATA_READY_MISSES);
        return 0;
    };
    maps::count(counter::DATA_READY_HITS);
    let Some(slot) = maps::slot(tag) else { return 0 };
    let Some(tcp) = maps::tcp(sk) else { return 0 };
    // `tcp_clock_cache` is ktime_get_ns() as of this segment, so it saves a call (62 ns of 190 on a 6.18 VM).
    let mark = Mark { end: tcp.u64(&BYTES_RECEIVED_OFFSET), at_ns: tcp.u64(&CLOCK_OFFSET) };
    // SAFETY: a live map value of this socket's; the socket's lock is held.
    unsafe { maps::keep_round_trip(slot, tcp) };
    if tag.role == ROLE_BACKEND {
        // SAFETY: `sk` is trusted, and the offset is that of a pointer in `struct sock`; null until accept(2).
        let socket = unsafe { *sk.cast::<u8>().add(SK_SOCKET_OFFSET.load() as usize).cast::<*const c_void>() };
        if socket.is_null() {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(&raw mut (*slot).unaccepted_end, mark.end) };
        }
    }
    if !(AGAIN && is_newest(slot, mark)) {
        record(slot, mark);
    }
    0
}

/// Whether that is the mark that was appended last.
#[inline(always)]
fn is_newest(slot: *mut Slot, mark: Mark) -> bool {
    // SAFETY: `slot` is a live map value, and masked indices are inside the ring; the socket's lock is held.
    unsafe {
        let head = ptr::read_volatile(&raw const (*slot).rx_head);
        let ring = (&raw const (*slot).rx).cast::<Mark>();
        let newest = ptr::read_volatile(ring.add((head.wrapping_sub(1) & MASK) as usize));
        head != 0 && newest.at_ns == mark.at_ns && newest.end == mark.end
    }
}

/// Appends to the ring, and to the latch where user space asked for this mark. The socket's lock is held, so there is
/// one writer; volatile keeps the order in which the reader relies on the words (stores are ordered on x86_64).
#[inline(always)]
fn record(slot: *mut Slot, mark: Mark) {
    // SAFETY: `slot` is a live map value, and masked indices are inside the ring.
    unsafe {
        let head = ptr::read_volatile(&raw const (*slot).rx_head);
        let arm_offset = ptr::read_volatile(&raw const (*slot).arm_offset);
        let ring = (&raw mut (*slot).rx).cast::<Mark>();
        let latch = &raw mut (*slot).latch;
        if mark.end > arm_offset && (*latch).end <= arm_offset {
            set_latch(latch, first_beyond(ring, head, arm_offset, mark));
        }
        maps::push(&raw mut (*slot).rx_head, ring, mark);
    }
}

/// The first mark beyond that offset: this one, which the ring has not got yet, or one that came before user space had asked for
/// it, between a read and that. Of the oldest in the ring the one before is not known: such a latch covers no byte.
///
/// # Safety
/// `ring` is inside a live map value, and the socket's lock is held.
#[inline(always)]
unsafe fn first_beyond(ring: *const Mark, head: u64, offset: u64, mark: Mark) -> Latch {
    let mut first = Latch { end: mark.end, at_ns: mark.at_ns, previous_end: mark.end };
    for back in 1..=MARKS as u64 {
        if back > head {
            first.previous_end = 0;
            break;
        }
        // SAFETY: masked indices are inside the ring, which is this program's to write.
        let before = unsafe { *ring.add((head.wrapping_sub(back) & MASK) as usize) };
        first.previous_end = before.end;
        if before.end <= offset {
            break;
        }
        first = Latch { end: before.end, at_ns: before.at_ns, previous_end: before.end };
    }
    first
}

/// A time of 0 while the offsets change: a reader that sees the same time before and after has a whole latch.
///
/// # Safety
/// `latch` is inside a live map value.
#[inline(always)]
unsafe fn set_latch(latch: *mut Latch, value: Latch) {
    // SAFETY: by this function's contract.
    unsafe {
        ptr::write_volatile(&raw mut (*latch).at_ns, 0);
        ptr::write_volatile(&raw mut (*latch).end, value.end);
        ptr::write_volatile(&raw mut (*latch).previous_end, value.previous_end);
        ptr::write_volatile(&raw mut (*latch).at_ns, value.at_ns);
    }
}
