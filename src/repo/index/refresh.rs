//! The cache, brought up to date with the fragments that are there. What can't be used is made anew; what is no
//! cache is never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

use crate::base::id::FragmentId;
use crate::repo::Repository;
use crate::repo::index::{read_fragment, read_fragments};
use crate::stage::index::{Cache, CacheError, EachFragment, Fragment, PackEntry, Update};
use crate::store::{give_to_owner_of, open_regular};

/// First bytes of a file of redb's.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";

/// Opens the cache at `path`, brought up to date with the fragments that are `present`; returns it, and those
/// that it lacks still. None where there can be no cache, or another process has it.
///
/// # Errors
/// [`CacheError::Failed`] if its pages make no sense: [`discard`] it, and try once more.
pub fn refresh(
    repository: &Repository,
    path: &Path,
    present: &BTreeSet<FragmentId>,
) -> Result<(Option<Cache>, BTreeSet<FragmentId>), CacheError> {
    let (mut cached, mut replaced, mut from_scratch) = (BTreeSet::new(), BTreeSet::new(), false);
    match Cache::open(path, repository.id()) {
        Ok(cache) => {
            from_scratch = cache.is_worn()?;
            if !from_scratch && is_fresh(&cache, present) {
                return Ok((Some(cache), BTreeSet::new()));
            }
            (cached, replaced) = (cache.fragments().clone(), cache.replaced().clone());
        }
        Err(CacheError::Absent) => from_scratch = true,
        Err(CacheError::Busy) => {} // it may be free by the time that the fragments are read
        Err(CacheError::Hindered { what }) => {
            tracing::info!("{}: {what}; the fragments are read instead", path.display());
            return Ok((None, present.clone()));
        }
        Err(e @ CacheError::Failed { .. }) => return Err(e),
    }
    let is_known = |id: &FragmentId| cached.contains(id) || replaced.contains(id);
    let wanted = present.iter().copied().filter(|id| from_scratch || !is_known(id));
    let mut news = News::read(repository, wanted);
    // A fragment that went without another in its place: its packs are nobody's now, and the cache
    // does not know which they are.
    let is_lost = |id: &FragmentId| !present.contains(id) && !news.replaced.contains(id);
    if !from_scratch && cached.iter().any(is_lost) {
        from_scratch = true;
        news = News::read(repository, present.iter().copied());
    }
    if from_scratch {
        replaced.clone_from(&news.replaced);
    } else {
        replaced.extend(&news.replaced);
    }
    news.readable.retain(|id| !replaced.contains(id));
    let added = |each: &mut EachFragment<'_>| news.each(repository, each);
    let gone: BTreeSet<_> = cached.union(&replaced).filter(|id| !present.contains(id)).copied().collect();
    let is_needed = !news.readable.is_empty() || !gone.is_empty() || (from_scratch && path.exists());
    let update = Update { added: &added, gone: &gone, from_scratch };
    let is_updated = match is_needed.then(|| Cache::update(path, repository.id(), &update)) {
        Some(Err(e @ CacheError::Failed { .. })) => return Err(e),
        updated => matches!(updated, Some(Ok(()))),
    };
    if let (true, Some(folder)) = (is_updated, path.parent()) {
        give_to_owner_of(folder, path);
    }
    match Cache::open(path, repository.id()) {
        Err(e @ CacheError::Failed { .. }) => Err(e),
        // What could not be added is kept in memory, beside what the cache has had before.
        Ok(cache) if is_updated || !from_scratch => {
            let lacks = present.difference(cache.fragments()).filter(|id| !replaced.contains(id));
            let lacks = lacks.copied().collect();
            Ok((Some(cache), lacks))
        }
        _ => Ok((None, present.clone())),
    }
}

/// Makes a cache at `path`, where none is, of the fragments that are `present`; returns it, and those that it lacks. None
/// if there is nothing to be in it.
///
/// # Errors
/// [`CacheError`]: why there is none.
pub fn build(
    repository: &Repository,
    path: &Path,
    present: &BTreeSet<FragmentId>,
) -> Result<(Option<Cache>, BTreeSet<FragmentId>), CacheError> {
    let mut news = News::read(repository, present.iter().copied());
    let replaced = std::mem::take(&mut news.replaced);
    news.readable.retain(|id| !replaced.contains(id));
    if news.readable.is_empty() {
        return Ok((None, present.clone()));
    }
    let added = |each: &mut EachFragment<'_>| news.each(repository, each);
    let update = Update { added: &added, gone: &BTreeSet::new(), from_scratch: true };
    Cache::update(path, repository.id(), &update)?;
    let cache = Cache::open(path, repository.id())?;
    let lacks = present.difference(cache.fragments()).filter(|id| !replaced.contains(id)).copied().collect();
    Ok((Some(cache), lacks))
}

/// Most memory for fragments that are not read a second time, in bytes, where each costs a request.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// What fragments say that the cache does not know.
#[derive(Default)]
struct News {
    /// Those that read.
    readable: BTreeSet<FragmentId>,
    /// Those that they replace.
    replaced: BTreeSet<FragmentId>,
    /// Some of them as they were read; all others are read again.
    kept: BTreeMap<FragmentId, Fragment>,
}

impl News {
    fn read(repository: &Repository, ids: impl Iterator<Item = FragmentId>) -> Self {
        let (mut news, mut kept_bytes) = (Self::default(), 0);
        let is_far = repository.store().reads_at_once() > 1;
        read_fragments(repository, &ids.collect::<Vec<_>>(), |id, fragment| {
            let Ok(fragment) = fragment else { return };
            news.readable.insert(id);
            news.replaced.extend(fragment.replaces.iter().copied());
            kept_bytes += fragment.memory_bytes();
            if is_far && kept_bytes <= KEPT_BYTES_MAX {
                news.kept.insert(id, fragment);
            }
        });
        news
    }

    /// Gives every readable one.
    fn each(&self, repository: &Repository, each: &mut EachFragment<'_>) -> Result<(), CacheError> {
        self.readable.iter().try_for_each(|id| {
            let kept = self.kept.get(id).cloned().map(Ok);
            let fragment = kept.unwrap_or_else(|| read_fragment(repository, *id));
            let mut fragment = fragment.map_err(|e| CacheError::Hindered { what: e.chain() })?;
            fragment.packs.retain(PackEntry::has_room); // of those without, check says more
            each(*id, &fragment);
            Ok(())
        })
    }
}

/// Returns whether a cache lists just what the fragments that are there say.
fn is_fresh(cache: &Cache, present: &BTreeSet<FragmentId>) -> bool {
    let is_known = |id: &FragmentId| cache.fragments().contains(id) || cache.replaced().contains(id);
    cache.fragments().is_subset(present) && present.iter().all(is_known)
}

/// Removes a cache that can't be used, and says it and `why`. Returns whether another one may be made in its place.
pub fn discard(path: &Path, why: &str) -> bool {
    let shown = path.display();
    match remove_cache(path) {
        Ok(()) => {
            tracing::warn!("{shown}: {why}; the index cache is made anew");
            true
        }
        Err(e) => {
            tracing::warn!("{shown}: {why}; the index is in memory alone: {e}");
            false
        }
    }
}

/// Removes the index cache at `path`; its loss costs a rebuild. None there is no error. What is no file, and a file that
/// is neither called `….redb`, nor one of redb's, nor empty, may be anything that was named by mistake, and stays; so
/// does another program's database.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for what stays; else as stat(2), open(2), read(2) and unlink(2).
pub fn remove_cache(path: &Path) -> io::Result<()> {
    let removed = match is_cache(path) {
        Ok(true) => std::fs::remove_file(path),
        Ok(false) => {
            let what = "it is no index cache, and is left as it is; name another file with --index";
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns whether an index cache lies at a path, or what is left of one.
fn is_cache(path: &Path) -> io::Result<bool> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(false); // /dev/null, say
    }
    if Cache::is_foreign(path) {
        return Ok(false);
    }
    if path.extension().is_some_and(|extension| extension == "redb") {
        return Ok(true);
    }
    let mut start = Vec::new();
    open_regular(path)?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == MAGIC)
}
