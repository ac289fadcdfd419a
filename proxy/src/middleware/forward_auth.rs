//! Traefik's `forwardAuth`: what an authentication server is asked, and what becomes of its answer. The call itself is
//! `exchange`'s.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;

use super::{Answer, Client, text};
use crate::headers::is_managed;
use crate::rule::Regexp;
use crate::snapshot::Service;
use crate::trace_context::{TRACEPARENT, TRACESTATE};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Traefik's `forwardAuth`, but for where it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForwardAuth {
    /// `trustForwardHeader`; none: as Traefik does where nothing is said.
    pub trust: Option<bool>,
    /// `authRequestHeaders`; empty: all.
    pub asked_with: Vec<HeaderName>,
    /// `authResponseHeaders`.
    pub passed_on: Vec<HeaderName>,
    /// `authResponseHeadersRegex`.
    pub passed_on_pattern: Option<Regexp>,
    /// `addAuthCookiesToResponse`.
    pub cookies: Vec<String>,
    /// `maxResponseBodySize`.
    pub body_max: usize,
    /// `preserveLocationHeader`.
    pub keeps_location: bool,
    /// `authSigninURL`.
    pub signin: Option<HeaderValue>,
}

/// An authentication server with what it is asked.
#[derive(Debug)]
pub struct AuthServer {
    /// The settings.
    pub settings: Arc<ForwardAuth>,
    /// Its one server.
    pub service: Arc<Service>,
    /// Path and query of its address.
    pub target: PathAndQuery,
}

/// Not to be passed on in either direction: they belong to one connection or frame one message. Go's transport leaves them
/// out likewise.
fn is_of_the_message(name: &HeaderName) -> bool {
    [&CONNECTION, &CONTENT_LENGTH, &EXPECT, &KEEP_ALIVE, &TE, &TRAILER, &TRANSFER_ENCODING, &UPGRADE].contains(&name)
}

impl ForwardAuth {
    /// The headers of the question, but for `Host` and trace context.
    #[must_use]
    pub fn question(&self, parts: &Parts, client: &Client) -> HeaderMap {
        let trusts = self.trust == Some(true);
        let strips = self.trust == Some(false);
        let wanted = |name: &HeaderName| {
            let listed = self.asked_with.is_empty() || self.asked_with.contains(name);
            let managed = is_managed(name.as_str());
            (listed || (trusts && managed)) && !(strips && managed) && !is_of_the_message(name) && *name != HOST
        };
        let mut headers = HeaderMap::with_capacity(parts.headers.len() + 6);
        for (name, value) in &parts.headers {
            if wanted(name) {
                headers.append(name, value.clone());
            }
        }
        let host = parts.headers.get(HOST).cloned();
        let mut say = |name: &HeaderName, value: Option<HeaderValue>| {
            let keeps = trusts && headers.contains_key(name);
            if let Some(value) = value.filter(|_| !keeps) {
                headers.insert(name, value);
            }
        };
        // Of a chain that is believed the client's address is the last already.
        say(&X_FORWARDED_FOR, HeaderValue::from_str(&client.ip.to_canonical().to_string()).ok());
        say(&X_FORWARDED_METHOD, HeaderValue::from_str(parts.method.as_str()).ok());
        say(&X_FORWARDED_PROTO, Some(HeaderValue::from_static(if client.https { "https" } else { "http" })));
        if self.trust.is_some() {
            say(&X_FORWARDED_PORT, HeaderValue::from_str(&port(parts, client)).ok());
        }
        say(&X_FORWARDED_HOST, host);
        let uri = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        say(&X_FORWARDED_URI, HeaderValue::from_str(uri).ok());
        headers
    }

    /// Takes an answer that lets the request on; the cookies that come with it.
    pub fn accept(&self, parts: &mut Parts, answered: &HeaderMap) -> Vec<HeaderValue> {
        for name in &self.passed_on {
            replace(&mut parts.headers, name, answered);
        }
        if let Some(pattern) = &self.passed_on_pattern {
            // As in Go, the pattern sees names as they are written by convention.
            let matches = |name: &&HeaderName| pattern.is_match(&canonical(name)) && may_be_passed_on(name);
            let stale: Vec<HeaderName> = parts.headers.keys().filter(matches).cloned().collect();
            for name in stale {
                parts.headers.remove(name);
            }
            for name in answered.keys().filter(matches) {
                replace(&mut parts.headers, name, answered);
            }
        }
        answered.get_all(SET_COOKIE).iter().cloned().collect()
    }

    /// The answer to a client that is not let on.
    #[must_use]
    pub fn refusal(&self, status: StatusCode, answered: &HeaderMap, body: Bytes, at: &AuthServer) -> Box<Answer> {
        if let (Some(signin), StatusCode::UNAUTHORIZED) = (&self.signin, status) {
            let mut answer = Answer::status(StatusCode::FOUND);
            answer.headers.insert(LOCATION, signin.clone());
            return answer;
        }
        let mut headers = HeaderMap::with_capacity(answered.len());
        for (name, value) in answered.iter().filter(|(name, _)| !is_of_the_message(name)) {
            headers.append(name, value.clone());
        }
        if let (false, Some(location)) =
            (self.keeps_location, headers.get(LOCATION).and_then(|value| value.to_str().ok()))
        {
            let authority = at.service.servers.first().map_or("", |server| &server.authority);
            let absolute = absolute(location, authority, at.target.path());
            if let Ok(location) = HeaderValue::from_str(&absolute) {
                headers.insert(LOCATION, location);
            }
        }
        Box::new(Answer { status, headers, body })
    }

    /// Puts the authentication server's cookies into the response, in place of the server's of those names.
    pub fn add_cookies(&self, headers: &mut HeaderMap, cookies: &[HeaderValue]) {
        if cookies.is_empty() {
            return;
        }
        let is_ours = |cookie: &&HeaderValue| {
            let name = cookie.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            self.cookies.iter().any(|ours| ours.as_bytes() == name)
        };
        let kept: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|cookie| !is_ours(cookie)).cloned().collect();
        headers.remove(SET_COOKIE);
        for cookie in kept.into_iter().chain(cookies.iter().filter(is_ours).cloned()) {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

/// What decides where and how a request goes on is not for an authentication server to say, and the trace is ours.
fn may_be_passed_on(name: &HeaderName) -> bool {
    !is_of_the_message(name) && ![&HOST, &TRACEPARENT, &TRACESTATE].contains(&name)
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, by: &HeaderMap) {
    if may_be_passed_on(name) {
        headers.remove(name);
        for value in by.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

/// The port that the client asked: its `Host`'s, else the scheme's.
fn port(parts: &Parts, client: &Client) -> String {
    match super::split_host(text(parts, &HOST)).1 {
        "" => if client.https { "443" } else { "80" }.to_owned(),
        port => port.to_owned(),
    }
}

/// `x-auth-user` as Go writes it: `X-Auth-User`.
fn canonical(name: &HeaderName) -> String {
    let mut upper = true;
    let letter = |c: char| {
        let letter = if upper { c.to_ascii_uppercase() } else { c };
        upper = c == '-';
        letter
    };
    name.as_str().chars().map(letter).collect()
}

/// A location as it is seen from that address (RFC 3986, 5.2, but for dots: browsers take those out).
fn absolute(location: &str, authority: &str, path: &str) -> String {
    let scheme = location.split_once(':').map_or("", |(scheme, _)| scheme);
    let has_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if has_scheme || location.is_empty() {
        return location.to_owned();
    }
    match location.as_bytes() {
        [b'/', b'/', ..] => format!("http:{location}"),
        [b'/', ..] => format!("http://{authority}{location}"),
        [b'?' | b'#', ..] => format!("http://{authority}{path}{location}"),
        _ => {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("http://{authority}{directory}/{location}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::{PLAIN, TLS, parts};
    use crate::snapshot::{Server, Timeouts};

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn names(list: &[&'static str]) -> Vec<HeaderName> {
        list.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    fn sorted(headers: &HeaderMap) -> String {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        all.join(" ")
    }

    /// As the proxy has prepared a request from a trusted peer that said all of this.
    const ASKED: Pairs<'_> = &[
        ("host", "foo.bar:8080"),
        ("x-forwarded-for", "10.0.0.1, 127.0.0.1"),
        ("x-forwarded-host", "said.host"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/said"),
        ("content-length", "7"),
        ("expect", "100-continue"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("x-custom", "a"),
        ("x-custom", "b"),
        ("cookie", "c=1"),
    ];

    #[test]
    fn the_server_is_asked_with_traefiks_headers() {
        let with = |trust, asked_with: &[&'static str]| ForwardAuth {
            trust,
            asked_with: names(asked_with),
            ..ForwardAuth::default()
        };
        const COMMON: &str = "x-forwarded-method=POST";
        for (settings, client, want) in [
            (
                with(None, &[]),
                PLAIN,
                "cookie=c=1 x-custom=a x-custom=b x-forwarded-for=127.0.0.1 x-forwarded-host=foo.bar:8080 {} \
                 x-forwarded-prefix=/said x-forwarded-proto=http x-forwarded-uri=/path?q=1",
            ),
            (
                with(Some(false), &[]),
                TLS,
                "cookie=c=1 x-custom=a x-custom=b x-forwarded-for=127.0.0.1 x-forwarded-host=foo.bar:8080 {} \
                 x-forwarded-port=8080 x-forwarded-proto=https x-forwarded-uri=/path?q=1",
            ),
            (
                with(Some(true), &[]),
                PLAIN,
                "cookie=c=1 x-custom=a x-custom=b x-forwarded-for=10.0.0.1, 127.0.0.1 x-forwarded-host=said.host {} \
                 x-forwarded-port=8080 x-forwarded-prefix=/said x-forwarded-proto=https x-forwarded-uri=/path?q=1",
            ),
            (
                with(None, &["x-custom", "x-absent", "host"]),
                PLAIN,
                "x-custom=a x-custom=b x-forwarded-for=127.0.0.1 x-forwarded-host=foo.bar:8080 {} x-forwarded-proto=http \
                 x-forwarded-uri=/path?q=1",
            ),
            (
                with(Some(true), &["cookie"]),
                PLAIN,
                "cookie=c=1 x-forwarded-for=10.0.0.1, 127.0.0.1 x-forwarded-host=said.host {} x-forwarded-port=8080 \
                 x-forwarded-prefix=/said x-forwarded-proto=https x-forwarded-uri=/path?q=1",
            ),
        ] {
            let got = settings.question(&parts("POST", "/path?q=1", ASKED), &client);
            assert_eq!(sorted(&got), want.replace("{}", COMMON), "{settings:?}");
        }
    }

    #[test]
    fn what_the_server_says_is_passed_on_and_what_the_client_said_is_not() {
        let answered = parts(
            "GET",
            "/",
            &[
                ("x-auth-user", "user@example.com"),
                ("x-auth-group", "group1"),
                ("x-auth-group", "group2"),
                ("x-other", "1"),
                ("content-length", "5"),
                ("host", "evil"),
                ("traceparent", "evil"),
                ("set-cookie", "authCookie=Auth"),
            ],
        );
        let asked: Pairs<'_> = &[
            ("host", "foo"),
            ("x-auth-user", "forged"),
            ("x-auth-gone", "forged"),
            ("traceparent", "ours"),
            ("content-length", "9"),
        ];
        for (passed_on, pattern, want) in [
            (
                &["x-auth-user", "x-auth-group", "x-auth-gone", "host", "content-length"][..],
                None,
                "content-length=9 host=foo traceparent=ours x-auth-group=group1 x-auth-group=group2 x-auth-user=user@example.com",
            ),
            (
                &[],
                Some("^X-Auth"),
                "content-length=9 host=foo traceparent=ours x-auth-group=group1 x-auth-group=group2 x-auth-user=user@example.com",
            ),
            (&[], Some("^x-auth"), "content-length=9 host=foo traceparent=ours x-auth-gone=forged x-auth-user=forged"),
            (
                &[],
                Some("^(Host|Traceparent|Content-Length)$"),
                "content-length=9 host=foo traceparent=ours x-auth-gone=forged x-auth-user=forged",
            ),
        ] {
            let settings = ForwardAuth {
                passed_on: names(passed_on),
                passed_on_pattern: pattern.map(|text| Regexp::parse(text).unwrap()),
                ..ForwardAuth::default()
            };
            let mut parts = parts("GET", "/", asked);
            let cookies = settings.accept(&mut parts, &answered.headers);
            assert_eq!(sorted(&parts.headers), want, "{passed_on:?} {pattern:?}");
            assert_eq!(cookies, ["authCookie=Auth"]);
        }
    }

    #[test]
    fn cookies_of_the_list_replace_the_servers() {
        let settings = ForwardAuth { cookies: vec!["auth".to_owned(), "gone".to_owned()], ..ForwardAuth::default() };
        let cookies = [HeaderValue::from_static("auth=new; Path=/"), HeaderValue::from_static("hidden=1")];
        let answered: Pairs<'_> = &[("set-cookie", "auth=old"), ("set-cookie", "backend=1"), ("set-cookie", "gone=1")];
        for (cookies, want) in [
            (&cookies[..], "set-cookie=auth=new; Path=/ set-cookie=backend=1"),
            (&[], "set-cookie=auth=old set-cookie=backend=1 set-cookie=gone=1"),
        ] {
            let mut headers = parts("GET", "/", answered).headers;
            settings.add_cookies(&mut headers, cookies);
            assert_eq!(sorted(&headers), want);
        }
    }

    fn server() -> AuthServer {
        let server = Server {
            id: 1,
            url: "http://auth:81/verify/me?x".into(),
            authority: "auth:81".into(),
            host: "auth".into(),
            path_prefix: "".into(),
            addresses: [].into(),
            request_headers: None,
            cap: None,
        };
        let service = Service {
            id: 1,
            name: "auth".into(),
            servers: [Arc::new(server)].into(),
            turn: [0].into(),
            pass_host: false,
            timeouts: Timeouts::default(),
            idle_max: 1,
        };
        AuthServer {
            settings: Arc::default(),
            service: Arc::new(service),
            target: PathAndQuery::from_static("/verify/me?x"),
        }
    }

    #[test]
    fn a_refusal_is_the_servers_own_with_its_location_made_absolute() {
        let plain = ForwardAuth::default();
        let keeps = ForwardAuth { keeps_location: true, ..ForwardAuth::default() };
        let signin = ForwardAuth { signin: Some(HeaderValue::from_static("https://login")), ..ForwardAuth::default() };
        for (settings, status, answered, want) in [
            (
                &plain,
                401,
                &[("www-authenticate", "Basic"), ("connection", "close"), ("content-length", "3")][..],
                (401, "www-authenticate=Basic", "no!"),
            ),
            (&plain, 302, &[("location", "http://example.com/x")], (302, "location=http://example.com/x", "no!")),
            (&plain, 307, &[("location", "/login?a")], (307, "location=http://auth:81/login?a", "no!")),
            (&plain, 302, &[("location", "login")], (302, "location=http://auth:81/verify/login", "no!")),
            (&plain, 302, &[("location", "//cdn/x")], (302, "location=http://cdn/x", "no!")),
            (&plain, 302, &[("location", "?y")], (302, "location=http://auth:81/verify/me?y", "no!")),
            (&keeps, 302, &[("location", "/login")], (302, "location=/login", "no!")),
            (
                &signin,
                401,
                &[("www-authenticate", "Basic")],
                (302, "content-type=text/plain; charset=utf-8 location=https://login", "Found"),
            ),
            (&signin, 403, &[], (403, "", "no!")),
        ] {
            let headers = parts("GET", "/", answered).headers;
            let status = StatusCode::from_u16(status).unwrap();
            let answer = settings.refusal(status, &headers, Bytes::from_static(b"no!"), &server());
            let got =
                (answer.status.as_u16(), sorted(&answer.headers), String::from_utf8(answer.body.to_vec()).unwrap());
            assert_eq!((got.0, got.1.as_str(), got.2.as_str()), want, "{answered:?}");
        }
    }
}
