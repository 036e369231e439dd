//! What becomes of deliveries whose webhook is deleted.

use super::*;

on_both!(deleting_takes_back_a_manual_retry_and_leaves_what_had_become_of_the_delivery);
async fn deleting_takes_back_a_manual_retry_and_leaves_what_had_become_of_the_delivery(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let mut ids = Vec::new();
    for status in [Status::Success, Status::Failed, Status::Pending] {
        let id = id(world.accept(&[webhook.num.0]).await, webhook.num);
        let next_at = (status == Status::Pending).then_some(UnixMillis(9));
        world.record(attempted(id, 1, status, next_at)).await;
        world.record(Record::Retry { id, at: UnixMillis(77), operation: None }).await;
        ids.push(id);
    }

    let now = UnixMillis::now();
    world.store.delete_webhook(&webhook, now, &Author::engine()).await.unwrap();
    world.running.journal.purge(webhook.num, EventSeq(i64::MAX), &[]).await.unwrap();

    let mut left = Vec::new();
    for id in ids {
        let state = world.delivery(id).await.unwrap().state;
        assert_eq!((state.next_at, state.manual), (None, None));
        left.push((state.status, state.settled_at == Some(UnixMillis(1_800_000_000_000))));
    }
    assert_eq!(left, [(Status::Success, true), (Status::Failed, true), (Status::Cancelled, false)]);
}

on_both!(what_a_deleted_webhook_is_still_owed_is_found_and_cancelled_and_no_others);
async fn what_a_deleted_webhook_is_still_owed_is_found_and_cancelled_and_no_others(on: On) {
    let world = World::new(on).await;
    let (living, deleted) = (world.webhook().await, world.webhook().await);
    let now = UnixMillis::now();
    world.store.delete_webhook(&deleted, now, &Author::engine()).await.unwrap();
    let receipt = world.accept(&[living.num.0, deleted.num.0]).await;
    let (kept, left) = (id(receipt, living.num), id(receipt, deleted.num));
    for id in [kept, left] {
        let later = UnixMillis(now.0 + 3_600_000);
        world.record(attempted(id, 1, Status::Pending, Some(later))).await;
    }
    assert_eq!(world.store.webhooks_with_due(now).await.unwrap(), [deleted.num], "however late its row is due");

    let cancelled = world.running.journal.purge(deleted.num, EventSeq(i64::MAX), &[]).await.unwrap();

    assert_eq!(cancelled, 1);
    let statuses = [world.delivery(kept).await, world.delivery(left).await].map(|found| found.unwrap().state.status);
    assert_eq!(statuses, [Status::Pending, Status::Cancelled]);
    assert!(world.store.webhooks_with_due(now).await.unwrap().is_empty());
}

on_both!(deleted_webhooks_take_no_place_among_those_asked_for);
async fn deleted_webhooks_take_no_place_among_those_asked_for(on: On) {
    let world = World::new(on).await;
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        webhooks.push(world.webhook().await);
    }
    for doomed in [&webhooks[0], &webhooks[1], &webhooks[3]] {
        world.store.delete_webhook(doomed, UnixMillis::now(), &Author::engine()).await.unwrap();
    }
    // More webhooks than one query names.
    let nums: Vec<WebhookNum> = (-1000..1000).map(WebhookNum).collect();
    let living = async |most| world.store.living(&nums, most).await.unwrap();
    let [first, second] = [&webhooks[2], &webhooks[4]].map(|webhook| (webhook.num, webhook.id));
    assert_eq!(living(1).await, [first]);
    assert_eq!(living(3).await, [first, second]);
}
