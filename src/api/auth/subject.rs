//! Finds the tenant that owns the object which a path names by its id. Only admin keys need this; they may do
//! everything with the object anyway.

use std::sync::Arc;

use crate::api::problem::Problem;
use crate::api::{App, BASE};
use crate::domain::id::{DeliveryId, EventId, EventSeq, WebhookId};
use crate::store::tenants::Tenant;

/// An object that belongs to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Webhook(WebhookId),
    Event(EventSeq),
    /// Carries the delivery's event.
    Delivery(EventSeq),
}

impl Subject {
    /// `None` for a path that names no object of a tenant.
    fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix(BASE).unwrap_or(path);
        let mut parts = path.strip_prefix('/')?.split('/');
        let (kind, id) = (parts.next()?, parts.next()?);
        match kind {
            "webhooks" => id.parse().ok().map(Self::Webhook),
            "events" => id.parse().ok().map(|EventId(seq)| Self::Event(seq)),
            "deliveries" => id.parse().ok().map(|DeliveryId { event, .. }| Self::Delivery(event)),
            _ => None,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Event(_) => "event",
            Self::Delivery(_) => "delivery",
        }
    }
}

/// The tenant that owns what the path names; `None` if the path names nothing by its id.
pub(super) async fn owner(app: &App, path: &str) -> Result<Option<Arc<Tenant>>, Problem> {
    let Some(subject) = Subject::of(path) else { return Ok(None) };
    let store = app.store();
    let num = match subject {
        Subject::Webhook(id) => store.tenant_of_webhook(id).await?,
        Subject::Event(event) | Subject::Delivery(event) => store.tenant_of_event(event).await?,
    };
    let tenant = match num {
        Some(num) => store.tenant_by_num(num).await?,
        None => None,
    };
    tenant.map(|tenant| Some(Arc::new(tenant))).ok_or(Problem::no_such(subject.what()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::WebhookNum;

    #[test]
    fn a_path_says_what_it_is_about_under_its_whole_name_and_without_its_prefix() {
        let (webhook, event) = (WebhookId::generate(), EventSeq(1 << 40));
        let delivery = DeliveryId { event, webhook: WebhookNum(7) };
        for prefix in ["", "/api/v1"] {
            let of = |path: String| Subject::of(&format!("{prefix}{path}"));
            assert_eq!(of(format!("/webhooks/{webhook}/logs")), Some(Subject::Webhook(webhook)));
            assert_eq!(of(format!("/events/{}", EventId(event))), Some(Subject::Event(event)));
            assert_eq!(of(format!("/deliveries/{delivery}/retry")), Some(Subject::Delivery(event)));
            for nothing in ["/webhooks", "/events/batch", "/events", "/backlogs", "/webhooks/x", "/"] {
                assert_eq!(of(nothing.to_owned()), None, "{nothing}");
            }
        }
    }
}
