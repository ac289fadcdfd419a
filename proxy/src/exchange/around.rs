//! A route's middlewares around one exchange: in order on the request, and those that were passed in reverse on the
//! response. What each of them decides is [`crate::middleware`]'s.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;

use crate::client::ClientConn;
use crate::middleware::{Client, Middleware, Verdict};
use crate::observer::SocketObserver;
use crate::snapshot::Route;

/// The middlewares of one request. Nothing where the route has none.
pub(super) struct Around<'r> {
    middlewares: &'r [Middleware],
    /// How many of them let the request on.
    passed: usize,
}

impl<'r> Around<'r> {
    pub(super) fn new(route: &'r Route) -> Self {
        Self { middlewares: &route.middlewares, passed: 0 }
    }

    /// Lets the request through them, as far as they let it.
    pub(super) async fn request<O: SocketObserver>(&mut self, conn: &ClientConn<O>, parts: &mut Parts) -> Verdict {
        for middleware in self.middlewares {
            let client =
                Client { ip: conn.peer.ip(), local_port: conn.local.port(), https: conn.peer_headers.is_https() };
            match middleware {
                Middleware::Headers(edits) => edit(&mut parts.headers, &edits.request),
                Middleware::StripPrefix(strip) => strip.request(parts)?,
                Middleware::StripPrefixRegex(strip) => strip.request(parts)?,
                Middleware::AddPrefix(add) => add.request(parts)?,
                Middleware::ReplacePath(replace) => replace.request(parts)?,
                Middleware::ReplacePathRegex(replace) => replace.request(parts)?,
                Middleware::RedirectScheme(redirect) => redirect.request(parts, &client)?,
                Middleware::RedirectRegex(redirect) => redirect.request(parts, &client)?,
                Middleware::RequestRedirect(redirect) => redirect.request(parts, &client)?,
                Middleware::UrlRewrite(rewrite) => rewrite.request(parts)?,
            }
            self.passed += 1;
        }
        Ok(())
    }

    /// Lets the response through those that let the request on.
    pub(super) fn response(&self, headers: &mut HeaderMap) {
        for middleware in self.middlewares.iter().take(self.passed).rev() {
            if let Middleware::Headers(edits) = middleware {
                edit(headers, &edits.response);
            }
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
