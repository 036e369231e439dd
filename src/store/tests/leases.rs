//! Who holds what, on a database that several processes know.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::*;
use crate::store::leases::{Holder, ShardNum, Taken};

/// Longer than any test with it.
const LONG: Duration = Duration::from_secs(600);

/// Over when the next statement comes.
const SHORT: Duration = Duration::from_millis(1);

async fn world(lease: Duration) -> World {
    let home = Home::new(On::Postgres);
    World::of(home.open_for(lease).await, home).await
}

async fn refused(by: &Store) -> Holder {
    match by.take_shards("another").await.unwrap() {
        Taken::Held(holder) => holder,
        Taken::Mine(_) => panic!("two hold the same"),
    }
}

/// Another node takes over once the lease has ended.
async fn overtake(world: &World) -> Store {
    let other = world.home.open_for(LONG).await;
    tokio::time::sleep(SHORT * 2).await;
    assert!(matches!(other.take_shards("another").await.unwrap(), Taken::Mine(_)));
    other
}

#[tokio::test]
async fn nobody_takes_what_another_node_holds_until_it_is_given_up() {
    let world = world(LONG).await;
    let other = world.home.open_for(LONG).await;
    let holder = refused(&other).await;
    assert_eq!(holder.name, "test");
    assert!(world.store.renew(&world.holding).await.unwrap());
    let renewed = refused(&other).await;
    assert!(renewed.node == holder.node && renewed.lease_until > holder.lease_until);

    world.store.release(&world.holding).await.unwrap();

    assert!(matches!(other.take_shards("another").await.unwrap(), Taken::Mine(_)));
    assert!(!world.store.renew(&world.holding).await.unwrap(), "nobody renews what is given up");
}

#[tokio::test]
async fn nobody_undoes_the_schema_of_a_database_that_is_served() {
    let world = world(LONG).await;
    let refused = Store::migrate_down(&world.home.options(), 1).await.unwrap_err().to_string();
    assert_eq!(refused, "the database is served by another posthaste (test); stop that one first");
    let home = world.stop().await;
    Store::migrate_down(&home.options(), 1).await.unwrap();
    Store::migrate_down(&home.options(), 1).await.unwrap();
}

#[tokio::test]
async fn of_many_that_want_the_same_one_gets_it() {
    let home = Home::new(On::Postgres);
    let stores = futures_util::future::join_all((0..6).map(|_| home.open())).await;
    let taken = futures_util::future::join_all(stores.iter().map(|store| store.take_shards("one"))).await;
    let mine = taken.iter().filter(|taken| matches!(taken.as_ref().unwrap(), Taken::Mine(_)));
    assert_eq!(mine.count(), 1);
}

#[tokio::test]
async fn a_node_that_was_overtaken_writes_nothing_and_is_told() {
    let world = world(SHORT).await;
    let webhook = world.webhook().await;
    let owed = world.accept(&[webhook.num.0]).await;
    let other = overtake(&world).await;

    assert!(!world.store.renew(&world.holding).await.unwrap());
    world.record(attempted(id(owed, webhook.num), 1, Status::Success, None)).await;
    let published = world.running.journal.publish(vec![world.draft(None, &[webhook.num.0])], None).await;

    assert!(matches!(published, Err(PublishError::Deposed)), "{published:?}");
    assert_eq!(world.running.journal.stats().fenced.load(Ordering::Relaxed), 1);
    assert!(other.delivery(world.tenant.num, id(owed, webhook.num)).await.unwrap().is_none());
    assert_eq!(other.fanouts(EventSeq::ZERO, 10).await.unwrap().len(), 1, "it is still owed");
    assert_eq!(other.last_event().await.unwrap(), owed.seq);
}

/// The batch is refused at first, when its targets are marked already; then another node takes over.
#[tokio::test]
async fn no_fan_out_ends_by_a_batch_that_was_dropped_after_a_first_try() {
    let world = world(SHORT).await;
    let webhook = world.webhook().await;
    world.catch_up();
    let owed = world.accept(&[webhook.num.0]).await;
    let (refuse, accept) = world::refusal(On::Postgres);
    world.store.inner.writer.execute_unprepared(refuse).await.unwrap();
    world.running.journal.record(attempted(id(owed, webhook.num), 1, Status::Success, None)).await.unwrap();
    let stats = world.running.journal.stats();
    while stats.failed_commits.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }

    let other = overtake(&world).await;
    world.store.inner.writer.execute_unprepared(accept).await.unwrap();
    world.running.journal.barrier().await.unwrap();

    assert_eq!(stats.fenced.load(Ordering::Relaxed), 1);
    assert_eq!(other.fanouts(EventSeq::ZERO, 10).await.unwrap().len(), 1, "it is still owed");
}

#[tokio::test]
async fn a_node_that_froze_in_the_middle_of_a_batch_is_overtaken_and_its_batch_undone() {
    let world = world(SHORT).await;
    let frozen = world.store.begin().await.unwrap();
    let shards: BTreeSet<ShardNum> = (0..300).map(|num| ShardNum::of(WebhookNum(num))).collect();
    assert!(world.holding.lock(&frozen, &shards).await.unwrap().lost.is_empty());
    frozen.execute_unprepared("INSERT INTO engine_state (name, value) VALUES ('half done', 1)").await.unwrap();

    let other = tokio::time::timeout(Duration::from_secs(30), overtake(&world)).await.unwrap();

    let found = "SELECT 1 FROM engine_state WHERE name = 'half done'";
    let found = sea_orm::Statement::from_string(other.backend(), found);
    assert!(other.readers().query_one_raw(found).await.unwrap().is_none());
    assert!(frozen.commit().await.is_err());
}

#[tokio::test]
async fn a_file_is_held_for_ever() {
    let world = World::new(On::Sqlite).await;
    assert!(!world.store.is_shared());
    assert!(world.store.renew(&world.holding).await.unwrap());
}
