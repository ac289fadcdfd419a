//! Traefik v3's rule language: text to a checked expression. Matching over a table of routes is [`crate::route`]'s.

/// A parsed rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The rule as written; its length is the default priority.
    pub text: Box<str>,
}
