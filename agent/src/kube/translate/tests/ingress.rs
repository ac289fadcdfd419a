//! Ingress objects and their backends.

use super::super::ingress::CONTROLLER;
use super::*;
use crate::kube::status::Lacking;

#[track_caller]
fn served(text: &str, want: &[&str]) {
    check(&Kubernetes { ingress: Some(provider()), ..Kubernetes::default() }, text, want);
}

const SHOP: &str = "
kind: Ingress
metadata: {name: shop}
spec:
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /cart, pathType: Prefix, backend: {service: {name: shop, port: {name: web}}}}
      - {path: /cart, pathType: Exact, backend: {service: {name: shop, port: {number: 80}}}}
";

#[test]
fn a_path_leads_to_the_pods_of_its_service() {
    served(
        &(SHOP.to_owned() + &backend("shop", 80, &["10.0.0.1", "10.0.0.2"])),
        &[
            "default-shop-shop-example-cart-55ee80e101c7019a37e8@kubernetes: Host(\"shop.example\") && Path(\"/cart\") -> default-shop-80@kubernetes",
            "default-shop-shop-example-cart-f567e05d73dd3ae9fe1b@kubernetes: Host(\"shop.example\") && (Path(\"/cart\") || PathPrefix(\"/cart/\")) -> default-shop-web@kubernetes",
            "default-shop-80@kubernetes = http://10.0.0.1:8080, http://10.0.0.2:8080",
            "default-shop-web@kubernetes = http://10.0.0.1:8080, http://10.0.0.2:8080",
        ],
    );
}

#[test]
fn the_more_exact_host_then_the_longer_path_then_the_exact_one_comes_first() {
    let rules =
        [("a.example", "/"), ("*.example", "/long/path/of/many/characters"), ("", "/even/longer/path/than/that")];
    let rank = |host: &str, path: &str, kind: &str| {
        let text = format!(
            "kind: Ingress\nmetadata: {{name: a}}\nspec: {{rules: [{{host: \"{host}\", http: {{paths: [{{path: {path}, \
             pathType: {kind}, backend: {{service: {{name: s, port: {{number: 80}}}}}}}}]}}}}]}}"
        );
        let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
        let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
        parts.routers.first().unwrap().priority
    };
    let ranks: Vec<i64> = rules.iter().map(|(host, path)| rank(host, path, "Prefix")).collect();
    assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
    let ranks = [("/foo/b", "Prefix"), ("/foo", "Exact"), ("/foo/", "Prefix"), ("/fo", "Exact")];
    let ranks: Vec<i64> = ranks.iter().map(|(path, kind)| rank("a.example", path, kind)).collect();
    assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
}

#[test]
fn a_route_that_cannot_be_served_answers_500_and_says_why() {
    served(
        &(SHOP.replace("name: shop, port: {number: 80}", "name: nowhere, port: {number: 80}")
            + &backend("shop", 80, &[])),
        &[
            "default-shop-shop-example-cart-55ee80e101c7019a37e8@kubernetes: Host(\"shop.example\") && Path(\"/cart\") -> unusable@kubernetes",
            "default-shop-shop-example-cart-f567e05d73dd3ae9fe1b@kubernetes: Host(\"shop.example\") && (Path(\"/cart\") || PathPrefix(\"/cart/\")) -> default-shop-web@kubernetes",
            "default-shop-web@kubernetes = ",
            "! Ingress default/shop: spec.rules[0].http.paths[1].backend: there is no Service default/nowhere",
        ],
    );
}

#[test]
fn only_objects_of_our_classes_are_served() {
    let ingress = |name: &str, class: &str, annotation: &str| {
        let class = if class.is_empty() { String::new() } else { format!("ingressClassName: {class}, ") };
        let annotation = if annotation.is_empty() {
            String::new()
        } else {
            format!(", annotations: {{kubernetes.io/ingress.class: {annotation}}}")
        };
        format!(
            "\n---\nkind: Ingress\nmetadata: {{name: {name}{annotation}}}\nspec: {{{class}rules: [{{host: {name}.example, http: {{paths: [{{pathType: Prefix, backend: {{}}}}]}}}}]}}"
        )
    };
    let class = |name: &str, controller: &str, default: bool| {
        format!(
            "\n---\nkind: IngressClass\nmetadata: {{name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: \"{default}\"}}}}\nspec: {{controller: {controller}}}"
        )
    };
    let all = ["", "ours", "theirs", "gone"].map(|class| ingress(&format!("c{class}"), class, "")).concat()
        + &["wayspan", "nginx"].map(|one| ingress(&format!("a{one}"), "", one)).concat();
    let taken = |ingress_class: &str, classes: &str| {
        let provider = KubernetesProvider { ingress_class: ingress_class.to_owned(), ..provider() };
        let settings = Kubernetes { ingress: Some(provider), ..Kubernetes::default() };
        let parts =
            Translator::default().translate(&objects(&(all.clone() + classes)), &settings, None, &Around::default());
        let names: Vec<_> =
            parts.routers.iter().map(|router| router.name.split('-').nth(1).unwrap().to_owned()).collect();
        names.join(" ")
    };
    let two = class("ours", CONTROLLER, false) + &class("theirs", "k8s.io/nginx", false);
    assert_eq!(taken("", &two), "awayspan c cours");
    assert_eq!(taken("theirs", &two), "ctheirs");
    assert_eq!(taken("nginx", &two), "anginx");
    let other_default = class("ours", CONTROLLER, false) + &class("theirs", "k8s.io/nginx", true);
    assert_eq!(taken("", &other_default), "awayspan cours");
}

#[test]
fn a_default_backend_takes_what_is_left() {
    served(
        &("kind: Ingress\nmetadata: {name: all}\nspec: {defaultBackend: {service: {name: rest, port: {number: 80}}}}\n---\n\
           kind: Ingress\nmetadata: {name: some}\nspec:\n  defaultBackend: {service: {name: rest, port: {number: 80}}}\n  \
           rules: [{host: a.example}]"
            .to_owned()
            + &backend("rest", 80, &["10.0.0.1"])),
        &[
            "default-router@kubernetes: PathPrefix(\"/\") -> default-rest-80@kubernetes",
            "default-some-default@kubernetes: Host(\"a.example\") -> default-rest-80@kubernetes",
            "default-rest-80@kubernetes = http://10.0.0.1:8080",
        ],
    );
}

#[test]
fn annotations_are_traefiks() {
    let annotated = |annotation: &str| {
        SHOP.replace(
            "{name: shop}",
            &format!("{{name: shop, annotations: {{traefik.ingress.kubernetes.io/{annotation}}}}}"),
        ) + &backend("shop", 80, &["10.0.0.1"])
    };
    let text = annotated(
        "router.entryPoints: \"web, other\", traefik.ingress.kubernetes.io/router.middlewares: \"default-auth@kubernetescrd,plain@file\"",
    );
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let router = parts.routers.first().unwrap();
    assert_eq!(router.entry_points, ["web", "other"]);
    assert_eq!(router.middlewares, ["default-auth@kubernetescrd", "plain"]);
}

/// Annotations of an Ingress on `/cart` with a default backend; its routers, and what is told.
#[track_caller]
fn refused(annotations: &str, want_routers: &[&str], want_told: &[&str]) -> Parts {
    let text = SHOP.replace("{name: shop}", &format!("{{name: shop, annotations: {{{annotations}}}}}"))
        + &backend("shop", 80, &["10.0.0.1"]);
    let cross_provider = annotations.contains("@file").then(Vec::new);
    let settings =
        Kubernetes { ingress: Some(KubernetesProvider { cross_provider, ..provider() }), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let routers: Vec<String> = parts
        .routers
        .iter()
        .filter(|router| router.rule.text.contains("&& Path("))
        .map(|router| {
            let tls = router.tls.as_ref().map(|tls| tls.options.clone().unwrap_or("tls".to_owned()));
            let on = router.entry_points.join(",");
            format!(
                "{} {on} {} -> {}{}",
                router.rule.text,
                tls.unwrap_or_default(),
                router.service,
                router.middlewares.len()
            )
        })
        .collect();
    assert_eq!(routers, want_routers, "{annotations}");
    let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
    let want: Vec<String> = want_told
        .iter()
        .map(|told| format!("Ingress default/shop: {told}; its requests are answered with 500"))
        .collect();
    assert_eq!(told, want, "{annotations}");
    assert!(
        parts.routers.iter().all(|router| router.service == UNUSABLE) && parts.services.is_empty(),
        "{annotations}"
    );
    parts
}

#[test]
fn with_an_annotation_that_cannot_be_read_requests_get_500_and_go_to_nobody_else() {
    const AT: &str = "traefik.ingress.kubernetes.io/router";
    const RULE: &str = "Host(\"shop.example\") && Path(\"/cart\")";
    let at = |name: &str| format!("metadata.annotations[{AT}.{name}]");
    // What can be read of the others counts.
    refused(
        &format!(
            "{AT}.entrypoint: web, {AT}.entrypoints: other, {AT}.tls: \"true\", {AT}.middlewares: default-auth@kubernetescrd"
        ),
        &[&format!("{RULE} other tls -> {UNUSABLE}0")],
        &[&format!("{}: unknown annotation", at("entrypoint"))],
    );
    refused(
        &format!("{AT}.priority: high, {AT}.tls.certresolver: le"),
        &[&format!("{RULE}  tls -> {UNUSABLE}0")],
        &[
            &format!("{}: `high` is no whole number", at("priority")),
            &format!("{}: not supported yet", at("tls.certresolver")),
        ],
    );
    // Whether they are meant with TLS or without nobody knows: both are theirs.
    let both = refused(
        &format!("{AT}.tls: sure"),
        &[&format!("{RULE}  tls -> {UNUSABLE}0"), &format!("{RULE}   -> {UNUSABLE}0")],
        &[&format!("{}: `sure` is neither true nor false", at("tls"))],
    );
    assert_eq!(both.routers.len(), 4);
    refused(
        &format!("{AT}.tls.options: strict@file"),
        &[&format!("{RULE}  tls -> {UNUSABLE}0")],
        &[
            "metadata.annotations: `strict@file` is another provider's; allow the namespace default that in crossProviderNamespaces",
        ],
    );
}

#[test]
fn domains_for_certificates_that_traefik_would_fetch_have_no_effect() {
    const AT: &str = "traefik.ingress.kubernetes.io/router.tls";
    let annotations =
        format!("{AT}.options: strict@file, {AT}.domains.0.main: a.example, {AT}.Domains.0.sans: \"b.example\"");
    let text = SHOP.replace("{name: shop}", &format!("{{name: shop, annotations: {{{annotations}}}}}"))
        + &backend("shop", 80, &["10.0.0.1"]);
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let options = |router: &model::Router| router.tls.as_ref().and_then(|tls| tls.options.clone());
    let served = |router: &model::Router| router.service != UNUSABLE && options(router).as_deref() == Some("strict");
    assert!(parts.problems.is_empty() && parts.routers.iter().all(|router| served(router)), "{:?}", shown(&parts));
}

#[test]
fn paths_that_are_meant_nobody_knows_how_are_taken_as_prefixes() {
    let text = SHOP.replace("pathType: Exact", "pathType: ImplementationSpecific").replace(
        "{name: shop}",
        "{name: shop, annotations: {traefik.ingress.kubernetes.io/router.pathmatcher: Regexp}}",
    );
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let rule = "Host(\"shop.example\") && PathPrefix(\"/cart\")";
    assert!(
        parts.routers.iter().any(|router| &*router.rule.text == rule && router.service == UNUSABLE),
        "{:?}",
        shown(&parts)
    );
}

#[test]
fn a_path_that_is_no_expression_is_refused_below_the_others_of_its_host() {
    let text = SHOP.replace("path: /cart, pathType: Exact", "path: /(, pathType: ImplementationSpecific").replace(
        "{name: shop}",
        "{name: shop, annotations: {traefik.ingress.kubernetes.io/router.pathmatcher: PathRegexp}}",
    ) + &backend("shop", 80, &["10.0.0.1"]);
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let refused = parts.routers.iter().find(|router| router.service == UNUSABLE).unwrap();
    assert_eq!(&*refused.rule.text, "Host(\"shop.example\")");
    assert!(parts.routers.iter().all(|router| router.name == refused.name || router.priority > refused.priority));
    let told = parts.problems.first().unwrap();
    assert_eq!((parts.problems.len(), told.path.as_str()), (1, "spec.rules[0].http.paths[1]"));
    assert!(told.message.ends_with("; its requests are answered with 500"), "{told}");
}

#[test]
fn of_default_backends_the_oldest_takes_what_nobody_else_does() {
    let one = |namespace: &str, year: u16| {
        format!(
            "kind: Ingress\nmetadata: {{name: i, namespace: {namespace}, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}\nspec: \
             {{defaultBackend: {{service: {{name: rest, port: {{number: 80}}}}}}}}\n---\n"
        ) + &backend("rest", 80, &["10.0.0.1"]).replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "))
    };
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    for (years, first, other) in [([2021, 2020], "team-z", "team-a"), ([2020, 2020], "team-a", "team-z")] {
        let text = one("team-a", years[0]) + &one("team-z", years[1]);
        let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
        let routers: Vec<_> = parts.routers.iter().map(|one| (one.name.as_str(), one.service.as_str())).collect();
        assert_eq!(routers, [("default-router@kubernetes", format!("{first}-rest-80@kubernetes").as_str())]);
        let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [format!(
                "Ingress {other}/i: spec.defaultBackend: Ingress {first}/i has the default backend and is older, or of equals the \
                 first; remove one"
            )]
        );
    }
}

#[test]
fn a_default_backend_that_is_refused_leaves_its_place_to_one_that_is_not() {
    let one = |name: &str, annotation: &str| {
        format!(
            "kind: Ingress\nmetadata: {{name: {name}, annotations: {{traefik.ingress.kubernetes.io/router.{annotation}}}}}\nspec: \
             {{defaultBackend: {{service: {{name: rest, port: {{number: 80}}}}}}}}\n---\n"
        )
    };
    let text = one("a", "priority: x") + &one("b", "priority: \"1\"") + &backend("rest", 80, &["10.0.0.1"]);
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    let mut routers: Vec<_> = parts.routers.iter().collect();
    routers.sort_by_key(|one| (std::cmp::Reverse(one.priority), one.turn.clone(), one.name.clone()));
    let routers: Vec<_> = routers.into_iter().map(|one| (one.name.as_str(), one.service == UNUSABLE)).collect();
    assert_eq!(routers, [("default-router@kubernetes", false), ("default-a-default@kubernetes", true)]);
}

/// Conditions and places of endpoints, with the Service's wish; the addresses' last numbers that are used.
#[test]
fn the_ready_and_near_are_used_and_the_leaving_only_when_nobody_else_is_there() {
    let slice = |endpoints: &str, wish: &str| {
        let text = backend("shop", 80, &[])
            .replace("endpoints: []", &format!("endpoints: [{endpoints}]"))
            .replace("spec: {ports", &format!("spec: {{{wish}ports"));
        let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
        let parts = Translator::default().translate(
            &objects(&(SHOP.to_owned() + &text)),
            &settings,
            Some("here"),
            &Around::default(),
        );
        let servers = parts.services.first().map(|service| service.servers.clone()).unwrap_or_default();
        let last: Vec<_> = servers.iter().map(|server| server.host.rsplit('.').next().unwrap().to_owned()).collect();
        last.join(" ")
    };
    let one = |last: u8, rest: &str| format!("{{addresses: [10.0.0.{last}]{rest}}},");
    let state = |last: u8, ready: bool, serving: bool, terminating: bool| {
        one(last, &format!(", conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}"))
    };
    assert_eq!(slice(&(one(1, "") + &state(2, true, true, false) + &state(3, false, true, true)), ""), "1 2");
    assert_eq!(slice(&(state(3, false, true, true) + &state(4, false, false, true)), ""), "3");
    assert_eq!(slice(&(state(3, false, false, false) + &state(4, false, true, false)), ""), "");
    // Of two slices with the same address it counts once.
    assert_eq!(slice(&(one(1, "") + &one(1, "")), ""), "1");

    let placed = |last: u8, node: &str, zone: &str| one(last, &format!(", nodeName: {node}, zone: {zone}"));
    let spread = placed(1, "here", "east") + &placed(2, "there", "east") + &placed(3, "far", "west");
    assert_eq!(slice(&spread, ""), "1 2 3");
    assert_eq!(slice(&spread, "trafficDistribution: PreferSameNode, "), "1");
    assert_eq!(slice(&spread, "trafficDistribution: PreferClose, "), "1 2");
    // Nobody on this node: the zone, which is known by who else runs here; nobody there: all.
    let away = placed(2, "there", "east") + &placed(3, "far", "west");
    assert_eq!(slice(&away, "trafficDistribution: PreferSameNode, "), "2 3");
    // The controller's hints go before the endpoints' own places, and count only when all have them.
    let hinted = one(4, ", nodeName: far, hints: {forNodes: [{name: here}]}") + &placed(1, "there", "east");
    assert_eq!(slice(&hinted, "trafficDistribution: PreferSameNode, "), "4");
    assert_eq!(slice(&(hinted + &one(9, "")), "trafficDistribution: PreferSameNode, "), "1 4 9");
}

#[test]
fn names_of_elsewhere_are_used_where_they_are_allowed() {
    let text = SHOP.to_owned()
        + "\n---\nkind: Service\nmetadata: {name: shop}\nspec: {type: ExternalName, externalName: a.example., ports: [{name: web, port: 80}]}";
    let settings = |allow_external_names| Kubernetes {
        ingress: Some(KubernetesProvider { allow_external_names, ..provider() }),
        ..Kubernetes::default()
    };
    let parts = Translator::default().translate(&objects(&text), &settings(true), None, &Around::default());
    assert_eq!(parts.services.first().unwrap().servers.first().unwrap().url, "http://a.example:80");
    let parts = Translator::default().translate(&objects(&text), &settings(false), None, &Around::default());
    assert!(parts.services.is_empty());
    assert!(parts.problems.first().unwrap().message.contains("allowExternalNameServices"), "{:?}", parts.problems);
    // A slice of names is another way to say it.
    let text = SHOP.to_owned() + &backend("shop", 80, &["localhost"]).replace("IPv4", "FQDN");
    for allowed in [true, false] {
        let parts = Translator::default().translate(&objects(&text), &settings(allowed), None, &Around::default());
        assert_eq!(parts.services.iter().any(|service| !service.servers.is_empty()), allowed);
    }
}

#[test]
fn certificates_come_from_secrets_and_never_from_files() {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let tls = "kind: Ingress\nmetadata: {name: shop}\nspec: {tls: [{secretName: good}, {secretName: path}, {secretName: gone}, {hosts: [a]}]}";
    let mut objects = objects(tls);
    for (name, chain, key) in [
        ("good", made.cert.pem(), made.signing_key.serialize_pem()),
        ("path", "/etc/passwd".to_owned(), "/etc/passwd".to_owned()),
    ] {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.namespace = Some("default".to_owned());
        let data = [("tls.crt", chain), ("tls.key", key)];
        secret.data = Some(data.map(|(key, text)| (key.to_owned(), k8s_openapi::ByteString(text.into_bytes()))).into());
        objects.secrets.put(secret);
    }
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects, &settings, None, &Around::default());
    assert_eq!(
        shown(&parts),
        [
            "certificate default/good",
            "! Ingress default/shop: spec.tls[1].secretName: Secret default/path holds no certificate in PEM in tls.crt",
            "! Ingress default/shop: spec.tls[2].secretName: there is no Secret default/gone",
        ]
    );
}

/// A Service's port, its annotations, and what is said of its servers; `None`: they are served.
#[test]
fn servers_that_want_another_protocol_are_not_spoken_to_in_the_clear() {
    const SCHEME: &str = "traefik.ingress.kubernetes.io/service.serversscheme";
    let remedy = "name another port, or the scheme http";
    let https = format!("https to servers is not supported yet; {remedy}");
    let asked = |protocol: &str| {
        format!(
            "its appProtocol {protocol} to servers is not supported yet; name the scheme http where they speak HTTP/1.1 in the \
             clear"
        )
    };
    for (port, scheme, want) in [
        ("name: web, port: 80", "", None),
        ("name: web, port: 443", "", Some(https.clone())),
        ("name: https-web, port: 80", "", Some(https.clone())),
        ("name: web, port: 443", "http", None),
        ("name: web, port: 80", "https", Some(https)),
        ("name: web, port: 80", "h2c", Some("h2c to servers is not supported yet; name the scheme http".to_owned())),
        ("name: web, port: 80, appProtocol: https", "", Some(asked("https"))),
        ("name: web, port: 80, appProtocol: kubernetes.io/wss", "", Some(asked("kubernetes.io/wss"))),
        ("name: web, port: 80, appProtocol: kubernetes.io/h2c", "", Some(asked("kubernetes.io/h2c"))),
        ("name: web, port: 80, appProtocol: https", "http", None),
        ("name: web, port: 80, appProtocol: kubernetes.io/ws", "", None),
        ("name: web, port: 80, appProtocol: http", "", None),
    ] {
        let number = port.split("port: ").nth(1).unwrap().split(',').next().unwrap();
        let annotations =
            if scheme.is_empty() { String::new() } else { format!(", annotations: {{{SCHEME}: {scheme}}}") };
        let of_route = if scheme.is_empty() { String::new() } else { format!(", scheme: {scheme}") };
        let text = format!(
            "kind: Service\nmetadata: {{name: shop{annotations}}}\nspec: {{ports: [{{{port}}}]}}\n---\nkind: Ingress\nmetadata: \
             {{name: i}}\nspec: {{rules: [{{http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: shop, port: \
             {{number: {number}}}}}}}}}]}}}}]}}\n---\nkind: IngressRoute\nmetadata: {{name: r}}\nspec: {{routes: [{{match: \
             Path(`/`), services: [{{name: shop, port: {number}{of_route}}}]}}]}}\n"
        );
        let settings = Kubernetes { ingress: Some(provider()), crd: Some(provider()), ..Kubernetes::default() };
        let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
        let got: Vec<&str> = parts.problems.iter().map(|problem| problem.message.as_str()).collect();
        let want: Vec<String> = want.iter().map(|want| format!("Service default/shop: {want}")).collect();
        let want: Vec<&str> = want.iter().chain(&want).map(String::as_str).collect();
        assert_eq!(got, want, "{port} {scheme}");
        let refused = parts.routers.iter().filter(|router| router.service == UNUSABLE).count();
        assert_eq!((parts.routers.len(), refused), (2, want.len()), "{port} {scheme}");
    }
}

#[test]
fn addresses_that_a_published_service_has_no_longer_are_taken_back_from_who_says_them() {
    const ONE: &str = "{loadBalancer: {ingress: [{ip: 192.0.2.1}]}}";
    let address = model::StatusAddress { service: Some(("default".to_owned(), "lb".to_owned())), ..Default::default() };
    let settings = Kubernetes { ingress: Some(KubernetesProvider { address, ..provider() }), ..Kubernetes::default() };
    let service = |status: &str| {
        format!("kind: Service\nmetadata: {{name: lb}}\nspec: {{type: LoadBalancer}}\nstatus: {status}\n---\n")
    };
    // Ours, and one that another controller has written to meanwhile.
    let ingress = |name: &str, status: &str| {
        format!(
            "kind: Ingress\nmetadata: {{name: {name}, resourceVersion: \"1\"}}\nspec: {{}}\nstatus: {status}\n---\n"
        )
    };
    let both = ingress("ours", ONE) + &ingress("theirs", "{loadBalancer: {ingress: [{ip: 192.0.2.9}]}}");
    let mut translator = Translator::default();
    let mut lacking = |text: &str| {
        let objects = objects(&(text.to_owned() + &both));
        let parts = translator.translate(&objects, &settings, None, &Around::default());
        let writes = Lacking::default().renew(&objects, &parts.statuses, "NOW").unwrap_or_default();
        let told = writes.iter().map(|write| format!("{}: {}", write.object.key.name, write.status["loadBalancer"]));
        told.collect::<Vec<_>>()
    };
    let pending = service("{loadBalancer: {}}");
    assert!(lacking(&pending).is_empty(), "what they say is not known to be ours");
    assert_eq!(lacking(&service(ONE)), [r#"theirs: {"ingress":[{"ip":"192.0.2.1"}]}"#]);
    assert!(lacking("").is_empty(), "the Service may not have been read");
    assert_eq!(lacking(&pending), [r#"ours: {"ingress":[]}"#]);
    let other = service("{loadBalancer: {ingress: [{ip: 192.0.2.2}]}}");
    assert_eq!(lacking(&other).len(), 2);
    // Who says the one before the last has not been written to since.
    assert_eq!(lacking(&pending), [r#"ours: {"ingress":[]}"#]);
}

#[test]
fn a_published_services_addresses_are_those_for_the_world_and_else_its_own_within() {
    let of = |spec: &str, status: &str| {
        let text = format!(
            "kind: Ingress\nmetadata: {{name: i}}\nspec: {{}}\n---\nkind: Service\nmetadata: {{name: lb}}\nspec: {spec}\nstatus: {status}"
        );
        let address =
            model::StatusAddress { service: Some(("default".to_owned(), "lb".to_owned())), ..Default::default() };
        let settings =
            Kubernetes { ingress: Some(KubernetesProvider { address, ..provider() }), ..Kubernetes::default() };
        let addresses = vec![("IPAddress".to_owned(), "192.0.2.7".to_owned())];
        let around = Around { addresses, ..Around::default() };
        let parts = Translator::default().translate(&objects(&text), &settings, None, &around);
        parts.statuses.first().map(|status| status.body["loadBalancer"]["ingress"].to_string())
    };
    let balanced = "{loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example}]}}";
    let pending = "{loadBalancer: {}}";
    for (spec, status, wanted) in [
        (
            "{type: LoadBalancer, clusterIP: 10.96.0.1}",
            balanced,
            Some("[{\"ip\":\"192.0.2.1\"},{\"hostname\":\"lb.example\"}]"),
        ),
        ("{type: LoadBalancer, clusterIP: 10.96.0.1}", pending, None),
        (
            "{type: ClusterIP, clusterIP: 10.96.0.1, externalIPs: [192.0.2.2]}",
            pending,
            Some("[{\"ip\":\"192.0.2.2\"}]"),
        ),
        ("{type: ClusterIP, clusterIP: 10.96.0.1}", pending, Some("[{\"ip\":\"10.96.0.1\"}]")),
        ("{clusterIP: None}", pending, None),
        // Where the nodes are is known as it is without the Service.
        ("{type: NodePort, clusterIP: 10.96.0.1}", pending, Some("[{\"ip\":\"192.0.2.7\"}]")),
        ("{type: NodePort, clusterIP: 10.96.0.1, externalIPs: [192.0.2.2]}", pending, Some("[{\"ip\":\"192.0.2.2\"}]")),
        ("{type: ExternalName, externalName: lb.example.}", pending, Some("[{\"hostname\":\"lb.example\"}]")),
        ("{type: ExternalName, externalName: 192.0.2.3}", pending, Some("[{\"ip\":\"192.0.2.3\"}]")),
    ] {
        assert_eq!(of(spec, status).as_deref(), wanted, "{spec}");
    }
}
