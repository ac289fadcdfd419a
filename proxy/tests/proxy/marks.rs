//! Which bytes' times the proxy asks for: joins are by exact offsets, so one byte off is another request's time, or a
//! later segment's.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, mpsc};

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::middleware::ForwardAuth;
use wayspan_proxy::observer::{BackendAsk, BackendMarks, Marks, SocketObserver, Token};

use super::*;

const WAIT: Duration = Duration::from_secs(10);
const CLIENT: Token = Token { generation: 1, slot: 1 };
const UPSTREAM: Token = Token { generation: 1, slot: 2 };

/// Notes what it is asked.
#[derive(Clone, Default)]
pub(super) struct Watcher(pub(super) Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) client: Vec<Range<u64>>,
    upstream: Vec<Range<u64>>,
    backend: Vec<BackendAsk>,
    /// Where it was told that another answer begins.
    answers: Vec<u64>,
    /// Where the latch was armed, of a client's connection and of an upstream's: nothing was asked.
    armed: [Vec<u64>; 2],
    /// Of either connection's bytes from there on the times are lost.
    lost_from: Option<u64>,
}

impl SocketObserver for Watcher {
    fn listening(&self, _: BorrowedFd<'_>) {}
    fn accepted(&self, _: BorrowedFd<'_>) -> Token {
        CLIENT
    }
    fn connecting(&self, _: BorrowedFd<'_>) -> Token {
        UPSTREAM
    }
    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        let mut asked = self.0.lock().unwrap();
        let is_lost = !bytes.is_empty() && asked.lost_from.is_some_and(|from| bytes.start >= from);
        let [of_client, of_upstream] = &mut asked.armed;
        match (bytes.is_empty(), token == CLIENT) {
            (true, true) => of_client.push(bytes.start),
            (true, false) => of_upstream.push(bytes.start),
            (false, true) => asked.client.push(bytes),
            (false, false) => asked.upstream.push(bytes),
        }
        let missing = if is_lost { Missing::OVERWRITTEN } else { Missing::NOTHING };
        Marks { missing, ..Marks::default() }
    }
    fn backend(&self, token: Token, ask: BackendAsk) -> BackendMarks {
        assert_eq!(token, UPSTREAM);
        self.0.lock().unwrap().backend.push(ask);
        BackendMarks::default()
    }
    fn answers(&self, token: Token, start: u64) {
        assert_eq!(token, CLIENT);
        self.0.lock().unwrap().answers.push(start);
    }
    fn closed(&self, _: Token) {}
    fn absence(&self) -> Missing {
        Missing::NOTHING
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n";
const BODY: &str = "0123456789012345678901234567890123456789";

#[test]
fn times_are_asked_for_by_the_offsets_of_the_very_bytes() {
    // The server sends its response byte by byte, the body only as fast as the client reads it.
    let (got, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let address = upstream(move |_, stream| {
        stream.set_nodelay(true).unwrap();
        for byte in HEAD.bytes() {
            stream.write_all(&[byte]).unwrap();
        }
        BODY.bytes().all(|byte| {
            stream.write_all(&[byte]).unwrap();
            may_go_on.lock().unwrap().recv_timeout(WAIT).is_ok()
        })
    });
    let watcher = Watcher::default();
    let world = Setup::to(address).start_with(watcher.clone());
    let mut client = world.connect();
    let requests = [get("/a"), get("/bb"), get("/ccc")];
    let mut answers = Vec::new();
    let mut taken = 0;
    for request in &requests {
        client.write_all(request.as_bytes()).unwrap();
        answers.push(taken);
        taken += u64::try_from(read_head(&mut client).unwrap().len() + BODY.len()).unwrap();
        for byte in BODY.bytes() {
            let mut one = [0];
            client.read_exact(&mut one).unwrap();
            assert_eq!(one[0], byte);
            got.send(()).unwrap();
        }
    }

    let asked = watcher.0.lock().unwrap();
    assert_eq!(asked.answers, answers);
    let size = |text: &str| u64::try_from(text.len()).unwrap();
    let (head, response) = (size(HEAD), size(HEAD) + size(BODY));
    // Of a request: its first byte and its head's last.
    let ends: Vec<u64> = requests
        .iter()
        .scan(0, |end, request| {
            *end += size(request);
            Some(*end)
        })
        .collect();
    let starts = [0, ends[0], ends[1]];
    let expected: Vec<Range<u64>> =
        starts.iter().zip(&ends).flat_map(|(start, end)| [*start..start + 1, end - 1..*end]).collect();
    assert_eq!(asked.client, expected);
    // Of a response: its first byte, and the first byte of each read that the proxy had waited for.
    let mut body_asks = 0;
    for turn in 0..3 {
        let start = turn * response;
        let of_this: Vec<_> =
            asked.upstream.iter().filter(|range| (start..start + response).contains(&range.start)).collect();
        let (first, rest) = of_this.split_first().unwrap();
        assert_eq!(**first, start..start + 1);
        for range in rest {
            assert!(range.start > start && range.end == range.start + 1, "{range:?} of {start}");
        }
        assert!(rest.is_sorted_by_key(|range| range.start));
        body_asks += rest.len();
    }
    assert_eq!(body_asks + 3, asked.upstream.len(), "{asked:?}");
    let reads = (head + 1..response).map(|offset| offset..offset + 1);
    // The server's next byte comes only after the client has the one before, so the proxy mostly waits for it.
    assert!(reads.filter(|range| asked.upstream.contains(range)).count() > BODY.len() / 2, "{asked:?}");
    let backend: Vec<_> = asked.backend.iter().map(|ask| ask.response_start).collect();
    assert_eq!(backend, [0, response, 2 * response]);
    let [_, armed] = &asked.armed;
    let is_armed = |range: &Range<u64>| range.start == 0 || armed.contains(&range.start);
    assert!(asked.upstream.iter().all(is_armed), "each byte that was asked for, before it could come: {asked:?}");
    assert_eq!(armed.last(), Some(&(3 * response)), "and the next response's first");
    for (ask, before) in asked.backend.iter().zip([None, asked.backend.first(), asked.backend.get(1)]) {
        let begins = before.map_or(0, |before| before.request_end);
        assert!(ask.head_end > begins && ask.request_end == ask.head_end, "{asked:?}");
    }
}

/// A server that takes an upload as long as `BODY` byte by byte, and then sends its response so, each byte when it may.
fn by_bytes(got: mpsc::Sender<()>, may_go_on: mpsc::Receiver<()>) -> SocketAddr {
    let may_go_on = Mutex::new(may_go_on);
    upstream(move |_, stream| {
        for _ in BODY.bytes() {
            stream.read_exact(&mut [0]).unwrap();
            got.send(()).unwrap();
        }
        stream.set_nodelay(true).unwrap();
        stream.write_all(HEAD.as_bytes()).unwrap();
        BODY.bytes()
            .all(|byte| may_go_on.lock().unwrap().recv_timeout(WAIT).is_ok() && stream.write_all(&[byte]).is_ok())
    })
}

#[test]
fn a_bodys_times_are_asked_for_where_its_reads_began_and_those_lost_are_told() {
    let upload = format!(
        "POST /upload-of-a-head-that-is-longer-than-the-response HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: {}\r\n\r\n",
        BODY.len()
    );
    let size = |text: &str| u64::try_from(text.len()).unwrap();
    let behind = size(&upload);
    for (lost_from, of_client, of_upstream) in [
        (None, Missing::NOTHING, Missing::NOTHING),
        // The upload is longer than the response.
        (Some(behind + 5), Missing::OVERWRITTEN, Missing::NOTHING),
        (Some(size(HEAD) + 5), Missing::OVERWRITTEN, Missing::OVERWRITTEN),
    ] {
        let (got, was_got) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let watcher = Watcher::default();
        watcher.0.lock().unwrap().lost_from = lost_from;
        let mut world = Setup::to(by_bytes(got, may_go_on)).start_with(watcher.clone());
        let mut client = world.connect();
        client.write_all(upload.as_bytes()).unwrap();
        for byte in BODY.bytes() {
            client.write_all(&[byte]).unwrap();
            was_got.recv_timeout(WAIT).unwrap();
        }
        read_head(&mut client).unwrap();
        for _ in BODY.bytes() {
            go_on.send(()).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let record = &world.records(1)[0];
        assert_eq!((record.head.client_missing, record.attempts[0].missing), (of_client, of_upstream), "{lost_from:?}");

        let asked = watcher.0.lock().unwrap();
        let [armed, _] = &asked.armed;
        let (heads, body) = asked.client.split_at(2);
        assert_eq!(heads, [0..1, behind - 1..behind]);
        for range in body {
            assert!(range.start >= behind && range.end == range.start + 1, "{range:?}");
            assert!(armed.contains(&range.start), "before it could come: {range:?} {asked:?}");
        }
        // The client's next byte comes only after the server has the one before, so the proxy mostly waits for it.
        assert!(body.len() > BODY.len() / 2, "{asked:?}");
        assert_eq!(armed.last(), Some(&(behind + size(BODY))), "and the next request's first");
    }
}

#[test]
fn where_no_answer_came_the_kernel_is_asked_what_became_of_the_request() {
    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\n\r\n";
    // Nothing, an interim response alone, and at last a real one.
    let address = upstream(move |head, stream| {
        let answer = match () {
            () if head.starts_with("POST /silent") => "",
            () if head.starts_with("POST /interim") => INTERIM,
            () => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
        answer.len() > INTERIM.len()
    });
    let watcher = Watcher::default();
    let mut world = Setup::to(address).start_with(watcher.clone());
    let size = |text: &str| u64::try_from(text.len()).unwrap();
    for (path, read) in [("/silent", ""), ("/interim", INTERIM), ("/answered", "")] {
        let mut client = world.connect();
        write!(client, "POST {path} HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 0\r\n\r\n").unwrap();
        read_head(&mut client).unwrap();
        let attempt = world.records(1)[0].attempts[0];
        let asked = std::mem::take(&mut *watcher.0.lock().unwrap());
        let last = asked.backend.last().unwrap();
        let request_end = attempt.request_end;
        assert!(request_end > 0);
        assert_eq!(*last, BackendAsk { head_end: request_end, request_end, response_start: size(read) }, "{path}");
        assert_eq!(asked.upstream.last(), Some(&(size(read)..size(read) + 1)), "{path}");
        assert_eq!(asked.backend.len(), if read.is_empty() { 1 } else { 2 }, "{path}");
    }
}

/// Says of connections to servers that they were made this long after it had heard of them, and of their bytes that they
/// had been readable since then, or nothing.
#[derive(Clone, Default)]
struct Foresees {
    took_ns: u64,
    readable: bool,
    heard: Arc<Mutex<MonoNs>>,
}

impl SocketObserver for Foresees {
    fn listening(&self, _: BorrowedFd<'_>) {}
    fn accepted(&self, _: BorrowedFd<'_>) -> Token {
        CLIENT
    }
    fn connecting(&self, _: BorrowedFd<'_>) -> Token {
        *self.heard.lock().unwrap() = MonoNs::now();
        UPSTREAM
    }
    fn marks(&self, token: Token, bytes: Range<u64>) -> Marks {
        let heard = *self.heard.lock().unwrap();
        let mut marks = Marks::default();
        if token == UPSTREAM && self.took_ns > 0 {
            marks.established = MonoNs(heard.0 + self.took_ns);
        }
        if token == UPSTREAM && self.readable && !bytes.is_empty() {
            marks.first = heard;
        }
        marks
    }
    fn backend(&self, _: Token, _: BackendAsk) -> BackendMarks {
        BackendMarks::default()
    }
    fn closed(&self, _: Token) {}
    fn absence(&self) -> Missing {
        Missing::NOTHING
    }
}

#[test]
fn a_server_is_connected_when_the_kernel_says_so() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    // One nanosecond is long before anybody can notice, an hour is no time of this attempt's.
    for (took_ns, is_known) in [(1, true), (0, false), (HOUR_NS, false)] {
        let observer = Foresees { took_ns, ..Foresees::default() };
        let mut world = Setup::to(upstream(ok("done"))).start_with(observer.clone());
        let mut client = world.connect();
        for path in ["/new", "/pooled"] {
            client.write_all(get(path).as_bytes()).unwrap();
            assert_eq!(response(&mut client).1, b"done");
        }
        let records = world.records(2);
        let [new, pooled] = [&records[0].attempts[0], &records[1].attempts[0]];
        let established = MonoNs(observer.heard.lock().unwrap().0 + took_ns);
        assert_eq!(new.connected == established, is_known, "{took_ns}: {new:?}");
        assert_eq!(new.secured, new.connected);
        // The connection is as old as before: noticed is when it can be used.
        assert!(established < new.opened || !is_known, "{new:?}");
        assert!((new.chosen..=new.head_written).contains(&new.connected), "{new:?}");
        assert_eq!((pooled.reused, pooled.connected), (true, pooled.chosen));
    }
}

#[test]
fn a_middleware_waits_until_its_answer_is_readable_and_no_longer() {
    const PAUSE: Duration = Duration::from_millis(40);
    let auth = upstream(|_, stream| {
        std::thread::sleep(PAUSE);
        ok("")("", stream)
    });
    let middlewares = vec![super::middlewares::asks(auth, ForwardAuth::default())];
    let setup = Setup { middlewares, ..Setup::to(upstream(ok("done"))) };
    for readable in [false, true] {
        let mut world = setup.start_with(Foresees { readable, ..Foresees::default() });
        let mut client = world.connect();
        client.write_all(get("/").as_bytes()).unwrap();
        assert_eq!(response(&mut client).1, b"done");
        let left = world.records(1).remove(0);
        let call = &left.calls[0];
        let unread_ns = if readable { call.first_read.since(call.first_readable) } else { 0 };
        assert!(!readable || Duration::from_nanos(unread_ns) >= PAUSE, "{call:?}");
        // Until it was read, and what the worker made of it then, less what lay unread.
        let (read_ns, wanted_ns) = (call.first_read.since(call.begun), left.head.upstream_wanted.since(call.begun));
        let waited_ns = left.head.middleware_wait_ns + unread_ns;
        assert!((read_ns..=wanted_ns).contains(&waited_ns), "{waited_ns}: {left:?}");
    }
}

#[test]
fn an_interim_response_in_halves_is_no_body_that_is_waited_for() {
    const PAUSE: Duration = Duration::from_millis(30);
    let address = upstream(|_, stream| {
        for half in ["HTTP/1.1 103 Early", " Hints\r\n\r\n"] {
            stream.write_all(half.as_bytes()).unwrap();
            std::thread::sleep(PAUSE);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").is_ok()
    });
    let mut world = Setup::to(address).start();
    let mut client = world.connect();
    client.write_all(get("/").as_bytes()).unwrap();
    assert_eq!(response(&mut client).1, b"done");
    let head = &world.records(1)[0].head;
    // All of both pauses was before the answer's first byte.
    assert!(Duration::from_nanos(head.body.upstream_body) < PAUSE, "{:?}", head.body);
}

#[test]
fn what_ends_an_upload_is_asked_for_before_what_comes_behind_it() {
    let (got, was_got) = mpsc::channel();
    let address = upstream(move |head, stream| {
        for _ in 0..if head.starts_with("POST") { 2 } else { 0 } {
            stream.read_exact(&mut [0]).unwrap();
            got.send(()).unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").is_ok()
    });
    let watcher = Watcher::default();
    let world = Setup::to(address).start_with(watcher.clone());
    let mut client = world.connect();
    client.write_all(b"POST / HTTP/1.1\r\nHost: app.localhost\r\ncontent-length: 2\r\n\r\n1").unwrap();
    was_got.recv_timeout(WAIT).unwrap();
    // The proxy waits for more, and the next request comes with it.
    client.write_all(format!("2{}", get("/next")).as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(response(&mut client).1, b"done");
    }
    // Each question moves the latch on: the later one would cost the earlier one's time.
    let asked = watcher.0.lock().unwrap();
    assert!(asked.client.is_sorted_by_key(|range| range.start), "{asked:?}");
}
