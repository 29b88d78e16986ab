//! From what went wrong to a status, a stable code and a sentence.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tagout_proto::authority::Unauthorised;
use tagout_proto::ledger::{NotEnrolled, Refusal};
use tagout_proto::trust::TrustError;
use tagout_proto::wire;

use crate::access::{self, Invalid};
use crate::admission::Busy;
use crate::leases::LeaseFailure;
use crate::notify;
use crate::pending::NotKept;
use crate::raft::ProposeError;
use crate::reserve::DiskRefused;
use crate::service::SubmitError;
use crate::webhooks::NotDone;

#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
}

/// Makes `Code` from one table: the variant, its status, the name that programs see.
macro_rules! codes {
    ($($variant:ident $status:ident $name:literal)*) => {
        /// What went wrong, by a name that stays. Each has one status; `openapi.json` tells what each of them means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($variant,)*
        }

        impl Code {
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)*
                }
            }
        }
    };
}

codes! {
    BadDocument BAD_REQUEST "bad-document"
    BadLockId BAD_REQUEST "bad-lock-id"
    BadMultipart BAD_REQUEST "bad-multipart"
    BadProposalId BAD_REQUEST "bad-proposal-id"
    BadRequest BAD_REQUEST "bad-request"
    BadOpenc2 BAD_REQUEST "bad-openc2"
    BadScope BAD_REQUEST "bad-scope"
    BadTile BAD_REQUEST "bad-tile"
    BadWebhook BAD_REQUEST "bad-webhook"
    NotAStop BAD_REQUEST "not-a-stop"

    InvalidCertificate UNAUTHORIZED "invalid-certificate"
    InvalidToken UNAUTHORIZED "invalid-token"
    NoIdentity UNAUTHORIZED "no-identity"
    NoValidSignature UNAUTHORIZED "no-valid-signature"
    NotEnrolled UNAUTHORIZED "not-enrolled"
    Openc2Refused UNAUTHORIZED "openc2-refused"
    Unsigned UNAUTHORIZED "unsigned"
    WebhookRefused UNAUTHORIZED "webhook-refused"

    BelowThreshold FORBIDDEN "below-threshold"
    EnrolledElsewhere FORBIDDEN "enrolled-elsewhere"
    GivesBack FORBIDDEN "gives-back"
    NoRole FORBIDDEN "no-role"
    NotPermitted FORBIDDEN "not-permitted"
    OutsideScopes FORBIDDEN "outside-scopes"
    RootKey FORBIDDEN "root-key"
    RootThreshold FORBIDDEN "root-threshold"
    ScopeNotAllowed FORBIDDEN "scope-not-allowed"

    NoOpenc2 NOT_FOUND "no-openc2"
    NoSuchLock NOT_FOUND "no-such-lock"
    NoSuchNotification NOT_FOUND "no-such-notification"
    NoSuchPath NOT_FOUND "no-such-path"
    NoSuchProposal NOT_FOUND "no-such-proposal"
    NoSuchReceiver NOT_FOUND "no-such-receiver"
    NoSuchStop NOT_FOUND "no-such-stop"
    NoSuchTile NOT_FOUND "no-such-tile"
    NoSuchWebhook NOT_FOUND "no-such-webhook"

    Method METHOD_NOT_ALLOWED "method"

    AlreadyReleased CONFLICT "already-released"
    AuthorityAhead CONFLICT "authority-ahead"
    DisablesMore CONFLICT "disables-more"
    DrillKnown CONFLICT "drill-known"
    EpochReturns CONFLICT "epoch-returns"
    EpochRollback CONFLICT "epoch-rollback"
    NothingNew CONFLICT "nothing-new"
    NoOutcome CONFLICT "no-outcome"
    NotReleased CONFLICT "not-released"
    OtherLocks CONFLICT "other-locks"
    OtherPredecessor CONFLICT "other-predecessor"
    OutcomeKnown CONFLICT "outcome-known"
    Refused CONFLICT "refused"
    RestoreAuthority CONFLICT "restore-authority"
    RestoreElsewhere CONFLICT "restore-elsewhere"
    RuleInForce CONFLICT "rule-in-force"
    SeenAhead CONFLICT "seen-ahead"
    SignedByEnough CONFLICT "signed-by-enough"
    TooManyGrants CONFLICT "too-many-grants"
    TooManyProposals CONFLICT "too-many-proposals"
    TooManyRefused CONFLICT "too-many-refused"
    TooManyRemembered CONFLICT "too-many-remembered"
    TooManySuspended CONFLICT "too-many-suspended"
    TooManyWaves CONFLICT "too-many-waves"
    Used CONFLICT "used"
    VersionGap CONFLICT "version-gap"
    Void CONFLICT "void"
    WrongEpoch CONFLICT "wrong-epoch"

    TooLarge PAYLOAD_TOO_LARGE "too-large"

    NotJson UNSUPPORTED_MEDIA_TYPE "not-json"
    NotMultipart UNSUPPORTED_MEDIA_TYPE "not-multipart"

    DrillDiffers UNPROCESSABLE_ENTITY "drill-differs"
    DrillElsewhere UNPROCESSABLE_ENTITY "drill-elsewhere"
    Expired UNPROCESSABLE_ENTITY "expired"
    GrantOutsideScope UNPROCESSABLE_ENTITY "grant-outside-scope"
    KeyReturns UNPROCESSABLE_ENTITY "key-returns"
    LockOutsideScope UNPROCESSABLE_ENTITY "lock-outside-scope"
    LostFrom UNPROCESSABLE_ENTITY "lost-from"
    NotProposed UNPROCESSABLE_ENTITY "not-proposed"
    NotRetirable UNPROCESSABLE_ENTITY "not-retirable"
    NothingLost UNPROCESSABLE_ENTITY "nothing-lost"
    ProposalElsewhere UNPROCESSABLE_ENTITY "proposal-elsewhere"
    RuleUnknown UNPROCESSABLE_ENTITY "rule-unknown"
    StartElsewhere UNPROCESSABLE_ENTITY "start-elsewhere"
    TakesNoStart UNPROCESSABLE_ENTITY "takes-no-start"
    Unmapped UNPROCESSABLE_ENTITY "unmapped"
    WrongDeployment UNPROCESSABLE_ENTITY "wrong-deployment"

    BlastLimit TOO_MANY_REQUESTS "blast-limit"

    Internal INTERNAL_SERVER_ERROR "internal"

    NotImplemented NOT_IMPLEMENTED "not-implemented"

    Busy SERVICE_UNAVAILABLE "busy"
    IssuerAway SERVICE_UNAVAILABLE "issuer-away"
    NoCheckpoint SERVICE_UNAVAILABLE "no-checkpoint"
    NoLeader SERVICE_UNAVAILABLE "no-leader"
    NoLease SERVICE_UNAVAILABLE "no-lease"
    NotCommitted SERVICE_UNAVAILABLE "not-committed"
    NotKept SERVICE_UNAVAILABLE "not-kept"
    NotReady SERVICE_UNAVAILABLE "not-ready"
    Pending SERVICE_UNAVAILABLE "pending"
    TooManyListeners SERVICE_UNAVAILABLE "too-many-listeners"
    WebhookKey SERVICE_UNAVAILABLE "webhook-key"

    DiskFull INSUFFICIENT_STORAGE "disk-full"
    DiskLow INSUFFICIENT_STORAGE "disk-low"
}

/// Seconds after which a client may try again what the service could not do now.
pub(super) const RETRY_AFTER_S: &str = "1";

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = wire::Problem {
            code: self.code.name().into(),
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            detail: self.detail,
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // RFC 9110, section 15.5.2, wants a challenge with each 401, and RFC 6750, section 3.1, one with what a token may not.
        // For documents it is no registered scheme, since none signs them.
        let challenge = match self.code {
            Code::InvalidToken => Some("Bearer realm=\"tagout\", error=\"invalid_token\""),
            Code::NotPermitted | Code::OutsideScopes => {
                Some("Bearer realm=\"tagout\", error=\"insufficient_scope\"")
            }
            Code::NotEnrolled | Code::NoIdentity | Code::InvalidCertificate => {
                Some("Bearer realm=\"tagout\"")
            }
            Code::WebhookRefused => Some("StandardWebhooks"),
            _ => (status == StatusCode::UNAUTHORIZED).then_some("SSHSIG namespace=\"tagout-command\""),
        };
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<notify::NotDone> for Problem {
    fn from(why: notify::NotDone) -> Self {
        let code = match &why {
            notify::NotDone::NoReceiver => Code::NoSuchReceiver,
            notify::NotDone::NoEvent(_) => Code::NoSuchNotification,
            notify::NotDone::NoLeader => Code::NoLeader,
        };
        Self::new(code, why.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Malformed(_) => Code::BadDocument,
            Refusal::TooLarge(_) => Code::TooLarge,
            Refusal::Unsigned(_) => Code::Unsigned,
            Refusal::NoGenesis => Code::NotReady,
            Refusal::WrongDeployment { .. } => Code::WrongDeployment,
            Refusal::Unauthorised(Unauthorised::NoValidSignature(_)) => Code::NoValidSignature,
            Refusal::Unauthorised(Unauthorised::NoRole { .. }) => Code::NoRole,
            Refusal::Unauthorised(Unauthorised::BelowThreshold { .. }) => Code::BelowThreshold,
            Refusal::Used { .. } => Code::Used,
            Refusal::NoSuchLock(_) => Code::NoSuchLock,
            Refusal::LockOutsideScope { .. } => Code::LockOutsideScope,
            Refusal::NotReleased(_) => Code::NotReleased,
            Refusal::AlreadyReleased(..) => Code::AlreadyReleased,
            Refusal::TakesNoStart(_) => Code::TakesNoStart,
            Refusal::StartElsewhere { .. } => Code::StartElsewhere,
            Refusal::TooManyWaves(_) => Code::TooManyWaves,
            Refusal::OtherLocks { .. } => Code::OtherLocks,
            Refusal::LostFrom { .. } => Code::LostFrom,
            Refusal::NothingLost => Code::NothingLost,
            Refusal::TooManyRemembered => Code::TooManyRemembered,
            Refusal::AuthorityAhead { .. } => Code::AuthorityAhead,
            Refusal::VoidBefore { .. } | Refusal::Void(_) => Code::Void,
            Refusal::GrantOutsideScope { .. } => Code::GrantOutsideScope,
            Refusal::DisablesMore { .. } => Code::DisablesMore,
            Refusal::NotProposed(_) => Code::NotProposed,
            Refusal::SignedByEnough => Code::SignedByEnough,
            Refusal::NothingNew { .. } => Code::NothingNew,
            Refusal::TooManyProposals { .. } => Code::TooManyProposals,
            Refusal::Refused { .. } => Code::Refused,
            Refusal::NoSuchProposal(_) => Code::NoSuchProposal,
            Refusal::ProposalElsewhere { .. } => Code::ProposalElsewhere,
            Refusal::TooManyRefused => Code::TooManyRefused,
            Refusal::RestoreElsewhere(_) => Code::RestoreElsewhere,
            Refusal::RuleInForce(_) => Code::RuleInForce,
            Refusal::RuleUnknown { .. } => Code::RuleUnknown,
            Refusal::Trust(error) => trust(error),
            Refusal::WrongEpoch { .. } => Code::WrongEpoch,
            Refusal::SeenAhead { .. } => Code::SeenAhead,
            Refusal::Expired(_) => Code::Expired,
            Refusal::OutcomeKnown(_) => Code::OutcomeKnown,
            Refusal::NoSuchStop(_) => Code::NoSuchStop,
            Refusal::NoOutcome(_) => Code::NoOutcome,
            Refusal::DrillElsewhere { .. } => Code::DrillElsewhere,
            Refusal::DrillDiffers { .. } => Code::DrillDiffers,
            Refusal::DrillKnown { .. } => Code::DrillKnown,
            Refusal::TooManyGrants { .. } => Code::TooManyGrants,
        };
        Self::new(code, format!("{refusal}{}", proposable(&refusal)))
    }
}

/// What lacks signatures may be proposed with those that it has.
fn proposable(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unauthorised(Unauthorised::BelowThreshold { action, .. }) if action.may_be_proposed() => {
            "; with these signatures it can be proposed (POST /v1/proposals, which `tagout` does by itself), and others add theirs"
        }
        _ => "",
    }
}

fn trust(error: &TrustError) -> Code {
    match error {
        TrustError::VersionGap { .. } => Code::VersionGap,
        TrustError::OtherPredecessor { .. } => Code::OtherPredecessor,
        TrustError::RootThreshold(_) => Code::RootThreshold,
        TrustError::KeyReturns { .. } | TrustError::KeyStays { .. } => Code::KeyReturns,
        TrustError::NotRetirable { .. } | TrustError::RetiredStays { .. } => Code::NotRetirable,
        TrustError::RootKey(_) => Code::RootKey,
        TrustError::TooManySuspended => Code::TooManySuspended,
        TrustError::EpochRollback { .. } => Code::EpochRollback,
        TrustError::RestoreAuthority { .. } => Code::RestoreAuthority,
        TrustError::EpochReturns(_) => Code::EpochReturns,
        // The ledger tells these as refusals of its own.
        TrustError::Malformed(_)
        | TrustError::TooLarge(_)
        | TrustError::Unsigned(_)
        | TrustError::Unauthorised(_)
        | TrustError::NothingToLearn(_)
        | TrustError::OtherDeployment { .. } => Code::BadDocument,
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::Consensus(ProposeError::TooLarge { .. }) => {
                Self::new(Code::TooLarge, error.to_string())
            }
            SubmitError::Consensus(ProposeError::Strange { .. }) => Self::internal(&error),
            SubmitError::Consensus(_) | SubmitError::Timeout => {
                Self::new(Code::NotCommitted, error.to_string())
            }
            SubmitError::Differs(_) => Self::new(Code::NotReady, error.to_string()),
            SubmitError::Busy(busy) => busy.into(),
            SubmitError::Pending { .. } => Self::new(Code::Pending, error.to_string()),
            SubmitError::Pushed(NotKept::Disk(_)) => Self::new(Code::DiskFull, error.to_string()),
            SubmitError::Pushed(NotKept::TooMany | NotKept::Io(_)) => {
                Self::new(Code::NotKept, error.to_string())
            }
            SubmitError::Disk(DiskRefused::Low { .. }) => Self::new(Code::DiskLow, error.to_string()),
            SubmitError::Disk(DiskRefused::Full { .. }) => Self::new(Code::DiskFull, error.to_string()),
        }
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        Self::new(Code::Busy, busy.to_string())
    }
}

impl From<Arc<LeaseFailure>> for Problem {
    fn from(failure: Arc<LeaseFailure>) -> Self {
        match &*failure {
            LeaseFailure::NotEnrolled(why) => why.clone().into(),
            LeaseFailure::Busy
            | LeaseFailure::Read(_)
            | LeaseFailure::Withheld(_)
            | LeaseFailure::NoGenesis
            | LeaseFailure::Gone => Self::new(Code::NoLease, failure.to_string()),
        }
    }
}

impl From<NotEnrolled> for Problem {
    fn from(why: NotEnrolled) -> Self {
        let code = match &why {
            NotEnrolled::NoToken { .. }
            | NotEnrolled::Unknown { .. }
            | NotEnrolled::Revoked { .. }
            | NotEnrolled::Ended { .. } => Code::NotEnrolled,
            NotEnrolled::Elsewhere { .. } => Code::EnrolledElsewhere,
        };
        Self::new(code, why.to_string())
    }
}

impl From<access::Refused> for Problem {
    fn from(why: access::Refused) -> Self {
        use access::Refused;
        let code = match &why {
            Refused::Nobody | Refused::NoFile => Code::NoIdentity,
            Refused::Invalid(Invalid::IssuerAway { .. }) => Code::IssuerAway,
            Refused::UnknownToken | Refused::Ended { .. } | Refused::Invalid(_) | Refused::NoIssuer => {
                Code::InvalidToken
            }
            Refused::Untrusted(_) => Code::InvalidCertificate,
            Refused::NoRole { .. } => Code::NotPermitted,
        };
        Self::new(code, why.to_string())
    }
}

impl From<NotDone> for Problem {
    fn from(why: NotDone) -> Self {
        let code = match &why {
            NotDone::Scope { .. } => Code::ScopeNotAllowed,
            NotDone::TooMany(_) => Code::BlastLimit,
            NotDone::NoAutomation => Code::WebhookKey,
            NotDone::Document(_) => Code::Unmapped,
            NotDone::Sign(error) => {
                tracing::error!(error = error as &dyn std::error::Error, "a webhook's key cannot sign");
                Code::WebhookKey
            }
        };
        Self::new(code, why.to_string())
    }
}

impl Problem {
    /// The cause is for the operator's log, not for the caller.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        let detail = "the node failed at this request; its operator finds the cause in its log";
        Self::new(Code::Internal, detail)
    }
}

pub async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    Problem::new(
        Code::NoSuchPath,
        format!(
            "there is nothing at {path}; the API is under /v1/ and /log/, and POST /agent/shutdown (see GET /openapi.json)"
        ),
    )
}

pub async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::Method,
        "this path answers another method, which the header Allow names; commands are sent with POST",
    )
}
