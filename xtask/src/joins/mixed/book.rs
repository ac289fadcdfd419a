//! What client and backend have written down of each request, and the windows in which its points must lie. They are disjoint
//! per connection, which [`Book::overlap`] checks before anything is judged by them.

use super::super::book::{Id, Window};
use super::script::Kind;

/// How long it can have been at most that bytes were readable and not read: each piece from when it was about to be written
/// until the other end had it, what lies over each other once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    until: u64,
    ns: u64,
    /// Of a piece nobody knows when it was read.
    is_open: bool,
}

impl Unread {
    /// One piece. They come in the order in which they were written.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        self.ns += to.saturating_sub(from.max(self.until));
        self.until = self.until.max(to);
    }

    /// One that has not come through.
    pub(super) fn leave_open(&mut self) {
        self.is_open = true;
    }

    /// The bound, where there is one.
    pub(super) fn most_ns(self) -> Option<u64> {
        (!self.is_open).then_some(self.ns)
    }
}

/// The stamps of one request, CLOCK_MONOTONIC nanoseconds; 0 where it has not come so far. A byte that is written has the time
/// before the call that took it, one that is read the time after.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamps {
    pub(super) kind: Kind,
    /// The client writes the head's first byte.
    pub(super) first_sending: u64,
    /// The head's last byte.
    pub(super) head_sending: u64,
    /// The request's last byte.
    pub(super) last_sending: u64,
    /// The backend has read the head; where it was sent again, the first one that came.
    pub(super) head_read: u64,
    /// The backend closes a connection unanswered.
    pub(super) closing: u64,
    /// It has read the head on the connection over which it answers.
    pub(super) asked: u64,
    /// It has read the last of what had come when it answered.
    pub(super) heard: u64,
    /// It has read all of the request there.
    pub(super) whole_read: u64,
    /// It writes the final response's first byte.
    pub(super) answering: u64,
    /// That write has returned.
    pub(super) answered: u64,
    /// It writes the response's last byte.
    pub(super) ending: u64,
    /// The client has read the final response's first byte.
    pub(super) received_first: u64,
    /// Its last byte.
    pub(super) received: u64,
    /// The client goes away.
    pub(super) leaving: u64,
    /// What the client sent, and what the backend did.
    pub(super) up: Unread,
    pub(super) down: Unread,
    /// The request before it on the client's connection; 0 for the first.
    pub(super) before: Id,
    /// The one behind it there; 0 for the last.
    pub(super) after: Id,
    /// The same on the backend's connection.
    pub(super) before_at_backend: Id,
}

impl Stamps {
    /// Whether they tell of one request on its way, as far as it came.
    fn is_in_order(&self) -> bool {
        let known = |stamps: &[u64]| stamps.iter().copied().filter(|at| *at > 0).is_sorted();
        let is_early = self.kind == Kind::Early;
        let whole = if is_early { 0 } else { self.whole_read };
        let ends = if self.leaving > 0 { self.leaving } else { self.received };
        let has_begun = [self.first_sending, self.head_sending, self.head_read, self.asked].iter().all(|at| *at > 0);
        has_begun
            && ends >= self.answering.max(self.asked)
            && (self.leaving > 0 || ends >= self.ending)
            && known(&[self.first_sending, self.head_sending, self.head_read, self.closing, self.asked])
            && known(&[self.head_sending, self.last_sending, self.whole_read])
            && known(&[self.asked, whole, self.answering, self.answered])
            && known(&[self.answering, self.received_first, self.received])
    }
}

/// All requests.
pub(super) type Book = super::super::book::Book<Stamps>;

/// The windows of a request's points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// The first byte readable here.
    pub(super) first: Window,
    /// The head's last byte readable here.
    pub(super) head: Window,
    /// The last attempt begun.
    pub(super) attempt: Window,
    /// The request readable at the backend, and read by it.
    pub(super) backend: Window,
    /// The final response written by the backend.
    pub(super) sent: Window,
    /// Its first byte readable here, and read.
    pub(super) answer: Window,
    /// The end of all.
    pub(super) end: Window,
    /// The answer's last byte acknowledged.
    pub(super) acknowledged: Window,
}

impl Book {
    /// Where a request's points must lie.
    pub(super) fn windows(&self, id: Id) -> Windows {
        let own = self.of(id);
        let window = |from: u64, to: u64| Window { from, to: if to > 0 { to } else { u64::MAX } };
        // Answered early, it is either the head that the backend had read, or what had come until it answered.
        let backend = match own.kind {
            Kind::Early => window(own.head_sending, own.answered),
            _ => window(own.last_sending.max(own.closing), own.whole_read),
        };
        // The client had it when it sent the next request, unless that was on its way before.
        let after = self.of(own.after);
        let acknowledged = if after.first_sending >= own.received { after.head_read } else { 0 };
        Windows {
            first: window(own.first_sending, own.head_read),
            head: window(own.head_sending, own.head_read),
            attempt: window(own.closing, own.asked),
            backend,
            sent: window(own.answering, own.answered),
            answer: window(own.answering, own.received_first),
            end: window(own.ending.max(own.leaving), 0),
            acknowledged: window(own.ending, acknowledged),
        }
    }

    /// Whether it went as its kind is meant to: some depend on what was there first.
    pub(super) fn is_as_meant(&self, id: Id) -> bool {
        let own = self.of(id);
        match own.kind {
            Kind::Retried => own.closing > 0,
            Kind::Early => own.whole_read == 0 || own.answering < own.whole_read,
            Kind::Behind | Kind::BurstBehind => own.first_sending == self.of(own.before).last_sending,
            Kind::Cancelled => own.leaving > 0,
            _ => true,
        }
    }

    /// Whether the client's kernel acknowledges the answer on a connection that the agent has not ended: a client that goes away may
    /// not, and an answer that is over before its request is ends the connection.
    pub(super) fn is_acknowledged(&self, id: Id) -> bool {
        let own = self.of(id);
        own.leaving == 0 && own.received > 0 && (1..=own.ending).contains(&own.whole_read)
    }

    /// What is wrong with a request's own windows: marks of another request of its connections could lie in them.
    pub(super) fn overlap(&self, id: Id) -> Option<String> {
        let own = self.of(id);
        if !own.is_in_order() {
            return Some(format!("its stamps are not in order: {own:?}"));
        }
        let before = self.of(own.before);
        // The segment with a request's last byte may bring the first of the next; its head ends behind that.
        let shares = own.first_sending == before.last_sending && own.head_sending >= before.whole_read;
        if own.before > 0 && !(shares || own.first_sending >= before.received) {
            return Some(format!("it overlaps request {} of its connection: {before:?}, {own:?}", own.before));
        }
        let earlier = self.of(own.before_at_backend);
        if own.before_at_backend > 0 && own.asked < earlier.ending.max(earlier.whole_read) {
            return Some(format!("it overlaps request {} at the backend: {earlier:?}, {own:?}", own.before_at_backend));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upload, and behind it a request whose first byte came with its last.
    fn book() -> Book {
        let mut book = Book::new(2);
        book.note(1, |stamps| {
            *stamps = Stamps {
                first_sending: 10,
                head_sending: 20,
                head_read: 30,
                asked: 30,
                last_sending: 40,
                whole_read: 50,
                answering: 60,
                answered: 70,
                ending: 65,
                received_first: 75,
                received: 80,
                ..Stamps::default()
            };
        });
        book.note(2, |stamps| {
            *stamps = Stamps {
                kind: Kind::Behind,
                first_sending: 40,
                head_sending: 55,
                last_sending: 55,
                head_read: 90,
                asked: 90,
                whole_read: 90,
                answering: 100,
                answered: 110,
                ending: 100,
                received_first: 120,
                received: 120,
                before: 1,
                before_at_backend: 1,
                ..Stamps::default()
            };
        });
        book
    }

    #[test]
    fn windows_are_those_of_the_request_itself() {
        let book = book();
        assert_eq!((book.overlap(1), book.overlap(2)), (None, None));
        assert!(book.is_as_meant(1) && book.is_as_meant(2));
        let (one, two) = (book.windows(1), book.windows(2));
        assert_eq!((one.first, one.head), (Window { from: 10, to: 30 }, Window { from: 20, to: 30 }));
        assert_eq!((one.backend, one.sent), (Window { from: 40, to: 50 }, Window { from: 60, to: 70 }));
        assert_eq!((one.answer, one.end.from), (Window { from: 60, to: 75 }, 65));
        assert_eq!(one.acknowledged, Window { from: 65, to: u64::MAX }, "the next was on its way");
        assert_eq!((two.first, two.head), (Window { from: 40, to: 90 }, Window { from: 55, to: 90 }));
    }

    #[test]
    fn an_answer_is_acknowledged_by_the_next_request() {
        let mut book = book();
        book.note(1, |stamps| stamps.after = 2);
        book.note(2, |stamps| (stamps.first_sending, stamps.head_sending) = (80, 80));
        assert_eq!(book.windows(1).acknowledged, Window { from: 65, to: 90 });
    }

    #[test]
    fn what_was_sent_again_or_answered_early_has_other_windows() {
        let mut book = book();
        book.note(1, |stamps| {
            (stamps.kind, stamps.last_sending) = (Kind::Retried, 20);
            (stamps.closing, stamps.asked, stamps.whole_read) = (35, 50, 50);
        });
        assert_eq!(book.overlap(1), None);
        let again = book.windows(1);
        assert_eq!((again.attempt, again.backend), (Window { from: 35, to: 50 }, Window { from: 35, to: 50 }));
        assert_eq!(again.head, Window { from: 20, to: 30 }, "the client's side is over by then");
        book.note(1, |stamps| {
            *stamps = Stamps { kind: Kind::Early, closing: 0, last_sending: 62, whole_read: 90, ..*stamps };
        });
        assert_eq!(book.windows(1).backend, Window { from: 20, to: 70 });
        assert!(book.is_as_meant(1));
        book.note(1, |stamps| stamps.whole_read = 55);
        assert!(!book.is_as_meant(1), "it had all before it answered");
        assert!(book.is_acknowledged(1));
        book.note(1, |stamps| stamps.whole_read = 66);
        assert!(!book.is_acknowledged(1), "the answer was over first");
        book.note(1, |stamps| (stamps.whole_read, stamps.leaving) = (55, 80));
        assert!(!book.is_acknowledged(1), "nobody was there");
        book.note(1, |stamps| stamps.leaving = 0);
        book.note(1, |stamps| stamps.kind = Kind::Retried);
        assert!(!book.is_as_meant(1), "it was answered at once");
    }

    #[test]
    fn a_window_that_another_request_reaches_into_is_told() {
        let check = |id: Id, change: fn(&mut Stamps), told: &str| {
            let mut book = book();
            book.note(id, change);
            let overlap = book.overlap(2).unwrap();
            assert!(overlap.contains(told), "{overlap}");
        };
        check(2, |stamps| stamps.first_sending = 45, "it overlaps request 1 of its connection");
        check(1, |stamps| stamps.whole_read = 56, "it overlaps request 1 of its connection");
        check(1, |stamps| stamps.ending = 95, "it overlaps request 1 at the backend");
        check(2, |stamps| stamps.received = 0, "not in order");
        check(2, |stamps| stamps.head_read = 50, "not in order");
    }

    #[test]
    fn what_was_unread_at_once_counts_once() {
        let mut unread = Unread::default();
        unread.add(10, 20);
        unread.add(15, 30);
        unread.add(16, 25);
        unread.add(40, 50);
        assert_eq!(unread.most_ns(), Some(30));
        unread.leave_open();
        assert_eq!(unread.most_ns(), None);
    }
}
