//! What a relay decides about each packet: pure, the time is an argument. Knows connections by their ports and requests
//! by the path that they begin with, so that everything it does to a packet goes to the right request's account.

use std::collections::HashMap;

use super::packet::{Segment, request_id, segment};
use super::plan::{Act, How, Link, Running, Way, Which, mixed};

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it on at that time at the earliest, and tell then what it was.
    Pass(u64, Passage),
    /// Lose it.
    Lose,
}

/// What has to be known of a packet when it is handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passage {
    flow: Key,
    /// Whose it was when it came: what a sender repeats may be handed on when the next request has begun.
    request: Option<u64>,
    /// It was held by that injection, since then.
    held: Option<(usize, u64)>,
    /// It is a request's first.
    begins: Option<u64>,
    /// It is a connection's first.
    opens: bool,
    which: Option<Which>,
    /// It is a response's segment whose acknowledgement is waited for, by that injection, and ends before that byte.
    answers: Option<(usize, u32)>,
    /// It says that all before that byte has come.
    acknowledges: Option<u32>,
    /// Only the receiver's kernel sees it.
    is_bare: bool,
    /// It is a response's first, from a backend; its request was here at that time.
    responds: Option<u64>,
}

impl Passage {
    /// Only kernels see it, and nothing was done to it: the time that counts is when its receiver's has worked on it.
    pub(super) fn is_for_kernels(&self) -> bool {
        self.is_bare && self.held.is_none()
    }
}

/// A response that was handed on and is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct Unacknowledged {
    injection: usize,
    request: Option<u64>,
    end: u32,
    since_ns: u64,
}

/// Ports of who connects and who listens.
type Key = (u16, u16);

/// The connections of one relay.
#[derive(Debug)]
pub(super) struct Flows {
    link: Link,
    flows: HashMap<Key, Flow>,
    connections: u64,
}

#[derive(Debug, Default)]
struct Flow {
    number: u64,
    syn: u32,
    request: Option<u64>,
    /// What was done before the first request was known: injection, from, to.
    before: Vec<(usize, u64, u64)>,
    handshaken: bool,
    /// When the first SYN was about to be handed on, and when the ACK that ended the handshake had been.
    shaking: Option<(u64, u64)>,
    /// When the request's first segment came, and when it was about to be handed on.
    came_ns: Option<u64>,
    begun_ns: Option<u64>,
    /// The repeated SYN-ACK was held by that injection, and handed on then.
    repeated: Option<(usize, u64)>,
    /// So long after that the handshake had ended.
    ended_after: Option<(usize, u64)>,
    unacknowledged: Option<Unacknowledged>,
    ways: [Direction; 2],
}

#[derive(Debug, Default)]
struct Direction {
    /// Sequence number after the newest payload.
    newest: Option<u32>,
    /// Segments with payload of this request or response.
    segments: u32,
    packets: u64,
    released_ns: u64,
    /// Lost segments by sequence number: injection, since when.
    lost: HashMap<u32, (usize, u64)>,
}

impl Flows {
    pub(super) fn new(link: Link) -> Self {
        Self { link, flows: HashMap::new(), connections: 0 }
    }

    /// Forgets all connections.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
    }

    /// Decides about a packet.
    pub(super) fn judge(&mut self, running: Option<&Running>, way: Way, packet: &[u8], now_ns: u64) -> Verdict {
        let Some((running, segment)) = running.zip(segment(packet)) else {
            return Verdict::Pass(now_ns, Passage::default());
        };
        let key = match way {
            Way::Out => (segment.from_port, segment.to_port),
            Way::Back => (segment.to_port, segment.from_port),
        };
        // A connection may be older than the row.
        let begins = segment.syn && !segment.ack && self.flows.get(&key).is_none_or(|flow| flow.syn != segment.seq);
        if begins || (way == Way::Out && !self.flows.contains_key(&key)) {
            let flow = Flow { number: self.connections, syn: segment.seq, ..Flow::default() };
            self.connections += 1;
            self.flows.insert(key, flow);
        }
        let Some(flow) = self.flows.get_mut(&key) else { return Verdict::Pass(now_ns, Passage::default()) };
        flow.judge(running, self.link, way, &segment, packet.len(), now_ns, key)
    }

    /// A packet is handed on now.
    pub(super) fn passed(&mut self, running: Option<&Running>, passage: &Passage, now_ns: u64) {
        let Some(running) = running else { return };
        if let Some(request) = passage.begins {
            running.ledger.deliver(request, now_ns);
        }
        let Some(flow) = self.flows.get_mut(&passage.flow) else { return };
        if passage.opens {
            flow.shaking = Some((now_ns, now_ns));
        }
        if passage.begins.is_some() {
            flow.begun_ns = Some(now_ns);
        }
        if let Some((injection, from_ns)) = passage.held {
            flow.account(running, passage.request, injection, from_ns, now_ns);
            flow.repeated = (passage.which == Some(Which::HandshakeAgain)).then_some((injection, now_ns));
        }
        if passage.which == Some(Which::FinalAck) {
            flow.ended_after = flow.repeated.take().map(|(injection, at_ns)| (injection, now_ns - at_ns));
        }
        if let Some((injection, end)) = passage.answers {
            let request = passage.request;
            flow.unacknowledged = Some(Unacknowledged { injection, request, end, since_ns: now_ns });
        }
        let came = |waiting: &Unacknowledged| {
            passage.acknowledges.is_some_and(|next| next.wrapping_sub(waiting.end) < 1 << 31)
        };
        // How long the other end, and this relay, took to acknowledge it is known, disturbed or not.
        if let Some(waiting) = flow.unacknowledged.filter(came)
            && let Some(request) = waiting.request
        {
            flow.unacknowledged = None;
            running.ledger.unsure(request, waiting.injection, 0, now_ns.saturating_sub(waiting.since_ns));
        }
    }

    /// A packet has been handed on by now: its receiver had it in between. So much of a request has been seen here: what lies
    /// between its packets took no longer.
    pub(super) fn handed_on(&mut self, running: Option<&Running>, passage: &Passage, now_ns: u64) {
        let Some((running, flow)) = running.zip(self.flows.get_mut(&passage.flow)) else { return };
        if passage.which == Some(Which::FinalAck)
            && let Some((_, to_ns)) = &mut flow.shaking
        {
            *to_ns = now_ns;
        }
        let Some(request) = passage.request else { return };
        if let Some(came_ns) = passage.responds {
            running.ledger.away(request, came_ns, now_ns);
        }
        for (index, injection) in running.row.injections.iter().enumerate() {
            let How::Wire(its_link, _, which, _) = injection.how else { continue };
            let seen =
                if which.is_of_handshake() { flow.shaking } else { flow.begun_ns.map(|from_ns| (from_ns, now_ns)) };
            if let Some((from_ns, to_ns)) = seen.filter(|_| its_link == self.link) {
                running.ledger.saw(request, index, from_ns, to_ns);
            }
        }
    }
}

impl Flow {
    #[expect(clippy::too_many_arguments, reason = "one packet's circumstances, each used once")]
    fn judge(
        &mut self,
        running: &Running,
        link: Link,
        way: Way,
        segment: &Segment<'_>,
        length: usize,
        now_ns: u64,
        flow: Key,
    ) -> Verdict {
        let begins = (way == Way::Out).then(|| self.begins(running, segment)).flatten();
        if begins.is_some() {
            self.came_ns = Some(now_ns);
        }
        let mut which = self.which(way, segment);
        let direction = of(&mut self.ways, way);
        direction.packets += 1;
        let mut answers = answered(running, link, way, which);
        if let Some((injection, from_ns)) = direction.lost.remove(&segment.seq) {
            answers = (link == Link::Client && way == Way::Back && !segment.syn).then_some(injection);
            self.account(running, None, injection, from_ns, now_ns);
            which = segment.syn.then_some(Which::HandshakeAgain);
        } else if segment.syn && direction.packets > 1 {
            which = None;
        }
        let direction = of(&mut self.ways, way);
        let mut release_ns = now_ns.max(direction.released_ns);
        let mut held = None;
        for (index, injection) in running.row.injections.iter().enumerate() {
            let How::Wire(its_link, its_way, wanted, act) = injection.how else { continue };
            let hit = its_link == link && its_way == way && (wanted == Which::All || Some(wanted) == which);
            let number = if wanted.is_of_handshake() { Some(self.number) } else { self.request };
            let delay = number.filter(|_| hit).and_then(|number| running.delay(index, number));
            let Some(delay) = delay else { continue };
            let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(0);
            match act {
                Act::Lose => {
                    direction.lost.insert(segment.seq, (index, now_ns));
                    return Verdict::Lose;
                }
                Act::Hold => release_ns = release_ns.max(now_ns + delay_ns),
                Act::Jitter => {
                    let random = mixed(self.number ^ (direction.packets << 32) ^ u64::from(segment.seq));
                    release_ns = release_ns.max(now_ns + random % (delay_ns + 1));
                }
                Act::Rate(per_second) => {
                    let bytes = u64::try_from(length).unwrap_or(0);
                    release_ns += bytes * 1_000_000_000 / per_second.max(1);
                }
            }
            // What is sent again, or only acknowledges, holds nothing back that was not here yet.
            if wanted != Which::All || which.is_some() {
                held = Some((index, now_ns));
            }
        }
        direction.released_ns = release_ns;
        let opens = segment.syn && !segment.ack && self.shaking.is_none();
        Verdict::Pass(
            release_ns,
            Passage {
                flow,
                request: self.request,
                held,
                begins,
                opens,
                which,
                answers: answers.map(|index| (index, segment.end())),
                acknowledges: (link == Link::Client && way == Way::Out && segment.ack).then_some(segment.next),
                is_bare: way == Way::Out && segment.payload.is_empty() && !segment.syn,
                responds: self
                    .came_ns
                    .filter(|_| link == Link::Backend && way == Way::Back && which == Some(Which::Data(0))),
            },
        )
    }

    /// The request that begins with that segment: what was done before is done to it.
    fn begins(&mut self, running: &Running, segment: &Segment<'_>) -> Option<u64> {
        let request = request_id(segment.payload).filter(|request| self.request != Some(*request))?;
        self.request = Some(request);
        for (injection, from_ns, to_ns) in std::mem::take(&mut self.before) {
            running.ledger.add(request, injection, true, from_ns, to_ns);
        }
        if let Some((injection, after_ns)) = self.ended_after.take() {
            running.ledger.unsure(request, injection, 0, after_ns);
        }
        for direction in &mut self.ways {
            direction.segments = 0;
        }
        Some(request)
    }

    /// What kind of packet that is; nothing for one that was sent again, or says nothing new.
    fn which(&mut self, way: Way, segment: &Segment<'_>) -> Option<Which> {
        if segment.syn {
            return Some(Which::Handshake);
        }
        if segment.payload.is_empty() {
            return (way == Way::Out && !std::mem::replace(&mut self.handshaken, true)).then_some(Which::FinalAck);
        }
        self.handshaken = true;
        let direction = of(&mut self.ways, way);
        let end = segment.end();
        // Sequence numbers wrap: newer is less than half of them ahead.
        let is_new = direction.newest.is_none_or(|newest| end != newest && end.wrapping_sub(newest) < 1 << 31);
        if !is_new {
            return None;
        }
        direction.newest = Some(end);
        direction.segments += 1;
        Some(Which::Data(direction.segments - 1))
    }

    fn account(&mut self, running: &Running, whose: Option<u64>, injection: usize, from_ns: u64, to_ns: u64) {
        match whose.or(self.request) {
            Some(request) => running.ledger.add(request, injection, true, from_ns, to_ns),
            None => self.before.push((injection, from_ns, to_ns)),
        }
    }
}

fn of(ways: &mut [Direction; 2], way: Way) -> &mut Direction {
    let [out, back] = ways;
    if way == Way::Out { out } else { back }
}

/// The injection that a response's segment is meant for, chosen or not: it counts until it is acknowledged.
fn answered(running: &Running, link: Link, way: Way, which: Option<Which>) -> Option<usize> {
    let is_meant = |how| match how {
        How::Wire(Link::Client, Way::Back, wanted @ Which::Data(_), Act::Hold | Act::Lose) => Some(wanted) == which,
        _ => false,
    };
    if link != Link::Client || way != Way::Back {
        return None;
    }
    running.row.injections.iter().position(|injection| is_meant(injection.how))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::ledger::{Ledger, Truth};
    use super::super::plan::{Agent, Coverage, Injection, Place, Row, Shape};
    use super::*;

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn row(how: How, delay_us: u64) -> Row {
        let injection =
            Injection { how, delay_us: (delay_us, delay_us), places: vec![Place::Phase("upstream_wait")], share: 100 };
        Row {
            name: "a row".to_owned(),
            injected: "",
            agent: Agent::Watching,
            shape: Shape::SMALL,
            injections: vec![injection],
            coverage: Coverage::Full,
            percent: 100,
        }
    }

    /// A relay and its clock.
    struct World {
        flows: Flows,
        running: Running,
    }

    impl World {
        fn new(how: How, delay_us: u64) -> Self {
            let running =
                Running { row: row(how, delay_us), seed: 1, ledger: Ledger::default(), response: OnceLock::new() };
            let link = if let How::Wire(link, ..) = how { link } else { Link::Backend };
            Self { flows: Flows::new(link), running }
        }

        /// Sends a packet at that microsecond; when it is handed on, if it is.
        fn send(&mut self, way: Way, flags: u8, seq: u8, payload: &[u8], at_us: u64) -> Option<u64> {
            self.send_acknowledging(way, flags, seq, 0, payload, at_us)
        }

        fn send_acknowledging(
            &mut self,
            way: Way,
            flags: u8,
            seq: u8,
            next: u8,
            payload: &[u8],
            at_us: u64,
        ) -> Option<u64> {
            let mut bytes = Self::packet(way, flags, seq, payload);
            bytes[31] = next;
            match self.flows.judge(Some(&self.running), way, &bytes, at_us * 1000) {
                Verdict::Lose => None,
                Verdict::Pass(at_ns, passage) => {
                    self.flows.passed(Some(&self.running), &passage, at_ns);
                    self.flows.handed_on(Some(&self.running), &passage, at_ns + 3);
                    Some(at_ns / 1000)
                }
            }
        }

        fn packet(way: Way, flags: u8, seq: u8, payload: &[u8]) -> Vec<u8> {
            let (from, to) = if way == Way::Out { ([0x9c, 0x40], [0, 80]) } else { ([0, 80], [0x9c, 0x40]) };
            let length = u8::try_from(40 + payload.len()).unwrap();
            let mut bytes = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            bytes.extend(from);
            bytes.extend(to);
            bytes.extend([0, 0, 0, seq, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
            bytes.extend(payload);
            bytes
        }

        fn handshake(&mut self) {
            assert_eq!(self.send(Way::Out, SYN, 1, b"", 10), Some(10));
            assert_eq!(self.send(Way::Back, SYN | ACK, 1, b"", 20), Some(20));
            assert_eq!(self.send(Way::Out, ACK, 2, b"", 30), Some(30));
        }

        fn truth(&self, request: u64) -> Truth {
            self.running.ledger.of(request, 0).truth()
        }
    }

    const REQUEST: &[u8] = b"GET /r/5 HTTP/1.1\r\n";

    #[test]
    fn a_held_response_delays_what_comes_behind_it_and_is_laid_to_its_request() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::Data(0), Act::Hold), 500);
        world.handshake();
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 100), Some(100));
        assert_eq!(world.running.ledger.delivered(5), Some(100_000));
        assert_eq!(world.send(Way::Back, ACK, 2, b"response", 200), Some(700));
        assert_eq!(world.send(Way::Back, ACK, 10, b"more", 300), Some(700));
        assert_eq!(world.truth(5), Truth { least_ns: 500_000, most_ns: 500_000, stretches: 1 });
    }

    #[test]
    fn a_request_is_away_from_when_it_came_until_its_response_was_handed_on() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Out, Which::Data(0), Act::Hold), 500);
        world.handshake();
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 100), Some(600));
        assert_eq!(world.running.ledger.away_ns(5), 0, "it is still away");
        world.send(Way::Back, ACK, 2, b"response", 900);
        world.send(Way::Back, ACK, 10, b"more", 2_000);
        assert_eq!(world.running.ledger.away_ns(5), 800_003);
    }

    #[test]
    fn what_lies_between_packets_took_no_longer_than_was_seen_here() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::Handshake, Act::Hold), 0);
        world.handshake();
        assert_eq!(world.running.ledger.seen(5, 0), 0, "nobody's yet");
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        // From the SYN to the ACK, whatever comes later.
        assert_eq!(world.running.ledger.seen(5, 0), 20_003);
        world.send(Way::Back, ACK, 2, b"response", 90_000);
        assert_eq!(world.running.ledger.seen(5, 0), 20_003);

        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::Data(0), Act::Hold), 0);
        world.handshake();
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        world.send(Way::Back, ACK, 2, b"response", 90_000);
        assert_eq!(world.running.ledger.seen(5, 0), 89_900_003);
        world.send(Way::Out, ACK, 21, b"GET /r/6 HTTP/1.1\r\n", 95_000);
        world.send(Way::Back, ACK, 10, b"response", 95_500);
        assert_eq!((world.running.ledger.seen(5, 0), world.running.ledger.seen(6, 0)), (89_900_003, 500_003));
    }

    #[test]
    fn a_lost_syn_delays_the_request_that_comes_over_the_connection() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Out, Which::Handshake, Act::Lose), 1);
        assert_eq!(world.send(Way::Out, SYN, 1, b"", 10), None);
        assert_eq!(world.send(Way::Out, SYN, 1, b"", 1_010), Some(1_010));
        assert_eq!(world.send(Way::Back, SYN | ACK, 1, b"", 1_020), Some(1_020));
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 1_100), Some(1_100));
        assert_eq!(world.truth(5).least_ns, 1_000_000);
    }

    #[test]
    fn a_segment_is_lost_once_and_the_next_request_counts_anew() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Out, Which::Data(0), Act::Lose), 1);
        world.handshake();
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 100), None);
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 300), Some(300));
        assert_eq!(world.send(Way::Out, ACK, 21, b"GET /r/6 HTTP/1.1\r\n", 400), None);
        assert_eq!(world.send(Way::Out, ACK, 21, b"GET /r/6 HTTP/1.1\r\n", 450), Some(450));
        assert_eq!((world.truth(5).least_ns, world.truth(6).least_ns), (200_000, 50_000));
    }

    #[test]
    fn a_rate_spaces_packets_and_its_stretches_join() {
        let rate = Act::Rate(1_000_000);
        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::All, rate), 1);
        world.handshake();
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        assert_eq!(world.send(Way::Back, ACK, 2, &[0; 60], 200), Some(300));
        assert_eq!(world.send(Way::Back, ACK, 62, &[0; 60], 210), Some(400));
        assert_eq!(world.truth(5), Truth { least_ns: 200_000, most_ns: 200_000, stretches: 1 });
    }

    #[test]
    fn what_is_repeated_and_held_into_the_next_request_is_not_laid_to_that() {
        let how = How::Wire(Link::Backend, Way::Back, Which::All, Act::Rate(1_000_000));
        let mut world = World::new(how, 1);
        world.handshake();
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        let passage = {
            let repeated = World::packet(Way::Back, ACK, 2, &[0; 60]);
            let Verdict::Pass(_, passage) = world.flows.judge(Some(&world.running), Way::Back, &repeated, 150_000)
            else {
                panic!("lost")
            };
            passage
        };
        world.send(Way::Out, ACK, 21, b"GET /r/6 HTTP/1.1\r\n", 200);
        world.flows.passed(Some(&world.running), &passage, 300_000);
        assert_eq!((world.truth(5).least_ns, world.truth(6).least_ns), (150_000, 0));
    }

    #[test]
    fn what_is_sent_again_takes_its_time_and_holds_nothing_back_that_was_not_here_yet() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::All, Act::Rate(1_000_000)), 1);
        world.handshake();
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        assert_eq!(world.send(Way::Back, ACK, 2, &[0; 60], 200), Some(300));
        assert_eq!(world.send(Way::Back, ACK, 2, &[0; 60], 300), Some(400));
        assert_eq!(world.truth(5).least_ns, 100_000);
    }

    #[test]
    fn a_repeated_handshake_ends_with_its_last_ack() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Back, Which::HandshakeAgain, Act::Hold), 500);
        let losing = Injection {
            how: How::Wire(Link::Backend, Way::Back, Which::Handshake, Act::Lose),
            ..world.running.row.injections[0].clone()
        };
        world.running.row.injections.push(losing);
        world.send(Way::Out, SYN, 1, b"", 10);
        assert_eq!(world.send(Way::Back, SYN | ACK, 1, b"", 20), None);
        assert_eq!(world.send(Way::Back, SYN | ACK, 1, b"", 1_000), Some(1_500));
        world.send(Way::Out, ACK, 2, b"", 1_530);
        world.send(Way::Out, ACK, 2, REQUEST, 1_600);
        assert_eq!(world.truth(5), Truth { least_ns: 500_000, most_ns: 530_000, stretches: 1 });
    }

    #[test]
    fn the_ack_that_ends_a_handshake_holds_the_request_back_too() {
        let mut world = World::new(How::Wire(Link::Backend, Way::Out, Which::FinalAck, Act::Hold), 500);
        world.send(Way::Out, SYN, 1, b"", 10);
        world.send(Way::Back, SYN | ACK, 1, b"", 20);
        assert_eq!(world.send(Way::Out, ACK, 2, b"", 30), Some(530));
        assert_eq!(world.send(Way::Out, ACK, 2, REQUEST, 40), Some(530));
        assert_eq!(world.truth(5).least_ns, 500_000);
    }

    #[test]
    fn a_response_that_is_late_or_lost_counts_until_it_is_acknowledged_and_so_does_an_undisturbed_one() {
        for act in [Act::Hold, Act::Lose] {
            let mut world = World::new(How::Wire(Link::Client, Way::Back, Which::Data(0), act), 500);
            world.handshake();
            world.send(Way::Out, ACK, 2, REQUEST, 100);
            let first = world.send(Way::Back, ACK, 2, b"response", 200);
            if act == Act::Lose {
                assert_eq!((first, world.send(Way::Back, ACK, 2, b"response", 700)), (None, Some(700)));
            }
            // An older one, and then its own.
            world.send_acknowledging(Way::Out, ACK, 21, 9, b"", 710);
            world.send_acknowledging(Way::Out, ACK, 21, 10, b"", 730);
            world.send_acknowledging(Way::Out, ACK, 21, 10, b"", 790);
            assert_eq!(world.truth(5), Truth { least_ns: 500_000, most_ns: 530_000, stretches: 1 }, "{act:?}");
        }
        let mut world = World::new(How::Wire(Link::Client, Way::Back, Which::Data(0), Act::Hold), 500);
        world.running.row.injections[0].share = 0;
        world.handshake();
        world.send(Way::Out, ACK, 2, REQUEST, 100);
        assert_eq!(world.send(Way::Back, ACK, 2, b"response", 200), Some(200));
        world.send_acknowledging(Way::Out, ACK, 21, 10, b"GET /r/6 HTTP/1.1\r\n", 240);
        assert!(!world.running.ledger.of(5, 0).disturbed);
        assert_eq!(world.truth(5), Truth { least_ns: 0, most_ns: 40_000, stretches: 0 });
    }
}
