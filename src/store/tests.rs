//! What every database must do for the engine: the conformance suite.

mod bulk;
mod deleted;
mod large;
mod ledger;
mod log_index;
mod purge;
mod secrets;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::deliveries::{Attempt, DeliveryFilter, DeliveryState, Status, Trigger};
use super::fanouts::Fanout;
use super::idempotency::OnceKey;
use super::journal::feed::Next;
use super::journal::{AttemptRecord, Caller, Draft, Journal, PublishError, Published, Receipt, Record, Running};
use super::log::LogIndex;
use super::seal::MasterKey;
use super::state::Suspect;
use super::tenants::{NewTenant, Tenant};
use super::webhooks::{NewWebhook, Webhook};
use super::*;
use crate::clock::UnixMillis;
use crate::id::{DeliveryId, EventSeq, TenantId, WebhookId, WebhookNum};

/// A store of its own with one tenant.
struct World {
    directory: TempDir,
    store: Store,
    tenant: Tenant,
    running: Running,
}

async fn open(directory: &TempDir) -> Store {
    open_with(directory, None).await.unwrap()
}

async fn open_with(directory: &TempDir, master_key: Option<MasterKey>) -> Result<Store, OpenError> {
    let url = format!("sqlite://{}", directory.path().join("test.db").display());
    Store::open(Options { url, master_key, migrate: true }).await
}

impl Store {
    /// Changes rows behind everybody's back.
    pub(crate) async fn tamper(&self, sql: &str) {
        let changed = self.inner.writer.execute_unprepared(sql).await.unwrap();
        assert_ne!(changed.rows_affected(), 0, "{sql}");
    }
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).await;
        let new = NewTenant {
            id: TenantId::generate(),
            name: "Tenant".to_owned(),
            allow_undeclared_types: true,
            created_at: UnixMillis::now(),
            catalogue: vec![("message.sent".to_owned(), "A message was sent.".to_owned())],
        };
        let tenant = store.create_tenant(new, None).await.unwrap();
        let running = Journal::start(&store).await.unwrap();
        Self { directory, store, tenant, running }
    }

    async fn webhook(&self) -> Webhook {
        self.store.create_webhook(self.new_webhook(), None).await.unwrap()
    }

    fn new_webhook(&self) -> NewWebhook {
        NewWebhook {
            id: WebhookId::generate(),
            tenant: self.tenant.num,
            name: "Webhook".to_owned(),
            url: "https://example.com/".to_owned(),
            events: vec!["message.*".to_owned()],
            headers: [("X-Team".to_owned(), "billing".to_owned())].into(),
            policy: serde_json::json!({ "timeoutMs": 5000 }),
            description: None,
            metadata: None,
            is_active: true,
            secret: "whsec_first".to_owned(),
            created_at: UnixMillis::now(),
        }
    }

    fn draft(&self, caller: Option<(&str, u8)>, targets: &[i64]) -> Draft {
        Draft {
            tenant: self.tenant.num,
            kind: "message.sent".into(),
            occurred_at: None,
            data: RawValue::from_string("{}".to_owned()).unwrap(),
            caller: caller.map(|(id, digest)| Caller { id: id.to_owned(), digest: [digest; 32] }),
            targets: targets.iter().copied().map(WebhookNum).collect(),
        }
    }

    async fn publish(&self, caller: Option<(&str, u8)>, targets: &[i64]) -> Published {
        let published = self.running.journal.publish(vec![self.draft(caller, targets)], None).await.unwrap()[0];
        // Answers leave before the feed hears of the event.
        self.running.journal.barrier().await.unwrap();
        published
    }

    async fn accept(&self, targets: &[i64]) -> Receipt {
        match self.publish(None, targets).await {
            Published::Accepted(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the feed hand fan-outs out from memory.
    fn catch_up(&self) {
        self.running.feed.caught_up(self.running.feed.committed());
    }

    async fn record(&self, record: Record) {
        self.running.journal.record(record).await.unwrap();
        self.running.journal.barrier().await.unwrap();
    }

    async fn open_fanouts(&self) -> Vec<Fanout> {
        self.store.fanouts(EventSeq::ZERO, 100).await.unwrap()
    }

    /// Ends the process, so to speak; its files stay.
    async fn stop(self) -> TempDir {
        let Self { directory, store, running, .. } = self;
        running.journal.close().await;
        running.writer.await.unwrap();
        store.close().await;
        directory
    }

    /// The next process.
    async fn restart(self) -> Self {
        let tenant = self.tenant.clone();
        let directory = self.stop().await;
        let store = open(&directory).await;
        let running = Journal::start(&store).await.unwrap();
        Self { directory, store, tenant, running }
    }

    /// Does to the file what the store never would.
    async fn tamper(&self, sql: &str) {
        self.store.tamper(sql).await;
    }

    async fn delivery(&self, id: DeliveryId) -> Option<deliveries::Delivery> {
        self.store.delivery(self.tenant.num, id).await.unwrap()
    }
}

fn id(receipt: Receipt, webhook: WebhookNum) -> DeliveryId {
    DeliveryId { event: receipt.seq, webhook }
}

fn attempted(id: DeliveryId, number: u16, status: Status, next_at: Option<UnixMillis>) -> Record {
    let attempt = Attempt {
        number,
        trigger: Trigger::Scheduled,
        started_at: UnixMillis(1_800_000_000_000),
        duration_us: 1500,
        head_us: Some(1000),
        status_code: Some(200),
        outcome: 0,
        error: None,
        response_headers: vec![("server".to_owned(), "x".to_owned())],
        response_body: b"ok".to_vec(),
    };
    let settled_at = (status != Status::Pending).then_some(attempt.started_at);
    let state = DeliveryState { status, attempts: number, tries: number, next_at, settled_at, manual: None };
    Record::Attempt(Box::new(AttemptRecord { id, attempt, state }))
}

#[tokio::test]
async fn a_published_event_is_readable_with_its_fan_out_as_soon_as_it_is_answered() {
    let world = World::new().await;
    let receipt = world.accept(&[3, 9, 500]).await;
    assert_eq!(receipt.matched, 3);
    let event = world.store.event(world.tenant.num, receipt.seq).await.unwrap().unwrap();
    let body = std::str::from_utf8(&event.event.body).unwrap();
    assert!(body.ends_with(r#""data":{}}"#), "{body}");
    let fanouts = world.open_fanouts().await;
    assert_eq!(fanouts[0].targets.as_ref(), [3, 9, 500].map(WebhookNum));
    assert!(world.accept(&[]).await.seq > receipt.seq, "keys follow the order of commit");
    assert_eq!(world.open_fanouts().await.len(), 1, "an event without targets has no fan-out");
}

#[tokio::test]
async fn a_callers_id_is_one_event_however_often_and_concurrently_it_is_published() {
    let world = World::new().await;
    let drafts = (0..5).map(|_| world.draft(Some(("order-1", 1)), &[])).collect();
    let (batch, single) =
        tokio::join!(world.running.journal.publish(drafts, None), world.publish(Some(("order-1", 1)), &[]));
    let mut all = batch.unwrap();
    all.push(single);
    let accepted: Vec<_> = all.iter().filter(|published| matches!(published, Published::Accepted(_))).collect();
    assert_eq!(accepted.len(), 1);
    let Published::Accepted(first) = *accepted[0] else { unreachable!() };
    assert!(all.contains(&Published::Duplicate(first)));
    assert_eq!(world.publish(Some(("order-1", 2)), &[]).await, Published::Conflict);
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let world = World::new().await;
    let once = OnceKey { tenant: Some(world.tenant.num), key: "k".to_owned(), fingerprint: [1; 32] };
    let publish = |once: OnceKey| world.running.journal.publish(vec![world.draft(None, &[])], Some(once));
    let first = publish(once.clone()).await.unwrap();
    assert_eq!(publish(once.clone()).await.unwrap(), first);
    let other = OnceKey { fingerprint: [2; 32], ..once };
    assert!(matches!(publish(other).await, Err(PublishError::KeyReused)));
    let now = UnixMillis::now();
    assert_eq!(world.store.forget_old_keys(now).await.unwrap(), 0);
    assert_eq!(world.store.forget_old_keys(UnixMillis(now.0 + idempotency::KEPT_MS + 1000)).await.unwrap(), 1);
}

#[tokio::test]
async fn the_journals_room_counts_whom_events_are_owed_to() {
    let world = World::new().await;
    let mib = Draft { targets: (0..131_072).map(WebhookNum).collect(), ..world.draft(None, &[]) };
    let journal = &world.running.journal;
    let (full, refused) =
        tokio::join!(journal.publish(vec![mib; 64], None), journal.publish(vec![world.draft(None, &[])], None));
    assert!(matches!(refused, Err(PublishError::Full)), "64 MiB wait already: {refused:?}");
    assert_eq!(full.unwrap().len(), 64);
    world.publish(None, &[]).await;
}

#[tokio::test]
async fn a_fan_out_ends_when_its_last_target_has_a_row() {
    let world = World::new().await;
    let (a, b) = (world.webhook().await, world.webhook().await);
    world.catch_up();
    let receipt = world.accept(&[a.num.0, b.num.0]).await;
    world.record(attempted(id(receipt, a.num), 1, Status::Success, None)).await;
    world.record(attempted(id(receipt, a.num), 1, Status::Success, None)).await;
    assert_eq!(world.open_fanouts().await.len(), 1);
    world.record(Record::Defer { id: id(receipt, b.num), next_at: UnixMillis(5) }).await;
    assert!(world.open_fanouts().await.is_empty());
    let delivery = world.delivery(id(receipt, a.num)).await.unwrap();
    let last = delivery.last.unwrap();
    assert_eq!((last.number, last.response_body.as_slice()), (1, b"ok".as_slice()));
    assert_eq!(last.response_headers, [("server".to_owned(), "x".to_owned())]);
}

#[tokio::test]
async fn the_shards_of_an_event_are_read_together() {
    let world = World::new().await;
    let (first, second) = (world.accept(&[3]).await.seq, world.accept(&[4]).await.seq);
    let shard = "INSERT INTO fanout (event_seq, shard, targets) SELECT event_seq, 1, targets FROM fanout";
    world.tamper(shard).await;
    for (after, expected) in [(EventSeq::ZERO, first), (first, second)] {
        let fanouts = world.store.fanouts(after, 1).await.unwrap();
        let read: Vec<_> = fanouts.iter().map(|fanout| (fanout.event.seq, fanout.shard)).collect();
        assert_eq!(read, [(expected, 0), (expected, 1)]);
    }
    assert_eq!(world.open_fanouts().await.len(), 4);
}

#[tokio::test]
async fn a_restarted_journal_ends_the_fan_outs_that_it_adopts() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let fanout = world.open_fanouts().await.remove(0);
    world.record(Record::Adopt { fanout: fanout.clone(), recorded: vec![] }).await;
    assert_eq!(world.open_fanouts().await.len(), 1);
    world.record(attempted(id(receipt, webhook.num), 1, Status::Success, None)).await;
    assert!(world.open_fanouts().await.is_empty());

    world.accept(&[webhook.num.0]).await;
    let fanout = world.open_fanouts().await.remove(0);
    world.record(Record::Adopt { fanout, recorded: vec![webhook.num] }).await;
    assert!(world.open_fanouts().await.is_empty(), "every target had its row");
}

#[tokio::test]
async fn due_rows_come_in_order_and_their_webhooks_are_found() {
    let world = World::new().await;
    let (a, b) = (world.webhook().await, world.webhook().await);
    let now = UnixMillis::now();
    let receipts = [world.accept(&[a.num.0]).await, world.accept(&[a.num.0]).await, world.accept(&[a.num.0]).await];
    for (receipt, at) in receipts.iter().zip([30, 10, 20]) {
        world.record(Record::Defer { id: id(*receipt, a.num), next_at: UnixMillis(now.0 + at * 1000) }).await;
    }
    let seqs = async |horizon: i64, ordered| -> Vec<EventSeq> {
        let due = world.store.due(a.num, UnixMillis(now.0 + horizon), ordered, 10).await.unwrap();
        due.rows.iter().map(|due| due.event.seq).collect()
    };
    assert_eq!(seqs(25_000, false).await, [receipts[1].seq, receipts[2].seq]);
    assert_eq!(seqs(0, true).await, receipts.map(|receipt| receipt.seq));
    let found = async |horizon: i64| world.store.webhooks_with_due(UnixMillis(now.0 + horizon)).await.unwrap();
    assert!(found(5_000).await.is_empty());
    assert_eq!(found(10_000).await, [a.num]);
    let servings = world.store.servings(&[a.num, b.num], now).await.unwrap();
    let waits = |num| servings[&num].as_ref().unwrap().has_pending_rows;
    assert!(waits(a.num) && !waits(b.num));
    world.store.disable_webhook(a.num, a.version, "gone", now).await.unwrap();
    assert!(found(10_000).await.is_empty(), "a webhook that is switched off is not woken");
}

#[tokio::test]
async fn slow_lists_keep_no_delivery_waiting() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let mut slow = Vec::new();
    while let Ok(list) = tokio::time::timeout(Duration::from_millis(100), world.store.readers().begin()).await {
        slow.push(list.unwrap());
    }
    let (store, now) = (&world.store, UnixMillis::now());
    let reads = async {
        store.routes(WebhookNum(0)).await?;
        store.fanouts(EventSeq::ZERO, 1).await?;
        store.recorded_targets(receipt.seq).await?;
        store.owed_only_by_fanout(webhook.num, receipt.seq).await?;
        store.servings(&[webhook.num], now).await?;
        store.webhooks_with_due(now).await?;
        store.ledger(now).await?;
        world.running.ledger.next_due(webhook.num).await?;
        store.due(webhook.num, now, false, 1).await
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reads).await;
    read.expect("the engine waits for nobody").unwrap();
}

#[tokio::test]
async fn cancelled_stays_cancelled_unless_a_request_under_way_succeeds() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let (a, b) = (world.accept(&[webhook.num.0]).await, world.accept(&[webhook.num.0]).await);
    for receipt in [a, b] {
        world.record(Record::Cancel { id: id(receipt, webhook.num), at: UnixMillis(1) }).await;
    }
    let retry = attempted(id(a, webhook.num), 1, Status::Pending, Some(UnixMillis(9)));
    world.record(retry).await;
    world.record(attempted(id(b, webhook.num), 1, Status::Success, None)).await;
    let state = world.delivery(id(a, webhook.num)).await.unwrap().state;
    assert_eq!((state.status, state.next_at, state.attempts), (Status::Cancelled, None, 1));
    assert_eq!(world.delivery(id(b, webhook.num)).await.unwrap().state.status, Status::Success);
}

#[tokio::test]
async fn a_manual_retry_remembers_what_to_fall_back_to() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let id = id(receipt, webhook.num);
    world.record(attempted(id, 1, Status::Failed, None)).await;
    world.record(Record::Retry { id, at: UnixMillis(77) }).await;
    world.record(Record::Retry { id, at: UnixMillis(99) }).await;
    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.next_at), (Status::Pending, Some(UnixMillis(77))), "asking twice is asking once");
    assert_eq!(state.manual.unwrap().status, Status::Failed);
    world.record(Record::Cancel { id, at: UnixMillis(99) }).await;
    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.manual), (Status::Failed, None), "taken back, it is what it was");
}

#[tokio::test]
async fn lists_filter_by_status_and_never_show_another_tenants() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    world.record(attempted(id(receipt, webhook.num), 1, Status::Failed, None)).await;
    let count = async |tenant, webhook, status| {
        let filter = DeliveryFilter { webhook, status, ..DeliveryFilter::default() };
        world.store.deliveries(tenant, &filter, None, 10).await.unwrap().len()
    };
    let (mine, other) = (world.tenant.num, crate::id::TenantNum(world.tenant.num.0 + 1));
    assert_eq!(count(mine, Some(webhook.num), Some(Status::Failed)).await, 1);
    assert_eq!(count(mine, None, Some(Status::Failed)).await, 1);
    assert_eq!(count(mine, Some(webhook.num), Some(Status::Pending)).await, 0);
    assert_eq!(count(other, Some(webhook.num), Some(Status::Failed)).await, 0);
    assert_eq!(count(other, None, None).await, 0);
    assert!(world.store.event(other, receipt.seq).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stale_version_changes_nothing() {
    let world = World::new().await;
    let webhook = world.webhook().await;
    let now = UnixMillis::now();
    let renamed = Webhook { name: "New".to_owned(), ..webhook.clone() };
    let updated = world.store.update_webhook(&renamed, now).await.unwrap();
    assert_eq!((updated.name.as_str(), updated.version), ("New", 2));
    assert!(matches!(world.store.update_webhook(&renamed, now).await, Err(StoreError::Stale)));
    assert!(matches!(world.store.delete_webhook(&renamed, now).await, Err(StoreError::Stale)));
    world.store.delete_webhook(&updated, now).await.unwrap();
    assert!(world.store.webhook(world.tenant.num, webhook.id).await.unwrap().is_none());
}

#[tokio::test]
async fn the_feed_hands_out_what_was_committed_while_it_was_behind() {
    let world = World::new().await;
    let first = world.accept(&[1]).await;
    let Next::ReadAfter(after) = world.running.feed.next().await else { panic!("a new engine is behind") };
    let seen = world.store.fanouts(after, 10).await.unwrap();
    assert_eq!(seen[0].event.seq, first.seq);
    world.running.feed.read_up_to(first.seq);
    world.catch_up();
    let second = world.accept(&[2]).await;
    let Next::Dispatch(fanouts) = world.running.feed.next().await else { panic!("caught up") };
    assert_eq!(fanouts.iter().map(|fanout| fanout.event.seq).collect::<Vec<_>>(), [second.seq]);
}

#[tokio::test]
async fn what_a_crash_left_stays_suspect_through_clean_stops() {
    let world = World::new().await;
    assert_eq!(world.store.mark_started(UnixMillis(1)).await.unwrap(), Suspect::NOTHING);
    let receipt = world.accept(&[1]).await;
    world.store.mark_stopped_cleanly(UnixMillis(2)).await.unwrap();
    assert_eq!(world.store.mark_started(UnixMillis(3)).await.unwrap(), Suspect::NOTHING);
    let suspect = Suspect { events_to: receipt.seq, due_to: UnixMillis(4) };
    assert_eq!(world.store.mark_started(UnixMillis(4)).await.unwrap(), suspect);
    world.accept(&[1]).await;
    world.store.mark_stopped_cleanly(UnixMillis(5)).await.unwrap();
    assert_eq!(world.store.mark_started(UnixMillis(6)).await.unwrap(), suspect);
    world.store.suspect(Suspect { events_to: EventSeq::ZERO, due_to: UnixMillis(7) }).await.unwrap();
    world.store.mark_stopped_cleanly(UnixMillis(8)).await.unwrap();
    let wider = Suspect { due_to: UnixMillis(7), ..suspect };
    assert_eq!(world.store.mark_started(UnixMillis(9)).await.unwrap(), wider, "a part of the process crashed");
}

#[tokio::test]
async fn a_closed_journal_writes_what_it_took_and_takes_nothing_more() {
    let World { store, tenant, running, directory: _directory, .. } = World::new().await;
    let draft = Draft {
        tenant: tenant.num,
        kind: "a".into(),
        occurred_at: None,
        data: RawValue::from_string("1".to_owned()).unwrap(),
        caller: None,
        targets: Arc::new([]),
    };
    let publish = running.journal.publish(vec![draft.clone()], None);
    let (published, ()) = tokio::join!(publish, running.journal.close());
    published.unwrap();
    running.writer.await.unwrap();
    assert!(matches!(running.journal.publish(vec![draft], None).await, Err(PublishError::Stopped)));
    assert!(running.journal.barrier().await.is_err());
    assert_ne!(store.last_event().await.unwrap(), EventSeq::ZERO);
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_in_use() {
    let world = World::new().await;
    assert!(matches!(open_with(&world.directory, None).await, Err(OpenError::Locked { .. })));
}

#[tokio::test]
async fn the_schema_goes_down_and_up_again() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("test.db").display());
    drop(open(&directory).await);
    Store::migrate_down(&url, 1).await.unwrap();
    let options = Options { url: url.clone(), master_key: None, migrate: false };
    assert!(matches!(Store::open(options).await, Err(OpenError::NotMigrated)));
    let store = open(&directory).await;
    assert!(store.integrity_problems().await.unwrap().is_empty());
}
