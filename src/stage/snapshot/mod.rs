//! Stage 10: what a run did → manifest; and back.

pub mod facts;

use bincode::{Decode, Encode};

use crate::base::content::ContentBuf;
use crate::base::id::SnapshotId;
use crate::base::time::Time;

/// How a component of a snapshot fared. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Status {
    /// All of it is there.
    Complete,
    /// It is there, but for the entries that the errors name.
    Partial,
    /// It could not be read, and is not there.
    Failed,
}

impl Status {
    /// Returns the word that reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// A named part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Component {
    /// Its name, as configured; `files` for paths given on the command line.
    pub name: String,
    /// Directory of the snapshot that holds it; empty for the snapshot's root.
    pub directory: Vec<u8>,
    /// What was read: absolute paths, or a stream's name.
    pub sources: Vec<Vec<u8>>,
    /// How it fared.
    pub status: Status,
    /// How often it was tried.
    pub attempts: u32,
    /// Files in it.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
}

/// An entry that is not in the snapshot, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Lack {
    /// The entry's path on the source machine, as bytes.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// Numbers that describe a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Totals {
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that the parent had with other content or attributes.
    pub files_changed: u64,
    /// Files that are as the parent had them.
    pub files_unmodified: u64,
    /// Files that the parent had under another name; they were not read.
    pub files_renamed: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of all files, holes included.
    pub bytes_scanned: u64,
    /// Bytes read from files and streams.
    pub bytes_read: u64,
    /// Raw bytes of chunks that were new.
    pub bytes_added: u64,
    /// Bytes of packs and fragments that were written.
    pub bytes_stored: u64,
    /// Chunks that were new.
    pub chunks_new: u64,
}

/// What one run did, and the root of what it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// When the run began, or the time it was given.
    pub time: Time,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Name of the machine.
    pub host: String,
    /// Who ran it.
    pub user: String,
    /// Program and version.
    pub program: String,
    /// Tags, sorted, each once.
    pub tags: Vec<String>,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    /// The snapshot that this one takes the place of; that one counts as absent.
    pub replaces: Option<SnapshotId>,
    /// Its components.
    pub components: Vec<Component>,
    /// Its numbers.
    pub totals: Totals,
    /// What is lacking, up to [`MANIFEST_ERRORS_MAX`](crate::base::limits::MANIFEST_ERRORS_MAX) rows.
    pub lacks: Vec<Lack>,
    /// How many are lacking in all.
    pub lacks_total: u64,
    /// Entries of the root directory.
    pub root: ContentBuf,
    /// Named facts for later versions; a reader keeps what it does not know. See [`facts`].
    pub extra: Vec<(String, Vec<u8>)>,
}

impl Manifest {
    /// Returns about how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let texts = [&self.host, &self.user, &self.program].map(String::len);
        let component = |one: &Component| {
            let sources = one.sources.iter().map(|source| size_of::<Vec<u8>>() + source.len());
            size_of::<Component>() + one.name.len() + one.directory.len() + sources.sum::<usize>()
        };
        let lack = |one: &Lack| size_of::<Lack>() + one.path.len() + one.reason.len();
        let fact =
            |(name, bytes): &(String, Vec<u8>)| size_of::<(String, Vec<u8>)>() + name.len() + bytes.len();
        size_of::<Self>()
            + texts.iter().sum::<usize>()
            + self.tags.iter().map(|tag| size_of::<String>() + tag.len()).sum::<usize>()
            + self.components.iter().map(component).sum::<usize>()
            + self.lacks.iter().map(lack).sum::<usize>()
            + self.root.list.len()
            + self.extra.iter().map(fact).sum::<usize>()
    }
}
