//! What a proxy must take out of a message's headers and what it adds: hop-by-hop fields (RFC 9110 7.6.1), and
//! X-Forwarded-* and X-Real-Ip as Traefik v3 sets them. Pure, and nothing is formatted on a request's way: what is
//! known of a connection is made into header values once. Trace context, Host and the body's framing are left to
//! others; Via is not added, as Traefik does not.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

/// Whose X-Forwarded-* are believed, per entry point.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// These networks.
    pub networks: &'a [IpNet],
    /// Everyone (Traefik's `forwardedHeaders.insecure`).
    pub all: bool,
}

impl Trust<'_> {
    /// Whether what this address says of others is believed.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.all || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// What a client connection adds to each of its requests; made once per connection.
#[derive(Clone, Debug)]
pub struct PeerHeaders {
    ip: HeaderValue,
    local_port: HeaderValue,
    server: Option<HeaderValue>,
    trusted: bool,
    https: bool,
}

/// What [`receive_request`] found out, for [`prepare_request`].
#[derive(Clone, Debug)]
pub struct Received {
    seen: Seen,
    /// `Connection` names an `Upgrade` that is there.
    upgrades: bool,
    /// The protocol asked for, where it may be passed on.
    upgrade: Option<HeaderValue>,
    wants_trailers: bool,
}

/// What [`prepare_request`] found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The protocol that the request asks for and that is passed on, as the upstream gets it.
    pub upgrade: Option<HeaderValue>,
}

impl PeerHeaders {
    /// For a connection from `peer` that reached us on `local_port`. `server` is this host's name, for
    /// X-Forwarded-Server; a connection over TLS is `https`.
    #[must_use]
    pub fn new(peer: IpAddr, local_port: u16, trust: Trust<'_>, https: bool, server: Option<HeaderValue>) -> Self {
        let peer = peer.to_canonical();
        Self {
            ip: shared(peer.to_string().into_bytes()),
            local_port: shared(local_port.to_string().into_bytes()),
            server,
            trusted: trust.covers(peer),
            https,
        }
    }

    /// Whether the peer's own X-Forwarded-* are believed.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether the connection speaks TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }
}

/// A value of digits, dots and colons whose clones share its bytes.
fn shared(text: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("addresses and numbers are header values")
}

static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that only a proxy may set (Traefik's set): an untrusted peer's are removed, and `Connection` cannot name them.
const MANAGED: [&str; 13] = [
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-prefix",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-scheme",
    "x-real-ip",
];
/// Those of them that are set on every request before rules see it, so that setting replaces an untrusted peer's.
const ALWAYS_SET: [&str; 3] = ["x-forwarded-proto", "x-forwarded-port", "x-real-ip"];

const WEBSOCKET: &str = "websocket";
/// Protocols of an `Upgrade` that carry HTTP again, in the clear or in TLS (RFC 2817): requests would reach the upstream
/// past the routes.
const CARRY_REQUESTS: [&str; 5] = ["h2c", "h2", "h3", "http", "tls"];

/// Headers that are for every recipient and that `Connection` therefore cannot name: to let a client strip them would
/// let it change what routing, framing, tracing or the next proxy rely on.
const END_TO_END: [&str; 5] = ["host", "content-length", "traceparent", "tracestate", "forwarded"];

/// Makes a client's headers into those that rules see, as Traefik's entry points do: what only a proxy may set is what
/// this one sets, and what `Connection` names is gone; what else is for one hop only is still there. `Host` must hold
/// what the request is for: the caller puts an absolute target's authority there before (RFC 9112 3.2.2).
pub fn receive_request(headers: &mut HeaderMap, peer: &PeerHeaders) -> Received {
    let seen = Seen::read(headers);
    let upgrades = seen.upgrade && seen.connection && lists(headers, &header::CONNECTION, "upgrade");
    let upgrade = if upgrades { asked_upgrade(headers) } else { None };
    let websocket = upgrade.as_ref().is_some_and(|protocol| protocol == WEBSOCKET);
    let wants_trailers = seen.te && lists(headers, &header::TE, "trailers");
    if seen.managed && !peer.trusted {
        remove_managed(headers);
    }
    if seen.forwarded && !peer.trusted {
        headers.remove(header::FORWARDED);
    }
    if seen.connection {
        remove_connection(headers);
    }
    if upgrades {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    // Go takes it out of the fields, too.
    if seen.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    headers.reserve(8);
    forward(headers, peer, websocket);
    Received { seen, upgrades, upgrade, wants_trailers }
}

/// Makes received headers into those for an upstream.
pub fn prepare_request(headers: &mut HeaderMap, peer: &PeerHeaders, received: Received) -> Prepared {
    let Received { seen, upgrades, upgrade, wants_trailers } = received;
    if upgrades {
        headers.remove(header::CONNECTION);
    }
    remove_hop_by_hop(headers, seen);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &upgrade {
        set_upgrade(headers, protocol.clone());
    }
    let chain = if peer.trusted { appended(headers, &peer.ip) } else { peer.ip.clone() };
    headers.insert(&X_FORWARDED_FOR, chain);
    Prepared { upgrade }
}

/// Takes back an upgrade that [`prepare_request`] passed on.
pub fn remove_upgrade(headers: &mut HeaderMap) {
    headers.remove(header::UPGRADE);
    headers.remove(header::CONNECTION);
}

/// Whether an answer of 101 switches to the protocol that was asked for. Anything else is a server that went astray: the
/// client would speak one protocol and the server another.
#[must_use]
pub fn switches_to(answer: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut values = answer.get_all(header::UPGRADE).iter();
    let same = values.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(asked.as_bytes()));
    same && values.next().is_none()
}

/// Makes an upstream's headers into those for a client. `switching`: the status is 101, whose `Upgrade` goes on.
pub fn prepare_response(headers: &mut HeaderMap, switching: bool) {
    let seen = Seen::read(headers);
    let upgrade = if switching && seen.upgrade { headers.get(header::UPGRADE).cloned() } else { None };
    if seen.connection {
        remove_connection(headers);
    }
    if seen.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    remove_hop_by_hop(headers, seen);
    if let Some(upgrade) = upgrade {
        set_upgrade(headers, upgrade);
    }
}

/// The client as far as those who are trusted say: X-Forwarded-For is read from its end while the hops are trusted, so
/// that what an outsider put in front is not believed. Call it before [`prepare_request`].
#[must_use]
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trust: Trust<'_>) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trust.covers(client) {
        return client;
    }
    let values = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    for hop in values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = read_address(hop) else { break };
        client = address;
        if !trust.covers(client) {
            break;
        }
    }
    client
}

/// An address as proxies write it into X-Forwarded-For: bare, or with brackets, a port or a zone.
pub(crate) fn read_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next()?,
        None => text,
    };
    let bare = bare.split('%').next()?;
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

/// Which of the headers that concern us are there: one walk over the names costs less than a look-up for each.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    connection: bool,
    upgrade: bool,
    te: bool,
    transfer_encoding: bool,
    keep_alive: bool,
    proxy: bool,
    http2_settings: bool,
    forwarded: bool,
    /// A managed header that setting ours does not replace in time, or an underscore variant.
    managed: bool,
}

impl Seen {
    fn read(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            match name.as_bytes() {
                [b'c', b'o', b'n', b'n', ..] => seen.connection |= name == "connection",
                [b'u', b'p', ..] => seen.upgrade |= name == "upgrade",
                [b't', b'e'] => seen.te = true,
                [b't', b'r', ..] => seen.transfer_encoding |= name == "transfer-encoding",
                [b'k', ..] => seen.keep_alive |= name == "keep-alive",
                [b'p', b'r', ..] => {
                    seen.proxy |= matches!(name, "proxy-connection" | "proxy-authenticate" | "proxy-authorization");
                }
                [b'h', b't', ..] => seen.http2_settings |= name == "http2-settings",
                [b'f', ..] => seen.forwarded |= name == "forwarded",
                [b'x', ..] => seen.managed |= is_managed(name) && !ALWAYS_SET.contains(&name),
                _ => {}
            }
        }
        seen
    }
}

/// Whether only a proxy may set this header, also when spelt with underscores: CGI-like backends read both alike.
pub(crate) fn is_managed(name: &str) -> bool {
    let same = |(byte, managed): (u8, u8)| byte == managed || (byte == b'_' && managed == b'-');
    let is = |managed: &&str| name.len() == managed.len() && name.bytes().zip(managed.bytes()).all(same);
    matches!(name.as_bytes(), [b'x', b'-' | b'_', ..]) && MANAGED.iter().any(is)
}

/// Removes an untrusted peer's managed headers; rare enough to collect their names.
#[cold]
fn remove_managed(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_managed(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Those beside `Connection` and `Transfer-Encoding`.
fn remove_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.keep_alive {
        headers.remove(&KEEP_ALIVE);
    }
    if seen.te {
        headers.remove(header::TE);
    }
    if seen.upgrade {
        headers.remove(header::UPGRADE);
    }
    if seen.http2_settings {
        headers.remove(&HTTP2_SETTINGS);
    }
    if seen.proxy {
        headers.remove(&PROXY_CONNECTION);
        headers.remove(header::PROXY_AUTHENTICATE);
        headers.remove(header::PROXY_AUTHORIZATION);
    }
}

/// Removes `Connection` and the headers that it names, but none that is for every recipient; `Upgrade` is the caller's.
fn remove_connection(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    headers.remove(header::CONNECTION);
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONNECTION).iter();
    // Nearly always there is one value and it is one of these.
    if let (Some(value), None) = (values.next(), values.next())
        && ["keep-alive", "close", "upgrade"]
            .iter()
            .any(|usual| value.as_bytes().eq_ignore_ascii_case(usual.as_bytes()))
    {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| !is_managed(name.as_str()) && !END_TO_END.contains(&name.as_str()) && name != header::UPGRADE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether a header's lists hold this token.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        // TE's members may carry a weight.
        .filter_map(|member| member.split(|byte| *byte == b';').next())
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The protocol of an `Upgrade` that may be passed on: one, and none in which requests would pass
/// that nobody has judged. From a list the upstream could choose such a one; without an upgrade it answers as usual.
fn asked_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let protocol = value.as_bytes();
    if protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
        return Some(HeaderValue::from_static(WEBSOCKET));
    }
    let mut parts = protocol.splitn(2, |byte| *byte == b'/');
    let name = parts.next().filter(|name| is_token(name))?;
    let carries_requests = CARRY_REQUESTS.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    (!carries_requests && parts.next().is_none_or(is_token)).then(|| value.clone())
}

/// A token (RFC 9110, 5.6.2), and so no list.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
}

/// Sets X-Forwarded-* and X-Real-Ip, but a trusted peer's own are kept. X-Forwarded-For, which the peer is appended to,
/// is left for later, as in Traefik: rules see only what came.
fn forward(headers: &mut HeaderMap, peer: &PeerHeaders, websocket: bool) {
    let proto = HeaderValue::from_static(match (peer.https, websocket) {
        (false, false) => "http",
        (true, false) => "https",
        (false, true) => "ws",
        (true, true) => "wss",
    });
    let host = headers.get(header::HOST).cloned();
    if peer.trusted {
        if lacks(headers, &X_FORWARDED_PROTO) {
            headers.insert(&X_FORWARDED_PROTO, proto);
        }
        if lacks(headers, &X_FORWARDED_PORT) {
            let said = headers.get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
            let secure = peer.https || matches!(said, Some(b"https" | b"wss"));
            let port = forwarded_port(host.as_ref(), peer, secure);
            headers.insert(&X_FORWARDED_PORT, port);
        }
        if let Some(host) = host
            && lacks(headers, &X_FORWARDED_HOST)
        {
            headers.insert(&X_FORWARDED_HOST, host);
        }
        if lacks(headers, &X_REAL_IP) {
            headers.insert(&X_REAL_IP, peer.ip.clone());
        }
    } else {
        headers.insert(&X_FORWARDED_PROTO, proto);
        headers.insert(&X_FORWARDED_PORT, forwarded_port(host.as_ref(), peer, peer.https));
        if let Some(host) = host {
            headers.insert(&X_FORWARDED_HOST, host);
        }
        headers.insert(&X_REAL_IP, peer.ip.clone());
    }
    if let Some(server) = &peer.server {
        headers.insert(&X_FORWARDED_SERVER, server.clone());
    }
}

/// Whether a header is missing or empty, as Traefik takes both alike.
fn lacks(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_none_or(HeaderValue::is_empty)
}

/// The port the client used: `Host`'s, else the scheme's.
fn forwarded_port(host: Option<&HeaderValue>, peer: &PeerHeaders, secure: bool) -> HeaderValue {
    let port = host.and_then(|host| port_of(host.as_bytes()));
    match port {
        // On most connections it is the port that the client reached, whose value is at hand.
        Some(port) if port == peer.local_port.as_bytes() => peer.local_port.clone(),
        Some(port) => shared(port.to_vec()),
        None => HeaderValue::from_static(if secure { "443" } else { "80" }),
    }
}

/// The digits behind a host's last colon, which must not be one of an address in brackets.
fn port_of(host: &[u8]) -> Option<&[u8]> {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (name, port) = host.split_at_checked(host.len() - digits)?;
    let name = name.strip_suffix(b":")?;
    let plain = !name.contains(&b':') || name.ends_with(b"]");
    (plain && (1..=5).contains(&port.len())).then_some(port)
}

/// The chain that came, with the peer behind it.
fn appended(headers: &HeaderMap, ip: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR).iter().filter(|value| !value.is_empty()) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    if chain.is_empty() {
        return ip.clone();
    }
    chain.extend_from_slice(ip.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain)).unwrap_or_else(|_| ip.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn map(pairs: Pairs<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        all.sort();
        all
    }

    fn peer(ip: &str, trust: Trust<'_>, https: bool) -> PeerHeaders {
        PeerHeaders::new(ip.parse().unwrap(), 8000, trust, https, Some(HeaderValue::from_static("node-1")))
    }

    const NOBODY: Trust<'static> = Trust { networks: &[], all: false };
    const EVERYONE: Trust<'static> = Trust { networks: &[], all: true };

    /// All that is done to a request's headers.
    fn prepare_request(headers: &mut HeaderMap, peer: &PeerHeaders) -> Prepared {
        let received = receive_request(headers, peer);
        super::prepare_request(headers, peer, received)
    }

    /// Sends headers through `prepare_request` and looks at what is left without the usual additions of a plain
    /// connection from 192.0.2.7.
    fn check(came: Pairs<'_>, trust: Trust<'_>, expected: Pairs<'_>) {
        let mut headers = map(came);
        prepare_request(&mut headers, &peer("192.0.2.7", trust, false));
        assert_eq!(sorted(&headers), sorted(&map(expected)), "{came:?} with {trust:?}");
    }

    /// What an untrusted peer's request without Host always gets.
    const USUAL: [(&str, &str); 5] = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-port", "80"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-server", "node-1"),
        ("x-real-ip", "192.0.2.7"),
    ];

    fn check_untrusted(came: Pairs<'_>, kept: Pairs<'_>) {
        check(came, NOBODY, &[&USUAL, kept].concat());
    }

    #[test]
    fn a_plain_request_gets_the_headers_that_traefik_sets() {
        check_untrusted(&[("accept", "*/*")], &[("accept", "*/*")]);
        for (host, https, port, proto) in [
            ("hotrod.localhost:8000", false, "8000", "http"),
            ("hotrod.localhost:8080", false, "8080", "http"),
            ("hotrod.localhost:8443", true, "8443", "https"),
            ("hotrod.localhost", false, "80", "http"),
            ("hotrod.localhost", true, "443", "https"),
            ("hotrod.localhost:", false, "80", "http"),
            ("hotrod.localhost:123456", false, "80", "http"),
            ("[2001:db8::1]:8000", false, "8000", "http"),
            ("[2001:db8::1]", false, "80", "http"),
            ("2001:db8::1", false, "80", "http"),
            ("8000", false, "80", "http"),
        ] {
            let mut headers = map(&[("host", host)]);
            let prepared = prepare_request(&mut headers, &peer("192.0.2.7", NOBODY, https));
            let expected = [
                ("host", host),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-host", host),
                ("x-forwarded-port", port),
                ("x-forwarded-proto", proto),
                ("x-forwarded-server", "node-1"),
                ("x-real-ip", "192.0.2.7"),
            ];
            assert_eq!(sorted(&headers), sorted(&map(&expected)));
            assert!(prepared.upgrade.is_none());
        }
    }

    #[test]
    fn rules_see_what_came_but_neither_claims_nor_what_connection_names() {
        let kept: Pairs<'_> = &[
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("upgrade", "websocket"),
            ("x-mine", "1"),
        ];
        let gone: Pairs<'_> = &[
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "evil"),
            ("x-forwarded-proto", "evil"),
            ("x-forwarded-prefix", "evil"),
            ("x-named", "1"),
        ];
        let ours: Pairs<'_> = &[
            ("x-forwarded-port", "80"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-server", "node-1"),
            ("x-real-ip", "192.0.2.7"),
        ];
        for (connection, seen) in [
            ("X-Named, Upgrade", &[("connection", "Upgrade")][..]),
            ("x-named,upgrade,close", &[("connection", "Upgrade")]),
            ("X-Named", &[]),
        ] {
            let mut headers = map(&[kept, gone, &[("connection", connection)]].concat());
            receive_request(&mut headers, &peer("192.0.2.7", NOBODY, false));
            assert_eq!(sorted(&headers), sorted(&map(&[kept, ours, seen].concat())), "{connection}");
        }
        // The peer itself is appended only behind the rules: one that came without a chain is told by its absence.
        let chain: Pairs<'_> = &[("x-forwarded-for", "10.0.0.4"), ("x-forwarded-for", "10.0.0.3")];
        for came in [chain, &[]] {
            let mut headers = map(came);
            receive_request(&mut headers, &peer("192.0.2.7", EVERYONE, false));
            assert_eq!(sorted(&headers), sorted(&map(&[came, ours].concat())));
        }
    }

    #[test]
    fn a_mapped_peer_is_written_as_v4() {
        let mut headers = HeaderMap::new();
        prepare_request(&mut headers, &peer("::ffff:192.0.2.7", NOBODY, false));
        assert_eq!(headers.get("x-real-ip").unwrap(), "192.0.2.7");
    }

    #[test]
    fn an_untrusted_peers_forwarding_headers_are_overwritten_or_removed() {
        for managed in MANAGED {
            let underscored = managed.replace('-', "_");
            let mixed = managed.replacen('-', "_", 1);
            for name in [managed, &underscored, &mixed] {
                check_untrusted(&[(name, "evil")], &[]);
                check_untrusted(&[(name, "evil"), (name, "twice")], &[]);
                check_untrusted(&[(name, "evil"), ("connection", name)], &[]);
            }
        }
        check_untrusted(&[("forwarded", "for=10.0.0.1;proto=https"), ("forwarded", "for=x")], &[]);
        check_untrusted(&[("forwarded", "for=10.0.0.1"), ("connection", "forwarded")], &[]);
        // Names that only look alike are the application's.
        let alike = [("x-forwarded-form", "1"), ("x-forwarded", "2"), ("xforwarded-for", "3"), ("x_request_id", "4")];
        check_untrusted(&alike, &alike);
    }

    #[test]
    fn without_a_name_of_our_own_an_untrusted_server_name_is_still_removed() {
        let nameless = PeerHeaders::new("192.0.2.7".parse().unwrap(), 80, NOBODY, false, None);
        let mut headers = map(&[("x-forwarded-server", "evil"), ("x-forwarded-host", "evil")]);
        prepare_request(&mut headers, &nameless);
        assert!(!headers.contains_key("x-forwarded-server") && !headers.contains_key("x-forwarded-host"));
    }

    #[test]
    fn a_trusted_peers_forwarding_headers_are_kept_and_the_peer_is_appended() {
        let networks = ["192.0.2.0/24".parse().unwrap()];
        for trust in [EVERYONE, Trust { networks: &networks, all: false }] {
            let came = [
                ("forwarded", "for=10.0.1.0"),
                ("host", "inner:8000"),
                ("x-forwarded-for", "10.0.1.0, 10.0.1.12"),
                ("x-forwarded-host", "outer"),
                ("x-forwarded-method", "GET"),
                ("x-forwarded-port", "444"),
                ("x-forwarded-prefix", "/prefix"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-tls-client-cert", "Cert"),
                ("x-forwarded-uri", "/bar"),
                ("x-real-ip", "10.0.1.0"),
                ("x_forwarded_for", "10.0.0.1"),
            ];
            let mut expected = came.to_vec();
            expected.retain(|(name, _)| *name != "x-forwarded-for");
            expected.push(("x-forwarded-for", "10.0.1.0, 10.0.1.12, 192.0.2.7"));
            expected.push(("x-forwarded-server", "node-1"));
            check(&came, trust, &expected);
        }
    }

    #[test]
    fn a_trusted_peers_chain_is_joined_and_its_gaps_are_filled() {
        let with = |mut more: Vec<(&'static str, &'static str)>| {
            for usual in USUAL {
                if !more.iter().any(|(name, _)| *name == usual.0) {
                    more.push(usual);
                }
            }
            more
        };
        check(&[], EVERYONE, &USUAL);
        check(&[("x-forwarded-for", ""), ("x-real-ip", "")], EVERYONE, &USUAL);
        check(
            &[
                ("x-forwarded-for", "10.0.0.4, 10.0.0.3"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-for", "10.0.0.0"),
            ],
            EVERYONE,
            &with(vec![("x-forwarded-for", "10.0.0.4, 10.0.0.3, 10.0.0.2, 10.0.0.0, 192.0.2.7")]),
        );
        // The scheme that a trusted hop reports gives the port.
        for proto in ["https", "wss"] {
            check(
                &[("x-forwarded-proto", proto)],
                EVERYONE,
                &with(vec![("x-forwarded-proto", proto), ("x-forwarded-port", "443")]),
            );
        }
    }

    #[test]
    fn connection_cannot_strip_what_is_for_every_recipient() {
        let protected = [
            ("content-length", "3"),
            ("host", "a"),
            ("traceparent", "t"),
            ("tracestate", "s"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-method", "GET"),
            ("x-real-ip", "10.0.0.1"),
        ];
        let names =
            protected.map(|(name, _)| name).join(", ") + ", X-Forwarded-For, X_Forwarded_Proto,X-FORWARDED-PORT";
        let came = [&protected[..], &[("connection", names.as_str())]].concat();
        let mut headers = map(&came);
        prepare_request(&mut headers, &peer("192.0.2.7", EVERYONE, false));
        for (name, value) in protected {
            assert_eq!(headers.get(name).unwrap(), value, "{name}");
        }
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port"] {
            assert!(headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key("connection"));
    }

    #[test]
    fn hop_by_hop_headers_end_here_in_both_directions() {
        let cases: [(Pairs<'_>, Pairs<'_>); 14] = [
            (&[("connection", "keep-alive")], &[]),
            (&[("connection", "Close")], &[]),
            (&[("connection", "close"), ("connection", "x-a"), ("x-a", "1"), ("x-b", "2")], &[("x-b", "2")]),
            (&[("connection", "x-a, x-b,, \t,x-a"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")], &[("x-c", "3")]),
            (&[("connection", "X-A"), ("x-a", "1"), ("x-a", "2")], &[]),
            (&[("connection", "not a name; \", x-a"), ("x-a", "1")], &[]),
            (&[("connection", "keep-alive, transfer-encoding"), ("transfer-encoding", "chunked")], &[]),
            (&[("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive")], &[]),
            (&[("transfer-encoding", "chunked"), ("content-type", "a/b")], &[("content-type", "a/b")]),
            (
                &[("proxy-authenticate", "Basic"), ("proxy-authorization", "Basic x"), ("pragma", "no")],
                &[("pragma", "no")],
            ),
            (&[("te", "gzip")], &[]),
            (&[("upgrade", "h2c"), ("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "AA")], &[]),
            (&[("http2-settings", "AA"), ("trailer", "x-sum")], &[("trailer", "x-sum")]),
            (&[("connection", ""), ("x-a", "1")], &[("x-a", "1")]),
        ];
        for (came, kept) in cases {
            check_untrusted(came, kept);
            let mut headers = map(came);
            prepare_response(&mut headers, false);
            assert_eq!(sorted(&headers), sorted(&map(kept)), "{came:?}");
        }
    }

    #[test]
    fn te_keeps_trailers_and_nothing_else() {
        for (te, kept) in [
            ("trailers", true),
            ("Trailers", true),
            ("gzip;q=0.5, trailers", true),
            ("trailers;q=1", true),
            ("deflate", false),
        ] {
            let expected: Pairs<'_> = if kept { &[("te", "trailers")] } else { &[] };
            check_untrusted(&[("te", te)], expected);
            check_untrusted(&[("te", te), ("connection", "TE")], expected);
        }
        let mut headers = map(&[("te", "trailers")]);
        prepare_response(&mut headers, false);
        assert!(headers.is_empty());
    }

    #[test]
    fn one_upgrade_is_passed_on_if_it_carries_no_requests() {
        for (upgrade, connection, passed) in [
            (&["websocket"][..], &["Upgrade"][..], Some("websocket")),
            (&["WebSocket"], &["keep-alive, Upgrade"], Some("websocket")),
            (&["websocket"], &["keep-alive", "upgrade"], Some("websocket")),
            (&["tcp"], &["Upgrade"], Some("tcp")),
            (&["SPDY/3.1"], &["Upgrade"], Some("SPDY/3.1")),
            (&["websocket/13"], &["Upgrade"], Some("websocket/13")),
            (&["websocket"], &["keep-alive"], None),
            (&["websocket"], &["upgrade-insecure"], None),
            (&["websocket"], &[], None),
            (&["h2c"], &["Upgrade"], None),
            (&["H2C"], &["Upgrade, HTTP2-Settings"], None),
            (&["h2c/1"], &["Upgrade"], None),
            (&["HTTP/2.0"], &["Upgrade"], None),
            (&["TLS/1.0"], &["Upgrade"], None),
            (&["h2c, websocket"], &["Upgrade"], None),
            (&["websocket,h2c"], &["Upgrade"], None),
            (&["websocket", "h2c"], &["Upgrade"], None),
            (&["websocket", "websocket"], &["Upgrade"], None),
            (&["web socket"], &["Upgrade"], None),
            (&["\u{e4}"], &["Upgrade"], None),
            (&["a/b/c"], &["Upgrade"], None),
            (&["/13"], &["Upgrade"], None),
            (&["x/"], &["Upgrade"], None),
            (&[""], &["Upgrade"], None),
            (&[], &["Upgrade"], None),
        ] {
            let websocket = passed == Some("websocket");
            for (https, proto) in
                [(false, if websocket { "ws" } else { "http" }), (true, if websocket { "wss" } else { "https" })]
            {
                let mut headers = HeaderMap::new();
                for value in upgrade {
                    headers.append("upgrade", value.parse().unwrap());
                }
                for value in connection {
                    headers.append("connection", value.parse().unwrap());
                }
                let prepared = prepare_request(&mut headers, &peer("192.0.2.7", NOBODY, https));
                assert_eq!(prepared.upgrade, passed.map(HeaderValue::from_static), "{upgrade:?} {connection:?}");
                assert_eq!(headers.get("upgrade"), prepared.upgrade.as_ref());
                assert_eq!(headers.get("connection").map(HeaderValue::as_bytes), passed.map(|_| b"Upgrade".as_slice()));
                assert_eq!(headers.get("x-forwarded-proto").unwrap(), proto);
                remove_upgrade(&mut headers);
                assert!(!headers.contains_key("upgrade") && !headers.contains_key("connection"));
            }
        }
    }

    #[test]
    fn a_switching_response_keeps_its_upgrade() {
        let came: Pairs<'_> =
            &[("upgrade", "websocket"), ("connection", "Upgrade, x-a"), ("x-a", "1"), ("sec-websocket-accept", "k")];
        for (switching, kept) in [
            (true, &[("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", "k")][..]),
            (false, &[("sec-websocket-accept", "k")]),
        ] {
            let mut headers = map(came);
            prepare_response(&mut headers, switching);
            assert_eq!(sorted(&headers), sorted(&map(kept)));
        }
    }

    #[test]
    fn only_the_protocol_that_was_asked_for_is_switched_to() {
        for (asked, answer, switches) in [
            ("websocket", &["WebSocket"][..], true),
            ("SPDY/3.1", &["spdy/3.1"], true),
            ("websocket", &["h2c"], false),
            ("websocket", &["websocket, h2c"], false),
            ("websocket", &["websocket", "h2c"], false),
            ("websocket", &[], false),
        ] {
            let pairs: Vec<_> = answer.iter().map(|value| ("upgrade", *value)).collect();
            assert_eq!(switches_to(&map(&pairs), &HeaderValue::from_static(asked)), switches, "{answer:?}");
        }
    }

    #[test]
    fn a_response_keeps_its_own_headers() {
        let own: Pairs<'_> = &[
            ("content-length", "3"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-forwarded-for", "the application's"),
            ("x_real_ip", "too"),
        ];
        let mut headers =
            map(&[own, &[("connection", "content-length, keep-alive"), ("keep-alive", "timeout=5")]].concat());
        prepare_response(&mut headers, false);
        assert_eq!(sorted(&headers), sorted(&map(own)));
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        let networks: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].iter().map(|net| net.parse().unwrap()).collect();
        let some = Trust { networks: &networks, all: false };
        for (chain, peer, trust, client) in [
            (&["203.0.113.9"][..], "192.0.2.7", some, "192.0.2.7"),
            (&["203.0.113.9"], "192.0.2.7", NOBODY, "192.0.2.7"),
            (&[], "10.0.0.1", some, "10.0.0.1"),
            (&["203.0.113.9"], "10.0.0.1", some, "203.0.113.9"),
            (&["203.0.113.9"], "::ffff:10.0.0.1", some, "203.0.113.9"),
            // What an outsider put in front is not believed.
            (&["127.0.0.1, 203.0.113.9, 10.0.0.2"], "10.0.0.1", some, "203.0.113.9"),
            (&["127.0.0.1", "203.0.113.9", "10.0.0.2"], "10.0.0.1", some, "203.0.113.9"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.1", some, "10.0.0.3"),
            (&["203.0.113.9, 203.0.113.10"], "10.0.0.1", EVERYONE, "203.0.113.9"),
            (&["203.0.113.9, nonsense, 10.0.0.2"], "10.0.0.1", some, "10.0.0.2"),
            (&["nonsense"], "10.0.0.1", some, "10.0.0.1"),
            (&[""], "10.0.0.1", some, "10.0.0.1"),
            (&["203.0.113.9:4711"], "10.0.0.1", some, "203.0.113.9"),
            (&["[2001:db8::9]:4711"], "10.0.0.1", some, "2001:db8::9"),
            (&["[2001:db8::9]"], "10.0.0.1", some, "2001:db8::9"),
            (&["2001:db8::9"], "fd00::1", some, "2001:db8::9"),
            (&["fe80::1%eth0"], "fd00::1", some, "fe80::1"),
            (&["::ffff:203.0.113.9"], "10.0.0.1", some, "203.0.113.9"),
        ] {
            let pairs: Vec<_> = chain.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let found = client_address(&map(&pairs), peer.parse().unwrap(), trust);
            assert_eq!(found.to_string(), client, "{chain:?} by {peer}");
        }
    }

    #[test]
    fn a_connections_values_are_shared_by_its_requests() {
        let peer = peer("192.0.2.7", NOBODY, false);
        let values = |_| {
            let mut headers = map(&[("host", "a:8000")]);
            prepare_request(&mut headers, &peer);
            ["x-real-ip", "x-forwarded-for", "x-forwarded-port"]
                .map(|name| headers.get(name).unwrap().as_bytes().as_ptr())
        };
        assert_eq!(values(1), values(2));
    }
}
