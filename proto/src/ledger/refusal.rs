//! Why a command does nothing. The texts tell what to do instead.

use serde::{Deserialize, Serialize};

use crate::authority::{AuthorityError, Unauthorised};
use crate::command::ActionKind;
use crate::digest::Digest;
use crate::envelope::EnvelopeError;
use crate::limits::{
    GRANTS_PER_SCOPE_MAX, PROPOSALS_MAX, REFUSED_MAX, REMEMBERED_MAX, REMEMBERED_PER_ID_MAX,
    WAVES_PER_LOCK_MAX,
};
use crate::scope::Scope;
use crate::strict::{DocumentError, format_instant_ms};
use crate::trust::{GrantRefused, TrustError};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unsigned(String),
    #[error("this service is not ready: its genesis is not in the log yet; try again in a moment")]
    NoGenesis,
    #[error("the command is for deployment {theirs}, this is {ours}: sign one for this deployment")]
    WrongDeployment { theirs: String, ours: String },
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    #[error(
        "this command was used at entry {index} and its lock released at entry {released_at}: sign a new one"
    )]
    Used { index: u64, released_at: u64 },
    #[error("no lock {0} is in force; `tagout status` lists those that are")]
    NoSuchLock(Digest),
    #[error("lock {lock} lies on {lock_scope}, outside {scope}: name {lock_scope} as the scope")]
    LockOutsideScope { lock: Digest, lock_scope: Scope, scope: Scope },
    #[error("lock {0} is not released: release it first, then start it (`tagout resume` does both)")]
    NotReleased(Digest),
    #[error("lock {0} was already released at entry {1}; what it needs now is a start")]
    AlreadyReleased(Digest, u64),
    #[error("lock {0} ends with its release and takes no start")]
    TakesNoStart(Digest),
    #[error(
        "lock {lock} lies on {lock_scope}, not on {scope}: name {lock_scope} as the scope, or a part of it"
    )]
    StartElsewhere { lock: Digest, lock_scope: Scope, scope: Scope },
    #[error("lock {0} was started for {WAVES_PER_LOCK_MAX} sub-scopes already: start its whole scope")]
    TooManyWaves(Digest),
    #[error(
        "the document names {count} locks with root {root}, and by the log it would be {found} with root {found_root}: \
         others were released or started meanwhile; list them again and sign anew"
    )]
    OtherLocks { count: u64, root: Digest, found: u64, found_root: Digest },
    #[error(
        "lock {lock} began epoch {epoch}: its release says what may be lost by naming \"lost_from\": {lost_from}"
    )]
    LostFrom { lock: Digest, epoch: u64, lost_from: u64 },
    #[error("only the release of a restore's lock names \"lost_from\": leave it out")]
    NothingLost,
    #[error(
        "it names what has not arrived yet, and {REMEMBERED_MAX} such names, or {REMEMBERED_PER_ID_MAX} for one, are \
         remembered already: send it again once that has arrived"
    )]
    TooManyRemembered,
    #[error("the grant was signed in epoch {theirs}, this is epoch {ours}: sign a new one")]
    WrongEpoch { theirs: Digest, ours: Digest },
    #[error(
        "the grant says it saw {theirs} entries, but the log has {ours}: it was made for another log; sign a new one"
    )]
    SeenAhead { theirs: u64, ours: u64 },
    #[error(
        "the grant says it saw authority version {theirs}, but version {ours} is in force: sign a new one"
    )]
    AuthorityAhead { theirs: u64, ours: u64 },
    #[error("the grant was void before it came, by authority version {version} ({error}): sign a new one")]
    VoidBefore { version: u64, error: Unauthorised },
    #[error("it is void since entry {0}, and for ever: sign a new one")]
    Void(u64),
    #[error("{grant} is for {grant_scope}, outside {scope}: name {grant_scope} as the scope")]
    GrantOutsideScope { grant: Digest, grant_scope: Scope, scope: Scope },
    #[error("it expired at {0}: sign one that ends later")]
    Expired(String),
    #[error("the outcome of this stop is in the log already, at entry {0}")]
    OutcomeKnown(u64),
    #[error("{scope} has {GRANTS_PER_SCOPE_MAX} unexpired grants already; let one end, or revoke one")]
    TooManyGrants { scope: Scope },
    #[error(transparent)]
    Trust(TrustError),
    #[error(
        "the authority disables {found} agents, its signers were told of {signed} at most: look at them \
         (`tagout authority diff`) and sign anew"
    )]
    DisablesMore { signed: u64, found: u64 },
    #[error(
        "a {0} is not proposed: what takes away needs one signature (send it as it is), and the authority has drafts \
         (`tagout authority propose`)"
    )]
    NotProposed(ActionKind),
    #[error("enough people signed it: send it as it is, to POST /v1/commands")]
    SignedByEnough,
    #[error("nobody new signed proposal {proposal}: {signed} did already{missing}")]
    NothingNew { proposal: Digest, signed: String, missing: String },
    #[error(
        "{PROPOSALS_MAX} proposals are open, which is the most: sign or refuse some (`tagout proposals`), or wait until {next} \
         expires at {expires_at}; enough people who sign together need no proposal"
    )]
    TooManyProposals { next: Digest, expires_at: String },
    #[error(
        "{by} refused {proposal} at entry {index}: {reason:?}. It can never take effect any more; sign a new command if it \
         is to"
    )]
    Refused { proposal: Digest, by: String, reason: String, index: u64 },
    #[error(
        "no proposal {0} is known: it took effect, was refused, expired, or was never made; `tagout proposals` lists those that are open"
    )]
    NoSuchProposal(Digest),
    #[error(
        "proposal {proposal} is for {proposal_scope}, not for {scope}: name {proposal_scope} as the scope"
    )]
    ProposalElsewhere { proposal: Digest, proposal_scope: Scope, scope: Scope },
    #[error("{REFUSED_MAX} proposals were refused already, which is the most: let it expire unsigned")]
    TooManyRefused,
    #[error("the restore does not fit this log: {0}")]
    RestoreElsewhere(String),
    #[error("no stop {0} is in the log; `tagout log show` lists what is")]
    NoSuchStop(Digest),
    #[error("the outcome of stop {0} is not in the log yet: a drill says what it says; wait for it")]
    NoOutcome(Digest),
    #[error("stop {lock} was of {lock_scope}, not of {scope}: a drill names its stop's scope")]
    DrillElsewhere { lock: Digest, lock_scope: Scope, scope: Scope },
    #[error(
        "the drill gives {what} {said}, and by the log it is {found}: sign what the log says (`tagout drill finish` does)"
    )]
    DrillDiffers { what: String, said: String, found: String },
    #[error("the drill of stop {lock} is in the log already, at entry {index}: each stop is one drill")]
    DrillKnown { lock: Digest, index: u64 },
    #[error("rule version {0} is in force already")]
    RuleInForce(u64),
    #[error("rule version {found} is unknown to this build, which knows {known}: upgrade it")]
    RuleUnknown { found: u64, known: u64 },
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Unsigned => Self::Unsigned(error.to_string()),
            EnvelopeError::DocumentTooLarge(_)
            | EnvelopeError::TooManySignatures(_)
            | EnvelopeError::SignatureTooLarge(_) => Self::TooLarge(error.to_string()),
        }
    }
}

impl From<AuthorityError> for Refusal {
    fn from(error: AuthorityError) -> Self {
        TrustError::from(error).into()
    }
}

impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Malformed(text) => Self::Malformed(text),
            TrustError::TooLarge(text) => Self::TooLarge(text),
            TrustError::Unsigned(text) => Self::Unsigned(text),
            TrustError::Unauthorised(error) => Self::Unauthorised(error),
            TrustError::OtherDeployment { theirs, ours } => Self::WrongDeployment { theirs, ours },
            other => Self::Trust(other),
        }
    }
}

impl From<GrantRefused> for Refusal {
    fn from(error: GrantRefused) -> Self {
        match error {
            GrantRefused::Envelope(error) => error.into(),
            GrantRefused::Document(error) => error.into(),
            GrantRefused::Unauthorised(error) => Self::Unauthorised(error),
            GrantRefused::AuthorityAhead { seen, version } => {
                Self::AuthorityAhead { theirs: seen, ours: version }
            }
            GrantRefused::Voided { version, error } => Self::VoidBefore { version, error },
            GrantRefused::NotAGrant(_)
            | GrantRefused::OtherDeployment(_)
            | GrantRefused::Elsewhere(_)
            | GrantRefused::OtherEpoch(_)
            | GrantRefused::SeenAhead { .. }
            | GrantRefused::Revoked => Self::Malformed(error.to_string()),
        }
    }
}

impl Refusal {
    pub(super) fn outside(lock: Digest, lock_scope: &Scope, scope: &Scope) -> Self {
        Self::LockOutsideScope { lock, lock_scope: lock_scope.clone(), scope: scope.clone() }
    }

    pub(super) fn too_many_proposals(next: Digest, expires_at_ms: u64) -> Self {
        Self::TooManyProposals { next, expires_at: format_instant_ms(expires_at_ms) }
    }

    pub(super) fn expired(at_ms: u64) -> Self {
        Self::Expired(format_instant_ms(at_ms))
    }
}

impl Refusal {
    /// Whether a newer state may take what this one refuses; false where the document itself is wrong.
    pub fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::Malformed(_) | Self::TooLarge(_) | Self::Unsigned(_) | Self::WrongDeployment { .. }
        )
    }
}
