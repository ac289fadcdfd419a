//! The bytes of a record: how it is written by a worker and read by the merge. The layout is private to this module;
//! what the fields mean is [`super`]'s.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::*;

/// Appends the record of a request whose middlewares called nobody.
pub fn encode<'h>(
    out: &mut Vec<u8>,
    head: &Head,
    attempts: &[Attempt],
    texts: &Texts<'_>,
    request_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    response_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> bool {
    encode_with_calls(out, head, [attempts, &[]], texts, request_headers, response_headers)
}

/// Appends a record to `out`, without a length prefix; its attempts, then its middlewares' calls. Returns whether a string
/// had to be cut (also stored).
pub fn encode_with_calls<'h>(
    out: &mut Vec<u8>,
    head: &Head,
    [attempts, calls]: [&[Attempt]; 2],
    texts: &Texts<'_>,
    request_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    response_headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> bool {
    let truncated_at = out.len();
    out.push(0);
    let mut w = Writer { out, truncated: head.truncated };
    w.head(head);
    w.attempts(attempts);
    w.attempts(calls);
    let Texts { host, path, query, user_agent, forwarded_client, trace_state, method_other } = texts;
    for text in [host, path, query, user_agent, forwarded_client, trace_state, method_other] {
        w.text(text.as_bytes());
    }
    w.headers(request_headers);
    w.headers(response_headers);
    let truncated = w.truncated;
    if let Some(flag) = out.get_mut(truncated_at) {
        *flag = u8::from(truncated);
    }
    truncated
}

impl<'a> Record<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// Where the bytes end early, hold an unknown code, or text that is not UTF-8.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NotARecord> {
        let mut r = Reader { all: bytes, at: 0 };
        r.record().ok_or(NotARecord { at: r.at })
    }
}

/// Length of an encoded head, without the truncated flag before it.
const HEAD_BYTES: usize = 404;
/// Length of an encoded attempt.
const ATTEMPT_BYTES: usize = 238;

/// A part of fixed length under way. It is put together where the compiler knows every place in it, and goes out as one:
/// 90 checks of the buffer's room fewer a record.
struct Part<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Part<N> {
    #[inline(always)]
    fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }
    #[inline(always)]
    fn put<const M: usize>(&mut self, value: [u8; M]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + M) {
            place.copy_from_slice(&value);
        }
        self.at += M;
    }
    #[inline(always)]
    fn u8(&mut self, value: u8) {
        self.put([value]);
    }
    #[inline(always)]
    fn u16(&mut self, value: u16) {
        self.put(value.to_le_bytes());
    }
    #[inline(always)]
    fn u32(&mut self, value: u32) {
        self.put(value.to_le_bytes());
    }
    #[inline(always)]
    fn u64(&mut self, value: u64) {
        self.put(value.to_le_bytes());
    }
    #[inline(always)]
    fn token(&mut self, token: Token) {
        self.u64(token.generation);
        self.u32(token.slot);
    }
    #[inline(always)]
    fn address(&mut self, address: SocketAddr) {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.put(ip.octets());
        self.u16(address.port());
    }
    #[inline(always)]
    fn tls(&mut self, TlsFacts { handshake_ns, version, cipher, resumed }: TlsFacts) {
        self.u64(handshake_ns);
        self.u16(version);
        self.u16(cipher);
        self.u8(u8::from(resumed));
    }
    #[inline(always)]
    fn clock(&mut self, clock: BodyClock) {
        let BodyClock {
            upstream_body,
            upstream_read_wait,
            client_drain,
            proxy_response,
            client_body,
            read_wait,
            upstream_drain,
            proxy_request,
        } = clock;
        for value in [
            upstream_body,
            upstream_read_wait,
            client_drain,
            proxy_response,
            client_body,
            read_wait,
            upstream_drain,
            proxy_request,
        ] {
            self.u64(value);
        }
    }
    /// All of it was written.
    fn whole(&self) -> &[u8; N] {
        debug_assert_eq!(self.at, N, "the part's length is out of date");
        &self.bytes
    }
}

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    truncated: bool,
}

impl Writer<'_> {
    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }
    fn text(&mut self, text: &[u8]) {
        let mut length = text.len().min(TEXT_MAX);
        if length < text.len() {
            self.truncated = true;
            // Cut between characters, so that what was UTF-8 stays UTF-8.
            while length > 0 && text.get(length).is_some_and(|byte| byte & 0xC0 == 0x80) {
                length -= 1;
            }
        }
        let kept = text.get(..length).unwrap_or_default();
        self.u16(u16::try_from(kept.len()).unwrap_or(0));
        self.out.extend_from_slice(kept);
    }
    fn headers<'h>(&mut self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) {
        let count_at = self.out.len();
        self.u8(0);
        let mut count = 0_u8;
        for (name, value) in headers {
            if usize::from(count) == CAPTURED_MAX {
                self.truncated = true;
                break;
            }
            self.text(name.as_bytes());
            // Header values may hold bytes above 0x7F that are no UTF-8 (RFC 9110, 5.5): replaced, as Jaeger would.
            match std::str::from_utf8(value) {
                Ok(text) => self.text(text.as_bytes()),
                Err(_) => self.text(String::from_utf8_lossy(value).as_bytes()),
            }
            count += 1;
        }
        if let Some(slot) = self.out.get_mut(count_at) {
            *slot = count;
        }
    }
    fn head(&mut self, head: &Head) {
        let mut part = Part::<HEAD_BYTES>::new();
        part.put(head.trace_id.0);
        part.put(head.span_id.0);
        part.put(head.parent_id.0);
        part.put([head.trace_flags, u8::from(head.sampled), head.sampling_reason as u8]);
        part.u64(head.sampling_param.to_bits());
        part.u16(head.worker);
        part.u32(head.entry_point);
        part.u32(head.route);
        part.u16(head.branch);
        part.u32(head.service);
        let [https, early, paused] = [head.https, head.early, head.paused].map(u8::from);
        part.put([head.method as u8, head.version, https, early, paused, head.end as u8, head.error as u8]);
        part.u16(head.status);
        part.tls(head.tls);
        part.address(head.peer);
        part.address(head.local);
        part.u64(head.connection_id);
        part.u32(head.request_index);
        part.token(head.token);
        for value in [
            head.request_start,
            head.request_head_end,
            head.response_start,
            head.response_end,
            head.first_readable.0,
            head.first_read.0,
            head.established.0,
            head.accepted.0,
            head.head_readable.0,
            head.head_read.0,
            head.woken.0,
            head.preempted_ns,
            head.previous_write.0,
            head.previous.end,
            head.previous.acked.0,
            head.previous.left.0,
            head.upstream_wanted.0,
            head.again.0,
            head.middleware_wait_ns,
            head.head_written.0,
            head.ended.0,
        ] {
            part.u64(value);
        }
        part.clock(head.body);
        part.u64(head.request_body_bytes);
        part.u64(head.response_body_bytes);
        part.u32(head.srtt_us);
        part.u32(head.rttvar_us);
        part.u8(u8::from(head.asked_at_end));
        for value in [head.client_missing.0, head.attempts_made, head.answered_by] {
            part.u16(value);
        }
        self.out.extend_from_slice(part.whole());
    }
    fn attempts(&mut self, attempts: &[Attempt]) {
        let kept = attempts.len().min(ATTEMPTS_MAX);
        self.u8(u8::try_from(kept).unwrap_or(0));
        for attempt in attempts.iter().rev().take(kept).rev() {
            self.attempt(attempt);
        }
    }
    fn attempt(&mut self, attempt: &Attempt) {
        let mut part = Part::<ATTEMPT_BYTES>::new();
        part.put(attempt.span_id.0);
        part.u32(attempt.server);
        part.u8(u8::from(attempt.reused));
        part.address(attempt.address);
        part.token(attempt.token);
        part.u16(attempt.status);
        part.u8(attempt.error as u8);
        for at in [
            attempt.begun,
            attempt.chosen,
            attempt.connected,
            attempt.opened,
            attempt.secured,
            attempt.write_begun,
            attempt.head_written,
            attempt.last_write_begun,
            attempt.request_written,
            attempt.first_readable,
            attempt.first_read,
            attempt.ended,
            attempt.backend_readable,
            attempt.backend_read,
            attempt.backend_sent,
            attempt.woken,
        ] {
            part.u64(at.0);
        }
        for value in [
            attempt.request_start,
            attempt.request_head_end,
            attempt.request_end,
            attempt.response_start,
            attempt.response_end,
            attempt.preempted_ns,
        ] {
            part.u64(value);
        }
        part.u32(attempt.srtt_us);
        part.u32(attempt.rttvar_us);
        part.u32(attempt.resent);
        part.u16(attempt.missing.0);
        part.u16(attempt.backend_missing.0);
        self.out.extend_from_slice(part.whole());
    }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

// `inline(always)`: the fixed parts are read behind one check of their length each, which the compiler sees only once
// all is in one function: 70 checks fewer a record.
impl<'a> Reader<'a> {
    /// Reads a part of fixed length.
    #[inline(always)]
    fn fixed<T>(&mut self, length: usize, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let end = self.at.checked_add(length)?;
        let mut part = Reader { all: self.all.get(self.at..end)?, at: 0 };
        let value = read(&mut part);
        self.at += part.at;
        value
    }
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let bytes = self.all.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(bytes)
    }
    #[inline(always)]
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    #[inline(always)]
    fn bool(&mut self) -> Option<bool> {
        self.u8().map(|byte| byte != 0)
    }
    #[inline(always)]
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    #[inline(always)]
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    #[inline(always)]
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    #[inline(always)]
    fn at(&mut self) -> Option<MonoNs> {
        self.u64().map(MonoNs)
    }
    #[inline(always)]
    fn code<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let code = self.u8()?;
        all.get(usize::from(code)).copied()
    }
    #[inline(always)]
    fn token(&mut self) -> Option<Token> {
        Some(Token { generation: self.u64()?, slot: self.u32()? })
    }
    #[inline(always)]
    fn address(&mut self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.take::<16>()?);
        Some(SocketAddr::new(ip.to_canonical(), self.u16()?))
    }
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.all.get(self.at..end)?).ok()?;
        self.at = end;
        Some(text)
    }
    fn headers(&mut self) -> Option<Vec<(&'a str, &'a str)>> {
        // Most records have none.
        match self.u8()? {
            0 => Some(Vec::new()),
            count => (0..count).map(|_| Some((self.text()?, self.text()?))).collect(),
        }
    }
    fn record(&mut self) -> Option<Record<'a>> {
        let truncated = self.bool()?;
        let head = self.fixed(HEAD_BYTES, |r| r.head(truncated))?;
        let (attempts, calls) = (self.attempts()?, self.attempts()?);
        let texts = Texts {
            host: self.text()?,
            path: self.text()?,
            query: self.text()?,
            user_agent: self.text()?,
            forwarded_client: self.text()?,
            trace_state: self.text()?,
            method_other: self.text()?,
        };
        Some(Record {
            head,
            attempts,
            calls,
            texts,
            request_headers: self.headers()?,
            response_headers: self.headers()?,
        })
    }
    fn attempts(&mut self) -> Option<Vec<Attempt>> {
        let count = self.u8()?;
        let mut attempts = Vec::with_capacity(usize::from(count).min(ATTEMPTS_MAX));
        for _ in 0..count {
            attempts.push(self.fixed(ATTEMPT_BYTES, Self::attempt)?);
        }
        Some(attempts)
    }
    #[inline(always)]
    fn tls(&mut self) -> Option<TlsFacts> {
        let (handshake_ns, version, cipher, resumed) = (self.u64()?, self.u16()?, self.u16()?, self.bool()?);
        Some(TlsFacts { handshake_ns, version, cipher, resumed })
    }
    #[inline(always)]
    fn head(&mut self, truncated: bool) -> Option<Head> {
        const REASONS: [Reason; 5] =
            [Reason::Parent, Reason::Probabilistic, Reason::RateLimiting, Reason::LowerBound, Reason::Off];
        Some(Head {
            trace_id: TraceId(self.take()?),
            span_id: SpanId(self.take()?),
            parent_id: SpanId(self.take()?),
            trace_flags: self.u8()?,
            sampled: self.bool()?,
            sampling_reason: self.code(&REASONS)?,
            sampling_param: f64::from_bits(self.u64()?),
            worker: self.u16()?,
            entry_point: self.u32()?,
            route: self.u32()?,
            branch: self.u16()?,
            service: self.u32()?,
            method: self.code(&Method::ALL)?,
            version: self.u8()?,
            https: self.bool()?,
            early: self.bool()?,
            paused: self.bool()?,
            end: self.code(&End::ALL)?,
            error: self.code(&ErrorKind::ALL)?,
            status: self.u16()?,
            tls: self.tls()?,
            truncated,
            peer: self.address()?,
            local: self.address()?,
            connection_id: self.u64()?,
            request_index: self.u32()?,
            token: self.token()?,
            request_start: self.u64()?,
            request_head_end: self.u64()?,
            response_start: self.u64()?,
            response_end: self.u64()?,
            first_readable: self.at()?,
            first_read: self.at()?,
            established: self.at()?,
            accepted: self.at()?,
            head_readable: self.at()?,
            head_read: self.at()?,
            woken: self.at()?,
            preempted_ns: self.u64()?,
            previous_write: self.at()?,
            previous: Previous { end: self.u64()?, acked: self.at()?, left: self.at()? },
            upstream_wanted: self.at()?,
            again: self.at()?,
            middleware_wait_ns: self.u64()?,
            head_written: self.at()?,
            ended: self.at()?,
            body: BodyClock {
                upstream_body: self.u64()?,
                upstream_read_wait: self.u64()?,
                client_drain: self.u64()?,
                proxy_response: self.u64()?,
                client_body: self.u64()?,
                read_wait: self.u64()?,
                upstream_drain: self.u64()?,
                proxy_request: self.u64()?,
            },
            request_body_bytes: self.u64()?,
            response_body_bytes: self.u64()?,
            srtt_us: self.u32()?,
            rttvar_us: self.u32()?,
            asked_at_end: self.bool()?,
            client_missing: Missing(self.u16()?),
            attempts_made: self.u16()?,
            answered_by: self.u16()?,
        })
    }
    #[inline(always)]
    fn attempt(&mut self) -> Option<Attempt> {
        Some(Attempt {
            span_id: SpanId(self.take()?),
            server: self.u32()?,
            reused: self.bool()?,
            address: self.address()?,
            token: self.token()?,
            status: self.u16()?,
            error: self.code(&ErrorKind::ALL)?,
            begun: self.at()?,
            chosen: self.at()?,
            connected: self.at()?,
            opened: self.at()?,
            secured: self.at()?,
            write_begun: self.at()?,
            head_written: self.at()?,
            last_write_begun: self.at()?,
            request_written: self.at()?,
            first_readable: self.at()?,
            first_read: self.at()?,
            ended: self.at()?,
            backend_readable: self.at()?,
            backend_read: self.at()?,
            backend_sent: self.at()?,
            woken: self.at()?,
            request_start: self.u64()?,
            request_head_end: self.u64()?,
            request_end: self.u64()?,
            response_start: self.u64()?,
            response_end: self.u64()?,
            preempted_ns: self.u64()?,
            srtt_us: self.u32()?,
            rttvar_us: self.u32()?,
            resent: self.u32()?,
            missing: Missing(self.u16()?),
            backend_missing: Missing(self.u16()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Head, Vec<Attempt>) {
        let head = Head {
            trace_id: TraceId([7; 16]),
            sampling_reason: Reason::Probabilistic,
            sampling_param: 0.25,
            method: Method::Get,
            peer: "192.0.2.1:4711".parse().unwrap(),
            local: "[2001:db8::1]:8000".parse().unwrap(),
            first_readable: MonoNs(5),
            body: BodyClock { client_drain: 9, ..BodyClock::default() },
            attempts_made: 1,
            tls: TlsFacts { handshake_ns: 1 << 40, version: 0x0304, cipher: 0x1301, resumed: true },
            ..Head::default()
        };
        let address = "127.0.0.1:8080".parse().unwrap();
        let attempt = Attempt { server: 3, address, connected: MonoNs(7), opened: MonoNs(6), ..Attempt::default() };
        (head, vec![attempt])
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let (head, attempts) = sample();
        let texts =
            Texts { host: "hotrod.localhost:8000", path: "/dispatch", query: "customer=392", ..Texts::default() };
        let mut bytes = Vec::new();
        assert!(!encode(&mut bytes, &head, &attempts, &texts, [("x-a", b"1".as_slice())], []));
        let record = Record::decode(&bytes).unwrap();
        assert_eq!((record.head, &record.attempts, record.texts), (head, &attempts, texts));
        assert_eq!(record.request_headers, [("x-a", "1")]);
    }

    #[test]
    fn fixed_parts_have_their_length() {
        let (head, attempts) = sample();
        let length = |attempts: &[Attempt]| {
            let mut bytes = Vec::new();
            encode(&mut bytes, &head, attempts, &Texts::default(), [], []);
            bytes.len()
        };
        // The truncated flag, the counts of attempts and calls, seven empty texts, two counts of headers.
        assert_eq!(length(&[]), 1 + HEAD_BYTES + 2 + 7 * 2 + 2);
        assert_eq!(length(&attempts) - length(&[]), ATTEMPT_BYTES);
    }

    #[test]
    fn long_and_broken_text_is_cut_and_replaced() {
        let (head, attempts) = sample();
        let long = "ä".repeat(TEXT_MAX);
        let texts = Texts { path: &long, ..Texts::default() };
        let mut bytes = Vec::new();
        assert!(encode(&mut bytes, &head, &attempts, &texts, [], [("x", b"\xff".as_slice())]));
        let record = Record::decode(&bytes).unwrap();
        assert!(record.head.truncated);
        assert_eq!(record.texts.path.len(), TEXT_MAX);
        assert_eq!(record.response_headers, [("x", "\u{fffd}")]);
    }

    #[test]
    fn more_attempts_than_fit_keep_the_last() {
        let (head, _) = sample();
        let attempts: Vec<_> = (0..7).map(|server| Attempt { server, ..Attempt::default() }).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, &head, &attempts, &Texts::default(), [], []);
        let kept: Vec<_> = Record::decode(&bytes).unwrap().attempts.iter().map(|a| a.server).collect();
        assert_eq!(kept, [3, 4, 5, 6]);
    }

    #[test]
    fn calls_of_middlewares_are_told_apart_from_attempts() {
        let (head, attempts) = sample();
        let head = Head { answered_by: 2, ..head };
        let calls = [Attempt { server: 9, status: 401, ..Attempt::default() }];
        let mut bytes = Vec::new();
        encode_with_calls(&mut bytes, &head, [&attempts, &calls], &Texts::default(), [], []);
        let record = Record::decode(&bytes).unwrap();
        assert_eq!((record.head.answered_by, record.attempts, record.calls), (2, attempts, calls.to_vec()));
    }

    #[test]
    fn no_prefix_of_a_record_is_a_record() {
        let (head, attempts) = sample();
        let mut bytes = Vec::new();
        encode(&mut bytes, &head, &attempts, &Texts { path: "/x", ..Texts::default() }, [], []);
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "prefix of {end} bytes");
        }
    }
}
