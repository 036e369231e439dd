//! Verifies a receiver's certificate against the authorities that a webhook names, and then against the system's. All
//! clients share the system's authorities; a webhook's client holds only its own. Called by rustls in each handshake.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// Asking one store after the other accepts what a store of both would, because a chain ends at one authority.
#[derive(Debug)]
pub(super) struct OwnOrSystem {
    own: Arc<WebPkiServerVerifier>,
    system: Arc<Verifier>,
}

impl OwnOrSystem {
    pub(super) fn new(
        roots: &[CertificateDer<'static>],
        system: Arc<Verifier>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let own = WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider)).build();
        Ok(Self { own: own.map_err(|error| Error::Other(OtherError(Arc::new(error))))?, system })
    }
}

impl ServerCertVerifier for OwnOrSystem {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let asked = |by: &dyn ServerCertVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        asked(&*self.own).or_else(|own| {
            // Report the error of the store that knows the issuer.
            asked(&*self.system).map_err(|system| if is_unknown_issuer(&system) { own } else { system })
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.own.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.supported_verify_schemes()
    }
}

fn is_unknown_issuer(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}
