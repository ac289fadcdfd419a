//! Hostnames and matches of HTTPRoutes as rules, and what their order is made of.

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};

use super::super::names::quoted;
use super::super::ranks::{Of, PathKind, Rank};

/// Whether `name` is `pattern`, or below it where that is a wildcard: any number of labels, as the API has it.
pub(super) fn is_below(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        // Both begin with a dot here: `*.a` is below `*.a` and not `a`.
        Some(suffix) => {
            let name = name.strip_prefix('*').unwrap_or(name);
            name.len() >= suffix.len() && name.ends_with(suffix) && (name.len() > suffix.len() || name.starts_with('.'))
        }
        None => pattern == name,
    }
}

/// The hostnames that a listener and a route have in common; `None`: none at all. A single empty one is any.
pub(super) fn common(listener: Option<&str>, route: &[String]) -> Option<Vec<String>> {
    let route = route.iter().map(|name| name.to_ascii_lowercase());
    let mut all: Vec<String> = match listener {
        None => route.collect(),
        Some(listener) => {
            let mut any = false;
            let common: Vec<String> = route
                .inspect(|_| any = true)
                .filter_map(|name| {
                    if is_below(listener, &name) {
                        Some(name)
                    } else {
                        is_below(&name, listener).then(|| listener.to_owned())
                    }
                })
                .collect();
            if any && common.is_empty() {
                return None;
            }
            if any { common } else { vec![listener.to_owned()] }
        }
    };
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        all.push(String::new());
    }
    Some(all)
}

/// A host's matcher.
fn host(name: &str) -> Option<String> {
    match name.strip_prefix('*') {
        _ if name.is_empty() => None,
        Some(suffix) => Some(format!("Host({})", quoted(&format!("**{suffix}")))),
        None => Some(format!("Host({})", quoted(name))),
    }
}

/// A match as a rule and its place in the order.
pub(super) struct Matched {
    pub rule: String,
    pub rank: Rank,
}

/// The prefix of a match's path, for filters that replace it.
pub(super) fn prefix(one: Option<&HttpRouteRulesMatches>) -> String {
    let path = one.and_then(|one| one.path.as_ref()).and_then(|path| path.value.as_deref());
    path.unwrap_or("/").to_owned()
}

/// For one hostname.
pub(super) fn matched(hostname: &str, one: &HttpRouteRulesMatches) -> Result<Matched, String> {
    let mut rank = Rank::new(Of::HttpRoute, hostname);
    let mut parts: Vec<String> = host(hostname).into_iter().collect();
    parts.push(path(one, &mut rank));
    if let Some(method) = &one.method {
        let method = serde_json::to_value(method).map_err(|error| error.to_string())?;
        parts.push(format!("Method({})", quoted(method.as_str().unwrap_or_default())));
        rank.method = true;
    }
    let mut seen = Vec::new();
    for header in one.headers.iter().flatten() {
        let name = header.name.to_ascii_lowercase();
        // Of two of one name the first counts.
        if seen.contains(&name) {
            continue;
        }
        let matcher = match header.r#type {
            Some(HttpRouteRulesMatchesHeadersType::RegularExpression) => "HeaderRegexp",
            _ => "Header",
        };
        parts.push(format!("{matcher}({}, {})", quoted(&name), quoted(&header.value)));
        seen.push(name);
    }
    rank.headers = seen.len();
    let mut seen: Vec<&str> = Vec::new();
    for param in one.query_params.iter().flatten() {
        if seen.contains(&param.name.as_str()) {
            continue;
        }
        let matcher = match param.r#type {
            Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression) => "QueryRegexp",
            _ => "Query",
        };
        parts.push(format!("{matcher}({}, {})", quoted(&param.name), quoted(&param.value)));
        seen.push(&param.name);
    }
    rank.params = seen.len();
    Ok(Matched { rule: parts.join(" && "), rank })
}

fn path(one: &HttpRouteRulesMatches, rank: &mut Rank) -> String {
    let value = prefix(Some(one));
    let kind = one.path.as_ref().and_then(|path| path.r#type.as_ref());
    rank.path = value.len();
    match kind {
        Some(HttpRouteRulesMatchesPathType::Exact) => {
            rank.path_kind = PathKind::Exact;
            format!("Path({})", quoted(&value))
        }
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            rank.path_kind = PathKind::Regexp;
            // The whole path, as other implementations have it.
            format!("PathRegexp({})", quoted(&format!("^(?:{value})$")))
        }
        _ => {
            let trimmed = value.trim_end_matches('/');
            rank.path = trimmed.len();
            if trimmed.is_empty() {
                return "PathPrefix(\"/\")".to_owned();
            }
            format!("(Path({}) || PathPrefix({}))", quoted(trimmed), quoted(&format!("{trimmed}/")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_meet_as_the_api_has_it() {
        for (listener, route, want) in [
            ("", vec![], Some(vec![""])),
            ("", vec!["a.example"], Some(vec!["a.example"])),
            ("a.example", vec![], Some(vec!["a.example"])),
            ("a.example", vec!["a.example", "b.example"], Some(vec!["a.example"])),
            ("*.example", vec!["a.example", "b.a.example", "example", "other"], Some(vec!["a.example", "b.a.example"])),
            ("*.example", vec!["*.example"], Some(vec!["*.example"])),
            ("*.example", vec!["*.a.example"], Some(vec!["*.a.example"])),
            ("a.example", vec!["*.example"], Some(vec!["a.example"])),
            ("*.a.example", vec!["*.example"], Some(vec!["*.a.example"])),
            ("a.example", vec!["b.example"], None),
            ("*.example", vec!["example"], None),
            ("*.example", vec!["notexample"], None),
        ] {
            let listener = (!listener.is_empty()).then_some(listener);
            let names: Vec<String> = route.iter().map(|name| (*name).to_owned()).collect();
            let want = want.map(|want| want.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(common(listener, &names), want, "{listener:?} {route:?}");
        }
    }
}
