//! Reads the addresses of this machine's interfaces and its DNS servers, at the start and every 30 s, because both
//! change. Tells the guard and the DNS client. Started by the engine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{Guard, Own};
use super::resolver::dns::Dns;

/// How often to read: for this long, a new address of this machine may be called. A read is one system call.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The guard and the DNS client, and the addresses that the interfaces do not show.
#[derive(Debug, Clone)]
pub struct LocalNetwork {
    pub guard: Arc<Guard>,
    pub dns: Arc<Dns>,
    /// Where this process listens.
    pub listeners: Vec<SocketAddr>,
    /// Where other nodes reach this process, if that is an address. Behind an address translator (NAT) no interface has
    /// it.
    pub advertised: Option<SocketAddr>,
}

impl LocalNetwork {
    /// Reads once, and tells the guard and the DNS client.
    ///
    /// # Errors
    ///
    /// When the system cannot be read; the last known values stay in use.
    pub fn look(&self) -> io::Result<()> {
        let interfaces = if_addrs::get_if_addrs()?;
        let advertised_ip = self.advertised.map(|at| at.ip());
        let addresses = interfaces.iter().map(if_addrs::Interface::ip).chain(advertised_ip).collect();
        let listeners = self.listeners.iter().copied().chain(self.advertised).collect();
        self.guard.refuse_own(Own { addresses, listeners });
        self.dns.look_again()
    }

    /// Reads every 30 s, until dropped.
    pub async fn keep_looking(self) {
        loop {
            tokio::time::sleep(AGAIN_AFTER).await;
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            if let Err(error) = looked.unwrap_or_else(|error| Err(error.into())) {
                tracing::warn!(%error, "cannot read this machine's addresses; the last known ones stay refused");
            }
        }
    }
}
