//! Scans for fan-outs that have become visible, in the order of the transactions that wrote them.

use super::database::{Database, On, begin_in, due_at, ended_as, id, key, key_in, shard, with};
use super::{on_all, on_clusters};

use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, Slot, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::fanout_scan::{ScanCursor, ScannedFanout, Which};
use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::rows::Rows;
use crate::store::leases::ShardSet;

/// Longer than any page.
const ALL: usize = 1000;

fn keys(found: &[ScannedFanout]) -> Vec<FanoutKey> {
    found.iter().map(|found| (found.fanout.event.seq, found.fanout.shard)).collect()
}

impl Database {
    /// Everything that one scan of the first node finds, and the number of its pages.
    async fn scan(&self, cursor: &mut ScanCursor, which: Which<'_>, limit: usize) -> (Vec<ScannedFanout>, usize) {
        self.scan_as(&self.shard_set, cursor, which, limit).await
    }

    /// The same once nothing that was committed before is unsettled.
    async fn scan_settled(
        &self,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> (Vec<ScannedFanout>, usize) {
        self.others_ended().await;
        self.scan(cursor, which, limit).await
    }

    async fn scan_as(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> (Vec<ScannedFanout>, usize) {
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.engine.visible_fanouts(shard_set, cursor, which, limit).await.unwrap();
            assert!(page.found.len() <= limit);
            found.extend(page.found);
            pages += 1;
            if !page.is_cut {
                return (found, pages);
            }
        }
    }
}

/// The key of an event that another node accepts.
fn theirs(n: i64) -> EventSeq {
    key_in(Slot(1), n)
}

on_clusters!(a_scan_finds_page_by_page_what_was_committed_in_the_order_of_the_commits);
async fn a_scan_finds_page_by_page_what_was_committed_in_the_order_of_the_commits(on: On) {
    let database = Database::new(on).await;
    database.accept(theirs(3), &[3, 4]).await;
    database.accept(key(1), &[3]).await;
    database.accept(theirs(2), &[5]).await;
    let all = [(theirs(3), 3), (theirs(3), 4), (key(1), 3), (theirs(2), 5)];
    for (limit, pages) in [(ALL, 1), (3, 2), (1, 5)] {
        let (found, read) = database.scan(&mut ScanCursor::default(), Which::All, limit).await;
        assert_eq!((keys(&found), read), (all.to_vec(), pages), "limit {limit}");
        let targets =
            |found: &ScannedFanout| found.fanout.targets.iter().all(|of| of.0 == i64::from(found.fanout.shard));
        assert!(found.iter().all(targets));
    }
}

on_clusters!(a_scan_for_news_finds_each_event_of_other_nodes_once_and_expected_ones);
async fn a_scan_for_news_finds_each_event_of_other_nodes_once_and_expected_ones(on: On) {
    let database = Database::new(on).await;
    let mut cursor = ScanCursor::default();
    database.accept(theirs(1), &[3]).await;
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::All, ALL).await.0), [(theirs(1), 3)]);
    let none = || Vec::new();
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::New(&none), ALL).await.0), []);
    database.accept(key(2), &[3]).await;
    database.accept(theirs(3), &[4]).await;
    assert_eq!(
        keys(&database.scan_settled(&mut cursor, Which::New(&none), ALL).await.0),
        [(theirs(3), 4)],
        "2 is its own"
    );
    database.accept(key(4), &[3]).await;
    database.accept(key(5), &[3]).await;
    let expected = || vec![key(5)];
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::New(&expected), ALL).await.0), [(key(5), 3)]);
    cursor.restart();
    let all = [(theirs(1), 3), (key(2), 3), (theirs(3), 4), (key(4), 3), (key(5), 3)];
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::All, ALL).await.0), all);
}

on_clusters!(a_scan_finds_what_is_left_of_a_partly_handled_event);
async fn a_scan_finds_what_is_left_of_a_partly_handled_event(on: On) {
    let database = Database::new(on).await;
    database.accept(theirs(1), &[3, 4, 259]).await;
    let mut rows = with(Rows::default(), |rows| rows.ended = vec![(theirs(1), 4)]);
    rows.delivery(id(theirs(1), 3), ended_as(Status::Success));
    rows.deferrals.push((id(theirs(1), 4), due_at(9)));
    database.write(rows).await;
    let (found, _) = database.scan(&mut ScanCursor::default(), Which::All, ALL).await;
    assert_eq!(keys(&found), [(theirs(1), 3)]);
    assert_eq!(found[0].fanout.targets.as_ref(), [3, 259].map(WebhookNum), "rows tell who is handled");
    assert_eq!(database.engine.recorded_targets(theirs(1)).await.unwrap(), [3, 4].map(WebhookNum));
}

on_clusters!(what_becomes_visible_late_is_found_by_the_next_scan);
async fn what_becomes_visible_late_is_found_by_the_next_scan(on: On) {
    let database = Database::new(on).await;
    let mut cursor = ScanCursor::default();
    let none = || Vec::new();
    let slow = database.another_journal().await;
    let mut slow = begin_in(slow.as_ref()).await;
    slow.write(database.event(theirs(1), &[3])).await.unwrap();
    database.accept(theirs(2), &[3]).await;
    assert_eq!(keys(&database.scan(&mut cursor, Which::New(&none), ALL).await.0), [(theirs(2), 3)]);
    assert_eq!(keys(&database.scan(&mut cursor, Which::New(&none), ALL).await.0), [(theirs(2), 3)], "not settled");
    slow.commit().await.unwrap();
    let (found, _) = database.scan_settled(&mut cursor, Which::New(&none), ALL).await;
    assert_eq!(keys(&found), [(theirs(1), 3), (theirs(2), 3)]);
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::New(&none), ALL).await.0), []);
}

on_clusters!(what_is_committed_during_a_scan_is_found_by_the_next_one);
async fn what_is_committed_during_a_scan_is_found_by_the_next_one(on: On) {
    let database = Database::new(on).await;
    for n in 1..=3 {
        database.accept(theirs(n), &[3]).await;
    }
    database.others_ended().await;
    let mut cursor = ScanCursor::default();
    let first = database.engine.visible_fanouts(&database.shard_set, &mut cursor, Which::All, 2).await.unwrap();
    assert!(first.is_cut);
    database.accept(theirs(4), &[3]).await;
    let (rest, _) = database.scan(&mut cursor, Which::All, 2).await;
    assert_eq!((keys(&first.found), keys(&rest)), (vec![(theirs(1), 3), (theirs(2), 3)], vec![(theirs(3), 3)]));
    let none = || Vec::new();
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::New(&none), ALL).await.0), [(theirs(4), 3)]);
}

on_clusters!(a_scan_is_for_the_shards_that_the_node_serves);
async fn a_scan_is_for_the_shards_that_the_node_serves(on: On) {
    let database = Database::new(on).await;
    database.accept(key_in(Slot(7), 1), &[3, 4]).await;
    let another = database.another_with(&[shard(4)]).await;
    database.accept(key_in(Slot(7), 2), &[3, 4]).await;
    let of = async |shard_set: &ShardSet| {
        let (found, _) = database.scan_as(shard_set, &mut ScanCursor::default(), Which::All, ALL).await;
        found.iter().map(|found| (found.fanout.shard, found.is_new_from_peer)).collect::<Vec<_>>()
    };
    assert_eq!(of(&another).await, [(4, false), (4, true)], "the first was counted when the shard was activated");
    assert_eq!(of(&database.shard_set).await, [(3, true), (3, true)]);
    another.stop_serving(&[shard(4)]);
    assert_eq!(of(&another).await, []);
}

on_clusters!(rows_that_another_server_has_numbered_are_adopted_in_doubt);
async fn rows_that_another_server_has_numbered_are_adopted_in_doubt(on: On) {
    let database = Database::new(on).await;
    database.accept(theirs(1), &[3]).await;
    database.accept(theirs(2), &[3]).await;
    assert_eq!(database.cluster.adopt_foreign_rows().await.unwrap(), 0);
    database.number_elsewhere(theirs(1), shard(3)).await;
    let mut cursor = ScanCursor::default();
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::All, ALL).await.0), [(theirs(2), 3)]);
    assert_eq!(database.cluster.adopt_foreign_rows().await.unwrap(), 1);
    assert_eq!(database.cluster.adopt_foreign_rows().await.unwrap(), 0);
    assert_eq!(keys(&database.scan_settled(&mut cursor, Which::All, ALL).await.0), [(theirs(1), 3)]);
    let another = database.another_with(&[shard(9)]).await;
    let in_doubt = another.in_doubt_of(WebhookNum(9));
    assert!(in_doubt.events_to == theirs(2) && in_doubt.due_to > UnixMillis(0), "{in_doubt:?}");
}

on_clusters!(a_fan_out_of_one_process_is_divided_among_the_shards);
async fn a_fan_out_of_one_process_is_divided_among_the_shards(on: On) {
    let database = Database::new(on).await;
    let targets = [1, 2, 258];
    let whole = vec![((key(1), 0), targets.map(WebhookNum).into())];
    database.write(with(database.event(key(1), &targets), |rows| rows.fanouts = whole)).await;
    database.accept(key(2), &[3, 256]).await;
    for _ in 0..2 {
        database.cluster.divide_fanouts().await.unwrap();
        let fanouts = database.open_fanouts().await;
        let parts: Vec<_> = fanouts.iter().map(|fanout| (fanout.event.seq, fanout.shard)).collect();
        assert_eq!(parts, [(key(1), 1), (key(1), 2), (key(2), 0), (key(2), 3)]);
        assert_eq!(database.owed().await.iter().map(|(_, webhook)| *webhook).collect::<Vec<_>>(), [1, 2, 258, 256, 3]);
    }
}

on_all!(a_process_that_has_the_database_alone_scans_for_nothing);
async fn a_process_that_has_the_database_alone_scans_for_nothing(on: On) {
    let database = Database::new(on).await;
    database.accept(theirs(1), &[3]).await;
    let (found, _) = database.scan(&mut ScanCursor::default(), Which::All, ALL).await;
    assert_eq!(found.is_empty(), !database.engine.is_clustered());
}
