//! `snap key`

use serde_json::json;

use crate::base::entry::quoted;
use crate::base::time::Time;
use crate::cli::args::Key;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, local, rfc3339, short};
use crate::cli::session::Session;
use crate::job::clock::now;
use crate::op::key;
use crate::repo::keys::{KeyBody, KeyInfo};
use crate::repo::recipients::SealedTo;
use crate::repo::{RepoError, Repository};
use crate::store::{Lock, LockMode};

/// Manages keys.
///
/// # Errors
/// As the operations in [`key`].
pub fn run(session: &Session, command: Key) -> Result<Exit, RepoError> {
    let repository = session.open()?;
    let mut out = Output::new();
    let changes = matches!(command, Key::Add { .. } | Key::Remove { .. } | Key::RotatePassphrase { .. });
    if changes && repository.remembers() {
        first_remembered(&repository)?;
    }
    match command {
        Key::List => return list(session, &repository),
        Key::Add { recipient: Some(text), label, .. } => {
            let recipient = text.parse().map_err(|e: &str| RepoError::Source {
                path: format!("--recipient {text}"),
                reason: e.to_owned(),
            })?;
            let _lock = session.lock(&repository)?;
            let id = key::add_recipient(&repository, &recipient, &label, now())?;
            out.line(format_args!(
                "key {} added: it opens content that is stored from now on; what was stored before stays closed to it, and later snapshots share that",
                short(id)
            ))?;
        }
        Key::Add { recipient: None, new_password_file, label } => {
            repository.unlock(&session.secrets)?; // the present passphrase first
            let passphrase =
                session.secrets.new_passphrase(new_password_file.as_deref(), "SNAP_NEW_PASSWORD")?;
            let _lock = session.lock(&repository)?;
            for added in key::add_passphrase(&repository, &session.secrets, &passphrase, &label, now())? {
                out.line(format_args!(
                    "key {} added: its passphrase opens what is sealed to {}",
                    short(added.id),
                    added.recipient().unwrap_or_default()
                ))?;
            }
        }
        Key::Remove { id } => {
            if key::takes_proof(&repository, &id)? {
                ask(session, &repository)?;
            }
            let _lock = alone(session, &repository)?;
            let gone = key::remove(&repository, &session.secrets, &id)?;
            out.line(format_args!(
                "key {} removed; whoever copied it before can still use the copy",
                short(gone.id)
            ))?;
        }
        Key::RotatePassphrase { new_password_file } => {
            key::opened(&repository, &session.secrets)?; // the present passphrase first
            let passphrase =
                session.secrets.new_passphrase(new_password_file.as_deref(), "SNAP_NEW_PASSWORD")?;
            let _lock = alone(session, &repository)?;
            for id in key::rotate_passphrase(&repository, &session.secrets, &passphrase, now())? {
                out.line(format_args!(
                    "key {} has the new passphrase; the old one is gone from this repository",
                    short(id)
                ))?;
            }
        }
        Key::Export => {
            for identity in key::export(&repository, &session.secrets)? {
                out.line(identity.as_str())?;
            }
        }
        Key::Enroll => {
            repository.enroll()?;
            out.line(format_args!("this machine can back up: {}", repository.secret_file().display()))?;
            let exit = settle(&repository);
            out.finish()?;
            return Ok(exit);
        }
        Key::Accept => {
            let _lock = session.lock(&repository)?;
            let accepted = key::accept(&repository)?;
            for recipient in &accepted.recipients {
                let is_new = if accepted.added.contains(recipient) { " (was not before)" } else { "" };
                out.line(format_args!("content is sealed to {recipient}{is_new}"))?;
            }
            for recipient in &accepted.removed {
                out.line(format_args!("content is no longer sealed to {recipient}"))?;
            }
        }
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Remembers to whom this machine seals, and says it, to be compared; says what is wrong with `keys/`.
pub fn settle(repository: &Repository) -> Exit {
    let sealed_to = match key::settle(repository) {
        Ok(sealed_to) => sealed_to,
        Err(e) => {
            tracing::error!("to whom this machine seals is not remembered yet: {}", e.chain());
            return Exit::Partial;
        }
    };
    tell(&sealed_to)
}

/// Says to whom content is sealed where that is new, and how `keys/` differs from what this machine remembers.
pub fn tell(sealed_to: &SealedTo) -> Exit {
    sealed_to.news().iter().for_each(|line| tracing::warn!("{line}"));
    let differences = sealed_to.differences();
    differences.iter().for_each(|line| tracing::error!("{line}"));
    if differences.is_empty() { Exit::Done } else { Exit::Partial }
}

/// Remembers to whom this machine seals before that is changed, if it never did, and says it.
fn first_remembered(repository: &Repository) -> Result<(), RepoError> {
    match repository.sealed_to() {
        Ok(now) if now.is_first => {
            repository.remember(&now)?;
            now.news().iter().for_each(|line| tracing::warn!("{line}"));
            Ok(())
        }
        _ => Ok(()), // what is wrong is said by what is to be done
    }
}

/// Asks for the key that stays before the repository is locked: nobody waits for who types. Without one,
/// what is to go is refused or not by what is there.
fn ask(session: &Session, repository: &Repository) -> Result<(), RepoError> {
    match repository.unlock(&session.secrets) {
        Ok(_) | Err(RepoError::Locked) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Takes the repository's lock alone: a run that is under way seals to the keys that it began with.
fn alone(session: &Session, repository: &Repository) -> Result<Box<dyn Lock>, RepoError> {
    repository.lock_patiently(LockMode::Exclusive, session.global.lock_wait, &session.progress)
}

/// What key files are called that hold the writer secret.
const WRITER: &str = "writer";

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
        let mark = (kind == WRITER && info.is_proven).then(|| repository.writer_keys().shown_mark());
        if session.global.json {
            out.line(json!({
                "type": "key",
                "id": info.id.to_string(),
                "kind": kind,
                "recipient": recipient,
                "label": label,
                "created": created.map(rfc3339),
                "proven": info.is_proven,
                "mark": mark,
            }))?;
            continue;
        }
        // Whoever can write to the disk has written what is not proven.
        let (recipient, label) = (quoted(recipient.as_bytes()), quoted(label.as_bytes()));
        let proof = if info.is_proven { "" } else { "  NOT WRITTEN BY THIS REPOSITORY'S OWNER" };
        let label = mark.map_or(label.clone(), |mark| format!("{label}, mark {mark}"));
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
        KeyBody::SealedWriter { .. } => (WRITER, "", "the writer secret, sealed to all of them", None),
        KeyBody::PlainWriter { .. } => (WRITER, "", "the writer secret, not sealed", None),
    }
}
