//! The lock verbs: versions, what keeps them, and until when.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleRule, ObjectLockEnabled, ObjectLockRetention,
    ObjectLockRetentionMode, TransitionStorageClass,
};

use crate::base::time::Time;
use crate::store::s3::error::{Asked, code};
use crate::store::s3::put::{Manner, S3Upload};
use crate::store::s3::spool::md5_of;
use crate::store::s3::{S3Store, Shared};
use crate::store::{
    Lockable, LockingStore, Mode, Name, Overlay, Protection, Retention, StoreError, Usage, Version, VersionId,
};

/// Storage classes of which nothing can be read before it was restored, which takes hours.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Returns a moment as S3 takes it: whole seconds.
pub fn moment(time: Time) -> DateTime {
    DateTime::from_secs(time.seconds)
}

/// Returns a moment that S3 gave.
pub fn time(moment: &DateTime) -> Time {
    Time::new(moment.secs(), moment.subsec_nanos())
}

impl Shared {
    /// Locks a version until then.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`].
    pub async fn retain(
        &self,
        asked: Asked<'_>,
        path: &str,
        id: &VersionId,
        until: Time,
    ) -> Result<(), StoreError> {
        self.connection.count_write();
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(moment(until))
            .build();
        let request = self.connection.client.put_object_retention();
        let request = request.bucket(self.location.bucket()).key(self.location.key(path));
        let request = request.version_id(&id.0).retention(retention);
        request.send().await.map(drop).map_err(|e| asked.refused(&e))
    }

    /// Returns all versions of all objects whose keys begin with that of `path`, in the order of S3.
    pub async fn all_versions(&self, asked: Asked<'_>, path: &str) -> Result<Vec<Version>, StoreError> {
        let (mut all, mut key, mut version) = (Vec::new(), None, None);
        loop {
            self.connection.count_write(); // a listing costs what a put costs
            let request = self.connection.client.list_object_versions().bucket(self.location.bucket());
            let request = request.prefix(self.location.key(path));
            let request = request.set_key_marker(key).set_version_id_marker(version);
            let page = request.send().await.map_err(|e| asked.refused(&e))?;
            for found in page.versions() {
                let Some(path) = found.key().and_then(|key| self.location.path(key)) else { continue };
                all.push(Version {
                    name: Name::parse(path),
                    path: path.to_owned(),
                    id: VersionId(found.version_id().unwrap_or("null").to_owned()),
                    bytes: found.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    is_latest: found.is_latest() == Some(true),
                    is_marker: false,
                    md5: found.e_tag().and_then(md5_of),
                    modified: found.last_modified().map_or(Time::new(0, 0), time),
                });
            }
            for found in page.delete_markers() {
                let Some(path) = found.key().and_then(|key| self.location.path(key)) else { continue };
                all.push(Version {
                    name: Name::parse(path),
                    path: path.to_owned(),
                    id: VersionId(found.version_id().unwrap_or("null").to_owned()),
                    bytes: 0,
                    is_latest: found.is_latest() == Some(true),
                    is_marker: true,
                    md5: None,
                    modified: found.last_modified().map_or(Time::new(0, 0), time),
                });
            }
            if page.is_truncated() != Some(true) {
                return Ok(all);
            }
            key = page.next_key_marker().map(str::to_owned);
            version = page.next_version_id_marker().map(str::to_owned);
            if key.is_none() {
                return Err(asked.failed(io::ErrorKind::InvalidData, "the listing breaks off; run it again"));
            }
        }
    }
}

impl LockingStore for S3Store {
    fn protection(&self) -> Result<Protection, StoreError> {
        let shared = &self.shared;
        let location = shared.shown("");
        let asked = Asked { path: &location, verb: "read how the bucket is protected" };
        let (client, bucket) = (&shared.connection.client, shared.location.bucket());
        shared.connection.wait(async {
            let mut protection = Protection::default();
            let class = shared.options.storage_class.as_deref();
            if let Some(class) = class.filter(|class| ARCHIVES.contains(class)) {
                protection.archiving.push(format!("storage class -> {class}"));
            }
            shared.connection.count_read();
            let versioning = client.get_bucket_versioning().bucket(bucket).send().await;
            let versioning = versioning.map_err(|e| asked.refused(&e))?;
            protection.has_versions = versioning.status() == Some(&BucketVersioningStatus::Enabled);
            shared.connection.count_read();
            match client.get_object_lock_configuration().bucket(bucket).send().await {
                Ok(found) => {
                    let lock = found.object_lock_configuration();
                    protection.has_locks =
                        lock.and_then(|lock| lock.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled);
                }
                Err(e) if code(&e) == Some("ObjectLockConfigurationNotFoundError") => {}
                Err(e) => match asked.refused(&e) {
                    StoreError::Missing { .. } => {}
                    other => return Err(other),
                },
            }
            shared.connection.count_read();
            match client.get_bucket_lifecycle_configuration().bucket(bucket).send().await {
                Ok(found) => {
                    let rules =
                        found.rules().iter().filter(|rule| rule.status() == &ExpirationStatus::Enabled);
                    for rule in rules.filter(|rule| concerns(rule, &shared.location.key(""))) {
                        let id = rule.id().unwrap_or("without a name");
                        if expires_current(rule) {
                            protection.expiring_rules.push(id.to_owned());
                        }
                        if let Some(class) = archives_current(rule) {
                            protection.archiving.push(format!("{id} -> {class}"));
                        }
                    }
                }
                Err(e) if code(&e) == Some("NoSuchLifecycleConfiguration") => {}
                Err(e) => match asked.refused(&e) {
                    StoreError::Missing { .. } => {}
                    other => return Err(other),
                },
            }
            Ok(protection)
        })
    }

    fn begin_locked(&self, until: Option<Time>, overlay: Overlay) -> Result<Box<dyn Lockable>, StoreError> {
        Ok(Box::new(S3Upload::new(self, Manner { until, overlay })))
    }

    fn versions(&self) -> Result<Vec<Version>, StoreError> {
        let location = self.shared.shown("");
        let asked = Asked { path: &location, verb: "list the versions in" };
        let mut all = self.shared.connection.wait(self.shared.all_versions(asked, ""))?;
        all.reverse(); // within a second the newest comes first
        all.sort_by(|a, b| {
            let age = |one: &Version| (one.is_latest, one.modified);
            (&a.path, age(a)).cmp(&(&b.path, age(b)))
        });
        Ok(all)
    }

    fn identity(&self) -> String {
        match &self.shared.options.endpoint {
            Some(endpoint) => format!("{} at {}", self.shared.location, endpoint.trim_end_matches('/')),
            None => self.shared.location.to_string(),
        }
    }

    fn retention(&self, path: &str, id: &VersionId) -> Result<Option<Retention>, StoreError> {
        let shown = self.shared.shown(path);
        let asked = Asked { path: &shown, verb: "read the lock of" };
        self.shared.connection.wait(async {
            let found = self.shared.head(asked, path, Some(&id.0)).await?;
            let found = found.ok_or_else(|| StoreError::Missing { path: shown.clone() })?;
            let mode = match found.object_lock_mode().map(|mode| mode.as_str()) {
                Some("COMPLIANCE") => Mode::Compliance,
                Some(_) => Mode::Governance,
                None => return Ok(None),
            };
            Ok(found.object_lock_retain_until_date().map(|until| Retention { mode, until: time(until) }))
        })
    }

    fn extend(&self, path: &str, id: &VersionId, until: Time) -> Result<(), StoreError> {
        let shown = self.shared.shown(path);
        let asked = Asked { path: &shown, verb: "lock" };
        self.shared.connection.wait(self.shared.retain(asked, path, id, until))
    }

    fn read_version(&self, path: &str, id: &VersionId, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.shared.get(path, Some(&id.0), range)
    }

    fn delete_version(&self, path: &str, id: &VersionId) -> Result<(), StoreError> {
        let shown = self.shared.shown(path);
        let asked = Asked { path: &shown, verb: "delete a version of" };
        self.shared.connection.tally.deletes.fetch_add(1, Ordering::Relaxed);
        let request = self.shared.connection.client.delete_object().bucket(self.shared.location.bucket());
        let request = request.key(self.shared.location.key(path)).version_id(&id.0);
        self.shared.connection.wait(request.send()).map(drop).map_err(|e| asked.refused(&e))
    }

    fn usage(&self) -> Usage {
        let tally = &self.shared.connection.tally;
        Usage {
            writes: tally.writes.load(Ordering::Relaxed),
            reads: tally.reads.load(Ordering::Relaxed),
            deletes: tally.deletes.load(Ordering::Relaxed),
            bytes_sent: tally.bytes_sent.load(Ordering::Relaxed),
            bytes_received: tally.bytes_received.load(Ordering::Relaxed),
        }
    }
}

/// Returns whether a rule lets current versions expire, whatever it says of others.
fn expires_current(rule: &LifecycleRule) -> bool {
    rule.expiration().is_some_and(|expiration| expiration.days().is_some() || expiration.date().is_some())
}

/// Returns the archive into which a rule moves current versions. Other classes than these are read at once.
fn archives_current(rule: &LifecycleRule) -> Option<&str> {
    let classes = rule.transitions().iter().filter_map(|transition| transition.storage_class());
    classes.map(TransitionStorageClass::as_str).find(|class| ARCHIVES.contains(class))
}

/// Returns whether a rule may concern keys that begin with `ours`.
fn concerns(rule: &LifecycleRule, ours: &str) -> bool {
    let filter = rule.filter();
    let prefix = filter
        .and_then(|filter| filter.prefix().or_else(|| filter.and().and_then(|and| and.prefix())))
        .or_else(|| old_prefix(rule))
        .unwrap_or("");
    ours.starts_with(prefix) || prefix.starts_with(ours)
}

/// Returns the prefix of a rule that was written before there were filters.
#[allow(deprecated, reason = "buckets still hold such rules")]
fn old_prefix(rule: &LifecycleRule) -> Option<&str> {
    rule.prefix()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{LifecycleExpiration, Transition};

    use super::*;

    fn moves_to(classes: &[&str]) -> LifecycleRule {
        let transition = |class: &&str| {
            Transition::builder().days(30).storage_class(TransitionStorageClass::from(*class)).build()
        };
        let transitions = classes.iter().map(transition).collect();
        let rule = LifecycleRule::builder().status(ExpirationStatus::Enabled);
        rule.set_transitions(Some(transitions)).build().unwrap()
    }

    #[test]
    fn a_rule_that_moves_into_an_archive_is_told_from_one_that_does_not() {
        let archive = |classes: &[&str]| archives_current(&moves_to(classes)).map(str::to_owned);
        assert_eq!(archive(&[]), None);
        assert_eq!(archive(&["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"]), None);
        assert_eq!(archive(&["STANDARD_IA", "GLACIER"]).as_deref(), Some("GLACIER"));
        assert_eq!(archive(&["DEEP_ARCHIVE"]).as_deref(), Some("DEEP_ARCHIVE"));
        assert!(!expires_current(&moves_to(&["GLACIER"])));
        let expires = LifecycleRule::builder().status(ExpirationStatus::Enabled);
        let expires = expires.expiration(LifecycleExpiration::builder().days(90).build()).build().unwrap();
        assert!(expires_current(&expires) && archives_current(&expires).is_none());
    }
}
