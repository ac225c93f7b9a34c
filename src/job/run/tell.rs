//! The end of a run: the last log lines, mails, numbers, the watched URL.

use std::path::Path;

use crate::job::clock;
use crate::job::config::{Level, On};
use crate::job::lock::HolderNotice;
use crate::job::log;
use crate::job::metrics;
use crate::job::notice::{self, Facts, Failing, KeptOfTag, Mail};
use crate::job::ping::{self, Signal};
use crate::job::run::Night;
use crate::job::run::stop::{Ending, Stop};
use crate::op::backup::Report;
use crate::repo::Repository;
use crate::store::Folder;

impl Night<'_> {
    /// Ends the run: the last log lines, mails, numbers, the call.
    pub fn end(&self, result: Result<bool, Stop>) -> Ending {
        let ending = match &result {
            Ok(true) => Ending::Done,
            Ok(false) => Ending::Partial,
            Err(stop) => stop.ending,
        };
        if let Err(stop) = &result {
            self.log.line(stop.level, stop.component, &stop.what);
            if stop.level < self.order.echo {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "snap: {}", self.log.clean(&stop.what));
            }
        }
        let seconds = self.started.elapsed().as_secs();
        let words = format!("{}: {} in {}", self.order.command, ending.words(), clock::length(seconds));
        self.log.info("MAIN", format!("{words}, exit status {}", ending.status()));
        if ending == Ending::Locked && self.log.worst() < Level::Error {
            // The run that is under way tells everybody, unless it never ends.
            let Some(what) = self.missed_while_locked() else { return ending };
            self.log.error("MAIN", what);
        }
        let _ = self.look_at_disk(false);
        let is_told = self.notify(&result, ending);
        self.tell_what_goes_on(is_told);
        self.write_metrics(ending);
        let signal = if ending == Ending::Done { Signal::Success } else { Signal::Fail };
        self.ping(signal, &words);
        ending
    }

    /// Sends the mails about the run. Returns whether one was sent that says what failed, or is suspect.
    fn notify(&self, result: &Result<bool, Stop>, ending: Ending) -> bool {
        let config = self.order.config;
        let is_always = config.notify.on == On::Always;
        let is_bad = self.log.worst() >= Level::Error || (is_always && ending == Ending::Partial);
        let mut is_sent = false;
        let failures = self.listener.failures();
        let stop = result.as_ref().err();
        let facts = self.facts(stop, ending, &failures);
        if is_bad {
            is_sent = self.send(&notice::failure(&facts));
        } else if is_always && ending == Ending::Done {
            self.send(&notice::success(&facts));
        }
        let is_told = is_bad && facts.failing == Failing::Space;
        if let (Some(disk), false) = (self.capacity.get(), is_told) {
            let limit = config.repository.warn_used_percent;
            self.send(&notice::capacity(&facts, disk, limit, &self.kept_by_tag()));
        }
        is_sent
    }

    /// Mails that another run is still under way, once for each such run: it may hang, and then no run tells
    /// anybody anything. `lock` is where it holds the lock, `holder` how it describes itself.
    pub fn tell_of_holder(&self, lock: &Path, holder: &str) {
        let Some(mut told) = HolderNotice::claim(lock, holder) else { return };
        let mail = notice::still_running(&self.facts(None, Ending::Locked, &[]), holder);
        if self.send(&mail)
            && let Err(e) = told.note(holder)
        {
            self.log.warning("NOTIFY", format!("the next run mails this again: {}: {e}", lock.display()));
        }
    }

    /// Sends a mail about what goes on beside the backup. Returns whether it was sent.
    pub fn verb(&self, title: &str, failing: Failing, what: &str) -> bool {
        let facts = Facts { failing, ..self.facts(None, Ending::Done, &[]) };
        let status = self.report.get().map_or("no backup was made", |_| "a backup was made");
        self.send(&notice::verb(title, &Facts { status, ..facts }, &[what.to_owned()]))
    }

    fn facts<'f>(
        &'f self,
        stop: Option<&'f Stop>,
        ending: Ending,
        failures: &'f [notice::Failure],
    ) -> Facts<'f> {
        let config = self.order.config;
        let report = self.report.get();
        let mount = config.repository.require_mount.as_ref().map(toml::Spanned::get_ref);
        let least =
            if stop.is_some_and(|stop| stop.level >= Level::Error) { Level::Debug } else { config.log.level };
        Facts {
            name: config.notify.name(),
            host: &self.order.host,
            repository: self.order.location.to_str().unwrap_or("(its name is not text)"),
            command: &self.order.command,
            began: self.began,
            seconds: self.started.elapsed().as_secs(),
            status: ending.words(),
            fatal: stop.map_or("", |stop| stop.what.as_str()),
            failing: match (stop, report.map(|report| report.lacks.is_empty() && !report.is_whole())) {
                (Some(stop), _) => stop.failing,
                (None, Some(true)) => Failing::Suspect,
                (None, _) => self.failing(),
            },
            key_errors: report.map(Report::key_errors).unwrap_or_default(),
            snapshot: report.and_then(|report| report.snapshot).map(|id| id.to_string()),
            parts: report.map_or(&[], |report| report.parts.as_slice()),
            failures,
            suspects: report.map_or(&[], |report| report.suspects.as_slice()),
            disk: self.disk(),
            mount: mount.unwrap_or(&self.order.location).to_str().unwrap_or("(its name is not text)"),
            snapshots: self.snapshots(),
            log: self.log.lines(least),
            log_file: config.log.directory.join(log::day_name(self.began)).display().to_string(),
        }
    }

    /// Returns what kind of trouble a run had that came to its end.
    fn failing(&self) -> Failing {
        let is_keys =
            self.report.get().is_some_and(|report| report.is_whole() && !report.key_errors().is_empty());
        if is_keys { Failing::Keys } else { Failing::Component }
    }

    fn snapshots(&self) -> Option<u64> {
        let listed = self.repository.get()?.store().list(Folder::Snapshots).ok()?;
        Some(listed.iter().filter(|found| found.name.is_some()).count() as u64)
    }

    /// Returns how many snapshots there are of each tag that retention speaks of, and what they hold.
    fn kept_by_tag(&self) -> Vec<KeptOfTag> {
        let Some(Ok(snapshots)) = self.repository.get().map(Repository::snapshots) else { return Vec::new() };
        let rows = ["daily", "weekly"].map(|tag| {
            let mut row = KeptOfTag { tag: tag.to_owned(), ..KeptOfTag::default() };
            for snapshot in &snapshots.all {
                let manifest = &snapshot.manifest;
                if manifest.tags.iter().any(|own| own == tag) {
                    row.count += 1;
                    row.newest_bytes = manifest.components.iter().map(|component| component.bytes).sum();
                    row.stored_bytes = row.stored_bytes.saturating_add(manifest.totals.bytes_stored);
                }
            }
            row
        });
        rows.into_iter().filter(|row| row.count > 0).collect()
    }

    fn send(&self, mail: &Mail) -> bool {
        notice::tell(&self.order.config.notify, mail, self.log)
    }

    /// Calls the watched URL; that it can't be called is logged, and changes nothing else.
    pub fn ping(&self, signal: Signal, words: &str) {
        let Some(url) = &self.order.config.notify.ping_url else { return };
        if let Err(e) = ping::call(url.get_ref(), signal, &self.log.clean(words)) {
            self.log.warning("NOTIFY", format!("the ping URL cannot be called: {e}"));
        }
    }

    fn write_metrics(&self, ending: Ending) {
        let Some(path) = &self.order.config.notify.metrics_file else { return };
        let report = self.report.get();
        let sizes = self.repository.get().map(|repository| {
            let listed = Folder::ALL.iter().map(|folder| repository.store().list(*folder));
            listed.flatten().flatten().map(|found| found.bytes).sum::<u64>()
        });
        let numbers = metrics::Numbers {
            ended: clock::now(),
            seconds: self.started.elapsed().as_secs_f64(),
            exit: ending.status(),
            is_verified: self.is_verified.get(),
            is_success: ending == Ending::Done && self.order.only.is_empty(),
            parts: report.map_or(&[], |report| report.parts.as_slice()),
            suspects: report.map_or_else(Vec::new, |report| {
                let open = report.suspects.iter().filter(|suspect| !suspect.is_accepted);
                open.map(|suspect| suspect.component.as_str()).collect()
            }),
            bytes_stored: report.map_or(0, |report| report.bytes_stored),
            errors: report.map_or(0, |report| report.lacks.len() as u64),
            repository_bytes: sizes,
            snapshots: self.snapshots(),
            disk: self.disk(),
        };
        if let Err(e) = metrics::write(path, &numbers) {
            self.log.warning("NOTIFY", format!("{} cannot be written: {e}", path.display()));
        }
    }
}
