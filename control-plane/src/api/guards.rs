//! What guards ask and say: leases and confirmations.

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
use super::problem::Problem;
use crate::leases::LEASE_TIMEOUT;

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
        return Err(Problem::bad_request("bad-request", detail));
    }
    if request.known.len() > KNOWN_PER_LEASE_MAX {
        let detail = format!("a lease request names at most {KNOWN_PER_LEASE_MAX} known locks");
        return Err(Problem::bad_request("bad-request", detail));
    }
    let answer = tokio::time::timeout(LEASE_TIMEOUT, api.service.leases.ask(request)).await;
    let answer = answer.map_err(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-lease",
            "no quorum answered in time; try again or ask another node",
        )
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
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-such-stop", detail));
    }
    tracing::info!(%lock, %agent, instance, ?by, "an instance confirmed a stop");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn check_instance(instance: &str) -> Result<(), Problem> {
    if !instance.is_empty()
        && instance.len() <= INSTANCE_MAX_BYTES
        && instance.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(());
    }
    let detail = format!("\"instance\" is 1 to {INSTANCE_MAX_BYTES} bytes of printable ASCII without spaces");
    Err(Problem::bad_request("bad-request", detail))
}

fn unreadable(rejection: JsonRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = "the request is too large; ask for fewer agents at a time, in several requests";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
        }
        // A key that is missing or wrong is a bad request like any other.
        StatusCode::UNPROCESSABLE_ENTITY => {
            Problem::bad_request("bad-request", sentence(rejection.body_text()))
        }
        status => Problem::new(status, "bad-request", sentence(rejection.body_text())),
    }
}

#[cfg(test)]
mod fuzz;
