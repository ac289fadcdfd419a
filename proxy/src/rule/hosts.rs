//! Many hosts at once: whether a name is one of them costs the same for ten and for ten thousand.

use std::collections::HashSet;

/// Names, and wildcards `*.example.com` of one or more labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Wildcards from their dot on, so that they are no names.
    all: HashSet<Box<str>>,
    /// Dots of the longest wildcard: before no more of a name's can one begin.
    dots_max: usize,
}

impl Hosts {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all that a name or a wildcard, in lower case, stands for is of these.
    #[must_use]
    pub fn cover(&self, name: &str) -> bool {
        let dots = name.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'.').take(self.dots_max);
        // Before a wildcard's dot there is a label.
        let is_below = |(dot, _)| dot > 0 && name.get(dot..).is_some_and(|suffix| self.all.contains(suffix));
        (!name.starts_with('.') && self.all.contains(name)) || dots.into_iter().any(is_below)
    }
}

impl<'h> FromIterator<&'h str> for Hosts {
    /// Of names and wildcards in lower case.
    fn from_iter<I: IntoIterator<Item = &'h str>>(names: I) -> Self {
        let mut hosts = Self::default();
        for name in names {
            let suffix = name.strip_prefix('*');
            let dots = suffix.map_or(0, |suffix| suffix.bytes().filter(|byte| *byte == b'.').count());
            hosts.dots_max = hosts.dots_max.max(dots);
            hosts.all.insert(suffix.unwrap_or(name).into());
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_them_or_below_a_wildcard() {
        let hosts: Hosts = ["a.example", "*.example.com", "*.b.c.example"].into_iter().collect();
        for (name, want) in [
            ("a.example", true),
            ("b.a.example", false),
            ("example", false),
            ("example.com", false),
            ("a.example.com", true),
            ("c.b.a.example.com", true),
            ("*.example.com", true),
            ("*.a.example.com", true),
            ("*.com", false),
            ("aexample.com", false),
            (".example.com", false),
            (".a.example", false),
            ("..example.com", true),
            ("x.b.c.example", true),
            ("x.c.example", false),
            ("*.c.example", false),
            ("com", false),
            ("", false),
        ] {
            assert_eq!(hosts.cover(name), want, "{name}");
        }
        assert!(!Hosts::default().cover("a") && Hosts::default().is_empty() && !hosts.is_empty());
    }
}
