//! Middlewares that send the client elsewhere: Traefik's `redirectScheme` and `redirectRegex`, and the Gateway API's
//! `RequestRedirect`.

use http::header::{HOST, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

use super::path::{PathChange, has_good_escapes, with_path};
use super::{Answer, Client, Verdict, split_host, text};
use crate::rule::Regexp;

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Traefik's `redirectScheme`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedirectScheme {
    /// The new scheme.
    pub scheme: String,
    /// The new port; empty: the scheme's.
    pub port: String,
    /// 301 or 308 instead of 302 or 307.
    pub permanent: bool,
}

/// Traefik's `redirectRegex`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedirectRegex {
    /// What is replaced in the request's URL.
    pub pattern: Regexp,
    /// By what; `$1` stands for a group.
    pub replacement: String,
    /// 301 or 308 instead of 302 or 307.
    pub permanent: bool,
}

/// The Gateway API's `RequestRedirect`.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRedirect {
    /// `http` or `https`; none: the request's.
    pub scheme: Option<String>,
    /// The new host; none: the request's.
    pub hostname: Option<String>,
    /// The new port; none: the scheme's own.
    pub port: Option<u16>,
    /// The new path; none: the request's.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl RedirectScheme {
    /// Lets on what has that scheme already.
    ///
    /// # Errors
    /// The redirect.
    pub fn request(&self, parts: &Parts, client: &Client) -> Verdict {
        let (host, port) = split_host(text(parts, &HOST));
        // A proxy in front may say `ws` of what is HTTP until it is switched.
        let scheme = match text(parts, &X_FORWARDED_PROTO).to_ascii_lowercase().as_str() {
            "http" | "ws" => "http",
            "https" | "wss" => "https",
            _ => scheme_of(client),
        };
        let target = target(&parts.uri);
        let asked = url(scheme, host, if is_usual(scheme, port) { "" } else { port }, target);
        let port = if is_usual(&self.scheme, &self.port) { "" } else { &self.port };
        let wanted = url(&self.scheme, host, port, target);
        if asked == wanted { Ok(()) } else { Err(moved(parts, &wanted, self.permanent)) }
    }
}

impl RedirectRegex {
    /// Lets on what does not match.
    ///
    /// # Errors
    /// The redirect, or the refusal of what is none.
    pub fn request(&self, parts: &Parts, client: &Client) -> Verdict {
        let asked = url(scheme_of(client), text(parts, &HOST), "", target(&parts.uri));
        match self.pattern.replace_all(&asked, &self.replacement) {
            Some(wanted) if wanted != asked => Err(moved(parts, &wanted, self.permanent)),
            _ => Ok(()),
        }
    }
}

impl RequestRedirect {
    /// Sends every request elsewhere.
    ///
    /// # Errors
    /// The redirect.
    pub fn request(&self, parts: &Parts, client: &Client) -> Verdict {
        let scheme = self.scheme.as_deref().unwrap_or_else(|| scheme_of(client));
        let (asked, _) = split_host(text(parts, &HOST));
        let host = self.hostname.as_deref().unwrap_or(asked);
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let port = if is_usual(scheme, &port) { "" } else { &port };
        let changed = self.path.as_ref().and_then(|change| with_path(&parts.uri, &change.of(parts.uri.path())));
        let location = url(scheme, host, port, target(changed.as_ref().unwrap_or(&parts.uri)));
        Err(at(self.status, &location))
    }
}

fn scheme_of(client: &Client) -> &'static str {
    if client.https { "https" } else { "http" }
}

fn is_usual(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", "80") | ("https", "443"))
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

fn url(scheme: &str, host: &str, port: &str, target: &str) -> String {
    let colon = if port.is_empty() { "" } else { ":" };
    format!("{scheme}://{host}{colon}{port}{target}")
}

/// As in Traefik, methods other than GET keep theirs.
fn moved(parts: &Parts, location: &str, permanent: bool) -> Box<Answer> {
    let status = match (permanent, parts.method == Method::GET) {
        (false, true) => StatusCode::FOUND,
        (false, false) => StatusCode::TEMPORARY_REDIRECT,
        (true, true) => StatusCode::MOVED_PERMANENTLY,
        (true, false) => StatusCode::PERMANENT_REDIRECT,
    };
    at(status, location)
}

/// Says where it is; a place that is none is a bad gateway's, as in Traefik.
fn at(status: StatusCode, location: &str) -> Box<Answer> {
    match checked(location) {
        Some(location) => {
            let mut answer = Answer::status(status);
            answer.headers.insert(LOCATION, location);
            answer
        }
        None => Answer::status(StatusCode::BAD_GATEWAY),
    }
}

/// A URL as a header can hold it, if it is one by Go's measure: no control characters, no bad escapes, none in its host.
fn checked(location: &str) -> Option<HeaderValue> {
    let behind = location.split_once("://").map_or("", |(_, behind)| behind);
    let host = behind.split(['/', '?', '#']).next().unwrap_or_default();
    let path = location.split(['?', '#']).next().unwrap_or_default();
    if host.contains('%') || location.bytes().any(|byte| byte.is_ascii_control()) || !has_good_escapes(path) {
        return None;
    }
    if location.bytes().all(|byte| byte.is_ascii_graphic()) {
        return HeaderValue::from_str(location).ok();
    }
    let mut encoded = String::with_capacity(location.len() + 16);
    for byte in location.bytes() {
        if byte.is_ascii_graphic() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::{PLAIN, TLS, parts};

    /// Status and place; `None` where the request goes on.
    fn outcome(verdict: Verdict) -> Option<(u16, String)> {
        let answer = verdict.err()?;
        let location = answer.headers.get(LOCATION).map_or("", |value| value.to_str().unwrap());
        Some((answer.status.as_u16(), location.to_owned()))
    }

    fn check(verdict: Verdict, expected: Option<(u16, &str)>, case: &str) {
        assert_eq!(outcome(verdict), expected.map(|(status, location)| (status, location.to_owned())), "{case}");
    }

    #[test]
    fn schemes_are_redirected_as_in_traefik() {
        let to = |scheme: &str, port: &str, permanent| RedirectScheme {
            scheme: scheme.to_owned(),
            port: port.to_owned(),
            permanent,
        };
        for (redirect, client, host, proto, expected) in [
            (to("https", "", false), PLAIN, "foo", "", Some((302, "https://foo/x?y"))),
            (to("https", "", false), PLAIN, "foo", "http", Some((302, "https://foo/x?y"))),
            (to("https", "", false), PLAIN, "foo", "https", None),
            (to("https", "", false), PLAIN, "foo", "bar", Some((302, "https://foo/x?y"))),
            (to("https", "", false), PLAIN, "foo", "ws", Some((302, "https://foo/x?y"))),
            (to("https", "", false), PLAIN, "foo", "WSS", None),
            (to("https", "", false), TLS, "foo", "", None),
            (to("https", "", false), PLAIN, "foo:8080", "", Some((302, "https://foo/x?y"))),
            (to("https", "8443", false), PLAIN, "foo", "", Some((302, "https://foo:8443/x?y"))),
            (to("https", "8443", false), PLAIN, "foo:8000", "", Some((302, "https://foo:8443/x?y"))),
            (to("https", "8443", false), TLS, "foo:8000", "", Some((302, "https://foo:8443/x?y"))),
            (to("https", "", false), TLS, "foo:8000", "", Some((302, "https://foo/x?y"))),
            (to("https", "", false), TLS, "foo:443", "", None),
            (to("https", "", false), TLS, "foo:80", "", Some((302, "https://foo/x?y"))),
            (to("https", "8443", true), PLAIN, "foo", "", Some((301, "https://foo:8443/x?y"))),
            (to("http", "80", false), PLAIN, "foo:80", "", None),
            (to("https", "443", false), TLS, "foo:443", "", None),
            (to("wss", "9443", false), PLAIN, "foo", "", Some((302, "wss://foo:9443/x?y"))),
            (to("wss", "", false), PLAIN, "foo:5678", "", Some((302, "wss://foo/x?y"))),
            (to("https", "", false), PLAIN, "foo:443", "", Some((302, "https://foo/x?y"))),
            (to("http", "8181", false), PLAIN, "foo:8080", "", Some((302, "http://foo:8181/x?y"))),
            (to("https", "", false), PLAIN, "[::1]", "", Some((302, "https://[::1]/x?y"))),
            (to("https", "8443", false), PLAIN, "[::1]:80", "", Some((302, "https://[::1]:8443/x?y"))),
        ] {
            let parts = parts("GET", "/x?y", &[("host", host), ("x-forwarded-proto", proto)]);
            check(redirect.request(&parts, &client), expected, &format!("{redirect:?} {host} {proto} {client:?}"));
        }
        let post = parts("POST", "/", &[("host", "foo")]);
        check(to("https", "", false).request(&post, &PLAIN), Some((307, "https://foo/")), "POST");
        check(to("https", "", true).request(&post, &PLAIN), Some((308, "https://foo/")), "POST, permanent");
    }

    #[test]
    fn urls_are_redirected_by_pattern_as_in_traefik() {
        const FOO: &str = r"^(?:http?:\/\/)(foo)(\.com)(:\d+)(.*)$";
        const WWW: &str = "(https?)://[^/:]+(:[0-9]+)?/(.*)";
        for (pattern, replacement, permanent, client, method, host, expected) in [
            (
                FOO,
                "https://${1}bar$2:443$4",
                false,
                PLAIN,
                "GET",
                "foo.com:80",
                Some((302, "https://foobar.com:443/p")),
            ),
            (FOO, "https://${1}bar$2:443$4", false, PLAIN, "GET", "bar.com:80", None),
            ("^(.*)$", "http://192.168.0.%31/", false, PLAIN, "GET", "foo.com:80", Some((502, ""))),
            ("^http://", "https://$1", true, PLAIN, "GET", "foo", Some((301, "https://foo/p"))),
            ("https://foo", "http://foo", true, TLS, "GET", "foo", Some((301, "http://foo/p"))),
            ("http://foo:80", "https://foo:443", false, PLAIN, "GET", "foo:80", Some((302, "https://foo:443/p"))),
            ("^http://", "https://$1", false, PLAIN, "POST", "foo", Some((307, "https://foo/p"))),
            ("^http://", "https://$1", true, PLAIN, "POST", "foo", Some((308, "https://foo/p"))),
            (WWW, "$1://example.com$2/$3", true, PLAIN, "GET", "www.example.com", Some((301, "http://example.com/p"))),
            (WWW, "$1://example.com$2/$3", true, TLS, "GET", "www.a:8080", Some((301, "https://example.com:8080/p"))),
            (WWW, "$1://example.com$2/$3", true, PLAIN, "GET", "example.com", None),
            ("/p$", "/a b\u{e9}", false, PLAIN, "GET", "foo", Some((302, "http://foo/a%20b%C3%A9"))),
            ("/p$", "/a\n", false, PLAIN, "GET", "foo", Some((502, ""))),
        ] {
            let redirect = RedirectRegex {
                pattern: Regexp::parse(pattern).unwrap(),
                replacement: replacement.to_owned(),
                permanent,
            };
            let parts = parts(method, "/p", &[("host", host), ("x-forwarded-proto", "https")]);
            check(redirect.request(&parts, &client), expected, &format!("{pattern} {host} {method}"));
        }
    }

    #[test]
    fn requests_are_redirected_as_the_gateway_api_says() {
        let prefix =
            |prefix: &str, with: &str| Some(PathChange::Prefix { prefix: prefix.to_owned(), with: with.to_owned() });
        let to = |scheme: Option<&str>, hostname: Option<&str>, port, path| RequestRedirect {
            scheme: scheme.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            port,
            path,
            status: StatusCode::FOUND,
        };
        let full = |path: &str| Some(PathChange::Full(path.to_owned()));
        for (redirect, client, target, expected) in [
            (to(None, None, None, full("/baz")), PLAIN, "/foo/bar?q", "http://foo.com/baz?q"),
            (to(None, None, Some(80), full("/baz/")), PLAIN, "/foo", "http://foo.com/baz/"),
            (to(None, Some("bar.com"), None, None), PLAIN, "/foo/", "http://bar.com/foo/"),
            (to(None, Some("bar.com"), None, None), TLS, "/foo/", "https://bar.com/foo/"),
            (to(None, Some("bar.com"), Some(443), None), TLS, "/foo/", "https://bar.com/foo/"),
            (to(None, Some("bar.com"), Some(8443), None), TLS, "/foo/", "https://bar.com:8443/foo/"),
            (to(Some("https"), None, None, None), PLAIN, "/", "https://foo.com/"),
            (to(Some("http"), None, None, None), TLS, "/", "http://foo.com/"),
            (to(Some("https"), None, Some(443), None), PLAIN, "/", "https://foo.com/"),
            (to(Some("http"), None, Some(443), None), PLAIN, "/", "http://foo.com:443/"),
            (to(None, None, Some(8083), None), PLAIN, "/", "http://foo.com:8083/"),
            (to(None, None, Some(80), prefix("/foo", "/baz")), PLAIN, "/foo/bar/", "http://foo.com/baz/bar/"),
            (to(None, None, Some(80), prefix("/foo/", "baz")), PLAIN, "/foo/bar", "http://foo.com/baz/bar"),
        ] {
            let parts = parts("GET", target, &[("host", "foo.com:8000")]);
            check(redirect.request(&parts, &client), Some((302, expected)), &format!("{redirect:?}"));
        }
        for status in [301, 302, 303, 307, 308] {
            let status = StatusCode::from_u16(status).unwrap();
            let redirect = RequestRedirect { status, ..to(Some("https"), None, None, None) };
            let got = outcome(redirect.request(&parts("POST", "/", &[("host", "a")]), &PLAIN)).unwrap();
            assert_eq!(got, (status.as_u16(), "https://a/".to_owned()));
        }
    }
}
