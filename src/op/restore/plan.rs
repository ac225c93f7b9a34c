//! The walk of a restore: notes what is to be made, then makes it.

mod walk;

use std::collections::{BTreeSet, HashMap, HashSet};

use rustix::io::Errno;

use crate::base::entry::quoted as shown;
use crate::base::progress::Done;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::fill::{FilePlan, Fill, Filled};
use crate::op::restore::needs::{Frames, Needs};
use crate::op::restore::target::Target;
use crate::op::restore::{Filter, Report, Request, lack};
use crate::repo::RepoError;
use crate::repo::browse::Record;
use crate::repo::reader::Reader;
use crate::repo::records::Records;
use crate::stage::snapshot::Component;

/// Needs gathered before files are filled: those of 3 million messages, 96 MB. What is beyond is
/// another pass over the packs.
const NEEDS_MAX: usize = 6_000_000;

/// A directory of the target.
pub struct Directory {
    /// Its path below the target; empty for the target itself.
    pub path: Vec<u8>,
    /// Its entry; none for the target itself.
    record: Option<Record>,
    /// Number of the one that holds it; none for the target itself.
    pub parent: Option<u32>,
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

/// A restore under way.
pub struct Plan<'p> {
    reader: &'p Reader<'p>,
    /// Where it goes.
    pub target: Target,
    /// What is wanted.
    pub(crate) filter: Filter,
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
    /// The names met in the target itself.
    met_at_top: Option<BTreeSet<Vec<u8>>>,
    /// The directory that is the repository, if one of them is, in a restore that removes.
    pub repository: Option<u32>,
    files: Vec<FilePlan>,
    records: Records,
    needs: Needs,
    frames: Frames<'p>,
    firsts: HashMap<Identity, (u32, Vec<u8>)>,
    links: Vec<Link>,
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
        let attributes = Attributes::new(request.numeric_ids, target.may_inherit);
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
            target,
            filter,
            request,
            components,
            attributes,
            report: Report::default(),
            directories: vec![root],
            here: 0,
            met_at_top: None,
            repository: None,
            files: Vec::new(),
            records: Records::default(),
            needs: Needs::default(),
            frames: Frames::new(reader.index()),
            firsts: HashMap::new(),
            links: Vec::new(),
        }
    }

    /// Makes what is noted, then hard links, sets directories' attributes, removes what is too many.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn finish(mut self) -> Result<Report, RepoError> {
        self.fill()?;
        let met = self.met_at_top.take();
        self.delete_others(0, met);
        if !self.request.dry_run {
            self.link_all();
            self.finish_directories();
        }
        self.report.warnings = self.attributes.warnings();
        self.report.lacks.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.report)
    }

    fn link_all(&mut self) {
        let links = std::mem::take(&mut self.links);
        let lacks = self.report.lacks.iter().filter(|_| !links.is_empty());
        let lacking: HashSet<Vec<u8>> = lacks.map(|lack| lack.path.clone()).collect();
        for link in links {
            let directory = &self.directories[link.directory as usize];
            if !directory.is_made {
                continue; // said already
            }
            self.request.progress.add(Done { files: 1, bytes: 0 });
            let above = &self.directories[link.first.0 as usize];
            let first = above.path_of(&link.first.1);
            // What lies there is an older file.
            let is_lacking = lacking.contains(&first) || above.is_tried && !above.is_made;
            match if is_lacking { Err(Errno::NOENT) } else { self.link(&link) } {
                Ok(()) => self.report.files += 1,
                Err(e) => {
                    let path = directory.path_of(&link.name);
                    let first = shown(&first);
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
    fn finish_directories(&mut self) {
        for directory in self.directories.iter().rev().filter(|directory| directory.is_made) {
            let Some(record) = &directory.record else { continue };
            match (self.target.directory(&directory.path), record.entry()) {
                (Ok(fd), Ok(entry)) => self.attributes.set(&On::File(&fd), &entry),
                (Err(e), _) => self.report.lacks.push(lack(&directory.path, std::io::Error::from(e))),
                (_, Err(e)) => self.report.lacks.push(lack(&directory.path, e.chain())),
            }
        }
    }

    /// Makes the directories that are wanted and were not tried yet, each after the one that holds it.
    fn make_directories(&mut self) -> Result<(), RepoError> {
        let target = &self.target;
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

    /// Makes all that is noted.
    fn fill(&mut self) -> Result<(), RepoError> {
        self.needs.locate(&mut self.files, &self.frames, self.request.threads)?;
        self.make_directories()?;
        self.reader.forget_frames();
        let what = (self.files.as_slice(), &self.records);
        let from = (self.reader, &self.frames);
        let fill = Fill::new(from, &self.target, &self.directories, &self.attributes, self.request, what);
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
