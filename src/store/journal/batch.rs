//! What is committed together, and whether somebody waits for it. Pure.

use tokio::sync::oneshot;

use super::{OwnershipChange, PublishRequest, Record, Request, answers};

/// Outcomes that are written together with publishes, whose senders wait. Nobody waits for the others.
pub(super) const RECORDS_BESIDE_PUBLISHES: usize = 256;

/// So few publishes are written alone: what nobody waits for comes with the next batch.
const FEW_PUBLISHES: usize = 4;

/// Outcomes that are worth a commit of their own.
const ENOUGH_RECORDS: usize = 1024;

/// Bytes of answers in one transaction.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Batch {
    pub(super) publishes: Vec<PublishRequest>,
    pub(super) records: Vec<Record>,
    pub(super) barriers: Vec<oneshot::Sender<()>>,
    pub(super) shifts: Vec<OwnershipChange>,
    /// What the outcomes bring along.
    pub(super) answer_bytes: usize,
    /// Somebody waits for what one of the records changes.
    pub(super) is_awaited: bool,
    pub(super) closing: bool,
}

impl Batch {
    pub(super) fn add(&mut self, request: Request) {
        match request {
            Request::Publish(request) => self.publishes.push(request),
            Request::Record(record) => {
                self.is_awaited |= matches!(record, Record::Purge { .. } | Record::Watch { .. });
                if let Record::Attempt(record) = &record {
                    self.answer_bytes += answers::bytes_of(&record.attempt);
                }
                self.records.push(record);
            }
            Request::Barrier(done) => self.barriers.push(done),
            Request::Ownership(shift) => self.shifts.push(shift),
            Request::Close => self.closing = true,
        }
    }

    /// Its outcomes bring as much as one transaction should: they are copied several times on their way.
    pub(super) fn is_large(&self) -> bool {
        self.answer_bytes >= ANSWER_BYTES
    }

    /// Outcomes alone, and few of them.
    pub(super) fn can_wait(&self) -> bool {
        !self.somebody_waits_for_records()
            && self.publishes.is_empty()
            && self.records.len() < ENOUGH_RECORDS
            && !self.is_large()
    }

    /// Publishers wait, a few of them, and nobody waits for what was recorded.
    pub(super) fn may_hold_records(&self) -> bool {
        let few_publish = (1..=FEW_PUBLISHES).contains(&self.publishes.len());
        few_publish && !self.somebody_waits_for_records() && self.records.len() < RECORDS_BESIDE_PUBLISHES
    }

    pub(super) fn somebody_waits_for_records(&self) -> bool {
        self.closing || self.is_awaited || !self.barriers.is_empty() || !self.shifts.is_empty()
    }

    /// Nothing that was recorded before these is left to commit.
    pub(super) fn pass_barriers(self) {
        for done in self.barriers {
            let _ = done.send(());
        }
    }
}
