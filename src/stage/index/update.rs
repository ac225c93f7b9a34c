//! Bringing the cache up to date: what fragments list goes in, what none lists any more is let go.

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::{ReadableTable, TableHandle, WriteTransaction};

use crate::base::id::{ChunkId, FragmentId, PackId, RepositoryId};
use crate::base::wire;
use crate::stage::index::cache::{
    BLOCK_BITS_MAX, Blocks, CHUNKS, COPIES, FOREIGN, FRAGMENTS, META, PACKS, PAGES_BYTES, REPLACED,
    ROW_BYTES, SCHEMA, block_key, block_of, blocks_in, decode, decode_pack, id_in, refuse_pipe, row_of,
    rows_of,
};
use crate::stage::index::error::{CacheError, failed};
use crate::stage::index::{Fragment, Location, PackNumber};

/// Rows that are sorted at a time: 32 MB. More if there would be more than [`PASSES_MAX`] passes.
const ROWS_MAX: usize = 1_000_000;

/// Passes over the fragments that are added: each may read them all.
const PASSES_MAX: usize = 16;

/// Rows of a block on average, at most: one fits into a page of redb's, of 4096 bytes.
const BLOCK_ROWS_MAX: u64 = 112;

/// Takes fragments one by one.
pub type EachFragment<'e> = dyn FnMut(FragmentId, &Fragment) + 'e;

/// What has changed since the cache was brought up to date.
pub struct Update<'u> {
    /// Gives every fragment that is to be added, those that count; called several times, and gives the
    /// same ones each time, or an error.
    pub added: &'u dyn Fn(&mut EachFragment<'_>) -> Result<(), CacheError>,
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
    refuse_pipe(path)?;
    let mut builder = redb::Builder::new();
    builder.set_cache_size(PAGES_BYTES);
    // For its owner alone: it tells every chunk's id and length.
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map_err(|e| failed(redb::StorageError::from(e)))?;
    let database = builder.create(path).map_err(failed)?;
    let mut write = database.begin_write().map_err(failed)?;
    write.set_quick_repair(true);
    let tables: Vec<_> = write.list_tables().map_err(failed)?.collect();
    if !tables.is_empty() && !tables.iter().any(|table| table.name() == META.name()) {
        return Err(CacheError::Hindered { what: FOREIGN.to_owned() });
    }
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
    let more = new.values().map(|pack| pack.chunks).sum::<usize>();
    let bits = make_room(&write, more as u64)?;
    let passes = more.div_ceil(ROWS_MAX).min(PASSES_MAX);
    for pass in 0..passes {
        insert_rows(&write, update, &new, bits, (pass, passes))?;
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
    })?;
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
    bits: u32,
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
    })?;
    rows.sort_unstable();
    let more = insert_blocks(write, bits, &rows)?;
    let mut meta = write.open_table(META).map_err(failed)?;
    let blocks = Blocks { bits, rows: blocks_in(&meta)?.rows + more };
    meta.insert("blocks", encode(&blocks)?.as_slice()).map_err(failed)?;
    Ok(())
}

/// Makes so many blocks that `more` rows fit in as well; returns how many bits of an id tell its block.
///
/// # Errors
/// [`CacheError::Failed`].
pub fn make_room(write: &WriteTransaction, more: u64) -> Result<u32, CacheError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    let Blocks { bits: old, rows } = blocks_in(&meta)?;
    let total = rows + more;
    if total >> old <= BLOCK_ROWS_MAX {
        return Ok(old);
    }
    let bits = (total / (BLOCK_ROWS_MAX / 2)).next_power_of_two().ilog2().min(BLOCK_BITS_MAX); // twice as many fit then
    if bits == old {
        return Ok(old);
    }
    let mut chunks = write.open_table(CHUNKS).map_err(failed)?;
    for number in 0..1u64 << old {
        let block = chunks.remove(block_key(old, number)).map_err(failed)?;
        let rows = block.map(|block| rows_of(block.value()).to_vec()).unwrap_or_default();
        for part in rows.chunk_by(|a, b| block_of(bits, &id_in(a)) == block_of(bits, &id_in(b))) {
            chunks.insert(block_of(bits, &id_in(&part[0])), part.as_flattened()).map_err(failed)?;
        }
    }
    meta.insert("blocks", encode(&Blocks { bits, rows })?.as_slice()).map_err(failed)?;
    Ok(bits)
}

/// Adds rows, which ascend, to their blocks; returns how many more rows there are. A chunk that has a row already
/// gets the new one, and the old one is a copy.
fn insert_blocks(
    write: &WriteTransaction,
    bits: u32,
    mut rows: &[(ChunkId, Location)],
) -> Result<u64, CacheError> {
    let mut chunks = write.open_table(CHUNKS).map_err(failed)?;
    let mut copies = write.open_table(COPIES).map_err(failed)?;
    let mut more = 0;
    let (mut old, mut block) = (Vec::new(), Vec::new());
    while let Some((first, _)) = rows.first() {
        let key = block_of(bits, first);
        let (new, others) = rows.split_at(rows.partition_point(|(id, _)| block_of(bits, id) <= key));
        rows = others;
        old.clear();
        if let Some(block) = chunks.get(key).map_err(failed)? {
            old.extend_from_slice(rows_of(block.value()));
        }
        block.clear();
        for row in merge(&old, new) {
            match block.last_mut() {
                Some(last) if id_in(last) == id_in(&row) => {
                    copies.insert(std::mem::replace(last, row), ()).map_err(failed)?;
                }
                _ => block.push(row),
            }
        }
        more += (block.len() - old.len()) as u64;
        chunks.insert(key, block.as_flattened()).map_err(failed)?;
    }
    Ok(more)
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
