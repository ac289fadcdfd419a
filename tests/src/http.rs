//! A small HTTP/1.1 client over plain sockets that shows exactly what came: no pool, no redirects, no retries. Tests can
//! send raw bytes through it. Not for production use.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::time::PATIENCE;

// A test's answers are small; a runaway one must not fill memory.
const BODY_MAX: u64 = 64 << 20;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names as they came.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of that name, any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text, bad UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none; with its first bytes.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, not JSON: {:.200}", self.status, self.text()))
    }
}

/// A connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; reads and writes give up after [`PATIENCE`].
    ///
    /// # Errors
    /// The system's.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The socket itself, e.g. to shut down one side or to set options.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are, at once (TCP_NODELAY).
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref()).context("send")
    }

    /// Sends one request with a body and reads its answer.
    ///
    /// # Errors
    /// The system's, or an answer that is no HTTP/1.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut message = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            message.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(body);
        self.send(&message)?;
        self.read_response(method)
    }

    /// Sends a GET and reads its answer.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn get(&mut self, host: &str, target: &str) -> Result<Response> {
        self.request("GET", host, target, &[], &[])
    }

    /// Reads one answer to a request of that method; interim answers (1xx but 101) are passed over.
    ///
    /// # Errors
    /// The system's, or an answer that is no HTTP/1.
    pub fn read_response(&mut self, method: &str) -> Result<Response> {
        loop {
            let (status, headers) = self.read_head()?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            if method != "HEAD" && !matches!(status, 101 | 204 | 304) {
                response.body = self.read_body(&response)?;
            }
            return Ok(response);
        }
    }

    /// Whether the peer has closed: reads on and finds the end (or a reset) and no further byte.
    #[must_use]
    pub fn is_closed_by_peer(&mut self) -> bool {
        match self.reader.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
        }
    }

    fn read_head(&mut self) -> Result<(u16, Vec<(String, String)>)> {
        let line = self.read_line()?;
        let mut parts = line.splitn(3, ' ');
        let status = match (parts.next(), parts.next()) {
            (Some("HTTP/1.1" | "HTTP/1.0"), Some(code)) => {
                code.parse().with_context(|| format!("status line {line:?}"))?
            }
            _ => bail!("not a status line: {line:?}"),
        };
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').with_context(|| format!("header line {line:?}"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(64 << 10).read_until(b'\n', &mut line).context("read")?;
        if read == 0 {
            bail!("the peer closed instead of answering");
        }
        let line = line.strip_suffix(b"\r\n").context("a line that does not end in CR LF")?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn read_body(&mut self, head: &Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.read_line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk size {line:?}"))?;
                if size == 0 {
                    while !self.read_line()?.is_empty() {}
                    return Ok(body);
                }
                self.read_exactly(size, &mut body)?;
                if !self.read_line()?.is_empty() {
                    bail!("a chunk longer than its size");
                }
            }
        }
        if let Some(length) = head.header("content-length") {
            let length = length.parse().with_context(|| format!("content-length {length:?}"))?;
            self.read_exactly(length, &mut body)?;
        } else {
            self.reader.by_ref().take(BODY_MAX).read_to_end(&mut body)?;
        }
        Ok(body)
    }

    fn read_exactly(&mut self, size: u64, body: &mut Vec<u8>) -> Result<()> {
        if size > BODY_MAX {
            bail!("a body of {size} bytes is more than a test takes");
        }
        let read = self.reader.by_ref().take(size).read_to_end(body)?;
        if u64::try_from(read)? != size {
            bail!("the body ended after {read} of {size} bytes");
        }
        Ok(())
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// As [`Connection::request`].
pub fn get(address: SocketAddr, host: &str, target: &str) -> Result<Response> {
    request(address, "GET", host, target)
}

/// One request without a body on a connection of its own.
///
/// # Errors
/// As [`Connection::request`].
pub fn request(address: SocketAddr, method: &str, host: &str, target: &str) -> Result<Response> {
    Connection::open(address)?.request(method, host, target, &[("connection", "close")], &[])
}

/// Whether something accepts connections there.
#[must_use]
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reply, Upstream};

    #[track_caller]
    fn check(raw: &str, method: &str, expected: Result<(u16, &str), &str>) {
        let raw = raw.to_owned();
        let upstream = Upstream::start(move |_| Reply::raw(raw.as_bytes()).then_close()).unwrap();
        let got = request(upstream.address(), method, "x", "/").map(|response| (response.status, response.text()));
        match (got, expected) {
            (Ok((status, text)), Ok(expected)) => assert_eq!((status, text.as_str()), expected),
            (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn answers_are_read_by_length_by_chunks_and_to_the_end() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "GET", Ok((200, "hi")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", Ok((200, "")));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "GET", Ok((204, "")));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1;x=y\r\n!\r\n0\r\n\r\n",
            "GET",
            Ok((200, "hi!")),
        );
        check("HTTP/1.0 502 Bad\r\n\r\nall of it", "GET", Ok((502, "all of it")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "GET", Err("ended after 2 of 9"));
        check("nonsense\r\n\r\n", "GET", Err("not a status line"));
    }
}
