//! What a configured run leaves out: by patterns that are said, and written into its manifest.

use std::fs;

use snap::stage::snapshot::{Manifest, facts};

use crate::place::{Place, text};

/// Returns the manifest of the newest snapshot.
fn newest(place: &Place) -> Manifest {
    place.open().snapshots().expect("lists").all.pop().expect("a snapshot").manifest
}

fn place_with_cache(excludes: &str) -> Place {
    let mut place = Place::new();
    for name in ["mail/cache/a", "mail/cache/b", "mail/letter"] {
        let path = place.path(name);
        fs::create_dir_all(path.parent().expect("lies in a directory")).expect("directories");
        fs::write(path, "x").expect("writes");
    }
    let mail = place.path("mail");
    place.rest =
        format!("[[component]]\nname = \"mail\"\npaths = [\"{}\"]\nexclude = [{excludes}]\n", mail.display());
    place.init();
    place
}

#[test]
fn an_absolute_exclude_leaves_out_what_it_names_and_says_so_the_first_time() {
    let mut place = place_with_cache("");
    let cache = place.path("mail/cache").display().to_string();
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][0]["files"].as_u64()), (0, Some(3)), "{summary}");
    place.rest = place.rest.replace("exclude = []", &format!("exclude = [\"{cache}\", \"*.tmp\"]"));
    let told = format!("now leaves out what the last snapshot has: {cache};");
    let (status, summary) = place.backup(&["--daily", "--dry-run"]);
    assert!(status == 0 && summary["warnings"].to_string().contains(&told), "{summary}");
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!((status, summary["components"][0]["files"].as_u64()), (0, Some(1)), "{summary}");
    assert!(summary["warnings"].to_string().contains(&told), "{summary}");
    let warned = || place.log("snap.log").matches(&told).count();
    assert!(place.log("snap.log").contains("[WARNING] [MAIN] component mail") && warned() == 1);
    let (status, summary) = place.backup(&["--daily"]);
    assert_eq!(
        (status, summary["warnings"].as_array().map(Vec::len), warned()),
        (0, Some(0), 1),
        "{summary}"
    );
}

/// Programs of before did not heed such a pattern, and said nothing of patterns in the manifest.
#[test]
fn an_absolute_exclude_that_an_older_program_did_not_heed_is_said_when_it_begins_to_count() {
    let mut place = place_with_cache("");
    let cache = place.path("mail/cache").display().to_string();
    assert_eq!(place.backup(&["--daily"]).0, 0);
    let mut old = newest(&place);
    old.extra.retain(|(name, _)| name != facts::RULES);
    old.time.seconds += 1;
    let _ = place.open().put_manifest(&old).expect("is put");
    place.rest = place.rest.replace("exclude = []", &format!("exclude = [\"{cache}\"]"));
    let (status, summary) = place.backup(&["--daily"]);
    let told = format!("now leaves out what the last snapshot has: {cache};");
    assert!(status == 0 && summary["warnings"].to_string().contains(&told), "{summary}");
    assert_eq!(summary["files_unmodified"], 1, "{summary}");
}

#[test]
fn a_manifest_says_the_patterns_that_counted_wherever_they_came_from() {
    let place = place_with_cache("\"*.tmp\", \"!keep.tmp\"");
    fs::write(place.path("list"), "\u{feff}*.lock\r\n# no pattern\r\n\r\n/cache\r\n").expect("writes");
    let line = ["-e", "*.bak", "--exclude-from", "list", "--exclude-if-present", ".nobackup", "-x"];
    assert_eq!(place.backup(&line).0, 0);
    let rules = newest(&place).rules().expect("it says them");
    assert_eq!((rules.len(), rules[0].component.as_str(), rules[0].one_file_system), (1, "mail", true));
    assert_eq!(rules[0].excludes, ["*.tmp", "!keep.tmp", "*.bak", "*.lock", "/cache"]);
    assert_eq!(rules[0].exclude_if_present, [b".nobackup"]);
    assert_eq!(place.backup(&[]).0, 0);
    assert_eq!(newest(&place).rules().expect("it says them")[0].excludes, ["*.tmp", "!keep.tmp"]);
}

#[test]
fn config_check_lists_what_absolute_patterns_match() {
    let mut place = place_with_cache("");
    let mail = place.path("mail").display().to_string();
    let patterns = ["cache", "cach", "ca*/[ab]"].map(|name| format!("\"{mail}/{name}\"")).join(", ");
    place.rest = place.rest.replace("exclude = []", &format!("exclude = [{patterns}, \"#old\", \"*.tmp\"]"));
    place.write_config();
    let output = place.snap(&["config", "check"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("mail: exclude")).collect();
    assert_eq!(rows.len(), 4, "{shown}");
    assert!(rows[0].starts_with("ok ") && rows[0].ends_with(&format!("matches {mail}/cache")), "{shown}");
    assert!(rows[1].starts_with("WARNING") && rows[1].ends_with("matches nothing now"), "{shown}");
    assert!(rows[2].ends_with(&format!("matches {mail}/cache/a, {mail}/cache/b")), "{shown}");
    assert!(rows[3].starts_with("WARNING") && rows[3].contains("is a comment"), "{shown}");
}

#[test]
fn a_repository_inside_a_source_is_left_out_and_in_the_log() {
    let mut place = place_with_cache("");
    let all = place.folder.path().display().to_string();
    place.rest = format!("[[component]]\nname = \"all\"\npaths = [\"{all}\"]\nexclude = [\"log\"]\n");
    let (status, summary) = place.backup(&[]);
    assert_eq!(status, 0, "{summary}");
    let log = place.log("snap.log");
    assert!(log.contains(&format!("[INFO] [MAIN] left out: {all}/repo: the repository itself")), "{log}");
    assert!(log.contains(&format!("[INFO] [MAIN] left out: {all}/state: the state directory")), "{log}");
}
