//! Notes: in memory up to a limit, beyond it in a file without a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes kept in memory: all that a restore notes of about 25,000 messages.
const MEMORY_BYTES: usize = 4 << 20;

/// Bytes that are read of the file in one call: what is needed next mostly lies behind.
const PART_BYTES: u64 = 8 << 10;

/// Parts that a reader keeps: the files of one frame lie in a few directories, each with its own place in the file.
const PARTS_MAX: usize = 8;

/// Parts of the file that were read, the oldest of which gives way.
#[derive(Default)]
pub struct Window {
    parts: Vec<(u64, Vec<u8>)>,
    next: usize,
}

/// Bytes, put one after the other and read from anywhere.
#[derive(Default)]
pub struct Records {
    /// What came last.
    memory: Vec<u8>,
    /// What came before, if memory did not hold it.
    file: Option<File>,
    file_bytes: u64,
}

impl Records {
    /// Returns whether `bytes` more can only be kept once [`Self::spill`] made room.
    pub fn is_full(&self, bytes: usize) -> bool {
        !self.memory.is_empty() && self.memory.len() + bytes > MEMORY_BYTES
    }

    /// Returns whether [`Self::spill`] will need a file.
    pub fn lacks_file(&self) -> bool {
        self.file.is_none()
    }

    /// Takes the file to which what memory does not hold is written.
    pub fn give_file(&mut self, file: File) {
        self.file = Some(file);
    }

    /// Writes what is in memory to the file.
    ///
    /// # Errors
    /// As pwrite(2); `NotFound` if it was given none.
    pub fn spill(&mut self) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(&self.memory, self.file_bytes)?;
        self.file_bytes += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Returns how many bytes were put in.
    pub fn bytes(&self) -> u64 {
        self.file_bytes + self.memory.len() as u64
    }

    /// Adds bytes; returns where they start.
    pub fn push(&mut self, bytes: &[u8]) -> u64 {
        let at = self.bytes();
        self.memory.extend_from_slice(bytes);
        at
    }

    /// Returns the `bytes` that start at `at`. What is in the file is read into `window`, with what follows.
    ///
    /// # Errors
    /// As pread(2); `UnexpectedEof` if they were never put in.
    pub fn get<'w>(&'w self, at: u64, bytes: usize, window: &'w mut Window) -> io::Result<&'w [u8]> {
        let part = |all: &'w [u8], start: u64| {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let found = all.get(start..start.saturating_add(bytes));
            found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        if let Some(start) = at.checked_sub(self.file_bytes) {
            return part(&self.memory, start);
        }
        let end = at.saturating_add(bytes as u64);
        let holds = |(start, part): &(u64, Vec<u8>)| *start <= at && end <= start + part.len() as u64;
        let number = match window.parts.iter().position(holds) {
            Some(number) => number,
            None => self.read(at, bytes, window)?,
        };
        window.parts.get(number).map_or_else(
            || Err(io::ErrorKind::UnexpectedEof.into()),
            |(start, bytes)| part(bytes, at - start),
        )
    }

    /// Reads what starts at `at`, at least `bytes`, into a window; returns the number of the part.
    fn read(&self, at: u64, bytes: usize, window: &mut Window) -> io::Result<usize> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
        let number = window.next;
        if window.parts.len() <= number {
            window.parts.push((0, Vec::new()));
        }
        window.next = (number + 1) % PARTS_MAX;
        let Some((start, part)) = window.parts.get_mut(number) else { return Ok(number) };
        let length = (self.file_bytes - at).min(PART_BYTES.max(bytes as u64));
        part.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        let read = file.read_exact_at(part, at);
        if read.is_err() {
            part.clear(); // holds nothing
        }
        *start = at;
        read.map(|()| number)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.file_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_read_from_memory_and_from_the_file() {
        let mut records = Records::default();
        let mut places = Vec::new();
        for number in 0..200_000u32 {
            let record = number.to_le_bytes().repeat(1 + number as usize % 60);
            if records.is_full(record.len()) {
                if records.lacks_file() {
                    records.give_file(tempfile::tempfile().unwrap());
                }
                records.spill().unwrap();
            }
            places.push((records.push(&record), record));
        }
        assert!(records.file_bytes > 0 && records.memory.len() <= MEMORY_BYTES);
        let window = &mut Window::default();
        for (at, record) in places.iter().chain(places.iter().rev().step_by(7)) {
            assert_eq!(records.get(*at, record.len(), window).unwrap(), *record);
        }
        let end = records.file_bytes + records.memory.len() as u64;
        assert!(records.get(end - 1, 2, window).is_err());
    }
}
