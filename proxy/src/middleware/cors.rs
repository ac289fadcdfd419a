//! The Gateway API's `CORS` filter: which origins' pages may ask, and what their browsers are told. Stricter than the one in
//! Traefik's `headers`: an origin that is not listed is told nothing.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, StatusCode};

use super::{Answer, text};

/// Cross-origin sharing.
#[derive(Debug, Clone, PartialEq)]
pub struct CorsFilter {
    /// Whose pages may ask.
    pub origins: Vec<AllowedOrigin>,
    /// With cookies and the like.
    pub credentials: bool,
    /// Methods that they may use.
    pub methods: Allowed,
    /// Headers that they may send.
    pub headers: Allowed,
    /// Headers of responses that they may read.
    pub exposed: Allowed,
    /// For so many seconds a browser need not ask again.
    pub max_age: u32,
}

/// A list for a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// It is told none.
    Nothing,
    /// All that it asks for.
    Any,
    /// These.
    These(HeaderValue),
}

impl Allowed {
    /// From a list of words, one of which may be `*`; `None` where one of them cannot stand in a header.
    #[must_use]
    pub fn of(words: &[String]) -> Option<Self> {
        if words.iter().any(|word| word == "*") {
            return Some(Self::Any);
        }
        if words.is_empty() {
            return Some(Self::Nothing);
        }
        HeaderValue::from_str(&words.join(", ")).ok().map(Self::These)
    }
}

/// An origin, or many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`.
    Any,
    /// `https://*.example.com:8443`.
    At {
        /// `http` or `https`.
        scheme: String,
        /// Lower-case; behind a `*`, all that ends like this.
        host: OriginHost,
        /// The scheme's own where none is written.
        port: u16,
    },
}

/// The host of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginHost {
    /// This one.
    Exact(String),
    /// What stands behind `*`; all hosts where that is nothing.
    Below(String),
}

impl AllowedOrigin {
    /// Reads what a filter lists.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, host, port) = split(text)?;
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            Some(suffix) => OriginHost::Below(suffix.to_owned()),
            None => OriginHost::Exact(host),
        };
        Some(Self::At { scheme: scheme.to_ascii_lowercase(), host, port })
    }

    fn allows(&self, origin: &str) -> bool {
        let Self::At { scheme, host, port } = self else { return true };
        let Some((its_scheme, its_host, its_port)) = split(origin) else { return false };
        let same_host = match host {
            OriginHost::Exact(name) => name.eq_ignore_ascii_case(its_host),
            OriginHost::Below(suffix) => {
                let end = its_host.len().checked_sub(suffix.len()).and_then(|at| its_host.get(at..));
                its_host.len() > suffix.len() && end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        };
        same_host && *port == its_port && scheme.eq_ignore_ascii_case(its_scheme)
    }
}

/// Scheme, host and port of an origin; one without a scheme that is known is none.
fn split(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, authority) = origin.split_once("://")?;
    let own_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (host, port) = super::split_host(authority);
    let port = if port.is_empty() { own_port } else { port.parse().ok()? };
    (!host.is_empty() && !host.contains('/')).then_some((scheme, host, port))
}

impl CorsFilter {
    /// Answers a browser that asks whether a page may ask. What the response has to know: the page's origin, where it may.
    ///
    /// # Errors
    /// The answer.
    pub fn request(&self, parts: &Parts) -> Result<Option<HeaderValue>, Box<Answer>> {
        let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(None) };
        let allowed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|one| one.allows(text)));
        let origin = allowed.then(|| origin.clone());
        let method = text(parts, &ACCESS_CONTROL_REQUEST_METHOD);
        if parts.method != Method::OPTIONS || method.is_empty() {
            return Ok(origin);
        }
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            for (name, allowed, asked) in [
                (ACCESS_CONTROL_ALLOW_METHODS, &self.methods, ACCESS_CONTROL_REQUEST_METHOD),
                (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, ACCESS_CONTROL_REQUEST_HEADERS),
            ] {
                if let Some(value) = self.list(allowed, parts.headers.get(asked)) {
                    headers.insert(name, value);
                }
            }
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
            self.response(&mut headers, Some(&origin));
        } else {
            self.response(&mut headers, None);
        }
        Err(Box::new(Answer { status: StatusCode::NO_CONTENT, headers, body: bytes::Bytes::new() }))
    }

    /// Tells the browser of a page at this origin that the page may read the response. The server's own word does not count.
    pub fn response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        let for_all = self.origins.contains(&AllowedOrigin::Any) && !self.credentials;
        if !for_all && !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
        let said = if for_all { HeaderValue::from_static("*") } else { origin.clone() };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, said);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        match &self.exposed {
            Allowed::These(list) => drop(headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, list.clone())),
            // With credentials browsers take a wildcard for the word.
            Allowed::Any if !self.credentials => {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
            }
            Allowed::Any | Allowed::Nothing => {}
        }
    }

    fn list(&self, allowed: &Allowed, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match allowed {
            Allowed::Nothing => None,
            Allowed::These(list) => Some(list.clone()),
            // Here too: with credentials a wildcard is a word like others.
            Allowed::Any if self.credentials => asked.cloned(),
            Allowed::Any => Some(HeaderValue::from_static("*")),
        }
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let values = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parts;
    use super::*;

    fn words(text: &str) -> Allowed {
        Allowed::of(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    fn filter(origins: &[&str], methods: &str, headers: &str, credentials: bool) -> CorsFilter {
        CorsFilter {
            origins: origins.iter().map(|text| AllowedOrigin::parse(text).unwrap()).collect(),
            credentials,
            methods: words(methods),
            headers: words(headers),
            exposed: words("x-3 x-4"),
            max_age: 3600,
        }
    }

    fn shown(headers: &HeaderMap) -> String {
        let all = headers.iter().map(|(name, value)| {
            let name = name.as_str().strip_prefix("access-control-").unwrap_or(name.as_str());
            format!("{name}={}", value.to_str().unwrap())
        });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all.join("; ")
    }

    fn preflight(filter: &CorsFilter, origin: &str) -> String {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-1, x-2"),
        ];
        let answer = filter.request(&parts("OPTIONS", "/", &asks)).unwrap_err();
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        shown(&answer.headers)
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (pattern, origin, want) in [
            ("*", "null", true),
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://WWW.foo.com:443", true),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com", "https://foo.com", false),
            ("https://*.bar.com", "https://a.bar.com", true),
            ("https://*.bar.com", "https://a.b.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://xbar.com", false),
            ("https://*.bar.com", "https://\u{e9}.bar.com", true),
            ("https://*", "https://any.where", true),
            ("https://*", "https://any.where:81", false),
            ("http://a:81", "http://a:81", true),
            ("http://a:81", "null", false),
            ("http://a:81", "http://", false),
        ] {
            assert_eq!(AllowedOrigin::parse(pattern).unwrap().allows(origin), want, "{pattern} {origin}");
        }
        for text in ["", "a.example", "ftp://a", "https://", "https://a:x", "https://a/b"] {
            assert_eq!(AllowedOrigin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_browser_that_asks_is_told_what_its_page_may() {
        let listed = filter(&["https://www.foo.com"], "GET OPTIONS", "x-1 x-2", true);
        assert_eq!(
            preflight(&listed, "https://www.foo.com"),
            "allow-credentials=true; allow-headers=x-1, x-2; allow-methods=GET, OPTIONS; \
             allow-origin=https://www.foo.com; expose-headers=x-3, x-4; max-age=3600; vary=Origin"
        );
        assert_eq!(preflight(&listed, "https://other.com"), "vary=Origin");
        let any = filter(&["*"], "*", "*", false);
        assert_eq!(
            preflight(&any, "https://a"),
            "allow-headers=*; allow-methods=*; allow-origin=*; expose-headers=x-3, x-4; max-age=3600"
        );
        let any = filter(&["*"], "*", "*", true);
        assert_eq!(
            preflight(&any, "https://a"),
            "allow-credentials=true; allow-headers=x-1, x-2; allow-methods=PUT; allow-origin=https://a; \
             expose-headers=x-3, x-4; max-age=3600; vary=Origin"
        );
    }

    #[test]
    fn a_response_tells_its_page_s_origin_and_not_the_server_s_word() {
        let listed = filter(&["https://www.foo.com"], "GET", "", false);
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(VARY, HeaderValue::from_static("Accept, origin"));
        let asked = listed.request(&parts("GET", "/", &[("origin", "https://www.foo.com")])).unwrap();
        listed.response(&mut headers, asked.as_ref());
        assert_eq!(shown(&headers), "allow-origin=https://www.foo.com; expose-headers=x-3, x-4; vary=Accept, origin");
        let asked = listed.request(&parts("GET", "/", &[("origin", "https://other.com")])).unwrap();
        listed.response(&mut headers, asked.as_ref());
        assert_eq!(shown(&headers), "vary=Accept, origin");
        // An OPTIONS that asks nothing is the server's.
        assert!(listed.request(&parts("OPTIONS", "/", &[("origin", "https://www.foo.com")])).is_ok());
        assert!(listed.request(&parts("OPTIONS", "/", &[("access-control-request-method", "GET")])).is_ok());
    }
}
