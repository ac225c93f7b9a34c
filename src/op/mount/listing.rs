//! A directory's tree stream → its entries by number and by name, without reading it twice.

use crate::base::content::ContentBuf;
use crate::base::entry::Entry;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::tree::Entries;

/// A directory's entries, by ascending name bytes.
pub struct Listing {
    stream: Vec<u8>,
    starts: Vec<u32>,
}

impl Listing {
    /// Reads the directory that `content` refers to, and checks all of it once.
    ///
    /// # Errors
    /// As [`Reader::content`]; [`RepoError::Tree`] if an entry makes no sense. O(entries).
    pub fn read(reader: &Reader<'_>, content: &ContentBuf) -> Result<Self, RepoError> {
        let stream = reader.content(content.borrowed())?;
        let mut starts = Vec::new();
        for entry in Entries::new(&stream) {
            let (range, _) = entry?;
            starts.push(u32::try_from(range.start).map_err(|_| too_long())?);
        }
        starts.shrink_to_fit();
        Ok(Self { stream, starts })
    }

    /// Returns how many entries there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }

    /// Returns how much memory this takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.stream.capacity() + self.starts.capacity() * size_of::<u32>()
    }

    /// Returns entry `number`, counted from 0. O(entry).
    ///
    /// # Errors
    /// [`RepoError::Content`] if there are not so many.
    pub fn entry(&self, number: u32) -> Result<Entry<'_>, RepoError> {
        let start = self.starts.get(number as usize).map(|start| *start as usize);
        let rest = start.and_then(|start| self.stream.get(start..)).unwrap_or_default();
        match Entries::new(rest).next() {
            Some(entry) => Ok(entry?.1),
            None => Err(RepoError::Content { what: "no entry of that number" }),
        }
    }

    /// Returns the number of the entry with this name. O(log entries).
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle).ok()?;
            match entry.name.cmp(name) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }
}

fn too_long() -> RepoError {
    RepoError::Content { what: "longer than any list or directory may be" }
}
