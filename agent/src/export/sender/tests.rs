//! The sender against a collector of real sockets that follows a script. What the collector took and what the counts
//! say must agree, at the end and at every moment before.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::record::Method;
use wayspan_proxy::sampling::Policy;

use super::*;
use crate::config::model::{ClientTls, OtlpProtocol};
use crate::export::internal::{InternalRequest, InternalSpans};
use crate::export::proto;
use crate::export::resource::{HostFacts, OwnPod};
use crate::export::testing::{otlp, thread_cpu_ns, tracing};

/// What the collector does with one request, after it has read it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Accept,
    /// Accepts all but so many spans.
    Reject(u64),
    ComeBack,
    Refuse,
    /// Never answers.
    Hang,
    /// Closes the connection.
    Drop,
}
use Step::{Accept, ComeBack, Drop, Hang, Refuse, Reject};

/// What it saw. Accepts what comes after its script.
#[derive(Default)]
struct Collector {
    script: Mutex<VecDeque<Step>>,
    requests: Mutex<Vec<(http::request::Parts, ExportTraceServiceRequest)>>,
    /// Spans that it has said it took.
    accepted: AtomicU64,
}

impl Collector {
    /// Serves both protocols on an address until the set is dropped.
    async fn serve(self: &Arc<Self>, address: &str, protocol: OtlpProtocol) -> (SocketAddr, JoinSet<()>) {
        self.serve_by(address, protocol, |socket| std::future::ready(Some(socket))).await
    }

    /// The same on what `secure` makes of each socket.
    async fn serve_by<S, F>(
        self: &Arc<Self>,
        address: &str,
        protocol: OtlpProtocol,
        secure: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> (SocketAddr, JoinSet<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Arc::clone(self);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (collector, secured) = (Arc::clone(&collector), secure(socket));
                connections.spawn(async move {
                    let Some(stream) = secured.await else { return };
                    let io = TokioIo::new(stream);
                    let closed = CancellationToken::new();
                    let service = service_fn(|request| {
                        let (collector, closed) = (Arc::clone(&collector), closed.clone());
                        async move { collector.answer(request, protocol, closed).await }
                    });
                    let served = async {
                        match protocol {
                            OtlpProtocol::Grpc => {
                                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                                drop(builder.serve_connection(io, service).await);
                            }
                            OtlpProtocol::Http => {
                                drop(hyper::server::conn::http1::Builder::new().serve_connection(io, service).await);
                            }
                        }
                    };
                    tokio::select! {
                        () = closed.cancelled() => {}
                        () = served => {}
                    }
                });
            }
        });
        (address, task)
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
        protocol: OtlpProtocol,
        closed: CancellationToken,
    ) -> Result<http::Response<AnswerBody>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let message = if protocol == OtlpProtocol::Grpc { body.slice(5..) } else { body };
        let message = ExportTraceServiceRequest::decode(message).unwrap();
        let spans = count(&message);
        self.requests.lock().unwrap().push((parts, message));
        let step = self.script.lock().unwrap().pop_front().unwrap_or(Accept);
        match step {
            Accept => self.accepted.fetch_add(spans, Ordering::SeqCst),
            Reject(rejected) => self.accepted.fetch_add(spans - rejected, Ordering::SeqCst),
            ComeBack | Refuse => 0,
            Drop => {
                closed.cancel();
                std::future::pending().await
            }
            Hang => std::future::pending().await,
        };
        Ok(match protocol {
            OtlpProtocol::Grpc => grpc(step),
            OtlpProtocol::Http => http(step),
        })
    }

    fn seen(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

type AnswerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn count(request: &ExportTraceServiceRequest) -> u64 {
    request.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|scope| scope.spans.len() as u64).sum()
}

fn body(step: Step) -> Vec<u8> {
    let rejected = |rejected: u64| ExportTracePartialSuccess { rejected_spans: rejected as i64, ..Default::default() };
    let partial_success = if let Reject(count) = step { Some(rejected(count)) } else { None };
    ExportTraceServiceResponse { partial_success }.encode_to_vec()
}

fn grpc(step: Step) -> http::Response<AnswerBody> {
    let status = http::HeaderName::from_static("grpc-status");
    let (frame, trailers) = match step {
        ComeBack | Refuse => (Vec::new(), None),
        step => {
            let message = body(step);
            let mut frame = vec![0];
            frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            frame.extend_from_slice(&message);
            (frame, Some(Ok(http::HeaderMap::from_iter([(status.clone(), "0".parse().unwrap())]))))
        }
    };
    let body = Full::new(Bytes::from(frame)).with_trailers(std::future::ready(trailers)).boxed_unsync();
    let mut response = http::Response::new(body);
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    match step {
        ComeBack => response.headers_mut().insert(status, "14".parse().unwrap()),
        Refuse => response.headers_mut().insert(status, "3".parse().unwrap()),
        _ => None,
    };
    response
}

fn http(step: Step) -> http::Response<AnswerBody> {
    let mut response = http::Response::new(Full::new(Bytes::from(body(step))).boxed_unsync());
    *response.status_mut() = match step {
        ComeBack => http::StatusCode::SERVICE_UNAVAILABLE,
        Refuse => http::StatusCode::BAD_REQUEST,
        _ => http::StatusCode::OK,
    };
    response
}

/// An exporter and its collector.
struct World {
    collector: Arc<Collector>,
    exporter: Exporter,
    counts: Arc<SpanCounts>,
    writer: BatchWriter,
    _serving: JoinSet<()>,
}

fn resource() -> Resource {
    Resource::new(&tracing(), &HostFacts::default(), &OwnPod::default(), "")
}

fn start(otlp: &Otlp) -> (Exporter, Arc<SpanCounts>, BatchWriter) {
    let exporter = Exporter::start(otlp, &resource(), 7, &Handle::current()).unwrap();
    let (counts, writer) = (exporter.counts(), exporter.writer());
    (exporter, counts, writer)
}

impl World {
    async fn new(protocol: OtlpProtocol, script: &[Step], timeout: Duration) -> Self {
        let collector = Arc::new(Collector::default());
        collector.script.lock().unwrap().extend(script);
        let (address, serving) = collector.serve("127.0.0.1:0", protocol).await;
        let settings = Otlp { protocol, timeout, ..otlp(&format!("http://{address}")) };
        let (exporter, counts, writer) = start(&settings);
        Self { collector, exporter, counts, writer, _serving: serving }
    }

    /// One batch of three spans.
    fn push(&mut self) {
        push(&mut self.writer, 3);
        self.writer.flush();
    }

    async fn settled(&self) {
        eventually(|| self.check().pending() == 0).await;
    }

    /// What holds at every moment: nothing counts as sent that the collector has not taken before.
    fn check(&self) -> super::super::counts::Totals {
        let totals = self.counts.read();
        assert!(totals.sent <= self.collector.accepted.load(Ordering::SeqCst));
        assert_eq!(totals.made, totals.sent + totals.lost() + totals.pending());
        assert_eq!(totals.pending() == 0, totals.pending_bytes == 0);
        totals
    }
}

fn push(writer: &mut BatchWriter, spans: u32) {
    writer.push(|out| {
        for index in 0..spans {
            let span = Span { name: format!("span {index}"), ..Span::default() };
            proto::bytes(out, proto::length_tag(2), &span.encode_to_vec());
        }
        spans
    });
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it holds in the end");
}

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(30);

/// Script, timeout; spans sent, lost, requests seen.
type Case = (&'static [Step], Duration, u64, [u64; Loss::COUNT], usize);

#[tokio::test]
async fn every_answer_settles_its_spans() {
    let cases: [Case; 7] = [
        (&[Accept], LATE, 3, [0; 6], 1),
        (&[Reject(2)], LATE, 1, [0, 2, 0, 0, 0, 0], 1),
        (&[Refuse], LATE, 0, [0, 0, 3, 0, 0, 0], 1),
        (&[ComeBack, Accept], LATE, 3, [0; 6], 2),
        (&[ComeBack, ComeBack, Reject(1)], LATE, 2, [0, 1, 0, 0, 0, 0], 3),
        (&[Hang], SOON, 0, [0, 0, 0, 0, 3, 0], 1),
        (&[Drop], LATE, 0, [0, 0, 0, 0, 3, 0], 1),
    ];
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        for (script, timeout, sent, lost_by, requests) in cases {
            let mut world = World::new(protocol, script, timeout).await;
            world.push();
            world.settled().await;
            let totals = world.counts.read();
            assert_eq!((totals.made, totals.sent, totals.lost_by), (3, sent, lost_by), "{protocol:?} {script:?}");
            assert_eq!(world.collector.seen(), requests, "{protocol:?} {script:?}");
            assert_eq!(world.exporter.is_healthy(), sent > 0);
            // Whatever happened, the next batch arrives.
            world.push();
            world.settled().await;
            assert_eq!((world.counts.read().sent, world.exporter.is_healthy()), (sent + 3, true));
        }
    }
}

#[tokio::test]
async fn requests_are_whole_and_carry_the_configured_headers() {
    for (protocol, path) in [
        (OtlpProtocol::Grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        (OtlpProtocol::Http, "/v1/traces"),
    ] {
        let mut world = World::new(protocol, &[], LATE).await;
        world.push();
        world.settled().await;
        let requests = world.collector.requests.lock().unwrap();
        let (parts, message) = &requests[0];
        assert_eq!((parts.uri.path(), parts.headers["x-tenant"].to_str().unwrap()), (path, "blue"));
        let spans = &message.resource_spans[0];
        let service = spans.resource.as_ref().unwrap().attributes.iter().find(|a| a.key == "service.name");
        assert!(service.is_some());
        let scope = &spans.scope_spans[0];
        assert_eq!((scope.scope.as_ref().unwrap().name.as_str(), scope.spans[2].name.as_str()), ("wayspan", "span 2"));
    }
}

#[tokio::test]
async fn counts_are_exact_whatever_the_collector_does() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let choices = [Accept, Accept, Accept, Reject(1), Reject(3), Refuse, Drop, ComeBack];
        let script: Vec<_> = (0..60).map(|_| choices[random.usize(..choices.len())]).collect();
        let protocol = if seed % 2 == 0 { OtlpProtocol::Grpc } else { OtlpProtocol::Http };
        let mut world = World::new(protocol, &script, LATE).await;
        for _ in 0..50 {
            world.push();
            for _ in 0..random.usize(..20) {
                tokio::task::yield_now().await;
                world.check();
            }
        }
        world.settled().await;
        let totals = world.counts.read();
        let accepted = world.collector.accepted.load(Ordering::SeqCst);
        assert_eq!((totals.made, totals.sent), (150, accepted), "seed {seed}");
        assert_eq!(totals.lost(), 150 - accepted);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_bounded_memory_and_gets_what_is_pending_when_it_is_back() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = Otlp { queue_spans: 100, ..otlp(&format!("http://{reserved}")) };
    let (exporter, counts, mut writer) = start(&settings);
    for _ in 0..500 {
        push(&mut writer, 1);
        assert!(counts.read().pending() <= 100);
        tokio::task::yield_now().await;
    }
    eventually(|| !exporter.is_healthy()).await;
    assert_eq!((counts.read().pending(), counts.read().lost_by[Loss::QueueFull as usize]), (100, 400));
    let collector = Arc::new(Collector::default());
    let (_, _serving) = collector.serve(&reserved.to_string(), OtlpProtocol::Grpc).await;
    eventually(|| counts.read().pending() == 0).await;
    assert_eq!((counts.read().sent, collector.accepted.load(Ordering::SeqCst)), (100, 100));
}

#[test]
fn a_batch_is_tried_ever_more_rarely_for_a_minute() {
    for (random, asked) in [(0.0, None), (0.5, None), (1.0, None), (0.5, Some(Duration::from_secs(9)))] {
        let mut backoff = Backoff::default();
        let (mut tried_for, mut last) = (Duration::ZERO, Duration::ZERO);
        while let Some(wait) = backoff.next(tried_for, asked, random) {
            assert!(
                wait >= last
                    && wait >= asked.unwrap_or_default()
                    && wait <= BACKOFF_MAX.mul_f64(1.5).max(asked.unwrap_or_default())
            );
            (tried_for, last) = (tried_for + wait, wait);
        }
        assert!(tried_for <= TRIED_FOR && tried_for > TRIED_FOR - asked.unwrap_or(BACKOFF_MAX.mul_f64(1.5)));
    }
    assert_eq!(Backoff::default().next(Duration::ZERO, Some(Duration::MAX), 0.5), None);
}

#[tokio::test]
async fn shutdown_sends_what_is_pending() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let mut world = World::new(protocol, &[ComeBack], LATE).await;
        (0..20).for_each(|_| world.push());
        push(&mut world.writer, 2);
        let World { exporter, counts, writer, .. } = world;
        drop(writer);
        exporter.shutdown(LATE).await;
        assert_eq!((counts.read().sent, counts.read().pending()), (62, 0));
    }
}

#[tokio::test]
async fn shutdown_ends_in_time_and_counts_the_rest_as_lost() {
    let mut world = World::new(OtlpProtocol::Grpc, &[Hang; 4], LATE).await;
    (0..20).for_each(|_| world.push());
    eventually(|| world.collector.seen() == LANES_MAX).await;
    let World { exporter, counts, mut writer, .. } = world;
    exporter.shutdown(Duration::from_millis(10)).await;
    let totals = counts.read();
    assert_eq!((totals.pending(), totals.lost_by[Loss::Shutdown as usize]), (0, 60));
    push(&mut writer, 5);
    drop(writer);
    assert_eq!((counts.read().pending(), counts.read().lost_by[Loss::Shutdown as usize]), (0, 65));
}

#[tokio::test]
async fn requests_to_the_agent_leave_spans_through_opentelemetrys_exporter() {
    let world = World::new(OtlpProtocol::Grpc, &[], LATE).await;
    let policy = Arc::new(ArcSwap::from_pointee(Policy::ratio(1.0)));
    let (spans, task) =
        InternalSpans::start(&world.exporter, &resource(), Arc::clone(&policy), 7, &Handle::current()).unwrap();
    let request = |route: &'static str, status| InternalRequest {
        method: Method::Get,
        route: route.into(),
        path: "/ping".to_owned(),
        status,
        started: MonoNs(5_000_000),
        ended: MonoNs(7_000_000),
        entry_point: "api".into(),
        peer: "127.0.0.1:5".parse().unwrap(),
    };
    spans.internal_request(request("/ping", 200));
    eventually(|| world.check().sent == 1).await;
    policy.store(Arc::new(Policy::ratio(0.0)));
    spans.internal_request(request("/not-kept", 200));
    drop(spans);
    task.finish().await;
    world.settled().await;
    assert_eq!((world.counts.read().made, world.collector.seen()), (1, 1));
    let requests = world.collector.requests.lock().unwrap();
    let span = &requests[0].1.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(
        (span.name.as_str(), span.kind, span.end_time_unix_nano - span.start_time_unix_nano),
        ("GET /ping", 2, 2_000_000)
    );
    for key in ["entry_point", "http.route", "http.response.status_code", "sampler.type", "sampler.param"] {
        assert!(span.attributes.iter().any(|attribute| attribute.key == key), "{key}");
    }
}

/// Prints what delivering a span costs the sender's thread.
#[test]
#[ignore = "a measurement: cargo test --release -p wayspan-agent -- --ignored --nocapture cost_of_delivery"]
fn cost_of_delivery() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let collector = Arc::new(Collector::default());
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            runtime().block_on(async {
                let (address, mut serving) = collector.serve("127.0.0.1:0", protocol).await;
                send.send(address).unwrap();
                serving.join_next().await
            })
        });
        let address = receive.recv().unwrap();
        runtime().block_on(async {
            let settings = Otlp { protocol, batch_spans: 512, queue_spans: 4096, ..otlp(&format!("http://{address}")) };
            let (exporter, counts, mut writer) = start(&settings);
            let span = Span { name: "x".repeat(800), ..Span::default() }.encode_to_vec();
            let mut begun = 0;
            for batch in 0..400 {
                if batch == 100 {
                    begun = thread_cpu_ns();
                }
                while counts.read().pending() > 2048 {
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                for _ in 0..512 {
                    writer.push(|out| {
                        proto::bytes(out, proto::length_tag(2), &span);
                        1
                    });
                }
            }
            drop(writer);
            exporter.shutdown(LATE).await;
            println!("{protocol:?}: {} ns a span, {:?}", (thread_cpu_ns() - begun) / (300 * 512), counts.read());
        });
    }
}

#[tokio::test]
async fn a_receiver_is_believed_by_its_certificate_alone() {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        for (ca, insecure_skip_verify, sent) in
            [(own.cert.der(), false, 3), (other.cert.der(), false, 0), (other.cert.der(), true, 3)]
        {
            let collector = Arc::new(Collector::default());
            let acceptor = acceptor.clone();
            let secure = move |socket| {
                let accepting = acceptor.accept(socket);
                async move { accepting.await.ok() }
            };
            let (address, _serving) = collector.serve_by("127.0.0.1:0", protocol, secure).await;
            let tls = ClientTls { ca: vec![ca.clone()], insecure_skip_verify, ..ClientTls::default() };
            let settings = Otlp { protocol, tls, ..otlp(&format!("https://{address}")) };
            let (exporter, counts, mut writer) = start(&settings);
            push(&mut writer, 3);
            writer.flush();
            eventually(|| counts.read().sent == sent && exporter.is_healthy() == (sent > 0)).await;
            drop(writer);
            exporter.shutdown(SOON).await;
            let totals = counts.read();
            assert_eq!((totals.made, totals.sent, totals.lost(), totals.pending()), (3, sent, 3 - sent, 0));
            assert_eq!(collector.accepted.load(Ordering::SeqCst), sent, "{protocol:?} {insecure_skip_verify}");
        }
    }
}
