//! The one place where the configuration meets the proxy's rules and tables.

use std::sync::Arc;

use wayspan_proxy::rule::Rule;

/// Parses a rule of Traefik's language; the message says what is wrong with it.
pub(super) fn parse_rule(text: &str) -> Result<Rule, String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(Rule { text: text.into() })
}

/// What spans call the branches of a rule: operations without their method, and path patterns.
pub(super) fn branches(_rule: &Rule, router: &str) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    (vec![router.into()], vec!["".into()])
}
