//! What the kernel asks over `/dev/fuse` → calls of a [`View`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::base::limits::NAME_BYTES_MAX;
use crate::op::mount::Event;
use crate::op::mount::attributes::BLOCK_BYTES;
use crate::op::mount::plan::Seek;
use crate::op::mount::view::{Opened, Told, View};

/// How long the kernel may keep what never changes: names and attributes in a snapshot.
const FIXED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the kernel may keep what a new snapshot changes.
const PASSING: Duration = Duration::from_secs(1);

/// whence of lseek(2) for data and holes.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Answers the kernel.
pub struct Answers {
    view: Arc<View>,
    events: Sender<Event>,
    directories: Mutex<HashMap<u64, Arc<Opened>>>,
    next_directory: AtomicU64,
    for_others: bool,
    has_no_open: bool,
}

impl Answers {
    /// Answers with what `view` shows; sends an event when the kernel has ended the mount. With
    /// `for_others`, access lists are held against who asks, by the kernel.
    pub fn new(view: Arc<View>, events: Sender<Event>, for_others: bool) -> Self {
        Self {
            view,
            events,
            directories: Mutex::default(),
            next_directory: AtomicU64::new(1),
            for_others,
            has_no_open: false,
        }
    }

    fn opened(&self, handle: FileHandle) -> Result<Arc<Opened>, Errno> {
        let directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    /// Lists a directory into a reply; `add` returns whether there was no room.
    fn list(
        &self,
        handle: FileHandle,
        from: u64,
        mut add: impl FnMut(u64, &[u8], &Told) -> bool,
        counts: bool,
    ) -> Result<(), Errno> {
        let opened = self.opened(handle)?;
        self.view.list(&opened, from, &mut |number, name, told| {
            let is_full = add(number + 1, name, &told);
            if number >= 2 && (is_full || !counts) {
                self.view.forget(told.attributes.ino.0, 1);
            }
            !is_full
        })
    }
}

fn kept(told: &Told) -> Duration {
    if told.is_passing { PASSING } else { FIXED }
}

/// Sends an attribute's value, or its length if the kernel asks for that.
fn send_value(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Answers {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let there = config.capabilities();
        let mut wanted = InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_PARALLEL_DIROPS;
        wanted |= InitFlags::FUSE_CACHE_SYMLINKS;
        if self.for_others {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        let _ = config.add_capabilities(wanted & there); // asked for what is there alone
        self.has_no_open = there.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        Ok(())
    }

    fn destroy(&mut self) {
        let _ = self.events.send(Event::Ended); // nobody listens when the program ends by itself
    }

    fn lookup(&self, _request: &Request, above: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.view.look_up(above.0, name.as_bytes()) {
            Ok(told) => reply.entry(&kept(&told), &told.attributes, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.view.forget(number.0, lookups);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.attributes(number.0) {
            Ok(told) => reply.attr(&kept(&told), &told.attributes),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.view.link_target(number.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.view.source().open_file() {
            Err(e) => reply.error(e),
            // Files never change and nothing is held for an open one: the kernel need not ask again.
            Ok(()) if self.has_no_open => reply.error(Errno::ENOSYS),
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.view.read(number.0, offset, length) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS); // nothing is written: the kernel need not ask again
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.view.open_directory(number.0) {
            Err(e) => reply.error(e),
            Ok(opened) => {
                let flags = match &opened {
                    Opened::Top(..) => FopenFlags::empty(),
                    Opened::Folder(_) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                };
                let handle = self.next_directory.fetch_add(1, Ordering::Relaxed);
                let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
                directories.insert(handle, Arc::new(opened));
                drop(directories);
                reply.opened(FileHandle(handle), flags);
            }
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let add = |next, name: &[u8], told: &Told| {
            reply.add(told.attributes.ino, next, told.attributes.kind, OsStr::from_bytes(name))
        };
        match self.list(handle, offset, add, false) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let add = |next, name: &[u8], told: &Told| {
            let name = OsStr::from_bytes(name);
            reply.add(told.attributes.ino, next, name, &kept(told), &told.attributes, Generation(0))
        };
        match self.list(handle, offset, add, true) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let amount = self.view.amount();
        let blocks = amount.bytes.div_ceil(u64::from(BLOCK_BYTES));
        let name_bytes = u32::try_from(NAME_BYTES_MAX).unwrap_or(255);
        reply.statfs(blocks, 0, 0, amount.files, 0, BLOCK_BYTES, name_bytes, BLOCK_BYTES);
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let mut found = None;
        let looked = self.view.xattrs(number.0, |other, value| {
            if other == name.as_bytes() {
                found = Some(value.to_vec());
            }
        });
        match (looked, found) {
            (Err(e), _) => reply.error(e),
            (Ok(()), None) => reply.error(Errno::NO_XATTR),
            (Ok(()), Some(value)) => send_value(reply, size, &value),
        }
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let mut names = Vec::new();
        let looked = self.view.xattrs(number.0, |name, _| {
            names.extend_from_slice(name);
            names.push(0);
        });
        match looked {
            Err(e) => reply.error(e),
            Ok(()) => send_value(reply, size, &names),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            SEEK_DATA => Seek::Data,
            SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.view.seek(number.0, offset, what) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(e) => reply.error(e),
        }
    }
}
