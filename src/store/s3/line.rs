//! Connections that notice when the other side has fallen silent. What is limited is the time for which nothing
//! moves in either direction, not how long a request takes: a slow line may take as long as it needs.
//!
//! The system keeps only a few bytes of what is to be sent. So bytes that leave this program have nearly reached
//! the line, and an upload whose peer takes nothing any more stands still here as well.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::retry::ErrorKind;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector as TcpConnector};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

/// Bytes of a connection that the system keeps until they are sent; it doubles this. Eight uploads at once need half
/// a minute for them on a line of 64 KiB a second, and fill one of 30 MB a second whose answers take 50 ms.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Longest silence in the middle of an answer. One that has not begun may take longer.
const STALL: Duration = Duration::from_secs(20);

/// How often a request is sent to a peer that says nothing to it. One that is silent twice is not waited for again.
pub const SILENT_ATTEMPTS: u32 = 2;

type BoxError = Box<dyn Error + Send + Sync>;

/// For how long nothing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Until a connection is made.
    pub connect: Duration,
    /// Until a byte comes or goes.
    pub silence: Duration,
}

/// What went over a line so far.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests, each attempt counted.
    pub requests: AtomicU64,
    /// Connections that were made for them.
    pub connections: AtomicU64,
}

/// Makes connections, and keeps them for the next request.
pub struct Line {
    traffic: Arc<Traffic>,
    limits: Limits,
    tls: ClientConfig,
    made: Mutex<HashMap<Limits, SharedHttpConnector>>,
}

impl Line {
    /// Connects within `limits`, to servers for which one of `roots` vouches.
    ///
    /// # Errors
    /// What rustls says, if it knows no version of TLS.
    pub fn new(limits: Limits, roots: RootCertStore, traffic: Arc<Traffic>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { traffic, limits, tls, made: Mutex::default() })
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl HttpClient for Line {
    /// Who looks for credentials waits less long for a machine that may not be there.
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let limits = Limits {
            connect: settings.connect_timeout().unwrap_or(self.limits.connect),
            silence: settings.read_timeout().unwrap_or(self.limits.silence),
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || SharedHttpConnector::new(Requests::new(limits, self.tls.clone(), self.traffic.clone()));
        made.entry(limits).or_insert_with(make).clone()
    }
}

/// Sends requests over connections with the same limits.
struct Requests {
    client: Client<HttpsConnector<Dial>, SdkBody>,
    traffic: Arc<Traffic>,
}

impl Requests {
    fn new(limits: Limits, tls: ClientConfig, traffic: Arc<Traffic>) -> Self {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limits.connect));
        tcp.set_send_buffer_size(Some(SEND_BUFFER_BYTES));
        let dial = Dial { tcp, limits, traffic: traffic.clone() };
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let mut client = Client::builder(TokioExecutor::new());
        client.pool_timer(TokioTimer::new());
        Self { client: client.build(https.wrap_connector(dial)), traffic }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl HttpConnector for Requests {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let attempt = attempt(&request);
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(e) => return HttpConnectorFuture::ready(Err(ConnectorError::user(e.into()))),
        };
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let answer = self.client.request(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await.map_err(|e| failed(e, attempt))?;
            let answer = answer.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(answer).map_err(|e| ConnectorError::other(e.into(), None))
        })
    }
}

/// Returns which attempt at the same thing this is, from 1 on, as the request says itself.
fn attempt(request: &HttpRequest) -> u32 {
    let said = request.headers().get("amz-sdk-request").unwrap_or_default();
    let number = said.split(';').find_map(|part| part.trim().strip_prefix("attempt="));
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// Says what became of a request that got no answer, and whether it is worth another attempt.
fn failed(error: ClientError, attempt: u32) -> ConnectorError {
    let has_silence = is_silence(&error);
    let is_refused = has_cause(&error, |io| io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
    let is_io = error.is_connect() || has_cause(&error, |_| true);
    let hyper: Option<&hyper::Error> = error.source().and_then(|source| source.downcast_ref());
    let is_cut = hyper.is_some_and(|e| e.is_closed() || e.is_canceled() || e.is_incomplete_message());
    match error {
        error if is_refused => ConnectorError::other(error.into(), None),
        error if has_silence && attempt >= SILENT_ATTEMPTS => ConnectorError::other(error.into(), None),
        error if has_silence => ConnectorError::timeout(error.into()),
        error if is_io => ConnectorError::io(error.into()),
        error if is_cut => ConnectorError::other(error.into(), Some(ErrorKind::TransientError)),
        error => ConnectorError::other(error.into(), None),
    }
}

/// Returns whether an error comes from a peer that said nothing any more.
pub fn is_silence(error: &(dyn Error + 'static)) -> bool {
    has_cause(error, |io| io.get_ref().is_some_and(|inner| inner.is::<Silent>()))
}

/// Returns whether one of the causes of an error is the system's, and such a one.
fn has_cause(error: &(dyn Error + 'static), is_such: impl Fn(&io::Error) -> bool) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(&is_such) {
            return true;
        }
        // What an error of the system holds is not called its cause.
        let held = io.and_then(io::Error::get_ref).map(|held| held as &(dyn Error + 'static));
        next = held.or_else(|| error.source());
    }
    false
}

/// Nothing came and nothing could be sent for so long.
#[derive(Debug, thiserror::Error)]
#[error("the other side was silent for {0:?}")]
struct Silent(Duration);

/// Makes connections.
#[derive(Clone)]
struct Dial {
    tcp: TcpConnector,
    limits: Limits,
    traffic: Arc<Traffic>,
}

impl Service<Uri> for Dial {
    type Response = Watched;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Watched, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.traffic.connections.fetch_add(1, Ordering::Relaxed);
        let (limits, dialled) = (self.limits, self.tcp.call(uri));
        Box::pin(async move {
            match tokio::time::timeout(limits.connect, dialled).await {
                Ok(stream) => Ok(Watched::new(stream?, limits.silence)),
                Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()), // the name was looked up for so long
            }
        })
    }
}

/// A connection on which something has to happen from time to time.
struct Watched {
    stream: TokioIo<TcpStream>,
    silence: Duration,
    /// When something moved last.
    moved: Instant,
    /// Whether that was a byte that came: then an answer has begun, or nothing is asked.
    is_answering: bool,
    wake: Pin<Box<Sleep>>,
}

impl Watched {
    fn new(stream: TokioIo<TcpStream>, silence: Duration) -> Self {
        let wake = Box::pin(sleep(silence));
        Self { stream, silence, moved: Instant::now(), is_answering: false, wake }
    }

    /// Takes note of what became of an attempt to send or to receive. While nothing moves, whoever polls is woken
    /// when that has lasted too long.
    fn note<T>(
        &mut self,
        context: &mut Context<'_>,
        is_answering: bool,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            (self.moved, self.is_answering) = (Instant::now(), is_answering);
            return polled;
        }
        let limit = if self.is_answering { self.silence.min(STALL) } else { self.silence };
        let end = self.moved + limit;
        if self.wake.deadline() != end {
            self.wake.as_mut().reset(end);
        }
        match self.wake.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Silent(limit)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(context, true, polled)
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(context, false, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(context, false, polled)
    }
}
