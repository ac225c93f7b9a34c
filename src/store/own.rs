//! This machine's own small files, which lie outside every repository: each is replaced whole, durably.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::store::StoreError;
use crate::store::local::{DurableFolders, make_folder};

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
    file.write_all(bytes)?;
    file.as_file().sync_all()?; // 1. the bytes, before they have the name
    file.persist(path).map_err(|e| e.error)?; // 2. the name
    File::open(folder)?.sync_all() // 3. the folder, or a power cut may forget the name
}
