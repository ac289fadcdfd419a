//! A middleware's settings in the words of the file. Secrets stay: of headers it is told which are set, not to what, and
//! of users nothing but their names.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use wayspan_proxy::middleware::{PathChange, RequestRedirect};

use crate::config::model::MiddlewareKind;

/// The kind's key in the file, and what stands below it.
pub(super) fn describe(kind: &MiddlewareKind) -> (&str, Value) {
    match kind {
        MiddlewareKind::Headers(edits) => (
            "headers",
            json!({
                "customRequestHeaders": hidden(&edits.request),
                "customResponseHeaders": hidden(&edits.response),
            }),
        ),
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
        MiddlewareKind::RequestRedirect(to) => {
            let RequestRedirect { scheme, hostname, port, path, status } = &**to;
            let path = path.as_ref().map(change);
            let (status, path) = (status.as_u16(), path.unwrap_or(Value::Null));
            (
                "requestRedirect",
                json!({"scheme": scheme, "hostname": hostname, "port": port, "path": path, "statusCode": status}),
            )
        }
        MiddlewareKind::UrlRewrite(rewrite) => {
            let hostname = rewrite.hostname.as_ref().and_then(|name| name.to_str().ok());
            let path = rewrite.path.as_ref().map_or(Value::Null, change);
            ("urlRewrite", json!({"hostname": hostname, "path": path}))
        }
        MiddlewareKind::Chain(names) => ("chain", json!({"middlewares": names})),
        MiddlewareKind::Unsupported(kind) => (kind, json!({})),
    }
}

/// Values are often credentials for the backend: what is set is told, not to what.
fn hidden(list: &[(HeaderName, Option<HeaderValue>)]) -> Map<String, Value> {
    let shown = |value: &Option<_>| if value.is_some() { "xxxx" } else { "" };
    list.iter().map(|(name, value)| (name.to_string(), shown(value).into())).collect()
}

fn change(change: &PathChange) -> Value {
    match change {
        PathChange::Full(path) => json!({"replaceFullPath": path}),
        PathChange::Prefix { prefix, with } => json!({"prefix": prefix, "replacePrefixMatch": with}),
    }
}
