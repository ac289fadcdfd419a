//! A connection to a server: how a request comes to it, what it makes of it, and how its answer is read as the proxy reads it.

use std::cell::RefCell;
use std::collections::VecDeque;

use abi::{MARKS, NO_SLOT};
use wayspan_proxy::asks::{Asks, First};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::framer::{Asked, Event, Framer, Limits};
use wayspan_proxy::observer::{BackendAsk, Missing};
use wayspan_proxy::record::{Attempt, BodyClock};
use wayspan_proxy::relay::{Clock, Kept, Relay};

use super::site::{Site, Stream};
use crate::probes::Set;

/// What is true of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// It began before the backend had the whole request.
    pub(super) is_early: bool,
    pub(super) first_readable: MonoNs,
    /// The backend's side, where it is on this node: readable, read, written.
    pub(super) backend: [MonoNs; 3],
    pub(super) upstream_body_ns: u64,
    pub(super) read_wait_ns: u64,
    /// Why times of our side, and of the backend's, may be missing.
    pub(super) lawful: Missing,
    pub(super) lawful_backend: Missing,
}

/// The backend's own end.
struct Backend {
    stream: Stream,
    /// What it has read up to where, and when.
    reads: Vec<(u64, MonoNs)>,
    /// Where each of its writes began, and when that was noted.
    writes: Vec<(u64, Option<MonoNs>)>,
    /// Bytes before this offset came before it had accepted.
    unaccepted: u64,
}

/// A connection.
pub(super) struct Upstream {
    ours: RefCell<Stream>,
    backend: Option<Backend>,
    framer: Framer,
    read: u64,
    written: u64,
    /// What the server has still to write.
    to_write: VecDeque<Vec<u8>>,
}

/// An exchange under way.
struct Exchange<'a> {
    clock: &'a mut Clock,
    sums: &'a mut BodyClock,
    ask: BackendAsk,
    first: First,
    before_first: Option<Kept>,
    body_missing: Missing,
    ended: MonoNs,
    since: MonoNs,
    answer: Answer,
}

const FAR: u64 = 1 << 32;

impl Upstream {
    /// The one that is pooled, or a new one.
    pub(super) fn chosen(pooled: &mut Option<Self>, site: &RefCell<Site>, wanted: MonoNs) -> Attempt {
        let mut site = site.borrow_mut();
        let (begun, chosen) = (wanted, wanted);
        let reused = pooled.is_some();
        let mut connected = chosen;
        let upstream = pooled.get_or_insert_with(|| {
            let (ours, backend) = site.upstream();
            let established = site.kernel.reader.marks(ours.token, &(0..0)).established;
            let now = site.pass();
            connected = if (begun..now).contains(&established) { established } else { now };
            Self::new(ours, backend, &mut site)
        });
        let token = upstream.ours.borrow().token;
        Attempt { token, reused, begun, chosen, connected, secured: connected, ..Attempt::default() }
    }

    fn new(mut ours: Stream, theirs: Option<Stream>, site: &mut Site) -> Self {
        let base = if site.chance(3) { FAR - site.random.u64(..200) } else { 0 };
        ours.begins_at(base, site);
        let backend = theirs.map(|mut stream| {
            stream.begins_at(base, site);
            Backend { stream, reads: Vec::new(), writes: Vec::new(), unaccepted: 0 }
        });
        let framer = Framer::responses(Limits::UPSTREAM);
        Self { ours: RefCell::new(ours), backend, framer, read: base, written: base, to_write: VecDeque::new() }
    }

    /// Whether another request may go over it.
    pub(super) fn is_alive(&self) -> bool {
        !self.ours.borrow().is_gone() && self.backend.as_ref().is_none_or(|backend| !backend.stream.is_gone())
    }

    /// It is closed.
    pub(super) fn ends(self, site: &RefCell<Site>) {
        let mut site = site.borrow_mut();
        site.ends(&mut self.ours.borrow_mut());
        if let Some(mut backend) = self.backend {
            site.ends(&mut backend.stream);
        }
    }

    fn writes_bytes(&mut self, site: &RefCell<Site>) -> MonoNs {
        let mut site = site.borrow_mut();
        let bytes = site.random.u64(1..60);
        self.written += bytes;
        if let Some(backend) = &mut self.backend {
            let end = backend.stream.bytes.len() + usize::try_from(bytes).unwrap();
            backend.stream.bytes.resize(end, b'x');
            // On this node it may be there before our write returns.
            while site.chance(2) && backend.comes(&mut site) {}
        }
        site.pass()
    }

    /// The request's head.
    pub(super) fn writes_head(&mut self, site: &RefCell<Site>, attempt: &mut Attempt) {
        attempt.request_start = self.written;
        attempt.write_begun = site.borrow_mut().pass();
        attempt.last_write_begun = attempt.write_begun;
        attempt.head_written = self.writes_bytes(site);
        attempt.request_written = attempt.head_written;
        attempt.request_head_end = self.written;
    }

    /// A part of its body.
    pub(super) fn writes(&mut self, site: &RefCell<Site>, attempt: &mut Attempt) {
        attempt.last_write_begun = site.borrow_mut().pass();
        attempt.request_written = self.writes_bytes(site);
    }

    /// The backend takes what is written and answers; the answer is read.
    pub(super) fn exchange(
        &mut self,
        site: &RefCell<Site>,
        is_whole: bool,
        attempt: &mut Attempt,
        clock: &mut Clock,
        sums: &mut BodyClock,
    ) -> Answer {
        let head_end = attempt.request_head_end;
        let wanted = if is_whole { self.written } else { head_end };
        if let Some(backend) = &mut self.backend {
            backend.takes(wanted, &mut site.borrow_mut());
        }
        site.borrow_mut().pass();
        self.to_write = answer(&mut site.borrow_mut());
        self.framer.expect(Asked::Other);
        attempt.response_start = self.read;
        let ask = BackendAsk { head_end, request_end: self.written, response_start: 0 };
        let mut exchange = Exchange {
            clock,
            sums,
            ask,
            first: First::default(),
            before_first: None,
            body_missing: Missing::NOTHING,
            ended: MonoNs::UNKNOWN,
            since: MonoNs::UNKNOWN,
            answer: Answer { is_early: !is_whole, ..Answer::default() },
        };
        while exchange.ended.0 == 0 {
            let turn = site.borrow_mut().random.u8(..4);
            match turn {
                0 => self.server_writes(site),
                1 => {
                    site.borrow_mut().comes(&mut self.ours.borrow_mut());
                }
                2 => self.write_returns(site),
                _ => self.reads(site, &mut exchange, attempt),
            }
            let mut site = site.borrow_mut();
            let mut ours = self.ours.borrow_mut();
            if self.to_write.is_empty() && ours.arrived() == ours.end() && site.chance(60) {
                site.loses(&mut ours);
            }
        }
        let Exchange { first, body_missing, ended, mut answer, .. } = exchange;
        first.stamp(body_missing, attempt);
        (attempt.request_end, attempt.response_end, attempt.ended) = (self.written, self.read, ended);
        answer.lawful = site.borrow().lawful(&self.ours.borrow());
        answer
    }

    /// The server writes the next part.
    fn server_writes(&mut self, site: &RefCell<Site>) {
        self.write_returns(site);
        let Some(part) = self.to_write.pop_front() else { return };
        let mut site = site.borrow_mut();
        let mut ours = self.ours.borrow_mut();
        let (start, now) = (ours.end(), site.pass());
        if let Some(backend) = &mut self.backend {
            let noted = (!site.notes_writes_late).then_some(now);
            backend.writes.push((start, noted));
            if noted.is_some() {
                site.kernel.sends(backend.stream.tag, start, now);
            }
        }
        ours.bytes.extend(part);
    }

    /// What was noted late is noted now.
    fn write_returns(&mut self, site: &RefCell<Site>) {
        let Some(backend) = &mut self.backend else { return };
        let Some((start, noted @ None)) = backend.writes.last_mut() else { return };
        let mut site = site.borrow_mut();
        let now = site.pass();
        *noted = Some(now);
        site.kernel.sends(backend.stream.tag, *start, now);
    }

    /// A read, as `Seen::read` does it; or there is nothing to be read.
    fn reads(&mut self, site: &RefCell<Site>, exchange: &mut Exchange<'_>, attempt: &mut Attempt) {
        let at = site.borrow_mut().pass();
        let (from, there) = (self.read, self.ours.borrow().arrived());
        let to = there.min(from + site.borrow_mut().random.u64(1..3000));
        if from == to {
            exchange.finds_nothing(at);
            return;
        }
        let bytes = self.ours.borrow().between(from, to).to_vec();
        let came = self.ours.borrow().came(from);
        let ours = &self.ours;
        let asks = Asks::of(|bytes| site.borrow_mut().marks(&mut ours.borrow_mut(), &bytes));
        let answered_before = exchange.first.read.0 != 0;
        if answered_before && exchange.clock.state() == Relay::UpstreamBody {
            exchange.reads_on(&asks.goes_on(from), came, at);
        }
        let backend = self.backend.as_ref();
        let Exchange { first, before_first, clock, sums, ended, answer, .. } = exchange;
        let ask = exchange.ask;
        let judged = self.framer.feed(&bytes, from, &mut |event| match event {
            Event::MessageStart { offset } => {
                let ask = BackendAsk { response_start: offset, ..ask };
                let (_, marks) = asks.begins(offset);
                *first =
                    First { read: at, marks, backend: site.borrow().backend(&ours.borrow(), ask), ..First::default() };
                attempt.response_start = offset;
                answer.first_readable = ours.borrow().came(offset);
                (answer.backend, answer.lawful_backend) = truth(backend, &ours.borrow(), &ask, &site.borrow());
            }
            Event::Interim(_) => {
                *first = First::default();
                if let Some(kept) = before_first.take() {
                    clock.go_back(sums, kept);
                    (answer.upstream_body_ns, answer.read_wait_ns) = (0, 0);
                }
            }
            Event::BodyEnd { .. } => *ended = at,
            Event::HeadEnd(_) => {}
        });
        judged.unwrap();
        if exchange.first.read.0 != 0 && exchange.before_first.is_none() {
            exchange.before_first = Some(exchange.clock.keep(exchange.sums));
            exchange.clock.answered(exchange.sums, exchange.first.marks.first, at);
        }
        self.read = to;
        asks.read_to(to);
        ours.borrow_mut().was_read_to(to);
    }
}

impl Exchange<'_> {
    fn finds_nothing(&mut self, at: MonoNs) {
        if self.first.read.0 != 0 && self.clock.state() == Relay::ProxyResponse {
            self.clock.enter(self.sums, Relay::UpstreamBody, at);
            self.since = at;
        }
    }

    fn reads_on(&mut self, marks: &wayspan_proxy::observer::Marks, came: MonoNs, at: MonoNs) {
        let missing = self.clock.read(self.sums, Relay::ProxyResponse, marks, at);
        self.body_missing = self.body_missing.with(missing);
        let readable = came.max(self.since);
        self.answer.upstream_body_ns += readable.since(self.since);
        self.answer.read_wait_ns += at.since(readable);
    }
}

impl Backend {
    fn comes(&mut self, site: &mut Site) -> bool {
        if !self.stream.is_accepted && site.chance(4) {
            self.stream.is_accepted = true;
        }
        let came = site.comes(&mut self.stream);
        if came && !self.stream.is_accepted {
            self.unaccepted = self.stream.arrived();
        }
        came
    }

    /// All before that offset comes and is read, perhaps more.
    fn takes(&mut self, wanted: u64, site: &mut Site) {
        let read = |reads: &[(u64, MonoNs)]| reads.last().map_or(0, |(end, _)| *end);
        while read(&self.reads) < wanted {
            let (there, done) = (self.stream.arrived(), read(&self.reads).max(self.stream.base));
            if there == done || site.chance(2) {
                self.comes(site);
                continue;
            }
            self.stream.is_accepted = true;
            let now = site.pass();
            let end = site.random.u64(done + 1..=there);
            self.reads.push((end, now));
            site.kernel.reads(self.stream.tag, end, now);
        }
    }
}

/// What the server writes, cut into its writes.
fn answer(site: &mut Site) -> VecDeque<Vec<u8>> {
    let body = "y".repeat(site.random.usize(..400));
    let length = body.len();
    let head = match site.random.bool() {
        true => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"),
        false => format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n"),
    };
    let end = if head.contains("chunked") { if length > 0 { "\r\n0\r\n\r\n" } else { "\r\n" } } else { "" };
    let interim = if site.chance(5) { "HTTP/1.1 103 Early Hints\r\n\r\n" } else { "" };
    let bytes = format!("{interim}{head}{body}{end}").into_bytes();
    // A write may end with the interim response or hold more.
    let first = if interim.is_empty() || site.chance(3) { site.random.usize(1..=bytes.len()) } else { interim.len() };
    let (first, rest) = bytes.split_at(first);
    let each = site.random.usize(1..200);
    std::iter::once(first).chain(rest.chunks(each)).map(<[u8]>::to_vec).collect()
}

/// What is true of the backend's side when the answer's first byte was read, and why it may not be known.
fn truth(backend: Option<&Backend>, ours: &Stream, ask: &BackendAsk, site: &Site) -> ([MonoNs; 3], Missing) {
    let mut lawful = site.lawful(ours);
    let mut may = |is_so: bool, reason: Missing| {
        if is_so {
            lawful = lawful.with(reason);
        }
    };
    may(site.has_gap(Set::Backends, ours.born), Missing::NOT_SOUGHT.with(Missing::JOINED_LATE));
    let Some(backend) = backend else {
        may(true, Missing::ELSEWHERE);
        return ([MonoNs::UNKNOWN; 3], lawful);
    };
    let first_beyond = |offset: u64| backend.reads.iter().position(|(end, _)| *end > offset);
    // Where it has not read all that was sent, it has read the head.
    let all = ask.request_end - 1;
    let last = if first_beyond(all).is_some() { all } else { ask.head_end - 1 };
    let read = first_beyond(last).unwrap();
    let write = backend.writes.iter().rposition(|(start, _)| *start <= ask.response_start).unwrap();
    may(backend.stream.token.slot == NO_SLOT, Missing::NO_SLOT);
    may(last < backend.unaccepted, Missing::ACCEPT);
    may(site.notes_writes_late, Missing::UNSEEN);
    let reads_behind = backend.reads.len() - read.saturating_sub(1);
    let writes_behind = backend.writes.len() - write;
    may(backend.stream.has_left_ring(last) || reads_behind >= MARKS || writes_behind >= MARKS, Missing::OVERWRITTEN);
    let (_, sent) = backend.writes[write];
    ([backend.stream.came(last), backend.reads[read].1, sent.unwrap_or_default()], lawful)
}
