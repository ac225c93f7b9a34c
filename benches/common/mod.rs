//! Bytes to measure with: generated, or real mail from the directory that `SNAP_BENCH_MAIL` names.
#![allow(dead_code, reason = "each bench uses a part of this")]

use std::fs;
use std::path::{Path, PathBuf};

/// Words that generated messages are made of.
const WORDS: &[&str] = &[
    "the", "of", "message", "server", "folder", "please", "find", "attached", "invoice", "meeting", "monday",
    "thanks", "regards", "delivery", "order", "number", "we", "have", "received", "your", "request", "and",
    "will", "answer", "soon",
];

/// Returns messages of about 12 kB: header, text, and for some a base64 attachment.
pub fn messages(count: usize) -> Vec<Vec<u8>> {
    match std::env::var_os("SNAP_BENCH_MAIL") {
        Some(folder) => real(Path::new(&folder), count),
        None => (0..count).map(generated).collect(),
    }
}

fn real(folder: &Path, count: usize) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    let mut todo: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                todo.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.into_iter().filter_map(|path| fs::read(path).ok()).take(count).collect()
}

fn generated(number: usize) -> Vec<u8> {
    let mut noise = blake3::Hasher::new().update(&(number as u64).to_le_bytes()).finalize_xof();
    let mut next = || {
        let mut bytes = [0; 4];
        noise.fill(&mut bytes);
        u32::from_le_bytes(bytes) as usize
    };
    let mut text = format!(
        "Return-Path: <list-{}@example.org>\nDelivered-To: user{}@example.org\nReceived: from mx{} (mx [192.0.2.{}])\n\tby mail.example.org; \
         Mon, 5 Jan 2026 03:{:02}:00 +0000\nFrom: sender{}@example.net\nTo: user{}@example.org\nSubject: message {number}\n\
         Message-ID: <{:08x}{:08x}@example.net>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n",
        next() % 50,
        next() % 20,
        next() % 4,
        next() % 250,
        next() % 60,
        next() % 500,
        next() % 20,
        next(),
        next()
    );
    for line in 0..60 + next() % 120 {
        for _ in 0..10 {
            text.push_str(WORDS[next() % WORDS.len()]);
            text.push(' ');
        }
        text.push_str(if usize::is_multiple_of(line, 7) { "\n\n" } else { "\n" });
    }
    if number.is_multiple_of(5) {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for _ in 0..300 {
            (0..76).for_each(|_| text.push(char::from(DIGITS[next() % 64])));
            text.push('\n');
        }
    }
    text.into_bytes()
}
