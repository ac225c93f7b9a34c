//! What lies in the bucket and not here: removed on purpose, lost, or somebody else's.
//!
//! A snapshot that is gone here is forgotten only if `forgotten/` notes it. Else it was lost: it is told, and stays locked.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::forgotten::{Forgotten, ForgottenRow};
use crate::base::id::{ForgottenId, SnapshotId};
use crate::op::sync::bucket::{Bucket, answers};
use crate::op::sync::needs::Needing;
use crate::op::sync::{Problem, Report, Request};
use crate::repo::bucket_state::BucketState;
use crate::repo::forgotten::Notes;
use crate::repo::index::{read_directory, read_fragment};
use crate::repo::keys::{KeyFile, KeyInfo};
use crate::repo::{
    KEY_FILE_BYTES_MAX, MANIFEST_FILE_BYTES_MAX, RepoError, Repository, Snapshot, open_manifest,
    read_side_by_side,
};
use crate::store::{Folder, LockingStore, Name, Version, VersionId};

/// Lost snapshots that are told one by one; the others are counted.
const TOLD: usize = 10;

/// Files that are looked at before it is asked whether to stop.
const AT_ONCE: usize = 256;

/// What is in the bucket and not here.
#[derive(Default)]
pub struct Absent {
    /// Snapshots that were lost here, oldest first.
    pub lost: Vec<Snapshot>,
    /// Key files that were lost here, and what each is.
    pub lost_keys: Vec<(Name, String)>,
    /// Files that can't be judged, and why. They are kept.
    pub unknown: Vec<(Name, String)>,
    /// Snapshots that were removed on purpose.
    pub forgotten: BTreeSet<SnapshotId>,
    /// Files with names like ours that somebody else has put there.
    pub strange: BTreeSet<Name>,
    /// Manifests of which no version is what its name stands for.
    pub junk: BTreeSet<Name>,
    /// Packs and fragments that this machine has not put there, and that do not open. They are kept all the same: what lies
    /// below may be ours.
    pub odd: BTreeSet<Name>,
    /// Packs and fragments that this machine has not put there, and that do: the versions.
    ours: Vec<(Name, VersionId)>,
    /// How many that are not ours were told before.
    pub told_before: usize,
    /// Snapshots of a program that noted nothing, which the rules do not keep: they count as removed on purpose.
    pub expired: Vec<Snapshot>,
    /// How many snapshots there are, those that were lost and those that count as removed by the rules among them.
    pub there: usize,
    /// Notes here that name something which is still in the bucket.
    pub notes: BTreeSet<ForgottenId>,
}

/// What the genuine version of a file is.
enum Genuine {
    Bytes(Vec<u8>),
    /// No version is what its name stands for.
    None,
    /// One that may be can't be read, while the bucket answers.
    Unreadable(String),
}

/// What a key file is for.
enum KeyOf {
    Writer,
    Recipient(String),
}

/// What a file is that is neither here nor noted. Whoever may put can put any number of them: of what is not ours, nothing
/// is kept.
enum Verdict {
    /// A manifest of ours.
    Snapshot(Box<Snapshot>),
    /// A key file of ours, and what it is for.
    Key(KeyOf),
    /// Somebody else's.
    Strange,
    /// Nothing: no version is what the name stands for.
    Junk,
    /// It can't be told, and why.
    Unknown(String),
}

impl Absent {
    /// Looks at all manifests and key files in the bucket that are not here; reads those that are not noted, and not known
    /// to be somebody else's.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn read(
        repository: &Repository,
        remote: &Arc<dyn LockingStore>,
        bucket: &Bucket,
        needing: &[Needing],
        known: &BucketState,
        request: &Request<'_>,
    ) -> Result<(Self, Notes), RepoError> {
        let mut here = BTreeSet::new();
        for folder in [Folder::Snapshots, Folder::Keys] {
            here.extend(repository.store().list(folder)?.into_iter().filter_map(|found| found.name));
        }
        let notes = repository.forgotten()?; // after the manifests: what goes is noted before it goes
        let mut absent = Self::default();
        let rows = notes.rows();
        let is_there = |name: &Name| bucket.of(name).iter().any(|version| !version.is_marker);
        let all: Vec<Name> =
            bucket.names.keys().filter(|name| !here.contains(name) && is_there(name)).copied().collect();
        let is_noted = |name: &Name| matches!(name, Name::Snapshot(id) if rows.contains_key(id));
        absent.forgotten.extend(all.iter().filter(|name| is_noted(name)).filter_map(|name| match name {
            Name::Snapshot(id) => Some(*id),
            _ => None,
        }));
        let names_there = |note: &Forgotten| note.rows.iter().any(|row| is_there(&Name::Snapshot(row.id)));
        absent.notes =
            notes.all.iter().filter(|(_, all)| all.iter().any(names_there)).map(|(id, _)| *id).collect();
        let unnoted: Vec<Name> = all
            .into_iter()
            .filter(|name| matches!(name, Name::Snapshot(_) | Name::Key(_)) && !is_noted(name))
            .collect();
        let is_known = |name: &Name| {
            let mut contents = bucket.of(name).iter().filter(|version| !version.is_marker);
            contents.all(|version| known.is_strange(&version.path, &version.id))
        };
        let (strange, unnoted): (Vec<Name>, Vec<Name>) = unnoted.into_iter().partition(is_known);
        absent.told_before = strange.len();
        absent.junk.extend(strange.into_iter().filter(|name| matches!(name, Name::Snapshot(_))));
        let read = |name: &Name| -> Result<Verdict, RepoError> {
            Ok(match genuine(remote.as_ref(), name, bucket.of(name))? {
                Genuine::Bytes(bytes) => match name {
                    Name::Snapshot(id) => match open_manifest(repository.writer_keys(), name, &bytes) {
                        Ok(manifest) => Verdict::Snapshot(Box::new(Snapshot { id: *id, manifest })),
                        Err(e) if e.is_newer() => Verdict::Unknown(e.chain()),
                        Err(_) => Verdict::Strange,
                    },
                    _ => judge_key(repository, name, &bytes),
                },
                Genuine::None => Verdict::Junk,
                Genuine::Unreadable(why) => Verdict::Unknown(why),
            })
        };
        let mut keys = Vec::new();
        for some in unnoted.chunks(AT_ONCE) {
            request.heed()?;
            for (name, read) in read_side_by_side(some, read) {
                match read? {
                    Verdict::Snapshot(snapshot) => absent.lost.push(*snapshot),
                    Verdict::Key(of) => keys.push((name, of)),
                    Verdict::Unknown(why) => absent.unknown.push((name, why)),
                    Verdict::Junk if matches!(name, Name::Snapshot(_)) => _ = absent.junk.insert(name),
                    Verdict::Junk | Verdict::Strange => _ = absent.strange.insert(name),
                }
            }
        }
        absent.look_at_others(repository, remote, bucket, known, request)?;
        absent.without_replaced(needing);
        absent.without_expired(needing, request);
        absent.take_keys(repository, keys)?;
        absent.lost.sort_by_key(Snapshot::order);
        Ok((absent, notes))
    }

    /// Looks at packs and fragments that are neither here nor remembered: another machine has put them, or somebody who has
    /// the uploader's credentials, or what was remembered is gone.
    fn look_at_others(
        &mut self,
        repository: &Repository,
        remote: &Arc<dyn LockingStore>,
        bucket: &Bucket,
        known: &BucketState,
        request: &Request<'_>,
    ) -> Result<(), RepoError> {
        let mut here = BTreeSet::new();
        for folder in [Folder::Packs, Folder::Index] {
            here.extend(repository.store().list(folder)?.into_iter().filter_map(|found| found.name));
        }
        let is_known = |version: &Version| {
            known.until(&version.path, &version.id).is_some() || known.is_strange(&version.path, &version.id)
        };
        let unknown: Vec<Name> = bucket
            .names
            .iter()
            .filter(|(name, _)| matches!(name, Name::Pack(_) | Name::Fragment(_)) && !here.contains(name))
            .filter(|(_, versions)| {
                versions.iter().any(|one| !one.is_marker) && !versions.iter().any(is_known)
            })
            .map(|(name, _)| *name)
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let there = repository.over(remote.clone())?;
        let opens = |name: &Name| match name {
            Name::Pack(id) => {
                let bytes = bucket.of(name).last().map_or(0, |version| version.bytes);
                read_directory(&there, *id, bytes).map(drop)
            }
            Name::Fragment(id) => read_fragment(&there, *id).map(drop),
            _ => Ok(()),
        };
        for some in unknown.chunks(AT_ONCE) {
            request.heed()?;
            for (name, read) in read_side_by_side(some, opens) {
                match (read, bucket.of(&name).last()) {
                    (Ok(()), Some(top)) => self.ours.push((name, top.id.clone())),
                    (Err(e), _) if e.is_damage() && !e.is_newer() => _ = self.odd.insert(name),
                    _ => {} // it can't be read, or a newer program wrote it
                }
            }
        }
        Ok(())
    }

    /// Takes those out of what is lost whose place others have taken.
    fn without_replaced(&mut self, needing: &[Needing]) {
        let here = needing.iter().filter_map(|one| one.snapshot.manifest.replaces);
        let replaced: BTreeSet<SnapshotId> =
            here.chain(self.lost.iter().filter_map(|one| one.manifest.replaces)).collect();
        self.forget(&replaced);
    }

    /// Takes those out that programs which noted nothing have removed: a snapshot of such a program that the rules do
    /// not keep.
    fn without_expired(&mut self, needing: &[Needing], request: &Request<'_>) {
        let is_old = |one: &&Snapshot| one.manifest.config_proof().is_none();
        let old: BTreeSet<SnapshotId> = self.lost.iter().filter(is_old).map(|one| one.id).collect();
        if old.is_empty() {
            return;
        }
        let mut all: Vec<Snapshot> = needing.iter().map(|one| one.snapshot.clone()).collect();
        all.extend(self.lost.iter().cloned());
        all.sort_by_key(Snapshot::order);
        let expired: BTreeSet<SnapshotId> = (request.expired)(&all).intersection(&old).copied().collect();
        self.there = all.len();
        self.expired = self.lost.iter().filter(|one| expired.contains(&one.id)).cloned().collect();
        self.forget(&expired);
    }

    fn forget(&mut self, these: &BTreeSet<SnapshotId>) {
        self.forgotten.extend(self.lost.iter().map(|one| one.id).filter(|id| these.contains(id)));
        self.lost.retain(|one| !these.contains(&one.id));
    }

    /// Judges key files: one is lost if nobody has removed it, and nothing here does what it does.
    fn take_keys(&mut self, repository: &Repository, keys: Vec<(Name, KeyOf)>) -> Result<(), RepoError> {
        let own: Vec<KeyInfo> =
            repository.key_files()?.into_iter().flatten().filter(|info| info.is_proven).collect();
        // A newer sealing of the writer secret shows whom another machine has removed, which this one still remembers.
        let sealed_to = repository.sealed_to().ok().map(|sealed_to| sealed_to.recipients);
        let meant = sealed_to.filter(|all| !all.is_empty()).or_else(|| repository.remembered_recipients());
        for (name, of) in keys {
            let what = match of {
                KeyOf::Writer => {
                    (!own.iter().any(|info| info.body.is_writer())).then(|| "the writer secret".to_owned())
                }
                KeyOf::Recipient(recipient) => {
                    let has_own = own.iter().any(|info| info.recipient() == Some(recipient.as_str()));
                    let is_meant = meant.as_ref().map_or(own.is_empty(), |meant| meant.contains(&recipient));
                    (!has_own && is_meant).then(|| format!("the key of {recipient}"))
                }
            };
            self.lost_keys.extend(what.map(|what| (name, what)));
        }
        Ok(())
    }

    /// Returns whether something was lost here, or may have been.
    pub fn is_in_doubt(&self) -> bool {
        !(self.lost.is_empty() && self.lost_keys.is_empty() && self.unknown.is_empty())
    }

    /// Returns what need not be kept although it is not known what is needed: what was removed on purpose, and what is
    /// not ours.
    pub fn needless(&self) -> BTreeSet<Name> {
        let forgotten = self.forgotten.iter().map(|id| Name::Snapshot(*id));
        forgotten.chain(self.strange.iter().copied()).chain(self.junk.iter().copied()).collect()
    }

    /// Notes what was lost as removed on purpose: somebody has said so.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn accept(
        &mut self,
        repository: &Repository,
        there: usize,
        request: &Request<'_>,
        report: &mut Report,
    ) -> Result<(), RepoError> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let row = |one: &Snapshot| ForgottenRow {
            id: one.id,
            time: Some(one.manifest.time),
            rule: "lost, and accepted with 'snap sync --accept-loss'".to_owned(),
            is_by_hand: true,
            is_replaced: false,
        };
        let count = self.lost.len();
        if !request.options.dry_run {
            let there = (there + count) as u64;
            let id = repository.note_forgotten(request.now, there, self.lost.iter().map(row).collect())?;
            self.notes.insert(id);
        }
        let lost: BTreeSet<SnapshotId> = self.lost.iter().map(|one| one.id).collect();
        self.forget(&lost);
        let would = if request.options.dry_run { "would be" } else { "are" };
        report.notes.push(format!(
            "{count} snapshots that were lost here {would} given up: their locks in the bucket are not renewed any more"
        ));
        Ok(())
    }

    /// Tells what was lost, what can't be judged and what is not ours. The last is told as something wrong once.
    pub fn tell(
        &self,
        remote: &dyn LockingStore,
        bucket: &Bucket,
        known: &mut BucketState,
        report: &mut Report,
    ) {
        let location = remote.location();
        let mut tell = |path: String, what: String| report.problems.push(Problem { path, what });
        for one in self.lost.iter().take(TOLD) {
            let (date, time) = one.manifest.time.utc();
            tell(
                Name::Snapshot(one.id).to_string(),
                format!(
                    "the snapshot of {date} {time} UTC is in the bucket and not here, and nothing notes that it was removed: it was lost here; it stays locked; 'snap clone --without-forgotten {location}' brings it back, 'snap sync --accept-loss' lets it go"
                ),
            );
        }
        if self.lost.len() > TOLD {
            tell(
                location.clone(),
                format!(
                    "{} more snapshots were lost here, {} in all; they stay locked",
                    self.lost.len() - TOLD,
                    self.lost.len()
                ),
            );
        }
        for (name, what) in &self.lost_keys {
            tell(
                name.to_string(),
                format!(
                    "{what} is in the bucket and not here, and nobody has removed it with 'snap key': it was lost here; it stays locked; 'snap check --repair-from {location}' brings it back"
                ),
            );
        }
        for (name, why) in &self.unknown {
            tell(
                name.to_string(),
                format!("what it is can't be told, so all that is there stays locked: {why}"),
            );
        }
        known.keep_strange(|path| Name::parse(path).is_some_and(|name| bucket.names.contains_key(&name)));
        let mut new = 0;
        for (name, id) in &self.ours {
            known.learn(&name.to_string(), id, 0);
        }
        for name in self.strange.iter().chain(&self.junk).chain(&self.odd) {
            let path = name.to_string();
            let versions = bucket.of(name);
            if versions.iter().all(|version| version.is_marker || known.is_strange(&path, &version.id)) {
                continue;
            }
            known.learn_strange(&path, versions.iter().map(|version| &version.id));
            new += 1;
            if new <= TOLD {
                tell(
                    path,
                    "has a name like ours and was not written by this repository's owner: somebody has put it there; look for who has the uploader's credentials".to_owned(),
                );
            }
        }
        if new > TOLD {
            tell(location, format!("{} more files have names like ours and are not ours", new - TOLD));
        }
        if self.told_before > 0 {
            report.notes.push(format!(
                "{} files with names like ours are not ours, as was told before; left alone",
                self.told_before
            ));
        }
    }
}

/// Judges a key file by its bytes.
fn judge_key(repository: &Repository, name: &Name, bytes: &[u8]) -> Verdict {
    let (file, body) = match KeyFile::parse(bytes) {
        Ok(parsed) => parsed,
        Err(e) if RepoError::record(name, e.clone()).is_newer() => return Verdict::Unknown(e.to_string()),
        Err(_) => return Verdict::Strange,
    };
    if !file.is_by(repository.writer_keys()) {
        return Verdict::Strange;
    }
    let recipient = body.recipient().map(str::to_owned);
    Verdict::Key(recipient.map_or(KeyOf::Writer, KeyOf::Recipient))
}

/// Returns the bytes of the version that a name stands for, the newest of them.
fn genuine(remote: &dyn LockingStore, name: &Name, versions: &[Version]) -> Result<Genuine, RepoError> {
    let mut unreadable = None;
    let bytes_max = if let Name::Key(_) = name { KEY_FILE_BYTES_MAX } else { MANIFEST_FILE_BYTES_MAX };
    let contents = versions.iter().rev().filter(|version| !version.is_marker);
    for version in contents.filter(|version| version.bytes <= bytes_max) {
        match remote.read_version(&version.path, &version.id, 0..version.bytes) {
            Ok(bytes) if name.hash() == Some(*blake3::hash(&bytes).as_bytes()) => {
                return Ok(Genuine::Bytes(bytes));
            }
            Ok(_) => {}
            Err(e) if answers(remote) => _ = unreadable.get_or_insert(e),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(unreadable.map_or(Genuine::None, |e| Genuine::Unreadable(RepoError::Store(e).chain())))
}
