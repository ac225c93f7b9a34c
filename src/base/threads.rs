//! Threads, of which the system may give fewer than are asked for, or none: the number of a user's processes and threads
//! is limited, and that of a container's.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// What an error calls a thread that can't be had.
pub const NO_THREAD: &str = "thread: a limit of processes and threads is reached ('ulimit -u', or 'pids' of a container or unit); raise it, or give fewer with --threads";

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

/// Makes a pool of so many threads; of fewer where the system gives no more.
///
/// # Errors
/// As clone(2), if it gives none at all.
pub fn pool(threads: usize) -> io::Result<ThreadPool> {
    let mut count = threads.max(1);
    loop {
        match ThreadPoolBuilder::new().num_threads(count).build() {
            Ok(pool) => return Ok(pool),
            Err(e) if count == 1 => return Err(io::Error::other(e)),
            Err(_) => count /= 2,
        }
    }
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
    let pool = pool(threads).or_else(|_| {
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
    fn work_in_a_pool_gives_what_it_gives() {
        use rayon::prelude::*;
        let sum = || (0..1000u32).into_par_iter().sum::<u32>();
        assert_eq!(in_pool(3, sum).unwrap(), 499_500);
        assert_eq!(in_pool(3, || in_pool(1, sum).unwrap()).unwrap(), 499_500);
    }
}
