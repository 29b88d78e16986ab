//! `/v1/proposals`: commands that give and still lack signatures. Whoever sends one with enough of them, others' included,
//! has it take effect.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::command::{Action, ActionKind, Command};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Ledger, Proposed, Refusal};
use tagout_proto::wire::{Agent, CommandAnswer, Enabled, Enables, ProposalRecord, ProposalShown, Proposals};
use tracing::Instrument;

use super::access::{Claim, Sight};
use super::commands::{COMMAND, answer, read_envelope, refuse};
use super::form::{FormRejection, WholeForm};
use super::problem::{Code, Problem};
use super::read::{ScopeQuery, agents_on, find_instances, scope_of, touches};
use super::{Api, Reader};
use crate::clock;
use crate::fair::Source;
use crate::service::Gathered;
use crate::tls::Peer;
use crate::way::way;

/// Agents that are named of those that a command lets do more; all of them are counted.
const ENABLED_SHOWN_MAX: usize = 100;

/// `POST /v1/proposals`: the parts of a command.
pub async fn propose(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    claim: Claim,
    form: Result<WholeForm, FormRejection>,
) -> Response {
    let envelope = match form {
        Ok(WholeForm(form)) => read_envelope(form, COMMAND).await,
        Err(FormRejection::Body(problem)) => Err(problem),
        Err(FormRejection::NotMultipart) => {
            let detail = "send multipart/form-data with the parts command and signature, as to /v1/commands";
            Err(Problem::new(Code::NotMultipart, detail))
        }
    };
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(problem) => return refuse(&api, peer, None, problem),
    };
    let from = peer.as_ref().map_or(Source::OWN, |Extension(peer)| peer.address.ip().into());
    match gather(&api, &claim, &envelope, from).instrument(way(&envelope.digest())).await {
        Ok(Sent::InForce(answer)) => {
            claim.note_if_wrong(&api, &envelope);
            let status = if answer.repeated { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(answer)).into_response()
        }
        Ok(Sent::Proposed(record)) => {
            claim.note_if_wrong(&api, &envelope);
            (StatusCode::ACCEPTED, Json(record)).into_response()
        }
        Err(problem) => refuse(&api, peer, Some(&envelope), problem),
    }
}

enum Sent {
    InForce(CommandAnswer),
    Proposed(ProposalRecord),
}

async fn gather(api: &Api, claim: &Claim, envelope: &Envelope, from: Source) -> Result<Sent, Problem> {
    let command = Command::parse(envelope.document.as_bytes()).map_err(Refusal::from)?;
    let (id, action, scope) = (envelope.digest(), command.action.kind(), command.action.scope());
    if action.loosens() {
        claim.may_give(api, &scope).await?;
    }
    let found = find_instances(&api.service, scope.clone());
    match api.service.gather_from(from, envelope, &command).await? {
        Gathered::InForce(receipt) => {
            count(action, "ok");
            if !receipt.repeated {
                tracing::info!(digest = %id, index = receipt.index, %action, %scope, "a proposal took effect");
            }
            Ok(Sent::InForce(answer(api, &command, receipt, found).await))
        }
        Gathered::Proposed => {
            let ledger = api.service.replica.ledger();
            let proposed = ledger.proposed(&id).ok_or(Refusal::NoSuchProposal(id))?;
            let record = record(&ledger, id, proposed);
            count(action, "proposed");
            let (signed_by, missing) = (record.signed_by.join(", "), record.missing.as_deref());
            tracing::info!(digest = %id, %action, %scope, signed_by, missing, "a proposal was signed");
            Ok(Sent::Proposed(record))
        }
    }
}

fn count(action: ActionKind, code: &'static str) {
    metrics::counter!("tagout_commands_total", "action" => action.name(), "code" => code).increment(1);
}

/// `GET /v1/proposals?scope=…`.
pub async fn list(
    State(api): State<Api>,
    reader: Reader,
    query: ScopeQuery,
) -> Result<Json<Proposals>, Problem> {
    let scopes = reader.sight().narrow(&scope_of(query)?)?;
    let ledger = api.service.replica.ledger();
    let open = ledger.proposals(clock::wall_ms()).into_iter();
    let touching = open.filter(|(_, p)| touches(&scopes, &p.scope));
    let proposals = touching.map(|(id, proposed)| record(&ledger, id, proposed)).collect();
    Ok(Json(Proposals { proposals }))
}

/// `GET /v1/proposals/{id}`.
pub async fn show(
    State(api): State<Api>,
    reader: Reader,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ProposalShown>, Problem> {
    let id = path.ok().and_then(|Path(id)| id.parse::<Digest>().ok()).ok_or_else(|| {
        let detail =
            "a proposal's id is a SHA-256 as 64 lowercase hex digits; /v1/proposals lists the open ones";
        Problem::new(Code::BadProposalId, detail)
    })?;
    let (proposal, actions) = {
        let ledger = api.service.replica.ledger();
        let proposed = ledger.proposed(&id).ok_or_else(|| gone(&ledger, reader.sight(), &id))?;
        reader.sight().touching(&proposed.scope)?;
        (record(&ledger, id, proposed), with_releases(&ledger, proposed))
    };
    let (agents, unheard) = agents_on(&api.service, &reader.sight().narrow(&proposal.scope)?).await;
    let enables = enables(&api.service.replica.ledger(), &actions, &agents, unheard);
    Ok(Json(ProposalShown { proposal, enables }))
}

fn gone(ledger: &Ledger, sight: &Sight, id: &Digest) -> Problem {
    match ledger.refused_proposal(id) {
        Some((scope, why)) if sight.touches(scope) => Problem::new(Code::NoSuchProposal, why.to_string()),
        _ => Refusal::NoSuchProposal(*id).into(),
    }
}

fn record(ledger: &Ledger, id: Digest, proposed: &Proposed) -> ProposalRecord {
    let (signed_by, missing) = ledger.standing(proposed);
    ProposalRecord {
        id,
        action: proposed.action,
        scope: proposed.scope.clone(),
        command: proposed.envelope.clone(),
        signed_by,
        missing: missing.map(|lacking| lacking.to_string()),
        entries: proposed.entries.clone(),
        expires_at_ms: proposed.expires_at_ms,
    }
}

/// What is proposed; with a start also the releases that are, since one ceremony proposes both.
fn with_releases(ledger: &Ledger, proposed: &Proposed) -> Vec<Action> {
    let read = |proposed: &Proposed| Command::parse(proposed.envelope.document.as_bytes()).map(|c| c.action);
    let mut actions: Vec<Action> = read(proposed).into_iter().collect();
    if proposed.action == ActionKind::Start {
        let open = ledger.proposals(clock::wall_ms());
        let releases = open.into_iter().filter(|(_, p)| p.action == ActionKind::Release);
        actions.extend(releases.filter_map(|(_, p)| read(p).ok()));
    }
    actions
}

fn enables(ledger: &Ledger, actions: &[Action], agents: &[Agent], unheard: u64) -> Enables {
    let now_ms = clock::wall_ms();
    let more = |agent: &Agent| {
        let verdict_then = ledger.verdict_after(actions, &agent.scope, now_ms);
        let (scope, instances) = (agent.scope.clone(), agent.instances.len() as u64);
        (verdict_then > agent.verdict).then_some(Enabled {
            scope,
            instances,
            verdict: agent.verdict,
            verdict_then,
        })
    };
    let mut first: Vec<Enabled> = agents.iter().filter_map(more).collect();
    let more = first.len() as u64;
    first.truncate(ENABLED_SHOWN_MAX);
    let instances = agents.iter().map(|agent| agent.instances.len() as u64).sum();
    Enables { agents: agents.len() as u64, instances, more, first, unheard }
}
