//! Standard input that can be waited for without being deaf to a stop.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::base::progress::Progress;

/// How often a stop is looked for while nothing comes.
const TICK: Duration = Duration::from_millis(50);

/// Standard input, read until it ends or the run is stopped. Nothing else may read it.
pub struct StandardInput {
    progress: Arc<Progress>,
}

impl StandardInput {
    /// Begins; nothing is read yet.
    pub fn new(progress: Arc<Progress>) -> Self {
        Self { progress }
    }
}

impl Read for StandardInput {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        loop {
            if self.progress.is_cancelled() {
                return Err(io::Error::other("interrupted"));
            }
            let mut wanted = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            match poll(&mut wanted, Some(&tick)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            match rustix::io::read(&stdin, &mut *out) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                read => return Ok(read?),
            }
        }
    }
}
