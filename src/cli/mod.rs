//! Arguments, one file per command, reports, progress, exit status. Alone reads clock and environment.

mod args;
mod awaited;
mod choice;
mod command;
mod exit;
mod looking;
mod mail;
mod offsite;
mod progress;
mod prompt;
mod report;
mod retention;
mod s3;
mod secrets;
mod session;
mod signals;
mod sources;
mod values;

use std::process::ExitCode;

use clap::Parser;

pub use args::Arguments;
pub use exit::Exit;

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse(); // a usage error exits with 2
    match command::run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => {
            exit::report(&error);
            Exit::of(&error).into()
        }
    }
}
