//! The load: our clients and our backends on one thread with one epoll, as the other load's, but each request goes by a script
//! of its own. Closed-loop: a client asks again when it has its answer, unless more requests than [`OUTSTANDING_MAX`] have no
//! span yet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventFlags};
use rustix::time::Timespec;

use super::super::book::Id;
use super::super::load::{LOOKS_MAX, host, now_ns};
use super::book::Book;
use super::exchange::{Exchange, Next, Side};
use super::script::{Dice, Ends, Kind, Part, Script, number_in};
use super::wire::{Came, Message, Sent, Step, Wire};

/// Requests without a span yet, at most: each has some ten, and these are less than half of what the agent keeps.
const OUTSTANDING_MAX: u64 = 2_000;
/// Clients.
const LANES: usize = 32;
/// A kept connection carries up to so many requests.
const REQUESTS_PER_CONNECTION: u64 = 60;
/// A request is followed by another in its last segment, in so many of a hundred.
const FOLLOWED: u64 = 20;
/// How often is looked whether spans have come.
const LOOK_NS: u64 = 1_000_000;
/// Epoll's names: the listener, then clients, then the backends' connections.
const LANE_0: u64 = 1;
const SERVER_0: u64 = 1 << 32;

/// A byte that counts, of a request.
#[derive(Clone, Copy, Debug)]
enum Mark {
    First(Id),
    HeadEnd(Id),
    /// The first of a piece, and the payload behind that.
    Piece(Id, u64),
    Last(Id),
    /// The final response's first.
    Answer(Id),
    AnswerPiece(Id, u64),
    End(Id),
}

/// A client.
#[derive(Default)]
struct Lane {
    link: Option<Link>,
    /// Connections so far.
    connections: u64,
}

/// A client's connection.
struct Link {
    wire: Wire<Mark>,
    message: Message,
    /// Requests that it may still carry.
    left: u64,
    /// The last one begun.
    newest: Id,
    /// Begun, and not answered.
    waiting: VecDeque<Id>,
    /// When the answer under way began, and whether it is an interim one.
    began: u64,
    is_interim: bool,
}

/// A backend's connection.
struct Server {
    wire: Wire<Mark>,
    message: Message,
    newest: Id,
    /// It has answered before.
    is_used: bool,
}

struct Load {
    epoll: OwnedFd,
    agent: SocketAddr,
    seed: u64,
    requests: Id,
    asked: Id,
    over: Id,
    outstanding: u64,
    book: Book,
    exchanges: HashMap<Id, Exchange>,
    lanes: Vec<Lane>,
    idle: VecDeque<usize>,
    servers: Vec<Option<Server>>,
    unused: Vec<usize>,
    /// When pauses end.
    timers: BinaryHeap<Reverse<(u64, Id)>>,
}

/// Asks that many; what was written down. `spans` says how many requests have their span.
pub(super) fn run(
    agent: SocketAddr,
    listener: &TcpListener,
    (requests, seed): (Id, u64),
    spans: impl Fn() -> u64,
) -> Result<Book> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(0), EventFlags::IN)?;
    let mut load = Load {
        epoll,
        agent,
        seed,
        requests,
        asked: 0,
        over: 0,
        outstanding: 0,
        book: Book::new(requests),
        exchanges: HashMap::new(),
        lanes: std::iter::repeat_with(Lane::default).take(LANES).collect(),
        idle: (0..LANES).collect(),
        servers: Vec::new(),
        unused: Vec::new(),
        timers: BinaryHeap::new(),
    };
    let (mut progress, mut looks) = (0, 0);
    while load.over < requests {
        load.outstanding = u64::from(load.asked).saturating_sub(spans());
        load.ask()?;
        let came = load.wait(listener)?;
        let now = u64::from(load.over) + spans();
        looks = if now > progress || came { 0 } else { looks + 1 };
        progress = now;
        if looks > LOOKS_MAX {
            let open: Vec<_> = load.exchanges.values().take(3).collect();
            bail!("nothing came: {} asked, {} over, {} with a span; {open:?}", load.asked, load.over, spans());
        }
    }
    Ok(load.book)
}

impl Load {
    /// Waits for something to come or a pause to end, and goes on with it. Whether anything came.
    fn wait(&mut self, listener: &TcpListener) -> Result<bool> {
        let due = self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let wait_ns = due.saturating_sub(now_ns()).min(LOOK_NS);
        let mut events = Vec::with_capacity(256);
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait_ns)? };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        let came = !events.is_empty();
        for event in events {
            match event.data.u64() {
                0 => self.accept(listener)?,
                number if number < SERVER_0 => self.hear_answer(usize::try_from(number - LANE_0)?)?,
                number => self.hear_request(usize::try_from(number - SERVER_0)?)?,
            }
        }
        let now = now_ns();
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            self.advance(id)?;
        }
        Ok(came)
    }

    /// Lets idle clients ask, as far as they may.
    fn ask(&mut self) -> Result<()> {
        while self.outstanding < OUTSTANDING_MAX && self.asked < self.requests {
            let Some(number) = self.idle.pop_front() else { return Ok(()) };
            let id = self.number();
            let mut dice = Dice::new(self.seed, id);
            let kind = dice.kind();
            let script = Script::new(kind, id, &mut dice);
            self.connect(number, &mut dice)?;
            self.begin(number, id, script);
            self.advance(id)?;
        }
        Ok(())
    }

    fn number(&mut self) -> Id {
        self.asked += 1;
        self.outstanding += 1;
        self.asked
    }

    /// Opens a client's connection where there is none.
    fn connect(&mut self, number: usize, dice: &mut Dice) -> Result<()> {
        let left = dice.between(1, REQUESTS_PER_CONNECTION);
        let Some(lane) = self.lanes.get_mut(number) else { return Ok(()) };
        if lane.link.is_some() {
            return Ok(());
        }
        lane.connections += 1;
        let host = host(number, lane.connections)?;
        let socket = TcpStream::connect((host, self.agent.port())).with_context(|| format!("connecting to {host}"))?;
        let wire = Wire::new(socket)?;
        watch(&self.epoll, &wire.socket, LANE_0 + number as u64)?;
        let (message, waiting) = (Message::default(), VecDeque::new());
        lane.link = Some(Link { wire, message, left, newest: 0, waiting, began: 0, is_interim: false });
        Ok(())
    }

    /// A request is the next of a client.
    fn begin(&mut self, number: usize, id: Id, script: Script) {
        let kind = script.kind;
        let Some(link) = self.link(number) else { return };
        link.left = link.left.saturating_sub(1);
        link.waiting.push_back(id);
        let before = std::mem::replace(&mut link.newest, id);
        self.book.note(id, |stamps| (stamps.kind, stamps.before) = (kind, before));
        self.book.note(before, |stamps| stamps.after = id);
        self.exchanges.insert(id, Exchange::new(number, script));
    }

    /// Does what can be done of a request on either side.
    fn advance(&mut self, id: Id) -> Result<()> {
        loop {
            let mut moved = false;
            for side in [Side::Client, Side::Backend] {
                let before = self.book.of(self.book.of(id).before);
                let Some(exchange) = self.exchanges.get_mut(&id) else { return Ok(()) };
                match exchange.next(side, now_ns(), before) {
                    Next::Nothing => continue,
                    Next::At(at) => {
                        self.timers.push(Reverse((at, id)));
                        continue;
                    }
                    Next::Write(part) if side == Side::Client => self.send(id, &part)?,
                    Next::Write(part) => self.respond(id, &part)?,
                    Next::Leave => return self.leave(id),
                    Next::End => self.end_unanswered(id)?,
                }
                moved = true;
            }
            if !moved {
                return self.settle(id);
            }
        }
    }

    /// The client writes a part; behind a request's last bytes, perhaps the first of another.
    fn send(&mut self, id: Id, part: &Part) -> Result<()> {
        let Some(exchange) = self.exchanges.get(&id) else { return Ok(()) };
        let number = exchange.lane;
        self.push(id, part);
        if self.is_followed(id) {
            let next = self.number();
            let mut dice = Dice::new(self.seed, next);
            let kind = if dice.percent(30) { Kind::BurstBehind } else { Kind::Behind };
            let mut script = Script::new(kind, next, &mut dice);
            script.split_behind(&mut dice);
            self.begin(number, next, script);
            let before = self.book.of(id);
            let exchange = self.exchanges.get_mut(&next);
            if let Some(Next::Write(part)) = exchange.map(|exchange| exchange.next(Side::Client, now_ns(), before)) {
                self.push(next, &part);
            }
        }
        self.flush_lane(number)
    }

    /// Whether another request begins behind what was just pushed.
    fn is_followed(&mut self, id: Id) -> bool {
        let Some(exchange) = self.exchanges.get(&id) else { return false };
        // Of these the connection may end, or the backend has them twice.
        let is_alone = matches!(exchange.script.kind, Kind::Early | Kind::Cancelled | Kind::Retried);
        let may = !is_alone && exchange.is_sent() && !exchange.script.is_last && self.asked < self.requests;
        let number = exchange.lane;
        may && Dice::apart(self.seed, id).percent(FOLLOWED) && self.link(number).is_some_and(|link| link.left > 0)
    }

    /// Puts a part of a request behind what is to be written.
    fn push(&mut self, id: Id, part: &Part) {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return };
        let (from, number) = (exchange.sent, exchange.lane);
        let head_end = exchange.sends(part);
        let mut counts = Vec::new();
        if from == 0 {
            counts.push((0, Mark::First(id)));
        }
        if part.payload > 0 || from >= exchange.script.head_bytes {
            counts.push((0, Mark::Piece(id, exchange.sent_payload())));
        }
        counts.extend(head_end.map(|at| (at, Mark::HeadEnd(id))));
        if exchange.is_sent() {
            counts.push((part.bytes.len().saturating_sub(1), Mark::Last(id)));
        }
        if let Some(link) = self.link(number) {
            link.wire.push(&part.bytes, counts);
        }
    }

    /// The backend writes a part.
    fn respond(&mut self, id: Id, part: &Part) -> Result<()> {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return Ok(()) };
        let mut counts = Vec::new();
        if let Some((at, payload)) = exchange.answers(part) {
            counts.extend(part.final_at.map(|at| (at, Mark::Answer(id))));
            counts.push((at, Mark::AnswerPiece(id, payload)));
        }
        let is_answered = exchange.is_answered();
        if is_answered {
            counts.push((part.bytes.len().saturating_sub(1), Mark::End(id)));
        }
        let Some(number) = exchange.server else { return Ok(()) };
        if part.closes {
            // Its end counts as a byte.
            let now = now_ns();
            counts.into_iter().for_each(|(_, what)| self.sent(Sent { what, before: now, after: now }));
            self.forget(number);
            return Ok(());
        }
        let Some(Some(server)) = self.servers.get_mut(number) else { return Ok(()) };
        server.is_used |= is_answered;
        server.wire.push(&part.bytes, counts);
        self.flush_server(number)
    }

    /// Writes what there is room for. A client's other end that is gone is noticed when it is read from.
    fn flush_lane(&mut self, number: usize) -> Result<()> {
        let mut all = Vec::new();
        if let Some(link) = self.link(number) {
            link.wire.flush(|sent| all.push(sent))?;
        }
        all.into_iter().for_each(|sent| self.sent(sent));
        Ok(())
    }

    fn flush_server(&mut self, number: usize) -> Result<()> {
        let mut all = Vec::new();
        if let Some(Some(server)) = self.servers.get_mut(number) {
            server.wire.flush(|sent| all.push(sent))?;
        }
        all.into_iter().for_each(|sent| self.sent(sent));
        Ok(())
    }

    /// Writes a byte's time down.
    fn sent(&mut self, Sent { what, before, after }: Sent<Mark>) {
        match what {
            Mark::First(id) => self.book.note(id, |stamps| stamps.first_sending = before),
            Mark::HeadEnd(id) => self.book.note(id, |stamps| stamps.head_sending = before),
            Mark::Last(id) => self.book.note(id, |stamps| stamps.last_sending = before),
            Mark::Answer(id) => {
                self.book.note(id, |stamps| (stamps.answering, stamps.answered) = (before, after));
            }
            Mark::End(id) => self.book.note(id, |stamps| stamps.ending = before),
            Mark::Piece(id, payload) => {
                if let Some(exchange) = self.exchanges.get_mut(&id) {
                    exchange.piece_sent(before, payload);
                }
            }
            Mark::AnswerPiece(id, payload) => {
                if let Some(exchange) = self.exchanges.get_mut(&id) {
                    exchange.piece_answered(before, payload);
                }
            }
        }
    }

    /// Something has come for a client, or there is room again.
    fn hear_answer(&mut self, number: usize) -> Result<()> {
        self.flush_lane(number)?;
        loop {
            let Some(link) = self.link(number) else { return Ok(()) };
            let waits = link.waiting.front().copied();
            match link.wire.read()? {
                Came::Nothing => return Ok(()),
                Came::Bytes(bytes) => self.take_answers(number, &bytes)?,
                Came::End => {
                    if let Some(id) = waits {
                        let (exchange, stamps) = (self.exchanges.get(&id), self.book.of(id));
                        bail!("a connection ended before the answer to {exchange:?}: {stamps:?}");
                    }
                    self.close(number);
                    return Ok(());
                }
            }
        }
    }

    fn take_answers(&mut self, number: usize, mut bytes: &[u8]) -> Result<()> {
        let now = now_ns();
        loop {
            let Some(lane) = self.lanes.get_mut(number) else { return Ok(()) };
            let Some(link) = &mut lane.link else { return Ok(()) };
            let id = link.waiting.front().copied();
            let mut exchange = id.and_then(|id| self.exchanges.get_mut(&id));
            let is_head = exchange.as_ref().is_some_and(|exchange| exchange.script.kind == Kind::Head);
            let step = link.message.step(&mut bytes, |head| !is_head && !is_interim(head));
            let Some(step) = step else { break };
            let Some((id, exchange)) = id.zip(exchange.as_mut()) else {
                bail!("an answer to nothing: {:?}", String::from_utf8_lossy(bytes));
            };
            match step {
                Step::Begun => link.began = now,
                Step::Head(head) if is_interim(&head) => {
                    link.is_interim = true;
                    exchange.told();
                }
                Step::Head(head) => {
                    if !head.starts_with(b"HTTP/1.1 200 ") {
                        let head = String::from_utf8_lossy(&head);
                        bail!("this is no answer to {exchange:?}, {:?}: {head}", self.book.of(id));
                    }
                    let began = link.began;
                    exchange.begun = true;
                    self.book.note(id, |stamps| {
                        stamps.received_first = began;
                        exchange.taken(0, now, stamps);
                    });
                }
                Step::Body => {
                    let payload = link.message.payload;
                    self.book.note(id, |stamps| exchange.taken(payload, now, stamps));
                }
                Step::End if link.is_interim => link.is_interim = false,
                Step::End => {
                    if !exchange.is_complete() {
                        bail!("this answer has not the length that was written: {exchange:?}");
                    }
                    link.waiting.pop_front();
                    self.book.note(id, |stamps| {
                        stamps.received = now;
                        exchange.done(now, stamps);
                    });
                    self.advance(id)?;
                }
            }
        }
        let next = self.link(number).and_then(|link| link.waiting.front().copied());
        next.map_or(Ok(()), |id| self.advance(id))
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            let wire = Wire::new(socket)?;
            let number = self.unused.pop().unwrap_or(self.servers.len());
            watch(&self.epoll, &wire.socket, SERVER_0 + number as u64)?;
            let server = Some(Server { wire, message: Message::default(), newest: 0, is_used: false });
            match self.servers.get_mut(number) {
                Some(place) => *place = server,
                None => self.servers.push(server),
            }
        }
    }

    /// Something has come for a backend, or there is room again.
    fn hear_request(&mut self, number: usize) -> Result<()> {
        self.flush_server(number)?;
        loop {
            let Some(Some(server)) = self.servers.get_mut(number) else { return Ok(()) };
            match server.wire.read()? {
                Came::Nothing => return Ok(()),
                Came::Bytes(bytes) => self.take_requests(number, &bytes)?,
                Came::End => {
                    self.forget(number);
                    return Ok(());
                }
            }
        }
    }

    fn take_requests(&mut self, number: usize, mut bytes: &[u8]) -> Result<()> {
        let now = now_ns();
        loop {
            let Some(Some(server)) = self.servers.get_mut(number) else { return Ok(()) };
            let Some(step) = server.message.step(&mut bytes, |_| true) else { break };
            match step {
                Step::Begun => {}
                Step::Head(head) => {
                    let id = number_in(&head).context("a request that is none of ours")?;
                    let before = std::mem::replace(&mut server.newest, id);
                    let exchange = self.exchanges.get_mut(&id).context("a request that nobody waits for")?;
                    exchange.asked(number, server.is_used);
                    self.book.note(id, |stamps| {
                        (stamps.asked, stamps.heard, stamps.before_at_backend) = (now, now, before);
                        if stamps.head_read == 0 {
                            stamps.head_read = now;
                            stamps.up.add(stamps.head_sending, now);
                        }
                    });
                }
                Step::Body => {
                    let (id, payload) = (server.newest, server.message.payload);
                    if let Some(exchange) = self.exchanges.get_mut(&id) {
                        self.book.note(id, |stamps| exchange.heard(payload, now, stamps));
                    }
                }
                Step::End => {
                    let id = server.newest;
                    self.book.note(id, |stamps| stamps.whole_read = now);
                    if let Some(exchange) = self.exchanges.get_mut(&id) {
                        self.book.note(id, |stamps| exchange.whole(now, stamps));
                    }
                }
            }
        }
        let Some(Some(server)) = self.servers.get(number) else { return Ok(()) };
        let id = server.newest;
        let lane = self.exchanges.get(&id).map(|exchange| exchange.lane);
        self.advance(id)?;
        // One behind it may go on.
        let behind = lane.and_then(|lane| self.link(lane)).and_then(|link| link.waiting.back().copied());
        behind.filter(|behind| *behind != id).map_or(Ok(()), |behind| self.advance(behind))
    }

    /// A client goes away.
    fn leave(&mut self, id: Id) -> Result<()> {
        self.book.note(id, |stamps| stamps.leaving = now_ns());
        let Some(exchange) = self.exchanges.get(&id) else { return Ok(()) };
        self.close(exchange.lane);
        self.finish(id);
        Ok(())
    }

    /// The backend ends a connection that has answered before.
    fn end_unanswered(&mut self, id: Id) -> Result<()> {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return Ok(()) };
        let (number, ends) = (exchange.server, exchange.script.unanswered);
        exchange.ended_unanswered();
        self.book.note(id, |stamps| {
            stamps.closing = now_ns();
            // What comes over another connection is yet to be read.
            (stamps.asked, stamps.whole_read) = (0, 0);
        });
        let Some(number) = number else { return Ok(()) };
        if let (Some(Some(server)), Some((Ends::Reset, _))) = (self.servers.get(number), ends) {
            // Closed with lingering time zero, a connection ends by a reset.
            rustix::net::sockopt::set_socket_linger(&server.wire.socket, Some(std::time::Duration::ZERO))?;
        }
        self.forget(number);
        Ok(())
    }

    /// Ends a request of which the client has all.
    fn settle(&mut self, id: Id) -> Result<()> {
        let Some(exchange) = self.exchanges.get(&id).filter(|exchange| exchange.is_over()) else { return Ok(()) };
        let (number, is_last) = (exchange.lane, exchange.script.is_last);
        let ends = is_last || self.link(number).is_some_and(|link| link.left == 0 && link.waiting.is_empty());
        if ends {
            self.close(number);
        }
        self.finish(id);
        Ok(())
    }

    /// A request is over; its client may ask again, unless another of its own is under way.
    fn finish(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.remove(&id) else { return };
        self.book.note(id, |stamps| exchange.leave(stamps));
        self.over += 1;
        let number = exchange.lane;
        if self.link(number).is_none_or(|link| link.waiting.is_empty()) {
            self.idle.push_back(number);
        }
    }

    fn close(&mut self, number: usize) {
        if let Some(lane) = self.lanes.get_mut(number) {
            lane.link = None;
        }
    }

    /// A backend's connection is over.
    fn forget(&mut self, number: usize) {
        let Some(server) = self.servers.get_mut(number).and_then(Option::take) else { return };
        self.unused.push(number);
        if let Some(exchange) = self.exchanges.get_mut(&server.newest).filter(|known| known.server == Some(number)) {
            exchange.server = None;
        }
    }

    fn link(&mut self, number: usize) -> Option<&mut Link> {
        self.lanes.get_mut(number)?.link.as_mut()
    }
}

fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 1")
}

/// Told once of what comes, and of room.
fn watch(epoll: &OwnedFd, socket: &TcpStream, number: u64) -> Result<()> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    Ok(epoll::add(epoll, socket, epoll::EventData::new_u64(number), flags)?)
}
