//! A receiver of OTLP over HTTP that keeps the SERVER spans of this run's requests. Reads protobuf by field numbers
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
    /// Nanoseconds between its ends.
    pub(super) duration_ns: u64,
    /// `wayspan.coverage`.
    pub(super) coverage: String,
    /// `wayspan.blame`.
    pub(super) blame: String,
    /// All whole numbers by name.
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
}

const PHASE: &str = "wayspan.phase.";

/// Spans by request, all that came for one.
type Spans = Arc<Mutex<HashMap<u64, Vec<Span>>>>;

/// The running receiver.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    spans: Spans,
}

impl Sink {
    /// Listens on the loopback of that namespace. It ends with this process.
    pub(super) fn start(space: &Space) -> Result<Self> {
        let listener = space.within(|| Ok(TcpListener::bind(("127.0.0.1", 0))?))?;
        let address = listener.local_addr()?;
        let spans = Spans::default();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let spans = Arc::clone(&kept);
                // An agent that breaks off, e.g. by being stopped, ends its connection only.
                std::thread::spawn(move || serve(&stream, &spans));
            }
        });
        Ok(Self { address, spans })
    }

    /// The spans that came for a request so far.
    pub(super) fn spans_of(&self, request: u64) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).get(&request).cloned().unwrap_or_default()
    }
}

fn serve(stream: &TcpStream, spans: &Spans) -> Result<()> {
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
        let found = server_spans(&body);
        let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
        for (request, span) in found {
            spans.entry(request).or_default().push(span);
        }
        drop(spans);
        (&mut &*stream)
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// The SERVER spans of an `ExportTraceServiceRequest` whose path is one of ours.
fn server_spans(message: &[u8]) -> Vec<(u64, Span)> {
    let mut found = Vec::new();
    // resource_spans = 1, scope_spans = 2, spans = 2
    for resource in all(message, 1) {
        for scope in all(resource, 2) {
            found.extend(all(scope, 2).filter_map(server_span));
        }
    }
    found
}

/// `Span`: kind = 6 (SERVER is 2), start and end = 7 and 8, attributes = 9; `KeyValue`: key = 1, value = 2;
/// `AnyValue`: string = 1, int = 3.
fn server_span(message: &[u8]) -> Option<(u64, Span)> {
    let number = |wanted| Fields(message).find_map(|(number, value)| value.number().filter(|_| number == wanted));
    if number(6)? != 2 {
        return None;
    }
    let mut span = Span { duration_ns: number(8)?.saturating_sub(number(7)?), ..Span::default() };
    let mut request = None;
    for attribute in all(message, 9) {
        let key = all(attribute, 1).next().and_then(|key| std::str::from_utf8(key).ok())?;
        let value = all(attribute, 2).next()?;
        for (number, value) in Fields(value) {
            match (number, value) {
                (1, Value::Bytes(text)) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    match key {
                        "url.path" => request = text.strip_prefix("/r/").and_then(|id| id.parse().ok()),
                        "wayspan.coverage" => span.coverage = text,
                        "wayspan.blame" => span.blame = text,
                        _ => {}
                    }
                }
                (3, Value::Number(value)) => {
                    span.numbers.insert(key.to_owned(), value);
                }
                _ => {}
            }
        }
    }
    Some((request?, span))
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
        let mut span = vec![6 << 3, kind, 7 << 3 | 1];
        span.extend(1_000_000_u64.to_le_bytes());
        span.push(8 << 3 | 1);
        span.extend(1_250_000_u64.to_le_bytes());
        span.extend(attribute("url.path", &field(1, b"/r/9")));
        span.extend(attribute("wayspan.coverage", &field(1, b"full")));
        span.extend(attribute("wayspan.blame", &field(1, b"client")));
        span.extend(attribute("wayspan.phase.client_send", &[3 << 3, 0xac, 0x02]));
        field(1, &field(2, &field(2, &span)))
    }

    #[test]
    fn a_server_span_is_read_with_its_phases() {
        let spans = server_spans(&export(2));
        let (request, span) = spans.first().unwrap();
        assert_eq!((*request, span.duration_ns, span.phase("client_send")), (9, 250_000, 300));
        assert_eq!((span.coverage.as_str(), span.blame.as_str()), ("full", "client"));
        assert_eq!(span.phases().collect::<Vec<_>>(), [("client_send", 300)]);
        assert_eq!(server_spans(&export(3)), []);
    }

    #[test]
    fn bytes_that_are_cut_off_anywhere_give_no_span() {
        let bytes = export(2);
        for length in 0..bytes.len() {
            assert_eq!(server_spans(bytes.get(..length).unwrap()), [], "{length}");
        }
    }
}
