//! Lists of deliveries: pending deliveries appear once and in order, with or without a row; filters find what they
//! should; and every walk ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::{World, text};

/// Time for some dozen walks, each of which reads every page.
const LOOKS: Duration = Duration::from_secs(120);

/// Requests answered during each walk.
const AT_A_LOOK: usize = 10;

fn ids(deliveries: &[Value]) -> Vec<String> {
    deliveries.iter().map(|delivery| text(delivery, "id")).collect()
}

on_both!(what_is_owed_only_by_open_fan_outs_is_listed);
async fn what_is_owed_only_by_open_fan_outs_is_listed() {
    let world = World::start().await;
    let settings = json!({"timeoutMs": 30_000});
    let hook = world.hook(Receiver::hangs(), settings.clone()).await;
    let other = world.hook(Receiver::hangs(), settings).await;
    let mut events = Vec::new();
    for _ in 0..5 {
        events.insert(0, world.publish("message.sent").await.id);
    }

    let all = world.client().walk("/deliveries?status=pending").await;
    let listed: Vec<String> = all.iter().map(|delivery| text(delivery, "eventId")).collect();
    let twice: Vec<String> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
    assert_eq!(listed, twice, "newest first, one for each webhook");
    assert_eq!(ids(&world.client().walk("/deliveries").await), ids(&all));
    for path in [format!("/deliveries?webhookId={}", hook.id), hook.path("/logs"), other.path("/logs?status=pending")] {
        let of_one = world.client().walk(&path).await;
        assert_eq!(of_one.iter().map(|delivery| text(delivery, "eventId")).collect::<Vec<_>>(), events, "{path}");
    }
    let of_event = world.client().walk(&format!("/deliveries?eventId={}", events[0])).await;
    assert_eq!(of_event.len(), 2);
    for none in ["status=success", "status=failed", "event=other.type", "outcome=rejected", "statusCode=500"] {
        assert_eq!(world.client().walk(&format!("/deliveries?{none}")).await.len(), 0, "{none}");
    }
    let stranger = world.another_tenant().await;
    assert_eq!(stranger.client.walk("/deliveries").await.len(), 0);
}

on_both!(no_delivery_is_lost_or_listed_twice_while_deliveries_get_their_rows);
/// Half of the requests are answered until a walk shows deliveries with and without a row; then the rest are answered.
/// During each walk some deliveries get their rows.
async fn no_delivery_is_lost_or_listed_twice_while_deliveries_get_their_rows() {
    let world = World::start().await;
    let permits = Arc::new(Semaphore::new(0));
    let settings = json!({"maxInFlight": 2, "timeoutMs": 30_000});
    let mut hooks = Vec::new();
    for _ in 0..2 {
        hooks.push(world.hook(Receiver::accepts_with(&permits), settings.clone()).await);
    }
    let mut published = BTreeSet::new();
    for _ in 0..100 {
        published.insert(world.publish("message.sent").await.id);
    }

    let (all, mut permitted, mut saw_both) = (2 * published.len(), 0, false);
    fact::until_within(LOOKS, "all are delivered", async || {
        if permitted < all / 2 || saw_both && permitted < all {
            permits.add_permits(AT_A_LOOK);
            permitted += AT_A_LOOK;
        }
        for path in ["/deliveries".to_owned(), hooks[0].path("/logs")] {
            let pages = world.client().pages(&path, 17).await;
            let deliveries = pages.concat();
            let is_any = |status: &str| deliveries.iter().any(|delivery| delivery["status"] == status);
            saw_both |= is_any("success") && is_any("pending");
            let found = ids(&deliveries);
            let of_each = if path.contains("logs") { 1 } else { 2 };
            assert_eq!(found.len(), published.len() * of_each, "{path}");
            assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "a delivery was listed twice");
        }
        (world.client().walk("/deliveries?status=success").await.len() == all).then_some(())
    })
    .await;
    assert_eq!(world.client().walk("/deliveries?status=pending").await.len(), 0);
}

on_both!(deliveries_are_found_by_outcome_and_status_code);
async fn deliveries_are_found_by_outcome_and_status_code() {
    let world = World::start().await;
    let script = |request| Reply::Status([503, 404, 503, 200][request % 4]);
    let settings = json!({"maxInFlight": 1, "retryPolicy": {"maxRetries": 0}});
    let hook = world.hook(Receiver::says(script), settings).await;
    for _ in 0..8 {
        let event = world.publish("message.sent").await;
        world.settled(&event).await;
    }

    let count = async |path: &str| world.client().walk(path).await.len();
    for (filter, expected) in [
        ("statusCode=503", 4),
        ("statusCode=404", 2),
        ("statusCode=500", 0),
        ("outcome=rejected", 6),
        ("outcome=success", 2),
        ("outcome=rejected&statusCode=404&status=failed", 2),
        ("outcome=rejected&status=success", 0),
    ] {
        assert_eq!(count(&format!("/deliveries?{filter}")).await, expected, "{filter}");
        assert_eq!(count(&hook.path(&format!("/logs?{filter}"))).await, expected, "{filter} in the log");
        assert_eq!(count(&format!("/deliveries?webhookId={}&{filter}", hook.id)).await, expected, "{filter} of one");
    }
    for wrong in ["statusCode=abc", "statusCode=99", "statusCode=600", "outcome=broken", "outcome=", "code=500"] {
        world.client().get(&format!("/deliveries?{wrong}")).await.problem(400);
        world.client().get(&hook.path(&format!("/logs?{wrong}"))).await.problem(400);
    }
}

on_both!(a_rare_filter_looks_at_so_much_and_goes_on_with_its_cursor);
/// The event sought lies below more events than one page reads.
async fn a_rare_filter_looks_at_so_much_and_goes_on_with_its_cursor() {
    const ABOVE: usize = 11_000;
    let world = World::start().await;
    let settings = json!({"events": ["rare.a"], "retryPolicy": {"maxRetries": 0}});
    let _hook = world.hook(Receiver::status(500), settings).await;
    let rare = world.publish("rare.a").await;
    world.settled(&rare).await;
    let batch: Vec<Value> = (0..1000).map(|_| json!({"event": "common.a", "data": {}})).collect();
    for _ in 0..ABOVE / batch.len() {
        world.client().post("/events/batch", &json!({"events": batch})).await.expect(202);
    }

    for filter in ["", "?status=failed", "?outcome=rejected&statusCode=500"] {
        let pages = world.client().pages(&format!("/deliveries{filter}"), 100).await;
        assert_eq!(pages.concat().len(), 1, "{filter}");
        assert!(pages.len() > 1 && pages.len() < 5, "{} pages with {filter}", pages.len());
    }
}

on_both!(deliveries_of_a_deleted_webhook_stay_findable);
async fn deliveries_of_a_deleted_webhook_stay_findable() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;
    let event = world.publish("message.sent").await;
    let delivered = world.settled(&event).await;

    world.client().delete(&hook.path("")).await.expect(204);

    world.client().get(&hook.path("")).await.problem(404);
    world.client().get(&hook.path("/logs")).await.problem(404);
    let found = world.client().walk(&format!("/deliveries?webhookId={}", hook.id)).await;
    assert_eq!(ids(&found), [text(&delivered, "id")]);
    assert_eq!(world.delivery(&text(&delivered, "id")).await["status"], "success");
    assert_eq!(world.client().walk("/deliveries?statusCode=200").await.len(), 1);
    let other = world.another_tenant().await;
    assert!(other.client.walk(&format!("/deliveries?webhookId={}", hook.id)).await.is_empty());
}
