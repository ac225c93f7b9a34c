//! Making a repository; and going on where that was cut.
//!
//! What is left of one that was cut is known by its key files, of which the state directory has a copy until the `config`
//! is durable. No other key file is ever built upon, and none is overwritten.

use std::collections::BTreeSet;

use age::x25519::Recipient;

use crate::base::id::{KeyFileId, RepositoryId};
use crate::base::time::Time;
use crate::repo::claim::{named, refuse_strangers};
use crate::repo::config::{CONFIG_BYTES_MAX, Choices, Config, Encryption};
use crate::repo::identify::Identified;
use crate::repo::keys::{
    FIRST_SEALING, KeyBody, KeyFile, Passphrase, WriterKeys, first_keys, forms, unwrap_identity,
};
use crate::repo::state::{
    InitState, RecipientsState, forget_init, keep_init, keep_recipients, keep_secret, kept_inits, kept_secret,
};
use crate::repo::{Opening, RepoError, Repository};
use crate::stage::seal::{Secret, random};
use crate::store::{Folder, LockMode, Name, Store, StoreError};

/// What can be done about key files without a `config`.
const LEFT: &str = "if they are left from a 'snap init' that was cut, and nothing was backed up here, remove them and run it again; else restore the config from a copy";

/// What a repository is made of, but for its `config`.
struct Beginning {
    id: RepositoryId,
    writer: WriterKeys,
    /// Its key files: names and bytes.
    keys: Vec<(KeyFileId, Vec<u8>)>,
    /// Whom content is sealed to.
    recipients: BTreeSet<String>,
}

impl Repository {
    /// Makes a repository in a store that has none, and keeps the writer secret in the state directory.
    ///
    /// `passphrase` wraps a new identity; `recipients` are sealed to as well, each once. Encryption needs
    /// one of them at least. The `config` file comes last: before it there is no repository. One that was cut before
    /// goes on if the same passphrase and recipients are given.
    ///
    /// # Errors
    /// [`RepoError::Exists`]; [`RepoError::Config`] if other files of a repository are there, [`RepoError::Refused`] if
    /// files of anybody else are; [`RepoError::Store`]:
    /// the key files are taken back where that can be done; [`RepoError::Age`].
    pub fn create(
        opening: &Opening<'_>,
        choices: Choices,
        passphrase: Option<&Passphrase>,
        recipients: &[Recipient],
        created: Time,
    ) -> Result<Self, RepoError> {
        let store = &opening.store;
        let location = store.location();
        match store.read(&Name::Config, CONFIG_BYTES_MAX) {
            Err(e) if e.is_nowhere() => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Err(RepoError::Exists { location }),
        }
        refuse_strangers(store.as_ref())?;
        for folder in Folder::ALL.into_iter().filter(|folder| *folder != Folder::Keys) {
            if !store.list(folder)?.is_empty() {
                let what =
                    "there are repository files but no config; restore the config from a copy".to_owned();
                return Err(RepoError::Config { location, what });
            }
        }
        let beginning = match left(opening, choices.encryption, passphrase, recipients)? {
            Some(left) => left,
            None => Beginning::new(choices.encryption, passphrase, recipients, created)?,
        };
        let Beginning { id, writer, keys, recipients } = beginning;
        let created_text = jiff::Timestamp::new(created.seconds, 0).unwrap_or_default().to_string();
        let config = Config::new(id, choices, &created_text);
        let text = config.to_text().map_err(|what| RepoError::Config { location: location.clone(), what })?;
        keep_secret(opening.state, id, choices.encryption, writer.secret())?; // 1. this machine can write
        if choices.encryption == Encryption::Age {
            let recipients = recipients.into_iter().collect(); // and knows whom it seals to
            keep_recipients(
                opening.state,
                &RecipientsState { repository: id, number: FIRST_SEALING, recipients },
            )?;
        }
        // 2. it knows the key files again, should it be cut
        let all = keys.iter().map(|(_, bytes)| bytes.clone()).collect();
        keep_init(opening.state, &InitState { repository: id, keys: all })?;
        // 3. whoever has the key can read
        let mut own = Vec::new();
        let put = keys.iter().try_for_each(|(key, bytes)| match store.put_new(&Name::Key(*key), bytes) {
            Err(StoreError::Taken { .. }) => Ok(()), // left, and the same bytes: the name is their hash
            put => {
                own.push(*key);
                put
            }
        });
        // 4. there is a repository
        let made = put.and_then(|()| store.put_new(&Name::Config, text.as_bytes()));
        if let Err(e) = made {
            take_back(store.as_ref(), &own, id);
            return Err(e.into());
        }
        forget_init(opening.state, id);
        let _ = store.lock(LockMode::Shared); // its file is there then when no more files fit
        let (bytes, identities) = (text.into_bytes(), Vec::new());
        let made = Identified { config, bytes, writer, identities, is_enrolled: true, is_vouched_for: true };
        Self::assemble(opening, made)
    }
}

impl Beginning {
    /// Draws an id and a writer secret, and makes the key files.
    fn new(
        encryption: Encryption,
        passphrase: Option<&Passphrase>,
        recipients: &[Recipient],
        created: Time,
    ) -> Result<Self, RepoError> {
        let mut id = [0; RepositoryId::BYTES];
        random(&mut id).map_err(|_| RepoError::System { what: "random bytes" })?;
        let id = RepositoryId::from_bytes(id);
        let secret = Secret::random().map_err(|_| RepoError::System { what: "random bytes" })?;
        let writer = WriterKeys::new(secret, encryption);
        let (mut keys, mut named) = (Vec::new(), BTreeSet::new());
        for body in first_keys(id, &writer, passphrase, recipients, created)? {
            keys.push(KeyFile::build(&body, &writer).map_err(|e| RepoError::record(&"keys/", e))?);
            if let KeyBody::Identity { recipient, .. } | KeyBody::Recipient { recipient, .. } = body {
                named.insert(recipient);
            }
        }
        Ok(Self { id, writer, keys, recipients: named })
    }

    /// Takes the key files that the state directory has of a repository that is being made; none if they are not
    /// of its writer secret.
    fn noted(opening: &Opening<'_>, init: InitState) -> Option<(Self, Encryption, Vec<KeyBody>)> {
        let kept = kept_secret(opening.state, init.repository).ok()??;
        let writer = WriterKeys::new(Secret::from_bytes(kept.secret), kept.encryption);
        let (mut keys, mut bodies, mut recipients) = (Vec::new(), Vec::new(), BTreeSet::new());
        for bytes in init.keys {
            let (_, body) = KeyFile::parse(&bytes).ok().filter(|(file, _)| file.is_by(&writer))?;
            if let KeyBody::Identity { recipient, .. } | KeyBody::Recipient { recipient, .. } = &body {
                recipients.insert(recipient.clone());
            }
            bodies.push(body);
            keys.push((KeyFileId::from_bytes(*blake3::hash(&bytes).as_bytes()), bytes));
        }
        Some((Self { id: init.repository, writer, keys, recipients }, kept.encryption, bodies))
    }

    /// Returns whether the key files are what is asked for now: sealed to the same recipients, and one under the same
    /// passphrase. Takes as long as trying that.
    fn is_asked_for(
        &self,
        bodies: &[KeyBody],
        passphrase: Option<&Passphrase>,
        recipients: &[Recipient],
    ) -> bool {
        let mut asked: BTreeSet<String> = recipients.iter().map(Recipient::to_string).collect();
        let wrapped = bodies.iter().find_map(|body| match body {
            KeyBody::Identity { recipient, wrapped, .. } => Some((recipient, wrapped)),
            _ => None,
        });
        let is_opened = match (wrapped, passphrase) {
            (Some((recipient, wrapped)), Some(passphrase)) => {
                asked.insert(recipient.clone());
                let opened = forms(passphrase).iter().find_map(|form| unwrap_identity(wrapped, form));
                opened.is_some_and(|opened| opened.repository == self.id)
            }
            (None, None) => true,
            _ => false,
        };
        is_opened && asked == self.recipients
    }
}

/// Returns what to go on with where key files are left of a repository that was being made; none if there are none.
///
/// # Errors
/// [`RepoError::Config`] if this machine did not leave them, or they are not what is asked for now; [`RepoError::Store`].
fn left(
    opening: &Opening<'_>,
    encryption: Encryption,
    passphrase: Option<&Passphrase>,
    recipients: &[Recipient],
) -> Result<Option<Beginning>, RepoError> {
    let found = opening.store.list(Folder::Keys)?;
    if found.is_empty() {
        return Ok(None);
    }
    let named = named(&found.iter().map(|found| found.path.clone()).collect::<Vec<_>>());
    let location = opening.store.location();
    let noted = kept_inits(opening.state).into_iter().filter_map(|init| Beginning::noted(opening, init));
    let is_of = |beginning: &Beginning| {
        found.iter().all(|found| beginning.keys.iter().any(|(id, _)| found.name == Some(Name::Key(*id))))
    };
    let Some((beginning, made_with, bodies)) = noted.into_iter().find(|(beginning, ..)| is_of(beginning))
    else {
        let what = format!("is not there, and these key files are: {named}; {LEFT}");
        return Err(RepoError::Config { location, what });
    };
    if made_with == encryption && beginning.is_asked_for(&bodies, passphrase, recipients) {
        return Ok(Some(beginning));
    }
    let what = format!(
        "is not there: a 'snap init' was cut here, which was given another passphrase, other recipients, or another encryption; give the same to go on with it; or, if nothing was backed up here, remove {named} and run it again"
    );
    Err(RepoError::Config { location, what })
}

/// Removes the key files that this run has put of a repository that could not be made, as far as that can be done. They
/// stay if the repository's own `config` is there after all, of whichever run, or that can't be told: with it, they are
/// needed.
fn take_back(store: &dyn Store, keys: &[KeyFileId], id: RepositoryId) {
    match store.read(&Name::Config, CONFIG_BYTES_MAX) {
        Err(e) if e.is_missing() => {}
        Ok(bytes) => match Config::from_bytes(&bytes).and_then(|config| config.id()) {
            Ok(other) if other != id => {} // of a repository that somebody else made meanwhile
            _ => return,
        },
        Err(_) => return,
    }
    for key in keys {
        let _ = store.delete(&Name::Key(*key)); // what stays is known by the next try
    }
}
