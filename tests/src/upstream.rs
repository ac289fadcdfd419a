//! A scripted upstream: answers each request by a function, byte for byte as told, and remembers what it saw.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Target as it stands in the request line.
    pub target: String,
    /// Header fields in order, names as they came.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Which connection it came over, counted from 0.
    pub connection: usize,
}

impl Request {
    /// The first field of that name, any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// One step of an answer.
#[derive(Debug, Clone)]
pub enum Part {
    /// Sends these bytes in one write, without delay.
    Bytes(Vec<u8>),
    /// Waits: a delay that the test injects, not one that it hopes for.
    Pause(Duration),
    /// Closes the connection.
    Close,
    /// Ends it by a reset, as a crashed peer does.
    Reset,
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub struct Reply(
    /// Steps, in order.
    pub Vec<Part>,
);

impl Reply {
    /// 200 with that body and its length.
    #[must_use]
    pub fn ok(body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    /// These bytes.
    #[must_use]
    pub fn raw(bytes: &[u8]) -> Self {
        Self(vec![Part::Bytes(bytes.to_vec())])
    }

    /// The same after a delay.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.0.insert(0, Part::Pause(delay));
        self
    }

    /// The same, with one step more.
    #[must_use]
    pub fn then(mut self, part: Part) -> Self {
        self.0.push(part);
        self
    }

    /// The same, then closes the connection.
    #[must_use]
    pub fn then_close(self) -> Self {
        self.then(Part::Close)
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    requests: Mutex<Vec<Request>>,
    // Clones of all sockets, so that dropping the server ends its threads' reads.
    sockets: Mutex<Vec<TcpStream>>,
    stopping: AtomicBool,
}

/// A server on a free port of 127.0.0.1, one thread per connection. Dropping it closes everything.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on a free port.
    ///
    /// # Errors
    /// The system's.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// Listens there, e.g. again where it listened before.
    ///
    /// # Errors
    /// The system's.
    pub fn start_on(address: SocketAddr, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            requests: Mutex::default(),
            sockets: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order in which they were complete.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let Ok(clone) = stream.try_clone() else { continue };
        let connection = {
            let mut sockets = shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.push(clone);
            sockets.len() - 1
        };
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            // A peer that goes away ends this connection only.
            let _ended = serve(&stream, connection, &shared);
            let _closed = stream.shutdown(Shutdown::Both);
        }));
    }
    for socket in shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _closed = socket.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _joined = thread.join();
    }
}

fn serve(stream: &TcpStream, connection: usize, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, connection)? {
        let reply = (shared.answer)(&request);
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        for part in reply.0 {
            match part {
                Part::Bytes(bytes) => (&*stream).write_all(&bytes)?,
                Part::Pause(delay) => std::thread::sleep(delay),
                Part::Close => return Ok(()),
                Part::Reset => return reset(stream),
            }
        }
    }
    Ok(())
}

/// Ends the connection by RST: the kernel does so when a socket with lingering time zero is closed.
fn reset(stream: &TcpStream) -> Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    // Other clones keep the descriptor open, but a connect to "no address" ends the connection for all.
    rustix::net::connect_unspec(stream)?;
    Ok(())
}

fn read_request(reader: &mut BufReader<&TcpStream>, connection: usize) -> Result<Option<Request>> {
    let line = read_line(reader)?;
    if line.is_empty() {
        return Ok(None);
    }
    let mut parts = line.split(' ');
    let method = parts.next().unwrap_or_default().to_owned();
    let target = parts.next().context("a request line without target")?.to_owned();
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new(), connection };
    if let Some(length) = request.header("content-length") {
        let length = length.parse()?;
        reader.take(length).read_to_end(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let size = u64::from_str_radix(read_line(reader)?.split(';').next().unwrap_or_default().trim(), 16)?;
            if size > 0 {
                reader.take(size).read_to_end(&mut request.body)?;
                read_line(reader)?;
            } else {
                while !read_line(reader)?.is_empty() {}
                break;
            }
        }
    }
    Ok(Some(request))
}

fn read_line(reader: &mut BufReader<&TcpStream>) -> Result<String> {
    let mut line = String::new();
    reader.take(64 << 10).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Connection;

    #[test]
    fn it_keeps_connections_open_and_remembers_requests() {
        let upstream = Upstream::start(|request| Reply::ok(&request.target)).unwrap();
        let mut connection = Connection::open(upstream.address()).unwrap();
        for target in ["/a", "/b"] {
            assert_eq!(connection.request("POST", "h", target, &[], b"body").unwrap().text(), target);
        }
        let requests = upstream.requests();
        assert_eq!(requests.iter().map(|request| request.target.as_str()).collect::<Vec<_>>(), ["/a", "/b"]);
        assert!(requests.iter().all(|request| request.connection == 0 && request.body == b"body"));
        assert_eq!(upstream.connections(), 1);
    }

    #[test]
    fn a_reset_is_a_reset_and_not_an_end() {
        let upstream = Upstream::start(|_| Reply::default().then(Part::Reset)).unwrap();
        let mut connection = Connection::open(upstream.address()).unwrap();
        let error = connection.get("h", "/").unwrap_err();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "{error:#}");
    }
}
