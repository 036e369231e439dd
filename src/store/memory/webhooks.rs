//! The rows of webhooks in memory, and the table of config changes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;

use crate::domain::id::{TenantId, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::store::StoreError;
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::webhooks::{Origin, Route, Routed, Webhook};

use super::Tables;

/// Secrets that can be parsed; nothing is signed.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A webhook's row.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) num: WebhookNum,
    pub(crate) id: WebhookId,
    pub(crate) tenant: TenantNum,
    pub(crate) url: String,
    pub(crate) events: Vec<String>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) is_active: bool,
    pub(crate) inactive_reason: Option<String>,
    pub(crate) is_paused: bool,
    pub(crate) is_deleted: bool,
    /// The row cannot be read.
    pub(crate) is_unreadable: bool,
    /// When a secret that was rotated out stops signing.
    pub(crate) secret_ends: Option<UnixMillis>,
    pub(crate) version: i64,
    pub(crate) created_at: UnixMillis,
}

#[derive(Default)]
pub(crate) struct Webhooks {
    pub(crate) rows: BTreeMap<WebhookNum, Hook>,
    /// The webhooks that were changed, one entry for each change: the table `config_change`.
    pub(crate) changes: Vec<WebhookNum>,
}

impl Hook {
    pub(crate) fn route(&self) -> Route {
        let (num, tenant, events, is_active) = (self.num, self.tenant, self.events.clone(), self.is_active);
        Route { num, tenant, events, is_active, is_ordered: self.policy.ordered }
    }

    /// Whether deliveries may be sent, as far as the row says.
    pub(crate) fn is_open(&self) -> bool {
        self.is_active && !self.is_paused && !self.is_deleted
    }

    /// Mirrors `Store::config_of`.
    fn config_row(&self, tables: &Tables, now: UnixMillis) -> Result<EndpointConfigRow, StoreError> {
        if self.is_unreadable {
            return Err(StoreError::unreadable("webhook", "it is damaged"));
        }
        let at = self.created_at;
        let webhook = Webhook {
            num: self.num,
            id: self.id,
            tenant: self.tenant,
            name: format!("w{}", self.num.0),
            url: self.url.clone(),
            events: self.events.clone(),
            headers: BTreeMap::new(),
            public_headers: Vec::new(),
            policy: (*self.policy).clone(),
            credentials: None,
            tls_digest: None,
            credentials_origin: Origin::of(&self.url),
            description: None,
            metadata: None,
            is_active: self.is_active,
            inactive_reason: self.inactive_reason.clone(),
            paused_at: self.is_paused.then_some(at),
            version: self.version,
            created_at: at,
            updated_at: at,
        };
        let secrets_change_at = self.secret_ends.filter(|end| *end > now);
        let old = secrets_change_at.map(|_| OLD_SECRET);
        Ok(EndpointConfigRow {
            webhook,
            tenant_id: None::<TenantId>,
            secrets: [SECRET].into_iter().chain(old).map(SecretString::from).collect(),
            secrets_change_at,
            has_pending_rows: tables.has_pending_rows(self.num),
            health: tables.health(self.num),
        })
    }
}

impl Webhooks {
    /// The row, unless the webhook is deleted.
    pub(crate) fn living(&self, num: WebhookNum) -> Option<&Hook> {
        self.rows.get(&num).filter(|hook| !hook.is_deleted)
    }

    /// Mirrors `Store::endpoint_configs`, for one webhook.
    pub(crate) fn config(
        &self,
        num: WebhookNum,
        tables: &Tables,
        now: UnixMillis,
    ) -> Option<Result<EndpointConfigRow, StoreError>> {
        Some(self.living(num)?.config_row(tables, now))
    }

    /// Mirrors `Store::webhooks_with_due`.
    pub(crate) fn with_due(&self, tables: &Tables, horizon: UnixMillis) -> Vec<WebhookNum> {
        let is_due = |num: WebhookNum| tables.due_moments(num).min().is_some_and(|at| at <= horizon);
        let is_wanted = |hook: &&Hook| hook.is_deleted || hook.is_open() && is_due(hook.num);
        let owed = tables.with_pending_rows().filter_map(|num| self.rows.get(&num));
        owed.filter(is_wanted).map(|hook| hook.num).collect()
    }

    /// Mirrors `Store::routes`.
    pub(crate) fn routes(&self, after: WebhookNum) -> Vec<Route> {
        let hooks = self.rows.values().filter(|hook| hook.num > after && !hook.is_deleted);
        hooks.map(Hook::route).collect()
    }

    /// Mirrors `Store::routes_of`.
    pub(crate) fn routes_of(&self, nums: &[WebhookNum]) -> Vec<Routed> {
        let routed = |hook: &Hook| match hook.is_deleted {
            true => Routed::Deleted(hook.tenant, hook.num),
            false => Routed::Here(hook.route()),
        };
        nums.iter().filter_map(|num| self.rows.get(num)).map(routed).collect()
    }
}
