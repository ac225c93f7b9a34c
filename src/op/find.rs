//! A pattern → the entries of snapshots that match it.

use globset::{GlobBuilder, GlobMatcher};

use crate::base::entry::Entry;
use crate::repo::browse::{EachEntry, Step, Visitor, walk};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};

/// What is looked for: a glob over base names, or over whole paths if it holds a `/`.
pub struct Pattern {
    glob: GlobMatcher,
    is_path: bool,
}

impl Pattern {
    /// Reads a pattern: `*`, `?`, `[a-z]`, `{a,b}`; `**` in paths.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it is none.
    pub fn new(text: &str) -> Result<Self, RepoError> {
        let is_path = text.contains('/');
        let mut builder = GlobBuilder::new(text.trim_start_matches('/'));
        let glob = builder.literal_separator(is_path).backslash_escape(true).build();
        let glob = glob.map_err(|e| RepoError::Source {
            path: format!("pattern {text:?}"),
            reason: e.kind().to_string(),
        })?;
        Ok(Self { glob: glob.compile_matcher(), is_path })
    }

    fn matches(&self, path: &[u8], name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let text = if self.is_path { path } else { name };
        self.glob.is_match(std::path::Path::new(std::ffi::OsStr::from_bytes(text)))
    }
}

/// Calls `each` with every entry of a snapshot that matches, and its path; and `damaged` with the path of every
/// directory that can't be read, and why: what is below it is left out. O(entries).
///
/// # Errors
/// What `each` returns; what reading meets that is no damage.
pub fn find(
    reader: &Reader<'_>,
    snapshot: &Snapshot,
    pattern: &Pattern,
    each: &mut EachEntry<'_>,
    damaged: &mut dyn FnMut(&[u8], &RepoError),
) -> Result<(), RepoError> {
    walk(reader, &snapshot.manifest.root, &mut Finder { pattern, each, damaged })
}

struct Finder<'f> {
    pattern: &'f Pattern,
    each: &'f mut EachEntry<'f>,
    damaged: &'f mut dyn FnMut(&[u8], &RepoError),
}

impl Visitor for Finder<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.pattern.matches(path, entry.name) {
            (self.each)(path, entry)?;
        }
        Ok(Step::Into)
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if !error.is_unreadable() {
            return Err(error);
        }
        (self.damaged)(path, &error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_slash_matches_names_anywhere() {
        let pattern = Pattern::new("*.sieve").unwrap();
        assert!(pattern.matches(b"a/b/filter.sieve", b"filter.sieve"));
        assert!(!pattern.matches(b"a.sieve/b", b"b"));
    }

    #[test]
    fn a_pattern_with_slash_matches_whole_paths() {
        let pattern = Pattern::new("mail/*/cur/**").unwrap();
        assert!(pattern.matches(b"mail/anna/cur/1.host", b"1.host"));
        assert!(!pattern.matches(b"mail/example.org/anna/cur/1.host", b"1.host"));
    }
}
