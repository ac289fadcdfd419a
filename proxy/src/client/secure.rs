//! A client's connection that speaks TLS: its handshake, and then the layer between its socket and what the tap reads and
//! writes. rustls gets one record at a time, so each read of plaintext comes from one record, whose place on the wire is
//! known; it never holds more than one record's plaintext, nor more than its limit of what the socket has not taken.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::{Acceptor, ServerConnection};
use rustls::{Error, HandshakeKind};
use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::records::{Piece, Records};
use super::{ClientConn, after, trust};
use crate::clock::MonoNs;
use crate::counters::Total;
use crate::headers::PeerHeaders;
use crate::observer::SocketObserver;
use crate::record::TlsFacts;
use crate::snapshot::EntryPoint;
use crate::tls::{Options, Tls};

/// The first byte of a TLS connection: a handshake record's type. No method begins with it.
pub(super) const HANDSHAKE: u8 = 0x16;

/// A connection behind its handshake.
pub(crate) struct Secured {
    tls: RefCell<ServerConnection>,
    records: RefCell<Records>,
    /// Where on the wire the plaintext lies that was read last.
    record: Cell<(u64, u64)>,
    /// That record's plaintext was not read to its end.
    is_partly_read: Cell<bool>,
    /// What the client's server name chose.
    pub(crate) options: Arc<Options>,
    pub(crate) peer_headers: PeerHeaders,
    pub(crate) facts: TlsFacts,
}

/// Why a handshake came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Not done within the head's time, or cut off by a drain.
    TimedOut,
    /// The client closed or broke off.
    Gone,
    /// By rustls' judgement.
    Refused(Error),
    /// Bytes that are no TLS.
    Malformed,
}

impl Failure {
    fn total(&self) -> Total {
        match self {
            Self::TimedOut => Total::TlsTimedOut,
            Self::Gone => Total::TlsClientGone,
            Self::Malformed => Total::TlsMalformed,
            Self::Refused(error) => match error {
                Error::AlertReceived(_) => Total::TlsRefusedByClient,
                Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Total::TlsClientCertificate,
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Total::TlsIncompatible,
                // All that rustls says where the resolver has none.
                Error::General(_) => Total::TlsNoCertificate,
                _ => Total::TlsMalformed,
            },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData { Self::Malformed } else { Self::Gone }
    }
}

/// Writes to a socket for who knows no readiness. With a context it is woken when the socket takes more.
struct Sink<'s, 'c>(&'s RefCell<TcpStream>, Option<&'s mut Context<'c>>);

impl io::Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.1 {
            Some(cx) => or_blocked(Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)),
            None => self.0.borrow().try_write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.1 {
            Some(cx) => or_blocked(Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)),
            None => self.0.borrow().try_write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn or_blocked(written: Poll<io::Result<usize>>) -> io::Result<usize> {
    match written {
        Poll::Ready(written) => written,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Greets a client that may speak TLS. Nothing changes where its first byte says that it does not, or none comes in time.
pub(super) async fn greet<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    entry_point: &EntryPoint,
    tls: &Tls,
) -> Result<(), Failure> {
    if poll_fn(|cx| conn.poll_first_byte(cx)).await != Some(HANDSHAKE) {
        return Ok(());
    }
    let shaken = handshake(conn, entry_point, tls).await;
    let counters = conn.worker.counters.borrow();
    match &shaken {
        Ok(facts) => {
            counters.count(Total::TlsHandshakes);
            if facts.resumed {
                counters.count(Total::TlsResumed);
            }
            // The first request has as long as one of a plain connection.
            conn.deadline.set(after(MonoNs::now(), conn.limits.head_timeout));
        }
        Err(failure) => {
            counters.count(failure.total());
            tracing::debug!(peer = %conn.peer, ?failure, "TLS handshake failed");
        }
    }
    shaken.map(|_| ())
}

async fn handshake<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    entry_point: &EntryPoint,
    tls: &Tls,
) -> Result<TlsFacts, Failure> {
    let mut records = Records::default();
    let (accepted, began) = hello(conn, &mut records).await?;
    let name = accepted.client_hello().server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
    let options = Arc::clone(tls.choice.of(name.as_deref()));
    let mut session = accepted.into_connection(Arc::clone(&options.config)).map_err(|(error, mut alert)| {
        // Where the socket does not take it at once, the client learns by the close.
        let _ = alert.write_all(&mut Sink(&conn.stream, None));
        Failure::Refused(error)
    })?;
    while session.is_handshaking() {
        poll_fn(|cx| {
            conn.keep_waker(cx);
            if conn.expired.get() {
                Poll::Ready(Err(Failure::TimedOut))
            } else {
                write_out(conn, &mut session, cx).map_err(Into::into)
            }
        })
        .await?;
        if matches!(next(conn, &mut records, |bytes| session.read_tls(bytes)).await?, Piece::Whole(_)) {
            session.process_new_packets().map_err(|error| {
                let _ = session.write_tls(&mut Sink(&conn.stream, None));
                Failure::Refused(error)
            })?;
        }
    }
    // Tickets, say. What the socket does not take now goes before the first answer.
    let _ = poll_fn(|cx| Poll::Ready(write_out(conn, &mut session, cx))).await;
    let facts = TlsFacts {
        handshake_ns: MonoNs::now().since(began),
        version: session.protocol_version().map_or(0, u16::from),
        cipher: session.negotiated_cipher_suite().map_or(0, |suite| u16::from(suite.suite())),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    };
    // Nothing is asked: the latch is armed for the first request's first byte.
    let end = records.next_start();
    conn.worker.observer.marks(conn.token, end..end);
    let (peer, port) = (conn.peer.ip(), conn.local.port());
    let secured = Box::new(Secured {
        tls: RefCell::new(session),
        records: RefCell::new(records),
        record: Cell::new((end, end)),
        is_partly_read: Cell::new(false),
        options,
        peer_headers: PeerHeaders::new(peer, port, trust(entry_point), true, conn.worker.hostname()),
        facts,
    });
    // Nobody else sets it.
    let _ = conn.secured.set(secured);
    Ok(facts)
}

/// Reads the client's greeting, and says when its first byte came.
async fn hello<O: SocketObserver>(
    conn: &ClientConn<O>,
    records: &mut Records,
) -> Result<(rustls::server::Accepted, MonoNs), Failure> {
    let mut acceptor = Acceptor::default();
    let mut began = MonoNs::UNKNOWN;
    loop {
        let piece = next(conn, records, |bytes| acceptor.read_tls(bytes)).await?;
        if began.known().is_none() {
            let read = MonoNs::now();
            began = conn.worker.observer.marks(conn.token, 0..1).first.known().unwrap_or(read);
        }
        if !matches!(piece, Piece::Whole(_)) {
            continue;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, began)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut Sink(&conn.stream, None));
                return Err(Failure::Refused(error));
            }
        }
    }
}

/// The next piece of a handshake.
async fn next<O: SocketObserver>(
    conn: &ClientConn<O>,
    records: &mut Records,
    mut feed: impl FnMut(&mut &[u8]) -> io::Result<usize>,
) -> Result<Piece, Failure> {
    poll_fn(|cx| {
        conn.keep_waker(cx);
        if conn.expired.get() {
            return Poll::Ready(Err(Failure::TimedOut));
        }
        match ready!(poll_piece(conn, cx, records, usize::MAX, &mut feed))? {
            Piece::Nothing => Poll::Ready(Err(Failure::Gone)),
            piece => Poll::Ready(Ok(piece)),
        }
    })
    .await
}

/// Hands over a piece of what waits, or else of what the socket has; nothing at its end.
fn poll_piece<O: SocketObserver>(
    conn: &ClientConn<O>,
    cx: &mut Context<'_>,
    records: &mut Records,
    room: usize,
    mut feed: impl FnMut(&mut &[u8]) -> io::Result<usize>,
) -> Poll<io::Result<Piece>> {
    match records.feed_waiting(&mut feed)? {
        Piece::Nothing => {}
        piece => return Poll::Ready(Ok(piece)),
    }
    let mut scratch = conn.worker.sealed.borrow_mut();
    if scratch.is_empty() {
        scratch.resize(SCRATCH_BYTES, 0);
    }
    let room = room.min(scratch.len());
    let mut buffer = ReadBuf::new(scratch.get_mut(..room).unwrap_or_default());
    ready!(conn.poll_socket(cx, &mut buffer, records.read_bytes()))?;
    if buffer.filled().is_empty() {
        return Poll::Ready(Ok(Piece::Nothing));
    }
    Poll::Ready(records.feed(buffer.filled(), feed))
}

/// Of a worker that has connections that speak TLS.
const SCRATCH_BYTES: usize = 64 * 1024;
/// What a record adds to its plaintext, and a little more: a read of so much beyond what can be passed on leaves little
/// to be kept.
const RECORD_OVERHEAD: usize = 512;

/// Writes what rustls has for the socket.
fn write_out<O: SocketObserver>(
    conn: &ClientConn<O>,
    tls: &mut ServerConnection,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while tls.wants_write() {
        let begun = MonoNs::now();
        match tls.write_tls(&mut Sink(&conn.stream, Some(cx))) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => conn.wrote(bytes, begun),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.blocked();
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

impl Secured {
    /// The record that was read last: where the bytes that the framer looks at lie on the wire.
    pub(super) fn record(&self) -> Range<u64> {
        let (start, end) = self.record.get();
        start..end
    }

    /// What the client's side of the socket has given so far.
    pub(super) fn arrived(&self) -> u64 {
        self.records.borrow().read_bytes()
    }

    /// Up to here, on the wire, all was read.
    pub(super) fn read_to(&self) -> u64 {
        if self.is_partly_read.get() { self.record.get().0 } else { self.record.get().1 }
    }

    /// Nothing was read that was not passed on, and nothing waits for the socket.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_partly_read.get() && self.records.borrow().is_idle() && !self.tls.borrow().wants_write()
    }

    /// Something can be read without a look at the socket.
    pub(super) fn has_unread(&self) -> bool {
        self.is_partly_read.get() || !self.records.borrow().is_idle()
    }

    /// Reads plaintext of one record. The end without a goodbye is an error: what was read may not be all that was sent.
    pub(super) fn poll_read<O: SocketObserver>(
        &self,
        conn: &ClientConn<O>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tls = &mut *self.tls.borrow_mut();
        let records = &mut *self.records.borrow_mut();
        loop {
            match tls.reader().read(out.initialize_unfilled()) {
                Ok(count) => {
                    // Full: there may be more. The next read will tell.
                    self.is_partly_read.set(count > 0 && out.remaining() == count);
                    out.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_partly_read.set(false),
                Err(error) => return Poll::Ready(Err(error)),
            }
            let room = out.remaining() + RECORD_OVERHEAD;
            match ready!(poll_piece(conn, cx, records, room, |bytes| tls.read_tls(bytes)))? {
                // Told of the socket's end, the reader tells a goodbye from a cut.
                Piece::Nothing => drop(tls.read_tls(&mut io::empty())?),
                Piece::Part => conn.record_begins(),
                Piece::Whole(range) => {
                    self.record.set((range.start, range.end));
                    if let Err(error) = tls.process_new_packets() {
                        let _ = write_out(conn, tls, cx);
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                    if tls.wants_write() {
                        // An answer of rustls' own; what is left of it goes before the next of ours.
                        let _ = write_out(conn, tls, cx)?;
                    }
                }
            }
        }
    }

    /// Takes plaintext when what was taken before is with the socket.
    pub(super) fn poll_write<O: SocketObserver>(
        &self,
        conn: &ClientConn<O>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tls = &mut *self.tls.borrow_mut();
        ready!(write_out(conn, tls, cx))?;
        conn.answer_begins();
        conn.unserved_begins();
        let taken = tls.writer().write_vectored(slices)?;
        if let Poll::Ready(written) = write_out(conn, tls, cx) {
            written?;
        }
        Poll::Ready(Ok(taken))
    }

    /// Ready when the socket has taken everything.
    pub(super) fn poll_flush<O: SocketObserver>(
        &self,
        conn: &ClientConn<O>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        write_out(conn, &mut self.tls.borrow_mut(), cx)
    }

    /// Says that nothing more comes, so that what came is known to be whole.
    pub(super) fn poll_goodbye<O: SocketObserver>(
        &self,
        conn: &ClientConn<O>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let tls = &mut *self.tls.borrow_mut();
        tls.send_close_notify();
        write_out(conn, tls, cx)
    }

    /// Writes an answer behind what was left, as far as the socket takes it at once; whether it took all.
    pub(super) fn send_now<O: SocketObserver>(&self, conn: &ClientConn<O>, answer: &[u8]) -> bool {
        let tls = &mut *self.tls.borrow_mut();
        if !write_now(conn, tls, |bytes, begun| conn.wrote(bytes, begun)) {
            return false;
        }
        conn.unserved_begins();
        let taken = tls.writer().write(answer).is_ok_and(|taken| taken == answer.len());
        write_now(conn, tls, |bytes, begun| conn.wrote(bytes, begun)) && taken
    }

    /// [`Secured::poll_goodbye`] as far as the socket takes it at once.
    pub(super) fn say_goodbye<O: SocketObserver>(&self, conn: &ClientConn<O>) {
        let tls = &mut *self.tls.borrow_mut();
        tls.send_close_notify();
        // It is no answer's, and the socket's room for it ends no wait of one.
        write_now(conn, tls, |_, _| {});
    }
}

/// Writes what the socket takes at once of what rustls has for it; whether that was all.
fn write_now<O: SocketObserver>(
    conn: &ClientConn<O>,
    tls: &mut ServerConnection,
    wrote: impl Fn(usize, MonoNs),
) -> bool {
    let mut sink = Sink(&conn.stream, None);
    while tls.wants_write() {
        let begun = MonoNs::now();
        match tls.write_tls(&mut sink) {
            Ok(bytes) if bytes > 0 => wrote(bytes, begun),
            _ => return false,
        }
    }
    true
}
