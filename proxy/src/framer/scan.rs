//! What one line of HTTP/1 says: pure functions over bytes that begin at a line's first byte. Whether a message may
//! hold the line is left to [`super`].

use super::Reason;

/// A field line or the empty line that ends a section.
pub(super) enum Line<'a> {
    /// `value` still has its optional whitespace; `length` counts the line's end too.
    Field {
        name: &'a [u8],
        value: &'a [u8],
        length: usize,
    },
    Empty,
    /// No fault so far, but no end either.
    Partial,
    /// Wrong at this offset in the line.
    Bad {
        offset: usize,
        reason: Reason,
    },
}

/// A request line or a status line.
pub(super) struct StartLine {
    pub(super) length: usize,
    pub(super) minor: u8,
    pub(super) status: u16,
    pub(super) connect: bool,
}

type Scanned<T> = Result<Option<T>, (usize, Reason)>;

/// Reads a field line. The search for its end does not wait for its name's: lines follow each other faster so.
#[inline(always)]
pub(super) fn field_line(line: &[u8]) -> Line<'_> {
    let end = match text_line(line) {
        Ok(Some(0)) => return Line::Empty,
        Ok(Some(end)) => end,
        Ok(None) => return Line::Partial,
        Err((offset, reason)) => return Line::Bad { offset, reason },
    };
    let text = line.get(..end).unwrap_or_default();
    match token_end(line).and_then(|colon| text.split_at_checked(colon)) {
        Some((name, [b':', value @ ..])) if !name.is_empty() => Line::Field { name, value, length: end + 2 },
        other => bad_name(other.map_or(end, |(name, _)| name.len()), text),
    }
}

/// A line whose name does not end in a colon at `offset`.
#[cold]
fn bad_name(offset: usize, text: &[u8]) -> Line<'_> {
    let reason = match text.get(offset) {
        None => Reason::NoColon,
        Some(b':') => Reason::EmptyName,
        Some(b' ' | b'\t') if offset == 0 => Reason::Folded,
        Some(b' ' | b'\t') => Reason::SpaceBeforeColon,
        Some(_) => Reason::BadName,
    };
    Line::Bad { offset, reason }
}

/// Reads on to the line's end over visible characters, spaces and tabs; the offset of its CR.
#[inline(always)]
fn text_line(line: &[u8]) -> Scanned<usize> {
    match first_below::<0x20>(line) {
        Some(at) if line.get(at..at + 2) == Some(b"\r\n") => Ok(Some(at)),
        Some(at) => text_with_tabs(line, at),
        None => Ok(None),
    }
}

/// [`text_line`] from the first control character on.
#[cold]
fn text_with_tabs(line: &[u8], mut from: usize) -> Scanned<usize> {
    loop {
        let Some(at) = line.get(from..).and_then(first_below::<0x20>).map(|found| from + found) else {
            return Ok(None);
        };
        if line.get(at..at + 2) == Some(b"\r\n") {
            return Ok(Some(at));
        }
        if line.get(at) != Some(&b'\t') {
            return control(line, at);
        }
        from = at + 1;
    }
}

/// A control character that has no place in a line.
#[cold]
fn control<T>(line: &[u8], at: usize) -> Scanned<T> {
    match (line.get(at), line.get(at + 1)) {
        (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), _) => Err((at, Reason::BareCr)),
        (Some(b'\n'), _) => Err((at, Reason::BareLf)),
        (Some(0), _) => Err((at, Reason::Nul)),
        _ => Err((at, Reason::Control)),
    }
}

/// Reads `method SP target SP HTTP/1.x CRLF`.
pub(super) fn request_line(line: &[u8]) -> Scanned<StartLine> {
    let Some(space) = token_end(line) else { return Ok(None) };
    if space == 0 || line.get(space) != Some(&b' ') {
        return not_a_method(line, space);
    }
    let target = space + 1;
    let Some(end) = line.get(target..).and_then(first_below::<0x21>).map(|found| target + found) else {
        return Ok(None);
    };
    if end == target || line.get(end) != Some(&b' ') {
        return not_a_target(line, target, end);
    }
    let version = end + 1;
    let minor = match line.get(version..version + 10) {
        Some(b"HTTP/1.1\r\n") => 1,
        Some(b"HTTP/1.0\r\n") => 0,
        _ => return not_a_version(line, version),
    };
    Ok(Some(StartLine { length: version + 10, minor, status: 0, connect: line.starts_with(b"CONNECT ") }))
}

#[cold]
fn not_a_method<T>(line: &[u8], at: usize) -> Scanned<T> {
    match line.get(at) {
        Some(b'\r' | b'\n' | 0) => match control::<T>(line, at) {
            Err((_, Reason::BareCr)) | Ok(_) if line.get(at..at + 2) == Some(b"\r\n") => {
                Err((at, Reason::BadRequestLine))
            }
            other => other,
        },
        _ => Err((at, Reason::BadMethod)),
    }
}

#[cold]
fn not_a_target<T>(line: &[u8], target: usize, at: usize) -> Scanned<T> {
    match line.get(at) {
        Some(b' ') if at == target => Err((at, Reason::BadRequestLine)),
        // HTTP/0.9 has no version.
        Some(b'\r') if line.get(at + 1) == Some(&b'\n') => Err((at, Reason::BadRequestLine)),
        Some(b'\r' | b'\n' | 0) => control(line, at),
        _ => Err((at, Reason::BadTarget)),
    }
}

#[cold]
fn not_a_version<T>(line: &[u8], at: usize) -> Scanned<T> {
    let rest = line.get(at..).unwrap_or_default();
    let end = match text_line(rest) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(None),
        Err((offset, reason)) => return Err((at + offset, reason)),
    };
    match rest.get(..end) {
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err((at, Reason::UnsupportedVersion))
        }
        Some(text) if text.contains(&b' ') || text.is_empty() => Err((at, Reason::BadRequestLine)),
        _ => Err((at, Reason::BadVersion)),
    }
}

/// Reads `HTTP/1.x SP 3DIGIT [SP reason] CRLF`. The space before an empty reason is often left out.
pub(super) fn status_line(line: &[u8]) -> Scanned<StartLine> {
    let end = match text_line(line) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', hundreds, tens, ones, rest @ ..]) =
        line.get(..end)
    else {
        return Err((0, Reason::BadStatusLine));
    };
    let digits = [hundreds, tens, ones];
    let spaced = rest.first().is_none_or(|byte| *byte == b' ');
    if !spaced || !digits.iter().all(|byte| byte.is_ascii_digit()) || *hundreds == b'0' {
        return Err((9, Reason::BadStatusLine));
    }
    let minor = match (major, minor) {
        (b'1', b'1') => 1,
        (b'1', b'0') => 0,
        _ => return Err((5, Reason::UnsupportedVersion)),
    };
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0'));
    Ok(Some(StartLine { length: end + 2, minor, status, connect: false }))
}

/// Reads a chunk's size line; its size and length.
pub(super) fn chunk_line(line: &[u8]) -> Scanned<(u64, usize)> {
    let mut size: u64 = 0;
    let mut digits = 0;
    for byte in line {
        let Some(digit) = char::from(*byte).to_digit(16) else { break };
        if size >> 59 != 0 {
            return Err((digits, Reason::ChunkOverflow));
        }
        size = size << 4 | u64::from(digit);
        digits += 1;
    }
    let Some(rest) = line.get(digits..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let end = match text_line(rest) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(None),
        Err((offset, reason)) => return Err((digits + offset, reason)),
    };
    // RFC 9112 7.1.1 lets bad whitespace stand before an extension, never behind a bare size.
    let extension = rest.get(..end).unwrap_or_default();
    let sound = extension.is_empty() || trim(extension).first() == Some(&b';');
    if digits == 0 || !sound {
        return Err((digits, Reason::BadChunkSize));
    }
    Ok(Some((size, digits + end + 2)))
}

/// A length: digits only, and small enough that offsets cannot overflow.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Reason> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Reason::BadLength);
    }
    let number =
        text.iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(*digit - b'0')));
    number.filter(|number| i64::try_from(*number).is_ok()).ok_or(Reason::LengthOverflow)
}

/// Without the optional whitespace around it.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether `name` is `wanted`, or is spelt with underscores for its hyphens as CGI-like backends would read it.
#[inline]
pub(super) fn is_name(name: &[u8], wanted: &[u8]) -> bool {
    let same = |(byte, wanted): (&u8, &u8)| byte.to_ascii_lowercase() == *wanted || (*byte == b'_' && *wanted == b'-');
    name.len() == wanted.len() && name.iter().zip(wanted).all(same)
}

/// Fields that must not come behind the body they would frame or route.
pub(super) fn frames_a_message(name: &[u8]) -> bool {
    is_name(name, b"content-length") || is_name(name, b"transfer-encoding") || name.eq_ignore_ascii_case(b"host")
}

/// What a host and port are written with (RFC 3986 3.2.2), without the comma: it would hide a list.
pub(super) fn is_host_byte(byte: u8) -> bool {
    // A table of 256 has an entry for every byte.
    HOST[usize::from(byte)]
}

const fn alphanumeric_and(marks: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    table
}

static TOKEN: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");
static HOST: [bool; 256] = alphanumeric_and(b"-._~%!$&'()*+;=:[]");

/// Whether a byte is a `tchar` (RFC 9110 5.6.2).
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    // A table of 256 has an entry for every byte.
    TOKEN[usize::from(byte)]
}

/// Offset of the first byte that is no `tchar`; letters, digits and hyphens are passed eight at a time.
#[inline]
fn token_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    for word in bytes.as_chunks::<8>().0 {
        let odd = odd_bytes(u64::from_le_bytes(*word));
        from += (odd.trailing_zeros() / 8) as usize;
        if odd != 0 {
            break;
        }
    }
    let rest = bytes.get(from..)?;
    if let [b':' | b' ', ..] = rest {
        return Some(from);
    }
    let found = rest.iter().position(|byte| !is_token_byte(*byte))?;
    Some(from + found)
}

/// The word with this byte in all eight places.
const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

const HIGH_BITS: u64 = every(0x80);

/// Marks the bytes of a word that are no ASCII letter, digit or hyphen.
#[inline]
fn odd_bytes(word: u64) -> u64 {
    // Seven bits and a sum below 256 in each byte: nothing is carried into the next one.
    let at_least = |bytes: u64, low: u8| bytes + every(0x80 - low);
    let low = word & !HIGH_BITS;
    let lower = low | every(0x20);
    let letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1) & at_least(low, b'A');
    let digit = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let hyphen = at_least(low, b'-') & !at_least(low, b'-' + 1);
    (!(letter | digit | hyphen) | word) & HIGH_BITS
}

/// Marks the bytes of a word that are below `LIMIT` or DEL.
#[inline]
fn low_bytes<const LIMIT: u8>(word: u64) -> u64 {
    // One more, in seven bits, brings DEL to zero: then one comparison finds both.
    let turned = ((word & !HIGH_BITS) + every(1)) & !HIGH_BITS;
    !((turned + every(0x7f - LIMIT)) | word) & HIGH_BITS
}

/// Offset of the first byte that is below `LIMIT` or DEL, sixteen bytes at a time.
#[inline]
fn first_below<const LIMIT: u8>(bytes: &[u8]) -> Option<usize> {
    let (pairs, tail) = bytes.as_chunks::<16>();
    for (index, pair) in pairs.iter().enumerate() {
        let pair = u128::from_le_bytes(*pair);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a pair")]
        let (first, second) = (low_bytes::<LIMIT>(pair as u64), low_bytes::<LIMIT>((pair >> 64) as u64));
        if first | second != 0 {
            let marks = u128::from(second) << 64 | u128::from(first);
            return Some(index * 16 + (marks.trailing_zeros() / 8) as usize);
        }
    }
    let found = tail.iter().position(|byte| *byte < LIMIT || *byte == 0x7f)?;
    Some(pairs.len() * 16 + found)
}
