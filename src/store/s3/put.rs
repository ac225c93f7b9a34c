//! Puts a file under its name: one request, only where the name is free, and then a look at what is there.

use std::io;
use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};
use ring::rand::{SecureRandom, SystemRandom};

use crate::base::time::Time;
use crate::store::s3::error::{Asked, code};
use crate::store::s3::retention::{moment, time};
use crate::store::s3::spool::{Sealed, Spool};
use crate::store::s3::{S3Store, Shared};
use crate::store::{Lockable, Name, Overlay, StoreError, Upload, VersionId};

/// Metadata that says which upload made an object.
const MARK: &str = "snap-upload";

/// How an object is to lie there.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Locked until then (COMPLIANCE); none for what the bucket does by itself.
    pub until: Option<Time>,
    /// Whether it may lie on top of another version.
    pub overlay: Overlay,
}

/// A file on its way.
pub struct S3Upload {
    shared: Arc<Shared>,
    spool: Spool,
    manner: Manner,
}

impl S3Upload {
    /// Begins.
    pub fn new(store: &S3Store, manner: Manner) -> Self {
        Self { shared: store.shared.clone(), spool: Spool::new(), manner }
    }
}

impl Upload for S3Upload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let spool = self.shared.options.spool.as_deref();
        self.spool.write(spool, bytes).map_err(|source| StoreError::Io {
            path: spool.map_or("temporary folder".to_owned(), |folder| folder.display().to_string()),
            verb: "keep a file to be sent in",
            source,
        })
    }

    fn commit(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        self.shared.put(&name.to_string(), &self.spool.finish(), self.manner).map(drop)
    }

    /// Where there are versions, what is replaced lies below.
    fn replace(self: Box<Self>, name: &Name) -> Result<(), StoreError> {
        let manner = Manner { overlay: Overlay::Allowed, ..self.manner };
        self.shared.put(&name.to_string(), &self.spool.finish(), manner).map(drop)
    }
}

impl Lockable for S3Upload {
    fn commit_locked(self: Box<Self>, name: &Name) -> Result<VersionId, StoreError> {
        self.shared.put(&name.to_string(), &self.spool.finish(), self.manner)
    }
}

impl Shared {
    /// Puts a file. On return it is there, whole, and locked as asked for.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if the name is not free and [`Overlay::Refused`], [`StoreError::Io`].
    pub fn put(&self, path: &str, sealed: &Sealed, manner: Manner) -> Result<VersionId, StoreError> {
        let shown = self.shown(path);
        let asked = Asked { path: &shown, verb: "put" };
        self.connection.wait(self.lease.guard(asked, async {
            if manner.overlay == Overlay::Refused && self.head(asked, path, None).await?.is_some() {
                return Err(StoreError::Taken { path: shown.clone() });
            }
            let mark = mark(asked)?;
            let version = match self.send(asked, path, sealed, manner, &mark).await {
                Err(StoreError::Taken { .. }) => None, // perhaps by this very upload, whose answer was lost
                other => other?,
            };
            let looked = self.head(asked, path, version.as_deref()).await?;
            let found = looked.ok_or_else(|| {
                asked.failed(io::ErrorKind::Other, "it is not there although it was put; run it again")
            })?;
            let is_ours = found.metadata().and_then(|all| all.get(MARK)) == Some(&mark);
            if !is_ours && version.is_none() {
                return Err(StoreError::Taken { path: shown.clone() });
            }
            // Where another one has put the same name just now, its bytes are the same, and no version tells.
            let length = found.content_length().and_then(|length| u64::try_from(length).ok());
            let etag = found.e_tag().filter(|_| has_md5(&found));
            if length != Some(sealed.bytes) || etag.is_some_and(|etag| sealed.contradicts(etag)) {
                let what = "what is there is not what was put; run it again, and check the storage";
                return Err(asked.failed(io::ErrorKind::InvalidData, what));
            }
            let id = VersionId(found.version_id().or(version.as_deref()).unwrap_or("null").to_owned());
            self.see_to_lock(asked, path, &id, manner.until, &found).await?;
            Ok(id)
        }))
    }

    /// Sends the one request; returns the version that it made, where there are versions.
    async fn send(
        &self,
        asked: Asked<'_>,
        path: &str,
        sealed: &Sealed,
        manner: Manner,
        mark: &str,
    ) -> Result<Option<String>, StoreError> {
        let length = i64::try_from(sealed.bytes)
            .map_err(|_| asked.failed(io::ErrorKind::FileTooLarge, "too long for one request"))?;
        let mut conflicts = 0;
        loop {
            self.connection.count_write();
            let request = self
                .connection
                .client
                .put_object()
                .bucket(self.location.bucket())
                .key(self.location.key(path))
                .content_length(length)
                .content_md5(sealed.content_md5())
                .metadata(MARK, mark)
                .set_storage_class(self.options.storage_class.as_deref().map(StorageClass::from))
                .set_if_none_match((manner.overlay == Overlay::Refused).then(|| "*".to_owned()))
                .set_object_lock_mode(manner.until.map(|_| ObjectLockMode::Compliance))
                .set_object_lock_retain_until_date(manner.until.map(moment))
                .body(sealed.body(&self.limiter));
            match request.send().await {
                Ok(output) => {
                    let sent = &self.connection.tally.bytes_sent;
                    sent.fetch_add(sealed.bytes, std::sync::atomic::Ordering::Relaxed);
                    return Ok(output.version_id().map(str::to_owned));
                }
                // Two conditional requests met. Whoever comes second sees the name taken.
                Err(e) if code(&e) == Some("ConditionalRequestConflict") && conflicts < 5 => conflicts += 1,
                Err(e) => return Err(asked.refused(&e)),
            }
        }
    }

    /// Looks at an object; none if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn head(
        &self,
        asked: Asked<'_>,
        path: &str,
        version: Option<&str>,
    ) -> Result<Option<HeadObjectOutput>, StoreError> {
        self.connection.count_read();
        let request = self
            .connection
            .client
            .head_object()
            .bucket(self.location.bucket())
            .key(self.location.key(path))
            .set_version_id(version.map(str::to_owned));
        match request.send().await {
            Ok(found) => Ok(Some(found)),
            Err(e) => match asked.refused(&e) {
                StoreError::Missing { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Makes sure that an object is locked as asked for: some servers take the headers and do nothing.
    async fn see_to_lock(
        &self,
        asked: Asked<'_>,
        path: &str,
        id: &VersionId,
        until: Option<Time>,
        found: &HeadObjectOutput,
    ) -> Result<(), StoreError> {
        let Some(until) = until else { return Ok(()) };
        let holds = |mode: Option<&ObjectLockMode>, date: Option<Time>| {
            mode == Some(&ObjectLockMode::Compliance)
                && date.is_some_and(|date| date.seconds >= until.seconds)
        };
        if holds(found.object_lock_mode(), found.object_lock_retain_until_date().map(time)) {
            return Ok(());
        }
        self.retain(asked, path, id, until).await?;
        let again = self.head(asked, path, Some(&id.0)).await?;
        let is_locked = again.is_some_and(|again| {
            holds(again.object_lock_mode(), again.object_lock_retain_until_date().map(time))
        });
        match is_locked {
            true => Ok(()),
            false => {
                let what = "the storage took the object and not its lock; the bucket needs Object Lock";
                Err(asked.failed(io::ErrorKind::Unsupported, what))
            }
        }
    }
}

/// Returns whether the ETag of an object may be the MD5 of its bytes. Of one that is sealed under keys of a key
/// service, or of whoever put it, it is something else that looks the same.
fn has_md5(found: &HeadObjectOutput) -> bool {
    let keyed = [ServerSideEncryption::AwsKms, ServerSideEncryption::AwsKmsDsse];
    let is_keyed = found.server_side_encryption().is_some_and(|how| keyed.contains(how));
    !is_keyed && found.sse_customer_algorithm().is_none()
}

/// Draws what tells one upload, or one holder of a lock, from any other.
///
/// # Errors
/// [`StoreError::Io`] without random bytes.
pub fn mark(asked: Asked<'_>) -> Result<String, StoreError> {
    let mut bytes = [0; 12];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| asked.failed(io::ErrorKind::Other, "the system gave no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_no_md5_where_a_key_service_or_the_callers_key_seals() {
        let found = HeadObjectOutput::builder;
        assert!(has_md5(&found().build()));
        assert!(has_md5(&found().server_side_encryption(ServerSideEncryption::Aes256).build()));
        assert!(!has_md5(&found().server_side_encryption(ServerSideEncryption::AwsKms).build()));
        assert!(!has_md5(&found().server_side_encryption(ServerSideEncryption::AwsKmsDsse).build()));
        assert!(!has_md5(&found().sse_customer_algorithm("AES256").build()));
    }
}
