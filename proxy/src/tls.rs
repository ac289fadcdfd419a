//! What an entry point knows of TLS: which options a server name gets, and which routes are behind it. Built by the agent
//! with each snapshot, certificates and all; handshakes are `client`'s.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::route::RouteTable;
use crate::rule::{Canonical, RequestView, Rule};

/// TLS at one entry point.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Routes of requests that come by TLS; the entry point's own are those of plain ones.
    pub routes: Arc<RouteTable>,
    /// Which options hold for a server name.
    pub choice: Arc<Choice>,
}

/// One set of options, ready for handshakes.
#[derive(Debug)]
pub struct Options {
    /// Its name in the configuration. Connections are held against it, so it lasts over reloads.
    pub name: Box<str>,
    /// Versions, suites, certificates, tickets. One for all workers.
    pub config: Arc<ServerConfig>,
}

/// Options by server name.
#[derive(Debug, Clone)]
pub struct Choice {
    default: Arc<Options>,
    exact: HashMap<Box<str>, Arc<Options>>,
    /// Those of wildcards, by the suffix with its dot.
    wild: HashMap<Box<str>, Wild>,
}

/// Options of a suffix.
#[derive(Debug, Clone, Default)]
struct Wild {
    /// Of names with one label more.
    next: Option<Arc<Options>>,
    /// Of names with any number of labels more.
    deep: Option<Arc<Options>>,
}

impl Choice {
    /// `hosts` are names, `*.example.com` or `**.example.com`, lower-case, each with the options that its routers name.
    /// Where a host's routers disagree, the connection gets the default; [`Choice::misdirected`] keeps requests from
    /// routers that wanted others.
    #[must_use]
    pub fn new(default: Arc<Options>, hosts: impl IntoIterator<Item = (String, Arc<Options>)>) -> Self {
        let mut by_host: HashMap<String, Arc<Options>> = HashMap::new();
        for (host, options) in hosts {
            let known = by_host.entry(host).or_insert_with(|| Arc::clone(&options));
            if known.name != options.name {
                *known = Arc::clone(&default);
            }
        }
        let mut choice = Self { default, exact: HashMap::new(), wild: HashMap::new() };
        for (host, options) in by_host {
            match (host.strip_prefix("**"), host.strip_prefix('*')) {
                (Some(suffix), _) => choice.wild.entry(suffix.into()).or_default().deep = Some(options),
                (None, Some(suffix)) => choice.wild.entry(suffix.into()).or_default().next = Some(options),
                (None, None) => drop(choice.exact.insert(host.into(), options)),
            }
        }
        choice
    }

    /// The options for a lower-case name without a dot at its end; the default where there is no name.
    #[must_use]
    pub fn of(&self, name: Option<&str>) -> &Arc<Options> {
        let Some(name) = name else { return &self.default };
        if let Some(options) = self.exact.get(name) {
            return options;
        }
        self.covering(name).unwrap_or(&self.default)
    }

    /// The options of the longest suffix that covers a name: a look for each of its labels, however many wildcards there are.
    fn covering(&self, name: &str) -> Option<&Arc<Options>> {
        if self.wild.is_empty() {
            return None;
        }
        let dots = name.match_indices('.').map(|(at, _)| at);
        // A star alone covers names of one label.
        let ends = dots.chain([name.len()]).enumerate().filter(|(_, at)| *at > 0);
        ends.filter_map(|(labels, at)| Some((labels == 0, self.wild.get(name.get(at..)?)?)))
            .find_map(|(is_next, wild)| wild.next.as_ref().filter(|_| is_next).or(wild.deep.as_ref()))
    }

    /// Whether both choose the same for everyone.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &Arc<Options>, b: &Arc<Options>| Arc::ptr_eq(a, b);
        same(&self.default, &other.default)
            && self.exact.len() == other.exact.len()
            && self.exact.iter().all(|(host, a)| other.exact.get(host).is_some_and(|b| same(a, b)))
            && self.wild.len() == other.wild.len()
            && self.wild.iter().all(|(suffix, a)| {
                let same = |a: &Option<_>, b: &Option<_>| match (a, b) {
                    (Some(a), Some(b)) => same(a, b),
                    (a, b) => a.is_none() && b.is_none(),
                };
                other.wild.get(suffix).is_some_and(|b| same(&a.next, &b.next) && same(&a.deep, &b.deep))
            })
    }

    /// Whether a request must not be answered on a connection of these options (RFC 9110, 15.5.20): its host has others, or
    /// its router names others (`wanted`).
    #[must_use]
    pub fn misdirected(&self, connection: &Options, request: &RequestView<'_>, wanted: Option<&str>) -> bool {
        if wanted.is_some_and(|wanted| wanted != &*connection.name) {
            return true;
        }
        if self.exact.is_empty() && self.wild.is_empty() {
            return *self.default.name != *connection.name;
        }
        let canonical = Canonical::new(request);
        self.of(Some(canonical.subject(request).name)).name != connection.name
    }
}

/// The hosts that a rule names, as [`Choice::new`] takes them.
#[must_use]
pub fn hosts(rule: &Rule) -> Vec<String> {
    let mut hosts = Vec::new();
    rule.expr().hosts(&mut hosts);
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> Arc<Options> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let resolver = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        Arc::new(Options {
            name: name.into(),
            config: Arc::new(config.with_no_client_auth().with_cert_resolver(resolver)),
        })
    }

    fn choice() -> Choice {
        let hosts = [
            ("a.test", "strict"),
            ("*.w.test", "wide"),
            ("**.d.test", "deep"),
            ("x.d.test", "strict"),
            ("both.test", "strict"),
            ("both.test", "wide"),
        ];
        Choice::new(options("default"), hosts.map(|(host, name)| (host.to_owned(), options(name))))
    }

    #[test]
    fn a_name_gets_the_options_of_its_host_and_the_exact_one_goes_first() {
        let choice = choice();
        for (name, wanted) in [
            (None, "default"),
            (Some("a.test"), "strict"),
            (Some("b.test"), "default"),
            (Some("b.w.test"), "wide"),
            (Some("c.b.w.test"), "default"),
            (Some("w.test"), "default"),
            (Some("c.b.d.test"), "deep"),
            (Some("x.d.test"), "strict"),
            // Its routers disagree.
            (Some("both.test"), "default"),
        ] {
            assert_eq!(&*choice.of(name).name, wanted, "{name:?}");
        }
    }

    #[test]
    fn a_request_is_misdirected_where_its_host_or_router_wants_other_options() {
        let choice = choice();
        let headers = http::HeaderMap::new();
        for (server_name, host, wanted, misdirected) in [
            (Some("a.test"), "A.test:8443", None, false),
            (Some("a.test"), "a.test.", Some("strict"), false),
            (Some("b.test"), "a.test", None, true),
            (None, "a.test", None, true),
            (Some("a.test"), "b.test", None, true),
            (Some("b.test"), "c.test", None, false),
            // Where routers of a host disagree, none of them gets what it did not ask for.
            (Some("both.test"), "both.test", Some("strict"), true),
            (Some("both.test"), "both.test", None, false),
            // A router without a host cannot choose.
            (Some("b.test"), "b.test", Some("strict"), true),
        ] {
            let request = RequestView {
                method: "GET",
                host,
                path: "/",
                query: "",
                headers: &headers,
                client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            };
            let connection = choice.of(server_name);
            assert_eq!(
                choice.misdirected(connection, &request, wanted),
                misdirected,
                "{server_name:?} {host} {wanted:?}"
            );
        }
    }

    #[test]
    fn the_hosts_of_a_rule_are_those_that_it_asks_for() {
        for (rule, wanted) in [
            ("Host(`B.test`) && (PathPrefix(`/`) || Host(`a.test`))", vec!["a.test", "b.test"]),
            ("!Host(`a.test`) && PathPrefix(`/`)", vec![]),
            ("Host(`*.a.test`) || Host(`**.b.test`)", vec!["**.b.test", "*.a.test"]),
        ] {
            assert_eq!(hosts(&Rule::parse(rule).unwrap()), wanted, "{rule}");
        }
    }
}
