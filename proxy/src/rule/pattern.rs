//! Go's regular expressions on the regex crate. Both are RE2's children, but a few spellings mean different things: here
//! `\d \w \s \b` are ASCII, a `{` that counts nothing is itself (so Traefik v2's `{name:re}` compiles and matches
//! literally, as in Traefik v3), `[a[b&&c]` has no set operations, and `\Q..\E`, octal escapes and `\p{^Name}` exist.

use std::borrow::Cow;
use std::fmt::Write as _;

use regex::bytes::{Regex, RegexBuilder};

use super::REGEX_BYTES_MAX;

/// Groups inside each other.
const GROUPS_MAX: u32 = 64;
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// A compiled pattern that matches what it does in Go.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Whether it matches somewhere. Bytes that are no UTF-8 are matched as Go does, each as one U+FFFD: the crate's `.`
    /// and `[^a]` would not match them at all, and a client could so evade a rule.
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        if std::str::from_utf8(text).is_ok() { self.0.is_match(text) } else { self.0.is_match(&as_go_reads(text)) }
    }
}

#[cold]
fn as_go_reads(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3);
    for chunk in text.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|_| out.extend_from_slice("\u{fffd}".as_bytes()));
    }
    out
}

/// A regular expression in Go's syntax, for texts and with replacements. Equal to another of the same text.
#[derive(Debug, Clone)]
pub struct Regexp {
    text: Box<str>,
    pattern: Pattern,
}

impl PartialEq for Regexp {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Regexp {
    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.into(), pattern: compile(text)? })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches somewhere.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.pattern.0.is_match(text.as_bytes())
    }

    /// What it matches first.
    #[must_use]
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        let found = self.pattern.0.find(text.as_bytes())?;
        text.get(found.range())
    }

    /// The text with every match replaced; `$1` and `${name}` stand for groups, as in Go. `None` where nothing matches.
    #[must_use]
    pub fn replace_all(&self, text: &str, replacement: &str) -> Option<String> {
        match self.pattern.0.replace_all(text.as_bytes(), replacement.as_bytes()) {
            Cow::Borrowed(_) => None,
            Cow::Owned(replaced) => Some(String::from_utf8_lossy(&replaced).into_owned()),
        }
    }
}

/// Compiles Go's syntax; the error is one line.
pub(super) fn compile(text: &str) -> Result<Pattern, String> {
    let translated = Translator { rest: text, out: String::with_capacity(text.len() + 8) }.run()?;
    RegexBuilder::new(&translated)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .nest_limit(GROUPS_MAX)
        .build()
        .map(Pattern)
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("it needs more than {limit} bytes"),
            // The crate draws the pattern with a caret; the reason is the last line.
            other => {
                let drawing = other.to_string();
                drawing.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        })
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
}

impl Translator<'_> {
    fn run(mut self) -> Result<String, String> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(),
                '[' => self.class()?,
                '{' => match repetition(self.rest) {
                    Some(length) => {
                        self.out.push('{');
                        self.copy(length);
                    }
                    None => self.out.push_str("\\{"),
                },
                '}' => self.out.push_str("\\}"),
                '(' => {
                    self.check_flags()?;
                    self.out.push('(');
                }
                _ => self.out.push(c),
            }
        }
        Ok(self.out)
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn copy(&mut self, length: usize) {
        let (part, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.out.push_str(part);
        self.rest = rest;
    }

    /// Go has the flags i, m, s and U; the crate's others (x above all) would change how the rest is read.
    fn check_flags(&self) -> Result<(), String> {
        let Some(flags) = self.rest.strip_prefix('?') else { return Ok(()) };
        match flags.chars().find(|c| !matches!(c, 'i' | 'm' | 's' | 'U' | '-')) {
            Some(':' | ')' | 'P' | '<') | None => Ok(()),
            Some(other) => Err(format!("(?{other} is not in Go's syntax")),
        }
    }

    /// Behind a backslash, within a class or not.
    fn escape(&mut self) {
        let Some(c) = self.next() else { return self.out.push('\\') };
        match c {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            's' => self.out.push_str("[\\t\\n\\f\\r ]"),
            'S' => self.out.push_str("[^\\t\\n\\f\\r ]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            'b' | 'B' => {
                self.out.push_str("(?-u:\\");
                self.out.push(c);
                self.out.push(')');
            }
            'Q' => {
                let (literal, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.out.push_str(&regex::escape(literal));
                self.rest = rest;
            }
            'p' | 'P' | 'x' => self.braced(c),
            '0'..='7' => self.octal(c),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => self.literal(c),
            c => {
                self.out.push('\\');
                self.out.push(c);
            }
        }
    }

    /// `\p{Greek}`, `\p{^Greek}`, `\x{10FFFF}`: the braces are not a repetition.
    fn braced(&mut self, c: char) {
        let (c, rest) = match (c, self.rest.strip_prefix("{^")) {
            ('p', Some(rest)) => ('P', rest),
            ('P', Some(rest)) => ('p', rest),
            _ => {
                self.out.push('\\');
                self.out.push(c);
                if self.rest.starts_with('{') {
                    self.copy(self.rest.find('}').map_or(self.rest.len(), |end| end + 1));
                }
                return;
            }
        };
        self.out.push('\\');
        self.out.push(c);
        self.out.push('{');
        self.rest = rest;
        self.copy(rest.find('}').map_or(rest.len(), |end| end + 1));
    }

    /// `\0`, `\012`, `\123`; a single digit other than 0 is a backreference, which neither has.
    fn octal(&mut self, first: char) {
        let is_octal = |c: &char| ('0'..='7').contains(c);
        let more: String = self.rest.chars().take(2).take_while(is_octal).collect();
        if first != '0' && more.is_empty() {
            self.out.push('\\');
            return self.out.push(first);
        }
        self.rest = self.rest.get(more.len()..).unwrap_or_default();
        let value = more.chars().fold(first.to_digit(8), |sum, c| Some(sum? * 8 + c.to_digit(8)?)).unwrap_or_default();
        // Writing into a String cannot fail.
        let _ = write!(self.out, "\\x{{{value:x}}}");
    }

    fn literal(&mut self, c: char) {
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    /// Behind a `[`. Everything that the crate would read as a set operation becomes a literal.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.rest = rest;
            self.out.push('^');
        }
        let mut first = true;
        while let Some(c) = self.next() {
            match c {
                ']' if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => self.posix()?,
                _ => {
                    // Behind `\d` and its like a dash is itself.
                    let set = c == '\\' && self.rest.starts_with(['d', 'D', 's', 'S', 'w', 'W', 'p', 'P']);
                    self.class_char(c);
                    if !set && self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                        self.out.push('-');
                        self.next();
                        if let Some(high) = self.next() {
                            self.class_char(high);
                        }
                    }
                }
            }
            first = false;
        }
        Err("missing closing ]".to_owned())
    }

    fn class_char(&mut self, c: char) {
        match c {
            // `\b` is no word boundary here, and `\Q` no quote: both are errors in Go and in the crate.
            '\\' if self.rest.starts_with(['b', 'B', 'Q']) => self.out.push('\\'),
            '\\' => self.escape(),
            _ => self.literal(c),
        }
    }

    /// `[:alpha:]` within a class.
    fn posix(&mut self) -> Result<(), String> {
        let length = self.rest.find(":]").unwrap_or_default() + 2;
        let name = self.rest.get(1..length.saturating_sub(2)).unwrap_or_default();
        if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(format!("[:{name}:] is no character class"));
        }
        self.out.push('[');
        self.copy(length);
        Ok(())
    }
}

/// Bytes behind a `{` that belong to Go's `{n}`, `{n,}` or `{n,m}`; `None` where the brace is a literal.
fn repetition(rest: &str) -> Option<usize> {
    let is_count = |text: &str| {
        let padded = text.len() > 1 && text.starts_with('0');
        !text.is_empty() && !padded && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let (counts, _) = rest.split_once('}')?;
    let valid = match counts.split_once(',') {
        Some((low, high)) => is_count(low) && (high.is_empty() || is_count(high)),
        None => is_count(counts),
    };
    valid.then_some(counts.len() + 1)
}
