//! What receivers of spans share: OTLP over HTTP, and protobuf by field numbers (opentelemetry-proto v1). xtask is built
//! before everything else, and stays small without the generated types; the bench's receiver only counts. What a span says is
//! its receiver's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result};

/// Hands each `ExportTraceServiceRequest` that comes to `take`, on threads of its own, as long as this process lives.
pub fn receive(listener: TcpListener, take: impl Fn(&[u8]) + Send + Sync + 'static) {
    let take = Arc::new(take);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let take = Arc::clone(&take);
            // An agent that breaks off, e.g. by being stopped, ends its connection only.
            std::thread::spawn(move || serve(&stream, &*take));
        }
    });
}

fn serve(stream: &TcpStream, take: &impl Fn(&[u8])) -> Result<()> {
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
        take(&body);
        (&mut &*stream)
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// The `Span`s of an `ExportTraceServiceRequest`: resource_spans = 1, scope_spans = 2, spans = 2.
pub fn spans(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    all(message, 1).flat_map(|resource| all(resource, 2)).flat_map(|scope| all(scope, 2))
}

/// The attributes of a `Span`, field 9, with the value's field. `KeyValue`: key = 1, value = 2; `AnyValue`: string = 1,
/// bool = 2, int = 3. Those that are none are passed over.
pub fn attributes(span: &[u8]) -> impl Iterator<Item = (&str, u64, Value<'_>)> {
    all(span, 9).filter_map(|attribute| {
        let key = all(attribute, 1).next().and_then(|key| std::str::from_utf8(key).ok())?;
        let (number, value) = Fields(all(attribute, 2).next()?).next()?;
        Some((key, number, value))
    })
}

/// The first number in the field of that number.
pub fn number(message: &[u8], wanted: u64) -> Option<u64> {
    Fields(message).find_map(|(number, value)| value.number().filter(|_| number == wanted))
}

/// The length-delimited fields of that number.
pub fn all(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    Fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// A length-delimited field, for tests of receivers: of that number, below 16, with these bytes, fewer than 16,384.
#[must_use]
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    // Two bytes of length, also where one would do.
    let [low, high] = [length & 0x7f | 0x80, length >> 7].map(|part| u8::try_from(part).unwrap_or(u8::MAX));
    [&[number << 3 | 2, low, high], bytes].concat()
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A varint, or a number of fixed length.
    Number(u64),
    /// What has a length: a string, a message.
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
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

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
