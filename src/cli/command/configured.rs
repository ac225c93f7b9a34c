//! `snap backup` without a PATH: the configured components, with all that belongs to a nightly run.

use std::io::IsTerminal;

use crate::base::redact::Redactor;
use crate::cli::args::Global;
use crate::cli::command::backup::{end, excludes, open, request, show};
use crate::cli::exit::Exit;
use crate::cli::progress::Display;
use crate::cli::report::reported;
use crate::cli::session::{Session, host_name, typed};
use crate::cli::sources::Backup;
use crate::job::config::{Config, Level};
use crate::job::run::{self, Ending, Order};
use crate::job::unusable;
use crate::op::backup::backup;
use crate::repo::RepoError;

/// Backs up what is configured.
///
/// # Errors
/// [`RepoError::Source`] for a configuration or arguments that make no sense; what goes wrong after
/// that is logged and told, and is in the exit status.
pub fn run(session: &Session, options: Backup) -> Result<Exit, RepoError> {
    if !options.dry_run {
        tell_of_unusable(session, &typed());
    }
    let Some(config) = session.config()? else {
        let reason = "name a PATH, a stream with --stdin-name, or components in a configuration (--config)";
        return Err(RepoError::Source { path: "nothing to back up".to_owned(), reason: reason.to_owned() });
    };
    for (option, name) in named(&options) {
        if !config.components.iter().any(|component| component.name.get_ref() == name) {
            let known: Vec<&str> = config.components.iter().map(|c| c.name.get_ref().as_str()).collect();
            let reason =
                format!("no such component in {}; it has: {}", config.path.display(), known.join(", "));
            return Err(RepoError::Source { path: format!("{option} {name}"), reason });
        }
    }
    if options.dry_run {
        return dry_run(session, config, &options);
    }
    let asked = request(session, &options, Vec::new())?;
    let order = Order {
        config,
        redactor: redactor(config),
        location: session.location()?.to_owned(),
        state: session.state_directory()?,
        open: &|| session.open(),
        progress: &session.progress,
        command: typed(),
        host: asked.host,
        user: asked.user,
        time: asked.time,
        tags: asked.tags,
        only: options.component.clone(),
        accept: options.accept.clone(),
        excludes: excludes(&options)?,
        rules: asked.rules,
        threads: asked.threads,
        read_threads: read_threads(config, &options, asked.threads),
        wait: options.wait,
        lock_wait: session.global.lock_wait,
        echo: echo(&session.global),
        is_held: is_held(&session.global),
    };
    let display = Display::start(&session.global, "backup", &session.progress);
    let outcome = run::run(&order);
    drop(display);
    let exit = match outcome.ending {
        Ending::Done => Exit::Done,
        Ending::Partial => Exit::Partial,
        Ending::Fatal => Exit::Fatal,
        Ending::Locked => Exit::Locked,
        Ending::Interrupted => Exit::Interrupted,
    };
    // What is lacking is in the log's lines, and in the mail.
    let shown = outcome.report.as_ref().map_or(Ok(()), |report| show(session, report, false));
    Ok(reported(exit, shown))
}

/// Returns the components that are named, each with the option that names it.
fn named(options: &Backup) -> impl Iterator<Item = (&'static str, &String)> {
    let only = options.component.iter().map(|name| ("--component", name));
    only.chain(options.accept.iter().map(|name| ("--accept", name)))
}

/// Does all but write, and tells nobody but who asked.
fn dry_run(session: &Session, config: &Config, options: &Backup) -> Result<Exit, RepoError> {
    let wanted = config.components.iter();
    let wanted =
        wanted.filter(|c| options.component.is_empty() || options.component.contains(c.name.get_ref()));
    let more = excludes(options)?;
    let components = wanted.map(|component| {
        let mut component = component.to_backup(&config.run);
        component.excludes.extend(more.iter().cloned());
        component.care.is_accepted = options.accept.contains(&component.name);
        component
    });
    let mut request = request(session, options, components.collect())?;
    request.read_threads = read_threads(config, options, request.threads);
    request.run = Some(config.configured(&request.host).name);
    let repository = open(session, true)?;
    let display = Display::start(&session.global, "backup", &session.progress);
    let report = backup(&repository, request);
    drop(display);
    end(session, &report?)
}

fn read_threads(config: &Config, options: &Backup, threads: usize) -> usize {
    options.read_threads.or(config.run.read_threads).map_or(threads, usize::from).max(1)
}

/// Tells whoever can be told if the configuration can't be used: nobody reads what a timer's run says
/// on standard error. `command` is what was typed.
pub fn tell_of_unusable(session: &Session, command: &str) {
    if let Err(error) = session.read_config() {
        unusable::tell(error, with_variables(Redactor::default()), command, &host_name());
    }
}

/// Returns what knows the secrets of the configuration and of this process.
pub fn redactor(config: &Config) -> Redactor {
    with_variables(config.redactor())
}

fn with_variables(mut redactor: Redactor) -> Redactor {
    for variable in ["SNAP_PASSWORD", "SNAP_NEW_PASSWORD"] {
        if let Ok(value) = std::env::var(variable) {
            redactor.add(&value);
        }
    }
    redactor
}

/// Returns whether lines for standard error are held back until a mail was sent: with -q, unless somebody reads them as
/// they come, or the journal keeps them. Cron mails them.
pub fn is_held(global: &Global) -> bool {
    let is_read = std::io::stderr().is_terminal() || std::env::var_os("JOURNAL_STREAM").is_some();
    global.quiet && !is_read
}

/// Returns the least level of log lines that are shown on standard error.
pub fn echo(global: &Global) -> Level {
    match (global.quiet, global.verbose) {
        (true, _) => Level::Error,
        (false, 0) => Level::Warning,
        (false, 1) => Level::Info,
        (false, _) => Level::Debug,
    }
}
