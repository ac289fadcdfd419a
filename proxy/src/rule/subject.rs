//! A request as rules see it: host without port and case, path with its needless escapes undone. Borrows; a path with
//! escapes and an absurdly long host with capitals are the only ones that allocate.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;

/// What rules may ask of a request, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method as it came.
    pub method: &'a str,
    /// The Host as it came, perhaps with a port; empty where there is none.
    pub host: &'a str,
    /// The path as it came, escapes included.
    pub path: &'a str,
    /// The query without its `?`; empty where there is none.
    pub query: &'a str,
    /// The fields; `Host` is not asked for here.
    pub headers: &'a HeaderMap,
    /// The peer's address.
    pub client_ip: IpAddr,
}

/// A request whose host and path are in the form that rules compare with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) method: &'a str,
    /// Lower case, without port and brackets: what HostRegexp sees.
    pub(crate) host: &'a str,
    /// `host` without the root's dot: what Host compares with.
    pub(crate) name: &'a str,
    pub(crate) path: &'a [u8],
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) client_ip: IpAddr,
}

/// Owner of what [`Subject`] borrows and [`RequestView`] does not have.
pub(crate) struct Canonical<'a> {
    host: Lower<'a>,
    path: Cow<'a, [u8]>,
}

/// Lower-case text.
#[expect(clippy::large_enum_variant, reason = "it lives on the stack of one call; a box would be the allocation saved")]
enum Lower<'a> {
    /// It was lower case already.
    As(&'a str),
    /// Names in DNS have at most 253 characters.
    Short { bytes: [u8; 256], length: usize },
    /// Others are worth an allocation.
    Long(String),
}

impl<'a> Canonical<'a> {
    pub(crate) fn new(request: &RequestView<'a>) -> Self {
        Self { host: Lower::new(without_port(request.host.trim_ascii())), path: routing_path(request.path) }
    }

    pub(crate) fn subject(&'a self, request: &RequestView<'a>) -> Subject<'a> {
        let host = self.host.as_str();
        Subject {
            method: request.method,
            host,
            name: host.strip_suffix('.').unwrap_or(host),
            path: &self.path,
            query: request.query,
            headers: request.headers,
            client_ip: request.client_ip.to_canonical(),
        }
    }
}

impl<'a> Lower<'a> {
    fn new(text: &'a str) -> Self {
        if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Self::As(text);
        }
        let mut bytes = [0; 256];
        match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                room.make_ascii_lowercase();
                Self::Short { bytes, length: text.len() }
            }
            None => Self::Long(text.to_ascii_lowercase()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::As(text) => text,
            // Only ASCII letters were changed, so this is text.
            Self::Short { bytes, length } => {
                bytes.get(..*length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

/// The host of `host`, `host:port`, `[v6]` and `[v6]:port`; anything stranger stays whole, as in Go's SplitHostPort, and
/// so matches no name.
fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, port)) if port.is_empty() || is_port(port) => host,
            _ => authority,
        };
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') && !host.contains(']') => host,
        _ => authority,
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| !port.contains([':', '[', ']']))
}

/// The path for matching: escapes of unreserved characters undone, those of reserved ones (RFC 3986, 2.2, and `%`) kept,
/// in upper case, since undoing them would change the path's meaning. A broken escape stays as it is.
pub(crate) fn routing_path(path: &str) -> Cow<'_, [u8]> {
    let bytes = path.as_bytes();
    let Some(first) = memchr::memchr(b'%', bytes) else { return Cow::Borrowed(bytes) };
    let (plain, mut rest) = bytes.split_at(first);
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(plain);
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, escaped(after)) {
            (b'%', Some((value, after))) => {
                if is_reserved(value) {
                    out.extend_from_slice(&[b'%', upper_hex(value >> 4), upper_hex(value & 15)]);
                } else {
                    out.push(value);
                }
                after
            }
            _ => {
                out.push(*byte);
                after
            }
        };
    }
    Cow::Owned(out)
}

/// The byte behind a `%` whose two hex digits `text` begins with.
pub(super) fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = text.split_first_chunk()?;
    Some((hex_digit(*high)? << 4 | hex_digit(*low)?, rest))
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn upper_hex(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'A' + value - 10 }
}

fn is_reserved(byte: u8) -> bool {
    b":/?#[]@!$&'()*+,;=%".contains(&byte)
}
