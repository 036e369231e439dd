//! Mirrors [`crate::engine::registry`]: which endpoints live, whose offers are covered by rows, who rests.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::endpoint::{Notice, Sign};
use crate::engine::lane::Mode;
use crate::engine::registry::{Item, Offered};
use crate::engine::restart::{Rest, Restarts};
use crate::engine::serving::Serving;
use crate::id::{EventSeq, WebhookNum};
use crate::store::state::Suspect;

use super::endpoint::Endpoint;
use super::messages::Message;
use super::process::Process;

#[derive(Default)]
pub(super) struct Registry {
    endpoints: BTreeMap<WebhookNum, Known>,
    covered: BTreeMap<WebhookNum, EventSeq>,
    suspects: BTreeMap<WebhookNum, Suspect>,
    started: u64,
    draining: bool,
}

struct Known {
    life: Life,
    generation: u64,
    since: Instant,
    restarts: Restarts,
    ordered: bool,
    unheard: bool,
}

enum Life {
    Live(Rc<Endpoint>),
    Retiring { endpoint: Rc<Endpoint>, wanted: bool },
    Resting,
    Quarantined,
}

/// What the registry's actor does.
impl Registry {
    /// `Registry::introduce`.
    pub(super) fn introduce(&mut self, process: &Rc<Process>, serving: &Arc<Serving>, rested: bool) {
        let restarts = match self.endpoints.get_mut(&serving.num) {
            Some(Known { life: Life::Live(_), ordered, .. }) => {
                *ordered = serving.policy.ordered;
                return;
            }
            Some(Known { life: Life::Retiring { wanted, .. }, .. }) => {
                *wanted = true;
                return;
            }
            Some(Known { life: Life::Resting, restarts, .. }) if rested => *restarts,
            Some(Known { life: Life::Resting, .. }) => return,
            Some(Known { life: Life::Quarantined, .. }) => return,
            None => Restarts::default(),
        };
        if process.mode_now(serving) != Mode::Open || self.draining {
            self.endpoints.remove(&serving.num);
            return;
        }
        self.started += 1;
        let suspect = self.suspects.get(&serving.num).copied().unwrap_or(process.suspect);
        let endpoint = Endpoint::start(process, serving, self.started, suspect);
        let known = Known {
            life: Life::Live(endpoint),
            generation: self.started,
            since: process.world.now().steady,
            restarts,
            ordered: serving.policy.ordered,
            unheard: false,
        };
        self.endpoints.insert(serving.num, known);
    }

    /// `Registry::offer`.
    pub(super) fn offer(&self, item: Item, answer: &mut Offered) {
        if self.covered.get(&item.num).is_some_and(|covered| item.event.seq <= *covered) {
            return answer.refused.push(item);
        }
        let Some(known) = self.endpoints.get(&item.num) else { return answer.unknown.push(item) };
        match &known.life {
            Life::Live(endpoint) if !known.ordered => {
                if endpoint.try_send(Message::Offer(item.clone())).is_err() {
                    answer.refused.push(item);
                }
            }
            Life::Live(_) | Life::Retiring { .. } | Life::Resting | Life::Quarantined => answer.refused.push(item),
        }
    }

    /// `Registry::wake`.
    pub(super) fn wake(&mut self, mut nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        nums.retain(|num| match self.endpoints.get_mut(num) {
            Some(Known { life: Life::Live(endpoint), unheard, .. }) => {
                *unheard = endpoint.try_send(Message::Wake).is_err();
                false
            }
            Some(Known { life: Life::Resting | Life::Quarantined, .. }) => false,
            Some(Known { life: Life::Retiring { .. }, .. }) | None => true,
        });
        nums
    }

    /// `Registry::remind`.
    pub(super) fn remind(&mut self, nums: Vec<WebhookNum>) -> Vec<WebhookNum> {
        let unheard = |num: &WebhookNum| self.endpoints.get(num).is_some_and(|known| known.unheard);
        let (to_wake, to_remind): (Vec<_>, Vec<_>) = nums.into_iter().partition(unheard);
        let mut asleep = self.wake(to_wake);
        for num in to_remind {
            match self.endpoints.get(&num).map(|known| &known.life) {
                Some(Life::Live(endpoint)) => drop(endpoint.try_send(Message::Remind)),
                Some(Life::Resting | Life::Quarantined) => {}
                Some(Life::Retiring { .. }) | None => asleep.push(num),
            }
        }
        asleep
    }

    /// `Handler<Notice>`.
    pub(super) fn hear(&mut self, process: &Rc<Process>, notice: Notice) {
        let Notice { num, generation, sign } = notice;
        let Some(known) = self.endpoints.get_mut(&num).filter(|known| known.generation == generation) else { return };
        match sign {
            Sign::Idle => {
                if let Life::Live(endpoint) = &known.life
                    && endpoint.try_send(Message::Retire).is_ok()
                {
                    known.life = Life::Retiring { endpoint: endpoint.clone(), wanted: false };
                }
            }
            Sign::Busy => {
                if let Life::Retiring { endpoint, .. } = &known.life {
                    known.unheard = endpoint.try_send(Message::Wake).is_err();
                    known.life = Life::Live(endpoint.clone());
                }
            }
            Sign::Retired => {
                let gone = self.endpoints.remove(&num);
                if gone.is_some_and(|known| matches!(known.life, Life::Retiring { wanted: true, .. })) {
                    let handle = process.clone();
                    process.spawn(async move { handle.wake(vec![num]).await });
                }
            }
            Sign::Crashed => self.crashed(process, num),
        }
    }

    /// `Registry::crashed`.
    fn crashed(&mut self, process: &Rc<Process>, num: WebhookNum) {
        let Some(known) = self.endpoints.get_mut(&num) else { return };
        if self.draining {
            known.life = Life::Resting;
            return;
        }
        let lived = process.world.now().steady.saturating_duration_since(known.since);
        let wait = match known.restarts.crashed(lived) {
            Rest::For(wait) => {
                known.life = Life::Resting;
                Some(wait)
            }
            Rest::Quarantine => {
                known.life = Life::Quarantined;
                None
            }
        };
        process.world.note(|| format!("{num:?} rests for {wait:?}"));
        let handle = process.clone();
        process.spawn(async move { handle.revive(num, wait).await });
    }

    /// `Handler<Find>`.
    pub(super) fn find(&self, num: WebhookNum) -> Option<Rc<Endpoint>> {
        match &self.endpoints.get(&num)?.life {
            Life::Live(endpoint) | Life::Retiring { endpoint, .. } => Some(endpoint.clone()),
            Life::Resting | Life::Quarantined => None,
        }
    }

    /// `Handler<Forget>`.
    pub(super) fn forget(&mut self, num: WebhookNum) {
        if self.endpoints.get(&num).is_some_and(|known| matches!(known.life, Life::Resting | Life::Quarantined)) {
            self.endpoints.remove(&num);
        }
    }

    /// `Handler<Cover>`.
    pub(super) fn cover(&mut self, num: WebhookNum, to: EventSeq) {
        let covered = self.covered.entry(num).or_insert(to);
        *covered = to.max(*covered);
    }

    /// `Handler<Suspected>`.
    pub(super) fn suspected(&mut self, num: WebhookNum, suspect: Suspect) {
        let known = self.suspects.entry(num).or_insert(suspect);
        *known = known.and(suspect);
    }

    /// `Handler<Release>`.
    pub(super) fn release(&mut self, num: WebhookNum) -> bool {
        let held = self.endpoints.get(&num).is_some_and(|known| matches!(known.life, Life::Quarantined));
        if held {
            self.endpoints.remove(&num);
        }
        held
    }

    /// `Handler<Drain>`; answers whom to tell.
    pub(super) fn drain(&mut self) -> Vec<Rc<Endpoint>> {
        self.draining = true;
        self.live()
    }

    /// Whether every endpoint has ended, and if so, whether in peace.
    pub(super) fn drained(&self) -> Option<bool> {
        let is_gone = |known: &Known| matches!(known.life, Life::Resting | Life::Quarantined);
        self.endpoints.values().all(is_gone).then_some(self.endpoints.is_empty())
    }

    pub(super) fn live(&self) -> Vec<Rc<Endpoint>> {
        self.endpoints.keys().filter_map(|num| self.find(*num)).collect()
    }

    pub(super) fn forget_all(&mut self) {
        self.endpoints.clear();
    }
}
