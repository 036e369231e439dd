//! What webhooks are owed, counted once: the parts from which the journal builds its ledger, and the oldest of a long
//! backlog.

use std::collections::BTreeMap;

use super::database::{Database, On, ended_as, id, key, shard};
use super::{on_all, on_clusters};

use crate::domain::delivery::Status;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::journal_db::pending::{Pending, PendingAfter};
use crate::store::leases::Snapshot;

/// What was read of some shards.
#[derive(Debug, Default)]
struct Read {
    /// How many pending rows each webhook has, and the oldest of their events.
    rows: BTreeMap<i64, (u64, EventSeq)>,
    /// How many of them wait until which second.
    waiting: BTreeMap<(i64, UnixMillis), u32>,
    /// Targets without a row.
    targets: Vec<(EventSeq, i64)>,
}

impl Read {
    fn add(&mut self, part: Pending<'_>) {
        match part {
            Pending::Rows { webhook, count, oldest } => {
                assert_eq!(self.rows.insert(webhook.0, (count, oldest)), None, "rows are counted once");
                assert!(!self.targets.iter().any(|(_, of)| *of == webhook.0), "rows come first");
            }
            Pending::Waiting { webhook, until, count } => {
                assert!(self.rows.contains_key(&webhook.0), "rows come first");
                *self.waiting.entry((webhook.0, until)).or_default() += count;
            }
            Pending::Targets { event, webhooks } => {
                self.targets.extend(webhooks.iter().map(|webhook| (event, webhook.0)));
            }
        }
    }
}

impl Database {
    async fn read_pending(&self, shards: &[ShardNum], now: UnixMillis) -> (Read, Snapshot) {
        let mut read = Read::default();
        let snapshot = self.journal.read_pending(shards, now, &mut |part| read.add(part)).await.unwrap();
        read.targets.sort_unstable();
        (read, snapshot)
    }
}

on_all!(what_rows_and_fan_outs_owe_is_counted);
async fn what_rows_and_fan_outs_owe_is_counted(on: On) {
    let database = Database::new(on).await;
    let all: Vec<ShardNum> = ShardNum::all().collect();
    let now = UnixMillis(1_900_000_000_000);
    database.accept(key(1), &[4]).await;
    database.accept_due(key(2), &[3], now.0 - 1).await;
    database.accept_due(key(3), &[3], now.0 + 60_999).await;
    database.accept(key(4), &[3, 4]).await;
    database.accept_due(key(5), &[3], now.0).await;
    database.accept_due(key(6), &[3, 5], now.0 + 60_001).await;
    database.record(id(key(2), 3), ended_as(Status::Success)).await;
    database.record(id(key(4), 4), ended_as(Status::Failed)).await;

    let (read, _) = database.read_pending(&all, now).await;
    assert_eq!(read.rows, [(3, (3, key(3))), (5, (1, key(6)))].into());
    let second = UnixMillis(now.0 + 60_000);
    assert_eq!(read.waiting, [((3, second), 2), ((5, second), 1)].into(), "what is due at this moment does not wait");
    assert_eq!(read.targets, [(key(1), 4), (key(4), 3)]);
}

on_clusters!(a_shard_is_owed_what_its_webhooks_are_owed);
async fn a_shard_is_owed_what_its_webhooks_are_owed(on: On) {
    let database = Database::new(on).await;
    database.accept_due(key(1), &[3, 4, 259], 10).await;
    database.accept(key(2), &[3, 4, 5]).await;
    let (read, snapshot) = database.read_pending(&[shard(3), shard(5)], UnixMillis(1)).await;
    assert_eq!(read.rows, [(3, (1, key(1))), (259, (1, key(1)))].into());
    assert_eq!(read.targets, [(key(2), 3), (key(2), 5)]);
    assert!(snapshot.settled_to() < u64::MAX, "it says which transactions are counted");
    let (none, _) = database.read_pending(&[], UnixMillis(1)).await;
    assert!(none.rows.is_empty() && none.targets.is_empty(), "{none:?}");
}

on_all!(the_oldest_of_a_long_backlog_are_found_among_rows_and_fan_outs);
async fn the_oldest_of_a_long_backlog_are_found_among_rows_and_fan_outs(on: On) {
    let database = Database::new(on).await;
    for n in 1..=7 {
        match n % 2 {
            0 => database.accept_due(key(n), &[3], 1000 - n).await,
            _ => database.accept(key(n), &[3]).await,
        }
    }
    database.accept_due(key(8), &[3, 4], 9).await;
    database.record(id(key(2), 3), ended_as(Status::Success)).await;
    let question = |webhook, after| PendingAfter { webhook: WebhookNum(webhook), after: key(after) };
    let questions = [question(3, 0), question(3, 3), question(4, 0), question(5, 0), question(4, 8)];
    let found = database.journal.pending_after(&questions, 4).await.unwrap();
    let expected = [vec![1, 3, 4, 5], vec![4, 5, 6, 7], vec![8], vec![], vec![]];
    assert_eq!(found, expected.map(|events| events.into_iter().map(key).collect::<Vec<_>>()));
}
