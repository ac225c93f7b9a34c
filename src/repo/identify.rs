//! What lies at a place → which repository it is, and the keys that write to it.
//!
//! `config` proves nothing by itself: no hash names it, and its checksum anybody can make. Where a store has several, the
//! one counts that fits what opens; of several that fit, the one that the manifests were made with.

use age::x25519::Identity;

use crate::base::id::RepositoryId;
use crate::repo::config::{CONFIG_BYTES_MAX, Config, Encryption};
use crate::repo::key_ring::read_side_by_side;
use crate::repo::keys::WriterKeys;
use crate::repo::manifests::{MANIFEST_FILE_BYTES_MAX, has_manifest_of, open_manifest};
use crate::repo::open::read_named;
use crate::repo::state::kept_secret;
use crate::repo::unlock::{Recovered, pack_header, recover_secret};
use crate::repo::{Opening, RepoError};
use crate::stage::seal::Secret;
use crate::store::{Folder, Name, Store};

/// One of the `config`s that are there.
struct Candidate {
    /// Its place among them.
    at: usize,
    bytes: Vec<u8>,
    config: Config,
    id: RepositoryId,
}

/// Which repository it is.
pub struct Identified {
    /// What it was made with.
    pub config: Config,
    /// The bytes of its `config`.
    pub bytes: Vec<u8>,
    /// The keys of who writes to it.
    pub writer: WriterKeys,
    /// Identities that are open already.
    pub identities: Vec<Identity>,
    /// Whether this machine keeps the writer secret.
    pub is_enrolled: bool,
    /// Whether anything but an identity speaks for the writer secret.
    pub is_vouched_for: bool,
}

/// Finds out which repository lies in a store. A store with several `config`s shows the chosen one from then on.
///
/// # Errors
/// As [`Repository::open`](crate::repo::Repository::open).
pub fn identify(opening: &Opening<'_>) -> Result<Identified, RepoError> {
    let store = opening.store.as_ref();
    let all = candidates(store)?;
    let is_only = all.len() == 1;
    let (ours, writer, identities, is_enrolled, is_vouched_for) = match enrolled(opening, &all)? {
        Some((at, writer)) => {
            let ours = fitting(&all, all.get(at).map(|one| one.id), writer_encryption(&writer));
            (ours, writer, Vec::new(), true, true)
        }
        None => {
            let Recovered { writer, identities, id, is_vouched_for } = recovered(opening, &all)?;
            let encryption = writer_encryption(&writer);
            let id = match id {
                None if !is_only => id_in_packs(store, &writer, &all),
                id => id,
            };
            (fitting(&all, id, encryption), writer, identities, false, is_vouched_for)
        }
    };
    let passed_over = all.len() - ours.len();
    if passed_over > 0 {
        tracing::warn!(
            "config: {passed_over} of its {} versions are another repository's: somebody else has put them there; passed over",
            all.len()
        );
    }
    let at = if ours.len() > 1 { made_with(store, &writer, &ours) } else { 0 };
    let Some(chosen) = ours.get(at) else {
        let what = "no version of it is of the repository whose keys open".to_owned();
        return Err(RepoError::Config { location: store.location(), what });
    };
    if !is_only {
        store.take_config(chosen.at);
    }
    let (config, bytes) = (chosen.config.clone(), chosen.bytes.clone());
    Ok(Identified { config, bytes, writer, identities, is_enrolled, is_vouched_for })
}

fn writer_encryption(writer: &WriterKeys) -> Encryption {
    if writer.metadata().is_some() { Encryption::Age } else { Encryption::None }
}

/// Returns the `config`s that make sense, the oldest first.
fn candidates(store: &dyn Store) -> Result<Vec<Candidate>, RepoError> {
    let location = || store.location();
    let texts = match store.configs(CONFIG_BYTES_MAX) {
        Err(e) if e.is_nowhere() => return Err(RepoError::NotThere { location: location() }),
        other => other?,
    };
    let (mut all, mut bad) = (Vec::new(), None);
    for (at, bytes) in texts.into_iter().enumerate() {
        match Config::from_bytes(&bytes).and_then(|config| Ok((config.id()?, config))) {
            Ok((id, config)) => all.push(Candidate { at, bytes, config, id }),
            Err(what) => _ = bad.get_or_insert(what),
        }
    }
    match bad {
        Some(what) if all.is_empty() => Err(RepoError::Config { location: location(), what }),
        _ if all.is_empty() => Err(RepoError::NotThere { location: location() }),
        bad => {
            bad.iter().for_each(|what| tracing::warn!("config: a version of it is passed over: {what}"));
            Ok(all)
        }
    }
}

/// Returns which of them this machine knows, and the writer secret that it keeps. Of several one with snapshots.
fn enrolled(opening: &Opening<'_>, all: &[Candidate]) -> Result<Option<(usize, WriterKeys)>, RepoError> {
    let location = || opening.store.location();
    let mark = opening.secrets.writer_mark();
    let (mut known, mut distrust) = (Vec::new(), None);
    for (at, one) in all.iter().enumerate() {
        let Some(kept) = kept_secret(opening.state, one.id)? else { continue };
        let writer = WriterKeys::new(Secret::from_bytes(kept.secret), kept.encryption);
        if kept.encryption != one.config.encryption {
            distrust = Some(
                "its encryption is not the one it was made with; somebody changed the config".to_owned(),
            );
        } else if let Some(mark) = mark.filter(|mark| !writer.has_mark(mark)) {
            distrust = Some(format!(
                "the writer secret that this machine keeps of it has the mark {}, not {mark} (--writer-mark)",
                writer.shown_mark()
            ));
        } else if known.iter().all(|(_, other): &(usize, WriterKeys)| other.mark() != writer.mark()) {
            known.push((at, writer));
        }
    }
    if known.len() > 1 {
        let store = opening.store.as_ref();
        known.sort_by_key(|(_, writer)| !has_manifest_of(store, writer));
    }
    match (known.into_iter().next(), distrust) {
        (None, Some(what)) => Err(RepoError::Distrusted { location: location(), what }),
        (known, _) => Ok(known),
    }
}

/// Finds the writer secret with what a person gives.
fn recovered(opening: &Opening<'_>, all: &[Candidate]) -> Result<Recovered, RepoError> {
    let ids = |encryption: Encryption| {
        let mut ids = Vec::new();
        for one in all.iter().filter(|one| one.config.encryption == encryption) {
            if !ids.contains(&one.id) {
                ids.push(one.id);
            }
        }
        ids
    };
    let (sealed, plain) = (ids(Encryption::Age), ids(Encryption::None));
    if sealed.is_empty() || plain.is_empty() {
        let (ids, encryption) =
            if plain.is_empty() { (&sealed, Encryption::Age) } else { (&plain, Encryption::None) };
        return recover_secret(opening, ids, encryption);
    }
    // Somebody has put one of the two there. What is sealed opens only for who has a key; what is not, for everybody.
    match recover_secret(opening, &sealed, Encryption::Age) {
        Ok(recovered) => Ok(recovered),
        Err(_) if opening.secrets.writer_mark().is_some() => {
            recover_secret(opening, &plain, Encryption::None)
        }
        Err(e) => Err(RepoError::Distrusted {
            location: opening.store.location(),
            what: format!(
                "there is a config that says encryption \"age\" and one that says \"none\": somebody has put one of them there; give the passphrase or an identity, or, if yours is not encrypted, its mark with --writer-mark; {}",
                e.chain()
            ),
        }),
    }
}

/// Returns those that are of this repository and encrypted so.
fn fitting(all: &[Candidate], id: Option<RepositoryId>, encryption: Encryption) -> Vec<&Candidate> {
    let fits = |one: &&Candidate| one.config.encryption == encryption;
    let first = all.iter().find(fits).map(|one| one.id);
    let id = id.or(first);
    all.iter().filter(fits).filter(|one| Some(one.id) == id).collect()
}

/// Returns the repository that a pack is of which this writer secret's fragments list, if one of the `config`s is of it.
fn id_in_packs(store: &dyn Store, writer: &WriterKeys, all: &[Candidate]) -> Option<RepositoryId> {
    let packs = store.list(Folder::Packs).ok()?;
    for found in store.list(Folder::Index).ok()? {
        let Some(name) = found.name else { continue }; // somebody else's
        let Ok(bytes) = read_named(store, &name, crate::base::limits::RECORD_BYTES_CAP as u64) else {
            continue;
        };
        let Ok(fragment) = crate::repo::index::parse_fragment(writer, &name, &bytes) else { continue };
        for pack in fragment.packs {
            let there = packs.iter().find(|found| found.name == Some(Name::Pack(pack.id)));
            let header = there.and_then(|found| pack_header(store, found));
            if let Some(header) = header.filter(|header| all.iter().any(|one| one.id == header.repository)) {
                return Some(header.repository);
            }
        }
    }
    None
}

/// Returns the place of the one that the newest manifest was made with which says so; the oldest if none says it: they
/// differ in nothing then but in how much a backup stores and how fast.
fn made_with(store: &dyn Store, writer: &WriterKeys, ours: &[&Candidate]) -> usize {
    let found = store.list(Folder::Snapshots).unwrap_or_default();
    let names: Vec<Name> = found.into_iter().filter_map(|found| found.name).collect();
    let read = |name: &Name| {
        let Name::Snapshot(id) = name else { return None };
        let bytes = read_named(store, name, MANIFEST_FILE_BYTES_MAX).ok()?;
        let manifest = open_manifest(writer, name, &bytes).ok()?;
        Some((manifest.order(*id), manifest.config_proof()?))
    };
    let newest = read_side_by_side(&names, read).into_iter().filter_map(|(_, said)| said).max();
    let fits = |proof: [u8; 32]| ours.iter().position(|one| writer.config_proof(&one.bytes) == proof);
    match newest.and_then(|(_, proof)| fits(proof)) {
        Some(at) => at,
        None => {
            tracing::warn!(
                "config: {} versions of it are there, and no snapshot says which it was made with: the oldest is taken; they differ in nothing but in how much a backup stores and how fast",
                ours.len()
            );
            0
        }
    }
}
