//! A mailbox's directory → its folders, and the messages in them.
//!
//! A folder is a directory with `cur/` in it: the mailbox's own, those beside it whose names begin with a dot (Maildir++), and
//! others at any depth (`LAYOUT=fs`). Of two versions of a folder only what differs is read: trees are cut between records.

use std::collections::HashSet;

use crate::base::content::{ChunkRef, ContentBuf, refs};
use crate::base::entry::{Entry, Kind};
use crate::base::time::Time;
use crate::op::mail::boxes::joined;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::repo::together::read_chunks;
use crate::stage::message::name::{Letters, parse};
use crate::stage::tree::Entries;

/// Deepest folder that is looked for in a mailbox.
const DEPTH_MAX: usize = 32;

/// A folder of a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    /// Its path below the mailbox's; empty for the inbox.
    pub path: Vec<u8>,
    /// `cur/` and `new/`.
    pub sides: [ContentBuf; 2],
    /// `dovecot-keywords`, and its length in bytes.
    pub keywords: Option<(ContentBuf, u64)>,
}

/// A message in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What its name says that does not change.
    pub base: Vec<u8>,
    /// Its file's name.
    pub name: Vec<u8>,
    /// Flags and keywords.
    pub letters: Letters,
    /// Length of the message in bytes, as its name says; else its file's.
    pub bytes: u64,
    /// When it was received, as IMAP shows it: its file's mtime; what its name says if that is none.
    pub received: Time,
    /// Its bytes.
    pub content: ContentBuf,
    /// Whether it lies in `new/`.
    pub is_new: bool,
    /// Whether its file has holes, which are not in the content.
    pub is_sparse: bool,
}

/// As [`folders`]; a mailbox whose own directory is damaged has none, and `damaged` is given that too.
///
/// # Errors
/// What reading meets that is no damage.
pub fn readable_folders(
    reader: &Reader<'_>,
    mailbox: &ContentBuf,
    damaged: &mut dyn FnMut(&[u8], &RepoError),
) -> Result<Vec<Folder>, RepoError> {
    match folders(reader, mailbox, damaged) {
        Err(e) if e.is_unreadable() => {
            damaged(b"", &e);
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Returns the folders of a mailbox, by their paths.
///
/// # Errors
/// What reading a directory meets: `damaged` is given those below the mailbox's own that are damaged.
pub fn folders(
    reader: &Reader<'_>,
    mailbox: &ContentBuf,
    damaged: &mut dyn FnMut(&[u8], &RepoError),
) -> Result<Vec<Folder>, RepoError> {
    let mut found = Vec::new();
    let mut todo = vec![(Vec::new(), mailbox.clone(), 0)];
    while let Some((path, directory, depth)) = todo.pop() {
        let stream = match reader.content(directory.borrowed()) {
            Ok(stream) => stream,
            Err(e) if !path.is_empty() && e.is_unreadable() => {
                damaged(&path, &e);
                continue;
            }
            Err(e) => return Err(e),
        };
        let (mut folder, mut has_cur) = (Folder { path: path.clone(), ..Folder::default() }, false);
        for entry in Entries::new(&stream) {
            let entry = match entry {
                Ok((_, entry)) => entry,
                Err(e) => {
                    damaged(&path, &e.into());
                    break;
                }
            };
            match (entry.kind, entry.name) {
                (Kind::Directory, b"cur") => (folder.sides[0], has_cur) = (entry.content.to_owned(), true),
                (Kind::Directory, b"new") => folder.sides[1] = entry.content.to_owned(),
                (Kind::File, b"dovecot-keywords") => {
                    folder.keywords = Some((entry.content.to_owned(), entry.size));
                }
                (Kind::Directory, b"tmp") => {}
                // Maildir++ has all folders side by side.
                (Kind::Directory, name) if depth < DEPTH_MAX && (depth == 0 || !path.starts_with(b".")) => {
                    todo.push((joined(&path, name), entry.content.to_owned(), depth + 1));
                }
                _ => {}
            }
        }
        if has_cur {
            found.push(folder);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Returns an entry of `cur/` or `new/` as a message; none if it is no message.
pub fn message(entry: &Entry<'_>, is_new: bool) -> Option<Message> {
    if entry.kind != Kind::File || entry.name.starts_with(b".") {
        return None;
    }
    let name = parse(entry.name);
    let delivered = name.delivered.filter(|_| entry.mtime.seconds <= 0).map(|seconds| Time::new(seconds, 0));
    Some(Message {
        base: name.base.to_vec(),
        name: entry.name.to_vec(),
        letters: name.letters,
        bytes: name.bytes.unwrap_or(entry.size),
        received: delivered.unwrap_or(entry.mtime),
        content: entry.content.to_owned(),
        is_new,
        is_sparse: !entry.holes.is_empty(),
    })
}

/// Takes messages one by one, each with the bytes that its file takes.
pub type EachMessage<'e> = dyn FnMut(Message, u64) + 'e;

/// Calls `each` with all messages of a side of a folder.
///
/// # Errors
/// What reading the directory meets.
pub fn messages(
    reader: &Reader<'_>,
    side: &ContentBuf,
    is_new: bool,
    each: &mut EachMessage<'_>,
) -> Result<(), RepoError> {
    let stream = reader.content(side.borrowed())?;
    for entry in Entries::new(&stream) {
        let (_, entry) = entry?;
        if let Some(message) = message(&entry, is_new) {
            each(message, entry.size);
        }
    }
    Ok(())
}

/// Returns the messages of a side of a folder that only `old`, and that only `new` has, by their names and content. Reads what
/// differs.
///
/// # Errors
/// What reading the directories meets.
pub fn difference(
    reader: &Reader<'_>,
    old: &ContentBuf,
    new: &ContentBuf,
    is_new: bool,
) -> Result<[Vec<Message>; 2], RepoError> {
    if old == new {
        return Ok([Vec::new(), Vec::new()]);
    }
    let [mut gone, mut come] = match by_chunks(reader, old, new, is_new) {
        // A chunk that is damaged, or not made of whole records: the directories as a whole say more.
        Err(e) if e.is_unreadable() => [all(reader, old, is_new)?, all(reader, new, is_new)?],
        other => other?,
    };
    let key = |message: &Message| (message.name.clone(), message.content.clone());
    let before: HashSet<_> = gone.iter().map(key).collect();
    let after: HashSet<_> = come.iter().map(key).collect();
    gone.retain(|message| !after.contains(&key(message)));
    come.retain(|message| !before.contains(&key(message)));
    Ok([gone, come])
}

fn all(reader: &Reader<'_>, side: &ContentBuf, is_new: bool) -> Result<Vec<Message>, RepoError> {
    let mut all = Vec::new();
    messages(reader, side, is_new, &mut |message, _| all.push(message))?;
    Ok(all)
}

fn by_chunks(
    reader: &Reader<'_>,
    old: &ContentBuf,
    new: &ContentBuf,
    is_new: bool,
) -> Result<[Vec<Message>; 2], RepoError> {
    let (old, new) = (chunks(reader, old)?, chunks(reader, new)?);
    let only = |own: &[ChunkRef], other: &[ChunkRef]| -> Result<Vec<Message>, RepoError> {
        let other: HashSet<&ChunkRef> = other.iter().collect();
        let own: Vec<ChunkRef> = own.iter().filter(|chunk| !other.contains(chunk)).copied().collect();
        let mut found = Vec::new();
        records(reader, &own, is_new, &mut |_, message| found.push(message))?;
        Ok(found)
    };
    Ok([only(&old, &new)?, only(&new, &old)?])
}

/// Returns the chunks that a directory is made of.
///
/// # Errors
/// As [`Reader::flatten`].
pub fn chunks(reader: &Reader<'_>, directory: &ContentBuf) -> Result<Vec<ChunkRef>, RepoError> {
    Ok(refs(&reader.flatten(directory.borrowed())?).collect())
}

/// Calls `each` with all messages in chunks of directories, and with the number of the chunk. Each frame is read once.
///
/// # Errors
/// What reading a chunk meets, or that it is not made of whole records: `each` has seen some messages then.
pub fn records(
    reader: &Reader<'_>,
    chunks: &[ChunkRef],
    is_new: bool,
    each: &mut dyn FnMut(usize, Message),
) -> Result<(), RepoError> {
    let mut failed = None;
    read_chunks(reader, chunks, |number, bytes| {
        let read = bytes.and_then(|bytes| {
            for entry in Entries::of_chunk(bytes) {
                let (_, entry) = entry?;
                message(&entry, is_new).into_iter().for_each(|message| each(number, message));
            }
            Ok(())
        });
        failed = failed.take().or(read.err());
    });
    failed.map_or(Ok(()), Err)
}
