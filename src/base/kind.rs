//! What stored chunks belong to.

use std::fmt;

/// What the chunks of a frame or pack belong to. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Content of files: only who holds an age identity can open it.
    Content,
    /// Trees and lists of chunks: the writer secret opens it.
    Tree,
}

impl FrameKind {
    /// Returns the number that is stored.
    pub fn number(self) -> u8 {
        match self {
            Self::Content => 1,
            Self::Tree => 2,
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "content",
            Self::Tree => "tree",
        })
    }
}
