//! What a prune reads of the trees, and how often.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::Noise;
use common::manifest::made_up;
use common::repo::{backup, check_all, create_plain, differences, picture, restore};
use common::watched::WatchedStore;
use jiff::tz::TimeZone;
use snap::base::content::{ChunkRef, Content, ContentBuf, refs};
use snap::base::entry::{Entry, Kind};
use snap::base::id::ChunkId;
use snap::base::kind::FrameKind;
use snap::base::progress::Progress;
use snap::base::time::Time;
use snap::op::prune::{Policy, Report, Request, prune};
use snap::repo::config::Choices;
use snap::repo::index::Index;
use snap::repo::reader::Reader;
use snap::repo::writer::{Writer, commit};
use snap::repo::{RepoError, Repository};
use snap::stage::frame::RawFrame;
use snap::stage::tree::{self, Entries, Stream};
use snap::store::{MemoryStore, Name};

const FOLDERS: usize = 8;
const ENTRIES: usize = 16_000;

fn entry<'a>(name: &'a [u8], kind: Kind, content: Content<'a>) -> Entry<'a> {
    Entry {
        name,
        kind,
        mode: 0o600,
        uid: 0,
        gid: 0,
        user: b"",
        group: b"",
        mtime: Time::new(1, 0),
        ctime: Time::new(1, 0),
        btime: None,
        filesystem: 0,
        inode: 1,
        links: 1,
        size: 0,
        torn: false,
        device: (0, 0),
        target: b"",
        xattrs: Vec::new(),
        holes: Vec::new(),
        content,
    }
}

fn push(entry: &Entry<'_>, stream: &mut Stream, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    tree::push(entry, bytes).expect("entry is written");
    stream.push_record(&bytes[start..]);
}

/// How chunks of trees are made.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// Between records, as they are.
    Between,
    /// Anywhere, as they once were.
    Anywhere,
}

/// Stores a tree.
fn store(writer: &Writer<'_>, entries: &[u8], ends: Stream, cut: Cut) -> Result<ContentBuf, RepoError> {
    if cut == Cut::Between {
        return writer.store_tree(&ends);
    }
    let mut stream = Stream::default();
    entries.chunks(1000).for_each(|piece| stream.push_record(piece)); // ends where no record does
    writer.store_tree(&stream)
}

/// Makes a snapshot of folders whose files have the given content, and one of which has all of it, twice.
fn snapshot_of(repository: &Repository, seconds: i64, files: &[Vec<[u8; 20]>], cut: Cut) {
    let index = Index::open(repository).expect("index opens");
    let made = Writer::run(repository, &index, 1, |writer| {
        let (mut root, mut root_bytes) = (Stream::default(), Vec::new());
        for (number, folder) in files.iter().enumerate() {
            let (mut stream, mut bytes) = (Stream::default(), Vec::new());
            let all = writer.store_list([folder.concat(), folder.concat()].concat())?;
            let mut add = |name: &str, content: Content<'_>| {
                push(&entry(name.as_bytes(), Kind::File, content), &mut stream, &mut bytes);
            };
            add("+", all.borrowed());
            for (number, list) in folder.iter().enumerate() {
                add(&format!("{number:06}"), Content { depth: 0, list });
            }
            let content = store(writer, &bytes, stream, cut)?;
            let own = format!("{number}");
            push(&entry(own.as_bytes(), Kind::Directory, content.borrowed()), &mut root, &mut root_bytes);
        }
        store(writer, &root_bytes, root, cut)
    });
    let (root, written) = made.expect("trees are written");
    let _ = commit(repository, index, written, &made_up(seconds, root)).expect("snapshot is made");
}

fn run(repository: &Repository, keep_last: u32, dry_run: bool) -> Report {
    let progress = Progress::default();
    let policy = Policy { keep_last, ..Policy::default() };
    let mut request = Request::new(policy, Time::new(100, 0), TimeZone::UTC, &progress);
    request.unused_percent_max = 0.0;
    (request.dry_run, request.at_once, request.force) = (dry_run, true, true);
    prune(repository, &request).expect("prune")
}

#[test]
fn frames_of_trees_are_read_once_and_in_ascending_order() {
    let state = tempfile::tempdir().expect("temporary folder");
    let mut noise = Noise::new(common::seed());
    let disk = WatchedStore::default();
    let repository =
        create_plain(Arc::new(disk.clone()), state.path(), Choices::default()).expect("repository is made");
    let mut draw = || {
        let bytes = noise.bytes(ChunkId::BYTES);
        let id = ChunkId::from_bytes(bytes.try_into().expect("16 bytes"));
        ChunkRef { id, bytes: 5000 }.to_bytes()
    };
    let mut files: Vec<Vec<[u8; 20]>> =
        (0..FOLDERS).map(|_| (0..ENTRIES).map(|_| draw()).collect()).collect();
    for day in 0..5 {
        for list in files.iter_mut().flat_map(|folder| folder.iter_mut().skip(day).step_by(60)) {
            *list = draw();
        }
        snapshot_of(&repository, 1 + day as i64, &files, Cut::Between);
    }
    let index = Index::open_without_cache(&repository).expect("index opens");
    let frames: HashMap<Name, usize> =
        index.packs().map(|(_, pack, _)| (Name::Pack(pack.id), pack.frames.len())).collect();
    let count: usize = frames.values().sum();
    assert!(count > 24, "{count} frames: more than any memory for frames holds");
    drop(index);
    _ = disk.take_reads();
    let report = run(&repository, 4, true);
    assert_eq!((report.kept(), report.forgotten()), (4, 1));
    let reads: Vec<_> = disk.take_reads().into_iter().filter(|(name, _)| frames.contains_key(name)).collect();
    let distinct: HashSet<_> = reads.iter().collect();
    assert_eq!(reads.len(), distinct.len(), "a frame was read again");
    assert_eq!(reads.len(), count);
    let mut left: HashMap<Name, u64> = HashMap::new();
    let mut packs = Vec::new();
    for (name, range) in &reads {
        let before = left.insert(*name, range.end);
        assert!(before.is_none_or(|end| end <= range.start), "{name}: goes back to byte {}", range.start);
        if packs.last() != Some(name) {
            packs.push(*name);
        }
    }
    assert_eq!(packs.len(), left.len(), "a pack was left and read again");
}

/// Stores pieces of content, of which the first ones are there already; returns the references.
fn contents(repository: &Repository, from: usize, to: usize) -> Vec<[u8; 20]> {
    let index = Index::open(repository).expect("index opens");
    let namer = repository.writer_keys().namer(FrameKind::Content);
    let made = Writer::run(repository, &index, 1, |writer| {
        let mut list = Vec::new();
        let mut frame = RawFrame::new(FrameKind::Content);
        for number in from..to {
            let bytes = number.to_le_bytes();
            let chunk = ChunkRef { id: namer.name(&bytes), bytes: 8 };
            list.push(chunk.to_bytes());
            if writer.claim(chunk)? {
                frame.push(chunk, &bytes);
            }
            if frame.is_full_for(8, 8000)
                && let Some(full) = frame.take()
            {
                writer.push_frame(full)?;
            }
        }
        frame.take().map_or(Ok(()), |frame| writer.push_frame(frame))?;
        Ok(list)
    });
    made.expect("content is written").0 // orphans until the next run lists them
}

/// Reads all that the newest snapshot needs; returns how many chunks of content that is, and how deep the lists of
/// folders and of files are nested.
fn read_all(repository: &Repository) -> (usize, u8, u8) {
    let snapshot = repository.snapshots().expect("snapshots list").all.pop().expect("a snapshot");
    let reader = Reader::new(repository, Index::open(repository).expect("index opens"), 32 << 20);
    let (mut count, mut of_folders, mut of_files) = (0, 0, 0);
    let root = reader.content(snapshot.manifest.root.borrowed()).expect("root reads");
    for folder in Entries::new(&root).map(|entry| entry.expect("entry reads").1) {
        of_folders = of_folders.max(folder.content.depth);
        let stream = reader.content(folder.content).expect("folder reads");
        for file in Entries::new(&stream).map(|entry| entry.expect("entry reads").1) {
            of_files = of_files.max(file.content.depth);
            let list = reader.flatten(file.content).expect("list reads");
            for chunk in refs(&list) {
                reader.chunk(chunk).expect("content reads");
                count += 1;
            }
        }
    }
    (count, of_folders, of_files)
}

/// Of folders so large that their lists are stored too, and of files whose lists' lists are.
#[test]
fn nested_lists_and_trees_cut_anywhere_keep_what_they_need() {
    const COUNT: usize = 9000;
    for (old, new) in [
        (Cut::Between, Cut::Between),
        (Cut::Anywhere, Cut::Anywhere),
        (Cut::Anywhere, Cut::Between),
        (Cut::Between, Cut::Anywhere),
    ] {
        let state = tempfile::tempdir().expect("temporary folder");
        let store = Arc::new(MemoryStore::default());
        let repository = create_plain(store, state.path(), Choices::default()).expect("repository is made");
        let first = contents(&repository, 0, COUNT);
        snapshot_of(&repository, 1, std::slice::from_ref(&first), old);
        let second = contents(&repository, COUNT, COUNT + COUNT / 2);
        let kept: Vec<_> = first.iter().step_by(2).chain(&second).copied().collect();
        snapshot_of(&repository, 2, &[kept.clone(), kept[..1].to_vec()], new);
        let report = run(&repository, 1, false);
        assert_eq!((report.kept(), report.forgotten()), (1, 1));
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert!(report.deleted.packs > 0 && report.bytes_after < report.bytes_before, "{report:?}");
        assert_eq!(read_all(&repository), (3 * kept.len() + 3, 1, 2));
        let report = run(&repository, 1, true);
        assert_eq!(
            (report.condemned.packs, report.repacked.packs),
            (0, 0),
            "nothing dead is left: {report:?}"
        );
    }
}

/// Makes a file whose entry is longer than any chunk of a tree: it has a hole after every block.
fn perforated(path: &Path, blocks: u64) {
    let file = fs::File::create(path).expect("file is made");
    for block in 0..blocks {
        file.write_all_at(&[block as u8; 100], block * 65_536).expect("file is written");
    }
}

/// The chunks of a directory within the root.
fn chunks_of(repository: &Repository, reader: &Reader<'_>, name: &[u8]) -> Vec<Vec<u8>> {
    let snapshot = repository.snapshots().expect("snapshots list").all.pop().expect("a snapshot");
    let mut content = snapshot.manifest.root;
    for name in [b"mail", name] {
        let stream = reader.content(content.borrowed()).expect("tree reads");
        let mut entries = Entries::new(&stream).map(|entry| entry.expect("entry reads").1);
        let own = entries.find(|entry| entry.name == name).map(|entry| entry.content.to_owned());
        content = own.expect("the directory is there");
    }
    let ContentBuf { depth, list } = content;
    let list = reader.flatten(Content { depth, list: &list }).expect("list reads");
    refs(&list).map(|chunk| reader.chunk(chunk).expect("chunk reads")).collect()
}

#[test]
fn a_tree_whose_chunks_end_inside_a_record_loses_nothing() {
    let (source, state) =
        (tempfile::tempdir().expect("temporary folder"), tempfile::tempdir().expect("temporary folder"));
    let disk = MemoryStore::default();
    let mut noise = Noise::new(3);
    let repository =
        create_plain(Arc::new(disk), state.path(), Choices::default()).expect("repository is made");
    let folder = source.path().join("more");
    fs::create_dir(&folder).expect("folder is made");
    for number in 0..300 {
        fs::write(folder.join(format!("{number:03}")), noise.bytes(300)).expect("file is written");
        fs::write(source.path().join(format!("{number:03}")), noise.bytes(300)).expect("file is written");
    }
    perforated(&folder.join("150 holes"), 4000);
    let _ = backup(&repository, source.path(), 1).expect("backup");
    for number in (0..300).step_by(40) {
        fs::write(folder.join(format!("{number:03}")), noise.bytes(200)).expect("file is written");
    }
    let _ = backup(&repository, source.path(), 2).expect("backup");
    let before = picture(source.path());

    let reader = Reader::new(&repository, Index::open(&repository).expect("index opens"), 8 << 20);
    let chunks = chunks_of(&repository, &reader, b"more");
    let is_whole = |chunk: &Vec<u8>| Entries::new(chunk).all(|entry| entry.is_ok());
    let whole = chunks.iter().filter(|chunk| is_whole(chunk)).count();
    assert!(whole > 4 && whole < chunks.len(), "{whole} of {} chunks can be read alone", chunks.len());
    drop(reader);

    let report = run(&repository, 1, false);
    assert_eq!((report.kept(), report.forgotten()), (1, 1));
    assert!(report.bytes_after < report.bytes_before && report.notes.is_empty(), "{report:?}");
    let snapshot = repository.snapshots().expect("snapshots list").all.pop().expect("a snapshot");
    let target = tempfile::tempdir().expect("temporary folder");
    let restored = restore(&repository, &snapshot, target.path()).expect("restore ends");
    assert!(restored.lacks.is_empty(), "{:?}", restored.lacks);
    assert_eq!(differences(&before, &picture(target.path())), Vec::<String>::new());
}

/// What `check` calls damaged, whoever reads it whole finds damaged: what it needs is not known.
#[test]
fn a_tree_that_check_calls_damaged_is_not_taken_for_good_by_prune() {
    type Make = fn(&Writer<'_>) -> Result<ContentBuf, RepoError>;
    fn tree(writer: &Writer<'_>, entries: &[Entry<'_>]) -> Result<ContentBuf, RepoError> {
        let (mut stream, mut bytes) = (Stream::default(), Vec::new());
        entries.iter().for_each(|entry| push(entry, &mut stream, &mut bytes));
        writer.store_tree(&stream)
    }
    fn many(writer: &Writer<'_>, letter: char) -> Result<ContentBuf, RepoError> {
        let names: Vec<String> = (0..200).map(|number| format!("{letter}{number:03}")).collect();
        let entries: Vec<_> =
            names.iter().map(|name| entry(name.as_bytes(), Kind::File, Content::default())).collect();
        tree(writer, &entries)
    }
    let ways: [(&str, Make); 5] = [
        ("names descend in a chunk", |writer| {
            let [b, a] = [&b"b"[..], b"a"].map(|name| entry(name, Kind::File, Content::default()));
            tree(writer, &[b, a])
        }),
        ("names descend from one chunk to the next", |writer| {
            let (b, a) = (many(writer, 'b')?, many(writer, 'a')?);
            assert_eq!((b.depth, a.depth), (0, 0));
            assert!(a.list.len() > 20, "more than one chunk");
            Ok(ContentBuf { depth: 0, list: [b.list, a.list].concat() })
        }),
        ("a chunk is there twice", |writer| {
            let a = many(writer, 'a')?;
            Ok(ContentBuf { depth: 0, list: [a.list.clone(), a.list].concat() })
        }),
        ("a name leaves the directory", |writer| {
            tree(writer, &[entry(b"..", Kind::File, Content::default())])
        }),
        ("a mode has bits that no mode has", |writer| {
            tree(writer, &[Entry { mode: 0o1_000_000, ..entry(b"a", Kind::File, Content::default()) }])
        }),
    ];
    for (what, make) in ways {
        let state = tempfile::tempdir().expect("temporary folder");
        let repository = create_plain(Arc::new(MemoryStore::default()), state.path(), Choices::default())
            .expect("repository is made");
        let index = Index::open(&repository).expect("index opens");
        let made = Writer::run(&repository, &index, 1, |writer| {
            let broken = make(writer)?;
            tree(writer, &[entry(b"folder", Kind::Directory, broken.borrowed())])
        });
        let (root, written) = made.expect("trees are written");
        let _ = commit(&repository, index, written, &made_up(1, root)).expect("snapshot is made");
        let checked = check_all(&repository, &snap::repo::keys::NoSecrets);
        assert!(!checked.is_sound(), "{what}: check");
        let progress = Progress::default();
        let policy = Policy { keep_last: 1, ..Policy::default() };
        let mut request = Request::new(policy, Time::new(100, 0), TimeZone::UTC, &progress);
        (request.at_once, request.force) = (true, true);
        let refused = prune(&repository, &request);
        assert!(matches!(refused, Err(RepoError::Refused { .. })), "{what}: {refused:?}");
    }
}
