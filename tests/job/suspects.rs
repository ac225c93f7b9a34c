//! What goes on from night to night: a mail disk that is away, a clock that was wrong, a retention that can't be
//! carried out, nights that were missed. Each is told at once, then every week, and costs no snapshot.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::place::{Place, ended, text, wait_until};

/// Returns whether the program can be run at another time; says why not.
pub fn can_fake_time() -> bool {
    let is_there = Command::new("faketime").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("skipped: faketime is not here (scripts/set-up test)");
    }
    is_there
}

/// Returns the program as it is run at 03:00 of a day of January 2026, or later.
fn at(place: &Place, day: u32, arguments: &[&str]) -> Command {
    let program = place.command(arguments);
    let time = jiff::civil::date(2026, 1, 1).checked_add(jiff::Span::new().days(i64::from(day) - 1));
    let mut command = Command::new("faketime");
    command.arg(format!("{} 03:00:00", time.expect("is a day"))).arg(program.get_program());
    command.args(program.get_args()).env_clear().current_dir(place.folder.path()).stdin(Stdio::null());
    for (name, value) in program.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command
}

pub fn run(place: &Place, day: u32, arguments: &[&str]) -> Output {
    let output = at(place, day, arguments).output().expect("faketime is there");
    let error = text(&output.stderr);
    assert!(!error.contains("panicked"), "{error}");
    println!("day {day}: {arguments:?}: {}\n{error}", output.status);
    output
}

/// Runs the night of a day; returns its exit status and the subjects of the mails it sent.
pub fn night(place: &Place, day: u32) -> (Option<i32>, Vec<String>) {
    let output = run(place, day, &["backup", "--daily"]);
    (output.status.code(), subjects(place))
}

/// Returns the subjects of the mails so far, up to the date, and forgets them.
pub fn subjects(place: &Place) -> Vec<String> {
    let subjects = place.mails().iter().map(|mail| mail.subject.clone()).collect::<Vec<_>>();
    place.forget_mails();
    let short = |subject: String| subject.split(" - ").next().unwrap_or_default().to_owned();
    subjects.into_iter().map(short).collect()
}

/// Makes a place that keeps daily snapshots for so long: `70h` are three nights, however long programs take to start.
pub fn with_retention(messages: usize, daily: &str) -> Place {
    let mut place = Place::with_mail(messages);
    place.rest += &format!("[retention]\ndaily = \"{daily}\"\n");
    place.write_config();
    place
}

fn with_mail(place: &Place) -> Vec<Value> {
    let has_mail = |snapshot: &Value| snapshot["components"][0]["files"].as_u64() > Some(0);
    place.snapshots().into_iter().filter(has_mail).collect()
}

const SUSPECT: &str = "[ALERT] Mailserver Backup Is Suspect";

#[test]
fn mail_that_is_away_for_five_weeks_is_told_every_week_and_its_last_night_stays() {
    if !can_fake_time() {
        return;
    }
    let mut place = with_retention(30, "70h");
    place.notify = format!("max_age = \"26h\"\nmetrics_file = \"{}\"", place.path("snap.prom").display());
    place.write_config();
    for day in 1..=5 {
        assert_eq!(night(&place, day), (Some(0), Vec::new()), "day {day}");
    }
    fs::rename(place.path("mail"), place.path("away")).expect("the disk goes");
    fs::create_dir(place.path("mail")).expect("an empty place is left");
    for day in 6..=40 {
        let told = if (day - 6) % 7 == 0 { vec![SUSPECT.to_owned()] } else { Vec::new() };
        assert_eq!(night(&place, day), (Some(1), told), "day {day}");
    }
    let left = with_mail(&place);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0]["time"].as_str().expect("a time").starts_with("2026-01-05"), "{left:?}");
    assert!(place.snapshots().len() <= 4, "the others go as they are meant to");
    let numbers = fs::read_to_string(place.path("snap.prom")).expect("numbers are there");
    assert!(numbers.contains("snap_component_suspect{component=\"mail\"} 1"), "{numbers}");
    assert!(numbers.contains("snap_component_complete{component=\"mail\"} 0"), "{numbers}");
    let stale = run(&place, 40, &["notify", "--stale"]);
    assert_eq!((stale.status.code(), subjects(&place)), (Some(1), Vec::new()), "the run has told it");
    assert!(text(&stale.stderr).contains("it is suspect: no message is there"), "{}", text(&stale.stderr));
    // Who says that it is right so is not told again, and then the last mail goes as well.
    let newest = place.snapshots().pop().expect("is there")["id"].as_str().expect("text").to_owned();
    let accepted = run(&place, 40, &["tag", &newest, "--accept", "mail"]);
    assert!(accepted.status.success() && text(&accepted.stdout).contains("right as it is: mail"));
    assert_eq!(night(&place, 41), (Some(0), Vec::new()));
    assert_eq!(with_mail(&place), Vec::<Value>::new());
}

#[test]
fn the_mail_says_what_there_was_what_to_do_and_that_the_snapshot_was_made() {
    if !can_fake_time() {
        return;
    }
    let place = with_retention(30, "30d");
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    let whole = place.snapshots().remove(0)["id"].as_str().expect("text").to_owned();
    fs::remove_dir_all(place.path("mail")).expect("mail goes");
    fs::create_dir(place.path("mail")).expect("an empty place is left");
    let output = run(&place, 2, &["backup", "--daily"]);
    assert_eq!(output.status.code(), Some(1));
    let suspect = place.snapshots().remove(1)["id"].as_str().expect("text").to_owned();
    let mail = place.only_mail();
    mail.says(&[
        "was made, and is suspect",
        "Suspect\n  mail\n    no message is there, where there were 30 messages",
        &format!("the last whole one is {whole} of 2026-01-01 03:00:0"),
        &format!("snap tag {suspect} --accept mail"),
        "findmnt",
        "[ERROR] [MAIL] suspect: ",
    ]);
    assert!(!mail.body.contains("Succeeded"), "{}", mail.body);
    let listed = text(&run(&place, 2, &["snapshots"]).stdout);
    assert!(listed.contains("mail (suspect)"), "{listed}");
}

#[test]
fn what_is_accepted_in_the_run_is_whole_and_tells_nobody() {
    if !can_fake_time() {
        return;
    }
    let place = with_retention(30, "30d");
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    fs::remove_dir_all(place.path("mail")).expect("mail goes");
    fs::create_dir(place.path("mail")).expect("an empty place is left");
    let wrong = run(&place, 2, &["backup", "--accept", "mial"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("--accept mial: no such component"), "{}", text(&wrong.stderr));
    place.forget_mails();
    let output = run(&place, 2, &["backup", "--daily", "--accept", "mail"]);
    assert_eq!((output.status.code(), subjects(&place)), (Some(0), Vec::new()));
    assert_eq!(night(&place, 3), (Some(0), Vec::new()));
}

#[test]
fn a_path_that_is_suddenly_empty_ends_with_status_1_and_a_line_also_by_hand() {
    let place = Place::with_mail(30);
    let path = place.path("mail").display().to_string();
    let repo = place.repo.display().to_string();
    let snap = |arguments: &[&str]| {
        let mut command = place.command(&[&["--repo", &repo, "backup", &path], arguments].concat());
        command.env_remove("SNAP_CONFIG").output().expect("program runs")
    };
    assert!(snap(&[]).status.success());
    fs::remove_dir_all(place.path("mail")).expect("mail goes");
    fs::create_dir(place.path("mail")).expect("an empty place is left");
    let output = snap(&[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("files is suspect: no message is there, where there were 30 messages"), "{error}");
    assert!(error.contains("--accept files"), "{error}");
    assert_eq!(place.mails().len(), 0);
    assert_eq!(snap(&["--accept", "files"]).status.code(), Some(0));
    assert_eq!(snap(&[]).status.code(), Some(0));
}

#[test]
fn one_night_of_a_wrong_clock_stops_no_retention() {
    if !can_fake_time() {
        return;
    }
    let place = with_retention(3, "70h");
    const IN_2036: u32 = 3653;
    for day in (1..=5).chain([IN_2036]).chain(6..=14) {
        let missed = (day == IN_2036).then(|| "[ALERT] Mailserver Nights Were Missed".to_owned());
        assert_eq!(night(&place, day), (Some(0), missed.into_iter().collect()), "day {day}");
    }
    let times = place.snapshots();
    let times: Vec<&str> = times.iter().map(|it| &it["time"].as_str().expect("a time")[..10]).collect();
    assert_eq!(times[..3], ["2026-01-12", "2026-01-13", "2026-01-14"], "as if it had not been");
    assert_eq!(times.len(), 4, "and the one from the future, whose age nobody knows");
}

#[test]
fn what_retention_cannot_do_for_three_nights_is_mailed_and_goes_on_by_itself_afterwards() {
    if !can_fake_time() {
        return;
    }
    let place = with_retention(3, "70h");
    for day in 1..=4 {
        assert_eq!(night(&place, day), (Some(0), Vec::new()), "day {day}");
    }
    let broken = place.repo.join("snapshots").join("0".repeat(64));
    fs::write(&broken, b"SNAP? no manifest").expect("is written");
    const UNRETAINED: &str = "[ALERT] Mailserver Old Snapshots Are Not Removed";
    for day in 5..=15 {
        let told = if matches!(day, 7 | 14) { vec![UNRETAINED.to_owned()] } else { Vec::new() };
        assert_eq!(night(&place, day), (Some(0), told), "day {day}");
    }
    assert_eq!(run(&place, 15, &["notify", "--stale"]).status.code(), Some(1));
    fs::remove_file(&broken).expect("it goes");
    assert_eq!(night(&place, 16), (Some(0), Vec::new()));
    assert_eq!(place.snapshots().len(), 3, "more than half had to go, night by night by the same rules");
    assert_eq!(run(&place, 16, &["notify", "--stale"]).status.code(), Some(0));
}

#[test]
fn a_retention_that_is_suddenly_much_shorter_is_refused_and_mailed() {
    if !can_fake_time() {
        return;
    }
    let mut place = with_retention(3, "30d");
    for day in 1..=10 {
        assert_eq!(night(&place, day), (Some(0), Vec::new()), "day {day}");
    }
    place.rest = place.rest.replace("30d", "70h");
    place.write_config();
    assert_eq!((night(&place, 11), night(&place, 12)), ((Some(0), Vec::new()), (Some(0), Vec::new())));
    let told = run(&place, 13, &["backup", "--daily"]);
    assert_eq!(told.status.code(), Some(0));
    place.only_mail().says(&["10 of 13 snapshots, more than half", "snap prune --force"]);
    assert_eq!(place.snapshots().len(), 13);
}

#[test]
fn the_run_after_three_missed_nights_says_when_there_was_one_last() {
    if !can_fake_time() {
        return;
    }
    let place = with_retention(3, "30d");
    assert_eq!((night(&place, 1), night(&place, 2)), ((Some(0), Vec::new()), (Some(0), Vec::new())));
    assert_eq!(night(&place, 5), (Some(0), Vec::new()), "two were missed");
    assert_eq!(run(&place, 6, &["notify", "--stale"]).status.code(), Some(0));
    let stale = run(&place, 9, &["notify", "--stale"]);
    assert_eq!(stale.status.code(), Some(1), "three nights is what is old if nothing is said");
    assert_eq!(subjects(&place), ["[ALERT] Mailserver Backup Is Stale"]);
    assert_eq!(run(&place, 9, &["backup", "--daily"]).status.code(), Some(0));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Nights Were Missed"), "{}", mail.subject);
    mail.says(&["no backup was made for 4 days", "the last whole night was 2026-01-05 03:00:0"]);
    place.forget_mails();
    assert_eq!(night(&place, 10), (Some(0), Vec::new()));
}

#[test]
fn a_run_that_hangs_for_days_is_told_by_those_that_find_the_lock_held() {
    if !can_fake_time() {
        return;
    }
    let mut place = with_retention(3, "30d");
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
    place.rest += &format!(
        "[[component]]\nname = \"hangs\"\n[[component.stream]]\nname = \"s\"\ncommand = [\"cat\", \"{}\"]\n",
        fifo.display()
    );
    place.write_config();
    let mut hanging = at(&place, 2, &["backup", "--daily"]);
    let hanging = hanging.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    wait_until("the run reads", || place.log("snap-2026-01-02.log").contains("[HANGS] begins"));
    assert_eq!(night(&place, 3), (Some(4), vec!["[ALERT] Mailserver Backup Still Running".to_owned()]));
    assert_eq!(run(&place, 6, &["backup", "--daily"]).status.code(), Some(4));
    place.only_mail().says(&["the last whole night was 2026-01-01", "another run is still under way"]);
    fs::write(&fifo, b"a dump").expect("the run goes on");
    assert!(ended(hanging).status.success());
}
