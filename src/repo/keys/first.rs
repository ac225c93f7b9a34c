//! What `keys/` holds when a repository is made.

use std::collections::BTreeSet;

use age::x25519::{Identity, Recipient};

use crate::base::id::RepositoryId;
use crate::base::time::Time;
use crate::repo::RepoError;
use crate::repo::keys::files::KeyBody;
use crate::repo::keys::wrap::{seal_writer, wrap_identity};
use crate::repo::keys::{Passphrase, WriterKeys};

/// The number of the first sealing of the writer secret.
pub const FIRST_SEALING: u64 = 1;

/// Returns the first key files of repository `id`: one for each recipient, however often it is named, one for a
/// new identity if there is a `passphrase` to wrap it, and the writer secret, sealed to all of them.
/// Without encryption the writer secret alone, as it is. Takes 0.2 s of CPU time and 64 MiB if there is a passphrase.
///
/// # Errors
/// [`RepoError::Age`] with neither passphrase nor recipient, [`RepoError::System`].
pub fn first_keys(
    id: RepositoryId,
    writer: &WriterKeys,
    passphrase: Option<&Passphrase>,
    recipients: &[Recipient],
    created: Time,
) -> Result<Vec<KeyBody>, RepoError> {
    if writer.metadata().is_none() {
        return Ok(vec![KeyBody::PlainWriter { secret: *writer.secret().expose() }]);
    }
    let (mut bodies, mut all) = (Vec::new(), Vec::new());
    if let Some(passphrase) = passphrase {
        let identity = Identity::generate();
        all.push(identity.to_public());
        bodies.push(KeyBody::Identity {
            recipient: identity.to_public().to_string(),
            label: "first".to_owned(),
            created,
            wrapped: wrap_identity(&identity, passphrase, id, writer)?,
        });
    }
    let mut named = BTreeSet::new();
    for recipient in recipients.iter().filter(|recipient| named.insert(recipient.to_string())) {
        all.push(recipient.clone());
        bodies.push(KeyBody::Recipient { recipient: recipient.to_string(), label: String::new(), created });
    }
    bodies.push(KeyBody::SealedWriter { age: seal_writer(writer.secret(), &all, FIRST_SEALING)? });
    Ok(bodies)
}
