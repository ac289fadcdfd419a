//! One spelling per path, so that the route decided on and the path forwarded agree: percent-encoded unreserved
//! characters are decoded (RFC 3986, 6.2.2.2), dot segments and doubled slashes removed, as Traefik does by default
//! (`sanitizePath`); without it only the former, as Traefik does then. Reserved characters keep their encoding: `%2f`
//! never becomes a slash.

use std::borrow::Cow;

/// The path in its one spelling; borrowed when it has it already, which a scan without copies finds out.
#[must_use]
pub fn sanitize(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let plain = bytes.first() == Some(&b'/')
        && memchr::memchr(b'%', bytes).is_none()
        && memchr::memchr_iter(b'/', bytes).all(|at| !matches!(bytes.get(at + 1), Some(b'/' | b'.')));
    // `*` (OPTIONS) has no segments.
    if plain || bytes.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let cleaned = clean(&decoded);
    if cleaned == path { Cow::Borrowed(path) } else { Cow::Owned(cleaned) }
}

/// The path with its segments as they came: for entry points that say `sanitizePath: false`.
#[must_use]
pub fn normalize(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    if decoded == path { Cow::Borrowed(path) } else { Cow::Owned(decoded) }
}

fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let decoded = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Removes empty, `.` and `..` segments; a path that ended in a slash, or in a dot segment, still ends in one.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut last = "";
    for segment in path.split('/') {
        last = segment;
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() || matches!(last, "" | "." | "..") {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_spelling() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/api/%2e%2e/admin", "/admin"),
            ("/api/%2E./admin", "/admin"),
            ("/%61bc", "/abc"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/a%20b", "/a%20b"),
            ("/%zz%", "/%zz%"),
            ("/.hidden", "/.hidden"),
            ("/a/...", "/a/..."),
            ("*", "*"),
        ] {
            assert_eq!(sanitize(path), expected, "{path}");
            assert_eq!(sanitize(expected), expected, "{path}: a second time changes nothing");
        }
    }

    #[test]
    fn unsanitized_paths_keep_their_segments() {
        for (path, expected) in [
            ("/a//b/./../c", "/a//b/./../c"),
            ("/api/%2e%2E/admin", "/api/../admin"),
            ("/%61/b%2f%5C", "/a/b%2f%5C"),
            ("/%zz%", "/%zz%"),
            ("*", "*"),
        ] {
            assert_eq!(normalize(path), expected, "{path}");
            assert_eq!(normalize(expected), expected, "{path}: a second time changes nothing");
        }
    }

    #[test]
    fn clean_paths_are_not_copied() {
        assert!(matches!(sanitize("/dispatch/a.b"), Cow::Borrowed(_)));
        assert!(matches!(normalize("/a%2fb//c"), Cow::Borrowed(_)));
    }
}
