//! Builds the HTTP client that all attempts share. It does what it is told and nothing more: no redirects, no proxy,
//! no cookies, no second try. The sender uses it and owns the one deadline.

use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::Resolve;
use rustls::crypto::{CryptoProvider, ring};

use super::arrival::VetArrival;
use super::dns::Dns;
use super::guard::Guard;
use super::resolver::VettedResolver;

/// As many idle connections per receiver as reuse pays for: more requests at once than this are rare.
const MAX_IDLE_PER_HOST: usize = 512;

/// An idle connection older than this is closed: common servers close theirs after 60 to 75 s, and a request that
/// meets a closing connection is an attempt lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds the client, whose names are resolved behind the guard.
///
/// # Errors
///
/// When the machine offers no root certificates.
pub fn build_client(guard: Arc<Guard>, dns: Arc<Dns>) -> Result<reqwest::Client, ClientError> {
    client_resolving_with(VettedResolver { guard: guard.clone(), dns }, guard)
}

/// The client for calls from one node to another, which the operator has named; nobody guards those.
pub fn peer_client(connect: Duration, answer: Duration) -> Result<reqwest::Client, ClientError> {
    install_crypto_provider();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().tcp_nodelay(true);
    Ok(client.connect_timeout(connect).timeout(answer).build()?)
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be built; it needs the system's root certificates or `SSL_CERT_FILE`")]
pub struct ClientError(#[from] reqwest::Error);

/// The client with a resolver of choice; tests bring one that knows no network.
pub(super) fn client_resolving_with<R>(resolver: R, guard: Arc<Guard>) -> Result<reqwest::Client, ClientError>
where
    R: Resolve + 'static,
{
    install_crypto_provider();
    let client = reqwest::Client::builder()
        .dns_resolver(resolver)
        .connector_layer(VetArrival { guard })
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()?;
    Ok(client)
}

/// reqwest takes its cryptography from rustls's process-wide default and panics without one. Whoever installs first
/// wins; an `Err` means that there is one already, which serves as well.
fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() && ring::default_provider().install_default().is_err() {
        tracing::debug!("another thread has just installed its rustls crypto provider, using that one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_can_be_built_on_many_threads_at_once() {
        let dns = Arc::new(Dns::new(Vec::new(), 1).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| build_client(Arc::new(Guard::new(false, Vec::new())), dns.clone()).unwrap());
            }
        });
    }
}
