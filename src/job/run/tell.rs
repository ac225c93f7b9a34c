//! The end of a run: the last log lines, mails, numbers, the watched URL.

use crate::job::clock;
use crate::job::config::{Level, On};
use crate::job::log;
use crate::job::metrics;
use crate::job::notice::{self, Facts, Failing, Mail};
use crate::job::ping::{self, Signal};
use crate::job::run::Night;
use crate::job::run::stop::{Ending, Stop};
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
            return ending; // the run that is under way tells everybody
        }
        let _ = self.look_at_disk(false);
        self.notify(&result, ending);
        self.write_metrics(ending);
        let signal = if ending == Ending::Done { Signal::Success } else { Signal::Fail };
        self.ping(signal, &words);
        ending
    }

    fn notify(&self, result: &Result<bool, Stop>, ending: Ending) {
        let config = self.order.config;
        let is_bad = self.log.worst() >= Level::Error;
        let failures = self.listener.failures();
        let stop = result.as_ref().err();
        let facts = self.facts(stop, ending, &failures);
        if is_bad {
            self.send(&notice::failure(&facts));
        } else if config.notify.on == On::Always && ending == Ending::Done {
            self.send(&notice::success(&facts));
        }
        let is_told = is_bad && facts.failing == Failing::Space;
        if let (Some(disk), false) = (self.capacity.get(), is_told) {
            self.send(&notice::capacity(&facts, disk, config.repository.warn_used_percent));
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
            failing: stop.map_or(Failing::Component, |stop| stop.failing),
            snapshot: report.and_then(|report| report.snapshot).map(|id| id.to_string()),
            parts: report.map_or(&[], |report| report.parts.as_slice()),
            failures,
            disk: self.disk(),
            mount: mount.unwrap_or(&self.order.location).to_str().unwrap_or("(its name is not text)"),
            snapshots: self.snapshots(),
            log: self.log.lines(least),
            log_file: config.log.directory.join(log::day_name(self.began)).display().to_string(),
        }
    }

    fn snapshots(&self) -> Option<u64> {
        let listed = self.repository.get()?.store().list(Folder::Snapshots).ok()?;
        Some(listed.iter().filter(|found| found.name.is_some()).count() as u64)
    }

    fn send(&self, mail: &Mail) {
        notice::tell(&self.order.config.notify, mail, self.log);
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
