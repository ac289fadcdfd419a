//! Rules by their text: parsing is the dearest part of a translation, and most rules are those of last time.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use wayspan_proxy::rule::Rule;

use crate::kube::parts::GET_500;

#[derive(Debug, Default)]
pub(super) struct Rules {
    known: HashMap<Box<str>, Result<Rule, Unreadable>>,
    /// How many there were when it was looked last which are still of use.
    looked: usize,
}

/// Why a rule cannot be read, and what of it can.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    why: String,
    /// Its requests are not to be others'.
    pub left: Option<Rule>,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<Unreadable> for String {
    fn from(rule: Unreadable) -> Self {
        rule.why
    }
}

impl Unreadable {
    /// For the rule's owner: what is wrong, and what becomes of its requests.
    pub(super) fn told(&self, text: &str) -> String {
        match self.left {
            Some(_) => format!("`{text}`: {self}; {GET_500}"),
            None => format!(
                "`{text}`: {self} (no host and no path of its own can be read, so other routes get its requests)"
            ),
        }
    }
}

impl Rules {
    /// Reads a rule, or finds it.
    pub(super) fn parse(&mut self, text: &str) -> Result<Rule, Unreadable> {
        if let Some(rule) = self.known.get(text) {
            return rule.clone();
        }
        let rule = Rule::parse(text);
        let rule = rule.map_err(|error| Unreadable { why: error.to_string(), left: Rule::readable(text) });
        self.known.insert(text.into(), rule.clone());
        rule
    }

    /// Ends a translation: rules that nobody has any more are forgotten, where there may be many.
    pub(super) fn forget_unused(&mut self) {
        let is_used = |rule: &Rule| Arc::strong_count(&rule.text) > 1;
        if self.known.len() > 2 * self.looked {
            self.known.retain(|_, rule| match rule {
                Ok(rule) | Err(Unreadable { left: Some(rule), .. }) => is_used(rule),
                Err(Unreadable { left: None, .. }) => false,
            });
            self.looked = self.known.len();
        }
    }
}
