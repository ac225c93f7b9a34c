//! Signals that ask the program to stop.

use std::io;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Returns the signals that ask the program to stop: SIGINT, SIGTERM, and SIGHUP, which a session that
/// ends sends, unless whoever started this has it ignored (nohup).
///
/// # Errors
/// As sigaction(2).
pub fn stop_signals() -> io::Result<Signals> {
    let signals = Signals::new(wanted())?;
    IS_HEEDED.store(true, Ordering::SeqCst);
    ENDS.store(false, Ordering::SeqCst);
    Ok(signals)
}

fn wanted() -> impl Iterator<Item = c_int> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let all = [SIGINT, SIGTERM, SIGHUP];
    all.into_iter().filter(move |signal| *signal != SIGHUP || !is_ignored(*signal, &status))
}

/// Whether somebody has taken [`stop_signals`], and heeds them from then on.
static IS_HEEDED: AtomicBool = AtomicBool::new(false);

/// Whether these signals, which are caught, end the program all the same, as they would if they were not.
static ENDS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether one of them has come while [`Heard`] was there.
static HAS_COME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether they are caught.
static IS_CAUGHT: LazyLock<bool> = LazyLock::new(|| {
    use signal_hook::flag::{register, register_conditional_default};
    let caught = wanted().map(|signal| {
        register(signal, HAS_COME.clone())?;
        register_conditional_default(signal, ENDS.clone())
    });
    caught.collect::<Result<Vec<_>, _>>().is_ok()
});

/// While it lives, a signal that asks the program to stop does not end it, also in a command that it ends at once
/// otherwise: so that something can be put back before. One at a time.
pub struct Heard(());

impl Heard {
    /// Begins. Where signals can't be caught, they end the program.
    pub fn begin() -> Self {
        HAS_COME.store(false, Ordering::SeqCst);
        if !IS_HEEDED.load(Ordering::SeqCst) {
            ENDS.store(false, Ordering::SeqCst);
            let _ = *IS_CAUGHT;
        }
        Self(())
    }

    /// Returns whether a signal has come.
    pub fn has_come(&self) -> bool {
        HAS_COME.load(Ordering::SeqCst)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        ENDS.store(!IS_HEEDED.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// Returns whether a signal is ignored, by `/proc/self/status` (proc_pid_status(5), `SigIgn`).
fn is_ignored(signal: c_int, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen() {
        assert!(is_ignored(SIGHUP, "Name:\tsnap\nSigIgn:\t0000000000000001\n"));
        assert!(is_ignored(SIGTERM, "SigIgn:\t0000000000004000\n"));
        assert!(!is_ignored(SIGHUP, "SigIgn:\t0000000000001000\n"));
        assert!(!is_ignored(SIGHUP, ""));
    }
}
