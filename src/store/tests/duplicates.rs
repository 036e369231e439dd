//! What a batch may hold more than once, and text that no text column takes.

use super::*;
use crate::domain::delivery::Attempt;
use crate::journal::AttemptRecord;

/// Sends the records while the database refuses to write, so that they share a batch. The refused batch is tried again.
async fn in_one_batch(world: &World, on: On, records: Vec<Record>) {
    let (refuse, accept) = world::refusal(on);
    world.store.inner.writer.execute_unprepared(refuse).await.unwrap();
    for record in records {
        world.running.journal.record(record).await.unwrap();
    }
    let stats = world.running.journal.stats();
    while stats.failed_commits.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    world.store.inner.writer.execute_unprepared(accept).await.unwrap();
    world.running.journal.barrier().await.unwrap();
}

on_both!(a_batch_with_several_attempts_of_one_delivery_keeps_the_last_state_and_every_attempt);
async fn a_batch_with_several_attempts_of_one_delivery_keeps_the_last_state_and_every_attempt(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let (id, later) = (id(receipt, webhook.num), Some(UnixMillis(9)));
    let records = vec![
        attempted(id, 1, Status::Pending, later),
        attempted(id, 2, Status::Pending, later),
        Record::Defer { id, next_at: UnixMillis(5) },
        attempted(id, 3, Status::Failed, None),
        attempted(id, 3, Status::Failed, None),
    ];

    in_one_batch(&world, on, records).await;

    let state = world.delivery(id).await.unwrap().state;
    assert_eq!((state.status, state.attempts, state.next_at), (Status::Failed, 3, None));
    let attempts = world.store.attempts(id, u16::MAX, 100).await.unwrap().items;
    let numbers: Vec<u16> = attempts.iter().rev().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(world.open_fanouts().await.len() <= 1);
    assert_eq!(world.running.ledger.pending(webhook.num), 0);
}

on_both!(whatever_a_receiver_says_is_recorded);
async fn whatever_a_receiver_says_is_recorded(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let receipt = world.accept(&[webhook.num.0]).await;
    let id = id(receipt, webhook.num);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let headers = vec![("x-odd".to_owned(), "a\0b\u{1F600}\u{FFFF}".to_owned())];
    let attempt = Attempt {
        error: Some("it said \0 and \u{202E}".to_owned()),
        response_headers: headers.clone(),
        response_body: all_bytes.clone(),
        ..world::attempt(1)
    };
    let state = DeliveryState { attempts: 1, tries: 1, ..DeliveryState::pending(Some(UnixMillis(1))) };
    world.record(Record::Attempt(Box::new(AttemptRecord::new(id, attempt, state)))).await;

    let stored = world.store.first_attempt(id).await.unwrap().unwrap();

    assert_eq!(stored.error.as_deref(), Some("it said \u{FFFD} and \u{202E}"));
    assert_eq!((stored.response_headers, stored.response_body), (headers, all_bytes));
    assert_eq!(stored.request.unwrap().parts().unwrap(), world::request_parts());
    assert_eq!(world.running.journal.stats().failed_commits.load(std::sync::atomic::Ordering::Relaxed), 0);
}
