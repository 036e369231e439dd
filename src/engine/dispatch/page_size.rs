//! How many fan-outs are read at once: half as many after a failed read, so that a read which ran out of time is tried
//! with less; twice as many, up to the maximum, after each read that succeeds. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub(super) struct PageSize {
    most: usize,
    rows: AtomicUsize,
}

impl PageSize {
    pub(super) fn new(most: usize) -> Self {
        Self { most, rows: AtomicUsize::new(most) }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Learns from a read, and passes its result on.
    pub(super) fn learn<T, E>(&self, read: Result<T, E>) -> Result<T, E> {
        let rows = self.rows();
        let next = if read.is_ok() { rows.saturating_mul(2).min(self.most) } else { (rows / 2).max(1) };
        self.rows.store(next, Ordering::Relaxed);
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_halved_when_it_fails_and_grows_again() {
        let size = PageSize::new(8);
        let mut rows = Vec::new();
        for read in [Err(()), Err(()), Err(()), Err(()), Ok(()), Ok(()), Ok(()), Ok(())] {
            let _ = size.learn(read);
            rows.push(size.rows());
        }
        assert_eq!(rows, [4, 2, 1, 1, 2, 4, 8, 8]);
    }
}
