//! What this process holds, as everybody in it sees it: of which shards it may write, which of them it serves, and what an
//! earlier owner may have sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use crate::id::{EventSeq, Slot, WebhookNum};
use crate::store::dialect;
use crate::store::fate::TransactionId;
use crate::store::state::Suspect;

use super::snapshot::Snapshot;
use super::{Grant, NumRow, SHARDS, SILENCE, ShardNum};

/// What one process holds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Holding(Arc<Held>);

#[derive(Debug)]
enum Held {
    /// Nobody else has the database.
    Everything(RwLock<Suspect>),
    Shards(Claims),
}

#[derive(Debug)]
struct Claims {
    node: i64,
    slot: Slot,
    shards: RwLock<Box<[Option<Claim>; SHARDS]>>,
}

#[derive(Debug, Clone)]
struct Claim {
    epoch: i64,
    /// Not any more when it is about to be handed over.
    serves: bool,
    suspect: Suspect,
    /// What the shard was when it was gained: fan-outs that had become visible by then are counted.
    gained: Arc<Snapshot>,
}

impl Holding {
    /// Of whoever has the database alone.
    #[must_use]
    pub fn everything() -> Self {
        Self(Arc::new(Held::Everything(RwLock::new(Suspect::NOTHING))))
    }

    /// Of a node that has just joined.
    pub(super) fn nothing(node: i64, slot: Slot) -> Self {
        let shards = RwLock::new(Box::new([const { None }; SHARDS]));
        Self(Arc::new(Held::Shards(Claims { node, slot, shards })))
    }

    fn claims(&self) -> Option<&Claims> {
        match self.0.as_ref() {
            Held::Everything(_) => None,
            Held::Shards(claims) => Some(claims),
        }
    }

    /// This node's number; `None` if there are no others.
    #[must_use]
    pub fn node(&self) -> Option<i64> {
        self.claims().map(|claims| claims.node)
    }

    /// What this node's events are told by.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.claims().map_or(Slot::ALONE, |claims| claims.slot)
    }

    /// Which part of a fan-out a webhook belongs to.
    #[must_use]
    pub fn part_of(&self, webhook: WebhookNum) -> ShardNum {
        match self.claims() {
            None => ShardNum::WHOLE,
            Some(_) => ShardNum::of(webhook),
        }
    }

    /// Whether what this webhook is owed is sent from here.
    #[must_use]
    pub fn serves(&self, webhook: WebhookNum) -> bool {
        self.serves_shard(ShardNum::of(webhook))
    }

    /// The same, if nobody else has held the shard since it was held under this epoch.
    #[must_use]
    pub fn serves_under(&self, webhook: WebhookNum, epoch: i64) -> bool {
        let is_same = self.claim(ShardNum::of(webhook), |claim| claim.serves && claim.epoch == epoch);
        is_same.unwrap_or(self.claims().is_none())
    }

    /// Under which this shard is held; 0 if it is not, or if there is nobody else.
    #[must_use]
    pub fn epoch_of(&self, shard: i16) -> i64 {
        let shard = ShardNum::read(shard).ok();
        shard.and_then(|shard| self.claim(shard, |claim| claim.epoch)).unwrap_or(0)
    }

    #[must_use]
    pub fn serves_shard(&self, shard: ShardNum) -> bool {
        self.claim(shard, |claim| claim.serves).unwrap_or(self.claims().is_none())
    }

    /// Whether nobody else may write for it.
    #[must_use]
    pub fn has(&self, shard: ShardNum) -> bool {
        self.claim(shard, |_| ()).is_some() || self.claims().is_none()
    }

    /// The shards that are served, in order; of a node among others.
    #[must_use]
    pub fn served(&self) -> Vec<ShardNum> {
        let Some(claims) = self.claims() else { return Vec::new() };
        let shards = claims.shards.read();
        ShardNum::all().filter(|shard| shards[shard.place()].as_ref().is_some_and(|claim| claim.serves)).collect()
    }

    /// The shards that nobody else may write for, in order; of a node among others.
    #[must_use]
    pub fn held(&self) -> Vec<ShardNum> {
        let Some(claims) = self.claims() else { return Vec::new() };
        let shards = claims.shards.read();
        ShardNum::all().filter(|shard| shards[shard.place()].is_some()).collect()
    }

    /// What may have been sent of it already by somebody who has not said so.
    #[must_use]
    pub fn suspect_of(&self, webhook: WebhookNum) -> Suspect {
        match self.0.as_ref() {
            Held::Everything(suspect) => *suspect.read(),
            Held::Shards(_) => self.claim(ShardNum::of(webhook), |claim| claim.suspect).unwrap_or(Suspect::NOTHING),
        }
    }

    /// Whether a fan-out that this transaction wrote for the shard was not there when the shard was gained, and is none of
    /// this node's events: the ledger has not heard of it.
    #[must_use]
    pub fn is_news(&self, shard: ShardNum, transaction: u64, event: EventSeq) -> bool {
        let had = self.claim(shard, |claim| claim.gained.shows(transaction)).unwrap_or(true);
        !had && event.slot() != self.slot()
    }

    fn claim<T>(&self, shard: ShardNum, look: impl FnOnce(&Claim) -> T) -> Option<T> {
        self.claims()?.shards.read()[shard.place()].as_ref().map(look)
    }

    /// Of whoever has the database alone: what the process before it may have sent.
    pub(in crate::store) fn doubt(&self, doubt: Suspect) {
        if let Held::Everything(suspect) = self.0.as_ref() {
            *suspect.write() = doubt;
        }
    }

    /// From now on these are served.
    pub(in crate::store) fn gain(&self, grants: &[Grant], gained: &Arc<Snapshot>) {
        let Some(claims) = self.claims() else { return };
        let mut shards = claims.shards.write();
        for Grant { shard, epoch, suspect } in grants {
            let (epoch, suspect, gained) = (*epoch, *suspect, gained.clone());
            shards[shard.place()] = Some(Claim { epoch, serves: true, suspect, gained });
        }
    }

    /// From now on nothing more is begun for these.
    pub fn quit(&self, quit: &[ShardNum]) {
        let Some(claims) = self.claims() else { return };
        let mut shards = claims.shards.write();
        for shard in quit {
            if let Some(claim) = &mut shards[shard.place()] {
                claim.serves = false;
            }
        }
    }

    /// These are anybody's.
    pub(in crate::store) fn part(&self, parted: &[ShardNum]) {
        let Some(claims) = self.claims() else { return };
        let mut shards = claims.shards.write();
        for shard in parted {
            shards[shard.place()] = None;
        }
    }

    /// Keeps others from taking these shards, and from taking this node for dead, until the transaction ends.
    pub(in crate::store) async fn lock<C: ConnectionTrait>(
        &self,
        on: &C,
        shards: &BTreeSet<ShardNum>,
    ) -> Result<Locked, DbErr> {
        let Some(claims) = self.claims() else { return Ok(Locked::default()) };
        let sql = format!(
            "SELECT {id} AS transaction, \
                (SELECT set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)) \
             FROM node WHERE num = $1 FOR KEY SHARE",
            id = TransactionId::SELECTED
        );
        let lives = Statement::from_sql_and_values(DbBackend::Postgres, sql, [claims.node.into()]);
        let lives = TransactionRow::find_by_statement(lives).one(on).await?;
        let is_buried = lives.is_none();
        let transaction = lives.map(|row| TransactionId::of(row.transaction));
        let mut locked = Locked { is_buried, lost: shards.clone(), statements: 1, transaction };
        if is_buried || shards.is_empty() {
            return Ok(locked);
        }
        locked.statements += 1;
        let sql = "SELECT s.num::int8 AS num FROM shard s \
                   JOIN unnest($1, $2) AS mine (num, epoch) ON s.num = mine.num AND s.epoch = mine.epoch \
                   WHERE s.owner = $3 ORDER BY s.num FOR SHARE OF s";
        for row in NumRow::find_by_statement(claims.named(shards, sql)).all(on).await? {
            locked.lost.retain(|shard| i64::from(shard.num()) != row.num);
        }
        Ok(locked)
    }

    /// Whether there is anybody to lock anything against.
    pub(in crate::store) fn is_everything(&self) -> bool {
        self.claims().is_none()
    }
}

impl Claims {
    /// A statement about these shards as this node holds them: their numbers, their epochs, the node.
    fn named(&self, shards: &BTreeSet<ShardNum>, sql: &str) -> Statement {
        let held = self.shards.read();
        let epochs = shards.iter().map(|shard| held[shard.place()].as_ref().map_or(-1, |claim| claim.epoch));
        let nums = shards.iter().map(|shard| i64::from(shard.num()));
        let values = [dialect::numbers(DbBackend::Postgres, nums), dialect::numbers(DbBackend::Postgres, epochs)];
        Statement::from_sql_and_values(DbBackend::Postgres, sql, values.into_iter().chain([self.node.into()]))
    }
}

/// What of it is still held.
#[derive(Debug, Default)]
pub(in crate::store) struct Locked {
    /// The others took this node for dead.
    pub(in crate::store) is_buried: bool,
    pub(in crate::store) lost: BTreeSet<ShardNum>,
    pub(in crate::store) statements: u64,
    /// `None` if there is nothing that may be written.
    pub(in crate::store) transaction: Option<TransactionId>,
}

#[derive(Debug, FromQueryResult)]
struct TransactionRow {
    transaction: String,
}
