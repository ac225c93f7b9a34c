//! A machine in miniature: a repository, a configuration, and a program that stores the mail it gets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use snap::repo::Repository;
use snap::store::LocalStore;
use tempfile::TempDir;

use crate::common::Noise;
use crate::common::repo::{maildir, open};

/// Longest time that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A place with a repository of its own.
pub struct Place {
    pub folder: TempDir,
    /// The repository's directory.
    pub repo: PathBuf,
    /// Lines of the configuration's `[repository]`, besides the path.
    pub repository: String,
    /// Lines of `[run]`.
    pub run: String,
    /// Lines of `[notify]` besides the addresses; by default mail goes to a stand-in.
    pub notify: String,
    /// The components, and whatever else there is.
    pub rest: String,
}

/// A mail that the stand-in for sendmail got.
pub struct Mail {
    pub head: String,
    pub subject: String,
    pub body: String,
}

impl Place {
    /// Makes a place without a repository.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let repo = folder.path().join("repo");
        let place = Self {
            repo,
            repository: "min_free = \"1MiB\"\nwarn_used_percent = 100".to_owned(),
            run: "retry_delay = \"10ms\"".to_owned(),
            notify: String::new(),
            rest: String::new(),
            folder,
        };
        fs::create_dir(place.path("mails")).expect("folder is made");
        // Named by the process, so that two mails never meet.
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >>{0}/arguments\ncat >{0}/mails/.$$ && mv {0}/mails/.$$ {0}/mails/$$\n",
            place.folder.path().display()
        );
        place.program("sendmail", &script);
        place
    }

    /// Makes a place with a plain repository and a Maildir of `messages` as component `mail`.
    pub fn with_mail(messages: usize) -> Self {
        let mut place = Self::new();
        maildir(&place.path("mail"), messages, 2000, &mut Noise::new(7));
        place.rest = place.mail_component();
        place.init();
        place
    }

    pub fn mail_component(&self) -> String {
        format!(
            "[[component]]\nname = \"mail\"\npaths = [\"{}\"]\nexclude = [\"*.tmp\"]\n",
            self.path("mail").display()
        )
    }

    /// Adds a component `mysql` whose dump says that it has begun, by the first of the files that are returned, and
    /// waits until the second is there.
    pub fn add_waiting_dump(&mut self) -> (PathBuf, PathBuf) {
        let (begun, go) = (self.path("begun"), self.path("go"));
        let script = format!(
            "echo x >{}; while ! test -e {}; do sleep 0.01; done; echo rows",
            begun.display(),
            go.display()
        );
        self.rest += &format!(
            "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"a.sql\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
        );
        self.write_config();
        (begun, go)
    }

    /// Makes the repository.
    pub fn init(&self) {
        self.write_config();
        let made = self.snap(&["init", "--encryption", "none"]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    /// Opens the repository as the library does, past the program.
    pub fn open(&self) -> Repository {
        open(Arc::new(LocalStore::new(&self.repo)), &self.path("state"), None).expect("repository opens")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a program at `bin/NAME`, which is first on PATH.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        fs::create_dir_all(self.path("bin")).expect("folder is made");
        let path = self.path("bin").join(name);
        fs::write(&path, script).expect("program is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode is set");
        path
    }

    /// Returns the configuration's text.
    pub fn config(&self) -> String {
        let base = self.folder.path().display();
        let way = if self.notify.contains("smtp =") {
            String::new()
        } else {
            format!("sendmail = [\"{base}/bin/sendmail\", \"-t\"]\n")
        };
        format!(
            "[repository]\npath = \"{}\"\n{}\n[run]\n{}\n[notify]\nfrom = \"backup@example.org\"\nto = [\"admin@example.org\"]\n{way}{}\n[log]\ndirectory = \"{base}/log\"\nsyslog = \"{base}/syslog\"\n{}",
            self.repo.display(),
            self.repository,
            self.run,
            self.notify,
            self.rest
        )
    }

    pub fn write_config(&self) {
        fs::write(self.path("config.toml"), self.config()).expect("configuration is written");
        fs::set_permissions(self.path("config.toml"), fs::Permissions::from_mode(0o600))
            .expect("mode is set");
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(env!("CARGO_BIN_EXE_snap"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:{path}:/usr/local/sbin:/usr/sbin:/sbin", self.path("bin").display()))
            .env("TZ", "UTC")
            .env("SNAP_CONFIG", self.path("config.toml"))
            .env("SNAP_STATE_DIR", self.path("state"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program.
    pub fn snap(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("program runs")
    }

    /// Writes the configuration anew and runs `snap backup`; returns the exit status and the summary.
    pub fn backup(&self, arguments: &[&str]) -> (i32, Value) {
        self.write_config();
        let output = self.snap(&[&["--json", "backup"], arguments].concat());
        let error = text(&output.stderr);
        assert!(!error.contains("panicked"), "{error}");
        let out = text(&output.stdout);
        let last = out.lines().last().unwrap_or("null");
        let summary = serde_json::from_str(last).expect("the last line is JSON");
        println!("{arguments:?}: {}\n{error}", output.status);
        (output.status.code().unwrap_or(-1), summary)
    }

    /// Runs the program, which must succeed, and returns its last line of JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.snap(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let out = text(&output.stdout);
        serde_json::from_str(out.lines().last().expect("there is output")).expect("the last line is JSON")
    }

    /// Returns the snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Value> {
        let output = self.snap(&["--json", "snapshots"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
    }

    /// Returns the mails so far, sorted by subject.
    pub fn mails(&self) -> Vec<Mail> {
        let entries = fs::read_dir(self.path("mails")).expect("folder lists");
        let paths = entries.map(|entry| entry.expect("entry reads").path());
        let mut mails: Vec<Mail> =
            paths.map(|path| Mail::parse(&fs::read_to_string(path).expect("mail reads"))).collect();
        mails.sort_by(|a, b| a.subject.cmp(&b.subject));
        mails
    }

    /// Returns the only mail so far.
    pub fn only_mail(&self) -> Mail {
        let mut mails = self.mails();
        let subjects: Vec<&String> = mails.iter().map(|mail| &mail.subject).collect();
        assert_eq!(mails.len(), 1, "{subjects:?}");
        mails.remove(0)
    }

    pub fn forget_mails(&self) {
        for entry in fs::read_dir(self.path("mails")).expect("folder lists") {
            fs::remove_file(entry.expect("entry reads").path()).expect("mail goes");
        }
    }

    /// Returns a log's text; empty if there is none.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("log").join(name)).unwrap_or_default()
    }

    /// Returns the text of the log of the day.
    pub fn day_log(&self) -> String {
        let entries = fs::read_dir(self.path("log")).expect("folder lists");
        let names =
            entries.map(|entry| entry.expect("entry reads").file_name().into_string().expect("is text"));
        let mut days: Vec<String> = names.filter(|name| name.starts_with("snap-2")).collect();
        days.sort();
        days.iter().map(|day| self.log(day)).collect()
    }

    /// Starts the program without waiting for it.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("program starts")
    }
}

impl Mail {
    /// Reads a mail as it was sent.
    pub fn parse(raw: &str) -> Self {
        let raw = raw.replace("\r\n", "\n");
        let (head, body) = raw.split_once("\n\n").expect("a mail has a head and a body");
        let head = head.replace("\n ", " ");
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let body = match field("Content-Transfer-Encoding:").as_str() {
            "quoted-printable" => quoted_printable(body),
            "base64" => base64(body),
            _ => body.to_owned(),
        };
        Self { subject: field("Subject:"), head, body }
    }

    /// Fails unless the body has all these parts.
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.body.contains(part), "no \"{part}\" in:\n{}", self.body);
        }
    }
}

fn quoted_printable(text: &str) -> String {
    let text = text.replace("=\n", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).expect("the body is UTF-8")
}

fn base64(text: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|c| alphabet.iter().position(|a| *a == c));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0usize, 0);
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
        }
    }
    String::from_utf8(bytes).expect("the body is UTF-8")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a process to end; kills it if that takes too long.
pub fn ended(mut child: Child) -> Output {
    let until = Instant::now() + PATIENCE;
    while child.try_wait().expect("process is asked").is_none() {
        if Instant::now() > until {
            child.kill().expect("kill is sent");
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("process has ended")
}

/// Returns whether a file is there with anything in it.
pub fn is_written(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.len() > 0)
}
