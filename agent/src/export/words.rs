//! OpenTelemetry's words for what a record says in codes.

use wayspan_proxy::record::{End, ErrorKind, Head, Method};

/// A method as the first word of a span's name.
pub(super) fn span_method(method: Method) -> &'static str {
    if method == Method::Other { "HTTP" } else { method.name() }
}

/// `network.protocol.version`.
pub(super) fn version(version: u8) -> &'static str {
    match version {
        10 => "1.0",
        20 => "2",
        _ => "1.1",
    }
}

/// Errors of the server by OpenTelemetry: 5xx, and answers that broke off through no fault of the client.
pub(super) fn server_failed(head: &Head) -> bool {
    let broken = match head.end {
        End::UpstreamCut | End::Shutdown => true,
        End::TimedOut => !(400..500).contains(&head.status),
        End::Complete | End::ClientGone | End::Refused => false,
    };
    head.status >= 500 || broken
}

/// `error.type` of a request that ended otherwise than whole.
pub(super) fn end_error(end: End) -> &'static str {
    match end {
        End::Complete | End::Refused => "",
        End::ClientGone => ErrorKind::ClientGone.name(),
        End::UpstreamCut => ErrorKind::UpstreamClosed.name(),
        End::TimedOut => ErrorKind::ResponseTimeout.name(),
        End::Shutdown => "shutdown",
    }
}
