//! Worlds of requests go through a pump in any order, at any pace, past any caps; what comes out is held against what is true
//! of them. A failure prints its seed.

mod upload;
mod world;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use fastrand::Rng;
use wayspan_proxy::observer::Missing;
use wayspan_proxy::ring::{RecordWriter, ring};

use self::upload::Phases;
use self::world::{Kernel, MS, World};
use super::*;
use crate::catalog::Catalog;
use crate::config::model::{Attribution, PhaseSpans};
use crate::export::clock::WallOffset;
use crate::export::span::SpanEncoder;
use crate::export::testing::{Told, told, tracing};
use crate::kube::pods::Pods;
use crate::merge::phase::Phase;
use crate::merge::seed::Seed;

/// Worlds in the ordinary run.
const SEEDS: u64 = 2_000;
/// Worlds in the run by hand: minutes.
const SEEDS_BY_HAND: u64 = 200_000;
/// A record is not held longer than this and the pause between two turns.
const HELD_MAX_NS: u64 = 400 * MS;
/// When a record that is held is asked for again.
const ASKED_AFTER_NS: [u64; 6] = [5 * MS, 15 * MS, 45 * MS, 100 * MS, 200 * MS, HELD_MAX_NS];
/// When everything has happened that will.
const IN_THE_END: MonoNs = MonoNs(u64::MAX - 1);

/// What came out of the pump.
#[derive(Clone, Debug, PartialEq)]
struct Out {
    id: usize,
    late: Late,
    spans: Vec<u8>,
}

/// Notes what comes out, and when.
struct Notes {
    now: MonoNs,
    encoder: SpanEncoder,
    out: Vec<(MonoNs, Out)>,
}

impl Sink for Notes {
    fn request(&mut self, attributed: &Attributed<'_>) {
        let mut spans = Vec::new();
        self.encoder.encode(
            &mut spans,
            attributed,
            &Catalog::default(),
            &Pods::none(),
            WallOffset(1_700_000_000_000_000_000),
        );
        let id = usize::try_from(attributed.record.head.connection_id).unwrap();
        self.out.push((self.now, Out { id, late: attributed.late, spans }));
    }
}

fn encoder() -> SpanEncoder {
    SpanEncoder::new(&tracing(), &Attribution { spans: PhaseSpans::All, ..Attribution::default() })
}

/// How a run went.
struct Story {
    out: Vec<(MonoNs, Out)>,
    /// When each request came to the pump.
    came: Vec<MonoNs>,
    /// Which came before which.
    order: Vec<usize>,
    turns: Vec<MonoNs>,
    /// When it was told to end.
    ended: MonoNs,
    counts: Counts,
    merged: u64,
}

/// A run under way.
struct Run {
    pump: Pump<Notes, Kernel>,
    writers: Vec<RecordWriter>,
    caps: Caps,
    now: MonoNs,
    story: Story,
}

impl Run {
    fn new(world: &Rc<World>, caps: Caps) -> Self {
        let (writers, readers): (Vec<_>, Vec<_>) = (0..3).map(|worker| ring(worker, 1 << 15)).unzip();
        let facts = Kernel { world: Rc::clone(world), now: IN_THE_END };
        let notes = Notes { now: MonoNs::UNKNOWN, encoder: encoder(), out: Vec::new() };
        let mut pump = Pump::new(readers, Arc::default(), facts, notes);
        pump.waiting = Waiting::new(caps);
        let came = vec![MonoNs::UNKNOWN; world.requests.len()];
        let (out, order, turns, ended) = (Vec::new(), Vec::new(), Vec::new(), MonoNs::UNKNOWN);
        let story = Story { out, came, order, turns, ended, counts: Counts::default(), merged: 0 };
        Self { pump, writers, caps, now: MonoNs(1_000_000 * MS), story }
    }

    /// Some time passes.
    fn pass(&mut self, random: &mut Rng) {
        let step_ms = if random.u8(..8) == 0 { random.u64(..60) } else { random.u64(..6) };
        self.now = MonoNs(self.now.0 + step_ms * MS + random.u64(1..MS));
    }

    fn write(&mut self, world: &World, id: usize) {
        let request = &world.requests[id];
        self.writers[request.worker].write(|out| out.extend_from_slice(&request.bytes));
        self.story.came[id] = self.now;
        self.story.order.push(id);
    }

    fn turn(&mut self) {
        self.pump.sink.now = self.now;
        self.pump.turn(self.now, false);
        self.story.turns.push(self.now);
        let (records, bytes) = self.pump.waiting.size();
        assert!(records <= self.caps.records && bytes <= self.caps.bytes, "{records} records, {bytes} bytes");
        let due = self.pump.waiting.next_tick();
        let within = |due: MonoNs| due > self.now && due.since(self.now) <= HELD_MAX_NS;
        assert!(due.map_or(records == 0, within), "{records} wait until {due:?}");
    }

    fn finish(mut self) -> Story {
        self.story.ended = self.now;
        self.story.counts = self.pump.waiting.counts();
        self.story.counts.cut_short = u64::try_from(self.pump.waiting.size().0).unwrap();
        let shown = Arc::clone(&self.pump.counts);
        self.story.out = self.pump.finish().out;
        let Counts { held, in_vain, cut_short, over_records, over_bytes, .. } = self.story.counts;
        for (cell, value) in [
            (&shown.waiting, 0),
            (&shown.waiting_bytes, 0),
            (&shown.held, held),
            (&shown.held_in_vain, in_vain + cut_short),
            (&shown.not_held_records, over_records),
            (&shown.not_held_bytes, over_bytes),
        ] {
            assert_eq!(cell.load(Ordering::Relaxed), value);
        }
        self.story.merged = shown.merged.load(Ordering::Relaxed);
        self.story
    }
}

fn any_caps(random: &mut Rng) -> Caps {
    let Caps { records, bytes } = Caps::default();
    let (few, short) = (random.usize(..6), random.usize(..4000));
    Caps { records: if random.bool() { few } else { records }, bytes: if random.bool() { short } else { bytes } }
}

/// Requests come when they have ended, or a while later, and time goes on until nobody waits or the end comes before.
fn as_it_happens(world: &Rc<World>, random: &mut Rng, caps: Caps) -> Story {
    let ended = world.requests.iter().map(|request| request.ended);
    let mut coming: Vec<_> = ended.map(|at| MonoNs(at.0 + random.u64(..40) * MS)).enumerate().collect();
    random.shuffle(&mut coming);
    coming.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    let mut run = Run::new(world, caps);
    let patience = if random.bool() { usize::MAX } else { random.usize(..40) };
    for _ in 0..patience.max(coming.len()) {
        run.pass(random);
        while let Some((id, _)) = coming.pop_if(|(_, at)| *at <= run.now) {
            run.write(world, id);
        }
        run.pump.facts.now = run.now;
        run.turn();
        if coming.is_empty() && run.pump.waiting.size().0 == 0 {
            break;
        }
    }
    // The rest comes at the very end.
    run.pass(random);
    coming.into_iter().for_each(|(id, _)| run.write(world, id));
    run.pump.facts.now = run.now;
    run.turn();
    run.finish()
}

/// Requests come in any order at all, when everything is known that will be.
fn in_any_order(world: &Rc<World>, random: &mut Rng, caps: Caps) -> Story {
    let mut coming: Vec<_> = (0..world.requests.len()).collect();
    random.shuffle(&mut coming);
    let mut run = Run::new(world, caps);
    while !coming.is_empty() {
        for _ in 0..random.usize(..=coming.len()) {
            coming.pop().into_iter().for_each(|id| run.write(world, id));
        }
        run.pass(random);
        run.turn();
    }
    run.finish()
}

/// How many were told by the next one's record.
fn run(seed: u64) -> usize {
    let _seed = Seed(seed);
    let mut random = Rng::with_seed(seed);
    let world = Rc::new(World::new(&mut random));
    let caps = any_caps(&mut random);
    let story = as_it_happens(&world, &mut random, caps);
    check_each_once(&world, &story);
    let told = check_truth(&world, &story);
    check_patience(&world, &story);
    let sorted = |story: Story| {
        let mut out: Vec<_> = story.out.into_iter().map(|(_, out)| out).collect();
        out.sort_by_key(|out| out.id);
        out
    };
    let caps = any_caps(&mut random);
    let one = sorted(in_any_order(&world, &mut random, caps));
    let caps = any_caps(&mut random);
    let another = in_any_order(&world, &mut random, caps);
    check_each_once(&world, &another);
    for (one, another) in one.iter().zip(&sorted(another)) {
        let truth = world.truth(one.id, IN_THE_END);
        assert_eq!(untold(one.late, &truth), untold(another.late, &truth), "the order of arrival shows");
        // Whether the next one comes while it waits makes a difference, where the kernel itself has forgotten.
        assert!(one.late != another.late || one.spans == another.spans, "the order of arrival shows");
    }
    check_bytes(&world, &one);
    told
}

/// Without what only the next request's record knows.
fn untold(late: Late, truth: &Late) -> Late {
    let Late { acked, ack_missing, left, may_come, .. } = *truth;
    if may_come { Late { acked, ack_missing, left, may_come, ..late } } else { late }
}

/// Every request comes out once, a sampled one with one SERVER span.
fn check_each_once(world: &World, story: &Story) {
    let mut seen = HashSet::new();
    for (_, out) in &story.out {
        assert!(seen.insert(out.id), "request {} came out twice", out.id);
        let spans = told(&out.spans);
        if world.requests[out.id].sampled {
            check_spans(&spans);
            if let Some(phases) = &world.requests[out.id].phases {
                check_phases(&spans, phases);
            }
        } else {
            assert_eq!(spans, []);
        }
    }
    assert_eq!(seen.len(), world.requests.len(), "requests came out");
    assert_eq!(usize::try_from(story.merged).unwrap(), world.requests.len());
}

/// One SERVER span, as long as its phases together; every other span inside its parent.
fn check_spans(spans: &[Told]) {
    let (servers, others): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.is_server);
    let [server] = servers[..] else { panic!("{} SERVER spans", servers.len()) };
    let phases = server.numbers.iter().filter(|(key, _)| key.starts_with("wayspan.phase."));
    let sum: i64 = phases.map(|(_, us)| us).sum();
    assert_eq!(u64::try_from(sum).unwrap(), (server.end_ns - server.start_ns) / 1000, "the phases' sum");
    let by_id: HashMap<_, _> = spans.iter().map(|span| (&span.id, span)).collect();
    assert_eq!(by_id.len(), spans.len(), "ids are unique");
    for span in others {
        let parent = by_id[&span.parent];
        assert!(parent.start_ns <= span.start_ns && span.end_ns <= parent.end_ns, "{span:?} in {parent:?}");
    }
}

/// To the microsecond.
fn check_phases(spans: &[Told], phases: &Phases) {
    let server = spans.iter().find(|span| span.is_server).unwrap();
    let told = server.numbers.iter().filter_map(|(key, us)| Some((key.strip_prefix("wayspan.phase.")?, *us)));
    let truth = Phase::ALL.into_iter().zip(phases).map(|(phase, us)| (phase.name(), i64::try_from(*us).unwrap()));
    let known = |(_, us): &(&str, i64)| *us > 0;
    assert_eq!(told.filter(known).collect::<HashMap<_, _>>(), truth.filter(known).collect(), "the phases");
}

/// Each knows exactly what was true when it came out. How many were told by the next one's record.
fn check_truth(world: &World, story: &Story) -> usize {
    let mut told_by_next = 0;
    for (at, out) in &story.out {
        let truth = if world.requests[out.id].sampled { world.truth(out.id, *at) } else { Late::default() };
        let may_still = truth.may_come && at.since(story.came[out.id]) < HELD_MAX_NS;
        // Whoever was let go before its time has nobody else to blame.
        let missing = if may_still { Missing::NOT_WAITED } else { truth.ack_missing };
        let truth = Late { ack_missing: missing, ..truth };
        let (came, place) = (story.came[out.id], |id| story.order.iter().position(|came| *came == id));
        let told = world.told(out.id).filter(|(next, _)| place(*next) > place(out.id) && story.came[*next] <= *at);
        let told = told.filter(|_| truth.may_come).map(|(_, previous)| Late {
            acked: previous.acked,
            ack_missing: Missing::NOTHING,
            left: previous.left,
            may_come: false,
            ..truth
        });
        match told {
            // Nobody tells it to those that do not wait, and the end finds both.
            Some(told) if *at != came || out.late != truth => {
                assert_eq!(out.late, told, "request {} is told", out.id);
                told_by_next += 1;
            }
            _ => assert_eq!(out.late, truth, "request {} at {at:?}", out.id),
        }
    }
    told_by_next
}

/// Only those wait that may learn something, no longer than they should, and nobody behind them.
fn check_patience(world: &World, story: &Story) {
    let mut expected = Counts::default();
    let mut not_held = 0;
    for (at, out) in &story.out {
        let came = story.came[out.id];
        let may_learn = world.waits && world.requests[out.id].sampled && world.truth(out.id, came).may_come;
        if *at == came {
            // Also where the end came in its very turn.
            not_held += u64::from(may_learn);
            continue;
        }
        assert!(may_learn, "request {} had nothing to wait for", out.id);
        expected.held += 1;
        let knows = !out.late.may_come;
        let is_over = at.since(came) >= HELD_MAX_NS;
        match (knows, is_over) {
            (true, _) => expected.in_time += 1,
            (false, true) => expected.in_vain += 1,
            (false, false) => {
                assert_eq!(*at, story.ended, "request {} went early", out.id);
                expected.cut_short += 1;
            }
        }
        for after in ASKED_AFTER_NS {
            let asked = story.turns.iter().find(|turn| turn.since(came) >= after).filter(|asked| *asked < at);
            let goes = |asked: &MonoNs| asked.since(came) >= HELD_MAX_NS || !world.truth(out.id, *asked).may_come;
            assert!(!asked.is_some_and(goes), "request {} waited longer than {asked:?}", out.id);
        }
    }
    let Counts { held, in_time, in_vain, cut_short, over_records, over_bytes } = story.counts;
    assert_eq!(held, in_time + in_vain + cut_short);
    // The end cuts short also those that know all by then, or that came with it.
    let at_the_end = held - expected.held;
    assert_eq!(not_held, over_records + over_bytes + at_the_end, "{:?}, not {expected:?}", story.counts);
    assert!(in_time <= expected.in_time && in_vain <= expected.in_vain, "{:?}, not {expected:?}", story.counts);
}

/// Where all is known, a segment that was sent again counts for each request whose bytes it held, and for no other; so does the
/// time in which a window kept bytes back.
fn check_bytes(world: &World, all: &[Out]) {
    for out in all.iter().filter(|out| world.requests[out.id].sampled) {
        let truth = world.truth(out.id, IN_THE_END);
        assert_eq!(untold(out.late, &truth), truth, "request {}", out.id);
    }
    let told: u32 = all.iter().map(|out| out.late.client_resent).sum();
    assert_eq!(told, world.client_resent(IN_THE_END));
    let stalled_ns: u64 = all.iter().map(|out| out.late.client_stalled_ns).sum();
    assert_eq!(stalled_ns, world.client_stalled_ns(IN_THE_END));
}

#[test]
fn worlds_of_requests_come_out_as_they_were() {
    let told: usize = (0..SEEDS).map(run).sum();
    assert!(told > 0, "no world had anything to tell of what has left a ring");
}

#[test]
#[ignore = "takes minutes: cargo test --release -p wayspan-agent -- --ignored many_worlds"]
fn many_worlds_of_requests_come_out_as_they_were() {
    (SEEDS..SEEDS_BY_HAND).for_each(|seed| {
        run(seed);
    });
}
