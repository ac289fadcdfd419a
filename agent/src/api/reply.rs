//! Answers with their headers: what a browser may do with them stands here, in one place.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// An answer; all of it is in memory when it is sent.
pub(super) type Reply = Response<Full<Bytes>>;

/// Scripts and styles come from here only, none stand in the page: text that slips past escaping still cannot run.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// Any answer.
pub(super) fn content(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // For browsers that do not know `frame-ancestors`.
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // What is shown is this moment's, and a newer binary's dashboard must not meet an older one's script.
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// A JSON answer.
pub(super) fn json(value: &Value) -> Reply {
    content(StatusCode::OK, "application/json", value.to_string())
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: &str) -> Reply {
    content(status, "text/plain; charset=utf-8", text.to_owned())
}

/// An error: what is wrong and what to do. `message` is the field of Traefik's errors.
pub(super) fn error(status: StatusCode, message: &str, remedy: &str) -> Reply {
    let body = json!({"message": message, "remedy": remedy});
    content(status, "application/json", body.to_string())
}

/// Elsewhere on this api.
pub(super) fn redirect(target: &'static str) -> Reply {
    let mut reply = text(StatusCode::FOUND, target);
    reply.headers_mut().insert(LOCATION, HeaderValue::from_static(target));
    reply
}

/// Only reading is possible.
pub(super) fn method_not_allowed() -> Reply {
    let mut reply = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "the api only reads",
        "ask with GET or HEAD; change the configuration file",
    );
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    reply
}
