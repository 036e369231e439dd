//! Cursor lists: a walk returns every item exactly once, and a list accepts only its own cursors.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::databases::on_both;
use crate::support::hook::plain;
use crate::support::receiver::Receiver;
use crate::support::world::{World, text};

const ITEMS: usize = 23;
const PAGE: usize = 5;

on_both!(a_list_is_walked_item_by_item_exactly_once);
async fn a_list_is_walked_item_by_item_exactly_once() {
    let world = World::start().await;
    let receiver = Receiver::ok();
    for _ in 0..ITEMS {
        world.client().post("/webhooks", &plain(&receiver.url("/"), json!({"events": ["a.b"]}))).await.expect(201);
    }
    for _ in 1..ITEMS {
        world.publish("c.d").await;
    }
    let wide = world.publish("a.b").await;
    world.all_settled(&wide).await;

    assert_walks(world.client(), "/webhooks").await;
    assert_walks(world.client(), "/events").await;
    assert_walks(world.client(), "/deliveries").await;
    assert_walks(world.client(), &format!("/events/{}/deliveries", wide.id)).await;
}

on_both!(the_log_is_walked_newest_first);
async fn the_log_is_walked_newest_first() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let mut published = Vec::new();
    for _ in 0..ITEMS {
        let event = world.publish("a.b").await;
        world.settled(&event).await;
        published.insert(0, event.id);
    }

    let pages = world.client().pages(&hook.path("/logs"), PAGE).await;

    let logged: Vec<String> = pages.iter().flatten().map(|item| text(item, "eventId")).collect();
    assert_eq!(logged, published);
}

on_both!(a_walk_is_not_disturbed_by_what_is_added_meanwhile);
/// Items added during a walk must not make an older item appear twice or not at all.
async fn a_walk_is_not_disturbed_by_what_is_added_meanwhile() {
    let world = World::start().await;
    let mut old = BTreeSet::new();
    for _ in 0..PAGE * 2 {
        old.insert(world.publish("a.b").await.id);
    }
    let first = world.client().get(&format!("/events?limit={PAGE}")).await.expect(200);

    world.publish("a.b").await;
    let rest = format!("/events?limit=100&cursor={}", text(&first, "nextCursor"));
    let rest = world.client().get(&rest).await.expect(200);

    let items = [&first, &rest].map(|page| page["data"].as_array().expect("items").clone()).concat();
    let seen: Vec<String> = items.iter().map(|item| text(item, "id")).filter(|id| old.contains(id)).collect();
    assert_eq!(seen.len(), old.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), old);
}

on_both!(a_list_has_twenty_items_by_default_and_says_no_total);
async fn a_list_has_twenty_items_by_default_and_says_no_total() {
    let world = World::start().await;
    for _ in 0..21 {
        world.publish("a.b").await;
    }

    let page = world.client().get("/events").await.expect(200);

    assert_eq!(page["data"].as_array().map(Vec::len), Some(20));
    assert!(page["nextCursor"].is_string());
    let fields: Vec<_> = page.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["data", "nextCursor"]);
    for limit in ["0", "101", "-1", "ten", ""] {
        world.client().get(&format!("/events?limit={limit}")).await.refusal();
    }
}

on_both!(a_cursor_that_was_not_given_out_for_this_list_is_refused);
async fn a_cursor_that_was_not_given_out_for_this_list_is_refused() {
    let world = World::start().await;
    let other = world.another_tenant().await;
    let receiver = Receiver::ok();
    for client in [world.client(), &other.client] {
        for _ in 0..3 {
            client.post("/webhooks", &plain(&receiver.url("/"), json!({"events": ["a.b"]}))).await.expect(201);
            client.post("/events", &json!({"event": "c.d", "data": {}})).await.expect(202);
        }
    }
    let cursor = first_cursor(world.client(), "/events").await;
    let bent = format!("{}{}", &cursor[..cursor.len() - 1], if cursor.ends_with('A') { 'B' } else { 'A' });
    let foreign = first_cursor(&other.client, "/events").await;
    let of_webhooks = first_cursor(world.client(), "/webhooks").await;

    for forged in ["x", "AAAA", "%00", "0", &"A".repeat(5_000), &bent, &cursor[1..], &foreign, &of_webhooks] {
        world.client().get(&format!("/events?cursor={forged}")).await.problem(400);
    }
    world.client().get(&format!("/webhooks?cursor={cursor}")).await.problem(400);
    world.client().get(&format!("/events?cursor={cursor}")).await.expect(200);
}

async fn assert_walks(client: &Client, path: &str) {
    let pages = client.pages(path, PAGE).await;
    assert!(pages.iter().all(|page| page.len() <= PAGE), "{path}");
    let ids: Vec<String> = pages.iter().flatten().map(|item: &Value| text(item, "id")).collect();
    assert_eq!(ids.len(), ITEMS, "{path}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ITEMS, "{path}: an item came twice");
}

async fn first_cursor(client: &Client, path: &str) -> String {
    text(&client.get(&format!("{path}?limit=1")).await.expect(200), "nextCursor")
}
