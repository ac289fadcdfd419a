//! Whom a request was meant for. A page anywhere can point a name of its own at this address and read the api through
//! a visitor's browser (DNS rebinding); only the Host tells, so only names that cannot be pointed here are answered.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use http::request::Parts;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No Host, more than one, or one that cannot be read.
    Unclear,
    /// A name that is not ours.
    Foreign,
}

/// The Host of a request as it came, without judgement; empty where there is none.
pub(super) fn named(head: &Parts) -> &str {
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default()
}

/// Whether the request may be answered, given `api.allowedHosts`.
pub(super) fn judge(head: &Parts, allowed: &[String]) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    // The authority of an absolute target outranks Host (RFC 9112, 3.2.2).
    let text = match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, None) => return Err(Refusal::Unclear),
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().map_err(|_| Refusal::Unclear)?,
    };
    let name = name(text).ok_or(Refusal::Unclear)?;
    if is_ours(&name, allowed) { Ok(()) } else { Err(Refusal::Foreign) }
}

/// The host of `host[:port]`, lower-case.
fn name(text: &str) -> Option<String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port_fits = match rest.strip_prefix(':') {
        Some(port) => port.is_empty() || port.parse::<u16>().is_ok_and(|_| port.bytes().all(|b| b.is_ascii_digit())),
        None => rest.is_empty(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (port_fits && !host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn is_ours(name: &str, allowed: &[String]) -> bool {
    // An address cannot be re-pointed, and localhost is answered by the machine itself (RFC 6761, 6.3).
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || name.parse::<Ipv6Addr>().is_ok()
        || allowed.iter().any(|host| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_else_can_point_here_are_ours() {
        let allowed = ["dash.example.com".to_owned()];
        for (target, hosts, expected) in [
            ("/", &["localhost"][..], Ok(())),
            ("/", &["LOCALHOST:9000"], Ok(())),
            ("/", &["localhost."], Ok(())),
            ("/", &["dashboard.localhost:9000"], Ok(())),
            ("/", &["127.0.0.1:9000"], Ok(())),
            ("/", &["10.1.2.3"], Ok(())),
            ("/", &["[::1]:9000"], Ok(())),
            ("/", &["[fd00::7]"], Ok(())),
            ("/", &["Dash.Example.com:80"], Ok(())),
            ("http://127.0.0.1/", &["evil.example"], Ok(())),
            ("http://evil.example/", &["127.0.0.1"], Err(Refusal::Foreign)),
            ("/", &["evil.example"], Err(Refusal::Foreign)),
            ("/", &["evil.example:9000"], Err(Refusal::Foreign)),
            ("/", &["notlocalhost"], Err(Refusal::Foreign)),
            ("/", &["localhost.evil.example"], Err(Refusal::Foreign)),
            ("/", &["127.0.0.1.evil.example"], Err(Refusal::Foreign)),
            ("/", &["sub.dash.example.com"], Err(Refusal::Foreign)),
            ("/", &["::1"], Err(Refusal::Unclear)),
            ("/", &["[localhost]"], Err(Refusal::Unclear)),
            ("/", &["[::1]x"], Err(Refusal::Unclear)),
            ("/", &["localhost:+80"], Err(Refusal::Unclear)),
            ("/", &["localhost:99999"], Err(Refusal::Unclear)),
            ("/", &["localhost:80:80"], Err(Refusal::Unclear)),
            ("/", &[""], Err(Refusal::Unclear)),
            ("/", &["."], Err(Refusal::Unclear)),
            ("/", &[], Err(Refusal::Unclear)),
            ("/", &["localhost", "localhost"], Err(Refusal::Unclear)),
        ] {
            let mut request = http::Request::get(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(judge(&head, &allowed), expected, "{target} {hosts:?}");
        }
    }
}
