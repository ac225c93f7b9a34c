//! `index.redb` held against the fragments.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::base::id::{ChunkId, FragmentId, PackId};
use crate::base::units::counted;
use crate::op::check::findings::Findings;
use crate::op::check::ledger::Ledger;
use crate::op::check::since::Since;
use crate::repo::index::{read_fragment, remove_cache};
use crate::repo::{RepoError, Repository};
use crate::stage::index::{Cache, CacheError, Location, PackNumber, PackRow};
use crate::store::Name;

/// What a damaged cache means: nothing, for it is made of the fragments.
const REMOVED: &str =
    "this cache of the index was removed, and the next run makes it anew; the repository is none the worse";

/// What comparing the cache showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// It is in order, or there is none to be in order.
    Fit,
    /// It is not what the fragments say.
    Unfit,
}

/// Returns the cache's path as messages give it: in the repository, or elsewhere.
pub fn shown_path(repository: &Repository, path: &Path) -> String {
    let inside = path.strip_prefix(repository.store().location());
    inside.unwrap_or(path).display().to_string()
}

/// Compares fragments and packs; with `deep` also where every chunk lies. A cache that fails is no damage of the
/// repository: a write to it may have failed, on a full disk say. It is removed.
///
/// # Errors
/// [`RepoError::Store`] if fragments can't be listed.
pub fn check_cache(
    repository: &Repository,
    ledger: &Ledger,
    deep: bool,
    findings: &mut Findings,
) -> Result<CacheState, RepoError> {
    let Some(path) = repository.index_path() else { return Ok(CacheState::Fit) };
    let shown = shown_path(repository, path);
    let cache = match Cache::open(path, repository.id()) {
        Ok(cache) => cache,
        Err(CacheError::Busy) => {
            findings.notes.push(format!("{shown}: open in another process, and not compared"));
            return Ok(CacheState::Fit);
        }
        Err(CacheError::Hindered { what }) => {
            findings.notes.push(format!("{shown}: {what}; not compared"));
            return Ok(CacheState::Fit);
        }
        Err(CacheError::Absent) if !path.exists() => {
            if !ledger.present.is_empty() {
                findings.notes.push(format!("{shown}: not there; the next run makes it anew"));
            }
            return Ok(CacheState::Unfit);
        }
        Err(CacheError::Absent) => {
            findings.notes.push(format!(
                "{shown}: not this repository's, or of another version; the next run makes it anew"
            ));
            return Ok(CacheState::Unfit);
        }
        Err(e) => {
            remove(path, &shown, &e.to_string(), findings);
            return Ok(CacheState::Unfit);
        }
    };
    tell_gone(repository, &cache, ledger, findings, &shown)?;
    match compare(repository, &cache, ledger, deep) {
        Ok(()) => Ok(CacheState::Fit),
        Err(what) => {
            drop(cache);
            remove(path, &shown, &what, findings);
            Ok(CacheState::Unfit)
        }
    }
}

/// Removes a cache that can't be used.
fn remove(path: &Path, shown: &str, what: &str, findings: &mut Findings) {
    findings.notes.push(match remove_cache(path) {
        Ok(()) => format!("{shown}: {what}; {REMOVED}"),
        Err(e) => format!("{shown}: {what}; this cache of the index cannot be removed: {e}"),
    });
}

/// Tells of fragments that the cache knows and that are gone, though their packs are there.
///
/// The cache was opened after the ledger was read, by which time a run beside this one may have ended: what
/// it has added is there by now.
fn tell_gone(
    repository: &Repository,
    cache: &Cache,
    ledger: &Ledger,
    findings: &mut Findings,
    shown: &str,
) -> Result<(), RepoError> {
    if cache.fragments().is_subset(&ledger.present) {
        return Ok(());
    }
    let since = Since::read(repository, ledger)?;
    let is_there = |id: &FragmentId| ledger.present.contains(id) || since.fragments.contains(id);
    let gone: Vec<FragmentId> = cache.fragments().iter().copied().filter(|id| !is_there(id)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let rows = cache.packs().unwrap_or_default();
    let is_orphan = |row: &PackRow| ledger.orphans.contains(&row.id) && !since.packs.contains(&row.id);
    let orphans = rows.iter().filter(|(_, row)| is_orphan(row)).count();
    match orphans {
        0 => findings.notes.push(format!(
            "{shown}: lists {} gone, and no pack is the worse for it; the next run makes it anew",
            counted(gone.len() as u64, "fragment that is", "fragments that are")
        )),
        _ => {
            for id in gone {
                findings.damage(
                    Name::Fragment(id),
                    format!(
                        "not there, and no fragment lists {} that {shown} knows, which are read from their own directories; 'snap check --repair' lists them anew",
                        counted(orphans as u64, "pack", "packs")
                    ),
                );
            }
        }
    }
    Ok(())
}

fn compare(repository: &Repository, cache: &Cache, ledger: &Ledger, deep: bool) -> Result<(), String> {
    let cached = cache.fragments();
    let rows = cache.packs().map_err(|e| e.to_string())?;
    if !cached.is_subset(&ledger.present) {
        return Ok(()); // it knows what is gone: it is made anew before it is used; or what is new, and not judged
    }
    // A fragment that is damaged, which is told elsewhere: what the cache has of it can't be judged.
    let is_judged = cached.iter().all(|id| ledger.fragments.contains(id));
    let fits = |pack: &PackRow| ledger.packs.get(&pack.id).map_or(!is_judged, |known| known.row == *pack);
    if let Some((_, row)) = rows.iter().find(|(_, row)| !fits(row)) {
        return Err(format!("lists {} otherwise than the fragments do", Name::Pack(row.id)));
    }
    let in_cache: BTreeSet<PackId> = rows.iter().map(|(_, row)| row.id).collect();
    let should = |id: &FragmentId| cached.contains(id);
    let mut listed = ledger.packs.iter().filter(|(_, pack)| pack.fragment.as_ref().is_some_and(should));
    if let Some((id, _)) = listed.find(|(id, _)| !in_cache.contains(id)) {
        return Err(format!("lacks {}", Name::Pack(*id)));
    }
    if deep && is_judged { compare_chunks(repository, cache, &rows) } else { Ok(()) }
}

/// A sum over chunks and where they lie that is the same in every order.
#[derive(Default, PartialEq, Eq)]
struct Sum {
    chunks: u64,
    sum: u64,
}

impl Sum {
    fn add(&mut self, chunk: &ChunkId, location: &Location) {
        let mut hasher = DefaultHasher::new();
        (chunk, location).hash(&mut hasher);
        self.chunks += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// Compares where each chunk lies: all at once by a sum, and one by one only if that differs.
fn compare_chunks(
    repository: &Repository,
    cache: &Cache,
    rows: &[(PackNumber, PackRow)],
) -> Result<(), String> {
    let mut found = Sum::default();
    let said = |e: CacheError| e.to_string();
    // Rows that lead to packs which are listed no more are not looked at by anybody.
    let listed: BTreeSet<PackNumber> = rows.iter().map(|(number, _)| *number).collect();
    let visited = cache.visit(|chunk, location| {
        if listed.contains(&location.pack) {
            found.add(&chunk, &location);
        }
    });
    visited.map_err(said)?;
    let mut expected = Sum::default();
    each_listed(repository, cache, rows, |chunk, location| {
        expected.add(&chunk, &location);
        Ok(())
    })?;
    if found == expected {
        return Ok(());
    }
    let (mut right, mut lacking) = (0, 0);
    each_listed(repository, cache, rows, |chunk, location| {
        match cache.find(&chunk).map_err(said)? {
            Some(other) if other == location => right += 1,
            Some(_) if cache.copies(&chunk).map_err(said)?.contains(&location) => right += 1,
            Some(_) => {}
            None => lacking += 1,
        }
        Ok(())
    })?;
    match (found.chunks - right.min(found.chunks), lacking) {
        (0, 0) => Ok(()),
        (wrong, lacking) => Err(format!(
            "{wrong} of its chunks lie elsewhere than the fragments say, and {lacking} are missing"
        )),
    }
}

/// Calls `visit` with every chunk of the cache's fragments and where the cache should say it lies.
fn each_listed(
    repository: &Repository,
    cache: &Cache,
    rows: &[(PackNumber, PackRow)],
    mut visit: impl FnMut(ChunkId, Location) -> Result<(), String>,
) -> Result<(), String> {
    let mut numbers: BTreeMap<PackId, Vec<PackNumber>> = BTreeMap::new();
    rows.iter().for_each(|(number, row)| numbers.entry(row.id).or_default().push(*number));
    for id in cache.fragments() {
        let fragment = read_fragment(repository, *id).map_err(|e: RepoError| e.to_string())?;
        for pack in fragment.packs {
            for number in numbers.remove(&pack.id).unwrap_or_default() {
                let mut result = Ok(());
                pack.locations(number, |chunk, location| {
                    if result.is_ok() {
                        result = visit(chunk, location);
                    }
                });
                result?;
            }
        }
    }
    Ok(())
}
