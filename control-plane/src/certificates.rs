//! The node's TLS certificate while it serves: taken over when its files change, renewed before it ends, and told of in
//! time when neither happens. Nothing here ends a process or a connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use tagout_proto::digest::Digest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::pki::{self, PkiError, Validity};
use crate::tls::clients::ClientCertificates;
use crate::tls::mutual::{self, PeerCas};
use crate::tls::{self, ServerIdentity, TlsError};

/// How often the files are looked at; a service's SIGHUP has them looked at now.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
/// A renewal that failed is tried again; its cause is in the log.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// From here on the end of the certificate is told of, and from the second on as an error.
const WARN_DAYS: f64 = 30.0;
const ERROR_DAYS: f64 = 7.0;
/// A new CA has to reach every guard before the old one ends.
const WARN_CA_DAYS: f64 = 365.0;
/// A renewal that would gain less is none: the certificate ends with its CA.
const WORTH_RENEWING_S: i64 = 24 * 3600;

/// Where a node's certificates lie.
#[derive(Clone, Debug)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The CAs that peers are held to.
    pub ca: Option<PathBuf>,
    /// The CA with its key: with it, the node renews its certificate by itself.
    pub ca_folder: Option<PathBuf>,
}

/// What the node shows and demands on its connections; all of it follows the files.
pub struct NodeTls {
    files: Files,
    identity: Arc<ServerIdentity>,
    cas: Option<Arc<PeerCas>>,
    api: Arc<ServerConfig>,
    clients: Arc<ClientCertificates>,
    in_use: Mutex<Texts>,
    asked: Notify,
}

#[derive(Clone, PartialEq, Eq)]
struct Texts {
    cert: String,
    key: String,
    ca: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the certificate {} cannot be used", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: TlsError,
    },
    #[error("the CA file {} cannot be used", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: TlsError,
    },
    #[error(
        "the certificate {} is not valid at this time, and the one in use is: check this machine's clock, and renew it with \
         `tagout renew`", path.display()
    )]
    OutOfTime { path: PathBuf },
}

impl NodeTls {
    /// Reads the files. A certificate that has ended is taken, loudly: a node that does not start is worse.
    pub fn load(files: Files) -> Result<Arc<Self>, CertificateError> {
        let texts = Texts::read(&files)?;
        texts.check(&files)?;
        let unusable = |source| CertificateError::Unusable { path: files.cert.clone(), source };
        let identity = ServerIdentity::new(&texts.cert, &texts.key).map_err(unusable)?;
        let clients = Arc::new(ClientCertificates::default());
        let api = tls::server_config_for(Arc::clone(&identity), Arc::clone(&clients)).map_err(unusable)?;
        let cas = match (&texts.ca, &files.ca) {
            (Some(ca), Some(path)) => {
                let wrong = |source| CertificateError::Ca { path: path.clone(), source };
                Some(PeerCas::new(ca).map_err(wrong)?)
            }
            _ => None,
        };
        let (in_use, asked) = (Mutex::new(texts), Notify::new());
        Ok(Arc::new(Self { identity, cas, api, clients, in_use, asked, files }))
    }

    /// For the API: everybody may connect.
    pub fn api(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.api)
    }

    /// Whether clients of the API are asked for certificates.
    pub fn clients(&self) -> Arc<ClientCertificates> {
        Arc::clone(&self.clients)
    }

    /// For the peers' listener: only whoever shows a node's certificate of the `ca` may connect.
    ///
    /// # Errors
    /// If no `ca` is configured.
    pub fn peer_server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        mutual::server_config(
            Arc::clone(&self.identity),
            Arc::clone(self.cas.as_ref().ok_or(TlsError::NoCa)?),
        )
    }

    /// For connections to peers, likewise.
    ///
    /// # Errors
    /// If no `ca` is configured.
    pub fn peer_client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        mutual::client_config(
            Arc::clone(&self.identity),
            Arc::clone(self.cas.as_ref().ok_or(TlsError::NoCa)?),
        )
    }

    /// Follows the files until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut watch = Watch::default();
        loop {
            let asked = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tick.tick() => false,
                () = self.asked.notified() => true,
            };
            let (this, mut looking) = (Arc::clone(&self), std::mem::take(&mut watch));
            let looked = crate::blocking(move || {
                if asked {
                    tracing::info!("asked by SIGHUP to look at the certificate files");
                    (looking.refused, looking.renew_again) = (None, None);
                }
                this.look(&mut looking);
                Ok(looking)
            });
            match looked.await {
                Ok(looked) => watch = looked,
                Err(error) => tracing::error!(%error, "the certificate files could not be looked at"),
            }
        }
    }

    /// From here on a SIGHUP does not end the process; it has the files looked at. Only for a process that is a service: one
    /// that belongs to a terminal ends with it.
    pub async fn look_on_hangup(self: Arc<Self>) {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                while hangup.recv().await.is_some() {
                    self.asked.notify_one();
                }
            }
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be heard; the files are looked at all the same")
            }
        }
    }

    /// One look: takes over what is new and good, renews what is late, tells of what ends.
    fn look(&self, watch: &mut Watch) {
        self.take_over(watch);
        self.renew(watch);
        self.tell(watch);
    }

    /// The SHA-256 of the certificate in use, as its file has it, and how many days are left of it.
    pub fn days_left(&self) -> Option<(Digest, f64)> {
        let cert = self.in_use.lock().cert.clone();
        Some((Digest::of(cert.as_bytes()), validity(&cert)?.days_left()))
    }

    fn take_over(&self, watch: &mut Watch) {
        let found = Texts::read(&self.files);
        let mut in_use = self.in_use.lock();
        let refused = match found {
            Ok(texts) if texts == *in_use => None,
            Ok(texts) => match self.replace(&in_use, &texts) {
                Ok(()) => {
                    let days_left = validity(&texts.cert).map(|v| v.days_left().floor());
                    tracing::info!(days_left, "took over the certificate files; new connections get them");
                    *in_use = texts;
                    None
                }
                Err(error) => Some(error),
            },
            Err(error) => Some(error),
        };
        metrics::gauge!("tagout_certificate_refused").set(f64::from(u8::from(refused.is_some())));
        let said = refused.map(|error| format!("{:#}", anyhow::Error::from(error)));
        if let Some(error) = said.as_ref().filter(|said| watch.refused.as_ref() != Some(said)) {
            tracing::error!(error, "the certificate files are NOT taken over; the certificate in use stays");
        }
        watch.refused = said;
    }

    fn replace(&self, old: &Texts, new: &Texts) -> Result<(), CertificateError> {
        new.check(&self.files)?;
        let path = || self.files.cert.clone();
        if !validity(&new.cert).is_some_and(Validity::is_now)
            && validity(&old.cert).is_some_and(Validity::is_now)
        {
            return Err(CertificateError::OutOfTime { path: path() });
        }
        let unusable = |source| CertificateError::Unusable { path: path(), source };
        if let (Some(cas), Some(ca)) = (&self.cas, &new.ca) {
            cas.replace(ca).map_err(unusable)?;
        }
        self.identity.replace(&new.cert, &new.key).map_err(unusable)
    }

    fn renew(&self, watch: &mut Watch) {
        let Some(folder) = &self.files.ca_folder else { return };
        let (cert, ca) = {
            let in_use = self.in_use.lock();
            (in_use.cert.clone(), in_use.ca.clone())
        };
        let late = validity(&cert).is_some_and(|cert| {
            let ca = pki::load_ca_cert(folder).ok().and_then(|ca| validity(&ca));
            cert.is_late() && ca.is_none_or(|ca| ca.ends > cert.ends + WORTH_RENEWING_S)
        });
        if !late || watch.renew_again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let renewed = pki::renew(folder, &self.files.cert, &self.files.key, ca.as_deref());
        let result = if renewed.is_ok() { "ok" } else { "failed" };
        metrics::counter!("tagout_certificate_renewals_total", "result" => result).increment(1);
        match renewed {
            Ok(renewed) => {
                tracing::info!(
                    days_left = renewed.now.days_left().floor(),
                    "renewed this node's certificate"
                );
                self.take_over(watch);
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(
                    error,
                    "this node's certificate could not be renewed; trying again in 10 minutes"
                );
                watch.renew_again = Some(Instant::now() + RENEW_AGAIN);
            }
        }
    }

    fn tell(&self, watch: &mut Watch) {
        let (cert, ca) = {
            let in_use = self.in_use.lock();
            let folder = || self.files.ca_folder.as_ref().and_then(|folder| pki::load_ca_cert(folder).ok());
            (in_use.cert.clone(), in_use.ca.clone().or_else(folder))
        };
        let cert_days = validity(&cert).map_or(f64::NEG_INFINITY, Validity::days_left);
        let issuer = ca.and_then(|ca| tls::check_issuer(&cert, &ca).ok());
        let ca_days = issuer.and_then(|ca| pki::validity_of(&ca).ok()).map(Validity::days_left);
        metrics::gauge!("tagout_certificate_days_left", "certificate" => "node").set(cert_days);
        if let Some(days) = ca_days {
            metrics::gauge!("tagout_certificate_days_left", "certificate" => "ca").set(days);
        }
        if watch.told.is_some_and(|told| told.elapsed() < WARN_EVERY) {
            return;
        }
        let days_left = cert_days.floor();
        let what_to_do = "run `tagout renew` on the machine with the CA; no restart is needed";
        if cert_days < 0.0 {
            tracing::error!(
                days_left,
                "this node's certificate has ENDED: browsers and curl refuse it: {what_to_do}"
            );
        } else if cert_days < ERROR_DAYS {
            tracing::error!(days_left, "this node's certificate ends soon: {what_to_do}");
        } else if cert_days < WARN_DAYS {
            tracing::warn!(days_left, "this node's certificate ends: {what_to_do}");
        }
        if let Some(days) = ca_days.filter(|days| *days < WARN_CA_DAYS) {
            tracing::warn!(
                days_left = days.floor(),
                "the CA ends: make a new one, have guards, people and nodes trust both, then renew every node from the new one"
            );
        }
        watch.told = Some(Instant::now());
    }
}

impl Texts {
    fn read(files: &Files) -> Result<Self, CertificateError> {
        let issued = pki::load(&files.cert, &files.key)?;
        let ca = files.ca.as_deref().map(pki::load_pem).transpose()?;
        Ok(Self { cert: issued.cert_pem, key: issued.key_pem, ca })
    }

    /// Whether the three belong together; not whether it is their time.
    fn check(&self, files: &Files) -> Result<(), CertificateError> {
        let unusable = |source| CertificateError::Unusable { path: files.cert.clone(), source };
        tls::check_pair(&self.cert, &self.key).map_err(unusable)?;
        if let Some(ca) = &self.ca {
            tls::check_issuer(&self.cert, ca).map_err(unusable)?;
        }
        Ok(())
    }
}

/// What the looks before have said and tried.
#[derive(Default)]
struct Watch {
    refused: Option<String>,
    renew_again: Option<Instant>,
    told: Option<Instant>,
}

fn validity(cert_pem: &str) -> Option<Validity> {
    pki::validity(cert_pem).ok()
}

#[cfg(test)]
mod tests;
