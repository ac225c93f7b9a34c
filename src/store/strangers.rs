//! A local repository's directory → what lies there that no repository has made.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use crate::store::local::{LOCK, UPLOADS, io_error};
use crate::store::{Folder, Name, StoreError};

/// What the name of a file under `tmp/` begins with.
pub const UPLOAD_PREFIX: &str = "upload-";

/// Length of what follows: letters and digits, drawn at random.
const UPLOAD_DIGITS: usize = 6;

/// Where the index cache once lay, and may lie if it is told to.
const INDEX: &str = "index.redb";

/// What every file system of the ext family has at its top.
const LOST_AND_FOUND: &str = "lost+found";

/// Returns whether a name is one that a file under `tmp/` gets from us.
pub fn is_upload(name: &str) -> bool {
    name.strip_prefix(UPLOAD_PREFIX).is_some_and(|digits| {
        digits.len() == UPLOAD_DIGITS && digits.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Returns what lies right in a repository's directory, or in its `tmp/`, and is none of its own: paths, sorted, a
/// directory with a slash at its end. What lies in its other folders, listing them tells.
///
/// # Errors
/// [`StoreError::Io`]. A directory that is not there holds nothing.
pub fn strangers(root: &Path) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    each(root, |name, entry| {
        let is_folder = Folder::ALL.iter().any(|folder| folder.name() == name) || name == UPLOADS;
        let is_directory = entry.path().is_dir(); // behind a link too: the packs may lie on another disk
        let is_ours = match is_directory {
            true => is_folder || name == LOST_AND_FOUND,
            false => name == LOCK || name == INDEX || Name::parse(name).is_some(),
        };
        if !is_ours {
            found.push(format!("{name}{}", if is_directory { "/" } else { "" }));
        }
    })?;
    let uploads = root.join(UPLOADS);
    if uploads.is_dir() {
        each(&uploads, |name, entry| {
            if !is_upload(name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                found.push(format!("{UPLOADS}/{name}"));
            }
        })?;
    }
    found.sort();
    Ok(found)
}

fn each(folder: &Path, mut visit: impl FnMut(&str, &DirEntry)) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error(folder, "list", e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| io_error(folder, "list", e))?;
        visit(&entry.file_name().to_string_lossy(), &entry);
    }
    Ok(())
}
