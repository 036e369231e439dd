//! Settles a batch: it is committed, or known not to be. A database that falls silent during COMMIT may have committed
//! the batch nevertheless, so the writer writes nothing else until it knows; publishers are refused meanwhile.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::domain::id::EventSeq;
use crate::store::StoreError;
use crate::store::transaction_id::TransactionId;

use super::super::outage::Ended;
use super::{Batch, JournalStats, Prepared, PublishError, RecentCancels, Request, Writer};
use crate::store::journal_db::UnansweredCommit;

/// How long a batch may take before its publishers are told that it failed: much longer than a slow disk takes, and
/// within the default lease, at whose end a silent database stops all sending anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// A batch that a responsive database does not finish in time gets twice as long at the next try, up to this limit, so
/// that a large batch does not fail for ever.
const MOST_PATIENCE: Duration = Duration::from_secs(320);

/// The pause before a refused batch is tried again. Publishes are refused once nothing was written for this long.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How often a batch is tried that conflicts with another node's, before its publishers are told.
const TRIES_AT_ONCE: usize = 5;

/// Why a batch is not known to be committed.
pub(super) enum Failure {
    /// The batch was not committed.
    Refused(StoreError),
    /// COMMIT was not answered.
    Unanswered(StoreError, Box<Undecided>),
}

/// What is true if the batch was committed, and how to find out.
pub(super) struct Undecided {
    pub(super) prepared: Prepared,
    pub(super) transaction: Option<TransactionId>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Writer {
    /// Commits the batch, however long that takes; its publishers wait for one try only.
    pub(super) async fn settle(&mut self, mut batch: Batch) {
        let (mut patience, mut tries) = (PATIENCE, 0);
        loop {
            tries += 1;
            let end = self.host.steady() + patience;
            let error = match Box::pin(self.commit(&mut batch, end)).await {
                Ok(prepared) => return self.committed(batch, prepared).await,
                // Another node has just accepted the same caller id or idempotency key, or was about to. The next try
                // sees its row.
                Err(Failure::Refused(StoreError::Exists | StoreError::Deadlock)) if tries < TRIES_AT_ONCE => continue,
                Err(Failure::Refused(error)) => error,
                Err(Failure::Unanswered(error, undecided)) => {
                    self.note_unanswered(&error);
                    if self.resolve_commit(&mut batch, &undecided, end).await {
                        return self.committed(batch, undecided.prepared).await;
                    }
                    error
                }
            };
            self.note_refusal(&error);
            // There may be no next batch for long, and a scan finds none of these events.
            self.outputs.feed.discard_expected_after(self.last);
            refuse(batch.publishes.drain(..).map(Request::Publish), || PublishError::Store(error.to_string()));
            let db = self.db.clone();
            self.meanwhile(&mut batch, end, db.answers()).await;
            if batch.records.is_empty() {
                self.outputs.stats.outage.lock().rests(self.host.steady());
                return batch.pass_barriers();
            }
            self.host.sleep(RETRY_PAUSE).await;
            self.refuse_waiting();
            if self.host.steady() > end {
                patience = MOST_PATIENCE.min(patience * 2);
            }
        }
    }

    async fn committed(&mut self, batch: Batch, prepared: Prepared) {
        let ended = self.outputs.stats.outage.lock().succeeded(self.host.steady());
        if let Some(Ended { after, refusals }) = ended {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(after_ms, refusals, "the database commits journal batches again");
        }
        self.announce(batch, prepared).await;
    }

    /// Only the first line is a warning: the batch is tried again several times a second.
    fn note_unanswered(&self, error: &StoreError) {
        let is_told = self.outputs.stats.outage.lock().unanswered(self.host.steady());
        if is_told {
            tracing::warn!(%error, "COMMIT of a journal batch was not answered; asking whether it was committed");
        } else {
            tracing::debug!(%error, "COMMIT of a journal batch was not answered again; asking");
        }
    }

    fn note_refusal(&self, error: &StoreError) {
        let stats = &self.outputs.stats;
        JournalStats::add(&stats.failed_commits, 1);
        let told = stats.outage.lock().refused(self.host.steady());
        match told {
            Some(suppressed) => tracing::error!(
                %error, suppressed,
                "a journal batch was refused; publishes fail and outcomes wait until the database commits again"
            ),
            None => tracing::debug!(%error, "a journal batch was refused again"),
        }
    }

    /// Returns whether the batch was committed. Its publishers get the true answer if it comes while they wait.
    async fn resolve_commit(&mut self, batch: &mut Batch, undecided: &Undecided, end: Instant) -> bool {
        let Undecided { prepared, transaction } = undecided;
        let event = (prepared.events > 0).then_some(prepared.last);
        let (db, shard_set) = (self.db.clone(), self.shard_set.clone());
        let unanswered = UnansweredCommit { shard_set: &shard_set, transaction: transaction.as_ref(), event };
        self.meanwhile(batch, end, db.resolve_commit(&unanswered)).await
    }

    /// Waits for the database's answer. The batch's publishers wait until `end`; others are refused after a short
    /// pause.
    async fn meanwhile<T>(&mut self, batch: &mut Batch, end: Instant, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let late = self.host.steady() + RETRY_PAUSE;
        let mut is_late = false;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = self.host.sleep_until(late), if !is_late => is_late = true,
                () = self.host.sleep_until(end), if !batch.publishes.is_empty() => {
                    refuse(batch.publishes.drain(..).map(Request::Publish), silent);
                }
                Some(request) = self.publishes.recv(), if is_late => refuse([request], silent),
            }
        }
    }

    /// Refuses the publishes that wait while the database refuses even records.
    fn refuse_waiting(&mut self) {
        self.refuse_all_that_wait(|| PublishError::Store("the database refuses to write".to_owned()));
    }

    /// Keeps keys above every visible key. Forgets recent cancels, since the database may have lost them.
    pub(super) fn forget_lost_history(&mut self, newest: EventSeq) {
        self.refuse_all_that_wait(|| PublishError::Diverged);
        self.last = self.last.max(newest);
        self.cancelled = RecentCancels::new(self.host.now());
    }

    fn refuse_all_that_wait(&mut self, why: impl Fn() -> PublishError) {
        let deferred_publish = self.deferred_publish.take().map(Request::Publish);
        let waiting = std::iter::from_fn(|| self.publishes.try_recv().ok());
        refuse(deferred_publish.into_iter().chain(waiting), why);
    }
}

fn silent() -> PublishError {
    PublishError::Store("the database does not answer".to_owned())
}

fn refuse(requests: impl IntoIterator<Item = Request>, why: impl Fn() -> PublishError) {
    for request in requests {
        if let Request::Publish(request) = request {
            let _ = request.answer.send(Err(why()));
        }
    }
}
