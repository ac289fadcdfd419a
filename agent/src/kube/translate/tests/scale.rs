//! What a change costs with thousands of routes, part by part: `cargo test -p wayspan-agent --lib scale -- --ignored --nocapture`.

use std::collections::BTreeMap;

use serde_json::json;
use wayspan_proxy::clock::MonoNs;

use super::*;
use crate::config::model::{Dynamic, EntryPoint, Static};
use crate::config::{Inputs, Registry, disputes, names};
use crate::kube::events;
use crate::kube::status::Lacking;

const ROUTES: usize = 5_000;
const TIMES: usize = 12;

fn ingress(number: usize, version: usize) -> serde_json::Value {
    let backend = json!({"service": {"name": format!("s{:05}", number % ROUTES), "port": {"number": 80}}});
    let path = format!("/{}", if version > 1 { format!("v{version}") } else { String::new() });
    json!({
        "kind": "Ingress",
        "metadata": {"name": format!("s{number:05}"), "generation": version, "uid": "1",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"rules": [{"host": format!("s{number:05}.scale.test"),
                            "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}]},
    })
}

fn http_route(number: usize, version: usize) -> serde_json::Value {
    let path = format!("/{}", if version > 1 { format!("v{version}") } else { String::new() });
    let filters = if number % (ROUTES / 10) == 1 {
        json!([{"type": "ExtensionRef", "extensionRef": {"group": "traefik.io", "kind": "Middleware", "name": "m"}}])
    } else {
        json!([])
    };
    json!({
        "kind": "HTTPRoute",
        "metadata": {"name": format!("s{number:05}"), "generation": version, "uid": "1",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "parentRefs": [{"name": "scale"}], "hostnames": [format!("s{number:05}.scale.test")],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": path}}], "filters": filters,
                       "backendRefs": [{"name": format!("s{:05}", number % ROUTES), "port": 80}]}],
        },
    })
}

fn middleware(version: usize) -> serde_json::Value {
    json!({
        "kind": "Middleware", "metadata": {"name": "m", "generation": version, "uid": "1"},
        "spec": {"addPrefix": {"prefix": format!("/p{version}")}},
    })
}

/// Half Ingress objects, half HTTPRoutes, each with a Service of its own with two endpoints.
fn world() -> Objects {
    let mut world = objects(
        "kind: GatewayClass\nmetadata: {name: scale}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\n\
         kind: Gateway\nmetadata: {name: scale}\n\
         spec: {gatewayClassName: scale, listeners: [{name: web, port: 80, protocol: HTTP}]}\n",
    );
    put(&mut world, middleware(1)).unwrap();
    for number in 0..ROUTES {
        let name = format!("s{number:05}");
        let service = json!({"kind": "Service", "metadata": {"name": name, "resourceVersion": "1"},
                             "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}});
        put(&mut world, service).unwrap();
        for nth in 0..2 {
            let address = format!("10.{nth}.{}.{}", number / 250, number % 250);
            let slice = json!({
                "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{name}-{nth}"), "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            });
            put(&mut world, slice).unwrap();
        }
        let route = if number % 2 == 0 { ingress(number, 1) } else { http_route(number, 1) };
        put(&mut world, route).unwrap();
    }
    world
}

fn resident_mb(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Those who read what translation gives, one behind the other as in the agent.
#[derive(Default)]
struct Node {
    translator: Translator,
    lacking: Lacking,
    registry: Registry,
    parts: Arc<Parts>,
    shown: Option<(Dynamic, crate::catalog::Catalog, wayspan_proxy::snapshot::Snapshot)>,
}

impl Node {
    fn step(&mut self, world: &Objects, times: &mut BTreeMap<&'static str, Vec<f64>>) {
        let settings = {
            let (ingress, crd, gateway) = (Some(provider()), Some(provider()), Some(provider()));
            Kubernetes { ingress, crd, gateway }
        };
        let around = Around {
            entry_points: vec![entry("web", "[::]:80")],
            addresses: vec![("IPAddress".to_owned(), "192.0.2.1".to_owned())],
            ..Around::default()
        };
        let file = Dynamic { entry_points: fragment_entry_points(), ..Dynamic::default() };
        let fixed = Static::default();
        let resolved = Default::default();
        let begun = MonoNs::now();
        let mut last = begun;
        let mut lap = |what: &'static str| {
            let now = MonoNs::now();
            times.entry(what).or_default().push((now.0 - last.0) as f64 / 1e6);
            last = now;
        };
        let parts = self.translator.translate(world, &settings, Some("here"), &around);
        lap("1 translate");
        let is_same = parts.is_same(&self.parts);
        let before = std::mem::replace(&mut self.parts, Arc::new(parts));
        lap("2 same");
        assert!(!is_same);
        self.lacking.renew(world, &self.parts.statuses, "now");
        lap("3 statuses");
        let problems: Vec<_> = self.parts.all_problems().cloned().collect();
        let _ = events::told(world, &problems);
        lap("4 events");
        let (dynamic, missing) = self.parts.merged(&file);
        assert_eq!(missing, []);
        lap("5 merged");
        let disputes = disputes(&dynamic);
        lap("6 disputes");
        let _ = names(&dynamic);
        lap("7 names");
        let inputs = Inputs {
            fixed: &fixed,
            dynamic: &dynamic,
            disputes: &disputes,
            resolved: &resolved,
            api: None,
            now: begun,
        };
        let (snapshot, catalog) = self.registry.build(&inputs);
        lap("8 registry");
        let gone = self.shown.replace((dynamic, catalog, snapshot));
        drop((gone, before));
        lap("9 drop");
        times.entry("total").or_default().push((MonoNs::now().0 - begun.0) as f64 / 1e6);
    }
}

fn fragment_entry_points() -> Vec<EntryPoint> {
    crate::config::fragment::entry_point("web", "[::]:80").into_iter().collect()
}

#[test]
#[ignore = "measures"]
fn what_a_change_costs() {
    let mut world = world();
    let mut node = Node::default();
    let report =
        |node: &mut Node, what: &str, world: &mut Objects, change: &dyn Fn(&mut Objects, usize), count: usize| {
            let mut times = BTreeMap::new();
            for time in 0..count {
                change(world, time);
                node.step(world, &mut times);
            }
            println!("{what}; resident {} MB, most {} MB", resident_mb("VmRSS"), resident_mb("VmHWM"));
            for (stage, mut all) in times {
                all.sort_by(f64::total_cmp);
                println!("  {stage:12} p50 {:8.2}  most {:8.2} ms", all[all.len() / 2], all[all.len() - 1]);
            }
        };
    println!("objects alone; resident {} MB", resident_mb("VmRSS"));
    report(&mut node, "first", &mut world, &|_, _| {}, 1);
    report(
        &mut node,
        "a new Ingress",
        &mut world,
        &|world, time| put(world, ingress(ROUTES + 2 * time, 1)).unwrap(),
        TIMES,
    );
    report(
        &mut node,
        "a new HTTPRoute",
        &mut world,
        &|world, time| put(world, http_route(ROUTES + 3 + 2 * time, 1)).unwrap(),
        TIMES,
    );
    report(
        &mut node,
        "an Ingress changed",
        &mut world,
        &|world, time| put(world, ingress(2468, 2 + time)).unwrap(),
        TIMES,
    );
    report(
        &mut node,
        "an HTTPRoute changed",
        &mut world,
        &|world, time| put(world, http_route(2469, 2 + time)).unwrap(),
        TIMES,
    );
    report(
        &mut node,
        "a Middleware of ten changed",
        &mut world,
        &|world, time| put(world, middleware(2 + time)).unwrap(),
        TIMES,
    );
}
