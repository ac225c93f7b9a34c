//! Secrets are in no log, notice, argument or plain part of the repository.

use std::fs;
use std::path::Path;

use crate::place::{Place, ended, is_written, text, wait_until};

const PASSPHRASE: &str = "correct horse battery";
const DATABASE: &str = "hunter2-database";
const HOOK: &str = "hunter2-hook";

/// Returns files below `folder` that hold `needle`.
fn holding(folder: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("reads").path()));
        } else if path.is_file() {
            let bytes = fs::read(&path).expect("reads");
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn secrets_appear_in_no_log_notice_argument_or_plain_part_of_the_repository() {
    for encryption in ["age", "none"] {
        let mut place = Place::new();
        crate::common::repo::maildir(&place.path("mail"), 2, 2000, &mut crate::common::Noise::new(7));
        let (begun, go) = (place.path("begun"), place.path("go"));
        // Commands that tell everything they know, and fail; the passphrase they are not told.
        let tell = format!(
            "env >&2; echo x >{}; while ! test -e {}; do sleep 0.01; done; exit 1",
            begun.display(),
            go.display()
        );
        place.run = "retries = 1\nretry_delay = \"1ms\"".to_owned();
        place.notify = "ping_url = \"http://127.0.0.1:9/hunter2-url\"".to_owned();
        place.rest = place.mail_component()
            + &format!(
                "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"{tell}\"]\nenvironment = {{ MYSQL_PWD = \"{DATABASE}\" }}\n"
            )
            + &format!(
                "[[component]]\nname = \"hooked\"\npaths = [\"{}\"]\nbefore = {{ command = [\"sh\", \"-c\", \"echo $TOKEN; exit 1\"], environment = {{ TOKEN = \"{HOOK}\" }} }}\n",
                place.path("mail").display()
            );
        place.write_config();
        let made =
            place.command(&["init", "--encryption", encryption]).env("SNAP_PASSWORD", PASSPHRASE).output();
        assert!(made.expect("runs").status.success());
        let mut command = place.command(&["--json", "-vv", "backup", "--daily"]);
        command
            .env("SNAP_PASSWORD", PASSPHRASE)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("program starts");
        wait_until("the dump runs", || is_written(&begun));
        let mut arguments = String::new();
        for process in fs::read_dir("/proc").expect("lists").flatten() {
            arguments += &text(&fs::read(process.path().join("cmdline")).unwrap_or_default());
        }
        assert!(arguments.contains("env >&2"), "the dump's own arguments are among those that were read");
        fs::write(&go, b"").expect("file is written");
        let output = ended(child);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let shown = text(&output.stdout) + &text(&output.stderr);
        let mails: String = place.mails().iter().map(|mail| mail.head.clone() + &mail.body).collect();
        assert!(shown.contains("MYSQL_PWD=***") && place.day_log().contains("MYSQL_PWD=***"), "{shown}");
        assert!(mails.contains("***"), "{mails}");
        for secret in [PASSPHRASE, DATABASE, HOOK, "hunter2-url"] {
            for (what, text) in [("arguments", &arguments), ("output", &shown), ("mails", &mails)] {
                assert!(!text.contains(secret), "{secret} in {what} with {encryption}: {text}");
            }
            for folder in ["log", "repo", "state", "mails"] {
                assert_eq!(
                    holding(&place.path(folder), secret),
                    Vec::<String>::new(),
                    "{secret} with {encryption}"
                );
            }
        }
    }
}
