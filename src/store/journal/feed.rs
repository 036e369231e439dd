//! Committed fan-outs on their way from the writer to the dispatcher.
//!
//! A short queue in memory. When it is full the dispatcher has fallen *behind*: from then on it reads fan-outs back
//! from the store, in order, until it has seen the newest. A starting engine is simply one that is behind.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::id::EventSeq;
use crate::store::fanouts::Fanout;

/// Payload and target bytes that may wait in memory.
const BYTES: usize = 32 * 1024 * 1024;

/// Fan-outs that may wait in memory.
const FANOUTS: usize = 8192;

pub struct Feed {
    state: Mutex<State>,
    changed: Notify,
    is_shared: bool,
}

struct State {
    waiting: VecDeque<Fanout>,
    bytes: usize,
    behind: bool,
    /// The newest event that is committed here.
    committed: EventSeq,
    /// The newest event that is committed, as far as is heard of here.
    heard_of: EventSeq,
    /// The newest event whose fan-out was handed out.
    taken: EventSeq,
    /// Other nodes may have committed something for this one.
    has_news: bool,
    /// Everything in the store must be looked at again, since more of it is to be served from here.
    look_again: bool,
}

/// What the dispatcher shall do next.
#[derive(Debug)]
pub enum Next {
    Dispatch(Vec<Fanout>),
    /// Read from the store what comes after this event, then ask [`Feed::caught_up`].
    ReadAfter(EventSeq),
    /// Look in the store for what other nodes have committed.
    LookForNews,
}

impl Feed {
    /// `is_shared`: others commit to the same store.
    pub(super) fn behind(committed: EventSeq, is_shared: bool) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            behind: true,
            committed,
            heard_of: committed,
            taken: EventSeq::ZERO,
            has_news: false,
            look_again: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), is_shared }
    }

    /// Offers what was just committed; answers those that the dispatcher will get from memory.
    pub(super) fn push<'a>(&self, fanouts: &'a [Fanout], committed: EventSeq) -> &'a [Fanout] {
        let mut state = self.state.lock();
        state.committed = state.committed.max(committed);
        state.heard_of = state.heard_of.max(committed);
        let mut kept = 0;
        for fanout in fanouts {
            let bytes = fanout.bytes();
            let full = state.waiting.len() >= FANOUTS || state.bytes + bytes > BYTES;
            state.look_again |= full && !state.behind && self.is_shared;
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

    /// What there is to do right now.
    pub fn try_next(&self) -> Option<Next> {
        let mut state = self.state.lock();
        if !state.waiting.is_empty() {
            state.bytes = 0;
            let taken = state.taken;
            let fanouts: Vec<Fanout> = state.waiting.drain(..).filter(|fanout| fanout.event.seq > taken).collect();
            state.taken = fanouts.last().map_or(taken, |fanout| fanout.event.seq);
            return Some(Next::Dispatch(fanouts));
        }
        if state.behind {
            return Some(Next::ReadAfter(state.taken));
        }
        std::mem::take(&mut state.has_news).then_some(Next::LookForNews)
    }

    /// Other nodes may have committed something for this one.
    pub fn expect_news(&self) {
        self.state.lock().has_news = true;
        self.changed.notify_one();
    }

    /// More of what the store holds is to be served from here: the dispatcher is behind.
    pub(super) fn look_again(&self) {
        let mut state = self.state.lock();
        (state.behind, state.look_again) = (true, true);
        drop(state);
        self.changed.notify_one();
    }

    /// Others dispatch these now.
    pub(super) fn forget(&self, are_forgotten: impl Fn(i16) -> bool) {
        let mut state = self.state.lock();
        state.waiting.retain(|fanout| !are_forgotten(fanout.shard));
        state.bytes = state.waiting.iter().map(Fanout::bytes).sum();
    }

    /// Whether to begin anew with what the store holds; said once.
    pub fn must_look_again(&self) -> bool {
        std::mem::take(&mut self.state.lock().look_again)
    }

    /// The dispatcher has read everything up to `to` from the store.
    pub fn read_up_to(&self, to: EventSeq) {
        let mut state = self.state.lock();
        state.taken = state.taken.max(to);
    }

    /// The store showed nothing after what was taken. From now on fan-outs come from memory again, unless something
    /// was committed meanwhile.
    pub fn caught_up(&self, seen: EventSeq) {
        let mut state = self.state.lock();
        if state.committed <= seen && !state.look_again {
            state.taken = state.taken.max(seen);
            state.behind = false;
        }
    }

    /// This was found in the store, and is going to be started on.
    pub(super) fn hear_of(&self, event: EventSeq) {
        let mut state = self.state.lock();
        state.heard_of = state.heard_of.max(event);
    }

    /// The newest event that anybody here may have been offered, whichever node accepted it.
    pub fn heard_of(&self) -> EventSeq {
        self.state.lock().heard_of
    }

    /// The newest event that was committed here: what a reader of the store may rely on seeing.
    pub fn committed(&self) -> EventSeq {
        self.state.lock().committed
    }

    /// Every event up to this one has been handed out.
    pub fn dispatched_to(&self) -> EventSeq {
        let state = self.state.lock();
        match (state.waiting.front(), state.behind) {
            (Some(first), _) => EventSeq(first.event.seq.0 - 1),
            (None, true) => state.taken,
            (None, false) => state.committed,
        }
    }

    /// Whether everything committed has been handed out.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && !state.behind
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::id::{TenantNum, WebhookNum};
    use crate::store::events::Event;

    fn fanout(seq: i64) -> Fanout {
        let event = Event { seq: EventSeq(seq), tenant: TenantNum(1), kind: "a".to_owned(), body: Bytes::new() };
        Fanout { event: Arc::new(event), shard: 0, targets: Arc::new([WebhookNum(1)]) }
    }

    fn seqs(next: Option<Next>) -> Vec<i64> {
        match next {
            Some(Next::Dispatch(fanouts)) => fanouts.iter().map(|fanout| fanout.event.seq.0).collect(),
            Some(Next::ReadAfter(after)) => vec![-1, after.0],
            Some(Next::LookForNews) | None => vec![],
        }
    }

    #[test]
    fn a_new_feed_is_behind_until_the_store_shows_nothing_more() {
        let feed = Feed::behind(EventSeq(7), false);
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
        let feed = Feed::behind(EventSeq(0), false);
        feed.read_up_to(EventSeq(1));
        feed.caught_up(EventSeq(1));
        feed.push(&[fanout(1), fanout(2)], EventSeq(2));
        assert_eq!(seqs(feed.try_next()), [2]);
    }

    #[test]
    fn what_other_nodes_have_accepted_is_heard_of_and_keeps_nobody_from_catching_up() {
        let feed = Feed::behind(EventSeq(1), true);
        feed.hear_of(EventSeq(9));
        feed.push(&[fanout(2)], EventSeq(2));
        assert_eq!((feed.heard_of(), feed.committed()), (EventSeq(9), EventSeq(2)));
        feed.caught_up(EventSeq(2));
        assert!(feed.is_idle());
    }

    #[test]
    fn a_full_feed_sends_the_dispatcher_to_the_store() {
        let feed = Feed::behind(EventSeq(0), false);
        feed.caught_up(EventSeq(0));
        let all: Vec<Fanout> = (1..=10_000).map(fanout).collect();
        let kept = feed.push(&all, EventSeq(10_000)).len();
        assert_eq!(kept, FANOUTS);
        assert_eq!(seqs(feed.try_next()).len(), FANOUTS);
        assert_eq!(seqs(feed.try_next()), [-1, i64::try_from(FANOUTS).unwrap()]);
        assert_eq!(feed.dispatched_to(), EventSeq(i64::try_from(FANOUTS).unwrap()));
    }
}
