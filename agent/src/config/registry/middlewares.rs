//! From a middleware's kind to what the proxy runs, and what it is called. Those that call servers are the registry's own.

use std::sync::Arc;

use wayspan_proxy::middleware::{Authenticator, InFlightLimiter, Middleware, RateLimiter};

use super::super::model::MiddlewareKind;

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
        MiddlewareKind::BasicAuth(one) => Middleware::BasicAuth(Arc::new(Authenticator::new(one))),
        // They need servers' ids and addresses: whoever builds those builds them.
        MiddlewareKind::ForwardAuth(_) | MiddlewareKind::Mirror(_) => return None,
        MiddlewareKind::Chain(_) | MiddlewareKind::Unsupported(_) => return None,
    })
}
