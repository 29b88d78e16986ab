//! OpenC2 (OASIS Language Specification 1.0, section 3.3; HTTPS Transfer Specification 1.0 and 1.1): what a producer asks for.
//! Pure.
//!
//! The profile is `x-tagout`, its target `x-tagout:agent`, a scope. `stop`, `contain` and `set` take away; what would give back is
//! understood and refused, which is what 403 stands for there, where 501 would be for what nobody here understands.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::limits::{CASE_MAX_BYTES, DRAIN_MAX_MS, REASON_MAX_BYTES};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::sentence::sentence;

use super::Integration;
use super::mapping::{Wanted, case, readable};

pub const PROFILE: &str = "x-tagout";
const TARGET: &str = "x-tagout:agent";
const LANGUAGE: &str = "1.0";
/// Of `request_id` and `command_id`; the language has 36 for the latter.
const ID_MAX_BYTES: usize = 128;
const NO_REASON: &str = "an OpenC2 command without a reason";
/// What gives an agent back something, or takes back what was commanded.
const GIVES: [&str; 7] = ["allow", "cancel", "create", "delete", "restart", "restore", "start"];

/// One `[[openc2]]`.
pub struct Producer {
    pub integration: Integration,
    /// SHA-256 of each token.
    pub(super) tokens: Vec<Digest>,
}

impl Producer {
    pub fn holds(&self, token: &Digest) -> bool {
        self.tokens.contains(token)
    }
}

/// Why a command does nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error(
        "the content type is neither application/openc2+json;version=1.0 (a message) nor application/openc2-cmd+json;version=1.0 \
         (a command alone): {0:?}"
    )]
    Media(String),
    #[error("{0}")]
    Malformed(String),
    #[error(
        "the command has no id: send one as request_id in its headers, or as the HTTP header X-Request-ID"
    )]
    NoId,
    #[error("an id is 1 to {ID_MAX_BYTES} printable ASCII characters without spaces")]
    Id,
    #[error(
        "{0} would give something back, which no automation can: people do it, each with a key of their own, with `tagout resume \
         SCOPE --reason WHY` and `tagout proposals sign`. A producer may stop, contain and set limits"
    )]
    GivesBack(String),
    #[error("{0}")]
    NotImplemented(String),
}

fn malformed(why: impl Into<String>) -> NotTaken {
    NotTaken::Malformed(why.into())
}

/// How the command came, and so how it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Transfer 1.1: the whole message is the body.
    #[default]
    Message,
    /// The same by the media type without a suffix.
    MessageUnsuffixed,
    /// Transfer 1.0: the command is the body, and HTTP's headers are the message's.
    Command,
}

impl Form {
    pub fn of(content_type: &str) -> Result<Self, NotTaken> {
        let refused = || NotTaken::Media(content_type.chars().take(80).collect());
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let form = match parts.next().as_deref() {
            Some("application/openc2+json") => Self::Message,
            Some("application/openc2") => Self::MessageUnsuffixed,
            Some("application/openc2-cmd+json") => Self::Command,
            _ => return Err(refused()),
        };
        let known = |part: String| match part.split_once('=') {
            Some(("version", version)) => matches!(version.trim_matches('"'), "1.0" | "1.1"),
            Some(("charset", charset)) => charset.trim_matches('"') == "utf-8",
            _ => false,
        };
        if parts.all(known) { Ok(form) } else { Err(refused()) }
    }

    pub fn answered_as(self) -> &'static str {
        match self {
            Self::Message => "application/openc2+json;version=1.0",
            Self::MessageUnsuffixed => "application/openc2;version=1.0",
            Self::Command => "application/openc2-rsp+json;version=1.0",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    #[serde(default)]
    headers: Headers,
    body: Body,
    signature: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Headers {
    request_id: Option<String>,
    created: Option<u64>,
    from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    openc2: Content,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    request: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    action: String,
    target: Map<String, Value>,
    args: Option<Args>,
    actuator: Option<Map<String, Value>>,
    command_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    start_time: Option<IgnoredAny>,
    stop_time: Option<IgnoredAny>,
    duration: Option<IgnoredAny>,
    response_requested: Option<ResponseType>,
    #[serde(rename = "x-tagout")]
    ours: Option<Ours>,
}

/// What the profile adds to a command's arguments.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    mode: Option<Mode>,
    drain_ms: Option<u64>,
    reason: Option<String>,
    case: Option<String>,
    calls_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Halt,
    Drain,
    Pause,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseType {
    None,
    Ack,
    Status,
    #[default]
    Complete,
}

/// What a message says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// What the response is known by.
    pub request: Option<String>,
    pub from: Option<String>,
    pub created_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The same when the command is sent again.
    pub command: String,
    pub response: ResponseType,
    pub asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// For these features, with what is to be said of them.
    Features(Map<String, Value>),
    Take(Wanted),
}

/// The message around a command. `id` is HTTP's X-Request-ID.
pub fn unwrap(form: Form, body: &[u8], id: Option<&str>) -> Result<(Ids, Value), NotTaken> {
    let id = id.map(ToOwned::to_owned);
    let not_json =
        |what: &str, e: serde_json::Error| malformed(format!("the body is no {what}: {}", sentence(e)));
    if form == Form::Command {
        let command = serde_json::from_slice(body).map_err(|e| not_json("OpenC2 command", e))?;
        return Ok((Ids { request: id, ..Ids::default() }, command));
    }
    let message: Message = serde_json::from_slice(body).map_err(|e| not_json("OpenC2 message", e))?;
    if message.signature.is_some() {
        let why =
            "a message's signature is not verified here: leave it out, the producer's token speaks for it";
        return Err(NotTaken::NotImplemented(why.into()));
    }
    let Headers { request_id, created, from } = message.headers;
    Ok((Ids { request: request_id.or(id), from, created_ms: created }, message.body.openc2.request))
}

/// Whether this may be a command's or a request's id.
pub fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= ID_MAX_BYTES && id.bytes().all(|b| b.is_ascii_graphic())
}

/// What the command asks for.
pub fn read(command: Value, ids: &Ids) -> Result<Request, NotTaken> {
    let command: Command = serde_json::from_value(command)
        .map_err(|e| malformed(format!("this is no OpenC2 command: {}", sentence(e))))?;
    let id = command.command_id.as_ref().or(ids.request.as_ref()).ok_or(NotTaken::NoId)?.clone();
    if !is_id(&id) {
        return Err(NotTaken::Id);
    }
    let mut targets = command.target.into_iter();
    let (Some((target, value)), None) = (targets.next(), targets.next()) else {
        return Err(malformed("a command has exactly one target"));
    };
    let action = command.action.as_str();
    if GIVES.contains(&action) && (target == TARGET || target == "command") {
        return Err(NotTaken::GivesBack(action.into()));
    }
    if command.actuator.is_some_and(|actuator| actuator.keys().any(|profile| profile != PROFILE)) {
        return Err(NotTaken::NotImplemented(format!("this consumer is an actuator of {PROFILE} alone")));
    }
    let args = command.args;
    let response = args.as_ref().and_then(|args| args.response_requested).unwrap_or_default();
    if (action, target.as_str()) == ("query", "features") {
        let alone = args.as_ref().is_none_or(|args| {
            args.start_time.is_none()
                && args.stop_time.is_none()
                && args.duration.is_none()
                && args.ours.is_none()
        });
        if !alone || response != ResponseType::Complete {
            return Err(malformed(
                "query features takes no argument but \"response_requested\": \"complete\"",
            ));
        }
        return Ok(Request { command: id, response, asked: Asked::Features(features(value)?) });
    }
    let takes = ["stop", "contain", "set"].contains(&action);
    if !takes || target != TARGET {
        return Err(NotTaken::NotImplemented(format!(
            "there is no {} of {} here: query features says what there is",
            sentence(action),
            sentence(&target)
        )));
    }
    if args.as_ref().is_some_and(|a| a.start_time.is_some() || a.stop_time.is_some() || a.duration.is_some())
    {
        let why =
            "start_time, stop_time and duration are not for locks: each holds from now until people lift it";
        return Err(NotTaken::NotImplemented(why.into()));
    }
    let ours = args.and_then(|args| args.ours).unwrap_or_default();
    let kind = kind(action, &ours)?;
    let scope = value.as_str().ok_or_else(|| malformed(format!("{TARGET} is a scope, as text")))?;
    let scope = Scope::parse(scope).map_err(|e| malformed(e.to_string()))?;
    let reason = ours.reason.map_or_else(|| NO_REASON.into(), |text| readable(&text, REASON_MAX_BYTES));
    debug_assert!(reason.len() <= REASON_MAX_BYTES && ID_MAX_BYTES <= CASE_MAX_BYTES);
    // Without one it is a case of its own, so that another node takes it for the same, too.
    let case = case(&ours.case.filter(|case| !case.is_empty()).unwrap_or_else(|| id.clone()));
    Ok(Request { command: id, response, asked: Asked::Take(Wanted { scope, kind, reason, case }) })
}

fn kind(action: &str, ours: &Ours) -> Result<LockKind, NotTaken> {
    let limits =
        CallLimits { calls_per_minute: ours.calls_per_minute, tokens_per_minute: ours.tokens_per_minute };
    if action != "set" && limits != CallLimits::default() {
        return Err(malformed("calls_per_minute and tokens_per_minute are for set"));
    }
    if action != "stop" && ours.mode.is_some() {
        return Err(malformed("mode is for stop"));
    }
    if ours.drain_ms.is_some() != (ours.mode == Some(Mode::Drain)) {
        return Err(malformed(format!("drain_ms, at most {DRAIN_MAX_MS}, goes with the mode drain")));
    }
    match (action, ours.mode, ours.drain_ms) {
        ("contain", ..) => Ok(LockKind::Isolate),
        ("set", ..) if limits == CallLimits::default() => {
            Err(malformed("set says calls_per_minute or tokens_per_minute, or both, below args and x-tagout"))
        }
        ("set", ..) => Ok(LockKind::Throttle(limits)),
        (_, Some(Mode::Drain), Some(drain_ms)) => Ok(LockKind::Drain { drain_ms }),
        (_, Some(Mode::Pause), _) => Ok(LockKind::Pause),
        _ => Ok(LockKind::Halt),
    }
}

/// Section 4.1 of the language. No rate is promised: what bounds a producer is its agents an hour.
fn features(asked: Value) -> Result<Map<String, Value>, NotTaken> {
    let wrong =
        || malformed("features is a list of versions, profiles, pairs and rate_limit, each at most once");
    let asked: Vec<String> = serde_json::from_value(asked).map_err(|_| wrong())?;
    let mut said = Map::new();
    for (at, feature) in asked.iter().enumerate() {
        if asked[..at].contains(feature) {
            return Err(wrong());
        }
        let value = match feature.as_str() {
            "versions" => json!([LANGUAGE]),
            "profiles" => json!([PROFILE]),
            "pairs" => json!({"query": ["features"], "stop": [TARGET], "contain": [TARGET], "set": [TARGET]}),
            "rate_limit" => continue,
            _ => return Err(wrong()),
        };
        said.insert(feature.clone(), value);
    }
    Ok(said)
}

/// The response in its message, or alone, as the command came.
pub fn response(form: Form, ids: &Ids, node: &str, now_ms: u64, response: Value) -> Value {
    if form == Form::Command {
        return response;
    }
    let mut headers = Map::new();
    if let Some(request) = &ids.request {
        headers.insert("request_id".into(), json!(request));
    }
    headers.insert("created".into(), json!(now_ms));
    headers.insert("from".into(), json!(node));
    headers.insert("to".into(), json!(ids.from.iter().collect::<Vec<_>>()));
    json!({"headers": headers, "body": {"openc2": {"response": response}}})
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
