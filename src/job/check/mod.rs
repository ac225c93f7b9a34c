//! Tries all that is configured, harmlessly: nothing is written, sent or changed.

mod mailboxes;
mod trial;

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::base::entry::quoted;
use crate::base::patterns::is_comment;
use crate::base::units::counted;
use crate::job::config::{self, Component, Config, Level};
use crate::job::mount::Disk;
use crate::job::notice::greet;
use crate::job::patterns;
use crate::job::preflight;
use crate::repo::whose::Whose;
use crate::repo::{RepoError, Repository};
use crate::store::S3_SCHEME;

pub use trial::Trial;

/// What the shipped examples have where a password belongs.
const PASSWORD_PLACEHOLDER: &str = "put the password here";

/// The account number in the bucket's name of the shipped examples.
const ACCOUNT_PLACEHOLDER: &str = "123456789012";
/// Paths that one row names.
const PATHS_SHOWN: usize = 5;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub what: String,
    /// [`Level::Info`] if it is well, [`Level::Warning`], or [`Level::Error`].
    pub level: Level,
    /// How it is, and what to do.
    pub detail: String,
}

/// What is tried besides what the configuration names.
pub struct Surroundings<'s> {
    /// The repository's directory.
    pub location: &'s Path,
    /// This machine's state directory.
    pub state: &'s Path,
    /// Who runs this.
    pub user: &'s str,
    /// Name of this machine.
    pub host: &'s str,
    /// Opens the repository.
    pub open: &'s dyn Fn() -> Result<Repository, RepoError>,
    /// What is tried for real as well; none if only what is at hand is looked at.
    pub trial: Option<Trial<'s>>,
}

/// Gathers rows.
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn row(&mut self, level: Level, what: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Row { what: what.into(), level, detail: detail.into() });
    }

    fn judged(&mut self, what: impl Into<String>, result: Result<String, String>) {
        match result {
            Ok(detail) => self.row(Level::Info, what, detail),
            Err(detail) => self.row(Level::Error, what, detail),
        }
    }
}

/// Tries everything. Returns a row for each thing.
pub fn check(config: &Config, around: &Surroundings<'_>) -> Vec<Row> {
    let mut table = Table::default();
    file(config, &mut table);
    repository(config, around, &mut table);
    placeholders(config, &mut table);
    for component in &config.components {
        sources(component, &mut table);
        excludes(component, &mut table);
        commands(component, &mut table);
        own_disk(config, component, around, &mut table);
        own_repository(config, component, around, &mut table);
    }
    if let Ok(repository) = (around.open)() {
        mailboxes::look(config, around, &repository, &mut table);
    }
    notices(config, &mut table);
    if let Some(sync) = &config.sync {
        table.judged("sync", bucket(sync));
    }
    table.judged("logs", can_make(&config.log.directory));
    if let Some(socket) = config.log.syslog.socket() {
        match socket.exists() {
            true => table.row(Level::Info, "syslog", socket.display().to_string()),
            false => table.row(Level::Warning, "syslog", format!("{}: not there", socket.display())),
        }
    }
    if let Some(trial) = &around.trial {
        trial::try_all(config, trial, &mut table);
    }
    table.0
}

fn file(config: &Config, table: &mut Table) {
    let shown = config.path.display();
    let mode = fs::metadata(&config.path).map_or(0, |about| about.permissions().mode());
    match config.has_secrets() && mode & 0o077 != 0 {
        false => table.row(Level::Info, "configuration", shown.to_string()),
        true => {
            let detail = format!("{shown}: holds passwords and others may read it: chmod 600 {shown}");
            table.row(Level::Warning, "configuration", detail);
        }
    }
}

fn repository(config: &Config, around: &Surroundings<'_>, table: &mut Table) {
    let is_root = rustix::process::geteuid().is_root();
    match preflight::user(&config.run, is_root, around.user) {
        None => table.row(Level::Info, "user", around.user),
        Some(finding) => table.row(Level::Error, "user", finding.what),
    }
    if let Some(mount) = &config.repository.require_mount {
        match preflight::mount(&config.repository, around.location) {
            None => table.row(Level::Info, "mount", mount.get_ref().display().to_string()),
            Some(finding) => {
                table.row(Level::Error, "mount", finding.what);
                return; // what lies below is not what is meant
            }
        }
    }
    let opened = (around.open)();
    let judged =
        opened.as_ref().map_err(|e| e.chain()).and_then(|repository| match repository.is_enrolled() {
            true => {
                let differences = repository.sealed_to().map(|sealed_to| sealed_to.differences());
                for what in differences.unwrap_or_else(|e| vec![e.chain()]) {
                    table.row(Level::Error, "keys", what);
                }
                Ok(format!("{} ({})", around.location.display(), repository.id()))
            }
            false => Err(repository.not_enrolled().chain()),
        });
    table.judged("repository", judged);
    if let Ok(repository) = &opened {
        snapshots(config, around, repository, table);
    }
    table.judged("state", can_make(around.state));
    if config.repository.is_remote() {
        return;
    }
    let Ok(disk) = Disk::of(around.location) else { return };
    let findings = preflight::space(&config.repository, around.location, &disk);
    for finding in &findings {
        let level = if finding.level == Level::Critical { Level::Error } else { finding.level };
        table.row(level, "space", &finding.what);
    }
    if findings.is_empty() {
        table.row(Level::Info, "space", format!("{}% used", disk.used_percent()));
    }
}

/// Looks for what the shipped examples have in the place of what only the reader knows.
fn placeholders(config: &Config, table: &mut Table) {
    for component in &config.components {
        for (variable, _) in component.variables().filter(|(_, value)| value.contains(PASSWORD_PLACEHOLDER)) {
            let detail = format!("{variable} is still \"{PASSWORD_PLACEHOLDER}\": put the password there");
            table.row(Level::Error, component.name.get_ref(), detail);
        }
    }
    if let Some(sync) = config.sync.as_ref().filter(|sync| sync.store.contains(ACCOUNT_PLACEHOLDER)) {
        let detail = format!("{} is the example's bucket: name your own, or leave [sync] out", sync.store);
        table.row(Level::Error, "sync", detail);
    }
    let addresses = config.notify.from.iter().chain(&config.notify.to).map(toml::Spanned::get_ref);
    for address in addresses.filter(|address| address.trim_end_matches('>').ends_with("@example.com")) {
        table.row(Level::Warning, "notify", format!("{address} is the example's address: nobody reads it"));
    }
}

/// Warns of a source that lies on the repository's own disk: one broken disk takes both.
fn own_disk(config: &Config, component: &Component, around: &Surroundings<'_>, table: &mut Table) {
    if config.repository.is_remote() {
        return;
    }
    let device = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
    let Some(own) = device(around.location) else { return };
    let repository = real(around.location);
    for path in component.paths.iter().map(toml::Spanned::get_ref) {
        if device(path) == Some(own) && !real(path).starts_with(&repository) {
            let detail = format!(
                "{} lies on the disk of the repository: one broken disk takes both; keep a copy elsewhere ([sync], or snap clone)",
                path.display()
            );
            table.row(Level::Warning, component.name.get_ref(), detail);
        }
    }
}

/// Returns a path without links, or as it is where nothing is there.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Tells of a source that is the repository, lies in it, which fails every night, or contains it, which is left out.
fn own_repository(config: &Config, component: &Component, around: &Surroundings<'_>, table: &mut Table) {
    if config.repository.is_remote() {
        return;
    }
    let repository = real(around.location);
    for path in component.paths.iter().map(toml::Spanned::get_ref) {
        let source = real(path);
        let (level, detail) = match (source.starts_with(&repository), repository.starts_with(&source)) {
            (true, _) => {
                (Level::Error, "lies in the repository, which is never backed up into itself: name another")
            }
            (false, true) => (Level::Warning, "contains the repository, which is left out of the backup"),
            (false, false) => continue,
        };
        table.row(level, component.name.get_ref(), format!("{} {detail}", path.display()));
    }
}

/// Says which snapshots are this configuration's own.
fn snapshots(config: &Config, around: &Surroundings<'_>, repository: &Repository, table: &mut Table) {
    let all = match repository.snapshots() {
        Ok(snapshots) => snapshots.all,
        Err(error) => return table.row(Level::Error, "snapshots", error.chain()),
    };
    let configured = config.configured(around.host);
    let manifests = all.iter().map(|snapshot| &snapshot.manifest);
    let whose = Whose::of(manifests, Some(&configured), &TimeZone::system());
    let Some(own) = whose.own() else { return };
    let of_own = |at: &usize| whose.key(*at) == Some(&own.key);
    let count = (0..all.len()).filter(of_own).count();
    let nights = (0..all.len()).filter(of_own).filter(|at| whose.is_night(*at)).count();
    let older = match own.older {
        0 => String::new(),
        older => format!("; takes {} as its own", counted(older as u64, "older snapshot", "older snapshots")),
    };
    let others = whose.keys().iter().filter(|key| **key != own.key).map(ToString::to_string);
    let others: Vec<String> = others.collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!("; others here: {}", others.join(", ")),
    };
    table.row(
        Level::Info,
        "snapshots",
        format!("{count} of {}, {}{older}{others}", own.key, counted(nights as u64, "night", "nights")),
    );
    if let Some(what) = own.remark() {
        table.row(Level::Warning, "run.name", what);
    }
}

fn sources(component: &Component, table: &mut Table) {
    let name = component.name.get_ref();
    for path in component.paths.iter().map(toml::Spanned::get_ref) {
        let shown = path.display().to_string();
        let is_link = fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink());
        let about = fs::metadata(path).map_err(|e| match is_link {
            true => format!("{shown}: a link that leads nowhere: {e}"),
            false => format!("{shown}: {e}"),
        });
        if is_link && about.as_ref().is_ok_and(|about| !about.is_dir()) {
            let detail = format!("{shown}: the link is stored, not what it leads to: name that instead");
            table.row(Level::Warning, name, detail);
            continue;
        }
        let read = about.and_then(|about| {
            let read = match about.is_dir() {
                true => fs::read_dir(path).map(|_| ()),
                false if about.is_file() => fs::File::open(path).map(|_| ()),
                false => Ok(()), // a device is stored as what it is
            };
            read.map_err(|e| format!("{shown}: {e}"))
        });
        table.judged(name, read.map(|()| shown));
    }
}

/// Says what absolute patterns leave out: one with a slip in it leaves out nothing, or too much.
fn excludes(component: &Component, table: &mut Table) {
    let what = format!("{}: exclude", component.name.get_ref());
    let named: Vec<PathBuf> = component.paths.iter().map(|path| path.get_ref().clone()).collect();
    for pattern in component.exclude.iter().map(toml::Spanned::get_ref) {
        if is_comment(pattern) {
            let detail = format!("{pattern:?} is a comment, and matches nothing; write '\\{pattern}'");
            table.row(Level::Warning, &what, detail);
        }
        if !patterns::is_absolute(pattern) {
            continue;
        }
        let found = patterns::matches(pattern, &named);
        let shown =
            found.paths.iter().take(PATHS_SHOWN).map(|path| quoted(path.as_os_str().as_encoded_bytes()));
        let mut shown: Vec<String> = shown.collect();
        let more = found.paths.len().saturating_sub(PATHS_SHOWN);
        shown.extend((more > 0).then(|| format!("{more} more")));
        shown.extend(found.is_cut.then(|| "maybe more, which is not looked for".to_owned()));
        match shown.is_empty() {
            false => table.row(Level::Info, &what, format!("{pattern:?} matches {}", shown.join(", "))),
            true => table.row(Level::Warning, &what, format!("{pattern:?} matches nothing now")),
        }
    }
}

fn commands(component: &Component, table: &mut Table) {
    for (what, argv) in component.commands() {
        let what = format!("{}: {what}", component.name.get_ref());
        let program = argv.first().map_or("", String::as_str);
        table.judged(&what, find_program(program).map(|path| path.display().to_string()));
        if let Some(option) = argv.iter().find_map(|argument| telling_option(argument)) {
            let detail = format!(
                "{option} seems to hold a password, which everybody sees in ps: put it in 'environment', or in an option file"
            );
            table.row(Level::Warning, what, detail);
        }
    }
}

/// Returns the option of an argument that looks as if it held a password, without the password.
fn telling_option(argument: &str) -> Option<&'static str> {
    let options = [("--password=", "--password"), ("-p", "-p")];
    let holds =
        |(start, _): &(&str, &str)| argument.strip_prefix(start).is_some_and(|value| !value.is_empty());
    options.into_iter().find(holds).map(|(_, option)| option)
}

fn notices(config: &Config, table: &mut Table) {
    let notify = &config.notify;
    if !notify.has_mail() {
        table.row(Level::Warning, "notify", "nobody is told of failures: [notify] has no 'to'");
    } else if let Some(sendmail) = &notify.sendmail {
        let program = sendmail.get_ref().first().map_or("", String::as_str);
        table.judged("sendmail", find_program(program).map(|path| path.display().to_string()));
    } else if let Some(smtp) = &notify.smtp {
        let greeted = match greet(smtp.get_ref()) {
            Ok(true) => Ok("the server answers".to_owned()),
            Ok(false) => Err("the server does not answer as one for mail does".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        table.judged("smtp", greeted.map_err(|what| config.redactor().redact(&what)));
    }
    if let Some(path) = &notify.metrics_file {
        let folder = path.parent().unwrap_or(Path::new("."));
        let written = match path.is_relative() {
            true => Err(format!("{}: must begin with /: cron and timers start elsewhere", path.display())),
            false => can_write(folder).map(|()| path.display().to_string()),
        };
        table.judged("metrics", written);
    }
}

/// Returns where the copy lies, if what is configured of it makes sense; the bucket is not asked.
fn bucket(sync: &config::Sync) -> Result<String, String> {
    if !sync.store.starts_with(S3_SCHEME) {
        return Err(format!("store: \"{}\" is no s3://bucket/prefix", sync.store));
    }
    match sync.renew_below_days < sync.lock_days {
        true => Ok(sync.store.clone()),
        false => Err(format!(
            "renew_below_days, which is {}, must be less than lock_days, which is {}",
            sync.renew_below_days, sync.lock_days
        )),
    }
}

/// Returns where a program lies.
///
/// # Errors
/// That it lies nowhere.
fn find_program(program: &str) -> Result<PathBuf, String> {
    let is_there =
        |path: &Path| path.is_file() && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    if program.contains('/') {
        let path = PathBuf::from(program);
        return if is_there(&path) { Ok(path) } else { Err(format!("{program}: no program is there")) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|path| is_there(path));
    found.ok_or_else(|| format!("{program}: not found on PATH, which is {}", path.to_string_lossy()))
}

fn can_write(folder: &Path) -> Result<(), String> {
    accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|e| format!("{}: {}", folder.display(), std::io::Error::from(e)))
}

/// Returns whether a directory can be written to, or made.
fn can_make(directory: &Path) -> Result<String, String> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    can_write(there)?;
    Ok(match there == directory {
        true => directory.display().to_string(),
        false => format!("{} (will be made)", directory.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_among_arguments_is_seen() {
        assert_eq!(telling_option("--password=x"), Some("--password"));
        assert_eq!(telling_option("-phunter2=x"), Some("-p"), "and no part of it is shown");
        assert!(
            ["--password=", "-p", "--databases", "--port=1"].iter().all(|it| telling_option(it).is_none())
        );
    }

    #[test]
    fn programs_are_looked_up_as_they_are_run() {
        assert!(find_program("sh").is_ok() && find_program("/bin/sh").is_ok());
        assert!(find_program("no-such-program").is_err() && find_program("/etc/passwd").is_err());
    }
}
