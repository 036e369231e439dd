//! The sweeper: a task that deletes what is older than its retention, in short transactions with rests between them. It
//! goes through the events in the order of their keys, which is the order of time, and remembers how far it has come.
//! `plan` says what is deleted together and `pace` how much; `store/retention` deletes, and keeps what is owed.
//!
//! Three sweeps delete events. The first goes through the events of all tenants, and passes over tenants with a setting
//! of their own. The second goes through the events of each such tenant. The third looks back once an hour for events that
//! the first one left behind, because they were owed then. With PostgreSQL the node that serves the first shard sweeps
//! for all nodes.

mod counts;
mod pace;
mod plan;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::retention::Retention;
use crate::domain::shard::ShardNum;
use crate::fault;
use crate::store::retention::{Deleted, OldEvent, OwnRetention, SweepMark, SweepScope};
use crate::store::{Store, StoreError};

use super::context::EngineContext;

pub(super) use self::counts::Counts;
use self::counts::Kind;
use self::pace::Pace;
use self::plan::Batch;

/// The longest time between two passes.
const SELDOM: Duration = Duration::from_secs(60);

/// The shortest time between two passes, for a retention of seconds.
const OFTEN: Duration = Duration::from_secs(1);

/// A pass is due when so large a part of the shortest retention has gone by.
const PART: u32 = 20;

/// How often the sweeper looks back for events that were owed when it passed them; more often if events are kept for less.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(3600);

/// How often the sweep of answers starts again from the oldest event, for answers that it left behind: of deliveries
/// that were pending, and of attempts made again later.
const CLEAR_AGAIN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Answers are cleared so much later than their retention says, so that an attempt that began a little after its event
/// was accepted is old enough, too, when its event is passed.
const RESPONSES_LATER: Duration = Duration::from_secs(60);

/// Events that are read at once.
const PAGE: u32 = 512;

/// Tenants that are read at once.
const TENANTS: u32 = 100;

/// Audit rows that are deleted at once.
const AUDIT_ROWS: u32 = 256;

/// How often the sweeper looks whether the journal is still busy, and how many times before it deletes all the same: a
/// database that is always busy must not grow for ever.
const CALM_POLL: Duration = Duration::from_millis(20);
const CALM_POLLS: u32 = 50;

pub(super) struct Sweeper {
    keep: Retention,
    sweep: Sweep,
    cursors: Cursors,
    look_back_every: Duration,
}

/// Why a pass ends early.
enum Ended {
    /// Another node serves the first shard.
    Lost,
    Failed(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// How far each sweep has come.
#[derive(Default)]
struct Cursors {
    /// `None`: not read since this node serves the first shard.
    events: Option<EventSeq>,
    responses: Option<EventSeq>,
    own_events: HashMap<TenantNum, EventSeq>,
    own_responses: HashMap<TenantNum, EventSeq>,
    looked_back: Option<Instant>,
    cleared_again: Option<Instant>,
}

/// One way through the events.
struct Walk<'a> {
    scope: SweepScope,
    /// The first key that is not looked at.
    until: EventSeq,
    /// Tenants that are passed over.
    except: &'a HashSet<TenantNum>,
    work: Work,
    /// Whether the position is noted in the database.
    is_noted: bool,
}

#[derive(Clone, Copy)]
enum Work {
    DeleteEvents,
    /// Clears the answers to attempts from before this moment.
    ClearResponses(UnixMillis),
}

impl Sweeper {
    pub(super) fn new(context: Arc<EngineContext>, store: Store, keep: Retention, counts: Arc<Counts>) -> Self {
        let sweep = Sweep { context, store, counts, pace: Pace::new(), page_pace: Pace::new() };
        let look_back_every = keep.events.map_or(LOOK_BACK_EVERY, |kept| kept.min(LOOK_BACK_EVERY));
        Self { keep, sweep, cursors: Cursors::default(), look_back_every }
    }

    pub(super) async fn run(mut self) {
        let every = self.keep.shortest().map_or(SELDOM, |shortest| (shortest / PART).clamp(OFTEN, SELDOM));
        loop {
            self.sweep.context.host.sleep(every).await;
            if self.sweep.context.shard_set.serves_shard(ShardNum::WHOLE) {
                self.pass_and_log().await;
            } else {
                self.cursors = Cursors::default();
            }
        }
    }

    async fn pass_and_log(&mut self) {
        let (before, began) = (self.sweep.counts.all(), self.sweep.context.host.steady());
        match self.pass().await {
            Ok(()) => {}
            Err(Ended::Lost) => {
                tracing::debug!("another node serves the first shard, and deletes old rows from now on")
            }
            Err(Ended::Failed(error)) => tracing::warn!(%error, "old rows could not be deleted; trying again"),
        }
        let after = self.sweep.counts.all();
        let [events, deliveries, attempts, log_entries, responses, audit, idempotency] =
            std::array::from_fn(|place| after[place] - before[place]);
        if after != before {
            let took = self.sweep.context.host.steady().saturating_duration_since(began);
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                events,
                deliveries,
                attempts,
                log_entries,
                responses,
                audit,
                idempotency,
                took_ms,
                "rows older than their retention were deleted"
            );
        }
    }

    async fn pass(&mut self) -> Result<(), Ended> {
        let now = self.sweep.context.host.now();
        let (own, newest) = (self.sweep.store.own_retention().await?, self.sweep.store.last_event().await?);
        let unfinished = self.sweep.store.sweep_mark(SweepMark::Unfinished).await?;
        if unfinished != EventSeq::ZERO {
            self.sweep.delete_parts(unfinished).await?;
        }
        self.events(&own, now, newest).await?;
        self.responses(&own, now).await?;
        if let Some(kept) = self.keep.audit {
            self.sweep.audit(plan::moment_before(now, kept)).await?;
        }
        self.sweep.idempotency_keys(now).await?;
        self.sweep.free_pages().await
    }

    async fn events(&mut self, own: &[OwnRetention], now: UnixMillis, newest: EventSeq) -> Result<(), Ended> {
        let steady = self.sweep.context.host.steady();
        let since = self.cursors.looked_back.map(|last| steady.saturating_duration_since(last));
        let looks_back = since.is_none_or(|since| since >= self.look_back_every);
        if looks_back {
            self.cursors.own_events.clear();
        }
        let except = own.iter().filter(|own| own.events.is_some()).map(|own| own.tenant).collect();
        let walk = |scope, until, except| Walk { scope, until, except, work: Work::DeleteEvents, is_noted: false };
        if let Some(kept) = self.keep.events {
            let until = plan::first_kept(now, kept, newest);
            let mut at = match self.cursors.events {
                Some(at) => at,
                None => self.sweep.store.sweep_mark(SweepMark::EventsTo).await?,
            };
            let all = Walk { is_noted: true, ..walk(SweepScope::All, until, &except) };
            let walked = self.sweep.walk(&all, &mut at).await;
            self.cursors.events = Some(at);
            walked?;
            if looks_back {
                self.look_back(EventSeq(at.0.saturating_add(1)).min(until)).await?;
            }
        }
        let nobody = HashSet::new();
        for OwnRetention { tenant, events, .. } in own {
            let Some(seconds) = events else { continue };
            let until = plan::first_kept(now, Duration::from_secs(*seconds), newest);
            let at = self.cursors.own_events.entry(*tenant).or_insert(EventSeq::ZERO);
            self.sweep.walk(&walk(SweepScope::Of(*tenant), until, &nobody), at).await?;
        }
        if looks_back {
            self.cursors.looked_back = Some(steady);
        }
        Ok(())
    }

    /// Goes through events that were left behind, tenant by tenant, since the index of a tenant's events finds them
    /// without reading those of tenants that keep more.
    async fn look_back(&mut self, until: EventSeq) -> Result<(), Ended> {
        let (mut after, nobody) = (TenantNum(0), HashSet::new());
        loop {
            let tenants = self.sweep.store.tenants_with_events_before(until, after, TENANTS).await?;
            let Some(last) = tenants.last() else { break };
            after = *last;
            for tenant in tenants {
                let (scope, work) = (SweepScope::Of(tenant), Work::DeleteEvents);
                let walk = Walk { scope, until, except: &nobody, work, is_noted: false };
                let mut at = EventSeq::ZERO;
                self.sweep.walk(&walk, &mut at).await?;
            }
        }
        Ok(())
    }

    async fn responses(&mut self, own: &[OwnRetention], now: UnixMillis) -> Result<(), Ended> {
        let steady = self.sweep.context.host.steady();
        let last = *self.cursors.cleared_again.get_or_insert(steady);
        if steady.saturating_duration_since(last) >= CLEAR_AGAIN_EVERY {
            self.cursors.cleared_again = Some(steady);
            self.cursors.responses = Some(EventSeq::ZERO);
            self.cursors.own_responses.clear();
        }
        let except = own.iter().filter(|own| own.responses.is_some()).map(|own| own.tenant).collect();
        let walk = |scope, kept, except| {
            let work = Work::ClearResponses(plan::moment_before(now, kept));
            let until = plan::first_within(now, kept + kept.min(RESPONSES_LATER));
            Walk { scope, until, except, work, is_noted: false }
        };
        if let Some(kept) = self.keep.responses {
            let mut at = match self.cursors.responses {
                Some(at) => at,
                None => self.sweep.store.sweep_mark(SweepMark::ResponsesTo).await?,
            };
            let all = Walk { is_noted: true, ..walk(SweepScope::All, kept, &except) };
            let walked = self.sweep.walk(&all, &mut at).await;
            self.cursors.responses = Some(at);
            walked?;
        }
        let nobody = HashSet::new();
        for OwnRetention { tenant, responses, .. } in own {
            let Some(seconds) = responses else { continue };
            let at = self.cursors.own_responses.entry(*tenant).or_insert(EventSeq::ZERO);
            let walk = walk(SweepScope::Of(*tenant), Duration::from_secs(*seconds), &nobody);
            self.sweep.walk(&walk, at).await?;
        }
        Ok(())
    }
}

/// Deletes at a bounded pace.
struct Sweep {
    context: Arc<EngineContext>,
    store: Store,
    counts: Arc<Counts>,
    pace: Pace,
    /// How many free pages are given back at once.
    page_pace: Pace,
}

impl Sweep {
    /// Goes on from `at`, and moves it along: a walk that fails goes on there.
    async fn walk(&mut self, walk: &Walk<'_>, at: &mut EventSeq) -> Result<(), Ended> {
        loop {
            let page = self.store.old_events(walk.scope, (*at, walk.until), PAGE).await?;
            let Some(last) = page.last().map(|event| event.seq) else { return Ok(()) };
            let mut left: VecDeque<OldEvent> =
                page.into_iter().filter(|event| !walk.except.contains(&event.tenant)).collect();
            while let Some(batch) = plan::next_batch(&mut left, self.pace.rows()) {
                let to = batch.last().unwrap_or(*at);
                let noted = walk.is_noted.then_some(to);
                match walk.work {
                    Work::DeleteEvents => self.delete(batch, noted).await?,
                    Work::ClearResponses(before) => self.clear(batch, before, noted).await?,
                }
                *at = to;
            }
            *at = last;
        }
    }

    async fn delete(&mut self, batch: Batch, noted: Option<EventSeq>) -> Result<(), Ended> {
        let (store, shards) = (self.store.clone(), self.context.shard_set.clone());
        match batch {
            Batch::Whole { mut events, rows } => {
                let needed = store.needed_events(&events).await?;
                events.retain(|event| !needed.contains(event));
                if !events.is_empty() {
                    let deleted = self.paced(Some(rows), store.delete_events(&shards, &events, noted)).await?;
                    self.count(deleted);
                }
            }
            Batch::Large(event) => {
                if store.needed_events(&[event]).await?.is_empty() {
                    let deleted = self.paced(None, store.delete_event_alone(&shards, event, noted)).await?;
                    self.count(deleted);
                    if deleted.events > 0 {
                        self.delete_parts(event).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes the deliveries of an event that is gone.
    async fn delete_parts(&mut self, event: EventSeq) -> Result<(), Ended> {
        let (store, shards) = (self.store.clone(), self.context.shard_set.clone());
        loop {
            let rows = self.pace.rows();
            let deleted = self.paced(Some(rows), store.delete_part(&shards, event, rows)).await?;
            self.count(deleted);
            if deleted.deliveries == 0 {
                return Ok(());
            }
        }
    }

    fn count(&self, deleted: Deleted) {
        self.counts.add_deleted(deleted);
        fault::point("retention.after_deletion");
    }

    async fn clear(&mut self, batch: Batch, before: UnixMillis, noted: Option<EventSeq>) -> Result<(), Ended> {
        let (store, shards) = (self.store.clone(), self.context.shard_set.clone());
        let (events, rows) = match &batch {
            Batch::Whole { events, rows } => (events.as_slice(), *rows),
            Batch::Large(event) => (std::slice::from_ref(event), 0),
        };
        let found = store.events_with_responses(events, before).await?;
        if found.is_empty() {
            return Ok(());
        }
        if let Batch::Large(event) = batch {
            let mut next = Some(WebhookNum(0));
            while let Some(after) = next {
                let rows = self.pace.rows();
                let part = store.clear_responses_of_part(&shards, event, before, (after, rows));
                let (cleared, then) = self.paced(Some(rows), part).await?;
                self.counts.add(Kind::Response, cleared);
                next = then;
            }
            return Ok(());
        }
        let cleared = self.paced(Some(rows), store.clear_responses(&shards, &found, before, noted)).await?;
        self.counts.add(Kind::Response, cleared);
        Ok(())
    }

    async fn audit(&mut self, before: UnixMillis) -> Result<(), Ended> {
        let (store, shards) = (self.store.clone(), self.context.shard_set.clone());
        loop {
            let deleted = self.paced(None, store.delete_old_audit(&shards, before, AUDIT_ROWS)).await?;
            self.counts.add(Kind::Audit, deleted);
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    async fn idempotency_keys(&mut self, now: UnixMillis) -> Result<(), Ended> {
        let store = self.store.clone();
        loop {
            let deleted = self.paced(None, async { store.forget_old_keys(now).await.map(Some) }).await?;
            self.counts.add(Kind::Idempotency, deleted);
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    /// Gives free pages of a SQLite file back, except those that new rows will take soon.
    async fn free_pages(&mut self) -> Result<(), Ended> {
        while self.store.free_space().await?.is_some_and(|space| plan::gives_back(&space)) {
            let (store, pages) = (self.store.clone(), self.page_pace.rows());
            self.wait_for_calm().await;
            let host = self.context.host.clone();
            let began = host.steady();
            store.give_back(pages).await?;
            let time = host.steady().saturating_duration_since(began);
            self.page_pace.took(pages, time);
            host.sleep(pace::rest_after(time)).await;
        }
        Ok(())
    }

    async fn wait_for_calm(&self) {
        for _ in 0..CALM_POLLS {
            if !pace::is_busy(self.context.journal.depth()) {
                break;
            }
            self.context.host.sleep(CALM_POLL).await;
        }
    }

    /// Waits for a calm moment, makes one deletion, and rests. `rows`: the deliveries of a deletion that the pace has cut.
    async fn paced<T>(
        &mut self,
        rows: Option<u32>,
        deletion: impl Future<Output = Result<Option<T>, StoreError>>,
    ) -> Result<T, Ended> {
        self.wait_for_calm().await;
        let host = self.context.host.clone();
        let began = host.steady();
        let deleted = deletion.await?.ok_or(Ended::Lost)?;
        let time = host.steady().saturating_duration_since(began);
        if let Some(rows) = rows {
            self.pace.took(rows, time);
        }
        host.sleep(pace::rest_after(time)).await;
        Ok(deleted)
    }
}
