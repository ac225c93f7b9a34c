//! `snap support`: what somebody who helps needs, and no secret.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::place::{Place, text};

/// Returns everything that an archive holds, its names too.
fn unpacked(archive: &std::path::Path) -> String {
    let names = Command::new("tar").arg("-tzf").arg(archive).output().expect("tar runs");
    let all = Command::new("tar").args(["-xzOf"]).arg(archive).output().expect("tar runs");
    assert!(names.status.success() && all.status.success(), "{}", text(&all.stderr));
    text(&names.stdout) + &text(&all.stdout)
}

#[test]
fn what_helps_is_collected_and_no_planted_secret_is() {
    let mut place = Place::with_mail(2);
    let secret = "hunter2hunter2";
    place.notify = format!("ping_url = \"http://127.0.0.1:9/{secret}\"");
    place.rest += &format!(
        "# the old password was {secret}\n[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"echo denied for $MYSQL_PWD >&2; exit 1\", \"--password={secret}\", \"-p{secret}\"]\nenvironment = {{ MYSQL_PWD = \"{secret}\" }}\n"
    );
    place.run += "\nretries = 0";
    assert_eq!(place.backup(&["--daily"]).0, 1);
    let mut log = fs::OpenOptions::new().append(true).open(place.path("log/snap.log")).expect("opens");
    writeln!(log, "by hand: mysqldump --password={secret} and AGE-SECRET-KEY-1{}", "Q".repeat(58))
        .expect("is written");

    let asked = place.snap(&["support", "--output", "help.tar.gz"]);
    assert_eq!(asked.status.code(), Some(2), "nobody at a terminal said yes");
    assert!(text(&asked.stderr).contains("--yes") && !place.path("help.tar.gz").exists());
    let shown = text(&asked.stdout);
    for name in ["about.txt", "config.toml", "log/snap.log", "snap/check.txt", "system/df.txt"] {
        assert!(shown.contains(name), "{name}: {shown}");
    }

    let output = place
        .command(&["support", "--yes", "--output", "help.tar.gz"])
        .env("SNAP_PASSWORD", secret)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let all = unpacked(&place.path("help.tar.gz"));
    for part in [
        concat!("snap ", env!("CARGO_PKG_VERSION")),
        "[ERROR] [MYSQL]",
        "name = \"mysql\"",
        "snap-support/snap/check.txt",
        "no damage found",
        "a.sql",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    for planted in [secret, "AGE-SECRET-KEY", "the old password"] {
        assert!(!all.contains(planted), "{planted}: {all}");
    }
    let again = place.snap(&["support", "--yes", "--output", "help.tar.gz"]);
    assert_eq!(again.status.code(), Some(2), "what is there is not replaced");

    fs::write(place.path("config.toml"), format!("[repository]\npath = \"{secret}\n")).expect("is written");
    let broken = place.snap(&["support", "--yes", "--output", "broken.tar.gz"]);
    assert!(broken.status.success(), "{}", text(&broken.stderr));
    let all = unpacked(&place.path("broken.tar.gz"));
    assert!(all.contains("config.toml") && all.contains("cannot be read") && !all.contains(secret), "{all}");
}
