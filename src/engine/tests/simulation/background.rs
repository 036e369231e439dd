//! The tasks of an endpoint's actor besides attempts: reading rows, and switching the webhook off. Each names what it
//! mirrors.

use std::rc::Rc;

use crate::domain::id::EventSeq;
use crate::engine::lane::{Entry, HORIZON, Input, Reason};
use crate::store::deliveries::Wanted;

use super::endpoint::Endpoint;
use super::process::STORE_PAUSE;
use super::world::Unreadable;

impl Endpoint {
    /// `Endpoint::load`.
    pub(super) fn load(self: &Rc<Self>, limit: usize, known: Vec<EventSeq>) {
        let (actor, process, num) = (self.clone(), self.process.clone(), self.num);
        let ordered = self.config.borrow().policy.ordered;
        let read = async move {
            let _ = process.journal.barrier().await;
            let horizon = process.wall().plus(HORIZON);
            let wanted = Wanted { horizon, ordered, limit, known: &known };
            let read = process.read(|tables| process.is_unbroken(tables).then(|| tables.due(num, wanted))).await;
            let read = read.and_then(|read| read.ok_or(Unreadable));
            if read.is_err() {
                process.world.sleep(STORE_PAUSE).await;
            }
            read
        };
        self.busy(read, move |read| {
            let Ok(due) = read else { return actor.hear(Input::LoadFailed) };
            let entries = due.rows.into_iter().map(|row| Entry::stored(row, actor.in_doubt.get())).collect();
            actor.hear(Input::Loaded { entries, next: due.next });
        });
    }

    /// `Handler<SendNow>`.
    pub(super) fn send_now(self: &Rc<Self>, event: EventSeq) {
        self.lane.borrow_mut().expect_send_now(event);
        let (actor, process, num) = (self.clone(), self.process.clone(), self.num);
        let read = async move {
            let _ = process.journal.barrier().await;
            let read = process.read(|tables| process.is_unbroken(tables).then(|| tables.due_one(event, num))).await;
            read.and_then(|read| read.ok_or(Unreadable))
        };
        self.busy(read, move |read| match read {
            Ok(Some(due)) => actor.hear(Input::SendNow(Entry::stored(due, actor.in_doubt.get()))),
            Ok(None) => {
                actor.lane.borrow_mut().cancel_send_now(event);
            }
            Err(_) => {
                actor.lane.borrow_mut().cancel_send_now(event);
                actor.hear(Input::Wake);
            }
        });
    }

    /// `Endpoint::disable`.
    pub(super) fn disable(self: &Rc<Self>, reason: Reason) {
        let (actor, process, config) = (self.clone(), self.process.clone(), self.config.borrow().clone());
        self.process.world.note(|| format!("{:?} is to be switched off: {reason:?}", self.num));
        self.recording.set(self.recording.get() + 1);
        self.busy(async move { process.switch_off(&config).await }, move |config| {
            if let Some(config) = config {
                actor.configure(config);
            }
            actor.recorded();
        });
    }
}
