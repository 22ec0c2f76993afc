//! Buffers for the data of objects that are being made, used again while any of them is in use.
//!
//! They are filled by one thread, sealed by another and freed by whoever sends them. An allocator that
//! keeps memory for each thread would hold several times what is in use, for as long as a copy takes.
//! Once the last buffer is given back, all are freed.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Room of a buffer: what is sealed at a time, which is a frame more than a MiB at most, with the tags of
/// its frames. One that grew into it would leave what it grew out of to the allocator, in the middle of the
/// rest.
const ROOM_BYTES: usize = (1 << 20) + (128 << 10);

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), used: 0 });

struct Pool {
    free: Vec<Vec<u8>>,
    /// Buffers in use.
    used: usize,
}

/// A buffer that was taken. It grows like a `Vec`.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty buffer with room for what is sealed at a time.
    pub(super) fn take() -> Self {
        let mut pool = pool();
        pool.used += 1;
        Self(pool.free.pop().unwrap_or_else(|| Vec::with_capacity(ROOM_BYTES)))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        let mut pool = pool();
        pool.used -= 1;
        pool.free.push(bytes);
        if pool.used == 0 {
            pool.free = Vec::new();
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}
