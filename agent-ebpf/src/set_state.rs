//! A socket changed state: a child of a listener of ours gets a slot before its first byte, and the handshake's times.

use core::ffi::c_void;

use abi::{NO_SLOT, ROLE_CLIENT, ROLE_LISTENER, Tag, counter};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;

use crate::maps;

// include/net/tcp_states.h, v6.12.
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;

/// Exhaustion is told once in this time: it comes with a flood of connections, and must not become one of messages.
const WARN_EVERY_NS: u64 = 10_000_000_000;
/// When it was told last. A map, for LLVM has no plain atomic load for this target.
#[map]
static WARNED_NS: Array<u64> = Array::with_max_entries(1, 0);

// include/trace/events/sock.h, v6.12: inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    let new_state: i32 = ctx.arg(2);
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::STATE_MISSES);
        return 0;
    };
    maps::count(counter::STATE_HITS);
    match new_state {
        TCP_SYN_RECV if tag.role == ROLE_LISTENER => adopt(&ctx, tag),
        TCP_SYN_SENT => {
            if let Some(slot) = maps::slot(tag) {
                // SAFETY: a live map value of this socket's; the socket's lock is held.
                unsafe { (*slot).handshake_ns = bpf_ktime_get_ns() };
            }
        }
        TCP_ESTABLISHED => {
            if let Some(slot) = maps::slot(tag) {
                // SAFETY: as above.
                unsafe { (*slot).established_ns = bpf_ktime_get_ns() };
            }
        }
        _ => {}
    }
    0
}

/// The tag is the child's own copy of its listener's: it becomes a client's, with a slot where one is free.
#[inline(always)]
fn adopt(ctx: &BtfTracePointContext, tag: &mut Tag) {
    // SAFETY: the helper has no conditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    tag.role = ROLE_CLIENT;
    let Some((index, slot)) = maps::take_slot(now_ns) else {
        tag.slot = NO_SLOT;
        refused(ctx, now_ns);
        return;
    };
    // SAFETY: a live map value that only this socket's tag names from here on.
    unsafe {
        (*slot).handshake_ns = now_ns;
        tag.generation = (*slot).generation;
    }
    tag.slot = index;
}

/// Counted always, told seldom. Two CPUs may both tell: that is one line too many, not a flood.
#[inline(always)]
fn refused(ctx: &BtfTracePointContext, now_ns: u64) {
    maps::count(counter::NO_SLOT);
    let Some(warned_ns) = WARNED_NS.get_ptr_mut(0) else { return };
    // SAFETY: a live map value; both accesses are single words.
    let last_ns = unsafe { *warned_ns };
    if last_ns == 0 || now_ns.wrapping_sub(last_ns) > WARN_EVERY_NS {
        // SAFETY: as above.
        unsafe { *warned_ns = now_ns };
        warn!(ctx, target: "wayspan::probes", "no free slot: connections are served unobserved; raise probes.slots");
    }
}
