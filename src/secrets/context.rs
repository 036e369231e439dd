//! What a sealed value is bound to. Pure.

use crate::domain::id::{TenantNum, WebhookId};
use crate::domain::moment::UnixMillis;

use super::layout::Layout;

/// Where a sealed value belongs. Moved elsewhere, it does not open.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SealContext<'a> {
    Headers {
        tenant: TenantNum,
        webhook: WebhookId,
    },
    /// TLS options and authentication at the receiver.
    Credentials {
        tenant: TenantNum,
        webhook: WebhookId,
    },
    /// One of the secrets of a webhook.
    Secret {
        tenant: TenantNum,
        webhook: WebhookId,
        made_at: UnixMillis,
    },
    /// The answer to a request. Tenant 0 stands for an admin.
    Answer {
        tenant: i64,
        key: &'a str,
    },
}

impl SealContext<'_> {
    /// The associated data for this layout.
    pub(super) fn name(&self, layout: Layout) -> Vec<u8> {
        let origin = if layout >= Layout::Origin { ", behind their origin" } else { "" };
        let name = match self {
            Self::Headers { webhook, .. } if layout == Layout::Webhook => format!("headers of {webhook}"),
            Self::Headers { tenant, webhook } => format!("headers of {webhook} of tenant {}{origin}", tenant.0),
            Self::Credentials { webhook, .. } if layout == Layout::Webhook => format!("credentials of {webhook}"),
            Self::Credentials { tenant, webhook } => format!("credentials of {webhook} of tenant {}{origin}", tenant.0),
            Self::Secret { webhook, .. } if layout == Layout::Webhook => format!("secret of {webhook}"),
            Self::Secret { tenant, webhook, made_at } => {
                format!("secret of {webhook} of tenant {}, made at {}", tenant.0, made_at.0)
            }
            Self::Answer { tenant, key } => format!("idempotency {tenant} {key}"),
        };
        name.into_bytes()
    }
}
