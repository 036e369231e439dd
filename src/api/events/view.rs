//! What the API shows of events, to publishers and readers.

use std::collections::HashSet;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::problem::{FieldError, Problem};
use crate::domain::id::EventId;
use crate::domain::moment::UnixMillis;
use crate::journal::Published;
use crate::store::events::{Receipt, StoredEvent};
use crate::store::progress::Progress;

/// Fields that every view of an event has.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct EventFields {
    #[schema(value_type = String)]
    id: EventId,
    event: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: UnixMillis,
    /// Webhooks that matched the event when it was accepted.
    matched: u32,
}

/// The answer to a published event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublishedEvent)]
pub(in crate::api) struct PublishedView {
    #[serde(flatten)]
    fields: EventFields,
    /// Whether the publisher's own id was seen before, with the same content; this is then the first answer again.
    duplicate: bool,
    /// What may be a mistake of the publisher; left out when there is nothing to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningView>,
}

impl PublishedView {
    /// `is_unknown`: the catalogue lacks the type.
    pub(super) fn new(event: String, published: Published, is_unknown: bool) -> Result<Self, Problem> {
        let (receipt, duplicate) = match published {
            Published::Accepted(receipt) => (receipt, false),
            Published::Duplicate(receipt) => (receipt, true),
            Published::Conflict => {
                let detail = "an event with this id and other content was published before";
                return Err(Problem::conflict("event_id_conflict", detail));
            }
        };
        let Receipt { seq, occurred_at, matched } = receipt;
        let unknown = is_unknown.then(|| WarningView::unknown_type(&event));
        let unmatched = (matched == 0).then(|| WarningView::no_subscriber(&event));
        let warnings = unknown.into_iter().chain(unmatched).collect();
        let fields = EventFields { id: EventId(seq), event, timestamp: occurred_at, matched };
        Ok(Self { fields, duplicate, warnings })
    }
}

/// What may be a mistake of the publisher, although the event was accepted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublishWarning)]
pub(in crate::api) struct WarningView {
    /// `undeclared_type` or `no_subscriber`
    #[schema(value_type = String)]
    code: &'static str,
    message: String,
}

/// The codes of warnings.
pub(in crate::api) const WARNINGS: [&str; 2] = ["undeclared_type", "no_subscriber"];

impl WarningView {
    fn unknown_type(event: &str) -> Self {
        let [code, _] = WARNINGS;
        Self { code, message: format!("{event} is not among the declared event types; see GET /event-types") }
    }

    fn no_subscriber(event: &str) -> Self {
        let [_, code] = WARNINGS;
        let message = format!("no active webhook is subscribed to {event}; POST /explain says for each webhook why");
        Self { code, message }
    }
}

/// Why one event of a batch was not accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct ItemProblem {
    /// The status that the event would have got on its own.
    status: u16,
    #[schema(value_type = String)]
    code: &'static str,
    message: String,
    /// The pointers are into the whole body.
    errors: Vec<FieldError>,
}

impl From<Problem> for ItemProblem {
    fn from(problem: Problem) -> Self {
        let (status, code, detail, errors) = problem.into_parts();
        Self { status: status.as_u16(), code, message: detail.into_owned(), errors }
    }
}

/// The result of one event of a batch: the answer that it would have got on its own, or why it was refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = PublishResult)]
pub(in crate::api) enum ItemView {
    Published(PublishedView),
    Refused { error: ItemProblem },
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublishedBatch)]
pub(in crate::api) struct BatchView {
    /// One result for each event, in the order of the events.
    results: Vec<ItemView>,
}

impl BatchView {
    /// `places` has the type or the problem of each event; `published` has the result of each event with a type, in the
    /// same order. The catalogue lacks the types in `unknown`.
    pub(super) fn new(
        places: Vec<Result<String, ItemProblem>>,
        published: Vec<Published>,
        unknown: &HashSet<String>,
    ) -> Result<Self, Problem> {
        let mut published = published.into_iter();
        let mut results = Vec::with_capacity(places.len());
        for place in places {
            results.push(match place {
                Err(error) => ItemView::Refused { error },
                Ok(kind) => {
                    let next = published.next();
                    let next = next.ok_or_else(|| Problem::internal(&"a batch was answered in part"))?;
                    let is_unknown = unknown.contains(&kind);
                    match PublishedView::new(kind, next, is_unknown) {
                        Ok(view) => ItemView::Published(view),
                        Err(problem) => ItemView::Refused { error: problem.into() },
                    }
                }
            });
        }
        Ok(Self { results })
    }
}

/// An event in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct EventSummary {
    #[serde(flatten)]
    fields: EventFields,
    /// The id that the publisher gave the event; null if it gave none.
    caller_id: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    accepted_at: UnixMillis,
    /// When the payload was erased; null unless it was.
    #[schema(value_type = Option<String>, format = DateTime)]
    erased_at: Option<UnixMillis>,
}

impl From<&StoredEvent> for EventSummary {
    fn from(stored: &StoredEvent) -> Self {
        let StoredEvent { seq, tenant: _, kind, occurred_at, caller_id, matched, body_bytes: _, erased_at } = stored;
        let fields = EventFields { id: EventId(*seq), event: kind.clone(), timestamp: *occurred_at, matched: *matched };
        Self { fields, caller_id: caller_id.clone(), accepted_at: seq.accepted_at(), erased_at: *erased_at }
    }
}

impl From<StoredEvent> for EventSummary {
    fn from(stored: StoredEvent) -> Self {
        Self::from(&stored)
    }
}

/// The states of an event's deliveries at one moment. `owed`, `pending`, `success`, `failed` and `cancelled` add up to
/// `matched`, unless a row is damaged. Webhooks that were deleted meanwhile are included: their deliveries count as
/// `owed` or `pending` until the engine cancels them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventProgress)]
pub(in crate::api) struct ProgressView {
    /// Webhooks that matched the event when it was accepted, and those to which an operation has owed it since.
    matched: u32,
    /// Deliveries of which nothing is recorded yet: they are not started, or their first attempt is in flight. The list
    /// of deliveries shows them as `pending`, and leaves out those of deleted webhooks.
    owed: u32,
    /// Recorded deliveries that are not settled: they wait for an attempt, or are held.
    pending: u32,
    success: u32,
    failed: u32,
    cancelled: u32,
}

impl ProgressView {
    fn new(matched: u32, progress: Progress) -> Self {
        let Progress { owed, pending, success, failed, cancelled } = progress;
        let matched = matched.max(owed + pending + success + failed + cancelled);
        Self { matched, owed, pending, success, failed, cancelled }
    }
}

/// An event with its data and the progress of its deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(in crate::api) struct EventView<'a> {
    #[serde(flatten)]
    summary: EventSummary,
    progress: ProgressView,
    /// Null if the payload was erased.
    #[schema(value_type = Option<Object>)]
    data: Option<&'a RawValue>,
}

/// Upper bound of the bytes that an answer has around the data of its event.
const AROUND: usize = 2048;

/// The part of a stored body that no column has.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

impl<'a> EventView<'a> {
    /// `body` is the text that is sent to every webhook.
    pub(super) fn new(stored: &StoredEvent, progress: Progress, body: &'a [u8]) -> Result<Self, Problem> {
        let data = match stored.erased_at {
            Some(_) => None,
            None => {
                let body: Body<'a> = serde_json::from_slice(body).map_err(|error| Problem::internal(&error))?;
                Some(body.data)
            }
        };
        let progress = ProgressView::new(stored.matched, progress);
        Ok(Self { summary: EventSummary::from(stored), progress, data })
    }

    /// Writes the answer once, into a buffer that is large enough.
    pub(super) fn answer(&self) -> Result<Response, Problem> {
        let mut text = Vec::with_capacity(self.data.map_or(0, |data| data.get().len()) + AROUND);
        serde_json::to_writer(&mut text, self).map_err(|error| Problem::internal(&error))?;
        Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{EventSeq, TenantNum};

    #[test]
    fn an_event_shows_its_data_to_the_byte() {
        let body = r#"{"id":"evt_x","event":"a","timestamp":"t","data":{"z":1.50, "a":[]}}"#;
        let stored = StoredEvent {
            seq: EventSeq(1 << 30),
            tenant: TenantNum(1),
            kind: "a".to_owned(),
            occurred_at: UnixMillis(0),
            caller_id: None,
            matched: 2,
            body_bytes: body.len(),
            erased_at: None,
        };
        let view = EventView::new(&stored, Progress::default(), body.as_bytes()).unwrap();
        let shown = serde_json::to_string(&view).unwrap();
        assert!(shown.contains(r#""data":{"z":1.50, "a":[]}"#), "{shown}");
        assert!(shown.contains(r#""callerId":null"#), "{shown}");
    }
}
