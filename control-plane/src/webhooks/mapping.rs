//! From what a security platform sends to what is to be done here: templates over its JSON. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tagout_proto::limits::{CALL_LIMIT_MAX, CASE_MAX_BYTES, REASON_MAX_BYTES};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::{Scope, ScopeError};
use tagout_proto::sentence::sentence;

/// Where an alert says none.
const NO_REASON: &str = "an alert without a title";
/// In `actions`: whatever severity has no line of its own.
const OTHER: &str = "other";
const THROTTLE: &str = "throttle";

/// Text with values of the body in it: `{/result/agent}` is the value at that JSON Pointer (RFC 6901), and in
/// `{/a|/b}` the first that is there. Values are strings, numbers and booleans.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Pointers: the first that leads to something.
    Value(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no template: {{/path/to/value}} stands for a value, with | between alternatives; a brace alone has no place"
)]
pub struct NotATemplate(String);

/// What a severity does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Stop,
    Pause,
    Isolate,
    Restrict,
    Throttle(CallLimits),
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Actions {
    Always(Does),
    BySeverity(BTreeMap<String, Does>),
}

/// Why `actions` would not do what somebody meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoActions {
    #[error(
        "actions has no line, so nothing would ever be done: give each severity an action, as in {{ critical = \"stop\", \
         other = \"nothing\" }}, or say actions = \"stop\" for all"
    )]
    Empty,
    #[error("{of}{said} is no action: there are {ACTIONS}")]
    NoAction { of: String, said: String },
    #[error(
        "{of}throttle has {said}: it says calls_per_minute or tokens_per_minute, or both, each from 1 to {CALL_LIMIT_MAX}; \
         \"pause\" is for no calls at all"
    )]
    Limits { of: String, said: String },
    #[error("{of}that severity stands twice: capitals make no difference")]
    Twice { of: String },
}

const ACTIONS: &str = "\"stop\", \"pause\", \"isolate\", \"restrict\", \"nothing\" and { throttle = { calls_per_minute = 60 } }";

impl TryFrom<toml::Value> for Actions {
    type Error = NoActions;

    fn try_from(said: toml::Value) -> Result<Self, NoActions> {
        match said {
            toml::Value::Table(lines) if lines.is_empty() => Err(NoActions::Empty),
            toml::Value::Table(lines) if !lines.get(THROTTLE).is_some_and(are_limits) => {
                let mut actions = BTreeMap::new();
                for (severity, said) in lines {
                    let of = format!("severity {severity:?}: ");
                    let does = Does::read(&said, &of)?;
                    // Alerts' severities are compared without capitals.
                    if actions.insert(severity.to_lowercase(), does).is_some() {
                        return Err(NoActions::Twice { of });
                    }
                }
                Ok(Self::BySeverity(actions))
            }
            said => Does::read(&said, "").map(Self::Always),
        }
    }
}

/// A severity may be called like the action: what it does is an action then, and so no table of limits.
fn are_limits(said: &toml::Value) -> bool {
    said.as_table().is_some_and(|table| !table.contains_key(THROTTLE))
}

impl Does {
    /// `of` is where it stands.
    fn read(said: &toml::Value, of: &str) -> Result<Self, NoActions> {
        let no_action = || NoActions::NoAction { of: of.into(), said: sentence(said) };
        match said {
            toml::Value::String(word) => match word.as_str() {
                "stop" => Ok(Self::Stop),
                "pause" => Ok(Self::Pause),
                "isolate" => Ok(Self::Isolate),
                "restrict" => Ok(Self::Restrict),
                "nothing" => Ok(Self::Nothing),
                THROTTLE => Err(NoActions::Limits { of: of.into(), said: "no limit".into() }),
                _ => Err(no_action()),
            },
            toml::Value::Table(table) => match table.get(THROTTLE) {
                Some(limits) if table.len() == 1 => throttle(limits, of).map(Self::Throttle),
                _ => Err(no_action()),
            },
            _ => Err(no_action()),
        }
    }
}

fn throttle(said: &toml::Value, of: &str) -> Result<CallLimits, NoActions> {
    let wrong = |said: String| NoActions::Limits { of: of.into(), said };
    let limits: CallLimits = said.clone().try_into().map_err(|e| wrong(sentence(said_on_one_line(&e))))?;
    let CallLimits { calls_per_minute, tokens_per_minute } = limits;
    let mut all = [calls_per_minute, tokens_per_minute].into_iter().flatten().peekable();
    if all.peek().is_none() {
        return Err(wrong("no limit".into()));
    }
    match all.find(|limit| !(1..=CALL_LIMIT_MAX).contains(limit)) {
        Some(limit) => Err(wrong(format!("a limit of {limit}"))),
        None => Ok(limits),
    }
}

fn said_on_one_line(error: &toml::de::Error) -> String {
    error.message().lines().next().unwrap_or_default().to_owned()
}

/// What of a body means what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub scope: Template,
    pub reason: Template,
    /// Of one incident or alert: what comes again with it is the same.
    pub case: Template,
    pub severity: Template,
    /// Of severities that the platform says by number.
    pub names: Names,
    pub actions: Actions,
}

/// Numbers as the platform writes them, and what it shows people instead.
pub type Names = &'static [(&'static str, &'static str)];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub scope: Scope,
    pub kind: LockKind,
    pub reason: String,
    pub case: String,
}

/// As it stands after "to", for people.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, kind, case, .. } = self;
        write!(f, "{} {scope} for case {case}", kind.action())
    }
}

/// Why a body says nothing that can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    #[error(
        "the body has no text, number or truth value at {pointers}, which this webhook's {what} is taken from"
    )]
    Missing { what: &'static str, pointers: String },
    #[error("the body names no scope: {0}")]
    Scope(ScopeError),
    #[error(
        "severity {said:?}{} does nothing that this webhook's configuration says; list it under actions, or \"other\"",
        name.map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    Severity { said: String, name: Option<&'static str> },
}

impl TryFrom<String> for Template {
    type Error = NotATemplate;

    fn try_from(text: String) -> Result<Self, NotATemplate> {
        let parts = parse(&text);
        match parts {
            Some(parts) if !parts.is_empty() => Ok(Self { text, parts }),
            _ => Err(NotATemplate(text)),
        }
    }
}

fn parse(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
        if before.contains('}') || (before.len() < rest.len() && after.is_empty()) {
            return None;
        }
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        if before.len() == rest.len() {
            break;
        }
        let (pointers, after) = after.split_once('}')?;
        let pointers: Vec<String> = pointers.split('|').map(Into::into).collect();
        if !pointers.iter().all(|pointer| pointer.starts_with('/') && !pointer.contains('{')) {
            return None;
        }
        parts.push(Part::Value(pointers));
        rest = after;
    }
    Some(parts)
}

impl Template {
    fn fill(&self, body: &Value, what: &'static str) -> Result<String, Unmapped> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Value(pointers) => {
                    let mut values = pointers.iter().filter_map(|pointer| text_of(body.pointer(pointer)?));
                    let missing = || Unmapped::Missing { what, pointers: pointers.join(" or ") };
                    filled.push_str(&values.next().ok_or_else(missing)?);
                }
            }
        }
        Ok(filled)
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Mapping {
    /// Which scope and case `body` is about, as far as it says so: for people who read why it was refused.
    pub fn about(&self, body: &Value) -> Option<String> {
        let scope = self.scope.fill(body, "scope").ok().and_then(|scope| Scope::parse(&scope).ok());
        let case = self.case.fill(body, "case").ok().map(|text| case(&text));
        let said: Vec<_> = [scope.map(|scope| scope.to_string()), case.map(|case| format!("case {case}"))]
            .into_iter()
            .flatten()
            .collect();
        (!said.is_empty()).then(|| said.join(", "))
    }

    fn name_of(&self, severity: &str) -> Option<&'static str> {
        // Some write every number with a fraction: 4.0.
        let number = severity.strip_suffix(".0").unwrap_or(severity);
        self.names.iter().find(|(said, _)| *said == number).map(|(_, name)| *name)
    }

    /// What `body` asks for; `None` where its severity does nothing.
    pub fn wanted(&self, body: &Value) -> Result<Option<Wanted>, Unmapped> {
        let does = match &self.actions {
            Actions::Always(does) => does,
            Actions::BySeverity(actions) => {
                // As platforms write it: "High", "critical", 4.
                let severity = self.severity.fill(body, "severity")?.to_lowercase();
                let name = self.name_of(&severity);
                let does =
                    actions.get(&severity).or_else(|| actions.get(name?)).or_else(|| actions.get(OTHER));
                does.ok_or_else(|| Unmapped::Severity { said: sentence(severity), name })?
            }
        };
        let kind = match does {
            Does::Stop => LockKind::Halt,
            Does::Pause => LockKind::Pause,
            Does::Isolate => LockKind::Isolate,
            Does::Restrict => LockKind::Restrict,
            Does::Throttle(limits) => LockKind::Throttle(*limits),
            Does::Nothing => return Ok(None),
        };
        let scope = Scope::parse(&self.scope.fill(body, "scope")?).map_err(Unmapped::Scope)?;
        // An alert's title and number may be of whoever is to be stopped: no text of theirs keeps it from happening.
        let reason = self
            .reason
            .fill(body, "reason")
            .map_or_else(|_| NO_REASON.into(), |text| readable(&text, REASON_MAX_BYTES));
        let case = case(&self.case.fill(body, "case")?);
        Ok(Some(Wanted { scope, kind, reason, case }))
    }
}

/// As a lock's tag takes it: on one line, with nothing that changes how it is read, and not too long.
pub(super) fn readable(text: &str, max_bytes: usize) -> String {
    let plain = |c: char| if c.is_control() || is_format(c) { ' ' } else { c };
    let line: String = text.chars().map(plain).take(max_bytes).collect();
    let line = line[..line.floor_char_boundary(max_bytes)].trim();
    if line.is_empty() { NO_REASON.into() } else { line.into() }
}

/// Marks of direction and joining, and others that are not seen (Unicode's category Cf, as far as text has them).
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The same case is always the same text; one that a tag does not take is told apart by its hash.
pub(super) fn case(text: &str) -> String {
    let fits = text.len() <= CASE_MAX_BYTES && !text.chars().any(|c| c.is_control() || is_format(c));
    if fits {
        return text.into();
    }
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(text)[..8]);
    format!("{}~{hash}", readable(text, CASE_MAX_BYTES - hash.len() - 1))
}

/// Mappings for what platforms send, by their vendors' documentation. Where an agent's scope stands is up to who writes the
/// detection: they all look for a field `tagout_scope`.
pub struct Ready {
    pub name: &'static str,
    pub scope: &'static str,
    pub reason: &'static str,
    pub case: &'static str,
    pub severity: &'static str,
    pub names: Names,
}

pub const READY: [Ready; 6] = [
    Ready {
        name: "generic",
        scope: "{/scope|/agent_id|/tagout_scope}",
        reason: "{/reason|/title|/name}",
        case: "{/case|/case_id|/id}",
        severity: "{/severity}",
        names: &[],
    },
    // https://docs.splunk.com/Documentation/Splunk/latest/Alert/Webhooks: `result` is the first row; of a notable event it
    // has these fields of Enterprise Security.
    Ready {
        name: "splunk-es",
        scope: "{/result/tagout_scope}",
        reason: "{/result/rule_title|/result/rule_name|/search_name}",
        case: "{/result/event_id|/sid}",
        severity: "{/result/urgency|/result/severity}",
        names: &[],
    },
    // https://www.elastic.co/docs/solutions/security/detect-and-alert: rule actions write their body themselves, here with
    // `context.rule.name`, `context.rule.severity` and the alert's id.
    Ready {
        name: "elastic-security",
        scope: "{/tagout_scope}",
        reason: "{/rule/name}",
        case: "{/alert/id|/rule/id}",
        severity: "{/rule/severity|/alert/severity}",
        names: &[],
    },
    // https://learn.microsoft.com/azure/sentinel/playbook-triggers-actions: the incident that a playbook is given.
    Ready {
        name: "microsoft-sentinel",
        scope: "{/tagout_scope|/object/properties/tagout_scope}",
        reason: "{/object/properties/title}",
        case: "{/object/properties/incidentNumber|/object/name}",
        severity: "{/object/properties/severity}",
        names: &[],
    },
    // https://xsoar.pan.dev/docs/incidents: an incident's fields; severity is a number from 0 to 4, with 0.5 among them.
    Ready {
        name: "cortex-xsoar",
        scope: "{/CustomFields/tagoutscope|/tagout_scope}",
        reason: "{/name}",
        case: "{/id}",
        severity: "{/severity}",
        names: &[
            ("0", "unknown"),
            ("0.5", "informational"),
            ("1", "low"),
            ("2", "medium"),
            ("3", "high"),
            ("4", "critical"),
        ],
    },
    // https://docs.strangebee.com/thehive: what a webhook notifier tells of a case or an alert; severity is 1 to 4.
    Ready {
        name: "thehive",
        scope: "{/object/customFields/tagout_scope/string|/object/customFields/tagout_scope|/tagout_scope}",
        reason: "{/object/title}",
        case: "{/object/number|/object/sourceRef|/objectId}",
        severity: "{/object/severity}",
        names: &[("1", "low"), ("2", "medium"), ("3", "high"), ("4", "critical")],
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(text: &str) -> Template {
        Template::try_from(text.to_owned()).unwrap()
    }

    fn mapping(ready: &Ready, actions: &str) -> Mapping {
        #[derive(Deserialize)]
        struct Holder {
            actions: Actions,
        }
        Mapping {
            scope: template(ready.scope),
            reason: template(ready.reason),
            case: template(ready.case),
            severity: template(ready.severity),
            names: ready.names,
            actions: toml::from_str::<Holder>(actions).unwrap().actions,
        }
    }

    fn generic(actions: &str) -> Mapping {
        mapping(&READY[0], actions)
    }

    const BY_SEVERITY: &str = "actions = { critical = 'stop', high = 'isolate', 4 = 'stop', 3 = 'pause',
        medium = { throttle = { calls_per_minute = 60 } }, low = 'nothing', other = 'restrict' }";

    /// The line of README.md.
    const README: &str = "actions = { critical = \"stop\", high = \"isolate\", medium = { throttle = { calls_per_minute = 60 } }, low = \"nothing\" }";

    #[test]
    fn a_severity_says_what_is_done() {
        let wanted = |severity: Value| {
            let body = json!({"scope": "demo/agent_2", "reason": "r", "id": 7, "severity": severity});
            generic(BY_SEVERITY).wanted(&body).unwrap().map(|wanted| wanted.kind)
        };
        assert_eq!(wanted("Critical".into()), Some(LockKind::Halt));
        assert_eq!(wanted("high".into()), Some(LockKind::Isolate));
        assert_eq!(wanted(3.into()), Some(LockKind::Pause));
        let throttle = CallLimits { calls_per_minute: Some(60), tokens_per_minute: None };
        assert_eq!(wanted("medium".into()), Some(LockKind::Throttle(throttle)));
        assert_eq!(wanted("low".into()), None);
        assert_eq!(wanted("whatever".into()), Some(LockKind::Restrict));
        let body = json!({"scope": "demo/agent_2", "reason": "r", "id": 7, "severity": "whatever"});
        let unlisted = generic("actions = { critical = 'stop' }").wanted(&body);
        assert_eq!(unlisted, Err(Unmapped::Severity { said: "whatever".into(), name: None }));
        assert_eq!(generic("actions = 'stop'").wanted(&body).unwrap().unwrap().kind, LockKind::Halt);
    }

    #[test]
    fn actions_that_would_do_nothing_or_something_else_are_no_actions() {
        let read = |actions: &str| {
            let said: toml::Table = toml::from_str(&format!("actions = {actions}")).unwrap();
            Actions::try_from(said["actions"].clone())
        };
        let cases = [
            ("{}", "nothing would ever be done"),
            ("'release'", "\"release\" is no action: there are \"stop\", \"pause\""),
            ("7", "7 is no action"),
            ("['stop']", "is no action"),
            ("{ high = 'stopp' }", "severity \"high\": \"stopp\" is no action"),
            ("{ high = { stop = {} } }", "severity \"high\": { stop"),
            ("{ high = {} }", "severity \"high\": {}"),
            ("'throttle'", "throttle has no limit"),
            ("{ high = 'throttle' }", "severity \"high\": throttle has no limit"),
            ("{ throttle = {} }", "throttle has no limit"),
            ("{ high = { throttle = {} } }", "severity \"high\": throttle has no limit"),
            ("{ throttle = { calls_per_minute = 0 } }", "a limit of 0"),
            ("{ throttle = { calls_per_minute = 1, tokens_per_minute = 0 } }", "a limit of 0"),
            ("{ throttle = { calls_per_minute = 1000000000001 } }", "a limit of 1000000000001"),
            ("{ throttle = { calls_per_minute = -1 } }", "invalid value"),
            ("{ throttle = { calls_per_hour = 1 } }", "unknown field `calls_per_hour`"),
            ("{ throttle = { calls_per_minute = 1 }, high = 'stop' }", "is no action"),
            ("{ throttle = 'throttle' }", "severity \"throttle\": throttle has no limit"),
            ("{ High = 'stop', high = 'pause' }", "stands twice"),
        ];
        for (actions, said) in cases {
            let why = read(actions).unwrap_err().to_string();
            assert!(why.contains(said), "{actions}: {why}");
        }
        let limits = CallLimits { calls_per_minute: None, tokens_per_minute: Some(1) };
        assert_eq!(
            read("{ throttle = { tokens_per_minute = 1 } }"),
            Ok(Actions::Always(Does::Throttle(limits)))
        );
        assert_eq!(read("'nothing'"), Ok(Actions::Always(Does::Nothing)));
        assert_eq!(read("{ High = 'stop' }"), Ok(Actions::BySeverity([("high".into(), Does::Stop)].into())));
        let called_alike = [("high".into(), Does::Stop), ("throttle".into(), Does::Throttle(limits))];
        assert_eq!(
            read("{ throttle = { throttle = { tokens_per_minute = 1 } }, high = 'stop' }"),
            Ok(Actions::BySeverity(called_alike.into()))
        );
    }

    #[test]
    fn values_are_put_into_text_and_the_first_that_is_there_counts() {
        let body = json!({"a": {"b/c": "x"}, "list": ["y"], "empty": "", "none": null});
        let fill = |text: &str| template(text).fill(&body, "scope");
        assert_eq!(fill("moltbook/{/a/b~1c}/{/list/0}").unwrap(), "moltbook/x/y");
        assert_eq!(fill("{/empty|/none|/a|/list/0}").unwrap(), "y");
        let missing = fill("{/empty|/none}").unwrap_err().to_string();
        assert!(missing.contains("/empty or /none, which this webhook's scope"), "{missing}");
        for wrong in ["", "{", "}", "a{b}", "{/a", "{/a}}", "{/a|b}", "{{/a}}"] {
            assert!(Template::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_body_cannot_name_what_no_scope_is() {
        for scope in ["../x", "a//b", "a b", "-\u{202e}", "**"] {
            let body = json!({"scope": scope, "reason": "r", "id": 1});
            assert!(matches!(generic("actions = 'stop'").wanted(&body), Err(Unmapped::Scope(_))), "{scope}");
        }
    }

    #[test]
    fn s10_no_text_of_an_alert_keeps_it_from_stopping_somebody() {
        let with = |reason: Value, case: String| {
            let body = json!({"scope": "demo", "reason": reason, "case": case});
            generic("actions = 'stop'").wanted(&body).unwrap().unwrap()
        };
        let wanted = with(format!("two\nlines \u{202e}{}", "é".repeat(100_000)).into(), "INC-1".into());
        assert!(wanted.reason.starts_with("two lines  é") && wanted.reason.len() <= REASON_MAX_BYTES);
        assert_eq!(with(Value::Null, "1".into()).reason, NO_REASON);
        assert_eq!(with("\u{200b}\n".into(), "1".into()).reason, NO_REASON);

        let long = |end: &str| with("r".into(), "x".repeat(CASE_MAX_BYTES) + end).case;
        assert!(long("1").len() <= CASE_MAX_BYTES && long("1") == long("1") && long("1") != long("2"));
        assert!(with("r".into(), "a\nb".into()).case.starts_with("a b~"));
        assert!(with("r".into(), "\n".into()).case.len() <= CASE_MAX_BYTES);
    }

    #[test]
    fn each_ready_mapping_takes_what_its_vendor_documents() {
        let bodies = [
            json!({"scope": "demo/agent_2", "reason": "R", "case": "C", "severity": "critical"}),
            json!({"sid": "s", "search_name": "n", "owner": "admin", "app": "ess", "results_link": "https://x",
                "result": {"tagout_scope": "demo/agent_2", "rule_title": "R", "event_id": "C", "urgency": "critical"}}),
            json!({"tagout_scope": "demo/agent_2", "rule": {"name": "R", "severity": "critical"}, "alert": {"id": "C"}}),
            json!({"tagout_scope": "demo/agent_2", "objectSchemaType": "Incident", "objectEventType": "Create",
                "object": {"properties": {"title": "R", "incidentNumber": "C", "severity": "Critical"}}}),
            json!({"id": "C", "name": "R", "severity": 4, "CustomFields": {"tagoutscope": "demo/agent_2"}}),
            json!({"objectType": "Case", "operation": "create", "objectId": "~1",
                "object": {"title": "R", "number": "C", "severity": 4, "customFields": {"tagout_scope": {"string": "demo/agent_2"}}}}),
        ];
        for (ready, body) in READY.iter().zip(bodies) {
            let wanted = mapping(ready, README).wanted(&body).unwrap().unwrap();
            let scope = Scope::parse("demo/agent_2").unwrap();
            let expected = Wanted { scope, kind: LockKind::Halt, reason: "R".into(), case: "C".into() };
            assert_eq!(wanted, expected, "{}", ready.name);
            assert_eq!(
                mapping(ready, README).about(&body).unwrap(),
                "demo/agent_2, case C",
                "{}",
                ready.name
            );
        }
    }

    #[test]
    fn readme_s_actions_are_those_of_the_tests() {
        let readme = include_str!("../../../README.md");
        assert!(readme.lines().any(|line| line == README), "README.md has other actions than these");
    }

    #[test]
    fn severities_that_a_platform_counts_are_known_by_their_names() {
        let ready = |name: &str| READY.iter().find(|ready| ready.name == name).unwrap();
        let hive = |severity: &Value| json!({"objectId": "~1", "object": {"severity": severity}, "tagout_scope": "demo"});
        let xsoar = |severity: &Value| json!({"id": "1", "severity": severity, "tagout_scope": "demo"});
        let throttle = LockKind::Throttle(CallLimits { calls_per_minute: Some(60), tokens_per_minute: None });
        let counted = [
            (json!(1), None),
            (json!(2), Some(throttle)),
            (json!(3), Some(LockKind::Isolate)),
            (json!(4), Some(LockKind::Halt)),
            (json!(3.0), Some(LockKind::Isolate)),
            (json!("4"), Some(LockKind::Halt)),
        ];
        for (severity, kind) in counted {
            for (name, body) in [("thehive", hive(&severity)), ("cortex-xsoar", xsoar(&severity))] {
                let wanted = mapping(ready(name), README).wanted(&body).unwrap();
                assert_eq!(wanted.map(|wanted| wanted.kind), kind, "{name} {severity}");
            }
        }
        // What has neither its number nor its name is refused with both.
        for (severity, said) in [(json!(0), "\"0\" (unknown)"), (json!(0.5), "\"0.5\" (informational)")] {
            let why =
                mapping(ready("cortex-xsoar"), README).wanted(&xsoar(&severity)).unwrap_err().to_string();
            assert!(why.contains(said), "{why}");
        }
        for severity in [json!(0), json!(5)] {
            assert!(mapping(ready("thehive"), README).wanted(&hive(&severity)).is_err(), "{severity}");
        }
        // A line for the number as it is written comes first, and "other" last.
        let both =
            "actions = { 4 = 'pause', critical = 'stop', informational = 'restrict', other = 'isolate' }";
        let kind = |severity: Value| {
            let wanted = mapping(ready("cortex-xsoar"), both).wanted(&xsoar(&severity));
            wanted.unwrap().unwrap().kind
        };
        assert_eq!(kind(json!(4)), LockKind::Pause);
        assert_eq!(kind(json!(0.5)), LockKind::Restrict);
        assert_eq!(kind(json!(3)), LockKind::Isolate);
        // Numbers elsewhere are numbers.
        let body = json!({"scope": "demo", "id": 1, "severity": 4});
        assert!(generic(README).wanted(&body).is_err());
    }
}
