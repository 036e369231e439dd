//! The simulated database as the engine sees it: the tables in memory, behind calls that take a while, fail, lose their
//! answers and are stale when they are answered.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;

use crate::domain::delivery::Due;
use crate::domain::event::Body;
use crate::domain::id::{DeliveryId, EventSeq, TenantId, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::engine::db::EngineDb;
use crate::journal::model::Tables;
use crate::store::StoreError;
use crate::store::config_changes::{Change, Changes, Position};
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::fanout_scan::ScannedFanout;
use crate::store::fanout_scan::{ScanCursor, ScanPage, Which};
use crate::store::fanouts::{Fanout, FanoutPage};
use crate::store::leases::{Continuity, ShardSet};
use crate::store::webhooks::{Origin, Route, Routed, Webhook};

use super::tasks::{pause, until};
use super::world::{self, Hook, World};

type Result<T> = std::result::Result<T, StoreError>;

/// A secret that can be parsed; nothing is signed.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The connections of one process to the database.
#[derive(Clone)]
pub(super) struct Db {
    pub(super) place: usize,
}

fn no_answer() -> StoreError {
    StoreError::Database("simulated".to_owned())
}

/// Asks the database which of its histories it is: an error unless it is the one that the node knows.
pub(super) fn must_be_unbroken(tables: &Tables, shard_set: &ShardSet) -> Result<()> {
    let is_unbroken = tables.leases.continuity(shard_set) == Continuity::Unbroken && !shard_set.has_diverged();
    if is_unbroken { Ok(()) } else { Err(no_answer()) }
}

impl Db {
    fn is_cut_off(&self) -> bool {
        world::current().machines[self.place].is_cut_off.get()
    }

    fn fails(&self) -> bool {
        let world = world::current();
        self.is_cut_off() || world.happens(world.trouble.get().read_fails)
    }

    /// Reads, which takes a while and may fail. The answer may be stale when it arrives.
    pub(super) async fn read<T: Send>(&self, read: impl FnOnce(&World, &Tables) -> T + Send) -> Result<T> {
        pause().await;
        if self.fails() {
            return Err(no_answer());
        }
        let (read, turns) = {
            let world = world::current();
            let read = read(&world, &world.tables.borrow());
            (read, world.pick(4))
        };
        for _ in 0..turns {
            pause().await;
        }
        Ok(read)
    }

    /// A read without which the process does not follow config changes.
    pub(super) async fn read_config<T: Send>(&self, read: impl FnOnce(&World, &Tables) -> T + Send) -> Result<T> {
        let read = self.read(read).await;
        let has_failed = &world::current().machines[self.place].has_failed;
        has_failed.set(has_failed.get() || read.is_err());
        read
    }

    /// Writes: it may fail, and its answer may be lost.
    pub(super) async fn write<T: Send>(&self, write: impl FnOnce(&World, &mut Tables) -> T + Send) -> Result<T> {
        self.write_when(|_| true, write).await
    }

    /// The same, once no transaction holds the locks that `write` needs.
    pub(super) async fn write_when<T: Send>(
        &self,
        may_lock: impl Fn(&Tables) -> bool + Send + Sync,
        write: impl FnOnce(&World, &mut Tables) -> T + Send,
    ) -> Result<T> {
        pause().await;
        if self.is_cut_off() || world::current().is_clustered && self.fails() {
            return Err(no_answer());
        }
        until(|| may_lock(&world::current().tables.borrow()).then_some(())).await;
        let written = {
            let world = world::current();
            let written = write(&world, &mut world.tables.borrow_mut());
            world.remember();
            written
        };
        pause().await;
        let world = world::current();
        if world.happens(world.trouble.get().answer_lost) { Err(no_answer()) } else { Ok(written) }
    }
}

#[async_trait]
impl EngineDb for Db {
    fn is_clustered(&self) -> bool {
        world::current().is_clustered
    }

    async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow>>> {
        self.read_config(|world, tables| {
            let hooks = nums.iter().filter_map(|num| world.hook(*num));
            hooks.map(|hook| (hook.num, config_row(&hook, tables, now))).collect()
        })
        .await
    }

    async fn disable_webhook(&self, num: WebhookNum, version: i64, _: &str, _: UnixMillis) -> Result<bool> {
        self.write(|world, _| {
            let mut hooks = world.hooks.borrow_mut();
            let Some(hook) = hooks.get_mut(&num).filter(|hook| hook.version == version && hook.is_active) else {
                return false;
            };
            (hook.is_active, hook.version) = (false, hook.version + 1);
            world.changed(num);
            true
        })
        .await
    }

    async fn due(&self, shard_set: &ShardSet, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows> {
        self.read(|_, tables| must_be_unbroken(tables, shard_set).map(|()| tables.due(webhook, wanted))).await?
    }

    async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>> {
        self.read(|_, tables| must_be_unbroken(tables, shard_set).map(|()| tables.due_one(id.event, id.webhook)))
            .await?
    }

    async fn has_row(&self, id: DeliveryId) -> Result<bool> {
        self.read(|_, tables| tables.delivery(id).is_some()).await
    }

    async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>> {
        let wanted = |hook: &Hook, due: Option<_>| hook.is_deleted || hook.is_open() && due <= Some(horizon);
        self.read(|world, tables| {
            let hooks = world.hooks.borrow();
            let hooks = tables.with_pending_rows().filter_map(|num| hooks.get(&num));
            let due = |hook: &&Hook| wanted(hook, tables.due_moments(hook.num).min());
            hooks.filter(due).map(|hook| hook.num).collect()
        })
        .await
    }

    async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>> {
        self.read(|_, tables| tables.owed_only_by_fanout(webhook, to)).await
    }

    async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<()> {
        self.write(|world, tables| {
            if world.is_clustered {
                tables.leases.mark_in_doubt(webhook, in_doubt);
            } else {
                tables.mark_all_in_doubt(in_doubt);
            }
        })
        .await
    }

    async fn fanouts(&self, after: EventSeq, events: u64) -> Result<FanoutPage> {
        let limit = usize::try_from(events).unwrap_or(usize::MAX);
        let fanouts = self.read(|_, tables| tables.fanouts(after, limit)).await?;
        let to = fanouts.last().map(|fanout| fanout.event.seq);
        Ok(FanoutPage { fanouts, to })
    }

    async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>> {
        self.read(|_, tables| tables.recorded_targets(event)).await
    }

    async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage> {
        let (served, slot) = (shard_set.served(), shard_set.slot());
        if served.is_empty() {
            cursor.restart();
            return Ok(ScanPage::default());
        }
        let scan = match cursor.scan() {
            Some(scan) => scan,
            None => {
                let snapshot = |tables: &Tables| Ok(tables.transactions.snapshot());
                let now = self.read(|_, tables| must_be_unbroken(tables, shard_set).and_then(|()| snapshot(tables)));
                cursor.begin(now.await??)
            }
        };
        let page = self.read(|_, tables| tables.page_of_news((&served, slot), scan.after, which, limit)).await?;
        let (mut page, cut_at) = page;
        page.retain(|(tx, _)| scan.shows(*tx));
        let found = |(tx, fanout): (u64, Fanout)| {
            let shard = ShardNum::try_from(fanout.shard).expect("a shard");
            ScannedFanout { is_new_from_peer: shard_set.is_new_from_peer(shard, tx, fanout.event.seq), fanout }
        };
        let found = page.into_iter().map(found).collect();
        cursor.has_read(scan, cut_at);
        Ok(ScanPage { found, is_cut: cut_at.is_some() })
    }

    async fn body(&self, event: EventSeq) -> Result<Option<Bytes>> {
        self.read(|_, tables| match &tables.event(event)?.body {
            Body::InMemory(body) => Some(body.clone()),
            Body::Stored { .. } => None,
        })
        .await
    }

    async fn position(&self) -> Result<Position> {
        self.read(|world, _| Position::at(world.config_changes.borrow().len())).await
    }

    async fn changes_since(&self, position: &Position) -> Result<Changes> {
        let from = position.index();
        world::current().machines[self.place].follows_from(from);
        let changed = |num: &WebhookNum| Change::Webhook(*num);
        self.read_config(|world, _| {
            let changes = world.config_changes.borrow();
            Changes { changes: changes[from..].iter().map(changed).collect(), position: Position::at(changes.len()) }
        })
        .await
    }

    async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>> {
        self.read(|world, _| {
            let hooks = world.hooks.borrow();
            let hooks = hooks.values().filter(|hook| hook.num > after && !hook.is_deleted);
            hooks.map(Hook::route).collect()
        })
        .await
    }

    async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>> {
        self.read_config(|world, _| {
            let hooks = world.hooks.borrow();
            let routed = |hook: &Hook| {
                if hook.is_deleted { Routed::Deleted(hook.tenant, hook.num) } else { Routed::Here(hook.route()) }
            };
            nums.iter().filter_map(|num| hooks.get(num)).map(routed).collect()
        })
        .await
    }
}

fn config_row(hook: &Hook, tables: &Tables, now: UnixMillis) -> Result<EndpointConfigRow> {
    if hook.is_unreadable {
        return Err(StoreError::unreadable("webhook", "simulated"));
    }
    let at = UnixMillis(world::START);
    let webhook = Webhook {
        num: hook.num,
        id: hook.id,
        tenant: hook.tenant,
        name: format!("w{}", hook.num.0),
        url: hook.url.clone(),
        events: hook.events.clone(),
        headers: BTreeMap::new(),
        public_headers: Vec::new(),
        policy: (*hook.policy).clone(),
        credentials: None,
        tls_digest: None,
        credentials_origin: Origin::of(&hook.url),
        description: None,
        metadata: None,
        is_active: hook.is_active,
        inactive_reason: None,
        paused_at: hook.is_paused.then_some(at),
        version: hook.version,
        created_at: at,
        updated_at: at,
    };
    Ok(EndpointConfigRow {
        webhook,
        tenant_id: None::<TenantId>,
        secrets: vec![SecretString::from(SECRET)],
        secrets_change_at: hook.secret_ends.filter(|end| *end > now),
        has_pending_rows: tables.has_pending_rows(hook.num),
        health: tables.health(hook.num),
    })
}
