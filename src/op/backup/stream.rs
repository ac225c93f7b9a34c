//! Streams: standard input, or what a command writes.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use crate::op::backup::cut::{Cut, CutError, Cutter};
use crate::repo::RepoError;

/// Bytes of a command's standard error that are kept, from its end.
const COMPLAINT_BYTES_MAX: usize = 8 << 10;

/// Where a stream's bytes come from.
pub enum Input {
    /// A reader: standard input.
    Reader(Box<dyn Read + Send>),
    /// A command's standard output. Any exit status but 0 is a failure.
    Command(Vec<OsString>),
}

/// A file of the snapshot that is no file of the source.
pub struct Stream {
    /// Its name.
    pub name: Vec<u8>,
    /// Its bytes.
    pub input: Input,
}

impl Input {
    /// Cuts all of the stream.
    ///
    /// # Errors
    /// `CutError::Source` if it can't be read to its end, or the command fails: then nothing of
    /// it may be recorded.
    pub fn cut(self, cutter: &mut Cutter<'_>) -> Result<Cut, CutError> {
        let argv = match self {
            Self::Reader(mut reader) => return cutter.cut(&mut reader, u64::MAX),
            Self::Command(argv) => argv,
        };
        let mut running = Running::start(&argv).map_err(CutError::Source)?;
        let Some(mut output) = running.child.stdout.take() else {
            return Err(CutError::Source(io::Error::other("command has no output")));
        };
        let cut = cutter.cut(&mut output, u64::MAX)?;
        drop(output);
        running.finish().map_err(CutError::Source)?;
        Ok(cut)
    }
}

/// A command under way. Ended if it is dropped before it has ended by itself.
struct Running {
    name: String,
    child: Child,
    complaint: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(argv: &[OsString]) -> io::Result<Self> {
        let (program, arguments) =
            argv.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
        let name = program.to_string_lossy().into_owned();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("command {name} cannot be started: {e}")))?;
        let complaint = child.stderr.take().map(|stderr| std::thread::spawn(move || last_bytes(stderr)));
        Ok(Self { name, child, complaint })
    }

    fn finish(&mut self) -> io::Result<()> {
        let status = self.child.wait()?;
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let colon = if last.is_empty() { "" } else { ": " };
        Err(io::Error::other(format!("command {} failed ({status}){colon}{last}", self.name)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads to the end and keeps the last bytes.
fn last_bytes(mut source: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = source.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * COMPLAINT_BYTES_MAX {
            kept.drain(..kept.len() - COMPLAINT_BYTES_MAX);
        }
    }
    kept
}

/// Returns whether an error of cutting is about the source; else the run's error.
///
/// # Errors
/// The run's error.
pub fn source_error(error: CutError) -> Result<io::Error, RepoError> {
    match error {
        CutError::Source(e) => Ok(e),
        CutError::Run(e) => Err(e),
    }
}
