//! One file per command: arguments → an operation → a report.

mod asking;
mod backup;
mod cat;
mod check;
mod clone;
mod config;
mod configured;
mod diff;
mod find;
mod history;
mod init;
mod key;
mod logged;
mod ls;
mod mail;
mod man;
mod mount;
mod notify;
mod prune;
mod rebuild_index;
mod restore;
mod snapshots;
mod stats;
mod support;
mod sync;
mod tag;
mod unlock;
mod watched;

use std::io::IsTerminal;

use clap::CommandFactory;

use crate::base::text::one_line;
use crate::cli::args::{Arguments, Command, Key};
use crate::cli::exit::Exit;
use crate::cli::report::{self, Output};
use crate::cli::session::Session;
use crate::repo::RepoError;

/// Runs the command that the arguments name.
///
/// # Errors
/// What the command meets.
pub fn run(arguments: Arguments) -> Result<Exit, RepoError> {
    log_to_standard_error(arguments.global.quiet, arguments.global.verbose);
    let session = Session::new(arguments.global.without_empty());
    if leaves_work(&arguments.command) {
        session.heed_signals();
    }
    let does_work = does_work(&arguments.command);
    // Who hears nothing of a mount is to find none that is left behind.
    if does_work || matches!(arguments.command, Command::Mount(_)) {
        report::does_work();
    }
    match act(&session, arguments.command) {
        // Its own status is lost with its report.
        Err(error @ RepoError::Output { .. }) if does_work => Ok(report::reported(Exit::Done, Err(error))),
        ended => ended,
    }
}

fn act(session: &Session, command: Command) -> Result<Exit, RepoError> {
    match command {
        Command::Init(options) => init::run(session, &options),
        Command::Backup(options) => backup::run(session, options),
        Command::Snapshots(options) => snapshots::run(session, &options),
        Command::Ls(options) => ls::run(session, &options),
        Command::Find(options) => find::run(session, &options),
        Command::History(options) => history::run(session, &options),
        Command::Diff(options) => diff::run(session, &options),
        Command::Mail(options) => mail::run(session, &options),
        Command::Cat(options) => cat::run(session, &options),
        Command::Restore(options) => restore::run(session, options),
        Command::Mount(options) => mount::run(session, &options),
        Command::Check(options) => check::run(session, &options),
        Command::Prune(options) => prune::run(session, options),
        Command::Tag(options) => tag::run(session, &options),
        Command::Key(options) => key::run(session, options),
        Command::Stats => stats::run(session),
        Command::RebuildIndex => rebuild_index::run(session),
        Command::Sync(options) => sync::run(session, &options),
        Command::Clone(options) => clone::run(session, &options),
        Command::Unlock => unlock::run(session),
        Command::Config(options) => config::run(session, &options),
        Command::Notify(options) => notify::run(session, &options),
        Command::Support(options) => support::run(session, &options),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "snap", &mut text);
            print(&text)
        }
        Command::Man => {
            let page = man::page()
                .map_err(|e| RepoError::Source { path: "manual page".to_owned(), reason: e.to_string() })?;
            print(page.as_bytes())
        }
    }
}

/// Returns whether a command changes something, so that its output is only the report of that.
fn does_work(command: &Command) -> bool {
    match command {
        Command::Init(_)
        | Command::Tag(_)
        | Command::RebuildIndex
        | Command::Clone(_)
        | Command::Unlock
        | Command::Support(_)
        | Command::Check(_) => true,
        Command::Backup(options) => !options.dry_run,
        Command::Restore(options) => !options.dry_run,
        Command::Prune(options) => !options.dry_run,
        Command::Sync(options) => !options.dry_run,
        Command::Key(command) => !matches!(command, Key::List | Key::Export),
        Command::Notify(options) => options.test,
        _ => false,
    }
}

/// Returns whether a command has something to bring to an end when it is to stop. A signal ends others
/// at once, and a mount has its own way.
fn leaves_work(command: &Command) -> bool {
    matches!(
        command,
        Command::Backup(_)
            | Command::Restore(_)
            | Command::Check(_)
            | Command::Prune(_)
            | Command::RebuildIndex
            | Command::Sync(_)
            | Command::Clone(_)
            | Command::Config(_)
            | Command::Support(_)
    )
}

fn print(text: &[u8]) -> Result<Exit, RepoError> {
    let mut out = Output::new();
    out.text(String::from_utf8_lossy(text).trim_end())?;
    out.finish()?;
    Ok(Exit::Done)
}

fn log_to_standard_error(quiet: bool, verbose: u8) {
    use tracing::Level;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = match (quiet, verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::WARN,
        (false, 1) => Level::INFO,
        (false, _) => Level::DEBUG,
    };
    // What libraries have to say of an error is in the error.
    let others = if verbose > 2 { Level::DEBUG } else { Level::ERROR };
    let filter = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(others);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(tracing_subscriber::fmt::format::debug_fn(|out, field, value| {
            let text = format!("{value:?}");
            match field.name() {
                "message" => write!(out, "{}", one_line(&text)),
                name => write!(out, "{name}={}", one_line(&text)),
            }
        }))
        .without_time()
        .with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
