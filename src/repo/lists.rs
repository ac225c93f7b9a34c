//! Nested lists of chunks → the chunks of a content. Whoever follows lists does it here, and so refuses the same ones.

use crate::base::content::{Content, is_list};
use crate::base::limits::LIST_DEPTH_MAX;
use crate::repo::RepoError;
use crate::repo::reader::Reader;

/// Refuses content whose lists are nested too deeply.
///
/// # Errors
/// [`RepoError::Content`].
pub fn refuse_too_deep(depth: u8) -> Result<(), RepoError> {
    match depth <= LIST_DEPTH_MAX {
        true => Ok(()),
        false => Err(RepoError::Content { what: "nested too deeply" }),
    }
}

impl Reader<'_> {
    /// Returns the list of a content's own chunks, with all nesting undone.
    ///
    /// # Errors
    /// [`RepoError::Content`] for a hostile list, or as [`Reader::chunk`].
    pub fn flatten(&self, content: Content<'_>) -> Result<Vec<u8>, RepoError> {
        refuse_too_deep(content.depth)?;
        let mut list = content.list.to_vec();
        for _ in 0..content.depth {
            list = self.list_below(&list)?;
        }
        Ok(list)
    }

    /// Returns the list that the chunks of `list` are, one level of nesting undone.
    ///
    /// # Errors
    /// As [`Self::flatten`].
    pub fn list_below(&self, list: &[u8]) -> Result<Vec<u8>, RepoError> {
        let below = self.gather(list)?;
        match is_list(&below) {
            true => Ok(below),
            false => Err(RepoError::Content { what: "a list is not a whole number of references" }),
        }
    }
}
