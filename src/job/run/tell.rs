//! The end of a run: the last log lines, mails, numbers, the watched URL.

use std::path::Path;

use crate::job::ages;
use crate::job::clock;
use crate::job::config::{Level, On};
use crate::job::lock::HolderNotice;
use crate::job::log::{self, Log};
use crate::job::metrics;
use crate::job::notice::{self, Cause, Facts, Failing, KeptOfTag, Mail};
use crate::job::ping::{self, Signal};
use crate::job::run::Night;
use crate::job::run::stop::{Ending, Stop};
use crate::op::backup::Report;
use crate::repo::Repository;
use crate::store::Folder;

impl Night<'_> {
    /// Ends the run: the last log lines, mails, numbers, the call.
    pub fn end(&self, result: Result<bool, Stop>) -> Ending {
        let ending = self.ending(&result);
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
        let ending = self.ending(&result); // that line may have been one too many for the disk of the logs
        let _ = self.look_at_disk(false);
        self.notify(&result, ending);
        self.write_metrics(ending, matches!(result, Ok(true)));
        let signal = if ending == Ending::Done { Signal::Success } else { Signal::Fail };
        self.ping(signal, &words);
        ending
    }

    /// Returns how the run ends. A run whose log could not be written to its end is not all done.
    fn ending(&self, result: &Result<bool, Stop>) -> Ending {
        match result {
            Ok(true) if self.log.broken().is_none() => Ending::Done,
            Ok(_) => Ending::Partial,
            Err(stop) => stop.ending,
        }
    }

    /// Sends the one mail about the run and what was found beside it, if there is anything to say, and remembers of what
    /// somebody was told. What nobody took is shown on standard error.
    fn notify(&self, result: &Result<bool, Stop>, ending: Ending) {
        let notify = &self.order.config.notify;
        let is_always = notify.on == On::Always;
        let failures = self.listener.failures();
        let own = self.facts(result.as_ref().err(), ending, &failures);
        let is_bad = |log: &Log| log.worst() >= Level::Error || (is_always && ending == Ending::Partial);
        let found = self.found(ending, is_bad(self.log) && own.failing == Failing::Space);
        let causes: Vec<Cause> = found.iter().map(|found| found.cause.clone()).collect();
        let is_bad = is_bad(self.log);
        let facts = Facts { causes: &causes, has_failed: is_bad, ..own };
        let mail = match (causes.as_slice(), self.capacity.get()) {
            _ if is_bad => notice::failure(&facts),
            ([cause], Some(disk)) if cause.failing == Failing::Capacity => {
                let limit = self.order.config.repository.warn_used_percent;
                notice::capacity(&facts, disk, limit, &self.kept_by_tag())
            }
            ([_, ..], _) => {
                let status = self.report.get().map_or("no backup was made", |_| "a backup was made");
                notice::found(&Facts { status, ..facts })
            }
            ([], _) if is_always && ending == Ending::Done && notify.has_mail() => notice::success(&facts),
            ([], _) => {
                self.log.release(!notify.has_mail());
                return self.remember(false, &[]);
            }
        };
        let is_sent = self.send(&mail);
        self.log.release(!is_sent);
        if !is_sent && self.order.echo > Level::Warning {
            notice::show(&mail, self.log);
        }
        self.remember(is_sent && is_bad, if is_sent { &found } else { &[] });
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
            suspects: report.map_or_else(Vec::new, |report| report.open_suspects().collect()),
            disk: self.disk(),
            mount: mount.unwrap_or(&self.order.location).to_str().unwrap_or("(its name is not text)"),
            snapshots: self.snapshots(),
            has_failed: true,
            causes: &[],
            log: self.log.lines(least),
            log_file: config.log.directory.join(log::day_name(self.began)).display().to_string(),
        }
    }

    /// Returns what kind of trouble a run had that came to its end.
    fn failing(&self) -> Failing {
        let whole = self.report.get().filter(|report| report.is_whole());
        match whole.map(|report| report.key_errors().is_empty()) {
            Some(true) if self.log.broken().is_some() => Failing::Log,
            Some(false) => Failing::Keys,
            _ => Failing::Component,
        }
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

    fn write_metrics(&self, ending: Ending, is_whole: bool) {
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
            is_success: is_whole && self.order.only.is_empty(),
            parts: report.map_or(&[], |report| report.parts.as_slice()),
            suspects: report.map_or_else(Vec::new, |report| {
                report.open_suspects().map(|suspect| suspect.component.as_str()).collect()
            }),
            bytes_stored: report.map_or(0, |report| report.bytes_stored),
            errors: report.map_or(0, |report| report.lacks.len() as u64),
            repository_bytes: sizes,
            snapshots: self.snapshots(),
            disk: self.disk(),
            lasts: ages::lasts(self.order.config, &self.order.state, &self.order.host),
        };
        if let Err(e) = metrics::write(path, &self.order.state, &numbers) {
            self.log.warning("NOTIFY", format!("{} cannot be written: {e}", path.display()));
        }
    }
}
