//! From what went wrong to a status, a stable code and a sentence.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tagout_proto::authority::Unauthorised;
use tagout_proto::ledger::Refusal;
use tagout_proto::trust::TrustError;
use tagout_proto::wire;

use crate::leases::LeaseFailure;
use crate::raft::ProposeError;
use crate::service::SubmitError;

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

/// Seconds after which a client may try again what the service could not do now.
const RETRY_AFTER_S: &str = "1";

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = wire::Problem {
            code: self.code.into(),
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            detail: self.detail,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 15.5.2, wants a challenge; this one is no registered scheme, since none signs documents.
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("SSHSIG namespace=\"tagout-command\""),
            );
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, "bad-document"),
            Refusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Refusal::Unsigned(_) => (StatusCode::UNAUTHORIZED, "unsigned"),
            Refusal::NoGenesis => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            Refusal::WrongDeployment { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong-deployment"),
            Refusal::Unauthorised(Unauthorised::NoValidSignature(_)) => {
                (StatusCode::UNAUTHORIZED, "no-valid-signature")
            }
            Refusal::Unauthorised(Unauthorised::NoRole { .. }) => (StatusCode::FORBIDDEN, "no-role"),
            Refusal::Unauthorised(Unauthorised::BelowThreshold { .. }) => {
                (StatusCode::FORBIDDEN, "below-threshold")
            }
            Refusal::Used { .. } => (StatusCode::CONFLICT, "used"),
            Refusal::NoSuchLock(_) => (StatusCode::NOT_FOUND, "no-such-lock"),
            Refusal::LockOutsideScope { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "lock-outside-scope"),
            Refusal::NotReleased(_) => (StatusCode::CONFLICT, "not-released"),
            Refusal::AlreadyReleased(..) => (StatusCode::CONFLICT, "already-released"),
            Refusal::TakesNoStart(_) => (StatusCode::UNPROCESSABLE_ENTITY, "takes-no-start"),
            Refusal::StartElsewhere { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "start-elsewhere"),
            Refusal::TooManyWaves(_) => (StatusCode::CONFLICT, "too-many-waves"),
            Refusal::OtherLocks { .. } => (StatusCode::CONFLICT, "other-locks"),
            Refusal::LostFrom { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "lost-from"),
            Refusal::NothingLost => (StatusCode::UNPROCESSABLE_ENTITY, "nothing-lost"),
            Refusal::TooManyRemembered => (StatusCode::CONFLICT, "too-many-remembered"),
            Refusal::AuthorityAhead { .. } => (StatusCode::CONFLICT, "authority-ahead"),
            Refusal::VoidBefore { .. } | Refusal::Void(_) => (StatusCode::CONFLICT, "void"),
            Refusal::GrantOutsideScope { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "grant-outside-scope"),
            Refusal::DisablesMore { .. } => (StatusCode::CONFLICT, "disables-more"),
            Refusal::RestoreElsewhere(_) => (StatusCode::CONFLICT, "restore-elsewhere"),
            Refusal::RuleInForce(_) => (StatusCode::CONFLICT, "rule-in-force"),
            Refusal::RuleUnknown { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "rule-unknown"),
            Refusal::Trust(error) => trust(error),
            Refusal::WrongEpoch { .. } => (StatusCode::CONFLICT, "wrong-epoch"),
            Refusal::SeenAhead { .. } => (StatusCode::CONFLICT, "seen-ahead"),
            Refusal::Expired(_) => (StatusCode::UNPROCESSABLE_ENTITY, "expired"),
            Refusal::OutcomeKnown(_) => (StatusCode::CONFLICT, "outcome-known"),
            Refusal::TooManyGrants { .. } => (StatusCode::CONFLICT, "too-many-grants"),
        };
        Self::new(status, code, refusal.to_string())
    }
}

fn trust(error: &TrustError) -> (StatusCode, &'static str) {
    match error {
        TrustError::VersionGap { .. } => (StatusCode::CONFLICT, "version-gap"),
        TrustError::OtherPredecessor { .. } => (StatusCode::CONFLICT, "other-predecessor"),
        TrustError::RootThreshold(_) => (StatusCode::FORBIDDEN, "root-threshold"),
        TrustError::KeyReturns { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "key-returns"),
        TrustError::NotRetirable { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not-retirable"),
        TrustError::RootKey(_) => (StatusCode::FORBIDDEN, "root-key"),
        TrustError::TooManySuspended => (StatusCode::CONFLICT, "too-many-suspended"),
        TrustError::EpochRollback { .. } => (StatusCode::CONFLICT, "epoch-rollback"),
        TrustError::EpochReturns(_) => (StatusCode::CONFLICT, "epoch-returns"),
        TrustError::RestoreAuthority { .. } => (StatusCode::CONFLICT, "restore-authority"),
        // The ledger tells these as refusals of its own.
        TrustError::Malformed(_)
        | TrustError::TooLarge(_)
        | TrustError::Unsigned(_)
        | TrustError::Unauthorised(_)
        | TrustError::NothingToLearn(_)
        | TrustError::OtherDeployment { .. } => (StatusCode::BAD_REQUEST, "bad-document"),
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::Consensus(ProposeError::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", error.to_string())
            }
            SubmitError::Consensus(_) | SubmitError::Timeout => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-committed", error.to_string())
            }
            SubmitError::Answer(source) => Self::internal(&source),
        }
    }
}

impl From<Arc<LeaseFailure>> for Problem {
    fn from(failure: Arc<LeaseFailure>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no-lease", failure.to_string())
    }
}

impl Problem {
    /// The cause is for the operator's log, not for the caller.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        let detail = "the node failed at this request; its operator finds the cause in its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

pub async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        format!("there is nothing at {path}; the API is under /v1/ and /log/, and POST /agent/shutdown"),
    )
}

pub async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "this path answers another method, which the header Allow names; commands are sent with POST",
    )
}
