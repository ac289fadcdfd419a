//! Objects whose names come to the same: who is called how is nobody's loss.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::model::{Dynamic, MiddlewareKind};
use crate::kube::parts::Object;

fn settings() -> Kubernetes {
    let provider = KubernetesProvider { allow_cross_namespace: true, ..provider() };
    Kubernetes { ingress: Some(provider.clone()), crd: Some(provider.clone()), gateway: Some(provider) }
}

fn around() -> Around {
    Around { entry_points: vec![entry("web", "[::]:80")], ..Around::default() }
}

fn translated(text: &str) -> Parts {
    Translator::default().translate(&objects(text), &settings(), Some("here"), &around())
}

/// Where namespaces and names are from.
struct Words {
    namespaces: [&'static str; 2],
    names: [&'static str; 6],
}

/// `team` with `a-web` is `team-a` with `web`.
const ALIKE: Words =
    Words { namespaces: ["team", "team-a"], names: ["a-web", "web", "a.web", "web-80", "a-web.80", "web-default"] };
const APART: Words = Words { namespaces: ["n0", "n1"], names: ["x0", "x1", "x2", "x3", "x4", "x5"] };

/// An object: its kind, namespace and name, what it refers to in which namespace, and its age.
type One = (u8, usize, usize, usize, usize, u8);

const HOSTS: [&str; 4] = ["web.c", "web-c", "c", "80.c"];

fn text(words: &Words, (kind, namespace, name, there, target, how): One) -> String {
    let (own, there) = (words.namespaces[namespace], words.namespaces[there]);
    let (named, target, host) = (words.names[name], words.names[target], HOSTS[usize::from(how) % 4]);
    let meta = |kind: &str| {
        format!(
            "kind: {kind}\nmetadata: {{namespace: {own}, name: {named}, generation: {how}, creationTimestamp: \
             \"2026-01-0{}T00:00:00Z\"}}\n",
            1 + how % 3
        )
    };
    let port = "port: {number: 80}";
    match kind {
        0 | 1 => {
            let host = if how < 6 { format!("host: {host}, ") } else { String::new() };
            meta("Ingress")
                + &format!(
                    "spec: {{rules: [{{{host}http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {target}, \
                     {port}}}}}}}]}}}}], defaultBackend: {{service: {{name: {named}, {port}}}}}}}"
                )
        }
        2 | 3 => {
            let service = if how.is_multiple_of(2) { "port: 80" } else { "kind: TraefikService" };
            meta("IngressRoute")
                + &format!(
                    "spec: {{tls: {{options: {{name: {target}, namespace: {there}}}}}, routes: [{{match: \"Host(`{host}`)\", \
                     middlewares: [{{name: {target}, namespace: {there}}}], services: [{{name: {named}, namespace: {there}, \
                     {service}}}]}}]}}"
                )
        }
        4 | 5 => {
            meta("HTTPRoute")
                + &format!(
                    "spec: {{parentRefs: [{{name: g, namespace: default}}], hostnames: [{host}], rules: [{{filters: [{{type: \
                     ExtensionRef, extensionRef: {{group: traefik.io, kind: Middleware, name: {target}}}}}, {{type: \
                     RequestMirror, requestMirror: {{backendRef: {{name: {target}, port: 80}}}}}}], backendRefs: [{{name: \
                     {named}, port: 80}}]}}]}}"
                )
        }
        6 => meta("Middleware") + &format!("spec: {{addPrefix: {{prefix: /{namespace}{name}}}}}"),
        7 => {
            meta("Middleware") + &format!("spec: {{chain: {{middlewares: [{{name: {target}, namespace: {there}}}]}}}}")
        }
        8 => {
            let version = ["VersionTLS12", "VersionTLS13"][name % 2];
            meta("TLSOption") + &format!("spec: {{minVersion: {version}, sniStrict: {}}}", namespace == 0)
        }
        9 => meta("TraefikService") + &format!("spec: {{weighted: {{services: [{{name: {target}, port: 80}}]}}}}"),
        _ => {
            meta("Service")
                + "spec: {ports: [{name: web, port: 80}]}\n---\n"
                + &meta("EndpointSlice")
                    .replace("generation", &format!("labels: {{kubernetes.io/service-name: {named}}}, generation"))
                + &format!(
                    "addressType: IPv4\nports: [{{name: web, port: 8080}}]\nendpoints: [{{addresses: \
                     [\"10.{namespace}.{name}.1\"]}}]"
                )
        }
    }
}

const GATEWAY: &str = "kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\n\
    kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, listeners: [{name: http, port: 80, protocol: HTTP, \
    allowedRoutes: {namespaces: {from: All}}}]}\n";

/// What becomes of the requests of each object's routes, without any names.
fn outcomes(words: &Words, parts: &Parts) -> BTreeMap<String, Vec<String>> {
    let (all, _) = parts.merged(&Dynamic::default());
    let servers = |name: &str| -> Vec<String> {
        let service = all.services.iter().filter(|service| service.name == *name).collect::<Vec<_>>();
        assert!(service.len() <= 1, "{name}");
        service.iter().flat_map(|one| &one.servers).map(|server| format!("{} x{}", server.url, server.weight)).collect()
    };
    let place = |all: &[&str], one: &str| all.iter().position(|word| *word == one).unwrap();
    let mut outcomes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for router in &all.routers {
        let Object { kind, key } = parts.origin(&router.name).unwrap();
        let (namespace, name) = (place(&words.namespaces, &key.namespace), place(&words.names, &key.name));
        let middlewares = router.middlewares.iter().map(|name| {
            let all: Vec<_> = all.middlewares.iter().filter(|one| one.name == *name).collect();
            assert_eq!(all.len(), 1, "{name}");
            match &all[0].kind {
                MiddlewareKind::Mirror(mirror) => format!("mirror {:?}", servers(&mirror.service)),
                kind => format!("{kind:?}"),
            }
        });
        let options = router.tls.as_ref().and_then(|tls| tls.options.as_ref()).map(|name| {
            let mut options = all.tls_options.iter().find(|one| one.name == *name).cloned();
            if let Some(options) = &mut options {
                options.name.clear();
            }
            format!("{options:?}")
        });
        let outcome = format!(
            "{}: {:?} through {:?} with {options:?} at {:?}",
            router.rule.text,
            servers(&router.service),
            middlewares.collect::<Vec<_>>(),
            router.entry_points
        );
        outcomes.entry(format!("{kind} {namespace} {name}")).or_default().push(outcome);
    }
    outcomes.values_mut().for_each(|all| all.sort());
    outcomes
}

fn world(words: &Words, all: &[One]) -> Objects {
    let texts: Vec<String> = all.iter().map(|one| text(words, *one)).collect();
    objects(&(GATEWAY.to_owned() + "---\n" + &texts.join("\n---\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn requests_fare_as_they_would_if_no_names_were_alike(
        mut all in prop::collection::vec((0_u8..13, 0_usize..2, 0_usize..6, 0_usize..2, 0_usize..6, 0_u8..9), 1..60),
        changed in (0_usize..2, 0_usize..6),
    ) {
        // One object of each kind and name.
        let mut seen = std::collections::BTreeSet::new();
        let sort = |kind: u8| [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 6][usize::from(kind)];
        all.retain(|one| seen.insert((sort(one.0), one.1, one.2)));
        let translate = |words: &Words| outcomes(words, &Translator::default().translate(
            &world(words, &all), &settings(), Some("here"), &around(),
        ));
        prop_assert_eq!(translate(&ALIKE), translate(&APART));
        // Whose a name is does not hang on who is read with whom.
        let mut translator = Translator::default();
        let mut world = world(&ALIKE, &all);
        let before = translator.translate(&world, &settings(), Some("here"), &around());
        let service = (10, changed.0, changed.1, 0, 0, 7);
        let slice = text(&ALIKE, service).replace(".1\"", ".2\"").replace("generation: 7", "generation: 70");
        let slice = slice.split("\n---\n").nth(1).unwrap_or_default().to_owned();
        put(&mut world, serde_saphyr::from_str(&slice).unwrap()).unwrap();
        let parts = translator.translate(&world, &settings(), Some("here"), &around());
        let whole = Translator::default().translate(&world, &settings(), Some("here"), &around());
        prop_assert_eq!(&parts, &whole);
        prop_assert_eq!(parts.routers.len(), before.routers.len());
    }
}

fn named(namespace: &str, name: &str, created: &str) -> String {
    format!("metadata: {{namespace: {namespace}, name: {name}, creationTimestamp: \"{created}T00:00:00Z\"}}\n")
}

#[test]
fn the_oldest_has_the_name_and_an_annotation_that_could_mean_two_is_refused() {
    let middleware = |namespace: &str, name: &str, created: &str| {
        "kind: Middleware\n".to_owned() + &named(namespace, name, created) + "spec: {addPrefix: {prefix: /x}}\n---\n"
    };
    let ingress = "kind: Ingress\nmetadata: {name: i, annotations: {traefik.ingress.kubernetes.io/router.middlewares: \
                   team-a-auth@kubernetescrd}}\nspec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, \
                   backend: {service: {name: shop, port: {number: 80}}}}]}}]}\n";
    let both = middleware("team", "a-auth", "2026-02-01") + &middleware("team-a", "auth", "2026-01-01");
    let parts = translated(&(both + ingress + &backend("shop", 80, &["10.0.0.1"])));
    let names: Vec<&str> = parts.middlewares.iter().map(|one| one.name.as_str()).collect();
    assert!(names[1] == "team-a-auth@kubernetescrd" && names[0].starts_with("team-a-auth--"), "{names:?}");
    assert_eq!(parts.routers[0].service, UNUSABLE);
    assert_eq!(
        parts.problems[0].message,
        "`team-a-auth@kubernetescrd` is the name of several: Middleware team-a/auth, Middleware team/a-auth; rename all but \
         one of them; its requests are answered with 500"
    );
    // One that cannot be used is meant as well.
    let broken = middleware("team", "a-auth", "2026-02-01").replace("addPrefix: {prefix: /x}", "nothing: {}");
    let both = broken + &middleware("team-a", "auth", "2026-01-01");
    let parts = translated(&(both + ingress + &backend("shop", 80, &["10.0.0.1"])));
    assert_eq!(parts.routers[0].service, UNUSABLE);
    // Alone it is what it was.
    let parts =
        translated(&(middleware("team", "a-auth", "2026-02-01") + ingress + &backend("shop", 80, &["10.0.0.1"])));
    assert_eq!(parts.routers[0].middlewares, ["team-a-auth@kubernetescrd"]);
    assert_eq!(parts.problems, []);
}

#[test]
fn a_transport_that_could_be_two_is_none() {
    let transport = |namespace: &str, name: &str| {
        "kind: ServersTransport\n".to_owned()
            + &named(namespace, name, "2026-01-01")
            + "spec: {maxIdleConnsPerHost: 7}\n---\n"
    };
    let ingress = "kind: Ingress\nmetadata: {name: i}\nspec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: \
                   Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}}]}\n";
    let service = backend("shop", 80, &["10.0.0.1"]).replacen(
        "{name: shop}",
        "{name: shop, annotations: {traefik.ingress.kubernetes.io/service.serverstransport: team-a-slow@kubernetescrd}}",
        1,
    );
    let parts = translated(&(transport("team", "a-slow") + ingress + &service));
    assert_eq!((parts.services[0].idle_max, parts.problems.len()), (7, 0));
    let parts = translated(&(transport("team", "a-slow") + &transport("team-a", "slow") + ingress + &service));
    assert_eq!(parts.routers[0].service, UNUSABLE);
    let message = &parts.problems[0].message;
    assert!(message.contains("team/a-slow") && message.contains("team-a/slow"), "{message}");
}
