//! The backends: answer what the row under way asks for, late where it says so, and write down when.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

use super::ledger::now_ns;
use super::machine::{avoid_last_core, pin};
use super::packet::request_id;
use super::plan::{HOLDS, How, Running, Shape};
use super::space::{Space, Urgency, urgent};
use super::stage::Stage;
use super::unread::{self, Unread};

/// The running backends: one accepts at once, the other may be late. They end with this process.
#[derive(Debug)]
pub(super) struct Backends {
    pub(super) prompt: u16,
    pub(super) late: u16,
    /// What a middleware asks.
    pub(super) called: u16,
    /// As the first, with little room for what it receives.
    pub(super) cramped: u16,
}

impl Backends {
    /// Listens on all addresses of a namespace.
    pub(super) fn start(space: &Space, stage: &Arc<Stage>) -> Result<Self> {
        let open = |is_cramped: bool, run: fn(&TcpListener, &Arc<Stage>)| -> Result<u16> {
            let listener = space.within(|| Ok(TcpListener::bind(("0.0.0.0", 0))?))?;
            if is_cramped {
                // Connections have it from their first window on: one that shrinks drops what it has let come.
                unread::make_small(&listener)?;
            }
            let port = listener.local_addr()?.port();
            let stage = Arc::clone(stage);
            std::thread::spawn(move || {
                urgent(Urgency::Injector);
                run(&listener, &stage);
            });
            Ok(port)
        };
        Ok(Self {
            prompt: open(false, |listener, stage| accept(listener, stage, false))?,
            late: open(false, |listener, stage| accept(listener, stage, true))?,
            called: open(false, answer_calls)?,
            cramped: open(true, |listener, stage| accept(listener, stage, false))?,
        })
    }
}

/// How long a connection lay unaccepted.
#[derive(Clone, Copy)]
struct Lay {
    disturbed: bool,
    from_ns: u64,
}

fn accept(listener: &TcpListener, stage: &Arc<Stage>, late: bool) {
    let mut number = 0;
    loop {
        let mut lay = None;
        if late {
            // Readable: a connection lies there. What it carries is not there yet, the relay knows when it came.
            if readable(listener).is_err() {
                return;
            }
            let from_ns = now_ns();
            let chosen = stage.running().and_then(|running| running.chosen(How::BackendAccept, number));
            number += 1;
            if let Some((_, delay)) = chosen {
                std::thread::sleep(delay);
            }
            lay = Some(Lay { disturbed: chosen.is_some(), from_ns });
        }
        let Ok((stream, _)) = listener.accept() else { return };
        let accepted_ns = now_ns();
        let stage = Arc::clone(stage);
        // A peer that goes away ends its connection only.
        std::thread::spawn(move || serve(&stream, &stage, accepted_ns, lay));
    }
}

/// Answers what a middleware asks about the row's requests.
fn answer_calls(listener: &TcpListener, stage: &Arc<Stage>) {
    while let Ok((stream, _)) = listener.accept() {
        let stage = Arc::clone(stage);
        std::thread::spawn(move || answer_call(&stream, &stage));
    }
}

fn answer_call(mut stream: &TcpStream, stage: &Stage) -> Result<()> {
    stream.set_nodelay(true)?;
    while let Some((head, _)) = read_head(stream)? {
        let had_ns = now_ns();
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let target = text.lines().find_map(|line| line.strip_prefix("x-forwarded-uri: /r/"));
        let id = target.and_then(|id| id.parse().ok()).context("a call about no request of ours")?;
        let running = stage.running();
        let paused = running.as_ref().and_then(|running| running.pause(How::Called, id, had_ns));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        if let (Some(running), Some((index, to_ns))) = (running, paused) {
            // The answer left at some time within the call that wrote it.
            running.ledger.unsure(id, index, 0, now_ns().saturating_sub(to_ns));
        }
    }
    Ok(())
}

/// Requests that were let lie, to choose among them before they are read.
static LET_LIE: AtomicU64 = AtomicU64::new(0);

fn serve(mut stream: &TcpStream, stage: &Stage, accepted_ns: u64, mut lay: Option<Lay>) -> Result<()> {
    stream.set_nodelay(true)?;
    choose_core(stage)?;
    let mut is_first = true;
    loop {
        readable(stream)?;
        let seen_ns = now_ns();
        let Some(running) = stage.running() else { return Ok(()) };
        let lie = running.index(How::BackendRead);
        let delay = lie.and_then(|index| running.delay(index, LET_LIE.fetch_add(1, Ordering::Relaxed)));
        if let Some(delay) = delay {
            std::thread::sleep(delay);
        }
        let read_ns = now_ns();
        let Some(id) = read_request(stream, &running)? else { return Ok(()) };
        let had_ns = now_ns();
        let ledger = &running.ledger;
        if id >= HOLDS && running.index(How::Busy).or_else(|| running.index(How::Preempted)).is_some() {
            ledger.deliver(id, seen_ns);
        }
        if let Some(index) = lie {
            ledger.add(id, index, delay.is_some(), seen_ns, read_ns);
        }
        if let (Some(lay), Some(index)) = (lay.take(), running.index(How::BackendAccept)) {
            let from_ns = ledger.delivered(id).unwrap_or(lay.from_ns).max(lay.from_ns).min(read_ns);
            ledger.add(id, index, lay.disturbed, from_ns, read_ns);
        }
        if !is_first
            && let Some((index, delay)) = running.chosen(How::BackendReset, id)
            && !ledger.of(id, index).disturbed
        {
            std::thread::sleep(delay);
            ledger.add(id, index, true, had_ns, now_ns());
            // Closed with lingering time zero, a connection ends by a reset.
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(());
        }
        if let Some(index) = running.index(How::BackendReset).filter(|_| is_first) {
            // The proxy learnt of the reset, and began anew, at some time before this connection was here.
            let again_ns = ledger.ended(id, index).map_or(0, |reset_ns| accepted_ns.saturating_sub(reset_ns));
            ledger.unsure(id, index, 0, again_ns);
        }
        is_first = false;
        if is_silent(stream, &running, id, had_ns)? {
            return Ok(());
        }
        let holds = hold(&running, id, had_ns);
        let first = running.response.get_or_init(|| first_bytes(&running.row.shape));
        let works = [How::BackendCode, How::BackendOnCore, How::BackendEarly];
        let worked = works.into_iter().find_map(|how| running.pause(how, id, had_ns));
        if let Some((index, delay)) = running.chosen(How::StopBeforeResponse, id) {
            let stop = stage.stopped(delay, || respond(stream, &running, id, first).map(|_| ()))?;
            ledger.add(id, index, true, stop.from_ns, stop.to_ns);
            // Without the kernel's marks, all of it looks like waiting for the backend.
            ledger.unsure(id, index, 0, stop.from_ns - stop.begun_ns + (stop.ended_ns - stop.to_ns));
        } else if let Some(stop) = running.chosen(How::StopWithinDownload, id) {
            stopped_within(stream, stage, &running.row.shape, first, (id, stop))?;
        } else {
            let written_ns = respond(stream, &running, id, first)?;
            if let Some(index) = holds {
                ledger.add(id, index, true, had_ns, now_ns());
            }
            if let Some((index, to_ns)) = worked {
                // Its first byte left at some time within the call that wrote it.
                ledger.unsure(id, index, 0, written_ns.saturating_sub(to_ns));
            }
        }
        stream.flush()?;
        if is_last(stream, &running)? {
            return Ok(());
        }
    }
}

/// Whether a connection ends with the answer; what comes behind an early one is read: closed over unread bytes, it would be reset.
fn is_last(mut stream: &TcpStream, running: &Running) -> Result<bool> {
    let is_early = running.index(How::BackendEarly).is_some();
    if is_early {
        std::io::copy(&mut stream, &mut std::io::sink())?;
    }
    Ok(is_early || running.row.shape.backend_fresh)
}

/// Woken by what the agent writes, and more urgent, a backend takes the agent's only core: where the row wants that, and else
/// not.
fn choose_core(stage: &Stage) -> Result<()> {
    match stage.running() {
        Some(running) if running.index(How::BackendOnCore).is_some() => pin(),
        Some(running) if running.row.agent.is_pinned() => avoid_last_core(),
        _ => Ok(()),
    }
}

/// Writes a response of chunks, of which all but the first come while the agent is stopped.
fn stopped_within(
    mut stream: &TcpStream,
    stage: &Stage,
    shape: &Shape,
    first: &[u8],
    stop: (u64, (usize, Duration)),
) -> Result<()> {
    stream.write_all(first)?;
    stage.stopped_while_pieces_come(stream, (chunk(shape).as_bytes(), shape.download.1 - 1), stop)?;
    Ok(stream.write_all(b"0\r\n\r\n")?)
}

/// Leaves a request unanswered where the row wants that, until its connection ends.
fn is_silent(stream: &TcpStream, running: &Running, id: u64, had_ns: u64) -> Result<bool> {
    let (gone, silent) = (running.chosen(How::ClientGone, id), running.chosen(How::BackendSilent, id));
    let ledger = &running.ledger;
    if gone.or(silent).is_none() {
        return Ok(false);
    }
    ledger.deliver(id, had_ns);
    readable(stream)?;
    let over_ns = now_ns();
    if let Some((index, _)) = silent {
        ledger.add(id, index, true, had_ns, over_ns);
    }
    if let Some((index, _)) = gone {
        // The agent heard of it at some time in between.
        let gone_ns = ledger.ended(id, index).context("the connection ended before its client had gone")?;
        ledger.unsure(id, index, 0, over_ns.saturating_sub(gone_ns));
    }
    Ok(true)
}

/// Keeps a request that holds the connection, or its client's next one, for another, for that one's delay.
fn hold(running: &Running, id: u64, had_ns: u64) -> Option<usize> {
    let index = running.index(How::Capped).or_else(|| running.index(How::Pipelined))?;
    let delay = running.delay(index, id.checked_sub(HOLDS)?)?;
    running.ledger.deliver(id, had_ns);
    std::thread::sleep(delay);
    Some(index)
}

/// What is written first: all of a response that has a length, else its head and first chunk.
fn first_bytes(shape: &Shape) -> Vec<u8> {
    let (bytes, chunks) = shape.download;
    let close = if shape.backend_fresh { "connection: close\r\n" } else { "" };
    if chunks > 1 {
        let chunk = chunk(shape);
        return format!("HTTP/1.1 200 OK\r\n{close}transfer-encoding: chunked\r\n\r\n{chunk}").into_bytes();
    }
    let mut response = format!("HTTP/1.1 200 OK\r\n{close}content-length: {bytes}\r\n\r\n").into_bytes();
    response.resize(response.len() + bytes, b'x');
    response
}

fn chunk(shape: &Shape) -> String {
    let (bytes, chunks) = shape.download;
    let length = bytes / chunks.max(1);
    format!("{length:x}\r\n{}\r\n", "x".repeat(length))
}

/// Writes the response that the row asks for; says when its head was written.
fn respond(mut stream: &TcpStream, running: &Running, id: u64, first: &[u8]) -> Result<u64> {
    // A megabyte takes the kernel a while: the head goes ahead of it, as servers write it.
    let head = if first.len() > HEAD_WITH_BODY { first.len().min(HEAD_ALONE) } else { first.len() };
    let (head, rest) = first.split_at(head);
    stream.write_all(head)?;
    let written_ns = now_ns();
    stream.write_all(rest)?;
    let (_, chunks) = running.row.shape.download;
    if chunks > 1 {
        let chunk = chunk(&running.row.shape);
        for _ in 1..chunks {
            running.pause(How::BackendChunks, id, now_ns());
            stream.write_all(chunk.as_bytes())?;
        }
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(written_ns)
}

/// A longer response is written in two pieces.
const HEAD_WITH_BODY: usize = 64 << 10;
/// Of which the first is so long: the head and some of the body.
const HEAD_ALONE: usize = 128;

/// Reads up to a head's end; what was read, and how much of it is the head. Nothing at the connection's end.
fn read_head(mut stream: &TcpStream) -> Result<Option<(Vec<u8>, usize)>> {
    let mut buffer = vec![0; 64 << 10];
    let mut head = Vec::new();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some((head, end + 4)));
        }
        if head.len() > 64 << 10 {
            bail!("a head without an end");
        }
    }
}

/// Reads a request with its body, which it leaves unread for a while where the row wants that; the number in its path. Nothing at
/// the connection's end.
fn read_request(mut stream: &TcpStream, running: &Running) -> Result<Option<u64>> {
    let Some((head, end)) = read_head(stream)? else { return Ok(None) };
    let id = request_id(&head).context("a request that is none of ours")?;
    let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut left = length.map_or(Ok(0), |length| length.trim().parse::<usize>())?;
    if running.index(How::BackendEarly).is_some() {
        left /= running.row.shape.upload.1.max(1);
    }
    left = left.saturating_sub(head.len() - end);
    let mut unread = None;
    if let Some((index, delay)) = running.chosen(How::BackendUnread, id) {
        unread = Some((index, Unread::pause(stream, delay)?));
    }
    let mut buffer = vec![0; if left > 0 { 64 << 10 } else { 0 }];
    while left > 0 {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("a body without its end");
        }
        left = left.saturating_sub(read);
    }
    if let Some((index, unread)) = unread {
        unread.account(&running.ledger, id, index, now_ns());
    }
    Ok(Some(id))
}

/// Waits until something can be read.
pub(super) fn readable(file: &impl AsFd) -> Result<()> {
    poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)], None)?;
    Ok(())
}

/// An address of the backend's namespace.
pub(super) fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse()?, port))
}
