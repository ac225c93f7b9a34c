//! Signals that ask the program to stop.

use std::io;
use std::os::raw::c_int;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Returns the signals that ask the program to stop: SIGINT, SIGTERM, and SIGHUP, which a session that
/// ends sends, unless whoever started this has it ignored (nohup).
///
/// # Errors
/// As sigaction(2).
pub fn stop_signals() -> io::Result<Signals> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = [SIGINT, SIGTERM, SIGHUP];
    Signals::new(wanted.into_iter().filter(|signal| *signal != SIGHUP || !is_ignored(*signal, &status)))
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
