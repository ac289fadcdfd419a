//! The rows of the client's side of the network: what its segments meet, its handshakes, and what comes after a response.

use super::*;

pub(super) fn client_path() -> Vec<Row> {
    let wire = |way, which, act| How::Wire(Link::Client, way, which, act);
    let kept = Shape { client: Route::Relayed, ..Shape::SMALL };
    let split = Shape { split_head: true, ..kept };
    let download = Shape {
        download: (300_000, 1),
        send_buffer: Some(16 << 10),
        client_life: Life::Fresh,
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
            one(wire(Way::Out, Which::Data(1), Act::Hold), USUAL_US, phase("client_send")),
        ),
        row(
            "client's network: jitter",
            "the relay holds the head's second segment, each for a time of its own",
            split,
            one(wire(Way::Out, Which::Data(1), Act::Jitter), (8_000, 20_000), phase("client_send")),
        ),
        patient(row(
            "client's network: end of head lost",
            "the relay loses the head's second segment once",
            split,
            one(wire(Way::Out, Which::Data(1), Act::Lose), LOST_US, phase("client_send")),
        )),
        long(row(
            "client's network: upload at 200 kB/s",
            "the relay lets 200 kB/s of the request pass",
            // The relay holds the request's first segment too, before there is a request: 7.5 ms for 1500 bytes.
            Shape { upload: (40_000, 1), unknown_us: 7_600, streamed: true, ..kept },
            one(wire(Way::Out, Which::All, Act::Rate(200_000)), (200_000, 200_000), phase("client_body")),
        )),
        long(row(
            "client's network: download at 500 kB/s",
            "the relay lets 500 kB/s of the response pass",
            download,
            one(wire(Way::Back, Which::All, Act::Rate(500_000)), (600_000, 600_000), phase("client_drain")),
        )),
    ]
}

pub(super) fn handshakes() -> Vec<Row> {
    let wire = |way, which, act| How::Wire(Link::Client, way, which, act);
    let fresh = Shape { client: Route::Relayed, client_life: Life::Fresh, ..Shape::SMALL };
    let round_trip = Place::Attribute("wayspan.connection.handshake_rtt");
    let lost = Injection {
        how: wire(Way::Back, Which::Handshake, Act::Lose),
        delay_us: SYN_US,
        places: vec![Place::Nowhere("that our SYN-ACK was lost is known when it is sent again")],
        share: 30,
    };
    let again = Injection {
        how: wire(Way::Back, Which::HandshakeAgain, Act::Hold),
        delay_us: USUAL_US,
        places: vec![Place::Attribute("wayspan.connection.handshake_at_least")],
        share: 100,
    };
    vec![
        row(
            "client: TLS handshake slow",
            "the client pauses within its greeting",
            Shape { tls: true, client_life: Life::Short, ..Shape::SMALL },
            one(How::ClientHello, USUAL_US, Place::Attribute("wayspan.connection.tls_handshake")),
        ),
        row(
            "client's network: SYN-ACK late",
            "the relay holds our SYN-ACK",
            fresh,
            one(wire(Way::Back, Which::Handshake, Act::Hold), USUAL_US, round_trip),
        ),
        row(
            "client's network: SYN-ACK late, connection closed at once",
            "the relay holds our SYN-ACK; the connection ends with the response",
            Shape { client_life: Life::Short, ..fresh },
            one(wire(Way::Back, Which::Handshake, Act::Hold), USUAL_US, round_trip),
        ),
        row(
            "client's network: last ACK late",
            "the relay holds the ACK that ends the handshake, and what follows",
            fresh,
            one(wire(Way::Out, Which::FinalAck, Act::Hold), USUAL_US, round_trip),
        ),
        patient(row(
            "client's network: SYN lost",
            "the relay loses the first SYN",
            fresh,
            one(wire(Way::Out, Which::Handshake, Act::Lose), SYN_US, Place::Nowhere("a lost SYN was never here")),
        )),
        long(row(
            "client's network: SYN-ACK lost, then late",
            "the relay loses our first SYN-ACK and holds the second",
            // Where none was lost, what a handshake takes by itself is its round trip.
            Shape { moved: &["wayspan.connection.handshake_rtt"], lanes: 4, ..fresh },
            vec![lost, again],
        )),
    ]
}

pub(super) fn after() -> Vec<Row> {
    let wire = |act| How::Wire(Link::Client, Way::Back, Which::Data(0), act);
    let kept = Shape { client: Route::Relayed, ..Shape::SMALL };
    vec![
        row(
            "client's network: response late, acknowledgements unwatched",
            "the relay holds the response's only segment",
            kept,
            one(wire(Act::Hold), USUAL_US, Place::Nowhere("a request ends when the socket has taken its response")),
        ),
        at(
            Agent::Acking,
            row(
                "client's network: response late",
                "the relay holds the response's only segment",
                kept,
                one(wire(Act::Hold), USUAL_US, Place::Attribute("wayspan.after.ack")),
            ),
        ),
        at(
            Agent::Acking,
            long(row(
                "client: reads slowly until its window is shut",
                UNREAD,
                // Until it is full, its kernel delays two or three acknowledgements (40 ms each): the congestion window waits.
                Shape { unknown_us: 130_000, ..unread() },
                vec![Injection {
                    how: How::ClientRead,
                    delay_us: (250_000, 350_000),
                    places: vec![phase("client_drain"), Place::Attribute("wayspan.client.zero_window")],
                    share: 30,
                }],
            )),
        ),
        at(
            Agent::Acking,
            long(row(
                "backend: stops reading an upload until its window is shut",
                "the backend reads a request's head, then nothing until no more comes, and then nothing for a pause",
                // The segment that fills it may be acknowledged late (TCP_DELACK_MIN, 40 ms): nobody is told before that it is shut.
                Shape {
                    upload: (300_000, 1),
                    send_buffer: Some(64 << 10),
                    backend_fresh: true,
                    cramped: true,
                    unknown_us: 40_000,
                    ..Shape::SMALL
                },
                vec![Injection {
                    how: How::BackendUnread,
                    delay_us: (250_000, 350_000),
                    places: vec![phase("upstream_drain"), Place::Attribute("wayspan.upstream.zero_window")],
                    share: 30,
                }],
            )),
        ),
        at(
            Agent::Acking,
            patient(row(
                "client's network: response lost",
                "the relay loses the response's only segment once",
                kept,
                vec![Injection {
                    how: wire(Act::Lose),
                    delay_us: LOST_US,
                    places: vec![Place::Attribute("wayspan.after.ack"), Place::Count("wayspan.client.retransmits")],
                    share: 30,
                }],
            )),
        ),
    ]
}
