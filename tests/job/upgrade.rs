//! A repository of version 0.1, whose manifests say nothing of names and nights, in the hands of this one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use snap::base::id::SnapshotId;
use snap::base::time::Time;
use snap::stage::snapshot::{Component, Manifest, Status};
use snap::store::Name;

use crate::place::{Place, text};

const DAY: i64 = 86_400;
/// 2025-11-07 03:00 UTC, the last of forty nights.
const LAST: i64 = 1_762_484_400;
const NIGHTS: i64 = 40;

/// A place whose configuration has `mail` and `mysql`, and a blog's beside it with a `mysql` of its own; each keeps
/// daily snapshots for 30 days.
fn place() -> Place {
    let mut place = Place::with_mail(2);
    fs::create_dir(place.path("www")).expect("folder is made");
    fs::write(place.path("www/index.html"), "a blog").expect("file is written");
    let rules = "[retention]\ndaily = \"30d\"\n";
    let dump = |name: &str| {
        format!(
            "[[component]]\nname = \"mysql\"\n[[component.stream]]\nname = \"{name}\"\ncommand = [\"echo\", \"x\"]\n"
        )
    };
    let www = format!("[[component]]\nname = \"www\"\npaths = [\"{}\"]\n", place.path("www").display());
    place.rest = format!("{www}{}{rules}", dump("blog.sql"));
    fs::write(place.path("blog.toml"), place.config()).expect("configuration is written");
    place.rest = format!("{}{}{rules}", place.mail_component(), dump("usermgmt.sql"));
    place.write_config();
    place
}

/// A made-up history of version 0.1: what each snapshot is called here, with its id.
struct History {
    ids: BTreeMap<String, SnapshotId>,
}

impl History {
    fn id(&self, name: &str) -> String {
        self.ids[name].to_string()
    }
}

/// Puts snapshots as version 0.1 made them: forty nights of the mail server and of the blog, an hour apart; of the
/// oldest day also the mail server's dump by itself; and the mail server's nights of the last 35 days without `mysql`, which
/// could not be backed up.
fn make_history(place: &Place) -> History {
    let made = |arguments: &[&str]| {
        let output = place.snap(&[&["--json", "backup"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let summary: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
        summary["snapshot"].as_str().unwrap().parse::<SnapshotId>().unwrap()
    };
    let blog = place.path("blog.toml").display().to_string();
    let patterns = [
        made(&["--daily"]),
        made(&["--daily", "--config", &blog]),
        made(&["--daily", "--component", "mysql"]),
    ];
    let repository = place.open();
    let [mail, blog, part] = patterns.map(|id| {
        let mut manifest = repository.manifest(id).expect("manifest reads");
        manifest.extra.clear();
        repository.store().delete(&Name::Snapshot(id)).expect("pattern goes");
        manifest
    });
    let mut ids = BTreeMap::new();
    let mut put = |name: String, seconds: i64, pattern: &Manifest, failed: Option<&str>| {
        let mut manifest = Manifest { time: Time::new(seconds, 0), parent: None, ..pattern.clone() };
        let is_failed = |component: &&mut Component| Some(component.name.as_str()) == failed;
        manifest
            .components
            .iter_mut()
            .filter(is_failed)
            .for_each(|component| component.status = Status::Failed);
        ids.insert(name, repository.put_manifest(&manifest).expect("manifest is put").0);
    };
    for ago in 0..NIGHTS {
        let night = LAST - ago * DAY;
        put(format!("mail {ago}"), night, &mail, (ago < 35).then_some("mysql"));
        put(format!("blog {ago}"), night + 3600, &blog, None);
        if ago % 10 == 5 && ago >= 35 {
            put(format!("part {ago}"), night + 6 * 3600, &part, None);
        }
    }
    History { ids }
}

/// Returns the names of the snapshots that the configured retention keeps.
fn kept(place: &Place, history: &History, config: &str) -> BTreeSet<String> {
    let output = place.snap(&["--json", "prune", "--dry-run", "--config", config]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    let kept = rows.iter().filter(|row| row["type"] == "snapshot" && row["kept"] == true);
    let kept: BTreeSet<&str> = kept.map(|row| row["id"].as_str().expect("text")).collect();
    let names = history.ids.iter().filter(|(_, id)| kept.contains(id.to_string().as_str()));
    names.map(|(name, _)| name.clone()).collect()
}

fn named(place: &Place, config: &str, spec: &str) -> String {
    let found = place.json(&["find", "*", "--snapshot", spec, "--config", config]);
    found["snapshot"].as_str().expect("text").to_owned()
}

#[test]
fn a_repository_of_0_1_keeps_its_names_its_retention_and_its_last_good_nights() {
    let place = place();
    let history = make_history(&place);
    let old = place.path("config.toml").display().to_string();
    let (renamed, blog) = (place.path("mailserver.toml"), place.path("blog.toml"));
    fs::copy(place.path("config.toml"), &renamed).expect("configuration is copied");
    let (renamed, blog) = (renamed.display().to_string(), blog.display().to_string());
    // Thirty days of each, and the last night in which the mail server's dump was whole.
    let expected: BTreeSet<String> =
        (0..30).flat_map(|ago| [format!("mail {ago}"), format!("blog {ago}")]).collect();
    for config in [&old, &renamed, &blog] {
        let kept = kept(&place, &history, config);
        let more: Vec<&String> = kept.difference(&expected).collect();
        assert!(kept.is_superset(&expected), "{config}");
        assert_eq!(more, ["part 35"], "{config}");
    }
    for config in [&old, &renamed] {
        for (spec, meant) in [
            ("latest", "mail 0"),
            ("daily", "mail 0"),
            ("daily~1", "mail 1"),
            ("latest~39", "mail 39"),
            ("daily/2025-11-07", "mail 0"),
            ("daily/2025-10-03", "mail 35"),
            ("before:2025-11-01", "mail 7"),
        ] {
            assert_eq!(named(&place, config, spec), history.id(meant), "{config}: {spec}");
        }
        let checked = text(&place.snap(&["config", "check", "--config", config]).stdout);
        assert!(checked.contains("takes 41 older snapshots as its own"), "{checked}");
        assert!(checked.contains("40 nights") && !checked.contains("WARNING  run.name"), "{checked}");
        let taken = text(&place.snap(&["ls", "latest", "--config", config]).stderr);
        assert!(
            taken.contains("mysql could not be backed up") && taken.contains("of 2025-10-03 09:00"),
            "{taken}"
        );
    }
    assert_eq!(named(&place, &blog, "latest"), history.id("blog 0"));
    assert_eq!(named(&place, &blog, "daily/2025-11-05"), history.id("blog 2"));

    // The first night of this version says its name; a file that is renamed after that splits nothing.
    let run = |config: &str, time: &str| {
        let output = place.snap(&["--json", "backup", "--daily", "--time", time, "--config", config]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let summary: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
        (summary["snapshot"].as_str().unwrap().to_owned(), text(&output.stderr))
    };
    let (first, said) = run(&old, "2025-11-08T03:00");
    assert!(!said.contains("run.name"), "{said}");
    let (second, said) = run(&renamed, "2025-11-09T03:00");
    assert!(said.contains("set run.name = \"config\""), "{said}");
    for config in [&old, &renamed] {
        for (spec, meant) in [
            ("daily", &second),
            ("daily~1", &first),
            ("daily~2", &history.id("mail 0")),
            ("daily~9", &history.id("mail 7")),
        ] {
            assert_eq!(&named(&place, config, spec), meant, "{config}: {spec}");
        }
    }
    let (blogs, _) = run(&blog, "2025-11-09T04:00");
    assert_eq!(
        [named(&place, &blog, "daily"), named(&place, &blog, "daily~1")],
        [blogs, history.id("blog 0")]
    );
    assert_eq!(named(&place, &renamed, "daily"), second);
}
