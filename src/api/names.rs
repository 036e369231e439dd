//! Rules for event types and for the patterns that subscribe to them.

use serde_json::value::RawValue;

use super::fields::{Fault, any_text, out_of};
use crate::domain::operational_event::OperationalKind;
use crate::engine::TEST_EVENT;

/// Characters of a name, of a tenant and of every other object that has one for people.
pub(super) const NAME: std::ops::RangeInclusive<usize> = 1..=200;

/// Bytes of an event type or a pattern.
const LENGTH: std::ops::RangeInclusive<usize> = 1..=128;

/// `[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*`
fn is_name(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    text.split('.').all(is_word)
}

/// Reads an event type, published or declared.
pub(super) fn event_type(raw: &RawValue) -> Result<String, Fault> {
    let name = any_text(raw)?;
    if !LENGTH.contains(&name.len()) {
        return Err(out_of(name.len(), " characters", &LENGTH));
    }
    if !is_name(&name) {
        let message =
            "words of letters, digits, `_` and `-`, joined by single dots, are accepted, such as call.ringing";
        return Err(Fault::new("invalid", message));
    }
    if name == TEST_EVENT || OperationalKind::is_one(&name) {
        return Err(Fault::new("reserved", "reserved for an event that the engine itself publishes"));
    }
    Ok(name)
}

/// Reads a subscription: an exact type, `prefix.*`, or `*`.
pub(super) fn pattern(raw: &RawValue) -> Result<String, Fault> {
    let text = any_text(raw)?;
    if !LENGTH.contains(&text.len()) {
        return Err(out_of(text.len(), " characters", &LENGTH));
    }
    if text == "*" || is_name(text.strip_suffix(".*").unwrap_or(&text)) {
        return Ok(text);
    }
    Err(Fault::new("invalid", "an event type such as call.ringing, a prefix such as call.*, or * is accepted"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::value::to_raw_value(text).unwrap()
    }

    #[test]
    fn names_are_words_joined_by_dots() {
        for name in ["a", "call.recording.available", "A-1_b.2", &"a".repeat(128)] {
            assert!(event_type(&raw(name)).is_ok(), "{name}");
        }
        for odd in ["", ".", "a.", ".a", "a..b", "a b", "ä", "a.*", "*", "a\0", "webhook.test", &"a".repeat(129)] {
            assert!(event_type(&raw(odd)).is_err(), "{odd}");
        }
    }

    #[test]
    fn patterns_are_names_prefixes_or_the_asterisk() {
        for accepted in ["*", "call.*", "call.recording.*", "call.ringing"] {
            assert!(pattern(&raw(accepted)).is_ok(), "{accepted}");
        }
        for odd in ["", "**", ".*", "call*", "*.call", "call.*.x", "call..*", "call.**"] {
            assert!(pattern(&raw(odd)).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = event_type(&raw(&text)).is_ok();
            let _ = pattern(&raw(&text)).is_ok();
        }
    }
}
