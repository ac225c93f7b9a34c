//! Stage 1 for sources that are no files: a command → the bytes that it writes, and how it ended.
//!
//! A command runs in a process group of its own, which is ended as a whole when its time is up or
//! the run is stopped. It never sees this program's passphrase.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::base::progress::Progress;
use crate::base::redact::Redactor;
use crate::base::units::show_duration;

/// Bytes of a command's standard error that are kept, from its end.
const COMPLAINT_BYTES_MAX: usize = 8 << 10;

/// Time between two looks at whether the run is stopped.
const TICK: Duration = Duration::from_millis(50);

/// Time that a command has to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// Time that a command may take from its start to its end, if nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(6 * 3600);

/// Time for which nothing may come from a command that has ended and whose output is held open.
const SILENCE: Duration = Duration::from_secs(5);

/// Time that what is left in its pipes has to arrive after it has ended.
const DRAIN: Duration = Duration::from_secs(1);

/// Variables that tell this program its passphrase, and no other program.
const OWN_SECRETS: &[&str] =
    &["SNAP_PASSWORD", "SNAP_NEW_PASSWORD", "SNAP_PASSWORD_COMMAND", "SNAP_PASSWORD_FILE"];

/// What to run, and how long it may take.
#[derive(Clone, Default)]
pub struct Command {
    /// Program, looked up on `PATH`, and its arguments. No shell reads them.
    pub argv: Vec<OsString>,
    /// Variables besides those of this program. Their values are secrets.
    pub environment: Vec<(OsString, OsString)>,
    /// Longest time from its start to its end.
    pub timeout: Option<Duration>,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no program to run. Never retry.
    #[error("no command")]
    Nothing,
    /// It can't be started. May be retried.
    #[error("command {program} cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with another status than 0. May be retried.
    #[error("command {program} failed ({status}){}", last_line(complaint))]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to standard error.
        complaint: String,
    },
    /// It took too long, and was ended. May be retried.
    #[error("command {program} took longer than {limit} and was ended{}", last_line(complaint))]
    TimedOut {
        /// The program.
        program: String,
        /// The time it had.
        limit: String,
        /// The end of what it wrote to standard error.
        complaint: String,
    },
    /// It ended well, but a process that it started holds its output open, and writes nothing. May be retried.
    #[error(
        "command {program} has ended, but a process that it started still holds its output open, so nobody knows whether all of it came: let the command wait for that process, or start it with '>/dev/null'{}",
        last_line(complaint)
    )]
    LeftBehind {
        /// The program.
        program: String,
        /// The end of what it wrote to standard error.
        complaint: String,
    },
    /// The run was stopped, and the command was ended.
    #[error("command {program} was interrupted")]
    Interrupted {
        /// The program.
        program: String,
    },
    /// Its pipes failed. May be retried.
    #[error("command {program}: {source}")]
    Pipe {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

impl CommandError {
    /// Returns the end of what the command wrote to standard error; empty if that is not known.
    pub fn complaint(&self) -> &str {
        match self {
            Self::Failed { complaint, .. }
            | Self::TimedOut { complaint, .. }
            | Self::LeftBehind { complaint, .. } => complaint,
            _ => "",
        }
    }
}

fn last_line(complaint: &str) -> String {
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!(": {}", line.trim()))
}

impl Command {
    /// Returns the program's name, for messages.
    pub fn program(&self) -> String {
        self.argv.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned())
    }

    /// Runs it to its end; `input` is given to it, and what it writes is kept for the error alone.
    /// Without `progress` nothing but its time limit stops it.
    ///
    /// # Errors
    /// [`CommandError`]; it has ended in any case.
    pub fn run(&self, input: &[u8], progress: Option<&Progress>) -> Result<(), CommandError> {
        let (reader, writer) = io::pipe().map_err(|source| self.start_error(source))?;
        let mut prepared = self.prepare()?;
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let other = writer.try_clone().map_err(|source| self.start_error(source))?;
        prepared.stdin(stdin).stdout(writer).stderr(other);
        let child = prepared.spawn().map_err(|source| self.start_error(source))?;
        drop(prepared); // and with it this program's ends of the pipe
        let mut running = Running::new(self, child, progress, Some(Box::new(reader)))?;
        if let Some(mut stdin) = running.child.stdin.take() {
            let input = input.to_vec();
            // A command that does not read its input fails by its status, not by this.
            let begun = std::thread::Builder::new().spawn(move || stdin.write_all(&input));
            begun.map_err(|source| self.start_error(source))?;
        }
        running.finish()
    }

    /// Starts it, its output to be read.
    ///
    /// # Errors
    /// [`CommandError::Nothing`], [`CommandError::Start`].
    pub fn start<'p>(&self, progress: &'p Progress) -> Result<Running<'p>, CommandError> {
        let mut prepared = self.prepare()?;
        prepared.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = prepared.spawn().map_err(|source| self.start_error(source))?;
        let stderr = child.stderr.take().map(|stderr| Box::new(stderr) as Box<dyn Read + Send>);
        Running::new(self, child, Some(progress), stderr)
    }

    fn prepare(&self) -> Result<std::process::Command, CommandError> {
        let (program, arguments) = self.argv.split_first().ok_or(CommandError::Nothing)?;
        let mut prepared = std::process::Command::new(program);
        for variable in OWN_SECRETS {
            prepared.env_remove(variable);
        }
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        prepared.args(arguments).envs(variables).process_group(0);
        Ok(prepared)
    }

    fn start_error(&self, source: io::Error) -> CommandError {
        CommandError::Start { program: self.program(), source }
    }

    fn redactor(&self) -> Redactor {
        let mut redactor = Redactor::default();
        for (name, value) in &self.environment {
            redactor.add_variable(&name.to_string_lossy(), &value.to_string_lossy());
        }
        redactor
    }
}

/// A command under way; reading gives what it writes. It and all it has started are ended if this
/// is dropped before it has ended by itself.
pub struct Running<'p> {
    program: String,
    child: Child,
    stdout: Option<ChildStdout>,
    progress: Option<&'p Progress>,
    limit: Option<Duration>,
    deadline: Option<Instant>,
    /// Since when it has ended, or has written last after that.
    silent_since: Option<Instant>,
    complaint: Complaint,
    redactor: Redactor,
    is_over: bool,
}

impl<'p> Running<'p> {
    fn new(
        command: &Command,
        mut child: Child,
        progress: Option<&'p Progress>,
        complaints: Option<Box<dyn Read + Send>>,
    ) -> Result<Self, CommandError> {
        let mut running = Self {
            program: command.program(),
            stdout: child.stdout.take(),
            child,
            progress,
            limit: command.timeout,
            deadline: command.timeout.and_then(|limit| Instant::now().checked_add(limit)),
            silent_since: None,
            complaint: Complaint::default(),
            redactor: command.redactor(),
            is_over: false,
        };
        running.complaint = Complaint::gather(complaints).map_err(|source| command.start_error(source))?;
        Ok(running)
    }

    /// Waits for its end, its output being read.
    ///
    /// # Errors
    /// [`CommandError`]; then what was read is not to be trusted.
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.stdout.take();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(source) => return Err(CommandError::Pipe { program: self.program.clone(), source }),
            }
            self.check()?;
            std::thread::sleep(TICK.min(Duration::from_millis(10)));
        };
        self.is_over = true;
        if status.success() {
            return Ok(());
        }
        let _ = self.signal(Signal::KILL); // what it left behind, so that its next try begins afresh
        let complaint = self.complaint();
        Err(CommandError::Failed { program: self.program.clone(), status: status.to_string(), complaint })
    }

    /// Fails if its time is up or the run is stopped.
    fn check(&self) -> Result<(), CommandError> {
        if self.progress.is_some_and(Progress::is_cancelled) {
            return Err(CommandError::Interrupted { program: self.program.clone() });
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let limit = show_duration(self.limit.unwrap_or_default());
            let complaint = self.complaint.so_far(&self.redactor);
            return Err(CommandError::TimedOut { program: self.program.clone(), limit, complaint });
        }
        Ok(())
    }

    /// Signals the command and all it started that is still in its group.
    fn signal(&self, signal: Signal) -> Option<()> {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)?;
        kill_process_group(group, signal).ok()
    }

    fn complaint(&self) -> String {
        self.complaint.wait();
        self.complaint.so_far(&self.redactor)
    }

    /// Fails if it has ended with a failure, or has ended and nothing has come since for long: what it left
    /// behind would be waited for without end. As long as something comes it is what was asked for.
    fn check_left_behind(&mut self) -> Result<(), CommandError> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        let program = self.program.clone();
        if !status.success() {
            let complaint = self.complaint();
            return Err(CommandError::Failed { program, status: status.to_string(), complaint });
        }
        match since.elapsed() >= SILENCE {
            true => {
                Err(CommandError::LeftBehind { program, complaint: self.complaint.so_far(&self.redactor) })
            }
            false => Ok(()),
        }
    }

    /// Waits until there is something to read.
    fn ready(&mut self, stdout: &ChildStdout) -> Result<(), CommandError> {
        loop {
            self.check()?;
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
            let mut wanted = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
            match poll(&mut wanted, Some(&tick)) {
                Ok(0) => self.check_left_behind()?,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    self.silent_since = None;
                    return Ok(());
                }
                Err(e) => {
                    return Err(CommandError::Pipe { program: self.program.clone(), source: e.into() });
                }
            }
        }
    }
}

impl Read for Running<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(mut stdout) = self.stdout.take() else { return Ok(0) };
        self.ready(&stdout).map_err(io::Error::other)?;
        let read = stdout.read(out);
        self.stdout = Some(stdout);
        read
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.stdout.take();
        if self.is_over {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let until = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.signal(Signal::KILL); // whatever of the group is left
        let _ = self.child.wait();
    }
}

/// The last bytes of a pipe, gathered on a thread that nobody waits for long: a process that the
/// command left behind may hold the pipe open.
#[derive(Default)]
struct Complaint {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: Option<Receiver<()>>,
}

impl Complaint {
    /// Begins to gather what a pipe gives.
    ///
    /// # Errors
    /// As clone(2), if there can be no thread.
    fn gather(source: Option<Box<dyn Read + Send>>) -> io::Result<Self> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let ended = source.map(|mut source| {
            let (sender, receiver) = channel();
            let kept = kept.clone();
            let begun = std::thread::Builder::new().spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = source.read(&mut buffer) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.extend_from_slice(&buffer[..read]);
                    // More than is shown, so that a secret is whole when it is looked for.
                    if kept.len() > 3 * COMPLAINT_BYTES_MAX {
                        let surplus = kept.len() - 2 * COMPLAINT_BYTES_MAX;
                        kept.drain(..surplus);
                    }
                }
                drop(sender);
            });
            begun.map(|_| receiver)
        });
        Ok(Self { kept, ended: ended.transpose()? })
    }

    fn wait(&self) {
        if let Some(ended) = &self.ended {
            let _ = ended.recv_timeout(DRAIN); // an error is what is hoped for: the sender is gone
        }
    }

    /// Returns the end of what came so far, without secrets.
    fn so_far(&self, redactor: &Redactor) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = redactor.redact(&String::from_utf8_lossy(&kept));
        let start = text.len().saturating_sub(COMPLAINT_BYTES_MAX);
        let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text[start..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command { argv: ["sh", "-c", script].map(OsString::from).into(), ..Command::default() }
    }

    fn read(command: &Command, progress: &Progress) -> (Vec<u8>, Result<(), CommandError>) {
        let mut running = command.start(progress).expect("starts");
        let mut bytes = Vec::new();
        running.read_to_end(&mut bytes).expect("reads");
        (bytes, running.finish())
    }

    #[test]
    fn what_a_command_writes_is_read_to_the_end() {
        let (bytes, end) = read(&shell("printf 'a row'"), &Progress::default());
        assert_eq!((bytes.as_slice(), end.is_ok()), (&b"a row"[..], true));
    }

    #[test]
    fn a_failed_command_says_why_without_its_secrets() {
        let mut command = shell("echo \"access denied for $MYSQL_PWD\" >&2; exit 3");
        command.environment = vec![("MYSQL_PWD".into(), "hunter2".into())];
        let error = read(&command, &Progress::default()).1.expect_err("fails");
        assert_eq!(error.to_string(), "command sh failed (exit status: 3): access denied for ***");
        assert!(!error.complaint().contains("hunter2"));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let pids = folder.path().join("pids");
        let mut command = shell(&format!("sleep 600 & echo $! > {}; wait", pids.display()));
        command.timeout = Some(Duration::from_millis(300));
        let progress = Progress::default();
        let mut running = command.start(&progress).expect("starts");
        let error = running.read(&mut [0; 16]).expect_err("its time is up");
        assert!(error.to_string().contains("took longer than 300ms"), "{error}");
        drop(running);
        let pid = std::fs::read_to_string(pids).expect("was written");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("not 0");
        let until = Instant::now() + Duration::from_secs(10);
        while rustix::process::test_kill_process(pid).is_ok() {
            assert!(Instant::now() < until, "the sleep it started still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stopped_run_ends_its_command() {
        let progress = Progress::default();
        progress.cancel();
        let mut running = shell("sleep 600").start(&progress).expect("starts");
        assert!(running.read(&mut [0; 16]).expect_err("is stopped").to_string().contains("interrupted"));
        drop(running);
        assert!(matches!(
            shell("sleep 600").run(b"", Some(&progress)),
            Err(CommandError::Interrupted { .. })
        ));
    }

    #[test]
    fn a_command_gets_its_input_and_never_the_passphrase() {
        let command = shell("test \"$(cat)\" = hello && test -z \"$SNAP_PASSWORD\"");
        command.run(b"hello", None).expect("succeeds");
        let error = shell("cat; exit 1").run(&vec![b'x'; 1 << 20], None).expect_err("fails");
        assert_eq!(error.complaint().len(), COMPLAINT_BYTES_MAX);
    }

    #[test]
    fn no_part_of_a_secret_stays_where_a_long_complaint_is_cut() {
        let mut command = shell("printf %s \"$PW\" >&2; head -c 8188 /dev/zero | tr '\\0' y >&2; exit 1");
        command.environment = vec![("PW".into(), "hunter2hunter2".into())];
        let error = command.run(b"", None).expect_err("fails");
        assert!(
            error.complaint().trim_start_matches('*').bytes().all(|byte| byte == b'y'),
            "{}",
            &error.complaint()[..20]
        );
    }

    #[test]
    fn a_child_that_holds_the_output_of_a_command_that_has_ended_is_not_waited_for() {
        let started = Instant::now();
        let progress = Progress::default();
        let mut running = shell("echo data; sleep 600 & exit 0").start(&progress).expect("starts");
        let mut bytes = Vec::new();
        let error = running.read_to_end(&mut bytes).expect_err("is no end");
        assert!(bytes == b"data\n" && error.to_string().contains("still holds its output open"), "{error}");
        drop(running);
        let mut failing = shell("echo data; sleep 600 & exit 3").start(&progress).expect("starts");
        let error = failing.read_to_end(&mut bytes).expect_err("has failed");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }

    #[test]
    fn a_child_that_goes_on_writing_is_read_to_its_end() {
        let (bytes, end) =
            read(&shell("(for i in 1 2 3; do sleep 0.2; echo $i; done) & exit 0"), &Progress::default());
        assert_eq!((bytes.as_slice(), end.is_ok()), (&b"1\n2\n3\n"[..], true));
    }

    #[test]
    fn a_process_left_behind_does_not_hold_a_failure_up() {
        let started = Instant::now();
        let progress = Progress::default();
        let running = shell("sleep 30 >/dev/null & echo lost >&2; exit 1").start(&progress);
        let error = running.expect("starts").finish().expect_err("fails");
        assert_eq!(error.complaint(), "lost\n");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
