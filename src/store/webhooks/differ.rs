//! Describes a change of a webhook for the audit log: the names of the fields that get other values, and these values
//! unless they are secret.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::store::audit::{self, Action, Deed};

use super::Webhook;

/// `lost`: the fields that could not be read before.
pub(super) fn deed(before: &Webhook, after: &Webhook, lost: BTreeSet<String>) -> Deed {
    let mut fields = fields(before, after);
    let (mut old, new) = (shown(before), shown(after));
    old.retain(|field, _| !lost.contains(field));
    fields.extend(lost.into_iter().filter(|field| !fields.contains(field)).collect::<Vec<_>>());
    let deed = Deed::new(Action::UpdateWebhook, Some(after.tenant), after.id).of_fields(fields);
    deed.with_values(&Value::Object(old), &Value::Object(new))
}

/// The fields whose values the audit may show: no header and no credential.
fn shown(webhook: &Webhook) -> Map<String, Value> {
    let Webhook { name, url, events, public_headers, policy, description, metadata, is_active, .. } = webhook;
    let mut shown = members(policy);
    for (field, value) in [
        ("name", json!(name)),
        ("url", json!(url)),
        ("events", json!(events)),
        ("publicHeaders", json!(public_headers)),
        ("description", json!(description)),
        ("metadata", json!(metadata)),
        ("isActive", json!(is_active)),
    ] {
        shown.insert(field.to_owned(), value);
    }
    shown
}

/// The changed fields, by their names in the API.
fn fields(before: &Webhook, after: &Webhook) -> Vec<String> {
    let Webhook { name, url, events, headers, policy, credentials, description, metadata, is_active, .. } = after;
    let mut fields = audit::named(&[
        ("name", before.name != *name),
        ("url", before.url != *url),
        ("events", before.events != *events),
        ("headers", before.headers != *headers),
        ("publicHeaders", before.public_headers != after.public_headers),
        ("description", before.description != *description),
        ("metadata", before.metadata != *metadata),
        ("isActive", before.is_active != *is_active),
    ]);
    fields.extend(changed_members(&before.policy, policy));
    fields.extend(changed_members(&before.credentials, credentials));
    fields
}

fn changed_members<T: Serialize>(before: &T, after: &T) -> Vec<String> {
    let (old, new) = (members(before), members(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

fn members(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    }
}
