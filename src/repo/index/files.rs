//! Fragments, and the directories at packs' ends, as files.

use crate::base::directory::Directory;
use crate::base::id::{FragmentId, PackId};
use crate::base::layout::PACK_TRAILER_BYTES;
use crate::base::limits::{PACK_BYTES_CAP, PACK_FRAMES_MAX, RECORD_BYTES_CAP};
use crate::base::wire::{self, RecordKind, WireError};
use crate::repo::keys::WriterKeys;
use crate::repo::open::read_named;
use crate::repo::small::read_small;
use crate::repo::{RepoError, Repository};
use crate::stage::index::Fragment;
use crate::stage::pack::Trailer;
use crate::stage::seal::{open_record, seal_record};
use crate::store::{Name, StoreError};

const FRAGMENT_PURPOSE: &str = "snap v1 fragment";
const DIRECTORY_PURPOSE: &str = "snap v1 pack directory";

/// Longest directory at a pack's end that is read, as it is stored, in bytes: the largest record, not compressible (zstd
/// adds 1/256 at most), its headers and its tag. What is longer can't be read back, whoever wrote it.
const DIRECTORY_BYTES_CAP: u64 = (RECORD_BYTES_CAP + RECORD_BYTES_CAP / 256 + 4096) as u64;

/// Reads one fragment.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::NameMismatch`], [`RepoError::Record`], [`RepoError::Seal`].
pub fn read_fragment(repository: &Repository, id: FragmentId) -> Result<Fragment, RepoError> {
    let name = Name::Fragment(id);
    let bytes = read_named(repository.store(), &name, RECORD_BYTES_CAP as u64)?;
    parse_fragment(repository.writer_keys(), &name, &bytes)
}

/// Reads and opens fragments, several at the same time where the store gains by that; `take` gets each, in order.
pub fn read_fragments(
    repository: &Repository,
    ids: &[FragmentId],
    mut take: impl FnMut(FragmentId, Result<Fragment, RepoError>),
) {
    let names: Vec<Name> = ids.iter().copied().map(Name::Fragment).collect();
    read_small(repository.store(), &names, |name, read| {
        let Name::Fragment(id) = *name else { return };
        let fragment = match read {
            Some(read) => read.and_then(|bytes| parse_fragment(repository.writer_keys(), name, &bytes)),
            None => read_fragment(repository, id),
        };
        take(id, fragment);
    });
}

/// Opens the bytes of a fragment.
///
/// # Errors
/// [`RepoError::Record`], [`RepoError::Seal`].
pub fn parse_fragment(writer: &WriterKeys, name: &Name, bytes: &[u8]) -> Result<Fragment, RepoError> {
    let bad = |e: WireError| RepoError::record(name, e);
    let sealed = wire::unwrap(RecordKind::Fragment, bytes).map_err(bad)?;
    let record = open_record(writer.metadata(), FRAGMENT_PURPOSE, sealed);
    let fragment: Fragment = wire::decode(&record.map_err(|e| RepoError::seal(name, e))?).map_err(bad)?;
    for pack in &fragment.packs {
        pack.directory.validate(pack.bytes).map_err(bad)?;
    }
    Ok(fragment)
}

/// Makes a fragment durable.
///
/// # Errors
/// [`RepoError::Store`].
pub fn put_fragment(repository: &Repository, fragment: &Fragment) -> Result<(FragmentId, u64), RepoError> {
    let bad = |e: WireError| RepoError::record(&"index/", e);
    let record = wire::encode(fragment).map_err(bad)?;
    let sealed = seal_record(repository.writer_keys().metadata(), FRAGMENT_PURPOSE, record);
    let bytes = wire::wrap(RecordKind::Fragment, &sealed.map_err(|e| RepoError::seal(&"index/", e))?);
    let id = FragmentId::from_bytes(*blake3::hash(&bytes).as_bytes());
    match repository.store().put_new(&Name::Fragment(id), &bytes) {
        Ok(()) | Err(StoreError::Taken { .. }) => Ok((id, bytes.len() as u64)), // the same bytes
        Err(e) => Err(e.into()),
    }
}

/// Returns a pack's directory as it is stored: an envelope.
///
/// # Errors
/// [`RepoError::Seal`] without random bytes.
pub fn build_directory(repository: &Repository, directory: &Directory) -> Result<Vec<u8>, RepoError> {
    let record = wire::encode(directory).map_err(|e| RepoError::record(&"packs/", e))?;
    let sealed = seal_record(repository.writer_keys().metadata(), DIRECTORY_PURPOSE, record);
    Ok(wire::wrap(RecordKind::PackDirectory, &sealed.map_err(|e| RepoError::seal(&"packs/", e))?))
}

/// Reads the directory at the end of a pack of `bytes` bytes. Two reads.
///
/// # Errors
/// [`RepoError::Store`], [`RepoError::Record`], [`RepoError::Seal`].
pub fn read_directory(repository: &Repository, id: PackId, bytes: u64) -> Result<Directory, RepoError> {
    let name = Name::Pack(id);
    let bad = |e: WireError| RepoError::record(&name, e);
    let trailer_at = bytes
        .checked_sub(PACK_TRAILER_BYTES as u64)
        .filter(|_| bytes <= PACK_BYTES_CAP)
        .ok_or_else(|| bad(WireError::record("pack: its length is out of bounds")))?;
    let tail = repository.store().read_range(&name, trailer_at..bytes)?;
    let tail =
        tail.first_chunk::<PACK_TRAILER_BYTES>().ok_or_else(|| bad(WireError::record("pack: no trailer")))?;
    let trailer = Trailer::from_bytes(tail, bytes).map_err(bad)?;
    if trailer.directory_bytes > DIRECTORY_BYTES_CAP || trailer.frame_count as usize > PACK_FRAMES_MAX {
        return Err(bad(WireError::record("pack trailer: the directory is longer than any may be")));
    }
    let range = trailer.directory_offset..trailer.directory_offset + trailer.directory_bytes;
    let envelope = repository.store().read_range(&name, range)?;
    let sealed = wire::unwrap(RecordKind::PackDirectory, &envelope).map_err(bad)?;
    let record = open_record(repository.writer_keys().metadata(), DIRECTORY_PURPOSE, sealed);
    let directory: Directory = wire::decode(&record.map_err(|e| RepoError::seal(&name, e))?).map_err(bad)?;
    directory.validate(trailer.directory_offset).map_err(bad)?;
    match directory.frames.len() == trailer.frame_count as usize {
        true => Ok(directory),
        false => Err(bad(WireError::record("pack trailer: number of frames is wrong"))),
    }
}
