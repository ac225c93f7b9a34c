//! Two configurations in one repository, and one whose file is renamed.

use std::fs;

use serde_json::{Value, json};

use crate::place::{Place, ended, is_written, text, wait_until};

/// Writes a blog's configuration beside the mail server's, and returns its path.
fn with_blog(place: &Place) -> String {
    fs::create_dir(place.path("www")).expect("folder is made");
    fs::write(place.path("www/index.html"), "a blog").expect("file is written");
    let component = format!("[[component]]\nname = \"www\"\npaths = [\"{}\"]\n", place.path("www").display());
    let text = place.config().replace(&place.rest, &component);
    fs::write(place.path("blog.toml"), text).expect("configuration is written");
    place.path("blog.toml").display().to_string()
}

#[test]
fn two_configurations_in_one_repository_each_have_their_own_names() {
    let place = Place::with_mail(2);
    let blog = with_blog(&place);
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-07T03:00"]).0, 0);
    place.json(&["backup", "--daily", "--time", "2025-11-07T04:00", "--config", &blog]);
    place.json(&["backup", "--time", "2025-11-07T05:00", "mail", "--component", "mail", "--daily"]);
    let listed = |arguments: &[&str]| text(&place.snap(&[&["ls"], arguments].concat()).stdout);
    assert_eq!(listed(&["daily"]), "mail\n");
    assert_eq!(listed(&["daily/2025-11-07", "--config", &blog]), "www\n");
    assert_eq!(listed(&["latest", "--run", "blog"]), "www\n");
    let runs: Vec<Value> = place.snapshots().iter().map(|row| row["run"].clone()).collect();
    assert_eq!(runs, [json!("config"), json!("blog"), json!(null)]);
    assert_eq!(text(&place.snap(&["snapshots", "--run", "blog"]).stdout).lines().count(), 2);

    let repo = place.repo.display().to_string();
    let bare = |arguments: &[&str]| {
        let mut command = place.command(&[arguments, &["--repo", &repo]].concat());
        command.env_remove("SNAP_CONFIG").output().expect("runs")
    };
    let refused = bare(&["restore", "latest", "--target", "out"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("blog on ") && said.contains("config on ") && said.contains("--run NAME"),
        "{said}"
    );
    assert_eq!(text(&bare(&["ls", "latest", "--run", "config"]).stdout), "mail\n");
    let forgotten = place.json(&["prune", "--forget", "daily", "--run", "blog", "--dry-run"]);
    assert_eq!(forgotten["snapshots_forgotten"], 1);
    let shown = text(&place.snap(&["config", "check"]).stdout);
    assert!(shown.contains("1 of config on ") && shown.contains("others here: blog on "), "{shown}");
}

#[test]
fn a_run_of_another_configuration_waits_for_nobody() {
    let mut place = Place::with_mail(1);
    let blog = with_blog(&place);
    let (begun, go) = place.add_waiting_dump();
    let first = place.spawn(&["backup", "--daily"]);
    wait_until("the first run is under way", || is_written(&begun));
    let beside = place.snap(&["backup", "--daily", "--config", &blog]);
    let refused = place.snap(&["backup", "--daily"]);
    let renamed = place.path("mailserver.toml");
    fs::copy(place.path("config.toml"), &renamed).expect("is copied");
    fs::write(&go, "").expect("file is made");
    assert_eq!(ended(first).status.code(), Some(0));
    assert_eq!(beside.status.code(), Some(0), "{}", text(&beside.stderr));
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
}

#[test]
fn a_run_of_a_renamed_file_waits_for_one_of_the_name_that_it_goes_on_under() {
    let mut place = Place::with_mail(1);
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let (begun, go) = (place.path("begun"), place.path("go"));
    let before = format!(
        "[component.before]\ncommand = [\"sh\", \"-c\", \"echo x >{}; while ! test -e {}; do sleep 0.01; done\"]\n",
        begun.display(),
        go.display()
    );
    place.rest += &before;
    place.write_config();
    let first = place.spawn(&["backup", "--daily"]);
    wait_until("the first run is under way", || is_written(&begun));
    let renamed = place.path("mailserver.toml").display().to_string();
    fs::copy(place.path("config.toml"), &renamed).expect("is copied");
    let second = place.snap(&["backup", "--daily", "--config", &renamed]);
    fs::write(&go, "").expect("file is made");
    assert_eq!(ended(first).status.code(), Some(0));
    assert_eq!(second.status.code(), Some(4), "{}", text(&second.stderr));
}

#[test]
fn a_file_that_is_renamed_goes_on_under_the_old_name_with_a_warning() {
    let mut place = Place::with_mail(2);
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-06T03:00"]).0, 0);
    fs::rename(place.path("config.toml"), place.path("mailserver.toml")).expect("is renamed");
    let renamed = place.path("mailserver.toml").display().to_string();
    let run_of =
        |place: &Place, arguments: &[&str]| place.snap(&[arguments, &["--config", &renamed]].concat());
    let run = |arguments: &[&str]| run_of(&place, arguments);
    let said = text(&run(&["backup", "--daily", "--time", "2025-11-07T03:00"]).stderr);
    assert!(said.contains("[WARNING] [INIT]") && said.contains("set run.name = \"config\""), "{said}");
    let listed = run(&["--json", "snapshots"]);
    assert_eq!(text(&listed.stdout).matches("\"run\":\"config\"").count(), 2, "{}", text(&listed.stdout));
    let earlier = run(&["ls", "daily~1"]);
    assert_eq!((text(&earlier.stdout).as_str(), earlier.status.code()), ("mail\n", Some(0)));
    let checked = text(&run(&["config", "check"]).stdout);
    assert!(checked.contains("2 of config on ") && checked.contains("WARNING  run.name"), "{checked}");
    // Once it says its name nothing is odd any more.
    place.run += "\nname = \"config\"";
    fs::write(&renamed, place.config()).expect("configuration is written");
    assert_eq!(
        text(&run_of(&place, &["backup", "--daily", "-v", "--time", "2025-11-08T03:00"]).stderr)
            .matches("WARNING")
            .count(),
        0
    );
    assert_eq!(text(&run_of(&place, &["ls", "daily~2"]).stdout), "mail\n");
}

#[test]
fn after_a_loss_a_machine_of_another_name_goes_on_as_the_old_one() {
    let mut place = Place::with_mail(2);
    assert_eq!(place.backup(&["--daily", "--host", "mail1", "--time", "2025-11-06T03:00"]).0, 0);
    let refused = place.snap(&["ls", "daily"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said.contains("there are those of config on mail1 (1 snapshot)") && said.contains("--host"),
        "{said}"
    );
    assert_eq!(text(&place.snap(&["ls", "daily", "--host", "mail1"]).stdout), "mail\n");
    assert_eq!(text(&place.snap(&["ls", "daily", "--host", "any"]).stdout), "mail\n");
    place.run += "\nhost = \"mail1\"";
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-07T03:00"]).0, 0);
    assert_eq!(text(&place.snap(&["ls", "daily~1"]).stdout), "mail\n");
    assert!(place.snapshots().iter().all(|row| row["host"] == "mail1"));
}

#[test]
fn a_name_that_nothing_can_be_called_is_refused() {
    let mut place = Place::with_mail(1);
    for line in ["name = \"\"", "name = \" \"", "host = \"a\\nb\"", "host = \"any\""] {
        place.run = line.to_owned();
        place.write_config();
        let refused = place.snap(&["config", "check"]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains("run.") && said.contains("can't be a name"), "{said}");
    }
}

#[test]
fn the_list_marks_what_no_name_stands_for() {
    let place = Place::with_mail(2);
    assert_eq!(place.backup(&["--daily", "--time", "2025-11-06T03:00"]).0, 0);
    assert_eq!(place.backup(&["--daily", "--time", "2099-11-07T03:00"]).0, 0);
    let stream =
        place.snap(&["backup", "--stdin-name", "a.sql", "--time", "2025-11-07T03:00", "--", "echo", "x"]);
    assert_eq!(stream.status.code(), Some(0));
    let shown = text(&place.snap(&["snapshots"]).stdout);
    let marks: Vec<&str> =
        shown.lines().map(|line| line.rsplit("  ").next().unwrap_or_default().trim()).collect();
    assert_eq!((marks[0], marks[2], marks[3]), ("marks", "part", "future"), "{shown}");
    let rows = place.snapshots();
    let facts = |row: &Value| (row["night"].clone(), row["future"].clone(), row["run"].clone());
    assert_eq!(facts(&rows[0]), (json!(true), json!(false), json!("config")));
    assert_eq!(facts(&rows[1]), (json!(false), json!(false), json!(null)));
    assert_eq!(facts(&rows[2]), (json!(true), json!(true), json!("config")));
    assert_eq!(place.json(&["find", "cur", "--snapshot", "daily"])["snapshot"], rows[0]["id"]);
    let refused = place.snap(&["ls", "daily/2099-11-07"]);
    assert!(
        text(&refused.stderr).contains("is dated in the future: name it by its id"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(text(&place.snap(&["ls", rows[2]["id"].as_str().expect("text")]).stdout), "mail\n");
}
