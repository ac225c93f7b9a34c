//! What a new tree has: its contents, the chunks of them, and the names of its messages. Bounded by chunks; of files, 8
//! bytes each.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::base::content::{Content, refs};
use crate::base::entry::Entry;
use crate::op::backup::suspect::seen::Sort;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::scan::unique_name;

/// Chunks that are remembered, at most: of more a random part stands for all.
const CHUNKS_MAX: u64 = 1 << 22;

/// What the new tree has.
pub struct Present {
    /// Stands for a path, or a content, by a number.
    pub hasher: RandomState,
    contents: HashSet<u64>,
    chunks: HashSet<u64>,
    /// Which chunks are remembered: those whose names have none of these bits.
    mask: u64,
    /// Folders and unique names of messages.
    names: HashSet<u64>,
}

impl Present {
    /// Expects about `chunks` chunks.
    pub fn new(chunks: u64) -> Self {
        let share = chunks.div_ceil(CHUNKS_MAX).next_power_of_two();
        Self {
            hasher: RandomState::new(),
            contents: HashSet::new(),
            chunks: HashSet::new(),
            mask: share - 1,
            names: HashSet::new(),
        }
    }

    fn content(&self, content: Content<'_>) -> u64 {
        self.hasher.hash_one((content.depth, content.list))
    }

    /// Returns the chunks of a content that are remembered if they are there, and the bytes of each.
    fn chunks(&self, reader: &Reader<'_>, content: Content<'_>) -> Result<Vec<(u64, u64)>, RepoError> {
        let list = reader.flatten(content)?;
        let chunks = refs(&list).map(|chunk| {
            let start = chunk.id.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
            (u64::from_le_bytes(start), u64::from(chunk.bytes))
        });
        Ok(chunks.filter(|(key, _)| key & self.mask == 0).collect())
    }

    /// Takes a file. `folder` is that of a message which is new or has changed.
    ///
    /// # Errors
    /// What reading its list meets.
    pub fn add(
        &mut self,
        reader: &Reader<'_>,
        sort: Sort,
        folder: Option<u64>,
        entry: &Entry<'_>,
    ) -> Result<(), RepoError> {
        self.contents.insert(self.content(entry.content));
        match (sort, folder) {
            (Sort::Message, Some(folder)) => {
                self.names.insert(self.name(folder, entry.name));
            }
            (Sort::Message, None) => {}
            _ => {
                let chunks = self.chunks(reader, entry.content)?;
                self.chunks.extend(chunks.into_iter().map(|(key, _)| key));
            }
        }
        Ok(())
    }

    fn name(&self, folder: u64, name: &[u8]) -> u64 {
        self.hasher.hash_one((folder, unique_name(name)))
    }

    /// Returns whether a message of this unique name is in the folder.
    pub fn has_name(&self, folder: u64, name: &[u8]) -> bool {
        self.names.contains(&self.name(folder, name))
    }

    /// Returns how many bytes of a file are there. A message is there as it is, or not at all.
    ///
    /// # Errors
    /// What reading its list meets.
    pub fn kept_bytes(&self, reader: &Reader<'_>, sort: Sort, entry: &Entry<'_>) -> Result<u64, RepoError> {
        if self.contents.contains(&self.content(entry.content)) {
            return Ok(entry.size);
        }
        if sort == Sort::Message {
            return Ok(0);
        }
        let (mut kept, mut all) = (0, 0);
        for (key, bytes) in self.chunks(reader, entry.content)? {
            all += bytes;
            kept += if self.chunks.contains(&key) { bytes } else { 0 };
        }
        let kept = u128::from(entry.size) * u128::from(kept) / u128::from(all.max(1));
        Ok(u64::try_from(kept).unwrap_or(u64::MAX))
    }
}
