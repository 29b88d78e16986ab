//! The authority: the signed document that says who may do what, and which node keys may speak for the service.
//!
//! Version 1 is the genesis. Its SHA-256 names the deployment and is what an SDK pins; everything else follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::{ActionKind, DOCUMENT_VERSION, Deployment};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::limits::*;
use crate::note::VerifierKey;
use crate::scope::Scope;
use crate::sshsig::{PublicKey, SshSignature, SshsigError};
use crate::strict::{self, DocumentError, Fields};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub deployment: Deployment,
    pub version: u64,
    /// SHA-256 of the document.
    pub digest: Digest,
    pub principals: Vec<Principal>,
    pub roles: Vec<Role>,
    pub root: Root,
    pub nodes: Vec<Node>,
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub name: String,
    pub kind: PrincipalKind,
    pub keys: Vec<PublicKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    Person,
    Automation,
}

/// Who may do which actions on which scopes, and how many of them it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    pub principals: Vec<String>,
    pub actions: Vec<ActionKind>,
    pub scopes: Vec<Scope>,
    pub threshold: u64,
}

/// The offline keys that sign authority documents, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub signers: Vec<RootSigner>,
    pub threshold: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSigner {
    pub name: String,
    pub key: PublicKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its Raft id; never used again once its store is lost.
    pub id: u64,
    pub key: VerifierKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long a lease lets a guard allow calls.
    pub ttl_ms: u64,
    /// How long calls in flight may outlive a lapsed lease.
    pub lapse_grace_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("the genesis has SHA-256 {found}, but {pinned} is pinned: this is not the deployment you trust")]
    NotThePinnedGenesis { found: Digest, pinned: Digest },
    #[error("the authority has {have} of {need} root signatures; missing are signatures of {missing}")]
    RootThreshold { have: u64, need: u64, missing: String },
}

/// A principal that signed, by one of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer<'a> {
    pub principal: &'a Principal,
    pub key: PublicKey,
}

/// Every signature of an envelope, judged: people count once, however many keys they hold.
#[derive(Clone, Debug, Default)]
pub struct Signers<'a> {
    pub valid: Vec<Signer<'a>>,
    /// What did not count, and why. A stray bad signature never spoils good ones.
    pub refused: Vec<String>,
}

impl Signers<'_> {
    pub fn names(&self) -> Vec<String> {
        self.valid.iter().map(|s| s.principal.name.clone()).collect()
    }
}

/// Why a command's signatures do not suffice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unauthorised {
    #[error("no signature on it is valid: {0}")]
    NoValidSignature(String),
    #[error("{signers} may not {action} {scope}: that takes {takes}")]
    NoRole { signers: String, action: ActionKind, scope: Scope, takes: String },
    #[error(
        "{action} {scope} takes {need} people of role {role:?} and {have} signed; missing: {missing_count} more of {missing}"
    )]
    BelowThreshold {
        action: ActionKind,
        scope: Scope,
        role: String,
        have: u64,
        need: u64,
        missing_count: u64,
        missing: String,
    },
}

impl Authority {
    /// Reads and checks the genesis that `pinned` names, its root signatures included.
    pub fn genesis(envelope: &Envelope, pinned: Digest) -> Result<Self, AuthorityError> {
        let found = envelope.digest();
        if found != pinned {
            return Err(AuthorityError::NotThePinnedGenesis { found, pinned });
        }
        envelope.check_bounds()?;
        let authority = Self::parse_genesis(&envelope.document)?;
        authority.root.check(envelope)?;
        Ok(authority)
    }

    /// Reads a genesis document without judging signatures: what `tagout init` shows before people sign it.
    pub fn parse_genesis(document: &str) -> Result<Self, DocumentError> {
        let bytes = document.as_bytes();
        if bytes.len() > COMMAND_MAX_BYTES {
            let (size, limit) = (bytes.len(), COMMAND_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "an authority", size, limit });
        }
        let mut fields = strict::object(bytes, "the authority")?;
        fields.number("tagout", DOCUMENT_VERSION..=DOCUMENT_VERSION)?;
        if fields.text("action", 16)? != "authority" {
            return Err(fields.wrong("action", "authority"));
        }
        let deployment = Deployment { name: fields.name("deployment")?, genesis: Digest::of(bytes) };
        let version = fields.number("version", 1..=1)?;
        fields.instant_ms("issued_at")?;
        let principals = fields
            .objects("principals", PRINCIPALS_MAX)?
            .into_iter()
            .map(principal)
            .collect::<Result<_, _>>()?;
        let roles = fields.objects("roles", ROLES_MAX)?.into_iter().map(role).collect::<Result<_, _>>()?;
        let root = root(fields.object("root")?)?;
        let nodes = fields.objects("nodes", NODES_MAX)?.into_iter().map(node).collect::<Result<_, _>>()?;
        let limits = limits(fields.object("limits")?)?;
        fields.finish()?;
        let authority =
            Self { deployment, version, digest: Digest::of(bytes), principals, roles, root, nodes, limits };
        authority.check()?;
        Ok(authority)
    }

    /// What no field can say alone.
    fn check(&self) -> Result<(), DocumentError> {
        let invalid = |text: String| Err(DocumentError::Invalid(text));
        let mut owners: BTreeMap<[u8; 32], String> = BTreeMap::new();
        let keys = (self.principals.iter())
            .flat_map(|p| p.keys.iter().map(|k| (*k.raw(), format!("principal {:?}", p.name))))
            .chain(self.root.signers.iter().map(|s| (*s.key.raw(), format!("root signer {:?}", s.name))))
            .chain(self.nodes.iter().map(|n| (n.key.key, format!("node {:?}", n.key.name))));
        for (key, owner) in keys {
            // One key under two names would let one person count twice, or an online key sign offline documents.
            if let Some(first) = owners.insert(key, owner.clone()) {
                return invalid(format!(
                    "one key stands twice: for {first} and for {owner}; every key has one owner"
                ));
            }
        }
        unique("principal", self.principals.iter().map(|p| p.name.as_str()))?;
        unique("role", self.roles.iter().map(|r| r.name.as_str()))?;
        unique("root signer", self.root.signers.iter().map(|s| s.name.as_str()))?;
        unique("node", self.nodes.iter().map(|n| n.key.name.as_str()))?;
        let ids: BTreeSet<u64> = self.nodes.iter().map(|n| n.id).collect();
        if ids.len() != self.nodes.len() {
            return invalid("two nodes have one id".into());
        }
        if self.root.threshold > self.root.signers.len() as u64 {
            return invalid(format!(
                "the root threshold is {} of {}",
                self.root.threshold,
                self.root.signers.len()
            ));
        }
        for role in &self.roles {
            unique("principal of a role", role.principals.iter().map(String::as_str))?;
            let loosens = role.actions.iter().any(|a| a.loosens());
            for name in &role.principals {
                match self.principals.iter().find(|p| &p.name == name) {
                    None => {
                        return invalid(format!("role {:?} names {name:?}, who is no principal", role.name));
                    }
                    // S7: automation may take away, only people give back.
                    Some(p) if loosens && p.kind == PrincipalKind::Automation => {
                        return invalid(format!(
                            "role {:?} can release, start or grant, and {name:?} is automation: automation may only tighten",
                            role.name
                        ));
                    }
                    Some(_) => {}
                }
            }
            if role.threshold > role.principals.len() as u64 {
                return invalid(format!(
                    "role {:?} needs {} of {} principals",
                    role.name,
                    role.threshold,
                    role.principals.len()
                ));
            }
            if role.threshold > 1 && role.actions.iter().any(|a| !a.loosens()) {
                return invalid(format!(
                    "role {:?} asks {} signatures for tightening, which always takes one: give it a role of its own",
                    role.name, role.threshold
                ));
            }
        }
        Ok(())
    }

    pub fn principal_of(&self, key: &PublicKey) -> Option<&Principal> {
        self.principals.iter().find(|p| p.keys.contains(key))
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.key.name == name)
    }

    /// Verifies every signature of `envelope` and says whose they are.
    pub fn signers(&self, envelope: &Envelope) -> Signers<'_> {
        let mut signers = Signers::default();
        for armored in &envelope.signatures {
            let signature = match SshSignature::parse(armored) {
                Ok(signature) => signature,
                Err(error) => {
                    signers.refused.push(error.to_string());
                    continue;
                }
            };
            // Whose it claims to be comes first: a flood of strangers' signatures must cost no curve arithmetic (S10).
            let key = signature.claimed_key();
            match self.principal_of(key) {
                None => signers.refused.push(format!(
                    "key {} belongs to no principal of this deployment; `tagout key show --key KEY` tells whose one is",
                    key.fingerprint()
                )),
                Some(principal) if signers.valid.iter().any(|s| s.principal.name == principal.name) => {
                    signers.refused.push(format!("{} signed twice and counts once", principal.name));
                }
                Some(principal) => match signature.verify(envelope.document.as_bytes()) {
                    Ok(proven) => signers.valid.push(Signer { principal, key: proven.key }),
                    Err(error) => signers.refused.push(format!("{}: {error}", principal.name)),
                },
            }
        }
        signers
    }

    /// Whether `signers` may do `action` on `scope`; if not, the way to get there.
    pub fn authorise(
        &self,
        action: ActionKind,
        scope: &Scope,
        signers: &Signers<'_>,
    ) -> Result<(), Unauthorised> {
        if signers.valid.is_empty() {
            return Err(Unauthorised::NoValidSignature(signers.refused.join("; ")));
        }
        let mut nearest: Option<(u64, &Role)> = None;
        let gives = |r: &&Role| r.actions.contains(&action) && r.scopes.iter().any(|s| s.covers(scope));
        for role in self.roles.iter().filter(gives) {
            let have =
                signers.valid.iter().filter(|s| role.principals.contains(&s.principal.name)).count() as u64;
            if have >= role.threshold {
                return Ok(());
            }
            if have > 0 && nearest.is_none_or(|(best, r)| role.threshold - have < r.threshold - best) {
                nearest = Some((have, role));
            }
        }
        Err(match nearest {
            None => {
                let takes: Vec<_> = (self.roles.iter().filter(gives))
                    .map(|r| format!("{} of {} (role {:?})", r.threshold, r.principals.join(", "), r.name))
                    .collect();
                let takes = match takes.as_slice() {
                    [] => "a role that this authority does not have".into(),
                    takes => takes.join(", or "),
                };
                Unauthorised::NoRole {
                    signers: signers.names().join(", "),
                    action,
                    scope: scope.clone(),
                    takes,
                }
            }
            Some((have, role)) => {
                let signed = signers.names();
                let missing: Vec<_> =
                    role.principals.iter().filter(|p| !signed.contains(p)).cloned().collect();
                Unauthorised::BelowThreshold {
                    action,
                    scope: scope.clone(),
                    role: role.name.clone(),
                    have,
                    need: role.threshold,
                    missing_count: role.threshold - have,
                    missing: missing.join(", "),
                }
            }
        })
    }
}

impl Root {
    /// Whether enough root signers signed `envelope`; each counts once.
    fn check(&self, envelope: &Envelope) -> Result<(), AuthorityError> {
        let keys: BTreeSet<PublicKey> =
            envelope.signatures.iter().filter_map(|s| verify(s, &envelope.document).ok()).collect();
        let (signed, missing): (Vec<_>, Vec<_>) = self.signers.iter().partition(|s| keys.contains(&s.key));
        let have = signed.len() as u64;
        if have >= self.threshold {
            return Ok(());
        }
        let missing = missing.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(AuthorityError::RootThreshold { have, need: self.threshold, missing })
    }
}

fn verify(armored: &str, document: &str) -> Result<PublicKey, SshsigError> {
    Ok(SshSignature::parse(armored)?.verify(document.as_bytes())?.key)
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), DocumentError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(DocumentError::Invalid(format!("{what} {name:?} stands twice")));
        }
    }
    Ok(())
}

fn key(fields: &Fields, key: &'static str, text: &str) -> Result<PublicKey, DocumentError> {
    PublicKey::parse_openssh(text).map_err(|e| fields.wrong(key, format!("an OpenSSH public key line ({e})")))
}

fn principal(mut fields: Fields) -> Result<Principal, DocumentError> {
    let name = fields.name("name")?;
    let kind = match fields.text("kind", 16)?.as_str() {
        "person" => PrincipalKind::Person,
        "automation" => PrincipalKind::Automation,
        _ => return Err(fields.wrong("kind", "person or automation")),
    };
    let lines = fields.texts("keys", KEYS_PER_PRINCIPAL_MAX)?;
    let keys = lines.iter().map(|line| key(&fields, "keys", line)).collect::<Result<_, _>>()?;
    fields.finish()?;
    Ok(Principal { name, kind, keys })
}

fn role(mut fields: Fields) -> Result<Role, DocumentError> {
    let name = fields.name("name")?;
    let principals = fields.texts("principals", PRINCIPALS_MAX)?;
    let mut actions = Vec::new();
    for text in fields.texts("actions", ActionKind::ALL.len())? {
        let known = || ActionKind::ALL.map(ActionKind::name).join(", ");
        let action = ActionKind::parse(&text)
            .ok_or_else(|| fields.wrong("actions", format!("some of: {}", known())))?;
        actions.push(action);
    }
    let mut scopes = Vec::new();
    for text in fields.texts("scopes", 64)? {
        scopes.push(Scope::parse(&text)?);
    }
    let threshold = fields.number("threshold", 1..=PRINCIPALS_MAX as u64)?;
    fields.finish()?;
    Ok(Role { name, principals, actions, scopes, threshold })
}

fn root(mut fields: Fields) -> Result<Root, DocumentError> {
    let mut signers = Vec::new();
    for mut fields in fields.objects("signers", ROOT_KEYS_MAX)? {
        let name = fields.name("name")?;
        let line = fields.text("key", 1024)?;
        let key = key(&fields, "key", &line)?;
        fields.finish()?;
        signers.push(RootSigner { name, key });
    }
    let threshold = fields.number("threshold", 1..=ROOT_KEYS_MAX as u64)?;
    fields.finish()?;
    Ok(Root { signers, threshold })
}

fn node(mut fields: Fields) -> Result<Node, DocumentError> {
    let id = fields.number("id", 1..=u64::MAX)?;
    let text = fields.text("key", 256)?;
    let key =
        text.parse().map_err(|e| fields.wrong("key", format!("a verifier key of a signed note ({e})")))?;
    fields.finish()?;
    Ok(Node { id, key })
}

fn limits(mut fields: Fields) -> Result<Limits, DocumentError> {
    let ttl_ms = fields.number("ttl_ms", TTL_MIN_MS..=TTL_MAX_MS)?;
    let lapse_grace_ms = fields.number("lapse_grace_ms", 0..=LAPSE_GRACE_MAX_MS)?;
    fields.finish()?;
    Ok(Limits { ttl_ms, lapse_grace_ms })
}
