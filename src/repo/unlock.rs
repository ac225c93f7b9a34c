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
use crate::repo::config::Encryption;
use crate::repo::contest::{Claimant, add_distinct, contested, weighed};
use crate::repo::key_ring::read_keys;
use crate::repo::keys::{
    KeyBody, KeyFile, Passphrase, Secrets, Unwrapped, WrappedIdentity, WriterKeys, forms,
    open_carried_secret, open_with_identities, unwrap_identity,
};
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
    sealed: Vec<(KeyFileId, Vec<u8>)>,
    plain: Vec<[u8; 32]>,
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
        let mut ring =
            Self { wrapped: Vec::new(), sealed: Vec::new(), plain: Vec::new(), damaged: Vec::new() };
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
                Ok((_, KeyBody::SealedWriter { age })) => ring.sealed.push((id, age)),
                Ok((_, KeyBody::PlainWriter { secret })) => ring.plain.push(secret),
                Ok(_) => {}
            }
        }
        // An age file may name thousands of recipients, each of which takes time: long ones come last.
        ring.sealed.sort_by_key(|(_, age)| age.len());
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

/// What opening with what a person gives has found.
pub struct Recovered {
    /// The writer secret.
    pub writer: WriterKeys,
    /// The identities that open content.
    pub identities: Vec<Identity>,
    /// The repository that they were wrapped for, where that is known.
    pub id: Option<RepositoryId>,
    /// Whether anything but an identity speaks for the secret: what a passphrase opened, its mark, a snapshot.
    pub is_vouched_for: bool,
}

/// Finds the writer secret of the repository that has one of these `ids`, under `keys/`, or else in the headers of packs.
/// What somebody else has put there is named and passed over.
///
/// # Errors
/// [`RepoError::NoWriterSecret`] if nothing that is given opens it, [`RepoError::Distrusted`] if several open and nothing
/// tells which is right, or as [`unlock`].
pub fn recover_secret(
    opening: &Opening<'_>,
    ids: &[RepositoryId],
    encryption: Encryption,
) -> Result<Recovered, RepoError> {
    let store = opening.store.as_ref();
    let secrets = opening.secrets;
    let mut ring = Ring::read(store, secrets.only_key())?;
    let first = ids.first().copied().unwrap_or(RepositoryId::from_bytes([0; RepositoryId::BYTES]));
    let missing = RepoError::NoWriterSecret {
        location: store.location(),
        state: state_file(opening.state, first).display().to_string(),
    };
    let mark = secrets.writer_mark();
    if encryption == Encryption::None {
        let mut plain =
            ring.plain.iter().map(|secret| WriterKeys::new(Secret::from_bytes(*secret), encryption));
        return match plain.find(|writer| mark.is_none_or(|mark| writer.has_mark(mark))) {
            Some(writer) => Ok(Recovered { writer, identities: Vec::new(), id: None, is_vouched_for: true }),
            None if !ring.plain.is_empty() => Err(no_such_mark(store, mark.unwrap_or_default())),
            None => Err(ring.damaged_or(store, 0, missing)),
        };
    }
    let given = secrets.identities()?;
    if !given.is_empty() {
        let writers = Writers { store, ids, sealed: &ring.sealed, identities: &given };
        return match writers.by_identity(mark)? {
            Some((writer, is_vouched_for)) => {
                Ok(Recovered { writer, identities: given, id: None, is_vouched_for })
            }
            None => Err(ring.damaged_or(store, 0, missing)),
        };
    }
    if ring.wrapped.is_empty() {
        return Err(ring.damaged_or(store, 0, missing));
    }
    let Some(passphrase) = secrets.passphrase()? else { return Err(missing) };
    let mut trial = Trial::new(std::mem::take(&mut ring.wrapped), &passphrase);
    let (mut is_strange, mut is_opened) = (false, false);
    while let Some(unwrapped) = trial.next() {
        if !ids.contains(&unwrapped.repository) {
            is_strange = true;
            continue;
        }
        let identities = vec![unwrapped.identity];
        let writers = Writers { store, ids, sealed: &ring.sealed, identities: &identities };
        let (found, has_other) = writers.by_mark(&unwrapped.writer)?;
        match found {
            Some(writer) if mark.is_none_or(|mark| writer.has_mark(mark)) => {
                let (writer, identities) = with_the_others(trial, writer, identities);
                let id = Some(unwrapped.repository);
                return Ok(Recovered { writer, identities, id, is_vouched_for: true });
            }
            found => {
                is_opened = true;
                is_strange |= has_other || found.is_some();
            }
        }
    }
    match is_opened && !is_strange {
        true => Err(ring.damaged_or(store, trial.tried, missing)),
        false => Err(nothing_opened(store, &mut ring, &trial, is_strange)),
    }
}

/// Returns the error for a mark that no writer secret has which opens.
fn no_such_mark(store: &dyn Store, mark: &str) -> RepoError {
    let what = format!("no writer secret that opens has a mark that begins with {mark} (--writer-mark)");
    RepoError::Distrusted { location: store.location(), what }
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
    ids: &'w [RepositoryId],
    sealed: &'w [(KeyFileId, Vec<u8>)],
    identities: &'w [Identity],
}

impl Writers<'_> {
    /// Returns the writer secret with this mark, which what was sealed in with an identity gives; and whether another
    /// one opens. Looks under `keys/`, then in the packs.
    fn by_mark(&self, mark: &[u8; 32]) -> Result<(Option<WriterKeys>, bool), RepoError> {
        let mut has_other = false;
        for (id, writer) in self.sealed.iter().filter_map(|(id, age)| Some((id, self.open(age)?))) {
            if writer.mark() == *mark {
                return Ok((Some(writer), has_other));
            }
            pass_over(&Name::Key(*id).to_string(), &writer);
            has_other = true;
        }
        let mut found = None;
        self.each_in_packs(&mut |writer| {
            let is_it = writer.mark() == *mark;
            if is_it {
                found = Some(writer);
            }
            is_it
        })?;
        Ok((found, has_other))
    }

    /// Returns the writer secret that is meant, and whether anything speaks for it but that it opens: the mark that was
    /// given, or snapshots. None if none opens.
    fn by_identity(&self, mark: Option<&str>) -> Result<Option<(WriterKeys, bool)>, RepoError> {
        let mut all = Vec::new();
        add_distinct(&mut all, self.sealed.iter().filter_map(|(_, age)| self.open(age)));
        if let Some(mark) = mark {
            let mut found = all.into_iter().find(|writer| writer.has_mark(mark));
            if found.is_none() {
                self.each_in_packs(&mut |writer| {
                    let is_it = writer.has_mark(mark);
                    if is_it {
                        found = Some(writer);
                    }
                    is_it
                })?;
            }
            return found.map(|writer| Some((writer, true))).ok_or_else(|| no_such_mark(self.store, mark));
        }
        let mut claimants = weighed(self.store, all)?;
        let has_none = |all: &[Claimant]| all.iter().all(|one| one.snapshots == 0);
        let has_snapshots = !self.store.list(Folder::Snapshots)?.is_empty();
        // Who is not among those that it is sealed to is not meant to have it. Where what opens is right of nothing that
        // is there, somebody else has sealed it.
        if has_none(&claimants) && (self.sealed.is_empty() || (!claimants.is_empty() && has_snapshots)) {
            let mut all: Vec<WriterKeys> = claimants.into_iter().map(|one| one.writer).collect();
            self.each_in_packs(&mut |writer| {
                add_distinct(&mut all, [writer]);
                false
            })?;
            claimants = weighed(self.store, all)?;
        }
        let speaks = claimants.iter().filter(|one| one.snapshots > 0).count();
        if speaks > 1 || (speaks == 0 && claimants.len() > 1) {
            return Err(contested(self.store, claimants));
        }
        claimants.sort_by_key(|one| one.snapshots == 0);
        let mut claimants = claimants.into_iter();
        let chosen = claimants.next().map(|one| (one.writer, one.snapshots > 0));
        claimants.for_each(|other| pass_over("keys/", &other.writer));
        Ok(chosen)
    }

    /// Opens a sealed writer secret.
    fn open(&self, age: &[u8]) -> Option<WriterKeys> {
        let plain = open_with_identities(self.identities, age)?;
        let secret = Secret::from_bytes(*plain.first_chunk::<32>()?);
        Some(WriterKeys::new(secret, Encryption::Age))
    }

    /// Gives what lies beside the data keys that packs carry to `judge`, until it says that it has what it wants: `keys/`
    /// may be lost. Packs that can't be read are passed over.
    fn each_in_packs(&self, judge: &mut dyn FnMut(WriterKeys) -> bool) -> Result<(), RepoError> {
        tracing::info!("no file under keys/ holds the writer secret: it is looked for in the packs");
        let mut tried = HashSet::new();
        for found in self.store.list(Folder::Packs)? {
            // All packs of a run carry the same key.
            let keys = carried_keys(self.store, self.ids, &found).unwrap_or_default();
            for key in keys.iter().filter(|key| tried.insert(key.age.clone())) {
                let secret = open_carried_secret(key, self.identities);
                if secret.is_some_and(|secret| judge(WriterKeys::new(secret, Encryption::Age))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Says that somebody else's writer secret opens, and is not taken.
fn pass_over(path: &str, writer: &WriterKeys) {
    tracing::warn!(
        "{path}: holds a writer secret that is not this repository's (mark {}): somebody else has sealed it to the same key; passed over",
        writer.shown_mark()
    );
}

/// Returns the sealed keys in a pack's header; none if it can't be read, or is another repository's.
fn carried_keys(store: &dyn Store, ids: &[RepositoryId], found: &Found) -> Option<Vec<SealedKey>> {
    pack_header(store, found).filter(|header| ids.contains(&header.repository)).map(|header| header.keys)
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
