//! What client and backend have written down of each request, all on one clock, and the windows in which its marks must lie.
//! They are disjoint per connection, which [`Book::overlap`] checks before anything is judged by them.

/// A request's number; numbers begin with 1.
pub(super) type Id = u32;

/// How a request is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Over a connection that is kept, its head in one segment or in two.
    #[default]
    KeepAlive,
    /// Over a connection on which the next request is there before the answer, segments ending anywhere in requests.
    Pipelined,
    /// Over a connection of its own.
    ShortLived,
    /// Over a kept connection, to a backend that closes its connection with each answer.
    FreshUpstream,
    /// Over a connection of its own, to such a backend.
    ShortBoth,
    /// In any of the first three ways, while connections to the backend are still made.
    WarmUp,
}

impl Kind {
    /// Whether its backend closes its connection with each answer.
    pub(super) fn has_fresh_upstream(self) -> bool {
        matches!(self, Self::FreshUpstream | Self::ShortBoth)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Pipelined => "pipelined",
            Self::ShortLived => "short-lived",
            Self::FreshUpstream => "fresh upstream",
            Self::ShortBoth => "short-lived, fresh upstream",
            Self::WarmUp => "warm-up",
        }
    }
}

/// The stamps of one request, CLOCK_MONOTONIC nanoseconds; 0 where it has not come so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamps {
    pub(super) kind: Kind,
    /// Its client.
    pub(super) client: usize,
    /// The client is about to write the segment with its first byte.
    pub(super) first_sending: u64,
    /// The client is about to write the segment with its head's last byte.
    pub(super) last_sending: u64,
    /// The backend has read its head.
    pub(super) head_read: u64,
    /// The backend is about to write its answer.
    pub(super) answering: u64,
    /// The backend has written it.
    pub(super) answered: u64,
    /// The client has read the answer's last byte.
    pub(super) received: u64,
    /// The request before it on the client's connection; 0 for the first.
    pub(super) before: Id,
    /// The same on the backend's connection.
    pub(super) before_at_backend: Id,
    /// The one behind it there.
    pub(super) after_at_backend: Id,
}

/// The stamps of all requests.
#[derive(Debug, Default)]
pub(super) struct Book<S = Stamps>(Vec<S>);

/// Where a mark may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// The windows of a request's marks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// The first byte readable here.
    pub(super) first: Window,
    /// The head's last byte readable here.
    pub(super) last: Window,
    /// The request readable at the backend, and read by it.
    pub(super) backend: Window,
    /// The answer written by the backend.
    pub(super) sent: Window,
    /// The answer's first byte readable here.
    pub(super) answer: Window,
}

impl<S: Copy + Default> Book<S> {
    pub(super) fn new(requests: Id) -> Self {
        Self(vec![S::default(); requests as usize + 1])
    }

    pub(super) fn of(&self, id: Id) -> S {
        self.0.get(id as usize).copied().unwrap_or_default()
    }

    /// A request's page; a number that is none has no effect.
    pub(super) fn note(&mut self, id: Id, write: impl FnOnce(&mut S)) {
        if let Some(stamps) = self.0.get_mut(id as usize).filter(|_| id > 0) {
            write(stamps);
        }
    }

    /// The numbers of all requests.
    pub(super) fn ids(&self) -> std::ops::Range<Id> {
        1..Id::try_from(self.0.len()).unwrap_or(Id::MAX)
    }
}

impl Book {
    /// Where a request's marks must lie.
    pub(super) fn windows(&self, id: Id) -> Windows {
        let own = self.of(id);
        let [before, earlier, later] = [own.before, own.before_at_backend, own.after_at_backend].map(|id| self.of(id));
        // A segment that brings one request's last byte may bring the first of the next: both were readable by the time
        // at which the backend had read the former.
        let shares = own.before > 0 && own.first_sending == before.last_sending;
        let behind = if later.head_read > 0 { later.head_read } else { u64::MAX };
        Windows {
            first: Window { from: own.first_sending, to: if shares { before.head_read } else { own.head_read } },
            last: Window { from: own.last_sending, to: own.head_read },
            backend: Window { from: own.last_sending.max(earlier.answering), to: own.head_read },
            sent: Window { from: own.answering, to: own.answered },
            answer: Window { from: own.answering, to: own.received.min(behind) },
        }
    }

    /// What is wrong with a request's own windows: marks of another request of its connections could lie in them.
    pub(super) fn overlap(&self, id: Id) -> Option<String> {
        let own = self.of(id);
        let in_order = [own.first_sending, own.last_sending, own.head_read, own.answering, own.answered].is_sorted();
        if !in_order || own.first_sending == 0 || own.received < own.answering {
            return Some(format!("its stamps are not in order: {own:?}"));
        }
        let before = self.of(own.before);
        let shares = own.first_sending == before.last_sending;
        if own.before > 0 && (own.last_sending < before.head_read || !(shares || own.first_sending >= before.head_read))
        {
            return Some(format!("it overlaps request {} of its connection: {before:?}, {own:?}", own.before));
        }
        let earlier = self.of(own.before_at_backend);
        if own.before_at_backend > 0 && own.head_read < earlier.answered {
            return Some(format!("it overlaps request {} at the backend: {earlier:?}, {own:?}", own.before_at_backend));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two requests on the same connections; the second's first byte came with the first's last.
    fn book() -> Book {
        let mut book = Book::new(2);
        book.note(1, |stamps| {
            *stamps = Stamps {
                first_sending: 10,
                last_sending: 20,
                head_read: 30,
                answering: 50,
                answered: 60,
                received: 70,
                after_at_backend: 2,
                ..Stamps::default()
            };
        });
        book.note(2, |stamps| {
            *stamps = Stamps {
                first_sending: 20,
                last_sending: 40,
                head_read: 80,
                answering: 90,
                answered: 100,
                received: 110,
                before: 1,
                before_at_backend: 1,
                ..Stamps::default()
            };
        });
        book
    }

    #[test]
    fn windows_of_neighbours_do_not_touch() {
        let book = book();
        let (one, two) = (book.windows(1), book.windows(2));
        assert_eq!((one.first, one.last), (Window { from: 10, to: 30 }, Window { from: 20, to: 30 }));
        // Byte for byte in the same segment, so the same window.
        assert_eq!(two.first, Window { from: 20, to: 30 });
        assert_eq!(two.last, Window { from: 40, to: 80 });
        assert_eq!((one.backend, two.backend), (Window { from: 20, to: 30 }, Window { from: 50, to: 80 }));
        assert_eq!((one.sent, one.answer), (Window { from: 50, to: 60 }, Window { from: 50, to: 70 }));
        assert_eq!(two.answer, Window { from: 90, to: 110 });
        assert_eq!((book.overlap(1), book.overlap(2)), (None, None));
    }

    #[test]
    fn a_window_that_another_request_reaches_into_is_told() {
        let check = |id: Id, change: fn(&mut Stamps), told: &str| {
            let mut book = book();
            book.note(id, change);
            let overlap = book.overlap(2).unwrap();
            assert!(overlap.contains(told), "{overlap}");
        };
        check(1, |stamps| stamps.head_read = 45, "it overlaps request 1 of its connection");
        check(2, |stamps| stamps.first_sending = 25, "it overlaps request 1 of its connection");
        check(1, |stamps| stamps.answered = 85, "it overlaps request 1 at the backend");
        check(2, |stamps| stamps.received = 0, "not in order");
        check(2, |stamps| stamps.head_read = 0, "not in order");
    }
}
