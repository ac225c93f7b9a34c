//! The one runtime and the one client: all that is asynchronous begins and ends here.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::base::threads::{NO_THREAD, begin};
use crate::store::StoreError;
use crate::store::s3::error::Asked;
use crate::store::s3::line::{Limits, Line, Traffic};
use crate::store::s3::options::{S3Location, S3Options};
use crate::store::s3::profile::{Addressing, Profile, names_endpoint};
use crate::store::s3::spool::Limiter;

/// Threads that drive connections.
const THREADS: usize = 2;

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
    traffic: Arc<Traffic>,
    location: String,
    permits: Semaphore,
    /// When a read was given up last because the server was silent.
    silent: Mutex<Option<Instant>>,
    after_silence: Duration,
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
        let traffic = Arc::<Traffic>::default();
        let client = runtime.block_on(client(asked, options, traffic.clone()))?;
        let permits = Semaphore::new(options.connections.max(1));
        let handle = runtime.handle().clone();
        Ok(Self {
            runtime: Some(runtime),
            handle,
            client,
            tally: Tally::default(),
            traffic,
            location: location.to_string(),
            permits,
            silent: Mutex::default(),
            after_silence: options.after_silence,
        })
    }

    /// Waits for `work`, beside at most so many others as [`S3Options::connections`] says.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async {
            let _permit = self.permits.acquire().await; // fails only when closed, which it never is
            work.await
        };
        self.handle.block_on(limited)
    }

    /// Waits for `work`, which reads, as [`Self::wait`] does. Where the server was silent a moment ago it fails at once:
    /// who waits for an answer behind others who wait for one would wait for each of them.
    ///
    /// # Errors
    /// [`StoreError::Io`] after a silence, and what `work` returns.
    pub fn wait_reading<T>(
        &self,
        asked: Asked<'_>,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let silent = || self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait(async {
            if silent().is_some_and(|silent| silent.elapsed() < self.after_silence) {
                let what = "no answer in time, a moment ago; check the network";
                return Err(asked.failed(std::io::ErrorKind::TimedOut, what));
            }
            let done = work.await;
            if let Err(StoreError::Io { source, .. }) = &done
                && source.kind() == std::io::ErrorKind::TimedOut
            {
                *silent() = Some(Instant::now());
            }
            done
        })
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
        let count = |counted: &AtomicU64| counted.load(Ordering::Relaxed);
        let (requests, connections) = (count(&self.traffic.requests), count(&self.traffic.connections));
        let (sent, received) = (count(&self.tally.bytes_sent), count(&self.tally.bytes_received));
        let location = &self.location;
        tracing::info!(
            "{location}: {requests} requests over {connections} connections, {sent} bytes of files sent, {received} received"
        );
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

/// Has those answers tried again that say so and that the client takes for final.
#[derive(Debug)]
struct Busy;

impl ClassifyRetry for Busy {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|answer| answer.status().as_u16()) {
            Some(408 | 429) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "busy"
    }
}

async fn client(asked: Asked<'_>, options: &S3Options, traffic: Arc<Traffic>) -> Result<Client, StoreError> {
    let limits = Limits { connect: options.connect_timeout, silence: silence(options) };
    let profile = Profile::read(options.profile.as_deref()).await;
    let bundle = options.ca_bundle.as_ref().or(profile.ca_bundle.as_ref());
    let line = Line::new(limits, roots(asked, bundle)?, traffic);
    let line = line.map_err(|e| asked.failed(std::io::ErrorKind::Unsupported, format!("no TLS: {e}")))?;
    let http = SharedHttpClient::new(line);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(options.attempts.max(1))
                .with_initial_backoff(options.backoff)
                .with_max_backoff(Duration::from_secs(20)),
        )
        // The line itself notices who is silent.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder().connect_timeout(limits.connect).read_timeout(limits.silence).build(),
        );
    if let Some(name) = &options.profile {
        // Who names a profile means it, whatever keys lie in the environment.
        let found = ProviderConfig::default()
            .with_http_client(http.clone())
            .with_region(options.region.clone().map(Region::new));
        let keys = ProfileFileCredentialsProvider::builder().profile_name(name).configure(&found).build();
        loader = loader.profile_name(name).credentials_provider(keys);
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
    let has_endpoint = options.endpoint.is_some() || names_endpoint(&shared);
    let path_style = match profile.addressing {
        _ if options.path_style => true,
        Some(style) => style == Addressing::Path,
        None => has_endpoint, // few other servers have a name for each bucket
    };
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(path_style)
        .retry_classifier(Busy)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if shared.region().is_none() {
        if !has_endpoint {
            let reason = "no region is known; name it with --s3-region or AWS_REGION";
            return Err(asked.failed(std::io::ErrorKind::InvalidInput, reason));
        }
        config = config.region(Region::new("us-east-1")); // what other servers take
    }
    Ok(Client::from_conf(config.build()))
}

/// Returns the time for which nothing of a request may move. An upload that waits for its turn, while others
/// use up what may be sent in a second, is not silent.
fn silence(options: &S3Options) -> Duration {
    let turn = Limiter::new(options.upload_bytes_per_s).turn(options.connections.max(1));
    options.read_timeout + turn
}

/// Returns whose word for a server's name counts: those of the file that is named, and they alone; else those that this
/// machine trusts, or that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn roots(asked: Asked<'_>, bundle: Option<&PathBuf>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(bundle) = bundle else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let bad = |reason: String| {
        let what =
            format!("certificates of {}: {reason}; check AWS_CA_BUNDLE, or ca_bundle", bundle.display());
        asked.failed(std::io::ErrorKind::InvalidInput, what)
    };
    let found = CertificateDer::pem_file_iter(bundle).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let (added, _) = roots.add_parsable_certificates(found.map_err(|e| bad(e.to_string()))?);
    match added {
        0 => Err(bad("none is in it, as PEM".to_owned())),
        _ => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_waits_for_its_turn_is_not_silent() {
        let mut options = S3Options { read_timeout: Duration::from_secs(1), ..S3Options::default() };
        assert_eq!(silence(&options), Duration::from_secs(1));
        options.upload_bytes_per_s = Some(64 << 10);
        assert_eq!(silence(&options), Duration::from_secs(1 + 2));
    }
}
