//! The walk of a restore: makes directories, notes what files need, and fills them in portions.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::base::content::refs;
use crate::base::entry::{Entry, Kind, quoted as shown};
use crate::base::progress::Done;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::fill::{Filled, MEMORY_FILE_BYTES, Portion};
use crate::op::restore::stretch::Need;
use crate::op::restore::target::{Target, temporary_name};
use crate::op::restore::{Filter, Overwrite, Report, Request, lack};
use crate::repo::RepoError;
use crate::repo::browse::{Record, Step, Visitor};
use crate::repo::reader::Reader;
use crate::stage::scan;
use crate::stage::snapshot::Component;

/// Needs gathered before files are filled: 25 MB of them, and as much for the files.
const NEEDS_MAX: usize = 400_000;

/// A directory of the target.
pub struct Directory {
    /// Its path below the target; empty for the target itself.
    pub path: Vec<u8>,
    /// Its entry; none for the target itself.
    record: Option<Record>,
    parent: Option<u32>,
    is_made: bool,
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

/// A restore under way.
pub struct Plan<'p> {
    reader: &'p Reader<'p>,
    /// Where to restore to.
    pub target: Target,
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
    /// Directories from the target down to where the walk is, with the names met in each.
    stack: Vec<(u32, Option<BTreeSet<Vec<u8>>>)>,
    portion: Portion,
    firsts: HashMap<Identity, (u32, Vec<u8>)>,
    links: Vec<Link>,
    /// Number of the last temporary name.
    pub temporary: u64,
}

impl<'p> Plan<'p> {
    /// Begins at the target itself.
    pub(crate) fn new(
        reader: &'p Reader<'p>,
        target: Target,
        filter: Filter,
        request: &'p Request<'p>,
        components: &'p [Component],
    ) -> Self {
        let root = Directory { path: Vec::new(), record: None, parent: None, is_made: true };
        Self {
            reader,
            target,
            filter,
            request,
            components,
            attributes: Attributes::new(request.numeric_ids),
            report: Report::default(),
            directories: vec![root],
            stack: vec![(0, request.delete.then(BTreeSet::new))],
            portion: Portion::default(),
            firsts: HashMap::new(),
            links: Vec::new(),
            temporary: 0,
        }
    }

    /// Restores one entry that is no directory, right into the target.
    ///
    /// # Errors
    /// As [`Visitor::entry`].
    pub fn single(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        self.stack[0].1 = None; // its neighbours in the target are none of its business
        self.any(entry.name, entry)
    }

    /// Fills what is left, makes hard links, sets directories' attributes, removes what is too many.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`].
    pub fn finish(mut self) -> Result<Report, RepoError> {
        self.fill()?;
        if let Some((_, met)) = self.stack.pop() {
            self.delete_others(0, met);
        }
        for link in std::mem::take(&mut self.links) {
            if let Err(e) = self.link(&link) {
                let path = self.path_of(link.directory, &link.name);
                let first = shown(&self.path_of(link.first.0, &link.first.1));
                let reason = match e {
                    Errno::NOENT => format!("its other name {first} was not restored"),
                    e => format!("cannot be linked to {first}: {}", std::io::Error::from(e)),
                };
                self.report.lacks.push(lack(&path, reason));
            }
        }
        // From the deepest up: what is made in a directory changes its times.
        for directory in self.directories.iter().rev().filter(|directory| directory.is_made) {
            let Some(record) = &directory.record else { continue };
            if self.request.dry_run {
                continue;
            }
            match (self.target.directory(&directory.path), record.entry()) {
                (Ok(fd), Ok(entry)) => self.attributes.set(&On::File(&fd), &entry),
                (Err(e), _) => self.report.lacks.push(lack(&directory.path, std::io::Error::from(e))),
                (_, Err(e)) => self.report.lacks.push(lack(&directory.path, e.chain())),
            }
        }
        self.report.warnings = self.attributes.warnings();
        self.report.lacks.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.report)
    }

    fn here(&self) -> u32 {
        self.stack.last().map_or(0, |(number, _)| *number)
    }

    /// Returns the path of a name in a directory of the target.
    pub fn path_of(&self, directory: u32, name: &[u8]) -> Vec<u8> {
        match self.directories.get(directory as usize) {
            Some(directory) if !directory.path.is_empty() => [&directory.path, &b"/"[..], name].concat(),
            _ => name.to_vec(),
        }
    }

    /// Makes a directory of the target, and those above it.
    ///
    /// # Errors
    /// As mkdirat(2).
    pub fn make(&mut self, number: u32) -> Result<(), Errno> {
        let directory = &self.directories[number as usize];
        if directory.is_made {
            return Ok(());
        }
        let (parent, path) = (directory.parent.unwrap_or(0), directory.path.clone());
        self.make(parent)?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
        if !self.request.dry_run {
            let parent = self.target.directory(&self.directories[parent as usize].path)?;
            self.target.make_directory(&parent, name)?;
        }
        self.directories[number as usize].is_made = true;
        self.report.directories += 1;
        Ok(())
    }

    fn open_here(&mut self) -> Result<OwnedFd, Errno> {
        let here = self.here();
        self.make(here)?;
        self.target.directory(&self.directories[here as usize].path)
    }

    fn any(&mut self, name: &[u8], entry: &Entry<'_>) -> Result<(), RepoError> {
        let result = match entry.kind {
            Kind::File => return self.file(entry),
            _ if self.request.dry_run => Ok(()),
            _ => self.special(entry),
        };
        self.report.others += 1;
        self.request.progress.add(Done { files: 1, bytes: 0 });
        if let Err(e) = result {
            self.report.others -= 1;
            let path = self.path_of(self.here(), name);
            self.report.lacks.push(lack(&path, std::io::Error::from(e)));
        }
        Ok(())
    }

    fn special(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        let parent = self.open_here()?;
        self.temporary += 1;
        let temporary = temporary_name(self.temporary);
        let node = |kind, device| {
            rustix::fs::mknodat(&parent, temporary.as_str(), kind, Mode::RUSR | Mode::WUSR, device)
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.target, &parent, temporary.as_str())?,
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::CharDevice => node(FileType::CharacterDevice, device)?,
            Kind::BlockDevice => node(FileType::BlockDevice, device)?,
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
        }
        self.attributes.set(&On::Name(&parent, temporary.as_bytes()), entry);
        self.target.put(&parent, &temporary, entry.name)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), RepoError> {
        let here = self.here();
        let path = self.path_of(here, entry.name);
        if self.request.overwrite == Overwrite::IfChanged && self.is_there(entry) {
            self.report.unchanged += 1;
            self.request.progress.add(Done { files: 1, bytes: entry.size });
            return Ok(());
        }
        if entry.links > 1 {
            let content = blake3::hash(&[&[entry.content.depth], entry.content.list].concat());
            let component = self.component(&path);
            let identity = (component, entry.filesystem, entry.inode, entry.size, *content.as_bytes());
            let place = (here, entry.name.to_vec());
            if let Some(first) = self.firsts.get(&identity) {
                self.links.push(Link { directory: here, name: place.1, first: first.clone() });
                return Ok(());
            }
            self.firsts.insert(identity, place);
        }
        if self.request.dry_run {
            self.report.files += 1;
            self.report.bytes += entry.size;
            return Ok(());
        }
        if let Err(e) = self.make(here) {
            self.report.lacks.push(lack(&path, std::io::Error::from(e)));
            return Ok(());
        }
        let list = match self.reader.flatten(entry.content) {
            Ok(list) => list,
            Err(e) => {
                self.report.lacks.push(lack(&path, e.chain()));
                return Ok(());
            }
        };
        let total: u64 = refs(&list).map(|chunk| u64::from(chunk.bytes)).sum();
        if total != entry.data_bytes() {
            self.report.lacks.push(lack(&path, "its chunks are not as long as the file"));
            return Ok(());
        }
        let mut record = Vec::new();
        crate::stage::tree::push(entry, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
        let needs = list.len() / crate::base::content::REF_BYTES;
        let mut file = self.portion.add(here, Record::new(&record)?, needs);
        let mut at = 0;
        for chunk in refs(&list) {
            let location = self.reader.index().find(&chunk.id)?;
            self.portion.needs.push(Need { location, chunk, file, at });
            at += u64::from(chunk.bytes);
            // A file that is put together in memory is not split over two portions.
            if self.portion.needs.len() >= NEEDS_MAX && (at == total || total > MEMORY_FILE_BYTES) {
                self.fill()?;
                file = 0;
            }
        }
        Ok(())
    }

    /// Returns whether the target has the file already, as far as size and mtime tell; sets its
    /// other attributes then.
    fn is_there(&mut self, entry: &Entry<'_>) -> bool {
        let here = &self.directories[self.here() as usize];
        let Ok(parent) = self.target.directory(&here.path) else { return false };
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
        let is_whole = self.request.path.iter().all(|byte| *byte == b'/');
        let found = self.components.iter().position(|component| component.directory == top);
        if is_whole { found.unwrap_or(usize::MAX) } else { 0 }
    }

    fn fill(&mut self) -> Result<(), RepoError> {
        let portion = std::mem::take(&mut self.portion);
        let filled = portion.fill(
            self.reader,
            &self.target,
            &self.directories,
            &self.attributes,
            self.request,
            &mut self.temporary,
        )?;
        let Filled { files, bytes, verified, bytes_fetched, lacks, next } = filled;
        self.portion = next;
        self.report.files += files;
        self.report.bytes += bytes;
        self.report.verified += verified;
        self.report.bytes_fetched += bytes_fetched;
        self.report.lacks.extend(lacks);
        Ok(())
    }
}

impl Visitor for Plan<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        if self.request.progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        if let Some((_, Some(met))) = self.stack.last_mut() {
            met.insert(entry.name.to_vec());
        }
        let is_top = self.stack.len() == 1;
        let is_chosen = self.request.components.is_empty()
            || !is_top
            || self.components.iter().any(|component| {
                component.directory == entry.name && self.request.components.contains(&component.name)
            });
        let is_directory = entry.kind == Kind::Directory;
        let (is_wanted, is_above) = self.filter.wants(path, is_directory);
        if !is_chosen || !(is_wanted || is_above) {
            return Ok(Step::Over);
        }
        if !is_directory {
            self.any(entry.name, entry)?;
            return Ok(Step::Over);
        }
        let mut record = Vec::new();
        let shell = Entry { content: crate::base::content::Content::default(), ..entry.clone() };
        crate::stage::tree::push(&shell, &mut record).map_err(|e| RepoError::record(&"tree", e))?;
        let number = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        self.directories.push(Directory {
            path: path.to_vec(),
            record: Some(Record::new(&record)?),
            parent: Some(self.here()),
            is_made: false,
        });
        self.request.progress.add(Done { files: 1, bytes: 0 });
        if is_wanted && let Err(e) = self.make(number) {
            let reason = match e {
                Errno::LOOP | Errno::NOTDIR => {
                    "a link or file is in the way; nothing below it was restored".to_owned()
                }
                Errno::EXIST => {
                    "something else is in the way; allow it to be replaced with --overwrite".to_owned()
                }
                e => std::io::Error::from(e).to_string(),
            };
            self.report.lacks.push(lack(path, reason));
            return Ok(Step::Over);
        }
        self.stack.push((number, (self.request.delete && is_wanted).then(BTreeSet::new)));
        Ok(Step::Into)
    }

    fn leave(&mut self, _path: &[u8]) -> Result<(), RepoError> {
        if let Some((number, met)) = self.stack.pop() {
            self.delete_others(number, met);
        }
        Ok(())
    }

    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if !error.is_damage() {
            return Err(error);
        }
        if !path.is_empty() {
            self.stack.pop(); // what is in the target stays
        } else if let Some((_, met)) = self.stack.last_mut() {
            *met = None;
        }
        self.report.lacks.push(lack(path, error.chain()));
        Ok(())
    }
}
