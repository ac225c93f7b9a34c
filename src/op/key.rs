//! Who can open a repository: listing, adding and removing keys.

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};

use crate::base::id::KeyFileId;
use crate::base::time::Time;
use crate::repo::config::Encryption;
use crate::repo::keys::{
    KeyBody, KeyInfo, Passphrase, Secrets, seal_to_recipients, unwrap_identity, wrap_identity,
};
use crate::repo::{RepoError, Repository};
use crate::store::Name;

fn refuse(repository: &Repository, what: &str) -> RepoError {
    RepoError::Source { path: repository.store().location(), reason: what.to_owned() }
}

fn needs_encryption(repository: &Repository) -> Result<(), RepoError> {
    match repository.config().encryption {
        Encryption::Age => Ok(()),
        Encryption::None => Err(refuse(repository, "has no encryption, and so no keys to manage")),
    }
}

/// Wraps the identity that opens this repository under one more passphrase.
///
/// # Errors
/// [`RepoError::Locked`] without the present passphrase or identity; [`RepoError::Store`].
pub fn add_passphrase(
    repository: &Repository,
    secrets: &dyn Secrets,
    passphrase: &Passphrase,
    label: &str,
    created: Time,
) -> Result<KeyFileId, RepoError> {
    needs_encryption(repository)?;
    let identity = repository.unlock(secrets)?.first().ok_or(RepoError::Locked)?;
    repository.put_key(&KeyBody::Identity {
        recipient: identity.to_public().to_string(),
        label: label.to_owned(),
        created,
        wrapped: wrap_identity(identity, passphrase, repository.id(), repository.writer_keys())?,
    })
}

/// Adds an age recipient. It opens what is backed up from now on, and trees of all time; content
/// stored before stays sealed to the earlier recipients alone.
///
/// # Errors
/// [`RepoError::Store`].
pub fn add_recipient(
    repository: &Repository,
    recipient: &Recipient,
    label: &str,
    created: Time,
) -> Result<KeyFileId, RepoError> {
    needs_encryption(repository)?;
    let mut all = repository.recipients()?;
    if all.iter().any(|known| known.to_string() == recipient.to_string()) {
        return Err(refuse(repository, "has that recipient already"));
    }
    all.push(recipient.clone());
    let body = KeyBody::Recipient { recipient: recipient.to_string(), label: label.to_owned(), created };
    let id = repository.put_key(&body)?;
    replace_sealed_writer(repository, &all)?;
    Ok(id)
}

/// Seals the writer secret to `recipients`; the new file is durable before the old ones go.
fn replace_sealed_writer(repository: &Repository, recipients: &[Recipient]) -> Result<(), RepoError> {
    let old: Vec<KeyFileId> = repository
        .key_files()?
        .into_iter()
        .filter_map(Result::ok)
        .filter(|info| matches!(info.body, KeyBody::SealedWriter { .. }))
        .map(|info| info.id)
        .collect();
    let age = seal_to_recipients(recipients, repository.writer_keys().secret().expose())?;
    repository.put_key(&KeyBody::SealedWriter { age })?;
    for id in old {
        repository.store().delete(&Name::Key(id))?;
    }
    Ok(())
}

/// Removes a key file, named by the start of its id. The last one that opens content stays, and so
/// does the writer secret.
///
/// # Errors
/// [`RepoError::Source`] if it must stay, or none or several are named so.
pub fn remove(repository: &Repository, prefix: &str) -> Result<KeyInfo, RepoError> {
    let all: Vec<KeyInfo> = repository.key_files()?.into_iter().filter_map(Result::ok).collect();
    let mut named = all.iter().filter(|info| info.id.to_string().starts_with(prefix));
    let (Some(info), None) = (named.next(), named.next()) else {
        return Err(refuse(
            repository,
            &format!("has not exactly one key whose id starts with {prefix}; see 'snap key list'"),
        ));
    };
    let Some(recipient) = info.recipient() else {
        return Err(refuse(
            repository,
            "needs that key: it is the writer secret, not a passphrase or recipient",
        ));
    };
    let others = || all.iter().filter(|other| other.id != info.id);
    if !others().any(|other| other.recipient().is_some() && other.is_proven) {
        return Err(refuse(repository, "needs that key: no other opens content; add one first"));
    }
    if !others().any(|other| other.recipient() == Some(recipient)) {
        let left: Result<Vec<Recipient>, _> =
            others().filter_map(KeyInfo::recipient).map(str::parse).collect();
        let left = left.map_err(|e: &str| refuse(repository, e))?;
        replace_sealed_writer(repository, &left)?;
    }
    repository.store().delete(&Name::Key(info.id))?;
    Ok(info.clone())
}

/// Wraps the identity under a new passphrase, then removes what the present one wrapped; keys under
/// other passphrases stay.
///
/// # Errors
/// As [`add_passphrase`]. The old passphrase works until the new one does.
pub fn rotate_passphrase(
    repository: &Repository,
    secrets: &dyn Secrets,
    passphrase: &Passphrase,
    created: Time,
) -> Result<KeyFileId, RepoError> {
    needs_encryption(repository)?;
    repository.unlock(secrets)?;
    let present = secrets.passphrase()?.ok_or(RepoError::Locked)?;
    let all = repository.key_files()?.into_iter().filter_map(Result::ok);
    let is_present = |info: &KeyInfo| match &info.body {
        KeyBody::Identity { wrapped, .. } => unwrap_identity(wrapped, &present).is_some(),
        _ => false,
    };
    let old: Vec<KeyFileId> = all.filter(is_present).map(|info| info.id).collect();
    let id = add_passphrase(repository, secrets, passphrase, "rotated", created)?;
    for id in old {
        repository.store().delete(&Name::Key(id))?;
    }
    Ok(id)
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
