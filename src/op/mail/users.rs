//! A snapshot → its mailboxes, and what is in each.

use crate::base::time::Time;
use crate::op::mail::boxes::{Finder, Found, Mailbox, Where};
use crate::op::mail::folders::{messages, readable_folders};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};

/// What is in a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Folders, the inbox among them.
    pub folders: u64,
    /// Messages.
    pub messages: u64,
    /// What their files take, in bytes.
    pub bytes: u64,
    /// When the newest was received.
    pub newest: Option<Time>,
    /// Directories that can't be read: what is in them is not counted.
    pub unreadable: u64,
}

/// Counts what is in each mailbox of a snapshot; calls `each` by users' names. O(messages). Returns what can't be seen.
///
/// # Errors
/// What `each` returns; what reading meets that is no damage.
pub fn users(
    reader: &Reader<'_>,
    places: &Where,
    snapshot: &Snapshot,
    each: &mut dyn FnMut(&Mailbox, &Counts) -> Result<(), RepoError>,
) -> Result<Found, RepoError> {
    let found = Finder::new(reader, places).all(snapshot)?;
    for mailbox in &found.mailboxes {
        each(mailbox, &count(reader, mailbox)?)?;
    }
    Ok(found)
}

/// Counts what is in a mailbox.
///
/// # Errors
/// What reading meets that is no damage.
pub fn count(reader: &Reader<'_>, mailbox: &Mailbox) -> Result<Counts, RepoError> {
    let mut counts = Counts::default();
    let mut unreadable = 0;
    let all = readable_folders(reader, &mailbox.content, &mut |_, _| unreadable += 1)?;
    for folder in &all {
        counts.folders += 1;
        for (side, is_new) in folder.sides.iter().zip([false, true]) {
            let counted = messages(reader, side, is_new, &mut |message, bytes| {
                counts.messages += 1;
                counts.bytes = counts.bytes.saturating_add(bytes);
                counts.newest = counts.newest.max(Some(message.received));
            });
            match counted {
                Err(e) if e.is_unreadable() => unreadable += 1,
                other => other?,
            }
        }
    }
    counts.unreadable = unreadable;
    Ok(counts)
}
