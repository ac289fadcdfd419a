//! What becomes of answers on their way to a client's socket: the stamps of their first and last bytes, and their end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Poll;

use super::{ClientConn, after};
use crate::clock::MonoNs;
use crate::live::Live;
use crate::observer::SocketObserver;
use crate::relay::Relay;

impl<O: SocketObserver> ClientConn<O> {
    /// What is made of an answer now begins behind all that was written, since TLS has nothing left of what was before.
    pub(super) fn answer_begins(&self) {
        for live in self.lives.borrow().iter() {
            let mut live = live.borrow_mut();
            if live.responded && live.head.response_start == 0 {
                live.head.response_start = self.written_bytes.get();
                self.tell_of_answer(live.head.head_read);
            }
        }
    }

    /// What is written now answers a request that never reaches the exchange, unless one is under way there.
    pub(super) fn unserved_begins(&self) {
        if self.unserved.get().is_none() && self.lives.borrow().is_empty() {
            let start = self.written_bytes.get();
            self.unserved.set(Some((start, start)));
            self.tell_of_answer(MonoNs::now());
        }
    }

    /// All of it is with the socket; what follows is a goodbye.
    pub(super) fn unserved_ends(&self) {
        if let Some((start, end)) = self.unserved.get()
            && start == end
        {
            self.unserved.set(Some((start, self.written_bytes.get())));
        }
    }

    /// What is written from now on is of another answer, but for what TLS may have left of the one before. The request was read then.
    pub(crate) fn tell_of_answer(&self, asked: MonoNs) {
        self.worker.observer.answers(self.token, self.written_bytes.get());
        self.worker.observer.under_way(self.token, asked);
    }

    /// Waits until the answers before this request's are with the socket. hyper takes no head sooner, but where the body of the request
    /// before ends behind its answer: TLS takes of that what the socket has no room for, and nobody could tell whose the bytes are
    /// that the socket takes then.
    pub(crate) async fn has_its_turn(&self, live: &Rc<RefCell<Live>>) {
        poll_fn(|cx| {
            if self.lives.borrow().front().is_none_or(|first| Rc::ptr_eq(first, live)) {
                return Poll::Ready(());
            }
            self.keep_waker(cx);
            Poll::Pending
        })
        .await;
        // It may have come while that one was under way.
        live.borrow_mut().head.previous_write = self.previous_write.get();
    }

    /// The socket has taken so many bytes, by a write that began then.
    pub(super) fn wrote(&self, bytes: usize, begun: MonoNs) {
        let at = MonoNs::now();
        self.last_write.set(begun);
        self.last_written.set(at);
        let from = self.written_bytes.get();
        self.written_bytes.set(from + u64::try_from(bytes).unwrap_or(0));
        for live in self.lives.borrow().iter() {
            let mut live = live.borrow_mut();
            // Of TLS they may be what was left of an answer before: its handshake has had the offset 0.
            if live.responded
                && live.head.head_written.0 == 0
                && (self.secured.get().is_none() || live.head.response_start != 0)
            {
                live.head.head_written = at;
                if self.secured.get().is_none() {
                    live.head.response_start = from;
                }
            }
            if live.relay_state() == Relay::ClientDrain {
                live.relay(Relay::ProxyResponse, at);
            }
        }
    }

    /// The socket has taken so many bytes of a tunnel.
    pub(super) fn carried(&self, bytes: usize) {
        self.written_bytes.set(self.written_bytes.get() + u64::try_from(bytes).unwrap_or(0));
    }

    /// The socket takes nothing more for now.
    pub(super) fn blocked(&self) {
        let lives = self.lives.borrow();
        if let Some(live) = lives.front() {
            let mut live = live.borrow_mut();
            // Of a tunnel nobody can say who waits for whom.
            if live.responded && !self.framer.borrow().is_tunnel() {
                live.blocked(Relay::ClientDrain);
            }
        }
    }

    /// Bytes of the client's were read.
    pub(super) fn heard(&self) {
        self.written_when_read.set(self.written_bytes.get());
    }

    /// A request has ended, and its record goes up.
    pub(super) fn leave(&self, live: &Live) {
        let unheard_bytes = self.written_bytes.get().saturating_sub(self.written_when_read.get());
        self.worker.leave(live, self.stream.borrow().as_fd(), unheard_bytes);
    }

    /// The socket has taken everything that hyper had for it.
    pub(super) fn flushed(&self) {
        self.unserved_ends();
        loop {
            let live = {
                let mut lives = self.lives.borrow_mut();
                match lives.front() {
                    Some(live) if live.borrow().body_done => lives.pop_front(),
                    _ => None,
                }
            };
            let Some(live) = live else { return };
            let at = self.last_written.get();
            {
                let mut live = live.borrow_mut();
                live.end(at, self.written_bytes.get());
                self.leave(&live);
            }
            self.worker.recycle(live);
            self.previous_written.set(at);
            self.previous_write.set(self.last_write.get());
            self.exchange_until(MonoNs::UNKNOWN);
            if !self.lives.borrow().is_empty() {
                self.wake();
            } else {
                if self.begun.get().is_none() && self.heads.borrow().is_empty() {
                    self.deadline.set(after(at, self.limits.idle_timeout));
                }
                if self.refusal.borrow().is_some() {
                    self.wake();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::task::{Context, Wake, Waker};

    use arc_swap::ArcSwap;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::counters::{Bounds, Counters, OpenConnections};
    use crate::fold::Unfolded;
    use crate::observer::{Missing, Off};
    use crate::record::{Head, Record};
    use crate::ring::{RING_BYTES, RecordReader, ring};
    use crate::route::RouteTable;
    use crate::sampling::Policy;
    use crate::snapshot::{EntryPoint, Limits, Snapshot};
    use crate::worker::{Process, Worker};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A connection as it was accepted, and what its requests leave.
    async fn accepted() -> (Rc<ClientConn<Off>>, RecordReader) {
        let process = Process {
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            policy: Arc::new(ArcSwap::from_pointee(Policy::ratio(1.0))),
            hostname: None,
            connections: AtomicU64::new(0),
            open: OpenConnections::default(),
            stopping: AtomicBool::new(false),
            drain_until: AtomicU64::new(0),
            summons: Box::default(),
        };
        let (writer, reader) = ring(0, RING_BYTES);
        let counters = Counters::new(Bounds::default()).worker();
        let worker = Worker::new(0, Off(Missing::OFF), Arc::new(process), writer, counters, Unfolded::new(1, || true));
        let entry_point = EntryPoint {
            id: 1,
            name: "web".into(),
            addresses: Vec::new(),
            limits: Limits::default(),
            trusted: Vec::new(),
            trust_all: false,
            sanitize_path: true,
            traced: true,
            metered: true,
            routes: Arc::new(RouteTable::default()),
            tls: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        (ClientConn::accept(&worker, &entry_point, stream, peer, 1).unwrap(), reader)
    }

    #[test]
    fn an_answer_waits_until_those_before_it_are_with_the_socket_and_has_bytes_of_its_own() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (conn, mut reader) = accepted().await;
            let [first, second] = [(); 2].map(|()| conn.worker.live());
            conn.begin(&first);
            first.borrow_mut().responded = true;
            conn.wrote(10, MonoNs(1));
            // hyper has all of it, and takes the next head, where the request's body ends before the socket has taken all.
            first.borrow_mut().body_done = true;
            conn.begin(&second);
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut cx = Context::from_waker(&waker);
            let mut turn = pin!(conn.has_its_turn(&second));
            assert!(turn.as_mut().poll(&mut cx).is_pending());
            conn.wrote(5, MonoNs(2));
            conn.flushed();
            assert!(woken.0.load(Ordering::Relaxed), "it is its turn");
            assert!(turn.as_mut().poll(&mut cx).is_ready());
            assert_eq!(second.borrow().head.previous_write, MonoNs(2));
            second.borrow_mut().responded = true;
            conn.wrote(7, MonoNs(3));
            second.borrow_mut().body_done = true;
            conn.flushed();
            let mut scratch = Vec::new();
            for response in [0..15, 15..22] {
                let Head { response_start, response_end, .. } =
                    Record::decode(reader.next(&mut scratch).unwrap()).unwrap().head;
                assert_eq!(response_start..response_end, response);
            }
        });
    }
}
