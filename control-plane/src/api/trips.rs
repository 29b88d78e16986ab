//! `POST /v1/trips`: an agent's own process stops its scope. Nobody signs that: its token speaks for it (S7).

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Refusal;
use tagout_proto::limits::STOP_MAX_BYTES;
use tagout_proto::lock::Trip;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::TripAnswer;
use tracing::Instrument;

use super::Api;
use super::credential::Credential;
use super::guards::note_refused;
use super::problem::{Code, Problem};
use crate::clock;
use crate::tls::Peer;
use crate::way::way;

/// The body is the document, byte for byte: its SHA-256 is the lock's id. Only the log keeps it, since the guard that sends
/// it denies by it already, and sends it again until it is taken.
pub async fn trip(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    credential: Result<Credential, Problem>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let noted = |problem| note_refused(&api, peer.as_ref(), problem);
    let Credential(token) = credential.map_err(noted)?;
    let document = String::from_utf8(body.map_err(unreadable)?.into()).map_err(|_| {
        Problem::new(Code::BadDocument, "the trip is not UTF-8 text; send the document itself")
    })?;
    let trip = Trip::parse(document.as_bytes()).map_err(Refusal::from)?;
    admit(&api, token.as_ref(), &trip.scope).await.map_err(noted)?;

    let envelope = Envelope { document, signatures: Vec::new() };
    let by = trip.by();
    let receipt = api.service.trip(&envelope).instrument(way(&envelope.digest())).await?;
    let (digest, index, scope) = (receipt.digest, receipt.index, trip.scope);
    if !receipt.repeated {
        tracing::warn!(%digest, index, %scope, by, reason = trip.reason, "an agent tripped");
    }
    let status = if receipt.repeated { StatusCode::OK } else { StatusCode::CREATED };
    let answer = TripAnswer { digest, scope, index, time_ms: receipt.time_ms, repeated: receipt.repeated };
    Ok((status, axum::Json(answer)).into_response())
}

/// A trip always takes a token, also where leases take none: anybody could stop everybody otherwise. Whom this node does
/// not know, another one may have enrolled a moment ago, and a refusal is the end of it: so it asks for the newest state.
async fn admit(api: &Api, token: Option<&Digest>, scope: &Scope) -> Result<(), Problem> {
    let Some(token) = token else {
        let detail = format!(
            "a trip takes the token of an enrolled agent, and none was sent: make one with `tagout agent enroll {scope}` and \
             give it to the client"
        );
        return Err(Problem::new(Code::NotEnrolled, detail));
    };
    let enrolled = || api.service.replica.ledger().enrolled(token, scope, clock::wall_ms());
    match enrolled() {
        Err(_) if api.service.cluster.read_barrier().await.is_ok() => Ok(enrolled()?),
        known => Ok(known?),
    }
}

fn unreadable(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("a trip has at most {STOP_MAX_BYTES} bytes: shorten its reason");
            Problem::new(Code::TooLarge, detail)
        }
        _ => Problem::new(Code::BadRequest, sentence(rejection.body_text())),
    }
}
