//! What only a trial tells: dumps are run, files are looked at one by one, the bucket is listed. What
//! comes of it is thrown away. `before` and `after` are not run: they change things.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::base::progress::Progress;
use crate::base::units::{counted, number, show_bytes};
use crate::job::check::Table;
use crate::job::clock::length;
use crate::job::config::{Component, Config, Level};
use crate::op::backup::{Excludes, Input, Place, Stream};
use crate::repo::RepoError;
use crate::stage::command::Command;

/// Files that can't be read that are named, for each component.
const NAMED_MAX: usize = 5;

/// Time that an answer about a container may take.
const ASKING_MAX: Duration = Duration::from_secs(30);

/// Options of `docker exec` that are followed by a value.
const EXEC_OPTIONS_WITH_VALUE: &[&str] =
    &["-e", "--env", "--env-file", "-u", "--user", "-w", "--workdir", "--detach-keys"];

/// What a trial needs besides the configuration.
pub struct Trial<'t> {
    /// Progress counters and the cancellation flag.
    pub progress: &'t Progress,
    /// Lists the bucket with the configured credentials. Returns what was seen.
    pub bucket: &'t dyn Fn() -> Result<String, RepoError>,
}

/// Tries all of it; a row for each thing.
pub fn try_all(config: &Config, trial: &Trial<'_>, table: &mut Table) {
    for component in &config.components {
        let name = component.name.get_ref();
        for path in component.paths.iter().map(|path| path.get_ref().as_path()) {
            if path.is_dir() {
                table.judged(format!("{name}: all files"), readable(component, path, trial.progress));
            }
        }
        for stream in component.to_backup(&config.run).streams {
            let what = format!("{name}: {} tried", String::from_utf8_lossy(&stream.name));
            table.judged(what, dump(stream, trial.progress));
        }
    }
    if config.sync.is_some() {
        let listed = (trial.bucket)().map_err(|e| config.redactor().redact(&e.chain()));
        table.judged("sync: bucket listed", listed);
    }
    if trial.progress.is_cancelled() {
        table.row(Level::Error, "interrupted", "not everything was tried");
    }
}

/// Runs a dump to its end. Returns how long it took and what it gave.
fn dump(mut stream: Stream, progress: &Progress) -> Result<String, String> {
    if let Input::Command(command) = &stream.input
        && let Some((program, container)) = container(&command.argv)
    {
        running(&program, &container, progress)?;
    }
    let started = Instant::now();
    let bytes = stream.try_out(progress).map_err(|failure| {
        let said = failure.complaint.lines().rev().find(|line| !line.trim().is_empty());
        match said.filter(|said| !failure.reason.contains(said.trim())) {
            Some(said) => format!("{}: {}", failure.reason, said.trim()),
            None => failure.reason,
        }
    })?;
    Ok(format!("{} in {}", show_bytes(bytes), length(started.elapsed().as_secs())))
}

/// Returns the program and the container of a `docker exec`, or podman's.
fn container(argv: &[OsString]) -> Option<(OsString, String)> {
    let (program, rest) = argv.split_first()?;
    let base = Path::new(program).file_name()?.to_str()?;
    let words: Vec<&str> = rest.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    if !matches!(base, "docker" | "podman") || words.first() != Some(&"exec") {
        return None;
    }
    let mut words = words.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word {
            option if EXEC_OPTIONS_WITH_VALUE.contains(&option) => drop(words.next()),
            option if option.starts_with('-') => {}
            container => return Some((program.clone(), container.to_owned())),
        }
    }
    None
}

/// Asks whether a container runs.
fn running(program: &OsString, container: &str, progress: &Progress) -> Result<(), String> {
    let words = ["inspect", "--format", "{{.State.Running}}", container].map(OsString::from);
    let argv = std::iter::once(program.clone()).chain(words).collect();
    let command = Command { argv, timeout: Some(ASKING_MAX), ..Command::default() };
    let shown = program.to_string_lossy();
    let asked = command.start(progress).map_err(|e| e.to_string()).and_then(|mut running| {
        let mut answer = String::new();
        let read = running.by_ref().take(1024).read_to_string(&mut answer).map_err(|e| e.to_string());
        read.and_then(|_| running.finish().map_err(|e| e.to_string()).map(|()| answer))
    });
    match asked.as_deref().map(str::trim) {
        Ok("true") => Ok(()),
        Ok(_) => Err(format!("container {container} does not run: {shown} start {container}")),
        Err(e) => Err(format!("container {container}: {e}; '{shown} ps -a' lists what there is")),
    }
}

/// Looks whether every file and directory below `path` may be read, but for what is left out.
fn readable(component: &Component, path: &Path, progress: &Progress) -> Result<String, String> {
    let patterns: Vec<String> = component.exclude.iter().map(|pattern| pattern.get_ref().clone()).collect();
    let excludes = Excludes::new(&patterns, None).map_err(|e| e.to_string())?;
    let root = match (component.paths.len() + component.streams.len(), path.file_name()) {
        (2.., Some(name)) => Place::default().below(name.as_bytes()),
        _ => Place::default(),
    };
    let root = excludes.named(root, path);
    let mut look = Look { excludes: &excludes, progress, files: 0, refused: 0, named: Vec::new() };
    look.below(path, root);
    if look.refused == 0 {
        return Ok(format!("{}: {} can be read", path.display(), counted(look.files, "file", "files")));
    }
    let more = look.refused.saturating_sub(look.named.len() as u64);
    let more = if more > 0 { format!("; and {} more", number(more)) } else { String::new() };
    Err(format!("cannot be read: {}{more}", look.named.join("; ")))
}

struct Look<'l> {
    excludes: &'l Excludes,
    progress: &'l Progress,
    files: u64,
    refused: u64,
    named: Vec<String>,
}

impl Look<'_> {
    fn refuse(&mut self, path: &Path, error: impl std::fmt::Display) {
        self.refused += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{}: {error}", path.display()));
        }
    }

    /// Looks at what is in a directory, which is at `place` in the component.
    fn below(&mut self, directory: &Path, place: Place) {
        let mut waiting = vec![(directory.to_owned(), place)];
        while let Some((directory, place)) = waiting.pop() {
            if self.progress.is_cancelled() {
                return;
            }
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(e) => {
                    self.refuse(&directory, e);
                    continue;
                }
            };
            for entry in entries.filter_map(Result::ok) {
                let Ok(kind) = entry.file_type() else { continue };
                let (path, name) = (entry.path(), entry.file_name());
                if self.excludes.leaves_out(&place, name.as_bytes(), kind.is_dir()) {
                    continue;
                }
                if kind.is_dir() {
                    waiting.push((path, place.below(name.as_bytes())));
                } else if kind.is_file() {
                    self.files += 1;
                    match accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS) {
                        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                        Err(e) => self.refuse(&path, std::io::Error::from(e)),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_is_found_behind_its_options() {
        let of = |line: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            container(&argv).map(|(_, container)| container)
        };
        assert_eq!(
            of("docker exec -e MYSQL_PWD mailserver-mariadb mariadb-dump").as_deref(),
            Some("mailserver-mariadb")
        );
        assert_eq!(of("/usr/bin/podman exec -it --user=root --env A=b db sh -c x").as_deref(), Some("db"));
        assert_eq!(of("docker exec -e MYSQL_PWD"), None);
        assert_eq!(of("mariadb-dump exec db"), None);
        assert_eq!(of("docker compose exec db"), None);
    }
}
