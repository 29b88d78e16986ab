//! TLS between nodes: both ends show a certificate of the deployment's CA.
//!
//! It keeps strangers off the peers' port. Who is at the other end is proven after the handshake, by a signature of the
//! node's own key over what TLS exports; therefore neither the name in the certificate nor its dates are asked for here: a
//! certificate that has ended must not take the quorum away, nor a clock that was never set, nor an address that people
//! have changed. Agents' certificates serve nothing, and so open no peer connection.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tagout::tls::whenever_valid;

use super::{ServerIdentity, TlsError, provider, roots};

/// What the peers' port speaks: somebody else's client fails at the handshake, not in the middle of a frame.
pub const ALPN: &[u8] = b"tagout-peers";

/// The CAs whose nodes may connect; replaceable, so that a CA can be succeeded without a restart.
#[derive(Debug)]
pub struct PeerCas(RwLock<Arc<RootCertStore>>);

impl PeerCas {
    /// # Errors
    /// If `ca_pem` holds no CA certificate.
    pub fn new(ca_pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(roots(ca_pem)?)))))
    }

    /// New connections are held to the new CAs; open ones go on.
    ///
    /// # Errors
    /// As [`PeerCas::new`]; then the old ones stay.
    pub fn replace(&self, ca_pem: &str) -> Result<(), TlsError> {
        let new = Arc::new(roots(ca_pem)?);
        *self.0.write() = new;
        Ok(())
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let roots = Arc::clone(&self.0.read());
        if !check_issuer(certificate, intermediates, &roots, now)? {
            // Its own node warns of it daily; here it would come with every connection.
            tracing::debug!("a peer's certificate is not valid at this time, and is taken all the same");
        }
        Ok(())
    }
}

/// Whether one of the CAs issued the certificate, for servers. Gives whether it is valid now, which is another question.
pub(super) fn check_issuer(
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<bool, Error> {
    let algorithms = provider().signature_verification_algorithms.all;
    let certificate = ParsedCertificate::try_from(certificate)?;
    let verify =
        |at| verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, at, algorithms);
    whenever_valid(now, verify).map(|((), other_time)| other_time.is_none())
}

/// For the peers' listener. TLS 1.3 only: what it exports is bound to the whole handshake.
///
/// # Errors
/// If TLS cannot be set up.
pub fn server_config(
    identity: Arc<ServerIdentity>,
    cas: Arc<PeerCas>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(cas)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Connections are few and live long: each is a whole handshake with today's certificates.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For connections to peers.
///
/// # Errors
/// If TLS cannot be set up.
pub fn client_config(
    identity: Arc<ServerIdentity>,
    cas: Arc<PeerCas>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // only to names and dates, see above
        .with_custom_certificate_verifier(cas)
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

impl ServerCertVerifier for PeerCas {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerCas {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // a node has only one certificate to choose from
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
