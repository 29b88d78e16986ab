//! OIDC bearer tokens: JSON Web Tokens (RFC 7519) that an identity provider signed for this deployment. The issuer says where
//! its keys are (OpenID Connect Discovery 1.0, section 4), and they are fetched in the background: nothing waits for the
//! issuer but a token whose key is not known yet, and that for a moment.

#[cfg(test)]
mod fuzz;
mod keys;
mod verify;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use parking_lot::{Mutex, RwLock};
use reqwest::Url;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::keys::{Key, Keys};
pub use self::verify::{Claims, Invalid};
use super::config::Roles;
use crate::tls;

/// How old keys may be before they are fetched again, whoever asks or not.
const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// After a fetch that failed.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// However many tokens name a key that nobody knows: the issuer is asked no more often than this.
const REFETCH_NOT_BEFORE: Duration = Duration::from_secs(5);
/// How long a token may wait for its key to be fetched, and how many at once.
const WAIT_FOR_KEYS: Duration = Duration::from_secs(3);
const WAITING_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 256 * 1024;
const ISSUER_MAX_BYTES: usize = 512;

/// Whose tokens count, and what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerRule {
    /// Exactly as it stands in its tokens.
    pub issuer: String,
    pub audience: String,
    pub leeway_s: u64,
    pub roles_claim: String,
    pub roles: Roles,
    /// PEM; absent for the system's CAs.
    ca_pem: Option<String>,
}

impl IssuerRule {
    pub fn new(
        issuer: &str,
        audience: String,
        leeway_s: u64,
        roles_claim: String,
        roles: Roles,
        ca_pem: Option<String>,
    ) -> Result<Self, String> {
        let url = Url::parse(issuer).ok().filter(|_| issuer.len() <= ISSUER_MAX_BYTES);
        if !url.is_some_and(|url| is_safe(&url) && url.query().is_none() && url.fragment().is_none()) {
            return Err(format!(
                "{issuer:?} is no issuer: write it as its tokens do, https://HOST or https://HOST/PATH"
            ));
        }
        if let Some(pem) = &ca_pem {
            tls::client_config(pem).map_err(|_| "there is no usable CA certificate in \"ca\"".to_owned())?;
        }
        Ok(Self { issuer: issuer.into(), audience, leeway_s, roles_claim, roles, ca_pem })
    }
}

/// Encrypted, or on this machine.
fn is_safe(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("");
    match url.scheme() {
        "https" => !host.is_empty() && url.username().is_empty() && url.password().is_none(),
        "http" => is_loopback(host),
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    ip.is_ok_and(|ip| ip.is_loopback())
}

/// An issuer, and those of its keys that are known.
pub struct Issuer {
    pub rule: IssuerRule,
    http: reqwest::Client,
    keys: RwLock<Option<Arc<Keys>>>,
    /// Why the last fetch failed, if it did.
    failed: RwLock<Option<String>>,
    /// How many fetches have begun, and when the last one did.
    begun: Mutex<(u64, Option<Instant>)>,
    /// Somebody shows a token whose key is not known.
    wanted: Notify,
    /// How many have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    ends: CancellationToken,
}

/// What a token is verified by.
pub struct KeyOfToken {
    algorithm: Algorithm,
    key: Key,
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Http(String),
    #[error("{0} answers with more than {ANSWER_MAX_BYTES} bytes")]
    TooLarge(Url),
    #[error("{url} answers {status}")]
    Status { url: Url, status: reqwest::StatusCode },
    #[error("{url} answers with something else than expected: {what}")]
    Strange { url: Url, what: String },
    #[error(
        "its discovery names issuer {found:?}, and {wanted:?} is configured: the two must be the same, to the last slash"
    )]
    OtherIssuer { found: String, wanted: String },
    #[error("its \"jwks_uri\" {0:?} is no https address")]
    KeysElsewhere(String),
    #[error(
        "none of its keys is of a kind that is taken (RSA from 2048 bits, P-256, P-384, Ed25519; to verify signatures)"
    )]
    NoKeys,
}

/// What of the discovery document is used.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    pub fn new(rule: IssuerRule) -> Result<Arc<Self>, String> {
        verify::install();
        let tls = match &rule.ca_pem {
            Some(pem) => tls::client_config(pem).map_err(|e| e.to_string())?,
            None => ClientConfig::builder_with_provider(tls::provider())
                .with_safe_default_protocol_versions()
                .and_then(|builder| builder.with_platform_verifier())
                .map_err(|e| format!("the system's CAs cannot be used: {e}"))?
                .with_no_client_auth(),
        };
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT);
        if Url::parse(&rule.issuer).is_ok_and(|url| is_loopback(url.host_str().unwrap_or(""))) {
            http = http.no_proxy();
        }
        Ok(Arc::new(Self {
            http: http.build().map_err(|e| e.to_string())?,
            rule,
            keys: RwLock::default(),
            failed: RwLock::default(),
            begun: Mutex::default(),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING_MAX),
            ends: CancellationToken::new(),
        }))
    }

    /// Fetches the keys now, when they are old, and when somebody wants one that is not there, until it is ended.
    pub async fn follow(self: Arc<Self>) {
        let ends = self.ends.clone();
        let fetching = async {
            loop {
                let begun = Instant::now();
                self.note_begun(begun);
                let fetched = self.fetch().await;
                let result = if fetched.is_ok() { "ok" } else { "failed" };
                metrics::counter!("tagout_issuer_fetches_total", "result" => result).increment(1);
                let next = match fetched {
                    Ok(keys) => {
                        metrics::gauge!("tagout_issuer_keys").set(keys.len() as f64);
                        if self.failed.write().take().is_some() {
                            tracing::info!(
                                issuer = self.rule.issuer,
                                "the issuer's keys can be fetched again"
                            );
                        }
                        // Only now do the old ones go.
                        *self.keys.write() = Some(Arc::new(keys));
                        REFRESH_EVERY
                    }
                    Err(error) => {
                        let error = error.to_string();
                        let before = self.failed.write().replace(error.clone());
                        if before.as_ref() != Some(&error) {
                            let issuer = &self.rule.issuer;
                            tracing::error!(
                                issuer,
                                error,
                                "the keys of the OIDC issuer cannot be fetched; those that are known stay"
                            );
                        }
                        RETRY_AFTER
                    }
                };
                self.ended.send_modify(|ended| *ended += 1);
                tokio::select! {
                    () = tokio::time::sleep_until(begun + next) => {}
                    () = self.wanted.notified() => tokio::time::sleep_until(begun + REFETCH_NOT_BEFORE).await,
                }
            }
        };
        ends.run_until_cancelled(fetching).await;
    }

    pub fn end(&self) {
        self.ends.cancel();
    }

    /// Whether keys have been fetched.
    pub fn has_keys(&self) -> bool {
        self.keys.read().is_some()
    }

    /// The key that a token names. A moment may pass while it is fetched.
    pub async fn key_of(&self, token: &str) -> Result<KeyOfToken, Invalid> {
        let named = verify::named(token)?;
        let mut key = self.known(&named)?;
        if key.is_none() {
            self.fetched_anew().await?;
            key = self.known(&named)?;
        }
        let key = key.ok_or_else(|| self.unknown())?;
        Ok(KeyOfToken { algorithm: named.algorithm, key })
    }

    /// What the token says, if the issuer signed it by this key, for this deployment, and it is its time.
    pub fn verify(&self, token: &str, by: &KeyOfToken) -> Result<Claims, Invalid> {
        verify::verify(token, by.algorithm, &by.key, &self.rule)
    }

    fn known(&self, named: &verify::Named) -> Result<Option<Key>, Invalid> {
        match &*self.keys.read() {
            Some(keys) => keys.find(named.kid.as_deref(), named.algorithm),
            None => Ok(None),
        }
    }

    fn unknown(&self) -> Invalid {
        match &*self.failed.read() {
            Some(why) => Invalid::IssuerAway { issuer: self.rule.issuer.clone(), why: why.clone() },
            None if self.has_keys() => Invalid::UnknownKey,
            None => Invalid::IssuerAway {
                issuer: self.rule.issuer.clone(),
                why: "it has not answered yet".into(),
            },
        }
    }

    fn note_begun(&self, at: Instant) {
        let mut begun = self.begun.lock();
        *begun = (begun.0 + 1, Some(at));
    }

    /// Has the keys fetched, unless that was a moment ago, and waits for them.
    async fn fetched_anew(&self) -> Result<(), Invalid> {
        let mut ended = self.ended.subscribe();
        let (seen, (begun, at)) = (*ended.borrow_and_update(), *self.begun.lock());
        self.wanted.notify_one();
        let soon = at.is_none_or(|at| at.elapsed() + WAIT_FOR_KEYS >= REFETCH_NOT_BEFORE);
        if begun == seen && !soon {
            return Err(self.unknown());
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(self.unknown()) };
        let _ = timeout(WAIT_FOR_KEYS, ended.wait_for(|ended| *ended > seen)).await;
        Ok(())
    }

    async fn fetch(&self) -> Result<Keys, FetchError> {
        // Discovery 1.0, section 4.1: a slash at the end of the issuer goes.
        let at = format!("{}/.well-known/openid-configuration", self.rule.issuer.trim_end_matches('/'));
        let at = Url::parse(&at).map_err(|e| FetchError::Http(e.to_string()))?;
        let discovery: Discovery = self.get(&at).await?;
        if discovery.issuer != self.rule.issuer {
            let found = discovery.issuer.chars().take(ISSUER_MAX_BYTES).collect();
            return Err(FetchError::OtherIssuer { found, wanted: self.rule.issuer.clone() });
        }
        let keys_at = Url::parse(&discovery.jwks_uri).ok().filter(is_safe);
        // Whoever is asked over the network sends nobody to this machine's own services.
        let keys_at = keys_at.filter(|url| url.scheme() == "https" || at.scheme() == "http");
        let keys_at = keys_at.ok_or_else(|| {
            FetchError::KeysElsewhere(discovery.jwks_uri.chars().take(ISSUER_MAX_BYTES).collect())
        })?;
        let keys = Keys::of(&self.get(&keys_at).await?);
        if keys.len() == 0 { Err(FetchError::NoKeys) } else { Ok(keys) }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &Url) -> Result<T, FetchError> {
        let failed = |e: reqwest::Error| FetchError::Http(chain(&e));
        let mut answer = self.http.get(url.clone()).send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status: answer.status() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX_BYTES {
                return Err(FetchError::TooLarge(url.clone()));
            }
        }
        serde_json::from_slice(&body)
            .map_err(|e| FetchError::Strange { url: url.clone(), what: e.to_string() })
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_encrypted_or_on_this_machine() {
        let rule = |issuer: &str| {
            IssuerRule::new(issuer, "tagout".into(), 60, "groups".into(), Roles::default(), None)
        };
        for good in [
            "https://id.example",
            "https://id.example/realms/ops/",
            "http://127.0.0.1:8080",
            "http://[::1]:1/x",
        ] {
            assert_eq!(rule(good).unwrap().issuer, good);
        }
        for bad in [
            "http://id.example",
            "http://127.0.0.1.example",
            "http://localhost",
            "id.example",
            "",
            "https://user:secret@id.example",
            "https://id.example?x=1",
            "https://id.example#x",
            "file:///etc/passwd",
        ] {
            assert!(rule(bad).unwrap_err().contains("no issuer"), "{bad}");
        }
    }
}
