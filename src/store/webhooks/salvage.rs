//! Reads a webhook as far as its row can be read, so that a change can replace what cannot.

use std::collections::BTreeSet;

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryResult, QueryTrait, TryGetable};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::domain::id::{TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::store::decode::{json, webhook_id_of};
use crate::store::{Store, StoreError};

use super::credentials::Sealed;
use super::{Column, Entity, Origin, Webhook, unsealed_origin};

/// A webhook as far as its row can be read.
#[derive(Debug)]
pub struct Salvaged {
    /// Where the row could not be read, it has the default, or an empty value.
    pub webhook: Webhook,
    /// What could not be read, by its name in the API. A change must give each of them.
    pub lost: BTreeSet<String>,
}

impl Store {
    /// `None` if there is no such webhook.
    pub async fn salvaged_webhook(&self, tenant: TenantNum, id: WebhookId) -> Result<Option<Salvaged>, StoreError> {
        let query = Entity::find()
            .filter(Column::Id.eq(id.bytes()))
            .filter(Column::TenantNum.eq(tenant.0))
            .filter(Column::DeletedAt.is_null());
        let row = self.readers().query_one_raw(query.build(self.backend())).await?;
        row.map(|row| self.salvage(&row)).transpose()
    }

    /// Fails if number, id or tenant cannot be read.
    pub(super) fn salvage(&self, row: &QueryResult) -> Result<Salvaged, StoreError> {
        match self.webhook_in(row) {
            Ok(webhook) => Ok(Salvaged { webhook, lost: BTreeSet::new() }),
            Err(StoreError::Unreadable { .. }) => self.salvage_columns(row),
            Err(error) => Err(error),
        }
    }

    fn salvage_columns(&self, row: &QueryResult) -> Result<Salvaged, StoreError> {
        let id = webhook_id_of(&row.try_get::<Vec<u8>>("", "id")?)?;
        let tenant = TenantNum(row.try_get("", "tenant_num")?);
        let mut columns = Columns { row, lost: BTreeSet::new() };
        let url: String = columns.value("url", "url");
        let sealed = self.salvage_sealed(&mut columns, (tenant, id), &url);
        let created_at = row.try_get("", "created_at").map_or_else(|_| id.made_at(), UnixMillis);
        let webhook = Webhook {
            num: WebhookNum(row.try_get("", "num")?),
            id,
            tenant,
            name: columns.value("name", "name"),
            url,
            events: columns.document("events", "events"),
            headers: sealed.headers,
            public_headers: columns.nullable_document("public_headers", "publicHeaders").unwrap_or_default(),
            policy: columns.policy(),
            credentials: sealed.credentials,
            // The change computes it anew.
            tls_digest: row.try_get("", "tls_digest").unwrap_or_default(),
            credentials_origin: sealed.origin,
            description: columns.value("description", "description"),
            metadata: columns.nullable_document("metadata", "metadata"),
            is_active: columns.value("is_active", "isActive"),
            inactive_reason: row.try_get("", "inactive_reason").unwrap_or_default(),
            paused_at: columns.value::<Option<i64>>("paused_at", "pausedAt").map(UnixMillis),
            version: columns.value("version", "version"),
            created_at,
            updated_at: row.try_get("", "updated_at").map_or(created_at, UnixMillis),
        };
        Ok(Salvaged { webhook, lost: columns.lost })
    }

    /// Headers and credentials. What is kept of them stays bound to the origin that it was given for.
    fn salvage_sealed(&self, columns: &mut Columns<'_>, owner: (TenantNum, WebhookId), url: &str) -> Sealed {
        let row = columns.row;
        let headers = row.try_get::<Vec<u8>>("", "headers").map_err(StoreError::from);
        let headers = headers.and_then(|sealed| self.open_headers(owner, &sealed)).ok();
        let credentials = row.try_get::<Option<Vec<u8>>>("", "credentials").map_err(StoreError::from);
        let credentials =
            credentials.and_then(|sealed| sealed.map(|sealed| self.open_credentials(owner, &sealed)).transpose());
        if headers.is_none() {
            columns.lose("headers");
        }
        if credentials.is_err() {
            columns.lose("auth");
            columns.lose("tls");
        }
        let credentials = credentials.unwrap_or_default();
        let bound_url = row.try_get::<Option<String>>("", "bound_url");
        let of_row = bound_url.map_or_else(|_| Origin::nobody(), |bound| unsealed_origin(bound.as_deref(), url));
        let of = |origin: Option<&String>| origin.map_or_else(|| of_row.clone(), |origin| Origin::from(origin.clone()));
        let origin = match (&headers, &credentials) {
            (Some((one, _)), Some((other, _))) if of(one.as_ref()) != of(other.as_ref()) => Origin::nobody(),
            (Some((origin, _)), _) | (None, Some((origin, _))) => of(origin.as_ref()),
            // Nothing secret is kept.
            (None, None) => Origin::of(url),
        };
        Sealed {
            headers: headers.map(|(_, headers)| headers).unwrap_or_default(),
            credentials: credentials.map(|(_, credentials)| credentials),
            origin,
        }
    }
}

/// The columns of a row of which some cannot be read.
struct Columns<'r> {
    row: &'r QueryResult,
    lost: BTreeSet<String>,
}

impl Columns<'_> {
    fn lose(&mut self, field: &str) {
        self.lost.insert(field.to_owned());
    }

    fn kept<T: Default>(&mut self, field: &str, value: Result<T, StoreError>) -> T {
        value.unwrap_or_else(|_| {
            self.lose(field);
            T::default()
        })
    }

    fn value<T: TryGetable + Default>(&mut self, column: &str, field: &str) -> T {
        self.kept(field, self.row.try_get("", column).map_err(StoreError::from))
    }

    fn document<T: DeserializeOwned + Default>(&mut self, column: &'static str, field: &str) -> T {
        let text = self.row.try_get::<String>("", column).map_err(StoreError::from);
        self.kept(field, text.and_then(|text| json(column, &text)))
    }

    fn nullable_document<T: DeserializeOwned>(&mut self, column: &'static str, field: &str) -> Option<T> {
        let text = self.row.try_get::<Option<String>>("", column).map_err(StoreError::from);
        self.kept(field, text.and_then(|text| text.map(|text| json(column, &text)).transpose()))
    }

    /// The members of the policy that can be read. Whether the webhook is ordered is in a column of its own, too.
    fn policy(&mut self) -> Policy {
        let text = self.row.try_get::<String>("", "policy").unwrap_or_default();
        let (mut policy, mut lost) = salvage_policy(&text);
        if lost.remove("ordered") {
            policy.ordered = self.value("ordered", "ordered");
        }
        self.lost.append(&mut lost);
        policy
    }
}

/// The policy with the members that can be read, and the names of the others.
fn salvage_policy(text: &str) -> (Policy, BTreeSet<String>) {
    let names = match serde_json::to_value(Policy::default()) {
        Ok(Value::Object(members)) => members.into_iter().map(|(name, _)| name).collect(),
        Ok(_) | Err(_) => BTreeSet::new(),
    };
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(text) else { return (Policy::default(), names) };
    let is_readable = |name: &str, value: &Value| {
        let alone = Map::from_iter([(name.to_owned(), value.clone())]);
        serde_json::from_value::<Policy>(Value::Object(alone)).is_ok()
    };
    let (kept, lost): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, value)| is_readable(name, value));
    let policy = serde_json::from_value(Value::Object(kept.into_iter().collect())).unwrap_or_default();
    (policy, lost.into_iter().map(|(name, _)| name).filter(|name| names.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_policy_every_member_is_kept_that_can_be_read() {
        let text = r#"{"timeoutMs":"x","maxInFlight":3,"retryPolicy":{"maxRetries":-1},"ordered":true,"newer":1}"#;

        let (policy, lost) = salvage_policy(text);

        assert_eq!(policy, Policy { max_in_flight: 3, ordered: true, ..Policy::default() });
        assert_eq!(lost.iter().collect::<Vec<_>>(), ["retryPolicy", "timeoutMs"]);
    }

    #[test]
    fn of_a_policy_that_is_no_object_everything_is_lost_that_an_owner_can_set() {
        let (policy, lost) = salvage_policy("{bad");

        assert_eq!(policy, Policy::default());
        assert!(lost.contains("breaker") && lost.contains("rateLimit") && lost.contains("ordered"), "{lost:?}");
    }
}
