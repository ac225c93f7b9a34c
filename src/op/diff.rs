//! Two snapshots → what changed between them; a rename is shown as one.

use std::collections::{BTreeMap, HashMap};

use crate::base::content::ContentBuf;
use crate::base::entry::{Entry, Kind};
use crate::base::time::Time;
use crate::repo::browse::{Place, Record, Step, Visitor, find, walk};
use crate::repo::reader::Reader;
use crate::repo::{RepoError, Snapshot};
use crate::stage::tree::Entries;

/// What happened to an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is only in the later snapshot.
    Added,
    /// It is only in the earlier one.
    Removed,
    /// Its content changed, or where a link points.
    Modified,
    /// It is another kind of entry.
    Kind,
    /// Owner, mode, extended attributes or mtime changed; the content did not.
    Attributes,
    /// It is the same file under another name; the path is the earlier one.
    Renamed(Vec<u8>),
}

/// What changed.
#[derive(Debug, Default)]
pub struct Report {
    /// Changes by path, in the later snapshot where the entry is there.
    pub changes: BTreeMap<Vec<u8>, Change>,
    /// Bytes of files added, of modified ones as they are later, and of what has become a file.
    pub bytes_added: u64,
    /// Bytes of files removed, of modified ones as they were, and of what is no file any more.
    pub bytes_removed: u64,
}

/// Compares `path` in two snapshots: what is below a directory, or the entry itself if it is none in one of them.
/// Directories that are the same are not read.
///
/// # Errors
/// [`RepoError::NoPath`] if neither has the path; what reading a directory meets.
pub fn diff(
    reader: &Reader<'_>,
    earlier: &Snapshot,
    later: &Snapshot,
    path: &[u8],
) -> Result<Report, RepoError> {
    let mut diff = Diff { reader, report: Report::default(), gone: HashMap::new(), come: Vec::new() };
    let (old, new) = match (find(reader, earlier, path), find(reader, later, path)) {
        (Err(e @ RepoError::NoPath { .. }), Err(RepoError::NoPath { .. })) => return Err(e),
        (Ok(Place::Root(old)), Ok(Place::Root(new))) => {
            diff.directories(&[], &old, &new)?;
            return Ok(diff.finish());
        }
        (old, new) => (record(old)?, record(new)?),
    };
    let (old, new) = (entry(old.as_ref())?, entry(new.as_ref())?);
    let is_directory = |entry: &Entry<'_>| entry.kind == Kind::Directory;
    if old.iter().chain(&new).all(is_directory) {
        let content =
            |entry: Option<Entry<'_>>| entry.map_or_else(ContentBuf::default, |it| it.content.to_owned());
        diff.directories(&[], &content(old), &content(new))?;
        return Ok(diff.finish());
    }
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    diff.entries(names.join(&b'/'), old.as_ref(), new.as_ref())?;
    Ok(diff.finish())
}

/// Returns the entry at a place; none if there is nothing.
fn record(place: Result<Place, RepoError>) -> Result<Option<Record>, RepoError> {
    match place {
        Ok(Place::Entry(record)) => Ok(Some(record)),
        Ok(Place::Root(_)) | Err(RepoError::NoPath { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn entry(record: Option<&Record>) -> Result<Option<Entry<'_>>, RepoError> {
    record.map(Record::entry).transpose()
}

/// What makes a file the same under another name.
type Identity = (u64, u64, u64, Time, Option<Time>, Vec<u8>);

struct Diff<'d> {
    reader: &'d Reader<'d>,
    report: Report,
    gone: HashMap<Identity, Vec<(Vec<u8>, u64)>>,
    come: Vec<(Vec<u8>, Identity, u64)>,
}

impl Diff<'_> {
    fn directories(&mut self, path: &[u8], old: &ContentBuf, new: &ContentBuf) -> Result<(), RepoError> {
        // Iterative, as trees may be deeper than the stack.
        let mut todo = vec![(path.to_vec(), old.clone(), new.clone())];
        while let Some((path, old, new)) = todo.pop() {
            if old == new {
                continue;
            }
            let (old, new) = (self.reader.content(old.borrowed())?, self.reader.content(new.borrowed())?);
            let mut old = Entries::new(&old).peekable();
            let mut new = Entries::new(&new).peekable();
            loop {
                let name = |entry: Option<&Result<(_, Entry<'_>), _>>| match entry {
                    Some(Ok((_, entry))) => Some(entry.name.to_vec()),
                    _ => None,
                };
                let (left, right) = (name(old.peek()), name(new.peek()));
                let is_left = left.is_some() && (right.is_none() || left <= right);
                let is_right = right.is_some() && (left.is_none() || right <= left);
                let left = if is_left { old.next().transpose()? } else { None };
                let right = if is_right { new.next().transpose()? } else { None };
                match (left, right) {
                    (None, None) => break,
                    (Some((_, left)), None) => self.only(&path, &left, false)?,
                    (None, Some((_, right))) => self.only(&path, &right, true)?,
                    (Some((_, left)), Some((_, right))) => {
                        let path = join(&path, right.name);
                        if left.kind == Kind::Directory && right.kind == Kind::Directory {
                            todo.push((path.clone(), left.content.to_owned(), right.content.to_owned()));
                        }
                        self.entries(path, Some(&left), Some(&right))?;
                    }
                }
            }
            for rest in [old.next(), new.next()].into_iter().flatten() {
                rest?; // an entry that can't be read hid itself from the comparison
            }
        }
        Ok(())
    }

    /// Compares what is at `path` itself; of directories only what describes them.
    fn entries(
        &mut self,
        path: Vec<u8>,
        old: Option<&Entry<'_>>,
        new: Option<&Entry<'_>>,
    ) -> Result<(), RepoError> {
        match (old, new) {
            (Some(old), Some(new)) => {
                if old.kind != new.kind {
                    // What lay below a directory is gone with it, or has come with it.
                    self.below(path.clone(), old, false)?;
                    self.below(path.clone(), new, true)?;
                }
                self.both(path, old, new);
            }
            (Some(old), None) => self.one(path, old, false),
            (None, Some(new)) => self.one(path, new, true),
            (None, None) => {}
        }
        Ok(())
    }

    fn both(&mut self, path: Vec<u8>, old: &Entry<'_>, new: &Entry<'_>) {
        let bytes = |entry: &Entry<'_>| if entry.kind == Kind::File { entry.size } else { 0 };
        let change = if old.kind != new.kind {
            self.report.bytes_added += bytes(new);
            self.report.bytes_removed += bytes(old);
            Change::Kind
        } else if old.kind == Kind::File && (old.content != new.content || old.holes != new.holes) {
            self.report.bytes_added += new.size;
            self.report.bytes_removed += old.size;
            Change::Modified
        } else if old.target != new.target || old.device != new.device {
            Change::Modified
        } else if (old.mode, old.uid, old.gid, &old.xattrs) != (new.mode, new.uid, new.gid, &new.xattrs)
            || (old.kind != Kind::Directory && old.mtime != new.mtime)
        {
            Change::Attributes
        } else {
            return;
        };
        self.report.changes.insert(path, change);
    }

    /// Notes an entry that one side alone has, and all below it.
    fn only(&mut self, path: &[u8], entry: &Entry<'_>, is_new: bool) -> Result<(), RepoError> {
        let path = join(path, entry.name);
        self.one(path.clone(), entry, is_new);
        self.below(path, entry, is_new)
    }

    /// Notes all that lies below an entry at `path`, if it is a directory.
    fn below(&mut self, path: Vec<u8>, entry: &Entry<'_>, is_new: bool) -> Result<(), RepoError> {
        if entry.kind == Kind::Directory {
            let reader = self.reader;
            walk(reader, &entry.content.to_owned(), &mut Below { diff: self, prefix: path, is_new })?;
        }
        Ok(())
    }

    fn one(&mut self, path: Vec<u8>, entry: &Entry<'_>, is_new: bool) {
        if entry.kind != Kind::File {
            self.report.changes.insert(path, if is_new { Change::Added } else { Change::Removed });
            return;
        }
        let content = entry.content.list.to_vec();
        let identity = (entry.filesystem, entry.inode, entry.size, entry.mtime, entry.btime, content);
        match is_new {
            true => self.come.push((path, identity, entry.size)),
            false => self.gone.entry(identity).or_default().push((path, entry.size)),
        }
    }

    fn finish(mut self) -> Report {
        for (path, identity, bytes) in std::mem::take(&mut self.come) {
            let change = match self.gone.get_mut(&identity).and_then(Vec::pop) {
                Some((from, _)) => Change::Renamed(from),
                None => {
                    self.report.bytes_added += bytes;
                    Change::Added
                }
            };
            self.report.changes.insert(path, change);
        }
        for (path, bytes) in self.gone.into_values().flatten() {
            self.report.bytes_removed += bytes;
            self.report.changes.insert(path, Change::Removed);
        }
        self.report
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

struct Below<'b, 'd> {
    diff: &'b mut Diff<'d>,
    prefix: Vec<u8>,
    is_new: bool,
}

impl Visitor for Below<'_, '_> {
    fn entry(&mut self, path: &[u8], entry: &Entry<'_>) -> Result<Step, RepoError> {
        let record = Record::new(&{
            let mut bytes = Vec::new();
            crate::stage::tree::push(entry, &mut bytes).map_err(|e| RepoError::record(&"tree", e))?;
            bytes
        })?;
        self.diff.one(join(&self.prefix, path), &record.entry()?, self.is_new);
        Ok(Step::Into)
    }

    fn damaged(&mut self, _path: &[u8], error: RepoError) -> Result<(), RepoError> {
        Err(error)
    }
}
