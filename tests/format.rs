//! `docs/format.md` and the code name the same bytes: each table of the page is read and compared
//! with the code, and each example on it is made again.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use snap::base::content::{ChunkRef, Content, REF_BYTES};
use snap::base::entry::{Entry, Hole, Kind};
use snap::base::id::{
    ChunkId, CondemnedId, ForgottenId, FragmentId, KeyFileId, KeyId, PackId, RepositoryId, SnapshotId,
};
use snap::base::kind::FrameKind;
use snap::base::layout::{self, Field};
use snap::base::limits;
use snap::base::time::Time;
use snap::base::wire::{self, RecordKind};
use snap::stage::chunk::{ChunkSizes, Chunker, HEADER_BYTES_MAX};
use snap::stage::frame::{Coding, Compressor, FrameHeader};
use snap::stage::hash::ChunkNamer;
use snap::stage::pack::Trailer;
use snap::stage::seal::{SealKey, Secret};
use snap::store::{Folder, LocalStore, LockMode, Name, Store};

const PAGE: &str = include_str!("../docs/format.md");

/// Floors whose stored records must all be on the page; a table on the page is held to any floor.
const FLOORS: &[&str] = &["src/base", "src/stage"];

/// Types that can be encoded but stand in no file of a repository.
const NOT_STORED: &[&str] = &[
    "Blocks",    // the cache's
    "FrameKind", // a frame's header has a number of its own
    "FrameSpan", // the cache's
    "PackRow",   // the cache's
];

/// Head and rows of a table.
type Table = (Vec<String>, Vec<Vec<String>>);

/// Returns the text under a heading of level 2 or 3, up to the next one.
fn under(title: &str) -> &'static str {
    let start = [format!("\n## {title}\n"), format!("\n### {title}\n")];
    let at = start.iter().find_map(|head| PAGE.find(head).map(|at| at + head.len()));
    let text = &PAGE[at.unwrap_or_else(|| panic!("docs/format.md has no section {title}"))..];
    let end = ["\n## ", "\n### "].iter().filter_map(|next| text.find(next)).min();
    &text[..end.unwrap_or(text.len())]
}

fn headings() -> impl Iterator<Item = &'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")))
}

fn tables(text: &str) -> Vec<Table> {
    let mut found: Vec<Table> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            is_inside = false;
            continue;
        };
        let cells: Vec<String> = row.split('|').map(|cell| cell.trim().to_owned()).collect();
        match found.last_mut() {
            Some((_, rows)) if is_inside => rows.push(cells),
            _ => found.push((cells, Vec::new())),
        }
        is_inside = true;
    }
    for (_, rows) in &mut found {
        rows.remove(0); // the rule below the head
    }
    found
}

/// Returns the rows of the table under `title` whose head starts with `head`.
fn rows(title: &str, head: &[&str]) -> Vec<Vec<String>> {
    let found = tables(under(title)).into_iter().find(|(found, _)| found.starts_with(&owned(head)));
    found.unwrap_or_else(|| panic!("section {title} has no table {head:?}")).1
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns what stands in backticks in `text`.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the Rust files under the given folders: path and text before the test module.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("folder lists");
            todo.extend(entries.map(|entry| entry.expect("entry reads").path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).expect("source reads");
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            found.push((path, code));
        }
    }
    found
}

/// Returns the lines between the braces of `struct name` or `enum name`, wherever under `src` it is.
fn definition(word: &str, name: &str) -> Vec<String> {
    for (_, code) in sources(&["src"]) {
        let heads = [format!("{word} {name} {{\n"), format!("{word} {name}<'a> {{\n")];
        if let Some(at) = heads.iter().find_map(|head| code.find(head).map(|at| at + head.len())) {
            let body = code[at..].split("\n}").next().unwrap_or_default();
            let lines = body.lines().filter(|line| !line.trim_start().starts_with("//"));
            return lines.map(str::to_owned).collect();
        }
    }
    panic!("docs/format.md has a table of {name}, and src no {word} of that name")
}

/// Returns the fields of a struct as the page writes them: name and type.
fn fields_of(name: &str) -> Vec<Vec<String>> {
    let lines = definition("struct", name);
    let fields = lines.iter().map(|line| line.trim().trim_start_matches("pub ").trim_end_matches(','));
    let fields = fields.filter_map(|line| line.split_once(": "));
    fields.map(|(name, rust)| vec![name.to_owned(), page_type(rust)]).collect()
}

/// Returns the variants of an enum: number and name.
fn variants_of(name: &str) -> Vec<Vec<String>> {
    let lines = definition("enum", name);
    let variants = lines.iter().filter_map(|line| line.strip_prefix("    "));
    let variants = variants.filter(|line| line.starts_with(char::is_uppercase));
    let pairs = variants.enumerate().map(|(place, line)| {
        let end = line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len());
        let number = line[end..].strip_prefix(" = ").map(|number| number.trim_end_matches(',').to_owned());
        vec![number.unwrap_or_else(|| place.to_string()), line[..end].to_owned()]
    });
    pairs.collect()
}

/// Returns how the page writes a Rust type.
fn page_type(rust: &str) -> String {
    let inside = |open: &str, close: &str| rust.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    match rust {
        "Vec<u8>" | "&'a [u8]" => "bytes".to_owned(),
        "String" => "text".to_owned(),
        "Content<'a>" | "ContentBuf" => "Content".to_owned(),
        _ => {
            if let Some(element) = inside("Vec<", ">") {
                format!("list of {}", page_type(element))
            } else if let Some(value) = inside("Option<", ">") {
                format!("option of {}", page_type(value))
            } else if let Some(length) = inside("[u8; ", "]") {
                format!("{length} bytes")
            } else if let Some((one, other)) = inside("(", ")").and_then(|pair| pair.split_once(", ")) {
                format!("({}, {})", page_type(one), page_type(other))
            } else {
                rust.to_owned()
            }
        }
    }
}

#[test]
fn fixed_layouts_are_the_codes() {
    let chunk_ref = &[Field("id", 0, ChunkId::BYTES), Field("bytes", ChunkId::BYTES, 4)];
    let all: [(&str, &[Field], usize); 6] = [
        ("Envelope", layout::ENVELOPE, layout::ENVELOPE_BYTES),
        ("Sealed record", layout::SEALED, layout::SEALED_BYTES),
        ("ChunkRef", chunk_ref, REF_BYTES),
        ("Frame", layout::FRAME_HEADER, layout::FRAME_HEADER_BYTES),
        ("Base64", layout::BASE64_RUN, layout::BASE64_RUN_BYTES),
        ("Pack trailer", layout::PACK_TRAILER, layout::PACK_TRAILER_BYTES),
    ];
    for (title, fields, total) in all {
        let found: Vec<_> = rows(title, &["offset", "size", "name", "meaning"])
            .into_iter()
            .map(|row| row[..3].to_vec())
            .collect();
        let code: Vec<_> = fields
            .iter()
            .map(|field| vec![field.1.to_string(), field.2.to_string(), field.0.to_owned()])
            .collect();
        assert_eq!(found, code, "{title}");
        assert!(under(title).contains(&format!("{total} bytes")), "{title}: its length is {total} bytes");
    }
    let layouts = headings().filter(|title| tables(under(title)).iter().any(|(head, _)| head[0] == "offset"));
    assert_eq!(layouts.count(), all.len(), "a table on the page is compared with nothing");
}

#[test]
fn magic_bytes_and_versions_are_the_codes() {
    let magics = [
        ("Envelope", layout::ENVELOPE_MAGIC),
        ("Frame", layout::FRAME_MAGIC),
        ("Pack trailer", layout::PACK_MAGIC),
    ];
    for (title, magic) in magics {
        let rows = rows(title, &["offset"]);
        let row = rows.iter().find(|row| row[2] == "magic").expect("a row says where the magic is");
        assert_eq!(row[3].trim_matches('`').as_bytes(), magic, "{title}");
        let version = rows.iter().find(|row| row[2] == "version");
        let says = version.is_none_or(|row| row[3] == format!("u16le, {}", limits::FORMAT_VERSION));
        assert!(says, "{title}: version");
    }
    assert!(PAGE.contains(&format!("This is format version {}.", limits::FORMAT_VERSION)));
}

#[test]
fn record_kinds_are_the_codes() {
    let found: Vec<_> =
        rows("Envelope", &["kind", "name"]).into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(found, variants_of("RecordKind"));
    assert_eq!(found[4], [(RecordKind::Snapshot as u16).to_string(), "Snapshot".to_owned()]);
}

#[test]
fn records_have_the_codes_fields_in_the_codes_order() {
    let mut compared = BTreeSet::new();
    for title in headings() {
        for (head, rows) in tables(under(title)) {
            let rows: Vec<_> = rows.into_iter().map(|row| row[..2].to_vec()).collect();
            if head == ["field", "type", "meaning"] {
                assert_eq!(rows, fields_of(title), "{title}");
                compared.insert(title.to_owned());
            } else if head == ["number", "name", "meaning"] {
                assert_eq!(rows, variants_of(title), "{title}");
                compared.insert(title.to_owned());
            }
        }
    }
    assert_eq!(fields_of("ContentBuf"), fields_of("Content"), "owned and borrowed are stored alike");
    compared.insert("ContentBuf".to_owned());
    let stored: BTreeSet<String> =
        encodable().into_iter().filter(|name| !NOT_STORED.contains(&name.as_str())).collect();
    let lacking: Vec<_> = stored.difference(&compared).collect();
    assert!(lacking.is_empty(), "docs/format.md has no table of {lacking:?}");
}

/// Returns the names of all types of [`FLOORS`] that derive `Encode`.
fn encodable() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, code) in sources(FLOORS) {
        for (at, _) in code.match_indices("#[derive(") {
            let (derived, rest) = code[at..].split_once(")]").unwrap_or_default();
            let item = rest.lines().find(|line| line.contains("struct ") || line.contains("enum "));
            let name = item.and_then(|item| {
                item.split_whitespace().skip_while(|w| !["struct", "enum"].contains(w)).nth(1)
            });
            if let Some(name) = name.filter(|name| derived.contains("Encode") && !name.starts_with('$')) {
                let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
                found.insert(name[..end].to_owned());
            }
        }
    }
    assert!(found.contains("Entry") && found.contains("Manifest"), "{found:?}");
    found
}

#[test]
fn names_are_as_long_as_the_codes() {
    let code = [
        ("ChunkId", ChunkId::BYTES),
        ("PackId", PackId::BYTES),
        ("FragmentId", FragmentId::BYTES),
        ("SnapshotId", SnapshotId::BYTES),
        ("KeyFileId", KeyFileId::BYTES),
        ("CondemnedId", CondemnedId::BYTES),
        ("ForgottenId", ForgottenId::BYTES),
        ("RepositoryId", RepositoryId::BYTES),
        ("KeyId", KeyId::BYTES),
    ];
    let found: Vec<_> = rows("Names", &["type", "bytes"]).into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(found, code.map(|(name, bytes)| vec![name.to_owned(), bytes.to_string()]));
}

#[test]
fn files_lie_where_the_code_puts_them() {
    let found: BTreeSet<String> =
        rows("Repository", &["path"]).iter().map(|row| row[0].replace('`', "")).collect();
    let id = [0xab; 32];
    let names = [
        Name::Config,
        Name::Key(KeyFileId::from_bytes(id)),
        Name::Pack(PackId::from_bytes(id)),
        Name::Fragment(FragmentId::from_bytes(id)),
        Name::Snapshot(SnapshotId::from_bytes(id)),
        Name::Condemned(CondemnedId::from_bytes(id)),
        Name::Forgotten(ForgottenId::from_bytes(id)),
    ];
    let mut code: BTreeSet<String> =
        names.iter().map(|name| name.to_string().replace(&"ab".repeat(32), "<id>")).collect();
    assert_eq!(names.iter().filter_map(Name::folder).collect::<BTreeSet<_>>(), BTreeSet::from(Folder::ALL));
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = LocalStore::new(folder.path());
    let (_upload, _lock) = (store.begin().expect("begins"), store.lock(LockMode::Shared).expect("locks"));
    for entry in fs::read_dir(folder.path()).expect("folder lists") {
        let entry = entry.expect("entry reads");
        let slash = if entry.path().is_dir() { "/" } else { "" };
        code.insert(format!("{}{slash}", entry.file_name().display()));
    }
    code.insert("locks/".to_owned()); // on S3 alone: `tests/store.rs` and `tests/s3.rs` take locks there
    code.insert("index.redb".to_owned()); // the opener says where it lies
    assert_eq!(found, code);
}

#[test]
fn limits_are_the_codes() {
    macro_rules! limits {
        ($($name:ident),+ $(,)?) => { [$((stringify!($name), format!("{:?}", limits::$name))),+] };
    }
    let code = limits![
        FORMAT_VERSION,
        CHUNK_BYTES_AVG,
        CHUNK_AVG_RANGE,
        TREE_CHUNK_BYTES_AVG,
        CHUNK_BYTES_CAP,
        FRAME_BYTES,
        FRAME_BYTES_CAP,
        FRAME_CHUNKS_MAX,
        PACK_BYTES,
        PACK_BYTES_CAP,
        PACK_FRAMES_MAX,
        RECORD_BYTES_CAP,
        MANIFEST_BYTES_CAP,
        FRAGMENT_CHUNKS_MAX,
        NAME_BYTES_MAX,
        TARGET_BYTES_MAX,
        INLINE_CHUNKS_MAX,
        LIST_DEPTH_MAX,
        TREE_DEPTH_MAX,
        MANIFEST_ERRORS_MAX,
    ];
    let found: Vec<_> =
        rows("Limits", &["name", "value", "unit", "why"]).into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(found, code.map(|(name, value)| vec![name.to_owned(), value]));
    let source = fs::read_to_string("src/base/limits.rs").expect("source reads");
    let consts = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let listed: Vec<_> = found.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(listed, consts.collect::<Vec<_>>());
    assert!(under("Chunks").contains(&format!("the first {HEADER_BYTES_MAX} bytes")));
}

#[test]
fn integers_are_as_long_as_the_page_says() {
    let all = rows("Records", &["value", "as", "bytes"]);
    assert!(all.len() > 8);
    for row in all {
        let expected: Vec<u8> = hex(&row[2].replace('`', ""));
        let found = match row[1].as_str() {
            "u64" => wire::encode(&row[0].parse::<u64>().expect("a number")),
            "i64" => wire::encode(&row[0].parse::<i64>().expect("a number")),
            other => panic!("{other}"),
        };
        assert_eq!(found.as_ref(), Ok(&expected), "{row:?}");
    }
    assert_eq!(wire::decode::<u32>(&[251, 5, 0]), Ok(5), "longer than needed");
    assert!(
        wire::decode::<u8>(&[251, 5, 0]).is_err()
            && wire::decode::<u32>(&[253, 0, 0, 0, 0, 1, 0, 0, 0]).is_err()
    );
    assert!(wire::decode::<bool>(&[2]).is_err() && wire::decode::<String>(&[1, 0xff]).is_err());
}

/// Keys come of contexts, and seals are bound to purposes: all of them are texts that start alike.
#[test]
fn every_context_and_purpose_is_on_the_page() {
    let is_one = |text: &&str| text.starts_with("snap v1 ");
    let mut code = BTreeSet::new();
    for (_, text) in sources(&["src"]) {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.extend(
            lines.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_one).map(str::to_owned),
        );
    }
    let page: BTreeSet<String> = PAGE.lines().flat_map(quoted).filter(is_one).map(str::to_owned).collect();
    assert_eq!(page, code);
}

/// The chunk that several examples name.
fn chunk() -> ChunkRef {
    ChunkRef { id: ChunkId::from_bytes([0xa5; 16]), bytes: 8192 }
}

fn entry(list: &[u8]) -> Entry<'_> {
    Entry {
        name: b"a",
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 8,
        user: b"vmail",
        group: b"mail",
        mtime: Time::new(1, 500_000_000),
        ctime: Time::new(-1, 0),
        btime: None,
        filesystem: 0,
        inode: 300,
        links: 1,
        size: 70_000,
        torn: false,
        device: (0, 0),
        target: b"",
        xattrs: vec![],
        holes: vec![Hole { offset: 8192, bytes: 61_808 }],
        content: Content { depth: 0, list },
    }
}

/// Makes every example of the page again.
fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let key = SealKey::new(Secret::from_bytes([3; 32]));
    let mut sealed = b"hello".to_vec();
    key.seal(&[4; 16], b"associated", &mut sealed).expect("seals");
    let list = chunk().to_bytes();
    let header = FrameHeader {
        kind: FrameKind::Tree,
        coding: Coding::Zstd,
        sealed: true,
        raw_bytes: 70_000,
        stored_bytes: 1234,
        chunk_count: 3,
        key_id: key.id(),
        salt: [4; 16],
    };
    let trailer = Trailer { directory_offset: 1_000_000, directory_bytes: 300, frame_count: 3 };
    vec![
        ("chunk-id", ChunkNamer::new([1; 32]).name(b"hello").as_bytes().to_vec()),
        ("key-id", key.id().as_bytes().to_vec()),
        ("envelope", wire::wrap(RecordKind::Snapshot, b"hello")),
        ("seal", sealed),
        ("chunk-ref", list.to_vec()),
        ("content", wire::encode(&Content { depth: 0, list: &list }).expect("encodes")),
        ("entry", wire::encode(&entry(&list)).expect("encodes")),
        ("frame-header", header.to_bytes().to_vec()),
        ("base64", base64_parts()),
        ("pack-trailer", trailer.to_bytes().to_vec()),
    ]
}

/// Returns what a frame of base64 lines expands to before they are put back.
fn base64_parts() -> Vec<u8> {
    let raw = ("QUJj".repeat(10) + "\r\n").repeat(3) + "--\r\n";
    let mut body = Vec::new();
    let coding =
        Compressor::new(3).and_then(|mut it| it.compress(raw.as_bytes(), &mut body)).expect("compresses");
    assert_eq!(coding, Coding::Base64Zstd);
    zstd::decode_all(&body[..]).expect("two zstd frames expand as one stream")
}

#[test]
fn every_example_is_what_the_code_writes() {
    let examples = examples();
    let wrong: Vec<_> = examples
        .iter()
        .filter(|(label, bytes)| fenced("hex", label).map(|text| hex(&text)).as_ref() != Some(bytes))
        .map(|(label, bytes)| {
            format!("{label}: {}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        })
        .collect();
    assert!(wrong.is_empty(), "the code writes:\n{}", wrong.join("\n"));
    let on_page = PAGE.lines().filter(|line| line.starts_with("```hex ")).count();
    assert_eq!(on_page, examples.len(), "an example on the page is compared with nothing");
}

#[test]
fn masks_are_those_of_the_chunker() {
    let rows = rows("Chunks", &["mask", "value"]);
    let bits = |avg: &u32| avg.ilog2() as usize;
    let needed = bits(limits::CHUNK_AVG_RANGE.start()) - 1..=bits(limits::CHUNK_AVG_RANGE.end()) + 1;
    let code: Vec<_> =
        needed.map(|n| vec![n.to_string(), format!("`{:#018x}`", fastcdc::v2020::MASKS[n])]).collect();
    assert_eq!(rows, code);
}

#[test]
fn the_example_of_cuts_is_where_the_code_cuts() {
    let mut content = vec![0; 200_000];
    blake3::Hasher::new().update(&1u64.to_le_bytes()).finalize_xof().fill(&mut content);
    let chunker = Chunker::new(ChunkSizes::default(), &[7; 32]);
    let text = fenced("text", "chunk-lengths").expect("the example is there");
    let mut rest = content.as_slice();
    for expected in text.split_whitespace() {
        let length = chunker.cut(rest);
        assert_eq!(length.to_string(), expected);
        rest = &rest[length..];
    }
    assert!(rest.len() < content.len() / 2, "the example shows a good part of it");
}

/// Returns the text of the fenced block with this language and label, without what follows a `;`.
fn fenced(language: &str, label: &str) -> Option<String> {
    let (_, after) = PAGE.split_once(&format!("\n```{language} {label}\n"))?;
    let block = after.split("\n```").next()?;
    let lines: Vec<_> = block.lines().filter_map(|line| line.split(';').next()).collect();
    Some(lines.join("\n"))
}

/// Reads hex digits; spaces and line ends between them mean nothing.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let is_hex = text.chars().all(|c| c.is_whitespace() || c.is_ascii_hexdigit());
    assert!(is_hex && digits.len().is_multiple_of(2), "not hex: {text}");
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}
