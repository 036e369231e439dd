//! Mirrors `crate::engine::endpoint::attempt`: a permit, a slot in the journal, a request. Permits and slots are the
//! real ones; the receiver's answer comes from [`super::receivers`].

use std::rc::Rc;
use std::time::Duration;

use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::{Entry, SLOW};
use crate::engine::permits::{Permit, Share};
use crate::store::journal::Slot;
use crate::store::leases::ShardNum;

use super::endpoint::Endpoint;
use super::oracle::RequestNum;
use super::process::Process;
use super::trace;
use super::world::World;

/// An attempt whose request was sent and answered.
pub(super) struct Attempted {
    pub(super) request: RequestNum,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) started_at: UnixMillis,
    pub(super) slot: Slot,
}

pub(super) enum Ended {
    Made(Attempted),
    CutShort,
}

/// A request in flight. If it is dropped before it is answered, its receiver may still have seen it.
struct UnderWay {
    world: Rc<World>,
    request: RequestNum,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.world.oracle.borrow_mut().ended(self.request);
    }
}

/// As in `endpoint::attempt`.
const LEAVING: Duration = Duration::from_millis(20);

/// `None` if nothing was sent, because the engine is stopping or no longer serves the webhook.
pub(super) async fn run(actor: &Rc<Endpoint>, called: &EndpointConfig, entry: Entry, share: Share) -> Option<Ended> {
    let (process, world) = (&actor.process, &actor.process.world);
    let epoch = process.shard_set.epoch_of(ShardNum::of(called.num).num());
    let permit = admission(process, called, share).await?;
    if !process.shard_set.serves_under(called.num, epoch) {
        drop(permit);
        world.sleep(LEAVING).await;
        return None;
    }
    let slot = process.journal.reserve().await.ok()?;
    process.draining.run_until_cancelled(process.held()).await?;
    if !process.shard_set.serves_under(called.num, epoch) {
        world.sleep(LEAVING).await;
        return None;
    }
    let (started_at, began) = (process.wall(), world.elapsed());
    let request = world.oracle.borrow_mut().sent(process, actor.generation, called.num, &entry);
    world.note(|| format!("request {request}: {} to w{}", trace::event(entry.event.seq), called.num.0));
    let under_way = UnderWay { world: world.clone(), request };
    let limit = Duration::from_millis(called.policy.timeout_ms.into());
    let (outcome, wait) = answer(world, called, limit);
    if !keep_watch(process, wait, permit).await {
        world.note(|| format!("request {request} is cut short"));
        world.oracle.borrow_mut().cut_short(request);
        return Some(Ended::CutShort);
    }
    world.oracle.borrow_mut().answered(request, &outcome);
    world.note(|| format!("request {request} ends: {outcome:?}"));
    drop(under_way);
    Some(Ended::Made(Attempted { request, outcome, took: world.elapsed() - began, started_at, slot }))
}

fn answer(world: &World, called: &EndpointConfig, limit: Duration) -> (Outcome, Duration) {
    let receiver = world.receivers.borrow().get(&called.num).copied();
    let (outcome, wait) = match receiver {
        Some(receiver) => receiver.answer(limit, &mut *world.chance.borrow_mut()),
        None => (Outcome::DnsFailed, Duration::ZERO),
    };
    if world.happens(world.trouble.get().attempt_crashes) { (Outcome::Crashed, wait) } else { (outcome, wait) }
}

/// `admission`, without start slots.
async fn admission(process: &Process, called: &EndpointConfig, share: Share) -> Option<Permit> {
    process.pause().await;
    if process.draining.is_cancelled() {
        return None;
    }
    let (tenant, webhook) = (called.tenant, called.num);
    if let Some(permit) = process.permits.try_acquire(tenant, webhook, share) {
        return Some(permit);
    }
    process.draining.run_until_cancelled(process.permits.acquire(tenant, webhook, share)).await
}

/// `keep_watch`: a request that takes long moves to the ailing part. Answers whether it ended while the lease was
/// valid.
async fn keep_watch(process: &Process, wait: Duration, mut permit: Permit) -> bool {
    let mut left = wait;
    while left > SLOW {
        if !process.within(SLOW).await {
            return false;
        }
        left -= SLOW;
        if permit.mark_overdue() {
            break;
        }
    }
    process.within(left).await
}
