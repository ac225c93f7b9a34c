//! Meets the needs of many files, frame by frame in ascending order, each frame read once.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::base::content::{ChunkRef, REF_BYTES, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::progress::Done;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::holes::write_around_holes;
use crate::op::restore::needs::{Need, Needs};
use crate::op::restore::plan::Directory;
use crate::op::restore::records::Records;
use crate::op::restore::stretch::{fetch, own, stretches};
use crate::op::restore::target::{Target, create_file, reopen_file};
use crate::op::restore::verify::read_back;
use crate::op::restore::{Request, lack};
use crate::repo::RepoError;
use crate::repo::reader::{Reader, verified};
use crate::stage::index::PackRow;
use crate::stage::snapshot::Lack;
use crate::stage::tree::Entries;

/// Files of which the parts come from several frames are put together in memory up to this many
/// bytes, and written at one stroke.
const MEMORY_FILE_BYTES: u64 = 256 << 10;

/// Bytes of files being put together in memory, at most; more go to their temporary files.
const MEMORY_BYTES: u64 = 32 << 20;

/// How many locks share what has begun.
const SHARDS: usize = 64;

/// A file, link, FIFO or device to be made. 24 bytes; what else is known of it is a record.
pub struct FilePlan {
    /// Where its entry starts among the records, without content; then come its references.
    pub record: u64,
    /// Length of the entry's record.
    pub record_bytes: u32,
    /// How many chunks it has.
    pub chunks: u32,
    /// Number of its directory.
    pub directory: u32,
    /// Needs that are not met yet.
    pub left: AtomicU32,
}

/// What has come of a file from one frame, while there is more to come from others.
enum Begun {
    /// Nothing yet.
    Empty,
    /// It is in memory.
    Memory(Vec<u8>),
    /// It is in this temporary file.
    Spool(String),
    /// The file can't be restored.
    Failed(String),
}

/// A file's bytes, when all have come.
enum Content<'a> {
    /// As they are in the frame or in memory, without holes.
    Bytes(&'a [u8]),
    /// In this temporary file.
    Spool(String),
}

/// What filling did.
#[derive(Default)]
pub struct Filled {
    /// Files that are in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Links, FIFOs and devices that are in place.
    pub others: u64,
    /// Files read back.
    pub verified: u64,
    /// Bytes read from packs.
    pub bytes_fetched: u64,
    /// Entries that are not in place, and why.
    pub lacks: Vec<Lack>,
}

/// Makes files.
pub struct Fill<'f> {
    /// Where the chunks come from.
    pub reader: &'f Reader<'f>,
    /// Where the files go.
    pub target: &'f Target,
    /// Their directories.
    pub directories: &'f [Directory],
    /// What they get.
    pub attributes: &'f Attributes,
    /// What was asked for.
    pub request: &'f Request<'f>,
    /// What they are.
    pub files: &'f [FilePlan],
    /// Their entries and references.
    pub records: &'f Records,
    /// What has begun, by number of the file.
    begun: Vec<Mutex<HashMap<u32, Arc<Mutex<Begun>>>>>,
    memory: AtomicU64,
    done: Mutex<Filled>,
    error: Mutex<Option<RepoError>>,
    is_stopped: AtomicBool,
}

/// What a thread has at hand.
#[derive(Default)]
struct Hand {
    /// The directory that it opened last.
    parent: Option<(u32, OwnedFd)>,
    /// The temporary file that it opened last.
    spool: Option<(u32, File)>,
    /// The entry that it read last.
    record: (Option<u32>, Vec<u8>),
    /// References.
    list: Vec<u8>,
    /// Raw bytes of a frame.
    raw: Vec<u8>,
    /// Chunks of the frame that were found right, by where they start.
    right: HashSet<(u32, ChunkRef)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'f> Fill<'f> {
    /// Takes what is to be made.
    pub fn new(
        reader: &'f Reader<'f>,
        target: &'f Target,
        directories: &'f [Directory],
        attributes: &'f Attributes,
        request: &'f Request<'f>,
        (files, records): (&'f [FilePlan], &'f Records),
    ) -> Self {
        Self {
            reader,
            target,
            directories,
            attributes,
            request,
            files,
            records,
            begun: (0..SHARDS).map(|_| Mutex::default()).collect(),
            memory: AtomicU64::new(0),
            done: Mutex::default(),
            error: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Makes all files.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`]; [`RepoError::Source`] if the records can't be read again. A file
    /// that can't be made is a lack.
    pub fn run(self, needs: &mut Needs) -> Result<Filled, RepoError> {
        needs.retain(|file| self.is_wanted(file));
        let frames: Vec<&[Need]> = needs.sorted().chunk_by(Need::shares_frame).collect();
        let groups: Vec<&[&[Need]]> = stretches(self.reader, &frames).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.request.threads.max(1) {
                scope.spawn(|| {
                    let mut hand = Hand::default();
                    while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.is_stopped() {
                            return;
                        }
                        self.stretch(group, &mut hand);
                    }
                });
            }
            let mut hand = Hand::default();
            for (number, file) in (0..).zip(self.files).filter(|(_, file)| file.chunks == 0) {
                if self.is_stopped() {
                    return;
                }
                if self.is_wanted(number) {
                    self.make(number, file, Ok(Content::Bytes(&[])), &mut hand);
                }
            }
        });
        match locked(&self.error).take() {
            Some(error) => {
                let mut hand = Hand::default();
                for (number, begun) in self.begun.iter().flat_map(|shard| std::mem::take(&mut *locked(shard)))
                {
                    if let Some(file) = self.files.get(number as usize) {
                        self.discard(&locked(&begun), file, &mut hand);
                    }
                }
                Err(error)
            }
            None => Ok(self.done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Returns whether a file's directory is there; if not, that was said already.
    fn is_wanted(&self, file: u32) -> bool {
        let directory = self.files.get(file as usize).map(|file| file.directory as usize);
        directory.and_then(|number| self.directories.get(number)).is_some_and(|directory| directory.is_made)
    }

    fn is_stopped(&self) -> bool {
        if self.request.progress.is_cancelled() {
            self.stop(RepoError::Interrupted);
        }
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn stop(&self, error: RepoError) {
        self.is_stopped.store(true, Ordering::Relaxed);
        locked(&self.error).get_or_insert(error);
    }

    fn done(&self, change: impl FnOnce(&mut Filled)) {
        change(&mut locked(&self.done));
    }

    /// Meets all needs that frames of one pack meet which lie side by side: one read of the store.
    fn stretch(&self, frames: &[&[Need]], hand: &mut Hand) {
        let Some((range, mut bytes)) = fetch(self.reader, frames) else {
            frames.iter().for_each(|needs| self.frame(needs, None, hand));
            return;
        };
        self.done(|done| done.bytes_fetched += range.end - range.start);
        for needs in frames {
            let own = bytes.as_mut().and_then(|bytes| own(self.reader, needs, &range, bytes));
            self.frame(needs, own, hand);
        }
    }

    /// Meets all needs that one frame meets; `stored` are its bytes, if they were read already.
    fn frame(&self, needs: &[Need], stored: Option<&mut [u8]>, hand: &mut Hand) {
        let Some(first) = needs.first() else { return };
        let mut raw = std::mem::take(&mut hand.raw);
        hand.right.clear();
        let frame = first.place(self.reader).map(|(pack, number)| {
            let opened = match (stored, first.span(self.reader)) {
                (Some(bytes), Some((_, span))) => {
                    self.reader.open_frame(pack, span, bytes, &mut raw).map(drop)
                }
                _ => self.reader.read_frame(pack, number).map(|(_, bytes)| raw = bytes),
            };
            (pack, opened)
        });
        for need in needs {
            let frame = match &frame {
                Some((pack, Ok(()))) => Ok(Some((*pack, raw.as_slice()))),
                Some((_, Err(e))) if !e.is_damage() => Err(e.chain()),
                _ => Ok(None), // another copy may be had
            };
            if let Err(e) = self.meet(need, frame, hand) {
                self.stop(self.target.unusable(&e));
                break;
            }
        }
        hand.raw = raw;
    }

    /// Meets a need with what its frame holds.
    fn meet(
        &self,
        need: &Need,
        frame: Result<Option<(&PackRow, &[u8])>, String>,
        hand: &mut Hand,
    ) -> io::Result<()> {
        let Some(file) = self.files.get(need.file as usize) else { return Ok(()) };
        let mut list = std::mem::take(&mut hand.list);
        let from = file.record + u64::from(file.record_bytes) + u64::from(need.first) * REF_BYTES as u64;
        self.records.read(from, usize::from(need.count) * REF_BYTES, &mut list)?;
        let mut own = Vec::new();
        let bytes = frame.and_then(|frame| self.gather(need, &list, frame, &mut hand.right, &mut own));
        hand.list = list;
        match u32::from(need.count) == file.chunks {
            true => self.make(need.file, file, bytes.map(Content::Bytes), hand),
            false => self.deliver(need, file, bytes, hand),
        }
        Ok(())
    }

    /// Returns a need's bytes: those in the frame, or copies of them put into `own`.
    fn gather<'b>(
        &self,
        need: &Need,
        list: &[u8],
        frame: Option<(&PackRow, &'b [u8])>,
        right: &mut HashSet<(u32, ChunkRef)>,
        own: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], String> {
        let mut end = need.offset;
        let mut are_right = true;
        for chunk in refs(list) {
            are_right &= frame.is_some_and(|(pack, raw)| {
                right.contains(&(end, chunk))
                    || need.location(end, chunk).is_some_and(|location| {
                        let is_right = verified(self.reader.repository(), pack, location, chunk, raw).is_ok();
                        is_right && right.insert((end, chunk))
                    })
            });
            end = end.saturating_add(chunk.bytes);
        }
        if let Some((_, raw)) = frame
            && are_right
            && let Some(bytes) = raw.get(need.offset as usize..end as usize)
        {
            return Ok(bytes);
        }
        for chunk in refs(list) {
            own.extend(self.reader.chunk(chunk).map_err(|e| e.chain())?);
        }
        Ok(own)
    }

    /// Takes a part of a file to the others; the last one makes the file.
    fn deliver(&self, need: &Need, file: &FilePlan, bytes: Result<&[u8], String>, hand: &mut Hand) {
        let shard = &self.begun[need.file as usize % SHARDS];
        let begun =
            locked(shard).entry(need.file).or_insert_with(|| Arc::new(Mutex::new(Begun::Empty))).clone();
        {
            let mut begun = locked(&begun);
            if !matches!(*begun, Begun::Failed(_)) {
                let result = bytes.and_then(|bytes| self.take(&mut begun, need, file, bytes, hand));
                if let Err(reason) = result {
                    let old = std::mem::replace(&mut *begun, Begun::Failed(reason));
                    self.discard(&old, file, hand);
                }
            }
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        locked(shard).remove(&need.file);
        let begun = std::mem::replace(&mut *locked(&begun), Begun::Empty);
        match begun {
            Begun::Memory(bytes) => {
                self.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                self.make(need.file, file, Ok(Content::Bytes(&bytes)), hand);
            }
            Begun::Spool(name) => self.make(need.file, file, Ok(Content::Spool(name)), hand),
            Begun::Failed(reason) => self.make(need.file, file, Err(reason), hand),
            Begun::Empty => {}
        }
    }

    /// Adds a part to what has come of a file.
    fn take(
        &self,
        begun: &mut Begun,
        need: &Need,
        file: &FilePlan,
        bytes: &[u8],
        hand: &mut Hand,
    ) -> Result<(), String> {
        if let Begun::Memory(all) = begun {
            return put(all, need.at, bytes);
        }
        self.with_entry(need.file, file, hand, |entry, hand| {
            if matches!(begun, Begun::Empty) {
                let total = entry.data_bytes();
                let is_small = total <= MEMORY_FILE_BYTES && entry.holes.is_empty();
                if is_small && self.memory.load(Ordering::Relaxed) + total <= MEMORY_BYTES {
                    self.memory.fetch_add(total, Ordering::Relaxed);
                    let mut all = vec![0; usize::try_from(total).map_err(|e| e.to_string())?];
                    put(&mut all, need.at, bytes)?;
                    *begun = Begun::Memory(all);
                    return Ok(());
                }
                let (name, out) = self.create(file, entry, hand)?;
                hand.spool = Some((need.file, out));
                *begun = Begun::Spool(name);
            }
            if let Begun::Spool(name) = &*begun {
                let out = self.spool(need.file, file, name, hand)?;
                write_around_holes(out, entry, need.at, bytes).map_err(|e| e.to_string())?;
            }
            Ok(())
        })
    }

    /// Calls `act` with a file's entry, and with everything else at hand.
    fn with_entry<R>(
        &self,
        number: u32,
        file: &FilePlan,
        hand: &mut Hand,
        act: impl FnOnce(&Entry<'_>, &mut Hand) -> Result<R, String>,
    ) -> Result<R, String> {
        let (last, mut record) = std::mem::take(&mut hand.record);
        if last != Some(number) {
            self.records
                .read(file.record, file.record_bytes as usize, &mut record)
                .map_err(|e| format!("what was noted of it is gone: {e}"))?;
        }
        let result = match Entries::new(&record).next() {
            Some(Ok((_, entry))) => act(&entry, hand),
            Some(Err(e)) => Err(RepoError::from(e).chain()),
            None => Err("what was noted of it is gone".to_owned()),
        };
        hand.record = (Some(number), record);
        result
    }

    /// Makes a file's temporary file, as long as the file.
    fn create(&self, file: &FilePlan, entry: &Entry<'_>, hand: &mut Hand) -> Result<(String, File), String> {
        let fd = self.parent(file.directory, hand).map_err(text)?;
        let name = self.target.temporary_name();
        let out = create_file(fd, &name).map_err(text)?;
        out.set_len(entry.size).map_err(|e| e.to_string())?;
        Ok((name, out))
    }

    /// Opens a file's temporary file, unless it is the one that the thread has open.
    fn spool<'h>(
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

    fn discard(&self, begun: &Begun, file: &FilePlan, hand: &mut Hand) {
        if let Begun::Memory(bytes) = begun {
            self.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        if let Begun::Spool(name) = begun
            && let Ok(fd) = self.parent(file.directory, hand)
        {
            let _ = rustix::fs::unlinkat(fd, name.as_str(), AtFlags::empty()); // ours alone
        }
    }

    /// Makes a file whose bytes have all come, or what has no bytes; gives it its attributes and its name.
    fn make(&self, number: u32, file: &FilePlan, content: Result<Content<'_>, String>, hand: &mut Hand) {
        let mut name = Vec::new();
        let result = self.with_entry(number, file, hand, |entry, hand| {
            name.extend_from_slice(entry.name);
            let content = content?;
            if entry.kind != Kind::File {
                self.special(file, entry, hand).map_err(text)?;
                return Ok((entry.kind, 0, false));
            }
            self.place(number, file, entry, content, hand)?;
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
        let mut list = std::mem::take(&mut hand.list);
        let from = file.record + u64::from(file.record_bytes);
        self.records.read(from, file.chunks as usize * REF_BYTES, &mut list).map_err(|e| e.to_string())?;
        let fd = self.parent(file.directory, hand).map_err(text)?;
        let result = read_back(self.reader, fd, entry, &list).map(|()| true);
        hand.list = list;
        result
    }

    fn place(
        &self,
        number: u32,
        file: &FilePlan,
        entry: &Entry<'_>,
        content: Content<'_>,
        hand: &mut Hand,
    ) -> Result<(), String> {
        let (name, own) = match content {
            Content::Spool(name) => {
                _ = self.spool(number, file, &name, hand)?;
                let own = hand.spool.take().map(|(_, out)| out).ok_or("temporary file is gone")?;
                (name, own)
            }
            Content::Bytes(bytes) if entry.holes.is_empty() => {
                let fd = self.parent(file.directory, hand).map_err(text)?;
                let name = self.target.temporary_name();
                let out = create_file(fd, &name).map_err(text)?;
                if let Err(e) = out.write_all_at(bytes, 0) {
                    let _ = rustix::fs::unlinkat(fd, name.as_str(), AtFlags::empty()); // ours alone
                    return Err(e.to_string());
                }
                (name, out)
            }
            Content::Bytes(bytes) => {
                let (name, out) = self.create(file, entry, hand)?;
                if let Err(e) = write_around_holes(&out, entry, 0, bytes) {
                    self.discard(&Begun::Spool(name), file, hand);
                    return Err(e.to_string());
                }
                (name, out)
            }
        };
        self.attributes.set(&On::File(&own), entry);
        drop(own);
        let fd = self.parent(file.directory, hand).map_err(text)?;
        self.target.put(fd, &name, entry.name).map_err(|e| match e {
            Errno::EXIST => "something is there already; allow it to be replaced with --overwrite".to_owned(),
            e => text(e),
        })
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

fn put(all: &mut [u8], at: u64, bytes: &[u8]) -> Result<(), String> {
    let start = usize::try_from(at).map_err(|e| e.to_string())?;
    let place = all.get_mut(start..start.saturating_add(bytes.len())).ok_or("chunk lies outside its file")?;
    place.copy_from_slice(bytes);
    Ok(())
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
