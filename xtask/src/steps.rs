//! Commands that are a list of named steps: which of them are wanted.

use anyhow::{Result, bail};

/// The steps that `--only` names, all where it names none.
///
/// # Errors
/// A name that no step has; `command` lists them.
pub fn wanted<'s, S>(steps: &'s [S], name: impl Fn(&S) -> &str, only: &[String], command: &str) -> Result<Vec<&'s S>> {
    if let Some(unknown) = only.iter().find(|wanted| steps.iter().all(|step| name(step) != wanted.as_str())) {
        bail!("no step {unknown:?}; `cargo xtask {command} --list` names them");
    }
    Ok(steps.iter().filter(|step| only.is_empty() || only.iter().any(|wanted| wanted == name(step))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_wanted_where_none_is_named_and_an_unknown_name_is_told() {
        let steps = ["one", "two"];
        let wanted = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            wanted(&steps, |step| step, &only, "test").map(|steps| steps.len()).map_err(|error| error.to_string())
        };
        assert_eq!((wanted(&[]), wanted(&["two"])), (Ok(2), Ok(1)));
        assert_eq!(wanted(&["six"]), Err("no step \"six\"; `cargo xtask test --list` names them".to_owned()));
    }
}
