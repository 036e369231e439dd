//! The signing secrets of a webhook: which of them sign, until when, and how to end one early.

use serde_json::{Value, json};

use crate::support::databases::on_both;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::rows;
use crate::support::verify::{self, Format};
use crate::support::world::{World, text};

/// Indices of the hook's secrets that signed its newest request; 0 is the newest secret.
async fn signers(world: &World, hook: &Hook) -> Vec<usize> {
    let before = hook.requests().len();
    world.publish("message.sent").await;
    let request = hook.saw(before + 1).await.pop().expect("a request");
    verify::plain_signers(request.header("x-webhook-signature"), &request.body, &hook.secrets(), Format::Hex).unwrap()
}

async fn listed(world: &World, hook: &Hook) -> Vec<Value> {
    world.client().get(&hook.path("")).await.expect(200)["secrets"].as_array().expect("secrets").clone()
}

on_both!(rotating_without_grace_ends_every_older_secret);
async fn rotating_without_grace_ends_every_older_secret() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    hook.rotate_secret(world.client(), 86_400).await;
    hook.rotate_secret(world.client(), 86_400).await;
    assert_eq!(signers(&world, &hook).await, [0, 1, 2]);

    hook.rotate_secret(world.client(), 0).await;

    assert_eq!(signers(&world, &hook).await, [0]);
    assert_eq!(listed(&world, &hook).await.len(), 1);
}

on_both!(without_a_secret_nothing_is_sent_until_it_is_rotated);
async fn without_a_secret_nothing_is_sent_until_it_is_rotated() {
    let (mut world, hook) = World::with_webhook(Receiver::ok()).await;
    world.stop().await;
    rows::tamper(&world, "DELETE FROM webhook_secret");
    world.restart().await;

    let tested = world.client().post(&hook.path("/test"), &json!({})).await.expect(200);

    assert_eq!(tested["attempt"]["outcome"], "blocked", "{tested}");
    assert!(text(&tested["attempt"], "error").contains("no signing secret"), "{tested}");
    assert!(hook.requests().is_empty(), "sent without a signature");
    hook.rotate_secret(world.client(), 0).await;
    let tested = world.client().post(&hook.path("/test"), &json!({})).await.expect(200);
    assert_eq!(tested["attempt"]["outcome"], "success", "{tested}");
}

on_both!(no_older_secret_signs_for_longer_than_the_last_rotation_said);
async fn no_older_secret_signs_for_longer_than_the_last_rotation_said() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    hook.rotate_secret(world.client(), 86_400).await;
    hook.rotate_secret(world.client(), 60).await;

    let secrets = listed(&world, &hook).await;

    assert_eq!(secrets.len(), 3);
    assert_eq!((&secrets[0]["signsUntil"], &secrets[1]["signsUntil"]), (&Value::Null, &secrets[2]["signsUntil"]));
    hook.rotate_secret(world.client(), 86_400).await;
    let secrets = listed(&world, &hook).await;
    assert!(
        text(&secrets[1], "signsUntil") > text(&secrets[2], "signsUntil"),
        "an older secret signs longer than a newer one: {secrets:?}"
    );
}

on_both!(a_webhook_says_which_secrets_sign_and_one_can_be_ended);
async fn a_webhook_says_which_secrets_sign_and_one_can_be_ended() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let first = hook.body["secrets"][0].clone();
    assert_eq!(listed(&world, &hook).await, std::slice::from_ref(&first), "the only secret is the first one");
    assert_eq!((&first["createdAt"], &first["signsUntil"]), (&hook.body["createdAt"], &Value::Null));
    hook.rotate_secret(world.client(), 86_400).await;
    hook.rotate_secret(world.client(), 86_400).await;
    let secrets = listed(&world, &hook).await;
    assert_eq!(world.client().walk("/webhooks").await[0]["secrets"], json!(secrets));
    let shown = json!(secrets).to_string();
    assert!(hook.secrets().iter().all(|secret| !shown.contains(&secret[6..12])), "{shown}");
    let id_of = |place: usize| text(&secrets[place], "id");
    assert_eq!(id_of(2), text(&first, "id"), "newest first, and each secret keeps its id");
    let path = |id: &str| hook.path(&format!("/secrets/{id}"));

    assert_eq!(world.client().delete(&path(&id_of(0))).await.problem(409).code(), "secret_in_use");
    let stale = world.client().call(reqwest::Method::DELETE, &path(&id_of(2))).header("If-Match", "\"v1\"");
    crate::support::client::send(stale).await.problem(412);
    assert_eq!(world.client().delete(&path(&id_of(2))).await.status, 204);

    assert_eq!(signers(&world, &hook).await, [0, 1]);
    assert_eq!(listed(&world, &hook).await, secrets[..2]);
    world.client().delete(&path(&id_of(2))).await.problem(404);
    world.client().delete(&path(&hook.id)).await.problem(400);
    let other = world.another_tenant().await;
    other.client.delete(&path(&id_of(1))).await.problem(404);
    world.caller(&["read", "publish", "operate"]).await.delete(&path(&id_of(1))).await.problem(403);
    let audit = world.client().walk("/audit?action=webhook.end_secret").await;
    assert_eq!((audit.len(), &audit[0]["subject"]), (1, &json!(hook.id)));
}

on_both!(secrets_that_are_rotated_at_once_follow_each_other);
async fn secrets_that_are_rotated_at_once_follow_each_other() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let rotate = async || world.client().post(&hook.path("/secret/rotate"), &json!({})).await.succeeded();
    // No event is published here, because the hook cannot know which secret is the current one.
    futures_util::future::join_all((0..4).map(|_| rotate())).await;

    let secrets = listed(&world, &hook).await;

    let current = secrets.iter().filter(|secret| secret["signsUntil"].is_null()).count();
    assert_eq!((secrets.len(), current), (5, 1), "{secrets:?}");
    let ids: std::collections::BTreeSet<String> = secrets.iter().map(|secret| text(secret, "id")).collect();
    assert_eq!(ids.len(), 5);
}
