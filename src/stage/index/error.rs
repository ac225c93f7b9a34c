//! Why the cache can't be used, and what that says of it.

use rustix::io::Errno;

/// Why the cache can't be used. It can always be deleted and rebuilt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Another process has it open. May be retried.
    #[error("index cache: open in another process")]
    Busy,
    /// There is none yet, or it has another layout or belongs to another repository.
    #[error("index cache: not there, or not this repository's")]
    Absent,
    /// redb could not read or write it: it is damaged, or no cache. Never retry; it is to be made anew.
    #[error("index cache: {what}")]
    Failed {
        /// What redb said.
        what: String,
    },
    /// The system refuses, or a fragment can't be read: that says nothing of the cache, which may be whole and
    /// stays. May be retried later.
    #[error("index cache: {what}")]
    Hindered {
        /// Why.
        what: String,
    },
}

/// What the system says of a place that can't be read or written now, whatever the file holds.
const REFUSALS: [Errno; 12] = [
    Errno::ACCESS,
    Errno::PERM,
    Errno::ROFS,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::ISDIR,
    Errno::NOTDIR,
    Errno::NOMEM,
    Errno::MFILE,
    Errno::NFILE,
    Errno::STALE,
    Errno::TIMEDOUT,
];

fn is_refusal(error: &std::io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|error| REFUSALS.contains(&error))
}

/// Returns redb's error as ours.
pub fn failed(error: impl Into<redb::Error>) -> CacheError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => CacheError::Busy,
        redb::Error::TableDoesNotExist(_) => CacheError::Absent,
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::NotFound => CacheError::Absent,
        redb::Error::Io(e) if is_refusal(&e) => CacheError::Hindered { what: e.to_string() },
        other @ redb::Error::Unsupported => CacheError::Hindered { what: other.to_string() },
        other => CacheError::Failed { what: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_nothing_of_the_cache_and_a_bad_sector_does() {
        let said = |errno: Errno| failed(redb::Error::Io(errno.into()));
        for errno in [Errno::NOSPC, Errno::ROFS, Errno::ACCESS] {
            assert!(matches!(said(errno), CacheError::Hindered { .. }), "{errno}");
        }
        assert!(matches!(said(Errno::NOENT), CacheError::Absent));
        assert!(matches!(said(Errno::IO), CacheError::Failed { .. }));
        let no_database = std::io::Error::from(std::io::ErrorKind::InvalidData);
        assert!(matches!(failed(redb::Error::Io(no_database)), CacheError::Failed { .. }));
    }
}
