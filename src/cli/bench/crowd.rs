//! Creates webhooks by the hundred thousand, directly in the store while no server has it open.

use indicatif::ProgressBar;

use crate::cli::CliError;
use crate::delivery::signature::SigningSecret;
use crate::domain::id::{TenantId, TenantNum, WebhookId};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::tenants::NewTenant;
use crate::store::webhooks::NewWebhook;

use super::place::Place;

/// Webhooks per transaction.
const CHUNK: usize = 10_000;

/// A number of webhooks with the same event type and URL.
pub(super) struct Alike {
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) count: usize,
}

/// Creates a tenant for each of `crowds`; returns the tenants' ids in order.
pub(super) async fn settle(place: &Place, crowds: &[Vec<Alike>], bar: &ProgressBar) -> Result<Vec<TenantId>, CliError> {
    let store = Store::open(place.options()).await.map_err(CliError::failed)?;
    bar.set_message("creating webhooks");
    bar.set_position(0);
    bar.set_length(crowds.iter().flatten().map(|alike| alike.count as u64).sum());
    let mut tenants = Vec::with_capacity(crowds.len());
    for crowd in crowds {
        tenants.push(settle_one(&store, crowd, bar).await?);
    }
    store.close().await;
    Ok(tenants)
}

async fn settle_one(store: &Store, crowd: &[Alike], bar: &ProgressBar) -> Result<TenantId, CliError> {
    let id = TenantId::generate();
    let new = NewTenant {
        id,
        name: "crowd".to_owned(),
        allow_undeclared_types: true,
        retention: Default::default(),
        created_at: UnixMillis::now(),
        catalogue: crowd.iter().map(|alike| (alike.kind.clone(), "Of a benchmark.".to_owned())).collect(),
    };
    let tenant = store.create_tenant(new, None, &Author::command()).await.map_err(CliError::failed)?;
    let policy = Policy::default();
    for alike in crowd {
        for from in (0..alike.count).step_by(CHUNK) {
            let to = alike.count.min(from + CHUNK);
            let new: Vec<NewWebhook> = (from..to).map(|index| webhook(tenant.num, alike, index, &policy)).collect();
            store.create_webhooks(&new).await.map_err(CliError::failed)?;
            bar.inc((to - from) as u64);
        }
    }
    Ok(id)
}

fn webhook(tenant: TenantNum, alike: &Alike, index: usize, policy: &Policy) -> NewWebhook {
    NewWebhook {
        id: WebhookId::generate(),
        tenant,
        name: format!("bench {index}"),
        url: alike.url.clone(),
        events: vec![alike.kind.clone()],
        headers: std::collections::BTreeMap::new(),
        public_headers: Vec::new(),
        policy: policy.clone(),
        credentials: None,
        tls_digest: None,
        description: None,
        metadata: None,
        is_active: true,
        secret: SigningSecret::generate().reveal().into(),
        created_at: UnixMillis::now(),
        start_from: None,
    }
}
