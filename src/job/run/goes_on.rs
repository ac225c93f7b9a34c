//! What goes on from night to night: components that are suspect, a retention that can't be carried out, nights that
//! were missed. Told by mail at once, then every week.

use crate::base::time::Time;
use crate::job::clock::{self, shown};
use crate::job::config::Retention;
use crate::job::missed::{Missed, missed};
use crate::job::notice::Failing;
use crate::job::run::Night;
use crate::job::told::{Told, is_three_nights};
use crate::op::backup::{Finding, Report, Suspected};
use crate::repo::whose::{RunKey, Whose};
use crate::repo::{Repository, Snapshot};

/// What the retention that can't be carried out is called.
pub const RETENTION: &str = "retention";

/// Returns what a suspicion is called: the same as long as the same kind of thing speaks against a component.
fn called(suspect: &Suspected) -> String {
    let kinds = suspect.findings.iter().map(|finding| match finding {
        Finding::Nothing { .. } => "nothing",
        Finding::Less { .. } => "less",
        Finding::Rewritten(_) => "rewritten",
        Finding::Stream { .. } => "stream",
    });
    let mut kinds: Vec<&str> = kinds.collect();
    kinds.dedup();
    format!("{}{}", prefix(&suspect.component), kinds.join("+"))
}

fn prefix(component: &str) -> String {
    format!("suspect {component}: ")
}

/// Returns what a retention is told from another by.
fn rules(retention: &Retention) -> String {
    format!("daily {:?} weekly {:?}", retention.daily, retention.weekly)
}

impl Night<'_> {
    /// Reads what goes on in the runs of `key`, and looks whether nights were missed.
    pub fn recall(&self, repository: &Repository, snapshots: &[Snapshot], whose: &Whose, key: &RunKey) {
        self.told.replace(Some(Told::read(&self.order.state, repository.id(), key)));
        let max_age = self.order.config.notify.max_age;
        let is_now = self.order.time.seconds.abs_diff(self.began.seconds) < 86_400; // else --time says another night
        if let Some(missed) = missed(snapshots, whose, key, max_age, self.began).filter(|_| is_now) {
            let what = said(&missed, self.began);
            self.log.warning("MAIN", &what);
            let _ = self.missed.set(what);
        }
    }

    /// Says which components are suspect, and which have been accepted.
    pub fn tell_suspects(&self, report: &Report) {
        let now = self.began;
        let mut told = self.told.borrow_mut();
        let open = || report.suspects.iter().filter(|suspect| !suspect.is_accepted);
        if let Some(told) = told.as_mut() {
            let still: Vec<String> = open().map(called).collect();
            let is_read = |what: &str| report.parts.iter().any(|part| what.starts_with(&prefix(&part.name)));
            told.end(|what| is_read(what) && !still.iter().any(|called| called == what));
        }
        for suspect in &report.suspects {
            let (name, called) = (suspect.component.as_str(), called(suspect));
            let (last, at) = (suspect.last_whole, shown(suspect.last_whole_time));
            if suspect.is_accepted {
                let lines = suspect.lines().join("; ");
                self.log.info(name, format!("accepted as it is, against snapshot {last} of {at}: {lines}"));
                continue;
            }
            let is_due = told.as_mut().is_none_or(|told| {
                told.goes_on(&called, now);
                told.is_due(&called, now)
            });
            let say = |line: String| match is_due {
                true => self.log.error(name, line),
                false => self.log.error_again(name, line),
            };
            suspect.lines().into_iter().for_each(|line| say(format!("suspect: {line}")));
            say(format!(
                "suspect: the last whole snapshot is {last} of {at}, and stays; if it is right so: snap tag {} --accept {name}",
                report.snapshot.map_or_else(|| "latest".to_owned(), |id| id.to_string())
            ));
            self.due.borrow_mut().push(called);
        }
    }

    /// Returns whether this retention was carried out before.
    pub fn is_usual(&self) -> bool {
        let rules = rules(&self.order.config.retention);
        self.told.borrow().as_ref().is_some_and(|told| told.is_usual(&rules))
    }

    /// Notes that old snapshots were removed.
    pub fn retained(&self) {
        if let Some(told) = self.told.borrow_mut().as_mut() {
            told.end(|what| what == RETENTION);
            told.carried_out(&rules(&self.order.config.retention));
        }
    }

    /// Says that old snapshots can't be removed; by mail if that has been so for three nights.
    pub fn not_retained(&self, why: &str) {
        let now = self.began;
        let mut told = self.told.borrow_mut();
        let since = told.as_mut().map_or(now, |told| told.goes_on(RETENTION, now));
        let is_due = told.as_ref().is_some_and(|told| told.is_due(RETENTION, now));
        let what = match is_three_nights(since, now) {
            true => format!("old snapshots have not been removed since {}: {why}", shown(since)),
            false => format!("old snapshots are not removed: {why}"),
        };
        self.log.warning("PRUNE", &what);
        if is_three_nights(since, now) && is_due {
            let _ = self.unretained.set(what);
        }
    }

    /// Returns what to say if nights were missed while another run holds the lock: it may hang.
    pub fn missed_while_locked(&self) -> Option<String> {
        let repository = (self.order.open)().ok()?;
        let snapshots = repository.snapshots().ok()?.all;
        let configured = self.configured();
        let whose = self.whose(&snapshots, &configured);
        let max_age = self.order.config.notify.max_age;
        let missed = missed(&snapshots, &whose, &whose.own()?.key, max_age, self.began)?;
        Some(format!("{}, and another run is still under way", said(&missed, self.began)))
    }

    /// Sends the mails about missed nights and old snapshots, and remembers who was told of what. `is_told` says
    /// whether a mail about the run was sent.
    pub fn tell_what_goes_on(&self, is_told: bool) {
        if let Some(what) = self.missed.get() {
            self.verb("Nights Were Missed", Failing::Missed, what);
        }
        let is_retention_told = self
            .unretained
            .get()
            .is_some_and(|what| self.verb("Old Snapshots Are Not Removed", Failing::Retention, what));
        let mut told = self.told.borrow_mut();
        let Some(told) = told.as_mut() else { return };
        if is_told {
            self.due.borrow().iter().for_each(|called| told.told(called, self.began));
        }
        if is_retention_told {
            told.told(RETENTION, self.began);
        }
        if let Err(e) = told.write() {
            let what = "what was mailed cannot be remembered, and will be mailed again";
            self.log.warning("NOTIFY", format!("{what}: {e}"));
        }
    }
}

/// Returns what is said of missed nights.
fn said(missed: &Missed, now: Time) -> String {
    let days = now.seconds.saturating_sub(missed.last.seconds) / 86_400;
    let whole = missed.last_whole.map_or_else(|| "there is none".to_owned(), shown);
    format!(
        "no backup was made for {days} days: the last night was {}, the last whole night was {whole}",
        clock::shown(missed.last)
    )
}
