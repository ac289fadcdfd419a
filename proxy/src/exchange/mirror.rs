//! Copies of requests for services that mirrors name. A copy goes its own way in a task of the worker's: the request that it
//! is of neither waits for it nor learns how it went.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{Method, Request};
use http_body::Body as _;
use tokio::time::timeout;

use super::{address, target_of};
use crate::body::{Copying, RequestBody};
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::counters::Total;
use crate::framer::Asked;
use crate::live::Live;
use crate::middleware::Mirror;
use crate::observer::SocketObserver;
use crate::snapshot::{Server, Service, Snapshot};
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Of a service that has no time of its own for a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a body that are kept for copies: longer ones are not copied.
const BODY_MAX: usize = 1 << 20;

/// Sends copies of a request: at once where it has no body, else when the server has all of it.
pub(super) fn copy<O: SocketObserver>(
    conn: &ClientConn<O>,
    live: &RefCell<Live>,
    (mirrors, snapshot): (&[&Arc<Mirror>], &Snapshot),
    parts: &Parts,
    body: &mut RequestBody,
) {
    // A copy of what asks for another protocol would hold two servers in one conversation.
    if live.borrow().upgrade.is_some() {
        return;
    }
    let worker = &conn.worker;
    let services = mirrors.iter().filter_map(|mirror| snapshot.services.get(mirror.service));
    let heads: Vec<_> =
        services.filter_map(|service| Some((Arc::clone(service), head(worker, service, parts)?))).collect();
    let worker = Rc::clone(worker);
    let send = move |body: Option<Vec<Bytes>>| {
        for (service, (server, mut head)) in heads {
            let Some(body) = body.clone() else {
                worker.counters.borrow().count(Total::MirrorsLost);
                continue;
            };
            let length: usize = body.iter().map(Bytes::len).sum();
            if length != 0 {
                head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            let request = head.map(|()| RequestBody::kept(body));
            let errand = Box::pin(run(Rc::clone(&worker), service, server, request));
            worker.errand(errand);
        }
    };
    if body.is_end_stream() {
        send(Some(Vec::new()));
    } else {
        body.copy(Copying::new(BODY_MAX, Box::new(send)));
    }
}

/// The head of a copy, for the server whose turn it is.
fn head<O: SocketObserver>(worker: &Worker<O>, service: &Service, parts: &Parts) -> Option<(Arc<Server>, Request<()>)> {
    let server = worker.pick(service).and_then(|index| service.servers.get(index))?;
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target_of(&parts.uri, server).ok()?;
    *request.headers_mut() = parts.headers.clone();
    address(request.headers_mut(), server, service.pass_host).ok()?;
    Some((Arc::clone(server), request))
}

async fn run<O: SocketObserver>(
    worker: Rc<Worker<O>>,
    service: Arc<Service>,
    server: Arc<Server>,
    request: Request<RequestBody>,
) {
    let patience = service.timeouts.request;
    let patience = if patience.is_zero() { PATIENCE } else { patience };
    let total = match timeout(patience, exchange(&worker, &service, &server, request)).await {
        Ok(Some(())) => Total::Mirrored,
        Ok(None) | Err(_) => Total::MirrorsLost,
    };
    worker.counters.borrow().count(total);
}

/// Sends the copy and reads what comes back to its end, so that the connection can serve again.
async fn exchange<O: SocketObserver>(
    worker: &Rc<Worker<O>>,
    service: &Service,
    server: &Server,
    request: Request<RequestBody>,
) -> Option<()> {
    let live = worker.live();
    let mut upstream = match worker.pool.take(server.id).await {
        Some(upstream) => upstream,
        // A cap is for those who wait for an answer: a copy does not take a place from them.
        None if server.cap.is_some() => return None,
        None => Upstream::connect(worker, server.id, *server.addresses.first()?, None).await.ok()?,
    };
    let asked = if request.method() == Method::HEAD { Asked::Head } else { Asked::Other };
    upstream.seen.begin(&live, asked);
    let mut body = {
        let mut answer = pin!(upstream.send.try_send_request(request));
        let driver = &mut upstream.driver;
        let answered = poll_fn(|cx| {
            // Whether the connection has ended shows in the answer.
            let _ended = Pin::new(&mut *driver).poll(cx).is_ready();
            answer.as_mut().poll(cx)
        });
        answered.await.ok()?.into_body()
    };
    let mut alive = true;
    while !body.is_end_stream() {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            alive &= upstream.drive(cx);
            Pin::new(&mut body).poll_frame(cx)
        });
        match frame.await {
            Some(frame) => drop(frame.ok()?),
            None => break,
        }
    }
    let alive = alive && poll_fn(|cx| Poll::Ready(upstream.drive(cx))).await;
    upstream.seen.release();
    worker.recycle(live);
    if alive && upstream.is_ready() {
        worker.pool.put(upstream, service.idle_max, after(MonoNs::now(), service.timeouts.idle));
    }
    Some(())
}
