//! A frame's bytes → which of its chunks are what their names say.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::base::content::{ChunkRef, refs};
use crate::base::kind::FrameKind;
use crate::base::units::counted;
use crate::op::check::findings::told;
use crate::repo::RepoError;
use crate::repo::reader::Reader;
use crate::stage::index::{FrameSpan, PackRow};

/// A pack that is being read.
pub struct Task {
    /// Path of its file.
    pub path: String,
    /// What is known of it.
    pub row: PackRow,
    /// References to its chunks, in order.
    pub chunks: Vec<u8>,
}

/// A frame to be judged.
pub struct Job {
    /// Its pack.
    pub task: Arc<Task>,
    /// Where it lies there.
    pub span: FrameSpan,
    /// Which bytes of the pack's references are its own.
    pub chunks: Range<usize>,
    /// Bytes of the pack, the frame's among them.
    pub piece: Arc<Vec<u8>>,
    /// Where the frame starts in the piece.
    pub at: usize,
}

/// Why chunks of a frame can't be had.
pub enum Fault {
    /// They are wrong.
    Damaged(String),
    /// They are sealed to none of the identities at hand.
    Closed,
}

/// A frame that is not as it should be.
pub struct BadFrame {
    /// Its pack.
    pub task: Arc<Task>,
    /// Where it starts there, in bytes.
    pub offset: u32,
    /// Why.
    pub fault: Fault,
    /// Those of its chunks that can't be had.
    pub chunks: Vec<ChunkRef>,
}

/// What one thread judged.
#[derive(Default)]
pub struct Judged {
    /// Frames that are not as they should be.
    pub bad: Vec<BadFrame>,
    /// Chunks that were hashed.
    pub chunks: u64,
}

/// A frame as it is stored, and its raw bytes.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    raw: Vec<u8>,
}

/// Judges frames until there are no more.
pub fn judge_frames(reader: &Reader<'_>, jobs: &Receiver<Job>) -> Judged {
    let mut judged = Judged::default();
    let mut buffers = Buffers::default();
    for job in jobs {
        judged.judge(reader, job, &mut buffers);
    }
    judged
}

impl Judged {
    fn judge(&mut self, reader: &Reader<'_>, job: Job, buffers: &mut Buffers) {
        let Job { task, span, chunks, piece, at } = job;
        let list = task.chunks.get(chunks).unwrap_or_default();
        let Buffers { stored, raw } = buffers;
        stored.clear();
        stored.extend_from_slice(piece.get(at..at.saturating_add(span.bytes as usize)).unwrap_or_default());
        drop(piece);
        let (fault, chunks) = match reader.open_frame(&task.row, span, stored, raw) {
            Err(RepoError::NoIdentity { .. }) => (Fault::Closed, refs(list).collect()),
            Err(RepoError::Frame { source, .. }) => {
                (Fault::Damaged(source.to_string()), refs(list).collect())
            }
            Err(RepoError::Seal { source, .. }) => (Fault::Damaged(source.to_string()), refs(list).collect()),
            Err(e) => (Fault::Damaged(told(&e, &task.path)), refs(list).collect()),
            Ok(header) => {
                let wrong = self.hash(reader, header.kind, list, raw);
                let what = format!(
                    "{} of its {} not what the names say",
                    wrong.len(),
                    counted(refs(list).len() as u64, "chunk is", "chunks are")
                );
                (Fault::Damaged(what), wrong)
            }
        };
        if !chunks.is_empty() {
            self.bad.push(BadFrame { offset: span.offset, fault, chunks, task });
        }
    }

    /// Returns the chunks that are not what their names say.
    fn hash(&mut self, reader: &Reader<'_>, kind: FrameKind, list: &[u8], raw: &[u8]) -> Vec<ChunkRef> {
        let namer = reader.repository().writer_keys().namer(kind);
        let mut wrong = Vec::new();
        let mut at = 0usize;
        for chunk in refs(list) {
            let end = at.saturating_add(chunk.bytes as usize);
            if raw.get(at..end).is_none_or(|bytes| namer.name(bytes) != chunk.id) {
                wrong.push(chunk);
            }
            at = end;
            self.chunks += 1;
        }
        wrong
    }
}
