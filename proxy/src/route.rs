//! Finds the route of a request: exact hosts and path prefixes by index, the rest by evaluation, highest priority first.
//! Built once per snapshot, then read by all workers without a lock. What rules mean is [`crate::rule`]'s.

mod index;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::rule::{Canonical, Expr, HostName, Literal, Matcher, Rule, Subject};
use crate::snapshot::Route;

pub use crate::rule::RequestView;
use index::{Index, Key};

/// Branches of one rule that get a name and a place in the index of their own; a rule with more is evaluated whole under
/// its router's name.
pub const BRANCHES_MAX: usize = 64;

/// Which of several routes that take a request gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precedence {
    /// The highest; 0: that of the rule.
    pub priority: i64,
    /// Among equals the lesser, before names.
    pub turn: Option<Arc<str>>,
}

impl From<i64> for Precedence {
    fn from(priority: i64) -> Self {
        Self { priority, turn: None }
    }
}

/// The routes of one entry point, immutable once built.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// In the order of precedence; the index refers to them by position.
    entries: Vec<Entry>,
    index: Index,
    apart: Vec<Arc<Apart>>,
}

/// A route with its rule taken apart.
#[derive(Debug)]
struct Apart {
    route: Arc<Route>,
    rule: Rule,
    names: Names,
    branches: Box<[(Key, Rest)]>,
}

/// What the branches of a route's rule are called.
#[derive(Debug, Clone)]
pub struct Names {
    /// The route's stable id.
    pub route: u32,
    /// By branch: the operation without its method, such as `hotrod.localhost/api/*`, or the router's name.
    pub operations: Vec<Arc<str>>,
    /// By branch: the path's pattern, such as `/api/*`; empty where the rule has none.
    pub patterns: Vec<Arc<str>>,
}

/// A matched route.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    /// The route.
    pub route: &'t Arc<Route>,
    /// Which branch of its rule matched: the index into [`Names`].
    pub branch: u16,
    operation: &'t str,
    pattern: &'t str,
}

impl<'t> Found<'t> {
    /// The operation without its method: of the matched branch, bounded by the configuration.
    #[must_use]
    pub fn operation(&self) -> &'t str {
        self.operation
    }

    /// The matched branch's path pattern, for `http.route`; empty where it has none.
    #[must_use]
    pub fn pattern(&self) -> &'t str {
        self.pattern
    }
}

/// One branch of one rule.
#[derive(Debug)]
struct Entry {
    of: Arc<Apart>,
    branch: u16,
}

/// What is left to ask when the index led to an entry.
#[derive(Debug)]
enum Rest {
    /// All of these.
    Literals(Box<[Literal]>),
    /// The whole rule, which had too many branches.
    Whole(Arc<Expr>),
}

impl Entry {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        let holds = match self.of.branches.get(usize::from(self.branch)) {
            Some((_, Rest::Literals(literals))) => literals.iter().all(|literal| literal.holds(subject)),
            Some((_, Rest::Whole(expr))) => expr.holds(subject),
            None => false,
        };
        holds && !self.of.rule.excepts(subject)
    }
}

impl RouteTable {
    /// Builds a table. As in Traefik, the highest priority wins and 0 means the rule's own
    /// ([`Rule::default_priority`]); among equals the lesser turn wins, then the first name.
    #[must_use]
    pub fn build(routes: Vec<(Rule, Precedence, Arc<Route>)>) -> Self {
        Self::default().renewed(routes)
    }

    /// As [`Self::build`]; the rules of routes that are in this table too are not taken apart again.
    #[must_use]
    pub fn renewed(&self, routes: Vec<(Rule, Precedence, Arc<Route>)>) -> Self {
        let known: HashMap<*const Route, &Arc<Apart>> =
            self.apart.iter().map(|one| (Arc::as_ptr(&one.route), one)).collect();
        let mut routes: Vec<_> = routes
            .into_iter()
            .map(|(rule, Precedence { priority, turn }, route)| {
                let priority = if priority == 0 { rule.default_priority() } else { priority };
                (rule, (Reverse(priority), turn), route)
            })
            .collect();
        routes.sort_by(|(_, a, left), (_, b, right)| (a, &left.name).cmp(&(b, &right.name)));
        let apart = routes.into_iter().map(|(rule, _, route)| {
            let known = known.get(&Arc::as_ptr(&route)).filter(|known| known.rule == rule);
            known.map_or_else(|| Arc::new(Apart::new(rule, route)), |known| Arc::clone(known))
        });
        let apart: Vec<Arc<Apart>> = apart.collect();
        let each = apart.iter().flat_map(|of| (0..).zip(&of.branches).map(move |(branch, (key, _))| (of, branch, key)));
        let entries = each.clone().map(|(of, branch, _)| Entry { of: Arc::clone(of), branch }).collect();
        let index = Index::build(each.map(|(.., key)| key));
        Self { entries, index, apart }
    }

    /// The route of the highest priority whose rule the request satisfies, and the first of its branches that does.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let canonical = Canonical::new(request);
        let subject = canonical.subject(request);
        let holds = |entry| self.entries.get(entry).is_some_and(|entry: &Entry| entry.holds(&subject));
        let Entry { of, branch } = self.entries.get(self.index.first(&subject, holds)?)?;
        let place = usize::from(*branch);
        let (operation, pattern) = (of.names.operations.get(place)?, of.names.patterns.get(place)?);
        Some(Found { route: &of.route, branch: *branch, operation, pattern })
    }

    /// The names of every route's branches: all that [`Found`] can ever say.
    pub fn names(&self) -> impl Iterator<Item = &Names> {
        self.apart.iter().map(|one| &one.names)
    }
}

impl Apart {
    fn new(rule: Rule, route: Arc<Route>) -> Self {
        let mut names = Names { route: route.id, operations: Vec::new(), patterns: Vec::new() };
        let branches = match rule.expr().branches(BRANCHES_MAX) {
            Some(branches) => branches.into_iter().map(Branch::of).collect(),
            None => vec![Branch { key: Key::default(), rest: Rest::Whole(Arc::clone(rule.expr())), name: None }],
        };
        let branches = branches.into_iter().map(|Branch { key, rest, name }| {
            let (operation, pattern) = name.unwrap_or_else(|| (route.name.to_string(), String::new()));
            names.operations.push(operation.into());
            names.patterns.push(pattern.into());
            (key, rest)
        });
        let branches = branches.collect();
        Self { rule, route, names, branches }
    }
}

/// A conjunction, taken apart.
struct Branch {
    key: Key,
    rest: Rest,
    /// Operation and pattern, unless the router's name is all that can be said.
    name: Option<(String, String)>,
}

impl Branch {
    /// The index takes the most exact host and literal path; whatever else there is must be asked.
    fn of(mut literals: Vec<Literal>) -> Self {
        let by_regex =
            literals.iter().any(|literal| matches!(literal.matcher, Matcher::PathRegexp(_)) && !literal.negated);
        let host = take(&mut literals, |literal| match literal {
            Matcher::Host(HostName::Exact(name)) => Some((2, name.len())),
            Matcher::Host(HostName::Wild(suffix)) => Some((1, suffix.len())),
            Matcher::Host(HostName::Deep(suffix)) => Some((0, suffix.len())),
            _ => None,
        });
        let path = take(&mut literals, |literal| match literal {
            Matcher::Path(path) => Some((true, path.len())),
            Matcher::PathPrefix(path) => Some((false, path.len())),
            _ => None,
        });
        let mut key = Key::default();
        let mut name = String::new();
        if let Some(Matcher::Host(host)) = &host {
            match host {
                HostName::Exact(exact) => name.push_str(exact),
                HostName::Wild(suffix) if suffix.is_empty() => name.push('*'),
                HostName::Wild(suffix) => name.extend(["*.", suffix]),
                HostName::Deep(suffix) => name.extend(["**.", suffix]),
            }
            key.host = Some(host.clone());
        }
        let pattern = match path {
            Some(Matcher::Path(path)) => {
                let pattern = String::from_utf8_lossy(&path).into_owned();
                key.path = Some((path, true));
                Some(pattern)
            }
            Some(Matcher::PathPrefix(path)) => {
                let text = String::from_utf8_lossy(&path);
                let stem = text.strip_suffix('/').unwrap_or(&text);
                let pattern = if stem.is_empty() { "/".to_owned() } else { format!("{stem}/*") };
                key.path = Some((path, false));
                Some(pattern)
            }
            _ => (host.is_some() && !by_regex).then(|| "/".to_owned()),
        };
        // What stands before a wildcard's suffix must be asked; it is cheap, so first.
        if let Some(host @ Matcher::Host(HostName::Wild(_) | HostName::Deep(_))) = host {
            literals.insert(0, Literal { negated: false, matcher: host });
        }
        Self { key, rest: Rest::Literals(literals.into()), name: pattern.map(|pattern| (name + &pattern, pattern)) }
    }
}

/// Takes out the positive literal with the greatest rank.
fn take<R: Ord>(literals: &mut Vec<Literal>, rank: impl Fn(&Matcher) -> Option<R>) -> Option<Matcher> {
    let (position, _) = literals
        .iter()
        .enumerate()
        .filter(|(_, literal)| !literal.negated)
        .filter_map(|(position, literal)| Some((position, rank(&literal.matcher)?)))
        .max_by(|(_, a), (_, b)| a.cmp(b))?;
    Some(literals.remove(position).matcher)
}

#[cfg(test)]
mod tests;
