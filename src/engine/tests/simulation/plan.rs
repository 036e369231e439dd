//! Plans a simulation from its seed: tenants with their webhooks, bounds and troubles.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::{Backoff, Policy, RateLimit};
use crate::domain::shard::ShardNum;
use crate::engine::bounds;
use crate::journal;
use crate::store::leases::memory::Leases;
use crate::store::memory::Hook;

use super::operator::HUGE_BYTES;
use super::receivers::{Mood, Receiver};
use super::world::{Bounds, Place, START, Trouble, World};

/// How many shards the webhooks of several nodes fall into.
const SHARDS: i64 = 8;

/// How far a wall clock may be off, in milliseconds.
const MOST_SKEW: i64 = 10_000;

/// The world of this seed, with one process or with nodes that share a store.
pub(super) fn world(seed: u64, is_clustered: bool, with_history: bool) -> Rc<World> {
    let mut chance = StdRng::seed_from_u64(seed);
    let (bounds, mut trouble) = (bounds(&mut chance), trouble(&mut chance));
    let mut hooks = hooks(&mut chance);
    if is_clustered {
        add_nodes(&mut trouble, &mut hooks, &mut chance);
    }
    let machines = machines(is_clustered, &mut chance);
    let world = World::new((bounds, trouble), (machines, is_clustered), chance, with_history);
    world.tables.write().leases = Leases::of(hooks.iter().map(|hook| ShardNum::of(hook.num)));
    for hook in hooks {
        world.receivers.borrow_mut().insert(hook.num, Receiver { mood: Mood::Accepts });
        world.note(|| format!("{:?} of {:?}: {:?}", hook.num, hook.tenant, hook.policy));
        world.hooks.write().rows.insert(hook.num, hook);
    }
    Rc::new(world)
}

/// Adds the troubles between nodes, and makes webhooks share shards.
fn add_nodes(trouble: &mut Trouble, hooks: &mut [Hook], chance: &mut StdRng) {
    if trouble.batch_refused > 0 {
        trouble.answer_lost = chance.random_range(0..50);
    }
    trouble.call_lost = if chance.random_bool(0.2) { 1000 } else { chance.random_range(0..300) };
    for hook in hooks {
        hook.num = WebhookNum(hook.num.0 % SHARDS + hook.num.0 / SHARDS * 256);
    }
}

fn machines(is_clustered: bool, chance: &mut StdRng) -> Vec<Place> {
    let count = if is_clustered { chance.random_range(2..=4) } else { 1 };
    let are_right = !is_clustered || chance.random_bool(0.5);
    let mut skew = || if are_right { 0 } else { chance.random_range(-MOST_SKEW..=MOST_SKEW) };
    (0..count).map(|_| Place { skew: Cell::new(skew()), ..Place::default() }).collect()
}

fn bounds(chance: &mut StdRng) -> Bounds {
    let dispatch = bounds::DispatchBounds {
        chunk: chance.random_range(1..12),
        read: chance.random_range(1..4),
        scan: chance.random_range(1..4),
        held: if chance.random_bool(0.5) { chance.random_range(1..500) } else { bounds::DispatchBounds::LIVE.held },
        activator: chance.random_range(1..8),
        slice: chance.random_range(1..4),
        small_slice: 1,
        live_endpoints: if chance.random_bool(0.3) { chance.random_range(1..5) } else { 100 },
    };
    let journal = journal::JournalBounds {
        publish_queue: chance.random_range(2..40),
        record_queue: chance.random_range(2..40),
        publishes: chance.random_range(1..20),
        records: chance.random_range(1..20),
        linger: if chance.random_bool(0.5) { Duration::ZERO } else { journal::JournalBounds::LIVE.linger },
        feed_bytes: 2 * HUGE_BYTES,
    };
    let (mailbox, permits) = (chance.random_range(1..8), chance.random_range(2..10));
    Bounds { mailbox, permits, dispatch, journal }
}

fn trouble(chance: &mut StdRng) -> Trouble {
    if chance.random_bool(0.2) {
        return Trouble::NONE;
    }
    Trouble {
        read_fails: chance.random_range(0..60),
        batch_refused: chance.random_range(0..100),
        panics: chance.random_range(0..12),
        attempt_crashes: chance.random_range(0..30),
        ..Trouble::NONE
    }
}

fn hooks(chance: &mut StdRng) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for tenant in 1..=chance.random_range(2..=3) {
        let most = if chance.random_bool(0.1) { 16 } else { 4 };
        for _ in 0..chance.random_range(1..=most) {
            let num = WebhookNum(1 + i64::try_from(hooks.len()).unwrap());
            let events = [&["*"][..], &["message.*"], &["call.ended", "huge"]][chance.random_range(0..3)];
            hooks.push(Hook {
                num,
                tenant: TenantNum(tenant),
                id: WebhookId::from_bytes(&chance.random::<[u8; 16]>()).expect("sixteen bytes"),
                url: format!("http://127.0.0.1/{}/", num.0),
                events: events.iter().map(|kind| (*kind).to_owned()).collect(),
                policy: Arc::new(policy(chance)),
                is_active: true,
                inactive_reason: None,
                is_paused: false,
                is_deleted: false,
                is_unreadable: false,
                secret_ends: chance.random_bool(0.2).then(|| UnixMillis(START + chance.random_range(0..60_000))),
                version: 1,
                created_at: UnixMillis(START),
            });
        }
    }
    hooks
}

/// A policy: plain, ordered or rate limited, with short waits.
fn policy(chance: &mut StdRng) -> Policy {
    let mut policy = Policy { timeout_ms: chance.random_range(1000..5000), ..Policy::default() };
    policy.max_in_flight = chance.random_range(1..6);
    match chance.random_range(0..10) {
        0..3 => policy.ordered = true,
        3..5 => {
            let (requests, per_seconds, burst) = (chance.random_range(1..4), 1, chance.random_range(1..3));
            policy.rate_limit = Some(RateLimit { requests, per_seconds, burst });
        }
        _ => {}
    }
    policy.breaker.failure_threshold = if chance.random_bool(0.7) { chance.random_range(1..5) } else { 20 };
    policy.breaker.cooldown_seconds = chance.random_range(1..4);
    policy.breaker.max_cooldown_seconds = 10;
    policy.retry_policy.max_retries = chance.random_range(0..4);
    match chance.random_range(0..4) {
        0 => policy.retry_policy.backoff_strategy = Backoff::Linear,
        1 => {
            policy.retry_policy.backoff_strategy = Backoff::Schedule;
            policy.retry_policy.schedule_seconds = Some(vec![1, chance.random_range(25..50)]);
        }
        _ => {}
    }
    policy
}
