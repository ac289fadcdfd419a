//! The requests that the dashboard shows: the slowest of the last minutes and the last failures, bounded, by their
//! phases. Most requests are turned away by two relaxed loads, before anything is built or locked. Wall time, and how
//! it looks, are the api's.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::{End, ErrorKind, Method};
use wayspan_proxy::sampling::Gcra;

use crate::catalog::Catalog;
use crate::kube::pods::Pods;
use crate::merge::phase::{Attributed, Phase};

/// Slowest requests kept per minute and shown, and failures kept: what a person scrolls through.
const KEPT_MAX: usize = 50;
/// Minutes looked back: a request that a person saw being slow is still there when they open the dashboard.
const MINUTES_KEPT: u64 = 5;
const MINUTE_NS: u64 = 60_000_000_000;
/// Failures taken per second, with a burst of one second's worth: a failing upstream under load must not make the
/// merge build texts for every request. Most of them would be pushed out at once.
const FAILURES_PER_SECOND: f64 = 50.0;
/// Characters kept of a host and of a path; the whole path stands in the trace.
const TEXT_MAX: usize = 256;

/// One request as the dashboard shows it. 1 to 2 KiB each, 300 at most are held.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecentRequest {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits: the SERVER span.
    pub span_id: String,
    /// The SERVER span's name.
    pub name: String,
    /// The method.
    pub method: &'static str,
    /// The Host as it came, cut.
    pub host: String,
    /// The raw path without its query, cut.
    pub path: String,
    /// The path pattern of the route that matched; empty where it has none.
    pub route: String,
    /// Entry point's name.
    pub entry_point: String,
    /// Router's name; empty where none matched.
    pub router: String,
    /// Service's name; empty where none was chosen.
    pub service: String,
    /// The address last tried; empty where none was.
    pub upstream: String,
    /// The pod that had it; empty where none is known.
    pub pod: String,
    /// Attempts made.
    pub attempts: u16,
    /// Status sent; 0 for none.
    pub status: u16,
    /// Start by the monotonic clock, nanoseconds.
    pub start_mono_ns: u64,
    /// Microseconds.
    pub duration_us: u64,
    /// Time per phase, in the order of the way; sums to the duration.
    pub phases: Vec<PhaseTime>,
    /// The waterfall: stretches of time, in order.
    pub stretches: Vec<PhaseStretch>,
    /// The group with the largest share.
    pub blame: &'static str,
    /// The phase with the largest share.
    pub dominant: &'static str,
    /// `full`, `partial: ..` or `none: ..`.
    pub coverage: String,
    /// Whether its spans leave the node: only then it has a trace elsewhere.
    pub sampled: bool,
    /// Whether it counts as a failure.
    pub failed: bool,
    /// The cause where there is one.
    pub error: &'static str,
}

/// A phase's time in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub name: &'static str,
    /// Whose doing it is.
    pub blame: &'static str,
    /// Microseconds.
    pub us: u64,
}

/// A stretch of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhaseStretch {
    /// The phase.
    pub name: &'static str,
    /// Whose doing it is.
    pub blame: &'static str,
    /// Microseconds after the start.
    pub from_us: u64,
    /// Microseconds after the start.
    pub to_us: u64,
}

/// The store. Shared by the merge's threads and the api.
#[derive(Debug)]
pub struct Recent {
    /// The running minute and the duration that a request must exceed in it.
    minute: AtomicU64,
    threshold_us: AtomicU64,
    failures_rate: Gcra,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The last minutes, newest last.
    minutes: VecDeque<Minute>,
    failures: VecDeque<Arc<RecentRequest>>,
}

#[derive(Debug, Default)]
struct Minute {
    number: u64,
    /// Slowest first, at most [`KEPT_MAX`].
    slowest: Vec<Arc<RecentRequest>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            minute: AtomicU64::new(0),
            threshold_us: AtomicU64::new(0),
            failures_rate: Gcra::new(FAILURES_PER_SECOND),
            kept: Mutex::default(),
        }
    }
}

impl Recent {
    /// Takes a request in where it is among the slowest of its minute, or failed.
    pub fn offer(&self, attributed: &Attributed<'_>, catalog: &Catalog, pods: &Pods) {
        let minute = attributed.end.0 / MINUTE_NS;
        // A request of a minute that is over competes in the running one.
        let slow = minute > self.minute.load(Ordering::Relaxed)
            || attributed.duration_us > self.threshold_us.load(Ordering::Relaxed);
        // A tunnel lasts as long as its two ends want: it would stand here for being used.
        let slow = slow && attributed.record.head.status != 101;
        let failed = has_failed(attributed);
        if !slow && !failed {
            return;
        }
        let failed = failed && self.failures_rate.allow(attributed.end);
        if slow || failed {
            let request = Arc::new(describe(attributed, catalog, pods));
            self.keep(request, minute, slow, failed);
        }
    }

    fn keep(&self, request: Arc<RecentRequest>, minute: u64, slow: bool, failed: bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if failed {
            if kept.failures.len() == KEPT_MAX {
                kept.failures.pop_front();
            }
            kept.failures.push_back(Arc::clone(&request));
        }
        if slow {
            let running = kept.minute(minute);
            running.insert(request);
            self.threshold_us.store(running.threshold_us(), Ordering::Relaxed);
            self.minute.store(running.number, Ordering::Relaxed);
        }
    }

    /// The slowest requests of the last minutes, slowest first, then failures that are not among them, newest first.
    #[must_use]
    pub fn list(&self, now: MonoNs) -> Vec<RecentRequest> {
        let (mut slowest, failures) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = (now.0 / MINUTE_NS).saturating_sub(MINUTES_KEPT);
            let minutes = kept.minutes.iter().filter(|minute| minute.number >= oldest);
            let slowest: Vec<_> = minutes.flat_map(|minute| &minute.slowest).cloned().collect();
            (slowest, kept.failures.clone())
        };
        slowest.sort_by_key(|request| std::cmp::Reverse((request.duration_us, request.start_mono_ns)));
        slowest.truncate(KEPT_MAX);
        let listed: HashSet<*const RecentRequest> = slowest.iter().map(Arc::as_ptr).collect();
        let others = failures.iter().rev().filter(|request| !listed.contains(&Arc::as_ptr(request)));
        slowest.iter().chain(others).map(|request| RecentRequest::clone(request)).collect()
    }
}

impl Kept {
    /// The minute that takes requests now: this one, or a later one that has begun.
    fn minute(&mut self, number: u64) -> &mut Minute {
        if self.minutes.back().is_none_or(|last| last.number < number) {
            self.minutes.push_back(Minute { number, slowest: Vec::new() });
        }
        let oldest = number.saturating_sub(MINUTES_KEPT);
        while self.minutes.len() > 1 && self.minutes.front().is_some_and(|first| first.number < oldest) {
            self.minutes.pop_front();
        }
        let last = self.minutes.len() - 1;
        self.minutes.get_mut(last).expect("one was pushed where there was none, and one always stays")
    }
}

impl Minute {
    fn insert(&mut self, request: Arc<RecentRequest>) {
        let place = self.slowest.partition_point(|other| other.duration_us >= request.duration_us);
        self.slowest.insert(place, request);
        self.slowest.truncate(KEPT_MAX);
    }

    fn threshold_us(&self) -> u64 {
        self.slowest.get(KEPT_MAX - 1).map_or(0, |last| last.duration_us)
    }
}

/// A failure is what a person would look for: our or the upstream's errors, and requests that were cut off.
fn has_failed(attributed: &Attributed<'_>) -> bool {
    let head = &attributed.record.head;
    head.status >= 500 || !matches!(head.end, End::Complete | End::Refused) || head.status == 0
}

fn describe(attributed: &Attributed<'_>, catalog: &Catalog, pods: &Pods) -> RecentRequest {
    let record = attributed.record;
    let head = &record.head;
    let pod = record.attempts.last().and_then(|attempt| pods.of_attempt(attempt));
    let text = |name: Option<&Arc<str>>| name.map(|name| name.as_ref().to_owned()).unwrap_or_default();
    let route = catalog.routes.get(&head.route);
    let branch = usize::from(head.branch);
    let operation = route.and_then(|route| route.operations.get(branch));
    // OpenTelemetry's HTTP conventions name unknown methods HTTP in span names.
    let verb = if head.method == Method::Other { "HTTP" } else { head.method.name() };
    let error = if head.error == ErrorKind::None {
        record.attempts.last().map_or("", |attempt| attempt.error.name())
    } else {
        head.error.name()
    };
    RecentRequest {
        trace_id: hex(&head.trace_id.0),
        span_id: hex(&head.span_id.0),
        name: operation.map_or_else(|| verb.to_owned(), |operation| format!("{verb} {operation}")),
        method: head.method.name(),
        host: cut(record.texts.host),
        path: cut(record.texts.path),
        route: text(route.and_then(|route| route.patterns.get(branch))),
        entry_point: text(catalog.entry_points.get(&head.entry_point)),
        router: text(route.map(|route| &route.router)),
        service: text(catalog.services.get(&head.service)),
        upstream: record.attempts.last().map(|attempt| attempt.address.to_string()).unwrap_or_default(),
        pod: pod.map(|found| found.pod.name.to_string()).unwrap_or_default(),
        attempts: head.attempts_made,
        status: head.status,
        start_mono_ns: attributed.start.0,
        duration_us: attributed.duration_us,
        phases: phases(attributed),
        stretches: attributed
            .stretches
            .iter()
            .map(|stretch| PhaseStretch {
                name: stretch.phase.name(),
                blame: stretch.phase.blame().name(),
                from_us: stretch.from_us,
                to_us: stretch.to_us,
            })
            .collect(),
        blame: attributed.blame.name(),
        dominant: attributed.dominant.name(),
        coverage: attributed.coverage.to_string(),
        sampled: head.sampled,
        failed: has_failed(attributed),
        error,
    }
}

fn phases(attributed: &Attributed<'_>) -> Vec<PhaseTime> {
    Phase::ALL
        .into_iter()
        .zip(attributed.phases)
        .filter(|(_, us)| *us > 0)
        .map(|(phase, us)| PhaseTime { name: phase.name(), blame: phase.blame().name(), us })
        .collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use wayspan_proxy::record::{Attempt, Head, Record, Texts};
    use wayspan_proxy::trace_context::TraceId;

    use super::*;
    use crate::catalog::RouteNames;
    use crate::merge::attribute::attribute;

    fn catalog() -> Catalog {
        let route = RouteNames {
            router: "hotrod".into(),
            service: "hotrod".into(),
            rule: "Host(`hotrod.localhost`)".into(),
            operations: vec!["hotrod.localhost/".into()],
            patterns: vec!["/".into()],
            middlewares: Vec::new(),
            detailed: false,
            internal: false,
        };
        Catalog {
            entry_points: [(1, "web".into())].into(),
            routes: [(2, Arc::new(route))].into(),
            services: [(3, "hotrod".into())].into(),
            ..Catalog::default()
        }
    }

    /// Offers a request that ended at this minute and took so many microseconds.
    fn offer(recent: &Recent, minute: u64, duration_us: u64, status: u16) {
        let end = 1_000_000_000_000_000 / MINUTE_NS * MINUTE_NS + minute * MINUTE_NS + 1_000_000_000;
        let head = Head {
            trace_id: TraceId([0xab; 16]),
            first_readable: MonoNs(end - duration_us * 1000),
            head_read: MonoNs(end - duration_us * 500),
            head_written: MonoNs(end),
            ended: MonoNs(end),
            method: Method::Get,
            entry_point: 1,
            route: 2,
            service: 3,
            status,
            attempts_made: 1,
            ..Head::default()
        };
        let long = "/ä".repeat(TEXT_MAX);
        let texts = Texts { host: "hotrod.localhost:8000", path: &long, ..Texts::default() };
        let attempts = vec![Attempt { address: "127.0.0.1:8080".parse().unwrap(), ..Attempt::default() }];
        let record = Record {
            head,
            attempts,
            calls: Vec::new(),
            texts,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        };
        recent.offer(&attribute(&record), &catalog(), &Pods::none());
    }

    fn minute(number: u64) -> MonoNs {
        MonoNs(1_000_000_000_000_000 / MINUTE_NS * MINUTE_NS + number * MINUTE_NS + MINUTE_NS - 1)
    }

    fn durations(recent: &Recent, now: u64) -> Vec<u64> {
        recent.list(minute(now)).iter().map(|request| request.duration_us).collect()
    }

    #[test]
    fn the_slowest_stay_in_order_and_the_store_is_bounded() {
        let recent = Recent::default();
        for i in 0..10_000_u64 {
            // A permutation of 0..10,000: 7,919 is prime.
            offer(&recent, 0, i * 7_919 % 10_000, 200);
        }
        assert_eq!(durations(&recent, 0), (9_950..10_000).rev().collect::<Vec<_>>());
        assert_eq!(recent.threshold_us.load(Ordering::Relaxed), 9_950);
    }

    #[test]
    fn a_tunnel_is_not_slow() {
        let recent = Recent::default();
        offer(&recent, 0, 9_000_000, 101);
        offer(&recent, 0, 10, 200);
        assert_eq!(durations(&recent, 0), [10]);
    }

    #[test]
    fn a_quick_request_builds_nothing_once_the_minute_is_full() {
        let recent = Recent::default();
        (0..50).for_each(|_| offer(&recent, 0, 500, 200));
        let guard = recent.kept.lock().unwrap();
        // Would wait for ever if it locked.
        offer(&recent, 0, 500, 200);
        offer(&recent, 0, 20, 404);
        drop(guard);
    }

    #[test]
    fn each_minute_has_its_own_threshold_and_old_ones_go() {
        let recent = Recent::default();
        (0..60).for_each(|_| offer(&recent, 0, 9_000, 200));
        offer(&recent, 1, 10, 200);
        assert_eq!(durations(&recent, 1).last(), Some(&9_000), "fifty slower ones hide it");
        for minute in 2..=7 {
            offer(&recent, minute, minute, 200);
        }
        assert_eq!(durations(&recent, 7), [7, 6, 5, 4, 3, 2]);
        assert_eq!(recent.kept.lock().unwrap().minutes.len(), 6);
        assert_eq!(durations(&recent, 11), [7, 6]);
        offer(&recent, 3, 100, 200);
        assert_eq!(durations(&recent, 7)[0], 100, "one that comes late counts in the running minute");
    }

    #[test]
    fn failures_are_kept_beside_the_slowest_and_listed_once() {
        let recent = Recent::default();
        offer(&recent, 0, 700, 503);
        assert_eq!(recent.list(minute(0)).len(), 1);
        (0..50).for_each(|_| offer(&recent, 0, 500, 200));
        (1..=10).for_each(|us| offer(&recent, 0, us, 500));
        let list = recent.list(minute(0));
        assert_eq!(list.iter().filter(|request| request.failed).count(), 11);
        assert_eq!(list.last().unwrap().duration_us, 1, "newest failures first");
        (0..10_000).for_each(|_| offer(&recent, 0, 1, 500));
        assert_eq!(recent.kept.lock().unwrap().failures.len(), KEPT_MAX);
    }

    #[test]
    fn a_request_is_described_by_the_catalogs_names() {
        let recent = Recent::default();
        offer(&recent, 0, 1_000, 502);
        let [request] = recent.list(minute(0)).try_into().unwrap();
        assert_eq!(request.trace_id, "ab".repeat(16));
        assert_eq!((request.name.as_str(), request.route.as_str()), ("GET hotrod.localhost/", "/"));
        assert_eq!((request.router.as_str(), request.service.as_str()), ("hotrod", "hotrod"));
        assert_eq!((request.entry_point.as_str(), request.upstream.as_str()), ("web", "127.0.0.1:8080"));
        assert_eq!(request.path.chars().count(), TEXT_MAX + 1);
        assert_eq!(request.phases.iter().map(|phase| phase.us).sum::<u64>(), 1_000);
        assert!(serde_json::to_string(&request).unwrap().contains("\"status\":502"));
    }

    #[test]
    fn a_request_without_a_route_is_named_by_its_method() {
        let record = Record {
            head: Head { ended: MonoNs(5), ..Head::default() },
            attempts: Vec::new(),
            calls: Vec::new(),
            texts: Texts::default(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        };
        let request = describe(&attribute(&record), &Catalog::default(), &Pods::none());
        assert_eq!((request.name.as_str(), request.method, request.router.as_str()), ("HTTP", "_OTHER", ""));
    }
}
