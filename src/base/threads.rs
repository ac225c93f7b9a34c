//! Threads, of which the system may give fewer than are asked for, or none: the number of a user's processes and threads
//! is limited, and that of a container's.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::thread::Pid;

/// What an error calls a thread that can't be had.
pub const NO_THREAD: &str = "thread: a limit of processes and threads is reached ('ulimit -u', or 'pids' of a container or unit); raise it, or give fewer with --threads";

/// Looks whether a thread has gone, and the time between two of them.
const LOOKS: u32 = 100;
const LOOK: Duration = Duration::from_micros(200);

/// Begins `work` on a thread of `scope`.
///
/// # Errors
/// As clone(2); `work` is dropped then.
pub fn begin<'scope, 'env, R: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> R + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, R>> {
    Builder::new().spawn_scoped(scope, work)
}

/// Begins `work` on a thread of `scope`; where the system gives none, does it here and now.
pub fn begin_or_do<'scope, 'env, R: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> R + Send + 'scope,
) -> Begun<'scope, R> {
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = work.clone();
    match begin(scope, move || take(&theirs).map(|work| work())) {
        Ok(thread) => Begun::Thread(thread),
        Err(_) => Begun::Done(take(&work).map(|work| work())),
    }
}

/// Work that was begun by [`begin_or_do`].
pub enum Begun<'scope, R> {
    /// It is under way.
    Thread(ScopedJoinHandle<'scope, Option<R>>),
    /// It is done.
    Done(Option<R>),
}

impl<R> Begun<'_, R> {
    /// Waits for its end; none if it panicked.
    pub fn join(self) -> Option<R> {
        match self {
            Self::Thread(thread) => thread.join().ok().flatten(),
            Self::Done(done) => done,
        }
    }
}

/// Takes what `begun` gives as long as the system leaves `spare` more threads to be had: for those who come later, and can't
/// do without.
pub fn sparing<T>(spare: usize, begun: impl Iterator<Item = io::Result<T>>) -> Vec<T> {
    let (release, wait) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..spare)
            .map_while(|_| {
                let wait = wait.clone();
                let hold = move || {
                    let _ = wait.recv();
                    rustix::thread::gettid()
                };
                begin(scope, hold).ok()
            })
            .collect();
        let all = if held.len() == spare { begun.map_while(Result::ok).collect() } else { Vec::new() };
        drop(release);
        held.into_iter().filter_map(|thread| thread.join().ok()).for_each(wait_for_end);
        all
    })
}

/// Waits until a thread of this process that has been joined counts no more: it does for a moment.
fn wait_for_end(thread: Pid) {
    let task = format!("/proc/self/task/{}", thread.as_raw_nonzero());
    for _ in 0..LOOKS {
        if !Path::new(&task).exists() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Does `work`, which takes its share by itself, on so many threads at the same time, this one among them; on fewer
/// where the system gives no more.
pub fn side_by_side(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        let others = (1..threads).map(|_| begin(scope, &work));
        let _ = others.take_while(Result::is_ok).count();
        work();
    });
}

/// Makes what `make` makes of each number below `count`, on so many threads at the same time; in order.
pub fn map_side_by_side<T: Send>(threads: usize, count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let one = make(number);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((number, one));
        }
    };
    side_by_side(threads.min(count), work);
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(number, _)| *number);
    made.into_iter().map(|(_, one)| one).collect()
}

/// Makes a pool of so many threads; of fewer where the system gives no more, or not `spare` more beside them.
///
/// # Errors
/// As clone(2), if it gives none at all.
pub fn pool(threads: usize, spare: usize) -> io::Result<ThreadPool> {
    let mut count = threads.max(1);
    while count > 1 {
        let made = || std::iter::once_with(|| make_pool(count));
        if let Some(pool) = sparing(spare, made()).pop() {
            return Ok(pool);
        }
        count /= 2;
    }
    make_pool(1)
}

fn make_pool(threads: usize) -> io::Result<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(io::Error::other)
}

/// Does `work`, which uses rayon, in a pool of its own; on this thread alone where the system gives none. The pool that
/// rayon makes for everybody panics there.
///
/// # Errors
/// As clone(2), if not even this thread can be made a pool's.
pub fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> io::Result<R> {
    if rayon::current_thread_index().is_some() {
        return Ok(work());
    }
    let pool = pool(threads, 0).or_else(|_| {
        let alone = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
        alone.map_err(io::Error::other)
    });
    Ok(pool?.install(work))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_thread_takes_its_share_and_this_one_is_among_them() {
        for threads in [0, 1, 5] {
            let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            side_by_side(threads, || {
                while next.fetch_add(1, Ordering::Relaxed) < 100 {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(done.into_inner(), 100);
        }
    }

    #[test]
    fn what_is_begun_is_done_once_here_or_there() {
        let done = std::thread::scope(|scope| begin_or_do(scope, || 7).join());
        assert_eq!(done, Some(7));
        assert_eq!(sparing(3, (0..5).map(Ok)), [0, 1, 2, 3, 4]);
        let fewer = (0..5).map(|number| if number < 2 { Ok(number) } else { Err(io::Error::other("no")) });
        assert_eq!(sparing(0, fewer), [0, 1]);
    }

    #[test]
    fn work_in_a_pool_gives_what_it_gives() {
        use rayon::prelude::*;
        let sum = || (0..1000u32).into_par_iter().sum::<u32>();
        assert_eq!(in_pool(3, sum).unwrap(), 499_500);
        assert_eq!(in_pool(3, || in_pool(1, sum).unwrap()).unwrap(), 499_500);
    }
}
