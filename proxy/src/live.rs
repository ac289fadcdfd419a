//! The request under way: its stamps, its body's state clock, and what it leaves when it ends. Whoever learns a time
//! writes it here; [`Live::finish`] turns it into the record, once.

use std::borrow::Cow;

use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::task::coop::has_budget_remaining;

use crate::clock::MonoNs;
use crate::counters::Key;
use crate::middleware::Permit;
use crate::observer::{Marks, Missing};
use crate::record::{self, ATTEMPTS_MAX, Attempt, End, ErrorKind, Head, Texts};
use crate::relay::{Clock, Kept, Relay};
use crate::resend::Resend;
use crate::snapshot::Snapshot;

/// A request from its head to its last byte.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) head: Head,
    pub(crate) attempts: Attempts,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) target: Option<PathAndQuery>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) forwarded_client: Option<HeaderValue>,
    pub(crate) trace_state: Option<HeaderValue>,
    pub(crate) method_other: Option<http::Method>,
    /// The protocol that the request asks the server for.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Captured request headers: index into the snapshot's list, value.
    pub(crate) request_headers: Vec<(u16, HeaderValue)>,
    /// Captured response headers likewise.
    pub(crate) response_headers: Vec<(u16, HeaderValue)>,
    /// What it takes to send it to another connection.
    pub(crate) resend: Resend,
    /// Whether its route is counted; none while it has no route.
    pub(crate) metered: Option<bool>,
    /// More of the request's body is to come from the client.
    pub(crate) uploading: bool,
    /// The client had no more of it when it was last asked.
    pub(crate) starved: bool,
    /// When more of it was read from the client, or written to the server, since an answer or an interim response began.
    pub(crate) uploaded_at: MonoNs,
    /// The response's head was handed to hyper.
    pub(crate) responded: bool,
    /// The response's body was handed to hyper, whole or cut.
    pub(crate) body_done: bool,
    /// Its places under limits of requests under way.
    pub(crate) permits: Vec<Permit>,
    /// Calls of its middlewares.
    pub(crate) calls: Vec<Attempt>,
    clock: Clock,
}

/// The attempts that a record keeps: the first ones, and always the last.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    all: Vec<Attempt>,
    made: u16,
}

impl Attempts {
    fn push(&mut self, attempt: Attempt) {
        self.made = self.made.saturating_add(1);
        if self.all.len() == ATTEMPTS_MAX {
            self.all.pop();
        }
        self.all.push(attempt);
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Attempt> {
        self.all.last_mut()
    }

    /// All that are kept.
    pub(crate) fn kept(&self) -> &[Attempt] {
        &self.all
    }

    pub(crate) fn made(&self) -> u16 {
        self.made
    }

    fn clear(&mut self) {
        self.all.clear();
        self.made = 0;
    }
}

impl Live {
    /// Enters a state of the body's relay; the time since the last change belongs to the state before.
    pub(crate) fn relay(&mut self, next: Relay, at: MonoNs) {
        self.clock.enter(&mut self.head.body, next, at);
    }

    /// Like [`Live::relay`], where what ends a wait had been readable since these marks' first byte; why that is not known,
    /// if it is not.
    pub(crate) fn relay_read(&mut self, next: Relay, marks: &Marks, at: MonoNs) -> Missing {
        self.clock.read(&mut self.head.body, next, marks, at)
    }

    /// The first byte of an answer, or of an interim response, was read now, and was readable since then, if that is known: the
    /// upload's states end there. The body's clock as it was.
    pub(crate) fn answer_begins(&mut self, readable: MonoNs, at: MonoNs) -> Kept {
        let kept = self.clock.keep(&self.head.body);
        self.uploaded_at = MonoNs::UNKNOWN;
        self.clock.answered(&mut self.head.body, readable, at);
        self.head.early = self.uploading;
        kept
    }

    /// It was an interim response.
    pub(crate) fn was_interim(&mut self, kept: Kept) {
        self.clock.go_back(&mut self.head.body, kept);
        // The upload may have gone on between the interim response's first byte and its last.
        if self.uploaded_at.known().is_some() {
            self.upload_goes_on(self.uploaded_at);
        }
    }

    /// A socket takes nothing more. Where the task's budget is spent tokio asks none: other tasks have their turn, and this one is late.
    pub(crate) fn blocked(&mut self, drain: Relay) {
        if has_budget_remaining() {
            self.relay(drain, MonoNs::now());
        }
    }

    /// The upstream takes more of the request's body again. Where the client had sent no more of it by then, it is waited for: nobody
    /// reads a second time to say so.
    pub(crate) fn upload_goes_on(&mut self, at: MonoNs) {
        let awaited = if self.uploading && self.starved { Relay::ClientBody } else { Relay::ProxyRequest };
        self.relay(awaited, at);
    }

    /// A connection is wanted for an attempt: since when.
    pub(crate) fn wants_attempt(&mut self) -> MonoNs {
        if self.attempts.made() == 0 {
            return self.head.upstream_wanted;
        }
        (self.head.again, self.head.paused) = (MonoNs::now(), false);
        self.head.again
    }

    /// Another attempt comes after a pause.
    pub(crate) fn pauses(&mut self) {
        (self.head.again, self.head.paused) = (MonoNs::now(), true);
    }

    /// An attempt begins. The body's clock is the last one's.
    pub(crate) fn begin_attempt(&mut self, attempt: Attempt) {
        self.head.again = MonoNs::UNKNOWN;
        if self.attempts.made() > 0 {
            self.clock.start_over(&mut self.head.body);
        }
        self.attempts.push(attempt);
    }

    /// The request's head is with the upstream: from here on the body's clock runs, if a body comes.
    pub(crate) fn request_begun(&mut self, at: MonoNs) {
        if self.uploading || self.head.request_body_bytes != 0 {
            self.upload_goes_on(at);
        }
    }

    pub(crate) fn relay_state(&self) -> Relay {
        self.clock.state()
    }

    /// Says how the request goes wrong; the first cause stays.
    pub(crate) fn fail(&mut self, end: End, error: ErrorKind) {
        if self.head.error == ErrorKind::None {
            self.head.error = error;
        }
        if self.head.end == End::Complete {
            self.head.end = end;
        }
    }

    /// Makes it new, keeping its memory.
    pub(crate) fn reset(&mut self) {
        // Field by field where it lies: built anew and moved here it would be a thousand bytes more to copy.
        let Self {
            head,
            attempts,
            host,
            target,
            user_agent,
            forwarded_client,
            trace_state,
            method_other,
            upgrade,
            request_headers,
            response_headers,
            resend,
            metered,
            uploading,
            starved,
            uploaded_at,
            responded,
            body_done,
            permits,
            calls,
            clock,
        } = self;
        *head = Head::default();
        attempts.clear();
        for header in [host, user_agent, forwarded_client, trace_state, upgrade] {
            *header = None;
        }
        *target = None;
        *method_other = None;
        request_headers.clear();
        response_headers.clear();
        resend.reset();
        *metered = None;
        *uploaded_at = MonoNs::UNKNOWN;
        for flag in [uploading, starved, responded, body_done] {
            *flag = false;
        }
        permits.clear();
        calls.clear();
        *clock = Clock::default();
    }

    /// Ends the clock and the request, after so many bytes written to the client's connection.
    pub(crate) fn end(&mut self, at: MonoNs, written_bytes: u64) {
        self.relay(Relay::Idle, at);
        self.permits.clear();
        self.head.ended = at;
        if self.attempts.kept().last().is_none_or(|attempt| attempt.first_read.known().is_none()) {
            self.head.early = self.uploading;
        }
        if self.head.head_written.0 != 0 {
            self.head.response_end = written_bytes;
        }
        self.head.attempts_made = self.attempts.made();
    }

    /// The counters' key of this request.
    pub(crate) fn key(&self) -> Key {
        let Head { entry_point, route, service, method, status, .. } = self.head;
        Key { entry_point, route, service, method, code: status }
    }

    /// Appends the record, with this head. The snapshot names the captured headers.
    pub(crate) fn encode(&self, head: &Head, snapshot: &Snapshot, out: &mut Vec<u8>) {
        fn text(value: Option<&HeaderValue>) -> &str {
            value.and_then(|value| value.to_str().ok()).unwrap_or_default()
        }
        // Bytes that are no UTF-8 are replaced, as in captured headers (RFC 9110, 5.5: they may be anything).
        let user_agent =
            self.user_agent.as_ref().map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes()));
        let texts = Texts {
            host: text(self.host.as_ref()),
            path: self.target.as_ref().map_or("", PathAndQuery::path),
            query: self.target.as_ref().and_then(PathAndQuery::query).unwrap_or_default(),
            user_agent: &user_agent,
            forwarded_client: text(self.forwarded_client.as_ref()),
            trace_state: text(self.trace_state.as_ref()),
            method_other: self.method_other.as_ref().map_or("", http::Method::as_str),
        };
        record::encode_with_calls(
            out,
            head,
            [&self.attempts.all, &self.calls],
            &texts,
            named(&self.request_headers, &snapshot.captured_request_headers),
            named(&self.response_headers, &snapshot.captured_response_headers),
        );
    }
}

fn named<'h>(
    values: &'h [(u16, HeaderValue)],
    names: &'h [Box<str>],
) -> impl Iterator<Item = (&'h str, &'h [u8])> + use<'h> {
    values.iter().filter_map(|(index, value)| Some((&**names.get(usize::from(*index))?, value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_early_while_more_of_the_upload_is_to_come() {
        let mut live = Live { uploading: true, ..Live::default() };
        let kept = live.answer_begins(MonoNs(10), MonoNs(11));
        assert!(live.head.early);
        live.was_interim(kept);
        live.uploading = false;
        live.answer_begins(MonoNs(20), MonoNs(21));
        assert!(!live.head.early);
        let mut unanswered = Live { uploading: true, ..Live::default() };
        unanswered.begin_attempt(Attempt::default());
        unanswered.end(MonoNs(30), 0);
        assert!(unanswered.head.early);
    }

    #[test]
    fn the_relay_clock_gives_every_nanosecond_to_one_state() {
        let mut live = Live::default();
        live.relay(Relay::ProxyResponse, MonoNs(100));
        live.relay(Relay::UpstreamBody, MonoNs(110));
        let marks = Marks { first: MonoNs(150), ..Marks::default() };
        assert_eq!(live.relay_read(Relay::ProxyResponse, &marks, MonoNs(175)), Missing::NOTHING);
        live.relay(Relay::ClientDrain, MonoNs(180));
        live.relay(Relay::ProxyResponse, MonoNs(280));
        live.end(MonoNs(300), 0);
        let body = live.head.body;
        assert_eq!((body.upstream_body, body.upstream_read_wait), (40, 25));
        assert_eq!((body.client_drain, body.proxy_response), (100, 10 + 5 + 20));
    }

    #[test]
    fn an_upload_that_goes_on_within_an_interim_response_is_over_then() {
        for (starved, client_body, proxy_request) in [(false, 60, 340), (true, 60 + 340, 0)] {
            let mut live = Live { uploading: true, ..Live::default() };
            live.relay(Relay::ClientBody, MonoNs(100));
            let kept = live.answer_begins(MonoNs::UNKNOWN, MonoNs(120));
            // More of it was read and written on.
            live.uploaded_at = MonoNs(160);
            live.starved = starved;
            live.was_interim(kept);
            live.answer_begins(MonoNs(500), MonoNs(520));
            let body = live.head.body;
            assert_eq!((body.client_body, body.proxy_request), (client_body, proxy_request), "starved {starved}");
        }
    }

    #[test]
    fn bytes_that_were_readable_when_the_wait_began_need_no_time_of_their_own() {
        let lost = Missing::OVERWRITTEN;
        for (by, body, unread, missing) in
            [(0, 100, 0, lost), (90, 0, 100, Missing::NOTHING), (110, 0, 100, Missing::NOTHING), (150, 40, 60, lost)]
        {
            let mut live = Live::default();
            live.relay(Relay::UpstreamBody, MonoNs(110));
            let marks = Marks { first_by: MonoNs(by), missing: lost, ..Marks::default() };
            assert_eq!(live.relay_read(Relay::ProxyResponse, &marks, MonoNs(210)), missing, "by {by}");
            assert_eq!((live.head.body.upstream_body, live.head.body.upstream_read_wait), (body, unread), "by {by}");
        }
    }

    #[test]
    fn a_user_agent_may_be_any_bytes() {
        for (sent, shown) in [(b"B\xc3\xbccher/1".as_slice(), "B\u{fc}cher/1"), (b"B\xfccher/1", "B\u{fffd}cher/1")] {
            let live = Live { user_agent: HeaderValue::from_bytes(sent).ok(), ..Live::default() };
            let mut bytes = Vec::new();
            live.encode(&live.head, &Snapshot::default(), &mut bytes);
            assert_eq!(
                record::Record::decode(&bytes).map(|record| record.texts.user_agent.to_owned()).as_deref(),
                Ok(shown)
            );
        }
    }

    #[test]
    fn the_first_cause_of_a_failure_stays() {
        let mut live = Live::default();
        live.fail(End::UpstreamCut, ErrorKind::UpstreamReset);
        live.fail(End::ClientGone, ErrorKind::ClientGone);
        assert_eq!((live.head.end, live.head.error), (End::UpstreamCut, ErrorKind::UpstreamReset));
    }
}
