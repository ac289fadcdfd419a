//! Every span is accounted for while the real Jaeger goes and comes back: made = sent + lost + pending, sent is what
//! Jaeger has, and no request notices.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use wayspan_tests::http::{self, Connection};
use wayspan_tests::{Agent, Jaeger, PATIENCE, Reply, Upstream, config, eventually, private_loopback, wait_until};

const BATCH: usize = 100;

/// What the agent says of its spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    made: u64,
    sent: u64,
    lost: u64,
    pending: u64,
}

fn account(api: SocketAddr) -> Option<Account> {
    let page = http::get(api, &api.to_string(), "/metrics").ok()?.text();
    let value = |name: &str| {
        let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
        let number: f64 = line.rsplit(' ').next()?.parse().ok()?;
        format!("{number:.0}").parse().ok()
    };
    Some(Account {
        made: value("wayspan_spans_made_total")?,
        sent: value("wayspan_spans_sent_total")?,
        lost: value("wayspan_spans_lost_total")?,
        pending: value("wayspan_spans_pending")?,
    })
}

/// The account, which has to be even at every look, once `settled` holds.
#[track_caller]
fn even(api: SocketAddr, what: &str, settled: impl Fn(&Account) -> bool) -> Account {
    eventually(what, || {
        let account = account(api)?;
        assert_eq!(account.made, account.sent + account.lost + account.pending, "{account:?}");
        settled(&account).then_some(account)
    })
}

#[test]
fn spans_are_sent_lost_or_pending_and_nothing_else_while_jaeger_goes_and_comes() {
    let home = private_loopback(&[16686, 4317]).unwrap().into();
    let binary = wayspan_tests::binary("JAEGER_BIN", "peers/jaeger").unwrap();
    let start = || Jaeger::start_on(&binary, home, &[]).unwrap();
    let jaeger = start();
    let upstream = Upstream::start(|_| Reply::ok("")).unwrap();
    let config = config::forward("PathPrefix(`/`)", upstream.address())
        + &config::traced(&jaeger)
        // Two spans a request, whatever took long.
        + "attribution: {spans: attributes}\n"
        + "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\n";
    let mut agent = Agent::start(&config).unwrap();
    let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
    let mut connection = Connection::open(web).unwrap();
    let mut burst = || {
        for _ in 0..BATCH {
            assert_eq!(connection.get("h", "/").unwrap().status, 200);
        }
    };

    burst();
    let first =
        even(api, "the first spans are sent", |account| account.sent >= 2 * BATCH as u64 && account.pending == 0);
    assert_eq!(first.lost, 0, "{first:?}");
    let stored = eventually("Jaeger has what was sent", || {
        let traces = jaeger.traces("wayspan", 10 * BATCH).ok()?;
        let spans = traces.iter().map(|trace| trace.spans.len() as u64).sum::<u64>();
        (spans >= first.sent).then_some(spans)
    });
    assert_eq!(stored, first.sent);

    drop(jaeger);
    burst();
    // Whether they are lost already or still tried: they are not sent, and they are not forgotten.
    let without = even(api, "the spans without Jaeger are made", |account| account.made >= 2 * first.made);
    assert_eq!(without.sent, first.sent, "{without:?}");

    let jaeger = start();
    burst();
    let last = even(api, "spans are sent again", |account| account.made >= 3 * first.made && account.pending == 0);
    // A fresh Jaeger has exactly what was sent to it.
    let stored = wait_until(PATIENCE, || {
        let traces = jaeger.traces("wayspan", 10 * BATCH).ok()?;
        let spans = traces.iter().map(|trace| trace.spans.len() as u64).sum::<u64>();
        (spans == last.sent - first.sent).then_some(())
    });
    assert!(stored.is_some(), "{first:?} {last:?}");
}

/// Writes an authority's certificate, and those that it issues to `names` with their keys: `ca.pem`, `<name>.pem`,
/// `<name>.key`.
fn certify(directory: &Path, names: &[&str]) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([])?;
    // Two authorities of one name could not be told apart before their signatures.
    params.distinguished_name.push(DnType::CommonName, directory.display().to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let authority = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate()?;
        let issued = CertificateParams::new([(*name).to_owned()])?.signed_by(&key, &authority)?;
        std::fs::write(directory.join(format!("{name}.pem")), issued.pem())?;
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// A Jaeger whose receivers speak TLS and want to know their clients.
struct Encrypted {
    jaeger: Jaeger,
    upstream: Upstream,
    /// `ca.pem` has certified Jaeger and `client.pem`; `other/ca.pem` another `client.pem`.
    certificates: tempfile::TempDir,
}

impl Encrypted {
    fn start() -> Result<Self> {
        let home = private_loopback(&[16686, 4317, 4318])?;
        let certificates = tempfile::tempdir()?;
        let at = |name: &str| certificates.path().join(name);
        certify(certificates.path(), &[&home.to_string(), "client"])?;
        std::fs::create_dir(at("other"))?;
        certify(&at("other"), &["client"])?;
        let mut arguments = Vec::new();
        for protocol in ["grpc", "http"] {
            for (key, file) in [
                ("cert_file", format!("{home}.pem")),
                ("key_file", format!("{home}.key")),
                ("client_ca_file", "ca.pem".to_owned()),
            ] {
                let file = at(&file);
                arguments.push(format!("--set=receivers.otlp.protocols.{protocol}.tls.{key}={}", file.display()));
            }
        }
        let binary = wayspan_tests::binary("JAEGER_BIN", "peers/jaeger")?;
        let jaeger = Jaeger::start_on(&binary, home.into(), &arguments)?;
        Ok(Self { jaeger, upstream: Upstream::start(|_| Reply::ok(""))?, certificates })
    }

    /// An agent that sends by `protocol`; `@` in `tls` stands for the directory of the certificates.
    fn agent(&self, service: &str, protocol: &str, tls: &str) -> Result<Agent> {
        let endpoint = match protocol {
            "grpc" => self.jaeger.otlp_grpc().to_string(),
            // The path is added.
            _ => format!("https://{}", self.jaeger.otlp_http()),
        };
        let tls = tls.replace('@', &format!("{}/", self.certificates.path().display()));
        let config = config::forward("PathPrefix(`/`)", self.upstream.address())
            + &format!(
                "tracing: {{serviceName: {service}, otlp: {{{protocol}: {{endpoint: \"{endpoint}\", tls: {{{tls}}}}}}}}}\n"
            )
            + "api: {address: \"127.0.0.1:0\"}\nmetrics: {prometheus: {}}\n";
        Agent::start_with(&config, |binary| {
            let mut command = Command::new(binary);
            // The system's roots, named as for OpenSSL.
            command.env("SSL_CERT_FILE", self.certificates.path().join("ca.pem"));
            Ok(command)
        })
    }
}

#[test]
fn spans_reach_a_collector_over_tls() {
    let collector = Encrypted::start().unwrap();
    for (service, protocol, tls) in [
        ("by-grpc", "grpc", "ca: @ca.pem, cert: @client.pem, key: @client.key"),
        ("by-http", "http", "ca: @ca.pem, cert: @client.pem, key: @client.key"),
        ("by-system", "grpc", "cert: @client.pem, key: @client.key"),
        ("by-faith", "http", "ca: @other/ca.pem, insecureSkipVerify: true, cert: @client.pem, key: @client.key"),
    ] {
        let mut agent = collector.agent(service, protocol, tls).unwrap();
        let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
        assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
        let sent = even(api, service, |account| account.sent > 0 && account.pending == 0);
        assert_eq!(sent.lost, 0, "{service}: {sent:?}");
        eventually(&format!("Jaeger has the trace of {service}"), || {
            let traces = collector.jaeger.traces(service, 5).ok()?;
            traces.iter().any(|trace| trace.of(service).count() > 1).then_some(())
        });
    }
}

#[test]
fn without_trust_nothing_is_sent_and_the_log_says_why() {
    let collector = Encrypted::start().unwrap();
    for (protocol, tls, why) in [
        // The system's roots would do, and do not count beside `ca`.
        ("grpc", "ca: @other/ca.pem", "invalid peer certificate: UnknownIssuer"),
        ("http", "ca: @other/ca.pem", "invalid peer certificate: UnknownIssuer"),
        // Jaeger wants to know who we are. Its own word for it may be overtaken by its reset.
        ("grpc", "ca: @ca.pem", "the receiver wants a certificate of ours"),
        ("http", "ca: @ca.pem", "the receiver wants a certificate of ours"),
        ("grpc", "ca: @ca.pem, cert: @other/client.pem, key: @other/client.key", "the receiver was shown"),
    ] {
        let mut agent = collector.agent("unknown", protocol, tls).unwrap();
        let (web, api) = (agent.address("web").unwrap(), agent.address("api").unwrap());
        assert_eq!(http::get(web, "h", "/").unwrap().status, 200);
        let line = agent.process.wait_for_line(why, |line| line.contains(why).then(|| line.to_owned())).unwrap();
        assert!(line.contains("spans are not delivered"), "{line}");
        let account = even(api, "the spans are made", |account| account.made > 0);
        assert_eq!(account.sent, 0, "{protocol} {tls}: {account:?}");
        assert!(agent.process.stop(PATIENCE).unwrap().success());
    }
}
