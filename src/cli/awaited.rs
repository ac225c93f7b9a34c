//! Secrets that come from something that may keep one waiting: a named pipe, or a command. Nothing is waited for without
//! end or unsaid, and a signal ends it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use zeroize::Zeroizing;

use crate::base::progress::Progress;
use crate::base::units::show_duration;
use crate::cli::signals::Heard;
use crate::repo::RepoError;
use crate::repo::keys::Passphrase;

/// Time between two looks whether a signal asked the program to stop.
const TICK: Duration = Duration::from_millis(100);

/// Time after which it is said what is waited for.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Time that a command has to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// How long is waited.
#[derive(Clone, Copy)]
struct Limits {
    /// For somebody to open a named pipe to write to it.
    writer: Duration,
    /// For what comes from a writer or a command: it may ask a person for a passphrase of its own, or for a token.
    silence: Duration,
}

const LIMITS: Limits = Limits { writer: Duration::from_secs(60), silence: Duration::from_secs(300) };

/// A wait for a secret.
pub struct Wait<'w> {
    source: &'w str,
    progress: &'w Progress,
    heard: Heard,
    limits: Limits,
    begun: Instant,
    is_said: bool,
}

impl<'w> Wait<'w> {
    /// Begins; `source` is what the secret comes from, for messages.
    pub fn for_source(source: &'w str, progress: &'w Progress) -> Self {
        Self::within(LIMITS, source, progress)
    }

    fn within(limits: Limits, source: &'w str, progress: &'w Progress) -> Self {
        Self { source, progress, heard: Heard::begin(), limits, begun: Instant::now(), is_said: false }
    }

    /// Reads a file, or a pipe to its end: up to `bytes_max` bytes.
    ///
    /// # Errors
    /// [`RepoError::Passphrase`] if it can't be read, is longer or no text, or nobody writes to it;
    /// [`RepoError::Interrupted`].
    pub fn read(mut self, path: &Path, bytes_max: usize) -> Result<Passphrase, RepoError> {
        let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits();
        let opened = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
        let file: File = opened.map_err(|e| self.fail(e))?;
        let is_fifo = file.metadata().is_ok_and(|about| about.file_type().is_fifo());
        let bytes = self.gather(&file, bytes_max, is_fifo, || false)?;
        self.text(bytes)
    }

    /// Runs a command of the shell, and returns what it prints: up to `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`Self::read`]; [`RepoError::Passphrase`] also if it fails. It has ended in any case.
    pub fn printed(mut self, command: &OsStr, bytes_max: usize) -> Result<Passphrase, RepoError> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = shell.spawn().map_err(|e| self.fail(e))?;
        let printed = self.run(&mut child, bytes_max);
        if printed.is_err() {
            end(&mut child);
        }
        match printed? {
            (bytes, status) if status.success() => self.text(bytes),
            (_, status) => Err(self.fail(format_args!("the command failed: {status}"))),
        }
    }

    fn run(
        &mut self,
        child: &mut Child,
        bytes_max: usize,
    ) -> Result<(Zeroizing<Vec<u8>>, ExitStatus), RepoError> {
        let mut bytes = Zeroizing::default();
        if let Some(stdout) = child.stdout.take() {
            rustix::io::ioctl_fionbio(&stdout, true).map_err(|e| self.fail(std::io::Error::from(e)))?;
            // What it leaves behind may hold its output open.
            bytes = self.gather(&stdout, bytes_max, false, || !matches!(child.try_wait(), Ok(None)))?;
        }
        loop {
            if let Some(status) = child.try_wait().map_err(|e| self.fail(e))? {
                return Ok((bytes, status));
            }
            self.look(self.limits.silence)?;
            std::thread::sleep(TICK / 10);
        }
    }

    /// Reads from what does not block, to its end, or until `is_over` and nothing comes.
    fn gather<F: AsFd>(
        &mut self,
        file: &F,
        bytes_max: usize,
        may_lack_writer: bool,
        mut is_over: impl FnMut() -> bool,
    ) -> Result<Zeroizing<Vec<u8>>, RepoError> {
        let mut bytes = Zeroizing::new(vec![0; bytes_max + 1]); // one piece: a text that grows leaves copies behind
        let (mut length, mut limit) = (0, self.limits.silence);
        loop {
            self.look(limit)?;
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
            let mut wanted = [PollFd::new(file, PollFlags::IN)];
            let has_come = match poll(&mut wanted, Some(&tick)) {
                Err(Errno::INTR) => continue,
                ready => ready.map_err(|e| self.fail(std::io::Error::from(e)))? > 0,
            };
            match rustix::io::read(file, &mut bytes[length..]) {
                // Nobody has opened it to write yet; where somebody had, its end has come.
                Ok(0) if may_lack_writer && !has_come => limit = self.limits.writer,
                Ok(0) => break,
                Ok(read) => length += read,
                Err(Errno::AGAIN) if !has_come && is_over() => break,
                Err(Errno::AGAIN) => limit = self.limits.silence,
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.fail(std::io::Error::from(e))),
            }
            if length > bytes_max {
                return Err(self.fail(format_args!("is longer than {bytes_max} bytes")));
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Looks whether the wait is to end; says what is waited for, once.
    fn look(&mut self, limit: Duration) -> Result<(), RepoError> {
        if self.progress.is_cancelled() || self.heard.has_come() {
            return Err(RepoError::Interrupted);
        }
        let waited = self.begun.elapsed();
        if waited >= limit {
            return Err(self.fail(format_args!("nothing has come from it within {}", show_duration(limit))));
        }
        if waited >= SILENT_MAX && !self.is_said {
            self.is_said = true;
            tracing::warn!("{}: waited for, {} at most; Ctrl-C ends this", self.source, show_duration(limit));
        }
        Ok(())
    }

    fn text(&self, mut bytes: Zeroizing<Vec<u8>>) -> Result<Passphrase, RepoError> {
        let text = String::from_utf8(std::mem::take(&mut *bytes));
        text.map(Passphrase::new).map_err(|e| {
            drop(Zeroizing::new(e.into_bytes()));
            self.fail("not text")
        })
    }

    fn fail(&self, what: impl std::fmt::Display) -> RepoError {
        RepoError::Passphrase { what: format!("{}: {what}", self.source) }
    }
}

/// Ends a command, and waits for its end.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let until = Instant::now() + GRACE;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(TICK / 10);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    const SOON: Limits = Limits { writer: Duration::from_millis(200), silence: Duration::from_millis(400) };
    const LATE: Limits = Limits { writer: Duration::from_secs(60), silence: Duration::from_secs(60) };

    fn fifo() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        (folder, path)
    }

    #[test]
    fn a_named_pipe_is_waited_for_as_long_as_is_said_and_no_longer() {
        let (_folder, path) = fifo();
        let progress = Progress::default();
        let nobody = Wait::within(SOON, "pipe", &progress).read(&path, 100).unwrap_err().to_string();
        assert!(nobody.contains("pipe: nothing has come from it"), "{nobody}");
        // Somebody opens it and writes nothing.
        let both = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let silent = Wait::within(SOON, "pipe", &progress).read(&path, 100).unwrap_err().to_string();
        assert!(silent.contains("nothing has come from it"), "{silent}");
        drop(both);
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut file = OpenOptions::new().write(true).open(path).unwrap(); // waits for a reader
                for piece in ["correct ", "horse\n"] {
                    std::io::Write::write_all(&mut file, piece.as_bytes()).unwrap();
                }
            }
        });
        assert_eq!(*Wait::within(LATE, "pipe", &progress).read(&path, 100).unwrap(), "correct horse\n");
        writer.join().unwrap();
        progress.cancel();
        let ended = Wait::within(LATE, "pipe", &progress).read(&path, 100);
        assert!(matches!(ended, Err(RepoError::Interrupted)));
    }

    #[test]
    fn a_command_is_waited_for_as_long_as_is_said_and_ended_then() {
        let progress = Progress::default();
        let run = |limits, command: &str| {
            let printed = Wait::within(limits, "command", &progress).printed(command.as_ref(), 100);
            printed.map(|text| text.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(run(LATE, "echo correct; sleep 0.1; echo horse").unwrap(), "correct\nhorse\n");
        // What is left behind holds its output open, and is not waited for.
        let (_folder, path) = fifo();
        let left = format!("echo correct; cat {} &", path.display());
        assert_eq!(run(LATE, &left).unwrap(), "correct\n");
        drop(OpenOptions::new().write(true).open(path).unwrap()); // it ends
        for hangs in ["exec sleep 60", "exec sleep 60 >/dev/null"] {
            assert!(run(SOON, hangs).unwrap_err().contains("nothing has come from it"), "{hangs}");
        }
        assert!(run(LATE, "echo correct; exit 3").unwrap_err().contains("the command failed"));
        assert!(run(LATE, "head -c 200 /dev/zero").unwrap_err().contains("is longer than 100 bytes"));
        assert!(run(LATE, "printf '\\377'").unwrap_err().contains("not text"));
    }
}
