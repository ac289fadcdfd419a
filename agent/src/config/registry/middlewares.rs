//! From a middleware's kind to what the proxy runs, and what it is called. Those that call servers are the registry's own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use wayspan_proxy::middleware::{Authenticator, InFlightLimiter, Middleware, RateLimiter};

use super::super::model::{self, MiddlewareKind};

/// Who knows the users of each `basicAuth`, by its name: one for all routers, for its checks take turns.
#[derive(Debug, Default)]
pub(super) struct Users(HashMap<String, (Arc<model::Middleware>, Weak<Authenticator>)>);

impl Users {
    /// The one of a middleware; the one of before where its settings are the same. None where it is of another kind.
    pub(super) fn of(&mut self, one: &Arc<model::Middleware>) -> Option<Middleware> {
        let MiddlewareKind::BasicAuth(settings) = &one.kind else { return None };
        let known = self.0.get(&one.name).filter(|(known, _)| known.kind == one.kind);
        let built = known.and_then(|(_, built)| built.upgrade()).unwrap_or_else(|| {
            let built = Arc::new(Authenticator::new(settings));
            self.0.insert(one.name.clone(), (Arc::clone(one), Arc::downgrade(&built)));
            built
        });
        Some(Middleware::BasicAuth(built))
    }

    /// Forgets those that no router has any more.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|_, (_, built)| built.strong_count() > 0);
    }
}

/// Traefik's span name of a middleware's kind.
pub(super) fn kind_name(kind: &MiddlewareKind) -> &'static str {
    match kind {
        MiddlewareKind::Headers(_) => "Headers",
        MiddlewareKind::StripPrefix(_) => "StripPrefix",
        MiddlewareKind::StripPrefixRegex(_) => "StripPrefixRegex",
        MiddlewareKind::AddPrefix(_) => "AddPrefix",
        MiddlewareKind::ReplacePath(_) => "ReplacePath",
        MiddlewareKind::ReplacePathRegex(_) => "ReplacePathRegex",
        MiddlewareKind::RedirectScheme(_) | MiddlewareKind::RedirectRegex(_) => "Redirect",
        MiddlewareKind::RequestRedirect(_) => "RequestRedirect",
        MiddlewareKind::UrlRewrite(_) => "URLRewrite",
        MiddlewareKind::RequestHeaderModifier(_) => "RequestHeaderModifier",
        MiddlewareKind::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
        MiddlewareKind::Cors(_) => "CORS",
        MiddlewareKind::Mirror(_) => "RequestMirror",
        MiddlewareKind::Retry(_) => "Retry",
        MiddlewareKind::IpAllowList(_) => "IPAllowLister",
        MiddlewareKind::RateLimit(_) => "RateLimiter",
        MiddlewareKind::InFlightReq(_) => "InFlightReq",
        MiddlewareKind::ForwardAuth(_) => "ForwardAuth",
        MiddlewareKind::BasicAuth(_) => "BasicAuth",
        MiddlewareKind::Chain(_) | MiddlewareKind::Unsupported(_) => "",
    }
}

/// What the proxy runs for a kind; nothing for one that stands for others or for none.
pub(super) fn built(kind: &MiddlewareKind) -> Option<Middleware> {
    Some(match kind {
        MiddlewareKind::Headers(one) => Middleware::Headers(Arc::clone(one)),
        MiddlewareKind::StripPrefix(one) => Middleware::StripPrefix(Arc::clone(one)),
        MiddlewareKind::StripPrefixRegex(one) => Middleware::StripPrefixRegex(Arc::clone(one)),
        MiddlewareKind::AddPrefix(one) => Middleware::AddPrefix(Arc::clone(one)),
        MiddlewareKind::ReplacePath(one) => Middleware::ReplacePath(Arc::clone(one)),
        MiddlewareKind::ReplacePathRegex(one) => Middleware::ReplacePathRegex(Arc::clone(one)),
        MiddlewareKind::RedirectScheme(one) => Middleware::RedirectScheme(Arc::clone(one)),
        MiddlewareKind::RedirectRegex(one) => Middleware::RedirectRegex(Arc::clone(one)),
        MiddlewareKind::RequestRedirect(one) => Middleware::RequestRedirect(Arc::clone(one)),
        MiddlewareKind::UrlRewrite(one) => Middleware::UrlRewrite(Arc::clone(one)),
        MiddlewareKind::RequestHeaderModifier(one) => Middleware::RequestHeaderModifier(Arc::clone(one)),
        MiddlewareKind::ResponseHeaderModifier(one) => Middleware::ResponseHeaderModifier(Arc::clone(one)),
        MiddlewareKind::Cors(one) => Middleware::Cors(Arc::clone(one)),
        MiddlewareKind::Retry(one) => Middleware::Retry(Arc::clone(one)),
        MiddlewareKind::IpAllowList(one) => Middleware::IpAllowList(Arc::clone(one)),
        MiddlewareKind::RateLimit(one) => Middleware::RateLimit(Arc::new(RateLimiter::new(one))),
        MiddlewareKind::InFlightReq(one) => Middleware::InFlightReq(Arc::new(InFlightLimiter::new(one))),
        // It is the same one for all routers.
        MiddlewareKind::BasicAuth(_) => return None,
        // They need servers' ids and addresses: whoever builds those builds them.
        MiddlewareKind::ForwardAuth(_) | MiddlewareKind::Mirror(_) => return None,
        MiddlewareKind::Chain(_) | MiddlewareKind::Unsupported(_) => return None,
    })
}
