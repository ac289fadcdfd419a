//! The small upstream that stands in for Hot R.O.D. where that cannot be built: the same paths, answers of the same
//! shape after delays of the same order, no spans.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use wayspan_tests::{Part, Reply, Request, Upstream};

// Hot R.O.D. takes some 700 ms for a dispatch; a stand-in need not take as long to show where time goes.
const DISPATCH: Duration = Duration::from_millis(120);

const PAGE: &str = "<!doctype html><title>Embedded upstream</title><h1>This stands in for Hot R.O.D.</h1>";

/// Listens there.
pub fn start(address: SocketAddr) -> Result<Upstream> {
    Upstream::start_on(address, answer)
}

fn answer(request: &Request) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let customer = query.split('&').find_map(|pair| pair.strip_prefix("customer="));
    let (status, kind, body) = match (path, customer.map(str::parse::<u32>)) {
        ("/", _) => ("200 OK", "text/html", PAGE.to_owned()),
        ("/config", _) => ("200 OK", "application/json", r#"{"jaeger":""}"#.to_owned()),
        ("/dispatch", Some(Ok(customer))) => {
            ("200 OK", "application/json", format!(r#"{{"Driver":"T7{customer:05}C","ETA":120000000000}}"#))
        }
        ("/dispatch", _) => ("400 Bad Request", "text/plain", "missing or bad 'customer'\n".to_owned()),
        _ => ("404 Not Found", "text/plain", "no such page\n".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if request.method == "HEAD" { String::new() } else { body };
    let reply = Reply::raw(head.as_bytes()).then(Part::Bytes(body.into_bytes()));
    if path == "/dispatch" { reply.after(DISPATCH) } else { reply }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wayspan_tests::http;

    #[test]
    fn it_answers_the_labs_requests() {
        let upstream = start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        for (method, target, status, part) in [
            ("GET", "/", 200, "Hot R.O.D."),
            ("HEAD", "/dispatch?customer=392", 200, ""),
            ("GET", "/dispatch?customer=392", 200, "T700392C"),
            ("GET", "/dispatch?customer=x", 400, "customer"),
            ("GET", "/nothing", 404, "no such page"),
        ] {
            let answer = http::request(upstream.address(), method, "x", target).unwrap();
            assert_eq!(answer.status, status, "{target}");
            assert!(answer.text().contains(part), "{target}");
        }
    }
}
