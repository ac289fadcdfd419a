//! One exchange: a request's head comes in, a response's head goes out. Finds the route, edits headers, decides
//! sampling, injects trace context, picks a server, forwards over a pooled or new connection.

mod around;
mod attempt;
mod auth;
mod mirror;
mod password;
mod retry;
mod room;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};

use crate::asks::HeadSeen;
use crate::body::{Relayed, RequestBody, ResponseBody};
use crate::client::{ClientConn, Switched, after, trust};
use crate::clock::MonoNs;
use crate::headers;
use crate::live::Live;
use crate::middleware::{Answer, with_path};
use crate::observer::SocketObserver;
use crate::path;
use crate::record::{End, ErrorKind, Head, Method};
use crate::relay::Relay;
use crate::route::{Found, RequestView, RouteTable};
use crate::sampling::{Decision, Reason};
use crate::snapshot::{EntryPoint, Route, Server, Service, Snapshot, Target};
use crate::trace_context::{self, Incoming as Caller, SpanId, TraceParent};
use crate::upstream::Upstream;
use around::Around;
use attempt::{attempt, nth_client_span};

type Reply<O> = Response<ResponseBody<O>>;

/// hyper's service: never fails, since every failure has a response.
pub(crate) fn handle<O: SocketObserver>(
    conn: Rc<ClientConn<O>>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Reply<O>, Infallible>> {
    // At once: of a client that has closed its side hyper drops the future before it runs.
    let seen = conn.next_head();
    let live = conn.worker.live();
    let (parts, body) = request.into_parts();
    open(&conn, &live, &seen, &parts);
    conn.begin(&live);
    if conn.worker.has_left(conn.entry_point) {
        conn.close_soon();
    }
    serve(conn, live, parts, body, seen.upgrade)
}

async fn serve<O: SocketObserver>(
    conn: Rc<ClientConn<O>>,
    live: Rc<RefCell<Live>>,
    mut parts: Parts,
    body: Incoming,
    upgrade: bool,
) -> Result<Reply<O>, Infallible> {
    conn.has_its_turn(&live).await;
    let connect = parts.method == http::Method::CONNECT;
    let mut reply = route(&conn, &live, &mut parts, body, upgrade).await;
    let switching = reply.status() == StatusCode::SWITCHING_PROTOCOLS;
    // Answered before its body was here, and not by a server that goes on reading: hyper does not wait for the rest.
    let early = conn.is_uploading() && matches!(reply.body(), ResponseBody::Own(_));
    // Behind a CONNECT that was refused may be bytes for whoever it was meant to reach: they are nobody's here.
    let last = connect || (!switching && (early || conn.is_closing()));
    if last {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if upgrade && !switching && !last {
        conn.resume();
    }
    let mut live = live.borrow_mut();
    live.head.status = reply.status().as_u16();
    live.responded = true;
    conn.tell_of_answer(live.head.head_read);
    if switching {
        // The request lasts as long as the tunnel.
    } else if reply.body().is_end_stream() || matches!(reply.body(), ResponseBody::Own(_)) {
        live.body_done = true;
    }
    Ok(reply)
}

/// What the connection and its tap know of a request before anyone has read it.
pub(crate) fn first_stamps<O: SocketObserver>(conn: &ClientConn<O>, seen: &HeadSeen) -> Head {
    let request_index = conn.requests.get();
    conn.requests.set(request_index.wrapping_add(1));
    let mut head = Head {
        worker: conn.worker.id,
        entry_point: conn.entry_point,
        peer: conn.peer,
        local: conn.local,
        connection_id: conn.id,
        request_index,
        token: conn.token,
        accepted: conn.accepted,
        previous_write: conn.previous_write.get(),
        previous: conn.previous_acknowledged(),
        https: conn.secured().is_some(),
        tls: conn.secured().map(|secured| secured.facts).unwrap_or_default(),
        ..Head::default()
    };
    seen.stamp(&mut head);
    head.client_missing = head.client_missing.with(conn.missing());
    head
}

fn open<O: SocketObserver>(conn: &ClientConn<O>, live: &RefCell<Live>, seen: &HeadSeen, parts: &Parts) {
    let mut live = live.borrow_mut();
    live.head = first_stamps(conn, seen);
    live.head.method = Method::of(parts.method.as_str());
    if live.head.method == Method::Other {
        live.method_other = Some(parts.method.clone());
    }
    live.head.version = if parts.version == Version::HTTP_10 { 10 } else { 11 };
    live.target = parts.uri.path_and_query().cloned();
    live.user_agent = parts.headers.get(USER_AGENT).cloned();
    live.uploading = conn.is_uploading();
}

async fn route<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    parts: &mut Parts,
    body: Incoming,
    held: bool,
) -> Reply<O> {
    if let Some((status, text)) = refusal(parts) {
        let mut live = live.borrow_mut();
        trace_unserved(conn, &mut live);
        live.fail(End::Refused, ErrorKind::BadRequest);
        return own(status, text);
    }
    let snapshot = conn.worker.snapshot();
    let Some(entry_point) = snapshot.entry_point(conn.entry_point) else {
        live.borrow_mut().fail(End::Complete, ErrorKind::NoRoute);
        return own(StatusCode::NOT_FOUND, NOT_FOUND);
    };
    if let Some(target) = respelled(&parts.uri, entry_point.sanitize_path) {
        parts.uri = target;
    }
    // RFC 9112, 3.2.2: an absolute target's host replaces the Host header.
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    let host = parts.headers.get(HOST).cloned();
    capture(&parts.headers, &snapshot.captured_request_headers, &mut live.borrow_mut().request_headers);
    let client_ip = headers::client_address(&parts.headers, conn.peer.ip(), trust(entry_point));
    let received = headers::receive_request(&mut parts.headers, conn.peer_headers());
    let asks = RequestView {
        method: parts.method.as_str(),
        host: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        client_ip: conn.peer.ip(),
    };
    let (found, misdirected) = find(conn, entry_point, &asks);
    let mut upgrade = headers::prepare_request(&mut parts.headers, conn.peer_headers(), received).upgrade;
    // Only where the framer reads the request alike, and holds back what follows it.
    if upgrade.is_some() && !held {
        headers::remove_upgrade(&mut parts.headers);
        upgrade = None;
    }
    {
        let mut live = live.borrow_mut();
        live.upgrade = upgrade;
        live.host.clone_from(&host);
        if client_ip != conn.peer.ip() {
            live.forwarded_client = HeaderValue::from_str(&client_ip.to_string()).ok();
        }
        if let Some(found) = &found {
            live.head.route = found.route.id;
            live.head.branch = found.branch;
            live.metered = Some(found.route.metered);
        }
        let operation = || found.as_ref().map_or_else(String::new, |found| found.operation().to_owned());
        let traced = found.as_ref().map_or(entry_point.traced, |found| found.route.traced);
        trace(conn, &mut live, parts, traced, operation);
    }
    if misdirected {
        live.borrow_mut().fail(End::Complete, ErrorKind::Misdirected);
        return own(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED);
    }
    let Some(found) = found else {
        if parts.uri.path() == WHOLE_SERVER {
            // RFC 9110, 9.3.7: a ping of this server. Go, and so Traefik, answers it likewise.
            return Response::new(ResponseBody::Own(None));
        }
        live.borrow_mut().fail(End::Complete, ErrorKind::NoRoute);
        return own(StatusCode::NOT_FOUND, NOT_FOUND);
    };
    let route = Arc::clone(found.route);
    answer(conn, live, &snapshot, &route, parts, body).await
}

/// The route of a request, and whether its connection is none for it.
fn find<'e, O: SocketObserver>(
    conn: &ClientConn<O>,
    entry_point: &'e EntryPoint,
    asks: &RequestView<'_>,
) -> (Option<Found<'e>>, bool) {
    let found = |routes: &'e RouteTable| if asks.path == WHOLE_SERVER { None } else { routes.find(asks) };
    let Some(secured) = conn.secured() else { return (found(&entry_point.routes), false) };
    // What still speaks it where its entry point had it until a moment ago gets nothing that is meant for plain requests.
    let Some(tls) = &entry_point.tls else { return (None, false) };
    let found = found(&tls.routes);
    let wanted = found.as_ref().and_then(|found| found.route.tls_options.as_deref());
    (found, tls.choice.misdirected(&secured.options, asks, wanted))
}

/// The target of an OPTIONS that is about no resource (RFC 9112, 3.2.4).
const WHOLE_SERVER: &str = "*";

/// What is answered to a method that is not served, or to a target that is none: one of another method's form (RFC 9112,
/// 3.2), or with a user in front of its host, who could pass for the host (RFC 9110, 4.2.4).
fn refusal(parts: &Parts) -> Option<(StatusCode, &'static str)> {
    if parts.method == http::Method::CONNECT {
        return Some((StatusCode::NOT_IMPLEMENTED, "Not Implemented\n"));
    }
    let bad = match parts.uri.authority() {
        Some(authority) => parts.uri.scheme().is_none() || authority.as_str().contains('@'),
        None => parts.uri.path() == WHOLE_SERVER && parts.method != http::Method::OPTIONS,
    };
    bad.then_some((StatusCode::BAD_REQUEST, BAD_REQUEST))
}

/// The target with its path in its one spelling, where it differs. The authority of an absolute target stays.
fn respelled(uri: &Uri, sanitize: bool) -> Option<Uri> {
    let spelling = if sanitize { path::sanitize } else { path::normalize };
    let std::borrow::Cow::Owned(path) = spelling(uri.path()) else { return None };
    with_path(uri, &path)
}

async fn answer<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    snapshot: &Snapshot,
    route: &Route,
    parts: &mut Parts,
    body: Incoming,
) -> Reply<O> {
    let mut around = Around::new(route);
    let mut reply = match (around.request(conn, live, parts).await, &route.target) {
        (Err(answer), _) => {
            live.borrow_mut().head.answered_by = around.answered_by();
            ours(*answer)
        }
        (Ok(()), Target::Fixed(fixed)) => {
            let mut reply = Response::new(ResponseBody::Own(Some(fixed.body.clone())));
            *reply.status_mut() = StatusCode::from_u16(fixed.status).unwrap_or(StatusCode::OK);
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(fixed.content_type));
            reply
        }
        (Ok(()), Target::Service(place)) => match snapshot.services.get(*place) {
            None => failed(live, ErrorKind::NoServer),
            Some(service) => {
                live.borrow_mut().head.service = service.id;
                match around.retry {
                    None => forward(conn, live, service, (&around, snapshot), parts, body).await,
                    // On the heap: few routes send again, and none of the others has a place for it.
                    Some(retry) => {
                        Box::pin(retry::forward(conn, live, service, (&around, snapshot, retry), parts, body)).await
                    }
                }
            }
        },
    };
    let switching = reply.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::prepare_response(reply.headers_mut(), switching);
    around.response(reply.headers_mut());
    capture(reply.headers(), &snapshot.captured_response_headers, &mut live.borrow_mut().response_headers);
    reply
}

/// Reads the caller's context, decides, and writes ours for the upstream. The CLIENT span's id is made here, since the
/// upstream gets it as its parent.
fn trace<O: SocketObserver>(
    conn: &ClientConn<O>,
    live: &mut Live,
    parts: &mut Parts,
    traced: bool,
    operation: impl FnOnce() -> String,
) {
    let caller = Caller::from_headers(&parts.headers);
    let mut random = conn.worker.random.borrow_mut();
    let head = &mut live.head;
    let (context, parent) = match &caller {
        Some(caller) => (caller.parent, Some(caller.parent.is_sampled())),
        None => (TraceParent::root(&mut random), None),
    };
    head.trace_id = context.trace_id;
    head.parent_id = if parent.is_some() { context.parent_id } else { SpanId::default() };
    head.span_id = SpanId::random(&mut random);
    let decision = if traced {
        let name = || format!("{} {}", method_name(head.method), operation());
        conn.worker.policy().decide(name, parent, head.trace_id, head.head_read)
    } else {
        Decision { sampled: parent.unwrap_or(false), reason: Reason::Off, param: 0.0 }
    };
    head.sampled = decision.sampled && traced;
    (head.sampling_reason, head.sampling_param) = (decision.reason, decision.param);
    // A request that is not traced here passes its caller's context on as it came, and none where none came: one of ours, not
    // sampled, would keep the servers from tracing it.
    let next = if traced { nth_client_span(head.span_id, 0) } else { context.parent_id };
    let passed = context.passed_on(next, decision.sampled);
    head.trace_flags = passed.flags;
    live.trace_state = caller.and_then(|caller| caller.state);
    if traced || parent.is_some() {
        trace_context::inject(&mut parts.headers, passed, live.trace_state.as_ref());
    }
}

/// Decides on the span of a request that is refused before its headers could be read: the root of a trace of its own.
pub(crate) fn trace_unserved<O: SocketObserver>(conn: &ClientConn<O>, live: &mut Live) {
    let snapshot = conn.worker.snapshot();
    let entry_point = snapshot.entry_points.iter().find(|candidate| candidate.id == conn.entry_point);
    if entry_point.is_none_or(|entry_point| !entry_point.traced) {
        return;
    }
    let mut random = conn.worker.random.borrow_mut();
    let head = &mut live.head;
    let root = TraceParent::root(&mut random);
    head.trace_id = root.trace_id;
    head.span_id = SpanId::random(&mut random);
    let name = || format!("{} ", method_name(head.method));
    let decision = conn.worker.policy().decide(name, None, head.trace_id, head.first_read);
    head.sampled = decision.sampled;
    (head.sampling_reason, head.sampling_param) = (decision.reason, decision.param);
    head.trace_flags = root.passed_on(head.span_id, decision.sampled).flags;
}

fn method_name(method: Method) -> &'static str {
    if method == Method::Other { "HTTP" } else { method.name() }
}

async fn forward<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    (around, snapshot): (&Around<'_>, &Snapshot),
    parts: &mut Parts,
    body: Incoming,
) -> Reply<O> {
    let wanted = MonoNs::now();
    live.borrow_mut().head.upstream_wanted = wanted;
    let server = match served_by(conn, live, service) {
        Ok(server) => server,
        Err(reply) => return reply,
    };
    let mut body = RequestBody::new(body, live);
    if !around.mirrors.is_empty() {
        mirror::copy(conn, live, (&around.mirrors, snapshot), parts, &mut body);
    }
    let mut request = match outgoing(parts, body, server, service.pass_host) {
        Ok(request) => Some(request),
        Err(()) => return failed(live, ErrorKind::BadRequest),
    };
    let whole = after(wanted, service.timeouts.request);
    match attempt(conn, live, service, server, &mut request, whole).await {
        Ok((reply, upstream)) => answered(conn, live, service, reply, upstream, whole),
        Err(error) => failed(live, fault_of(conn, live, error)),
    }
}

/// The server whose turn it is.
///
/// # Errors
/// What is answered where it cannot be asked.
#[expect(
    clippy::result_large_err,
    reason = "it is returned at once, and to have it on the heap would cost every request"
)]
fn served_by<'s, O: SocketObserver>(
    conn: &ClientConn<O>,
    live: &RefCell<Live>,
    service: &'s Service,
) -> Result<&'s Arc<Server>, Reply<O>> {
    let Some(server) = conn.worker.pick(service).and_then(|index| service.servers.get(index)) else {
        return Err(failed(live, ErrorKind::NoServer));
    };
    if !server.addresses.is_empty() {
        return Ok(server);
    }
    if server.host.is_empty() {
        // The Gateway API: the share of a backend that is not there is an error of the configuration.
        live.borrow_mut().fail(End::Complete, ErrorKind::NoServer);
        return Err(own(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n"));
    }
    Err(failed(live, ErrorKind::NameNotResolved))
}

/// The server's answer.
fn answered<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    reply: Response<Incoming>,
    upstream: Box<Upstream<O>>,
    whole: MonoNs,
) -> Reply<O> {
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        switch(conn, live, reply, upstream)
    } else {
        relay(conn, live, service, reply, upstream, whole)
    }
}

/// The request as the server gets it: origin form, HTTP/1.1, its own Host where the client's is not passed.
fn outgoing(
    parts: &mut Parts,
    body: RequestBody,
    server: &Server,
    pass_host: bool,
) -> Result<Request<RequestBody>, ()> {
    let mut request = Request::new(body);
    *request.uri_mut() = target_of(&parts.uri, server)?;
    *request.method_mut() = std::mem::take(&mut parts.method);
    let mut headers = std::mem::take(&mut parts.headers);
    address(&mut headers, server, pass_host)?;
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // hyper would take a GET or HEAD of unknown length for one without a body, and send none.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// The target in origin form, behind the server's prefix.
fn target_of(uri: &Uri, server: &Server) -> Result<Uri, ()> {
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if server.path_prefix.is_empty() {
        return Ok(Uri::from(target));
    }
    PathAndQuery::try_from(format!("{}{}", server.path_prefix, target)).map(Uri::from).map_err(|_| ())
}

/// Makes headers those for this server: as it wants them, with its own Host where the client's is not passed.
fn address(headers: &mut HeaderMap, server: &Server, pass_host: bool) -> Result<(), ()> {
    if let Some(modifier) = &server.request_headers {
        modifier.edit(headers);
    }
    if !pass_host || !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(&server.authority).map_err(|_| ())?);
    }
    Ok(())
}

/// The response on its way to the client.
fn relay<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    live: &Rc<RefCell<Live>>,
    service: &Service,
    reply: Response<Incoming>,
    upstream: Box<Upstream<O>>,
    whole: MonoNs,
) -> Reply<O> {
    conn.exchange_until(whole);
    {
        let mut live = live.borrow_mut();
        if let Some(attempt) = live.attempts.last_mut() {
            attempt.status = reply.status().as_u16();
            upstream.seen.settle(attempt);
        }
    }
    let (mut parts, incoming) = reply.into_parts();
    // RFC 9112, 2.3: the version says what this server speaks, not what the one behind it does.
    parts.version = Version::HTTP_11;
    let empty = incoming.is_end_stream();
    let mut relayed = Relayed {
        incoming,
        upstream: Some(upstream),
        client: Rc::clone(conn),
        live: Rc::clone(live),
        idle_max: service.idle_max,
        idle: service.timeouts.idle,
        broken: None,
    };
    let body = if empty {
        relayed.complete(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        ResponseBody::Own(None)
    } else {
        ResponseBody::Relayed(Box::new(relayed))
    };
    Response::from_parts(parts, body)
}

/// The server speaks another protocol from here on, and so will the client once it has the 101.
fn switch<O: SocketObserver>(
    conn: &ClientConn<O>,
    live: &Rc<RefCell<Live>>,
    mut reply: Response<Incoming>,
    upstream: Box<Upstream<O>>,
) -> Reply<O> {
    let as_asked = {
        let mut live = live.borrow_mut();
        let as_asked = live.upgrade.as_ref().is_some_and(|asked| headers::switches_to(reply.headers(), asked));
        if let Some(attempt) = live.attempts.last_mut() {
            attempt.status = reply.status().as_u16();
            upstream.seen.settle(attempt);
        }
        as_asked
    };
    upstream.seen.release();
    let Some((server, early)) = upstream.into_tunnel().filter(|_| as_asked) else {
        return failed(live, attempt::note_failure(live, ErrorKind::UpstreamProtocol));
    };
    conn.exchange_until(MonoNs::UNKNOWN);
    conn.switch(Switched { server, early, live: Rc::clone(live) });
    // RFC 9110, 8.6: a 101 has none.
    reply.headers_mut().remove(CONTENT_LENGTH);
    reply.map(|_| ResponseBody::Own(None))
}

/// A server that broke off because the client's body did is not to blame.
fn fault_of<O: SocketObserver>(conn: &ClientConn<O>, live: &RefCell<Live>, error: ErrorKind) -> ErrorKind {
    let is_broken = matches!(error, ErrorKind::UpstreamClosed | ErrorKind::UpstreamReset);
    let Some(fault) = conn.upload_fault().filter(|_| is_broken) else { return error };
    if let Some(attempt) = live.borrow_mut().attempts.last_mut() {
        attempt.error = fault;
    }
    fault
}

/// A response of our own in place of the server's.
fn failed<O: SocketObserver>(live: &RefCell<Live>, error: ErrorKind) -> Reply<O> {
    let (status, text) = match error {
        ErrorKind::NoServer => (StatusCode::SERVICE_UNAVAILABLE, "no available server\n"),
        ErrorKind::TooManyConnections => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable\n"),
        ErrorKind::ConnectTimeout | ErrorKind::ResponseTimeout => (StatusCode::GATEWAY_TIMEOUT, "Gateway Timeout\n"),
        ErrorKind::BadRequest | ErrorKind::ClientGone => (StatusCode::BAD_REQUEST, BAD_REQUEST),
        _ => (StatusCode::BAD_GATEWAY, "Bad Gateway\n"),
    };
    let mut live = live.borrow_mut();
    live.relay(Relay::Idle, MonoNs::now());
    let end = match error {
        ErrorKind::BadRequest => End::Refused,
        ErrorKind::ClientGone => End::ClientGone,
        _ => End::Complete,
    };
    live.fail(end, error);
    own(status, text)
}

const NOT_FOUND: &str = "404 page not found\n";
const MISDIRECTED: &str = "Misdirected Request\n";
const BAD_REQUEST: &str = "Bad Request\n";

fn own<O: SocketObserver>(status: StatusCode, text: &'static str) -> Reply<O> {
    let mut reply = Response::new(ResponseBody::Own(Some(Bytes::from_static(text.as_bytes()))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// What a middleware answers.
fn ours<O: SocketObserver>(answer: Answer) -> Reply<O> {
    let Answer { status, headers, body } = answer;
    let mut reply = Response::new(ResponseBody::Own((!body.is_empty()).then_some(body)));
    (*reply.status_mut(), *reply.headers_mut()) = (status, headers);
    reply
}

fn capture(headers: &HeaderMap, names: &[Box<str>], into: &mut Vec<(u16, HeaderValue)>) {
    for (index, name) in names.iter().enumerate() {
        let Ok(index) = u16::try_from(index) else { return };
        into.extend(headers.get_all(&**name).iter().map(|value| (index, value.clone())));
    }
}
