//! Keeps what the agent said of each request: when it began, and how long each of its phases took, in their order.

use wayspan_tests::otlp::{self, Value};

use super::book::Id;

/// All phases; of a request without a body, in the order of their points.
pub(super) const PHASES: [&str; 24] = [
    "accept_wait",
    "client_send",
    "read_wait",
    "pipeline_wait",
    "proxy_request",
    "middleware_wait",
    "retry_wait",
    "pool_wait",
    "upstream_dns",
    "upstream_connect",
    "upstream_tls",
    "upstream_write",
    "upstream_wait",
    "upstream_path_out",
    "backend_pickup",
    "backend_app",
    "upstream_path_back",
    "upstream_read_wait",
    "proxy_response",
    "upstream_body",
    "client_drain",
    "client_body",
    "upstream_drain",
    "tunnel",
];

/// A phase's place among [`PHASES`].
pub(super) fn place(phase: &str) -> usize {
    PHASES.iter().position(|name| *name == phase).unwrap_or(PHASES.len())
}

/// The SERVER spans of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many came; what follows is the last one's.
    pub(super) spans: u32,
    /// Its coverage, by [`Received::coverages`].
    pub(super) coverage: usize,
    /// Wall clock.
    pub(super) begun_us: u64,
    /// From its begin to its end.
    pub(super) took_us: u32,
    /// Microseconds by phase.
    pub(super) phases: [u32; PHASES.len()],
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Received {
    requests: Vec<Seen>,
    pub(super) coverages: Vec<String>,
    /// SERVER spans that are of none of our requests.
    pub(super) strange: u64,
}

impl Received {
    /// One request, for tests of the judge.
    #[cfg(test)]
    pub(super) fn with(id: Id, seen: Seen, coverages: Vec<String>) -> Self {
        let mut requests = vec![Seen::default(); id as usize + 1];
        requests[id as usize] = seen;
        Self { requests, coverages, strange: 0 }
    }

    /// What was said of a request.
    pub(super) fn of(&self, id: Id) -> Seen {
        self.requests.get(id as usize).copied().unwrap_or_default()
    }

    /// Makes room for so many requests.
    pub(super) fn of_requests(requests: Id) -> Self {
        Self { requests: vec![Seen::default(); requests as usize + 1], ..Self::default() }
    }

    /// Takes an export; how many requests got their first span by it.
    pub(super) fn take(&mut self, message: &[u8]) -> u64 {
        // `Span`: kind = 6, SERVER is 2.
        let servers = otlp::spans(message).filter(|span| otlp::number(span, 6) == Some(2));
        servers.map(|span| u64::from(self.take_span(span))).sum()
    }

    /// `Span`: start = 7, end = 8.
    fn take_span(&mut self, span: &[u8]) -> bool {
        let [begun_us, ended_us] = [7, 8].map(|number| otlp::number(span, number).unwrap_or(0) / 1000);
        let took_us = u32::try_from(ended_us.saturating_sub(begun_us)).unwrap_or(u32::MAX);
        let mut seen = Seen { begun_us, took_us, ..Seen::default() };
        let mut id = 0;
        for attribute in otlp::attributes(span) {
            match attribute {
                ("url.path", 1, Value::Bytes(path)) => id = number_in(path).unwrap_or(0),
                ("wayspan.coverage", 1, Value::Bytes(text)) => seen.coverage = self.coverage(text),
                (key, 3, Value::Number(us)) => {
                    let phase = key.strip_prefix("wayspan.phase.").map_or(PHASES.len(), place);
                    if let Some(phase) = seen.phases.get_mut(phase) {
                        *phase = u32::try_from(us).unwrap_or(u32::MAX);
                    }
                }
                _ => {}
            }
        }
        let Some(known) = self.requests.get_mut(id as usize).filter(|_| id > 0) else {
            self.strange += 1;
            return false;
        };
        seen.spans = known.spans + 1;
        *known = seen;
        seen.spans == 1
    }

    fn coverage(&mut self, text: &[u8]) -> usize {
        if let Some(known) = self.coverages.iter().position(|known| known.as_bytes() == text) {
            return known;
        }
        self.coverages.push(String::from_utf8_lossy(text).into_owned());
        self.coverages.len() - 1
    }
}

/// The number in a path of ours: `/r/` or `/f/` and digits.
fn number_in(path: &[u8]) -> Option<Id> {
    std::str::from_utf8(path.get(3..)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use wayspan_tests::otlp::field;

    use super::*;

    fn span(kind: u8, path: &str) -> Vec<u8> {
        let attribute = |key: &str, value: &[u8]| field(9, &[field(1, key.as_bytes()), field(2, value)].concat());
        let mut span = vec![6 << 3, kind, 7 << 3 | 1];
        span.extend(5_000_u64.to_le_bytes());
        span.push(8 << 3 | 1);
        span.extend(12_000_u64.to_le_bytes());
        span.extend(attribute("url.path", &field(1, path.as_bytes())));
        span.extend(attribute("wayspan.coverage", &field(1, b"full")));
        span.extend(attribute("wayspan.phase.client_send", &[3 << 3, 7]));
        span.extend(attribute("wayspan.phase.of_tomorrow", &[3 << 3, 9]));
        field(1, &field(2, &field(2, &span)))
    }

    #[test]
    fn server_spans_are_kept_by_their_requests_and_counted() {
        let mut received = Received::of_requests(9);
        assert_eq!(received.take(&[span(2, "/r/0000000007"), span(3, "/r/0000000008")].concat()), 1);
        assert_eq!(received.take(&span(2, "/r/0000000007")), 0);
        let mut phases = [0; PHASES.len()];
        phases[place("client_send")] = 7;
        assert_eq!(received.of(7), Seen { spans: 2, coverage: 0, begun_us: 5, took_us: 7, phases });
        assert_eq!((received.of(8), received.coverages.as_slice()), (Seen::default(), ["full".to_owned()].as_slice()));
        for path in ["/r/0000000010", "/r/0", "/", "/r/x"] {
            assert_eq!(received.take(&span(2, path)), 0);
        }
        assert_eq!(received.strange, 4);
    }
}
