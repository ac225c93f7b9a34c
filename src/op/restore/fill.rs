//! Meets the needs of many files, frame by frame in ascending order, each frame read once.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::base::content::ChunkRef;
use crate::base::entry::Entry;
use crate::base::progress::Done;
use crate::op::restore::attributes::{Attributes, On};
use crate::op::restore::holes::write_around_holes;
use crate::op::restore::plan::Directory;
use crate::op::restore::stretch::{Need, fetch, own, stretches};
use crate::op::restore::target::{Target, create_file, reopen_file, temporary_name};
use crate::op::restore::verify::read_back;
use crate::op::restore::{Request, lack};
use crate::repo::RepoError;
use crate::repo::browse::Record;
use crate::repo::reader::{Reader, verified};
use crate::stage::snapshot::Lack;

/// Files up to this many bytes are put together in memory and written at one stroke.
pub const MEMORY_FILE_BYTES: u64 = 256 << 10;

/// Bytes of files being put together in memory, at most; more go to their temporary files.
const MEMORY_BYTES: u64 = 64 << 20;

enum State {
    /// Nothing has come yet.
    Empty,
    /// All that has come, in memory.
    Memory(Vec<u8>),
    /// What has come is in this temporary file.
    Spool(String),
    /// It can't be restored.
    Failed(String),
}

struct FilePlan {
    directory: u32,
    record: Record,
    left: AtomicU32,
    state: Mutex<State>,
}

/// Files that are filled together.
#[derive(Default)]
pub struct Portion {
    files: Vec<FilePlan>,
    /// What they need.
    pub needs: Vec<Need>,
}

/// What filling did.
#[derive(Default)]
pub struct Filled {
    /// Files that are in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files read back.
    pub verified: u64,
    /// Bytes read from packs.
    pub bytes_fetched: u64,
    /// Files that are not in place, and why.
    pub lacks: Vec<Lack>,
    /// What is to be filled next: a file of which a part is still to come has number 0 in it.
    pub next: Portion,
}

impl Portion {
    /// Adds a file that waits for `needs` chunks; returns its number.
    pub fn add(&mut self, directory: u32, record: Record, needs: usize) -> u32 {
        let left = AtomicU32::new(u32::try_from(needs).unwrap_or(u32::MAX));
        self.files.push(FilePlan { directory, record, left, state: Mutex::new(State::Empty) });
        u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
    }

    /// Fills all files.
    ///
    /// # Errors
    /// [`RepoError::Interrupted`], [`RepoError::Locked`]. A file that can't be filled is a lack.
    pub fn fill(
        mut self,
        reader: &Reader<'_>,
        target: &Target,
        directories: &[Directory],
        attributes: &Attributes,
        request: &Request<'_>,
        temporary: &mut u64,
    ) -> Result<Filled, RepoError> {
        self.needs.sort_unstable_by_key(|need| {
            (need.location.map(|l| (l.pack, l.frame, l.offset)), need.file, need.at)
        });
        let same_frame = |a: &Need, b: &Need| {
            a.location.map(|l| (l.pack, l.frame)) == b.location.map(|l| (l.pack, l.frame))
        };
        let frames: Vec<&[Need]> = self.needs.chunk_by(same_frame).collect();
        let groups: Vec<&[&[Need]]> = stretches(reader, &frames).collect();
        let fill = Fill {
            reader,
            target,
            directories,
            attributes,
            request,
            files: &self.files,
            memory: AtomicU64::new(0),
            temporary: AtomicU64::new(*temporary),
            done: Mutex::default(),
            error: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        };
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..request.threads.max(1) {
                scope.spawn(|| {
                    let at = Parent::default();
                    while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if fill.is_stopped() {
                            return;
                        }
                        fill.stretch(group, &at);
                    }
                });
            }
            let at = Parent::default();
            for file in self.files.iter().filter(|file| file.left.load(Ordering::Relaxed) == 0) {
                // Only a file without content can be here before its chunks came.
                if matches!(file.record.entry(), Ok(entry) if entry.content.list.is_empty()) {
                    fill.finish(file, &at);
                }
            }
        });
        *temporary = fill.temporary.load(Ordering::Relaxed);
        if let Some(error) = fill.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut filled = fill.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        filled.next.files = self.files;
        filled.next.files.retain(|file| file.left.load(Ordering::Relaxed) > 0);
        Ok(filled)
    }
}

struct Fill<'f> {
    reader: &'f Reader<'f>,
    target: &'f Target,
    directories: &'f [Directory],
    attributes: &'f Attributes,
    request: &'f Request<'f>,
    files: &'f [FilePlan],
    memory: AtomicU64,
    temporary: AtomicU64,
    done: Mutex<Filled>,
    error: Mutex<Option<RepoError>>,
    is_stopped: AtomicBool,
}

/// The directory that a thread opened last.
type Parent = RefCell<Option<(u32, OwnedFd)>>;

impl Fill<'_> {
    fn is_stopped(&self) -> bool {
        if self.request.progress.is_cancelled() {
            self.stop(RepoError::Interrupted);
        }
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn stop(&self, error: RepoError) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn done(&self, change: impl FnOnce(&mut Filled)) {
        change(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Meets all needs that frames of one pack meet which lie side by side: one read of the store.
    fn stretch(&self, frames: &[&[Need]], at: &Parent) {
        let Some((range, bytes)) = fetch(self.reader, frames) else {
            frames.iter().for_each(|needs| self.frame(needs, None, at));
            return;
        };
        self.done(|done| done.bytes_fetched += range.end - range.start);
        for needs in frames {
            let own = bytes.as_ref().and_then(|bytes| own(self.reader, needs, &range, bytes));
            self.frame(needs, own, at);
        }
    }

    /// Meets all needs that one frame meets; `stored` are its bytes, if they were read already.
    fn frame(&self, needs: &[Need], stored: Option<Vec<u8>>, at: &Parent) {
        let Some(first) = needs.first() else { return };
        let pack = first
            .location
            .and_then(|location| self.reader.index().pack(location.pack).map(|pack| (location, pack)));
        let frame = pack.map(|(location, pack)| {
            let span = pack.frames.get(usize::from(location.frame));
            let opened = match (stored, span) {
                (Some(bytes), Some(span)) => self.reader.open_frame(pack, *span, bytes),
                _ => self.reader.read_frame(pack, location.frame),
            };
            (pack, opened)
        });
        let mut last: Option<(ChunkRef, u32)> = None; // the chunk that was found right, and its offset
        for need in needs {
            let file = &self.files[need.file as usize];
            let found = match (&frame, need.location) {
                (Some((pack, Ok((_, raw)))), Some(location)) => {
                    let start = location.offset as usize;
                    if last == Some((need.chunk, location.offset)) {
                        Some(&raw[start..start + need.chunk.bytes as usize])
                    } else {
                        let right = verified(self.reader.repository(), pack, location, need.chunk, raw).ok();
                        last = right.map(|_| (need.chunk, location.offset));
                        right
                    }
                }
                (Some((_, Err(e))), _) if !e.is_damage() => {
                    self.deliver(file, need, Err(e.chain()), at);
                    continue;
                }
                _ => None,
            };
            match found {
                Some(bytes) => self.deliver(file, need, Ok(bytes), at),
                None => match self.reader.chunk(need.chunk) {
                    Ok(bytes) => self.deliver(file, need, Ok(&bytes), at), // another copy
                    Err(e) => self.deliver(file, need, Err(e.chain()), at),
                },
            }
        }
    }

    fn deliver(&self, file: &FilePlan, need: &Need, bytes: Result<&[u8], String>, at: &Parent) {
        {
            let mut state = file.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*state, State::Failed(_)) {
                let result = bytes.and_then(|bytes| self.take(&mut state, file, need, bytes, at));
                if let Err(reason) = result {
                    let old = std::mem::replace(&mut *state, State::Failed(reason));
                    self.discard(&old, file, at);
                }
            }
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish(file, at);
        }
    }

    /// Adds a chunk to what has come of a file.
    fn take(
        &self,
        state: &mut State,
        file: &FilePlan,
        need: &Need,
        bytes: &[u8],
        at: &Parent,
    ) -> Result<(), String> {
        let entry = file.record.entry().map_err(|e| e.to_string())?;
        if matches!(state, State::Empty) {
            let total = entry.data_bytes();
            let is_small = total <= MEMORY_FILE_BYTES && entry.holes.is_empty();
            *state = match is_small && self.memory.load(Ordering::Relaxed) + total <= MEMORY_BYTES {
                true => {
                    self.memory.fetch_add(total, Ordering::Relaxed);
                    State::Memory(vec![0; usize::try_from(total).map_err(|e| e.to_string())?])
                }
                false => State::Spool(self.spool(file, &entry, at)?),
            };
        }
        match state {
            State::Memory(all) => {
                let start = usize::try_from(need.at).map_err(|e| e.to_string())?;
                let place = all.get_mut(start..start + bytes.len()).ok_or("chunk lies outside its file")?;
                place.copy_from_slice(bytes);
                Ok(())
            }
            State::Spool(name) => {
                let parent = self.parent(file.directory, at).map_err(text)?;
                let opened = at.borrow();
                let fd = opened.as_ref().map(|(_, fd)| fd).filter(|_| parent).ok_or("directory is gone")?;
                let out = reopen_file(fd, name).map_err(text)?;
                write_around_holes(&out, &entry, need.at, bytes).map_err(|e| e.to_string())
            }
            State::Empty | State::Failed(_) => Ok(()),
        }
    }

    fn spool(&self, file: &FilePlan, entry: &Entry<'_>, at: &Parent) -> Result<String, String> {
        self.parent(file.directory, at).map_err(text)?;
        let opened = at.borrow();
        let (_, fd) = opened.as_ref().ok_or("directory is gone")?;
        let name = temporary_name(self.temporary.fetch_add(1, Ordering::Relaxed) + 1);
        let out = create_file(fd, &name).map_err(text)?;
        out.set_len(entry.size).map_err(|e| e.to_string())?;
        Ok(name)
    }

    /// Opens a file's directory, unless it is the one that the thread has open.
    fn parent(&self, number: u32, at: &Parent) -> Result<bool, Errno> {
        if at.borrow().as_ref().is_some_and(|(open, _)| *open == number) {
            return Ok(true);
        }
        let fd = self.target.directory(&self.directories[number as usize].path)?;
        *at.borrow_mut() = Some((number, fd));
        Ok(true)
    }

    fn discard(&self, state: &State, file: &FilePlan, at: &Parent) {
        if let State::Memory(bytes) = state {
            self.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        if let State::Spool(name) = state
            && self.parent(file.directory, at).is_ok()
            && let Some((_, fd)) = at.borrow().as_ref()
        {
            let _ = rustix::fs::unlinkat(fd, name.as_str(), AtFlags::empty()); // ours alone
        }
    }

    /// Gives a file whose chunks have all come its attributes and its name.
    fn finish(&self, file: &FilePlan, at: &Parent) {
        let state =
            std::mem::replace(&mut *file.state.lock().unwrap_or_else(PoisonError::into_inner), State::Empty);
        let result = file.record.entry().map_err(|e| e.to_string()).and_then(|entry| {
            self.place(file, &entry, state, at)?;
            Ok((entry.size, self.request.verify && self.check_back(file, &entry, at)?))
        });
        match result {
            Ok((bytes, is_verified)) => {
                self.request.progress.add(Done { files: 1, bytes });
                self.done(|done| {
                    done.files += 1;
                    done.bytes += bytes;
                    done.verified += u64::from(is_verified);
                });
            }
            Err(reason) => {
                let directory = &self.directories[file.directory as usize].path;
                let name = file.record.entry().map_or(Vec::new(), |entry| entry.name.to_vec());
                let path = if directory.is_empty() { name } else { [directory, &b"/"[..], &name].concat() };
                self.done(|done| done.lacks.push(lack(&path, reason)));
            }
        }
    }

    fn check_back(&self, file: &FilePlan, entry: &Entry<'_>, at: &Parent) -> Result<bool, String> {
        let opened = at.borrow();
        let (_, fd) =
            opened.as_ref().filter(|(number, _)| *number == file.directory).ok_or("directory is gone")?;
        read_back(self.reader, fd, entry).map(|()| true)
    }

    fn place(&self, file: &FilePlan, entry: &Entry<'_>, state: State, at: &Parent) -> Result<(), String> {
        if let State::Failed(reason) = state {
            return Err(reason);
        }
        self.parent(file.directory, at).map_err(text)?;
        let opened = at.borrow();
        let (_, fd) = opened.as_ref().ok_or("directory is gone")?;
        let (name, out) = match state {
            State::Spool(name) => {
                let out = reopen_file(fd, &name).map_err(text)?;
                (name, out)
            }
            State::Memory(_) | State::Empty | State::Failed(_) => {
                let name = temporary_name(self.temporary.fetch_add(1, Ordering::Relaxed) + 1);
                let out = create_file(fd, &name).map_err(text)?;
                if let State::Memory(bytes) = &state {
                    self.memory.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                    if let Err(e) = out.write_all_at(bytes, 0) {
                        let _ = rustix::fs::unlinkat(fd, name.as_str(), AtFlags::empty()); // ours alone
                        return Err(e.to_string());
                    }
                } else if entry.size > 0 {
                    out.set_len(entry.size).map_err(|e| e.to_string())?; // all of it is a hole
                }
                (name, out)
            }
        };
        self.attributes.set(&On::File(&out), entry);
        self.target.put(fd, &name, entry.name).map_err(|e| match e {
            Errno::EXIST => "something is there already; allow it to be replaced with --overwrite".to_owned(),
            e => text(e),
        })
    }
}

fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
