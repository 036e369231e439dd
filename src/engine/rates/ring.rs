//! A ring of the newest time slots, each with a value. A slot that is too old is never read, and is emptied before it
//! is reused, so idle time costs nothing.

use std::time::Duration;

/// `SLOTS` slots of `SECONDS` each: the one that has begun and those before it.
#[derive(Debug, Clone)]
pub(super) struct Ring<T, const SLOTS: usize, const SECONDS: u64> {
    /// The number of the newest slot that was used, counted from the clock's beginning.
    newest: u64,
    /// A slot's index is its number modulo `SLOTS`.
    places: [T; SLOTS],
}

impl<T: Copy + Default, const SLOTS: usize, const SECONDS: u64> Ring<T, SLOTS, SECONDS> {
    pub(super) fn new(now: Duration) -> Self {
        Self { newest: Self::number(now), places: [T::default(); SLOTS] }
    }

    /// The slot of this moment; for a moment before the newest slot, the newest slot.
    pub(super) fn slot(&mut self, now: Duration) -> &mut T {
        let current = Self::number(now).max(self.newest);
        for begun in (self.newest + 1..=current).take(SLOTS) {
            self.places[Self::place(begun)] = T::default();
        }
        self.newest = current;
        &mut self.places[Self::place(current)]
    }

    /// The slots that are not too old at this moment, without those that were never used.
    pub(super) fn recent(&self, now: Duration) -> impl Iterator<Item = &T> + Clone {
        (self.oldest(now)..=self.newest).map(|number| &self.places[Self::place(number)])
    }

    /// All slots, of any age.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut()
    }

    /// When the newest used slot began.
    pub(super) fn last_used(&self) -> Duration {
        Duration::from_secs(self.newest * SECONDS)
    }

    /// How much time the recent slots of something `born` at that moment cover. At least one slot: what happened in the
    /// first second says little about a rate.
    pub(super) fn covered(&self, born: Duration, now: Duration) -> Duration {
        let start = Duration::from_secs(self.oldest(now) * SECONDS).max(born);
        now.max(self.last_used()).saturating_sub(start).max(Duration::from_secs(SECONDS))
    }

    fn oldest(&self, now: Duration) -> u64 {
        let current = Self::number(now).max(self.newest);
        (current + 1).saturating_sub(SLOTS as u64)
    }

    fn number(now: Duration) -> u64 {
        now.as_secs() / SECONDS
    }

    fn place(number: u64) -> usize {
        // Less than SLOTS, so it fits.
        (number % SLOTS as u64) as usize
    }
}
