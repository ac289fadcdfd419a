//! A socket changed state: a child of a listener of ours gets a slot before its first byte, a backend's end of a connection
//! of ours gets one too, and the handshake's times are kept.

use core::ffi::c_void;

use abi::{
    FLAG_PAIRED, FLAG_PEER_NO_SLOT, FLAG_SOUGHT, NO_SLOT, Pair, ROLE_BACKEND, ROLE_CLIENT, ROLE_LISTENER,
    ROLE_UPSTREAM, Slot, Tag, counter,
};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;

use crate::maps::{self, RCV_NXT_OFFSET, SND_NXT_OFFSET, SRTT_OFFSET, TOTAL_RETRANS_OFFSET};

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
    let (old_state, new_state): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let Some(tag) = maps::tag(sk) else {
        maps::count(counter::STATE_MISSES);
        if old_state == TCP_SYN_RECV && new_state == TCP_ESTABLISHED && maps::seeks_backends() {
            pair(sk);
        }
        return 0;
    };
    maps::count(counter::STATE_HITS);
    match new_state {
        TCP_SYN_RECV if tag.role == ROLE_LISTENER => adopt(&ctx, tag),
        TCP_SYN_SENT => {
            if let Some(slot) = maps::slot(tag) {
                // SAFETY: a live map value of this socket's; the socket's lock is held.
                unsafe { (*slot).handshake_ns = maps::now_ns() };
            }
        }
        TCP_ESTABLISHED => {
            if let Some(slot) = maps::slot(tag) {
                established(sk, tag, slot);
            }
        }
        _ => {}
    }
    0
}

/// The handshake is over: its times, and for a connection to a backend what its other end will be known by.
#[inline(always)]
fn established(sk: *mut c_void, tag: &Tag, slot: *mut Slot) {
    // SAFETY: a live map value of this socket's; the socket's lock is held.
    unsafe { (*slot).established_ns = maps::now_ns() };
    let Some(tcp) = maps::tcp(sk) else { return };
    // SAFETY: as above.
    unsafe { (*slot).handshake_rtt_us = tcp.u32(&SRTT_OFFSET) >> 3 };
    let (sent, received) = (tcp.u32(&SND_NXT_OFFSET), tcp.u32(&RCV_NXT_OFFSET));
    if tag.role == ROLE_UPSTREAM {
        if maps::seeks_backends() {
            let pair = Pair { generation: tag.generation, slot: tag.slot, reserved: 0 };
            // Our last ACK leaves after this, so the other end cannot be established before.
            if maps::PAIRS.insert(&key(sent, received), &pair, 0).is_ok() {
                // SAFETY: as above.
                unsafe { (*slot).flags |= FLAG_SOUGHT };
            }
        }
    } else if tcp.u32(&TOTAL_RETRANS_OFFSET) != 0 {
        let handshake = key(sent, received);
        // SAFETY: a live map value, read once.
        if let Some(first_ns) = unsafe { maps::SYNACKS.get(&handshake) } {
            // SAFETY: as above.
            unsafe { (*slot).synack_resent_ns = *first_ns };
            let _ = maps::SYNACKS.remove(&handshake);
        }
    }
}

/// A foreign socket has accepted a handshake: if the other end is ours, it is a backend's, and gets a slot as well.
#[inline(always)]
fn pair(sk: *mut c_void) {
    let Some(tcp) = maps::tcp(sk) else { return };
    let handshake = key(tcp.u32(&RCV_NXT_OFFSET), tcp.u32(&SND_NXT_OFFSET));
    // SAFETY: a live map value, copied at once.
    let Some(pair) = (unsafe { maps::PAIRS.get(&handshake).copied() }) else { return };
    let _ = maps::PAIRS.remove(&handshake);
    let Some(ours) = maps::slot(&Tag { generation: pair.generation, slot: pair.slot, role: ROLE_UPSTREAM }) else {
        return;
    };
    let now_ns = maps::now_ns();
    let Some((index, slot)) = maps::take_slot(now_ns) else {
        maps::count(counter::PEER_NO_SLOT);
        // SAFETY: a live map value. Only this program writes its flags.
        unsafe { (*ours).flags |= FLAG_PEER_NO_SLOT };
        return;
    };
    // SAFETY: a live map value that nobody else holds yet.
    let generation = unsafe {
        (*slot).established_ns = now_ns;
        (*slot).generation
    };
    if !maps::set_tag(sk, Tag { generation, slot: index, role: ROLE_BACKEND }) {
        maps::give_back(abi::Free { freed_ns: now_ns, slot: index, reserved: 0 });
        // SAFETY: as above: it is here, and cannot be told of.
        unsafe { (*ours).flags |= FLAG_PEER_NO_SLOT };
        return;
    }
    maps::count(counter::PAIRED);
    // SAFETY: live map values. The flag goes last: whoever sees it sees the peer.
    unsafe {
        (*ours).peer_generation = generation;
        (*ours).peer_slot = index;
        core::ptr::write_volatile(&raw mut (*ours).flags, (*ours).flags | FLAG_PAIRED);
    }
}

/// What both ends of a handshake know of it: the next numbers of the opener and of its peer.
#[inline(always)]
pub fn key(opener: u32, peer: u32) -> u64 {
    (u64::from(opener) << 32) | u64::from(peer)
}

/// The tag is the child's own copy of its listener's: it becomes a client's, with a slot where one is free.
#[inline(always)]
fn adopt(ctx: &BtfTracePointContext, tag: &mut Tag) {
    let now_ns = maps::now_ns();
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
