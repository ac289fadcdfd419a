//! A connection whose protocol was switched (RFC 9110, 7.8): holding back what came behind the request until it is
//! answered, and then carrying bytes both ways until both sides have ended. What may be asked for is decided in
//! `headers`, whether the server did it in the exchange.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ClientConn;
use crate::clock::MonoNs;
use crate::counters::Total;
use crate::live::Live;
use crate::observer::SocketObserver;
use crate::record::{End, ErrorKind};
use crate::relay::Relay;
use crate::upstream::Seen;

/// The server's side of a tunnel.
pub(crate) struct Switched<O: SocketObserver> {
    pub(crate) server: Rc<Seen<O>>,
    /// What the server sent along with its 101.
    pub(crate) early: Bytes,
    pub(crate) live: Rc<RefCell<Live>>,
}

impl<O: SocketObserver> ClientConn<O> {
    /// Whether the last request that was read asks for another protocol and is not answered yet.
    pub(super) fn is_held(&self) -> bool {
        self.framer.borrow().is_held()
    }

    /// In place of a read while bytes are held back: only whether the client goes away is of interest. What it sends stays
    /// in the kernel.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let peeked = ready!(self.stream.borrow().poll_peek(cx, &mut ReadBuf::new(&mut byte)))?;
        if peeked == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The answer to a request for another protocol does not switch: what follows is the next request.
    pub(crate) fn resume(&self) {
        self.framer.borrow_mut().resume();
        self.wake();
    }

    /// The protocol is switched when hyper has written the response that it is about to get.
    pub(crate) fn switch(&self, switched: Switched<O>) {
        *self.switched.borrow_mut() = Some(switched);
    }

    /// Has the task polled again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The tunnel has ended, and with it the request that made it.
    fn tunnel_ended(&self, server: &Seen<O>, live: &RefCell<Live>, (end, error): Outcome) {
        let now = MonoNs::now();
        {
            let mut live = live.borrow_mut();
            if let Some(attempt) = live.attempts.last_mut() {
                // What it carried lies behind the heads.
                server.settle(attempt);
                attempt.ended = now;
                if end == End::UpstreamCut {
                    attempt.error = error;
                }
            }
            live.fail(end, error);
            live.body_done = true;
        }
        self.last_written.set(now);
        self.flushed();
    }
}

/// How a tunnel ended, for the record.
type Outcome = (End, ErrorKind);

const BOTH_ENDED: Outcome = (End::Complete, ErrorKind::None);
const CLIENT_BROKE: Outcome = (End::ClientGone, ErrorKind::ClientGone);
const SERVER_BROKE: Outcome = (End::UpstreamCut, ErrorKind::UpstreamReset);
/// The time to drain is up: nothing else has a tunnel wait for less than for ever.
const CUT_OFF: Outcome = (End::Shutdown, ErrorKind::None);

/// A peer that vanishes without a word would hold its tunnel for ever, since nothing else ends one that is quiet. The
/// values are Go's, and so Traefik's.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(15)).with_retries(9);

/// Carries bytes until both sides have ended, one of them breaks, or the time to drain is up.
pub(super) async fn run<O: SocketObserver>(conn: &ClientConn<O>, switched: Switched<O>) {
    /// Counts a tunnel out however its task ends.
    struct Open<'c, O: SocketObserver>(&'c ClientConn<O>);
    impl<O: SocketObserver> Drop for Open<'_, O> {
        fn drop(&mut self) {
            self.0.worker.counters.borrow().count(Total::TunnelsEnded);
        }
    }
    let Switched { server, early, live } = switched;
    let held = conn.held.take();
    {
        let mut live = live.borrow_mut();
        live.relay(Relay::Idle, MonoNs::now());
        live.head.request_body_bytes += u64::try_from(held.len()).unwrap_or(0);
        live.head.response_body_bytes += u64::try_from(early.len()).unwrap_or(0);
    }
    conn.framer.borrow_mut().tunnel();
    conn.deadline.set(MonoNs::UNKNOWN);
    conn.exchange_until(MonoNs::UNKNOWN);
    for stream in [&conn.stream, server.stream()] {
        // Without it the tunnel works as well.
        let _ = SockRef::from(&*stream.borrow()).set_tcp_keepalive(&KEEPALIVE);
    }
    conn.worker.counters.borrow().count(Total::TunnelsBegun);
    let open = Open(conn);
    let mut up = Way::new(Side::Client(conn), Side::Server(&server), held);
    let mut down = Way::new(Side::Server(&server), Side::Client(conn), early);
    let mut broke = None;
    let outcome = poll_fn(|cx| {
        conn.keep_waker(cx);
        if conn.expired.get() {
            return Poll::Ready(CUT_OFF);
        }
        let mut scratch = conn.worker.scratch.borrow_mut();
        match up.poll(cx, &mut scratch, |count| live.borrow_mut().head.request_body_bytes += count) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(broke.unwrap_or(CLIENT_BROKE)),
            // What the server sent before it broke is still read.
            Poll::Ready(Err(Broken::Sink)) => broke = broke.or(Some(SERVER_BROKE)),
            _ => {}
        }
        match down.poll(cx, &mut scratch, |count| live.borrow_mut().head.response_body_bytes += count) {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(broke.unwrap_or(SERVER_BROKE)),
            Poll::Ready(Err(Broken::Sink)) => broke = broke.or(Some(CLIENT_BROKE)),
            _ => {}
        }
        if up.is_over() && down.is_over() { Poll::Ready(broke.unwrap_or(BOTH_ENDED)) } else { Poll::Pending }
    })
    .await;
    drop(open);
    conn.tunnel_ended(&server, &live, outcome);
    if matches!(outcome, SERVER_BROKE | CUT_OFF) {
        super::serve::linger(conn).await;
    }
}

/// One way through a tunnel. Bytes go from the worker's scratch buffer straight to the sink; only what that does not take
/// is kept, and nothing more is read until it has.
struct Way<'t, O: SocketObserver> {
    source: Side<'t, O>,
    sink: Side<'t, O>,
    left: Vec<u8>,
    delivered: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; its end is passed on behind its last byte.
    Ending,
    Over,
}

/// Why a way is over before its source's end was delivered.
enum Broken {
    Source,
    Sink,
    /// The sink had ended its own way before, and takes nothing more either: there is nothing wrong with that.
    Deaf,
}

/// Reads before the other way, and the worker's other tasks, have a turn: 1 MiB at most.
const READS_MAX: u32 = 16;

/// One end of a tunnel.
enum Side<'t, O: SocketObserver> {
    /// Through TLS where it speaks it.
    Client(&'t ClientConn<O>),
    Server(&'t Seen<O>),
}

impl<O: SocketObserver> Side<'_, O> {
    fn poll_read(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        match self {
            Self::Client(conn) => {
                let read = conn.poll_read(cx, out);
                if out.filled().len() > before {
                    conn.heard();
                }
                read
            }
            Self::Server(server) => {
                let read = Pin::new(&mut *server.stream().borrow_mut()).poll_read(cx, out);
                server.carried(out.filled().len() - before, 0);
                read
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = match self {
            Self::Client(conn) => match conn.secured() {
                Some(secured) => return secured.poll_write(conn, cx, &[io::IoSlice::new(bytes)]),
                None => &conn.stream,
            },
            Self::Server(server) => server.stream(),
        };
        let written = Pin::new(&mut *stream.borrow_mut()).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            match self {
                Self::Client(conn) => conn.carried(count),
                Self::Server(server) => server.carried(0, count),
            }
        }
        written
    }

    /// Nothing is left of what was written.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Client(conn) => conn.secured().map_or(Poll::Ready(Ok(())), |secured| secured.poll_flush(conn, cx)),
            Self::Server(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Client(conn) => conn.poll_close(cx),
            Self::Server(server) => Pin::new(&mut *server.stream().borrow_mut()).poll_shutdown(cx),
        }
    }
}

impl<'t, O: SocketObserver> Way<'t, O> {
    fn new(source: Side<'t, O>, sink: Side<'t, O>, first: Bytes) -> Self {
        Self { source, sink, left: first.into(), delivered: 0, state: State::Open }
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Moves what can be moved, counting what is read. Ready when this way is over.
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], count: impl FnMut(u64)) -> Poll<Result<(), Broken>> {
        let moved = ready!(self.poll_move(cx, scratch, count));
        self.state = State::Over;
        self.left = Vec::new();
        Poll::Ready(if matches!(moved, Err(Broken::Deaf)) { Ok(()) } else { moved })
    }

    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        mut count: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..READS_MAX {
            ready!(self.poll_deliver(cx))?;
            match self.state {
                State::Open => {}
                State::Ending => {
                    // Fails only where the sink is broken, which its other way will find.
                    let _ = ready!(self.sink.poll_close(cx));
                    return Poll::Ready(Ok(()));
                }
                State::Over => return Poll::Ready(Ok(())),
            }
            let mut buffer = ReadBuf::new(scratch);
            match self.source.poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    // A quiet tunnel holds no memory.
                    self.left = Vec::new();
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Source)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.state = State::Ending,
                Poll::Ready(Ok(())) => {
                    let bytes = buffer.filled();
                    count(u64::try_from(bytes.len()).unwrap_or(0));
                    let mut written = 0;
                    if let Poll::Ready(Err(broken)) = poll_write_all(&self.sink, cx, bytes, &mut written) {
                        return Poll::Ready(Err(broken));
                    }
                    self.left.extend_from_slice(bytes.get(written..).unwrap_or_default());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(poll_write_all(&self.sink, cx, &self.left, &mut self.delivered))?;
        self.left.clear();
        self.delivered = 0;
        Poll::Ready(Ok(()))
    }
}

/// Writes on from `written` to the end.
fn poll_write_all<O: SocketObserver>(
    sink: &Side<'_, O>,
    cx: &mut Context<'_>,
    bytes: &[u8],
    written: &mut usize,
) -> Poll<Result<(), Broken>> {
    while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
        match ready!(sink.poll_write(cx, rest)) {
            Ok(count) if count > 0 => *written += count,
            // tcp_reset(): EPIPE where the peer's FIN had come before its RST, else ECONNRESET.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Poll::Ready(Err(Broken::Deaf)),
            Ok(_) | Err(_) => return Poll::Ready(Err(Broken::Sink)),
        }
    }
    match ready!(sink.poll_flush(cx)) {
        Ok(()) => Poll::Ready(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Poll::Ready(Err(Broken::Deaf)),
        Err(_) => Poll::Ready(Err(Broken::Sink)),
    }
}
