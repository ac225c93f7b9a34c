//! Streams: standard input, or what a command writes.

use std::io::{self, Read};

use crate::base::progress::Progress;
use crate::op::backup::cut::{Cut, CutError, Cutter};
use crate::repo::RepoError;
use crate::stage::command::{Command, CommandError};

/// Bytes of a stream's end in which its last words are looked for.
const TAIL_BYTES: usize = 1 << 10;

/// Where a stream's bytes come from.
pub enum Input {
    /// A reader: standard input. It can be read once.
    Reader(Box<dyn Read + Send>),
    /// A command's standard output. Any exit status but 0 is a failure.
    Command(Command),
}

/// A file of the snapshot that is no file of the source.
pub struct Stream {
    /// Its name.
    pub name: Vec<u8>,
    /// Its bytes.
    pub input: Input,
    /// Whether no bytes at all are a stream like any other, and no failure.
    pub may_be_empty: bool,
    /// Text that its end must hold; without it the stream counts as cut short.
    pub ends_with: Option<String>,
}

/// Why a stream failed.
pub struct StreamFailure {
    /// In one line.
    pub reason: String,
    /// The end of what its command wrote to standard error.
    pub complaint: String,
}

impl Stream {
    /// Returns whether it can be read a second time.
    pub fn is_repeatable(&self) -> bool {
        matches!(self.input, Input::Command(_))
    }

    /// Cuts all of the stream. If it fails nothing of it may be recorded.
    ///
    /// # Errors
    /// The run's.
    pub fn cut(&mut self, cutter: &mut Cutter<'_>) -> Result<Result<Cut, StreamFailure>, RepoError> {
        let progress = cutter.progress();
        let (cut, tail) = match &mut self.input {
            Input::Reader(reader) => {
                let mut tail = Tail::new(reader);
                (cutter.cut(&mut tail, u64::MAX), tail.kept)
            }
            Input::Command(command) => match command.start(progress) {
                Err(error) => return Ok(Err(command_failure(&error))),
                Ok(running) => {
                    let mut tail = Tail::new(running);
                    let cut = cutter.cut(&mut tail, u64::MAX);
                    let (running, kept) = (tail.source, tail.kept);
                    let cut = cut.and_then(|cut| match running.finish() {
                        Ok(()) => Ok(cut),
                        Err(error) => Err(CutError::Source(io::Error::other(error))),
                    });
                    (cut, kept)
                }
            },
        };
        if progress.is_cancelled() {
            return Err(RepoError::Interrupted);
        }
        let cut = match cut {
            Ok(cut) => cut,
            Err(CutError::Run(error)) => return Err(error),
            Err(CutError::Source(error)) => return Ok(Err(source_failure(&error))),
        };
        Ok(match self.complaint(cut.bytes, &tail) {
            None => Ok(cut),
            Some(reason) => Err(StreamFailure { reason, complaint: String::new() }),
        })
    }

    /// Reads all of the stream, keeps nothing of it, and judges it as [`Self::cut`] does. Returns its length in bytes.
    ///
    /// # Errors
    /// Why the stream failed, in one line, and what its command said.
    pub fn try_out(&mut self, progress: &Progress) -> Result<u64, StreamFailure> {
        let (read, tail) = match &mut self.input {
            Input::Reader(reader) => {
                let mut tail = Tail::new(reader);
                (io::copy(&mut tail, &mut io::sink()), tail.kept)
            }
            Input::Command(command) => {
                let mut tail = Tail::new(command.start(progress).map_err(|e| command_failure(&e))?);
                let read = io::copy(&mut tail, &mut io::sink());
                let (running, kept) = (tail.source, tail.kept);
                let ended = |bytes| running.finish().map(|()| bytes).map_err(io::Error::other);
                (read.and_then(ended), kept)
            }
        };
        let bytes = read.map_err(|e| source_failure(&e))?;
        match self.complaint(bytes, &tail) {
            None => Ok(bytes),
            Some(reason) => Err(StreamFailure { reason, complaint: String::new() }),
        }
    }

    /// Returns what is wrong with a stream that has come to its end.
    fn complaint(&self, bytes: u64, tail: &[u8]) -> Option<String> {
        let writer = match &self.input {
            Input::Reader(_) => "standard input".to_owned(),
            Input::Command(command) => format!("command {}", command.program()),
        };
        if bytes == 0 && !self.may_be_empty {
            let what = match &self.input {
                Input::Reader(_) => "held nothing",
                Input::Command(_) => "ended well and wrote nothing",
            };
            return Some(format!(
                "{writer} {what}: an empty dump is none, unless --may-be-empty or may_be_empty says so"
            ));
        }
        let end = self.ends_with.as_deref()?;
        let is_there = tail.windows(end.len().max(1)).any(|window| window == end.as_bytes());
        (!is_there).then(|| format!("{writer} ended well, but without \"{end}\": its output is cut short"))
    }
}

fn source_failure(error: &io::Error) -> StreamFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<CommandError>()) {
        Some(error) => command_failure(error),
        None => StreamFailure { reason: error.to_string(), complaint: String::new() },
    }
}

/// Returns the failure that a command's error stands for.
pub fn command_failure(error: &CommandError) -> StreamFailure {
    StreamFailure { reason: error.to_string(), complaint: error.complaint().to_owned() }
}

/// Keeps the last bytes of what is read through it.
struct Tail<R> {
    source: R,
    kept: Vec<u8>,
}

impl<R: Read> Tail<R> {
    fn new(source: R) -> Self {
        Self { source, kept: Vec::new() }
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        let new = out.get(..read).unwrap_or_default();
        self.kept.extend_from_slice(&new[new.len().saturating_sub(TAIL_BYTES)..]);
        let surplus = self.kept.len().saturating_sub(TAIL_BYTES);
        self.kept.drain(..surplus);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_of_a_stream_are_kept_however_it_is_read() {
        let bytes: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        for step in [1, 7, TAIL_BYTES, 9999] {
            let mut tail = Tail::new(bytes.as_slice());
            let mut buffer = vec![0; step];
            while tail.read(&mut buffer).expect("reads") > 0 {}
            assert_eq!(tail.kept, bytes[bytes.len() - TAIL_BYTES..], "{step}");
        }
    }
}
