//! What a part's translation gives is what a whole one gives.

use proptest::prelude::*;

use super::*;
use crate::config::model::EntryPoint;
use crate::kube::objects::Set;

fn settings(allow_empty: bool) -> Kubernetes {
    let provider = KubernetesProvider { allow_empty, ..provider() };
    let (ingress, crd, gateway) = (Some(provider.clone()), Some(provider.clone()), Some(provider));
    Kubernetes { ingress, crd, gateway }
}

/// A change of the cluster: what, which one, and how it is then.
type Change = (u8, u8, u8);

fn service(which: u8, how: u8) -> String {
    // A port that nobody asks for, too.
    let port = if how.is_multiple_of(4) { 81 } else { 80 };
    let name = if how == 5 { "other" } else { "web" };
    let near = if how.is_multiple_of(3) { ", trafficDistribution: PreferSameZone" } else { "" };
    format!(
        "kind: Service\nmetadata: {{name: s{which}, resourceVersion: \"{how}\"}}\nspec: {{ports: [{{name: {name}, port: {port}}}]{near}}}"
    )
}

fn slice(which: u8, how: u8) -> String {
    // Two for each Service, and now and then one moves.
    let (of, number) = (if how == 7 { 0 } else { which / 2 }, which);
    let endpoints = (0..how % 3).map(|one| {
        let zone = if one == 0 { ", zone: z" } else { "" };
        format!("{{addresses: [\"10.0.{number}.{how}{one}\"], conditions: {{ready: {}}}{zone}}}", how % 5 != 4)
    });
    let endpoints: Vec<_> = endpoints.collect();
    format!(
        "kind: EndpointSlice\nmetadata: {{name: e{number}, generation: {how}, labels: {{kubernetes.io/service-name: s{of}}}}}\n\
         addressType: IPv4\nports: [{{name: web, port: 8080}}]\nendpoints: [{}]",
        endpoints.join(", ")
    )
}

fn ingress(which: u8, how: u8) -> String {
    let (one, two) = (which % 4, how % 4);
    let default = if how.is_multiple_of(3) {
        format!("defaultBackend: {{service: {{name: s{two}, port: {{number: 80}}}}}}")
    } else {
        String::new()
    };
    let rules = if how.is_multiple_of(5) {
        String::new()
    } else {
        let path = |path: &str, service: u8| {
            format!(
                "{{path: {path}, pathType: Prefix, backend: {{service: {{name: s{service}, port: {{number: 80}}}}}}}}"
            )
        };
        format!("rules: [{{host: i{which}.example, http: {{paths: [{}, {}]}}}}]", path("/", one), path("/b", two))
    };
    let separator = if default.is_empty() || rules.is_empty() { "" } else { ", " };
    format!("kind: Ingress\nmetadata: {{name: i{which}, generation: {how}}}\nspec: {{{default}{separator}{rules}}}")
}

fn ingress_route(which: u8, how: u8) -> String {
    let service = match how % 3 {
        0 => "{kind: TraefikService, name: t}".to_owned(),
        1 => format!("{{name: s{}, port: 80, weight: 2}}, {{name: s{}, port: web}}", which % 4, how % 4),
        _ => format!("{{name: s{}, port: 80}}", how % 4),
    };
    format!(
        "kind: IngressRoute\nmetadata: {{name: r{which}, generation: {how}}}\n\
         spec: {{routes: [{{kind: Rule, match: \"Host(`r{which}.example`)\", middlewares: [{{name: m}}], services: [{service}]}}]}}"
    )
}

fn http_route(which: u8, how: u8) -> String {
    format!(
        "kind: HTTPRoute\nmetadata: {{name: h{which}, generation: {how}, creationTimestamp: \"2026-01-0{}T00:00:00Z\"}}\n\
         spec: {{parentRefs: [{{name: g}}], hostnames: [h.example], \
         rules: [{{backendRefs: [{{name: s{}, port: 80}}, {{name: s{}, port: 80, weight: {}}}]}}]}}",
        1 + how % 3,
        which % 4,
        how % 4,
        how % 2
    )
}

fn policy(which: u8, how: u8) -> String {
    let section = if how.is_multiple_of(2) { ", sectionName: web" } else { "" };
    format!(
        "kind: BackendTLSPolicy\nmetadata: {{name: p{which}, generation: {how}}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: s{}{section}}}]}}",
        how % 4
    )
}

const REST: &str = "
kind: TraefikService
metadata: {name: t}
spec: {weighted: {services: [{name: s0, port: 80}, {name: s3, port: 80, weight: 3}]}}
---
kind: Middleware
metadata: {name: m}
spec: {chain: {middlewares: [{name: inner}]}}
---
kind: Middleware
metadata: {name: inner}
spec: {addPrefix: {prefix: /n}}
---
kind: GatewayClass
metadata: {name: c}
spec: {controllerName: wayspan.io/gateway-controller}
---
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: c, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

fn change(world: &mut Objects, (what, which, how): Change) {
    fn gone<K: kube::Resource + Clone + PartialEq>(set: &mut Set<K>, name: String) {
        let object = set.get("default", &name).map(|object| K::clone(object));
        if let Some(object) = object {
            set.apply(None, kube::runtime::watcher::Event::Delete(object));
        }
    }
    let text = match what {
        0 | 1 => slice(which, how),
        2 => service(which % 4, how),
        3 => ingress(which, how),
        4 => ingress_route(which, how),
        5 => http_route(which, how),
        6 => return gone(&mut world.slices, format!("e{which}")),
        7 => return gone(&mut world.services, format!("s{}", which % 4)),
        8 => return gone(&mut world.ingresses, format!("i{which}")),
        9 => policy(which, how),
        10 => return gone(&mut world.backend_tls_policies, format!("p{which}")),
        _ => return gone(&mut world.http_routes, format!("h{which}")),
    };
    put(world, serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn a_part_at_a_time_gives_what_all_at_once_gives(
        allow_empty in any::<bool>(),
        changes in prop::collection::vec((0_u8..12, 0_u8..8, 0_u8..9), 1..60),
    ) {
        let settings = settings(allow_empty);
        let around = Around {
            entry_points: vec![entry("web", "[::]:80")],
            ..Around::default()
        };
        let mut world = objects(REST);
        for which in 0..8 {
            for what in [0, 2, 3, 4, 5] {
                change(&mut world, (what, which, 1 + which % 3));
            }
        }
        let mut translator = Translator::default();
        let mut before = translator.translate(&world, &settings, Some("here"), &around);
        for one in changes {
            change(&mut world, one);
            let parts = translator.translate(&world, &settings, Some("here"), &around);
            let whole = Translator::default().translate(&world, &settings, Some("here"), &around);
            prop_assert_eq!(&parts, &whole, "after {:?}", one);
            // What is the same is the same value in memory, and what is another is another.
            for (new, old) in parts.services.iter().filter_map(|new| {
                Some((new, before.services.iter().find(|old| old.name == new.name)?))
            }) {
                prop_assert_eq!(Arc::ptr_eq(new, old), new == old, "{} after {:?}", &new.name, one);
            }
            before = parts;
        }
    }
}

/// An entry point's routes are those of before where only services are others.
#[test]
fn the_entry_points_of_gateways_are_the_same_each_time() {
    let text = REST.replace("port: 80, protocol", "port: 8181, protocol");
    let settings = settings(true);
    let mut translator = Translator::default();
    let mut opened = || -> Vec<EntryPoint> {
        translator.translate(&objects(&text), &settings, None, &Around::default()).entry_points
    };
    assert_eq!(opened(), opened());
}

/// Of two backends that cannot be had a route names the last; the policy of the first hangs on it all the same.
#[test]
fn a_policy_is_told_anew_when_its_service_goes() {
    let (settings, around) =
        (settings(true), Around { entry_points: vec![entry("web", "[::]:80")], ..Around::default() });
    let mut world = objects(REST);
    for one in [(2, 1, 1), (5, 1, 2), (9, 0, 5)] {
        change(&mut world, one);
    }
    let mut translator = Translator::default();
    let before = translator.translate(&world, &settings, None, &around);
    change(&mut world, (7, 1, 0));
    let parts = translator.translate(&world, &settings, None, &around);
    assert_eq!(parts, Translator::default().translate(&world, &settings, None, &around));
    assert_ne!(parts.statuses, before.statuses);
}
