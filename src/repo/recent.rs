//! What was read lately, bounded by bytes: what was unused longest goes first. Shared by threads.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Values made lately, by key. One at least stays, however large it is.
pub struct Recent<K, V> {
    limit: usize,
    state: Mutex<State<K, V>>,
    made: Condvar,
}

struct State<K, V> {
    held: usize,
    values: LruCache<K, (Arc<V>, usize)>,
    /// Keys whose values a thread is making.
    making: HashSet<K>,
    /// Threads that wait for one of those.
    waiting: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Keeps values of up to `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        let state = State { held: 0, values: LruCache::unbounded(), making: HashSet::new(), waiting: 0 };
        Self { limit, state: Mutex::new(state), made: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a value is kept; it counts as unused as before.
    pub fn has(&self, key: &K) -> bool {
        self.state().values.contains(key)
    }

    /// Forgets all values.
    pub fn clear(&self) {
        let mut state = self.state();
        state.values.clear();
        state.held = 0;
    }

    /// Returns the value of `key`: the one that is kept, or what `make` returns, with its length in
    /// bytes. If another thread is making it, waits for that one: no value is made twice at a time.
    ///
    /// # Errors
    /// What `make` returns; nothing is kept then.
    pub fn get_or_make<E>(&self, key: K, make: impl FnOnce() -> Result<(V, usize), E>) -> Result<Arc<V>, E> {
        let mut state = self.state();
        loop {
            if let Some((value, _)) = state.values.get(&key) {
                return Ok(value.clone());
            }
            if state.making.insert(key) {
                break;
            }
            state.waiting += 1;
            state = self.made.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        drop(state);
        let _making = Making { recent: self, key };
        let (value, bytes) = make()?;
        let value = Arc::new(value);
        self.put(key, value.clone(), bytes);
        Ok(value)
    }

    fn put(&self, key: K, value: Arc<V>, bytes: usize) {
        let mut state = self.state();
        state.held += bytes;
        if let Some((_, (_, old))) = state.values.push(key, (value, bytes)) {
            state.held -= old;
        }
        while state.held > self.limit && state.values.len() > 1 {
            let Some((_, (_, gone))) = state.values.pop_lru() else { return };
            state.held -= gone;
        }
    }
}

/// Says that nobody is making a value any more, also when making it failed.
struct Making<'r, K: Copy + Eq + Hash, V> {
    recent: &'r Recent<K, V>,
    key: K,
}

impl<K: Copy + Eq + Hash, V> Drop for Making<'_, K, V> {
    fn drop(&mut self) {
        let mut state = self.recent.state();
        state.making.remove(&self.key);
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.recent.made.notify_all(); // a system call, also when nobody waits
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn keep(recent: &Recent<u32, u32>, key: u32, bytes: usize) {
        let made: Result<_, Infallible> = recent.get_or_make(key, || Ok((key, bytes)));
        assert_eq!(*made.unwrap(), key);
    }

    #[test]
    fn what_was_unused_longest_goes_first() {
        let recent = Recent::new(30);
        (0..3).for_each(|key| keep(&recent, key, 10));
        keep(&recent, 0, 10); // used again
        keep(&recent, 3, 10);
        assert_eq!([0, 1, 2, 3].map(|key| recent.has(&key)), [true, false, true, true]);
    }

    #[test]
    fn one_value_stays_however_large() {
        let recent = Recent::new(30);
        keep(&recent, 0, 10);
        keep(&recent, 1, 1000);
        assert_eq!([0, 1].map(|key| recent.has(&key)), [false, true]);
    }

    #[test]
    fn a_value_that_could_not_be_made_is_made_again() {
        let recent: Recent<u32, u32> = Recent::new(30);
        assert_eq!(recent.get_or_make(1, || Err("no")).map(|value| *value), Err("no"));
        keep(&recent, 1, 1);
    }

    #[test]
    fn threads_that_want_the_same_value_make_it_once() {
        let recent: Recent<u32, u32> = Recent::new(30);
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let value: Result<_, Infallible> = recent.get_or_make(7, || {
                        std::thread::yield_now();
                        Ok((made.fetch_add(1, Ordering::SeqCst), 1))
                    });
                    assert_eq!(*value.unwrap(), 0);
                });
            }
        });
    }
}
