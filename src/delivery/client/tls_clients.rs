//! The HTTP clients of one thread, for the sender: one that all webhooks without TLS options share, and one for each
//! set of TLS options. So no request travels on a connection that was opened with another webhook's certificate.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::Resolve;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::delivery::credentials::TlsMaterial;
use crate::delivery::guard::Guard;
use crate::delivery::lru::{Key, Lru};
use crate::delivery::resolver::VettedResolver;
use crate::delivery::resolver::dns::Dns;
use crate::domain::id::TenantNum;

use super::making::Making;
use super::{ClientError, MAX_IDLE_PER_HOST, client_resolving_with};

/// How many clients with TLS options one thread keeps.
const MOST_CLIENTS: usize = 256;

/// A client is dropped when unused for this long: as long as its idle connections live, with some to spare.
const IDLE: Duration = Duration::from_secs(90);

/// Cheap to clone: the connections are shared.
#[derive(Clone)]
pub struct Clients {
    plain: reqwest::Client,
    resolver: Arc<dyn Resolve>,
    guard: Arc<Guard>,
    own: Arc<Mutex<Lru<Arc<OnceCell<reqwest::Client>>>>>,
    making: Making,
    /// Idle connections kept for each receiver.
    max_idle: usize,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients that resolve names behind the guard. Without `keeps_connections`, for a process with few file
    /// descriptors, they keep no idle connections.
    ///
    /// # Errors
    ///
    /// When the machine offers no root certificates.
    pub fn new(guard: Arc<Guard>, dns: Arc<Dns>, making: Making, keeps_connections: bool) -> Result<Self, ClientError> {
        let max_idle = if keeps_connections { MAX_IDLE_PER_HOST } else { 0 };
        let resolver = Arc::new(VettedResolver { guard: guard.clone(), dns });
        Ok(Self { making, ..Self::resolving_with(resolver, guard, max_idle)? })
    }

    /// The same with the given resolver.
    pub(in crate::delivery) fn resolving_with(
        resolver: Arc<dyn Resolve>,
        guard: Arc<Guard>,
        max_idle: usize,
    ) -> Result<Self, ClientError> {
        let plain = client_resolving_with(Arc::clone(&resolver), guard.clone(), None, max_idle)?;
        let own = Arc::new(Mutex::new(Lru::new(MOST_CLIENTS, IDLE)));
        Ok(Self { plain, resolver, guard, own, making: Making::default(), max_idle })
    }

    /// The client that all webhooks without TLS options share.
    pub(in crate::delivery) fn plain(&self) -> reqwest::Client {
        self.plain.clone()
    }

    /// The client for this tenant's TLS options, built at its first use.
    pub(in crate::delivery) async fn of(
        &self,
        own: Option<(TenantNum, &Arc<TlsMaterial>)>,
    ) -> Result<reqwest::Client, ClientError> {
        let Some((tenant, material)) = own else { return Ok(self.plain()) };
        let cell = self.own.lock().get(&Key { tenant, digest: material.digest }, Instant::now());
        let client = cell.get_or_try_init(async || {
            let leave = self.making.leave(tenant).await?;
            let (material, resolver, guard) = (Arc::clone(material), Arc::clone(&self.resolver), self.guard.clone());
            let max_idle = self.max_idle;
            // The build holds its leave to its end: it goes on when the request that wanted the client has timed out.
            let build = move || {
                let _leave = leave;
                client_resolving_with(resolver, guard, Some(&material), max_idle)
            };
            let build = tokio::task::spawn_blocking(build);
            build.await.map_err(|_| ClientError::Stopped)?
        });
        client.await.cloned()
    }
}
