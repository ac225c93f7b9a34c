//! Why a repository did not do what it was asked to.

use crate::base::id::{ChunkId, KeyFileId, KeyId};
use crate::base::wire::WireError;
use crate::stage::frame::FrameError;
use crate::stage::index::CacheError;
use crate::stage::seal::SealError;
use crate::stage::tree::TreeError;
use crate::store::StoreError;

/// Why a repository did not do what it was asked to. No variant leaves a committed snapshot harmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no repository.
    #[error("{location}: no repository here; make one with 'snap init', or name another with --repo")]
    NotThere {
        /// Where it was looked for.
        location: String,
    },
    /// `init` found one already.
    #[error("{location}: there is a repository here already; nothing was changed")]
    Exists {
        /// Where it is.
        location: String,
    },
    /// The configuration makes no sense.
    #[error("{location}/config: {what}")]
    Config {
        /// The repository.
        location: String,
        /// What is wrong.
        what: String,
    },
    /// The repository is not the one that this machine knows.
    #[error("{location}: {what}")]
    Distrusted {
        /// The repository.
        location: String,
        /// What does not fit.
        what: String,
    },
    /// A repository file's bytes are not what its name says.
    #[error(
        "{path}: the bytes are not the ones its name stands for; 'snap check --read-packs' names what else is hurt"
    )]
    NameMismatch {
        /// The file.
        path: String,
    },
    /// A repository file does not read as what it should be.
    #[error("{path}: damaged")]
    Record {
        /// The file.
        path: String,
        /// What is wrong.
        source: WireError,
    },
    /// A repository file does not open with this repository's keys.
    #[error("{path}: cannot be opened")]
    Seal {
        /// The file.
        path: String,
        /// What is wrong.
        source: SealError,
    },
    /// A frame makes no sense.
    #[error("{path}: frame at byte {offset}")]
    Frame {
        /// The pack.
        path: String,
        /// Where the frame starts, in bytes.
        offset: u64,
        /// What is wrong.
        source: FrameError,
    },
    /// A directory's entries make no sense.
    #[error("directory entries cannot be read")]
    Tree(#[from] TreeError),
    /// The index doesn't know the chunk: its pack is gone.
    #[error("chunk {id}: in no pack; 'snap check' names what is hurt")]
    UnknownChunk {
        /// The chunk asked for.
        id: ChunkId,
    },
    /// The bytes were read and are wrong. Never retry.
    #[error("chunk {id}: {path}, frame at byte {offset}: the bytes there are not this chunk's")]
    DamagedChunk {
        /// The chunk asked for.
        id: ChunkId,
        /// The pack that should hold it.
        path: String,
        /// Where its frame starts, in bytes.
        offset: u64,
    },
    /// A content reference leads nowhere.
    #[error("content reference: {what}")]
    Content {
        /// What is wrong.
        what: &'static str,
    },
    /// Content was asked for and there is no key that opens it.
    #[error(
        "reading content needs the passphrase: give it with --password-file FILE, SNAP_PASSWORD, SNAP_PASSWORD_COMMAND, or at a terminal; or an age identity with --identity FILE"
    )]
    Locked,
    /// The passphrase opens none of the wrapped keys.
    #[error("the passphrase is wrong: it opens none of the {tried} wrapped keys in {location}/keys")]
    WrongPassphrase {
        /// Wrapped keys that were tried.
        tried: usize,
        /// The repository.
        location: String,
    },
    /// Nothing that was given opens anything, and key files can't be read that it may open.
    #[error(
        "{location}/keys: {}, and {}; put back a good copy of what is damaged",
        if *tried == 0 { "no other file there opens the repository".to_owned() }
        else { format!("the passphrase opens none of the {tried} wrapped keys there that can be read") },
        few(damaged)
    )]
    KeysDamaged {
        /// The repository.
        location: String,
        /// Wrapped keys that were tried.
        tried: usize,
        /// The files that can't be read, and why.
        damaged: Vec<(KeyFileId, RepoError)>,
    },
    /// No identity at hand opens a key.
    #[error("{path}: sealed to none of the identities at hand ({key})")]
    NoIdentity {
        /// The file that holds the sealed key.
        path: String,
        /// The key.
        key: KeyId,
    },
    /// This machine has no writer secret for the repository.
    #[error(
        "{location}: this machine does not know this repository (no {state}), and no passphrase or identity was given that opens it; give one (SNAP_PASSWORD, --password-file, --identity), with 'snap key enroll' once if the machine is to back up to it"
    )]
    NoWriterSecret {
        /// The repository.
        location: String,
        /// Where the secret was looked for.
        state: String,
    },
    /// This machine may read the repository and was not made to write to it.
    #[error(
        "{location}: this machine is not enrolled for this repository (no {state}): it may be another one, put in the place of yours. If it is yours, 'snap key enroll' lets this machine back up to it; that takes the passphrase or an identity once"
    )]
    NotEnrolled {
        /// The repository.
        location: String,
        /// Where the secret was looked for.
        state: String,
    },
    /// age could not seal or open.
    #[error("{path}: age: {what}")]
    Age {
        /// The file.
        path: String,
        /// What age said.
        what: String,
    },
    /// The index cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Memory or random bytes could not be had.
    #[error("the system gave no {what}")]
    System {
        /// What was asked for.
        what: &'static str,
    },
    /// No snapshot has that name.
    #[error("snapshot {spec}: {what}; 'snap snapshots' lists them")]
    NoSnapshot {
        /// What was asked for.
        spec: String,
        /// Why it names none.
        what: String,
    },
    /// The snapshot has no such path.
    #[error("{path}: not in snapshot {snapshot}{elsewhere}")]
    NoPath {
        /// What was asked for.
        path: String,
        /// The snapshot.
        snapshot: String,
        /// Where it is, as it follows the rest; empty if nobody has looked.
        elsewhere: String,
    },
    /// What is to be backed up, or where it is to be restored, can't be used at all.
    #[error("{path}: {reason}")]
    Source {
        /// The path, or what was given.
        path: String,
        /// Why.
        reason: String,
    },
    /// Nobody takes what is written to standard output. What was done before stays done.
    #[error("standard output")]
    Output {
        /// What the system said.
        source: std::io::Error,
    },
    /// What was asked for would remove too much, or rests on what cannot be known. Nothing was changed.
    #[error("refused: {what}")]
    Refused {
        /// Why, and what to do.
        what: String,
    },
    /// The operation was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A secret could not be obtained.
    #[error("passphrase: {what}")]
    Passphrase {
        /// Why.
        what: String,
    },
}

/// Most files that one message names.
const NAMED_MAX: usize = 4;

/// Returns the first of them as one text, and how many more there are.
fn few(all: &[(KeyFileId, RepoError)]) -> String {
    let mut text = all.iter().take(NAMED_MAX).map(|(_, e)| e.chain()).collect::<Vec<_>>().join(", ");
    if all.len() > NAMED_MAX {
        text.push_str(&format!(", and {} more", all.len() - NAMED_MAX));
    }
    text
}

impl RepoError {
    /// Returns the error for a record that was read from `path`.
    pub fn record(path: &impl ToString, source: WireError) -> Self {
        Self::Record { path: path.to_string(), source }
    }

    /// Returns the error for a sealed record that was read from `path`.
    pub fn seal(path: &impl ToString, source: SealError) -> Self {
        Self::Seal { path: path.to_string(), source }
    }

    /// Returns the error and its causes on one line.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }

    /// Returns whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }

    /// Returns whether a newer program wrote what could not be read.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Record { source: WireError::Newer { .. }, .. })
    }

    /// Returns whether the bytes in the repository are wrong or gone, so that trying again is of no use.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Missing { .. } | StoreError::Short { .. }),
            Self::NameMismatch { .. }
            | Self::Record { .. }
            | Self::Seal { .. }
            | Self::Frame { .. }
            | Self::Tree(_)
            | Self::UnknownChunk { .. }
            | Self::DamagedChunk { .. }
            | Self::Content { .. } => true,
            _ => false,
        }
    }

    /// Returns whether these bytes can't be had while others may be: they are damaged, or the disk can't read them.
    /// The latter may be had later, on another machine say: nothing is to be given up for it.
    pub fn is_unreadable(&self) -> bool {
        self.is_damage() || matches!(self, Self::Store(error) if error.is_unreadable())
    }
}
