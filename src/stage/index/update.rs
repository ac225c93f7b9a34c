//! Bringing the cache up to date: what fragments list goes in, what none lists any more is let go.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::path::Path;

use redb::{ReadableTable, WriteTransaction};

use crate::base::id::{ChunkId, FragmentId, PackId, RepositoryId};
use crate::base::wire;
use crate::stage::index::cache::{
    CHUNKS, COPIES, CacheError, FRAGMENTS, META, PACKS, PAGES_BYTES, REPLACED, ROW_BYTES, SCHEMA, decode,
    decode_pack, failed, id_in, row_of, rows_in, rows_of,
};
use crate::stage::index::{Fragment, Location, PackNumber};

/// Rows that are sorted at a time: 64 MB.
const ROWS_MAX: usize = 2_000_000;

/// Most rows of a block: one fits into a page of redb's, of 4096 bytes.
const BLOCK_ROWS_MAX: usize = 128;

/// Rows of a block that is made of many: there is room for some more.
const BLOCK_ROWS: usize = 112;

/// Key of a block.
type Key = [u8; ChunkId::BYTES];

/// Takes fragments one by one.
pub type EachFragment<'e> = dyn FnMut(FragmentId, &Fragment) + 'e;

/// What has changed since the cache was brought up to date.
pub struct Update<'u> {
    /// Gives every fragment that is to be added, those that count; called several times, and gives the
    /// same ones each time.
    pub added: &'u dyn Fn(&mut EachFragment<'_>),
    /// Fragments that are gone.
    pub gone: &'u BTreeSet<FragmentId>,
    /// Whether what is in the cache goes first.
    pub from_scratch: bool,
}

/// See [`Cache::update`](crate::stage::index::Cache::update).
///
/// # Errors
/// [`CacheError`]; nothing was changed.
pub fn update_file(path: &Path, repository: RepositoryId, update: &Update<'_>) -> Result<(), CacheError> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(PAGES_BYTES);
    let database = builder.create(path).map_err(failed)?;
    let mut write = database.begin_write().map_err(failed)?;
    write.set_quick_repair(true);
    let is_fit = {
        let meta = write.open_table(META).map_err(failed)?;
        let is = |key: &str, value: &[u8]| -> Result<bool, CacheError> {
            Ok(meta.get(key).map_err(failed)?.is_some_and(|found| found.value() == value))
        };
        is("repository", repository.as_bytes())? && is("schema", SCHEMA)?
    };
    if update.from_scratch || !is_fit {
        for table in write.list_tables().map_err(failed)?.collect::<Vec<_>>() {
            write.delete_table(table).map_err(failed)?;
        }
    }
    {
        let mut meta = write.open_table(META).map_err(failed)?;
        meta.insert("schema", SCHEMA).map_err(failed)?;
        meta.insert("repository", repository.as_bytes().as_slice()).map_err(failed)?;
    }
    let new = list_packs(&write, update)?;
    let passes = new.values().map(|pack| pack.chunks).sum::<usize>().div_ceil(ROWS_MAX);
    for pass in 0..passes {
        insert_rows(&write, update, &new, (pass, passes))?;
    }
    write.commit().map_err(failed)
}

/// A pack that the cache did not have.
pub struct NewPack {
    number: PackNumber,
    chunks: usize,
}

/// Brings the tables of fragments and packs up to date; returns the packs that are new.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn list_packs(
    write: &WriteTransaction,
    update: &Update<'_>,
) -> Result<HashMap<PackId, NewPack>, CacheError> {
    let mut known = write.open_table(FRAGMENTS).map_err(failed)?;
    let mut replaced = write.open_table(REPLACED).map_err(failed)?;
    let mut packs = write.open_table(PACKS).map_err(failed)?;
    let mut meta = write.open_table(META).map_err(failed)?;
    let mut numbers: HashMap<PackId, u32> = HashMap::new();
    for row in packs.iter().map_err(failed)? {
        let (number, bytes) = row.map_err(failed)?;
        numbers.insert(decode_pack(bytes.value())?.0.id, number.value());
    }
    let mut next: u32 = match meta.get("next").map_err(failed)? {
        Some(bytes) => decode(bytes.value())?,
        None => 0,
    };
    let mut new = HashMap::new();
    let mut result = Ok(());
    (update.added)(&mut |id, fragment| {
        if result.is_err() {
            return;
        }
        result = (|| {
            let mut own = Vec::with_capacity(fragment.packs.len());
            for pack in &fragment.packs {
                let number = *numbers.entry(pack.id).or_insert(next);
                if number == next {
                    let chunks = pack.directory.chunk_count();
                    packs.insert(next, encode(&(pack.row(), chunks as u64))?.as_slice()).map_err(failed)?;
                    new.insert(pack.id, NewPack { number: PackNumber(next), chunks });
                    next += 1;
                }
                own.push(number);
            }
            known.insert(id.as_bytes(), encode(&own)?.as_slice()).map_err(failed)?;
            for old in &fragment.replaces {
                known.remove(old.as_bytes()).map_err(failed)?;
                replaced.insert(old.as_bytes(), ()).map_err(failed)?;
            }
            Ok(())
        })();
    });
    result?;
    for id in update.gone {
        known.remove(id.as_bytes()).map_err(failed)?;
        replaced.remove(id.as_bytes()).map_err(failed)?;
    }
    meta.insert("next", encode(&next)?.as_slice()).map_err(failed)?;
    let mut listed: BTreeSet<u32> = BTreeSet::new();
    for row in known.iter().map_err(failed)? {
        listed.extend(decode::<Vec<u32>>(row.map_err(failed)?.1.value())?);
    }
    packs.retain(|number, _| listed.contains(&number)).map_err(failed)?;
    Ok(new)
}

/// Adds the chunks of new packs whose ids lie in the given part of all ids.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn insert_rows(
    write: &WriteTransaction,
    update: &Update<'_>,
    new: &HashMap<PackId, NewPack>,
    (pass, passes): (usize, usize),
) -> Result<(), CacheError> {
    let part = |id: &ChunkId| {
        let first = usize::from(u16::from_be_bytes([id.as_bytes()[0], id.as_bytes()[1]]));
        first * passes / (1 << 16)
    };
    let mut rows = Vec::new();
    let mut seen = BTreeSet::new();
    (update.added)(&mut |_, fragment| {
        for pack in &fragment.packs {
            if let Some(NewPack { number, .. }) = new.get(&pack.id)
                && seen.insert(pack.id)
            {
                pack.locations(*number, |chunk, location| {
                    if part(&chunk) == pass {
                        rows.push((chunk, location));
                    }
                });
            }
        }
    });
    rows.sort_unstable();
    let mut meta = write.open_table(META).map_err(failed)?;
    let total = rows_in(&meta)? + insert_blocks(write, &rows)?;
    meta.insert("rows", encode(&total)?.as_slice()).map_err(failed)?;
    Ok(())
}

/// Adds rows, which ascend, to the blocks where they belong; returns how many more rows there are. A chunk that has
/// a row already gets the new one, and the old one is a copy.
fn insert_blocks(write: &WriteTransaction, mut rows: &[(ChunkId, Location)]) -> Result<u64, CacheError> {
    let mut chunks = write.open_table(CHUNKS).map_err(failed)?;
    let mut copies = write.open_table(COPIES).map_err(failed)?;
    let mut more = 0;
    let mut old = Vec::new();
    let mut block = Vec::with_capacity(BLOCK_ROWS_MAX);
    while let Some((first, _)) = rows.first() {
        let (key, next) = block_of(&chunks, first, &mut old)?;
        let count = next.map_or(rows.len(), |next| rows.partition_point(|(id, _)| *id.as_bytes() < next));
        let (new, others) = rows.split_at(count);
        rows = others;
        more += new.len();
        if let Some(key) = key {
            chunks.remove(key).map_err(failed)?;
        }
        let total = old.len() + new.len();
        let blocks = if total <= BLOCK_ROWS_MAX { 1 } else { total.div_ceil(BLOCK_ROWS) };
        let mut merged = merge(&old, new).peekable();
        while let Some(row) = merged.next() {
            let is_last = match merged.peek() {
                Some(next) if id_in(next) == id_in(&row) => {
                    copies.insert(row, ()).map_err(failed)?;
                    more -= 1;
                    continue;
                }
                next => next.is_none(),
            };
            block.push(row);
            if is_last || block.len() >= total.div_ceil(blocks) {
                chunks.insert(id_in(&block[0]), block.as_flattened()).map_err(failed)?;
                block.clear();
            }
        }
    }
    Ok(more as u64)
}

/// Reads the block where a chunk belongs into `rows`; returns its key, and that of the next one.
fn block_of(
    chunks: &impl ReadableTable<[u8; ChunkId::BYTES], &'static [u8]>,
    id: &ChunkId,
    rows: &mut Vec<[u8; ROW_BYTES]>,
) -> Result<(Option<Key>, Option<Key>), CacheError> {
    rows.clear();
    let own = chunks.range(..=*id.as_bytes()).map_err(failed)?.next_back().transpose().map_err(failed)?;
    let own = match own {
        Some(own) => Some(own),
        None => chunks.first().map_err(failed)?,
    };
    let Some((key, block)) = own else { return Ok((None, None)) };
    rows.extend_from_slice(rows_of(block.value()));
    let key = key.value();
    let mut behind = chunks.range((Bound::Excluded(key), Bound::Unbounded)).map_err(failed)?;
    let next = behind.next().transpose().map_err(failed)?;
    Ok((Some(key), next.map(|(next, _)| next.value())))
}

/// Returns old and new rows by ascending id; of one id the new ones last.
fn merge(old: &[[u8; ROW_BYTES]], new: &[(ChunkId, Location)]) -> impl Iterator<Item = [u8; ROW_BYTES]> {
    let mut old = old.iter().peekable();
    let mut new = new.iter().map(|(id, location)| row_of(id, location)).peekable();
    std::iter::from_fn(move || match (old.peek(), new.peek()) {
        (Some(row), Some(other)) if id_in(row) > id_in(other) => new.next(),
        (Some(_), _) => old.next().copied(),
        (None, _) => new.next(),
    })
}

fn encode<T: bincode::Encode>(record: &T) -> Result<Vec<u8>, CacheError> {
    wire::encode(record).map_err(|e| CacheError::Failed { what: e.to_string() })
}
