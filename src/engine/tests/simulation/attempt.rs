//! The requests of attempts: they go to [`super::receivers`], and the oracle knows each of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::delivery::sender::{Message, Report};
use crate::delivery::target::Target;
use crate::domain::id::DeliveryId;
use crate::domain::outcome::Outcome;
use crate::engine::endpoint::Transport;

use super::oracle::RequestNum;
use super::tasks::Owner;
use super::trace;
use super::world::{self, World, sleep};

/// Takes the requests of one endpoint to their receiver.
pub(super) struct Receivers {
    pub(super) place: usize,
    pub(super) owner: Owner,
}

/// A request in flight. If it is dropped before it is answered, its receiver may still have seen it.
struct UnderWay {
    place: usize,
    owner: Owner,
    request: RequestNum,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let world = world::current();
        let is_answered = world.oracle.borrow_mut().ended(self.request);
        let has_lease =
            || world.machines[self.place].process.borrow().as_ref().is_some_and(|it| it.context.lease.is_valid());
        if !is_answered && !world.tasks.is_ending(self.owner) && has_lease() {
            world.fail(Box::new(format!("request {} is dropped by a live endpoint with a lease", self.request)));
        }
    }
}

impl Transport for Receivers {
    fn attempt<'a>(&'a self, target: &'a Target, message: Message) -> LocalBoxFuture<'a, Report> {
        Box::pin(async move {
            let world = world::current();
            let Some(process) = world.machines[self.place].process.borrow().clone() else {
                return std::future::pending().await;
            };
            // The engine makes an outcome of a panic in here, but one of the oracle's ends the simulation.
            let sent = catch_unwind(AssertUnwindSafe(|| {
                let id: DeliveryId = message.delivery_id.parse().expect("a delivery's id");
                (id, world.oracle.borrow_mut().sent(&process, self.owner, id, message.attempt))
            }));
            let (id, request) = match sent {
                Ok(sent) => sent,
                Err(panic) => {
                    world.fail(panic);
                    return std::future::pending().await;
                }
            };
            world.note(|| format!("request {request}: {} to w{}", trace::event(id.event), id.webhook.0));
            let (under_way, began) = (UnderWay { place: self.place, owner: self.owner, request }, world.elapsed());
            let (outcome, wait) = answer(&world, id, target.timeout);
            sleep(wait).await;
            world.oracle.borrow_mut().answered(request, &outcome);
            world.note(|| format!("request {request} ends: {outcome:?}"));
            drop(under_way);
            report(request, outcome, world.elapsed() - began)
        })
    }
}

fn answer(world: &World, id: DeliveryId, limit: Duration) -> (Outcome, Duration) {
    let receiver = world.receivers.borrow().get(&id.webhook).copied();
    let (outcome, wait) = match receiver {
        Some(receiver) => receiver.answer(limit, &mut *world.chance.borrow_mut()),
        None => (Outcome::DnsFailed, Duration::ZERO),
    };
    if world.happens(world.trouble.get().attempt_crashes) { (Outcome::Crashed, wait) } else { (outcome, wait) }
}

/// The attempt's error is the number of the request, by which the oracle finds it in the tables.
fn report(request: RequestNum, outcome: Outcome, took: Duration) -> Report {
    Report {
        outcome,
        status: None,
        error: Some(request.to_string()),
        head_us: None,
        duration_us: u32::try_from(took.as_micros()).unwrap_or(u32::MAX),
        request: None,
        response_headers: Vec::new(),
        response_body: Bytes::new(),
        out_of_fds: false,
    }
}

/// The number of the request that this report is about; `None` if nothing was sent.
pub(super) fn request_of(report: &Report) -> Option<RequestNum> {
    report.error.as_deref()?.parse().ok()
}
