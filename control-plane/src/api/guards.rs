//! What guards ask and say: leases and confirmations.

use std::time::Instant;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::lease::{LeaseRequest, LeaseResponse};
use tagout_proto::limits::{AGENTS_PER_LEASE_MAX, INSTANCE_MAX_BYTES, KNOWN_PER_LEASE_MAX};
use tagout_proto::sentence::sentence;
use tagout_proto::wire::Confirmation;

use super::Api;
use super::credential::Credential;
use super::problem::{Code, Problem};
use crate::clock;
use crate::leases::LEASE_TIMEOUT;
use crate::tls::Peer;
use crate::way::{WAY, way};

/// `POST /v1/leases`.
pub async fn lease(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    credential: Result<Credential, Problem>,
    request: Result<Json<LeaseRequest>, JsonRejection>,
) -> Result<Json<LeaseResponse>, Problem> {
    let noted = |problem| note_refused(&api, peer.as_ref(), problem);
    let Credential(token) = credential.map_err(noted)?;
    let Json(request) = request.map_err(unreadable)?;
    check_instance(&request.instance)?;
    if request.agents.is_empty() || request.agents.len() > AGENTS_PER_LEASE_MAX {
        let detail = format!("a lease is for 1 to {AGENTS_PER_LEASE_MAX} agents; send several requests");
        return Err(Problem::new(Code::BadRequest, detail));
    }
    if request.known.len() > KNOWN_PER_LEASE_MAX {
        let detail = format!("a lease request names at most {KNOWN_PER_LEASE_MAX} known locks");
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let began = Instant::now();
    let answer = tokio::time::timeout(LEASE_TIMEOUT, api.service.leases.ask(request, token)).await;
    metrics::histogram!("tagout_lease_seconds").record(began.elapsed());
    let answer = answer.map_err(|_| {
        Problem::new(Code::NoLease, "no quorum answered in time; try again or ask another node")
    })?;
    Ok(Json(answer.map_err(|failure| noted(failure.into()))?))
}

/// Whoever shows no good token may be an agent under another name (S8).
pub(super) fn note_refused(api: &Api, peer: Option<&Extension<Peer>>, problem: Problem) -> Problem {
    if matches!(problem.code(), Code::NotEnrolled | Code::EnrolledElsewhere) {
        metrics::counter!("tagout_not_enrolled_total", "code" => problem.code().name()).increment(1);
        api.security.refused(peer.map(|Extension(peer)| peer.address.to_string()), None, &problem);
    }
    problem
}

/// `POST /v1/confirmations`. Step ⑧ of a stop arrives here.
pub async fn confirm(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    credential: Result<Credential, Problem>,
    confirmation: Result<Json<Confirmation>, JsonRejection>,
) -> Result<Response, Problem> {
    let noted = |problem| note_refused(&api, peer.as_ref(), problem);
    let Credential(token) = credential.map_err(noted)?;
    let Json(confirmation) = confirmation.map_err(unreadable)?;
    check_instance(&confirmation.instance)?;
    let (lock, agent, instance) =
        (confirmation.lock, confirmation.agent.clone(), confirmation.instance.clone());
    let by = confirmation.by;
    let admitted = api.service.replica.ledger().admits(token.as_ref(), &agent, clock::wall_ms());
    admitted.map_err(|why| noted(why.into()))?;
    if !api.service.outcomes.confirm(confirmation) {
        let detail = "no stop with this id is being accounted for; its outcome may be in the log already";
        return Err(Problem::new(Code::NoSuchStop, detail));
    }
    tracing::debug!(target: WAY, parent: &way(&lock), %agent, instance, ?by, "confirmed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) fn check_instance(instance: &str) -> Result<(), Problem> {
    if !instance.is_empty()
        && instance.len() <= INSTANCE_MAX_BYTES
        && instance.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(());
    }
    let detail = format!("\"instance\" is 1 to {INSTANCE_MAX_BYTES} bytes of printable ASCII without spaces");
    Err(Problem::new(Code::BadRequest, detail))
}

fn unreadable(rejection: JsonRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = "the request is too large; ask for fewer agents at a time, in several requests";
            Problem::new(Code::TooLarge, detail)
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(Code::NotJson, sentence(rejection.body_text())),
        // A key that is missing or wrong is a bad request like any other.
        _ => Problem::new(Code::BadRequest, sentence(rejection.body_text())),
    }
}

#[cfg(test)]
mod fuzz;
