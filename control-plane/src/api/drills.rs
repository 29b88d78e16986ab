//! `/v1/drills`: evidence of stops that were practised. It comes into the log like a command and changes nothing.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::drill::Drill;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Refusal;
use tagout_proto::wire::{DrillAnswer, Drills};
use tracing::Instrument;

use super::Api;
use super::access::Reader;
use super::commands::{read_envelope, refuse};
use super::form::{FormRejection, WholeForm};
use super::problem::{Code, Problem};
use super::read::{ScopeQuery, scope_of, touches};
use crate::fair::Source;
use crate::tls::Peer;
use crate::way::way;

/// `POST /v1/drills`: the parts `drill` and `signature`.
pub async fn append(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    form: Result<WholeForm, FormRejection>,
) -> Response {
    let envelope = match form {
        Ok(WholeForm(form)) => read_envelope(form, "drill").await,
        Err(FormRejection::Body(problem)) => Err(problem),
        Err(FormRejection::NotMultipart) => {
            let detail = "send multipart/form-data with the parts drill and signature (`tagout drill` does)";
            Err(Problem::new(Code::NotMultipart, detail))
        }
    };
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(problem) => return refuse(&api, peer, None, problem),
    };
    let from = peer.as_ref().map_or(Source::OWN, |Extension(peer)| peer.address.ip().into());
    match take(&api, &envelope, from).instrument(way(&envelope.digest())).await {
        Ok(answer) => {
            let status = if answer.repeated { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(answer)).into_response()
        }
        Err(problem) => refuse(&api, peer, Some(&envelope), problem),
    }
}

async fn take(api: &Api, envelope: &Envelope, from: Source) -> Result<DrillAnswer, Problem> {
    let drill = Drill::parse(envelope.document.as_bytes()).map_err(Refusal::from)?;
    let receipt = api.service.drill_from(from, envelope).await?;
    metrics::counter!("tagout_commands_total", "action" => "drill", "code" => "ok").increment(1);
    let (scope, lock) = (drill.scope, drill.stop.digest);
    let (digest, index, repeated) = (receipt.digest, receipt.index, receipt.repeated);
    if !repeated {
        let (slowest_ms, bounded) = (drill.slowest_ms, drill.bounded);
        tracing::info!(%lock, index, %scope, slowest_ms, bounded, "a drill is in the log");
    }
    Ok(DrillAnswer { scope, lock, digest, index, time_ms: receipt.time_ms, repeated })
}

/// `GET /v1/drills?scope=…`.
pub async fn list(
    State(api): State<Api>,
    reader: Reader,
    query: ScopeQuery,
) -> Result<Json<Drills>, Problem> {
    let asked = scope_of(query)?;
    let scopes = reader.sight().narrow(&asked)?;
    let ledger = api.service.replica.ledger();
    let drills = ledger.drills(&asked).into_iter().filter(|drill| touches(&scopes, &drill.scope));
    Ok(Json(Drills { drills: drills.cloned().collect() }))
}
