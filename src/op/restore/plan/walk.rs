//! Notes what is to be made.

use std::collections::BTreeSet;

use crate::base::content::{Content, ContentBuf, REF_BYTES, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::limits::TREE_CHUNK_BYTES_AVG;
use crate::base::progress::Done;
use crate::op::restore::attributes::On;
use crate::op::restore::fill::{FilePlan, RECORDS_BYTES_MAX};
use crate::op::restore::needs::Lookup;
use crate::op::restore::plan::{Directory, Identity, Link, NEEDS_MAX, Plan};
use crate::op::restore::target::Target;
use crate::op::restore::{Overwrite, asked, lack};
use crate::repo::RepoError;
use crate::repo::browse::Record;
use crate::repo::together::{ordered, read_directories};
use crate::stage::scan;
use crate::stage::tree::Entries;

/// Bytes of directories that are read together: those that share frames should be. A larger one is read while no others
/// are.
const BATCH_BYTES: u64 = 4 << 20;

impl Plan<'_> {
    /// Restores one entry that is no directory, right into the target.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn single(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        self.any(entry)
    }

    /// Notes all that is below the directory that `root` refers to: one depth after the other, and the
    /// directories of each in the order in which they lie in packs.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]; [`RepoError::Source`] if what is noted can't be kept. A directory that can't be read is a
    /// lack.
    pub fn walk(&mut self, root: ContentBuf) -> Result<(), RepoError> {
        let mut depth = vec![(0, root)];
        while !depth.is_empty() {
            let index = self.reader.index();
            depth.sort_by_cached_key(|(_, content)| {
                refs(&content.list).next().and_then(|first| index.find(&first.id).ok().flatten())
            });
            let mut below = Vec::new();
            let reader = self.reader;
            let read = |batch: &&[(u32, ContentBuf)]| {
                let contents: Vec<ContentBuf> = batch.iter().map(|(_, content)| content.clone()).collect();
                read_directories(reader, &contents)
            };
            let batches = batches(&depth);
            let together = batches.chunk_by(|a, b| !is_large(a) && !is_large(b));
            for some in together {
                ordered(some, self.request.threads, read, |batch, streams| {
                    let mut numbers = batch.iter().map(|(number, _)| *number).zip(streams);
                    numbers.try_for_each(|(number, stream)| match stream {
                        Ok(stream) => self.directory(number, &stream, &mut below),
                        Err(e) if e.is_unreadable() => {
                            let path = self.directories[number as usize].path.clone();
                            self.report.lacks.push(lack(&path, e.chain()));
                            Ok(())
                        }
                        Err(e) => Err(e),
                    })
                })?;
            }
            depth = below;
        }
        Ok(())
    }

    /// Notes what is in a directory; adds the directories in it to `below`.
    fn directory(
        &mut self,
        number: u32,
        stream: &[u8],
        below: &mut Vec<(u32, ContentBuf)>,
    ) -> Result<(), RepoError> {
        let is_chosen = self.directories[number as usize].is_chosen;
        let mut met = (self.request.delete && is_chosen).then(BTreeSet::new);
        for entry in Entries::new(stream) {
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let entry = match entry {
                Ok((_, entry)) => entry,
                Err(e) => {
                    let path = self.directories[number as usize].path.clone();
                    self.report.lacks.push(lack(&path, RepoError::from(e).chain()));
                    return Ok(()); // what is in the target stays
                }
            };
            if let Some(met) = &mut met {
                met.insert(entry.name.to_vec());
            }
            self.here = number;
            self.entry(&entry, below)?;
        }
        match number {
            0 => self.met_at_top = met,
            _ => self.delete_others(number, met),
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, below: &mut Vec<(u32, ContentBuf)>) -> Result<(), RepoError> {
        let path = self.path_here(entry.name);
        let is_named = self.request.components.is_empty()
            || self.here != 0
            || self.components.iter().any(|component| {
                // One without a directory lies in the root itself.
                let is_its = component.directory.is_empty() || component.directory == entry.name;
                is_its && self.request.components.contains(&component.name)
            });
        let is_directory = entry.kind == Kind::Directory;
        let (is_chosen, is_above) = self.filter.wants(&path, is_directory);
        if !is_named || !(is_chosen || is_above) {
            return Ok(());
        }
        if !is_directory {
            return self.any(entry);
        }
        let record = record_of(entry)?;
        let number = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        self.directories.push(Directory {
            path,
            record: Some(Record::new(&record)?),
            parent: Some(self.here),
            is_chosen,
            is_wanted: false,
            is_made: false,
            is_tried: false,
        });
        self.request.progress.add(Done { files: 1, bytes: 0 });
        if is_chosen {
            self.here = number;
            self.want_here();
        }
        below.push((number, entry.content.to_owned()));
        Ok(())
    }

    /// Returns the path of a name where the walk is.
    fn path_here(&self, name: &[u8]) -> Vec<u8> {
        self.directories[self.here as usize].path_of(name)
    }

    /// Notes that something in the directory where the walk is is to be there.
    fn want_here(&mut self) {
        let mut number = self.here;
        while let Some(directory) = self.directories.get_mut(number as usize).filter(|d| !d.is_wanted) {
            directory.is_wanted = true;
            number = directory.parent.unwrap_or(0);
        }
    }

    fn any(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        if entry.kind == Kind::File {
            return self.file(entry);
        }
        if self.request.dry_run {
            self.report.others += 1;
            self.request.progress.add(Done { files: 1, bytes: 0 });
            return Ok(());
        }
        self.want_here();
        self.note(entry, &[])?;
        Ok(())
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        let linked = (entry.links > 1).then(|| (self.identity(entry), (self.here, entry.name.to_vec())));
        if self.request.overwrite == Overwrite::IfChanged && self.is_there(entry) {
            if let Some((identity, place)) = linked {
                self.firsts.entry(identity).or_insert(place);
            }
            self.report.unchanged += 1;
            self.request.progress.add(Done { files: 1, bytes: entry.size });
            return Ok(());
        }
        self.want_here();
        if let Some((identity, place)) = linked {
            if let Some(first) = self.firsts.get(&identity) {
                self.links.push(Link { directory: place.0, name: place.1, first: first.clone() });
                self.report.files += u64::from(self.request.dry_run);
                return Ok(());
            }
            self.firsts.insert(identity, place);
        }
        if self.request.dry_run {
            self.report.files += 1;
            self.report.bytes += entry.size;
            return Ok(());
        }
        let list = match self.reader.flatten(entry.content) {
            Ok(list) => list,
            Err(e) => {
                self.report.lacks.push(lack(&self.path_here(entry.name), e.chain()));
                return Ok(());
            }
        };
        let total: u64 = refs(&list).map(|chunk| u64::from(chunk.bytes)).sum();
        if total != entry.data_bytes() {
            let reason = "its chunks are not as long as the file";
            self.report.lacks.push(lack(&self.path_here(entry.name), reason));
            return Ok(());
        }
        let file = self.note(entry, &list)?;
        for (number, chunk) in (0..).zip(refs(&list)) {
            let lookup = Lookup { chunk, file, number };
            self.needs.add(lookup, &mut self.files, &self.frames, self.request.threads)?;
        }
        if self.needs.len() >= NEEDS_MAX || self.records.bytes() >= RECORDS_BYTES_MAX {
            self.fill()?;
        }
        Ok(())
    }

    /// Returns what all names of a file share.
    fn identity(&self, entry: &Entry<'_>) -> Identity {
        let content = blake3::hash(&[&[entry.content.depth], entry.content.list].concat());
        let component = self.component(&self.path_here(entry.name));
        (component, entry.filesystem, entry.inode, entry.size, *content.as_bytes())
    }

    /// Notes an entry and its chunks; returns its number.
    fn note(&mut self, entry: &Entry<'_>, list: &[u8]) -> Result<u32, RepoError> {
        let record = record_of(entry)?;
        let file = FilePlan::note(&record, list, self.here, |record| self.keep(record))?;
        self.files.push(file);
        Ok(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// Keeps a record; returns where it starts.
    fn keep(&mut self, record: &[u8]) -> Result<u64, RepoError> {
        if self.records.is_full(record.len()) {
            if self.records.lacks_file() {
                let file = self.target.nameless_file()?;
                self.records.give_file(file);
            }
            if let Err(e) = self.records.spill() {
                return Err(self.target.unusable(&e));
            }
        }
        Ok(self.records.push(record))
    }

    /// Returns whether the target has the file already, as far as size and mtime tell; sets its
    /// other attributes then.
    fn is_there(&self, entry: &Entry<'_>) -> bool {
        let path = &self.directories[self.here as usize].path;
        let Ok(parent) = self.target.directory(path) else { return false };
        let is_same = Target::look(&parent, entry.name).is_some_and(|stat| {
            stat.kind == Some(Kind::File) && stat.size == entry.size && stat.mtime == entry.mtime
        });
        if is_same
            && !self.request.dry_run
            && let Ok(file) = scan::open_file(&parent, entry.name)
        {
            self.attributes.set(&On::File(&file), entry);
        }
        is_same
    }

    fn component(&self, path: &[u8]) -> usize {
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let found = self.components.iter().position(|component| component.directory == top);
        if asked::is_whole(self.request) { found.unwrap_or(usize::MAX) } else { 0 }
    }
}

/// Returns an entry's record, without content.
fn record_of(entry: &Entry<'_>) -> Result<Vec<u8>, RepoError> {
    let mut record = Vec::with_capacity(256);
    let shell = Entry { content: Content::default(), ..entry.clone() };
    crate::stage::tree::push(&shell, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
    Ok(record)
}

/// Returns about how many bytes a directory has: a long list of chunks is in chunks itself.
fn bytes_of(content: &ContentBuf) -> u64 {
    let bytes = refs(&content.list).map(|chunk| u64::from(chunk.bytes)).sum::<u64>();
    let each = u64::from(TREE_CHUNK_BYTES_AVG) / REF_BYTES as u64;
    bytes.saturating_mul(each.saturating_pow(u32::from(content.depth)))
}

fn is_large(batch: &[(u32, ContentBuf)]) -> bool {
    batch.iter().any(|(_, content)| bytes_of(content) > BATCH_BYTES)
}

/// Returns the directories that are read together.
fn batches(directories: &[(u32, ContentBuf)]) -> Vec<&[(u32, ContentBuf)]> {
    let mut total = 0;
    let batches = directories.chunk_by(|(_, before), (_, content)| {
        total += bytes_of(before);
        let fits = total + bytes_of(content) <= BATCH_BYTES;
        total = if fits { total } else { 0 };
        fits
    });
    batches.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::id::ChunkId;

    #[test]
    fn directories_are_read_together_up_to_the_limit_and_a_large_one_alone() {
        let list =
            |bytes: u64| ChunkRef { id: ChunkId::from_bytes([1; ChunkId::BYTES]), bytes: bytes as u32 };
        let content = |bytes| ContentBuf { depth: 0, list: list(bytes).to_bytes().to_vec() };
        let third = BATCH_BYTES / 3;
        let sizes = [third, third, third, 1, 2 * BATCH_BYTES, third, third, third + 3, 5];
        let directories: Vec<_> = (0..).zip(sizes.map(content)).collect();
        let lengths: Vec<usize> = batches(&directories).iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [4, 1, 2, 2]);
        assert!(batches(&[]).is_empty());
        let nested = |chunks: u64| ContentBuf { depth: 1, list: list(20 * chunks).to_bytes().to_vec() };
        assert!(!is_large(&[(0, nested(1000))]), "2 MB in chunks of 2 KiB");
        assert!(is_large(&[(0, content(5)), (1, nested(3000))]), "6 MB");
    }
}
