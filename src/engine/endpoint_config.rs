//! Makes from a webhook's rows what its endpoint works with. The registry's handle and the endpoints load it; nothing
//! here writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::delivery::headers::is_secret_header;
use crate::delivery::signature::SigningSecret;
use crate::delivery::target::Target;
use crate::domain::credentials::Credentials;
use crate::domain::health::Health;
use crate::domain::id::{TenantId, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::{Origin, Webhook};
use crate::store::{StoreError, endpoint_configs};

use super::context::EngineContext;
use super::lane::Mode;

/// A webhook as its endpoint sees it.
#[derive(Debug)]
pub(super) struct EndpointConfig {
    pub(super) num: WebhookNum,
    pub(super) id: WebhookId,
    pub(super) tenant: TenantNum,
    /// For the log.
    pub(super) tenant_id: Option<TenantId>,
    pub(super) name: String,
    /// Rises with every change. An endpoint does not adopt an older config.
    pub(super) version: i64,
    /// The mode by the row alone; see [`Self::mode_now`].
    pub(super) mode: Mode,
    pub(super) is_active: bool,
    pub(super) url: String,
    /// What earlier endpoints have learnt of the receiver, as of the read.
    pub(super) health: Health,
    pub(super) policy: Arc<Policy>,
    /// `Err`: today's rules refuse a target that they accepted when it was saved; the text says why.
    pub(super) target: Result<Target, String>,
    /// Whether the webhook has pending rows.
    pub(super) has_rows: bool,
    /// When a rotated secret stops signing.
    pub(super) changes_at: Option<UnixMillis>,
}

impl EndpointConfig {
    /// The mode with holds taken into account. Ask again right before acting on the answer: a purge may have begun or
    /// ended since the webhook was read.
    pub(super) fn mode_now(&self, context: &EngineContext) -> Mode {
        if self.mode == Mode::Active && context.holds.lock().contains_key(&self.num) { Mode::Paused } else { self.mode }
    }

    /// The receiver's host, for the log. The rest of a URL may hold secrets.
    pub(super) fn host(&self) -> Option<&str> {
        self.target.as_ref().ok().and_then(|target| target.url.host_str())
    }

    /// Whether an attempt under the other config would be made in the same way.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.version == other.version && self.changes_at == other.changes_at
    }

    /// Whether what was learnt of the receiver under the config before no longer applies.
    pub(super) fn starts_anew_after(&self, before: &Self) -> bool {
        let is_let_in_as_before = match (&self.target, &before.target) {
            (Ok(now), Ok(before)) => now.is_let_in_like(before),
            (Err(_), _) | (_, Err(_)) => true,
        };
        self.url != before.url || !is_let_in_as_before || self.is_active && !before.is_active
    }
}

/// Webhooks as they were read; deleted ones are missing.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) configs: BTreeMap<WebhookNum, Arc<EndpointConfig>>,
    /// Webhooks with a row that cannot be read. An operator must look at it; what they are owed waits.
    pub(super) unreadable: BTreeMap<WebhookNum, UnreadableRow>,
}

impl Loaded {
    pub(super) fn exists(&self, num: WebhookNum) -> bool {
        self.configs.contains_key(&num) || self.unreadable.contains_key(&num)
    }
}

pub(super) async fn load(context: &EngineContext, nums: &[WebhookNum]) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded::default();
    for (num, row) in context.db.endpoint_configs(nums, context.host.now()).await? {
        match row {
            Ok(row) => {
                loaded.configs.insert(num, config_of(row, context));
            }
            // The store has logged why.
            Err(error) => {
                loaded.unreadable.insert(num, UnreadableRow::of_webhook(num, &error));
            }
        }
    }
    let mut unreadable = context.unreadable.lock();
    unreadable.retain(|num, _| !nums.contains(num));
    unreadable.extend(loaded.unreadable.clone());
    drop(unreadable);
    Ok(loaded)
}

/// Reads one webhook; `None` if it is deleted.
pub(super) async fn load_one(
    context: &EngineContext,
    num: WebhookNum,
) -> Result<Option<Arc<EndpointConfig>>, StoreError> {
    let row = context.db.endpoint_configs(&[num], context.host.now()).await?.remove(&num).transpose()?;
    Ok(row.map(|row| config_of(row, context)))
}

fn config_of(row: endpoint_configs::EndpointConfigRow, context: &EngineContext) -> Arc<EndpointConfig> {
    let endpoint_configs::EndpointConfigRow {
        webhook,
        tenant_id,
        secrets,
        secrets_change_at,
        has_pending_rows,
        health,
    } = row;
    let target = target_of(&webhook, &secrets, context);
    Arc::new(EndpointConfig {
        num: webhook.num,
        id: webhook.id,
        tenant: webhook.tenant,
        tenant_id,
        version: webhook.version,
        name: webhook.name,
        mode: if webhook.is_active && webhook.paused_at.is_none() { Mode::Active } else { Mode::Paused },
        is_active: webhook.is_active,
        url: webhook.url,
        health,
        policy: Arc::new(webhook.policy),
        target,
        has_rows: has_pending_rows,
        changes_at: secrets_change_at,
    })
}

/// `Err`: why nothing can be sent, in words for the webhook's owner.
fn target_of(webhook: &Webhook, secrets: &[SecretString], context: &EngineContext) -> Result<Target, String> {
    let secrets: Result<Vec<SigningSecret>, _> =
        secrets.iter().map(|secret| SigningSecret::parse(secret.expose_secret())).collect();
    let secrets = secrets.map_err(|error| error.to_string())?;
    if secrets.is_empty() {
        return Err("the webhook has no signing secret in the database; rotate its secret to send again".to_owned());
    }
    let target = Target::try_new(&context.guard, &webhook.url, &webhook.headers, secrets, &webhook.policy);
    let target = target.map_err(|error| error.to_string())?;
    check_origin(webhook)?;
    let Some(credentials) = webhook.credentials.clone() else { return Ok(target) };
    target
        .with_credentials(&context.guard, (webhook.tenant, webhook.id), credentials)
        .map_err(|error| error.to_string())
}

/// Credentials that were given for one receiver are sent to no other, even if something other than the API has moved
/// the URL. In that case a header that the webhook lists as public counts as a secret, too: the list is not sealed, and
/// could have been changed together with the URL.
fn check_origin(webhook: &Webhook) -> Result<(), String> {
    let (given_for, now) = (&webhook.credentials_origin, Origin::of(&webhook.url));
    if *given_for == now {
        return Ok(());
    }
    if !webhook.headers.keys().any(|name| is_secret_header(name, &[]))
        && !webhook.credentials.as_ref().is_some_and(Credentials::are_secret)
    {
        return Ok(());
    }
    Err(format!(
        "`url` was moved to {now}, and the credentials were given for {given_for}; save `headers`, `auth` and \
         `tls.clientKey` again to send them there"
    ))
}
