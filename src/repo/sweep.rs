//! Packs that are to go → gone: first from the fragments, then from the store, then from the lists of
//! what is condemned; on a full disk as many from the store first as it takes. Only under the exclusive lock
//! (`docs/durability.md`).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::condemned::Condemned;
use crate::base::id::{CondemnedId, FragmentId, PackId};
use crate::base::limits::FRAGMENT_CHUNKS_MAX;
use crate::repo::condemned::Marks;
use crate::repo::index::{put_fragment, read_fragment};
use crate::repo::room::{Room, delete};
use crate::repo::{RepoError, Repository};
use crate::stage::index::Fragment;
use crate::store::{Folder, Name};

/// A fragment of fewer chunks is small.
const SMALL_CHUNKS: usize = FRAGMENT_CHUNKS_MAX / 16;

/// So many small fragments may lie side by side before they are joined.
const SMALL_MAX: usize = 16;

/// Deletes packs, after the fragments that list them. What is gone already is no error.
///
/// 1. new fragments that list what stays, 2. the old fragments go, 3. the packs go.
///
/// `room` is to hold packs of `packs` alone. Returns whether all fragments were written: those that there is no room for, with all packs gone, stay as
/// they were, and list packs that count as absent.
///
/// # Errors
/// [`RepoError::Store`]. A cut leaves packs that no fragment lists and that are condemned: nobody
/// takes them over, and the next sweep removes them.
pub fn sweep(
    repository: &Repository,
    packs: &BTreeSet<PackId>,
    room: &mut Room<'_>,
) -> Result<bool, RepoError> {
    let (groups, mut old) = group(repository, packs)?;
    let mut is_tidy = true;
    let mut vanished: Vec<FragmentId> = Vec::new();
    for ids in groups {
        let mut fragment = without(repository, ids, packs)?;
        if fragment.packs.is_empty() {
            vanished.append(&mut fragment.replaces); // the next one names them, so that caches know
            continue;
        }
        fragment.replaces.append(&mut vanished);
        if room.write_if_it_fits(|| put_fragment(repository, &fragment))?.is_none() {
            is_tidy = false;
            break;
        }
        old.extend(fragment.replaces);
    }
    old.extend(vanished);
    for id in old {
        delete(repository, &Name::Fragment(id))?;
    }
    for id in packs {
        delete(repository, &Name::Pack(*id))?;
    }
    Ok(is_tidy)
}

/// What a fragment means for a sweep.
struct Role {
    chunks: usize,
    is_touched: bool,
}

/// Groups of fragments to be written anew as one each, and fragments that others replace already. Of
/// a group, nothing is left out but the packs that go.
fn group(
    repository: &Repository,
    packs: &BTreeSet<PackId>,
) -> Result<(Vec<Vec<FragmentId>>, BTreeSet<FragmentId>), RepoError> {
    let mut roles: BTreeMap<FragmentId, Role> = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for found in repository.store().list(Folder::Index)? {
        let Some(Name::Fragment(id)) = found.name else { continue };
        let fragment = match read_fragment(repository, id) {
            Ok(fragment) => fragment,
            // It is left alone: what it lists is read from the packs themselves.
            Err(e) if e.is_damage() => continue,
            Err(e) => return Err(e),
        };
        let staying = fragment.packs.iter().filter(|pack| !packs.contains(&pack.id));
        let role = Role {
            chunks: staying.map(|pack| pack.directory.chunk_count()).sum(),
            is_touched: fragment.packs.iter().any(|pack| packs.contains(&pack.id)),
        };
        roles.insert(id, role);
        replaced.extend(fragment.replaces);
    }
    replaced.retain(|id| roles.remove(id).is_some());
    let mut chosen: Vec<(FragmentId, usize)> = Vec::new();
    let is_small = |role: &Role| role.chunks < SMALL_CHUNKS;
    let has_many_small = roles.values().filter(|role| is_small(role)).count() > SMALL_MAX;
    let is_any_touched = roles.values().any(|role| role.is_touched);
    let is_carrier_lacking = roles.values().all(|role| !role.is_touched || role.chunks == 0);
    let smallest_other = roles
        .iter()
        .filter(|(_, role)| !role.is_touched)
        .min_by_key(|(_, role)| role.chunks)
        .map(|(id, _)| *id);
    for (id, role) in &roles {
        let is_joined = is_any_touched && has_many_small && is_small(role);
        let carries = is_any_touched && is_carrier_lacking && smallest_other == Some(*id);
        if role.is_touched || is_joined || carries {
            chosen.push((*id, role.chunks));
        }
    }
    chosen.sort_by_key(|(_, chunks)| *chunks); // those first that vanish
    let mut groups: Vec<Vec<FragmentId>> = Vec::new();
    let mut sum = usize::MAX;
    for (id, chunks) in chosen {
        match groups.last_mut() {
            Some(group) if sum.saturating_add(chunks) <= FRAGMENT_CHUNKS_MAX => {
                group.push(id);
                sum += chunks;
            }
            _ => {
                groups.push(vec![id]);
                sum = chunks;
            }
        }
    }
    Ok((groups, replaced))
}

/// Returns one fragment in place of several, without the packs that go.
fn without(
    repository: &Repository,
    ids: Vec<FragmentId>,
    packs: &BTreeSet<PackId>,
) -> Result<Fragment, RepoError> {
    let mut joined = Fragment::default();
    let mut known = BTreeSet::new();
    for id in ids {
        let fragment = read_fragment(repository, id)?;
        let staying =
            fragment.packs.into_iter().filter(|pack| !packs.contains(&pack.id) && known.insert(pack.id));
        joined.packs.extend(staying);
        joined.replaces.push(id);
    }
    Ok(joined)
}

/// Brings the lists of what is condemned up to date: packs that are gone or for which `stays` says no
/// are taken out. A list that changes is written anew before the old one goes. Returns whether all were: a list stays
/// as it is if there is no room for the new one, with all packs of `room` gone.
///
/// # Errors
/// [`RepoError::Store`]; a cut leaves both lists, and both count.
pub fn settle_marks(
    repository: &Repository,
    marks: &Marks,
    room: &mut Room<'_>,
    stays: impl Fn(&PackId) -> bool,
) -> Result<bool, RepoError> {
    let mut is_tidy = true;
    let mut there = BTreeSet::new();
    for found in repository.store().list(Folder::Packs)? {
        if let Some(Name::Pack(id)) = found.name {
            there.insert(id);
        }
    }
    for (id, list) in &marks.lists {
        let mut new: Condemned = list.clone();
        new.packs.retain(|pack| there.contains(pack) && stays(pack));
        new.closed.retain(|row| there.contains(&row.pack));
        if new == *list {
            continue;
        }
        let is_empty = new.packs.is_empty() && new.closed.is_empty();
        let written = match is_empty {
            true => None,
            false => {
                let written = room.write_if_it_fits(|| repository.put_condemned(&new))?;
                is_tidy &= written.is_some();
                Some(written.unwrap_or(*id))
            }
        };
        if written != Some(*id) {
            delete(repository, &Name::Condemned(*id))?;
        }
    }
    Ok(is_tidy)
}

/// Removes lists that can't be read because they are damaged: they marked, and no more.
///
/// # Errors
/// [`RepoError::Store`].
pub fn drop_unreadable(
    repository: &Repository,
    ids: impl Iterator<Item = CondemnedId>,
) -> Result<(), RepoError> {
    ids.into_iter().try_for_each(|id| delete(repository, &Name::Condemned(id)))
}
