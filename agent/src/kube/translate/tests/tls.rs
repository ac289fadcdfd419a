//! TLSOption, TLSStore, users and certificates of Secrets, and how servers are reached.

use k8s_openapi::ByteString;

use super::*;
use crate::config::model::{ClientAuth, Dynamic};
use crate::kube::parts::UNUSABLE;

const ROUTE: &str = "kind: IngressRoute\nmetadata: {name: r}\nspec: {tls: {TLS}, routes: [{match: Host(`a.example`), services: \
                     [{name: shop, port: 80}]}]}\n---\n";

fn settings() -> Kubernetes {
    Kubernetes { ingress: Some(provider()), crd: Some(provider()), ..Kubernetes::default() }
}

fn secret(name: &str, kind: &str, data: &[(&str, &str)]) -> Secret {
    let mut secret = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some("default".to_owned());
    let entry = |(key, text): &(&str, &str)| ((*key).to_owned(), ByteString((*text).to_owned().into_bytes()));
    secret.data = Some(data.iter().map(entry).collect());
    secret
}

fn translated(text: &str, secrets: Vec<Secret>) -> Parts {
    let mut objects = objects(&(text.to_owned() + &backend("shop", 80, &["10.0.0.1"])));
    for one in secrets {
        objects.secrets.put(one);
    }
    Translator::default().translate(&objects, &settings(), None, &Around::default())
}

fn option(name: &str, spec: &str) -> String {
    format!("kind: TLSOption\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn problems(parts: &Parts) -> Vec<String> {
    parts.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_route_has_the_options_of_the_object_that_it_names() {
    let authority = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap().cert.pem();
    let text = ROUTE.replace("TLS", "options: {name: strict}")
        + &option(
            "strict",
            "{minVersion: VersionTLS13, sniStrict: true, preferServerCipherSuites: true, clientAuth: {secretNames: [ca], \
             clientAuthType: RequireAndVerifyClientCert}}",
        );
    // What stands before the text must not make it a path.
    let parts = translated(&text, vec![secret("ca", "Opaque", &[("ca.crt", &format!("# ours\n{authority}"))])]);
    assert_eq!(problems(&parts), Vec::<String>::new());
    let router = parts.routers.first().unwrap();
    assert_eq!(router.tls.as_ref().unwrap().options.as_deref(), Some("default-strict@kubernetescrd"));
    let options = parts.tls_options.first().unwrap();
    assert_eq!(options.name, "default-strict@kubernetescrd");
    assert_eq!((options.settings.oldest, options.settings.sni_strict), (3, true));
    assert_eq!((options.settings.client_auth, options.settings.client_roots.len()), (ClientAuth::RequireAndVerify, 1));
    let (merged, missing) = parts.merged(&Dynamic::default());
    assert!(missing.is_empty() && merged.tls_options.len() == 1);
    // By annotation an Ingress has them, too.
    let ingress = "kind: Ingress\nmetadata: {name: i, annotations: {traefik.ingress.kubernetes.io/router.tls.options: \
                   default-strict@kubernetescrd}}\nspec: {rules: [{host: a, http: {paths: [{path: /, pathType: Prefix, backend: {service: \
                   {name: shop, port: {number: 80}}}}]}}]}\n---\n";
    let parts = translated(&(ingress.to_owned() + &option("strict", "{}")), vec![]);
    assert_eq!(
        parts.routers.first().unwrap().tls.as_ref().unwrap().options.as_deref(),
        Some("default-strict@kubernetescrd")
    );
    assert_eq!(problems(&parts), Vec::<String>::new());
}

#[test]
fn two_objects_that_want_different_options_for_one_host_are_both_told() {
    let other = ROUTE.replace("name: r}", "name: s}").replace("`a.example`)", "`a.example`) && Path(`/s`)");
    let text = ROUTE.replace("TLS", "options: {name: strict}") + &other.replace("TLS", "") + &option("strict", "{}");
    let parts = translated(&text, vec![]);
    let mut file = Dynamic::default();
    let web = crate::config::fragment::entry_point("web", ":443").unwrap();
    file.entry_points.push(crate::config::model::EntryPoint { by_name_only: false, ..web });
    let (merged, missing) = parts.merged(&file);
    assert!(missing.is_empty());
    let told = parts.disputed(&crate::config::disputes(&merged)).cloned().collect::<Vec<_>>();
    let (one, two) = (&parts.routers[0].name, &parts.routers[1].name);
    assert_eq!(told.iter().map(|one| &one.router).collect::<Vec<_>>(), [one, two]);
    assert!(told[0].message().starts_with(&format!("`{two}` wants others for `a.example`")), "{told:?}");
    assert!(told[1].message().starts_with(&format!("`{one}` wants others for `a.example`")), "{told:?}");
}

#[test]
fn who_names_options_that_cannot_be_used_is_served_by_no_others() {
    let told = |options: &str, secrets: Vec<Secret>| {
        let parts = translated(&(ROUTE.replace("TLS", "options: {name: strict}") + options), secrets);
        let (merged, _) = parts.merged(&Dynamic::default());
        assert_eq!(merged.routers.first().unwrap().service, UNUSABLE, "{options}");
        let all = problems(&parts);
        assert_eq!(
            all.last().map(String::as_str),
            Some(
                "IngressRoute default/r: there are no TLS options `default-strict@kubernetescrd` that can be used; its requests are \
                 answered with 500"
            )
        );
        all.first().cloned().unwrap_or_default()
    };
    told("", vec![]);
    for (spec, secrets, wanted) in [
        ("{minVersion: VersionTLS10}", vec![], "spec.minVersion: "),
        ("{clientAuth: {secretNames: [gone]}}", vec![], "spec.clientAuth.secretNames: there is no Secret default/gone"),
        (
            "{clientAuth: {caFiles: [/etc/passwd]}}",
            vec![],
            "spec.clientAuth.caFiles: is a file's word; name Secrets in secretNames",
        ),
        (
            "{clientAuth: {secretNames: [path]}}",
            vec![secret("path", "Opaque", &[("tls.ca", "/etc/passwd")])],
            "spec.clientAuth.secretNames: Secret default/path holds no certificate in PEM in tls.ca or ca.crt",
        ),
        ("{clientAuth: {secretNames: 7}}", vec![], "spec.clientAuth.secretNames: cannot be read: "),
        ("7", vec![], "spec: must be a section, not a value"),
        ("{minVersio: x}", vec![], "spec.minVersio: unknown key; did you mean `minVersion`?"),
    ] {
        let first = told(&option("strict", spec), secrets);
        assert!(first.starts_with(&format!("TLSOption default/strict: {wanted}")), "{first}");
    }
}

#[test]
fn default_options_are_for_who_names_none() {
    let route = ROUTE.replace("TLS", "");
    let parts = translated(&(route.clone() + &option("default", "{sniStrict: true}")), vec![]);
    let options = parts.tls_options.first().unwrap();
    assert_eq!(
        (options.name.as_str(), options.settings.sni_strict, parts.default_options_lost),
        ("default", true, false)
    );
    assert_eq!(
        parts.merged(&Dynamic::default()).0.routers.first().unwrap().service,
        parts.routers.first().unwrap().name
    );
    // The file's goes before it.
    let own = parts.tls_options.clone();
    let (merged, _) = parts.merged(&Dynamic { tls_options: own, ..Dynamic::default() });
    assert_eq!(merged.tls_options.len(), 1);
}

/// A TLSOption or TLSStore `default` of a namespace, made in a year.
fn default_of(kind: &str, namespace: &str, year: u32, spec: &str) -> String {
    format!(
        "kind: {kind}\nmetadata: {{name: default, namespace: {namespace}, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}\nspec: \
         {spec}\n---\n"
    )
}

#[test]
fn of_several_defaults_the_oldest_counts_and_the_others_are_told() {
    let route = ROUTE.replace("TLS", "");
    let strict = |namespace, year| default_of("TLSOption", namespace, year, "{sniStrict: true}");
    let weak = |namespace, year| default_of("TLSOption", namespace, year, "{}");
    let told = |key: &str, other: &str| {
        format!(
            "TLSOption {key}: does not count, since TLSOption {other} is older and there is one `default` for all namespaces; \
             remove one"
        )
    };
    for (options, wanted, problem) in [
        (strict("z", 2020) + &weak("a", 2021), true, told("a/default", "z/default")),
        (strict("z", 2022) + &weak("a", 2021), false, told("z/default", "a/default")),
        // Made at once: by name.
        (strict("z", 2021) + &weak("a", 2021), false, told("z/default", "a/default")),
    ] {
        let parts = translated(&(route.clone() + &options), vec![]);
        let all: Vec<_> = parts.tls_options.iter().map(|one| (one.name.as_str(), one.settings.sni_strict)).collect();
        assert_eq!(all, [("default", wanted)]);
        assert_eq!(problems(&parts), [problem]);
        let (merged, missing) = parts.merged(&Dynamic::default());
        assert!(missing.is_empty() && merged.routers.first().unwrap().service != UNUSABLE);
    }
    // Where it is said which namespaces may have one, no other's is looked at.
    let objects = objects(&(strict("edge", 2022) + &weak("team", 2021)));
    let crd = KubernetesProvider { defaults_namespaces: vec!["edge".to_owned()], ..provider() };
    let settings = Kubernetes { crd: Some(crd), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects, &settings, None, &Around::default());
    assert!(parts.tls_options.first().unwrap().settings.sni_strict);
    assert_eq!(
        problems(&parts),
        [
            "TLSOption team/default: does not count, since tlsDefaultsNamespaces does not name team; add it there, or call this one \
          otherwise"
        ]
    );
}

#[test]
fn a_default_that_cannot_be_used_takes_no_routes_away_unless_it_asks_for_client_certificates() {
    let route = ROUTE.replace("TLS", "");
    for (spec, asks) in [
        ("{minVersion: x}", false),
        ("{minVersion: x, clientAuth: {}}", false),
        ("{minVersion: x, clientAuth: {clientAuthType: NoClientCert}}", false),
        ("{minVersion: x, clientAuth: {secretNames: []}}", false),
        ("{clientAuth: {secretNames: [gone]}}", true),
        ("{minVersion: x, clientAuth: {clientAuthType: RequireAnyClientCert}}", true),
        ("{clientAuth: 7}", true),
        // What is misspelt may have been meant to.
        ("{clientAuth: {ClientAuthType: RequireAndVerifyClientCert}}", true),
        ("{ClientAuth: {clientAuthType: RequireAnyClientCert}}", true),
        ("{clientAuth: {CAFiles: [/etc/passwd]}}", true),
        ("{minVersion: x, ClientAuth: null}", false),
    ] {
        let parts = translated(&(route.clone() + &option("default", spec)), vec![]);
        let (merged, missing) = parts.merged(&Dynamic::default());
        let served = merged.routers.first().unwrap().service != UNUSABLE;
        assert_eq!((served, parts.default_options_lost, missing.len()), (!asks, false, usize::from(asks)), "{spec}");
        let told = problems(&parts).concat();
        let instead =
            if asks { "routes of default with the default options answer 500" } else { "the built-in default options" };
        assert!(told.starts_with("TLSOption default/default: ") && told.contains(instead), "{told}");
        // Everybody's is everybody's door.
        let parts = of_edge(&(route.clone() + &default_of("TLSOption", "edge", 2020, spec)));
        let (merged, missing) = parts.merged(&Dynamic::default());
        let served = merged.routers.first().unwrap().service != UNUSABLE;
        assert_eq!((served, parts.default_options_lost, missing.len()), (!asks, asks, usize::from(asks)), "{spec}");
        let instead = if asks { "routes with the default options answer 500" } else { "the built-in default options" };
        assert!(problems(&parts).concat().contains(instead), "{:?}", problems(&parts));
    }
    // A route without TLS is none of its business.
    let plain = route.replace("tls: {}, ", "");
    let lost = "{clientAuth: {secretNames: [gone]}}";
    assert!(translated(&(plain.clone() + &option("default", lost)), vec![]).merged(&Dynamic::default()).1.is_empty());
    let parts = of_edge(&(plain + &default_of("TLSOption", "edge", 2020, lost)));
    assert!(parts.default_options_lost && parts.merged(&Dynamic::default()).1.is_empty());
}

/// Where `edge` alone may say what holds for all.
fn of_edge(text: &str) -> Parts {
    let crd = KubernetesProvider { defaults_namespaces: vec!["edge".to_owned()], ..provider() };
    let settings = Kubernetes { crd: Some(crd), ..Kubernetes::default() };
    let objects = objects(&(text.to_owned() + &backend("shop", 80, &["10.0.0.1"])));
    Translator::default().translate(&objects, &settings, None, &Around::default())
}

/// An entry point of the file.
fn secure_entry_point() -> Dynamic {
    let web = crate::config::fragment::entry_point("web", ":443").unwrap();
    let web = crate::config::model::EntryPoint { by_name_only: false, ..web };
    Dynamic { entry_points: vec![web], ..Dynamic::default() }
}

#[test]
fn a_default_that_asks_for_client_certificates_is_for_its_own_namespace_unless_it_is_named_for_all() {
    const ASKS: &str = "{clientAuth: {clientAuthType: RequireAnyClientCert}}";
    let other = ROUTE.replace("{name: r}", "{name: r, namespace: team}").replace("a.example", "b.example");
    let mixed = other.replace("name: r,", "name: s,").replace("tls: {TLS}, ", "").replace("b.example", "c.example");
    let named = other
        .replace("name: r,", "name: t,")
        .replace("b.example", "d.example")
        .replace("tls: {TLS}", "tls: {options: {name: x}}");
    let routes = (ROUTE.to_owned() + &other + &mixed + &named).replace("TLS", "")
        + "kind: TLSOption\nmetadata: {name: x, namespace: team}\nspec: {}\n---\n";
    let strict = default_of("TLSOption", "team", 2020, ASKS);
    let parts = translated(&(routes.clone() + &strict), vec![]);
    let own: Vec<_> =
        parts.routers.iter().map(|one| (one.rule.text.to_string(), one.default_options.as_deref())).collect();
    let team = Some("team-default@kubernetescrd");
    for (host, wanted) in [("a.example", None), ("b.example", team), ("c.example", team), ("d.example", team)] {
        assert!(own.iter().any(|(rule, options)| rule.contains(host) && *options == wanted), "{host}: {own:?}");
    }
    assert!(
        problems(&parts)[0].starts_with(
            "TLSOption team/default: spec.clientAuth: asks for client certificates, and is for the routes of team alone"
        ),
        "{:?}",
        problems(&parts)
    );
    assert_eq!(
        parts.tls_options.iter().map(|one| &*one.name).collect::<Vec<_>>(),
        ["team-default@kubernetescrd", "team-x@kubernetescrd"]
    );
    // Who names no host has no server name to choose it, and is told.
    let hostless = other.replace("TLS", "").replace("Host(`b.example`)", "PathPrefix(`/`)");
    let told = problems(&translated(&(hostless + &strict), vec![])).concat();
    assert!(
        told.contains("IngressRoute team/r: no server name chooses its default TLS options `team-default@"),
        "{told}"
    );
    // Another one's that asks for nothing is everybody else's, however young it is.
    let parts =
        translated(&(routes.clone() + &strict + &default_of("TLSOption", "z", 2021, "{sniStrict: true}")), vec![]);
    assert_eq!(parts.tls_options.iter().filter(|one| one.name == "default" && one.settings.sni_strict).count(), 1);
    assert_eq!(problems(&parts).iter().filter(|problem| problem.starts_with("TLSOption")).count(), 1);
    // Who is named asks all; who is not asks its own all the same.
    let edge = default_of("TLSOption", "edge", 2021, ASKS);
    let parts = of_edge(&(routes.clone() + &strict + &edge));
    assert_eq!(
        parts.tls_options.iter().map(|one| &*one.name).collect::<Vec<_>>(),
        ["default", "team-default@kubernetescrd", "team-x@kubernetescrd"]
    );
    // A route of another namespace that names it has it, where it may.
    let crossing = ROUTE.replace("TLS", "options: {name: default, namespace: team}") + &strict;
    let parts = translated(&crossing, vec![]);
    assert_eq!(parts.merged(&Dynamic::default()).0.routers[0].service, UNUSABLE);
    let crd = KubernetesProvider { allow_cross_namespace: true, ..provider() };
    let settings = Kubernetes { crd: Some(crd), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&crossing), &settings, None, &Around::default());
    assert_eq!(parts.routers[0].tls.as_ref().unwrap().options.as_deref(), team);
}

#[test]
fn a_plain_route_of_another_namespace_opens_no_host_that_asks_for_client_certificates_and_closes_none() {
    let made = |namespace: &str, year: u32| {
        ROUTE.replace(
            "{name: r}",
            &format!("{{name: r, namespace: {namespace}, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}"),
        )
    };
    let strict = made("shop", 2020).replace("TLS", "options: {name: strict}")
        + "kind: TLSOption\nmetadata: {name: strict, namespace: shop}\nspec: {clientAuth: {clientAuthType: RequireAnyClientCert}}\n---\n";
    for (year, told, held) in [(2024, "evil", Some("shop-strict@kubernetescrd")), (2019, "shop", None)] {
        let parts = translated(&(strict.clone() + &made("evil", year).replace("TLS", "")), vec![]);
        let (merged, _) = parts.merged(&secure_entry_point());
        let all = crate::config::disputes(&merged);
        let told_of: Vec<_> =
            parts.disputed(&all).map(|one| parts.origin(&one.router).unwrap().key.namespace.to_string()).collect();
        assert_eq!((told_of, all[0].held.as_deref()), (vec![told.to_owned()], held), "{year}");
        // It is served under the owner's options, or where it asks for client certificates itself not without.
        assert_eq!(all[0].insists.as_deref(), (told == "shop").then_some("shop-strict@kubernetescrd"));
    }
}

/// A Secret with a certificate for some names.
pub(super) fn certified(namespace: &str, name: &str, names: &[&str]) -> Secret {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let data = [("tls.crt", &*made.cert.pem()), ("tls.key", &*made.signing_key.serialize_pem())];
    let mut secret = secret(name, "kubernetes.io/tls", &data);
    secret.metadata.namespace = Some(namespace.to_owned());
    secret
}

#[test]
fn a_store_gives_certificates_and_the_default_one() {
    let made = |name: &str| certified("default", name, &[&format!("{name}.example")]);
    let store = |name: &str, spec: &str| format!("kind: TLSStore\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n");
    let spec = "{defaultCertificate: {secretName: one}, certificates: [{secretName: two}, {secretName: gone}]}";
    let parts = translated(&store("default", spec), vec![made("one"), made("two")]);
    assert_eq!(parts.default_certificate.as_ref().unwrap().names, ["one.example"]);
    assert_eq!(parts.certificates.iter().map(|one| one.secret.to_string()).collect::<Vec<_>>(), ["default/two"]);
    assert_eq!(
        problems(&parts),
        ["TLSStore default/default: spec.certificates[1].secretName: there is no Secret default/gone"]
    );
    let own = parts.certificates.first().unwrap().certificate.clone();
    let (merged, _) = parts.merged(&Dynamic { default_certificate: Some(own.clone()), ..Dynamic::default() });
    assert_eq!(merged.default_certificate, Some(own));
    assert_eq!(parts.merged(&Dynamic::default()).0.default_certificate, parts.default_certificate);
    for (text, wanted) in [
        (store("other", "{}"), "TLSStore default/other: there is one store; call it `default`"),
        (
            store("default", "{defaultGeneratedCert: {resolver: le}}"),
            "TLSStore default/default: spec.defaultGeneratedCert: not supported yet; name a Secret in defaultCertificate",
        ),
        (
            store("default", "{defaultCertificate: {secretName: gone}}"),
            "TLSStore default/default: spec.defaultCertificate.secretName: there is no Secret default/gone",
        ),
        (store("default", "{certificates: 7}"), "TLSStore default/default: spec: cannot be read: "),
    ] {
        let parts = translated(&text, vec![]);
        assert!(parts.default_certificate.is_none());
        assert!(problems(&parts).concat().starts_with(wanted), "{:?}", problems(&parts));
    }
    // A second one takes the first one's certificate from nobody.
    let two = default_of("TLSStore", "default", 2020, "{defaultCertificate: {secretName: one}}")
        + &default_of("TLSStore", "a", 2021, "{defaultCertificate: {secretName: two}}");
    let parts = translated(&two, vec![made("one"), certified("a", "two", &["two.example"])]);
    assert_eq!(parts.default_certificate.as_ref().unwrap().names, ["one.example"]);
    assert!(problems(&parts).concat().starts_with("TLSStore a/default: does not count"), "{:?}", problems(&parts));
}

/// An Ingress with a host and the Secret of its certificate, made in a year.
fn secured(namespace: &str, year: u32, host: &str, secret: &str) -> String {
    format!(
        "kind: Ingress\nmetadata: {{name: i, namespace: {namespace}, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}\nspec: {{tls: \
         [{{secretName: {secret}}}], rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, backend: {{resource: \
         {{kind: a, name: b}}}}}}]}}}}]}}\n---\n"
    )
}

#[test]
fn a_host_is_the_oldest_routes_and_who_comes_later_is_told_that_his_certificate_is_not_shown() {
    let text = secured("shop", 2020, "shop.example", "wide") + &secured("evil", 2024, "shop.example", "exact");
    let secrets = || vec![certified("shop", "wide", &["*.example"]), certified("evil", "exact", &["shop.example"])];
    let parts = translated(&text, secrets());
    let owner = &parts.host_owners["shop.example"];
    assert_eq!(
        (owner.name.as_deref(), owner.named.iter().map(String::as_str).collect::<Vec<_>>()),
        (Some("shop"), vec!["Secret shop/wide"])
    );
    let told: Vec<String> = parts.disputes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "Ingress evil/i: spec.tls[0].secretName: the certificate of Secret evil/exact is not shown for `shop.example`: Ingress \
          shop/i has this host and is older, and its namespace's is; name a host that is nobody else's"
        ]
    );
    let holders: Vec<_> = parts.certificates.iter().filter_map(|one| one.certificate.holder.clone()).collect();
    assert_eq!(holders.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["evil", "shop"]);
    assert!(holders[0].since > holders[1].since);
    // Both certificates are for it, so that the owner is needed; a host of the file's routes is the file's.
    let (merged, _) = parts.merged(&Dynamic::default());
    assert_eq!(merged.host_owners, *parts.host_owners);
    let file = Dynamic { routers: vec![std::sync::Arc::clone(&parts.routers[0])], ..Dynamic::default() };
    assert_eq!(parts.merged(&file).0.host_owners["shop.example"], model::HostOwner::default());
    // Who is alone with a certificate for a host takes it from nobody, whoever has the host.
    let text = secured("shop", 2020, "shop.example", "none") + &secured("infra", 2024, "shop.example", "exact");
    let parts = translated(&text, vec![certified("infra", "exact", &["shop.example"])]);
    assert_eq!((parts.host_owners["shop.example"].name.as_deref(), parts.disputes.len()), (Some("shop"), 0));
    assert!(parts.merged(&Dynamic::default()).0.host_owners.is_empty());
}

#[test]
fn a_wildcard_keeps_its_owners_certificate_beside_a_more_exact_one_of_a_namespace_without_a_route() {
    // The other namespace is the older one, and its certificate is for a name that it has no route for.
    let text = secured("shop", 2020, "\"*.example\"", "wide") + &secured("evil", 2019, "evil.test", "exact");
    let parts =
        translated(&text, vec![certified("shop", "wide", &["*.example"]), certified("evil", "exact", &["x.example"])]);
    let (merged, _) = parts.merged(&Dynamic::default());
    assert_eq!(merged.host_owners["*.example"].name.as_deref(), Some("shop"));
    // So it is where the owner has an exact one as well, and none for the wildcard.
    let parts =
        translated(&text, vec![certified("shop", "wide", &["x.example"]), certified("evil", "exact", &["x.example"])]);
    assert_eq!(parts.merged(&Dynamic::default()).0.host_owners["*.example"].name.as_deref(), Some("shop"));
}

#[test]
fn a_route_of_a_gateway_names_what_its_listener_names() {
    let text = "kind: GatewayClass\nmetadata: {name: w}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\nkind: \
                Gateway\nmetadata: {name: g, namespace: infra}\nspec: {gatewayClassName: w, listeners: [{name: a, port: 443, protocol: \
                HTTPS, tls: {certificateRefs: [{name: wide}]}, allowedRoutes: {namespaces: {from: All}}}]}\n---\nkind: \
                HTTPRoute\nmetadata: {name: r, namespace: shop, creationTimestamp: \"2020-01-01T00:00:00Z\"}\nspec: {parentRefs: \
                [{name: g, namespace: infra}], hostnames: [shop.example], rules: [{}]}\n---\n";
    let text = text.to_owned() + &secured("evil", 2024, "shop.example", "exact");
    let mut objects = objects(&text);
    objects.secrets.put(certified("infra", "wide", &["*.example"]));
    objects.secrets.put(certified("evil", "exact", &["shop.example"]));
    let settings = Kubernetes { gateway: Some(provider()), ..settings() };
    let parts = Translator::default().translate(&objects, &settings, None, &Around::default());
    let owner = &parts.host_owners["shop.example"];
    assert_eq!(
        (owner.name.as_deref(), owner.named.iter().map(String::as_str).collect::<Vec<_>>()),
        (Some("shop"), vec!["Secret infra/wide"])
    );
    assert_eq!(parts.disputes.len(), 1);
}

#[test]
fn users_come_from_secrets() {
    let middleware = "kind: Middleware\nmetadata: {name: m}\nspec: {basicAuth: {secret: users}}\n---\n";
    let told = |secret: Option<Secret>| {
        let parts = translated(middleware, secret.into_iter().collect());
        let names = parts.middlewares.iter().flat_map(|one| match &one.kind {
            model::MiddlewareKind::BasicAuth(auth) => auth.users.iter().map(|user| user.name.clone()).collect(),
            _ => Vec::new(),
        });
        names.chain(problems(&parts)).collect::<Vec<_>>()
    };
    let problem =
        |what: &str| vec![format!("Middleware default/m: spec.basicAuth.secret: Secret default/users {what}")];
    let lines = "# two\nann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n\n bob:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/ \n";
    assert_eq!(told(Some(secret("users", "Opaque", &[("users", lines)]))), ["ann", "bob"]);
    let basic = |data: &[(&str, &str)]| told(Some(secret("users", "kubernetes.io/basic-auth", data)));
    assert_eq!(basic(&[("username", "eve"), ("password", "p:w"), ("more", "x")]), ["eve"]);
    assert_eq!(basic(&[("username", "eve")]), problem("has no username and password"));
    assert_eq!(basic(&[("username", "e:ve"), ("password", "x")]), problem("has no username without a colon"));
    assert_eq!(told(Some(secret("users", "Opaque", &[("users", "# none")]))), problem("names no users"));
    assert_eq!(told(Some(secret("users", "Opaque", &[("a", lines), ("b", lines)]))), problem("has not one entry"));
    assert_eq!(told(None), ["Middleware default/m: spec.basicAuth.secret: there is no Secret default/users"]);
    // A hash is shown to nobody.
    let broken = told(Some(secret("users", "Opaque", &[("users", "ann:plain-password")]))).concat();
    assert!(broken.contains("ann") && !broken.contains("plain-password"), "{broken}");
}

#[test]
fn a_service_names_how_its_servers_are_reached() {
    let text = |name: &str| {
        let ingress = "kind: Ingress\nmetadata: {name: i}\nspec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: \
                       {name: shop, port: {number: 80}}}}]}}]}\n---\nkind: ServersTransport\nmetadata: {name: slow}\nspec: \
                       {maxIdleConnsPerHost: 3, forwardingTimeouts: {dialTimeout: 2s}}\n---\n";
        let annotated = format!(
            "metadata: {{name: shop, annotations: {{traefik.ingress.kubernetes.io/service.serverstransport: {name}}}}}"
        );
        let backend = backend("shop", 80, &["10.0.0.1"]).replacen("metadata: {name: shop}", &annotated, 1);
        let objects = objects(&(ingress.to_owned() + &backend));
        Translator::default().translate(&objects, &settings(), None, &Around::default())
    };
    let parts = text("default-slow@kubernetescrd");
    let service = parts.services.first().unwrap();
    assert_eq!((service.idle_max, service.timeouts.connect.as_secs()), (3, 2));
    for (name, wanted) in [
        ("default-gone@kubernetescrd", "there is no ServersTransport `default-gone@kubernetescrd`"),
        ("slow@file", "`slow@file` is no name such as default-slow@kubernetescrd"),
    ] {
        let parts = text(&format!("\"{name}\""));
        assert_eq!(parts.routers.first().unwrap().service, UNUSABLE);
        assert!(
            problems(&parts).concat().ends_with(&format!("Service default/shop: {wanted}")),
            "{:?}",
            problems(&parts)
        );
    }
}
