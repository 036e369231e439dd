//! The one task that writes what the hot path records. Takes what has gathered, commits it in one transaction, then
//! answers. A batch that the database refuses: its publishers are told, its records are kept and tried again ([`settle`]).

mod settle;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::UnixMillis;
use crate::fault;
use crate::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::cancel::Purge;
use crate::store::deliveries::DeliveryState;
use crate::store::fanouts::Fanout;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::leases::Holding;
use crate::store::ledger::Ledger;
use crate::store::log::LogBuffer;
use crate::store::pool::Transaction;
use crate::store::{Store, StoreError};

use super::assign::{Callers, accept};
use super::feed::Feed;
use super::fence::{self, Pass};
use super::late::Cancelled;
use super::open::{FanoutKey, OpenFanouts};
use super::statements::{Rows, Statements};
use super::tell::{Committed, tell};
use super::updates::{Change, Update, Updated};
use super::{Draft, JournalStats, PublishError, PublishRequest, Published, Record, Request};

use self::settle::{Doubt, Failure};

/// Requests in one transaction: bounds how long the next batch waits.
const MAX_PUBLISHES: usize = 1024;
const MAX_RECORDS: usize = 2048;

/// Outcomes that are written together with publishes, whose senders wait. Nobody waits for the others.
const RECORDS_BESIDE_PUBLISHES: usize = 256;

/// So few publishes are written alone: what nobody waits for comes with the next batch.
const FEW_PUBLISHES: usize = 4;

/// Nobody waits for an outcome to be committed. Letting them gather makes fewer and larger commits; a crash in this
/// moment sends that much more again.
const LINGER: Duration = Duration::from_millis(10);

/// Outcomes that are worth a commit of their own.
const ENOUGH_RECORDS: usize = 1024;

pub(super) struct Outputs {
    pub(super) feed: Arc<Feed>,
    pub(super) log: Arc<LogBuffer>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) stats: Arc<JournalStats>,
}

pub(super) struct Writer {
    store: Store,
    holding: Holding,
    publishes: mpsc::Receiver<Request>,
    records: mpsc::Receiver<Request>,
    statements: Statements,
    open: OpenFanouts,
    /// Fan-outs whose last target is recorded in a batch that is not committed yet.
    ended: Vec<FanoutKey>,
    cancelled: Cancelled,
    /// Records that let a few publishes go first.
    held: Vec<Record>,
    last: EventSeq,
    outputs: Outputs,
}

#[derive(Default)]
struct Batch {
    publishes: Vec<PublishRequest>,
    records: Vec<Record>,
    barriers: Vec<oneshot::Sender<()>>,
    /// Somebody waits for what one of the records changes.
    is_awaited: bool,
    closing: bool,
}

type Answers = Vec<Result<Vec<Published>, PublishError>>;

/// What a transaction has prepared and its commit makes true.
struct Prepared {
    answers: Answers,
    fanouts: Vec<Fanout>,
    last: EventSeq,
    /// Attempts that found their delivery settled.
    late: HashSet<DeliveryId>,
    updated: Updated,
    statements: u64,
    rows: usize,
    events: usize,
}

impl Prepared {
    fn after(last: EventSeq) -> Self {
        let (answers, fanouts, late, updated) = (Vec::new(), Vec::new(), HashSet::new(), Updated::default());
        Self { answers, fanouts, last, late, updated, statements: 0, rows: 0, events: 0 }
    }

    async fn run(&mut self, statements: &Statements, on: &Transaction, rows: Rows) -> Result<Updated, StoreError> {
        self.rows += rows.count();
        let (count, updated) = statements.run(on, rows).await?;
        self.statements += count;
        Ok(updated)
    }
}

impl Batch {
    fn add(&mut self, request: Request) {
        match request {
            Request::Publish(request) => self.publishes.push(request),
            Request::Record(record) => {
                self.is_awaited |= matches!(record, Record::Purge { .. });
                self.records.push(record);
            }
            Request::Barrier(done) => self.barriers.push(done),
            Request::Close => self.closing = true,
        }
    }

    /// Outcomes alone, and few of them.
    fn can_wait(&self) -> bool {
        !self.somebody_waits_for_records() && self.publishes.is_empty() && self.records.len() < ENOUGH_RECORDS
    }

    /// Publishers wait, a few of them, and nobody waits for what was recorded.
    fn may_hold_records(&self) -> bool {
        let few_publish = (1..=FEW_PUBLISHES).contains(&self.publishes.len());
        few_publish && !self.somebody_waits_for_records() && self.records.len() < RECORDS_BESIDE_PUBLISHES
    }

    fn somebody_waits_for_records(&self) -> bool {
        self.closing || self.is_awaited || !self.barriers.is_empty()
    }

    /// Nothing that was recorded before these is left to commit.
    fn pass_barriers(self) {
        for done in self.barriers {
            let _ = done.send(());
        }
    }
}

impl Writer {
    pub(super) fn new(
        store: Store,
        holding: Holding,
        (publishes, records): (mpsc::Receiver<Request>, mpsc::Receiver<Request>),
        last: EventSeq,
        outputs: Outputs,
    ) -> Self {
        let (statements, open) = (Statements::new(store.backend()), OpenFanouts::default());
        let (ended, held, cancelled) = (Vec::new(), Vec::new(), Cancelled::new(UnixMillis::now()));
        Self { store, holding, publishes, records, statements, open, ended, cancelled, held, last, outputs }
    }

    /// Runs until it is told to close and everything is written.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            self.settle(batch).await;
        }
    }

    /// Waits for the first request and takes what is there with it. When nobody waits for the commit, more outcomes are
    /// let in for a moment.
    async fn gather(&mut self) -> Option<Batch> {
        let mut batch = Batch { records: std::mem::take(&mut self.held), ..Batch::default() };
        let have_waited = !batch.records.is_empty();
        if !have_waited {
            batch.add(self.next().await?);
        }
        self.take_waiting(&mut batch);
        let mut patience = pin!(tokio::time::sleep(LINGER));
        while batch.can_wait() {
            tokio::select! {
                Some(request) = self.next() => batch.add(request),
                () = &mut patience => break,
                else => break,
            }
            self.take_waiting(&mut batch);
        }
        if !have_waited && batch.may_hold_records() {
            self.held = std::mem::take(&mut batch.records);
        }
        if batch.closing {
            self.records.close();
            self.publishes.close();
        }
        Some(batch)
    }

    async fn next(&mut self) -> Option<Request> {
        tokio::select! {
            Some(request) = self.records.recv() => Some(request),
            Some(request) = self.publishes.recv() => Some(request),
            else => None,
        }
    }

    fn take_waiting(&mut self, batch: &mut Batch) {
        while batch.publishes.len() < MAX_PUBLISHES {
            let Ok(request) = self.publishes.try_recv() else { break };
            batch.add(request);
        }
        // A share of what waits, so that publishes without end do not starve what was recorded.
        let beside = (self.records.len() / 2).clamp(RECORDS_BESIDE_PUBLISHES, MAX_RECORDS);
        let most = if batch.publishes.is_empty() { MAX_RECORDS } else { beside };
        while batch.records.len() < most {
            let Ok(request) = self.records.try_recv() else { break };
            batch.add(request);
        }
    }

    async fn commit(&mut self, batch: &mut Batch, end: Instant) -> Result<Prepared, Failure> {
        let transaction = self.store.begin_batch(end).await?;
        let pass = fence::pass(&transaction, &self.holding, &batch.records).await?;
        if !pass.admits_all() {
            self.drop_lost(batch, &pass);
        }
        let mut prepared = Prepared::after(self.last);
        let mut rows = Rows::default();
        self.prepare_records(&batch.records, &mut rows);
        prepared.late = self.cancelled.late(&transaction, &batch.records, UnixMillis::now()).await?;
        prepared.updated = prepared.run(&self.statements, &transaction, rows).await?;
        if pass.admits_events() {
            self.let_in_late_comers(batch);
        }
        let batch = &*batch;
        let mut rows = Rows::default();
        self.prepare_events(&transaction, &batch.publishes, &mut prepared, &mut rows).await?;
        prepared.run(&self.statements, &transaction, rows).await?;
        if prepared.events > 0 {
            fault::point("publish.before_commit");
        }
        if !batch.records.is_empty() {
            fault::point("outcome.before_commit");
        }
        prepared.statements += pass.statements + 2;
        match transaction.commit().await {
            Ok(()) => Ok(prepared),
            Err(error) => {
                Err(Failure::InDoubt(error.into(), Box::new(Doubt { prepared, transaction: pass.transaction })))
            }
        }
    }

    /// Who publishes while outcomes are written waits for this commit, and for no other.
    fn let_in_late_comers(&mut self, batch: &mut Batch) {
        while batch.publishes.len() < MAX_PUBLISHES {
            let Ok(request) = self.publishes.try_recv() else { break };
            batch.add(request);
        }
    }

    /// What another node has taken is its to write.
    fn drop_lost(&mut self, batch: &mut Batch, pass: &Pass) {
        let before = batch.records.len();
        batch.records.retain(|record| pass.admits(record));
        let dropped = before - batch.records.len();
        JournalStats::add(&self.outputs.stats.fenced, dropped);
        tracing::error!(dropped, "another node has taken over; what was recorded for it is dropped");
        if !pass.admits_events() {
            for request in batch.publishes.drain(..) {
                let _ = request.answer.send(Err(PublishError::Deposed));
            }
        }
        // What an earlier try of this batch has marked may be among the dropped: no fan-out must end by it.
        self.ended.clear();
        self.open = OpenFanouts::default();
    }

    async fn prepare_events(
        &self,
        on: &Transaction,
        publishes: &[PublishRequest],
        prepared: &mut Prepared,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        let now = UnixMillis::now();
        let mut callers = Callers::default();
        for request in publishes {
            if let Some(once) = &request.once
                && let Some(answer) = self.answered_before(on, once).await?
            {
                prepared.answers.push(answer);
                continue;
            }
            let mut published = Vec::with_capacity(request.drafts.len());
            for draft in &request.drafts {
                published.push(self.prepare_event(on, draft, &mut callers, prepared, rows, now).await?);
            }
            if let Some(key) = &request.once {
                let answer = serde_json::to_vec(&published).map_err(|e| StoreError::unreadable("answer", e))?;
                let once = Once { key: key.clone(), status: 202, answer };
                self.store.remember(on, Some(once), now).await?;
            }
            prepared.answers.push(Ok(published));
        }
        Ok(())
    }

    async fn answered_before(
        &self,
        on: &Transaction,
        once: &OnceKey,
    ) -> Result<Option<Result<Vec<Published>, PublishError>>, StoreError> {
        let unreadable = |error: String| Some(Err(PublishError::Store(error)));
        Ok(match self.store.seen_on(on, once).await {
            Ok(Seen::New) => None,
            Ok(Seen::Otherwise) => Some(Err(PublishError::KeyReused)),
            Ok(Seen::Before { answer, .. }) => match serde_json::from_slice(&answer) {
                Ok(answer) => Some(Ok(answer)),
                Err(error) => unreadable(error.to_string()),
            },
            // This publisher's alone; the others in the batch have nothing to do with it.
            Err(error @ StoreError::Unreadable { .. }) => unreadable(error.to_string()),
            Err(error) => return Err(error),
        })
    }

    async fn prepare_event(
        &self,
        on: &Transaction,
        draft: &Draft,
        callers: &mut Callers,
        prepared: &mut Prepared,
        rows: &mut Rows,
        now: UnixMillis,
    ) -> Result<Published, StoreError> {
        if let Some(caller) = &draft.caller
            && let Some(known) = callers.recognise(on, draft.tenant, caller).await?
        {
            return Ok(known);
        }
        prepared.last = prepared.last.next(now);
        prepared.events += 1;
        let (new, receipt) = accept(draft.clone(), prepared.last, now);
        rows.event(&new);
        if let Some(caller) = &new.caller {
            callers.learn(draft.tenant, caller, receipt);
        }
        if !new.targets.is_empty() {
            prepared.fanouts.push(Fanout { event: new.event, shard: 0, targets: new.targets });
        }
        Ok(Published::Accepted(receipt))
    }

    /// Turns records into rows. Marking targets as recorded may happen again when the batch is tried again.
    fn prepare_records(&mut self, records: &[Record], rows: &mut Rows) {
        for record in records {
            match record {
                Record::Attempt(record) => {
                    rows.delivery(record.id, &record.state);
                    rows.attempt(record.id, &record.attempt);
                    self.mark(record.id);
                }
                Record::Defer { id, next_at } => {
                    rows.deferral(*id, &DeliveryState::pending(Some(*next_at)));
                    self.mark(*id);
                }
                Record::Cancel { id, at } => {
                    rows.deferral(*id, &DeliveryState::pending(Some(*at)));
                    rows.updates.push(Update::Cancel { id: *id, at: *at });
                    self.mark(*id);
                }
                Record::Retry { id, at } => rows.updates.push(Update::Retry { id: *id, at: *at }),
                Record::Health { webhook, health } => rows.health(*webhook, *health),
                Record::Purge { webhook, through, except, .. } => {
                    let purge = Purge { webhook: *webhook, through: *through, except: except.clone() };
                    rows.updates.push(Update::Purge { purge, at: UnixMillis::now() });
                }
                Record::Adopt { fanout, recorded } => self.adopt(fanout, recorded),
            }
        }
        for key in &self.ended {
            rows.ended(*key);
        }
    }

    fn mark(&mut self, id: DeliveryId) {
        self.ended.extend(self.open.record(id.event, id.webhook));
    }

    fn adopt(&mut self, fanout: &Fanout, recorded: &[WebhookNum]) {
        let key = (fanout.event.seq, fanout.shard);
        if self.ended.contains(&key) {
            return;
        }
        self.open.insert(key, fanout.targets.clone());
        for webhook in recorded {
            self.mark(DeliveryId { event: fanout.event.seq, webhook: *webhook });
        }
        self.ended.extend(self.open.end_if_empty(key));
    }

    /// The batch is durable: say so to everybody who waits for it.
    async fn announce(&mut self, mut batch: Batch, prepared: Prepared) {
        let Prepared { answers, fanouts, last, late, updated, statements, rows, events } = prepared;
        if events > 0 {
            fault::point("publish.after_commit");
        }
        if !batch.records.is_empty() {
            fault::point("outcome.after_commit");
        }
        self.last = last;
        self.ended.clear();
        for (request, answer) in batch.publishes.drain(..).zip(answers) {
            // Whoever is answered may publish again at once.
            drop(request.room);
            let _ = request.answer.send(answer);
        }
        // The publishers' answers leave before a large fan-out keeps every core busy.
        tokio::task::yield_now().await;
        for kept in self.outputs.feed.push(&fanouts, last) {
            self.open.insert((kept.event.seq, kept.shard), kept.targets.clone());
        }
        let changes = &updated.changes;
        self.tell_ledger(&Committed { fanouts: &fanouts, records: &batch.records, late: &late, changes });
        let records = std::mem::take(&mut batch.records);
        let attempts = self.tell_recorders(records, updated.purged);
        batch.pass_barriers();
        let stats = &self.outputs.stats;
        JournalStats::add(&stats.commits, 1);
        JournalStats::add(&stats.statements, usize::try_from(statements).unwrap_or(0));
        JournalStats::add(&stats.rows, rows);
        JournalStats::add(&stats.events, events);
        JournalStats::add(&stats.attempts, attempts);
    }

    fn tell_ledger(&mut self, committed: &Committed<'_>) {
        let now = UnixMillis::now();
        tell(&mut self.outputs.ledger.lock(), committed, now);
        for change in committed.changes {
            if let Change::TakenBack(taken_back) = change {
                self.cancelled.add(taken_back.id, now);
            }
        }
    }

    fn tell_recorders(&mut self, records: Vec<Record>, purged: Vec<u64>) -> usize {
        let mut purged = purged.into_iter();
        let mut attempts = 0;
        let mut recorded = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Record::Attempt(record) => {
                    attempts += 1;
                    if record.attempt.number == 1 {
                        recorded.push(record.id);
                    }
                }
                Record::Defer { id, .. } | Record::Cancel { id, .. } => recorded.push(id),
                Record::Purge { answer, .. } => {
                    let _ = answer.send(purged.next().unwrap_or(0));
                }
                Record::Retry { .. } | Record::Health { .. } | Record::Adopt { .. } => {}
            }
        }
        let complete_to = match self.open.oldest() {
            Some(oldest) => EventSeq(oldest.0 - 1),
            None => self.outputs.feed.dispatched_to().min(self.last),
        };
        self.outputs.log.push(&mut recorded, complete_to.min(self.outputs.feed.dispatched_to()));
        attempts
    }
}
