//! The one runtime and the one client: all that is asynchronous begins and ends here.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::base::threads::{NO_THREAD, begin};
use crate::store::StoreError;
use crate::store::s3::error::Asked;
use crate::store::s3::options::{S3Location, S3Options};
use crate::store::s3::spool::Limiter;

/// Threads that drive connections.
const THREADS: usize = 2;

/// Time for which nothing may move before a connection is taken for broken.
const STALL: Duration = Duration::from_secs(20);

/// What was asked of a store so far, and what went over the wire.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that put, copy or list.
    pub writes: AtomicU64,
    /// Requests that get, or look at one object.
    pub reads: AtomicU64,
    /// Requests that delete, which cost nothing.
    pub deletes: AtomicU64,
    /// Bytes of files sent.
    pub bytes_sent: AtomicU64,
    /// Bytes of files received.
    pub bytes_received: AtomicU64,
}

/// A connection to a bucket.
pub struct Connection {
    runtime: Option<Runtime>,
    handle: Handle,
    /// The client.
    pub client: Client,
    /// What was asked so far.
    pub tally: Tally,
    permits: Semaphore,
}

impl Connection {
    /// Connects; no request goes out yet, except to find credentials.
    ///
    /// # Errors
    /// [`StoreError::Io`] without threads, or if no region is known.
    pub fn open(location: &S3Location, options: &S3Options) -> Result<Self, StoreError> {
        let asked = Asked { path: &location.to_string(), verb: "connect" };
        // The runtime panics where it gets none; one more looks up names.
        threads_are_there(THREADS + 1).map_err(|e| asked.failed(e.kind(), format!("no {NO_THREAD}: {e}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|e| asked.failed(e.kind(), e.to_string()))?;
        let client = runtime.block_on(client(asked, options))?;
        let permits = Semaphore::new(options.connections.max(1));
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, client, tally: Tally::default(), permits })
    }

    /// Waits for `work`, beside at most so many others as [`S3Options::connections`] says.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async {
            let _permit = self.permits.acquire().await; // fails only when closed, which it never is
            work.await
        };
        self.handle.block_on(limited)
    }

    /// Begins `work` beside everything else.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }

    /// Counts a request that puts or lists.
    pub fn count_write(&self) {
        self.tally.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that gets or looks.
    pub fn count_read(&self) {
        self.tally.reads.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // whoever drops this must not wait for idle connections
        }
    }
}

/// Makes sure that so many threads can be had at the same time.
///
/// # Errors
/// As clone(2).
fn threads_are_there(count: usize) -> std::io::Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded::<()>(0);
    let wait = || _ = receiver.recv(); // until all have begun
    std::thread::scope(|scope| {
        let begun = (0..count).try_for_each(|_| begin(scope, wait).map(drop));
        drop(sender);
        begun
    })
}

async fn client(asked: Asked<'_>, options: &S3Options) -> Result<Client, StoreError> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(options.attempts.max(1))
                .with_initial_backoff(options.backoff)
                .with_max_backoff(Duration::from_secs(20)),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(stall(options)).build(),
        )
        .timeout_config(timeouts(options, 0));
    if let Some(profile) = &options.profile {
        // Who names a profile means it, whatever keys lie in the environment.
        let found = ProviderConfig::default()
            .with_http_client(http.clone())
            .with_region(options.region.clone().map(Region::new));
        let keys = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&found).build();
        loader = loader.profile_name(profile).credentials_provider(keys);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(keys) = &options.credentials {
        let keys = Credentials::new(&keys.access_key, keys.secret.as_str(), None, None, "given");
        loader = loader.credentials_provider(keys);
    }
    let shared = loader.load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(options.path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if shared.region().is_none() {
        if options.endpoint.is_none() {
            let reason = "no region is known; name it with --s3-region or AWS_REGION";
            return Err(asked.failed(std::io::ErrorKind::InvalidInput, reason));
        }
        config = config.region(Region::new("us-east-1")); // what other servers take
    }
    Ok(Client::from_conf(config.build()))
}

/// Returns the time for which nothing of a request may move. An upload that waits for its turn, while others
/// use up what may be sent in a second, is not broken.
fn stall(options: &S3Options) -> Duration {
    let turn = Limiter::new(options.upload_bytes_per_s).turn(options.connections);
    options.read_timeout.min(STALL) + turn
}

/// Returns the time limits of a request that sends so many bytes: on a line of 64 KiB a second, or as slow
/// as it was asked to be, each is in time, also where all [`S3Options::connections`] send at once. They share the line,
/// and one that is late starts again from its first byte: if none were in time, nothing would ever arrive.
pub fn timeouts(options: &S3Options, sent_bytes: u64) -> TimeoutConfig {
    let slowest = options.upload_bytes_per_s.map_or(64 << 10, |limit| limit.clamp(1, 64 << 10));
    let alone_s = sent_bytes.saturating_mul(2) / slowest;
    let sending = Duration::from_secs(alone_s.saturating_mul(options.connections.max(1) as u64));
    TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout.saturating_add(sending))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_the_time_that_it_takes_while_all_others_send_as_much() {
        let mut options = S3Options { read_timeout: Duration::from_secs(1), ..S3Options::default() };
        let limit = |options: &S3Options, bytes| timeouts(options, bytes).read_timeout();
        assert_eq!(limit(&options, 0), Some(Duration::from_secs(1)));
        assert_eq!(limit(&options, 256 << 10), Some(Duration::from_secs(1 + 8 * 8)));
        options.connections = 1;
        assert_eq!(limit(&options, 256 << 10), Some(Duration::from_secs(1 + 8)));
        options.upload_bytes_per_s = Some(1 << 10);
        assert_eq!(limit(&options, 256 << 10), Some(Duration::from_secs(1 + 512)));
        assert_eq!(stall(&options), Duration::from_secs(2));
    }
}
