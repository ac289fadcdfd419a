//! An upload of which is known to the microsecond who waited for whom, in as many attempts as it took. The proxy's own clock
//! runs along with it, and its record says what that clock says.

use fastrand::Rng;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{Attempt, BodyClock, End, ErrorKind, Head, Method};
use wayspan_proxy::relay::{Clock, Relay};

use crate::merge::phase::Phase;

/// Microseconds in each phase.
pub(super) type Phases = [u64; Phase::COUNT];

/// An upload under way.
struct Upload<'r> {
    random: &'r mut Rng,
    now: MonoNs,
    phases: Phases,
    clock: Clock,
    sums: BodyClock,
}

/// Gives a request, and its attempts of which the last is answered, the times of an upload that begins at `from`. What is true
/// of it.
pub(super) fn happens(random: &mut Rng, from: MonoNs, head: &mut Head, attempts: &mut [Attempt]) -> Phases {
    let phases = [0; Phase::COUNT];
    let mut upload = Upload { random, now: from, phases, clock: Clock::default(), sums: BodyClock::default() };
    (head.first_readable, head.accepted) = (from, from);
    head.head_readable = upload.passes(Phase::ClientSend);
    head.head_read = upload.passes(Phase::ReadWait);
    head.first_read = head.head_read;
    head.upstream_wanted = upload.passes(Phase::ProxyRequest);
    let last = attempts.len().saturating_sub(1);
    for (number, attempt) in attempts.iter_mut().enumerate() {
        if number > 0 {
            upload.clock.start_over(&mut upload.sums);
        }
        if number == last { upload.succeeds(attempt) } else { upload.fails(attempt) }
    }
    head.head_written = upload.passes(Phase::ProxyResponse);
    head.ended = upload.passes(Phase::ProxyResponse);
    upload.relay(Relay::Idle);
    (head.method, head.status, head.end, head.body) = (Method::Put, 200, End::Complete, upload.sums);
    upload.phases
}

impl Upload<'_> {
    /// Up to three milliseconds go by that belong to a phase. What time it is then.
    fn passes(&mut self, phase: Phase) -> MonoNs {
        let us = if self.random.u8(..6) == 0 { 0 } else { self.random.u64(..3000) };
        self.phases[phase as usize] += us;
        self.now = MonoNs(self.now.0 + us * 1000);
        self.now
    }

    fn relay(&mut self, next: Relay) {
        self.clock.enter(&mut self.sums, next, self.now);
    }

    /// A pooled connection is closed while the client has not sent any of the body.
    fn fails(&mut self, attempt: &mut Attempt) {
        let begun = self.now;
        let head_written = self.passes(Phase::RetryWait);
        let begins = if self.random.bool() { Relay::ClientBody } else { Relay::ProxyRequest };
        self.relay(begins);
        *attempt = Attempt {
            reused: true,
            begun,
            chosen: begun,
            connected: begun,
            secured: begun,
            head_written,
            request_written: head_written,
            ended: self.passes(Phase::RetryWait),
            error: ErrorKind::UpstreamClosed,
            ..unanswered(attempt)
        };
        self.passes(Phase::RetryWait);
    }

    /// A new connection; the body comes in pieces, and its backend is on this node.
    fn succeeds(&mut self, attempt: &mut Attempt) {
        *attempt = unanswered(attempt);
        attempt.begun = self.now;
        attempt.chosen = self.passes(Phase::PoolWait);
        attempt.connected = self.passes(Phase::UpstreamConnect);
        attempt.secured = attempt.connected;
        attempt.head_written = self.passes(Phase::UpstreamWrite);
        for _ in 0..self.random.u8(1..4) {
            self.relay(Relay::ClientBody);
            let readable = self.passes(Phase::ClientBody);
            let read = self.passes(Phase::ReadWait);
            self.clock.enter_read(&mut self.sums, Relay::ProxyRequest, readable, read);
            self.passes(Phase::ProxyRequest);
            self.relay(Relay::UpstreamDrain);
            attempt.request_written = self.passes(Phase::UpstreamDrain);
            self.relay(Relay::ProxyRequest);
        }
        attempt.backend_readable = self.passes(Phase::UpstreamPathOut);
        attempt.backend_read = self.passes(Phase::BackendPickup);
        attempt.backend_sent = self.passes(Phase::BackendApp);
        attempt.first_readable = self.passes(Phase::UpstreamPathBack);
        attempt.first_read = self.passes(Phase::UpstreamReadWait);
        self.relay(Relay::ProxyResponse);
        attempt.ended = self.now;
    }
}

/// The same connection and bytes, and no times.
fn unanswered(attempt: &Attempt) -> Attempt {
    Attempt {
        span_id: attempt.span_id,
        token: attempt.token,
        request_start: attempt.request_start,
        request_end: attempt.request_end,
        response_start: attempt.response_start,
        response_end: attempt.response_end,
        ..Attempt::default()
    }
}
