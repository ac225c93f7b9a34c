//! `index.redb`: chunk id → pack, frame, offset, length. A cache: fragments rebuild it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bincode::{Decode, Encode};
use redb::{
    ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::base::id::{ChunkId, FragmentId, RepositoryId};
use crate::base::wire;
use crate::stage::index::error::{CacheError, failed};
use crate::stage::index::update::{Update, update_file};
use crate::stage::index::{Location, PackNumber, PackRow};

/// Where chunks lie: blocks of rows by ascending id, under [`block_of`] their ids. A page of redb holds one or two: a row
/// of redb's own for each chunk takes five times as long to write.
pub const CHUNKS: TableDefinition<u64, &[u8]> = TableDefinition::new("chunks");
/// Where else chunks lie: ids, each with a location behind it.
pub const COPIES: TableDefinition<[u8; ROW_BYTES], ()> = TableDefinition::new("copies");
/// Packs and how many chunks they hold, by number. A number is never given twice.
pub const PACKS: TableDefinition<u32, &[u8]> = TableDefinition::new("packs");
/// Numbers of the packs that a fragment lists.
pub const FRAGMENTS: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("fragments");
/// Fragments that another one replaces.
pub const REPLACED: TableDefinition<[u8; 32], ()> = TableDefinition::new("replaced");
/// What the cache is of.
pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Layout of the tables; another one is thrown away and rebuilt.
pub const SCHEMA: &[u8] = b"3";

/// Length of a location, in bytes.
const LOCATION_BYTES: usize = 14;
/// Length of a chunk's id and a location, in bytes: a row.
pub const ROW_BYTES: usize = ChunkId::BYTES + LOCATION_BYTES;

/// Most bits of an id that tell its block: 16 million blocks, of two thousand million chunks.
pub const BLOCK_BITS_MAX: u32 = 24;

/// Memory that redb may use for pages, in bytes. Little is enough: what is looked up in numbers is looked up
/// in the order of the pages, and the kernel keeps them too.
pub const PAGES_BYTES: usize = 8 << 20;

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
    replaced: BTreeSet<FragmentId>,
    is_empty: bool,
}

struct Tables {
    chunks: ReadOnlyTable<u64, &'static [u8]>,
    copies: ReadOnlyTable<[u8; ROW_BYTES], ()>,
    packs: ReadOnlyTable<u32, &'static [u8]>,
    blocks: Blocks,
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

    /// Returns whether another program's database lies at `path`.
    pub fn is_foreign(path: &Path) -> bool {
        let any = RepositoryId::from_bytes([0; RepositoryId::BYTES]);
        matches!(Self::open(path, any), Err(CacheError::Hindered { what }) if what == FOREIGN)
    }

    /// Returns the fragments whose packs are in the cache.
    pub fn fragments(&self) -> &BTreeSet<FragmentId> {
        &self.fragments
    }

    /// Returns fragments that count as absent because another one in the cache replaces them.
    pub fn replaced(&self) -> &BTreeSet<FragmentId> {
        &self.replaced
    }

    fn tables(&self) -> Result<&Tables, CacheError> {
        self.tables.as_ref().ok_or(CacheError::Absent)
    }

    /// Returns where a chunk lies. 2–5 µs; nothing for an empty cache. The pack may be one that no
    /// fragment lists any more: then it is not among [`Self::packs`], and [`Self::copies`] knows more.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn find(&self, id: &ChunkId) -> Result<Option<Location>, CacheError> {
        if self.is_empty {
            return Ok(None);
        }
        guarded(|| {
            let tables = self.tables()?;
            let block = tables.chunks.get(block_of(tables.blocks.bits, id)).map_err(failed)?;
            let Some(block) = block else { return Ok(None) };
            let rows = rows_of(block.value());
            let found = rows.binary_search_by(|row| row[..ChunkId::BYTES].cmp(id.as_bytes()));
            Ok(found.ok().map(|at| row_to(&rows[at]).1))
        })
    }

    /// Returns where else a chunk lies, under the same proviso.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn copies(&self, id: &ChunkId) -> Result<Vec<Location>, CacheError> {
        guarded(|| {
            let range = row_with(id, &[0; LOCATION_BYTES])..=row_with(id, &[0xff; LOCATION_BYTES]);
            let rows = self.tables()?.copies.range(range).map_err(failed)?;
            rows.map(|row| Ok(row_to(&row.map_err(failed)?.0.value()).1)).collect()
        })
    }

    /// Calls `visit` with every chunk and where it lies, by ascending id; then with all further copies.
    ///
    /// # Errors
    /// As [`Self::visit_once`].
    pub fn visit(&self, mut visit: impl FnMut(ChunkId, Location)) -> Result<(), CacheError> {
        self.visit_once(&mut visit)?;
        guarded(|| {
            for copy in self.tables()?.copies.iter().map_err(failed)? {
                let (chunk, location) = row_to(&copy.map_err(failed)?.0.value());
                visit(chunk, location);
            }
            Ok(())
        })
    }

    /// Calls `visit` with every chunk and one place where it lies, by ascending id. The pack may be one that no
    /// fragment lists any more.
    ///
    /// # Errors
    /// [`CacheError::Failed`], also if a chunk stands where it would not be found.
    pub fn visit_once(&self, mut visit: impl FnMut(ChunkId, Location)) -> Result<(), CacheError> {
        guarded(|| {
            let tables = self.tables()?;
            let mut last = None;
            for block in tables.chunks.iter().map_err(failed)? {
                let (key, block) = block.map_err(failed)?;
                for row in rows_of(block.value()) {
                    let (chunk, location) = row_to(row);
                    if block_of(tables.blocks.bits, &chunk) != key.value()
                        || last.replace(chunk) >= Some(chunk)
                    {
                        return Err(CacheError::Failed {
                            what: "a chunk is not where it belongs".to_owned(),
                        });
                    }
                    visit(chunk, location);
                }
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
            let rows = self.tables()?.packs.iter().map_err(failed)?;
            let rows = rows.map(|row| {
                let (number, bytes) = row.map_err(failed)?;
                Ok((PackNumber(number.value()), decode_pack(bytes.value())?.0))
            });
            rows.collect()
        })
    }

    /// Returns whether so many rows lead to packs that are listed no more that it should be made anew.
    ///
    /// # Errors
    /// [`CacheError::Failed`].
    pub fn is_worn(&self) -> Result<bool, CacheError> {
        guarded(|| {
            let tables = self.tables()?;
            let rows = tables.blocks.rows + tables.copies.len().map_err(failed)?;
            let mut listed = 0;
            for row in tables.packs.iter().map_err(failed)? {
                listed += decode_pack(row.map_err(failed)?.1.value())?.1;
            }
            Ok(rows > 10_000 + listed + listed / 2)
        })
    }

    /// Brings the cache at `path` up to date in one transaction, in key order; makes it if there is none.
    ///
    /// # Errors
    /// [`CacheError`]; the cache is as it was.
    pub fn update(path: &Path, repository: RepositoryId, update: &Update<'_>) -> Result<(), CacheError> {
        guarded(|| update_file(path, repository, update))
    }
}

/// What is said of a file of redb's that this program has not made.
pub const FOREIGN: &str =
    "another program's database lies there, and stays as it is; name another file with --index";

/// Opening a FIFO would wait for its other end.
///
/// # Errors
/// [`CacheError::Hindered`].
pub fn refuse_pipe(path: &Path) -> Result<(), CacheError> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo()) {
        true => Err(CacheError::Hindered { what: "it is a FIFO, and no file".to_owned() }),
        false => Ok(()),
    }
}

fn open(path: &Path, repository: RepositoryId) -> Result<Cache, CacheError> {
    if std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() == 0) {
        return Err(CacheError::Absent); // somebody is about to make it, or was killed then
    }
    refuse_pipe(path)?;
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
    let meta = match read.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_))
            if read.list_tables().map_err(failed)?.next().is_some() =>
        {
            return Err(CacheError::Hindered { what: FOREIGN.to_owned() });
        }
        meta => meta.map_err(failed)?,
    };
    let is = |key: &str, value: &[u8]| -> Result<bool, CacheError> {
        Ok(meta.get(key).map_err(failed)?.is_some_and(|found| found.value() == value))
    };
    if !is("schema", SCHEMA)? || !is("repository", repository.as_bytes())? {
        return Err(CacheError::Absent);
    }
    let mut fragments = BTreeSet::new();
    for row in read.open_table(FRAGMENTS).map_err(failed)?.iter().map_err(failed)? {
        fragments.insert(FragmentId::from_bytes(row.map_err(failed)?.0.value()));
    }
    let mut replaced = BTreeSet::new();
    for row in read.open_table(REPLACED).map_err(failed)?.iter().map_err(failed)? {
        replaced.insert(FragmentId::from_bytes(row.map_err(failed)?.0.value()));
    }
    let chunks = read.open_table(CHUNKS).map_err(failed)?;
    let copies = read.open_table(COPIES).map_err(failed)?;
    let is_empty = chunks.first().map_err(failed)?.is_none();
    let blocks = blocks_in(&meta)?;
    for end in [chunks.first(), chunks.last()] {
        let key = end.map_err(failed)?.map(|(key, _)| key.value());
        if key.is_some_and(|key| key >> u32::BITS != u64::from(blocks.bits)) {
            return Err(CacheError::Failed { what: "its blocks are not those that it says".to_owned() });
        }
    }
    let packs = read.open_table(PACKS).map_err(failed)?;
    let tables = Some(Tables { chunks, copies, packs, blocks, _database: database });
    Ok(Cache { tables, fragments, replaced, is_empty })
}

/// Reads a record of the cache.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, CacheError> {
    wire::decode(bytes).map_err(|e| CacheError::Failed { what: e.to_string() })
}

/// Reads a pack and how many chunks it holds.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn decode_pack(bytes: &[u8]) -> Result<(PackRow, u64), CacheError> {
    decode(bytes)
}

/// The blocks of [`CHUNKS`].
#[derive(Clone, Copy, Debug, Default, Encode, Decode)]
pub struct Blocks {
    /// How many bits of an id tell its block: ids are evenly spread, for they are hashes under a key.
    pub bits: u32,
    /// How many rows they have together.
    pub rows: u64,
}

/// Returns what blocks there are.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn blocks_in(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Blocks, CacheError> {
    let blocks: Option<Blocks> =
        meta.get("blocks").map_err(failed)?.map(|blocks| decode(blocks.value())).transpose()?;
    match blocks.unwrap_or_default() {
        blocks if blocks.bits <= BLOCK_BITS_MAX => Ok(blocks),
        _ => Err(CacheError::Failed { what: "more blocks than there can be".to_owned() }),
    }
}

/// Returns the key of the block where an id belongs.
pub fn block_of(bits: u32, id: &ChunkId) -> u64 {
    let [a, b, c, d, ..] = *id.as_bytes();
    block_key(bits, u64::from(u32::from_be_bytes([a, b, c, d])) >> (u32::BITS - bits))
}

/// Returns the key of the block of this number; before and after there come to be more of them, keys differ.
pub fn block_key(bits: u32, number: u64) -> u64 {
    u64::from(bits) << u32::BITS | number
}

/// Returns the rows of a block.
pub fn rows_of(block: &[u8]) -> &[[u8; ROW_BYTES]] {
    block.as_chunks().0
}

/// Returns the id in a row.
pub fn id_in(row: &[u8; ROW_BYTES]) -> ChunkId {
    let mut id = [0; ChunkId::BYTES];
    id.copy_from_slice(&row[..ChunkId::BYTES]);
    ChunkId::from_bytes(id)
}

/// Returns where a chunk lies as the cache holds it.
pub fn row_of(id: &ChunkId, location: &Location) -> [u8; ROW_BYTES] {
    let mut place = [0; LOCATION_BYTES];
    place[0..4].copy_from_slice(&location.pack.0.to_le_bytes());
    place[4..6].copy_from_slice(&location.frame.to_le_bytes());
    place[6..10].copy_from_slice(&location.offset.to_le_bytes());
    place[10..14].copy_from_slice(&location.bytes.to_le_bytes());
    row_with(id, &place)
}

fn row_with(id: &ChunkId, place: &[u8; LOCATION_BYTES]) -> [u8; ROW_BYTES] {
    let mut out = [0; ROW_BYTES];
    out[..ChunkId::BYTES].copy_from_slice(id.as_bytes());
    out[ChunkId::BYTES..].copy_from_slice(place);
    out
}

/// Undoes [`row_of`].
fn row_to(row: &[u8; ROW_BYTES]) -> (ChunkId, Location) {
    let mut place = [0; LOCATION_BYTES];
    place.copy_from_slice(&row[ChunkId::BYTES..]);
    let u32_at = |at: usize| u32::from_le_bytes([place[at], place[at + 1], place[at + 2], place[at + 3]]);
    let location = Location {
        pack: PackNumber(u32_at(0)),
        frame: u16::from_le_bytes([place[4], place[5]]),
        offset: u32_at(6),
        bytes: u32_at(10),
    };
    (id_in(row), location)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::content::ChunkRef;
    use crate::base::directory::{Directory, FrameRow};
    use crate::base::id::PackId;
    use crate::stage::index::PackEntry;
    use crate::stage::index::update::{insert_rows, list_packs, make_room};
    use crate::stage::index::{EachFragment, Fragment};

    fn fragment(seed: u8) -> Fragment {
        let mut directory = Directory::default();
        let chunks: Vec<ChunkRef> =
            (0..5).map(|n| ChunkRef { id: ChunkId::from_bytes([seed ^ n; 16]), bytes: 7 }).collect();
        directory.push(FrameRow { offset: 9, bytes: 99, raw_bytes: 35, chunk_count: 5 }, &chunks);
        let pack = PackEntry { id: PackId::from_bytes([seed; 32]), bytes: 1000, directory };
        Fragment { packs: vec![pack], replaces: vec![] }
    }

    fn update(path: &Path, added: &[(FragmentId, Fragment)], gone: &[FragmentId], from_scratch: bool) {
        let repository = RepositoryId::from_bytes([1; 16]);
        let added = |each: &mut EachFragment<'_>| {
            added.iter().for_each(|(id, f)| each(*id, f));
            Ok(())
        };
        let gone = gone.iter().copied().collect();
        Cache::update(path, repository, &Update { added: &added, gone: &gone, from_scratch }).unwrap();
    }

    fn id(n: u8) -> FragmentId {
        FragmentId::from_bytes([n; 32])
    }

    fn chunk(n: u8) -> ChunkId {
        ChunkId::from_bytes([n; 16])
    }

    #[test]
    fn added_fragments_are_found_in_later_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let repository = RepositoryId::from_bytes([1; 16]);
        assert!(matches!(Cache::open(&path, repository), Err(CacheError::Absent)));
        update(&path, &[(id(1), fragment(0x10))], &[], false);
        update(&path, &[(id(2), fragment(0x20))], &[], false);
        let cache = Cache::open(&path, repository).unwrap();
        let found = cache.find(&chunk(0x22)).unwrap().unwrap();
        assert_eq!(found, Location { pack: PackNumber(1), frame: 0, offset: 14, bytes: 7 });
        assert_eq!(cache.fragments().len(), 2);
        assert_eq!(cache.find(&chunk(0x99)).unwrap(), None);
        assert_eq!(cache.packs().unwrap()[1].1, fragment(0x20).packs[0].row());
        let nothing = Update { added: &|_| Ok(()), gone: &BTreeSet::new(), from_scratch: false };
        assert!(matches!(Cache::update(&path, repository, &nothing), Err(CacheError::Busy)));
        drop(cache);
        update(&path, &[(id(3), fragment(0x30))], &[], true);
        let cache = Cache::open(&path, repository).unwrap();
        assert_eq!(cache.find(&chunk(0x22)).unwrap(), None, "from scratch");
        let other = RepositoryId::from_bytes([2; 16]);
        assert!(matches!(Cache::open(&path, other), Err(CacheError::Absent)), "another repository's");
    }

    #[test]
    fn a_replaced_fragment_takes_its_packs_with_it_and_other_copies_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let mut both = fragment(0x10);
        both.packs.extend(fragment(0x20).packs);
        let mut copy = fragment(0x20); // the same chunks in another pack
        copy.packs[0].id = PackId::from_bytes([0x77; 32]);
        update(&path, &[(id(1), both), (id(2), copy)], &[], false);
        let mut new = fragment(0x10);
        new.replaces = vec![id(1)];
        update(&path, &[(id(3), new)], &[], false);
        let cache = Cache::open(&path, RepositoryId::from_bytes([1; 16])).unwrap();
        assert_eq!(*cache.fragments(), BTreeSet::from([id(2), id(3)]));
        assert_eq!(*cache.replaced(), BTreeSet::from([id(1)]));
        let listed: Vec<PackNumber> = cache.packs().unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(listed, [PackNumber(0), PackNumber(2)], "numbers stay");
        let mut places = cache.copies(&chunk(0x22)).unwrap();
        places.extend(cache.find(&chunk(0x22)).unwrap());
        let packs: BTreeSet<PackNumber> = places.into_iter().map(|place| place.pack).collect();
        assert_eq!(packs, BTreeSet::from([PackNumber(1), PackNumber(2)]));
        drop(cache);
        update(&path, &[(id(4), fragment(0x40))], &[id(1), id(2)], false);
        let cache = Cache::open(&path, RepositoryId::from_bytes([1; 16])).unwrap();
        assert!(cache.replaced().is_empty());
        assert_eq!(cache.find(&chunk(0x42)).unwrap().unwrap().pack, PackNumber(3), "no number comes twice");
    }

    #[test]
    fn many_rows_are_added_in_several_passes_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let repository = RepositoryId::from_bytes([1; 16]);
        update(&path, &[(id(1), fragment(0x10))], &[], false);
        let write_again = |passes| {
            let added = |each: &mut EachFragment<'_>| {
                (0..=250u8).for_each(|n| each(id(n), &fragment(n)));
                Ok(())
            };
            let gone = BTreeSet::new();
            let update = Update { added: &added, gone: &gone, from_scratch: true };
            let database = redb::Database::create(folder.path().join("other.redb")).unwrap();
            let write = database.begin_write().unwrap();
            let new = list_packs(&write, &update).unwrap();
            let bits = make_room(&write, 1255).unwrap();
            for pass in 0..passes {
                insert_rows(&write, &update, &new, bits, (pass, passes)).unwrap();
            }
            let rows = blocks_in(&write.open_table(META).unwrap()).unwrap().rows;
            let blocks = write.open_table(CHUNKS).unwrap();
            let found: usize =
                blocks.iter().unwrap().map(|block| rows_of(block.unwrap().1.value()).len()).sum();
            assert_eq!(found as u64, rows);
            rows + write.open_table(COPIES).unwrap().len().unwrap()
        };
        assert_eq!((write_again(1), write_again(3), write_again(7)), (1255, 1255, 1255));
        assert!(!Cache::open(&path, repository).unwrap().is_worn().unwrap());
    }

    #[test]
    fn every_chunk_is_found_while_blocks_become_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let repository = RepositoryId::from_bytes([1; 16]);
        let mut expected = std::collections::BTreeMap::new();
        let mut copies = 0;
        let mut stream = blake3::Hasher::new().finalize_xof();
        for (number, count) in [3, 1, 2000, 1, 400, 0, 5000, 130, 1, 1].into_iter().enumerate() {
            let mut chunks: Vec<ChunkRef> = Vec::new();
            for n in 0..count {
                let mut id = [0; 16];
                stream.fill(&mut id);
                match n % 50 {
                    0 => id[0] = 0, // below all others, often
                    1 => id = [0x80; 16].map(|byte| byte ^ (number as u8 & 1)),
                    _ => {}
                }
                chunks.push(ChunkRef { id: ChunkId::from_bytes(id), bytes: n });
            }
            let mut directory = Directory::default();
            let row = FrameRow { offset: 9, bytes: 99, raw_bytes: 35, chunk_count: count };
            directory.push(row, &chunks);
            let pack = PackEntry { id: PackId::from_bytes([number as u8; 32]), bytes: 1000, directory };
            for chunk in &chunks {
                copies += u64::from(expected.insert(chunk.id, number as u32).is_some());
            }
            update(
                &path,
                &[(id(number as u8), Fragment { packs: vec![pack], replaces: vec![] })],
                &[],
                false,
            );
            let cache = Cache::open(&path, repository).unwrap();
            for (chunk, pack) in &expected {
                assert_eq!(cache.find(chunk).unwrap().unwrap().pack, PackNumber(*pack), "{number}");
            }
            assert_eq!(cache.find(&ChunkId::from_bytes([0xff; 16])).unwrap(), None);
            assert_eq!(cache.tables().unwrap().blocks.rows, expected.len() as u64);
            let mut visited = 0;
            cache.visit(|_, _| visited += 1).unwrap();
            assert_eq!(visited, expected.len() as u64 + copies);
        }
        assert!(copies > 100);
    }

    #[test]
    fn a_cache_that_says_wrong_how_many_blocks_it_has_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        update(&path, &[(id(1), fragment(0x10))], &[], false);
        let spoil = |blocks: Blocks| {
            let database = redb::Database::open(&path).unwrap();
            let write = database.begin_write().unwrap();
            let mut meta = write.open_table(META).unwrap();
            meta.insert("blocks", wire::encode(&blocks).unwrap().as_slice()).unwrap();
            drop(meta);
            write.commit().unwrap();
            drop(database);
            Cache::open(&path, RepositoryId::from_bytes([1; 16])).map(drop)
        };
        assert!(spoil(Blocks { bits: 0, rows: 5 }).is_ok());
        assert!(matches!(spoil(Blocks { bits: 3, rows: 5 }), Err(CacheError::Failed { .. })));
        assert!(matches!(spoil(Blocks { bits: 60, rows: 5 }), Err(CacheError::Failed { .. })));
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
