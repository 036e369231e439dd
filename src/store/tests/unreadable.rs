//! Rows that were damaged, or sealed under another key: whoever can be served is.

use super::*;

#[tokio::test]
async fn a_webhook_that_cannot_be_read_keeps_no_other_from_being_served() {
    let world = World::new().await;
    let damaged = [world.webhook().await.num, world.webhook().await.num, world.webhook().await.num];
    let (sound, deleted) = (world.webhook().await, world.webhook().await);
    let [policy, headers, secret] = damaged.map(|num| num.0);
    world.tamper(&format!("UPDATE webhook SET policy = '{{' WHERE num = {policy}")).await;
    world.tamper(&format!("UPDATE webhook SET headers = x'01' WHERE num = {headers}")).await;
    world.tamper(&format!("UPDATE webhook_secret SET sealed = x'01ffffffff' WHERE webhook_num = {secret}")).await;
    let now = UnixMillis::now();
    world.store.delete_webhook(&deleted, now).await.unwrap();

    let nums = [damaged.as_slice(), &[sound.num, deleted.num]].concat();
    let servings = world.store.servings(&nums, now).await.unwrap();

    assert_eq!(servings[&sound.num].as_ref().unwrap().webhook, sound);
    for num in damaged {
        assert!(matches!(servings[&num], Err(StoreError::Unreadable { .. })), "{num:?}");
    }
    assert!(!servings.contains_key(&deleted.num), "a deleted one is no trouble");
}

#[tokio::test]
async fn unreadable_subscriptions_match_nothing_and_stop_no_start() {
    let world = World::new().await;
    let (damaged, sound) = (world.webhook().await, world.webhook().await);
    world.tamper(&format!("UPDATE webhook SET events = '[' WHERE num = {}", damaged.num.0)).await;

    let routes = world.store.routes(WebhookNum(0)).await.unwrap();

    let subscribed: Vec<_> = routes.iter().map(|route| (route.num, route.events.clone())).collect();
    assert_eq!(subscribed, [(damaged.num, vec![]), (sound.num, sound.events)]);
}
