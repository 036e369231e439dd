//! Looks up the addresses of a receiver's name. Called by the resolver, which lets the guard check the addresses.
//! `local_network` tells it when to re-read the system's DNS servers.
//!
//! Never caches: an open connection is reused without a lookup, and the DNS servers have a cache of their own.

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

use super::ResolveError;

/// The default port of DNS servers (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;

/// More than any service needs, and more than a client could try in time. A name with a thousand addresses is meant to
/// keep the engine busy.
pub const MAX_ADDRESSES: usize = 64;

/// A query without an answer is repeated after this long, at the same or another server. Three queries fit into the
/// default timeout of an attempt.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_600);
const REPETITIONS: usize = 2;

/// The DNS client: which servers to query, and how many lookups may run at once.
pub struct Dns {
    /// The operator's servers; if empty, the system's are queried.
    configured: Vec<SocketAddr>,
    asking: ArcSwap<Asking>,
    /// Bounds the lookups at once. Further lookups wait, within the deadlines of their attempts.
    turns: Semaphore,
    at_once: usize,
}

struct Asking {
    servers: Vec<SocketAddr>,
    resolver: TokioResolver,
}

impl Dns {
    /// Queries these servers, or the system's if the list is empty.
    ///
    /// # Errors
    ///
    /// When no resolver can be built.
    pub fn new(configured: Vec<SocketAddr>, at_once: usize) -> io::Result<Self> {
        let servers = if configured.is_empty() { system_servers() } else { configured.clone() };
        let asking = ArcSwap::from_pointee(Asking::new(servers, at_once)?);
        Ok(Self { configured, asking, turns: Semaphore::new(at_once), at_once })
    }

    /// Re-reads the system's servers and queries those from now on, unless the operator named servers.
    ///
    /// # Errors
    ///
    /// When no resolver can be built; the old one stays in use.
    pub fn look_again(&self) -> io::Result<()> {
        if !self.configured.is_empty() {
            return Ok(());
        }
        let servers = system_servers();
        if servers != self.asking.load().servers {
            tracing::info!(?servers, "the system's DNS servers changed; querying the new ones");
            self.asking.store(Asking::new(servers, self.at_once)?.into());
        }
        Ok(())
    }

    /// All addresses of a name, which is taken as fully qualified. One lookup sends one query for each address family
    /// and repeats a query only if no answer comes.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut fully_qualified = Name::from_ascii(name).map_err(|_| ResolveError::NoSuchName)?;
        fully_qualified.set_fqdn(true);
        let _turn = self.turns.acquire().await.map_err(|_| ResolveError::Failed)?;
        let resolver = self.asking.load().resolver.clone();
        let found = resolver.lookup_ip(fully_qualified).await.map_err(|error| {
            tracing::debug!(name, %error, "lookup of a receiver's name failed");
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

/// Queries go over UDP; TCP is for answers that do not fit into a datagram.
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
    // The HTTP client tries the addresses in this order, and the other family as soon as the first one hesitates.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    // A name must resolve alike on every node, and the hosts file names internal hosts.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = 2 * at_once;
    options
}

/// Falls back to the local machine, as the system's resolver does when no servers are configured (resolv.conf(5)).
fn system_servers() -> Vec<SocketAddr> {
    match read_system_conf() {
        Ok((config, _)) => config.name_servers().iter().map(|server| SocketAddr::new(server.ip, DNS_PORT)).collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot read the system's DNS servers; querying the one on this machine");
            vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))]
        }
    }
}

/// The error that the webhook's owner sees.
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
mod tests;
