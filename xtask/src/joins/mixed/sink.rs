//! Keeps what the agent said of each request: its spans, by trace, with the stretches of its phases one by one.

use std::collections::HashMap;

use wayspan_tests::otlp::{self, Value, all};

use super::super::book::Id;
use super::script::number_in_path;

/// `Span`'s kinds.
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const PHASE: &str = "wayspan.phase.";

/// A stretch of a request's time, wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Its phase, or `body`.
    pub(super) name: String,
    pub(super) from_us: u64,
    pub(super) to_us: u64,
}

/// What came of one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// SERVER spans.
    pub(super) servers: u32,
    /// Wall clock.
    pub(super) begun_us: u64,
    pub(super) ended_us: u64,
    pub(super) coverage: String,
    /// Microseconds by phase, those that took any.
    pub(super) phases: HashMap<String, u64>,
    pub(super) stretches: Vec<Stretch>,
    /// From its end until the client had acknowledged it, where that is known.
    pub(super) acknowledged_us: Option<u64>,
    /// CLIENT spans, and whether the last of them was over a pooled connection.
    pub(super) attempts: u32,
    pub(super) last_begun_ns: u64,
    pub(super) reused: bool,
}

impl Seen {
    pub(super) fn phase(&self, name: &str) -> u64 {
        self.phases.get(name).copied().unwrap_or(0)
    }

    /// The first stretch of that name.
    pub(super) fn stretch(&self, name: &str) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.name == name)
    }
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Received {
    traces: HashMap<Vec<u8>, Seen>,
    /// Traces by request: one each, if all is well.
    requests: HashMap<Id, Vec<Vec<u8>>>,
    /// Spans of whatever kind.
    pub(super) spans: u64,
    /// SERVER spans of none of our requests.
    pub(super) strange: u64,
}

impl Received {
    /// What was said of a request; with the SERVER spans of all its traces.
    pub(super) fn of(&self, id: Id) -> Seen {
        let mut traces = self.requests.get(&id).into_iter().flatten().filter_map(|trace| self.traces.get(trace));
        let mut seen = traces.next().cloned().unwrap_or_default();
        seen.servers += traces.map(|other| other.servers).sum::<u32>();
        seen.stretches.sort_by_key(|stretch| (stretch.from_us, stretch.to_us));
        seen
    }

    /// Takes an export; how many requests got their first SERVER span by it.
    pub(super) fn take(&mut self, message: &[u8]) -> u64 {
        let known = self.requests.len();
        for span in otlp::spans(message) {
            self.spans += 1;
            self.take_span(span);
        }
        (self.requests.len() - known) as u64
    }

    /// `Span`: trace_id = 1, name = 5, kind = 6, start = 7, end = 8.
    fn take_span(&mut self, span: &[u8]) {
        let Some(trace) = all(span, 1).next() else { return };
        let (begun_ns, ended_ns) = (otlp::number(span, 7).unwrap_or(0), otlp::number(span, 8).unwrap_or(0));
        let seen = self.traces.entry(trace.to_vec()).or_default();
        match otlp::number(span, 6) {
            Some(SERVER) => {
                seen.servers += 1;
                (seen.begun_us, seen.ended_us) = (begun_ns / 1000, ended_ns / 1000);
                let Some(id) = seen.take_server(span) else {
                    self.strange += 1;
                    return;
                };
                let traces = self.requests.entry(id).or_default();
                if traces.iter().all(|known| known != trace) {
                    traces.push(trace.to_vec());
                }
            }
            Some(CLIENT) => {
                seen.attempts += 1;
                if begun_ns >= seen.last_begun_ns {
                    seen.last_begun_ns = begun_ns;
                    seen.reused = otlp::attributes(span)
                        .any(|told| matches!(told, ("wayspan.connection.reused", 2, Value::Number(1))));
                }
            }
            Some(INTERNAL) => {
                let name = all(span, 5).next().map(|name| String::from_utf8_lossy(name).into_owned());
                let (from_us, to_us) = (begun_ns / 1000, ended_ns / 1000);
                seen.stretches.push(Stretch { name: name.unwrap_or_default(), from_us, to_us });
            }
            _ => {}
        }
    }
}

impl Seen {
    /// The request's number, if it is one of ours.
    fn take_server(&mut self, span: &[u8]) -> Option<Id> {
        let mut id = None;
        self.phases.clear();
        for attribute in otlp::attributes(span) {
            match attribute {
                ("url.path", 1, Value::Bytes(path)) => id = number_in_path(path),
                ("wayspan.coverage", 1, Value::Bytes(text)) => {
                    self.coverage = String::from_utf8_lossy(text).into_owned();
                }
                ("wayspan.after.ack", 3, Value::Number(us)) => self.acknowledged_us = Some(us),
                (key, 3, Value::Number(us)) => {
                    if let Some(phase) = key.strip_prefix(PHASE) {
                        self.phases.insert(phase.to_owned(), us);
                    }
                }
                _ => {}
            }
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use wayspan_tests::otlp::field;

    use super::*;

    fn span(trace: u8, kind: u64, name: &str, [from_us, to_us]: [u64; 2], attributes: &[(&str, &[u8])]) -> Vec<u8> {
        let mut span = field(1, &[trace; 16]);
        span.extend(field(5, name.as_bytes()));
        span.extend([6 << 3, u8::try_from(kind).unwrap()]);
        for (number, us) in [(7, from_us), (8, to_us)] {
            span.push(number << 3 | 1);
            span.extend((us * 1000).to_le_bytes());
        }
        for (key, value) in attributes {
            span.extend(field(9, &[field(1, key.as_bytes()), field(2, value)].concat()));
        }
        field(1, &field(2, &field(2, &span)))
    }

    #[test]
    fn the_spans_of_a_trace_are_one_request_in_whatever_order_they_come() {
        let mut received = Received::default();
        let path = field(1, b"/m/0000000007");
        received.take(&span(1, INTERNAL, "body", [60, 90], &[]));
        received.take(&span(1, CLIENT, "GET", [30, 40], &[("wayspan.connection.reused", &[2 << 3, 1])]));
        received.take(&span(1, INTERNAL, "client_send", [10, 60], &[]));
        let attributes: &[(&str, &[u8])] = &[
            ("wayspan.after.ack", &[3 << 3, 9]),
            ("url.path", &path),
            ("wayspan.coverage", &field(1, b"full")),
            ("wayspan.phase.client_send", &[3 << 3, 50]),
        ];
        received.take(&span(1, SERVER, "GET", [10, 90], attributes));
        received.take(&span(1, CLIENT, "GET", [50, 80], &[("wayspan.connection.reused", &[2 << 3, 0])]));
        let seen = received.of(7);
        assert_eq!((seen.servers, seen.begun_us, seen.ended_us, seen.coverage.as_str()), (1, 10, 90, "full"));
        assert_eq!(seen.acknowledged_us, Some(9));
        assert_eq!((seen.attempts, seen.reused, seen.phase("client_send"), received.spans), (2, false, 50, 5));
        let stretches: Vec<_> = seen.stretches.iter().map(|s| (s.name.as_str(), s.from_us, s.to_us)).collect();
        assert_eq!(stretches, [("client_send", 10, 60), ("body", 60, 90)]);
    }

    #[test]
    fn another_trace_of_the_same_request_is_another_server_span_and_those_of_others_are_strange() {
        let mut received = Received::default();
        for (trace, path) in [(1, "/m/0000000007"), (2, "/m/0000000007"), (3, "/"), (4, "/m/7")] {
            received.take(&span(trace, SERVER, "GET", [10, 20], &[("url.path", &field(1, path.as_bytes()))]));
        }
        assert_eq!((received.of(7).servers, received.of(8).servers, received.strange), (2, 0, 2));
    }
}
