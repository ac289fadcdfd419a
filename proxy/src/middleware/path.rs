//! Middlewares that change a request's path. Paths are kept as they are spelt, percent-encoded; a prefix is compared with
//! what the spelling means. What comes out begins with a slash, and holds nothing that a server could read as another path
//! than the one that its route was found for: such a request is refused.

use std::borrow::Cow;

use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};

use super::{Answer, Verdict};
use crate::rule::Regexp;

static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
static X_REPLACED_PATH: HeaderName = HeaderName::from_static("x-replaced-path");

/// Traefik's `stripPrefix`.
#[derive(Debug, Clone, PartialEq)]
pub struct StripPrefix {
    /// The first that the path begins with is taken off.
    pub prefixes: Vec<String>,
}

/// Traefik's `stripPrefixRegex`.
#[derive(Debug, Clone, PartialEq)]
pub struct StripPrefixRegex {
    /// What the first of them finds is taken off, where the path begins with it.
    pub patterns: Vec<Regexp>,
}

/// Traefik's `addPrefix`.
#[derive(Debug, Clone, PartialEq)]
pub struct AddPrefix {
    /// [`as_path`] of what is put in front.
    pub prefix: String,
}

/// Traefik's `replacePath`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplacePath {
    /// [`as_path`] of the new path.
    pub path: String,
}

/// Traefik's `replacePathRegex`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplacePathRegex {
    /// What is replaced.
    pub pattern: Regexp,
    /// By what; `$1` stands for a group.
    pub replacement: String,
}

/// The Gateway API's `URLRewrite`.
#[derive(Debug, Clone, PartialEq)]
pub struct UrlRewrite {
    /// The new `Host`.
    pub hostname: Option<HeaderValue>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// The Gateway API's `HTTPPathModifier`.
#[derive(Debug, Clone, PartialEq)]
pub enum PathChange {
    /// `ReplaceFullPath`: [`as_path`] of the new one.
    Full(String),
    /// `ReplacePrefixMatch`.
    Prefix {
        /// What the route's match says, without the encoding.
        prefix: String,
        /// [`as_path`] of what comes in its place.
        with: String,
    },
}

impl StripPrefix {
    /// Takes the prefix off.
    ///
    /// # Errors
    /// What is left is refused.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        let path = parts.uri.path();
        let found = self.prefixes.iter().find_map(|prefix| Some((prefix, path.get(spelled(path, prefix)?..)?)));
        let Some((prefix, rest)) = found else { return Ok(()) };
        let rest = slashed(rest).into_owned();
        strip(parts, prefix, &rest)
    }
}

impl StripPrefixRegex {
    /// Takes off what is found.
    ///
    /// # Errors
    /// What is left is refused.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        let path = parts.uri.path();
        let meant = decoded(path);
        let prefixes = self.patterns.iter().filter_map(|pattern| pattern.find(&meant));
        let found = prefixes.filter(|prefix| !prefix.is_empty() && meant.starts_with(prefix)).find_map(|prefix| {
            let rest = path.get(spelled(path, prefix)?..)?;
            Some((prefix.to_owned(), slashed(rest).into_owned()))
        });
        let Some((prefix, rest)) = found else { return Ok(()) };
        strip(parts, &prefix, &rest)
    }
}

fn strip(parts: &mut Parts, prefix: &str, rest: &str) -> Verdict {
    set(parts, rest)?;
    // A prefix with bytes that no header may hold goes in its encoded spelling.
    let value = HeaderValue::from_str(prefix).or_else(|_| HeaderValue::from_str(&as_path(prefix)));
    if let Ok(value) = value {
        // A trusted proxy in front may have taken off one of its own.
        parts.headers.append(&X_FORWARDED_PREFIX, value);
    }
    Ok(())
}

impl AddPrefix {
    /// Puts the prefix in front.
    ///
    /// # Errors
    /// What comes out is no target.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        let path = format!("{}{}", self.prefix, parts.uri.path());
        let path = slashed(&path).into_owned();
        put(parts, &path)
    }
}

impl ReplacePath {
    /// Replaces the path.
    ///
    /// # Errors
    /// It is no target.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        keep_replaced(parts);
        put(parts, &slashed(&self.path))
    }
}

impl ReplacePathRegex {
    /// Replaces what is found.
    ///
    /// # Errors
    /// What comes out is refused.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        let Some(path) = self.pattern.replace_all(parts.uri.path(), &self.replacement) else { return Ok(()) };
        if !has_good_escapes(&path) {
            return Err(Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "invalid URL escape\n"));
        }
        keep_replaced(parts);
        let path = as_path(&path);
        set(parts, &slashed(&path))
    }
}

/// `X-Replaced-Path` says what was there, and only we say it.
fn keep_replaced(parts: &mut Parts) {
    if let Ok(path) = HeaderValue::from_str(parts.uri.path()) {
        parts.headers.insert(&X_REPLACED_PATH, path);
    }
}

impl UrlRewrite {
    /// Rewrites host and path.
    ///
    /// # Errors
    /// What comes out is refused.
    pub fn request(&self, parts: &mut Parts) -> Verdict {
        match &self.path {
            Some(PathChange::Full(path)) => put(parts, &slashed(path))?,
            Some(change) => {
                let path = change.of(parts.uri.path());
                set(parts, &path)?;
            }
            None => {}
        }
        if let Some(hostname) = &self.hostname {
            parts.headers.insert(HOST, hostname.clone());
        }
        Ok(())
    }
}

impl PathChange {
    /// The path that comes out.
    pub(super) fn of(&self, path: &str) -> String {
        match self {
            Self::Full(path) => slashed(path).into_owned(),
            Self::Prefix { prefix, with } => {
                // Whole segments count, and a slash at the prefix's end does not.
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                let rest = spelled(path, prefix).and_then(|length| path.get(length..));
                let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
                    return slashed(path).into_owned();
                };
                let stem = with.strip_suffix('/').unwrap_or(with);
                slashed(&format!("{stem}{rest}")).into_owned()
            }
        }
    }
}

/// Sets a path that was made from the request's, unless a server could read it as another.
fn set(parts: &mut Parts, path: &str) -> Verdict {
    if !is_plain(path) {
        return Err(refused());
    }
    put(parts, path)
}

/// Sets a path; the query stays.
fn put(parts: &mut Parts, path: &str) -> Verdict {
    parts.uri = with_path(&parts.uri, path).ok_or_else(refused)?;
    Ok(())
}

fn refused() -> Box<Answer> {
    Answer::text(StatusCode::BAD_REQUEST, "Bad Request\n")
}

/// The target with another path.
pub(crate) fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.ok()?);
    Uri::from_parts(parts).ok()
}

/// How many bytes at a path's beginning spell this prefix, encoded or not.
fn spelled(path: &str, prefix: &str) -> Option<usize> {
    let mut at = 0;
    for wanted in prefix.bytes() {
        let (byte, length) = byte_at(path.as_bytes(), at)?;
        if byte != wanted {
            return None;
        }
        at += length;
    }
    Some(at)
}

/// What a place of a path means, and how many bytes spell it.
fn byte_at(path: &[u8], at: usize) -> Option<(u8, usize)> {
    let byte = *path.get(at)?;
    match (byte, path.get(at + 1..at + 3).and_then(hex)) {
        (b'%', Some(meant)) => Some((meant, 3)),
        _ => Some((byte, 1)),
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match digits {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

fn decoded_bytes(path: &str) -> Vec<u8> {
    let mut meant = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some((byte, length)) = byte_at(path.as_bytes(), at) {
        meant.push(byte);
        at += length;
    }
    meant
}

/// What a path means; bytes that are no UTF-8 become U+FFFD.
fn decoded(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let meant = String::from_utf8(decoded_bytes(path));
    Cow::Owned(meant.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn slashed(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) }
}

/// Whether every server reads a path alike: no empty segments, and none that are `.` or `..` to one that decodes first,
/// takes a backslash for a slash, or cuts parameters off (`..;x`).
fn is_plain(path: &str) -> bool {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return false;
        }
    }
    let climbs = |segment: &[u8]| matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."));
    !decoded_bytes(path).split(|byte| matches!(byte, b'/' | b'\\')).any(climbs)
}

/// Whether each `%` has two digits.
#[must_use]
pub fn has_good_escapes(path: &str) -> bool {
    memchr::memchr_iter(b'%', path.as_bytes()).all(|at| path.as_bytes().get(at + 1..at + 3).and_then(hex).is_some())
}

/// A text as a path can hold it: what may not stand there is percent-encoded, what is encoded stays.
#[must_use]
pub fn as_path(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        // RFC 3986, 3.3: pchar and the slash.
        let may_stand = byte.is_ascii_alphanumeric()
            || b"-._~!$&'()*+,;=:@/".contains(&byte)
            || (byte == b'%' && text.as_bytes().get(at + 1..at + 3).and_then(hex).is_some());
        if may_stand {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.extend(
                [byte >> 4, byte & 15]
                    .map(|half| char::from_digit(half.into(), 16).unwrap_or('0').to_ascii_uppercase()),
            );
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::middleware::tests::parts;

    /// The target that comes out with that header, or the status of the refusal.
    fn check(
        run: impl Fn(&mut Parts) -> Verdict,
        target: &str,
        header: &HeaderName,
        expected: Result<(&str, &str), u16>,
    ) {
        let mut parts = parts("GET", target, &[]);
        let got = match run(&mut parts) {
            Ok(()) => {
                let value = parts.headers.get(header).map_or("", |value| value.to_str().unwrap());
                Ok((parts.uri.to_string(), value.to_owned()))
            }
            Err(answer) => Err(answer.status.as_u16()),
        };
        let expected = expected.map(|(target, value)| (target.to_owned(), value.to_owned()));
        assert_eq!(got, expected, "{target}");
    }

    #[test]
    fn prefixes_are_stripped_as_in_traefik() {
        for (prefixes, target, expected) in [
            (&[][..], "/noprefixes", Ok(("/noprefixes", ""))),
            (&["/"], "/", Ok(("/", "/"))),
            (&["/stat"], "/stat", Ok(("/", "/stat"))),
            (&["/stat/"], "/stat/", Ok(("/", "/stat/"))),
            (&["/stat/"], "/stat/us?a=/b", Ok(("/us?a=/b", "/stat/"))),
            (&["/stat/"], "/status", Ok(("/status", ""))),
            (&["/stat"], "/stat/", Ok(("/", "/stat"))),
            (&["/stat", "/stat/us"], "/stat/us", Ok(("/us", "/stat"))),
            (&["/mismatch", "/stat"], "/stat", Ok(("/", "/stat"))),
            (&["/stat"], "/status", Ok(("/us", "/stat"))),
            (&["/stat"], "/stat/a%2Fb", Ok(("/a%2Fb", "/stat"))),
            (&["/api/"], "/ap%69/a%2Fb", Ok(("/a%2Fb", "/api/"))),
            (&["/t /x"], "/t%20/x/y", Ok(("/y", "/t /x"))),
            (&["/\n"], "/%0a/y", Ok(("/y", "/%0A"))),
            (&["/api"], "/api./foo", Err(400)),
            (&["/api"], "/api../foo", Err(400)),
            (&["/api"], "/api%2e%2e/foo", Err(400)),
            (&["/api"], "/api..%2fadmin", Err(400)),
            (&["/api"], "/api..%5cadmin", Err(400)),
            (&["/api"], "/api/..;/admin", Err(400)),
            (&["/api"], "/api/x/..", Err(400)),
            (&["/api"], "/api//admin", Err(400)),
            (&["/api"], "/api/...", Ok(("/...", "/api"))),
        ] {
            let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            let strip = StripPrefix { prefixes };
            check(|parts| strip.request(parts), target, &X_FORWARDED_PREFIX, expected);
        }
    }

    #[test]
    fn prefixes_by_pattern_are_stripped_as_in_traefik() {
        for (pattern, target, expected) in [
            ("/a/api/", "/a/test/", Ok(("/a/test/", ""))),
            ("/a/api/", "/a/api/", Ok(("/", "/a/api/"))),
            ("/a/api/", "/a/api/test/", Ok(("/test/", "/a/api/"))),
            ("/b/([a-z0-9]+)/", "/b/api", Ok(("/b/api", ""))),
            ("/b/([a-z0-9]+)/", "/b/api2/test2", Ok(("/test2", "/b/api2/"))),
            ("/c/[a-z0-9]+/[0-9]+/", "/c/api/123/test3", Ok(("/test3", "/c/api/123/"))),
            ("/c/[a-z0-9]+/[0-9]+/", "/c/api/abc/test4", Ok(("/c/api/abc/test4", ""))),
            ("/b/([a-z0-9]+)/", "/b/ap%69/a%2Fb", Ok(("/a%2Fb", "/b/api/"))),
            ("/t /test", "/t%2F/test/foo", Ok(("/t%2F/test/foo", ""))),
            ("/t /test", "/t%20/test/a%2Fb", Ok(("/a%2Fb", "/t /test"))),
            ("/x", "/a/x/b", Ok(("/a/x/b", ""))),
            ("x*", "/a", Ok(("/a", ""))),
            ("/api", "/api./foo", Err(400)),
            ("/api", "/api../foo", Err(400)),
        ] {
            let strip = StripPrefixRegex { patterns: vec![Regexp::parse(pattern).unwrap()] };
            check(|parts| strip.request(parts), target, &X_FORWARDED_PREFIX, expected);
        }
    }

    #[test]
    fn prefixes_are_added_and_paths_replaced_as_in_traefik() {
        for (prefix, target, expected) in
            [("/a", "/b", "/a/b"), ("a", "/", "/a/"), ("/a", "/b%2Fc?d", "/a/b%2Fc?d"), ("/a b?", "/c", "/a%20b%3F/c")]
        {
            let add = AddPrefix { prefix: as_path(prefix) };
            check(|parts| add.request(parts), target, &X_REPLACED_PATH, Ok((expected, "")));
        }
        for (path, target, expected, old) in [
            ("/replacement-path", "/example?q", "/replacement-path?q", "/example"),
            ("/replacement-path", "/foo%2Fbar", "/replacement-path", "/foo%2Fbar"),
            ("/foo%2Fbar", "/path", "/foo%2Fbar", "/path"),
            ("/path/%08bar", "/path/%08bar", "/path/%08bar", "/path/%08bar"),
            ("no-slash", "/", "/no-slash", "/"),
        ] {
            let replace = ReplacePath { path: as_path(path) };
            check(|parts| replace.request(parts), target, &X_REPLACED_PATH, Ok((expected, old)));
        }
    }

    #[test]
    fn paths_are_replaced_by_pattern_as_in_traefik() {
        for (pattern, replacement, target, expected) in [
            ("/whoami/(.*)", "/who-am-i/$1", "/whoami/and/whoami", Ok(("/who-am-i/and/whoami", "/whoami/and/whoami"))),
            ("/whoami", "/who-am-i", "/whoami/and/whoami", Ok(("/who-am-i/and/who-am-i", "/whoami/and/whoami"))),
            ("/whoami", "", "/whoami/and/whoami", Ok(("/and", "/whoami/and/whoami"))),
            ("/no-match", "/whoami", "/whoami/and", Ok(("/whoami/and", ""))),
            (
                "^(?i)/downloads/([^/]+)/([^/]+)$",
                "/downloads/$1-$2",
                "/downloads/src/source.go",
                Ok(("/downloads/src-source.go", "/downloads/src/source.go")),
            ),
            ("/aaa/bbb", "/foo%2Fbar", "/aaa/bbb", Ok(("/foo%2Fbar", "/aaa/bbb"))),
            ("/aaa%2Fbbb", "/foo/bar", "/aaa%2Fbbb", Ok(("/foo/bar", "/aaa%2Fbbb"))),
            ("/aaa/bbb", "/foo/bar", "/aaa%2Fbbb", Ok(("/aaa%2Fbbb", ""))),
            ("^/foo/(.*)", "/$1", "/foo/%08bar", Ok(("/%08bar", "/foo/%08bar"))),
            ("^/foo(.*)", "/$1", "/foo../bar", Err(400)),
            ("^/foo(.*)", "/%zz$1", "/foo", Err(500)),
            ("^/foo$", "", "/foo", Ok(("/", "/foo"))),
        ] {
            let replace =
                ReplacePathRegex { pattern: Regexp::parse(pattern).unwrap(), replacement: replacement.to_owned() };
            check(|parts| replace.request(parts), target, &X_REPLACED_PATH, expected);
        }
    }

    #[test]
    fn a_client_cannot_say_what_path_was_replaced() {
        let mut parts = parts("GET", "/a", &[("x-replaced-path", "/forged")]);
        ReplacePath { path: "/b".to_owned() }.request(&mut parts).unwrap();
        let said: Vec<_> = parts.headers.get_all(&X_REPLACED_PATH).iter().collect();
        assert_eq!(said, ["/a"]);
    }

    /// The table of the Gateway API's `HTTPPathModifier.replacePrefixMatch`, and what it leaves to reason.
    #[test]
    fn matched_prefixes_are_replaced_as_the_gateway_api_says() {
        for (path, prefix, with, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/foo/", "/xyz", "/xyz"),
            ("/f%6Fo/b%2Fr", "/foo", "/xyz", "/xyz/b%2Fr"),
            ("/foobar", "/foo", "/xyz", "/foobar"),
            ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
        ] {
            let change = PathChange::Prefix { prefix: prefix.to_owned(), with: with.to_owned() };
            assert_eq!(change.of(path), expected, "{path} {prefix} {with}");
        }
    }

    #[test]
    fn host_and_path_are_rewritten() {
        let mut parts = parts("GET", "/foo/?q", &[("host", "foo.com")]);
        let hostname = Some(HeaderValue::from_static("bar.com"));
        UrlRewrite { hostname, path: Some(PathChange::Full("/baz/".to_owned())) }.request(&mut parts).unwrap();
        assert_eq!((parts.uri.to_string().as_str(), &parts.headers[HOST]), ("/baz/?q", &"bar.com".parse().unwrap()));
    }

    proptest! {
        /// Whatever a client asks for and an operator writes: no panic, and a target that begins with a slash or a refusal.
        #[test]
        fn rewritten_paths_begin_with_a_slash_and_are_plain(
            path in "(/|%2[efEF5]|%[0-9a-f]{2}|[.]|[a-z;\\\\%]){0,12}", prefix in "(/|[.]|[a-z%é ?#\\\\]){0,6}", query in "[?]?[a-z=/.]{0,6}",
        ) {
            let Ok(uri) = format!("/{path}{query}").parse::<Uri>() else { return Ok(()) };
            let pattern = Regexp::parse(&regex::escape(&prefix)).unwrap();
            let made: [&dyn Fn(&mut Parts) -> Verdict; 4] = [
                &|parts| StripPrefix { prefixes: vec![prefix.clone()] }.request(parts),
                &|parts| StripPrefixRegex { patterns: vec![pattern.clone()] }.request(parts),
                &|parts| ReplacePathRegex { pattern: pattern.clone(), replacement: String::new() }.request(parts),
                &|parts| {
                    let path = PathChange::Prefix { prefix: prefix.clone(), with: as_path(&prefix) };
                    UrlRewrite { hostname: None, path: Some(path) }.request(parts)
                },
            ];
            for run in made {
                let mut parts = parts("GET", "/", &[]);
                parts.uri = uri.clone();
                let before = uri.clone();
                if run(&mut parts).is_ok() && parts.uri != before {
                    let path = parts.uri.path();
                    prop_assert!(path.starts_with('/') && is_plain(path), "{before} became {path}");
                    prop_assert_eq!(parts.uri.query(), before.query());
                }
            }
            for run in [
                AddPrefix { prefix: as_path(&prefix) }.request(&mut parts("GET", "/x", &[])),
                ReplacePath { path: as_path(&prefix) }.request(&mut parts("GET", "/x", &[])),
            ] {
                prop_assert!(run.is_ok(), "{prefix:?}");
            }
        }
    }
}
