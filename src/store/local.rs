//! Repository files in a local directory.
//!
//! A new file is written under `tmp/`, synced, linked to its name only if that is free, and its
//! folder synced; one that replaces a damaged file is renamed over it. A file under `tmp/` is locked by the
//! run that writes it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::store::own::{give_to_owner_of, give_to_owner_of_folder, open_own_file};
use crate::store::regular::open_regular;
use crate::store::strangers::{UPLOAD_PREFIX, is_upload, strangers};
use crate::store::{Folder, Found, Lock, LockMode, Name, NoLock, Store, StoreError, Upload};

/// Where files lie before they have a name.
pub const UPLOADS: &str = "tmp";

/// The flock(2) target.
pub const LOCK: &str = "lock";

/// A repository in a directory of a local file system.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    durable: DurableFolders,
}

impl LocalStore {
    /// Names a repository at `root`; nothing is touched yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), durable: DurableFolders::default() }
    }

    /// Returns the repository's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.to_string())
    }

    fn open(&self, name: &Name) -> Result<File, StoreError> {
        let path = self.path(name);
        open_regular(&path).map_err(|e| io_error(&path, "open", e))
    }
}

/// Returns the error for `path`; absence gets its own kind.
pub fn io_error(path: &Path, verb: &'static str, source: io::Error) -> StoreError {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { path },
        _ => StoreError::Io { path, verb, source },
    }
}

/// Folders that this process knows to be durable in their parents.
pub type DurableFolders = Arc<Mutex<HashSet<PathBuf>>>;

/// Makes `folder` and what leads to it, each durable in its parent; also those that are there
/// already, for who made them may have been killed before they were durable.
///
/// # Errors
/// [`StoreError::Io`].
pub fn make_folder(folder: &Path, durable: &DurableFolders) -> Result<(), StoreError> {
    if durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => give_to_owner_of(parent, folder),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && folder != parent => {
            make_folder(parent, durable)?;
            match fs::DirBuilder::new().mode(0o700).create(folder) {
                Ok(()) => give_to_owner_of(parent, folder),
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error(folder, "create", e));
                }
                Err(_) => {}
            }
        }
        Err(e) => return Err(io_error(folder, "create", e)),
    }
    sync_folder(parent)?;
    durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    Ok(())
}

/// Makes the names in `folder` durable.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let open = File::open(folder).map_err(|e| io_error(folder, "open", e))?;
    open.sync_all().map_err(|e| io_error(folder, "sync", e))
}

struct LocalUpload {
    root: PathBuf,
    durable: DurableFolders,
    path: PathBuf,
    file: File,
}

/// Removes the file if it still lies under its temporary name.
impl Drop for LocalUpload {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // may be gone, under its name; else the sweep takes it
    }
}

impl Upload for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| io_error(&self.path, "write", e))
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let to = self.root.join(name.to_string());
        let folder = to.parent().unwrap_or(&self.root);
        make_folder(folder, &self.durable)?;
        self.file.sync_all().map_err(|e| io_error(&self.path, "sync", e))?; // 1. the bytes, before they have a name
        match fs::hard_link(&self.path, &to) {
            Ok(()) => {} // 2. the name, only if it is free
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                sync_folder(folder)?; // who put it there may have been killed before this
                return Err(StoreError::Taken { path: to.display().to_string() });
            }
            Err(e) if has_no_links(&e) => rename_if_free(&self.path, &to)?,
            Err(e) => return Err(io_error(&to, "link", e)),
        }
        sync_folder(folder) // 3. the folder, or a power cut may forget the name
    }

    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let to = self.root.join(name.to_string());
        let folder = to.parent().unwrap_or(&self.root);
        make_folder(folder, &self.durable)?;
        self.file.sync_all().map_err(|e| io_error(&self.path, "sync", e))?; // 1. the bytes: what they replace is there yet
        rustix::fs::rename(&self.path, &to).map_err(|e| io_error(&to, "replace", e.into()))?; // 2. the name
        sync_folder(folder) // 3. the folder
    }
}

/// Returns whether the file system can't link (exFAT, some network file systems).
fn has_no_links(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if [
        rustix::io::Errno::PERM,
        rustix::io::Errno::NOTSUP,
        rustix::io::Errno::NOSYS,
        rustix::io::Errno::MLINK,
    ].iter().any(|known| known.raw_os_error() == code))
}

/// Renames without replacing: by the kernel where it can, else after a look.
fn rename_if_free(from: &Path, to: &Path) -> Result<(), StoreError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let taken = || StoreError::Taken { path: to.display().to_string() };
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(taken()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            if to.exists() {
                return Err(taken());
            }
            // The name is the hash of the bytes: who comes between puts the same file there.
            rustix::fs::rename(from, to).map_err(|e| io_error(to, "rename", e.into()))
        }
        Err(e) => Err(io_error(to, "rename", e.into())),
    }
}

struct LocalLock {
    _file: File, // the lock goes when the file is closed
}

impl Lock for LocalLock {}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        let folder = self.root.join(UPLOADS);
        make_folder(&folder, &self.durable)?;
        loop {
            let temporary = tempfile::Builder::new()
                .prefix(UPLOAD_PREFIX)
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .tempfile_in(&folder)
                .map_err(|e| io_error(&folder, "create a file in", e))?;
            let (file, path) = temporary.keep().map_err(|e| io_error(&folder, "keep a file in", e.error))?;
            give_to_owner_of_folder(&path, &file);
            // A sweep may have taken the file for a dead run's before the lock was on it.
            let is_locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            let links = file.metadata().map_err(|e| io_error(&path, "read", e))?.nlink();
            match is_locked {
                Ok(()) if links > 0 => {
                    return Ok(Box::new(LocalUpload {
                        root: self.root.clone(),
                        durable: self.durable.clone(),
                        path,
                        file,
                    }));
                }
                Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(e) => return Err(io_error(&path, "lock", e.into())),
            }
        }
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        let file = self.open(name)?;
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| io_error(&path, "read", e))?;
        match bytes.len() as u64 <= bytes_max {
            true => Ok(bytes),
            false => Err(StoreError::Io {
                path: path.display().to_string(),
                verb: "read",
                source: io::Error::other(format!("longer than {bytes_max} bytes")),
            }),
        }
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        let file = self.open(name)?;
        let length = file.metadata().map_err(|e| io_error(&path, "read", e))?.len();
        if length < range.end {
            return Err(StoreError::Short {
                path: path.display().to_string(),
                found: length,
                expected: range.end,
            });
        }
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io_error(&path, "read", io::ErrorKind::OutOfMemory.into()))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(|e| io_error(&path, "read", e))?;
        Ok(bytes)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        let mut todo = vec![folder.name().to_owned()];
        while let Some(relative) = todo.pop() {
            let path = self.root.join(&relative);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io_error(&path, "list", e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| io_error(&path, "list", e))?;
                let relative = format!("{relative}/{}", entry.file_name().to_string_lossy());
                // Some file systems look for both only when they are asked.
                let looked = entry.file_type().and_then(|kind| match kind.is_dir() {
                    true => Ok(None),
                    false => entry.metadata().map(|metadata| Some(metadata.len())),
                });
                match looked {
                    Ok(None) => todo.push(relative),
                    Ok(Some(bytes)) => {
                        found.push(Found { name: Name::parse(&relative), path: relative, bytes });
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {} // deleted meanwhile
                    Err(e) => return Err(io_error(&entry.path(), "list", e)),
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(|e| io_error(&path, "delete", e))?;
        sync_folder(path.parent().unwrap_or(&self.root))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        let path = self.root.join(LOCK);
        let open = || open_own_file(&path);
        let writable = match open() {
            // Not one file more fits. What a dead run has left makes room for it.
            Err(e) if is_full(&e) && self.sweep_uploads().is_ok_and(|gone| gone > 0) => open(),
            writable => writable,
        };
        let file = match writable {
            Err(e) if mode == LockMode::Shared && is_read_only(&e) => match open_regular(&path) {
                // Who can't write here can't be in a writer's way.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Box::new(NoLock)),
                other => other,
            },
            other => other,
        };
        let file = file.map_err(|e| io_error(&path, "lock", e))?;
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&file, operation) {
            Ok(()) => Ok(Box::new(LocalLock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StoreError::Locked { path: path.display().to_string() })
            }
            Err(e) => Err(io_error(&path, "lock", e.into())),
        }
    }

    fn strangers(&self) -> Result<Vec<String>, StoreError> {
        strangers(&self.root)
    }

    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        let folder = self.root.join(UPLOADS);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(io_error(&folder, "list", e)),
        };
        let mut gone = 0;
        for entry in entries {
            let entry = entry.map_err(|e| io_error(&folder, "list", e))?;
            if !is_upload(&entry.file_name().to_string_lossy()) {
                continue; // somebody else's
            }
            let path = entry.path();
            // What can't be opened or locked is left alone: a live run has it, another user, or a bad sector.
            let Some(file) = open_upload(&path) else { continue };
            if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                tracing::debug!("{}: not swept: {e}", path.display());
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => gone += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {} // another sweep was faster
                Err(e) => return Err(io_error(&path, "delete", e)),
            }
        }
        Ok(gone)
    }
}

/// Opens a file under `tmp/`; none if it can't be, or is no file at all.
///
/// For writing too: a network file system locks only what may be written for one alone.
fn open_upload(path: &Path) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC; // waits for no pipe
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = opened.inspect_err(|e| tracing::debug!("{}: not swept: {e}", path.display())).ok()?;
    let file = File::from(file);
    file.metadata().is_ok_and(|about| about.is_file()).then_some(file)
}

/// Returns whether an error says that the disk is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns whether an error says that the place can't be written to by this user.
fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
