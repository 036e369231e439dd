//! Counts the bytes of the bodies in memory. Lanes look at the count before they keep an event for later; if there is too
//! much, deliveries wait as rows.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// One count for the whole process, since its events share one memory.
static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);

/// Larger bodies are not kept with their events: each attempt reads the body just before it sends it.
pub const LARGE: usize = 64 * 1024;

/// The bytes of all bodies in memory.
#[must_use]
pub fn in_memory() -> usize {
    IN_MEMORY.load(Ordering::Relaxed)
}

/// A body that is counted until its last reference is dropped.
pub(crate) fn counted(body: Vec<u8>) -> Bytes {
    IN_MEMORY.fetch_add(body.capacity(), Ordering::Relaxed);
    Bytes::from_owner(Counted(body))
}

struct Counted(Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        IN_MEMORY.fetch_sub(self.0.capacity(), Ordering::Relaxed);
    }
}
