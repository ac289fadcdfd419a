//! What one line of HTTP/1 says: pure functions over bytes that begin at a line's first byte. Whether a message may
//! hold the line is left to [`super`].

use super::Reason;

/// A field line or the empty line that ends a section.
pub(super) enum Line<'a> {
    /// `value` still has its optional whitespace; `length` counts the line's end too.
    Field { name: &'a [u8], value: &'a [u8], length: usize },
    Empty,
    /// No fault so far, but no end either.
    Partial,
    /// Wrong at this offset in the line.
    Bad { offset: usize, reason: Reason },
}

/// A request line or a status line.
pub(super) struct StartLine {
    pub(super) length: usize,
    pub(super) minor: u8,
    pub(super) status: u16,
    pub(super) connect: bool,
}

type Scanned<T> = Result<Option<T>, (usize, Reason)>;

/// Reads a field line.
#[inline]
pub(super) fn field_line(line: &[u8]) -> Line<'_> {
    let Some(colon) = line.iter().position(|byte| !is_token_byte(*byte)) else { return Line::Partial };
    if colon == 0 || line.get(colon) != Some(&b':') {
        return odd_name(line, colon);
    }
    let (name, rest) = line.split_at(colon);
    match text_line(rest) {
        Ok(Some(end)) => match rest.get(1..end) {
            Some(value) => Line::Field { name, value, length: colon + end + 2 },
            None => Line::Partial,
        },
        Ok(None) => Line::Partial,
        Err((offset, reason)) => Line::Bad { offset: colon + offset, reason },
    }
}

/// A line whose name does not end in a colon at `at`: the empty line, or a fault.
#[cold]
fn odd_name(line: &[u8], at: usize) -> Line<'_> {
    let bad = |reason| Line::Bad { offset: at, reason };
    match (line.get(at), line.get(at + 1)) {
        (Some(b'\r'), None) => Line::Partial,
        (Some(b'\r'), Some(b'\n')) if at == 0 => Line::Empty,
        (Some(b'\r'), Some(b'\n')) => bad(Reason::NoColon),
        (Some(b'\r'), Some(_)) => bad(Reason::BareCr),
        (Some(b'\n'), _) => bad(Reason::BareLf),
        (Some(0), _) => bad(Reason::Nul),
        (Some(b':'), _) => bad(Reason::EmptyName),
        (Some(b' ' | b'\t'), _) if at == 0 => bad(Reason::Folded),
        (Some(b' ' | b'\t'), _) => bad(Reason::SpaceBeforeColon),
        _ => bad(Reason::BadName),
    }
}

/// Reads on to the line's end over visible characters, spaces and tabs; the offset of its CR.
#[inline]
fn text_line(line: &[u8]) -> Scanned<usize> {
    let mut from = 0;
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
    let Some(space) = line.iter().position(|byte| !is_token_byte(*byte)) else { return Ok(None) };
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
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
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
    let Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', hundreds, tens, ones, rest @ ..]) = line.get(..end)
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
    let number = text.iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(*digit - b'0')));
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
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte)
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        table[marks[index] as usize] = true;
        index += 1;
    }
    table
};

/// Whether a byte is a `tchar` (RFC 9110 5.6.2).
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    // A table of 256 has an entry for every byte.
    TOKEN[usize::from(byte)]
}

/// Offset of the first byte that is below `LIMIT` or DEL, eight bytes at a time.
#[inline]
fn first_below<const LIMIT: u8>(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const DELS: u64 = u64::from_ne_bytes([0x7f; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let del = word ^ DELS;
        // A borrow can only mark bytes behind a true hit, so the lowest mark is exact.
        let hits = (word.wrapping_sub(ONES * LIMIT as u64) & !word | del.wrapping_sub(ONES) & !del) & HIGHS;
        if hits != 0 {
            return Some(index * 8 + (hits.trailing_zeros() / 8) as usize);
        }
    }
    let found = tail.iter().position(|byte| *byte < LIMIT || *byte == 0x7f)?;
    Some(words.len() * 8 + found)
}
