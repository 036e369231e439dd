//! Parses the TLS options of a webhook: authorities to trust beyond the system's, and the engine's client certificate.
//! The API parses them completely when they are saved, so that no attempt fails on them.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::{problem, too_long};
use crate::delivery::lru::Digest;
use crate::domain::credentials::TlsOptions;
use crate::domain::moment::UnixMillis;
use crate::domain::policy::PolicyProblem;

const CA: &str = "/tls/ca";
const CERTIFICATE: &str = "/tls/clientCertificate";
const KEY: &str = "/tls/clientKey";

/// Parses the PEM texts.
///
/// # Errors
///
/// Every part that cannot be used.
pub(in crate::delivery) fn tls_material(options: &TlsOptions) -> Result<TlsMaterial, Vec<PolicyProblem>> {
    let roots = |ca: &String| too_long(CA, ca, TlsOptions::CA_BYTES).map_or_else(|| roots_of(ca), Err);
    match (options.ca.as_ref().map(roots).transpose(), identity_of(options)) {
        (Ok(roots), Ok(identity)) => Ok(TlsMaterial::new(roots.unwrap_or_default(), identity)),
        (roots, identity) => Err(roots.err().into_iter().chain(identity.err()).collect()),
    }
}

/// The engine's own certificate and key, if there is one.
fn identity_of(
    TlsOptions { client_certificate, client_key, .. }: &TlsOptions,
) -> Result<Option<Identity>, UnusableTls> {
    let long = client_certificate
        .as_ref()
        .and_then(|chain| too_long(CERTIFICATE, chain, TlsOptions::CERTIFICATE_BYTES))
        .or_else(|| client_key.as_ref().and_then(|key| too_long(KEY, key.reveal(), TlsOptions::KEY_BYTES)));
    match (client_certificate, client_key, long) {
        (_, _, Some(problem)) => Err(problem),
        (None, None, None) => Ok(None),
        (Some(_), None, None) => Err(problem(KEY, "missing, the key of the client certificate is required")),
        (None, Some(_), None) => Err(problem(CERTIFICATE, "missing, the certificate of the client key is required")),
        (Some(chain), Some(key), None) => {
            let (chain, key) = (certificates(CERTIFICATE, chain)?, private_key(key.reveal())?);
            let digest = digest_of(chain.iter().map(AsRef::as_ref).chain([key.secret_der()]));
            let certified = CertifiedKey::from_der(chain, key, &super::super::client::crypto_provider());
            Ok(Some(Identity { certified: Arc::new(certified.map_err(|error| unusable(&error))?), digest }))
        }
    }
}

/// When the client certificate expires, if there is one that can be read.
#[must_use]
pub fn certificate_ends_at(options: &TlsOptions) -> Option<UnixMillis> {
    let first = certificates(CERTIFICATE, options.client_certificate.as_ref()?).ok()?.into_iter().next()?;
    let certificate = Certificate::from_der(&first).ok()?;
    Some(UnixMillis(0).plus(certificate.tbs_certificate().validity().not_after.to_unix_duration()))
}

/// Parsed TLS options, as connections use them. Spaces, comments and the order of authorities in the PEM text make no
/// difference.
pub(in crate::delivery) struct TlsMaterial {
    /// Without duplicates, in the order of their bytes.
    pub(in crate::delivery) roots: Vec<CertificateDer<'static>>,
    pub(in crate::delivery) identity: Option<Arc<CertifiedKey>>,
    /// A digest of everything, the key included: TLS options with the same digest may share connections.
    pub(in crate::delivery) digest: Digest,
}

/// The engine's own certificate and its key.
struct Identity {
    certified: Arc<CertifiedKey>,
    digest: Digest,
}

impl TlsMaterial {
    fn new(mut roots: Vec<CertificateDer<'static>>, identity: Option<Identity>) -> Self {
        roots.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        roots.dedup();
        let of_identity = identity.as_ref().map_or([].as_slice(), |identity| identity.digest.as_slice());
        let digest = digest_of([of_identity].into_iter().chain(roots.iter().map(AsRef::as_ref)));
        Self { roots, identity: identity.map(|identity| identity.certified), digest }
    }
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsMaterial(..)")
    }
}

fn digest_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// What is wrong with TLS options, and where.
pub(in crate::delivery) type UnusableTls = PolicyProblem;

/// The authorities in a bundle.
fn roots_of(ca: &str) -> Result<Vec<CertificateDer<'static>>, UnusableTls> {
    let roots = certificates(CA, ca)?;
    for (place, root) in roots.iter().enumerate() {
        let unreadable = |_| problem(CA, format!("certificate {} cannot be read as one of an authority", place + 1));
        RootCertStore::empty().add(root.clone()).map_err(unreadable)?;
    }
    Ok(roots)
}

/// Accepts certificates only: these texts are shown, so they must hold no key.
fn certificates(pointer: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, UnusableTls> {
    if let Some(other) = labels(pem).find(|label| *label != "CERTIFICATE") {
        let given = if other.ends_with("PRIVATE KEY") { "a private key" } else { "something else" };
        return Err(problem(pointer, format!("{given} was given among the certificates, only those are accepted")));
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| problem(pointer, "the PEM text cannot be read"))?;
    let broken = found.iter().position(|certificate| Certificate::from_der(certificate).is_err());
    match (found.is_empty(), broken) {
        (true, _) => Err(problem(pointer, "no certificate was given; PEM is accepted: -----BEGIN CERTIFICATE-----")),
        (false, Some(place)) => Err(problem(pointer, format!("certificate {} is not X.509", place + 1))),
        (false, None) => Ok(found),
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, UnusableTls> {
    // RFC 1421, 4.6.1.1: how older tools mark a key with a passphrase.
    if pem.contains("ENCRYPTED") {
        return Err(problem(KEY, "the key is encrypted; give it without a passphrase, it is sealed when it is stored"));
    }
    let accepted = "one private key in PEM is accepted: PKCS #8, PKCS #1 or SEC 1";
    if labels(pem).filter(|label| label.ends_with("PRIVATE KEY")).count() != 1 {
        return Err(problem(KEY, accepted));
    }
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| problem(KEY, format!("it cannot be read; {accepted}")))
}

/// The labels of the sections in a PEM text.
fn labels(pem: &str) -> impl Iterator<Item = &str> {
    pem.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
}

fn unusable(error: &rustls::Error) -> UnusableTls {
    match error {
        rustls::Error::InconsistentKeys(_) => problem(CERTIFICATE, "it belongs to another key than `clientKey`"),
        rustls::Error::InvalidCertificate(_) => problem(CERTIFICATE, "the first certificate cannot be read"),
        _ => {
            problem(KEY, "no key that can be used; ECDSA (P-256, P-384), Ed25519, and RSA from 2048 bits are accepted")
        }
    }
}

#[cfg(test)]
mod tests;
