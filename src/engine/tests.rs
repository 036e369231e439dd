//! Runs the engine against trouble that cannot be caused from outside: damaged rows, and changes that cross.

mod conformance;
mod elsewhere;
mod memory;
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventSeq, TenantId, WebhookId};
use crate::journal::{Draft, Published, Record};
use crate::secrets::MasterKey;
use crate::store::Options;
use crate::store::audit::Author;
use crate::store::tenants::{NewTenant, Tenant};
use crate::store::webhooks::{NewWebhook, Webhook};
use test_support::cluster::Database;

/// Far longer than the due poller's interval.
const PATIENCE: Duration = Duration::from_secs(10);

/// An engine with one tenant. Nothing listens where its webhooks point to.
struct World {
    engine: Engine,
    tenant: Tenant,
    home: Home,
}

/// Where the store is kept.
enum Home {
    Directory(TempDir),
    Database(Database),
}

impl Home {
    fn options(&self) -> Options {
        match self {
            Self::Directory(directory) => file_in(directory),
            Self::Database(database) => {
                let master_key = MasterKey::parse("cG9zdGhhc3RlIHBvc3RoYXN0ZSBwb3N0aGFzdGUgcG8=");
                Options { master_key, connections: 8, ..Options::of(database.url()) }
            }
        }
    }
}

fn file_in(directory: &TempDir) -> Options {
    Options::of(format!("sqlite://{}", directory.path().join("test.db").display()))
}

/// A new store with one tenant.
pub(super) async fn store_with_tenant(directory: &TempDir) -> (Store, Tenant) {
    let store = Store::open(file_in(directory)).await.unwrap();
    let tenant = tenant_in(&store).await;
    (store, tenant)
}

async fn tenant_in(store: &Store) -> Tenant {
    let new = NewTenant {
        id: TenantId::generate(),
        name: "Tenant".to_owned(),
        allow_undeclared_types: true,
        retention: Default::default(),
        created_at: UnixMillis::now(),
        catalogue: Vec::new(),
    };
    store.create_tenant(new, None, &Author::engine()).await.unwrap()
}

impl World {
    async fn start() -> Self {
        Self::start_in(Home::Directory(tempfile::tempdir().unwrap())).await
    }

    async fn start_in(home: Home) -> Self {
        let store = Store::open(home.options()).await.unwrap();
        let tenant = tenant_in(&store).await;
        let egress_allow = vec!["127.0.0.0/8".parse().unwrap()];
        let config = EngineConfig {
            allow_http: true,
            egress_allow,
            dns_servers: Vec::new(),
            listeners: Vec::new(),
            arbiters: 1,
            max_in_flight: 64,
            keeps_connections: true,
            payload_memory: usize::MAX,
            address: None,
            retention: Retention::DEFAULT,
        };
        let engine = Engine::start(store, config).await.unwrap();
        Self { engine, tenant, home }
    }

    fn new_webhook(&self) -> NewWebhook {
        NewWebhook {
            id: WebhookId::generate(),
            tenant: self.tenant.num,
            name: "Webhook".to_owned(),
            url: "http://127.0.0.1:9/".to_owned(),
            events: vec!["*".to_owned()],
            headers: Default::default(),
            public_headers: Vec::new(),
            policy: serde_json::from_value(serde_json::json!({ "retryPolicy": { "maxRetries": 0 } })).unwrap(),
            credentials: None,
            tls_digest: None,
            description: None,
            metadata: None,
            is_active: true,
            secret: SigningSecret::generate().reveal().into(),
            created_at: UnixMillis::now(),
            start_from: None,
        }
    }

    async fn webhook(&self) -> Webhook {
        self.engine.create_webhook(self.new_webhook(), None, &Author::engine()).await.unwrap()
    }

    /// Publishes to these webhooks, whatever the routes say.
    async fn publish_to(&self, webhooks: &[&Webhook]) -> Vec<DeliveryId> {
        let draft = Draft {
            tenant: self.tenant.num,
            kind: "message.sent".into(),
            occurred_at: None,
            data: RawValue::from_string("{}".to_owned()).unwrap(),
            caller: None,
            trail: None,
            targets: webhooks.iter().map(|webhook| webhook.num).collect(),
            is_ordered: false,
        };
        let published = self.engine.inner.journal.publish(vec![draft], None).await.unwrap().published;
        let [Published::Accepted(receipt)] = published.as_slice() else { panic!("{published:?}") };
        webhooks.iter().map(|webhook| DeliveryId { event: receipt.seq, webhook: webhook.num }).collect()
    }

    async fn status(&self, id: DeliveryId) -> Option<Status> {
        Some(self.engine.store().delivery(self.tenant.num, id).await.unwrap()?.state.status)
    }

    async fn becomes(&self, id: DeliveryId, status: Status) {
        let wait = async {
            while self.status(id).await != Some(status) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, wait).await;
        assert!(came.is_ok(), "{id:?} is {:?} and not {status:?}", self.status(id).await);
    }

    async fn stop(self) {
        let by = Instant::now() + PATIENCE;
        let drained = self.engine.drain(by).await;
        self.engine.close(drained).await;
        self.engine.store().close().await;
    }
}

#[tokio::test]
async fn a_row_that_is_made_after_its_webhook_was_deleted_is_cancelled() {
    let world = World::start().await;
    let webhook = world.webhook().await;
    let [id] = world.publish_to(&[&webhook]).await[..] else { panic!("one delivery") };
    world.becomes(id, Status::Failed).await;
    world.engine.delete_webhook(&webhook, &Author::engine()).await.unwrap();
    let late = DeliveryId { event: EventSeq(id.event.0 - 1), ..id };
    let seq = late.event.0;
    let columns = "tenant_num, kind, occurred_at, caller_id, matched, body";
    let copy = format!("SELECT {seq}, {columns} FROM event WHERE seq = {}", id.event.0);
    world.engine.store().tamper(&format!("INSERT INTO event (seq, {columns}) {copy}")).await;

    let next_at = UnixMillis::now().plus(Duration::from_secs(3600));
    world.engine.inner.journal.record(Record::Defer { id: late, next_at }).await.unwrap();

    world.becomes(late, Status::Cancelled).await;
    world.stop().await;
}

#[tokio::test]
async fn what_deleted_webhooks_and_tenants_were_owed_counts_no_more() {
    let world = World::start().await;
    let ledger = &world.engine.inner.context.ledger;
    let mut webhooks = Vec::new();
    for _ in 0..2 {
        let off = Webhook { is_active: false, ..world.webhook().await };
        webhooks.push(world.engine.update_webhook(&off, &Author::engine()).await.unwrap());
    }
    let ids = world.publish_to(&[&webhooks[0], &webhooks[1]]).await;
    for id in ids {
        world.becomes(id, Status::Pending).await;
    }
    assert_eq!((ledger.total_pending(), ledger.pending(webhooks[0].num)), (2, 1));
    world.engine.delete_webhook(&webhooks[0], &Author::engine()).await.unwrap();
    assert_eq!((ledger.total_pending(), ledger.pending(webhooks[0].num)), (1, 0));
    world.engine.delete_tenant(&world.tenant, &Author::engine()).await.unwrap();
    assert_eq!(ledger.backlogged(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_webhook_that_cannot_be_read_stalls_nobody_and_loses_nothing() {
    let world = World::start().await;
    let (damaged, sound) = (world.webhook().await, world.webhook().await);
    let num = damaged.num.0;
    world.engine.store().tamper(&format!("UPDATE webhook SET policy = '{{' WHERE num = {num}")).await;

    let [waiting, served] = world.publish_to(&[&damaged, &sound]).await[..] else { panic!("two deliveries") };

    world.becomes(served, Status::Failed).await;
    world.becomes(waiting, Status::Pending).await;
    let policy = "{\"retryPolicy\":{\"maxRetries\":0}}";
    world.engine.store().tamper(&format!("UPDATE webhook SET policy = '{policy}' WHERE num = {num}")).await;
    world.becomes(waiting, Status::Failed).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_changes_cross_the_endpoint_follows_the_last() {
    let world = Arc::new(World::start().await);
    let webhook = world.webhook().await;
    for round in 0..30 {
        let [id] = world.publish_to(&[&webhook]).await[..] else { panic!("one delivery") };
        let switches = (0..4).map(|turn| {
            let (world, id) = (world.clone(), webhook.id);
            async move {
                let current = world.engine.store().webhook(world.tenant.num, id).await.unwrap().unwrap();
                let is_active = (turn + round) % 2 == 0;
                // Of two changes that cross, the second is refused as stale.
                let _ = world.engine.update_webhook(&Webhook { is_active, ..current }, &Author::engine()).await;
            }
        });
        let switches: Vec<_> = switches.map(tokio::spawn).collect();
        for switch in switches {
            switch.await.unwrap();
        }
        let last = world.engine.store().webhook(world.tenant.num, webhook.id).await.unwrap().unwrap();
        if last.is_active {
            world.becomes(id, Status::Failed).await;
        }
    }
    Arc::into_inner(world).unwrap().stop().await;
}

async fn a_feed_that_is_behind_catches_up_while_events_are_published_without_end(home: Home) {
    let world = World::start_in(home).await;
    let webhook = world.webhook().await;
    let feed = &world.engine.inner.feed;
    let caught_up = async {
        let lacks_nothing = || feed.status().behind.is_none() && !feed.status().has_gap;
        for _ in 0..3 {
            while !lacks_nothing() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            feed.fall_behind();
            world.publish_to(&[&webhook]).await;
        }
    };
    let publish_without_end = async || {
        loop {
            world.publish_to(&[&webhook]).await;
        }
    };
    let publishers = futures_util::future::join_all((0..4).map(|_| publish_without_end()));
    tokio::select! {
        caught_up = tokio::time::timeout(PATIENCE, caught_up) => assert!(caught_up.is_ok(), "{:?}", feed.status()),
        _ = publishers => unreachable!("they never end"),
    }
    world.stop().await;
}

#[tokio::test]
async fn one_process_alone_catches_up_while_events_are_published_without_end() {
    let home = Home::Directory(tempfile::tempdir().unwrap());
    a_feed_that_is_behind_catches_up_while_events_are_published_without_end(home).await;
}

#[tokio::test]
async fn a_node_catches_up_while_events_are_published_without_end() {
    let home = Home::Database(Database::new());
    a_feed_that_is_behind_catches_up_while_events_are_published_without_end(home).await;
}
