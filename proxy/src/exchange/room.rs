//! Room for a request at a server: a pooled connection, or leave to open one. Under a cap on connections it may have to be
//! waited for.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::attempt::sooner;
use crate::cap::{Cap, Place, SLICE};
use crate::client::{ClientConn, after};
use crate::clock::MonoNs;
use crate::observer::SocketObserver;
use crate::record::ErrorKind;
use crate::snapshot::{Server, Service};
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Where a request can go.
pub(super) enum Room<O: SocketObserver> {
    /// Over this connection.
    Pooled(Box<Upstream<O>>),
    /// Over a new one, under its cap where there is one.
    New(Option<Place>),
}

/// Finds room. A request that must not go over a used connection asks for `fresh`.
///
/// # Errors
/// There was none for too long.
pub(super) async fn room<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    service: &Service,
    server: &Server,
    fresh: bool,
    whole: MonoNs,
) -> Result<Room<O>, ErrorKind> {
    let worker = &conn.worker;
    if !fresh && let Some(upstream) = worker.pool.take(server.id).await {
        return Ok(Room::Pooled(upstream));
    }
    let Some(cap) = &server.cap else { return Ok(Room::New(None)) };
    if fresh {
        // Where all are open, an idle one makes room.
        worker.pool.give_up(server.id);
    }
    match cap.enter(worker.id) {
        Some(place) => Ok(Room::New(Some(place))),
        // On the heap: few wait, and all pay for the size of what is not.
        None => Box::pin(wait(conn, service, cap, fresh, whole)).await,
    }
}

/// Waits for its turn, for as long as connecting may take.
async fn wait<O: SocketObserver>(
    conn: &Rc<ClientConn<O>>,
    service: &Service,
    cap: &Arc<Cap>,
    fresh: bool,
    whole: MonoNs,
) -> Result<Room<O>, ErrorKind> {
    let worker = &conn.worker;
    let since = MonoNs::now();
    conn.exchange_until(sooner(after(since, service.timeouts.connect), whole));
    let mut turn = Turn::take(worker, cap, since);
    loop {
        // Others may keep idle what this request could use; the longer it waits, the rather they give it up.
        if cap.has_idle() {
            worker.process.summon(worker.id);
        }
        let mut older = pin!(tokio::time::sleep(SLICE));
        let given = poll_fn(|cx| {
            if conn.exchange_expired() {
                return Poll::Ready(Err(()));
            }
            if let Some(given) = cap.poll(worker.id, turn.id, cx.waker()) {
                return Poll::Ready(Ok(Some(given)));
            }
            older.as_mut().poll(cx).map(|()| Ok(None))
        });
        match given.await {
            Ok(None) => {}
            Ok(Some(Ok(place))) => {
                turn.is_over = true;
                return Ok(Room::New(Some(place)));
            }
            Ok(Some(Err(_))) => {
                turn.is_over = true;
                let handed = worker.pool.handed(turn.id).await;
                if let Some(upstream) = handed.filter(|_| !fresh) {
                    return Ok(Room::Pooled(upstream));
                }
                // Closed meanwhile by the server, or of no use: its place is free now.
                if let Some(place) = cap.enter(worker.id) {
                    return Ok(Room::New(Some(place)));
                }
                turn = Turn::take(worker, cap, since);
            }
            Err(()) => {
                let is_whole = whole.known().is_some_and(|whole| whole <= MonoNs::now());
                return Err(if is_whole { ErrorKind::ResponseTimeout } else { ErrorKind::TooManyConnections });
            }
        }
    }
}

/// A place in the queue. Who leaves it gives on what it was given.
struct Turn<'w, O: SocketObserver> {
    worker: &'w Rc<Worker<O>>,
    cap: &'w Arc<Cap>,
    id: u64,
    is_over: bool,
}

impl<'w, O: SocketObserver> Turn<'w, O> {
    fn take(worker: &'w Rc<Worker<O>>, cap: &'w Arc<Cap>, since: MonoNs) -> Self {
        Self { worker, cap, id: cap.queue(worker.id, since), is_over: false }
    }
}

impl<O: SocketObserver> Drop for Turn<'_, O> {
    fn drop(&mut self) {
        if !self.is_over && self.cap.leave(self.worker.id, self.id).is_some() {
            self.worker.pool.reclaim(self.id);
        }
    }
}
