//! Asks for a passphrase at the terminal, which does not show it.
//!
//! The terminal hands on each key as it is pressed, also those that would send a signal: so Ctrl-C comes here, and the
//! terminal is as it was before the program ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::base::progress::Progress;
use crate::cli::signals::Heard;
use crate::repo::RepoError;
use crate::repo::keys::Passphrase;

/// Longest line that is taken, in bytes. Memory for it is taken at once: a text that grows leaves copies behind.
const LINE_BYTES_MAX: usize = 4096;

/// Time between two looks whether a signal asked the program to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_H: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_W: u8 = 0x17;
const ESCAPE: u8 = 0x1b;
const CTRL_BACKSLASH: u8 = 0x1c;
const DELETE: u8 = 0x7f;

fn fail(what: impl Into<String>) -> RepoError {
    RepoError::Passphrase { what: what.into() }
}

/// Shows `text` at the terminal, and returns the line that is typed then.
///
/// # Errors
/// [`RepoError::Interrupted`] by Ctrl-C, or when the program is to stop; [`RepoError::Passphrase`] without a
/// terminal, at the end of input, and for a line that is too long or no text.
pub fn ask(text: &str, progress: &Progress) -> Result<Passphrase, RepoError> {
    let failed = |e: std::io::Error| fail(format!("/dev/tty: {e}"));
    let heard = Heard::begin();
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let quiet = Quiet::on(&terminal).map_err(|e| failed(e.into()))?;
    (&terminal).write_all(text.as_bytes()).map_err(failed)?;
    let is_over = || progress.is_cancelled() || heard.has_come();
    let line = read_line(|| key(&terminal, &is_over));
    let _ = (&terminal).write_all(b"\r\n"); // the line's end was not shown either
    drop(quiet);
    if is_over() { Err(RepoError::Interrupted) } else { line }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn on(terminal: &'t File) -> Result<Self, Errno> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes &= !(LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::ISIG
            | LocalModes::IEXTEN);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Now, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before); // the terminal may be gone
    }
}

/// Waits for the next key.
fn key(mut terminal: &File, is_over: &dyn Fn() -> bool) -> Result<Option<u8>, RepoError> {
    loop {
        if is_over() {
            return Err(RepoError::Interrupted);
        }
        let mut wanted = [PollFd::new(&terminal, PollFlags::IN)];
        match poll(&mut wanted, Some(&TICK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(fail(std::io::Error::from(e).to_string())),
        }
        let mut byte = [0];
        return match terminal.read(&mut byte) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(byte[0])),
            Err(e) => Err(fail(e.to_string())),
        };
    }
}

/// Reads a line key by key; `next` returns none at the end of input.
fn read_line(mut next: impl FnMut() -> Result<Option<u8>, RepoError>) -> Result<Passphrase, RepoError> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    while let Some(byte) = next()? {
        match byte {
            b'\n' | b'\r' => break,
            CTRL_C | CTRL_BACKSLASH => return Err(RepoError::Interrupted),
            CTRL_D if line.is_empty() => return Err(fail("nothing was typed")),
            CTRL_H | DELETE => pop(&mut line),
            CTRL_U => line.clear(),
            CTRL_W => {
                while line.last() == Some(&b' ') {
                    line.pop();
                }
                while line.last().is_some_and(|byte| *byte != b' ') {
                    line.pop();
                }
            }
            ESCAPE => skip_sequence(&mut next)?,
            byte if byte < b' ' => {} // no other key of this kind is a letter
            _ if line.len() == LINE_BYTES_MAX => return Err(fail("what was typed is too long")),
            byte => line.push(byte),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| fail("what was typed is no text in UTF-8"))?;
    Ok(Passphrase::new(text.to_owned()))
}

/// Takes the last character away.
fn pop(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// Passes over what a cursor key sends after its first byte.
fn skip_sequence(next: &mut impl FnMut() -> Result<Option<u8>, RepoError>) -> Result<(), RepoError> {
    if !matches!(next()?, Some(b'[' | b'O')) {
        return Ok(());
    }
    while next()?.is_some_and(|byte| !(b'@'..=b'~').contains(&byte)) {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Result<String, RepoError> {
        let mut keys = keys.iter().copied();
        read_line(|| Ok(keys.next())).map(|line| line.to_string())
    }

    #[test]
    fn keys_that_correct_a_line_correct_it() {
        assert_eq!(typed(b"correct horse\rmore").unwrap(), "correct horse");
        assert_eq!(typed(b"cort\x7frect\n").unwrap(), "correct");
        assert_eq!(typed("caf\u{e9}\u{8}e\n".as_bytes()).unwrap(), "cafe");
        assert_eq!(typed(b"\x08wrong\x15right\n").unwrap(), "right");
        assert_eq!(typed(b"correct cow \x17horse\n").unwrap(), "correct horse");
        assert_eq!(typed(b"cor\x1b[1;5Drect\x1bOA\x01\x04\n").unwrap(), "correct");
        assert_eq!(typed(b"at the end").unwrap(), "at the end");
    }

    #[test]
    fn what_ends_a_prompt_is_told_apart() {
        assert!(matches!(typed(b"corr\x03"), Err(RepoError::Interrupted)));
        assert!(matches!(typed(b"\x1c"), Err(RepoError::Interrupted)));
        for (keys, why) in [
            (b"\x04".to_vec(), "nothing was typed"),
            (b"\xff\n".to_vec(), "no text"),
            (vec![b'a'; LINE_BYTES_MAX + 1], "too long"),
        ] {
            assert!(typed(&keys).unwrap_err().to_string().contains(why), "{why}");
        }
    }
}
