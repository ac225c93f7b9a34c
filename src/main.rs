//! The `snap` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    snap::cli::main()
}
