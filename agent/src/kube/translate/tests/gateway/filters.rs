//! Filters and retries: what becomes of them, and what is wrong with some.

use super::*;
use crate::config::model::MiddlewareKind;

fn of(rule: &str) -> Parts {
    let text = gateway(HTTP)
        + &route(&format!("rules: [{{{rule}}}]"))
        + &backend("shop", 80, &["10.0.0.1"])
        + &backend("copy", 80, &["10.0.0.2"]);
    translated(&text, &around())
}

const TO_SHOP: &str = "backendRefs: [{name: shop, port: 80}]";

fn kinds(parts: &Parts) -> Vec<&MiddlewareKind> {
    let router = parts.routers.first().unwrap();
    let named = |name: &String| parts.middlewares.iter().find(|one| one.name == *name).unwrap();
    router.middlewares.iter().map(|name| &named(name).kind).collect()
}

#[test]
fn copies_go_to_a_service_of_their_own() {
    let mirror = |more: &str| {
        format!(
            "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: copy, port: 80}}{more}}}}}], {TO_SHOP}"
        )
    };
    for (more, some, all) in [
        ("", 1, 1),
        (", percent: 20", 20, 100),
        (", fraction: {numerator: 3}", 3, 100),
        (", fraction: {numerator: 3, denominator: 7}", 3, 7),
    ] {
        let parts = of(&mirror(more));
        assert!(parts.problems.is_empty(), "{:?}", parts.problems);
        let [MiddlewareKind::Mirror(mirror)] = kinds(&parts)[..] else { panic!("{:?}", kinds(&parts)) };
        assert_eq!((mirror.share.some, mirror.share.of), (some, all), "{more}");
        let service = parts.services.iter().find(|service| service.name == mirror.service).unwrap();
        assert_eq!(service.servers[0].host, "10.0.0.2");
    }
    // A mirror that is not there is told of, and the route is served.
    let parts = of(&mirror("").replace("name: copy", "name: gone"));
    assert_eq!(conditions(&parts, "HTTPRoute"), ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]);
    assert!(kinds(&parts).is_empty());
    assert_ne!(parts.routers[0].service, crate::kube::parts::UNUSABLE);
}

#[test]
fn a_redirect_leads_to_the_listener_s_port_and_not_to_that_of_its_entry_point() {
    let [web, secure] = [("web", 8000, vec![80, 8080]), ("secure", 8443, vec![443])]
        .map(|(name, port, published)| Entry { published, ..entry(name, &format!("[::]:{port}")) });
    let around = Around { entry_points: vec![web, secure], ..Around::default() };
    let tls = "port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}";
    let listeners =
        format!("{HTTP}, {}, {{name: s, {tls}}}", HTTP.replace("name: http, port: 80", "name: x, port: 8080"));
    let to = |section: &str, redirect: &str| {
        let filter = format!("{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}");
        let route = route(&format!("rules: [{{filters: [{filter}]}}]"));
        let route = route.replace("{name: g}", &format!("{{name: g{section}}}"));
        let parts = translated(&(gateway(&listeners) + &route), &around);
        let all = parts.middlewares.iter().map(|one| match &one.kind {
            MiddlewareKind::RequestRedirect(redirect) => redirect.port,
            other => panic!("{other:?}"),
        });
        let mut all: Vec<Option<u16>> = all.collect();
        all.sort_unstable();
        all
    };
    for (section, redirect, port) in [
        ("http", "hostname: www.example", Some(80)),
        ("x", "path: {type: ReplaceFullPath, replaceFullPath: /x}", Some(8080)),
        ("s", "hostname: www.example", Some(443)),
        ("x", "scheme: https", None),
        ("s", "scheme: http", None),
        ("x", "port: 9000", Some(9000)),
        ("s", "scheme: http, port: 9000", Some(9000)),
    ] {
        assert_eq!(to(&format!(", sectionName: {section}"), redirect), [port], "{section} {redirect}");
    }
    // On all of them each has its own. Of those that share an entry point the first one's is found.
    assert_eq!(to("", "hostname: www.example"), [Some(80), Some(443), Some(8080)]);
}

#[test]
fn a_backend_s_filter_is_its_servers() {
    let backend = "backendRefs: [{name: shop, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: \
                   {set: [{name: a, value: b}]}}]}, {name: copy, port: 80}]";
    let parts = of(backend);
    assert!(parts.problems.is_empty(), "{:?}", parts.problems);
    let servers = &parts.services[0].servers;
    let headers: Vec<Option<&str>> = servers
        .iter()
        .map(|server| server.request_headers.as_ref().map(|modifier| modifier.set[0].1.to_str().unwrap()))
        .collect();
    assert_eq!(headers, [Some("b"), None]);
    let parts = of(&backend.replace("RequestHeaderModifier,", "ResponseHeaderModifier,"));
    assert_eq!(conditions(&parts, "HTTPRoute")[0], "Accepted=False UnsupportedValue");
    // It is not served without, and its requests are nobody else's.
    assert_eq!(parts.routers.iter().map(|router| &*router.service).collect::<Vec<_>>(), [crate::kube::parts::UNUSABLE]);
}

#[test]
fn a_rule_that_is_tried_again_has_a_time_for_each_try() {
    let parts = of(&format!(
        "retry: {{attempts: 3, codes: [500, 503], backoff: 100ms}}, timeouts: {{request: 5s, backendRequest: 1s}}, {TO_SHOP}"
    ));
    assert!(parts.problems.is_empty(), "{:?}", parts.problems);
    let [MiddlewareKind::Retry(retry)] = kinds(&parts)[..] else { panic!("{:?}", kinds(&parts)) };
    assert_eq!((retry.attempts, retry.codes.as_slice()), (3, &[500, 503][..]));
    assert_eq!((retry.backoff.as_millis(), retry.each.as_millis()), (100, 1000));
    assert_eq!(parts.services[0].timeouts.request.as_secs(), 5);
    let parts = of(&format!("timeouts: {{request: 5s, backendRequest: 1s}}, {TO_SHOP}"));
    assert_eq!(parts.services[0].timeouts.request.as_secs(), 1);
    let parts = of(&format!("retry: {{backoff: soon}}, {TO_SHOP}"));
    assert_eq!(conditions(&parts, "HTTPRoute")[0], "Accepted=False UnsupportedValue");
}

#[test]
fn origins_are_read() {
    let cors = |origin: &str| {
        format!(
            "filters: [{{type: CORS, cors: {{allowOrigins: [\"{origin}\"], allowMethods: [GET, PUT]}}}}], {TO_SHOP}"
        )
    };
    let parts = of(&cors("https://*.example"));
    let [MiddlewareKind::Cors(filter)] = kinds(&parts)[..] else { panic!("{:?}", kinds(&parts)) };
    assert_eq!((filter.max_age, filter.credentials), (5, false));
    assert_eq!(conditions(&of(&cors("nowhere")), "HTTPRoute")[0], "Accepted=False UnsupportedValue");
}

#[test]
fn a_route_that_cannot_be_served_does_not_say_that_it_is() {
    let bad = "{matches: [{path: {type: RegularExpression, value: \"/(\"}}], backendRefs: [{name: shop, port: 80}]}";
    let good = "{matches: [{path: {value: /ok}}], backendRefs: [{name: shop, port: 80}]}";
    let missing = "{filters: [{type: ExtensionRef, extensionRef: {group: traefik.io, kind: Middleware, name: gone}}], \
                   backendRefs: [{name: shop, port: 80}]}";
    for (spec, want, routers) in [
        (format!("rules: [{bad}]"), vec!["Accepted=False UnsupportedValue", "ResolvedRefs=True ResolvedRefs"], 0),
        (
            format!("rules: [{bad}, {good}]"),
            vec!["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "PartiallyInvalid=True UnsupportedValue"],
            1,
        ),
        (format!("rules: [{missing}]"), vec!["Accepted=True Accepted", "ResolvedRefs=False FilterNotFound"], 1),
        ("rules: 7".to_owned(), vec!["Accepted=False UnsupportedValue"], 0),
        (format!("rules: [{good}]"), vec!["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"], 1),
    ] {
        let text = gateway(HTTP) + &route(&spec) + &backend("shop", 80, &["10.0.0.1"]);
        let parts = translated(&text, &around());
        assert_eq!(conditions(&parts, "HTTPRoute"), want, "{spec}");
        assert_eq!(parts.routers.len(), routers, "{spec}");
        assert_eq!(
            parts.problems.is_empty(),
            want.len() == 2 && !want.concat().contains("False"),
            "{:?}",
            parts.problems
        );
    }
    // Where no parent can be read, those that were told before are told anew.
    let text = "kind: HTTPRoute\nmetadata: {name: r, generation: 4}\nspec: {parentRefs: 7}\nstatus: {parents: [{controllerName: \
                wayspan.io/gateway-controller, parentRef: {name: g}}, {controllerName: other, parentRef: {name: g}}]}\n";
    let parts = translated(&(gateway(HTTP) + text), &around());
    assert_eq!(conditions(&parts, "HTTPRoute"), ["Accepted=False UnsupportedValue"]);
}

#[test]
fn a_rule_that_asks_for_what_there_is_not_answers_500_and_the_others_are_served() {
    let rule = |path: &str, more: &str| {
        format!("{{matches: [{{path: {{value: {path}}}}}], {more}backendRefs: [{{name: shop, port: 80}}]}}")
    };
    let set = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}";
    let external = format!("filters: [{set}, {{type: ExternalAuth}}], ");
    for (more, what) in [
        (&*external, "ExternalAuth is not supported yet"),
        ("sessionPersistence: {}, ", "sessionPersistence is not supported yet"),
        ("timeouts: {request: soon}, ", "`soon` is no duration"),
    ] {
        let text = format!("rules: [{}, {}, {}]", rule("/a", ""), rule("/b", more), rule("/c", ""));
        let parts = translated(&(gateway(HTTP) + &route(&text) + &backend("shop", 80, &["10.0.0.1"])), &around());
        assert_eq!(
            conditions(&parts, "HTTPRoute"),
            ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "PartiallyInvalid=True UnsupportedValue"]
        );
        let said = parts.statuses.iter().find(|status| status.object.kind == "HTTPRoute").unwrap();
        let message = said.body["parents"][0]["conditions"][2]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("Dropped Rule: spec.rules[1]: {what}")), "{message}");
        let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("HTTPRoute default/r: spec.rules[1]: {what}")), "{told:?}");
        let of = |path: &str| parts.routers.iter().find(|router| router.rule.text.contains(path)).unwrap();
        assert_eq!((&*of("/b").service, of("/b").middlewares.len()), (crate::kube::parts::UNUSABLE, 0));
        assert!(["/a", "/c"].iter().all(|path| of(path).service != crate::kube::parts::UNUSABLE));
        let listener =
            &parts.statuses.iter().find(|status| status.object.kind == "Gateway").unwrap().body["listeners"][0];
        assert_eq!(listener["attachedRoutes"], 1);
    }
}
