//! The bounded queue of committed fan-outs between the writer and the dispatcher. It only queues; the dispatcher reads
//! the store.
//!
//! When the queue is full, the feed falls *behind*: from then on the dispatcher reads fan-outs from the store, in
//! order, until it has seen the newest. A starting engine begins behind.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::id::EventSeq;
use crate::store::fanouts::Fanout;

use crate::store::fanouts::FanoutKey;

/// Fan-outs that may wait in memory.
const FANOUTS: usize = 8192;

pub struct Feed {
    state: Mutex<State>,
    changed: Notify,
    is_clustered: bool,
    /// Bytes of bodies and targets that may wait in memory.
    most_bytes: usize,
}

struct State {
    waiting: VecDeque<Fanout>,
    bytes: usize,
    behind: bool,
    /// The newest event that was committed here.
    committed: EventSeq,
    /// The newest event that was committed here or found by a scan.
    seen_watermark: EventSeq,
    /// The newest event whose fan-out was handed out.
    dispatched_watermark: EventSeq,
    /// Other nodes may have committed events for this one.
    scan_requested: bool,
    /// The scan under way has more pages.
    scan_unfinished: bool,
    /// The fan-outs that were committed here had their turn; the next turn is the scan's.
    scan_is_next: bool,
    /// Fan-outs that are committed here, or about to be, and that only a scan hands out.
    expected: BTreeSet<FanoutKey>,
    /// The dispatcher must read the store from its beginning, since this node serves more of it.
    rescan_needed: bool,
}

/// What the dispatcher does next.
#[derive(Debug)]
pub enum Next {
    Dispatch(Vec<Fanout>),
    /// Read from the store what follows this event, then call [`Feed::caught_up`].
    ReadAfter(EventSeq),
    /// Scan the store for fan-outs that other nodes have committed.
    Scan,
}

impl Feed {
    /// `is_clustered`: other nodes commit to the same store.
    pub(super) fn behind(committed: EventSeq, is_clustered: bool, most_bytes: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            behind: true,
            committed,
            seen_watermark: committed,
            dispatched_watermark: EventSeq::ZERO,
            scan_requested: false,
            scan_unfinished: false,
            scan_is_next: false,
            expected: BTreeSet::new(),
            rescan_needed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), is_clustered, most_bytes }
    }

    /// Queues what was just committed; returns the fan-outs that the dispatcher will get from memory.
    pub(super) fn push<'a>(&self, fanouts: &'a [Fanout], committed: EventSeq) -> &'a [Fanout] {
        let mut state = self.state.lock();
        state.committed = state.committed.max(committed);
        state.seen_watermark = state.seen_watermark.max(committed);
        let mut kept = 0;
        for fanout in fanouts {
            let bytes = bytes_after(state.waiting.back(), fanout);
            let full = state.waiting.len() >= FANOUTS || state.bytes + bytes > self.most_bytes;
            state.rescan_needed |= full && !state.behind && self.is_clustered;
            state.behind |= full;
            if !state.behind {
                state.bytes += bytes;
                state.waiting.push_back(fanout.clone());
                kept += 1;
            }
        }
        drop(state);
        self.changed.notify_one();
        &fanouts[..kept]
    }

    /// Waits for work.
    pub async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.changed.notified().await;
        }
    }

    /// The work that there is right now.
    pub fn try_next(&self) -> Option<Next> {
        let mut state = self.state.lock();
        let scan_is_next = std::mem::take(&mut state.scan_is_next) || state.waiting.is_empty();
        if scan_is_next && !state.behind {
            // A request that comes during a scan needs another scan: this one may not show what it is for.
            let state = &mut *state;
            let looks = if state.scan_unfinished { &mut state.scan_unfinished } else { &mut state.scan_requested };
            if std::mem::take(looks) {
                return Some(Next::Scan);
            }
        }
        if !state.waiting.is_empty() {
            state.scan_is_next = true;
            state.bytes = 0;
            let taken = state.dispatched_watermark;
            let fanouts: Vec<Fanout> = state.waiting.drain(..).filter(|fanout| fanout.event.seq > taken).collect();
            state.dispatched_watermark = fanouts.last().map_or(taken, |fanout| fanout.event.seq);
            return Some(Next::Dispatch(fanouts));
        }
        state.behind.then_some(Next::ReadAfter(state.dispatched_watermark))
    }

    /// The fan-out is about to be committed here; the dispatcher gets it from a scan, not from the queue.
    pub(super) fn expect_in_scan(&self, key: FanoutKey) {
        self.state.lock().expected.insert(key);
    }

    /// Events after `last` were never committed.
    pub(super) fn discard_expected_after(&self, last: EventSeq) {
        self.state.lock().expected.retain(|(event, _)| *event <= last);
    }

    /// Whether scans have found every event up to `to` that only they hand out.
    pub fn has_scanned(&self, to: EventSeq) -> bool {
        let state = self.state.lock();
        !state.behind && state.expected.first().is_none_or(|(event, _)| *event > to)
    }

    /// The events that are committed here, or about to be, and that no scan has found yet.
    pub fn expected_events(&self) -> Vec<EventSeq> {
        let mut events: Vec<EventSeq> = self.state.lock().expected.iter().map(|(event, _)| *event).collect();
        events.dedup();
        events
    }

    /// Other nodes may have committed events for this one.
    pub fn request_scan(&self) {
        self.state.lock().scan_requested = true;
        self.changed.notify_one();
    }

    /// The scan under way has more pages.
    pub fn continue_scan(&self) {
        self.state.lock().scan_unfinished = true;
        self.changed.notify_one();
    }

    /// This node serves more of the store: the dispatcher is behind.
    pub(super) fn rescan(&self) {
        let mut state = self.state.lock();
        (state.behind, state.rescan_needed) = (true, true);
        drop(state);
        self.changed.notify_one();
    }

    /// Drops fan-outs of shards that other nodes dispatch now.
    pub(super) fn forget(&self, are_forgotten: impl Fn(i16) -> bool) {
        let mut state = self.state.lock();
        state.waiting.retain(|fanout| !are_forgotten(fanout.shard));
        state.expected.retain(|(_, shard)| !are_forgotten(*shard));
        let before = std::iter::once(None).chain(state.waiting.iter().map(Some));
        state.bytes = before.zip(&state.waiting).map(|(before, fanout)| bytes_after(before, fanout)).sum();
    }

    /// Whether to read the store from its beginning; true once for each request.
    pub fn take_rescan(&self) -> bool {
        std::mem::take(&mut self.state.lock().rescan_needed)
    }

    /// The dispatcher has read everything up to `to` from the store.
    pub fn read_up_to(&self, to: EventSeq) {
        let mut state = self.state.lock();
        state.dispatched_watermark = state.dispatched_watermark.max(to);
    }

    /// The store showed nothing after `seen`. From now on fan-outs come from memory again, unless an event was
    /// committed meanwhile.
    pub fn caught_up(&self, seen: EventSeq) {
        let mut state = self.state.lock();
        if state.committed <= seen && !state.rescan_needed {
            state.dispatched_watermark = state.dispatched_watermark.max(seen);
            state.behind = false;
        }
    }

    /// A scan has found this fan-out, and the dispatcher is about to start on it.
    pub(super) fn note_scanned(&self, (event, shard): FanoutKey) {
        let mut state = self.state.lock();
        state.seen_watermark = state.seen_watermark.max(event);
        state.expected.remove(&(event, shard));
    }

    /// The newest event that an endpoint here may have been offered, whichever node accepted it.
    pub fn seen_watermark(&self) -> EventSeq {
        self.state.lock().seen_watermark
    }

    /// The newest event that was committed here: a reader of the store sees everything up to it.
    pub fn committed(&self) -> EventSeq {
        self.state.lock().committed
    }

    /// The event up to which every fan-out was handed out.
    pub fn dispatched_to(&self) -> EventSeq {
        let state = self.state.lock();
        let before = |event: EventSeq| EventSeq(event.0 - 1);
        let handed_out = match (state.waiting.front(), state.behind) {
            (Some(first), _) => before(first.event.seq),
            (None, true) => state.dispatched_watermark,
            (None, false) => state.committed,
        };
        state.expected.first().map_or(handed_out, |(event, _)| before(*event).min(handed_out))
    }

    /// Whether every committed fan-out was handed out.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && !state.behind && state.expected.is_empty()
    }
}

/// The memory that a fan-out takes behind `before`, with which it may share its event.
fn bytes_after(before: Option<&Fanout>, fanout: &Fanout) -> usize {
    let has_same_event = before.is_some_and(|before| before.event.seq == fanout.event.seq);
    fanout.target_bytes() + if has_same_event { 0 } else { fanout.event.body.bytes_in_memory() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::domain::id::{TenantNum, WebhookNum};
    use crate::store::events::{Body, Event};

    fn fanout(seq: i64) -> Fanout {
        let event = Event {
            seq: EventSeq(seq),
            tenant: TenantNum(1),
            kind: "a".to_owned(),
            trail: None,
            body: Body::InMemory(Bytes::new()),
        };
        Fanout { event: Arc::new(event), shard: 0, targets: Arc::new([WebhookNum(1)]), in_order: false }
    }

    fn feed(committed: EventSeq, is_clustered: bool) -> Feed {
        Feed::behind(committed, is_clustered, usize::MAX)
    }

    fn seqs(next: Option<Next>) -> Vec<i64> {
        match next {
            Some(Next::Dispatch(fanouts)) => fanouts.iter().map(|fanout| fanout.event.seq.0).collect(),
            Some(Next::ReadAfter(after)) => vec![-1, after.0],
            Some(Next::Scan) | None => vec![],
        }
    }

    #[test]
    fn a_new_feed_is_behind_until_the_store_shows_nothing_more() {
        let feed = feed(EventSeq(7), false);
        assert_eq!(seqs(feed.try_next()), [-1, 0]);
        feed.caught_up(EventSeq(6));
        assert_eq!(seqs(feed.try_next()), [-1, 0], "7 is committed and was not seen");
        feed.read_up_to(EventSeq(7));
        feed.caught_up(EventSeq(7));
        assert!(feed.is_idle());
        assert_eq!(feed.push(&[fanout(8)], EventSeq(8)).len(), 1);
        assert_eq!(seqs(feed.try_next()), [8]);
    }

    #[test]
    fn what_was_read_from_the_store_is_not_handed_out_again() {
        let feed = feed(EventSeq(0), false);
        feed.read_up_to(EventSeq(1));
        feed.caught_up(EventSeq(1));
        feed.push(&[fanout(1), fanout(2)], EventSeq(2));
        assert_eq!(seqs(feed.try_next()), [2]);
    }

    #[test]
    fn what_other_nodes_have_accepted_is_heard_of_and_keeps_nobody_from_catching_up() {
        let feed = feed(EventSeq(1), true);
        feed.note_scanned((EventSeq(9), 0));
        feed.push(&[fanout(2)], EventSeq(2));
        assert_eq!((feed.seen_watermark(), feed.committed()), (EventSeq(9), EventSeq(2)));
        feed.caught_up(EventSeq(2));
        assert!(feed.is_idle());
    }

    #[test]
    fn whoever_publishes_without_end_here_keeps_nobody_from_hearing_of_others() {
        let feed = feed(EventSeq(0), true);
        feed.caught_up(EventSeq(0));
        feed.request_scan();
        for (seq, looks) in [(1, false), (2, true), (3, false), (4, true)] {
            feed.push(&[fanout(seq)], EventSeq(seq));
            assert_eq!(matches!(feed.try_next(), Some(Next::Scan)), looks, "{seq}");
            feed.request_scan();
        }
    }

    #[test]
    fn what_is_to_be_found_is_not_handed_out_until_it_is_found() {
        let feed = feed(EventSeq(0), true);
        feed.caught_up(EventSeq(0));
        [(2, 0), (2, 1), (3, 0), (4, 0)]
            .into_iter()
            .for_each(|(seq, shard)| feed.expect_in_scan((EventSeq(seq), shard)));
        feed.discard_expected_after(EventSeq(3));
        feed.push(&[], EventSeq(3));
        assert_eq!((feed.expected_events(), feed.dispatched_to()), (vec![EventSeq(2), EventSeq(3)], EventSeq(1)));
        feed.note_scanned((EventSeq(2), 1));
        assert!(feed.has_scanned(EventSeq(1)) && !feed.has_scanned(EventSeq(2)));
        feed.forget(|shard| shard == 0);
        assert!(feed.expected_events().is_empty() && feed.is_idle() && feed.dispatched_to() == EventSeq(3));
    }

    #[test]
    fn a_full_feed_sends_the_dispatcher_to_the_store() {
        let feed = feed(EventSeq(0), false);
        feed.caught_up(EventSeq(0));
        let all: Vec<Fanout> = (1..=10_000).map(fanout).collect();
        let kept = feed.push(&all, EventSeq(10_000)).len();
        assert_eq!(kept, FANOUTS);
        assert_eq!(seqs(feed.try_next()).len(), FANOUTS);
        assert_eq!(seqs(feed.try_next()), [-1, i64::try_from(FANOUTS).unwrap()]);
        assert_eq!(feed.dispatched_to(), EventSeq(i64::try_from(FANOUTS).unwrap()));
    }
}
