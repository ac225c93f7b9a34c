//! Opening with what a person gives: which wrapped keys a passphrase is tried on, in which order, and how the writer
//! secret is found on a machine that does not keep it.
//!
//! Who can write to the disk can add key files, as many and as costly to try as he likes. Those that the writer
//! secret proves come first. Where nothing can be proven yet, those come first that cost what this program's own do,
//! then the cheaper before the costlier; and it ends at the first that opens.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use age::x25519::Identity;

use crate::base::id::{KeyFileId, RepositoryId};
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::config::{Config, Encryption};
use crate::repo::key_ring::read_keys;
use crate::repo::keys::{
    KeyBody, KeyFile, Passphrase, Secrets, Unwrapped, WrappedIdentity, WriterKeys, forms,
    open_carried_secret, open_with_identities, unwrap_identity,
};
use crate::repo::manifests::has_manifest_of;
use crate::repo::state::state_file;
use crate::repo::{Opening, RepoError};
use crate::stage::pack::{PackHeader, SealedKey};
use crate::stage::seal::Secret;
use crate::store::{Folder, Found, Name, Store};

/// First read of a pack's header, and the longest header that is read, in bytes.
const HEADER_BYTES_GUESS: u64 = 4096;
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Time after which each further try of a passphrase is said.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// What `keys/` holds for who knows nothing yet, in the order in which it is tried.
struct Ring {
    wrapped: Vec<Wrapped>,
    sealed: Vec<Vec<u8>>,
    plain: Option<[u8; 32]>,
    /// Files that can't be read, and why.
    damaged: Vec<(KeyFileId, RepoError)>,
}

/// An identity that a passphrase may open.
struct Wrapped {
    id: KeyFileId,
    recipient: String,
    identity: WrappedIdentity,
    file: KeyFile,
    is_proven: bool,
}

impl Ring {
    /// Reads all key files; only those whose ids begin with `only` if it is given.
    fn read(store: &dyn Store, only: Option<&str>) -> Result<Self, RepoError> {
        let mut ring = Self { wrapped: Vec::new(), sealed: Vec::new(), plain: None, damaged: Vec::new() };
        let mut is_there = only.is_none();
        for (id, read) in read_keys(store, store.list_oldest_first(Folder::Keys)?) {
            let is_meant = only.is_none_or(|only| id.to_string().starts_with(only));
            is_there |= is_meant;
            match read {
                Err(RepoError::Store(e)) if e.is_missing() => {} // it was removed meanwhile
                Err(e) => ring.damaged.push((id, e)),
                Ok((file, KeyBody::Identity { recipient, wrapped: identity, .. })) if is_meant => {
                    ring.wrapped.push(Wrapped { id, recipient, identity, file, is_proven: false });
                }
                Ok((_, KeyBody::SealedWriter { age })) => ring.sealed.push(age),
                Ok((_, KeyBody::PlainWriter { secret })) => _ = ring.plain.get_or_insert(secret),
                Ok(_) => {}
            }
        }
        // An age file may name thousands of recipients, each of which takes time: long ones come last.
        ring.sealed.sort_by_key(Vec::len);
        match (is_there, only) {
            (false, Some(only)) => Err(RepoError::Source {
                path: format!("--key {only}"),
                reason: format!(
                    "no file in {}/keys has an id that begins so; see 'snap key list'",
                    store.location()
                ),
            }),
            _ => Ok(ring),
        }
    }

    /// Brings those that were written by who has the writer secret to the front.
    fn prove(&mut self, writer: &WriterKeys) {
        for wrapped in &mut self.wrapped {
            wrapped.is_proven = wrapped.file.is_by(writer);
        }
    }

    /// Returns the error for who can open nothing: what can't be read may be what is needed.
    fn damaged_or(&mut self, store: &dyn Store, tried: usize, other: RepoError) -> RepoError {
        match std::mem::take(&mut self.damaged) {
            damaged if damaged.is_empty() => other,
            damaged => RepoError::KeysDamaged { location: store.location(), tried, damaged },
        }
    }
}

/// A passphrase, tried on one wrapped identity after the other.
struct Trial {
    left: VecDeque<Wrapped>,
    forms: Vec<Passphrase>,
    opened: BTreeSet<String>,
    tried: usize,
    total: usize,
    started: Instant,
}

impl Trial {
    fn new(wrapped: Vec<Wrapped>, passphrase: &Passphrase) -> Self {
        let mut trial = Self {
            total: wrapped.len(),
            left: wrapped.into(),
            forms: forms(passphrase),
            opened: BTreeSet::new(),
            tried: 0,
            started: Instant::now(),
        };
        trial.sort();
        trial
    }

    /// Orders what is left; of two that are alike the first stays first: in a bucket the older.
    fn sort(&mut self) {
        let order = |one: &Wrapped| (!one.is_proven, !one.identity.is_ordinary(), one.identity.cost_kib());
        self.left.make_contiguous().sort_by_key(order);
    }

    /// Takes what opened as one of ours: of what is left only those are tried that the writer secret proves, and
    /// that hold other identities.
    fn keep(&mut self, identity: &Identity) {
        self.opened.insert(identity.to_public().to_string());
    }

    /// Returns the next identity that the passphrase opens; none if there is no other.
    fn next(&mut self) -> Option<Unwrapped> {
        while let Some(wrapped) = self.left.pop_front() {
            if !self.opened.is_empty() && !wrapped.is_proven {
                return None; // they are in order
            }
            if self.opened.contains(&wrapped.recipient) {
                continue;
            }
            self.tell(&wrapped);
            self.tried += 1;
            let open = |form: &Passphrase| unwrap_identity(&wrapped.identity, form);
            if let Some(unwrapped) = self.forms.iter().find_map(open) {
                return Some(unwrapped);
            }
        }
        None
    }

    /// Says what is tried, if it has taken long already.
    fn tell(&self, next: &Wrapped) {
        if self.started.elapsed() > SILENT_MAX {
            tracing::warn!(
                "{}: the passphrase is tried on it, which takes {} MiB of memory; {} of {} tried, none of them opens; Ctrl-C ends this, --key ID tries one alone",
                Name::Key(next.id),
                next.identity.memory_kib.div_ceil(1024),
                self.tried,
                self.total
            );
        }
    }
}

/// Returns the identities that open content; none if `secrets` give neither identity nor passphrase. A passphrase
/// opens those that were wrapped by who had this writer secret; an identity that is given directly vouches for nothing.
///
/// # Errors
/// [`RepoError::WrongPassphrase`]; [`RepoError::KeysDamaged`] if what it may open can't be read;
/// [`RepoError::Distrusted`] if it opens only what was wrapped for another repository.
pub fn unlock(
    store: &dyn Store,
    id: RepositoryId,
    writer: &WriterKeys,
    secrets: &dyn Secrets,
) -> Result<Option<Vec<Identity>>, RepoError> {
    let mut identities = secrets.identities()?;
    if !identities.is_empty() {
        return Ok(Some(identities));
    }
    let mut ring = Ring::read(store, secrets.only_key())?;
    if ring.wrapped.is_empty() && ring.damaged.is_empty() {
        return Ok(None); // no passphrase could open anything
    }
    if ring.wrapped.is_empty() {
        return Err(ring.damaged_or(store, 0, RepoError::Locked));
    }
    let Some(passphrase) = secrets.passphrase()? else { return Ok(None) };
    ring.prove(writer);
    let mut trial = Trial::new(std::mem::take(&mut ring.wrapped), &passphrase);
    let mut is_strange = false;
    while let Some(unwrapped) = trial.next() {
        if unwrapped.repository != id || unwrapped.writer != writer.mark() {
            is_strange = true;
            continue;
        }
        trial.keep(&unwrapped.identity);
        identities.push(unwrapped.identity);
    }
    if !identities.is_empty() {
        return Ok(Some(identities));
    }
    Err(nothing_opened(store, &mut ring, &trial, is_strange))
}

fn nothing_opened(store: &dyn Store, ring: &mut Ring, trial: &Trial, is_strange: bool) -> RepoError {
    if is_strange {
        return distrusted(store);
    }
    let wrong = RepoError::WrongPassphrase { tried: trial.tried, location: store.location() };
    ring.damaged_or(store, trial.tried, wrong)
}

/// Returns the error for a repository whose keys belong to another one.
pub fn distrusted(store: &dyn Store) -> RepoError {
    RepoError::Distrusted {
        location: store.location(),
        what: "its keys were made for another repository: somebody put this one in its place".to_owned(),
    }
}

/// Finds the writer secret under `keys/`, or else in the header of a pack. Reads one header after the other
/// until one opens, all of them if none does.
///
/// # Errors
/// [`RepoError::NoWriterSecret`] if nothing that is given opens it, or as [`unlock`].
pub fn recover_secret(
    opening: &Opening<'_>,
    config: &Config,
    id: RepositoryId,
) -> Result<(WriterKeys, Vec<Identity>), RepoError> {
    let store = opening.store.as_ref();
    let secrets = opening.secrets;
    let mut ring = Ring::read(store, secrets.only_key())?;
    let missing = RepoError::NoWriterSecret {
        location: store.location(),
        state: state_file(opening.state, id).display().to_string(),
    };
    if config.encryption == Encryption::None {
        return match ring.plain {
            Some(secret) => Ok((WriterKeys::new(Secret::from_bytes(secret), config.encryption), Vec::new())),
            None => Err(ring.damaged_or(store, 0, missing)),
        };
    }
    let given = secrets.identities()?;
    if !given.is_empty() {
        let writers = Writers { store, id, sealed: &ring.sealed, identities: &given };
        return match writers.find(|writer| ring.sealed.len() < 2 || has_manifest_of(store, writer))? {
            Sought::Found(writer) => Ok((writer, given)),
            // As long as there is no snapshot nothing tells which of several is right: the first that opens.
            Sought::Other(Some(writer)) if store.list(Folder::Snapshots)?.is_empty() => Ok((writer, given)),
            Sought::Other(_) => Err(ring.damaged_or(store, 0, missing)),
        };
    }
    if ring.wrapped.is_empty() {
        return Err(ring.damaged_or(store, 0, missing));
    }
    let Some(passphrase) = secrets.passphrase()? else { return Err(missing) };
    let mut trial = Trial::new(std::mem::take(&mut ring.wrapped), &passphrase);
    let (mut is_strange, mut is_opened) = (false, false);
    while let Some(unwrapped) = trial.next() {
        if unwrapped.repository != id {
            is_strange = true;
            continue;
        }
        let identities = vec![unwrapped.identity];
        let writers = Writers { store, id, sealed: &ring.sealed, identities: &identities };
        match writers.find(|writer| writer.mark() == unwrapped.writer)? {
            Sought::Found(writer) => return Ok(with_the_others(trial, writer, identities)),
            Sought::Other(found) => {
                is_opened = true;
                is_strange |= found.is_some();
            }
        }
    }
    match is_opened && !is_strange {
        true => Err(ring.damaged_or(store, trial.tried, missing)),
        false => Err(nothing_opened(store, &mut ring, &trial, is_strange)),
    }
}

/// Adds the identities that the same passphrase opens, now that the writer secret tells which are ours.
fn with_the_others(
    mut trial: Trial,
    writer: WriterKeys,
    mut identities: Vec<Identity>,
) -> (WriterKeys, Vec<Identity>) {
    identities.iter().for_each(|identity| trial.keep(identity));
    for wrapped in &mut trial.left {
        wrapped.is_proven = wrapped.file.is_by(&writer);
    }
    trial.sort();
    while let Some(unwrapped) = trial.next() {
        if unwrapped.writer == writer.mark() {
            trial.keep(&unwrapped.identity);
            identities.push(unwrapped.identity);
        }
    }
    (writer, identities)
}

/// Where the writer secret may lie, sealed.
struct Writers<'w> {
    store: &'w dyn Store,
    id: RepositoryId,
    sealed: &'w [Vec<u8>],
    identities: &'w [Identity],
}

/// What came of a search for the writer secret.
enum Sought {
    /// It is there.
    Found(WriterKeys),
    /// None that fits is there; the first that opens, if one does.
    Other(Option<WriterKeys>),
}

impl Writers<'_> {
    /// Looks for one that opens and `fits`: under `keys/`, and where no file there holds any, in the packs.
    fn find(&self, fits: impl Fn(&WriterKeys) -> bool) -> Result<Sought, RepoError> {
        let mut other = None;
        let mut judge = |secret: Secret| {
            let writer = WriterKeys::new(secret, Encryption::Age);
            if fits(&writer) {
                return Some(writer);
            }
            other.get_or_insert(writer);
            None
        };
        for age in self.sealed {
            let plain = open_with_identities(self.identities, age);
            let secret = plain.and_then(|plain| plain.first_chunk::<32>().map(|it| Secret::from_bytes(*it)));
            if let Some(writer) = secret.and_then(&mut judge) {
                return Ok(Sought::Found(writer));
            }
        }
        // Who is not among those that it is sealed to is not meant to have it.
        if self.sealed.is_empty()
            && let Some(writer) = self.find_in_packs(&mut judge)?
        {
            return Ok(Sought::Found(writer));
        }
        Ok(Sought::Other(other))
    }

    /// Looks beside the data keys that packs carry: `keys/` may be lost. Packs that can't be read are passed over.
    fn find_in_packs(
        &self,
        judge: &mut dyn FnMut(Secret) -> Option<WriterKeys>,
    ) -> Result<Option<WriterKeys>, RepoError> {
        tracing::info!("no file under keys/ holds the writer secret: it is looked for in the packs");
        let mut tried = HashSet::new();
        for found in self.store.list(Folder::Packs)? {
            // All packs of a run carry the same key.
            let keys = carried_keys(self.store, self.id, &found).unwrap_or_default();
            for key in keys.iter().filter(|key| tried.insert(key.age.clone())) {
                if let Some(writer) = open_carried_secret(key, self.identities).and_then(&mut *judge) {
                    return Ok(Some(writer));
                }
            }
        }
        Ok(None)
    }
}

/// Returns the sealed keys in a pack's header; none if it can't be read, or is another repository's.
fn carried_keys(store: &dyn Store, id: RepositoryId, found: &Found) -> Option<Vec<SealedKey>> {
    pack_header(store, found).filter(|header| header.repository == id).map(|header| header.keys)
}

/// Returns a pack's header, whosever it is; none if it can't be read. Needs no open repository, as
/// [`read_pack_header`](crate::repo::reader::read_pack_header) does.
pub fn pack_header(store: &dyn Store, found: &Found) -> Option<PackHeader> {
    let name = found.name.filter(|name| matches!(name, Name::Pack(_)))?;
    let read = |end: u64| store.read_range(&name, 0..end.min(found.bytes)).ok();
    let mut bytes = read(HEADER_BYTES_GUESS)?;
    if let Err(WireError::Length { expected, .. }) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes) {
        bytes = read(expected.min(HEADER_BYTES_MAX))?;
    }
    let (payload, _) = wire::unwrap_prefix(RecordKind::PackHeader, &bytes).ok()?;
    wire::decode(payload).ok()
}
