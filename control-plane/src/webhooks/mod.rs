//! Security platforms take away by webhook: what one asks for becomes a command, signed on this node in the name of an
//! automation, and goes the way of every command. So a webhook can do what its automation's role allows and no more, and
//! never gives anything back (S7).
//!
//! ```text
//! verified (standard.rs) → mapped (mapping.rs) → its scope allowed → not too much at once (blast.rs) → signed → step ② of a stop
//! ```
//!
//! An OpenC2 producer (openc2/) asks by another language and shows a token; from its scope on all is the same.
//!
//! Of one request every node makes the same bytes: its id and time are the request's. So a request that is captured and sent
//! again, to whichever node, is the same command, which takes effect once. A sender that tries again says another time: the
//! node that has seen the id takes the first one's.

mod blast;
mod config;
mod mapping;
pub mod openc2;
mod standard;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tagout_proto::authority::{Authority, PrincipalKind};
use tagout_proto::command::{Action, Deployment, LockCommand};
use tagout_proto::envelope::Envelope;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{NAMESPACE, PublicKey};
use tagout_proto::strict::DocumentError;

use self::blast::Taken;
pub use self::blast::TooMany;
pub use self::config::ConfigError;
use self::mapping::Mapping;
pub use self::mapping::{Unmapped, Wanted};
use self::openc2::Producer;
use self::standard::Key;
pub use self::standard::{Headers, Refused, Sent};
use crate::document;
use crate::sign::{SignError, Signer};

/// All that this node takes.
#[derive(Default)]
pub struct Webhooks {
    webhooks: BTreeMap<String, Webhook>,
    producers: Vec<Producer>,
}

/// One `[[webhook]]`.
pub struct Webhook {
    pub integration: Integration,
    keys: Vec<Key>,
    mapping: Mapping,
}

/// What acts in the name of an automation, whichever way it asks.
pub struct Integration {
    pub which: Which,
    signer: Signer,
    scopes: Vec<Scope>,
    agents_per_hour: u64,
    taken: Mutex<Taken>,
    /// When each request was first sent, by its id, and when that was noted.
    sent: Mutex<BTreeMap<String, (u64, u64)>>,
    turns: Mutex<BTreeMap<(Scope, String), Arc<Turn>>>,
}

/// Of what kind it is, and its name; as text, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    pub kind: Kind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Webhook,
    Openc2,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Webhook => "webhook",
            Kind::Openc2 => "OpenC2 producer",
        };
        write!(f, "{kind} {:?}", self.name)
    }
}

/// Of requests of one case on one scope.
type Turn = tokio::sync::Mutex<()>;

/// Requests whose first time is remembered, and for how long: senders give up after less.
const SENT_MAX: usize = 10_000;
const SENT_FOR_MS: u64 = 4 * 24 * 3600 * 1000;
/// Cases under way, about.
const TURNS_MAX: usize = 1024;

/// Why a request that was verified and mapped does nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    #[error("it may not touch {scope}: the scopes in its configuration are what it may ({})", .allowed.join(", "))]
    Scope { scope: Scope, allowed: Vec<String> },
    #[error(
        "it signs with a key that is of no automation in the authority: give an automation this key, never a person's"
    )]
    NoAutomation,
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the automation's key cannot sign")]
    Sign(#[from] SignError),
}

impl Webhooks {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        config::load(path)
    }

    pub fn get(&self, name: &str) -> Option<&Webhook> {
        self.webhooks.get(name)
    }

    pub fn producers(&self) -> &[Producer] {
        &self.producers
    }

    /// Says of which ones every request will be refused, as this authority has it.
    pub fn warn_of_keys(&self, authority: &Authority) {
        let webhooks = self.webhooks.values().map(|webhook| &webhook.integration);
        let producers = self.producers.iter().map(|producer| &producer.integration);
        for integration in webhooks.chain(producers) {
            if let Err(why) = integration.principal(authority) {
                tracing::warn!(which = %integration.which, "until the authority says otherwise it can do nothing: {why}");
            }
        }
    }
}

impl Webhook {
    pub fn verify<'a>(&self, headers: &Headers<'a>, body: &[u8], now_ms: u64) -> Result<Sent<'a>, Refused> {
        standard::verify(&self.keys, headers, body, now_ms / 1000)
    }

    /// What the body asks for; `None` where that is nothing.
    pub fn wanted(&self, body: &Value) -> Result<Option<Wanted>, Unmapped> {
        self.mapping.wanted(body)
    }

    /// Which scope and case the body is about, as far as it says so.
    pub fn about(&self, body: &Value) -> Option<String> {
        self.mapping.about(body)
    }
}

impl Integration {
    fn new(which: Which, signer: Signer, scopes: Vec<Scope>, agents_per_hour: u64) -> Self {
        let (taken, sent, turns) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { which, signer, scopes, agents_per_hour, taken, sent, turns }
    }

    /// Waits for the turn of this case on this scope: whoever comes second finds what the first has placed.
    pub async fn turn(&self, wanted: &Wanted) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            if turns.len() >= TURNS_MAX {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            Arc::clone(turns.entry((wanted.scope.clone(), wanted.case.clone())).or_default())
        };
        turn.lock_owned().await
    }

    /// The automation in whose name it acts.
    pub fn principal<'a>(&self, authority: &'a Authority) -> Result<&'a str, NotDone> {
        let line = self.signer.public_key().line();
        let principal = PublicKey::parse_openssh(&line).ok().and_then(|key| authority.principal_of(&key));
        let automation = principal.filter(|principal| principal.kind == PrincipalKind::Automation);
        automation.map(|automation| automation.name.as_str()).ok_or(NotDone::NoAutomation)
    }

    /// Whether it may do this now, which counts then. `in_force` is where its locks of the last hour are, `agents` all that
    /// live; both as one node knows them.
    pub fn allow(
        &self,
        wanted: &Wanted,
        in_force: &BTreeSet<Scope>,
        agents: &BTreeSet<Scope>,
        now_ms: u64,
    ) -> Result<(), NotDone> {
        let Self { scopes, agents_per_hour, .. } = self;
        if !scopes.iter().any(|allowed| allowed.covers(&wanted.scope)) {
            let allowed = scopes.iter().map(ToString::to_string).collect();
            return Err(NotDone::Scope { scope: wanted.scope.clone(), allowed });
        }
        Ok(self.taken.lock().add(&wanted.scope, in_force, agents, *agents_per_hour, now_ms)?)
    }

    fn first_sent_s(&self, sent: &Sent<'_>, now_ms: u64) -> u64 {
        let mut first = self.sent.lock();
        if first.len() >= SENT_MAX {
            first.retain(|_, (_, noted_ms)| *noted_ms + SENT_FOR_MS > now_ms);
        }
        // Of more within that time the one that goes is any: it may be sent again with another time then.
        if first.len() >= SENT_MAX {
            first.pop_first();
        }
        first.entry(sent.id.to_owned()).or_insert((sent.at_s, now_ms)).0
    }

    /// The command, signed.
    pub fn sign(
        &self,
        deployment: &Deployment,
        sent: &Sent<'_>,
        wanted: Wanted,
        now_ms: u64,
    ) -> Result<Envelope, NotDone> {
        let name = &self.which.name;
        let Wanted { scope, kind, reason, case } = wanted;
        let id = data_encoding::HEXLOWER.encode(&Sha256::digest(sent.id));
        let action = Action::Lock(LockCommand { scope, kind, reason, case: Some(case) });
        let document = document::build(
            deployment,
            &format!("{name}:{}", &id[..32]),
            self.first_sent_s(sent, now_ms) * 1000,
            &action,
        )?;
        let signature = self.signer.sign(NAMESPACE, document.as_bytes())?;
        Ok(Envelope { document, signatures: vec![signature] })
    }
}

#[cfg(test)]
mod fuzz;
