//! The table: what is injected, where it must show, what coverage must say. Stated before anything is measured.

mod overlaps;
mod secure;
mod wire;

use super::plan::{Act, Agent, Coverage, DIVIDED, How, Injection, Life, Link, Place, Route, Row, Shape, Way, Which};

/// Long against what a small machine does by itself, short enough for hundreds of requests.
const USUAL_US: (u64, u64) = (4_000, 20_000);
/// The smallest that must be named right.
const SMALL_US: (u64, u64) = (1_000, 2_000);
/// What a lost segment costs: the retransmission time-out (RTO_MIN, 200 ms), less with a probe of the tail.
const LOST_US: (u64, u64) = (2_000, 200_000);
/// What a lost SYN or SYN-ACK costs (TCP_TIMEOUT_INIT, 1 s).
const SYN_US: (u64, u64) = (1_000_000, 1_000_000);
/// Half of it is what an undisturbed request may not show, where the kernel's account is the truth.
const CROWD_US: (u64, u64) = (500, 500);

/// More than twice the marks that are kept of a connection, with the first.
const PIECES: usize = 41;
/// Two of them are acknowledged at once, so that what follows is sent at once and alone.
const PIECE_BYTES: usize = 600;

/// Several clients at once, so that disturbed requests are among others on the same workers.
const MIXED: Shape = Shape { lanes: 4, ..Shape::SMALL };

const fn phase(name: &'static str) -> Place {
    Place::Phase(name)
}

/// One injection into three of ten requests.
fn one(how: How, delay_us: (u64, u64), place: Place) -> Vec<Injection> {
    vec![Injection { how, delay_us, places: vec![place], share: 30 }]
}

fn row(name: &str, injected: &'static str, shape: Shape, injections: Vec<Injection>) -> Row {
    Row {
        name: name.to_owned(),
        injected,
        agent: Agent::Watching,
        shape,
        injections,
        coverage: Coverage::Full,
        percent: 100,
    }
}

/// What takes a fifth of a second or more is done to fewer, many at once.
fn patient(row: Row) -> Row {
    Row { percent: 50, shape: Shape { lanes: 16, ..row.shape }, ..row }
}

/// The same, where each of the many would keep the cores busy meanwhile.
fn long(row: Row) -> Row {
    Row { percent: 50, ..row }
}

fn at(agent: Agent, row: Row) -> Row {
    Row { agent, ..row }
}

/// The row for a backend that the probes do not look for: what divides the wait for it is one.
fn elsewhere(row: Row) -> Row {
    let mut row =
        Row { name: format!("elsewhere: {}", row.name), agent: Agent::Elsewhere, coverage: Coverage::Full, ..row };
    for place in row.injections.iter_mut().flat_map(|injection| &mut injection.places) {
        if matches!(place, Place::Phase(name) if DIVIDED.contains(name)) {
            *place = phase("upstream_wait");
        }
    }
    row
}

/// Rows that are measured.
pub(super) fn all() -> Vec<Row> {
    let mut rows = backend();
    rows.extend(bodies());
    rows.extend(client());
    rows.extend(proxy());
    rows.extend(on_one_core());
    rows.extend(waits());
    rows.extend(connecting());
    rows.extend(upstream_path());
    rows.extend(wire::client_path());
    rows.extend(wire::handshakes());
    rows.extend(wire::after());
    rows.extend(together());
    rows.extend(overlaps::all());
    rows.extend(secure::kept());
    let divided = ["backend: slow code", "backend: reads late", "backend: accepts late"];
    let way = ["backend's network: request late", "backend's network: response late"];
    let undivided = rows.iter().filter(|row| divided.contains(&row.name.as_str()) || way.contains(&row.name.as_str()));
    rows.extend(undivided.cloned().map(elsewhere).collect::<Vec<_>>());
    rows.extend(blind());
    rows
}

fn backend() -> Vec<Row> {
    let late = Shape { backend: Route::Relayed, late_acceptor: true, backend_fresh: true, ..Shape::SMALL };
    vec![
        row(
            "backend: slow code",
            "the backend pauses between request and response",
            MIXED,
            one(How::BackendCode, USUAL_US, phase("backend_app")),
        ),
        row(
            "backend: slow code, 1 to 2 ms",
            "the backend pauses between request and response",
            MIXED,
            one(How::BackendCode, SMALL_US, phase("backend_app")),
        ),
        row(
            "backend: reads late",
            "the backend lets an accepted connection's request lie",
            Shape::SMALL,
            one(How::BackendRead, USUAL_US, phase("backend_pickup")),
        ),
        Row {
            coverage: Coverage::Unaccepted,
            ..row(
                "backend: accepts late",
                "the backend lets a connection with its request lie in the backlog",
                late,
                one(How::BackendAccept, USUAL_US, phase("backend_pickup")),
            )
        },
        row(
            "backend: closes a pooled connection unanswered",
            "the backend reads a request, pauses and resets the reused connection; the proxy sends it again on another",
            // The whole way of the request that is not answered, which others show as what it is.
            Shape {
                moved: &["upstream_write", "upstream_path_out", "backend_pickup", "upstream_path_back"],
                ..Shape::SMALL
            },
            one(How::BackendReset, USUAL_US, phase("retry_wait")),
        ),
        long(row(
            "backend: answers never",
            "the backend reads a request and keeps silent until responseHeaderTimeout has ended it",
            Shape { limited: true, lanes: 4, ..Shape::SMALL },
            one(How::BackendSilent, (100_000, 350_000), phase("backend_app")),
        )),
    ]
}

fn bodies() -> Vec<Row> {
    let wire = |way, act| How::Wire(Link::Backend, way, Which::All, act);
    let kept = Shape { backend: Route::Relayed, ..Shape::SMALL };
    // The first segment is on its way back before there is a body to relay.
    let path_and_body = Place::Phases(&["upstream_path_back", "upstream_body"]);
    // What fits into the send buffer leaves the agent's sight at once.
    let upload =
        Shape { upload: (300_000, 1), send_buffer: Some(16 << 10), backend_fresh: true, unknown_us: 40_000, ..kept };
    vec![
        row(
            "backend: streams its response",
            "the backend pauses before each of four more chunks",
            Shape { download: (5_000, 5), streamed: true, ..Shape::SMALL },
            one(How::BackendChunks, USUAL_US, phase("upstream_body")),
        ),
        row(
            "backend: slow code after an upload of 1 MiB",
            "the backend pauses when it has the whole body",
            Shape { upload: (1 << 20, 1), ..Shape::SMALL },
            one(How::BackendCode, USUAL_US, phase("backend_app")),
        ),
        row(
            "backend: slow code before a download of 4 MiB",
            "the backend pauses before its large response",
            Shape { download: (4 << 20, 1), ..Shape::SMALL },
            one(How::BackendCode, USUAL_US, phase("backend_app")),
        ),
        long(row(
            "backend's network: download at 200 kB/s",
            "the relay lets 200 kB/s of the response pass",
            Shape { download: (40_000, 1), streamed: true, ..kept },
            one(wire(Way::Back, Act::Rate(200_000)), (200_000, 200_000), path_and_body),
        )),
        long(row(
            "backend's network: upload at 500 kB/s",
            "the relay lets 500 kB/s of the request pass",
            upload,
            one(wire(Way::Out, Act::Rate(500_000)), (600_000, 600_000), phase("upstream_drain")),
        )),
    ]
}

fn waits() -> Vec<Row> {
    vec![
        row(
            "middleware: a slow call",
            "the service that forwardAuth asks pauses before its answer",
            Shape { asks: true, ..MIXED },
            one(How::Called, USUAL_US, phase("middleware_wait")),
        ),
        row(
            "proxy: a connection cap reached",
            "another request holds the only connection that maxConnsPerHost allows",
            // From when the proxy wants it, which is after it has read the request.
            Shape { capped: true, unknown_us: 100, ..Shape::SMALL },
            one(How::Capped, USUAL_US, phase("pool_wait")),
        ),
    ]
}

fn client() -> Vec<Row> {
    vec![
        row(
            "client: sends its head slowly",
            "the client pauses within the head",
            MIXED,
            one(How::ClientHead, USUAL_US, phase("client_send")),
        ),
        row(
            "client: sends its head slowly, 1 to 2 ms",
            "the client pauses within the head",
            MIXED,
            one(How::ClientHead, SMALL_US, phase("client_send")),
        ),
        row(
            "client: sends its body slowly",
            "the client pauses before each of three more parts",
            Shape { upload: (40_000, 4), streamed: true, ..Shape::SMALL },
            one(How::ClientBody, USUAL_US, phase("client_body")),
        ),
        row("client: reads slowly", UNREAD, unread(), one(How::ClientRead, USUAL_US, phase("client_drain"))),
        row(
            "client: gives up while the backend works",
            "the client closes its connection while the backend has its request and does not answer",
            MIXED,
            one(How::ClientGone, USUAL_US, phase("backend_app")),
        ),
        row(
            "client: pipelines, the second request waits for the first",
            "the client sends the end of its head while the backend works on the request before it",
            Shape::SMALL,
            one(How::Pipelined, USUAL_US, phase("pipeline_wait")),
        ),
    ]
}

const UNREAD: &str = "the client stops reading until nothing more comes, and then for a pause";

/// A response that neither a client's receive buffer nor a send buffer of the agent's holds.
fn unread() -> Shape {
    Shape { download: (1 << 20, 1), client_life: Life::Fresh, send_buffer: Some(64 << 10), ..Shape::SMALL }
}

fn proxy() -> Vec<Row> {
    let fresh = Shape { client_life: Life::Fresh, ..Shape::SMALL };
    let accept_wait = Place::Attribute("wayspan.connection.accept_wait");
    let hit = |how, places| vec![Injection { how, delay_us: USUAL_US, places, share: 30 }];
    vec![
        row(
            "proxy: stopped when a request comes",
            "SIGSTOP; the request comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeRequest, USUAL_US, phase("read_wait")),
        ),
        row(
            "proxy: stopped when a response comes",
            "SIGSTOP; the response comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeResponse, USUAL_US, phase("upstream_read_wait")),
        ),
        row(
            "proxy: stopped while a download comes",
            "SIGSTOP; forty more chunks of the response come; SIGCONT",
            Shape { download: (PIECES * PIECE_BYTES, PIECES), ..Shape::SMALL },
            one(How::StopWithinDownload, USUAL_US, phase("upstream_read_wait")),
        ),
        row(
            "proxy: stopped while an upload comes",
            "SIGSTOP; forty more parts of the request come; SIGCONT",
            Shape { upload: (PIECES * PIECE_BYTES, PIECES), ..Shape::SMALL },
            one(How::StopWithinUpload, USUAL_US, phase("read_wait")),
        ),
        row(
            "proxy: stopped when a connection and its request come",
            "SIGSTOP; a connection and its request come; SIGCONT",
            fresh,
            hit(How::StopBeforeRequest, vec![phase("accept_wait"), accept_wait]),
        ),
        row(
            "proxy: stopped when a connection comes",
            "SIGSTOP; a connection comes; SIGCONT; its request comes",
            fresh,
            one(How::StopBeforeConnection, USUAL_US, accept_wait),
        ),
    ]
}

/// Where the agent has one core.
fn on_one_core() -> Vec<Row> {
    let hit = |how, places| vec![Injection { how, delay_us: USUAL_US, places, share: 30 }];
    let queues = Place::Phases(&[
        "accept_wait",
        "read_wait",
        "proxy_request",
        "upstream_write",
        "upstream_read_wait",
        "proxy_response",
    ]);
    vec![
        at(
            Agent::Pinned,
            row(
                "proxy: a hog on its core",
                "a real-time thread takes the only core before the request comes",
                Shape::SMALL,
                hit(How::Hog, vec![phase("read_wait"), Place::Attribute("wayspan.worker.wakeup")]),
            ),
        ),
        at(
            Agent::Pinned,
            row(
                "proxy: busy with another request",
                "the only worker rewrites another request's costly path when the request comes",
                Shape::SMALL,
                hit(How::Busy, vec![phase("read_wait"), Place::Attribute("wayspan.worker.backlog")]),
            ),
        ),
        at(
            Agent::Pinned,
            row(
                "proxy: a hog on its core while it is busy",
                "all requests come behind one with a costly path; a real-time thread takes the only core meanwhile",
                Shape::SMALL,
                one(How::Preempted, USUAL_US, Place::Attribute("wayspan.worker.preempted")),
            ),
        ),
        at(
            Agent::Pinned,
            row(
                "backend: works on the proxy's core",
                "the backend, more urgent than the agent, works on its only core: it has answered when the agent's write returns",
                Shape::SMALL,
                one(How::BackendOnCore, USUAL_US, phase("backend_app")),
            ),
        ),
        at(
            Agent::Ordinary,
            row(
                "proxy: a crowd on its core",
                "four busy threads share the only core; what the kernel says of the worker's waiting is the truth",
                Shape::SMALL,
                one(How::Crowd, CROWD_US, queues),
            ),
        ),
    ]
}

fn connecting() -> Vec<Row> {
    let wire = |way, which, act| How::Wire(Link::Backend, way, which, act);
    let fresh = Shape { backend: Route::Relayed, backend_fresh: true, ..Shape::SMALL };
    let connect = phase("upstream_connect");
    vec![
        row(
            "backend's network: SYN-ACK late",
            "the relay holds the SYN-ACK",
            fresh,
            one(wire(Way::Back, Which::Handshake, Act::Hold), USUAL_US, connect),
        ),
        patient(row(
            "backend's network: SYN lost",
            "the relay loses the first SYN",
            fresh,
            one(wire(Way::Out, Which::Handshake, Act::Lose), SYN_US, connect),
        )),
        patient(row(
            "backend's network: SYN-ACK lost",
            "the relay loses the first SYN-ACK",
            fresh,
            one(wire(Way::Back, Which::Handshake, Act::Lose), SYN_US, connect),
        )),
    ]
}

fn upstream_path() -> Vec<Row> {
    let wire = |way, act| How::Wire(Link::Backend, way, Which::Data(0), act);
    let kept = Shape { backend: Route::Relayed, ..Shape::SMALL };
    let (out, back) = (phase("upstream_path_out"), phase("upstream_path_back"));
    let lost = |way, places| vec![Injection { how: wire(way, Act::Lose), delay_us: LOST_US, places, share: 30 }];
    vec![
        row(
            "backend's network: request late",
            "the relay holds the request",
            kept,
            one(wire(Way::Out, Act::Hold), USUAL_US, out),
        ),
        row(
            "backend's network: response late",
            "the relay holds the response",
            kept,
            one(wire(Way::Back, Act::Hold), USUAL_US, back),
        ),
        row(
            "backend's network: jitter",
            "the relay holds request and response, each for a time of its own",
            kept,
            [(Way::Out, out), (Way::Back, back)]
                .into_iter()
                .flat_map(|(way, place)| one(wire(way, Act::Jitter), (8_000, 20_000), place))
                .collect(),
        ),
        patient(row(
            "backend's network: request lost",
            "the relay loses the request's segment once",
            kept,
            lost(Way::Out, vec![out, Place::Count("wayspan.upstream.retransmits")]),
        )),
        patient(row(
            "backend's network: response lost",
            "the relay loses the response's segment once",
            kept,
            lost(Way::Back, vec![back, Place::Count("wayspan.backend.retransmits")]),
        )),
    ]
}

fn together() -> Vec<Row> {
    let app = || one(How::BackendCode, USUAL_US, phase("backend_app"));
    let late = How::Wire(Link::Backend, Way::Back, Which::Handshake, Act::Hold);
    vec![
        row(
            "two at once: slow client, slow backend",
            "the client pauses within the head, the backend before its response; each for its own requests",
            MIXED,
            [one(How::ClientHead, USUAL_US, phase("client_send")), app()].concat(),
        ),
        row(
            "two at once: slow connection, slow backend",
            "the relay holds the SYN-ACK, the backend pauses before its response",
            Shape { backend: Route::Relayed, backend_fresh: true, ..Shape::SMALL },
            [one(late, USUAL_US, phase("upstream_connect")), app()].concat(),
        ),
    ]
}

/// A few of them for a machine whose CPU is emulated: the delays are far above what it takes by itself, and below what spans
/// wait for.
pub(super) fn emulated() -> Vec<Row> {
    const NAMES: [&str; 10] = [
        "backend: slow code",
        "backend: reads late",
        "backend: streams its response",
        "client: sends its head slowly",
        "client: reads slowly",
        "proxy: stopped when a request comes",
        "backend's network: SYN-ACK late",
        "backend's network: response late",
        "client's network: SYN-ACK late, connection closed at once",
        "client's network: response late",
    ];
    let slowly = |injection: Injection| Injection { delay_us: (80_000, 120_000), share: 40, ..injection };
    let slow = |row: Row| Row { injections: row.injections.into_iter().map(slowly).collect(), ..row };
    all().into_iter().filter(|row| NAMES.contains(&row.name.as_str())).map(slow).collect()
}

const STAMPED: &str = "partial: probes unavailable, timestamps";

/// What is left without probes: what the proxy's own stamps tell, or with them the kernel's of what was read.
fn blind() -> Vec<Row> {
    let blind = |row: Row| Row { agent: Agent::Blind, coverage: Coverage::Text("none: probes off"), ..row };
    let stamped = |row: Row| Row { agent: Agent::Stamped, coverage: Coverage::Text(STAMPED), ..row };
    vec![
        blind(row(
            "without probes: slow code",
            "the backend pauses between request and response",
            Shape::SMALL,
            one(How::BackendCode, USUAL_US, phase("upstream_wait")),
        )),
        blind(row(
            "without probes: slow head",
            "the client pauses within the head",
            Shape::SMALL,
            one(How::ClientHead, USUAL_US, phase("read_wait")),
        )),
        blind(row(
            "without probes: slow body",
            "the client pauses before each of three more parts",
            Shape { upload: (40_000, 4), streamed: true, ..Shape::SMALL },
            one(How::ClientBody, USUAL_US, phase("client_body")),
        )),
        blind(row(
            "without probes: stopped when a request comes",
            "SIGSTOP; the request comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeRequest, USUAL_US, Place::Nowhere("a request begins when it is read")),
        )),
        blind(row(
            "without probes: stopped when a response comes",
            "SIGSTOP; the response comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeResponse, USUAL_US, phase("upstream_wait")),
        )),
        stamped(row(
            "without probes, timestamps: slow head",
            "the client pauses within the head",
            Shape::SMALL,
            one(How::ClientHead, USUAL_US, phase("client_send")),
        )),
        stamped(row(
            "without probes, timestamps: stopped when a request comes",
            "SIGSTOP; the request comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeRequest, USUAL_US, phase("read_wait")),
        )),
        stamped(row(
            "without probes, timestamps: stopped when a response comes",
            "SIGSTOP; the response comes; SIGCONT",
            Shape::SMALL,
            one(How::StopBeforeResponse, USUAL_US, phase("upstream_read_wait")),
        )),
        Row {
            coverage: Coverage::Texts(STAMPED, "partial: probes unavailable, timestamps, client bytes unseen"),
            ..stamped(patient(row(
                "without probes, timestamps: begin of head lost",
                "the relay loses the head's first segment once: the second has come long before it can be read",
                Shape { client: Route::Relayed, split_head: true, ..Shape::SMALL },
                one(
                    How::Wire(Link::Client, Way::Out, Which::Data(0), Act::Lose),
                    LOST_US,
                    Place::Nowhere("that stamp is not believed: the request begins when it is read"),
                ),
            )))
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_emulated_machine_plays_is_of_the_table() {
        let rows = emulated();
        assert_eq!(rows.len(), 10);
        assert!(rows.iter().all(|row| row.percent == 100), "their requests are few already");
    }

    #[test]
    fn every_row_has_a_name_of_its_own_and_known_places() {
        let rows = all();
        for (index, row) in rows.iter().enumerate() {
            assert!(rows.iter().skip(index + 1).all(|other| other.name != row.name), "{} stands twice", row.name);
            assert!(!row.injections.is_empty(), "{}", row.name);
            for place in row.injections.iter().flat_map(|injection| &injection.places) {
                let known = |name: &&'static str| super::super::plan::blame_of(name).is_some();
                match place {
                    Place::Phase(name) => assert!(known(name), "{}: {name}", row.name),
                    Place::Phases(names) | Place::Not(names) => assert!(names.iter().all(known), "{}", row.name),
                    Place::Attribute(_) | Place::Count(_) | Place::Nowhere(_) => {}
                }
            }
        }
    }
}
