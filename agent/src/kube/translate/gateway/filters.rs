//! The filters of HTTPRoutes as middlewares.

use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesBackendRefsFilters, HttpRouteRulesBackendRefsFiltersType, HttpRouteRulesFilters,
    HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPath, HttpRouteRulesFiltersRequestRedirectPathType,
    HttpRouteRulesFiltersRequestRedirectScheme, HttpRouteRulesFiltersType, HttpRouteRulesFiltersUrlRewritePath,
    HttpRouteRulesFiltersUrlRewritePathType,
};
use http::{HeaderName, HeaderValue, StatusCode};
use wayspan_proxy::middleware::{
    Allowed, AllowedOrigin, CorsFilter, HeaderModifier, PathChange, RequestRedirect, Share, UrlRewrite, as_path,
};

use super::super::crd;
use crate::config::model::MiddlewareKind;

/// What a filter becomes.
pub(super) enum Filter<'f> {
    Kind(MiddlewareKind),
    /// A Middleware object's name.
    Named(String),
    /// Copies go to a backend.
    Mirror(&'f HttpRouteRulesFiltersRequestMirror, Share),
}

/// A filter; `prefix` is what the match says that it may replace, `port` the listener's.
pub(super) fn read<'f>(
    namespace: &str,
    filter: &'f HttpRouteRulesFilters,
    prefix: &str,
    port: Option<u16>,
) -> Result<Filter<'f>, String> {
    let kind = match &filter.r#type {
        HttpRouteRulesFiltersType::RequestHeaderModifier => {
            let all = filter.request_header_modifier.as_ref().ok_or("names no headers")?;
            let set = all.set.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
            let add = all.add.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
            MiddlewareKind::RequestHeaderModifier(modifier(set, add, all.remove.as_deref())?.into())
        }
        HttpRouteRulesFiltersType::ResponseHeaderModifier => {
            let all = filter.response_header_modifier.as_ref().ok_or("names no headers")?;
            let set = all.set.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
            let add = all.add.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
            MiddlewareKind::ResponseHeaderModifier(modifier(set, add, all.remove.as_deref())?.into())
        }
        HttpRouteRulesFiltersType::RequestRedirect => {
            let redirect = filter.request_redirect.as_ref().ok_or("names no redirect")?;
            MiddlewareKind::RequestRedirect(redirect_of(redirect, prefix, port)?.into())
        }
        HttpRouteRulesFiltersType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().ok_or("names no rewrite")?;
            let hostname = rewrite.hostname.as_deref().map(HeaderValue::from_str).transpose();
            let path = rewrite.path.as_ref().map(|path| rewritten(path, prefix)).transpose()?;
            let hostname = hostname.map_err(|_| "hostname is none")?;
            MiddlewareKind::UrlRewrite(UrlRewrite { hostname, path }.into())
        }
        HttpRouteRulesFiltersType::ExtensionRef => {
            let reference = filter.extension_ref.as_ref().ok_or("names no object")?;
            if (reference.group.as_str(), reference.kind.as_str()) != ("traefik.io", "Middleware") {
                return Err(format!("{}/{} is no filter that there is", reference.group, reference.kind));
            }
            return Ok(Filter::Named(crd::called(crd::MIDDLEWARE, namespace, &reference.name)));
        }
        HttpRouteRulesFiltersType::RequestMirror => {
            let mirror = filter.request_mirror.as_ref().ok_or("names no mirror")?;
            return Ok(Filter::Mirror(mirror, share(mirror)?));
        }
        HttpRouteRulesFiltersType::Cors => {
            MiddlewareKind::Cors(cors(filter.cors.as_ref().ok_or("names no origins")?)?.into())
        }
        HttpRouteRulesFiltersType::ExternalAuth => return Err("ExternalAuth is not supported yet".to_owned()),
    };
    Ok(Filter::Kind(kind))
}

/// What a backend's filters make of its requests' headers.
pub(super) fn of_backend(filters: &[HttpRouteRulesBackendRefsFilters]) -> Result<Option<Arc<HeaderModifier>>, String> {
    let mut all = HeaderModifier::default();
    for filter in filters {
        if filter.r#type != HttpRouteRulesBackendRefsFiltersType::RequestHeaderModifier {
            return Err("filters of a backend but RequestHeaderModifier are not supported yet".to_owned());
        }
        let own = filter.request_header_modifier.as_ref().ok_or("names no headers")?;
        let set = own.set.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
        let add = own.add.iter().flatten().map(|one| (one.name.as_str(), one.value.as_str()));
        let own = modifier(set, add, own.remove.as_deref())?;
        all.set.extend(own.set);
        all.add.extend(own.add);
        all.remove.extend(own.remove);
    }
    Ok((!filters.is_empty()).then(|| Arc::new(all)))
}

/// How many requests are copied; all where it does not say.
fn share(mirror: &HttpRouteRulesFiltersRequestMirror) -> Result<Share, String> {
    let number = |number: i32| u32::try_from(number).map_err(|_| format!("{number} is no share"));
    if let Some(percent) = mirror.percent {
        return Ok(Share { some: number(percent)?, of: 100 });
    }
    let Some(fraction) = &mirror.fraction else { return Ok(Share::ALL) };
    let of = number(fraction.denominator.unwrap_or(100))?;
    Ok(Share { some: number(fraction.numerator)?, of })
}

fn cors(filter: &HttpRouteRulesFiltersCors) -> Result<CorsFilter, String> {
    let origin =
        |text: &String| AllowedOrigin::parse(text).ok_or_else(|| format!("`{}` is no origin", text.escape_debug()));
    let list = |words: &Option<Vec<String>>, what: &str| {
        Allowed::of(words.as_deref().unwrap_or_default()).ok_or_else(|| format!("{what} cannot stand in a header"))
    };
    Ok(CorsFilter {
        origins: filter.allow_origins.iter().flatten().map(origin).collect::<Result<_, _>>()?,
        credentials: filter.allow_credentials.unwrap_or(false),
        methods: list(&filter.allow_methods, "allowMethods")?,
        headers: list(&filter.allow_headers, "allowHeaders")?,
        exposed: list(&filter.expose_headers, "exposeHeaders")?,
        // The API's default.
        max_age: filter.max_age.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(5),
    })
}

fn modifier<'h>(
    set: impl Iterator<Item = (&'h str, &'h str)>,
    add: impl Iterator<Item = (&'h str, &'h str)>,
    remove: Option<&[String]>,
) -> Result<HeaderModifier, String> {
    let name = |name: &str| {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{}` is no header name", name.escape_debug()))
    };
    let value = |value: &str| {
        HeaderValue::from_str(value).map_err(|_| format!("`{}` is no header value", value.escape_debug()))
    };
    let pair = |(header, text): (&str, &str)| Ok::<_, String>((name(header)?, value(text)?));
    Ok(HeaderModifier {
        set: set.map(pair).collect::<Result<_, _>>()?,
        add: add.map(pair).collect::<Result<_, _>>()?,
        remove: remove.unwrap_or_default().iter().map(|header| name(header)).collect::<Result<_, _>>()?,
    })
}

/// Whether a redirect leads to the listener's port, the one that clients reach, which ours need not be. Another scheme's is its own.
pub(super) fn leads_to_listener(redirect: &HttpRouteRulesFiltersRequestRedirect) -> bool {
    redirect.port.is_none() && redirect.scheme.is_none()
}

fn redirect_of(
    of: &HttpRouteRulesFiltersRequestRedirect,
    prefix: &str,
    port: Option<u16>,
) -> Result<RequestRedirect, String> {
    let status = of.status_code.and_then(|code| u16::try_from(code).ok()).unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("{status} is no status of a redirect"));
    }
    let scheme = of.scheme.as_ref().map(|scheme| match scheme {
        HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".to_owned(),
        HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".to_owned(),
    });
    let own = of.port.map(u16::try_from).transpose().map_err(|_| "port is none")?;
    Ok(RequestRedirect {
        port: own.or(port.filter(|_| leads_to_listener(of))),
        scheme,
        hostname: of.hostname.clone(),
        path: of.path.as_ref().map(|path| redirected(path, prefix)).transpose()?,
        status: StatusCode::from_u16(status).map_err(|error| error.to_string())?,
    })
}

fn redirected(path: &HttpRouteRulesFiltersRequestRedirectPath, prefix: &str) -> Result<PathChange, String> {
    let full = matches!(path.r#type, HttpRouteRulesFiltersRequestRedirectPathType::ReplaceFullPath);
    change(full, path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref(), prefix)
}

fn rewritten(path: &HttpRouteRulesFiltersUrlRewritePath, prefix: &str) -> Result<PathChange, String> {
    let full = matches!(path.r#type, HttpRouteRulesFiltersUrlRewritePathType::ReplaceFullPath);
    change(full, path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref(), prefix)
}

fn change(full: bool, whole: Option<&str>, with: Option<&str>, prefix: &str) -> Result<PathChange, String> {
    let text = if full { whole } else { with };
    let text = text.unwrap_or_default();
    let path = if text.is_empty() { String::new() } else { as_path(text) };
    Ok(if full { PathChange::Full(path) } else { PathChange::Prefix { prefix: prefix.to_owned(), with: path } })
}
