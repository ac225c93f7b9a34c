//! What is shipped for cron, systemd and logrotate is understood by them.

use std::fs;
use std::process::Command;

use crate::place::{Place, text};

#[test]
fn the_crontab_has_the_operators_lines() {
    let table = fs::read_to_string("scripts/snap.cron").expect("reads");
    let lines: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let has = |time: &str, command: &str| {
        lines.iter().any(|line| line[..5].join(" ") == time && line[6..].join(" ").contains(command))
    };
    assert!(has("0 3 * * *", "snap backup -q --daily"), "{table}");
    assert!(has("0 4 * * 0", "snap backup -q --weekly --wait"), "{table}");
    assert!(has("0 12 * * *", "snap notify --stale"), "{table}");
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is not here");
        return;
    }
    let place = Place::new();
    // It looks whether the program is there.
    let program = place.program("snap", "#!/bin/sh\n");
    let mut units = Vec::new();
    for entry in fs::read_dir("scripts/systemd").expect("lists") {
        let path = entry.expect("reads").path();
        let unit = fs::read_to_string(&path).expect("reads");
        let to = place.path(path.file_name().expect("has a name").to_str().expect("text"));
        fs::write(&to, unit.replace("/usr/local/bin/snap", program.to_str().expect("text")))
            .expect("is written");
        units.push(to);
    }
    assert!(units.len() >= 4, "{units:?}");
    let output =
        Command::new("systemd-analyze").arg("verify").arg("--man=no").args(&units).output().expect("runs");
    let said = text(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("snap-")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn the_service_is_hardened_and_may_write_where_it_must() {
    let unit = fs::read_to_string("scripts/systemd/snap-daily.service").expect("reads");
    for line in ["ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateTmp=yes", "ProtectHome=read-only"] {
        assert!(unit.lines().any(|own| own == line), "{line}");
    }
    let writable = unit.lines().find(|line| line.starts_with("ReadWritePaths=")).expect("is there");
    for path in ["/mnt/backup-hdd", "/var/lib/snap", "/var/log/snap"] {
        assert!(writable.contains(path), "{path}: {writable}");
    }
}

/// The units point to a manual page: it is installed before them, and says what their commands mean.
#[test]
fn the_manual_page_that_units_point_to_is_installed_and_has_every_command() {
    let install = "snap man > /usr/local/share/man/man1/snap.1";
    for page in ["README.md", "docs/operations.md"] {
        assert!(fs::read_to_string(page).expect("reads").contains(install), "{page}");
    }
    for entry in fs::read_dir("scripts/systemd").expect("lists") {
        let path = entry.expect("reads").path();
        let unit = fs::read_to_string(&path).expect("reads");
        let is_service = path.extension().is_some_and(|end| end == "service");
        assert_eq!(unit.contains("\nDocumentation=man:snap(1)\n"), is_service, "{}", path.display());
    }
    let place = Place::new();
    let page = text(&place.snap(&["man"]).stdout);
    assert!(page.contains("\n.TH snap 1 "), "{page}");
    for part in ["SNAP BACKUP", "SNAP SYNC", "SNAP KEY ADD", "\\-\\-read\\-packs", "\\-\\-stale"] {
        assert!(page.contains(part), "no {part}");
    }
    let elsewhere: Vec<&str> =
        page.lines().filter(|line| line.contains("snap\\-") && line.contains("(1)")).collect();
    assert!(elsewhere.is_empty(), "pages that are not there: {elsewhere:?}");
    let path = place.path("snap.1");
    fs::write(&path, &page).expect("is written");
    match Command::new("man").arg("--warnings").arg("-l").arg(&path).env("MANPAGER", "cat").output() {
        Ok(shown) => {
            let said = text(&shown.stderr);
            assert!(shown.status.success() && said.is_empty(), "{said}");
        }
        Err(_) => eprintln!("not shown: man is not here"),
    }
}

#[test]
fn logrotate_takes_its_file_and_rotates_the_logs() {
    let place = Place::with_mail(1);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let log = place.path("log");
    let shipped = fs::read_to_string("scripts/snap.logrotate").expect("reads");
    let rules = place.path("snap.logrotate");
    fs::write(&rules, shipped.replace("/var/log/snap", log.to_str().expect("text"))).expect("is written");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let rotated = Command::new("logrotate")
        .args(["--force", "--state"])
        .arg(place.path("rotated"))
        .arg(&rules)
        .env("PATH", path)
        .output();
    let rotated = rotated.expect("logrotate is there (scripts/set-up test)");
    assert!(rotated.status.success() && rotated.stderr.is_empty(), "{}", text(&rotated.stderr));
    let names: Vec<String> = fs::read_dir(&log)
        .expect("lists")
        .map(|e| e.expect("reads").file_name().into_string().expect("text"))
        .collect();
    assert!(names.iter().any(|name| name.starts_with("snap.log") && name != "snap.log"), "{names:?}");
    assert_eq!(place.backup(&["--daily"]).0, 0);
    assert!(place.log("snap.log").contains("pre-flight passed"), "the next run goes on in a new file");
}
