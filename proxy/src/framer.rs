//! The HTTP/1 boundary and safety scanner: fed with the bytes a read returned before hyper parses the same bytes, it
//! finds where messages begin and end and refuses what two parsers could read in two ways. It counts and judges; it
//! rewrites nothing, keeps no message and reads no clock. Targets, header meaning and routing are left to others.
//!
//! Lines are judged when they are complete, so the way in which the stream is cut into reads changes neither events nor
//! refusals. A line that spans reads is kept in a small buffer; a head that comes in one read is scanned in place.

mod event;
mod refusal;
mod scan;

use memchr::memchr;

pub use event::{Asked, Body, Event, Head, Limits};
pub use refusal::{Part, Reason, Refusal};
use scan::{Line, StartLine};

/// Bytes of a chunk's size line. The size takes at most 16; extensions have no known use and are a way to hide bytes.
const CHUNK_LINE_MAX: u64 = 256;
/// Bytes of a body's trailers, as hyper caps them.
const TRAILER_BYTES_MAX: u64 = 16 * 1024;
/// Empty lines before a request line. RFC 9112 2.2 asks for one, for clients that end a body with a line break.
const EMPTY_LINES_MAX: u8 = 4;
/// A split line's buffer up to this size is kept for the next one.
const CARRY_KEPT: usize = 512;

/// The scanner of one direction of one connection.
#[derive(Debug)]
pub struct Framer {
    state: State,
    /// `None` for requests; for responses the request that is being answered.
    asked: Option<Asked>,
    responses: bool,
    limits: Limits,
    /// Where the head, the trailers or the chunk line that is being read began: caps count from here.
    section: u64,
    /// Where the message began.
    message: u64,
    head: HeadSoFar,
    /// The bytes read so far of a line that is not complete.
    carry: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages.
    Between {
        empty_lines: u8,
    },
    /// Between messages, behind a CR.
    BetweenCr {
        empty_lines: u8,
    },
    StartLine,
    Headers,
    /// Bytes to come of a body with a length.
    Body(u64),
    ChunkLine,
    /// Bytes to come of a chunk.
    Chunk(u64),
    /// The CR behind a chunk's bytes, then the LF.
    ChunkCr,
    ChunkLf,
    Trailers,
    UntilClose,
    /// Behind a request for another protocol: which of the two the bytes speak, its answer tells.
    Held,
    Tunnel,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, Default)]
struct HeadSoFar {
    fields: u32,
    status: u16,
    minor: u8,
    connect: bool,
    upgrade: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade_field: bool,
    connection_upgrade: bool,
    connection_close: bool,
    connection_keep_alive: bool,
}

type Judged<T> = Result<T, (u64, Reason)>;

impl Framer {
    /// For what clients send.
    #[must_use]
    pub fn requests(limits: Limits) -> Self {
        Self::new(limits, false)
    }

    /// For what an upstream sends; call [`Framer::expect`] before each exchange.
    #[must_use]
    pub fn responses(limits: Limits) -> Self {
        Self::new(limits, true)
    }

    fn new(limits: Limits, responses: bool) -> Self {
        Self {
            state: State::Between { empty_lines: 0 },
            asked: None,
            responses,
            limits,
            section: 0,
            message: 0,
            head: HeadSoFar::default(),
            carry: Vec::new(),
        }
    }

    /// A request is about to be sent, and the next response answers it. A byte of a response that nobody asked for
    /// is refused.
    pub fn expect(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    /// Whether the stream stands behind a request with [`Head::upgrade`], whose answer decides what follows. Bytes that
    /// are fed meanwhile are passed over: whoever feeds keeps them back until [`Framer::tunnel`] or [`Framer::resume`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether the protocol is switched.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.state == State::Tunnel
    }

    /// Whether no message is to come, or not before an answer tells.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        matches!(self.state, State::Held | State::Tunnel)
    }

    /// The protocol is not switched: what follows is the next request. Its answer may come before the request's end.
    pub fn resume(&mut self) {
        self.head.upgrade = false;
        if self.is_held() {
            self.state = State::Between { empty_lines: 0 };
        }
    }

    /// From here on the stream is opaque. For the client's side of an upgrade, when its 101 (or the 2xx of a CONNECT)
    /// goes out.
    pub fn tunnel(&mut self) {
        if !matches!(self.state, State::Refused(_)) {
            self.state = State::Tunnel;
            self.carry = Vec::new();
        }
    }

    /// Whether the stream stands between two messages, and closing it cuts none off.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Between { .. })
    }

    /// The stream has ended at this offset: a body that lasts until then is complete. Any other message that is not
    /// complete now never will be.
    pub fn end_of_stream(&mut self, at: u64) -> Option<Event> {
        (self.state == State::UntilClose).then(|| {
            self.message_done();
            Event::BodyEnd { offset: at }
        })
    }

    /// Scans the next bytes of the stream, of which the first stands at offset `at`, and calls `on_event` in order.
    ///
    /// # Errors
    /// The stream is not safe to go on with; once refused, it stays refused. Messages that ended before
    /// [`Refusal::message_start`] were reported and are good.
    pub fn feed(&mut self, bytes: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Result<(), Refusal> {
        let (mut rest, mut at) = (bytes, at);
        while !rest.is_empty() {
            let used = match self.step(rest, at, on_event) {
                Ok(used) => used,
                Err((offset, reason)) => return Err(self.refuse(offset, reason)),
            };
            rest = rest.get(used..).unwrap_or_default();
            at += used as u64;
        }
        Ok(())
    }

    fn refuse(&mut self, offset: u64, reason: Reason) -> Refusal {
        let (part, message_start) = match self.state {
            State::Refused(refusal) => return refusal,
            State::Between { .. } | State::BetweenCr { .. } => (Part::Head, offset),
            State::StartLine | State::Headers => (Part::Head, self.message),
            _ => (Part::Body, self.message),
        };
        let refusal = Refusal { offset, message_start, part, reason };
        self.state = State::Refused(refusal);
        self.carry = Vec::new();
        refusal
    }

    /// Takes at least one byte of `rest`.
    fn step(&mut self, rest: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Judged<usize> {
        match self.state {
            State::Between { empty_lines } => self.between(rest, at, empty_lines, on_event),
            State::BetweenCr { empty_lines } => {
                if rest.first() != Some(&b'\n') {
                    return Err((at - 1, Reason::BareCr));
                }
                if empty_lines >= EMPTY_LINES_MAX {
                    return Err((at, Reason::EmptyLines));
                }
                self.state = State::Between { empty_lines: empty_lines + 1 };
                Ok(1)
            }
            State::StartLine | State::Headers | State::ChunkLine | State::Trailers => self.lines(rest, at, on_event),
            State::Body(left) => {
                let (used, left) = take(left, rest);
                self.state = State::Body(left);
                if left == 0 {
                    self.message_done();
                    on_event(Event::BodyEnd { offset: at + used as u64 });
                }
                Ok(used)
            }
            State::Chunk(left) => {
                let (used, left) = take(left, rest);
                self.state = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                Ok(used)
            }
            State::ChunkCr => self.chunk_end(rest, at, b'\r', State::ChunkLf),
            State::ChunkLf => {
                self.section = at + 1;
                self.chunk_end(rest, at, b'\n', State::ChunkLine)
            }
            State::UntilClose | State::Held | State::Tunnel => Ok(rest.len()),
            State::Refused(refusal) => Err((refusal.offset, refusal.reason)),
        }
    }

    fn between(&mut self, rest: &[u8], at: u64, empty_lines: u8, on_event: &mut impl FnMut(Event)) -> Judged<usize> {
        if self.responses && self.asked.is_none() {
            return Err((at, Reason::Unasked));
        }
        match rest.first() {
            Some(b'\r') if !self.responses => {
                self.state = State::BetweenCr { empty_lines };
                Ok(1)
            }
            Some(b'\r') => Err((at, Reason::EmptyLines)),
            Some(b'\n') => Err((at, Reason::BareLf)),
            _ => {
                self.state = State::StartLine;
                self.section = at;
                self.message = at;
                self.head = HeadSoFar::default();
                on_event(Event::MessageStart { offset: at });
                // Most heads come whole: go on at once.
                self.lines(rest, at, on_event)
            }
        }
    }

    fn chunk_end(&mut self, rest: &[u8], at: u64, wanted: u8, next: State) -> Judged<usize> {
        if rest.first() != Some(&wanted) {
            return Err((at, Reason::ChunkEnd));
        }
        self.state = next;
        Ok(1)
    }

    /// In a state that reads lines: judges those that are complete, keeps the start of one that is not.
    fn lines(&mut self, rest: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Judged<usize> {
        if self.carry.is_empty() {
            let mut used = 0;
            loop {
                let Some(lines) = rest.get(used..).filter(|lines| !lines.is_empty()) else { return Ok(used) };
                let before = self.state;
                match self.line(lines, at + used as u64, on_event)? {
                    Some(length) => used += length,
                    None => {
                        self.keep(lines, at + used as u64)?;
                        return Ok(rest.len());
                    }
                }
                let same_kind = matches!(self.state, State::Headers) || self.state == before;
                if !same_kind {
                    return Ok(used);
                }
            }
        }
        let Some(tail) = memchr(b'\n', rest).and_then(|end| rest.get(..=end)) else {
            self.keep(rest, at)?;
            return Ok(rest.len());
        };
        let mut line = std::mem::take(&mut self.carry);
        let start = at - line.len() as u64;
        line.extend_from_slice(tail);
        let judged = self.line(&line, start, on_event);
        if line.capacity() <= CARRY_KEPT {
            line.clear();
            self.carry = line;
        }
        judged?;
        Ok(tail.len())
    }

    /// Keeps a part of a line, unless that passes a cap.
    fn keep(&mut self, part: &[u8], at: u64) -> Judged<()> {
        self.within_cap(at + part.len() as u64)?;
        self.carry.extend_from_slice(part);
        Ok(())
    }

    fn within_cap(&self, end: u64) -> Judged<()> {
        let (cap, reason) = match self.state {
            State::StartLine if self.responses => (self.limits.head_bytes, Reason::HeadTooLarge),
            State::StartLine => (self.limits.head_bytes, Reason::TargetTooLong),
            State::Headers => (self.limits.head_bytes, Reason::HeadTooLarge),
            State::Trailers => (TRAILER_BYTES_MAX, Reason::TrailersTooLarge),
            _ => (CHUNK_LINE_MAX, Reason::ChunkLineTooLong),
        };
        if end - self.section > cap {
            return Err((self.section + cap, reason));
        }
        Ok(())
    }

    /// Judges the first line of `lines`, which begins at `at`, and returns its length; `None` when it is not complete.
    fn line(&mut self, lines: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Judged<Option<usize>> {
        match self.state {
            State::Headers => self.field_lines(lines, at, on_event),
            State::Trailers => self.trailer_line(lines, at, on_event),
            State::ChunkLine => self.chunk_line(lines, at),
            _ => self.start_line(lines, at),
        }
    }

    /// A line was found bad at `offset`: refused when it is complete, so that the verdict does not depend on reads.
    #[cold]
    fn bad<T>(&self, lines: &[u8], at: u64, offset: usize, reason: Reason) -> Judged<Option<T>> {
        let Some(end) = memchr(b'\n', lines) else { return Ok(None) };
        self.within_cap(at + end as u64 + 1)?;
        Err((at + offset as u64, reason))
    }

    fn start_line(&mut self, lines: &[u8], at: u64) -> Judged<Option<usize>> {
        let scanned = if self.responses { scan::status_line(lines) } else { scan::request_line(lines) };
        match scanned {
            Ok(Some(StartLine { length, minor, status, connect })) => {
                self.within_cap(at + length as u64)?;
                self.head.minor = minor;
                self.head.status = status;
                self.head.connect = connect;
                self.state = State::Headers;
                Ok(Some(length))
            }
            Ok(None) => Ok(None),
            Err((offset, reason)) => self.bad(lines, at, offset, reason),
        }
    }

    /// Judges all header lines that are complete; their length together.
    fn field_lines(&mut self, lines: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Judged<Option<usize>> {
        let mut rest = lines;
        let mut line_at = at;
        // The caps by themselves: the loop below is the hottest of this file.
        let end_max = self.section + self.limits.head_bytes;
        loop {
            match scan::field_line(rest) {
                Line::Field { name, value, length } => {
                    let Some(behind) = rest.get(length..) else { break };
                    let line_end = line_at + length as u64;
                    if line_end > end_max {
                        self.within_cap(line_end)?;
                    }
                    self.count_field(line_at)?;
                    self.field(name, value).map_err(|reason| (line_at, reason))?;
                    line_at = line_end;
                    rest = behind;
                }
                Line::Empty => {
                    line_at += 2;
                    self.within_cap(line_at)?;
                    self.head_end(line_at, on_event)?;
                    break;
                }
                Line::Partial => break,
                Line::Bad { offset, reason } => match self.bad::<()>(rest, line_at, offset, reason)? {
                    Some(()) | None => break,
                },
            }
        }
        let used = usize::try_from(line_at - at).unwrap_or(usize::MAX);
        Ok((used > 0).then_some(used))
    }

    #[inline]
    fn count_field(&mut self, at: u64) -> Judged<()> {
        self.head.fields += 1;
        if self.head.fields > self.limits.headers { Err((at, Reason::TooManyHeaders)) } else { Ok(()) }
    }

    /// Takes note of the fields that frame a message. The length of a name tells nearly all others apart.
    #[inline]
    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        match name.len() {
            4 if !self.responses && name.eq_ignore_ascii_case(b"host") => self.host(scan::trim(value)),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.head.upgrade_field = true;
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection(value);
                Ok(())
            }
            14 if scan::is_name(name, b"content-length") => self.content_length(name, scan::trim(value)),
            17 if scan::is_name(name, b"transfer-encoding") => self.transfer_encoding(name, scan::trim(value)),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reason> {
        if std::mem::replace(&mut self.head.host, true) {
            return Err(Reason::ManyHosts);
        }
        // Without an early exit: hosts are nearly always good, and the loop has no branch to wait for.
        let good = value.iter().fold(true, |good, byte| good & scan::is_host_byte(*byte));
        if good { Ok(()) } else { Err(Reason::BadHost) }
    }

    fn connection(&mut self, value: &[u8]) {
        if let b" keep-alive" | b" Keep-Alive" = value {
            self.head.connection_keep_alive = true;
            return;
        }
        for option in value.split(|byte| *byte == b',').map(scan::trim) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.head.connection_close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.head.connection_upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.head.connection_keep_alive = true,
                _ => {}
            }
        }
    }

    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        if name.contains(&b'_') {
            return Err(Reason::UnderscoreFraming);
        }
        if self.head.chunked {
            return Err(Reason::LengthAndEncoding);
        }
        if self.head.length.is_some() {
            return Err(Reason::ManyLengths);
        }
        self.head.length = Some(scan::decimal(value)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        if name.contains(&b'_') {
            return Err(Reason::UnderscoreFraming);
        }
        if self.head.length.is_some() {
            return Err(Reason::LengthAndEncoding);
        }
        if self.head.minor == 0 {
            return Err(Reason::EncodingOnHttp10);
        }
        if self.head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reason::BadEncoding);
        }
        self.head.chunked = true;
        Ok(())
    }

    fn head_end(&mut self, end: u64, on_event: &mut impl FnMut(Event)) -> Judged<()> {
        let seen = self.head;
        if !self.responses && seen.minor == 1 && !seen.host {
            return Err((end - 2, Reason::NoHost));
        }
        let asked = self.asked.unwrap_or(Asked::Other);
        let tunnel =
            self.responses && (seen.status == 101 || (asked == Asked::Connect && (200..300).contains(&seen.status)));
        let bodiless = self.responses && (asked == Asked::Head || matches!(seen.status, 100..200 | 204 | 304));
        let body = match seen.length {
            _ if tunnel || bodiless => Body::None,
            _ if seen.chunked => Body::Chunked,
            Some(length) => Body::Length(length),
            None if self.responses => Body::UntilClose,
            None => Body::None,
        };
        let upgrade = if self.responses {
            tunnel
        } else {
            seen.connect || (seen.minor == 1 && seen.upgrade_field && seen.connection_upgrade)
        };
        self.head.upgrade = upgrade;
        let head = Head {
            start: self.message,
            end,
            body,
            status: seen.status,
            minor: seen.minor,
            upgrade,
            keep_alive: !seen.connection_close
                && (seen.minor == 1 || seen.connection_keep_alive)
                && body != Body::UntilClose,
        };
        if self.responses && !tunnel && (100..200).contains(&seen.status) {
            self.state = State::Between { empty_lines: 0 };
            on_event(Event::Interim(head));
            return Ok(());
        }
        on_event(Event::HeadEnd(head));
        match body {
            Body::None if tunnel => self.state = State::Tunnel,
            Body::None | Body::Length(0) => {
                self.message_done();
                on_event(Event::BodyEnd { offset: end });
            }
            Body::Length(length) => self.state = State::Body(length),
            Body::Chunked => {
                self.state = State::ChunkLine;
                self.section = end;
            }
            Body::UntilClose => self.state = State::UntilClose,
        }
        Ok(())
    }

    fn message_done(&mut self) {
        let held = self.head.upgrade && !self.responses;
        self.state = if held { State::Held } else { State::Between { empty_lines: 0 } };
        self.asked = None;
    }

    fn chunk_line(&mut self, lines: &[u8], at: u64) -> Judged<Option<usize>> {
        match scan::chunk_line(lines) {
            Ok(Some((size, length))) => {
                let end = at + length as u64;
                self.within_cap(end)?;
                if size == 0 {
                    self.state = State::Trailers;
                    self.section = end;
                    self.head.fields = 0;
                } else {
                    self.state = State::Chunk(size);
                }
                Ok(Some(length))
            }
            Ok(None) => Ok(None),
            Err((offset, reason)) => self.bad(lines, at, offset, reason),
        }
    }

    fn trailer_line(&mut self, lines: &[u8], at: u64, on_event: &mut impl FnMut(Event)) -> Judged<Option<usize>> {
        match scan::field_line(lines) {
            Line::Field { name, length, .. } => {
                self.within_cap(at + length as u64)?;
                self.count_field(at)?;
                if scan::frames_a_message(name) {
                    return Err((at, Reason::FramingTrailer));
                }
                Ok(Some(length))
            }
            Line::Empty => {
                self.within_cap(at + 2)?;
                self.message_done();
                on_event(Event::BodyEnd { offset: at + 2 });
                Ok(Some(2))
            }
            Line::Partial => Ok(None),
            Line::Bad { offset, reason } => self.bad(lines, at, offset, reason),
        }
    }
}

/// How many of `left` bytes are in `rest`, and how many are then still to come.
fn take(left: u64, rest: &[u8]) -> (usize, u64) {
    let used = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    (used, left - used as u64)
}

#[cfg(test)]
mod tests;
