//! The other end of our connections to backends on this node: when the backend has read, and when it began to write.
//! Their sockets got a slot when they were established, see `set_state`; all others leave after one look-up.

use core::ffi::c_void;
use core::ptr;

use abi::{Mark, ROLE_BACKEND, Trail, counter};
use aya_ebpf::macros::{btf_tracepoint, fentry};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext};

use crate::maps::{self, BYTES_RECEIVED_OFFSET, COPIED_SEQ_OFFSET, RCV_NXT_OFFSET, Tcp, WRITE_SEQ_OFFSET};

// include/trace/events/tcp.h, v6.12: tcp_rcv_space_adjust(struct sock *sk). Once for each segment copied inside a read, with
// the socket's lock held, after `copied_seq` moved.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn tcp_rcv_space_adjust(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut c_void = ctx.arg(0);
    let Some((trail, tcp)) = backend(sk, counter::READ_HITS, counter::READ_MISSES) else { return 0 };
    let unread = tcp.u32(&RCV_NXT_OFFSET).wrapping_sub(tcp.u32(&COPIED_SEQ_OFFSET));
    let end = tcp.u64(&BYTES_RECEIVED_OFFSET).wrapping_sub(u64::from(unread));
    // SAFETY: a live map value of this socket's; the lock is held. A read that only peeked has moved nothing.
    unsafe {
        if end > (*trail).taken_end {
            let mark = Mark { end, at_ns: maps::now_ns() };
            maps::push(&raw mut (*trail).taken_head, (&raw mut (*trail).taken).cast(), mark);
            ptr::write_volatile(&raw mut (*trail).taken_end, end);
        }
    }
    0
}

// include/trace/events/tcp.h, v6.16: tcp_sendmsg_locked(const struct sock *sk, const struct msghdr *msg,
// const struct sk_buff *skb, int size_goal). Once for each segment filled inside a write, with the socket's lock held,
// before its bytes are copied.
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn tcp_sendmsg_locked(ctx: BtfTracePointContext) -> i32 {
    begins_to_send(ctx.arg(0))
}

// net/ipv4/tcp.c, v6.12: tcp_sendmsg_locked(struct sock *sk, struct msghdr *msg, size_t size). Once for each write.
#[fentry(function = "tcp_sendmsg_locked")]
pub fn enter_tcp_sendmsg_locked(ctx: FEntryContext) -> i32 {
    begins_to_send(ctx.arg(0))
}

#[inline(always)]
fn begins_to_send(sk: *mut c_void) -> i32 {
    let Some((trail, tcp)) = backend(sk, counter::SEND_HITS, counter::SEND_MISSES) else { return 0 };
    sent(trail, tcp.sent_offset(tcp.u32(&WRITE_SEQ_OFFSET), ROLE_BACKEND));
    0
}

// include/trace/events/sock.h, v6.12: sock_send_length(struct sock *sk, int ret, int flags). Once for each write, when it
// returns: the bytes may have been read at the other end by then.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let (sk, written): (*mut c_void, i32) = (ctx.arg(0), ctx.arg(1));
    let Some((trail, tcp)) = backend(sk, counter::SEND_HITS, counter::SEND_MISSES) else { return 0 };
    if written > 0 {
        let start = tcp.u32(&WRITE_SEQ_OFFSET).wrapping_sub(written as u32);
        sent(trail, tcp.sent_offset(start, ROLE_BACKEND));
    }
    0
}

/// What is kept of a backend's socket of ours.
#[inline(always)]
fn backend(sk: *mut c_void, hits: u32, misses: u32) -> Option<(*mut Trail, Tcp)> {
    let Some(tag) = maps::tag(sk).filter(|tag| tag.role == ROLE_BACKEND) else {
        maps::count(misses);
        return None;
    };
    maps::count(hits);
    maps::slot(tag)?;
    Some((maps::trail(tag.slot)?, maps::tcp(sk)?))
}

/// A write of the backend begins at this offset.
#[inline(always)]
fn sent(trail: *mut Trail, start: u64) {
    // SAFETY: a live map value of this socket's.
    unsafe {
        let at_ns = maps::now_ns();
        maps::push(&raw mut (*trail).sent_head, (&raw mut (*trail).sent).cast(), Mark { end: start, at_ns });
        let taken_end = (*trail).taken_end;
        if taken_end != (*trail).turn_taken_end {
            let turn = &raw mut (*trail).turn;
            // As with the latch: a time of 0 while it changes.
            ptr::write_volatile(&raw mut (*turn).at_ns, 0);
            ptr::write_volatile(&raw mut (*turn).end, start);
            ptr::write_volatile(&raw mut (*turn).at_ns, at_ns);
            ptr::write_volatile(&raw mut (*trail).turn_taken_end, taken_end);
        }
    }
}
