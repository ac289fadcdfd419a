//! The merge's thread: takes records from the workers' rings on a timer, lets those wait that may still learn something,
//! attributes them, hands them to a sink. What the sink does with them (spans, histograms, recent requests) is its owner's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{NotARecord, Record};
use wayspan_proxy::ring::{PREFIX, RecordReader};

use super::attribute::attribute;
use super::gaps::Gaps;
use super::late::{Facts, Late};
use super::phase::Attributed;
use super::waiting::{Caps, Counts, Waiting};

/// Records taken from one ring before the next ring has its turn: a quarter of a millisecond of work.
const TURN_MAX: usize = 512;
/// Between turns while records come: 250 records a turn at 50,000 a second, 2 % of a ring.
const NAP_BUSY: Duration = Duration::from_millis(5);
/// Where the kernel's counts of runs that were left out are read, no sooner than so long after the time before, and what came meanwhile
/// waits in its ring for it, which fills by a tenth at 50,000 records a second. With acknowledgements each turn reads them: their
/// marks are few, and who came later for them would find them overwritten.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between turns while none come: a burst at 50,000 a second fills a quarter of a ring meanwhile.
const NAP_IDLE: Duration = Duration::from_millis(50);

/// What the merge has counted.
#[derive(Debug, Default)]
pub struct PumpCounts {
    /// Records attributed.
    pub merged: AtomicU64,
    /// Bytes in a ring that were no record: a fault of ours.
    pub undecodable: AtomicU64,
    /// Records that wait for late facts, and their bytes.
    pub waiting: AtomicU64,
    /// Likewise.
    pub waiting_bytes: AtomicU64,
    /// Records that were held back for late facts.
    pub held: AtomicU64,
    /// Of these, those whose time ran out before all was known, or which the end cut short.
    pub held_in_vain: AtomicU64,
    /// Records that were not held, for too many waited.
    pub not_held_records: AtomicU64,
    /// Records that were not held, for those that waited had too many bytes.
    pub not_held_bytes: AtomicU64,
}

/// Where attributed requests go.
pub trait Sink: Send + 'static {
    /// One request.
    fn request(&mut self, attributed: &Attributed<'_>);
    /// All rings have had a turn: a moment to send what waits. Comes every 5 to 50 ms, also without requests.
    fn turn_over(&mut self) {}
}

impl<F: FnMut(&Attributed<'_>) + Send + 'static> Sink for F {
    fn request(&mut self, attributed: &Attributed<'_>) {
        self(attributed);
    }
}

/// Takes records from its rings, a turn at a time.
#[derive(Debug)]
pub struct Pump<S, F> {
    readers: Vec<RecordReader>,
    sink: S,
    facts: F,
    waiting: Waiting,
    gaps: Gaps,
    counts: Arc<PumpCounts>,
    scratch: Vec<u8>,
    /// Bytes in each ring that were there at the newest look, and were not taken yet.
    came: Vec<usize>,
    /// When the next look is due.
    look_at: MonoNs,
}

/// How a turn went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing was waiting.
    Idle,
    /// All that waited was taken.
    Drained,
    /// A ring had more than its turn.
    More,
    /// No look was due.
    Early,
}

impl<S: Sink, F: Facts> Pump<S, F> {
    /// A pump over these rings.
    pub fn new(readers: Vec<RecordReader>, counts: Arc<PumpCounts>, facts: F, sink: S) -> Self {
        let waiting = Waiting::new(Caps::default());
        let came = vec![0; readers.len()];
        let (gaps, scratch) = (Gaps::default(), Vec::with_capacity(4096));
        Self { readers, sink, facts, waiting, gaps, counts, scratch, came, look_at: MonoNs::UNKNOWN }
    }

    /// Looks what waits, and then for runs that were left out: those of all requests that wait are counted by then. What comes
    /// meanwhile has the next look.
    fn look(&mut self, now: MonoNs) {
        for (reader, came) in self.readers.iter().zip(&mut self.came) {
            *came = reader.waiting();
        }
        self.look_at = now;
        // Also while nothing comes: a run that was left out then concerns nobody who comes later.
        if let Some(skipped) = self.facts.skipped() {
            self.gaps.on_look(now, skipped);
            if !self.facts.waits() {
                self.look_at = now + LOOK_EVERY;
            }
        }
    }

    /// Nothing is taken that came after the newest look. The end waits for none.
    fn turn(&mut self, now: MonoNs, is_last: bool) -> Turn {
        let mut turn = Turn::Idle;
        let mut merged = 0;
        if self.came.iter().all(|came| *came == 0) {
            if is_last || now >= self.look_at {
                self.look(now);
            } else {
                turn = Turn::Early;
            }
        }
        for (reader, came) in self.readers.iter_mut().zip(&mut self.came) {
            let mut taken = 0;
            while taken < TURN_MAX && *came > 0 {
                let Some(bytes) = reader.next(&mut self.scratch) else {
                    *came = 0;
                    break;
                };
                taken += 1;
                *came = came.saturating_sub(PREFIX + bytes.len());
                match Record::decode(bytes) {
                    Ok(record) => {
                        merged += 1;
                        if let Some(late) = self.waiting.on_record(&record, bytes, now, &self.facts) {
                            hand_on(&mut self.sink, &self.gaps, &record, late);
                        }
                    }
                    Err(error) => self.counts.is_no_record(reader.worker(), &error),
                }
            }
            turn = match taken {
                TURN_MAX => Turn::More,
                1.. if turn == Turn::Idle => Turn::Drained,
                _ => turn,
            };
        }
        self.counts.merged.fetch_add(merged, Ordering::Relaxed);
        self.waiting.on_tick(now, &self.facts);
        self.take_settled();
        self.sink.turn_over();
        turn
    }

    fn take_settled(&mut self) {
        while let Some(settled) = self.waiting.pop() {
            // It was a record when it came.
            if let Ok(record) = Record::decode(&settled.bytes) {
                hand_on(&mut self.sink, &self.gaps, &record, settled.late);
            }
        }
        self.counts.show(self.waiting.size(), self.waiting.counts());
    }

    /// Runs until `stop` is set and the rings are empty. The one who stops it has ended the workers before, so that
    /// no record comes later.
    fn run(mut self, stop: &AtomicBool) -> S {
        let mut nap = NAP_BUSY;
        loop {
            // Read before the turn: what was pushed before the flag is seen by the turn after it.
            let stopping = stop.load(Ordering::Acquire);
            let now = MonoNs::now();
            match self.turn(now, stopping) {
                Turn::More => continue,
                _ if stopping && self.readers.iter().all(RecordReader::is_finished) => return self.finish(),
                Turn::Idle if stopping => return self.finish(),
                Turn::Drained => nap = NAP_BUSY,
                Turn::Idle => nap = (nap * 2).min(NAP_IDLE),
                Turn::Early => {}
            }
            if !stopping {
                let nap = nap.max(Duration::from_nanos(self.look_at.since(now)));
                let due = self.waiting.next_tick().map(|due| Duration::from_nanos(due.since(now)).max(NAP_BUSY));
                std::thread::park_timeout(due.map_or(nap, |due| due.min(nap)));
            }
        }
    }

    fn finish(mut self) -> S {
        self.waiting.finish(&self.facts);
        self.take_settled();
        self.sink
    }
}

fn hand_on(sink: &mut impl Sink, gaps: &Gaps, record: &Record<'_>, late: Late) {
    let mut request = Attributed { late, ..attribute(record) };
    gaps.tell(&mut request);
    sink.request(&request);
}

impl PumpCounts {
    fn is_no_record(&self, worker: u16, error: &NotARecord) {
        // One line tells of the fault, the counter of its extent.
        if self.undecodable.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(worker, %error, "undecodable record");
        }
    }

    fn show(&self, (records, bytes): (usize, usize), counts: Counts) {
        let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        for (cell, value) in [
            (&self.waiting, size(records)),
            (&self.waiting_bytes, size(bytes)),
            (&self.held, counts.held),
            (&self.held_in_vain, counts.in_vain + counts.cut_short),
            (&self.not_held_records, counts.over_records),
            (&self.not_held_bytes, counts.over_bytes),
        ] {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

/// The running merge.
#[derive(Debug)]
pub struct MergeThread<S> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<S>,
}

/// Starts the merge on a thread of its own.
///
/// # Errors
/// Where the system gives no thread.
pub fn spawn<S: Sink, F: Facts + Send + 'static>(name: &str, pump: Pump<S, F>) -> std::io::Result<MergeThread<S>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || pump.run(&flag))?;
    Ok(MergeThread { stop, thread })
}

impl<S> MergeThread<S> {
    /// Ends it after all that waits was merged; the workers have ended before. Gives the sink back, or nothing where
    /// the thread panicked. Blocks for the time of the rest, some milliseconds.
    pub fn stop(self) -> Option<S> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().ok()
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod skipping;

#[cfg(test)]
mod tests {
    use wayspan_proxy::observer::{Missing, Off};
    use wayspan_proxy::record::{Head, Texts, encode};
    use wayspan_proxy::ring::{RecordWriter, ring};

    use super::*;
    use crate::merge::gaps::Skipped;
    use crate::merge::late::Ask;
    use crate::probes::Observer;

    const NOBODY: Observer = Observer::Off(Off(Missing::OFF));
    const NOW: MonoNs = MonoNs(1_000_000_000);

    fn write(writer: &mut RecordWriter, id: u64) {
        let head = Head { connection_id: id, ..Head::default() };
        writer.write(|out| {
            encode(out, &head, &[], &Texts::default(), [], []);
        });
    }

    struct Ids(Vec<u64>);
    impl Sink for Ids {
        fn request(&mut self, attributed: &Attributed<'_>) {
            self.0.push(attributed.record.head.connection_id);
        }
    }

    #[test]
    fn all_records_of_all_rings_arrive_in_order_before_it_stops() {
        let (mut writers, readers): (Vec<_>, Vec<_>) = (0..3).map(|worker| ring(worker, 1 << 22)).unzip();
        let counts = Arc::new(PumpCounts::default());
        let merge = spawn("merge", Pump::new(readers, Arc::clone(&counts), NOBODY, Ids(Vec::new()))).unwrap();
        for id in 0..2_000 {
            for (worker, writer) in (0..).zip(&mut writers) {
                write(writer, worker * 1_000_000 + id);
            }
        }
        drop(writers);
        let ids = merge.stop().unwrap().0;
        assert_eq!(ids.len(), 6_000);
        for worker in 0..3 {
            let own: Vec<_> = ids.iter().filter(|id| **id / 1_000_000 == worker).map(|id| id % 1_000_000).collect();
            assert!(own.is_sorted() && own.len() == 2_000);
        }
        assert_eq!(counts.merged.load(Ordering::Relaxed), 6_000);
    }

    #[test]
    fn a_full_ring_does_not_starve_its_neighbour() {
        let (mut busy, busy_reader) = ring(0, 1 << 22);
        let (mut quiet, quiet_reader) = ring(1, 1 << 20);
        for id in 0..2_000 {
            write(&mut busy, id);
        }
        write(&mut quiet, 1_000_000);
        let mut pump = Pump::new(vec![busy_reader, quiet_reader], Arc::default(), NOBODY, Ids(Vec::new()));
        assert_eq!(pump.turn(NOW, false), Turn::More);
        assert_eq!(pump.sink.0.len(), TURN_MAX + 1);
        assert_eq!(pump.sink.0.last(), Some(&1_000_000));
        while pump.turn(NOW, false) != Turn::Idle {}
        assert_eq!(pump.sink.0.len(), 2_001);
    }

    #[test]
    fn bytes_that_are_no_record_are_counted_and_skipped() {
        let (mut writer, reader) = ring(0, 1 << 16);
        writer.write(|out| out.extend(b"nonsense"));
        write(&mut writer, 7);
        let counts = Arc::new(PumpCounts::default());
        let mut pump = Pump::new(vec![reader], Arc::clone(&counts), NOBODY, Ids(Vec::new()));
        assert_eq!(pump.turn(NOW, false), Turn::Drained);
        assert_eq!((pump.sink.0.as_slice(), counts.undecodable.load(Ordering::Relaxed)), ([7].as_slice(), 1));
        assert_eq!(pump.turn(NOW, false), Turn::Idle);
    }

    /// Its clients never acknowledge.
    struct Silent;

    impl Facts for Silent {
        fn waits(&self) -> bool {
            true
        }
        fn late(&self, _: &Ask) -> Late {
            Late { may_come: true, ..Late::default() }
        }
    }

    #[test]
    fn those_that_wait_leave_before_it_stops() {
        let (mut writer, reader) = ring(0, 1 << 20);
        let counts = Arc::new(PumpCounts::default());
        let merge = spawn("merge", Pump::new(vec![reader], Arc::clone(&counts), Silent, Ids(Vec::new()))).unwrap();
        for id in 0..100 {
            let head = Head { connection_id: id, sampled: id % 2 == 0, ..Head::default() };
            writer.write(|out| {
                encode(out, &head, &[], &Texts::default(), [], []);
            });
        }
        drop(writer);
        let mut ids = merge.stop().unwrap().0;
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
        assert_eq!((counts.held.load(Ordering::Relaxed), counts.waiting.load(Ordering::Relaxed)), (50, 0));
    }

    /// How often it was looked, and by which look a run was left out.
    struct Skipping(std::cell::Cell<u64>, u64);

    impl Facts for Skipping {
        fn waits(&self) -> bool {
            false
        }
        fn late(&self, _: &Ask) -> Late {
            Late::default()
        }
        fn skipped(&self) -> Option<Skipped> {
            let looks = self.0.get();
            self.0.set(looks + 1);
            Some(Skipped { points: u64::from(looks >= self.1), ..Skipped::default() })
        }
    }

    struct Coverages(Vec<String>);
    impl Sink for Coverages {
        fn request(&mut self, attributed: &Attributed<'_>) {
            self.0.push(attributed.coverage.to_string());
        }
    }

    #[test]
    fn whoever_was_under_way_when_a_run_was_left_out_says_so() {
        for (left_out, third) in [(3, "full"), (4, "partial: probe skipped"), (5, "full")] {
            let (mut writer, reader) = ring(0, 1 << 16);
            let facts = Skipping(0.into(), left_out);
            let mut pump = Pump::new(vec![reader], Arc::default(), facts, Coverages(Vec::new()));
            let s = |s: u64| MonoNs(s * NOW.0);
            // A request ends just before each turn; half a second later nothing has come.
            for turn in [1, 2, 3, 4, 5] {
                let ended = MonoNs(s(turn).0 - 1);
                let head = Head { first_readable: MonoNs(ended.0 - 1), first_read: ended, ended, ..Head::default() };
                writer.write(|out| {
                    encode(out, &head, &[], &Texts::default(), [], []);
                });
                pump.turn(s(turn), false);
                pump.turn(MonoNs(s(turn).0 + NOW.0 / 2), false);
            }
            assert_eq!(pump.sink.0, ["full", "full", third, "full", "full"], "by look {left_out}");
        }
    }

    #[test]
    fn a_closure_is_a_sink() {
        let (mut writer, reader) = ring(0, 1 << 16);
        write(&mut writer, 7);
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let sink = move |a: &Attributed<'_>| send.send(a.record.head.connection_id).unwrap();
        let merge = spawn("merge", Pump::new(vec![reader], Arc::default(), NOBODY, sink)).unwrap();
        assert_eq!(receive.recv().unwrap(), 7);
        assert!(merge.stop().is_some());
    }
}
