//! What somebody who helps needs to see: collected, without secrets, to be shown before it is handed on.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::progress::Progress;
use crate::base::redact::Redactor;
use crate::base::scrub::scrub;
use crate::job::config::Config;
use crate::job::log;
use crate::stage::command::Command;

/// Bytes of a log, from its end, and of what a command prints, from its beginning.
const PART_BYTES_MAX: u64 = 1 << 20;

/// Logs of single days that are taken, the newest.
const DAYS_MAX: usize = 3;

/// Time that one command may take; a check of a large repository takes a while.
const COMMAND_MAX: Duration = Duration::from_secs(600);

/// Where schedules are installed.
const SCHEDULES: &[&str] = &["/etc/cron.d", "/etc/systemd/system", "/usr/lib/systemd/system"];

/// Commands of the system that are asked. What is not installed says so in its file.
const SYSTEM: &[(&str, &[&str])] = &[
    ("system/df.txt", &["df", "-hT"]),
    ("system/df-inodes.txt", &["df", "-i"]),
    ("system/disks.txt", &["lsblk", "-o", "NAME,SIZE,TYPE,FSTYPE,MOUNTPOINT"]),
    ("system/mounts.txt", &["findmnt", "--df"]),
    ("system/timers.txt", &["systemctl", "--no-pager", "list-timers", "--all", "snap-*"]),
    ("system/services.txt", &["systemctl", "--no-pager", "status", "snap-*"]),
];

/// Verbs of this program whose output is taken.
const VERBS: &[(&str, &[&str])] = &[
    ("snap/config-check.txt", &["config", "check"]),
    ("snap/check.txt", &["check"]),
    ("snap/snapshots.txt", &["snapshots"]),
    ("snap/stats.txt", &["stats"]),
    ("snap/keys.txt", &["key", "list"]),
];

/// A file of the collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name in the collection.
    pub name: String,
    /// Its text, without secrets.
    pub text: String,
}

/// What is collected, and with what.
pub struct Around<'a> {
    /// The configuration, if one can be read; else why not.
    pub config: Result<Option<&'a Config>, String>,
    /// Knows what must not be shown.
    pub redactor: Redactor,
    /// This program.
    pub program: PathBuf,
    /// Options that lead its verbs to the same repository.
    pub options: Vec<OsString>,
    /// This machine's state directory.
    pub state: PathBuf,
    /// Progress counters and the cancellation flag.
    pub progress: &'a Progress,
}

/// Collects everything. What can't be had says why, in its place.
pub fn collect(around: &Around<'_>) -> Vec<Item> {
    let mut items = vec![item(around, "about.txt", &about(around))];
    match &around.config {
        Ok(None) => {}
        Ok(Some(config)) => {
            let text = fs::read_to_string(&config.path).map_err(|e| e.to_string());
            let text =
                text.and_then(|text| settings(&text)).unwrap_or_else(|e| format!("cannot be shown: {e}\n"));
            items.push(item(around, "config.toml", &text));
            logs(around, &config.log.directory, &mut items);
        }
        // The text of a broken configuration can't be told apart into what is secret and what is not.
        Err(why) => items.push(item(around, "config.toml", &format!("cannot be read: {why}\n"))),
    }
    for folder in SCHEDULES {
        for path in files(Path::new(folder), |name| name == "snap" || name.starts_with("snap-")) {
            let text = end_of(&path);
            items.push(item(around, &format!("schedule{}", path.display()), &text));
        }
    }
    for (name, arguments) in VERBS {
        let mut argv = vec![around.program.clone().into_os_string()];
        argv.extend(around.options.iter().cloned());
        argv.extend(arguments.iter().map(OsString::from));
        items.push(item(around, name, &output(argv, around.progress)));
    }
    for (name, arguments) in SYSTEM {
        items.push(item(
            around,
            name,
            &output(arguments.iter().map(OsString::from).collect(), around.progress),
        ));
    }
    items
}

fn item(around: &Around<'_>, name: &str, text: &str) -> Item {
    Item { name: name.to_owned(), text: scrub(&around.redactor.redact(text)) }
}

fn about(around: &Around<'_>) -> String {
    let system = rustix::system::uname();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("not known");
    let size = fs::metadata(&around.program).map_or(0, |about| about.len());
    format!(
        "snap {}\nprogram {}, {size} bytes\nsystem {}\nkernel {} {}\nuser id {}\nstate {}\ntime zone {}\n",
        env!("CARGO_PKG_VERSION"),
        around.program.display(),
        pretty.trim_matches('"'),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        rustix::process::geteuid().as_raw(),
        around.state.display(),
        jiff::tz::TimeZone::system().iana_name().unwrap_or("without a name"),
    )
}

/// Returns a configuration's text without values that are secrets, and without comments, in which anything may stand.
fn settings(text: &str) -> Result<String, String> {
    let mut table: toml::Table = text.parse().map_err(|_| "it is no TOML".to_owned())?;
    for (key, value) in &mut table {
        hide(key, value);
    }
    toml::to_string_pretty(&table).map_err(|e| e.to_string())
}

/// Hides what is secret in a value.
fn hide(key: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) if key == "environment" => {
            table.iter_mut().for_each(|(_, value)| *value = toml::Value::String("***".to_owned()));
        }
        toml::Value::Table(table) => table.iter_mut().for_each(|(key, value)| hide(key, value)),
        toml::Value::Array(values) => values.iter_mut().for_each(|value| hide(key, value)),
        toml::Value::String(text) if key == "ping_url" => *text = "***".to_owned(),
        toml::Value::String(text) if key == "command" && text.starts_with("-p") && text.len() > 2 => {
            *text = "-p***".to_owned();
        }
        _ => {}
    }
}

fn logs(around: &Around<'_>, directory: &Path, items: &mut Vec<Item>) {
    for name in [log::MAIN, log::ERRORS] {
        items.push(item(around, &format!("log/{name}"), &end_of(&directory.join(name))));
    }
    let mut days = files(directory, |name| name.starts_with("snap-2") && name.ends_with(".log"));
    days.sort();
    for path in days.iter().rev().take(DAYS_MAX) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        items.push(item(around, &format!("log/{name}"), &end_of(path)));
    }
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(&wanted));
    let mut paths: Vec<PathBuf> = named
        .map(|entry| entry.path())
        .filter(|path| fs::metadata(path).is_ok_and(|about| about.is_file()))
        .collect();
    paths.sort();
    paths
}

/// Returns the end of a file, from the beginning of a line.
fn end_of(path: &Path) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(PART_BYTES_MAX);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(PART_BYTES_MAX).read_to_end(&mut bytes)?;
        let from = match start {
            0 => 0,
            _ => bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes[from..]).into_owned())
    };
    read().unwrap_or_else(|e| format!("{}: {e}\n", path.display()))
}

/// Returns what a command prints, on either stream, and how it ended if not well.
fn output(argv: Vec<OsString>, progress: &Progress) -> String {
    let shown = argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let command = Command { argv, timeout: Some(COMMAND_MAX), ..Command::default() };
    let mut text = format!("$ {shown}\n");
    match command.start(progress) {
        Err(e) => text.push_str(&format!("{e}\n")),
        Ok(mut running) => {
            let mut bytes = Vec::new();
            let read = running.by_ref().take(PART_BYTES_MAX).read_to_end(&mut bytes);
            text.push_str(&String::from_utf8_lossy(&bytes));
            let ended = read.map_err(|e| (e.to_string(), String::new()));
            let ended =
                ended.and_then(|_| running.finish().map_err(|e| (e.to_string(), e.complaint().to_owned())));
            if let Err((why, complaint)) = ended {
                text.push_str(&format!("{why}\n{complaint}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_an_environment_and_no_comment_stays() {
        let text = "# the password is hunter2\n[[component]]\nname = \"mysql\"\n[[component.stream]]\ncommand = [\"mysqldump\", \"-phunter2\", \"--password=hunter2\"]\nenvironment = { A = \"hunter2\" }\n[notify]\nping_url = \"https://hc/hunter2\"\nsmtp = \"smtp://a:hunter2@b\"\n";
        let shown = scrub(&settings(text).expect("is TOML"));
        assert!(!shown.contains("hunter2") && shown.contains("name = \"mysql\""), "{shown}");
    }
}
