//! Shards that this node no longer serves: their endpoints end as soon as what they have under way has ended.

use actix::{Handler, Message};
use tokio::sync::oneshot;

use crate::clock::UnixMillis;
use crate::engine::endpoint;
use crate::id::{EventSeq, WebhookNum};
use crate::store::leases::ShardNum;
use crate::store::state::Suspect;

use super::{Life, Registry};

/// Told whether they have all ended as they should.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Quit(pub(super) ShardNum, pub(super) oneshot::Sender<bool>);

/// A shard whose endpoints are asked to end.
pub(super) struct Quitting {
    shard: ShardNum,
    told: oneshot::Sender<bool>,
    /// Nothing of it was cut short.
    clean: bool,
}

impl Handler<Quit> for Registry {
    type Result = ();

    fn handle(&mut self, Quit(shard, told): Quit, _: &mut Self::Context) {
        let mut clean = !self.cut.remove(&shard);
        self.endpoints.retain(|num, known| {
            if ShardNum::of(*num) != shard {
                return true;
            }
            match &known.life {
                Life::Live(addr) | Life::Retiring { addr, .. } => {
                    let addr = addr.clone();
                    actix::spawn(async move {
                        let _ = addr.send(endpoint::Drain).await;
                    });
                    true
                }
                // It has not yet left word of what it may have sent.
                Life::Resting => {
                    clean = false;
                    false
                }
                Life::Quarantined => false,
            }
        });
        self.marks.forget_shard(shard);
        self.quitting.push(Quitting { shard, told, clean });
        self.tell_if_quit();
    }
}

impl Registry {
    /// An endpoint of a shard that is left has crashed: nobody makes it again here.
    pub(super) fn crashed_while_quitting(&mut self, num: WebhookNum) -> bool {
        let Some(quitting) = self.quitting.iter_mut().find(|quitting| quitting.shard == ShardNum::of(num)) else {
            return false;
        };
        quitting.clean = false;
        self.endpoints.remove(&num);
        true
    }

    /// What it was for goes on here; whoever holds its shard next is told that it is in doubt.
    pub(super) fn cut_short(&mut self, num: WebhookNum, event: EventSeq) {
        self.marks.suspect(num, Suspect { events_to: event, due_to: UnixMillis::now() });
        let shard = ShardNum::of(num);
        match self.quitting.iter_mut().find(|quitting| quitting.shard == shard) {
            Some(quitting) => quitting.clean = false,
            None => drop(self.cut.insert(shard)),
        }
    }

    pub(super) fn tell_if_quit(&mut self) {
        let endpoints = &self.endpoints;
        let is_over = |quitting: &mut Quitting| !endpoints.keys().any(|num| ShardNum::of(*num) == quitting.shard);
        for Quitting { told, clean, .. } in self.quitting.extract_if(.., is_over) {
            let _ = told.send(clean);
        }
    }
}
