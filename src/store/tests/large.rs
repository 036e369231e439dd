//! Large events, and backlogs of many smaller ones, come into memory piece by piece.

use super::*;
use crate::store::events::Body;
use crate::store::payload::LARGE;

/// Events of this size, each owed to one webhook by a row that is due.
async fn due_events(world: &World, webhook: WebhookNum, size: usize, count: usize) -> Vec<EventSeq> {
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(size))).unwrap();
    let draft = Draft { data, ..world.draft(None, &[webhook.0]) };
    let published = world.running.journal.publish(vec![draft; count], None).await.unwrap();
    let mut seqs = Vec::new();
    for published in published {
        let Published::Accepted(receipt) = published else { panic!("{published:?}") };
        world.record(Record::Defer { id: id(receipt, webhook), next_at: UnixMillis::now() }).await;
        seqs.push(receipt.seq);
    }
    seqs
}

fn all_but(known: &[EventSeq]) -> Wanted<'_> {
    Wanted { horizon: UnixMillis::now(), ordered: false, limit: 256, known }
}

on_both!(a_backlog_is_read_a_few_megabytes_at_a_time_and_nothing_is_left_out);
async fn a_backlog_is_read_a_few_megabytes_at_a_time_and_nothing_is_left_out(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let webhook = world.webhook().await;
    let seqs = due_events(&world, webhook.num, 60_000, 100).await;
    let known = world.store.due(webhook.num, all_but(&seqs[..40])).await.unwrap();
    assert_eq!(known.rows.len(), 60, "what is known counts not");
    let mut read: Vec<EventSeq> = Vec::new();
    while read.len() < seqs.len() {
        let due = world.store.due(webhook.num, all_but(&read)).await.unwrap();
        let bytes: usize = due.rows.iter().map(|due| due.event.body.bytes_in_memory()).sum();
        assert!((1..=4 * 1024 * 1024).contains(&bytes), "{bytes}");
        read.extend(due.rows.iter().map(|due| due.event.seq));
        assert_eq!(due.next.is_some(), read.len() < seqs.len(), "the rest is not forgotten");
    }
    assert_eq!(read, seqs);
}

on_both!(large_bodies_stay_in_the_store_until_they_are_sent);
async fn large_bodies_stay_in_the_store_until_they_are_sent(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let webhook = world.webhook().await;
    let seqs = due_events(&world, webhook.num, 1_500_000, 5).await;
    let owed = world.accept_large(&[webhook.num.0], 1_500_000).await.seq;
    let due = world.store.due(webhook.num, wanted(UnixMillis::now(), false)).await.unwrap();
    assert_eq!(due.rows.iter().map(|due| due.event.seq).collect::<Vec<_>>(), seqs);
    let fanouts = world.open_fanouts().await;
    assert_eq!(fanouts.iter().map(|fanout| fanout.event.seq).collect::<Vec<_>>(), [owed]);
    for event in due.rows.iter().map(|due| &due.event).chain(fanouts.iter().map(|fanout| &fanout.event)) {
        let Body::Stored { bytes } = event.body else { panic!("a large body is in memory") };
        let body = world.store.body(event.seq).await.unwrap().unwrap();
        assert!(bytes > LARGE && body.len() == bytes);
    }
    assert_eq!(world.store.body(EventSeq(1)).await.unwrap(), None);
}
