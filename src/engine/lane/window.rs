//! The deliveries that a lane keeps in memory, in the order in which they fall due, and the key from which on rows in
//! the store may be missing from it. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;

use super::Entry;

/// How many deliveries a lane keeps in memory.
pub const WINDOW: usize = 256;

/// More rows are read when no more than this many entries come before them, so that they arrive before the lane runs
/// dry.
pub(super) const LOW_WATER: usize = WINDOW / 2;

/// How many deliveries a lane keeps while it sends only probes.
pub(super) const FEW: usize = 8;

/// Position in the order of sending.
pub(super) type Key = (UnixMillis, EventSeq);

/// The key before all others.
const FIRST: Key = (UnixMillis(0), EventSeq::ZERO);

#[derive(Debug, Default)]
pub(super) struct Window {
    /// Boxed, because a node of the map allocates room for eleven values in advance.
    ready: BTreeMap<Key, Box<Entry>>,
    keys: HashMap<EventSeq, Key>,
    /// How many entries have no row.
    unstored: usize,
    /// Rows from here on may be missing.
    unread: Option<Key>,
    /// From where rows are being read.
    loading: Option<Key>,
    /// Deliveries that changed while rows were being read: the read may still have seen them as pending.
    left: Vec<EventSeq>,
}

impl Window {
    pub(super) fn new(has_rows: bool) -> Self {
        Self { unread: has_rows.then_some(FIRST), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn first(&self) -> Option<(Key, &Entry)> {
        self.ready.first_key_value().map(|(key, entry)| (*key, entry.as_ref()))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.ready.values().map(Box::as_ref)
    }

    pub(super) fn has_entries_without_row(&self) -> bool {
        self.unstored > 0
    }

    /// Marks entries without a row that have been due since `then` as stored, and keeps them. Answers which need a row
    /// now.
    pub(super) fn store_older_than(&mut self, then: UnixMillis) -> Vec<EventSeq> {
        let waiting = self.ready.range_mut(..=(then, EventSeq(i64::MAX))).map(|(_, entry)| entry);
        let mut stored = Vec::new();
        for entry in waiting.filter(|entry| !entry.stored) {
            entry.stored = true;
            stored.push(entry.event.seq);
        }
        self.unstored -= stored.len();
        stored
    }

    pub(super) fn contains(&self, event: EventSeq) -> bool {
        self.keys.contains_key(&event)
    }

    /// The window is empty, and no row that falls due by `then` may be missing.
    pub(super) fn is_empty_until(&self, then: UnixMillis) -> bool {
        self.ready.is_empty() && self.unread.is_none_or(|(due, _)| due > then)
    }

    pub(super) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Whether a row that comes before the first entry may be missing.
    pub(super) fn misses_the_first(&self) -> bool {
        let first = self.ready.first_key_value().map(|(key, _)| *key);
        [self.unread, self.loading].into_iter().flatten().any(|missing| first.is_none_or(|first| missing <= first))
    }

    /// From where on rows may be missing, apart from rows that are being read.
    pub(super) fn unread(&self) -> Option<Key> {
        self.unread
    }

    /// Rows from `key` on may be missing.
    pub(super) fn miss(&mut self, key: Key) {
        self.unread = Some(self.unread.map_or(key, |unread| unread.min(key)));
    }

    /// Every row may be missing.
    pub(super) fn miss_all(&mut self) {
        self.unread = Some(FIRST);
    }

    pub(super) fn insert(&mut self, key: Key, entry: Entry) {
        self.unstored += usize::from(!entry.stored);
        self.keys.insert(entry.event.seq, key);
        self.ready.insert(key, Box::new(entry));
    }

    pub(super) fn take(&mut self, event: EventSeq) -> Option<Entry> {
        let key = self.keys.remove(&event)?;
        let entry = self.ready.remove(&key)?;
        self.unstored -= usize::from(!entry.stored);
        if self.ready.is_empty() {
            self.give_memory_back();
        }
        Some(*entry)
    }

    /// Most windows are empty most of the time.
    fn give_memory_back(&mut self) {
        (self.ready, self.keys) = (BTreeMap::new(), HashMap::new());
    }

    /// Takes all entries out. The marks for missing rows stay.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let taken = std::mem::take(&mut self.ready);
        self.give_memory_back();
        self.unstored = 0;
        taken.into_values().map(|entry| *entry)
    }

    /// The delivery changed: rows that are being read may show its former state.
    pub(super) fn left(&mut self, event: EventSeq) {
        if self.is_loading() {
            self.left.push(event);
        }
    }

    /// Whether a new entry may wait here. New work must not fill the window so that older rows are never read; entries
    /// that fall due later make room.
    pub(super) fn has_room(&mut self, key: Key) -> bool {
        if self.len() < LOW_WATER {
            return true;
        }
        let older_unread = [self.unread, self.loading].into_iter().flatten().any(|unread| unread <= key);
        let most = if older_unread { LOW_WATER } else { WINDOW };
        let before = self.ready.range(..key).count();
        before < most && (self.len() < WINDOW || self.evict_after(key))
    }

    /// Drops the last stored entry after `key`; its row brings it back.
    fn evict_after(&mut self, key: Key) -> bool {
        let last = self.ready.range(key..).rev().find(|(_, entry)| entry.stored);
        let Some((&key, entry)) = last else { return false };
        let event = entry.event.seq;
        self.take(event);
        self.miss(key);
        true
    }

    /// Starts a read of missing rows, if at most half of `most` entries come before them. Answers how many rows to
    /// read.
    pub(super) fn load(&mut self, most: usize) -> Option<usize> {
        let unread = self.unread.filter(|_| self.loading.is_none())?;
        let before = self.ready.range(..unread).count();
        if before > most / 2 {
            return None;
        }
        (self.unread, self.loading) = (None, Some(unread));
        Some(most - before)
    }

    pub(super) fn load_failed(&mut self) {
        self.left.clear();
        if let Some(from) = self.loading.take() {
            self.miss(from);
        }
    }

    /// The read has ended. Answers the deliveries that changed during the read: their rows in it are out of date.
    pub(super) fn loaded(&mut self) -> HashSet<EventSeq> {
        self.loading = None;
        std::mem::take(&mut self.left).into_iter().collect()
    }

    /// Drops the last entries until `most` are left. Answers the dropped ones that have no row.
    pub(super) fn trim(&mut self, most: usize) -> Vec<EventSeq> {
        let mut without_row = Vec::new();
        while self.len() > most {
            let Some((&key, entry)) = self.ready.last_key_value() else { break };
            let (event, stored) = (entry.event.seq, entry.stored);
            self.take(event);
            self.miss(key);
            if !stored {
                without_row.push(event);
            }
        }
        without_row
    }
}
