//! What every command needs: the repository, secrets, clock, time zone, signals.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use signal_hook::iterator::Signals;

use crate::base::id::SnapshotId;
use crate::base::progress::Progress;
use crate::base::time::Time;
use crate::cli::args::Global;
use crate::cli::s3::{copy_at, index_of, is_s3, store_at};
use crate::cli::secrets::CliSecrets;
use crate::cli::signals::stop_signals;
use crate::job::clock::zone_problem;
use crate::job::config::{Config, ConfigError, DEFAULT_PATH, Level};
use crate::job::preflight;
use crate::repo::browse::newest_with;
use crate::repo::index::{Index, remove_cache};
use crate::repo::reader::Reader;
use crate::repo::select::{name_length, zoned};
use crate::repo::{Opening, RepoError, Repository, Snapshot, Snapshots};
use crate::store::{Folder, Lock, LockMode, Name, Store, StoreError, dead_link};

/// Manifests that can't be read and are named; the others are counted.
const UNREADABLE_TOLD: usize = 10;

/// Memory for frames that commands which look inside keep, in bytes.
const FRAME_CACHE_BYTES: usize = 32 << 20;

/// One run of the program.
pub struct Session {
    /// Options of every command.
    pub global: Global,
    /// Passphrase and identities.
    pub secrets: CliSecrets,
    /// Turned by the command; cancelled by a signal.
    pub progress: Arc<Progress>,
    config: OnceCell<Result<Option<Config>, ConfigError>>,
}

impl Session {
    /// Begins a run.
    pub fn new(global: Global) -> Self {
        let progress = Arc::new(Progress::default());
        let secrets = CliSecrets::new(&global, progress.clone());
        Self { global, secrets, progress, config: OnceCell::new() }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP ask the command to stop; a second SIGINT or SIGTERM ends it at
    /// once, which harms nothing either.
    pub fn heed_signals(&self) {
        watch_signals(self.progress.clone());
    }

    /// Returns the configuration; none if none was named and there is none where it usually lies.
    /// It is read when it is first asked for.
    ///
    /// # Errors
    /// [`RepoError::Source`] if it can't be used.
    pub fn config(&self) -> Result<Option<&Config>, RepoError> {
        let unusable = |e: &ConfigError| RepoError::Source { path: e.place.clone(), reason: e.what.clone() };
        self.read_config().map_err(unusable)
    }

    /// As [`Self::config`], with an error that says which file it is.
    ///
    /// # Errors
    /// [`ConfigError`] if it can't be used.
    pub fn read_config(&self) -> Result<Option<&Config>, &ConfigError> {
        let read = self.config.get_or_init(|| {
            let path = self.global.config.clone();
            let path = path.or_else(|| Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists()));
            let config = path.map(|path| Config::read(&path)).transpose()?;
            config.map(with_log_level).transpose()
        });
        read.as_ref().map(Option::as_ref)
    }

    /// Returns the configuration, which must be there.
    ///
    /// # Errors
    /// As [`Self::config`]; [`RepoError::Source`] if there is none.
    pub fn needed_config(&self) -> Result<&Config, RepoError> {
        let reason = format!("there is no {DEFAULT_PATH}; name another with --config FILE or SNAP_CONFIG");
        self.config()?.ok_or(RepoError::Source { path: "no configuration".to_owned(), reason })
    }

    /// Returns the configuration if it speaks of the repository that is meant.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn own_config(&self) -> Result<Option<&Config>, RepoError> {
        match &self.global.repo {
            None => self.config(),
            // Who names a repository needs no configuration: one that can't be read is in nobody's way.
            Some(repo) => {
                let config = self.config().ok().flatten();
                Ok(config.filter(|config| config.repository.path.get_ref() == repo))
            }
        }
    }

    /// Returns the name of this machine in snapshots: the configured one, else its own.
    pub fn host(&self) -> String {
        let config = self.own_config().ok().flatten();
        config.and_then(|config| config.run.host.clone()).unwrap_or_else(host_name)
    }

    /// Returns where the repository lies, a directory or `s3://bucket/prefix`: the one that was named, else the configured one.
    ///
    /// # Errors
    /// [`RepoError::Source`] if none was named, or as [`Self::config`].
    pub fn location(&self) -> Result<&Path, RepoError> {
        let reason = "name it with --repo PATH or SNAP_REPOSITORY, or in the configuration".to_owned();
        let missing = RepoError::Source { path: "no repository".to_owned(), reason };
        match &self.global.repo {
            Some(path) => Ok(path.as_path()),
            None => Ok(self.config()?.ok_or(missing)?.repository.path.get_ref().as_path()),
        }
    }

    /// Returns the repository's files.
    ///
    /// # Errors
    /// As [`Self::location`] and [`store_at`]; [`RepoError::Source`] if its disk must be mounted and is not.
    pub fn store(&self) -> Result<Arc<dyn Store>, RepoError> {
        let location = self.location()?;
        if let Some(config) = self.own_config()?
            && let Some(finding) = preflight::mount(&config.repository, location)
        {
            return Err(RepoError::Source { path: location.display().to_string(), reason: finding.what });
        }
        let options = self.global.s3.options();
        match self.global.s3.s3_genuine {
            true => copy_at(location, options),
            false => store_at(location, options),
        }
    }

    /// Calls `act` with what opens the repository.
    ///
    /// # Errors
    /// As [`Self::location`], or what `act` returns.
    pub fn with_opening<R>(
        &self,
        act: impl FnOnce(&Opening<'_>) -> Result<R, RepoError>,
    ) -> Result<R, RepoError> {
        if let Some(what) = zone_problem() {
            return Err(RepoError::Refused { what });
        }
        let state = self.state_directory()?;
        let configured = match &self.global.index {
            Some(index) => Some(index.clone()),
            None => self.own_config()?.and_then(|config| config.repository.index.clone()),
        };
        let store = self.store()?;
        let index = configured.or_else(|| {
            let location = self.location().ok()?;
            let index = index_of(store.as_ref(), location, &state)?;
            // Where it can't be made nothing is kept, and fragments are read each time.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(index.parent()?);
            let _ = remove_cache(&location.join("index.redb")); // where it once lay, in sight of a thief
            Some(index)
        });
        act(&Opening { store, state: &state, index, secrets: &self.secrets })
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open(&self) -> Result<Repository, RepoError> {
        self.with_opening(Repository::open).map_err(|error| self.with_copy(error))
    }

    /// Returns an error that says where a copy of the repository is which is not there; another error as it is.
    fn with_copy(&self, error: RepoError) -> RepoError {
        let is_plain = self.location().is_ok_and(is_s3) && !self.global.s3.s3_genuine;
        let is_covered =
            || self.store().and_then(|store| Ok(store.covered(None)?)).is_ok_and(|all| !all.is_empty());
        let may_be_covered = match &error {
            RepoError::Distrusted { .. } | RepoError::Config { .. } | RepoError::NoWriterSecret { .. } => {
                true
            }
            RepoError::NotThere { .. } => is_plain && is_covered(),
            _ => false,
        };
        if is_plain && may_be_covered {
            tracing::warn!(
                "if somebody has put or deleted something in the bucket on top of what is there, --s3-genuine reads what lies below"
            );
        }
        let RepoError::NotThere { location } = &error else { return error };
        let config = self.own_config().ok().flatten();
        let Some(sync) = config.and_then(|config| config.sync.as_ref()) else { return error };
        let profile = sync.profile.as_deref().and_then(|profile| profile.strip_suffix("-uploader"));
        let whose = profile.map_or_else(
            || "the administrator's credentials".to_owned(),
            |name| format!("the administrator's credentials (--s3-profile {name}-admin)"),
        );
        RepoError::Source {
            path: location.clone(),
            reason: format!(
                "no repository here; if it was lost, 'snap clone {}' with {whose} brings it back; if there never was one, 'snap init' makes it, and --repo names another",
                sync.store
            ),
        }
    }

    /// Takes the repository's lock beside others. Waits a while for who has it alone: a sweep is short.
    ///
    /// # Errors
    /// As [`Repository::lock_patiently`].
    pub fn lock(&self, repository: &Repository) -> Result<Box<dyn Lock>, RepoError> {
        repository.lock_patiently(LockMode::Shared, self.global.lock_wait, &self.progress)
    }

    /// As [`Self::lock`], for who only reads. On S3 a lock is an object that whoever may put can put, again and again: once
    /// patience is at its end what is there is read without one, and that is said.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn lock_to_read(&self, repository: &Repository) -> Result<Option<Box<dyn Lock>>, RepoError> {
        match self.lock(repository) {
            Err(RepoError::Store(StoreError::Locked { path })) if self.location().is_ok_and(is_s3) => {
                tracing::warn!(
                    "{path}: another run has the repository to itself, or somebody has put that there: it is read all the same, and what is removed meanwhile is told as missing"
                );
                Ok(None)
            }
            locked => locked.map(Some),
        }
    }

    /// Opens what reads the repository.
    ///
    /// # Errors
    /// As [`Index::open_to_read`].
    pub fn reader<'r>(&self, repository: &'r Repository) -> Result<Reader<'r>, RepoError> {
        self.reader_keeping(repository, FRAME_CACHE_BYTES)
    }

    /// Opens what reads the repository, and keeps up to `cache_bytes` of frames.
    ///
    /// # Errors
    /// As [`Index::open_to_read`].
    pub fn reader_keeping<'r>(
        &self,
        repository: &'r Repository,
        cache_bytes: usize,
    ) -> Result<Reader<'r>, RepoError> {
        let index = Index::open_to_read(repository)?;
        for (path, problem) in index.problems() {
            tracing::warn!("{path}: {problem}; 'snap check' says more");
        }
        Ok(Reader::new(repository, index, cache_bytes))
    }

    /// Returns all snapshots; says which could not be read, and how many somebody has deleted in a bucket.
    ///
    /// # Errors
    /// [`RepoError::Store`].
    pub fn snapshots(&self, repository: &Repository) -> Result<Vec<Snapshot>, RepoError> {
        let snapshots = repository.snapshots_to_read()?;
        for (path, error) in snapshots.unreadable.iter().take(UNREADABLE_TOLD) {
            tracing::warn!("{path}: {error}; 'snap check' says more");
        }
        if let Some(more) = snapshots.unreadable.len().checked_sub(UNREADABLE_TOLD).filter(|more| *more > 0) {
            tracing::warn!("{more} more files under snapshots/ can't be read; 'snap check' names them");
        }
        self.tell_covered(repository, &snapshots);
        Ok(snapshots.all)
    }

    /// Says how many snapshots somebody has deleted in a bucket that keeps them, without a note that they were removed. Who
    /// may not list versions is told nothing.
    fn tell_covered(&self, repository: &Repository, snapshots: &Snapshots) {
        let covered = repository.store().covered(Some(Folder::Snapshots)).unwrap_or_default();
        if covered.is_empty() {
            return;
        }
        let notes = repository.forgotten().unwrap_or_default();
        let rows = notes.rows();
        let replaced: BTreeSet<SnapshotId> =
            snapshots.all.iter().filter_map(|snapshot| snapshot.manifest.replaces).collect();
        let is_lost = |name: &&Name| matches!(name, Name::Snapshot(id) if !rows.contains_key(id) && !replaced.contains(id));
        let lost = covered.iter().filter(is_lost).count();
        if lost > 0 {
            tracing::warn!(
                "snapshots/: {lost} files were deleted in the bucket, which keeps them, and nothing notes that they were removed: what is shown may be an older state; --s3-genuine shows all"
            );
        }
    }

    /// Returns an error that says where a path is which the snapshot does not have; another error as it is.
    pub fn with_elsewhere(
        &self,
        error: RepoError,
        reader: &Reader<'_>,
        snapshot: &Snapshot,
        path: &[u8],
    ) -> RepoError {
        let RepoError::NoPath { path: shown, snapshot: id, .. } = error else { return error };
        let all = reader.repository().snapshots().map(|snapshots| snapshots.all).unwrap_or_default();
        let elsewhere = match newest_with(reader, &all, snapshot, path) {
            Some(newest) => {
                let at = zoned(newest.manifest.time, &TimeZone::system()).strftime("%Y-%m-%d %H:%M");
                format!("; the newest that has it is {} of {at}", newest.id)
            }
            None => "; none of the newest ones has it".to_owned(),
        };
        RepoError::NoPath { path: shown, snapshot: id, elsewhere }
    }

    /// Returns the number of threads to use: for a repository on S3 at least as many as requests may
    /// be under way, as they mostly wait.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let requests = usize::from(self.global.s3.s3_connections);
        let wanted = if self.location().is_ok_and(is_s3) { cores.max(requests) } else { cores };
        self.global.threads.map_or(wanted, usize::from)
    }

    /// Returns where this machine keeps its writer secret.
    ///
    /// # Errors
    /// [`RepoError::Source`] if that is not known, or a link on the way leads to nothing; or as [`Self::config`].
    pub fn state_directory(&self) -> Result<PathBuf, RepoError> {
        let state = self.state_place()?;
        match dead_link(&state) {
            Some(reason) => Err(RepoError::Source { path: "state directory".to_owned(), reason }),
            None => Ok(state),
        }
    }

    fn state_place(&self) -> Result<PathBuf, RepoError> {
        if let Some(directory) = &self.global.state_dir {
            return Ok(directory.clone());
        }
        if let Some(directory) = self.own_config()?.and_then(|config| config.repository.state_dir.clone()) {
            return Ok(directory);
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/snap"));
        }
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let reason = "name one with --state-dir DIR or SNAP_STATE_DIR".to_owned();
        absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|state| state.join("snap"))
            .ok_or(RepoError::Source { path: "no state directory".to_owned(), reason })
    }
}

/// Splits `SNAP:PATH`.
///
/// # Errors
/// [`RepoError::NoSnapshot`] if the snapshot's name is not text.
pub fn split_place(place: &std::ffi::OsStr) -> Result<(String, Vec<u8>), RepoError> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = place.as_bytes();
    let (spec, path) = bytes.split_at(name_length(bytes));
    let path = path.strip_prefix(b":").unwrap_or(path);
    let spec = std::str::from_utf8(spec).map_err(|_| RepoError::NoSnapshot {
        spec: place.to_string_lossy().into_owned(),
        what: "is not text".to_owned(),
    })?;
    Ok((spec.to_owned(), path.to_vec()))
}

/// Reads a time such as `2026-01-05T03:00`, `2026-01-05`, or RFC 3339.
///
/// # Errors
/// [`RepoError::Source`] if it is none.
pub fn parse_time(text: &str) -> Result<Time, RepoError> {
    let zone = TimeZone::system();
    let zoned = text.parse::<jiff::Zoned>().ok().map(|zoned| zoned.timestamp()); // 2026-01-05T03:00[Asia/Tokyo]
    let timestamp = zoned.or_else(|| text.parse::<jiff::Timestamp>().ok());
    let civil = || text.parse::<jiff::civil::DateTime>().ok().and_then(|at| at.to_zoned(zone).ok());
    let timestamp = timestamp.or_else(|| civil().map(|zoned| zoned.timestamp()));
    let reason = "is not a time such as 2026-01-05T03:00 or 2026-01-05T03:00:00+09:00".to_owned();
    let timestamp = timestamp.ok_or(RepoError::Source { path: format!("time {text:?}"), reason })?;
    Ok(Time::new(timestamp.as_second(), u32::try_from(timestamp.subsec_nanosecond()).unwrap_or(0)))
}

/// Variable that says the level of the main log, whatever the configuration says.
const LOG_LEVEL: &str = "SNAP_LOG_LEVEL";

/// Lets the environment say the level of the main log.
fn with_log_level(mut config: Config) -> Result<Config, ConfigError> {
    let said = std::env::var(LOG_LEVEL).unwrap_or_default();
    if !said.is_empty() {
        config.log.level = Level::from_word(&said).ok_or_else(|| {
            let what = format!("{said:?} is none of debug, info, warning, error, critical");
            ConfigError::at(&config.path, "", None, LOG_LEVEL, &what)
        })?;
    }
    Ok(config)
}

fn watch_signals(progress: Arc<Progress>) {
    use signal_hook::consts::SIGHUP;
    let (sender, receiver) = std::sync::mpsc::channel::<Signals>();
    let begun = std::thread::Builder::new().spawn(move || {
        let Ok(mut signals) = receiver.recv() else { return };
        for signal in &mut signals {
            // A terminal that is closed sends SIGHUP more than once.
            if progress.is_cancelled() && signal != SIGHUP {
                crate::cli::report::release(true); // nobody else will
                std::process::exit(130);
            }
            progress.cancel();
        }
    });
    // Where there can be no thread to hear them, signals end the program as they always do.
    if let (Ok(_), Ok(signals)) = (begun, stop_signals()) {
        let _ = sender.send(signals);
    }
}

/// Returns what was typed, to be typed again: without the options that say only how much is shown.
pub fn typed() -> String {
    again(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()))
}

fn again(words: impl Iterator<Item = String>) -> String {
    let is_show = |word: &str| {
        let is_short = word.len() > 1 && word[1..].bytes().all(|letter| matches!(letter, b'q' | b'v'));
        matches!(word, "--json" | "--quiet" | "--verbose" | "--no-progress")
            || word.starts_with('-') && is_short
    };
    let words = words.filter(|word| !is_show(word));
    let quoted =
        words.map(|word| shlex::try_quote(&word).map_or_else(|_| word.clone(), |it| it.into_owned()));
    std::iter::once("snap".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Returns the name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns the name of who runs this.
pub fn user_name() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_can_be_typed_again() {
        let again = |line: &str| again(line.split('|').map(str::to_owned));
        assert_eq!(again("backup|-q|--daily|--json|-vv|--no-progress"), "snap backup --daily");
        assert_eq!(
            again("--config|/etc/my snap.toml|backup|--component|it's|-r|/mnt/x"),
            "snap --config '/etc/my snap.toml' backup --component \"it's\" -r /mnt/x"
        );
    }
}
