//! Jaeger well, away, slow, huge and hostile.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::world::World;
use crate::api::jaeger::{Bounds, Error, Jaeger};

/// Answers what a function says of the target, once the gate is open.
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Fake {
    async fn start(answer: fn(&str) -> String) -> Self {
        Self::behind(None, answer).await
    }

    async fn behind(gate: Option<Arc<Notify>>, answer: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let list = Arc::clone(&asked);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (list, gate) = (Arc::clone(&list), gate.clone());
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    list.lock().unwrap().push(target.clone());
                    if let Some(gate) = gate {
                        gate.notified().await;
                    }
                    let _ = stream.write_all(answer(&target).as_bytes()).await;
                });
            }
        });
        Self { url, asked, _serving: serving }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn reply(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn well(target: &str) -> String {
    let json = "application/json";
    match target.split('?').next().unwrap_or_default() {
        "/" => reply("200 OK", "text/html", r#"<script type="module" src="/static/index.js"></script>"#),
        "/api/services" => reply("200 OK", json, r#"{"data":["wayspan"]}"#),
        "/api/dependencies" => reply("200 OK", json, r#"{"data":[{"parent":"a","child":"b","callCount":3}]}"#),
        "/api/traces/ab" => reply("200 OK", json, r#"{"data":[{"traceID":"ab"}]}"#),
        "/api/traces/bad" => reply("500 Internal Server Error", json, r#"{"errors":[{"msg":"secret"}]}"#),
        "/api/traces/dad" => reply("200 OK", "text/html", "<script>alert(1)</script>"),
        "/api/traces/cab" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
        "/api/traces/fee" => "220 mail.example ESMTP\r\n".to_owned(),
        _ => reply("404 Not Found", json, r#"{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}"#),
    }
}

#[tokio::test]
async fn what_jaeger_says_is_passed_on_or_explained() {
    let fake = Fake::start(well).await;
    let url = fake.url.clone();
    let world = World::with(|setup| setup.jaeger = Some(url)).await;
    for (path, status, part) in [
        ("/api/traces/ab", 200, r#"{"data":[{"traceID":"ab"}]}"#),
        ("/api/traces/abc", 404, "Jaeger has no trace abc yet"),
        ("/api/traces/bad", 502, "answered 500 Internal Server Error instead of JSON"),
        ("/api/traces/dad", 502, "answered 200 OK instead of JSON"),
        ("/api/traces/cab", 502, "broke off its answer"),
        ("/api/traces/fee", 502, "broke off its answer"),
        ("/api/dependencies", 200, "callCount"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body.contains(part), "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert!(!answer.body.contains("secret"));
        if status != 200 {
            assert!(!answer.json()["remedy"].as_str().unwrap().is_empty(), "{path}");
        }
    }
    let url = &fake.url;
    assert_eq!(world.get("/api/jaeger").await.json(), json!({"configured": true, "url": url, "up": true, "ui": true}));
    assert_eq!(world.get("/api/status").await.json()["jaegerQuery"], json!(url));
}

#[tokio::test]
async fn jaeger_is_asked_for_nothing_but_what_was_meant() {
    let fake = Fake::start(well).await;
    let url = fake.url.clone();
    let world = World::with(|setup| setup.jaeger = Some(format!("{url}/base/"))).await;
    for path in [
        "/api/traces/",
        "/api/traces/xyz",
        "/api/traces/..",
        "/api/traces/%2e%2e%2fservices",
        "/api/traces/ab%0d%0aX:1",
        "/api/traces/ab%3fq",
        "/api/traces/012345678901234567890123456789012",
    ] {
        assert_eq!(world.get(path).await.status, 400, "{path}");
    }
    assert_eq!(world.get("/api/traces/ab/x").await.status, 404);
    assert_eq!(fake.asked(), [""; 0]);
    world.get("/api/traces/AB?x=y").await;
    world.get("/api/dependencies?endTs=123&lookback=456&x=%0d%0a").await;
    assert_eq!(fake.asked(), ["/base/api/traces/AB", "/base/api/dependencies?endTs=123&lookback=456"]);
    world.get("/api/dependencies?endTs=-1&lookback=x%26y").await;
    let [asked] = fake.asked().try_into().unwrap();
    let (_, query) = asked.split_once("endTs=").unwrap();
    let (end, lookback) = query.split_once("&lookback=").unwrap();
    assert!(end.parse::<u64>().unwrap() > 1_600_000_000_000, "{asked}");
    assert_eq!(lookback, "3600000");
}

#[tokio::test]
async fn jaeger_away_is_said_at_once_with_the_remedy() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let world = World::with(|setup| setup.jaeger = Some(url.clone())).await;
    let answer = world.get("/api/traces/ab").await;
    assert_eq!(answer.status, 502);
    assert!(answer.json()["message"].as_str().unwrap().contains(&url), "{}", answer.body);
    let state = world.get("/api/jaeger").await.json();
    assert_eq!((&state["up"], &state["ui"]), (&json!(false), &json!(false)));
    assert!(state["remedy"].as_str().unwrap().contains("start Jaeger"), "{state}");
}

#[tokio::test]
async fn a_server_that_is_not_jaeger_is_not_taken_for_one() {
    let fake = Fake::start(|_| reply("200 OK", "text/html", "<script src=x></script>")).await;
    let url = fake.url.clone();
    let world = World::with(|setup| setup.jaeger = Some(url)).await;
    let state = world.get("/api/jaeger").await.json();
    assert_eq!((&state["up"], &state["ui"]), (&json!(false), &json!(false)));
    assert!(state["message"].as_str().unwrap().contains("is not Jaeger's query API"), "{state}");
}

#[tokio::test]
async fn slow_and_huge_answers_are_given_up() {
    let gate = Arc::new(Notify::new());
    let slow = Fake::behind(Some(gate), well).await;
    let mut jaeger = Jaeger::parse(&slow.url).unwrap();
    jaeger.bounds = Bounds { whole: Duration::from_millis(50), ..Bounds::default() };
    let error = jaeger.get("/api/services").await.unwrap_err();
    assert!(matches!(error, Error::Slow { .. }), "{error}");
    assert!(error.to_string().ends_with("did not answer within 50 ms"), "{error}");

    let huge = Fake::start(|_| reply("200 OK", "application/json", &"1".repeat(5_000))).await;
    let mut jaeger = Jaeger::parse(&huge.url).unwrap();
    jaeger.bounds = Bounds { bytes: 5_000, ..Bounds::default() };
    assert_eq!(jaeger.get("/x").await.unwrap().body.len(), 5_000);
    jaeger.bounds.bytes = 4_999;
    let error = jaeger.get("/x").await.unwrap_err();
    assert!(matches!(error, Error::Huge { limit: 4_999 }), "{error}");
}

#[tokio::test]
async fn questions_beyond_the_cap_wait_and_do_not_reach_jaeger() {
    let gate = Arc::new(Notify::new());
    let fake = Fake::behind(Some(Arc::clone(&gate)), well).await;
    let mut jaeger = Jaeger::parse(&fake.url).unwrap();
    jaeger.bounds.whole = Duration::from_millis(200);
    let jaeger = Arc::new(jaeger);
    let mut questions = JoinSet::new();
    for _ in 0..10 {
        let jaeger = Arc::clone(&jaeger);
        questions.spawn(async move { jaeger.get("/api/services").await.map(drop) });
    }
    let answers = questions.join_all().await;
    let count = |is: fn(&Error) -> bool| answers.iter().filter(|answer| answer.as_ref().is_err_and(is)).count();
    assert_eq!(count(|error| matches!(error, Error::Busy)), 6, "{answers:?}");
    assert_eq!(count(|error| matches!(error, Error::Slow { .. })), 4, "{answers:?}");
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn an_answer_under_way_is_finished_when_the_api_closes() {
    let gate = Arc::new(Notify::new());
    let fake = Fake::behind(Some(Arc::clone(&gate)), well).await;
    let url = fake.url.clone();
    let mut world = World::with(|setup| setup.jaeger = Some(url)).await;
    let mut stream = world.connect().await;
    stream.write_all(b"GET /api/traces/ab HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    while fake.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    world.tell_to_stop();
    gate.notify_one();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"data":[{"traceID":"ab"}]}"#), "{answer}");
    world.stop().await;
}
