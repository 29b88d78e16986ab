//! `POST /.well-known/openc2`: a producer of OpenC2 commands takes away. See `webhooks/openc2/`.
//!
//! Whatever is answered is an OpenC2 response, and its status one of the language's, which are the only HTTP statuses too
//! (HTTPS Transfer 1.1, section 4.2.1): our own code stands in the results.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tagout_proto::sentence::sentence;
use tagout_proto::token::Token;

use super::problem::{Code, Problem};
use super::webhooks::{carry_out, of};
use super::{Api, OPENC2_BODY_MAX_BYTES};
use crate::clock;
use crate::fair::Source;
use crate::tls::Peer;
use crate::webhooks::Sent;
use crate::webhooks::openc2::{self, Asked, Form, Ids, NotTaken, PROFILE, Producer, Request, ResponseType};

const X_REQUEST_ID: &str = "x-request-id";
/// How far a message's own time may be from the node's clock to be the command's.
const CREATED_MAX_MS: u64 = 5 * 60 * 1000;

/// 200 with what was found or has taken effect.
pub async fn openc2(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let from = peer.as_ref().map_or(Source::OWN, |Extension(peer)| peer.address.ip().into());
    let id = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let mut exchange = Exchange {
        node: api.service.node.to_string(),
        form: Form::default(),
        ids: Ids { request: id.map(Into::into), ..Ids::default() },
    };
    let producer = producer_of(&api, &headers);
    let name =
        producer.as_ref().map_or("unknown", |producer| producer.integration.which.name.as_str()).to_owned();
    let did = match producer {
        Ok(producer) => match read_request(&mut exchange, &headers, body) {
            Ok(request) => take(&api, producer, &exchange.ids, request, from).await,
            Err(problem) => Err(of(&producer.integration.which, &problem)),
        },
        Err(problem) => Err(problem),
    };
    let code = did.as_ref().map_or_else(|problem| problem.code().name(), |_| "ok");
    metrics::counter!("tagout_openc2_total", "producer" => name, "code" => code).increment(1);
    match did {
        Ok((ResponseType::None, _)) => exchange.headed(StatusCode::OK, None),
        Ok((ResponseType::Ack, _)) => exchange.answer(StatusCode::OK, json!({"status": 102})),
        Ok((ResponseType::Status | ResponseType::Complete, response)) => {
            exchange.answer(StatusCode::OK, response)
        }
        Err(problem) => {
            // Pending is no refusal: it holds where it was pushed.
            if !matches!(problem.code(), Code::Pending | Code::Busy) {
                api.security.refused(peer.map(|Extension(peer)| peer.address.to_string()), None, &problem);
            }
            exchange.refuse(&problem)
        }
    }
}

/// Whose token it is.
fn producer_of<'a>(api: &'a Api, headers: &HeaderMap) -> Result<&'a Producer, Problem> {
    let producers = api.webhooks.producers();
    if producers.is_empty() {
        let detail = "this node's configuration has no OpenC2 producer: see \"webhooks\" in tagout.toml";
        return Err(Problem::new(Code::NoOpenc2, detail));
    }
    let refused = |why: &str| {
        let detail = format!("the header Authorization is \"Bearer TOKEN\" with a producer's token: {why}");
        Problem::new(Code::Openc2Refused, detail)
    };
    let shown = headers.get(header::AUTHORIZATION).ok_or_else(|| refused("it is missing"))?;
    let (scheme, token) = shown.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or(("", ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(refused("it is of another scheme"));
    }
    let token = token
        .trim()
        .parse::<Token>()
        .map_err(|_| refused("this is tagout_ and 64 lowercase hex digits"))?
        .digest();
    let producer = producers.iter().find(|producer| producer.holds(&token));
    producer.ok_or_else(|| refused("no producer of this node's webhooks file has this one"))
}

fn read_request(
    exchange: &mut Exchange,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Request, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    exchange.form = Form::of(content_type.unwrap_or(""))?;
    let body = body.map_err(unreadable)?;
    let (ids, command) = openc2::unwrap(exchange.form, &body, exchange.ids.request.as_deref())?;
    exchange.ids = ids;
    Ok(openc2::read(command, &exchange.ids)?)
}

async fn take(
    api: &Api,
    producer: &Producer,
    ids: &Ids,
    request: Request,
    from: Source,
) -> Result<(ResponseType, Value), Problem> {
    let Request { command, response, asked } = request;
    match asked {
        Asked::Features(said) if said.is_empty() => Ok((response, json!({"status": 200}))),
        Asked::Features(said) => Ok((response, json!({"status": 200, "results": said}))),
        Asked::Take(wanted) => {
            // Of one command that names its time every node makes the same bytes.
            let now_ms = clock::wall_ms();
            let created = ids.created_ms.filter(|at| at.abs_diff(now_ms) <= CREATED_MAX_MS);
            let sent = Sent { id: &command, at_s: created.unwrap_or(now_ms) / 1000 };
            let answer = carry_out(api, &producer.integration, &sent, wanted, from).await?;
            let which = &producer.integration.which;
            tracing::warn!(
                %which, digest = %answer.digest, index = answer.index, action = %answer.action, scope = %answer.scope,
                repeated = answer.repeated, "took away"
            );
            Ok((response, json!({"status": 200, "results": {PROFILE: answer}})))
        }
    }
}

/// How it came, and whose answer it is.
struct Exchange {
    node: String,
    form: Form,
    ids: Ids,
}

impl Exchange {
    fn refuse(&self, problem: &Problem) -> Response {
        let status = status_of(problem.status());
        let results = json!({PROFILE: {"code": problem.code().name()}});
        let said = json!({"status": status.as_u16(), "status_text": problem.detail(), "results": results});
        let mut response = self.answer(status, said);
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tagout\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(super::problem::RETRY_AFTER_S));
        }
        response
    }

    fn answer(&self, status: StatusCode, said: Value) -> Response {
        let body = openc2::response(self.form, &self.ids, &self.node, clock::wall_ms(), said);
        self.headed(status, Some(body))
    }

    fn headed(&self, status: StatusCode, body: Option<Value>) -> Response {
        let mut response =
            body.map_or_else(|| status.into_response(), |body| (status, body.to_string()).into_response());
        let has_body = response.headers().contains_key(header::CONTENT_TYPE);
        let headers = response.headers_mut();
        if has_body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.form.answered_as()));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // What is no id is in the message alone.
        let id = self.ids.request.as_ref().filter(|id| openc2::is_id(id));
        if let Some(id) = id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(X_REQUEST_ID, id);
        }
        response
    }
}

/// The language has these and no others (section 3.3.2.1).
fn status_of(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::NOT_IMPLEMENTED
        | StatusCode::INTERNAL_SERVER_ERROR => status,
        // Beyond its agents an hour it is not authorized, however often it asks.
        StatusCode::TOO_MANY_REQUESTS => StatusCode::FORBIDDEN,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE => StatusCode::SERVICE_UNAVAILABLE,
        status if status.is_client_error() => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<NotTaken> for Problem {
    fn from(why: NotTaken) -> Self {
        let code = match &why {
            NotTaken::Media(_) | NotTaken::Malformed(_) | NotTaken::NoId | NotTaken::Id => Code::BadOpenc2,
            NotTaken::GivesBack(_) => Code::GivesBack,
            NotTaken::NotImplemented(_) => Code::NotImplemented,
        };
        Self::new(code, why.to_string())
    }
}

fn unreadable(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail =
                format!("an OpenC2 message has at most {OPENC2_BODY_MAX_BYTES} bytes here: shorten it");
            Problem::new(Code::TooLarge, detail)
        }
        _ => Problem::new(Code::BadRequest, sentence(rejection.body_text())),
    }
}
