//! From a webhook's rows to what its endpoint works with.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::delivery::guard::Guard;
use crate::delivery::policy::Policy;
use crate::delivery::signature::SigningSecret;
use crate::delivery::target::Target;
use crate::id::{TenantNum, WebhookNum};
use crate::store::{StoreError, webhooks};

use super::lane::Mode;
use super::shared::Shared;

/// A webhook as its endpoint sees it.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) num: WebhookNum,
    pub(super) tenant: TenantNum,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) policy: Arc<Policy>,
    /// `Err`: today's rules refuse what was once saved; the text says why.
    pub(super) target: Result<Target, String>,
    /// Rows wait for it.
    pub(super) has_rows: bool,
    /// When a rotated secret stops signing.
    pub(super) changes_at: Option<UnixMillis>,
}

/// Reads webhooks; those that are deleted are missing, those that cannot be read are held.
pub(super) async fn load(
    shared: &Shared,
    nums: &[WebhookNum],
) -> Result<HashMap<WebhookNum, Arc<Serving>>, StoreError> {
    let rows = shared.store.servings(nums, UnixMillis::now()).await?;
    let serving = |(num, row): (WebhookNum, Result<webhooks::Serving, StoreError>)| {
        let serving = row.map_or_else(|error| unreadable(num, &error), |row| serving_of(row, &shared.guard));
        (num, serving)
    };
    Ok(rows.into_iter().map(serving).collect())
}

/// What it is owed becomes rows, which wait until it can be read.
fn unreadable(num: WebhookNum, error: &StoreError) -> Arc<Serving> {
    tracing::error!(webhook = num.0, %error, "a webhook cannot be read and is not served");
    Arc::new(Serving {
        num,
        tenant: TenantNum(0),
        name: String::new(),
        mode: Mode::Held,
        policy: Arc::new(Policy::default()),
        target: Err(error.to_string()),
        has_rows: false,
        changes_at: None,
    })
}

fn serving_of(row: webhooks::Serving, guard: &Guard) -> Arc<Serving> {
    let webhooks::Serving { webhook, secrets, secrets_change_at, has_pending_rows } = row;
    let policy: Policy = serde_json::from_value(webhook.policy.clone()).unwrap_or_else(|error| {
        tracing::error!(webhook = %webhook.id, %error, "unreadable policy, using the defaults");
        Policy::default()
    });
    let secrets: Result<Vec<SigningSecret>, _> = secrets.iter().map(|secret| SigningSecret::parse(secret)).collect();
    let target = secrets.map_err(|error| error.to_string()).and_then(|secrets| {
        Target::try_new(guard, &webhook.url, &webhook.headers, secrets, &policy).map_err(|error| error.to_string())
    });
    Arc::new(Serving {
        num: webhook.num,
        tenant: webhook.tenant,
        name: webhook.name,
        mode: if webhook.is_active { Mode::Open } else { Mode::Held },
        policy: Arc::new(policy),
        target,
        has_rows: has_pending_rows,
        changes_at: secrets_change_at,
    })
}
