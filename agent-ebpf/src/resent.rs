//! Segments that were sent again: on any socket of ours which bytes, and of a handshake when.

use core::ffi::c_void;
use core::ptr;

use abi::{RESENT, Resent, counter};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{self, RECEIVED_ISN_OFFSET, SENT_ISN_OFFSET, SKB_END_SEQ_OFFSET, SKB_SEQ_OFFSET};
use crate::set_state::key;

// include/trace/events/tcp.h, v6.12: tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb); later kernels append
// an error.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    const MASK: u64 = RESENT as u64 - 1;
    let (sk, skb): (*mut c_void, *const u8) = (ctx.arg(0), ctx.arg(1));
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::RESENT_MISSES);
        return 0;
    };
    maps::count(counter::RESENT_HITS);
    if maps::slot(tag).is_none() {
        return 0;
    }
    let (Some(trail), Some(tcp)) = (maps::trail(tag.slot), maps::tcp(sk)) else { return 0 };
    // SAFETY: `skb` is the tracepoint's trusted argument, and the offsets are those of u32s in its `cb`.
    let (start, end) = unsafe {
        let seq = |offset: u64| *skb.add(offset as usize).cast::<u32>();
        (seq(SKB_SEQ_OFFSET.load()), seq(SKB_END_SEQ_OFFSET.load()))
    };
    // SAFETY: a live map value of this socket's; its lock is held. Masked indices are inside the ring.
    unsafe {
        let (start, end) = (tcp.sent_offset(start, tag.role), tcp.sent_offset(end, tag.role));
        let head = ptr::read_volatile(&raw const (*trail).resent_head);
        let entries = (&raw mut (*trail).resent).cast::<Resent>();
        let newest = entries.add((head.wrapping_sub(1) & MASK) as usize);
        if head != 0 && (*newest).start == start && (*newest).end == end {
            ptr::write_volatile(&raw mut (*newest).count, (*newest).count.wrapping_add(1));
            return 0;
        }
        let entry = entries.add((head & MASK) as usize);
        // Whoever reads it meanwhile sees that it is being made.
        ptr::write_volatile(&raw mut (*entry).count, 0);
        ptr::write_volatile(&raw mut (*entry).start, start);
        ptr::write_volatile(&raw mut (*entry).end, end);
        ptr::write_volatile(&raw mut (*entry).count, 1);
        ptr::write_volatile(&raw mut (*trail).resent_head, head.wrapping_add(1));
    }
    0
}

// include/trace/events/tcp.h, v6.12: tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req), `sk` being
// the listener.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    let (sk, request): (*mut c_void, *const u8) = (ctx.arg(0), ctx.arg(1));
    if maps::tag(sk).is_none() {
        maps::count(counter::RESENT_MISSES);
        return 0;
    }
    maps::count(counter::RESENT_HITS);
    // The verifier knows the argument as the smaller `struct request_sock`, so the members behind it are copied.
    // SAFETY: a TCP listener's requests are `struct tcp_request_sock`; the helper checks the address.
    let numbers = unsafe {
        let number = |offset: u64| bpf_probe_read_kernel(request.add(offset as usize).cast::<u32>());
        (number(SENT_ISN_OFFSET.load()), number(RECEIVED_ISN_OFFSET.load()))
    };
    let (Ok(sent), Ok(received)) = numbers else { return 0 };
    let now_ns = maps::now_ns();
    let handshake = key(sent.wrapping_add(1), received.wrapping_add(1));
    const NOEXIST: u64 = 1; // BPF_NOEXIST: the first one stays.
    let _ = maps::SYNACKS.insert(&handshake, &now_ns, NOEXIST);
    0
}
