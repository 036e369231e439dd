//! A database of its own for one test, with one tenant and one node that owns every shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use test_support::cluster;

use crate::cluster::db::ClusterDb;
use crate::domain::delivery::{DeliveryState, Due, Status};
use crate::domain::event::{Body, Event};
use crate::domain::id::{DeliveryId, EventSeq, Slot, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::domain::shard::ShardNum;
use crate::engine::db::EngineDb;
use crate::engine::tests::{Home, tenant_in};
use crate::store::audit::Author;
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::events::Caller;
use crate::store::fanouts::Fanout;
use crate::store::journal_db::rows::{NewEvent, Rows, Update, Updated};
use crate::store::journal_db::{JournalDb, JournalTransaction};
use crate::store::leases::memory::Leases;
use crate::store::leases::{AcquiredShard, ShardSet};
use crate::store::memory::{Client, Hook, Memory, SharedRows, Tables, Webhooks};
use crate::store::webhooks::{NewWebhook, Rotation, Webhook};
use crate::store::{Options, Store, StoreError};

/// Longer than any test.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// Secrets that can be parsed; nothing is signed.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEXT_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Sqlite,
    Postgres,
    /// For one process that has it alone, as with SQLite.
    Memory,
    MemoryOfNodes,
}

pub(super) struct Database {
    pub(super) engine: Arc<dyn EngineDb>,
    pub(super) cluster: Arc<dyn ClusterDb>,
    pub(super) journal: Arc<dyn JournalDb>,
    pub(super) tenant: TenantNum,
    /// What the first node owns: every shard.
    pub(super) shard_set: ShardSet,
    backdoor: Backdoor,
}

/// Makes what the traits cannot make.
enum Backdoor {
    /// The store is closed before its files are deleted.
    Store(Store, Home),
    Memory(Memory),
}

struct Here;

impl Client for Here {
    fn now(&self) -> UnixMillis {
        UnixMillis::now()
    }

    fn database_now(&self) -> UnixMillis {
        UnixMillis::now()
    }

    fn between_statements(&self) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }
}

impl Database {
    pub(super) async fn new(on: On) -> Self {
        match on {
            On::Sqlite => Self::of_store(Home::Directory(tempfile::tempdir().unwrap())).await,
            On::Postgres => Self::of_store(Home::Database(cluster::Database::new())).await,
            On::Memory => Self::in_memory(None).await,
            On::MemoryOfNodes => Self::in_memory(Some(LONG)).await,
        }
    }

    async fn of_store(home: Home) -> Self {
        let store = Store::open(Options { lease: LONG, ..home.options() }).await.unwrap();
        let tenant = tenant_in(&store).await.num;
        Self::with(Arc::new(store.clone()), tenant, Backdoor::Store(store, home)).await
    }

    async fn in_memory(lease: Option<Duration>) -> Self {
        let (tables, webhooks) = (SharedRows::<Tables>::default(), SharedRows::<Webhooks>::default());
        tables.write().leases = Leases::of(ShardNum::all());
        let memory = Memory::new(&tables, &webhooks, lease, Arc::new(Here));
        Self::with(Arc::new(memory.clone()), TenantNum(1), Backdoor::Memory(memory)).await
    }

    async fn with<D: EngineDb + ClusterDb + JournalDb + 'static>(
        db: Arc<D>,
        tenant: TenantNum,
        backdoor: Backdoor,
    ) -> Self {
        let shard_set = db.join("first", Some("http://127.0.0.1:1")).await.unwrap();
        let database = Self { engine: db.clone(), cluster: db.clone(), journal: db, tenant, shard_set, backdoor };
        let all: Vec<ShardNum> = ShardNum::all().collect();
        database.own(&database.shard_set, &all).await;
        database
    }

    /// Acquires shards for a node and activates them, as the journal does. Returns those that were free.
    pub(super) async fn own(&self, shard_set: &ShardSet, shards: &[ShardNum]) -> Vec<AcquiredShard> {
        let acquired = self.cluster.acquire(shard_set, shards).await.unwrap();
        let snapshot = self.journal.read_pending(shards, UnixMillis::now(), &mut |_| ()).await.unwrap();
        shard_set.activate(&acquired, &Arc::new(snapshot));
        acquired
    }

    /// Another node.
    pub(super) async fn another(&self) -> ShardSet {
        self.cluster.join("another", None).await.unwrap()
    }

    /// Another node, which has these shards of the first one.
    pub(super) async fn another_with(&self, shards: &[ShardNum]) -> ShardSet {
        let another = self.another().await;
        self.shard_set.detach(shards);
        self.cluster.release(&self.shard_set, shards, false).await.unwrap();
        assert_eq!(self.own(&another, shards).await.len(), shards.len());
        another
    }

    /// Ends the leases of all nodes.
    pub(super) async fn expire_leases(&self) {
        match &self.backdoor {
            Backdoor::Store(store, _) => store.tamper("UPDATE node SET lease_until = 1").await,
            Backdoor::Memory(memory) => memory.tables.write().leases.expire(),
        }
    }
}

/// Batches.
impl Database {
    pub(super) async fn begin(&self) -> Box<dyn JournalTransaction> {
        begin_in(self.journal.as_ref()).await
    }

    /// The journal of another process: a process writes one batch at a time.
    pub(super) async fn another_journal(&self) -> Arc<dyn JournalDb> {
        match &self.backdoor {
            Backdoor::Store(_, home) => Arc::new(Store::open(home.options()).await.unwrap()),
            Backdoor::Memory(memory) => Arc::new(memory.clone()),
        }
    }

    /// Begins a batch of this node that may write for each of its shards.
    pub(super) async fn begin_as(&self, shard_set: &ShardSet) -> Box<dyn JournalTransaction> {
        let mut batch = self.begin().await;
        let locked = batch.lock(shard_set, &shard_set.owned().into_iter().collect::<BTreeSet<_>>()).await.unwrap();
        assert!(!locked.is_reaped && locked.lost.is_empty(), "{locked:?}");
        batch
    }

    /// Writes a batch of the first node.
    pub(super) async fn write(&self, rows: Rows<'_>) -> Updated {
        let mut batch = self.begin_as(&self.shard_set).await;
        let updated = batch.write(rows).await.unwrap();
        batch.commit().await.unwrap();
        updated
    }

    /// The rows of an event that is owed to these webhooks.
    pub(super) fn event(&self, seq: EventSeq, targets: &[i64]) -> Rows<'static> {
        self.event_with(seq, targets, "{}".into(), None)
    }

    /// The targets must be ascending.
    pub(super) fn event_with(
        &self,
        seq: EventSeq,
        targets: &[i64],
        body: Bytes,
        caller: Option<Caller>,
    ) -> Rows<'static> {
        let event = Event {
            seq,
            tenant: self.tenant,
            kind: "message.sent".to_owned(),
            body: Body::InMemory(body.clone()),
            trail: Some("first".into()),
        };
        let targets: Arc<[WebhookNum]> = targets.iter().copied().map(WebhookNum).collect();
        let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
        for webhook in targets.iter() {
            parts.entry(self.shard_set.part_of(*webhook).num()).or_default().push(*webhook);
        }
        let fanouts = parts.into_iter().map(|(shard, part)| ((seq, shard), part.into())).collect();
        let new = NewEvent { event: Arc::new(event), body, occurred_at: UnixMillis(7), caller, targets };
        with(Rows::default(), |rows| {
            rows.events = vec![new];
            rows.fanouts = fanouts;
        })
    }

    /// Accepts an event that is owed to these webhooks.
    pub(super) async fn accept(&self, seq: EventSeq, targets: &[i64]) {
        self.write(self.event(seq, targets)).await;
    }

    /// Accepts an event, and gives each target a row that is due at this moment.
    pub(super) async fn accept_due(&self, seq: EventSeq, targets: &[i64], next_at: i64) {
        let rows = self.event(seq, targets);
        let deferrals = targets.iter().map(|webhook| (id(seq, *webhook), due_at(next_at))).collect();
        let ended = rows.fanouts.iter().map(|(key, _)| *key).collect();
        self.write(with(rows, |rows| {
            rows.deferrals = deferrals;
            rows.ended = ended;
        }))
        .await;
    }

    /// Writes the state in which an attempt leaves a delivery.
    pub(super) async fn record(&self, id: DeliveryId, state: DeliveryState) {
        let mut rows = Rows::default();
        rows.delivery(id, state);
        self.write(rows).await;
    }

    /// Writes an update, and returns what it has changed.
    pub(super) async fn update(&self, update: Update) -> Updated {
        self.write(with(Rows::default(), |rows| rows.updates = vec![update])).await
    }
}

/// Reads.
impl Database {
    pub(super) async fn open_fanouts(&self) -> Vec<Fanout> {
        self.engine.fanouts(EventSeq::ZERO, 1000).await.unwrap().fanouts
    }

    /// The targets of every open fan-out, event by event.
    pub(super) async fn owed(&self) -> Vec<(EventSeq, i64)> {
        let fanouts = self.open_fanouts().await;
        let targets = |fanout: &Fanout| {
            let seq = fanout.event.seq;
            fanout.targets.iter().map(move |webhook| (seq, webhook.0)).collect::<Vec<_>>()
        };
        fanouts.iter().flat_map(targets).collect()
    }

    pub(super) async fn due(&self, webhook: i64, wanted: Wanted<'_>) -> DueRows {
        self.engine.due(&self.shard_set, WebhookNum(webhook), wanted).await.unwrap()
    }

    /// One delivery, if it is pending.
    pub(super) async fn pending(&self, id: DeliveryId) -> Option<Due> {
        self.engine.due_one(&self.shard_set, id).await.unwrap()
    }

    /// The state of a delivery that is not pending: a manual retry keeps it.
    pub(super) async fn settled_as(&self, id: DeliveryId) -> Status {
        self.update(Update::Retry { id, at: UnixMillis(1), operation: None }).await;
        self.pending(id).await.expect("it is sent again").state.manual.expect("a manual retry").status
    }

    pub(super) async fn config(&self, webhook: WebhookNum) -> Option<Result<EndpointConfigRow, StoreError>> {
        self.engine.endpoint_configs(&[webhook], UnixMillis::now()).await.unwrap().remove(&webhook)
    }
}

/// What people do to webhooks.
impl Database {
    pub(super) async fn webhook(&self) -> WebhookNum {
        let new = NewWebhook {
            id: WebhookId::generate(),
            tenant: self.tenant,
            name: "Webhook".to_owned(),
            url: "http://127.0.0.1/".to_owned(),
            events: vec!["message.*".to_owned()],
            headers: BTreeMap::new(),
            public_headers: Vec::new(),
            policy: Policy { ordered: true, ..Policy::default() },
            credentials: None,
            tls_digest: None,
            description: None,
            metadata: None,
            is_active: true,
            secret: SECRET.into(),
            created_at: UnixMillis::now(),
            start_from: None,
        };
        match &self.backdoor {
            Backdoor::Store(store, _) => store.create_webhook(new, None, &Author::engine()).await.unwrap().num,
            Backdoor::Memory(memory) => {
                let mut webhooks = memory.webhooks.write();
                let num = WebhookNum(1 + webhooks.rows.len() as i64);
                let NewWebhook { id, tenant, url, events, policy, is_active, created_at, .. } = new;
                let hook = Hook {
                    num,
                    id,
                    tenant,
                    url,
                    events,
                    policy: Arc::new(policy),
                    is_active,
                    inactive_reason: None,
                    is_paused: false,
                    is_deleted: false,
                    is_unreadable: false,
                    secret_ends: None,
                    version: 1,
                    created_at,
                };
                webhooks.rows.insert(num, hook);
                webhooks.changes.push(num);
                num
            }
        }
    }

    async fn stored(&self, num: WebhookNum) -> Webhook {
        self.config(num).await.expect("it is there").expect("it can be read").webhook
    }

    fn change(memory: &Memory, num: WebhookNum, change: impl FnOnce(&mut Hook)) {
        let mut webhooks = memory.webhooks.write();
        let hook = webhooks.rows.get_mut(&num).expect("it is there");
        change(hook);
        hook.version += 1;
        webhooks.changes.push(num);
    }

    pub(super) async fn set_paused(&self, num: WebhookNum, is_paused: bool) {
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                let (webhook, now, by) = (self.stored(num).await, UnixMillis::now(), Author::engine());
                let is_changed = match is_paused {
                    true => store.pause_webhook(&webhook, None, now, &by).await,
                    false => store.resume_webhook(&webhook, None, now, &by).await,
                };
                assert!(is_changed.unwrap());
            }
            Backdoor::Memory(memory) => Self::change(memory, num, |hook| hook.is_paused = is_paused),
        }
    }

    pub(super) async fn switch_off(&self, num: WebhookNum) {
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                let off = Webhook { is_active: false, ..self.stored(num).await };
                store.update_webhook(&off, UnixMillis::now(), &Author::engine()).await.unwrap();
            }
            Backdoor::Memory(memory) => Self::change(memory, num, |hook| hook.is_active = false),
        }
    }

    pub(super) async fn delete_webhook(&self, num: WebhookNum) {
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                let doomed = self.stored(num).await;
                store.delete_webhook(&doomed, UnixMillis::now(), &Author::engine()).await.unwrap();
            }
            Backdoor::Memory(memory) => {
                Self::change(memory, num, |hook| (hook.is_deleted, hook.is_active) = (true, false));
            }
        }
    }

    /// Gives the webhook another secret. The one before signs until then.
    pub(super) async fn rotate_secret(&self, num: WebhookNum, old_until: UnixMillis) {
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                let (webhook, now) = (self.stored(num).await, UnixMillis::now());
                let next = NEXT_SECRET.into();
                store.rotate_secret(&webhook, Rotation::new(&next, old_until), now, &Author::engine()).await.unwrap();
            }
            Backdoor::Memory(memory) => Self::change(memory, num, |hook| hook.secret_ends = Some(old_until)),
        }
    }
}

/// What happens to rows.
impl Database {
    pub(super) async fn damage_webhook(&self, num: WebhookNum) {
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                store.tamper(&format!("UPDATE webhook SET policy = 'damaged' WHERE num = {}", num.0)).await;
            }
            Backdoor::Memory(memory) => {
                memory.webhooks.write().rows.get_mut(&num).expect("it is there").is_unreadable = true;
            }
        }
    }

    pub(super) async fn lose_event(&self, event: EventSeq) {
        match &self.backdoor {
            Backdoor::Store(store, _) => store.tamper(&format!("DELETE FROM event WHERE seq = {}", event.0)).await,
            Backdoor::Memory(memory) => memory.tables.write().lose_event(event),
        }
    }

    /// Resolves while a statement waits for a lock.
    pub(super) async fn lock_is_awaited(&self) {
        match &self.backdoor {
            Backdoor::Store(store, _) => store.lock_is_awaited().await,
            // Others have their turns; what could go on has gone on by then.
            Backdoor::Memory(_) => {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Waits until nothing that has been committed can look unsettled because of other tests' transactions.
    pub(super) async fn others_ended(&self) {
        match &self.backdoor {
            Backdoor::Store(store, _) => store.others_ended().await,
            Backdoor::Memory(_) => {}
        }
    }

    /// Gives a fan-out the number of a transaction that this server has not begun.
    pub(super) async fn number_elsewhere(&self, event: EventSeq, shard: ShardNum) {
        let number = 1_u64 << 40;
        match &self.backdoor {
            Backdoor::Store(store, _) => {
                let sql = format!("UPDATE fanout SET tx = '{number}'::xid8 WHERE event_seq = {}", event.0);
                store.tamper(&sql).await;
            }
            Backdoor::Memory(memory) => memory.tables.write().number((event, shard.num()), number),
        }
    }
}

pub(super) async fn begin_in(journal: &dyn JournalDb) -> Box<dyn JournalTransaction> {
    journal.begin_batch(Instant::now() + LONG).await.unwrap()
}

/// The rows with others of some kinds.
pub(super) fn with<'a>(mut rows: Rows<'a>, set: impl FnOnce(&mut Rows<'a>)) -> Rows<'a> {
    set(&mut rows);
    rows
}

/// The key of the `n`th event that a node with this slot accepts.
pub(super) fn key_in(slot: Slot, n: i64) -> EventSeq {
    EventSeq((n << 21) | (i64::from(slot.0) << 13))
}

/// The key of the `n`th event of the first node.
pub(super) fn key(n: i64) -> EventSeq {
    key_in(Slot(0), n)
}

pub(super) fn id(event: EventSeq, webhook: i64) -> DeliveryId {
    DeliveryId { event, webhook: WebhookNum(webhook) }
}

pub(super) fn due_at(next_at: i64) -> DeliveryState {
    DeliveryState::pending(Some(UnixMillis(next_at)))
}

/// A delivery that has ended with its first attempt.
pub(super) fn ended_as(status: Status) -> DeliveryState {
    DeliveryState { status, attempts: 1, tries: 1, settled_at: Some(UnixMillis(5)), ..DeliveryState::pending(None) }
}

pub(super) fn wanted(horizon: i64) -> Wanted<'static> {
    Wanted { horizon: UnixMillis(horizon), ordered: false, limit: 10, known: &[] }
}

pub(super) fn shard(num: u8) -> ShardNum {
    ShardNum::from(num)
}

pub(super) fn events(due: &DueRows) -> Vec<EventSeq> {
    due.rows.iter().map(|due| due.event.seq).collect()
}
