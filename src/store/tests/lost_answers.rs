//! A PostgreSQL whose answers get lost: it does not answer a COMMIT, or falls silent altogether.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::ledger::agrees;
use super::*;
use crate::store::journal_db::UnansweredCommit;
use crate::store::transaction_id::TransactionId;
use test_support::cluster::Database;
use test_support::proxy::{Loss, Proxy};

/// Much longer than the ten seconds that a batch may take.
const GIVEN_UP: Duration = Duration::from_secs(60);

async fn behind_a_proxy() -> (World, Proxy) {
    let home = Home::new(On::Postgres);
    let Home::Postgres(database) = &home else { unreachable!() };
    let proxy = Proxy::new(Database::socket());
    let options = Options { url: database.url_at(proxy.dir()), ..home.options() };
    (World::of(Store::open(options).await.unwrap(), home).await, proxy)
}

#[tokio::test]
async fn a_publish_whose_commit_was_not_answered_is_accepted_if_the_batch_was_written() {
    let (world, proxy) = behind_a_proxy().await;
    let webhook = world.webhook().await.num;
    world.catch_up();
    proxy.lose_next_commit(Loss::Answer);

    let Published::Accepted(receipt) = world.publish(Some(("order-1", 1)), &[webhook.0]).await else { panic!() };

    let fanouts = world.running.feed.take_waiting();
    assert_eq!(fanouts[0].event.seq, receipt.seq);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
    assert_eq!(world.publish(Some(("order-1", 1)), &[webhook.0]).await, Published::Duplicate(receipt));
    world.record(attempted(id(receipt, webhook), 1, Status::Success, None)).await;
    assert!(world.open_fanouts().await.is_empty());
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

#[tokio::test]
async fn a_publish_whose_commit_was_answered_by_silence_is_refused_in_time_and_delivered() {
    let (world, proxy) = behind_a_proxy().await;
    let webhook = world.webhook().await.num;
    world.catch_up();
    proxy.lose_next_commit(Loss::AnswerInSilence);
    let publish = || world.running.journal.publish(vec![world.draft(Some(("order-1", 1)), &[webhook.0])], None);

    let refused = tokio::time::timeout(GIVEN_UP, publish()).await.expect("an answer");
    assert!(matches!(refused, Err(PublishError::Store(_))));

    world.running.journal.barrier().await.unwrap();
    let fanouts = world.running.feed.take_waiting();
    let [Published::Duplicate(receipt)] = publish().await.unwrap().published[..] else { panic!("it is known") };
    assert_eq!(fanouts[0].event.seq, receipt.seq);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

#[tokio::test]
async fn a_publish_whose_commit_did_not_arrive_is_refused_and_accepted_the_next_time() {
    let (world, proxy) = behind_a_proxy().await;
    let webhook = world.webhook().await.num;
    world.catch_up();
    proxy.lose_next_commit(Loss::Question);

    let publish = || world.running.journal.publish(vec![world.draft(Some(("order-1", 1)), &[webhook.0])], None);
    assert!(matches!(publish().await, Err(PublishError::Store(_))));

    assert!(world.open_fanouts().await.is_empty() && world.running.feed.is_idle());
    assert!(matches!(publish().await.unwrap().published[..], [Published::Accepted(_)]));
    world.running.journal.barrier().await.unwrap();
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

#[tokio::test]
async fn what_was_recorded_counts_once_whatever_became_of_the_answer() {
    for loss in [Loss::Answer, Loss::Question] {
        let (world, proxy) = behind_a_proxy().await;
        world.catch_up();
        let webhook = world.webhook().await.num;
        let mut ids = Vec::new();
        // More events than the ledger knows by key, so that it needs look-ups.
        for _ in 0..100 {
            ids.push(id(world.accept(&[webhook.0]).await, webhook));
        }
        world.record(attempted(ids[90], 1, Status::Failed, None)).await;
        world.record(Record::Cancel { id: ids[91], at: UnixMillis::now(), operation: None }).await;
        let later = UnixMillis::now().plus(Duration::from_secs(600));
        world.record(Record::Defer { id: ids[0], next_at: UnixMillis(5) }).await;
        let (answer, answered) = oneshot::channel();
        proxy.lose_next_commit(loss);

        for record in [
            attempted(ids[1], 1, Status::Success, None),
            attempted(ids[89], 1, Status::Success, None),
            attempted(ids[2], 1, Status::Pending, Some(later)),
            Record::Defer { id: ids[3], next_at: UnixMillis(5) },
            Record::Retry { id: ids[90], at: UnixMillis::now(), operation: None },
            Record::Cancel { id: ids[4], at: UnixMillis::now(), operation: None },
            Record::Purge { webhook, through: ids[0].event, except: vec![], answer },
        ] {
            world.running.journal.record(record).await.unwrap();
        }

        assert_eq!(answered.await.unwrap(), 1, "{loss:?}");
        world.running.journal.barrier().await.unwrap();
        agrees(&world.store, &world.running.ledger, &[webhook]).await;
        let refused = world.running.journal.stats().failed_commits.load(Ordering::Relaxed);
        assert_eq!(refused, u64::from(loss == Loss::Question));
    }
}

/// A transaction that writes something, and its number.
async fn begun(store: &Store) -> (Transaction, TransactionId) {
    let transaction = store.begin().await.unwrap();
    transaction.execute_unprepared("INSERT INTO engine_state (name, value) VALUES ('begun', 1)").await.unwrap();
    let id = format!("SELECT {}", TransactionId::SELECTED);
    let id = transaction.query_one_raw(sea_orm::Statement::from_string(store.backend(), id)).await.unwrap().unwrap();
    (transaction, TransactionId::of(id.try_get_by_index(0).unwrap()))
}

#[tokio::test]
async fn the_server_tells_what_became_of_a_transaction() {
    let world = World::new(On::Postgres).await;
    let store = &world.store;
    let is_committed = async |transaction: Option<&TransactionId>, event: Option<EventSeq>| {
        store.resolve_commit(&UnansweredCommit { shard_set: &world.shard_set, transaction, event }).await
    };
    let (undone, id) = begun(store).await;
    let asked = tokio::time::timeout(Duration::from_millis(500), is_committed(Some(&id), None)).await;
    assert!(asked.is_err(), "it is not known yet");
    undone.rollback().await.unwrap();
    assert!(!is_committed(Some(&id), None).await);

    let (committed, id) = begun(store).await;
    committed.commit().await.unwrap();
    let event = world.accept(&[]).await.seq;
    assert!(is_committed(Some(&id), None).await);
    assert!(is_committed(Some(&id), Some(event)).await);
    assert!(
        !is_committed(Some(&id), Some(event.next(world.shard_set.slot(), UnixMillis::now()))).await,
        "another one has its number"
    );
    let future = TransactionId::of("999999999999".to_owned());
    assert!(!is_committed(Some(&future), None).await, "it was lost with the server that counted so far");
    assert!(!is_committed(None, None).await);
}

#[tokio::test]
async fn nobody_waits_long_for_a_database_that_is_silent_and_all_goes_on_after() {
    let (world, proxy) = behind_a_proxy().await;
    let webhook = world.webhook().await.num;
    world.catch_up();
    let owed = id(world.accept(&[webhook.0]).await, webhook);
    let publish = || world.running.journal.publish(vec![world.draft(None, &[webhook.0])], None);
    proxy.be_a_hole(true);

    let began = Instant::now();
    world.running.journal.record(attempted(owed, 1, Status::Success, None)).await.unwrap();
    let calls = async {
        tokio::join!(
            publish(),
            world.store.tenant(world.tenant.id),
            world.store.mark_stopped_cleanly(UnixMillis::now()),
            world.store.renew(&world.shard_set),
        )
    };
    let (published, read, written, renewed) = tokio::time::timeout(GIVEN_UP, calls).await.expect("refusals");
    assert!(matches!(published, Err(PublishError::Store(_))), "{published:?}");
    assert!(read.is_err() && written.is_err() && renewed.is_err());
    let (waited, began) = (began.elapsed(), Instant::now());
    assert!(matches!(publish().await, Err(PublishError::Store(_))));
    assert!(began.elapsed() < waited / 2, "refused after {:?}, and the first one after {waited:?}", began.elapsed());

    proxy.be_a_hole(false);
    let recovered = async {
        while publish().await.is_err() || world.store.renew(&world.shard_set).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(GIVEN_UP, recovered).await.expect("a database that answers again");
    world.running.journal.barrier().await.unwrap();
    assert_eq!(world.delivery(owed).await.unwrap().state.status, Status::Success);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}
