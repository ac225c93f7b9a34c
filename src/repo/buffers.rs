//! Buffers that go round from thread to thread.

use std::sync::{Mutex, PoisonError};

/// Gives buffers out again that were given back. A buffer as long as a frame that is allocated in one thread and
/// freed in another leaves holes in both threads' heaps, and its pages must be cleared each time.
pub struct Buffers {
    capacity: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Begins without any; each will have room for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, free: Mutex::default() }
    }

    /// Returns an empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    /// Takes a buffer back. One that has grown is let go.
    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if buffer.capacity() == self.capacity {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}
