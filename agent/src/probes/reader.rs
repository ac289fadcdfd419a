//! What connections' slots and trails tell of their bytes, by token and offset. Reads memory and nothing else: who writes it, and
//! which slot a socket gets, is `watch`'s and the programs'.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use abi::{NO_SLOT, ROLE_CLIENT, Tag};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Acknowledged, BackendAsk, BackendMarks, Marks, Missing, Token};

use super::plan::Set;
use super::slots::{Peer, Shared, SharedSlot, SharedTrail};
use crate::merge::late::{Ask, Late, RoundTrip};

/// No connection is as young as this.
const NEVER: u64 = u64::MAX;

/// The slots and trails of all connections, and since when what stands there has no gaps.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(super) slots: Shared<SharedSlot>,
    pub(super) trails: Shared<SharedTrail>,
    /// Said of every range while `sk_data_ready` is off.
    missing: AtomicU16,
    /// By set: since when without a gap, nanoseconds; 0 from the start, [`NEVER`] while it is off.
    since_ns: [AtomicU64; Set::ALL.len()],
    /// A backend's write is noted when it returns, and what it wrote may have been read by then.
    notes_writes_late: AtomicBool,
}

impl Reader {
    /// Every set is off.
    pub(super) fn new(slots: Shared<SharedSlot>, trails: Shared<SharedTrail>) -> Self {
        Self {
            slots,
            trails,
            missing: AtomicU16::new(Missing::OFF.0),
            since_ns: [const { AtomicU64::new(NEVER) }; Set::ALL.len()],
            notes_writes_late: AtomicBool::new(false),
        }
    }

    /// A set has no gap since then, or is off. `missing` is what the core says from now on.
    pub(crate) fn switched(&self, set: Set, since: Option<MonoNs>, missing: Missing) {
        if set == Set::Core {
            self.missing.store(missing.0, Ordering::Relaxed);
        }
        if let Some(cell) = self.since_ns.get(set as usize) {
            cell.store(since.map_or(NEVER, |since| since.0), Ordering::Relaxed);
        }
    }

    /// Whether a backend's writes are noted when they return.
    pub(crate) fn notes_writes_late(&self, late: bool) {
        self.notes_writes_late.store(late, Ordering::Relaxed);
    }

    pub(super) fn is_on(&self, set: Set) -> bool {
        self.since(set).0 != NEVER
    }

    fn since(&self, set: Set) -> MonoNs {
        MonoNs(self.since_ns.get(set as usize).map_or(NEVER, |since| since.load(Ordering::Relaxed)))
    }

    pub(crate) fn missing(&self) -> Missing {
        Missing(self.missing.load(Ordering::Relaxed))
    }

    /// See [`wayspan_proxy::observer::SocketObserver::round_trips_age`]: acknowledgements bring newer ones where they are watched.
    pub(crate) fn round_trips_age(&self) -> bool {
        self.missing() == Missing::NOTHING && !self.is_on(Set::Ack)
    }

    /// See [`wayspan_proxy::observer::SocketObserver::marks`].
    pub(crate) fn marks(&self, token: Token, bytes: &Range<u64>) -> Marks {
        let missing = self.missing();
        if missing != Missing::NOTHING {
            return Marks { missing, ..Marks::default() };
        }
        let Some(slot) = self.slots.get(token.slot) else {
            return Marks { missing: reason(token), ..Marks::default() };
        };
        slot.marks(token.generation, bytes, self.since(Set::Core))
    }

    /// See [`wayspan_proxy::observer::SocketObserver::backend`].
    pub(crate) fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks {
        let (slot, trail, peer) = match self.paired(token) {
            Ok(found) => found,
            Err(missing) => return BackendMarks { missing, ..BackendMarks::default() },
        };
        let sent = trail.sent_at(ask.response_start, self.notes_writes_late.load(Ordering::Relaxed));
        // Where the backend answered before it had read the whole request, it had read its head.
        let mut last = ask.request_end.saturating_sub(1);
        let mut read = trail.taken_at(last);
        if read == Err(Missing::UNSEEN) && ask.head_end < ask.request_end {
            last = ask.head_end.saturating_sub(1);
            read = trail.taken_at(last);
        }
        let readable = slot.readable_at(last);
        let mut missing =
            [readable, read, sent].into_iter().filter_map(Result::err).fold(Missing::NOTHING, Missing::with);
        if slot.was_unaccepted(last) {
            missing = missing.with(Missing::ACCEPT);
        }
        if !slot.is_still(peer.generation) {
            return BackendMarks { missing: Missing::REUSED, ..BackendMarks::default() };
        }
        let (readable, read, sent) = (readable.unwrap_or_default(), read.unwrap_or_default(), sent.unwrap_or_default());
        BackendMarks { readable, read, sent, missing }
    }

    /// The slot of the other end of a token's connection, its trail and its own token, where there is one.
    fn paired(&self, token: Token) -> Result<(&SharedSlot, &SharedTrail, Token), Missing> {
        if self.missing() != Missing::NOTHING {
            return Err(self.missing());
        }
        let slot = self.slots.get(token.slot).ok_or_else(|| reason(token))?;
        let peer = slot.peer();
        let established = slot.established();
        if !slot.is_still(token.generation) {
            return Err(Missing::REUSED);
        }
        if !self.is_on(Set::Backends) {
            return Err(Missing::NOT_SOUGHT);
        }
        if established < self.since(Set::Core).max(self.since(Set::Backends)) {
            return Err(Missing::JOINED_LATE);
        }
        match peer {
            Peer::At { slot, generation } => {
                let found = self.slots.get(slot).zip(self.trails.get(slot));
                found.map(|(peer, trail)| (peer, trail, Token { generation, slot })).ok_or(Missing::REUSED)
            }
            Peer::NoSlot => Err(Missing::NO_SLOT),
            Peer::Elsewhere => Err(Missing::ELSEWHERE),
            Peer::NotSought => Err(Missing::JOINED_LATE),
        }
    }

    /// See [`wayspan_proxy::observer::SocketObserver::answers`].
    pub(crate) fn answers(&self, token: Token, start: u64) {
        if let Some(trail) = self.written(token) {
            trail.message_starts(start);
        }
    }

    /// See [`wayspan_proxy::observer::SocketObserver::under_way`].
    pub(crate) fn under_way(&self, token: Token, since: MonoNs) {
        if let Some(trail) = self.written(token) {
            trail.nothing_before(since);
        }
    }

    /// What is told of the bytes written to a connection, while acknowledgements are watched.
    fn written(&self, token: Token) -> Option<&SharedTrail> {
        let (slot, trail) = self.own(token).filter(|_| self.is_on(Set::Ack))?;
        slot.is_still(token.generation).then_some(trail)
    }

    /// See [`wayspan_proxy::observer::SocketObserver::acknowledged`].
    pub(crate) fn acknowledged(&self, token: Token, last: u64, ended: MonoNs) -> Acknowledged {
        if ended < self.since(Set::Ack) {
            return Acknowledged::default();
        }
        let Some((slot, trail)) = self.own(token) else { return Acknowledged::default() };
        let at = trail.taken_at(last).unwrap_or_default();
        let left = trail.held_until(last, ended).unwrap_or_default();
        if slot.is_still(token.generation) { Acknowledged { at, left } } else { Acknowledged::default() }
    }

    /// See [`crate::merge::late::Facts::late`].
    pub(crate) fn late(&self, ask: &Ask) -> Late {
        let mut late = self.late_of_client(ask);
        // While the core is off nobody keeps them.
        let is_kept = self.missing() == Missing::NOTHING;
        if !is_kept {
            late.client_rtt = RoundTrip::default();
        }
        if let Some((slot, trail)) = self.own(ask.upstream) {
            let (resent, stalled_ns) = (trail.resent(&ask.request), trail.stalled_ns(&ask.request, ask.requesting));
            let round_trip = slot.round_trip();
            if slot.is_still(ask.upstream.generation) {
                (late.upstream_resent, late.upstream_stalled_ns) = (resent, stalled_ns);
                late.upstream_rtt = if is_kept { round_trip } else { RoundTrip::default() };
            }
        }
        if let Ok((slot, trail, peer)) = self.paired(ask.upstream) {
            let resent = trail.resent(&ask.answer);
            late.backend_resent = if slot.is_still(peer.generation) { resent } else { 0 };
        }
        late
    }

    fn late_of_client(&self, ask: &Ask) -> Late {
        let Some((slot, trail)) = self.own(ask.client) else {
            return self.unacknowledged(ask, reason(ask.client));
        };
        let handshake = slot.handshake();
        let mut late = Late {
            handshake_rtt_us: handshake.rtt_us,
            client_rtt: slot.round_trip(),
            client_resent: trail.resent(&ask.response),
            client_stalled_ns: trail.stalled_ns(&ask.response, ask.responding),
            ..Late::default()
        };
        if let (Some(from), Some(to)) = (handshake.synack_resent.known(), handshake.established.known()) {
            late.handshake_resent_ns = to.since(from);
        }
        let last = ask.response.end.saturating_sub(1);
        if ask.response.is_empty() || !self.is_on(Set::Ack) {
            // There is no acknowledgement, or nobody looks.
        } else if ask.responding < self.since(Set::Ack) {
            // What was acknowledged while it was written, before anybody looked, was missed: the first to be seen is another's.
            late.ack_missing = Missing::JOINED_LATE;
        } else {
            match trail.taken_at(last) {
                Ok(at) => late.acked = at,
                // What has left the ring, the next request's record has.
                Err(missing) => (late.ack_missing, late.may_come) = (missing, true),
            }
            late.left = trail.held_until(last, ask.ended).unwrap_or_default();
        }
        if slot.is_still(ask.client.generation) { late } else { self.unacknowledged(ask, Missing::REUSED) }
    }

    /// Nothing is known of the client's side, and nothing will be.
    fn unacknowledged(&self, ask: &Ask, missing: Missing) -> Late {
        let is_watched = self.is_on(Set::Ack) && !ask.response.is_empty();
        Late { ack_missing: if is_watched { missing } else { Missing::NOTHING }, ..Late::default() }
    }

    /// A token's slot and trail.
    fn own(&self, token: Token) -> Option<(&SharedSlot, &SharedTrail)> {
        self.slots.get(token.slot).zip(self.trails.get(token.slot))
    }
}

/// What an accepted socket's tag says of its slot. `None`: it has none.
pub(crate) fn token_of(tag: Option<Tag>) -> Token {
    match tag {
        Some(tag) if tag.role == ROLE_CLIENT && tag.slot == NO_SLOT => no_slot(Missing::NO_SLOT),
        Some(tag) if tag.role == ROLE_CLIENT => Token { generation: tag.generation, slot: tag.slot },
        _ => no_slot(Missing::JOINED_LATE),
    }
}

/// A token that names no slot, and why: `marks` says so.
pub(crate) fn no_slot(reason: Missing) -> Token {
    if reason == Missing::NO_SLOT { Token::NONE } else { Token { generation: u64::from(reason.0), ..Token::NONE } }
}

/// What [`no_slot`] put into a token.
fn reason(token: Token) -> Missing {
    match u16::try_from(token.generation) {
        Ok(bits) if bits != 0 => Missing(bits),
        _ => Missing::NO_SLOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::slots::Kernel;

    #[test]
    fn round_trips_grow_old_where_data_alone_is_watched() {
        for (sets, age) in [(&[][..], false), (&[Set::Core], true), (&[Set::Core, Set::Ack], false)] {
            let mut kernel = Kernel::new(1, 0);
            for set in sets {
                kernel.switch(*set, true, MonoNs(1));
            }
            assert_eq!(kernel.reader.round_trips_age(), age, "{sets:?}");
        }
    }

    #[test]
    fn a_token_without_a_slot_says_why() {
        for missing in [Missing::NO_SLOT, Missing::JOINED_LATE, Missing::UNAVAILABLE] {
            let token = no_slot(missing);
            assert_eq!((token.slot, reason(token)), (Token::NONE.slot, missing));
        }
        assert_eq!(no_slot(Missing::NO_SLOT), Token::NONE);
    }
}
