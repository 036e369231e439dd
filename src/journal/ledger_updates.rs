//! Applies a committed batch to the ledger: one change for each delivery that has begun or ceased to be pending. Counts
//! those that have ended. Pure.

use std::collections::HashSet;

use crate::domain::delivery::Status;
use crate::domain::id::DeliveryId;
use crate::domain::moment::UnixMillis;
use crate::store::cancel::TakenBack;
use crate::store::fanouts::Fanout;
use crate::store::journal_db::rows::Change;

use super::ledger::Ledger;
use super::{AttemptRecord, Record};

/// The records are in the order in which they were written, attempts before updates.
pub(super) struct Committed<'a> {
    pub(super) fanouts: &'a [Fanout],
    pub(super) records: &'a [Record],
    /// Attempts whose delivery was settled before.
    pub(super) late: &'a HashSet<DeliveryId>,
    pub(super) changes: &'a [Change],
}

/// How many deliveries a batch has ended with each status of [`Status::FINAL`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ended([usize; Status::FINAL.len()]);

impl Ended {
    fn add(&mut self, status: Status) {
        if let Some(place) = Status::FINAL.iter().position(|end| *end == status) {
            self.0[place] += 1;
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = usize> {
        self.0.into_iter()
    }
}

pub(super) fn apply(ledger: &mut Ledger, committed: &Committed<'_>, now: UnixMillis) -> Ended {
    let mut ended = Ended::default();
    for fanout in committed.fanouts {
        ledger.owe_all(&fanout.targets, fanout.event.seq);
    }
    for record in committed.records {
        match record {
            Record::Attempt(record) if !committed.late.contains(&record.id) => {
                attempted(ledger, record, now);
                ended.add(record.state.status);
            }
            // A deferred delivery was pending before. `changes` has the effect of the other records.
            Record::Attempt(_) | Record::Defer { .. } | Record::Health { .. } => {}
            Record::Cancel { .. } | Record::Retry { .. } | Record::Owe { .. } | Record::Purge { .. } => {}
            Record::Track { .. } | Record::Mark { .. } | Record::Claim { .. } => {}
        }
    }
    for change in committed.changes {
        changed(ledger, change, now);
        if let Change::TakenBack(TakenBack { status, .. }) = change {
            ended.add(*status);
        }
    }
    ended
}

fn attempted(ledger: &mut Ledger, record: &AttemptRecord, now: UnixMillis) {
    let DeliveryId { event, webhook } = record.id;
    match (record.state.status, record.state.next_at) {
        (Status::Pending, Some(at)) => ledger.schedule(webhook, at, now),
        (Status::Pending, None) => {}
        (Status::Success | Status::Failed | Status::Cancelled, _) => ledger.settle(webhook, event),
    }
}

fn changed(ledger: &mut Ledger, change: &Change, now: UnixMillis) {
    match *change {
        Change::TakenBack(TakenBack { id, next_at, .. }) => {
            if let Some(at) = next_at {
                ledger.unschedule(id.webhook, at, now);
            }
            ledger.settle(id.webhook, id.event);
        }
        Change::Again(id) => ledger.again(id.webhook, id.event),
        Change::Hastened { id, next_at } => ledger.unschedule(id.webhook, next_at, now),
    }
}
