//! Attempts to get a request answered: over a pooled connection or a new one, and over another where that is safe. Which
//! server it is, and what the client gets in the end, is the exchange's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::body::RequestBody;
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::framer::Asked;
use crate::live::Live;
use crate::observer::SocketObserver;
use crate::record::{Attempt, ErrorKind};
use crate::snapshot::{Server, Service};
use crate::trace_context::SpanId;
use crate::upstream::Upstream;

/// Tries at most this often per request: the pooled connections that turned out dead, and the server's addresses.
const ATTEMPTS_MAX: u16 = 8;

/// Sends the request, over pooled connections while they turn out dead, then over new ones, one address after the
/// other. Only what was certainly not processed is sent again.
pub(super) async fn attempt<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    server: &Server,
    mut request: Request<RequestBody>,
    whole: MonoNs,
) -> Result<(Response<Incoming>, Upstream<O>), ErrorKind> {
    let mut addresses = server.addresses.iter().copied();
    let mut error = ErrorKind::ConnectFailed;
    while live.borrow().attempts.made() < ATTEMPTS_MAX {
        let pooled = conn.worker.pool.take(server.id).await;
        let reused = pooled.is_some();
        let Some(address) = pooled.as_ref().map(|upstream| upstream.seen.address).or_else(|| addresses.next()) else {
            return Err(error);
        };
        begin_attempt(live, server, reused, address);
        let upstream = match pooled {
            Some(upstream) => {
                conn.worker.counters.borrow().count(crate::counters::Total::Reused);
                upstream
            }
            None => match connect(conn, live, service, server.id, address, whole).await {
                Ok(upstream) => upstream,
                Err(kind) => {
                    error = kind;
                    continue;
                }
            },
        };
        match send(conn, live, service, upstream, request, whole).await {
            Ok(answered) => return Ok(answered),
            Err(Sent::Never(again)) if reused => {
                note_failure(live, ErrorKind::UpstreamClosed);
                request = *again;
            }
            Err(Sent::Never(_)) => return Err(note_failure(live, ErrorKind::UpstreamClosed)),
            Err(Sent::Failed(kind)) => return Err(note_failure(live, kind)),
        }
    }
    Err(error)
}

fn begin_attempt(live: &RefCell<Live>, server: &Server, reused: bool, address: SocketAddr) {
    let mut live = live.borrow_mut();
    let number = live.attempts.made();
    // The first is wanted and chosen at the same moment unless a connection had to be waited for.
    let now = if number == 0 { live.head.upstream_wanted } else { MonoNs::now() };
    let span_id = nth_client_span(live.head.span_id, number);
    let (server, connected) = (server.id, if reused { now } else { MonoNs::UNKNOWN });
    let mut attempt = Attempt { span_id, server, reused, address, begun: now, chosen: now, ..Attempt::default() };
    (attempt.connected, attempt.secured) = (connected, connected);
    live.attempts.push(attempt);
}

fn note_failure(live: &RefCell<Live>, kind: ErrorKind) -> ErrorKind {
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        attempt.error = kind;
        if attempt.ended.0 == 0 {
            attempt.ended = MonoNs::now();
        }
    }
    kind
}

async fn connect<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    server: u32,
    address: SocketAddr,
    whole: MonoNs,
) -> Result<Upstream<O>, ErrorKind> {
    let begun = MonoNs::now();
    conn.exchange_until(sooner(after(begun, service.timeouts.connect), whole));
    let mut connecting = pin!(Upstream::connect(&conn.worker, server, address));
    let connected = poll_fn(|cx| {
        if conn.exchange_expired() {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
        }
        connecting.as_mut().poll(cx)
    })
    .await;
    let now = MonoNs::now();
    let upstream = connected.map_err(|error| {
        note_failure(
            live,
            match error.kind() {
                io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
                io::ErrorKind::ConnectionRefused => ErrorKind::ConnectionRefused,
                _ => ErrorKind::ConnectFailed,
            },
        )
    })?;
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        (attempt.connected, attempt.secured) = (now, now);
    }
    conn.worker.counters.borrow().count(crate::counters::Total::Connected);
    Ok(upstream)
}

/// How far a request came that has no response.
enum Sent {
    /// Not one byte was taken: it can go over another connection.
    Never(Box<Request<RequestBody>>),
    /// Perhaps processed.
    Failed(ErrorKind),
}

async fn send<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    mut upstream: Upstream<O>,
    request: Request<RequestBody>,
    whole: MonoNs,
) -> Result<(Response<Incoming>, Upstream<O>), Sent> {
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        attempt.token = upstream.seen.token;
    }
    let patience = service.timeouts.response_head;
    conn.exchange_until(if patience.is_zero() { whole } else { sooner(after(MonoNs::now(), patience), whole) });
    let asked = if request.method() == http::Method::HEAD { Asked::Head } else { Asked::Other };
    upstream.seen.begin(live, asked);
    let mut answer = pin!(upstream.send.try_send_request(request));
    let driver = &mut upstream.driver;
    let answered = poll_fn(|cx| {
        if conn.exchange_expired() {
            return Poll::Ready(None);
        }
        // The connection first: it writes the request, and reads what the answer waits for.
        let _ = std::pin::Pin::new(&mut *driver).poll(cx);
        answer.as_mut().poll(cx).map(Some)
    })
    .await;
    let failure = match answered {
        Some(Ok(reply)) => return Ok((reply, upstream)),
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::Never(Box::new(request)),
            None if upstream.seen.refused() => Sent::Failed(ErrorKind::UpstreamProtocol),
            None if is_reset(error.error()) => Sent::Failed(ErrorKind::UpstreamReset),
            None if error.error().is_parse() => Sent::Failed(ErrorKind::UpstreamProtocol),
            None => Sent::Failed(ErrorKind::UpstreamClosed),
        },
        None => Sent::Failed(ErrorKind::ResponseTimeout),
    };
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        upstream.seen.settle(attempt);
    }
    upstream.seen.release();
    Err(failure)
}

fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::ConnectionReset)
}

/// The CLIENT span of an attempt: derived from the SERVER span's id, so that nothing has to be kept.
pub(super) fn nth_client_span(server: SpanId, attempt: u16) -> SpanId {
    // A bijection of the id (SplitMix64's finaliser over an odd step): never equal for different attempts.
    let step = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(u64::from(attempt) + 1);
    let mut id = u64::from_be_bytes(server.0).wrapping_add(step);
    id = (id ^ (id >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    id ^= id >> 31;
    SpanId(if id == 0 { 1 } else { id }.to_be_bytes())
}

fn sooner(a: MonoNs, b: MonoNs) -> MonoNs {
    match (a.known(), b.known()) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_have_span_ids_of_their_own() {
        let server = SpanId(7_u64.to_be_bytes());
        let ids: std::collections::HashSet<_> = (0..100).map(|n| nth_client_span(server, n)).collect();
        assert_eq!(ids.len(), 100);
        assert!(!ids.contains(&server));
    }

    #[test]
    fn the_sooner_deadline_counts_and_none_is_none() {
        assert_eq!(sooner(MonoNs(5), MonoNs(3)), MonoNs(3));
        assert_eq!(sooner(MonoNs(0), MonoNs(3)), MonoNs(3));
        assert_eq!(sooner(MonoNs(0), MonoNs(0)), MonoNs(0));
    }
}
