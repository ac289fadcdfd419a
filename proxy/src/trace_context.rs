//! W3C Trace Context level 2: reading `traceparent` and `tracestate`, writing them for the upstream. Pure: randomness
//! is an argument. Whether a caller is trusted and what is sampled is decided elsewhere.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that names the trace and the caller's span.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what tracing vendors add.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Flag: the caller may have recorded its spans.
pub const SAMPLED: u8 = 1;
/// Flag: the low 56 bits of the trace id are random.
pub const RANDOM: u8 = 2;

/// Members of a `tracestate` list, as the recommendation caps them.
const MEMBERS_MAX: usize = 32;
/// Characters of a member's key, and of its value.
const KEY_MAX: usize = 256;
const VALUE_MAX: usize = 256;

/// A trace's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// A span's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The low 56 bits: the part that level 2 promises to be random when the `random` flag is set.
    #[must_use]
    pub fn random_bits(self) -> u64 {
        let [.., a, b, c, d, e, f, g] = self.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }

    /// A new id, never zero.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng) -> Self {
        Self(random.u128(1..).to_be_bytes())
    }
}

impl SpanId {
    /// A new id, never zero.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng) -> Self {
        Self(random.u64(1..).to_be_bytes())
    }

    /// Whether this names a span at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that the receiver's span hangs under.
    pub parent_id: SpanId,
    /// [`SAMPLED`] and [`RANDOM`]; flags that level 2 does not define are read as zero and never passed on.
    pub flags: u8,
}

impl TraceParent {
    /// Characters of a version 00 value.
    pub const LENGTH: usize = 55;

    /// A new trace that begins with this span, not sampled yet. Its id is random, but the flag of level 2 is not set:
    /// OpenTelemetry's Go SDK takes a version 00 value with flags above 2 for invalid, and starts a trace of its own
    /// (seen with Hot R.O.D. of Jaeger 1.76). A caller's flag is passed on as it came.
    #[must_use]
    pub fn root(random: &mut fastrand::Rng) -> Self {
        Self { trace_id: TraceId::random(random), parent_id: SpanId::random(random), flags: 0 }
    }

    /// Reads a header value; a later version is read as version 00, as far as that goes.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.trim_ascii().split_first_chunk::<{ Self::LENGTH }>()?;
        let (version, known) = field::<1, 2>(known)?;
        let (trace_id, known) = field::<16, 32>(known)?;
        let (parent_id, known) = field::<8, 16>(known)?;
        let ([flags], _) = field::<1, 2>(known)?;
        let end_is_right = match version {
            [0xff] => false,
            [0] => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let sound = end_is_right && trace_id != [0; 16] && parent_id != [0; 8];
        sound.then_some(Self {
            trace_id: TraceId(trace_id),
            parent_id: SpanId(parent_id),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// The same trace for a receiver whose caller is `parent_id`: the random flag stays as it came, the sampled flag
    /// is our decision.
    #[must_use]
    pub fn passed_on(self, parent_id: SpanId, sampled: bool) -> Self {
        let flags = self.flags & RANDOM | if sampled { SAMPLED } else { 0 };
        Self { parent_id, flags, ..self }
    }

    /// Whether the caller may have recorded its spans.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value in version 00.
    #[must_use]
    pub fn write(self) -> [u8; Self::LENGTH] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let [_, _, _, trace @ .., _, f1, f0] = &mut value;
        // 3 + 32 + 1 + 16 + 1 + 2 = 55: `trace` holds the trace id, a hyphen and the parent id.
        let (trace, parent) = trace.split_at_mut(33);
        put(trace, &self.trace_id.0);
        put(parent, &self.parent_id.0);
        (*f1, *f0) = pair(self.flags);
        value
    }

    /// The value as a header: one allocation of 55 bytes.
    #[must_use]
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&self.write()))
            .expect("hexadecimal digits and hyphens are a header value")
    }
}

/// The caller's trace context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// From `traceparent`.
    pub parent: TraceParent,
    /// The `tracestate` to pass on: the header as it came where it was one, else all of them joined.
    pub state: Option<HeaderValue>,
}

impl Incoming {
    /// Reads a request's trace context. There is none without exactly one valid `traceparent`; a `tracestate` that is
    /// not valid is dropped whole and spoils nothing else.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let parent = TraceParent::parse(parents.next()?.as_bytes())?;
        if parents.next().is_some() {
            return None;
        }
        Some(Self { parent, state: read_state(headers) })
    }
}

/// Puts the context into a request for an upstream, in place of whatever stands there. A `tracestate` that is not
/// passed on is removed: alone it means nothing, and beside a new trace it would lie.
pub fn inject(headers: &mut HeaderMap, parent: TraceParent, state: Option<&HeaderValue>) {
    headers.insert(&TRACEPARENT, parent.header());
    match state {
        Some(state) => {
            headers.insert(&TRACESTATE, state.clone());
        }
        None => {
            headers.remove(&TRACESTATE);
        }
    }
}

/// The valid list of all `tracestate` headers together.
fn read_state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(&TRACESTATE).iter();
    let first = values.next()?;
    let mut members = Members::default();
    members.read(first.as_bytes())?;
    let Some(second) = values.next() else {
        return (members.named > 0).then(|| first.clone());
    };
    let mut joined = Vec::with_capacity(512);
    joined.extend_from_slice(first.as_bytes());
    for value in std::iter::once(second).chain(values) {
        members.read(value.as_bytes())?;
        // Empty headers are allowed, but SHOULD not be sent.
        if !joined.is_empty() && !value.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if members.named == 0 {
        return None;
    }
    HeaderValue::from_maybe_shared(Bytes::from(joined)).ok()
}

/// Counts a list's members over its headers.
#[derive(Default)]
struct Members {
    /// All, empty ones too: the grammar's cap counts them.
    listed: usize,
    named: usize,
}

impl Members {
    /// `None` when the list is not valid.
    fn read(&mut self, value: &[u8]) -> Option<()> {
        // A header without a character adds no member: it is how some senders say that they have none.
        if value.is_empty() {
            return Some(());
        }
        for member in value.split(|byte| *byte == b',') {
            self.listed += 1;
            if self.listed > MEMBERS_MAX {
                return None;
            }
            if member.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                continue;
            }
            self.named += 1;
            member_is_valid(member).then_some(())?;
        }
        Some(())
    }
}

/// Whether a member is `key=value` by the recommendation's grammar, with optional whitespace around it.
fn member_is_valid(member: &[u8]) -> bool {
    let mut member = member;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = member {
        member = rest;
    }
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = member.split_at(equals);
    let value = value.get(1..).unwrap_or_default();
    let key_starts = matches!(key, [b'a'..=b'z' | b'0'..=b'9', ..]);
    let key_is_valid = key.len() <= KEY_MAX
        && key.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'));
    let value_is_valid = (1..=VALUE_MAX).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='));
    key_starts && key_is_valid && value_is_valid
}

/// Reads `N` bytes as `D` = 2 x `N` lower-case digits, and the hyphen behind them where there is more.
fn field<const N: usize, const D: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (digits, rest) = text.split_first_chunk::<D>()?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    match rest {
        [] => Some((bytes, rest)),
        [b'-', rest @ ..] => Some((bytes, rest)),
        _ => None,
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

fn put(text: &mut [u8], bytes: &[u8]) {
    for ([high, low], byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        (*high, *low) = pair(*byte);
    }
}

fn pair(byte: u8) -> (u8, u8) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
    (digit(byte >> 4), digit(byte & 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const PARENT: &str = "1234567890123456";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    /// Reads a `traceparent` and writes it again as version 00.
    fn check(value: &str, expected: Option<&str>) {
        let read = TraceParent::parse(value.as_bytes());
        let written = read.map(|parent| String::from_utf8(parent.write().to_vec()).unwrap());
        assert_eq!(written.as_deref(), expected, "{value:?}");
    }

    /// The rest of a header for a trace with the usual ids.
    fn of(version: &str, tail: &str) -> String {
        format!("{version}-{TRACE}-{PARENT}-{tail}")
    }

    #[test]
    fn every_flag_that_level_2_defines_is_read_and_all_others_are_zeroed() {
        for (flags, expected) in
            [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("04", "00"), ("fd", "01"), ("ff", "03")]
        {
            check(&of("00", flags), Some(&of("00", expected)));
        }
    }

    #[test]
    fn a_later_version_is_read_as_00_as_far_as_it_goes() {
        for (value, good) in [
            (of("cc", "01"), true),
            (of("cc", "01-what-the-future-will-be-like"), true),
            (of("cc", "01-"), true),
            (of("cc", "01.what-the-future-will-be-like"), false),
            (of("cc", "0"), false),
            (of("cc", "011"), false),
            (of("fe", "01"), true),
            (of("01", "01-00-00"), true),
            (of("ff", "01"), false),
            (of("ff", "01-x"), false),
        ] {
            check(&value, good.then(|| of("00", "01")).as_deref());
        }
    }

    #[test]
    fn whitespace_around_the_value_is_not_part_of_it() {
        for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
            check(&format!("{before}{}{after}", of("00", "01")), Some(&of("00", "01")));
        }
    }

    #[test]
    fn a_value_that_is_not_exactly_version_00_is_refused() {
        let zeros = "0".repeat(TraceParent::LENGTH);
        let values = [
            // Trailing data.
            of("00", "01."),
            of("00", "01-what-the-future-will-be-like"),
            of("00", "01-"),
            // Version: characters and length.
            of(".0", "01"),
            of("0.", "01"),
            of("000", "01"),
            of("0000", "01"),
            of("0", "01"),
            of("", "01"),
            of("0A", "01"),
            of("+1", "01"),
            // Trace id: zero, characters, case, length.
            format!("00-00000000000000000000000000000000-{PARENT}-01"),
            format!("00-.2345678901234567890123456789012-{PARENT}-01"),
            format!("00-1234567890123456789012345678901.-{PARENT}-01"),
            format!("00-1234567890123456789012345678901A-{PARENT}-01"),
            format!("00-123456789012345678901234567890123-{PARENT}-01"),
            format!("00-1234567890123456789012345678901-{PARENT}-01"),
            // Parent id: zero, characters, case, length.
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-.234567890123456-01"),
            format!("00-{TRACE}-123456789012345.-01"),
            format!("00-{TRACE}-123456789012345F-01"),
            format!("00-{TRACE}-12345678901234567-01"),
            format!("00-{TRACE}-123456789012345-01"),
            // Flags: characters, case, length.
            of("00", ".0"),
            of("00", "0."),
            of("00", "0A"),
            of("00", "001"),
            of("00", "1"),
            of("00", ""),
            // Shape: other delimiters, none, shifted ones, and values that made other proxies panic.
            of("00", "01").replace('-', "_"),
            of("00", "01").replace('-', "0"),
            of("00", "01").replacen('-', " ", 1),
            format!("00-{TRACE}{PARENT}--01"),
            "00".into(),
            "-".into(),
            "---".into(),
            "ä".repeat(30),
            String::new(),
            zeros,
        ];
        for value in values {
            check(&value, None);
        }
    }

    #[test]
    fn only_exactly_one_traceparent_under_its_own_name_is_a_context() {
        let (good, other) = (of("00", "01"), of("00", "01").replace("9012-", "9011-"));
        for (pairs, found) in [
            (vec![("traceparent", &good)], true),
            (vec![("TraceParent", &good)], true),
            (vec![("TRACEPARENT", &good)], true),
            (vec![], false),
            (vec![("trace-parent", &good)], false),
            (vec![("trace.parent", &good)], false),
            (vec![("traceparent", &other), ("traceparent", &good)], false),
            (vec![("traceparent", &good), ("traceparent", &good)], false),
        ] {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(Incoming::from_headers(&headers(&pairs)).is_some(), found, "{pairs:?}");
        }
    }

    /// Reads `tracestate` headers beside a good `traceparent`, which must survive whatever they hold.
    fn check_state(states: &[&str], expected: Option<&str>) {
        let parent = of("00", "00");
        let pairs: Vec<_> = std::iter::once(("traceparent", parent.as_str()))
            .chain(states.iter().map(|s| ("TraceState", *s)))
            .collect();
        let incoming = Incoming::from_headers(&headers(&pairs)).unwrap();
        assert_eq!(incoming.parent.trace_id.to_string(), TRACE);
        let state = incoming.state.as_ref().map(|state| state.to_str().unwrap());
        assert_eq!(state, expected, "{states:?}");
    }

    #[test]
    fn valid_tracestates_are_passed_on_and_joined_in_order() {
        let as_it_came = [
            "foo=1,bar=2",
            "foo=1 \t , \t bar=2, \t baz=3",
            "foo=1\t \t,\t \tbar=2,\t \tbaz=3",
            "foo=1,,bar=2",
            "foo=1, ,\t,bar=2,",
            // Keys twice may be kept.
            "foo=1,foo=1",
            "foo=1,foo=2",
            // Level 2 lets an at sign stand anywhere but first, and digits begin a key.
            "foo@=1,bar=2",
            "foo@@bar=1,bar=2",
            "foo@bar@baz=1,bar=2",
            "0foo=1",
            "abcdefghijklmnopqrstuvwxyz0123456789_-*/=1",
            "abcdefghijklmnopqrstuvwxyz0123456789_-*/@a-z0-9_-*/=1",
            "foo=  leading spaces are part of it",
            "k= !\"#$%&'()*+-./0123456789:;<>?@ABCXYZ[\\]^_`abcxyz{|}~",
        ];
        for state in as_it_came {
            check_state(&[state], Some(state));
        }
        check_state(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], Some("foo=1,bar=2,rojo=1,congo=2,baz=3"));
        check_state(&["foo=1", ""], Some("foo=1"));
        check_state(&["", "foo=1"], Some("foo=1"));
        check_state(&["", "", "foo=1", "", "bar=2"], Some("foo=1,bar=2"));
        check_state(&["foo=1", "foo=2"], Some("foo=1,foo=2"));
    }

    #[test]
    fn empty_tracestates_are_not_sent() {
        for states in [&["", ""][..], &[""], &[","], &[" , \t"], &[",", ","], &[]] {
            check_state(states, None);
        }
    }

    #[test]
    fn an_invalid_member_drops_the_whole_tracestate() {
        for state in [
            "foo =1",
            "FOO=1",
            "foo.bar=1",
            "fooä=1",
            "@foo=1,bar=2",
            "_foo=1",
            "-foo=1",
            "*foo=1",
            "/foo=1",
            "=1",
            "foo",
            "foo=",
            "foo=,bar=3",
            "foo= ,bar=3",
            "foo=bar=baz",
            "foo=bar=baz,bar=3",
            "foo=a\tb",
            "foo=ä",
            "foo= =1",
            "bar=2;foo=1;=",
        ] {
            check_state(&[state], None);
            check_state(&["good=1", state], None);
            check_state(&[state, "good=1"], None);
        }
    }

    #[test]
    fn members_keys_and_values_are_capped() {
        let list =
            |from: usize, to: usize| (from..=to).map(|i| format!("bar{i:02}={i:02}")).collect::<Vec<_>>().join(",");
        check_state(&[&list(1, 32)], Some(&list(1, 32)));
        check_state(&[&list(1, 33)], None);
        check_state(&[&list(1, 10), &list(11, 32)], Some(&list(1, 32)));
        check_state(&[&list(1, 10), &list(11, 33)], None);
        check_state(&[&format!("{},", list(1, 32))], None);
        for (key, value, good) in [(256, 1, true), (257, 1, false), (1, 256, true), (1, 257, false)] {
            let member = format!("{}={}", "z".repeat(key), "v".repeat(value));
            let joined = format!("foo=1,{member}");
            check_state(&["foo=1", &member], good.then_some(joined.as_str()));
        }
        for key in ["t".repeat(241) + "@" + &"v".repeat(14), "t".repeat(242) + "@v", "t@".to_owned() + &"v".repeat(15)]
        {
            let member = format!("{key}=1");
            check_state(&[&member], Some(&member));
        }
    }

    #[test]
    fn a_single_tracestate_is_passed_on_without_a_copy() {
        let mut headers = headers(&[("traceparent", &of("00", "00"))]);
        headers.insert(&TRACESTATE, HeaderValue::from_maybe_shared(Bytes::from_static(b"foo=1")).unwrap());
        let there = headers.get(&TRACESTATE).unwrap().as_bytes().as_ptr();
        let state = Incoming::from_headers(&headers).unwrap().state.unwrap();
        inject(&mut headers, TraceParent::root(&mut fastrand::Rng::with_seed(1)), Some(&state));
        assert_eq!(headers.get(&TRACESTATE).unwrap().as_bytes().as_ptr(), there);
    }

    #[test]
    fn what_is_injected_replaces_everything_that_came() {
        let parent = TraceParent::parse(of("00", "03").as_bytes()).unwrap();
        let came = [("traceparent", "x"), ("traceparent", "y"), ("tracestate", "a=1"), ("tracestate", "b=2")];
        for state in [None, Some(HeaderValue::from_static("c=3"))] {
            let mut headers = headers(&came);
            inject(&mut headers, parent, state.as_ref());
            let all = |name: &HeaderName| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            assert_eq!(all(&TRACEPARENT), [of("00", "03").as_str()]);
            assert_eq!(all(&TRACESTATE), state.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn passing_on_keeps_the_random_flag_and_decides_the_sampled_one() {
        for came in 0..4 {
            for sampled in [false, true] {
                let parent = TraceParent { trace_id: TraceId([1; 16]), parent_id: SpanId([2; 8]), flags: came };
                let on = parent.passed_on(SpanId([3; 8]), sampled);
                assert_eq!((on.trace_id, on.parent_id), (parent.trace_id, SpanId([3; 8])));
                assert_eq!((on.flags & RANDOM, on.is_sampled()), (came & RANDOM, sampled));
            }
        }
    }

    #[test]
    fn new_roots_are_random_and_valid_to_level_1_readers_too() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let root = TraceParent::root(&mut random);
            assert_eq!(root.flags, 0);
            assert_eq!(TraceParent::parse(&root.write()), Some(root));
            assert!(seen.insert(root.trace_id));
            assert_eq!(root.header().as_bytes(), root.write());
        }
        let ones = seen.iter().map(|id| id.random_bits().count_ones()).sum::<u32>();
        assert!((27_000..29_000).contains(&ones), "{ones} of 56,000 bits are set");
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let mut random = fastrand::Rng::with_seed(11);
        let good = of("00", "01").into_bytes();
        for _ in 0..20_000 {
            let mut value = good.clone();
            value.truncate(random.usize(..=good.len()));
            value.extend((0..random.usize(..4)).map(|_| random.u8(..)));
            if let Some(byte) = value.get_mut(random.usize(..60)) {
                *byte = random.u8(..);
            }
            if let Some(parent) = TraceParent::parse(&value) {
                assert_eq!(TraceParent::parse(&parent.write()), Some(parent));
            }
            let _ = Members::default().read(&value);
        }
    }
}
