//! The configuration, key files and other small files: each is what its name says, and all that is
//! needed to open the repository on a new machine is there.

use std::collections::BTreeSet;

use age::x25519::Identity;

use crate::base::id::KeyFileId;
use crate::op::check::findings::{Findings, PUT_BACK, told};
use crate::op::check::{Damage, Report};
use crate::repo::config::{CONFIG_BYTES_MAX, Config, Encryption};
use crate::repo::keys::{KeyBody, KeyFile, Sealing, open_with_identities, recipient_count};
use crate::repo::recipients::{About, SealedTo};
use crate::repo::{KEY_FILE_BYTES_MAX, RepoError, Repository, Snapshot, read_named};
use crate::store::{Folder, Name};

/// What the key files hold together.
#[derive(Default)]
pub struct KeysFound {
    /// Recipients that new content is sealed to.
    pub recipients: BTreeSet<String>,
    /// Sealed copies of the writer secret.
    pub sealed: Vec<(KeyFileId, Vec<u8>)>,
    /// Whether the writer secret lies there unsealed.
    pub has_plain: bool,
    /// Whether a key file is damaged.
    pub has_damage: bool,
}

/// Returns the report on a repository that can't be opened, for these key files are damaged, which would open it.
pub fn unopened(damaged: &[(KeyFileId, RepoError)]) -> Report {
    let mut report = Report::default();
    for (id, error) in damaged {
        let path = Name::Key(*id).to_string();
        let what = format!("{}; {PUT_BACK}: no other key file opens with what was given", told(error, &path));
        report.damages.push(Damage { path, what });
    }
    report.notes.push("nothing else was looked at: it can't be opened".to_owned());
    report
}

/// Reads `config` again.
pub fn check_config(repository: &Repository, findings: &mut Findings) {
    let path = Name::Config.to_string();
    match repository.store().read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(e) => {
            let what = told(&e.into(), &path);
            findings.damage(path, format!("{what}; {PUT_BACK}: without it nothing can be opened"));
        }
        Ok(bytes) => match Config::from_bytes(&bytes) {
            Ok(config) if config == *repository.config() => {}
            Ok(_) => findings.damage(path, "it changed while it was in use; nothing may change it"),
            Err(what) => findings.damage(path, format!("{what}; {PUT_BACK}")),
        },
    }
}

/// Holds `config` against what the newest snapshot says that it was made with, of those that say it.
pub fn check_config_proof(repository: &Repository, snapshots: &[Snapshot], findings: &mut Findings) {
    let newest = snapshots.iter().rev().find_map(|snapshot| snapshot.manifest.config_proof());
    if newest.is_some_and(|proof| proof != repository.config_proof()) {
        findings.damage(
            Name::Config,
            format!("it is not the one that the newest snapshot was made with: somebody has changed it; {PUT_BACK}: how much and how fast a backup stores depends on it, and nothing else"),
        );
    }
}

/// Reads all key files. With `identities`, tries whether they open the writer secret.
///
/// # Errors
/// [`RepoError::Store`] if they can't be listed.
pub fn check_keys(
    repository: &Repository,
    identities: &[Identity],
    findings: &mut Findings,
) -> Result<KeysFound, RepoError> {
    let mut found = KeysFound::default();
    for file in repository.store().list(Folder::Keys)? {
        let Some(Name::Key(id)) = file.name else {
            findings.foreign(file.path);
            continue;
        };
        match read_key(repository, id) {
            Ok(body) => found.note(repository, id, body, findings),
            Err(what) => {
                found.has_damage = true;
                findings.damage(file.path, format!("{what}; {PUT_BACK}"));
            }
        }
    }
    if let Some(sealed_to) = remembered(repository, findings)? {
        // What is wrong with one file is told of that file above.
        for fault in sealed_to.all_faults().into_iter().filter(|fault| fault.about != About::File) {
            findings.damage("keys/", fault.what);
        }
    }
    match repository.config().encryption {
        Encryption::None if !found.has_plain => {
            let what = "no file there holds the writer secret: only machines that keep it in their state directory can open the repository; put back a good copy of the folder";
            findings.damage("keys/", what);
        }
        Encryption::None => {}
        Encryption::Age => found.judge_sealed(repository, identities, findings),
    }
    Ok(found)
}

/// Returns whom this machine seals to, as it remembers; none if it does not.
fn remembered(repository: &Repository, findings: &mut Findings) -> Result<Option<SealedTo>, RepoError> {
    if repository.config().encryption == Encryption::None || !repository.remembers() {
        return Ok(None);
    }
    match repository.sealed_to() {
        Ok(sealed_to) if sealed_to.is_first => {
            findings.notes.push("keys/: this machine does not remember yet to whom it seals, so whether files there were changed can't be told; the next backup remembers it".to_owned());
            Ok(None)
        }
        Ok(sealed_to) => Ok(Some(sealed_to)),
        Err(RepoError::Store(e)) if !e.is_missing() && !e.is_unreadable() => Err(e.into()),
        Err(_) => Ok(None), // nothing is remembered, and each file is told of already
    }
}

fn read_key(repository: &Repository, id: KeyFileId) -> Result<KeyBody, String> {
    let name = Name::Key(id);
    let path = name.to_string();
    let said = |e: RepoError| told(&e, &path);
    let bytes = read_named(repository.store(), &name, KEY_FILE_BYTES_MAX).map_err(said)?;
    let (file, body) = KeyFile::parse(&bytes).map_err(|e| said(RepoError::record(&name, e)))?;
    match file.is_by(repository.writer_keys()) {
        true => Ok(body),
        false => {
            Err("whoever wrote it had no writer secret of this repository; remove it, or ask who added it"
                .to_owned())
        }
    }
}

impl KeysFound {
    fn note(&mut self, repository: &Repository, id: KeyFileId, body: KeyBody, findings: &mut Findings) {
        match body {
            KeyBody::Identity { recipient, .. } | KeyBody::Recipient { recipient, .. } => {
                if let Err(e) = recipient.parse::<age::x25519::Recipient>() {
                    self.has_damage = true;
                    findings.damage(Name::Key(id), format!("recipient {recipient}: {e}"));
                }
                self.recipients.insert(recipient);
            }
            KeyBody::SealedWriter { age } => self.sealed.push((id, age)),
            KeyBody::PlainWriter { secret } => {
                self.has_plain = secret == *repository.writer_keys().secret().expose();
                if !self.has_plain {
                    let what =
                        "holds another writer secret than this machine uses; no snapshot opens with it";
                    findings.damage(Name::Key(id), what);
                }
            }
        }
    }

    fn judge_sealed(&self, repository: &Repository, identities: &[Identity], findings: &mut Findings) {
        if self.recipients.is_empty() {
            let what = "no file there names a recipient: nothing can be backed up; put back a good copy of the folder";
            findings.damage("keys/", what);
        }
        if self.sealed.is_empty() {
            let what = "no file there holds the sealed writer secret: whoever has an identity finds it in the packs alone; 'snap check --repair' on a machine that keeps it in its state directory seals it anew";
            findings.damage("keys/", what);
            return;
        }
        // What an older sealing says was true then; the next 'snap key' removes it.
        let number = |age: &[u8]| Sealing::of(age).number;
        let newest = self.sealed.iter().map(|(_, age)| number(age)).max();
        let newest = self.sealed.iter().filter(|(_, age)| Some(number(age)) == newest);
        let sealed_to = newest.map(|(_, age)| recipient_count(age));
        let (least, named) = (sealed_to.min().unwrap_or(0), self.recipients.len());
        if least > named && !self.has_damage {
            let what = format!(
                "the writer secret is sealed to {least} recipients, the files there name {named}: a key file is gone, and its owner could not open what is backed up from now on; put back a good copy of the folder, or add the recipient again"
            );
            findings.damage("keys/", what);
        }
        if least < named {
            findings.notes.push(format!(
                "keys/: the writer secret is sealed to {least} of {named} recipients: 'snap key' was interrupted; remove the key that was being added or removed, and do it again"
            ));
        }
        let secret = repository.writer_keys().secret().expose();
        for (id, age) in self.sealed.iter().filter(|_| !identities.is_empty()) {
            match open_with_identities(identities, age) {
                None => findings.notes.push(format!(
                    "{}: the sealed writer secret opens with none of the identities at hand, and was not compared",
                    Name::Key(*id)
                )),
                Some(plain) if plain.as_slice() == secret => {}
                Some(_) => findings.damage(
                    Name::Key(*id),
                    "holds another writer secret than this machine uses; no snapshot opens with it",
                ),
            }
        }
    }
}
