//! A mail → a program such as `sendmail -t`, on its standard input.
//!
//! lettre's own transport for sendmail takes no arguments and waits for ever; this one takes the
//! configured argument list as it is, and has a time limit.

use lettre::Transport;
use lettre::address::Envelope;

use crate::stage::command::{Command, CommandError};

/// A program that takes a mail, its addresses in the header.
pub struct Program {
    /// What is run.
    pub command: Command,
}

/// Why the program did not take the mail. May be retried.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ProgramError(#[from] CommandError);

impl Transport for Program {
    type Ok = ();
    type Error = ProgramError;

    fn send_raw(&self, _envelope: &Envelope, email: &[u8]) -> Result<(), ProgramError> {
        // A program reads lines as this system writes them.
        let text = String::from_utf8_lossy(email).replace("\r\n", "\n");
        Ok(self.command.run(text.as_bytes(), None)?)
    }
}
