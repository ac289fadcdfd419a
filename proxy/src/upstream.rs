//! Connections to servers and the tap that stamps their bytes. A connection is driven by whoever uses it, inside the client
//! connection's task: no task of its own, no wake-up between tasks. Where it idles is [`pool`]'s.

mod pool;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::client::conn::http1;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::asks::{Asks, First};
use crate::body::RequestBody;
use crate::cap::Place;
use crate::clock::MonoNs;
use crate::framer::{Asked, Event, Framer, Limits};
use crate::gather::gather;
use crate::live::Live;
use crate::observer::{BackendAsk, Marks, Missing, SocketObserver, Token};
use crate::record::Attempt;
use crate::relay::{Kept, Relay};
use crate::resent::Resent;
use crate::stamped::Stamped;
use crate::wake;
use crate::worker::{HEAD_END, Worker};
pub(crate) use pool::Pool;

/// An open connection to a server, ready for one request at a time.
pub(crate) struct Upstream<O: SocketObserver> {
    pub(crate) send: http1::SendRequest<RequestBody>,
    pub(crate) driver: http1::Connection<Tap<O>, RequestBody>,
    pub(crate) seen: Rc<Seen<O>>,
    pub(crate) server: u32,
    /// When it was made.
    pub(crate) opened: MonoNs,
    /// The driver has ended.
    pub(crate) over: bool,
}

/// What the tap of an upstream connection saw of the exchange under way.
pub(crate) struct Seen<O: SocketObserver> {
    worker: Rc<Worker<O>>,
    stream: RefCell<TcpStream>,
    pub(crate) address: SocketAddr,
    pub(crate) token: Token,
    framer: RefCell<Framer>,
    stamped: Stamped,
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    request_start: Cell<u64>,
    request_head_end: Cell<u64>,
    live: RefCell<Option<Rc<RefCell<Live>>>>,
    write_begun: Cell<MonoNs>,
    head_written: Cell<MonoNs>,
    last_begun: Cell<MonoNs>,
    last_written: Cell<MonoNs>,
    first: Cell<First>,
    /// The body's clock as it was when that came; `None` before.
    before_first: Cell<Option<Kept>>,
    /// Why times of its body are missing.
    body_missing: Cell<Missing>,
    /// The socket has not taken all that hyper has for it.
    blocked: Cell<bool>,
    /// Bytes that were read before the exchange began.
    read_before: Cell<u64>,
    response_start: Cell<u64>,
    /// When the server wrote the newest interim response, where that is known.
    interim_sent: Cell<MonoNs>,
    resent: Cell<Resent>,
    ended: Cell<MonoNs>,
    /// The server's bytes cannot be trusted to frame a response.
    refused: Cell<bool>,
    /// Its place under the server's cap; behind the socket, which closes first.
    place: Option<Place>,
}

impl<O: SocketObserver> Upstream<O> {
    /// Connects. The observer knows the socket before its first packet.
    pub(crate) async fn connect(
        worker: &Rc<Worker<O>>,
        server: u32,
        address: SocketAddr,
        place: Option<Place>,
    ) -> io::Result<Box<Self>> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let token = worker.observer.connecting(socket.as_fd());
        let stream = match socket.connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                worker.observer.closed(token);
                return Err(error);
            }
        };
        let opened = MonoNs::now();
        stream.set_nodelay(true)?;
        let seen = Rc::new(Seen {
            worker: Rc::clone(worker),
            stream: RefCell::new(stream),
            address,
            token,
            framer: RefCell::new(Framer::responses(Limits::UPSTREAM)),
            stamped: Stamped::default(),
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            request_start: Cell::new(0),
            request_head_end: Cell::new(0),
            live: RefCell::new(None),
            write_begun: Cell::default(),
            head_written: Cell::default(),
            last_begun: Cell::default(),
            last_written: Cell::default(),
            first: Cell::default(),
            before_first: Cell::default(),
            body_missing: Cell::default(),
            blocked: Cell::new(false),
            read_before: Cell::new(0),
            response_start: Cell::new(0),
            interim_sent: Cell::default(),
            resent: Cell::default(),
            ended: Cell::default(),
            refused: Cell::new(false),
            place,
        });
        Self::over(seen, server, opened).await
    }

    /// Speaks HTTP over a connection where nothing is under way.
    async fn over(seen: Rc<Seen<O>>, server: u32, opened: MonoNs) -> io::Result<Box<Self>> {
        let (send, driver) =
            http1::Builder::new().handshake(Tap { seen: Rc::clone(&seen) }).await.map_err(io::Error::other)?;
        Ok(Box::new(Self { send, driver, seen, server, opened, over: false }))
    }

    /// Lets the connection do what it can; `false` when it is over.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.driver).poll(cx).is_pending()
    }

    /// The socket of a connection whose protocol was switched, and what the server sent behind its 101. `None` where the
    /// server did so before it had the whole request.
    pub(crate) fn into_tunnel(self: Box<Self>) -> Option<(Rc<Seen<O>>, Bytes)> {
        // hyper ends such a connection when it has written the request; the socket need not have taken it.
        let whole = self.over && !self.seen.blocked.get();
        whole.then(|| (self.seen, self.driver.into_parts().read_buf))
    }

    /// The socket without hyper's part, which is made anew for the next request. `None` where the server sent what nobody
    /// asked for. To be called while nothing is under way: [`Upstream::is_at_rest`].
    fn into_socket(self: Box<Self>) -> Option<Rc<Seen<O>>> {
        self.driver.into_parts().read_buf.is_empty().then_some(self.seen)
    }

    /// Whether hyper has written all, read all, and waits for a request.
    fn is_at_rest(&self) -> bool {
        self.is_ready() && !self.seen.blocked.get()
    }

    /// Whether a request may be sent over it now.
    pub(crate) fn is_ready(&self) -> bool {
        self.send.is_ready() && !self.seen.refused.get()
    }
}

impl<O: SocketObserver> Seen<O> {
    /// An exchange begins: its stamps are new.
    pub(crate) fn begin(&self, live: &Rc<RefCell<Live>>, asked: Asked) {
        for cell in [
            &self.write_begun,
            &self.last_begun,
            &self.head_written,
            &self.last_written,
            &self.ended,
            &self.interim_sent,
        ] {
            cell.set(MonoNs::UNKNOWN);
        }
        self.first.set(First::default());
        self.before_first.set(None);
        self.body_missing.set(Missing::NOTHING);
        let mut resent = self.resent.get();
        resent.begin();
        self.resent.set(resent);
        let written = self.written_bytes.get();
        self.request_start.set(written);
        self.request_head_end.set(written);
        let read = self.read_bytes.get();
        self.read_before.set(read);
        self.response_start.set(read);
        self.framer.borrow_mut().expect(asked);
        *self.live.borrow_mut() = Some(Rc::clone(live));
    }

    /// The exchange is over: later bytes belong to nobody.
    pub(crate) fn release(&self) {
        *self.live.borrow_mut() = None;
    }

    /// Whether bytes of the response were read.
    pub(crate) fn has_answered(&self) -> bool {
        self.first.get().read.0 != 0
    }

    /// Whether not one byte came in answer, not even of an interim response.
    pub(crate) fn is_silent(&self) -> bool {
        self.read_bytes.get() == self.read_before.get()
    }

    pub(crate) fn stream(&self) -> &RefCell<TcpStream> {
        &self.stream
    }

    /// Whether the server has neither closed nor sent anything, as far as is known. What it sent is lost.
    fn is_silent_now(&self) -> bool {
        let read = self.stream.borrow().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) fn refused(&self) -> bool {
        self.refused.get()
    }

    /// A tunnel has read and written so many bytes.
    pub(crate) fn carried(&self, read: usize, written: usize) {
        self.read_bytes.set(self.read_bytes.get() + u64::try_from(read).unwrap_or(0));
        self.written_bytes.set(self.written_bytes.get() + u64::try_from(written).unwrap_or(0));
    }

    /// Takes the stamps of the exchange that ended into its attempt.
    pub(crate) fn settle(&self, attempt: &mut Attempt) {
        attempt.write_begun = self.write_begun.get();
        attempt.head_written = self.head_written.get();
        attempt.last_write_begun = self.last_begun.get();
        attempt.request_written = self.last_written.get();
        let first = if self.has_answered() { self.first.get() } else { self.unanswered() };
        first.stamp(self.body_missing.get(), attempt);
        attempt.request_start = self.request_start.get();
        attempt.request_head_end = self.request_head_end.get();
        attempt.request_end = self.written_bytes.get();
        attempt.response_start = self.response_start.get();
        attempt.response_end = self.read_bytes.get();
        attempt.ended = self.ended.get();
    }

    /// Where no answer was read: how far the request came, and whether what would have been read next had come. The end of
    /// the stream counts as a byte.
    fn unanswered(&self) -> First {
        if self.head_written.get().0 == 0 {
            return First::default();
        }
        let next = self.read_bytes.get();
        let (_, marks) = self.asks().begins(next);
        let mut backend = self.worker.observer.backend(self.token, self.backend_ask(next));
        if backend.sent.0 != 0 && backend.sent <= self.interim_sent.get() {
            // The newest write brought what was read.
            (backend.sent, backend.missing) = (MonoNs::UNKNOWN, backend.missing.with(Missing::UNSEEN));
        }
        First { marks, backend, ..First::default() }
    }

    /// Asks about bytes that come from the server.
    fn asks(&self) -> Asks<impl Fn(Range<u64>) -> Marks + '_> {
        Asks::of(|bytes| self.worker.observer.marks(self.token, bytes)).stamped(self.stamped.last())
    }

    fn backend_ask(&self, response_start: u64) -> BackendAsk {
        let (head_end, request_end) = (self.request_head_end.get(), self.written_bytes.get());
        BackendAsk { head_end, request_end, response_start }
    }

    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        let at = MonoNs::now();
        let from = self.read_bytes.get();
        let to = from + u64::try_from(bytes.len()).unwrap_or(0);
        self.read_bytes.set(to);
        let answered_before = self.has_answered();
        let live = self.live.borrow();
        if let (true, Some(live)) = (answered_before, live.as_ref()) {
            self.body_read(&mut live.borrow_mut(), from, at);
        }
        let judged = self.framer.borrow_mut().feed(bytes, from, &mut |event| self.on_event(event, at));
        if self.has_answered()
            && self.before_first.get().is_none()
            && let Some(live) = live.as_ref()
        {
            let readable = self.first.get().marks.first;
            self.before_first.set(Some(live.borrow_mut().answer_begins(readable, at)));
        }
        self.asks().read_to(to);
        judged.map_err(|refusal| {
            self.refused.set(true);
            io::Error::new(io::ErrorKind::InvalidData, refusal.reason.text())
        })
    }

    /// A read ends the wait for more of the body, or for its end, whose first byte stands at that offset.
    fn body_read(&self, live: &mut Live, from: u64, at: MonoNs) {
        if live.relay_state() == Relay::UpstreamBody {
            let missing = live.relay_read(Relay::ProxyResponse, &self.asks().goes_on(from), at);
            self.body_missing.set(self.body_missing.get().with(missing));
        }
    }

    /// The end of the stream, which counts as a byte.
    fn read_end(&self) {
        let at = MonoNs::now();
        let from = self.read_bytes.get();
        // Of a response that has no length of its own.
        if self.framer.borrow_mut().end_of_stream(from).is_some() {
            self.ended.set(at);
            if let Some(live) = self.live.borrow().as_ref() {
                self.body_read(&mut live.borrow_mut(), from, at);
            }
        }
    }

    /// What is under way belongs to a sampled request.
    fn is_sampled(&self) -> bool {
        self.live.borrow().as_ref().is_some_and(|live| live.borrow().head.sampled)
    }

    fn poll_socket(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let observer = &self.worker.observer;
        if observer.stamps() && self.is_sampled() {
            return self.stamped.poll_read(observer, &self.stream.borrow(), cx, (out, self.read_bytes.get()));
        }
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, out)
    }

    /// Where nobody watches the connection, what the kernel counts of it by itself, for a sampled request: its round trip
    /// goes to the marks. The request's segments that were sent again.
    fn account(&self, marks: &mut Marks) -> u32 {
        let observer = &self.worker.observer;
        if !observer.keeps_accounts() {
            return 0;
        }
        let is_sampled = self.is_sampled();
        let account = || observer.account(self.stream.borrow().as_fd());
        let Some(account) = is_sampled.then(account).flatten() else { return 0 };
        (marks.srtt_us, marks.rttvar_us) = (account.srtt_us, account.rttvar_us);
        let mut resent = self.resent.get();
        let of_exchange = resent.of_exchange(account);
        self.resent.set(resent);
        of_exchange
    }

    fn on_event(&self, event: Event, at: MonoNs) {
        match event {
            Event::MessageStart { offset } => {
                let (_, mut marks) = self.asks().begins(offset);
                let resent = self.account(&mut marks);
                let backend = self.worker.observer.backend(self.token, self.backend_ask(offset));
                let (woken, preempted_ns) = wake::delay(marks.first, at);
                self.response_start.set(offset);
                self.first.set(First { read: at, marks, backend, woken, preempted_ns, resent });
            }
            // The final response is still to come: its first byte is the one that counts.
            Event::Interim(_) => {
                self.interim_sent.set(self.first.take().backend.sent);
                if let (Some(kept), Some(live)) = (self.before_first.take(), self.live.borrow().as_ref()) {
                    live.borrow_mut().was_interim(kept);
                }
            }
            Event::BodyEnd { .. } => self.ended.set(at),
            Event::HeadEnd(_) => {}
        }
    }

    /// hyper is about to write this, perhaps for the second time.
    fn writes(&self, bytes: &[u8]) {
        let at = MonoNs::now();
        self.last_begun.set(at);
        if self.head_written.get().0 == 0
            && let Some(live) = self.live.borrow().as_ref()
        {
            live.borrow_mut().resend.keep_head(bytes);
            self.write_begun.set(at);
            let head = self.worker.head_end.find(bytes).map_or(bytes.len(), |at| at + HEAD_END.len());
            self.request_head_end.set(self.request_start.get() + u64::try_from(head).unwrap_or(0));
        }
    }

    fn wrote(&self, bytes: usize) {
        let at = MonoNs::now();
        self.written_bytes.set(self.written_bytes.get() + u64::try_from(bytes).unwrap_or(0));
        self.blocked.set(false);
        self.last_written.set(at);
        let first = self.head_written.get().0 == 0;
        if first {
            self.head_written.set(at);
        }
        if let Some(live) = self.live.borrow().as_ref() {
            let mut live = live.borrow_mut();
            live.uploaded_at = at;
            if first {
                live.request_begun(at);
            } else if live.relay_state() == Relay::UpstreamDrain {
                live.upload_goes_on(at);
            }
        }
    }

    fn blocked(&self) {
        self.blocked.set(true);
        if let Some(live) = self.live.borrow().as_ref() {
            let mut live = live.borrow_mut();
            // Of an early answer the clock tells from its first byte on, also while its head is not whole yet.
            if !self.has_answered() && !live.responded && self.head_written.get().0 != 0 {
                live.blocked(Relay::UpstreamDrain);
            }
        }
    }

    fn nothing_readable(&self) {
        if !self.has_answered() || self.ended.get().0 != 0 {
            return;
        }
        if let Some(live) = self.live.borrow().as_ref() {
            let mut live = live.borrow_mut();
            if live.relay_state() == Relay::ProxyResponse {
                live.relay(Relay::UpstreamBody, MonoNs::now());
            }
        }
    }
}

impl<O: SocketObserver> Drop for Seen<O> {
    fn drop(&mut self) {
        self.worker.observer.closed(self.token);
    }
}

/// hyper's view of the socket.
pub(crate) struct Tap<O: SocketObserver> {
    seen: Rc<Seen<O>>,
}

impl<O: SocketObserver> hyper::rt::Read for Tap<O> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let seen = &*self.seen;
        let mut scratch = seen.worker.scratch.borrow_mut();
        let room = out.remaining().min(scratch.len());
        let mut buffer = ReadBuf::new(scratch.get_mut(..room).unwrap_or_default());
        match seen.poll_socket(cx, &mut buffer) {
            Poll::Pending => {
                seen.nothing_readable();
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            seen.read_end();
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = seen.read(bytes) {
            return Poll::Ready(Err(error));
        }
        out.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<O: SocketObserver> hyper::rt::Write for Tap<O> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.seen.writes(bytes);
        let written = Pin::new(&mut *self.seen.stream.borrow_mut()).poll_write(cx, bytes);
        self.stamp(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let worker = Rc::clone(&self.seen.worker);
        if let Some(gathered) = gather(slices, &mut worker.scratch.borrow_mut()) {
            return self.poll_write(cx, gathered);
        }
        // hyper keeps heads together: the first slice holds the whole one.
        self.seen.writes(slices.first().map_or(&[], |head| head));
        let written = Pin::new(&mut *self.seen.stream.borrow_mut()).poll_write_vectored(cx, slices);
        self.stamp(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.seen.stream.borrow_mut()).poll_shutdown(cx)
    }
}

impl<O: SocketObserver> Tap<O> {
    fn stamp(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.seen.wrote(*bytes),
            Poll::Pending => self.seen.blocked(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}
