//! A batch until it is committed, or known not to be. A database that falls silent in between may have committed it all
//! the same: nothing else is written before that is known, and until then nobody else waits.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use sea_orm::DbErr;
use tokio::time::Instant;

use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::store::StoreError;
use crate::store::commit_status::{TransactionId, UnansweredCommit};

use super::super::outage::Ended;
use super::{Batch, JournalStats, Prepared, PublishError, RecentCancels, Request, Writer};

/// Until then a batch is committed or given up, and its publishers are told: much longer than a slow disk makes anybody
/// wait, and within the lease as it is by default, after which a silent database keeps everything from being sent, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database that answers and is not done with a batch in time gets twice as long for it at the next try, up to this: a
/// batch must not fail for ever because it is large.
const MOST_PATIENCE: Duration = Duration::from_secs(320);

/// Pause before a refused batch is tried again. Whoever publishes while nothing is written for longer is refused.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How often a batch that another node was faster with is tried before its publishers are told.
const TRIES_AT_ONCE: usize = 5;

/// Why a batch is not known to be committed.
pub(super) enum Failure {
    /// It is not.
    Refused(StoreError),
    /// The answer to COMMIT did not come.
    InDoubt(StoreError, Box<Unanswered>),
}

/// What is true if it was committed, and how to find out.
pub(super) struct Unanswered {
    pub(super) prepared: Prepared,
    pub(super) transaction: Option<TransactionId>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self::Refused(error.into())
    }
}

impl Writer {
    /// Commits the batch, sooner or later; publishers wait for one try only.
    pub(super) async fn settle(&mut self, mut batch: Batch) {
        let (mut patience, mut tries) = (PATIENCE, 0);
        loop {
            tries += 1;
            let end = Instant::now() + patience;
            let error = match Box::pin(self.commit(&mut batch, end)).await {
                Ok(prepared) => return self.committed(batch, prepared).await,
                // Another node has just accepted the same, which is known now, or was about to.
                Err(Failure::Refused(StoreError::Exists | StoreError::Deadlock)) if tries < TRIES_AT_ONCE => continue,
                Err(Failure::Refused(error)) => error,
                Err(Failure::InDoubt(error, in_doubt)) => {
                    self.note_unanswered(&error);
                    if self.resolve_commit(&mut batch, &in_doubt, end).await {
                        return self.committed(batch, in_doubt.prepared).await;
                    }
                    error
                }
            };
            self.note_refusal(&error);
            refuse(batch.publishes.drain(..).map(Request::Publish), || PublishError::Store(error.to_string()));
            let store = self.store.clone();
            self.meanwhile(&mut batch, end, store.answers()).await;
            if batch.records.is_empty() {
                self.outputs.stats.outage.lock().rests(Instant::now().into_std());
                return batch.pass_barriers();
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            self.refuse_waiting();
            if Instant::now() > end {
                patience = MOST_PATIENCE.min(patience * 2);
            }
        }
    }

    async fn committed(&mut self, batch: Batch, prepared: Prepared) {
        let ended = self.outputs.stats.outage.lock().succeeded(Instant::now().into_std());
        if let Some(Ended { after, refusals }) = ended {
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(after_ms, refusals, "the database commits journal batches again");
        }
        self.announce(batch, prepared).await;
    }

    /// A batch is tried again several times a second.
    fn note_unanswered(&self, error: &StoreError) {
        let is_told = self.outputs.stats.outage.lock().unanswered(Instant::now().into_std());
        if is_told {
            tracing::warn!(%error, "it is not known whether a journal batch was committed; asking");
        } else {
            tracing::debug!(%error, "it is not known whether a journal batch was committed; asking again");
        }
    }

    fn note_refusal(&self, error: &StoreError) {
        let stats = &self.outputs.stats;
        JournalStats::add(&stats.failed_commits, 1);
        let told = stats.outage.lock().refused(Instant::now().into_std());
        match told {
            Some(suppressed) => tracing::error!(
                %error, suppressed,
                "a journal batch was refused; publishes fail and outcomes wait until the database commits again"
            ),
            None => tracing::debug!(%error, "a journal batch was refused again"),
        }
    }

    /// Its publishers are told the truth if it is known while they wait.
    async fn resolve_commit(&mut self, batch: &mut Batch, in_doubt: &Unanswered, end: Instant) -> bool {
        let Unanswered { prepared, transaction } = in_doubt;
        let event = (prepared.events > 0).then_some(prepared.last);
        let (store, shard_set) = (self.store.clone(), self.shard_set.clone());
        let in_doubt = UnansweredCommit { shard_set: &shard_set, transaction: transaction.as_ref(), event };
        self.meanwhile(batch, end, store.resolve_commit(&in_doubt)).await
    }

    /// Waits for the database. The batch's publishers wait until the end of their time, others hardly.
    async fn meanwhile<T>(&mut self, batch: &mut Batch, end: Instant, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let late = Instant::now() + RETRY_PAUSE;
        let mut is_late = false;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep_until(late), if !is_late => is_late = true,
                () = tokio::time::sleep_until(end), if !batch.publishes.is_empty() => {
                    refuse(batch.publishes.drain(..).map(Request::Publish), silent);
                }
                Some(request) = self.publishes.recv(), if is_late => refuse([request], silent),
            }
        }
    }

    /// Nobody waits for a database that does not take even what must be written.
    fn refuse_waiting(&mut self) {
        self.refuse_all_that_wait(|| PublishError::Store("the database refuses to write".to_owned()));
    }

    /// Keys stay above all that can be seen. What was cancelled lately may be pending again.
    pub(in super::super) fn forget_lost_history(&mut self, newest: EventSeq) {
        self.refuse_all_that_wait(|| PublishError::Diverged);
        self.last = self.last.max(newest);
        self.cancelled = RecentCancels::new(UnixMillis::now());
    }

    fn refuse_all_that_wait(&mut self, why: impl Fn() -> PublishError) {
        let late_comer = self.late_comer.take().map(Request::Publish);
        let waiting = std::iter::from_fn(|| self.publishes.try_recv().ok());
        refuse(late_comer.into_iter().chain(waiting), why);
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
