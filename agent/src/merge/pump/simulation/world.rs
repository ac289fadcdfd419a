//! A small world of connections: which byte is whose, what the kernel saw and when, and the record of each request. What is
//! true of a request is read from its bytes one by one, what the pump is told by the agent's own reading of the kernel's rings,
//! from the ranges that it asks for.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use abi::{MARKS, STALLS};
use fastrand::Rng;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, Token};
use wayspan_proxy::record::{Attempt, BodyClock, End, ErrorKind, Head, Method, Previous, Texts, encode};
use wayspan_proxy::sampling::Reason;
use wayspan_proxy::trace_context::{SpanId, TraceId};

use super::upload::{self, Phases};
use crate::merge::late::{Ask, Facts, Late};
use crate::probes::Written;

pub(super) const MS: u64 = 1_000_000;
const T0: u64 = 1_000_000 * MS;
const NEVER: MonoNs = MonoNs(u64::MAX);

/// One end of a connection, as its slot and trail hold it.
#[derive(Default)]
struct Trail {
    token: Option<Token>,
    /// From then on the slot is another's.
    gone: MonoNs,
    /// Whose each sent byte is.
    owners: Vec<Option<usize>>,
    /// When something came, what it acknowledged, and what had left by then.
    heard: Vec<(MonoNs, u64, u64)>,
    resent: Vec<(MonoNs, Range<u64>)>,
    /// From when until when the window was shut, and the first byte that it kept back.
    stalls: Vec<(MonoNs, MonoNs, u64)>,
    handshake_rtt_us: u32,
    handshake_resent_ns: u64,
}

/// One request.
pub(super) struct Request {
    pub(super) worker: usize,
    pub(super) sampled: bool,
    pub(super) ended: MonoNs,
    /// Who waited for whom, where that is known.
    pub(super) phases: Option<Phases>,
    pub(super) bytes: Vec<u8>,
    /// What its record says of the response before it.
    previous: Previous,
    begun: MonoNs,
    head: Head,
    attempts: Vec<Attempt>,
    client: usize,
    /// The last attempt's connection, as index of both its ends.
    upstream: Option<usize>,
}

/// All there is.
pub(super) struct World {
    pub(super) requests: Vec<Request>,
    pub(super) workers: usize,
    clients: Vec<Trail>,
    upstreams: Vec<Trail>,
    backends: Vec<Trail>,
    /// Whether acknowledgements are watched.
    pub(super) waits: bool,
}

/// What the kernel tells at a time.
pub(super) struct Kernel {
    pub(super) world: Rc<World>,
    pub(super) now: MonoNs,
}

impl Trail {
    fn new(random: &mut Rng, slot: u32) -> Self {
        let token = Token { generation: random.u64(1..3), slot };
        // A slot rests before it is another's, but its facts may be asked for late.
        let gone = if random.u8(..4) == 0 { MonoNs(T0 + random.u64(..600) * MS) } else { NEVER };
        let (rtt, resent) = (random.u32(..300), if random.u8(..4) == 0 { random.u64(1..MS * 2000) } else { 0 });
        Self { token: Some(token), gone, handshake_rtt_us: rtt, handshake_resent_ns: resent, ..Self::default() }
    }

    /// The next bytes are these requests'.
    fn send(&mut self, owner: Option<usize>, bytes: usize) -> Range<u64> {
        let start = self.owners.len();
        self.owners.resize(start + bytes, owner);
        offset(start)..offset(start + bytes)
    }

    /// Some of the bytes are sent again, and taken, in the time after they were sent.
    fn happen(&mut self, random: &mut Rng, from: MonoNs) {
        let end = self.owners.len();
        if end == 0 {
            return;
        }
        let some = |random: &mut Rng| {
            let (a, b) = (random.usize(..end), random.usize(..end));
            offset(a.min(b))..=offset(a.max(b))
        };
        for _ in 0..random.usize(..4) {
            let bytes = some(random);
            self.resent.push((later(random, from, 300), *bytes.start()..bytes.end() + 1));
        }
        let (mut at, mut first) = (from, 0);
        for _ in 0..random.usize(..=STALLS) {
            let since = later(random, at, 60);
            at = MonoNs(later(random, since, 60).0 + 1);
            first = random.usize(first..end);
            self.stalls.push((since, at, offset(first)));
        }
        // Few that are far between, or so many that they push each other out while somebody waits.
        let (pace_ms, last) = if random.bool() { (60, 8) } else { (4, 64) };
        let (mut at, mut acked, mut left) = (later(random, from, 200), 0, 0);
        while acked < end && random.u8(..last) != 0 {
            at = later(random, at, pace_ms);
            // It may tell of the window alone.
            acked += if random.u8(..4) == 0 { 0 } else { random.usize(1..=(end - acked).min(5)) };
            left = random.usize(acked.max(left)..=end);
            self.heard.push((at, offset(acked), offset(left)));
        }
    }

    fn is(&self, token: Token, now: MonoNs) -> bool {
        self.token == Some(token) && now < self.gone
    }

    /// How many segments that were sent again by now hold bytes that are counted.
    fn resent(&self, now: MonoNs, counts: impl Fn(u64) -> bool) -> u32 {
        let hits = self.resent.iter().filter(|(at, bytes)| *at <= now && bytes.clone().any(&counts));
        u32::try_from(hits.count()).unwrap()
    }

    /// When the byte was acknowledged, as far as that is kept, or why not; and until when it had been kept from leaving, of the
    /// newest times.
    fn taken(&self, now: MonoNs, last: u64, ended: MonoNs) -> (Result<MonoNs, Missing>, MonoNs) {
        let by_now = || self.heard.iter().filter(|(at, _, _)| *at <= now);
        let mut before = 0;
        let acks: Vec<_> = by_now().filter(|(_, acked, _)| std::mem::replace(&mut before, *acked) < *acked).collect();
        let acked = acks.iter().position(|(_, acked, _)| *acked > last).ok_or(Missing::UNSEEN);
        // The one before it says that it is the first, and one of all may be under the pen.
        let is_kept = |index: usize| acks.len() - index.saturating_sub(1) < MARKS;
        let kept = acked.and_then(|index| is_kept(index).then(|| acks[index].0).ok_or(Missing::OVERWRITTEN));
        let mut newest = by_now().rev().filter(|(_, _, left)| *left < offset(self.owners.len())).take(MARKS - 1);
        let left = newest.find(|(at, _, left)| *at >= ended && *left <= last);
        (kept, left.map_or(MonoNs::UNKNOWN, |(at, _, _)| *at))
    }

    /// For how long bytes that are counted, none of which was there before `begun`, have waited by now.
    fn stalled_ns(&self, now: MonoNs, begun: MonoNs, counts: impl Fn(u64) -> bool) -> u64 {
        let waited = self.stalls_by(now).filter(|(_, _, first)| (*first..offset(self.owners.len())).any(&counts));
        waited.map(|(since, until, _)| until.since((*since).max(begun))).sum()
    }

    fn stalls_by(&self, now: MonoNs) -> impl Iterator<Item = &(MonoNs, MonoNs, u64)> {
        self.stalls.iter().filter(move |(_, until, _)| *until <= now)
    }

    /// What the kernel has written by now.
    fn written(&self, now: MonoNs) -> Written {
        let written = Written::default();
        let mut before = 0;
        for (at, acked, left) in self.heard.iter().filter(|(at, _, _)| *at <= now) {
            let is_news = std::mem::replace(&mut before, *acked) < *acked;
            let waits = *left < offset(self.owners.len());
            written.on_heard(*at, is_news.then_some(*acked), waits.then_some(*left));
        }
        for (_, bytes) in self.resent.iter().filter(|(at, _)| *at <= now) {
            written.on_resent(bytes);
        }
        for (since, until, first) in self.stalls.iter().filter(|(_, until, _)| *until <= now) {
            written.on_stalled(*first, *since, *until);
        }
        written
    }

    fn owned_by(&self, request: usize) -> impl Fn(u64) -> bool {
        move |byte| self.owners.get(usize::try_from(byte).unwrap()) == Some(&Some(request))
    }
}

fn offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap()
}

fn later(random: &mut Rng, at: MonoNs, within_ms: u64) -> MonoNs {
    MonoNs(at.0 + random.u64(..within_ms * MS))
}

impl World {
    /// One of the worlds.
    pub(super) fn new(random: &mut Rng) -> Self {
        let mut world = Self {
            requests: Vec::new(),
            workers: random.usize(1..=3),
            clients: Vec::new(),
            upstreams: Vec::new(),
            backends: Vec::new(),
            waits: random.u8(..5) != 0,
        };
        for slot in 0..random.u32(1..=2) {
            world.upstreams.push(Trail::new(random, 1000 + slot));
            world.backends.push(Trail::new(random, 2000 + slot));
        }
        for client in 0..random.usize(1..=4) {
            world.clients.push(Trail::new(random, u32::try_from(client).unwrap()));
            world.connection(random, client);
        }
        for trail in world.clients.iter_mut().chain(&mut world.upstreams).chain(&mut world.backends) {
            trail.happen(random, MonoNs(T0));
        }
        for id in 0..world.requests.len() {
            world.leave_record(id);
        }
        world
    }

    /// What the proxy leaves of a request, and of the response before it by what the kernel has of it when the request comes.
    fn leave_record(&mut self, id: usize) {
        if let Some(before) = self.before(id).filter(|_| self.waits) {
            let client = &self.clients[before.client];
            let (begun, end) = (self.requests[id].begun, before.head.response_end);
            if before.ended <= begun && begun < client.gone && end > before.head.response_start {
                let (acked, left) = client.written(begun).acknowledged(end - 1, before.ended);
                self.requests[id].previous =
                    Previous { end, acked: acked.unwrap_or_default(), left: left.unwrap_or_default() };
            }
        }
        let request = &mut self.requests[id];
        request.head.previous = request.previous;
        let texts = Texts { path: "/x", ..Texts::default() };
        encode(&mut request.bytes, &request.head, &request.attempts, &texts, [], []);
    }

    /// The request before it on its connection.
    fn before(&self, id: usize) -> Option<&Request> {
        let before = self.requests.get(id.checked_sub(1)?)?;
        (before.client == self.requests[id].client).then_some(before)
    }

    /// Who tells when a response was acknowledged, and what: the next request on its connection.
    pub(super) fn told(&self, id: usize) -> Option<(usize, Previous)> {
        let next = self.requests.get(id + 1).filter(|next| next.client == self.requests[id].client)?;
        (next.previous.acked != MonoNs::UNKNOWN).then_some((id + 1, next.previous))
    }

    /// Requests of one client, one after the other or pipelined.
    fn connection(&mut self, random: &mut Rng, client: usize) {
        let worker = random.usize(..self.workers);
        let mut at = later(random, MonoNs(T0), 50);
        // Many small acknowledgements push those of the first responses out.
        let most = if random.bool() { 7 } else { 30 };
        for index in 0..random.u32(1..=5) {
            let begun = at;
            let id = self.requests.len();
            if random.u8(..6) == 0 {
                // An interim response's bytes are nobody's.
                self.clients[client].send(None, random.usize(1..4));
            }
            let response = self.clients[client].send(Some(id), random.usize(..most));
            let (mut attempts, upstream) = self.attempts(random, id, at);
            let mut head = head(random, id, &attempts, at);
            let is_upload = !attempts.is_empty() && random.u8(..3) == 0;
            let phases = is_upload.then(|| upload::happens(random, at, &mut head, &mut attempts));
            at = head.ended;
            head.token = self.clients[client].token.unwrap();
            (head.request_index, head.worker) = (index, u16::try_from(worker).unwrap());
            (head.response_start, head.response_end) = (response.start, response.end);
            if random.u8(..4) == 0 {
                // Pipelined: the next one came while this was served.
                at = MonoNs(at.0 - random.u64(..MS));
            }
            let (sampled, ended) = (head.sampled, head.ended);
            let (bytes, previous) = (Vec::new(), Previous::default());
            let request =
                Request { worker, sampled, ended, phases, bytes, previous, begun, head, attempts, client, upstream };
            self.requests.push(request);
        }
    }

    /// Attempts for a request; only the last may have an answer.
    fn attempts(&mut self, random: &mut Rng, id: usize, from: MonoNs) -> (Vec<Attempt>, Option<usize>) {
        let mut last = None;
        let count = random.u8(..4);
        let attempts = (0..count).map(|number| {
            let is_last = number + 1 == count;
            let upstream = random.usize(..self.upstreams.len());
            // Who is told of is the last attempt: what an earlier one sent is nobody's.
            let owner = is_last.then_some(id);
            let request = self.upstreams[upstream].send(owner, random.usize(1..6));
            let answered = is_last && random.u8(..4) != 0;
            let answer = self.backends[upstream].send(owner, if answered { random.usize(1..6) } else { 0 });
            last = Some(upstream);
            let mut attempt = attempt(random, from, answered);
            attempt.span_id = SpanId([offset(id).to_le_bytes()[0], number + 1, 7, 7, 7, 7, 7, 7]);
            attempt.token = self.upstreams[upstream].token.unwrap();
            (attempt.request_start, attempt.request_end) = (request.start, request.end);
            (attempt.response_start, attempt.response_end) = (answer.start, answer.end);
            attempt
        });
        (attempts.collect(), last)
    }

    /// What is true of a request at a time, by its bytes.
    pub(super) fn truth(&self, id: usize, now: MonoNs) -> Late {
        let request = &self.requests[id];
        let mut late = Late::default();
        let client = &self.clients[request.client];
        let last = client.owners.iter().rposition(|owner| *owner == Some(id)).map(offset).filter(|_| self.waits);
        if now < client.gone {
            late.handshake_rtt_us = client.handshake_rtt_us;
            late.handshake_resent_ns = client.handshake_resent_ns;
            late.client_resent = client.resent(now, client.owned_by(id));
            late.client_stalled_ns = client.stalled_ns(now, request.responding(), client.owned_by(id));
            if let Some(last) = last {
                let (acked, left) = client.taken(now, last, request.ended);
                (late.acked, late.left, late.may_come) = (acked.unwrap_or_default(), left, acked.is_err());
                late.ack_missing = acked.err().unwrap_or_default();
            }
        } else if last.is_some() {
            late.ack_missing = Missing::REUSED;
        }
        if let Some(upstream) = request.upstream {
            let (ours, theirs) = (&self.upstreams[upstream], &self.backends[upstream]);
            if now < ours.gone {
                late.upstream_resent = ours.resent(now, ours.owned_by(id));
                let chosen = request.attempts.last().unwrap().chosen;
                late.upstream_stalled_ns = ours.stalled_ns(now, chosen, ours.owned_by(id));
            }
            if now < ours.gone.min(theirs.gone) {
                late.backend_resent = theirs.resent(now, theirs.owned_by(id));
            }
        }
        late
    }

    /// How often segments that were sent again by now hold bytes of a sampled request, on the clients' connections.
    pub(super) fn client_resent(&self, now: MonoNs) -> u32 {
        let trails = self.clients.iter().filter(|trail| now < trail.gone);
        let segments = trails.flat_map(|trail| {
            trail.resent.iter().filter(|(at, _)| *at <= now).map(|(_, bytes)| {
                let owners = bytes.clone().filter_map(|byte| trail.owners[usize::try_from(byte).unwrap()]);
                owners.filter(|id| self.requests[*id].sampled).collect::<HashSet<_>>().len()
            })
        });
        u32::try_from(segments.sum::<usize>()).unwrap()
    }

    /// For how long windows have been shut by now, for each sampled request that they kept bytes back of.
    pub(super) fn client_stalled_ns(&self, now: MonoNs) -> u64 {
        let of_stall = |trail: &Trail, (since, until, first): &(MonoNs, MonoNs, u64)| -> u64 {
            let waited: HashSet<_> = trail.owners.iter().skip(usize::try_from(*first).unwrap()).flatten().collect();
            let sampled = waited.into_iter().map(|id| &self.requests[*id]).filter(|request| request.sampled);
            sampled.map(|request| until.since((*since).max(request.responding()))).sum()
        };
        let trails = self.clients.iter().filter(|trail| now < trail.gone);
        trails.flat_map(|trail| trail.stalls_by(now).map(move |stall| of_stall(trail, stall))).sum()
    }
}

impl Request {
    /// None of its response was there to be written before.
    fn responding(&self) -> MonoNs {
        let read = self.attempts.last().map_or(MonoNs::UNKNOWN, |attempt| attempt.first_read);
        let from = if read == MonoNs::UNKNOWN { self.head.head_read } else { read };
        from.max(self.head.previous_write)
    }
}

impl Facts for Kernel {
    fn waits(&self) -> bool {
        self.world.waits
    }

    fn late(&self, ask: &Ask) -> Late {
        let (world, now) = (&self.world, self.now);
        let mut late = Late::default();
        if let Some(client) = world.clients.iter().find(|client| client.is(ask.client, now)) {
            late.handshake_rtt_us = client.handshake_rtt_us;
            late.handshake_resent_ns = client.handshake_resent_ns;
            let written = client.written(now);
            late.client_resent = written.resent(&ask.response);
            late.client_stalled_ns = written.stalled_ns(&ask.response, ask.responding);
            if world.waits && !ask.response.is_empty() {
                let (acked, left) = written.acknowledged(ask.response.end - 1, ask.ended);
                (late.acked, late.left) = (acked.unwrap_or_default(), left.unwrap_or_default());
                (late.ack_missing, late.may_come) = (acked.err().unwrap_or_default(), acked.is_err());
            }
        } else if world.waits && !ask.response.is_empty() {
            late.ack_missing = Missing::REUSED;
        }
        for (ours, theirs) in world.upstreams.iter().zip(&world.backends) {
            if ours.is(ask.upstream, now) {
                let written = ours.written(now);
                late.upstream_resent = written.resent(&ask.request);
                late.upstream_stalled_ns = written.stalled_ns(&ask.request, ask.requesting);
                if now < theirs.gone {
                    late.backend_resent = theirs.written(now).resent(&ask.answer);
                }
            }
        }
        late
    }
}

/// A time at or after the one before, or now and then none, and now and then one out of order.
fn point(random: &mut Rng, at: &mut MonoNs) -> MonoNs {
    *at = later(random, *at, 3);
    match random.u8(..12) {
        0 => MonoNs::UNKNOWN,
        1 => later(random, MonoNs(T0), 200),
        _ => *at,
    }
}

fn head(random: &mut Rng, id: usize, attempts: &[Attempt], from: MonoNs) -> Head {
    let mut at = from;
    let mut next = || point(random, &mut at);
    let (first_readable, accepted, head_readable, head_read) = (next(), next(), next(), next());
    let (woken, upstream_wanted, head_written) = (next(), next(), next());
    let ends = [End::Complete, End::Complete, End::ClientGone, End::UpstreamCut, End::TimedOut, End::Shutdown];
    let body = BodyClock { client_drain: random.u64(..MS), client_body: random.u64(..MS), ..BodyClock::default() };
    Head {
        trace_id: TraceId([7; 16]),
        span_id: SpanId((offset(id) + 1).to_be_bytes()),
        trace_flags: 1,
        sampled: random.u8(..5) != 0,
        sampling_reason: Reason::Probabilistic,
        method: Method::Get,
        status: if random.bool() { 200 } else { 502 },
        end: ends[random.usize(..ends.len())],
        connection_id: offset(id),
        first_readable,
        first_read: head_read,
        accepted,
        head_readable,
        head_read,
        woken,
        preempted_ns: random.u64(..MS),
        upstream_wanted,
        head_written,
        ended: later(random, at.max(from), 20).max(MonoNs(from.0 + 1)),
        body: if random.bool() { body } else { BodyClock::default() },
        attempts_made: u16::try_from(attempts.len()).unwrap(),
        ..Head::default()
    }
}

fn attempt(random: &mut Rng, from: MonoNs, answered: bool) -> Attempt {
    let mut at = from;
    let mut next = || point(random, &mut at);
    let (begun, chosen, connected, head_written) = (next(), next(), next(), next());
    let (request_written, readable, read, sent) = (next(), next(), next(), next());
    let (first_readable, first_read, ended) = (next(), next(), next());
    Attempt {
        begun,
        chosen,
        connected,
        secured: connected,
        head_written,
        request_written,
        backend_readable: readable,
        backend_read: read,
        backend_sent: sent,
        first_readable: if answered { first_readable } else { MonoNs::UNKNOWN },
        first_read: if answered { first_read } else { MonoNs::UNKNOWN },
        ended: if answered { ended } else { MonoNs::UNKNOWN },
        error: if answered { ErrorKind::None } else { ErrorKind::UpstreamReset },
        backend_missing: if random.bool() { Missing::NOTHING } else { Missing(random.u16(..0x400)) },
        ..Attempt::default()
    }
}
