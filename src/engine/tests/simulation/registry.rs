//! Mirrors [`crate::engine::registry`]: which endpoints are live, resting or quarantined, and whose offers have rows.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::engine::endpoint::{EndpointEvent, EndpointEventKind};
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::Mode;
use crate::engine::registry::{Item, Marks, Offered};
use crate::engine::restart::{Rest, Restarts};
use crate::store::leases::ShardNum;

use super::endpoint::Endpoint;
use super::messages::Message;
use super::process::Process;

#[derive(Default)]
pub(super) struct Registry {
    endpoints: BTreeMap<WebhookNum, Known>,
    marks: Marks,
    cut: BTreeSet<ShardNum>,
    started: u64,
    handoff: Vec<Handoff>,
    draining: bool,
}

struct Known {
    lifecycle: Lifecycle,
    generation: u64,
    since: Instant,
    restarts: Restarts,
    ordered: bool,
    missed_wake: bool,
}

enum Lifecycle {
    Live(Rc<Endpoint>),
    Passivating { endpoint: Rc<Endpoint>, wanted: bool },
    Resting,
    Quarantined,
}

/// `handoff::Handoff`.
struct Handoff {
    shard: ShardNum,
    told: oneshot::Sender<bool>,
    clean: bool,
}

/// The registry's actor.
impl Registry {
    /// `Registry::activate`.
    pub(super) fn activate(&mut self, process: &Rc<Process>, config: &Arc<EndpointConfig>, rested: bool) {
        let restarts = match self.endpoints.get_mut(&config.num) {
            Some(Known { lifecycle: Lifecycle::Live(_), ordered, .. }) => {
                *ordered = config.policy.ordered;
                return;
            }
            Some(Known { lifecycle: Lifecycle::Passivating { wanted, .. }, .. }) => {
                *wanted = true;
                return;
            }
            Some(Known { lifecycle: Lifecycle::Resting, restarts, .. }) if rested => *restarts,
            Some(Known { lifecycle: Lifecycle::Resting, .. }) => return,
            Some(Known { lifecycle: Lifecycle::Quarantined, .. }) => return,
            None => Restarts::default(),
        };
        let serves = process.shard_set.serves(config.num);
        if process.mode_now(config) != Mode::Active || self.draining || !serves {
            self.endpoints.remove(&config.num);
            return;
        }
        self.started += 1;
        let known = process.shard_set.in_doubt_of(config.num);
        let in_doubt = self.marks.in_doubt_of(config.num, known);
        let endpoint = Endpoint::start(process, config, self.started, in_doubt);
        let known = Known {
            lifecycle: Lifecycle::Live(endpoint),
            generation: self.started,
            since: process.world.steady(),
            restarts,
            ordered: config.policy.ordered,
            missed_wake: false,
        };
        self.endpoints.insert(config.num, known);
    }

    /// `Registry::offer`.
    pub(super) fn offer(&self, process: &Process, item: Item, answer: &mut Offered) {
        if !process.shard_set.serves_under(item.num, item.epoch) {
            return;
        }
        if self.marks.has_row(item.num, item.event.seq) {
            return answer.refused.push(item);
        }
        let Some(known) = self.endpoints.get(&item.num) else { return answer.unknown.push(item) };
        match &known.lifecycle {
            Lifecycle::Live(endpoint) if !known.ordered => {
                if endpoint.try_send(Message::Offer(item.clone())).is_err() {
                    answer.refused.push(item);
                }
            }
            Lifecycle::Live(_) | Lifecycle::Passivating { .. } | Lifecycle::Resting | Lifecycle::Quarantined => {
                answer.refused.push(item)
            }
        }
    }

    /// `Registry::wake`.
    pub(super) fn wake(&mut self, mut nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        nums.retain(|num| match self.endpoints.get_mut(num) {
            Some(Known { lifecycle: Lifecycle::Live(endpoint), missed_wake, .. }) => {
                *missed_wake = endpoint.try_send(Message::Wake).is_err();
                false
            }
            Some(Known { lifecycle: Lifecycle::Resting | Lifecycle::Quarantined, .. }) => false,
            Some(Known { lifecycle: Lifecycle::Passivating { .. }, .. }) | None => true,
        });
        nums
    }

    /// `Registry::remind`.
    pub(super) fn remind(&mut self, nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        let missed_wake = |num: &WebhookNum| self.endpoints.get(num).is_some_and(|known| known.missed_wake);
        let (to_wake, to_remind): (Vec<_>, Vec<_>) = nums.into_iter().partition(missed_wake);
        let mut asleep = self.wake(to_wake);
        for num in to_remind {
            match self.endpoints.get(&num).map(|known| &known.lifecycle) {
                Some(Lifecycle::Live(endpoint)) => drop(endpoint.try_send(Message::Remind)),
                Some(Lifecycle::Resting | Lifecycle::Quarantined) => {}
                Some(Lifecycle::Passivating { .. }) | None => asleep.push(num),
            }
        }
        asleep
    }

    /// `StreamHandler<EndpointEvent>`.
    pub(super) fn hear(&mut self, process: &Rc<Process>, notice: EndpointEvent) {
        let EndpointEvent { num, generation, kind: sign } = notice;
        let Some(known) = self.endpoints.get_mut(&num).filter(|known| known.generation == generation) else { return };
        match sign {
            EndpointEventKind::Idle => {
                if let Lifecycle::Live(endpoint) = &known.lifecycle
                    && endpoint.try_send(Message::Passivate).is_ok()
                {
                    known.lifecycle = Lifecycle::Passivating { endpoint: endpoint.clone(), wanted: false };
                }
            }
            EndpointEventKind::Busy => {
                if let Lifecycle::Passivating { endpoint, .. } = &known.lifecycle {
                    known.missed_wake = endpoint.try_send(Message::Wake).is_err();
                    known.lifecycle = Lifecycle::Live(endpoint.clone());
                }
            }
            EndpointEventKind::Passivated => {
                let gone = self.endpoints.remove(&num);
                if gone.is_some_and(|known| matches!(known.lifecycle, Lifecycle::Passivating { wanted: true, .. })) {
                    let handle = process.clone();
                    process.spawn(async move { handle.wake(vec![num]).await });
                }
            }
            EndpointEventKind::CutShort(event) => {
                self.mark_in_doubt(num, InDoubt { events_to: event, due_to: process.wall() });
                let shard = ShardNum::of(num);
                match self.handoff.iter_mut().find(|handoff| handoff.shard == shard) {
                    Some(handoff) => handoff.clean = false,
                    None => drop(self.cut.insert(shard)),
                }
            }
            EndpointEventKind::Crashed => self.crashed(process, num),
        }
        self.report_finished_handoffs();
    }

    /// `Registry::crashed`.
    fn crashed(&mut self, process: &Rc<Process>, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if self.draining {
            known.lifecycle = Lifecycle::Resting;
            return;
        }
        if self.crashed_during_handoff(num) {
            return;
        }
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        let lived = process.world.steady().saturating_duration_since(known.since);
        let wait = match known.restarts.crashed(lived) {
            Rest::For(wait) => {
                known.lifecycle = Lifecycle::Resting;
                Some(wait)
            }
            Rest::Quarantine => {
                known.lifecycle = Lifecycle::Quarantined;
                None
            }
        };
        process.world.note(|| format!("{num:?} rests for {wait:?}"));
        let handle = process.clone();
        process.spawn(async move { handle.restart(num, wait).await });
    }

    /// `Handler<Find>`.
    pub(super) fn find(&self, num: WebhookNum) -> Option<Rc<Endpoint>> {
        match &self.endpoints.get(&num)?.lifecycle {
            Lifecycle::Live(endpoint) | Lifecycle::Passivating { endpoint, .. } => Some(endpoint.clone()),
            Lifecycle::Resting | Lifecycle::Quarantined => None,
        }
    }

    /// `Handler<Forget>`.
    pub(super) fn forget(&mut self, num: WebhookNum) {
        if self
            .endpoints
            .get(&num)
            .is_some_and(|known| matches!(known.lifecycle, Lifecycle::Resting | Lifecycle::Quarantined))
        {
            self.endpoints.remove(&num);
        }
    }

    /// `Handler<SetRowWatermark>`.
    pub(super) fn set_row_watermark(&mut self, num: WebhookNum, to: EventSeq) {
        self.marks.set_row_watermark(num, to);
    }

    /// The interval of `Registry::started`.
    pub(super) fn prune(&mut self, offered_to: EventSeq, is_owed: impl Fn(WebhookNum) -> bool) {
        self.marks.prune(offered_to, is_owed);
    }

    /// `Handler<MarkInDoubt>`.
    pub(super) fn mark_in_doubt(&mut self, num: WebhookNum, in_doubt: InDoubt) {
        self.marks.mark_in_doubt(num, in_doubt);
    }

    /// `Handler<Release>`.
    pub(super) fn release(&mut self, num: WebhookNum) -> bool {
        let held = self.endpoints.get(&num).is_some_and(|known| matches!(known.lifecycle, Lifecycle::Quarantined));
        if held {
            self.endpoints.remove(&num);
        }
        held
    }

    /// `Handler<Drain>`; answers the endpoints to drain.
    pub(super) fn drain(&mut self) -> Vec<Rc<Endpoint>> {
        self.draining = true;
        self.live()
    }

    /// `None` while an endpoint is live. Then whether none is left resting or quarantined and nothing was cut short.
    pub(super) fn drained(&self) -> Option<bool> {
        let is_gone = |known: &Known| matches!(known.lifecycle, Lifecycle::Resting | Lifecycle::Quarantined);
        self.endpoints.values().all(is_gone).then_some(self.endpoints.is_empty() && self.cut.is_empty())
    }

    pub(super) fn live(&self) -> Vec<Rc<Endpoint>> {
        self.endpoints.keys().filter_map(|num| self.find(*num)).collect()
    }

    pub(super) fn forget_all(&mut self) {
        self.endpoints.clear();
    }
}

/// `registry::handoff`.
impl Registry {
    /// `Handler<HandOff>`; answers the endpoints to drain and, once they have all ended, whether the hand-off was
    /// clean.
    pub(super) fn hand_off(&mut self, shard: ShardNum) -> (Vec<Rc<Endpoint>>, oneshot::Receiver<bool>) {
        let (mut clean, mut to_drain) = (!self.cut.remove(&shard), Vec::new());
        self.endpoints.retain(|num, known| {
            if ShardNum::of(*num) != shard {
                return true;
            }
            match &known.lifecycle {
                Lifecycle::Live(endpoint) | Lifecycle::Passivating { endpoint, .. } => {
                    to_drain.push(endpoint.clone());
                    true
                }
                Lifecycle::Resting => {
                    clean = false;
                    false
                }
                Lifecycle::Quarantined => false,
            }
        });
        self.marks.forget_shard(shard);
        let (told, answer) = oneshot::channel();
        self.handoff.push(Handoff { shard, told, clean });
        self.report_finished_handoffs();
        (to_drain, answer)
    }

    /// `Registry::crashed_during_handoff`.
    fn crashed_during_handoff(&mut self, num: WebhookNum) -> bool {
        let Some(handoff) = self.handoff.iter_mut().find(|handoff| handoff.shard == ShardNum::of(num)) else {
            return false;
        };
        handoff.clean = false;
        self.endpoints.remove(&num);
        true
    }

    /// `Registry::report_finished_handoffs`.
    fn report_finished_handoffs(&mut self) {
        let endpoints = &self.endpoints;
        let is_over = |handoff: &mut Handoff| !endpoints.keys().any(|num| ShardNum::of(*num) == handoff.shard);
        for Handoff { told, clean, .. } in self.handoff.extract_if(.., is_over) {
            let _ = told.send(clean);
        }
    }
}
