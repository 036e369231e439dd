//! `/audit`: who changed what, from where, and why. It only reads the entries.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Manage, Tenants};
use super::page::{Filter, PageParams, PageView, Query};
use super::problem::Problem;
use super::problem_sets::ReadProblems;
use crate::domain::id::TenantId;
use crate::domain::moment::UnixMillis;
use crate::store::audit::{Action, AuditFilter, Change, Entry};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
struct EntryView {
    /// Unique number of the entry.
    num: i64,
    #[schema(value_type = String, format = DateTime)]
    at: UnixMillis,
    /// Id of the key or session; `admin` for the admin key of the configuration, `command` for a command on the
    /// database, `engine` for the engine itself.
    author: String,
    /// Null for a change that concerns no tenant.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
    #[schema(example = "webhook.update")]
    action: String,
    /// Id of what was changed, or the name of an event type.
    subject: String,
    /// Names of the fields that were changed.
    fields: Vec<String>,
    /// Old and new values of the changed fields by their names, except of those that are secret (`headers`, `auth`,
    /// `tls`) or long: together, the values of an entry have 4096 bytes at most.
    changes: BTreeMap<String, ChangeView>,
    /// The reason that the caller gave, or for which the engine switched a webhook off.
    reason: Option<String>,
    /// How many deliveries a purge has cancelled; null for a purge that has not ended, and for other actions.
    affected: Option<u64>,
    /// The address that the request came from; null if it is not known.
    peer: Option<String>,
    request_id: Option<String>,
}

/// What a change made of a field.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditChange)]
struct ChangeView {
    /// Null if the field had no value.
    from: Value,
    /// Null if the field has no value any more.
    to: Value,
}

impl From<Change> for ChangeView {
    fn from(Change { from, to }: Change) -> Self {
        Self { from, to }
    }
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let Entry { num, at, author, tenant, action, subject, fields, peer, request, reason, affected, changes } =
            entry;
        let changes = changes.into_iter().map(|(field, change)| (field, ChangeView::from(change))).collect();
        Self {
            num,
            at,
            author,
            tenant_id: tenant,
            action,
            subject,
            fields,
            changes,
            reason,
            affected,
            peer,
            request_id: request,
        }
    }
}

impl Filter for Action {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        Self::ALL.iter().copied().find(|action| action.as_str() == value).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|action| action.as_str()).collect();
            let detail = format!("{name}: {value:?} was given, one of {} is accepted", known.join(", "));
            Problem::bad_request("invalid_parameter", detail)
        })
    }
}

/// Lists changes, newest first.
///
/// An admin key that names no tenant sees the changes of all tenants, and those that concern no tenant.
#[utoipa::path(get, path = "/audit", tag = "audit", operation_id = "listAudit",
    params(("action" = Option<String>, Query, description = "such as webhook.update"),
        ("subject" = Option<String>, Query, description = "an id, or the name of an event type"),
        ("since" = Option<String>, Query, description = "at or after this RFC 3339 time"),
        ("until" = Option<String>, Query, description = "before this RFC 3339 time"), PageParams),
    responses((status = 200, body = PageView<EntryView>), ReadProblems))]
async fn list(State(app): State<App>, tenants: Tenants<Manage>, query: Query) -> Result<PageView<EntryView>, Problem> {
    let list = query.list("audit", tenants.num(), &["action", "subject", "since", "until"])?;
    let filter = AuditFilter {
        tenant: tenants.num(),
        action: list.filter("action")?,
        subject: list.filter("subject")?,
        since: list.filter("since")?,
        until: list.filter("until")?,
    };
    let page = app.store().audit(&filter, list.position()?, list.limit).await?;
    let views = page.items.into_iter().map(EntryView::from).collect();
    Ok(list.answer(views, page.next))
}
