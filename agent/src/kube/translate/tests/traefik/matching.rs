//! Traefik's cases of rule matching against our rules and route table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use wayspan_proxy::route::RouteTable;
use wayspan_proxy::rule::Rule;
use wayspan_proxy::snapshot::{self, Fixed, Target};

use super::Outcome;
use super::probe::Request;

#[derive(Debug, Deserialize)]
pub(super) struct Case {
    test: String,
    routes: Option<Vec<Route>>,
    requests: Option<Vec<Asked>>,
}

#[derive(Debug, Deserialize)]
struct Route {
    rule: String,
    syntax: String,
    priority: i64,
    provider: String,
    refused: bool,
}

#[derive(Debug, Deserialize)]
struct Asked {
    method: String,
    host: String,
    path: String,
    query: String,
    headers: Option<BTreeMap<String, Vec<String>>>,
    client: String,
    /// Who took it.
    route: i64,
}

impl Case {
    pub(super) fn outcome(self) -> Outcome {
        let mut said = Vec::new();
        let mut differences = Vec::new();
        let mut rows = Vec::new();
        for (number, route) in self.routes.iter().flatten().enumerate() {
            if route.syntax == "v2" {
                said.push("the rule syntax v2".to_owned());
            }
            if !route.provider.is_empty() {
                said.push(format!("provider {}", route.provider));
            }
            match Rule::parse(&route.rule) {
                Ok(rule) if !route.refused => rows.push((rule, route.priority.into(), row(number))),
                Ok(_) => differences.push(format!("{}: Traefik refuses it", route.rule)),
                Err(_) if route.refused => {}
                Err(error) => differences.push(format!("{}: {error}", route.rule)),
            }
        }
        if differences.is_empty() {
            let table = RouteTable::build(rows);
            for asked in self.requests.iter().flatten() {
                let request = asked.request();
                let found = table.find(&request.view()).map_or(-1, |found| i64::from(found.route.id));
                if found != asked.route {
                    let rules: Vec<&str> = self.routes.iter().flatten().map(|route| route.rule.as_str()).collect();
                    differences.push(format!("{}: {request} goes to {}, ours {found}", rules.join(", "), asked.route));
                }
            }
        }
        Outcome { group: "matching".to_owned(), test: self.test, fixtures: Vec::new(), differences, said }
    }
}

fn row(number: usize) -> Arc<snapshot::Route> {
    let fixed = Fixed { status: 200, content_type: "text/plain", body: bytes::Bytes::new() };
    Arc::new(snapshot::Route {
        id: u32::try_from(number).expect("a test has few routes"),
        name: format!("{number:03}").into(),
        tls_options: None,
        traced: false,
        metered: false,
        middlewares: Box::default(),
        target: Target::Fixed(fixed.into()),
    })
}

impl Asked {
    fn request(&self) -> Request {
        let headers = self.headers.iter().flatten().flat_map(|(name, values)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("Traefik took it");
            values
                .iter()
                .map(move |value| (name.clone(), HeaderValue::from_bytes(value.as_bytes()).expect("Traefik took it")))
        });
        let mut all = HeaderMap::new();
        headers.for_each(|(name, value)| {
            all.append(name, value);
        });
        let client = self.client.parse::<std::net::SocketAddr>().map(|address| address.ip());
        let client = client.or_else(|_| self.client.parse()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Request {
            method: self.method.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            query: self.query.clone(),
            headers: all,
            client_ip: client,
        }
    }
}
