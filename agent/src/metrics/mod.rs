//! The page `/metrics`: what the proxy, the merge, the exporter and the probes have counted, under Traefik's names with
//! our prefix. Counting is theirs; serving the page is the api's. Names and labels of metrics stand here and nowhere
//! else.

mod phases;
mod process;
mod text;
#[cfg(test)]
mod validator;

use std::collections::BTreeMap;

pub use phases::{PhaseReader, PhaseWriter};
pub use text::Format;
use wayspan_proxy::counters::{Bounds, Key, Series, TLS_FAILURES, Totals};

use self::phases::{BOUNDS_US, PhaseReading};
use self::process::Process;
use self::text::{Kind, Page};
use crate::catalog::Catalog;
use crate::config::model::Certificate;
use crate::kube::{pods, watch};
use crate::merge::phase::Phase;

/// The exporter's account: made = sent + lost + pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Spans built from sampled requests.
    pub made: u64,
    /// Acknowledged by the collector and not rejected.
    pub sent: u64,
    /// Given up, rejected, or of unknown fate.
    pub lost: u64,
    /// On their way.
    pub pending: u64,
}

/// One probe's account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// The probe, by its program's name.
    pub name: String,
    /// Runs on sockets of ours.
    pub hits: u64,
    /// Runs on foreign sockets.
    pub misses: u64,
}

/// The probes' slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Connections of ours that found none free.
    pub refused: u64,
    /// Backends' ends of them on this node that found none.
    pub peers_refused: u64,
    /// Slots that could not be given back: a fault of ours.
    pub lost: u64,
}

/// The way from the workers to the merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Attributed.
    pub merged: u64,
    /// Lost to full rings.
    pub lost: u64,
    /// No record: a fault of ours.
    pub undecodable: u64,
}

/// Reloads of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadCounts {
    /// Tried, the first reading included.
    pub reloads: u64,
    /// Whether the last one had no fault.
    pub last_succeeded: bool,
}

/// All that the page shows, as it was read.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Names behind ids. Series whose names are gone are not shown, like Traefik's after a reload.
    pub catalog: &'a Catalog,
    /// The workers' series, not yet added up.
    pub series: &'a [Series],
    /// Of the series' buckets.
    pub bounds: &'a Bounds,
    /// The workers' totals.
    pub totals: Totals,
    /// Connections open now, by entry point's id.
    pub open: &'a [(u32, usize)],
    /// Records.
    pub records: RecordCounts,
    /// Phase histograms, one reader per merge thread.
    pub phases: &'a [PhaseReader],
    /// Spans.
    pub spans: SpanCounts,
    /// Probes; empty where none run.
    pub probes: &'a [ProbeCounts],
    /// Runs that the kernel left out, by the probe's name; of those of which it tells.
    pub probes_skipped: &'a [(&'static str, u64)],
    /// Their slots.
    pub slots: SlotCounts,
    /// Pods; `None` where none are watched.
    pub pods: Option<pods::Reading>,
    /// Watches of what routes are made from; `None` where there are none.
    pub watches: Option<watch::Reading>,
    /// Configuration.
    pub config: ReloadCounts,
    /// Certificates that clients may be shown.
    pub certificates: &'a [&'a Certificate],
}

/// The page. Reads the process's own figures, the rest is in the inputs.
#[must_use]
pub fn render(inputs: &Inputs<'_>, format: Format) -> String {
    let mut page = Page::new(format);
    requests(&mut page, inputs);
    connections(&mut page, inputs);
    phase_histograms(&mut page, inputs.phases);
    tracing_path(&mut page, inputs);
    certificates(&mut page, inputs.certificates);
    if let Some(pods) = &inputs.pods {
        kubernetes(&mut page, pods);
    }
    if let Some(watches) = &inputs.watches {
        providers(&mut page, watches);
    }
    process(&mut page, &Process::read());
    page.finish()
}

/// Traefik's label; other protocols on top of HTTP are not told apart yet.
const PROTOCOL: &str = "http";
/// Traefik's label of connections.
const TRANSPORT: &str = "TCP";

/// The four families of one view of the requests.
struct View {
    requests: &'static str,
    durations: &'static str,
    request_bytes: &'static str,
    response_bytes: &'static str,
    /// How the view calls its subject, in help texts.
    subject: &'static str,
    labels: [&'static str; 2],
}

const ENTRY_POINTS: View = View {
    requests: "wayspan_entrypoint_requests_total",
    durations: "wayspan_entrypoint_request_duration_seconds",
    request_bytes: "wayspan_entrypoint_requests_bytes_total",
    response_bytes: "wayspan_entrypoint_responses_bytes_total",
    subject: "an entry point",
    labels: ["entrypoint", ""],
};
const ROUTERS: View = View {
    requests: "wayspan_router_requests_total",
    durations: "wayspan_router_request_duration_seconds",
    request_bytes: "wayspan_router_requests_bytes_total",
    response_bytes: "wayspan_router_responses_bytes_total",
    subject: "a router",
    labels: ["router", "service"],
};
const SERVICES: View = View {
    requests: "wayspan_service_requests_total",
    durations: "wayspan_service_request_duration_seconds",
    request_bytes: "wayspan_service_requests_bytes_total",
    response_bytes: "wayspan_service_responses_bytes_total",
    subject: "a service",
    labels: ["service", ""],
};

/// What one line of a view stands for: its one or two names, method, code.
type Line<'a> = ([&'a str; 2], &'static str, u16);

#[derive(Clone, Debug, Default)]
struct Sums {
    requests: u64,
    duration_ns: u64,
    buckets: Vec<u64>,
    request_bytes: u64,
    response_bytes: u64,
}

impl Sums {
    fn add(&mut self, series: &Series) {
        self.requests = self.requests.wrapping_add(series.requests);
        self.duration_ns = self.duration_ns.wrapping_add(series.duration_ns);
        self.request_bytes = self.request_bytes.wrapping_add(series.request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(series.response_bytes);
        self.buckets.resize(series.buckets.len(), 0);
        for (sum, bucket) in self.buckets.iter_mut().zip(&series.buckets) {
            *sum = sum.wrapping_add(*bucket);
        }
    }
}

fn requests(page: &mut Page, inputs: &Inputs<'_>) {
    let Catalog { entry_points, routes, services, .. } = inputs.catalog;
    view(page, &ENTRY_POINTS, inputs, |key| Some([entry_points.get(&key.entry_point)?, ""]));
    view(page, &ROUTERS, inputs, |key| routes.get(&key.route).map(|route| [&*route.router, &*route.service]));
    view(page, &SERVICES, inputs, |key| Some([services.get(&key.service)?, ""]));
}

/// Adds series up by name, so that ids that share one do not make a line twice, and writes the view's families.
fn view<'a>(page: &mut Page, view: &View, inputs: &Inputs<'_>, names: impl Fn(&Key) -> Option<[&'a str; 2]>) {
    let mut lines = BTreeMap::<Line<'a>, Sums>::new();
    for one in inputs.series {
        if let Some(names) = names(&one.key) {
            lines.entry((names, one.key.method.name(), one.key.code)).or_default().add(one);
        }
    }
    let subject = view.subject;
    page.family(view.requests, Kind::Counter, &format!("Requests through {subject}; code 0 where no answer was sent."));
    each(page, view, &lines, |page, labels, sums| page.sample(labels, sums.requests));
    page.family(view.durations, Kind::Histogram, &format!("Durations of requests through {subject}."));
    each(page, view, &lines, |page, labels, sums| {
        page.histogram(labels, inputs.bounds.seconds(), &sums.buckets, sums.duration_ns as f64 / 1e9);
    });
    page.family(view.request_bytes, Kind::Counter, &format!("Bytes of request bodies through {subject}."));
    each(page, view, &lines, |page, labels, sums| page.sample(labels, sums.request_bytes));
    page.family(view.response_bytes, Kind::Counter, &format!("Bytes of response bodies through {subject}."));
    each(page, view, &lines, |page, labels, sums| page.sample(labels, sums.response_bytes));
}

fn each(
    page: &mut Page,
    view: &View,
    lines: &BTreeMap<Line<'_>, Sums>,
    write: impl Fn(&mut Page, &[text::Label<'_>], &Sums),
) {
    for (([first, second], method, code), sums) in lines {
        let code = code.to_string();
        let [first_label, second_label] = view.labels;
        let labels = [
            ("code", code.as_str()),
            ("method", method),
            ("protocol", PROTOCOL),
            (first_label, first),
            (second_label, second),
        ];
        let count = if second_label.is_empty() { labels.len() - 1 } else { labels.len() };
        write(page, labels.get(..count).unwrap_or_default(), sums);
    }
}

fn counter(page: &mut Page, name: &'static str, help: &str, value: u64) {
    page.family(name, Kind::Counter, help);
    page.sample(&[], value);
}

fn gauge(page: &mut Page, name: &'static str, help: &str, value: impl std::fmt::Display) {
    page.family(name, Kind::Gauge, help);
    page.sample(&[], value);
}

fn connections(page: &mut Page, inputs: &Inputs<'_>) {
    // An entry point that left and came back has had two ids.
    let mut open = BTreeMap::<&str, usize>::new();
    for (id, count) in inputs.open {
        if let Some(name) = inputs.catalog.entry_points.get(id) {
            *open.entry(name).or_default() += count;
        }
    }
    page.family("wayspan_open_connections", Kind::Gauge, "Client connections open now, by entry point.");
    for (name, count) in open {
        page.sample(&[("entrypoint", name), ("protocol", TRANSPORT)], count);
    }
    let Totals { accepted, refused, refused_requests, connected, reused, tunnels_begun, tunnels_ended, .. } =
        inputs.totals;
    // Read one after the other: a tunnel may have ended in between.
    let tunnels = tunnels_begun.saturating_sub(tunnels_ended);
    gauge(page, "wayspan_open_tunnels", "Client connections whose protocol was switched, such as WebSockets.", tunnels);
    counter(page, "wayspan_accepted_connections_total", "Client connections accepted.", accepted);
    counter(page, "wayspan_refused_connections_total", "Client connections refused at the cap.", refused);
    counter(
        page,
        "wayspan_refused_requests_total",
        "Requests refused before routing, for their framing or size.",
        refused_requests,
    );
    let Totals { tls_handshakes, tls_resumed, tls_failed, .. } = inputs.totals;
    counter(page, "wayspan_tls_handshakes_total", "TLS handshakes with clients that were done.", tls_handshakes);
    counter(page, "wayspan_tls_handshakes_resumed_total", "Those of them that resumed a session.", tls_resumed);
    page.family(
        "wayspan_tls_handshake_failures_total",
        Kind::Counter,
        "TLS handshakes with clients that came to nothing, by reason.",
    );
    for (reason, count) in TLS_FAILURES.into_iter().zip(tls_failed) {
        page.sample(&[("reason", reason)], count);
    }
    counter(page, "wayspan_upstream_connections_total", "Connections made to servers.", connected);
    counter(page, "wayspan_upstream_reuses_total", "Requests sent over a kept connection.", reused);
    let Totals { mirrored, mirrors_lost, .. } = inputs.totals;
    counter(page, "wayspan_mirrored_requests_total", "Copies of requests that mirrors answered.", mirrored);
    counter(page, "wayspan_mirrors_lost_total", "Copies of requests that came to nothing.", mirrors_lost);
}

fn phase_histograms(page: &mut Page, readers: &[PhaseReader]) {
    let mut sums = [PhaseReading::default(); Phase::COUNT];
    for reader in readers {
        for (sum, reading) in sums.iter_mut().zip(reader.read()) {
            sum.sum_us = sum.sum_us.wrapping_add(reading.sum_us);
            for (all, bucket) in sum.buckets.iter_mut().zip(reading.buckets) {
                *all = all.wrapping_add(bucket);
            }
        }
    }
    let bounds = BOUNDS_US.map(|us| us as f64 / 1e6);
    page.family(
        "wayspan_phase_duration_seconds",
        Kind::Histogram,
        "Time per phase, over the requests in which it took a microsecond or more.",
    );
    for (phase, sum) in Phase::ALL.into_iter().zip(sums) {
        let labels = [("phase", phase.name()), ("blame", phase.blame().name())];
        page.histogram(&labels, &bounds, &sum.buckets, sum.sum_us as f64 / 1e6);
    }
}

fn tracing_path(page: &mut Page, inputs: &Inputs<'_>) {
    let RecordCounts { merged, lost, undecodable } = inputs.records;
    counter(page, "wayspan_records_merged_total", "Records of requests merged.", merged);
    counter(page, "wayspan_records_lost_total", "Records lost to full rings.", lost);
    counter(page, "wayspan_records_undecodable_total", "Records that could not be read.", undecodable);
    let SpanCounts { made, sent, lost, pending } = inputs.spans;
    counter(page, "wayspan_spans_made_total", "Spans made; sent, lost and pending ones add up to it.", made);
    counter(page, "wayspan_spans_sent_total", "Spans acknowledged by the collector.", sent);
    counter(page, "wayspan_spans_lost_total", "Spans given up, rejected, or of unknown fate.", lost);
    gauge(page, "wayspan_spans_pending", "Spans on their way.", pending);
    // Two probes of one name would be two lines of one series.
    let mut probes = BTreeMap::<&str, (u64, u64)>::new();
    for probe in inputs.probes {
        let (hits, misses) = probes.entry(&probe.name).or_default();
        *hits += probe.hits;
        *misses += probe.misses;
    }
    page.family("wayspan_probe_hits_total", Kind::Counter, "Runs of a probe on sockets of ours.");
    for (name, (hits, _)) in &probes {
        page.sample(&[("probe", name)], hits);
    }
    page.family("wayspan_probe_misses_total", Kind::Counter, "Runs of a probe on foreign sockets.");
    for (name, (_, misses)) in &probes {
        page.sample(&[("probe", name)], misses);
    }
    let skipped = "Runs of a probe that the kernel left out since it ran on that CPU already; where the kernel tells.";
    page.family("wayspan_probe_skipped_total", Kind::Counter, skipped);
    for (name, runs) in inputs.probes_skipped {
        page.sample(&[("probe", name)], runs);
    }
    let SlotCounts { refused, peers_refused, lost } = inputs.slots;
    counter(page, "wayspan_probe_refusals_total", "Connections that found no free slot of the probes.", refused);
    let peers = "Backends' ends of connections, on this node, that found no free slot of the probes.";
    counter(page, "wayspan_probe_peer_refusals_total", peers, peers_refused);
    counter(page, "wayspan_probe_slots_lost_total", "Slots of the probes that could not be given back.", lost);
    let ReloadCounts { reloads, last_succeeded } = inputs.config;
    counter(page, "wayspan_config_reloads_total", "Readings of the configuration.", reloads);
    let succeeded = u8::from(last_succeeded);
    gauge(page, "wayspan_config_last_reload_success", "Whether the last reading had no fault.", succeeded);
    page.family("wayspan_build_info", Kind::Gauge, "The version that runs.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn certificates(page: &mut Page, certificates: &[&Certificate]) {
    // One that stands in two places is one.
    let lines: BTreeMap<_, _> = certificates
        .iter()
        .map(|one| ((one.common_name.as_str(), one.serial.as_str(), one.names.join(",")), one.not_after))
        .collect();
    page.family("wayspan_tls_certs_not_after", Kind::Gauge, "When certificates end, Unix time.");
    for ((common_name, serial, names), not_after) in lines {
        page.sample(&[("cn", common_name), ("sans", &names), ("serial", serial)], not_after);
    }
}

fn kubernetes(page: &mut Page, pods: &pods::Reading) {
    gauge(page, "wayspan_kubernetes_pods", "Pods that spans can name.", pods.pods);
    gauge(page, "wayspan_kubernetes_pods_gone", "Pods that have gone and can still be named.", pods.resting);
    counter(page, "wayspan_kubernetes_refused_total", "Changes of pods and nodes that found no room.", pods.refused);
    let restarts = "Watches of pods and nodes that failed or listed anew.";
    counter(page, "wayspan_kubernetes_watch_restarts_total", restarts, pods.restarts);
    gauge(page, "wayspan_kubernetes_synced", "Whether all pods are known as of now.", u8::from(pods.is_synced));
    if let Some(age_s) = pods.heard_before_seconds {
        let help = "Seconds since the API server last told of a pod or a node.";
        gauge(page, "wayspan_kubernetes_last_event_age_seconds", help, age_s);
    }
}

fn providers(page: &mut Page, reading: &watch::Reading) {
    let watch::Reading { watches, ready, failing, failures, whole_translations, partial_translations, .. } = *reading;
    let watch::Reading { events_refused, statuses_contested, statuses_refused, .. } = *reading;
    gauge(page, "wayspan_provider_watches", "Watches of what routes are made from.", watches);
    gauge(page, "wayspan_provider_watches_ready", "Those that have told all that there is.", ready);
    let help = "Those that wait to try again; what they told last is served.";
    gauge(page, "wayspan_provider_watches_failing", help, failing);
    counter(page, "wayspan_provider_watch_failures_total", "Failures of these watches.", failures);
    let help = "Translations of objects into routes: of all, or of those that a change concerns.";
    page.family("wayspan_provider_translations_total", Kind::Counter, help);
    for (scope, count) in [("all", whole_translations), ("part", partial_translations)] {
        page.sample(&[("scope", scope)], count);
    }
    let help = "Events about bad objects that the API server refused until they were given up for half an hour.";
    counter(page, "wayspan_provider_events_refused_total", help, events_refused);
    let help = "Statuses that somebody else keeps changing to something else, and that are written less often for it.";
    gauge(page, "wayspan_provider_statuses_contested", help, statuses_contested);
    let help = "Statuses that the API server refuses, and that are tried less and less often.";
    gauge(page, "wayspan_provider_statuses_refused", help, statuses_refused);
}

fn process(page: &mut Page, process: &Process) {
    if let Some(cpu_s) = process.cpu_s {
        page.family("process_cpu_seconds_total", Kind::Counter, "CPU time of the process.");
        page.sample(&[], cpu_s);
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes),
        ("process_threads", "Threads.", process.threads),
        ("process_open_fds", "Open file descriptors.", process.open_fds),
        ("process_max_fds", "Most file descriptors that may be open.", process.max_fds),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            gauge(page, name, help, value);
        }
    }
    if let Some(started_s) = process.started_s {
        gauge(page, "process_start_time_seconds", "Start of the process, Unix time.", started_s);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wayspan_proxy::counters::{Counters, Total};
    use wayspan_proxy::record::{Method, NO_ID};

    use super::validator::{Parsed, parse};
    use super::*;
    use crate::catalog::RouteNames;

    fn route(router: &str, service: &str) -> Arc<RouteNames> {
        Arc::new(RouteNames {
            router: router.into(),
            service: service.into(),
            rule: "".into(),
            operations: Vec::new(),
            patterns: Vec::new(),
            middlewares: Vec::new(),
            detailed: false,
            internal: false,
        })
    }

    fn catalog() -> Catalog {
        Catalog {
            entry_points: [(1, "web".into()), (2, "in\"ner\\\n".into())].into(),
            // Two ids of one name: a router that left and came back.
            routes: [(10, route("hotrod", "hotrod")), (11, route("hotrod", "hotrod"))].into(),
            services: [(20, "hotrod".into())].into(),
            ..Catalog::default()
        }
    }

    /// Two workers' requests, read and rendered.
    fn page(format: Format) -> Parsed {
        let counters = Counters::default();
        let key = Key { entry_point: 1, route: 10, service: 20, method: Method::Get, code: 200 };
        for _ in 0..2 {
            let mut worker = counters.worker();
            worker.count(Total::Accepted);
            worker.count(Total::TunnelsBegun);
            worker.request(key, 4_000_000, 1, 100);
            worker.request(key, 60_000_000_000, 1, 100);
            worker.request(Key { route: 11, ..key }, 20_000_000, 0, 50);
            worker.request(Key { route: NO_ID, service: NO_ID, code: 404, ..key }, 1_000, 0, 10);
            worker.request(Key { entry_point: 2, method: Method::Other, ..key }, 1_000, 0, 10);
            worker.request(Key { entry_point: 99, route: 99, service: 99, ..key }, 1_000, 0, 10);
        }
        let (series, totals) = counters.read();
        let probe = ProbeCounts { name: "sk_data_ready".into(), hits: 9, misses: 4 };
        let inputs = Inputs {
            catalog: &catalog(),
            series: &series,
            bounds: counters.bounds(),
            totals,
            open: &[(1, 2), (2, 0), (99, 7)],
            records: RecordCounts { merged: 12, lost: 1, undecodable: 0 },
            phases: &[PhaseWriter::default().reader(), PhaseWriter::default().reader()],
            spans: SpanCounts { made: 10, sent: 7, lost: 1, pending: 2 },
            probes: &[probe.clone(), probe],
            probes_skipped: &[("sk_data_ready", 2)],
            slots: SlotCounts { refused: 3, peers_refused: 4, lost: 5 },
            pods: Some(pods::Reading { pods: 9, restarts: 2, is_synced: true, ..pods::Reading::default() }),
            watches: Some(watch::Reading {
                watches: 4,
                failing: 1,
                whole_translations: 7,
                ..watch::Reading::default()
            }),
            config: ReloadCounts { reloads: 2, last_succeeded: true },
            certificates: &[],
        };
        parse(&render(&inputs, format), format)
    }

    #[test]
    fn series_are_added_up_by_name_in_each_view() {
        for format in [Format::Classic, Format::OpenMetrics] {
            let page = page(format);
            let get = [("code", "200"), ("method", "GET"), ("protocol", "http")];
            let with = |name, value| [get.as_slice(), &[(name, value)]].concat();
            let web = with("entrypoint", "web");
            assert_eq!(page.value("wayspan_entrypoint_requests_total", &web), 6.0);
            assert_eq!(page.value("wayspan_entrypoint_request_duration_seconds_count", &web), 6.0);
            assert_eq!(page.value("wayspan_entrypoint_request_duration_seconds_sum", &web), 120.048);
            let le = [web.as_slice(), &[("le", "0.025")]].concat();
            assert_eq!(page.value("wayspan_entrypoint_request_duration_seconds_bucket", &le), 4.0);
            assert_eq!(page.value("wayspan_entrypoint_responses_bytes_total", &web), 500.0);
            assert_eq!(page.value("wayspan_entrypoint_requests_bytes_total", &web), 4.0);
            assert_eq!(page.value("wayspan_entrypoint_requests_total", &[("code", "404")]), 2.0);
            assert_eq!(page.value("wayspan_entrypoint_requests_total", &[("entrypoint", "in\"ner\\\n")]), 2.0);
            let hotrod = [get.as_slice(), &[("router", "hotrod"), ("service", "hotrod")]].concat();
            assert_eq!(page.value("wayspan_router_requests_total", &hotrod), 6.0);
            assert_eq!(page.value("wayspan_service_requests_total", &with("service", "hotrod")), 6.0);
            assert_eq!(page.value("wayspan_service_requests_total", &[("method", "_OTHER")]), 2.0);
        }
    }

    #[test]
    fn every_account_has_its_line() {
        let page = page(Format::Classic);
        for (name, labels, expected) in [
            ("wayspan_open_connections", &[("entrypoint", "web"), ("protocol", "TCP")][..], 2.0),
            ("wayspan_open_connections", &[("entrypoint", "in\"ner\\\n"), ("protocol", "TCP")], 0.0),
            ("wayspan_accepted_connections_total", &[], 2.0),
            ("wayspan_open_tunnels", &[], 2.0),
            ("wayspan_records_merged_total", &[], 12.0),
            ("wayspan_records_lost_total", &[], 1.0),
            ("wayspan_spans_made_total", &[], 10.0),
            ("wayspan_spans_sent_total", &[], 7.0),
            ("wayspan_spans_lost_total", &[], 1.0),
            ("wayspan_spans_pending", &[], 2.0),
            ("wayspan_probe_hits_total", &[("probe", "sk_data_ready")], 18.0),
            ("wayspan_probe_misses_total", &[("probe", "sk_data_ready")], 8.0),
            ("wayspan_probe_skipped_total", &[("probe", "sk_data_ready")], 2.0),
            ("wayspan_probe_refusals_total", &[], 3.0),
            ("wayspan_probe_peer_refusals_total", &[], 4.0),
            ("wayspan_probe_slots_lost_total", &[], 5.0),
            ("wayspan_kubernetes_pods", &[], 9.0),
            ("wayspan_provider_watches_failing", &[], 1.0),
            ("wayspan_provider_translations_total", &[("scope", "all")], 7.0),
            ("wayspan_kubernetes_watch_restarts_total", &[], 2.0),
            ("wayspan_kubernetes_synced", &[], 1.0),
            ("wayspan_config_reloads_total", &[], 2.0),
            ("wayspan_config_last_reload_success", &[], 1.0),
            ("wayspan_phase_duration_seconds_count", &[("phase", "upstream_wait"), ("blame", "upstream")], 0.0),
        ] {
            assert_eq!(page.value(name, labels), expected, "{name}");
        }
        assert!(page.value("process_resident_memory_bytes", &[]) > 100_000.0);
        assert_eq!(page.types.get("process_cpu_seconds_total").map(String::as_str), Some("counter"));
    }
}
