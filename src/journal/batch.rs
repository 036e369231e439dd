//! What is committed together, and whether a caller waits for it. Pure.

use tokio::sync::oneshot;

use super::{OwnershipChange, PublishRequest, Record, Request, answers};

/// How many records may join publishes in a batch, unless more than twice as many wait: publishers wait for the commit.
pub(super) const RECORDS_BESIDE_PUBLISHES: usize = 256;

/// Up to this many publishes are written alone; records that nobody waits for come with the next batch.
const FEW_PUBLISHES: usize = 4;

/// From this many on, records are worth a commit of their own.
const ENOUGH_RECORDS: usize = 1024;

/// Bytes of receivers' answers in one transaction.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Batch {
    pub(super) publishes: Vec<PublishRequest>,
    pub(super) records: Vec<Record>,
    pub(super) barriers: Vec<oneshot::Sender<()>>,
    pub(super) ownership_changes: Vec<OwnershipChange>,
    /// Bytes of receivers' answers in `records`.
    pub(super) answer_bytes: usize,
    /// Whether a caller waits for one of the records.
    pub(super) is_awaited: bool,
    pub(super) closing: bool,
}

impl Batch {
    pub(super) fn add(&mut self, request: Request) {
        match request {
            Request::Publish(request) => self.publishes.push(request),
            Request::Record(record) => {
                self.is_awaited |= matches!(record, Record::Purge { .. } | Record::Claim { .. });
                if let Record::Attempt(record) = &record {
                    self.answer_bytes += answers::bytes_of(&record.attempt);
                }
                self.records.push(record);
            }
            Request::Barrier(done) => self.barriers.push(done),
            Request::Ownership(change) => self.ownership_changes.push(change),
            Request::Close => self.closing = true,
        }
    }

    /// Whether one transaction should take no more answers: they are copied several times on their way.
    pub(super) fn is_large(&self) -> bool {
        self.answer_bytes >= ANSWER_BYTES
    }

    /// Whether the batch has few records and nothing else.
    pub(super) fn can_wait(&self) -> bool {
        !self.has_waiters_for_records()
            && self.publishes.is_empty()
            && self.records.len() < ENOUGH_RECORDS
            && !self.is_large()
    }

    /// Whether a few publishers wait, and nobody waits for a record.
    pub(super) fn may_postpone_records(&self) -> bool {
        let few_publish = (1..=FEW_PUBLISHES).contains(&self.publishes.len());
        few_publish && !self.has_waiters_for_records() && self.records.len() < RECORDS_BESIDE_PUBLISHES
    }

    pub(super) fn has_waiters_for_records(&self) -> bool {
        self.closing || self.is_awaited || !self.barriers.is_empty() || !self.ownership_changes.is_empty()
    }

    /// Call this once nothing that was recorded before the barriers is left to commit.
    pub(super) fn pass_barriers(self) {
        for done in self.barriers {
            let _ = done.send(());
        }
    }
}
