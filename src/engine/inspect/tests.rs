//! How deliveries without a row are shown.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::*;
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::domain::retention::Retention;
use crate::engine::EngineConfig;
use crate::engine::tests::store_with_tenant;
use crate::journal::{Draft, Published};
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::leases::ShardSet;
use crate::store::webhooks::{NewWebhook, Webhook};

fn webhook(tenant: TenantNum) -> NewWebhook {
    NewWebhook {
        id: WebhookId::generate(),
        tenant,
        name: "Webhook".to_owned(),
        url: "https://example.com/".to_owned(),
        events: Vec::new(),
        headers: [].into(),
        public_headers: Vec::new(),
        policy: Policy::default(),
        credentials: None,
        tls_digest: None,
        description: None,
        metadata: None,
        is_active: true,
        secret: "whsec_x".into(),
        created_at: UnixMillis::now(),
        start_from: None,
    }
}

/// Publishes an event that is not dispatched, so that its fan-out stays open.
async fn publish(store: &Store, tenant: TenantNum, targets: &[Webhook]) -> StoredEvent {
    let shard_set = ShardSet::everything();
    let journal = store.start_journal(&shard_set).await.0.journal;
    let draft = Draft {
        tenant,
        kind: "a".into(),
        occurred_at: None,
        data: RawValue::from_string("1".to_owned()).unwrap(),
        caller: None,
        trail: None,
        targets: targets.iter().map(|webhook| webhook.num).collect(),
        is_ordered: false,
    };
    let published = journal.publish(vec![draft], None).await.unwrap().published;
    let [Published::Accepted(receipt)] = published[..] else { panic!("{published:?}") };
    store.event(tenant, receipt.seq).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_page_of_what_is_owed_is_full_although_deleted_webhooks_come_first() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tenant) = store_with_tenant(&directory).await;
    let config = EngineConfig {
        allow_http: false,
        egress_allow: Vec::new(),
        dns_servers: Vec::new(),
        listeners: Vec::new(),
        arbiters: 1,
        max_in_flight: 1,
        keeps_connections: true,
        payload_memory: usize::MAX,
        address: None,
        retention: Retention::DEFAULT,
    };
    let engine = Engine::start(store.clone(), config).await.unwrap();
    let drained = engine.drain(Instant::now() + Duration::from_secs(5)).await;
    engine.close(drained).await;
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        webhooks.push(store.create_webhook(webhook(tenant.num), None, &Author::engine()).await.unwrap());
    }
    let event = publish(&store, tenant.num, &webhooks).await;
    for doomed in &webhooks[..3] {
        store.delete_webhook(doomed, UnixMillis::now(), &Author::engine()).await.unwrap();
    }

    let page = engine.deliveries_of_event(&event, WebhookNum(0), 1).await.unwrap();

    let owed: Vec<WebhookNum> = page.iter().map(|delivery| delivery.id.webhook).collect();
    assert_eq!(owed, [webhooks[3].num, webhooks[4].num], "the page and one more, which says that there is a next one");
}
