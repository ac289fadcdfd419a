//! What /metrics shows of requests, by the configuration's words.

use std::collections::BTreeMap;
use std::sync::{Mutex, mpsc};

use wayspan_tests::http::Connection;
use wayspan_tests::{Agent, Reply, Upstream, eventually, http};

/// The values of a family's lines by their labels, as the page writes them.
fn lines(page: &str, family: &str) -> BTreeMap<String, f64> {
    let line = |line: &str| {
        let (labels, value) = line.strip_prefix(family)?.rsplit_once(' ')?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(line).collect()
}

#[test]
fn the_configured_buckets_are_the_histograms_bounds() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = wayspan_tests::config::forward("PathPrefix(`/`)", upstream.address())
        + "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {buckets: [0.3, 60]}}\n";
    let mut agent = Agent::start(&config).unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
    let family = "wayspan_service_request_duration_seconds_bucket";
    let buckets = eventually("the request is counted", || {
        let buckets = lines(&http::get(api, "localhost", "/metrics").ok()?.text(), family);
        (!buckets.is_empty()).then_some(buckets)
    });
    let bounds: Vec<_> = buckets.keys().filter_map(|labels| labels.split("le=").nth(1)).collect();
    assert_eq!(bounds, ["\"+Inf\"}", "\"0.3\"}", "\"60\"}"]);
    assert!(buckets.iter().all(|(labels, value)| labels.contains("0.3") || *value == 1.0), "{buckets:?}");
}

#[test]
fn what_is_not_to_be_observed_is_neither_counted_nor_traced() {
    // The server says whether it was told that its request is sampled.
    let upstream = Upstream::start(|request| {
        let sampled = request.header("traceparent").is_some_and(|context| context.ends_with("-01"));
        Reply::ok(if sampled { "traced" } else { "untraced" })
    })
    .unwrap();
    let url = format!("http://{}", upstream.address());
    let mut agent = Agent::start(&format!(
        "entryPoints:
  seen: {{address: \"127.0.0.1:0\"}}
  unseen: {{address: \"127.0.0.1:0\", observability: {{metrics: false, tracing: false}}}}
http:
  routers:
    default: {{rule: \"Host(`default`)\", service: up}}
    always: {{rule: \"Host(`always`)\", service: up, observability: {{metrics: true, tracing: true}}}}
    never: {{rule: \"Host(`never`)\", service: up, observability: {{metrics: false, tracing: false}}}}
  services:
    up: {{loadBalancer: {{servers: [{{url: \"{url}\"}}]}}}}
tracing: {{}}
metrics: {{prometheus: {{}}}}
api: {{address: \"127.0.0.1:0\"}}
"
    ))
    .unwrap();
    for (entry_point, host, expected) in [
        ("unseen", "default", "untraced"),
        ("unseen", "always", "traced"),
        ("unseen", "never", "untraced"),
        ("unseen", "nobody", "404 page not found\n"),
        ("seen", "default", "traced"),
        ("seen", "always", "traced"),
        ("seen", "never", "untraced"),
        ("seen", "nobody", "404 page not found\n"),
    ] {
        let address = agent.address(entry_point).unwrap();
        assert_eq!(http::get(address, host, "/").unwrap().text(), expected, "{entry_point} {host}");
    }
    let api = agent.address("api").unwrap();
    let page = || http::get(api, "localhost", "/metrics").unwrap().text();
    // The last request of the last entry point is the last that is counted.
    let last = "{code=\"404\",method=\"GET\",protocol=\"http\",entrypoint=\"seen\"}";
    eventually("all are counted", || {
        let counted = lines(&page(), "wayspan_entrypoint_requests_total");
        (counted.contains_key(last) && counted.values().sum::<f64>() >= 4.0).then_some(())
    });
    let page = page();
    let sum_of = |family: &str, part: &str| -> f64 {
        lines(&page, family).iter().filter(|(labels, _)| labels.contains(part)).map(|(_, value)| value).sum()
    };
    assert_eq!(sum_of("wayspan_entrypoint_requests_total", "entrypoint=\"seen\""), 3.0, "{page}");
    assert_eq!(sum_of("wayspan_entrypoint_requests_total", "entrypoint=\"unseen\""), 1.0, "{page}");
    assert_eq!(sum_of("wayspan_router_requests_total", "router=\"default@file\""), 1.0);
    assert_eq!(sum_of("wayspan_router_requests_total", "router=\"always@file\""), 2.0);
    assert_eq!(sum_of("wayspan_router_requests_total", "router=\"never@file\""), 0.0);
    assert_eq!(sum_of("wayspan_service_requests_total", "service=\"up@file\""), 3.0);
}

#[test]
fn open_connections_are_told_by_entry_point_until_they_close() {
    let (may_go_on, held_back) = mpsc::channel::<()>();
    let held_back = Mutex::new(held_back);
    let upstream = Upstream::start(move |_| {
        held_back.lock().unwrap().recv().unwrap();
        Reply::ok("")
    })
    .unwrap();
    let config = wayspan_tests::config::forward("PathPrefix(`/`)", upstream.address())
        + "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\n";
    let capped = "  few: {address: \"127.0.0.1:0\", transport: {maxConnections: 1}}\n";
    let mut agent = Agent::start(&config.replacen("entryPoints:\n", &format!("entryPoints:\n{capped}"), 1)).unwrap();
    let [web, few, api] = ["web", "few", "api"].map(|name| agent.address(name).unwrap());
    let counts = |expected: [(&str, f64); 2]| {
        let want: BTreeMap<_, _> = expected
            .into_iter()
            .map(|(name, count)| (format!("{{entrypoint=\"{name}\",protocol=\"TCP\"}}"), count))
            .collect();
        eventually(&format!("{want:?}"), || {
            let page = http::get(api, "localhost", "/metrics").ok()?.text();
            (lines(&page, "wayspan_open_connections") == want).then_some(())
        });
    };
    counts([("few", 0.0), ("web", 0.0)]);
    let held: Vec<_> = (0..3).map(|_| Connection::open(web).unwrap()).collect();
    let mut last = Connection::open(few).unwrap();
    counts([("few", 1.0), ("web", 3.0)]);
    // What is refused at the cap was never open.
    assert!(Connection::open(few).unwrap().is_closed_by_peer());
    drop(held);
    counts([("few", 1.0), ("web", 0.0)]);
    // The entry point closes, and its connection stays until its request has been answered.
    last.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    eventually("the request is at the upstream", || (upstream.connections() == 1).then_some(()));
    agent.write_config(&config).unwrap();
    eventually("the entry point is closed", || (!http::accepts(few)).then_some(()));
    counts([("few", 1.0), ("web", 0.0)]);
    may_go_on.send(()).unwrap();
    assert_eq!(last.read_response("GET").unwrap().status, 200);
    eventually("its connection is no more", || {
        let page = http::get(api, "localhost", "/metrics").ok()?.text();
        lines(&page, "wayspan_open_connections").values().all(|count| *count == 0.0).then_some(())
    });
}
