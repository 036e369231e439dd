//! Open fan-outs: what is owed to targets without a row, event by event.

use super::database::{Database, On, due_at, ended_as, id, key, with};
use super::on_all;

use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::journal_db::rows::Rows;

on_all!(open_fan_outs_come_in_the_order_of_publishing_with_every_target_once);
async fn open_fan_outs_come_in_the_order_of_publishing_with_every_target_once(on: On) {
    let database = Database::new(on).await;
    let many: Vec<i64> = (1..=700).collect();
    database.accept(key(2), &[5]).await;
    database.accept(key(1), &many).await;
    database.accept(key(3), &[]).await;
    let fanouts = database.open_fanouts().await;
    let places: Vec<_> = fanouts.iter().map(|fanout| (fanout.event.seq, fanout.shard)).collect();
    assert!(places.is_sorted(), "{places:?}");
    for fanout in &fanouts {
        assert!(fanout.targets.is_sorted() && !fanout.targets.is_empty());
        let part = |webhook: &WebhookNum| database.shard_set.part_of(*webhook).num();
        assert!(fanout.targets.iter().all(|webhook| part(webhook) == fanout.shard));
    }
    let mut owed = database.owed().await;
    owed.sort_unstable();
    let expected: Vec<_> = many.iter().map(|webhook| (key(1), *webhook)).chain([(key(2), 5)]).collect();
    assert_eq!(owed, expected, "an event without targets has no fan-out");
}

on_all!(a_page_of_fan_outs_has_whole_events_and_says_how_far_it_looked);
async fn a_page_of_fan_outs_has_whole_events_and_says_how_far_it_looked(on: On) {
    let database = Database::new(on).await;
    for n in 1..=3 {
        database.accept(key(n), &[3, 4, 5]).await;
    }
    let (mut after, mut read) = (EventSeq::ZERO, Vec::new());
    loop {
        let page = database.engine.fanouts(after, 2).await.unwrap();
        let Some(to) = page.to else { break };
        let targets: usize = page.fanouts.iter().map(|fanout| fanout.targets.len()).sum();
        read.push((targets, to));
        assert!(page.fanouts.iter().all(|fanout| fanout.event.seq > after && fanout.event.seq <= to));
        after = to;
    }
    assert_eq!(read, [(6, key(2)), (3, key(3))]);
    let page = database.engine.fanouts(key(3), 2).await.unwrap();
    assert!(page.fanouts.is_empty() && page.to.is_none());
}

on_all!(a_fan_out_stays_whole_until_it_is_ended);
async fn a_fan_out_stays_whole_until_it_is_ended(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3, 4, 259]).await;
    let mut rows = Rows::default();
    rows.delivery(id(key(1), 3), ended_as(Status::Success));
    rows.deferrals.push((id(key(1), 4), due_at(9)));
    database.write(rows).await;
    assert_eq!(database.owed().await.len(), 3, "who has a row is told apart");
    assert_eq!(database.engine.recorded_targets(key(1)).await.unwrap(), [3, 4].map(WebhookNum));
    assert_eq!(database.engine.recorded_targets(key(2)).await.unwrap(), []);

    let all: Vec<_> = database.open_fanouts().await.iter().map(|fanout| (fanout.event.seq, fanout.shard)).collect();
    let part = database.shard_set.part_of(WebhookNum(4)).num();
    let left: Vec<i16> = all.iter().map(|(_, shard)| *shard).filter(|shard| *shard != part).collect();
    database.record(id(key(1), 259), ended_as(Status::Failed)).await;
    database.write(with(Rows::default(), |rows| rows.ended = vec![(key(1), part)])).await;
    assert_eq!(database.open_fanouts().await.iter().map(|fanout| fanout.shard).collect::<Vec<_>>(), left);
    database.write(with(Rows::default(), |rows| rows.ended = all)).await;
    assert_eq!(database.owed().await, []);
    assert_eq!(database.engine.recorded_targets(key(1)).await.unwrap(), [3, 4, 259].map(WebhookNum));
}

on_all!(events_that_only_a_fan_out_owes_are_found_up_to_one);
async fn events_that_only_a_fan_out_owes_are_found_up_to_one(on: On) {
    let database = Database::new(on).await;
    for n in 1..=5 {
        database.accept(key(n), &[3, 4]).await;
    }
    database.accept(key(6), &[4]).await;
    database.write(with(Rows::default(), |rows| rows.deferrals = vec![(id(key(2), 3), due_at(9))])).await;
    database.record(id(key(4), 3), ended_as(Status::Success)).await;
    let owed = async |webhook, to| database.engine.owed_only_by_fanout(WebhookNum(webhook), key(to)).await.unwrap();
    assert_eq!(owed(3, 9).await, [1, 3, 5].map(key));
    assert_eq!(owed(3, 3).await, [1, 3].map(key));
    assert_eq!(owed(3, 0).await, []);
    assert_eq!(owed(4, 9).await, (1..=6).map(key).collect::<Vec<_>>());
    assert_eq!(owed(5, 9).await, []);
}

on_all!(rows_and_fan_outs_whose_event_is_gone_are_ended);
async fn rows_and_fan_outs_whose_event_is_gone_are_ended(on: On) {
    let database = Database::new(on).await;
    let shards = [database.shard_set.part_of(WebhookNum(3)), ShardNum::of(WebhookNum(3))];
    database.accept(key(1), &[3]).await;
    let rows = database.event(key(2), &[3]);
    database.write(with(rows, |rows| rows.deferrals = vec![(id(key(2), 3), due_at(10))])).await;
    let end = async || database.journal.end_orphans(&shards, UnixMillis(50)).await.unwrap();
    assert_eq!(end().await, 0);
    database.lose_event(key(2)).await;
    assert!(database.engine.fanouts(key(1), 10).await.unwrap().fanouts.is_empty(), "no request can be made for it");
    assert_eq!(end().await, 2);
    assert_eq!(end().await, 0);
    assert_eq!(database.owed().await, [(key(1), 3)]);
    let mut batch = database.begin_as(&database.shard_set).await;
    assert_eq!(batch.settled_among(&[id(key(2), 3)]).await.unwrap(), [id(key(2), 3)].into());
}
