//! Searches webhooks for the API: by text, state and event type, in the order of age, name or trouble. A page looks at
//! a bounded number of rows.

use std::collections::{BTreeSet, HashMap};

use crate::domain::id::{TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::is_subscribed;
use crate::journal::ledger::Among;
use crate::store::StoreError;
use crate::store::page::LOOKS;
use crate::store::webhooks::{PageDraft, WebhookEntry, WebhookList, WebhookPosition};

use super::Engine;
use super::backlog::{EndpointState, Standing, TroubleKind};

/// Entries that are read at once if not all of them belong to the list.
const CHUNK: u64 = 1000;

/// What the webhooks of a list have in common, beyond what an index knows.
#[derive(Debug, Clone, Default)]
pub struct WebhookSearch {
    /// Part of name, URL or id, in lower case.
    text: Option<String>,
    /// An event type that the webhook is subscribed to.
    event: Option<String>,
    state: Option<EndpointState>,
    is_active: Option<bool>,
}

/// A page of a search.
#[derive(Debug, Clone)]
pub struct WebhookHits {
    pub nums: Vec<WebhookNum>,
    /// Where the next page begins; a page that is not full may have a next one.
    pub next: Option<WebhookPosition>,
}

impl WebhookSearch {
    #[must_use]
    pub fn new(
        text: Option<&str>,
        event: Option<String>,
        state: Option<EndpointState>,
        is_active: Option<bool>,
    ) -> Self {
        Self { text: text.map(str::to_lowercase), event, state, is_active }
    }

    /// Whether every webhook is admitted.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        let Self { text, event, state, is_active } = self;
        text.is_none() && event.is_none() && state.is_none() && is_active.is_none()
    }

    fn admits(&self, entry: &WebhookEntry) -> bool {
        let has_text = |text: &String| {
            let id = entry.id.map(|id| id.to_string()).unwrap_or_default();
            id.contains(text) || [&entry.name, &entry.url].iter().any(|shown| shown.to_lowercase().contains(text))
        };
        self.text.as_ref().is_none_or(has_text)
            && self.is_active.is_none_or(|is_active| entry.is_active == is_active)
            && self.event.as_ref().is_none_or(|kind| entry.events.iter().flatten().any(|one| is_subscribed(one, kind)))
    }
}

impl Engine {
    /// A page of webhooks after `after`.
    pub async fn search(
        &self,
        list: &WebhookList,
        search: &WebhookSearch,
        mut after: Option<WebhookPosition>,
        limit: u64,
    ) -> Result<WebhookHits, StoreError> {
        let chunk = if search.is_for_all() { limit.saturating_add(1) } else { CHUNK };
        let (mut draft, mut looked) = (PageDraft::new(limit), 0);
        loop {
            let entries = self.inner.store.webhook_entries(list, after.as_ref(), chunk).await?;
            let read = entries.len() as u64;
            looked += read;
            after = entries.last().map(|last| last.position(list.order)).or(after);
            if !draft.take(self.admitted(entries, search).await?, list.order) {
                let (nums, next) = draft.finish();
                return Ok(WebhookHits { nums, next });
            }
            if read < chunk || looked >= LOOKS {
                let next = after.filter(|_| read >= chunk);
                return Ok(WebhookHits { nums: draft.finish().0, next });
            }
        }
    }

    async fn admitted(
        &self,
        mut entries: Vec<WebhookEntry>,
        search: &WebhookSearch,
    ) -> Result<Vec<WebhookEntry>, StoreError> {
        entries.retain(|entry| search.admits(entry));
        if let Some(state) = search.state {
            let nums: Vec<WebhookNum> = entries.iter().map(|entry| entry.num).collect();
            let standings = self.standings(&nums).await?;
            entries.retain(|entry| standings.get(&entry.num).is_some_and(|standing| standing.state == state));
        }
        Ok(entries)
    }

    /// The webhooks in trouble that this node serves, of a tenant or of all, the worst first: at most `most`.
    pub async fn troubled(
        &self,
        tenant: Option<TenantNum>,
        search: &WebhookSearch,
        most: usize,
    ) -> Result<Vec<WebhookNum>, StoreError> {
        let candidates: Vec<WebhookNum> = self.candidates(tenant, most).await?.into_iter().collect();
        let standings = self.standings(&candidates).await?;
        let is_listed = |standing: &Standing| tenant.is_none_or(|tenant| standing.tenant == tenant);
        let ranked = standings.iter().filter(|(_, standing)| is_listed(standing));
        let ranked = ranked.filter_map(|(num, standing)| Some((standing.trouble?, *num)));
        let mut ranked: Vec<((TroubleKind, Option<UnixMillis>), WebhookNum)> = ranked.collect();
        ranked.sort_unstable();
        if !search.is_for_all() {
            let nums: Vec<WebhookNum> = ranked.iter().map(|(_, num)| *num).collect();
            let entries = self.inner.store.webhook_entries_of(&nums).await?;
            let is_admitted = |entry: &WebhookEntry| {
                let state = standings.get(&entry.num).map(|standing| standing.state);
                search.admits(entry) && search.state.is_none_or(|wanted| state == Some(wanted))
            };
            let admitted: BTreeSet<WebhookNum> =
                entries.iter().filter(|entry| is_admitted(entry)).map(|entry| entry.num).collect();
            ranked.retain(|(_, num)| admitted.contains(num));
        }
        ranked.truncate(most);
        Ok(ranked.into_iter().map(|(_, num)| num).collect())
    }

    /// Webhooks that this node serves, the worst of each kind of trouble among them.
    async fn candidates(&self, tenant: Option<TenantNum>, most: usize) -> Result<BTreeSet<WebhookNum>, StoreError> {
        let (store, context) = (&self.inner.store, &self.inner.context);
        let rows = u64::try_from(most).unwrap_or(u64::MAX);
        let of_tenant = tenant.map(|tenant| self.inner.routes.of_tenant(tenant));
        let among = of_tenant.as_deref().map_or(Among::All, Among::These);
        let mut nums: BTreeSet<WebhookNum> = self.inner.registry.quarantined(most).await.into_iter().collect();
        nums.extend(store.suspended_webhooks(tenant, rows).await?);
        nums.extend(store.failing_webhooks(tenant, rows).await?);
        nums.extend(context.ledger.oldest_first(among, most).await?.into_iter().map(|(num, _)| num));
        nums.retain(|num| context.shard_set.serves(*num));
        Ok(nums)
    }

    /// How these webhooks fare, as far as this node knows. Deleted ones are missing.
    pub async fn standings(&self, nums: &[WebhookNum]) -> Result<HashMap<WebhookNum, Standing>, StoreError> {
        let mut standings = HashMap::with_capacity(nums.len());
        for some in nums.chunks(CHUNK as usize) {
            standings.extend(self.standings_of(some).await?);
        }
        Ok(standings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_for_nothing_is_for_all() {
        assert!(WebhookSearch::new(None, None, None, None).is_for_all());
        assert!(!WebhookSearch::new(Some("A"), None, None, None).is_for_all());
        assert!(!WebhookSearch::new(None, None, None, Some(true)).is_for_all());
    }
}
