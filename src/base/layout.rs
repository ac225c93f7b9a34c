//! Where each field of a fixed-size stored record lies. `docs/format.md` holds the same tables, and
//! `tests/format.rs` compares them.

/// One field: name, offset from the record's first byte, size; both in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Field(pub &'static str, pub usize, pub usize);

/// Length of [`ENVELOPE`], in bytes.
pub const ENVELOPE_BYTES: usize = 48;

/// The first [`ENVELOPE_BYTES`] bytes of every record; the payload follows.
pub const ENVELOPE: &[Field] = &[
    Field("magic", 0, 4),
    Field("version", 4, 2),
    Field("kind", 6, 2),
    Field("payload_bytes", 8, 8),
    Field("checksum", 16, 32),
];
const _: () = assert!(contiguous(ENVELOPE, ENVELOPE_BYTES));

/// First bytes of an envelope.
pub const ENVELOPE_MAGIC: [u8; 4] = *b"SNAP";

/// Length of [`FRAME_HEADER`], in bytes.
pub const FRAME_HEADER_BYTES: usize = 44;

/// The first [`FRAME_HEADER_BYTES`] bytes of every frame; `stored_bytes` bytes of body follow.
pub const FRAME_HEADER: &[Field] = &[
    Field("magic", 0, 4),
    Field("kind", 4, 1),
    Field("flags", 5, 1),
    Field("reserved", 6, 2),
    Field("raw_bytes", 8, 4),
    Field("stored_bytes", 12, 4),
    Field("chunk_count", 16, 4),
    Field("key_id", 20, 8),
    Field("salt", 28, 16),
];
const _: () = assert!(contiguous(FRAME_HEADER, FRAME_HEADER_BYTES));

/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"SNFR";

/// Length of [`BASE64_RUN`], in bytes.
pub const BASE64_RUN_BYTES: usize = 8;

/// A run of base64 lines in a frame whose body holds them decoded.
pub const BASE64_RUN: &[Field] =
    &[Field("skip", 0, 4), Field("groups", 4, 1), Field("ending", 5, 1), Field("lines", 6, 2)];
const _: () = assert!(contiguous(BASE64_RUN, BASE64_RUN_BYTES));

/// Length of [`PACK_TRAILER`], in bytes.
pub const PACK_TRAILER_BYTES: usize = 32;

/// The last [`PACK_TRAILER_BYTES`] bytes of every pack.
pub const PACK_TRAILER: &[Field] = &[
    Field("directory_offset", 0, 8),
    Field("directory_bytes", 8, 8),
    Field("frame_count", 16, 4),
    Field("version", 20, 2),
    Field("reserved", 22, 6),
    Field("magic", 28, 4),
];
const _: () = assert!(contiguous(PACK_TRAILER, PACK_TRAILER_BYTES));

/// Last bytes of a pack.
pub const PACK_MAGIC: [u8; 4] = *b"SNPK";

/// Length of [`SEALED`], in bytes, without the ciphertext: what sealing adds to a record.
pub const SEALED_BYTES: usize = 40;

/// The first [`SEALED_BYTES`] bytes of a sealed record's payload; ciphertext and tag follow.
pub const SEALED: &[Field] =
    &[Field("key_id", 0, 8), Field("raw_bytes", 8, 8), Field("reserved", 16, 8), Field("salt", 24, 16)];
const _: () = assert!(contiguous(SEALED, SEALED_BYTES));

/// Returns whether `fields` tile `0..total` in order.
const fn contiguous(fields: &[Field], total: usize) -> bool {
    let (mut i, mut at) = (0, 0);
    while i < fields.len() {
        if fields[i].1 != at {
            return false;
        }
        at += fields[i].2;
        i += 1;
    }
    at == total
}
