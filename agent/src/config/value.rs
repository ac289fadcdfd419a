//! Texts of the file to values: durations, addresses, URLs, headers. Each parser says what it expected; which key has
//! which kind of value is [`super::schema`]'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::header::InvalidHeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use wayspan_proxy::counters::Bounds;
use wayspan_proxy::middleware::{as_path, has_good_escapes};
use wayspan_proxy::rule::Regexp;

use super::model::Server;
use super::schema::Kind;
use super::yaml::{Node, Value};

/// Checks a node against a kind: (line, message) for all that is wrong.
pub(super) fn check(node: &Node, kind: Kind) -> Vec<(u32, String)> {
    match kind {
        Kind::Section => Vec::new(),
        Kind::Texts | Kind::Networks | Kind::HeaderNames | Kind::Buckets | Kind::Regexes => check_list(node, kind),
        Kind::Map | Kind::HeaderEdits | Kind::SentHeaders => check_map(node, kind),
        _ => match node.text() {
            Some(text) => check_text(text, kind).err().map(|message| (node.line, message)).into_iter().collect(),
            None => vec![(node.line, format!("must be {}, not {}", wanted(kind), node.what()))],
        },
    }
}

fn check_list(node: &Node, kind: Kind) -> Vec<(u32, String)> {
    let Some(items) = texts(node) else {
        return vec![(node.line, format!("must be a list of texts, not {}", node.what()))];
    };
    let check = |text: &str| match kind {
        Kind::Networks => network(text).map(drop),
        Kind::HeaderNames => header_name(text).map(drop),
        Kind::Buckets => text.parse::<f64>().map(drop).map_err(|_| format!("`{text}` is not a number")),
        Kind::Regexes => regex(text).map(drop),
        _ => Ok(()),
    };
    let mut faults: Vec<_> =
        items.iter().filter_map(|(line, text)| check(text).err().map(|message| (*line, message))).collect();
    if kind == Kind::Buckets && faults.is_empty() && bounds(items.iter().map(|(_, text)| *text)).is_none() {
        let most = Bounds::MAX;
        faults.push((node.line, format!("must be positive numbers in ascending order, at most {most}")));
    }
    faults
}

fn check_map(node: &Node, kind: Kind) -> Vec<(u32, String)> {
    if !matches!(node.value, Value::Map(_) | Value::Null) {
        return vec![(node.line, format!("must be names with values, not {}", node.what()))];
    }
    let mut faults = Vec::new();
    for (word, value) in node.entries() {
        if !matches!(value.value, Value::Text(_) | Value::Null) {
            faults.push((value.line, format!("`{}` must have a text as value, not {}", word.text, value.what())));
        } else if kind != Kind::Map {
            let header = check_header(&word.text, value.text().unwrap_or_default(), kind);
            faults.extend(header.err().map(|message| (value.line, message)));
        }
    }
    faults
}

/// A header of a middleware's, or one that goes with spans.
fn check_header(name: &str, value: &str, kind: Kind) -> Result<(), String> {
    let name = header_name(name)?;
    if is_of_the_connection(name.as_str()) {
        return Err(format!("`{name}` belongs to the connection and cannot be set; remove it"));
    }
    if kind == Kind::SentHeaders && name == http::header::CONTENT_ENCODING {
        return Err(format!("`{name}` would be untrue, spans are sent as they are; remove it"));
    }
    // The value is not shown: it may be a secret.
    let unfit = |_| {
        format!("the value of `{name}` must not hold line breaks or other control characters; write it on one line")
    };
    header_value(value).map(drop).map_err(unfit)
}

/// RFC 9110, section 7.6.1, and what frames a message: editing them would break the exchange.
pub(super) fn is_of_the_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn check_text(text: &str, kind: Kind) -> Result<(), String> {
    let refused = || format!("must be {}, not `{text}`", wanted(kind));
    match kind {
        Kind::Bool => boolean(text).map(drop).ok_or_else(refused),
        Kind::AlwaysTrue if boolean(text) == Some(true) => Ok(()),
        Kind::AlwaysFalse if boolean(text) == Some(false) => Ok(()),
        Kind::AlwaysFalse if boolean(text) == Some(true) => Err("not supported yet; remove it".to_owned()),
        Kind::AlwaysFalse => Err(refused()),
        Kind::AlwaysTrue => Err("cannot be switched off here; remove it".to_owned()),
        Kind::Integer(low, high) => match text.parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(()),
            _ => Err(refused()),
        },
        Kind::Share => match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(()),
            _ => Err(refused()),
        },
        Kind::Duration => duration(text).map(drop).ok_or_else(refused),
        Kind::Choice(words) => {
            words.iter().any(|word| word.eq_ignore_ascii_case(text)).then_some(()).ok_or_else(refused)
        }
        Kind::Address => addresses(text).map(drop),
        Kind::Url => server(text).map(drop),
        Kind::Endpoint => endpoint(text).map(drop),
        Kind::Level => log_filter(text),
        Kind::Regex => regex(text).map(drop),
        Kind::Path => path(text).map(drop),
        Kind::Text if text.trim().is_empty() => Err("must not be empty".to_owned()),
        _ => Ok(()),
    }
}

/// What a kind wants, for messages and the reference page.
pub(super) fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Section => "a section".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::AlwaysTrue => "true".to_owned(),
        Kind::AlwaysFalse => "false".to_owned(),
        Kind::Integer(i64::MIN, i64::MAX) => "a whole number".to_owned(),
        Kind::Integer(low, high) => format!("a whole number from {low} to {high}"),
        Kind::Share => "a number from 0 to 1".to_owned(),
        Kind::Duration => "a duration such as 10s or 1m30s".to_owned(),
        Kind::Text => "a text".to_owned(),
        Kind::Texts => "a list of texts".to_owned(),
        Kind::Choice(words) => words.join(" or "),
        Kind::Address => "an address such as :8000".to_owned(),
        Kind::Networks => "a list of networks such as 10.0.0.0/8".to_owned(),
        Kind::HeaderNames => "a list of header names".to_owned(),
        Kind::HeaderEdits | Kind::SentHeaders => "headers with values".to_owned(),
        Kind::Map => "names with values".to_owned(),
        Kind::Buckets => format!("a list of up to {} ascending numbers", Bounds::MAX),
        Kind::Url => "a URL such as http://127.0.0.1:8080".to_owned(),
        Kind::Endpoint => "host:port or a URL".to_owned(),
        Kind::Level => "a log level or filter".to_owned(),
        Kind::Regex => "a regular expression".to_owned(),
        Kind::Regexes => "a list of regular expressions".to_owned(),
        Kind::Anything => "a text, even none".to_owned(),
        Kind::Path => "a path such as /api".to_owned(),
    }
}

/// A list's texts with their lines. A single text is split at commas, as Traefik does.
pub(super) fn texts(node: &Node) -> Option<Vec<(u32, &str)>> {
    match &node.value {
        Value::Null => Some(Vec::new()),
        Value::Text(text) => {
            Some(text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| (node.line, text)).collect())
        }
        Value::List(items) => items.iter().map(|item| Some((item.line, item.text()?))).collect(),
        Value::Map(_) => None,
    }
}

/// YAML's words for yes and no.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    match () {
        () if is(&["true", "yes", "on"]) => Some(true),
        () if is(&["false", "no", "off"]) => Some(false),
        () => None,
    }
}

/// A namespace's name (RFC 1123's label).
pub(super) fn is_namespace(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// The name of an object of most kinds (RFC 1123's subdomain).
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_namespace)
}

/// A key of a label or an annotation, or its beginning with a `*` behind.
pub(super) fn is_label_key(text: &str) -> bool {
    let key = text.strip_suffix('*').unwrap_or(text);
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    // A prefix of 253 bytes, a slash, a name of 63.
    !text.is_empty() && key.len() <= 317 && key.bytes().all(inside)
}

/// Go's duration (`1m30s`, `1.5h`, `200ms`), or seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    // A century; Go's own limit is 292 years.
    const NS_MAX: f64 = 100.0 * 365.0 * 86_400.0 * 1e9;
    let mut rest = text;
    let mut total_ns = 0.0;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        total_ns = text.parse::<f64>().ok()? * 1e9;
        rest = "";
    }
    while !rest.is_empty() {
        let number_len = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, tail) = rest.split_at_checked(number_len)?;
        let unit_len = tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_len)?;
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total_ns += number.parse::<f64>().ok()? * unit_ns;
        rest = tail;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, below the limit")]
    (!text.is_empty() && total_ns <= NS_MAX).then(|| Duration::from_nanos(total_ns.round() as u64))
}

/// Where to listen. `:8000` becomes `[::]:8000`, which the proxy binds dual-stack.
pub(super) fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let example = "write :8000, 127.0.0.1:8000 or [::1]:8000";
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    if text.ends_with("/udp") {
        return Err("UDP entry points are not supported yet".to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port; {example}"))?;
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port; {example}"))?;
    let ips: Vec<IpAddr> = match host {
        "" => vec![Ipv6Addr::UNSPECIFIED.into()],
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let ip = match bare {
                Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::from),
                None => host.parse::<Ipv4Addr>().map(IpAddr::from),
            };
            vec![ip.map_err(|_| format!("`{host}` is not an address; {example}"))?]
        }
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Bounds of histograms, in seconds; without any the default ones.
pub(super) fn bounds<'t>(texts: impl Iterator<Item = &'t str>) -> Option<Bounds> {
    let seconds: Vec<f64> = texts.map(|text| text.parse().ok()).collect::<Option<_>>()?;
    if seconds.is_empty() { Some(Bounds::default()) } else { Bounds::new(&seconds) }
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("`{text}` is neither a network such as 10.0.0.0/8 nor an address"))
}

/// A regular expression in Go's syntax.
pub(super) fn regex(text: &str) -> Result<Regexp, String> {
    Regexp::parse(text.trim()).map_err(|error| format!("`{text}` is not a regular expression: {error}"))
}

/// A path, or a part of one, as it may stand in a request.
pub(super) fn path(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if has_good_escapes(text) {
        Ok(as_path(text))
    } else {
        Err(format!("`{text}` has a `%` without two digits behind it; write `%25`"))
    }
}

/// A header's name.
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{text}` is not a header name; write letters, digits and `-`"))
}

/// A header's value; `None` where it is to be removed.
pub(super) fn header_value(text: &str) -> Result<Option<HeaderValue>, InvalidHeaderValue> {
    if text.is_empty() { Ok(None) } else { HeaderValue::from_bytes(text.as_bytes()).map(Some) }
}

/// A server's URL; its weight is one.
pub(super) fn server(text: &str) -> Result<Server, String> {
    let uri: http::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL; write http://host:port"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https" | "h2c") => return Err(format!("`{text}`: only http:// is supported yet")),
        Some(other) => return Err(format!("`{text}`: `{other}` is not a scheme for it; write http://host:port")),
        None => return Err(format!("`{text}` has no scheme; write http://host:port")),
    }
    let authority = uri.authority().ok_or_else(|| format!("`{text}` has no host"))?;
    if authority.as_str().contains('@') {
        return Err("a URL with user and password is not supported".to_owned());
    }
    if uri.query().is_some() {
        return Err(format!("`{text}` has a query; only a path may follow the host"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let valid = host.parse::<IpAddr>().is_ok()
        || (host.len() <= 253
            && !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')));
    if !valid {
        return Err(format!("`{host}` is not a host name"));
    }
    let port = port(authority)?.unwrap_or(80);
    Ok(Server {
        url: text.to_owned(),
        host: host.to_ascii_lowercase(),
        port,
        path_prefix: uri.path().trim_end_matches('/').to_owned(),
        weight: 1,
        service: None,
        request_headers: None,
    })
}

/// A URL to call, path and query included.
pub(super) fn server_with_target(text: &str) -> Result<(Server, PathAndQuery), String> {
    // What a query says may be a key: it is not told of.
    let parsed = server(text.split('?').next().unwrap_or_default())?;
    let uri: http::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL; write http://host:port/path"))?;
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((Server { path_prefix: String::new(), ..parsed }, target))
}

/// A collector's address: (scheme where given, `host:port`, path).
pub(super) fn endpoint(text: &str) -> Result<(Option<&str>, &str, &str), String> {
    let example = "write host:port, or http://host:port";
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
        Some((scheme, _)) => return Err(format!("`{scheme}` is not a scheme for it; {example}")),
        None => (None, text),
    };
    let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
    let parsed: http::uri::Authority = authority.parse().map_err(|_| format!("`{text}` has no host; {example}"))?;
    // A URL may leave the port to its scheme.
    let has_port = port(&parsed)?.is_some() || scheme.is_some();
    if parsed.host().is_empty() || authority.contains('@') || !has_port {
        return Err(format!("`{text}` has no host and port; {example}"));
    }
    Ok((scheme, authority, path))
}

/// An authority's port, where it names one. `Authority::port` would take a number that does not fit for no port at all.
fn port(authority: &http::uri::Authority) -> Result<Option<u16>, String> {
    // Behind a user there is another host; whoever asks refuses it.
    let Some(port) = authority.as_str().strip_prefix(authority.host()).filter(|port| !port.is_empty()) else {
        return Ok(None);
    };
    let port = port.strip_prefix(':').unwrap_or(port);
    let number = port.parse().ok().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| format!("`{port}` is not a port; write a number from 1 to 65535"))
}

/// Checks a filter part by part: to the filter's own parser a misspelt level is the name of some code.
fn log_filter(text: &str) -> Result<(), String> {
    let filter = level(text);
    let is_good =
        |part: &&str| (part.contains('=') || part.parse::<LevelFilter>().is_ok()) && EnvFilter::try_new(part).is_ok();
    match filter.split(',').filter(|part| !part.is_empty()).find(|part| !is_good(part)) {
        Some(bad) => Err(format!(
            "`{bad}` is not a log level; write error, warn, info, debug, trace or off, or a filter such as \
             info,wayspan_agent=debug"
        )),
        None => Ok(()),
    }
}

/// Traefik's level words as a filter's.
pub(super) fn level(text: &str) -> String {
    let part = |part: &str| match part.to_ascii_lowercase().as_str() {
        "fatal" | "panic" => "error".to_owned(),
        level @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => level.to_owned(),
        _ => part.to_owned(),
    };
    text.split(',').map(|text| part(text.trim())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_or_seconds() {
        for (text, want_ms) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("200ms", Some(200)),
            ("15", Some(15_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("-1s", None),
            ("s", None),
            ("1", Some(1000)),
            ("1.5", None),
            ("1d", None),
            ("1s ", None),
            (".", None),
            ("9999999999999h", None),
            ("1é", None),
        ] {
            assert_eq!(duration(text), want_ms.map(Duration::from_millis), "{text}");
        }
        assert_eq!(duration("3µs"), Some(Duration::from_micros(3)));
    }

    #[test]
    fn addresses_are_traefiks() {
        let check = |text: &str, want: Option<&[&str]>| {
            let got = addresses(text).ok().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(got, want.map(|all| all.iter().map(|one| (*one).to_owned()).collect()), "{text}");
        };
        check(":8000", Some(&["[::]:8000"]));
        check("127.0.0.1:8000", Some(&["127.0.0.1:8000"]));
        check("[::1]:8000", Some(&["[::1]:8000"]));
        check("localhost:80", Some(&["127.0.0.1:80", "[::1]:80"]));
        check(":8000/tcp", Some(&["[::]:8000"]));
        for bad in ["8000", ":", ":99999", "::1:80", "host:80", ":8000/udp", "[127.0.0.1]:80", ""] {
            check(bad, None);
        }
    }

    #[test]
    fn servers_are_urls() {
        for (text, want) in [
            ("http://127.0.0.1:8080", Some(("127.0.0.1", 8080, ""))),
            ("http://Backend.example/api/", Some(("backend.example", 80, "/api"))),
            ("http://[::1]:81", Some(("::1", 81, ""))),
            ("http://my_svc.ns", Some(("my_svc.ns", 80, ""))),
            ("https://a", None),
            ("a:80", None),
            ("http://", None),
            ("http://a:0", None),
            ("http://a:99999", None),
            ("http://u:p@a", None),
            ("http://a/?x", None),
            ("http://a b", None),
            ("/x", None),
        ] {
            let got = server(text).ok();
            assert_eq!(got.as_ref().map(|s| (&*s.host, s.port, &*s.path_prefix)), want, "{text}");
        }
    }

    #[test]
    fn endpoints_are_host_and_port_or_urls() {
        for (text, want) in [
            ("127.0.0.1:4317", Some((None, "127.0.0.1:4317", ""))),
            ("https://a/x", Some((Some("https"), "a", "/x"))),
            ("[::1]:4317", Some((None, "[::1]:4317", ""))),
            ("a", None),
            ("ftp://a:1", None),
            ("a:x", None),
            ("a:99999", None),
            ("http://a:99999", None),
            ("a:0", None),
            ("", None),
            ("http://", None),
        ] {
            assert_eq!(endpoint(text).ok(), want, "{text}");
        }
    }
}
