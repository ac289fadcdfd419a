//! Every span is accounted for while the real Jaeger goes and comes back: made = sent + lost + pending, sent is what
//! Jaeger has, and no request notices.

use std::net::SocketAddr;

use wayspan_tests::http::{self, Connection};
use wayspan_tests::{Agent, Jaeger, Reply, Upstream, config, eventually, private_loopback, wait_until};

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
    let stored = wait_until(wayspan_tests::PATIENCE, || {
        let traces = jaeger.traces("wayspan", 10 * BATCH).ok()?;
        let spans = traces.iter().map(|trace| trace.spans.len() as u64).sum::<u64>();
        (spans == last.sent - first.sent).then_some(())
    });
    assert!(stored.is_some(), "{first:?} {last:?}");
}
