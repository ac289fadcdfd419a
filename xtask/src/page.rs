//! Pages of docs/ with a part that a command writes, between two lines that mark it.

use anyhow::{Context as _, Result};

/// A part of a page, by the comments before and behind it.
pub struct Part {
    /// Where the page is, from the repository's root.
    pub page: &'static str,
    /// `<!-- name -->`.
    pub begin: &'static str,
    /// `<!-- /name -->`.
    pub end: &'static str,
}

impl Part {
    /// What stands there.
    ///
    /// # Errors
    /// A mark is missing.
    pub fn of<'t>(&self, text: &'t str) -> Result<&'t str> {
        Ok(self.split(text)?.1)
    }

    /// The page with this there instead.
    ///
    /// # Errors
    /// A mark is missing.
    pub fn replaced(&self, text: &str, content: &str) -> Result<String> {
        let (before, _, after) = self.split(text)?;
        Ok(format!("{before}{}\n{content}{}{after}", self.begin, self.end))
    }

    fn split<'t>(&self, text: &'t str) -> Result<(&'t str, &'t str, &'t str)> {
        let Self { page, begin, end } = self;
        let (before, rest) = text.split_once(begin).with_context(|| format!("{page}: no {begin}"))?;
        let (content, after) = rest.split_once(end).with_context(|| format!("{page}: no {end}"))?;
        Ok((before, content, after))
    }
}
