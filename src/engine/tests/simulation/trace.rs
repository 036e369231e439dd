//! Formats what happened in few words, for the history of a failing seed.

use crate::domain::id::{DeliveryId, EventSeq};
use crate::engine::lane::{Effect, Entry, Input};

use super::journal::Commit;
use super::world::START;

/// When the event was accepted, in milliseconds since the start, and its number within that millisecond.
pub(super) fn event(seq: EventSeq) -> String {
    let at = seq.accepted_at();
    format!("e{}+{}", at.0 - START, seq.0 - EventSeq::first_at(at).0)
}

fn entry(entry: &Entry) -> String {
    let Entry { event: of, state, trigger, stored } = entry;
    let kind = if *stored { "row" } else { "owed" };
    let due = state.next_at.map(|at| at.0 - START);
    format!("{} {kind} after {} due {due:?} {trigger:?}", event(of.seq), state.attempts)
}

pub(super) fn input(input: &Input) -> String {
    match input {
        Input::Offer(offered) => format!("offer {}", entry(offered)),
        Input::SendNow(summoned) => format!("send_now {}", entry(summoned)),
        Input::Loaded { entries, next } => {
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("loaded {entries:?}, next {:?}", next.map(|at| at.0 - START))
        }
        Input::Finished { event: of, outcome, .. } => format!("{} ended: {outcome:?}", event(*of)),
        Input::NotSent { event: of } => format!("{} was not sent", event(*of)),
        Input::CutShort { event: of } => format!("{} was cut short", event(*of)),
        Input::Configure { mode, .. } => format!("mode {mode:?}"),
        Input::LoadFailed | Input::Wake | Input::Remind | Input::Probe | Input::Renew | Input::Tick => {
            format!("{input:?}")
        }
    }
}

pub(super) fn effects(effects: &[Effect]) -> String {
    let effects: Vec<String> = effects.iter().map(effect).collect();
    effects.join(", ")
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Start { entry: started, .. } => format!("start {}", entry(started)),
        Effect::Settle { entry, state } => {
            let (of, next) = (event(entry.event.seq), state.next_at.map(|at| at.0 - START));
            format!("settle {of} {:?} tries {} next {next:?}", state.status, state.tries)
        }
        Effect::Defer { event: of } => format!("defer {}", event(*of)),
        Effect::Cancel { event: of } => format!("cancel {}", event(*of)),
        Effect::Load { limit, known } => format!("load {limit} beside {}", known.len()),
        Effect::Recall { events } => format!("recall {:?}", events.iter().map(|of| event(*of)).collect::<Vec<_>>()),
        Effect::Save { health, .. } => format!("save open until {:?}", health.open_until.map(|at| at.0 - START)),
    }
}

pub(super) fn commit(Commit { events, purged, claimed, deliveries, .. }: &Commit) -> String {
    let delivery = |id: &DeliveryId| format!("w{} {}", id.webhook.0, event(id.event));
    let ids = |ids: &[DeliveryId]| ids.iter().map(delivery).collect::<Vec<_>>().join(", ");
    let events: Vec<String> = events.iter().map(|seq| event(*seq)).collect();
    let claimed: Vec<String> = claimed.iter().map(|(seq, shard)| format!("{}/{shard}", event(*seq))).collect();
    let (purged, deliveries) = (ids(purged), ids(deliveries));
    format!("events {events:?}, rows {deliveries}, purged {purged}, claimed {claimed:?}")
}
