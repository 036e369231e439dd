//! An attempt that waits for its turn is not sent once its webhook was paused, changed, purged or deleted, or its delivery
//! cancelled. In each test one webhook has taken both places of the node, and an event for a second webhook waits for one.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::hook::Hook;
use crate::support::receiver::Receiver;
use crate::support::world::{Event, World, text};

const PLACES: usize = 2;

struct Crowded {
    world: World,
    /// Lets the requests end that take the places.
    places: Arc<Semaphore>,
    first: Hook,
    second: Hook,
    waiting: Event,
}

impl Crowded {
    async fn new() -> Self {
        let world = World::with(&[("POSTHASTE_MAX_IN_FLIGHT", &PLACES.to_string())]).await;
        let places = Arc::new(Semaphore::new(0));
        let first = world.hook(Receiver::accepts_with(&places), json!({"events": ["first.a"]})).await;
        let second = world.hook(Receiver::ok(), json!({"events": ["second.a"]})).await;
        world.publish("first.a").await;
        first.receiver.was_asked(1).await;
        // This one starts when the other one counts as slow and has moved to the place for slow webhooks.
        world.publish("first.a").await;
        first.receiver.was_asked(2).await;
        let waiting = world.publish("second.a").await;
        let crowded = Self { world, places, first, second, waiting };
        let backlog = crowded
            .backlog_when("its request waits for a place", |backlog| {
                backlog["why"].as_str().is_some_and(|why| why.contains("waits for a place"))
            })
            .await;
        assert_eq!((&backlog["inFlight"], &backlog["ready"]), (&json!(0), &json!(1)), "nothing was sent: {backlog}");
        crowded
    }

    async fn backlog_when(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        fact::until(what, async || {
            let backlog = self.world.client().get(&self.second.path("/backlog")).await.expect(200);
            is_so(&backlog).then_some(backlog)
        })
        .await
    }

    /// Frees the places. Attempts that waited for them go before the request that shows it.
    async fn make_room(&self) {
        self.places.add_permits(100);
        self.first.saw(PLACES).await;
        let third = self.world.hook(Receiver::ok(), json!({"events": ["third.a"]})).await;
        self.world.publish("third.a").await;
        third.saw(1).await;
    }

    async fn act(&self, action: &str) -> Value {
        self.world.client().act(&self.second.path(action)).await.expect(200)
    }
}

on_both!(a_paused_webhook_is_sent_nothing_that_waited_and_gets_it_when_it_is_resumed);
async fn a_paused_webhook_is_sent_nothing_that_waited_and_gets_it_when_it_is_resumed() {
    let crowded = Crowded::new().await;
    crowded.act("/pause").await;
    crowded.make_room().await;
    assert!(crowded.second.requests().is_empty());

    crowded.act("/resume").await;
    crowded.second.saw(1).await;
    let delivery = crowded.world.settled(&crowded.waiting).await;
    assert_eq!((&delivery["status"], &delivery["attemptCount"]), (&json!("success"), &json!(1)));
}

on_both!(a_delivery_that_waits_for_its_turn_can_be_cancelled);
async fn a_delivery_that_waits_for_its_turn_can_be_cancelled() {
    let crowded = Crowded::new().await;
    let delivery = &crowded.world.deliveries_of(&crowded.waiting.id).await[0];
    let path = format!("/deliveries/{}/cancel", text(delivery, "id"));
    assert_eq!(crowded.world.client().act(&path).await.succeeded()["status"], "cancelled");
    crowded.make_room().await;
    assert!(crowded.second.requests().is_empty());
}

on_both!(a_delivery_that_waits_for_its_turn_can_be_retried_and_is_sent_once);
async fn a_delivery_that_waits_for_its_turn_can_be_retried_and_is_sent_once() {
    let crowded = Crowded::new().await;
    let delivery = &crowded.world.deliveries_of(&crowded.waiting.id).await[0];
    let path = format!("/deliveries/{}/retry", text(delivery, "id"));
    crowded.world.client().act(&path).await.succeeded();
    crowded.make_room().await;
    let delivery = crowded.world.settled(&crowded.waiting).await;
    assert_eq!((&delivery["status"], &delivery["attemptCount"]), (&json!("success"), &json!(1)));
    assert_eq!(crowded.second.requests().len(), 1);
}

on_both!(what_waits_when_a_webhook_moves_goes_to_the_new_receiver_alone);
async fn what_waits_when_a_webhook_moves_goes_to_the_new_receiver_alone() {
    let crowded = Crowded::new().await;
    let elsewhere = Receiver::ok();
    let moved = json!({"url": elsewhere.url("/moved")});
    crowded.world.client().patch(&crowded.second.path(""), &moved).await.expect(200);
    crowded.make_room().await;
    assert_eq!(elsewhere.saw(1).await[0].header("webhook-id"), crowded.waiting.id);
    assert!(crowded.second.requests().is_empty());
}

on_both!(what_waits_when_a_secret_is_rotated_is_signed_with_the_new_one);
async fn what_waits_when_a_secret_is_rotated_is_signed_with_the_new_one() {
    let crowded = Crowded::new().await;
    crowded.second.rotate_secret(crowded.world.client(), 0).await;
    crowded.second.forget_older_secrets();
    crowded.make_room().await;
    assert_eq!(crowded.second.saw(1).await.len(), 1);
}

on_both!(a_purge_cancels_what_waits_for_its_turn);
async fn a_purge_cancels_what_waits_for_its_turn() {
    let crowded = Crowded::new().await;
    assert_eq!(crowded.act("/purge").await["cancelled"], 1);
    crowded.make_room().await;
    assert!(crowded.second.requests().is_empty());
    assert_eq!(crowded.world.settled(&crowded.waiting).await["status"], "cancelled");
}

on_both!(a_deleted_webhook_is_sent_nothing_that_waited);
async fn a_deleted_webhook_is_sent_nothing_that_waited() {
    let crowded = Crowded::new().await;
    crowded.world.client().delete(&crowded.second.path("")).await.succeeded();
    crowded.make_room().await;
    assert!(crowded.second.requests().is_empty());
}
