//! Keys that many processes use, and the audit of changes.

use super::audit::{Action, AuditFilter, Entry, Who};
use super::keys::NewApiKey;
use super::*;
use crate::domain::id::KeyId;
use crate::domain::policy::Policy;

fn key(tenant: Option<&super::tenants::Tenant>) -> NewApiKey {
    NewApiKey {
        id: KeyId::generate(),
        tenant: tenant.map(|tenant| tenant.num),
        name: "key".to_owned(),
        scopes: vec!["read".to_owned()],
        digest: vec![7; 32],
        created_at: UnixMillis::now(),
        expires_at: None,
    }
}

on_both!(of_many_that_start_at_once_one_makes_the_first_admin_key);
async fn of_many_that_start_at_once_one_makes_the_first_admin_key(on: On) {
    let home = Home::new(on);
    let nodes = if on == On::Postgres { 6 } else { 1 };
    let stores = futures_util::future::join_all((0..nodes).map(|_| home.open())).await;
    let made = stores.iter().map(|store| store.create_first_admin_key(key(None)));
    let made = futures_util::future::join_all(made).await;
    assert_eq!(made.into_iter().filter(|made| made.as_ref().unwrap().is_some()).count(), 1);
    assert!(stores[0].create_first_admin_key(key(None)).await.unwrap().is_none());
    for store in stores {
        store.close().await;
    }
}

/// SQLite only: PostgreSQL enforces the types of its columns.
#[tokio::test]
async fn a_key_that_cannot_be_read_keeps_no_other_from_being_found() {
    let world = World::new(On::Sqlite).await;
    let other = NewApiKey { digest: vec![8; 32], ..key(Some(&world.tenant)) };
    let sound = world.store.create_key(key(Some(&world.tenant)), None, &Author::engine()).await.unwrap();
    let damaged = world.store.create_key(other, None, &Author::engine()).await.unwrap();
    world.tamper(&format!("UPDATE api_key SET created_at = 'x' WHERE num = {}", damaged.num)).await;

    let found = world.store.keys_by(&[(damaged.id, [8; 32]), (sound.id, [7; 32])]).await.unwrap();

    assert_eq!(found, [None, Some(sound.clone())]);
    let page = world.store.keys(world.tenant.num, None, 1).await.unwrap();
    assert_eq!((page.items.len(), page.next), (0, Some(damaged.num)), "the list goes on after it");
}

async fn entries(world: &World, filter: AuditFilter) -> Vec<Entry> {
    world.store.audit(&filter, None, 100).await.unwrap().items
}

on_both!(every_change_is_entered_with_its_author_in_the_order_of_changes);
async fn every_change_is_entered_with_its_author_in_the_order_of_changes(on: On) {
    let world = World::new(on).await;
    let (store, tenant) = (&world.store, &world.tenant);
    let now = UnixMillis::now();
    let by_key = KeyId::generate();
    let peer = Some("192.0.2.7".parse().unwrap());
    let by = Author { who: Who::Key(by_key), peer, request: Some("r-1".to_owned()), reason: None };
    let created = store.create_webhook(world.new_webhook(), None, &by).await.unwrap();
    let policy = Policy { timeout_ms: 7000, ordered: true, ..Policy::default() };
    let renamed = Webhook { name: "Other".to_owned(), policy, ..created.clone() };
    let changed = store.update_webhook(&renamed, now, &by).await.unwrap();
    assert!(store.pause_webhook(&changed, None, now, &by).await.unwrap());
    assert!(!store.pause_webhook(&changed, None, now, &by).await.unwrap(), "it is paused");
    assert!(store.resume_webhook(&changed, None, now, &by).await.unwrap());
    assert!(!store.resume_webhook(&changed, None, now, &by).await.unwrap(), "it is not paused");
    let (rotated, _) = store.rotate_secret(&changed, Rotation::new(&"whsec_new".into(), now), now, &by).await.unwrap();
    assert!(matches!(store.update_webhook(&renamed, now, &by).await, Err(StoreError::Stale)));
    let off = store.update_webhook(&Webhook { is_active: false, ..rotated }, now, &by).await.unwrap();
    store.delete_webhook(&off, now, &by).await.unwrap();
    let made = store.create_key(key(Some(tenant)), None, &by).await.unwrap();
    store.delete_key(tenant.num, made.id, &by).await.unwrap();
    store.create_event_type(tenant.num, "a.b".to_owned(), None, now, None, &by).await.unwrap();
    let declared = store.event_type(tenant.num, "a.b").await.unwrap().unwrap();
    let described = super::event_types::EventType { description: Some("x".to_owned()), ..declared };
    let described = store.update_event_type(&described, now, &by).await.unwrap();
    store.delete_event_type(&described, &by).await.unwrap();
    let strict = super::tenants::Tenant { allow_undeclared_types: false, ..tenant.clone() };
    let strict = store.update_tenant(&strict, now, &by).await.unwrap();
    store.delete_tenant(&strict, now, &by).await.unwrap();

    let all = entries(&world, AuditFilter { tenant: Some(tenant.num), ..AuditFilter::default() }).await;
    let told: Vec<(&str, String)> =
        all.iter().rev().skip(1).map(|entry| (entry.action.as_str(), entry.fields.join(","))).collect();
    let expected = [
        ("webhook.create", ""),
        ("webhook.update", "name,ordered,timeoutMs"),
        ("webhook.pause", ""),
        ("webhook.resume", ""),
        ("webhook.rotate_secret", ""),
        ("webhook.update", "isActive"),
        ("webhook.delete", ""),
        ("key.create", ""),
        ("key.delete", ""),
        ("event_type.create", ""),
        ("event_type.update", "description"),
        ("event_type.delete", ""),
        ("tenant.update", "allowUndeclaredTypes"),
        ("tenant.delete", ""),
    ];
    assert_eq!(told, expected.map(|(action, fields)| (action, fields.to_owned())));
    let renaming = &all[all.len() - 3];
    assert_eq!((&renaming.author, &renaming.subject), (&by_key.to_string(), &created.id.to_string()));
    assert_eq!((renaming.peer.as_deref(), renaming.request.as_deref()), (Some("192.0.2.7"), Some("r-1")));
    assert!(all.iter().all(|entry| entry.tenant == Some(tenant.id)), "also of a deleted tenant");
    let by_engine: Vec<&Entry> = all.iter().filter(|entry| entry.author == "engine").collect();
    assert_eq!(by_engine.len(), 1, "the tenant was created");
}

on_both!(a_change_of_a_named_version_is_refused_when_another_came_first);
async fn a_change_of_a_named_version_is_refused_when_another_came_first(on: On) {
    let world = World::new(on).await;
    let (store, now, by) = (&world.store, UnixMillis::now(), Author::engine());
    let created = world.webhook().await;
    let (first, second) = (Some(created.version), Some(created.version + 1));
    let secret = "whsec_new".into();
    let rotate =
        async |only| store.rotate_secret(&created, Rotation::new(&secret, now).of_version(only), now, &by).await;
    assert!(store.pause_webhook(&created, first, now, &by).await.unwrap());

    assert!(matches!(store.pause_webhook(&created, first, now, &by).await, Err(StoreError::Stale)));
    assert!(matches!(store.resume_webhook(&created, first, now, &by).await, Err(StoreError::Stale)));
    assert!(matches!(rotate(first).await, Err(StoreError::Stale)));
    assert!(!store.pause_webhook(&created, second, now, &by).await.unwrap(), "it is paused");
    assert_eq!(rotate(second).await.unwrap().0.version, created.version + 2);
    let left = entries(&world, AuditFilter { subject: Some(created.id.to_string()), ..AuditFilter::default() }).await;
    let left: Vec<&str> = left.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(left, ["webhook.rotate_secret", "webhook.pause", "webhook.create"]);
}

on_both!(the_audit_is_read_by_tenant_action_subject_and_time_page_by_page);
async fn the_audit_is_read_by_tenant_action_subject_and_time_page_by_page(on: On) {
    let world = World::new(on).await;
    let by = Author { who: Who::Admin, ..Author::engine() };
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        webhooks.push(world.store.create_webhook(world.new_webhook(), None, &by).await.unwrap());
    }
    world.store.create_first_admin_key(key(None)).await.unwrap();
    let ours = AuditFilter { tenant: Some(world.tenant.num), ..AuditFilter::default() };
    let of = async |filter: AuditFilter| entries(&world, filter).await.len();
    assert_eq!(of(AuditFilter::default()).await, 7);
    assert_eq!(of(ours.clone()).await, 6);
    assert_eq!(of(AuditFilter { tenant: Some(crate::domain::id::TenantNum(999)), ..ours.clone() }).await, 0);
    assert_eq!(of(AuditFilter { action: Some(Action::CreateWebhook), ..ours.clone() }).await, 5);
    assert_eq!(of(AuditFilter { subject: Some(webhooks[2].id.to_string()), ..ours.clone() }).await, 1);
    let later = UnixMillis(UnixMillis::now().0 + 1000);
    assert_eq!(of(AuditFilter { since: Some(later), ..ours.clone() }).await, 0);
    assert_eq!(of(AuditFilter { until: Some(later), ..ours.clone() }).await, 6);
    let mut subjects = Vec::new();
    let mut before = None;
    loop {
        let page = world.store.audit(&ours, before, 2).await.unwrap();
        subjects.extend(page.items.into_iter().map(|entry| entry.subject));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let newest_first: Vec<String> = webhooks.iter().rev().map(|webhook| webhook.id.to_string()).collect();
    assert_eq!((subjects.len(), &subjects[..5]), (6, &newest_first[..]));
}

on_both!(what_is_rolled_back_is_not_entered);
async fn what_is_rolled_back_is_not_entered(on: On) {
    let world = World::new(on).await;
    let (tenant, now, by) = (world.tenant.num, UnixMillis::now(), Author::engine());
    let again = world.store.create_event_type(tenant, "message.sent".to_owned(), None, now, None, &by).await;
    assert!(matches!(again, Err(StoreError::Exists)));
    let filter = AuditFilter { action: Some(Action::CreateEventType), ..AuditFilter::default() };
    assert!(entries(&world, filter).await.is_empty());
}

#[tokio::test]
async fn a_tenant_that_is_being_deleted_elsewhere_gets_nothing_more() {
    let world = World::new(On::Postgres).await;
    let (here, elsewhere) = (&world.store, world.home.open_for(Duration::from_secs(600)).await);
    let (tenant, by, now) = (&world.tenant, Author::engine(), UnixMillis::now());

    // A deletion that comes while a webhook is created waits for the creation, and then deletes the webhook.
    let creating = here.inner.writer.begin().await.unwrap();
    super::tenant_lock::keep(&creating, tenant.num).await.unwrap();
    let mut deleting = std::pin::pin!(elsewhere.delete_tenant(tenant, now, &by));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut deleting).await.is_err());
    creating.commit().await.unwrap();
    deleting.await.unwrap();

    let refused = here.create_webhook(world.new_webhook(), None, &by).await;
    assert!(matches!(refused, Err(StoreError::Stale)), "{refused:?}");
    let list = WebhookList { tenant: Some(tenant.num), order: WebhookOrder::Created };
    assert!(here.webhook_entries(&list, None, 10).await.unwrap().is_empty());
}
