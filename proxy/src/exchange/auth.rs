//! The call of an authentication server: a request of its own within the client's, over the workers' pools, with its own span
//! and its own time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::BytesMut;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;

use super::around::Waiting;
use super::attempt::{attempt, nth_client_span};
use crate::body::{Relayed, RequestBody, ResponseBody};
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::live::Live;
use crate::middleware::{Answer, AuthServer, Client};
use crate::observer::SocketObserver;
use crate::record::{ATTEMPTS_MAX, Method};
use crate::snapshot::{Server, Service};
use crate::trace_context::{SpanId, TRACEPARENT, TraceParent};
use crate::upstream::Upstream;

/// Asks whether the request may go on; the cookies for its response.
///
/// # Errors
/// The answer to one that may not.
pub(super) async fn ask<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    auth: &AuthServer,
    parts: &mut Parts,
    client: &Client,
) -> Result<Vec<HeaderValue>, Box<Answer>> {
    let AuthServer { settings, service, .. } = auth;
    let Some(server) = service.servers.first().filter(|server| !server.addresses.is_empty()) else {
        return Err(Answer::status(StatusCode::INTERNAL_SERVER_ERROR));
    };
    let answered = {
        let call = Call::begin(conn, live);
        let request = question(auth, server, parts, client, &call);
        let answered = call.run(service, server, request, settings.body_max).await;
        conn.exchange_until(MonoNs::UNKNOWN);
        answered
    };
    match answered {
        Ok(answer) if answer.status().is_success() => Ok(settings.accept(parts, answer.headers())),
        // Another protocol is none of what was asked.
        Ok(answer) if answer.status().is_informational() => Err(Answer::status(StatusCode::INTERNAL_SERVER_ERROR)),
        Ok(answer) => {
            let status = answer.status();
            let (head, body) = answer.into_parts();
            Err(settings.refusal(status, &head.headers, body.freeze(), auth))
        }
        Err(Failed::TooLong) => Err(Answer::status(StatusCode::UNAUTHORIZED)),
        Err(Failed::Call) => Err(Answer::status(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

fn question<O: SocketObserver>(
    auth: &AuthServer,
    server: &Server,
    parts: &Parts,
    client: &Client,
    call: &Call<'_, O>,
) -> Request<RequestBody> {
    let mut headers = auth.settings.question(parts, client);
    if let Ok(host) = HeaderValue::from_str(&server.authority) {
        headers.insert(HOST, host);
    }
    call.trace(parts, &mut headers);
    let mut request = Request::new(RequestBody::EMPTY);
    *request.uri_mut() = Uri::from(auth.target.clone());
    *request.headers_mut() = headers;
    request
}

/// Why there is no answer.
enum Failed {
    /// The record says how.
    Call,
    /// Its body is more than may be kept.
    TooLong,
}

/// A call under way. However it ends, the request's record tells of it.
struct Call<'c, O: SocketObserver> {
    conn: &'c Rc<ClientConn<O>>,
    live: &'c Rc<RefCell<Live>>,
    /// What the call's own connections write their times to.
    own: Rc<RefCell<Live>>,
    begun: MonoNs,
    waiting: Waiting<'c>,
}

impl<'c, O: SocketObserver> Call<'c, O> {
    fn begin(conn: &'c Rc<ClientConn<O>>, live: &'c Rc<RefCell<Live>>) -> Self {
        let begun = MonoNs::now();
        let own = conn.worker.live();
        {
            let mut own = own.borrow_mut();
            own.head.method = Method::Get;
            own.head.upstream_wanted = begun;
            own.head.sampled = live.borrow().head.sampled;
            own.head.span_id = SpanId::random(&mut conn.worker.random.borrow_mut());
        }
        Self { conn, live, own, begun, waiting: Waiting::new(live, begun) }
    }

    /// The authentication server's spans hang under the call's, where the request is traced here.
    fn trace(&self, parts: &Parts, headers: &mut HeaderMap) {
        let Some(passed) = parts.headers.get(&TRACEPARENT) else { return };
        let ours = nth_client_span(self.live.borrow().head.span_id, 0);
        let context = TraceParent::parse(passed.as_bytes()).filter(|context| context.parent_id == ours);
        let parent_id = nth_client_span(self.own.borrow().head.span_id, 0);
        let value = context.map_or_else(|| passed.clone(), |context| TraceParent { parent_id, ..context }.header());
        headers.insert(&TRACEPARENT, value);
        if let Some(state) = &self.live.borrow().trace_state {
            headers.insert(&crate::trace_context::TRACESTATE, state.clone());
        }
    }

    async fn run(
        &self,
        service: &Service,
        server: &Server,
        request: Request<RequestBody>,
        body_max: usize,
    ) -> Result<Response<BytesMut>, Failed> {
        let whole = after(self.begun, service.timeouts.request);
        let mut request = Some(request);
        let answered = attempt(self.conn, &self.own, service, server, &mut request, whole).await;
        let (reply, upstream) = answered.map_err(|_| Failed::Call)?;
        self.conn.exchange_until(whole);
        self.read(service, reply, upstream, body_max).await
    }

    async fn read(
        &self,
        service: &Service,
        reply: Response<Incoming>,
        upstream: Box<Upstream<O>>,
        body_max: usize,
    ) -> Result<Response<BytesMut>, Failed> {
        if let Some(attempt) = self.own.borrow_mut().attempts.last_mut() {
            attempt.status = reply.status().as_u16();
            upstream.seen.settle(attempt);
        }
        let (head, incoming) = reply.into_parts();
        let mut relayed = Relayed {
            incoming,
            upstream: Some(upstream),
            client: Rc::clone(self.conn),
            live: Rc::clone(&self.own),
            idle_max: service.idle_max,
            idle: service.timeouts.idle,
            broken: None,
        };
        let mut kept = BytesMut::new();
        if relayed.incoming.is_end_stream() {
            relayed.complete(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            return Ok(Response::from_parts(head, kept));
        }
        let mut body = ResponseBody::Relayed(Box::new(relayed));
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if kept.len() + data.len() > body_max {
                        return Err(Failed::TooLong);
                    }
                    kept.extend_from_slice(&data);
                }
                Some(Err(_)) => return Err(Failed::Call),
                None => return Ok(Response::from_parts(head, kept)),
            }
        }
    }
}

impl<O: SocketObserver> Drop for Call<'_, O> {
    fn drop(&mut self) {
        if let (Ok(mut live), Ok(own)) = (self.live.try_borrow_mut(), self.own.try_borrow()) {
            let room = ATTEMPTS_MAX.saturating_sub(live.calls.len());
            live.calls.extend(own.attempts.kept().iter().take(room));
            self.waiting.unread_ns = unread_ns(&own);
        }
        self.conn.worker.recycle(std::mem::take(&mut self.own));
    }
}

/// For how long the answer's bytes were readable before they were read: that was the worker, not the server.
fn unread_ns(own: &Live) -> u64 {
    let answer = own.attempts.kept().last().and_then(|last| last.first_read.known().zip(last.first_readable.known()));
    let head = answer.map_or(0, |(read, readable)| read.since(readable));
    head.saturating_add(own.head.body.upstream_read_wait)
}
