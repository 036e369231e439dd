//! Reads what a publisher sends. Payloads are never parsed into values: receivers get them as they came.

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::api::body::Input;
use crate::api::fields::{At, Errors, Fault, Given, Reader, any_text, given, moment, out_of};
use crate::api::names;
use crate::domain::moment::UnixMillis;
use crate::engine::{NewEvent, Trail};
use crate::store::events::Caller;

use super::view::ItemProblem;

/// Number of events in one batch.
const BATCH: std::ops::RangeInclusive<usize> = 1..=1000;

/// Characters of a caller id.
const CALLER_ID: std::ops::RangeInclusive<usize> = 1..=128;

#[derive(Debug, ToSchema)]
pub(in crate::api) struct EventInput {
    #[schema(rename = "event", max_length = 128, example = "conversation.created")]
    pub(super) kind: String,
    /// The payload. Receivers get it as it is, to the byte.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
    /// When the event happened; the time of acceptance by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp: Option<UnixMillis>,
    /// The publisher's own id for the event. The same id with the same content is a duplicate, and the first event is
    /// kept; with other content it is refused (`409`).
    #[schema(max_length = 128, pattern = "^[A-Za-z0-9_:-]+$")]
    id: Option<String>,
}

impl Input for EventInput {
    const FIELDS: &'static [&'static str] = &["event", "data", "timestamp", "id"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let kind = reader.required("event", names::event_type);
        let data = reader.required("data", object);
        let timestamp = reader.field("timestamp", moment).value();
        let id = reader.field("id", caller_id).value();
        Some(Self { kind: kind?, data: data?, timestamp, id })
    }
}

fn object(raw: &RawValue) -> Result<Box<RawValue>, Fault> {
    if raw.get().starts_with('{') {
        return Ok(raw.to_owned());
    }
    Err(Fault::new("wrong_type", format!("{} was given, an object is accepted", given(raw))))
}

fn caller_id(raw: &RawValue) -> Result<String, Fault> {
    let id = any_text(raw)?;
    if !CALLER_ID.contains(&id.len()) {
        return Err(out_of(id.len(), " characters", &CALLER_ID));
    }
    if id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte)) {
        return Ok(id);
    }
    Err(Fault::new("invalid", "letters, digits, `_`, `:` and `-` are accepted"))
}

impl EventInput {
    /// Makes the event. `trail` names the engines that it has come through.
    pub(super) fn by(self, trail: Option<Trail>) -> NewEvent {
        let Self { kind, data, timestamp, id } = self;
        let caller = id.map(|id| Caller { digest: digest(&kind, &data, timestamp), id });
        NewEvent { kind, data, occurred_at: timestamp, caller, trail }
    }
}

/// SHA-256 of what a publisher sends under a caller id.
fn digest(kind: &str, data: &RawValue, timestamp: Option<UnixMillis>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [kind, data.get()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    if let Some(timestamp) = timestamp {
        hash.update(timestamp.0.to_be_bytes());
    }
    hash.finalize().into()
}

#[derive(Debug, ToSchema)]
pub(in crate::api) struct BatchInput {
    #[schema(value_type = Vec<EventInput>, min_items = 1, max_items = 1000)]
    pub(super) events: Vec<Result<EventInput, ItemProblem>>,
}

impl Input for BatchInput {
    const FIELDS: &'static [&'static str] = &["events"];

    fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
        let events = reader.list("events", &BATCH, |at, raw, _| Some(judge(at, raw)));
        reader.demand("events", &events);
        match events {
            Given::Value(events) => Some(Self { events }),
            Given::Absent | Given::Null | Given::Invalid => None,
        }
    }
}

/// Reads one event of a batch. Its faults do not affect the other events.
fn judge(at: At<'_>, raw: &RawValue) -> Result<EventInput, ItemProblem> {
    let mut errors = Errors::default();
    let input =
        Reader::open(raw, at, EventInput::FIELDS, &mut errors).and_then(|mut reader| EventInput::read(&mut reader));
    match input {
        Some(input) if errors.is_empty() => Ok(input),
        _ => Err(errors.into_problem().into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::body::read;
    use crate::api::body::tests::faults;

    fn event(text: &str) -> NewEvent {
        read::<EventInput>(text.as_bytes(), &mut Errors::default()).unwrap().unwrap().by(None)
    }

    #[test]
    fn data_is_kept_to_the_byte() {
        let data = r#"{"z":1.50, "a":123456789012345678901234567890,"\ud800":1e999}"#;
        assert_eq!(event(&format!(r#"{{"event":"a.b","data":{data}}}"#)).data.get(), data);
    }

    #[test]
    fn every_fault_is_named() {
        let text = r#"{"event":"a..b","data":[],"timestamp":"now","id":"a.b","kind":1}"#;
        let pointers: Vec<String> = faults::<EventInput>(text).into_iter().map(|(pointer, _)| pointer).collect();
        assert_eq!(pointers, ["/kind", "/event", "/data", "/timestamp", "/id"]);
        assert_eq!(faults::<EventInput>("{}"), [("/event".to_owned(), "required"), ("/data".to_owned(), "required")]);
    }

    #[test]
    fn a_caller_says_something_else_when_any_part_differs() {
        let digest = |text: &str| event(text).caller.unwrap().digest;
        let first = digest(r#"{"event":"a","data":{},"id":"x"}"#);
        assert_eq!(first, digest(r#"{"id":"x", "data":{},"event":"a"}"#));
        for other in [
            r#"{"event":"b","data":{},"id":"x"}"#,
            r#"{"event":"a","data":{"b":1},"id":"x"}"#,
            r#"{"event":"a","data":{},"id":"x","timestamp":"2026-11-23T08:00:00Z"}"#,
        ] {
            assert_ne!(first, digest(other), "{other}");
        }
    }

    #[test]
    fn a_batch_judges_each_event_on_its_own() {
        let text = r#"{"events":[{"event":"a","data":{}},{"event":"","data":1},7]}"#;
        let batch = read::<BatchInput>(text.as_bytes(), &mut Errors::default()).unwrap().unwrap();
        let accepted: Vec<bool> = batch.events.iter().map(Result::is_ok).collect();
        assert_eq!(accepted, [true, false, false]);
        let shown = serde_json::to_value(batch.events[1].as_ref().unwrap_err()).unwrap();
        assert_eq!(shown["errors"][0]["pointer"], "/events/1/event");
    }

    #[test]
    fn a_batch_has_at_least_one_event_and_at_most_a_thousand() {
        let batch = |size: usize| format!(r#"{{"events":[{}]}}"#, vec!["{}"; size].join(","));
        assert_eq!(faults::<BatchInput>(&batch(1000)), []);
        for size in [0, 1001] {
            assert_eq!(faults::<BatchInput>(&batch(size)), [("/events".to_owned(), "out_of_range")]);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(event in "\\PC{0,30}", data in "\\PC{0,30}") {
            let _ = faults::<EventInput>(&format!(r#"{{"event":{event},"data":{data},"id":{event}}}"#));
            let _ = faults::<BatchInput>(&format!(r#"{{"events":[{data},{event}]}}"#));
        }
    }
}
