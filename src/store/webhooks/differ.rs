//! Describes a change of a webhook for the audit log: the names of the fields that get other values.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::audit::{self, Action, Deed};

use super::Webhook;

/// `lost`: the fields that could not be read before.
pub(super) fn deed(before: &Webhook, after: &Webhook, lost: BTreeSet<String>) -> Deed {
    let mut fields = fields(before, after);
    fields.extend(lost.into_iter().filter(|field| !fields.contains(field)).collect::<Vec<_>>());
    Deed::new(Action::UpdateWebhook, Some(after.tenant), after.id).of_fields(fields)
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
