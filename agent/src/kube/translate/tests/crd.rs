//! Traefik's own kinds.

use super::*;

fn settings() -> Kubernetes {
    Kubernetes { crd: Some(provider()), ..Kubernetes::default() }
}

#[track_caller]
fn served(text: &str, want: &[&str]) {
    check(&settings(), text, want);
}

fn route(services: &str, more: &str) -> String {
    format!(
        "kind: IngressRoute\nmetadata: {{name: r}}\nspec:\n  entryPoints: [web]\n  routes:\n  - match: Host(`a.example`)\n    \
         kind: Rule\n    services: [{services}]\n{more}"
    )
}

const NAME: &str = "default-r-1b8e1d4bd0be91b6e1a1@kubernetescrd";

/// The lines with the router's name written as `R`.
#[track_caller]
fn routed(text: &str, want: &[&str]) {
    let parts = Translator::default().translate(&objects(text), &settings(), Some("here"), &Around::default());
    let name = parts.routers.first().map(|router| router.name.clone()).unwrap_or(NAME.to_owned());
    let got: Vec<String> = shown(&parts).iter().map(|line| line.replace(&name, "R")).collect();
    assert!(got == want, "got:\n{}\nwant:\n{}", got.join("\n"), want.join("\n"));
}

#[test]
fn one_service_is_called_like_its_route() {
    routed(
        &(route("{name: shop, port: 80}", "    middlewares: [{name: auth}, {name: other@file}]")
            + "\n---\nkind: Middleware\nmetadata: {name: auth}\nspec: {addPrefix: {prefix: /x}}\n---"
            + &backend("shop", 80, &["10.0.0.1"])),
        &["R: Host(`a.example`) -> R with default-auth@kubernetescrd, other on web", "R = http://10.0.0.1:8080"],
    );
}

#[test]
fn weights_hold_whatever_the_number_of_servers() {
    let two = backend("one", 80, &["10.0.0.1"]) + &backend("two", 80, &["10.0.1.1", "10.0.1.2"]);
    routed(
        &(route("{name: one, port: 80, weight: 3}, {name: two, port: web, weight: 1}", "") + &two),
        &[
            "R: Host(`a.example`) -> R on web",
            "R = http://10.0.0.1:8080 x6, http://10.0.1.1:8080, http://10.0.1.2:8080",
        ],
    );
    let service = "\n---\nkind: TraefikService\nmetadata: {name: both}\nspec: {weighted: {services: [{name: one, port: 80}, \
                   {name: two, port: 80, weight: 0}]}}\n---";
    routed(
        &(route("{name: both, kind: TraefikService}", "") + service + &two),
        &[
            "R: Host(`a.example`) -> default-both@kubernetescrd on web",
            "default-both@kubernetescrd = http://10.0.0.1:8080, http://10.0.1.1:8080 x0, http://10.0.1.2:8080 x0",
        ],
    );
}

#[test]
fn weights_hold_inside_each_other() {
    let all = [("stable", "10.0.0.1"), ("canary", "10.0.0.2"), ("other", "10.0.0.3")];
    let backends: String = all.map(|(name, address)| backend(name, 80, &[address])).concat();
    for (stable, canary, outer, want) in [
        (1, 0, 1, ["", " x0", ""]),
        (9, 1, 1, [" x9", "", " x10"]),
        (9, 1, 3, [" x27", " x3", " x10"]),
        (0, 0, 1, [" x0", " x0", ""]),
        // As many as there can be.
        (2_147_483_647, 1, 2_147_483_647, [" x4294967292", "", " x2"]),
    ] {
        let of = |name: &str, services: &str| {
            format!(
                "\n---\nkind: TraefikService\nmetadata: {{name: {name}}}\nspec: {{weighted: {{services: [{services}]}}}}\n---"
            )
        };
        let inner =
            format!("{{name: stable, port: 80, weight: {stable}}}, {{name: canary, port: 80, weight: {canary}}}");
        let outer = format!("{{name: in, kind: TraefikService, weight: {outer}}}, {{name: other, port: 80}}");
        let text = route("{name: out, kind: TraefikService}", "") + &of("in", &inner) + &of("out", &outer) + &backends;
        let [stable, canary, other] = want;
        let servers = format!(
            "default-out@kubernetescrd = http://10.0.0.1:8080{stable}, http://10.0.0.2:8080{canary}, http://10.0.0.3:8080{other}"
        );
        routed(&text, &["R: Host(`a.example`) -> default-out@kubernetescrd on web", &servers]);
    }
}

#[test]
fn a_traefik_service_by_its_name_for_other_providers_needs_no_other_route_to_it() {
    let service = |namespace: &str, name: &str| {
        format!(
            "\n---\nkind: TraefikService\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{weighted: {{services: [{{name: \
             shop, port: 80}}]}}}}\n---"
        )
    };
    let text = route("{name: default-wrr@kubernetescrd, kind: TraefikService}", "")
        + &service("default", "wrr")
        + &backend("shop", 80, &["10.0.0.1"]);
    let crd = Some(KubernetesProvider { allow_cross_namespace: true, ..provider() });
    let settings = Kubernetes { crd, ..Kubernetes::default() };
    let translate = |text: &str| Translator::default().translate(&objects(text), &settings, None, &Around::default());
    let parts = translate(&text);
    assert_eq!(parts.routers[0].service, "default-wrr@kubernetescrd");
    assert_eq!(shown(&parts)[1..], ["default-wrr@kubernetescrd = http://10.0.0.1:8080"]);
    // It could be one or the other.
    let text = text.replace("default-wrr@", "default-a-wrr@").replace("name: wrr", "name: a-wrr")
        + &service("default-a", "wrr");
    let parts = translate(&text);
    assert_eq!(parts.routers[0].service, UNUSABLE);
    assert!(parts.problems[0].message.contains("TraefikService default-a/wrr"), "{:?}", parts.problems);
}

#[test]
fn a_service_within_itself_ends() {
    let service = "\n---\nkind: TraefikService\nmetadata: {name: me}\nspec: {weighted: {services: [{name: me, kind: \
                   TraefikService}, {name: me, kind: TraefikService}]}}\n---";
    let parts = Translator::default().translate(
        &objects(&(route("{name: me, kind: TraefikService}", "") + service)),
        &settings(),
        None,
        &Around::default(),
    );
    assert_eq!(parts.routers.first().unwrap().service, crate::kube::parts::UNUSABLE);
    assert!(parts.problems.first().unwrap().message.ends_with("or one within itself"), "{:?}", parts.problems);
}

#[test]
fn services_that_multiply_are_refused_and_so_are_chains() {
    let many = |next: &str| vec![format!("{{name: {next}, kind: TraefikService}}"); 40].join(", ");
    let tree: String = (0..7)
        .map(|at| {
            let services = many(&format!("t{}", at + 1));
            format!(
                "\n---\nkind: TraefikService\nmetadata: {{name: t{at}}}\nspec: {{weighted: {{services: [{services}]}}}}"
            )
        })
        .collect();
    let leaf = "\n---\nkind: TraefikService\nmetadata: {name: t7}\nspec: {weighted: {services: [{name: shop, port: 80}]}}\n---";
    let chains: String = (0..40)
        .map(|at| {
            let next = format!("{{name: c{}}}", at + 1);
            format!(
                "\n---\nkind: Middleware\nmetadata: {{name: c{at}}}\nspec: {{chain: {{middlewares: [{next}, {next}]}}}}"
            )
        })
        .collect();
    let last = "\n---\nkind: Middleware\nmetadata: {name: c40}\nspec: {addPrefix: {prefix: /x}}\n";
    let translate =
        |text: String| Translator::default().translate(&objects(&text), &settings(), None, &Around::default());
    let shop = backend("shop", 80, &["10.0.0.1"]);
    let parts = translate(route("{name: t0, kind: TraefikService}", "") + &tree + leaf + &shop);
    assert_eq!(parts.routers[0].service, UNUSABLE);
    let message = &parts.problems[0].message;
    assert!(message.starts_with("TraefikService default/t0: ") && message.contains("more than 256"), "{message}");
    let parts =
        translate(route("{name: shop, port: 80}", "    middlewares: [{name: c0}]") + &chains + last + "---" + &shop);
    let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
    let chain = told.iter().find(|told| told.contains("Middleware default/c0:")).expect("told of");
    assert!(chain.contains("spec.chain.middlewares: `default-c0@kubernetescrd` stands for more than 64"), "{chain}");
    assert!(told.iter().any(|told| told.contains("IngressRoute default/r") && told.contains("with 500")), "{told:?}");
}

#[test]
fn another_namespace_needs_leave() {
    let text = route("{name: shop, namespace: elsewhere, port: 80}", "")
        + &backend("shop", 80, &["10.0.0.1"]).replace("metadata: {", "metadata: {namespace: elsewhere, ");
    routed(
        &text,
        &[
            "R: Host(`a.example`) -> unusable@kubernetes on web",
            "! IngressRoute default/r: spec.routes[0].services: elsewhere/shop is in another namespace than default; allow \
             it with allowCrossNamespace",
        ],
    );
    let allowed = KubernetesProvider { allow_cross_namespace: true, ..provider() };
    let settings = Kubernetes { crd: Some(allowed), ..Kubernetes::default() };
    let parts = Translator::default().translate(&objects(&text), &settings, None, &Around::default());
    assert!(parts.problems.is_empty() && parts.services.first().unwrap().servers.len() == 1);
}

#[test]
fn what_is_another_provider_s_is_for_the_namespaces_that_may_name_it() {
    const REFERS: [&str; 3] = [
        "kind: IngressRoute\nmetadata: {name: r}\nspec: {routes: [{match: Path(`/`), middlewares: [{name: auth@file}], services: [{name: \
         shop, port: 80}]}]}\n---\n",
        "kind: IngressRoute\nmetadata: {name: r}\nspec: {routes: [{match: Path(`/`), services: [{name: api@internal, kind: \
         TraefikService}]}]}\n---\n",
        "kind: Ingress\nmetadata: {name: i, annotations: {traefik.ingress.kubernetes.io/router.tls.options: strict@file}}\nspec: {rules: \
         [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}}]}\n---\n",
    ];
    for text in REFERS {
        for (allowed, served) in
            [(None, true), (Some(vec![]), false), (Some(vec!["other"]), false), (Some(vec!["default"]), true)]
        {
            let cross_provider = allowed.clone().map(|all| all.into_iter().map(str::to_owned).collect());
            let provider = KubernetesProvider { cross_provider, ..provider() };
            let settings = Kubernetes { ingress: Some(provider.clone()), crd: Some(provider), gateway: None };
            let objects = objects(&(text.to_owned() + &backend("shop", 80, &["10.0.0.1"])));
            let parts = Translator::default().translate(&objects, &settings, None, &Around::default());
            let told = parts
                .problems
                .iter()
                .any(|one| one.message.contains("another provider's; allow the namespace default"));
            let leads = parts.routers.iter().any(|router| router.service != UNUSABLE);
            assert_eq!((told, leads), (!served, served), "{allowed:?} {text}");
        }
    }
}

#[test]
fn what_is_not_supported_yet_is_said_and_its_route_is_not_served_without_it() {
    routed(
        &(route("{name: shop, port: 80, sticky: {cookie: {}}}", "") + &backend("shop", 80, &["10.0.0.1"])),
        &[
            "R: Host(`a.example`) -> unusable@kubernetes on web",
            "! IngressRoute default/r: spec.routes[0].services: service shop: sticky is not supported yet",
        ],
    );
    let middleware = |spec: &str| format!("\n---\nkind: Middleware\nmetadata: {{name: m}}\nspec: {spec}\n---");
    let text = route("{name: shop, port: 80}", "    middlewares: [{name: m}]")
        + &middleware("{plugin: {a: {}}}")
        + &backend("shop", 80, &["10.0.0.1"]);
    routed(
        &text,
        &[
            "R: Host(`a.example`) -> R with default-m@kubernetescrd on web",
            "R = http://10.0.0.1:8080",
            "! Middleware default/m: spec.plugin: not supported yet",
            "! IngressRoute default/r: there is no middleware `default-m@kubernetescrd` that can be used; its requests are answered \
             with 500",
        ],
    );
    let parts = Translator::default().translate(&objects(&text), &settings(), None, &Around::default());
    let (merged, missing) = parts.merged(&crate::config::model::Dynamic::default());
    assert_eq!(merged.routers.first().unwrap().service, crate::kube::parts::UNUSABLE);
    assert_eq!(missing.first().unwrap().1, "there is no middleware `default-m@kubernetescrd` that can be used");
    served(
        &middleware("{headers: {customRequestHeader: {}}}"),
        &[
            "! Middleware default/m: spec.headers.customRequestHeader: unknown key; did you mean `customRequestHeaders`?",
        ],
    );
    served(&middleware("7"), &["! Middleware default/m: spec: must be a section, not a value"]);
    // None of several kinds is served without the others.
    for spec in [
        "{basicAuth: {secret: users}, ipAllowList: {sourceRange: [10.0.0.0/8]}}",
        "{chain: {middlewares: [{name: n}]}, basicAuth: {secret: users}}",
        "{basicAuth: {secret: users}, digestAuth: {}}",
    ] {
        let parts = Translator::default().translate(&objects(&middleware(spec)), &settings(), None, &Around::default());
        let message = &parts.problems[0].message;
        assert!(message.starts_with("spec: has several kinds (") && parts.middlewares.is_empty(), "{message}");
    }
    // What another spelling of a chain names is not looked for beyond its namespace, and without the leave that it takes.
    served(
        &middleware("{Chain: {middlewares: [other-secret@kubernetescrd]}}"),
        &["! Middleware default/m: spec.Chain: unknown key; did you mean `chain`?"],
    );
}

#[test]
fn chains_are_taken_apart() {
    let text = "kind: Middleware\nmetadata: {name: all}\nspec: {chain: {middlewares: [{name: one}, {name: more}]}}\n---\n\
                kind: Middleware\nmetadata: {name: more}\nspec: {chain: {middlewares: [{name: two@file}, {name: all}]}}\n---\n\
                kind: Middleware\nmetadata: {name: one}\nspec: {headers: {customRequestHeaders: {A: b}}}\n---\n"
        .to_owned()
        + &route("{name: shop, port: 80}", "    middlewares: [{name: all}]")
        + &backend("shop", 80, &[]);
    let parts = Translator::default().translate(&objects(&text), &settings(), None, &Around::default());
    let wanted = &parts.routers.first().unwrap().middlewares;
    // A chain within itself is nothing that anyone can give: the router is not served without it.
    assert_eq!(*wanted, ["default-one@kubernetescrd", "two", "default-all@kubernetescrd"]);
    assert_eq!(parts.middlewares.len(), 1);
}

#[test]
fn servers_transports_are_read_as_a_files() {
    let transport = |spec: &str| {
        route("{name: shop, port: 80, serversTransport: slow}", "")
            + &format!("\n---\nkind: ServersTransport\nmetadata: {{name: slow}}\nspec: {spec}\n---")
            + &backend("shop", 80, &["10.0.0.1"])
    };
    let translated =
        |text: &str| Translator::default().translate(&objects(text), &settings(), None, &Around::default());
    let parts =
        translated(&transport("{maxIdleConnsPerHost: 3, forwardingTimeouts: {dialTimeout: 2s, idleConnTimeout: 5}}"));
    let service = parts.services.first().unwrap();
    assert_eq!((service.idle_max, service.timeouts.connect.as_secs(), service.timeouts.idle.as_secs()), (3, 2, 5));
    let parts = translated(&transport("{insecureSkipVerify: true}"));
    assert!(parts.services.is_empty());
    let message = &parts.problems.first().unwrap().message;
    assert!(message.contains("ServersTransport default/slow: spec.insecureSkipVerify: not supported yet"), "{message}");
}

#[test]
fn only_routes_of_the_class_are_served() {
    let text = ["", "wayspan", "traefik", "nginx"].map(|class| {
        format!("kind: IngressRoute\nmetadata: {{name: r{class}}}\nspec: {{ingressClassName: \"{class}\", routes: [{{match: Path(`/`), services: [{{name: s@internal, kind: TraefikService}}]}}]}}\n---\n")
    });
    let text = text.concat();
    let taken = |class: &str| {
        let provider = KubernetesProvider { ingress_class: class.to_owned(), ..provider() };
        let settings = Kubernetes { crd: Some(provider), ..Kubernetes::default() };
        Translator::default().translate(&objects(&text), &settings, None, &Around::default()).routers.len()
    };
    assert_eq!((taken(""), taken("nginx")), (3, 1));
}

#[test]
fn a_bad_object_hurts_only_itself() {
    let bad = "kind: IngressRoute\nmetadata: {name: bad}\nspec: {routes: [{match: 7, services: {}}]}\n---\n\
               kind: IngressRoute\nmetadata: {name: worse}\nspec: {routes: [{match: \"Host(`\"}]}\n---\n"
        .to_owned();
    let parts = Translator::default().translate(
        &objects(&(bad + &route("{name: shop, port: 80}", "") + &backend("shop", 80, &[]))),
        &settings(),
        None,
        &Around::default(),
    );
    assert_eq!((parts.routers.len(), parts.problems.len()), (1, 2), "{:?}", parts.problems);
}

#[test]
fn what_can_be_read_of_a_rule_gets_500_below_what_can_be_read_as_a_whole() {
    let translated = |text: &str| {
        let text = text.to_owned() + "\n---" + &backend("shop", 80, &["10.0.0.1"]);
        Translator::default().translate(&objects(&text), &settings(), None, &Around::default())
    };
    let one = |rule: &str, more: &str| route("{name: shop, port: 80}", more).replace("Host(`a.example`)", rule);
    for (rule, more, want, priority) in [
        ("Host(`a.example`, `b.example`)", "", "Host(`a.example`) || Host(`b.example`)", 37),
        ("\"Host(`a.example`) && Pathh(`/x`, `/y`)\"", "    priority: 7", "Host(`a.example`)", 7),
        (
            "\"Host(`a.example`) && PathPrefix(`/x`) && Hedaer(`a`, `b`)\"",
            "    priority: 700",
            "Host(`a.example`) && PathPrefix(`/x`)",
            36,
        ),
        ("Host(`a.example`)", "    syntax: v2", "Host(`a.example`)", 0),
        ("Host(`a.example`)", "    observability: {tracing: 1}", "Host(`a.example`)", 0),
    ] {
        let parts = translated(&one(rule, more));
        let router = parts.routers.first().unwrap_or_else(|| panic!("{rule}: {:?}", parts.problems));
        assert_eq!((&*router.rule.text, router.priority), (want, priority), "{rule}");
        assert_eq!(
            (router.service.as_str(), router.entry_points.as_slice()),
            (UNUSABLE, &["web".to_owned()][..]),
            "{rule}"
        );
        let told = parts.problems.first().unwrap();
        assert!(parts.problems.len() == 1 && told.message.ends_with("; its requests are answered with 500"), "{told}");
        assert!(parts.services.is_empty(), "{rule}");
    }
    // Of all hosts is nobody's wish.
    let parts = translated(&one("\"Hst(`a.example`) && PathPrefix(`/`)\"", ""));
    let told = parts.problems.first().unwrap().to_string();
    assert!(parts.routers.is_empty() && told.ends_with("so other routes get its requests)"), "{told}");
    // Whose it is counts first.
    let other = one("Host(`a.example`)", "  ingressClassName: other\n  tls: 7");
    assert!(translated(&other).problems.is_empty());
}

#[test]
fn a_route_with_tls_is_never_served_in_the_clear_nor_with_other_options() {
    let tls = |tls: &str| {
        let text = route("{name: shop, port: 80}", &format!("  tls: {tls}")) + &backend("shop", 80, &["10.0.0.1"]);
        Translator::default().translate(&objects(&text), &settings(), None, &Around::default())
    };
    assert_eq!(tls("{}").routers.first().unwrap().tls, Some(Default::default()));
    let strict = tls("{options: {name: strict@file}}");
    assert_eq!(strict.routers.first().unwrap().tls.as_ref().unwrap().options.as_deref(), Some("strict"));
    for refused in ["{options: {name: mine@kubernetescrd}}", "{certResolver: le}", "{store: {name: other}}"] {
        let parts = tls(refused);
        let router = parts.routers.first().unwrap();
        assert_eq!((router.service.as_str(), &router.tls), (UNUSABLE, &Some(Default::default())), "{refused}");
        assert_eq!(parts.problems.len(), 1, "{refused}");
    }
}

#[test]
fn a_route_to_no_entry_point_is_told_of() {
    let around =
        Around { entry_points: vec![Entry { name: "other".to_owned(), ..Entry::default() }], ..Around::default() };
    let text = route("{name: shop, port: 80}", "") + "\n---" + &backend("shop", 80, &["10.0.0.1"]);
    let parts = Translator::default().translate(&objects(&text), &settings(), None, &around);
    let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
    let want = "IngressRoute default/r: spec.entryPoints: there is no entry point `web`; add it to entryPoints, or name another";
    assert_eq!(told, [want]);
    // One of two is enough.
    let text = text.replace("entryPoints: [web]", "entryPoints: [web, other]");
    assert_eq!(Translator::default().translate(&objects(&text), &settings(), None, &around).problems, []);
}
