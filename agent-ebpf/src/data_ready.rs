//! Bytes became readable on a socket: one mark into its slot.
//!
//! The tracepoint fires in order, after the offsets moved, also for FIN, and on a listener when a connection becomes
//! acceptable (that has no slot, so it leaves no mark: acceptable is `established_ns`).

use core::ffi::c_void;
use core::ptr;

use abi::{Latch, RX_MARKS, RxMark, Slot, counter};
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{self, BYTES_RECEIVED_OFFSET, CLOCK_OFFSET};

// include/trace/events/sock.h, v6.12: sk_data_ready(const struct sock *sk)
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::DATA_READY_MISSES);
        return 0;
    };
    maps::count(counter::DATA_READY_HITS);
    let Some(slot) = maps::slot(tag) else { return 0 };
    // SAFETY: `sk` is the tracepoint's trusted argument.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<u8>();
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: the offsets are those of u64 members, read from this kernel's BTF; the verifier checks them again.
    // `tcp_clock_cache` is ktime_get_ns() as of this segment, so it saves a call (62 ns of 190 on a 6.18 VM).
    let mark = unsafe {
        RxMark {
            end: *tcp.add(BYTES_RECEIVED_OFFSET.load() as usize).cast::<u64>(),
            at_ns: *tcp.add(CLOCK_OFFSET.load() as usize).cast::<u64>(),
        }
    };
    record(slot, mark);
    0
}

/// Appends to the ring, and to the latch where user space asked for this mark. The socket's lock is held, so there is
/// one writer; volatile keeps the order in which the reader relies on the words (stores are ordered on x86_64).
#[inline(always)]
fn record(slot: *mut Slot, mark: RxMark) {
    const MASK: u64 = RX_MARKS as u64 - 1;
    // SAFETY: `slot` is a live map value, and masked indices are inside the ring.
    unsafe {
        let head = ptr::read_volatile(&raw const (*slot).rx_head);
        let arm_offset = ptr::read_volatile(&raw const (*slot).arm_offset);
        let ring = (&raw mut (*slot).rx).cast::<RxMark>();
        let latch = &raw mut (*slot).latch;
        if mark.end > arm_offset && (*latch).end <= arm_offset {
            let previous_end = if head == 0 { 0 } else { (*ring.add((head.wrapping_sub(1) & MASK) as usize)).end };
            set_latch(latch, Latch { end: mark.end, at_ns: mark.at_ns, previous_end });
        }
        let entry = ring.add((head & MASK) as usize);
        ptr::write_volatile(&raw mut (*entry).end, mark.end);
        ptr::write_volatile(&raw mut (*entry).at_ns, mark.at_ns);
        ptr::write_volatile(&raw mut (*slot).rx_head, head.wrapping_add(1));
    }
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
