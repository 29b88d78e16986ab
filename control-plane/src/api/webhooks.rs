//! `POST /v1/webhooks/{name}`: a security platform takes away. See `webhooks/`.

use std::collections::BTreeSet;
use std::fmt::Display;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tagout_proto::command::Command;
use tagout_proto::ledger::Refusal;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::CommandAnswer;
use tracing::Instrument;

use super::problem::{Code, Problem};
use super::read::{SEEN_WITHIN, reach_of};
use super::{Api, WEBHOOK_BODY_MAX_BYTES, commands, read};
use crate::clock;
use crate::due::HOUR_MS;
use crate::fair::Source;
use crate::tls::Peer;
use crate::way::way;
use crate::webhooks::{self, Headers, Integration, NotDone, Sent, TooMany, Unmapped, Wanted, Webhook};

/// 201 with what took effect now, 200 with what had before, 204 where the request asks for nothing.
pub async fn webhook(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    let Some(webhook) = api.webhooks.get(&name) else {
        let detail = "this node's configuration has no webhook of that name: see \"webhooks\" in tagout.toml";
        return Problem::new(Code::NoSuchWebhook, detail).into_response();
    };
    let from = peer.as_ref().map_or(Source::OWN, |Extension(peer)| peer.address.ip().into());
    let took = match read_request(&api, webhook, &headers, body, from).await {
        Ok(Some((sent, wanted))) => {
            carry_out(&api, &webhook.integration, &sent, wanted, from).await.map(Some)
        }
        Ok(None) => Ok(None),
        Err(problem) => Err(of(&webhook.integration.which, &problem)),
    };
    let code = took.as_ref().map_or_else(|problem| problem.code().name(), |_| "ok");
    metrics::counter!("tagout_webhooks_total", "webhook" => name.clone(), "code" => code).increment(1);
    match took {
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Ok(Some(answer)) => {
            let CommandAnswer { digest, index, action, scope, repeated, .. } = &answer;
            tracing::warn!(webhook = name, %digest, index, %action, %scope, repeated, "a webhook took away");
            let status = if *repeated { StatusCode::OK } else { StatusCode::CREATED };
            (status, axum::Json(answer)).into_response()
        }
        Err(problem) => {
            // Pending is no refusal: it holds where it was pushed.
            if !matches!(problem.code(), Code::Pending | Code::Busy) {
                api.security.refused(peer.map(|Extension(peer)| peer.address.to_string()), None, &problem);
            }
            problem.into_response()
        }
    }
}

/// Who sent it and what it asks for; `None` where that is nothing.
async fn read_request<'a>(
    api: &Api,
    webhook: &Webhook,
    headers: &'a HeaderMap,
    body: Result<Bytes, BytesRejection>,
    from: Source,
) -> Result<Option<(Sent<'a>, Wanted)>, Problem> {
    let body = body.map_err(unreadable)?;
    let header = |name: &'static str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| refused(&webhooks::Refused::Missing(name)))
    };
    let headers = Headers {
        id: header("webhook-id")?,
        timestamp: header("webhook-timestamp")?,
        signature: header("webhook-signature")?,
    };
    let now_ms = clock::wall_ms();
    let sent = {
        // Not in the lane of what people sign: anybody may send a body to be hashed (S10).
        let _turn = api.service.admission.verify(false, from).await?;
        webhook.verify(&headers, &body, now_ms).map_err(|why| refused(&why))?
    };
    let body = serde_json::from_slice(&body)
        .map_err(|e| Problem::new(Code::BadWebhook, format!("the body is no JSON: {}", sentence(e))))?;
    let unmapped = |why: Unmapped| {
        let about = webhook.about(&body).map(|about| format!("about {about}: ")).unwrap_or_default();
        Problem::new(Code::Unmapped, format!("{about}{why}"))
    };
    Ok(webhook.wanted(&body).map_err(unmapped)?.map(|wanted| (sent, wanted)))
}

/// The same with whose request it was, which the security log and notifications do not know otherwise.
pub(super) fn of(whose: impl Display, problem: &Problem) -> Problem {
    Problem::new(problem.code(), format!("{whose}: {}", problem.detail()))
}

/// From what is wanted, by whoever was verified, to a command that took effect; or to the lock that the case has already.
pub(super) async fn carry_out(
    api: &Api,
    integration: &Integration,
    sent: &Sent<'_>,
    wanted: Wanted,
    from: Source,
) -> Result<CommandAnswer, Problem> {
    let asked = format!("{} wanted to {wanted}", integration.which);
    take(api, integration, sent, wanted, from).await.map_err(|problem| of(asked, &problem))
}

async fn take(
    api: &Api,
    integration: &Integration,
    sent: &Sent<'_>,
    wanted: Wanted,
    from: Source,
) -> Result<CommandAnswer, Problem> {
    let now_ms = clock::wall_ms();
    let _turn = integration.turn(&wanted).await;
    let (deployment, in_force, before) = {
        let ledger = api.service.replica.ledger();
        let authority = ledger.authority().ok_or(Refusal::NoGenesis)?;
        let principal = integration.principal(authority)?;
        let in_force = ledger.locked_since(principal, now_ms.saturating_sub(HOUR_MS));
        let before = ledger.lock_of_case(&wanted.scope, wanted.kind, &wanted.case, principal);
        (authority.deployment.clone(), in_force, before)
    };
    if let Some(record) = before {
        let found = read::find_instances(&api.service, wanted.scope.clone());
        return Ok(CommandAnswer {
            action: record.lock.kind.action(),
            digest: record.lock.id,
            index: record.lock.index,
            time_ms: record.lock.time_ms,
            repeated: true,
            awaited: 0,
            reach: reach_of(&api.service, &wanted.scope, found).await,
            scope: wanted.scope,
        });
    }
    let (living, _) = api.service.cluster.instances_below(&Scope::fleet(), SEEN_WITHIN).await;
    let agents: BTreeSet<_> = living.into_iter().map(|(agent, _)| agent).collect();
    integration.allow(&wanted, &in_force, &agents, now_ms).inspect_err(|why| {
        if let NotDone::TooMany(TooMany { limit, agents }) = why {
            let Wanted { scope, kind, case, .. } = &wanted;
            let (which, action) = (&integration.which, kind.action());
            tracing::warn!(%which, %action, %scope, case, limit, agents, "what it asks for is for people to do");
        }
    })?;
    let envelope = integration.sign(&deployment, sent, wanted, now_ms)?;
    let command = Command::parse(envelope.document.as_bytes()).map_err(Refusal::from)?;
    let span = way(&envelope.digest());
    commands::take(api, &envelope, &command, from).instrument(span).await
}

fn refused(why: &webhooks::Refused) -> Problem {
    use webhooks::Refused::{Id, Missing, Signature, Time, Timestamp};
    let code = match why {
        Missing(_) | Signature | Time { .. } => Code::WebhookRefused,
        Id | Timestamp => Code::BadWebhook,
    };
    Problem::new(code, why.to_string())
}

fn unreadable(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!(
                "a webhook's body has at most {WEBHOOK_BODY_MAX_BYTES} bytes: send less of the alert"
            );
            Problem::new(Code::TooLarge, detail)
        }
        _ => Problem::new(Code::BadRequest, sentence(rejection.body_text())),
    }
}
