//! Which bytes' times are asked for while a stream is read, and what becomes of the answers: of a message its first byte and its
//! head's last, of a body the first byte that was waited for, and behind each read nothing, which has the time of the byte to be
//! read next kept. Pure: who answers is an argument, and so is what time it is.

use std::ops::Range;

use crate::clock::MonoNs;
use crate::framer::{self, Body};
use crate::observer::{BackendMarks, Marks, Missing};
use crate::record::{Attempt, Head};
use crate::stamped::Arrival;

/// Asks about the bytes of one stream, by their offsets in it.
#[derive(Debug)]
pub struct Asks<M> {
    /// See [`SocketObserver::marks`](crate::observer::SocketObserver::marks).
    marks: M,
    record: Option<Range<u64>>,
    /// The read that brought them, where it was stamped.
    arrival: Arrival,
}

impl<M: Fn(Range<u64>) -> Marks> Asks<M> {
    /// Whoever reads counts the bytes on the wire.
    pub fn of(marks: M) -> Self {
        Self { marks, record: None, arrival: Arrival::default() }
    }

    /// Whoever reads counts what TLS holds: all of it came in the record that lies there on the wire. `None`: no TLS is spoken.
    pub fn within(record: Option<Range<u64>>, marks: M) -> Self {
        Self { marks, record, arrival: Arrival::default() }
    }

    /// The same, where the last read was stamped.
    #[must_use]
    pub fn stamped(self, arrival: Arrival) -> Self {
        Self { arrival, ..self }
    }

    /// Where on the wire these bytes lie.
    fn wire(&self, bytes: Range<u64>) -> Range<u64> {
        self.record.clone().unwrap_or(bytes)
    }

    /// A message begins at this offset: where that is on the wire, and its first byte's marks. By a stamp it was readable at that
    /// time at the latest.
    pub fn begins(&self, offset: u64) -> (u64, Marks) {
        let bytes = self.wire(offset..offset + 1);
        let marks = (self.marks)(bytes.start..bytes.start + 1);
        let by = |arrival: &Arrival| arrival.by(bytes.end - 1);
        (bytes.start, self.or_stamp(marks, |marks| &mut marks.first, by))
    }

    /// A head ends before this offset: where that is on the wire, and its last byte's marks.
    pub fn head_ends(&self, end: u64) -> (u64, Marks) {
        let end = self.wire(end..end).end;
        let last = end.saturating_sub(1);
        let marks = (self.marks)(last..end);
        (end, self.or_stamp(marks, |marks| &mut marks.last, |arrival| arrival.exactly(last)))
    }

    /// When what is read from this offset on could be read. Of TLS only whole records can.
    pub fn goes_on(&self, offset: u64) -> Marks {
        let end = self.wire(offset..offset + 1).end;
        let last = end.saturating_sub(1);
        let marks = (self.marks)(last..end);
        self.or_stamp(marks, |marks| &mut marks.first_by, |arrival| arrival.by(last))
    }

    /// Where nothing but stamps tells, what that of the last read says.
    fn or_stamp(
        &self,
        mut marks: Marks,
        told: fn(&mut Marks) -> &mut MonoNs,
        stamp: impl FnOnce(&Arrival) -> MonoNs,
    ) -> Marks {
        if marks.missing.has(Missing::TIMESTAMPS) {
            *told(&mut marks) = stamp(&self.arrival);
            if told(&mut marks).known().is_none() {
                marks.missing = marks.missing.with(Missing::UNSEEN);
            }
        }
        marks
    }

    /// All that lies before this offset was read. Nothing is asked: the latch is armed for the next byte to be read, so that no
    /// burst behind that takes its time. After all other questions of a read: each of them arms it too.
    pub fn read_to(&self, offset: u64) {
        let next = self.wire(offset..offset).end;
        (self.marks)(next..next);
    }
}

/// A request's head as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadSeen {
    /// Stream offset of its first byte.
    pub start: u64,
    /// Stream offset behind its last.
    pub end: u64,
    /// The read that brought its first byte.
    pub first_read: MonoNs,
    /// The read that brought its last.
    pub head_read: MonoNs,
    /// Of its first byte and of its last.
    pub marks: Marks,
    /// See [`Head::woken`].
    pub woken: MonoNs,
    /// See [`Head::preempted_ns`].
    pub preempted_ns: u64,
    /// Whether a body follows.
    pub body: bool,
    /// Whether it asks for another protocol: what follows it is held back until it is answered.
    pub upgrade: bool,
}

impl HeadSeen {
    /// A read has brought its first byte. That byte's marks are taken now; a head that ends later adds its last.
    pub fn begun(asks: &Asks<impl Fn(Range<u64>) -> Marks>, offset: u64, first_read: MonoNs) -> Self {
        let (start, marks) = asks.begins(offset);
        Self { start, first_read, marks: Marks { last: MonoNs::UNKNOWN, ..marks }, ..Self::default() }
    }

    /// A read has brought its last byte.
    #[must_use]
    pub fn ended(self, asks: &Asks<impl Fn(Range<u64>) -> Marks>, head: &framer::Head, head_read: MonoNs) -> Self {
        let (end, last) = asks.head_ends(head.end);
        let marks = Marks { last: last.last, missing: self.marks.missing.with(last.missing), ..self.marks };
        Self { end, head_read, marks, body: head.body != Body::None, upgrade: head.upgrade, ..self }
    }

    /// What the request's record says of it.
    pub fn stamp(&self, head: &mut Head) {
        (head.request_start, head.request_head_end) = (self.start, self.end);
        (head.first_read, head.head_read) = (self.first_read, self.head_read);
        (head.woken, head.preempted_ns) = (self.woken, self.preempted_ns);
        (head.first_readable, head.head_readable) = (self.marks.first, self.marks.last);
        head.established = self.marks.established;
        (head.srtt_us, head.rttvar_us) = (self.marks.srtt_us, self.marks.rttvar_us);
        head.client_missing = self.marks.missing;
    }
}

/// What was known of a response when the read returned that brought its first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// That read; unknown where there was none.
    pub read: MonoNs,
    /// Of its first byte.
    pub marks: Marks,
    /// The backend's side.
    pub backend: BackendMarks,
    /// See [`Attempt::woken`].
    pub woken: MonoNs,
    /// See [`Attempt::preempted_ns`].
    pub preempted_ns: u64,
    /// See [`Attempt::resent`].
    pub resent: u32,
}

impl First {
    /// What the attempt says of it, and why times of the response's body are missing, if some are.
    pub fn stamp(&self, body_missing: Missing, attempt: &mut Attempt) {
        attempt.first_read = self.read;
        attempt.first_readable = self.marks.first;
        (attempt.srtt_us, attempt.rttvar_us) = (self.marks.srtt_us, self.marks.rttvar_us);
        attempt.resent = self.resent;
        attempt.missing = self.marks.missing.with(body_missing);
        attempt.backend_readable = self.backend.readable;
        attempt.backend_read = self.backend.read;
        attempt.backend_sent = self.backend.sent;
        attempt.backend_missing = self.backend.missing;
        (attempt.woken, attempt.preempted_ns) = (self.woken, self.preempted_ns);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What is asked for when a message with a head of ten bytes begins at 100, its body's next read at 120, and all was read
    /// up to 130.
    fn asked(record: Option<Range<u64>>) -> Vec<Range<u64>> {
        let asked: RefCell<Vec<Range<u64>>> = RefCell::default();
        let asks = Asks::within(record, |bytes| {
            asked.borrow_mut().push(bytes);
            Marks::default()
        });
        asks.begins(100);
        asks.head_ends(110);
        asks.goes_on(120);
        asks.read_to(130);
        asked.take()
    }

    #[test]
    fn times_are_those_of_the_very_bytes() {
        assert_eq!(asked(None), [100..101, 109..110, 120..121, 130..130]);
    }

    /// What is known of a message of 30 bytes at 100 whose head has ten, where the reads are stamped: its beginning, its head's
    /// end, and from 120 on its body.
    fn stamped(record: Option<Range<u64>>, arrival: Arrival) -> [(MonoNs, Missing); 3] {
        let asks = Asks::within(record, |_| Marks { missing: STAMPED, ..Marks::default() }).stamped(arrival);
        let (begins, head_ends, goes_on) = (asks.begins(100).1, asks.head_ends(110).1, asks.goes_on(120));
        [(begins.first, begins.missing), (head_ends.last, head_ends.missing), (goes_on.first_by, goes_on.missing)]
    }

    const STAMPED: Missing = Missing(Missing::UNAVAILABLE.0 | Missing::TIMESTAMPS.0);

    #[test]
    fn a_stamp_says_when_a_message_began_at_the_latest_and_when_a_head_was_whole_that_ends_its_read() {
        let (at, unseen) = (MonoNs(7), STAMPED.with(Missing::UNSEEN));
        let (known, unknown) = ((at, STAMPED), (MonoNs::UNKNOWN, unseen));
        for (bytes, is_emptied, expected) in [
            (100..110, true, [known, known, unknown]),
            (50..110, true, [known, known, unknown]),
            (105..110, true, [unknown, known, unknown]),
            // There may be more, and then the stamp is that of more.
            (100..110, false, [known, unknown, unknown]),
            // With a part of the body, with all of it, or with the next request's beginning.
            (100..111, true, [known, unknown, unknown]),
            (100..130, true, [known, unknown, known]),
            (110..140, true, [unknown, unknown, known]),
            (0..50, true, [unknown, unknown, unknown]),
        ] {
            assert_eq!(stamped(None, Arrival::of(bytes.clone(), at, is_emptied)), expected, "{bytes:?}, {is_emptied}");
        }
        // Of a read without a stamp nothing is known.
        assert_eq!(stamped(None, Arrival::of(100..110, MonoNs::UNKNOWN, true)), [unknown; 3]);
    }

    #[test]
    fn of_tls_the_stamp_counts_that_makes_the_record_whole() {
        let (at, unseen) = (MonoNs(7), STAMPED.with(Missing::UNSEEN));
        let (known, unknown) = ((at, STAMPED), (MonoNs::UNKNOWN, unseen));
        let read = |bytes| stamped(Some(500..700), Arrival::of(bytes, at, true));
        assert_eq!(read(600..700), [known; 3]);
        assert_eq!(read(500..900), [known, unknown, known], "another record behind it");
        assert_eq!(read(400..600), [unknown; 3]);
    }

    #[test]
    fn marks_of_the_kernel_need_no_stamp() {
        let marks = Marks { first: MonoNs(3), last: MonoNs(4), ..Marks::default() };
        let asks = Asks::of(|_| marks).stamped(Arrival::of(100..110, MonoNs(9), true));
        assert_eq!([asks.begins(100).1, asks.head_ends(110).1, asks.goes_on(100)], [marks; 3]);
    }

    #[test]
    fn what_came_in_a_record_could_be_read_when_the_record_was_whole() {
        assert_eq!(asked(Some(500..700)), [500..501, 699..700, 699..700, 700..700]);
    }
}
