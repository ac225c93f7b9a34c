//! Throughput of each stage: `cargo bench --bench stages`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use snap::base::content::ChunkRef;
use snap::base::directory::{Directory, FrameRow};
use snap::base::id::{ChunkId, FragmentId, KeyId, PackId, RepositoryId};
use snap::base::kind::FrameKind;
use snap::stage::chunk::{ChunkSizes, Chunker, header_bytes};
use snap::stage::frame::{Compressor, Expander, FrameHeader};
use snap::stage::hash::ChunkNamer;
use snap::stage::index::{Cache, EachFragment, Fragment, PackEntry, Update};
use snap::stage::seal::{SealKey, Secret};

const MIB: usize = 1 << 20;

/// One mebibyte and more of mail, one message after the other.
fn mail(bytes: usize) -> Vec<u8> {
    let mut all: Vec<u8> = common::messages(bytes / 4000).concat();
    let whole = all.clone();
    while all.len() < bytes {
        all.extend_from_slice(&whole);
    }
    all.truncate(bytes);
    all
}

fn chunk(c: &mut Criterion) {
    let bytes = mail(16 * MIB);
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for avg in [8 << 10, 64 << 10] {
        let chunker = Chunker::new(ChunkSizes::around(avg).unwrap(), &[7; 32]);
        group.bench_function(format!("cut/{}KiB", avg >> 10), |b| {
            b.iter(|| {
                let (mut at, mut count) = (0, 0);
                while at < bytes.len() {
                    at += chunker.cut(&bytes[at..]);
                    count += 1;
                }
                black_box(count)
            });
        });
    }
    let messages = common::messages(1000);
    group.throughput(Throughput::Elements(messages.len() as u64));
    group.bench_function("header", |b| {
        b.iter(|| messages.iter().map(|message| header_bytes(black_box(message))).sum::<usize>());
    });
    group.finish();
}

fn hash(c: &mut Criterion) {
    let bytes = mail(16 * MIB);
    let namer = ChunkNamer::new([1; 32]);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for length in [2 << 10, 8 << 10, 64 << 10] {
        group.bench_function(format!("name/{}KiB", length >> 10), |b| {
            b.iter(|| bytes.chunks(length).for_each(|chunk| _ = black_box(namer.name(chunk))));
        });
    }
    group.finish();
}

fn frame(c: &mut Criterion) {
    let bytes = mail(MIB);
    let mut body = Vec::new();
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for level in [1, 3, 6] {
        let mut compressor = Compressor::new(level).unwrap();
        group.bench_function(format!("compress/{level}"), |b| {
            b.iter(|| compressor.compress(black_box(&bytes), &mut body).unwrap())
        });
    }
    let coding = Compressor::new(3).unwrap().compress(&bytes, &mut body).unwrap();
    let header = FrameHeader {
        kind: FrameKind::Content,
        coding,
        sealed: false,
        raw_bytes: bytes.len() as u32,
        stored_bytes: body.len() as u32,
        chunk_count: 1,
        key_id: KeyId::from_bytes([0; 8]),
        salt: [0; 16],
    };
    let mut expander = Expander::new().unwrap();
    let mut raw = Vec::new();
    group.bench_function("expand", |b| {
        b.iter(|| expander.expand(&header, black_box(&body), &mut raw).unwrap());
    });
    group.finish();
}

fn seal(c: &mut Criterion) {
    let key = SealKey::new(Secret::from_bytes([3; 32]));
    let mut group = c.benchmark_group("seal");
    for length in [64 << 10, MIB] {
        let bytes = mail(length);
        let mut sealed = bytes.clone();
        key.seal(&[5; 16], b"header", &mut sealed).unwrap();
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("seal/{}KiB", length >> 10), |b| {
            b.iter_batched_ref(
                || bytes.clone(),
                |bytes| key.seal(&[5; 16], b"header", bytes),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(format!("open/{}KiB", length >> 10), |b| {
            b.iter_batched_ref(
                || sealed.clone(),
                |bytes| key.open(&[5; 16], b"header", bytes),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn index(c: &mut Criterion) {
    let id = |n: u64| {
        let hash = blake3::hash(&n.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        ChunkId::from_bytes(id)
    };
    let fragment = |chunks: u64| {
        let per_frame = 128;
        let mut directory = Directory::default();
        for frame in 0..chunks / per_frame {
            let refs: Vec<ChunkRef> =
                (0..per_frame).map(|n| ChunkRef { id: id(frame * per_frame + n), bytes: 8192 }).collect();
            let raw_bytes = per_frame as u32 * 8192;
            let row = FrameRow {
                offset: frame as u32 * 1000,
                bytes: 1000,
                raw_bytes,
                chunk_count: per_frame as u32,
            };
            directory.push(row, &refs);
        }
        let pack = PackEntry { id: PackId::from_bytes([1; 32]), bytes: 1 << 30, directory };
        Fragment { packs: vec![pack], replaces: Vec::new() }
    };
    let folder = tempfile::tempdir().unwrap();
    let repository = RepositoryId::from_bytes([1; 16]);
    let mut group = c.benchmark_group("index");
    group.sample_size(10);
    let chunks = 1 << 20;
    let fragments = [(FragmentId::from_bytes([1; 32]), fragment(chunks))];
    group.throughput(Throughput::Elements(chunks));
    let added = |each: &mut EachFragment<'_>| {
        fragments.iter().for_each(|(id, f)| each(*id, f));
        Ok(())
    };
    let gone = BTreeSet::new();
    let update = Update { added: &added, gone: &gone, from_scratch: false };
    let mut round = 0;
    group.bench_function("add/1Mi", |b| {
        b.iter(|| {
            round += 1;
            Cache::update(&folder.path().join(format!("{round}.redb")), repository, &update).unwrap();
        });
    });
    let path = folder.path().join("find.redb");
    Cache::update(&path, repository, &update).unwrap();
    let cache = Cache::open(&path, repository).unwrap();
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    let mut next = move || {
        at = (at + 7919) % chunks;
        at
    };
    group.bench_function("find/there", |b| b.iter(|| cache.find(&id(next())).unwrap().unwrap()));
    group.bench_function("find/absent", |b| b.iter(|| cache.find(&id(chunks + next())).unwrap()));
    group.finish();
}

criterion_group!(stages, chunk, hash, frame, seal, index);
criterion_main!(stages);
