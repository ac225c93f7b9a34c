//! `snap notify`

use crate::base::time::Time;
use crate::cli::args::Notify;
use crate::cli::command::configured::{echo, redactor, tell_of_unusable};
use crate::cli::exit::Exit;
use crate::cli::report::Output;
use crate::cli::session::{Session, host_name, typed};
use crate::job::clock::{now, shown};
use crate::job::config::{Config, Span};
use crate::job::log::Log;
use crate::job::notice::{self, Stale};
use crate::job::preflight;
use crate::job::stale::stale;
use crate::repo::RepoError;

/// Sends a notice.
///
/// # Errors
/// [`RepoError::Source`] if the configuration can't be used, or a test can't be sent.
pub fn run(session: &Session, options: &Notify) -> Result<Exit, RepoError> {
    if options.test {
        return test(session, session.needed_config()?);
    }
    tell_of_unusable(session, &typed());
    alarm(session, session.needed_config()?, options.host.clone().unwrap_or_else(host_name))
}

fn test(session: &Session, config: &Config) -> Result<Exit, RepoError> {
    let mail = notice::test(config.notify.name(), &host_name(), now());
    let sent = notice::send(&config.notify, &mail).map_err(|e| RepoError::Source {
        path: "test mail".to_owned(),
        reason: redactor(config).redact(&e.to_string()),
    })?;
    let mut out = Output::new();
    if !session.global.quiet {
        out.line(format_args!("mail \"{}\" sent {sent}; see that it arrives", mail.subject))?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn alarm(session: &Session, config: &Config, host: String) -> Result<Exit, RepoError> {
    let Some(max_age) = config.notify.max_age else {
        let reason = "is not set: say how old a backup may be, for example max_age = \"26h\"".to_owned();
        return Err(RepoError::Source { path: format!("{}: notify.max_age", config.path.display()), reason });
    };
    let now = now();
    let (log, _) = Log::open(&config.log, redactor(config), Some(echo(&session.global)), now);
    let (rows, trouble) = match look(session, config, max_age, now, &host) {
        Ok(rows) => (rows, String::new()),
        Err(what) => (Vec::new(), what),
    };
    if rows.is_empty() && trouble.is_empty() {
        log.info("NOTIFY", format!("no component's backup is older than {max_age}"));
        return Ok(Exit::Done);
    }
    if !trouble.is_empty() {
        log.error("NOTIFY", format!("how old the backups are is not known: {trouble}"));
    }
    for row in &rows {
        let last = row.last.map_or_else(|| "never".to_owned(), shown);
        log.error("NOTIFY", format!("{}: last backed up whole {last}: older than {max_age}", row.component));
    }
    let name = config.notify.name();
    let mail = notice::stale(name, &host, now, &max_age.to_string(), &rows, &trouble);
    notice::tell(&config.notify, &mail, &log);
    Ok(Exit::Partial)
}

/// Returns the components that are too old, or why that is not known.
fn look(
    session: &Session,
    config: &Config,
    max_age: Span,
    now: Time,
    host: &str,
) -> Result<Vec<Stale>, String> {
    let location = session.location().map_err(|e| e.chain())?;
    if let Some(finding) = preflight::mount(&config.repository, location) {
        return Err(finding.what);
    }
    let repository = session.open().map_err(|e| e.chain())?;
    let snapshots = session.snapshots(&repository).map_err(|e| e.chain())?;
    let names = config.components.iter().map(|component| component.name.get_ref().as_str());
    Ok(stale(&snapshots, host, names, max_age, now))
}
