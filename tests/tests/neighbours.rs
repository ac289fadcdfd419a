//! Two agents on one machine: each sees its own requests, its backends too, and nothing of the other's; one that is killed
//! leaves the other as it was.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use wayspan_tests::{Agent, Jaeger, PATIENCE, Reply, Span, Upstream, config, eventually, http};

/// Requests per look at one agent, over one connection.
const REQUESTS: usize = 20;

/// What the backend takes for an answer: it alone can tell its own time, so it was seen.
const PAUSE: Duration = Duration::from_millis(2);

struct Node {
    service: &'static str,
    agent: Agent,
    web: SocketAddr,
    asked: usize,
}

impl Node {
    fn start(service: &'static str, jaeger: &Jaeger, upstream: &Upstream) -> Self {
        let traced = config::traced(jaeger).replace("serviceName: wayspan", &format!("serviceName: {service}"));
        let config = config::forward("PathPrefix(`/`)", upstream.address())
            + &traced
            + "probes: {required: true, backends: true}\n"
            + "attribution: {spans: attributes}\n";
        let mut agent = Agent::start(&config).unwrap();
        let web = agent.address("web").unwrap();
        Self { service, agent, web, asked: 0 }
    }

    /// Asks some more, and the spans of those.
    fn ask(&mut self, jaeger: &Jaeger) -> Vec<Span> {
        let mut connection = http::Connection::open(self.web).unwrap();
        let paths: Vec<String> = (0..REQUESTS).map(|index| format!("/{}", self.asked + index)).collect();
        self.asked += REQUESTS;
        for path in &paths {
            assert_eq!(connection.get("h", path).unwrap().status, 200);
        }
        let is_of_these = |span: &Span| {
            span.kind() == "server" && span.tag("url.path").is_some_and(|path| paths.iter().any(|own| own == path))
        };
        eventually(&format!("the spans of {} are in Jaeger", self.service), || {
            let traces = jaeger.traces(self.service, 200).ok()?;
            let spans: Vec<Span> = traces.into_iter().flat_map(|trace| trace.spans).filter(is_of_these).collect();
            (spans.len() == REQUESTS).then_some(spans)
        })
    }

    /// Its requests are seen whole, those behind the first at the backend too.
    #[track_caller]
    fn sees_its_own(&mut self, jaeger: &Jaeger) {
        for span in self.ask(jaeger) {
            let coverage = span.tag("wayspan.coverage").unwrap_or_default();
            // Of a backend's new connection nobody knows whether it was accepted in time.
            assert!(["full", "partial: accept not visible"].contains(&coverage), "{}: {coverage}", self.service);
            let phases = span.phases();
            let app = phases.iter().find(|(phase, _)| *phase == "backend_app").map_or(0, |(_, micros)| *micros);
            assert!(u128::from(app) >= PAUSE.as_micros(), "{}: {phases:?}", self.service);
        }
    }
}

#[test]
fn two_agents_side_by_side_see_their_own_and_one_goes_on_when_the_other_is_killed() {
    let jaeger = Jaeger::start().unwrap();
    // One backend for both: its sockets are the one's or the other's by their connections.
    let upstream = Upstream::start(|_| Reply::ok("answer").after(PAUSE)).unwrap();
    let mut one = Node::start("one", &jaeger, &upstream);
    let mut two = Node::start("two", &jaeger, &upstream);
    for _ in 0..2 {
        one.sees_its_own(&jaeger);
        two.sees_its_own(&jaeger);
    }
    one.agent.process.signal(Signal::KILL).unwrap();
    one.agent.process.wait(PATIENCE).unwrap();
    two.sees_its_own(&jaeger);
    let mut three = Node::start("three", &jaeger, &upstream);
    three.sees_its_own(&jaeger);
    two.sees_its_own(&jaeger);
}
