//! What did not happen beside the backup: a sync, a check, a retention. One mail says all that a night finds.

use std::fs;

use crate::place::{Place, text};
use crate::suspects::{can_fake_time, night, run, subjects};

/// A place whose sync and check may be 70 hours ago: three nights, however long programs take to start.
fn place() -> Place {
    let mut place = Place::with_mail(3);
    place.notify = format!("metrics_file = \"{}\"", place.path("snap.prom").display());
    place.rest += "[sync]\nstore = \"s3://copies/mail\"\nmax_age = \"70h\"\n[check]\nmax_age = \"70h\"\n";
    place.write_config();
    place
}

fn with_sendmail(place: &Place, takes_it: bool) {
    let path = place.path("bin/sendmail");
    let script = fs::read_to_string(&path).expect("reads");
    let script = match takes_it {
        true => script.replace("exit 75\n", ""),
        false => script.replace("#!/bin/sh\n", "#!/bin/sh\nexit 75\n"),
    };
    fs::write(&path, script).expect("is written");
}

const BOTH: &str = "[ALERT] Mailserver Sync Is Overdue, Check Is Overdue";
const SYNC: &str = "[ALERT] Mailserver Sync Is Overdue";

#[test]
fn a_sync_and_a_check_that_do_not_happen_are_one_mail_and_then_one_a_week() {
    if !can_fake_time() {
        return;
    }
    let place = place();
    for day in 1..=15 {
        let told = if matches!(day, 4 | 11) { vec![BOTH.to_owned()] } else { Vec::new() };
        assert_eq!(night(&place, day), (Some(0), told.clone()), "day {day}");
        assert_eq!(night(&place, day), (Some(0), Vec::new()), "a second run in the night of day {day}");
        let quiet = run(&place, day, &["notify", "-q", "--stale"]);
        assert_eq!(text(&quiet.stderr), "", "cron has nothing to mail");
        let stale = run(&place, day, &["notify", "--stale"]);
        let error = text(&stale.stderr);
        assert_eq!(stale.status.code(), Some(i32::from(day >= 4)), "day {day}: {error}");
        assert_eq!(
            error.contains("no sync to s3://copies/mail that succeeded is known"),
            day >= 4,
            "{error}"
        );
        assert_eq!(subjects(&place), Vec::<String>::new(), "the night has told it");
    }
    // A check by hand counts.
    assert_eq!(run(&place, 16, &["check"]).status.code(), Some(0));
    assert!(
        text(&run(&place, 16, &["notify", "--stale"]).stderr).contains("no check of all packs"),
        "it read none"
    );
    assert_eq!(run(&place, 16, &["check", "--read-packs"]).status.code(), Some(0));
    let numbers = fs::read_to_string(place.path("snap.prom")).expect("numbers read");
    for line in ["snap_check_last_success_timestamp_seconds 1768532", "snap_check_last_run_exit_status 0"] {
        assert!(numbers.contains(line), "{line}: {numbers}");
    }
    assert_eq!(night(&place, 18), (Some(0), vec![SYNC.to_owned()]), "a week after the second");
    let numbers = fs::read_to_string(place.path("snap.prom")).expect("numbers read");
    assert!(numbers.contains("snap_check_last_success_timestamp_seconds 1768532"), "{numbers}");
    assert!(numbers.contains("snap_check_last_run_duration_seconds "), "{numbers}");
    assert_eq!(night(&place, 19), (Some(0), vec!["[ALERT] Mailserver Check Is Overdue".to_owned()]));
}

#[test]
fn a_clock_that_was_ahead_at_the_last_check_does_not_silence_the_alarm() {
    if !can_fake_time() {
        return;
    }
    let place = place();
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    assert_eq!(run(&place, 2, &["check", "--read-packs"]).status.code(), Some(0));
    assert_eq!(run(&place, 3653, &["check", "--read-packs"]).status.code(), Some(0));
    assert_eq!(night(&place, 4), (Some(0), vec![SYNC.to_owned()]));
    assert_eq!(night(&place, 6), (Some(0), vec!["[ALERT] Mailserver Check Is Overdue".to_owned()]));
}

#[test]
fn what_a_failing_night_finds_besides_is_in_its_own_mail() {
    if !can_fake_time() {
        return;
    }
    let mut place = place();
    place.run = "retries = 0".to_owned();
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    place.rest =
        place.rest.replace("[sync]", "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n[sync]");
    place.write_config();
    assert_eq!(run(&place, 4, &["backup", "--daily"]).status.code(), Some(1));
    let mail = place.only_mail();
    assert!(mail.subject.starts_with("[ALERT] Mailserver Backup Failed - 2026-01-04"), "{}", mail.subject);
    mail.says(&[
        "Found besides\n  no sync to s3://copies/mail that succeeded is known",
        "no check of all packs that found no damage is known",
        "snap config check --run",
        "Read every pack: snap check --read-packs",
    ]);
    place.forget_mails();
    assert_eq!(run(&place, 5, &["backup", "--daily"]).status.code(), Some(1));
    let mail = place.only_mail();
    assert!(!mail.body.contains("Found besides"), "told last night: {}", mail.body);
}

/// Cron mails what is printed: nothing if somebody was told, all of it if not.
#[test]
fn a_quiet_run_prints_nothing_where_its_mail_was_taken_and_the_mail_where_it_was_not() {
    if !can_fake_time() {
        return;
    }
    let mut place = place();
    place.run = "retries = 0".to_owned();
    let quiet = |place: &Place, day: u32| {
        let output = run(place, day, &["backup", "-q", "--daily"]);
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(quiet(&place, 1), (Some(0), String::new()));
    with_sendmail(&place, false);
    let (status, error) = quiet(&place, 4);
    assert_eq!(status, Some(0));
    assert!(error.starts_with(BOTH) && error.contains("Read every pack"), "{error}");
    with_sendmail(&place, true);
    assert_eq!(quiet(&place, 5), (Some(0), String::new()), "it is told now");
    assert_eq!(subjects(&place), [BOTH]);
    place.rest =
        place.rest.replace("[sync]", "[[component]]\nname = \"dkim\"\npaths = [\"/no/such/place\"]\n[sync]");
    place.write_config();
    assert_eq!(quiet(&place, 6), (Some(1), String::new()));
    assert_eq!(subjects(&place), ["[ALERT] Mailserver Backup Failed"]);
    with_sendmail(&place, false);
    let (status, error) = quiet(&place, 7);
    assert_eq!(status, Some(1));
    assert!(
        error.contains("[ERROR] [DKIM]") && error.contains("[ALERT] Mailserver Backup Failed"),
        "{error}"
    );
}

#[test]
fn a_retention_that_no_run_comes_to_is_overdue_and_one_by_hand_counts() {
    if !can_fake_time() {
        return;
    }
    let mut place = Place::with_mail(3);
    place.run = "retries = 0".to_owned();
    place.rest += "[retention]\ndaily = \"30d\"\nmax_age = \"70h\"\n";
    place.write_config();
    assert_eq!(night(&place, 1), (Some(0), Vec::new()));
    let mail = place.path("mail");
    fs::rename(&mail, place.path("away")).expect("mail is away");
    for day in 2..=4 {
        assert_eq!(night(&place, day).0, Some(2), "nothing can be backed up");
    }
    let stale = run(&place, 4, &["notify", "--stale"]);
    let error = text(&stale.stderr);
    assert!(
        error.contains("the last removal of old snapshots by [retention] was 2026-01-01 03:00"),
        "{error}"
    );
    assert_eq!(run(&place, 4, &["prune"]).status.code(), Some(0));
    let stale = run(&place, 4, &["notify", "--stale"]);
    assert!(!text(&stale.stderr).contains("[retention]"), "{}", text(&stale.stderr));
}
