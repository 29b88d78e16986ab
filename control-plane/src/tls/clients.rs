//! Client certificates on the API's port: asked for where the access file says so, and never a condition. Here the peer proves
//! that it holds the key; whether its certificate makes it anybody is judged at each request (access/mutual.rs), since a
//! certificate that has ended or is of another CA must not keep a stop out (S10).

use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::provider;

/// What a chain may have: it travels in session tickets.
const CHAIN_MAX_BYTES: usize = 16 * 1024;
const CHAIN_MAX: usize = 8;

/// Whether clients are asked for a certificate; it may change while the node serves.
#[derive(Debug, Default)]
pub struct ClientCertificates {
    asked: AtomicBool,
}

impl ClientCertificates {
    /// For connections from now on.
    pub fn ask(&self, asked: bool) {
        self.asked.store(asked, Ordering::Relaxed);
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // they may change, and whoever has several certificates chooses by itself
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = end_entity.len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        if intermediates.len() >= CHAIN_MAX || bytes > CHAIN_MAX_BYTES {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proven(certificate, |by| verify_tls12_signature(message, certificate, signature, by))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        proven(certificate, |by| verify_tls13_signature(message, certificate, signature, by))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whether the peer holds the key. A certificate that cannot be read, such as one of X.509 version 1, proves nothing and makes
/// nobody known, since what judges it (access/mutual.rs) reads it with the same parser: so it keeps no stop out (S10).
fn proven(
    certificate: &CertificateDer<'_>,
    verify: impl FnOnce(&WebPkiSupportedAlgorithms) -> Result<HandshakeSignatureValid, Error>,
) -> Result<HandshakeSignatureValid, Error> {
    match ParsedCertificate::try_from(certificate) {
        Ok(_) => verify(&provider().signature_verification_algorithms),
        Err(_) => Ok(HandshakeSignatureValid::assertion()),
    }
}
