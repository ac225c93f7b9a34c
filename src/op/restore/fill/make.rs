//! A file whose bytes have all come, or a link, FIFO or device: made under a temporary name, and renamed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::base::entry::{Entry, Kind};
use crate::base::progress::Done;
use crate::op::restore::attributes::On;
use crate::op::restore::fill::begun::Begun;
use crate::op::restore::fill::{FilePlan, Fill, Hand};
use crate::op::restore::holes::write_around_holes;
use crate::op::restore::lack;
use crate::op::restore::target::{create_file, reopen_file};
use crate::op::restore::verify::read_back;
use crate::repo::RepoError;
use crate::stage::tree::Entries;

/// A file's bytes, when all have come.
pub enum Content<'a> {
    /// As they are in the frame or in memory, without its holes.
    Bytes(&'a [u8]),
    /// In the temporary file of the file of this number.
    Spool(u32, Arc<str>),
}

impl Fill<'_> {
    /// Calls `act` with a file's entry, and with everything else at hand.
    pub fn with_entry<R>(
        &self,
        file: &FilePlan,
        hand: &mut Hand,
        act: impl FnOnce(&Entry<'_>, &mut Hand) -> Result<R, String>,
    ) -> Result<R, String> {
        let mut window = std::mem::take(&mut hand.records);
        let result = match file.entry(self.records, &mut window) {
            Err(e) => Err(format!("what was noted of it is gone: {e}")),
            Ok(record) => match Entries::new(record).next() {
                Some(Ok((_, entry))) => act(&entry, hand),
                Some(Err(e)) => Err(RepoError::from(e).chain()),
                None => Err("what was noted of it is gone".to_owned()),
            },
        };
        hand.records = window;
        result
    }

    /// Makes a file's temporary file, as long as the file if a hole may be at its end.
    pub fn create(
        &self,
        file: &FilePlan,
        entry: &Entry<'_>,
        hand: &mut Hand,
    ) -> Result<(String, File), String> {
        let fd = self.parent(file.directory, hand).map_err(text)?;
        let name = self.target.temporary_name();
        let out = create_file(fd, &name).map_err(text)?;
        if !entry.holes.is_empty()
            && let Err(e) = out.set_len(entry.size)
        {
            let _ = rustix::fs::unlinkat(fd, name.as_str(), AtFlags::empty()); // ours alone
            return Err(e.to_string());
        }
        Ok((name, out))
    }

    /// Opens a file's temporary file, unless it is the one that the thread has open.
    pub fn spool<'h>(
        &self,
        number: u32,
        file: &FilePlan,
        name: &str,
        hand: &'h mut Hand,
    ) -> Result<&'h File, String> {
        if hand.spool.as_ref().is_none_or(|(open, _)| *open != number) {
            let fd = self.parent(file.directory, hand).map_err(text)?;
            let out = reopen_file(fd, name).map_err(text)?;
            hand.spool = Some((number, out));
        }
        hand.spool.as_ref().map(|(_, out)| out).ok_or_else(|| "temporary file is gone".to_owned())
    }

    /// Opens a file's directory, unless it is the one that the thread has open.
    fn parent<'h>(&self, number: u32, hand: &'h mut Hand) -> Result<&'h OwnedFd, Errno> {
        if hand.parent.as_ref().is_none_or(|(open, _)| *open != number) {
            let fd = self.target.directory(&self.directories[number as usize].path)?;
            hand.parent = Some((number, fd));
        }
        hand.parent.as_ref().map(|(_, fd)| fd).ok_or(Errno::NOENT)
    }

    /// Removes what has come of a file.
    pub fn discard(&self, begun: Begun, file: &FilePlan, hand: &mut Hand) {
        match begun {
            Begun::Parts(parts) => self.release(&parts),
            Begun::Spool(name) => {
                if let Ok(fd) = self.parent(file.directory, hand) {
                    let _ = rustix::fs::unlinkat(fd, &*name, AtFlags::empty()); // ours alone
                }
            }
            Begun::Failed(_) => {}
        }
    }

    /// Makes a file whose bytes have all come, or what has no bytes; gives it its attributes and its name.
    pub fn make(&self, file: &FilePlan, content: Result<Content<'_>, String>, hand: &mut Hand) {
        let mut name = Vec::new();
        let result = self.with_entry(file, hand, |entry, hand| {
            name.extend_from_slice(entry.name);
            let content = content?;
            if entry.kind != Kind::File {
                self.special(file, entry, hand).map_err(text)?;
                return Ok((entry.kind, 0, false));
            }
            self.place(file, entry, content, hand)?;
            let is_verified = self.request.verify && self.check_back(file, entry, hand)?;
            Ok((entry.kind, entry.size, is_verified))
        });
        match result {
            Ok((kind, bytes, is_verified)) => {
                self.request.progress.add(Done { files: 1, bytes });
                self.done(|done| {
                    match kind {
                        Kind::File => done.files += 1,
                        _ => done.others += 1,
                    }
                    done.bytes += bytes;
                    done.verified += u64::from(is_verified);
                });
            }
            Err(reason) => {
                let path = self.directories[file.directory as usize].path_of(&name);
                self.done(|done| done.lacks.push(lack(&path, reason)));
            }
        }
    }

    fn check_back(&self, file: &FilePlan, entry: &Entry<'_>, hand: &mut Hand) -> Result<bool, String> {
        let mut window = std::mem::take(&mut hand.chunks);
        let chunks = file.chunks((0, file.chunks), self.records, &mut window);
        let result = chunks.map_err(|e| e.to_string()).and_then(|chunks| {
            let fd = self.parent(file.directory, hand).map_err(text)?;
            read_back(self.reader, fd, entry, chunks)
        });
        hand.chunks = window;
        result.map(|()| true)
    }

    /// Makes a file and gives it its name; leaves nothing behind if it can't.
    fn place(
        &self,
        file: &FilePlan,
        entry: &Entry<'_>,
        content: Content<'_>,
        hand: &mut Hand,
    ) -> Result<(), String> {
        let (name, written) = match content {
            Content::Spool(number, name) => {
                let opened = self.spool(number, file, &name, hand).map(drop);
                let out = opened.and_then(|()| Ok(hand.spool.take().ok_or("temporary file is gone")?.1));
                (name, out)
            }
            Content::Bytes(bytes) => {
                let (name, out) = self.create(file, entry, hand)?;
                let written = write_around_holes(&out, entry, 0, bytes).map(|()| out);
                (name.into(), written.map_err(|e| e.to_string()))
            }
        };
        let placed = written.and_then(|out| self.finish(out, entry)).and_then(|()| {
            let fd = self.parent(file.directory, hand).map_err(text)?;
            self.target.put(fd, &name, entry.name).map_err(|e| match e {
                Errno::EXIST => {
                    "something is there already; allow it to be replaced with --overwrite".to_owned()
                }
                e => text(e),
            })
        });
        if placed.is_err() {
            self.discard(Begun::Spool(name), file, hand);
        }
        placed
    }

    /// Gives a file its attributes, and closes it: some file systems say only then that it can't be kept.
    fn finish(&self, out: File, entry: &Entry<'_>) -> Result<(), String> {
        self.attributes.set(&On::File(&out), entry);
        if !entry.holes.is_empty() {
            // It is as long as it should be from the start: no later restore can tell that bytes are missing.
            rustix::fs::fdatasync(&out).map_err(text)?;
        }
        nix::unistd::close(out).map_err(|e| e.desc().to_owned())
    }

    /// Makes a link, FIFO or device.
    fn special(&self, file: &FilePlan, entry: &Entry<'_>, hand: &mut Hand) -> Result<(), Errno> {
        let parent = self.parent(file.directory, hand)?;
        let temporary = self.target.temporary_name();
        let node = |kind, device| {
            rustix::fs::mknodat(parent, temporary.as_str(), kind, Mode::RUSR | Mode::WUSR, device)
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.target, parent, temporary.as_str())?,
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::CharDevice => node(FileType::CharacterDevice, device)?,
            Kind::BlockDevice => node(FileType::BlockDevice, device)?,
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
        }
        self.attributes.set(&On::Name(parent, temporary.as_bytes()), entry);
        self.target.put(parent, &temporary, entry.name)
    }
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
