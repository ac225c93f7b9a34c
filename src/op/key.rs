//! Who can open a repository: listing, adding and removing keys.
//!
//! Content is sealed once, to the recipients of that day, and never anew: a key goes only if content opens
//! without it.

mod remove;

use std::collections::BTreeSet;

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};

use crate::base::id::KeyFileId;
use crate::base::time::Time;
use crate::repo::config::Encryption;
use crate::repo::keys::{KeyBody, KeyInfo, Passphrase, Secrets, wrap_identity};
use crate::repo::recipients::SealedTo;
use crate::repo::{RepoError, Repository};
use crate::store::Name;

pub use remove::{remove, takes_proof};

fn refuse(repository: &Repository, what: &str) -> RepoError {
    RepoError::Source { path: repository.store().location(), reason: what.to_owned() }
}

fn needs_encryption(repository: &Repository) -> Result<(), RepoError> {
    match repository.config().encryption {
        Encryption::Age => Ok(()),
        Encryption::None => Err(refuse(repository, "has no encryption, and so no keys to manage")),
    }
}

/// Returns the text of an identity's recipient (`age1…`).
fn public(identity: &Identity) -> String {
    identity.to_public().to_string()
}

/// Returns the identities without those that were there before.
fn distinct<'i>(identities: impl Iterator<Item = &'i Identity>) -> Vec<&'i Identity> {
    let mut seen = BTreeSet::new();
    identities.filter(|identity| seen.insert(public(identity))).collect()
}

fn put_identity(
    repository: &Repository,
    identity: &Identity,
    passphrase: &Passphrase,
    label: &str,
    created: Time,
) -> Result<KeyInfo, RepoError> {
    let body = KeyBody::Identity {
        recipient: public(identity),
        label: label.to_owned(),
        created,
        wrapped: wrap_identity(identity, passphrase, repository.id(), repository.writer_keys())?,
    };
    Ok(KeyInfo { id: repository.put_key(&body)?, body, is_proven: true })
}

/// Wraps what opens this repository under one more passphrase: of the identities that the present passphrase
/// opens, or that are given, each that is a recipient here. Others open nothing, and are passed over.
/// Returns the new key files. Takes about 0.2 s for each.
///
/// # Errors
/// [`RepoError::Locked`] without the present passphrase or identity; [`RepoError::Source`] if no identity is a
/// recipient here; as [`Repository::proven_keys`]; [`RepoError::Store`]: the key files before it stay.
pub fn add_passphrase(
    repository: &Repository,
    secrets: &dyn Secrets,
    passphrase: &Passphrase,
    label: &str,
    created: Time,
) -> Result<Vec<KeyInfo>, RepoError> {
    needs_encryption(repository)?;
    repository.proven_keys()?; // nothing is added beside what can't be relied on
    let recipients = repository.sealed_to()?.recipients;
    let identities = repository.unlock(secrets)?.iter();
    let ours = distinct(identities.filter(|identity| recipients.contains(&public(identity))));
    if ours.is_empty() {
        let what = "has none of the identities that were given among its recipients: they open nothing that is backed up here; 'snap key list' shows the recipients";
        return Err(refuse(repository, what));
    }
    let wrap = |identity| put_identity(repository, identity, passphrase, label, created);
    let added: Vec<KeyInfo> = ours.into_iter().map(wrap).collect::<Result<_, _>>()?;
    let now = repository.sealed_to()?;
    if now.missing.is_empty() && now.extra.is_empty() && !now.faults.is_empty() {
        seal_to(repository, &now.recipients)?; // a key file that was lost is back: so is the sealing
    }
    Ok(added)
}

/// Adds an age recipient. It opens content that is stored from now on, and trees of all time. Content stored
/// before stays sealed to the earlier recipients alone, in later snapshots that share it too.
///
/// In this order: the key file, the writer secret sealed to all, what this machine remembers, the older sealing
/// goes. So content is never sealed to somebody whose key file is not there; done again, it goes on where it ended.
///
/// # Errors
/// [`RepoError::Source`] if it is there already; [`RepoError::Refused`] if `keys/` is not what this machine
/// remembers; as [`Repository::proven_keys`]; [`RepoError::Store`].
pub fn add_recipient(
    repository: &Repository,
    recipient: &Recipient,
    label: &str,
    created: Time,
) -> Result<KeyFileId, RepoError> {
    needs_encryption(repository)?;
    let text = recipient.to_string();
    let there = repository.proven_keys()?.into_iter().find(|info| info.recipient() == Some(&text));
    let now = repository.sealed_to()?;
    if there.is_some() && now.recipients.contains(&text) {
        return Err(refuse(repository, "has that recipient already"));
    }
    agree(&now, &text)?;
    let id = match there {
        Some(info) => info.id, // it was not finished
        None => {
            let body = KeyBody::Recipient { recipient: text.clone(), label: label.to_owned(), created };
            repository.put_key(&body)?
        }
    };
    let mut all = now.recipients;
    all.insert(text);
    seal_to(repository, &all)?;
    Ok(id)
}

/// Refuses unless `keys/` and what this machine remembers are the same, but for one recipient that is to be changed:
/// what is remembered by mistake, or is there by somebody else's doing, would be confirmed unseen.
fn agree(now: &SealedTo, but_for: &str) -> Result<(), RepoError> {
    let others = |all: &BTreeSet<String>| all.iter().any(|recipient| recipient != but_for);
    match others(&now.missing) || others(&now.extra) {
        false => Ok(()),
        true => Err(RepoError::Refused {
            what: format!("keys/ is not what this machine remembers: {}", now.differences().join("; ")),
        }),
    }
}

/// Seals the writer secret to `recipients` and remembers them; the new file is durable before they are remembered,
/// and that before the old files go.
fn seal_to(repository: &Repository, recipients: &BTreeSet<String>) -> Result<(), RepoError> {
    repository.seal_writer_anew(recipients, |number| match repository.remembers() {
        true => repository.remember_these(recipients, number),
        false => Ok(()),
    })
}

/// What [`accept`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The recipients that this machine seals to from now on.
    pub recipients: BTreeSet<String>,
    /// Those among them that it did not seal to before.
    pub added: BTreeSet<String>,
    /// Those that it seals to no more.
    pub removed: BTreeSet<String>,
}

/// Takes over what `keys/` says: this machine seals to the recipients that are named there. If older files
/// were put in place of newer ones, the writer secret is sealed anew, so that no machine takes that for a removal.
///
/// # Errors
/// [`RepoError::NotEnrolled`]; as [`Repository::proven_keys`]; [`RepoError::Refused`] if nobody is named there;
/// [`RepoError::Store`]: what is remembered is as it was, or as it should be.
pub fn accept(repository: &Repository) -> Result<Accepted, RepoError> {
    needs_encryption(repository)?;
    if !repository.is_enrolled() {
        return Err(repository.not_enrolled()); // it may be another one, put in the place of ours
    }
    let keys = repository.proven_keys()?;
    let named: BTreeSet<String> =
        keys.iter().filter_map(|info| info.recipient()).map(str::to_owned).collect();
    if named.is_empty() {
        return Err(RepoError::Refused {
            what: "no file under keys/ names a recipient: nobody could read what is backed up; put back a good copy of keys/".to_owned(),
        });
    }
    let before = repository.sealed_to()?;
    let newest = repository.newest_sealing()?;
    match newest.recipients == named && newest.number >= before.number() {
        true => repository.remember_these(&named, newest.number)?,
        false => seal_to(repository, &named)?,
    }
    Ok(Accepted {
        added: named.difference(&before.recipients).cloned().collect(),
        removed: before.recipients.difference(&named).cloned().collect(),
        recipients: named,
    })
}

/// Remembers to whom this machine seals, if it never did, or if somebody was removed elsewhere; returns that, and
/// how `keys/` differs.
///
/// # Errors
/// As [`Repository::sealed_to`] and [`Repository::remember`].
pub fn settle(repository: &Repository) -> Result<SealedTo, RepoError> {
    let sealed_to = repository.sealed_to()?;
    repository.remember(&sealed_to)?;
    Ok(sealed_to)
}

/// Returns what the present passphrase opens: key files, each with its identity.
///
/// # Errors
/// [`RepoError::Locked`] without a passphrase; as [`Repository::opened_by`].
pub fn opened(
    repository: &Repository,
    secrets: &dyn Secrets,
) -> Result<Vec<(KeyFileId, Identity)>, RepoError> {
    needs_encryption(repository)?;
    repository.opened_by(&secrets.passphrase()?.ok_or(RepoError::Locked)?)
}

/// Wraps every identity that the present passphrase opens under a new one, then removes what the present one
/// wrapped; keys under other passphrases stay. The caller holds the repository's lock alone. Returns the new key files.
///
/// # Errors
/// As [`opened`], and nothing was changed; [`RepoError::Store`]: the old passphrase works until the new one
/// opens all that it opens.
pub fn rotate_passphrase(
    repository: &Repository,
    secrets: &dyn Secrets,
    passphrase: &Passphrase,
    created: Time,
) -> Result<Vec<KeyFileId>, RepoError> {
    let old = opened(repository, secrets)?;
    let mut new = Vec::new();
    for identity in distinct(old.iter().map(|(_, identity)| identity)) {
        new.push(put_identity(repository, identity, passphrase, "rotated", created)?.id);
    }
    for (id, _) in old {
        repository.store().delete(&Name::Key(id))?;
    }
    Ok(new)
}

/// Returns the identities' texts (`AGE-SECRET-KEY-1…`), to be kept offline.
///
/// # Errors
/// [`RepoError::Locked`], [`RepoError::WrongPassphrase`].
pub fn export(repository: &Repository, secrets: &dyn Secrets) -> Result<Vec<Passphrase>, RepoError> {
    needs_encryption(repository)?;
    let text = |identity: &Identity| Passphrase::new(identity.to_string().expose_secret().to_owned());
    Ok(repository.unlock(secrets)?.iter().map(text).collect())
}
