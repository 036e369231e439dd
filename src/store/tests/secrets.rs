//! Signing secrets: how long they overlap, and how they are kept.

use super::audit::Author;
use super::webhooks::secrets::MOST_SECRETS;
use super::*;
use crate::domain::health::Health;

on_both!(secrets_overlap_until_their_grace_ends_and_are_sealed);
async fn secrets_overlap_until_their_grace_ends_and_are_sealed(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let now = UnixMillis::now();
    let until = UnixMillis(now.0 + 60_000);
    world
        .store
        .rotate_secret(&webhook, Rotation::new(&"whsec_second".into(), until), now, &Author::engine())
        .await
        .unwrap();
    let secrets = async |at| {
        world.store.endpoint_configs(&[webhook.num], at).await.unwrap().remove(&webhook.num).unwrap().unwrap()
    };
    let during = secrets(now).await;
    assert_eq!(shown(&during.secrets), ["whsec_second", "whsec_first"]);
    assert_eq!(during.secrets_change_at, Some(until));
    assert_eq!(shown(&secrets(until).await.secrets), ["whsec_second"]);
    assert_eq!(during.webhook.headers["X-Team"], "billing");
    let stored = world.stored_bytes().await;
    for secret in ["whsec_first", "whsec_second", "billing"] {
        assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is readable");
    }
}

on_both!(however_often_a_secret_is_rotated_only_the_newest_sign);
async fn however_often_a_secret_is_rotated_only_the_newest_sign(on: On) {
    let world = World::new(on).await;
    let mut webhook = world.webhook().await;
    let now = UnixMillis::now();
    let until = UnixMillis(now.0 + 60_000);
    let names: Vec<String> = (0..2 * MOST_SECRETS).map(|number| format!("whsec_{number}")).collect();
    for name in &names {
        (webhook, _) = world
            .store
            .rotate_secret(&webhook, Rotation::new(&name.as_str().into(), until), now, &Author::engine())
            .await
            .unwrap();
    }

    let config =
        world.store.endpoint_configs(&[webhook.num], now).await.unwrap().remove(&webhook.num).unwrap().unwrap();

    let newest: Vec<String> = names.into_iter().rev().take(5).collect();
    assert_eq!(shown(&config.secrets), newest);
}

on_both!(credentials_are_sealed_and_come_back_and_what_was_learnt_goes_with_them);
async fn credentials_are_sealed_and_come_back_and_what_was_learnt_goes_with_them(on: On) {
    let world = World::new(on).await;
    let of = |token: &str| Some(bearer(token));
    let new = NewWebhook { credentials: of("first-token"), ..world.new_webhook() };
    let by = Author::engine();
    let mut webhook = world.store.create_webhook(new, None, &by).await.unwrap();
    assert_eq!(webhook.credentials, of("first-token"));
    assert!(!format!("{webhook:?}").contains("first-token"));
    let health = Box::new(Health { consecutive_failures: 3, ..Health::default() });
    world.record(Record::Health { webhook: webhook.num, health, tells: None }).await;
    let config = async |num| {
        world.store.endpoint_configs(&[num], UnixMillis::now()).await.unwrap().remove(&num).unwrap().unwrap()
    };

    webhook.name = "renamed".to_owned();
    webhook = world.store.update_webhook(&webhook, UnixMillis::now(), &by).await.unwrap();
    assert_eq!(config(webhook.num).await.health.consecutive_failures, 3, "the same credentials");
    webhook.credentials = of("second-token");
    webhook = world.store.update_webhook(&webhook, UnixMillis::now(), &by).await.unwrap();

    let served = config(webhook.num).await;
    assert_eq!((served.webhook.credentials, served.health), (of("second-token"), Health::default()));
    let stored = world.stored_bytes().await;
    for secret in ["first-token", "second-token", "bearer"] {
        assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is readable");
    }
}
