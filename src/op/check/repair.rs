//! What can be made anew from what is there, without guessing. Removes nothing but the cache.

use std::collections::BTreeSet;

use age::x25519::Recipient;

use crate::base::id::PackId;
use crate::op::check::cache::{CacheState, shown_path};
use crate::op::check::findings::{Findings, MEND_PACK};
use crate::op::check::keys::KeysFound;
use crate::op::check::ledger::Ledger;
use crate::op::check::pieces::PIECE_BYTES;
use crate::repo::config::Encryption;
use crate::repo::index::{Index, read_directory};
use crate::repo::keys::{KeyBody, seal_to_recipients};
use crate::repo::listing::Listing;
use crate::repo::{RepoError, Repository};
use crate::stage::index::PackEntry;
use crate::store::Name;

/// Repairs what can be; returns what was done. `whole` are packs whose bytes were hashed already
/// and found right.
///
/// # Errors
/// [`RepoError::Store`] if something can't be written; what was done before stays.
pub fn repair(
    repository: &Repository,
    ledger: &Ledger,
    keys: &KeysFound,
    whole: &BTreeSet<PackId>,
    cache: CacheState,
    findings: &mut Findings,
) -> Result<Vec<String>, RepoError> {
    let mut done = Vec::new();
    seal_writer(repository, keys, &mut done)?;
    list_anew(repository, ledger, whole, findings, &mut done)?;
    let is_listed = !done.is_empty();
    let Some(path) = repository.index_path() else { return Ok(done) };
    let is_there = path.exists();
    if cache == CacheState::Unfit && is_there {
        let failed = |e: std::io::Error| RepoError::Source {
            path: path.display().to_string(),
            reason: format!("cannot be removed: {e}"),
        };
        std::fs::remove_file(path).map_err(failed)?; // a cache
    }
    if cache == CacheState::Unfit || is_listed {
        drop(Index::open(repository)?);
        if cache == CacheState::Unfit && path.exists() {
            done.push(format!("{}: made anew from the fragments", shown_path(repository, path)));
        }
    }
    Ok(done)
}

/// Seals the writer secret to the recipients that are there, if no file holds it any more.
fn seal_writer(repository: &Repository, keys: &KeysFound, done: &mut Vec<String>) -> Result<(), RepoError> {
    let recipients: Vec<Recipient> = keys.recipients.iter().filter_map(|text| text.parse().ok()).collect();
    let is_needed = repository.config().encryption == Encryption::Age && keys.sealed.is_empty();
    if is_needed && !recipients.is_empty() {
        let age = seal_to_recipients(&recipients, repository.writer_keys().secret().expose())?;
        let id = repository.put_key(&KeyBody::SealedWriter { age })?;
        done.push(format!(
            "{}: the writer secret of this machine, sealed to the {} recipients in keys/",
            Name::Key(id),
            recipients.len()
        ));
    }
    Ok(())
}

/// Writes fragments for packs that are whole and that no fragment lists.
fn list_anew(
    repository: &Repository,
    ledger: &Ledger,
    whole: &BTreeSet<PackId>,
    findings: &mut Findings,
    done: &mut Vec<String>,
) -> Result<(), RepoError> {
    let mut listing = Listing::new(repository);
    for (id, pack) in ledger.packs.iter().filter(|(_, pack)| pack.fragment.is_none()) {
        let Some(bytes) = pack.found else { continue };
        if !whole.contains(id) && !is_whole(repository, *id, bytes) {
            let what = "the bytes are not the ones its name stands for, and it was not listed anew";
            findings.damage(Name::Pack(*id), format!("{what}; {MEND_PACK}"));
            continue;
        }
        let Ok(directory) = read_directory(repository, *id, bytes) else { continue };
        listing.add(&PackEntry { id: *id, bytes, directory })?;
    }
    for (id, packs) in listing.finish()?.fragments() {
        done.push(format!("{}: lists {packs} packs that no fragment listed", Name::Fragment(id)));
    }
    Ok(())
}

/// Returns whether a pack's bytes are what its name stands for.
fn is_whole(repository: &Repository, id: PackId, bytes: u64) -> bool {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < bytes {
        let end = bytes.min(at + PIECE_BYTES);
        match repository.store().read_range(&Name::Pack(id), at..end) {
            Ok(piece) => _ = hasher.update(&piece),
            Err(_) => return false,
        }
        at = end;
    }
    hasher.finalize().as_bytes() == id.as_bytes()
}
