//! Reloads that go wrong, as seen from outside: what served still serves, and the log, `/api/status` and `/metrics` say
//! what is the matter for as long as it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use wayspan_tests::http::{self, Connection};
use wayspan_tests::{Agent, Reply, Upstream, config, eventually};

/// A configuration with an api, and `web` at that address.
fn at(web: SocketAddr, upstream: &Upstream) -> String {
    let rest = "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\n";
    let text = config::forward("PathPrefix(`/`)", upstream.address()) + rest;
    text.replacen("\"127.0.0.1:0\"", &format!("\"{web}\""), 1)
}

fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What the api tells of faults, and what the metric says of the last reload.
fn told(api: SocketAddr) -> (Vec<String>, bool) {
    let status = http::get(api, "localhost", "/api/status").unwrap().json().unwrap();
    let faults = status["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap().to_owned());
    let metrics = http::get(api, "localhost", "/metrics").unwrap().text();
    (faults.collect(), metrics.lines().any(|line| line == "wayspan_config_last_reload_success 1"))
}

#[test]
fn a_misspelt_section_drops_no_route_and_is_told() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let good = at(local(0), &upstream);
    let mut agent = Agent::start(&good).unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    for (from, to) in [("http:", "htttp:"), ("  routers:", "  roters:"), ("  services:", "  service:")] {
        agent.write_config(&good.replacen(from, to, 1)).unwrap();
        let key = to.trim().trim_end_matches(':');
        let faults = eventually("the fault is told", || {
            let (faults, succeeded) = told(api);
            (!succeeded && faults.iter().any(|fault| fault.contains(key))).then_some(faults)
        });
        assert!(faults[0].contains("did you mean") && faults[0].contains("what was there stays"), "{faults:?}");
        assert_eq!(http::get(web, "h", "/").unwrap().status, 200, "{to}");
    }
    agent.write_config(&good.replace("    all:", "    # all:").replace("  routers:", "  routers: {}")).unwrap();
    eventually("a route that is really removed is gone", || {
        (http::get(web, "h", "/").unwrap().status == 404).then_some(())
    });
    assert_eq!(told(api), (Vec::new(), true));
}

#[test]
fn an_address_that_is_taken_keeps_the_old_one_and_is_opened_when_it_is_free() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let (old, new) = (local(free_port()), local(free_port()));
    let mut agent = Agent::start(&at(old, &upstream)).unwrap();
    let api = agent.address("api").unwrap();
    let taken = TcpListener::bind(new).unwrap();
    agent.write_config(&at(new, &upstream)).unwrap();
    let faults = eventually("the fault is told", || {
        Some(told(api)).filter(|(faults, succeeded)| !(faults.is_empty() || *succeeded))
    });
    let fault = &faults.0[0];
    assert_eq!(faults.0.len(), 1, "{fault}");
    assert!(fault.contains("wayspan.yaml:2: entryPoints.web.address: cannot listen on"), "{fault}");
    assert!(fault.ends_with(&format!("it is tried again every second, until then {old} stays")), "{fault}");
    assert!(agent.process.log().iter().any(|line| line.contains("an address cannot be opened")));
    let mut kept_alive = Connection::open(old).unwrap();
    assert_eq!(kept_alive.get("h", "/").unwrap().status, 200);
    drop(taken);
    eventually("the new address is opened", || http::accepts(new).then_some(()));
    assert_eq!(http::get(new, "h", "/").unwrap().status, 200);
    eventually("no fault is left", || (told(api) == (Vec::new(), true)).then_some(()));
    eventually("the old address is closed", || (!http::accepts(old)).then_some(()));
    // The entry point is the same: what is open stays open.
    assert_eq!(kept_alive.get("h", "/").unwrap().status, 200);
}

#[test]
fn an_address_that_widens_is_never_without_a_listener() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let port = free_port();
    let narrow = at(local(port), &upstream);
    let wide = narrow.replacen(&format!("\"127.0.0.1:{port}\""), &format!("\":{port}\""), 1);
    let mut agent = Agent::start(&narrow).unwrap();
    let (_, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    for (config, elsewhere) in [(&wide, true), (&narrow, false), (&wide, true)] {
        agent.write_config(config).unwrap();
        let elsewhere_too = || {
            // Each is a connection of its own.
            assert_eq!(http::get(local(port), "h", "/").unwrap().status, 200);
            http::accepts((Ipv4Addr::new(127, 0, 0, 2), port).into()) == elsewhere
        };
        eventually("the change applies", || elsewhere_too().then_some(()));
    }
    assert_eq!(told(api), (Vec::new(), true));
}

#[test]
fn a_connection_of_a_removed_entry_point_gets_one_more_answer_and_is_closed() {
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let one = at(local(0), &upstream);
    let two = one.replacen("entryPoints:\n", "entryPoints:\n  more: {address: \"127.0.0.1:0\"}\n", 1);
    let mut agent = Agent::start(&two).unwrap();
    let (web, more) = (agent.address("web").unwrap(), agent.address("more").unwrap());
    let (mut idle, mut stays) = (Connection::open(more).unwrap(), Connection::open(web).unwrap());
    assert_eq!((idle.get("h", "/").unwrap().status, stays.get("h", "/").unwrap().status), (200, 200));
    let mut busy = Connection::open(more).unwrap();
    agent.write_config(&one).unwrap();
    let last = eventually("a response says close", || {
        Some(busy.get("h", "/").unwrap()).filter(|answer| answer.header("connection") == Some("close"))
    });
    assert_eq!(last.status, 200);
    eventually("both are closed", || (busy.is_closed_by_peer() && idle.is_closed_by_peer()).then_some(()));
    assert_eq!(stays.get("h", "/").unwrap().status, 200);
}
