//! Webhooks that are created many at a time.

use super::*;

on_both!(webhooks_created_at_once_are_served_each_with_its_own_secret);
async fn webhooks_created_at_once_are_served_each_with_its_own_secret(on: On) {
    let world = World::new(on).await;
    let new = |index: usize| NewWebhook { secret: format!("whsec_{index}").into(), ..world.new_webhook() };
    // One more than a statement takes.
    let all: Vec<NewWebhook> = (0..1001).map(new).collect();
    world.store.create_webhooks(&all).await.unwrap();
    let routes = world.store.routes(WebhookNum(0)).await.unwrap();
    assert_eq!(routes.len(), all.len());
    let nums: Vec<WebhookNum> = routes.iter().map(|route| route.num).collect();
    let configs = world.store.endpoint_configs(&nums, UnixMillis::now()).await.unwrap();
    for new in all {
        let webhook = world.store.webhook(world.tenant.num, new.id).await.unwrap().unwrap();
        let config = configs[&webhook.num].as_ref().unwrap();
        assert_eq!(shown(&config.secrets), shown(&[new.secret]));
        assert_eq!(config.webhook, webhook);
    }
}
