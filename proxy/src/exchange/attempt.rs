//! Attempts to get a request answered: over a pooled connection or a new one, and over another where that is safe. Which
//! server it is, and what the client gets in the end, is the exchange's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;

use super::room::{Room, room};
use crate::body::RequestBody;
use crate::cap::Place;
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::framer::Asked;
use crate::live::Live;
use crate::observer::SocketObserver;
use crate::record::{Attempt, ErrorKind, Method};
use crate::snapshot::{Server, Service};
use crate::trace_context::{SpanId, TRACEPARENT, TraceParent};
use crate::upstream::{Seen, Upstream};

/// Tries at most this often per request: the pooled connections that turned out dead, and the server's addresses.
pub(super) const ATTEMPTS_MAX: u16 = 8;

/// Sends the request, over pooled connections while they turn out dead, then over new ones, one address after the
/// other. What was certainly not processed is sent again as often as that takes; what may have been processed once, and
/// over a new connection, where RFC 9110, 9.2.2 allows it (see [`Sent::Unanswered`]).
pub(super) async fn attempt<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    server: &Server,
    request: &mut Option<Request<RequestBody>>,
    whole: MonoNs,
) -> Result<(Response<Incoming>, Box<Upstream<O>>), ErrorKind> {
    let mut addresses = server.addresses.iter().copied();
    let mut error = ErrorKind::ConnectFailed;
    let mut is_resent = false;
    while live.borrow().attempts.made() < ATTEMPTS_MAX {
        let wanted = live.borrow_mut().wants_attempt();
        let (pooled, place) = match room(conn, service, server, is_resent, whole).await? {
            Room::Pooled(upstream) => (Some(upstream), None),
            Room::New(place) => (None, place),
        };
        let reused = pooled.is_some();
        let Some(address) = pooled.as_ref().map(|upstream| upstream.seen.address).or_else(|| addresses.next()) else {
            return Err(error);
        };
        // Wanted and chosen at the same moment, unless a connection had to be waited for.
        let chosen = if server.cap.is_some() { MonoNs::now() } else { wanted };
        let opened = pooled.as_ref().map(|upstream| upstream.opened);
        begin_attempt(live, server, opened, address, [wanted, chosen], request);
        let upstream = match pooled {
            Some(upstream) => {
                conn.worker.counters.borrow().count(crate::counters::Total::Reused);
                upstream
            }
            None => match connect(conn, live, service, (server.id, address, place), whole).await {
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
                *request = Some(*again);
            }
            Err(Sent::Unanswered(kind)) => {
                error = note_failure(live, kind);
                *request = Some(taken_back(live).ok_or(error)?);
                is_resent = true;
            }
            Err(Sent::Never(_)) => return Err(note_failure(live, ErrorKind::UpstreamClosed)),
            Err(Sent::Failed(kind)) => return Err(note_failure(live, kind)),
        }
    }
    Err(error)
}

fn begin_attempt(
    live: &RefCell<Live>,
    server: &Server,
    opened: Option<MonoNs>,
    address: SocketAddr,
    [begun, chosen]: [MonoNs; 2],
    request: &mut Option<Request<RequestBody>>,
) {
    let mut live = live.borrow_mut();
    let number = live.attempts.made();
    if let (Some(before), Some(request)) = (number.checked_sub(1), request) {
        hang_under(request.headers_mut(), live.head.span_id, before, number);
    }
    let span_id = nth_client_span(live.head.span_id, number);
    let (server, reused) = (server.id, opened.is_some());
    let connected = if reused { chosen } else { MonoNs::UNKNOWN };
    let mut attempt = Attempt { span_id, server, reused, address, begun, chosen, ..Attempt::default() };
    (attempt.connected, attempt.secured) = (connected, connected);
    attempt.opened = opened.unwrap_or(MonoNs::UNKNOWN);
    live.begin_attempt(attempt);
}

/// The server's spans hang under the attempt that reached it. The context of a caller who is not ours stays.
#[cold]
fn hang_under(headers: &mut HeaderMap, server_span: SpanId, before: u16, now: u16) {
    let sent = headers.get(&TRACEPARENT).and_then(|value| TraceParent::parse(value.as_bytes()));
    // One that is sent again may be as it was some attempts before.
    if let Some(sent) = sent
        && (0..=before).any(|attempt| sent.parent_id == nth_client_span(server_span, attempt))
    {
        let parent = TraceParent { parent_id: nth_client_span(server_span, now), ..sent };
        headers.insert(&TRACEPARENT, parent.header());
    }
}

/// The request as it was sent, where its body is still whole.
fn taken_back(live: &Rc<RefCell<Live>>) -> Option<Request<RequestBody>> {
    let request = live.borrow_mut().resend.take()?;
    Some(request.map(|body| body.map_or(RequestBody::EMPTY, |body| RequestBody::new(body, live))))
}

pub(super) fn note_failure(live: &RefCell<Live>, kind: ErrorKind) -> ErrorKind {
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
    (server, address, place): (u32, SocketAddr, Option<Place>),
    whole: MonoNs,
) -> Result<Box<Upstream<O>>, ErrorKind> {
    let begun = MonoNs::now();
    conn.exchange_until(sooner(after(begun, service.timeouts.connect), whole));
    let mut connecting = pin!(Upstream::connect(&conn.worker, server, address, place));
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
    // The kernel knows when it was; what came behind it was this worker, who noticed late. Once per connection: a pooled one
    // was ready when it was chosen.
    let established = conn.worker.observer.marks(upstream.seen.token, 0..0).established;
    let connected = if (begun..now).contains(&established) { established } else { now };
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        (attempt.connected, attempt.secured, attempt.opened) = (connected, connected, upstream.opened);
    }
    conn.worker.counters.borrow().count(crate::counters::Total::Connected);
    Ok(upstream)
}

/// How far a request came that has no response.
enum Sent {
    /// Not one byte was taken: it can go over another connection.
    Never(Box<Request<RequestBody>>),
    /// The server ended a pooled connection without one byte of an answer. It had most likely closed before the request
    /// came, and even if it had not: the request is one that may be sent again, and can be.
    Unanswered(ErrorKind),
    /// Perhaps processed.
    Failed(ErrorKind),
}

async fn send<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    mut upstream: Box<Upstream<O>>,
    request: &mut Option<Request<RequestBody>>,
    whole: MonoNs,
) -> Result<(Response<Incoming>, Box<Upstream<O>>), Sent> {
    let Some(request) = request.take() else { return Err(Sent::Failed(ErrorKind::BadRequest)) };
    let (may_be_resent, ready) = {
        let mut live = live.borrow_mut();
        let (reused, ready) = live.attempts.last_mut().map_or((false, MonoNs::UNKNOWN), |attempt| {
            attempt.token = upstream.seen.token;
            conn.worker.observer.under_way(attempt.token, attempt.chosen);
            (attempt.reused, if attempt.reused { attempt.connected } else { attempt.opened })
        });
        let may = reused && is_idempotent(live.head.method);
        if may {
            live.resend.arm(!request.body().is_end_stream());
        }
        (may, ready)
    };
    // The server's time for its head begins when it has the request.
    let patience = service.timeouts.response_head;
    let until = |now| if patience.is_zero() { whole } else { sooner(after(now, patience), whole) };
    let mut uploading = live.borrow().uploading;
    conn.exchange_until(if uploading { whole } else { until(ready) });
    let asked = if request.method() == http::Method::HEAD { Asked::Head } else { Asked::Other };
    upstream.seen.begin(live, asked);
    let unsettled = Unsettled { live, seen: Rc::clone(&upstream.seen), is_armed: Cell::new(true) };
    let mut answer = pin!(upstream.send.try_send_request(request));
    let (driver, over) = (&mut upstream.driver, &mut upstream.over);
    let answered = poll_fn(|cx| {
        if conn.exchange_expired() {
            return Poll::Ready(None);
        }
        // The connection first: it writes the request, and reads what the answer waits for.
        *over |= std::pin::Pin::new(&mut *driver).poll(cx).is_ready();
        if uploading && !live.borrow().uploading {
            uploading = false;
            conn.exchange_until(until(MonoNs::now()));
        }
        answer.as_mut().poll(cx).map(Some)
    })
    .await;
    unsettled.is_armed.set(false);
    let failure = match answered {
        Some(Ok(reply)) => {
            live.borrow_mut().resend.disarm();
            return Ok((reply, upstream));
        }
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::Never(Box::new(request)),
            None if upstream.seen.refused() || error.error().is_parse() => Sent::Failed(ErrorKind::UpstreamProtocol),
            None => {
                let reset = is_reset(error.error());
                let kind = if reset { ErrorKind::UpstreamReset } else { ErrorKind::UpstreamClosed };
                let unanswered = may_be_resent && upstream.seen.is_silent();
                if unanswered { Sent::Unanswered(kind) } else { Sent::Failed(kind) }
            }
        },
        None => Sent::Failed(ErrorKind::ResponseTimeout),
    };
    {
        let mut live = live.borrow_mut();
        if let Some(attempt) = live.attempts.last_mut() {
            upstream.seen.settle(attempt);
        }
        // A body goes back to the request when the connection drops it, if it is still wanted then.
        if !matches!(failure, Sent::Unanswered(_)) {
            live.resend.disarm();
        }
    }
    upstream.seen.release();
    Err(failure)
}

/// Keeps what is known of an exchange whose client is gone before the answer came: nobody comes back to it then.
struct Unsettled<'l, O: SocketObserver> {
    live: &'l RefCell<Live>,
    seen: Rc<Seen<O>>,
    is_armed: Cell<bool>,
}

impl<O: SocketObserver> Drop for Unsettled<'_, O> {
    fn drop(&mut self) {
        if self.is_armed.get()
            && let Ok(mut live) = self.live.try_borrow_mut()
        {
            if let Some(attempt) = live.attempts.last_mut() {
                self.seen.settle(attempt);
            }
            drop(live);
            self.seen.release();
        }
    }
}

/// RFC 9110, 9.2.2: once or twice is the same to the server.
pub(super) fn is_idempotent(method: Method) -> bool {
    matches!(method, Method::Get | Method::Head | Method::Options | Method::Trace | Method::Put | Method::Delete)
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

pub(super) fn sooner(a: MonoNs, b: MonoNs) -> MonoNs {
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
