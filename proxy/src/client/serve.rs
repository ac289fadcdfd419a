//! The task that drives hyper over a client's connection, from its first byte to the goodbye.

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncRead, ReadBuf};

use super::tap::Tap;
use super::{ClientConn, secure, tunnel};
use crate::clock::MonoNs;
use crate::exchange;
use crate::observer::SocketObserver;

/// Serves one connection to its end.
pub(crate) async fn serve<O: SocketObserver>(conn: Rc<ClientConn<O>>) {
    /// Ends the connection's requests however the task ends.
    struct Finish<O: SocketObserver>(Rc<ClientConn<O>>);
    impl<O: SocketObserver> Drop for Finish<O> {
        fn drop(&mut self) {
            self.0.finish();
        }
    }
    let finish = Finish(Rc::clone(&conn));
    if conn.may_speak_tls
        && let Some(entry_point) = conn.worker.snapshot().entry_point(conn.entry_point).cloned()
        && let Some(tls) = &entry_point.tls
    {
        // On the heap: a connection that is not in its handshake has no place for it.
        if Box::pin(secure::greet(&conn, &entry_point, tls)).await.is_err() {
            // So that the alert is read.
            linger(&conn).await;
            return drop(finish);
        }
    }
    let service = {
        let conn = Rc::clone(&conn);
        hyper::service::service_fn(move |request| exchange::handle(Rc::clone(&conn), request))
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    // hyper's own caps must not lie below the framer's, which answers first. Told of a number of headers, hyper keeps them
    // on the heap; its own number it has on the stack.
    builder.max_buf_size(conn.limits.head_bytes_max.max(8192).saturating_add(8192));
    if conn.limits.headers_max > HEADERS_OF_HYPER {
        builder.max_headers(conn.limits.headers_max);
    }
    let ended = loop {
        if poll_fn(|cx| conn.poll_readable(cx)).await.is_none() {
            break None;
        }
        let _held = conn.worker.unfolded.hold();
        // On the heap, so that a folded connection holds none of hyper's buffers.
        let mut http = Box::new(builder.serve_connection(Tap { conn: Rc::clone(&conn) }, &service));
        let drive = poll_fn(|cx| {
            conn.keep_waker(cx);
            if conn.expired.get() {
                return Poll::Ready(Driven::Expired);
            }
            match Pin::new(&mut *http).poll(cx) {
                Poll::Ready(ended) => {
                    conn.unparsed.set(ended.as_ref().is_err_and(hyper::Error::is_parse));
                    Poll::Ready(Driven::Ended(ended))
                }
                Poll::Pending if conn.is_stuck() => {
                    conn.expired.set(true);
                    Poll::Ready(Driven::Expired)
                }
                Poll::Pending if conn.may_fold() && conn.is_idle() => Poll::Ready(Driven::Idle),
                Poll::Pending => Poll::Pending,
            }
        });
        match drive.await {
            Driven::Idle => {}
            Driven::Expired => break None,
            Driven::Ended(ended) => break Some(ended),
        }
    };
    let switched = conn.switched.borrow_mut().take();
    if let (Some(Ok(())), Some(switched)) = (&ended, switched) {
        tunnel::run(&conn, switched).await;
    }
    if ended.is_none() && conn.begun.get().is_some() {
        // RFC 9110, 15.5.9: a head that did not come in time.
        let sent = conn.send_now(REQUEST_TIMEOUT);
        conn.timed_out.set(if sent { 408 } else { 0 });
    }
    if conn.refusal_sent.get() || ended.is_none() || conn.is_held() || conn.closing.get().is_some() {
        linger(&conn).await;
    }
    drop(finish);
}

/// Why a connection is no longer driven.
enum Driven {
    /// Its time is up.
    Expired,
    /// hyper is done with it.
    Ended(hyper::Result<()>),
    /// Nothing is under way, and has not been for a while: hyper's state can go until the client speaks again.
    Idle,
}

/// How many headers hyper takes that is not told (`DEFAULT_MAX_HEADERS` in its `proto/h1/role.rs`, 1.12).
const HEADERS_OF_HYPER: usize = 100;

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 16\r\n\r\nRequest Timeout\n";

/// Says goodbye and reads on for a moment: closing with unread bytes would reset the connection, and the client would
/// lose the answer that it is about to read (RFC 9112, 9.6).
pub(super) async fn linger<O: SocketObserver>(conn: &ClientConn<O>) {
    let mut left = 64;
    let stop = MonoNs::now() + std::time::Duration::from_millis(500);
    if let Some(secured) = conn.secured() {
        secured.say_goodbye(conn);
    }
    let _ = rustix::net::shutdown(conn.stream.borrow().as_fd(), rustix::net::Shutdown::Write);
    let drain = poll_fn(|cx| {
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *conn.stream.borrow_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && left > 0 => left -= 1,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let wait = std::time::Duration::from_nanos(stop.since(MonoNs::now()));
    let _ = tokio::time::timeout(wait, drain).await;
}
