//! What mails say is to be done, step by step.

use std::fmt::Write;
use std::path::Path;

use crate::job::here;
use crate::job::notice::{Facts, Failing, suspects};

/// Writes what to do about the trouble of a run and about what was found besides.
pub fn section(facts: &Facts<'_>, body: &mut String) {
    body.push_str("\nWhat to do\n");
    let besides = facts.causes.iter().map(|cause| cause.failing);
    // A mail about what was found alone has no other trouble.
    let own = Some(facts.failing).filter(|_| facts.causes.is_empty() || facts.has_failed);
    let mut all: Vec<String> = Vec::new();
    for step in own.into_iter().chain(besides).flat_map(|failing| steps(facts, failing)) {
        if !all.contains(&step) {
            all.push(step);
        }
    }
    for (number, step) in all.iter().enumerate() {
        let _ = writeln!(body, "  {}. {step}", number + 1);
    }
}

/// Returns the step that looks whether the schedule runs.
pub fn runs() -> String {
    format!("Does the schedule run? {}", here::schedule(Path::new("/")))
}

/// Returns what to do about one kind of trouble.
fn steps(facts: &Facts<'_>, failing: Failing) -> Vec<String> {
    let again = format!("Run it again: {}", facts.command);
    let mount = facts.mount;
    match failing {
        Failing::Mount => vec![
            "Look whether the disk is plugged in and seen: lsblk, dmesg | tail".to_owned(),
            format!("Mount it: mount {mount}   (and look into /etc/fstab why it was not)"),
            again,
        ],
        Failing::Space => vec![
            "Give back what no snapshot needs; this works on a disk with no byte left: snap prune --now".to_owned(),
            format!("See what takes the space: df -h {mount}; df -i {mount}; snap stats"),
            "Let old snapshots go, or shorten [retention] in the configuration: snap prune --dry-run, then snap prune --now"
                .to_owned(),
            "Or take a larger disk: copy the repository, its files never change".to_owned(),
            again,
        ],
        Failing::Verify => vec![
            "Do not rely on this snapshot; the earlier ones are untouched.".to_owned(),
            "See what is damaged: snap check --read-packs".to_owned(),
            format!("Look at the disk: dmesg | tail; smartctl -a on the disk under {mount}"),
            again,
        ],
        Failing::Component => vec![
            format!(
                "Look at the reasons above: does the service run{}, is the path there, may it be read?",
                here::services(Path::new("/")).map_or_else(String::new, |shows| format!(" ({shows})"))
            ),
            "Try all commands and paths: snap config check --run".to_owned(),
            format!("{again}   (what is unchanged costs little)"),
        ],
        Failing::Suspect => [suspects::steps(facts), vec![again]].concat(),
        Failing::Retention => vec![
            "See what would go and what is in the way: snap prune --dry-run".to_owned(),
            "If more would go than half, and that is meant: snap prune --force".to_owned(),
            format!("See that the disk does not fill up meanwhile: df -h {mount}"),
        ],
        Failing::Missed => vec![
            runs(),
            "See in the logs of those days why nothing was backed up".to_owned(),
            "If it is meant to run less often, say how old a backup may be: notify.max_age in the configuration".to_owned(),
            "Look at what there is: snap snapshots".to_owned(),
        ],
        Failing::Configuration => {
            vec!["Mend what is named above, and see that it is right: snap config check --run".to_owned(), again]
        }
        Failing::Damage => vec![
            "Restore and mount go on: all that is not named is whole. Remove nothing by hand".to_owned(),
            "Bring back what is damaged from another copy: snap check --read-packs --repair-from s3://BUCKET/PREFIX, or a directory".to_owned(),
            "Look at the disk: dmesg | tail; smartctl -a on the disk below it".to_owned(),
            again,
        ],
        Failing::Sync => vec![
            "See whether the bucket is reached and the credentials are right: snap sync --dry-run".to_owned(),
            "Do not wait: locks that are not renewed run out. A sync that succeeds says until when each snapshot is locked".to_owned(),
            again,
        ],
        Failing::SyncAge => vec![
            runs(),
            "See whether the bucket is reached and the credentials are right: snap sync --dry-run".to_owned(),
            "Bring the copy up to date: snap sync   (locks that are not renewed run out)".to_owned(),
        ],
        Failing::CheckAge => vec![
            runs(),
            "Read every pack: snap check --read-packs".to_owned(),
        ],
        Failing::RetentionAge => vec![
            "See in the log why runs did not come so far as to remove old snapshots".to_owned(),
            "See what would go, and let it go: snap prune --dry-run; then snap prune".to_owned(),
        ],
        Failing::Capacity => vec![
            format!("See what takes the space: df -h {mount}; snap stats"),
            "See what could go: snap prune --dry-run; then snap prune".to_owned(),
            "Or plan a larger disk: backups stop when the free space is below min_free".to_owned(),
        ],
        Failing::Cost => vec![
            "See what the bucket holds, and until when it is locked: snap sync --dry-run".to_owned(),
            "Remove what no snapshot needs and whose lock is over, from the administrator's machine: snap sync --delete"
                .to_owned(),
            "If so much is meant, say so: sync.budget in the configuration; sync.budget_limit puts nothing beyond it"
                .to_owned(),
        ],
        Failing::Log => vec![
            format!("Make room where the logs lie: df -h {0}; du -sh {0}", facts.log_folder()),
            "The backup is made all the same; what its log lacks is below".to_owned(),
        ],
        Failing::Keys => vec![
            "The snapshot is good: content is sealed to those whom this machine remembers.".to_owned(),
            "Who changed keys/ in the repository? See what is there: snap key list".to_owned(),
            "If it was you, on another machine: snap key accept. Else put back a good copy of keys/".to_owned(),
            again,
        ],
        Failing::Other => vec![
            "Look at the reason above and at the log below.".to_owned(),
            "Try everything harmlessly: snap config check --run".to_owned(),
            again,
        ],
    }
}
