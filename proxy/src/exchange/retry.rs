//! Requests that are sent again when they fail, as their route's `retry` says.

use std::cell::RefCell;
use std::rc::Rc;

use http::Request;
use http::request::Parts;
use http_body::Body as _;
use hyper::body::Incoming;

use super::around::Around;
use super::attempt::{ATTEMPTS_MAX, attempt, is_idempotent, sooner};
use super::{Reply, answered, failed, fault_of, mirror, outgoing, served_by};
use crate::body::RequestBody;
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::live::Live;
use crate::middleware::Retry;
use crate::observer::SocketObserver;
use crate::record::ErrorKind;
use crate::snapshot::{Service, Snapshot};

/// As [`super::forward`], and again.
pub(super) async fn forward<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    (around, snapshot, retry): (&Around<'_>, &Snapshot, &Retry),
    parts: &mut Parts,
    body: Incoming,
) -> Reply<O> {
    let begun = MonoNs::now();
    live.borrow_mut().head.upstream_wanted = begun;
    let whole = after(begun, service.timeouts.request);
    let mut body = RequestBody::new(body, live);
    if !around.mirrors.is_empty() {
        mirror::copy(conn, live, (&around.mirrors, snapshot), parts, &mut body);
    }
    let mut left = if body.is_end_stream() { retry.attempts } else { 0 };
    loop {
        let server = match served_by(conn, live, service) {
            Ok(server) => server,
            Err(reply) => return reply,
        };
        // As it is now, for the next time.
        let spare = (left > 0).then(|| (parts.method.clone(), parts.headers.clone()));
        let body = std::mem::replace(&mut body, RequestBody::EMPTY);
        let Ok(request) = outgoing(parts, body, server, service.pass_host) else {
            return failed(live, ErrorKind::BadRequest);
        };
        let until = sooner(whole, after(MonoNs::now(), retry.each));
        let mut request: Option<Request<RequestBody>> = Some(request);
        let tried = attempt(conn, live, service, server, &mut request, until).await;
        let fails = match &tried {
            Ok((reply, _)) => retry.codes.contains(&reply.status().as_u16()),
            Err(kind) => is_again(*kind, is_idempotent(live.borrow().head.method)),
        };
        let may = fails && !is_over(whole) && live.borrow().attempts.made() < ATTEMPTS_MAX;
        let Some((method, headers)) = spare.filter(|_| may) else {
            return match tried {
                Ok((reply, upstream)) => answered(conn, live, service, reply, upstream, whole),
                Err(error) => failed(live, fault_of(conn, live, error)),
            };
        };
        if let Ok((reply, upstream)) = tried
            && let Some(attempt) = live.borrow_mut().attempts.last_mut()
        {
            attempt.status = reply.status().as_u16();
            upstream.seen.settle(attempt);
            upstream.seen.release();
        }
        (parts.method, parts.headers) = (method, headers);
        left -= 1;
        if !retry.backoff.is_zero() {
            live.borrow_mut().pauses();
            tokio::time::sleep(retry.backoff).await;
        }
    }
}

/// Whether another try may end otherwise, and nothing is done twice that may not be.
fn is_again(kind: ErrorKind, is_idempotent: bool) -> bool {
    match kind {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectTimeout | ErrorKind::ConnectFailed => true,
        ErrorKind::ResponseTimeout | ErrorKind::UpstreamReset | ErrorKind::UpstreamClosed => is_idempotent,
        _ => false,
    }
}

/// Whether the time for all of them is over.
fn is_over(whole: MonoNs) -> bool {
    whole.known().is_some_and(|whole| whole <= MonoNs::now())
}
