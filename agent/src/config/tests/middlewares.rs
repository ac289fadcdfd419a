//! What middlewares a file may name, and what becomes of routers whose middleware cannot be had.

use std::sync::Arc;

use super::{Files, good};
use crate::config::model::{Middleware, MiddlewareKind};
use crate::config::{Reloader, by_name, expand, names};

/// The kind that a section gives, as it is debugged.
#[track_caller]
fn check(section: &str, want: &str) {
    let config = good(&file(section));
    assert_eq!(format!("{:?}", config.dynamic.middlewares[0].kind), want, "{section}");
}

fn file(section: &str) -> String {
    format!("entryPoints: {{web: {{address: ':1'}}}}\nhttp: {{middlewares: {{m: {{{section}}}}}}}")
}

#[test]
fn every_kind_is_read_with_traefiks_keys() {
    check("addPrefix: {prefix: '/a b'}", r#"AddPrefix(AddPrefix { prefix: "/a%20b" })"#);
    check("replacepath: {path: '/x%2Fy'}", r#"ReplacePath(ReplacePath { path: "/x%2Fy" })"#);
    check(
        "stripPrefix: {prefixes: [/a, ' /b'], forceSlash: true}",
        r#"StripPrefix(StripPrefix { prefixes: ["/a", "/b"] })"#,
    );
    check(
        "redirectScheme: {scheme: https, port: 8443, permanent: true}",
        r#"RedirectScheme(RedirectScheme { scheme: "https", port: "8443", permanent: true })"#,
    );
    check(
        "ipAllowList: {sourceRange: [10.0.0.0/8, '::1'], ipStrategy: {depth: 2, excludedIPs: [1.1.1.1]}, rejectStatusCode: 404}",
        "IpAllowList(IpAllowList { networks: [10.0.0.0/8, ::1/128], strategy: IpStrategy { from: Depth(2), ipv6_subnet: None }, \
         status: 404 })",
    );
    check(
        "rateLimit: {average: 100, period: 0, burst: 50}",
        "RateLimit(RateLimit { average: 100, period: 1s, burst: 50, source: Ip(IpStrategy { from: Peer, ipv6_subnet: None }) })",
    );
    check(
        "rateLimit: {sourceCriterion: {ipStrategy: {excludedIPs: 10.0.0.1, ipv6Subnet: 64}}}",
        "RateLimit(RateLimit { average: 0, period: 1s, burst: 1, \
         source: Ip(IpStrategy { from: Excluding([10.0.0.1/32]), ipv6_subnet: Some(64) }) })",
    );
    check("inFlightReq: {amount: 3}", "InFlightReq(InFlightReq { amount: 3, source: Host })");
    check(
        "inFlightReq: {amount: 3, sourceCriterion: {requestHeaderName: X-Key}}",
        r#"InFlightReq(InFlightReq { amount: 3, source: Header("x-key") })"#,
    );
    let config = good(&file("redirectRegex: {regex: '^http://(.*)', replacement: 'https://$1'}"));
    let MiddlewareKind::RedirectRegex(redirect) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    assert_eq!((redirect.pattern.as_str(), redirect.replacement.as_str()), ("^http://(.*)", "https://$1"));
    let config = good(&file("replacePathRegex: {regex: ' ^/a(.*) '}"));
    let MiddlewareKind::ReplacePathRegex(replace) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    assert_eq!((replace.pattern.as_str(), replace.replacement.as_str()), ("^/a(.*)", ""));
    let config = good(&file("stripPrefixRegex: {regex: ['/v[0-9]{1,2}']}"));
    let MiddlewareKind::StripPrefixRegex(strip) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    assert_eq!(strip.patterns[0].as_str(), "/v[0-9]{1,2}");
}

#[test]
fn an_authentication_server_is_read_with_where_it_is() {
    let config = good(&file(
        "forwardAuth: {address: 'http://auth.example:81/v?key=k', trustForwardHeader: true, authResponseHeaders: [X-User], \
         authRequestHeaders: [Cookie], authResponseHeadersRegex: '^X-Auth', addAuthCookiesToResponse: [c], maxResponseBodySize: 9, \
         preserveLocationHeader: true, authSigninURL: 'https://login'}",
    ));
    assert_eq!(names(&config.dynamic), ["auth.example".into()].into());
    let MiddlewareKind::ForwardAuth(auth) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    assert_eq!(
        (auth.server.url.as_str(), auth.server.port, auth.target.as_str()),
        ("http://auth.example:81/v", 81, "/v?key=k")
    );
    let settings = &auth.settings;
    assert_eq!((settings.trust, settings.body_max, settings.keeps_location), (Some(true), 9, true));
    assert_eq!((settings.passed_on[0].as_str(), settings.asked_with[0].as_str()), ("x-user", "cookie"));
    assert_eq!(
        (settings.cookies.as_slice(), settings.signin.as_ref().unwrap().to_str().unwrap()),
        (&["c".to_owned()][..], "https://login")
    );
    let config = good(&file("forwardAuth: {address: 'http://auth.example'}"));
    let MiddlewareKind::ForwardAuth(auth) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    assert_eq!((auth.settings.trust, auth.settings.body_max, auth.target.as_str()), (None, 1 << 20, "/"));
}

#[test]
fn users_are_read_from_the_file_and_from_their_own() {
    let files = Files::new(&file(
        "basicAuth: {users: ['ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/'], usersFile: more, \
         realm: r, removeHeader: true, headerField: X-User}",
    ));
    files.write("more", "# a comment\n\n  eve:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC  \n");
    let config = files.check().unwrap();
    let MiddlewareKind::BasicAuth(auth) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    let names: Vec<&str> = auth.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!((names.as_slice(), auth.realm.as_str(), auth.remove_header), (&["eve", "ann", "bob"][..], "r", true));
    assert_eq!(auth.header_field.as_ref().unwrap().as_str(), "x-user");
    assert!(!format!("{config:?}").contains("qUqP5cyx"), "a hash is shown");
    let spec = serde_json::json!({"basicAuth": {"usersFile": files.path("more")}});
    let (_, faults) = crate::config::fragment::part("Middleware a/b", "http.middlewares", &spec);
    assert!(faults[0].to_string().contains("spec.basicAuth.usersFile: only a file may name one"), "{faults:?}");
}

#[test]
fn headers_for_safety_become_what_browsers_are_told() {
    let told = |section: &str| {
        let config = good(&file(&format!("headers: {{{section}}}")));
        let MiddlewareKind::Headers(headers) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
        let security = headers.security.clone().unwrap();
        let sts =
            security.sts.map(|value| ("strict-transport-security".to_owned(), value.to_str().unwrap().to_owned()));
        let fixed = security.fixed.into_iter();
        let fixed = fixed.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let all: Vec<String> = sts.into_iter().chain(fixed).map(|(name, value)| format!("{name}: {value}")).collect();
        all
    };
    assert_eq!(told("frameDeny: true"), ["x-frame-options: DENY"]);
    assert_eq!(told("frameDeny: true, customFrameOptionsValue: SAMEORIGIN"), ["x-frame-options: SAMEORIGIN"]);
    assert_eq!(
        told("stsSeconds: 42, stsIncludeSubdomains: true, stsPreload: true"),
        ["strict-transport-security: max-age=42; includeSubDomains; preload"]
    );
    assert_eq!(
        told(
            "browserXssFilter: true, contentTypeNosniff: true, referrerPolicy: same-origin, permissionsPolicy: 'a=()'"
        ),
        [
            "referrer-policy: same-origin",
            "permissions-policy: a=()",
            "x-content-type-options: nosniff",
            "x-xss-protection: 1; mode=block"
        ]
    );
    let config = good(&file(
        "headers: {accessControlAllowOriginList: ['https://a', '*'], accessControlMaxAge: 5, addVaryHeader: true}",
    ));
    let MiddlewareKind::Headers(headers) = &config.dynamic.middlewares[0].kind else { panic!("another kind") };
    let cors = headers.cors.as_ref().unwrap();
    assert_eq!(
        (cors.origins.as_slice(), cors.max_age, cors.vary),
        (&["https://a".to_owned(), "*".to_owned()][..], Some(5), true)
    );
    assert!(headers.security.is_none());
}

/// A section, and a part of its one fault.
const WRONG: &[(&str, &str)] = &[
    ("", "http.middlewares.m: names no kind, such as `headers` "),
    (
        "addPrefix: {prefix: /a}, chain: {middlewares: [m]}",
        "http.middlewares.m: has several kinds (addPrefix, chain); ",
    ),
    ("addPrefix: ", "http.middlewares.m.addPrefix.prefix: is missing; write e.g. /api"),
    ("addPrefix: {prefix: ''}", "http.middlewares.m.addPrefix.prefix: must not be empty"),
    ("replacePath: {path: '/100%'}", "http.middlewares.m.replacePath.path: `/100%` has a `%` without two digits "),
    ("stripPrefix: {prefixes: []}", "http.middlewares.m.stripPrefix.prefixes: is missing or empty; write e.g. [/api]"),
    (
        "stripPrefixRegex: {regex: ['(']}",
        "http.middlewares.m.stripPrefixRegex.regex: `(` is not a regular expression: ",
    ),
    ("redirectRegex: {regex: '^(.*'}", "http.middlewares.m.redirectRegex.regex: `^(.*` is not a regular expression: "),
    ("redirectScheme: {port: x, scheme: y}", "http.middlewares.m.redirectScheme.port: must be a whole number "),
    ("redirectScheme: {}", "http.middlewares.m.redirectScheme.scheme: is missing; write e.g. https"),
    ("chain: {middlewares: [m]}", "http.middlewares.m.chain.middlewares: leads back to this chain itself"),
    ("chain: {middlewares: [n]}", "http.middlewares.m.chain.middlewares: there is no middleware `n`; define it under "),
    ("headers: {}", "http.middlewares.m.headers: names no header to set or remove"),
    ("headers: {referrerPolicy: \"a\\nb\"}", "http.middlewares.m.headers.referrerPolicy: must not hold line breaks "),
    ("headers: {sslRedirect: true}", "http.middlewares.m.headers.sslRedirect: not supported yet: use redirectScheme"),
    ("ipAllowList: {}", "http.middlewares.m.ipAllowList.sourceRange: is missing or empty; write e.g. [10.0.0.0/8]"),
    ("ipAllowList: {sourceRange: [foo]}", "http.middlewares.m.ipAllowList.sourceRange: `foo` is neither a network "),
    (
        "ipAllowList: {sourceRange: [::1], rejectStatusCode: 200}",
        "rejectStatusCode: must be a whole number from 400 to 599",
    ),
    (
        "rateLimit: {sourceCriterion: {requestHost: true, ipStrategy: {}}}",
        "http.middlewares.m.rateLimit.sourceCriterion: names several of ipStrategy, requestHeaderName and requestHost",
    ),
    ("rateLimit: {redis: {}}", "http.middlewares.m.rateLimit.redis: not supported yet: each node counts for itself"),
    (
        "inFlightReq: {sourceCriterion: {requestHeaderName: 'a b'}}",
        "http.middlewares.m.inFlightReq.sourceCriterion.requestHeaderName: `a b` is not a header name",
    ),
    (
        "forwardAuth: {address: 'https://a'}",
        "http.middlewares.m.forwardAuth.address: `https://a`: only http:// is supported yet",
    ),
    (
        "forwardAuth: {address: 'http://a', forwardBody: true}",
        "http.middlewares.m.forwardAuth.forwardBody: not supported yet",
    ),
    (
        "forwardAuth: {address: 'http://a', authResponseHeaders: [Host]}",
        "http.middlewares.m.forwardAuth.authResponseHeaders: `host` decides how the request goes on",
    ),
    ("basicAuth: {}", "http.middlewares.m.basicAuth: has no users; "),
    ("basicAuth: {users: ['a:geheim']}", "http.middlewares.m.basicAuth.users: `a` has no hash of bcrypt, apr1 or SHA"),
    ("basicAuth: {usersFile: none}", "http.middlewares.m.basicAuth.usersFile: cannot be read: No such file"),
    ("compress: {}", "http.middlewares.m.compress: not supported yet"),
];

#[test]
fn what_is_wrong_with_a_middleware_is_told_by_its_key() {
    for (section, want) in WRONG {
        let files = Files::new(&file(section));
        let faults = files.lines(&files.check().err().unwrap_or_default());
        assert!(matches!(faults.as_slice(), [one] if one.contains(want)), "{section}: {faults:#?}");
    }
}

#[test]
fn circles_of_chains_are_found_and_chains_that_only_lead_there_stand() {
    let files = Files::new(
        "entryPoints: {web: {address: ':1'}}\nhttp: {middlewares: {a: {chain: {middlewares: [b]}}, b: {chain: {middlewares: [c, a]}}, \
         c: {addPrefix: {prefix: /c}}, d: {chain: {middlewares: [a]}}}}",
    );
    let faults = files.lines(&files.check().err().unwrap());
    let of: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
    assert_eq!(of, ["http.middlewares.a.chain.middlewares", "http.middlewares.b.chain.middlewares"], "{faults:#?}");
}

#[test]
fn what_keeps_a_router_from_its_middlewares_is_told_by_name() {
    let of = |name: &str, kind| Arc::new(Middleware { name: name.to_owned(), kind });
    let chain = |names: &[&str]| MiddlewareKind::Chain(names.iter().map(|name| (*name).to_owned()).collect());
    let all = [
        of("good", good(&file("addPrefix: {prefix: /a}")).dynamic.middlewares[0].kind.clone()),
        of("late", MiddlewareKind::Unsupported("retry".to_owned())),
        of("one", chain(&["good", "two"])),
        of("two", chain(&["good", "good"])),
        of("leads", chain(&["good", "late"])),
        of("round", chain(&["good", "about"])),
        of("about", chain(&["round"])),
    ];
    let names = |name: &str| {
        let expanded = expand(&[name.to_owned()], &by_name(&all))?;
        Ok::<_, String>(expanded.iter().map(|one| one.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(names("one").unwrap(), ["good", "good", "good"]);
    for (name, why) in [
        ("leads", "the middleware `late` is of the kind `retry`, which is not supported yet"),
        ("round", "the chain `round` leads back to itself"),
        ("gone", "there is no middleware `gone`"),
    ] {
        assert_eq!(names(name).unwrap_err(), why);
    }
}

const SERVED: &str = "entryPoints: {web: {address: ':1'}}
http:
  routers: {r: {rule: Path(`/`), service: s, middlewares: [c]}, q: {rule: Path(`/q`), service: s}}
  services: {s: {loadBalancer: {servers: []}}}
  middlewares: {c: {chain: {middlewares: [p]}}, p: {addPrefix: {prefix: /one}}}
";

#[test]
fn a_router_is_never_served_without_what_its_chain_names() {
    let files = Files::new(SERVED);
    let mut reloader = Reloader::load(&files.main()).unwrap();
    // A kind that is not there yet: the last good version of the part stays, with the router.
    files.write("main.yaml", &SERVED.replace("addPrefix: {prefix: /one}", "retry: {attempts: 2}"));
    let reload = reloader.reload_now();
    assert!(files.lines(&reload.faults)[0].contains("http.middlewares.p.retry: not supported yet"));
    let holds = |reloader: &Reloader| {
        let dynamic = &reloader.config().dynamic;
        let routers: Vec<_> = dynamic.routers.iter().map(|router| router.name.clone()).collect();
        (routers, dynamic.middlewares.len())
    };
    assert_eq!(holds(&reloader), (vec!["r".to_owned(), "q".to_owned()], 2));
    // One that never was: the router is left out.
    files.write(
        "main.yaml",
        &SERVED.replace("middlewares: [p]}}, p: {addPrefix: {prefix: /one}}", "middlewares: [x]}}, x: {retry: {}}"),
    );
    let faults = files.lines(&reloader.reload_now().faults);
    assert!(faults.iter().any(|fault| fault.contains("http.routers.r: its middleware `x` is faulty")), "{faults:#?}");
    let routers = &reloader.config().dynamic.routers;
    let chain = routers.iter().find(|router| router.name == "r");
    assert!(chain.is_none(), "{routers:#?}");
}
