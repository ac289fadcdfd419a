//! What goes into the scanner besides bytes, and what comes out of it when nothing is wrong.

/// Caps on a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the first of the start line to the last of the empty line.
    pub head_bytes: u64,
    /// Header fields; trailers are counted anew by the same cap.
    pub headers: u32,
}

impl Limits {
    /// For answers of upstreams: looser than for clients, under hyper's own caps.
    pub const UPSTREAM: Self = Self { head_bytes: 256 * 1024, headers: 100 };
}

/// What the scanner has found. Offsets are stream offsets; an end is the offset behind the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first byte of a head is here. Empty lines before a request line are not part of the message.
    MessageStart {
        /// Of that byte.
        offset: u64,
    },
    /// A head is complete and was accepted.
    HeadEnd(Head),
    /// An interim response (1xx but 101) is complete; the response proper is still to come, with a start of its own.
    Interim(Head),
    /// The message is complete. A message without a body ends with its head.
    BodyEnd {
        /// Behind its last byte.
        offset: u64,
    },
}

/// A complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its empty line.
    pub end: u64,
    /// How the body is framed.
    pub body: Body,
    /// The status; 0 for a request.
    pub status: u16,
    /// HTTP/1.`minor`.
    pub minor: u8,
    /// A request: `Connection: upgrade` with an `Upgrade` field, or CONNECT. A response: the connection is a tunnel now.
    pub upgrade: bool,
    /// Whether the connection may carry another message by what this head says.
    pub keep_alive: bool,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// By Content-Length.
    Length(u64),
    /// By chunks.
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
}

/// The request that a response answers, as far as it changes the response's framing (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: the response has no body whatever its fields say.
    Head,
    /// CONNECT: a 2xx makes a tunnel.
    Connect,
    /// Any other.
    Other,
}
