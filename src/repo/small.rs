//! Many small files of a store that is far away: several are asked for at the same time, for most of the time that each
//! takes is that of a request to the server and back.

use crate::base::threads::map_side_by_side;
use crate::repo::{RepoError, read_named};
use crate::store::{Name, Store};

/// Longest file that is read beside others, in bytes. A longer one is read by itself: whoever may put can have put many
/// that are as long as any is allowed to be.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Files of each reader that are in memory at the same time.
const FILES_EACH: usize = 4;

/// Calls `take` with each file, in order: with its bytes, which are proved, if it is small and was read beside others;
/// with none if it is to be read by itself. A store that is near gives none. Memory: 32 MiB with eight readers.
///
/// # Errors
/// `take` gets them for each file: [`RepoError::NameMismatch`], [`RepoError::Store`].
pub fn read_small(
    store: &dyn Store,
    names: &[Name],
    mut take: impl FnMut(&Name, Option<Result<Vec<u8>, RepoError>>),
) {
    let readers = store.reads_at_once();
    if readers <= 1 {
        return names.iter().for_each(|name| take(name, None));
    }
    for some in names.chunks(readers * FILES_EACH) {
        let read = map_side_by_side(readers, some.len(), |number| {
            some.get(number).map(|name| read_one(store, name)).unwrap_or_default()
        });
        some.iter().zip(read).for_each(|(name, read)| take(name, read));
    }
}

fn read_one(store: &dyn Store, name: &Name) -> Option<Result<Vec<u8>, RepoError>> {
    match read_named(store, name, SMALL_BYTES_MAX) {
        // It may be too long.
        Err(RepoError::Store(e)) if !(e.is_passing() || e.is_missing() || e.is_refusal()) => None,
        read => Some(read),
    }
}
