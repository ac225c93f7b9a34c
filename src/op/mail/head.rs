//! A file's content → the bytes that it begins with, and lists of keywords, which are such files.

use crate::base::content::{ContentBuf, refs};
use crate::op::mail::folders::Folder;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::message::keywords::{Keywords, LIST_BYTES_MAX};

/// Returns the first bytes of a content, `bytes_max` and what is left of one chunk at most. Holes are not in it.
///
/// # Errors
/// [`RepoError::Locked`] if it is sealed and nobody gave the passphrase; what reading meets.
pub fn head(reader: &Reader<'_>, content: &ContentBuf, bytes_max: u64) -> Result<Vec<u8>, RepoError> {
    let list = reader.flatten(content.borrowed())?;
    let mut bytes = Vec::new();
    for chunk in refs(&list) {
        if bytes.len() as u64 >= bytes_max {
            break;
        }
        bytes.extend(reader.chunk(chunk)?);
    }
    Ok(bytes)
}

/// Returns what keywords of a folder are called.
///
/// # Errors
/// As [`head`].
pub fn keywords(reader: &Reader<'_>, folder: &Folder) -> Result<Keywords, RepoError> {
    match &folder.keywords {
        Some((content, _)) => Ok(Keywords::parse(&head(reader, content, LIST_BYTES_MAX)?)),
        None => Ok(Keywords::default()),
    }
}
