//! What the walk noted of each file: in memory up to a limit, beyond it in a file without a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes kept in memory: all there is for about 100,000 messages.
const MEMORY_BYTES: usize = 16 << 20;

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

    /// Adds bytes; returns where they start.
    pub fn push(&mut self, bytes: &[u8]) -> u64 {
        let at = self.file_bytes + self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        at
    }

    /// Puts the `bytes` that start at `at` into `out`, in place of what is there.
    ///
    /// # Errors
    /// As pread(2); `UnexpectedEof` if they were never put in.
    pub fn read(&self, at: u64, bytes: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match (at.checked_sub(self.file_bytes), &self.file) {
            (Some(start), _) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                let found = self.memory.get(start..start.saturating_add(bytes));
                out.extend_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            (None, Some(file)) => {
                out.resize(bytes, 0);
                file.read_exact_at(out, at)
            }
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
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
        let mut found = Vec::new();
        for (at, record) in &places {
            records.read(*at, record.len(), &mut found).unwrap();
            assert_eq!(found, *record);
        }
        let end = records.file_bytes + records.memory.len() as u64;
        assert!(records.read(end - 1, 2, &mut found).is_err());
    }
}
