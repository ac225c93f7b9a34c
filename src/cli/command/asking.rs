//! Questions at the terminal, and the paths that a restore would remove.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::base::entry::quoted;
use crate::base::progress::Progress;
use crate::cli::args::Global;
use crate::cli::progress::Display;
use crate::cli::session::Session;
use crate::op::restore::{Answer, Consent};

/// Time between two looks whether the program is to end while an answer is waited for.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Asks whoever sits at the terminal.
pub struct Asking<'s> {
    global: &'s Global,
    progress: &'s Arc<Progress>,
    /// Whether each path that would be removed is shown.
    names: bool,
    display: Mutex<Option<Display>>,
}

impl<'s> Asking<'s> {
    /// Asks nothing yet. A dry run names what would be removed; so does `-v`.
    pub fn new(session: &'s Session, dry_run: bool) -> Self {
        let names = !session.global.quiet && (dry_run || session.global.verbose > 0);
        Self { global: &session.global, progress: &session.progress, names, display: Mutex::new(None) }
    }

    /// Ends the progress bar.
    pub fn end(&self) {
        self.display.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Asks whoever sits at the terminal; what is no yes is a no, and so is a request to end.
pub fn ask(progress: &Progress, question: &str) -> Answer {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Answer::Nobody;
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let answer = line(progress).unwrap_or_default();
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Answer::Yes,
        _ => Answer::No,
    }
}

/// Waits for a line; none if the program is to end.
fn line(progress: &Progress) -> Option<String> {
    let stdin = std::io::stdin();
    loop {
        if progress.is_cancelled() {
            return None;
        }
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        if poll(&mut fds, Some(&TICK)).is_ok_and(|ready| ready > 0) {
            let mut line = String::new();
            return stdin.read_line(&mut line).ok().map(|_| line);
        }
    }
}

impl Consent for Asking<'_> {
    fn hear(&self, path: &[u8], bytes: u64) {
        if !self.names {
            return;
        }
        let path = quoted(path);
        let mut out = std::io::stdout().lock();
        let _ = match self.global.json {
            true => writeln!(out, "{}", json!({ "type": "removal", "path": path, "bytes": bytes })),
            false => writeln!(out, "to be removed: {path}"),
        }; // the summary will tell whether output works
    }

    fn ask(&self, question: &str) -> Answer {
        ask(self.progress, &format!("{question}\nGo on?"))
    }

    fn begin(&self) {
        let display = Display::start(self.global, "restore", self.progress);
        *self.display.lock().unwrap_or_else(PoisonError::into_inner) = Some(display);
    }
}
