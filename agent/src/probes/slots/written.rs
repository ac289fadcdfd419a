//! A trail as the kernel's programs write it, for tests of those who go by what is read from it.

use super::*;

/// Written like `agent-ebpf` does, read like everywhere.
#[derive(Debug, Default)]
pub(crate) struct Written(pub(super) SharedTrail);

impl Written {
    /// Something came from the client: it has acknowledged what lies before `end`, if that is news, and what lies before `left` had
    /// left for it, if more waited to.
    pub(crate) fn on_heard(&self, at: MonoNs, end: Option<u64>, left: Option<u64>) {
        for (head, ring, offset) in [(&self.0.sent_head, &self.0.sent, left), (&self.0.taken_head, &self.0.taken, end)]
        {
            let Some(offset) = offset else { continue };
            let sequence = head.fetch_add(1, Ordering::Relaxed);
            let mark = &ring[usize::try_from(sequence % RING).unwrap()];
            mark.end.store(offset, Ordering::Relaxed);
            mark.at_ns.store(at.0, Ordering::Relaxed);
        }
    }

    /// A segment was sent again: one more time, where it is the newest already.
    pub(crate) fn on_resent(&self, bytes: &Range<u64>) {
        let head = self.0.resent_head.load(Ordering::Relaxed);
        let segment = |sequence: u64| &self.0.resent[usize::try_from(sequence).unwrap() % RESENT];
        if let Some(newest) = head.checked_sub(1).map(segment)
            && newest.start.load(Ordering::Relaxed) == bytes.start
            && newest.end.load(Ordering::Relaxed) == bytes.end
        {
            newest.count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let entry = segment(head);
        for (word, value) in
            [(&entry.count, 0), (&entry.start, bytes.start), (&entry.end, bytes.end), (&entry.count, 1)]
        {
            word.store(value, Ordering::Relaxed);
        }
        self.0.resent_head.store(head + 1, Ordering::Relaxed);
    }

    /// The byte at `first`, and all behind it, have waited for the window: a time of their own.
    pub(crate) fn on_stalled(&self, first: u64, from: MonoNs, until: MonoNs) {
        let count = usize::try_from(self.0.stall_count.load(Ordering::Relaxed)).unwrap();
        let since_ns = self.0.turn.at_ns.load(Ordering::Relaxed);
        let kept_ns = |place: &usize| self.0.stalls[*place].read().unwrap().kept_ns(until.0, since_ns);
        let place = if count < STALLS { count } else { (0..STALLS).min_by_key(kept_ns).unwrap() };
        self.0.stall_count.store(u64::try_from(STALLS.min(count + 1)).unwrap(), Ordering::Relaxed);
        let stall = &self.0.stalls[place];
        for (word, value) in [(&stall.first, first), (&stall.lasted_ns, until.since(from)), (&stall.until_ns, until.0)]
        {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// When this byte was acknowledged, or why that is not known, and until when it had been kept from leaving.
    pub(crate) fn acknowledged(&self, last: u64, ended: MonoNs) -> (Result<MonoNs, Missing>, Option<MonoNs>) {
        (self.0.taken_at(last), self.0.held_until(last, ended))
    }

    /// See [`SharedTrail::resent`].
    pub(crate) fn resent(&self, bytes: &Range<u64>) -> u32 {
        self.0.resent(bytes)
    }

    /// See [`SharedTrail::stalled_ns`].
    pub(crate) fn stalled_ns(&self, bytes: &Range<u64>, begun: MonoNs) -> u64 {
        self.0.stalled_ns(bytes, begun)
    }
}
