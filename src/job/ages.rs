//! What has not succeeded for too long beside the backup: the copy in a bucket, the check of packs, the retention.

use std::path::Path;

use crate::base::time::Time;
use crate::job::clock::shown;
use crate::job::config::{Config, Span};
use crate::job::last::{Last, Subject};
use crate::job::notice::{Cause, Failing};
use crate::job::retention;

/// How every age is called where it is remembered who was told.
pub const PREFIX: &str = "age ";

/// Something that has not succeeded for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// What.
    pub subject: Subject,
    /// When it succeeded last, as far as this machine knows.
    pub last: Option<Time>,
    /// Since when it is looked for.
    pub since: Time,
    /// How long ago that may be.
    pub max_age: Span,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// What has not succeeded for too long.
    pub overdue: Vec<Overdue>,
    /// Why nothing can be known of the rest.
    pub troubles: Vec<String>,
}

impl Overdue {
    /// Returns how it is called where it is remembered who was told.
    pub fn called(&self) -> String {
        format!("{PREFIX}{}", self.subject.verb())
    }

    /// Says it in one line.
    pub fn line(&self) -> String {
        let limit = format!("longer ago than {} ({}.max_age)", self.max_age, self.subject.verb());
        let what = match &self.subject {
            Subject::Sync { store } => format!("sync to {store} that succeeded"),
            Subject::Check => "check of all packs that found no damage".to_owned(),
            Subject::Retention { .. } => "removal of old snapshots by [retention]".to_owned(),
        };
        match self.last {
            Some(last) => format!("the last {what} was {}, {limit}", shown(last)),
            None => format!("no {what} is known; this machine began to watch {}, {limit}", shown(self.since)),
        }
    }

    /// Returns what a mail says of it.
    pub fn cause(&self) -> Cause {
        let (title, failing) = match &self.subject {
            Subject::Sync { .. } => ("Sync Is Overdue", Failing::SyncAge),
            Subject::Check => ("Check Is Overdue", Failing::CheckAge),
            Subject::Retention { .. } => ("Old Snapshots Are Not Removed", Failing::RetentionAge),
        };
        Cause { title: title.to_owned(), failing, what: self.line() }
    }
}

/// Returns what the configuration wants to be done, and how long ago that may be.
fn wanted(config: &Config, host: &str) -> Vec<(Subject, Span)> {
    let sync = config.sync.as_ref().map(|sync| (Subject::sync(&sync.store), sync.max_age));
    let check = config.check.as_ref().map(|check| (Subject::Check, check.max_age));
    let retention = retention::policy(&config.retention)
        .map(|_| (Subject::retention(config, host), retention::max_age(config)));
    sync.into_iter().chain(check).chain(retention).collect()
}

/// Looks at all ages, and begins to look for what was never looked for: until that is `max_age` ago, nothing is overdue.
/// `host` is this machine's name in snapshots.
pub fn look(config: &Config, state: &Path, host: &str, now: Time) -> Ages {
    let location = config.repository.path.get_ref();
    let mut ages = Ages::default();
    for (subject, max_age) in wanted(config, host) {
        let mut last = Last::read(state, location, &subject);
        let success = last.success(now);
        let (since, is_new) = last.look_for(now);
        if is_new && let Err(e) = last.write() {
            let verb = subject.verb();
            ages.troubles.push(format!("when {verb} last succeeded cannot be remembered: {e}"));
        }
        let age = now.seconds.saturating_sub(success.unwrap_or(since).seconds);
        if u64::try_from(age).unwrap_or(0) > max_age.seconds() {
            ages.overdue.push(Overdue { subject, last: success, since, max_age });
        }
    }
    ages
}

/// Returns what is known of the last runs of what the configuration wants to be done: for metrics.
pub fn lasts(config: &Config, state: &Path, host: &str) -> Vec<(&'static str, Last)> {
    let location = config.repository.path.get_ref();
    let subjects = wanted(config, host).into_iter().map(|(subject, _)| subject);
    // A check counts though nobody says how old it may be.
    let check = config.check.is_none().then_some(Subject::Check);
    subjects.chain(check).map(|it| (it.verb(), Last::read(state, location, &it))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::last::{LastRun, Success};

    const HOUR: i64 = 3600;

    fn at(hour: i64) -> Time {
        Time::new(1_767_582_000 + hour * HOUR, 0)
    }

    fn config(more: &str) -> Config {
        let text = format!(
            "[repository]\npath = \"/r\"\n[[component]]\nname = \"mail\"\npaths = [\"/srv/mail\"]\n{more}"
        );
        Config::parse(Path::new("mailserver.toml"), &text).unwrap()
    }

    const ALL: &str = "[sync]\nstore = \"s3://copies/mail\"\n[check]\n[retention]\ndaily = \"30d\"\n";

    fn overdue(more: &str, state: &Path, hour: i64) -> Vec<String> {
        let ages = look(&config(more), state, "mx1", at(hour));
        assert_eq!(ages.troubles, Vec::<String>::new());
        ages.overdue.iter().map(Overdue::called).collect()
    }

    #[test]
    fn what_was_never_done_is_overdue_when_it_was_looked_for_long_enough_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(overdue(ALL, state, 0), Vec::<String>::new(), "right after an upgrade");
        assert_eq!(overdue(ALL, state, 72), Vec::<String>::new());
        assert_eq!(overdue(ALL, state, 73), ["age sync", "age retention"]);
        assert_eq!(overdue(ALL, state, 40 * 24 + 1), ["age sync", "age check", "age retention"]);
        assert_eq!(overdue("", state, 41 * 24), Vec::<String>::new(), "nobody wants it to be done");
        let weekly = format!("{ALL}[notify]\nmax_age = \"8d\"\n");
        assert_eq!(overdue(&weekly, state, 8 * 24 - 1), ["age sync"], "a run a week has no retention a day");
    }

    #[test]
    fn a_success_counts_and_one_from_the_future_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let sync = |hour: i64| {
            let mut last = Last::read(state, Path::new("/r"), &Subject::sync("s3://copies/mail"));
            last.ran(LastRun { ended: at(hour).seconds, ..LastRun::default() }, Success::Whole);
            last.write().unwrap();
        };
        const SYNC: &str = "[sync]\nstore = \"s3://copies/mail\"\nmax_age = \"1d\"\n";
        assert_eq!(overdue(SYNC, state, 0), Vec::<String>::new());
        sync(30);
        assert_eq!(overdue(SYNC, state, 50), Vec::<String>::new());
        sync(90_000);
        assert_eq!(overdue(SYNC, state, 55), ["age sync"]);
        let found = look(&config(SYNC), state, "mx1", at(55));
        let line = found.overdue[0].line();
        assert!(line.contains("s3://copies/mail") && line.contains(&shown(at(30))), "{line}");
    }

    #[test]
    fn where_nothing_can_be_remembered_that_is_said_and_nothing_is_silent_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        std::fs::File::create(&taken).unwrap();
        let found = look(&config(ALL), &taken, "mx1", at(0));
        assert_eq!((found.overdue.len(), found.troubles.len()), (0, 3), "{found:?}");
        assert!(found.troubles[0].starts_with("when sync last succeeded cannot be remembered"));
    }
}
