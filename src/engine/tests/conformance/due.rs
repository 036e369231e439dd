//! Pending rows as endpoints read them, and the webhooks that have some.

use super::database::{Database, On, due_at, ended_as, events, id, key, wanted, with};
use super::on_all;

use crate::domain::delivery::{DeliveryState, Status};
use crate::domain::event::Body;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::deliveries::Wanted;
use crate::store::payload::LARGE;

/// Webhook 3 has rows that are due at 30, 10, 20, 20 and 40, in the order of publishing.
async fn with_rows(on: On) -> Database {
    let database = Database::new(on).await;
    for (n, next_at) in (1..).zip([30, 10, 20, 20, 40]) {
        database.accept_due(key(n), &[3], next_at).await;
    }
    database.accept_due(key(6), &[4], 5).await;
    database
}

on_all!(rows_come_by_due_time_and_then_in_the_order_of_publishing);
async fn rows_come_by_due_time_and_then_in_the_order_of_publishing(on: On) {
    let database = with_rows(on).await;
    assert_eq!(events(&database.due(3, wanted(1000)).await), [2, 3, 4, 1, 5].map(key));
    let due = database.due(3, wanted(20)).await;
    assert_eq!(events(&due), [2, 3, 4].map(key), "what is due at the horizon is due");
    assert_eq!(due.next, Some(UnixMillis(30)));
    let none = database.due(3, wanted(9)).await;
    assert_eq!((events(&none), none.next), (vec![], Some(UnixMillis(10))));
    assert_eq!(database.due(3, wanted(1000)).await.next, None, "nothing follows");
    assert_eq!(database.due(5, wanted(1000)).await.next, None, "there is nothing");
}

on_all!(rows_of_an_ordered_webhook_come_in_the_order_of_publishing_whenever_they_are_due);
async fn rows_of_an_ordered_webhook_come_in_the_order_of_publishing_whenever_they_are_due(on: On) {
    let database = with_rows(on).await;
    let ordered = Wanted { ordered: true, ..wanted(0) };
    let due = database.due(3, ordered).await;
    assert_eq!((events(&due), due.next), ((1..=5).map(key).collect(), None));
    let cut = database.due(3, Wanted { limit: 2, ..ordered }).await;
    assert_eq!((events(&cut), cut.next), (vec![key(1), key(2)], Some(UnixMillis(10))));
    let known = [key(1), key(3)];
    assert_eq!(events(&database.due(3, Wanted { known: &known, ..ordered }).await), [2, 4, 5].map(key));
}

on_all!(a_read_ends_at_its_limit_and_says_when_the_last_row_is_due);
async fn a_read_ends_at_its_limit_and_says_when_the_last_row_is_due(on: On) {
    let database = with_rows(on).await;
    for (limit, found, next) in [(1, vec![2], 10), (3, vec![2, 3, 4], 20), (4, vec![2, 3, 4, 1], 30)] {
        let due = database.due(3, Wanted { limit, ..wanted(1000) }).await;
        let found: Vec<EventSeq> = found.into_iter().map(key).collect();
        assert_eq!((events(&due), due.next), (found, Some(UnixMillis(next))), "limit {limit}");
    }
}

on_all!(known_rows_are_left_out_and_still_fall_due);
async fn known_rows_are_left_out_and_still_fall_due(on: On) {
    let database = with_rows(on).await;
    let known = [key(2), key(4), key(1)];
    let due = database.due(3, Wanted { known: &known, ..wanted(20) }).await;
    assert_eq!(events(&due), [key(3)]);
    assert_eq!(due.next, Some(UnixMillis(30)), "the caller knows that row");
}

on_all!(a_row_brings_its_event_and_its_state);
async fn a_row_brings_its_event_and_its_state(on: On) {
    let database = Database::new(on).await;
    database.write(database.event_with(key(1), &[3], r#"{"n":1}"#.into(), None)).await;
    let state = DeliveryState { attempts: 3, tries: 2, ..due_at(10) };
    database.record(id(key(1), 3), state).await;
    let due = database.due(3, wanted(10)).await.rows.remove(0);
    let one = database.pending(id(key(1), 3)).await.unwrap();
    for due in [due, one] {
        assert_eq!(due.state, state);
        assert_eq!((due.event.seq, due.event.tenant), (key(1), database.tenant));
        assert_eq!((due.event.kind.as_str(), due.event.trail.as_deref()), ("message.sent", Some("first")));
        assert_eq!(due.event.body, Body::InMemory(r#"{"n":1}"#.into()));
    }
}

on_all!(a_large_body_is_read_by_itself);
async fn a_large_body_is_read_by_itself(on: On) {
    let database = Database::new(on).await;
    let bodies = [LARGE, LARGE + 1].map(|bytes| format!("\"{}\"", "x".repeat(bytes - 2)));
    for (n, body) in (1..).zip(&bodies) {
        let deferrals = vec![(id(key(n), 3), due_at(10))];
        let rows = database.event_with(key(n), &[3], body.clone().into(), None);
        database.write(with(rows, |rows| rows.deferrals = deferrals)).await;
    }
    let due = database.due(3, wanted(10)).await;
    let bodies_of = [Body::InMemory(bodies[0].clone().into()), Body::Stored { bytes: LARGE + 1 }];
    assert_eq!(due.rows.iter().map(|due| due.event.body.clone()).collect::<Vec<_>>(), bodies_of);
    let fanouts = database.open_fanouts().await;
    assert_eq!(fanouts.iter().map(|fanout| fanout.event.body.clone()).collect::<Vec<_>>(), bodies_of);
    let body = database.engine.body(key(2)).await.unwrap().unwrap();
    assert!(body == bodies[1].as_bytes(), "{} bytes", body.len());
}

on_all!(one_delivery_is_read_while_it_is_pending_whenever_it_is_due);
async fn one_delivery_is_read_while_it_is_pending_whenever_it_is_due(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3, 4], i64::from(i32::MAX)).await;
    database.accept(key(2), &[3]).await;
    database.record(id(key(1), 4), ended_as(Status::Failed)).await;
    assert!(database.pending(id(key(1), 3)).await.is_some());
    for (settled, has_row) in [(id(key(1), 4), true), (id(key(2), 3), false), (id(key(9), 3), false)] {
        assert!(database.pending(settled).await.is_none(), "{settled:?}");
        assert_eq!(database.engine.has_row(settled).await.unwrap(), has_row, "{settled:?}");
    }
}

on_all!(webhooks_with_due_rows_are_found_unless_they_are_held);
async fn webhooks_with_due_rows_are_found_unless_they_are_held(on: On) {
    let database = Database::new(on).await;
    let (soon, later) = (database.webhook().await, database.webhook().await);
    let (paused, off, deleted) = (database.webhook().await, database.webhook().await, database.webhook().await);
    database.webhook().await;
    database.accept_due(key(1), &[soon.0, paused.0, off.0], 10).await;
    database.accept_due(key(2), &[later.0, soon.0], 30).await;
    database.accept_due(key(3), &[deleted.0], 99).await;
    database.set_paused(paused, true).await;
    database.switch_off(off).await;
    database.delete_webhook(deleted).await;

    let found = async |horizon| -> Vec<WebhookNum> {
        let mut found = database.engine.webhooks_with_due(UnixMillis(horizon)).await.unwrap();
        found.sort_unstable();
        found
    };
    assert_eq!(found(9).await, [deleted], "what a deleted webhook is owed is to be cancelled");
    assert_eq!(found(10).await, [soon, deleted]);
    assert_eq!(found(30).await, [soon, later, deleted]);
    database.record(id(key(1), soon.0), ended_as(Status::Success)).await;
    assert_eq!(found(29).await, [deleted]);
    database.set_paused(paused, false).await;
    assert_eq!(found(29).await, [paused, deleted]);
}
