//! The journal's transaction: what it makes visible, what it keeps once only, and what becomes of a lost answer.

use super::database::{Database, On, due_at, ended_as, id, key, shard, with};
use super::{on_all, on_clusters};

use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::StoreError;
use crate::store::events::Caller;
use crate::store::idempotency::{Once, OnceKey, Seen};
use crate::store::journal_db::UnansweredCommit;
use crate::store::journal_db::rows::Rows;

on_all!(what_is_committed_is_read_and_nothing_before);
async fn what_is_committed_is_read_and_nothing_before(on: On) {
    let database = Database::new(on).await;
    assert_eq!(database.journal.last_event().await.unwrap(), EventSeq::ZERO);
    let mut batch = database.begin_as(&database.shard_set).await;
    let rows = database.event(key(1), &[3, 259]);
    batch.write(with(rows, |rows| rows.deferrals = vec![(id(key(1), 3), due_at(9))])).await.unwrap();
    assert_eq!(database.journal.last_event().await.unwrap(), EventSeq::ZERO);
    assert!(!database.engine.has_row(id(key(1), 3)).await.unwrap());

    batch.commit().await.unwrap();
    assert_eq!(database.journal.last_event().await.unwrap(), key(1));
    assert_eq!(database.engine.last_event().await.unwrap(), key(1));
    assert!(database.engine.has_row(id(key(1), 3)).await.unwrap());
    assert_eq!(database.owed().await, [(key(1), 3), (key(1), 259)]);
    assert_eq!(database.engine.body(key(1)).await.unwrap().as_deref(), Some(b"{}".as_slice()));
    assert_eq!(database.engine.body(key(2)).await.unwrap(), None);
}

on_all!(what_is_rolled_back_was_never_there);
async fn what_is_rolled_back_was_never_there(on: On) {
    let database = Database::new(on).await;
    let mut batch = database.begin_as(&database.shard_set).await;
    batch.write(database.event(key(1), &[3])).await.unwrap();
    drop(batch);
    assert_eq!(database.journal.last_event().await.unwrap(), EventSeq::ZERO);
    assert_eq!(database.owed().await, []);
    database.accept(key(1), &[4]).await;
    assert_eq!(database.owed().await, [(key(1), 4)], "the key is still free");
}

on_all!(a_batch_reads_what_it_has_written_itself);
async fn a_batch_reads_what_it_has_written_itself(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3, 4]).await;
    let mut batch = database.begin_as(&database.shard_set).await;
    assert_eq!(batch.newest_event().await.unwrap(), key(1));
    assert!(batch.settled_among(&[id(key(1), 3)]).await.unwrap().is_empty());

    let mut rows = database.event(key(2), &[3]);
    rows.delivery(id(key(1), 3), ended_as(Status::Failed));
    rows.deferrals.push((id(key(1), 4), due_at(9)));
    batch.write(rows).await.unwrap();
    assert_eq!(batch.newest_event().await.unwrap(), key(2));
    let settled = batch.settled_among(&[id(key(1), 3), id(key(1), 4), id(key(2), 3)]).await.unwrap();
    assert_eq!(settled, [id(key(1), 3)].into());
}

on_all!(a_batch_is_told_which_fan_outs_are_open);
async fn a_batch_is_told_which_fan_outs_are_open(on: On) {
    let database = Database::new(on).await;
    let part = database.shard_set.part_of(WebhookNum(3)).num();
    database.accept(key(1), &[3]).await;
    database.accept_due(key(2), &[3], 9).await;
    database.accept(key(3), &[3]).await;
    let mut batch = database.begin_as(&database.shard_set).await;
    let asked = [(key(1), part), (key(1), 77), (key(2), part), (key(3), part), (key(4), part)];
    assert_eq!(batch.open_among(&asked).await.unwrap(), [(key(1), part), (key(3), part)].into());
    let rows = with(Rows::default(), |rows| {
        rows.deferrals = vec![(id(key(1), 3), due_at(9))];
        rows.ended = vec![(key(1), part)];
    });
    batch.write(rows).await.unwrap();
    assert_eq!(batch.open_among(&asked).await.unwrap(), [(key(3), part)].into());
}

on_all!(the_key_of_an_event_is_given_once);
async fn the_key_of_an_event_is_given_once(on: On) {
    let database = Database::new(on).await;
    database.accept(key(1), &[3]).await;
    let mut batch = database.begin_as(&database.shard_set).await;
    batch.write(database.event(key(2), &[4])).await.unwrap();
    let again = batch.write(database.event(key(1), &[5])).await;
    assert!(matches!(again, Err(StoreError::Exists)), "{again:?}");
    drop(batch);
    assert_eq!(database.owed().await, [(key(1), 3)], "nothing of that batch is committed");
}

fn once(key: &OnceKey) -> Once {
    Once { key: key.clone(), status: 202, answer: b"the first answer".to_vec() }
}

on_all!(an_idempotency_key_is_remembered_with_its_batch);
async fn an_idempotency_key_is_remembered_with_its_batch(on: On) {
    let database = Database::new(on).await;
    let publish = OnceKey { tenant: Some(database.tenant), key: "k".to_owned(), fingerprint: [1; 32] };
    let mut batch = database.begin().await;
    assert!(matches!(batch.seen(&publish).await.unwrap(), Seen::New));
    batch.remember(once(&publish), UnixMillis(1)).await.unwrap();
    assert!(matches!(batch.seen(&publish).await.unwrap(), Seen::Before { .. }), "in the same batch");
    drop(batch);

    let mut batch = database.begin().await;
    assert!(matches!(batch.seen(&publish).await.unwrap(), Seen::New), "that batch was rolled back");
    batch.remember(once(&publish), UnixMillis(1)).await.unwrap();
    batch.commit().await.unwrap();

    let mut batch = database.begin().await;
    let Seen::Before { status, answer } = batch.seen(&publish).await.unwrap() else { panic!("it is new") };
    assert_eq!((status, answer.as_slice()), (202, b"the first answer".as_slice()));
    let other = OnceKey { fingerprint: [2; 32], ..publish.clone() };
    assert!(matches!(batch.seen(&other).await.unwrap(), Seen::Otherwise), "another request under the same key");
    for elsewhere in [OnceKey { tenant: None, ..publish.clone() }, OnceKey { key: "K".to_owned(), ..publish.clone() }] {
        assert!(matches!(batch.seen(&elsewhere).await.unwrap(), Seen::New), "{elsewhere:?}");
    }
    let again = batch.remember(once(&publish), UnixMillis(2)).await;
    assert!(matches!(again, Err(StoreError::Exists)), "{again:?}");
}

on_all!(a_callers_id_is_known_to_its_tenant_with_the_receipt);
async fn a_callers_id_is_known_to_its_tenant_with_the_receipt(on: On) {
    let database = Database::new(on).await;
    let caller = || Some(Caller { id: "order-1".to_owned(), digest: [7; 32] });
    let mut batch = database.begin_as(&database.shard_set).await;
    assert!(batch.known_caller(database.tenant, "order-1").await.unwrap().is_none());
    batch.write(database.event_with(key(1), &[3, 4], "{}".into(), caller())).await.unwrap();
    batch.commit().await.unwrap();

    let mut batch = database.begin_as(&database.shard_set).await;
    let known = batch.known_caller(database.tenant, "order-1").await.unwrap().expect("it is known");
    assert_eq!((known.digest, known.receipt.seq), ([7; 32], key(1)));
    assert_eq!((known.receipt.occurred_at, known.receipt.matched), (UnixMillis(7), 2));
    assert!(batch.known_caller(database.tenant, "order-2").await.unwrap().is_none());
    assert!(batch.known_caller(TenantNum(database.tenant.0 + 1), "order-1").await.unwrap().is_none());
    let again = batch.write(database.event_with(key(2), &[], "{}".into(), caller())).await;
    assert!(matches!(again, Err(StoreError::Exists)), "{again:?}");
}

on_all!(what_became_of_a_commit_is_found_out_when_its_answer_is_lost);
async fn what_became_of_a_commit_is_found_out_when_its_answer_is_lost(on: On) {
    let database = Database::new(on).await;
    let shard_set = &database.shard_set;
    for (n, is_committed) in [(1, true), (2, false), (3, true)] {
        let mut batch = database.begin().await;
        let locked = batch.lock(shard_set, &[shard(3)].into()).await.unwrap();
        batch.write(database.event(key(n), &[3])).await.unwrap();
        if is_committed {
            batch.commit().await.unwrap();
        } else {
            drop(batch);
        }
        let (transaction, event) = (locked.transaction.as_ref(), Some(key(n)));
        let unanswered = UnansweredCommit { shard_set, transaction, event };
        assert_eq!(database.journal.resolve_commit(&unanswered).await, is_committed, "batch {n}");
    }
}

on_clusters!(a_batch_without_an_event_is_known_by_its_transaction);
async fn a_batch_without_an_event_is_known_by_its_transaction(on: On) {
    let database = Database::new(on).await;
    let shard_set = &database.shard_set;
    database.accept(key(1), &[3]).await;
    for is_committed in [false, true] {
        let mut batch = database.begin().await;
        let locked = batch.lock(shard_set, &[shard(3)].into()).await.unwrap();
        batch.write(with(Rows::default(), |rows| rows.deferrals = vec![(id(key(1), 3), due_at(9))])).await.unwrap();
        if is_committed {
            batch.commit().await.unwrap();
        } else {
            drop(batch);
        }
        let unanswered = UnansweredCommit { shard_set, transaction: locked.transaction.as_ref(), event: None };
        assert_eq!(database.journal.resolve_commit(&unanswered).await, is_committed);
    }
    let nothing = UnansweredCommit { shard_set, transaction: None, event: None };
    assert!(!database.journal.resolve_commit(&nothing).await, "a batch with nothing to write");
}

on_all!(a_process_that_has_the_database_alone_locks_nothing_and_owns_everything);
async fn a_process_that_has_the_database_alone_locks_nothing_and_owns_everything(on: On) {
    let database = Database::new(on).await;
    let is_alone = matches!(on, On::Sqlite | On::Memory);
    assert_eq!(database.engine.is_clustered(), !is_alone);
    assert_eq!(database.cluster.is_clustered(), !is_alone);
    let shard_set = &database.shard_set;
    assert!(shard_set.serves(WebhookNum(3)) && shard_set.serves(WebhookNum(254)));
    let locked = database.begin().await.lock(shard_set, &[shard(3)].into()).await.unwrap();
    assert_eq!((shard_set.node().is_none(), locked.transaction.is_none()), (is_alone, is_alone));
    assert!(!locked.is_reaped && locked.lost.is_empty(), "{locked:?}");
    assert_eq!(database.cluster.survey(shard_set).await.unwrap().is_none(), is_alone);
    database.journal.answers().await;
}
