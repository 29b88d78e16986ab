//! What guards ask and say: leases and confirmations.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::lease::{LeaseRequest, LeaseResponse};
use tagout_proto::limits::{AGENTS_PER_LEASE_MAX, KNOWN_PER_LEASE_MAX};
use tagout_proto::sentence::sentence;
use tagout_proto::wire::Confirmation;

use super::Api;
use super::problem::{Code, Problem};
use crate::leases::LEASE_TIMEOUT;
use crate::way::{WAY, way};

const INSTANCE_MAX_BYTES: usize = 128;

/// `POST /v1/leases`.
pub async fn lease(
    State(api): State<Api>,
    request: Result<Json<LeaseRequest>, JsonRejection>,
) -> Result<Json<LeaseResponse>, Problem> {
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
    let answer = tokio::time::timeout(LEASE_TIMEOUT, api.service.leases.ask(request)).await;
    metrics::histogram!("tagout_lease_seconds").record(began.elapsed());
    let answer = answer.map_err(|_| {
        Problem::new(Code::NoLease, "no quorum answered in time; try again or ask another node")
    })?;
    Ok(Json(answer?))
}

/// `POST /v1/confirmations`. Step ⑧ of a stop arrives here.
pub async fn confirm(
    State(api): State<Api>,
    confirmation: Result<Json<Confirmation>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(confirmation) = confirmation.map_err(unreadable)?;
    check_instance(&confirmation.instance)?;
    let (lock, agent, instance) =
        (confirmation.lock, confirmation.agent.clone(), confirmation.instance.clone());
    let by = confirmation.by;
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
