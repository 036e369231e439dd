//! Describes a change of a webhook for the audit log: the names of the fields that get other values.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::store::audit::{self, Action, Deed};

use super::{Credentials, Webhook};
use crate::domain::policy::Policy;

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
    let policy_of = |policy: &Policy| serde_json::to_value(policy).unwrap_or_default();
    fields.extend(changed_members(&policy_of(&before.policy), &policy_of(policy)));
    let document = |credentials: &Option<Credentials>| credentials.clone().map_or(Value::Null, |Credentials(it)| it);
    fields.extend(changed_members(&document(&before.credentials), &document(credentials)));
    fields
}

fn changed_members(before: &Value, after: &Value) -> Vec<String> {
    let members = |document: &Value| document.as_object().cloned().unwrap_or_default();
    let (old, new) = (members(before), members(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}
