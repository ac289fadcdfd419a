//! A tunnel through the built agent: its span in Jaeger, and what SIGTERM does to it.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use wayspan_tests::{Agent, Jaeger, PATIENCE, Part, Reply, Upstream, config, eventually};

const ASKING: &[u8] = b"GET /socket HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
// Long against scheduling on two busy cores, short against patience.
const PAUSE: Duration = Duration::from_millis(200);

fn open(agent: &mut Agent) -> TcpStream {
    let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(ASKING).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    client
}

#[test]
fn a_tunnels_span_lasts_as_long_as_the_tunnel_and_says_so() {
    let jaeger = Jaeger::start().unwrap();
    let upstream = Upstream::start(|_| {
        Reply::raw(SWITCHED).then(Part::Pause(PAUSE)).then(Part::Bytes(b"at last".to_vec())).then_close()
    })
    .unwrap();
    let mut agent =
        Agent::start(&(config::forward("PathPrefix(`/`)", upstream.address()) + &config::traced(&jaeger))).unwrap();
    let mut client = open(&mut agent);
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "at last");
    client.write_all(b"well").unwrap();
    client.shutdown(Shutdown::Both).unwrap();

    let trace = eventually("the tunnel is in Jaeger", || jaeger.traces("wayspan", 5).ok()?.into_iter().next());
    let server = trace.roots().next().unwrap();
    assert_eq!(server.tag("http.response.status_code"), Some("101"), "{:?}", server.tags);
    assert_eq!((server.tag("error"), server.tag("wayspan.dominant_phase")), (None, Some("tunnel")));
    assert_eq!(server.tag("http.response.body.size"), Some("7"));
    let sum: u64 = server.phases().iter().map(|(_, micros)| micros).sum();
    assert_eq!(sum, server.duration_us, "{:?}", server.phases());
    let tunnel = server.phases().iter().find(|(name, _)| *name == "tunnel").unwrap().1;
    assert!(u128::from(tunnel) >= PAUSE.as_micros() * 9 / 10, "{tunnel}");
    let attempt = trace.children(server).find(|span| span.kind() == "client").unwrap();
    assert!(u128::from(attempt.duration_us) >= PAUSE.as_micros() * 9 / 10, "{attempt:?}");
}

#[test]
fn sigterm_gives_a_tunnel_the_grace_time_and_then_ends_the_agent() {
    let upstream = Upstream::start(|_| Reply::raw(SWITCHED)).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address())
        .replace("\"127.0.0.1:0\"", "\"127.0.0.1:0\", transport: {lifeCycle: {graceTimeOut: 1s}}");
    let mut agent = Agent::start(&config).unwrap();
    let mut client = open(&mut agent);
    agent.process.signal(Signal::TERM).unwrap();
    let mut said = Vec::new();
    client.read_to_end(&mut said).unwrap();
    assert!(said.is_empty());
    assert!(agent.process.wait(PATIENCE).unwrap().success());
}
