//! The fan-outs that the dispatcher is working through, tenant by tenant: a tenant with much to send does not keep the
//! others waiting. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::domain::id::{EventSeq, TenantNum};
use crate::engine::registry::Item;
use crate::store::fanouts::Fanout;

/// A ring of tenants, each with its fan-outs in the order of publishing.
#[derive(Default)]
pub(in crate::engine) struct FairQueue {
    tenants: VecDeque<(TenantNum, VecDeque<Part>)>,
    /// How many parts of each event are here; the parts share its body.
    parts: HashMap<EventSeq, usize>,
    bytes: usize,
}

/// What is left of a fan-out.
struct Part {
    fanout: Fanout,
    /// What is left may have been sent before.
    recovered: bool,
    /// The shard's tag when the dispatcher took the fan-out up.
    tag: i64,
    from: usize,
}

impl FairQueue {
    /// Roughly what the queue takes in memory.
    pub(in crate::engine) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    pub(in crate::engine) fn push(&mut self, fanout: Fanout, recovered: bool, tag: i64) {
        let tenant = fanout.event.tenant;
        self.count(&fanout);
        let part = Part { fanout, recovered, tag, from: 0 };
        match self.tenants.iter_mut().find(|(known, _)| *known == tenant) {
            Some((_, parts)) => parts.push_back(part),
            None => self.tenants.push_back((tenant, VecDeque::from([part]))),
        }
    }

    fn count(&mut self, fanout: &Fanout) {
        let parts = self.parts.entry(fanout.event.seq).or_default();
        self.bytes += fanout.target_bytes() + if *parts == 0 { fanout.event.body.bytes_in_memory() } else { 0 };
        *parts += 1;
    }

    fn discount(&mut self, fanout: &Fanout) {
        self.bytes -= fanout.target_bytes();
        let Some(parts) = self.parts.get_mut(&fanout.event.seq) else { return };
        *parts -= 1;
        if *parts == 0 {
            self.parts.remove(&fanout.event.seq);
            self.bytes -= fanout.event.body.bytes_in_memory();
        }
    }

    /// At most `most` targets of the tenant whose turn it is. Tenants in `blocked` are passed over and keep their turn.
    pub(in crate::engine) fn take(&mut self, most: usize, blocked: &HashSet<TenantNum>) -> Vec<Item> {
        let Some(turn) = self.tenants.iter().position(|(tenant, _)| !blocked.contains(tenant)) else {
            return Vec::new();
        };
        let Some((tenant, mut parts)) = self.tenants.remove(turn) else { return Vec::new() };
        let mut items = Vec::new();
        while items.len() < most
            && let Some(part) = parts.front_mut()
        {
            part.move_to(&mut items, most);
            if part.from == part.fanout.targets.len() {
                let ended = parts.pop_front();
                ended.iter().for_each(|part| self.discount(&part.fanout));
            }
        }
        if !parts.is_empty() {
            self.tenants.push_back((tenant, parts));
        }
        items
    }
}

impl Part {
    fn move_to(&mut self, items: &mut Vec<Item>, most: usize) {
        let Fanout { event, targets, .. } = &self.fanout;
        let to = targets.len().min(self.from + (most - items.len()));
        let (recovered, tag) = (self.recovered, self.tag);
        items.extend(targets[self.from..to].iter().map(|num| Item { event: event.clone(), num: *num, recovered, tag }));
        self.from = to;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::domain::event::{Body, Event};
    use crate::domain::id::WebhookNum;

    fn fanout(tenant: i64, seq: i64, targets: i64) -> Fanout {
        let event = Event {
            seq: EventSeq(seq),
            tenant: TenantNum(tenant),
            kind: "a".to_owned(),
            body: Body::InMemory(Bytes::new()),
            trail: None,
        };
        let targets = (1..=targets).map(WebhookNum).collect();
        Fanout { event: Arc::new(event), shard: 0, targets, in_order: false }
    }

    fn seqs(items: &[Item]) -> Vec<i64> {
        let mut seqs: Vec<i64> = items.iter().map(|item| item.event.seq.0).collect();
        seqs.dedup();
        seqs
    }

    #[test]
    fn tenants_take_turns_and_each_goes_by_publishing() {
        let mut queue = FairQueue::default();
        [fanout(1, 1, 25), fanout(1, 2, 5), fanout(2, 3, 1)]
            .into_iter()
            .for_each(|fanout| queue.push(fanout, false, 0));
        let mut turns = Vec::new();
        loop {
            let items = queue.take(10, &HashSet::new());
            if items.is_empty() {
                break;
            }
            turns.push((items.len(), seqs(&items)));
        }
        assert_eq!(turns, [(10, vec![1]), (1, vec![3]), (10, vec![1]), (10, vec![1, 2])]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn the_parts_of_an_event_share_its_body() {
        let (mut queue, mut part) = (FairQueue::default(), fanout(1, 1, 5));
        let body = Body::InMemory(Bytes::from_static(&[0; 1000]));
        part.event = Arc::new(Event { body, ..Event::clone(&part.event) });
        (0..3).for_each(|shard| queue.push(Fanout { shard, ..part.clone() }, false, 0));
        assert_eq!(queue.bytes(), 1000 + 3 * 5 * 8);
        queue.take(12, &HashSet::new());
        assert_eq!(queue.bytes(), 1000 + 5 * 8);
        queue.take(12, &HashSet::new());
        assert!(queue.bytes() == 0 && queue.parts.is_empty());
    }

    #[test]
    fn who_is_blocked_keeps_its_turn_and_nobody_waits_for_it() {
        let mut queue = FairQueue::default();
        [fanout(1, 1, 5), fanout(2, 2, 5)].into_iter().for_each(|fanout| queue.push(fanout, false, 0));
        let blocked = HashSet::from([TenantNum(1)]);
        assert_eq!(seqs(&queue.take(10, &blocked)), [2]);
        assert!(queue.take(10, &blocked).is_empty());
        assert_eq!(seqs(&queue.take(10, &HashSet::new())), [1]);
    }

    #[test]
    fn every_target_is_taken_once() {
        let mut queue = FairQueue::default();
        (1..=3).for_each(|tenant| queue.push(fanout(tenant, tenant, 1000), tenant <= 2, 0));
        let mut taken = HashSet::new();
        while queue.bytes() > 0 {
            for item in queue.take(7, &HashSet::new()) {
                assert_eq!(item.recovered, item.event.seq <= EventSeq(2));
                assert!(taken.insert((item.event.seq, item.num)));
            }
        }
        assert_eq!(taken.len(), 3000);
    }
}
