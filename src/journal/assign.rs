//! Turns drafts into events: gives each its key and body, and recognises caller ids that were used before. Called by
//! the writer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::domain::event::{Body, Event};
use crate::domain::id::{EventId, EventSeq, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::store::events::{Caller, Receipt};
use crate::store::{StoreError, payload};

use super::{Draft, Published};
use crate::store::journal_db::rows::NewEvent;
use crate::store::journal_db::{JournalTransaction, KnownCaller};

/// The caller ids of this batch, with the receipts that they got.
#[derive(Default)]
pub(super) struct Callers {
    known: HashMap<(TenantNum, String), KnownCaller>,
}

impl Callers {
    /// Looks the caller id up in this batch and in the store.
    pub(super) async fn recognise(
        &mut self,
        on: &mut dyn JournalTransaction,
        tenant: TenantNum,
        caller: &Caller,
    ) -> Result<Option<Published>, StoreError> {
        let known = match self.known.entry((tenant, caller.id.clone())) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => match on.known_caller(tenant, &caller.id).await? {
                Some(known) => *entry.insert(known),
                None => return Ok(None),
            },
        };
        let KnownCaller { digest, receipt } = known;
        Ok(Some(if digest == caller.digest { Published::Duplicate(receipt) } else { Published::Conflict }))
    }

    pub(super) fn learn(&mut self, tenant: TenantNum, caller: &Caller, receipt: Receipt) {
        self.known.insert((tenant, caller.id.clone()), KnownCaller { digest: caller.digest, receipt });
    }
}

/// Makes the event that `draft` becomes under the key `seq`.
pub(super) fn accept(draft: Draft, seq: EventSeq, now: UnixMillis) -> (NewEvent, Receipt) {
    let Draft { tenant, kind, occurred_at, data, caller, trail, targets, is_ordered: _ } = draft;
    let occurred_at = occurred_at.unwrap_or(now);
    let receipt = Receipt { seq, occurred_at, matched: u32::try_from(targets.len()).unwrap_or(u32::MAX) };
    let body = payload::counted(body(seq, &kind, occurred_at, data.get()));
    let event = Event { seq, tenant, kind: kind.as_ref().to_owned(), body: Body::InMemory(body.clone()), trail };
    (NewEvent { event: Arc::new(event), body, occurred_at, caller, targets }, receipt)
}

/// `{"id", "event", "timestamp", "data"}`, with the publisher's data byte for byte.
fn body(seq: EventSeq, kind: &str, occurred_at: UnixMillis, data: &str) -> Vec<u8> {
    let kind = serde_json::Value::from(kind);
    let id = EventId(seq);
    format!(r#"{{"id":"{id}","event":{kind},"timestamp":"{occurred_at}","data":{data}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_keeps_the_data_to_the_byte() {
        let body = body(EventSeq(1), "a\"b", UnixMillis(0), r#"{"z":1.50, "a":123456789012345678901234567890}"#);
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.ends_with(r#""data":{"z":1.50, "a":123456789012345678901234567890}}"#), "{text}");
        assert!(text.contains(r#""event":"a\"b","timestamp":"1970-01-01T00:00:00.000Z""#), "{text}");
        serde_json::from_str::<serde_json::Value>(text).unwrap();
    }
}
