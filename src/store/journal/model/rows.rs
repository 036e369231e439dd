//! What a batch writes, and what it reads first: mirrors the preparing half of [`super::super::writer`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::id::{DeliveryId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::deliveries::DeliveryState;
use crate::store::events::{Body, Event};
use crate::store::fanouts::Fanout;
use crate::store::journal::assign::accept;
use crate::store::journal::rows::{Purge, Updated};
use crate::store::journal::{PublishRequest, Published, Record, ScannedFanout};
use crate::store::leases::ShardNum;

use super::{HUGE, HUGE_BODY, Tables, Writer, Written};

#[derive(Default)]
pub(super) struct Rows {
    pub(super) events: Vec<(Arc<Event>, Arc<[WebhookNum]>)>,
    pub(super) deferrals: Vec<(DeliveryId, DeliveryState)>,
    pub(super) updates: Vec<Update>,
}

pub(super) enum Update {
    Cancel(DeliveryId, UnixMillis),
    Retry(DeliveryId, UnixMillis),
    Purge(Purge),
}

impl Writer {
    pub(super) fn prepare_events(&self, tables: &Tables, rows: &mut Rows, now: UnixMillis) -> Written {
        let mut written = Written {
            answers: Vec::new(),
            fanouts: Vec::new(),
            last: self.last,
            late: HashSet::new(),
            new: Vec::new(),
            updated: Updated::default(),
            purged: Vec::new(),
        };
        if !self.shard_set.is_everything() && self.batch.publishes.iter().any(PublishRequest::is_ordered) {
            written.last = written.last.max(tables.last_event());
        }
        for request in &self.batch.publishes {
            let mut answers = Vec::new();
            for draft in &request.drafts {
                written.last = written.last.next(self.shard_set.slot(), now);
                let (new, receipt) = accept(draft.clone(), written.last, now);
                let mut event = new.event;
                if event.kind == HUGE {
                    event = Arc::new(Event {
                        body: Body::InMemory(Bytes::from_static(&HUGE_BODY)),
                        ..Event::clone(&event)
                    });
                }
                rows.events.push((event.clone(), new.targets.clone()));
                written.fanouts.extend(self.parts_of(&event, &new.targets, draft.is_ordered));
                answers.push(Published::Accepted(receipt));
            }
            written.answers.push(answers);
        }
        written
    }

    /// Mirrors `Writer::parts_of`.
    fn parts_of(&self, event: &Arc<Event>, targets: &[WebhookNum], is_ordered: bool) -> Vec<Fanout> {
        let in_order = is_ordered && !self.shard_set.is_everything();
        let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
        for webhook in targets {
            parts.entry(self.shard_set.part_of(*webhook).num()).or_default().push(*webhook);
        }
        let part =
            |(shard, targets): (i16, Vec<_>)| Fanout { event: event.clone(), shard, targets: targets.into(), in_order };
        let parts: Vec<Fanout> = parts.into_iter().map(part).collect();
        for fanout in
            parts.iter().filter(|fanout| in_order && self.shard_set.owns(ShardNum::read(fanout.shard).unwrap()))
        {
            self.feed.expect_in_scan((event.seq, fanout.shard));
        }
        parts
    }

    /// Mirrors `Writer::prepare_records`.
    pub(super) fn prepare_records(&mut self, rows: &mut Rows) {
        let records = std::mem::take(&mut self.batch.records);
        for record in &records {
            match record {
                Record::Attempt(record) => self.watched.mark(record.id),
                Record::Defer { id, .. } if !self.watched.may_get_row(*id, &self.shard_set) => {}
                Record::Defer { id, next_at } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*next_at))));
                    self.watched.mark(*id);
                }
                Record::Cancel { id, at } => {
                    rows.deferrals.push((*id, DeliveryState::pending(Some(*at))));
                    rows.updates.push(Update::Cancel(*id, *at));
                    self.watched.mark(*id);
                }
                Record::Retry { id, at } => rows.updates.push(Update::Retry(*id, *at)),
                Record::Purge { webhook, through, except, .. } => {
                    let (webhook, through, except) = (*webhook, *through, except.clone());
                    rows.updates.push(Update::Purge(Purge { webhook, through, except }));
                }
                Record::Adopt { fanout } => self.watched.adopt(fanout),
                Record::Mark { event, recorded, .. } => self.watched.mark_all(*event, recorded),
                Record::Watch { .. } | Record::Health { .. } => {}
            }
        }
        self.batch.records = records;
    }

    /// Mirrors `RecentCancels::settled_before`.
    pub(super) fn late(&mut self, tables: &Tables, now: UnixMillis) -> HashSet<DeliveryId> {
        let doubtful = self.cancelled.doubtful_among(&self.batch.records, now);
        doubtful.into_iter().filter(|id| tables.is_settled(*id)).collect()
    }

    /// Mirrors `Writer::new_among`.
    pub(super) fn new_among(&self, tables: &Tables) -> Vec<Vec<bool>> {
        let is_new = |found: &ScannedFanout| {
            let key = (found.fanout.event.seq, found.fanout.shard);
            let is_ours = ShardNum::read(key.1).is_ok_and(|shard| self.shard_set.owns(shard));
            is_ours && tables.has_fanout(key) && !self.watched.knows(key)
        };
        let watches = self.batch.records.iter().filter_map(|record| match record {
            Record::Watch { fanouts, .. } => Some(fanouts),
            _ => None,
        });
        watches.map(|fanouts| fanouts.iter().map(is_new).collect()).collect()
    }
}
