//! BackendTLSPolicies: what asks for TLS is not spoken to in the clear.

use super::*;

fn policy(target: &str) -> String {
    format!(
        "kind: BackendTLSPolicy\nmetadata: {{name: p, generation: 4}}\nspec: {{targetRefs: [{{group: \"\", kind: Service, {target}}}], \
         validation: {{hostname: shop.example, wellKnownCACertificates: System}}}}\n---\n"
    )
}

fn of(target: &str, rules: &str) -> Parts {
    let text = gateway(HTTP)
        + &route(rules)
        + &policy(target)
        + &backend("shop", 80, &["10.0.0.1"])
        + &backend("other", 80, &["10.0.0.2"]);
    translated(&text, &around())
}

const TO_SHOP: &str = "rules: [{backendRefs: [{name: shop, port: 80}]}]";

#[test]
fn a_service_under_a_policy_is_not_spoken_to_and_the_route_and_the_policy_say_so() {
    for target in ["name: shop", "name: shop, sectionName: web"] {
        let parts = of(target, TO_SHOP);
        assert_eq!(parts.routers.first().unwrap().service, crate::kube::parts::UNUSABLE, "{target}");
        assert!(parts.services.is_empty(), "{target}");
        assert_eq!(
            conditions(&parts, "HTTPRoute"),
            ["Accepted=True Accepted", "ResolvedRefs=False UnsupportedProtocol"],
            "{target}"
        );
        assert_eq!(conditions(&parts, "BackendTLSPolicy"), ["Accepted=False Unsupported"], "{target}");
        let status = parts.statuses.iter().find(|one| one.object.kind == "BackendTLSPolicy").unwrap();
        let ancestor = &status.body["ancestors"][0];
        assert_eq!(
            (&ancestor["ancestorRef"]["name"], &ancestor["conditions"][0]["observedGeneration"]),
            (&"g".into(), &4.into())
        );
        let problems: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "HTTPRoute default/r: spec.rules: UnsupportedProtocol: Service default/shop: BackendTLSPolicy default/p asks for \
                 TLS, which is not supported yet",
                "BackendTLSPolicy default/p: spec: TLS to servers is not supported yet: requests to what it is about are answered \
                 with 500",
            ],
            "{target}"
        );
    }
}

#[test]
fn another_port_or_service_is_served_and_the_policy_has_no_ancestor_of_ours() {
    let elsewhere = "name: gone}, {group: else.where, kind: Service, name: shop";
    for target in ["name: shop, sectionName: metrics", "name: other", elsewhere] {
        let parts = of(target, TO_SHOP);
        assert_eq!(parts.services.len(), 1, "{target}");
        assert!(parts.problems.is_empty() && conditions(&parts, "BackendTLSPolicy").is_empty(), "{target}");
    }
}

/// Its share is answered with 500, and a copy of a request is not sent.
#[test]
fn a_share_and_a_mirror_are_not_sent_in_the_clear_either() {
    let parts = of("name: shop", "rules: [{backendRefs: [{name: shop, port: 80}, {name: other, port: 80}]}]");
    let servers: Vec<&str> = parts.services.first().unwrap().servers.iter().map(|one| one.url.as_str()).collect();
    assert_eq!(servers, ["http://10.0.0.2:8080", "http://"]);
    let parts = of(
        "name: shop",
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}], backendRefs: [{name: \
         other, port: 80}]}]",
    );
    assert!(parts.middlewares.is_empty() && parts.services.len() == 1);
    assert_eq!(conditions(&parts, "BackendTLSPolicy"), ["Accepted=False Unsupported"]);
}

#[test]
fn what_traefik_reads_on_a_service_and_cannot_be_had_is_told() {
    for (value, told) in [("true", true), ("false", false)] {
        let text = gateway(HTTP)
            + &route(TO_SHOP)
            + &backend("shop", 80, &["10.0.0.1"]).replace(
                "{name: shop}",
                &format!("{{name: shop, annotations: {{traefik.io/service.nativelb: \"{value}\"}}}}"),
            );
        let parts = translated(&text, &around());
        let place = "Service default/shop: metadata.annotations[traefik.io/service.nativelb]: not supported yet";
        assert_eq!(parts.problems.iter().any(|one| one.message.contains(place)), told, "{value}");
        assert_eq!(parts.services.is_empty(), told, "{value}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_hurts_only_itself() {
    let text = gateway(HTTP)
        + &route(TO_SHOP)
        + "kind: BackendTLSPolicy\nmetadata: {name: p}\nspec: {targetRefs: 7}\n---\n"
        + &backend("shop", 80, &["10.0.0.1"]);
    let parts = translated(&text, &around());
    assert_eq!(parts.services.len(), 1);
    assert!(
        parts.problems.first().unwrap().to_string().starts_with("BackendTLSPolicy default/p: spec: cannot be read")
    );
}
