//! A store of its own with one tenant and a running journal, on either database.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use sea_orm::{ConnectionTrait, DbBackend, Statement};

use crate::domain::credentials::{Auth, Credentials};
use crate::domain::delivery::{Attempt, DeliveryState, Status, Trigger};
use crate::domain::id::{DeliveryId, EventSeq, TenantId, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::domain::policy::Policy;
use crate::domain::request::{Proof, RequestParts, SentRequest};
use crate::domain::shard::ShardNum;
use crate::journal::{AttemptRecord, Draft, Journal, Published, Record, Running};
use crate::secrets::MasterKey;
use crate::store::audit::Author;
use crate::store::deliveries;
use crate::store::events::{Caller, Receipt};
use crate::store::fanouts::Fanout;
use crate::store::leases::ShardSet;
use crate::store::tenants::{NewTenant, Tenant};
use crate::store::webhooks::{NewWebhook, Webhook};
use crate::store::{OpenError, Options, Store};
use test_support::cluster::Database;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Sqlite,
    Postgres,
}

pub(super) struct World {
    pub(super) store: Store,
    pub(super) tenant: Tenant,
    pub(super) shard_set: ShardSet,
    pub(super) running: Running,
    pub(super) writer: JoinHandle<()>,
    /// The last field, so that the store is closed before its files are deleted.
    pub(super) home: Home,
}

/// Where a store's data is.
pub(super) enum Home {
    Sqlite(TempDir),
    Postgres(Database),
}

/// Any key. With SQLite one is made beside the file.
const MASTER_KEY: &str = "cG9zdGhhc3RlIHBvc3RoYXN0ZSBwb3N0aGFzdGUgcG8=";

impl Home {
    pub(super) fn new(on: On) -> Self {
        match on {
            On::Sqlite => Self::Sqlite(tempfile::tempdir().unwrap()),
            On::Postgres => Self::Postgres(Database::new()),
        }
    }

    pub(super) fn options(&self) -> Options {
        match self {
            Self::Sqlite(directory) => Options::of(format!("sqlite://{}", directory.path().join("test.db").display())),
            Self::Postgres(database) => {
                Options { master_key: MasterKey::parse(MASTER_KEY), connections: 8, ..Options::of(database.url()) }
            }
        }
    }

    /// Opens the same database with another lease.
    pub(super) async fn open_for(&self, lease: Duration) -> Store {
        Store::open(Options { lease, ..self.options() }).await.unwrap()
    }

    pub(super) async fn open(&self) -> Store {
        self.opened(self.options()).await.unwrap()
    }

    pub(super) async fn open_with(&self, master_key: Option<MasterKey>) -> Result<Store, OpenError> {
        self.opened(Options { master_key, ..self.options() }).await
    }

    /// A program that another test starts at this moment holds this test's lock, too, until it executes: that passes.
    pub(super) async fn opened(&self, options: Options) -> Result<Store, OpenError> {
        for _ in 0..200 {
            match Store::open(options.clone()).await {
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                opened => return opened,
            }
        }
        Store::open(options).await
    }

    /// Retries for the same reason as [`Self::opened`].
    pub(super) async fn migrate_down(&self, steps: u32) {
        for _ in 0..200 {
            match Store::migrate_down(&self.options(), steps, true).await {
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                undone => return assert!(undone.unwrap() > 0),
            }
        }
        panic!("the database stays locked");
    }
}

impl Store {
    /// Changes rows without the engine's knowledge.
    pub(crate) async fn tamper(&self, sql: &str) {
        let changed = self.inner.writer.execute_unprepared(sql).await.unwrap();
        assert_ne!(changed.rows_affected(), 0, "{sql}");
    }

    /// Waits until every transaction is over that had begun on the server before: other tests may use it, too.
    pub(crate) async fn others_ended(&self) {
        let begun = self.number("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8").await;
        while self.number("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8").await < begun {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a statement on this database waits for a lock.
    pub(crate) async fn lock_is_awaited(&self) {
        let waiting =
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while self.number(waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        let row = self.readers().query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
        row.unwrap().try_get_by_index(0).unwrap()
    }

    /// A byte literal in the database's syntax.
    pub(crate) fn bytes_literal(&self, hex: &str) -> String {
        match self.backend() {
            DbBackend::Postgres => format!("'\\x{hex}'"),
            _ => format!("x'{hex}'"),
        }
    }
}

/// Activates every shard that has no owner.
pub(crate) async fn gain_all(store: &Store, shard_set: &ShardSet, journal: &Journal) {
    let all: Vec<ShardNum> = ShardNum::all().collect();
    let grants = store.acquire(shard_set, &all).await.unwrap();
    if !grants.is_empty() {
        journal.activate(grants).await.unwrap().unwrap();
    }
}

async fn start(store: &Store) -> (ShardSet, Running, JoinHandle<()>) {
    let shard_set = store.join("test", None).await.unwrap();
    let (running, writer) = store.start_journal(&shard_set).await;
    gain_all(store, &shard_set, &running.journal).await;
    (shard_set, running, writer)
}

impl World {
    pub(super) async fn new(on: On) -> Self {
        let home = Home::new(on);
        Self::of(home.open().await, home).await
    }

    pub(super) async fn of(store: Store, home: Home) -> Self {
        let new = NewTenant {
            id: TenantId::generate(),
            name: "Tenant".to_owned(),
            allow_undeclared_types: true,
            retention: Default::default(),
            created_at: UnixMillis::now(),
            catalogue: vec![("message.sent".to_owned(), "A message was sent.".to_owned())],
        };
        let tenant = store.create_tenant(new, None, &Author::engine()).await.unwrap();
        let (shard_set, running, writer) = start(&store).await;
        Self { store, tenant, shard_set, running, writer, home }
    }

    pub(super) async fn another_tenant(&self) -> Tenant {
        let new = NewTenant {
            id: TenantId::generate(),
            name: "Another".to_owned(),
            allow_undeclared_types: true,
            retention: Default::default(),
            created_at: UnixMillis::now(),
            catalogue: vec![("message.sent".to_owned(), "A message was sent.".to_owned())],
        };
        self.store.create_tenant(new, None, &Author::engine()).await.unwrap()
    }

    pub(super) async fn webhook(&self) -> Webhook {
        self.store.create_webhook(self.new_webhook(), None, &Author::engine()).await.unwrap()
    }

    pub(super) fn new_webhook(&self) -> NewWebhook {
        NewWebhook {
            id: WebhookId::generate(),
            tenant: self.tenant.num,
            name: "Webhook".to_owned(),
            url: "https://example.com/".to_owned(),
            events: vec!["message.*".to_owned()],
            headers: [("X-Team".to_owned(), "billing".to_owned())].into(),
            public_headers: Vec::new(),
            policy: Policy::default(),
            credentials: None,
            tls_digest: None,
            description: None,
            metadata: None,
            is_active: true,
            secret: "whsec_first".into(),
            created_at: UnixMillis::now(),
            start_from: None,
        }
    }

    pub(super) fn draft(&self, caller: Option<(&str, u8)>, targets: &[i64]) -> Draft {
        Draft {
            tenant: self.tenant.num,
            kind: "message.sent".into(),
            occurred_at: None,
            data: RawValue::from_string("{}".to_owned()).unwrap(),
            caller: caller.map(|(id, digest)| Caller { id: id.to_owned(), digest: [digest; 32] }),
            trail: None,
            targets: targets.iter().copied().map(WebhookNum).collect(),
            is_ordered: false,
        }
    }

    pub(super) async fn publish(&self, caller: Option<(&str, u8)>, targets: &[i64]) -> Published {
        let published =
            self.running.journal.publish(vec![self.draft(caller, targets)], None).await.unwrap().published[0];
        // The publisher is answered before the feed gets the event.
        self.running.journal.barrier().await.unwrap();
        published
    }

    pub(super) async fn accept_large(&self, targets: &[i64], size: usize) -> Receipt {
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(size))).unwrap();
        let draft = Draft { data, ..self.draft(None, targets) };
        match self.running.journal.publish(vec![draft], None).await.unwrap().published[0] {
            Published::Accepted(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn accept(&self, targets: &[i64]) -> Receipt {
        match self.publish(None, targets).await {
            Published::Accepted(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the feed hand fan-outs out from memory.
    pub(super) fn catch_up(&self) {
        while self.running.feed.catch_up().is_some() {
            self.running.feed.close_gap();
        }
    }

    pub(super) async fn record(&self, record: Record) {
        self.running.journal.record(record).await.unwrap();
        self.running.journal.barrier().await.unwrap();
    }

    pub(super) async fn open_fanouts(&self) -> Vec<Fanout> {
        self.store.fanouts(EventSeq::ZERO, 100).await.unwrap().fanouts
    }

    /// Ends the process as a clean stop would; its files stay.
    pub(super) async fn stop(self) -> Home {
        let Self { home, store, shard_set, running, writer, .. } = self;
        running.journal.close().await;
        writer.await.unwrap();
        store.release(&shard_set, &shard_set.owned(), false).await.unwrap();
        store.deregister(&shard_set).await.unwrap();
        store.close().await;
        home
    }

    /// Stops, and starts the next process.
    pub(super) async fn restart(self) -> Self {
        let tenant = self.tenant.clone();
        let home = self.stop().await;
        let store = home.open().await;
        let (shard_set, running, writer) = start(&store).await;
        Self { store, tenant, shard_set, running, writer, home }
    }

    /// All stored bytes, from the files or as the rows are read.
    pub(super) async fn stored_bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        match &self.home {
            Home::Sqlite(directory) => {
                self.store.close().await;
                for entry in std::fs::read_dir(directory.path()).unwrap() {
                    all.append(&mut std::fs::read(entry.unwrap().path()).unwrap());
                }
            }
            Home::Postgres(_) => {
                let sql = "SELECT row_to_json(w)::text, w.headers FROM webhook w \
                           UNION ALL SELECT '', w.credentials FROM webhook w WHERE w.credentials IS NOT NULL \
                           UNION ALL SELECT row_to_json(s)::text, s.sealed FROM webhook_secret s";
                let statement = Statement::from_string(DbBackend::Postgres, sql);
                for row in self.store.readers().query_all_raw(statement).await.unwrap() {
                    all.append(&mut row.try_get_by_index::<String>(0).unwrap().into_bytes());
                    all.append(&mut row.try_get_by_index::<Vec<u8>>(1).unwrap());
                }
            }
        }
        assert!(all.len() > 100);
        all
    }

    /// Changes the tables as the store never would.
    pub(super) async fn tamper(&self, sql: &str) {
        self.store.tamper(sql).await;
    }

    pub(super) async fn delivery(&self, id: DeliveryId) -> Option<deliveries::Delivery> {
        self.store.delivery(self.tenant.num, id).await.unwrap()
    }
}

pub(super) fn bearer(token: &str) -> Credentials {
    Credentials { auth: Some(Auth::Bearer { token: token.to_owned().into() }), tls: None }
}

pub(super) fn shown(secrets: &[SecretString]) -> Vec<&str> {
    secrets.iter().map(ExposeSecret::expose_secret).collect()
}

pub(super) fn id(receipt: Receipt, webhook: WebhookNum) -> DeliveryId {
    DeliveryId { event: receipt.seq, webhook }
}

pub(super) fn attempted(id: DeliveryId, number: u16, status: Status, next_at: Option<UnixMillis>) -> Record {
    let attempt = attempt(number);
    let settled_at = (status != Status::Pending).then_some(attempt.started_at);
    let state = DeliveryState { status, attempts: number, tries: number, next_at, settled_at, manual: None };
    Record::Attempt(Box::new(AttemptRecord::new(id, attempt, state)))
}

/// Statements that make the database refuse attempts, and accept them again.
pub(super) fn refusal(on: On) -> (&'static str, &'static str) {
    match on {
        On::Sqlite => (
            "CREATE TRIGGER refuse BEFORE INSERT ON attempt BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "DROP TRIGGER refuse",
        ),
        On::Postgres => (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'refused'; END$$; \
             CREATE TRIGGER refuse BEFORE INSERT ON attempt FOR EACH ROW EXECUTE FUNCTION refuse()",
            "DROP TRIGGER refuse ON attempt",
        ),
    }
}

/// What an attempt has called.
pub(super) fn request_parts() -> RequestParts<'static> {
    RequestParts {
        url: "https://a.example/hooks".into(),
        address: Some(([192, 0, 2, 7], 443).into()),
        unix_seconds: 1_800_000_000,
        proof: Some(Proof {
            signature: "5257".into(),
            standard_signature: "v1,K5o=".into(),
            cdn_loop: "posthaste-1".into(),
            user_agent: "Posthaste/0.1.0".into(),
        }),
        hidden: vec!["x-team".into()],
    }
}

/// An attempt that was answered.
pub(super) fn attempt(number: u16) -> Attempt {
    Attempt {
        number,
        trigger: Trigger::Scheduled,
        started_at: UnixMillis(1_800_000_000_000),
        duration_us: 1500,
        head_us: Some(1000),
        status_code: Some(200),
        outcome: OutcomeKind::Success,
        error: None,
        request: SentRequest::of(&request_parts()),
        response_headers: vec![("server".to_owned(), "x".to_owned())],
        response_body: b"ok".to_vec(),
    }
}
