//! A middleware's settings in the words of the file. Secrets stay: of headers it is told which are set, not to what, and
//! of users nothing but their names.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use wayspan_proxy::middleware::{
    Allowed, AllowedOrigin, CorsFilter, HeaderModifier, Headers, IpFrom, IpStrategy, OriginHost, PathChange,
    RequestRedirect, Retry, Source,
};

use super::shapes::go_duration;
use crate::config::model::{ForwardAuth, MiddlewareKind};

/// The kind's key in the file, and what stands below it.
pub(super) fn describe(kind: &MiddlewareKind) -> (&str, Value) {
    match kind {
        MiddlewareKind::Headers(one) => ("headers", headers(one)),
        MiddlewareKind::StripPrefix(strip) => ("stripPrefix", json!({"prefixes": strip.prefixes})),
        MiddlewareKind::StripPrefixRegex(strip) => {
            let patterns: Vec<&str> = strip.patterns.iter().map(|pattern| pattern.as_str()).collect();
            ("stripPrefixRegex", json!({"regex": patterns}))
        }
        MiddlewareKind::AddPrefix(add) => ("addPrefix", json!({"prefix": add.prefix})),
        MiddlewareKind::ReplacePath(replace) => ("replacePath", json!({"path": replace.path})),
        MiddlewareKind::ReplacePathRegex(replace) => {
            ("replacePathRegex", json!({"regex": replace.pattern.as_str(), "replacement": replace.replacement}))
        }
        MiddlewareKind::RedirectScheme(to) => {
            ("redirectScheme", json!({"scheme": to.scheme, "port": to.port, "permanent": to.permanent}))
        }
        MiddlewareKind::RedirectRegex(to) => (
            "redirectRegex",
            json!({"regex": to.pattern.as_str(), "replacement": to.replacement, "permanent": to.permanent}),
        ),
        MiddlewareKind::RequestRedirect(to) => ("requestRedirect", redirect(to)),
        MiddlewareKind::UrlRewrite(rewrite) => {
            let hostname = rewrite.hostname.as_ref().and_then(|name| name.to_str().ok());
            let path = rewrite.path.as_ref().map_or(Value::Null, change);
            ("urlRewrite", json!({"hostname": hostname, "path": path}))
        }
        MiddlewareKind::RequestHeaderModifier(one) => ("requestHeaderModifier", modifier(one)),
        MiddlewareKind::ResponseHeaderModifier(one) => ("responseHeaderModifier", modifier(one)),
        MiddlewareKind::Cors(one) => ("cors", cors(one)),
        MiddlewareKind::Mirror(to) => {
            ("requestMirror", json!({"service": to.service, "some": to.share.some, "of": to.share.of}))
        }
        MiddlewareKind::Retry(one) => ("retry", retry(one)),
        MiddlewareKind::IpAllowList(list) => (
            "ipAllowList",
            json!({
                "sourceRange": texts(&list.networks),
                "ipStrategy": strategy(&list.strategy),
                "rejectStatusCode": list.status.as_u16(),
            }),
        ),
        MiddlewareKind::RateLimit(limit) => (
            "rateLimit",
            json!({
                "average": limit.average,
                "period": go_duration(limit.period),
                "burst": limit.burst,
                "sourceCriterion": criterion(&limit.source),
            }),
        ),
        MiddlewareKind::InFlightReq(limit) => {
            ("inFlightReq", json!({"amount": limit.amount, "sourceCriterion": criterion(&limit.source)}))
        }
        MiddlewareKind::BasicAuth(auth) => {
            let users: Vec<&str> = auth.users.iter().map(|user| user.name.as_str()).collect();
            let field = auth.header_field.as_ref().map(HeaderName::as_str);
            let settings = json!({
                "users": users,
                "realm": auth.realm,
                "removeHeader": auth.remove_header,
                "headerField": field,
            });
            ("basicAuth", settings)
        }
        MiddlewareKind::ForwardAuth(auth) => ("forwardAuth", forward_auth(auth)),
        MiddlewareKind::Chain(names) => ("chain", json!({"middlewares": names})),
        MiddlewareKind::Unsupported(kind) => (kind, json!({})),
    }
}

/// Values are often credentials for the backend: what is set is told, not to what.
fn hidden(list: &[(HeaderName, Option<HeaderValue>)]) -> Map<String, Value> {
    let shown = |value: &Option<_>| if value.is_some() { "xxxx" } else { "" };
    list.iter().map(|(name, value)| (name.to_string(), shown(value).into())).collect()
}

fn redirect(to: &RequestRedirect) -> Value {
    let RequestRedirect { scheme, hostname, port, path, status } = to;
    let path = path.as_ref().map(change);
    let (status, path) = (status.as_u16(), path.unwrap_or(Value::Null));
    json!({"scheme": scheme, "hostname": hostname, "port": port, "path": path, "statusCode": status})
}

fn retry(retry: &Retry) -> Value {
    json!({
        "attempts": retry.attempts,
        "codes": retry.codes,
        "backoff": go_duration(retry.backoff),
        "each": go_duration(retry.each),
    })
}

fn cors(filter: &CorsFilter) -> Value {
    let list = |allowed: &Allowed| match allowed {
        Allowed::Nothing => Value::Null,
        Allowed::Any => "*".into(),
        Allowed::These(list) => list.to_str().unwrap_or_default().into(),
    };
    let origin = |origin: &AllowedOrigin| match origin {
        AllowedOrigin::Any => "*".to_owned(),
        AllowedOrigin::At { scheme, host: OriginHost::Exact(host), port } => format!("{scheme}://{host}:{port}"),
        AllowedOrigin::At { scheme, host: OriginHost::Below(suffix), port } => format!("{scheme}://*{suffix}:{port}"),
    };
    json!({
        "allowOrigins": filter.origins.iter().map(origin).collect::<Vec<_>>(),
        "allowCredentials": filter.credentials,
        "allowMethods": list(&filter.methods),
        "allowHeaders": list(&filter.headers),
        "exposeHeaders": list(&filter.exposed),
        "maxAge": filter.max_age,
    })
}

fn change(change: &PathChange) -> Value {
    match change {
        PathChange::Full(path) => json!({"replaceFullPath": path}),
        PathChange::Prefix { prefix, with } => json!({"prefix": prefix, "replacePrefixMatch": with}),
    }
}

fn forward_auth(auth: &ForwardAuth) -> Value {
    let settings = &*auth.settings;
    let pattern = settings.passed_on_pattern.as_ref().map(|pattern| pattern.as_str());
    json!({
        "address": auth.server.url,
        "trustForwardHeader": settings.trust,
        "authRequestHeaders": texts(&settings.asked_with),
        "authResponseHeaders": texts(&settings.passed_on),
        "authResponseHeadersRegex": pattern,
        "addAuthCookiesToResponse": settings.cookies,
        "maxResponseBodySize": settings.body_max,
        "preserveLocationHeader": settings.keeps_location,
        "authSigninURL": settings.signin.as_ref().and_then(|url| url.to_str().ok()),
    })
}

fn headers(one: &Headers) -> Value {
    let mut map = json!({
        "customRequestHeaders": hidden(&one.custom.request),
        "customResponseHeaders": hidden(&one.custom.response),
    });
    if let Some(cors) = &one.cors {
        map["accessControlAllowCredentials"] = cors.credentials.into();
        map["accessControlAllowHeaders"] = json!(cors.headers);
        map["accessControlAllowMethods"] = json!(cors.methods);
        map["accessControlAllowOriginList"] = json!(cors.origins);
        let patterns: Vec<&str> = cors.origin_patterns.iter().map(|pattern| pattern.as_str()).collect();
        map["accessControlAllowOriginListRegex"] = json!(patterns);
        map["accessControlExposeHeaders"] = json!(cors.exposed);
        map["accessControlMaxAge"] = json!(cors.max_age);
        map["addVaryHeader"] = cors.vary.into();
    }
    if let Some(security) = &one.security {
        map["allowedHosts"] = json!(security.allowed_hosts);
        map["hostsProxyHeaders"] = json!(texts(&security.host_headers));
        let names: Vec<String> = security.https_headers.iter().map(|(name, _)| name.to_string()).collect();
        map["sslProxyHeaders"] = json!(names);
        map["forceSTSHeader"] = security.force_sts.into();
        map["isDevelopment"] = security.is_development.into();
        // What every browser is told is no secret.
        let told = |(name, value): (&str, &HeaderValue)| (name.to_owned(), value.to_str().unwrap_or_default().into());
        let sts = security.sts.iter().map(|value| ("strict-transport-security", value));
        let fixed = security.fixed.iter().map(|(name, value)| (name.as_str(), value));
        map["securityHeaders"] = Value::Object(sts.chain(fixed).map(told).collect());
    }
    map
}

fn modifier(one: &HeaderModifier) -> Value {
    let names = |list: &[(HeaderName, HeaderValue)]| -> Map<String, Value> {
        list.iter().map(|(name, _)| (name.to_string(), "xxxx".into())).collect()
    };
    json!({"set": names(&one.set), "add": names(&one.add), "remove": texts(&one.remove)})
}

fn strategy(one: &IpStrategy) -> Value {
    let (depth, excluded) = match &one.from {
        IpFrom::Peer => (0, Vec::new()),
        IpFrom::Depth(depth) => (*depth, Vec::new()),
        IpFrom::Excluding(networks) => (0, texts(networks)),
    };
    json!({"depth": depth, "excludedIPs": excluded, "ipv6Subnet": one.ipv6_subnet})
}

fn criterion(source: &Source) -> Value {
    match source {
        Source::Ip(one) => json!({"ipStrategy": strategy(one)}),
        Source::Header(name) => json!({"requestHeaderName": name.as_str()}),
        Source::Host => json!({"requestHost": true}),
    }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}
