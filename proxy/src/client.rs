//! A client's connection: the tap that stamps its bytes, TLS where it is spoken, its deadlines, and the task that drives hyper
//! over it.

mod records;
mod secure;
mod serve;
mod tap;
mod tunnel;
mod written;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::asks::{Asks, HeadSeen};
use crate::clock::MonoNs;
use crate::counters::Total;
use crate::exchange;
use crate::framer::{self, Event, Framer, Part, Refusal};
use crate::headers::{PeerHeaders, Trust};
use crate::live::Live;
use crate::observer::{Acknowledged, Marks, Missing, SocketObserver, Token};
use crate::record::{End, ErrorKind, Previous};
use crate::relay::Relay;
use crate::snapshot::{EntryPoint, Limits};
use crate::stamped::Stamped;
use crate::trace_context::SpanId;
use crate::wake;
use crate::worker::Worker;
pub(crate) use secure::Secured;
pub(crate) use serve::serve;
pub(crate) use tunnel::Switched;

/// What the task, the tap and the exchanges of one connection share. One thread, so cells.
pub(crate) struct ClientConn<O: SocketObserver> {
    pub(crate) worker: Rc<Worker<O>>,
    stream: RefCell<TcpStream>,
    pub(crate) entry_point: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    peer_headers: PeerHeaders,
    /// Its first byte tells whether it speaks TLS.
    may_speak_tls: bool,
    /// It does, and the handshake is done.
    secured: OnceCell<Box<Secured>>,
    pub(crate) id: u64,
    pub(crate) token: Token,
    pub(crate) accepted: MonoNs,
    limits: Limits,
    framer: RefCell<Framer>,
    /// Of the bytes on the wire.
    stamped: Stamped,
    /// Of what the framer reads; `written_bytes` are those on the wire.
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    /// What they were when bytes of the client's were read last.
    written_when_read: Cell<u64>,
    /// Where on the wire the answer to a request lies that never reached the exchange, as far as that is written.
    unserved: Cell<Option<(u64, u64)>>,
    /// Behind the last message that was read whole.
    message_end: Cell<u64>,
    /// The head that has begun and not ended.
    begun: Cell<Option<HeadSeen>>,
    /// Those that have ended: the n-th belongs to hyper's n-th call of the service.
    heads: RefCell<VecDeque<HeadSeen>>,
    /// Requests whose response is not yet with the socket, in order.
    lives: RefCell<VecDeque<Rc<RefCell<Live>>>>,
    pub(crate) requests: Cell<u32>,
    previous_written: Cell<MonoNs>,
    last_written: Cell<MonoNs>,
    /// When that write began.
    last_write: Cell<MonoNs>,
    /// When the write began that ended the previous response: a client has nothing of its end before.
    pub(crate) previous_write: Cell<MonoNs>,
    /// A body is on its way in.
    uploading: Cell<bool>,
    /// The client sends nothing more: it has closed, or its connection broke.
    gone: Cell<bool>,
    /// hyper took what the framer let pass for no request, and said so to the client.
    unparsed: Cell<bool>,
    /// Bytes that came along with a request for another protocol.
    held: RefCell<Bytes>,
    /// The server's side of the tunnel that this connection becomes once its 101 is written.
    switched: RefCell<Option<Switched<O>>>,
    refusal: RefCell<Option<Refusal>>,
    refusal_sent: Cell<bool>,
    /// When the connection itself has waited enough; zero: never.
    deadline: Cell<MonoNs>,
    /// When the running exchange has.
    exchange_deadline: Cell<MonoNs>,
    expired: Cell<bool>,
    exchange_expired: Cell<bool>,
    /// The worker drains: how much had arrived by then, read or not.
    closing: Cell<Option<u64>>,
    /// The sweep has found it idle for long enough to fold.
    folding: Cell<bool>,
    /// hyper has no state for it: it waits for the client's next byte.
    folded: Cell<bool>,
    /// The status of a timed-out head; 0 if none was.
    timed_out: Cell<u16>,
    waker: RefCell<Option<Waker>>,
}

impl<O: SocketObserver> ClientConn<O> {
    /// Takes over an accepted socket.
    pub(crate) fn accept(
        worker: &Rc<Worker<O>>,
        entry_point: &EntryPoint,
        stream: TcpStream,
        peer: SocketAddr,
        id: u64,
    ) -> io::Result<Rc<Self>> {
        let accepted = MonoNs::now();
        let token = worker.observer.accepted(stream.as_fd());
        stream.set_nodelay(true)?;
        let local = canonical(stream.local_addr()?);
        let peer = canonical(peer);
        let limits = entry_point.limits;
        let conn = Rc::new(Self {
            worker: Rc::clone(worker),
            stream: RefCell::new(stream),
            entry_point: entry_point.id,
            peer,
            local,
            peer_headers: PeerHeaders::new(peer.ip(), local.port(), trust(entry_point), false, worker.hostname()),
            may_speak_tls: entry_point.tls.is_some(),
            secured: OnceCell::new(),
            id,
            token,
            accepted,
            limits,
            framer: RefCell::new(Framer::requests(framer::Limits {
                head_bytes: u64::try_from(limits.head_bytes_max).unwrap_or(u64::MAX),
                headers: u32::try_from(limits.headers_max).unwrap_or(u32::MAX),
            })),
            stamped: Stamped::default(),
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            written_when_read: Cell::new(0),
            unserved: Cell::new(None),
            message_end: Cell::new(0),
            begun: Cell::new(None),
            heads: RefCell::new(VecDeque::new()),
            lives: RefCell::new(VecDeque::new()),
            requests: Cell::new(0),
            previous_written: Cell::new(MonoNs::UNKNOWN),
            last_written: Cell::new(MonoNs::UNKNOWN),
            last_write: Cell::new(MonoNs::UNKNOWN),
            previous_write: Cell::new(MonoNs::UNKNOWN),
            uploading: Cell::new(false),
            gone: Cell::new(false),
            unparsed: Cell::new(false),
            held: RefCell::default(),
            switched: RefCell::default(),
            refusal: RefCell::new(None),
            refusal_sent: Cell::new(false),
            deadline: Cell::new(after(accepted, limits.head_timeout)),
            exchange_deadline: Cell::new(MonoNs::UNKNOWN),
            expired: Cell::new(false),
            exchange_expired: Cell::new(false),
            closing: Cell::new(None),
            folding: Cell::new(false),
            folded: Cell::new(false),
            timed_out: Cell::new(0),
            waker: RefCell::new(None),
        });
        Ok(conn)
    }

    /// TLS, where the connection speaks it.
    pub(crate) fn secured(&self) -> Option<&Secured> {
        self.secured.get().map(|secured| &**secured)
    }

    /// What the connection adds to each of its requests.
    pub(crate) fn peer_headers(&self) -> &PeerHeaders {
        self.secured().map_or(&self.peer_headers, |secured| &secured.peer_headers)
    }

    /// Asks about bytes that the framer reads now. Of TLS they lie in the record that they came in.
    fn asks(&self) -> Asks<impl Fn(Range<u64>) -> Marks + '_> {
        let record = self.secured().map(Secured::record);
        Asks::within(record, |bytes| self.worker.observer.marks(self.token, bytes)).stamped(self.stamped.last())
    }

    /// The head that belongs to the service call that hyper makes now.
    pub(crate) fn next_head(&self) -> HeadSeen {
        self.heads.borrow_mut().pop_front().unwrap_or_default()
    }

    /// A request is under way from now on.
    pub(crate) fn begin(&self, live: &Rc<RefCell<Live>>) {
        self.unserved.set(None);
        self.lives.borrow_mut().push_back(Rc::clone(live));
    }

    /// Gives the running exchange until `at`; zero: for ever.
    pub(crate) fn exchange_until(&self, at: MonoNs) {
        self.exchange_expired.set(false);
        self.exchange_deadline.set(at);
    }

    /// Whether the running exchange's time is up.
    pub(crate) fn exchange_expired(&self) -> bool {
        self.exchange_expired.get()
    }

    /// Nothing that has not arrived by now, not even in part, is to be served on this connection.
    pub(crate) fn close_soon(&self) {
        if self.closing.get().is_none() {
            self.closing.set(Some(self.arrived()));
        }
    }

    /// Whether the next response should be the connection's last: it is to close, and no further request had arrived
    /// by then, not even in part.
    pub(crate) fn is_closing(&self) -> bool {
        let Some(arrived) = self.closing.get() else { return false };
        let next = self.heads.borrow().front().copied().or(self.begun.get());
        let read = self.secured().map_or(self.read_bytes.get(), Secured::read_to);
        read >= arrived && next.is_none_or(|head| head.start >= arrived)
    }

    /// Bytes on the wire that have come from the client, read, held back or not.
    fn arrived(&self) -> u64 {
        let unread = rustix::io::ioctl_fionread(self.stream.borrow().as_fd()).unwrap_or(0);
        if let Some(secured) = self.secured() {
            return secured.arrived() + unread;
        }
        let held = u64::try_from(self.held.borrow().len()).unwrap_or(0);
        self.read_bytes.get() + held + unread
    }

    /// Called by the worker's sweep, four times a second: marks what has run out and wakes the task.
    pub(crate) fn sweep(&self, now: MonoNs, draining: Option<MonoNs>) {
        let past = |at: MonoNs| at.0 != 0 && at <= now;
        let mut wake = false;
        if past(self.exchange_deadline.get()) && !self.exchange_expired.replace(true) {
            wake = true;
        }
        if past(self.deadline.get()) && !self.expired.replace(true) {
            wake = true;
        }
        if now.since(self.last_written.get().max(self.accepted)) > FOLD_AFTER_NS && !self.folded.get() && self.is_idle()
        {
            self.folding.set(true);
            wake = true;
        }
        if let Some(hard) = draining {
            // Idle connections get a moment to send what is on its way; then they are closed.
            let idle_since = self.last_written.get().max(self.accepted);
            let idle = self.lives.borrow().is_empty() && self.begun.get().is_none();
            let quiet = now.since(idle_since) > DRAIN_IDLE_NS;
            self.close_soon();
            if (idle && quiet) || hard <= now {
                wake |= !self.expired.replace(true);
            }
        }
        if wake && let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The sweep has said so, or too many others hold hyper's state, too.
    fn may_fold(&self) -> bool {
        self.folding.replace(false) || self.worker.unfolded.is_crowded()
    }

    /// Nothing has begun, nothing is under way, and hyper holds no byte that counts.
    fn is_idle(&self) -> bool {
        self.lives.borrow().is_empty()
            && self.heads.borrow().is_empty()
            && self.begun.get().is_none()
            && self.refusal.borrow().is_none()
            && self.held.borrow().is_empty()
            && self.framer.borrow().is_between_messages()
            && self.secured().is_none_or(Secured::is_idle)
    }

    /// The client's first byte, which stays unread; `None` when there is none in time.
    fn poll_first_byte(&self, cx: &mut Context<'_>) -> Poll<Option<u8>> {
        self.keep_waker(cx);
        if self.expired.get() {
            return Poll::Ready(None);
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let peeked = ready!(self.stream.borrow().poll_peek(cx, &mut buffer));
        Poll::Ready(peeked.ok().and_then(|_| buffer.filled().first().copied()))
    }

    /// Waits for the client's next byte; `None` when its time is up.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.keep_waker(cx);
        if self.expired.get() {
            return Poll::Ready(None);
        }
        // Peeked at, since readiness alone may be stale: it is only cleared by a read that finds nothing.
        let mut byte = [0];
        let ready = self.secured().is_some_and(Secured::has_unread)
            || self.stream.borrow().poll_peek(cx, &mut ReadBuf::new(&mut byte)).is_ready();
        self.folded.set(!ready);
        if ready { Poll::Ready(Some(())) } else { Poll::Pending }
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Looks at bytes that a read returned; says how many of them may go on to hyper. What lies behind them is refused, or
    /// held back.
    fn read(&self, bytes: &[u8]) -> usize {
        let at = MonoNs::now();
        self.heard();
        let from = self.read_bytes.get();
        let asks = self.asks();
        // First, for what is asked of later bytes moves the latch on. A body's last bytes end the wait for it too.
        if self.uploading.get() {
            self.body_read(&asks, from, at);
        }
        let mut framer = self.framer.borrow_mut();
        let judged = framer.feed(bytes, from, &mut |event| self.on_event(event, &asks, at));
        let all = from + u64::try_from(bytes.len()).unwrap_or(0);
        let to = if framer.is_held() { self.message_end.get() } else { all };
        self.read_bytes.set(to);
        asks.read_to(to);
        match judged {
            Ok(()) => usize::try_from(to.saturating_sub(from)).unwrap_or(0).min(bytes.len()),
            Err(refusal) => {
                // What came before the bad message is still served. A body that goes bad later is cut off where it is;
                // where its head came with it, the message is refused whole.
                let good = refusal.message_start.saturating_sub(from);
                let keep = usize::try_from(good).unwrap_or(0).min(bytes.len());
                let is_whole = refusal.message_start >= from;
                let keep = if refusal.part == Part::Body && !is_whole { 0 } else { keep };
                if refusal.part == Part::Body && is_whole {
                    self.begun.set(self.heads.borrow_mut().pop_back());
                    self.uploading.set(false);
                }
                *self.refusal.borrow_mut() = Some(refusal);
                keep
            }
        }
    }

    /// A record has begun to come. Where it may be that of a request, its rest has as long as a head.
    fn record_begins(&self) {
        let is_between = self.lives.borrow().is_empty() && self.heads.borrow().is_empty() && self.begun.get().is_none();
        let limit = after(MonoNs::now(), self.limits.head_timeout);
        let held = self.deadline.get();
        if is_between && limit.known().is_some() && held.known().is_none_or(|held| limit < held) {
            self.deadline.set(limit);
        }
    }

    /// A read ends the wait for more of an upload.
    fn body_read(&self, asks: &Asks<impl Fn(Range<u64>) -> Marks>, from: u64, at: MonoNs) {
        let lives = self.lives.borrow();
        let Some(live) = lives.back() else { return };
        let mut live = live.borrow_mut();
        live.starved = false;
        live.uploaded_at = at;
        if live.relay_state() == Relay::ClientBody {
            let missing = live.relay_read(Relay::ProxyRequest, &asks.goes_on(from), at);
            live.head.client_missing = live.head.client_missing.with(missing);
        }
    }

    fn on_event(&self, event: Event, asks: &Asks<impl Fn(Range<u64>) -> Marks>, at: MonoNs) {
        match event {
            Event::MessageStart { offset } => {
                self.begun.set(Some(HeadSeen::begun(asks, offset, at)));
                self.deadline.set(after(at, self.limits.head_timeout));
            }
            Event::HeadEnd(head) => {
                let mut head = self.begun.take().unwrap_or_default().ended(asks, &head, at);
                // Behind a response under way nobody would have read it sooner.
                let last = head.marks.last;
                let waits = last.known().map_or(MonoNs::UNKNOWN, |from| from.max(self.previous_write.get()));
                (head.woken, head.preempted_ns) = wake::delay(waits, at);
                self.uploading.set(head.body);
                let patience = self.limits.read_timeout;
                self.deadline.set(if head.body { after(at, patience) } else { MonoNs::UNKNOWN });
                self.heads.borrow_mut().push_back(head);
            }
            Event::BodyEnd { offset } => {
                self.message_end.set(offset);
                self.uploading.set(false);
                // The last request's: its head may be with hyper still.
                if self.heads.borrow().is_empty()
                    && let Some(live) = self.lives.borrow().back()
                {
                    live.borrow_mut().uploading = false;
                }
                self.deadline.set(MonoNs::UNKNOWN);
            }
            Event::Interim(_) => {}
        }
    }

    /// Whether the rest of an upload cannot be had, and whose fault that is.
    pub(crate) fn upload_fault(&self) -> Option<ErrorKind> {
        if self.refusal.borrow().as_ref().is_some_and(|refusal| refusal.part == Part::Body) {
            return Some(ErrorKind::BadRequest);
        }
        (self.uploading.get() && self.gone.get()).then_some(ErrorKind::ClientGone)
    }

    /// Whether a body is still to come from the client.
    pub(crate) fn is_uploading(&self) -> bool {
        // A head behind it says that its body has ended.
        self.uploading.get() && self.heads.borrow().is_empty()
    }

    /// The running exchange's time is up, and its response waits for a client that does not read.
    fn is_stuck(&self) -> bool {
        self.exchange_expired.get()
            && self.lives.borrow().front().is_some_and(|live| live.borrow().relay_state() == Relay::ClientDrain)
    }

    /// Nothing more may be read from this client.
    fn poll_refused(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        // hyper may have taken a head whose service call it has not polled yet.
        let idle = self.lives.borrow().is_empty() && self.heads.borrow().is_empty();
        if !idle && !self.uploading.get() {
            // The response under way ends first; `flushed` wakes us.
            self.keep_waker(cx);
            return Poll::Pending;
        }
        if idle
            && !self.refusal_sent.replace(true)
            && let Some(refusal) = self.refusal.borrow().as_ref()
        {
            self.worker.counters.borrow_mut().count(Total::RefusedRequests);
            // An idle connection's send buffer is empty: this cannot be short.
            let sent = self.send_now(refusal.response());
            let status = if sent { refusal.reason.status() } else { 0 };
            self.leave_unserved(&self.begun.take().unwrap_or_default(), status, End::Refused, ErrorKind::BadRequest);
        }
        Poll::Ready(Ok(()))
    }

    /// A record for a request that never reached the exchange. What was answered, if anything was, has been written.
    fn leave_unserved(&self, seen: &HeadSeen, status: u16, end: End, error: ErrorKind) {
        let written = self.written_bytes.get();
        let answer = (status != 0).then(|| self.unserved.get().unwrap_or((written, written)));
        let ended = answer.map_or_else(MonoNs::now, |_| self.last_written.get());
        let live = self.worker.live();
        let mut live = live.borrow_mut();
        live.head = exchange::first_stamps(self, seen);
        exchange::trace_unserved(self, &mut live);
        live.head.status = status;
        live.fail(end, error);
        if let Some((start, _)) = answer {
            (live.head.head_written, live.head.response_start) = (ended, start);
        }
        live.end(ended, answer.map_or(written, |(_, end)| end));
        self.leave(&live);
    }

    /// Writes a short answer of our own past hyper; whether the socket took all of it.
    fn send_now(&self, answer: &[u8]) -> bool {
        let sent = match self.secured() {
            None => {
                self.unserved_begins();
                let begun = MonoNs::now();
                let taken = self.stream.borrow().try_write(answer).unwrap_or(0);
                self.wrote(taken, begun);
                taken == answer.len()
            }
            Some(secured) => secured.send_now(self, answer),
        };
        self.unserved_ends();
        sent
    }

    /// The connection is over: whoever is still under way was cut off.
    fn finish(&self) {
        let now = MonoNs::now();
        while let Some(live) = { self.lives.borrow_mut().pop_front() } {
            let mut live = live.borrow_mut();
            let (end, error) = if self.worker.is_stopping() {
                (End::Shutdown, ErrorKind::ClientGone)
            } else if self.expired.get() {
                (End::TimedOut, ErrorKind::RequestTimeout)
            } else {
                (End::ClientGone, ErrorKind::ClientGone)
            };
            live.fail(end, error);
            live.end(now, self.written_bytes.get());
            if live.head.span_id == SpanId::default() {
                // It never came to be served.
                exchange::trace_unserved(self, &mut live);
            }
            self.leave(&live);
        }
        // Heads that hyper had, but took for none, whose client was gone before the service ran, or that came too late to
        // be served.
        let end = if self.closing.get().is_some() { End::Shutdown } else { End::ClientGone };
        while let Some(head) = { self.heads.borrow_mut().pop_front() } {
            self.leave_unread(&head, (0, end, ErrorKind::ClientGone));
        }
        if let Some(head) = self.begun.take() {
            let end = match self.timed_out.get() {
                0 => (0, End::ClientGone, ErrorKind::ClientGone),
                status => (status, End::TimedOut, ErrorKind::RequestTimeout),
            };
            self.leave_unread(&head, end);
        }
        self.worker.observer.closed(self.token);
    }

    /// The first head that hyper has read no request from, if it was hyper that ended the connection, is what it has answered
    /// with a 400, perhaps without waiting for the rest of it; others end so.
    fn leave_unread(&self, head: &HeadSeen, (status, end, error): (u16, End, ErrorKind)) {
        if self.unparsed.replace(false) {
            self.worker.counters.borrow_mut().count(Total::RefusedRequests);
            self.leave_unserved(head, 400, End::Refused, ErrorKind::BadRequest);
        } else {
            self.leave_unserved(head, status, end, error);
        }
    }

    /// Of the response before a new request: where it ended, and what its client has acknowledged of it. Nothing where it is
    /// still under way (pipelining), or nobody watches.
    pub(crate) fn previous_acknowledged(&self) -> Previous {
        // One that is answered past the exchange has its answer by now.
        let end = self.unserved.get().map_or(self.written_bytes.get(), |(start, _)| start);
        let ended = self.previous_written.get();
        if ended.0 == 0 || !self.worker.observer.watches_acknowledgements() || !self.lives.borrow().is_empty() {
            return Previous::default();
        }
        let Acknowledged { at, left } = self.worker.observer.acknowledged(self.token, end.saturating_sub(1), ended);
        Previous { end, acked: at, left }
    }

    /// Why kernel times are missing on this connection, beyond what single marks say.
    pub(crate) fn missing(&self) -> Missing {
        self.worker.observer.absence()
    }
}

/// Idle time after which a connection is folded: longer than the pauses of a busy client, which would pay for hyper's
/// buffers each time.
const FOLD_AFTER_NS: u64 = 1_000_000_000;
/// Idle time after which a draining worker closes a connection: longer than any request on its way needs.
const DRAIN_IDLE_NS: u64 = 1_000_000_000;

/// `at` plus a timeout, where zero means none.
pub(crate) fn after(at: MonoNs, timeout: std::time::Duration) -> MonoNs {
    if timeout.is_zero() { MonoNs::UNKNOWN } else { at + timeout }
}

/// Whose forwarding headers an entry point believes.
pub(crate) fn trust(entry_point: &EntryPoint) -> Trust<'_> {
    Trust { networks: &entry_point.trusted, all: entry_point.trust_all }
}

/// v4-mapped addresses as what they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
