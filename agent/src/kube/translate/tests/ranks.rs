//! Which of several kinds' routes gets a request.

use std::net::{IpAddr, Ipv4Addr};

use wayspan_proxy::route::{Precedence, RequestView, RouteTable};
use wayspan_proxy::snapshot::{Fixed, Route, Target};

use super::*;

const FRAME: &str = "kind: GatewayClass\nmetadata: {name: w}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\n\
                     kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: w, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\n";

fn ingress(host: &str, path: &str) -> String {
    let backend = "backend: {service: {name: s, port: {number: 80}}}";
    format!(
        "kind: Ingress\nmetadata: {{name: ingress}}\nspec: {{rules: [{{host: \"{host}\", http: {{paths: \
         [{{path: {path}, pathType: Prefix, {backend}}}]}}}}]}}\n---\n"
    )
}

fn http_route(host: &str, path: &str) -> String {
    let hosts = if host.is_empty() { String::new() } else { format!("hostnames: [\"{host}\"], ") };
    format!(
        "kind: HTTPRoute\nmetadata: {{name: httproute}}\nspec: {{parentRefs: [{{name: g}}], {hosts}rules: \
         [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: s, port: 80}}]}}]}}\n---\n"
    )
}

fn ingress_route(rule: &str, priority: i64) -> String {
    let priority = if priority == 0 { String::new() } else { format!("priority: {priority}, ") };
    format!(
        "kind: IngressRoute\nmetadata: {{name: ingressroute}}\nspec: {{routes: [{{kind: Rule, match: \"{rule}\", \
         {priority}services: [{{name: s, port: 80}}]}}]}}\n---\n"
    )
}

/// The kind of whoever gets a request to this host and path.
fn taken(objects: &str, request: &str) -> &'static str {
    taker(objects, request).map_or("nobody", |object| object.kind)
}

/// Whoever gets it.
fn taker(objects: &str, request: &str) -> Option<Object> {
    let settings = Kubernetes { ingress: Some(provider()), crd: Some(provider()), gateway: Some(provider()) };
    let around = Around { entry_points: vec![entry("web", "[::]:80")], ..Around::default() };
    let text = FRAME.to_owned() + objects + &backend("s", 80, &["10.0.0.1"]);
    let parts = Translator::default().translate(&self::objects(&text), &settings, None, &around);
    let rows = parts.routers.iter().map(|router| {
        let fixed = Fixed { status: 200, content_type: "text/plain", body: bytes::Bytes::new() };
        let route = Route {
            id: 0,
            name: router.name.as_str().into(),
            tls_options: None,
            traced: false,
            metered: false,
            middlewares: Box::default(),
            target: Target::Fixed(fixed.into()),
        };
        let precedence = Precedence { priority: router.priority, turn: router.turn.clone() };
        (router.rule.clone(), precedence, Arc::new(route))
    });
    let (host, path) = request.split_at(request.find('/').unwrap());
    let asked = RequestView {
        method: "GET",
        host,
        path,
        query: "",
        headers: &http::HeaderMap::new(),
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let table = RouteTable::build(rows.collect());
    let name = table.find(&asked).map(|found| found.route.name.to_string());
    name.and_then(|name| parts.origin(&name)).cloned()
}

#[test]
fn a_catch_all_of_one_kind_takes_nothing_from_hosts_of_another() {
    for (others, request, want) in [
        (ingress("shop.example", "/"), "shop.example/x", "Ingress"),
        (ingress("*.shop.example", "/"), "a.shop.example/x", "Ingress"),
        (ingress_route("Host(`a.b`)", 0), "a.b/x", "IngressRoute"),
        (ingress_route("Host(`a.b`)", 1), "a.b/", "IngressRoute"),
        (ingress_route("PathPrefix(`/`)", 1_000_000), "a.b/x", "IngressRoute"),
        // Traefik's way to say that a route is the last.
        (ingress_route("PathPrefix(`/`)", 1), "a.b/x", "IngressRoute"),
    ] {
        assert_eq!(taken(&(others.clone() + &http_route("", "/")), request), want, "{others}");
    }
    let wild = http_route("*.example", "/some/rather/long/path/of/many/characters");
    let path = "/some/rather/long/path/of/many/characters/x";
    for (others, host, want) in [
        (ingress("shop.example", "/"), "shop.example", "Ingress"),
        (ingress_route("Host(`a.example`)", 0), "a.example", "IngressRoute"),
        (ingress_route("PathPrefix(`/`)", 1), "a.example", "HTTPRoute"),
        (ingress("", "/some"), "a.example", "HTTPRoute"),
        (ingress("*.example", "/some"), "a.example", "HTTPRoute"),
        (ingress("*.shop.example", "/"), "a.shop.example", "Ingress"),
    ] {
        assert_eq!(taken(&(others.clone() + &wild), &format!("{host}{path}")), want, "{others}");
    }
}

#[test]
fn of_two_kinds_with_the_same_host_the_longer_path_takes_it() {
    for host in ["shop.example", "*.example", ""] {
        let [both, either] = ["shop.example/api/x", "shop.example/x"];
        let (wide, narrow) = (ingress(host, "/"), http_route(host, "/api"));
        assert_eq!(taken(&(wide.clone() + &narrow), both), "HTTPRoute", "{host}");
        assert_eq!(taken(&(wide + &narrow), either), "Ingress", "{host}");
        let (wide, narrow) = (http_route(host, "/"), ingress(host, "/api"));
        assert_eq!(taken(&(wide.clone() + &narrow), both), "Ingress", "{host}");
        assert_eq!(taken(&(wide + &narrow), either), "HTTPRoute", "{host}");
        assert_eq!(taken(&(http_route(host, "/api") + &ingress(host, "/api")), both), "HTTPRoute", "{host}");
    }
    for (priority, want) in [(20, "HTTPRoute"), (100, "IngressRoute")] {
        let rule = ingress_route("Host(`shop.example`)", priority);
        assert_eq!(taken(&(rule + &http_route("shop.example", "/")), "shop.example/x"), want);
    }
}

#[test]
fn default_backends_of_hosts_are_before_the_one_for_everybody() {
    let one = |key: (&str, &str), rules: &str, annotation: &str| {
        format!(
            "kind: Ingress\nmetadata: {{namespace: {}, name: {}, annotations: {{{annotation}}}}}\nspec: {{defaultBackend: {{service: \
             {{name: s, port: {{number: 80}}}}}}{rules}}}\n---\n",
            key.0, key.1
        )
    };
    let hosts = |hosts: &str| format!(", rules: [{hosts}]");
    let all = one(("infra", "all"), "", "")
        + &one(("shop", "web"), &hosts("{host: a.example}, {host: b.example}"), "")
        + &one(("any", "wild"), &hosts("{host: \"*.example\"}"), "")
        + &one(("shop", "wrong"), &hosts("{host: c.example}"), "traefik.ingress.kubernetes.io/router.priority: x");
    for (request, want) in
        [("a.example", "web"), ("b.example", "web"), ("c.example", "wrong"), ("d.example", "wild"), ("a.b", "all")]
    {
        let taker = taker(&all, &format!("{request}/y")).unwrap();
        assert_eq!(&*taker.key.name, want, "{request}");
    }
}

#[test]
fn who_has_the_requests_again_is_told_nothing_any_more() {
    let one = |namespace: &str| {
        let text = ingress("shop.example", "/x") + &backend("s", 80, &["10.0.0.1"]);
        text.replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "))
    };
    let mut objects = objects(&(one("a") + &one("b")));
    let settings =
        Kubernetes { ingress: Some(KubernetesProvider { allow_empty: false, ..provider() }), ..Kubernetes::default() };
    let mut translator = Translator::default();
    let mut disputes =
        |objects: &Objects| translator.translate(objects, &settings, None, &Around::default()).disputes.len();
    assert_eq!(disputes(&objects), 1);
    // Without endpoints the first has no router any more.
    let mut slice = (**objects.slices.get("a", "s-1").unwrap()).clone();
    slice.endpoints.clear();
    objects.slices.put(slice);
    assert_eq!(disputes(&objects), 0);
}

#[test]
fn of_two_ingresses_with_one_host_and_path_the_older_has_it_and_the_other_is_told() {
    let one = |name: &str, year: u16, path: &str, annotation: &str| {
        ingress("shop.example", path).replace(
            "{name: ingress}",
            &format!("{{name: {name}, creationTimestamp: \"{year}-01-01T00:00:00Z\", annotations: {{{annotation}}}}}"),
        )
    };
    let settings = Kubernetes { ingress: Some(provider()), ..Kubernetes::default() };
    let mut translator = Translator::default();
    let mut told = |text: &str| {
        let text = text.to_owned() + &backend("s", 80, &["10.0.0.1"]);
        let parts = translator.translate(&objects(&text), &settings, None, &Around::default());
        parts.disputes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (years, first, other) in [([2021, 2020], "z", "a"), ([2020, 2020], "a", "z")] {
        let both = one("a", years[0], "/x", "") + &one("z", years[1], "/x", "");
        assert_eq!(&*taker(&both, "shop.example/x").unwrap().key.name, first);
        let rule = "Host(\"shop.example\") && (Path(\"/x\") || PathPrefix(\"/x/\"))";
        let want = format!(
            "Ingress default/{other}: spec.rules: `{rule}` is Ingress default/{first}'s, too, which is older, or of equals the first, \
             and gets the requests; remove one"
        );
        assert_eq!(told(&both), [want]);
    }
    const AT: &str = "traefik.ingress.kubernetes.io/router";
    for (path, annotation) in [
        ("/y", String::new()),
        // Such is meant.
        ("/x", format!("{AT}.priority: \"9\"")),
        ("/x", format!("{AT}.tls: \"true\"")),
        ("/x", format!("{AT}.entrypoints: other")),
        // That is told of anyhow.
        ("/x", format!("{AT}.priority: x")),
    ] {
        let both = one("a", 2020, "/x", "") + &one("z", 2021, path, &annotation);
        assert!(told(&both).is_empty(), "{path} {annotation}");
    }
    let refused = one("a", 2020, "/x", &format!("{AT}.priority: x")) + &one("z", 2021, "/x", "");
    assert_eq!(told(&refused).len(), 1);
}
