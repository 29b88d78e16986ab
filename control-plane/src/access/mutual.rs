//! Client certificates as identities. TLS has proven that the peer holds the key (tls/clients.rs); who signed it, whether it
//! is valid now, and whom it names is judged here, at each request: so a session that was resumed is judged anew, by today's
//! CA and date, and a certificate that is not trusted keeps no stop out (S10).

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::tls::{self, TlsError};

/// The CAs that sign clients' certificates.
#[derive(Clone, Debug)]
pub struct ClientCas(Arc<dyn ClientCertVerifier>);

#[derive(Debug, thiserror::Error)]
#[error(
    "there is no usable CA certificate in it: give a PEM file of the CA that signs the clients' certificates"
)]
pub struct NotACa(#[source] TlsError);

/// Why a certificate makes nobody known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error("it is signed by none of the CAs in the node's access file")]
    OtherCa,
    #[error("it has ended: get a new one")]
    Ended,
    #[error("it is not valid yet: look at its dates and at the clocks")]
    NotYet,
    #[error("it is not for clients (TLS client authentication is not among its uses)")]
    Purpose,
    #[error(
        "it is of X.509 version 1, which cannot say what it is for: make it with extensions, by openssl with -extfile"
    )]
    Version,
    #[error("it is a CA's own certificate: show one that the CA has signed")]
    Ca,
    #[error("it cannot be verified: {0}")]
    Other(String),
}

impl ClientCas {
    pub fn new(ca_pem: &str) -> Result<Self, NotACa> {
        let roots = tls::roots(ca_pem).map_err(NotACa)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build();
        verifier.map(Self).map_err(|_| NotACa(TlsError::NoCa))
    }

    /// The names in the certificate `chain[0]`, if one of the CAs vouches for it now: DNS names, URIs and mail addresses, and
    /// the common name.
    pub fn names(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<BTreeSet<String>, Untrusted> {
        let [own, others @ ..] = chain else { return Err(Untrusted::OtherCa) };
        let (_, certificate) =
            X509Certificate::from_der(own).map_err(|error| Untrusted::Other(error.to_string()))?;
        // The verifier has no words for these.
        if certificate.version() != X509Version::V3 {
            return Err(Untrusted::Version);
        }
        if certificate.is_ca() {
            return Err(Untrusted::Ca);
        }
        self.0.verify_client_cert(own, others, now).map_err(|error| match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Untrusted::OtherCa,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Untrusted::Ended,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Untrusted::NotYet
                }
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                    Untrusted::Purpose
                }
                other => Untrusted::Other(other.to_string()),
            },
            other => Untrusted::Other(other.to_string()),
        })?;
        let mut names: BTreeSet<String> = certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).to_owned()),
                _ => None,
            }));
        }
        Ok(names)
    }
}
