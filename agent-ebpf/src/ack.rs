//! What a client has acknowledged, and what had left for it by then.

use core::ffi::c_void;
use core::ptr;

use abi::{Mark, ROLE_CLIENT, counter};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{self, SKB_ACK_SEQ_OFFSET, SND_NXT_OFFSET, SND_UNA_OFFSET};

// include/trace/events/tcp.h, v6.12: tcp_probe(struct sock *sk, const struct sk_buff *skb). Each segment that arrives in
// ESTABLISHED, before it is processed: `snd_una` is the old one.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (*mut c_void, *const u8) = (ctx.arg(0), ctx.arg(1));
    let Some(tag) = maps::tag(sk).filter(|tag| tag.role == ROLE_CLIENT) else {
        maps::count(counter::ACK_MISSES);
        return 0;
    };
    maps::count(counter::ACK_HITS);
    if maps::slot(tag).is_none() {
        return 0;
    }
    let (Some(trail), Some(tcp)) = (maps::trail(tag.slot), maps::tcp(sk)) else { return 0 };
    // SAFETY: `skb` is the tracepoint's trusted argument, and the offset is that of a u32 in its `cb`.
    let ack = unsafe { *skb.add(SKB_ACK_SEQ_OFFSET.load() as usize).cast::<u32>() };
    let (first, next) = (tcp.u32(&SND_UNA_OFFSET), tcp.u32(&SND_NXT_OFFSET));
    let ahead = ack.wrapping_sub(first) as i32;
    // Old acknowledgements, and those of bytes never sent, tell nothing.
    if ahead <= 0 || ahead > next.wrapping_sub(first) as i32 {
        return 0;
    }
    // Not `tcp_clock_cache`: that is refreshed after this tracepoint, and tells when we sent last.
    // SAFETY: a helper without arguments.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a live map value of this socket's; its lock is held, so both rings keep step.
    unsafe {
        let left = Mark { end: tcp.sent_offset(next, ROLE_CLIENT), at_ns };
        let taken = Mark { end: tcp.sent_offset(ack, ROLE_CLIENT), at_ns };
        maps::push(&raw mut (*trail).sent_head, (&raw mut (*trail).sent).cast(), left);
        maps::push(&raw mut (*trail).taken_head, (&raw mut (*trail).taken).cast(), taken);
        ptr::write_volatile(&raw mut (*trail).taken_end, taken.end);
    }
    0
}
