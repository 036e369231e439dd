//! What this machine says of itself: the addresses of its interfaces, and its DNS servers. Tells the guard and the DNS
//! client, at the start and again in a while, because addresses come and go. Started by the engine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::dns::Dns;
use super::guard::{Guard, Own};

/// A new address of ours could be called for so long; reading them is a system call.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Who is told, and what the machine itself does not know.
#[derive(Debug, Clone)]
pub struct LocalNetwork {
    pub guard: Arc<Guard>,
    pub dns: Arc<Dns>,
    /// Where this process listens.
    pub listeners: Vec<SocketAddr>,
    /// Where others reach it, if that is an address; behind a translator no interface has it.
    pub advertised: Option<SocketAddr>,
}

impl LocalNetwork {
    /// Looks once.
    ///
    /// # Errors
    ///
    /// When the system does not answer; what was known stays.
    pub fn look(&self) -> io::Result<()> {
        let interfaces = if_addrs::get_if_addrs()?;
        let advertised_ip = self.advertised.map(|at| at.ip());
        let addresses = interfaces.iter().map(if_addrs::Interface::ip).chain(advertised_ip).collect();
        let listeners = self.listeners.iter().copied().chain(self.advertised).collect();
        self.guard.refuse_own(Own { addresses, listeners });
        self.dns.look_again()
    }

    /// Looks again and again, until it is dropped.
    pub async fn keep_looking(self) {
        loop {
            tokio::time::sleep(AGAIN_AFTER).await;
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            if let Err(error) = looked.unwrap_or_else(|error| Err(error.into())) {
                tracing::warn!(%error, "cannot look which addresses are our own; the last known ones are refused");
            }
        }
    }
}
