//! The slots that the kernel writes and workers read without a system call: the mapping, and the pure reader that turns
//! one slot's words into [`Marks`], and its trail's into what a backend or client did. Which slot belongs to whom is
//! decided elsewhere.
#![expect(unsafe_code, reason = "the mapping is memory that the kernel writes")]

#[cfg(test)]
mod kernel;
#[cfg(test)]
mod written;

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use abi::{MARKS, RESENT, STALLS, Slot, Trail};
#[cfg(test)]
use rustix::mm::mmap_anonymous;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Marks, Missing};

#[cfg(test)]
pub(crate) use self::kernel::Kernel;
#[cfg(test)]
pub(crate) use self::written::Written;
use crate::merge::late::RoundTrip;

const RING: u64 = MARKS as u64;

/// [`abi::Slot`] as shared memory has it: every word an atomic. Any content is lawful.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct SharedSlot {
    generation: AtomicU64,
    rx_head: AtomicU64,
    arm_offset: AtomicU64,
    latch: SharedLatch,
    established_ns: AtomicU64,
    srtt_us: AtomicU32,
    rttvar_us: AtomicU32,
    rx: [SharedMark; MARKS],
    handshake_ns: AtomicU64,
    synack_resent_ns: AtomicU64,
    unaccepted_end: AtomicU64,
    peer_generation: AtomicU64,
    peer_slot: AtomicU32,
    flags: AtomicU32,
    handshake_rtt_us: AtomicU32,
    reserved: [AtomicU32; 3],
}

/// [`abi::Trail`] likewise.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct SharedTrail {
    taken_head: AtomicU64,
    sent_head: AtomicU64,
    resent_head: AtomicU64,
    taken_end: AtomicU64,
    turn: SharedMark,
    turn_taken_end: AtomicU64,
    heard_ns: AtomicU64,
    taken: [SharedMark; MARKS],
    sent: [SharedMark; MARKS],
    resent: [SharedResent; RESENT],
    stalls: [SharedStall; STALLS],
    stall_count: AtomicU64,
    stall_last: AtomicU64,
    heard: AtomicU64,
    message_start: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct SharedLatch {
    end: AtomicU64,
    at_ns: AtomicU64,
    previous_end: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct SharedMark {
    end: AtomicU64,
    at_ns: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct SharedResent {
    start: AtomicU64,
    end: AtomicU64,
    count: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct SharedStall {
    first: AtomicU64,
    lasted_ns: AtomicU64,
    until_ns: AtomicU64,
}

/// The two definitions of one layout are one: each field lies where the kernel writes it.
const _: () = {
    use std::mem::offset_of;
    macro_rules! same {
        ($ours:ty, $theirs:ty: $($field:ident $(. $inner:ident)?),*) => {
            assert!(size_of::<$ours>() == size_of::<$theirs>());
            $(assert!(offset_of!($ours, $field $(. $inner)?) == offset_of!($theirs, $field $(. $inner)?));)*
        };
    }
    same!(SharedSlot, Slot: generation, rx_head, arm_offset, latch.end, latch.at_ns, latch.previous_end, established_ns,
        srtt_us, rttvar_us, rx, handshake_ns, synack_resent_ns, unaccepted_end, peer_generation, peer_slot, flags,
        handshake_rtt_us, reserved);
    same!(SharedTrail, Trail: taken_head, sent_head, resent_head, taken_end, turn.end, turn.at_ns, turn_taken_end,
        heard_ns, taken, sent, resent, stalls, stall_count, stall_last, heard, message_start);
    same!(SharedMark, abi::Mark: end, at_ns);
    same!(SharedResent, abi::Resent: start, end, count);
    same!(SharedStall, abi::Stall: first, lasted_ns, until_ns);
};

/// A ring of marks and its head, as somebody else writes them.
#[derive(Clone, Copy)]
struct Ring<'a> {
    head: &'a AtomicU64,
    marks: &'a [SharedMark; MARKS],
}

/// What a search of a ring came to.
struct Found {
    mark: Option<(u64, MonoNs)>,
    /// The mark before it is at hand too, or it is the connection's first.
    before_known: bool,
    /// Nothing of what was looked at was written meanwhile.
    whole: bool,
}

impl Ring<'_> {
    /// From the newest mark back to the first that `is_before`: the one after it, if any.
    fn search(self, is_before: impl Fn(u64) -> bool) -> Found {
        let head = self.head.load(Ordering::Acquire);
        let oldest = head.saturating_sub(RING);
        let mut found = None;
        let mut before_known = oldest == 0;
        let mut lowest = head;
        for sequence in (oldest..head).rev() {
            let Some(mark) = self.marks.get(usize::try_from(sequence % RING).unwrap_or_default()) else { break };
            let (end, at_ns) = (mark.end.load(Ordering::Relaxed), mark.at_ns.load(Ordering::Relaxed));
            lowest = sequence;
            if is_before(end) {
                before_known = true;
                break;
            }
            found = Some((end, MonoNs(at_ns)));
        }
        fence(Ordering::Acquire);
        // The kernel may be writing the entry that it has not published yet, so one less than the ring is whole.
        let whole = self.head.load(Ordering::Relaxed).wrapping_sub(lowest) < RING;
        Found { mark: found, before_known, whole }
    }

    /// When the first mark beyond this offset was made. One without a time stands for what nobody saw.
    fn beyond(self, offset: u64) -> Result<MonoNs, Missing> {
        let found = self.search(|end| end <= offset);
        match found.mark {
            None | Some((_, MonoNs::UNKNOWN)) if found.whole => Err(Missing::UNSEEN),
            Some((_, at)) if found.before_known && found.whole => Ok(at),
            _ => Err(Missing::OVERWRITTEN),
        }
    }

    /// When the oldest mark was made that nobody is writing over, if it is beyond this offset.
    fn oldest_beyond(self, offset: u64) -> Option<MonoNs> {
        let head = self.head.load(Ordering::Acquire);
        let sequence = head.saturating_sub(RING - 1);
        let mark = self.marks.get(usize::try_from(sequence % RING).ok()?)?;
        let (end, at_ns) = (mark.end.load(Ordering::Relaxed), mark.at_ns.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = self.head.load(Ordering::Relaxed).wrapping_sub(sequence) < RING;
        (whole && head != 0 && end > offset).then_some(MonoNs(at_ns))
    }

    /// The newest mark at or before this offset, for marks that tell where something began; and whether none came behind it.
    fn since(self, offset: u64) -> Result<(u64, MonoNs, bool), Missing> {
        let head = self.head.load(Ordering::Acquire);
        let oldest = head.saturating_sub(RING);
        for sequence in (oldest..head).rev() {
            let Some(mark) = self.marks.get(usize::try_from(sequence % RING).unwrap_or_default()) else { break };
            let (start, at_ns) = (mark.end.load(Ordering::Relaxed), mark.at_ns.load(Ordering::Relaxed));
            if start <= offset {
                fence(Ordering::Acquire);
                let whole = self.head.load(Ordering::Relaxed).wrapping_sub(sequence) < RING;
                let found = (start, MonoNs(at_ns), sequence + 1 == head);
                return if whole { Ok(found) } else { Err(Missing::OVERWRITTEN) };
            }
        }
        Err(if oldest == 0 { Missing::UNSEEN } else { Missing::OVERWRITTEN })
    }
}

/// Where the backend's own socket of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Not on this node, or not told.
    Elsewhere,
    /// Nobody looked when the connection was made.
    NotSought,
    /// It is here, but had no slot.
    NoSlot,
    /// In this slot.
    At { slot: u32, generation: u64 },
}

/// What is known of a connection's handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handshake {
    pub(super) established: MonoNs,
    pub(super) rtt_us: u32,
    pub(super) synack_resent: MonoNs,
}

impl SharedSlot {
    /// What this use of the slot knows of these bytes; see `SocketObserver::marks`. Arms the latch for the byte behind
    /// them. Marks of connections established before `since` have gaps.
    pub(super) fn marks(&self, generation: u64, bytes: &Range<u64>, since: MonoNs) -> Marks {
        if self.generation.load(Ordering::Acquire) != generation {
            return Marks { missing: Missing::REUSED, ..Marks::default() };
        }
        let mut marks = Marks {
            established: MonoNs(self.established_ns.load(Ordering::Relaxed)),
            srtt_us: self.srtt_us.load(Ordering::Relaxed),
            rttvar_us: self.rttvar_us.load(Ordering::Relaxed),
            ..Marks::default()
        };
        if marks.established < since {
            marks.missing = Missing::JOINED_LATE;
        } else if bytes.start < bytes.end {
            let first = self.readable_at(bytes.start);
            let last = if bytes.end - bytes.start == 1 { first } else { self.readable_at(bytes.end - 1) };
            marks.first = first.unwrap_or_default();
            if first == Err(Missing::OVERWRITTEN) {
                marks.first_by = self.readable_by(bytes.start);
            }
            marks.last = last.unwrap_or_default();
            marks.missing = first.err().unwrap_or_default().with(last.err().unwrap_or_default());
        }
        if !self.is_still(generation) {
            return Marks { missing: Missing::REUSED, ..Marks::default() };
        }
        if self.arm_offset.load(Ordering::Relaxed) < bytes.end {
            self.arm_offset.store(bytes.end, Ordering::Relaxed);
        }
        marks
    }

    /// Whether all that was read before belongs to this use.
    pub(super) fn is_still(&self, generation: u64) -> bool {
        fence(Ordering::Acquire);
        self.generation.load(Ordering::Relaxed) == generation
    }

    pub(super) fn established(&self) -> MonoNs {
        MonoNs(self.established_ns.load(Ordering::Relaxed))
    }

    /// When the byte at this offset became readable: the first mark whose end is beyond it. That mark is known to be
    /// the first only if the one before is at hand too, or if it is the very first of the connection.
    pub(super) fn readable_at(&self, offset: u64) -> Result<MonoNs, Missing> {
        match (Ring { head: &self.rx_head, marks: &self.rx }).beyond(offset) {
            Err(Missing::OVERWRITTEN) => self.latched_at(offset).ok_or(Missing::OVERWRITTEN),
            known => known,
        }
    }

    /// The same from the latch, which holds the end of the mark before it.
    fn latched_at(&self, offset: u64) -> Option<MonoNs> {
        self.latched().filter(|(bytes, _)| bytes.contains(&offset)).map(|(_, at)| at)
    }

    /// By when the byte at this offset was readable for certain, where its own mark is lost: marks came before the latch was armed,
    /// and it has one of them, or none came since.
    fn readable_by(&self, offset: u64) -> MonoNs {
        let latched = self.latched().filter(|(bytes, _)| bytes.end > offset).map(|(_, at)| at);
        let ring = Ring { head: &self.rx_head, marks: &self.rx };
        latched.or_else(|| ring.oldest_beyond(offset)).unwrap_or(MonoNs::UNKNOWN)
    }

    /// The latch, and which bytes it is known to have made readable.
    fn latched(&self) -> Option<(Range<u64>, MonoNs)> {
        let at_ns = self.latch.at_ns.load(Ordering::Acquire);
        let bytes = self.latch.previous_end.load(Ordering::Relaxed)..self.latch.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let unchanged = self.latch.at_ns.load(Ordering::Relaxed) == at_ns && at_ns != 0;
        unchanged.then_some((bytes, MonoNs(at_ns)))
    }

    /// Whether the byte at this offset was readable before the connection was accepted (a backend's only).
    pub(super) fn was_unaccepted(&self, offset: u64) -> bool {
        offset < self.unaccepted_end.load(Ordering::Relaxed)
    }

    /// The other end of a connection to a backend.
    pub(super) fn peer(&self) -> Peer {
        let flags = self.flags.load(Ordering::Acquire);
        if flags & abi::FLAG_PAIRED != 0 {
            let (slot, generation) = (&self.peer_slot, &self.peer_generation);
            Peer::At { slot: slot.load(Ordering::Relaxed), generation: generation.load(Ordering::Relaxed) }
        } else if flags & abi::FLAG_PEER_NO_SLOT != 0 {
            Peer::NoSlot
        } else if flags & abi::FLAG_SOUGHT != 0 {
            Peer::Elsewhere
        } else {
            Peer::NotSought
        }
    }

    /// As the kernel has it at the newest segment that was seen.
    pub(super) fn round_trip(&self) -> RoundTrip {
        RoundTrip {
            smoothed_us: self.srtt_us.load(Ordering::Relaxed),
            deviation_us: self.rttvar_us.load(Ordering::Relaxed),
        }
    }

    pub(super) fn handshake(&self) -> Handshake {
        Handshake {
            established: self.established(),
            rtt_us: self.handshake_rtt_us.load(Ordering::Relaxed),
            synack_resent: MonoNs(self.synack_resent_ns.load(Ordering::Relaxed)),
        }
    }

    /// Clears the slot for a new use by a socket that is not connected yet, and says which use it is.
    pub(super) fn begin(&self) -> u64 {
        // Only who has taken the slot from the queue writes this. It moves on first: whoever read what is cleared below sees that.
        let generation = self.generation.load(Ordering::Acquire).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        fence(Ordering::Release);
        let words = [&self.rx_head, &self.arm_offset, &self.established_ns, &self.handshake_ns, &self.synack_resent_ns];
        for word in words.into_iter().chain([&self.unaccepted_end]) {
            word.store(0, Ordering::Relaxed);
        }
        for word in [&self.latch.at_ns, &self.latch.end, &self.latch.previous_end] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [&self.srtt_us, &self.rttvar_us, &self.flags, &self.handshake_rtt_us] {
            word.store(0, Ordering::Relaxed);
        }
        generation
    }
}

impl SharedTrail {
    /// When the byte at this offset was taken: read by a backend, acknowledged by a client.
    pub(super) fn taken_at(&self, offset: u64) -> Result<MonoNs, Missing> {
        (Ring { head: &self.taken_head, marks: &self.taken }).beyond(offset)
    }

    /// When the backend wrote the byte at this offset. The turn's first write is kept however many followed. Where writes are noted
    /// late, that of the byte may not be noted yet: the newest is known to be it only if it begins with the byte.
    pub(super) fn sent_at(&self, offset: u64, is_noted_late: bool) -> Result<MonoNs, Missing> {
        let at_ns = self.turn.at_ns.load(Ordering::Acquire);
        let start = self.turn.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if start == offset && at_ns != 0 && self.turn.at_ns.load(Ordering::Relaxed) == at_ns {
            return Ok(MonoNs(at_ns));
        }
        let (start, at, is_newest) = (Ring { head: &self.sent_head, marks: &self.sent }).since(offset)?;
        if is_noted_late && is_newest && start != offset { Err(Missing::UNSEEN) } else { Ok(at) }
    }

    /// When what came from the client let the byte at this offset leave, if it had to wait for that: the newest segment at which it
    /// had not left. `None` if every one at hand found it gone already.
    pub(super) fn held_until(&self, offset: u64, ended: MonoNs) -> Option<MonoNs> {
        let head = self.sent_head.load(Ordering::Acquire);
        let newest_first = (head.saturating_sub(RING - 1)..head).rev();
        let marks = newest_first.filter_map(|sequence| self.sent.get(usize::try_from(sequence % RING).ok()?));
        let held = marks
            .map(|mark| (mark.end.load(Ordering::Relaxed), MonoNs(mark.at_ns.load(Ordering::Relaxed))))
            .take_while(|(_, at)| *at >= ended)
            .find(|(left_end, _)| *left_end <= offset)
            .map(|(_, at)| at);
        fence(Ordering::Acquire);
        held.filter(|_| self.sent_head.load(Ordering::Relaxed).wrapping_sub(head) <= 1)
    }

    /// How many times segments with bytes of this range were sent again; at least so often where more different ones came than
    /// are kept, or one is being noted in another's place.
    pub(super) fn resent(&self, bytes: &Range<u64>) -> u32 {
        let kept = u64::try_from(RESENT).unwrap_or_default();
        let head = self.resent_head.load(Ordering::Acquire);
        let sum = (head.saturating_sub(kept)..head).fold(0_u64, |sum, sequence| {
            let Some(resent) = usize::try_from(sequence).ok().and_then(|at| self.resent.get(at % RESENT)) else {
                return sum;
            };
            let before = resent.count.load(Ordering::Acquire);
            let (start, end) = (resent.start.load(Ordering::Relaxed), resent.end.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            let count = resent.count.load(Ordering::Relaxed);
            // 0 while its place is being given to another; and then, until the head has moved, one more is noted there.
            let stays = before != 0 && count != 0 && self.resent_head.load(Ordering::Relaxed) <= sequence + kept;
            if stays && start.max(bytes.start) < end.min(bytes.end) { sum.saturating_add(count) } else { sum }
        });
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    /// For how many nanoseconds bytes of this range, which began to be written at `begun`, waited for the other end's window, whoever
    /// else did; at least so many where more times are told apart than are kept, of which the longest are.
    pub(super) fn stalled_ns(&self, bytes: &Range<u64>, begun: MonoNs) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let count = self.stall_count.load(Ordering::Acquire) & ((1 << abi::NEWEST) - 1);
        let used = self.stalls.iter().take(usize::try_from(count).unwrap_or(usize::MAX));
        used.filter_map(SharedStall::read)
            // What was over before the range began is another's, and what began behind it too.
            .filter(|stall| stall.first < bytes.end)
            .fold(0, |sum, stall| sum.saturating_add(stall.lasted_ns.min(MonoNs(stall.until_ns).since(begun))))
    }

    /// Nothing that is sent now, or later, began before then.
    pub(super) fn nothing_before(&self, since: MonoNs) {
        self.turn.at_ns.store(since.0, Ordering::Relaxed);
    }

    /// What is sent from this offset on is of another message.
    pub(super) fn message_starts(&self, offset: u64) {
        self.message_start.store(offset, Ordering::Relaxed);
    }

    /// Clears the trail for a new use.
    pub(super) fn begin(&self) {
        let words = [&self.taken_head, &self.sent_head, &self.resent_head, &self.taken_end, &self.turn_taken_end];
        let words = words.into_iter().chain([&self.turn.at_ns, &self.turn.end]);
        let words =
            words.chain([&self.heard_ns, &self.heard, &self.stall_count, &self.stall_last, &self.message_start]);
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl SharedStall {
    /// A whole one: the kernel may be writing another in its place.
    fn read(&self) -> Option<abi::Stall> {
        let first = self.first.load(Ordering::Acquire);
        // In this order: the kernel prolongs one in the other.
        let lasted_ns = self.lasted_ns.load(Ordering::Acquire);
        let until_ns = self.until_ns.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_whole = first != abi::NO_OFFSET && self.first.load(Ordering::Relaxed) == first;
        is_whole.then_some(abi::Stall { first, lasted_ns, until_ns })
    }
}

/// The memory of an array map, one `T` an element. It lives as long as this, also when the programs are gone.
#[derive(Debug)]
pub(super) struct Shared<T> {
    base: NonNull<T>,
    count: usize,
}

// SAFETY: the mapping is not tied to a thread, and holds atomics only (see `map`).
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

/// What [`Shared`] may hold: atomics only, so that any content is lawful.
pub(super) trait Words: Sync {}
impl Words for SharedSlot {}
impl Words for SharedTrail {}

impl<T: Words> Shared<T> {
    /// Maps the array.
    ///
    /// # Errors
    /// What mmap says.
    pub(super) fn map(array: impl AsFd, count: u32) -> io::Result<Self> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let len = Self::len(count);
        // SAFETY: a new mapping at an address of the kernel's choice; array elements are `size_of::<T>()` apart, which
        // is a multiple of 8.
        let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, array.as_fd(), 0)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Self { base, count })
    }

    /// The same of memory that nobody else has.
    #[cfg(test)]
    fn anonymous(count: u32) -> io::Result<Self> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of zeros.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), Self::len(count), protection, MapFlags::PRIVATE)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Self { base, count })
    }

    /// The element with this index.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let index = usize::try_from(index).ok().filter(|index| *index < self.count)?;
        // SAFETY: the index is inside the mapping, which lives as long as `self`; any content is a lawful `T`.
        Some(unsafe { self.base.add(index).as_ref() })
    }
}

impl<T> Shared<T> {
    fn len(count: usize) -> usize {
        count.saturating_mul(size_of::<T>())
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), Self::len(self.count)) } {
            tracing::error!(target: "wayspan::probes", %error, "slots could not be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::kernel::record;
    use super::*;

    /// Marks at these ends, each at `1000 + end`.
    fn slot(ends: &[u64]) -> SharedSlot {
        let slot = SharedSlot::default();
        ends.iter().for_each(|end| record(&slot, *end, 1000 + end));
        slot
    }

    fn check(slot: &SharedSlot, bytes: Range<u64>, first: u64, last: u64, missing: Missing) {
        let marks = slot.marks(0, &bytes, MonoNs(0));
        assert_eq!((marks.first.0, marks.last.0, marks.missing), (first, last, missing), "{bytes:?} of {slot:?}");
    }

    #[test]
    fn a_byte_has_the_time_of_the_first_mark_beyond_it() {
        let slot = slot(&[1, 40, 100]);
        check(&slot, 0..1, 1001, 1001, Missing::NOTHING);
        check(&slot, 0..40, 1001, 1040, Missing::NOTHING);
        check(&slot, 1..2, 1040, 1040, Missing::NOTHING);
        check(&slot, 0..41, 1001, 1100, Missing::NOTHING);
        check(&slot, 99..100, 1100, 1100, Missing::NOTHING);
    }

    #[test]
    fn bytes_that_the_kernel_has_not_reported_have_no_time() {
        check(&slot(&[]), 0..1, 0, 0, Missing::UNSEEN);
        check(&slot(&[10]), 0..11, 1010, 0, Missing::UNSEEN);
        check(&slot(&[10]), 10..11, 0, 0, Missing::UNSEEN);
    }

    #[test]
    fn an_empty_range_asks_for_the_connections_times_only() {
        let slot = slot(&[10]);
        slot.established_ns.store(7, Ordering::Relaxed);
        let marks = slot.marks(0, &(10..10), MonoNs(0));
        assert_eq!(marks, Marks { established: MonoNs(7), ..Marks::default() });
        assert_eq!(slot.arm_offset.load(Ordering::Relaxed), 10, "and arms the latch for what follows");
    }

    #[test]
    fn a_mark_whose_predecessor_is_gone_is_not_taken_for_the_first() {
        let ends: Vec<u64> = (1..=20).map(|mark| mark * 10).collect();
        let slot = slot(&ends);
        // Marks 5..=20 are in the ring, mark 5 may be under the pen, and mark 6 needs it as predecessor.
        check(&slot, 45..46, 0, 0, Missing::OVERWRITTEN);
        check(&slot, 50..51, 0, 0, Missing::OVERWRITTEN);
        check(&slot, 60..200, 1070, 1200, Missing::NOTHING);
        // The latch was armed at 0 and keeps the very first.
        check(&slot, 0..10, 1010, 1010, Missing::NOTHING);
        check(&slot, 10..11, 0, 0, Missing::OVERWRITTEN);
    }

    #[test]
    fn the_latch_keeps_the_first_mark_behind_the_last_answer() {
        let slot = slot(&[10, 30]);
        check(&slot, 10..30, 1030, 1030, Missing::NOTHING);
        (4..=40).for_each(|mark| record(&slot, mark * 10, 1000 + mark * 10));
        check(&slot, 30..31, 1040, 1040, Missing::NOTHING);
        check(&slot, 39..41, 1040, 0, Missing::OVERWRITTEN);
    }

    #[test]
    fn however_many_reads_came_before_a_burst_its_first_byte_has_its_time() {
        for reads in 0..6 {
            let slot = slot(&[30]);
            check(&slot, 0..1, 1030, 1030, Missing::NOTHING);
            check(&slot, 30..30, 0, 0, Missing::NOTHING);
            for read in 1..=reads {
                let (from, to) = (read * 30, read * 30 + 30);
                record(&slot, to, 1000 + to);
                // Of what a read brings the first byte is asked for, and then it is told how far it came.
                check(&slot, from..from + 1, 1000 + to, 1000 + to, Missing::NOTHING);
                check(&slot, to..to, 0, 0, Missing::NOTHING);
            }
            let from = reads * 30 + 30;
            (1..=40).for_each(|mark| record(&slot, from + mark * 10, 1000 + from + mark * 10));
            check(&slot, from..from + 1, 1010 + from, 1010 + from, Missing::NOTHING);
        }
    }

    #[test]
    fn a_latch_that_was_armed_late_has_what_the_ring_still_held_or_by_when() {
        for early in 0..=20 {
            let slot = slot(&[10]);
            // So much of the next message was here already when the answer was asked for.
            (0..early).for_each(|mark| record(&slot, 20 + mark, 1020 + mark));
            check(&slot, 10..10, 0, 0, Missing::NOTHING);
            if early > RING {
                let by = slot.marks(0, &(10..11), MonoNs(0)).first_by;
                assert_eq!(by, MonoNs(1021 + early - RING), "none came since");
            }
            (50..=100).for_each(|mark| record(&slot, mark * 10, 1000 + mark * 10));
            let by = slot.marks(0, &(10..11), MonoNs(0)).first_by;
            assert_eq!(
                by,
                if early < RING { MonoNs::UNKNOWN } else { MonoNs(1020 + early - RING) },
                "{early} were early"
            );
            let first = if early == 0 { 1500 } else { 1020 };
            // Where the mark before it has left the ring too, it is not known to be the first.
            let known = early < RING;
            check(
                &slot,
                10..11,
                if known { first } else { 0 },
                if known { first } else { 0 },
                if known { Missing::NOTHING } else { Missing::OVERWRITTEN },
            );
        }
    }

    #[test]
    fn another_generation_is_another_connection() {
        let slot = slot(&[10]);
        slot.generation.store(1, Ordering::Relaxed);
        check(&slot, 0..10, 0, 0, Missing::REUSED);
        assert_eq!(slot.arm_offset.load(Ordering::Relaxed), 0, "and its latch is not ours to arm");
    }

    fn trail(taken: &[u64], sent: &[u64]) -> SharedTrail {
        let trail = SharedTrail::default();
        for (head, ring, ends) in [(&trail.taken_head, &trail.taken, taken), (&trail.sent_head, &trail.sent, sent)] {
            for (sequence, end) in ends.iter().enumerate() {
                let mark = &ring[sequence % MARKS];
                mark.end.store(*end, Ordering::Relaxed);
                mark.at_ns.store(1000 + end, Ordering::Relaxed);
                head.store(u64::try_from(sequence + 1).unwrap(), Ordering::Relaxed);
            }
        }
        trail
    }

    #[test]
    fn a_byte_was_sent_by_the_newest_write_that_began_at_or_before_it() {
        let trail = trail(&[], &[0, 100, 250]);
        assert_eq!(trail.sent_at(0, false), Ok(MonoNs(1000)));
        assert_eq!(trail.sent_at(99, false), Ok(MonoNs(1000)));
        assert_eq!(trail.sent_at(100, false), Ok(MonoNs(1100)));
        assert_eq!(trail.sent_at(9999, false), Ok(MonoNs(1250)));
        assert_eq!(SharedTrail::default().sent_at(0, false), Err(Missing::UNSEEN));
    }

    #[test]
    fn where_writes_are_noted_when_they_return_the_newest_may_be_the_one_before() {
        let trail = trail(&[], &[0, 100, 250]);
        let expected = [
            (0, Ok(MonoNs(1000))),
            (50, Ok(MonoNs(1000))),
            (100, Ok(MonoNs(1100))),
            (250, Ok(MonoNs(1250))),
            (251, Err(Missing::UNSEEN)),
        ];
        for (offset, sent) in expected {
            assert_eq!(trail.sent_at(offset, true), sent, "{offset}");
        }
    }

    #[test]
    fn writes_that_left_the_ring_are_known_by_the_turns_first_only() {
        let starts: Vec<u64> = (0..40).map(|write| write * 10).collect();
        let trail = trail(&[], &starts);
        assert_eq!(trail.sent_at(0, false), Err(Missing::OVERWRITTEN));
        trail.turn.at_ns.store(7, Ordering::Relaxed);
        assert_eq!(trail.sent_at(0, false), Ok(MonoNs(7)));
        assert_eq!(trail.sent_at(5, false), Err(Missing::OVERWRITTEN), "the turn tells of its first byte only");
    }

    #[test]
    fn a_byte_was_taken_by_the_first_mark_beyond_it() {
        let trail = trail(&[10, 30], &[]);
        assert_eq!(trail.taken_at(9), Ok(MonoNs(1010)));
        assert_eq!(trail.taken_at(10), Ok(MonoNs(1030)));
        assert_eq!(trail.taken_at(30), Err(Missing::UNSEEN));
        // What lies before 20 was acknowledged at a time that nobody saw.
        let trail = self::trail(&[10, 20, 30], &[]);
        trail.taken[1].at_ns.store(0, Ordering::Relaxed);
        let taken = [9, 10, 19, 20].map(|offset| trail.taken_at(offset));
        assert_eq!(taken, [Ok(MonoNs(1010)), Err(Missing::UNSEEN), Err(Missing::UNSEEN), Ok(MonoNs(1030))]);
    }

    #[test]
    fn a_byte_is_held_until_the_newest_acknowledgement_that_found_it_unsent() {
        let trail = trail(&[], &[10, 30, 50]);
        assert_eq!(trail.held_until(40, MonoNs(0)), Some(MonoNs(1030)));
        assert_eq!(trail.held_until(5, MonoNs(0)), None);
        assert_eq!(trail.held_until(40, MonoNs(1031)), None, "what happened before the end is no waiting after it");
    }

    #[test]
    fn segments_sent_again_count_where_they_touch_the_range() {
        let trail = SharedTrail::default();
        for (index, (start, end)) in [(0, 10), (10, 20), (10, 20)].into_iter().enumerate() {
            trail.resent[index].start.store(start, Ordering::Relaxed);
            trail.resent[index].end.store(end, Ordering::Relaxed);
            trail.resent[index].count.store(1 + u64::from(start == 0) * 4, Ordering::Relaxed);
        }
        trail.resent_head.store(3, Ordering::Relaxed);
        assert_eq!((trail.resent(&(0..10)), trail.resent(&(0..11)), trail.resent(&(20..30))), (5, 7, 0));
        assert_eq!(trail.resent(&(15..15)), 0, "who has no bytes has none that were sent again");
        trail.resent[1].count.store(0, Ordering::Relaxed);
        assert_eq!(trail.resent(&(0..20)), 5 + 1, "what is being made anew is nobody's");
    }

    #[test]
    fn stalls_count_for_whoever_waited_since_it_did() {
        let written = Written::default();
        let check = |bytes, begun, ns| assert_eq!(written.stalled_ns(&bytes, MonoNs(begun)), ns, "{bytes:?} {begun}");
        check(0..u64::MAX, 0, 0);
        for (first, from, until) in [(10, 1000, 1001), (13, 1010, 1030), (19, 2000, 2300), (25, 3000, 7000)] {
            written.on_stalled(first, MonoNs(from), MonoNs(until));
        }
        check(0..10, 0, 0);
        check(10..11, 1000, 1);
        check(11..20, 1000, 321);
        check(11..20, 1020, 310);
        check(20..26, 2250, 4050);
        check(26..30, 7000, 0);
        check(11..11, 1000, 0);
        // Its place is being written anew.
        written.0.stalls[0].first.store(abi::NO_OFFSET, Ordering::Relaxed);
        check(10..11, 1000, 0);
    }

    #[test]
    fn a_stall_of_what_is_under_way_outlives_shorter_ones_of_what_is_over() {
        const MS: u64 = 1_000_000;
        // The long one lasted from 6 s to 11 s: of who began within it no more than the rest is a stall of its own.
        let stalls = [(6_000, 11_000), (12_000, 13_000), (14_000, 15_000), (18_500, 19_500)];
        for (began_ms, evicted_ms) in [(0, 1_000), (6_000, 1_000), (9_000, 1_000), (10_500, 5_000), (19_900, 5_000)] {
            let written = Written::default();
            written.0.nothing_before(MonoNs(began_ms * MS));
            for (first, (from_ms, until_ms)) in (0..).zip(stalls) {
                written.on_stalled(first, MonoNs(from_ms * MS), MonoNs(until_ms * MS));
            }
            let all_ns = || written.stalled_ns(&(0..9), MonoNs(0));
            let before_ns = all_ns();
            written.on_stalled(4, MonoNs(20_000 * MS), MonoNs(20_010 * MS));
            assert_eq!(before_ns + 10 * MS - all_ns(), evicted_ms * MS, "under way since {began_ms} ms");
        }
    }

    #[test]
    fn offsets_that_32_bits_cannot_count_are_what_they_are() {
        // Each has the same lower half as another.
        const WRAP: u64 = 1 << 32;
        let ends = [10, WRAP, WRAP + 10, WRAP + 20, 2 * WRAP + 10];
        let slot = slot(&ends);
        let trail = trail(&ends, &ends);
        let at = |end: u64| MonoNs(1000 + end);
        for (offset, beyond, since) in [
            (9, Some(10), None),
            (10, Some(WRAP), Some(10)),
            (WRAP - 1, Some(WRAP), Some(10)),
            (WRAP, Some(WRAP + 10), Some(WRAP)),
            (WRAP + 10, Some(WRAP + 20), Some(WRAP + 10)),
            (2 * WRAP, Some(2 * WRAP + 10), Some(WRAP + 20)),
            (2 * WRAP + 10, None, Some(2 * WRAP + 10)),
        ] {
            let expected = beyond.map(at).ok_or(Missing::UNSEEN);
            assert_eq!((slot.readable_at(offset), trail.taken_at(offset)), (expected, expected), "{offset}");
            assert_eq!(trail.sent_at(offset, false), since.map(at).ok_or(Missing::UNSEEN), "{offset}");
            assert_eq!(trail.held_until(offset, MonoNs(0)), since.map(at), "{offset}");
        }
        check(&slot, WRAP..WRAP + 20, 1010 + WRAP, 1020 + WRAP, Missing::NOTHING);
        // The latch was armed there, behind the first mark beyond it, and a burst follows.
        (3..=40).for_each(|mark| record(&slot, 2 * WRAP + mark * 10, mark));
        check(&slot, WRAP + 20..WRAP + 21, 1010 + 2 * WRAP, 1010 + 2 * WRAP, Missing::NOTHING);
        check(&slot, 2 * WRAP + 20..2 * WRAP + 21, 0, 0, Missing::OVERWRITTEN);
        let far = SharedSlot { arm_offset: AtomicU64::new(WRAP + 20), ..SharedSlot::default() };
        (1..=40).for_each(|mark| record(&far, WRAP + mark * 20, mark));
        check(&far, WRAP + 20..WRAP + 21, 2, 2, Missing::NOTHING);
        check(&far, 20..21, 0, 0, Missing::OVERWRITTEN);
    }

    #[test]
    fn a_connection_older_than_the_watch_has_gaps() {
        let slot = slot(&[10]);
        slot.established_ns.store(5, Ordering::Relaxed);
        assert_eq!(slot.marks(0, &(0..10), MonoNs(6)).missing, Missing::JOINED_LATE);
        assert_eq!(slot.marks(0, &(0..10), MonoNs(5)).missing, Missing::NOTHING);
    }

    #[test]
    fn any_words_are_read_without_harm() {
        let edges = [0, 1, 15, 16, 17, u64::MAX - 16, u64::MAX - 1, u64::MAX];
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..20_000 {
            let mut word = || if random.bool() { edges[random.usize(..edges.len())] } else { random.u64(..) };
            let slot = SharedSlot::default();
            slot.rx_head.store(word(), Ordering::Relaxed);
            slot.arm_offset.store(word(), Ordering::Relaxed);
            slot.latch.end.store(word(), Ordering::Relaxed);
            slot.latch.at_ns.store(word(), Ordering::Relaxed);
            slot.latch.previous_end.store(word(), Ordering::Relaxed);
            for mark in &slot.rx {
                mark.end.store(word(), Ordering::Relaxed);
                mark.at_ns.store(word(), Ordering::Relaxed);
            }
            let bytes = word()..word();
            let marks = slot.marks(0, &bytes, MonoNs(0));
            if bytes.is_empty() {
                assert_eq!(marks, Marks::default(), "round {round}");
            }
        }
    }

    #[test]
    fn a_reader_beside_the_writer_gets_the_right_time_or_none() {
        let slot = SharedSlot::default();
        let done = AtomicBool::new(false);
        let at = |offset: u64| (offset / 3 + 1) * 3 * 7;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (1..=1_000_000_u64).for_each(|mark| record(&slot, mark * 3, mark * 3 * 7));
                done.store(true, Ordering::Release);
            });
            let mut random = fastrand::Rng::with_seed(11);
            let mut known = 0_u64;
            while !done.load(Ordering::Acquire) {
                let newest = slot.rx_head.load(Ordering::Acquire) * 3;
                let start = newest.saturating_sub(random.u64(..60));
                let end = start + random.u64(1..20);
                let marks = slot.marks(0, &(start..end), MonoNs(0));
                for (time, offset) in [(marks.first.0, start), (marks.last.0, end - 1)] {
                    known += u64::from(time != 0);
                    assert!(time == 0 || time == at(offset), "offset {offset}: {time}, not {}", at(offset));
                }
            }
            assert!(known > 0, "the reader never saw a time");
        });
    }
}
