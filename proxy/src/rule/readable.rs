//! What can be read of a rule that cannot be read as a whole. Whose router is refused for it can so still keep its requests from
//! those of wider rules.
//!
//! A part that cannot be read is taken out: an alternative alone, or a condition from among others, which are wider without it.
//! Wider is not to be everything: of conditions that have lost one there has to be left a host, or a path where the lost one was no
//! host.

use super::parse::{KINDS, nearest};
use super::{NESTING_MAX, REGEXES_MAX, RULE_BYTES_MAX, Rule};

/// The text of that rule, which can be read; `None`: it would be nobody's or everybody's.
pub(super) fn readable(text: &str) -> Option<String> {
    if text.len() > RULE_BYTES_MAX {
        return None;
    }
    let mut reader = Reader { rest: text, nesting: 0, open: 0, regexes: 0 };
    let part = reader.any(false);
    part.left(false, false).ok().filter(|left| left.host || left.path).map(|left| left.text)
}

#[derive(Debug)]
enum Part {
    All(Vec<Part>),
    Any(Vec<Part>),
    /// A matcher that can be read, perhaps negated.
    Is(Left),
    /// Something that cannot. It may have named a host.
    Lost {
        host: bool,
    },
}

/// What is left of a part, and whether every request that it takes is held to a host or to a path.
#[derive(Debug, Clone)]
struct Left {
    text: String,
    host: bool,
    path: bool,
    /// Alternatives, which stand in parentheses among conditions.
    is_any: bool,
}

impl Part {
    /// In conditions beside it that name a host or a path. The error: nothing is left, and a host may be lost.
    fn left(&self, host: bool, path: bool) -> Result<Left, bool> {
        match self {
            Self::Is(left) => Ok(left.clone()),
            Self::Lost { host } => Err(*host),
            Self::Any(parts) => {
                let each: Vec<_> = parts.iter().map(|part| part.left(host, path)).collect();
                let lost_host = each.contains_err(true);
                let left: Vec<Left> = each.into_iter().flatten().collect();
                joined(left, true, |left, named| left.iter().all(named)).ok_or(lost_host)
            }
            Self::All(parts) => {
                let named = |is: fn(&Self) -> bool| parts.iter().any(is);
                let (host, path) = (host || named(Self::names_host), path || named(Self::names_path));
                let each: Vec<_> = parts.iter().map(|part| part.left(host, path)).collect();
                let (is_lost, lost_host) = (each.iter().any(Result::is_err), each.contains_err(true));
                if is_lost && !host && (!path || lost_host) {
                    return Err(lost_host);
                }
                let left: Vec<Left> = each.into_iter().flatten().collect();
                joined(left, false, |left, named| left.iter().any(named)).ok_or(lost_host)
            }
        }
    }

    fn names_host(&self) -> bool {
        self.names(|left| left.host)
    }

    fn names_path(&self) -> bool {
        self.names(|left| left.path)
    }

    fn names(&self, is: fn(&Left) -> bool) -> bool {
        match self {
            Self::Is(left) => is(left),
            Self::Lost { .. } => false,
            Self::All(parts) => parts.iter().any(|part| part.names(is)),
            Self::Any(parts) => {
                let mut readable = parts.iter().filter(|part| !matches!(part, Self::Lost { .. })).peekable();
                readable.peek().is_some() && readable.all(|part| part.names(is))
            }
        }
    }
}

trait ContainsErr {
    fn contains_err(&self, wanted: bool) -> bool;
}

impl ContainsErr for Vec<Result<Left, bool>> {
    fn contains_err(&self, wanted: bool) -> bool {
        self.iter().any(|one| matches!(one, Err(host) if *host == wanted))
    }
}

fn joined(mut left: Vec<Left>, is_any: bool, over: impl Fn(&[Left], fn(&Left) -> bool) -> bool) -> Option<Left> {
    if left.len() < 2 {
        return left.pop();
    }
    let (host, path) = (over(&left, |one| one.host), over(&left, |one| one.path));
    let text = |one: Left| if one.is_any && !is_any { format!("({})", one.text) } else { one.text };
    let texts: Vec<String> = left.into_iter().map(text).collect();
    Some(Left { text: texts.join(if is_any { " || " } else { " && " }), host, path, is_any })
}

/// Between two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    And,
    Or,
    /// None that is one.
    Unknown,
}

struct Reader<'t> {
    rest: &'t str,
    nesting: usize,
    /// Parentheses that are open.
    open: usize,
    regexes: usize,
}

impl<'t> Reader<'t> {
    fn any(&mut self, negated: bool) -> Part {
        let mut parts = vec![self.all(negated)];
        while self.operator() == Some(Operator::Or) {
            self.take_operator();
            parts.push(self.all(negated));
        }
        grouped(parts, negated, Part::Any, Part::All)
    }

    fn all(&mut self, negated: bool) -> Part {
        let mut parts = vec![self.factor(negated)];
        while let Some(operator) = self.operator().filter(|one| *one != Operator::Or) {
            self.take_operator();
            if operator == Operator::Unknown {
                parts.push(Part::Lost { host: true });
            }
            parts.push(self.factor(negated));
        }
        grouped(parts, negated, Part::All, Part::Any)
    }

    fn factor(&mut self, negated: bool) -> Part {
        self.skip_space();
        if self.nesting >= NESTING_MAX {
            self.rest = "";
            return Part::Lost { host: true };
        }
        self.nesting += 1;
        let part = if let Some(rest) = self.rest.strip_prefix('!') {
            self.rest = rest;
            self.factor(!negated)
        } else if let Some(rest) = self.rest.strip_prefix('(') {
            self.rest = rest;
            self.open += 1;
            let part = self.any(negated);
            self.open -= 1;
            // One that is never closed ends with the rule.
            self.rest = self.rest.strip_prefix(')').unwrap_or(self.rest);
            part
        } else {
            self.matcher(negated)
        };
        self.nesting -= 1;
        part
    }

    /// What comes next, if anything does that belongs to this group.
    fn operator(&mut self) -> Option<Operator> {
        self.skip_space();
        while let Some(rest) = self.rest.strip_prefix(')').filter(|_| self.open == 0) {
            // It closes nothing.
            self.rest = rest.trim_start();
        }
        let word: String = self.rest.chars().take_while(|c| c.is_alphabetic()).collect();
        match (self.rest.chars().next()?, word.to_ascii_lowercase().as_str()) {
            (')', _) => None,
            ('&', _) | (_, "and") => Some(Operator::And),
            ('|', _) | (_, "or") => Some(Operator::Or),
            _ => Some(Operator::Unknown),
        }
    }

    /// Takes what was found there, but for the matcher that begins where none is.
    fn take_operator(&mut self) {
        let of = |signs: &[char]| self.rest.trim_start_matches(signs);
        self.rest = match self.operator_length() {
            Some(length) => self.rest.get(length..).unwrap_or_default(),
            None if self.rest.starts_with(|c: char| c.is_alphabetic() || matches!(c, '(' | '!')) => self.rest,
            None => match of(&['&', '|']) {
                rest if rest.len() < self.rest.len() => rest,
                rest => rest.strip_prefix(|_| true).unwrap_or_default(),
            },
        };
    }

    /// Of one that is a word.
    fn operator_length(&self) -> Option<usize> {
        let end = self.rest.find(|c: char| !c.is_alphabetic()).unwrap_or(self.rest.len());
        let word = self.rest.get(..end)?;
        (word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or")).then_some(end)
    }

    fn matcher(&mut self, negated: bool) -> Part {
        let end = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        self.skip_space();
        let known = KINDS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)).map(|(known, ..)| *known);
        // What nobody knows may mean a host, where no other word is near.
        let host = known.or_else(|| nearest(name)).is_none_or(|name| name.starts_with("Host"));
        let Some(rest) = self.rest.strip_prefix('(') else {
            return Part::Lost { host };
        };
        self.rest = rest;
        let values = self.values();
        let Some(name) = known else { return Part::Lost { host } };
        if name.ends_with("Regexp") {
            self.regexes += values.len();
        }
        if self.regexes > REGEXES_MAX {
            return Part::Lost { host };
        }
        let one = |values: &[String]| {
            let text = format!("{name}({})", values.join(", "));
            let is_readable = Rule::parse(&text).is_ok();
            let named = |kind: &str| !negated && name.starts_with(kind);
            let not = if negated { "!" } else { "" };
            let (host_named, path) = (named("Host"), named("Path"));
            let left = Left { text: format!("{not}{text}"), host: host_named, path, is_any: false };
            if is_readable { Part::Is(left) } else { Part::Lost { host } }
        };
        match (one(&values), values.as_slice()) {
            // Traefik v2's alternatives.
            (Part::Lost { .. }, [_, _, ..]) if !name.contains("Header") && !name.contains("Query") => {
                grouped(values.chunks(1).map(one).collect(), negated, Part::Any, Part::All)
            }
            (part, _) => part,
        }
    }

    /// Behind `(`, up to and with `)`: as a rule has them, also where they are not quoted as they should be.
    fn values(&mut self) -> Vec<String> {
        let mut values = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
            match self.rest.chars().next() {
                None => return values,
                Some(')') => {
                    self.rest = self.rest.get(1..).unwrap_or_default();
                    return values;
                }
                Some(quote @ ('`' | '"' | '\'')) => values.push(self.quoted(quote)),
                Some(_) => {
                    let end = self.rest.find([',', ')']).unwrap_or(self.rest.len());
                    let (value, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
                    values.push(format!("`{}`", value.trim_end()));
                    self.rest = rest;
                }
            }
        }
    }

    fn quoted(&mut self, quote: char) -> String {
        let text: &'t str = self.rest;
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = quote == '"' && *c == '\\' && !escaped;
            ends
        });
        let end = end.map_or(text.len(), |(at, _)| at + 1);
        let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        self.rest = rest;
        if quote == '\'' { format!("`{}`", value.trim_matches('\'')) } else { value.to_owned() }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
}

/// As one part; of what is negated each alternative is a condition, and the other way round.
fn grouped(mut parts: Vec<Part>, negated: bool, kind: fn(Vec<Part>) -> Part, other: fn(Vec<Part>) -> Part) -> Part {
    match parts.len() {
        0 => Part::Lost { host: true },
        1 => parts.remove(0),
        _ if negated => other(parts),
        _ => kind(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_taken_out_and_hosts_and_paths_stay() {
        for (text, want) in [
            // Traefik v2's alternatives.
            ("Host(`a.test`, `b.test`)", Some("Host(`a.test`) || Host(`b.test`)")),
            (
                "Host(`a.test`, `b.test`) && PathPrefix(`/x`)",
                Some("(Host(`a.test`) || Host(`b.test`)) && PathPrefix(`/x`)"),
            ),
            ("!(Host(`a.test`, `b.test`)) && Path(`/x`)", Some("!Host(`a.test`) && !Host(`b.test`) && Path(`/x`)")),
            // A condition that is lost leaves the others, an alternative the other ones.
            ("Host(`a.test`) && PathPrefx(`/x`)", Some("Host(`a.test`)")),
            ("Host(`a.test`) && PathRegexp(`(`)", Some("Host(`a.test`)")),
            ("PathPrefx(`/x`) || Host(`a.test`)", Some("Host(`a.test`)")),
            ("Host(`a.test`) && (Path(`/x`) || Pth(`/y`))", Some("Host(`a.test`) && Path(`/x`)")),
            ("PathPrefix(`/api`) && ClientIP(`10.0.0.0/99`)", Some("PathPrefix(`/api`)")),
            // Of all hosts is nobody's wish who named one.
            ("Hst(`a.test`) && PathPrefix(`/`)", None),
            ("Host(`*a.test`) && PathPrefix(`/`)", None),
            (
                "(Host(`*`) || HostSNI(`b.test`)) && Path(`/a`) || Host(`b.test`)",
                Some("Host(`*`) && Path(`/a`) || Host(`b.test`)"),
            ),
            ("HostSNI(`a.test`)", None),
            ("Method(`GET`) && Pth(`/x`)", None),
            ("!Host(`a.test`) && Pth(`/x`)", None),
            // Signs and quotes that are others.
            ("Host('a.test') && Path(\"/x\\\"\")", Some("Host(`a.test`) && Path(\"/x\\\"\")")),
            ("Host(a.test)", Some("Host(`a.test`)")),
            ("Host(`a.test`) and Path(`/x`) OR Host(`b.test`)", Some("Host(`a.test`) && Path(`/x`) || Host(`b.test`)")),
            ("Host(`a.test`) Path(`/x`)", Some("Host(`a.test`) && Path(`/x`)")),
            ("Host(`a.test`)) && Path(`/x`)", Some("Host(`a.test`) && Path(`/x`)")),
            ("(Host(`a.test`) && Path(`/x`)", Some("Host(`a.test`) && Path(`/x`)")),
            ("Host(`a.test`) &&", Some("Host(`a.test`)")),
            ("Host(`a.test`) § 7", Some("Host(`a.test`)")),
            ("Host(`a.test", None),
            ("Host", None),
            ("", None),
            (")", None),
            ("§", None),
        ] {
            assert_eq!(readable(text).as_deref(), want, "{text}");
            assert_eq!(Rule::readable(text).is_some(), want.is_some(), "{text}");
        }
    }

    #[test]
    fn whatever_is_written_ends_and_what_is_left_can_be_read() {
        let words = [
            "Host(`a.test`)",
            "Host(",
            "`",
            "\"",
            "'",
            "!",
            "(",
            ")",
            "&&",
            "||",
            "&",
            "and",
            " ",
            "Path(`/x`)",
            "Hst(a)",
            "\\",
            "é",
            ",",
            "HostRegexp(`(`)",
            "Method(`A`, `B`)",
            "or",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let text: String = (0..random.usize(0..12)).map(|_| words[random.usize(0..words.len())]).collect();
            if let Some(left) = readable(&text) {
                assert!(Rule::parse(&left).is_ok(), "{text}: {left}");
            }
        }
        for deep in ["(", "!"] {
            assert!(Rule::readable(&deep.repeat(1000)).is_none(), "{deep}");
        }
        assert!(Rule::readable(&"(Host(`a.test`) || ".repeat(1000)).is_some());
        assert_eq!(readable(&"Host(`a.test`) ".repeat(8 * 1024)), None);
    }
}
