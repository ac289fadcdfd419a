//! Objects with values that nobody meant, by seeds: none makes translation panic, and none changes what becomes of others.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};
use wayspan_proxy::clock::MonoNs;

use super::*;
use crate::config::{Inputs, Registry, Resolved, model};

/// One of each kind, and all that they refer to. Of the ports that others may ask for it has none.
const ALL: &str = r#"
kind: Ingress
metadata: {name: i, annotations: {traefik.ingress.kubernetes.io/router.entrypoints: web, traefik.ingress.kubernetes.io/router.priority: "7", traefik.ingress.kubernetes.io/router.tls: "true", traefik.ingress.kubernetes.io/router.tls.options: NS-strict@kubernetescrd, traefik.ingress.kubernetes.io/router.middlewares: NS-all@kubernetescrd}}
spec: {defaultBackend: {service: {name: shop, port: {name: web}}}, tls: [{hosts: [NS.example], secretName: cert}], rules: [{host: NS.example, http: {paths: [{path: /a, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}, {path: /b, pathType: Exact, backend: {service: {name: other, port: {number: 80}}}}]}}]}
---
kind: Service
metadata: {name: shop, annotations: {traefik.ingress.kubernetes.io/service.serverstransport: NS-slow@kubernetescrd, traefik.ingress.kubernetes.io/service.passhostheader: "true"}}
spec: {trafficDistribution: PreferClose, ports: [{name: web, port: 80, targetPort: 8080}]}
---
kind: Service
metadata: {name: other}
spec: {type: ExternalName, externalName: other.example, ports: [{port: 80}]}
---
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: web, port: 8080}]
endpoints: [{addresses: [10.0.0.1], nodeName: here, zone: east, conditions: {ready: true, serving: true, terminating: false}, hints: {forZones: [{name: east}], forNodes: [{name: here}]}}, {addresses: [10.0.0.2], zone: west, hints: {forZones: [{name: west}]}}]
---
kind: Secret
metadata: {name: users}
data: {users: dGVzdDp7U0hBfXFVcVA1Y3l4bTZZY1RBaHowNUhwaDVndnU5TT0=}
---
kind: IngressRoute
metadata: {name: r}
spec: {entryPoints: [web], tls: {options: {name: strict}, secretName: cert}, routes: [{match: "Host(`r.NS.example`) && PathPrefix(`/x`)", kind: Rule, priority: 9, middlewares: [{name: all}], services: [{name: shop, port: 80, weight: 2, passHostHeader: true, sticky: null}, {name: both, kind: TraefikService}], observability: {tracing: true, traceVerbosity: detailed}}, {match: "Path(`/slow`)", kind: Rule, services: [{name: shop, port: 80, passHostHeader: false, serversTransport: slow}]}]}
---
kind: TraefikService
metadata: {name: both}
spec: {weighted: {services: [{name: shop, port: web, weight: 3}, {name: shop, port: 80, weight: 1}]}}
---
kind: Middleware
metadata: {name: all}
spec: {chain: {middlewares: [{name: auth}, {name: strip}]}}
---
kind: Middleware
metadata: {name: auth}
spec: {basicAuth: {secret: users, realm: x, removeHeader: true}}
---
kind: Middleware
metadata: {name: strip}
spec: {stripPrefixRegex: {regex: ["/x[0-9]+"]}}
---
kind: Middleware
metadata: {name: limit}
spec: {rateLimit: {average: 10, period: 1s, burst: 5, sourceCriterion: {ipStrategy: {depth: 1}}}}
---
kind: ServersTransport
metadata: {name: slow}
spec: {maxIdleConnsPerHost: 3, forwardingTimeouts: {dialTimeout: 2s, idleConnTimeout: 5}}
---
kind: TLSOption
metadata: {name: strict}
spec: {minVersion: VersionTLS12, maxVersion: VersionTLS13, cipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256], curvePreferences: [X25519], sniStrict: true, clientAuth: {secretNames: [], clientAuthType: NoClientCert}}
---
kind: TLSStore
metadata: {name: store}
spec: {defaultCertificate: {secretName: cert}, certificates: [{secretName: cert}]}
---
kind: Gateway
metadata: {name: g, generation: 1}
spec: {gatewayClassName: w, listeners: [{name: http, port: PORT, protocol: HTTP, hostname: "*.NS.example", allowedRoutes: {namespaces: {from: Same}, kinds: [{kind: HTTPRoute}]}}]}
---
kind: BackendTLSPolicy
metadata: {name: p}
spec: {targetRefs: [{group: "", kind: Service, name: other, sectionName: secure}], validation: {hostname: other.example, wellKnownCACertificates: System}}
---
kind: HTTPRoute
metadata: {name: h, generation: 1}
spec: {parentRefs: [{name: g, sectionName: http}], hostnames: [h.NS.example], rules: [{matches: [{path: {type: PathPrefix, value: /p}, method: GET, headers: [{name: a, value: b, type: Exact}], queryParams: [{name: q, value: "[0-9]+", type: RegularExpression}]}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: one}], remove: [z]}}, {type: URLRewrite, urlRewrite: {hostname: u.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /q}}}], timeouts: {request: 10s, backendRequest: 2s}, backendRefs: [{name: shop, port: 80, weight: 2}]}, {filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301, port: 443}}]}]}
---
kind: ReferenceGrant
metadata: {name: grant}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: NS}], to: [{group: "", kind: Service, name: shop}]}
"#;

const CLASSES: &str = "kind: GatewayClass\nmetadata: {name: w, generation: 1}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\nkind: Node\nmetadata: {name: here, labels: {topology.kubernetes.io/zone: east}}\n";

fn documents(namespace: &str, port: &str) -> Vec<Value> {
    let text = ALL.replace("NS", namespace).replace("PORT", port);
    let of = |document: &str| {
        let mut value: Value = serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}: {document}"));
        value["metadata"]["namespace"] = namespace.into();
        value
    };
    text.split("\n---\n").map(of).collect()
}

fn odd_value(random: &mut fastrand::Rng) -> Value {
    let texts = [
        "",
        " ",
        "`",
        "\"",
        "\\",
        "\n",
        "\0",
        "*",
        "*.",
        "**",
        "/",
        "//",
        "../..",
        "%",
        "%zz",
        "é",
        "a b",
        "-1",
        "0",
        "99999999999999999999",
        "(",
        "[",
        "^(",
        "Host(`",
        "Host(`a`) &&",
        "@",
        "x@file",
        "@kubernetescrd",
        "default",
        "default@internal",
        "api@internal",
        "true",
        "1ns",
        "-5s",
        "10.0.0.1",
        "::1",
        "fe80::1%eth0",
        "http",
        "https",
        "h2c",
        "w",
        "shop",
        "strict",
        "all",
        "HTTPS",
        "Exact",
    ];
    match random.u8(..12) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!([-1, 0, 1, 65_535, 65_536, i64::MAX, i64::MIN][random.usize(..7)]),
        4 => json!([0.5, -1e300, 1e300][random.usize(..3)]),
        5 => json!([]),
        6 => json!({}),
        7 => json!([null, {}, "x", 1]),
        8 => "x".repeat(random.usize(..5000)).into(),
        _ => texts[random.usize(..texts.len())].into(),
    }
}

/// Puts odd values where some were.
fn spoil(value: &mut Value, random: &mut fastrand::Rng) {
    match value {
        Value::Object(map) if !map.is_empty() && random.u8(..8) > 0 => {
            let at = random.usize(..map.len());
            let key = map.keys().nth(at).unwrap().clone();
            match random.u8(..10) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert("odd".to_owned(), odd_value(random))),
                _ => spoil(map.get_mut(&key).unwrap(), random),
            }
        }
        Value::Array(list) if !list.is_empty() && random.u8(..8) > 0 => {
            let at = random.usize(..list.len());
            match random.u8(..10) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                _ => spoil(&mut list[at], random),
            }
        }
        value => *value = odd_value(random),
    }
}

/// All but the object's name and who made it: these say whose the rest is.
fn spoiled(document: &Value, random: &mut fastrand::Rng) -> Value {
    let mut odd = document.clone();
    for _ in 0..random.usize(1..4) {
        let parts: Vec<String> = odd
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| !matches!(key.as_str(), "kind" | "metadata"))
            .cloned()
            .collect();
        let annotations = odd["metadata"].as_object().unwrap().contains_key("annotations");
        if annotations && random.u8(..3) == 0 {
            let all = odd["metadata"]["annotations"].as_object_mut().unwrap();
            let key = all.keys().nth(random.usize(..all.len())).unwrap().clone();
            let odd = odd_value(random);
            all.insert(key, odd.as_str().map_or_else(|| odd.to_string(), str::to_owned).into());
        } else if let Some(part) = parts.get(random.usize(..parts.len().max(1))) {
            spoil(&mut odd[part], random);
        }
    }
    odd
}

fn everything() -> Kubernetes {
    let provider = || Some(KubernetesProvider { allow_external_names: true, ..provider() });
    Kubernetes { ingress: provider(), crd: provider(), gateway: provider() }
}

/// What becomes of the objects, one text for each part.
fn told(objects: &Objects, translator: &mut Translator) -> (BTreeMap<String, String>, Parts) {
    let parts = translator.translate(objects, &everything(), Some("here"), &Around::default());
    let routers = parts.routers.iter().map(|one| (format!("router {}", one.name), format!("{one:?}")));
    let services = parts.services.iter().map(|one| (format!("service {}", one.name), format!("{one:?}")));
    let middlewares = parts.middlewares.iter().map(|one| (format!("middleware {}", one.name), format!("{one:?}")));
    let options = parts.tls_options.iter().map(|one| (format!("options {}", one.name), format!("{:?}", one.settings)));
    let statuses = parts.statuses.iter().map(|one| (format!("status {}", one.object), format!("{one:?}")));
    (routers.chain(services).chain(middlewares).chain(options).chain(statuses).collect(), parts)
}

#[test]
fn odd_objects_panic_nowhere_and_hurt_only_themselves() {
    let mut good = objects(CLASSES);
    for document in documents("aa", "7001") {
        put(&mut good, document).unwrap();
    }
    let (alone, parts) = told(&good, &mut Translator::default());
    assert!(parts.routers.len() >= 6 && parts.services.len() >= 4, "{:?}", shown(&parts));
    let others = documents("zz", "7002");
    let mut translator = Translator::default();
    for seed in 0..400_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut mixed = good.clone();
        let mut odd = Vec::new();
        for document in &others {
            let document = if random.u8(..3) == 0 { spoiled(document, &mut random) } else { document.clone() };
            // What the API server itself reads must be readable; what has no schema is refused by nobody but us.
            if put(&mut mixed, document.clone()).is_ok() {
                odd.push(document);
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (with, parts) = told(&mixed, &mut translator);
            for (name, text) in &alone {
                assert_eq!(with.get(name), Some(text), "{name}");
            }
            let (dynamic, _) = parts.merged(&model::Dynamic::default());
            let fixed = model::Static::default();
            let (disputes, resolved) = (&crate::config::disputes(&dynamic), &Resolved::default());
            let inputs = Inputs { fixed: &fixed, dynamic: &dynamic, disputes, resolved, api: None, now: MonoNs(1) };
            Registry::default().build(&inputs);
        }));
        assert!(outcome.is_ok(), "seed {seed}:\n{}", odd.iter().map(|one| format!("{one}\n")).collect::<String>());
    }
}
