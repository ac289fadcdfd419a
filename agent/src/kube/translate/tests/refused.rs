//! Kinds that may not be read: what one of them could ask for is not served as if there were none.

use super::*;
use crate::config::fragment;
use crate::config::model::Dynamic;
use crate::kube::refusals::Refused;

const ROUTES: &str = "kind: IngressRoute
metadata: {name: r}
spec: {tls: {}, routes: [{match: Host(`a.example`), services: [{name: shop, port: 80}]}]}
---
kind: IngressRoute
metadata: {name: plain}
spec: {routes: [{match: Host(`a.example`), services: [{name: shop, port: 80}]}]}
---
kind: GatewayClass
metadata: {name: w}
spec: {controllerName: wayspan.io/gateway-controller}
---
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: w, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: h}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: shop, port: 80}]}]}
";

fn settings() -> Kubernetes {
    Kubernetes { crd: Some(provider()), gateway: Some(provider()), ..Kubernetes::default() }
}

fn world(refused: &[(&str, Option<&str>)]) -> Objects {
    let mut objects = objects(&(ROUTES.to_owned() + &backend("shop", 80, &["10.0.0.1"])));
    for (kind, namespace) in refused {
        assert!(objects.refused.note((*kind).to_owned(), namespace.map(Arc::from), true));
    }
    objects
}

/// The routers that answer 500, by the objects that they are of.
fn lost(parts: &Parts, file: &Dynamic) -> Vec<String> {
    let (merged, _) = parts.merged(file);
    let lost = merged.routers.iter().filter(|router| router.service == UNUSABLE);
    lost.map(|router| parts.origin(&router.name).unwrap().to_string()).collect()
}

#[test]
fn what_a_kind_that_may_not_be_read_could_ask_for_is_not_served_without() {
    let (route, http) = ("IngressRoute default/r", "HTTPRoute default/h");
    for (kind, namespace, want) in [
        ("IngressClass", None, vec![]),
        ("TLSOption", None, vec![route]),
        ("TLSOption", Some("default"), vec![route]),
        // It could ask only its own namespace's clients.
        ("TLSOption", Some("other"), vec![]),
        ("BackendTLSPolicy", None, vec![http]),
        ("BackendTLSPolicy", Some("default"), vec![http]),
        ("BackendTLSPolicy", Some("other"), vec![]),
    ] {
        let parts =
            Translator::default().translate(&world(&[(kind, namespace)]), &settings(), None, &Around::default());
        assert_eq!(lost(&parts, &Dynamic::default()), want, "{kind} {namespace:?}");
        let place = Key::new(namespace.unwrap_or_default(), "*");
        let told = format!("{kind} {place}: may not be read: ");
        let is_told = |one: &Problem| one.to_string().starts_with(&told) && one.message.contains("`list` and `watch`");
        // A role of a namespace has no right to classes.
        assert_eq!(parts.problems.iter().any(is_told), kind != "IngressClass", "{:?}", parts.problems);
    }
}

#[test]
fn whose_own_default_is_unseen_is_not_served_by_anothers_options_of_the_same_plain_name() {
    let there =
        format!("{ROUTES}{}", backend("shop", 80, &["10.0.0.1"])).replace("{name:", "{namespace: team-a, name:");
    let other = "kind: TLSOption\nmetadata: {name: a-default, namespace: team}\nspec: {}\n";
    let mut objects = objects(&(there + other));
    let served = Translator::default().translate(&objects, &settings(), None, &Around::default());
    assert_eq!(lost(&served, &Dynamic::default()), Vec::<String>::new());
    assert!(objects.refused.note("TLSOption".to_owned(), Some("team-a".into()), true));
    let parts = Translator::default().translate(&objects, &settings(), None, &Around::default());
    assert_eq!(lost(&parts, &Dynamic::default()), ["IngressRoute team-a/r"]);
}

#[test]
fn who_says_himself_what_clients_are_asked_for_needs_no_right_to_the_objects() {
    let (mut file, faults) = fragment::part("default", "tls.options", &serde_json::json!({}));
    assert!(faults.is_empty());
    file.tls_options.iter_mut().for_each(|one| one.name = "default".to_owned());
    let parts = Translator::default().translate(&world(&[("TLSOption", None)]), &settings(), None, &Around::default());
    assert_eq!(lost(&parts, &file), Vec::<String>::new());
    let only = KubernetesProvider { defaults_namespaces: vec!["edge".to_owned()], ..provider() };
    let settings = Kubernetes { crd: Some(only), ..Kubernetes::default() };
    for (namespace, want) in [("other", vec![]), ("edge", vec!["IngressRoute default/r"])] {
        let world = world(&[("TLSOption", Some(namespace))]);
        let parts = Translator::default().translate(&world, &settings, None, &Around::default());
        assert_eq!(lost(&parts, &Dynamic::default()), want, "{namespace}");
    }
}

#[test]
fn a_right_that_is_given_is_seen_although_nothing_else_changed() {
    let mut translator = Translator::default();
    let mut objects = world(&[("BackendTLSPolicy", None)]);
    let mut lost_now = |objects: &Objects| {
        lost(&translator.translate(objects, &settings(), None, &Around::default()), &Dynamic::default()).len()
    };
    assert_eq!(lost_now(&objects), 1);
    assert!(objects.refused.note("BackendTLSPolicy".to_owned(), None, false));
    assert_eq!((lost_now(&objects), &objects.refused), (0, &Refused::default()));
}

#[test]
fn of_a_namespace_that_may_not_be_read_nobody_knows_what_it_does_not_have() {
    for operator in ["operator: DoesNotExist", "operator: NotIn, values: [a]"] {
        let from = format!("{{from: Selector, selector: {{matchExpressions: [{{key: team, {operator}}}]}}}}");
        let listener = format!("protocol: HTTP, allowedRoutes: {{namespaces: {from}}}}}");
        let text = ROUTES.replace("protocol: HTTP}", &listener) + &backend("shop", 80, &["10.0.0.1"]);
        let routers = |more: &str| {
            let objects = objects(&(text.clone() + more));
            let parts = Translator::default().translate(&objects, &settings(), None, &Around::default());
            parts.origins.iter().filter(|one| one.kind == "HTTPRoute").count()
        };
        assert_eq!((routers(""), routers("kind: Namespace\nmetadata: {name: default}\n")), (0, 1), "{operator}");
    }
}
