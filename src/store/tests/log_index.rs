//! The log index: it follows the rows, and knows how far.

use super::*;

on_both!(the_log_follows_and_is_rebuilt_after_a_crash);
async fn the_log_follows_and_is_rebuilt_after_a_crash(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    world.catch_up();
    let mut receipts = Vec::new();
    for _ in 0..3 {
        let receipt = world.accept(&[webhook.num.0]).await;
        world.record(attempted(id(receipt, webhook.num), 1, Status::Success, None)).await;
        receipts.push(receipt.seq);
    }
    let filter = DeliveryFilter { webhook: Some(webhook.num), ..DeliveryFilter::default() };
    let log = async |before: Option<DeliveryId>| -> Vec<EventSeq> {
        let page = world.store.deliveries(world.tenant.num, &filter, before, 10).await.unwrap().found;
        page.iter().map(|delivery| delivery.id.event).collect()
    };
    assert!(log(None).await.is_empty(), "nothing is indexed yet");
    let lost = Arc::new(log::LogBuffer::default());
    let index = LogIndex::open(&world.store, lost).await.unwrap();
    if world.store.is_clustered() {
        index.index_shards(&world.shard_set.owned()).await.unwrap();
    }
    receipts.reverse();
    assert_eq!(log(None).await, receipts, "what a crashed process had not indexed is there");

    let index = LogIndex::open(&world.store, world.running.log.clone()).await.unwrap();
    let next = world.accept(&[webhook.num.0]).await;
    world.record(attempted(id(next, webhook.num), 1, Status::Success, None)).await;
    index.flush().await.unwrap();
    assert_eq!(log(None).await.len(), 4);
    assert_eq!(log(Some(id(next, webhook.num))).await, receipts);
}

#[tokio::test]
async fn a_reader_moves_entries_and_the_follower_notes_how_far_the_index_has_come() {
    let world = World::new(On::Sqlite).await;
    let webhook = world.webhook().await;
    world.catch_up();
    let index = LogIndex::open(&world.store, world.running.log.clone()).await.unwrap();
    let noted = async || world.store.log_indexed_to().await.unwrap();
    let receipt = world.accept(&[webhook.num.0]).await;
    world.record(attempted(id(receipt, webhook.num), 1, Status::Success, None)).await;

    index.flush().await.unwrap();
    let filter = DeliveryFilter { webhook: Some(webhook.num), ..DeliveryFilter::default() };
    assert_eq!(world.store.deliveries(world.tenant.num, &filter, None, 10).await.unwrap().found.len(), 1);
    assert_eq!(noted().await, EventSeq::ZERO, "a read notes nothing");

    index.follow(&world.shard_set).await.unwrap();
    assert!(noted().await > EventSeq::ZERO);
}

#[tokio::test]
async fn a_shard_that_was_given_up_is_covered_no_more_until_it_is_indexed_again() {
    let world = World::new(On::Postgres).await;
    let index = LogIndex::open(&world.store, world.running.log.clone()).await.unwrap();
    let held = world.shard_set.owned();
    index.index_shards(&held).await.unwrap();
    assert_eq!(index.covers(), held);
    index.detach(&held[..1]);
    assert_eq!(index.covers(), held[1..]);
    index.index_shards(&held[..1]).await.unwrap();
    assert_eq!(index.covers(), held);
}
