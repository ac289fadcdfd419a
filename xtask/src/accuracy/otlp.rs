//! A receiver of OTLP over HTTP that keeps what spans say of this run's requests. Reads protobuf by field numbers
//! (opentelemetry-proto v1): xtask is built before everything else, and stays small without the generated types.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

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
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&kept);
                // An agent that breaks off, e.g. by being stopped, ends its connection only.
                std::thread::spawn(move || serve(&stream, &received));
            }
        });
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

fn serve(stream: &TcpStream, received: &Mutex<Received>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().context("a length that is none")?;
            }
        }
        let mut body = Vec::new();
        (&mut reader).take(length).read_to_end(&mut body)?;
        received.lock().unwrap_or_else(PoisonError::into_inner).take(&body);
        (&mut &*stream)
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    }
}

impl Received {
    /// Takes what is ours of an `ExportTraceServiceRequest`: resource_spans = 1, scope_spans = 2, spans = 2.
    fn take(&mut self, message: &[u8]) {
        for resource in all(message, 1) {
            for scope in all(resource, 2) {
                for span in all(scope, 2) {
                    // Bytes that are no span are a missing span, which the judge sees.
                    let _taken = self.take_span(span);
                }
            }
        }
    }

    /// `Span`: span_id = 2, parent_span_id = 4, kind = 6 (SERVER is 2, CLIENT 3), start = 7, attributes = 9.
    fn take_span(&mut self, message: &[u8]) -> Option<()> {
        let number = |wanted| Fields(message).find_map(|(number, value)| value.number().filter(|_| number == wanted));
        let (begun_ns, attributes) = (number(7)?, Attributes::read(message)?);
        match number(6)? {
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
    /// Those of a span. `KeyValue`: key = 1, value = 2; `AnyValue`: string = 1, bool = 2, int = 3.
    fn read(span: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        for attribute in all(span, 9) {
            let key = all(attribute, 1).next().and_then(|key| std::str::from_utf8(key).ok())?;
            for (number, value) in Fields(all(attribute, 2).next()?) {
                match (number, value) {
                    (1, Value::Bytes(text)) => read.text(key, String::from_utf8_lossy(text).into_owned()),
                    (2, Value::Number(value)) if key == "wayspan.connection.reused" => read.reused = value != 0,
                    (3, Value::Number(value)) => {
                        read.numbers.insert(key.to_owned(), value);
                    }
                    _ => {}
                }
            }
        }
        Some(read)
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

/// The length-delimited fields of that number.
fn all(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(_) => None,
        }
    }
}

/// The fields of a message; ends at bytes that are none.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = varint(self.0)?;
        let (value, rest) = match key & 7 {
            0 => varint(rest).map(|(number, rest)| (Value::Number(number), rest))?,
            1 => {
                let (fixed, rest) = rest.split_first_chunk::<8>()?;
                (Value::Number(u64::from_le_bytes(*fixed)), rest)
            }
            2 => {
                let (length, rest) = varint(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Value::Bytes(bytes), rest)
            }
            5 => {
                let (fixed, rest) = rest.split_first_chunk::<4>()?;
                (Value::Number(u64::from(u32::from_le_bytes(*fixed))), rest)
            }
            _ => return None,
        };
        self.0 = rest;
        Some((key >> 3, value))
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        // Two bytes of length, also where one would do.
        let length = u16::try_from(bytes.len()).unwrap();
        let [low, high] = [u8::try_from(length & 0x7f).unwrap() | 0x80, u8::try_from(length >> 7).unwrap()];
        let mut out = vec![number << 3 | 2, low, high];
        out.extend(bytes);
        out
    }

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
