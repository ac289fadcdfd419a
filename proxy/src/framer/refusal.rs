//! Why a stream was refused, and what a client is told. Where the answer is written is left to the caller.

use std::fmt;

/// A stream that must not be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Offset of the byte, or of the line, that decided it.
    pub offset: u64,
    /// Offset of the refused message's first byte: what came before it is good and may be answered.
    pub message_start: u64,
    /// Whether the message's head was accepted before.
    pub part: Part,
    /// What is wrong.
    pub reason: Reason,
}

/// Which part of a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its head: nobody has acted on it.
    Head,
    /// Its body: the head was reported before, and the exchange must be cut off.
    Body,
}

impl Refusal {
    /// A whole response for a client whose request was refused; the connection closes behind it.
    #[must_use]
    pub fn response(&self) -> &'static [u8] {
        match self.reason.status() {
            414 => {
                b"HTTP/1.1 414 URI Too Long\r\ncontent-type: text/plain\r\ncontent-length: 13\r\nconnection: close\r\n\r\nURI Too Long\n"
            }
            431 => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\ncontent-length: 32\r\nconnection: close\r\n\r\nRequest Header Fields Too Large\n"
            }
            505 => {
                b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: 27\r\nconnection: close\r\n\r\nHTTP Version Not Supported\n"
            }
            _ => {
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 12\r\nconnection: close\r\n\r\nBad Request\n"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason.text(), self.offset)
    }
}

impl std::error::Error for Refusal {}

macro_rules! reasons {
    ($($name:ident $status:literal $text:literal,)*) => {
        /// What is wrong with a stream.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = concat!("\"", $text, "\", status ", $status, ".")] $name,)*
        }

        impl Reason {
            /// Every reason, for counters and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// For logs: fixed texts, nothing of the peer's.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status a client is answered with.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

reasons! {
    BareLf 400 "line feed without carriage return",
    BareCr 400 "carriage return without line feed",
    Nul 400 "NUL byte",
    Control 400 "control character",
    EmptyLines 400 "empty lines where a message should begin",
    BadMethod 400 "method is not a token",
    BadRequestLine 400 "request line is not method, target and version",
    BadTarget 400 "space or control character in the request target",
    TargetTooLong 414 "request line passes the cap on heads",
    BadVersion 400 "no HTTP version",
    UnsupportedVersion 505 "not HTTP/1.0 or HTTP/1.1",
    BadStatusLine 400 "status line is not version and three digits",
    Folded 400 "folded header line",
    SpaceBeforeColon 400 "whitespace in or behind a header name",
    EmptyName 400 "empty header name",
    BadName 400 "header name is not a token",
    NoColon 400 "header line without a colon",
    HeadTooLarge 431 "head passes its cap",
    TooManyHeaders 431 "too many header fields",
    NoHost 400 "HTTP/1.1 request without Host",
    ManyHosts 400 "more than one Host",
    BadHost 400 "Host is not a host and port",
    BadLength 400 "Content-Length is not a number",
    LengthOverflow 400 "Content-Length is too large",
    ManyLengths 400 "more than one Content-Length",
    LengthAndEncoding 400 "Content-Length with Transfer-Encoding",
    BadEncoding 400 "Transfer-Encoding other than one chunked",
    EncodingOnHttp10 400 "Transfer-Encoding on HTTP/1.0",
    UnderscoreFraming 400 "framing header spelt with an underscore",
    BadChunkSize 400 "chunk size is not hexadecimal",
    ChunkOverflow 400 "chunk size is too large",
    ChunkLineTooLong 400 "chunk line passes its cap",
    ChunkEnd 400 "chunk is longer than its size",
    FramingTrailer 400 "framing header among the trailers",
    TrailersTooLarge 431 "trailers pass their cap",
    Unasked 400 "response that no request asked for",
}
