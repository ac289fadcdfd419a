//! Rules by their text: parsing is the dearest part of a translation, and most rules are those of last time.

use std::collections::HashMap;

use wayspan_proxy::rule::Rule;

#[derive(Debug, Default)]
pub(super) struct Rules {
    known: HashMap<Box<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    rule: Result<Rule, String>,
    used: bool,
}

impl Rules {
    /// Reads a rule, or finds it.
    pub(super) fn parse(&mut self, text: &str) -> Result<Rule, String> {
        if let Some(entry) = self.known.get_mut(text) {
            entry.used = true;
            return entry.rule.clone();
        }
        let rule = Rule::parse(text).map_err(|error| error.to_string());
        self.known.insert(text.into(), Entry { rule: rule.clone(), used: true });
        rule
    }

    /// Ends a translation: rules that nobody asked for are forgotten.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, entry| std::mem::replace(&mut entry.used, false));
    }
}
