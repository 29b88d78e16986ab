//! Commands: the strict JSON documents that principals sign. One lock's id is the SHA-256 of its command's bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::*;
use crate::scope::Scope;
use crate::strict::{self, DocumentError, Fields};

/// The version of every document format in this crate: the value of `"tagout"`.
pub const DOCUMENT_VERSION: u64 = 1;

/// What a role may name. The first six only take away; the others give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    Stop,
    Restrict,
    Throttle,
    Isolate,
    Revoke,
    Suspend,
    Release,
    Start,
    Grant,
}

impl ActionKind {
    pub const ALL: [ActionKind; 9] = [
        Self::Stop,
        Self::Restrict,
        Self::Throttle,
        Self::Isolate,
        Self::Revoke,
        Self::Suspend,
        Self::Release,
        Self::Start,
        Self::Grant,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restrict => "restrict",
            Self::Throttle => "throttle",
            Self::Isolate => "isolate",
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Release => "release",
            Self::Start => "start",
            Self::Grant => "grant",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }

    /// Whether it gives (and so takes people, by threshold) rather than takes away.
    pub fn loosens(self) -> bool {
        match self {
            Self::Stop | Self::Restrict | Self::Throttle | Self::Isolate | Self::Revoke | Self::Suspend => {
                false
            }
            Self::Release | Self::Start | Self::Grant => true,
        }
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
    /// Chosen by the signer so that two commands with equal content still have digests of their own.
    pub id: String,
    pub issued_at_ms: u64,
    pub action: Action,
    /// Whether it uses what only `POST /agent/shutdown` allows: `agent_id`, no `action`, no `mode`.
    pub shutdown_form: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Stop(Stop),
    Release(Release),
    Start(Start),
    Grant(Grant),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub scope: Scope,
    pub mode: StopMode,
    pub reason: String,
    /// The incident it belongs to.
    pub case: Option<String>,
}

/// The stop categories of IEC 60204-1: at once; after an orderly end; with power kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// Category 0: now; calls in flight are cut.
    Halt,
    /// Category 1: essential calls and calls in flight go on for `drain_ms`, then as halt.
    Drain { drain_ms: u64 },
    /// Category 2: no new calls; the agent keeps its state.
    Pause,
}

impl StopMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Drain { .. } => "drain",
            Self::Pause => "pause",
        }
    }

    /// Whether the release leaves the lock in place until a start names it (S2).
    pub fn needs_start(self) -> bool {
        match self {
            Self::Halt | Self::Drain { .. } => true,
            Self::Pause => false,
        }
    }
}

/// Takes off the locks that it names, all of which lie in `scope`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub scope: Scope,
    pub locks: Vec<Digest>,
    pub reason: String,
}

/// Restarts `scope` after the locks that it names were released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub scope: Scope,
    pub locks: Vec<Digest>,
    pub reason: String,
}

/// Consent: `scope` may run until `expires_at_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub scope: Scope,
    pub expires_at_ms: u64,
    /// The epoch and log size that the signers had before them; a grant holds only in its epoch.
    pub seen_epoch: Digest,
    pub seen_size: u64,
    pub reason: String,
}

impl Action {
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::Stop(_) => ActionKind::Stop,
            Self::Release(_) => ActionKind::Release,
            Self::Start(_) => ActionKind::Start,
            Self::Grant(_) => ActionKind::Grant,
        }
    }

    pub fn scope(&self) -> &Scope {
        match self {
            Self::Stop(stop) => &stop.scope,
            Self::Release(release) => &release.scope,
            Self::Start(start) => &start.scope,
            Self::Grant(grant) => &grant.scope,
        }
    }
}

impl Command {
    /// Reads a command in either form; the size limit of a stop is the smaller one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > COMMAND_MAX_BYTES {
            let (size, limit) = (bytes.len(), COMMAND_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "a command", size, limit });
        }
        let mut fields = strict::object(bytes, "the command")?;
        fields.number("tagout", DOCUMENT_VERSION..=DOCUMENT_VERSION)?;
        let deployment = fields.text("deployment", NAME_MAX_BYTES + 65)?.parse()?;
        let short_stop = !fields.has("action") || fields.has("agent_id");
        let kind = match fields.opt_text("action", 16)? {
            None => ActionKind::Stop,
            Some(text) => match ActionKind::parse(&text) {
                Some(
                    kind @ (ActionKind::Stop | ActionKind::Release | ActionKind::Start | ActionKind::Grant),
                ) => kind,
                _ => return Err(fields.wrong("action", "stop, release, start or grant")),
            },
        };
        fields.call(format!("the {kind}"));
        let id = fields.word("id", COMMAND_ID_MAX_BYTES)?;
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let shutdown_form = kind == ActionKind::Stop && (short_stop || !fields.has("mode"));
        let action = match kind {
            ActionKind::Release => Action::Release(Release {
                scope: fields.scope("scope")?,
                locks: lock_ids(&mut fields)?,
                reason: fields.text("reason", REASON_MAX_BYTES)?,
            }),
            ActionKind::Start => Action::Start(Start {
                scope: fields.scope("scope")?,
                locks: lock_ids(&mut fields)?,
                reason: fields.text("reason", REASON_MAX_BYTES)?,
            }),
            ActionKind::Grant => Action::Grant(grant(&mut fields)?),
            _ => {
                if bytes.len() > STOP_MAX_BYTES {
                    let (size, limit) = (bytes.len(), STOP_MAX_BYTES);
                    return Err(DocumentError::TooLarge { what: "a stop", size, limit });
                }
                Action::Stop(stop(&mut fields)?)
            }
        };
        fields.finish()?;
        Ok(Self { deployment, id, issued_at_ms, action, shutdown_form })
    }
}

fn stop(fields: &mut Fields) -> Result<Stop, DocumentError> {
    let scope = if fields.has("agent_id") { fields.scope("agent_id")? } else { fields.scope("scope")? };
    let mode = match fields.opt_text("mode", 16)?.as_deref() {
        None | Some("halt") => StopMode::Halt,
        Some("drain") => StopMode::Drain { drain_ms: fields.number("drain_ms", 1..=DRAIN_MAX_MS)? },
        Some("pause") => StopMode::Pause,
        Some(_) => return Err(fields.wrong("mode", "halt, drain (with drain_ms) or pause")),
    };
    let reason = fields.text("reason", REASON_MAX_BYTES)?;
    let case = fields.opt_text("case", CASE_MAX_BYTES)?;
    Ok(Stop { scope, mode, reason, case })
}

fn lock_ids(fields: &mut Fields) -> Result<Vec<Digest>, DocumentError> {
    let mut locks = Vec::new();
    for text in fields.texts("locks", LOCK_IDS_MAX)? {
        let id: Digest =
            text.parse().map_err(|_| fields.wrong("locks", "a list of lock ids, 64 hex digits each"))?;
        if locks.contains(&id) {
            return Err(fields.wrong("locks", format!("a list without repetitions ({id} stands twice)")));
        }
        locks.push(id);
    }
    Ok(locks)
}

fn grant(fields: &mut Fields) -> Result<Grant, DocumentError> {
    let scope = fields.scope("scope")?;
    let expires_at_ms = fields.instant_ms("expires_at")?;
    let mut seen = fields.object("seen")?;
    let (seen_epoch, seen_size) = (seen.digest("epoch")?, seen.number("size", 0..=u64::MAX)?);
    seen.finish()?;
    Ok(Grant {
        scope,
        expires_at_ms,
        seen_epoch,
        seen_size,
        reason: fields.text("reason", REASON_MAX_BYTES)?,
    })
}
