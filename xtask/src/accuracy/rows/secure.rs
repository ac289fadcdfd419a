//! The rows of clients that speak TLS over kept connections: a handshake is long past when the delay comes.

use super::*;

pub(super) fn kept() -> Vec<Row> {
    let kept = Shape { tls: true, ..Shape::SMALL };
    vec![
        row(
            "TLS, kept: slow code",
            "the backend pauses between request and response",
            kept,
            one(How::BackendCode, USUAL_US, phase("backend_app")),
        ),
        row(
            "TLS, kept: sends its head slowly",
            "the client pauses within the head, between two records",
            kept,
            one(How::ClientHead, USUAL_US, phase("client_send")),
        ),
    ]
}
