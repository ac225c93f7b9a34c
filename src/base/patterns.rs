//! Patterns as in `.gitignore`: one way to read them, for whoever takes some.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// A pattern that can't be read. Never retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?}: {reason}")]
pub struct PatternError {
    /// The pattern, as it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Returns what matches any of the patterns; of several that match the last one says whether its path is
/// taken or, with a `!` before the pattern, is not. Empty lines and comments match nothing.
///
/// # Errors
/// [`PatternError`] for the first that can't be read.
pub fn matcher<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Gitignore, PatternError> {
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false); // a bracket that is not closed matches nothing that anybody means
    for pattern in patterns {
        let pattern = pattern.as_ref();
        builder.add_line(None, pattern).map_err(|error| unreadable(pattern, &error))?;
    }
    builder.build().map_err(|error| unreadable("", &error))
}

fn unreadable(pattern: &str, error: &ignore::Error) -> PatternError {
    let reason = match error {
        ignore::Error::Glob { err, .. } => err.clone(),
        error => error.to_string(),
    };
    PatternError { pattern: pattern.to_owned(), reason }
}

/// Returns the patterns in the text of a file, a line each: without the byte order mark that some editors
/// put before it, comments and empty lines.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter(|line| !line.trim().is_empty() && !is_comment(line))
}

/// Returns whether a line of a file of patterns is a comment.
pub fn is_comment(line: &str) -> bool {
    line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_can_not_be_read_is_refused_with_its_reason() {
        for pattern in ["[", "a[b", "[z-a]", "{a,b", "a\\"] {
            let error = matcher([pattern]).expect_err(pattern);
            assert!(error.pattern == pattern && !error.reason.is_empty(), "{error}");
        }
        assert!(matcher(["*.tmp", "!keep", "[ab]", "\\[", "# note", "", "tmp/"]).is_ok());
    }

    #[test]
    fn a_file_of_patterns_may_come_from_any_editor() {
        let text = "\u{feff}*.tmp\r\n# a comment\r\n\r\n  \r\n/cache\r\nlast";
        assert_eq!(lines(text).collect::<Vec<_>>(), ["*.tmp", "/cache", "last"]);
    }
}
