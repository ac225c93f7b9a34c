//! What goes on from night to night: components that are suspect, a retention that can't be carried out, nights that
//! were missed, what is overdue beside the backup, a disk that fills up. Told by mail at once, then every week.

use crate::base::time::Time;
use crate::job::ages::{self, Overdue};
use crate::job::clock::{self, shown};
use crate::job::config::Retention;
use crate::job::last::{Last, LastRun, Subject, Success};
use crate::job::missed::{Missed, missed};
use crate::job::notice::{Cause, Failing};
use crate::job::run::Night;
use crate::job::run::stop::Ending;
use crate::job::told::{Told, is_three_nights};
use crate::op::backup::{Finding, Report, Suspected};
use crate::repo::whose::{RunKey, Whose};
use crate::repo::{Repository, Snapshot};

/// What the retention that can't be carried out is called.
pub const RETENTION: &str = "retention";

/// How it is called that the disk is nearly full, before how many percent.
const CAPACITY: &str = "capacity ";

/// Percent by which a disk fills up before that is told again within the week.
const CAPACITY_STEP: u64 = 5;

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
pub fn rules(retention: &Retention) -> String {
    format!("daily {:?} weekly {:?}", retention.daily, retention.weekly)
}

impl Night<'_> {
    /// Reads what goes on in the runs of `key`, and looks whether nights were missed.
    pub fn recall(&self, repository: &Repository, snapshots: &[Snapshot], whose: &Whose, key: &RunKey) {
        self.told.replace(Some(Told::read(&self.order.state, repository.id(), key)));
        let _ = self.key.set(key.clone());
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
        if let Some(told) = told.as_mut() {
            let still: Vec<String> = report.open_suspects().map(called).collect();
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
        self.remember_retention(true);
    }

    /// Says that old snapshots can't be removed; by mail if that has been so for three nights.
    pub fn not_retained(&self, why: &str) {
        let now = self.began;
        self.remember_retention(false);
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

    /// Returns what was found besides the backup and is to be told now. `is_space_told` says whether the mail about the
    /// run says that the disk is full.
    pub fn found(&self, ending: Ending, is_space_told: bool) -> Vec<Found> {
        let missed =
            self.missed.get().map(|what| Found::new("Nights Were Missed", Failing::Missed, what, &[]));
        let retention = self.unretained.get().map(|what| {
            Found::new("Old Snapshots Are Not Removed", Failing::Retention, what, &[RETENTION.to_owned()])
        });
        let mut found: Vec<Found> = missed.into_iter().chain(retention).collect();
        if ending != Ending::Interrupted {
            found.extend(self.ages());
        }
        found.extend(self.capacity().filter(|_| !is_space_told));
        found
    }

    /// Returns what has not succeeded for too long beside the backup.
    fn ages(&self) -> Vec<Found> {
        let order = self.order;
        if order.location.as_path() != order.config.repository.path.get_ref() {
            return Vec::new(); // another repository was named on the command line
        }
        let ages = ages::look(order.config, &order.state, &order.host, self.began);
        for what in ages.overdue.iter().map(Overdue::line).chain(ages.troubles.iter().cloned()) {
            self.log.warning("MAIN", what);
        }
        // Whoever looked meanwhile may have told of it.
        let fresh = self.repository.get().zip(self.key.get());
        let fresh = fresh.map(|(repository, key)| Told::read(&order.state, repository.id(), key));
        let mut told = self.told.borrow_mut();
        let is_due = |called: &str, told: &mut Told| {
            told.goes_on(called, self.began);
            told.is_due(called, self.began)
                && fresh.as_ref().is_none_or(|fresh| fresh.is_due(called, self.began))
        };
        let mut found = Vec::new();
        if let Some(told) = told.as_mut() {
            let is_still = |what: &str| ages.overdue.iter().any(|overdue| overdue.called() == what);
            told.end(|what| what.starts_with(ages::PREFIX) && !is_still(what));
        }
        for overdue in &ages.overdue {
            // That it fails is told for itself.
            let is_told_so = matches!(overdue.subject, Subject::Retention { .. })
                && told.as_ref().is_some_and(|told| told.since(RETENTION).is_some());
            let called = overdue.called();
            if !is_told_so && told.as_mut().is_none_or(|told| is_due(&called, told)) {
                found.push(Found { cause: overdue.cause(), called: vec![called] });
            }
        }
        let trouble = |what: &String| Found::new("State Cannot Be Written", Failing::Other, what, &[]);
        found.extend(ages.troubles.iter().map(trouble));
        found
    }

    /// Returns that the disk is nearly full, if that is to be told: each week, and at each further step.
    fn capacity(&self) -> Option<Found> {
        let limit = u64::from(self.order.config.repository.warn_used_percent);
        let mut told = self.told.borrow_mut();
        let Some(disk) = self.capacity.get() else {
            // A disk that is not there is not known to have room.
            if let (Some(told), true) = (told.as_mut(), self.disk().is_some()) {
                told.end(|what| what.starts_with(CAPACITY));
            }
            return None;
        };
        let percent = disk.used_percent();
        let steps = (limit / CAPACITY_STEP..=percent / CAPACITY_STEP).map(|step| step * CAPACITY_STEP);
        let called: Vec<String> = steps.map(|step| format!("{CAPACITY}{step}")).collect();
        let is_due = told.as_mut().zip(called.last()).is_none_or(|(told, last)| {
            told.goes_on(last, self.began);
            told.is_due(last, self.began)
        });
        let what = format!(
            "the backup disk at {} is {percent}% full; the limit is {limit}%",
            self.order.location.display()
        );
        is_due.then(|| Found::new("Disk Is Nearly Full", Failing::Capacity, &what, &called))
    }

    /// Remembers who was told: of the run if `is_run_told`, and of what was `found` beside it.
    pub fn remember(&self, is_run_told: bool, found: &[Found]) {
        let mut told = self.told.borrow_mut();
        let Some(told) = told.as_mut() else { return };
        if is_run_told {
            self.due.borrow().iter().for_each(|called| told.told(called, self.began));
        }
        for called in found.iter().flat_map(|found| &found.called) {
            told.told(called, self.began);
        }
        if let Err(e) = told.write() {
            let what = "what was mailed cannot be remembered, and will be mailed again";
            self.log.warning("NOTIFY", format!("{what}: {e}"));
        }
    }

    /// Remembers how the retention ended.
    fn remember_retention(&self, is_carried_out: bool) {
        let order = self.order;
        let now = clock::now();
        let run = LastRun {
            ended: now.seconds,
            exit: u8::from(!is_carried_out),
            seconds: now.seconds.saturating_sub(self.retention_began.get().seconds) as f64,
        };
        let mut last =
            Last::read(&order.state, &order.location, &Subject::retention(order.config, &order.host));
        last.ran(run, if is_carried_out { Success::Whole } else { Success::None });
        if let Err(e) = last.write() {
            self.log.warning("PRUNE", format!("when it was done cannot be remembered: {e}"));
        }
    }
}

/// What a mail is to say, and how it is called where it is remembered who was told.
pub struct Found {
    /// What a mail says.
    pub cause: Cause,
    /// Of what somebody is told by that.
    pub called: Vec<String>,
}

impl Found {
    fn new(title: &str, failing: Failing, what: &str, called: &[String]) -> Self {
        Self {
            cause: Cause { title: title.to_owned(), failing, what: what.to_owned() },
            called: called.to_vec(),
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
