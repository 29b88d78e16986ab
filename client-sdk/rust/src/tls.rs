//! What a client demands of a node's certificate: that the deployment's CA issued it, for the name that was asked for. Not
//! that its time has come and is not over.
//!
//! An expired certificate must not become a kill switch. No consent rests on TLS (S5): leases and logs bear the nodes' own
//! signatures, and what people decide bears theirs. So a certificate that has ended still does for what only asks and for
//! what takes away, and everybody says so loudly until it is renewed. Whoever stole its key gains by that no more than
//! whoever sits on the wire: news can be withheld, which denies, and names of agents can be read. It also means that a wrong
//! date on either host stops nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

const WARN_EVERY_S: u64 = 3600;

/// For clients that trust only these CAs (without any, nobody), whatever the date is. It offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// If TLS cannot be set up.
pub fn client_config(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() {
        Ok(inner) => builder
            .dangerous() // only to the date, see above
            .with_custom_certificate_verifier(Arc::new(WheneverValid { inner, warned_s: AtomicU64::new(0) })),
        Err(_no_root) => builder.with_root_certificates(RootCertStore::empty()),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifies now, or at the nearest moment at which the certificate was or will be valid. Says if that was another one.
pub fn whenever_valid<T>(
    now: UnixTime,
    verify: impl Fn(UnixTime) -> Result<T, Error>,
) -> Result<(T, Option<UnixTime>), Error> {
    let nearest = match verify(now) {
        Ok(verified) => return Ok((verified, None)),
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after,
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => not_before,
        Err(error) => return Err(error),
    };
    verify(nearest).map(|verified| (verified, Some(nearest)))
}

#[derive(Debug)]
struct WheneverValid {
    inner: Arc<WebPkiServerVerifier>,
    /// When it was last warned of a certificate out of its time.
    warned_s: AtomicU64,
}

impl ServerCertVerifier for WheneverValid {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |at| self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, at);
        let (verified, at) = whenever_valid(now, verify)?;
        let last_s = self.warned_s.load(Ordering::Relaxed);
        if let Some(at) = at
            && (last_s == 0 || now.as_secs().abs_diff(last_s) >= WARN_EVERY_S)
        {
            self.warned_s.store(now.as_secs(), Ordering::Relaxed);
            let days = at.as_secs().abs_diff(now.as_secs()) / 86_400;
            let name = name.to_str();
            if at < now {
                tracing::error!(
                    target: "tagout", node = %name, days,
                    "the node's TLS certificate has ended and is taken all the same: renew it with `tagout renew`"
                );
            } else {
                tracing::error!(
                    target: "tagout", node = %name, days,
                    "the node's TLS certificate is not valid yet and is taken all the same: set this host's clock"
                );
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
