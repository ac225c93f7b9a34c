//! Memory and time of a prune over many chunks: `SNAP_BENCH_CHUNKS=10000000 cargo bench --bench prune`.
//!
//! The repository is made up: 5 files of two chunks for every ten chunks, in directories of 10,000 entries,
//! whose trees are real; packs of content are holes of the right length. Every tenth pack is needed by
//! nothing. The prune runs in a process of its own, so that its peak memory can be told.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench fails by panicking"
)]

#[path = "../tests/common/manifest.rs"]
mod manifest;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use manifest::made_up;
use snap::base::content::{ChunkRef, Content};
use snap::base::directory::{Directory, FrameRow};
use snap::base::entry::{Entry, Kind};
use snap::base::id::{ChunkId, PackId};
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::prune::{Policy, Request, prune};
use snap::repo::config::{Choices, Encryption};
use snap::repo::index::{Index, put_fragment};
use snap::repo::keys::NoSecrets;
use snap::repo::writer::{Writer, commit};
use snap::repo::{Opening, Repository};
use snap::stage::index::{Fragment, PackEntry};
use snap::stage::tree::{self, Stream};
use snap::store::{LocalStore, Name};

const CHUNK_BYTES: u32 = 8192;
const FRAME_CHUNKS: u64 = 128;
const PACK_CHUNKS: u64 = 64 * FRAME_CHUNKS;
const FRAME_BYTES: u32 = 524_288;
const FOLDER_FILES: u64 = 10_000;

fn hash(kind: u8, number: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(&[kind]).update(&number.to_le_bytes()).finalize().as_bytes()
}

fn chunk(number: u64) -> ChunkRef {
    let mut id = [0; 16];
    id.copy_from_slice(&hash(0, number)[..16]);
    ChunkRef { id: ChunkId::from_bytes(id), bytes: CHUNK_BYTES }
}

fn with_repository<R>(place: &Path, act: impl FnOnce(&Opening<'_>) -> R) -> R {
    act(&Opening {
        store: Arc::new(LocalStore::new(place.join("repo"))),
        state: &place.join("state"),
        index: Some(place.join("index.redb")),
        secrets: &NoSecrets,
    })
}

fn pack(number: u64) -> PackEntry {
    let mut directory = Directory::default();
    for frame in 0..PACK_CHUNKS / FRAME_CHUNKS {
        let first = number * PACK_CHUNKS + frame * FRAME_CHUNKS;
        let chunks: Vec<ChunkRef> = (first..first + FRAME_CHUNKS).map(chunk).collect();
        let offset = 1000 + u32::try_from(frame).unwrap() * FRAME_BYTES;
        let (raw_bytes, chunk_count) = (128 * CHUNK_BYTES, 128);
        directory.push(FrameRow { offset, bytes: FRAME_BYTES, raw_bytes, chunk_count }, &chunks);
    }
    let bytes = 1000 + 64 * u64::from(FRAME_BYTES) + 200_000;
    PackEntry { id: PackId::from_bytes(hash(1, number)), bytes, directory }
}

fn entry<'a>(name: &'a [u8], kind: Kind, content: Content<'a>, inode: u64) -> Entry<'a> {
    Entry {
        name,
        kind,
        mode: 0o600,
        uid: 5000,
        gid: 5000,
        user: b"vmail",
        group: b"vmail",
        mtime: Time::new(1_767_000_000 + inode as i64, 0),
        ctime: Time::new(1_767_000_000 + inode as i64, 0),
        btime: None,
        filesystem: 0,
        inode,
        links: 1,
        size: 2 * u64::from(CHUNK_BYTES),
        torn: false,
        device: (0, 0),
        target: b"",
        xattrs: Vec::new(),
        holes: Vec::new(),
        content,
    }
}

fn push(entry: &Entry<'_>, stream: &mut Stream) {
    let mut record = Vec::new();
    tree::push(entry, &mut record).unwrap();
    stream.push_record(&record);
}

fn make(place: &Path, packs: u64) {
    let choices = Choices { encryption: Encryption::None, ..Choices::default() };
    let repository = with_repository(place, |opening| {
        Repository::create(opening, choices, None, &[], Time::new(1, 0)).unwrap()
    });
    let mut fragment = Fragment::default();
    for number in 0..packs {
        let pack = pack(number);
        let path = place.join("repo").join(Name::Pack(pack.id).to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().set_len(pack.bytes).unwrap();
        fragment.packs.push(pack);
        if fragment.packs.len() == 61 || number + 1 == packs {
            put_fragment(&repository, &std::mem::take(&mut fragment)).unwrap();
        }
    }
    let live = (0..packs).filter(|number| number % 10 != 9);
    let mut files =
        live.flat_map(|number| number * PACK_CHUNKS..(number + 1) * PACK_CHUNKS).step_by(2).peekable();
    let threads = std::thread::available_parallelism().unwrap().get();
    let (root, written) = Writer::run(&repository, &Index::default(), threads, |writer| {
        let mut root = Stream::default();
        for folder in 0u64.. {
            if files.peek().is_none() {
                break;
            }
            let mut stream = Stream::default();
            for (at, first) in files.by_ref().take(FOLDER_FILES as usize).enumerate() {
                let name = format!("{:010}.M{first}P1.mx1,S=16384:2,S", 1_767_000_000 + at);
                let list = [chunk(first).to_bytes(), chunk(first + 1).to_bytes()].concat();
                let content = Content { depth: 0, list: &list };
                push(&entry(name.as_bytes(), Kind::File, content, first), &mut stream);
            }
            let content = writer.store_tree(&stream)?;
            let name = format!("{folder:06}");
            push(&entry(name.as_bytes(), Kind::Directory, content.borrowed(), folder), &mut root);
        }
        writer.store_tree(&root)
    })
    .unwrap();
    commit(&repository, Index::default(), written, &made_up(1_767_000_000, root)).unwrap();
}

/// Returns the most memory that this process has had so far, in MB.
fn peak_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn run(place: &Path) {
    let repository = with_repository(place, |opening| Repository::open(opening).unwrap());
    let progress = Progress::default();
    let now = Time::new(1_767_100_000, 0);
    for (name, dry_run) in [("plan", true), ("prune", false)] {
        let mut request = Request::new(Policy::default(), now, TimeZone::UTC, &progress);
        (request.dry_run, request.at_once, request.grace) = (dry_run, true, Duration::ZERO);
        let started = Instant::now();
        let report = prune(&repository, &request).unwrap();
        println!(
            "{name}: {:.2} s, peak {} MB; {} packs deleted",
            started.elapsed().as_secs_f64(),
            peak_mb(),
            report.deleted.packs
        );
    }
}

fn main() {
    if let Some(place) = std::env::var_os("SNAP_BENCH_PLACE") {
        run(Path::new(&place));
        return;
    }
    let chunks: u64 = std::env::var("SNAP_BENCH_CHUNKS").map_or(1_000_000, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let started = Instant::now();
    make(place.path(), chunks.div_ceil(PACK_CHUNKS).max(10));
    println!("{chunks} chunks made up in {:.1} s", started.elapsed().as_secs_f64());
    let status =
        Command::new(std::env::current_exe().unwrap()).env("SNAP_BENCH_PLACE", place.path()).status();
    assert!(status.unwrap().success());
}
