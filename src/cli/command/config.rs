//! `snap config`

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cli::args::Config as Options;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, counted};
use crate::cli::s3::{connect, s3_options};
use crate::cli::session::{Session, user_name};
use crate::job::check::{Row, Surroundings, Trial, check};
use crate::job::config::{Config, Level};
use crate::repo::RepoError;
use crate::store::{Folder, Store};

/// Looks at the configuration.
///
/// # Errors
/// [`RepoError::Source`] if it can't be read.
pub fn run(session: &Session, options: &Options) -> Result<Exit, RepoError> {
    let Options::Check { run: is_run } = options;
    let config = session.needed_config()?;
    let other = config.run.user.as_deref().filter(|user| *user != user_name());
    let other = other.filter(|_| *is_run && rustix::process::geteuid().is_root());
    let trial = Trial { progress: &session.progress, bucket: &|| bucket(session, config) };
    let mut rows = check(
        config,
        &Surroundings {
            location: session.location()?,
            state: &session.state_directory()?,
            user: &user_name(),
            host: &session.host(),
            open: &|| session.open(),
            trial: Some(trial).filter(|_| *is_run && other.is_none()),
        },
    );
    if let Some(user) = other {
        rows.extend(as_user(config, user));
    }
    show(session, &rows)?;
    let is_bad = rows.iter().any(|row| row.level >= Level::Error);
    Ok(if is_bad { Exit::Partial } else { Exit::Done })
}

/// Lists the bucket's key files with the configured credentials.
fn bucket(session: &Session, config: &Config) -> Result<String, RepoError> {
    let Some(sync) = &config.sync else { return Ok(String::new()) };
    let store = connect(Path::new(&sync.store), s3_options(session, Some(sync)))?;
    let keys = store.list(Folder::Keys)?.len();
    Ok(match keys {
        0 => format!("{}: reached; nothing is there yet", sync.store),
        _ => format!("{}: reached; {}", sync.store, counted(keys as u64, "key file", "key files")),
    })
}

/// Tries everything as the user that the nightly run has, by a process of that user.
fn as_user(config: &Config, user: &str) -> Vec<Row> {
    let what = |what: &str| format!("as {user}: {what}");
    let failed = |detail: String| vec![Row { what: what("trial"), level: Level::Error, detail }];
    let Ok(Some(account)) = nix::unistd::User::from_name(user) else {
        return failed("there is no such user; [run] names it".to_owned());
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => return failed(format!("this program cannot be found: {e}")),
    };
    // runuser(1) sets user, group and further groups, and leaves the environment.
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(program).arg("--config").arg(&config.path);
    command.args(["--json", "config", "check", "--run"]);
    command.env("HOME", &account.dir).env("USER", user).env("LOGNAME", user);
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) => return failed(format!("runuser cannot be started: {e}")),
    };
    let mut rows = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(row) = serde_json::from_str::<Value>(line) else { continue };
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        if row["type"] == "check" {
            let level = level(&text("state"));
            rows.push(Row { what: what(&text("what")), level, detail: text("detail") });
        }
    }
    if rows.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("it said nothing");
        return failed(format!("{}: {said}", output.status));
    }
    rows
}

/// Says how a row is.
fn word(level: Level) -> &'static str {
    match level {
        Level::Debug | Level::Info => "ok",
        Level::Warning => "WARNING",
        Level::Error | Level::Critical => "ERROR",
    }
}

/// Returns the level that a word of [`word`] stands for.
fn level(word: &str) -> Level {
    match word {
        "ok" => Level::Info,
        "WARNING" => Level::Warning,
        _ => Level::Error,
    }
}

fn show(session: &Session, rows: &[Row]) -> Result<(), RepoError> {
    let mut out = Output::new();
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    for row in rows {
        let is_well = row.level <= Level::Info;
        match (session.global.json, session.global.quiet && is_well) {
            (true, _) => {
                out.line(
                    json!({ "type": "check", "what": row.what, "state": word(row.level), "detail": row.detail }),
                )?;
            }
            (false, true) => {}
            (false, false) => {
                out.line(format_args!("{:<7}  {:<width$}  {}", word(row.level), row.what, row.detail))?
            }
        }
    }
    let errors = rows.iter().filter(|row| row.level >= Level::Error).count();
    let warnings = rows.iter().filter(|row| row.level == Level::Warning).count();
    if session.global.json {
        out.line(json!({ "type": "summary", "checks": rows.len(), "errors": errors, "warnings": warnings }))?;
    }
    out.finish()
}
