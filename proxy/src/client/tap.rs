//! hyper's view of a client's socket: reads are judged before hyper sees them, writes are stamped. What is learnt goes to
//! the connection, [`super::ClientConn`].

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ClientConn;
use crate::clock::MonoNs;
use crate::gather::gather;
use crate::observer::SocketObserver;
use crate::relay::Relay;

impl<O: SocketObserver> ClientConn<O> {
    /// Reads what the client says, out of TLS where it speaks it.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.secured() {
            None => self.poll_socket(cx, out, self.read_bytes.get()),
            Some(secured) => secured.poll_read(self, cx, out),
        }
    }

    /// Reads from the socket, from this offset of what is on the wire.
    pub(super) fn poll_socket(&self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>, from: u64) -> Poll<io::Result<()>> {
        if self.worker.observer.stamps() && self.may_be_told() {
            return self.stamped.poll_read(&self.worker.observer, &self.stream.borrow(), cx, (out, from));
        }
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, out)
    }

    /// A span may tell when the next bytes came: a head's, whose sampling is decided when it is read, or those of a body that belongs
    /// to a sampled request.
    fn may_be_told(&self) -> bool {
        let is_sampled = || self.lives.borrow().back().is_none_or(|live| live.borrow().head.sampled);
        !self.framer.borrow().is_opaque() && (!self.uploading.get() || is_sampled())
    }

    /// Says that nothing more comes.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(secured) = self.secured() {
            ready!(secured.poll_goodbye(self, cx))?;
        }
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}

/// hyper's view of the socket.
pub(crate) struct Tap<O: SocketObserver> {
    pub(super) conn: Rc<ClientConn<O>>,
}

impl<O: SocketObserver> hyper::rt::Read for Tap<O> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let conn = &*self.conn;
        if conn.refusal.borrow().is_some() {
            return conn.poll_refused(cx);
        }
        if conn.is_held() {
            return conn.poll_gone(cx);
        }
        if !conn.held.borrow().is_empty() {
            return self.read_held(cx, out);
        }
        let mut scratch = conn.worker.scratch.borrow_mut();
        let room = out.remaining().min(scratch.len());
        let mut buffer = ReadBuf::new(scratch.get_mut(..room).unwrap_or_default());
        match conn.poll_read(cx, &mut buffer) {
            Poll::Pending => {
                if conn.uploading.get() {
                    waiting_for_upload(conn);
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => {
                conn.gone.set(true);
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            conn.gone.set(true);
            return Poll::Ready(Ok(()));
        }
        let good = conn.read(bytes);
        let (good_bytes, behind) = bytes.split_at_checked(good).unwrap_or((bytes, &[]));
        out.put_slice(good_bytes);
        if !behind.is_empty() && conn.is_held() {
            *conn.held.borrow_mut() = Bytes::copy_from_slice(behind);
        }
        if good == 0 { conn.poll_refused(cx) } else { Poll::Ready(Ok(())) }
    }
}

fn waiting_for_upload<O: SocketObserver>(conn: &ClientConn<O>) {
    if let Some(live) = conn.lives.borrow().back() {
        let mut live = live.borrow_mut();
        live.starved = true;
        if live.relay_state() == Relay::ProxyRequest {
            live.relay(Relay::ClientBody, MonoNs::now());
        }
    }
}

impl<O: SocketObserver> hyper::rt::Write for Tap<O> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(secured) = self.conn.secured() {
            return secured.poll_write(&self.conn, cx, &[io::IoSlice::new(bytes)]);
        }
        self.conn.unserved_begins();
        let begun = MonoNs::now();
        let written = Pin::new(&mut *self.conn.stream.borrow_mut()).poll_write(cx, bytes);
        self.stamp(written, begun)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let conn = Rc::clone(&self.conn);
        if let Some(secured) = conn.secured() {
            return secured.poll_write(&conn, cx, slices);
        }
        if let Some(gathered) = gather(slices, &mut conn.worker.scratch.borrow_mut()) {
            return self.poll_write(cx, gathered);
        }
        conn.unserved_begins();
        let begun = MonoNs::now();
        let written = Pin::new(&mut *self.conn.stream.borrow_mut()).poll_write_vectored(cx, slices);
        self.stamp(written, begun)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(secured) = self.conn.secured() {
            ready!(secured.poll_flush(&self.conn, cx))?;
        }
        self.conn.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(secured) = self.conn.secured() {
            ready!(secured.poll_flush(&self.conn, cx))?;
        }
        self.conn.flushed();
        self.conn.poll_close(cx)
    }
}

impl<O: SocketObserver> Tap<O> {
    /// Reads what was held back behind a request for another protocol that the server did not switch to.
    fn read_held(&self, cx: &Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let conn = &*self.conn;
        let mut held = conn.held.take();
        let mut now = held.split_to(held.len().min(out.remaining()));
        let good = conn.read(&now).min(now.len());
        out.put_slice(&now.split_to(good));
        // Behind one more such request the rest is held back again.
        if conn.is_held() && !now.is_empty() {
            held = [now, held].concat().into();
        }
        *conn.held.borrow_mut() = held;
        if good == 0 { conn.poll_refused(cx) } else { Poll::Ready(Ok(())) }
    }

    fn stamp(&self, written: Poll<io::Result<usize>>, begun: MonoNs) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.conn.wrote(*bytes, begun),
            Poll::Pending => self.conn.blocked(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}
