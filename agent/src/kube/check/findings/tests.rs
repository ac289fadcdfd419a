//! What a check finds, object by object.

use super::*;
use crate::config;
use crate::kube::check::NotRead;
use crate::kube::translate::tests::{backend, objects};

fn asked() -> Asked {
    Asked { settings: config::kubernetes_defaults(), file: None, class: None }
}

fn of_class(class: &str) -> Asked {
    Asked { class: Some(class.to_owned()), ..asked() }
}

fn report(text: &str, asked: &Asked) -> Report {
    of(Seen { objects: objects(text), ..Seen::default() }, asked)
}

/// Each finding on a line, without its remedy.
#[track_caller]
fn found(text: &str, asked: &Asked, want: &[&str]) -> Report {
    let report = report(text, asked);
    let told = report.to_string();
    let got: Vec<_> = told.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(got == want, "got:\n{}\nwant:\n{}", got.join("\n"), want.join("\n"));
    assert!(report.findings.iter().all(|finding| !finding.remedy.is_empty()), "{told}");
    report
}

/// The last line.
fn report_of(text: &str, asked: &Asked) -> String {
    report(text, asked).to_string().lines().last().unwrap_or_default().to_owned()
}

fn ingress(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "kind: Ingress\nmetadata: {{name: {name}{metadata}}}\nspec:\n  rules: [{{host: {name}.example, http: {{paths: [{{path: \
         /shop, pathType: Prefix, backend: {{service: {{name: shop, port: {{number: 80}}}}}}}}]}}}}]\n{spec}\n---\n"
    )
}

fn class(name: &str, controller: &str) -> String {
    format!("kind: IngressClass\nmetadata: {{name: {name}}}\nspec: {{controller: {controller}}}\n---\n")
}

fn shop() -> String {
    backend("shop", 80, &["10.0.0.1"])
}

#[test]
fn what_is_served_as_it_is_is_counted_and_no_finding() {
    let route = "kind: IngressRoute\nmetadata: {name: r}\nspec: {routes: [{match: Host(`a.example`), services: [{name: shop, port: \
                 80}]}]}\n---\n";
    let report = found(
        &(ingress("a", "", "") + route + &shop()),
        &asked(),
        &[
            "Ingress: 1 there, 1 ours, 1 of these served as they are",
            "IngressRoute: 1 there, 1 ours, 1 of these served as they are",
        ],
    );
    assert!(report.is_whole);
}

#[test]
fn objects_of_other_classes_are_told_with_whose_they_are_and_are_no_fault() {
    let text = ingress("a", "", "  ingressClassName: nginx")
        + &ingress("b", "", "  ingressClassName: gone")
        + &class("nginx", NGINX)
        + "kind: IngressRoute\nmetadata: {name: r}\nspec: {ingressClassName: other, routes: []}\n---\n"
        + "kind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: eg, listeners: []}\n---\n"
        + "kind: HTTPRoute\nmetadata: {name: h}\nspec: {parentRefs: [{name: g}]}\n---\n"
        + &shop();
    let report = found(
        &text,
        &asked(),
        &[
            "Gateway default/g: not ours: spec.gatewayClassName: there is no GatewayClass `eg`",
            "HTTPRoute default/h: not ours: spec.parentRefs: none of its parents is a Gateway of ours",
            "Ingress default/a: not ours: spec.ingressClassName: its class `nginx` is of the controller k8s.io/ingress-nginx",
            "Ingress default/b: not ours: spec.ingressClassName: there is no IngressClass `gone`",
            "IngressRoute default/r: not ours: spec.ingressClassName: its class is `other`",
            "Gateway: 1 there, 0 ours, 0 of these served as they are",
            "HTTPRoute: 1 there, 0 ours, 0 of these served as they are",
            "Ingress: 2 there, 0 ours, 0 of these served as they are",
            "IngressRoute: 1 there, 0 ours, 0 of these served as they are",
        ],
    );
    assert!(report.is_whole);
    assert!(report.to_string().contains("`--ingress-class nginx` reads it as if it were ours"));
}

#[test]
fn what_ingress_nginx_does_otherwise_is_told_of_its_own_objects() {
    let annotated = ", annotations: {nginx.ingress.kubernetes.io/rewrite-target: /, nginx.ingress.kubernetes.io/proxy-buffering: \
                     \"off\", konghq.com/plugins: x}";
    let text = ingress("a", annotated, "  ingressClassName: nginx\n  tls: [{hosts: [a.example]}]")
        + &ingress(
            "b",
            ", annotations: {nginx.ingress.kubernetes.io/proxy-body-size: \"0\"}",
            "  ingressClassName: nginx",
        )
        + &class("nginx", NGINX)
        + &shop();
    let report = found(
        &text,
        &of_class("nginx"),
        &[
            "Ingress default/a: differs: metadata.annotations[konghq.com/plugins]: is ignored: another controller's",
            "Ingress default/a: differs: metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]: is ignored: paths reach \
             the server as they are",
            "Ingress default/a: not served: spec.tls: no router of it takes TLS",
            "Ingress default/a: differs: spec.tls: plain requests are served; ingress-nginx redirects them to https",
            "Ingress default/a: differs: request bodies of all sizes are passed on; ingress-nginx refuses those above 1 MB where its \
             own settings say nothing else",
            "Ingress: 2 there, 2 ours, 1 of these served as they are",
        ],
    );
    assert!(!report.is_whole);
    let first = report.findings.get(1).unwrap();
    assert_eq!((first.kind.as_str(), first.namespace.as_str(), first.name.as_str()), ("Ingress", "default", "a"));
    assert_eq!(
        first.remedy,
        "name a Middleware with stripPrefix or replacePathRegex in traefik.ingress.kubernetes.io/router.middlewares"
    );
}

#[test]
fn traefiks_wide_prefixes_are_told_of_its_own_objects() {
    let text = ingress("a", "", "  ingressClassName: traefik") + &class("traefik", TRAEFIK) + &shop();
    let mut asked = of_class("traefik");
    let wide = "Ingress default/a: differs: spec.rules: a Prefix path takes whole segments only; Traefik's takes /shopping for /shop \
                where strictPrefixMatching is not set";
    found(&text, &asked, &[wide, "Ingress: 1 there, 1 ours, 0 of these served as they are"]);
    asked.settings.ingress.as_mut().unwrap().strict_prefix = false;
    found(&text, &asked, &["Ingress: 1 there, 1 ours, 1 of these served as they are"]);
}

#[test]
fn bad_references_are_told_at_their_place_with_what_to_do() {
    let routes = "kind: IngressRoute\nmetadata: {name: r}\nspec: {entryPoints: [websecure], tls: {secretName: none}, routes: [{match: \
                  Host(`a.example`), middlewares: [{name: lost}], services: [{name: shop, port: 80}]}, {match: Host(`b.example`), \
                  services: [{name: shop, port: 80, sticky: {cookie: {}}}]}]}\n---\n";
    let text = ingress("a", "", "").replace("number: 80", "number: 81") + routes + &shop();
    let mut asked = asked();
    let report = found(
        &text,
        &asked,
        &[
            "Ingress default/a: not served: spec.rules[0].http.paths[0].backend: Service default/shop has no port 81",
            "IngressRoute default/r: differs: spec.tls.secretName: there is no Secret default/none",
            "IngressRoute default/r: not served: spec.routes[1].services: service shop: sticky is not supported yet",
            "IngressRoute default/r: not served: there is no middleware `default-lost@kubernetescrd` that can be used; its requests \
             are answered with 500",
            "Ingress: 1 there, 1 ours, 0 of these served as they are",
            "IngressRoute: 1 there, 1 ours, 0 of these served as they are",
        ],
    );
    let remedies: Vec<_> = report.findings.iter().map(|finding| finding.remedy.as_str()).collect();
    assert_eq!(remedies.first(), Some(&"make it, or mend the reference"));
    assert!(remedies.get(2).unwrap().starts_with("leave it out"));
    // With a file its entry points and middlewares are known.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wayspan.yaml");
    std::fs::write(&file, "entryPoints: {web: {address: \":0\"}}").unwrap();
    asked.file = Some(config::check(&file).unwrap().dynamic);
    let told = super::super::findings::of(Seen { objects: objects(&text), ..Seen::default() }, &asked).to_string();
    assert!(
        told.contains("IngressRoute default/r: not served: spec.entryPoints: there is no entry point `websecure`"),
        "{told}"
    );
}

#[test]
fn a_middleware_of_the_file_is_missed_only_where_the_file_is_known() {
    let text = "kind: IngressRoute\nmetadata: {name: r}\nspec: {routes: [{match: Host(`a.example`), middlewares: [{name: auth@file}], \
                services: [{name: shop, port: 80}]}]}\n---\n"
        .to_owned()
        + &shop();
    assert!(report(&text, &asked()).is_whole);
    let told = report(&text, &Asked { file: Some(Dynamic::default()), ..asked() });
    assert_eq!(
        told.findings.first().unwrap().message,
        "there is no middleware `auth` that can be used; its requests are answered with 500"
    );
}

#[test]
fn what_cannot_be_read_is_told_and_fails_only_where_it_would_be_served() {
    let unread =
        |is_needed| NotRead { kind: "Secret".to_owned(), namespace: String::new(), why: "no".to_owned(), is_needed };
    let seen = |is_needed| Seen { unread: vec![unread(is_needed)], ..Seen::default() };
    assert!(!of(seen(true), &asked()).is_whole);
    assert!(of(seen(false), &asked()).is_whole);
    let others = vec![("IngressRouteTCP".to_owned(), "traefik.io".to_owned(), Key::new("a", "b"))];
    let report = of(Seen { others, ..Seen::default() }, &asked());
    assert_eq!(
        report.to_string(),
        "IngressRouteTCP a/b: not served: its kind is not supported yet\n    leave it to its controller until Wayspan has \
         IngressRouteTCP\n"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][0]["effect"], "notServed");
    assert_eq!(json["isWhole"], false);
}

#[test]
fn a_policy_that_asks_for_tls_to_servers_is_told_beside_the_routes_that_lead_there() {
    let text = "kind: GatewayClass\nmetadata: {name: w}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\nkind: Gateway\n\
                metadata: {name: g}\nspec: {gatewayClassName: w, listeners: [{name: http, port: 80, protocol: HTTP}]}\n---\nkind: \
                HTTPRoute\nmetadata: {name: h}\nspec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: shop, port: 80}]}]}\n---\n\
                kind: BackendTLSPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: \"\", kind: Service, name: shop}], validation: \
                {hostname: shop}}\n---\n";
    found(
        &(text.to_owned() + &shop()),
        &asked(),
        &[
            "BackendTLSPolicy default/p: not served: spec: TLS to servers is not supported yet: requests to what it is about are \
             answered with 500",
            "HTTPRoute default/h: not served: spec.rules: UnsupportedProtocol: Service default/shop: BackendTLSPolicy default/p asks \
             for TLS, which is not supported yet",
            "Gateway: 1 there, 1 ours, 1 of these served as they are",
            "HTTPRoute: 1 there, 1 ours, 0 of these served as they are",
        ],
    );
}

#[test]
fn a_class_that_is_tried_leaves_traefiks_kinds_where_none_of_them_has_it() {
    let route = |name: &str, class: &str| {
        format!(
            "kind: IngressRoute\nmetadata: {{name: {name}}}\nspec: {{ingressClassName: {class}, routes: []}}\n---\n"
        )
    };
    let without = |name: &str| route(name, "x").replace("ingressClassName: x, ", "");
    let as_they_are = "IngressRoute: 2 there, 2 ours, 2 of these served as they are";
    // As Traefik without a class has them, and beside ingress-nginx.
    found(&(without("a") + &route("b", "traefik")), &of_class("traefik"), &[as_they_are]);
    found(&(without("a") + &without("b")), &of_class("nginx"), &[as_they_are]);
    // Whose class one of them names serves none without.
    let report = found(
        &(without("a") + &route("b", "inner")),
        &of_class("inner"),
        &[
            "IngressRoute default/a: not ours: spec.ingressClassName: it names no class, and only `inner` is asked for",
            "IngressRoute: 2 there, 1 ours, 1 of these served as they are",
        ],
    );
    assert_eq!(report.findings[0].remedy, "name the class in spec.ingressClassName");
    // The file's word for Traefik's kinds is another's class.
    let mut named = of_class("traefik");
    named.settings.crd.as_mut().unwrap().ingress_class = "inner".to_owned();
    let told = report_of(&(without("a") + &route("b", "traefik")), &named);
    assert_eq!(told, "IngressRoute: 2 there, 1 ours, 1 of these served as they are");
}

#[test]
fn who_gets_no_requests_since_another_has_the_same_is_not_served() {
    let text = ingress("a", "", "")
        + &ingress("a", ", namespace: z", "")
        + &shop()
        + &shop().replace("{name", "{namespace: z, name");
    let report = report(&text, &asked());
    let told: Vec<_> = report.findings.iter().map(|one| (&*one.namespace, one.effect, &*one.remedy)).collect();
    assert_eq!(told, [("z", Effect::NotServed, "remove one")]);
}
