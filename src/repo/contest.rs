//! Several writer secrets that an identity opens → the one that is this repository's.
//!
//! Anybody can seal to the public half of an identity, so that a secret opens proves nothing. Snapshots that open with
//! it speak for it; where they speak for more than one, whoever asks must say which is meant.

use std::collections::BTreeSet;

use crate::base::limits::RECORD_BYTES_CAP;
use crate::base::time::Time;
use crate::repo::RepoError;
use crate::repo::index::parse_fragment;
use crate::repo::key_ring::read_side_by_side;
use crate::repo::keys::WriterKeys;
use crate::repo::manifests::{MANIFEST_FILE_BYTES_MAX, has_manifest_of, open_manifest};
use crate::repo::open::read_named;
use crate::store::{Folder, Name, Store};

/// Secrets that one message names, at most.
const NAMED_MAX: usize = 8;

/// A writer secret that opens, and what speaks for it.
pub struct Claimant {
    /// The secret.
    pub writer: WriterKeys,
    /// Manifests that open with it. Where it is the only claimant, one is as good as many.
    pub snapshots: usize,
    packs: usize,
    first: Option<Time>,
}

/// Adds those that are not there yet.
pub fn add_distinct(claimants: &mut Vec<WriterKeys>, more: impl IntoIterator<Item = WriterKeys>) {
    for writer in more {
        if claimants.iter().all(|known| known.mark() != writer.mark()) {
            claimants.push(writer);
        }
    }
}

/// Counts the snapshots that open with each. Reads one manifest after the other until one opens; where there are
/// several claimants, all of them.
///
/// # Errors
/// [`RepoError::Store`] if they can't be listed. A manifest that can't be read speaks for nobody.
pub fn weighed(store: &dyn Store, claimants: Vec<WriterKeys>) -> Result<Vec<Claimant>, RepoError> {
    let claimant = |writer| Claimant { writer, snapshots: 0, packs: 0, first: None };
    let mut all: Vec<Claimant> = claimants.into_iter().map(claimant).collect();
    if let [only] = &mut all[..] {
        only.snapshots = usize::from(has_manifest_of(store, &only.writer));
        return Ok(all);
    }
    let names: Vec<Name> =
        store.list(Folder::Snapshots)?.into_iter().filter_map(|found| found.name).collect();
    let owner = |name: &Name| {
        let bytes = read_named(store, name, MANIFEST_FILE_BYTES_MAX).ok()?;
        all.iter().position(|one| open_manifest(&one.writer, name, &bytes).is_ok())
    };
    for (name, owner) in read_side_by_side(&names, owner) {
        if let Some(owner) = owner.and_then(|at| all.get_mut(at)) {
            owner.snapshots += 1;
            owner.saw(store.came(&name));
        }
    }
    Ok(all)
}

impl Claimant {
    fn saw(&mut self, came: Option<Time>) {
        self.first = match (self.first, came) {
            (Some(first), Some(came)) => Some(first.min(came)),
            (first, came) => first.or(came),
        };
    }

    /// Says what speaks for it.
    fn described(&self) -> String {
        let upload = match self.first.and_then(|first| jiff::Timestamp::new(first.seconds, 0).ok()) {
            Some(first) => format!(", first upload {first}"),
            None => String::new(),
        };
        format!("{} ({} snapshots, {} packs{upload})", self.writer.shown_mark(), self.snapshots, self.packs)
    }
}

/// Returns the error that lists all claimants, with what speaks for each, those with most snapshots first.
pub fn contested(store: &dyn Store, mut claimants: Vec<Claimant>) -> RepoError {
    count_packs(store, &mut claimants);
    claimants.sort_by_key(|one| (std::cmp::Reverse(one.snapshots), one.first));
    let mut listed: Vec<String> = claimants.iter().take(NAMED_MAX).map(Claimant::described).collect();
    if claimants.len() > NAMED_MAX {
        listed.push(format!("and {} more", claimants.len() - NAMED_MAX));
    }
    RepoError::Distrusted {
        location: store.location(),
        what: format!(
            "{} writer secrets open with this identity, and anybody can seal one to it, so somebody may have put a repository of his own there; their marks: {}; say which is yours with --writer-mark MARK: 'snap init' has printed it, 'snap key list' and 'snap stats' print it on a machine that backs up, and a passphrase needs none",
            claimants.len(),
            listed.join("; ")
        ),
    }
}

/// Counts the packs that fragments list which open with each.
fn count_packs(store: &dyn Store, claimants: &mut [Claimant]) {
    let list = |folder| store.list(folder).unwrap_or_default();
    let there: BTreeSet<Name> = list(Folder::Packs).into_iter().filter_map(|found| found.name).collect();
    let names: Vec<Name> = list(Folder::Index).into_iter().filter_map(|found| found.name).collect();
    let mut packs: Vec<BTreeSet<Name>> = claimants.iter().map(|_| BTreeSet::new()).collect();
    let owner = |name: &Name| {
        let bytes = read_named(store, name, RECORD_BYTES_CAP as u64).ok()?;
        let parse = |one: &Claimant| parse_fragment(&one.writer, name, &bytes).ok();
        let (at, fragment) = claimants.iter().enumerate().find_map(|(at, one)| Some((at, parse(one)?)))?;
        Some((at, fragment.packs.iter().map(|pack| Name::Pack(pack.id)).collect::<Vec<_>>()))
    };
    for (name, owner) in read_side_by_side(&names, owner) {
        let Some((at, listed)) = owner else { continue };
        if let (Some(one), Some(own)) = (claimants.get_mut(at), packs.get_mut(at)) {
            own.extend(listed.into_iter().filter(|pack| there.contains(pack)));
            one.saw(store.came(&name));
        }
    }
    for (one, own) in claimants.iter_mut().zip(packs) {
        one.packs = own.len();
    }
}
