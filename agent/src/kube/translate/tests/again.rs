//! After any change what is translated again makes of all objects what a translation of all of them makes.

use std::fmt::Write as _;
use std::sync::LazyLock;

use k8s_openapi::ByteString;

use super::super::view::{Read, deaf};
use super::*;
use crate::config::model::StatusAddress;
use crate::kube::objects::Set;

/// Small enough that objects mean one another.
const NAMESPACES: [&str; 3] = ["team", "team-a", "default"];

/// Some certificates with their keys, each for two of the hosts.
fn certificate(number: usize) -> [String; 2] {
    static ALL: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
        let made = (0..4).map(|number| {
            let hosts = [number, number + 1].map(|host| format!("h{}.test", host % 3));
            let made = rcgen::generate_simple_self_signed(hosts.to_vec()).unwrap();
            [made.cert.pem(), made.signing_key.serialize_pem()]
        });
        made.collect()
    });
    ALL[number].clone()
}

fn encoded(text: String) -> String {
    let value = serde_json::to_value(ByteString(text.into_bytes())).unwrap();
    value.as_str().unwrap().to_owned()
}

/// A world that changes.
struct World {
    objects: Objects,
    random: fastrand::Rng,
    version: u32,
    /// The kind that changes most; empty: none.
    often: &'static str,
}

impl World {
    fn new(seed: u64) -> Self {
        let objects =
            objects("kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: wayspan.io/gateway-controller}");
        let mut world = Self { objects, random: fastrand::Rng::with_seed(seed), version: 1, often: "" };
        for _ in 0..60 {
            world.change();
        }
        world
    }

    fn one<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.random.usize(..all.len())]
    }

    fn is(&mut self, percent: u8) -> bool {
        self.random.u8(..100) < percent
    }

    /// Name and namespace, and when it was made.
    fn metadata(&mut self, namespace: &str, name: &str, more: &str) -> String {
        self.version += 1;
        let created = match self.random.u8(..4) {
            0 => String::new(),
            day => format!(", creationTimestamp: \"2026-01-0{day}T00:00:00Z\""),
        };
        let namespace = if namespace.is_empty() { String::new() } else { format!("namespace: {namespace}, ") };
        format!("metadata: {{{namespace}name: {name}, resourceVersion: \"{}\"{created}{more}}}\n", self.version)
    }

    fn service(&mut self) -> String {
        format!("s{}", self.random.u8(..3))
    }

    fn middleware(&mut self) -> String {
        self.one(&["auth", "a-auth", "all", "inner"]).to_owned()
    }

    /// An object of a kind, as it is now.
    fn text(&mut self, kind: &str) -> String {
        let namespace = self.one(&NAMESPACES);
        let mut text = format!("kind: {kind}\n");
        let (name, more, spec) = match kind {
            "Service" => {
                let (name, port) = (self.service(), if self.is(80) { 80 } else { 81 });
                let transport = if self.is(20) {
                    ", annotations: {traefik.ingress.kubernetes.io/service.serverstransport: team-t@kubernetescrd}"
                } else {
                    ""
                };
                (name, transport.to_owned(), format!("spec: {{ports: [{{name: web, port: {port}}}]}}"))
            }
            "EndpointSlice" => {
                let (name, of, ready) = (format!("e{}", self.random.u8(..5)), self.service(), self.is(75));
                let labels = format!(", labels: {{kubernetes.io/service-name: {of}}}");
                let endpoint =
                    format!("[{{addresses: [\"10.0.0.{}\"], conditions: {{ready: {ready}}}}}]", self.random.u8(..9));
                (name, labels, format!("addressType: IPv4\nports: [{{name: web, port: 8080}}]\nendpoints: {endpoint}"))
            }
            "Secret" if self.is(50) => {
                let (namespaces, number) = (self.random.u8(..2), self.random.u8(..2));
                let [chain, key] = certificate(usize::from(2 * namespaces + number)).map(encoded);
                ("cert".to_owned(), String::new(), format!("data: {{tls.crt: {chain}, tls.key: {key}}}"))
            }
            "Secret" => {
                let users = self.one(&["YTpiCg==", "Yzpk", "\"\""]);
                ("users".to_owned(), String::new(), format!("data: {{users: {users}}}"))
            }
            "Namespace" => (namespace.to_owned(), format!(", labels: {{open: \"{}\"}}", self.is(50)), String::new()),
            "IngressClass" => {
                let (name, ours) = (self.one(&["own", "other"]).to_owned(), self.is(50));
                let default = if self.is(30) {
                    ", annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}"
                } else {
                    ""
                };
                let controller = if ours { "wayspan.io/ingress-controller" } else { "example.org/other" };
                (name, default.to_owned(), format!("spec: {{controller: {controller}}}"))
            }
            "Middleware" => {
                let (name, other) = (self.middleware(), self.middleware());
                let spec = match self.random.u8(..5) {
                    0 => format!("{{addPrefix: {{prefix: /{}}}}}", self.version),
                    1 => "{nothing: {}}".to_owned(),
                    2 => "{basicAuth: {secret: users}}".to_owned(),
                    _ => format!("{{chain: {{middlewares: [{{name: {other}}}]}}}}"),
                };
                (name, String::new(), format!("spec: {spec}"))
            }
            "Ingress" => self.ingress(),
            _ => self.of_traefik(kind),
        };
        let namespace = if matches!(kind, "Namespace" | "IngressClass" | "GatewayClass") { "" } else { namespace };
        text += &self.metadata(namespace, &name, &more);
        text + &spec
    }

    fn of_traefik(&mut self, kind: &str) -> (String, String, String) {
        match kind {
            "ServersTransport" => (
                "t".to_owned(),
                String::new(),
                format!("spec: {{forwardingTimeouts: {{dialTimeout: {}s}}}}", self.random.u8(1..9)),
            ),
            "TraefikService" => {
                let service = self.service();
                (
                    "w".to_owned(),
                    String::new(),
                    format!(
                        "spec: {{weighted: {{services: [{{name: {service}, port: 80, weight: {}}}]}}}}",
                        self.random.u8(1..4)
                    ),
                )
            }
            "TLSOption" => {
                let name = self.one(&["o", "a-o", "default", "default", "a-default"]).to_owned();
                let version = self.one(&["VersionTLS12", "VersionTLS13", "Nothing"]);
                let asks = match self.random.u8(..4) {
                    0 | 1 => ", clientAuth: {clientAuthType: RequireAnyClientCert}",
                    2 => ", clientAuth: {secretNames: [users]}",
                    _ => "",
                };
                (name, String::new(), format!("spec: {{minVersion: {version}{asks}}}"))
            }
            "TLSStore" => {
                ("default".to_owned(), String::new(), "spec: {defaultCertificate: {secretName: cert}}".to_owned())
            }
            "IngressRoute" => self.ingress_route(),
            _ => self.of_gateways(kind),
        }
    }

    fn of_gateways(&mut self, kind: &str) -> (String, String, String) {
        match kind {
            "ReferenceGrant" => {
                let from = self.one(&NAMESPACES);
                let spec = format!(
                    "spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{{group: \"\", kind: Service}}]}}"
                );
                ("grant".to_owned(), String::new(), spec)
            }
            "BackendTLSPolicy" => {
                let service = self.service();
                (
                    "p".to_owned(),
                    String::new(),
                    format!("spec: {{targetRefs: [{{group: \"\", kind: Service, name: {service}}}]}}"),
                )
            }
            "GatewayClass" => {
                let ours = self.is(80);
                let controller = if ours { "wayspan.io/gateway-controller" } else { "example.org/other" };
                ("c".to_owned(), String::new(), format!("spec: {{controllerName: {controller}}}"))
            }
            "Gateway" if self.is(10) => {
                ("g".to_owned(), String::new(), "spec: {gatewayClassName: c, listeners: 7}".to_owned())
            }
            "Gateway" => {
                let from = self.one(&[
                    "{from: All}",
                    "{from: Same}",
                    "{from: Selector, selector: {matchLabels: {open: \"true\"}}}",
                ]);
                let port = self.one(&["80", "8080"]);
                let spec = format!(
                    "spec: {{gatewayClassName: c, allowedListeners: {{namespaces: {{from: All}}}}, \
                     listeners: [{{name: http, port: {port}, protocol: HTTP, allowedRoutes: {{namespaces: {from}}}}}, \
                     {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]}}"
                );
                ("g".to_owned(), String::new(), spec)
            }
            "ListenerSet" => {
                let of = self.one(&NAMESPACES);
                let spec = format!(
                    "spec: {{parentRef: {{name: g, namespace: {of}}}, listeners: [{{name: more, port: 8181, protocol: HTTP}}]}}"
                );
                ("set".to_owned(), String::new(), spec)
            }
            "HTTPRoute" => self.http_route(),
            other => panic!("{other}"),
        }
    }

    fn ingress(&mut self) -> (String, String, String) {
        let (name, service) = (self.one(&["web", "a-web"]).to_owned(), self.service());
        let mut annotations = String::new();
        if self.is(30) {
            let (namespace, middleware) = (self.one(&NAMESPACES), self.middleware());
            let _ = write!(
                annotations,
                "traefik.ingress.kubernetes.io/router.middlewares: {namespace}-{middleware}@kubernetescrd, "
            );
        }
        if self.is(20) {
            annotations += "traefik.ingress.kubernetes.io/router.tls: \"true\", traefik.ingress.kubernetes.io/router.tls.options: team-o@kubernetescrd, ";
        }
        if self.is(20) {
            let _ = write!(
                annotations,
                "traefik.ingress.kubernetes.io/router.entrypoints: {}, ",
                self.one(&["web", "gateway-8181", "none"])
            );
        }
        let class =
            if self.is(30) { format!("ingressClassName: {}, ", self.one(&["own", "other"])) } else { String::new() };
        let backend = format!("{{service: {{name: {service}, port: {{number: 80}}}}}}");
        let routes = match self.is(35) {
            true => format!("defaultBackend: {backend}"),
            false => format!(
                "tls: [{{secretName: cert}}], rules: [{{host: h{}.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {backend}}}]}}}}]",
                self.random.u8(..3)
            ),
        };
        (name, format!(", annotations: {{{annotations}}}"), format!("spec: {{{class}{routes}}}"))
    }

    fn ingress_route(&mut self) -> (String, String, String) {
        let (name, service, middleware) = (self.one(&["web", "a-web"]).to_owned(), self.service(), self.middleware());
        let service = match self.random.u8(..4) {
            0 => "{name: w, kind: TraefikService}".to_owned(),
            1 => format!("{{name: {service}, port: 80, serversTransport: t}}"),
            2 => "{name: team-w@kubernetescrd, kind: TraefikService}".to_owned(),
            _ => format!("{{name: {service}, port: 80}}"),
        };
        let middleware = match self.is(30) {
            true => format!("{}-{middleware}@kubernetescrd", self.one(&NAMESPACES)),
            false => middleware,
        };
        let options = match self.random.u8(..8) {
            0..3 => format!(", options: {{name: {}}}", self.one(&["o", "a-o"])),
            3 => format!(", options: {{name: default, namespace: {}}}", self.one(&NAMESPACES)),
            _ => String::new(),
        };
        let tls = if self.is(60) { format!("tls: {{secretName: cert{options}}}, ") } else { String::new() };
        let matched = match self.is(70) {
            true => format!("Host(`h{}.test`)", self.random.u8(..3)),
            false => "PathPrefix(`/`)".to_owned(),
        };
        let rule = format!(
            "{{kind: Rule, match: \"{matched}\", middlewares: [{{name: {middleware}}}], services: [{service}]}}"
        );
        (name, String::new(), format!("spec: {{{tls}routes: [{rule}]}}"))
    }

    fn http_route(&mut self) -> (String, String, String) {
        let (name, service, middleware) = (self.one(&["web", "a-web"]).to_owned(), self.service(), self.middleware());
        let of = self.one(&NAMESPACES);
        let parent = match self.is(25) {
            true => format!("{{kind: ListenerSet, name: set, namespace: {of}}}"),
            false => format!("{{name: g, namespace: {of}}}"),
        };
        let filters = match self.random.u8(..4) {
            0 => format!(
                "{{type: ExtensionRef, extensionRef: {{group: traefik.io, kind: Middleware, name: {middleware}}}}}"
            ),
            1 => "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}".to_owned(),
            2 => format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {service}, port: 80}}}}}}"),
            _ => String::new(),
        };
        let elsewhere = if self.is(30) { format!(", namespace: {}", self.one(&NAMESPACES)) } else { String::new() };
        // What cannot be served of a rule that may be the only one, or of two.
        let more = match self.random.u8(..6) {
            0 => ", sessionPersistence: {}",
            1 => ", matches: [{path: {type: RegularExpression, value: \"(\"}}]",
            2 => ", matches: [{path: {type: RegularExpression, value: \"(\"}}, {path: {value: /served}}]",
            _ => "",
        };
        let other =
            if self.is(50) { format!(", {{backendRefs: [{{name: {service}, port: 80}}]}}") } else { String::new() };
        let spec = format!(
            "spec: {{parentRefs: [{parent}], hostnames: [h{}.test], \
             rules: [{{filters: [{filters}], backendRefs: [{{name: {service}, port: 80{elsewhere}}}]{more}}}{other}]}}",
            self.random.u8(..3)
        );
        (name, String::new(), spec)
    }

    /// Makes, changes or takes away an object.
    fn change(&mut self) {
        const KINDS: [&str; 25] = [
            "Service",
            "EndpointSlice",
            "EndpointSlice",
            "Secret",
            "Namespace",
            "IngressClass",
            "Middleware",
            "Middleware",
            "ServersTransport",
            "ServersTransport",
            "TraefikService",
            "TLSOption",
            "TLSOption",
            "TLSStore",
            "ReferenceGrant",
            "BackendTLSPolicy",
            "GatewayClass",
            "Gateway",
            "Gateway",
            "ListenerSet",
            "IngressRoute",
            "IngressRoute",
            "HTTPRoute",
            "HTTPRoute",
            "HTTPRoute",
        ];
        if self.is(3) {
            let (kind, is_refused) = (self.one(&["TLSOption", "BackendTLSPolicy"]), self.is(30));
            let scope = if self.is(50) { Some(self.one(&NAMESPACES).into()) } else { None };
            self.objects.refused.note(kind.to_owned(), scope, is_refused);
            return;
        }
        let often = self.often;
        let kind = match often {
            _ if !often.is_empty() && self.is(40) => often,
            _ if self.is(20) => "Ingress",
            _ => self.one(&KINDS),
        };
        if self.is(25) {
            return self.take_away(kind);
        }
        let text = self.text(kind);
        let object = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        put(&mut self.objects, object).unwrap_or_else(|error| panic!("{error}: {text}"));
    }

    fn take_away(&mut self, kind: &str) {
        fn gone<K: kube::Resource + Clone + PartialEq>(set: &mut Set<K>, random: &mut fastrand::Rng) {
            let all: Vec<K> = set.iter().map(|(_, object)| K::clone(object)).collect();
            if !all.is_empty() {
                set.apply(None, kube::runtime::watcher::Event::Delete(all[random.usize(..all.len())].clone()));
            }
        }
        let (objects, random) = (&mut self.objects, &mut self.random);
        match kind {
            "Service" => gone(&mut objects.services, random),
            "EndpointSlice" => gone(&mut objects.slices, random),
            "Secret" => gone(&mut objects.secrets, random),
            "Namespace" => gone(&mut objects.namespaces, random),
            "IngressClass" => gone(&mut objects.ingress_classes, random),
            "Middleware" => gone(&mut objects.middlewares, random),
            "ServersTransport" => gone(&mut objects.servers_transports, random),
            "TraefikService" => gone(&mut objects.traefik_services, random),
            "TLSOption" => gone(&mut objects.tls_options, random),
            "TLSStore" => gone(&mut objects.tls_stores, random),
            "ReferenceGrant" => gone(&mut objects.reference_grants, random),
            "BackendTLSPolicy" => gone(&mut objects.backend_tls_policies, random),
            "GatewayClass" => gone(&mut objects.gateway_classes, random),
            "Gateway" => gone(&mut objects.gateways, random),
            "ListenerSet" => gone(&mut objects.listener_sets, random),
            "Ingress" => gone(&mut objects.ingresses, random),
            "IngressRoute" => gone(&mut objects.ingress_routes, random),
            "HTTPRoute" => gone(&mut objects.http_routes, random),
            other => panic!("{other}"),
        }
    }
}

fn settings(seed: u64) -> Kubernetes {
    let address = StatusAddress { service: Some(("team".to_owned(), "s0".to_owned())), ..StatusAddress::default() };
    let one = KubernetesProvider {
        allow_empty: seed.is_multiple_of(2),
        allow_cross_namespace: !seed.is_multiple_of(3),
        ..provider()
    };
    let gateway = if seed.is_multiple_of(5) { KubernetesProvider { address, ..one.clone() } } else { one.clone() };
    let some = KubernetesProvider { namespaces: vec!["team".to_owned(), "team-a".to_owned()], ..one.clone() };
    let crd = if seed.is_multiple_of(7) { some } else { one.clone() };
    let named = if seed.is_multiple_of(4) { vec!["team-a".to_owned(), "default".to_owned()] } else { Vec::new() };
    let crd = KubernetesProvider { defaults_namespaces: named, ..crd };
    Kubernetes { ingress: Some(one), crd: Some(crd), gateway: Some(gateway) }
}

/// The first change of a world after which both are not the same; else what there was after each.
fn first_difference(seed: u64, changes: usize, often: &'static str) -> Result<Vec<Parts>, String> {
    let (world, settings) = (World::new(seed), settings(seed));
    let mut world = World { often, ..world };
    let around = Around {
        entry_points: vec![entry("web", "[::]:80")],
        addresses: vec![("IPAddress".to_owned(), "192.0.2.1".to_owned())],
        ..Around::default()
    };
    let mut translator = Translator::default();
    translator.translate(&world.objects, &settings, Some("here"), &around);
    let mut all = Vec::new();
    for change in 0..changes {
        for _ in 0..=world.random.u8(..3) / 2 {
            world.change();
        }
        let parts = translator.translate(&world.objects, &settings, Some("here"), &around);
        let whole = Translator::default().translate(&world.objects, &settings, Some("here"), &around);
        if parts != whole {
            let (parts, whole) = (format!("{parts:#?}"), format!("{whole:#?}"));
            let at = parts.lines().zip(whole.lines()).find(|(a, b)| a != b);
            return Err(format!("seed {seed}, change {change}: {at:?}"));
        }
        all.push(parts);
    }
    Ok(all)
}

#[test]
fn what_is_made_again_after_a_change_is_what_all_would_be() {
    let all = (0..30).flat_map(|seed| first_difference(seed, 20, "").unwrap());
    let all: Vec<String> = all.map(|parts| format!("{parts:?}")).collect();
    // Whatever hangs on others is among them.
    for what in [
        "default_options: Some",
        "no server name chooses its default TLS options",
        "default_options_lost: true",
        "PartiallyInvalid",
        "the spec cannot be read",
    ] {
        assert!(all.iter().any(|parts| parts.contains(what)), "{what}");
    }
}

/// What is not noted is missed: so the worlds above hang on all that is noted.
#[test]
fn whatever_is_looked_at_and_not_noted_is_missed() {
    fn object(read: &Read, kind: &str) -> bool {
        matches!(read, Read::Object(object) if object.kind == kind)
    }
    /// What, the kind that is to change for it, and how it is noted.
    type Missed = (&'static str, &'static str, fn(&Read) -> bool);
    let all: [Missed; 24] = [
        ("a Service", "Service", |read| object(read, "Service")),
        ("a Secret", "Secret", |read| object(read, "Secret")),
        ("a Namespace", "Namespace", |read| object(read, "Namespace")),
        ("a TraefikService", "TraefikService", |read| object(read, "TraefikService")),
        ("a ServersTransport", "ServersTransport", |read| object(read, "ServersTransport")),
        ("all Gateways", "Gateway", |read| *read == Read::All("Gateway")),
        ("all TLSOptions", "TLSOption", |read| *read == Read::All("TLSOption")),
        ("all IngressClasses", "IngressClass", |read| *read == Read::All("IngressClass")),
        ("all GatewayClasses", "GatewayClass", |read| *read == Read::All("GatewayClass")),
        ("all ListenerSets", "ListenerSet", |read| *read == Read::All("ListenerSet")),
        ("all ReferenceGrants", "ReferenceGrant", |read| *read == Read::All("ReferenceGrant")),
        ("all BackendTLSPolicies", "BackendTLSPolicy", |read| *read == Read::All("BackendTLSPolicy")),
        ("all TLSStores", "TLSStore", |read| *read == Read::All("TLSStore")),
        ("slices", "EndpointSlice", |read| matches!(read, Read::Slices(_))),
        ("classes", "IngressClass", |read| matches!(read, Read::Classes)),
        ("Gateways", "Gateway", |read| matches!(read, Read::Gateways)),
        ("grants", "ReferenceGrant", |read| matches!(read, Read::Grants)),
        ("policies", "BackendTLSPolicy", |read| matches!(read, Read::Policy(_))),
        ("names", "TLSOption", |read| matches!(read, Read::Name(..))),
        ("what is behind names", "Middleware", |read| matches!(read, Read::Middleware(_))),
        ("TLS options", "TLSOption", |read| matches!(read, Read::Options(_))),
        ("own defaults", "TLSOption", |read| matches!(read, Read::OwnDefault(_))),
        ("entry points", "ListenerSet", |read| matches!(read, Read::EntryPoint(_))),
        ("the default", "Ingress", |read| matches!(read, Read::Default)),
    ];
    for (what, often, is_missed) in all {
        let missed = (0..100).any(|seed| deaf::to(is_missed, || first_difference(seed, 25, often)).is_err());
        assert!(missed, "nobody misses {what}");
    }
}

/// A route that no listener takes has no router by which it would hear of it.
#[test]
fn a_route_without_routers_hears_of_its_filters() {
    let text = "
kind: GatewayClass
metadata: {name: c}
spec: {controllerName: wayspan.io/gateway-controller}
---
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: c, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: team}
spec: {parentRefs: [{name: g, namespace: default}], rules: [{filters: [{type: ExtensionRef, extensionRef: {group: traefik.io, kind: Middleware, name: m}}]}]}
";
    let hears = || {
        let mut world = objects(text);
        let (settings, around, mut translator) = (settings(1), Around::default(), Translator::default());
        translator.translate(&world, &settings, None, &around);
        let middleware = "kind: Middleware\nmetadata: {name: m, namespace: team}\nspec: {addPrefix: {prefix: /x}}";
        put(&mut world, serde_saphyr::from_str(middleware).unwrap()).unwrap();
        let parts = translator.translate(&world, &settings, None, &around);
        parts == Translator::default().translate(&world, &settings, None, &around)
    };
    assert!(hears());
    assert!(!deaf::to(|read| matches!(read, Read::Usable(_)), hears));
}

/// Its status is told by another unit than that of a Gateway that can be.
#[test]
fn a_gateway_that_cannot_be_read_any_more_says_so_for_as_long() {
    let class = "kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: wayspan.io/gateway-controller}";
    let (mut world, settings, around) = (objects(class), settings(1), Around::default());
    let mut translator = Translator::default();
    for (version, listeners) in ["[{name: http, port: 80, protocol: HTTP}]", "7", "8", "[]"].iter().enumerate() {
        let gateway = format!(
            "kind: Gateway\nmetadata: {{name: g, resourceVersion: \"{version}\"}}\nspec: {{gatewayClassName: c, listeners: {listeners}}}"
        );
        put(&mut world, serde_saphyr::from_str(&gateway).unwrap()).unwrap();
        let parts = translator.translate(&world, &settings, None, &around);
        assert!(parts == Translator::default().translate(&world, &settings, None, &around), "{listeners}");
        assert_eq!(parts.statuses.iter().filter(|status| status.object.kind == "Gateway").count(), 1, "{listeners}");
    }
}

/// It names none, and its namespace's default options are called otherwise when an older one has their name.
#[test]
fn a_route_hears_what_its_own_default_options_are_called() {
    let text = "
kind: TLSOption
metadata: {name: default, namespace: team-a, creationTimestamp: \"2026-01-02T00:00:00Z\"}
spec: {clientAuth: {clientAuthType: RequireAnyClientCert}}
---
kind: IngressRoute
metadata: {name: r, namespace: team-a}
spec: {tls: {}, routes: [{kind: Rule, match: Host(`a.test`), services: [{name: s, port: 80}]}]}
";
    let hears = || {
        let (mut world, settings, around) = (objects(text), settings(1), Around::default());
        let mut translator = Translator::default();
        let named = |parts: &Parts| parts.routers[0].default_options.clone();
        let before = named(&translator.translate(&world, &settings, None, &around));
        let older = "kind: TLSOption\nmetadata: {name: a-default, namespace: team, creationTimestamp: \"2026-01-01T00:00:00Z\"}";
        put(&mut world, serde_saphyr::from_str(older).unwrap()).unwrap();
        let parts = translator.translate(&world, &settings, None, &around);
        let is_another = named(&parts) != before;
        is_another && parts == Translator::default().translate(&world, &settings, None, &around)
    };
    assert!(hears());
    assert!(!deaf::to(|read| matches!(read, Read::Name(..)), hears));
}
