//! Cutters: read files, cut them into chunks, name these, and gather the new ones into frames.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use rustix::io::Errno;

use crate::base::content::ChunkRef;
use crate::base::entry::{Hole, Kind};
use crate::base::kind::FrameKind;
use crate::base::progress::{Done, Progress};
use crate::op::backup::links::{Identity, Read as LinkRead, Waiting};
use crate::op::backup::pending::Pending;
use crate::op::backup::run::{Part, Run, Scanned, count};
use crate::repo::RepoError;
use crate::stage::chunk::{HEADER_BYTES_MAX, header_bytes};
use crate::stage::frame::RawFrame;
use crate::stage::scan::{self, Mailbox};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Files of one directory that are read one after the other.
pub struct Batch {
    /// Their directory.
    pub directory: Arc<Pending>,
    /// Their component.
    pub part: Arc<Part>,
    /// Their directory, open.
    pub fd: Arc<OwnedFd>,
    /// The mailbox whose messages they are.
    pub mailbox: Option<Arc<Mailbox>>,
    /// The files.
    pub jobs: Vec<Job>,
}

/// A file to read.
pub struct Job {
    /// Its place in the directory.
    pub slot: u32,
    /// What the walk knows of it.
    pub scanned: Scanned,
}

/// Reads batches until there are no more.
pub fn cut_batches(run: &Run<'_>, batches: &Receiver<Batch>) {
    let mut cutter = Cutter::new(run);
    for batch in batches {
        if !run.is_stopped() {
            run.check(cutter.batch(batch));
        } // else drain, so that no walker waits for ever
        run.batch_done();
    }
    if !run.is_stopped() {
        run.check(cutter.flush());
    }
}

/// One thread's frames on their way. Headers of messages lie apart from bodies: both are more
/// alike among themselves (docs/decisions/0004).
pub struct Cutter<'r> {
    run: &'r Run<'r>,
    headers: RawFrame,
    bodies: RawFrame,
    buffer: Vec<u8>,
}

/// Why a source could not be read to its end.
pub enum CutError {
    /// The source failed: it is reported, and the run goes on.
    Source(io::Error),
    /// The run can't go on.
    Run(RepoError),
}

/// What cutting a source gave.
pub struct Cut {
    /// References to its chunks.
    pub list: Vec<u8>,
    /// Bytes read.
    pub bytes: u64,
}

impl<'r> Cutter<'r> {
    /// Makes a cutter.
    pub fn new(run: &'r Run<'r>) -> Self {
        Self {
            run,
            headers: run.writer.frame(FrameKind::Content),
            bodies: run.writer.frame(FrameKind::Content),
            buffer: Vec::new(),
        }
    }

    /// Returns the run's progress.
    pub fn progress(&self) -> &'r Progress {
        self.run.progress
    }

    /// Hands on the frames that are not full yet.
    ///
    /// # Errors
    /// As [`Writer::push_frame`](crate::repo::writer::Writer::push_frame).
    pub fn flush(&mut self) -> Result<(), RepoError> {
        for frame in [&mut self.headers, &mut self.bodies] {
            if let Some(frame) = frame.take() {
                self.run.writer.push_frame(frame)?;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<(), RepoError> {
        for job in batch.jobs {
            if self.run.is_stopped() {
                return Err(RepoError::Interrupted);
            }
            let waiting =
                Waiting { directory: batch.directory.clone(), slot: job.slot, scanned: job.scanned };
            let is_linked = waiting.scanned.stat.links > 1;
            let waiting = match is_linked {
                true => self.run.links.claim(self.run, waiting)?,
                false => Some(waiting),
            };
            let Some(waiting) = waiting else { continue };
            let identity = Identity::from(&waiting.scanned.stat);
            let read = self.file(&waiting.scanned, &batch.fd, batch.mailbox.as_deref());
            let read = match read {
                Ok(read) => Some(read),
                Err(CutError::Run(e)) => return Err(e),
                Err(CutError::Source(e)) => {
                    self.report(&batch.part, &waiting, &e, batch.mailbox.is_some());
                    None
                }
            };
            if is_linked {
                self.run.links.done(self.run, identity, read.as_ref())?;
            }
            match read {
                Some(read) => waiting.fill(self.run, &read)?,
                None => waiting.leave_out(self.run)?,
            }
        }
        Ok(())
    }

    fn report(&self, part: &Part, waiting: &Waiting, error: &io::Error, in_mailbox: bool) {
        let path = [&waiting.directory.path, &b"/"[..], &waiting.scanned.name].concat();
        match error.kind() {
            // In a mailbox that is an expunge; elsewhere too a deletion is no failure.
            io::ErrorKind::NotFound => {
                let reason =
                    if in_mailbox { "expunged during the backup" } else { "deleted during the backup" };
                self.run.skip(path, reason);
            }
            _ => self.run.lack(Some(part), path, error.to_string()),
        }
    }

    /// Reads a file; what it is when opened counts, not what it was when listed.
    fn file(
        &mut self,
        scanned: &Scanned,
        fd: &OwnedFd,
        mailbox: Option<&Mailbox>,
    ) -> Result<LinkRead, CutError> {
        let source = |e: Errno| CutError::Source(e.into());
        let open = |fd: &OwnedFd, name: &[u8]| scan::open_file(fd, name);
        let opened = Mailbox::follow(mailbox, fd, &scanned.name, scanned.stat.inode, open);
        let opened = opened.map_err(source)?;
        let before = scan::stat_of(&opened).map_err(source)?;
        if before.kind != Some(Kind::File) {
            return Err(CutError::Source(io::Error::other("is no longer a file")));
        }
        let xattrs = scan::xattrs_of(&opened).map_err(source)?;
        self.run.listed.note(xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let holes = match before.allocated < before.size {
            true => scan::holes(&opened, before.size).map_err(source)?,
            false => Vec::new(),
        };
        // What changes after the reading must be told from what was read.
        let stored = before.to_compare(&opened);
        let mut file = File::from(opened);
        let data_bytes = before.size - holes.iter().map(|hole| hole.bytes).sum::<u64>();
        let cut = match holes.is_empty() {
            true => self.cut(&mut file, data_bytes)?,
            false => self.cut(&mut SkipHoles::new(&mut file, &holes, before.size), data_bytes)?,
        };
        let after = scan::stat_of(&file).map_err(source)?;
        let torn = cut.bytes != data_bytes || (after.mtime, after.size) != (before.mtime, before.size);
        if torn {
            count(&self.run.counts.torn, 1);
        }
        let size = if holes.is_empty() { cut.bytes } else { before.size };
        let is_short = !holes.is_empty() && cut.bytes != data_bytes;
        if is_short {
            return Err(CutError::Source(io::Error::other("a sparse file was cut short while it was read")));
        }
        let content = self.run.writer.store_list(cut.list).map_err(CutError::Run)?;
        Ok(LinkRead { content, stat: stored, xattrs, holes, size, torn })
    }

    /// Cuts what `source` gives, to its end. `expected` bytes are hoped for.
    ///
    /// # Errors
    /// [`CutError`]; chunks given so far stay, and harm nothing.
    pub fn cut(&mut self, source: &mut dyn Read, expected: u64) -> Result<Cut, CutError> {
        let chunk_max = self.run.reader.repository().chunker().sizes().max();
        let want = usize::try_from(expected).unwrap_or(usize::MAX).saturating_add(1);
        let capacity = want.clamp(HEADER_BYTES_MAX.min(want), BUFFER_BYTES + chunk_max);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut cut = Cut { list: Vec::new(), bytes: 0 };
        let mut filled = 0;
        let mut is_start = true;
        let result = loop {
            let is_end = match fill(source, &mut buffer, &mut filled, capacity.max(chunk_max + 1)) {
                Ok(is_end) => is_end,
                Err(e) => break Err(CutError::Source(e)),
            };
            let pieces = self.pieces(&buffer[..filled], is_end, is_start, &mut cut.list);
            let used = match pieces {
                Ok(used) => used,
                Err(e) => break Err(CutError::Run(e)),
            };
            is_start = false;
            cut.bytes += used as u64;
            self.run.progress.add(Done { files: 0, bytes: used as u64 });
            count(&self.run.counts.bytes_read, used as u64);
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if is_end {
                break Ok(());
            }
            if self.run.is_stopped() {
                break Err(CutError::Run(RepoError::Interrupted));
            }
        };
        self.buffer = buffer;
        self.run.progress.add(Done { files: 1, bytes: 0 });
        result.map(|()| cut)
    }

    /// Cuts the bytes that can be cut; returns how many they are.
    fn pieces(
        &mut self,
        bytes: &[u8],
        is_end: bool,
        is_start: bool,
        list: &mut Vec<u8>,
    ) -> Result<usize, RepoError> {
        let chunker = self.run.reader.repository().chunker();
        let chunk_max = chunker.sizes().max();
        let mut at = 0;
        if is_start {
            let header = header_bytes(bytes);
            while at < header {
                let length = chunker.cut(&bytes[at..header]);
                self.piece(&bytes[at..at + length], true, list)?;
                at += length;
            }
        }
        while at < bytes.len() && (is_end || bytes.len() - at >= chunk_max) {
            let length = chunker.cut(&bytes[at..]);
            self.piece(&bytes[at..at + length], false, list)?;
            at += length;
        }
        Ok(at)
    }

    fn piece(&mut self, bytes: &[u8], in_header: bool, list: &mut Vec<u8>) -> Result<(), RepoError> {
        let repository = self.run.reader.repository();
        let id = repository.writer_keys().namer(FrameKind::Content).name(bytes);
        let length =
            u32::try_from(bytes.len()).map_err(|_| RepoError::Content { what: "chunk is too long" })?;
        let chunk = ChunkRef { id, bytes: length };
        list.extend_from_slice(&chunk.to_bytes());
        if !self.run.writer.claim(chunk)? {
            return Ok(());
        }
        let frame = if in_header { &mut self.headers } else { &mut self.bodies };
        if frame.is_full_for(bytes.len(), repository.config().frame_bytes) {
            let empty = self.run.writer.frame(FrameKind::Content);
            self.run.writer.push_frame(std::mem::replace(frame, empty))?;
        }
        frame.push(chunk, bytes);
        Ok(())
    }
}

/// Reads until the buffer holds `capacity` bytes; returns whether the source has ended.
fn fill(
    source: &mut dyn Read,
    buffer: &mut Vec<u8>,
    filled: &mut usize,
    capacity: usize,
) -> io::Result<bool> {
    if buffer.len() < capacity {
        buffer.resize(capacity, 0);
    }
    while *filled < capacity {
        match source.read(&mut buffer[*filled..capacity]) {
            Ok(0) => return Ok(true),
            Ok(read) => *filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Reads a sparse file without its holes.
struct SkipHoles<'f> {
    file: &'f mut File,
    /// Runs of data that are left: start and end.
    data: std::vec::IntoIter<(u64, u64)>,
    left: u64,
}

impl<'f> SkipHoles<'f> {
    fn new(file: &'f mut File, holes: &[Hole], size: u64) -> Self {
        let mut data = Vec::with_capacity(holes.len() + 1);
        let mut at = 0;
        for hole in holes {
            data.push((at, hole.offset));
            at = hole.offset + hole.bytes;
        }
        data.push((at, size));
        data.retain(|(start, end)| start < end);
        Self { file, data: data.into_iter(), left: 0 }
    }
}

impl Read for SkipHoles<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some((start, end)) = self.data.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(start))?;
            self.left = end - start;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let read = self.file.read(&mut out[..most])?;
        self.left = if read == 0 { 0 } else { self.left - read as u64 };
        Ok(read)
    }
}
