//! What ingress-nginx's annotations ask for, and how to have it here. They are read by nobody but it: an object that says
//! nothing else is served without what they ask for.

use super::report::Effect;

/// Where they begin.
pub(super) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What an annotation would have changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Whether its requests are answered all the same.
    pub(super) effect: Effect,
    /// What is other than there.
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: &'static str,
}

/// Values with which an annotation asks for what is so anyway.
#[derive(Debug, Clone, Copy)]
enum Idle {
    /// There is none.
    Never,
    /// These, in lower case.
    When(&'static [&'static str]),
    /// All: it is about how nginx does its work.
    Always,
}

/// Names, or their beginnings where they end in `*`.
struct Row {
    names: &'static [&'static str],
    idle: Idle,
    effect: Effect,
    message: &'static str,
    remedy: &'static str,
}

const OFF: Idle = Idle::When(&["false", "off", ""]);
const NOT_YET: &str = "leave it out, or leave the object to ingress-nginx until Wayspan has it";
const MIDDLEWARE: &str = "traefik.ingress.kubernetes.io/router.middlewares";

const fn row(names: &'static [&'static str], idle: Idle, message: &'static str, remedy: &'static str) -> Row {
    Row { names, idle, effect: Effect::Differs, message, remedy }
}

/// Servers that are not reached by what is spoken here.
const fn unreached(names: &'static [&'static str], idle: Idle, message: &'static str) -> Row {
    Row { names, idle, effect: Effect::NotServed, message, remedy: NOT_YET }
}

/// The first row that has a name counts.
const ROWS: &[Row] = &[
    row(
        &["rewrite-target"],
        Idle::Never,
        "paths reach the server as they are",
        "name a Middleware with stripPrefix or replacePathRegex in router.middlewares",
    ),
    row(
        &["use-regex"],
        OFF,
        "paths are prefixes, not regular expressions",
        "write traefik.ingress.kubernetes.io/router.pathmatcher: PathRegexp",
    ),
    row(
        &["app-root"],
        Idle::Never,
        "/ is not redirected",
        "name a Middleware with redirectRegex in router.middlewares",
    ),
    row(
        &["ssl-redirect", "force-ssl-redirect"],
        OFF,
        "plain requests are not redirected",
        "name a Middleware with redirectScheme in router.middlewares",
    ),
    row(
        &["permanent-redirect*", "temporal-redirect*", "from-to-www-redirect", "relative-redirects"],
        OFF,
        "requests are not redirected",
        "name a Middleware with redirectRegex in router.middlewares",
    ),
    row(
        &["whitelist-source-range", "allowlist-source-range"],
        Idle::Never,
        "clients of all addresses are served",
        "name a Middleware with ipAllowList in router.middlewares",
    ),
    row(
        &["denylist-source-range"],
        Idle::Never,
        "clients of all addresses are served",
        "name a Middleware with ipAllowList of the others in router.middlewares",
    ),
    row(
        &["limit-rps", "limit-rpm", "limit-burst-multiplier", "limit-whitelist", "limit-allowlist"],
        Idle::Never,
        "clients are not slowed down",
        "name a Middleware with rateLimit in router.middlewares",
    ),
    row(
        &["limit-connections"],
        Idle::Never,
        "connections of one client are not counted",
        "name a Middleware with inFlightReq in router.middlewares",
    ),
    row(&["limit-rate", "limit-rate-after"], Idle::When(&["0"]), "responses are not slowed down", NOT_YET),
    row(
        &[
            "auth-url",
            "auth-signin*",
            "auth-method",
            "auth-response-headers",
            "auth-proxy-set-headers",
            "auth-request-*",
            "auth-cache-*",
            "auth-keepalive*",
            "auth-snippet",
            "auth-always-set-cookie",
            "enable-global-auth",
        ],
        OFF,
        "nobody is asked whether a request may pass",
        "name a Middleware with forwardAuth in router.middlewares",
    ),
    row(
        &["auth-tls-*"],
        OFF,
        "clients are not asked for certificates",
        "name a TLSOption with clientAuth in traefik.ingress.kubernetes.io/router.tls.options",
    ),
    row(
        &["auth-type", "auth-secret", "auth-secret-type", "auth-realm"],
        Idle::Never,
        "nobody is asked for a password",
        "name a Middleware with basicAuth in router.middlewares",
    ),
    row(&["satisfy"], Idle::When(&["all"]), "every condition must hold, not any of them", NOT_YET),
    unreached(
        &["backend-protocol"],
        Idle::When(&["http", "auto_http", ""]),
        "servers are spoken to in HTTP/1.1 without TLS",
    ),
    row(
        &["canary*"],
        OFF,
        "the Ingress counts as any other: of two with the same rule one gets all requests",
        "share requests out by weight with an IngressRoute",
    ),
    row(&["affinity*", "session-cookie-*"], Idle::Never, "a client's requests are not kept with one server", NOT_YET),
    row(&["upstream-hash-by*", "load-balance"], Idle::When(&["round_robin"]), "servers take turns", NOT_YET),
    row(
        &["service-upstream"],
        OFF,
        "requests go to the pods, not to the Service's address",
        "leave it out: kube-proxy is not needed",
    ),
    row(
        &["proxy-body-size", "client-body-buffer-size"],
        Idle::When(&["0"]),
        "request bodies of all sizes are passed on",
        "let the server refuse those that are too large",
    ),
    row(
        &["proxy-connect-timeout", "proxy-send-timeout", "proxy-read-timeout"],
        Idle::Never,
        "other timeouts hold",
        "name a ServersTransport in traefik.ingress.kubernetes.io/service.serverstransport on the Service",
    ),
    row(
        &["proxy-next-upstream*"],
        Idle::Never,
        "only an idempotent request whose pooled connection was closed is sent again, once",
        NOT_YET,
    ),
    row(&["proxy-cookie-*", "proxy-redirect-*"], Idle::When(&["off"]), "answers pass as they are", NOT_YET),
    unreached(&["proxy-ssl-*"], OFF, "servers are spoken to without TLS"),
    row(
        &["enable-cors", "cors-*"],
        OFF,
        "no headers of CORS are added",
        "name a Middleware with headers (accessControlAllowOriginList and the like) in router.middlewares",
    ),
    row(
        &["custom-headers", "x-forwarded-prefix", "connection-proxy-header", "upstream-vhost"],
        Idle::Never,
        "headers are not changed",
        "name a Middleware with headers in router.middlewares",
    ),
    row(
        &["configuration-snippet", "server-snippet", "stream-snippet"],
        Idle::Never,
        "nginx's own configuration is read by nginx alone",
        "say what it does with a Middleware in router.middlewares",
    ),
    row(
        &["custom-http-errors", "default-backend", "disable-proxy-intercept-errors"],
        Idle::Never,
        "a server's errors pass as they are",
        NOT_YET,
    ),
    row(&["server-alias"], Idle::Never, "the other hosts are not served", "write a rule for each of them"),
    row(&["ssl-passthrough"], OFF, "TLS ends here, with this Ingress's certificate or the default one", NOT_YET),
    row(
        &["ssl-ciphers", "ssl-prefer-server-ciphers"],
        Idle::Never,
        "other ciphers are spoken",
        "name a TLSOption in traefik.ingress.kubernetes.io/router.tls.options",
    ),
    row(
        &["enable-modsecurity", "enable-owasp-core-rules", "modsecurity-*"],
        OFF,
        "requests are not inspected",
        NOT_YET,
    ),
    row(&["mirror-*"], Idle::Never, "requests are not copied to another server", NOT_YET),
    row(
        &["enable-opentelemetry", "opentelemetry-*"],
        Idle::When(&["true", ""]),
        "requests are traced as the configuration says",
        "write traefik.ingress.kubernetes.io/router.observability.tracing",
    ),
    row(&["enable-access-log"], OFF, "no access log is written", NOT_YET),
    row(
        &[
            "proxy-buffering",
            "proxy-buffers-number",
            "proxy-buffer-size",
            "proxy-busy-buffers-size",
            "proxy-max-temp-file-size",
            "proxy-request-buffering",
            "proxy-http-version",
            "http2-push-preload",
            "preserve-trailing-slash",
            "enable-rewrite-log",
        ],
        Idle::Always,
        "",
        "",
    ),
];

/// What an annotation, by its name behind the prefix, would have changed; `None`: nothing that can be noticed.
pub(super) fn asked(name: &str, value: &str) -> Option<Asked> {
    let is_named = |known: &&&str| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == **known,
    };
    let Some(row) = ROWS.iter().find(|row| row.names.iter().any(|known| is_named(&known))) else {
        let message = "is not known: it is ignored".to_owned();
        return Some(Asked { effect: Effect::Differs, message, remedy: NOT_YET });
    };
    let value = value.trim().to_ascii_lowercase();
    let is_idle = match row.idle {
        Idle::Never => false,
        Idle::When(values) => values.contains(&value.as_str()),
        Idle::Always => true,
    };
    // The annotation's own name is long enough.
    let message = || format!("is ignored: {}", row.message);
    (!is_idle).then(|| Asked { effect: row.effect, message: message(), remedy: row.remedy })
}

/// Where middlewares are named, for remedies that speak of `router.middlewares`.
pub(super) fn in_full(remedy: &str) -> String {
    remedy.replace(" router.middlewares", &format!(" {MIDDLEWARE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Dynamic;
    use crate::kube::parts::UNUSABLE;
    use crate::kube::translate::tests::{backend, objects};
    use crate::kube::translate::{Around, Translator};

    const TRAEFIK: &str = "traefik.ingress.kubernetes.io/";

    #[test]
    fn an_annotation_that_changes_nothing_is_no_difference() {
        for (name, value, wanted) in [
            ("rewrite-target", "/$2", Some("is ignored: paths reach the server as they are")),
            ("ssl-redirect", "true", Some("is ignored: plain requests are not redirected")),
            ("ssl-redirect", "False", None),
            ("backend-protocol", "HTTP", None),
            ("backend-protocol", "GRPC", Some("is ignored: servers are spoken to in HTTP/1.1 without TLS")),
            ("proxy-buffering", "off", None),
            (
                "canary-weight",
                "20",
                Some("is ignored: the Ingress counts as any other: of two with the same rule one gets all requests"),
            ),
            ("auth-tls-secret", "a/b", Some("is ignored: clients are not asked for certificates")),
            ("auth-url", "http://a", Some("is ignored: nobody is asked whether a request may pass")),
            ("made-up", "1", Some("is not known: it is ignored")),
        ] {
            let asked = asked(name, value);
            assert_eq!(asked.as_ref().map(|asked| asked.message.as_str()), wanted, "{name}: {value}");
        }
    }

    #[test]
    fn what_its_servers_do_not_understand_is_not_served() {
        for (name, value, effect) in [
            ("backend-protocol", "HTTPS", Effect::NotServed),
            ("backend-protocol", "GRPCS", Effect::NotServed),
            ("proxy-ssl-secret", "a/b", Effect::NotServed),
            ("proxy-ssl-verify", "on", Effect::NotServed),
            ("rewrite-target", "/", Effect::Differs),
        ] {
            let asked = asked(name, value).unwrap();
            assert_eq!((asked.effect, asked.remedy == NOT_YET), (effect, effect == Effect::NotServed), "{name}");
        }
    }

    /// Whoever does as he is told gets no 500 for it.
    #[test]
    fn what_remedies_name_is_read_and_served() {
        const KINDS: &str = "kind: Middleware\nmetadata: {name: m}\nspec: {addPrefix: {prefix: /x}}\n---\nkind: TLSOption\nmetadata: \
                             {name: o}\nspec: {minVersion: VersionTLS13}\n---\nkind: ServersTransport\nmetadata: {name: t}\nspec: \
                             {forwardingTimeouts: {dialTimeout: 1s}}\n";
        let remedies: String = ROWS.iter().map(|row| in_full(row.remedy) + " ").collect();
        let mut named: Vec<&str> =
            remedies.split([' ', ':', ',']).filter_map(|word| word.strip_prefix(TRAEFIK)).collect();
        named.sort_unstable();
        named.dedup();
        assert!(named.len() > 4, "{named:?}");
        for name in named {
            let (value, on_service) = match name {
                "router.middlewares" => ("default-m@kubernetescrd", false),
                "router.tls.options" => ("default-o@kubernetescrd", false),
                "router.pathmatcher" => ("PathRegexp", false),
                "router.observability.tracing" => ("false", false),
                "service.serversscheme" => ("https", true),
                "service.serverstransport" => ("default-t@kubernetescrd", true),
                other => panic!("what is written there? {other}"),
            };
            let annotation = format!(", annotations: {{{TRAEFIK}{name}: \"{value}\"}}");
            let [of_service, of_ingress] =
                [on_service, !on_service].map(|is| if is { annotation.as_str() } else { "" });
            let text = format!(
                "kind: Ingress\nmetadata: {{name: i{of_ingress}}}\nspec: {{rules: [{{host: a.example, http: {{paths: [{{path: /x, \
                 pathType: ImplementationSpecific, backend: {{service: {{name: shop, port: {{number: 80}}}}}}}}]}}}}]}}\n"
            );
            let service =
                backend("shop", 80, &["10.0.0.1"]).replacen("name: shop", &format!("name: shop{of_service}"), 1);
            let objects = objects(&format!("{text}{service}{KINDS}"));
            let settings = crate::config::kubernetes_defaults();
            let parts = Translator::default().translate(&objects, &settings, None, &Around::default());
            let told: Vec<String> = parts.problems.iter().map(ToString::to_string).collect();
            assert_eq!(told, Vec::<String>::new(), "{name}");
            let (merged, missing) = parts.merged(&Dynamic::default());
            assert!(missing.is_empty() && merged.routers.len() == 1, "{name}: {missing:?}");
            assert!(merged.routers.iter().all(|router| router.service != UNUSABLE), "{name}");
        }
    }

    #[test]
    fn all_that_ingress_nginx_documents_is_known() {
        // Of its page of annotations, as of its last release.
        const ALL: &str = "app-root affinity affinity-mode affinity-canary-behavior auth-realm auth-secret auth-secret-type auth-type \
            auth-tls-secret auth-tls-verify-depth auth-tls-verify-client auth-tls-error-page auth-tls-pass-certificate-to-upstream \
            auth-tls-match-cn auth-url auth-cache-key auth-cache-duration auth-keepalive auth-keepalive-share-vars \
            auth-keepalive-requests auth-keepalive-timeout auth-proxy-set-headers auth-snippet enable-global-auth backend-protocol \
            canary canary-by-header canary-by-header-value canary-by-header-pattern canary-by-cookie canary-weight \
            canary-weight-total client-body-buffer-size configuration-snippet custom-http-errors custom-headers default-backend \
            enable-cors cors-allow-origin cors-allow-methods cors-allow-headers cors-expose-headers cors-allow-credentials \
            cors-max-age force-ssl-redirect from-to-www-redirect http2-push-preload limit-connections limit-rps permanent-redirect \
            permanent-redirect-code temporal-redirect temporal-redirect-code preserve-trailing-slash proxy-body-size \
            proxy-cookie-domain proxy-cookie-path proxy-connect-timeout proxy-send-timeout proxy-read-timeout proxy-next-upstream \
            proxy-next-upstream-timeout proxy-next-upstream-tries proxy-request-buffering proxy-redirect-from proxy-redirect-to \
            proxy-http-version proxy-ssl-secret proxy-ssl-ciphers proxy-ssl-name proxy-ssl-protocols proxy-ssl-verify \
            proxy-ssl-verify-depth proxy-ssl-server-name enable-rewrite-log rewrite-target satisfy server-alias server-snippet \
            service-upstream session-cookie-change-on-failure session-cookie-conditional-samesite-none session-cookie-domain \
            session-cookie-expires session-cookie-max-age session-cookie-name session-cookie-path session-cookie-samesite \
            session-cookie-secure ssl-redirect ssl-passthrough stream-snippet upstream-hash-by x-forwarded-prefix load-balance \
            upstream-vhost denylist-source-range whitelist-source-range proxy-buffering proxy-buffers-number proxy-buffer-size \
            proxy-busy-buffers-size proxy-max-temp-file-size ssl-ciphers ssl-prefer-server-ciphers connection-proxy-header \
            enable-access-log enable-opentelemetry opentelemetry-trust-incoming-span use-regex enable-modsecurity \
            enable-owasp-core-rules modsecurity-transaction-id modsecurity-snippet mirror-request-body mirror-target mirror-host";
        let unknown = |name: &&str| asked(name, "x").is_some_and(|asked| asked.message.starts_with("is not known"));
        assert_eq!(ALL.split_whitespace().filter(unknown).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
