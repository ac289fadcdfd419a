//! The load: our clients and our backends, by turns on one thread with one epoll, so that what each writes down is in one
//! order and one clock tells it. Every client asks again as soon as it has its answer (closed loop), unless more requests
//! than [`OUTSTANDING_MAX`] have no span yet: then all wait, so that no span is lost and the account stays exact.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::Timespec;

use super::book::{Book, Id, Kind};
use crate::progress::Stopwatch;

/// Requests without a span yet, at most: 16,000 spans are a quarter of what the agent keeps.
pub(super) const OUTSTANDING_MAX: u64 = 8_000;
/// A kept connection carries up to so many requests.
const REQUESTS_PER_CONNECTION: u64 = 400;
/// How often in succession nothing may have come: 20 s. Looks are counted, for somebody may stop us all for a while.
pub(super) const LOOKS_MAX: u32 = 20_000;
/// How often is looked whether spans have come, where clients wait for them.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Digits of a number in a path, and of an answer's body, which repeats it.
const DIGITS: usize = 10;
/// Epoll's names: two listeners, then clients, then the backends' connections.
const CLIENT_0: u64 = 2;
const SERVER_0: u64 = 1 << 32;

/// Which requests are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    /// The first of the next, while connections are made.
    pub(super) warm_up: Id,
    /// Of the kinds whose backend keeps its connections.
    pub(super) kept: Id,
    /// Of the others.
    pub(super) fresh: Id,
}

/// What is asked, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Clients by kind.
    pub(super) clients: Vec<(Kind, usize)>,
    pub(super) quota: Quota,
    /// No more requests than that; otherwise as many as will go.
    pub(super) per_second: Option<u32>,
    /// Chooses where segments end and how long connections last.
    pub(super) seed: u64,
}

impl Quota {
    pub(super) fn all(self) -> Id {
        self.kept + self.fresh
    }
}

/// The backends' listeners: one keeps its connections, one closes them.
pub(super) fn listeners() -> Result<[TcpListener; 2]> {
    let listen = || -> Result<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    Ok([listen()?, listen()?])
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) book: Book,
    /// The backends' connections that the agent keeps.
    pub(super) servers: Vec<TcpStream>,
}

/// When requests are due.
#[derive(Default)]
struct Pace {
    /// Requests that were due and are not made up for.
    forgone: u64,
}

impl Pace {
    /// How many may have been asked after that time. What is late by more than a tenth of a second is not made up for: that
    /// would be another pace.
    fn due(&mut self, per_second: u32, elapsed: Duration, asked: u64) -> u64 {
        let all = u64::try_from(elapsed.as_micros() * u128::from(per_second) / 1_000_000).unwrap_or(u64::MAX);
        let most = asked + u64::from(per_second / 10);
        self.forgone = self.forgone.max(all.saturating_sub(most));
        all - self.forgone
    }
}

/// Asks them all; what was written down. `spans` says how many requests have their span.
pub(super) fn run(
    agent: SocketAddr,
    listeners: &[TcpListener; 2],
    plan: Plan,
    spans: impl Fn() -> u64,
) -> Result<Outcome> {
    let (all, watch) = (plan.quota.all(), Stopwatch::start());
    let mut load = Load::new(agent, plan, listeners)?;
    let mut events = Vec::with_capacity(256);
    let (mut progress, mut looks, mut pace) = (0, 0, Pace::default());
    while load.received < all {
        load.due = load.plan.per_second.map_or(u64::MAX, |rate| pace.due(rate, watch.elapsed(), load.asked()));
        load.outstanding = load.asked().saturating_sub(spans());
        load.ask()?;
        match epoll::wait(&load.epoll, spare_capacity(&mut events), Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                number @ (0 | 1) => load.accept(listeners, usize::try_from(number)?)?,
                number if number < SERVER_0 => load.answer(usize::try_from(number - CLIENT_0)?)?,
                number => load.serve(usize::try_from(number - SERVER_0)?)?,
            }
        }
        load.finish_heads()?;
        let now = u64::from(load.received) + spans();
        looks = if now > progress { 0 } else { looks + 1 };
        progress = now;
        if looks > LOOKS_MAX {
            bail!("nothing came: {} asked, {} answered, {} with a span", load.asked(), load.received, spans());
        }
    }
    let servers = load.servers.into_iter().flatten().map(|server| server.socket).collect();
    Ok(Outcome { book: load.book, servers })
}

struct Client {
    kind: Kind,
    link: Option<Link>,
    /// Connections so far.
    connections: u64,
}

/// A client's connection.
struct Link {
    socket: TcpStream,
    /// Requests that it may still ask.
    left: u64,
    /// The last one begun.
    newest: Id,
    /// Begun, and not answered.
    waiting: VecDeque<Id>,
    /// What the next segment completes.
    next: Option<Next>,
    answers: Vec<u8>,
}

/// A request that is not sent whole.
struct Next {
    id: Id,
    /// What is left of it; all, where it has not begun.
    rest: Vec<u8>,
}

/// A backend's connection.
struct Server {
    socket: TcpStream,
    keeps: bool,
    newest: Id,
    head: Vec<u8>,
}

struct Load {
    epoll: OwnedFd,
    agent: SocketAddr,
    plan: Plan,
    book: Book,
    clients: Vec<Client>,
    /// Clients that may ask.
    idle: VecDeque<usize>,
    /// Clients whose head's second segment is to come.
    halfway: Vec<usize>,
    servers: Vec<Option<Server>>,
    unused: Vec<usize>,
    asked_kept: Id,
    asked_fresh: Id,
    received: Id,
    outstanding: u64,
    /// Requests that may have been asked by now.
    due: u64,
}

impl Load {
    fn new(agent: SocketAddr, plan: Plan, listeners: &[TcpListener; 2]) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, listener) in (0..).zip(listeners) {
            watch(&epoll, listener, number)?;
        }
        let of_kind =
            |(kind, count)| std::iter::repeat_with(move || Client { kind, link: None, connections: 0 }).take(count);
        let clients: Vec<Client> = plan.clients.iter().copied().flat_map(of_kind).collect();
        Ok(Self {
            epoll,
            agent,
            book: Book::new(plan.quota.all()),
            plan,
            idle: (0..clients.len()).collect(),
            clients,
            halfway: Vec::new(),
            servers: Vec::new(),
            unused: Vec::new(),
            asked_kept: 0,
            asked_fresh: 0,
            received: 0,
            outstanding: 0,
            due: 0,
        })
    }

    fn asked(&self) -> u64 {
        u64::from(self.asked_kept) + u64::from(self.asked_fresh)
    }

    /// The next number for such a client, if it may ask now.
    fn number_for(&mut self, kind: Kind) -> Option<Id> {
        if self.outstanding >= OUTSTANDING_MAX || self.asked() >= self.due {
            return None;
        }
        let Quota { kept, fresh, .. } = self.plan.quota;
        let (asked, quota, offset) = if kind.has_fresh_upstream() {
            (&mut self.asked_fresh, fresh, kept)
        } else {
            (&mut self.asked_kept, kept, 0)
        };
        if *asked >= quota {
            return None;
        }
        *asked += 1;
        self.outstanding += 1;
        Some(*asked + offset)
    }

    /// Lets idle clients ask, as far as they may.
    fn ask(&mut self) -> Result<()> {
        for _ in 0..self.idle.len() {
            let Some(number) = self.idle.pop_front() else { break };
            let Some(kind) = self.clients.get(number).map(|client| client.kind) else { break };
            let Some(id) = self.number_for(kind) else {
                self.idle.push_back(number);
                continue;
            };
            self.connect(number, id)?;
            let request = self.request(kind, id);
            let cut = if kind == Kind::Pipelined || self.chance(id, 1) >= 30 { 0 } else { self.cut(id, request.len()) };
            let Some(link) = self.link(number) else { break };
            link.left = link.left.saturating_sub(1);
            link.next = Some(Next { id, rest: request });
            if cut == 0 {
                self.segment(number)?;
            } else {
                self.first_part(number, cut)?;
                self.halfway.push(number);
            }
        }
        Ok(())
    }

    /// Opens a client's connection where there is none.
    fn connect(&mut self, number: usize, id: Id) -> Result<()> {
        let length = 1 + self.chance(id, 2) * REQUESTS_PER_CONNECTION / 100;
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        if client.link.is_some() {
            return Ok(());
        }
        client.connections += 1;
        let host = host(number, client.connections)?;
        let socket = TcpStream::connect((host, self.agent.port())).with_context(|| format!("connecting to {host}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        watch(&self.epoll, &socket, CLIENT_0 + number as u64)?;
        let left = if matches!(client.kind, Kind::ShortLived | Kind::ShortBoth) { 1 } else { length };
        client.link = Some(Link { socket, left, newest: 0, waiting: VecDeque::new(), next: None, answers: Vec::new() });
        Ok(())
    }

    /// Writes the first bytes of the next request, which has not begun.
    fn first_part(&mut self, number: usize, cut: usize) -> Result<()> {
        let now = now_ns();
        let Some(mut next) = self.link(number).and_then(|link| link.next.take()) else { return Ok(()) };
        self.begun(number, next.id, now);
        let rest = next.rest.split_off(cut.min(next.rest.len()));
        let Some(link) = self.link(number) else { return Ok(()) };
        link.socket.write_all(&next.rest).context("a request was not taken")?;
        link.next = Some(Next { id: next.id, rest });
        Ok(())
    }

    /// Writes what completes the next request. A pipelining client goes on in the same segment with as much of another as
    /// the seed says, if it may ask.
    fn segment(&mut self, number: usize) -> Result<()> {
        let now = now_ns();
        let Some(Next { id, rest: mut segment }) = self.link(number).and_then(|link| link.next.take()) else {
            return Ok(());
        };
        self.begun(number, id, now);
        self.book.note(id, |stamps| stamps.last_sending = now);
        let pipelines = self.clients.get(number).is_some_and(|client| client.kind == Kind::Pipelined);
        let goes_on = pipelines && self.link(number).is_some_and(|link| link.left > 0);
        if let Some(id) = goes_on.then(|| self.number_for(Kind::Pipelined)).flatten() {
            let mut request = self.request(Kind::Pipelined, id);
            let rest = request.split_off(self.cut(id, request.len()));
            if !request.is_empty() {
                self.begun(number, id, now);
                segment.extend(request);
            }
            if let Some(link) = self.link(number) {
                link.left -= 1;
                link.next = Some(Next { id, rest });
            }
        }
        let Some(link) = self.link(number) else { return Ok(()) };
        link.socket.write_all(&segment).context("a segment was not taken")
    }

    /// Writes down that a request's first byte is about to be sent, unless it has been.
    fn begun(&mut self, number: usize, id: Id, now: u64) {
        let Some(client) = self.clients.get_mut(number) else { return };
        let Some(link) = &mut client.link else { return };
        if link.newest == id {
            return;
        }
        let before = std::mem::replace(&mut link.newest, id);
        link.waiting.push_back(id);
        let kind = if id <= self.plan.quota.warm_up { Kind::WarmUp } else { client.kind };
        self.book.note(id, |stamps| {
            (stamps.kind, stamps.client, stamps.before, stamps.first_sending) = (kind, number, before, now);
        });
    }

    /// The second segments of heads that were sent by half.
    fn finish_heads(&mut self) -> Result<()> {
        for number in std::mem::take(&mut self.halfway) {
            self.segment(number)?;
        }
        Ok(())
    }

    /// Something has come for a client.
    fn answer(&mut self, number: usize) -> Result<()> {
        let Some(link) = self.link(number) else { return Ok(()) };
        match read(&mut link.socket, &mut link.answers)? {
            Came::Nothing => return Ok(()),
            Came::Bytes => {}
            Came::End if link.waiting.is_empty() && link.next.is_none() => {
                self.close(number);
                return Ok(());
            }
            Came::End => bail!("a connection ended before the answers to {:?}: {:?}", link.waiting, link.shown()),
        }
        let now = now_ns();
        let mut done = Vec::new();
        while let Some(id) = link.take_answer()? {
            done.push(id);
        }
        let is_idle = link.waiting.is_empty() && link.next.is_none();
        let has_ended = is_idle && link.left == 0;
        for id in &done {
            self.received += 1;
            self.book.note(*id, |stamps| stamps.received = now);
        }
        if has_ended {
            self.close(number);
        }
        if is_idle && !done.is_empty() {
            self.idle.push_back(number);
        }
        Ok(())
    }

    fn accept(&mut self, listeners: &[TcpListener; 2], listener: usize) -> Result<()> {
        let keeps = listener == 0;
        loop {
            let socket = match listeners.get(listener).map(TcpListener::accept) {
                Some(Ok((socket, _))) => socket,
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Some(Err(error)) => return Err(error).context("accept"),
                None => return Ok(()),
            };
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let number = self.unused.pop().unwrap_or(self.servers.len());
            watch(&self.epoll, &socket, SERVER_0 + number as u64)?;
            let server = Some(Server { socket, keeps, newest: 0, head: Vec::new() });
            match self.servers.get_mut(number) {
                Some(place) => *place = server,
                None => self.servers.push(server),
            }
        }
    }

    /// Something has come for a backend.
    fn serve(&mut self, number: usize) -> Result<()> {
        let Some(Some(server)) = self.servers.get_mut(number) else { return Ok(()) };
        match read(&mut server.socket, &mut server.head)? {
            Came::Nothing => return Ok(()),
            Came::Bytes if !server.head.ends_with(b"\r\n\r\n") => return Ok(()),
            Came::Bytes => {}
            Came::End => {
                self.forget(number);
                return Ok(());
            }
        }
        let now = now_ns();
        let id = number_in(&server.head).context("a request that is none of ours")?;
        server.head.clear();
        let before = std::mem::replace(&mut server.newest, id);
        self.book.note(before, |stamps| stamps.after_at_backend = id);
        self.book.note(id, |stamps| (stamps.head_read, stamps.before_at_backend) = (now, before));
        let client = self.book.of(id).client;
        if self.clients.get(client).is_some_and(|client| client.kind == Kind::Pipelined) {
            // The next request is there before this one's answer, and nothing of it was before this one's end.
            self.segment(client)?;
        }
        let Some(Some(server)) = self.servers.get_mut(number) else { return Ok(()) };
        let close = if server.keeps { "" } else { "connection: close\r\n" };
        let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: {DIGITS}\r\n\r\n{id:0DIGITS$}");
        let answering = now_ns();
        server.socket.write_all(answer.as_bytes()).context("an answer was not taken")?;
        let answered = now_ns();
        self.book.note(id, |stamps| (stamps.answering, stamps.answered) = (answering, answered));
        if !close.is_empty() {
            self.forget(number);
        }
        Ok(())
    }

    /// The backend closes a connection.
    fn forget(&mut self, number: usize) {
        if self.servers.get_mut(number).and_then(Option::take).is_some() {
            self.unused.push(number);
        }
    }

    fn close(&mut self, number: usize) {
        if let Some(client) = self.clients.get_mut(number) {
            client.link = None;
        }
    }

    fn link(&mut self, number: usize) -> Option<&mut Link> {
        self.clients.get_mut(number)?.link.as_mut()
    }

    fn request(&self, kind: Kind, id: Id) -> Vec<u8> {
        let place = if kind.has_fresh_upstream() { "f" } else { "r" };
        let closes = matches!(kind, Kind::ShortLived | Kind::ShortBoth) && self.chance(id, 3) < 50;
        let close = if closes { "connection: close\r\n" } else { "" };
        format!("GET /{place}/{id:0DIGITS$} HTTP/1.1\r\nhost: joins\r\n{close}\r\n").into_bytes()
    }

    /// Where a segment ends in a request: before it, behind its first byte, before its last, or anywhere.
    fn cut(&self, id: Id, length: usize) -> usize {
        match self.chance(id, 4) {
            0..25 => 0,
            25..50 => 1,
            50..75 => length.saturating_sub(1),
            other => 1 + usize::try_from(other).unwrap_or(0) % length.saturating_sub(1).max(1),
        }
    }

    /// From 0 to 99, by the seed.
    fn chance(&self, id: Id, salt: u64) -> u64 {
        hash(self.plan.seed, id, salt) % 100
    }
}

/// An even spread of numbers, by the seed.
pub(super) fn hash(seed: u64, id: Id, salt: u64) -> u64 {
    // splitmix64's mixer.
    let mut mixed = seed ^ (u64::from(id) << 8) ^ salt;
    for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
        mixed = (mixed ^ mixed >> shift).wrapping_mul(factor);
    }
    mixed ^ mixed >> 31
}

/// The agent's address for a client's next connection. All of 127/8 is this machine: the ports of ended connections, which
/// rest, are no limit.
pub(super) fn host(client: usize, connections: u64) -> Result<Ipv4Addr> {
    let [third, last] = [connections / 250 % 250, connections % 250].map(u8::try_from);
    Ok(Ipv4Addr::new(127, u8::try_from(client + 1)?, third?, last? + 1))
}

impl Link {
    /// The next whole answer's request: the oldest that waits, or something is wrong.
    fn take_answer(&mut self) -> Result<Option<Id>> {
        let Some(head) = self.answers.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let end = head + 4 + DIGITS;
        let Some(body) = self.answers.get(head + 4..end) else { return Ok(None) };
        let id = std::str::from_utf8(body).ok().and_then(|text| text.parse().ok());
        let expected = self.waiting.pop_front();
        if expected.is_none() || id != expected || !self.answers.starts_with(b"HTTP/1.1 200 ") {
            bail!("this is no answer to {expected:?}: {:?}", self.shown());
        }
        self.answers.drain(..end);
        Ok(expected)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.answers).chars().take(300).collect()
    }
}

enum Came {
    Nothing,
    Bytes,
    End,
}

/// Reads once.
fn read(socket: &mut TcpStream, into: &mut Vec<u8>) -> Result<Came> {
    let mut bytes = [0; 4096];
    match socket.read(&mut bytes) {
        Ok(0) => Ok(Came::End),
        Ok(read) => {
            into.extend_from_slice(bytes.get(..read).unwrap_or_default());
            Ok(Came::Bytes)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(Came::Nothing),
        // A peer may close what it has not read from.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Came::End),
        Err(error) => Err(error.into()),
    }
}

/// The number in a request's path.
pub(super) fn number_in(head: &[u8]) -> Option<Id> {
    let digits = head.strip_prefix(b"GET /")?.get(2..2 + DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn watch(epoll: &OwnedFd, socket: &impl AsFd, number: u64) -> Result<()> {
    Ok(epoll::add(epoll, socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?)
}

/// The kernel's and the agent's clock.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::default();
        let seconds = Duration::from_secs;
        assert_eq!(pace.due(1_000, seconds(1), 990), 1_000);
        assert_eq!(pace.due(1_000, seconds(3), 1_000), 1_100);
        assert_eq!(pace.due(1_000, seconds(4), 2_050), 2_100);
    }

    #[test]
    fn the_number_of_a_request_is_in_its_path() {
        assert_eq!(number_in(b"GET /r/0000000012 HTTP/1.1\r\n"), Some(12));
        for none in [&b"GET /r/12"[..], b"POST /r/0000000012", b"GET /", b"GET /r/00000000xx "] {
            assert_eq!(number_in(none), None);
        }
    }
}
