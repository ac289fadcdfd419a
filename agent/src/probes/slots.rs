//! The slots that the kernel writes and workers read without a system call: the mapping, and the pure reader that turns
//! one slot's words into [`Marks`]. Which slot belongs to whom is decided elsewhere.
#![expect(unsafe_code, reason = "the mapping is memory that the kernel writes")]

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use abi::{RX_MARKS, Slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Marks, Missing};

const RING: u64 = RX_MARKS as u64;

/// [`abi::Slot`] as shared memory has it: every word an atomic. Any content is lawful.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct SharedSlot {
    generation: AtomicU64,
    rx_head: AtomicU64,
    arm_offset: AtomicU64,
    latch: SharedLatch,
    established_ns: AtomicU64,
    handshake_ns: AtomicU64,
    rx: [SharedMark; RX_MARKS],
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

/// The two definitions of one layout are one: each field lies where the kernel writes it.
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<SharedSlot>() == size_of::<Slot>());
    assert!(offset_of!(SharedSlot, generation) == offset_of!(Slot, generation));
    assert!(offset_of!(SharedSlot, rx_head) == offset_of!(Slot, rx_head));
    assert!(offset_of!(SharedSlot, arm_offset) == offset_of!(Slot, arm_offset));
    assert!(offset_of!(SharedSlot, latch.end) == offset_of!(Slot, latch.end));
    assert!(offset_of!(SharedSlot, latch.at_ns) == offset_of!(Slot, latch.at_ns));
    assert!(offset_of!(SharedSlot, latch.previous_end) == offset_of!(Slot, latch.previous_end));
    assert!(offset_of!(SharedSlot, established_ns) == offset_of!(Slot, established_ns));
    assert!(offset_of!(SharedSlot, handshake_ns) == offset_of!(Slot, handshake_ns));
    assert!(offset_of!(SharedSlot, rx) == offset_of!(Slot, rx));
    assert!(offset_of!(SharedMark, at_ns) == offset_of!(abi::RxMark, at_ns));
};

impl SharedSlot {
    /// What this use of the slot knows of these bytes; see `SocketObserver::marks`. Arms the latch for the byte behind
    /// them, where the next message begins.
    pub(super) fn marks(&self, generation: u64, bytes: &Range<u64>) -> Marks {
        if self.generation.load(Ordering::Acquire) != generation {
            return Marks { missing: Missing::REUSED, ..Marks::default() };
        }
        let mut marks = Marks { established: MonoNs(self.established_ns.load(Ordering::Relaxed)), ..Marks::default() };
        if bytes.start < bytes.end {
            let first = self.readable_at(bytes.start);
            let last = if bytes.end - bytes.start == 1 { first } else { self.readable_at(bytes.end - 1) };
            marks.first = first.unwrap_or_default();
            marks.last = last.unwrap_or_default();
            marks.missing = first.err().unwrap_or_default().with(last.err().unwrap_or_default());
        }
        fence(Ordering::Acquire);
        if self.generation.load(Ordering::Relaxed) != generation {
            return Marks { missing: Missing::REUSED, ..Marks::default() };
        }
        if self.arm_offset.load(Ordering::Relaxed) < bytes.end {
            self.arm_offset.store(bytes.end, Ordering::Relaxed);
        }
        marks
    }

    /// When the byte at this offset became readable: the first mark whose end is beyond it. That mark is known to be
    /// the first only if the one before is at hand too, or if it is the very first of the connection.
    fn readable_at(&self, offset: u64) -> Result<MonoNs, Missing> {
        let head = self.rx_head.load(Ordering::Acquire);
        let oldest = head.saturating_sub(RING);
        let mut found = None;
        let mut before_known = oldest == 0;
        let mut lowest = head;
        for sequence in (oldest..head).rev() {
            let Some(mark) = self.rx.get(usize::try_from(sequence % RING).unwrap_or_default()) else { break };
            let (end, at_ns) = (mark.end.load(Ordering::Relaxed), mark.at_ns.load(Ordering::Relaxed));
            lowest = sequence;
            if end <= offset {
                before_known = true;
                break;
            }
            found = Some(MonoNs(at_ns));
        }
        let Some(found) = found else { return Err(Missing::UNSEEN) };
        fence(Ordering::Acquire);
        // The kernel may be writing the entry that it has not published yet, so one less than the ring is whole.
        let whole = self.rx_head.load(Ordering::Relaxed).wrapping_sub(lowest) < RING;
        if before_known && whole {
            return Ok(found);
        }
        self.latched_at(offset).ok_or(Missing::OVERWRITTEN)
    }

    /// The same from the latch, which holds the end of the mark before it.
    fn latched_at(&self, offset: u64) -> Option<MonoNs> {
        let at_ns = self.latch.at_ns.load(Ordering::Acquire);
        let bytes = self.latch.previous_end.load(Ordering::Relaxed)..self.latch.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let unchanged = self.latch.at_ns.load(Ordering::Relaxed) == at_ns && at_ns != 0;
        (unchanged && bytes.contains(&offset)).then_some(MonoNs(at_ns))
    }

    /// Clears the slot for a new use by a socket that is not connected yet, and says which use it is.
    pub(super) fn begin(&self) -> u64 {
        for word in [&self.rx_head, &self.arm_offset, &self.established_ns, &self.handshake_ns] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [&self.latch.at_ns, &self.latch.end, &self.latch.previous_end] {
            word.store(0, Ordering::Relaxed);
        }
        self.generation.load(Ordering::Acquire)
    }
}

/// The map's memory. It lives as long as this, also when the programs are gone.
#[derive(Debug)]
pub(super) struct Slots {
    base: NonNull<SharedSlot>,
    count: usize,
}

// SAFETY: the mapping is not tied to a thread, and holds atomics only.
unsafe impl Send for Slots {}
// SAFETY: as above; `&SharedSlot` is `Sync`.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps the array of slots.
    ///
    /// # Errors
    /// What mmap says.
    pub(super) fn map(array: impl AsFd, count: u32) -> io::Result<Self> {
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; array elements are `size_of::<Slot>()` apart.
        let base = unsafe { mmap(ptr::null_mut(), Self::len(count), protection, MapFlags::SHARED, array.as_fd(), 0)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Self { base, count })
    }

    /// The slot with this index.
    pub(super) fn get(&self, index: u32) -> Option<&SharedSlot> {
        let index = usize::try_from(index).ok().filter(|index| *index < self.count)?;
        // SAFETY: the index is inside the mapping, which lives as long as `self`; any content is a lawful SharedSlot.
        Some(unsafe { self.base.add(index).as_ref() })
    }

    fn len(count: usize) -> usize {
        count.saturating_mul(size_of::<SharedSlot>())
    }
}

impl Drop for Slots {
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

    use super::*;

    /// What the kernel's program does, in its order.
    fn record(slot: &SharedSlot, end: u64, at_ns: u64) {
        let head = slot.rx_head.load(Ordering::Relaxed);
        let arm_offset = slot.arm_offset.load(Ordering::Relaxed);
        if end > arm_offset && slot.latch.end.load(Ordering::Relaxed) <= arm_offset {
            let before = usize::try_from(head.wrapping_sub(1) % RING).unwrap();
            let previous_end = if head == 0 { 0 } else { slot.rx[before].end.load(Ordering::Relaxed) };
            slot.latch.at_ns.store(0, Ordering::Release);
            slot.latch.end.store(end, Ordering::Release);
            slot.latch.previous_end.store(previous_end, Ordering::Release);
            slot.latch.at_ns.store(at_ns, Ordering::Release);
        }
        let entry = &slot.rx[usize::try_from(head % RING).unwrap()];
        entry.end.store(end, Ordering::Release);
        entry.at_ns.store(at_ns, Ordering::Release);
        slot.rx_head.store(head.wrapping_add(1), Ordering::Release);
    }

    /// Marks at these ends, each at `1000 + end`.
    fn slot(ends: &[u64]) -> SharedSlot {
        let slot = SharedSlot::default();
        ends.iter().for_each(|end| record(&slot, *end, 1000 + end));
        slot
    }

    fn check(slot: &SharedSlot, bytes: Range<u64>, first: u64, last: u64, missing: Missing) {
        let marks = slot.marks(0, &bytes);
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
        let marks = slot.marks(0, &(10..10));
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
    fn a_latch_that_was_armed_late_says_so_by_itself() {
        let slot = slot(&[10]);
        // The next message was here already when the answer was asked for, so the latch skips its first mark.
        record(&slot, 20, 1020);
        check(&slot, 0..10, 1010, 1010, Missing::NOTHING);
        (3..=40).for_each(|mark| record(&slot, mark * 10, 1000 + mark * 10));
        check(&slot, 10..11, 0, 0, Missing::OVERWRITTEN);
        assert_eq!(slot.latch.previous_end.load(Ordering::Relaxed), 20, "it skipped the mark of 10..20");
    }

    #[test]
    fn another_generation_is_another_connection() {
        let slot = slot(&[10]);
        slot.generation.store(1, Ordering::Relaxed);
        check(&slot, 0..10, 0, 0, Missing::REUSED);
        assert_eq!(slot.arm_offset.load(Ordering::Relaxed), 0, "and its latch is not ours to arm");
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
            let marks = slot.marks(0, &bytes);
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
                let marks = slot.marks(0, &(start..end));
                for (time, offset) in [(marks.first.0, start), (marks.last.0, end - 1)] {
                    known += u64::from(time != 0);
                    assert!(time == 0 || time == at(offset), "offset {offset}: {time}, not {}", at(offset));
                }
            }
            assert!(known > 0, "the reader never saw a time");
        });
    }
}
