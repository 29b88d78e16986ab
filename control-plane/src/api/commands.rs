//! `POST /v1/commands` and `POST /agent/shutdown`: signed commands by multipart. Step ② of a stop begins here.

use std::time::Instant;

use axum::extract::{Extension, Multipart, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tagout_proto::command::{ActionKind, Command};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::Receipt;
use tagout_proto::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES, SIGNATURES_MAX};
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::{CommandAnswer, Instance};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::access::Claim;
use super::form::{FormRejection, WholeForm};
use super::problem::{Code, Problem};
use super::{Api, read};
use crate::fair::Source;
use crate::tls::Peer;
use crate::way::{WAY, way};

/// The part with what was signed.
pub(super) const COMMAND: &str = "command";

const HOW_TO_SIGN: &str = "a stop is a document with an SSH signature, and a bearer token never replaces one:\n\
    ssh-keygen -Y sign -n tagout-command -f ~/.ssh/id_ed25519 stop.json\n\
    curl --fail-with-body --cacert ca.pem -F command=@stop.json -F signature=@stop.json.sig https://NODE/agent/shutdown\n\
    (`tagout stop SCOPE --reason WHY --print-curl` writes stop.json and prints two such lines)";

pub async fn command(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    claim: Claim,
    form: Result<WholeForm, FormRejection>,
) -> Response {
    match form {
        Ok(WholeForm(form)) => accept(&api, peer, claim, form, Form::Full).await,
        Err(FormRejection::Body(problem)) => refuse(&api, peer, None, problem),
        Err(FormRejection::NotMultipart) => {
            let detail =
                format!("send multipart/form-data with the parts command and signature; {HOW_TO_SIGN}");
            refuse(&api, peer, None, Problem::new(Code::NotMultipart, detail))
        }
    }
}

pub async fn shutdown(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    claim: Claim,
    form: Result<WholeForm, FormRejection>,
) -> Response {
    match form {
        Ok(WholeForm(form)) => accept(&api, peer, claim, form, Form::Shutdown).await,
        Err(FormRejection::Body(problem)) => refuse(&api, peer, None, problem),
        Err(FormRejection::NotMultipart) => {
            refuse(&api, peer, None, Problem::new(Code::Unsigned, HOW_TO_SIGN))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    /// A stop, where `agent_id` may stand for `scope`, and `action` and `mode` may be left out.
    Shutdown,
}

async fn accept(
    api: &Api,
    peer: Option<Extension<Peer>>,
    claim: Claim,
    form: Multipart,
    wanted: Form,
) -> Response {
    let began = Instant::now();
    let (envelope, result) = match read_envelope(form, COMMAND).await {
        Ok(envelope) => {
            let from = peer.as_ref().map_or(Source::OWN, |Extension(peer)| peer.address.ip().into());
            // ② The rest of its way bears its digest, on every node.
            let span = way(&envelope.digest());
            tracing::debug!(target: WAY, parent: &span, "received");
            let result = submit(api, &claim, &envelope, wanted, from).instrument(span).await;
            (Some(envelope), result)
        }
        Err(problem) => (None, Err(problem)),
    };
    match result {
        Ok(answer) => {
            if let Some(envelope) = &envelope {
                claim.note_if_wrong(api, envelope);
            }
            metrics::counter!("tagout_commands_total", "action" => answer.action.name(), "code" => "ok")
                .increment(1);
            if !answer.repeated {
                metrics::histogram!("tagout_commit_seconds", "action" => answer.action.name())
                    .record(began.elapsed());
            }
            tracing::info!(
                digest = %answer.digest, index = answer.index, action = %answer.action, scope = %answer.scope,
                repeated = answer.repeated, "command took effect"
            );
            let status = if answer.repeated { StatusCode::OK } else { StatusCode::CREATED };
            (status, axum::Json(answer)).into_response()
        }
        Err(problem) => refuse(api, peer, envelope.as_ref(), problem),
    }
}

/// Counts and notes the attempt (S8), and answers it.
pub(super) fn refuse(
    api: &Api,
    peer: Option<Extension<Peer>>,
    envelope: Option<&Envelope>,
    problem: Problem,
) -> Response {
    metrics::counter!("tagout_commands_total", "action" => "refused", "code" => problem.code().name())
        .increment(1);
    // Neither says anything against whoever sent it.
    if !matches!(problem.code(), Code::Pending | Code::Busy) {
        api.security.refused(peer.map(|Extension(p)| p.address.to_string()), envelope, &problem);
    }
    problem.into_response()
}

async fn submit(
    api: &Api,
    claim: &Claim,
    envelope: &Envelope,
    wanted: Form,
    from: Source,
) -> Result<CommandAnswer, Problem> {
    let command =
        Command::parse(envelope.document.as_bytes()).map_err(tagout_proto::ledger::Refusal::from)?;
    let action = command.action.kind();
    match wanted {
        Form::Full if command.shutdown_form => {
            return Err(Problem::new(
                Code::BadDocument,
                "the command must name its action, its mode if it is a stop, and its scope as \"scope\"; only \
                 POST /agent/shutdown takes the short form",
            ));
        }
        Form::Shutdown if action != ActionKind::Stop => {
            return Err(Problem::new(Code::NotAStop, format!("a {action} is sent to POST /v1/commands")));
        }
        Form::Full | Form::Shutdown => {}
    }
    // What takes away is not asked for it: a token that has ended must not keep a stop out (S10).
    if action.loosens() {
        claim.may_give(api, &command.action.scope()).await?;
    }
    take(api, envelope, &command, from).await
}

/// Has a command take effect, and says what it reaches.
pub(super) async fn take(
    api: &Api,
    envelope: &Envelope,
    command: &Command,
    from: Source,
) -> Result<CommandAnswer, Problem> {
    let found = read::find_instances(&api.service, command.action.scope());
    let receipt = api.service.submit_from(from, envelope.clone(), command).await?;
    Ok(answer(api, command, receipt, found).await)
}

pub(super) async fn answer(
    api: &Api,
    command: &Command,
    receipt: Receipt,
    found: JoinHandle<Vec<(Scope, Instance)>>,
) -> CommandAnswer {
    let (action, scope) = (command.action.kind(), command.action.scope());
    CommandAnswer {
        action,
        digest: receipt.digest,
        index: receipt.index,
        time_ms: receipt.time_ms,
        repeated: receipt.repeated,
        awaited: receipt.awaited,
        reach: read::reach_of(&api.service, &scope, found).await,
        scope,
    }
}

/// Reads the parts `what` and `signature`, each within its bound.
pub(super) async fn read_envelope(mut form: Multipart, what: &'static str) -> Result<Envelope, Problem> {
    let broken = |e: axum::extract::multipart::MultipartError| {
        let code = match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::BadMultipart,
        };
        Problem::new(code, format!("the multipart body cannot be read: {}", sentence(e.body_text())))
    };
    let mut document = None;
    let mut signatures = Vec::new();
    while let Some(mut part) = form.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or("").to_owned();
        let max = match name.as_str() {
            "signature" => SIGNATURE_MAX_BYTES,
            name if name == what => COMMAND_MAX_BYTES,
            _ => {
                let shown: String = name.chars().take(40).collect();
                let detail = format!(
                    "part {shown:?} is unknown; send one {what} and 1 to {SIGNATURES_MAX} signature parts"
                );
                return Err(Problem::new(Code::BadMultipart, detail));
            }
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(broken)? {
            bytes.extend(chunk);
            if bytes.len() > max {
                let shorten = match name.as_str() {
                    "signature" => "one by an Ed25519 key has about 300 (an RSA key does not do)",
                    COMMAND => "shorten its reason, or name fewer locks in each of several commands",
                    _ => "list fewer instances; its counts hold for all",
                };
                let detail = format!("the {name} part has more than {max} bytes: {shorten}");
                return Err(Problem::new(Code::TooLarge, detail));
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| {
            Problem::new(
                Code::BadDocument,
                format!("the {name} part is not UTF-8 text; send it as it was signed"),
            )
        })?;
        if name == "signature" {
            if signatures.len() == SIGNATURES_MAX {
                let detail =
                    format!("more than {SIGNATURES_MAX} signature parts were sent: send one per person");
                return Err(Problem::new(Code::TooLarge, detail));
            }
            signatures.push(text);
        } else if document.replace(text).is_some() {
            return Err(Problem::new(
                Code::BadMultipart,
                format!("two {what} parts were sent; send one {what} at a time"),
            ));
        }
    }
    let file = if what == COMMAND { "stop" } else { what };
    let document = document.ok_or_else(|| {
        Problem::new(
            Code::BadMultipart,
            format!("there is no {what} part; send the document with -F {what}=@{file}.json"),
        )
    })?;
    Ok(Envelope { document, signatures })
}

#[cfg(test)]
mod fuzz;
