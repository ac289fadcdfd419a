//! A TCP socket is gone: its slot's generation moves on, and the slot rests at the end of the FIFO.

use core::ffi::c_void;
use core::ptr;

use abi::{Free, NO_SLOT, counter};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps;

// include/trace/events/tcp.h, v6.12: tcp_destroy_sock(struct sock *sk)
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::DESTROY_MISSES);
        return 0;
    };
    maps::count(counter::DESTROY_HITS);
    // A slot whose generation moved on already was given back before: it is not pushed twice.
    let Some(slot) = maps::slot(tag) else { return 0 };
    // SAFETY: a live map value of this socket's, which has no more events.
    unsafe { ptr::write_volatile(&raw mut (*slot).generation, tag.generation.wrapping_add(1)) };
    // SAFETY: the helper has no conditions.
    let freed_ns = unsafe { bpf_ktime_get_ns() };
    maps::give_back(Free { freed_ns, slot: tag.slot, reserved: 0 });
    tag.slot = NO_SLOT;
    0
}
