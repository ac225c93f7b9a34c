//! What this system has of schedules and their logs: a hint that names a file names one that is there.

use std::path::Path;

/// Logs of cron, by distribution: Red Hat's, those that rsyslog is often told to write, Debian's.
const CRON_LOGS: &[&str] = &["var/log/cron", "var/log/cron.log", "var/log/syslog", "var/log/messages"];

/// Where a crontab of the system names `snap`, as it is shipped.
const CRONTAB: &str = "etc/cron.d/snap";

/// Where the units lie, as they are shipped.
const UNITS: &[&str] = &["etc/systemd/system", "usr/lib/systemd/system"];

/// Programs that show which containers run, and which services.
const SHOWING: &[(&str, &str)] =
    &[("docker", "docker ps"), ("podman", "podman ps"), ("systemctl", "systemctl --failed")];

/// Returns what shows which services run, below `root`, which is `/` but for tests; none if nothing is known to.
pub fn services(root: &Path) -> Option<&'static str> {
    let is_there = |program: &str| {
        ["usr/bin", "usr/local/bin", "bin"].iter().any(|folder| root.join(folder).join(program).exists())
    };
    SHOWING.iter().find(|(program, _)| is_there(program)).map(|(_, command)| *command)
}

/// Returns how to see whether the schedule runs, below `root`, which is `/` but for tests.
pub fn schedule(root: &Path) -> String {
    let has_systemd = root.join("run/systemd/system").is_dir();
    let has_timer = UNITS.iter().any(|folder| root.join(folder).join("snap-daily.timer").exists());
    let log = CRON_LOGS.iter().find(|log| root.join(log).exists());
    let timer = has_timer.then(|| "systemctl list-timers 'snap-*'; journalctl -u snap-daily".to_owned());
    let cron = root.join(CRONTAB).exists().then(|| match (log, has_systemd) {
        (Some(log), _) => format!("cat /{CRONTAB}; grep snap /{log}"),
        (None, true) => format!("cat /{CRONTAB}; journalctl -t CRON -t CROND -g snap"),
        (None, false) => format!("cat /{CRONTAB}"),
    });
    match (timer, cron) {
        (Some(timer), Some(cron)) => format!("{timer}; {cron}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => {
            let timers = if has_systemd { ", no timer snap-daily.timer" } else { "" };
            format!("there is no /{CRONTAB}{timers} here; crontab -l")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn hints_name_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap();
        };
        assert_eq!(schedule(root.path()), "there is no /etc/cron.d/snap here; crontab -l");
        assert_eq!(services(root.path()), None);
        put("usr/bin/systemctl");
        assert_eq!(services(root.path()), Some("systemctl --failed"));
        put("usr/bin/docker");
        assert_eq!(services(root.path()), Some("docker ps"));
        fs::create_dir_all(root.path().join("run/systemd/system")).unwrap();
        put("etc/cron.d/snap");
        assert_eq!(schedule(root.path()), "cat /etc/cron.d/snap; journalctl -t CRON -t CROND -g snap");
        put("var/log/syslog");
        assert_eq!(schedule(root.path()), "cat /etc/cron.d/snap; grep snap /var/log/syslog");
        put("var/log/cron");
        put("etc/systemd/system/snap-daily.timer");
        assert_eq!(
            schedule(root.path()),
            "systemctl list-timers 'snap-*'; journalctl -u snap-daily; cat /etc/cron.d/snap; grep snap /var/log/cron"
        );
    }
}
