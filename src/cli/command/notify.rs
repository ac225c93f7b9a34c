//! `snap notify`

use std::time::Duration;

use jiff::tz::TimeZone;

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
use crate::job::run::RETENTION;
use crate::job::stale::stale;
use crate::job::told::{Told, is_three_nights};
use crate::repo::RepoError;
use crate::repo::whose::{Configured, RunKey, Whose};

/// Sends a notice.
///
/// # Errors
/// [`RepoError::Source`] if the configuration can't be used, or a test can't be sent.
pub fn run(session: &Session, options: &Notify) -> Result<Exit, RepoError> {
    if options.test {
        return test(session, session.needed_config()?);
    }
    tell_of_unusable(session, &typed());
    alarm(session, session.needed_config()?, options.host.clone().unwrap_or_else(|| session.host()))
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

/// Age of a whole backup above which there is an alarm if the configuration does not say.
const THREE_NIGHTS: Span = Span(Duration::from_secs(3 * 86_400));

fn alarm(session: &Session, config: &Config, host: String) -> Result<Exit, RepoError> {
    let max_age = config.notify.max_age.unwrap_or(THREE_NIGHTS);
    let now = now();
    let (log, _) = Log::open(&config.log, redactor(config), Some(echo(&session.global)), now);
    let (found, trouble) = match look(session, config, max_age, now, &host) {
        Ok(found) => (found, String::new()),
        Err(what) => (Found::default(), what),
    };
    let Found { rows, unretained } = found;
    if rows.is_empty() && trouble.is_empty() && unretained.is_none() {
        log.info("NOTIFY", format!("no component's backup is older than {max_age}"));
        return Ok(Exit::Done);
    }
    if !trouble.is_empty() {
        log.error("NOTIFY", format!("how old the backups are is not known: {trouble}"));
    }
    for row in &rows {
        let last = row.last.map_or_else(|| "never".to_owned(), shown);
        let why = row.suspicion.as_ref().map_or_else(String::new, |why| format!("; it is suspect: {why}"));
        log.error(
            "NOTIFY",
            format!("{}: last backed up whole {last}: older than {max_age}{why}", row.component),
        );
    }
    if let Some(since) = unretained {
        log.error("NOTIFY", format!("old snapshots have not been removed since {}", shown(since)));
    }
    // The runs that go on mail what is suspect, and what retention can't do, themselves, every week.
    let is_told = trouble.is_empty() && rows.iter().all(|row| row.suspicion.is_some());
    if !is_told {
        let name = config.notify.name();
        let mail = notice::stale(name, &host, now, &max_age.to_string(), &rows, &trouble);
        let _ = notice::tell(&config.notify, &mail, &log);
    }
    Ok(Exit::Partial)
}

/// What is not as it should be.
#[derive(Default)]
struct Found {
    /// Components that are too old.
    rows: Vec<Stale>,
    /// Since when old snapshots have not been removed, if that is three nights or more.
    unretained: Option<Time>,
}

/// Returns what is too old, or why that is not known.
fn look(session: &Session, config: &Config, max_age: Span, now: Time, host: &str) -> Result<Found, String> {
    let location = session.location().map_err(|e| e.chain())?;
    if let Some(finding) = preflight::mount(&config.repository, location) {
        return Err(finding.what);
    }
    let repository = session.open().map_err(|e| e.chain())?;
    let snapshots = session.snapshots(&repository).map_err(|e| e.chain())?;
    let configured = Configured { host: host.to_owned(), ..config.configured(host) };
    let manifests = snapshots.iter().map(|snapshot| &snapshot.manifest);
    let whose = Whose::of(manifests, Some(&configured), &TimeZone::system());
    let key = whose.own().map(|own| own.key.clone());
    let key =
        key.unwrap_or_else(|| RunKey { host: configured.host.clone(), run: Some(configured.name.clone()) });
    let names = config.components.iter().map(|component| component.name.get_ref().as_str());
    let state = session.state_directory().map_err(|e| e.chain())?;
    let since = Told::read(&state, repository.id(), &key).since(RETENTION);
    Ok(Found {
        rows: stale(&snapshots, &whose, &key, names, max_age, now),
        unretained: since.filter(|since| is_three_nights(*since, now)),
    })
}
