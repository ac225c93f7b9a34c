//! A place where a repository is to be → whether what lies there already is nobody else's.
//!
//! Where files of somebody else lie, nothing is made: sooner or later something would take one of them for its own.

use std::collections::BTreeSet;

use crate::base::entry::quoted;
use crate::base::id::RepositoryId;
use crate::repo::RepoError;
use crate::repo::unlock::pack_header;
use crate::store::{Folder, Found, Name, Store};

/// Most files that one message names.
const NAMED_MAX: usize = 4;

/// Refuses a place where anything lies that no repository has made, but for `lost+found`.
///
/// # Errors
/// [`RepoError::Refused`] with what lies there; [`RepoError::Store`].
pub fn refuse_strangers(store: &dyn Store) -> Result<(), RepoError> {
    let mut strangers = store.strangers()?;
    for folder in Folder::ALL {
        let foreign = store.list(folder)?.into_iter().filter(|found| found.name.is_none());
        strangers.extend(foreign.map(|found| found.path));
    }
    if strangers.is_empty() {
        return Ok(());
    }
    let location = store.location();
    Err(RepoError::Refused {
        what: format!(
            "{location} holds {}, which no repository has made; name an empty directory, or one that is not there yet, such as {}/snap",
            named(&strangers),
            location.trim_end_matches('/')
        ),
    })
}

/// Refuses a place where files of another repository lie than the one that is to be copied there: a copy of it
/// that was cut goes on, and no other. What `source` has under the same name is the same file; a pack tells whose it is.
///
/// # Errors
/// As [`refuse_strangers`].
pub fn refuse_others(source: &dyn Store, target: &dyn Store, id: RepositoryId) -> Result<(), RepoError> {
    refuse_strangers(target)?;
    let (mut others, mut unknown, mut has_own_packs) = (Vec::new(), Vec::new(), false);
    for folder in Folder::ALL {
        let there = target.list(folder)?;
        if there.is_empty() {
            continue;
        }
        let shared: BTreeSet<String> = source.list(folder)?.into_iter().map(|found| found.path).collect();
        let is_own = |found: &Found| pack_header(target, found).is_some_and(|header| header.repository == id);
        for found in there {
            let is_pack = matches!(found.name, Some(Name::Pack(_)));
            match shared.contains(&found.path) {
                true => has_own_packs |= is_pack,
                false if is_pack && is_own(&found) => has_own_packs = true,
                false if is_pack => others.push(found.path),
                false => unknown.push(found.path), // gone from the source since, perhaps
            }
        }
    }
    if !has_own_packs {
        others.append(&mut unknown);
    }
    if others.is_empty() {
        return Ok(());
    }
    let location = target.location();
    Err(RepoError::Refused {
        what: format!(
            "{location} holds files that are not of repository {id}: {}; name an empty directory",
            named(&others)
        ),
    })
}

/// Returns the first of some files, and how many more there are.
pub fn named(paths: &[String]) -> String {
    let mut named: Vec<String> = paths.iter().take(NAMED_MAX).map(|path| quoted(path.as_bytes())).collect();
    if paths.len() > NAMED_MAX {
        named.push(format!("{} more", paths.len() - NAMED_MAX));
    }
    named.join(", ")
}
