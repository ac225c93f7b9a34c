//! The repository's lock on S3: an object each holder keeps putting anew. One that was not put anew for
//! long belongs to a dead run, and stands in nobody's way.
//!
//! Only the store's clock is looked at: a holder's age is counted from its last renewal to the moment
//! at which whoever asks put his own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::Object;
use base64_simd::STANDARD;
use md5::{Digest, Md5};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::AbortHandle;

use crate::store::s3::Shared;
use crate::store::s3::error::{Asked, code};
use crate::store::s3::options::{Lease, S3Location};
use crate::store::s3::put::mark;
use crate::store::{Lock, LockMode, StoreError};

/// Where holders' objects lie. Their names begin with the mode.
const FOLDER: &str = "locks/";
const SHARED: &str = "shared-";
const ALONE: &str = "exclusive-";

/// How often the lock is looked at while a request is under way.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

/// Seconds since the machine started, those in which it slept included: a lease runs out in its sleep too.
fn seconds_up() -> i64 {
    clock_gettime(ClockId::Boottime).tv_sec
}

/// What this store holds, so that nothing is written under a lock that ran out. Clones share it.
#[derive(Clone, Default)]
pub struct Held {
    is_lost: Arc<AtomicBool>,
    /// When the lock that is held was last renewed; 0 if none is.
    renewed: Arc<AtomicI64>,
    lasts_s: Arc<AtomicI64>,
}

impl Held {
    /// Does `work` as long as the lock holds, if one is held: a request that is repeated again and again,
    /// or that takes long, must not arrive when another run has begun.
    ///
    /// # Errors
    /// As [`Self::check`], and what `work` returns.
    pub async fn guard<T>(
        &self,
        asked: Asked<'_>,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.check(asked)?;
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(LOOKED_AT_EVERY, work.as_mut()).await {
                Ok(done) => return done,
                Err(_elapsed) => self.check(asked)?,
            }
        }
    }

    /// Refuses to go on if a lock was held and is no more.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn check(&self, asked: Asked<'_>) -> Result<(), StoreError> {
        match self.is_over() {
            false => Ok(()),
            true => {
                let what = "this run's lock could not be renewed in time, and another run may have begun; nothing more is written: run it again";
                Err(asked.failed(io::ErrorKind::Other, what))
            }
        }
    }

    /// Returns whether a lock was held and is no more. Then it stays so, whatever is renewed afterwards:
    /// another run may have begun meanwhile, and have deleted what this one relies on.
    fn is_over(&self) -> bool {
        let renewed = self.renewed.load(Ordering::Acquire);
        if renewed != 0 && seconds_up() - renewed >= self.lasts_s.load(Ordering::Acquire) {
            self.lose();
        }
        self.is_lost.load(Ordering::Acquire)
    }

    fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
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
        let _ = self.shared.give_up(&self.path); // else it runs out by itself
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
        let put = self.connection.wait(place(client, location, &path, HOLDS, None));
        if let Err(error) = put.map_err(|e| asked.refused(&e)) {
            let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
            match &error {
                StoreError::Io { source, .. } if denied(source) && mode == LockMode::Shared => {
                    return Ok(Box::new(NoLock));
                }
                StoreError::Io { source, .. } if denied(source) => {}
                _ => _ = self.give_up(&path), // it may be there: perhaps only the answer was lost
            }
            return Err(error);
        }
        let in_the_way = self.holders(Some(&path)).map(|all| {
            let live = all.into_iter().filter(|holder| !self.is_dead(holder));
            live.filter(|holder| holder.path != path)
                .find(|holder| mode == LockMode::Exclusive || holder.is_alone)
        });
        match in_the_way {
            Ok(None) => {}
            Ok(Some(holder)) => {
                let _ = self.give_up(&path); // else it runs out by itself, as below
                return Err(StoreError::Locked { path: self.shown(&holder.path) });
            }
            Err(e) => {
                let _ = self.give_up(&path);
                return Err(e);
            }
        }
        let lasts_s = i64::try_from(lease.lasts.as_secs()).unwrap_or(i64::MAX);
        self.lease.lasts_s.store(lasts_s, Ordering::Release);
        self.lease.renewed.store(placed.max(1), Ordering::Release);
        let renewal = renew(client.clone(), location.clone(), path.clone(), lease, self.lease.clone());
        let renewal = self.connection.spawn(renewal);
        Ok(Box::new(S3Lock { shared: self.clone(), path, renewal }))
    }

    /// Removes the locks of all runs, live ones too: those find out, and write nothing more.
    ///
    /// # Errors
    /// [`StoreError::Io`] of the first that could not be removed; all others are.
    pub fn break_all_locks(&self) -> Result<Vec<String>, StoreError> {
        let holders = self.holders(None)?;
        let each: Vec<Result<(), StoreError>> =
            holders.iter().map(|holder| self.give_up(&holder.path)).collect();
        each.into_iter().collect::<Result<(), StoreError>>()?;
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
    ///
    /// # Errors
    /// [`StoreError::Io`] if neither can be done; it then blocks others until it runs out.
    fn give_up(&self, path: &str) -> Result<(), StoreError> {
        let (client, location) = (&self.connection.client, &self.location);
        let request = client.delete_object().bucket(location.bucket()).key(location.key(path));
        self.connection.tally.deletes.fetch_add(1, Ordering::Relaxed);
        if self.connection.wait(request.send()).is_ok() {
            return Ok(());
        }
        self.connection.count_write();
        let shown = self.shown(path);
        let asked = Asked { path: &shown, verb: "remove" };
        self.connection.wait(place(client, location, path, b"", None)).map_err(|e| asked.refused(&e))
    }
}

/// What a lock's object holds while it holds.
const HOLDS: &[u8] = b"held\n";

type PutError = aws_sdk_s3::error::SdkError<aws_sdk_s3::operation::put_object::PutObjectError>;

/// Puts a lock's object; with an ETag, only in place of the object that has it.
async fn place(
    client: &Client,
    location: &S3Location,
    path: &str,
    bytes: &'static [u8],
    etag: Option<String>,
) -> Result<(), PutError> {
    let request = client.put_object().bucket(location.bucket()).key(location.key(path)).set_if_match(etag);
    let request = request.content_md5(STANDARD.encode_to_string(Md5::digest(bytes)));
    request.body(ByteStream::from_static(bytes)).send().await.map(drop)
}

/// What is found where a lock's object should be.
enum Looked {
    /// It holds; its ETag, where the server tells.
    Holds(Option<String>),
    /// It was removed or emptied.
    Gone,
    /// There was no answer.
    Unknown,
}

async fn look(client: &Client, location: &S3Location, path: &str) -> Looked {
    match client.head_object().bucket(location.bucket()).key(location.key(path)).send().await {
        Ok(found) if found.content_length() == Some(0) => Looked::Gone,
        Ok(found) => Looked::Holds(found.e_tag().map(str::to_owned)),
        Err(e) if e.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => Looked::Gone,
        Err(_) => Looked::Unknown,
    }
}

/// Puts a lock's object anew again and again, unless somebody has removed it, or it was not put in time.
async fn renew(client: Client, location: S3Location, path: String, lease: Lease, held: Held) {
    let mut is_conditional = true;
    loop {
        tokio::time::sleep(lease.renewed_every).await;
        let last = held.renewed.load(Ordering::Acquire);
        // After a sleep, or without a network, for longer than it lasts, nothing revives it.
        if held.is_over() {
            return;
        }
        let etag = match look(&client, &location, &path).await {
            _ if held.is_over() => return,
            Looked::Holds(etag) => etag.filter(|_| is_conditional),
            Looked::Gone => return held.lose(),
            Looked::Unknown => continue, // once it has lasted too long, it is over
        };
        let before = seconds_up();
        // Only in place of what was seen: who has removed it meanwhile has removed it.
        let mut placed = place(&client, &location, &path, HOLDS, etag.clone()).await;
        if etag.is_some() && placed.as_ref().is_err_and(|e| code(e) == Some("NotImplemented")) {
            is_conditional = false;
            placed = place(&client, &location, &path, HOLDS, None).await;
        }
        match placed {
            Ok(()) if held.is_over() => return, // it came too late
            Ok(()) => {
                // Unless the lock was given back meanwhile, which has set it to 0.
                let _ =
                    held.renewed.compare_exchange(last, before.max(1), Ordering::AcqRel, Ordering::Acquire);
            }
            Err(e) if matches!(code(&e), Some("PreconditionFailed" | "NoSuchKey" | "NotFound")) => {
                match look(&client, &location, &path).await {
                    Looked::Gone => return held.lose(),
                    // The very object: this server does not compare as it should.
                    Looked::Holds(now) if now == etag => is_conditional = false,
                    _ => {} // put by a request of this run whose answer was lost, or not known
                }
            }
            Err(_) => {}
        }
    }
}
