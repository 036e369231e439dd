//! The event types that every new tenant starts with.

const CATALOGUE: [(&str, &str); 16] = [
    ("conversation.created", "A conversation was started."),
    ("conversation.updated", "Details of a conversation changed."),
    ("conversation.assigned", "A conversation was given to somebody."),
    ("conversation.closed", "A conversation was closed."),
    ("customer.created", "A customer was added."),
    ("customer.updated", "Details of a customer changed."),
    ("message.sent", "A message was sent to a customer."),
    ("message.received", "A message came in from a customer."),
    ("user.created", "A user was added."),
    ("user.updated", "Details of a user changed."),
    ("call.initiated", "A call was started."),
    ("call.ringing", "A call is ringing at the other end."),
    ("call.answered", "A call was answered."),
    ("call.completed", "A call ended after it had been answered."),
    ("call.failed", "A call did not come about."),
    ("call.recording.available", "The recording of a call can be fetched."),
];

/// Names and descriptions of the event types for a new tenant.
#[must_use]
pub fn default_catalogue() -> Vec<(String, String)> {
    CATALOGUE.map(|(name, description)| (name.to_owned(), description.to_owned())).to_vec()
}
