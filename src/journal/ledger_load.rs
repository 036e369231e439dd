//! Loads a ledger when the journal starts or acquires shards: counts once what webhooks are owed. From then on the writer
//! updates the ledger ([`ledger_updates`](super::ledger_updates)).

use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::journal_db::JournalDb;
use crate::store::journal_db::pending::Pending;
use crate::store::leases::Snapshot;

use super::ledger::Ledger;

/// What the webhooks of these shards are owed (all webhooks, if the process has the database alone), and the snapshot
/// at which that was true. Call before the owner of the shards writes.
pub(super) async fn load(
    db: &dyn JournalDb,
    shards: &[ShardNum],
    now: UnixMillis,
) -> Result<(Ledger, Snapshot), StoreError> {
    let mut ledger = Ledger::default();
    let snapshot = db.read_pending(shards, now, &mut |part| add(&mut ledger, part, now)).await?;
    Ok((ledger, snapshot))
}

fn add(ledger: &mut Ledger, part: Pending<'_>, now: UnixMillis) {
    match part {
        Pending::Rows { webhook, count, oldest } => ledger.load(webhook, count, oldest),
        Pending::Waiting { webhook, until, count } => ledger.schedule_many(webhook, until, count, now),
        Pending::Targets { event, webhooks } => ledger.owe_all(webhooks, event),
    }
}
