//! TLS of the API: reads the certificate and its key from two files and reloads them when they change. Open connections
//! keep the certificate that they began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A check costs two system calls, and a new certificate can wait this long.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The paths of certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate, then the intermediate certificates.
    pub certificate: PathBuf,
    /// PEM: the key of the first certificate.
    pub key: PathBuf,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{setting}: {path}: {source}; expected a file in PEM")]
    File { setting: &'static str, path: PathBuf, source: pem::Error },
    #[error(
        "POSTHASTE_TLS_CERT_FILE (--tls-cert-file, tls_cert_file in the file): {path}: there is no certificate in it; expected PEM"
    )]
    Empty { path: PathBuf },
    #[error(
        "POSTHASTE_TLS_KEY_FILE (--tls-key-file, tls_key_file in the file): {path}: {source}; expected the key of the first certificate in POSTHASTE_TLS_CERT_FILE"
    )]
    Pair { path: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The current certificate and the files that it comes from.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificate {
    pub(super) fn read(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(certified(&files)?);
        Ok(Arc::new(Self { files, current }))
    }

    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let versions = [&version::TLS13, &version::TLS12];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&versions).map_err(TlsError::Setup)?;
        let mut config = config.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reloads the files whenever one of them has changed. While the new files are invalid, the old certificate serves.
    pub(super) async fn follow(self: Arc<Self>, stopping: CancellationToken) {
        let mut seen = changed_at(&self.files);
        while stopping.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let now = changed_at(&self.files);
            if now == seen {
                continue;
            }
            match certified(&self.files) {
                Ok(certified) => {
                    self.current.store(Arc::new(certified));
                    tracing::info!("certificate of the API reloaded; new connections use it");
                }
                Err(error) => tracing::error!(%error, "certificate of the API not reloaded; the old one stays in use"),
            }
            seen = now;
        }
    }
}

fn changed_at(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    let of = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    [of(&files.certificate), of(&files.key)]
}

fn certified(TlsFiles { certificate, key }: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let failed = |setting, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { setting, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain =
        chain.map_err(failed("POSTHASTE_TLS_CERT_FILE (--tls-cert-file, tls_cert_file in the file)", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.clone() });
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(failed("POSTHASTE_TLS_KEY_FILE (--tls-key-file, tls_key_file in the file)", key))?;
    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
    pair.map_err(|source| TlsError::Pair { path: key.clone(), source })
}
