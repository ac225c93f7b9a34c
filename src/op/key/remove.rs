//! Removing a key file: what shows that content opens without it.

use std::collections::BTreeSet;

use age::x25519::Identity;

use crate::op::key::{agree, public, refuse, seal_to};
use crate::repo::keys::{KeyBody, KeyInfo, Secrets, open_data_key};
use crate::repo::reader::read_pack_header;
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name};

/// A key file that is to go, and those that stay.
struct Removal {
    going: KeyInfo,
    staying: Vec<KeyInfo>,
}

fn is_wrapped(info: &KeyInfo) -> bool {
    matches!(info.body, KeyBody::Identity { .. })
}

fn is_of(info: &KeyInfo, identity: &Identity) -> bool {
    info.recipient() == Some(public(identity).as_str())
}

/// Reads the one key file whose id starts so.
fn named(repository: &Repository, prefix: &str) -> Result<KeyInfo, RepoError> {
    let mut ids = Vec::new();
    for found in repository.store().list(Folder::Keys)? {
        let Some(Name::Key(id)) = found.name else { continue };
        ids.extend(Some(id).filter(|id| id.to_string().starts_with(prefix)));
    }
    let [id] = ids[..] else {
        let what = if ids.is_empty() { "no key whose id starts" } else { "several keys whose ids start" };
        return Err(refuse(repository, &format!("has {what} with {prefix}; see 'snap key list'")));
    };
    repository.key_file(id).map_err(|e| RepoError::Refused {
        what: format!(
            "{} stays: it can't be read, and so whether it is needed can't be told ({}); put back a good copy, or delete that file yourself",
            Name::Key(id),
            e.chain()
        ),
    })
}

impl Removal {
    /// Refuses what is refused whatever secrets are given.
    fn plan(repository: &Repository, prefix: &str) -> Result<Self, RepoError> {
        let going = named(repository, prefix)?;
        if !going.is_proven {
            if !repository.is_enrolled() {
                return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
            }
            let mut staying: Vec<KeyInfo> =
                repository.key_files()?.into_iter().filter_map(Result::ok).collect();
            staying.retain(|other| other.is_proven);
            return match staying.is_empty() {
                true => Err(refuse(
                    repository,
                    "has no key file that fits this machine's writer secret; restore the keys folder from a copy",
                )),
                false => Ok(Self { going, staying }),
            };
        }
        if going.recipient().is_none() {
            return Err(refuse(
                repository,
                "needs that key: it is the writer secret, not a passphrase or recipient",
            ));
        }
        // What stays is sealed to: a stranger must not be among it, nor be missed who can't be read.
        let mut staying = repository.proven_keys()?;
        staying.retain(|other| other.id != going.id);
        match staying.iter().any(|other| other.recipient().is_some()) {
            true => Ok(Self { going, staying }),
            false => Err(refuse(
                repository,
                "needs that key: no other opens content; 'snap key add' wraps the same identity under another passphrase",
            )),
        }
    }

    fn staying_of_the_same(&self) -> impl Iterator<Item = &KeyInfo> {
        self.staying.iter().filter(move |other| other.recipient() == self.going.recipient())
    }

    /// Returns whether content may hang on the file: no other stands in for it. One that only names the
    /// recipient does not stand in for one that holds the identity.
    fn is_doubtful(&self, repository: &Repository) -> Result<bool, RepoError> {
        let stands_in = |other: &KeyInfo| is_wrapped(other) || !is_wrapped(&self.going);
        if !self.going.is_proven || self.staying_of_the_same().any(stands_in) {
            return Ok(false);
        }
        Ok(!repository.store().list(Folder::Packs)?.is_empty())
    }

    fn refused(&self, why: &str) -> RepoError {
        let recipient = self.going.recipient().unwrap_or_default();
        RepoError::Refused {
            what: format!(
                "{} stays: no other key file stands in for it (recipient {recipient}), and {why}",
                Name::Key(self.going.id)
            ),
        }
    }

    /// Refuses unless the identities at hand that stay open every data key there is. To whom a key is sealed
    /// can't be seen from outside, so each is tried.
    fn prove(&self, repository: &Repository, secrets: &dyn Secrets) -> Result<(), RepoError> {
        let given = secrets.identities()?;
        let is_named = self.staying_of_the_same().next().is_some();
        if is_named && given.iter().any(|identity| is_of(&self.going, identity)) {
            return Ok(()); // the identity is kept elsewhere: here it is
        }
        let unlocked: &[Identity] = match repository.unlock(secrets) {
            Err(RepoError::Locked) => &[],
            unlocked => unlocked?,
        };
        // One that a passphrase opened must be in a file that stays; one that was given lies elsewhere.
        let stays = |identity: &&Identity| {
            let is_kept =
                |other: &KeyInfo| is_of(other, identity) && (is_wrapped(other) || !given.is_empty());
            self.staying.iter().any(is_kept)
        };
        let kept: Vec<Identity> = unlocked.iter().filter(stays).cloned().collect();
        if kept.is_empty() {
            return Err(self.refused(
                "content may be sealed to it alone; give the passphrase or the identity (--identity FILE) of a key that stays and opens everything, or first wrap the same identity under another passphrase ('snap key add')",
            ));
        }
        let mut tried = BTreeSet::new();
        for found in repository.store().list(Folder::Packs)? {
            let Some(Name::Pack(pack)) = found.name else { continue };
            let header = read_pack_header(repository, pack).map_err(|e| {
                self.refused(&format!(
                    "who opens {} can't be told: {}; see 'snap check'",
                    found.path,
                    e.chain()
                ))
            })?;
            for sealed in header.keys.iter().filter(|sealed| tried.insert(sealed.key_id)) {
                open_data_key(sealed, &kept, &found.path).map_err(|_| {
                    self.refused(&format!(
                        "the content of {} opens with none of the other keys that were given; content can't be sealed anew: keep the key, or make a new repository",
                        found.path
                    ))
                })?;
            }
        }
        Ok(())
    }
}

/// Returns whether [`remove`] will ask for the passphrase or identity of a key that stays: so that it can be
/// given before the repository is locked.
///
/// # Errors
/// As [`remove`].
pub fn takes_proof(repository: &Repository, prefix: &str) -> Result<bool, RepoError> {
    Removal::plan(repository, prefix)?.is_doubtful(repository)
}

/// Removes a key file, named by the start of its id, and seals the writer secret to the recipients that are
/// left. In this order: the new sealing, what this machine remembers, the older sealing goes, the key file goes: from
/// the second on nothing is sealed to who is to go; done again, it goes on where it ended. The caller holds the repository's lock alone: a run that has begun seals to those of its beginning.
///
/// A file that another of the same recipient stands in for goes at once; so does one that was not written by
/// who has the writer secret, for nothing is ever sealed by what it says. Any other goes only if an identity that
/// stays, and that `secrets` give, opens all content: one read for each pack.
///
/// # Errors
/// [`RepoError::Refused`] if content may be lost, the file can't be read, or `keys/` is not what this machine
/// remembers; [`RepoError::Source`] if it must
/// stay, or none or several are named so; as [`Repository::proven_keys`] for another one. Nothing was changed.
/// [`RepoError::Store`]: the file may still be there, and the writer secret not be sealed to it any more; do it again.
pub fn remove(repository: &Repository, secrets: &dyn Secrets, prefix: &str) -> Result<KeyInfo, RepoError> {
    let removal = Removal::plan(repository, prefix)?;
    if removal.is_doubtful(repository)? {
        removal.prove(repository, secrets)?;
    }
    let is_named = removal.staying_of_the_same().next().is_some();
    let going = removal.going;
    if let Some(recipient) = going.recipient().filter(|_| going.is_proven && !is_named) {
        let now = repository.sealed_to()?;
        agree(&now, recipient)?;
        let mut left = now.recipients;
        left.remove(recipient);
        seal_to(repository, &left)?;
    }
    repository.store().delete(&Name::Key(going.id))?;
    Ok(going)
}
