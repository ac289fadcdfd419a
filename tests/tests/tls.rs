//! TLS at an entry point, as a client sees it: whose certificate is shown, what is refused, and what a reload changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use wayspan_tests::http;
use wayspan_tests::tls::{Authority, Certificate, Client, settings};
use wayspan_tests::{Agent, PATIENCE, Reply, Upstream, eventually};

/// A configuration with routers of these lines, and this `tls` section.
fn config(upstream: &Upstream, routers: &str, tls: &str) -> String {
    let server = upstream.address();
    format!(
        "entryPoints:
  web: {{address: \"127.0.0.1:0\", transport: {{respondingTimeouts: {{headTimeout: 1s}}}}}}
http:
  routers:
{routers}
  services:
    up: {{loadBalancer: {{servers: [{{url: \"http://{server}\"}}]}}}}
tls:
{tls}
api: {{address: \"127.0.0.1:0\"}}
metrics: {{prometheus: {{}}}}
"
    )
}

const ANY: &str = "    all: {rule: \"PathPrefix(`/`)\", service: up, tls: {}}";

fn write(directory: &Path, name: &str, certificate: &Certificate) {
    fs::write(directory.join(format!("{name}.key")), &certificate.key).unwrap();
    fs::write(directory.join(format!("{name}.crt")), &certificate.pem).unwrap();
}

/// A running agent, its entry point and its api.
struct Node {
    agent: Agent,
    web: SocketAddr,
    api: SocketAddr,
}

/// Starts with certificates in files of these names, beside the configuration.
fn start(config: &str, certificates: &[(&str, &Certificate)]) -> (Node, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    for (name, certificate) in certificates {
        write(files.path(), name, certificate);
    }
    let config = config.replace("FILES", files.path().to_str().unwrap());
    let mut agent = Agent::start(&config).unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    (Node { agent, web, api }, files)
}

impl Node {
    fn faults(&self) -> Vec<String> {
        let status = http::get(self.api, "localhost", "/api/status").unwrap().json().unwrap();
        status["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap().to_owned()).collect()
    }

    fn metric(&self, line: &str) -> Option<f64> {
        let page = http::get(self.api, "localhost", "/metrics").unwrap().text();
        page.lines().find_map(|one| one.strip_prefix(line)?.trim().parse().ok())
    }
}

fn shown(web: SocketAddr, name: &str) -> Vec<u8> {
    Client::open(web, name, &settings(None, false).unwrap()).unwrap().peer()
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let [exact, wide, default] =
        [&["x.a.test", "b.test"][..], &["*.a.test"], &["d.test"]].map(|names| Certificate::of(names).unwrap());
    let tls = "  certificates:
    - {certFile: FILES/wide.crt, keyFile: FILES/wide.key}
    - {certFile: FILES/exact.crt, keyFile: FILES/exact.key, stores: [default]}
  stores: {default: {defaultCertificate: {certFile: FILES/default.crt, keyFile: FILES/default.key}}}";
    let all = [("exact", &exact), ("wide", &wide), ("default", &default)];
    let (node, _files) = start(&config(&upstream, ANY, tls), &all);
    for (name, wanted) in [
        ("x.a.test", &exact),
        ("b.test", &exact),
        ("y.a.test", &wide),
        ("z.y.a.test", &default),
        ("a.test", &default),
        ("127.0.0.1", &default),
    ] {
        assert_eq!(shown(node.web, name), wanted.der().unwrap(), "{name}");
    }
    // With TLS 1.2 the client's kinds of keys matter as well.
    let mut old = Client::open(node.web, "Y.A.test", &settings(None, true).unwrap()).unwrap();
    assert_eq!(old.peer(), wide.der().unwrap());
    assert_eq!(old.get("y.a.test", "/").unwrap().text(), "hi");
    let seen = upstream.requests();
    let request = seen.last().unwrap();
    for (name, value) in [("x-forwarded-proto", "https"), ("x-forwarded-port", "443"), ("x-forwarded-host", "y.a.test")]
    {
        assert_eq!(request.header(name), Some(value));
    }
    assert_eq!(node.metric("wayspan_tls_handshakes_total"), Some(7.0));
}

#[test]
fn without_a_certificate_there_is_one_that_we_sign_and_one_address_takes_both() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let routers = "    a: {rule: \"Host(`a.test`)\", service: up, tls: true}
    b: {rule: \"Host(`b.test`)\", service: up}";
    let (node, _files) = start(&config(&upstream, routers, "  options: {}"), &[]);
    let settings = settings(None, false).unwrap();
    for (host, over_tls, plain) in [("a.test", 200, 404), ("b.test", 404, 200)] {
        let mut client = Client::open(node.web, host, &settings).unwrap();
        assert_eq!(client.get(host, "/").unwrap().status, over_tls, "{host}");
        assert_eq!(http::get(node.web, host, "/").unwrap().status, plain, "{host}");
    }
    let again = Client::open(node.web, "a.test", &settings).unwrap();
    assert!(again.is_resumed(), "by a ticket, whichever worker gets it");
}

const FIRST: &str = "  certificates: [{certFile: FILES/one.crt, keyFile: FILES/one.key}]";

#[test]
fn a_certificate_is_renewed_under_load_and_a_bad_one_keeps_the_last_good() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let certificates = [1, 2].map(|_| Certificate::of(&["a.test"]).unwrap());
    let (node, files) = start(&config(&upstream, ANY, FIRST), &[("one", &certificates[0])]);
    assert_eq!(shown(node.web, "a.test"), certificates[0].der().unwrap());
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for kept in [true, false] {
            let (stop, served, web) = (&stop, &served, node.web);
            scope.spawn(move || {
                let settings = settings(None, false).unwrap();
                let mut client = Client::open(web, "a.test", &settings).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if !kept {
                        client = Client::open(web, "a.test", &settings).unwrap();
                    }
                    assert_eq!(client.get("a.test", "/").unwrap().status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let others = |at_least: usize| {
            let from = served.load(Ordering::Relaxed);
            eventually("load goes on", || (served.load(Ordering::Relaxed) >= from + at_least).then_some(()));
        };
        others(20);
        // As a renewal does: key and certificate change one after the other.
        write(files.path(), "one", &certificates[1]);
        eventually("the new one is shown", || {
            (shown(node.web, "a.test") == certificates[1].der().unwrap()).then_some(())
        });
        eventually("all is well", || node.faults().is_empty().then_some(()));
        others(20);
        fs::write(files.path().join("one.crt"), "nonsense").unwrap();
        let faults = eventually("the fault is told", || Some(node.faults()).filter(|faults| !faults.is_empty()));
        assert!(faults[0].contains("tls.certificates[0].certFile") && faults[0].contains("one.crt"), "{faults:?}");
        assert!(faults[0].contains("its last good version stays"), "{faults:?}");
        assert_eq!(shown(node.web, "a.test"), certificates[1].der().unwrap());
        others(20);
        write(files.path(), "one", &certificates[0]);
        eventually("the first one is back", || {
            (shown(node.web, "a.test") == certificates[0].der().unwrap()).then_some(())
        });
        others(20);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_mounted_secret_that_is_swapped_is_read_again() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let certificates = [1, 2].map(|_| Certificate::of(&["a.test"]).unwrap());
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    for (version, certificate) in ["..1", "..2"].into_iter().zip(&certificates) {
        fs::create_dir(path(version)).unwrap();
        write(&path(version), "tls", certificate);
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).unwrap();
    link("..1", "..data");
    link("..data/tls.crt", "tls.crt");
    link("..data/tls.key", "tls.key");
    let tls = FIRST.replace("one", "tls").replace("FILES", files.path().to_str().unwrap());
    let (node, _files) = start(&config(&upstream, ANY, &tls), &[]);
    assert_eq!(shown(node.web, "a.test"), certificates[0].der().unwrap());
    link("..2", "..tmp");
    fs::rename(path("..tmp"), path("..data")).unwrap();
    eventually("the new one is shown", || (shown(node.web, "a.test") == certificates[1].der().unwrap()).then_some(()));
}

#[test]
fn options_are_chosen_by_the_server_name_and_hold() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let routers = "    open: {rule: \"Host(`open.test`) || PathPrefix(`/public`)\", service: up, tls: {}}
    new: {rule: \"Host(`new.test`)\", service: up, tls: {options: new}}
    known: {rule: \"Host(`known.test`)\", service: up, tls: {options: known}}
    any: {rule: \"Host(`any.test`)\", service: up, tls: {options: any}}
    named: {rule: \"Host(`named.test`)\", service: up, tls: {options: named}}";
    let tls = "  certificates: [{certFile: FILES/one.crt, keyFile: FILES/one.key}]
  options:
    new: {minVersion: VersionTLS13}
    known: {clientAuth: {caFiles: [FILES/ca.crt]}}
    any: {clientAuth: {clientAuthType: RequireAnyClientCert}}
    named: {sniStrict: true}";
    let certificate = Certificate::of(&["open.test", "known.test"]).unwrap();
    let ca = Certificate { pem: authority.pem.clone(), key: String::new() };
    let (node, _files) = start(&config(&upstream, routers, tls), &[("one", &certificate), ("ca", &ca)]);
    let (good, bad) = (authority.certify("me").unwrap(), stranger.certify("me").unwrap());
    // With TLS 1.3 a client learns what the server thinks of its certificate when it reads.
    let asked = |name: &str, host: &str, identity: Option<&Certificate>, old: bool| {
        let mut client = Client::open(node.web, name, &settings(identity, old).unwrap()).ok()?;
        client.get(host, "/").ok().map(|response| response.status)
    };
    for (name, identity, old, status) in [
        ("open.test", None, false, Some(200)),
        ("open.test", None, true, Some(200)),
        ("new.test", None, false, Some(200)),
        ("new.test", None, true, None),
        ("known.test", None, false, None),
        ("known.test", Some(&bad), false, None),
        ("known.test", Some(&good), false, Some(200)),
        ("known.test", Some(&good), true, Some(200)),
        ("any.test", None, false, None),
        ("any.test", Some(&bad), false, Some(200)),
        ("named.test", None, false, None),
    ] {
        assert_eq!(asked(name, name, identity, old), status, "{name} {} {old}", identity.is_some());
    }
    // Who got in by one name does not get to another's.
    for (name, host) in [("open.test", "known.test"), ("127.0.0.1", "known.test"), ("new.test", "open.test")] {
        assert_eq!(asked(name, host, None, false), Some(421), "{name} {host}");
    }
    let failures = |reason: &str| node.metric(&format!("wayspan_tls_handshake_failures_total{{reason=\"{reason}\"}}"));
    for (reason, count) in
        [("incompatible", 1.0), ("client_certificate", 3.0), ("no_certificate", 1.0), ("malformed", 0.0)]
    {
        assert_eq!(failures(reason), Some(count), "{reason}");
    }
}

#[test]
fn a_ticket_opens_nothing_that_was_closed_since() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let authority = Authority::new().unwrap();
    let routers = "    all: {rule: \"Host(`a.test`)\", service: up, tls: {options: mine}}";
    let open = config(&upstream, routers, "  options: {mine: {sniStrict: false}}");
    let closed = config(&upstream, routers, "  options: {mine: {clientAuth: {caFiles: [FILES/ca.crt]}}}");
    let ca = Certificate { pem: authority.pem.clone(), key: String::new() };
    let (node, files) = start(&open, &[("ca", &ca)]);
    let settings = settings(None, false).unwrap();
    let ask = || {
        let mut client = Client::open(node.web, "a.test", &settings).ok()?;
        let status = client.get("a.test", "/").ok()?.status;
        Some((status, client.is_resumed()))
    };
    assert_eq!((ask(), ask()), (Some((200, false)), Some((200, true))));
    node.agent.write_config(&closed.replace("FILES", files.path().to_str().unwrap())).unwrap();
    eventually("clients without a certificate are refused", || ask().is_none().then_some(()));
    for _ in 0..4 {
        assert_eq!(ask(), None);
    }
}

#[test]
fn the_api_and_metrics_tell_of_tls_and_of_no_key() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let routers = "    a: {rule: \"Host(`a.test`)\", service: up, tls: {options: strict, domains: [{main: a.test, sans: [b.test]}]}}
    b: {rule: \"Host(`b.test`)\", service: up}";
    let tls = "  certificates: [{certFile: FILES/one.crt, keyFile: FILES/one.key}]
  options: {strict: {sniStrict: true}}";
    let certificate = Certificate::of(&["a.test"]).unwrap();
    let (node, _files) = start(&config(&upstream, routers, tls), &[("one", &certificate)]);
    let told = |path: &str| http::get(node.api, "localhost", path).unwrap();
    let router = told("/api/http/routers/a").json().unwrap();
    assert_eq!(router["tls"]["options"], "strict");
    assert_eq!(router["tls"]["domains"][0]["sans"][0], "b.test");
    assert!(told("/api/http/routers/b").json().unwrap().get("tls").is_none());
    let certificates = told("/api/certificates").json().unwrap();
    assert_eq!(certificates[0]["sans"][0], "a.test");
    assert!(certificates[0]["origin"].as_str().unwrap().ends_with("one.crt"));
    let ends = certificates[0]["notAfter"].as_f64().unwrap();
    let page = told("/metrics").text();
    let line = page.lines().find(|line| line.starts_with("wayspan_tls_certs_not_after{")).unwrap();
    assert!(line.contains("sans=\"a.test\""), "{line}");
    assert_eq!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap().to_bits(), ends.to_bits());
    let key: Vec<&str> = certificate.key.lines().filter(|line| !line.starts_with('-')).collect();
    for path in
        ["/api/certificates", "/api/http/routers", "/api/entrypoints", "/api/status", "/api/overview", "/metrics"]
    {
        let text = told(path).text();
        assert!(!text.contains("PRIVATE") && key.iter().all(|line| !text.contains(line)), "{path}");
    }
}

#[test]
fn an_entry_point_makes_its_routers_tls() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let routers = "    a: {rule: \"Host(`a.test`)\", service: up}";
    let text = config(&upstream, routers, "  options: {old: {maxVersion: VersionTLS12}}")
        .replace("transport:", "http: {tls: {options: old}}, transport:")
        .replace("api:", "ping: {entryPoint: web}\napi:");
    let (node, _files) = start(&text, &[]);
    assert_eq!(http::get(node.web, "a.test", "/").unwrap().status, 404);
    assert_eq!(http::get(node.web, "a.test", "/ping").unwrap().text(), "OK");
    let ask = |old: bool| Client::open(node.web, "a.test", &settings(None, old).unwrap());
    assert!(ask(false).is_err(), "the router has its entry point's options");
    let mut client = ask(true).unwrap();
    assert_eq!(client.get("a.test", "/").unwrap().status, 200);
    assert_eq!(client.get("a.test", "/ping").unwrap().text(), "OK");
    let entry_point = http::get(node.api, "localhost", "/api/entrypoints/web").unwrap().json().unwrap();
    assert_eq!(entry_point["http"]["tls"]["options"], "old");
}

#[test]
fn a_greeting_that_stalls_is_closed_within_the_limit() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let (node, _files) = start(&config(&upstream, ANY, "  options: {}"), &[]);
    for bytes in [0, 1, 8] {
        let mut client = TcpStream::connect(node.web).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1][..bytes]).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{bytes}");
    }
    assert_eq!(node.metric("wayspan_tls_handshake_failures_total{reason=\"timeout\"}"), Some(2.0));
}

#[test]
fn faults_name_the_place_and_the_remedy() {
    let upstream = Upstream::start(|_| Reply::ok("hi")).unwrap();
    let certificate = Certificate::of(&["a.test"]).unwrap();
    let good = config(&upstream, ANY, FIRST);
    let (node, files) = start(&good, &[("one", &certificate), ("other", &Certificate::of(&["b.test"]).unwrap())]);
    for (tls, wanted) in [
        ("  certificates: [{certFile: FILES/gone.crt, keyFile: FILES/one.key}]", "gone.crt: cannot be read"),
        ("  certificates: [{certFile: FILES/one.crt, keyFile: FILES/other.key}]", "the key is not the certificate's"),
        ("  certificates: [{certFile: FILES/one.crt}]", "certificates[0].keyFile: is missing"),
        ("  options: {a: {minVersion: VersionTLS10}}", "must be VersionTLS12 or VersionTLS13"),
        ("  options: {a: {minVersion: VersionTLS13, maxVersion: VersionTLS12}}", "is older than minVersion"),
        ("  options: {a: {cipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]}}", "is not supported; there are TLS_"),
        ("  options: {a: {curvePreferences: [CurveP521]}}", "is not supported; there are X25519"),
        ("  options: {a: {alpnProtocols: [h2]}}", "not supported yet: HTTP/2"),
        ("  options: {a: {clientAuth: {clientAuthType: VerifyClientCertIfGiven}}}", "clientAuth.caFiles: is missing"),
        ("  certficates: []", "did you mean `certificates`?"),
        ("  options: {}\nhttp2: 1", "http2"),
    ] {
        let text = config(&upstream, ANY, tls).replace("FILES", files.path().to_str().unwrap());
        node.agent.write_config(&text).unwrap();
        let faults =
            eventually(wanted, || Some(node.faults()).filter(|faults| faults.iter().any(|one| one.contains(wanted))));
        assert!(!faults.concat().contains("PRIVATE"), "{faults:?}");
    }
    // What was misspelt has kept what it held.
    node.agent.write_config(&config(&upstream, ANY, FIRST).replace("FILES", files.path().to_str().unwrap())).unwrap();
    eventually("all is well", || node.faults().is_empty().then_some(()));
    let routers = "    all: {rule: \"PathPrefix(`/`)\", service: up, tls: {options: mtsl}}";
    let text = config(&upstream, routers, "  options: {mtls: {}}");
    node.agent.write_config(&text).unwrap();
    eventually("a name that nothing has", || {
        node.faults().iter().any(|one| one.contains("did you mean `mtls`?")).then_some(())
    });
    let asks = "{clientAuth: {clientAuthType: RequireAnyClientCert}}";
    for (other, options, wanted, status) in [
        ("PathPrefix(`/x`)", "{}", "since the rule names no Host", 421),
        ("Host(`a.test`) && PathPrefix(`/x`)", "{}", "`a` wants others for `a.test`", 200),
        ("Host(`a.test`) && PathPrefix(`/x`)", asks, "asks for client certificates is answered with 421", 421),
    ] {
        let routers = format!(
            "    a: {{rule: \"Host(`a.test`)\", service: up, tls: {{}}}}
    b: {{rule: \"{other}\", service: up, tls: {{options: mtls}}}}"
        );
        node.agent.write_config(&config(&upstream, &routers, &format!("  options: {{mtls: {options}}}"))).unwrap();
        eventually(wanted, || node.faults().iter().any(|one| one.contains(wanted)).then_some(()));
        let mut client = Client::open(node.web, "a.test", &settings(None, false).unwrap()).unwrap();
        assert_eq!(client.get("a.test", "/x").unwrap().status, status, "{other} {options}");
        assert_eq!(client.get("a.test", "/").unwrap().status, 200, "{other} {options}");
    }
}
