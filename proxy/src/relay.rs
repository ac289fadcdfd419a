//! The clock of the bodies' relay: one state at a time, and every nanosecond of an attempt belongs to one of them. What ends
//! a state is the taps' to say, what the sums mean is the record's.

use crate::clock::MonoNs;
use crate::observer::{Marks, Missing};
use crate::record::BodyClock;

/// What the body's relay is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Relay {
    /// The clock does not run.
    #[default]
    Idle,
    /// [`BodyClock::upstream_body`].
    UpstreamBody,
    /// [`BodyClock::upstream_read_wait`].
    UpstreamReadWait,
    /// [`BodyClock::client_drain`].
    ClientDrain,
    /// [`BodyClock::proxy_response`].
    ProxyResponse,
    /// [`BodyClock::client_body`].
    ClientBody,
    /// [`BodyClock::read_wait`].
    ReadWait,
    /// [`BodyClock::upstream_drain`].
    UpstreamDrain,
    /// [`BodyClock::proxy_request`].
    ProxyRequest,
}

/// So many states before the one that runs are known: within one turn a worker reads, writes and reads again.
const BEFORE: usize = 4;

/// The state that runs, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    state: Relay,
    since: MonoNs,
    /// The states before it and since when they ran, in turn; the newest lies before `turn`.
    before: [(Relay, MonoNs); BEFORE],
    turn: usize,
}

/// A clock and its sums as they were.
#[derive(Clone, Copy, Debug)]
pub struct Kept(Clock, BodyClock);

impl Clock {
    /// To go back to, should what begins now turn out to be no answer.
    #[must_use]
    pub fn keep(&self, sums: &BodyClock) -> Kept {
        Kept(*self, *sums)
    }

    /// What had begun was an interim response: the state before it has lasted on.
    pub fn go_back(&mut self, sums: &mut BodyClock, kept: Kept) {
        let Kept(clock, kept) = kept;
        (*self, *sums) = (clock, kept);
    }

    /// What runs now.
    #[must_use]
    pub fn state(&self) -> Relay {
        self.state
    }

    /// Enters a state; the time since the last change belongs to the state before.
    pub fn enter(&mut self, sums: &mut BodyClock, next: Relay, at: MonoNs) {
        let Self { state, since, .. } = *self;
        if state == next {
            return;
        }
        if let Some(sum) = sum_of(sums, state) {
            *sum += at.since(since);
        }
        if let Some(kept) = self.before.get_mut(self.turn % BEFORE) {
            *kept = (state, since);
        }
        self.turn = self.turn.wrapping_add(1);
        (self.state, self.since) = (next, at);
    }

    /// Like [`Clock::enter`], where the bytes that end a wait had been readable since `readable`.
    pub fn enter_read(&mut self, sums: &mut BodyClock, next: Relay, readable: MonoNs, at: MonoNs) {
        let unread = match self.state {
            Relay::UpstreamBody => Some(Relay::UpstreamReadWait),
            Relay::ClientBody => Some(Relay::ReadWait),
            _ => None,
        };
        if let Some(unread) = unread
            && readable.0 != 0
            && readable < at
        {
            self.enter(sums, unread, readable.max(self.since));
        }
        self.enter(sums, next, at);
    }

    /// The response's first byte was read. It was readable since `readable`, where that is known: until it was read, it is
    /// what the proxy was late for, whatever the states of the upload say meanwhile.
    pub fn answered(&mut self, sums: &mut BodyClock, readable: MonoNs, at: MonoNs) {
        let was_running = self.state != Relay::Idle;
        self.enter(sums, Relay::ProxyResponse, at);
        if !was_running || readable.0 == 0 {
            return;
        }
        let mut to = at;
        for back in 1..=BEFORE {
            let Some((state, since)) = self.before.get(self.turn.wrapping_sub(back) % BEFORE).copied() else { return };
            if state == Relay::Idle {
                return;
            }
            if let Some(sum) = sum_of(sums, state) {
                *sum = sum.saturating_sub(to.since(since.max(readable)));
            }
            if since <= readable {
                return;
            }
            to = since;
        }
    }

    /// Likewise, where these are the marks of the first byte of what ends the wait; why that is not known, if it is not.
    pub fn read(&mut self, sums: &mut BodyClock, next: Relay, marks: &Marks, at: MonoNs) -> Missing {
        // What was there when the wait began was unread for all of it, whenever it came.
        let is_exact = marks.first.0 != 0 || (marks.first_by.0 != 0 && marks.first_by <= self.since);
        let readable = if marks.first.0 != 0 { marks.first } else { marks.first_by };
        self.enter_read(sums, next, readable, at);
        if is_exact { Missing::NOTHING } else { marks.missing }
    }

    /// Another attempt begins. What was waited for until now is what the attempts before it took, which their points say:
    /// left in the sums it would be counted twice.
    pub fn start_over(&mut self, sums: &mut BodyClock) {
        (*self, *sums) = (Self::default(), BodyClock::default());
    }
}

fn sum_of(sums: &mut BodyClock, state: Relay) -> Option<&mut u64> {
    let BodyClock {
        upstream_body,
        upstream_read_wait,
        client_drain,
        proxy_response,
        client_body,
        read_wait,
        upstream_drain,
        proxy_request,
    } = sums;
    match state {
        Relay::Idle => None,
        Relay::UpstreamBody => Some(upstream_body),
        Relay::UpstreamReadWait => Some(upstream_read_wait),
        Relay::ClientDrain => Some(client_drain),
        Relay::ProxyResponse => Some(proxy_response),
        Relay::ClientBody => Some(client_body),
        Relay::ReadWait => Some(read_wait),
        Relay::UpstreamDrain => Some(upstream_drain),
        Relay::ProxyRequest => Some(proxy_request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_waited_for_until_an_early_answer_is_readable() {
        for (readable, client_body, read_wait, proxy_request) in
            [(0, 90, 20, 35), (300, 90, 20, 35), (190, 90, 20, 20), (178, 90, 20, 8), (165, 90, 15, 0), (120, 60, 0, 0)]
        {
            let (mut clock, mut sums) = (Clock::default(), BodyClock::default());
            clock.enter(&mut sums, Relay::ClientBody, MonoNs(60));
            // The worker comes late: for the client's bytes, and for the answer.
            clock.enter_read(&mut sums, Relay::ProxyRequest, MonoNs(150), MonoNs(170));
            clock.answered(&mut sums, MonoNs(readable), MonoNs(205));
            clock.enter(&mut sums, Relay::UpstreamBody, MonoNs(210));
            clock.enter(&mut sums, Relay::Idle, MonoNs(300));
            let expected = BodyClock {
                client_body,
                read_wait,
                proxy_request,
                proxy_response: 5,
                upstream_body: 90,
                ..BodyClock::default()
            };
            assert_eq!(sums, expected, "readable at {readable}");
        }
    }

    #[test]
    fn an_interim_response_ends_no_wait() {
        let (mut clock, mut sums) = (Clock::default(), BodyClock::default());
        clock.enter(&mut sums, Relay::ClientBody, MonoNs(100));
        let kept = clock.keep(&sums);
        clock.enter(&mut sums, Relay::ProxyResponse, MonoNs(150));
        clock.enter(&mut sums, Relay::UpstreamBody, MonoNs(160));
        clock.go_back(&mut sums, kept);
        clock.enter(&mut sums, Relay::ProxyRequest, MonoNs(400));
        assert_eq!(sums, BodyClock { client_body: 300, ..BodyClock::default() });
    }

    #[test]
    fn what_an_attempt_waited_for_is_not_the_next_ones() {
        let (mut clock, mut sums) = (Clock::default(), BodyClock::default());
        clock.enter(&mut sums, Relay::ClientBody, MonoNs(100));
        clock.enter(&mut sums, Relay::ProxyRequest, MonoNs(130));
        clock.enter(&mut sums, Relay::ClientBody, MonoNs(150));
        clock.start_over(&mut sums);
        assert_eq!(clock.state(), Relay::Idle, "until the head is with the next server");
        clock.enter(&mut sums, Relay::ClientBody, MonoNs(400));
        clock.enter_read(&mut sums, Relay::ProxyRequest, MonoNs(450), MonoNs(470));
        clock.enter(&mut sums, Relay::Idle, MonoNs(475));
        assert_eq!(sums, BodyClock { client_body: 50, read_wait: 20, proxy_request: 5, ..BodyClock::default() });
    }
}
