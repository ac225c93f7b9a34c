//! A repository as a file system: inode numbers and names → attributes, entries and bytes. Knows
//! nothing of how the kernel asks.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use fuser::{Errno, FileAttr, FileType};

use crate::base::entry::{Entry, Kind};
use crate::op::mount::ahead::Hint;
use crate::op::mount::attributes::{attributes_of, directory_of_top};
use crate::op::mount::folder::{Folder, Numbers};
use crate::op::mount::inodes::{Inodes, Node};
use crate::op::mount::plan::Seek;
use crate::op::mount::snapshots::Amount;
use crate::op::mount::source::Source;
use crate::op::mount::top::{Child, ROOT, Top};
use crate::repo::RepoError;

/// An inode, as it is told to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Its attributes, the inode number among them.
    pub attributes: FileAttr,
    /// Whether they, and the name that led to it, may be another's soon.
    pub is_passing: bool,
}

/// Entries of a directory that is open.
pub enum Opened {
    /// A directory of the top, as it was when it was opened.
    Top(Arc<Top>, u64),
    /// A directory of a snapshot.
    Folder(Arc<Folder>),
}

/// A repository as a file system.
pub struct View {
    source: Arc<Source>,
    numbers: Numbers,
    inodes: Inodes,
    owner: (u32, u32),
}

impl View {
    /// Shows what is read through `source`; `owner`, user and group, has the directories at the top.
    ///
    /// # Errors
    /// [`RepoError::System`] without random bytes.
    pub fn new(source: Arc<Source>, owner: (u32, u32)) -> Result<Self, RepoError> {
        let mut key = [0; 32];
        crate::stage::seal::random(&mut key).map_err(|_| RepoError::System { what: "random bytes" })?;
        Ok(Self { source, numbers: Numbers::new(key), inodes: Inodes::default(), owner })
    }

    /// Returns what is read through.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the layout of the top.
    pub fn top(&self) -> Arc<Top> {
        self.source.top(&self.numbers)
    }

    /// Returns how much all snapshots hold.
    pub fn amount(&self) -> Amount {
        self.top();
        self.source.amount()
    }

    /// Returns what is called `name` in a directory; counts as told.
    ///
    /// # Errors
    /// `ENOENT`; `EIO` or `ESTALE` if the directory can't be read.
    pub fn look_up(&self, above: u64, name: &[u8]) -> Result<Told, Errno> {
        match self.open_directory(above)? {
            Opened::Top(top, above) => {
                let directory = top.directories.get(&above).ok_or(Errno::ESTALE)?;
                let child = directory.children.get(name).ok_or(Errno::ENOENT)?;
                self.tell_child(&top, above, child).ok_or(Errno::ENOENT)
            }
            Opened::Folder(folder) => {
                let listing = self.source.listing(&folder)?;
                let index = listing.find(name).ok_or(Errno::ENOENT)?;
                let entry = listing.entry(index).map_err(|e| self.source.fail(&folder, &e))?;
                Ok(self.tell(&folder, index, &entry))
            }
        }
    }

    /// Tells of a child of a directory of the top.
    fn tell_child(&self, top: &Top, above: u64, child: &Child) -> Option<Told> {
        let attributes = match child {
            Child::Directory(number) | Child::Link(number) => self.top_attributes(top, *number)?,
            Child::Snapshot { number, label, snapshot } => {
                let make = |number| {
                    Node::Folder(Arc::new(Folder::root(
                        snapshot.clone(),
                        label,
                        number,
                        above,
                        &self.numbers,
                    )))
                };
                let (number, _) = self.inodes.look_up(*number, make);
                directory_of_top(number, snapshot.time, self.owner)
            }
        };
        Some(Told { attributes, is_passing: true })
    }

    /// Tells of an entry of a snapshot's directory.
    fn tell(&self, folder: &Arc<Folder>, index: u32, entry: &Entry<'_>) -> Told {
        let (wanted, is_linked) = folder.number_of(&self.numbers, index, entry);
        let (number, _) = self.inodes.look_up(wanted, |number| match entry.kind {
            Kind::Directory => Node::Folder(Arc::new(folder.child(index, entry, number, &self.numbers))),
            _ => Node::Entry { folder: folder.clone(), index, is_linked },
        });
        Told { attributes: attributes_of(number, entry), is_passing: false }
    }

    /// Undoes `lookups` tellings of an inode.
    pub fn forget(&self, number: u64, lookups: u64) {
        self.inodes.forget(number, lookups);
    }

    /// Returns an inode's attributes; does not count as told.
    ///
    /// # Errors
    /// `ESTALE` if nothing has that number any more, `EIO` before snapshots could be listed, or as
    /// [`Self::look_up`].
    pub fn attributes(&self, number: u64) -> Result<Told, Errno> {
        match self.inodes.get(number) {
            None => {
                let top = self.top();
                let attributes = self.top_attributes(&top, number).ok_or_else(|| nothing_in(&top))?;
                Ok(Told { attributes, is_passing: true })
            }
            Some(Node::Folder(folder)) => {
                Ok(Told { attributes: self.folder_attributes(&folder)?, is_passing: folder.place.is_none() })
            }
            Some(Node::Entry { folder, index, .. }) => self.source.with_entry(&folder, index, |entry| {
                Ok(Told { attributes: attributes_of(number, entry), is_passing: false })
            }),
        }
    }

    fn folder_attributes(&self, folder: &Folder) -> Result<FileAttr, Errno> {
        match &folder.place {
            None => Ok(directory_of_top(folder.number, folder.snapshot.time, self.owner)),
            Some((above, index)) => {
                self.source.with_entry(above, *index, |entry| Ok(attributes_of(folder.number, entry)))
            }
        }
    }

    fn top_attributes(&self, top: &Top, number: u64) -> Option<FileAttr> {
        if let Some(link) = top.links.get(&number) {
            let size = link.target.len() as u64;
            let attributes = directory_of_top(number, link.time, self.owner);
            return Some(FileAttr { kind: FileType::Symlink, perm: 0o777, nlink: 1, size, ..attributes });
        }
        let directory = top.directories.get(&number)?;
        let is_directory = |child: &&Child| !matches!(child, Child::Link(_));
        let below = directory.children.values().filter(is_directory).count();
        let nlink = u32::try_from(below + 2).unwrap_or(u32::MAX);
        Some(FileAttr { nlink, ..directory_of_top(number, directory.time, self.owner) })
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// `ENOTDIR`; `ESTALE` if nothing has that number any more, `EIO` before snapshots could be listed.
    pub fn open_directory(&self, number: u64) -> Result<Opened, Errno> {
        match self.inodes.get(number) {
            Some(Node::Folder(folder)) => Ok(Opened::Folder(folder)),
            Some(Node::Entry { .. }) => Err(Errno::ENOTDIR),
            None => {
                let top = self.top();
                match top.directories.contains_key(&number) {
                    true => Ok(Opened::Top(top, number)),
                    false => Err(nothing_in(&top)),
                }
            }
        }
    }

    /// Calls `each` with the entries of a directory from number `from` on, `.` and `..` first, until
    /// it returns false: with the entry's number, its name, and what is to be told of it. Each that is
    /// told counts as told, but for `.` and `..`; `each` undoes what it does not pass on.
    ///
    /// # Errors
    /// As [`Self::look_up`].
    pub fn list(
        &self,
        opened: &Opened,
        from: u64,
        each: &mut dyn FnMut(u64, &[u8], Told) -> bool,
    ) -> Result<(), Errno> {
        let (own, above) = self.dots(opened)?;
        for (number, name, attributes) in [(0, &b"."[..], own), (1, b"..", above)] {
            if from <= number && !each(number, name, Told { attributes, is_passing: false }) {
                return Ok(());
            }
        }
        let first = from.saturating_sub(2);
        match opened {
            Opened::Top(top, number) => {
                let directory = top.directories.get(number).ok_or(Errno::ESTALE)?;
                let children = directory.children.iter().zip(0..);
                for ((name, child), at) in children.skip(usize::try_from(first).unwrap_or(usize::MAX)) {
                    let Some(told) = self.tell_child(top, *number, child) else { continue };
                    if !each(at + 2, name, told) {
                        break;
                    }
                }
            }
            Opened::Folder(folder) => {
                let listing = self.source.listing(folder)?;
                for index in u32::try_from(first).unwrap_or(u32::MAX)..listing.count() {
                    let entry = listing.entry(index).map_err(|e| self.source.fail(folder, &e))?;
                    let told = self.tell(folder, index, &entry);
                    if !each(u64::from(index) + 2, entry.name, told) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the attributes of a directory and of the one above.
    fn dots(&self, opened: &Opened) -> Result<(FileAttr, FileAttr), Errno> {
        match opened {
            Opened::Top(top, number) => {
                let own = self.top_attributes(top, *number).ok_or(Errno::ESTALE)?;
                let above = top.directories.get(number).map_or(ROOT, |directory| directory.above);
                Ok((own, self.top_attributes(top, above).unwrap_or(own)))
            }
            Opened::Folder(folder) => {
                let own = self.folder_attributes(folder)?;
                let above = match &folder.place {
                    Some((above, _)) => self.folder_attributes(above)?,
                    None => self.top_attributes(&self.top(), folder.above).unwrap_or(own),
                };
                Ok((own, above))
            }
        }
    }

    /// Returns where a symbolic link points.
    ///
    /// # Errors
    /// `EINVAL` if it is none, or as [`Self::attributes`].
    pub fn link_target(&self, number: u64) -> Result<Vec<u8>, Errno> {
        match self.inodes.get(number) {
            None => self.top().links.get(&number).map(|link| link.target.clone()).ok_or(Errno::ESTALE),
            Some(Node::Folder(_)) => Err(Errno::EINVAL),
            Some(Node::Entry { folder, index, .. }) => {
                self.source.with_entry(&folder, index, |entry| match entry.kind {
                    Kind::Symlink => Ok(entry.target.to_vec()),
                    _ => Err(Errno::EINVAL),
                })
            }
        }
    }

    /// Calls `each` with an inode's extended attributes, sorted by name.
    ///
    /// # Errors
    /// As [`Self::attributes`].
    pub fn xattrs(&self, number: u64, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Errno> {
        let (folder, index) = match self.inodes.get(number) {
            None => return Ok(()),
            Some(Node::Folder(folder)) => match &folder.place {
                None => return Ok(()),
                Some((above, index)) => (above.clone(), *index),
            },
            Some(Node::Entry { folder, index, .. }) => (folder, index),
        };
        self.source.with_entry(&folder, index, |entry| {
            entry.xattrs.iter().for_each(|(name, value)| each(name, value));
            Ok(())
        })
    }

    /// Returns up to `length` bytes of a file from `offset` on.
    ///
    /// # Errors
    /// As [`Source::read`]; `ESTALE` if nothing has that number any more.
    pub fn read(&self, number: u64, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        let (folder, index) = self.file(number)?;
        self.source.read(&folder, index, offset, length)
    }

    /// Returns where a file's next data or hole starts, at or after `offset`.
    ///
    /// # Errors
    /// As [`Source::seek`]; `ESTALE` if nothing has that number any more.
    pub fn seek(&self, number: u64, offset: u64, what: Seek) -> Result<u64, Errno> {
        let (folder, index) = self.file(number)?;
        self.source.seek(&folder, index, offset, what)
    }

    fn file(&self, number: u64) -> Result<(Arc<Folder>, u32), Errno> {
        match self.inodes.get(number) {
            Some(Node::Entry { folder, index, .. }) => Ok((folder, index)),
            Some(Node::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ESTALE),
        }
    }

    /// Follows hints until nobody sends any: brings into memory what may be wanted next, and calls
    /// `keep` with the number and the bytes of files that the kernel knows and may want next.
    pub fn read_ahead(&self, hints: &Receiver<Hint>, keep: &dyn Fn(u64, &[u8])) {
        for hint in hints {
            match hint {
                Hint::File(plan, next) => self.source.bring(&plan, next),
                Hint::Folder(run) => self.source.bring_files(
                    &run,
                    |index, entry| self.number_known(&run.folder, index, entry).is_some(),
                    |index, entry, bytes| {
                        if let Some(number) = self.number_known(&run.folder, index, entry) {
                            keep(number, bytes);
                        }
                    },
                ),
            }
        }
    }

    /// Returns the inode number by which the kernel knows an entry.
    fn number_known(&self, folder: &Arc<Folder>, index: u32, entry: &Entry<'_>) -> Option<u64> {
        let (number, is_linked) = folder.number_of(&self.numbers, index, entry);
        let node = Node::Entry { folder: folder.clone(), index, is_linked };
        self.inodes.get(number).filter(|known| known.is(&node)).map(|_| number)
    }
}

/// Returns what is told of a number that nothing at the top has.
fn nothing_in(top: &Top) -> Errno {
    if top.directories.is_empty() { Errno::EIO } else { Errno::ESTALE }
}
