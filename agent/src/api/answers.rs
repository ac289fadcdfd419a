//! Which answer a path gets.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use wayspan_proxy::clock::MonoNs;

use super::assets;
use super::host::{self, Refusal};
use super::jaeger::{Answer, Jaeger};
use super::reply::{self, Reply};
use super::server::Context;
use super::shapes::{self, Page, View};

/// The pattern that answered, and the answer.
pub(super) async fn answer(head: &Parts, peer: IpAddr, context: &Context) -> (&'static str, Reply) {
    let path = head.uri.path();
    if let Some(on) = switches(&head.method)
        && let Some(rest) = path.strip_prefix("/api/probes")
    {
        return switch(rest, on, head, peer, context);
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return ("", reply::method_not_allowed());
    }
    // Before the Host is judged: the kubelet asks by whatever address the pod has, and learns nothing by it.
    match path {
        "/ping" => return ("/ping", ping(context)),
        // Who restarts a process that is stuck asks here: one that waits for routes is not, and a restart gives it none.
        "/ping/up" => return ("/ping/up", reply::text(StatusCode::OK, "OK")),
        _ => {}
    }
    if let Err(refusal) = host::judge(head, &context.config.allowed_hosts) {
        return ("", refused(refusal, head));
    }
    match path {
        "/" => return ("/", reply::redirect("/dashboard/")),
        "/dashboard" => return ("/dashboard", reply::redirect("/dashboard/")),
        "/metrics" => return ("/metrics", metrics(head, context)),
        _ => {}
    }
    if let Some(file) = path.strip_prefix("/dashboard/") {
        return ("/dashboard/", dashboard(file, context));
    }
    let Some(rest) = path.strip_prefix("/api/") else { return ("", nothing_at(path)) };
    let segments: Vec<String> = rest.split('/').map(|part| decode(part, false)).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    api(&segments, head.uri.query().unwrap_or_default(), context).await
}

async fn api(segments: &[&str], query: &str, context: &Context) -> (&'static str, Reply) {
    let state = &context.state;
    let (dynamic, faults, catalog) = (state.dynamic.load(), state.faults.load(), state.catalog.load());
    let view = View { fixed: &state.fixed, dynamic: &dynamic, faults: &faults, catalog: &catalog };
    match segments {
        ["overview"] => ("/api/overview", reply::json(&shapes::overview(&view))),
        ["version"] => ("/api/version", reply::json(&version())),
        ["entrypoints"] => ("/api/entrypoints", list(shapes::entry_points(&view, &page(query)))),
        ["entrypoints", name] => {
            ("/api/entrypoints/{name}", one(shapes::entry_point(&view, name), "entry point", name))
        }
        ["http", "routers"] => ("/api/http/routers", list(shapes::routers(&view, &page(query)))),
        ["http", "routers", name] => ("/api/http/routers/{name}", one(shapes::router(&view, name), "router", name)),
        ["http", "services"] => ("/api/http/services", list(shapes::services(&view, &page(query)))),
        ["http", "services", name] => ("/api/http/services/{name}", one(shapes::service(&view, name), "service", name)),
        ["http", "middlewares"] => ("/api/http/middlewares", list(shapes::middlewares(&view, &page(query)))),
        ["http", "middlewares", name] => {
            ("/api/http/middlewares/{name}", one(shapes::middleware(&view, name), "middleware", name))
        }
        ["certificates"] => ("/api/certificates", reply::json(&shapes::certificates(&view))),
        ["requests"] => ("/api/requests", requests(context)),
        ["probes"] => ("/api/probes", reply::json(&(state.probes)())),
        ["status"] => ("/api/status", reply::json(&status(context, &view))),
        ["jaeger"] => ("/api/jaeger", reply::json(&jaeger_status(context.jaeger.as_ref()).await)),
        ["traces", id] => ("/api/traces/{traceID}", trace(context.jaeger.as_ref(), id).await),
        ["dependencies"] => ("/api/dependencies", dependencies(context.jaeger.as_ref(), query).await),
        _ => ("", nothing_at(&format!("/api/{}", segments.join("/")))),
    }
}

/// PUT switches on, DELETE off: methods that a browser sends to another site only if that site agrees, which this one never
/// does.
fn switches(method: &Method) -> Option<bool> {
    match *method {
        Method::PUT => Some(true),
        Method::DELETE => Some(false),
        _ => None,
    }
}

/// `/api/probes` is all sets, of which PUT switches those on that the configuration names, `/api/probes/{set}` one. Only for those who
/// are on this machine (or in this pod), themselves: not for whom a proxy on it asks, ours (`api@internal`) among them.
fn switch(rest: &str, on: bool, head: &Parts, peer: IpAddr, context: &Context) -> (&'static str, Reply) {
    let (route, set) = match rest.strip_prefix('/') {
        Some(set) => ("/api/probes/{set}", Some(set)),
        None if rest.is_empty() => ("/api/probes", None),
        None => return ("", nothing_at(head.uri.path())),
    };
    if let Err(refusal) = host::judge(head, &context.config.allowed_hosts) {
        return ("", refused(refusal, head));
    }
    if !is_on_this_machine(peer) || is_forwarded(&head.headers) {
        let text = "probes are switched from the node itself only";
        return (route, reply::error(StatusCode::FORBIDDEN, text, "ask by localhost, or through kubectl port-forward"));
    }
    if !(context.state.switch)(set, on) {
        let text = format!("no set of probes is called `{}`", set.unwrap_or_default());
        return (route, reply::error(StatusCode::NOT_FOUND, &text, "the sets are core, backends and ack"));
    }
    (route, reply::json(&(context.state.probes)()))
}

fn is_on_this_machine(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// What proxies say of whom they ask for: RFC 7239, RFC 9110 section 7.6.3, and what is older than these.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"]
        .into_iter()
        .any(|name| headers.contains_key(name))
}

fn ping(context: &Context) -> Reply {
    if context.state.starting.load(Ordering::Relaxed) {
        reply::text(StatusCode::SERVICE_UNAVAILABLE, "starting")
    } else if context.state.draining.load(Ordering::Relaxed) {
        reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        reply::text(StatusCode::OK, "OK")
    }
}

fn refused(refusal: Refusal, head: &Parts) -> Reply {
    match refusal {
        Refusal::Unclear => reply::error(
            StatusCode::BAD_REQUEST,
            "the request has no Host that can be read, or more than one",
            "send one Host header with a name or an address",
        ),
        Refusal::Foreign => reply::error(
            StatusCode::MISDIRECTED_REQUEST,
            &format!("`{}` is not a name of this api", host::named(head)),
            "ask by address or localhost, or add the name to api.allowedHosts",
        ),
    }
}

fn metrics(head: &Parts, context: &Context) -> Reply {
    let Some(metrics) = &context.state.metrics else {
        return reply::error(StatusCode::NOT_FOUND, "metrics are off", "add `metrics: {prometheus: {}}` and restart");
    };
    let accept = head.headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = metrics(accept.unwrap_or_default());
    reply::content(StatusCode::OK, kind, text)
}

fn dashboard(file: &str, context: &Context) -> Reply {
    if !context.config.dashboard {
        return reply::error(StatusCode::NOT_FOUND, "the dashboard is off", "set api.dashboard to true and restart");
    }
    match assets::find(file) {
        Some((kind, text)) => reply::content(StatusCode::OK, kind, text),
        None => nothing_at(&format!("/dashboard/{file}")),
    }
}

fn nothing_at(path: &str) -> Reply {
    reply::error(StatusCode::NOT_FOUND, &format!("nothing is at {path}"), "the dashboard is at /dashboard/")
}

fn version() -> Value {
    // Traefik's field names; a code name is not ours to give.
    json!({"Version": env!("CARGO_PKG_VERSION"), "Codename": "", "name": "wayspan"})
}

fn list((values, next_page): (Vec<Value>, usize)) -> Reply {
    let mut reply = reply::json(&Value::Array(values));
    // As Traefik: 1 where there is no further page.
    reply.headers_mut().insert("x-next-page", http::HeaderValue::from(next_page));
    reply
}

fn one(found: Option<Value>, noun: &str, name: &str) -> Reply {
    match found {
        Some(value) => reply::json(&value),
        None => reply::error(
            StatusCode::NOT_FOUND,
            &format!("no {noun} is called `{name}`"),
            "the list is at the same path without the name",
        ),
    }
}

/// Times are monotonic: with the clock's reading beside them a browser can say when by its own.
fn requests(context: &Context) -> Reply {
    let list = (context.state.requests)();
    reply::json(&json!({"nowMonoNs": MonoNs::now().0, "requests": list}))
}

fn status(context: &Context, view: &View<'_>) -> Value {
    let state = &context.state;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": context.kernel,
        "draining": state.draining.load(Ordering::Relaxed),
        "probes": (state.probes)(),
        "spans": (state.span_counts)(),
        "kubernetes": (state.kubernetes)(),
        "watches": (state.watches)(),
        "tracing": shapes::tracing(view.fixed),
        "jaegerQuery": context.jaeger.as_ref().map(|jaeger| &jaeger.url),
        "faults": view.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

const UNSET: (&str, &str) =
    ("no Jaeger is configured", "set api.jaegerQuery, e.g. to http://127.0.0.1:16686, and restart");

async fn jaeger_status(jaeger: Option<&Jaeger>) -> Value {
    let Some(jaeger) = jaeger else {
        return json!({"configured": false, "up": false, "ui": false, "message": UNSET.0, "remedy": UNSET.1});
    };
    let base = json!({"configured": true, "url": jaeger.url, "up": true, "ui": false});
    let fault = |message: String, remedy: &str| {
        let mut value = base.clone();
        value["up"] = false.into();
        value["message"] = message.into();
        value["remedy"] = remedy.into();
        value
    };
    match jaeger.get("/api/services").await {
        Err(error) => fault(error.to_string(), error.remedy()),
        Ok(answer) if !answer.status.is_success() || !answer.is_json() => fault(
            format!("what answers at {} is not Jaeger's query API: {}", jaeger.url, answer.status),
            "set api.jaegerQuery to Jaeger's query port (16686)",
        ),
        Ok(_) => {
            let mut value = base;
            value["ui"] = jaeger.get("/").await.is_ok_and(|page| page.is_ui()).into();
            value
        }
    }
}

async fn trace(jaeger: Option<&Jaeger>, id: &str) -> Reply {
    if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return reply::error(StatusCode::BAD_REQUEST, "a trace id is 1 to 32 hex digits", "take it from /api/requests");
    }
    ask(jaeger, &format!("/api/traces/{id}"), &format!("Jaeger has no trace {id} yet")).await
}

async fn dependencies(jaeger: Option<&Jaeger>, query: &str) -> Reply {
    let number = |name: &str| parameter(query, name).and_then(|value| value.parse::<u64>().ok());
    let end = number("endTs").unwrap_or_else(|| {
        #[expect(clippy::disallowed_methods, reason = "Jaeger's query wants the end of the period in wall time")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(0)
    });
    let lookback = number("lookback").unwrap_or_else(|| {
        let hour = Duration::from_secs(3600);
        u64::try_from(hour.as_millis()).unwrap_or(0)
    });
    let target = format!("/api/dependencies?endTs={end}&lookback={lookback}");
    ask(jaeger, &target, "Jaeger has no dependency graph").await
}

async fn ask(jaeger: Option<&Jaeger>, target: &str, missing: &str) -> Reply {
    let Some(jaeger) = jaeger else {
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, UNSET.0, UNSET.1);
    };
    match jaeger.get(target).await {
        Ok(answer) => passed_on(answer, jaeger, missing),
        Err(error) => reply::error(StatusCode::BAD_GATEWAY, &error.to_string(), error.remedy()),
    }
}

fn passed_on(answer: Answer, jaeger: &Jaeger, missing: &str) -> Reply {
    if answer.status == StatusCode::NOT_FOUND {
        return reply::error(
            StatusCode::NOT_FOUND,
            missing,
            "spans arrive some seconds after their request; ask again",
        );
    }
    if !answer.status.is_success() || !answer.is_json() {
        let message = format!("Jaeger at {} answered {} instead of JSON", jaeger.url, answer.status);
        return reply::error(StatusCode::BAD_GATEWAY, &message, "see Jaeger's own log, and api.jaegerQuery");
    }
    reply::content(StatusCode::OK, "application/json", answer.body)
}

fn page(query: &str) -> Page {
    let number = |name: &str| parameter(query, name).and_then(|value| value.parse::<usize>().ok());
    Page {
        search: parameter(query, "search").unwrap_or_default(),
        status: parameter(query, "status").unwrap_or_default(),
        number: number("page").unwrap_or(1).max(1),
        // 100 is Traefik's.
        size: number("per_page").unwrap_or(100).clamp(1, 1000),
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value, true)).next()
}

/// Percent-decoded; what is no escape, and what is no UTF-8, stays readable.
fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape = escape.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (first, escape.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) if plus_is_space => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_on_this_machine_may_switch() {
        let is_ours = |peer: &str| is_on_this_machine(peer.parse().unwrap());
        assert!(["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"].into_iter().all(is_ours));
        assert!(!["10.0.0.1", "2001:db8::1", "0.0.0.0", "::ffff:10.0.0.1"].into_iter().any(is_ours));
    }

    #[test]
    fn names_and_parameters_are_decoded_once() {
        for (text, plus_is_space, expected) in [
            ("hotrod%40file", false, "hotrod@file"),
            ("a%2Fb", false, "a/b"),
            ("a+b", false, "a+b"),
            ("a+b%2B", true, "a b+"),
            ("100%", false, "100%"),
            ("%zz%+1", false, "%zz%+1"),
            ("%2", false, "%2"),
            ("%ff", false, "\u{fffd}"),
            ("%2525", false, "%25"),
        ] {
            assert_eq!(decode(text, plus_is_space), expected, "{text}");
        }
        assert_eq!(parameter("a=1&search=x%20y&search=z", "search").as_deref(), Some("x y"));
        assert_eq!(parameter("searching=1&b", "search"), None);
        assert_eq!(parameter("a&search", "search").as_deref(), Some(""));
    }
}
