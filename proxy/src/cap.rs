//! A cap on connections to one server, in all workers together, and the queue of those who wait for one. Who holds a place
//! holds a connection; whose connection becomes free learns here who gets it. A connection cannot change its worker: it is
//! handed to a request of its own worker, or closed so that another's can open one.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::clock::MonoNs;

/// By how much longer another worker's request must have waited for a connection to be closed for it. To close and open one
/// costs more than most waits, and every closed one keeps its port for a minute; nobody waits so much longer than others.
pub(crate) const SLICE: Duration = Duration::from_millis(5);

/// The cap, and who is under it. Locked by those who open, close or wait; a connection that is used again needs no lock.
#[derive(Debug)]
pub struct Cap {
    max: usize,
    /// Requests that wait: their number is bounded by the clients' connections.
    waiting: AtomicUsize,
    /// Connections that nobody uses.
    idle: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// Connections by worker.
    held: HashMap<u16, usize>,
    /// By worker, the oldest first.
    queues: BTreeMap<u16, BTreeMap<u64, Waiter>>,
    /// What was given to whom has not come to take it.
    granted: HashMap<u64, Grant>,
}

#[derive(Debug)]
struct Waiter {
    since: MonoNs,
    waker: Waker,
}

/// What a waiting request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// A place: it may connect.
    Place,
    /// A connection, which its worker keeps for it.
    Handed,
}

/// What becomes of a connection that nobody uses any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freed {
    /// It waits for the next request.
    Keep,
    /// It goes to this one.
    Hand(u64),
    /// It closes, for a request of another worker.
    Close,
}

/// A place under a cap; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    cap: Arc<Cap>,
    worker: u16,
    idle: AtomicBool,
}

/// Order of arrival, over all caps.
static ARRIVALS: AtomicU64 = AtomicU64::new(1);

impl Cap {
    /// So many connections at once.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let (waiting, idle) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { max, waiting, idle, state: Mutex::default() })
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, where one is free. While somebody waits none is: it goes to who has waited longest.
    pub(crate) fn enter(self: &Arc<Self>, worker: u16) -> Option<Place> {
        let mut state = self.state();
        let free = state.open < self.max;
        if free {
            state.open += 1;
            *state.held.entry(worker).or_default() += 1;
        }
        drop(state);
        free.then(|| self.place(worker))
    }

    fn place(self: &Arc<Self>, worker: u16) -> Place {
        Place { cap: Arc::clone(self), worker, idle: AtomicBool::new(false) }
    }

    /// Takes a turn behind those who wait already.
    pub(crate) fn queue(&self, worker: u16, since: MonoNs) -> u64 {
        let id = ARRIVALS.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { since, waker: Waker::noop().clone() };
        let mut state = self.state();
        state.queues.entry(worker).or_default().insert(id, waiter);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // A place may have come free since it was asked for.
        let woken = self.grant(&mut state);
        drop(state);
        wake(woken);
        id
    }

    /// What the request was given, if it was given something.
    pub(crate) fn poll(self: &Arc<Self>, worker: u16, id: u64, waker: &Waker) -> Option<Result<Place, Grant>> {
        let mut state = self.state();
        match state.granted.remove(&id) {
            Some(Grant::Place) => Some(Ok(self.place(worker))),
            Some(handed) => Some(Err(handed)),
            None => {
                if let Some(waiter) = state.queues.get_mut(&worker).and_then(|queue| queue.get_mut(&id)) {
                    waiter.waker.clone_from(waker);
                }
                None
            }
        }
    }

    /// Gives up waiting; what it was given meanwhile, if anything. A place is given back.
    pub(crate) fn leave(self: &Arc<Self>, worker: u16, id: u64) -> Option<Grant> {
        let mut state = self.state();
        if state.queues.get_mut(&worker).is_some_and(|queue| queue.remove(&id).is_some()) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let granted = state.granted.remove(&id);
        drop(state);
        if granted == Some(Grant::Place) {
            drop(self.place(worker));
        }
        granted
    }

    /// Whether there are idle connections, which others could close.
    pub(crate) fn has_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst) > 0
    }

    /// Whether anybody waits.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Who gets a connection of that worker's.
    pub(crate) fn freed(&self, worker: u16, now: MonoNs) -> Freed {
        // Whoever begins to wait looks for idle connections behind this look: one of both sees the other.
        if !self.is_waited_for() {
            return Freed::Keep;
        }
        let mut state = self.state();
        let first = |queue: &BTreeMap<u64, Waiter>| queue.first_key_value().map(|(id, waiter)| (*id, waiter.since));
        let own = state.queues.get(&worker).and_then(first);
        let others = state.queues.iter().filter(|(other, _)| **other != worker);
        let other = others.filter_map(|(other, queue)| Some((*other, first(queue)?))).min_by_key(|(_, (id, _))| *id);
        let freed = match (own, other) {
            (None, None) => Freed::Keep,
            (None, Some((other, (_, since)))) => {
                // Who has connections of its own may get one of those in a moment.
                let has_none = state.held.get(&other).is_none_or(|held| *held == 0);
                if has_none || since + SLICE <= now { Freed::Close } else { Freed::Keep }
            }
            (Some((_, own)), Some((_, (_, other)))) if other + SLICE <= own => Freed::Close,
            (Some((id, _)), _) => Freed::Hand(id),
        };
        let mut woken = None;
        if let Freed::Hand(id) = freed {
            woken = state.queues.get_mut(&worker).and_then(|queue| queue.remove(&id));
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            state.granted.insert(id, Grant::Handed);
        }
        drop(state);
        wake(woken);
        freed
    }

    /// Gives free places to those who have waited longest.
    fn grant(&self, state: &mut State) -> Option<Waiter> {
        if state.open >= self.max {
            return None;
        }
        let firsts = state.queues.iter().filter_map(|(worker, queue)| Some((*queue.first_key_value()?.0, *worker)));
        let (id, worker) = firsts.min()?;
        let waiter = state.queues.get_mut(&worker)?.remove(&id)?;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        state.open += 1;
        *state.held.entry(worker).or_default() += 1;
        state.granted.insert(id, Grant::Place);
        Some(waiter)
    }
}

fn wake(waiter: Option<Waiter>) {
    if let Some(waiter) = waiter {
        waiter.waker.wake();
    }
}

impl Place {
    pub(crate) fn cap(&self) -> &Arc<Cap> {
        &self.cap
    }

    /// Says whether somebody uses the connection.
    pub(crate) fn set_idle(&self, idle: bool) {
        if self.idle.swap(idle, Ordering::Relaxed) != idle {
            if idle {
                self.cap.idle.fetch_add(1, Ordering::SeqCst)
            } else {
                self.cap.idle.fetch_sub(1, Ordering::SeqCst)
            };
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_idle(false);
        let mut state = self.cap.state();
        state.open = state.open.saturating_sub(1);
        if let Some(held) = state.held.get_mut(&self.worker) {
            *held = held.saturating_sub(1);
        }
        let woken = self.cap.grant(&mut state);
        drop(state);
        wake(woken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn polled(cap: &Arc<Cap>, worker: u16, id: u64) -> Option<Result<Place, Grant>> {
        cap.poll(worker, id, Waker::noop())
    }

    #[test]
    fn places_come_back_and_go_to_who_has_waited_longest() {
        let cap = Cap::new(2);
        let (first, second) = (cap.enter(0).unwrap(), cap.enter(1).unwrap());
        assert!(cap.enter(0).is_none());
        let waiting = [cap.queue(0, MonoNs(1)), cap.queue(1, MonoNs(2)), cap.queue(0, MonoNs(3))];
        assert!(polled(&cap, 0, waiting[0]).is_none());
        drop(first);
        let third = polled(&cap, 0, waiting[0]).unwrap().unwrap();
        assert!(polled(&cap, 0, waiting[2]).is_none() && cap.enter(1).is_none());
        drop(second);
        drop(polled(&cap, 1, waiting[1]).unwrap().unwrap());
        drop(polled(&cap, 0, waiting[2]).unwrap().unwrap());
        drop(third);
        assert!(!cap.is_waited_for());
        let state = cap.state();
        assert_eq!((state.open, state.granted.len()), (0, 0));
    }

    #[test]
    fn who_leaves_gives_its_turn_or_its_place_on() {
        let cap = Cap::new(1);
        let place = cap.enter(0).unwrap();
        let waiting = [cap.queue(0, MonoNs(1)), cap.queue(1, MonoNs(2)), cap.queue(0, MonoNs(3))];
        assert_eq!(cap.leave(0, waiting[0]), None);
        drop(place);
        // It was granted, and its client left before it came to take it.
        assert_eq!(cap.leave(1, waiting[1]), Some(Grant::Place));
        assert!(polled(&cap, 0, waiting[2]).unwrap().is_ok());
        assert_eq!(cap.leave(0, waiting[2]), None);
        assert_eq!(cap.state().open, 0);
    }

    #[test]
    fn a_free_connection_goes_to_its_own_worker_unless_others_wait_much_longer() {
        // (own waits since, other's since, other holds connections), now 100 ms
        for (own, other, holds, want) in [
            (None, None, false, "keep"),
            (Some(99), None, false, "hand"),
            (None, Some(99), false, "close"),
            (None, Some(99), true, "keep"),
            (None, Some(95), true, "close"),
            (Some(99), Some(98), false, "hand"),
            (Some(98), Some(99), false, "hand"),
            (Some(99), Some(94), true, "close"),
            (Some(99), Some(95), true, "hand"),
        ] {
            let cap = Cap::new(if holds { 2 } else { 1 });
            let place = cap.enter(0).unwrap();
            let of_other = holds.then(|| cap.enter(1).unwrap());
            let since = |ms: u64| MonoNs(ms * MS);
            let mut ids = Vec::new();
            for (ms, worker) in [(own, 0), (other, 1)] {
                ids.extend(ms.map(|ms| (ms, cap.queue(worker, since(ms)))));
            }
            place.set_idle(true);
            let freed = cap.freed(0, since(100));
            let told = match freed {
                Freed::Keep => "keep",
                Freed::Hand(id) => {
                    assert_eq!(polled(&cap, 0, id).unwrap().unwrap_err(), Grant::Handed);
                    "hand"
                }
                Freed::Close => "close",
            };
            assert_eq!(told, want, "{own:?} {other:?} {holds}");
            drop((place, of_other));
        }
    }

    #[test]
    fn idle_connections_are_counted_while_they_are_idle() {
        let cap = Cap::new(1);
        let place = cap.enter(0).unwrap();
        assert!(!cap.has_idle());
        place.set_idle(true);
        place.set_idle(true);
        assert!(cap.has_idle());
        place.set_idle(false);
        assert!(!cap.has_idle());
        place.set_idle(true);
        drop(place);
        assert!(!cap.has_idle());
    }

    /// Threads that come, wait, leave and go in every order: never more than the cap, and all places come back.
    #[test]
    fn the_cap_holds_under_threads() {
        let cap = Cap::new(3);
        let open = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4_u16 {
                let (cap, open) = (&cap, &open);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(u64::from(worker));
                    for _ in 0..2000 {
                        let place = cap.enter(worker).or_else(|| {
                            let id = cap.queue(worker, MonoNs(1));
                            for _ in 0..random.usize(0..200) {
                                if let Some(place) = polled(cap, worker, id) {
                                    return place.ok();
                                }
                                std::hint::spin_loop();
                            }
                            cap.leave(worker, id);
                            None
                        });
                        if let Some(place) = place {
                            assert!(open.fetch_add(1, Ordering::SeqCst) < 3, "more than the cap");
                            std::hint::spin_loop();
                            open.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                        }
                    }
                });
            }
        });
        let state = cap.state();
        assert_eq!((state.open, state.granted.len(), cap.is_waited_for()), (0, 0, false));
        assert!(state.queues.values().all(BTreeMap::is_empty));
    }
}
