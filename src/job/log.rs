//! The logs of runs: a main log, one of errors alone, one in detail for each day; CRITICAL to syslog.
//!
//! One record, one line: `[2025-11-07 03:05:12] [INFO] [MAIL] 10.2 GB read, 41 MB added`.
//! Secrets and control characters never get into one.

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::civil::Date;

use crate::base::redact::Redactor;
use crate::base::text::one_line;
use crate::base::time::Time;
use crate::base::units::counted;
use crate::job::clock;
use crate::job::config::{self, Level};
use crate::store::give_to_owner_of_folder;

/// Lines of a run that are kept for notices and the manifest: so many of its beginning, and of its end.
const LINES_MAX: usize = 1000;

/// Name of the main log.
pub const MAIN: &str = "snap.log";

/// Name of the log of errors.
pub const ERRORS: &str = "snap-error.log";

/// Takes what a run has to say.
pub struct Log {
    redactor: Redactor,
    level: Level,
    /// Least level that is shown on standard error too; none if nothing is.
    echo: Option<Level>,
    syslog: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: Option<Files>,
    first: Vec<(Level, String)>,
    last: VecDeque<(Level, String)>,
    left_out: u64,
    worst: Option<Level>,
    /// Lines for standard error that are held back until it is known whether somebody was told; none if nothing is.
    held: Option<Vec<String>>,
    /// Why the files can't be written any more.
    broken: Option<String>,
}

impl State {
    /// Keeps a line; of a long run the middle goes.
    fn keep(&mut self, level: Level, line: String, is_news: bool) {
        self.worst = self.worst.max(Some(level).filter(|_| is_news));
        if self.first.len() < LINES_MAX {
            return self.first.push((level, line));
        }
        if self.last.len() == LINES_MAX {
            self.last.pop_front();
            self.left_out += 1;
        }
        self.last.push_back((level, line));
    }
}

struct Files {
    main: File,
    errors: File,
    day: File,
}

/// Returns the name of the log of a day: `snap-2025-11-07.log`.
pub fn day_name(time: Time) -> String {
    format!("snap-{}.log", clock::day(time))
}

impl Log {
    /// Opens the logs. Where that fails the log still takes lines, for standard error, syslog and
    /// notices; why is returned beside it.
    pub fn open(
        config: &config::Log,
        redactor: Redactor,
        echo: Option<Level>,
        now: Time,
    ) -> (Self, Option<String>) {
        let mut log = Self::without_files(config, redactor, echo);
        match Files::open(&config.directory, now) {
            Ok(files) => {
                log.state = Mutex::new(State { files: Some(files), ..State::default() });
                (log, None)
            }
            Err(failure) => (log, Some(failure)),
        }
    }

    /// Holds back what would go to standard error until [`Self::release`]: cron mails each line of it.
    pub fn hold(&self) {
        self.locked().held.get_or_insert_default();
    }

    /// Shows what was held back, or lets it go; from now on nothing is held back.
    pub fn release(&self, is_shown: bool) {
        for line in self.locked().held.take().into_iter().flatten().filter(|_| is_shown) {
            let _ = writeln!(io::stderr(), "{line}"); // nobody is left to tell
        }
    }

    /// Returns why the files can't be written any more; none if they can.
    pub fn broken(&self) -> Option<String> {
        self.locked().broken.clone()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a line on standard error, or holds it back; not more of them than a run keeps.
    fn show(&self, line: &str) {
        let mut state = self.locked();
        if let Some(held) = state.held.as_mut().filter(|held| held.len() < LINES_MAX) {
            return held.push(line.to_owned());
        }
        drop(state);
        self.release(true);
        let _ = writeln!(io::stderr(), "{line}"); // nobody is left to tell
    }

    /// Returns a log that takes lines for standard error, syslog and notices alone.
    pub fn without_files(config: &config::Log, redactor: Redactor, echo: Option<Level>) -> Self {
        let syslog = config.syslog.socket().map(Path::to_owned);
        Self { redactor, level: config.level, echo, syslog, state: Mutex::default() }
    }

    /// Takes an ERROR of which somebody was told lately: by itself it is no reason for another mail.
    pub fn error_again(&self, component: &str, text: impl Display) {
        self.take(Level::Error, component, text, false);
    }

    /// Takes one record of a component, whose name is shown in capitals.
    pub fn line(&self, level: Level, component: &str, text: impl Display) {
        self.take(level, component, text, true);
    }

    fn take(&self, level: Level, component: &str, text: impl Display, is_news: bool) {
        let text = plain(&self.redactor.redact(&text.to_string()));
        let stamp = clock::shown(clock::now());
        let component = plain(&component.to_uppercase());
        let line = format!("[{stamp}] [{}] [{component}] {text}", level.word());
        if self.echo.is_some_and(|echo| level >= echo) {
            self.show(&line);
        }
        if level == Level::Critical {
            self.to_syslog(&format!("[{component}] {text}"));
        }
        let mut state = self.locked();
        let written = state.files.as_mut().map_or(Ok(()), |files| files.write(level, self.level, &line));
        state.keep(level, line, is_news);
        if let Err(e) = written {
            state.files = None;
            // A disk that is full: what the run has to say is told by mail at least.
            let text = format!("[{stamp}] [ERROR] [MAIN] the logs cannot be written any more: {e}");
            let _ = writeln!(io::stderr(), "{text}");
            state.keep(Level::Error, text, true);
            state.broken = Some(e.to_string());
        }
    }

    /// Takes what helps to find out why.
    pub fn debug(&self, component: &str, text: impl Display) {
        self.line(Level::Debug, component, text);
    }

    /// Takes what was done.
    pub fn info(&self, component: &str, text: impl Display) {
        self.line(Level::Info, component, text);
    }

    /// Takes what should be looked at, some day.
    pub fn warning(&self, component: &str, text: impl Display) {
        self.line(Level::Warning, component, text);
    }

    /// Takes what is not backed up.
    pub fn error(&self, component: &str, text: impl Display) {
        self.line(Level::Error, component, text);
    }

    /// Takes why nothing is backed up.
    pub fn critical(&self, component: &str, text: impl Display) {
        self.line(Level::Critical, component, text);
    }

    /// Returns the worst level so far; what somebody was told of lately does not count.
    pub fn worst(&self) -> Level {
        self.locked().worst.unwrap_or(Level::Debug)
    }

    /// Returns the lines of this run of `least` level; of a long run those of its beginning and its end.
    pub fn lines(&self, least: Level) -> Vec<String> {
        let state = self.locked();
        let wanted = |lines: &mut dyn Iterator<Item = &(Level, String)>| {
            lines.filter(|(level, _)| *level >= least).map(|(_, line)| line.clone()).collect::<Vec<_>>()
        };
        let mut lines = wanted(&mut state.first.iter());
        lines.extend(
            (state.left_out > 0)
                .then(|| format!("({} left out here)", counted(state.left_out, "line", "lines"))),
        );
        lines.extend(wanted(&mut state.last.iter()));
        lines
    }

    /// Returns a text without secrets, of one line.
    pub fn clean(&self, text: &str) -> String {
        plain(&self.redactor.redact(text))
    }

    /// Returns a text of several lines without secrets.
    pub fn redact(&self, text: &str) -> String {
        self.redactor.redact(text)
    }

    fn to_syslog(&self, text: &str) {
        let Some(socket) = &self.syslog else { return };
        let formatter = syslog::Formatter3164 {
            facility: syslog::Facility::LOG_USER,
            hostname: None,
            process: "snap".to_owned(),
            pid: std::process::id(),
        };
        let sent = syslog::unix_custom(formatter, socket).and_then(|mut logger| logger.crit(text));
        if let Err(e) = sent
            && self.echo.is_some()
        {
            let _ = writeln!(io::stderr(), "snap: syslog at {}: {e}", socket.display());
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.release(true); // it ended before anybody was told
    }
}

impl Files {
    fn open(directory: &Path, now: Time) -> Result<Self, String> {
        let failed = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| failed(directory, e))?;
        let open = |name: &str| {
            let path = directory.join(name);
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
            let file =
                file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file));
            let file = file.inspect(|file| give_to_owner_of_folder(&path, file));
            file.map_err(|e| failed(&path, e))
        };
        Ok(Self { main: open(MAIN)?, errors: open(ERRORS)?, day: open(&day_name(now))? })
    }

    fn write(&mut self, level: Level, least: Level, line: &str) -> io::Result<()> {
        let line = format!("{line}\n"); // one write each: lines of two runs do not mix
        if level >= least {
            self.main.write_all(line.as_bytes())?;
        }
        if level >= Level::Error {
            self.errors.write_all(line.as_bytes())?;
        }
        self.day.write_all(line.as_bytes())
    }
}

/// Removes logs of single days that are older than they are kept, but as many of the newest as there are days for which
/// they are kept: a night whose clock is years ahead costs the oldest one. Returns how many went.
///
/// # Errors
/// As reading the directory and removing a file.
pub fn remove_old(config: &config::Log, now: Time) -> io::Result<u64> {
    let kept_days = i64::try_from(config.keep.seconds() / 86_400).unwrap_or(i64::MAX);
    let today = clock::local(now).date();
    let mut logs: Vec<(Date, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&config.directory)? {
        let entry = entry?;
        let day = entry.file_name().to_str().and_then(day_of);
        logs.extend(day.filter(|day| *day < today).map(|day| (day, entry.path())));
    }
    logs.sort_unstable_by(|one, other| other.cmp(one)); // the newest first
    let age = |day: Date| today.since(day).map_or(0, |age| i64::from(age.get_days()));
    let is_old = |day: Date| age(day) > kept_days;
    let newest = usize::try_from(kept_days).unwrap_or(usize::MAX);
    let mut removed = 0;
    for (_, path) in logs.into_iter().skip(newest).filter(|(day, _)| is_old(*day)) {
        fs::remove_file(path)?;
        removed += 1;
    }
    Ok(removed)
}

/// Returns the day whose log has this name.
fn day_of(name: &str) -> Option<Date> {
    name.strip_prefix("snap-")?.strip_suffix(".log")?.parse().ok()
}

/// Returns a text without control characters: one record stays one line, whatever a file is called.
fn plain(text: &str) -> String {
    one_line(text.trim_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, level: Level) -> config::Log {
        config::Log {
            directory: directory.to_owned(),
            level,
            syslog: config::Syslog::Switch(false),
            ..config::Log::default()
        }
    }

    fn read(directory: &Path, name: &str) -> String {
        fs::read_to_string(directory.join(name)).expect("log reads")
    }

    #[test]
    fn each_level_goes_where_it_belongs() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let directory = folder.path().join("log");
        let mut redactor = Redactor::default();
        redactor.add("hunter2");
        let now = clock::now();
        let (log, failure) = Log::open(&config(&directory, Level::Info), redactor, None, now);
        assert_eq!(failure, None);
        log.debug("main", "why");
        log.info("mail", "10.2 GB read, 41 MB added");
        log.error("mysql", "hunter2 was\nrefused");
        let main = read(&directory, MAIN);
        let lines: Vec<&str> = main.lines().collect();
        assert!(lines[0].ends_with("] [INFO] [MAIL] 10.2 GB read, 41 MB added"), "{main}");
        assert!(lines[0].starts_with("[20") && lines[0].as_bytes()[20] == b']', "{main}");
        assert!(lines[1].ends_with("[ERROR] [MYSQL] *** was\\nrefused"), "{main}");
        assert_eq!(read(&directory, ERRORS).lines().collect::<Vec<_>>(), &lines[1..]);
        assert_eq!(read(&directory, &day_name(now)).lines().count(), 3);
        for name in [MAIN, ERRORS, &day_name(now)] {
            let mode = fs::metadata(directory.join(name)).expect("is there").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!((log.worst(), log.lines(Level::Error).len()), (Level::Error, 1));
    }

    /// Makes a log of each of so many days before `today`, from `from` days ago on; returns their names.
    fn days(folder: &Path, today: Date, from: i64, count: i64) -> Vec<String> {
        let day = |ago: i64| today.checked_sub(jiff::Span::new().days(ago)).expect("is a day");
        let names: Vec<String> = (from..from + count).map(|ago| format!("snap-{}.log", day(ago))).collect();
        names.iter().for_each(|name| drop(File::create(folder.join(name)).expect("file is made")));
        names
    }

    #[test]
    fn logs_of_days_long_past_go_and_nothing_else() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let now = Time::new(1_762_516_800, 0); // noon of 2025-11-07, UTC
        let day = clock::local(now).date();
        assert_eq!(day.to_string(), "2025-11-07");
        let mut config = config(folder.path(), Level::Info);
        config.keep = config::Span(std::time::Duration::from_secs(89 * 86_400));
        let logs = days(folder.path(), day, 0, 92);
        let others = ["snap-2031-01-01.log", MAIN, ERRORS, "snap-2025-99-01.log", "other.log"];
        others.iter().for_each(|name| drop(File::create(folder.path().join(name)).expect("file is made")));
        assert_eq!(remove_old(&config, now).expect("removes"), 2);
        assert!(logs[90..].iter().all(|name| !folder.path().join(name).exists()));
        let stays = |name: &str| folder.path().join(name).exists();
        assert!(logs[..90].iter().all(|name| stays(name)) && others.iter().all(|name| stays(name)));
    }

    #[test]
    fn nights_of_a_clock_that_is_years_ahead_cost_the_oldest_logs_one_each() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let now = Time::new(1_762_516_800, 0);
        let config = config(folder.path(), Level::Info);
        let logs = days(folder.path(), clock::local(now).date(), 0, 90);
        let ahead = |nights: i64| Time::new(now.seconds + (3650 + nights) * 86_400, 0);
        days(folder.path(), clock::local(ahead(0)).date(), 0, 1);
        assert_eq!(remove_old(&config, ahead(0)).expect("removes"), 0);
        days(folder.path(), clock::local(ahead(1)).date(), 0, 1);
        assert_eq!(remove_old(&config, ahead(1)).expect("removes"), 1);
        assert!(logs[..89].iter().all(|name| folder.path().join(name).exists()));
        assert_eq!(remove_old(&config, now).expect("removes"), 0, "and when it is right again");
    }

    #[test]
    fn what_is_held_back_goes_when_somebody_was_told() {
        let log =
            Log::without_files(&config(Path::new("/"), Level::Info), Redactor::default(), Some(Level::Error));
        log.hold();
        log.error("mysql", "failed");
        log.info("main", "is not shown");
        assert_eq!(log.locked().held.as_ref().map(Vec::len), Some(1));
        log.release(false);
        assert!(log.locked().held.is_none());
    }

    #[test]
    fn a_long_run_keeps_its_beginning_and_its_end() {
        let log = Log::without_files(&config(Path::new("/"), Level::Info), Redactor::default(), None);
        for number in 0..=2 * LINES_MAX {
            log.debug("main", format!("line {number}."));
        }
        log.error("mysql", "failed");
        let lines = log.lines(Level::Debug);
        assert!(lines[0].ends_with("line 0.") && lines[LINES_MAX - 1].ends_with("line 999."));
        assert_eq!(lines[LINES_MAX], "(2 lines left out here)");
        assert!(lines[LINES_MAX + 1].ends_with("line 1002.") && lines[2 * LINES_MAX].ends_with("failed"));
        assert_eq!(lines.len(), 2 * LINES_MAX + 1);
    }

    #[test]
    fn logs_that_cannot_be_written_any_more_are_an_error_of_the_run() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (log, _) =
            Log::open(&config(folder.path(), Level::Info), Redactor::default(), None, clock::now());
        let full = || OpenOptions::new().append(true).open("/dev/full").expect("opens");
        log.state.lock().expect("nobody failed").files =
            Some(Files { main: full(), errors: full(), day: full() });
        log.info("main", "all is well");
        assert_eq!(log.worst(), Level::Error);
        assert!(log.lines(Level::Error)[0].contains("cannot be written any more"));
        assert!(log.broken().is_some());
    }

    #[test]
    fn a_log_that_cannot_be_opened_says_where() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let taken = folder.path().join("taken");
        File::create(&taken).expect("file is made");
        let (log, failure) = Log::open(&config(&taken, Level::Info), Redactor::default(), None, clock::now());
        assert!(failure.expect("fails").contains("taken"));
        log.error("main", "still heard");
        assert_eq!(log.lines(Level::Error).len(), 1);
    }
}
