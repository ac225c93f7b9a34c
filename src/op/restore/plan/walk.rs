//! Notes what is to be made.

use std::collections::hash_map::Entry::{Occupied, Vacant};

use crate::base::content::{Content, ContentBuf, REF_BYTES, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::limits::TREE_CHUNK_BYTES_AVG;
use crate::base::progress::Done;
use crate::op::restore::alike::alike;
use crate::op::restore::attributes::On;
use crate::op::restore::fill::{FilePlan, RECORDS_BYTES_MAX};
use crate::op::restore::filter::{Wanted, Within};
use crate::op::restore::needs::Lookup;
use crate::op::restore::plan::{Directory, First, Identity, Link, NEEDS_MAX, Plan, path, path_of};
use crate::op::restore::target::Target;
use crate::op::restore::{Overwrite, asked, lack};
use crate::repo::RepoError;
use crate::repo::browse::Record;
use crate::repo::together::{ordered, read_directories};
use crate::stage::scan::{self, FolderId};
use crate::stage::snapshot::Component;
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
        let top = Within::default();
        if !self.filter.judge(entry.name, false, &top).is_chosen {
            return Ok(());
        }
        self.filter.meet(entry.name, false, &top);
        self.list_there(0);
        if !self.is_in_place(entry.name) {
            self.any(entry)?;
        }
        self.name_strangers(0);
        Ok(())
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
                            let path = path(&self.directories, number);
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
        self.list_there(number);
        for entry in Entries::new(stream) {
            if self.request.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let entry = match entry {
                Ok((_, entry)) => entry,
                Err(e) => {
                    let path = path(&self.directories, number);
                    self.report.lacks.push(lack(&path, RepoError::from(e).chain()));
                    return Ok(()); // what is in the target stays
                }
            };
            self.here = number;
            self.entry(&entry, below)?;
        }
        self.name_strangers(number);
        let alike = alike(stream);
        if !alike.is_empty() {
            self.alike.push((number, alike));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, below: &mut Vec<(u32, ContentBuf)>) -> Result<(), RepoError> {
        let is_named = self.request.components.is_empty()
            || self.here != 0
            || self.components.iter().any(|component| {
                // One without a directory lies in the root itself.
                let is_its = component.directory.is_empty() || component.directory == entry.name;
                is_its && self.request.components.contains(&component.name)
            });
        let is_directory = entry.kind == Kind::Directory;
        let path = if self.filter.is_for_all() { Vec::new() } else { self.path_here(entry.name) };
        let above = &self.directories[self.here as usize].within;
        let Wanted { is_chosen, is_above, within } = self.filter.judge(&path, is_directory, above);
        if !is_named || !is_above {
            return Ok(());
        }
        if is_chosen {
            self.filter.meet(&path, is_directory, above);
        }
        if self.is_in_place(entry.name) {
            self.report.unchanged += u64::from(entry.kind == Kind::File);
            self.report.directories += u64::from(is_directory);
            return Ok(());
        }
        if !is_directory {
            return self.any(entry);
        }
        self.take_there(entry, &[])?;
        let record = record_of(entry)?;
        let number = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        let top = if self.here == 0 { number } else { self.directories[self.here as usize].top };
        let stays = self.stays_as_it_is(entry.name);
        self.directories.push(Directory {
            name: entry.name.into(),
            record: (!stays).then(|| Record::new(&record)).transpose()?,
            parent: Some(self.here),
            top,
            within,
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

    /// Returns whether a name of the walk's directory is a component's that holds its sources side by side, and is in the
    /// target already: then it is nobody's to change. It may be what a database or another program lives in.
    fn stays_as_it_is(&self, name: &[u8]) -> bool {
        let is_made_up = |component: &Component| match component.sources.as_slice() {
            [source] => source.first() != Some(&b'/'),
            _ => true,
        };
        let mut own = self.components.iter().filter(|component| component.directory == name);
        let is_top = self.here == 0 && asked::is_whole(self.request) && !name.is_empty();
        let is_there = || self.target.below(name).is_ok();
        is_top && !self.target.is_staged() && own.any(is_made_up) && is_there()
    }

    /// Returns the path of a name where the walk is.
    fn path_here(&self, name: &[u8]) -> Vec<u8> {
        path_of(&self.directories, self.here, name)
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
        if self.is_second_name(entry, None) {
            self.meet(entry.name);
            return Ok(());
        }
        self.take_there(entry, &[])?;
        let file = self.note(entry, &[])?;
        self.files.push(file);
        Ok(())
    }

    /// Notes an entry that has several names, of which `kept` is there and stays. Returns whether it is one more name of
    /// what is there, or will be, under an earlier one: then it is linked to that.
    fn is_second_name(&mut self, entry: &Entry<'_>, kept: Option<FolderId>) -> bool {
        if entry.links < 2 {
            return false;
        }
        let place = (self.here, entry.name.to_vec());
        match self.firsts.entry(self.identity(entry)) {
            Vacant(free) => {
                free.insert(First { place, kept });
                false
            }
            Occupied(first) if kept.is_some() && first.get().kept == kept => false,
            Occupied(first) => {
                let (first, is_file) = (first.get().place.clone(), entry.kind == Kind::File);
                self.links.push(Link { directory: place.0, name: place.1, first, is_file });
                true
            }
        }
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        let may_be_kept = self.request.overwrite == Overwrite::IfChanged && !self.target.is_staged();
        let kept = if may_be_kept { self.is_there(entry) } else { None };
        let is_second = self.is_second_name(entry, kept);
        if kept.is_some() && !is_second {
            if self.request.verify
                && !self.request.dry_run
                && let Some(list) = self.content(entry)
            {
                let file = self.note(entry, &list)?;
                self.kept.push(file);
            }
            self.keep_file(entry);
            return self.fill_if_full();
        }
        self.want_here();
        if is_second {
            self.meet(entry.name);
            self.report.files += u64::from(self.request.dry_run);
            return Ok(());
        }
        if self.request.dry_run {
            self.report.files += 1;
            self.report.bytes += entry.size;
            return Ok(());
        }
        let Some(list) = self.content(entry) else { return Ok(()) };
        if self.take_there(entry, &list)? {
            if self.request.verify {
                let file = self.note(entry, &list)?;
                self.kept.push(file);
            }
            self.keep_file(entry);
            return self.fill_if_full();
        }
        let file = self.note(entry, &list)?;
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(file);
        for (count, chunk) in (0..).zip(refs(&list)) {
            let lookup = Lookup { chunk, file: number, number: count };
            self.needs.add(lookup, &mut self.files, &self.frames, self.request.threads)?;
        }
        self.fill_if_full()
    }

    /// Makes what is noted, where no more can be.
    fn fill_if_full(&mut self) -> Result<(), RepoError> {
        let kept_max = NEEDS_MAX / 2; // about as much memory
        if self.needs.len() >= NEEDS_MAX
            || self.kept.len() >= kept_max
            || self.records.bytes() >= RECORDS_BYTES_MAX
        {
            self.fill()?;
        }
        Ok(())
    }

    /// Counts a file that stays as it is.
    fn keep_file(&mut self, entry: &Entry<'_>) {
        self.report.unchanged += 1;
        self.request.progress.add(Done { files: 1, bytes: entry.size });
    }

    /// Returns the references of a file's chunks; none, and that is a lack, if they can't be had.
    fn content(&mut self, entry: &Entry<'_>) -> Option<Vec<u8>> {
        let reason = match self.reader.flatten(entry.content) {
            Ok(list) => {
                let total: u64 = refs(&list).map(|chunk| u64::from(chunk.bytes)).sum();
                if total == entry.data_bytes() {
                    return Some(list);
                }
                "its chunks are not as long as the file".to_owned()
            }
            Err(e) => e.chain(),
        };
        self.report.lacks.push(lack(&self.path_here(entry.name), reason));
        None
    }

    /// Returns what all names of a file share.
    fn identity(&self, entry: &Entry<'_>) -> Identity {
        let device = [entry.device.0.to_le_bytes(), entry.device.1.to_le_bytes()].concat();
        let own =
            [&[entry.content.depth, entry.kind.letter() as u8], entry.content.list, entry.target, &device];
        let content = blake3::hash(&own.concat());
        let component = self.component(entry.name);
        (component, entry.filesystem, entry.inode, entry.size, *content.as_bytes())
    }

    /// Notes an entry and its chunks.
    fn note(&mut self, entry: &Entry<'_>, list: &[u8]) -> Result<FilePlan, RepoError> {
        let record = record_of(entry)?;
        FilePlan::note(&record, list, self.here, |record| self.keep(record))
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

    /// Returns the file that the target has already under its name, as far as size and mtime tell; sets its
    /// other attributes then.
    fn is_there(&self, entry: &Entry<'_>) -> Option<FolderId> {
        let parent = self.target.directory(&self.directories, self.here).ok()?;
        let same = Target::look(&*parent, entry.name).filter(|stat| {
            stat.kind == Some(Kind::File) && stat.size == entry.size && stat.mtime == entry.mtime
        })?;
        if !self.request.dry_run
            && let Ok(file) = scan::open_file(&*parent, entry.name)
        {
            self.attributes.set(&On::File(&file), entry, &|| self.path_here(entry.name));
        }
        Some((same.filesystem, same.inode))
    }

    /// Returns the component of an entry where the walk is.
    fn component(&self, name: &[u8]) -> usize {
        let top = match self.directories[self.here as usize].top {
            0 => name,
            top => &self.directories[top as usize].name,
        };
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
