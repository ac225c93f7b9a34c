//! Repositories of earlier format versions are read for ever.
//!
//! `tests/data/v1/` holds two repositories (with encryption and without) of two days of generated
//! mail, and what the two days looked like. To make them anew, before a first release only:
//! `SNAP_GOLDEN_SOURCE=DIR` with `DIR/source-1` and `DIR/source-2` writes the expectations from the sources.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::repo::{check_all, differences, picture, restore_request};
use snap::base::entry::quoted;
use snap::base::progress::Progress;
use snap::op::restore::restore;
use snap::repo::index::Index;
use snap::repo::keys::{Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::repo::{Opening, RepoError, Repository};
use snap::store::LocalStore;

struct Golden;

impl Secrets for Golden {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new("golden passphrase".to_owned())))
    }

    fn identities(&self) -> Result<Vec<age::x25519::Identity>, RepoError> {
        Ok(Vec::new())
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1")
}

/// Returns what a tree looks like, a line for each path; owners are left out, as not every user
/// can restore them.
fn lines(root: &Path) -> Vec<String> {
    let line = |(path, looks): (Vec<u8>, String)| {
        let words: Vec<&str> = looks.split(' ').collect();
        format!("{}\t{} {}", quoted(&path), words[0], words[2..].join(" "))
    };
    picture(root).into_iter().map(line).collect()
}

#[test]
fn a_repository_of_format_1_is_checked_and_restored() {
    let source = std::env::var_os("SNAP_GOLDEN_SOURCE").map(PathBuf::from);
    for day in [1, 2] {
        let expected = data().join(format!("expected-{day}.txt"));
        if let Some(source) = &source {
            let text = lines(&source.join(format!("source-{day}"))).join("\n");
            fs::write(&expected, text + "\n").expect("expectation is written");
        }
        let expected = fs::read_to_string(&expected).expect("expectation reads");
        for kind in ["age", "none"] {
            let place = tempfile::tempdir().expect("temporary folder");
            // A copy: a run may leave a lock or a cache in a repository.
            let copied = Command::new("cp").arg("-r").arg(data().join(kind)).arg(place.path()).status();
            assert!(copied.expect("cp runs").success());
            let opening = Opening {
                store: Arc::new(LocalStore::new(place.path().join(kind))),
                state: &place.path().join("state"),
                index: Some(place.path().join("index.redb")),
                secrets: &Golden,
            };
            let repository = Repository::open(&opening).expect("repository opens");
            let progress = Progress::default();
            let report = check_all(&repository, &Golden);
            assert!(report.is_sound(), "{kind}: {report:?}");
            let snapshots = repository.snapshots().expect("snapshots list").all;
            assert_eq!(snapshots.len(), 2);
            let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 1 << 20);
            let target = place.path().join("out");
            let request = restore_request(b"mail", &target, &progress);
            let report = restore(&reader, &snapshots[day - 1], &Golden, &request).expect("restore");
            assert!(report.lacks.is_empty(), "{:?}", report.lacks);
            let found = lines(&target);
            let split = |lines: Vec<String>| -> common::repo::Picture {
                let pair =
                    |line: String| line.split_once('\t').map(|(a, b)| (a.as_bytes().to_vec(), b.to_owned()));
                lines.into_iter().filter_map(pair).collect()
            };
            let wrong = differences(&split(expected.lines().map(str::to_owned).collect()), &split(found));
            assert_eq!(wrong, Vec::<String>::new(), "{kind}, day {day}");
        }
    }
}
