//! The repository's lock on S3: an object each holder keeps putting anew. One that was not put anew for
//! long belongs to a dead run, and stands in nobody's way.
//!
//! Only the store's clock is looked at: a holder's age is counted from its last renewal to the moment
//! at which whoever asks put his own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::Object;
use base64_simd::STANDARD;
use md5::{Digest, Md5};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::AbortHandle;

use crate::store::s3::Shared;
use crate::store::s3::error::Asked;
use crate::store::s3::options::{Lease, S3Location};
use crate::store::s3::put::mark;
use crate::store::{Lock, LockMode, StoreError};

/// Where holders' objects lie. Their names begin with the mode.
const FOLDER: &str = "locks/";
const SHARED: &str = "shared-";
const ALONE: &str = "exclusive-";

/// Seconds since the machine started, those in which it slept included: a lease runs out in its sleep too.
fn seconds_up() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// What this store holds, so that nothing is written under a lock that ran out.
#[derive(Default)]
pub struct Held {
    is_lost: Arc<AtomicBool>,
    /// When the lock that is held was last renewed; 0 if none is.
    renewed: Arc<AtomicI64>,
    lasts_s: AtomicI64,
}

impl Held {
    /// Refuses to go on if a lock was held and is no more.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn check(&self, asked: Asked<'_>) -> Result<(), StoreError> {
        let renewed = self.renewed.load(Ordering::Acquire);
        let is_over = renewed != 0 && seconds_up() - renewed >= self.lasts_s.load(Ordering::Acquire);
        match is_over || self.is_lost.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                let what = "this run's lock could not be renewed in time, and another run may have begun; nothing more is written: run it again";
                Err(asked.failed(io::ErrorKind::Other, what))
            }
        }
    }
}

/// A lock that is held.
struct S3Lock {
    shared: Arc<Shared>,
    path: String,
    renewal: AbortHandle,
}

impl Lock for S3Lock {}

impl Drop for S3Lock {
    fn drop(&mut self) {
        self.renewal.abort();
        self.shared.lease.renewed.store(0, Ordering::Release);
        self.shared.give_up(&self.path);
    }
}

/// Stands for the shared lock of who may not write: he is in nobody's way.
struct NoLock;

impl Lock for NoLock {}

/// A holder's object.
struct Holder {
    path: String,
    since_renewal_s: i64,
    is_alone: bool,
}

impl Shared {
    /// Takes the lock; see [`crate::store::Store::lock`].
    pub fn take_lock(self: &Arc<Self>, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        let prefix = if mode == LockMode::Exclusive { ALONE } else { SHARED };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
        let mark = mark(Asked { path: FOLDER, verb: "lock" })?;
        let path = format!("{FOLDER}{prefix}{host}-{}-{mark}", std::process::id());
        let shown = self.shown(&path);
        let asked = Asked { path: &shown, verb: "lock" };
        let (client, location, lease) = (&self.connection.client, &self.location, self.options.lease);
        self.connection.count_write();
        let placed = seconds_up();
        match self.connection.wait(place(client, location, &path, HOLDS)) {
            Ok(()) => {}
            Err(e) => match asked.refused(&e) {
                StoreError::Io { source, .. }
                    if mode == LockMode::Shared && source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    return Ok(Box::new(NoLock));
                }
                error => return Err(error),
            },
        }
        let in_the_way = self.holders(Some(&path)).map(|all| {
            let live = all.into_iter().filter(|holder| !self.is_dead(holder));
            live.filter(|holder| holder.path != path)
                .find(|holder| mode == LockMode::Exclusive || holder.is_alone)
        });
        match in_the_way {
            Ok(None) => {}
            Ok(Some(holder)) => {
                self.give_up(&path);
                return Err(StoreError::Locked { path: self.shown(&holder.path) });
            }
            Err(e) => {
                self.give_up(&path);
                return Err(e);
            }
        }
        let lasts_s = i64::try_from(lease.lasts.as_secs()).unwrap_or(i64::MAX);
        self.lease.lasts_s.store(lasts_s, Ordering::Release);
        self.lease.renewed.store(placed.max(1), Ordering::Release);
        let renewal = renew(client.clone(), location.clone(), path.clone(), lease, &self.lease);
        let renewal = self.connection.spawn(renewal);
        Ok(Box::new(S3Lock { shared: self.clone(), path, renewal }))
    }

    /// Removes the locks of all runs, live ones too: those find out, and write nothing more.
    pub fn break_all_locks(&self) -> Result<Vec<String>, StoreError> {
        let holders = self.holders(None)?;
        holders.iter().for_each(|holder| self.give_up(&holder.path));
        Ok(holders.into_iter().map(|holder| self.shown(&holder.path)).collect())
    }

    fn is_dead(&self, holder: &Holder) -> bool {
        holder.since_renewal_s > i64::try_from(self.options.lease.lasts.as_secs()).unwrap_or(i64::MAX)
    }

    /// Returns all holders. Their age is counted at the moment at which `own` was put, or the youngest was.
    fn holders(&self, own: Option<&str>) -> Result<Vec<Holder>, StoreError> {
        let shown = self.shown(FOLDER);
        let asked = Asked { path: &shown, verb: "list" };
        let objects = self.connection.wait(self.list_objects(asked, FOLDER))?;
        let renewed = |object: &Object| object.last_modified().map_or(0, |time| time.secs());
        let path = |object: &Object| object.key().and_then(|key| self.location.path(key)).map(str::to_owned);
        let now = match own {
            Some(own) => {
                let own = objects.iter().find(|object| path(object).as_deref() == Some(own));
                let gone =
                    || asked.failed(io::ErrorKind::Other, "this run's own lock is not listed; run it again");
                renewed(own.ok_or_else(gone)?)
            }
            None => objects.iter().map(renewed).max().unwrap_or(0),
        };
        let held = objects.iter().filter(|object| object.size() != Some(0)); // else given up
        let holders = held.filter_map(|object| {
            let path = path(object)?;
            let name = path.strip_prefix(FOLDER)?;
            let is_alone = name.starts_with(ALONE);
            let since_renewal_s = now - renewed(object);
            (is_alone || name.starts_with(SHARED)).then_some(Holder { path, since_renewal_s, is_alone })
        });
        Ok(holders.collect())
    }

    /// Removes a lock's object. Who may not delete empties it, which means the same.
    fn give_up(&self, path: &str) {
        let (client, location) = (&self.connection.client, &self.location);
        let request = client.delete_object().bucket(location.bucket()).key(location.key(path));
        self.connection.tally.deletes.fetch_add(1, Ordering::Relaxed);
        let is_gone = self.connection.wait(request.send()).is_ok();
        if !is_gone {
            self.connection.count_write();
            // If this fails as well, the lock runs out by itself.
            let _ = self.connection.wait(place(client, location, path, b""));
        }
    }
}

/// What a lock's object holds while it holds.
const HOLDS: &[u8] = b"held\n";

type PutError = aws_sdk_s3::error::SdkError<aws_sdk_s3::operation::put_object::PutObjectError>;

async fn place(
    client: &Client,
    location: &S3Location,
    path: &str,
    bytes: &'static [u8],
) -> Result<(), PutError> {
    let request = client.put_object().bucket(location.bucket()).key(location.key(path));
    let request = request.content_md5(STANDARD.encode_to_string(Md5::digest(bytes)));
    request.body(ByteStream::from_static(bytes)).send().await.map(drop)
}

/// Puts a lock's object anew again and again, unless somebody has removed it.
fn renew(
    client: Client,
    location: S3Location,
    path: String,
    lease: Lease,
    held: &Held,
) -> impl Future<Output = ()> + Send + 'static {
    let (is_lost, renewed) = (held.is_lost.clone(), held.renewed.clone());
    async move {
        loop {
            tokio::time::sleep(lease.renewed_every).await;
            let looked = client.head_object().bucket(location.bucket()).key(location.key(&path)).send().await;
            match looked {
                Ok(found) if found.content_length() != Some(0) => {}
                Ok(_) => return is_lost.store(true, Ordering::Release),
                Err(e) if e.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => {
                    return is_lost.store(true, Ordering::Release);
                }
                Err(_) => continue, // once it has lasted too long, `Held::check` refuses
            }
            let before = seconds_up();
            if place(&client, &location, &path, HOLDS).await.is_ok() {
                renewed.store(before.max(1), Ordering::Release);
            }
        }
    }
}
