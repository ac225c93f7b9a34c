//! `snap notify`

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::base::time::Time;
use crate::cli::args::Notify;
use crate::cli::command::configured::{echo, is_held, redactor, tell_of_unusable};
use crate::cli::exit::Exit;
use crate::cli::report::{Output, reported};
use crate::cli::session::{Session, host_name, typed};
use crate::job::ages::{self, Overdue};
use crate::job::clock::{now, shown};
use crate::job::config::{Config, Level, Span};
use crate::job::last::Subject;
use crate::job::log::{Log, day_name};
use crate::job::notice::{self, Cause, Facts, Failing, Mail, Stale};
use crate::job::preflight;
use crate::job::run::RETENTION;
use crate::job::stale::stale;
use crate::job::told::{Told, is_three_nights};
use crate::repo::whose::{Configured, RunKey, Whose};
use crate::repo::{RepoError, Snapshot};

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
    let shown = match session.global.quiet {
        true => Ok(()),
        false => out.line(format_args!("mail \"{}\" sent {sent}; see that it arrives", mail.subject)),
    };
    Ok(reported(Exit::Done, shown.and_then(|()| out.finish())))
}

/// Age of a whole backup above which there is an alarm if the configuration does not say.
const THREE_NIGHTS: Span = Span(Duration::from_secs(3 * 86_400));

fn alarm(session: &Session, config: &Config, host: String) -> Result<Exit, RepoError> {
    let max_age = config.notify.max_age.unwrap_or(THREE_NIGHTS);
    let now = now();
    let (log, _) = Log::open(&config.log, redactor(config), Some(echo(&session.global)), now);
    if is_held(&session.global) {
        log.hold();
    }
    let mut found = look(session, config, max_age, now, &host)
        .unwrap_or_else(|trouble| Found { trouble, ..Found::default() });
    found.add_ages(session, config, now, &host);
    if found.is_well() {
        let what = format!("no component's backup is older than {max_age}, and nothing else is overdue");
        log.info("NOTIFY", what);
        return Ok(Exit::Done);
    }
    found.log(max_age, &log);
    if found.are_rows_told() && found.is_overdue_told(now) {
        log.release(!config.notify.has_mail());
        return Ok(Exit::Partial);
    }
    let is_sent = notice::tell(&config.notify, &found.mail(config, max_age, now, &host, &log), &log);
    log.release(!is_sent);
    if let Some(told) = found.told.as_mut().filter(|_| is_sent) {
        found.overdue.iter().for_each(|overdue| told.told(&overdue.called(), now));
        if let Err(e) = told.write() {
            let what = "what was mailed cannot be remembered, and will be mailed again";
            log.warning("NOTIFY", format!("{what}: {e}"));
        }
    }
    Ok(Exit::Partial)
}

/// What is not as it should be.
#[derive(Default)]
struct Found {
    /// Why nothing is known of the repository; empty if it is.
    trouble: String,
    /// Components that are too old.
    rows: Vec<Stale>,
    /// Since when old snapshots have not been removed, if that is three nights or more.
    unretained: Option<Time>,
    /// Whether the runs themselves tell that old snapshots are not removed.
    is_retention_told: bool,
    /// What is overdue beside the backup.
    overdue: Vec<Overdue>,
    /// Why nothing is known of the rest of that.
    troubles: Vec<String>,
    /// Who was told of what goes on; none if the repository can't be read.
    told: Option<Told>,
}

impl Found {
    /// Looks what is overdue beside the backup, here: of another repository, or another machine, nothing is known.
    fn add_ages(&mut self, session: &Session, config: &Config, now: Time, host: &str) {
        let (Ok(Some(_)), Ok(state)) = (session.own_config(), session.state_directory()) else { return };
        if host != session.host() {
            return;
        }
        let ages = ages::look(config, &state, host, now);
        let is_told = |subject: &Subject| {
            self.is_retention_told && matches!(subject, Subject::Retention { .. }) // by the runs themselves
        };
        self.overdue = ages.overdue.into_iter().filter(|overdue| !is_told(&overdue.subject)).collect();
        self.troubles = ages.troubles;
    }

    fn is_well(&self) -> bool {
        self.trouble.is_empty()
            && self.rows.is_empty()
            && self.unretained.is_none()
            && self.overdue.is_empty()
            && self.troubles.is_empty()
    }

    /// Logs all of it.
    fn log(&self, max_age: Span, log: &Log) {
        let error = |line: String| log.error("NOTIFY", line);
        if !self.trouble.is_empty() {
            error(format!("how old the backups are is not known: {}", self.trouble));
        }
        for row in &self.rows {
            let last = row.last.map_or_else(|| "never".to_owned(), shown);
            let why =
                row.suspicion.as_ref().map_or_else(String::new, |why| format!("; it is suspect: {why}"));
            error(format!("{}: last backed up whole {last}: older than {max_age}{why}", row.component));
        }
        if let Some(since) = self.unretained {
            error(format!("old snapshots have not been removed since {}", shown(since)));
        }
        self.overdue.iter().map(Overdue::line).chain(self.troubles.iter().cloned()).for_each(error);
    }

    /// Returns whether the runs that go on mail what there is of components themselves, every week: what is suspect.
    fn are_rows_told(&self) -> bool {
        self.trouble.is_empty() && self.rows.iter().all(|row| row.suspicion.is_some())
    }

    /// Returns whether somebody was told lately of all that is overdue.
    fn is_overdue_told(&self, now: Time) -> bool {
        let is_due =
            |overdue: &Overdue| self.told.as_ref().is_none_or(|told| told.is_due(&overdue.called(), now));
        self.troubles.is_empty() && !self.overdue.iter().any(is_due)
    }

    fn mail(&self, config: &Config, max_age: Span, now: Time, host: &str, log: &Log) -> Mail {
        let mut causes: Vec<Cause> = self.overdue.iter().map(Overdue::cause).collect();
        causes.extend(self.troubles.iter().map(|what| Cause {
            title: "State Cannot Be Written".to_owned(),
            failing: Failing::Other,
            what: what.clone(),
        }));
        if !self.are_rows_told() {
            let whose = (config.notify.name(), host);
            return notice::stale(whose, now, &max_age.to_string(), &self.rows, &self.trouble, &causes);
        }
        notice::found(&Facts {
            name: config.notify.name(),
            host,
            repository: &config.repository.path.get_ref().display().to_string(),
            command: &typed(),
            began: now,
            status: "nothing was run",
            causes: &causes,
            log: log.lines(Level::Debug),
            log_file: config.log.directory.join(day_name(now)).display().to_string(),
            ..Facts::default()
        })
    }
}

/// Returns what is too old, or why that is not known.
fn look(session: &Session, config: &Config, max_age: Span, now: Time, host: &str) -> Result<Found, String> {
    let location = session.location().map_err(|e| e.chain())?;
    if let Some(finding) = preflight::mount(&config.repository, location) {
        return Err(finding.what);
    }
    let repository = session.open().map_err(|e| e.chain())?;
    let snapshots = session.snapshots(&repository).map_err(|e| e.chain())?;
    let (whose, key) = own_key(config, host, &snapshots);
    let names = config.components.iter().map(|component| component.name.get_ref().as_str());
    let state = session.state_directory().map_err(|e| e.chain())?;
    let told = Told::read(&state, repository.id(), &key);
    let since = told.since(RETENTION);
    Ok(Found {
        rows: stale(&snapshots, &whose, &key, names, max_age, now),
        unretained: since.filter(|since| is_three_nights(*since, now)),
        is_retention_told: since.is_some(),
        told: Some(told),
        ..Found::default()
    })
}

/// Returns whose the snapshots are, and to whom those of the configuration belong; `host` is this machine's name in them.
pub fn own_key(config: &Config, host: &str, snapshots: &[Snapshot]) -> (Whose, RunKey) {
    let configured = Configured { host: host.to_owned(), ..config.configured(host) };
    let manifests = snapshots.iter().map(|snapshot| &snapshot.manifest);
    let whose = Whose::of(manifests, Some(&configured), &TimeZone::system());
    let key = whose.own().map(|own| own.key.clone());
    let key = key.unwrap_or_else(|| RunKey { host: configured.host.clone(), run: Some(configured.name) });
    (whose, key)
}
