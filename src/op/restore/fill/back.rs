//! Reads back what was made, and what was there: when all of it is on the disk, by one sync.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Advice, AtFlags, fadvise};

use crate::base::entry::Entry;
use crate::base::threads::side_by_side;
use crate::op::restore::fill::{FilePlan, Fill, Hand, locked};
use crate::op::restore::lack;
use crate::op::restore::placed::placed;
use crate::op::restore::plan::path_of;
use crate::op::restore::verify::hold_against;
use crate::stage::scan;

/// Files that a thread takes at once: neighbours on the disk, as they were made one after the other.
const FILES: usize = 64;

impl Fill<'_> {
    /// Reads back the files that were made, and holds `kept` ones against the snapshot.
    pub fn read_back(&self, kept: &[FilePlan]) {
        if let Err(e) = self.target.sync() {
            self.stop(self.target.failed("what was restored cannot be made durable", e));
            return;
        }
        let made = std::mem::take(&mut locked(&self.done).made);
        let made = made.iter().filter_map(|number| self.files.get(*number as usize)).map(|file| (file, true));
        let all: Vec<(&FilePlan, bool)> = made.chain(kept.iter().map(|file| (file, false))).collect();
        let parts: Vec<_> = all.chunks(FILES).collect();
        let next = AtomicUsize::new(0);
        side_by_side(self.request.threads.max(1), || {
            let mut hand = Hand::default();
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                for (file, is_made) in *part {
                    if self.is_stopped() {
                        return;
                    }
                    self.read_file_back(file, *is_made, &mut hand);
                }
            }
        });
    }

    fn read_file_back(&self, file: &FilePlan, is_made: bool, hand: &mut Hand) {
        let mut name = Vec::new();
        let result = self.with_entry(file, hand, |entry, hand| {
            name.extend_from_slice(entry.name);
            self.check_back(file, entry, hand)
        });
        let Err(reason) = result else {
            self.done(|done| done.verified += 1);
            return;
        };
        let reason = match is_made {
            true => format!("read back, and {reason}: the target disk fails"),
            false if self.target.is_staged() => format!("{reason}: the target disk fails"),
            false => format!(
                "kept, as it has the snapshot's size and time, but {reason}: --overwrite always writes it anew"
            ),
        };
        // What nobody has seen yet need not be shown.
        if self.target.is_staged()
            && let Ok(parent) = self.parent(file.directory, hand)
        {
            let _ = rustix::fs::unlinkat(parent, name.as_slice(), AtFlags::empty()); // ours alone
        }
        let path = path_of(self.directories, file.directory, &name);
        self.done(|done| {
            done.files -= u64::from(is_made).min(done.files);
            done.lacks.push(lack(&path, reason));
        });
    }

    /// Reads a file from the disk and hashes its chunks.
    fn check_back(&self, file: &FilePlan, entry: &Entry<'_>, hand: &mut Hand) -> Result<(), String> {
        let parent = self.parent(file.directory, hand).map_err(|e| std::io::Error::from(e).to_string())?;
        let written = scan::open_file(parent, entry.name)
            .map_err(|e| format!("it cannot be opened: {}", std::io::Error::from(e)))?;
        // From the disk, not from memory. What the kernel keeps all the same is right as well.
        let _ = fadvise(&written, 0, None, Advice::DontNeed);
        let written = File::from(written);
        let mut window = std::mem::take(&mut hand.chunks);
        let chunks = file.chunks((0, file.chunks), self.records, &mut window);
        let result = chunks
            .map_err(|e| e.to_string())
            .and_then(|chunks| hold_against(self.reader, &written, entry, placed(chunks)));
        hand.chunks = window;
        result
    }
}
