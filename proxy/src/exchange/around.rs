//! A route's middlewares around one exchange: in order on the request, and those that were passed in reverse on the
//! response. What each of them decides is [`crate::middleware`]'s.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;

use super::{auth, password};
use crate::client::ClientConn;
use crate::clock::MonoNs;
use crate::live::Live;
use crate::middleware::{Asked, Client, Middleware, Mirror, Retry, Verdict};
use crate::observer::SocketObserver;
use crate::snapshot::Route;

/// The middlewares of one request. Nothing where the route has none.
pub(super) struct Around<'r> {
    middlewares: &'r [Middleware],
    /// How many of them let the request on.
    passed: usize,
    /// What those that want to know it on the response remember of the request, by position.
    kept: Vec<(usize, Kept)>,
    /// Who gets a copy of it.
    pub(super) mirrors: Vec<&'r Arc<Mirror>>,
    /// How often it is sent again.
    pub(super) retry: Option<&'r Retry>,
}

enum Kept {
    Headers(Asked),
    Origin(HeaderValue),
    Cookies(Vec<HeaderValue>),
}

impl<'r> Around<'r> {
    pub(super) fn new(route: &'r Route) -> Self {
        Self { middlewares: &route.middlewares, passed: 0, kept: Vec::new(), mirrors: Vec::new(), retry: None }
    }

    /// Lets the request through them, as far as they let it.
    pub(super) async fn request<O: SocketObserver>(
        &mut self,
        conn: &Rc<ClientConn<O>>,
        live: &Rc<RefCell<Live>>,
        parts: &mut Parts,
    ) -> Verdict {
        for middleware in self.middlewares {
            let client = Client { ip: conn.peer.ip(), https: conn.peer_headers().is_https() };
            match middleware {
                Middleware::Headers(headers) => {
                    let asked = headers.request(parts, &client)?;
                    if !asked.is_nothing() {
                        self.kept.push((self.passed, Kept::Headers(asked)));
                    }
                }
                Middleware::RequestHeaderModifier(modifier) => modifier.edit(&mut parts.headers),
                Middleware::ResponseHeaderModifier(_) => {}
                Middleware::Cors(cors) => {
                    if let Some(origin) = cors.request(parts)? {
                        self.kept.push((self.passed, Kept::Origin(origin)));
                    }
                }
                Middleware::StripPrefix(strip) => strip.request(parts)?,
                Middleware::StripPrefixRegex(strip) => strip.request(parts)?,
                Middleware::AddPrefix(add) => add.request(parts)?,
                Middleware::ReplacePath(replace) => replace.request(parts)?,
                Middleware::ReplacePathRegex(replace) => replace.request(parts)?,
                Middleware::RedirectScheme(redirect) => redirect.request(parts, &client)?,
                Middleware::RedirectRegex(redirect) => redirect.request(parts, &client)?,
                Middleware::RequestRedirect(redirect) => redirect.request(parts, &client)?,
                Middleware::UrlRewrite(rewrite) => rewrite.request(parts)?,
                Middleware::Mirror(mirror) => {
                    if mirror.share.takes(&mut conn.worker.random.borrow_mut()) {
                        self.mirrors.push(mirror);
                    }
                }
                Middleware::Retry(retry) => self.retry = Some(retry),
                Middleware::IpAllowList(list) => list.request(parts, &client)?,
                Middleware::RateLimit(limiter) => {
                    let now = MonoNs::now();
                    let early = limiter.request(parts, &client, now)?;
                    if !early.is_zero() {
                        pause(live, now, early).await;
                    }
                }
                Middleware::InFlightReq(limiter) => {
                    let permit = limiter.request(parts, &client)?;
                    live.borrow_mut().permits.push(permit);
                }
                Middleware::BasicAuth(users) => {
                    if let Some(check) = users.request(parts)? {
                        let check = Box::pin(password::checked(live, users, check)).await?;
                        users.accept(parts, &check);
                    }
                }
                Middleware::ForwardAuth(auth) => {
                    // On the heap: a call's state is as large as a request's, and few routes have one.
                    let cookies = Box::pin(auth::ask(conn, live, auth, parts, &client)).await?;
                    if !cookies.is_empty() {
                        self.kept.push((self.passed, Kept::Cookies(cookies)));
                    }
                }
            }
            self.passed += 1;
        }
        Ok(())
    }

    /// Which of them answered in place of the server, from 1.
    pub(super) fn answered_by(&self) -> u16 {
        u16::try_from(self.passed + 1).unwrap_or(u16::MAX)
    }

    /// Lets the response through those that let the request on.
    pub(super) fn response(&mut self, headers: &mut HeaderMap) {
        for (position, middleware) in self.middlewares.iter().enumerate().take(self.passed).rev() {
            let kept = self.kept.pop_if(|(of, _)| *of == position).map(|(_, kept)| kept);
            match (middleware, kept) {
                (Middleware::Headers(one), Some(Kept::Headers(asked))) => one.response(headers, &asked),
                (Middleware::Headers(one), _) => one.response(headers, &Asked::default()),
                (Middleware::ResponseHeaderModifier(modifier), _) => modifier.edit(headers),
                (Middleware::Cors(cors), Some(Kept::Origin(origin))) => cors.response(headers, Some(&origin)),
                (Middleware::Cors(cors), _) => cors.response(headers, None),
                (Middleware::ForwardAuth(auth), Some(Kept::Cookies(cookies))) => {
                    auth.settings.add_cookies(headers, &cookies);
                }
                _ => {}
            }
        }
    }
}

/// Keeps a request waiting, on its own account.
async fn pause(live: &RefCell<Live>, now: MonoNs, early: Duration) {
    let _waiting = Waiting::new(live, now);
    tokio::time::sleep(early).await;
}

/// A middleware lets the request wait for as long as this lives: its time is told of also when the client leaves meanwhile.
pub(super) struct Waiting<'l> {
    live: &'l RefCell<Live>,
    since: MonoNs,
    /// Of that time, for how long what it waited for was there, and the worker elsewhere.
    pub(super) unread_ns: u64,
}

impl<'l> Waiting<'l> {
    pub(super) fn new(live: &'l RefCell<Live>, since: MonoNs) -> Self {
        Self { live, since, unread_ns: 0 }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Ok(mut live) = self.live.try_borrow_mut() {
            live.head.middleware_wait_ns += MonoNs::now().since(self.since).saturating_sub(self.unread_ns);
        }
    }
}
