//! `snap support`

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::base::redact::Redactor;
use crate::cli::args::{Global, Support};
use crate::cli::command::asking::ask;
use crate::cli::command::configured::redactor;
use crate::cli::exit::Exit;
use crate::cli::report::{Output, bytes};
use crate::cli::session::Session;
use crate::job::clock::{day, now};
use crate::job::config::Config;
use crate::job::support::{Around, Item, collect};
use crate::op::restore::Answer;
use crate::repo::RepoError;

fn fail(path: impl ToString, reason: impl ToString) -> RepoError {
    RepoError::Source { path: path.to_string(), reason: reason.to_string() }
}

/// Collects what somebody who helps needs, shows the list, and writes it if that is wanted.
///
/// # Errors
/// [`RepoError::Source`] if it is not wanted, or can't be written.
pub fn run(session: &Session, options: &Support) -> Result<Exit, RepoError> {
    let file = options
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("snap-support-{}.tar.gz", day(now()))));
    if file.symlink_metadata().is_ok() {
        return Err(fail(file.display(), "is there already; name another file with --output"));
    }
    let config = session.read_config();
    let known = config.as_ref().ok().copied().flatten();
    let around = Around {
        redactor: known.map_or_else(Redactor::default, redactor),
        config: config.map_err(|e| e.to_string()),
        program: std::env::current_exe().map_err(|e| fail("this program", e))?,
        options: same_repository(&session.global, known),
        state: session.state_directory()?,
        progress: &session.progress,
    };
    let items = collect(&around);
    if session.progress.is_cancelled() {
        return Err(RepoError::Interrupted);
    }
    show(session, &items, &file)?;
    let is_wanted = options.yes || ask(&session.progress, "Write it?") == Answer::Yes;
    if session.progress.is_cancelled() {
        return Err(RepoError::Interrupted);
    }
    if !is_wanted {
        return Err(fail(file.display(), "not written: say --yes, or answer y at a terminal"));
    }
    write(&items, &file).map_err(|e| fail(file.display(), e))?;
    let mut out = Output::new();
    match session.global.json {
        true => {
            out.line(json!({ "type": "summary", "file": file.display().to_string(), "files": items.len() }))?
        }
        false => out.line(format_args!("{} written; look into it before you hand it on", file.display()))?,
    }
    out.finish()?;
    Ok(Exit::Done)
}

/// Returns the options that lead another process of this program to the same repository.
fn same_repository(global: &Global, config: Option<&Config>) -> Vec<OsString> {
    let config = global.config.clone().or_else(|| config.map(|config| config.path.clone()));
    let named =
        [("--config", config), ("--repo", global.repo.clone()), ("--state-dir", global.state_dir.clone())];
    let named = named.into_iter().filter_map(|(option, path)| Some([OsString::from(option), path?.into()]));
    let mut options: Vec<OsString> = named.flatten().collect();
    options.push("--no-progress".into());
    options
}

fn show(session: &Session, items: &[Item], file: &Path) -> Result<(), RepoError> {
    let mut out = Output::new();
    if !session.global.json {
        out.line(format_args!(
            "{} will hold, without passwords and keys that are known or look like some:",
            file.display()
        ))?;
    }
    for item in items {
        let length = item.text.len() as u64;
        match session.global.json {
            true => out.line(json!({ "type": "file", "name": item.name, "bytes": length }))?,
            false => out.line(format_args!("  {:>10}  {}", bytes(length), item.name))?,
        }
    }
    if !session.global.json {
        out.line("Names of mailboxes and files may stand in logs. No mail and no key is in it.")?;
    }
    out.finish()
}

/// Writes the archive, readable by its owner alone; a file that is there is not replaced.
fn write(items: &[Item], file: &Path) -> std::io::Result<()> {
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(out, flate2::Compression::default()));
    let time = u64::try_from(now().seconds).unwrap_or(0);
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_size(item.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        archive.append_data(&mut header, Path::new("snap-support").join(&item.name), item.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}
