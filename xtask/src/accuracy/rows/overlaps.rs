//! The rows in which two wait for each other's end at once, so that only one of them can be told. docs/phases.md says which.

use super::*;

/// What is laid to a backend, or may be its doing.
const OF_BACKEND: &[&str] =
    &["upstream_body", "upstream_drain", "backend_pickup", "backend_app", "upstream_path_back", "upstream_wait"];

pub(super) fn all() -> Vec<Row> {
    vec![
        row(
            "backend: slow code before an early answer",
            "the backend pauses, and answers a request of which the client has sent half; the rest comes behind the answer",
            Shape { upload: (40_000, 2), ..Shape::SMALL },
            // Until the answer is readable, the clock is the upload's: the proxy waits for a client that could send, and did not.
            one(How::BackendEarly, USUAL_US, phase("client_body")),
        ),
        row(
            "proxy: stopped when a client that reads slowly has left it no room",
            "the client stops reading until nothing more comes; SIGSTOP; the client reads all there is; SIGCONT",
            unread(),
            vec![Injection {
                how: How::StopWithoutRoom,
                delay_us: USUAL_US,
                // Room in a socket has no mark in the kernel: the wait for it ends when the proxy has noticed.
                places: vec![phase("client_drain"), Place::Not(OF_BACKEND)],
                share: 30,
            }],
        ),
    ]
}
