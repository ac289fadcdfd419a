//! Records that may still learn something: held back, copied, for 0.4 s at most, while the others pass. A state
//! machine without clock, IO or thread: whoever drives it says what came and what time it is, and takes out what is due.
//! What there is to learn is `late`'s.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Acknowledged, Missing, Token};
use wayspan_proxy::record::{Previous, Record};

use super::late::{Ask, Facts, Late};

/// When a record that is held is asked for again, after it came. A client on this node acknowledges within the first, one
/// that delays its acknowledgement within the third (40 ms on Linux), and by the last a response of one segment that was lost
/// has been sent again (RTO_MIN, 200 ms) and acknowledged.
const ASKED_AFTER: [Duration; 6] = [
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(45),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Records; each takes some 200 bytes beside its own.
    pub records: usize,
    /// Bytes of all records together.
    pub bytes: usize,
}

impl Default for Caps {
    /// 20,000 records a second of ordinary size that all wait to the end.
    fn default() -> Self {
        Self { records: 8192, bytes: 8 * 1024 * 1024 }
    }
}

/// What became of records that had something to learn. `held` is the sum of the next three and of those that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Held back.
    pub held: u64,
    /// Then knew all that can be known.
    pub in_time: u64,
    /// Waited in vain.
    pub in_vain: u64,
    /// Let go at the end with what was known.
    pub cut_short: u64,
    /// Passed on at once, for too many waited.
    pub over_records: u64,
    /// Passed on at once, for those that waited were too long.
    pub over_bytes: u64,
}

/// The records that wait.
#[derive(Debug)]
pub struct Waiting {
    caps: Caps,
    /// By how often they were asked for. They all wait equally long for their next time, so each queue is in its order.
    queues: [VecDeque<Held>; ASKED_AFTER.len()],
    /// Of those that wait, what the next request's record on their connection says. By connection and the response's end.
    told: HashMap<(Token, u64), Acknowledged>,
    settled: VecDeque<Settled>,
    records: usize,
    bytes: usize,
    counts: Counts,
}

#[derive(Debug)]
struct Held {
    came: MonoNs,
    ask: Ask,
    bytes: Box<[u8]>,
}

/// A record that waits no longer.
#[derive(Debug)]
pub struct Settled {
    /// As it came.
    pub bytes: Box<[u8]>,
    /// What was learnt.
    pub late: Late,
}

impl Waiting {
    /// Nothing waits.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        let queues = std::array::from_fn(|_| VecDeque::new());
        let (told, settled) = (HashMap::new(), VecDeque::new());
        Self { caps, queues, told, settled, records: 0, bytes: 0, counts: Counts::default() }
    }

    /// A record came, and these are its bytes. `None` where it is held; else it goes on at once, with this.
    pub fn on_record(&mut self, record: &Record<'_>, bytes: &[u8], now: MonoNs, facts: &impl Facts) -> Option<Late> {
        let head = &record.head;
        let Previous { end, acked, left } = head.previous;
        if acked.0 != 0
            && let Some(told) = self.told.get_mut(&(head.token, end))
        {
            *told = Acknowledged { at: acked, left };
        }
        if !head.sampled {
            // Only spans tell of it.
            return Some(Late::default());
        }
        let ask = Ask::of(record);
        let late = facts.late(&ask);
        if !late.may_come || !facts.waits() {
            return Some(late.not_waited_for());
        }
        if self.records >= self.caps.records {
            self.counts.over_records += 1;
            return Some(late.not_waited_for());
        }
        if self.bytes.saturating_add(bytes.len()) > self.caps.bytes {
            self.counts.over_bytes += 1;
            return Some(late.not_waited_for());
        }
        self.counts.held += 1;
        self.records += 1;
        self.bytes += bytes.len();
        self.told.insert(key(&ask), Acknowledged::default());
        let [first, ..] = &mut self.queues;
        first.push_back(Held { came: now, ask, bytes: bytes.into() });
        None
    }

    /// Time has passed: asks for those whose time has come.
    pub fn on_tick(&mut self, now: MonoNs, facts: &impl Facts) {
        // The most asked first: they are the oldest, and go on into queues that are done.
        for asked in (0..ASKED_AFTER.len()).rev() {
            while let Some(held) = self.due(asked, now) {
                let late = self.late(&held.ask, facts);
                let next = (asked + 1..ASKED_AFTER.len()).find(|next| due_at(&held, *next) > now);
                let queue = next.filter(|_| late.may_come).and_then(|next| self.queues.get_mut(next));
                if let Some(queue) = queue {
                    queue.push_back(held);
                    continue;
                }
                let count = if late.may_come { &mut self.counts.in_vain } else { &mut self.counts.in_time };
                *count += 1;
                self.told.remove(&key(&held.ask));
                self.settled.push_back(Settled { bytes: held.bytes, late });
            }
        }
    }

    /// Nobody waits any longer.
    pub fn finish(&mut self, facts: &impl Facts) {
        let held: Vec<Held> = self.queues.iter_mut().rev().flat_map(|queue| queue.drain(..)).collect();
        for held in held {
            self.counts.cut_short += 1;
            let late = self.late(&held.ask, facts).not_waited_for();
            self.settled.push_back(Settled { late, bytes: held.bytes });
        }
        self.told.clear();
    }

    /// Takes out a record that waits no longer.
    pub fn pop(&mut self) -> Option<Settled> {
        let settled = self.settled.pop_front()?;
        self.records -= 1;
        self.bytes -= settled.bytes.len();
        Some(settled)
    }

    /// When [`Waiting::on_tick`] has something to do; nothing while none waits.
    #[must_use]
    pub fn next_tick(&self) -> Option<MonoNs> {
        let queues = self.queues.iter().enumerate();
        queues.filter_map(|(asked, queue)| queue.front().map(|held| due_at(held, asked))).min()
    }

    /// What became of those that had something to learn.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Records that wait, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.records, self.bytes)
    }

    /// What is known by now, by whoever knows it.
    fn late(&self, ask: &Ask, facts: &impl Facts) -> Late {
        let late = facts.late(ask);
        match self.told.get(&key(ask)) {
            Some(told) if late.may_come && told.at.0 != 0 => {
                Late { acked: told.at, ack_missing: Missing::NOTHING, left: told.left, may_come: false, ..late }
            }
            _ => late,
        }
    }

    fn due(&mut self, asked: usize, now: MonoNs) -> Option<Held> {
        self.queues.get_mut(asked)?.pop_front_if(|held| due_at(held, asked) <= now)
    }
}

/// Who the next record on the connection speaks of.
fn key(ask: &Ask) -> (Token, u64) {
    (ask.client, ask.response.end)
}

/// When a record in this queue is asked for.
fn due_at(held: &Held, asked: usize) -> MonoNs {
    ASKED_AFTER.get(asked).map_or(held.came, |after| held.came + *after)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use wayspan_proxy::record::{Head, Texts, encode};

    use super::*;

    const CAME: MonoNs = MonoNs(1_000_000_000);

    /// Acknowledges responses up to this offset.
    struct Client(Cell<u64>);

    impl Facts for Client {
        fn waits(&self) -> bool {
            true
        }
        fn late(&self, ask: &Ask) -> Late {
            let may_come = ask.response.end > self.0.get();
            Late { may_come, acked: if may_come { MonoNs::UNKNOWN } else { CAME }, ..Late::default() }
        }
    }

    fn after(ms: u64) -> MonoNs {
        CAME + Duration::from_millis(ms)
    }

    fn record(sampled: bool, response_end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let head = Head { sampled, response_end, ..Head::default() };
        encode(&mut bytes, &head, &[], &Texts::default(), [], []);
        bytes
    }

    /// Whether a record went on at once, and knew all.
    fn comes(waiting: &mut Waiting, bytes: &[u8], now: MonoNs, client: &Client) -> Option<bool> {
        let record = Record::decode(bytes).unwrap();
        waiting.on_record(&record, bytes, now, client).map(|late| late.acked == CAME)
    }

    fn acknowledged(waiting: &mut Waiting) -> Vec<bool> {
        std::iter::from_fn(|| waiting.pop()).map(|settled| settled.late.acked == CAME).collect()
    }

    #[test]
    fn the_next_record_on_the_connection_tells_what_has_left_the_ring() {
        let (mut waiting, client) = (Waiting::new(Caps::default()), Client(Cell::new(10)));
        assert_eq!(comes(&mut waiting, &record(true, 20), CAME, &client), None);
        assert_eq!(comes(&mut waiting, &record(true, 30), CAME, &client), None);
        for end in [20, 25] {
            let mut bytes = Vec::new();
            let previous = Previous { end, acked: CAME, left: MonoNs::UNKNOWN };
            let head = Head { previous, response_end: 31, ..Head::default() };
            encode(&mut bytes, &head, &[], &Texts::default(), [], []);
            comes(&mut waiting, &bytes, CAME, &client);
        }
        waiting.on_tick(after(5), &client);
        assert_eq!(acknowledged(&mut waiting), [true]);
        waiting.on_tick(after(400), &client);
        assert_eq!(acknowledged(&mut waiting), [false]);
        assert!(waiting.told.is_empty());
    }

    #[test]
    fn only_what_may_learn_something_waits() {
        let (mut waiting, client) = (Waiting::new(Caps::default()), Client(Cell::new(10)));
        assert_eq!(comes(&mut waiting, &record(true, 20), CAME, &client), None);
        assert_eq!(comes(&mut waiting, &record(true, 10), CAME, &client), Some(true));
        assert_eq!(comes(&mut waiting, &record(false, 20), CAME, &client), Some(false));
        assert_eq!(waiting.size().0, 1);
    }

    #[test]
    fn it_goes_when_it_is_asked_and_knows() {
        let (mut waiting, client) = (Waiting::new(Caps::default()), Client(Cell::new(0)));
        assert_eq!(comes(&mut waiting, &record(true, 20), CAME, &client), None);
        assert_eq!(waiting.next_tick(), Some(after(5)));
        waiting.on_tick(after(4), &client);
        waiting.on_tick(after(5), &client);
        assert_eq!((acknowledged(&mut waiting), waiting.next_tick()), (vec![], Some(after(15))));
        client.0.set(20);
        waiting.on_tick(after(14), &client);
        assert!(acknowledged(&mut waiting).is_empty());
        waiting.on_tick(after(15), &client);
        assert_eq!((acknowledged(&mut waiting), waiting.next_tick()), (vec![true], None));
        assert_eq!(waiting.counts(), Counts { held: 1, in_time: 1, ..Counts::default() });
    }

    #[test]
    fn its_patience_ends_however_late_the_tick() {
        let (mut waiting, client) = (Waiting::new(Caps::default()), Client(Cell::new(0)));
        assert_eq!(comes(&mut waiting, &record(true, 20), CAME, &client), None);
        waiting.on_tick(after(60), &client);
        assert_eq!((acknowledged(&mut waiting), waiting.next_tick()), (vec![], Some(after(100))));
        waiting.on_tick(after(3_000), &client);
        assert_eq!(acknowledged(&mut waiting), [false]);
        assert_eq!(waiting.counts(), Counts { held: 1, in_vain: 1, ..Counts::default() });
    }

    #[test]
    fn what_does_not_fit_goes_on_and_is_counted() {
        let client = Client(Cell::new(0));
        let (bytes, length) = (record(true, 20), record(true, 20).len());
        for (caps, over_records, over_bytes) in [
            (Caps { records: 2, bytes: usize::MAX }, 3, 0),
            (Caps { records: usize::MAX, bytes: 2 * length }, 0, 3),
            (Caps { records: 0, bytes: usize::MAX }, 5, 0),
            (Caps { records: 2, bytes: length - 1 }, 0, 5),
        ] {
            let mut waiting = Waiting::new(caps);
            let went = (0..5).filter_map(|_| comes(&mut waiting, &bytes, CAME, &client)).count();
            let held = 5 - went;
            assert_eq!(waiting.size(), (held, held * length));
            let counts = Counts { held: held as u64, over_records, over_bytes, ..Counts::default() };
            assert_eq!(waiting.counts(), counts);
            // Room is where the others have gone.
            waiting.finish(&client);
            assert_eq!((acknowledged(&mut waiting).len(), waiting.size()), (held, (0, 0)));
        }
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p wayspan-agent --lib -- --ignored --nocapture cost_of_waiting"]
    fn cost_of_waiting() {
        const RECORDS: u64 = 4_000;
        let bytes = record(true, 20);
        let known = Record::decode(&bytes).unwrap();
        for (name, acknowledged, ticks) in [("passes", 20, 0), ("asked twice", 0, 1), ("asked to the end", 0, 5)] {
            let mut best = u64::MAX;
            for _ in 0..50 {
                let (mut waiting, client) = (Waiting::new(Caps::default()), Client(Cell::new(acknowledged)));
                let begun = MonoNs::now();
                for _ in 0..RECORDS {
                    std::hint::black_box(waiting.on_record(&known, &bytes, CAME, &client));
                }
                for tick in 1..=ticks {
                    if tick == ticks {
                        client.0.set(20);
                    }
                    waiting.on_tick(waiting.next_tick().unwrap(), &client);
                }
                let settled = u64::try_from(acknowledged_count(&mut waiting)).unwrap();
                best = best.min(MonoNs::now().since(begun) / RECORDS);
                assert_eq!(settled, if ticks == 0 { 0 } else { RECORDS });
            }
            println!("{name}: {best} ns a record of {} bytes", bytes.len());
        }
    }

    fn acknowledged_count(waiting: &mut Waiting) -> usize {
        std::iter::from_fn(|| waiting.pop()).filter(|settled| settled.late.acked == CAME).count()
    }
}
