//! What the dispatcher does next. Fan-outs that were committed here and reads of the store take turns, so that a node
//! with endless publishes still finds what other nodes have committed. While the feed is behind, the store is read once
//! the queue is empty, and that finds what a scan would find. Pure.

use crate::journal::feed::FeedStatus;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Take the fan-outs that wait in the feed.
    TakeWaiting,
    /// Read from the store what the feed lacks.
    CatchUp,
    /// Scan the store for fan-outs that other nodes have committed.
    BeginScan,
    /// Read the next page of the scan under way.
    ContinueScan,
}

#[derive(Debug, Default)]
pub(super) struct Turns {
    last: Last,
    scan: ScanProgress,
}

/// Whose turn it was.
#[derive(Debug, Default, PartialEq, Eq)]
enum Last {
    /// The fan-outs in the feed; the next turn is the store's.
    Waiting,
    #[default]
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum ScanProgress {
    #[default]
    Finished,
    /// The scan under way has more pages.
    Unfinished,
}

impl Turns {
    /// `None`: the feed has nothing and lacks nothing.
    pub(super) fn next(&mut self, feed: FeedStatus) -> Option<Step> {
        let last = std::mem::take(&mut self.last);
        let is_stores_turn = last == Last::Waiting || !feed.has_waiting;
        if is_stores_turn && let Some(step) = self.next_read(feed) {
            return Some(step);
        }
        if feed.has_waiting {
            self.last = Last::Waiting;
        }
        feed.has_waiting.then_some(Step::TakeWaiting)
    }

    /// What is to be read from the store.
    fn next_read(&mut self, feed: FeedStatus) -> Option<Step> {
        if feed.has_gap || feed.behind.is_some() {
            return (feed.has_gap || !feed.has_waiting).then_some(Step::CatchUp);
        }
        // A request that comes during a scan needs another scan: this one may not show what it is for.
        match std::mem::take(&mut self.scan) {
            ScanProgress::Unfinished => Some(Step::ContinueScan),
            ScanProgress::Finished => feed.scan_requested.then_some(Step::BeginScan),
        }
    }

    /// The scan under way has more pages, or its last page could not be read.
    pub(super) fn scan_goes_on(&mut self) {
        self.scan = ScanProgress::Unfinished;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::feed::Behind;

    const NOTHING: FeedStatus = FeedStatus { has_waiting: false, has_gap: false, behind: None, scan_requested: false };

    #[test]
    fn a_feed_that_has_and_lacks_nothing_gives_no_work() {
        assert_eq!(Turns::default().next(NOTHING), None);
    }

    #[test]
    fn publishes_without_end_here_and_what_other_nodes_have_committed_take_turns() {
        let mut turns = Turns::default();
        let both = FeedStatus { has_waiting: true, scan_requested: true, ..NOTHING };
        let steps = [(); 4].map(|()| turns.next(both).unwrap());
        assert_eq!(steps, [Step::TakeWaiting, Step::BeginScan, Step::TakeWaiting, Step::BeginScan]);
    }

    #[test]
    fn a_scan_is_finished_before_the_next_one_begins() {
        let mut turns = Turns::default();
        let requested = FeedStatus { scan_requested: true, ..NOTHING };
        assert_eq!(turns.next(requested), Some(Step::BeginScan));
        turns.scan_goes_on();
        assert_eq!(turns.next(requested), Some(Step::ContinueScan));
        assert_eq!(turns.next(requested), Some(Step::BeginScan));
        turns.scan_goes_on();
        assert_eq!((turns.next(NOTHING), turns.next(NOTHING)), (Some(Step::ContinueScan), None));
    }

    #[test]
    fn a_feed_that_is_behind_is_emptied_and_then_the_store_is_read_and_nothing_is_scanned() {
        for behind in [Behind::Tail, Behind::Anywhere] {
            let mut turns = Turns::default();
            let behind = FeedStatus { behind: Some(behind), scan_requested: true, ..NOTHING };
            turns.scan_goes_on();
            let waiting = FeedStatus { has_waiting: true, ..behind };
            let steps = [waiting, waiting, behind, behind].map(|feed| turns.next(feed).unwrap());
            assert_eq!(steps, [Step::TakeWaiting, Step::TakeWaiting, Step::CatchUp, Step::CatchUp]);
            assert_eq!(turns.next(NOTHING), Some(Step::ContinueScan));
        }
    }

    #[test]
    fn a_gap_is_read_in_turn_with_what_waits_and_before_the_feed_is_caught_up_again() {
        for behind in [None, Some(Behind::Tail), Some(Behind::Anywhere)] {
            let mut turns = Turns::default();
            let gap = FeedStatus { has_gap: true, behind, scan_requested: true, ..NOTHING };
            assert_eq!(turns.next(gap), Some(Step::CatchUp));
            let waiting = FeedStatus { has_waiting: true, ..gap };
            let steps = [waiting, waiting, gap].map(|feed| turns.next(feed).unwrap());
            assert_eq!(steps, [Step::TakeWaiting, Step::CatchUp, Step::CatchUp]);
        }
    }
}
