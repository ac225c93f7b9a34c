//! Repository files in a bucket of Amazon S3, or of a server that speaks the same.
//!
//! The only asynchronous code there is, hidden behind the blocking traits. A file is one object, put
//! by one request with its MD5, only where the name is free, and looked at afterwards: not every
//! server minds the condition.

mod connect;
mod error;
mod lease;
mod line;
mod options;
mod profile;
mod put;
mod retention;
mod spool;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::Object;

use crate::store::s3::connect::Connection;
use crate::store::s3::error::{Asked, causes, code};
use crate::store::s3::lease::Held;
use crate::store::s3::line::{SILENT_ATTEMPTS, is_silence};
use crate::store::s3::put::{Manner, S3Upload};
use crate::store::s3::spool::Limiter;
use crate::store::{Folder, Found, Lock, LockMode, Name, Overlay, Store, StoreError, Upload, Version};

pub use options::{Lease, S3Keys, S3Location, S3Options, SCHEME};

/// A repository in a bucket. Clones share one connection.
#[derive(Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
}

/// What a store, its uploads and its locks share.
struct Shared {
    connection: Connection,
    location: S3Location,
    options: S3Options,
    limiter: Arc<Limiter>,
    lease: Held,
}

impl S3Store {
    /// Connects to a bucket. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`StoreError::Io`] if no region is known.
    pub fn open(location: S3Location, options: S3Options) -> Result<Self, StoreError> {
        let connection = Connection::open(&location, &options)?;
        let limiter = Arc::new(Limiter::new(options.upload_bytes_per_s));
        let shared = Shared { connection, location, options, limiter, lease: Held::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns where it is.
    pub fn place(&self) -> &S3Location {
        &self.shared.location
    }
}

/// Bytes of an object, or why not.
enum Got {
    Bytes(Vec<u8>),
    /// The range lies beyond the end.
    Beyond,
    /// The connection broke, or the other side was silent; may be tried again.
    Broken {
        reason: String,
        is_silence: bool,
    },
}

/// Attempts to receive one thing.
#[derive(Default)]
struct Tries {
    broken: u32,
    silent: u32,
}

impl Tries {
    /// Waits until it may be tried again.
    ///
    /// # Errors
    /// [`StoreError::Io`] if that was often enough.
    async fn again(
        &mut self,
        asked: Asked<'_>,
        options: &S3Options,
        reason: String,
        is_silence: bool,
    ) -> Result<(), StoreError> {
        self.silent += u32::from(is_silence);
        let is_waited_for = !options.after_silence.is_zero();
        if self.broken + 1 >= options.attempts || (is_waited_for && self.silent >= SILENT_ATTEMPTS) {
            let kind = if is_silence { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionAborted };
            return Err(asked.failed(kind, reason));
        }
        tokio::time::sleep(options.again(self.broken)).await;
        self.broken += 1;
        Ok(())
    }
}

impl Shared {
    /// Returns the location of the file with this path, for messages.
    fn shown(&self, path: &str) -> String {
        match path.is_empty() {
            true => self.location.to_string(),
            false => format!("{}/{path}", self.location),
        }
    }

    /// Returns a range of an object, or of a version of it.
    fn get(&self, path: &str, version: Option<&str>, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let shown = self.shown(path);
        let asked = Asked { path: &shown, verb: "read" };
        let short = |found| StoreError::Short { path: shown.clone(), found, expected: range.end };
        self.connection.wait_reading(asked, async {
            let mut tries = Tries::default();
            let is_empty = range.start >= range.end;
            loop {
                if is_empty {
                    break;
                }
                match self.get_once(asked, path, version, &range).await? {
                    Got::Bytes(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes),
                    Got::Bytes(_) | Got::Beyond => break,
                    Got::Broken { reason, is_silence } => {
                        tries.again(asked, &self.options, reason, is_silence).await?;
                    }
                }
            }
            let found = self.head(asked, path, version).await?;
            let found = found.ok_or_else(|| StoreError::Missing { path: shown.clone() })?;
            let length = found.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
            match is_empty && range.start <= length {
                true => Ok(Vec::new()),
                false => Err(short(length)),
            }
        })
    }

    async fn get_once(
        &self,
        asked: Asked<'_>,
        path: &str,
        version: Option<&str>,
        range: &Range<u64>,
    ) -> Result<Got, StoreError> {
        let last = (range.end - 1).min(i64::MAX as u64);
        if range.start > last {
            return Ok(Got::Beyond);
        }
        let header = format!("bytes={}-{last}", range.start);
        match self.object(path, version, Some(header)).await {
            Ok(output) => self.collect(output).await,
            Err(e) if code(&e) == Some("InvalidRange") => Ok(Got::Beyond),
            Err(e) => Err(asked.refused(&e)),
        }
    }

    async fn object(
        &self,
        path: &str,
        version: Option<&str>,
        range: Option<String>,
    ) -> Result<GetObjectOutput, GetError> {
        self.connection.count_read();
        let request = self.connection.client.get_object().bucket(self.location.bucket());
        let request = request.key(self.location.key(path)).set_version_id(version.map(str::to_owned));
        request.set_range(range).send().await
    }

    async fn collect(&self, output: GetObjectOutput) -> Result<Got, StoreError> {
        match output.body.collect().await {
            Ok(body) => {
                let bytes = body.to_vec();
                let received = &self.connection.tally.bytes_received;
                received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Got::Bytes(bytes))
            }
            Err(e) => Ok(Got::Broken {
                reason: format!("the connection broke off: {}", causes(&e)),
                is_silence: is_silence(&e),
            }),
        }
    }

    /// Returns all objects whose keys begin with that of `path`.
    async fn list_objects(&self, asked: Asked<'_>, path: &str) -> Result<Vec<Object>, StoreError> {
        let (mut all, mut token) = (Vec::new(), None);
        loop {
            self.connection.count_write(); // a listing costs what a put costs
            let request = self.connection.client.list_objects_v2().bucket(self.location.bucket());
            let request = request.prefix(self.location.key(path)).set_continuation_token(token);
            let page = request.send().await.map_err(|e| asked.refused(&e))?;
            token = page.next_continuation_token().map(str::to_owned);
            let is_more = page.is_truncated() == Some(true);
            all.extend(page.contents.unwrap_or_default());
            match (is_more, &token) {
                (false, _) => return Ok(all),
                (true, Some(_)) => {}
                (true, None) => {
                    let what = "the listing breaks off; run it again";
                    return Err(asked.failed(io::ErrorKind::InvalidData, what));
                }
            }
        }
    }
}

type GetError = aws_sdk_s3::error::SdkError<aws_sdk_s3::operation::get_object::GetObjectError>;

impl Store for S3Store {
    fn location(&self) -> String {
        self.shared.location.to_string()
    }

    fn begin(&self) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(S3Upload::new(self, Manner { until: None, overlay: Overlay::Refused })))
    }

    fn read(&self, name: &Name, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let shared = &self.shared;
        let path = name.to_string();
        let shown = shared.shown(&path);
        let asked = Asked { path: &shown, verb: "read" };
        shared.connection.wait_reading(asked, async {
            let mut tries = Tries::default();
            loop {
                let output = shared.object(&path, None, None).await.map_err(|e| asked.refused(&e))?;
                let length = output.content_length().and_then(|length| u64::try_from(length).ok());
                if length.is_none_or(|length| length > bytes_max) {
                    let reason = format!("longer than {bytes_max} bytes");
                    return Err(asked.failed(io::ErrorKind::Other, reason));
                }
                match shared.collect(output).await? {
                    Got::Bytes(bytes) => return Ok(bytes),
                    Got::Broken { reason, is_silence } => {
                        tries.again(asked, &shared.options, reason, is_silence).await?;
                    }
                    Got::Beyond => {}
                }
            }
        })
    }

    fn read_range(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.shared.get(&name.to_string(), None, range)
    }

    fn list(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let mut found = self.list_oldest_first(folder)?;
        found.sort();
        Ok(found)
    }

    fn list_oldest_first(&self, folder: Folder) -> Result<Vec<Found>, StoreError> {
        let shared = &self.shared;
        let inside = format!("{}/", folder.name());
        let shown = shared.shown(&inside);
        let asked = Asked { path: &shown, verb: "list" };
        let objects = shared.connection.wait_reading(asked, shared.list_objects(asked, &inside))?;
        let found = objects.iter().filter_map(|object| {
            let path = shared.location.path(object.key()?)?;
            let bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            let found = Found { path: path.to_owned(), name: Name::parse(path), bytes };
            let came = object.last_modified().map(|at| (at.secs(), at.subsec_nanos()));
            Some((came, found)) // one without a time counts as the oldest: none is
        });
        let mut found: Vec<(Option<(i64, u32)>, Found)> = found.collect();
        found.sort();
        Ok(found.into_iter().map(|(_, found)| found).collect())
    }

    fn covered(&self, folder: Option<Folder>) -> Result<Vec<Name>, StoreError> {
        let inside = folder.map_or_else(|| Name::Config.to_string(), |folder| format!("{}/", folder.name()));
        let shown = self.shared.shown(&inside);
        let asked = Asked { path: &shown, verb: "list the versions in" };
        let versions = self.shared.connection.wait(self.shared.all_versions(asked, &inside))?;
        let names = |is_wanted: &dyn Fn(&Version) -> bool| -> BTreeSet<Name> {
            versions.iter().filter(|one| is_wanted(one)).filter_map(|one| one.name).collect()
        };
        let deleted = names(&|one| one.is_marker && one.is_latest);
        Ok(deleted.intersection(&names(&|one| !one.is_marker)).copied().collect())
    }

    fn reads_at_once(&self) -> usize {
        self.shared.options.connections.max(1)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let shared = &self.shared;
        let path = name.to_string();
        let shown = shared.shown(&path);
        let asked = Asked { path: &shown, verb: "delete" };
        shared.connection.wait(shared.lease.guard(asked, async {
            if shared.head(asked, &path, None).await?.is_none() {
                return Err(StoreError::Missing { path: shown.clone() });
            }
            shared.connection.tally.deletes.fetch_add(1, Ordering::Relaxed);
            let request = shared.connection.client.delete_object().bucket(shared.location.bucket());
            let request = request.key(shared.location.key(&path));
            request.send().await.map(drop).map_err(|e| asked.refused(&e))
        }))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Lock>, StoreError> {
        self.shared.take_lock(mode)
    }

    fn break_locks(&self) -> Result<Vec<String>, StoreError> {
        self.shared.break_all_locks()
    }

    /// There is nothing to sweep: what is not there whole is not there.
    fn sweep_uploads(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}
