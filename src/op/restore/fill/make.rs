//! A file whose bytes have all come, or a link, FIFO or device: made under its own name where nobody sees it yet, else
//! under a temporary one, and renamed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::base::entry::{Entry, Kind};
use crate::base::progress::Done;
use crate::op::restore::attributes::{Made, On, Path};
use crate::op::restore::fill::begun::{Begun, Under};
use crate::op::restore::fill::{FilePlan, Fill, Hand};
use crate::op::restore::holes::write_around_holes;
use crate::op::restore::lack;
use crate::op::restore::plan::path_of;
use crate::op::restore::target::{create_file, reopen_file};
use crate::repo::RepoError;
use crate::stage::tree::Entries;

/// A file's bytes, when all have come.
pub enum Content<'a> {
    /// As they are in the frame or in memory, without its holes.
    Bytes(&'a [u8]),
    /// In the file already, which lies under this name.
    Spool(Under),
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

    /// Makes a file that is not whole yet, as long as it will be if a hole may be at its end.
    pub fn create(
        &self,
        file: &FilePlan,
        entry: &Entry<'_>,
        mode: u32,
        hand: &mut Hand,
    ) -> Result<(Under, File), String> {
        let fd = self.parent(file.directory, hand).map_err(text)?;
        let under = match self.target.is_staged() {
            true => Under::Own,
            false => Under::Temporary(self.target.temporary_name().into()),
        };
        let out = create_file(fd, under.name(entry), mode).map_err(|e| match e {
            Errno::EXIST => "something else has that name there".to_owned(),
            e => self.refused(&e.into()),
        })?;
        if !entry.holes.is_empty()
            && let Err(e) = out.set_len(entry.size)
        {
            let _ = rustix::fs::unlinkat(fd, under.name(entry), AtFlags::empty()); // ours alone
            return Err(self.refused(&e));
        }
        Ok((under, out))
    }

    /// Opens a file that is not whole yet, unless it is the one that the thread has open.
    pub fn spool<'h>(
        &self,
        number: u32,
        file: &FilePlan,
        name: &[u8],
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
    pub fn parent<'h>(&self, number: u32, hand: &'h mut Hand) -> Result<&'h OwnedFd, Errno> {
        if hand.parent.as_ref().is_none_or(|(open, _)| *open != number) {
            let fd = self.target.directory(self.directories, number)?;
            hand.parent = Some((number, fd));
        }
        hand.parent.as_ref().map(|(_, fd)| &**fd).ok_or(Errno::NOENT)
    }

    /// Removes what has come of a file.
    pub fn discard(&self, begun: Begun, file: &FilePlan, hand: &mut Hand) {
        match begun {
            Begun::Parts(parts) => self.release(&parts),
            Begun::Spool(under) => {
                let _ = self.with_entry(file, hand, |entry, hand| {
                    let fd = self.parent(file.directory, hand).map_err(text)?;
                    rustix::fs::unlinkat(fd, under.name(entry), AtFlags::empty()).map_err(text) // ours alone
                });
            }
            Begun::Failed(_) => {}
        }
    }

    /// Makes a file whose bytes have all come, or what has no bytes; gives it its attributes and its name.
    pub fn make(
        &self,
        (number, file): (u32, &FilePlan),
        content: Result<Content<'_>, String>,
        hand: &mut Hand,
    ) {
        let mut name = Vec::new();
        let result = self.with_entry(file, hand, |entry, hand| {
            name.extend_from_slice(entry.name);
            let content = content?;
            if entry.kind != Kind::File {
                self.special(file, entry, hand).map_err(|e| self.refused(&e.into()))?;
                return Ok((entry.kind, 0));
            }
            self.place((number, file), entry, content, hand)?;
            Ok((entry.kind, entry.size))
        });
        match result {
            Ok((kind, bytes)) => {
                self.request.progress.add(Done { files: 1, bytes });
                self.done(|done| {
                    match kind {
                        Kind::File => done.files += 1,
                        _ => done.others += 1,
                    }
                    done.bytes += bytes;
                    if self.request.verify && kind == Kind::File {
                        done.made.push(number);
                    }
                });
            }
            Err(reason) => {
                let path = path_of(self.directories, file.directory, &name);
                self.done(|done| done.lacks.push(lack(&path, reason)));
            }
        }
    }

    /// Makes a file and gives it its name; leaves nothing behind if it can't.
    fn place(
        &self,
        (number, file): (u32, &FilePlan),
        entry: &Entry<'_>,
        content: Content<'_>,
        hand: &mut Hand,
    ) -> Result<(), String> {
        let mode = self.first_mode(entry, matches!(content, Content::Spool(_)));
        let made = self.target.made(mode);
        let (under, written) = match content {
            Content::Spool(under) => {
                let opened = self.spool(number, file, under.name(entry), hand).map(drop);
                let out = opened.and_then(|()| Ok(hand.spool.take().ok_or("temporary file is gone")?.1));
                (under, out)
            }
            Content::Bytes(bytes) => {
                let (under, out) = self.create(file, entry, mode, hand)?;
                let written = write_around_holes(&out, entry, 0, bytes).map(|()| out);
                (under, written.map_err(|e| self.refused(&e)))
            }
        };
        let path = || path_of(self.directories, file.directory, entry.name);
        let placed =
            written.and_then(|out| self.finish(out, &made, entry, &path)).and_then(|()| match &under {
                Under::Own => {
                    if self.target.keeps_labels {
                        let fd = self.parent(file.directory, hand).map_err(text)?;
                        self.target.label(fd, entry.name, entry.name);
                    }
                    Ok(())
                }
                Under::Temporary(name) => {
                    let fd = self.parent(file.directory, hand).map_err(text)?;
                    self.target.label(fd, name.as_bytes(), entry.name);
                    self.target.put(fd, name, entry.name).map_err(text)
                }
            });
        if placed.is_err() {
            self.discard(Begun::Spool(under), file, hand);
        }
        placed
    }

    /// Returns the mode that a file is made with: its own where nobody else gets there to read or write it. One that
    /// is opened again must let its owner do so.
    pub fn first_mode(&self, entry: &Entry<'_>, is_reopened: bool) -> u32 {
        let mode = entry.mode & 0o777;
        match self.target.is_staged() && (!is_reopened || mode & 0o600 == 0o600) {
            true => mode,
            false => 0o600,
        }
    }

    /// Gives a file its attributes, and closes it: some file systems say only then that it can't be kept.
    fn finish(&self, out: File, made: &Made, entry: &Entry<'_>, path: Path<'_>) -> Result<(), String> {
        self.attributes.set_beyond(made, &On::File(&out), entry, path);
        if !entry.holes.is_empty() && !self.target.is_staged() {
            // It is as long as it should be from the start: no later restore can tell that bytes are missing.
            rustix::fs::fdatasync(&out).map_err(text)?;
        }
        nix::unistd::close(out).map_err(|e| self.refused(&io::Error::from(e)))
    }

    /// Makes a link, FIFO or device.
    fn special(&self, file: &FilePlan, entry: &Entry<'_>, hand: &mut Hand) -> Result<(), Errno> {
        let parent = self.parent(file.directory, hand)?;
        let temporary = (!self.target.is_staged()).then(|| self.target.temporary_name());
        let name = temporary.as_ref().map_or(entry.name, |name| name.as_bytes());
        let node = |kind, device| rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device);
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.target, parent, name)?,
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::CharDevice => node(FileType::CharacterDevice, device)?,
            Kind::BlockDevice => node(FileType::BlockDevice, device)?,
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
        }
        let path = || path_of(self.directories, file.directory, entry.name);
        self.attributes.set(&On::Name(parent, name), entry, &path);
        self.target.label(parent, name, entry.name);
        temporary.as_ref().map_or(Ok(()), |temporary| self.target.put(parent, temporary, entry.name))
    }
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
