//! The clients: each asks one request after the other, badly where the row says so, and writes down when.

mod busy;
mod secure;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wayspan_tests::tls;

use super::ledger::now_ns;
use super::machine::{Crowd, Hog, avoid_last_core};
use super::plan::{HOLDS, How, Life, Running};
use super::space::{Space, Urgency, urgent};
use super::stage::Stage;
use super::unread::{self, Unread};

/// Longer than anything that is injected.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Requests from this number on are never disturbed on purpose, and asked about by nobody.
const WARM_UP: u64 = super::plan::JUDGED_MAX;
/// So many requests after each other with a crowd, or without.
const CROWD_TURN: u64 = 10;
/// So many compete for one core.
const CROWD: usize = 4;

/// Where and what a row's clients ask.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) agent: SocketAddr,
    pub(super) host: &'static str,
}

/// What became of a row's clients.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Requests that failed, in words.
    pub(super) faults: Vec<String>,
    /// Connections that are still open: what comes after a response comes only over those.
    open: Vec<TcpStream>,
}

/// Asks all of a row's requests, those of `ids`.
pub(super) fn run(
    space: &Space,
    stage: &Arc<Stage>,
    running: &Arc<Running>,
    asked: &Asked,
    ids: std::ops::Range<u64>,
    ending: &(dyn Fn() -> bool + Sync),
) -> Result<Asking> {
    let lanes = running.row.shape.lanes.max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes)
            .map(|lane| {
                let ids = ids.clone();
                scope.spawn(move || -> Result<Asking> {
                    space.enter()?;
                    if running.row.agent.is_pinned() {
                        // What a segment costs its receiver is done on the sender's core: not on the hog's.
                        avoid_last_core()?;
                    }
                    urgent(Urgency::Injector);
                    let mut client = Client {
                        stage,
                        running,
                        asked,
                        connection: None,
                        secure: None,
                        other: None,
                        hog: None,
                        crowd: None,
                        open: Vec::new(),
                    };
                    // Not judged: the first request pays for connections, page faults, caches.
                    let _warm = client.request(WARM_UP + lane);
                    let mut faults = Vec::new();
                    for id in ids.filter(|id| id % lanes == lane) {
                        if ending() {
                            break;
                        }
                        let from_ns = now_ns();
                        if let Err(error) = client.request(id) {
                            client.connection = None;
                            faults.push(format!("request {id}: {error:#}"));
                        }
                        running.ledger.asked(id, from_ns, now_ns());
                    }
                    client.open.extend(client.connection);
                    Ok(Asking { faults, open: client.open })
                })
            })
            .collect();
        let mut asking = Asking::default();
        for thread in threads {
            let lane = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            asking.faults.extend(lane.faults);
            asking.open.extend(lane.open);
        }
        Ok(asking)
    })
}

struct Client<'a> {
    stage: &'a Stage,
    running: &'a Running,
    asked: &'a Asked,
    connection: Option<TcpStream>,
    /// The same of one that speaks TLS.
    secure: Option<tls::Client>,
    /// Of the requests that keep the worker busy.
    other: Option<TcpStream>,
    hog: Option<Hog>,
    crowd: Option<Crowd>,
    /// Those of earlier requests.
    open: Vec<TcpStream>,
}

impl Client<'_> {
    /// The next request is on a new connection where the row wants that.
    fn renew(&mut self) {
        match self.running.row.shape.client_life {
            Life::Kept => {}
            Life::Fresh => self.open.extend(self.connection.take()),
            Life::Short => self.connection = None,
        }
    }

    fn request(&mut self, id: u64) -> Result<()> {
        let running = self.running;
        if running.row.shape.tls {
            return self.secure_request(id);
        }
        self.renew();
        if self.gives_up(id)? || self.behind(id)? {
            return Ok(());
        }
        let (agent, ledger) = (self.stage.agent()?, &running.ledger);
        let before = agent.workers.account();
        let mut intended_ns = 0;
        if let Some((index, delay)) = running.chosen(How::StopBeforeRequest, id) {
            let stage = self.stage;
            if running.row.shape.client_life == Life::Kept {
                self.connection(id)?;
                agent.workers.settle()?;
            }
            let stop = stage.stopped(delay, || self.send(id))?;
            ledger.add(id, index, true, stop.from_ns, stop.to_ns);
            ledger.unsure(id, index, 0, stop.ended_ns - stop.to_ns);
            let received = self.receive(id);
            ledger.noise(id, agent.workers.account().since(before).busy_ns());
            return received;
        }
        if let Some((index, delay)) = running.chosen(How::StopBeforeConnection, id) {
            let stage = self.stage;
            let stop = stage.stopped(delay, || self.connection(id).map(|_| ()))?;
            ledger.add(id, index, true, stop.from_ns, stop.to_ns);
            ledger.unsure(id, index, 0, stop.ended_ns - stop.to_ns);
            // The request comes when the connection has been accepted.
            agent.workers.settle()?;
        }
        let crowded = self.crowd(id)?;
        if crowded.is_some() || running.index(How::Hog).is_some() {
            agent.workers.settle()?;
        }
        let before = agent.workers.account();
        if let Some((index, delay)) = running.chosen(How::Hog, id) {
            self.hog()?.take(delay)?;
            self.send(id)?;
            let (from, (to, gone)) = (now_ns(), self.hog()?.end()?);
            ledger.add(id, index, true, from, to);
            ledger.unsure(id, index, 0, gone.saturating_sub(to));
            intended_ns = to.saturating_sub(from);
        } else if let Some((index, holder)) = self.hold(id)? {
            self.send(id)?;
            let sent_ns = now_ns();
            let received = self.receive(id);
            let _response = read_response(&holder, running.row.shape.download)?;
            let freed_ns = ledger.ended(HOLDS + id, index).context("the connection was not held")?;
            ledger.add(id, index, true, sent_ns, freed_ns);
            ledger.noise(id, agent.workers.account().since(before).busy_ns());
            return received;
        } else if !self.pipeline(id)? {
            self.send(id)?;
        }
        let received = self.receive(id);
        // Whoever waits for a core is not accounted for; it has to run to answer, so until then all is accounted for.
        let account = agent.workers.account().since(before);
        if let Some((index, crowded)) = crowded {
            let now = now_ns();
            agent.workers.settle()?;
            let after_ns = agent.workers.account().since(before).queued_ns.saturating_sub(account.queued_ns);
            ledger.add(id, index, crowded, now, now + account.queued_ns);
            ledger.unsure(id, index, 0, after_ns);
            intended_ns = account.queued_ns;
        }
        if let Some(index) = running.index(How::BackendOnCore) {
            // The worker waits for its core meanwhile.
            intended_ns = ledger.of(id, index).truth().least_ns.min(account.queued_ns);
        }
        ledger.noise(id, account.busy_ns().saturating_sub(intended_ns));
        received
    }

    /// Has another request hold the only connection to the backend, where the row wants that; its own connection.
    fn hold(&self, id: u64) -> Result<Option<(usize, TcpStream)>> {
        let Some((index, _)) = self.running.chosen(How::Capped, id) else { return Ok(None) };
        let mut stream = self.open()?;
        stream.write_all(format!("GET /r/{} HTTP/1.1\r\nhost: {}\r\n\r\n", HOLDS + id, self.asked.host).as_bytes())?;
        awaited("the connection is not held", || self.running.ledger.delivered(HOLDS + id))?;
        Ok(Some((index, stream)))
    }

    /// Goes away while the backend works, where the row wants that.
    fn gives_up(&mut self, id: u64) -> Result<bool> {
        let Some((index, delay)) = self.running.chosen(How::ClientGone, id) else { return Ok(false) };
        let (workers, ledger) = (&self.stage.agent()?.workers, &self.running.ledger);
        let before = workers.account();
        self.send(id)?;
        let had_ns = awaited("the backend has not got it", || ledger.delivered(id))?;
        std::thread::sleep(delay);
        ledger.add(id, index, true, had_ns, now_ns());
        self.connection = None;
        workers.settle()?;
        ledger.noise(id, workers.account().since(before).busy_ns());
        Ok(true)
    }

    /// Sends another request and the begin of this one's head, and the rest when the other is with the backend, where the row
    /// wants that; reads the other's response.
    fn pipeline(&mut self, id: u64) -> Result<bool> {
        let Some((index, _)) = self.running.chosen(How::Pipelined, id) else { return Ok(false) };
        let (ledger, host) = (&self.running.ledger, self.asked.host);
        let mut stream = self.connection(id)?;
        let other = format!("GET /r/{} HTTP/1.1\r\nhost: {host}\r\n\r\n", HOLDS + id);
        stream.write_all(format!("{other}GET /r/{id} HTTP/1.1\r\n").as_bytes())?;
        awaited("the backend has not got the one before", || ledger.delivered(HOLDS + id))?;
        let sending_ns = now_ns();
        stream.write_all(format!("host: {host}\r\n\r\n").as_bytes())?;
        let sent_ns = now_ns();
        read_one(stream)?;
        let read_ns = now_ns();
        let written_ns = awaited("the one before is not answered", || ledger.ended(HOLDS + id, index))?;
        ledger.add(id, index, true, sent_ns, written_ns);
        // The agent's write was at some time before it was here.
        ledger.unsure(id, index, 0, sent_ns - sending_ns + read_ns.saturating_sub(written_ns));
        Ok(true)
    }

    /// Lets a crowd come or go where the row wants one; its injection, and whether it is here.
    fn crowd(&mut self, id: u64) -> Result<Option<(usize, bool)>> {
        let Some(index) = self.running.index(How::Crowd) else { return Ok(None) };
        // It takes a moment to come and go: for some requests it stays as it is.
        let crowded = self.running.delay(index, id / CROWD_TURN).is_some();
        if crowded != self.crowd.is_some() {
            self.crowd = crowded.then(|| Crowd::start(CROWD)).transpose()?;
        }
        Ok(Some((index, crowded)))
    }

    fn hog(&mut self) -> Result<&Hog> {
        if self.hog.is_none() {
            self.hog = Some(Hog::poised()?);
        }
        self.hog.as_ref().context("just made")
    }

    /// A new connection to the agent.
    fn open(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.asked.agent).context("connect to the agent")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn connection(&mut self, id: u64) -> Result<&TcpStream> {
        if self.connection.is_none() {
            let stream = self.open()?;
            if [How::ClientRead, How::StopWithoutRoom].iter().any(|how| self.running.chosen(*how, id).is_some()) {
                unread::make_small(&stream)?;
            }
            self.connection = Some(stream);
        }
        self.connection.as_ref().context("just made")
    }

    fn send(&mut self, id: u64) -> Result<()> {
        let (running, host) = (self.running, self.asked.host);
        let shape = running.row.shape;
        let (bytes, parts) = shape.upload;
        let method = if bytes == 0 { "GET" } else { "POST" };
        let length = if bytes == 0 { String::new() } else { format!("content-length: {bytes}\r\n") };
        let close = if shape.client_life == Life::Short { "connection: close\r\n" } else { "" };
        let first = format!("{method} /r/{id} HTTP/1.1\r\nhost: {host}\r\n");
        let second = format!("{length}{close}x-padding: some more of a head\r\n\r\n");
        self.connection(id)?;
        let mut stream = self.connection.as_ref().context("just made")?;
        if shape.split_head || running.index(How::ClientHead).is_some() {
            stream.write_all(first.as_bytes())?;
            running.pause(How::ClientHead, id, now_ns());
            stream.write_all(second.as_bytes())?;
        } else {
            stream.write_all(format!("{first}{second}").as_bytes())?;
        }
        let part = vec![b'x'; bytes / parts.max(1)];
        if let Some(stop) = running.chosen(How::StopWithinUpload, id) {
            // Its first part comes to an agent that waits for it, and so do the others.
            self.stage.agent()?.workers.settle()?;
            stream.write_all(&part)?;
            return self.stage.stopped_while_pieces_come(stream, (&part, parts - 1), (id, stop));
        }
        let sent = match running.index(How::BackendEarly) {
            _ if bytes == 0 => 0,
            Some(_) => 1,
            None => parts,
        };
        for index in 0..sent {
            if index > 0 {
                running.pause(How::ClientBody, id, now_ns());
            }
            stream.write_all(&part)?;
        }
        Ok(())
    }

    fn receive(&mut self, id: u64) -> Result<()> {
        let running = self.running;
        let stream = self.connection.as_ref().context("nothing was sent")?;
        // An acknowledgement that waits for the next request is no delay of the network's.
        rustix::net::sockopt::set_tcp_quickack(stream, true)?;
        let mut stalled = None;
        if let Some((index, delay)) = running.chosen(How::ClientRead, id) {
            stalled = Some((index, Unread::pause(stream, delay)?));
        }
        let mut begun = Vec::new();
        if let Some((index, delay)) = running.chosen(How::StopWithoutRoom, id) {
            let (unread, read) = Unread::pause_unnoticed(stream, self.stage, delay)?;
            (stalled, begun) = (Some((index, unread)), read);
        }
        let shape = running.row.shape;
        let (status, close) = read_response(begun.chain(stream), shape.download)?;
        if let Some((index, unread)) = stalled {
            unread.account(&running.ledger, id, index, now_ns());
        }
        let is_early = running.index(How::BackendEarly).is_some();
        if is_early {
            let (bytes, parts) = shape.upload;
            // Behind a whole answer nobody need hear it.
            let _unheard = { stream }.write_all(&vec![b'x'; bytes - bytes / parts.max(1)]);
        }
        if close || is_early {
            self.connection = None;
        }
        let expected = if running.chosen(How::BackendSilent, id).is_some() { 504 } else { 200 };
        if status != expected {
            bail!("status {status}");
        }
        Ok(())
    }
}

/// Waits for what another thread finds out.
fn awaited<T>(otherwise: &'static str, known: impl Fn() -> Option<T>) -> Result<T> {
    let until_ns = now_ns() + u64::try_from(PATIENCE.as_nanos())?;
    loop {
        if let Some(known) = known() {
            return Ok(known);
        }
        if now_ns() > until_ns {
            bail!("{otherwise}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Reads one small response, and nothing of what may come behind it.
fn read_one(mut stream: &TcpStream) -> Result<()> {
    let mut buffer = vec![0; 4 << 10];
    let mut seen = 0;
    loop {
        let length = stream.peek(&mut buffer)?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).to_ascii_lowercase();
        let field = text.split_once("\r\n\r\n").and_then(|(head, _)| {
            let field = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
            Some(head.len() + 4 + field.trim().parse::<usize>().ok()?)
        });
        if let Some(whole) = field.filter(|whole| *whole <= length) {
            return Ok(stream.read_exact(buffer.get_mut(..whole).unwrap_or_default())?);
        }
        if length == seen {
            std::thread::sleep(LOOK);
        }
        if length == 0 {
            bail!("the connection ended before a response");
        }
        seen = length;
    }
}

/// Reads a response; its status, and whether the connection ends with it.
fn read_response(mut stream: impl std::io::Read, (bytes, chunks): (usize, usize)) -> Result<(u16, bool)> {
    let mut buffer = vec![0; 64 << 10];
    let mut head = Vec::new();
    let end = loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            bail!("the connection ended before a response");
        }
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let status: u16 = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let close = text.contains("connection: close");
    let mut body: Vec<u8> = head.get(end..).unwrap_or_default().to_vec();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).map(str::trim);
    let length = length.map(str::parse::<usize>).transpose()?;
    let mut have = body.len();
    loop {
        let whole = match length {
            Some(length) => have >= length,
            None => body.ends_with(b"0\r\n\r\n"),
        };
        if whole {
            break;
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("a response without its end");
        }
        have += read;
        body.extend_from_slice(buffer.get(..read).unwrap_or_default());
        let keep = body.len().saturating_sub(16);
        body.drain(..keep);
    }
    if status == 200 && chunks <= 1 && have != bytes {
        bail!("{have} bytes of {bytes}");
    }
    Ok((status, close))
}
