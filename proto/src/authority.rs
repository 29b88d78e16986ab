//! The authority: the signed document that says who may do what, and which node keys may speak for the service.
//!
//! Version 1 is the genesis. Its SHA-256 names the deployment and is what an SDK pins; everything else follows from it.
//! Version n + 1 holds the hash of n and is signed by the root thresholds of both (as TUF's root is). How versions follow
//! one another is in `trust.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::address;
use crate::command::{ActionKind, Deployment};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::limits::*;
use crate::note::VerifierKey;
use crate::scope::Scope;
use crate::sshsig::{NAMESPACE, Proven, PublicKey, SshSignature};
use crate::strict::{self, DocumentError, Fields};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    pub deployment: Deployment,
    pub version: u64,
    /// SHA-256 of the document.
    pub digest: Digest,
    pub issued_at_ms: u64,
    /// What only later versions have.
    pub succession: Option<Succession>,
    pub principals: Vec<Principal>,
    pub roles: Vec<Role>,
    pub root: Root,
    pub nodes: Vec<Node>,
    pub limits: Limits,
    /// Leases are for enrolled agents only.
    pub enrolment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// SHA-256 of the version before.
    pub previous: Digest,
    /// Agents that lose their last consent by this change, at most: what the signers were told.
    pub disables: u64,
    pub retired: Vec<Retired>,
    pub reason: Option<String>,
}

/// A key that signs nothing new and goes on to count on some grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub key: PublicKey,
    /// Whose it was, and still a principal.
    pub principal: String,
    pub grants: Vec<Digest>,
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
    /// Signatures count only from security keys that were touched (the user presence flag of FIDO2).
    pub presence: bool,
    /// Signatures count only from security keys that saw a PIN or a finger (the user verification flag).
    pub verification: bool,
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
    /// Where the other nodes reach it, `host:port`. Only a node that stands alone may have none.
    pub address: Option<String>,
    /// It receives the log and does not vote.
    pub learner: bool,
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
    #[error(
        "the {what} has {have} of {need} signatures of the root of version {version}; missing are signatures of {missing}"
    )]
    RootThreshold { what: &'static str, version: u64, have: u64, need: u64, missing: String },
}

/// A principal that signed. Each counts once, however many keys it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer<'a> {
    pub principal: &'a Principal,
    pub key: PublicKey,
    /// One of its signatures has the flag.
    pub presence: bool,
    pub verification: bool,
}

/// Every signature of an envelope, judged.
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

/// The signatures of an envelope that verify, whoever's they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proofs {
    pub(crate) proven: Vec<Proven>,
    pub(crate) refused: Vec<String>,
}

impl Proofs {
    /// Verifies the signatures by keys whose `owner` is known. That is asked first: a flood of strangers' signatures must
    /// cost no curve arithmetic (S10).
    pub(crate) fn of<'a>(
        namespace: &str,
        envelope: &Envelope,
        owner: impl Fn(&PublicKey) -> Result<&'a str, String>,
    ) -> Self {
        let mut proofs = Self::default();
        for armored in &envelope.signatures {
            let verified = SshSignature::parse(armored).map_err(|e| e.to_string()).and_then(|signature| {
                let key = signature.claimed_key();
                let owner = owner(key)?;
                if proofs.proven.iter().any(|proven| proven.key == *key) {
                    return Err(format!("{owner} signed twice and counts once"));
                }
                let verified = signature.verify_for(namespace, envelope.document.as_bytes());
                verified.map_err(|error| format!("{owner}: {error}"))
            });
            match verified {
                Ok(proven) => proofs.proven.push(proven),
                Err(why) => proofs.refused.push(why),
            }
        }
        proofs
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
        "{action} {scope} takes {need} people of role {role:?} and {have} signed; missing: {missing_count} more of {missing}{}",
        in_brackets(.untouched)
    )]
    BelowThreshold {
        action: ActionKind,
        scope: Scope,
        role: String,
        have: u64,
        need: u64,
        missing_count: u64,
        missing: String,
        /// Those who signed, but not as the role asks.
        untouched: Option<String>,
    },
}

fn in_brackets(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
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
        authority.check_root(envelope, "authority")?;
        Ok(authority)
    }

    /// Reads a genesis document without judging signatures: what `tagout init` shows before people sign it.
    pub fn parse_genesis(document: &str) -> Result<Self, DocumentError> {
        let authority = Self::parse(document.as_bytes())?;
        if authority.version != 1 {
            let version = authority.version;
            return Err(DocumentError::Invalid(format!(
                "the genesis is version 1, this is version {version}"
            )));
        }
        Ok(authority)
    }

    /// Reads any version without judging signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > COMMAND_MAX_BYTES {
            let (size, limit) = (bytes.len(), COMMAND_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "an authority", size, limit });
        }
        let mut fields = strict::object(bytes, "the authority")?;
        fields.document_version()?;
        if fields.text("action", 16)? != "authority" {
            return Err(fields.wrong("action", "authority"));
        }
        let digest = Digest::of(bytes);
        let version = fields.number("version", 1..=AUTHORITY_VERSIONS_MAX)?;
        // The genesis names the deployment; from then on its digest is part of the name.
        let (deployment, succession) = if version == 1 {
            (Deployment { name: fields.name("deployment")?, genesis: digest }, None)
        } else {
            (fields.deployment()?, Some(succession(&mut fields)?))
        };
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let principals = fields
            .objects("principals", PRINCIPALS_MAX)?
            .into_iter()
            .map(principal)
            .collect::<Result<_, _>>()?;
        let roles = fields.objects("roles", ROLES_MAX)?.into_iter().map(role).collect::<Result<_, _>>()?;
        let root = root(fields.object("root")?)?;
        let nodes = fields.objects("nodes", NODES_MAX)?.into_iter().map(node).collect::<Result<_, _>>()?;
        let limits = limits(fields.object("limits")?)?;
        let enrolment = fields.mark("enrolment")?;
        fields.finish()?;
        let authority = Self {
            deployment,
            version,
            digest,
            issued_at_ms,
            succession,
            principals,
            roles,
            root,
            nodes,
            limits,
            enrolment,
        };
        authority.check()?;
        Ok(authority)
    }

    /// What no field can say alone.
    fn check(&self) -> Result<(), DocumentError> {
        let invalid = |text: String| Err(DocumentError::Invalid(text));
        let mut owners: BTreeMap<[u8; 32], String> = BTreeMap::new();
        let keys = (self.principals.iter())
            .flat_map(|p| p.keys.iter().map(|key| (*key.raw(), format!("principal {:?}", p.name))))
            .chain(
                self.retired().iter().map(|r| (*r.key.raw(), format!("a retired key of {:?}", r.principal))),
            )
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
        for retired in self.retired() {
            if !self.principals.iter().any(|p| p.name == retired.principal) {
                let name = &retired.principal;
                return invalid(format!(
                    "a key of {name:?} is retired, who is no principal: a grant counts for people who are"
                ));
            }
        }
        let ids: BTreeSet<u64> = self.nodes.iter().map(|n| n.id).collect();
        if ids.len() != self.nodes.len() {
            return invalid("two nodes have one id".into());
        }
        unique("the address", self.nodes.iter().filter_map(|n| n.address.as_deref()))?;
        if let Some(node) = self.nodes.iter().find(|n| n.address.is_none() && self.nodes.len() > 1) {
            let name = &node.key.name;
            return invalid(format!(
                "node {name:?} has no \"address\": where there are several nodes, each tells the others where it is"
            ));
        }
        if self.nodes.iter().all(|n| n.learner) {
            return invalid("every node is a learner: one at least must vote".into());
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
                            "role {:?} can release, start, grant or enroll, and {name:?} is automation: automation may only tighten",
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

    /// Every key that may sign documents, with its owner's name: of principals and of root signers.
    pub(crate) fn signing_keys(&self) -> impl Iterator<Item = (&PublicKey, &str)> {
        let principals = self.principals.iter().flat_map(|p| p.keys.iter().map(|key| (key, p.name.as_str())));
        principals.chain(self.root.signers.iter().map(|s| (&s.key, s.name.as_str())))
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.key.name == name)
    }

    pub fn retired(&self) -> &[Retired] {
        self.succession.as_ref().map_or(&[], |succession| &succession.retired)
    }

    /// Verifies every signature of `envelope` and says whose they are.
    pub fn signers(&self, envelope: &Envelope) -> Signers<'_> {
        let digest = envelope.digest();
        let owner = |key: &PublicKey| self.owner(key, &digest).map(|owner| owner.name.as_str());
        let proofs = Proofs::of(NAMESPACE, envelope, owner);
        self.attribute(&proofs, &digest)
    }

    /// Whose signature one by `key` is, on the document `digest`.
    pub(crate) fn owner(&self, key: &PublicKey, digest: &Digest) -> Result<&Principal, String> {
        let retired = || self.retired().iter().find(|r| r.key == *key && r.grants.contains(digest));
        let former = || self.principals.iter().find(|p| Some(&p.name) == retired().map(|r| &r.principal));
        self.principal_of(key).or_else(former).ok_or_else(|| {
            format!(
                "key {} belongs to no principal of this deployment; `tagout key show --key KEY` tells whose one is",
                key.fingerprint()
            )
        })
    }

    /// Says whose proven signatures are; every principal counts once.
    pub(crate) fn attribute(&self, proofs: &Proofs, digest: &Digest) -> Signers<'_> {
        let mut signers = Signers { valid: Vec::new(), refused: proofs.refused.clone() };
        for Proven { key, presence, verification } in &proofs.proven {
            let principal = match self.owner(key, digest) {
                Ok(principal) => principal,
                Err(why) => {
                    signers.refused.push(why);
                    continue;
                }
            };
            match signers.valid.iter_mut().find(|s| s.principal.name == principal.name) {
                // With a second key a person counts no more, but may show what the first one did not.
                Some(signer) => {
                    signer.presence |= presence;
                    signer.verification |= verification;
                    signers.refused.push(format!("{} signed twice and counts once", principal.name));
                }
                None => signers.valid.push(Signer {
                    principal,
                    key: key.clone(),
                    presence: *presence,
                    verification: *verification,
                }),
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
        let gives = |role: &&Role| role.gives(action, scope);
        for role in self.roles.iter().filter(gives) {
            let members = || signers.valid.iter().filter(|s| role.principals.contains(&s.principal.name));
            let have = members().filter(|s| role.takes(s)).count() as u64;
            if have >= role.threshold {
                return Ok(());
            }
            let nearer = nearest.is_none_or(|(best, r)| role.threshold - have < r.threshold - best);
            if members().next().is_some() && nearer {
                nearest = Some((have, role));
            }
        }
        Err(match nearest {
            None => Unauthorised::NoRole {
                signers: signers.names().join(", "),
                action,
                scope: scope.clone(),
                takes: taken_by(self.roles.iter().filter(gives).map(|role| (role, role.threshold))),
            },
            Some((have, role)) => {
                let (counted, not): (Vec<_>, Vec<_>) = (signers.valid.iter())
                    .filter(|s| role.principals.contains(&s.principal.name))
                    .partition(|s| role.takes(s));
                let missing: Vec<_> = (role.principals.iter())
                    .filter(|p| !counted.iter().any(|s| s.principal.name == **p))
                    .cloned()
                    .collect();
                let names = not.iter().map(|s| s.principal.name.as_str()).collect::<Vec<_>>().join(", ");
                let untouched = (!not.is_empty())
                    .then(|| format!("the signature of {names} does not show {}", role.asks_of_keys()));
                Unauthorised::BelowThreshold {
                    action,
                    scope: scope.clone(),
                    role: role.name.clone(),
                    have,
                    need: role.threshold,
                    missing_count: role.threshold - have,
                    missing: missing.join(", "),
                    untouched,
                }
            }
        })
    }

    /// Those among `signers` who count towards `action` on `scope`, be they enough or not.
    pub fn counting<'a>(
        &self,
        action: ActionKind,
        scope: &Scope,
        signers: &Signers<'a>,
    ) -> BTreeSet<&'a str> {
        let roles = || self.roles.iter().filter(|role| role.gives(action, scope));
        let counts =
            |s: &&Signer<'_>| roles().any(|r| r.principals.contains(&s.principal.name) && r.takes(s));
        signers.valid.iter().filter(counts).map(|s| s.principal.name.as_str()).collect()
    }

    /// Whether one of `signers` may refuse that `action` on `scope` is proposed: whoever may sign that, and whoever may stop
    /// what it would let run. It only takes away, so no more is asked of a key than that it signed.
    pub fn authorise_refusal(
        &self,
        action: ActionKind,
        scope: &Scope,
        signers: &Signers<'_>,
    ) -> Result<(), Unauthorised> {
        if signers.valid.is_empty() {
            return Err(Unauthorised::NoValidSignature(signers.refused.join("; ")));
        }
        let gives = |role: &&Role| role.gives(action, scope) || role.gives(ActionKind::Stop, scope);
        let roles = || self.roles.iter().filter(gives);
        if roles().any(|role| signers.valid.iter().any(|s| role.principals.contains(&s.principal.name))) {
            return Ok(());
        }
        Err(Unauthorised::NoRole {
            signers: signers.names().join(", "),
            action: ActionKind::Refuse,
            scope: scope.clone(),
            takes: taken_by(roles().map(|role| (role, 1))),
        })
    }

    /// Whether enough root signers signed `envelope`, each counting once; their names.
    pub(crate) fn check_root(
        &self,
        envelope: &Envelope,
        what: &'static str,
    ) -> Result<Vec<String>, AuthorityError> {
        let Root { signers, threshold } = &self.root;
        let owner = |key: &PublicKey| {
            let signer = signers.iter().find(|s| s.key == *key);
            signer
                .map(|s| s.name.as_str())
                .ok_or_else(|| format!("key {} is no root signer's", key.fingerprint()))
        };
        let proofs = Proofs::of(NAMESPACE, envelope, owner);
        let (signed, missing): (Vec<_>, Vec<_>) =
            signers.iter().partition(|s| proofs.proven.iter().any(|proven| proven.key == s.key));
        let have = signed.len() as u64;
        if have >= *threshold {
            return Ok(signed.into_iter().map(|s| s.name.clone()).collect());
        }
        let missing = missing.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(AuthorityError::RootThreshold { what, version: self.version, have, need: *threshold, missing })
    }
}

/// How many of whom it takes, by each of these roles.
fn taken_by<'a>(roles: impl Iterator<Item = (&'a Role, u64)>) -> String {
    let takes: Vec<_> = roles
        .map(|(role, need)| format!("{need} of {} (role {:?})", role.principals.join(", "), role.name))
        .collect();
    match takes.as_slice() {
        [] => "a role that this authority does not have".into(),
        takes => takes.join(", or "),
    }
}

impl Role {
    fn gives(&self, action: ActionKind, scope: &Scope) -> bool {
        self.actions.contains(&action) && self.scopes.iter().any(|s| s.covers(scope))
    }

    /// Whether a signature shows what this role asks of keys. `ssh-keygen -Y verify` does not look at these flags.
    fn takes(&self, signer: &Signer<'_>) -> bool {
        (!self.presence || signer.presence) && (!self.verification || signer.verification)
    }

    fn asks_of_keys(&self) -> &'static str {
        match self.verification {
            true => "the PIN or finger on a security key that this role asks for",
            false => "the touch of a security key that this role asks for",
        }
    }
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
    let principals = fields.names("principals", PRINCIPALS_MAX)?;
    let mut actions = Vec::new();
    for text in fields.texts("actions", ROLE_ACTIONS_MAX)? {
        let known = || ActionKind::for_roles().map(ActionKind::name).collect::<Vec<_>>().join(", ");
        let action = ActionKind::for_roles()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| fields.wrong("actions", format!("some of: {}", known())))?;
        actions.push(action);
    }
    let mut scopes = Vec::new();
    for text in fields.texts("scopes", 64)? {
        scopes.push(Scope::parse(&text)?);
    }
    let threshold = fields.number("threshold", 1..=PRINCIPALS_MAX as u64)?;
    let (presence, verification) = (fields.flag("presence")?, fields.flag("verification")?);
    fields.finish()?;
    Ok(Role { name, principals, actions, scopes, threshold, presence, verification })
}

/// What a version after the genesis has besides.
fn succession(fields: &mut Fields) -> Result<Succession, DocumentError> {
    let previous = fields.digest("previous")?;
    let disables = fields.number("disables", 0..=u64::MAX)?;
    let mut retired = Vec::new();
    if fields.has("retired") {
        for mut fields in fields.objects("retired", RETIRED_KEYS_MAX)? {
            let line = fields.text("key", 1024)?;
            let key = key(&fields, "key", &line)?;
            let (principal, grants) = (fields.name("principal")?, fields.digests("grants", GRANT_IDS_MAX)?);
            fields.finish()?;
            retired.push(Retired { key, principal, grants });
        }
    }
    Ok(Succession { previous, disables, retired, reason: fields.opt_text("reason", REASON_MAX_BYTES)? })
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
    let address = fields.opt_text("address", ADDRESS_MAX_BYTES)?;
    if !address.as_deref().is_none_or(address::is_address) {
        return Err(fields.wrong("address", address::SHAPE));
    }
    let learner = fields.mark("learner")?;
    fields.finish()?;
    Ok(Node { id, key, address, learner })
}

fn limits(mut fields: Fields) -> Result<Limits, DocumentError> {
    let ttl_ms = fields.number("ttl_ms", TTL_MIN_MS..=TTL_MAX_MS)?;
    let lapse_grace_ms = fields.number("lapse_grace_ms", 0..=LAPSE_GRACE_MAX_MS)?;
    fields.finish()?;
    Ok(Limits { ttl_ms, lapse_grace_ms })
}
