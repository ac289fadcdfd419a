//! A worker's idle connections to servers: which of them a request gets, how long they stay, and that one which idles for a
//! while holds no buffers. What a connection is, and how it is used, is the parent's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Seen, Upstream};
use crate::cap::{Freed, Place};
use crate::clock::MonoNs;
use crate::observer::SocketObserver;

/// Sweeps that an idle connection keeps hyper's state for: about a second, as a client's. Thousands of servers that are asked
/// now and then would else hold tens of megabytes until their connections have idled for long enough.
const WHOLE_SWEEPS: u8 = 4;

/// Idle connections of one worker, by server. Last in, first out: the warmest is used, the rest age out.
pub(crate) struct Pool<O: SocketObserver> {
    worker: u16,
    idle: RefCell<HashMap<u32, Vec<Idle<O>>>>,
    /// For requests that waited under a cap, by their turn.
    handed: RefCell<HashMap<u64, Idle<O>>>,
}

/// A connection that nobody uses.
struct Idle<O: SocketObserver> {
    state: State<O>,
    /// When it is dropped; unknown: never.
    until: MonoNs,
    /// How many are kept beside it.
    max: usize,
    /// Since it idles.
    sweeps: u8,
}

enum State<O: SocketObserver> {
    Whole(Box<Upstream<O>>),
    /// Without hyper's state and its buffers.
    Folded {
        seen: Rc<Seen<O>>,
        server: u32,
        opened: MonoNs,
    },
}

impl<O: SocketObserver> Pool<O> {
    pub(crate) fn new(worker: u16) -> Self {
        Self { worker, idle: RefCell::default(), handed: RefCell::default() }
    }

    /// A connection that is alive as far as this side can know.
    pub(crate) async fn take(&self, server: u32) -> Option<Box<Upstream<O>>> {
        loop {
            let idle = self.idle.borrow_mut().get_mut(&server)?.pop()?;
            if let Some(place) = idle.place() {
                place.set_idle(false);
            }
            if let Some(alive) = idle.alive().await {
                return Some(alive);
            }
        }
    }

    /// The connection that a request was handed, likewise.
    pub(crate) async fn handed(&self, turn: u64) -> Option<Box<Upstream<O>>> {
        let idle = self.handed.borrow_mut().remove(&turn)?;
        idle.alive().await
    }

    /// Keeps a connection for the next request, at most until then, and no more than `max` of its server.
    pub(crate) fn put(&self, upstream: Box<Upstream<O>>, max: usize, until: MonoNs) {
        self.keep(Idle { state: State::Whole(upstream), until, max, sweeps: 0 });
    }

    fn keep(&self, kept: Idle<O>) {
        if let Some(place) = kept.place() {
            place.set_idle(true);
            match place.cap().freed(self.worker, MonoNs::now()) {
                Freed::Keep => {}
                Freed::Hand(turn) => {
                    place.set_idle(false);
                    self.handed.borrow_mut().insert(turn, kept);
                    return;
                }
                Freed::Close => return,
            }
        }
        let mut idle = self.idle.borrow_mut();
        let others = idle.entry(kept.server()).or_default();
        if others.len() < kept.max {
            others.push(kept);
        }
    }

    /// Takes back what was handed to a request that is gone.
    pub(crate) fn reclaim(&self, turn: u64) {
        let idle = self.handed.borrow_mut().remove(&turn);
        if let Some(idle) = idle {
            self.keep(idle);
        }
    }

    /// Drops one that idles at a server, for its place.
    pub(crate) fn give_up(&self, server: u32) {
        let idle = self.idle.borrow_mut().get_mut(&server).and_then(Vec::pop);
        drop(idle);
    }

    /// Lets idle connections go to those who wait for their places.
    pub(crate) fn shed(&self) {
        let is_wanted = |idle: &mut Idle<O>| idle.place().is_some_and(|place| place.cap().is_waited_for());
        let mut idle = self.idle.borrow_mut();
        let wanted: Vec<_> =
            idle.values_mut().flat_map(|kept| kept.extract_if(.., is_wanted).collect::<Vec<_>>()).collect();
        drop(idle);
        for idle in wanted {
            self.keep(idle);
        }
    }

    /// Drops what has idled for long enough, and what the server has closed; folds what has idled for a while. Gives how
    /// many are left that hold hyper's state.
    pub(crate) fn sweep(&self, now: MonoNs) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let mut whole = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            let left = std::mem::take(kept).into_iter().filter_map(|idle| idle.swept(now, &mut cx));
            *kept = left.collect();
            whole += kept.iter().filter(|idle| matches!(idle.state, State::Whole(_))).count();
            !kept.is_empty()
        });
        whole
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

impl<O: SocketObserver> Idle<O> {
    fn server(&self) -> u32 {
        match &self.state {
            State::Whole(upstream) => upstream.server,
            State::Folded { server, .. } => *server,
        }
    }

    fn place(&self) -> Option<&Place> {
        match &self.state {
            State::Whole(upstream) => upstream.seen.place.as_ref(),
            State::Folded { seen, .. } => seen.place.as_ref(),
        }
    }

    /// The connection, where it can take a request.
    async fn alive(self) -> Option<Box<Upstream<O>>> {
        let mut upstream = match self.state {
            State::Whole(upstream) => upstream,
            // On the heap: most are whole, and all pay for the size of what is not.
            State::Folded { seen, server, opened } => Box::pin(Upstream::over(seen, server, opened)).await.ok()?,
        };
        let alive = poll_fn(|cx| Poll::Ready(upstream.drive(cx))).await;
        (alive && upstream.is_ready()).then_some(upstream)
    }

    /// What a sweep leaves of it.
    fn swept(mut self, now: MonoNs, cx: &mut Context<'_>) -> Option<Self> {
        if self.until.known().is_some_and(|until| until <= now) {
            return None;
        }
        self.sweeps = self.sweeps.saturating_add(1);
        self.state = match self.state {
            State::Folded { seen, server, opened } => {
                seen.is_silent_now().then_some(State::Folded { seen, server, opened })?
            }
            State::Whole(mut upstream) => {
                if !upstream.drive(cx) {
                    return None;
                }
                if self.sweeps > WHOLE_SWEEPS && upstream.is_at_rest() {
                    let (server, opened) = (upstream.server, upstream.opened);
                    State::Folded { seen: upstream.into_socket()?, server, opened }
                } else {
                    State::Whole(upstream)
                }
            }
        };
        Some(self)
    }
}
