//! Backlogs of large events come into memory piece by piece.

use super::*;

on_both!(large_events_are_read_a_few_at_a_time_and_none_is_left_out);
async fn large_events_are_read_a_few_at_a_time_and_none_is_left_out(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let webhook = world.webhook().await;
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(1_500_000))).unwrap();
    let draft = Draft { data, ..world.draft(None, &[webhook.num.0]) };
    let published = world.running.journal.publish(vec![draft; 5], None).await.unwrap();
    let now = UnixMillis::now();
    let mut seqs = Vec::new();
    for published in published {
        let Published::Accepted(receipt) = published else { panic!("{published:?}") };
        world.record(Record::Defer { id: id(receipt, webhook.num), next_at: now }).await;
        seqs.push(receipt.seq);
    }
    let mut read = Vec::new();
    let known = world.store.due(webhook.num, Wanted { known: &seqs[..3], ..wanted(now, false) }).await.unwrap();
    assert_eq!(known.rows.iter().map(|due| due.event.seq).collect::<Vec<_>>(), seqs[3..], "what is known counts not");
    for seq in &seqs {
        let due = world.store.due(webhook.num, wanted(now, false)).await.unwrap();
        let bytes: usize = due.rows.iter().map(|due| due.event.body.len()).sum();
        assert!(bytes <= 4 * 1024 * 1024, "{bytes}");
        assert_eq!(due.next.is_some(), due.rows.last().unwrap().event.seq != seqs[4], "the rest is not forgotten");
        read.push(due.rows[0].event.seq);
        world.record(attempted(DeliveryId { event: *seq, webhook: webhook.num }, 1, Status::Success, None)).await;
    }
    assert_eq!(read, seqs);
}
