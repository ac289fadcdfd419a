//! Texts of span attributes made from raw ones: addresses, redacted queries, whole URLs. Pure; what goes where is
//! `span`'s.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::catalog::ServerNames;

/// What stands for a value that may be a secret (OpenTelemetry's word, and Traefik's).
const REDACTED: &str = "REDACTED";

/// Appends an address. IPv4 by hand: `Display` costs 60 ns, this 10.
pub(super) fn address(out: &mut String, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        // Writing to a string cannot fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            out.push('.');
        }
        if octet >= 100 {
            out.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            out.push(char::from(b'0' + octet / 10 % 10));
        }
        out.push(char::from(b'0' + octet % 10));
    }
}

/// Host and port of a `Host` header's value, where it has a port.
pub(super) fn split_host(host: &str) -> (&str, Option<u16>) {
    if let Some((inner, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (inner, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

/// Appends a raw query with the values of all parameters but the safe ones replaced. A part without `=` may be a
/// secret as a whole (`?token123`).
pub(super) fn query(out: &mut String, query: &str, safe: &[Box<str>]) {
    for (index, part) in query.split('&').enumerate() {
        if index > 0 {
            out.push('&');
        }
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
        if part.is_empty() || safe.iter().any(|safe| **safe == *name) {
            out.push_str(part);
        } else {
            if value.is_some() {
                out.push_str(name);
                out.push('=');
            }
            out.push_str(REDACTED);
        }
    }
}

/// Appends the URL that an attempt asked for, without credentials. `redacted_query` may be empty.
pub(super) fn full_url(out: &mut String, server: &ServerNames, path: &str, redacted_query: &str) {
    let (scheme, default_port) = if server.url.starts_with("https:") { ("https", 443) } else { ("http", 80) };
    out.push_str(scheme);
    out.push_str("://");
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    if host.contains(':') {
        let _ = write!(out, "[{host}]");
    } else {
        out.push_str(host);
    }
    if server.port != default_port {
        out.push(':');
        number(out, server.port);
    }
    out.push_str(&server.path_prefix);
    out.push_str(path);
    if !redacted_query.is_empty() {
        out.push('?');
        out.push_str(redacted_query);
    }
}

/// Appends a decimal number.
pub(super) fn number(out: &mut String, number: u16) {
    let mut divisor = 10_000;
    while divisor > 1 && number / divisor == 0 {
        divisor /= 10;
    }
    while divisor > 0 {
        out.push(char::from(b'0' + u8::try_from(number / divisor % 10).unwrap_or(0)));
        divisor /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_numbers_read_as_display_writes_them() {
        for ip in ["0.0.0.0", "10.1.20.255", "192.0.2.100", "::1", "2001:db8::5"] {
            let mut out = String::new();
            address(&mut out, ip.parse().unwrap());
            assert_eq!(out, ip);
        }
        for value in [0, 7, 10, 99, 100, 1000, 8080, 10_000, u16::MAX] {
            let mut out = String::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string());
        }
    }

    #[test]
    fn hosts_are_split_from_their_ports() {
        for (host, expected) in [
            ("a.example:8000", ("a.example", Some(8000))),
            ("a.example", ("a.example", None)),
            ("[::1]:80", ("::1", Some(80))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("a:", ("a", None)),
            ("a:99999", ("a", None)),
            ("[::1", ("[::1", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split_host(host), expected, "{host}");
        }
    }

    #[test]
    fn only_safe_parameters_keep_their_values() {
        for (raw, expected) in [
            ("customer=392", "customer=392"),
            ("customer=1&token=abc=d", "customer=1&token=REDACTED"),
            ("Customer=1", "Customer=REDACTED"),
            ("secret", "REDACTED"),
            ("customer", "customer"),
            ("&&a=", "&&a=REDACTED"),
            ("custom%65r=1", "custom%65r=REDACTED"),
        ] {
            let mut out = String::new();
            query(&mut out, raw, &["customer".into()]);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn urls_are_whole_and_hold_no_credentials() {
        for (url, host, port, prefix, expected) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "", "http://127.0.0.1:8080/x?q=REDACTED"),
            ("http://user:pw@a.example/p/", "a.example", 80, "/p", "http://a.example/p/x?q=REDACTED"),
            ("https://[::1]", "::1", 443, "", "https://[::1]/x?q=REDACTED"),
            ("http://[::1]:81", "[::1]", 81, "", "http://[::1]:81/x?q=REDACTED"),
        ] {
            let (url, host, path_prefix) = (url.into(), host.into(), prefix.into());
            let server = ServerNames { url, host, port, path_prefix, addresses: Vec::new(), service: None };
            let mut out = String::new();
            full_url(&mut out, &server, "/x", "q=REDACTED");
            assert_eq!(out, expected);
        }
    }
}
