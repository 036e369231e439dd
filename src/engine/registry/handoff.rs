//! Hand-off of shards that this node no longer serves: each of their endpoints ends as soon as its requests in flight
//! have ended. The cluster member asks for it: `ShardRuntime::drain` comes here through `served_shards` and the
//! registry's handle. Nothing here writes who owns a shard.

use tokio::sync::oneshot;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;
use crate::engine::endpoint::EndpointMessage;

use super::{Lifecycle, Registry};

/// A shard whose endpoints were asked to end.
pub(super) struct Handoff {
    shard: ShardNum,
    told: oneshot::Sender<bool>,
    /// No request for the shard was cut short, and none of its endpoints has crashed.
    clean: bool,
}

impl Registry {
    pub(super) fn hand_off(&mut self, shard: ShardNum, told: oneshot::Sender<bool>) {
        let mut clean = !self.cut_short_shards.remove(&shard);
        let host = &self.context.host;
        self.endpoints.retain(|num, known| {
            if ShardNum::of(*num) != shard {
                return true;
            }
            match &known.lifecycle {
                Lifecycle::Live(addr) | Lifecycle::Passivating { addr, .. } => {
                    host.spawn(addr.send(EndpointMessage::Drain));
                    true
                }
                // What the crashed endpoint may have sent is not noted yet.
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

    /// Forgets a crashed endpoint whose shard is being handed off: it is not restarted here. Answers whether it was.
    pub(super) fn crashed_during_handoff(&mut self, num: WebhookNum) -> bool {
        let Some(handoff) = self.handoffs.iter_mut().find(|handoff| handoff.shard == ShardNum::of(num)) else {
            return false;
        };
        handoff.clean = false;
        self.endpoints.remove(&num);
        true
    }

    /// Notes that a request was cut short, because the lease ended, whether or not its shard is being handed off: the
    /// event is in doubt for a later activation here, and for the shard's next owner.
    pub(super) fn cut_short(&mut self, num: WebhookNum, event: EventSeq) {
        self.marks.mark_in_doubt(num, InDoubt { events_to: event, due_to: self.context.host.now() });
        let shard = ShardNum::of(num);
        match self.handoffs.iter_mut().find(|handoff| handoff.shard == shard) {
            Some(handoff) => handoff.clean = false,
            None => drop(self.cut_short_shards.insert(shard)),
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
