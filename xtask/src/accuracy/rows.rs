//! The table: what is injected, where it must show, what coverage must say. Stated before anything is measured.

use super::plan::{Act, Agent, How, Injection, Link, NotBuilt, Place, Route, Row, Shape, Way, Which};

/// Long against what a small machine does by itself, short enough for hundreds of requests.
const USUAL_US: (u64, u64) = (4_000, 20_000);
/// The smallest that must be named right.
const SMALL_US: (u64, u64) = (1_000, 2_000);
/// What a lost segment costs: the retransmission time-out at least (RTO_MIN, 200 ms), less with a probe of the tail.
const LOST_US: (u64, u64) = (2_000, 200_000);
/// What a lost SYN or SYN-ACK costs (TCP_TIMEOUT_INIT, 1 s).
const SYN_US: (u64, u64) = (1_000_000, 1_000_000);

const FULL: &[&str] = &["full"];

/// One injection into three of ten requests.
fn one(how: How, delay_us: (u64, u64), place: Place) -> Vec<Injection> {
    vec![Injection { how, delay_us, place, share: 30 }]
}

fn row(name: &str, injected: &'static str, shape: Shape, injections: Vec<Injection>) -> Row {
    Row { name: name.to_owned(), injected, agent: Agent::Watching, shape, injections, coverage: FULL, percent: 100 }
}

/// Rows that are measured.
pub(super) fn all() -> Vec<Row> {
    let mut rows = backend();
    rows.extend(client());
    rows.extend(proxy());
    rows.extend(upstream_network());
    rows.extend(client_network());
    rows.extend(together());
    rows.extend(blind());
    rows
}

const UPSTREAM_WAIT: Place = Place::Phase("upstream_wait");

fn backend() -> Vec<Row> {
    let streaming = Shape { download: (5_000, 5), ..Shape::SMALL };
    let uploaded = Shape { upload: (1 << 20, 1), ..Shape::SMALL };
    let downloaded = Shape { download: (4 << 20, 1), ..Shape::SMALL };
    vec![
        row(
            "backend: slow code",
            "the backend pauses between request and response",
            Shape::SMALL,
            one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: slow code, 1 to 2 ms",
            "the backend pauses between request and response",
            Shape::SMALL,
            one(How::BackendCode, SMALL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: reads late",
            "the backend lets an accepted connection's request lie",
            Shape::SMALL,
            one(How::BackendRead, USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: accepts late",
            "the backend lets a connection with its request lie in the backlog",
            Shape { backend: Route::Relayed, late_acceptor: true, backend_fresh: true, lanes: 1, ..Shape::SMALL },
            one(How::BackendAccept, USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: streams its response",
            "the backend pauses before each of four more chunks",
            streaming,
            one(How::BackendChunks, USUAL_US, Place::Phase("upstream_body")),
        ),
        row(
            "backend: slow code after an upload of 1 MiB",
            "the backend pauses when it has the whole body",
            uploaded,
            one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: slow code before a download of 4 MiB",
            "the backend pauses before its large response",
            downloaded,
            one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend: closes a pooled connection unanswered",
            "the backend reads a request on a reused connection, pauses and resets; the proxy sends it again on another",
            Shape::SMALL,
            one(How::BackendReset, USUAL_US, Place::Phase("retry_wait")),
        ),
    ]
}

fn client() -> Vec<Row> {
    let uploading = Shape { upload: (40_000, 4), ..Shape::SMALL };
    let unread = Shape { download: (1 << 20, 1), client_fresh: true, send_buffer: Some(64 << 10), ..Shape::SMALL };
    vec![
        row(
            "client: sends its head slowly",
            "the client pauses within the head",
            Shape::SMALL,
            one(How::ClientHead, USUAL_US, Place::Phase("client_send")),
        ),
        row(
            "client: sends its head slowly, 1 to 2 ms",
            "the client pauses within the head",
            Shape::SMALL,
            one(How::ClientHead, SMALL_US, Place::Phase("client_send")),
        ),
        row(
            "client: sends its body slowly",
            "the client pauses before each of four parts",
            uploading,
            one(How::ClientBody, USUAL_US, Place::Phase("client_body")),
        ),
        row(
            "client: reads slowly",
            "the client stops reading until nothing more comes (zero window), and then for a pause",
            unread,
            one(How::ClientRead, USUAL_US, Place::Phase("client_drain")),
        ),
    ]
}

fn proxy() -> Vec<Row> {
    let alone = Shape { lanes: 1, ..Shape::SMALL };
    let fresh = Shape { client_fresh: true, ..alone };
    let pinned = |row: Row| Row { agent: Agent::Pinned, ..row };
    let queues = Place::Phases(&[
        "accept_wait",
        "read_wait",
        "proxy_request",
        "upstream_write",
        "upstream_read_wait",
        "proxy_response",
    ]);
    vec![
        row(
            "proxy: stopped when a request comes",
            "SIGSTOP; the request comes; SIGCONT",
            alone,
            one(How::StopBeforeRequest, USUAL_US, Place::Phase("read_wait")),
        ),
        row(
            "proxy: stopped when a connection comes",
            "SIGSTOP; a connection and its request come; SIGCONT",
            fresh,
            one(How::StopBeforeRequest, USUAL_US, Place::Phase("accept_wait")),
        ),
        row(
            "proxy: stopped when a response comes",
            "SIGSTOP; the response comes; SIGCONT",
            alone,
            one(How::StopBeforeResponse, USUAL_US, Place::Phase("upstream_read_wait")),
        ),
        pinned(row(
            "proxy: a hog on its core",
            "a real-time thread takes the only core before the request comes",
            alone,
            one(How::Hog, USUAL_US, Place::Phase("read_wait")),
        )),
        pinned(row(
            "proxy: a crowd on its core",
            "four busy threads share the only core; the kernel's account of the worker's waiting is the truth",
            alone,
            one(How::Crowd, (500, 500), queues),
        )),
    ]
}

fn upstream_network() -> Vec<Row> {
    let wire = |way, which, act| How::Wire(Link::Backend, way, which, act);
    let kept = Shape { backend: Route::Relayed, ..Shape::SMALL };
    let fresh = Shape { backend_fresh: true, ..kept };
    let patient = |row: Row| Row { percent: 25, shape: Shape { lanes: 16, ..row.shape }, ..row };
    let connect = Place::Phase("upstream_connect");
    let download = Shape { download: (40_000, 1), ..kept };
    // What does not fit into the buffers is drained; the rest leaves the agent's sight at once.
    let upload = Shape {
        upload: (300_000, 1),
        send_buffer: Some(16 << 10),
        backend_fresh: true,
        lanes: 2,
        unknown_us: 40_000,
        ..kept
    };
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
        row(
            "backend's network: request late",
            "the relay holds the request",
            kept,
            one(wire(Way::Out, Which::Data(0), Act::Hold), USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend's network: response late",
            "the relay holds the response",
            kept,
            one(wire(Way::Back, Which::Data(0), Act::Hold), USUAL_US, UPSTREAM_WAIT),
        ),
        row(
            "backend's network: jitter",
            "the relay holds request and response, each for a time of its own",
            kept,
            [Way::Out, Way::Back]
                .into_iter()
                .flat_map(|way| one(wire(way, Which::Data(0), Act::Jitter), (8_000, 20_000), UPSTREAM_WAIT))
                .collect(),
        ),
        patient(row(
            "backend's network: request lost",
            "the relay loses the request's segment once",
            kept,
            one(wire(Way::Out, Which::Data(0), Act::Lose), LOST_US, UPSTREAM_WAIT),
        )),
        patient(row(
            "backend's network: response lost",
            "the relay loses the response's segment once",
            kept,
            one(wire(Way::Back, Which::Data(0), Act::Lose), LOST_US, UPSTREAM_WAIT),
        )),
        patient(row(
            "backend's network: download at 200 kB/s",
            "the relay lets 200 kB/s of the response pass",
            download,
            one(wire(Way::Back, Which::All, Act::Rate(200_000)), (200_000, 200_000), Place::Phase("upstream_body")),
        )),
        patient(row(
            "backend's network: upload at 500 kB/s",
            "the relay lets 500 kB/s of the request pass",
            upload,
            one(wire(Way::Out, Which::All, Act::Rate(500_000)), (600_000, 600_000), Place::Phase("upstream_drain")),
        )),
    ]
}

fn client_network() -> Vec<Row> {
    let wire = |way, which, act| How::Wire(Link::Client, way, which, act);
    let kept = Shape { client: Route::Relayed, ..Shape::SMALL };
    let fresh = Shape { client_fresh: true, ..kept };
    let split = Shape { split_head: true, ..kept };
    let patient = |row: Row| Row { percent: 25, shape: Shape { lanes: 16, ..row.shape }, ..row };
    let upload = Shape { upload: (40_000, 1), ..kept };
    let download = Shape {
        download: (300_000, 1),
        send_buffer: Some(16 << 10),
        client_fresh: true,
        lanes: 2,
        unknown_us: 40_000,
        ..kept
    };
    vec![
        row(
            "client's network: request late",
            "the relay holds the request's only segment",
            kept,
            one(
                wire(Way::Out, Which::Data(0), Act::Hold),
                USUAL_US,
                Place::Nowhere("a request begins when its first byte is here"),
            ),
        ),
        row(
            "client's network: end of head late",
            "the relay holds the head's second segment",
            split,
            one(wire(Way::Out, Which::Data(1), Act::Hold), USUAL_US, Place::Phase("client_send")),
        ),
        patient(row(
            "client's network: end of head lost",
            "the relay loses the head's second segment once",
            split,
            one(wire(Way::Out, Which::Data(1), Act::Lose), LOST_US, Place::Phase("client_send")),
        )),
        row(
            "client's network: response late",
            "the relay holds the response's only segment",
            kept,
            one(
                wire(Way::Back, Which::Data(0), Act::Hold),
                USUAL_US,
                Place::Nowhere("a request ends when the socket has taken its response"),
            ),
        ),
        row(
            "client's network: SYN-ACK late",
            "the relay holds our SYN-ACK",
            fresh,
            one(
                wire(Way::Back, Which::Handshake, Act::Hold),
                USUAL_US,
                Place::Nowhere("a request begins after its connection"),
            ),
        ),
        row(
            "client's network: last ACK late",
            "the relay holds the ACK that ends the handshake, and what follows",
            fresh,
            one(
                wire(Way::Out, Which::FinalAck, Act::Hold),
                USUAL_US,
                Place::Nowhere("a request begins after its connection"),
            ),
        ),
        patient(row(
            "client's network: SYN lost",
            "the relay loses the first SYN",
            fresh,
            one(wire(Way::Out, Which::Handshake, Act::Lose), SYN_US, Place::Nowhere("a lost SYN was never here")),
        )),
        patient(row(
            "client's network: upload at 200 kB/s",
            "the relay lets 200 kB/s of the request pass",
            upload,
            one(wire(Way::Out, Which::All, Act::Rate(200_000)), (200_000, 200_000), Place::Phase("client_body")),
        )),
        patient(row(
            "client's network: download at 500 kB/s",
            "the relay lets 500 kB/s of the response pass",
            download,
            one(wire(Way::Back, Which::All, Act::Rate(500_000)), (600_000, 600_000), Place::Phase("client_drain")),
        )),
    ]
}

fn together() -> Vec<Row> {
    let relayed = Shape { backend: Route::Relayed, ..Shape::SMALL };
    vec![
        row(
            "two at once: slow client, slow backend",
            "the client pauses within the head, the backend before its response; each for its own requests",
            Shape::SMALL,
            [
                one(How::ClientHead, USUAL_US, Place::Phase("client_send")),
                one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
            ]
            .concat(),
        ),
        row(
            "two at once: slow connection, slow backend",
            "the relay holds the SYN-ACK, the backend pauses before its response",
            Shape { backend_fresh: true, ..relayed },
            [
                one(
                    How::Wire(Link::Backend, Way::Back, Which::Handshake, Act::Hold),
                    USUAL_US,
                    Place::Phase("upstream_connect"),
                ),
                one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
            ]
            .concat(),
        ),
    ]
}

/// What is left without probes: what the proxy's own stamps tell.
fn blind() -> Vec<Row> {
    let blind = |row: Row| Row { agent: Agent::Blind, coverage: &["none: probes off"], ..row };
    let alone = Shape { lanes: 1, ..Shape::SMALL };
    let uploading = Shape { upload: (40_000, 4), ..Shape::SMALL };
    vec![
        blind(row(
            "without probes: slow code",
            "the backend pauses between request and response",
            Shape::SMALL,
            one(How::BackendCode, USUAL_US, UPSTREAM_WAIT),
        )),
        blind(row(
            "without probes: slow head",
            "the client pauses within the head",
            Shape::SMALL,
            one(How::ClientHead, USUAL_US, Place::Phase("read_wait")),
        )),
        blind(row(
            "without probes: slow body",
            "the client pauses before each of four parts",
            uploading,
            one(How::ClientBody, USUAL_US, Place::Phase("client_body")),
        )),
        blind(row(
            "without probes: stopped when a request comes",
            "SIGSTOP; the request comes; SIGCONT",
            alone,
            one(How::StopBeforeRequest, USUAL_US, Place::Nowhere("a request begins when it is read")),
        )),
        blind(row(
            "without probes: stopped when a response comes",
            "SIGSTOP; the response comes; SIGCONT",
            alone,
            one(How::StopBeforeResponse, USUAL_US, UPSTREAM_WAIT),
        )),
    ]
}

/// Rows that wait for something that is not built.
pub(super) const NOT_BUILT: [NotBuilt; 3] = [
    NotBuilt { name: "client: TLS handshake slow", reason: "entry points do not speak TLS yet" },
    NotBuilt {
        name: "proxy: a connection cap reached",
        reason: "services have no cap on connections yet, so no request waits for one; entryPoints' maxConnections refuses",
    },
    NotBuilt { name: "middleware: a slow call", reason: "no middleware calls anybody yet" },
];
