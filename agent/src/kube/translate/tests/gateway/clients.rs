//! A Gateway that asks its clients for certificates: who asks is not served without.

use super::*;

const HTTPS: &str = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}";
const CA: &str = "{validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}";

/// A Gateway with plain requests, and with TLS at two ports, whose spec says more.
fn parts(listener: &str, more: &str) -> Parts {
    let other = HTTPS.replace("name: s", "name: t").replace("443", "8443");
    let text = gateway(&format!("{HTTP}, {listener}, {other}"))
        .replace("gatewayClassName: w,", &format!("gatewayClassName: w, {more}"))
        + &route("hostnames: [a.example], rules: [{backendRefs: [{name: shop, port: 80}]}]")
        + &backend("shop", 80, &["10.0.0.1"]);
    let mut objects = objects(&text);
    objects.secrets.put(super::super::tls::certified("default", "cert", &["a.example"]));
    let around = Around {
        entry_points: vec![entry("web", "[::]:80"), entry("a", "[::]:443"), entry("b", "[::]:8443")],
        ..Around::default()
    };
    let settings = Kubernetes { gateway: Some(provider()), ..Kubernetes::default() };
    Translator::default().translate(&objects, &settings, None, &around)
}

/// By listener: whether it is accepted and programmed, with its routes.
fn listeners(parts: &Parts) -> Vec<String> {
    let gateway = parts.statuses.iter().find(|one| one.object.kind == "Gateway").unwrap();
    let said = |one: &serde_json::Value, kind: &str| {
        let all = one["conditions"].as_array().unwrap();
        let found = all.iter().find(|condition| condition["type"] == *kind).unwrap();
        format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
    };
    let all = gateway.body["listeners"].as_array().unwrap().iter();
    all.map(|one| {
        format!("{}: {}, {}, {}", one["name"], said(one, "Accepted"), said(one, "Programmed"), one["attachedRoutes"])
            .replace('"', "")
    })
    .collect()
}

#[test]
fn a_listener_whose_clients_are_to_show_certificates_is_not_served_without() {
    let old = HTTPS.replace(
        "tls: {",
        "tls: {frontendValidation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}, ",
    );
    let insecure = CA.replace("{validation: {", "{validation: {mode: AllowInsecureFallback, ");
    for (listener, tls, closed) in [
        (HTTPS, String::new(), &[][..]),
        (HTTPS, "frontend: {default: {}}".to_owned(), &[]),
        (HTTPS, format!("frontend: {{default: {CA}}}"), &["a", "b"]),
        (HTTPS, format!("frontend: {{default: {insecure}}}"), &["a", "b"]),
        (HTTPS, format!("frontend: {{default: {CA}, perPort: [{{port: 443, tls: {{}}}}]}}"), &["b"]),
        (HTTPS, format!("frontend: {{default: {{}}, perPort: [{{port: 443, tls: {CA}}}]}}"), &["a"]),
        (old.as_str(), String::new(), &["a"]),
    ] {
        let more = if tls.is_empty() { tls.clone() } else { format!("tls: {{{tls}}},") };
        let parts = parts(listener, &more);
        let mut served: Vec<&str> =
            parts.routers.iter().flat_map(|one| &one.entry_points).map(String::as_str).collect();
        served.sort_unstable();
        let open = ["a", "b", "web"].into_iter().filter(|name| !closed.contains(name)).collect::<Vec<_>>();
        assert_eq!(served, open, "{tls}");
        let said = |name: &str, point: &str| match closed.contains(&point) {
            true => format!("{name}: False UnsupportedValue, False Invalid, 0"),
            false => format!("{name}: True Accepted, True Programmed, 1"),
        };
        assert_eq!(listeners(&parts), [said("http", "web"), said("s", "a"), said("t", "b")], "{tls}");
        let told = parts.problems.iter().filter(|one| one.message.contains("asks for client certificates")).count();
        assert_eq!(told, closed.len(), "{tls}: {:?}", parts.problems);
    }
}

#[test]
fn a_route_to_such_a_listener_alone_says_so() {
    let text = gateway(HTTPS)
        .replace("gatewayClassName: w,", &format!("gatewayClassName: w, tls: {{frontend: {{default: {CA}}}}},"))
        + &route("rules: [{}]");
    let parts = translated(&text, &around());
    assert!(parts.routers.is_empty() && parts.entry_points.is_empty());
    assert_eq!(conditions(&parts, "HTTPRoute")[0], "Accepted=False NotAllowedByListeners");
    assert_eq!(conditions(&parts, "Gateway")[..2], ["Accepted=False ListenersNotValid", "Programmed=False Invalid"]);
}

#[test]
fn a_certificate_of_ours_for_servers_is_told_and_changes_nothing() {
    let parts = parts(HTTPS, "tls: {backend: {clientCertificateRef: {group: \"\", kind: Secret, name: cert}}},");
    let problems: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["Gateway default/g: spec.tls.backend: TLS to servers is not supported yet; leave it out"]);
    assert_eq!(parts.routers.len(), 3);
}
