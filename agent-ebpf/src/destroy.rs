//! A TCP socket is gone: its slot goes to the end of the FIFO and rests there, with its last marks still readable.

use core::ffi::c_void;

use abi::{Free, NO_SLOT, counter};
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
    // A slot that has another owner by now was given back before: it is not pushed twice.
    if maps::slot(tag).is_none() {
        return 0;
    }
    let freed_ns = maps::now_ns();
    let slot = tag.slot;
    // First, so that this socket can neither write into the slot nor give it back again.
    tag.slot = NO_SLOT;
    maps::give_back(Free { freed_ns, slot, reserved: 0 });
    0
}
