//! The walk of a restore: notes what is to be made, then makes it.

mod there;
mod walk;

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use crate::base::entry::{Entry, quoted as shown};
use crate::base::progress::Done;
use crate::op::restore::alike::Alike;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::fill::{FilePlan, Fill, Filled};
use crate::op::restore::filter::{Filter, Within};
use crate::op::restore::needs::{Frames, Needs};
use crate::op::restore::plan::there::There;
use crate::op::restore::spared::Spared;
use crate::op::restore::survey::Findings;
use crate::op::restore::target::Target;
use crate::op::restore::{Report, Request, lack};
use crate::repo::RepoError;
use crate::repo::browse::Record;
use crate::repo::reader::Reader;
use crate::repo::records::Records;
use crate::stage::scan::FolderId;
use crate::stage::snapshot::Component;

/// Needs gathered before files are filled: those of 3 million messages, 96 MB. What is beyond is
/// another pass over the packs.
const NEEDS_MAX: usize = 6_000_000;

/// What the owner of a directory must be let do, so that something in it can be removed: write and enter.
const WRITABLE: u32 = 0o300;

/// A directory of the target.
pub struct Directory {
    /// Its name in the one that holds it; empty for the target itself.
    pub name: Box<[u8]>,
    /// Its entry; none for the target itself.
    record: Option<Record>,
    /// Number of the one that holds it; none for the target itself.
    pub parent: Option<u32>,
    /// Number of the one right in the target that it is, or lies below; 0 for the target itself.
    top: u32,
    /// What the patterns of what is wanted say of it.
    pub within: Within,
    /// Whether it is to be there: it is wanted itself, or something in it is.
    is_wanted: bool,
    /// Whether it is there.
    pub is_made: bool,
    /// Whether it was tried.
    is_tried: bool,
}

/// Returns the path of directory `number` below the target; empty for the target itself. O(its depth): for what
/// is to be said, or held against patterns.
pub fn path(all: &[Directory], number: u32) -> Vec<u8> {
    let up = |number: &u32| all.get(*number as usize).and_then(|directory| directory.parent);
    let mut names: Vec<&[u8]> = std::iter::successors(Some(number), up)
        .filter_map(|number| all.get(number as usize).map(|directory| &*directory.name))
        .filter(|name| !name.is_empty())
        .collect();
    names.reverse();
    names.join(&b'/')
}

/// Returns the path of a name in directory `number`, below the target.
pub fn path_of(all: &[Directory], number: u32, name: &[u8]) -> Vec<u8> {
    let mut path = path(all, number);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A name that will be linked to a file restored earlier.
pub struct Link {
    /// Directory of the new name.
    pub directory: u32,
    /// The new name.
    pub name: Vec<u8>,
    /// Directory and name of the file.
    pub first: (u32, Vec<u8>),
    /// Whether it is a file, and no link, FIFO or device.
    pub is_file: bool,
}

/// What two names of one file share: component, file system, inode, size, content.
type Identity = (usize, u64, u64, u64, [u8; 32]);

/// The name that others are linked to.
struct First {
    /// Its directory, and the name.
    place: (u32, Vec<u8>),
    /// The file that is there and stays, if it was as it should be.
    kept: Option<FolderId>,
}

/// A restore under way.
pub struct Plan<'p> {
    reader: &'p Reader<'p>,
    /// Where it goes.
    pub target: Target,
    /// What is wanted.
    pub filter: &'p Filter,
    /// What was asked for.
    pub request: &'p Request<'p>,
    components: &'p [Component],
    /// What entries get, and what could not be set.
    pub attributes: Attributes,
    /// What was done.
    pub report: Report,
    /// Directories of the target, each after the one that holds it.
    pub directories: Vec<Directory>,
    /// The directory where the walk is.
    here: u32,
    /// Names of a directory that some file system may take for one.
    pub alike: Vec<(u32, Vec<Vec<Alike>>)>,
    files: Vec<FilePlan>,
    /// Files that were there already, and are to be looked at.
    kept: Vec<FilePlan>,
    /// What an earlier run has made in the directory where the walk is.
    there: There,
    records: Records,
    needs: Needs,
    frames: Frames<'p>,
    firsts: HashMap<Identity, First>,
    links: Vec<Link>,
}

impl<'p> Plan<'p> {
    /// Begins at the target itself.
    pub fn new(
        reader: &'p Reader<'p>,
        target: Target,
        filter: &'p Filter,
        mut attributes: Attributes,
        request: &'p Request<'p>,
        components: &'p [Component],
    ) -> Self {
        attributes.may_inherit = target.may_inherit;
        let root = Directory {
            name: Box::default(),
            record: None,
            parent: None,
            top: 0,
            within: Within::default(),
            is_wanted: true,
            is_made: true,
            is_tried: true,
        };
        Self {
            reader,
            target,
            filter,
            request,
            components,
            attributes,
            report: Report::default(),
            directories: vec![root],
            here: 0,
            alike: Vec::new(),
            files: Vec::new(),
            kept: Vec::new(),
            there: There::default(),
            records: Records::default(),
            needs: Needs::default(),
            frames: Frames::new(reader.index()),
            firsts: HashMap::new(),
            links: Vec::new(),
        }
    }

    /// Makes what is noted, then hard links, removes what is too many, and sets the attributes of the directories below the
    /// target.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn finish(&mut self, spared: &Spared<'_>, findings: Findings) -> Result<(), RepoError> {
        self.fill()?;
        if !self.request.dry_run {
            self.link_all()?;
            self.find_fallen_together();
        }
        self.delete_others(spared, findings)?;
        if !self.request.dry_run {
            self.finish_directories();
        }
        Ok(())
    }

    /// Takes the entry of the directory whose content goes right into the target: it gets that one's owner, mode, lists
    /// and times.
    pub fn root(&mut self, record: Record) {
        if let Some(root) = self.directories.first_mut() {
            root.record = Some(record);
        }
    }

    /// Gives the target itself its attributes, when all is in its place.
    pub fn settle(&mut self) {
        self.on_target(|attributes, on, entry| attributes.set(on, entry, &Vec::new));
    }

    /// Returns whether something in the target can still be removed when it has its attributes.
    pub fn is_writable_settled(&self) -> bool {
        let record = self.directories.first().and_then(|root| root.record.as_ref());
        let entry = record.and_then(|record| record.entry().ok());
        let is_root = rustix::process::geteuid().is_root();
        is_root || entry.is_none_or(|entry| entry.mode & WRITABLE == WRITABLE)
    }

    /// Gives the target itself its times once more, for something in it has gone since.
    pub fn settle_times(&mut self) {
        self.on_target(Attributes::set_times);
    }

    fn on_target(&mut self, set: impl FnOnce(&Attributes, &On<'_>, &Entry<'_>)) {
        let record = self.directories.first().and_then(|root| root.record.as_ref());
        let Some(record) = record.filter(|_| !self.request.dry_run) else { return };
        match (self.target.below(b""), record.entry()) {
            (Ok(fd), Ok(entry)) => set(&self.attributes, &On::File(&fd), &entry),
            (Err(e), _) => self.report.lacks.push(lack(b"", std::io::Error::from(e))),
            (_, Err(e)) => self.report.lacks.push(lack(b"", e.chain())),
        }
    }

    /// Returns what was done.
    pub fn end(mut self) -> Report {
        self.report.warnings.extend(self.attributes.warnings());
        self.report.unset = self.attributes.unset();
        self.report.unmatched = self.filter.unmatched();
        self.report.lacks.sort_by(|a, b| a.path.cmp(&b.path));
        self.report.lacks.dedup_by(|a, b| a.path == b.path);
        self.report
    }

    fn link_all(&mut self) -> Result<(), RepoError> {
        let links = std::mem::take(&mut self.links);
        let lacks = self.report.lacks.iter().filter(|_| !links.is_empty());
        let lacking: HashSet<Vec<u8>> = lacks.map(|lack| lack.path.clone()).collect();
        for link in links {
            if !self.directories[link.directory as usize].is_made {
                continue; // said already
            }
            self.request.progress.add(Done { files: 1, bytes: 0 });
            let (above, is_file) = (&self.directories[link.first.0 as usize], link.is_file);
            let first = || path_of(&self.directories, link.first.0, &link.first.1);
            // What lies there is an older file.
            let is_lacking =
                !lacking.is_empty() && lacking.contains(&first()) || above.is_tried && !above.is_made;
            match if is_lacking { Err(Errno::NOENT) } else { self.link(&link) } {
                Ok(()) if is_file => self.report.files += 1,
                Ok(()) => self.report.others += 1,
                Err(e) => {
                    self.target.stops(e)?;
                    let path = path_of(&self.directories, link.directory, &link.name);
                    let first = shown(&first());
                    let reason = match e {
                        Errno::NOENT => format!("its other name {first} was not restored"),
                        e => format!("cannot be linked to {first}: {}", std::io::Error::from(e)),
                    };
                    self.report.lacks.push(lack(&path, reason));
                }
            }
        }
        Ok(())
    }

    /// Sets directories' attributes, from the deepest up: what is made in a directory changes its times.
    fn finish_directories(&mut self) {
        let count = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        for number in (1..count).rev() {
            let directory = &self.directories[number as usize];
            let Some(record) = directory.record.as_ref().filter(|_| directory.is_made) else { continue };
            let reason = match (self.target.directory(&self.directories, number), record.entry()) {
                (Ok(fd), Ok(entry)) => {
                    self.attributes.set(&On::File(&*fd), &entry, &|| path(&self.directories, number));
                    continue;
                }
                (Err(e), _) => std::io::Error::from(e).to_string(),
                (_, Err(e)) => e.chain(),
            };
            self.report.lacks.push(lack(&path(&self.directories, number), reason));
        }
    }

    /// Makes the directories that are wanted and were not tried yet, each after the one that holds it.
    fn make_directories(&mut self) -> Result<(), RepoError> {
        let count = u32::try_from(self.directories.len()).unwrap_or(u32::MAX);
        for number in 1..count {
            let directory = &mut self.directories[number as usize];
            if !directory.is_wanted || directory.is_tried {
                continue;
            }
            directory.is_tried = true;
            let parent = directory.parent.unwrap_or(0);
            if !self.directories[parent as usize].is_made {
                continue; // said already
            }
            let name = &self.directories[number as usize].name;
            let made = match self.request.dry_run {
                true => Ok(()),
                false => self
                    .target
                    .directory(&self.directories, parent)
                    .and_then(|fd| self.target.make_directory(&*fd, name)),
            };
            self.report.directories += u64::from(made.is_ok());
            if let Err(e) = made {
                self.target.stops(e)?;
                let reason = match e {
                    Errno::LOOP | Errno::NOTDIR => {
                        "a link or file is in the way; nothing below it was restored".to_owned()
                    }
                    Errno::EXIST => {
                        "something else is in the way; allow it to be replaced with --overwrite".to_owned()
                    }
                    e => std::io::Error::from(e).to_string(),
                };
                self.report.lacks.push(lack(&path(&self.directories, number), reason));
                continue;
            }
            self.directories[number as usize].is_made = true;
        }
        Ok(())
    }

    /// Makes all that is noted.
    fn fill(&mut self) -> Result<(), RepoError> {
        self.needs.locate(&mut self.files, &self.frames, self.request.threads)?;
        self.make_directories()?;
        self.reader.forget_frames();
        let what = (self.files.as_slice(), &self.records);
        let from = (self.reader, &self.frames);
        let fill = Fill::new(from, &self.target, &self.directories, &self.attributes, self.request, what);
        let Filled { files, bytes, others, bytes_fetched, verified, lacks, .. } =
            fill.run(&mut self.needs, &self.kept)?;
        self.files.clear();
        self.kept.clear();
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
