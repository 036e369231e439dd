//! A database that was copied from another server, or that has lost transactions. PostgreSQL only.

use std::sync::atomic::Ordering;

use super::ledger::agrees;
use super::world::gain_all;
use super::*;
use crate::store::config_changes::Change;
use crate::store::fanout_scan::{ScanCursor, Which};

/// A transaction number of a server that has counted much further.
const FOREIGN: &str = "'999999999999'::xid8";

/// The fan-outs that the next scan from the beginning finds and that are not tracked yet.
async fn found_by(world: &World) -> Vec<EventSeq> {
    world.running.feed.catch_up();
    claimed_by(world).await
}

async fn claimed_by(world: &World) -> Vec<EventSeq> {
    let mut cursor = ScanCursor::default();
    let page = world.store.visible_fanouts(&world.shard_set, &mut cursor, Which::All, 100).await.unwrap();
    let (answer, answered) = oneshot::channel();
    let seqs: Vec<EventSeq> = page.found.iter().map(|found| found.fanout.event.seq).collect();
    world.record(Record::Claim { fanouts: page.found, answer }).await;
    let new = answered.await.unwrap();
    seqs.into_iter().zip(new).filter_map(|(seq, epoch)| epoch.map(|_| seq)).collect()
}

#[tokio::test]
async fn rows_that_another_server_has_numbered_are_found_and_counted_once() {
    let world = World::new(On::Postgres).await;
    let webhook = world.webhook().await.num;
    let owed = [world.accept(&[webhook.0]).await.seq, world.accept(&[webhook.0]).await.seq];
    world.tamper(&format!("UPDATE fanout SET tx = {FOREIGN}")).await;

    let world = world.restart().await;

    assert_eq!(found_by(&world).await, owed);
    assert!(found_by(&world).await.is_empty(), "they are tracked");
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
}

#[tokio::test]
async fn a_scan_that_an_activation_has_overtaken_claims_nothing() {
    let world = World::new(On::Postgres).await;
    let webhook = world.webhook().await.num;
    let owed = world.accept(&[webhook.0]).await.seq;

    let world = world.restart().await;

    assert_eq!(
        claimed_by(&world).await,
        [],
        "its shards were activated, and the store is not read from its beginning yet"
    );
    assert_eq!(found_by(&world).await, [owed]);
}

#[tokio::test]
async fn changes_that_another_server_has_numbered_are_read_once_and_forgotten() {
    let world = World::new(On::Postgres).await;
    world.webhook().await;
    world.tamper(&format!("UPDATE config_change SET tx = {FOREIGN}, changed_at = 0")).await;
    world.tamper("INSERT INTO engine_state VALUES ('changes_forgotten_to', 999999999999)").await;

    let world = world.restart().await;

    let mut position = world.store.position().await.unwrap();
    let look = world.store.changes_since(&position).await.unwrap();
    assert!(!look.changes.contains(&Change::Anything), "what was deleted elsewhere is not missing here");
    position = look.position;
    assert!(world.store.changes_since(&position).await.unwrap().changes.is_empty());
    // The server counts the transactions of other tests, too; they must have ended.
    let forgotten = async {
        while world.store.forget_old_changes(UnixMillis::now()).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), forgotten).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_server_lacks_what_it_has_seen_writes_nothing_until_it_has_joined_again() {
    let world = World::new(On::Postgres).await;
    let webhook = world.webhook().await.num;
    let owed = world.accept(&[webhook.0]).await;
    let (node, tag) = (world.shard_set.node(), world.shard_set.tag_of(ShardNum::of(webhook)));
    world.shard_set.pretend_a_promotion();

    world.record(attempted(id(owed, webhook), 1, Status::Success, None)).await;
    assert!(world.shard_set.has_diverged() && world.delivery(id(owed, webhook)).await.is_none());
    let published = world.running.journal.publish(vec![world.draft(None, &[webhook.0])], None).await;
    assert!(matches!(published, Err(PublishError::Diverged)), "{published:?}");
    let mut cursor = ScanCursor::default();
    let page = world.store.visible_fanouts(&world.shard_set, &mut cursor, Which::All, 9).await.unwrap();
    assert!(page.found.is_empty(), "nothing is served");

    let member = world.store.rejoin(&world.shard_set, "test", None).await.unwrap().unwrap();
    world.running.journal.rejoin(member).await.unwrap();
    assert!(!world.shard_set.has_diverged() && world.shard_set.node() != node && world.shard_set.owned().is_empty());
    assert_eq!(world.running.ledger.pending(webhook), 0, "nothing is held");
    gain_all(&world.store, &world.shard_set, &world.running.journal).await;

    assert_eq!(found_by(&world).await, [owed.seq]);
    assert_eq!(world.shard_set.in_doubt_of(webhook).events_to, owed.seq, "it may have been sent");
    assert!(!world.shard_set.serves_under(webhook, tag), "tags of the lost history mean nothing");
    let next = world.accept(&[webhook.0]).await;
    assert!(next.seq > owed.seq);
    agrees(&world.store, &world.running.ledger, &[webhook]).await;
    assert_eq!(world.running.journal.stats().divergences.load(Ordering::Relaxed), 1);
}

/// The node's number may be another node's in the new history.
#[tokio::test]
async fn a_node_that_joins_again_leaves_a_node_alone_that_has_got_its_number() {
    let world = World::new(On::Postgres).await;
    let node = world.shard_set.node().unwrap();
    world.tamper("UPDATE node SET started_at = started_at + 1").await;
    world.shard_set.pretend_a_promotion();
    assert!(world.store.renew(&world.shard_set).await.is_ok() && world.shard_set.has_diverged());

    let member = world.store.rejoin(&world.shard_set, "test", None).await.unwrap().unwrap();
    world.running.journal.rejoin(member).await.unwrap();

    let survey = world.store.survey(&world.shard_set).await.unwrap().unwrap();
    assert_eq!(survey.nodes.iter().map(|other| other.num).collect::<Vec<_>>(), [node, world.shard_set.node().unwrap()]);
    assert!(survey.shards.iter().all(|(owner, _)| *owner == Some(node)));
}

#[tokio::test]
async fn rows_whose_event_is_gone_end_when_their_shard_is_taken() {
    let world = World::new(On::Postgres).await;
    let webhook = world.webhook().await.num;
    let (owed, late) = (world.accept(&[webhook.0]).await, world.accept(&[webhook.0]).await);
    let kept = world.accept(&[webhook.0]).await;
    world.catch_up();
    world.record(attempted(id(late, webhook), 1, Status::Pending, Some(UnixMillis::now()))).await;
    world.tamper(&format!("DELETE FROM event WHERE seq IN ({}, {})", owed.seq.0, late.seq.0)).await;
    assert_eq!(world.store.integrity_problems().await.unwrap().len(), 2);
    assert!(world.store.repair(UnixMillis::now()).await.is_err(), "a node is at work");

    let world = world.restart().await;

    assert!(world.store.integrity_problems().await.unwrap().is_empty());
    assert_eq!(world.running.ledger.pending(webhook), 1);
    assert_eq!(found_by(&world).await, [kept.seq]);
    assert_eq!(world.running.journal.stats().orphans.load(Ordering::Relaxed), 3);
    let cancelled = "SELECT count(*) FROM delivery WHERE status = 3 AND next_at IS NULL AND settled_at > 0";
    let row =
        world.store.readers().query_one_raw(Statement::from_string(DbBackend::Postgres, cancelled)).await.unwrap();
    assert_eq!(row.unwrap().try_get_by_index::<i64>(0).unwrap(), 1);
}

on_both!(a_database_that_no_server_has_open_is_repaired);
async fn a_database_that_no_server_has_open_is_repaired(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let owed = world.accept(&[webhook.0]).await;
    world.catch_up();
    world.record(attempted(id(owed, webhook), 1, Status::Pending, Some(UnixMillis::now()))).await;
    let other = world.accept(&[webhook.0]).await;
    world.tamper(&format!("DELETE FROM event WHERE seq IN ({}, {})", owed.seq.0, other.seq.0)).await;
    let home = world.stop().await;
    let store = home.open().await;

    let ended = store.repair(UnixMillis::now()).await.unwrap();

    assert_eq!((ended.deliveries.len(), ended.fanouts.len()), (1, 2));
    assert_eq!(store.repair(UnixMillis::now()).await.unwrap().count(), 0);
}
