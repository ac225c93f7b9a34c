//! `snap key`

use serde_json::json;

use crate::base::time::Time;
use crate::cli::args::Key;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, local, rfc3339, short};
use crate::cli::secrets::CliSecrets;
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::op::key;
use crate::repo::keys::{KeyBody, KeyInfo, Secrets};
use crate::repo::{RepoError, Repository};

/// Manages keys.
///
/// # Errors
/// As the operations in [`key`].
pub fn run(session: &Session, command: Key) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let mut out = Output::new();
    match command {
        Key::List => return list(session, &repository),
        Key::Add { recipient: Some(text), label, .. } => {
            let recipient = text.parse().map_err(|e: &str| RepoError::Source {
                path: format!("--recipient {text}"),
                reason: e.to_owned(),
            })?;
            let id = key::add_recipient(&repository, &recipient, &label, now())?;
            out.line(format_args!("key {} added: it opens what is backed up from now on", short(id)))?;
        }
        Key::Add { recipient: None, new_password_file, label } => {
            repository.unlock(&session.secrets)?; // the present passphrase first
            let passphrase = CliSecrets::new_passphrase(new_password_file.as_deref(), "SNAP_NEW_PASSWORD")?;
            let id = key::add_passphrase(&repository, &session.secrets, &passphrase, &label, now())?;
            out.line(format_args!("key {} added: either passphrase opens everything", short(id)))?;
        }
        Key::Remove { id } => {
            let gone = key::remove(&repository, &id)?;
            out.line(format_args!(
                "key {} removed; whoever copied it before can still use the copy",
                short(gone.id)
            ))?;
        }
        Key::RotatePassphrase { new_password_file } => {
            repository.unlock(&session.secrets)?;
            session.secrets.passphrase()?.ok_or(RepoError::Locked)?;
            let passphrase = CliSecrets::new_passphrase(new_password_file.as_deref(), "SNAP_NEW_PASSWORD")?;
            let id = key::rotate_passphrase(&repository, &session.secrets, &passphrase, now())?;
            out.line(format_args!(
                "key {} has the new passphrase; the old one is gone from this repository",
                short(id)
            ))?;
        }
        Key::Export => {
            for identity in key::export(&repository, &session.secrets)? {
                out.line(identity.as_str())?;
            }
        }
        Key::Enroll => {
            repository.enroll()?;
            out.line(format_args!("this machine can back up: {}", repository.secret_file().display()))?;
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn list(session: &Session, repository: &Repository) -> Result<Exit, RepoError> {
    let mut out = Output::new();
    let mut exit = Exit::Done;
    for info in repository.key_files()? {
        let info = match info {
            Ok(info) => info,
            Err(error) => {
                exit = Exit::Partial;
                tracing::error!("{error}");
                continue;
            }
        };
        let (kind, recipient, label, created) = described(&info);
        if session.global.json {
            out.line(json!({
                "type": "key",
                "id": info.id.to_string(),
                "kind": kind,
                "recipient": recipient,
                "label": label,
                "created": created.map(rfc3339),
                "proven": info.is_proven,
            }))?;
            continue;
        }
        let proof = if info.is_proven { "" } else { "  NOT WRITTEN BY THIS REPOSITORY'S OWNER" };
        let when = created.map(local).unwrap_or_default();
        out.line(
            format!("{}  {kind:<10}  {when:<19}  {recipient}  {label}{proof}", short(info.id)).trim_end(),
        )?;
    }
    out.finish()?;
    Ok(exit)
}

fn described(info: &KeyInfo) -> (&'static str, &str, &str, Option<Time>) {
    match &info.body {
        KeyBody::Identity { recipient, label, created, .. } => {
            ("passphrase", recipient, label, Some(*created))
        }
        KeyBody::Recipient { recipient, label, created } => ("recipient", recipient, label, Some(*created)),
        KeyBody::SealedWriter { .. } => ("writer", "", "the writer secret, sealed to all of them", None),
        KeyBody::PlainWriter { .. } => ("writer", "", "the writer secret, not sealed", None),
    }
}
