//! To whom content is sealed: what `keys/` says, held against what this machine remembers.
//!
//! Every file under `keys/` is proven by the writer secret, and yet who can write to the disk can take files away
//! and put older ones back. So a machine seals to the recipients that it remembers, whatever becomes of `keys/`,
//! and says where the two differ. `snap key` changes both. A removal elsewhere is taken over if a newer sealing of
//! the writer secret, which says to whom it is sealed, shows it; an addition never is.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use age::x25519::Recipient;

use crate::base::id::KeyFileId;
use crate::repo::config::Encryption;
use crate::repo::keys::{KeyBody, KeyInfo, Sealing, seal_writer};
use crate::repo::state::{RecipientsState, keep_recipients, kept_recipients, recipients_file};
use crate::repo::{RepoError, Repository};
use crate::store::{Folder, Name, StoreError};

/// What to do where a machine and `keys/` differ.
const ACCEPT: &str =
    "if that is right, 'snap key accept' takes over what keys/ says; else put back a good copy of keys/";

/// What a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// One file under `keys/`, which the text names.
    File,
    /// What all files there say together.
    Folder,
    /// What this machine remembers.
    Memory,
}

/// Something that is wrong with `keys/` or with what is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is about.
    pub about: About,
    /// What is wrong, on one line.
    pub what: String,
}

impl Fault {
    /// Says that something is wrong with what this machine remembers.
    pub fn of_memory(what: String) -> Self {
        Self { about: About::Memory, what }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.about {
            About::Folder => write!(f, "{}/: {}", Folder::Keys.name(), self.what),
            About::File | About::Memory => f.write_str(&self.what),
        }
    }
}

/// To whom content is sealed, and how `keys/` differs from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedTo {
    /// The recipients (`age1…`) that content is sealed to.
    pub recipients: BTreeSet<String>,
    /// Those of them that no key file names.
    pub missing: BTreeSet<String>,
    /// Those that key files name and content is not sealed to.
    pub extra: BTreeSet<String>,
    /// Those that were taken away elsewhere, which a newer sealing shows.
    pub removed: BTreeSet<String>,
    /// What else is wrong with `keys/` or with what is remembered.
    pub faults: Vec<Fault>,
    /// Whether nothing was remembered: these are taken as `keys/` says now.
    pub is_first: bool,
    number: u64,
    /// What was remembered, if that could be read.
    kept: Option<RecipientsState>,
}

impl SealedTo {
    /// Returns how `keys/` differs from what is sealed to, a line each; none if it does not.
    pub fn differences(&self) -> Vec<String> {
        self.all_faults().iter().map(Fault::to_string).collect()
    }

    /// Returns all that is wrong with `keys/` or with what is remembered.
    pub fn all_faults(&self) -> Vec<Fault> {
        let folder = |what: String| Fault { about: About::Folder, what };
        let missing = self.missing.iter().map(|recipient| {
            folder(format!(
                "{recipient} is sealed to, as this machine remembers, and no file there names it: {ACCEPT}"
            ))
        });
        let extra = self.extra.iter().map(|recipient| {
            folder(format!(
                "{recipient} is named there, is not known to this machine, and is not sealed to: {ACCEPT}"
            ))
        });
        missing.chain(extra).chain(self.faults.iter().cloned()).collect()
    }

    /// Returns the number of the newest sealing of the writer secret that is known.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns what is to be said once, a line each: what is remembered for the first time, and what was taken over.
    pub fn news(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.is_first {
            lines.push(format!(
                "content is sealed to {}: this machine remembers that from now on; compare it with the keys that you know ('snap key list')",
                listed(&self.recipients)
            ));
        }
        if !self.removed.is_empty() {
            lines.push(format!(
                "{} was removed with 'snap key remove' on another machine, and is not sealed to any more",
                listed(&self.removed)
            ));
        }
        lines
    }
}

/// Returns recipients as one text.
pub fn listed(recipients: &BTreeSet<String>) -> String {
    recipients.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What proven files under `keys/` say together.
#[derive(Default)]
struct Said {
    recipients: BTreeSet<String>,
    /// Number of the newest sealings, and to whom they are, all of one number together.
    newest: Sealing,
    has_sealing: bool,
    faults: Vec<Fault>,
}

impl Said {
    fn by(files: Vec<Result<KeyInfo, RepoError>>) -> Self {
        let mut said = Self::default();
        for file in files {
            match file {
                Err(e) => said.fault_of_file(format!("{}; put back a good copy of it", e.chain())),
                Ok(info) if !info.is_proven => said.fault_of_file(unproven(info.id)),
                Ok(info) => said.note(&info),
            }
        }
        said
    }

    fn fault_of_file(&mut self, what: String) {
        self.faults.push(Fault { about: About::File, what });
    }

    fn note(&mut self, info: &KeyInfo) {
        if let Some(text) = info.recipient() {
            match text.parse::<Recipient>() {
                Ok(_) => _ = self.recipients.insert(text.to_owned()),
                Err(e) => self.fault_of_file(format!("{}: recipient {text:?}: {e}", Name::Key(info.id))),
            }
        }
        if let KeyBody::SealedWriter { age } = &info.body {
            let sealing = Sealing::of(age);
            match sealing.number.cmp(&self.newest.number) {
                std::cmp::Ordering::Less if self.has_sealing => {}
                std::cmp::Ordering::Equal if self.has_sealing => {
                    self.newest.recipients.extend(sealing.recipients);
                }
                _ => self.newest = sealing,
            }
            self.has_sealing = true;
        }
    }
}

/// Says that a key file is not the owner's.
pub fn unproven(id: KeyFileId) -> String {
    format!("keys/{id} was not written by this repository's owner; remove it, or ask who added it")
}

impl Repository {
    /// Returns where this machine remembers the recipients.
    pub fn recipients_file(&self) -> PathBuf {
        recipients_file(self.state(), self.id())
    }

    /// Returns the recipients that this machine remembers; none if it remembers none, or that can't be read.
    pub fn remembered_recipients(&self) -> Option<BTreeSet<String>> {
        let kept = kept_recipients(self.state(), self.id()).ok().flatten()?;
        Some(kept.recipients.into_iter().collect())
    }

    /// Returns to whom content is sealed, and how `keys/` differs from that. Changes nothing.
    ///
    /// Where nothing is remembered, it is whom `keys/` names, if each file there can be relied on.
    ///
    /// # Errors
    /// [`RepoError::Store`] if `keys/` can't be listed; where nothing is remembered also as [`Self::proven_keys`],
    /// and [`RepoError::Distrusted`] if there are no recipients at all.
    pub fn sealed_to(&self) -> Result<SealedTo, RepoError> {
        if self.config().encryption == Encryption::None {
            return Ok(SealedTo::default());
        }
        let (kept, unreadable) = match kept_recipients(self.state(), self.id()) {
            Ok(kept) => (kept, None),
            Err(e) => (None, Some(e)),
        };
        let Some(kept) = kept else { return self.sealed_to_as_keys_say(unreadable) };
        let said = Said::by(self.key_files()?);
        let mut known: BTreeSet<String> = kept.recipients.iter().cloned().collect();
        let mut sealed_to = SealedTo { number: kept.number, kept: Some(kept.clone()), ..SealedTo::default() };
        if said.newest.number > kept.number {
            let stay: BTreeSet<String> = known.intersection(&said.newest.recipients).cloned().collect();
            // Content is always sealed to somebody who was known.
            if !stay.is_empty() {
                sealed_to.removed = known.difference(&stay).cloned().collect();
                known = stay;
            }
            sealed_to.number = said.newest.number;
        }
        sealed_to.faults = said.faults;
        if said.has_sealing && said.newest.number < kept.number {
            let what = format!(
                "the newest sealed writer secret there has number {}, this machine remembers number {}: older files were put in place of newer ones: {ACCEPT}",
                said.newest.number, kept.number
            );
            sealed_to.faults.push(Fault { about: About::Folder, what });
        }
        sealed_to.missing = known.difference(&said.recipients).cloned().collect();
        sealed_to.extra = said.recipients.difference(&known).cloned().collect();
        sealed_to.recipients = known;
        Ok(sealed_to)
    }

    fn sealed_to_as_keys_say(&self, unreadable: Option<RepoError>) -> Result<SealedTo, RepoError> {
        let said = Said::by(self.proven_keys()?.into_iter().map(Ok).collect());
        let distrust = |what: String| RepoError::Distrusted { location: self.store().location(), what };
        if let Some(fault) = said.faults.into_iter().next() {
            return Err(distrust(fault.to_string()));
        }
        if said.recipients.is_empty() {
            return Err(distrust("no recipient under keys/; restore the keys folder from a copy".to_owned()));
        }
        let faults = unreadable.iter().map(|e| {
            Fault::of_memory(format!(
                "{}: whether keys/ was changed can't be told, and content is sealed to {}: if these are right, 'snap key accept' remembers them anew",
                e.chain(),
                listed(&said.recipients)
            ))
        });
        Ok(SealedTo {
            faults: faults.collect(),
            is_first: unreadable.is_none(),
            number: said.newest.number,
            recipients: said.recipients,
            ..SealedTo::default()
        })
    }

    /// Remembers to whom content is sealed, durably, if that is not what is remembered. What can't be read is left
    /// as it is: 'snap key accept' replaces it. So is what somebody else has changed meanwhile.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn remember(&self, sealed_to: &SealedTo) -> Result<(), RepoError> {
        let is_known = sealed_to.kept.is_some() || sealed_to.is_first;
        match is_known && kept_recipients(self.state(), self.id())? == sealed_to.kept {
            true => self.remember_these(&sealed_to.recipients, sealed_to.number),
            false => Ok(()),
        }
    }

    /// Remembers recipients as those that content is sealed to, durably.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn remember_these(&self, recipients: &BTreeSet<String>, number: u64) -> Result<(), RepoError> {
        let (repository, recipients) = (self.id(), recipients.iter().cloned().collect());
        let new = RecipientsState { repository, number, recipients };
        match kept_recipients(self.state(), self.id()) {
            Ok(Some(kept)) if kept == new => Ok(()),
            _ => keep_recipients(self.state(), &new),
        }
    }

    /// Returns whether this machine remembers, or is to remember, whom it seals to.
    pub fn remembers(&self) -> bool {
        self.is_enrolled() || self.recipients_file().exists()
    }

    /// Returns the recipients that new content is sealed to, each once.
    ///
    /// # Errors
    /// As [`Self::sealed_to`]; [`RepoError::Distrusted`] if one of them makes no sense.
    pub fn recipients(&self) -> Result<Vec<Recipient>, RepoError> {
        self.parsed(&self.sealed_to()?.recipients)
    }

    fn parsed(&self, texts: &BTreeSet<String>) -> Result<Vec<Recipient>, RepoError> {
        let distrust = |what: String| RepoError::Distrusted { location: self.store().location(), what };
        let parse =
            |text: &String| text.parse().map_err(|e: &str| distrust(format!("recipient {text:?}: {e}")));
        texts.iter().map(parse).collect()
    }

    /// Seals the writer secret to recipients anew, under a number above all others, and then does `between`, given
    /// that number, and removes the older sealings: at each moment one is there.
    ///
    /// # Errors
    /// As [`Self::key_files`] and `between`; [`RepoError::Store`]: several sealings may be there.
    pub fn seal_writer_anew(
        &self,
        recipients: &BTreeSet<String>,
        between: impl FnOnce(u64) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let remembered =
            kept_recipients(self.state(), self.id()).ok().flatten().map_or(0, |kept| kept.number);
        let files: Vec<KeyInfo> = self.key_files()?.into_iter().flatten().collect();
        let old = files.into_iter().filter(|info| info.is_proven);
        let old: Vec<(KeyFileId, u64)> = old
            .filter_map(|info| match &info.body {
                KeyBody::SealedWriter { age } => Some((info.id, Sealing::of(age).number)),
                _ => None,
            })
            .collect();
        let newest = old.iter().map(|(_, number)| *number).max().unwrap_or(0).max(remembered);
        let number = newest.checked_add(1).ok_or(RepoError::Content { what: "the last number is used" })?;
        let age = seal_writer(self.writer_keys().secret(), &self.parsed(recipients)?, number)?;
        self.put_key(&KeyBody::SealedWriter { age })?;
        between(number)?;
        for (id, _) in old {
            match self.store().delete(&Name::Key(id)) {
                Ok(()) | Err(StoreError::Missing { .. }) => {} // another machine seals it anew as well
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Returns the number of the newest sealing of the writer secret under `keys/`, and whom it says it is sealed to.
    ///
    /// # Errors
    /// As [`Self::key_files`].
    pub fn newest_sealing(&self) -> Result<Sealing, RepoError> {
        Ok(Said::by(self.key_files()?).newest)
    }
}
