//! Shards: a node acquires what is free, writes for what it owns, and nobody else does meanwhile.

use super::database::{Database, On, due_at, id, key, shard, with};
use super::on_clusters;

use std::collections::BTreeSet;
use std::future::Future;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::journal_db::rows::Rows;
use crate::store::leases::AcquiredShard;

fn shards_of(acquired: &[AcquiredShard]) -> Vec<ShardNum> {
    let mut shards: Vec<ShardNum> = acquired.iter().map(|acquired| acquired.shard).collect();
    shards.sort_unstable();
    shards
}

on_clusters!(a_node_acquires_what_is_free_and_nothing_else);
async fn a_node_acquires_what_is_free_and_nothing_else(on: On) {
    let database = Database::new(on).await;
    let another = database.another().await;
    let wanted = [3, 4, 200].map(shard);
    assert!(database.own(&another, &wanted).await.is_empty(), "the first node owns them");
    database.cluster.release(&another, &[shard(4)], false).await.unwrap();
    assert!(database.own(&another, &wanted).await.is_empty(), "only the owner releases");
    database.cluster.release(&database.shard_set, &[shard(3), shard(200), shard(5)], false).await.unwrap();
    assert_eq!(shards_of(&database.own(&another, &wanted).await), [shard(3), shard(200)]);
    assert_eq!(another.served(), [shard(3), shard(200)]);
    assert!(database.own(&another, &wanted).await.is_empty(), "it owns them already");
    let survey = database.cluster.survey(&another).await.unwrap().unwrap();
    let owners = [3, 4, 5, 200].map(|num: usize| survey.shards[num].0);
    assert_eq!(owners, [another.node(), database.shard_set.node(), None, another.node()]);
}

on_clusters!(a_node_without_a_lease_acquires_nothing);
async fn a_node_without_a_lease_acquires_nothing(on: On) {
    let database = Database::new(on).await;
    let another = database.another().await;
    database.cluster.release(&database.shard_set, &[shard(3)], false).await.unwrap();
    database.expire_leases().await;
    assert!(database.cluster.acquire(&another, &[shard(3)]).await.unwrap().is_empty());
    database.cluster.renew(&another).await.unwrap();
    assert_eq!(database.own(&another, &[shard(3)]).await.len(), 1);
}

on_clusters!(a_shard_is_in_doubt_if_its_owner_says_so);
async fn a_shard_is_in_doubt_if_its_owner_says_so(on: On) {
    let database = Database::new(on).await;
    database.accept(key(5), &[3]).await;
    let before = UnixMillis::now();
    database.cluster.release(&database.shard_set, &[shard(3)], true).await.unwrap();
    database.cluster.release(&database.shard_set, &[shard(4)], false).await.unwrap();
    let another = database.another().await;
    database.own(&another, &[shard(3), shard(4)]).await;
    let in_doubt = another.in_doubt_of(WebhookNum(3));
    assert_eq!(in_doubt.events_to, key(5));
    assert!(in_doubt.due_to >= before && in_doubt.due_to <= UnixMillis::now(), "{in_doubt:?}");
    assert_eq!(another.in_doubt_of(WebhookNum(4)), InDoubt::NOTHING);

    database.cluster.release(&another, &[shard(3)], false).await.unwrap();
    database.own(&database.shard_set, &[shard(3)]).await;
    assert_eq!(database.shard_set.in_doubt_of(WebhookNum(3)), in_doubt, "a clean release takes no doubt away");
}

on_clusters!(a_shard_that_is_released_on_another_server_is_in_doubt);
async fn a_shard_that_is_released_on_another_server_is_in_doubt(on: On) {
    let database = Database::new(on).await;
    database.accept(key(5), &[3]).await;
    database.shard_set.pretend_a_promotion();
    database.cluster.release(&database.shard_set, &[shard(3)], false).await.unwrap();
    let another = database.another().await;
    assert_eq!(database.own(&another, &[shard(3)]).await.len(), 1);
    let in_doubt = another.in_doubt_of(WebhookNum(3));
    assert_eq!(in_doubt.events_to, key(5), "that server may lack what the node has recorded");
}

on_clusters!(a_mark_of_doubt_goes_to_the_next_owner_of_the_shard);
async fn a_mark_of_doubt_goes_to_the_next_owner_of_the_shard(on: On) {
    let database = Database::new(on).await;
    let mark = async |webhook, events_to, due_to| {
        let in_doubt = InDoubt { events_to, due_to: UnixMillis(due_to) };
        database.engine.mark_in_doubt(WebhookNum(webhook), in_doubt).await.unwrap();
    };
    mark(3, key(4), 100).await;
    mark(259, key(2), 200).await;
    let another = database.another_with(&[shard(3), shard(4)]).await;
    let widest = InDoubt { events_to: key(4), due_to: UnixMillis(200) };
    assert_eq!(another.in_doubt_of(WebhookNum(3)), widest, "webhooks 3 and 259 share a shard");
    assert_eq!(another.in_doubt_of(WebhookNum(4)), InDoubt::NOTHING);
}

on_clusters!(a_batch_is_told_which_shards_others_own);
async fn a_batch_is_told_which_shards_others_own(on: On) {
    let database = Database::new(on).await;
    let another = database.another().await;
    database.cluster.release(&database.shard_set, &[shard(3)], false).await.unwrap();
    let lost = async |shards: [u8; 2]| -> BTreeSet<ShardNum> {
        let shards = shards.map(shard).into();
        let locked = database.begin().await.lock(&database.shard_set, &shards).await.unwrap();
        assert!(!locked.is_reaped && locked.transaction.is_some(), "{locked:?}");
        locked.lost
    };
    assert_eq!(lost([3, 4]).await, [shard(3)].into(), "nobody owns shard 3");
    database.own(&another, &[shard(3)]).await;
    assert_eq!(lost([3, 4]).await, [shard(3)].into(), "another node owns shard 3");
    assert!(lost([4, 5]).await.is_empty());

    database.cluster.release(&another, &[shard(3)], false).await.unwrap();
    database.cluster.acquire(&database.shard_set, &[shard(3)]).await.unwrap();
    assert_eq!(lost([3, 4]).await, [shard(3)].into(), "the epoch that this node knows is an old one");
}

on_clusters!(a_batch_of_a_node_that_was_reaped_may_write_nothing);
async fn a_batch_of_a_node_that_was_reaped_may_write_nothing(on: On) {
    let database = Database::new(on).await;
    database.expire_leases().await;
    assert!(database.cluster.reap_expired(database.shard_set.node().unwrap()).await.unwrap());
    for shards in [BTreeSet::new(), [shard(3), shard(4)].into()] {
        let locked = database.begin().await.lock(&database.shard_set, &shards).await.unwrap();
        assert!(locked.is_reaped && locked.transaction.is_none(), "{locked:?}");
        assert_eq!(locked.lost, shards);
    }
}

/// Polls `first` until it waits for a lock, then lets `then` happen, and returns the answer of `first`.
async fn waits<T>(database: &Database, first: impl Future<Output = T>, then: impl Future<Output = ()>) -> T {
    tokio::pin!(first);
    tokio::select! {
        biased;
        _ = &mut first => panic!("it waits for the batch"),
        () = database.lock_is_awaited() => {}
    }
    then.await;
    first.await
}

on_clusters!(a_shard_stays_while_a_batch_writes_for_it);
async fn a_shard_stays_while_a_batch_writes_for_it(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3]).await;
    let mut batch = database.begin().await;
    batch.lock(&database.shard_set, &[shard(3)].into()).await.unwrap();
    batch.write(with(Rows::default(), |rows| rows.deferrals = vec![(id(key(1), 3), due_at(9))])).await.unwrap();
    database.cluster.release(&database.shard_set, &[shard(4)], false).await.unwrap();
    let written = [shard(3)];
    let release = database.cluster.release(&database.shard_set, &written, true);
    waits(&database, release, async { batch.commit().await.unwrap() }).await.unwrap();
    assert!(database.engine.has_row(id(key(1), 3)).await.unwrap());
    let survey = database.cluster.survey(&database.shard_set).await.unwrap().unwrap();
    assert_eq!((survey.shards[3].0, survey.shards[4].0), (None, None));
}

on_clusters!(a_node_is_not_reaped_while_a_batch_of_it_is_under_way);
async fn a_node_is_not_reaped_while_a_batch_of_it_is_under_way(on: On) {
    let database = Database::new(on).await;
    database.expire_leases().await;
    let mut batch = database.begin().await;
    batch.lock(&database.shard_set, &BTreeSet::new()).await.unwrap();
    batch.write(database.event(key(1), &[3])).await.unwrap();
    let reap = database.cluster.reap_expired(database.shard_set.node().unwrap());
    assert!(waits(&database, reap, async { batch.commit().await.unwrap() }).await.unwrap());
    let another = database.another().await;
    database.own(&another, &[shard(3)]).await;
    assert_eq!(another.in_doubt_of(WebhookNum(3)).events_to, key(1), "the doubt covers what that batch has accepted");
}

on_clusters!(a_batch_that_is_rolled_back_lets_its_shards_go);
async fn a_batch_that_is_rolled_back_lets_its_shards_go(on: On) {
    let database = Database::new(on).await;
    let mut batch = database.begin().await;
    batch.lock(&database.shard_set, &[shard(3)].into()).await.unwrap();
    let written = [shard(3)];
    let release = database.cluster.release(&database.shard_set, &written, false);
    waits(&database, release, async { drop(batch) }).await.unwrap();
    let another = database.another().await;
    assert_eq!(database.own(&another, &[shard(3)]).await.len(), 1);
    assert_eq!(another.in_doubt_of(WebhookNum(3)).events_to, EventSeq::ZERO);
}
