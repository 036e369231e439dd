//! Nodes on one database: who owns which shard, who may write, and what a node learns of the others.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use sea_orm::ConnectionTrait;

use super::world::gain_all;
use super::*;
use crate::domain::shard::ShardNum;
use crate::journal::Running;
use crate::store::events::Receipt;
use crate::store::fanout_scan::ScannedFanout;
use crate::store::fanout_scan::{ScanCursor, Which};
use crate::store::leases::{Renewal, ShardSet};

/// Longer than any test that uses it.
const LONG: Duration = Duration::from_secs(600);

/// Another node on the same database.
struct Other {
    store: Store,
    shard_set: ShardSet,
    running: Running,
}

impl Other {
    /// Joins, and activates every shard without an owner.
    async fn joins(world: &World) -> Self {
        let store = world.home.open_for(LONG).await;
        let shard_set = store.join("another", Some("http://127.0.0.2:8080")).await.unwrap();
        let (running, _) = store.start_journal(&shard_set).await;
        gain_all(&store, &shard_set, &running.journal).await;
        Self { store, shard_set, running }
    }

    /// Takes over from the first node, whose lease has ended.
    async fn overtakes(world: &World) -> Self {
        world.store.inner.readers.execute_unprepared("UPDATE node SET lease_until = 1").await.unwrap();
        let store = world.home.open_for(LONG).await;
        assert!(store.reap_expired(world.shard_set.node().unwrap()).await.unwrap());
        Self::joins(world).await
    }

    async fn publish(&self, world: &World, targets: &[i64]) -> EventSeq {
        let published = self.running.journal.publish(vec![world.draft(None, targets)], None).await.unwrap().published;
        let [Published::Accepted(receipt)] = published[..] else { panic!("{published:?}") };
        receipt.seq
    }
}

async fn world(lease: Duration) -> World {
    let home = Home::new(On::Postgres);
    World::of(home.open_for(lease).await, home).await
}

/// The fan-outs that are new since the node's last scan, by key and shard.
async fn look(
    store: &Store,
    (shard_set, running): (&ShardSet, &Running),
    cursor: &mut ScanCursor,
    all: bool,
) -> Vec<(EventSeq, i16)> {
    running.feed.catch_up();
    let mut keys = Vec::new();
    loop {
        let expected = || running.feed.expected_events();
        let which = if all { Which::All } else { Which::New(&expected) };
        let page = store.visible_fanouts(shard_set, cursor, which, 2).await.unwrap();
        let (answer, answered) = tokio::sync::oneshot::channel();
        running.journal.record(Record::Claim { fanouts: page.found.clone(), answer }).await.unwrap();
        let new = answered.await.unwrap();
        let new = page.found.iter().zip(new).filter(|(_, epoch)| epoch.is_some());
        keys.extend(new.map(|(ScannedFanout { fanout, .. }, _)| (fanout.event.seq, fanout.shard)));
        if !page.is_cut {
            return keys;
        }
    }
}

#[tokio::test]
async fn nobody_takes_what_another_node_holds_until_it_is_given_up() {
    let world = world(LONG).await;
    let other = Other::joins(&world).await;
    assert!(other.shard_set.owned().is_empty());
    assert!(!other.store.reap_expired(world.shard_set.node().unwrap()).await.unwrap(), "it lives");
    let survey = other.store.survey(&other.shard_set).await.unwrap().unwrap();
    assert_eq!(survey.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["test", "another"]);
    assert!(survey.shards.iter().all(|(owner, _)| *owner == world.shard_set.node()));
    assert_eq!(world.store.renew(&world.shard_set).await.unwrap(), Renewal::Renewed);

    let given: Vec<ShardNum> = [3, 200].map(ShardNum::from).into();
    world.shard_set.stop_serving(&given);
    assert!(!world.shard_set.serves(WebhookNum(256 + 3)) && world.shard_set.serves(WebhookNum(4)));
    world.running.journal.detach(given.clone()).await.unwrap();
    world.store.release(&world.shard_set, &given, false).await.unwrap();
    gain_all(&other.store, &other.shard_set, &other.running.journal).await;

    assert_eq!(other.shard_set.served(), given);
    assert_eq!(other.shard_set.in_doubt_of(WebhookNum(3)), InDoubt::NOTHING);
    assert_eq!(world.shard_set.served().len(), 254);
}

#[tokio::test]
async fn what_a_node_has_not_given_up_is_free_and_in_doubt_once_it_has_left() {
    let world = world(LONG).await;
    let other = Other::joins(&world).await;
    let newest = world.accept(&[3]).await.seq;
    world.running.journal.detach([3].map(ShardNum::from).into()).await.unwrap();
    world.store.release(&world.shard_set, &world.shard_set.owned(), false).await.unwrap();
    world.store.deregister(&world.shard_set).await.unwrap();
    gain_all(&other.store, &other.shard_set, &other.running.journal).await;

    assert_eq!(other.shard_set.served().len(), 256);
    assert_eq!(other.shard_set.in_doubt_of(WebhookNum(3)).events_to, newest);
    assert_eq!(other.shard_set.in_doubt_of(WebhookNum(4)), InDoubt::NOTHING);
}

#[tokio::test]
async fn what_another_node_has_accepted_gets_rows_once_it_is_heard_of() {
    let world = world(LONG).await;
    let other = Other::joins(&world).await;
    let mut cursor = ScanCursor::default();
    look(&world.store, (&world.shard_set, &world.running), &mut cursor, true).await;
    let event = other.publish(&world, &[3]).await;
    let (id, next_at) = (DeliveryId { event, webhook: WebhookNum(3) }, UnixMillis(1));
    world.record(Record::Defer { id, next_at }).await;
    assert!(world.running.feed.seen_watermark() < event && !world.store.has_row(id).await.unwrap());

    look(&world.store, (&world.shard_set, &world.running), &mut cursor, false).await;
    world.record(Record::Defer { id, next_at }).await;
    assert!(world.running.feed.seen_watermark() == event && world.store.has_row(id).await.unwrap());
    assert_eq!(world.running.ledger.pending(WebhookNum(3)), 1);
}

#[tokio::test]
async fn what_is_for_ordered_webhooks_comes_after_what_others_had_accepted_and_is_found_after_it() {
    let world = world(LONG).await;
    world.catch_up();
    let webhook = world.webhook().await.num.0;
    let other = Other::joins(&world).await;
    let mut cursor = ScanCursor::default();
    look(&world.store, (&world.shard_set, &world.running), &mut cursor, true).await;
    let theirs = other.publish(&world, &[webhook]).await;
    // The clock of the other node is an hour ahead.
    let ahead = other.publish(&world, &[]).await;
    let hour = 3_600_000_i64 << 21;
    world.store.tamper(&format!("UPDATE event SET seq = seq + {hour} WHERE seq = {}", ahead.0)).await;

    let unordered = world.accept(&[webhook]).await.seq;
    let draft = Draft { is_ordered: true, ..world.draft(None, &[webhook]) };
    let published = world.running.journal.publish(vec![draft], None).await.unwrap().published;
    let [Published::Accepted(Receipt { seq: ordered, .. })] = published[..] else { panic!("{published:?}") };
    world.running.journal.barrier().await.unwrap();

    assert!(unordered.0 < ahead.0 + hour && ordered.0 > ahead.0 + hour);
    let feed = &world.running.feed;
    let fanouts = feed.take_waiting();
    assert_eq!(fanouts.iter().map(|fanout| fanout.event.seq).collect::<Vec<_>>(), [unordered]);
    assert_eq!(feed.expected_events(), [ordered]);
    let shard = ShardNum::of(WebhookNum(webhook)).num();
    let found = look(&world.store, (&world.shard_set, &world.running), &mut cursor, false).await;
    assert_eq!(found, [(theirs, shard), (ordered, shard)]);
    assert!(feed.expected_events().is_empty());
}

#[tokio::test]
async fn nobody_undoes_the_schema_of_a_database_that_is_served() {
    let world = world(LONG).await;
    let refused = Store::migrate_down(&world.home.options(), 1, false).await.unwrap_err().to_string();
    assert_eq!(refused, "the database is served by another posthaste (test); stop that one first");
    let home = world.stop().await;
    Store::migrate_down(&home.options(), 1, false).await.unwrap();
    Store::migrate_down(&home.options(), 1, false).await.unwrap();
}

#[tokio::test]
async fn of_many_that_join_at_once_each_has_its_own_slot_and_each_shard_one_of_them() {
    let home = Home::new(On::Postgres);
    let stores = futures_util::future::join_all((0..6).map(|_| home.open())).await;
    let holdings = stores.iter().map(|store| store.join("one", None));
    let holdings: Vec<ShardSet> =
        futures_util::future::join_all(holdings).await.into_iter().map(Result::unwrap).collect();
    let slots: BTreeSet<u8> = holdings.iter().map(|shard_set| shard_set.slot().0).collect();
    assert_eq!(slots.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let all: Vec<ShardNum> = ShardNum::all().collect();
    let taken = stores.iter().zip(&holdings).map(|(store, shard_set)| store.acquire(shard_set, &all));
    let taken = futures_util::future::join_all(taken).await;
    let mut shards: Vec<ShardNum> = taken.into_iter().flatten().flatten().map(|grant| grant.shard).collect();
    shards.sort_unstable();
    assert_eq!(shards, all);
}

#[tokio::test]
async fn a_node_that_was_overtaken_writes_nothing_and_is_told() {
    let world = world(LONG).await;
    let webhook = world.webhook().await;
    let owed = world.accept(&[webhook.num.0]).await;
    let other = Other::overtakes(&world).await;

    assert_eq!(world.store.renew(&world.shard_set).await.unwrap(), Renewal::Reaped);
    world.record(attempted(id(owed, webhook.num), 1, Status::Success, None)).await;
    let published = world.running.journal.publish(vec![world.draft(None, &[webhook.num.0])], None).await;

    assert!(matches!(published, Err(PublishError::Reaped)), "{published:?}");
    assert_eq!(world.running.journal.stats().fenced.load(Ordering::Relaxed), 1);
    assert!(other.store.delivery(world.tenant.num, id(owed, webhook.num)).await.unwrap().is_none());
    let mut cursor = ScanCursor::default();
    let found = look(&other.store, (&other.shard_set, &other.running), &mut cursor, true).await;
    assert_eq!(found, [(owed.seq, ShardNum::of(webhook.num).num())], "it is still owed");
    assert_eq!(other.store.last_event().await.unwrap(), owed.seq);
    assert_eq!(other.shard_set.in_doubt_of(webhook.num).events_to, owed.seq, "and it may have been sent");
    assert_eq!(other.running.ledger.pending(webhook.num), 1);
}

#[tokio::test]
async fn what_one_node_publishes_the_owner_finds_once_and_counts_once() {
    let world = world(LONG).await;
    let (mine, webhook) = ((&world.shard_set, &world.running), world.webhook().await.num);
    let other = Other::joins(&world).await;
    let mut cursor = ScanCursor::default();
    let shard = ShardNum::of(webhook).num();
    assert!(look(&world.store, mine, &mut cursor, true).await.is_empty());
    let mut published = Vec::new();
    for _ in 0..5 {
        published.push((other.publish(&world, &[webhook.0]).await, shard));
    }
    assert!(other.running.remote_shards.next().await.contains(&ShardNum::of(webhook)));
    assert_eq!(world.running.ledger.pending(webhook), 0, "no scan has run");

    assert_eq!(look(&world.store, mine, &mut cursor, false).await, published);
    assert!(look(&world.store, mine, &mut cursor, false).await.is_empty());
    let mut again = ScanCursor::default();
    assert!(look(&world.store, mine, &mut again, true).await.is_empty(), "they are tracked");

    assert_eq!(world.running.ledger.pending(webhook), 5);
    for (seq, _) in &published {
        let done = attempted(DeliveryId { event: *seq, webhook }, 1, Status::Success, None);
        world.record(done).await;
    }
    assert_eq!(world.running.ledger.pending(webhook), 0);
    let mut again = ScanCursor::default();
    assert!(look(&world.store, mine, &mut again, true).await.is_empty(), "they have ended");
}

/// The older of two transactions is committed last, after a scan.
#[tokio::test]
async fn what_becomes_visible_late_is_found_all_the_same() {
    let world = world(LONG).await;
    let (mine, webhook) = ((&world.shard_set, &world.running), world.webhook().await.num);
    let other = Other::joins(&world).await;
    let mut cursor = ScanCursor::default();
    let seq = other.publish(&world, &[webhook.0]).await;
    look(&world.store, mine, &mut cursor, false).await;
    let copy = |to: i64| {
        format!(
            "WITH one AS (INSERT INTO event SELECT {to}, tenant_num, kind, occurred_at, caller_id, matched, body \
             FROM event WHERE seq = {} RETURNING seq) \
             INSERT INTO fanout (event_seq, shard, targets) SELECT one.seq, f.shard, f.targets FROM one, fanout f \
             WHERE f.event_seq = {}",
            seq.0, seq.0
        )
    };
    let (early, late) = (seq.0 + 1, seq.0 + 2);
    let older = other.store.inner.writer.begin().await.unwrap();
    older.execute_unprepared(&copy(early)).await.unwrap();
    world.store.inner.async_commit_pool.execute_unprepared(&copy(late)).await.unwrap();

    let first = look(&world.store, mine, &mut cursor, false).await;
    older.commit().await.unwrap();
    let second = look(&world.store, mine, &mut cursor, false).await;

    let shard = ShardNum::of(webhook).num();
    assert_eq!((first, second), (vec![(EventSeq(late), shard)], vec![(EventSeq(early), shard)]));
}

#[tokio::test]
async fn a_shard_that_moves_takes_its_figures_with_it() {
    let world = world(LONG).await;
    let other = Other::joins(&world).await;
    let webhook = WebhookNum(7);
    world.catch_up();
    let first = world.accept(&[7]).await;
    world.accept(&[7, 8]).await;
    world.record(attempted(id(first, webhook), 1, Status::Success, None)).await;
    other.publish(&world, &[7]).await;

    let given = vec![ShardNum::of(webhook)];
    world.shard_set.stop_serving(&given);
    world.running.journal.detach(given.clone()).await.unwrap();
    world.store.release(&world.shard_set, &given, false).await.unwrap();
    gain_all(&other.store, &other.shard_set, &other.running.journal).await;

    assert_eq!((world.running.ledger.pending(webhook), world.running.ledger.pending(WebhookNum(8))), (0, 1));
    assert_eq!((other.running.ledger.pending(webhook), other.running.ledger.pending(WebhookNum(8))), (2, 0));
    let mut cursor = ScanCursor::default();
    let found = look(&other.store, (&other.shard_set, &other.running), &mut cursor, true).await;
    assert_eq!(found.len(), 2, "what has its row is not found");
    assert_eq!(other.running.ledger.pending(webhook), 2, "and nothing is counted twice");
}

#[tokio::test]
async fn what_was_written_for_one_node_alone_is_divided() {
    let world = world(LONG).await;
    let seq = world.accept(&[1, 2, 258]).await.seq;
    let whole = crate::store::targets::encode(&[1, 2, 258].map(WebhookNum));
    let whole = world.store.bytes_literal(&data_encoding::HEXLOWER.encode(&whole));
    world.tamper("DELETE FROM fanout").await;
    let old = format!("INSERT INTO fanout (event_seq, shard, targets) VALUES ({}, 0, {whole})", seq.0);
    world.tamper(&old).await;
    for _ in 0..2 {
        world.store.divide_fanouts().await.unwrap();
        let parts: Vec<_> = world.open_fanouts().await.into_iter().map(|f| (f.shard, f.targets.to_vec())).collect();
        assert_eq!(parts, [(1, vec![WebhookNum(1)]), (2, vec![WebhookNum(2), WebhookNum(258)])]);
    }
}

/// The batch marks its targets and is refused; then another node takes over.
#[tokio::test]
async fn no_fan_out_ends_by_a_batch_that_was_dropped_after_a_first_try() {
    let world = world(LONG).await;
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

    let other = Other::overtakes(&world).await;
    world.store.inner.writer.execute_unprepared(accept).await.unwrap();
    world.running.journal.barrier().await.unwrap();

    assert_eq!(stats.fenced.load(Ordering::Relaxed), 1);
    assert_eq!(other.store.fanouts(EventSeq::ZERO, 10).await.unwrap().fanouts.len(), 1, "it is still owed");
}

#[tokio::test]
async fn a_node_that_froze_in_the_middle_of_a_batch_is_overtaken_and_its_batch_undone() {
    let world = world(LONG).await;
    let frozen = world.store.begin().await.unwrap();
    let shards: BTreeSet<ShardNum> = (0..300).map(|num| ShardNum::of(WebhookNum(num))).collect();
    assert!(world.shard_set.lock(&frozen, &shards).await.unwrap().lost.is_empty());
    frozen.execute_unprepared("INSERT INTO engine_state (name, value) VALUES ('half done', 1)").await.unwrap();

    let other = tokio::time::timeout(Duration::from_secs(30), Other::overtakes(&world)).await.unwrap().store;

    let found = "SELECT 1 FROM engine_state WHERE name = 'half done'";
    let found = sea_orm::Statement::from_string(other.backend(), found);
    assert!(other.readers().query_one_raw(found).await.unwrap().is_none());
    assert!(frozen.commit().await.is_err());
}

#[tokio::test]
async fn a_file_is_held_for_ever() {
    let world = World::new(On::Sqlite).await;
    assert!(!world.store.is_clustered());
    assert_eq!(world.store.renew(&world.shard_set).await.unwrap(), Renewal::Renewed);
}
