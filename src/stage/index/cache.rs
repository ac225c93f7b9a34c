//! `index.redb`: chunk id → pack, frame, offset, length. A cache: fragments rebuild it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use crate::base::id::{ChunkId, FragmentId, PackId, RepositoryId};
use crate::base::wire;
use crate::stage::index::{Fragment, Location, PackNumber, PackRow};

const CHUNKS: TableDefinition<[u8; ChunkId::BYTES], [u8; 14]> = TableDefinition::new("chunks");
const PACKS: TableDefinition<u32, &[u8]> = TableDefinition::new("packs");
const FRAGMENTS: TableDefinition<[u8; 32], ()> = TableDefinition::new("fragments");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Layout of the tables; another one is thrown away and rebuilt.
const SCHEMA: &[u8] = b"1";

/// Memory that redb may use for pages, in bytes.
const PAGES_BYTES: usize = 32 << 20;

/// Why the cache can't be used. It can always be deleted and rebuilt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Another process has it open. May be retried.
    #[error("index cache: open in another process")]
    Busy,
    /// There is none yet, or it has another layout or belongs to another repository.
    #[error("index cache: not there, or not this repository's")]
    Absent,
    /// redb could not read or write it.
    #[error("index cache: {what}")]
    Failed {
        /// What redb said.
        what: String,
    },
}

fn failed(error: impl Into<redb::Error>) -> CacheError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => CacheError::Busy,
        redb::Error::TableDoesNotExist(_) => CacheError::Absent,
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::NotFound => CacheError::Absent,
        other => CacheError::Failed { what: other.to_string() },
    }
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is inside redb, whose panics are caught: a panic hook may be silent.
pub fn is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs `act`; redb panics on some damaged pages, and that is an error like any other. The caller
/// uses nothing afterwards that `act` may have left half-changed.
fn guarded<R>(act: impl FnOnce() -> Result<R, CacheError>) -> Result<R, CacheError> {
    let outer = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(act));
    IS_GUARDED.set(outer);
    result.unwrap_or_else(|_| Err(CacheError::Failed { what: "its pages make no sense".to_owned() }))
}

/// An open cache, as it was when it was opened.
pub struct Cache {
    /// None only while it is dropped.
    tables: Option<Tables>,
    fragments: BTreeSet<FragmentId>,
    is_empty: bool,
}

struct Tables {
    chunks: ReadOnlyTable<[u8; ChunkId::BYTES], [u8; 14]>,
    packs: ReadOnlyTable<u32, &'static [u8]>,
    _database: ReadOnlyDatabase,
}

impl Drop for Cache {
    fn drop(&mut self) {
        let tables = self.tables.take();
        let _ = guarded(|| {
            drop(tables);
            Ok(())
        });
    }
}

impl Cache {
    /// Opens the cache of `repository` at `path` to read. Several processes may.
    ///
    /// # Errors
    /// [`CacheError`]; nothing was changed.
    pub fn open(path: &Path, repository: RepositoryId) -> Result<Self, CacheError> {
        guarded(|| open(path, repository))
    }

    /// Returns the fragments whose packs are in the cache.
    pub fn fragments(&self) -> &BTreeSet<FragmentId> {
        &self.fragments
    }

    fn tables(&self) -> Result<&Tables, CacheError> {
        self.tables.as_ref().ok_or(CacheError::Absent)
    }

    /// Returns where a chunk lies. 2–5 µs; nothing for an empty cache.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn find(&self, id: &ChunkId) -> Result<Option<Location>, CacheError> {
        if self.is_empty {
            return Ok(None);
        }
        guarded(|| {
            let found = self.tables()?.chunks.get(*id.as_bytes()).map_err(failed)?;
            Ok(found.map(|value| unpack(&value.value())))
        })
    }

    /// Calls `visit` with every chunk and where it lies, by ascending id.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn visit(&self, mut visit: impl FnMut(ChunkId, Location)) -> Result<(), CacheError> {
        guarded(|| {
            for row in self.tables()?.chunks.iter().map_err(failed)? {
                let (id, value) = row.map_err(failed)?;
                visit(ChunkId::from_bytes(id.value()), unpack(&value.value()));
            }
            Ok(())
        })
    }

    /// Returns all packs, by number.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn packs(&self) -> Result<Vec<(PackNumber, PackRow)>, CacheError> {
        guarded(|| {
            let mut rows = Vec::new();
            for row in self.tables()?.packs.iter().map_err(failed)? {
                let (number, bytes) = row.map_err(failed)?;
                let row =
                    wire::decode(bytes.value()).map_err(|e| CacheError::Failed { what: e.to_string() })?;
                rows.push((PackNumber(number.value()), row));
            }
            Ok(rows)
        })
    }

    /// Adds fragments to the cache at `path` in one transaction, in key order; makes the cache if
    /// there is none. With `from_scratch`, what was there goes first.
    ///
    /// # Errors
    /// [`CacheError`]; the cache is as it was.
    pub fn add(
        path: &Path,
        repository: RepositoryId,
        fragments: &[(FragmentId, Fragment)],
        from_scratch: bool,
    ) -> Result<(), CacheError> {
        guarded(|| add(path, repository, fragments, from_scratch))
    }
}

fn open(path: &Path, repository: RepositoryId) -> Result<Cache, CacheError> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(PAGES_BYTES);
    let database = match builder.open_read_only(path) {
        // A run was killed while it wrote: who may write puts it in order, in 0.05 s.
        Err(redb::DatabaseError::RepairAborted) => {
            drop(builder.open(path).map_err(failed)?);
            builder.open_read_only(path).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    let read = database.begin_read().map_err(failed)?;
    let meta = read.open_table(META).map_err(failed)?;
    let is = |key: &str, value: &[u8]| -> Result<bool, CacheError> {
        Ok(meta.get(key).map_err(failed)?.is_some_and(|found| found.value() == value))
    };
    if !is("schema", SCHEMA)? || !is("repository", repository.as_bytes())? {
        return Err(CacheError::Absent);
    }
    let table = read.open_table(FRAGMENTS).map_err(failed)?;
    let mut fragments = BTreeSet::new();
    for row in table.iter().map_err(failed)? {
        fragments.insert(FragmentId::from_bytes(row.map_err(failed)?.0.value()));
    }
    let chunks = read.open_table(CHUNKS).map_err(failed)?;
    let is_empty = chunks.first().map_err(failed)?.is_none();
    let packs = read.open_table(PACKS).map_err(failed)?;
    Ok(Cache { tables: Some(Tables { chunks, packs, _database: database }), fragments, is_empty })
}

fn add(
    path: &Path,
    repository: RepositoryId,
    fragments: &[(FragmentId, Fragment)],
    from_scratch: bool,
) -> Result<(), CacheError> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(PAGES_BYTES);
    let database = builder.create(path).map_err(failed)?;
    let mut write = database.begin_write().map_err(failed)?;
    write.set_quick_repair(true);
    let is_foreign = {
        let meta = write.open_table(META).map_err(failed)?;
        let kept = meta.get("repository").map_err(failed)?;
        kept.is_some_and(|kept| kept.value() != repository.as_bytes())
    };
    if from_scratch || is_foreign {
        write.delete_table(CHUNKS).map_err(failed)?;
        write.delete_table(PACKS).map_err(failed)?;
        write.delete_table(FRAGMENTS).map_err(failed)?;
    }
    {
        let mut meta = write.open_table(META).map_err(failed)?;
        meta.insert("schema", SCHEMA).map_err(failed)?;
        meta.insert("repository", repository.as_bytes().as_slice()).map_err(failed)?;
        let mut known = write.open_table(FRAGMENTS).map_err(failed)?;
        let mut packs = write.open_table(PACKS).map_err(failed)?;
        let mut next = packs.last().map_err(failed)?.map_or(0, |(number, _)| number.value() + 1);
        let mut rows = Vec::with_capacity(
            fragments.iter().flat_map(|(_, f)| &f.packs).map(|p| p.directory.chunk_count()).sum(),
        );
        let mut seen: BTreeSet<PackId> = BTreeSet::new();
        for (id, fragment) in fragments {
            known.insert(id.as_bytes(), ()).map_err(failed)?;
            for pack in fragment.packs.iter().filter(|pack| seen.insert(pack.id)) {
                let row =
                    wire::encode(&pack.row()).map_err(|e| CacheError::Failed { what: e.to_string() })?;
                packs.insert(next, row.as_slice()).map_err(failed)?;
                pack.locations(PackNumber(next), |chunk, location| rows.push((chunk, location)));
                next += 1;
            }
        }
        rows.sort_unstable();
        let mut chunks = write.open_table(CHUNKS).map_err(failed)?;
        for (chunk, location) in &rows {
            chunks.insert(chunk.as_bytes(), pack_up(location)).map_err(failed)?;
        }
    }
    write.commit().map_err(failed)
}

/// Returns a location as the cache holds it.
fn pack_up(location: &Location) -> [u8; 14] {
    let mut out = [0; 14];
    out[0..4].copy_from_slice(&location.pack.0.to_le_bytes());
    out[4..6].copy_from_slice(&location.frame.to_le_bytes());
    out[6..10].copy_from_slice(&location.offset.to_le_bytes());
    out[10..14].copy_from_slice(&location.bytes.to_le_bytes());
    out
}

/// Undoes [`pack_up`].
fn unpack(bytes: &[u8; 14]) -> Location {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Location {
        pack: PackNumber(u32_at(0)),
        frame: u16::from_le_bytes([bytes[4], bytes[5]]),
        offset: u32_at(6),
        bytes: u32_at(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::directory::{Directory, FrameRow};
    use crate::stage::index::PackEntry;

    fn fragment(seed: u8) -> Fragment {
        let mut directory = Directory::default();
        let chunks: Vec<ChunkRef> =
            (0..5).map(|n| ChunkRef { id: ChunkId::from_bytes([seed ^ n; 16]), bytes: 7 }).collect();
        directory.push(FrameRow { offset: 9, bytes: 99, raw_bytes: 35, chunk_count: 5 }, &chunks);
        let pack = PackEntry { id: PackId::from_bytes([seed; 32]), bytes: 1000, directory };
        Fragment { packs: vec![pack], replaces: vec![] }
    }

    #[test]
    fn added_fragments_are_found_in_later_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let repository = RepositoryId::from_bytes([1; 16]);
        assert!(matches!(Cache::open(&path, repository), Err(CacheError::Absent)));
        let id = |n: u8| FragmentId::from_bytes([n; 32]);
        Cache::add(&path, repository, &[(id(1), fragment(0x10))], false).unwrap();
        Cache::add(&path, repository, &[(id(2), fragment(0x20))], false).unwrap();
        let cache = Cache::open(&path, repository).unwrap();
        let found = cache.find(&ChunkId::from_bytes([0x22; 16])).unwrap().unwrap();
        assert_eq!(found, Location { pack: PackNumber(1), frame: 0, offset: 14, bytes: 7 });
        assert_eq!(cache.fragments().len(), 2);
        assert_eq!(cache.find(&ChunkId::from_bytes([0x99; 16])).unwrap(), None);
        assert_eq!(cache.packs().unwrap()[1].1, fragment(0x20).packs[0].row());
        assert!(matches!(Cache::add(&path, repository, &[], false), Err(CacheError::Busy)));
        drop(cache);
        Cache::add(&path, repository, &[(id(3), fragment(0x30))], true).unwrap();
        let cache = Cache::open(&path, repository).unwrap();
        assert_eq!(cache.find(&ChunkId::from_bytes([0x22; 16])).unwrap(), None, "from scratch");
        let other = RepositoryId::from_bytes([2; 16]);
        assert!(matches!(Cache::open(&path, other), Err(CacheError::Absent)), "another repository's");
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "spoils a file on purpose")]
    fn a_file_that_is_no_cache_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        std::fs::write(&path, b"not a database").unwrap();
        assert!(Cache::open(&path, RepositoryId::from_bytes([1; 16])).is_err());
    }
}
