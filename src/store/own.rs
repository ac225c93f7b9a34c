//! This machine's own small files, which lie outside every repository: each is replaced whole, durably.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::geteuid;

use crate::store::local::{DurableFolders, make_folder};
use crate::store::{StoreError, append_regular};

/// Makes a folder that its owner alone may enter, and what leads to it, each durable in its parent.
///
/// # Errors
/// [`StoreError::Io`]; some of what leads to it may be there.
pub fn make_own_folder(folder: &Path) -> Result<(), StoreError> {
    let durable = DurableFolders::default();
    // Who made what it lies in may have been killed before that was durable.
    if let Some(parent) = folder.parent().filter(|parent| parent.is_dir() && parent.parent().is_some()) {
        make_folder(parent, &durable)?;
    }
    make_folder(folder, &durable)
}

/// Gives a file that root has just made at `path` to the owner of the folder in which it lies, who is to go on with it: root
/// may do by hand what another user does every night. A file that is not new, or that has another name elsewhere, stays
/// whose it is; so does one where that is refused.
pub fn give_to_owner_of_folder(path: &Path, made: &File) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(folder), Ok(named), Ok(opened)) = (folder.metadata(), path.symlink_metadata(), made.metadata())
    else {
        return;
    };
    let is_new = opened.is_file() && opened.len() == 0 && opened.nlink() == 1 && opened.uid() == 0;
    let is_named = (named.dev(), named.ino()) == (opened.dev(), opened.ino()); // no link leads to it
    if geteuid().is_root() && folder.uid() != 0 && is_new && is_named {
        let _ = fchown(made, Some(folder.uid()), Some(folder.gid())); // a share may know no owners
    }
}

/// Gives a folder that root has just made, or a file that nobody else could reach meanwhile, to the owner of the folder
/// `parent`, in which it lies or will, as [`give_to_owner_of_folder`] does.
pub fn give_to_owner_of(parent: &Path, made: &Path) {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let (Ok(parent), Ok(opened)) = (parent.metadata(), open(made, flags, Mode::empty())) else { return };
    let opened = File::from(opened);
    let is_single = |about: &Metadata| about.is_dir() || about.is_file() && about.nlink() == 1;
    let is_of_root = opened.metadata().is_ok_and(|about| about.uid() == 0 && is_single(&about));
    if geteuid().is_root() && parent.uid() != 0 && is_of_root {
        let _ = fchown(&opened, Some(parent.uid()), Some(parent.gid())); // a share may know no owners
    }
}

/// Opens a small file of this machine's own to read and to append; makes it if it is not there.
///
/// # Errors
/// As [`append_regular`].
pub fn open_own_file(path: &Path) -> io::Result<File> {
    let file = append_regular(path)?;
    give_to_owner_of_folder(path, &file);
    Ok(file)
}

/// Gives `path` these bytes and this mode, durably: until then it is as it was, whatever goes wrong. Its folder
/// must be there.
///
/// # Errors
/// As writing, syncing and renaming; what was there before stays then.
pub fn put_own_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".snap-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)?;
    give_to_owner_of_folder(file.path(), file.as_file());
    file.write_all(bytes)?;
    file.as_file().sync_all()?; // 1. the bytes, before they have the name
    file.persist(path).map_err(|e| e.error)?; // 2. the name
    File::open(folder)?.sync_all() // 3. the folder, or a power cut may forget the name
}

/// As [`put_own_file`], for its owner alone; makes its folder where that is missing.
///
/// # Errors
/// [`StoreError::Io`]; what was there before stays then.
pub fn keep_own_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    make_own_folder(path.parent().unwrap_or(Path::new(".")))?;
    put_own_file(path, bytes, 0o600).map_err(|source| StoreError::Io {
        path: path.display().to_string(),
        verb: "write",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_makes_by_hand_belongs_to_whose_folder_it_is_and_nothing_else_is_given_away() {
        if !geteuid().is_root() {
            println!("skipped: takes root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        File::create(path("of-root")).unwrap().write_all(b"secret").unwrap();
        File::create(path("empty")).unwrap();
        std::fs::hard_link(path("empty"), path("second-name")).unwrap();
        std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();
        std::os::unix::fs::chown(folder.path(), Some(1), Some(1)).unwrap();
        put_own_file(&path("put"), b"bytes", 0o600).unwrap();
        drop(open_own_file(&path("opened")).unwrap());
        drop(open_own_file(&path("of-root")).unwrap());
        drop(open_own_file(&path("second-name")).unwrap());
        let through_link = File::options().append(true).open(path("link")).unwrap();
        give_to_owner_of_folder(&path("link"), &through_link);
        let owner = |name: &str| path(name).metadata().unwrap().uid();
        assert_eq!(["put", "opened", "of-root", "empty"].map(owner), [1, 1, 0, 0]);
    }
}
