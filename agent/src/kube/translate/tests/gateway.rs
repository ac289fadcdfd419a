//! The Gateway API.

mod clients;
mod filters;
mod policies;
mod sets;

use wayspan_proxy::rule::RequestView;

use super::*;

const CLASS: &str = "kind: GatewayClass\nmetadata: {name: w, generation: 2}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\n";

fn gateway(listeners: &str) -> String {
    format!(
        "{CLASS}kind: Gateway\nmetadata: {{name: g, generation: 5}}\nspec: {{gatewayClassName: w, listeners: [{listeners}]}}\n---\n"
    )
}

fn route(spec: &str) -> String {
    format!("kind: HTTPRoute\nmetadata: {{name: r, generation: 3}}\nspec: {{parentRefs: [{{name: g}}], {spec}}}\n---\n")
}

const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

fn around() -> Around {
    Around { entry_points: vec![entry("web", "[::]:80")], ..Around::default() }
}

fn translated(text: &str, around: &Around) -> Parts {
    let settings = Kubernetes { gateway: Some(provider()), ..Kubernetes::default() };
    Translator::default().translate(&objects(text), &settings, Some("here"), around)
}

/// `Type=Status Reason` of all conditions of an object, those of listeners, parents and ancestors behind.
fn conditions(parts: &Parts, kind: &str) -> Vec<String> {
    let status = parts.statuses.iter().find(|status| status.object.kind == kind).unwrap();
    let mut all: Vec<serde_json::Value> = status.conditions.iter().map(|one| one.json(status.generation)).collect();
    for list in ["listeners", "parents", "ancestors"] {
        for one in status.body[list].as_array().into_iter().flatten() {
            all.extend(one["conditions"].as_array().unwrap().clone());
        }
    }
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    all.iter().map(|one| format!("{}={} {}", text(one, "type"), text(one, "status"), text(one, "reason"))).collect()
}

#[test]
fn a_route_is_attached_and_says_so() {
    let text = gateway(HTTP)
        + &route(
            "hostnames: [a.example], rules: [{matches: [{path: {type: PathPrefix, value: /x}, method: GET}], backendRefs: [{name: shop, port: 80}]}]",
        )
        + &backend("shop", 80, &["10.0.0.1"]);
    let parts = translated(&text, &around());
    let name = &parts.routers.first().unwrap().name;
    assert!(
        name.starts_with("httproute-default-r-gw-default-g-ep-web-0-") && name.ends_with("@kubernetesgateway"),
        "{name}"
    );
    let lines: Vec<String> = shown(&parts).iter().map(|line| line.replace(name, "R")).collect();
    assert_eq!(
        lines,
        [
            "R: Host(\"a.example\") && (Path(\"/x\") || PathPrefix(\"/x/\")) && Method(\"GET\") -> httproute-default-r-gw-default-g-ep-web-0-wrr@kubernetesgateway on web",
            "httproute-default-r-gw-default-g-ep-web-0-wrr@kubernetesgateway = http://10.0.0.1:8080",
        ]
    );
    assert_eq!(conditions(&parts, "GatewayClass"), ["Accepted=True Accepted"]);
    assert_eq!(
        conditions(&parts, "Gateway"),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "Accepted=True Accepted",
            "Conflicted=False NoConflicts",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=True Programmed",
        ]
    );
    assert_eq!(conditions(&parts, "HTTPRoute"), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    let gateway = parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap();
    assert_eq!(gateway.body["listeners"][0]["attachedRoutes"], 1);
    assert_eq!(gateway.body["listeners"][0]["supportedKinds"][0]["kind"], "HTTPRoute");
}

#[test]
fn a_listener_is_of_the_entry_point_that_is_published_at_its_port() {
    let web = Entry { published: vec![80, 8080], ..entry("web", "[::]:8000") };
    let other = entry("other", "[::]:80");
    let around = Around { entry_points: vec![other, web], ..Around::default() };
    let text = |port: u16| gateway(&HTTP.replace("80", &port.to_string())) + &route("rules: [{}]");
    let settings = |open_ports| {
        let gateway = KubernetesProvider { open_ports, ..provider() };
        Kubernetes { gateway: Some(gateway), ..Kubernetes::default() }
    };
    let of = |port, opens| Translator::default().translate(&objects(&text(port)), &settings(opens), None, &around);
    // As in Traefik, the port that it listens on itself is its too.
    for (port, wanted) in [(80, "web"), (8080, "web"), (8000, "web")] {
        let parts = of(port, false);
        assert_eq!(parts.routers[0].entry_points, [wanted], "{port}");
        assert!(parts.entry_points.is_empty());
    }
    let parts = of(81, false);
    assert!(parts.routers.is_empty() && parts.entry_points.is_empty());
    let said = conditions(&parts, "Gateway");
    assert_eq!((&*said[1], &*said[5]), ("Programmed=False Invalid", "Programmed=False PortUnavailable"));
    assert_eq!(
        parts.problems[0].message,
        "no entry point is published at port 81, and openPorts is false; name a published port (80, 8080), or publish one"
    );
    assert_eq!(of(81, true).routers[0].entry_points, ["gateway-81"]);
}

#[test]
fn statuses_name_all_nodes_and_a_gateways_no_more_than_the_api_takes() {
    let all = (1..=20).map(|last| ("IPAddress".to_owned(), format!("10.0.0.{last}")));
    let around = Around { addresses: all.collect(), ..around() };
    let node =
        "kind: Node\nmetadata: {name: here}\nstatus: {addresses: [{type: InternalIP, address: 10.9.9.9}]}\n---\n";
    let ingress = "kind: Ingress\nmetadata: {name: i}\nspec: {}\n---\n";
    let text = node.to_owned() + ingress + &gateway(HTTP);
    let settings = Kubernetes { ingress: Some(provider()), gateway: Some(provider()), ..Kubernetes::default() };
    let lengths = |around: &Around| {
        let parts = Translator::default().translate(&objects(&text), &settings, Some("here"), around);
        let of = |kind: &str| parts.statuses.iter().find(|status| status.object.kind == kind).unwrap().body.clone();
        let [ingress, gateway] = [of("Ingress"), of("Gateway")];
        [&ingress["loadBalancer"]["ingress"], &gateway["addresses"]].map(|all| all.as_array().unwrap().len())
    };
    assert_eq!(lengths(&around), [20, 16]);
    // Our own node's.
    assert_eq!(lengths(&self::around()), [1, 1]);
}

/// A listener, and what its Gateway says.
#[test]
fn what_cannot_be_listened_to_says_why() {
    let of = |listeners: &str, around: &Around| conditions(&translated(&gateway(listeners), around), "Gateway");
    assert_eq!(
        of("{name: a, port: 80, protocol: TCP}", &around()),
        [
            "Accepted=False ListenersNotValid",
            "Programmed=False Invalid",
            "Accepted=False UnsupportedProtocol",
            "Conflicted=False NoConflicts",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=False Invalid",
        ]
    );
    let unopened = Around { unopened: vec![("gateway-81".to_owned(), "in use".to_owned())], ..around() };
    let two = of("{name: a, port: 81, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}", &unopened);
    assert_eq!(two[0], "Accepted=True ListenersNotValid");
    assert_eq!(two[1], "Programmed=True Programmed");
    assert_eq!(two[2], "Accepted=False PortUnavailable");
    assert_eq!(two[5], "Programmed=False PortUnavailable");
    assert_eq!(two[9], "Programmed=True Programmed");
    let same = of(&format!("{HTTP}, {}", HTTP.replace("name: http", "name: b")), &around());
    assert_eq!(same[3], "Conflicted=True HostnameConflict");
    let mixed = of(
        "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}",
        &around(),
    );
    assert_eq!((&*mixed[3], &*mixed[7]), ("Conflicted=True ProtocolConflict", "Conflicted=True ProtocolConflict"));
    let kinds = of(
        "{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}",
        &around(),
    );
    assert_eq!(kinds[4], "ResolvedRefs=False InvalidRouteKinds");
}

#[test]
fn a_protocol_that_there_is_not_takes_no_port_from_one_that_there_is() {
    let secure =
        "{name: good, port: 443, hostname: shop.example, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}";
    let passed = "{name: bad, port: 443, hostname: db.example, protocol: TLS, tls: {mode: Passthrough}}";
    for (good, bad) in [(secure, passed), (HTTP, "{name: bad, port: 80, protocol: TCP}")] {
        for (listeners, at) in [(format!("{good}, {bad}"), 2), (format!("{bad}, {good}"), 6)] {
            let parts = translated(&(gateway(&listeners) + &route("rules: [{}]")), &around());
            let said = conditions(&parts, "Gateway");
            assert_eq!(said[0], "Accepted=True ListenersNotValid", "{listeners}");
            assert_eq!(said[at..at + 2], ["Accepted=True Accepted", "Conflicted=False NoConflicts"], "{listeners}");
            let bad = &said[8 - at..];
            assert_eq!(bad[..2], ["Accepted=False UnsupportedProtocol", "Conflicted=False NoConflicts"], "{listeners}");
            assert_eq!(parts.routers.len(), 1, "{listeners}");
        }
    }
}

#[test]
fn a_listener_says_that_it_is_served_with_the_kinds_that_there_are() {
    let of = |listener: &str, kinds: &str| {
        let listener = listener.replace("port:", &format!("allowedRoutes: {{kinds: [{kinds}]}}, port:"));
        let parts = translated(&(gateway(&listener) + &route("rules: [{}]")), &around());
        let said = conditions(&parts, "Gateway");
        let status = parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap();
        let kinds = status.body["listeners"][0]["supportedKinds"].as_array().unwrap().len();
        assert_eq!(said[4], "ResolvedRefs=False InvalidRouteKinds");
        (said[1].clone(), said[5].clone(), kinds, parts.routers.len())
    };
    let (yes, no) = ("Programmed=True Programmed".to_owned(), "Programmed=False Invalid".to_owned());
    let (both, foreign) = ("{kind: GRPCRoute}, {kind: HTTPRoute}", "{kind: GRPCRoute}");
    assert_eq!(of(HTTP, both), (yes.clone(), yes, 1, 1));
    assert_eq!(of(HTTP, foreign), (no.clone(), no.clone(), 0, 0));
    // Without any of its certificates nobody is served as it is meant.
    let secure = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}}";
    assert_eq!(of(secure, both), (no.clone(), no, 1, 1));
}

#[test]
fn a_gateway_that_cannot_be_read_says_so_of_its_present_spec() {
    let text = gateway("7, {name: a}").replace("generation: 5", "generation: 6") + &route("rules: [{}]");
    let parts = translated(&text, &around());
    assert_eq!(conditions(&parts, "Gateway"), ["Accepted=False Invalid", "Programmed=False Invalid"]);
    let status = parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap();
    assert_eq!(
        (status.generation, &status.body),
        (6, &serde_json::json!({"listeners": [], "attachedListenerSets": null}))
    );
    assert!(status.conditions[0].message.starts_with("the spec cannot be read: "), "{status:?}");
    // Another controller's is none of ours.
    let parts = translated(&text.replace("gatewayClassName: w", "gatewayClassName: other"), &around());
    assert!(parts.statuses.iter().all(|status| status.object.kind != "Gateway"));
}

#[test]
fn a_listener_without_tls_is_not_served_where_its_entry_point_takes_tls() {
    let around = Around { entry_points: vec![Entry { secure: true, ..entry("web", "[::]:80") }], ..Around::default() };
    let parts = translated(&(gateway(HTTP) + &route("rules: [{}]")), &around);
    let said = conditions(&parts, "Gateway");
    assert_eq!((&*said[1], &*said[2]), ("Programmed=False Invalid", "Accepted=False PortUnavailable"));
    assert_eq!(said[5], "Programmed=False PortUnavailable");
    assert!(parts.routers.is_empty());
    assert!(
        parts.problems[0].message.starts_with("the entry point `web` at port 80 takes TLS"),
        "{:?}",
        parts.problems
    );
    let secured = "{name: s, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}";
    let parts = translated(&(gateway(secured) + &route("rules: [{}]")), &around);
    assert_eq!(parts.routers.len(), 1);
}

#[test]
fn a_port_that_nobody_has_is_opened() {
    let parts = translated(&gateway("{name: a, port: 8181, protocol: HTTP}"), &around());
    let opened = parts.entry_points.first().unwrap();
    assert_eq!((opened.name.as_str(), opened.addresses[0].port()), ("gateway-8181", 8181));
    let api = Around { api: Some("127.0.0.1:8181".parse().unwrap()), ..around() };
    let parts = translated(&gateway("{name: a, port: 8181, protocol: HTTP}"), &api);
    assert!(parts.entry_points.is_empty());
    assert_eq!(conditions(&parts, "Gateway")[5], "Programmed=False PortUnavailable");
}

#[test]
fn the_file_s_routers_do_not_move_to_a_port_that_a_gateway_opened() {
    let parts = translated(&gateway("{name: a, port: 8181, protocol: HTTP}"), &around());
    let mut file = crate::config::model::Dynamic::default();
    let web = crate::config::fragment::entry_point("web", ":80").unwrap();
    file.entry_points.push(crate::config::model::EntryPoint { by_name_only: false, ..web });
    file.routers.push(Arc::new(Router {
        name: "all".to_owned(),
        rule: wayspan_proxy::rule::Rule::parse("Path(`/`)").unwrap(),
        priority: 0,
        turn: None,
        entry_points: Vec::new(),
        middlewares: Vec::new(),
        service: "api@internal".to_owned(),
        observability: crate::config::model::Observability::default(),
        tls: None,
        default_options: None,
        holder: None,
    }));
    let (merged, _) = parts.merged(&file);
    let takes: Vec<_> = merged.entry_points.iter().map(|one| (&*one.name, one.takes(&merged.routers[0]))).collect();
    assert_eq!(takes, [("web", true), ("gateway-8181", false)]);
}

/// A route's spec, and what it says of its parent.
#[test]
fn what_a_route_cannot_have_is_a_condition_and_answers_500() {
    let listeners =
        "{name: http, port: 80, protocol: HTTP, hostname: a.example, allowedRoutes: {namespaces: {from: Same}}}";
    let backend = backend("shop", 80, &["10.0.0.1"]);
    let rule = "rules: [{backendRefs: [{name: shop, port: 80}]}]";
    for (spec, want) in [
        (
            "rules: [{backendRefs: [{name: gone, port: 80}]}]",
            "Accepted=True Accepted, ResolvedRefs=False BackendNotFound",
        ),
        (
            "rules: [{backendRefs: [{name: shop, port: 81}]}]",
            "Accepted=True Accepted, ResolvedRefs=False BackendNotFound",
        ),
        (
            "rules: [{backendRefs: [{name: shop, kind: Bucket, port: 80}]}]",
            "Accepted=True Accepted, ResolvedRefs=False InvalidKind",
        ),
        (
            "rules: [{backendRefs: [{name: shop, namespace: other, port: 80}]}]",
            "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted",
        ),
        (
            "rules: [{filters: [{type: CORS}], backendRefs: [{name: shop, port: 80}]}]",
            "Accepted=False UnsupportedValue, ResolvedRefs=True ResolvedRefs",
        ),
    ] {
        let parts = translated(&(gateway(HTTP) + &route(spec) + &backend), &around());
        assert_eq!(conditions(&parts, "HTTPRoute").join(", "), want, "{spec}");
        let lost = parts.routers.iter().all(|router| router.service == crate::kube::parts::UNUSABLE);
        assert!(lost, "{spec}");
        assert!(!parts.problems.is_empty(), "{spec}");
    }
    for (more, want) in [
        ("hostnames: [b.example], ", "Accepted=False NoMatchingListenerHostname"),
        ("hostnames: [\"*.example\"], ", "Accepted=True Accepted"),
    ] {
        let parts = translated(&(gateway(listeners) + &route(&format!("{more}{rule}")) + &backend), &around());
        assert_eq!(conditions(&parts, "HTTPRoute")[0], want, "{more}");
    }
    for (parent, want) in [
        ("name: g, namespace: default, sectionName: other", "Accepted=False NoMatchingParent"),
        ("name: g, namespace: default, port: 81", "Accepted=False NoMatchingParent"),
        ("name: g, namespace: default, port: 80", "Accepted=False NotAllowedByListeners"),
    ] {
        let text = route(rule)
            .replace("name: r,", "name: r, namespace: elsewhere,")
            .replace("{name: g}", &format!("{{{parent}}}"));
        let parts = translated(&(gateway(listeners) + &text + &backend), &around());
        assert_eq!(conditions(&parts, "HTTPRoute")[0], want, "{parent}");
    }
    // Somebody else's Gateway is none of ours: not a word.
    let parts = translated(&(gateway(HTTP) + &route(rule).replace("{name: g}", "{name: theirs}")), &around());
    let status = parts.statuses.iter().find(|status| status.object.kind == "HTTPRoute").unwrap();
    assert_eq!(status.body["parents"].as_array().unwrap().len(), 0);
}

#[test]
fn a_grant_opens_a_namespace() {
    let text = gateway(HTTP)
        + &route("rules: [{backendRefs: [{name: shop, namespace: other, port: 80}]}]")
        + &backend("shop", 80, &["10.0.0.1"]).replace("metadata: {", "metadata: {namespace: other, ");
    let grant = |to: &str| {
        format!(
            "kind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}}], to: [{to}]}}\n---\n"
        )
    };
    let resolved = |text: &str| conditions(&translated(text, &around()), "HTTPRoute")[1].clone();
    assert_eq!(resolved(&(text.clone() + &grant("{group: \"\", kind: Service}"))), "ResolvedRefs=True ResolvedRefs");
    assert_eq!(
        resolved(&(text.clone() + &grant("{group: \"\", kind: Service, name: shop}"))),
        "ResolvedRefs=True ResolvedRefs"
    );
    assert_eq!(
        resolved(&(text.clone() + &grant("{group: \"\", kind: Service, name: else}"))),
        "ResolvedRefs=False RefNotPermitted"
    );
    assert_eq!(resolved(&(text + &grant("{group: \"\", kind: Secret}"))), "ResolvedRefs=False RefNotPermitted");
}

#[test]
fn matches_come_in_the_order_of_the_api() {
    let matches = [
        "path: {type: Exact, value: /a}",
        "path: {type: PathPrefix, value: /a/long/one}, queryParams: [{name: q, value: v}]",
        "path: {type: PathPrefix, value: /a/long/one}",
        "path: {type: PathPrefix, value: /a}, method: GET",
        "path: {type: PathPrefix, value: /a}, headers: [{name: a, value: b}, {name: c, value: d}], queryParams: [{name: q, value: v}]",
        "path: {type: PathPrefix, value: /a}, headers: [{name: a, value: b}, {name: c, value: d}]",
        "path: {type: PathPrefix, value: /a}, headers: [{name: a, value: b}], queryParams: [{name: q, value: v}]",
        "path: {type: PathPrefix, value: /a}, queryParams: [{name: q, value: v}]",
        "path: {type: PathPrefix, value: /a}",
    ];
    let mut rules: Vec<String> = matches.iter().map(|one| format!("{{matches: [{{{one}}}]}}")).collect();
    rules.reverse();
    let text = gateway(HTTP) + &route(&format!("hostnames: [a.example, \"*.example\"], rules: [{}]", rules.join(", ")));
    let mut routers = translated(&text, &around()).routers;
    routers.sort_by_key(|router| (std::cmp::Reverse(router.priority), router.turn.clone()));
    let order: Vec<(bool, usize)> = routers
        .iter()
        .map(|router| {
            let rule =
                router.name.split("-ep-web-").nth(1).unwrap().split('-').next().unwrap().parse::<usize>().unwrap();
            (router.rule.text.contains("**"), matches.len() - 1 - rule)
        })
        .collect();
    let want: Vec<(bool, usize)> =
        [false, true].into_iter().flat_map(|wild| (0..matches.len()).map(move |index| (wild, index))).collect();
    assert_eq!(order, want);
}

#[test]
fn of_equal_matches_the_older_route_and_the_first_rule_come_first() {
    let old = route("rules: [{}, {}]").replace("name: r,", "name: z, creationTimestamp: \"2020-01-01T00:00:00Z\",");
    let young = route("rules: [{}]").replace("name: r,", "name: a, creationTimestamp: \"2021-01-01T00:00:00Z\",");
    let mut routers = translated(&(gateway(HTTP) + &old + &young), &around()).routers;
    routers.sort_by_key(|router| (std::cmp::Reverse(router.priority), router.turn.clone()));
    let order: Vec<String> =
        routers.iter().map(|router| router.name.split("-ep-web").next().unwrap().to_owned()).collect();
    assert_eq!(
        order,
        ["httproute-default-z-gw-default-g", "httproute-default-z-gw-default-g", "httproute-default-a-gw-default-g"]
    );
    assert!(routers[0].name.contains("-web-0-"));
}

/// The rules that a request satisfies.
fn satisfied<'p>(parts: &'p Parts, host: &str) -> Vec<&'p str> {
    let (headers, client_ip) = (http::HeaderMap::new(), std::net::IpAddr::from([127, 0, 0, 1]));
    let request = RequestView { method: "GET", host, path: "/", query: "", headers: &headers, client_ip };
    let rules = parts.routers.iter().map(|router| &router.rule);
    rules.filter(|rule| rule.matches(&request)).map(|rule| &*rule.text).collect()
}

#[test]
fn the_requests_of_a_narrower_listener_are_its_own() {
    let listeners = "{name: all, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: \"*.example\"}, \
                     {name: one, port: 80, protocol: HTTP, hostname: a.example}";
    let parts = translated(&(gateway(listeners) + &route("rules: [{}]")), &around());
    assert_eq!(parts.routers.len(), 3);
    for (host, want) in [
        ("a.example", "Host(\"a.example\") && PathPrefix(\"/\")"),
        ("b.example", "Host(\"**.example\") && PathPrefix(\"/\")"),
        ("a.b.example", "Host(\"**.example\") && PathPrefix(\"/\")"),
        ("example", "PathPrefix(\"/\")"),
        ("", "PathPrefix(\"/\")"),
    ] {
        assert_eq!(satisfied(&parts, host), [want], "{host}");
    }
    // A hostname that is another listener's is not served by this one.
    let text = gateway(listeners)
        + &route("hostnames: [a.example], rules: [{}]").replace("{name: g}", "{name: g, sectionName: wild}");
    let parts = translated(&text, &around());
    assert!(parts.routers.is_empty());
    let message = "a.example is for a listener of Gateway default/g at port 80 with a more exact hostname, to which this route is not \
                   attached";
    assert_eq!((&*parts.problems[0].path, &*parts.problems[0].message), ("spec.hostnames", message));
    // Nor is that so where it is attached to both, each by its own reference.
    let both = "{name: g, sectionName: wild}, {name: g, sectionName: one}";
    let text = gateway(listeners) + &route("hostnames: [a.example], rules: [{}]").replace("{name: g}", both);
    let parts = translated(&text, &around());
    assert!(parts.problems.is_empty() && parts.routers.len() == 1, "{:?}", parts.problems);
    // On all of them there is one that serves it.
    let parts = translated(&(gateway(listeners) + &route("hostnames: [a.example], rules: [{}]")), &around());
    assert!(parts.problems.is_empty() && parts.routers.len() == 1);
    // Nor one that lies below another's wildcard.
    let listeners = "{name: all, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: \"*.example\"}, \
                     {name: team, port: 80, protocol: HTTP, hostname: \"*.team.example\", allowedRoutes: {namespaces: {from: Same}}}";
    for (hostname, at) in [
        ("pay.team.example", "team"),
        ("*.x.team.example", "team"),
        ("*.team.example", "team"),
        ("team.example", "wild"),
        ("*.steam.example", "wild"),
        ("other", "all"),
    ] {
        for section in ["all", "wild", "team"] {
            let route = route(&format!("hostnames: [\"{hostname}\"], rules: [{{}}]"));
            let text =
                gateway(listeners) + &route.replace("{name: g}", &format!("{{name: g, sectionName: {section}}}"));
            let served = !translated(&text, &around()).routers.is_empty();
            assert_eq!(served, section == at, "{hostname} on {section}");
        }
    }
}

#[test]
fn shares_of_what_is_lost_go_to_nobody() {
    let text = gateway(HTTP)
        + &route(
            "rules: [{backendRefs: [{name: shop, port: 80, weight: 3}, {name: gone, port: 80, weight: 1}, {name: shop, port: 80, weight: 0}]}]",
        )
        + &backend("shop", 80, &["10.0.0.1"]);
    let parts = translated(&text, &around());
    let weights: Vec<_> =
        parts.services[0].servers.iter().map(|server| (server.host.as_str(), server.weight)).collect();
    assert_eq!(weights, [("10.0.0.1", 3), ("10.0.0.1", 0), ("", 1)]);
    assert!(crate::config::names(&parts.merged(&crate::config::model::Dynamic::default()).0).is_empty());
    let none = route("rules: [{backendRefs: [{name: shop, port: 80, weight: 0}]}]");
    let parts = translated(&(gateway(HTTP) + &none + &backend("shop", 80, &["10.0.0.1"])), &around());
    assert_eq!(parts.routers[0].service, crate::kube::parts::UNUSABLE);
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    let listener = "{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}, \
                    matchExpressions: [{key: tier, operator: In, values: [x, z]}]}}}}";
    let namespace = |labels: &str| format!("kind: Namespace\nmetadata: {{name: default, labels: {{{labels}}}}}\n---\n");
    for (labels, want) in [("team: a, tier: x", true), ("team: a", false), ("team: b, tier: x", false)] {
        let parts = translated(&(gateway(listener) + &route("rules: [{}]") + &namespace(labels)), &around());
        assert_eq!(!parts.routers.is_empty(), want, "{labels}");
    }
}

#[test]
fn filters_become_middlewares() {
    let filters = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}, \
                   {type: URLRewrite, urlRewrite: {hostname: b.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}, \
                   {type: ExtensionRef, extensionRef: {group: traefik.io, kind: Middleware, name: auth}}";
    let text = gateway(HTTP)
        + &route(&format!(
            "rules: [{{matches: [{{path: {{value: /x}}}}], filters: [{filters}], backendRefs: [{{name: shop, port: 80}}]}}]"
        ))
        + &backend("shop", 80, &["10.0.0.1"]);
    let parts = translated(&text, &around());
    // Only who reads Traefik's kinds has the middleware.
    let told: Vec<_> = parts.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        told,
        [
            "FilterNotFound: there is no Middleware default/auth that can be used",
            "there is no middleware `default-auth@kubernetescrd` that can be used; its requests are answered with 500"
        ]
    );
    let router = &parts.routers[0];
    let kinds: Vec<_> =
        router.middlewares.iter().map(|name| name.split('-').rev().take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        kinds,
        ["0@kubernetesgateway requestheadermodifier", "1@kubernetesgateway urlrewrite", "auth@kubernetescrd default"]
    );
    assert!(parts.middlewares.iter().any(|one| format!("{:?}", one.kind).contains("prefix: \"/x\"")));
}

#[test]
fn a_listener_with_tls_wants_its_certificate_and_its_routes_are_of_tls_alone() {
    let listener = "{name: s, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}";
    let text = gateway(listener) + &route("rules: [{}]");
    let parts = translated(&text, &around());
    assert_eq!(conditions(&parts, "Gateway")[4], "ResolvedRefs=False InvalidCertificateRef");
    assert!(parts.routers.iter().all(|router| router.tls.is_some()) && !parts.routers.is_empty());

    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let mut world = objects(&text);
    let mut secret = Secret::default();
    secret.metadata.name = Some("cert".to_owned());
    secret.metadata.namespace = Some("default".to_owned());
    let data = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
    secret.data = Some(data.map(|(key, text)| (key.to_owned(), k8s_openapi::ByteString(text.into_bytes()))).into());
    world.secrets.put(secret);
    let settings = Kubernetes { gateway: Some(provider()), ..Kubernetes::default() };
    let parts = Translator::default().translate(&world, &settings, None, &around());
    assert_eq!(conditions(&parts, "Gateway")[1], "Programmed=True Programmed");
    let (merged, _) = parts.merged(&crate::config::model::Dynamic::default());
    assert_eq!(merged.certificates.first().unwrap().names, ["a.example"]);

    // Of several some are missing: it is told, and served with the rest.
    let several = "[{name: gone}, {name: cert}, {name: lost}]";
    for (references, programmed) in
        [(several, "Programmed=True Programmed"), ("[{name: gone}]", "Programmed=False Invalid")]
    {
        world.gateways = objects(&gateway(&listener.replace("[{name: cert}]", references))).gateways;
        let parts = Translator::default().translate(&world, &settings, None, &around());
        let got = conditions(&parts, "Gateway");
        assert_eq!(
            (&*got[4], &*got[5], &*got[1]),
            ("ResolvedRefs=False InvalidCertificateRef", programmed, programmed)
        );
        let told = parts.problems.first().unwrap().message.clone();
        assert!(
            told.contains("there is no Secret default/gone")
                && told.contains("default/lost") == (references == several)
        );
        assert!(!parts.routers.is_empty());
    }
}
