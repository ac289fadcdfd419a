//! One request under way: how far its script has come on either side, and what is next. Pure.

use std::collections::VecDeque;

use super::book::{Stamps, Unread};
use super::script::{Part, Script, When};

/// Whose turn something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client = 0,
    Backend = 1,
}

/// What can be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing, until something comes.
    Nothing,
    /// Something, at that time.
    At(u64),
    /// This is written.
    Write(Part),
    /// The client goes away.
    Leave,
    /// The backend ends the connection unanswered.
    End,
}

/// A request that was begun.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) lane: usize,
    /// The backend's connection that it has come over.
    pub(super) server: Option<usize>,
    pub(super) script: Script,
    parts: VecDeque<Part>,
    answer: VecDeque<Part>,
    /// Bytes that the client has begun to send: all, and those of its body.
    pub(super) sent: usize,
    sent_payload: u64,
    /// Bytes of the body that the backend has read.
    heard: u64,
    asked: bool,
    whole: bool,
    told: bool,
    /// The backend has begun to write the final response, and so much of its body.
    is_final: bool,
    answered_payload: u64,
    /// Bytes of its body that the client has read.
    taken: u64,
    pub(super) begun: bool,
    pub(super) done: bool,
    /// It came over a connection that has answered before, and may end unanswered.
    may_end: bool,
    /// By side: when a pause ends; 0: none has begun.
    due: [u64; 2],
    /// What is under way from either side.
    up: Pieces,
    down: Pieces,
}

/// Pieces under way: when they were written, and the payload behind them.
#[derive(Debug, Default)]
struct Pieces(VecDeque<(u64, u64)>);

impl Pieces {
    /// One was written.
    fn push(&mut self, at: u64, payload: u64) {
        self.0.push_back((at, payload));
    }

    /// The other end has read so much payload.
    fn came(&mut self, payload: u64, at: u64, unread: &mut Unread) {
        while let Some((from, _)) = self.0.pop_front_if(|(_, end)| *end <= payload) {
            unread.add(from, at);
        }
    }

    /// It has read all.
    fn all_came(&mut self, at: u64, unread: &mut Unread) {
        self.came(u64::MAX, at, unread);
    }

    /// Of what has not come through nobody knows when it was read.
    fn leave(&self, unread: &mut Unread) {
        if !self.0.is_empty() {
            unread.leave_open();
        }
    }
}

impl Exchange {
    pub(super) fn new(lane: usize, mut script: Script) -> Self {
        let (parts, answer) = (std::mem::take(&mut script.parts).into(), std::mem::take(&mut script.answer).into());
        Self {
            lane,
            server: None,
            script,
            parts,
            answer,
            sent: 0,
            sent_payload: 0,
            heard: 0,
            asked: false,
            whole: false,
            told: false,
            is_final: false,
            answered_payload: 0,
            taken: 0,
            begun: false,
            done: false,
            may_end: false,
            due: [0; 2],
            up: Pieces::default(),
            down: Pieces::default(),
        }
    }

    /// Whether the client has nothing more to do with it.
    pub(super) fn is_over(&self) -> bool {
        self.done && self.parts.is_empty()
    }

    /// What is next on a side. `before` is the request before it on the client's connection.
    pub(super) fn next(&mut self, side: Side, now: u64, before: Stamps) -> Next {
        let queue = if side == Side::Client { &self.parts } else { &self.answer };
        let (when, pause_us, then) = match (side, queue.front(), self.script.leaves, self.script.unanswered) {
            (Side::Backend, _, _, Some((_, pause_us))) if self.may_end => (When::Whole, pause_us, Next::End),
            (_, Some(part), ..) => (part.when, part.pause_us, Next::Nothing),
            (Side::Client, None, Some((when, pause_us)), _) => (when, pause_us, Next::Leave),
            _ => return Next::Nothing,
        };
        if !self.is_time(when, before) || (side == Side::Backend && self.server.is_none()) {
            return Next::Nothing;
        }
        let [client, backend] = &mut self.due;
        let due = if side == Side::Client { client } else { backend };
        if *due == 0 {
            *due = now + pause_us * 1000;
        }
        if *due > now {
            return Next::At(*due);
        }
        *due = 0;
        match then {
            Next::Nothing => {
                let queue = if side == Side::Client { &mut self.parts } else { &mut self.answer };
                queue.pop_front().map_or(Next::Nothing, Next::Write)
            }
            Next::Leave => {
                self.script.leaves = None;
                Next::Leave
            }
            other => other,
        }
    }

    fn is_time(&self, when: When, before: Stamps) -> bool {
        match when {
            When::Now => true,
            When::Heard => self.asked && self.heard >= self.sent_payload,
            When::Alone => before.whole_read > 0,
            When::Told => self.told,
            When::Begun => self.taken > 0,
            When::Answered => self.done,
            When::Asked => self.asked,
            When::Half => self.asked && self.heard >= self.script.half,
            When::Whole => self.whole,
            When::Taken => self.begun && self.taken >= self.answered_payload,
        }
    }

    /// The client is about to write a part; where in it the head ends, if it does.
    pub(super) fn sends(&mut self, part: &Part) -> Option<usize> {
        let from = self.sent;
        self.sent += part.bytes.len();
        self.sent_payload += part.payload;
        let head = self.script.head_bytes;
        (from < head && head <= self.sent).then(|| head - 1 - from)
    }

    /// Whether all of the request is on its way.
    pub(super) fn is_sent(&self) -> bool {
        self.parts.is_empty() && self.sent_payload == self.script.upload
    }

    /// The payload behind what the client is about to write. Behind its last piece there may be what has none: that one ends
    /// with the request.
    pub(super) fn sent_payload(&self) -> u64 {
        if self.is_sent() { u64::MAX } else { self.sent_payload }
    }

    /// A piece of the request was written.
    pub(super) fn piece_sent(&mut self, at: u64, payload: u64) {
        self.up.push(at, payload);
    }

    /// The backend is about to write a part; where in it the final response goes on, and the payload behind it. The last
    /// piece ends with the answer.
    pub(super) fn answers(&mut self, part: &Part) -> Option<(usize, u64)> {
        self.answered_payload += part.payload;
        let goes_on = self.is_final.then_some(0);
        self.is_final |= part.final_at.is_some();
        let payload = if self.is_answered() { u64::MAX } else { self.answered_payload };
        Some((part.final_at.or(goes_on)?, payload))
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answer.is_empty()
    }

    /// A piece of the answer was written.
    pub(super) fn piece_answered(&mut self, at: u64, payload: u64) {
        self.down.push(at, payload);
    }

    /// The backend has read the head, over that connection. Only one that has answered before may end unanswered, and only
    /// once.
    pub(super) fn asked(&mut self, server: usize, is_used: bool) {
        self.may_end = self.script.unanswered.is_some() && is_used && !self.asked;
        (self.server, self.asked, self.heard, self.whole) = (Some(server), true, 0, false);
    }

    /// The backend has read so much of the body.
    pub(super) fn heard(&mut self, payload: u64, at: u64, stamps: &mut Stamps) {
        self.heard = payload;
        if stamps.answering == 0 {
            stamps.heard = at;
        }
        self.up.came(payload, at, &mut stamps.up);
    }

    /// The backend has read all.
    pub(super) fn whole(&mut self, at: u64, stamps: &mut Stamps) {
        self.whole = true;
        self.up.all_came(at, &mut stamps.up);
    }

    /// The client was told to go on.
    pub(super) fn told(&mut self) {
        self.told = true;
    }

    /// Whether the client has read all that was written of the answer's body.
    pub(super) fn is_complete(&self) -> bool {
        self.is_answered() && self.taken == self.answered_payload
    }

    /// The client has read so much of the answer's body.
    pub(super) fn taken(&mut self, payload: u64, at: u64, stamps: &mut Stamps) {
        self.taken = payload;
        self.down.came(payload, at, &mut stamps.down);
    }

    /// The client has read all of the answer.
    pub(super) fn done(&mut self, at: u64, stamps: &mut Stamps) {
        self.done = true;
        self.down.all_came(at, &mut stamps.down);
    }

    /// The backend has ended the connection unanswered.
    pub(super) fn ended_unanswered(&mut self) {
        (self.server, self.may_end) = (None, false);
    }

    /// It is given up.
    pub(super) fn leave(&self, stamps: &mut Stamps) {
        self.up.leave(&mut stamps.up);
        self.down.leave(&mut stamps.down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joins::book::Id;
    use crate::joins::mixed::script::{Dice, Kind};

    /// Plays a script by itself: whatever is written has come at once. What was done, in words.
    fn play(kind: Kind, id: Id) -> Vec<String> {
        let script = Script::new(kind, id, &mut Dice::new(1, id));
        let mut exchange = Exchange::new(0, script);
        let (mut done, mut now, mut stamps) = (Vec::new(), 1, Stamps::default());
        let before = Stamps { whole_read: 1, ..Stamps::default() };
        loop {
            let mut later = u64::MAX;
            let mut moved = false;
            for side in [Side::Client, Side::Backend] {
                match exchange.next(side, now, before) {
                    Next::Nothing => continue,
                    Next::At(at) => later = later.min(at),
                    Next::Leave => {
                        done.push("leave".to_owned());
                        return done;
                    }
                    Next::End => {
                        exchange.ended_unanswered();
                        done.push("end".to_owned());
                        exchange.asked(2, true);
                        exchange.whole(now, &mut stamps);
                        moved = true;
                    }
                    Next::Write(part) if side == Side::Client => {
                        let head = exchange.sends(&part).is_some();
                        exchange.piece_sent(now, exchange.sent_payload());
                        if head {
                            exchange.asked(1, true);
                            exchange.told();
                        }
                        if exchange.sent >= exchange.script.head_bytes {
                            exchange.heard(exchange.sent_payload, now, &mut stamps);
                        }
                        if exchange.is_sent() {
                            exchange.whole(now, &mut stamps);
                        }
                        done.push("send".to_owned());
                        moved = true;
                    }
                    Next::Write(part) => {
                        if exchange.answers(&part).is_some() {
                            exchange.begun = true;
                            exchange.taken(exchange.answered_payload, now, &mut stamps);
                        }
                        if exchange.is_answered() {
                            exchange.done(now, &mut stamps);
                        }
                        done.push("answer".to_owned());
                        moved = true;
                    }
                }
            }
            if !moved && later == u64::MAX {
                assert!(exchange.is_over(), "{kind:?} {id}: stuck behind {done:?}: {exchange:?}");
                return done;
            }
            if !moved {
                now = later;
            }
        }
    }

    #[test]
    fn every_script_comes_to_its_end() {
        for id in 1..3_000 {
            let kind = Dice::new(1, id).kind();
            let done = play(kind, id);
            let last = done.last().map(String::as_str);
            match kind {
                Kind::Cancelled => assert_eq!(last, Some("leave")),
                Kind::Early => {}
                _ => assert_eq!(last, Some("answer"), "{kind:?} {id}: {done:?}"),
            }
            assert_eq!(done.contains(&"end".to_owned()), kind == Kind::Retried, "{kind:?}");
        }
        for kind in [Kind::Behind, Kind::BurstBehind] {
            assert_eq!(play(kind, 7).iter().filter(|what| *what == "answer").count(), 1);
        }
    }
}
