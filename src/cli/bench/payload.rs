//! What the events of a benchmark carry.

/// Event data of about `payload` bytes; the sink recognises the event by the first field.
pub(super) fn data(index: u64, payload: u32) -> String {
    let padding = "x".repeat((payload as usize).saturating_sub(24));
    format!(r#"{{"n":{index},"padding":"{padding}"}}"#)
}
