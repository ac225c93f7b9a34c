//! A file on its way to S3: kept here until all of it is there, then sent at the speed that is allowed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use base64_simd::STANDARD;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use md5::{Digest, Md5};
use tokio::time::{Instant as Moment, Sleep, sleep_until};

/// Bytes kept in memory; longer files lie in a file without a name.
const MEMORY_BYTES: usize = 1 << 20;

/// Bytes sent at one stroke.
const PIECE_BYTES: u64 = 64 << 10;

/// Bytes that wait to be sent.
pub struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    bytes: u64,
    md5: Md5,
}

impl Spool {
    /// Begins with no bytes.
    pub fn new() -> Self {
        Self { memory: Vec::new(), file: None, bytes: 0, md5: Md5::new() }
    }

    /// Appends bytes; a long file goes to `folder`, or to the system's temporary folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, folder: Option<&Path>, bytes: &[u8]) -> io::Result<()> {
        self.md5.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.file.is_none() && self.memory.len() + bytes.len() > MEMORY_BYTES {
            let mut file = folder.map_or_else(tempfile::tempfile, tempfile::tempfile_in)?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => {
                self.memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Returns what can be sent, any number of times.
    pub fn finish(self) -> Sealed {
        let source = match self.file {
            Some(file) => Source::File(Arc::new(file)),
            None => Source::Memory(Bytes::from(self.memory)),
        };
        Sealed { source, bytes: self.bytes, md5: self.md5.finalize().into() }
    }
}

/// Returns the MD5 that an ETag is; none for one that is something else.
pub fn md5_of(etag: &str) -> Option<[u8; 16]> {
    let digits = etag.trim_matches('"');
    let mut md5 = [0; 16];
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (byte, at) in md5.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2).filter(|_| is_hex)?, 16).ok()?;
    }
    Some(md5)
}

#[derive(Clone)]
enum Source {
    Memory(Bytes),
    File(Arc<File>),
}

/// All of a file's bytes.
pub struct Sealed {
    source: Source,
    /// How many they are.
    pub bytes: u64,
    md5: [u8; 16],
}

impl Sealed {
    /// Returns the header `Content-MD5`.
    pub fn content_md5(&self) -> String {
        STANDARD.encode_to_string(self.md5)
    }

    /// Returns whether an ETag is not that of these bytes. Only what is the MD5 of an object can tell: one that
    /// looks like an MD5 and is none must not be asked.
    pub fn contradicts(&self, etag: &str) -> bool {
        md5_of(etag).is_some_and(|md5| md5 != self.md5)
    }

    /// Returns the body of a request. It can be sent again.
    pub fn body(&self, limiter: &Arc<Limiter>) -> ByteStream {
        let (source, bytes, limiter) = (self.source.clone(), self.bytes, limiter.clone());
        if let (Source::Memory(memory), None) = (&source, limiter.bytes_per_s) {
            return ByteStream::from(memory.clone());
        }
        let body = move || {
            let piece = Piece { source: source.clone(), at: 0, bytes, limiter: limiter.clone(), wait: None };
            SdkBody::from_body_1_x(piece)
        };
        ByteStream::new(SdkBody::retryable(body))
    }
}

/// Holds all uploads together to a number of bytes a second.
pub struct Limiter {
    bytes_per_s: Option<u64>,
    free: Mutex<Option<Instant>>,
}

impl Limiter {
    /// Limits to so many bytes a second; none for no limit.
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s: bytes_per_s.map(|limit| limit.max(1)), free: Mutex::new(None) }
    }

    /// Returns how many bytes go at one stroke: several strokes a second, however low the limit.
    fn piece_bytes(&self) -> u64 {
        self.bytes_per_s.map_or(PIECE_BYTES, |limit| (limit / 4).clamp(1024, PIECE_BYTES))
    }

    /// Returns how long an upload waits between two strokes where so many take turns.
    pub fn turn(&self, uploads: usize) -> Duration {
        let Some(limit) = self.bytes_per_s else { return Duration::ZERO };
        Duration::from_secs_f64(self.piece_bytes() as f64 / limit as f64 * uploads as f64)
    }

    /// Takes the line for `bytes`; returns when they may go.
    fn reserve(&self, bytes: u64) -> Option<Instant> {
        let limit = self.bytes_per_s?;
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free.map_or(now, |free| free.max(now));
        *free = Some(start + Duration::from_secs_f64(bytes as f64 / limit as f64));
        Some(start)
    }
}

/// A body that is read piece by piece.
struct Piece {
    source: Source,
    at: u64,
    bytes: u64,
    limiter: Arc<Limiter>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Piece {
    fn next(&mut self) -> io::Result<Bytes> {
        let length = (self.bytes - self.at).min(self.limiter.piece_bytes());
        let from = self.at;
        self.at += length;
        match &self.source {
            Source::Memory(memory) => {
                let start = usize::try_from(from).map_err(io::Error::other)?;
                let end = usize::try_from(from + length).map_err(io::Error::other)?;
                Ok(memory.slice(start..end))
            }
            Source::File(file) => {
                let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                file.read_exact_at(&mut piece, from)?;
                Ok(Bytes::from(piece))
            }
        }
    }
}

impl Body for Piece {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.at == self.bytes {
            return Poll::Ready(None);
        }
        if self.wait.is_none() {
            let length = (self.bytes - self.at).min(self.limiter.piece_bytes());
            let free = self.limiter.reserve(length);
            self.wait = free.map(|free| Box::pin(sleep_until(Moment::from_std(free))));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        Poll::Ready(Some(self.next().map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes - self.at)
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(bytes: &[u8], pieces: usize) -> Sealed {
        let mut spool = Spool::new();
        bytes.chunks(pieces).for_each(|piece| spool.write(None, piece).unwrap());
        spool.finish()
    }

    fn sent(sealed: &Sealed, limiter: &Arc<Limiter>) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sealed.body(limiter).collect()).unwrap().to_vec()
    }

    #[test]
    fn what_was_written_is_sent_each_time() {
        for length in [0, 10, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let sealed = sealed(&bytes, 100_000);
            for limit in [None, Some(1 << 40)] {
                let limiter = Arc::new(Limiter::new(limit));
                assert!(sent(&sealed, &limiter) == bytes && sent(&sealed, &limiter) == bytes, "{length}");
            }
            assert_eq!(sealed.bytes, length as u64);
        }
    }

    #[test]
    fn the_md5_is_the_one_of_rfc_1321() {
        let sealed = sealed(b"abc", 2);
        assert_eq!(sealed.content_md5(), "kAFQmDzST7DWlj99KOF/cg==");
        assert!(!sealed.contradicts("\"900150983cd24fb0d6963f7d28e17f72\""));
        assert!(sealed.contradicts("\"900150983cd24fb0d6963f7d28e17f73\""));
        assert!(!sealed.contradicts("\"not-an-md5-2\""));
    }

    #[test]
    fn an_upload_waits_for_the_strokes_of_all_others() {
        assert_eq!(Limiter::new(None).turn(8), Duration::ZERO);
        assert_eq!(Limiter::new(Some(64 << 10)).turn(8), Duration::from_secs(2));
        assert_eq!(Limiter::new(Some(1)).turn(2), Duration::from_secs(2048));
    }

    #[test]
    fn a_limit_is_kept_by_all_uploads_together() {
        let limiter = Arc::new(Limiter::new(Some(1 << 20)));
        let sealed = sealed(&vec![1; 192 << 10], 1000);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| sent(&sealed, &limiter));
            }
        });
        // 384 KiB at 1 MiB a second; the last piece is not waited for.
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    }
}
