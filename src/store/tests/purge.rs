//! Purges of a webhook's pending deliveries.

use super::*;

/// Rows, one for each event key; more than one purge record takes back.
const ROWS: i64 = 2500;

async fn purge(world: &World, webhook: WebhookNum, through: i64, except: &[i64]) -> u64 {
    let except = except.iter().copied().map(EventSeq).collect();
    let (answer, answered) = oneshot::channel();
    let record = Record::Purge { webhook, through: EventSeq(through), except, answer };
    world.running.journal.record(record).await.unwrap();
    answered.await.unwrap()
}

async fn world_with_rows(on: On) -> (World, WebhookNum) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let body = world.store.bytes_literal("7b7d");
    let keys = format!("WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < {ROWS})");
    let events = format!(
        "{keys} INSERT INTO event (seq, tenant_num, kind, occurred_at, matched, body) \
         SELECT seq, {}, 'message.sent', 5, 1, {body} FROM n",
        world.tenant.num.0
    );
    world.tamper(&events).await;
    let rows = format!(
        "WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < {ROWS}) \
         INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at) \
         SELECT seq, {}, 0, 0, 0, 5 FROM n",
        webhook.0
    );
    world.tamper(&rows).await;
    (world.restart().await, webhook)
}

on_both!(a_purge_takes_a_bounded_number_at_a_time_the_oldest_first);
async fn a_purge_takes_a_bounded_number_at_a_time_the_oldest_first(on: On) {
    let (world, webhook) = world_with_rows(on).await;
    assert_eq!(world.running.ledger.pending(webhook), 2500);
    assert_eq!(purge(&world, webhook, ROWS, &[]).await, 2000);
    assert_eq!(world.running.ledger.oldest(webhook).await.unwrap(), Some(EventSeq(2001)));
    assert_eq!(purge(&world, webhook, ROWS, &[]).await, 500);
    assert_eq!(purge(&world, webhook, ROWS, &[]).await, 0);
    assert_eq!(world.running.ledger.backlogged(), 0);
}

on_both!(a_purge_leaves_what_is_under_way_and_what_came_later);
async fn a_purge_leaves_what_is_under_way_and_what_came_later(on: On) {
    let (world, webhook) = world_with_rows(on).await;
    assert_eq!(purge(&world, webhook, 100, &[1, 50, 2500]).await, 98);
    let left = world.running.ledger.pending(webhook);
    assert_eq!((left, world.running.ledger.oldest(webhook).await.unwrap()), (2402, Some(EventSeq(1))));
}

on_both!(a_purge_takes_back_a_manual_retry_and_leaves_what_had_become_of_the_delivery);
async fn a_purge_takes_back_a_manual_retry_and_leaves_what_had_become_of_the_delivery(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let id = id(world.accept(&[webhook.0]).await, webhook);
    world.record(attempted(id, 1, Status::Failed, None)).await;
    world.record(Record::Retry { id, at: UnixMillis::now(), operation: None }).await;
    assert_eq!(world.running.ledger.pending(webhook), 1);
    assert_eq!(purge(&world, webhook, id.event.0, &[]).await, 1);
    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.manual), (Status::Failed, None));
    assert_eq!(world.running.ledger.pending(webhook), 0);
}
