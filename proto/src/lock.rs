//! Locks: what a command, a trip or a restore places on a scope, and what each kind of lock does.

use serde::{Deserialize, Serialize};

use crate::command::{Action, ActionKind, Command, Deployment};
use crate::digest::Digest;
use crate::limits::{NAME_MAX_BYTES, REASON_MAX_BYTES, STOP_MAX_BYTES};
use crate::restore::Restore;
use crate::rule::CallLimits;
use crate::scope::Scope;
use crate::strict::{self, DocumentError};

/// The first three are a stop's modes, which follow the stop categories of IEC 60204-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    /// Category 0: now; calls in flight are cut.
    Halt,
    /// Category 1: essential calls and calls in flight go on for `drain_ms`, then as halt.
    Drain { drain_ms: u64 },
    /// Category 2: no new calls; the agent keeps its state.
    Pause,
    /// No calls, and enforcers cut the agent's network.
    Isolate,
    /// Essential calls only.
    Restrict,
    /// No more calls and tokens than this.
    Throttle(CallLimits),
}

impl LockKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Drain { .. } => "drain",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Restrict => "restrict",
            Self::Throttle(_) => "throttle",
        }
    }

    /// The command that places it.
    pub fn action(self) -> ActionKind {
        match self {
            Self::Halt | Self::Drain { .. } | Self::Pause => ActionKind::Stop,
            Self::Isolate => ActionKind::Isolate,
            Self::Restrict => ActionKind::Restrict,
            Self::Throttle(_) => ActionKind::Throttle,
        }
    }

    /// Whether the release leaves the lock in place until a start names it (S2).
    pub fn needs_start(self) -> bool {
        match self {
            Self::Halt | Self::Drain { .. } => true,
            Self::Pause | Self::Isolate | Self::Restrict | Self::Throttle(_) => false,
        }
    }

    /// Whether calls in flight end by it, at once or at its deadline.
    pub fn cuts(self) -> bool {
        match self {
            Self::Halt | Self::Drain { .. } | Self::Isolate => true,
            Self::Pause | Self::Restrict | Self::Throttle(_) => false,
        }
    }

    /// Whether calls are denied by it, so that instances confirm it.
    pub fn denies(self) -> bool {
        !matches!(self, Self::Throttle(_))
    }
}

/// What a document places: the SHA-256 of its bytes is the lock's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub scope: Scope,
    pub kind: LockKind,
    /// For a restore's lock: what its release must name.
    pub lost_from: Option<u64>,
}

/// Reads whatever places a lock: a command, a trip or a restore. It judges no signature; the digest proves the bytes.
pub fn parse_placing(bytes: &[u8]) -> Result<Placed, DocumentError> {
    let fields = strict::object(bytes, "the document")?;
    if fields.has("trip") {
        let Trip { scope, .. } = Trip::parse(bytes)?;
        return Ok(Placed { scope, kind: LockKind::Halt, lost_from: None });
    }
    if fields.has("restore") {
        let Restore { lost_from, .. } = Restore::parse(bytes)?;
        return Ok(Placed { scope: Scope::fleet(), kind: LockKind::Halt, lost_from: Some(lost_from) });
    }
    match Command::parse(bytes)?.action {
        Action::Lock(lock) => Ok(Placed { scope: lock.scope, kind: lock.kind, lost_from: None }),
        other => {
            Err(DocumentError::Invalid(format!("the document is a {}, which places no lock", other.kind())))
        }
    }
}

const BY_TRIP: &str = "trip:";

/// An agent's own process stops its scope. It is unsigned: whoever may speak for an agent may stop it (S7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    pub deployment: Deployment,
    pub scope: Scope,
    pub issued_at_ms: u64,
    /// The process, by the name that it has in its leases.
    pub instance: String,
    pub reason: String,
}

impl Trip {
    /// So that the tag's `trip:` and the instance fit where a name does.
    pub const INSTANCE_MAX_BYTES: usize = NAME_MAX_BYTES - BY_TRIP.len();

    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > STOP_MAX_BYTES {
            let (size, limit) = (bytes.len(), STOP_MAX_BYTES);
            return Err(DocumentError::TooLarge { what: "a trip", size, limit });
        }
        let mut fields = strict::object(bytes, "the trip")?;
        fields.document_version()?;
        let deployment = fields.deployment()?;
        let scope = fields.scope("trip")?;
        // 256 random bits, so that the lock is one of its own and nobody releases it before it is placed.
        fields.digest("nonce")?;
        let issued_at_ms = fields.instant_ms("issued_at")?;
        let instance = fields.word("instance", Self::INSTANCE_MAX_BYTES)?;
        let reason = fields.text("reason", REASON_MAX_BYTES)?;
        fields.finish()?;
        Ok(Self { deployment, scope, issued_at_ms, instance, reason })
    }

    /// Who placed the lock, as its tag says it: no principal's name has a colon.
    pub fn by(&self) -> String {
        format!("{BY_TRIP}{}", self.instance)
    }

    /// The document's text.
    pub fn to_document(&self, nonce: &Digest) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            tagout: u64,
            deployment: String,
            trip: &'a Scope,
            nonce: &'a Digest,
            issued_at: String,
            instance: &'a str,
            reason: &'a str,
        }
        let document = Document {
            tagout: crate::command::DOCUMENT_VERSION,
            deployment: self.deployment.to_string(),
            trip: &self.scope,
            nonce,
            issued_at: strict::format_instant_ms(self.issued_at_ms),
            instance: &self.instance,
            reason: &self.reason,
        };
        serde_json::to_string(&document).expect("a trip is plain data")
    }
}
