//! What becomes of a delivery: attempts, deferrals, cancellations, manual retries and purges, in the order of commits.

use super::database::{Database, On, due_at, ended_as, id, key, with};
use super::on_all;

use crate::domain::delivery::{DeliveryState, Fallback, Status};
use crate::domain::id::{EventSeq, OperationNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::cancel::{Purge, TakenBack};
use crate::store::journal_db::rows::{Change, Rows, Update};

on_all!(a_deferral_gives_a_row_to_a_delivery_that_has_none);
async fn a_deferral_gives_a_row_to_a_delivery_that_has_none(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3], 10).await;
    let deferrals = vec![(id(key(1), 3), due_at(99)), (id(key(1), 4), due_at(20))];
    database.write(with(Rows::default(), |rows| rows.deferrals = deferrals)).await;
    let next_at = async |webhook| database.pending(id(key(1), webhook)).await.unwrap().state.next_at;
    assert_eq!(next_at(3).await, Some(UnixMillis(10)), "the row stays as it is");
    assert_eq!(next_at(4).await, Some(UnixMillis(20)));
}

on_all!(an_attempt_leaves_its_delivery_in_the_state_that_it_says);
async fn an_attempt_leaves_its_delivery_in_the_state_that_it_says(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3], 10).await;
    let id = id(key(1), 3);
    let manual = Some(Fallback { status: Status::Pending, next_at: Some(UnixMillis(70)), is_replay: false });
    let again = DeliveryState { attempts: 4, tries: 3, manual, ..due_at(60) };
    database.record(id, again).await;
    assert_eq!(database.pending(id).await.unwrap().state, again);
    database.record(id, ended_as(Status::Success)).await;
    assert!(database.pending(id).await.is_none());
    assert!(database.engine.has_row(id).await.unwrap());
    assert_eq!(database.settled_as(id).await, Status::Success);
}

on_all!(the_last_state_of_a_delivery_in_a_batch_counts);
async fn the_last_state_of_a_delivery_in_a_batch_counts(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3]).await;
    let mut rows = Rows::default();
    rows.delivery(id(key(1), 3), DeliveryState { attempts: 1, ..due_at(20) });
    rows.delivery(id(key(1), 3), DeliveryState { attempts: 2, ..due_at(30) });
    database.write(rows).await;
    let state = database.pending(id(key(1), 3)).await.unwrap().state;
    assert_eq!((state.attempts, state.next_at), (2, Some(UnixMillis(30))));
}

on_all!(a_cancelled_delivery_stays_cancelled_unless_a_request_under_way_succeeds);
async fn a_cancelled_delivery_stays_cancelled_unless_a_request_under_way_succeeds(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3, 4, 5], 10).await;
    for webhook in [3, 4, 5] {
        let (id, next_at, status) = (id(key(1), webhook), Some(UnixMillis(10)), Status::Cancelled);
        let cancelled = database.update(Update::Cancel { id, at: UnixMillis(50), operation: None }).await;
        assert_eq!(cancelled.changes, [Change::TakenBack(TakenBack { id, next_at, status })]);
        assert!(database.pending(id).await.is_none());
        let again = database.update(Update::Cancel { id, at: UnixMillis(51), operation: None }).await;
        assert_eq!(again.changes, [], "it is not pending");
    }
    database.record(id(key(1), 3), DeliveryState { attempts: 1, ..due_at(60) }).await;
    database.record(id(key(1), 4), ended_as(Status::Failed)).await;
    database.record(id(key(1), 5), ended_as(Status::Success)).await;
    assert!(database.pending(id(key(1), 3)).await.is_none());
    assert_eq!(database.settled_as(id(key(1), 3)).await, Status::Cancelled);
    assert_eq!(database.settled_as(id(key(1), 4)).await, Status::Cancelled);
    assert_eq!(database.settled_as(id(key(1), 5)).await, Status::Success);
}

on_all!(a_manual_retry_remembers_what_to_fall_back_to);
async fn a_manual_retry_remembers_what_to_fall_back_to(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3, 4], 10).await;
    let (waits, ended) = (id(key(1), 3), id(key(1), 4));
    database.record(ended, ended_as(Status::Failed)).await;
    let retry = async |id, at| database.update(Update::Retry { id, at: UnixMillis(at), operation: None }).await.changes;

    assert_eq!(retry(waits, 77).await, [Change::Hastened { id: waits, next_at: UnixMillis(10) }]);
    assert_eq!(retry(ended, 77).await, [Change::Again(ended)]);
    for (id, status, next_at) in [(waits, Status::Pending, Some(UnixMillis(10))), (ended, Status::Failed, None)] {
        assert_eq!(retry(id, 99).await, [], "it is sent again already");
        let state = database.pending(id).await.unwrap().state;
        assert_eq!(state.next_at, Some(UnixMillis(77)));
        assert_eq!(state.manual, Some(Fallback { status, next_at, is_replay: false }));
    }
    assert_eq!(retry(id(key(1), 5), 77).await, [], "there is no row");

    let back = database.update(Update::Cancel { id: ended, at: UnixMillis(80), operation: None }).await.changes;
    let (next_at, status) = (Some(UnixMillis(77)), Status::Failed);
    assert_eq!(back, [Change::TakenBack(TakenBack { id: ended, next_at, status })]);
    assert_eq!(database.settled_as(ended).await, Status::Failed, "it is what it was");
    let cancelled = database.update(Update::Cancel { id: waits, at: UnixMillis(80), operation: None }).await.changes;
    assert_eq!(cancelled, [Change::TakenBack(TakenBack { id: waits, next_at, status: Status::Cancelled })]);
    assert_eq!(database.settled_as(waits).await, Status::Cancelled);
}

on_all!(a_replay_is_told_from_a_retry_by_hand);
async fn a_replay_is_told_from_a_retry_by_hand(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3], 10).await;
    let id = id(key(1), 3);
    database.record(id, ended_as(Status::Failed)).await;
    let retry = async |operation| {
        let changes = database.update(Update::Retry { id, at: UnixMillis(20), operation }).await.changes;
        assert_eq!(changes, [Change::Again(id)]);
        let manual = database.pending(id).await.unwrap().state.manual;
        database.record(id, ended_as(Status::Failed)).await;
        manual.map(|fallback| fallback.is_replay)
    };
    assert_eq!(retry(Some(OperationNum(7))).await, Some(true));
    assert_eq!(retry(None).await, Some(false), "the operation has nothing to do with it");
}

on_all!(an_event_is_owed_anew_unless_there_is_a_delivery_or_no_event);
async fn an_event_is_owed_anew_unless_there_is_a_delivery_or_no_event(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3], 10).await;
    let owe = async |id| {
        let operation = OperationNum(7);
        database.update(Update::Owe { id, at: UnixMillis(20), operation }).await.changes
    };
    assert_eq!(owe(id(key(1), 3)).await, [], "it is owed already");
    assert_eq!(owe(id(key(2), 3)).await, [], "there is no event");
    let new = id(key(1), 4);
    assert_eq!((owe(new).await, owe(new).await), (vec![Change::Again(new)], vec![]));
    assert_eq!(database.pending(new).await.unwrap().state, DeliveryState::pending(Some(UnixMillis(20))));
}

on_all!(updates_of_a_batch_see_the_rows_that_it_writes);
async fn updates_of_a_batch_see_the_rows_that_it_writes(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3, 4]).await;
    let (first, second) = (id(key(1), 3), id(key(1), 4));
    let deferrals = vec![(first, due_at(10)), (second, due_at(10))];
    let updates = vec![
        Update::Cancel { id: first, at: UnixMillis(50), operation: None },
        Update::Retry { id: first, at: UnixMillis(60), operation: None },
        Update::Retry { id: second, at: UnixMillis(70), operation: None },
    ];
    let updated = database
        .write(with(Rows::default(), |rows| {
            rows.deferrals = deferrals;
            rows.updates = updates;
        }))
        .await;
    let next_at = UnixMillis(10);
    let taken_back = Change::TakenBack(TakenBack { id: first, next_at: Some(next_at), status: Status::Cancelled });
    assert_eq!(updated.changes, [taken_back, Change::Again(first), Change::Hastened { id: second, next_at }]);
    assert_eq!(database.pending(first).await.unwrap().state.next_at, Some(UnixMillis(60)));
}

/// Purges until nothing is left to purge; returns what was taken back.
async fn purge(database: &Database, webhook: i64, through: EventSeq, except: &[EventSeq]) -> Vec<EventSeq> {
    let mut taken_back = Vec::new();
    loop {
        let purge = Purge { webhook: WebhookNum(webhook), through, except: except.to_vec() };
        let updated = database.update(Update::Purge { purge, at: UnixMillis(500) }).await;
        let [count] = updated.purged[..] else { panic!("{updated:?}") };
        assert_eq!(count, updated.changes.len() as u64);
        if count == 0 {
            return taken_back;
        }
        taken_back.extend(updated.changes.iter().map(|change| match change {
            Change::TakenBack(of) => {
                assert_eq!(of.id.webhook, WebhookNum(webhook));
                of.id.event
            }
            Change::Again(_) | Change::Hastened { .. } => panic!("{change:?}"),
        }));
    }
}

on_all!(a_purge_takes_back_what_is_pending_up_to_an_event_and_nothing_else);
async fn a_purge_takes_back_what_is_pending_up_to_an_event_and_nothing_else(on: On) {
    let database = Database::new(on).await;
    for n in 1..=7 {
        database.accept_due(key(n), &[3, 4], 100 - n).await;
    }
    database.record(id(key(2), 3), ended_as(Status::Success)).await;
    let purged = purge(&database, 3, key(6), &[key(4)]).await;
    assert_eq!(purged, [1, 3, 5, 6].map(key), "the oldest first");
    for n in [4, 7] {
        assert!(database.pending(id(key(n), 3)).await.is_some(), "event {n} stays");
    }
    for n in [1, 3, 5, 6] {
        assert_eq!(database.settled_as(id(key(n), 3)).await, Status::Cancelled);
    }
    assert_eq!(database.settled_as(id(key(2), 3)).await, Status::Success);
    for n in 1..=7 {
        assert!(database.pending(id(key(n), 4)).await.is_some(), "another webhook's");
    }
}

on_all!(a_purge_lets_manual_retries_fall_back);
async fn a_purge_lets_manual_retries_fall_back(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3], 10).await;
    database.record(id(key(1), 3), ended_as(Status::Failed)).await;
    database.update(Update::Retry { id: id(key(1), 3), at: UnixMillis(20), operation: None }).await;
    assert_eq!(purge(&database, 3, key(1), &[]).await, [key(1)]);
    assert_eq!(database.settled_as(id(key(1), 3)).await, Status::Failed);
}
