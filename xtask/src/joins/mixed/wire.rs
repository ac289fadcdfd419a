//! One end of a connection: what is to be written, with the stamps of those of its bytes that count, and where messages and
//! their bodies end in what is read. No meaning: that is the load's.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Result;

use super::super::load::now_ns;

/// A read takes no more at once.
const READ_BYTES: usize = 64 << 10;

/// A byte that counts was written, by a call between these times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent<W> {
    pub(super) what: W,
    pub(super) before: u64,
    pub(super) after: u64,
}

/// A socket that does not block, and what waits for room in it.
pub(super) struct Wire<W> {
    pub(super) socket: TcpStream,
    out: VecDeque<u8>,
    /// Bytes written so far.
    written: u64,
    /// Offsets of bytes that count, in order.
    marks: VecDeque<(u64, W)>,
}

impl<W: Copy> Wire<W> {
    pub(super) fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, out: VecDeque::new(), written: 0, marks: VecDeque::new() })
    }

    /// Appends bytes; of some of them, by their place among these, the time counts.
    pub(super) fn push(&mut self, bytes: &[u8], counts: impl IntoIterator<Item = (usize, W)>) {
        let from = self.written + self.out.len() as u64;
        self.marks.extend(counts.into_iter().map(|(at, what)| (from + at as u64, what)));
        self.out.extend(bytes);
    }

    /// Writes as much as there is room for. `Ok(false)`: the other end is gone.
    pub(super) fn flush(&mut self, mut sent: impl FnMut(Sent<W>)) -> Result<bool> {
        while !self.out.is_empty() {
            let bytes = self.out.make_contiguous();
            let before = now_ns();
            let taken = match self.socket.write(bytes) {
                Ok(taken) => taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_gone(error.kind()) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let after = now_ns();
            self.out.drain(..taken);
            self.written += taken as u64;
            while let Some((_, what)) = self.marks.pop_front_if(|(at, _)| *at < self.written) {
                sent(Sent { what, before, after });
            }
        }
        Ok(true)
    }

    /// Reads once.
    pub(super) fn read(&mut self) -> Result<Came> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            return match self.socket.read(&mut bytes) {
                Ok(0) => Ok(Came::End),
                Ok(read) => {
                    bytes.truncate(read);
                    Ok(Came::Bytes(bytes))
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Came::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_gone(error.kind()) => Ok(Came::End),
                Err(error) => Err(error.into()),
            };
        }
    }
}

pub(super) enum Came {
    Nothing,
    Bytes(Vec<u8>),
    End,
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunk),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Within the line that says how long it is.
    Size(u64),
    /// Behind a digit that is none: up to the line's end.
    Rest(u64),
    /// So many bytes of it, and of the line's end behind it, are to come.
    Data(u64, u8),
    /// So many bytes of the last line's end.
    Last(u8),
}

/// A message under way.
#[derive(Debug, Default)]
pub(super) struct Message {
    head: Vec<u8>,
    framing: Option<Framing>,
    /// Bytes of its body that were read.
    pub(super) payload: u64,
}

/// What a message's next bytes came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its first byte.
    Begun,
    /// All of its head; its body follows, if it has one.
    Head(Vec<u8>),
    /// Some of its body.
    Body,
    /// Its end: the next message follows.
    End,
}

impl Message {
    /// Takes bytes up to the next step; whether there is one. `has_body` says whether a message with this head has one.
    pub(super) fn step(&mut self, bytes: &mut &[u8], has_body: impl FnOnce(&[u8]) -> bool) -> Option<Step> {
        if let Some(framing) = &mut self.framing {
            if *framing == Framing::Length(0) {
                *self = Self::default();
                return Some(Step::End);
            }
            if bytes.is_empty() {
                return None;
            }
            let (payload, is_over) = framing.take(bytes);
            self.payload += payload;
            if is_over {
                self.framing = Some(Framing::Length(0));
            }
            return Some(Step::Body);
        }
        if bytes.is_empty() {
            return None;
        }
        let known = self.head.len();
        if known == 0 {
            // Its own step, so that the first byte's time is known.
            let (first, rest) = bytes.split_at(1);
            self.head.extend_from_slice(first);
            *bytes = rest;
            return Some(Step::Begun);
        }
        self.head.extend_from_slice(bytes);
        let from = known.saturating_sub(3);
        let end = self.head.get(from..)?.windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4);
        let Some(end) = end else {
            *bytes = &[];
            return None;
        };
        *bytes = bytes.get(end - known..).unwrap_or_default();
        self.head.truncate(end);
        let head = std::mem::take(&mut self.head);
        self.framing = Some(if has_body(&head) { Framing::of(&head) } else { Framing::Length(0) });
        Some(Step::Head(head))
    }
}

impl Framing {
    /// By the head's fields.
    fn of(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        if text.contains("\r\ntransfer-encoding: chunked\r\n") {
            return Self::Chunked(Chunk::Size(0));
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        Self::Length(length.and_then(|length| length.trim().parse().ok()).unwrap_or(0))
    }

    /// Takes bytes of a body; how many of them are its own, and whether it is over.
    fn take(&mut self, bytes: &mut &[u8]) -> (u64, bool) {
        let mut payload = 0;
        let take = |bytes: &mut &[u8], most: u64| {
            let now = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
            *bytes = bytes.get(now..).unwrap_or_default();
            now as u64
        };
        loop {
            *self = match *self {
                Self::Length(left) => {
                    let now = take(bytes, left);
                    *self = Self::Length(left - now);
                    return (now, left == now);
                }
                Self::Chunked(_) if bytes.is_empty() => return (payload, false),
                Self::Chunked(Chunk::Data(left, end)) if left > 0 => {
                    let now = take(bytes, left);
                    payload += now;
                    Self::Chunked(Chunk::Data(left - now, end))
                }
                Self::Chunked(Chunk::Last(1)) => {
                    take(bytes, 1);
                    return (payload, true);
                }
                Self::Chunked(chunk) => {
                    let byte = bytes.first().copied().unwrap_or_default();
                    take(bytes, 1);
                    Self::Chunked(chunk.behind(byte))
                }
            };
        }
    }
}

impl Chunk {
    /// A byte of what frames chunks.
    fn behind(self, byte: u8) -> Self {
        match self {
            Self::Size(size) | Self::Rest(size) if byte == b'\n' => {
                if size == 0 {
                    Self::Last(2)
                } else {
                    Self::Data(size, 2)
                }
            }
            Self::Size(size) => match char::from(byte).to_digit(16) {
                Some(digit) => Self::Size(size << 4 | u64::from(digit)),
                None => Self::Rest(size),
            },
            Self::Rest(size) => Self::Rest(size),
            Self::Data(_, 2) => Self::Data(0, 1),
            Self::Data(..) => Self::Size(0),
            Self::Last(left) => Self::Last(left.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a stream that is read in pieces of this length, and the payload of its last message.
    fn steps(stream: &[u8], piece: usize) -> Vec<String> {
        let (mut message, mut told) = (Message::default(), Vec::new());
        for mut bytes in stream.chunks(piece) {
            let mut payload = message.payload;
            while let Some(step) = message.step(&mut bytes, |head| !head.starts_with(b"HEAD")) {
                match step {
                    Step::Begun => told.push("begun".to_owned()),
                    Step::Head(head) => told.push(format!("head of {}", head.len())),
                    Step::Body => payload = message.payload,
                    Step::End => told.push(format!("end behind {}", std::mem::take(&mut payload))),
                }
            }
        }
        told
    }

    #[test]
    fn messages_end_where_their_framing_says_however_they_are_read() {
        let messages = [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", 5),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n",
                17,
            ),
            ("HEAD / HTTP/1.1\r\ncontent-length: 5\r\n\r\n", 0),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 0),
        ];
        let stream: String = messages.iter().map(|(text, _)| *text).collect();
        let expected: Vec<String> = messages
            .iter()
            .flat_map(|(text, payload)| {
                let head = text.find("\r\n\r\n").unwrap() + 4;
                ["begun".to_owned(), format!("head of {head}"), format!("end behind {payload}")]
            })
            .collect();
        for piece in [1, 2, 3, 7, 50, 1_000] {
            assert_eq!(steps(stream.as_bytes(), piece), expected, "read by {piece}");
        }
    }

    #[test]
    fn the_stamps_of_bytes_that_count_are_those_of_the_write_that_took_them() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let mut wire = Wire::new(socket).unwrap();
        let much = vec![b'x'; 16 << 20];
        wire.push(b"abc", [(0, "first"), (2, "third")]);
        wire.push(&much, [(0, "much"), (much.len() - 1, "last")]);
        let mut sent = Vec::new();
        assert!(wire.flush(|mark| sent.push(mark)).unwrap());
        assert_eq!(sent.iter().map(|mark| mark.what).collect::<Vec<_>>(), ["first", "third", "much"]);
        assert!(sent[0].before > 0 && sent[0].after >= sent[0].before && sent[0].before == sent[1].before);
        let reading = std::thread::spawn(move || other.read_exact(&mut vec![0; (16 << 20) + 3]));
        while sent.len() < 4 {
            assert!(wire.flush(|mark| sent.push(mark)).unwrap());
        }
        assert!(sent[3].before >= sent[2].after);
        reading.join().unwrap().unwrap();
    }
}
