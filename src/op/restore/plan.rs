//! The walk of a restore: notes what is to be made, then makes it. While it only notes, it touches
//! nothing outside memory: the target is opened when it is needed first.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::base::content::{Content, ContentBuf, REF_BYTES, refs};
use crate::base::entry::{Entry, Kind, quoted as shown};
use crate::base::progress::Done;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::fill::{FilePlan, Fill, Filled};
use crate::op::restore::needs::{Lookup, Needs};
use crate::op::restore::records::Records;
use crate::op::restore::target::Target;
use crate::op::restore::{Filter, Overwrite, Report, Request, lack};
use crate::repo::RepoError;
use crate::repo::browse::{Record, read_together};
use crate::repo::reader::Reader;
use crate::stage::scan;
use crate::stage::snapshot::Component;
use crate::stage::tree::Entries;

/// Needs gathered before files are filled: those of 3 million messages, 128 MB. What is beyond is
/// another pass over the packs.
const NEEDS_MAX: usize = 4_000_000;

/// Bytes of directories that are read together; a larger one is read alone.
const BATCH_BYTES: u64 = 16 << 20;

/// A directory of the target.
pub struct Directory {
    /// Its path below the target; empty for the target itself.
    pub path: Vec<u8>,
    /// Its entry; none for the target itself.
    record: Option<Record>,
    parent: Option<u32>,
    /// Whether it is asked for itself, not only on the way to something that is.
    is_chosen: bool,
    /// Whether it is to be there: it is wanted itself, or something in it is.
    is_wanted: bool,
    /// Whether it is there.
    pub is_made: bool,
    /// Whether it was tried.
    is_tried: bool,
}

impl Directory {
    /// Returns the path of a name in it, below the target.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.to_vec(),
            false => [&self.path, &b"/"[..], name].concat(),
        }
    }
}

/// A name that will be linked to a file restored earlier.
pub struct Link {
    /// Directory of the new name.
    pub directory: u32,
    /// The new name.
    pub name: Vec<u8>,
    /// Directory and name of the file.
    pub first: (u32, Vec<u8>),
}

/// What two names of one file share: component, file system, inode, size, content.
type Identity = (usize, u64, u64, u64, [u8; 32]);

/// Leads to the target, for who was found to have the key.
pub struct Entrance<'p> {
    /// Whether that was found out.
    pub is_open: &'p AtomicBool,
    /// Waits for that, and opens the target.
    pub enter: Box<dyn FnOnce() -> Result<Target, RepoError> + 'p>,
}

/// A restore under way.
pub struct Plan<'p> {
    reader: &'p Reader<'p>,
    entrance: Option<Entrance<'p>>,
    target: Option<Target>,
    /// What is wanted.
    pub(crate) filter: Filter,
    /// What was asked for.
    pub request: &'p Request<'p>,
    components: &'p [Component],
    attributes: Attributes,
    /// What was done.
    pub report: Report,
    /// Directories of the target, each after the one that holds it.
    pub directories: Vec<Directory>,
    /// The directory where the walk is.
    here: u32,
    /// The names met in the target itself.
    met_at_top: Option<BTreeSet<Vec<u8>>>,
    files: Vec<FilePlan>,
    records: Records,
    needs: Needs,
    firsts: HashMap<Identity, (u32, Vec<u8>)>,
    links: Vec<Link>,
}

impl<'p> Plan<'p> {
    /// Begins at the target itself.
    pub(crate) fn new(
        reader: &'p Reader<'p>,
        entrance: Entrance<'p>,
        filter: Filter,
        request: &'p Request<'p>,
        components: &'p [Component],
    ) -> Self {
        let root = Directory {
            path: Vec::new(),
            record: None,
            parent: None,
            is_chosen: true,
            is_wanted: true,
            is_made: true,
            is_tried: true,
        };
        Self {
            reader,
            entrance: Some(entrance),
            target: None,
            filter,
            request,
            components,
            attributes: Attributes::new(request.numeric_ids),
            report: Report::default(),
            directories: vec![root],
            here: 0,
            met_at_top: None,
            files: Vec::new(),
            records: Records::default(),
            needs: Needs::default(),
            firsts: HashMap::new(),
            links: Vec::new(),
        }
    }

    /// Returns the target, and opens it the first time.
    ///
    /// # Errors
    /// What the entrance returns.
    pub fn target(&mut self) -> Result<&Target, RepoError> {
        if let Some(entrance) = self.entrance.take() {
            self.target = Some((entrance.enter)()?);
        }
        self.target.as_ref().ok_or(RepoError::Locked)
    }

    /// Restores one entry that is no directory, right into the target.
    ///
    /// # Errors
    /// As [`Visitor::entry`].
    pub fn single(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        self.any(entry)
    }

    /// Notes all that is below the directory that `root` refers to: one depth after the other, and the
    /// directories of each in the order in which they lie in packs.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`], or as [`Self::target`]. A directory that can't be read is a lack.
    pub fn walk(&mut self, root: ContentBuf) -> Result<(), RepoError> {
        let mut depth = vec![(0, root)];
        while !depth.is_empty() {
            let index = self.reader.index();
            depth.sort_by_cached_key(|(_, content)| {
                refs(&content.list).next().and_then(|first| index.find(&first.id).ok().flatten())
            });
            let mut below = Vec::new();
            let mut left = depth.as_slice();
            while !left.is_empty() {
                let (batch, others) = left.split_at(batch_of(left));
                left = others;
                let contents: Vec<ContentBuf> = batch.iter().map(|(_, content)| content.clone()).collect();
                for ((number, _), stream) in batch.iter().zip(read_together(self.reader, &contents)) {
                    match stream {
                        Ok(stream) => self.directory(*number, &stream, &mut below)?,
                        Err(e) if e.is_damage() => {
                            let path = self.directories[*number as usize].path.clone();
                            self.report.lacks.push(lack(&path, e.chain()));
                        }
                        Err(e) => return Err(e),
                    }
                }
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
            if self.entrance.as_ref().is_some_and(|entrance| entrance.is_open.load(Ordering::Acquire)) {
                _ = self.target()?; // what is wrong with key or target is said soon
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
            _ => self.delete_others(number, met)?,
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>, below: &mut Vec<(u32, ContentBuf)>) -> Result<(), RepoError> {
        let path = self.path_here(entry.name);
        let is_named = self.request.components.is_empty()
            || self.here != 0
            || self.components.iter().any(|component| {
                component.directory == entry.name && self.request.components.contains(&component.name)
            });
        let is_directory = entry.kind == Kind::Directory;
        let (is_chosen, is_above) = self.filter.wants(&path, is_directory);
        if !is_named || !(is_chosen || is_above) {
            return Ok(());
        }
        if !is_directory {
            return self.any(entry);
        }
        let mut record = Vec::new();
        let shell = Entry { content: Content::default(), ..entry.clone() };
        crate::stage::tree::push(&shell, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
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

    /// Makes what is noted, then hard links, sets directories' attributes, removes what is too many.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`], or as [`Self::target`].
    pub fn finish(mut self) -> Result<Report, RepoError> {
        self.fill()?;
        let met = self.met_at_top.take();
        self.delete_others(0, met)?;
        if !self.request.dry_run {
            _ = self.target()?;
            if let Some(target) = self.target.take() {
                self.link_all(&target);
                self.finish_directories(&target);
            }
        }
        self.report.warnings = self.attributes.warnings();
        self.report.lacks.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.report)
    }

    fn link_all(&mut self, target: &Target) {
        for link in std::mem::take(&mut self.links) {
            let directory = &self.directories[link.directory as usize];
            if !directory.is_made {
                continue; // said already
            }
            self.request.progress.add(Done { files: 1, bytes: 0 });
            match self.link(target, &link) {
                Ok(()) => self.report.files += 1,
                Err(e) => {
                    let path = directory.path_of(&link.name);
                    let first = shown(&self.directories[link.first.0 as usize].path_of(&link.first.1));
                    let reason = match e {
                        Errno::NOENT => format!("its other name {first} was not restored"),
                        e => format!("cannot be linked to {first}: {}", std::io::Error::from(e)),
                    };
                    self.report.lacks.push(lack(&path, reason));
                }
            }
        }
    }

    /// Sets directories' attributes, from the deepest up: what is made in a directory changes its times.
    fn finish_directories(&mut self, target: &Target) {
        for directory in self.directories.iter().rev().filter(|directory| directory.is_made) {
            let Some(record) = &directory.record else { continue };
            match (target.directory(&directory.path), record.entry()) {
                (Ok(fd), Ok(entry)) => self.attributes.set(&On::File(&fd), &entry),
                (Err(e), _) => self.report.lacks.push(lack(&directory.path, std::io::Error::from(e))),
                (_, Err(e)) => self.report.lacks.push(lack(&directory.path, e.chain())),
            }
        }
    }

    /// Returns the path of a name where the walk is.
    fn path_here(&self, name: &[u8]) -> Vec<u8> {
        self.directories[self.here as usize].path_of(name)
    }

    /// Makes the directories that are wanted and were not tried yet, each after the one that holds it.
    fn make_directories(&mut self) -> Result<(), RepoError> {
        _ = self.target()?;
        let Some(target) = &self.target else { return Ok(()) };
        for number in 1..self.directories.len() {
            let (before, directory) = self.directories.split_at_mut(number);
            let Some(directory) = directory.first_mut().filter(|d| d.is_wanted && !d.is_tried) else {
                continue;
            };
            directory.is_tried = true;
            let parent = &before[directory.parent.unwrap_or(0) as usize];
            if !parent.is_made {
                continue; // said already
            }
            let name = directory.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&directory.path);
            let made = match self.request.dry_run {
                true => Ok(()),
                false => target.directory(&parent.path).and_then(|fd| target.make_directory(&fd, name)),
            };
            directory.is_made = made.is_ok();
            self.report.directories += u64::from(made.is_ok());
            if let Err(e) = made {
                let reason = match e {
                    Errno::LOOP | Errno::NOTDIR => {
                        "a link or file is in the way; nothing below it was restored".to_owned()
                    }
                    Errno::EXIST => {
                        "something else is in the way; allow it to be replaced with --overwrite".to_owned()
                    }
                    e => std::io::Error::from(e).to_string(),
                };
                self.report.lacks.push(lack(&directory.path, reason));
            }
        }
        Ok(())
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
        let here = self.here;
        if self.request.overwrite == Overwrite::IfChanged && self.is_there(entry)? {
            self.report.unchanged += 1;
            self.request.progress.add(Done { files: 1, bytes: entry.size });
            return Ok(());
        }
        self.want_here();
        if entry.links > 1 {
            let content = blake3::hash(&[&[entry.content.depth], entry.content.list].concat());
            let component = self.component(&self.path_here(entry.name));
            let identity = (component, entry.filesystem, entry.inode, entry.size, *content.as_bytes());
            let place = (here, entry.name.to_vec());
            if let Some(first) = self.firsts.get(&identity) {
                self.links.push(Link { directory: here, name: place.1, first: first.clone() });
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
        let mut at = 0;
        for (number, chunk) in (0..).zip(refs(&list)) {
            let lookup = Lookup { chunk, file, number, at };
            self.needs.add(lookup, &mut self.files, self.reader.index(), self.request.threads)?;
            at += u64::from(chunk.bytes);
        }
        if self.needs.len() >= NEEDS_MAX {
            self.fill()?;
        }
        Ok(())
    }

    /// Notes an entry and its chunks; returns its number.
    fn note(&mut self, entry: &Entry<'_>, list: &[u8]) -> Result<u32, RepoError> {
        let mut record = Vec::with_capacity(256 + list.len());
        let shell = Entry { content: Content::default(), ..entry.clone() };
        crate::stage::tree::push(&shell, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
        let record_bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
        record.extend_from_slice(list);
        if self.records.is_full(record.len()) {
            if self.records.lacks_file() {
                let file = self.target()?.nameless_file()?;
                self.records.give_file(file);
            }
            if let Err(e) = self.records.spill() {
                return Err(self.target()?.unusable(&e));
            }
        }
        self.files.push(FilePlan {
            record: self.records.push(&record),
            record_bytes,
            chunks: u32::try_from(list.len() / REF_BYTES).unwrap_or(u32::MAX),
            directory: self.here,
            left: 0.into(),
        });
        Ok(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// Returns whether the target has the file already, as far as size and mtime tell; sets its
    /// other attributes then.
    fn is_there(&mut self, entry: &Entry<'_>) -> Result<bool, RepoError> {
        let path = self.directories[self.here as usize].path.clone();
        let Ok(parent) = self.target()?.directory(&path) else { return Ok(false) };
        let is_same = Target::look(&parent, entry.name).is_some_and(|stat| {
            stat.kind == Some(Kind::File) && stat.size == entry.size && stat.mtime == entry.mtime
        });
        if is_same
            && !self.request.dry_run
            && let Ok(file) = scan::open_file(&parent, entry.name)
        {
            self.attributes.set(&On::File(&file), entry);
        }
        Ok(is_same)
    }

    fn component(&self, path: &[u8]) -> usize {
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let is_whole = self.request.path.iter().all(|byte| *byte == b'/');
        let found = self.components.iter().position(|component| component.directory == top);
        if is_whole { found.unwrap_or(usize::MAX) } else { 0 }
    }

    /// Makes all that is noted.
    fn fill(&mut self) -> Result<(), RepoError> {
        self.needs.locate(&mut self.files, self.reader.index(), self.request.threads)?;
        self.make_directories()?;
        self.reader.forget_frames();
        let Some(target) = &self.target else { return Ok(()) };
        let what = (self.files.as_slice(), &self.records);
        let fill = Fill::new(self.reader, target, &self.directories, &self.attributes, self.request, what);
        let Filled { files, bytes, others, verified, bytes_fetched, lacks } = fill.run(&mut self.needs)?;
        self.files.clear();
        self.records.clear();
        self.needs.clear();
        self.report.files += files;
        self.report.bytes += bytes;
        self.report.others += others;
        self.report.verified += verified;
        self.report.bytes_fetched += bytes_fetched;
        self.report.lacks.extend(lacks);
        Ok(())
    }
}

/// Returns how many of the directories are read together.
fn batch_of(directories: &[(u32, ContentBuf)]) -> usize {
    let bytes = directories.iter().scan(0, |total, (_, content)| {
        *total += refs(&content.list).map(|chunk| u64::from(chunk.bytes)).sum::<u64>();
        Some(*total)
    });
    bytes.take_while(|total| *total <= BATCH_BYTES).count().max(1)
}
