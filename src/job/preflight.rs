//! What must hold before a run begins; each thing that does not has its level and its own message.

use std::path::Path;

use crate::base::units::show_bytes;
use crate::job::config::{self, Level};
use crate::job::mount::{Disk, is_mount_point};
use crate::job::notice::Failing;
use crate::repo::Snapshot;

/// Newest snapshots from whose growth the need for space is guessed.
const NIGHTS: usize = 7;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is; with [`Level::Critical`] no run begins.
    pub level: Level,
    /// What kind of trouble it is.
    pub failing: Failing,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Finding {
    fn critical(failing: Failing, what: String) -> Self {
        Self { level: Level::Critical, failing, what }
    }

    fn warning(failing: Failing, what: String) -> Self {
        Self { level: Level::Warning, failing, what }
    }
}

/// Checks who runs this: root, or the configured user.
pub fn user(run: &config::Run, is_root: bool, user: &str) -> Option<Finding> {
    if is_root || run.user.as_deref() == Some(user) {
        return None;
    }
    let allowed = run.user.as_ref().map_or_else(String::new, |allowed| format!(" or {allowed}"));
    let what = format!("user {user} may not run this: run it as root{allowed}, or name the user in [run]");
    Some(Finding::critical(Failing::Other, what))
}

/// Checks that the disk is there: without it the run would fill the disk that lies below.
pub fn mount(repository: &config::Repository, location: &Path) -> Option<Finding> {
    let mount = repository.require_mount.as_ref()?.get_ref();
    if !location.starts_with(mount) {
        return None; // another repository was named on the command line
    }
    let shown = mount.display();
    let what = match is_mount_point(mount) {
        Ok(true) => return None,
        Ok(false) => format!("{shown} is not mounted: nothing was written; plug the disk in and mount it"),
        Err(e) => format!("{shown} cannot be looked at: {e}; is the disk plugged in?"),
    };
    Some(Finding::critical(Failing::Mount, what))
}

/// Checks the space on the repository's disk.
pub fn space(repository: &config::Repository, location: &Path, disk: &Disk) -> Vec<Finding> {
    let shown = location.display();
    let mut findings = Vec::new();
    if disk.is_read_only {
        let what = format!("the disk under {shown} can only be read; dmesg may say why, then remount it");
        findings.push(Finding::critical(Failing::Mount, what));
    }
    if disk.available_bytes < repository.min_free.0 {
        let what = format!(
            "not enough space under {shown}: {} available, {} needed (min_free); 'snap prune --now' gives back what no snapshot needs",
            show_bytes(disk.available_bytes),
            show_bytes(repository.min_free.0)
        );
        findings.push(Finding::critical(Failing::Space, what));
    }
    if disk.has_no_inodes {
        let what = format!(
            "not enough space under {shown}: no more files fit (df -i); 'snap prune --now' gives back what no snapshot needs"
        );
        findings.push(Finding::critical(Failing::Space, what));
    }
    let percent = disk.used_percent();
    if percent > u64::from(repository.warn_used_percent) {
        let limit = repository.warn_used_percent;
        let what = format!("the disk under {shown} is {percent}% full; the limit is {limit}%");
        findings.push(Finding::warning(Failing::Space, what));
    }
    findings
}

/// Checks that a night like the largest of the last ones would still fit. First backups do not count.
pub fn forecast(snapshots: &[Snapshot], disk: &Disk) -> Option<Finding> {
    let nights = snapshots.iter().rev().filter(|snapshot| snapshot.manifest.parent.is_some()).take(NIGHTS);
    let largest = nights.map(|snapshot| snapshot.manifest.totals.bytes_stored).max()?;
    (largest > disk.available_bytes).then(|| {
        let what = format!(
            "{} available, and one of the last {NIGHTS} runs took {}: this one may not fit",
            show_bytes(disk.available_bytes),
            show_bytes(largest)
        );
        Finding::warning(Failing::Space, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::config::Config;

    fn config(text: &str) -> Config {
        let component = "[[component]]\nname = \"mail\"\npaths = [\"/srv/mail\"]\n";
        Config::parse(Path::new("config.toml"), &format!("{text}\n{component}")).expect("is good")
    }

    fn disk(used: u64, available: u64) -> Disk {
        Disk {
            capacity_bytes: used + available,
            used_bytes: used,
            available_bytes: available,
            ..Disk::default()
        }
    }

    #[test]
    fn root_and_the_configured_user_may_run_it_and_nobody_else() {
        let named = config("[repository]\npath = \"/r\"\n[run]\nuser = \"system-admin\"").run;
        assert_eq!(user(&named, true, "root"), None);
        assert_eq!(user(&named, false, "system-admin"), None);
        let other = user(&named, false, "anna").expect("is refused");
        assert_eq!(other.level, Level::Critical);
        assert!(other.what.contains("anna") && other.what.contains("system-admin"), "{}", other.what);
        assert!(user(&config::Run::default(), false, "anna").is_some());
    }

    #[test]
    fn a_directory_that_is_no_mount_point_is_critical() {
        let text = "[repository]\npath = \"/proc/self/repo\"\nrequire_mount = \"/proc/self\"";
        let repository = config(text).repository;
        let found = mount(&repository, Path::new("/proc/self/repo")).expect("is found");
        assert_eq!((found.level, found.failing), (Level::Critical, Failing::Mount));
        assert!(found.what.contains("/proc/self is not mounted"), "{}", found.what);
        assert_eq!(mount(&repository, Path::new("/elsewhere")), None, "a repository that was named by hand");
        let text = "[repository]\npath = \"/proc/repo\"\nrequire_mount = \"/proc\"";
        assert_eq!(mount(&config(text).repository, Path::new("/proc/repo")), None);
    }

    #[test]
    fn above_eighty_percent_is_a_warning_and_below_min_free_is_critical() {
        let repository = config("[repository]\npath = \"/r\"\nmin_free = \"100KiB\"").repository;
        let levels = |disk: Disk| {
            let findings = space(&repository, Path::new("/r"), &disk);
            findings.into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(disk(800_000, 200_000)), []);
        assert_eq!(levels(disk(810_000, 190_000)), [Level::Warning]);
        assert_eq!(levels(disk(999_000, 1000)), [Level::Critical, Level::Warning]);
        assert_eq!(levels(Disk { is_read_only: true, ..disk(1, 900_000) }), [Level::Critical]);
        assert_eq!(levels(Disk { has_no_inodes: true, ..disk(1, 900_000) }), [Level::Critical]);
    }
}
