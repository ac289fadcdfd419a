//! What becomes of answers on their way to a client's socket: the stamps of their first and last bytes, and their end.

use std::os::fd::AsFd;

use super::{ClientConn, after};
use crate::clock::MonoNs;
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

    /// What is written from now on is of another answer, but for what TLS may have left of the one before. Its request was read then.
    pub(crate) fn tell_of_answer(&self, asked: MonoNs) {
        self.worker.observer.answers(self.token, self.written_bytes.get());
        self.worker.observer.under_way(self.token, asked);
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

    /// The socket takes nothing more for now.
    pub(super) fn blocked(&self) {
        let lives = self.lives.borrow();
        if let Some(live) = lives.front() {
            let mut live = live.borrow_mut();
            if live.responded {
                live.relay(Relay::ClientDrain, MonoNs::now());
            }
        }
    }

    /// The socket has taken everything that hyper had for it.
    pub(super) fn flushed(&self) {
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
                self.worker.leave(&live, self.stream.borrow().as_fd());
            }
            self.worker.recycle(live);
            self.previous_written.set(at);
            self.previous_write.set(self.last_write.get());
            self.exchange_until(MonoNs::UNKNOWN);
            if self.lives.borrow().is_empty() {
                if self.begun.get().is_none() && self.heads.borrow().is_empty() {
                    self.deadline.set(after(at, self.limits.idle_timeout));
                }
                if self.refusal.borrow().is_some()
                    && let Some(waker) = self.waker.borrow().as_ref()
                {
                    waker.wake_by_ref();
                }
            }
        }
    }
}
