//! The programs of `agent-ebpf` over memory of a test's own: each event writes what its program writes, in that order, where the
//! set that the program is of is attached.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::{FLAG_PAIRED, FLAG_PEER_NO_SLOT, FLAG_SOUGHT, Free, NO_SLOT, ROLE_BACKEND, ROLE_CLIENT, ROLE_UPSTREAM, Tag};

use super::*;
use crate::probes::Set;
use crate::probes::reader::Reader;

/// All sockets' slots, and which of them are free.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) reader: Arc<Reader>,
    free: VecDeque<Free>,
    rest_ns: u64,
    attached: [bool; Set::ALL.len()],
}

impl Kernel {
    /// Nothing is attached yet.
    pub(crate) fn new(slots: u32, rest_ns: u64) -> Self {
        let reader = Reader::new(Shared::anonymous(slots).unwrap(), Shared::anonymous(slots).unwrap());
        let free = (0..slots).map(|slot| Free { freed_ns: 0, slot, reserved: 0 }).collect();
        Self { reader: Arc::new(reader), free, rest_ns, attached: [false; Set::ALL.len()] }
    }

    /// Attaches or detaches a set, and tells the reader.
    pub(crate) fn switch(&mut self, set: Set, on: bool, now: MonoNs) {
        self.attached[set as usize] = on;
        self.reader.switched(set, on.then_some(now), if on { Missing::NOTHING } else { Missing::OFF });
    }

    pub(crate) fn is_attached(&self, set: Set) -> bool {
        self.attached[set as usize]
    }

    fn slot(&self, tag: Tag) -> Option<&SharedSlot> {
        self.reader.slots.get(tag.slot).filter(|slot| slot.is_still(tag.generation))
    }

    fn trail(&self, tag: Tag, role: u32) -> Option<&SharedTrail> {
        self.slot(tag).filter(|_| tag.role == role)?;
        self.reader.trails.get(tag.slot)
    }

    fn take_slot(&mut self, role: u32, now: MonoNs) -> Option<Tag> {
        let rested = |free: &mut Free| free.freed_ns == 0 || free.freed_ns + self.rest_ns <= now.0;
        let free = self.free.pop_front_if(rested)?;
        let generation = self.reader.slots.get(free.slot).unwrap().begin();
        self.reader.trails.get(free.slot).unwrap().begin();
        Some(Tag { generation, slot: free.slot, role })
    }

    /// A child of a listener of ours begins. Its tag is the listener's own where nobody looks.
    pub(crate) fn adopts(&mut self, listener: Tag, now: MonoNs) -> Tag {
        if !self.is_attached(Set::Core) {
            return listener;
        }
        self.take_slot(ROLE_CLIENT, now).unwrap_or(Tag { generation: 0, slot: NO_SLOT, role: ROLE_CLIENT })
    }

    /// What the agent itself does before it connects.
    pub(crate) fn connects(&mut self, now: MonoNs) -> Option<Tag> {
        self.take_slot(ROLE_UPSTREAM, now)
    }

    /// A handshake is over.
    pub(crate) fn establishes(&self, tag: Tag, now: MonoNs) {
        if !self.is_attached(Set::Core) {
            return;
        }
        let Some(slot) = self.slot(tag) else { return };
        slot.established_ns.store(now.0, Ordering::Relaxed);
        if tag.role == ROLE_UPSTREAM && self.is_attached(Set::Backends) {
            slot.flags.fetch_or(FLAG_SOUGHT, Ordering::Relaxed);
        }
    }

    /// The other end of a connection to a backend is on this node, and established. Its tag, where it gets one.
    pub(crate) fn pairs(&mut self, ours: Tag, now: MonoNs) -> Option<Tag> {
        let is_sought = self.slot(ours)?.flags.load(Ordering::Relaxed) & FLAG_SOUGHT != 0;
        if !is_sought || !self.is_attached(Set::Core) || !self.is_attached(Set::Backends) {
            return None;
        }
        let theirs = self.take_slot(ROLE_BACKEND, now);
        let slot = self.slot(ours)?;
        let Some(theirs) = theirs else {
            slot.flags.fetch_or(FLAG_PEER_NO_SLOT, Ordering::Relaxed);
            return None;
        };
        self.slot(theirs)?.established_ns.store(now.0, Ordering::Relaxed);
        slot.peer_generation.store(theirs.generation, Ordering::Relaxed);
        slot.peer_slot.store(theirs.slot, Ordering::Relaxed);
        slot.flags.fetch_or(FLAG_PAIRED, Ordering::Relaxed);
        Some(theirs)
    }

    /// Bytes before that offset are readable.
    pub(crate) fn readable(&self, tag: Tag, end: u64, is_accepted: bool, now: MonoNs) {
        if !self.is_attached(Set::Core) {
            return;
        }
        let Some(slot) = self.slot(tag) else { return };
        if tag.role == ROLE_BACKEND && !is_accepted {
            slot.unaccepted_end.store(end, Ordering::Relaxed);
        }
        record(slot, end, now.0);
    }

    /// A backend has read what lies before that offset.
    pub(crate) fn reads(&self, tag: Tag, end: u64, now: MonoNs) {
        let Some(trail) = self.trail(tag, ROLE_BACKEND).filter(|_| self.is_attached(Set::Backends)) else { return };
        if end > trail.taken_end.load(Ordering::Relaxed) {
            push(&trail.taken_head, &trail.taken, end, now);
            trail.taken_end.store(end, Ordering::Relaxed);
        }
    }

    /// A backend's write that begins at that offset is noted.
    pub(crate) fn sends(&self, tag: Tag, start: u64, now: MonoNs) {
        let Some(trail) = self.trail(tag, ROLE_BACKEND).filter(|_| self.is_attached(Set::Backends)) else { return };
        push(&trail.sent_head, &trail.sent, start, now);
        let taken_end = trail.taken_end.load(Ordering::Relaxed);
        if taken_end != trail.turn_taken_end.load(Ordering::Relaxed) {
            trail.turn.at_ns.store(0, Ordering::Relaxed);
            trail.turn.end.store(start, Ordering::Relaxed);
            trail.turn.at_ns.store(now.0, Ordering::Relaxed);
            trail.turn_taken_end.store(taken_end, Ordering::Relaxed);
        }
    }

    /// A client has acknowledged what lies before `end`, when what lies before `left` had left for it.
    pub(crate) fn acknowledges(&self, tag: Tag, end: u64, left: u64, now: MonoNs) {
        let Some(trail) = self.trail(tag, ROLE_CLIENT).filter(|_| self.is_attached(Set::Ack)) else { return };
        push(&trail.sent_head, &trail.sent, left, now);
        push(&trail.taken_head, &trail.taken, end, now);
        trail.taken_end.store(end, Ordering::Relaxed);
    }

    /// A socket is gone. That is seen whatever is attached.
    pub(crate) fn destroys(&mut self, tag: &mut Tag, now: MonoNs) {
        if self.slot(*tag).is_some() {
            self.free.push_back(Free { freed_ns: now.0, slot: tag.slot, reserved: 0 });
            tag.slot = NO_SLOT;
        }
    }
}

fn push(head: &AtomicU64, ring: &[SharedMark; MARKS], end: u64, at: MonoNs) {
    let sequence = head.load(Ordering::Relaxed);
    let mark = &ring[usize::try_from(sequence % RING).unwrap()];
    mark.end.store(end, Ordering::Release);
    mark.at_ns.store(at.0, Ordering::Release);
    head.store(sequence.wrapping_add(1), Ordering::Release);
}

/// One mark into a slot's ring, and into its latch where that is due.
pub(super) fn record(slot: &SharedSlot, end: u64, at_ns: u64) {
    let head = slot.rx_head.load(Ordering::Relaxed);
    let arm_offset = slot.arm_offset.load(Ordering::Relaxed);
    if end > arm_offset && slot.latch.end.load(Ordering::Relaxed) <= arm_offset {
        let mut first = abi::Latch { end, at_ns, previous_end: end };
        for back in 1..=RING {
            if back > head {
                first.previous_end = 0;
                break;
            }
            let before = &slot.rx[usize::try_from((head - back) % RING).unwrap()];
            let (end, at_ns) = (before.end.load(Ordering::Relaxed), before.at_ns.load(Ordering::Relaxed));
            first.previous_end = end;
            if end <= arm_offset {
                break;
            }
            first = abi::Latch { end, at_ns, previous_end: end };
        }
        slot.latch.at_ns.store(0, Ordering::Release);
        slot.latch.end.store(first.end, Ordering::Release);
        slot.latch.previous_end.store(first.previous_end, Ordering::Release);
        slot.latch.at_ns.store(first.at_ns, Ordering::Release);
    }
    push(&slot.rx_head, &slot.rx, end, MonoNs(at_ns));
}
