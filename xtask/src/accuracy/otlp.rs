//! A receiver of OTLP that keeps what spans say of this run's requests.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use wayspan_tests::otlp::{self, Value, all};

use super::space::Space;

/// What the agent said of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// Its id: the parent of its attempts'.
    pub(super) id: Vec<u8>,
    /// `wayspan.coverage`.
    pub(super) coverage: String,
    /// `wayspan.blame`.
    pub(super) blame: String,
    /// Whole numbers by name.
    pub(super) numbers: HashMap<String, u64>,
    /// What was said of its last attempt, once it is joined.
    pub(super) attempt: Option<Attempt>,
}

/// What the agent said of one attempt to reach a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Wall clock.
    pub(super) begun_ns: u64,
    /// Over a connection that was there.
    pub(super) reused: bool,
    /// Whole numbers by name.
    pub(super) numbers: HashMap<String, u64>,
}

impl Span {
    /// Microseconds in a phase; none is zero.
    pub(super) fn phase(&self, name: &str) -> u64 {
        self.numbers.get(&format!("{PHASE}{name}")).copied().unwrap_or(0)
    }

    /// All phases and their microseconds.
    pub(super) fn phases(&self) -> impl Iterator<Item = (&str, u64)> {
        self.numbers.iter().filter_map(|(name, us)| Some((name.strip_prefix(PHASE)?, *us)))
    }

    /// A number of the request or, where that has none, of its last attempt.
    pub(super) fn number(&self, name: &str) -> u64 {
        let attempt = || self.attempt.as_ref()?.numbers.get(name);
        self.numbers.get(name).or_else(attempt).copied().unwrap_or(0)
    }

    /// Whether its last attempt had to make a connection.
    pub(super) fn connected(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| !attempt.reused)
    }
}

const PHASE: &str = "wayspan.phase.";

/// What came so far: requests by their number, all that came for one; attempts by their parent's id.
#[derive(Debug, Default)]
struct Received {
    requests: HashMap<u64, Vec<Span>>,
    attempts: HashMap<Vec<u8>, Vec<Attempt>>,
}

/// The running receiver.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

impl Sink {
    /// Listens on the loopback of that namespace. It ends with this process.
    pub(super) fn start(space: &Space) -> Result<Self> {
        let listener = space.within(|| Ok(TcpListener::bind(("127.0.0.1", 0))?))?;
        let address = listener.local_addr()?;
        let received = Arc::<Mutex<Received>>::default();
        let kept = Arc::clone(&received);
        otlp::receive(listener, move |message| kept.lock().unwrap_or_else(PoisonError::into_inner).take(message));
        Ok(Self { address, received })
    }

    /// The spans that came for a request so far, each with its last attempt.
    pub(super) fn spans_of(&self, request: u64) -> Vec<Span> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = received.requests.get(&request).cloned().unwrap_or_default();
        for span in &mut spans {
            let attempts = received.attempts.get(&span.id).into_iter().flatten();
            span.attempt = attempts.max_by_key(|attempt| attempt.begun_ns).cloned();
        }
        spans
    }
}

impl Received {
    /// Takes what is ours.
    fn take(&mut self, message: &[u8]) {
        for span in otlp::spans(message) {
            // Bytes that are no span are a missing span, which the judge sees.
            let _taken = self.take_span(span);
        }
    }

    /// `Span`: span_id = 2, parent_span_id = 4, kind = 6 (SERVER is 2, CLIENT 3), start = 7, attributes = 9.
    fn take_span(&mut self, message: &[u8]) -> Option<()> {
        let (begun_ns, attributes) = (otlp::number(message, 7)?, Attributes::read(message));
        match otlp::number(message, 6)? {
            2 => {
                let Attributes { request, coverage, blame, numbers, .. } = attributes;
                let span = Span { id: all(message, 2).next()?.to_vec(), coverage, blame, numbers, attempt: None };
                self.requests.entry(request?).or_default().push(span);
            }
            3 => {
                let Attributes { reused, numbers, .. } = attributes;
                let parent = all(message, 4).next()?.to_vec();
                self.attempts.entry(parent).or_default().push(Attempt { begun_ns, reused, numbers });
            }
            _ => {}
        }
        Some(())
    }
}

/// The attributes that matter here.
#[derive(Default)]
struct Attributes {
    request: Option<u64>,
    coverage: String,
    blame: String,
    reused: bool,
    numbers: HashMap<String, u64>,
}

impl Attributes {
    /// Those of a span.
    fn read(span: &[u8]) -> Self {
        let mut read = Self::default();
        for attribute in otlp::attributes(span) {
            match attribute {
                (key, 1, Value::Bytes(text)) => read.text(key, String::from_utf8_lossy(text).into_owned()),
                ("wayspan.connection.reused", 2, Value::Number(value)) => read.reused = value != 0,
                (key, 3, Value::Number(value)) => {
                    read.numbers.insert(key.to_owned(), value);
                }
                _ => {}
            }
        }
        read
    }

    fn text(&mut self, key: &str, text: String) {
        match key {
            "url.path" => self.request = text.strip_prefix("/r/").and_then(|id| id.parse().ok()),
            "wayspan.coverage" => self.coverage = text,
            "wayspan.blame" => self.blame = text,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wayspan_tests::otlp::field;

    use super::*;

    fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
        field(9, &[field(1, key.as_bytes()), field(2, value)].concat())
    }

    fn export(kind: u8) -> Vec<u8> {
        let mut span = field(if kind == 2 { 2 } else { 4 }, b"8 bytes!");
        span.extend([6 << 3, kind, 7 << 3 | 1]);
        span.extend(1_000_000_u64.to_le_bytes());
        span.extend(attribute("url.path", &field(1, b"/r/9")));
        span.extend(attribute("wayspan.coverage", &field(1, b"full")));
        span.extend(attribute("wayspan.blame", &field(1, b"client")));
        span.extend(attribute("wayspan.connection.reused", &[2 << 3, 1]));
        span.extend(attribute("wayspan.phase.client_send", &[3 << 3, 0xac, 0x02]));
        field(1, &field(2, &field(2, &span)))
    }

    fn spans(messages: &[&[u8]]) -> Vec<Span> {
        let mut received = Received::default();
        for message in messages {
            received.take(message);
        }
        let sink = Sink { address: ([127, 0, 0, 1], 1).into(), received: Arc::new(Mutex::new(received)) };
        sink.spans_of(9)
    }

    #[test]
    fn a_request_is_read_with_its_phases_and_joined_with_its_attempt() {
        let found = spans(&[&export(3), &export(2)]);
        let [span] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((span.coverage.as_str(), span.blame.as_str(), span.phase("client_send")), ("full", "client", 300));
        assert_eq!(span.phases().collect::<Vec<_>>(), [("client_send", 300)]);
        assert!(span.attempt.as_ref().unwrap().reused && !span.connected());
        assert_eq!(spans(&[&export(3)]), []);
        assert_eq!(spans(&[&export(2), &export(2)]).len(), 2);
    }

    #[test]
    fn bytes_that_are_cut_off_anywhere_give_no_span() {
        let bytes = export(2);
        for length in 0..bytes.len() {
            assert_eq!(spans(&[bytes.get(..length).unwrap()]), [], "{length}");
        }
    }
}
