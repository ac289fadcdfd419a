//! Runs of the probes are left out at any time, while requests come at any pace: whoever may be concerned says so, as nobody else
//! does, and nobody leaves before that is known. A failure prints its seed.

use std::sync::{Mutex, MutexGuard};

use fastrand::Rng;
use wayspan_proxy::record::{Head, Texts, encode};
use wayspan_proxy::ring::ring;

use super::*;
use crate::merge::gaps::Skipped;
use crate::merge::late::Ask;
use crate::merge::seed::Seed;

/// Worlds in the ordinary run.
const SEEDS: u64 = 3_000;
const MS: u64 = 1_000_000;
const T0: u64 = 1_000_000 * MS;
/// Time that a request's first bytes may have lain unread.
const UNREAD_NS: u64 = 10 * MS;
const LOOK_EVERY_NS: u64 = 20 * MS;
/// Turns are not further apart.
const STEP_NS: u64 = 6 * MS;

/// What the kernel counts, and when that was looked for.
#[derive(Default)]
struct Counts {
    now: MonoNs,
    /// Reading takes so long.
    reading_ns: u64,
    /// When runs are left out.
    skips: Vec<MonoNs>,
    /// When each look began and ended, and what was read.
    looks: Vec<(MonoNs, MonoNs, u64)>,
    /// Whether acknowledgements are watched.
    waits: bool,
}

/// The kernel, and who looks at what it is asked.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<Counts>>);

impl Kernel {
    fn its(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap()
    }
}

impl Facts for Kernel {
    fn waits(&self) -> bool {
        self.its().waits
    }
    fn late(&self, _: &Ask) -> Late {
        Late::default()
    }
    fn skipped(&self) -> Option<Skipped> {
        let mut its = self.its();
        let by = MonoNs(its.now.0 + its.reading_ns);
        let points = u64::try_from(its.skips.iter().filter(|at| **at <= by).count()).unwrap();
        let look = (its.now, by, points);
        its.looks.push(look);
        Some(Skipped { points, connections: 0, by })
    }
}

/// A request that came out.
struct Out {
    id: usize,
    at: MonoNs,
    is_doubted: bool,
    looks: usize,
}

struct Notes {
    kernel: Kernel,
    out: Vec<Out>,
}

impl Sink for Notes {
    fn request(&mut self, attributed: &Attributed<'_>) {
        let id = usize::try_from(attributed.record.head.connection_id).unwrap();
        let coverage = attributed.coverage.to_string();
        assert!(["full", "partial: probe skipped"].contains(&coverage.as_str()), "{coverage}");
        let its = self.kernel.its();
        self.out.push(Out { id, at: its.now, is_doubted: coverage != "full", looks: its.looks.len() });
    }
}

/// When a request began and ended, and when its record was written.
struct Request {
    from: MonoNs,
    to: MonoNs,
    written: MonoNs,
}

fn requests(random: &mut Rng) -> Vec<Request> {
    let mut all: Vec<_> = (0..random.usize(1..40))
        .map(|_| {
            let from = T0 + random.u64(..300 * MS);
            let longest = if random.bool() { MS } else { 60 * MS };
            let to = from + 1 + random.u64(..longest);
            Request { from: MonoNs(from), to: MonoNs(to), written: MonoNs(to + random.u64(..MS)) }
        })
        .collect();
    all.sort_by_key(|request| request.written);
    all
}

/// How many were doubted, and how many not.
fn run(seed: u64) -> [usize; 2] {
    let _seed = Seed(seed);
    let mut random = Rng::with_seed(seed);
    let requests = requests(&mut random);
    let skips = (0..random.usize(..4)).map(|_| MonoNs(T0 + random.u64(..400 * MS))).collect();
    let counts = Counts { skips, waits: random.u8(..4) == 0, ..Counts::default() };
    let kernel = Kernel(Arc::new(Mutex::new(counts)));
    let (mut writers, readers): (Vec<_>, Vec<_>) = (0..2).map(|worker| ring(worker, 1 << 16)).unzip();
    let notes = Notes { kernel: kernel.clone(), out: Vec::new() };
    let mut pump = Pump::new(readers, Arc::default(), kernel.clone(), notes);
    let mut now = T0;
    let mut coming = (0..).zip(&requests).peekable();
    let end = T0 + random.u64(..450 * MS);
    while now < end {
        now += random.u64(1..STEP_NS - MS);
        while let Some((id, request)) = coming.next_if(|(_, request)| request.written.0 <= now) {
            write(&mut writers[id % 2], id, request);
        }
        turn(&mut pump, &mut now, &mut random, false);
    }
    coming.for_each(|(id, request)| {
        now = now.max(request.written.0);
        write(&mut writers[id % 2], id, request);
    });
    while turn(&mut pump, &mut now, &mut random, true) != Turn::Idle {}
    let notes = pump.finish();
    assert_eq!(notes.out.len(), requests.len());
    let counts = kernel.its();
    notes.out.iter().for_each(|out| check(out, &requests[out.id], &counts, MonoNs(end)));
    let pairs = counts.looks.windows(2).filter(|looks| looks[1].0.0 <= end && !counts.waits);
    pairs.for_each(|looks| assert!(looks[1].0.since(looks[0].0) >= LOOK_EVERY_NS, "{looks:?}"));
    let doubted = notes.out.iter().filter(|out| out.is_doubted).count();
    [doubted, notes.out.len() - doubted]
}

fn write(writer: &mut wayspan_proxy::ring::RecordWriter, id: usize, request: &Request) {
    let head = Head {
        connection_id: u64::try_from(id).unwrap(),
        first_readable: request.from,
        first_read: request.from,
        ended: request.to,
        ..Head::default()
    };
    writer.write(|out| {
        encode(out, &head, &[], &Texts::default(), [], []);
    });
}

fn turn(pump: &mut Pump<Notes, Kernel>, now: &mut u64, random: &mut Rng, is_last: bool) -> Turn {
    {
        let mut its = pump.facts.its();
        // Whoever reads may be off its CPU meanwhile.
        (its.now, its.reading_ns) = (MonoNs(*now), if random.bool() { 0 } else { random.u64(..MS) });
        *now += its.reading_ns;
    }
    let at = pump.facts.its().now;
    pump.turn(at, is_last)
}

fn check(out: &Out, request: &Request, counts: &Counts, end: MonoNs) {
    let Request { from, to, written } = *request;
    let unread_from = MonoNs(from.0 - UNREAD_NS);
    // The promise.
    let (looked, _, _) = counts.looks[out.looks - 1];
    assert!(looked >= written, "request {} left before the counts were read: {looked:?}, {written:?}", out.id);
    let is_concerned = counts.skips.iter().any(|skip| unread_from <= *skip && *skip <= to);
    assert!(out.is_doubted || !is_concerned, "request {} of {from:?} to {to:?} is full: {:?}", out.id, counts.skips);
    // No more than it takes.
    let mut before = (MonoNs::UNKNOWN, 0);
    let moved = counts.looks[..out.looks].iter().any(|(began, by, points)| {
        let (since, was) = std::mem::replace(&mut before, (*began, *points));
        was != *points && since <= to && unread_from <= *by
    });
    assert_eq!(out.is_doubted, moved, "request {} of {from:?} to {to:?}", out.id);
    if out.at < end {
        let longest_ns = if counts.waits { STEP_NS } else { LOOK_EVERY_NS + STEP_NS };
        assert!(out.at.since(written) <= longest_ns, "request {} waited from {written:?} to {:?}", out.id, out.at);
    }
}

#[test]
fn whoever_may_be_concerned_says_so_and_nobody_leaves_before_that_is_known() {
    let [doubted, full] =
        (0..SEEDS).map(run).fold([0, 0], |[doubted, full], [some, others]| [doubted + some, full + others]);
    assert!(doubted > 1_000 && full > 1_000, "{doubted} doubted, {full} full");
}
