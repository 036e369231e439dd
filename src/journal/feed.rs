//! What the dispatcher learns from the writer. Three things: the bounded queue of fan-outs that were committed here; the
//! requests for scans, and which fan-outs only a scan hands out; and the watermarks, up to which events were seen and
//! handed out. The feed says what it has and lacks; the dispatcher decides what to do about it.
//!
//! When the queue is full, the feed falls *behind*: from then on fan-outs are in the store alone. A starting engine begins
//! behind. Once the queue is empty, the dispatcher catches up: what is in the store alone by then is the *gap*, which it
//! reads; newer fan-outs wait in the queue again meanwhile. So it catches up however much is published.

use std::collections::{BTreeSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::id::EventSeq;
use crate::store::fanouts::{Fanout, FanoutKey};

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
    behind: Option<Behind>,
    gap: Option<Gap>,
    /// The newest event that was committed here.
    committed: EventSeq,
    /// The newest event that was committed here or found by a scan.
    seen_watermark: EventSeq,
    /// The newest event whose fan-out was handed out, or read from the store.
    newest_handed_out: EventSeq,
    /// Other nodes may have committed events for this one.
    scan_requested: bool,
    /// Fan-outs that are committed here, or about to be, and that only a scan hands out.
    expected: BTreeSet<FanoutKey>,
}

/// Which fan-outs are in the store alone when the feed is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Those after the queue.
    Tail,
    /// Any: this node serves more shards now, or scans for other nodes' fan-outs may have passed them.
    Anywhere,
}

/// Fan-outs in the store that the dispatcher is reading to catch up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Of the events that were committed here, the newest one in the gap.
    pub through: EventSeq,
    /// The gap begins with the first open fan-out; earlier reads do not count.
    pub starts_over: bool,
}

/// What the feed has for the dispatcher, and what it lacks.
#[derive(Debug, Clone, Copy)]
pub struct FeedStatus {
    /// Fan-outs wait in the queue and may be handed out.
    pub has_waiting: bool,
    /// The dispatcher has begun to read a gap.
    pub has_gap: bool,
    /// Which fan-outs are in the store alone. `None`: only the gap, and those that a scan hands out.
    pub behind: Option<Behind>,
    /// Other nodes may have committed events for this one.
    pub scan_requested: bool,
}

impl Feed {
    /// A feed that lacks everything in the store. `is_clustered`: other nodes commit to the same store.
    pub(super) fn starting_behind(committed: EventSeq, is_clustered: bool, most_bytes: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            behind: Some(Behind::Tail),
            gap: None,
            committed,
            seen_watermark: committed,
            newest_handed_out: EventSeq::ZERO,
            scan_requested: false,
            expected: BTreeSet::new(),
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
            if full && state.behind.is_none() {
                // While there is a gap, the store is read for fan-outs of this node, too.
                let is_passed = self.is_clustered && state.gap.is_none();
                state.behind = Some(if is_passed { Behind::Anywhere } else { Behind::Tail });
            }
            if state.behind.is_none() {
                state.bytes += bytes;
                state.waiting.push_back(fanout.clone());
                kept += 1;
            }
        }
        drop(state);
        self.changed.notify_one();
        &fanouts[..kept]
    }

    /// Waits until [`Self::status`] may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn status(&self) -> FeedStatus {
        let State { waiting, behind, gap, scan_requested, .. } = &*self.state.lock();
        // One process alone hands fan-outs out in the order of publishing. Where several commit, scans do that for the
        // ordered webhooks.
        let may_go = gap.is_none() || self.is_clustered;
        FeedStatus {
            has_waiting: may_go && !waiting.is_empty(),
            has_gap: gap.is_some(),
            behind: *behind,
            scan_requested: *scan_requested,
        }
    }

    /// Hands out the fan-outs that wait in the queue.
    pub fn take_waiting(&self) -> Vec<Fanout> {
        let mut state = self.state.lock();
        state.bytes = 0;
        let fanouts: Vec<Fanout> = state.waiting.drain(..).collect();
        if let (Some(last), None) = (fanouts.last(), state.gap) {
            state.newest_handed_out = last.event.seq;
        }
        fanouts
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
        state.behind.is_none() && state.gap.is_none() && state.expected.first().is_none_or(|(event, _)| *event > to)
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

    /// A scan begins: it shows everything that was committed before the requests so far.
    pub fn begin_scan(&self) {
        self.state.lock().scan_requested = false;
    }

    /// This node serves more shards, whose fan-outs are in the store alone.
    pub fn fall_behind(&self) {
        self.state.lock().behind = Some(Behind::Anywhere);
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

    /// What the dispatcher reads from the store next; if it has read all of that, or is to start over, what the feed lacks
    /// now. `None`: it is not behind.
    pub fn catch_up(&self) -> Option<Gap> {
        let mut state = self.state.lock();
        if let (Some(gap), None | Some(Behind::Tail)) = (state.gap, state.behind) {
            return Some(Gap { starts_over: false, ..gap });
        }
        let starts_over = state.behind.take()? == Behind::Anywhere;
        let through = state.waiting.front().map_or(state.committed, before);
        state.gap = Some(Gap { through, starts_over });
        state.gap
    }

    /// The dispatcher has read everything up to `to` from the store.
    pub fn read_up_to(&self, to: EventSeq) {
        let mut state = self.state.lock();
        state.newest_handed_out = state.newest_handed_out.max(to);
    }

    /// The dispatcher has read the gap.
    pub fn close_gap(&self) {
        let mut state = self.state.lock();
        if state.behind == Some(Behind::Anywhere) {
            return;
        }
        if let Some(gap) = state.gap.take() {
            state.newest_handed_out = state.newest_handed_out.max(gap.through);
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

    /// The newest event whose fan-out was handed out, or read from the store. Older ones may still be expected in a scan:
    /// see [`Self::handed_out_through`].
    pub fn newest_handed_out(&self) -> EventSeq {
        self.state.lock().newest_handed_out
    }

    /// The event up to which every fan-out was handed out.
    pub fn handed_out_through(&self) -> EventSeq {
        let state = self.state.lock();
        let handed_out = match (state.gap, state.waiting.front(), state.behind) {
            (Some(_), ..) | (None, None, Some(_)) => state.newest_handed_out,
            (None, Some(first), _) => before(first),
            (None, None, None) => state.committed,
        };
        state.expected.first().map_or(handed_out, |(event, _)| EventSeq(event.0 - 1).min(handed_out))
    }

    /// Whether every committed fan-out was handed out.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.behind.is_none() && state.gap.is_none() && state.expected.is_empty()
    }
}

/// The event before that of the fan-out.
fn before(fanout: &Fanout) -> EventSeq {
    EventSeq(fanout.event.seq.0 - 1)
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
    use crate::domain::event::{Body, Event};
    use crate::domain::id::{TenantNum, WebhookNum};

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
        Feed::starting_behind(committed, is_clustered, usize::MAX)
    }

    fn seqs(fanouts: &[Fanout]) -> Vec<i64> {
        fanouts.iter().map(|fanout| fanout.event.seq.0).collect()
    }

    /// Reads what is in the store alone.
    fn catch_up(feed: &Feed) {
        while feed.catch_up().is_some() {
            feed.close_gap();
        }
    }

    #[test]
    fn a_new_feed_is_behind_until_the_dispatcher_has_read_what_was_committed_before() {
        let feed = feed(EventSeq(7), false);
        assert_eq!((feed.status().behind, feed.newest_handed_out()), (Some(Behind::Tail), EventSeq::ZERO));
        let gap = Gap { through: EventSeq(7), starts_over: false };
        assert_eq!((feed.catch_up(), feed.catch_up()), (Some(gap), Some(gap)));
        feed.read_up_to(EventSeq(6));
        assert_eq!((feed.handed_out_through(), feed.is_idle()), (EventSeq(6), false), "7 was not read");
        feed.close_gap();
        assert!(feed.is_idle());
        assert_eq!(feed.push(&[fanout(8)], EventSeq(8)).len(), 1);
        assert!(feed.status().has_waiting && feed.status().behind.is_none());
        assert_eq!(seqs(&feed.take_waiting()), [8]);
        assert!(!feed.status().has_waiting);
    }

    #[test]
    fn a_feed_catches_up_although_events_are_committed_without_end() {
        for is_clustered in [false, true] {
            let feed = feed(EventSeq(3), is_clustered);
            assert!(feed.push(&[fanout(4)], EventSeq(4)).is_empty(), "4 is in the store alone");
            assert_eq!(feed.catch_up().map(|gap| gap.through), Some(EventSeq(4)));
            assert_eq!(feed.push(&[fanout(5)], EventSeq(5)).len(), 1);
            assert_eq!((feed.status().has_waiting, feed.handed_out_through()), (is_clustered, EventSeq::ZERO));
            feed.close_gap();
            assert_eq!((feed.catch_up(), feed.handed_out_through()), (None, EventSeq(4)));
            assert_eq!(feed.push(&[fanout(6)], EventSeq(6)).len(), 1);
            assert_eq!(seqs(&feed.take_waiting()), [5, 6]);
            assert_eq!((feed.handed_out_through(), feed.newest_handed_out()), (EventSeq(6), EventSeq(6)));
        }
    }

    #[test]
    fn what_is_handed_out_beside_a_gap_does_not_count_until_the_gap_was_read() {
        let feed = feed(EventSeq(3), true);
        feed.catch_up();
        feed.push(&[fanout(4)], EventSeq(4));
        assert_eq!(seqs(&feed.take_waiting()), [4]);
        assert_eq!((feed.handed_out_through(), feed.has_scanned(EventSeq(4))), (EventSeq::ZERO, false));
        feed.close_gap();
        assert!(feed.handed_out_through() == EventSeq(4) && feed.has_scanned(EventSeq(4)));
    }

    #[test]
    fn events_of_other_nodes_raise_the_seen_watermark_only() {
        let feed = feed(EventSeq(1), true);
        feed.note_scanned((EventSeq(9), 0));
        feed.push(&[fanout(2)], EventSeq(2));
        assert_eq!((feed.seen_watermark(), feed.committed()), (EventSeq(9), EventSeq(2)));
        catch_up(&feed);
        assert!(feed.is_idle());
    }

    #[test]
    fn a_scan_answers_the_requests_before_it_and_none_after_it() {
        let feed = feed(EventSeq(0), true);
        feed.request_scan();
        assert!(feed.status().scan_requested);
        feed.begin_scan();
        assert!(!feed.status().scan_requested);
        feed.request_scan();
        assert!(feed.status().scan_requested);
    }

    #[test]
    fn who_serves_more_shards_or_overflows_beside_other_nodes_reads_the_store_from_its_beginning() {
        let feed = feed(EventSeq(0), true);
        let all: Vec<Fanout> = (1..=10_000).map(fanout).collect();
        let overflow = || assert_eq!(feed.push(&all, EventSeq(10_000)).len(), FANOUTS);
        let fall_behind: [&dyn Fn(); 2] = [&|| feed.fall_behind(), &overflow];
        for fall_behind in fall_behind {
            catch_up(&feed);
            fall_behind();
            feed.close_gap();
            assert_eq!(feed.status().behind, Some(Behind::Anywhere), "what was read before does not count");
            let starts_over = || feed.catch_up().map(|gap| gap.starts_over);
            assert_eq!((starts_over(), starts_over()), (Some(true), Some(false)), "the next page goes on");
            feed.fall_behind();
            feed.close_gap();
            assert_eq!((starts_over(), starts_over()), (Some(true), Some(false)), "the gap has grown");
            feed.close_gap();
            assert_eq!((feed.status().behind, starts_over()), (None, None));
        }
    }

    #[test]
    fn what_is_to_be_found_is_not_handed_out_until_it_is_found() {
        let feed = feed(EventSeq(0), true);
        catch_up(&feed);
        [(2, 0), (2, 1), (3, 0), (4, 0)]
            .into_iter()
            .for_each(|(seq, shard)| feed.expect_in_scan((EventSeq(seq), shard)));
        feed.discard_expected_after(EventSeq(3));
        feed.push(&[], EventSeq(3));
        assert_eq!((feed.expected_events(), feed.handed_out_through()), (vec![EventSeq(2), EventSeq(3)], EventSeq(1)));
        feed.note_scanned((EventSeq(2), 1));
        assert!(feed.has_scanned(EventSeq(1)) && !feed.has_scanned(EventSeq(2)));
        feed.forget(|shard| shard == 0);
        assert!(feed.expected_events().is_empty() && feed.is_idle() && feed.handed_out_through() == EventSeq(3));
    }

    #[test]
    fn a_full_feed_sends_the_dispatcher_to_the_store() {
        let feed = feed(EventSeq(0), false);
        catch_up(&feed);
        let all: Vec<Fanout> = (1..=10_000).map(fanout).collect();
        let kept = feed.push(&all, EventSeq(10_000)).len();
        assert_eq!(kept, FANOUTS);
        let taken = EventSeq(i64::try_from(FANOUTS).unwrap());
        assert_eq!(feed.take_waiting().len(), FANOUTS);
        assert_eq!(feed.status().behind, Some(Behind::Tail));
        assert_eq!((feed.newest_handed_out(), feed.handed_out_through()), (taken, taken));
    }

    #[test]
    fn a_feed_that_is_full_before_its_gap_was_read_has_another_gap_behind_the_queue() {
        for is_clustered in [false, true] {
            let feed = feed(EventSeq(0), is_clustered);
            feed.catch_up();
            let all: Vec<Fanout> = (1..=10_000).map(fanout).collect();
            assert_eq!(feed.push(&all, EventSeq(10_000)).len(), FANOUTS);
            feed.close_gap();
            assert_eq!(feed.take_waiting().len(), FANOUTS);
            assert_eq!(feed.status().behind, Some(Behind::Tail));
            let gap = Gap { through: EventSeq(10_000), starts_over: false };
            assert_eq!((feed.catch_up(), feed.push(&[fanout(10_001)], EventSeq(10_001)).len()), (Some(gap), 1));
        }
    }
}
