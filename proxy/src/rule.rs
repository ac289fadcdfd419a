//! Traefik v3's rule language: text to a checked expression, and whether a request satisfies it. Finding the one rule
//! among thousands is [`crate::route`]'s.
//!
//! Where Traefik's routers and this text disagree on purpose: matcher names are read in any case, newlines may stand
//! before operators, `%20` in a Path or PathPrefix equals a space, `%2f` is never taken for a slash, and values that
//! could never match (a port in Host, `Header` of `Host`) are refused with their remedy instead of accepted silently.

mod hosts;
mod matcher;
mod parse;
mod pattern;
mod readable;
mod subject;

use std::fmt;
use std::sync::Arc;

pub use hosts::Hosts;
pub(crate) use matcher::{HostName, Literal, Matcher};
pub use pattern::Regexp;
pub use subject::RequestView;
pub(crate) use subject::{Canonical, Subject, routing_path};

/// Bytes of a rule's text: room for a thousand `Host(..) ||`, yet quick to parse.
pub const RULE_BYTES_MAX: usize = 64 * 1024;
/// Parentheses and `!` inside each other: bounds the stack that parsing and matching use.
pub const NESTING_MAX: usize = 64;
/// Regular expressions in one rule; with [`REGEX_BYTES_MAX`] they hold 32 MiB at the very most.
pub const REGEXES_MAX: usize = 32;
/// Memory of one compiled regular expression.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

/// A parsed rule; cheap to clone.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule as written; its length is the default priority.
    pub text: Arc<str>,
    expr: Arc<Expr>,
    /// Whose requests are not its, whatever the text says.
    except: Option<Arc<Hosts>>,
}

/// What is wrong with a rule, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {fault}: {remedy}")]
pub struct RuleError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub fault: String,
    /// What to do.
    pub remedy: String,
}

impl Rule {
    /// Reads a rule. All values are checked and regular expressions compiled, so matching cannot fail.
    ///
    /// # Errors
    /// The first fault with its column and remedy.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let expr = parse::parse(text)?;
        Ok(Self { text: text.into(), expr: Arc::new(expr), except: None })
    }

    /// The same rule but for these hosts, of which there may be more than a text can name.
    #[must_use]
    pub fn except(self, hosts: Arc<Hosts>) -> Self {
        Self { except: Some(hosts), ..self }
    }

    /// What can be read of a text that is no rule: hosts and paths that it names, without the conditions that nobody can read.
    /// Its requests are some of those that were meant, and others beside them. `None`: there is nothing that holds them to a host
    /// or a path of its own.
    #[must_use]
    pub fn readable(text: &str) -> Option<Self> {
        Self::parse(&readable::readable(text)?).ok()
    }

    /// Whether a request satisfies the rule. [`crate::route::RouteTable`] finds the best of many rules faster.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let canonical = Canonical::new(request);
        let subject = canonical.subject(request);
        self.expr.holds(&subject) && !self.excepts(&subject)
    }

    /// Whether the request is of a host that it is not for.
    pub(crate) fn excepts(&self, subject: &Subject<'_>) -> bool {
        self.except.as_ref().is_some_and(|hosts| hosts.cover(subject.name))
    }

    /// The priority of a router that names none: the rule's length, in which the stars of `**.` hosts do not count, so
    /// that they rank below the hosts that they cover.
    #[must_use]
    pub fn default_priority(&self) -> i64 {
        let length = i64::try_from(self.text.len()).unwrap_or(i64::MAX);
        length - 2 * self.expr.deep_wildcards()
    }

    /// The rule, for the table's index.
    pub(crate) fn expr(&self) -> &Arc<Expr> {
        &self.expr
    }
}

/// A text has one meaning.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.except) == (&other.text, &other.except)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An expression in negation normal form: `!` was pushed down to the matchers while parsing.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    /// `&&`
    All(Vec<Expr>),
    /// `||`
    Any(Vec<Expr>),
    /// One matcher, perhaps negated.
    Is(Literal),
}

impl Expr {
    /// Whether the request satisfies it.
    pub(crate) fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(subject)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(subject)),
            Self::Is(literal) => literal.holds(subject),
        }
    }

    /// The disjunctive normal form in the text's order, unless it has more than `cap` branches.
    pub(crate) fn branches(&self, cap: usize) -> Option<Vec<Vec<Literal>>> {
        (self.branch_count() <= cap).then(|| self.expand())
    }

    /// Counts before expanding, since a short text can have 2^1000 branches.
    fn branch_count(&self) -> usize {
        match self {
            Self::All(parts) => parts.iter().fold(1, |count, part| count.saturating_mul(part.branch_count())),
            Self::Any(parts) => parts.iter().fold(0, |count, part| count.saturating_add(part.branch_count())),
            Self::Is(_) => 1,
        }
    }

    fn expand(&self) -> Vec<Vec<Literal>> {
        match self {
            Self::Is(literal) => vec![vec![literal.clone()]],
            Self::Any(parts) => parts.iter().flat_map(Self::expand).collect(),
            Self::All(parts) => parts.iter().fold(vec![Vec::new()], |left, part| {
                let right = part.expand();
                left.iter()
                    .flat_map(|head| right.iter().map(move |tail| head.iter().chain(tail).cloned().collect()))
                    .collect()
            }),
        }
    }

    /// The hosts that it asks for, as they are written, lower-case.
    pub(crate) fn hosts(&self, into: &mut Vec<String>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.hosts(into)),
            Self::Is(Literal { negated: false, matcher: Matcher::Host(host) }) => into.push(match host {
                HostName::Exact(name) => name.to_string(),
                HostName::Wild(suffix) => format!("*.{suffix}"),
                HostName::Deep(suffix) => format!("**.{suffix}"),
            }),
            Self::Is(_) => {}
        }
    }

    fn deep_wildcards(&self) -> i64 {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().map(Self::deep_wildcards).sum(),
            Self::Is(Literal { negated: false, matcher: Matcher::Host(HostName::Deep(_)) }) => 1,
            Self::Is(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
