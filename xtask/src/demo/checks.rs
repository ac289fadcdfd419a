//! What `demo --check` verifies, and `cluster test` with it: through Jaeger's API where the real parts run, through the
//! agent's own else. Each check is a pure function over what was seen; they are repeated until all hold or time is up.

use std::time::Duration;

use anyhow::Result;
use wayspan_tests::{Edge, HotRod, Jaeger, Span, Trace, http, wait_until};

use super::Lab;
use super::lab::{HOST, Sent};

/// The service name of deploy/lab/wayspan.yaml.
pub const OURS: &str = "wayspan";

// Spans are batched for seconds on both sides; a machine of two busy cores needs a few times that.
const TIME: Duration = Duration::from_secs(40);

// Traces asked for: the lab's few requests and those of dashboard and ping, which a kubelet asks for every other second.
const TRACES_MAX: usize = 2000;

/// The path that the added router takes away from the general one.
pub const ADDED_PATH: &str = "/config";

/// One check and what was wrong.
pub struct Check {
    /// What should hold.
    pub name: &'static str,
    /// Why it does not.
    pub fault: Option<String>,
}

/// The names that routers and services have, which differ with where routes come from.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// `traefik.router.name`: the lab's router and the one that is added.
    pub routers: &'a [&'a str],
    /// `traefik.service.name` of both.
    pub services: &'a [&'a str],
}

/// The names that a file gives.
const OF_A_FILE: Names<'static> = Names { routers: &["hotrod@file", "added@file"], services: &["hotrod@file"] };

/// Everything that Jaeger says of the run, and what was sent.
pub struct Seen<'a> {
    services: Vec<String>,
    operations: Vec<(String, String)>,
    traces: Vec<Trace>,
    edges: Vec<Edge>,
    sent: &'a [Sent],
    /// Some probes are missing, and known to be.
    probes_lack: bool,
    /// The operations before the router was added.
    before: &'a [(String, String)],
    names: Names<'a>,
}

type Verdict = Result<(), String>;
type Rule = fn(&Seen) -> Verdict;

/// The checks by name, in the order of the lab.
const CHECKS: [(&str, Rule); 14] = [
    ("Jaeger lists our service", our_service),
    ("the router has an operation per method, named by host and path pattern", operations),
    ("every request through the ingress left exactly one entry-point span", one_span_each),
    ("entry-point spans are SERVER spans with method, URL parts, host and status", entry_points),
    ("router spans are INTERNAL and name router and service", router_spans),
    ("the backend's CLIENT span is inside, and the parent of Hot R.O.D.'s", client_spans),
    ("Hot R.O.D.'s six services are in the same trace", six_services),
    ("the dependency graph has wayspan -> frontend with as many calls as requests", calls),
    ("the dependency graph has frontend -> customer, driver, route", frontend_edges),
    ("dashboard and ping have operations", internals),
    ("a router added by reload is a new operation", added_operation),
    ("our spans have no warnings and lie inside their parents", no_warnings),
    ("wayspan.coverage is full on every entry-point span, or says why not where probes are missing", coverage),
    ("the phases of every entry-point span sum to its duration exactly", sums),
];

/// Adds a router, sends through it, and checks everything.
pub fn all(lab: &mut Lab) -> Result<Vec<Check>> {
    if lab.jaeger().is_none() {
        return super::embedded_checks::all(lab);
    }
    // The first operations have to be in Jaeger before the new one can be told as new.
    let before = wait_until(TIME, || {
        let operations = lab.jaeger()?.operations(OURS).ok()?;
        operations.iter().any(|(kind, _)| kind == "server").then_some(operations)
    })
    .unwrap_or_default();
    add_router(lab)?;
    let probes_lack = lab.lacking_probes()?.is_some();
    let Some(jaeger) = lab.jaeger() else { return Ok(Vec::new()) };
    let mut last = settled(jaeger, &lab.sent, &before, probes_lack, OF_A_FILE);
    let unsettled = last.iter().any(|check| check.fault.is_some());
    if unsettled && let Some(fault) = lab.ended() {
        last.push(Check { name: "all parts are still up", fault: Some(fault) });
    }
    Ok(last)
}

/// Asks Jaeger until every check holds or time is up; the last outcome.
pub fn settled(
    jaeger: &Jaeger,
    sent: &[Sent],
    before: &[(String, String)],
    probes_lack: bool,
    names: Names<'_>,
) -> Vec<Check> {
    let mut last = Vec::new();
    wait_until(TIME, || {
        last = match look(jaeger, sent, before, probes_lack, names) {
            Ok(seen) => judge(&seen),
            Err(error) => vec![Check { name: "Jaeger's API answers", fault: Some(format!("{error:#}")) }],
        };
        last.iter().all(|check| check.fault.is_none()).then_some(())
    });
    last
}

/// Adds a router for one path while the agent runs, waits until the api lists it, and sends a request through it.
pub fn add_router(lab: &mut Lab) -> Result<()> {
    lab.add_router("added", ADDED_PATH)?;
    let api = lab.api;
    let applied = wait_until(TIME, || {
        let routers = http::get(api, &api.to_string(), "/api/http/routers").ok()?;
        routers.text().contains("added").then_some(())
    });
    if applied.is_none() {
        eprintln!("  the added router does not show in /api/http/routers");
    }
    lab.send("GET", ADDED_PATH)
}

fn look<'a>(
    jaeger: &Jaeger,
    sent: &'a [Sent],
    before: &'a [(String, String)],
    probes_lack: bool,
    names: Names<'a>,
) -> Result<Seen<'a>> {
    Ok(Seen {
        services: jaeger.services()?,
        operations: jaeger.operations(OURS)?,
        traces: jaeger.traces(OURS, TRACES_MAX)?,
        edges: jaeger.dependencies()?,
        sent,
        probes_lack,
        before,
        names,
    })
}

fn judge(seen: &Seen) -> Vec<Check> {
    CHECKS.iter().map(|(name, check)| Check { name, fault: check(seen).err() }).collect()
}

fn our_service(seen: &Seen) -> Verdict {
    ensure(seen.services.iter().any(|name| name == OURS), || format!("services: {:?}", seen.services))
}

fn operations(seen: &Seen) -> Verdict {
    for method in ["GET", "HEAD"] {
        has_operation(seen, &format!("{method} {HOST}/"))?;
    }
    // Bounded names: nothing of a request's path or query is in them.
    match seen.operations.iter().find(|(_, name)| name.contains("dispatch") || name.contains("392")) {
        Some((_, name)) => Err(format!("the operation {name:?} is named after a request")),
        None => Ok(()),
    }
}

fn has_operation(seen: &Seen, wanted: &str) -> Verdict {
    let found = seen.operations.iter().any(|(kind, name)| kind == "server" && name == wanted);
    ensure(found, || format!("no server operation {wanted:?} among {:?}", seen.operations))
}

fn one_span_each(seen: &Seen) -> Verdict {
    let spans = entries(seen).count();
    let sent = seen.sent.len();
    ensure(spans == sent, || format!("{sent} requests sent, {spans} entry-point spans"))?;
    let failed = seen.sent.iter().find(|sent| sent.status != 200);
    failed.map_or(Ok(()), |sent| Err(format!("{} {} answered {}", sent.method, sent.target, sent.status)))
}

fn entry_points(seen: &Seen) -> Verdict {
    for sent in seen.sent {
        let (path, query) = sent.target.split_once('?').unwrap_or((&sent.target, ""));
        let status = sent.status.to_string();
        let mut wanted = vec![
            ("span.kind", "server"),
            ("http.request.method", sent.method),
            ("url.scheme", "http"),
            ("url.path", path),
            ("server.address", HOST),
            ("http.response.status_code", &status),
        ];
        if !query.is_empty() {
            wanted.push(("url.query", query));
        }
        let matches = |span: &Span| wanted.iter().all(|(name, value)| span.tag(name) == Some(value));
        if !entries(seen).any(|(_, span)| matches(span)) {
            let nearest = entries(seen).map(|(_, span)| &span.tags).next();
            return Err(format!("no span of {} {} with {wanted:?}; one has {nearest:?}", sent.method, sent.target));
        }
    }
    Ok(())
}

fn router_spans(seen: &Seen) -> Verdict {
    each_entry(seen, |trace, entry| {
        let router = trace.of(OURS).find(|span| span.operation == "Router" && inside(trace, span, entry));
        let router = router.ok_or("no Router span")?;
        ensure(router.kind() == "internal", || format!("its kind is {:?}", router.kind()))?;
        // With their provider, as in Traefik.
        for (tag, wanted) in
            [("traefik.router.name", seen.names.routers), ("traefik.service.name", seen.names.services)]
        {
            let value = router.tag(tag).unwrap_or_default();
            ensure(wanted.contains(&value), || format!("{tag} is {value:?}"))?;
        }
        Ok(())
    })
}

fn client_spans(seen: &Seen) -> Verdict {
    each_entry(seen, |trace, entry| {
        let client = trace.of(OURS).find(|span| span.kind() == "client" && inside(trace, span, entry));
        let client = client.ok_or("no CLIENT span")?;
        let frontend = trace.children(client).find(|span| span.service == "frontend");
        ensure(frontend.is_some(), || "the frontend's span is not its child".to_owned())
    })
}

fn six_services(seen: &Seen) -> Verdict {
    each_entry(seen, |trace, entry| {
        if entry.tag("url.path") != Some("/dispatch") {
            return Ok(());
        }
        let missing: Vec<_> = HotRod::SERVICES.iter().filter(|name| trace.of(name).next().is_none()).collect();
        ensure(missing.is_empty(), || format!("missing: {missing:?}"))
    })
}

fn calls(seen: &Seen) -> Verdict {
    let calls = edge(seen, OURS, "frontend").map(|edge| edge.calls);
    let sent = seen.sent.len();
    ensure(calls == u64::try_from(sent).ok(), || format!("{sent} requests sent, calls: {calls:?}"))
}

fn frontend_edges(seen: &Seen) -> Verdict {
    for child in ["customer", "driver", "route"] {
        ensure(edge(seen, "frontend", child).is_some(), || format!("no edge to {child} among {:?}", seen.edges))?;
    }
    Ok(())
}

fn internals(seen: &Seen) -> Verdict {
    for word in ["dashboard", "ping"] {
        let found = seen.operations.iter().any(|(kind, name)| kind == "server" && name.contains(word));
        ensure(found, || format!("no server operation with {word:?} among {:?}", seen.operations))?;
    }
    Ok(())
}

fn added_operation(seen: &Seen) -> Verdict {
    let wanted = format!("GET {HOST}{ADDED_PATH}");
    has_operation(seen, &wanted)?;
    ensure(!seen.before.iter().any(|(_, name)| *name == wanted), || format!("{wanted:?} was there before"))
}

fn no_warnings(seen: &Seen) -> Verdict {
    for trace in &seen.traces {
        for span in trace.of(OURS) {
            ensure(span.warnings.is_empty(), || format!("{}: {:?}", span.operation, span.warnings))?;
            let parent = trace.spans.iter().find(|other| span.parent.as_ref() == Some(&other.id));
            let Some(parent) = parent.filter(|parent| parent.service == OURS) else { continue };
            let (end, limit) = (span.start_us + span.duration_us, parent.start_us + parent.duration_us);
            // Jaeger cuts start and duration to microseconds one by one, so an end can appear 1 us late.
            ensure(span.start_us >= parent.start_us && end <= limit + 1, || {
                format!("{} of {} reaches beyond {}", span.operation, trace.id, parent.operation)
            })?;
        }
    }
    Ok(())
}

fn coverage(seen: &Seen) -> Verdict {
    each_entry(seen, |_, entry| {
        let coverage = entry.tag("wayspan.coverage").unwrap_or_default();
        let says_why = coverage.starts_with("none: ") || coverage.starts_with("partial: ");
        ensure(coverage == "full" || (seen.probes_lack && says_why), || format!("coverage is {coverage:?}"))
    })
}

fn sums(seen: &Seen) -> Verdict {
    each_entry(seen, |_, entry| ensure(!entry.phases().is_empty(), || "no phases".to_owned()))?;
    for trace in &seen.traces {
        // A CLIENT span's are the upstream's side only.
        for span in trace.of(OURS).filter(|span| span.kind() == "server" && !span.phases().is_empty()) {
            let sum: u64 = span.phases().iter().map(|(_, micros)| micros).sum();
            ensure(sum == span.duration_us, || {
                format!("{}: {:?} come to {sum} us of {} us", span.operation, span.phases(), span.duration_us)
            })?;
        }
    }
    Ok(())
}

/// Our entry-point spans of requests that went through, each with its trace: SERVER spans of the entry point `web`.
fn entries<'a>(seen: &'a Seen) -> impl Iterator<Item = (&'a Trace, &'a Span)> {
    seen.traces.iter().flat_map(|trace| {
        let ours = trace.of(OURS).filter(|span| span.kind() == "server" && span.tag("entry_point") == Some("web"));
        ours.map(move |span| (trace, span))
    })
}

/// All entry points pass, and there are some.
fn each_entry(seen: &Seen, check: impl Fn(&Trace, &Span) -> Verdict) -> Verdict {
    ensure(entries(seen).next().is_some(), || "there are no entry-point spans".to_owned())?;
    for (trace, entry) in entries(seen) {
        check(trace, entry).map_err(|fault| {
            let path = entry.tag("url.path").unwrap_or_default();
            format!("{} ({path}) of trace {}: {fault}", entry.operation, trace.id)
        })?;
    }
    Ok(())
}

/// Whether `span` is a descendant of `ancestor`.
fn inside(trace: &Trace, span: &Span, ancestor: &Span) -> bool {
    let mut at = span;
    // As many steps as there are spans: a trace may name a circle.
    for _ in 0..trace.spans.len() {
        if at.parent.as_ref() == Some(&ancestor.id) {
            return true;
        }
        let Some(parent) = trace.spans.iter().find(|other| at.parent.as_ref() == Some(&other.id)) else { return false };
        at = parent;
    }
    false
}

fn edge<'a>(seen: &'a Seen, parent: &str, child: &str) -> Option<&'a Edge> {
    seen.edges.iter().find(|edge| edge.parent == parent && edge.child == child)
}

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(fault()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn span(id: &str, parent: Option<&str>, service: &str, operation: &str, tags: &[(&str, &str)]) -> Span {
        Span {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            service: service.to_owned(),
            operation: operation.to_owned(),
            start_us: 1000,
            duration_us: 500,
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            process: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    fn trace(id: &str, method: &str, path: &str, query: &str, router: &str) -> Trace {
        let operation = format!("{method} {HOST}{}", if router == "added" { path } else { "/" });
        let entry = [
            ("span.kind", "server"),
            ("entry_point", "web"),
            ("http.request.method", method),
            ("url.scheme", "http"),
            ("url.path", path),
            ("url.query", query),
            ("server.address", HOST),
            ("http.response.status_code", "200"),
            ("wayspan.coverage", "full"),
            ("wayspan.phase.read_wait", "100"),
            ("wayspan.phase.upstream_wait", "400"),
        ];
        let names =
            [("span.kind", "internal"), ("traefik.router.name", router), ("traefik.service.name", "hotrod@file")];
        let mut spans = vec![
            span("a", None, OURS, &operation, &entry),
            span("b", Some("a"), OURS, "Router", &names),
            span("c", Some("b"), OURS, method, &[("span.kind", "client")]),
        ];
        spans.extend(HotRod::SERVICES.iter().map(|name| span(name, Some("c"), name, "work", &[])));
        Trace { id: id.to_owned(), spans }
    }

    fn sent() -> Vec<Sent> {
        let sent = |method, target: &str| Sent { method, target: target.to_owned(), status: 200 };
        vec![sent("HEAD", "/dispatch?customer=392"), sent("GET", "/"), sent("GET", ADDED_PATH)]
    }

    fn seen(sent: &[Sent]) -> Seen<'_> {
        let edge =
            |parent: &str, child: &str, calls| Edge { parent: parent.to_owned(), child: child.to_owned(), calls };
        let server = |name: &str| ("server".to_owned(), name.to_owned());
        Seen {
            services: vec![OURS.to_owned()],
            operations: vec![
                server("GET hotrod.localhost/"),
                server("HEAD hotrod.localhost/"),
                server("GET hotrod.localhost/config"),
                server("GET /dashboard/"),
                server("GET /ping"),
            ],
            traces: vec![
                trace("1", "HEAD", "/dispatch", "customer=392", "hotrod@file"),
                trace("2", "GET", "/", "", "hotrod@file"),
                trace("3", "GET", ADDED_PATH, "", "added@file"),
            ],
            edges: vec![
                edge(OURS, "frontend", 3),
                edge("frontend", "customer", 1),
                edge("frontend", "driver", 1),
                edge("frontend", "route", 10),
            ],
            sent,
            probes_lack: false,
            before: &[],
            names: OF_A_FILE,
        }
    }

    /// Breaks what was seen and expects exactly the checks whose names contain `failing` to fail.
    #[track_caller]
    fn check(failing: &[&str], spoil: impl FnOnce(&mut Seen)) {
        let sent = sent();
        let mut seen = seen(&sent);
        spoil(&mut seen);
        let failed: Vec<Check> = judge(&seen).into_iter().filter(|check| check.fault.is_some()).collect();
        let unexpected = failed.iter().find(|check| !failing.iter().any(|part| check.name.contains(part)));
        assert!(unexpected.is_none(), "{:?}", unexpected.map(|check| (check.name, &check.fault)));
        for part in failing {
            assert!(failed.iter().any(|check| check.name.contains(part)), "{part:?} did not fail");
        }
    }

    fn tag(seen: &mut Seen, trace: usize, span: usize, name: &str, value: &str) {
        seen.traces[trace].spans[span].tags.insert(name.to_owned(), value.to_owned());
    }

    #[test]
    fn a_good_run_passes_every_check() {
        check(&[], |_| ());
    }

    #[test]
    fn every_check_can_fail() {
        check(&["lists our service"], |seen| seen.services.clear());
        check(&["an operation per method"], |seen| drop(seen.operations.remove(1)));
        check(&["an operation per method"], |seen| seen.operations.push(("server".into(), "GET /dispatch".into())));
        check(&["exactly one entry-point span"], |seen| seen.traces.push(seen.traces[1].clone()));
        check(&["method, URL parts"], |seen| tag(seen, 0, 0, "url.query", "customer=REDACTED"));
        check(&["method, URL parts"], |seen| tag(seen, 1, 0, "http.response.status_code", "304"));
        check(&["router spans"], |seen| tag(seen, 0, 1, "traefik.router.name", "other@file"));
        check(&["router spans"], |seen| tag(seen, 0, 1, "traefik.router.name", "hotrod"));
        check(&["router spans"], |seen| tag(seen, 0, 1, "span.kind", "producer"));
        check(&["CLIENT span"], |seen| seen.traces[2].spans[3].parent = Some("a".to_owned()));
        check(&["six services"], |seen| drop(seen.traces[0].spans.pop()));
        check(&["as many calls as requests"], |seen| seen.edges[0].calls = 4);
        check(&["customer, driver, route"], |seen| drop(seen.edges.pop()));
        check(&["dashboard and ping"], |seen| drop(seen.operations.pop()));
        check(&["added by reload"], |seen| drop(seen.operations.remove(2)));
        check(&["no warnings"], |seen| seen.traces[0].spans[2].warnings.push("clock skew".to_owned()));
        check(&["inside their parents"], |seen| seen.traces[0].spans[2].duration_us += 2);
        check(&["coverage"], |seen| tag(seen, 2, 0, "wayspan.coverage", "partial: slot reused"));
        check(&[], |seen| {
            tag(seen, 2, 0, "wayspan.coverage", "none: probes unavailable");
            seen.probes_lack = true;
        });
        check(&["coverage"], |seen| {
            tag(seen, 2, 0, "wayspan.coverage", "");
            seen.probes_lack = true;
        });
        check(&["sum to its duration"], |seen| tag(seen, 2, 0, "wayspan.phase.read_wait", "101"));
    }
}
