//! What the registry remembers of webhooks apart from their endpoints, for as long as it can matter: row watermarks,
//! and what is in doubt. Pure.

use std::collections::HashMap;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;

#[derive(Default)]
pub(in crate::engine) struct Marks {
    /// Every fan-out up to this event that names the webhook, and was visible when the watermark was set, has a row for
    /// the webhook. Set after a crash and by a purge.
    rows_complete_to: HashMap<WebhookNum, RowWatermark>,
    /// What crashed endpoints may have sent. Their next activation may come much later, for example because a purge
    /// holds the webhook or an operator has paused it.
    in_doubt: HashMap<WebhookNum, InDoubt>,
}

struct RowWatermark {
    to: EventSeq,
    /// Set since the last [`Marks::prune`].
    is_new: bool,
}

impl Marks {
    pub(in crate::engine) fn set_row_watermark(&mut self, num: WebhookNum, to: EventSeq) {
        let covered = self.rows_complete_to.entry(num).or_insert(RowWatermark { to, is_new: true });
        *covered = RowWatermark { to: to.max(covered.to), is_new: true };
    }

    pub(in crate::engine) fn has_row(&self, num: WebhookNum, event: EventSeq) -> bool {
        self.rows_complete_to.get(&num).is_some_and(|covered| event <= covered.to)
    }

    pub(in crate::engine) fn mark_in_doubt(&mut self, num: WebhookNum, in_doubt: InDoubt) {
        let known = self.in_doubt.entry(num).or_insert(in_doubt);
        *known = known.and(in_doubt);
    }

    /// What is in doubt for this webhook, together with what is in doubt for all.
    pub(in crate::engine) fn in_doubt_of(&self, num: WebhookNum, of_all: InDoubt) -> InDoubt {
        self.in_doubt.get(&num).map_or(of_all, |in_doubt| in_doubt.and(of_all))
    }

    /// Forgets the webhooks of a shard that this node gives up.
    pub(in crate::engine) fn forget_shard(&mut self, shard: ShardNum) {
        let stays = |num: &WebhookNum| ShardNum::of(*num) != shard;
        self.rows_complete_to.retain(|num, _| stays(num));
        self.in_doubt.retain(|num, _| stays(num));
    }

    /// Forgets what cannot matter any more: no event up to `offered_to` is offered again, and a webhook that is owed
    /// nothing has nothing in doubt. A new row watermark stays for one more round, because another node's event may
    /// already have its row although the dispatcher has not found the event yet.
    pub(in crate::engine) fn prune(&mut self, offered_to: EventSeq, is_owed: impl Fn(WebhookNum) -> bool) {
        self.rows_complete_to.retain(|_, covered| std::mem::take(&mut covered.is_new) || covered.to > offered_to);
        self.in_doubt.retain(|num, _| is_owed(*num));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::moment::UnixMillis;

    const A: WebhookNum = WebhookNum(1);
    const B: WebhookNum = WebhookNum(2);

    fn in_doubt(event: i64) -> InDoubt {
        InDoubt { events_to: EventSeq(event), due_to: UnixMillis(event) }
    }

    #[test]
    fn what_cannot_matter_any_more_is_forgotten() {
        let mut marks = Marks::default();
        for (num, event) in [(A, 5), (A, 3), (B, 9)] {
            marks.set_row_watermark(num, EventSeq(event));
            marks.mark_in_doubt(num, in_doubt(event));
        }
        marks.prune(EventSeq(9), |_| true);
        assert!(marks.has_row(A, EventSeq(5)) && !marks.has_row(A, EventSeq(6)), "a new watermark stays");
        assert_eq!(marks.in_doubt_of(A, in_doubt(1)), in_doubt(5));
        marks.prune(EventSeq(5), |num| num == B);
        assert!(!marks.has_row(A, EventSeq(5)) && marks.has_row(B, EventSeq(9)));
        assert_eq!((marks.in_doubt_of(A, in_doubt(1)), marks.in_doubt_of(B, in_doubt(1))), (in_doubt(1), in_doubt(9)));
        marks.prune(EventSeq(9), |_| false);
        assert!(marks.rows_complete_to.is_empty() && marks.in_doubt.is_empty());
    }

    #[test]
    fn a_shard_that_is_left_leaves_nothing() {
        let mut marks = Marks::default();
        [A, B].into_iter().for_each(|num| marks.set_row_watermark(num, EventSeq(1)));
        marks.mark_in_doubt(A, in_doubt(1));
        marks.forget_shard(ShardNum::of(A));
        assert!(!marks.has_row(A, EventSeq(1)) && marks.has_row(B, EventSeq(1)) && marks.in_doubt.is_empty());
    }
}
