//! `snap mount`

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use serde_json::json;

use crate::cli::args::{Global, Mount};
use crate::cli::command::logged::logged;
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::Session;
use crate::cli::signals::stop_signals;
use crate::op::mount::{Event, Mounted, NotEnded, Settings, mount, usable};
use crate::repo::keys::{Passphrase, Secrets};
use crate::repo::{RepoError, Repository};

/// Time after which what is not used is closed, and new snapshots are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Tells a program that it was started to be the mount in the background.
const CHILD: &str = "SNAP_MOUNT_CHILD";

/// What that program says last, when the mount is up.
const IS_UP: &str = "up";

/// Fewest threads that answer the kernel: one that waits for the disk must not keep all others waiting.
const THREADS_MIN: usize = 4;

fn bad(path: impl Into<String>, reason: impl ToString) -> RepoError {
    RepoError::Source { path: path.into(), reason: reason.to_string() }
}

/// Mounts, and stays until the mount is ended. If a configuration counts, its log says so.
///
/// # Errors
/// As [`mount`]; [`RepoError::WrongPassphrase`].
pub fn run(session: &Session, options: &Mount) -> Result<Exit, RepoError> {
    let is_parent = options.background && std::env::var_os(CHILD).is_none();
    match is_parent {
        true => mounted(session, options), // its child says the same
        false => logged(session, || mounted(session, options)),
    }
}

fn mounted(session: &Session, options: &Mount) -> Result<Exit, RepoError> {
    let point = usable(&options.point)?; // before anybody types a passphrase
    let is_child = options.background && std::env::var_os(CHILD).is_some();
    if options.background && !is_child {
        return start_in_background();
    }
    let session = &Session::new(absolute(&session.global)?); // this may leave the current directory
    let repository = Arc::new(session.open()?);
    let is_locked = !is_unlocked(session, &repository)?;
    let log = is_child.then(|| log_file(session, options, &repository)).transpose()?;
    let settings = Settings {
        cache_bytes: usize::try_from(options.cache_size).unwrap_or(usize::MAX),
        for_others: options.allow_other,
        naming: session.naming(&options.owner)?,
        owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        threads: session.threads().max(THREADS_MIN),
    };
    let (events, come) = unbounded();
    heed_signals(events.clone())?;
    let mounted = mount(repository, &point, &settings, events)?;
    say_up(session, &mounted, is_locked, is_child)?;
    if let Some(log) = log {
        detach(log)?;
    }
    keep(&mounted, &come);
    mounted.forget();
    Ok(Exit::Done)
}

/// Returns the options with paths that hold wherever the program goes, and with a server that no reader waits for long.
fn absolute(global: &Global) -> Result<Global, RepoError> {
    let mut global = global.clone();
    global.s3.is_waited_for = true;
    let paths = [&mut global.config, &mut global.repo, &mut global.state_dir, &mut global.index];
    for path in paths.into_iter().flatten() {
        let is_url = path.to_string_lossy().contains("://");
        if !is_url {
            *path = std::path::absolute(&*path).map_err(|e| bad(path.display().to_string(), e))?;
        }
    }
    Ok(global)
}

/// An empty answer at the prompt means that there is no passphrase.
struct MaybeSecrets<'s>(&'s dyn Secrets);

impl Secrets for MaybeSecrets<'_> {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(self.0.passphrase()?.filter(|passphrase| !passphrase.is_empty()))
    }

    fn identities(&self) -> Result<Vec<age::x25519::Identity>, RepoError> {
        self.0.identities()
    }

    fn only_key(&self) -> Option<&str> {
        self.0.only_key()
    }

    fn forget(&self) {
        self.0.forget();
    }
}

/// Unlocks the repository if there is a key; says it if there is none.
fn is_unlocked(session: &Session, repository: &Repository) -> Result<bool, RepoError> {
    match repository.unlock(&MaybeSecrets(&session.secrets)) {
        Ok(_) => Ok(true),
        Err(RepoError::Locked) => {
            session.secrets.forget();
            tracing::warn!(
                "no passphrase: names and attributes are shown, and opening a file is refused (permission denied)"
            );
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn heed_signals(events: Sender<Event>) -> Result<(), RepoError> {
    let mut signals = stop_signals().map_err(|e| bad("signals", e))?;
    let begun = std::thread::Builder::new().spawn(move || {
        for _ in &mut signals {
            let _ = events.send(Event::Stop); // nobody listens any more when the program ends
        }
    });
    begun.map(drop).map_err(|e| bad("threads", e))
}

fn say_up(
    session: &Session,
    mounted: &Mounted,
    is_locked: bool,
    in_background: bool,
) -> Result<(), RepoError> {
    let mut out = Output::new();
    let point = mounted.point().display();
    if session.global.json {
        out.line(json!({ "type": "mounted", "point": point.to_string(), "locked": is_locked }))?;
    } else if !session.global.quiet {
        let how = if in_background { "" } else { "Ctrl-C or " };
        out.line(format_args!("mounted on {point}; {how}'umount {point}' ends it"))?;
    }
    out.finish()
}

/// Waits until the mount is gone.
fn keep(mounted: &Mounted, events: &Receiver<Event>) {
    let point = mounted.point().display();
    let mut is_asked = false;
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                mounted.rest();
                if is_asked {
                    // Still in use, which was said; or at its place no more, and what is there now is not ours.
                    is_asked = !matches!(mounted.unmount(), Err(NotEnded::Detached));
                }
            }
            Ok(Event::Stop) => match mounted.unmount() {
                Ok(()) => {}
                Err(NotEnded::Busy) => {
                    is_asked = true;
                    tracing::warn!(
                        "{point}: in use; it is unmounted as soon as nothing uses it ('fuser -vm {point}' names what does). At once: umount -l {point}"
                    );
                }
                Err(NotEnded::Detached) => {
                    is_asked = false;
                    tracing::warn!(
                        "{point}: unmounted already; this ends when nothing in it is open any more"
                    );
                }
                Err(NotEnded::Failed(why)) => tracing::error!("{point}: cannot be unmounted: {why}"),
            },
        }
    }
}

/// Starts this program again as the mount, and waits until that is up.
fn start_in_background() -> Result<Exit, RepoError> {
    let fail = |e: std::io::Error| bad("--background", e);
    let name = std::env::args_os().next().unwrap_or_else(|| "snap".into());
    let mut child = Command::new("/proc/self/exe") // also when the program's file was replaced meanwhile
        .arg0(name)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let mut out = Output::new();
    if let Some(said) = child.stdout.take() {
        for line in BufReader::new(said).lines() {
            let line = line.map_err(fail)?;
            if line == IS_UP {
                out.finish()?;
                return Ok(Exit::Done);
            }
            out.line(line)?;
        }
    }
    let status = child.wait().map_err(fail)?; // it has said why
    match status.code() {
        Some(code) if code == Exit::Locked as i32 => Ok(Exit::Locked),
        Some(_) => Ok(Exit::Fatal),
        None => Err(bad("--background", format!("the mount ended at once: {status}"))),
    }
}

/// Opens the file that log lines go to.
fn log_file(session: &Session, options: &Mount, repository: &Repository) -> Result<File, RepoError> {
    let path: PathBuf = match &options.log {
        Some(path) => path.clone(),
        None => {
            let folder = session.state_directory()?.join(repository.id().to_string());
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|e| bad(folder.display().to_string(), e))?;
            folder.join("mount.log")
        }
    };
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    opened.map_err(|e| bad(path.display().to_string(), format!("log lines cannot go there: {e}")))
}

/// Leaves the terminal, and says to who waits that the mount is up.
fn detach(log: File) -> Result<(), RepoError> {
    let fail = |e: std::io::Error| bad("--background", e);
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(fail)?;
    let _ = rustix::process::setsid(); // fails only for who leads a session already
    std::env::set_current_dir(Path::new("/")).map_err(fail)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|e| fail(e.into()))?;
    rustix::stdio::dup2_stderr(&log).map_err(|e| fail(e.into()))?;
    let mut out = std::io::stdout();
    writeln!(out, "{IS_UP}").and_then(|()| out.flush()).map_err(fail)?;
    rustix::stdio::dup2_stdout(&nothing).map_err(|e| fail(e.into()))
}
