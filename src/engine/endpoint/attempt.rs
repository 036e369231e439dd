//! One attempt, in a task of its own that the endpoint spawns: wait for a start slot and a permit, reserve a slot in
//! the journal for the outcome, send. Until it sends, the endpoint may recall it. A panic does not end the actor: it is
//! an outcome (`crashed`), whether or not anything was sent.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::delivery::sender::{Message, Report, Sender};
use crate::delivery::target::Target;
use crate::domain::event::{Body, Event};
use crate::domain::id::{DeliveryId, EventId};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::domain::shard::ShardNum;
use crate::engine::bodies::NoBody;
use crate::engine::context::EngineContext;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::endpoint_stats::{Awaited, EndpointStats};
use crate::engine::lane::{Entry, SLOW};
use crate::engine::permits::{Permit, Share};
use crate::engine::start_slots::{StartSlot, StartSlots};
use crate::fault;
use crate::host::Host;
use crate::journal::JournalSlot;
use crate::store::StoreError;

use super::STORE_PAUSE;
use super::recall::Recall;

/// Pause while no file descriptor is free. Descriptors come free as requests end and idle connections age.
const NO_DESCRIPTOR: Duration = Duration::from_millis(500);

/// Within this time, an endpoint whose shard is handed off is told so, and begins nothing more.
const HAND_OFF_PAUSE: Duration = Duration::from_millis(20);

/// An attempt that was made.
pub(in crate::engine) struct Attempted {
    pub(in crate::engine) report: Report,
    pub(super) started_at: UnixMillis,
    /// The slot in the journal that was reserved for the outcome.
    pub(super) slot: JournalSlot,
}

/// How an attempt ends.
pub(in crate::engine) enum AttemptEnd {
    Made(Attempted),
    /// The lease ended first. The receiver may have seen the request; its answer is not known. An attempt is also cut
    /// short by the end of its actor or its process, and by a hand-off that it outlasts; these leave no such value.
    CutShort,
}

/// Makes the request of one attempt. Dropping the future cancels the request.
pub(in crate::engine) trait Transport: Send + Sync {
    fn attempt<'a>(&'a self, target: &'a Target, message: Message) -> LocalBoxFuture<'a, Report>;
}

impl Transport for Sender {
    fn attempt<'a>(&'a self, target: &'a Target, message: Message) -> LocalBoxFuture<'a, Report> {
        Box::pin(Self::attempt(self, target, message))
    }
}

/// What an attempt needs.
pub(super) struct Means {
    pub(super) context: Arc<EngineContext>,
    pub(super) start_slots: StartSlots,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) stats: Arc<EndpointStats>,
    pub(super) recall: Recall,
}

impl Means {
    /// Waits, and shows in the endpoint stats what for.
    async fn wait<T>(&self, awaited: Awaited, wait: impl Future<Output = T>) -> T {
        let _waiting = self.stats.waits_for(awaited);
        wait.await
    }
}

/// What a request needs before it is sent.
struct Admitted {
    body: Result<Bytes, NoBody>,
    permit: Permit,
    start_slot: StartSlot,
    slot: JournalSlot,
}

/// Makes an attempt. `None`: nothing was sent, because the attempt was recalled, the engine is stopping, or it no longer
/// serves the webhook. The lane may start such an attempt again at once. One that panics might do so for ever, so it
/// spends a try instead.
pub(super) async fn run(means: Means, config: Arc<EndpointConfig>, entry: Entry, share: Share) -> Option<AttemptEnd> {
    let context = means.context.clone();
    match AssertUnwindSafe(make(means, config, entry, share)).catch_unwind().await {
        Ok(end) => end,
        Err(_) => {
            let slot = context.journal.reserve().await.ok()?;
            let report = crashed(Duration::ZERO);
            Some(AttemptEnd::Made(Attempted { report, started_at: context.host.now(), slot }))
        }
    }
}

async fn make(means: Means, config: Arc<EndpointConfig>, entry: Entry, share: Share) -> Option<AttemptEnd> {
    let Admitted { body, permit, start_slot, slot } = {
        let admission = pin!(admission(&means, &config, &entry, share));
        means.recall.unless_recalled(admission).await??
    };
    // The future of a request is large. Attempts that wait for admission do without it.
    Box::pin(async move {
        let host = &means.context.host;
        let (started_at, began) = (host.now(), host.steady());
        // On the heap: otherwise every future that wraps the request would move it.
        let request = Box::pin(means.context.lease.run_within(send(&means, &config, entry, body)));
        let request = AssertUnwindSafe(request).catch_unwind();
        let report = keep_watch(host, start_slot.make(host, request), permit).await;
        let report = match report {
            Ok(Some(report)) => report?,
            Ok(None) => return Some(AttemptEnd::CutShort),
            Err(_) => crashed(host.steady().saturating_duration_since(began)),
        };
        Some(AttemptEnd::Made(Attempted { report, started_at, slot }))
    })
    .await
}

/// Waits for all that a request needs. `None`: the engine is stopping, or no longer serves the webhook. What is seldom
/// waited for is on the heap, since thousands of attempts may be here at once.
async fn admission(means: &Means, config: &EndpointConfig, entry: &Entry, share: Share) -> Option<Admitted> {
    fault::point_of("attempt.admission", &config.name);
    let EngineContext { host, shard_set, lease, journal, draining, .. } = means.context.as_ref();
    let tag = shard_set.tag_of(ShardNum::of(config.num));
    let body = match &entry.event.body {
        // The usual case. It does not wait with `draining`: all threads share the token, and a wait takes its lock.
        Body::InMemory(body) => Ok(body.clone()),
        Body::Stored { .. } => Box::pin(draining.run_until_cancelled(body_of(&means.context, &entry.event))).await?,
    };
    let (permit, start_slot) = permission(means, config, share).await?;
    if shard_set.serves_under(config.num, tag) {
        let slot = loop {
            if !lease.is_valid() {
                means.wait(Awaited::Lease, Box::pin(draining.run_until_cancelled(lease.wait_valid()))).await?;
            }
            let slot = means.wait(Awaited::Journal, journal.reserve()).await.ok()?;
            // Attempts that wait for the lease must not occupy the queue: the node needs it to join again.
            if lease.is_valid() {
                break slot;
            }
        };
        // During the wait for the lease, the node may have joined again as another one.
        if shard_set.serves_under(config.num, tag) {
            return Some(Admitted { body, permit, start_slot, slot });
        }
    }
    drop((permit, start_slot));
    host.sleep(HAND_OFF_PAUSE).await;
    None
}

/// Waits for a start slot of this thread and a permit of the process. As a rule a permit is free by the time the slot
/// comes. An attempt that must wait for its permit gives the slot back meanwhile.
async fn permission(means: &Means, config: &EndpointConfig, share: Share) -> Option<(Permit, StartSlot)> {
    let Means { context, start_slots, .. } = means;
    let (tenant, webhook) = (config.tenant, config.num);
    let start_slot = start_slots.wait(&context.draining, tenant, webhook).await?;
    if let Some(permit) = context.permits.try_acquire(tenant, webhook, share) {
        return Some((permit, start_slot));
    }
    drop(start_slot);
    let permit = Box::pin(context.draining.run_until_cancelled(context.permits.acquire(tenant, webhook, share)));
    let permit = means.wait(Awaited::Permit, permit).await?;
    Some((permit, start_slots.wait(&context.draining, tenant, webhook).await?))
}

/// Moves the permit of a request that takes long to the bulkhead's part for ailing endpoints, as soon as that part has
/// room, so that a healthy endpoint can use the permit's old place.
async fn keep_watch<T>(host: &Host, request: impl Future<Output = T>, mut permit: Permit) -> T {
    let mut request = pin!(request);
    loop {
        match host.timeout(SLOW, &mut request).await {
            Some(ended) => return ended,
            None if permit.mark_overdue() => break,
            None => {}
        }
    }
    request.await
}

/// Sends as soon as a file descriptor is free: the lack of one is not the receiver's fault, and costs no try. `None`:
/// the attempt was recalled or the engine stopped first.
async fn send(means: &Means, config: &EndpointConfig, entry: Entry, body: Result<Bytes, NoBody>) -> Option<Report> {
    fault::point_of("attempt.task", &config.name);
    fault::point("attempt.before_connect");
    let target = match &config.target {
        Ok(target) => target,
        Err(refusal) => return Some(unsent(Outcome::Blocked, refusal.clone(), Duration::ZERO)),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return Some(unsent(Outcome::Crashed, error.to_string(), Duration::ZERO)),
    };
    while means.recall.begin() {
        let in_flight = means.stats.sends();
        let report = means.transport.attempt(target, message(config, &entry, body.clone())).await;
        drop(in_flight);
        if !report.out_of_fds {
            fault::point("attempt.after_send");
            return Some(report);
        }
        tracing::debug!(webhook = %config.id, "no file descriptor left; the request waits for one");
        if !means.recall.wait_again() {
            return None;
        }
        let pause = means.context.host.sleep(NO_DESCRIPTOR);
        means.wait(Awaited::Descriptor, means.context.draining.run_until_cancelled(pause)).await?;
    }
    None
}

/// Reads the body before the attempt takes a permit: a database that does not answer, or a lack of memory, must not
/// keep permits from others.
async fn body_of(context: &EngineContext, event: &Event) -> Result<Bytes, NoBody> {
    loop {
        match context.bodies.of(event).await {
            Err(NoBody::Store(error @ (StoreError::Database(_) | StoreError::Deadlock))) => {
                tracing::warn!(%error, "event body could not be read; trying again");
                context.host.sleep(STORE_PAUSE).await;
            }
            read => return read,
        }
    }
}

fn message(config: &EndpointConfig, entry: &Entry, body: Bytes) -> Message {
    let event = &entry.event;
    Message {
        event_id: EventId(event.seq).to_string(),
        event_type: event.kind.clone(),
        delivery_id: DeliveryId { event: event.seq, webhook: config.num }.to_string(),
        attempt: entry.state.attempts + 1,
        trail: event.trail.clone(),
        body,
    }
}

fn crashed(took: Duration) -> Report {
    unsent(Outcome::Crashed, "the attempt crashed".to_owned(), took)
}

fn unsent(outcome: Outcome, error: String, took: Duration) -> Report {
    Report {
        outcome,
        status: None,
        error: Some(error),
        head_us: None,
        duration_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
        request: None,
        response_headers: Vec::new(),
        response_body: Bytes::new(),
        out_of_fds: false,
    }
}
