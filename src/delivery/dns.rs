//! Asks DNS servers which addresses a receiver's name has. Used by the resolver, which lets the guard judge them; told
//! by the surroundings to look again which servers the system names.
//!
//! Nothing is remembered here: an open connection is used again without a lookup, and the servers that are asked have a
//! cache of their own.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;

use super::resolver::ResolveError;

/// Where DNS servers listen unless somebody says otherwise (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;

/// More than any service needs and than a client would try in time. A name with a thousand addresses wants to keep
/// somebody busy.
pub const MAX_ADDRESSES: usize = 64;

/// A server that has not answered by then is asked again, or another one is; three times fit into the usual time limit
/// of an attempt.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_600);
const REPETITIONS: usize = 2;

/// How DNS is asked: which servers, and how many lookups at once.
pub struct Dns {
    /// Named by the operator; if there are none, the system's are asked.
    configured: Vec<SocketAddr>,
    asking: ArcSwap<Asking>,
    /// Of lookups. Beyond, they wait, inside the time limits of their attempts.
    turns: Semaphore,
    at_once: usize,
}

struct Asking {
    servers: Vec<SocketAddr>,
    resolver: TokioResolver,
}

impl Dns {
    /// Asks these servers, or the system's if there are none.
    ///
    /// # Errors
    ///
    /// When no resolver can be made.
    pub fn new(configured: Vec<SocketAddr>, at_once: usize) -> io::Result<Self> {
        let servers = if configured.is_empty() { system_servers() } else { configured.clone() };
        let asking = ArcSwap::from_pointee(Asking::new(servers, at_once)?);
        Ok(Self { configured, asking, turns: Semaphore::new(at_once), at_once })
    }

    /// Asks the servers that the system names now, unless the operator named others.
    ///
    /// # Errors
    ///
    /// When no resolver can be made; the old one stays.
    pub fn look_again(&self) -> io::Result<()> {
        if !self.configured.is_empty() {
            return Ok(());
        }
        let servers = system_servers();
        if servers != self.asking.load().servers {
            tracing::info!(?servers, "the system names other DNS servers");
            self.asking.store(Asking::new(servers, self.at_once)?.into());
        }
        Ok(())
    }

    /// Every address of a name, which is taken as fully qualified. One lookup: one question for each kind of address,
    /// repeated only where no answer comes.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut fully_qualified = Name::from_ascii(name).map_err(|_| ResolveError::NoSuchName)?;
        fully_qualified.set_fqdn(true);
        let _turn = self.turns.acquire().await.map_err(|_| ResolveError::Failed)?;
        let resolver = self.asking.load().resolver.clone();
        let found = resolver.lookup_ip(fully_qualified).await.map_err(|error| {
            tracing::debug!(name, %error, "a receiver's name cannot be resolved");
            explained(&error)
        })?;
        let addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES + 1).collect();
        match addresses.len() {
            0 => Err(ResolveError::Empty),
            1..=MAX_ADDRESSES => Ok(addresses),
            _ => Err(ResolveError::TooMany),
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("servers", &self.asking.load().servers).finish_non_exhaustive()
    }
}

impl Asking {
    fn new(servers: Vec<SocketAddr>, at_once: usize) -> io::Result<Self> {
        let config = ResolverConfig::from_name_servers(servers.iter().map(udp_then_tcp).collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(at_once);
        let resolver = builder.build().map_err(io::Error::other)?;
        Ok(Self { servers, resolver })
    }
}

/// TCP is for answers that do not fit.
fn udp_then_tcp(server: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

fn options(at_once: usize) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ANSWER_WITHIN;
    options.attempts = REPETITIONS;
    // The client tries them in this order, the other kind as soon as the first hesitates.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    // What a name means must not depend on the node, and what this file says is about the inside.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = 2 * at_once;
    options
}

/// The resolver's own default where the system names none is the machine itself (resolv.conf(5)); so is ours.
fn system_servers() -> Vec<SocketAddr> {
    match read_system_conf() {
        Ok((config, _)) => config.name_servers().iter().map(|server| SocketAddr::new(server.ip, DNS_PORT)).collect(),
        Err(error) => {
            tracing::warn!(%error, "the system names no DNS servers, asking the one on this machine");
            vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))]
        }
    }
}

/// What the webhook's owner is told.
fn explained(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            ResolveError::NoSuchName
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => ResolveError::Empty,
        NetError::Timeout => ResolveError::TooSlow,
        _ => ResolveError::Failed,
    }
}

#[cfg(test)]
#[path = "../../tests/support/names.rs"]
mod names;

#[cfg(test)]
mod tests;
