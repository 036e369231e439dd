//! How far fan-outs have come.

use super::*;
use crate::store::events::Receipt;
use crate::store::progress::Progress;

async fn progress(world: &World, receipt: Receipt) -> Progress {
    let event = world.store.event(world.tenant.num, receipt.seq).await.unwrap().unwrap();
    world.store.progress(&event).await.unwrap()
}

/// How many targets of open fan-outs have no row, counted one by one.
async fn without_row(world: &World, receipt: Receipt) -> u32 {
    let mut targets = world.store.fanout_targets(receipt.seq).await.unwrap();
    let recorded = world.store.recorded_targets(receipt.seq).await.unwrap();
    targets.retain(|target| recorded.binary_search(target).is_err());
    u32::try_from(targets.len()).unwrap()
}

on_both!(every_target_of_an_event_counts_once_wherever_it_stands);
async fn every_target_of_an_event_counts_once_wherever_it_stands(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let receipt = world.accept(&[1, 2, 3, 4, 5]).await;
    let other = world.accept(&[1, 2]).await;
    world.record(attempted(id(other, WebhookNum(1)), 1, Status::Failed, None)).await;
    let id = |num| id(receipt, WebhookNum(num));
    let at = UnixMillis(5);
    let steps = [
        (attempted(id(1), 1, Status::Success, None), Progress { owed: 4, success: 1, ..Progress::default() }),
        (attempted(id(1), 1, Status::Success, None), Progress { owed: 4, success: 1, ..Progress::default() }),
        (attempted(id(2), 1, Status::Failed, None), Progress { owed: 3, success: 1, failed: 1, ..Progress::default() }),
        (
            Record::Defer { id: id(3), next_at: at },
            Progress { owed: 2, pending: 1, success: 1, failed: 1, cancelled: 0 },
        ),
        (
            Record::Cancel { id: id(4), at, operation: None },
            Progress { owed: 1, pending: 1, success: 1, failed: 1, cancelled: 1 },
        ),
        (
            Record::Retry { id: id(2), at, operation: None },
            Progress { owed: 1, pending: 2, success: 1, failed: 0, cancelled: 1 },
        ),
        (
            attempted(id(5), 1, Status::Pending, Some(at)),
            Progress { owed: 0, pending: 3, success: 1, failed: 0, cancelled: 1 },
        ),
    ];
    assert_eq!(progress(&world, receipt).await, Progress { owed: 5, ..Progress::default() });
    for (record, expected) in steps {
        let step = format!("{record:?}");
        world.record(record).await;
        assert_eq!(progress(&world, receipt).await, expected, "{step}");
        assert_eq!(without_row(&world, receipt).await, expected.owed, "{step}");
    }
    assert_eq!(progress(&world, other).await, Progress { owed: 1, failed: 1, ..Progress::default() });
}

on_both!(an_event_that_nobody_wants_has_nothing_to_do);
async fn an_event_that_nobody_wants_has_nothing_to_do(on: On) {
    let world = World::new(on).await;
    let receipt = world.accept(&[]).await;
    assert_eq!(progress(&world, receipt).await, Progress::default());
}

on_both!(what_a_deleted_webhook_is_owed_counts_until_it_is_cancelled_and_as_cancelled_then);
async fn what_a_deleted_webhook_is_owed_counts_until_it_is_cancelled_and_as_cancelled_then(on: On) {
    let world = World::new(on).await;
    let (living, deleted) = (world.webhook().await, world.webhook().await);
    let receipt = world.accept(&[living.num.0, deleted.num.0]).await;
    let now = UnixMillis::now();
    world.store.delete_webhook(&deleted, now, &Author::engine()).await.unwrap();
    assert_eq!(progress(&world, receipt).await, Progress { owed: 2, ..Progress::default() });

    world.record(Record::Cancel { id: id(receipt, deleted.num), at: now, operation: None }).await;

    assert_eq!(progress(&world, receipt).await, Progress { owed: 1, cancelled: 1, ..Progress::default() });
}

on_both!(nothing_is_called_owed_that_no_fan_out_owes);
async fn nothing_is_called_owed_that_no_fan_out_owes(on: On) {
    let world = World::new(on).await;
    let receipt = world.accept(&[1, 2]).await;
    world.tamper("DELETE FROM fanout").await;
    assert_eq!(progress(&world, receipt).await, Progress::default());
}
