//! Traefik's `headers` middleware: headers set and removed, cross-origin sharing, and what browsers are told for safety. And
//! the Gateway API's header modifiers, which are simpler.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, STRICT_TRANSPORT_SECURITY, VARY,
};
use http::request::Parts;
use http::{Method, StatusCode};

use super::{Answer, Client, text};
use crate::rule::Regexp;

/// Traefik's `headers`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers {
    /// Set and removed.
    pub custom: HeaderEdits,
    /// `accessControl*`.
    pub cors: Option<Cors>,
    /// What browsers are told, and which hosts are served.
    pub security: Option<Security>,
}

/// An empty value removes the header.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    /// `customRequestHeaders`.
    pub request: Vec<(HeaderName, Option<HeaderValue>)>,
    /// `customResponseHeaders`.
    pub response: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// Cross-origin sharing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cors {
    /// `accessControlAllowCredentials`.
    pub credentials: bool,
    /// `accessControlAllowHeaders`.
    pub headers: Vec<String>,
    /// `accessControlAllowMethods`.
    pub methods: Vec<String>,
    /// `accessControlAllowOriginList`.
    pub origins: Vec<String>,
    /// `accessControlAllowOriginListRegex`.
    pub origin_patterns: Vec<Regexp>,
    /// `accessControlExposeHeaders`.
    pub exposed: Vec<String>,
    /// `accessControlMaxAge`, seconds.
    pub max_age: Option<i64>,
    /// `addVaryHeader`.
    pub vary: bool,
}

/// What browsers are told, and which hosts are served.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Security {
    /// `allowedHosts`; empty: all.
    pub allowed_hosts: Vec<String>,
    /// `hostsProxyHeaders`: the first of them that is there says the host.
    pub host_headers: Vec<HeaderName>,
    /// `sslProxyHeaders`: with one of these, the request came by TLS.
    pub https_headers: Vec<(HeaderName, HeaderValue)>,
    /// `Strict-Transport-Security`.
    pub sts: Option<HeaderValue>,
    /// `forceSTSHeader`: without TLS too.
    pub force_sts: bool,
    /// The others, as they are.
    pub fixed: Vec<(HeaderName, HeaderValue)>,
    /// `isDevelopment`: neither hosts nor `Strict-Transport-Security`.
    pub is_development: bool,
}

/// What the response needs to know of the request.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    origin: Option<HeaderValue>,
    https: bool,
}

impl Asked {
    /// Whether the response would be the same without it.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.origin.is_none() && !self.https
    }
}

impl Headers {
    /// Answers what asks whether another origin may ask, edits the request, refuses other hosts.
    ///
    /// # Errors
    /// The answer.
    pub fn request(&self, parts: &mut Parts, client: &Client) -> Result<Asked, Box<Answer>> {
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(parts)) {
            return Err(answer);
        }
        edit(&mut parts.headers, &self.custom.request);
        let mut asked = Asked::default();
        if self.cors.is_some() {
            asked.origin = parts.headers.get(ORIGIN).cloned();
        }
        if let Some(security) = &self.security {
            if !security.serves(parts) {
                let mut answer = Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "Bad Host\n");
                self.edit_response(&mut answer.headers, &asked);
                return Err(answer);
            }
            asked.https = security.is_https(parts, client);
        }
        Ok(asked)
    }

    /// Edits the response.
    pub fn response(&self, headers: &mut HeaderMap, asked: &Asked) {
        if let Some(security) = &self.security {
            security.response(headers, asked.https);
        }
        self.edit_response(headers, asked);
    }

    fn edit_response(&self, headers: &mut HeaderMap, asked: &Asked) {
        edit(headers, &self.custom.response);
        if let Some(cors) = &self.cors {
            cors.response(headers, asked.origin.as_ref());
        }
    }
}

fn edit(headers: &mut HeaderMap, edits: &[(HeaderName, Option<HeaderValue>)]) {
    for (name, value) in edits {
        match value {
            Some(value) => drop(headers.insert(name, value.clone())),
            None => drop(headers.remove(name)),
        }
    }
}

impl Cors {
    /// The answer to a browser that asks before it asks.
    fn preflight(&self, parts: &Parts) -> Option<Box<Answer>> {
        let (method, origin) = (text(parts, &ACCESS_CONTROL_REQUEST_METHOD), text(parts, &ORIGIN));
        if parts.method != Method::OPTIONS || method.is_empty() || origin.is_empty() {
            return None;
        }
        let mut headers = HeaderMap::new();
        let asked = text(parts, &ACCESS_CONTROL_REQUEST_HEADERS);
        // With credentials browsers take a wildcard for the word.
        let list = |allowed: &[String], asked: &str| match self.credentials && allowed.iter().any(|one| one == "*") {
            true => asked.to_owned(),
            false => allowed.join(","),
        };
        set(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, &list(&self.headers, asked));
        set(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, &list(&self.methods, method));
        set(&mut headers, ACCESS_CONTROL_MAX_AGE, &self.max_age.map_or(String::new(), |age| age.to_string()));
        self.allow(&mut headers, origin);
        Some(Box::new(Answer { status: StatusCode::OK, headers, body: bytes::Bytes::new() }))
    }

    fn response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        self.allow(headers, origin.and_then(|origin| origin.to_str().ok()).unwrap_or_default());
        if !self.vary {
            return;
        }
        let values: Vec<&str> = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok()).collect();
        if values.first() != Some(&"Origin") {
            let values = [values.as_slice(), &["Origin"]].concat().join(",");
            set(headers, VARY, &values);
        }
    }

    fn allow(&self, headers: &mut HeaderMap, origin: &str) {
        set(headers, ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed(origin).unwrap_or_default());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if !(self.credentials && self.exposed.iter().any(|one| one == "*")) {
            set(headers, ACCESS_CONTROL_EXPOSE_HEADERS, &self.exposed.join(","));
        }
    }

    fn allowed<'o>(&self, origin: &'o str) -> Option<&'o str> {
        for one in &self.origins {
            if one == origin {
                return Some(origin);
            }
            if one == "*" {
                return Some(if self.credentials { origin } else { "*" });
            }
        }
        self.origin_patterns.iter().any(|pattern| pattern.is_match(origin)).then_some(origin)
    }
}

/// Sets a header; an empty value says nothing.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

impl Security {
    fn serves(&self, parts: &Parts) -> bool {
        let said = self.host_headers.iter().map(|name| text(parts, name)).find(|host| !host.is_empty());
        let host = said.unwrap_or_else(|| text(parts, &HOST));
        let is_host = |allowed: &String| allowed.eq_ignore_ascii_case(host);
        self.is_development || self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(is_host)
    }

    fn is_https(&self, parts: &Parts, client: &Client) -> bool {
        client.https || self.https_headers.iter().any(|(name, value)| parts.headers.get(name) == Some(value))
    }

    fn response(&self, headers: &mut HeaderMap, https: bool) {
        // RFC 6797, 7.2: not over plain HTTP, where anybody could have set it.
        if let Some(sts) = self.sts.as_ref().filter(|_| (https || self.force_sts) && !self.is_development) {
            headers.insert(STRICT_TRANSPORT_SECURITY, sts.clone());
        }
        for (name, value) in &self.fixed {
            headers.insert(name, value.clone());
        }
    }
}

/// The Gateway API's `RequestHeaderModifier` or `ResponseHeaderModifier`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// In place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Behind what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

impl HeaderModifier {
    /// Edits them.
    pub fn edit(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::{PLAIN, TLS, parts};

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        all.sort();
        all
    }

    fn owned(pairs: Pairs<'_>) -> Vec<(String, String)> {
        let mut all: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.sort();
        all
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    const PREFLIGHT: Pairs<'_> = &[
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "origin, x-a"),
        ("origin", "https://foo.bar.org"),
    ];

    #[test]
    fn preflights_are_answered_as_in_traefik() {
        let origins = |list: &[&str]| Cors { origins: texts(list), max_age: Some(600), ..Cors::default() };
        let methods = |list: &[&str], cors| Cors { methods: texts(list), ..cors };
        let base = ("access-control-max-age", "600");
        let (foo, star) = ("https://foo.bar.org", ("access-control-allow-origin", "*"));
        let allowed = ("access-control-allow-origin", foo);
        let get = ("access-control-allow-methods", "GET,OPTIONS,PUT");
        let credentials = ("access-control-allow-credentials", "true");
        for (cors, want) in [
            (methods(&["GET", "OPTIONS", "PUT"], origins(&[foo])), vec![allowed, get, base]),
            (methods(&["GET", "OPTIONS", "PUT"], origins(&["*"])), vec![star, get, base]),
            (methods(&["GET", "OPTIONS", "PUT"], origins(&[])), vec![get, base]),
            (origins(&["https://else.org"]), vec![base]),
            (Cors { credentials: true, ..origins(&["*"]) }, vec![allowed, credentials, base]),
            (
                Cors { headers: texts(&["origin", "X-Forwarded-For"]), ..origins(&["*"]) },
                vec![star, ("access-control-allow-headers", "origin,X-Forwarded-For"), base],
            ),
            (
                Cors { credentials: true, headers: texts(&["*"]), methods: texts(&["*"]), ..origins(&["*"]) },
                vec![
                    allowed,
                    credentials,
                    ("access-control-allow-headers", "origin, x-a"),
                    ("access-control-allow-methods", "GET"),
                    base,
                ],
            ),
            (
                Cors { exposed: texts(&["*", "a"]), ..origins(&["*"]) },
                vec![star, ("access-control-expose-headers", "*,a"), base],
            ),
            (Cors { exposed: texts(&["*"]), credentials: true, ..origins(&["*"]) }, vec![allowed, credentials, base]),
            (
                Cors {
                    origin_patterns: vec![Regexp::parse("^https?://([a-z]+)\\.bar\\.org$").unwrap()],
                    ..origins(&[])
                },
                vec![allowed, base],
            ),
        ] {
            let headers = Headers { cors: Some(cors.clone()), ..Headers::default() };
            let answer = headers.request(&mut parts("OPTIONS", "/", PREFLIGHT), &PLAIN).unwrap_err();
            assert_eq!((answer.status, sorted(&answer.headers)), (StatusCode::OK, owned(&want)), "{cors:?}");
            // Without the headers of a preflight it goes on.
            for (method, sent) in [("OPTIONS", &PREFLIGHT[1..]), ("OPTIONS", &PREFLIGHT[..2]), ("GET", PREFLIGHT)] {
                assert!(headers.request(&mut parts(method, "/", sent), &PLAIN).is_ok());
            }
        }
    }

    fn response(headers: &Headers, asked: Pairs<'_>, client: &Client, answered: Pairs<'_>) -> Vec<(String, String)> {
        let asked = headers.request(&mut parts("GET", "/", asked), client).unwrap();
        let mut answer = parts("GET", "/", answered).headers;
        headers.response(&mut answer, &asked);
        sorted(&answer)
    }

    #[test]
    fn responses_say_who_may_read_them_as_in_traefik() {
        let foo: Pairs<'_> = &[("origin", "https://foo.bar.org")];
        let allowed = ("access-control-allow-origin", "https://foo.bar.org");
        let cors = |origins: &[&str]| Cors { origins: texts(origins), ..Cors::default() };
        let star = ("access-control-allow-origin", "*");
        let vary = |cors: Cors| Cors { vary: true, ..cors };
        let none: Pairs<'_> = &[];
        for (cors, asked, answered, want) in [
            (cors(&["https://foo.bar.org"]), foo, none, vec![allowed]),
            (cors(&["https://foo.bar.org"]), none, none, vec![]),
            (cors(&["https://bar.org", "https://foo.bar.org"]), foo, none, vec![allowed]),
            (cors(&["*"]), none, none, vec![star]),
            (vary(cors(&["*"])), foo, none, vec![star, ("vary", "Origin")]),
            (vary(cors(&[])), none, &[("vary", "Origin")], vec![("vary", "Origin")]),
            (vary(cors(&[])), none, &[("vary", "Testing")], vec![("vary", "Testing,Origin")]),
            (vary(cors(&[])), none, &[("vary", "A"), ("vary", "B")], vec![("vary", "A,B,Origin")]),
            (
                Cors { credentials: true, exposed: texts(&["a", "b"]), ..cors(&["*"]) },
                foo,
                none,
                vec![allowed, ("access-control-allow-credentials", "true"), ("access-control-expose-headers", "a,b")],
            ),
            (cors(&["https://foo.bar.org"]), foo, &[("access-control-allow-origin", "https://backend")], vec![allowed]),
        ] {
            let headers = Headers { cors: Some(cors), ..Headers::default() };
            assert_eq!(response(&headers, asked, &PLAIN, answered), owned(&want), "{:?} {asked:?}", headers.cors);
        }
    }

    fn security() -> Security {
        Security {
            sts: Some(HeaderValue::from_static("max-age=42")),
            fixed: vec![(http::header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))],
            ..Security::default()
        }
    }

    #[test]
    fn browsers_are_told_of_tls_only_by_tls() {
        let proxied = vec![(HeaderName::from_static("x-proto"), HeaderValue::from_static("https"))];
        let proxied = Security { https_headers: proxied, ..security() };
        let (frame, sts) = (("x-frame-options", "DENY"), ("strict-transport-security", "max-age=42"));
        for (security, asked, client, want) in [
            (security(), &[][..], PLAIN, vec![frame]),
            (security(), &[], TLS, vec![frame, sts]),
            (Security { force_sts: true, ..security() }, &[], PLAIN, vec![frame, sts]),
            (Security { is_development: true, force_sts: true, ..security() }, &[], TLS, vec![frame]),
            (proxied.clone(), &[("x-proto", "https")], PLAIN, vec![frame, sts]),
            (proxied, &[("x-proto", "http")], PLAIN, vec![frame]),
        ] {
            let headers = Headers { security: Some(security), ..Headers::default() };
            assert_eq!(response(&headers, asked, &client, &[("x-frame-options", "SAMEORIGIN")]), owned(&want));
        }
    }

    #[test]
    fn other_hosts_are_refused_with_the_custom_headers() {
        let security = Security { allowed_hosts: texts(&["foo.com", "bar.com"]), ..security() };
        let custom = HeaderEdits {
            request: Vec::new(),
            response: vec![(HeaderName::from_static("x-a"), Some(HeaderValue::from_static("1")))],
        };
        let proxied = Security { host_headers: vec![HeaderName::from_static("x-host")], ..security.clone() };
        let development = Security { is_development: true, ..security.clone() };
        for (security, asked, served) in [
            (&security, &[("host", "FOO.com")][..], true),
            (&security, &[("host", "else.com")], false),
            (&security, &[], false),
            (&proxied, &[("host", "else.com"), ("x-host", "bar.com")], true),
            (&proxied, &[("host", "bar.com"), ("x-host", "else.com")], false),
            (&development, &[("host", "else.com")], true),
        ] {
            let headers = Headers { custom: custom.clone(), security: Some(security.clone()), cors: None };
            let verdict = headers.request(&mut parts("GET", "/", asked), &PLAIN);
            assert_eq!(verdict.is_ok(), served, "{asked:?}");
            if let Err(answer) = verdict {
                assert_eq!((answer.status.as_u16(), &*answer.body), (500, &b"Bad Host\n"[..]));
                assert!(answer.headers.contains_key("x-a") && !answer.headers.contains_key("x-frame-options"));
            }
        }
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let pair = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let modifier = HeaderModifier {
            set: vec![pair("x-set", "new")],
            add: vec![pair("x-add", "2"), pair("x-new", "1")],
            remove: vec![HeaderName::from_static("x-gone")],
        };
        let mut headers =
            parts("GET", "/", &[("x-set", "old"), ("x-set", "older"), ("x-add", "1"), ("x-gone", "1")]).headers;
        modifier.edit(&mut headers);
        assert_eq!(sorted(&headers), owned(&[("x-add", "1"), ("x-add", "2"), ("x-new", "1"), ("x-set", "new")]));
    }
}
