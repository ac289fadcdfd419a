//! One middleware of `http.middlewares`: which kind it is, and that kind's settings. The proxy has the settings' meaning.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use wayspan_proxy::middleware::{
    AddPrefix, BasicAuth, Cors, ForwardAuth, HeaderEdits, Headers, InFlightReq, IpAllowList, IpFrom, IpStrategy,
    RateLimit, RedirectRegex, RedirectScheme, ReplacePath, ReplacePathRegex, Security, Source, StripPrefix,
    StripPrefixRegex, User,
};

use super::cursor::Cursor;
use super::model::{self, Middleware, MiddlewareKind};
use super::value;
use super::yaml::{Node, Value};

/// What is wrong with one: the key below it, the line, the message.
pub(super) type Problem = (&'static str, u32, String);

/// A kind's name and how it is read.
type Reader = (&'static str, fn(&mut Read<'_>) -> Option<MiddlewareKind>);

/// The kinds that files may name.
const KINDS: [Reader; 14] = [
    ("addPrefix", add_prefix),
    ("basicAuth", basic_auth),
    ("chain", chain),
    ("forwardAuth", forward_auth),
    ("headers", headers),
    ("inFlightReq", in_flight_req),
    ("ipAllowList", ip_allow_list),
    ("rateLimit", rate_limit),
    ("redirectRegex", redirect_regex),
    ("redirectScheme", redirect_scheme),
    ("replacePath", replace_path),
    ("replacePathRegex", replace_path_regex),
    ("stripPrefix", strip_prefix),
    ("stripPrefixRegex", strip_prefix_regex),
];

/// More would be a mistake: chains of chains double.
const EXPANDED_MAX: usize = 1024;

/// The middlewares that names stand for, chains taken apart. The error says what stands in the way: a router is never
/// served without one of its middlewares.
pub(crate) fn expand<'m>(
    names: &[String],
    all: &HashMap<&str, &'m Arc<Middleware>>,
) -> Result<Vec<&'m Arc<Middleware>>, String> {
    let mut expanded = Vec::new();
    expand_into(names, all, &mut Vec::new(), &mut expanded)?;
    Ok(expanded)
}

fn expand_into<'m>(
    names: &[String],
    all: &HashMap<&str, &'m Arc<Middleware>>,
    within: &mut Vec<&'m str>,
    expanded: &mut Vec<&'m Arc<Middleware>>,
) -> Result<(), String> {
    for name in names {
        let Some(&one) = all.get(name.as_str()) else { return Err(format!("there is no middleware `{name}`")) };
        if within.contains(&one.name.as_str()) {
            return Err(format!("the chain `{name}` leads back to itself"));
        }
        match &one.kind {
            MiddlewareKind::Chain(names) => {
                within.push(&one.name);
                expand_into(names, all, within, expanded)?;
                within.pop();
            }
            MiddlewareKind::Unsupported(kind) => {
                return Err(format!("the middleware `{name}` is of the kind `{kind}`, which is not supported yet"));
            }
            _ if expanded.len() == EXPANDED_MAX => return Err(format!("more than {EXPANDED_MAX} middlewares")),
            _ => expanded.push(one),
        }
    }
    Ok(())
}

/// Whether a chain leads back to itself.
pub(super) fn is_circle(chain: &Middleware, all: &HashMap<&str, &Arc<Middleware>>) -> bool {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut next: Vec<&str> = vec![&chain.name];
    while let Some(name) = next.pop() {
        let Some(MiddlewareKind::Chain(names)) = all.get(name).map(|one| &one.kind) else { continue };
        for name in names {
            if *name == chain.name {
                return true;
            }
            if let Some((known, _)) = all.get_key_value(name.as_str()).filter(|(known, _)| seen.insert(known)) {
                next.push(known);
            }
        }
    }
    false
}

/// Middlewares by name.
pub(crate) fn by_name(all: &[Arc<Middleware>]) -> HashMap<&str, &Arc<Middleware>> {
    all.iter().map(|one| (one.name.as_str(), one)).collect()
}

struct Read<'n> {
    place: Cursor<'n>,
    /// Where files are looked for; none for what comes from elsewhere than a file, which may name none.
    base: Option<&'n Path>,
    problems: Vec<Problem>,
}

/// Reads it. What is `known_bad` has its faults from the walk, and gets none for what may be missing by them.
pub(super) fn read(node: &Node, base: Option<&Path>, known_bad: bool) -> Result<MiddlewareKind, Vec<Problem>> {
    let mut read = Read { place: Cursor::new(Some(node), "http.middlewares.<name>"), base, problems: Vec::new() };
    let named: Vec<&Reader> = KINDS.iter().filter(|(name, _)| node.get(name).is_some()).collect();
    let kind = match named.as_slice() {
        [(_, reader)] => reader(&mut read),
        [] => {
            read.problem("", "names no kind, such as `headers` or `stripPrefix`".to_owned());
            None
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            read.problem("", format!("has several kinds ({}); write one middleware for each", names.join(", ")));
            None
        }
    };
    match kind.filter(|_| read.problems.is_empty()) {
        Some(kind) => Ok(kind),
        None if known_bad => Err(Vec::new()),
        None => Err(read.problems),
    }
}

impl Read<'_> {
    fn problem(&mut self, key: &'static str, message: String) {
        let line = self.place.line(key);
        self.problems.push((key, line, message));
    }

    /// A text that must be there.
    fn needed(&mut self, key: &'static str, example: &str) -> Option<String> {
        let given = self.place.node(key).is_some_and(|node| node.value != Value::Null);
        if !given {
            self.problem(key, format!("is missing; write e.g. {example}"));
        }
        self.place.text(key)
    }

    /// A list that must not be empty.
    fn needed_list(&mut self, key: &'static str, example: &str) -> Vec<String> {
        let list = self.place.texts(key);
        if list.is_empty() {
            self.problem(key, format!("is missing or empty; write e.g. {example}"));
        }
        list
    }

    /// The walk has reported those that are none.
    fn header_names(&self, key: &str) -> Vec<http::HeaderName> {
        self.place.texts(key).iter().filter_map(|name| value::header_name(name).ok()).collect()
    }

    fn anything(&self, key: &str) -> String {
        self.place.node(key).and_then(Node::text).unwrap_or_default().trim().to_owned()
    }
}

fn add_prefix(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let prefix = read.needed("addPrefix.prefix", "/api")?;
    Some(MiddlewareKind::AddPrefix(Arc::new(AddPrefix { prefix: value::path(&prefix).ok()? })))
}

fn basic_auth(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let file = read.place.text("basicAuth.usersFile");
    let mut lines: Vec<(&'static str, String)> = Vec::new();
    if let Some(file) = file {
        match read.base.ok_or_else(|| "only a file may name one".to_owned()).and_then(|base| users_of(base, &file)) {
            Ok(text) => {
                let all = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                lines.extend(all.map(|line| ("basicAuth.usersFile", line.to_owned())));
            }
            Err(message) => read.problem("basicAuth.usersFile", message),
        }
    }
    lines.extend(read.place.texts("basicAuth.users").into_iter().map(|line| ("basicAuth.users", line)));
    if lines.is_empty() && read.problems.is_empty() {
        read.problem("basicAuth", "has no users; write e.g. `htpasswd -nB ann` into `users`".to_owned());
    }
    let mut users = Vec::new();
    for (key, line) in lines {
        match User::parse(line.trim()) {
            Ok(user) => users.push(user),
            Err(message) => read.problem(key, message),
        }
    }
    Some(MiddlewareKind::BasicAuth(Arc::new(BasicAuth {
        users,
        realm: read.place.text("basicAuth.realm").unwrap_or_default(),
        remove_header: read.place.boolean("basicAuth.removeHeader"),
        header_field: read.header_names("basicAuth.headerField").into_iter().next(),
    })))
}

/// A file of users; what it holds is not told.
fn users_of(base: &Path, name: &str) -> Result<String, String> {
    let unreadable = |error| format!("cannot be read: {error}; name a file as `htpasswd` writes it");
    let mut text = String::new();
    let file = File::open(base.join(name)).map_err(unreadable)?;
    file.take(USERS_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Ten thousand users.
const USERS_BYTES_MAX: u64 = 1 << 20;

fn chain(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let names = read.needed_list("chain.middlewares", "[auth, limit]");
    Some(MiddlewareKind::Chain(names.iter().map(|name| super::dynamic::local(name).to_owned()).collect()))
}

fn forward_auth(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let address = read.needed("forwardAuth.address", "http://127.0.0.1:4181/verify")?;
    let (server, target) = match value::server_with_target(&address) {
        Ok(parts) => parts,
        Err(message) => {
            read.problem("forwardAuth.address", message);
            return None;
        }
    };
    let signin = read.place.text("forwardAuth.authSigninURL");
    let signin = signin.and_then(|url| {
        let value = HeaderValue::from_str(&url);
        value.map_err(|_| read.problem("forwardAuth.authSigninURL", "is no URL".to_owned())).ok()
    });
    let passed_on = read.header_names("forwardAuth.authResponseHeaders");
    for name in &passed_on {
        if value::is_of_the_connection(name.as_str()) || name == http::header::HOST {
            let message = format!("`{name}` decides how the request goes on and cannot be set; remove it");
            read.problem("forwardAuth.authResponseHeaders", message);
        }
    }
    let place = &read.place;
    let settings = ForwardAuth {
        trust: place.optional_boolean("forwardAuth.trustForwardHeader"),
        asked_with: read.header_names("forwardAuth.authRequestHeaders"),
        passed_on,
        passed_on_pattern: place.parsed("forwardAuth.authResponseHeadersRegex", |text| value::regex(text).ok()),
        cookies: place.texts("forwardAuth.addAuthCookiesToResponse"),
        body_max: place.integer("forwardAuth.maxResponseBodySize"),
        keeps_location: place.boolean("forwardAuth.preserveLocationHeader"),
        signin,
    };
    Some(MiddlewareKind::ForwardAuth(Arc::new(model::ForwardAuth { server, target, settings: Arc::new(settings) })))
}

fn headers(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let edits = |key| {
        let pairs = read.place.map(key).into_iter();
        let pairs = pairs
            .filter_map(|(name, value)| Some((value::header_name(&name).ok()?, value::header_value(&value).ok()?)));
        pairs.collect()
    };
    let custom = HeaderEdits {
        request: edits("headers.customRequestHeaders"),
        response: edits("headers.customResponseHeaders"),
    };
    let (cors, security) = (cors(read), security(read));
    let headers = Headers {
        custom,
        cors: (cors != Cors::default()).then_some(cors),
        security: (security != Security::default()).then_some(security),
    };
    if headers == Headers::default() && read.problems.is_empty() {
        read.problem("headers", "names no header to set or remove".to_owned());
    }
    Some(MiddlewareKind::Headers(Arc::new(headers)))
}

fn cors(read: &Read<'_>) -> Cors {
    let place = &read.place;
    let patterns = place.texts("headers.accessControlAllowOriginListRegex");
    Cors {
        credentials: place.boolean("headers.accessControlAllowCredentials"),
        headers: place.texts("headers.accessControlAllowHeaders"),
        methods: place.texts("headers.accessControlAllowMethods"),
        origins: place.texts("headers.accessControlAllowOriginList"),
        origin_patterns: patterns.iter().filter_map(|text| value::regex(text).ok()).collect(),
        exposed: place.texts("headers.accessControlExposeHeaders"),
        max_age: place.parsed("headers.accessControlMaxAge", |text| text.parse().ok()),
        vary: place.boolean("headers.addVaryHeader"),
    }
}

/// Keys whose value is a header's, and which.
const FIXED: [(&str, &str); 6] = [
    ("headers.customFrameOptionsValue", "x-frame-options"),
    ("headers.customBrowserXSSValue", "x-xss-protection"),
    ("headers.contentSecurityPolicy", "content-security-policy"),
    ("headers.contentSecurityPolicyReportOnly", "content-security-policy-report-only"),
    ("headers.referrerPolicy", "referrer-policy"),
    ("headers.permissionsPolicy", "permissions-policy"),
];
/// Switches that stand for a header and its value, unless a key has set that.
const SWITCHED: [(&str, &str, &str); 3] = [
    ("headers.frameDeny", "x-frame-options", "DENY"),
    ("headers.contentTypeNosniff", "x-content-type-options", "nosniff"),
    ("headers.browserXssFilter", "x-xss-protection", "1; mode=block"),
];

fn security(read: &mut Read<'_>) -> Security {
    let mut fixed: Vec<(http::HeaderName, HeaderValue)> = Vec::new();
    for (key, name) in FIXED {
        let Some(text) = read.place.text(key) else { continue };
        match HeaderValue::from_str(&text) {
            Ok(value) => fixed.push((http::HeaderName::from_static(name), value)),
            Err(_) => read.problem(key, "must not hold line breaks or other control characters".to_owned()),
        }
    }
    for (key, name, value) in SWITCHED {
        if read.place.boolean(key) && fixed.iter().all(|(known, _)| known != name) {
            fixed.push((http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        }
    }
    let mut https_headers = Vec::new();
    for (name, text) in read.place.map("headers.sslProxyHeaders") {
        match (value::header_name(&name), HeaderValue::from_str(&text)) {
            (Ok(name), Ok(value)) => https_headers.push((name, value)),
            _ => read.problem("headers.sslProxyHeaders", format!("`{name}` with its value is no header")),
        }
    }
    let place = &read.place;
    let seconds: i64 = place.integer("headers.stsSeconds");
    let subdomains = if place.boolean("headers.stsIncludeSubdomains") { "; includeSubDomains" } else { "" };
    let preload = if place.boolean("headers.stsPreload") { "; preload" } else { "" };
    let sts = HeaderValue::from_str(&format!("max-age={seconds}{subdomains}{preload}")).ok();
    let host_headers = place.texts("headers.hostsProxyHeaders");
    Security {
        allowed_hosts: place.texts("headers.allowedHosts"),
        host_headers: host_headers.iter().filter_map(|name| value::header_name(name).ok()).collect(),
        https_headers,
        sts: sts.filter(|_| seconds > 0),
        force_sts: place.boolean("headers.forceSTSHeader"),
        fixed,
        is_development: place.boolean("headers.isDevelopment"),
    }
}

fn in_flight_req(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let amount = read.place.integer("inFlightReq.amount");
    let source = read.source("inFlightReq.sourceCriterion", IN_FLIGHT_SOURCE)?.unwrap_or(Source::Host);
    Some(MiddlewareKind::InFlightReq(InFlightReq { amount, source }))
}

fn ip_allow_list(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let networks = read.needed_list("ipAllowList.sourceRange", "[10.0.0.0/8]");
    let status =
        StatusCode::from_u16(read.place.integer("ipAllowList.rejectStatusCode")).unwrap_or(StatusCode::FORBIDDEN);
    Some(MiddlewareKind::IpAllowList(Arc::new(IpAllowList {
        networks: networks.iter().filter_map(|text| value::network(text).ok()).collect(),
        strategy: read.strategy([
            "ipAllowList.ipStrategy.depth",
            "ipAllowList.ipStrategy.excludedIPs",
            "ipAllowList.ipStrategy.ipv6Subnet",
        ]),
        status,
    })))
}

fn rate_limit(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let period = read.place.duration("rateLimit.period");
    // As in Traefik, no period is a second.
    let period = if period.is_zero() { std::time::Duration::from_secs(1) } else { period };
    let (average, burst) = (read.place.integer("rateLimit.average"), read.place.integer("rateLimit.burst"));
    let source = read.source("rateLimit.sourceCriterion", RATE_SOURCE)?;
    let source = source.unwrap_or_else(|| Source::Ip(IpStrategy::default()));
    Some(MiddlewareKind::RateLimit(RateLimit { average, period, burst, source }))
}

/// Keys below a `sourceCriterion`: the strategy and its own, the header, the host.
type SourceKeys = [&'static str; 6];
const IN_FLIGHT_SOURCE: SourceKeys = [
    "inFlightReq.sourceCriterion.ipStrategy",
    "inFlightReq.sourceCriterion.ipStrategy.depth",
    "inFlightReq.sourceCriterion.ipStrategy.excludedIPs",
    "inFlightReq.sourceCriterion.ipStrategy.ipv6Subnet",
    "inFlightReq.sourceCriterion.requestHeaderName",
    "inFlightReq.sourceCriterion.requestHost",
];
const RATE_SOURCE: SourceKeys = [
    "rateLimit.sourceCriterion.ipStrategy",
    "rateLimit.sourceCriterion.ipStrategy.depth",
    "rateLimit.sourceCriterion.ipStrategy.excludedIPs",
    "rateLimit.sourceCriterion.ipStrategy.ipv6Subnet",
    "rateLimit.sourceCriterion.requestHeaderName",
    "rateLimit.sourceCriterion.requestHost",
];

impl Read<'_> {
    /// What requests are counted by; `Some(None)` where nothing is said of it.
    fn source(&mut self, at: &'static str, keys: SourceKeys) -> Option<Option<Source>> {
        let [strategy, depth, excluded, subnet, header, host] = keys;
        let by_ip = self.place.node(strategy).is_some();
        let header = self.place.text(header).map(|name| (value::header_name(&name), header));
        let by_host = self.place.boolean(host);
        match (by_ip, header, by_host) {
            (false, None, false) => Some(None),
            (true, None, false) => Some(Some(Source::Ip(self.strategy([depth, excluded, subnet])))),
            (false, Some((Ok(name), _)), false) => Some(Some(Source::Header(name))),
            (false, None, true) => Some(Some(Source::Host)),
            (_, Some((Err(message), key)), _) => {
                self.problem(key, message);
                None
            }
            _ => {
                let message = "names several of ipStrategy, requestHeaderName and requestHost; keep one".to_owned();
                self.problem(at, message);
                None
            }
        }
    }

    /// As in Traefik, a depth is preferred to excluded addresses.
    fn strategy(&self, [depth, excluded, subnet]: [&'static str; 3]) -> IpStrategy {
        let excluded = self.place.texts(excluded);
        let from = match (self.place.integer(depth), excluded.is_empty()) {
            (0, true) => IpFrom::Peer,
            (0, false) => IpFrom::Excluding(excluded.iter().filter_map(|text| value::network(text).ok()).collect()),
            (depth, _) => IpFrom::Depth(depth),
        };
        IpStrategy { from, ipv6_subnet: self.place.parsed(subnet, |text| text.parse().ok()) }
    }
}

fn redirect_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let pattern = read.needed("redirectRegex.regex", "^http://(.*)")?;
    Some(MiddlewareKind::RedirectRegex(Arc::new(RedirectRegex {
        pattern: value::regex(&pattern).ok()?,
        replacement: read.anything("redirectRegex.replacement"),
        permanent: read.place.boolean("redirectRegex.permanent"),
    })))
}

fn redirect_scheme(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    Some(MiddlewareKind::RedirectScheme(Arc::new(RedirectScheme {
        scheme: read.needed("redirectScheme.scheme", "https")?,
        port: read.place.text("redirectScheme.port").unwrap_or_default(),
        permanent: read.place.boolean("redirectScheme.permanent"),
    })))
}

fn replace_path(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let path = read.needed("replacePath.path", "/api")?;
    Some(MiddlewareKind::ReplacePath(Arc::new(ReplacePath { path: value::path(&path).ok()? })))
}

fn replace_path_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let pattern = read.needed("replacePathRegex.regex", "^/api/(.*)")?;
    let replacement = read.anything("replacePathRegex.replacement");
    let pattern = value::regex(&pattern).ok()?;
    Some(MiddlewareKind::ReplacePathRegex(Arc::new(ReplacePathRegex { pattern, replacement })))
}

fn strip_prefix(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let prefixes = read.needed_list("stripPrefix.prefixes", "[/api]");
    let prefixes = prefixes.into_iter().map(|prefix| prefix.trim().to_owned()).collect();
    Some(MiddlewareKind::StripPrefix(Arc::new(StripPrefix { prefixes })))
}

fn strip_prefix_regex(read: &mut Read<'_>) -> Option<MiddlewareKind> {
    let patterns = read.needed_list("stripPrefixRegex.regex", "[/v[0-9]+]");
    let patterns = patterns.iter().map(|text| value::regex(text).ok()).collect::<Option<_>>()?;
    Some(MiddlewareKind::StripPrefixRegex(Arc::new(StripPrefixRegex { patterns })))
}
