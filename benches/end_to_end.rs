//! Backup and restore of a generated Maildir: `cargo bench --bench end_to_end`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench fails by panicking"
)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::{backup, restore};
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::keys::{NoSecrets, Passphrase, Secrets};
use snap::repo::reader::Reader;
use snap::repo::{Opening, RepoError, Repository};
use snap::store::LocalStore;
use tempfile::TempDir;

const MESSAGES: usize = 4000;

struct Known;

impl Secrets for Known {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new("correct horse".to_owned())))
    }

    fn identities(&self) -> Result<Vec<age::x25519::Identity>, RepoError> {
        Ok(Vec::new())
    }
}

fn create(place: &Path) -> Repository {
    let opening = Opening {
        store: Arc::new(LocalStore::new(place.join("repo"))),
        state: &place.join("state"),
        index: Some(place.join("repo/index.redb")),
        secrets: &NoSecrets,
    };
    let passphrase = Passphrase::new("correct horse".to_owned());
    Repository::create(&opening, Choices::default(), Some(&passphrase), &[], Time::new(1, 0)).unwrap()
}

fn back_up(repository: &Repository, source: &Path) {
    let threads = std::thread::available_parallelism().unwrap().get();
    let component = backup::Component {
        name: "mail".to_owned(),
        directory: b"mail".to_vec(),
        paths: vec![source.to_owned()],
        streams: Vec::new(),
        excludes: Vec::new(),
        care: backup::Care::default(),
    };
    let request = backup::Request {
        components: vec![component],
        rules: backup::Rules::default(),
        tags: Vec::new(),
        time: Time::new(2, 0),
        began: Time::new(2, 0),
        host: "bench".to_owned(),
        user: "bench".to_owned(),
        run: None,
        is_night: true,
        threads,
        read_threads: threads,
        dry_run: false,
        progress: &Progress::default(),
        listener: None,
    };
    assert!(backup::backup(repository, request).unwrap().is_whole());
}

fn restore_all(repository: &Repository, target: &Path) {
    let snapshots = repository.snapshots().unwrap().all;
    let reader = Reader::new(repository, Index::open(repository).unwrap(), 32 << 20);
    let progress = Progress::default();
    let request = restore::Request {
        path: Vec::new(),
        target: target.to_owned(),
        components: Vec::new(),
        include: Vec::new(),
        exclude: Vec::new(),
        overwrite: restore::Overwrite::Never,
        is_continued: false,
        delete: false,
        force: false,
        consent: &restore::Unattended,
        own_places: Vec::new(),
        configured: None,
        labels: false,
        numeric_ids: false,
        dry_run: false,
        verify: false,
        threads: std::thread::available_parallelism().unwrap().get(),
        progress: &progress,
    };
    let report = restore::restore(&reader, snapshots.last().unwrap(), &Known, &request).unwrap();
    assert!(report.lacks.is_empty());
}

fn end_to_end(c: &mut Criterion) {
    let source = tempfile::tempdir().unwrap();
    let mut bytes = 0;
    for side in ["new", "cur", "tmp"] {
        fs::create_dir(source.path().join(side)).unwrap();
    }
    for (number, message) in common::messages(MESSAGES).iter().enumerate() {
        bytes += message.len() as u64;
        fs::write(source.path().join(format!("cur/17670{number:05}.M1P1.mx1:2,S")), message).unwrap();
    }
    let mut group = c.benchmark_group("end_to_end");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    let fresh = || {
        let place = tempfile::tempdir().unwrap();
        let repository = create(place.path());
        (place, repository)
    };
    group.bench_function("backup/first", |b| {
        b.iter_batched_ref(
            fresh,
            |(_, repository)| back_up(repository, source.path()),
            BatchSize::PerIteration,
        );
    });
    let (place, repository) = fresh();
    back_up(&repository, source.path());
    group.bench_function("backup/unchanged", |b| b.iter(|| back_up(&repository, source.path())));
    repository.unlock(&Known).unwrap(); // 0.15 s of key derivation, once
    let target = |place: &TempDir| tempfile::tempdir_in(place.path()).unwrap();
    group.bench_function("restore", |b| {
        b.iter_batched_ref(
            || target(&place),
            |target| restore_all(&repository, target.path()),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
