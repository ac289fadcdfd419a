//! The rows of the table that describe middlewares; what their values mean together is [`super::super::middleware`]'s.

use super::{Key, Kind, key};

/// `http.middlewares.<name>`: each has one of these kinds.
pub(super) const MIDDLEWARES: &[Key] = &[
    key("http.middlewares.<name>.addPrefix.prefix", Kind::Path, "", "Put in front of the path. Required."),
    key(
        "http.middlewares.<name>.chain.middlewares",
        Kind::Texts,
        "",
        "Names of middlewares, in order, that this one stands for. Required.",
    ),
    key(
        "http.middlewares.<name>.headers.customRequestHeaders",
        Kind::HeaderEdits,
        "",
        "Headers set on the request; an empty value removes one.",
    ),
    key(
        "http.middlewares.<name>.headers.customResponseHeaders",
        Kind::HeaderEdits,
        "",
        "Headers set on the response; an empty value removes one.",
    ),
    key(
        "http.middlewares.<name>.redirectRegex.regex",
        Kind::Regex,
        "",
        "What is replaced in the request's URL, e.g. `^http://(.*)`; a URL without it goes on. Required.",
    ),
    key("http.middlewares.<name>.redirectRegex.replacement", Kind::Anything, "", "By what; `${1}` stands for a group."),
    key(
        "http.middlewares.<name>.redirectRegex.permanent",
        Kind::Bool,
        "false",
        "301 to GET and 308 to others, instead of 302 and 307.",
    ),
    key("http.middlewares.<name>.redirectScheme.scheme", Kind::Text, "", "The new scheme, e.g. `https`. Required."),
    key(
        "http.middlewares.<name>.redirectScheme.port",
        Kind::Integer(1, 65_535),
        "",
        "The new port; none: the scheme's.",
    ),
    key(
        "http.middlewares.<name>.redirectScheme.permanent",
        Kind::Bool,
        "false",
        "301 to GET and 308 to others, instead of 302 and 307.",
    ),
    key(
        "http.middlewares.<name>.replacePath.path",
        Kind::Path,
        "",
        "The new path; `X-Replaced-Path` says the old one. Required.",
    ),
    key(
        "http.middlewares.<name>.replacePathRegex.regex",
        Kind::Regex,
        "",
        "What is replaced in the path, as it is spelt. A path that comes out with `.`, `..` or empty segments is refused. \
         Required.",
    ),
    key(
        "http.middlewares.<name>.replacePathRegex.replacement",
        Kind::Anything,
        "",
        "By what; `${1}` stands for a group.",
    ),
    key(
        "http.middlewares.<name>.stripPrefix.prefixes",
        Kind::Texts,
        "",
        "The first that the path begins with is taken off; `X-Forwarded-Prefix` says it. What is left may not hold `.`, `..` \
         or empty segments, however they are spelt: such a request is refused. Required.",
    ),
    key(
        "http.middlewares.<name>.stripPrefix.forceSlash",
        Kind::Bool,
        "false",
        "Without effect: what is left begins with a slash anyway.",
    ),
    key(
        "http.middlewares.<name>.stripPrefixRegex.regex",
        Kind::Regexes,
        "",
        "What the first of them finds is taken off, where the path begins with it; otherwise as `stripPrefix`. Required.",
    ),
];
