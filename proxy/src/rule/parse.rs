//! Text to expression: Go's expression syntax as far as Traefik's rules use it (`&&` binds tighter than `||`, values are
//! Go's string literals), by recursive descent. Negation is pushed down on the way, by De Morgan.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::{IpNet, Ipv4Net};

use super::matcher::{HostName, Literal, Matcher};
use super::{Expr, NESTING_MAX, REGEXES_MAX, RULE_BYTES_MAX, RuleError, pattern, routing_path};

/// Characters of a DNS name.
const HOST_BYTES_MAX: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClientIp,
    Header,
    HeaderRegexp,
    Host,
    HostRegexp,
    Method,
    Path,
    PathPrefix,
    PathRegexp,
    Query,
    QueryRegexp,
}

/// Name, kind, least and most values.
pub(super) const KINDS: [(&str, Kind, usize, usize); 11] = [
    ("ClientIP", Kind::ClientIp, 1, 1),
    ("Header", Kind::Header, 2, 2),
    ("HeaderRegexp", Kind::HeaderRegexp, 2, 2),
    ("Host", Kind::Host, 1, 1),
    ("HostRegexp", Kind::HostRegexp, 1, 1),
    ("Method", Kind::Method, 1, 1),
    ("Path", Kind::Path, 1, 1),
    ("PathPrefix", Kind::PathPrefix, 1, 1),
    ("PathRegexp", Kind::PathRegexp, 1, 1),
    ("Query", Kind::Query, 1, 2),
    ("QueryRegexp", Kind::QueryRegexp, 1, 2),
];

/// Reads a whole rule.
pub(super) fn parse(text: &str) -> Result<Expr, RuleError> {
    let mut parser = Parser { text, rest: text, nesting: 0, regexes: 0 };
    if text.len() > RULE_BYTES_MAX {
        return Err(parser.fault(text, "the rule is too long", format!("write at most {RULE_BYTES_MAX} bytes")));
    }
    let expr = parser.any(false)?;
    parser.skip_space();
    if parser.rest.is_empty() { Ok(expr) } else { Err(parser.unexpected()) }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    nesting: usize,
    regexes: usize,
}

/// A value and where it stands.
struct Value<'a> {
    at: &'a str,
    text: String,
}

impl<'a> Parser<'a> {
    /// `a || b`, or its negation `!a && !b`.
    fn any(&mut self, negated: bool) -> Result<Expr, RuleError> {
        let mut parts = vec![self.all(negated)?];
        while self.eat("||") {
            parts.push(self.all(negated)?);
        }
        Ok(join(parts, if negated { Expr::All } else { Expr::Any }))
    }

    /// `a && b`, or its negation `!a || !b`.
    fn all(&mut self, negated: bool) -> Result<Expr, RuleError> {
        let mut parts = vec![self.factor(negated)?];
        while self.eat("&&") {
            parts.push(self.factor(negated)?);
        }
        Ok(join(parts, if negated { Expr::Any } else { Expr::All }))
    }

    fn factor(&mut self, negated: bool) -> Result<Expr, RuleError> {
        self.skip_space();
        let at = self.rest;
        if self.nesting >= NESTING_MAX {
            return Err(self.fault(at, "too many ( and ! inside each other", format!("nest at most {NESTING_MAX}")));
        }
        self.nesting += 1;
        let expr = if self.eat("!") {
            self.factor(!negated)?
        } else if self.eat("(") {
            let inner = self.any(negated)?;
            if !self.eat(")") {
                return Err(if self.rest.is_empty() {
                    self.fault(at, "this ( is never closed", "add a )")
                } else {
                    self.unexpected()
                });
            }
            inner
        } else {
            Expr::Is(Literal { negated, matcher: self.matcher()? })
        };
        self.nesting -= 1;
        Ok(expr)
    }

    fn matcher(&mut self) -> Result<Matcher, RuleError> {
        let at = self.rest;
        let name = self.identifier();
        if name.is_empty() {
            return Err(self.missing_matcher());
        }
        let Some((name, kind, least, most)) = KINDS.into_iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))
        else {
            return Err(self.unknown(at, name));
        };
        if !self.eat("(") {
            return Err(self.fault(self.rest, format!("{name} has no values"), format!("write {}", example(kind))));
        }
        let values = self.values(name)?;
        if values.len() < least || values.len() > most {
            let fault = format!("{name} with {} values", values.len());
            return Err(self.fault(at, fault, count_remedy(name, kind, &values)));
        }
        if let Some(empty) = values.iter().find(|value| value.text.is_empty()) {
            let remedy = match kind {
                Kind::Query | Kind::QueryRegexp => "leave the value out to ask for an empty one, as in Query(`debug`)",
                _ => "name a value, or leave the matcher out",
            };
            return Err(self.fault(empty.at, format!("{name} with an empty value"), remedy));
        }
        self.build(kind, &values)
    }

    /// Behind `(`, up to and with `)`. Go allows a comma behind the last value.
    fn values(&mut self, name: &str) -> Result<Vec<Value<'a>>, RuleError> {
        let mut values = Vec::new();
        loop {
            if self.eat(")") {
                return Ok(values);
            }
            let at = self.rest;
            values.push(Value { at, text: self.string(name)? });
            if !self.eat(",") && !self.rest.starts_with(')') {
                let fault = format!("expected , or ) behind a value of {name}");
                return Err(self.fault(self.rest, fault, "close the matcher with )"));
            }
        }
    }

    fn build(&mut self, kind: Kind, values: &[Value<'a>]) -> Result<Matcher, RuleError> {
        let [first, more @ ..] = values else {
            return Err(self.fault(self.rest, "no value", format!("write {}", example(kind))));
        };
        let second = more.first();
        Ok(match (kind, second) {
            (Kind::ClientIp, _) => Matcher::ClientIp(self.address(first)?),
            (Kind::Host, _) => Matcher::Host(self.host(first)?),
            (Kind::HostRegexp, _) => {
                self.ascii(first)?;
                Matcher::HostRegexp(self.regex(first)?)
            }
            (Kind::Method, _) => Matcher::Method(first.text.to_uppercase().into()),
            (Kind::Path, _) => Matcher::Path(self.path(first)?),
            (Kind::PathPrefix, _) => Matcher::PathPrefix(self.path(first)?),
            (Kind::PathRegexp, _) => Matcher::PathRegexp(self.regex(first)?),
            (Kind::Header, Some(second)) => Matcher::Header(self.header(first)?, second.text.as_str().into()),
            (Kind::HeaderRegexp, Some(second)) => Matcher::HeaderRegexp(self.header(first)?, self.regex(second)?),
            (Kind::QueryRegexp, Some(second)) => Matcher::QueryRegexp(first.text.as_str().into(), self.regex(second)?),
            // As in Traefik, QueryRegexp with a key alone is Query. Header with one value was refused by its count.
            (Kind::Query | Kind::QueryRegexp | Kind::Header | Kind::HeaderRegexp, second) => Matcher::Query(
                first.text.as_str().into(),
                second.map(|value| value.text.as_str()).unwrap_or_default().into(),
            ),
        })
    }

    fn regex(&mut self, value: &Value<'a>) -> Result<pattern::Pattern, RuleError> {
        self.regexes += 1;
        if self.regexes > REGEXES_MAX {
            let remedy = format!("join them by | into at most {REGEXES_MAX}, or split the router");
            return Err(self.fault(value.at, "too many regular expressions", remedy));
        }
        pattern::compile(&value.text).map_err(|reason| {
            self.fault(value.at, format!("not a regular expression: {reason}"), "use Go's syntax (RE2)")
        })
    }

    fn ascii(&self, value: &Value<'a>) -> Result<(), RuleError> {
        if value.text.is_ascii() {
            return Ok(());
        }
        let fault = format!("host `{}` is not ASCII", value.text.escape_debug());
        Err(self.fault(value.at, fault, "write its punycode form, which begins with xn--"))
    }

    fn host(&self, value: &Value<'a>) -> Result<HostName, RuleError> {
        self.ascii(value)?;
        let lower = value.text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let refuse =
            |remedy: &str| self.fault(value.at, format!("`{}` is not a host name", value.text.escape_debug()), remedy);
        if name.len() > HOST_BYTES_MAX {
            return Err(refuse("names have at most 253 characters"));
        }
        if name == "*" {
            return Ok(HostName::Wild("".into()));
        }
        let (wildcard, suffix) = match (name.strip_prefix("**."), name.strip_prefix("*.")) {
            (Some(suffix), _) => ("**", suffix),
            (None, Some(suffix)) => ("*", suffix),
            (None, None) => ("", name),
        };
        if suffix.parse::<std::net::Ipv6Addr>().is_err() {
            if suffix.starts_with('[') {
                return Err(refuse("write an IPv6 address without brackets and port"));
            }
            if suffix.contains(':') {
                return Err(refuse("leave the port out: the entry point decides it"));
            }
            if suffix.contains('*') {
                return Err(refuse("a wildcard is a first label, * or **; others need HostRegexp"));
            }
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if suffix.is_empty() || suffix.contains("..") || suffix.starts_with('.') || !suffix.bytes().all(is_plain) {
                return Err(refuse("write a name such as example.com; paths belong into PathPrefix"));
            }
        }
        Ok(match wildcard {
            "**" => HostName::Deep(suffix.into()),
            "*" => HostName::Wild(suffix.into()),
            _ => HostName::Exact(suffix.into()),
        })
    }

    fn path(&self, value: &Value<'a>) -> Result<Box<[u8]>, RuleError> {
        if value.text.starts_with('/') {
            return Ok(routing_path(&value.text).into());
        }
        let fault = format!("path `{}` does not begin with /", value.text.escape_debug());
        Err(self.fault(value.at, fault, format!("write `/{}`", value.text.escape_debug())))
    }

    fn header(&self, value: &Value<'a>) -> Result<HeaderName, RuleError> {
        match HeaderName::from_bytes(value.text.as_bytes()) {
            Ok(http::header::HOST) => {
                Err(self.fault(value.at, "Host is not matched as a header", "use Host or HostRegexp"))
            }
            Ok(name) => Ok(name),
            Err(_) => {
                let fault = format!("`{}` is not a header name", value.text.escape_debug());
                Err(self.fault(value.at, fault, "the name comes first, then the value"))
            }
        }
    }

    fn address(&self, value: &Value<'a>) -> Result<IpNet, RuleError> {
        let net = value.text.parse::<IpAddr>().map(IpNet::from).or_else(|_| value.text.parse::<IpNet>());
        net.map(|net| canonical(net.trunc())).map_err(|_| {
            let fault = format!("`{}` is neither an address nor a range", value.text.escape_debug());
            self.fault(value.at, fault, "write 10.0.0.1, 10.0.0.0/8 or fd00::/8")
        })
    }
}

/// The lexical half.
impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    /// Takes `token` and the space around it.
    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn identifier(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        name
    }

    /// Go's string literal: raw between backticks (carriage returns do not count), or quoted with escapes.
    fn string(&mut self, matcher: &str) -> Result<String, RuleError> {
        let at = self.rest;
        if let Some(rest) = at.strip_prefix('`') {
            let Some((text, rest)) = rest.split_once('`') else {
                return Err(self.fault(at, "this ` is never closed", "add a ` behind the value"));
            };
            self.rest = rest;
            return Ok(text.replace('\r', ""));
        }
        if let Some(rest) = at.strip_prefix('"') {
            self.rest = rest;
            return self.quoted(at);
        }
        Err(if at.is_empty() {
            self.fault(at, format!("{matcher}( is never closed"), "add the value and a )")
        } else {
            self.fault(at, format!("a value of {matcher} is not quoted"), "put it between backticks, as in `value`")
        })
    }

    fn quoted(&mut self, at: &'a str) -> Result<String, RuleError> {
        let mut out = Vec::new();
        loop {
            let here = self.rest;
            match self.next_char() {
                Some('"') => break,
                Some('\\') => {
                    if self.unescape(&mut out).is_none() {
                        return Err(self.fault(here, "not an escape of Go's", "double the \\, or use backticks"));
                    }
                }
                None | Some('\n') => {
                    return Err(self.fault(at, "this \" is never closed", "add a \" on the same line"));
                }
                Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(out).map_err(|_| self.fault(at, "the escapes are not UTF-8", "escape whole characters"))
    }

    /// Behind a backslash.
    fn unescape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let here = self.rest;
        let byte = match self.next_char()? {
            'a' => 7,
            'b' => 8,
            't' => b'\t',
            'n' => b'\n',
            'v' => 11,
            'f' => 12,
            'r' => b'\r',
            '\\' => b'\\',
            '"' => b'"',
            'x' => u8::try_from(self.number(2, 16)?).ok()?,
            '0'..='7' => {
                self.rest = here;
                u8::try_from(self.number(3, 8)?).ok()?
            }
            c @ ('u' | 'U') => {
                let value = char::from_u32(self.number(if c == 'u' { 4 } else { 8 }, 16)?)?;
                out.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
                return Some(());
            }
            _ => return None,
        };
        out.push(byte);
        Some(())
    }

    /// Exactly `digits` digits.
    fn number(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let (text, rest) = self.rest.split_at_checked(digits)?;
        let value = text.chars().try_fold(0_u64, |sum, c| Some(sum * u64::from(radix) + u64::from(c.to_digit(radix)?)));
        self.rest = rest;
        u32::try_from(value?).ok()
    }

    fn next_char(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }
}

/// The faults that need more than one line.
impl<'a> Parser<'a> {
    /// `at` is the part of the text that begins with the fault.
    fn fault(&self, at: &str, fault: impl Into<String>, remedy: impl Into<String>) -> RuleError {
        let before = self.text.get(..self.text.len().saturating_sub(at.len())).unwrap_or(self.text);
        RuleError { column: before.chars().count() + 1, fault: fault.into(), remedy: remedy.into() }
    }

    fn missing_matcher(&self) -> RuleError {
        let at = self.rest;
        match at.chars().next() {
            None if self.text.trim().is_empty() => self.fault(at, "the rule is empty", "write Host(`example.com`)"),
            None => self.fault(at, "the rule ends where a matcher is expected", "add one, such as PathPrefix(`/`)"),
            Some('`' | '"' | '\'') => {
                self.fault(at, "a value without a matcher", "put it into one, such as Host(`example.com`)")
            }
            Some(c) => {
                let fault = format!("`{}` where a matcher is expected", c.escape_debug());
                self.fault(at, fault, "write a matcher, such as PathPrefix(`/`)")
            }
        }
    }

    /// Behind a whole expression.
    fn unexpected(&self) -> RuleError {
        let at = self.rest;
        let word: String = at.chars().take_while(|c| c.is_alphabetic()).take(16).collect();
        let first = at.chars().next().map(|c| c.escape_debug().to_string()).unwrap_or_default();
        match (first.as_str(), word.to_ascii_lowercase().as_str()) {
            ("&", _) | (_, "and") => self.fault(at, "not an operator", "write &&"),
            ("|", _) | (_, "or") => self.fault(at, "not an operator", "write ||"),
            (")", _) => self.fault(at, "this ) closes nothing", "remove it, or open a ( before"),
            (first, "") => self.fault(at, format!("unexpected `{first}`"), "join matchers by && or ||"),
            _ => self.fault(at, "no operator between two matchers", "join them by && or ||"),
        }
    }

    fn unknown(&self, at: &str, name: &str) -> RuleError {
        let shown: String = name.chars().take(32).collect();
        let fault = format!("unknown matcher {shown}");
        let remedy = match name.to_ascii_lowercase().as_str() {
            "hostsni" | "hostsniregexp" | "alpn" => "matchers of TCP routers do not apply to HTTP; use Host".to_owned(),
            "hostheader" => "Traefik v3 calls it Host".to_owned(),
            _ => nearest(&shown).map_or_else(
                || format!("the matchers are {}", KINDS.map(|(known, ..)| known).join(", ")),
                |known| format!("did you mean {known}?"),
            ),
        };
        self.fault(at, fault, remedy)
    }
}

fn join(mut parts: Vec<Expr>, several: fn(Vec<Expr>) -> Expr) -> Expr {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            parts.extend(last);
            several(parts)
        }
    }
}

/// IPv4 in IPv6's clothes is IPv4, as peers' addresses are normalised too.
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) => match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
            (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map_or(net, IpNet::V4),
            _ => net,
        },
        IpNet::V4(_) => net,
    }
}

fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::ClientIp => "ClientIP(`10.0.0.0/8`)",
        Kind::Header => "Header(`X-Key`, `value`)",
        Kind::HeaderRegexp => "HeaderRegexp(`X-Key`, `^v`)",
        Kind::Host => "Host(`example.com`)",
        Kind::HostRegexp => "HostRegexp(`^.+\\.example\\.com$`)",
        Kind::Method => "Method(`GET`)",
        Kind::Path => "Path(`/exactly`)",
        Kind::PathPrefix => "PathPrefix(`/below`)",
        Kind::PathRegexp => "PathRegexp(`^/v[0-9]+/`)",
        Kind::Query => "Query(`key`, `value`)",
        Kind::QueryRegexp => "QueryRegexp(`key`, `^v`)",
    }
}

/// Traefik v2 took several values as alternatives.
fn count_remedy(name: &str, kind: Kind, values: &[Value<'_>]) -> String {
    match (kind, values) {
        (Kind::Header | Kind::HeaderRegexp | Kind::Query | Kind::QueryRegexp, _) | (_, []) => {
            format!("write {}", example(kind))
        }
        (_, [first, second, ..]) => {
            let (first, second) = (first.text.escape_debug(), second.text.escape_debug());
            format!("since Traefik v3 alternatives are joined by ||: {name}(`{first}`) || {name}(`{second}`)")
        }
        (_, [_]) => format!("write {}", example(kind)),
    }
}

/// The known matcher that differs by at most three letters, and by no more than half of them.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    KINDS
        .into_iter()
        .map(|(known, ..)| (distance(&name.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 3 && *distance * 2 <= known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        let mut next = vec![last];
        for (above, right) in row.iter().skip(1).zip(b.chars()) {
            last = (diagonal + usize::from(left != right)).min(above + 1).min(last + 1);
            diagonal = *above;
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
