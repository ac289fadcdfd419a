//! What is asked and answered, and when: each request's script, by its kind and the seed. Stated before anything is measured,
//! with the coverage that each kind must have. Pure.

use std::fmt;

use super::super::book::Id;
use super::super::load::hash;

/// Digits of a number in a path.
const DIGITS: usize = 10;
/// A path's begin; a request's number follows.
const PLACE: &[u8] = b"/m/";
/// More than twice the marks that are kept of a connection.
const BURST_PIECES: usize = 40;
/// Each is a segment of its own.
const BURST_PIECE_BYTES: u64 = 600;

/// How a request goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A body with a length, up to 256 KiB, in up to six pieces.
    #[default]
    Upload,
    /// The same in chunks.
    ChunkedUpload,
    /// A head whose end comes with a body of forty segments, as fast as they go.
    Burst,
    /// A request whose first bytes come in the segment with another's last.
    Behind,
    /// The same with a body of forty segments.
    BurstBehind,
    /// `Expect: 100-continue`; the body comes when it was told to.
    Continue,
    /// The backend answers before it has read the whole body.
    Early,
    /// An answer in chunks, one after the other.
    Streamed,
    /// An answer that ends with the backend's connection.
    UntilClose,
    /// An answer of 64 KiB to 1 MiB.
    Download,
    /// A HEAD.
    Head,
    /// Interim answers before the final one.
    Interim,
    /// The backend closes the pooled connection unanswered, so that it is sent again on another.
    Retried,
    /// The client goes away: while the backend works, in the middle of the answer or of its body.
    Cancelled,
}

/// Kinds, and how many of a hundred requests. Those behind another come with it.
const SHARES: [(Kind, u64); 12] = [
    (Kind::Upload, 22),
    (Kind::ChunkedUpload, 14),
    (Kind::Burst, 8),
    (Kind::Continue, 7),
    (Kind::Early, 7),
    (Kind::Streamed, 10),
    (Kind::UntilClose, 3),
    (Kind::Download, 7),
    (Kind::Head, 7),
    (Kind::Interim, 6),
    (Kind::Retried, 5),
    (Kind::Cancelled, 4),
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::ChunkedUpload => "upload in chunks",
            Self::Burst => "upload of forty segments at once",
            Self::Behind => "behind another",
            Self::BurstBehind => "forty segments behind another",
            Self::Continue => "Expect: 100-continue",
            Self::Early => "answered early",
            Self::Streamed => "streamed answer",
            Self::UntilClose => "answer until the close",
            Self::Download => "large answer",
            Self::Head => "HEAD",
            Self::Interim => "interim answers",
            Self::Retried => "sent again",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reasons that its coverage may have beside being full: what its way of going hides, and nothing else.
    pub(super) fn may_lack(self) -> &'static [&'static str] {
        match self {
            // Of the head's last byte there is the ring's mark alone, and more than a ring may follow before it is read.
            Self::Burst | Self::BurstBehind => &["client marks overwritten"],
            Self::Early => &["backend answered before the whole request", "backend marks overwritten"],
            _ => &[],
        }
    }
}

/// When something is done; then, perhaps, after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At once.
    Now,
    /// The backend has read all that was sent before.
    Heard,
    /// The backend has read the whole request before it on the connection.
    Alone,
    /// The client was told to go on.
    Told,
    /// The client has some of the answer.
    Begun,
    /// The client has all of the answer.
    Answered,
    /// The backend has read the head.
    Asked,
    /// The backend has read so much of the body that it may answer.
    Half,
    /// The backend has read all.
    Whole,
    /// The client has read all that was answered before.
    Taken,
}

/// One write.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) when: When,
    pub(super) pause_us: u64,
    pub(super) bytes: Vec<u8>,
    /// Bytes of the body in it.
    pub(super) payload: u64,
    /// Of an answer: where in it the final response begins.
    pub(super) final_at: Option<usize>,
    /// The backend closes its connection instead of writing.
    pub(super) closes: bool,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { when, pause_us, bytes, payload, .. } = self;
        write!(f, "{} bytes with {payload} of the body {when:?} and {pause_us} us", bytes.len())
    }
}

/// How an unanswered connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Fin,
    Reset,
}

/// One request and its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) kind: Kind,
    /// What the client writes.
    pub(super) parts: Vec<Part>,
    /// Bytes of the head, which may be several parts'.
    pub(super) head_bytes: usize,
    /// Bytes of its body.
    pub(super) upload: u64,
    /// So many of them are [`When::Half`].
    pub(super) half: u64,
    /// The client goes away when this has come.
    pub(super) leaves: Option<(When, u64)>,
    /// The client's connection ends with it.
    pub(super) is_last: bool,
    /// What the backend writes. Nothing: it does not answer.
    pub(super) answer: Vec<Part>,
    /// How the backend ends a pooled connection that the request comes over first.
    pub(super) unanswered: Option<(Ends, u64)>,
}

/// Throws by the seed, for one request.
pub(super) struct Dice {
    seed: u64,
    id: Id,
    thrown: u64,
}

impl Dice {
    pub(super) fn new(seed: u64, id: Id) -> Self {
        Self { seed, id, thrown: 100 }
    }

    /// Throws of their own, for what is decided apart.
    pub(super) fn apart(seed: u64, id: Id) -> Self {
        Self { seed, id, thrown: 200 }
    }

    /// From 0 to below that.
    fn below(&mut self, sides: u64) -> u64 {
        self.thrown += 1;
        hash(self.seed, self.id, self.thrown) % sides.max(1)
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Longer than a request takes otherwise, in some of them.
    fn pause_us(&mut self) -> u64 {
        if self.percent(25) { self.between(1_000, 4_000) } else { 0 }
    }

    /// A kind by its share.
    pub(super) fn kind(&mut self) -> Kind {
        let mut left = self.below(SHARES.iter().map(|(_, share)| share).sum());
        for (kind, share) in SHARES {
            match left.checked_sub(share) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        Kind::default()
    }
}

/// A part without a body's bytes that is sent at once.
fn part(bytes: impl Into<Vec<u8>>) -> Part {
    Part { when: When::Now, pause_us: 0, bytes: bytes.into(), payload: 0, final_at: None, closes: false }
}

fn body(bytes: u64) -> Vec<u8> {
    vec![b'x'; usize::try_from(bytes).unwrap_or(0)]
}

/// A chunk with so many bytes.
fn chunk(bytes: u64) -> Vec<u8> {
    [format!("{bytes:x}\r\n").into_bytes(), body(bytes), b"\r\n".to_vec()].concat()
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Script {
    pub(super) fn new(kind: Kind, id: Id, dice: &mut Dice) -> Self {
        let mut script = match kind {
            Kind::Upload | Kind::ChunkedUpload | Kind::Continue => Self::upload(kind, id, dice),
            Kind::Burst => Self::burst(id, dice).split_end(dice),
            Kind::BurstBehind => Self::burst(id, dice),
            Kind::UntilClose => Self::asking("GET", id, until_close(dice)),
            Kind::Early => Self::early(id, dice),
            Kind::Cancelled => Self::cancelled(id, dice),
            Kind::Head => Self::asking("HEAD", id, vec![head_only(dice)]),
            Kind::Streamed => Self::asking("GET", id, streamed(dice)),
            Kind::Download => Self::asking("GET", id, download(dice)),
            Kind::Interim => Self::asking("GET", id, interim(dice)),
            Kind::Behind => Self::asking("GET", id, vec![small(When::Whole, dice)]),
            Kind::Retried => Self::retried(id, dice),
        };
        script.kind = kind;
        let splits = !matches!(kind, Kind::Burst | Kind::Behind | Kind::BurstBehind) && dice.percent(30);
        if splits {
            let pause_us = if dice.percent(50) { dice.between(200, 2_000) } else { 0 };
            script.split_first(cut(script.head_bytes, dice), pause_us);
        }
        script.is_last |= dice.percent(15);
        script
    }

    /// The first part comes in two.
    pub(super) fn split_first(&mut self, cut: usize, pause_us: u64) {
        let Some(first) = self.parts.first_mut() else { return };
        let rest = first.bytes.split_off(cut.min(first.bytes.len()));
        let payload = std::mem::take(&mut first.payload);
        self.parts.insert(1, Part { pause_us, payload, ..part(rest) });
    }

    /// Its first bytes come behind another request's last, the rest when that is with the backend.
    pub(super) fn split_behind(&mut self, dice: &mut Dice) {
        self.split_first(cut(self.head_bytes, dice), 0);
        if let Some(rest) = self.parts.get_mut(1) {
            rest.when = When::Alone;
        }
    }

    /// A request without a body.
    fn asking(method: &str, id: Id, answer: Vec<Part>) -> Self {
        let head = head(method, id, "");
        Self { head_bytes: head.len(), parts: vec![part(head)], answer, ..Self::default() }
    }

    /// A request with a body in pieces.
    fn with_body(id: Id, fields: &str, pieces: &[u64], dice: &mut Dice) -> Self {
        let upload = pieces.iter().sum();
        let chunked = fields.contains("chunked");
        let length = if chunked { String::new() } else { format!("content-length: {upload}\r\n") };
        let method = if dice.percent(25) { "PUT" } else { "POST" };
        let head = head(method, id, &format!("{length}{fields}"));
        let mut script = Self { head_bytes: head.len(), parts: vec![part(head)], upload, ..Self::default() };
        // Each waits until the one before has been heard, or all go at once.
        let paced = dice.percent(70);
        for bytes in pieces {
            let framed = if chunked { chunk(*bytes) } else { body(*bytes) };
            let (when, pause_us) = if paced { (When::Heard, dice.pause_us()) } else { (When::Now, 0) };
            script.parts.push(Part { when, pause_us, payload: *bytes, ..part(framed) });
        }
        if chunked && dice.percent(50) {
            let (when, pause_us) = if paced { (When::Heard, dice.pause_us()) } else { (When::Now, 0) };
            script.parts.push(Part { when, pause_us, ..part(LAST_CHUNK) });
        } else if let Some(last) = script.parts.last_mut().filter(|_| chunked) {
            last.bytes.extend_from_slice(LAST_CHUNK);
        }
        script
    }

    fn upload(kind: Kind, id: Id, dice: &mut Dice) -> Self {
        let fields = match kind {
            Kind::ChunkedUpload => "transfer-encoding: chunked\r\n",
            Kind::Continue => "expect: 100-continue\r\n",
            _ => "",
        };
        // A chunk is one segment: of one that came in two, the end of its frame could lie unread when its body is through.
        let most = if kind == Kind::ChunkedUpload { 32 << 10 } else { 256 << 10 };
        let pieces: Vec<u64> = pieces(dice).into_iter().map(|bytes| bytes.min(most)).collect();
        let mut script = Self::with_body(id, fields, &pieces, dice);
        let answer = small(When::Whole, dice);
        if kind == Kind::Continue {
            if let Some(first) = script.parts.get_mut(1) {
                first.when = When::Told;
            }
            // The proxy says so itself; the backend may say so too.
            if dice.percent(50) {
                script.answer.push(Part { when: When::Asked, ..part(&b"HTTP/1.1 100 Continue\r\n\r\n"[..]) });
            }
        } else if dice.percent(40) {
            script.merge_first();
        }
        script.answer.push(answer);
        script
    }

    /// The head and what follows it come in one write.
    fn merge_first(&mut self) {
        if self.parts.len() > 1 {
            let second = self.parts.remove(1);
            if let Some(first) = self.parts.first_mut() {
                first.bytes.extend(second.bytes);
                first.payload += second.payload;
            }
        }
    }

    fn burst(id: Id, dice: &mut Dice) -> Self {
        let mut script = Self::with_body(id, "", &[BURST_PIECE_BYTES; BURST_PIECES], dice);
        for part in &mut script.parts {
            (part.when, part.pause_us) = (When::Now, 0);
        }
        script.merge_first();
        script.answer.push(small(When::Whole, dice));
        script
    }

    /// The head's last byte comes with the body's first.
    fn split_end(mut self, dice: &mut Dice) -> Self {
        self.split_first(self.head_bytes - 1, dice.between(0, 1) * 300);
        self
    }

    /// The rest of the body comes when the answer is here, whether or not it is read, or between the answer's two halves.
    fn early(id: Id, dice: &mut Dice) -> Self {
        let pieces: Vec<u64> = (0..4).map(|_| dice.between(1, 20_000)).collect();
        let mut script = Self::with_body(id, "", &pieces, dice);
        for part in script.parts.iter_mut().skip(1).take(2) {
            part.when = When::Heard;
        }
        script.half = pieces.iter().take(2).sum();
        let when = if dice.percent(50) { When::Asked } else { When::Half };
        let goes_on = dice.percent(50);
        let rest = if goes_on { When::Begun } else { When::Answered };
        for part in script.parts.iter_mut().skip(3) {
            part.when = rest;
        }
        // Nobody hears what comes behind an answer that ended the connection.
        if when == When::Asked && (!goes_on || dice.percent(50)) {
            for part in script.parts.iter_mut().skip(1).take(2) {
                part.when = rest;
            }
        }
        let (first, second) = (dice.between(1, 2_000), dice.between(1, 2_000));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", first + second);
        let begin = [head.into_bytes(), body(first)].concat();
        script.answer.push(Part { when, pause_us: dice.pause_us(), payload: first, final_at: Some(0), ..part(begin) });
        let last = if goes_on { When::Whole } else { When::Now };
        script.answer.push(Part { when: last, payload: second, ..part(body(second)) });
        script.is_last = !goes_on;
        script
    }

    fn retried(id: Id, dice: &mut Dice) -> Self {
        let method = if dice.percent(20) { "DELETE" } else { "GET" };
        let ends = if dice.percent(50) { Ends::Fin } else { Ends::Reset };
        let unanswered = Some((ends, dice.pause_us()));
        Self { unanswered, ..Self::asking(method, id, vec![small(When::Whole, dice)]) }
    }

    fn cancelled(id: Id, dice: &mut Dice) -> Self {
        let pause_us = dice.pause_us();
        let (mut script, when) = match dice.below(3) {
            0 => (Self::asking("GET", id, Vec::new()), When::Whole),
            1 => {
                let bytes = dice.between(1, 50_000);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes + 1);
                let begin = [head.into_bytes(), body(bytes)].concat();
                let answer = Part { when: When::Whole, payload: bytes, final_at: Some(0), ..part(begin) };
                (Self::asking("GET", id, vec![answer]), When::Begun)
            }
            _ => {
                let mut script = Self::with_body(id, "", &[dice.between(1, 30_000), 1], dice);
                script.parts.pop();
                (script, When::Heard)
            }
        };
        script.leaves = Some((when, pause_us));
        script.is_last = true;
        script
    }
}

/// Up to six pieces of up to 256 KiB together; one byte is a piece too.
fn pieces(dice: &mut Dice) -> Vec<u64> {
    let most = match dice.below(10) {
        0 => 1,
        1..4 => 600,
        4..8 => 16 << 10,
        _ => 256 << 10,
    };
    let count = dice.between(1, 6);
    (0..count).map(|_| if dice.percent(20) { 1 } else { dice.between(1, (most / count).max(1)) }).collect()
}

/// Where a head is cut: behind its first byte, before its last, or anywhere.
fn cut(head_bytes: usize, dice: &mut Dice) -> usize {
    match dice.below(3) {
        0 => 1,
        1 => head_bytes - 1,
        _ => 1 + usize::try_from(dice.below(head_bytes as u64 - 1)).unwrap_or(0),
    }
}

fn head(method: &str, id: Id, fields: &str) -> Vec<u8> {
    format!("{method} /m/{id:0DIGITS$} HTTP/1.1\r\nhost: joins\r\n{fields}\r\n").into_bytes()
}

/// A small answer, in one write.
fn small(when: When, dice: &mut Dice) -> Part {
    let bytes = dice.between(0, 200);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    let whole = [head.into_bytes(), body(bytes)].concat();
    Part { when, pause_us: dice.pause_us(), payload: bytes, final_at: Some(0), ..part(whole) }
}

/// What a HEAD is answered with.
fn head_only(dice: &mut Dice) -> Part {
    let framing = match dice.percent(50) {
        true => format!("content-length: {}", dice.below(100_000)),
        false => "transfer-encoding: chunked".to_owned(),
    };
    let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
    Part { when: When::Whole, pause_us: dice.pause_us(), final_at: Some(0), ..part(head) }
}

fn streamed(dice: &mut Dice) -> Vec<Part> {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut parts = vec![Part { when: When::Whole, pause_us: dice.pause_us(), final_at: Some(0), ..part(&head[..]) }];
    let when = if dice.percent(80) { When::Taken } else { When::Now };
    for nth in 0..dice.between(1, 8) {
        let bytes = if dice.percent(20) { 1 } else { dice.between(1, 6_000) };
        let pause_us = if when == When::Taken { dice.pause_us() } else { 0 };
        match parts.first_mut() {
            // The first with the head.
            Some(first) if nth == 0 && dice.percent(50) => {
                first.bytes.extend(chunk(bytes));
                first.payload = bytes;
            }
            _ => parts.push(Part { when, pause_us, payload: bytes, ..part(chunk(bytes)) }),
        }
    }
    match parts.last_mut() {
        Some(last) if dice.percent(50) => last.bytes.extend_from_slice(LAST_CHUNK),
        _ => parts.push(Part { when, pause_us: dice.pause_us(), ..part(LAST_CHUNK) }),
    }
    parts
}

fn until_close(dice: &mut Dice) -> Vec<Part> {
    let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let mut parts = vec![Part { when: When::Whole, pause_us: dice.pause_us(), final_at: Some(0), ..part(&head[..]) }];
    for _ in 0..dice.below(4) {
        let bytes = if dice.percent(20) { 1 } else { dice.between(1, 6_000) };
        parts.push(Part { when: When::Taken, pause_us: dice.pause_us(), payload: bytes, ..part(body(bytes)) });
    }
    parts.push(Part { when: When::Taken, pause_us: dice.pause_us(), closes: true, ..part(Vec::new()) });
    parts
}

fn download(dice: &mut Dice) -> Vec<Part> {
    let bytes = dice.between(64 << 10, 1 << 20);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").into_bytes();
    let first = Part { when: When::Whole, pause_us: dice.pause_us(), final_at: Some(0), ..part(head) };
    if dice.percent(50) {
        return vec![Part { bytes: [first.bytes, body(bytes)].concat(), payload: bytes, ..first }];
    }
    // The head goes ahead, as servers write it.
    vec![first, Part { payload: bytes, ..part(body(bytes)) }]
}

fn interim(dice: &mut Dice) -> Vec<Part> {
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
    let mut last = small(When::Now, dice);
    let mut parts = Vec::new();
    for nth in 0..dice.between(1, 2) {
        let when = if nth == 0 { When::Whole } else { When::Now };
        parts.push(Part { when, pause_us: dice.pause_us(), ..part(&hints[..]) });
    }
    if dice.percent(30)
        && let Some(with) = parts.last_mut()
    {
        // In one write with what comes before it.
        (with.final_at, with.payload) = (Some(with.bytes.len()), last.payload);
        with.bytes.append(&mut last.bytes);
    } else {
        parts.push(last);
    }
    parts
}

/// The number in the path of a request with this head, whatever its method.
pub(super) fn number_in(head: &[u8]) -> Option<Id> {
    let path = head.split(|byte| *byte == b' ').nth(1)?;
    number_in_path(path)
}

pub(super) fn number_in_path(path: &[u8]) -> Option<Id> {
    let digits = path.strip_prefix(PLACE).filter(|digits| digits.len() == DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> impl Iterator<Item = Script> {
        (1..3_000).map(|id| {
            let mut dice = Dice::new(1, id);
            let kind = dice.kind();
            Script::new(kind, id, &mut dice)
        })
    }

    #[test]
    fn every_script_has_what_its_framing_promises() {
        for script in scripts() {
            let sent: Vec<u8> = script.parts.iter().flat_map(|part| part.bytes.clone()).collect();
            assert_eq!(sent.windows(4).position(|four| four == b"\r\n\r\n"), Some(script.head_bytes - 4), "{script:?}");
            let payload: u64 = script.parts.iter().map(|part| part.payload).sum();
            let left = u64::from(script.leaves.is_some() && script.upload > 0);
            assert_eq!(payload + left, script.upload, "{:?}", script.kind);
            let finals = script.answer.iter().filter(|part| part.final_at.is_some()).count();
            assert_eq!(finals, usize::from(!script.answer.is_empty()), "{:?}", script.kind);
        }
    }

    #[test]
    fn every_kind_has_its_share_and_the_seed_chooses() {
        for (kind, share) in SHARES {
            let count = scripts().filter(|script| script.kind == kind).count();
            assert!(count > usize::try_from(share).unwrap() * 18, "{kind:?}: {count}");
        }
        let sent = |seed| Script::new(Kind::Upload, 7, &mut Dice::new(seed, 7)).parts;
        assert_eq!(sent(1), sent(1));
        assert_ne!(sent(1), sent(2));
    }

    #[test]
    fn the_number_of_a_request_is_in_its_path_whatever_its_method() {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            assert_eq!(number_in(&head(method, 12, "")), Some(12));
        }
        for none in [&b"GET /m/12 HTTP/1.1"[..], b"GET / HTTP/1.1", b"GET /m/00000000xx "] {
            assert_eq!(number_in(none), None);
        }
    }
}
