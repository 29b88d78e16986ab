//! Commands: the strict JSON documents that principals sign. One lock's id is the SHA-256 of its command's bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::authority::Authority;
use crate::digest::Digest;
use crate::limits::*;
use crate::lock::LockKind;
use crate::log::tree::{leaf_hash, verify_inclusion};
use crate::rule::{CallLimits, Terms};
use crate::scope::Scope;
use crate::sshsig::PublicKey;
use crate::strict::{self, DocumentError, Fields};

/// The version of every document format in this crate: the value of `"tagout"`.
pub const DOCUMENT_VERSION: u64 = 1;

/// The twelve commands. The first seven only take away; the others give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    Stop,
    Restrict,
    Throttle,
    Isolate,
    Revoke,
    Suspend,
    Refuse,
    Release,
    Start,
    Grant,
    Enroll,
    Authority,
}

impl ActionKind {
    pub const ALL: [ActionKind; 12] = [
        Self::Stop,
        Self::Restrict,
        Self::Throttle,
        Self::Isolate,
        Self::Revoke,
        Self::Suspend,
        Self::Refuse,
        Self::Release,
        Self::Start,
        Self::Grant,
        Self::Enroll,
        Self::Authority,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restrict => "restrict",
            Self::Throttle => "throttle",
            Self::Isolate => "isolate",
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Refuse => "refuse",
            Self::Release => "release",
            Self::Start => "start",
            Self::Grant => "grant",
            Self::Enroll => "enroll",
            Self::Authority => "authority",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }

    /// Whether it gives (and so takes people, by threshold) rather than takes away.
    pub fn loosens(self) -> bool {
        match self {
            Self::Stop
            | Self::Restrict
            | Self::Throttle
            | Self::Isolate
            | Self::Revoke
            | Self::Suspend
            | Self::Refuse => false,
            Self::Release | Self::Start | Self::Grant | Self::Enroll | Self::Authority => true,
        }
    }

    /// Whether guards act on it by its signatures alone: all that takes away from them. A refusal takes away what they never
    /// had.
    pub fn tightens_guards(self) -> bool {
        !self.loosens() && self != Self::Refuse
    }

    /// Whether it may be proposed with too few signatures. The authority has drafts, and what takes away needs one.
    pub fn may_be_proposed(self) -> bool {
        self.loosens() && self != Self::Authority
    }

    /// What a role may name: all but the authority, which has signers of its own, and a refusal, which those may sign who
    /// may sign what it refuses.
    pub fn for_roles() -> impl Iterator<Item = ActionKind> {
        Self::ALL.into_iter().filter(|kind| !matches!(kind, Self::Authority | Self::Refuse))
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `moltbook-prod:<genesis sha256>`: no command of one deployment means anything in another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deployment {
    pub name: String,
    pub genesis: Digest,
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.genesis)
    }
}

impl FromStr for Deployment {
    type Err = DocumentError;
    fn from_str(text: &str) -> Result<Self, DocumentError> {
        let parsed = text.split_once(':').and_then(|(name, genesis)| {
            strict::is_name(name).then_some(())?;
            Some(Deployment { name: name.into(), genesis: genesis.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            DocumentError::Invalid(
                "\"deployment\" must be name:<SHA-256 of the genesis, 64 hex digits>".into(),
            )
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub deployment: Deployment,
    pub issued_at_ms: u64,
    pub action: Action,
    /// Whether it uses what only `POST /agent/shutdown` allows: `agent_id`, no `action`, no `mode`.
    pub shutdown_form: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `stop`, `restrict`, `throttle` and `isolate` place a lock.
    Lock(LockCommand),
    Revoke(Revoke),
    Suspend(Suspend),
    Refuse(Refuse),
    Release(Release),
    Start(Start),
    Grant(Grant),
    Enroll(Enroll),
    Authority(Box<Authority>),
}

/// Places a lock whose id is the SHA-256 of the command's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockCommand {
    pub scope: Scope,
    pub kind: LockKind,
    pub reason: String,
    /// The incident it belongs to.
    pub case: Option<String>,
}

/// Voids the grants and enrolments that it names, for ever, also those that have not arrived yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// Where they lie.
    pub scope: Scope,
    /// SHA-256 of each one's bytes.
    pub grants: Vec<Digest>,
    pub reason: String,
    pub case: Option<String>,
}

/// Takes keys out of use, for ever, also those that no authority names yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspend {
    pub keys: Vec<PublicKey>,
    pub reason: String,
    pub case: Option<String>,
}

/// Ends a proposal, whose command can never take effect from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// That of the command.
    pub scope: Scope,
    /// SHA-256 of the command's bytes.
    pub proposal: Digest,
    pub reason: String,
    pub case: Option<String>,
}

/// Takes off the locks that it names, all of which lie in `scope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub scope: Scope,
    pub locks: LockSet,
    /// Named with a restore's lock: locks that were placed at this entry or later may be lost (S1).
    pub lost_from: Option<u64>,
    pub reason: String,
}

/// Restarts `scope` after the locks that it names were released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub scope: Scope,
    pub locks: LockSet,
    pub reason: String,
}

/// Which locks a release or a start names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockSet {
    Ids(Vec<Digest>),
    Bulk(BulkLocks),
}

/// Many locks by one root. The list follows from the log: of the locks that lie where the document's scope says and that
/// were placed before entry `before` (by `by`, if named), those that the document can still act on, in the log's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkLocks {
    pub count: u64,
    /// The RFC 6962 root over the ids, 32 bytes each.
    pub root: Digest,
    pub before: u64,
    /// A principal whose signature is on every one of them.
    pub by: Option<String>,
}

/// Consent: `scope` may run until `expires_at_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub scope: Scope,
    pub expires_at_ms: u64,
    pub seen: Seen,
    pub terms: Terms,
    pub reason: String,
}

/// Whoever holds the token may ask for leases of `scope` and all below it. It consents to nothing: that takes a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enroll {
    pub scope: Scope,
    /// SHA-256 of the token, which no document ever holds.
    pub token: Digest,
    /// Without it, it holds until it is revoked.
    pub expires_at_ms: Option<u64>,
    pub reason: String,
}

/// What the signers of a grant had before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A grant holds only in its epoch.
    pub epoch: Digest,
    pub size: u64,
    /// The authority's version. The grant must hold under it and under every later one, so that a change which voids it
    /// voids it for ever.
    pub authority: u64,
}

impl LockSet {
    pub fn count(&self) -> u64 {
        match self {
            Self::Ids(ids) => ids.len() as u64,
            Self::Bulk(bulk) => bulk.count,
        }
    }

    /// Whether `id` is one of the locks; for a bulk set by `listed`, the proof that its list holds it.
    pub fn names(&self, id: &Digest, listed: Option<&Listed>) -> bool {
        match (self, listed) {
            (Self::Ids(ids), _) => ids.contains(id),
            (Self::Bulk(bulk), Some(Listed { index, path })) => {
                verify_inclusion(leaf_hash(&id.0), *index, bulk.count, path, bulk.root)
            }
            (Self::Bulk(_), None) => false,
        }
    }
}

/// The place of one id in a bulk list, with its RFC 6962 inclusion proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    pub index: u64,
    pub path: Vec<Digest>,
}

impl Action {
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::Lock(lock) => lock.kind.action(),
            Self::Revoke(_) => ActionKind::Revoke,
            Self::Suspend(_) => ActionKind::Suspend,
            Self::Refuse(_) => ActionKind::Refuse,
            Self::Release(_) => ActionKind::Release,
            Self::Start(_) => ActionKind::Start,
            Self::Grant(_) => ActionKind::Grant,
            Self::Enroll(_) => ActionKind::Enroll,
            Self::Authority(_) => ActionKind::Authority,
        }
    }

    /// What it touches; keys and the authority are everybody's.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Lock(lock) => lock.scope.clone(),
            Self::Revoke(revoke) => revoke.scope.clone(),
            Self::Refuse(refuse) => refuse.scope.clone(),
            Self::Release(release) => release.scope.clone(),
            Self::Start(start) => start.scope.clone(),
            Self::Grant(grant) => grant.scope.clone(),
            Self::Enroll(enroll) => enroll.scope.clone(),
            Self::Suspend(_) | Self::Authority(_) => Scope::fleet(),
        }
    }
}

impl Command {
    /// Reads a command in either form; the size limit of a stop is the smaller one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        within(bytes, "a command", COMMAND_MAX_BYTES)?;
        let mut fields = strict::object(bytes, "the command")?;
        fields.document_version()?;
        let short_stop = !fields.has("action") || fields.has("agent_id");
        let kind = match fields.opt_text("action", 16)? {
            None => ActionKind::Stop,
            Some(text) => ActionKind::parse(&text).ok_or_else(|| {
                fields.wrong("action", format!("one of {}", ActionKind::ALL.map(ActionKind::name).join(", ")))
            })?,
        };
        if kind == ActionKind::Authority {
            let authority = Authority::parse(bytes)?;
            return Ok(Self {
                deployment: authority.deployment.clone(),
                issued_at_ms: authority.issued_at_ms,
                action: Action::Authority(Box::new(authority)),
                shutdown_form: false,
            });
        }
        if kind == ActionKind::Stop {
            within(bytes, "a stop", STOP_MAX_BYTES)?;
        }
        let deployment = fields.deployment()?;
        fields.call(format!("the {kind}"));
        // Chosen by the signer, so that two commands with equal content still have digests of their own.
        fields.word("id", COMMAND_ID_MAX_BYTES)?;
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let shutdown_form = kind == ActionKind::Stop && (short_stop || !fields.has("mode"));
        let reason = fields.text("reason", REASON_MAX_BYTES)?;
        let action = match kind {
            ActionKind::Stop => {
                let scope = fields.scope(if fields.has("agent_id") { "agent_id" } else { "scope" })?;
                let kind = stop_mode(&mut fields)?;
                Action::Lock(LockCommand { scope, kind, reason, case: case(&mut fields)? })
            }
            ActionKind::Restrict => Action::Lock(LockCommand {
                scope: fields.scope("scope")?,
                kind: LockKind::Restrict,
                reason,
                case: case(&mut fields)?,
            }),
            ActionKind::Isolate => Action::Lock(LockCommand {
                scope: fields.scope("scope")?,
                kind: LockKind::Isolate,
                reason,
                case: case(&mut fields)?,
            }),
            ActionKind::Throttle => Action::Lock(LockCommand {
                scope: fields.scope("scope")?,
                kind: LockKind::Throttle(call_limits(fields.object("limits")?)?),
                reason,
                case: case(&mut fields)?,
            }),
            ActionKind::Revoke => Action::Revoke(Revoke {
                scope: fields.scope("scope")?,
                grants: fields.digests("grants", GRANT_IDS_MAX)?,
                reason,
                case: case(&mut fields)?,
            }),
            ActionKind::Suspend => {
                let keys = suspended_keys(&mut fields)?;
                Action::Suspend(Suspend { keys, reason, case: case(&mut fields)? })
            }
            ActionKind::Refuse => Action::Refuse(Refuse {
                scope: fields.scope("scope")?,
                proposal: fields.digest("proposal")?,
                reason,
                case: case(&mut fields)?,
            }),
            ActionKind::Release => Action::Release(Release {
                scope: fields.scope("scope")?,
                locks: lock_set(&mut fields)?,
                lost_from: fields.opt_number("lost_from", 0..=u64::MAX)?,
                reason,
            }),
            ActionKind::Start => {
                Action::Start(Start { scope: fields.scope("scope")?, locks: lock_set(&mut fields)?, reason })
            }
            ActionKind::Grant => Action::Grant(grant(&mut fields, reason)?),
            ActionKind::Enroll => Action::Enroll(Enroll {
                scope: fields.scope("scope")?,
                token: fields.digest("token")?,
                expires_at_ms: fields.opt_instant_ms("expires_at")?,
                reason,
            }),
            ActionKind::Authority => unreachable!("read above"),
        };
        fields.finish()?;
        Ok(Self { deployment, issued_at_ms, action, shutdown_form })
    }
}

fn within(bytes: &[u8], what: &'static str, limit: usize) -> Result<(), DocumentError> {
    let size = bytes.len();
    if size > limit { Err(DocumentError::TooLarge { what, size, limit }) } else { Ok(()) }
}

fn case(fields: &mut Fields) -> Result<Option<String>, DocumentError> {
    fields.opt_text("case", CASE_MAX_BYTES)
}

fn stop_mode(fields: &mut Fields) -> Result<LockKind, DocumentError> {
    Ok(match fields.opt_text("mode", 16)?.as_deref() {
        None | Some("halt") => LockKind::Halt,
        Some("drain") => LockKind::Drain { drain_ms: fields.number("drain_ms", 1..=DRAIN_MAX_MS)? },
        Some("pause") => LockKind::Pause,
        Some(_) => return Err(fields.wrong("mode", "halt, drain (with drain_ms) or pause")),
    })
}

fn suspended_keys(fields: &mut Fields) -> Result<Vec<PublicKey>, DocumentError> {
    let mut keys = Vec::new();
    for line in fields.texts("keys", KEYS_PER_SUSPEND_MAX)? {
        let key = PublicKey::parse_openssh(&line)
            .map_err(|e| fields.wrong("keys", format!("a list of OpenSSH public key lines ({e})")))?;
        if keys.contains(&key) {
            return Err(fields
                .wrong("keys", format!("a list without repetitions ({} stands twice)", key.fingerprint())));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// `"locks"`: a list of ids, or an object that names many by their root.
fn lock_set(fields: &mut Fields) -> Result<LockSet, DocumentError> {
    if !fields.is_object("locks") {
        return Ok(LockSet::Ids(fields.digests("locks", LOCK_IDS_MAX)?));
    }
    let mut bulk = fields.object("locks")?;
    let locks = BulkLocks {
        count: bulk.number("count", 1..=BULK_LOCKS_MAX)?,
        root: bulk.digest("root")?,
        before: bulk.number("before", 1..=u64::MAX)?,
        by: bulk.opt_name("by")?,
    };
    bulk.finish()?;
    Ok(LockSet::Bulk(locks))
}

fn grant(fields: &mut Fields, reason: String) -> Result<Grant, DocumentError> {
    let scope = fields.scope("scope")?;
    let expires_at_ms = fields.instant_ms("expires_at")?;
    let mut seen_fields = fields.object("seen")?;
    let seen = Seen {
        epoch: seen_fields.digest("epoch")?,
        size: seen_fields.number("size", 0..=u64::MAX)?,
        authority: seen_fields.number("authority", 1..=AUTHORITY_VERSIONS_MAX)?,
    };
    seen_fields.finish()?;
    let mut terms = Terms::default();
    if fields.has("essential") {
        for class in fields.texts("essential", ESSENTIAL_CLASSES_MAX)? {
            if !strict::is_name(&class) || !terms.essential.insert(class) {
                return Err(fields.wrong("essential", "a list of names of a-z 0-9 . _ - without repetitions"));
            }
        }
    }
    if fields.has("limits") {
        terms.limits = call_limits(fields.object("limits")?)?;
    }
    Ok(Grant { scope, expires_at_ms, seen, terms, reason })
}

/// At least one of the two: an empty object would limit nothing and look as if it did.
fn call_limits(mut fields: Fields) -> Result<CallLimits, DocumentError> {
    let limits = CallLimits {
        calls_per_minute: fields.opt_number("calls_per_minute", 0..=CALL_LIMIT_MAX)?,
        tokens_per_minute: fields.opt_number("tokens_per_minute", 0..=CALL_LIMIT_MAX)?,
    };
    if limits == CallLimits::default() {
        return Err(fields.missing("calls_per_minute"));
    }
    fields.finish()?;
    Ok(limits)
}
