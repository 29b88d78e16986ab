//! Who may read. Whoever asks shows an API token, a token of the issuer, or a client certificate; what each of them stands for
//! is in the node's access file, which is looked at again while it serves. None of that touches what people sign: an identity
//! never replaces a signature, and a stop needs none (S6, S10).

mod config;
mod mutual;
mod oidc;
mod token;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls_pki_types::{CertificateDer, UnixTime};
use tagout_proto::digest::Digest;
use tagout_proto::scope::Scope;
use tagout_proto::strict::format_instant_ms;
use tagout_proto::wire::{AccessRole, TokenRecord};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::config::{ConfigError, Open, check_name};
use self::config::{Rules, TokenRule};
pub use self::mutual::Untrusted;
pub use self::oidc::Invalid;
use self::oidc::{Issuer, KeyOfToken};
pub use self::token::{ApiToken, PREFIX as API_TOKEN_PREFIX};
use crate::clock;
use crate::tls::clients::ClientCertificates;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The rules in force, and what follows them.
pub struct Access {
    /// Absent where the configuration names no file: then nobody may read.
    path: Option<PathBuf>,
    listen: IpAddr,
    rules: RwLock<Arc<InForce>>,
    /// Whether TLS asks for certificates follows the file, too.
    clients: Arc<ClientCertificates>,
    /// When each token was last used, by its SHA-256.
    used: Mutex<BTreeMap<Digest, u64>>,
    /// Counts the files that were taken over.
    changes: watch::Sender<u64>,
    /// What the files were when they were read.
    seen: Mutex<Vec<Option<Stamp>>>,
}

/// What tells a file from the one that was read before: a rename gives another inode, an edit another time.
type Stamp = (u64, u64, i64, i64);

#[derive(Default)]
struct InForce {
    rules: Rules,
    issuer: Option<Arc<Issuer>>,
}

/// Somebody who may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `token grafana`, `oidc SUBJECT`, `certificate NAME`.
    pub name: String,
    pub role: AccessRole,
    /// What it may see, each with all below it.
    pub scopes: Vec<Scope>,
    /// From then on it has to be shown anew.
    pub ends_at_ms: Option<u64>,
}

/// What a request shows, besides agents' tokens, which the log knows.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    Nothing,
    Token(&'a ApiToken),
    Jwt(&'a str),
    Certificate(&'a [CertificateDer<'static>]),
}

/// Why whoever asks may not. The texts tell what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "reading takes an identity, and none was shown: send \"Authorization: Bearer TOKEN\" with an API token \
         (`tagout token new NAME --role viewer --access FILE` makes one on the node's machine), or a token of the issuer or a \
         client certificate, where the node's access file names them. What stops agents needs none: it is signed"
    )]
    Nobody,
    #[error(
        "nobody may read from this node: its tagout.toml has no line access = \"access.toml\". Make the file with \
         `tagout token new NAME --role operator --access access.toml` beside tagout.toml, add the line, and start the node again"
    )]
    NoFile,
    #[error("the API token is none of this node's: it was revoked, or is another node's or deployment's")]
    UnknownToken,
    #[error("the API token {name:?} ended at {}: make another with `tagout token new`", format_instant_ms(*.at_ms))]
    Ended { name: String, at_ms: u64 },
    #[error("the bearer token is refused: {0}")]
    Invalid(#[from] Invalid),
    #[error(
        "the bearer token is no API token ({API_TOKEN_PREFIX}…), and this node's access file names no issuer ([oidc]) of others"
    )]
    NoIssuer,
    #[error("the client certificate is refused: {0}")]
    Untrusted(#[from] Untrusted),
    #[error(
        "{who} is known and has no role here: the access file's {section} says who is viewer and who is operator"
    )]
    NoRole { who: String, section: &'static str },
}

/// What was shown, with all that it takes to judge it. That may cost a signature: see [`Ready::costs`].
pub struct Ready<'a> {
    in_force: Arc<InForce>,
    shown: Shown<'a>,
    key: Option<KeyOfToken>,
}

impl Ready<'_> {
    /// Whether signatures are verified to judge it.
    pub fn costs(&self) -> bool {
        match self.shown {
            Shown::Nothing | Shown::Token(_) => false,
            Shown::Jwt(_) | Shown::Certificate(_) => true,
        }
    }
}

impl Access {
    /// Reads the file of a node that listens on `listen`. A wrong one keeps the node from starting; without one nobody reads.
    pub fn load(
        path: Option<&Path>,
        listen: IpAddr,
        clients: Arc<ClientCertificates>,
    ) -> Result<Arc<Self>, ConfigError> {
        let seen = path.map(stamp);
        let in_force = match path {
            Some(path) => InForce::new(Rules::load(path, listen)?, None)?,
            None => InForce::default(),
        };
        let seen = seen.into_iter().chain(in_force.rules.files.iter().map(|file| stamp(file))).collect();
        let access = Self {
            path: path.map(Path::to_owned),
            listen,
            rules: RwLock::default(),
            clients,
            used: Mutex::default(),
            changes: watch::Sender::new(0),
            seen: Mutex::new(seen),
        };
        access.put_in_force(in_force);
        Ok(Arc::new(access))
    }

    /// Starts to fetch the issuer's keys, and follows the file until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        if let Some(issuer) = &self.rules.read().issuer {
            tokio::spawn(Arc::clone(issuer).follow());
        }
        let Some(path) = self.path.clone() else { return };
        let (mut tick, mut refused) = (tokio::time::interval(LOOK_EVERY), None);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            let (this, at) = (Arc::clone(&self), path.clone());
            let taken = match crate::blocking(move || Ok(this.look(&at))).await {
                Ok(None) => continue,
                Ok(Some(rules)) => rules.and_then(|rules| self.take_over(rules)),
                Err(error) => {
                    tracing::error!(%error, "the access file could not be looked at");
                    continue;
                }
            };
            metrics::gauge!("tagout_access_refused_file").set(f64::from(u8::from(taken.is_err())));
            let error = taken.err().map(|error| format!("{:#}", anyhow::Error::from(error)));
            match &error {
                None => tracing::info!(path = %path.display(), "took over the access file"),
                Some(error) if refused.as_ref() != Some(error) => {
                    tracing::error!(
                        error,
                        "the access file is NOT taken over; who could read before still can, and nobody else"
                    );
                }
                Some(_) => {}
            }
            refused = error;
        }
        if let Some(issuer) = &self.rules.read().issuer {
            issuer.end();
        }
    }

    /// What the files say, if they are others than before.
    fn look(&self, path: &Path) -> Option<Result<Rules, ConfigError>> {
        let files = std::iter::once(path.to_owned()).chain(self.rules.read().rules.files.clone());
        let now: Vec<_> = files.map(|file| stamp(&file)).collect();
        if *self.seen.lock() == now {
            return None;
        }
        let rules = Rules::load(path, self.listen);
        *self.seen.lock() = match &rules {
            Ok(rules) => now[..1].iter().copied().chain(rules.files.iter().map(|file| stamp(file))).collect(),
            Err(_) => now,
        };
        Some(rules)
    }

    fn take_over(&self, rules: Rules) -> Result<(), ConfigError> {
        let before = self.rules.read().issuer.clone();
        let in_force = InForce::new(rules, before.clone())?;
        let (old, new) = (before, in_force.issuer.clone());
        self.put_in_force(in_force);
        if !same(old.as_ref(), new.as_ref()) {
            if let Some(old) = old {
                old.end();
            }
            if let Some(new) = new {
                tokio::spawn(new.follow());
            }
        }
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn put_in_force(&self, in_force: InForce) {
        self.clients.ask(in_force.rules.mtls.is_some());
        self.used.lock().retain(|token, _| in_force.rules.tokens.contains_key(token));
        *self.rules.write() = Arc::new(in_force);
    }

    /// Whether anybody may read this.
    pub fn is_open(&self, what: Open) -> bool {
        let rules = self.rules.read();
        rules.rules.open.contains(&what) || rules.rules.open.contains(&Open::All)
    }

    /// Whether what gives takes an operator's identity besides its signatures.
    pub fn commands_need_bearer(&self) -> bool {
        self.rules.read().rules.commands_need_bearer
    }

    /// Gathers what it takes to judge this. A moment may pass while an issuer's key is fetched.
    pub async fn prepare<'a>(&self, shown: Shown<'a>) -> Result<Ready<'a>, Refused> {
        if self.path.is_none() {
            return Err(Refused::NoFile);
        }
        let in_force = Arc::clone(&self.rules.read());
        let key = match shown {
            Shown::Jwt(token) => {
                let issuer = in_force.issuer.as_ref().ok_or(Refused::NoIssuer)?;
                Some(issuer.key_of(token).await?)
            }
            Shown::Nothing | Shown::Token(_) | Shown::Certificate(_) => None,
        };
        Ok(Ready { in_force, shown, key })
    }

    /// Who it is that shows this.
    pub fn judge(&self, ready: &Ready<'_>) -> Result<Identity, Refused> {
        let Ready { in_force, shown, key } = ready;
        match *shown {
            Shown::Nothing => Err(Refused::Nobody),
            Shown::Token(token) => self.by_token(&in_force.rules, &token.digest()),
            Shown::Jwt(token) => {
                let (Some(issuer), Some(key)) = (&in_force.issuer, key) else {
                    return Err(Refused::NoIssuer);
                };
                let claims = issuer.verify(token, key)?;
                let name = format!("oidc {}", claims.subject);
                let no_role = || Refused::NoRole { who: name.clone(), section: "[oidc]" };
                let role = claims.role.ok_or_else(no_role)?;
                Ok(Identity {
                    name,
                    role,
                    scopes: vec![Scope::fleet()],
                    ends_at_ms: Some(claims.expires_at_ms),
                })
            }
            Shown::Certificate(chain) => {
                // One that nobody asked for, from a session of before.
                let mtls = in_force.rules.mtls.as_ref().ok_or(Refused::Nobody)?;
                let names = mtls.cas.names(chain, UnixTime::now())?;
                let role = mtls.roles.of(names.iter().map(String::as_str));
                let name: String = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let name = format!(
                    "certificate {}",
                    name.chars().filter(|c| !c.is_control()).take(128).collect::<String>()
                );
                let no_role = || Refused::NoRole { who: name.clone(), section: "[mtls]" };
                let role = role.ok_or_else(no_role)?;
                Ok(Identity { name, role, scopes: vec![Scope::fleet()], ends_at_ms: None })
            }
        }
    }

    fn by_token(&self, rules: &Rules, digest: &Digest) -> Result<Identity, Refused> {
        let TokenRule { name, role, scopes, expires_at_ms } =
            rules.tokens.get(digest).cloned().ok_or(Refused::UnknownToken)?;
        let now_ms = clock::wall_ms();
        if expires_at_ms <= now_ms {
            return Err(Refused::Ended { name, at_ms: expires_at_ms });
        }
        self.used.lock().insert(*digest, now_ms);
        Ok(Identity { name: format!("token {name}"), role, scopes, ends_at_ms: Some(expires_at_ms) })
    }

    /// The API tokens, by name.
    pub fn tokens(&self) -> Vec<TokenRecord> {
        let (in_force, used) = (Arc::clone(&self.rules.read()), self.used.lock());
        let record = |(digest, rule): (&Digest, &TokenRule)| TokenRecord {
            name: rule.name.clone(),
            role: rule.role,
            scopes: rule.scopes.clone(),
            expires_at_ms: rule.expires_at_ms,
            last_used_ms: used.get(digest).copied(),
        };
        let mut tokens: Vec<_> = in_force.rules.tokens.iter().map(record).collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        tokens
    }

    /// Waits until another file is in force: whoever listens shows anew who they are.
    pub async fn changed(self: Arc<Self>) {
        let mut changes = self.changes.subscribe();
        let seen = *changes.borrow_and_update();
        // The sender lives as long as this.
        let _ = changes.wait_for(|changes| *changes > seen).await;
    }
}

impl InForce {
    /// An issuer that stays keeps its keys.
    fn new(rules: Rules, before: Option<Arc<Issuer>>) -> Result<Self, ConfigError> {
        let issuer = match (&rules.oidc, before) {
            (Some(rule), Some(before)) if before.rule == *rule => Some(before),
            (Some(rule), _) => Some(Issuer::new(rule.clone()).map_err(ConfigError::Oidc)?),
            (None, _) => None,
        };
        Ok(Self { rules, issuer })
    }
}

fn same(old: Option<&Arc<Issuer>>, new: Option<&Arc<Issuer>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

/// Whether a node would take this text as the file at `path`.
pub fn check(path: &Path, text: &str) -> Result<(), ConfigError> {
    Rules::parse(path, text).map(drop)
}

/// A new file, with what is to stand in it.
pub fn new_file(open: &str, entries: &str) -> String {
    format!(
        "\
# Who may read from this node (\"Who may read\" in README.md). It is looked at again while the node serves; a file that is
# wrong is not taken over, and the node says so in its log. What stops agents needs nothing of this: it is signed.

# What anybody may read who reaches the node: \"log\" for whoever verifies it, \"metrics\"; \"all\" on loopback only.
open = [{open}]

# What gives (release, start, grant, enroll, authority) takes an operator's identity besides its signatures.
# commands_need_bearer = true

# Tokens of an OIDC issuer, and what in them makes somebody a viewer or an operator.
# [oidc]
# issuer = \"https://id.example/realms/ops\"
# audience = \"tagout\"
# roles_claim = \"groups\"
# viewer = [\"engineering\"]
# operator = [\"on-call\"]

# Client certificates, by a DNS name, URI or mail address in them, or their common name.
# [mtls]
# ca = \"clients-ca.pem\"
# viewer = [\"grafana.example\"]

# API tokens, each by its SHA-256: `tagout token new NAME --role viewer --access FILE` adds one.
{entries}"
    )
}

/// The lines of a token.
pub fn token_lines(
    name: &str,
    token: &Digest,
    role: AccessRole,
    scopes: &[Scope],
    expires_at_ms: u64,
) -> String {
    let role = match role {
        AccessRole::Viewer => "viewer",
        AccessRole::Operator => "operator",
    };
    let scopes: Vec<_> =
        scopes.iter().filter(|scope| !scope.is_fleet()).map(|s| format!("\"{s}\"")).collect();
    let scopes = match scopes.is_empty() {
        true => String::new(),
        false => format!("scopes = [{}]\n", scopes.join(", ")),
    };
    let expires = format_instant_ms(expires_at_ms);
    format!(
        "\n[[token]]\nname = \"{name}\"\nsha256 = \"{token}\"\nrole = \"{role}\"\n{scopes}expires = \"{expires}\"\n"
    )
}

#[cfg(test)]
mod tests;
