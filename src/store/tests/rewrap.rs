//! Rewraps sealed values from one master key to the next, while other nodes write.

use super::idempotency::{Once, Seen};
use super::*;
use crate::domain::id::WebhookId;
use crate::store::rewrap::Sealed;
use crate::store::webhooks::Origin;

const OLD: &str = "b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZCE=";
const NEW: &str = "bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=";

/// Opens the same database with these keys, the master key first.
async fn with_keys(home: &Home, keys: &[&str]) -> Result<Store, OpenError> {
    let mut keys = keys.iter().map(|key| MasterKey::parse(key).unwrap());
    let options = Options { master_key: keys.next(), previous_keys: keys.collect(), ..home.options() };
    home.opened(options).await
}

async fn old_ones(store: &Store) -> u64 {
    store.sealed().await.unwrap().iter().filter(|sealed| sealed.is_old).map(|sealed| sealed.count).sum()
}

fn is_all_under(sealed: &[Sealed], key: &str) -> bool {
    sealed.iter().all(|sealed| sealed.key_id == key && sealed.layout == 3 && sealed.opens && !sealed.is_old)
}

on_both!(a_new_master_key_takes_over_everything_and_the_old_one_can_go);
async fn a_new_master_key_takes_over_everything_and_the_old_one_can_go(on: On) {
    let home = Home::new(on);
    let world = World::of(with_keys(&home, &[OLD]).await.unwrap(), home).await;
    let mut webhooks = Vec::new();
    for number in 0..140 {
        let secret = format!("whsec_{number}").into();
        let new = NewWebhook { id: WebhookId::generate(), secret, ..world.new_webhook() };
        webhooks.push(world.store.create_webhook(new, None, &Author::engine()).await.unwrap());
    }
    let key = OnceKey { tenant: Some(world.tenant.num), key: "k".to_owned(), fingerprint: [1; 32] };
    let once = Once { key: key.clone(), status: 201, answer: b"answer".to_vec() };
    world.store.create_webhook(world.new_webhook(), Some(once), &Author::engine()).await.unwrap();
    let home = world.stop().await;

    let store = with_keys(&home, &[NEW, OLD]).await.unwrap();
    assert_eq!(old_ones(&store).await, 283);
    assert_eq!(store.rewrap(&Author::command()).await.unwrap(), 283);
    let sealed = store.sealed().await.unwrap();
    assert!(is_all_under(&sealed, &store.master_key_ids()[0]), "{sealed:?}");
    assert_eq!(store.rewrap(&Author::command()).await.unwrap(), 0, "once is enough");
    store.close().await;
    drop(store);

    let refused = with_keys(&home, &[OLD]).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("sealed under another master key"), "{refused}");
    let store = with_keys(&home, &[NEW]).await.unwrap();
    let nums: Vec<WebhookNum> = webhooks.iter().map(|webhook| webhook.num).collect();
    let configs = store.endpoint_configs(&nums, UnixMillis::now()).await.unwrap();
    for (number, num) in nums.iter().enumerate() {
        let config = configs[num].as_ref().unwrap();
        assert_eq!(shown(&config.secrets), [format!("whsec_{number}")]);
        assert_eq!(config.webhook.headers["X-Team"], "billing");
    }
    assert!(matches!(store.seen(&key).await.unwrap(), Seen::Before { answer, .. } if answer == b"answer"));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_changed_meanwhile_is_lost() {
    let home = Home::new(On::Postgres);
    let world = World::of(with_keys(&home, &[OLD]).await.unwrap(), home).await;
    let mut webhooks = Vec::new();
    for _ in 0..40 {
        webhooks.push(world.webhook().await);
    }
    // One node has the new master key; the other only accepts it.
    let nodes =
        [with_keys(&world.home, &[NEW, OLD]).await.unwrap(), with_keys(&world.home, &[OLD, NEW]).await.unwrap()];
    let rewrap = async {
        for _ in 0..20 {
            nodes[0].rewrap(&Author::command()).await.unwrap();
        }
    };
    let change = async |node: &Store, some: &[Webhook]| {
        for round in 0..8 {
            for webhook in some {
                let now = UnixMillis::now();
                let until = UnixMillis(now.0 + 60_000);
                let secret = format!("whsec_{round}").into();
                let found = node.webhook(webhook.tenant, webhook.id).await.unwrap().unwrap();
                let (rotated, _) =
                    node.rotate_secret(&found, Rotation::new(&secret, until), now, &Author::engine()).await.unwrap();
                let headers = [("X-Round".to_owned(), round.to_string())].into();
                node.update_webhook(&Webhook { headers, ..rotated }, now, &Author::engine()).await.unwrap();
            }
        }
    };
    tokio::join!(rewrap, change(&nodes[0], &webhooks[..20]), change(&nodes[1], &webhooks[20..]));
    nodes[0].rewrap(&Author::command()).await.unwrap();
    assert_eq!(old_ones(&nodes[0]).await, 0);
    let nums: Vec<WebhookNum> = webhooks.iter().map(|webhook| webhook.num).collect();
    for config in nodes[0].endpoint_configs(&nums, UnixMillis::now()).await.unwrap().into_values() {
        let config = config.unwrap();
        assert_eq!(shown(&config.secrets), ["whsec_7", "whsec_6", "whsec_5", "whsec_4", "whsec_3"]);
        assert_eq!(config.webhook.headers["X-Round"], "7");
    }
}

on_both!(a_sealed_value_is_of_no_use_to_another_tenant);
async fn a_sealed_value_is_of_no_use_to_another_tenant(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let other = world.another_tenant().await;
    world.tamper(&format!("UPDATE webhook SET tenant_num = {} WHERE num = {}", other.num.0, webhook.num.0)).await;
    let stolen = world.store.webhook(other.num, webhook.id).await;
    assert!(matches!(stolen, Err(StoreError::Unreadable { .. })), "{stolen:?}");
}

on_both!(values_of_an_upgraded_database_open_and_are_bound_to_their_tenants_in_time);
async fn values_of_an_upgraded_database_open_and_are_bound_to_their_tenants_in_time(on: On) {
    let world = World::new(on).await;
    let home = world.stop().await;
    let store = home.open().await;
    store.tamper("UPDATE engine_state SET value = 1 WHERE name = 'seal_layout'").await;
    store.close().await;
    drop(store);
    let world = World::of(home.open().await, home).await;
    let webhook = world.webhook().await;
    let older = world.store.sealed().await.unwrap();
    assert!(older.iter().all(|sealed| sealed.layout == 1 && !sealed.is_old), "an older process can read it: {older:?}");
    assert_eq!(world.store.rewrap(&Author::command()).await.unwrap(), 2);
    assert!(is_all_under(&world.store.sealed().await.unwrap(), &world.store.master_key_ids()[0]));
    assert_eq!(world.store.webhook(webhook.tenant, webhook.id).await.unwrap().unwrap(), webhook);
    let home = world.stop().await;
    let store = home.open().await;
    assert_eq!(old_ones(&store).await, 0, "it is known at the next start");
    store.close().await;
}

on_both!(what_is_sealed_without_an_origin_is_bound_to_the_one_that_the_row_had);
async fn what_is_sealed_without_an_origin_is_bound_to_the_one_that_the_row_had(on: On) {
    let world = World::new(on).await;
    let home = world.stop().await;
    let store = home.open().await;
    store.tamper("UPDATE engine_state SET value = 2 WHERE name = 'seal_layout'").await;
    store.close().await;
    drop(store);
    let world = World::of(home.open().await, home).await;
    let credentials = Some(bearer("t"));
    let new = NewWebhook { credentials, ..world.new_webhook() };
    let webhook = world.store.create_webhook(new, None, &Author::engine()).await.unwrap();
    let by_an_older_version = world.webhook().await;
    world.tamper("UPDATE webhook SET url = 'https://thief.example/'").await;
    let nobody_said = format!("UPDATE webhook SET bound_url = NULL WHERE num = {}", by_an_older_version.num.0);
    world.tamper(&nobody_said).await;
    let read = async |webhook: &Webhook| world.store.webhook(webhook.tenant, webhook.id).await.unwrap().unwrap();
    assert!(world.store.sealed().await.unwrap().iter().all(|sealed| sealed.layout == 2));
    for layout in [2, 3] {
        assert_eq!(read(&webhook).await.credentials_origin, Origin::of("https://example.com/"), "layout {layout}");
        assert_eq!(read(&by_an_older_version).await.credentials_origin, Origin::of("https://thief.example/"));
        world.store.rewrap(&Author::command()).await.unwrap();
    }

    world.tamper("UPDATE webhook SET bound_url = 'https://thief.example/'").await;

    let sealed = read(&webhook).await;
    assert_eq!(sealed.credentials_origin, Origin::of("https://example.com/"), "it is in what is sealed");
    let renamed = Webhook { name: "Other".to_owned(), ..sealed };
    let renamed = world.store.update_webhook(&renamed, UnixMillis::now(), &Author::engine()).await.unwrap();
    assert_eq!(renamed.credentials_origin, Origin::of("https://example.com/"), "no other change moves it");
}

on_both!(values_of_different_origins_are_for_nobody);
async fn values_of_different_origins_are_for_nobody(on: On) {
    let world = World::new(on).await;
    let of = |token: &str| Some(bearer(token));
    let new = NewWebhook { credentials: of("first"), ..world.new_webhook() };
    let webhook = world.store.create_webhook(new, None, &Author::engine()).await.unwrap();
    world.tamper("CREATE TABLE earlier AS SELECT headers FROM webhook").await;
    let url = "https://example.org/".to_owned();
    let moved = Webhook { credentials_origin: Origin::of(&url), url, ..webhook };
    let moved = world.store.update_webhook(&moved, UnixMillis::now(), &Author::engine()).await.unwrap();
    assert_eq!(moved.credentials_origin, Origin::of("https://example.org/"));

    world.tamper("UPDATE webhook SET headers = (SELECT headers FROM earlier)").await;

    let mixed = world.store.webhook(moved.tenant, moved.id).await.unwrap().unwrap();
    for url in ["https://example.com/", "https://example.org/"] {
        assert_ne!(mixed.credentials_origin, Origin::of(url));
    }
}
