//! Shards that this node no longer serves: their endpoints end as soon as what they have under way has ended.

use actix::{Handler, Message};
use tokio::sync::oneshot;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::endpoint;
use crate::store::leases::ShardNum;
use crate::store::state::InDoubt;

use super::{Lifecycle, Registry};

/// Told whether they have all ended as they should.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct HandOff(pub(super) ShardNum, pub(super) oneshot::Sender<bool>);

/// A shard whose endpoints are asked to end.
pub(super) struct Handoff {
    shard: ShardNum,
    told: oneshot::Sender<bool>,
    /// Nothing of it was cut short.
    clean: bool,
}

impl Handler<HandOff> for Registry {
    type Result = ();

    fn handle(&mut self, HandOff(shard, told): HandOff, _: &mut Self::Context) {
        let mut clean = !self.interrupted_shards.remove(&shard);
        self.endpoints.retain(|num, known| {
            if ShardNum::of(*num) != shard {
                return true;
            }
            match &known.lifecycle {
                Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } => {
                    let addr = addr.clone();
                    actix::spawn(async move {
                        let _ = addr.send(endpoint::Drain).await;
                    });
                    true
                }
                // It has not yet left word of what it may have sent.
                Lifecycle::Resting => {
                    clean = false;
                    false
                }
                Lifecycle::Quarantined => false,
            }
        });
        self.marks.forget_shard(shard);
        self.handoffs.push(Handoff { shard, told, clean });
        self.report_finished_handoffs();
    }
}

impl Registry {
    /// An endpoint of a shard that is left has crashed: nobody makes it again here.
    pub(super) fn crashed_during_handoff(&mut self, num: WebhookNum) -> bool {
        let Some(handoff) = self.handoffs.iter_mut().find(|handoff| handoff.shard == ShardNum::of(num)) else {
            return false;
        };
        handoff.clean = false;
        self.endpoints.remove(&num);
        true
    }

    /// What it was for goes on here; whoever holds its shard next is told that it is in doubt.
    pub(super) fn interrupted(&mut self, num: WebhookNum, event: EventSeq) {
        self.marks.mark_in_doubt(num, InDoubt { events_to: event, due_to: UnixMillis::now() });
        let shard = ShardNum::of(num);
        match self.handoffs.iter_mut().find(|handoff| handoff.shard == shard) {
            Some(handoff) => handoff.clean = false,
            None => drop(self.interrupted_shards.insert(shard)),
        }
    }

    pub(super) fn report_finished_handoffs(&mut self) {
        let endpoints = &self.endpoints;
        let is_over = |handoff: &mut Handoff| !endpoints.keys().any(|num| ShardNum::of(*num) == handoff.shard);
        for Handoff { told, clean, .. } in self.handoffs.extract_if(.., is_over) {
            let _ = told.send(clean);
        }
    }
}
