//! Whose request it is: the client's address by Traefik's `ipStrategy`, and what requests are counted by
//! (`sourceCriterion`).

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use http::StatusCode;
use http::header::{HOST, HeaderName};
use http::request::Parts;
use ipnet::IpNet;

use super::{Answer, Client, Verdict, text};
use crate::headers::read_address;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Traefik's `ipStrategy`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IpStrategy {
    /// Where in X-Forwarded-For the client stands.
    pub from: IpFrom,
    /// `ipv6Subnet`: addresses that begin with so many equal bits are one.
    pub ipv6_subnet: Option<u8>,
}

/// Where the client's address is.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum IpFrom {
    /// The connection's other end.
    #[default]
    Peer,
    /// The n-th from the right in X-Forwarded-For, from 1.
    Depth(usize),
    /// The first from the right that is in none of these.
    Excluding(Vec<IpNet>),
}

impl IpStrategy {
    /// The client's address; none where the header does not say one.
    #[must_use]
    pub fn ip(&self, parts: &Parts, client: &Client) -> Option<IpAddr> {
        match &self.from {
            IpFrom::Peer => Some(self.within(client.ip)),
            IpFrom::Depth(depth) => forwarded(parts, client).nth(depth.checked_sub(1)?)?.map(|ip| self.within(ip)),
            IpFrom::Excluding(networks) => {
                let known = |ip: &Option<IpAddr>| ip.is_some_and(|ip| networks.iter().any(|net| net.contains(&ip)));
                forwarded(parts, client).find(|ip| !known(ip))?
            }
        }
    }

    fn within(&self, ip: IpAddr) -> IpAddr {
        match (self.ipv6_subnet, ip) {
            (Some(bits), IpAddr::V6(_)) => IpNet::new(ip, bits).map_or(ip, |net| net.network()),
            _ => ip,
        }
    }
}

/// What X-Forwarded-For said when the request came, from the right; none for what is no address. The connection's other end,
/// which stands behind it by now, is left out.
fn forwarded<'p>(parts: &'p Parts, client: &Client) -> impl Iterator<Item = Option<IpAddr>> + use<'p> {
    let values = parts.headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let hops = values.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    let hops = hops.map(str::trim).filter(|hop| !hop.is_empty()).map(|hop| read_address(hop.as_bytes()));
    let mut hops = hops.peekable();
    hops.next_if_eq(&Some(client.ip.to_canonical()));
    hops
}

/// Traefik's `ipAllowList`.
#[derive(Debug, Clone, PartialEq)]
pub struct IpAllowList {
    /// `sourceRange`.
    pub networks: Vec<IpNet>,
    /// `ipStrategy`.
    pub strategy: IpStrategy,
    /// `rejectStatusCode`.
    pub status: StatusCode,
}

impl IpAllowList {
    /// Lets on who is in one of the networks.
    ///
    /// # Errors
    /// The refusal of everybody else.
    pub fn request(&self, parts: &Parts, client: &Client) -> Verdict {
        let ip = self.strategy.ip(parts, client).map(|ip| ip.to_canonical());
        let allowed = ip.is_some_and(|ip| self.networks.iter().any(|net| net.contains(&ip)));
        if allowed { Ok(()) } else { Err(Answer::status(self.status)) }
    }
}

/// Traefik's `sourceCriterion`: requests that are alike in it are counted together.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// The client's address.
    Ip(IpStrategy),
    /// A header's value.
    Header(HeaderName),
    /// The host that is asked for.
    Host,
}

impl Source {
    /// What a request is counted by. Who has no address, no header or no host is counted with all who have none.
    pub(super) fn key(&self, parts: &Parts, client: &Client, hasher: &RandomState) -> u64 {
        match self {
            Self::Ip(strategy) => hasher.hash_one(strategy.ip(parts, client)),
            Self::Header(name) => hasher.hash_one(parts.headers.get(name).map(http::HeaderValue::as_bytes)),
            // A host is the same in any case (RFC 9110, 4.2.3): to write it otherwise must not get around a limit.
            Self::Host => hasher.hash_one(text(parts, &HOST).to_ascii_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::{PLAIN, parts};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts
            .iter()
            .map(|text| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).unwrap())
            .collect()
    }

    fn from(from: IpFrom) -> IpStrategy {
        IpStrategy { from, ipv6_subnet: None }
    }

    /// The peer is 127.0.0.1, which stands behind what came, as the proxy passes it on.
    fn ip(strategy: &IpStrategy, came: &str) -> Option<String> {
        let chain = if came.is_empty() { "127.0.0.1".to_owned() } else { format!("{came}, 127.0.0.1") };
        let parts = parts("GET", "/", &[("x-forwarded-for", &chain)]);
        strategy.ip(&parts, &PLAIN).map(|ip| ip.to_string())
    }

    #[test]
    fn clients_are_found_in_the_chain_as_in_traefik() {
        let excluding = |texts: &[&str]| from(IpFrom::Excluding(nets(texts)));
        for (strategy, came, want) in [
            (from(IpFrom::Peer), "10.0.0.1", Some("127.0.0.1")),
            (from(IpFrom::Depth(1)), "10.0.0.3,10.0.0.1", Some("10.0.0.1")),
            (from(IpFrom::Depth(2)), "10.0.0.3,10.0.0.1", Some("10.0.0.3")),
            (from(IpFrom::Depth(3)), "10.0.0.3,10.0.0.1", None),
            (from(IpFrom::Depth(1)), "", None),
            (from(IpFrom::Depth(1)), "10.0.0.3, nonsense", None),
            // As some load balancers write them, Azure's with a port.
            (from(IpFrom::Depth(1)), "203.0.113.9:41234", Some("203.0.113.9")),
            (from(IpFrom::Depth(1)), "[2001:db8::1]:443", Some("2001:db8::1")),
            (excluding(&["10.0.0.0/8"]), "1.2.3.4, 10.0.0.2:80", Some("1.2.3.4")),
            (from(IpFrom::Depth(1)), "127.0.0.1", Some("127.0.0.1")),
            (excluding(&[]), "", None),
            (excluding(&["10.0.0.0/8"]), "", None),
            (excluding(&["10.0.0.0/8"]), "1.2.3.4, 10.0.0.2", Some("1.2.3.4")),
            (excluding(&["10.0.0.1", "10.0.0.2"]), "1.2.3.4, 5.6.7.8, 10.0.0.2", Some("5.6.7.8")),
            (excluding(&["10.0.0.0/8"]), "10.0.0.3,10.0.0.2", None),
            (excluding(&["10.0.0.0/8"]), "1.2.3.4, nonsense", None),
            (
                IpStrategy { ipv6_subnet: Some(64), ..from(IpFrom::Depth(1)) },
                "2001:db8:1:2:3::4",
                Some("2001:db8:1:2::"),
            ),
            (IpStrategy { ipv6_subnet: Some(24), ..from(IpFrom::Depth(1)) }, "10.0.0.9", Some("10.0.0.9")),
        ] {
            assert_eq!(ip(&strategy, came).as_deref(), want, "{strategy:?} {came}");
        }
    }

    #[test]
    fn only_those_in_the_ranges_are_let_on() {
        let list = |networks: &[&str], strategy| IpAllowList {
            networks: nets(networks),
            strategy,
            status: StatusCode::FORBIDDEN,
        };
        let asked = |came: &str| parts("GET", "/", &[("x-forwarded-for", came)]);
        for (list, came, status) in [
            (list(&["127.0.0.1"], IpStrategy::default()), "", 0),
            (list(&["20.20.20.20"], IpStrategy::default()), "20.20.20.20", 403),
            (list(&["20.20.20.0/24"], from(IpFrom::Depth(1))), "20.20.20.21, 127.0.0.1", 0),
            (list(&["20.20.20.0/24"], from(IpFrom::Depth(1))), "20.20.21.21, 127.0.0.1", 403),
            (list(&["0.0.0.0/0"], from(IpFrom::Depth(2))), "20.20.20.21, 127.0.0.1", 403),
            (IpAllowList { status: StatusCode::NOT_FOUND, ..list(&["::/0"], IpStrategy::default()) }, "", 404),
        ] {
            let status_of = |answer: Box<Answer>| answer.status.as_u16();
            assert_eq!(list.request(&asked(came), &PLAIN).map_or_else(status_of, |()| 0), status, "{list:?} {came}");
        }
        let mapped = Client { ip: "::ffff:10.0.0.1".parse().unwrap(), ..PLAIN };
        assert!(list(&["10.0.0.0/8"], IpStrategy::default()).request(&asked(""), &mapped).is_ok());
    }

    #[test]
    fn sources_are_alike_in_what_they_are_counted_by() {
        let hasher = RandomState::new();
        let key = |source: &Source, pairs: &[(&str, &str)]| source.key(&parts("GET", "/", pairs), &PLAIN, &hasher);
        assert_eq!(key(&Source::Host, &[("host", "Foo")]), key(&Source::Host, &[("host", "foo")]));
        assert_ne!(key(&Source::Host, &[("host", "foo")]), key(&Source::Host, &[("host", "bar")]));
        let header = Source::Header(HeaderName::from_static("x-key"));
        assert_ne!(key(&header, &[("x-key", "a")]), key(&header, &[("x-key", "b")]));
        assert_ne!(key(&header, &[("x-key", "")]), key(&header, &[]));
        let ip = Source::Ip(from(IpFrom::Depth(1)));
        assert_eq!(key(&ip, &[("x-forwarded-for", "x")]), key(&ip, &[]));
    }
}
