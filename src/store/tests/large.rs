//! Large events, and backlogs of many smaller ones, are read into memory piece by piece.

use super::*;
use crate::domain::event::Body;
use crate::store::payload::LARGE;

/// Publishes events of this size, each owed to one webhook by a row that is due.
async fn due_events(world: &World, webhook: WebhookNum, size: usize, count: usize) -> Vec<EventSeq> {
    let data = RawValue::from_string(format!("\"{}\"", "x".repeat(size))).unwrap();
    let draft = Draft { data, ..world.draft(None, &[webhook.0]) };
    let published = world.running.journal.publish(vec![draft; count], None).await.unwrap().published;
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
    let known = world.store.due(&world.shard_set, webhook.num, all_but(&seqs[..40])).await.unwrap();
    assert_eq!(known.rows.len(), 60, "known rows do not count");
    let mut read: Vec<EventSeq> = Vec::new();
    while read.len() < seqs.len() {
        let due = world.store.due(&world.shard_set, webhook.num, all_but(&read)).await.unwrap();
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
    let due = world.store.due(&world.shard_set, webhook.num, wanted(UnixMillis::now(), false)).await.unwrap();
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

/// The most that is kept of an answer.
const WHOLE: usize = 64 * 1024;

on_both!(lists_read_the_beginning_of_an_answer_and_attempts_are_read_by_their_bytes);
async fn lists_read_the_beginning_of_an_answer_and_attempts_are_read_by_their_bytes(on: On) {
    let world = World::new(on).await;
    world.catch_up();
    let webhook = world.webhook().await;
    let id = id(world.accept(&[webhook.num.0]).await, webhook.num);
    for number in 1..=40 {
        let Record::Attempt(mut record) = attempted(id, number, Status::Pending, Some(UnixMillis(5))) else { panic!() };
        record.attempt.response_body = vec![b'x'; WHOLE];
        world.record(Record::Attempt(record)).await;
    }

    let listed = world.store.deliveries(world.tenant.num, &DeliveryFilter::default(), None, 10).await.unwrap();
    let LastAttempt { attempt, is_cut } = listed.found[0].last.clone().unwrap();
    assert_eq!((attempt.number, attempt.response_body.len(), is_cut), (40, LISTED_BODY, true));

    let (mut numbers, mut before) = (Vec::new(), u16::MAX);
    loop {
        let page = world.store.attempts(id, before, 30).await.unwrap();
        let bytes: usize = page.items.iter().map(|attempt| attempt.response_body.len()).sum();
        assert!((1..=ATTEMPTS_BYTES as usize).contains(&bytes), "{bytes} on a page");
        assert!(page.items.iter().all(|attempt| attempt.response_body.len() == WHOLE), "nothing is cut here");
        numbers.extend(page.items.iter().map(|attempt| attempt.number));
        let Some(next) = page.next else { break };
        before = u16::try_from(next).unwrap();
    }
    assert_eq!(numbers, (1..=40).rev().collect::<Vec<_>>());
}

on_both!(large_webhooks_are_listed_a_few_at_a_time_and_none_is_left_out);
async fn large_webhooks_are_listed_a_few_at_a_time_and_none_is_left_out(on: On) {
    let world = World::new(on).await;
    let mut nums = Vec::new();
    for _ in 0..5 {
        nums.push(world.webhook().await.num);
    }
    let large = "x".repeat(400_000);
    world.tamper(&format!("UPDATE webhook SET description = '{large}'")).await;

    let (mut listed, mut sizes, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let list = WebhookList { tenant: Some(world.tenant.num), order: WebhookOrder::Created };
        let entries = world.store.webhook_entries(&list, before.as_ref(), 101).await.unwrap();
        let mut draft = PageDraft::new(100);
        let has_room = draft.take(entries, list.order);
        let (nums, last) = draft.finish();
        let page = world.store.webhooks(&nums).await.unwrap();
        sizes.push(page.len());
        listed.extend(page.iter().map(|webhook| webhook.as_ref().unwrap().num));
        before = last;
        if has_room {
            break;
        }
    }
    nums.reverse();
    assert_eq!((listed, sizes), (nums, vec![2, 2, 1]));
}
