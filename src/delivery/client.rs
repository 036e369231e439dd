//! Builds the HTTP clients that attempts share. The clients follow no redirects, use no proxy, keep no cookies and
//! never retry. The sender uses them and sets the deadline.

pub(super) mod handshake;
mod making;
mod tls_clients;
mod verifier;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::Resolve;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::SingleCertAndKey;
use rustls_platform_verifier::Verifier;

use self::handshake::{Sessions, WatchConnects};
use super::credentials::TlsMaterial;
use super::guard::Guard;
use super::peer_check::CheckPeer;
use super::resolver::VettedResolver;
use super::resolver::dns::Dns;

use self::verifier::OwnOrSystem;

pub use self::making::Making;
pub use self::tls_clients::Clients;

/// Idle connections kept for each receiver: more concurrent requests to one receiver are rare.
const MAX_IDLE_PER_HOST: usize = 512;

/// An idle connection is closed after this long. Common servers close theirs after 60 to 75 s, and a request that meets
/// a closing connection is an attempt lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Builds a client that resolves names behind the guard.
///
/// # Errors
///
/// When the machine offers no root certificates.
pub fn build_client(guard: Arc<Guard>, dns: Arc<Dns>) -> Result<reqwest::Client, ClientError> {
    client_resolving_with(Arc::new(VettedResolver { guard: guard.clone(), dns }), guard, None, MAX_IDLE_PER_HOST)
}

/// The client for requests between nodes. The operator names the nodes' addresses, so the guard does not apply.
pub fn peer_client(connect: Duration, answer: Duration) -> Result<reqwest::Client, ClientError> {
    install_crypto_provider();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().tcp_nodelay(true);
    Ok(client.connect_timeout(connect).timeout(answer).build()?)
}

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the HTTP client cannot be built: {0}")]
    Http(#[from] reqwest::Error),
    #[error("no certificate can be checked ({0}); the system's root certificates or `SSL_CERT_FILE` are needed")]
    Roots(#[from] rustls::Error),
    #[error("the engine is stopping")]
    Stopped,
}

/// Builds a client with the given resolver (tests bring one without a network) and a webhook's own TLS options. The
/// client keeps up to `max_idle` idle connections to each receiver.
pub(super) fn client_resolving_with(
    resolver: Arc<dyn Resolve>,
    guard: Arc<Guard>,
    own: Option<&TlsMaterial>,
    max_idle: usize,
) -> Result<reqwest::Client, ClientError> {
    install_crypto_provider();
    let client = reqwest::Client::builder()
        .dns_resolver(resolver)
        .tls_backend_preconfigured(tls_config(own)?)
        .connector_layer(CheckPeer { guard })
        .connector_layer(WatchConnects)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(max_idle)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()?;
    Ok(client)
}

/// TLS 1.2 or 1.3. A receiver's certificate is checked against the system's authorities and those that the webhook
/// names. A receiver that asks for a client certificate gets the webhook's own.
fn tls_config(own: Option<&TlsMaterial>) -> Result<ClientConfig, ClientError> {
    let provider = crypto_provider();
    let system = system_verifier(&provider)?;
    let verifier: Arc<dyn ServerCertVerifier> = match own.filter(|own| !own.roots.is_empty()) {
        Some(own) => Arc::new(OwnOrSystem::new(&own.roots, system, &provider)?),
        None => system,
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own.and_then(|own| own.identity.clone()) {
        Some(identity) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::store(Arc::new(Sessions::new()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// All clients share the system's authorities: reading them takes a hundred kilobytes and milliseconds.
fn system_verifier(provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, rustls::Error> {
    static SYSTEM: OnceLock<Arc<Verifier>> = OnceLock::new();
    if let Some(verifier) = SYSTEM.get() {
        return Ok(Arc::clone(verifier));
    }
    let verifier = Arc::new(Verifier::new(Arc::clone(provider))?);
    Ok(Arc::clone(SYSTEM.get_or_init(|| verifier)))
}

/// The crypto provider of every connection.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// Where reqwest sets TLS up itself, as for [`peer_client`], it takes the crypto provider from rustls's process-wide
/// default and panics without one. The first installation wins; an `Err` means that there is one already, which serves
/// as well.
fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() && ring::default_provider().install_default().is_err() {
        tracing::debug!("another thread installed its rustls crypto provider first; using that one");
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
