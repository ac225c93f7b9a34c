//! The folder `keys/`: reading and adding.

use age::x25519::Identity;

use crate::base::id::KeyFileId;
use crate::base::threads::map_side_by_side;
use crate::repo::keys::{KeyBody, KeyFile, KeyInfo, Passphrase, forms, unwrap_identity};
use crate::repo::open::read_named;
use crate::repo::recipients::unproven;
use crate::repo::unlock::distrusted;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Found, Name, Store};

/// Longest key file that is read, in bytes.
pub const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// Files that are read at a time.
const READERS: usize = 8;

/// Reads a key file.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`].
pub fn read_key(store: &dyn Store, id: KeyFileId) -> Result<(KeyFile, KeyBody), RepoError> {
    let name = Name::Key(id);
    let bytes = read_named(store, &name, KEY_FILE_BYTES_MAX)?;
    KeyFile::parse(&bytes).map_err(|e| RepoError::record(&name, e))
}

/// A key file's name, and what reading it gave.
pub type ReadKey = (KeyFileId, Result<(KeyFile, KeyBody), RepoError>);

/// Reads key files, several at a time, for a bucket takes its time for each; returns them in the order of `found`.
/// Files that have no name of a key file are left out.
pub fn read_keys(store: &dyn Store, found: Vec<Found>) -> Vec<ReadKey> {
    let ids: Vec<KeyFileId> = found
        .iter()
        .filter_map(|found| match found.name {
            Some(Name::Key(id)) => Some(id),
            _ => None,
        })
        .collect();
    read_side_by_side(&ids, |id| read_key(store, *id))
}

/// Reads what `names` name, several at a time, for a bucket takes its time for each; returns each with what reading it
/// gave, in their order.
pub fn read_side_by_side<N: Copy + Send + Sync, R: Send>(
    names: &[N],
    read: impl Fn(&N) -> R + Sync,
) -> Vec<(N, R)> {
    let read =
        map_side_by_side(READERS, names.len(), |number| names.get(number).map(|name| (*name, read(name))));
    read.into_iter().flatten().collect()
}

impl Repository {
    /// Reads all key files; a damaged one is an error of its own in the list.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn key_files(&self) -> Result<Vec<Result<KeyInfo, RepoError>>, RepoError> {
        let mut all = Vec::new();
        for (id, read) in read_keys(self.store(), self.store().list(Folder::Keys)?) {
            match read {
                Err(RepoError::Store(e)) if e.is_missing() => {} // it was removed meanwhile
                read => all.push(read.map(|(file, body)| self.judged(id, &file, body))),
            }
        }
        Ok(all)
    }

    /// Says of a key file whether it was written by who has the writer secret.
    fn judged(&self, id: KeyFileId, file: &KeyFile, body: KeyBody) -> KeyInfo {
        KeyInfo { id, is_proven: file.is_by(self.writer_keys()), body }
    }

    /// Reads a key file, and says whether it was written by who has the writer secret.
    ///
    /// # Errors
    /// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`].
    pub fn key_file(&self, id: KeyFileId) -> Result<KeyInfo, RepoError> {
        let (file, body) = read_key(self.store(), id)?;
        Ok(self.judged(id, &file, body))
    }

    /// Reads all key files, and refuses where one of them can't be relied on: nothing is sealed by what the
    /// others say, nor removed, as long as it is there.
    ///
    /// # Errors
    /// [`RepoError::Distrusted`] if one was not written by who has the writer secret; [`RepoError::Record`],
    /// [`RepoError::NameMismatch`] or [`RepoError::Store`] if one can't be read.
    pub fn proven_keys(&self) -> Result<Vec<KeyInfo>, RepoError> {
        let all: Vec<KeyInfo> = self.key_files()?.into_iter().collect::<Result<_, _>>()?;
        if let Some(info) = all.iter().find(|info| !info.is_proven) {
            return Err(RepoError::Distrusted { location: self.store().location(), what: unproven(info.id) });
        }
        Ok(all)
    }

    /// Returns the key files that a passphrase opens, each with its identity. Takes about 0.15 s for each
    /// wrapped identity.
    ///
    /// # Errors
    /// [`RepoError::WrongPassphrase`] if it opens none; [`RepoError::Distrusted`] if one was wrapped for another
    /// repository; as [`Self::proven_keys`].
    pub fn opened_by(&self, passphrase: &Passphrase) -> Result<Vec<(KeyFileId, Identity)>, RepoError> {
        let (mut opened, mut tried, forms) = (Vec::new(), 0, forms(passphrase));
        for info in self.proven_keys()? {
            let KeyBody::Identity { wrapped, .. } = &info.body else { continue };
            tried += 1;
            let opened_one = forms.iter().find_map(|form| unwrap_identity(wrapped, form));
            let Some(unwrapped) = opened_one else { continue };
            if unwrapped.repository != self.id() || unwrapped.writer != self.writer_keys().mark() {
                return Err(distrusted(self.store()));
            }
            opened.push((info.id, unwrapped.identity));
        }
        match opened.is_empty() {
            true => Err(RepoError::WrongPassphrase { tried, location: self.store().location() }),
            false => Ok(opened),
        }
    }

    /// Adds a key file.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn put_key(&self, body: &KeyBody) -> Result<KeyFileId, RepoError> {
        let built = KeyFile::build(body, self.writer_keys());
        let (id, bytes) = built.map_err(|e| RepoError::record(&"keys/", e))?;
        self.store().put_new(&Name::Key(id), &bytes)?;
        Ok(id)
    }
}
