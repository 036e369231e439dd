//! What a change of a webhook is, for the audit: a pause, a resumption, or the names of the fields that it gives other
//! values.

use crate::store::audit::{self, Action, Deed};

use super::Webhook;

pub(super) fn deed(before: &Webhook, after: &Webhook) -> Deed {
    let fields = fields(before, after);
    let action = match (before.paused_at, after.paused_at) {
        (None, Some(_)) if fields.is_empty() => Action::PauseWebhook,
        (Some(_), None) if fields.is_empty() => Action::ResumeWebhook,
        _ => Action::UpdateWebhook,
    };
    Deed::new(action, Some(after.tenant), after.id).of_fields(fields)
}

/// By the names that they have in the API.
fn fields(before: &Webhook, after: &Webhook) -> Vec<String> {
    let Webhook { name, url, events, headers, policy, description, metadata, is_active, .. } = after;
    let mut fields = audit::named(&[
        ("name", before.name != *name),
        ("url", before.url != *url),
        ("events", before.events != *events),
        ("headers", before.headers != *headers),
        ("description", before.description != *description),
        ("metadata", before.metadata != *metadata),
        ("isActive", before.is_active != *is_active),
    ]);
    let members = |policy: &serde_json::Value| policy.as_object().cloned().unwrap_or_default();
    let (old, new) = (members(&before.policy), members(policy));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    fields.extend(names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned());
    fields
}
