//! What came in on our own connections: what a client has acknowledged and what had left for it by then, and how long the
//! other end's window was shut.

use core::ffi::c_void;
use core::ptr;

use abi::{
    HEARD, HEARD_WAITING, Mark, NEWEST, NO_OFFSET, ROLE_CLIENT, ROLE_UPSTREAM, STALLS, Stall, Tag, Trail, counter,
};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{
    self, MSS_OFFSET, SENT_CLOCK_OFFSET, SKB_ACK_SEQ_OFFSET, SKB_END_SEQ_OFFSET, SKB_SEQ_OFFSET, SND_NXT_OFFSET,
    SND_UNA_OFFSET, SND_WND_OFFSET, Tcp, WRITE_SEQ_OFFSET,
};

// include/trace/events/tcp.h, v6.12: tcp_probe(struct sock *sk, const struct sk_buff *skb). Each segment that arrives in
// ESTABLISHED, before it is processed: `snd_una` and `snd_wnd` are the old ones.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (*mut c_void, *const u8) = (ctx.arg(0), ctx.arg(1));
    let is_ours = |tag: &&mut Tag| tag.role == ROLE_CLIENT || tag.role == ROLE_UPSTREAM;
    let Some(tag) = maps::tag(sk).filter(is_ours) else {
        maps::count(counter::ACK_MISSES);
        return 0;
    };
    maps::count(counter::ACK_HITS);
    let Some(slot) = maps::slot(tag) else { return 0 };
    let (Some(trail), Some(tcp)) = (maps::trail(tag.slot), maps::tcp(sk)) else { return 0 };
    // SAFETY: a live map value of this socket's; its lock is held.
    unsafe { maps::keep_round_trip(slot, tcp) };
    // SAFETY: `skb` is the tracepoint's trusted argument, and the offsets are those of u32s in its `cb`.
    let (seq, end_seq, ack) = unsafe {
        let word = |offset: u64| *skb.add(offset as usize).cast::<u32>();
        (word(SKB_SEQ_OFFSET.load()), word(SKB_END_SEQ_OFFSET.load()), word(SKB_ACK_SEQ_OFFSET.load()))
    };
    stalled(trail, tcp, tag.role);
    if tag.role == ROLE_CLIENT {
        heard(trail, tcp, ack);
    } else if end_seq != seq {
        // An answer: what is written from now on is of another request.
        let written = tcp.sent_offset(tcp.u32(&WRITE_SEQ_OFFSET), tag.role);
        // SAFETY: a live map value of this socket's; its lock is held.
        unsafe { ptr::write_volatile(&raw mut (*trail).message_start, written) };
    }
    0
}

/// Only what comes in changes the window: where it has no room for the next segment that waits, it had none since what came in
/// before, or since the last segment that left and used it up. A window that is too small for a whole segment is as good as
/// shut: the sender waits for more. Shut altogether, it keeps back what has left too: a receiver without memory has dropped
/// that. What waits since a time that is not known counts from now on.
#[inline(always)]
fn stalled(trail: *mut Trail, tcp: Tcp, role: u32) {
    const MASK: u64 = STALLS as u64 - 1;
    let (first, next) = (tcp.u32(&SND_UNA_OFFSET), tcp.u32(&SND_NXT_OFFSET));
    let (window, end) = (tcp.u32(&SND_WND_OFFSET), tcp.u32(&WRITE_SEQ_OFFSET));
    let (unsent, mss) = (end.wrapping_sub(next), tcp.u32(&MSS_OFFSET));
    let wanted = if unsent < mss { unsent } else { mss } as i32;
    let room = first.wrapping_add(window).wrapping_sub(next) as i32;
    let is_shut = window == 0 && end != first;
    let waits = if is_shut { first } else { next };
    let is_stalled = is_shut || (wanted > 0 && room < wanted);
    // SAFETY: a live map value of this socket's; its lock is held. Masked indices are inside the ring.
    unsafe {
        let (heard_ns, heard) = ((*trail).heard_ns, (*trail).heard);
        if !is_stalled && unsent == 0 {
            (*trail).heard = u64::from(next) | HEARD;
            return;
        }
        // Not `tcp_clock_cache`: that is refreshed after this tracepoint, and tells when we sent last.
        let at_ns = maps::now_ns();
        (*trail).heard = u64::from(next) | HEARD | HEARD_WAITING;
        (*trail).heard_ns = at_ns;
        if !is_stalled {
            return;
        }
        let since_ns = if heard & HEARD == 0 {
            at_ns
        } else if heard as u32 != next {
            tcp.u64(&SENT_CLOCK_OFFSET)
        } else if heard & HEARD_WAITING != 0 {
            // Nothing has left since, and the window is what was heard then.
            heard_ns
        } else {
            at_ns
        };
        // Before that nobody listened: who knows what came in. Of a paced socket it is when the next segment may leave.
        if since_ns <= maps::ack_since_ns() || since_ns >= at_ns {
            return;
        }
        let lasted_ns = at_ns - since_ns;
        let start = tcp.sent_offset(waits, role);
        let count = ptr::read_volatile(&raw const (*trail).stall_count);
        let stalls = (&raw mut (*trail).stalls).cast::<Stall>();
        let newest = stalls.add(((count >> NEWEST) & MASK) as usize);
        let (message, last) = (ptr::read_volatile(&raw const (*trail).message_start), (*trail).stall_last);
        let is_of_one = message <= last && message <= start;
        // Whoever began to wait meanwhile has waited since then.
        let is_same = start == last && since_ns == (*newest).until_ns;
        (*trail).stall_last = start;
        if count != 0 && (is_of_one || is_same) {
            ptr::write_volatile(&raw mut (*newest).until_ns, at_ns);
            ptr::write_volatile(&raw mut (*newest).lasted_ns, (*newest).lasted_ns.wrapping_add(lasted_ns));
        } else {
            let since_ns = ptr::read_volatile(&raw const (*trail).turn.at_ns);
            let (place, used) = place_for_another(stalls, u64::from(count as u32), at_ns, since_ns);
            let entry = stalls.add((place & MASK) as usize);
            ptr::write_volatile(&raw mut (*entry).first, NO_OFFSET);
            ptr::write_volatile(&raw mut (*entry).until_ns, at_ns);
            ptr::write_volatile(&raw mut (*entry).lasted_ns, lasted_ns);
            ptr::write_volatile(&raw mut (*entry).first, start);
            ptr::write_volatile(&raw mut (*trail).stall_count, (place << NEWEST) | used);
        }
    }
}

/// Where a new entry goes, and how many are in use then: what holds many responses back in turns has short ones between long ones.
/// Nothing is under way that began before `since_ns`.
///
/// # Safety
/// `stalls` is inside a live map value, and the socket's lock is held.
#[inline(always)]
unsafe fn place_for_another(stalls: *const Stall, count: u64, at_ns: u64, since_ns: u64) -> (u64, u64) {
    if count < STALLS as u64 {
        return (count, count + 1);
    }
    let (mut place, mut least_ns) = (0, u64::MAX);
    for index in 0..STALLS {
        // SAFETY: by this function's contract.
        let kept_ns = unsafe { *stalls.add(index) }.kept_ns(at_ns, since_ns);
        if kept_ns < least_ns {
            (place, least_ns) = (index as u64, kept_ns);
        }
    }
    (place, count)
}

/// What the client has taken, and whether something waited to leave: what came in may have let it, be it an acknowledgement or a
/// window without one.
#[inline(always)]
fn heard(trail: *mut Trail, tcp: Tcp, ack: u32) {
    let (first, next) = (tcp.u32(&SND_UNA_OFFSET), tcp.u32(&SND_NXT_OFFSET));
    let ahead = ack.wrapping_sub(first) as i32;
    // Old acknowledgements, and those of bytes never sent, tell nothing.
    let is_news = ahead > 0 && ahead <= next.wrapping_sub(first) as i32;
    let waits = tcp.u32(&WRITE_SEQ_OFFSET) != next;
    if !is_news && !waits {
        return;
    }
    let at_ns = maps::now_ns();
    // SAFETY: a live map value of this socket's; its lock is held.
    unsafe {
        if waits {
            let left = Mark { end: tcp.sent_offset(next, ROLE_CLIENT), at_ns };
            maps::push(&raw mut (*trail).sent_head, (&raw mut (*trail).sent).cast(), left);
        }
        if is_news {
            // More was acknowledged before than was seen, since the kernel left out a run: nobody knows when that was.
            let before = tcp.sent_offset(first, ROLE_CLIENT);
            if before > (*trail).taken_end {
                let unseen = Mark { end: before, at_ns: 0 };
                maps::push(&raw mut (*trail).taken_head, (&raw mut (*trail).taken).cast(), unseen);
            }
            let taken = Mark { end: tcp.sent_offset(ack, ROLE_CLIENT), at_ns };
            maps::push(&raw mut (*trail).taken_head, (&raw mut (*trail).taken).cast(), taken);
            ptr::write_volatile(&raw mut (*trail).taken_end, taken.end);
        }
    }
}
