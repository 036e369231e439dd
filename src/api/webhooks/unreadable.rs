//! Webhooks that cannot be read: how answers name them, and what a change must give to replace what is damaged.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::App;
use crate::api::fields::{Errors, Fault};
use crate::api::page::PageView;
use crate::api::problem::Problem;
use crate::domain::id::{TenantNum, WebhookId};
use crate::engine::cannot_be_served;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::{Salvaged, UnreadableWebhook};

use super::input::Changes;

/// A webhook that cannot be read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UnreadableWebhook)]
pub(in crate::api) struct UnreadableView {
    /// Null if it cannot be read either.
    #[schema(value_type = Option<String>)]
    id: Option<WebhookId>,
    /// Null if it cannot be read either.
    name: Option<String>,
    /// The row that cannot be read, and what ends that.
    damage: String,
}

impl From<UnreadableWebhook> for UnreadableView {
    fn from(UnreadableWebhook { id, name, row }: UnreadableWebhook) -> Self {
        Self { id, name, damage: cannot_be_served(&row) }
    }
}

/// A page of webhooks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookPage)]
pub(in crate::api) struct WebhookPageView<V> {
    #[serde(flatten)]
    pub(super) page: PageView<V>,
    /// The webhooks of this page that cannot be read.
    pub(super) unreadable: Vec<UnreadableView>,
}

impl<V: Serialize> IntoResponse for WebhookPageView<V> {
    fn into_response(self) -> Response {
        self.page.answer_with(&self)
    }
}

/// What `PATCH` does not give, each with its column; another call replaces it.
const OF_OTHER_CALLS: [(&str, &str); 2] = [("pausedAt", "paused_at"), ("version", "version")];

/// Reads a webhook that is to be changed, as far as it can be read.
pub(super) async fn salvaged(app: &App, tenant: TenantNum, id: WebhookId) -> Result<Salvaged, Problem> {
    let salvaged = app.store().salvaged_webhook(tenant, id).await?.ok_or(Problem::no_such("webhook"))?;
    match OF_OTHER_CALLS.iter().find(|(field, _)| salvaged.lost.contains(*field)) {
        None => Ok(salvaged),
        Some((_, column)) => {
            let (key, column) = (salvaged.webhook.num.0.to_string(), Some((*column).into()));
            Err(Problem::unreadable_webhook(&UnreadableRow { table: "webhook", key, column }))
        }
    }
}

/// Notes the fields that could not be read and that the change does not give.
pub(super) fn require(lost: &BTreeSet<String>, changes: &Changes, errors: &mut Errors) {
    for field in lost.iter().filter(|field| !changes.gives(field)) {
        let message = "missing; the stored value cannot be read, and a new one is required";
        errors.add(&format_args!("/{field}"), Fault::new("required", message));
    }
}
