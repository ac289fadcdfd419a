//! A client's connection: what it sends, how that is read as the proxy reads it, and what the record of each request says. Beside
//! it stands what is true.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

use wayspan_proxy::asks::{Asks, HeadSeen};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::framer::{Event, Framer, Limits};
use wayspan_proxy::observer::Missing;
use wayspan_proxy::record::{Attempt, BodyClock, End, Head, Method, Previous};
use wayspan_proxy::relay::{Clock, Relay};
use wayspan_proxy::trace_context::{SpanId, TraceId};

use super::site::{Site, Stream};
use super::upstream::{Answer, Upstream};

/// A request as it was sent: offsets in what the framer reads.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    start: u64,
    head_end: u64,
    end: u64,
}

/// What is true of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    /// Where its head lies on the wire.
    pub(super) head: Range<u64>,
    pub(super) first_readable: MonoNs,
    pub(super) head_readable: MonoNs,
    /// Of an upload: how long the proxy waited for it, and how long it lay unread.
    pub(super) client_body_ns: u64,
    pub(super) read_wait_ns: u64,
    pub(super) answer: Answer,
    /// Why times of the client's side may be missing.
    pub(super) lawful: Missing,
}

/// A request that has ended.
pub(super) struct Ended {
    pub(super) head: Head,
    pub(super) attempt: Attempt,
    pub(super) truth: Truth,
}

/// An acknowledgement: when, up to where, and what had left by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    pub(super) at: MonoNs,
    pub(super) end: u64,
    pub(super) left: u64,
}

/// One connection.
pub(super) struct Conversation<'s> {
    site: &'s RefCell<Site>,
    pub(super) stream: RefCell<Stream>,
    /// Of TLS: where each record lies on the wire, and where what it holds in the stream that the framer reads.
    records: Vec<(Range<u64>, Range<u64>)>,
    plain: Vec<u8>,
    plain_base: u64,
    sent: VecDeque<Sent>,
    framer: Framer,
    /// Of what the framer reads.
    read: u64,
    /// Of the wire.
    wire_read: u64,
    begun: Option<HeadSeen>,
    heads: VecDeque<HeadSeen>,
    uploading: bool,
    accepted: MonoNs,
    requests: u32,
    upload: Upload,
    pub(super) written: u64,
    previous_write: Range<MonoNs>,
    pub(super) acks: Vec<Ack>,
    upstream: Option<Upstream>,
}

/// The clock of an upload, the proxy's and the true one.
#[derive(Default)]
struct Upload {
    clock: Clock,
    sums: BodyClock,
    missing: Missing,
    since: MonoNs,
    client_body_ns: u64,
    read_wait_ns: u64,
}

impl Upload {
    fn waits(&mut self, now: MonoNs) {
        if self.clock.state() == Relay::ProxyRequest {
            self.clock.enter(&mut self.sums, Relay::ClientBody, now);
            self.since = now;
        }
    }
}

/// Bytes beyond which offsets have no room in 32 bits.
const FAR: u64 = 1 << 32;

impl<'s> Conversation<'s> {
    pub(super) fn new(site: &'s RefCell<Site>) -> Self {
        let mut its = site.borrow_mut();
        let mut stream = its.client();
        let bases = [0, 0, FAR - 40, FAR, 3 * FAR - its.random.u64(..300)];
        let base = bases[its.random.usize(..bases.len())];
        stream.begins_at(base, &mut its);
        let mut this = Self {
            site,
            records: Vec::new(),
            plain: Vec::new(),
            plain_base: base,
            sent: VecDeque::new(),
            framer: Framer::requests(Limits { head_bytes: 8192, headers: 50 }),
            read: base,
            wire_read: base,
            begun: None,
            heads: VecDeque::new(),
            uploading: false,
            accepted: MonoNs::UNKNOWN,
            requests: 0,
            upload: Upload::default(),
            written: 0,
            previous_write: MonoNs::UNKNOWN..MonoNs::UNKNOWN,
            acks: Vec::new(),
            upstream: None,
            stream: RefCell::new(stream),
        };
        (0..its.random.u8(1..5)).for_each(|_| this.says(&mut its));
        if its.chance(3) {
            this.encloses(&mut its);
        } else {
            this.stream.borrow_mut().bytes.clone_from(&this.plain);
        }
        while its.chance(2) && its.comes(&mut this.stream.borrow_mut()) {}
        this.accepted = its.pass();
        drop(its);
        this
    }

    /// The client will send a request.
    fn says(&mut self, site: &mut Site) {
        let at = |plain: &Vec<u8>| self.plain_base + u64::try_from(plain.len()).unwrap();
        let start = at(&self.plain);
        let body = vec![b'x'; if site.chance(3) { site.random.usize(1..200) } else { 0 }];
        let framing = match body.len() {
            0 => String::new(),
            length if site.random.bool() => format!("Content-Length: {length}\r\n"),
            _ => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let padding = "p".repeat(site.random.usize(..80));
        let method = if body.is_empty() { "GET" } else { "PUT" };
        self.plain.extend(format!("{method} /{padding} HTTP/1.1\r\nHost: a\r\n{framing}\r\n").bytes());
        let head_end = at(&self.plain);
        if framing.starts_with('T') {
            for chunk in body.chunks(30) {
                self.plain.extend(format!("{:x}\r\n", chunk.len()).bytes());
                self.plain.extend(chunk);
                self.plain.extend(b"\r\n");
            }
            self.plain.extend(b"0\r\n\r\n");
        } else {
            self.plain.extend(body);
        }
        self.sent.push_back(Sent { start, head_end, end: at(&self.plain) });
    }

    /// All of it goes in records.
    fn encloses(&mut self, site: &mut Site) {
        const OVERHEAD: usize = 5 + 17;
        let mut stream = self.stream.borrow_mut();
        let mut from = 0;
        while from < self.plain.len() {
            let length = site.random.usize(1..=300).min(self.plain.len() - from);
            let (start, to) = (stream.end(), from + length);
            let filler = std::iter::repeat_n(b'\x17', length + OVERHEAD);
            stream.bytes.extend(filler);
            let plain = |index: usize| self.plain_base + u64::try_from(index).unwrap();
            self.records.push((start..stream.end(), plain(from)..plain(to)));
            from = to;
        }
    }

    /// Where on the wire the bytes of the framer's stream lie: of TLS all of their record.
    fn wire(&self, plain: u64) -> Range<u64> {
        let its = self.records.iter().find(|(_, within)| within.contains(&plain));
        its.map_or(plain..plain + 1, |(wire, _)| wire.clone())
    }

    /// What one read brings: of TLS a whole record, if it is there.
    fn takes(&mut self) -> Option<(Vec<u8>, Option<Range<u64>>)> {
        let stream = self.stream.borrow();
        let there = stream.arrived();
        if self.records.is_empty() {
            let room = self.site.borrow_mut().random.u64(1..2000);
            let to = there.min(self.wire_read + room);
            let bytes = stream.between(self.wire_read, to).to_vec();
            self.wire_read = to;
            return (!bytes.is_empty()).then_some((bytes, None));
        }
        let (wire, plain) = self.records.iter().find(|(wire, _)| wire.start >= self.wire_read)?;
        (there >= wire.end).then(|| {
            let index = |offset: u64| usize::try_from(offset - self.plain_base).unwrap();
            self.wire_read = wire.end;
            (self.plain[index(plain.start)..index(plain.end)].to_vec(), Some(wire.clone()))
        })
    }

    /// A read, as `ClientConn::read` does it. Says whether there was something.
    fn reads(&mut self) -> bool {
        let Some((bytes, record)) = self.takes() else { return false };
        let at = self.site.borrow_mut().pass();
        let (site, stream) = (self.site, &self.stream);
        let first = self.wire(self.read);
        let came = stream.borrow().came(if record.is_some() { first.end - 1 } else { first.start });
        let asks = Asks::within(record, |bytes| site.borrow_mut().marks(&mut stream.borrow_mut(), &bytes));
        let upload = &mut self.upload;
        if self.uploading && upload.clock.state() == Relay::ClientBody {
            let marks = asks.goes_on(self.read);
            upload.missing = upload.missing.with(upload.clock.read(&mut upload.sums, Relay::ProxyRequest, &marks, at));
            let readable = came.max(upload.since);
            upload.client_body_ns += readable.since(upload.since);
            upload.read_wait_ns += at.since(readable);
        }
        let (begun, heads, uploading) = (&mut self.begun, &mut self.heads, &mut self.uploading);
        let judged = self.framer.feed(&bytes, self.read, &mut |event| match event {
            Event::MessageStart { offset } => *begun = Some(HeadSeen::begun(&asks, offset, at)),
            Event::HeadEnd(head) => {
                let seen = begun.take().unwrap().ended(&asks, &head, at);
                *uploading = seen.body;
                heads.push_back(seen);
            }
            Event::BodyEnd { .. } => *uploading = false,
            Event::Interim(_) => {}
        });
        judged.unwrap();
        self.read += u64::try_from(bytes.len()).unwrap();
        asks.read_to(self.read);
        stream.borrow_mut().was_read_to(self.wire_read);
        true
    }

    /// Some time passes for both sides of the connection.
    fn pass(&mut self) -> MonoNs {
        let mut site = self.site.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        if site.chance(3) && !site.comes(&mut stream) && site.chance(40) {
            site.loses(&mut stream);
        }
        let acked = self.acks.last().map_or(0, |ack| ack.end);
        if acked < self.written && !stream.is_gone() && site.chance(3) {
            let at = site.pass();
            let end = if site.chance(2) { self.written } else { site.random.u64(acked + 1..=self.written) };
            let left = self.acks.last().map_or(0, |ack| ack.left).max(end);
            let left = site.random.u64(left..=self.written);
            self.acks.push(Ack { at, end, left });
            site.kernel.acknowledges(stream.tag, end, left, at);
            if site.chance(10) {
                // Who looks from then on has missed it.
                site.switches();
            }
        }
        site.pass()
    }

    /// Waits until there is something unread.
    fn awaits(&mut self) {
        let mut stream = self.stream.borrow_mut();
        let came = self.site.borrow_mut().comes(&mut stream);
        assert!(came || stream.arrived() > self.wire_read, "the client has nothing more to send");
    }

    /// The next request, from its first byte to its end; `None` where the client has sent all.
    pub(super) fn next(&mut self) -> Option<Ended> {
        let sent = self.sent.pop_front()?;
        while self.heads.is_empty() {
            if !self.reads() {
                self.awaits();
            }
        }
        let seen = self.heads.pop_front().unwrap();
        let mut head = self.head(&seen);
        self.upload = Upload::default();
        // A head behind it says that its body has ended.
        let is_upload = sent.end > sent.head_end;
        let starved = is_upload && self.is_uploading() && !self.reads();
        let mut upstream = self.upstream.take();
        head.upstream_wanted = self.pass();
        let mut attempt = Upstream::chosen(&mut upstream, self.site, head.upstream_wanted);
        let mut upstream = upstream.unwrap();
        upstream.writes_head(self.site, &mut attempt);
        let is_whole = !is_upload || self.uploads(&mut upstream, &mut attempt, starved);
        let Upload { clock, sums, .. } = &mut self.upload;
        let answer = upstream.exchange(self.site, is_whole, &mut attempt, clock, sums);
        self.answers(&mut head);
        (head.body, head.client_missing) = (self.upload.sums, head.client_missing.with(self.upload.missing));
        if upstream.is_alive() && self.site.borrow_mut().chance(2) {
            self.upstream = Some(upstream);
        } else {
            upstream.ends(self.site);
        }
        let truth = self.truth(&sent, answer);
        Some(Ended { head, attempt, truth })
    }

    fn is_uploading(&self) -> bool {
        self.uploading && self.heads.is_empty()
    }

    fn head(&mut self, seen: &HeadSeen) -> Head {
        let site = self.site.borrow();
        let stream = self.stream.borrow();
        let mut head = Head {
            trace_id: TraceId([7; 16]),
            span_id: SpanId((u64::from(self.requests) + 1).to_be_bytes()),
            sampled: true,
            method: Method::Get,
            status: 200,
            end: End::Complete,
            token: stream.token,
            accepted: self.accepted,
            request_index: self.requests,
            previous_write: self.previous_write.start,
            ..Head::default()
        };
        seen.stamp(&mut head);
        head.client_missing = head.client_missing.with(site.kernel.reader.missing());
        if self.previous_write.end.0 != 0 {
            let last = self.written - 1;
            let acknowledged = site.kernel.reader.acknowledged(stream.token, last, self.previous_write.end);
            head.previous = Previous { end: self.written, acked: acknowledged.at, left: acknowledged.left };
        }
        self.requests += 1;
        head
    }

    /// The body goes on to the server, as it comes. Says whether all of it did before the answer.
    fn uploads(&mut self, upstream: &mut Upstream, attempt: &mut Attempt, starved: bool) -> bool {
        let Upload { clock, sums, since, .. } = &mut self.upload;
        let begins =
            if starved && self.uploading && self.heads.is_empty() { Relay::ClientBody } else { Relay::ProxyRequest };
        clock.enter(sums, begins, attempt.head_written);
        *since = attempt.head_written;
        while self.is_uploading() {
            if self.reads() {
                self.pass();
                upstream.writes(self.site, attempt);
            } else {
                let now = self.pass();
                self.upload.waits(now);
                self.awaits();
            }
            if self.site.borrow_mut().chance(12) {
                // The server answers before it has all.
                return false;
            }
        }
        self.pass();
        upstream.writes(self.site, attempt);
        true
    }

    /// Whether it speaks TLS.
    pub(super) fn is_secured(&self) -> bool {
        !self.records.is_empty()
    }

    /// Nothing more is asked on the proxy's behalf.
    pub(super) fn ends(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.ends(self.site);
        }
        self.site.borrow_mut().ends(&mut self.stream.borrow_mut());
    }

    /// The answer goes to the client.
    fn answers(&mut self, head: &mut Head) {
        head.response_start = self.written;
        let parts = self.site.borrow_mut().random.u8(1..4);
        for part in 0..parts {
            let begun = self.pass();
            self.written += self.site.borrow_mut().random.u64(1..50);
            let at = self.pass();
            if part == 0 {
                head.head_written = at;
            }
            self.previous_write = begun..at;
        }
        (head.ended, head.response_end) = (self.previous_write.end, self.written);
    }

    fn truth(&self, sent: &Sent, answer: Answer) -> Truth {
        let (first, last) = (self.wire(sent.start), self.wire(sent.head_end - 1));
        let stream = self.stream.borrow();
        Truth {
            head: first.start..last.end,
            first_readable: stream.came(first.start),
            head_readable: stream.came(last.end - 1),
            client_body_ns: self.upload.client_body_ns,
            read_wait_ns: self.upload.read_wait_ns,
            answer,
            lawful: self.site.borrow().lawful(&stream),
        }
    }
}
