//! What a run says though nothing is lacking: somebody should look at it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::base::entry::quoted;

/// Paths that one line names.
const PATHS_SHOWN: usize = 5;

/// What was noted so far.
#[derive(Default)]
pub struct Warnings(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    lines: Vec<String>,
    /// By component and pattern: what the pattern leaves out since this run, and the parent snapshot has.
    newly_left_out: BTreeMap<(String, String), Vec<Vec<u8>>>,
}

impl Warnings {
    /// Notes a line as it is.
    pub fn line(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.push(what);
    }

    /// Notes that a pattern leaves out what the parent snapshot has, which was not made with it.
    pub fn newly_left_out(&self, component: &str, pattern: &str, path: Vec<u8>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (component.to_owned(), pattern.to_owned());
        noted.newly_left_out.entry(key).or_default().push(path);
    }

    /// Returns a line for each, and forgets them.
    pub fn take(&self) -> Vec<String> {
        let Noted { mut lines, newly_left_out } =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        lines.sort();
        for ((component, pattern), mut paths) in newly_left_out {
            paths.sort();
            let shown: Vec<String> = paths.iter().take(PATHS_SHOWN).map(|path| quoted(path)).collect();
            let more = paths.len().saturating_sub(PATHS_SHOWN);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            lines.push(format!(
                "component {component}: the exclude pattern {pattern:?} now leaves out what the last snapshot has: {}{more}; remove the pattern if that is not meant",
                shown.join(", ")
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_leaves_much_out_is_one_line() {
        let warnings = Warnings::default();
        (0..8).for_each(|number| warnings.newly_left_out("mail", "/srv/*", format!("/srv/{number}").into()));
        warnings.line("first".to_owned());
        let lines = warnings.take();
        assert_eq!((lines.len(), lines[0].as_str()), (2, "first"));
        assert!(lines[1].contains("/srv/0, ") && lines[1].contains("/srv/4, and 3 more"), "{}", lines[1]);
        assert!(warnings.take().is_empty());
    }
}
