//! What a watch hears: kube's events, in which each list says that it begins.
//!
//! kube says so of lists in pages alone. One that comes as a stream may break off without an error, and the next follow it as if it
//! were its rest; and not each error ends one. So what tells where a list begins is the request for it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt as _, stream};
use kube::client::Body;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tower::service_fn;

use super::client::is_silence;

/// In the request for a list that comes as a stream.
const STREAMED: &str = "sendInitialEvents=true";

/// Objects of one kind, for one watch.
#[derive(Debug)]
pub(super) struct Feed<K> {
    api: Api<K>,
    /// A list was asked for as a stream, and nothing of it has come yet.
    is_asked: Arc<AtomicBool>,
}

impl<K> Feed<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Of what the API is about; what it asks is noted.
    pub(super) fn new(client: &Client, api: impl FnOnce(Client) -> Api<K>) -> Self {
        let is_asked = Arc::new(AtomicBool::new(false));
        let (asks, inner) = (Arc::clone(&is_asked), client.clone());
        let noting = service_fn(move |request: http::Request<Body>| {
            if request.uri().query().is_some_and(|query| query.contains(STREAMED)) {
                asks.store(true, Ordering::Relaxed);
            }
            let client = inner.clone();
            async move { client.send(request).await }
        });
        Self { api: api(Client::new(noting, client.default_namespace())), is_asked }
    }

    /// Where it is in the API.
    pub(super) fn url(&self) -> &str {
        self.api.resource_url()
    }

    /// As kube's watcher, and each list begins with [`Event::Init`].
    pub(super) fn events(&self, config: Config) -> impl Stream<Item = Result<Event<K>, Error>> + Send + use<K> {
        let is_asked = Arc::clone(&self.is_asked);
        watcher(self.api.clone(), config).flat_map(move |event| {
            let is_of_list = matches!(event, Ok(Event::Init | Event::InitApply(_) | Event::InitDone));
            let is_first = is_of_list && is_asked.swap(false, Ordering::Relaxed);
            let begins = is_first && !matches!(event, Ok(Event::Init));
            stream::iter(begins.then_some(Ok(Event::Init)).into_iter().chain([event]))
        })
    }
}

/// What the server answered instead: a request for a watch that it refuses looks like one that has begun.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Whether a watch was given up since nothing came, which says nothing of the server.
pub(super) fn is_silent(error: &Error) -> bool {
    matches!(error, Error::WatchFailed(error) if is_silence(error))
}

pub(super) fn is_absent(error: &Error) -> bool {
    status(error) == Some(404)
}

/// Whether a server says what is no watch's event: so of a kind that it does not know. Asked for a list, it says it properly.
pub(super) fn is_text(error: &Error) -> bool {
    matches!(error, Error::WatchFailed(kube::Error::SerdeError(_)))
}

pub(super) fn is_forbidden(error: &Error) -> bool {
    status(error) == Some(403)
}

/// Whether a server may refuse to stream lists: older ones, those where it is switched off, and those whose etcd is too
/// old for it, which say so as an internal error of the stream.
pub(super) fn wants_list(error: &Error) -> bool {
    matches!(status(error), Some(400 | 422 | 500)) || is_text(error)
}

#[cfg(test)]
pub(in crate::kube) mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Service;
    use kube::ResourceExt as _;
    use kube::api::{ApiResource, DynamicObject};
    use serde_json::{Value, json};
    use wayspan_tests::{Reply, Request, Upstream};

    use super::super::client::{Limits, limited};
    use super::*;

    /// The end of a list that comes as a stream.
    pub(in crate::kube) const END: &str = r#"{"type":"BOOKMARK","object":{"kind":"K","apiVersion":"v1","metadata":{"resourceVersion":"5","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    /// What a watch missed is not known any more.
    pub(in crate::kube) const EXPIRED: &str =
        r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"too old","code":410}}"#;

    /// A client that waits for two seconds at most.
    pub(in crate::kube) fn client(server: &Upstream) -> Client {
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let most = Duration::from_secs(2);
        limited(config, Limits { connect: most, answer: most, silence: most }).unwrap()
    }

    /// A server that answers one request for a list after the other, the last answer again and again, and others as told.
    pub(in crate::kube) fn lists<const N: usize>(
        answers: [Reply; N],
        other: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Upstream {
        let asked = AtomicUsize::new(0);
        let server = Upstream::start(move |request| match request.target.contains(STREAMED) {
            true => answers[asked.fetch_add(1, Ordering::Relaxed).min(N - 1)].clone(),
            false => other(request),
        });
        server.unwrap()
    }

    /// An answer of lines, after which nothing comes, or the answer is over.
    pub(in crate::kube) fn streamed(lines: &[&str], is_over: bool) -> Reply {
        let chunk = |line: &&str| format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
        let chunks: String = lines.iter().map(chunk).collect();
        let end = if is_over { "0\r\n\r\n" } else { "" };
        Reply::raw(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}{end}").as_bytes())
    }

    /// An object without more than its name.
    pub(in crate::kube) fn named(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": name, "namespace": "default", "resourceVersion": "4"}})
    }

    pub(in crate::kube) fn added(object: &Value) -> String {
        json!({"type": "ADDED", "object": object}).to_string()
    }

    /// A whole list, of one page.
    pub(in crate::kube) fn page(objects: &[Value]) -> Reply {
        Reply::ok(&json!({"metadata": {"resourceVersion": "5"}, "items": objects}).to_string())
    }

    /// The server's word for why not.
    pub(in crate::kube) fn refused(code: u16) -> Reply {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code});
        let body = body.to_string();
        Reply::raw(format!("HTTP/1.1 {code} No\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    async fn heard(server: &Upstream, config: Config, count: usize) -> Vec<String> {
        let kind = ApiResource::erase::<Service>(&());
        let feed = Feed::new(&client(server), |client| Api::<DynamicObject>::all_with(client, &kind));
        let events = feed.events(config).take(count).map(|event| match event {
            Ok(Event::Init) => "begins".to_owned(),
            Ok(Event::InitDone) => "ends".to_owned(),
            Ok(Event::InitApply(one) | Event::Apply(one) | Event::Delete(one)) => one.name_any(),
            Err(_) => "fails".to_owned(),
        });
        events.collect().await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_list_begins_also_behind_one_that_broke_off_without_a_word_and_not_at_each_error() {
        let [a, b, c] = ["a", "b", "c"].map(|name| added(&named(name)));
        let server = lists(
            [
                streamed(&[&a, &b], true),
                streamed(&[&b, "what cannot be read", &c, END, &a, EXPIRED], true),
                streamed(&[END], false),
            ],
            |_| Reply::default(),
        );
        let heard = heard(&server, Config::default().streaming_lists(), 12).await;
        let [first, second, third] = [&heard[..3], &heard[3..10], &heard[10..]];
        assert_eq!(first, ["begins", "a", "b"]);
        assert_eq!(second, ["begins", "b", "fails", "c", "ends", "a", "fails"]);
        assert_eq!(third, ["begins", "ends"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_list_in_pages_begins_once() {
        let server = lists([Reply::default()], |_| page(&[named("a")]));
        assert_eq!(heard(&server, Config::default(), 3).await, ["begins", "a", "ends"]);
    }
}
