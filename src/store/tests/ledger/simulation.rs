//! Random changes in any order, on a real database: the ledger agrees with a recount at any time, also across restarts.
//! A failure names the seed.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::journal::ledger::Among;

const SEEDS: u64 = 24;
const STEPS: usize = 120;
const WEBHOOKS: usize = 5;

struct Simulation {
    world: World,
    chance: StdRng,
    living: Vec<Webhook>,
    deleted: Vec<WebhookNum>,
    /// Every delivery so far.
    ids: Vec<DeliveryId>,
    in_flight: Vec<(DeliveryId, DeliveryState)>,
}

impl Simulation {
    async fn new(on: On, seed: u64) -> Self {
        let world = World::new(on).await;
        let mut living = Vec::new();
        for _ in 0..WEBHOOKS {
            living.push(world.webhook().await);
        }
        let chance = StdRng::seed_from_u64(seed);
        Self { world, chance, living, deleted: Vec::new(), ids: Vec::new(), in_flight: Vec::new() }
    }

    async fn record(&self, record: Record) {
        self.world.running.journal.record(record).await.unwrap();
    }

    async fn barrier(&self) {
        self.world.running.journal.barrier().await.unwrap();
    }

    fn some_id(&mut self) -> Option<DeliveryId> {
        // The latest deliveries are the most likely to be pending, the others to be settled.
        let from = if self.chance.random_bool(0.5) { self.ids.len().saturating_sub(40) } else { 0 };
        self.ids[from..].choose(&mut self.chance).copied()
    }

    /// When a retry is due: at once, soon, within the hour, or within days.
    fn some_moment(&mut self) -> UnixMillis {
        let ahead = match self.chance.random_range(0..10) {
            0..4 => 0,
            4 => self.chance.random_range(1..2_000),
            5..8 => self.chance.random_range(60_000..3_000_000),
            _ => self.chance.random_range(7_200_000..90_000_000),
        };
        UnixMillis(UnixMillis::now().0 + ahead)
    }

    async fn step(&mut self) {
        match self.chance.random_range(0..100) {
            0..14 => self.publish().await,
            14..34 => self.begin().await,
            34..54 => self.end().await,
            54..62 => self.defer().await,
            62..72 => self.cancel().await,
            72..86 => self.retry().await,
            86..91 => self.purge().await,
            91..92 => self.delete().await,
            92..95 => self.world.catch_up(),
            95..99 => self.ask().await,
            _ => self.agrees().await,
        }
    }

    /// Sometimes publishes so many events that a backlog outgrows the keys that the ledger knows; sometimes to a
    /// deleted webhook, as if the routes were read before it was deleted.
    async fn publish(&mut self) {
        let events = if self.chance.random_bool(0.3) { 40 } else { self.chance.random_range(1..4) };
        let mut nums: Vec<i64> = self.living.iter().map(|webhook| webhook.num.0).collect();
        if self.chance.random_bool(0.1) {
            nums.extend(self.deleted.iter().map(|num| num.0));
        }
        let chosen = self.chance.random_range(0..=nums.len().min(3));
        let mut targets: Vec<i64> = nums.sample(&mut self.chance, chosen).copied().collect();
        targets.sort_unstable();
        let drafts = vec![self.world.draft(None, &targets); events];
        let journal = self.world.running.journal.clone();
        // So that both share a batch, or nearly.
        let (published, ()) = tokio::join!(journal.publish(drafts, None), self.end());
        for published in published.unwrap().published {
            let Published::Accepted(receipt) = published else { panic!("{published:?}") };
            let to = |webhook: &i64| DeliveryId { event: receipt.seq, webhook: WebhookNum(*webhook) };
            self.ids.extend(targets.iter().map(to));
        }
    }

    /// Begins requests for deliveries that are due, with or without a row.
    async fn begin(&mut self) {
        self.barrier().await;
        let (recount, now) = (Recount::of(&self.world.store).await, UnixMillis::now());
        let under_way: BTreeSet<DeliveryId> = self.in_flight.iter().map(|(id, _)| *id).collect();
        let pending = recount
            .pending
            .iter()
            .flat_map(|(webhook, events)| events.iter().map(|event| DeliveryId { event: *event, webhook: *webhook }));
        let is_due = |id: &DeliveryId| recount.due.get(id).is_none_or(|at| *at <= now);
        let due: Vec<DeliveryId> = pending.filter(|id| is_due(id) && !under_way.contains(id)).collect();
        let count = self.chance.random_range(1..15);
        let chosen: Vec<DeliveryId> = due.sample(&mut self.chance, count).copied().collect();
        for id in chosen {
            let state = self.world.delivery(id).await.map_or(DeliveryState::pending(None), |found| found.state);
            self.in_flight.push((id, state));
        }
    }

    /// Ends requests under way, whatever happened to their deliveries meanwhile.
    async fn end(&mut self) {
        for _ in 0..self.chance.random_range(1..15) {
            if self.in_flight.is_empty() {
                return;
            }
            let index = self.chance.random_range(0..self.in_flight.len());
            let (id, before) = self.in_flight.swap_remove(index);
            let (status, next_at) = self.outcome(before);
            self.record(attempted(id, before.attempts + 1, status, next_at)).await;
        }
    }

    fn outcome(&mut self, before: DeliveryState) -> (Status, Option<UnixMillis>) {
        let luck = self.chance.random_range(0..10);
        match (luck, before.manual) {
            (0..4, _) => (Status::Success, None),
            (_, Some(fallback)) => (fallback.status, fallback.next_at),
            (4..6, None) => (Status::Failed, None),
            (6, None) => (Status::Cancelled, None),
            (_, None) => (Status::Pending, Some(self.some_moment())),
        }
    }

    async fn defer(&mut self) {
        for _ in 0..self.chance.random_range(1..30) {
            let Some(id) = self.some_id() else { return };
            self.record(Record::Defer { id, next_at: UnixMillis::now() }).await;
        }
    }

    async fn cancel(&mut self) {
        for _ in 0..self.chance.random_range(1..4) {
            let Some(id) = self.some_id() else { return };
            self.record(Record::Cancel { id, at: UnixMillis::now(), operation: None }).await;
        }
    }

    async fn retry(&mut self) {
        for _ in 0..self.chance.random_range(1..4) {
            let (Some(id), at) = (self.some_id(), UnixMillis::now()) else { return };
            self.record(Record::Defer { id, next_at: at }).await;
            self.record(Record::Retry { id, at, operation: None }).await;
        }
    }

    async fn purge(&mut self) {
        let Some(webhook) = self.living.choose(&mut self.chance).map(|webhook| webhook.num) else { return };
        let through = self.some_id().map_or(EventSeq::ZERO, |id| id.event);
        // The caller may miss a request that begins at this moment.
        let seen = if self.chance.random_bool(0.7) { self.in_flight.len() } else { self.in_flight.len() / 2 };
        let of_webhook = self.in_flight[..seen].iter().filter(|(id, _)| id.webhook == webhook);
        let except: Vec<EventSeq> = of_webhook.map(|(id, _)| id.event).collect();
        loop {
            let (answer, answered) = oneshot::channel();
            self.record(Record::Purge { webhook, through, except: except.clone(), answer }).await;
            if answered.await.unwrap() == 0 {
                return;
            }
        }
    }

    async fn delete(&mut self) {
        if self.living.len() > 2 {
            let doomed = self.living.swap_remove(self.chance.random_range(0..self.living.len()));
            self.retry().await;
            self.world.store.delete_webhook(&doomed, UnixMillis::now(), &Author::engine()).await.unwrap();
            self.world.running.ledger.forget(&[doomed.num]).await;
            self.deleted.push(doomed.num);
        }
    }

    /// Queries the ledger while it changes.
    async fn ask(&mut self) {
        let ledger = self.world.running.ledger.clone();
        let webhooks: Vec<WebhookNum> = self.living.iter().map(|webhook| webhook.num).collect();
        let ask = async {
            for webhook in webhooks {
                ledger.oldest(webhook).await.unwrap();
            }
            ledger.oldest_first(Among::All, 2).await.unwrap();
        };
        tokio::join!(ask, async {
            self.end().await;
            self.cancel().await;
            self.end().await;
        });
    }

    /// Cancels what deleted webhooks are still owed, as the dispatcher and the due poller do.
    async fn clean_up(&self) {
        let recount = Recount::of(&self.world.store).await;
        let now = UnixMillis::now();
        for webhook in &self.deleted {
            for event in recount.pending.get(webhook).into_iter().flatten() {
                let id = DeliveryId { event: *event, webhook: *webhook };
                if !recount.due.contains_key(&id) {
                    self.record(Record::Cancel { id, at: now, operation: None }).await;
                }
            }
        }
        self.barrier().await;
        for webhook in &self.deleted {
            self.world.running.journal.purge(*webhook, EventSeq(i64::MAX), &[]).await.unwrap();
        }
        self.world.running.ledger.forget(&self.deleted).await;
    }

    async fn agrees(&self) {
        self.barrier().await;
        self.clean_up().await;
        let living = self.living.iter().map(|webhook| webhook.num);
        let webhooks: Vec<WebhookNum> = living.chain(self.deleted.iter().copied()).collect();
        agrees(&self.world.store, &self.world.running.ledger, &webhooks).await;
    }

    /// Loses the requests under way. Adopts open fan-outs now or never.
    async fn restart(mut self) -> Self {
        self.in_flight.clear();
        self.world = self.world.restart().await;
        if self.chance.random_bool(0.7) {
            for fanout in self.world.open_fanouts().await {
                let recorded = self.world.store.recorded_targets(fanout.event.seq).await.unwrap();
                let (event, shard) = (fanout.event.seq, fanout.shard);
                self.record(Record::Track { fanout }).await;
                self.record(Record::Mark { event, shard, recorded }).await;
            }
            self.barrier().await;
            self.world.catch_up();
        }
        self
    }
}

async fn simulate(on: On, seed: u64) {
    println!("seed {seed}");
    let mut simulation = Simulation::new(on, seed).await;
    for _ in 0..2 {
        for _ in 0..STEPS / 2 {
            simulation.step().await;
        }
        simulation.agrees().await;
        simulation = simulation.restart().await;
        simulation.agrees().await;
    }
}

on_both!(the_ledger_agrees_with_a_recount_whatever_happens);
async fn the_ledger_agrees_with_a_recount_whatever_happens(on: On) {
    let (even, odd): (Vec<u64>, Vec<u64>) = (0..SEEDS).partition(|seed| seed % 2 == 0);
    let run = |seeds: Vec<u64>| {
        tokio::spawn(async move {
            for seed in seeds {
                tokio::spawn(simulate(on, seed)).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        })
    };
    let (even, odd) = tokio::join!(run(even), run(odd));
    even.unwrap();
    odd.unwrap();
}
