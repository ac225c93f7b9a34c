//! Damaged and missing files of a repository ← the same files in another copy of it.
//!
//! Names are hashes, so a copy's file is proven good before it takes the place of anything, and a file
//! is proven damaged before anything takes its place.

use std::collections::BTreeSet;

use crate::base::progress::{Done, Progress};
use crate::base::time::Time;
use crate::repo::config::Encryption;
use crate::repo::index::read_fragment;
use crate::repo::keys::{KeyBody, KeyFile, recipient_count};
use crate::repo::{KEY_FILE_BYTES_MAX, RepoError, Repository};
use crate::store::{Folder, Name, Store, StoreError, Upload};

/// Bytes read at one stroke.
const PIECE_BYTES: u64 = 8 << 20;

/// What is said of a file that helps nobody.
const DAMAGED_THERE: &str = "in the other copy it is damaged as well";

/// What was healed.
#[derive(Debug, Default)]
#[must_use = "what could not be healed needs somebody"]
pub struct Report {
    /// Files that are whole again, by path.
    pub healed: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
    /// Files that could not be healed, and why.
    pub lost: Vec<(String, String)>,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
    /// What ended it before everything was tried: [`RepoError::Store`] if the repository could not be read or
    /// written, or [`RepoError::Interrupted`]. What was healed before stays.
    pub stopped: Option<RepoError>,
}

/// How a file lies in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Wrong,
    Good,
}

/// Why a file was not brought.
enum Failure {
    /// The other copy does not give it: that is told, and the next file's turn comes.
    There(String),
    /// It can't be put here, or the run is to stop.
    Here(RepoError),
}

/// A key file, and what it holds.
type Key = (Name, KeyBody);

/// Heals the files that a check has named, from `source`, which holds another copy of the repository.
/// Where a snapshot needs what nothing here tells of, the fragments of `source` tell. Of the key files whose
/// names nobody knows only those are brought whose recipients this machine remembers and no file here names, and those
/// without which nothing could be opened or written: the others may have been removed here.
///
/// A file that is damaged stays until the good bytes are durable. Each file is read once here and once there.
pub fn heal<'p>(
    repository: &Repository,
    source: &dyn Store,
    damaged: impl IntoIterator<Item = &'p str>,
    progress: &Progress,
) -> Report {
    let mut healer = Healer { repository, source, progress, report: Report::default() };
    let healed = healer.all(damaged.into_iter().collect());
    healer.report.stopped = healed.err();
    healer.report
}

/// Reads a whole file and tells whether it is what its name stands for. A read that fails is tried twice.
fn state(repository: &Repository, name: &Name, progress: &Progress) -> Result<State, RepoError> {
    let found = name.folder().map(|folder| repository.store().list(folder)).transpose()?.unwrap_or_default();
    let Some(found) = found.into_iter().find(|found| found.name == Some(*name)) else {
        return Ok(State::Missing);
    };
    for _ in 0..2 {
        match repository.prove(name, found.bytes, progress) {
            Ok(()) => return Ok(State::Good),
            Err(RepoError::NameMismatch { .. }) => return Ok(State::Wrong),
            Err(RepoError::Interrupted) => return Err(RepoError::Interrupted),
            Err(RepoError::Store(StoreError::Missing { .. })) => return Ok(State::Missing),
            Err(_) => {}
        }
    }
    Ok(State::Wrong)
}

/// Returns what is said of a file that the other copy has and does not give.
fn not_given(error: StoreError) -> String {
    format!("the other copy does not give it: {}", RepoError::from(error).chain())
}

/// Returns for each of these recipients the key file that was made last: an earlier one may be of a passphrase that
/// was changed.
fn newest_of(keys: &[Key], recipients: &BTreeSet<String>) -> Vec<Name> {
    let newest = recipients.iter().filter_map(|wanted| {
        let theirs = keys.iter().filter(|(_, body)| body.recipient() == Some(wanted));
        theirs.max_by_key(|(_, body)| created(body)).map(|(name, _)| *name)
    });
    newest.collect()
}

/// Returns when a key file that names a recipient was made.
fn created(body: &KeyBody) -> Option<Time> {
    match body {
        KeyBody::Identity { created, .. } | KeyBody::Recipient { created, .. } => Some(*created),
        KeyBody::SealedWriter { .. } | KeyBody::PlainWriter { .. } => None,
    }
}

struct Healer<'h> {
    repository: &'h Repository,
    source: &'h dyn Store,
    progress: &'h Progress,
    report: Report,
}

impl Healer<'_> {
    fn all(&mut self, damaged: BTreeSet<&str>) -> Result<(), RepoError> {
        let (mut needs_fragments, mut needs_keys) = (false, false);
        for path in damaged {
            if self.progress.is_cancelled() {
                return Err(RepoError::Interrupted);
            }
            let Some(name) = Name::parse(path).filter(|name| name.hash().is_some()) else {
                needs_keys |= path.trim_end_matches('/') == Folder::Keys.name();
                continue;
            };
            match state(self.repository, &name, self.progress)? {
                State::Good => needs_fragments |= matches!(name, Name::Snapshot(_)),
                state => _ = self.bring(&name, state)?,
            }
        }
        if needs_fragments {
            self.bring_fragments()?;
        }
        if needs_keys {
            self.bring_keys()?;
        }
        Ok(())
    }

    fn lose(&mut self, path: impl ToString, why: impl Into<String>) {
        self.report.lost.push((path.to_string(), why.into()));
    }

    /// Brings a file from the other copy; returns its bytes. None if that copy does not give it, which is told.
    fn bring(&mut self, name: &Name, state: State) -> Result<Option<u64>, RepoError> {
        let (upload, bytes) = match self.fetch(name) {
            Ok(fetched) => fetched,
            Err(Failure::There(why)) => {
                self.lose(name, why);
                return Ok(None);
            }
            Err(Failure::Here(error)) => return Err(error),
        };
        let placed = match state {
            State::Wrong => upload.replace(name),
            State::Missing | State::Good => upload.commit(name),
        };
        match placed {
            Ok(()) | Err(StoreError::Taken { .. }) => {} // somebody has stored the same just now
            Err(e) => return Err(e.into()),
        }
        self.progress.add(Done { files: 1, bytes });
        self.report.healed.push(name.to_string());
        self.report.bytes += bytes;
        Ok(Some(bytes))
    }

    /// Copies a file's bytes, and proves that they are what its name stands for; returns how many they are.
    fn fetch(&self, name: &Name) -> Result<(Box<dyn Upload>, u64), Failure> {
        let there = |e: StoreError| Failure::There(not_given(e));
        let here = |e: StoreError| Failure::Here(e.into());
        let found = name.folder().map(|folder| self.source.list(folder)).transpose().map_err(there)?;
        let found = found.unwrap_or_default().into_iter().find(|found| found.name == Some(*name));
        let lacking = || Failure::There("the other copy lacks it too".to_owned());
        let bytes = found.ok_or_else(lacking)?.bytes;
        let mut upload = self.repository.store().begin().map_err(here)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        while at < bytes {
            if self.progress.is_cancelled() {
                return Err(Failure::Here(RepoError::Interrupted));
            }
            let end = bytes.min(at + PIECE_BYTES);
            let piece = self.source.read_range(name, at..end).map_err(there)?;
            hasher.update(&piece);
            upload.write(&piece).map_err(here)?;
            at = end;
        }
        match name.hash() == Some(*hasher.finalize().as_bytes()) {
            true => Ok((upload, bytes)),
            false => Err(Failure::There(DAMAGED_THERE.to_owned())),
        }
    }

    /// Returns the names that the other copy has in a folder, and the repository has not.
    fn lacking(&mut self, folder: Folder) -> Result<Vec<Name>, RepoError> {
        let here: BTreeSet<String> =
            self.repository.store().list(folder)?.into_iter().map(|found| found.path).collect();
        let there = match self.source.list(folder) {
            Ok(there) => there,
            Err(e) => {
                self.lose(format!("{}/", folder.name()), not_given(e));
                return Ok(Vec::new());
            }
        };
        let there = there.into_iter().filter(|found| !here.contains(&found.path));
        Ok(there.filter_map(|found| found.name).collect())
    }

    /// Brings fragments that read: the packs that they list are found missing by the next check.
    fn bring_fragments(&mut self) -> Result<(), RepoError> {
        for name in self.lacking(Folder::Index)? {
            let Some(bytes) = self.bring(&name, State::Missing)? else { continue };
            if let Name::Fragment(id) = name
                && let Err(e) = read_fragment(self.repository, id)
            {
                match self.repository.store().delete(&name) {
                    Ok(()) | Err(StoreError::Missing { .. }) => {} // it was not here before
                    Err(e) => return Err(e.into()),
                }
                self.report.healed.retain(|path| *path != name.to_string());
                self.report.bytes -= bytes;
                self.lose(name, e.chain());
            }
        }
        Ok(())
    }

    /// Brings the key files of recipients that this machine remembers and no file here names, and those without which
    /// nothing could be opened, or no machine could be enrolled; tells of the others that the other copy alone has.
    fn bring_keys(&mut self) -> Result<(), RepoError> {
        let mut left = self.keys_there()?;
        let encryption = self.repository.config().encryption;
        if encryption == Encryption::Age {
            left = match self.remembered_and_missing() {
                Some(missing) => {
                    let wanted = newest_of(&left, &missing);
                    self.bring_those(left, |(name, _)| wanted.contains(name))?
                }
                None if self.recipients()?.is_empty() => {
                    self.bring_those(left, |(_, body)| body.recipient().is_some())?
                }
                None => left,
            };
        }
        let mut infos = self.repository.key_files()?.into_iter().flatten();
        if !infos.any(|info| info.is_proven && info.body.is_writer()) {
            let recipients = self.recipients()?.len();
            let is_fit = |(_, body): &Key| match body {
                // One that is sealed to others is of another time.
                KeyBody::SealedWriter { age } => recipient_count(age) == recipients,
                KeyBody::PlainWriter { .. } => encryption == Encryption::None,
                KeyBody::Identity { .. } | KeyBody::Recipient { .. } => false,
            };
            if left.iter().any(is_fit) {
                left = self.bring_those(left, is_fit)?;
            } else if left.iter().any(|(_, body)| body.is_writer()) {
                let what = "the other copy has the writer secret sealed to other recipients; 'snap check --repair' seals it anew";
                self.lose(format!("{}/", Folder::Keys.name()), what);
            }
        }
        if !left.is_empty() {
            let named = left.iter().map(|(name, body)| match body.recipient() {
                Some(recipient) => format!("{name} ({recipient})"),
                None => name.to_string(),
            });
            let named = named.collect::<Vec<_>>().join(", ");
            self.report.notes.push(format!(
                "in the other copy only: {named}; key files that were removed here are not brought back, put back by hand what was lost"
            ));
        }
        Ok(())
    }

    /// Returns the recipients that this machine remembers and no key file here names; none if it remembers none.
    fn remembered_and_missing(&self) -> Option<BTreeSet<String>> {
        let sealed_to = self.repository.remembers().then(|| self.repository.sealed_to().ok()).flatten();
        sealed_to.filter(|sealed_to| !sealed_to.is_first).map(|sealed_to| sealed_to.missing)
    }

    /// Returns the recipients that the key files here name.
    fn recipients(&self) -> Result<BTreeSet<String>, RepoError> {
        let infos = self.repository.key_files()?.into_iter().flatten().filter(|info| info.is_proven);
        Ok(infos.filter_map(|info| info.recipient().map(str::to_owned)).collect())
    }

    /// Brings the key files that are wanted; returns the others.
    fn bring_those(
        &mut self,
        keys: Vec<Key>,
        is_wanted: impl Fn(&Key) -> bool,
    ) -> Result<Vec<Key>, RepoError> {
        let (wanted, others): (Vec<Key>, Vec<Key>) = keys.into_iter().partition(is_wanted);
        for (name, _) in wanted {
            self.bring(&name, State::Missing)?;
        }
        Ok(others)
    }

    /// Returns the key files that the other copy alone has, if they were written by who has the writer secret.
    fn keys_there(&mut self) -> Result<Vec<Key>, RepoError> {
        let mut proven = Vec::new();
        for name in self.lacking(Folder::Keys)? {
            let bytes = match self.source.read(&name, KEY_FILE_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(e) => {
                    self.lose(name, not_given(e));
                    continue;
                }
            };
            match KeyFile::parse(&bytes) {
                Err(_) => self.lose(name, DAMAGED_THERE),
                Ok((file, body)) if file.is_by(self.repository.writer_keys()) => {
                    proven.push((name, body));
                }
                Ok(_) => self.lose(name, "was not written by this repository's owner; left where it is"),
            }
        }
        Ok(proven)
    }
}
