//! ListenerSets, and what a Gateway asks for as a whole.

use super::*;

const OWN: &str = "{name: own, port: 80, protocol: HTTP, hostname: own.example}";

/// The Gateway with its own listener, and who may add some.
fn taking(from: &str) -> String {
    gateway(OWN).replace("gatewayClassName: w,", &format!("gatewayClassName: w, {from}"))
}

const FROM_ALL: &str = "allowedListeners: {namespaces: {from: All}},";

fn set(name: &str, second: u8, listeners: &str) -> String {
    format!(
        "kind: ListenerSet\nmetadata: {{name: {name}, generation: 4, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\n\
         spec: {{parentRef: {{name: g, namespace: default}}, listeners: [{listeners}]}}\n---\n"
    )
}

/// `Type=Status Reason` of a set, those of its listeners behind.
fn said(parts: &Parts, name: &str) -> Vec<String> {
    let mut parts = parts.clone();
    parts.statuses.retain(|status| status.object.kind == "ListenerSet" && *status.object.key.name == *name);
    conditions(&parts, "ListenerSet")
}

fn attached(parts: &Parts) -> serde_json::Value {
    let gateway = parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap();
    gateway.body["attachedListenerSets"].clone()
}

#[test]
fn a_set_adds_listeners_where_the_gateway_lets_it() {
    let one = set("s", 0, "{name: more, port: 80, protocol: HTTP, hostname: more.example}");
    let elsewhere = one.replace("name: s,", "name: s, namespace: other,");
    let labelled = "kind: Namespace\nmetadata: {name: other, labels: {team: a}}\n---\n";
    for (from, set, want) in [
        ("", &one, false),
        ("allowedListeners: {namespaces: {from: None}},", &one, false),
        ("allowedListeners: {namespaces: {from: Same}},", &one, true),
        ("allowedListeners: {namespaces: {from: Same}},", &elsewhere, false),
        (FROM_ALL, &elsewhere, true),
        ("allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}},", &elsewhere, true),
        ("allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: b}}}},", &elsewhere, false),
    ] {
        let parts = translated(&(taking(from) + labelled + set), &around());
        let said = said(&parts, "s");
        if want {
            assert_eq!(said[..2], ["Accepted=True Accepted", "Programmed=True Programmed"], "{from}");
            assert_eq!(said.len(), 6, "{from}");
        } else {
            assert_eq!(said, ["Accepted=False NotAllowed", "Programmed=False NotAllowed"], "{from}");
        }
        assert_eq!(attached(&parts), usize::from(want), "{from}");
    }
    assert!(attached(&translated(&taking(FROM_ALL), &around())).is_null());
}

#[test]
fn who_comes_first_is_served() {
    let text = taking(FROM_ALL)
        + &set("young", 2, "{name: x, port: 80, protocol: HTTP, hostname: x.example}")
        + &set(
            "old",
            1,
            "{name: x, port: 80, protocol: HTTP, hostname: x.example}, {name: own, port: 80, protocol: HTTP, hostname: own.example}",
        )
        + &set("other", 3, "{name: t, port: 80, protocol: TCP}");
    let parts = translated(&text, &around());
    assert_eq!(conditions(&parts, "Gateway")[0], "Accepted=True Accepted");
    assert_eq!(conditions(&parts, "Gateway")[3], "Conflicted=False NoConflicts");
    let old = said(&parts, "old");
    assert_eq!(old[..2], ["Accepted=True ListenersNotValid", "Programmed=True Programmed"]);
    assert_eq!(
        (old[3].as_str(), old[7].as_str()),
        ("Conflicted=False NoConflicts", "Conflicted=True HostnameConflict")
    );
    for (name, reason) in [("young", "HostnameConflict"), ("other", "ProtocolConflict")] {
        let said = said(&parts, name);
        assert_eq!(said[..2], ["Accepted=False ListenersNotValid", "Programmed=False ListenersNotValid"], "{name}");
        assert_eq!(said[2], format!("Accepted=False {reason}"));
        assert_eq!(said[5], format!("Programmed=False {reason}"));
    }
    assert_eq!(attached(&parts), 1);
}

#[test]
fn a_route_goes_to_the_listeners_of_its_parent_alone() {
    let text = taking(FROM_ALL)
        + &set("s", 0, "{name: more, port: 80, protocol: HTTP, hostname: more.example}")
        + &route("rules: [{}]")
        + &route("rules: [{}]")
            .replace("name: r,", "name: q,")
            .replace("{name: g}", "{kind: ListenerSet, group: gateway.networking.k8s.io, name: s}")
        + &route("rules: [{}]").replace("name: r,", "name: p,").replace("{name: g}", "{name: g, sectionName: more}");
    let parts = translated(&text, &around());
    let mut rules: Vec<String> =
        parts.routers.iter().map(|router| format!("{} {}", &router.name[18..19], router.rule.text)).collect();
    rules.sort();
    assert_eq!(
        rules,
        ["q Host(\"more.example\") && PathPrefix(\"/\")", "r Host(\"own.example\") && PathPrefix(\"/\")"]
    );
    let of = |name: &str| {
        let status = parts.statuses.iter().find(|status| *status.object.key.name == *name).unwrap();
        status.body["parents"][0]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!([of("r"), of("q"), of("p")], ["Accepted", "Accepted", "NoMatchingParent"]);
    let set = parts.statuses.iter().find(|status| status.object.kind == "ListenerSet").unwrap();
    assert_eq!(set.body["listeners"][0]["attachedRoutes"], 1);
}

#[test]
fn a_set_s_certificate_needs_a_grant_to_the_set() {
    let listener = "{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: other}]}}";
    let grant = |kind: &str| {
        format!(
            "kind: ReferenceGrant\nmetadata: {{name: x, namespace: other}}\n\
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}], to: [{{group: \"\", kind: Secret}}]}}\n---\n"
        )
    };
    for (kind, want) in
        [("Gateway", "ResolvedRefs=False RefNotPermitted"), ("ListenerSet", "ResolvedRefs=False InvalidCertificateRef")]
    {
        let parts = translated(&(taking(FROM_ALL) + &set("s", 0, listener) + &grant(kind)), &around());
        assert_eq!(said(&parts, "s")[4], want, "{kind}");
    }
}

#[test]
fn a_gateway_with_an_address_of_its_own_shares_its_ports_with_nobody() {
    let named = |name: &str, second: u8, more: &str| {
        format!(
            "kind: Gateway\nmetadata: {{name: {name}, creationTimestamp: \"2026-01-01T00:00:0{second}Z\"}}\n\
             spec: {{gatewayClassName: w, listeners: [{HTTP}]{more}}}\n---\n"
        )
    };
    let has = |value: &str| format!("}}\nstatus: {{addresses: [{{type: IPAddress, value: {value}}}]");
    let asks = |value: &str| format!(", addresses: [{{value: {value}}}]");
    let mut provider = provider();
    provider.address.ip = Some("10.0.0.1".to_owned());
    provider.address_pool = vec!["10.0.0.7".parse().unwrap(), "10.0.0.8".parse().unwrap(), "10.0.0.9".parse().unwrap()];
    let settings = Kubernetes { gateway: Some(provider), ..Kubernetes::default() };
    for (gateways, want) in [
        (named("b", 1, "") + &named("a", 2, ""), vec![("a", "10.0.0.8"), ("b", "10.0.0.7")]),
        // Who has one keeps it.
        (named("b", 1, "") + &named("a", 2, &has("10.0.0.7")), vec![("a", "10.0.0.7"), ("b", "10.0.0.8")]),
        (
            named("b", 1, &has("10.0.0.9")) + &named("a", 2, &asks("10.0.0.9")),
            vec![("a", "10.0.0.9"), ("b", "10.0.0.7")],
        ),
        (named("b", 1, &has("10.0.0.1")) + &named("a", 2, ""), vec![("a", "10.0.0.7"), ("b", "10.0.0.1")]),
        (named("b", 1, "") + &named("a", 2, &asks("10.0.0.1")), vec![("a", "10.0.0.1"), ("b", "10.0.0.7")]),
        (
            named("a", 1, "") + &named("b", 2, "") + &named("c", 3, "") + &named("d", 4, ""),
            vec![("a", "10.0.0.7"), ("b", "10.0.0.8"), ("c", "10.0.0.9"), ("d", "10.0.0.1")],
        ),
    ] {
        let world = objects(&(CLASS.to_owned() + &gateways));
        let parts = Translator::default().translate(&world, &settings, Some("here"), &around());
        let gateways = parts.statuses.iter().filter(|status| status.object.kind == "Gateway");
        let shown: Vec<_> =
            gateways.map(|one| (&*one.object.key.name, one.body["addresses"][0]["value"].as_str().unwrap())).collect();
        assert_eq!(shown, want);
        let shared = want.iter().filter(|(_, address)| *address == "10.0.0.1").count();
        let opened: Vec<_> = parts.entry_points.iter().map(|one| one.addresses[0].to_string()).collect();
        assert_eq!(opened.len(), want.len() - shared, "{opened:?}");
        assert!(opened.iter().all(|address| address.ends_with(":80")), "{opened:?}");
    }
    let text = CLASS.to_owned() + &named("g", 1, "") + &route("rules: [{}]");
    let parts = Translator::default().translate(&objects(&text), &settings, Some("here"), &around());
    assert_eq!(parts.routers[0].entry_points, ["gateway-10-0-0-7-80"]);
}

#[test]
fn what_a_gateway_asks_for_as_a_whole_is_ours_or_says_so() {
    let ours = Around { addresses: vec![("IPAddress".to_owned(), "10.0.0.1".to_owned())], ..around() };
    for (asks, want, shown) in [
        ("", ["Accepted=True Accepted", "Programmed=True Programmed"], 1),
        ("addresses: [{type: IPAddress}],", ["Accepted=True Accepted", "Programmed=True Programmed"], 1),
        ("addresses: [{value: 10.0.0.1}],", ["Accepted=True Accepted", "Programmed=True Programmed"], 1),
        (
            "addresses: [{value: 10.0.0.9}, {value: 10.0.0.1}],",
            ["Accepted=True Accepted", "Programmed=False AddressNotUsable"],
            1,
        ),
        (
            "addresses: [{value: 10.0.0.9}, {type: a/b, value: x}],",
            ["Accepted=False UnsupportedAddress", "Programmed=False Invalid"],
            0,
        ),
        (
            "infrastructure: {parametersRef: {group: a, kind: B, name: c}},",
            ["Accepted=False InvalidParameters", "Programmed=False Invalid"],
            0,
        ),
    ] {
        // The translator's own way to its addresses is the settings'.
        let mut provider = provider();
        provider.address.ip = ours.addresses.first().map(|(_, value)| value.clone());
        let settings = Kubernetes { gateway: Some(provider), ..Kubernetes::default() };
        let parts = Translator::default().translate(&objects(&taking(asks)), &settings, Some("here"), &ours);
        assert_eq!(conditions(&parts, "Gateway")[..2], want, "{asks}");
        let gateway = parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap();
        assert_eq!(gateway.body["addresses"].as_array().unwrap().len(), shown, "{asks}");
    }
}

#[test]
fn of_a_gateway_that_is_not_accepted_nothing_is_served() {
    let of_set = set("x", 1, "{name: x, port: 8123, protocol: HTTP}");
    let to_set =
        "kind: HTTPRoute\nmetadata: {name: s}\nspec: {parentRefs: [{kind: ListenerSet, name: x}], rules: [{}]}\n---\n";
    let text = taking(FROM_ALL) + &of_set + &route("rules: [{}]") + to_set;
    // One that is served, and younger.
    let other = "kind: Gateway\nmetadata: {name: h, creationTimestamp: \"2026-01-02T00:00:00Z\"}\nspec: {gatewayClassName: v, \
                 listeners: []}\n---\n";
    let other = CLASS.replace("name: w", "name: v") + other;
    let pool = KubernetesProvider { address_pool: vec!["10.0.0.7".parse().unwrap()], ..provider() };
    let settings = Kubernetes { gateway: Some(pool), ..Kubernetes::default() };
    let translated = |text: &str| Translator::default().translate(&objects(text), &settings, Some("here"), &around());
    let addressed = |parts: &Parts| {
        let gateways = parts.statuses.iter().filter(|status| status.object.kind == "Gateway");
        let has_one = gateways.filter(|one| one.body["addresses"][0]["value"] == "10.0.0.7");
        has_one.map(|one| one.object.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(addressed(&translated(&(text.clone() + &other))), ["g"]);
    let parts = translated(&text);
    assert_eq!((parts.routers.len(), parts.entry_points.len()), (2, 2));
    assert_eq!(conditions(&parts, "GatewayClass"), ["Accepted=True Accepted"]);
    let parameters = "parametersRef: {group: a, kind: B, name: c}";
    let message = "a B holds no parameters of ours; leave parametersRef out";
    let own = format!("default/g InvalidParameters: {message}");
    let classes = [format!("w {message}"), format!("default/g InvalidParameters: GatewayClass w: {message}")];
    for (at, asks, class, want) in [
        ("allowedListeners:", format!("infrastructure: {{{parameters}}},"), "True Accepted", &[own][..]),
        ("controllerName:", format!("{parameters},"), "False InvalidParameters", &classes),
    ] {
        let refused = text.replace(at, &format!("{asks} {at}"));
        assert_eq!(addressed(&translated(&(refused.clone() + &other))), ["h"], "{asks}");
        let parts = translated(&refused);
        assert_eq!(
            conditions(&parts, "HTTPRoute"),
            ["Accepted=False ParentNotAccepted", "ResolvedRefs=True ResolvedRefs"]
        );
        assert_eq!((parts.routers.len(), parts.entry_points.len()), (0, 0), "{asks}");
        assert_eq!(conditions(&parts, "GatewayClass"), [format!("Accepted={class}")]);
        let gateway = conditions(&parts, "Gateway");
        assert_eq!(
            gateway[..3],
            ["Accepted=False InvalidParameters", "Programmed=False Invalid", "Accepted=False Invalid"]
        );
        assert_eq!(
            said(&parts, "x")[..2],
            ["Accepted=False ParentNotAccepted", "Programmed=False ParentNotProgrammed"]
        );
        let (routes, others): (Vec<_>, Vec<_>) = parts.problems.iter().partition(|one| one.object.kind == "HTTPRoute");
        let told = others.iter().map(|one| format!("{} {}", one.object.key, one.message));
        assert_eq!(told.collect::<Vec<_>>(), want, "{asks}");
        assert_eq!(routes.len(), 2, "{asks}");
    }
}

#[test]
fn a_listener_that_is_refused_takes_no_host_from_those_that_are_served() {
    let route = route("hostnames: [shop.example, \"*.shop.example\"], rules: [{}]");
    let all = HTTP.replace("name: http", "name: all");
    let world = |more: &str, listeners: &str| {
        let own = gateway(listeners).replace("gatewayClassName: w,", &format!("gatewayClassName: w, {FROM_ALL}"));
        translated(&(own + more + &route), &around())
    };
    let rules = |parts: &Parts| {
        let mut rules: Vec<String> = parts.routers.iter().map(|router| router.rule.text.to_string()).collect();
        rules.sort();
        rules
    };
    let both = ["Host(\"**.shop.example\") && PathPrefix(\"/\")", "Host(\"shop.example\") && PathPrefix(\"/\")"];
    for (host, protocol) in [("shop.example", "TLS"), ("a.shop.example", "HTTPS"), ("*.shop.example", "TCP")] {
        let refused = set("x", 1, &format!("{{name: x, port: 80, protocol: {protocol}, hostname: \"{host}\"}}"));
        let parts = world(&refused, &all);
        assert_eq!(said(&parts, "x")[2], "Accepted=False ProtocolConflict", "{host}");
        assert_eq!(rules(&parts), both, "{host}");
    }
    // The second of two for one host is refused, and the first has it all the same.
    let one = "{name: x, port: 80, protocol: HTTP, hostname: shop.example}";
    let parts = world(&(set("x", 1, one) + &set("z", 2, one)), &all);
    assert_eq!(said(&parts, "z")[3], "Conflicted=True HostnameConflict");
    assert_eq!(rules(&parts), both[..1]);
    // What is not supported has no hosts either.
    let secure = |more: &str| format!("port: 443, protocol: HTTPS, tls: {{{more}certificateRefs: [{{name: c}}]}}");
    let listeners = format!(
        "{{name: all, {}}}, {{name: x, hostname: shop.example, {}}}",
        secure(""),
        secure("mode: Passthrough, ")
    );
    assert_eq!(rules(&world("", &listeners)), both);
    // Nor has one that takes no HTTPRoutes.
    let other =
        "{name: x, port: 80, protocol: HTTP, hostname: shop.example, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}";
    assert_eq!(rules(&world(&set("x", 1, other), &all)), both);
    // One that is closed has: by the wider one clients without a certificate would get in.
    let closed = listeners.replace("mode: Passthrough", "frontendValidation: {caCertificateRefs: [{name: ca}]}");
    assert_eq!(rules(&world("", &closed)), both[..1]);
}

#[test]
fn however_many_hosts_others_have_the_routes_of_a_wider_listener_are_served() {
    let label = "x".repeat(60);
    let host = |number: usize| format!("h{number:05}.{label}.{label}.{label}.{label}");
    let listener = |number: usize| format!("{{name: l{number}, port: 80, protocol: HTTP, hostname: {}}}", host(number));
    let all = gateway(HTTP).replace("gatewayClassName: w,", &format!("gatewayClassName: w, {FROM_ALL}"));
    let sets = (0..5_u8).map(|at| {
        let listeners: Vec<String> = (0..64).map(|number| listener(usize::from(at) * 64 + number)).collect();
        set(&format!("s{at}"), at, &listeners.join(", "))
    });
    let to_set = "kind: HTTPRoute\nmetadata: {name: s}\n\
                  spec: {parentRefs: [{kind: ListenerSet, name: s4}], rules: [{}]}\n---\n";
    let text = all + &sets.collect::<String>() + &route("rules: [{}]") + to_set;
    let parts = translated(&text, &around());
    assert!(parts.problems.is_empty(), "{:?}", parts.problems);
    assert_eq!(conditions(&parts, "HTTPRoute")[0], "Accepted=True Accepted");
    assert_eq!(satisfied(&parts, "other.example"), ["PathPrefix(\"/\")"]);
    assert_eq!(satisfied(&parts, &host(255)), [""; 0]);
    assert_eq!(satisfied(&parts, &host(319)).len(), 1);
}

/// What is to be written into the status of an object of this kind.
fn written(world: &Objects, parts: &Parts, kind: &str) -> Option<serde_json::Value> {
    let writes = crate::kube::status::Lacking::default().renew(world, &parts.statuses, "NOW")?;
    writes.iter().find(|write| write.object.kind == kind).map(|write| write.status.clone())
}

/// The objects of a text, one kind's with this status.
fn with_status(text: &str, kind: &str, status: &serde_json::Value) -> Objects {
    let text = text.split("\n---").map(|one| {
        let is_it = one.contains(&format!("kind: {kind}\n"));
        if is_it { format!("{one}\nstatus: {status}") } else { one.to_owned() }
    });
    objects(&text.collect::<Vec<_>>().join("\n---"))
}

#[test]
fn without_sets_a_gateway_says_no_more_how_many_it_has() {
    let settings = Kubernetes { gateway: Some(provider()), ..Kubernetes::default() };
    for text in [taking(FROM_ALL), gateway("7")] {
        let world = with_status(&text, "Gateway", &serde_json::json!({"attachedListenerSets": 1}));
        let parts = Translator::default().translate(&world, &settings, None, &around());
        let status = written(&world, &parts, "Gateway").unwrap();
        assert_eq!(status.get("attachedListenerSets"), Some(&serde_json::Value::Null), "{text}");
        // A merge patch takes the field away.
        let mut status = status;
        status.as_object_mut().unwrap().remove("attachedListenerSets");
        let world = with_status(&text, "Gateway", &status);
        assert_eq!(written(&world, &parts, "Gateway"), None, "{text}");
    }
}

#[test]
fn a_set_whose_gateway_cannot_be_read_says_so() {
    let one = set("s", 0, "{name: more, port: 80, protocol: HTTP, hostname: more.example}");
    let lost = ["Accepted=False ParentNotAccepted", "Programmed=False ParentNotProgrammed"];
    // A Gateway that cannot be read serves none of its sets.
    let unreadable = gateway("7");
    let parts = translated(&(unreadable.clone() + &one), &around());
    assert_eq!(said(&parts, "s"), lost);
    let another = unreadable.replace("gatewayClassName: w", "gatewayClassName: other");
    let parts = translated(&(another.clone() + &one), &around());
    assert!(parts.statuses.iter().all(|status| status.object.kind != "ListenerSet"));
    // Whose the sets of one were that is not there, or not where we look, nobody can tell.
    let parts = translated(&(CLASS.to_owned() + &one), &around());
    assert!(parts.statuses.iter().all(|status| status.object.kind != "ListenerSet"));
}
