//! The eleven matchers over one request. Values were checked by the parser; here nothing fails.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::pattern::Pattern;
use super::subject::{Subject, escaped};

/// A matcher, perhaps negated.
#[derive(Debug, Clone)]
pub(crate) struct Literal {
    pub(crate) negated: bool,
    pub(crate) matcher: Matcher,
}

/// One matcher with its values.
#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    /// `Host`
    Host(HostName),
    /// `HostRegexp`, on the lower-case host without port.
    HostRegexp(Pattern),
    /// `Path`, in the form of [`super::routing_path`].
    Path(Box<[u8]>),
    /// `PathPrefix`, in the form of [`super::routing_path`]: any string prefix, as in Traefik.
    PathPrefix(Box<[u8]>),
    /// `PathRegexp`
    PathRegexp(Pattern),
    /// `Method`, upper case.
    Method(Box<str>),
    /// `Header`: one of the field's values equals.
    Header(HeaderName, Box<str>),
    /// `HeaderRegexp`: one of the field's values matches.
    HeaderRegexp(HeaderName, Pattern),
    /// `Query`: one of the key's values equals; without a value: is empty.
    Query(Box<str>, Box<str>),
    /// `QueryRegexp`: one of the key's values matches.
    QueryRegexp(Box<str>, Pattern),
    /// `ClientIP`: the peer's own address, not X-Forwarded-For's.
    ClientIp(IpNet),
}

/// What a Host matcher names, lower case, without the root's dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostName {
    /// A name or address.
    Exact(Box<str>),
    /// `*.example.com`: one label before the suffix, which is kept without its dot; `*` alone has an empty one and
    /// means every host.
    Wild(Box<str>),
    /// `**.example.com`: one or more labels before the suffix.
    Deep(Box<str>),
}

impl Literal {
    pub(crate) fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matcher.holds(subject) != self.negated
    }
}

impl Matcher {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Host(host) => host.covers(subject.name),
            Self::HostRegexp(regex) => regex.is_match(subject.host.as_bytes()),
            Self::Path(path) => *subject.path == **path,
            Self::PathPrefix(prefix) => subject.path.starts_with(prefix),
            Self::PathRegexp(regex) => regex.is_match(subject.path),
            Self::Method(method) => *subject.method == **method,
            Self::Header(name, wanted) => {
                subject.headers.get_all(name).iter().any(|value| value.as_bytes() == wanted.as_bytes())
            }
            Self::HeaderRegexp(name, regex) => {
                subject.headers.get_all(name).iter().any(|value| regex.is_match(value.as_bytes()))
            }
            Self::Query(key, wanted) => {
                query_values(subject.query, key.as_bytes()).any(|value| *value == *wanted.as_bytes())
            }
            Self::QueryRegexp(key, regex) => {
                query_values(subject.query, key.as_bytes()).any(|value| regex.is_match(&value))
            }
            Self::ClientIp(net) => contains(net, subject.client_ip),
        }
    }
}

impl HostName {
    fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(host) => *name == **host,
            // As in Traefik, which has it for TCP: with and without a name.
            Self::Wild(suffix) if suffix.is_empty() => true,
            Self::Wild(suffix) => name.split_once('.').is_some_and(|(_, rest)| *rest == **suffix),
            Self::Deep(suffix) => name
                .strip_suffix(&**suffix)
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

fn contains(net: &IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => net.contains(&address),
        (IpNet::V6(net), IpAddr::V6(address)) => net.contains(&address),
        _ => false,
    }
}

/// The decoded values of a key, as Go's url.ParseQuery reads them: a pair with `;` or a broken escape does not count.
fn query_values<'a>(query: &'a str, key: &'a [u8]) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.as_bytes().split(|byte| *byte == b'&').filter_map(move |pair| {
        if pair.is_empty() || pair.contains(&b';') {
            return None;
        }
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = form_decoded(halves.next()?)?;
        let value = form_decoded(halves.next().unwrap_or_default())?;
        (*name == *key).then_some(value)
    })
}

/// Undoes `%xx` and `+`.
fn form_decoded(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr2(b'%', b'+', text).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (value, after) = escaped(after)?;
                out.push(value);
                rest = after;
            }
            b'+' => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    Some(Cow::Owned(out))
}
