//! Requests that tell rules apart: made of what the rules themselves name, and of what lies just beside it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue};
use wayspan_proxy::rule::{RequestView, Rule};

/// Of each part of a request at most so many.
const PARTS_MAX: usize = 40;

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: String,
    pub host: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub client_ip: IpAddr,
}

impl Request {
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            client_ip: self.client_ip,
        }
    }

    pub(super) fn satisfies(&self, rule: &Rule) -> bool {
        rule.matches(&self.view())
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{}", self.method, self.host, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        self.headers
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}: {}", String::from_utf8_lossy(value.as_bytes())))
    }
}

/// What rules name.
#[derive(Debug, Default)]
struct Named {
    hosts: BTreeSet<String>,
    paths: BTreeSet<String>,
    methods: BTreeSet<String>,
    headers: BTreeSet<(String, String)>,
    queries: BTreeSet<String>,
    clients: BTreeSet<IpAddr>,
}

/// The requests for some rules.
pub(super) fn requests<'r>(rules: impl Iterator<Item = &'r str>) -> Vec<Request> {
    let mut named = Named::default();
    for rule in rules {
        for (matcher, values) in calls(rule) {
            named.add(&matcher.to_ascii_lowercase(), &values);
        }
    }
    named.hosts.insert("elsewhere.example".to_owned());
    named.paths.insert("/".to_owned());
    named.methods.insert("GET".to_owned());
    let mut all = Vec::new();
    for (method, headers, query, client_ip) in named.variants() {
        for host in named.hosts.iter().take(PARTS_MAX) {
            for path in named.paths.iter().take(PARTS_MAX) {
                let (method, host, path, query) = (method.clone(), host.clone(), path.clone(), query.clone());
                all.push(Request { method, host, path, query, headers: headers.clone(), client_ip });
            }
        }
    }
    all
}

impl Named {
    fn add(&mut self, matcher: &str, values: &[String]) {
        let first = values.first().map(String::as_str).unwrap_or_default();
        let second = values.get(1).map(String::as_str).unwrap_or_default();
        match matcher {
            "host" => {
                let suffix = first.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
                self.hosts.extend(["", "a.", "b.a."].map(|labels| format!("{labels}{suffix}")));
            }
            "hostregexp" => self.hosts.extend([sample(first), format!("a.{}", sample(first))]),
            "path" | "pathprefix" => self.path(first),
            "pathregexp" => self.path(&format!("/{}", sample(first).trim_start_matches('/'))),
            "method" => {
                self.methods.insert(first.to_owned());
            }
            "header" => {
                self.headers.insert((first.to_owned(), second.to_owned()));
            }
            "headerregexp" => {
                self.headers.insert((first.to_owned(), sample(second)));
            }
            "query" => {
                self.queries.insert(format!("{first}={second}"));
            }
            "queryregexp" => {
                self.queries.insert(format!("{first}={}", sample(second)));
            }
            "clientip" => self.clients.extend(first.split('/').next().and_then(|text| text.parse::<IpAddr>().ok())),
            _ => {}
        }
    }

    fn path(&mut self, path: &str) {
        let trimmed = path.trim_end_matches('/');
        self.paths.extend(
            ["", "/", "x", "/x"].map(|more| format!("{trimmed}{more}")).into_iter().filter(|path| !path.is_empty()),
        );
    }

    /// A plain request, all that is named at once, and each alone.
    fn variants(&self) -> Vec<(String, HeaderMap, String, IpAddr)> {
        let anyone = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let header = |(name, value): &(String, String)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
        };
        let some = |wanted: Option<&(String, String)>| -> HeaderMap { wanted.and_then(header).into_iter().collect() };
        let every: HeaderMap = self.headers.iter().filter_map(header).collect();
        let queries = self.queries.iter().cloned().collect::<Vec<_>>().join("&");
        let mut all = vec![("GET".to_owned(), HeaderMap::new(), String::new(), anyone)];
        for method in &self.methods {
            all.push((method.clone(), every.clone(), queries.clone(), anyone));
            all.push((method.clone(), HeaderMap::new(), String::new(), anyone));
            all.extend(self.clients.iter().map(|client| (method.clone(), every.clone(), queries.clone(), *client)));
        }
        for one in self.headers.iter().take(PARTS_MAX) {
            all.push(("GET".to_owned(), some(Some(one)), queries.clone(), anyone));
            all.push(("GET".to_owned(), some(Some(one)), String::new(), anyone));
        }
        for one in self.queries.iter().take(PARTS_MAX) {
            all.push(("GET".to_owned(), every.clone(), one.clone(), anyone));
            all.push(("GET".to_owned(), HeaderMap::new(), one.clone(), anyone));
        }
        all
    }
}

/// A text that a simple regular expression matches, as long as it has no classes but the usual.
fn sample(regex: &str) -> String {
    let mut plain = regex.trim_start_matches('^').trim_end_matches('$').replace("(?:", "(").replace("\\d+", "1");
    for class in ["[a-z0-9-\\.]+", "[a-zA-Z0-9-]+", "[a-z0-9-]+", "[a-z]+", ".*", ".+"] {
        plain = plain.replace(class, "a");
    }
    plain.replace("[0-9]+", "1").chars().filter(|c| !"()^$?\\".contains(*c)).collect()
}

/// The matchers of a rule with their values, by their look alone.
fn calls(rule: &str) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    let mut name = String::new();
    let mut values: Option<Vec<String>> = None;
    let mut rest = rule.chars();
    while let Some(c) = rest.next() {
        match (c, &mut values) {
            ('(', None) if !name.is_empty() => values = Some(Vec::new()),
            (')', Some(_)) => all.push((std::mem::take(&mut name), values.take().unwrap_or_default())),
            ('`', Some(values)) => values.push(rest.by_ref().take_while(|c| *c != '`').collect()),
            ('"', Some(values)) => {
                let mut value = String::new();
                while let Some(c) = rest.next().filter(|c| *c != '"') {
                    value.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
                }
                values.push(value);
            }
            (c, None) if c.is_ascii_alphabetic() => name.push(c),
            (_, None) => name.clear(),
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_meet_both_sides_of_what_rules_name() {
        let rules =
            ["Host(`*.a.b`) && (Path(\"/x\\\"y\") || PathPrefix(`/p/`))", "Header(`N`, `v`) && !Query(`q`, `1`)"];
        assert_eq!(calls("Header(`N`, `v`)"), [("Header".to_owned(), vec!["N".to_owned(), "v".to_owned()])]);
        let all = requests(rules.into_iter());
        for rule in rules {
            let rule = Rule::parse(rule).unwrap();
            let taken = all.iter().filter(|request| request.satisfies(&rule)).count();
            assert!(taken > 0 && taken < all.len(), "{rule}: {taken} of {}", all.len());
        }
    }
}
