//! What there is to tell: made of an entry of the log, always the same from the same entry, or of what no log has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::drill::Drill;
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::{LockKind, Trip};
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::restore::Restore;
use tagout_proto::rule::CallLimits;
use tagout_proto::scope::Scope;
use tagout_proto::strict::format_instant_ms;
use tagout_proto::wire::Outcome;

use crate::due::{Ending, HOUR_MS, What};

/// Of a text that others wrote, such as a reason.
const TEXT_MAX_CHARS: usize = 1000;
const TITLE_MAX_CHARS: usize = 240;

/// What receivers choose by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// A stop, and whatever else takes away.
    Tightening,
    /// A release, start, grant or enrolment.
    Loosening,
    /// Who decides, and by which rule.
    Authority,
    Outcome,
    /// One was opened, signed or refused.
    Proposal,
    Drill,
    /// Consent, an enrolment, an API token or a certificate ends soon.
    Expiry,
    /// An attempt was refused: see the security log.
    Security,
}

impl Topic {
    pub const ALL: [Self; 8] = [
        Self::Tightening,
        Self::Loosening,
        Self::Authority,
        Self::Outcome,
        Self::Proposal,
        Self::Drill,
        Self::Expiry,
        Self::Security,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The same from whichever node, and at every attempt: receivers drop doubles by it.
    pub id: String,
    pub topic: Topic,
    /// Such as `tagout.stop`.
    pub kind: String,
    pub time_ms: u64,
    pub deployment: String,
    pub scope: Scope,
    pub title: String,
    pub severity: Severity,
    /// Whose signatures are on it.
    pub by: Vec<String>,
    pub reason: Option<String>,
    pub case: Option<String>,
    /// Its entry in the log, and the SHA-256 of its document.
    pub index: Option<u64>,
    pub digest: Option<Digest>,
    /// The proposal that it is about.
    pub proposal: Option<Digest>,
    /// What to run next.
    pub next: Option<String>,
    pub details: BTreeMap<String, Value>,
}

/// What an entry does not say by itself.
pub struct Surroundings<'a> {
    pub deployment: &'a str,
    pub by: Vec<String>,
    /// The entry begins its proposal.
    pub opens: bool,
    /// What the outcome's stop stopped.
    pub stopped: Option<Scope>,
}

/// An attempt that was refused, as the security log has it.
pub struct Attempt<'a> {
    pub time_ms: u64,
    pub peer: Option<&'a str>,
    pub status: u16,
    pub code: &'a str,
    pub detail: &'a str,
    pub digest: Option<Digest>,
}

/// The id of what entry `index` says.
pub fn entry_id(index: u64, digest: &Digest) -> String {
    format!("evt_{index}_{}", digest.short())
}

/// The entry that such an id names.
pub fn entry_of(id: &str) -> Option<u64> {
    let (index, _) = id.strip_prefix("evt_")?.split_once('_')?;
    index.parse().ok()
}

impl Event {
    pub fn of_entry(entry: &Entry, surroundings: Surroundings<'_>) -> Self {
        let Surroundings { deployment, by, opens, stopped } = surroundings;
        let digest = entry.envelope.digest();
        let event = Self {
            id: entry_id(entry.index, &digest),
            topic: Topic::Authority,
            kind: format!("tagout.{}", entry.kind.name().replace('-', "_")),
            time_ms: entry.time_ms,
            deployment: deployment.into(),
            scope: Scope::fleet(),
            title: entry.kind.name().into(),
            severity: Severity::Informational,
            by,
            reason: None,
            case: None,
            index: Some(entry.index),
            digest: Some(digest),
            proposal: None,
            next: None,
            details: BTreeMap::new(),
        };
        match entry.kind {
            EntryKind::Command => event.of_command(&entry.envelope),
            EntryKind::Trip => event.of_trip(&entry.envelope),
            EntryKind::Outcome => event.of_outcome(&entry.envelope, stopped),
            EntryKind::Proposal => event.of_proposal(&entry.envelope, opens),
            EntryKind::Drill => event.of_drill(&entry.envelope),
            EntryKind::Restore => event.of_restore(&entry.envelope),
            EntryKind::RuleVersion => {
                Self { title: "a rule of verdicts is in force".into(), severity: Severity::Low, ..event }
            }
        }
    }

    fn of_command(self, envelope: &Envelope) -> Self {
        let Ok(Command { action, .. }) = Command::parse(envelope.document.as_bytes()) else {
            // The genesis: the one document of this kind that is no command.
            return Self { kind: "tagout.authority".into(), title: "authority version 1".into(), ..self };
        };
        let kind = format!("tagout.{}", action.kind());
        let title = title_of(&action);
        let event = Self { kind, title, ..self }.about(&action);
        let resume = || Some(format!("tagout resume {} --reason WHY", action.scope()));
        match &action {
            Action::Lock(lock) => {
                let severity = match lock.kind {
                    LockKind::Halt | LockKind::Drain { .. } | LockKind::Isolate => Severity::High,
                    LockKind::Pause | LockKind::Restrict => Severity::Medium,
                    LockKind::Throttle(_) => Severity::Low,
                };
                Self { topic: Topic::Tightening, severity, next: resume(), ..event }
            }
            Action::Revoke(_) | Action::Suspend(_) => {
                Self { topic: Topic::Tightening, severity: Severity::High, ..event }
            }
            Action::Refuse(refuse) => {
                let (kind, proposal) = ("tagout.proposal.refused".into(), Some(refuse.proposal));
                Self { topic: Topic::Proposal, kind, proposal, severity: Severity::Low, ..event }
            }
            Action::Release(_) | Action::Start(_) | Action::Grant(_) | Action::Enroll(_) => {
                Self { topic: Topic::Loosening, severity: Severity::Medium, ..event }
            }
            Action::Authority(_) => Self { topic: Topic::Authority, severity: Severity::High, ..event },
        }
    }

    /// What a command says, in force or proposed.
    fn about(mut self, action: &Action) -> Self {
        let mut put = |key: &str, value: Value| {
            self.details.insert(key.into(), value);
        };
        let (reason, case) = match action {
            Action::Lock(lock) => {
                put("mode", lock.kind.name().into());
                match lock.kind {
                    LockKind::Drain { drain_ms } => put("drain_ms", drain_ms.into()),
                    LockKind::Throttle(limits) => put("limits", json!(limits)),
                    LockKind::Halt | LockKind::Pause | LockKind::Isolate | LockKind::Restrict => {}
                }
                (Some(&lock.reason), lock.case.as_ref())
            }
            Action::Revoke(revoke) => {
                put("grants", revoke.grants.len().into());
                (Some(&revoke.reason), revoke.case.as_ref())
            }
            Action::Suspend(suspend) => {
                put("keys", suspend.keys.len().into());
                (Some(&suspend.reason), suspend.case.as_ref())
            }
            Action::Refuse(refuse) => (Some(&refuse.reason), refuse.case.as_ref()),
            Action::Release(release) => {
                put("locks", release.locks.count().into());
                (Some(&release.reason), None)
            }
            Action::Start(start) => {
                put("locks", start.locks.count().into());
                (Some(&start.reason), None)
            }
            Action::Grant(grant) => {
                put("expires_at", format_instant_ms(grant.expires_at_ms).into());
                (Some(&grant.reason), None)
            }
            Action::Enroll(enroll) => {
                if let Some(at_ms) = enroll.expires_at_ms {
                    put("expires_at", format_instant_ms(at_ms).into());
                }
                (Some(&enroll.reason), None)
            }
            Action::Authority(authority) => {
                put("version", authority.version.into());
                (None, None)
            }
        };
        put("action", action.kind().name().into());
        (self.reason, self.case) = (reason.map(|text| shortened(text, TEXT_MAX_CHARS)), case.cloned());
        self.scope = action.scope();
        self
    }

    fn of_trip(self, envelope: &Envelope) -> Self {
        let event = Self { topic: Topic::Tightening, severity: Severity::High, ..self };
        let Ok(trip) = Trip::parse(envelope.document.as_bytes()) else { return event };
        let details = BTreeMap::from([("instance".to_owned(), Value::from(trip.instance))]);
        Self {
            title: format!("trip {}, by its own process", trip.scope),
            reason: Some(shortened(&trip.reason, TEXT_MAX_CHARS)),
            next: Some(format!("tagout resume {} --reason WHY", trip.scope)),
            scope: trip.scope,
            details,
            ..event
        }
    }

    fn of_outcome(self, envelope: &Envelope, stopped: Option<Scope>) -> Self {
        let event = Self { topic: Topic::Outcome, ..self };
        let Ok(outcome) = serde_json::from_str::<Outcome>(&envelope.document) else { return event };
        let scope = stopped.unwrap_or_else(Scope::fleet);
        let Outcome { confirmed, bounded, slowest_ms, calls_cut, bounded_after_ms, .. } = outcome;
        let slowest = slowest_ms.map(|ms| format!(", the slowest after {ms} ms")).unwrap_or_default();
        let details = [
            ("lock", json!(outcome.outcome)),
            ("confirmed", confirmed.into()),
            ("bounded", bounded.into()),
            ("slowest_ms", json!(slowest_ms)),
            ("calls_cut", calls_cut.into()),
            ("bounded_after_ms", bounded_after_ms.into()),
        ];
        Self {
            title: format!("outcome on {scope}: {confirmed} confirmed{slowest}, {bounded} bounded"),
            // Who did not confirm is stopped by the bound, and somebody should look at it.
            severity: if bounded == 0 { Severity::Informational } else { Severity::Medium },
            details: details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            scope,
            ..event
        }
    }

    fn of_proposal(self, envelope: &Envelope, opens: bool) -> Self {
        let id = envelope.digest();
        let (kind, did) =
            if opens { ("tagout.proposal.opened", "opened") } else { ("tagout.proposal.signed", "signed") };
        let event = Self {
            topic: Topic::Proposal,
            kind: kind.into(),
            proposal: Some(id),
            next: Some(format!("tagout proposals show {}", id.short())),
            severity: Severity::Low,
            ..self
        };
        let Ok(Command { action, .. }) = Command::parse(envelope.document.as_bytes()) else { return event };
        Self { title: format!("proposal {did}: {}", title_of(&action)), ..event }.about(&action)
    }

    fn of_drill(self, envelope: &Envelope) -> Self {
        let event = Self { topic: Topic::Drill, ..self };
        let Ok(drill) = Drill::parse(envelope.document.as_bytes()) else { return event };
        let Drill { scope, confirmed, bounded, slowest_ms, .. } = drill;
        let resumed = drill.start.is_some();
        let slowest = slowest_ms.map_or(String::new(), |ms| format!(", the slowest after {ms} ms"));
        let (back, severity) = match (resumed, bounded) {
            (true, 0) => ("", Severity::Informational),
            (true, _) => ("", Severity::Medium),
            (false, _) => ("; it was not brought back", Severity::Medium),
        };
        let details = [
            ("lock", json!(drill.stop.digest)),
            ("confirmed", confirmed.into()),
            ("bounded", bounded.into()),
            ("slowest_ms", json!(slowest_ms)),
            ("resumed", resumed.into()),
        ];
        Self {
            title: format!("drill on {scope}: {confirmed} confirmed{slowest}, {bounded} bounded{back}"),
            severity,
            next: (!resumed).then(|| format!("tagout resume {scope} --reason WHY")),
            details: details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            scope,
            ..event
        }
    }

    fn of_restore(self, envelope: &Envelope) -> Self {
        let event = Self { topic: Topic::Tightening, severity: Severity::Critical, ..self };
        let Ok(restore) = Restore::parse(envelope.document.as_bytes()) else { return event };
        let number = restore.epoch.number;
        let details = [("epoch", number), ("lost_from", restore.lost_from)];
        Self {
            title: format!("restore: epoch {number} begins, and everything is halted"),
            reason: Some(shortened(&restore.reason, TEXT_MAX_CHARS)),
            details: details.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect(),
            ..event
        }
    }

    /// Of something that ends within `hours`.
    pub fn of_expiry(deployment: &str, ending: &Ending, hours: u64) -> Self {
        let (kind, named) = match &ending.what {
            What::Grant => ("tagout.expiry.grant", ("grant", ending.id.to_string())),
            What::Enrolment => ("tagout.expiry.enrolment", ("enrolment", ending.id.to_string())),
            What::ApiToken(name) => ("tagout.expiry.api_token", ("token", name.clone())),
        };
        let until = format_instant_ms(ending.ends_at_ms);
        let details = [("expires_at", until), named].map(|(key, value)| (key.to_owned(), value.into()));
        Self {
            title: format!("{} ends within {hours} h, and nothing follows it", ending.title()),
            scope: ending.scope.clone(),
            severity: severity_of_end(hours),
            index: ending.index,
            digest: ending.index.map(|_| ending.id),
            next: Some(ending.next(hours)),
            details: details.into_iter().chain([("within_h".to_owned(), hours.into())]).collect(),
            ..Self::unlogged(
                expiry_id(&ending.id, hours),
                Topic::Expiry,
                kind,
                ending.ends_at_ms.saturating_sub(hours * HOUR_MS),
                deployment,
            )
        }
    }

    /// Of the certificate of `node`, which ends within `hours`.
    pub fn of_certificate(deployment: &str, node: &str, cert: &Digest, hours: u64, now_ms: u64) -> Self {
        let details = [("node", node.into()), ("within_h", hours.into())];
        let within = if hours <= 72 { format!("{hours} h") } else { format!("{} days", hours / 24) };
        Self {
            title: format!("the certificate of {node} ends within {within}"),
            severity: severity_of_end(hours),
            next: Some("tagout renew NODE_DIR --ca CA_DIR".into()),
            details: details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Self::unlogged(
                format!("crt_{}_{hours}h", cert.short()),
                Topic::Expiry,
                "tagout.expiry.certificate",
                now_ms,
                deployment,
            )
        }
    }

    /// `id` is chosen where it happened.
    pub fn of_attempt(deployment: &str, node: &str, id: String, attempt: &Attempt<'_>) -> Self {
        let details = [
            ("node", json!(node)),
            ("peer", json!(attempt.peer)),
            ("status", attempt.status.into()),
            ("code", attempt.code.into()),
            ("detail", shortened(attempt.detail, TEXT_MAX_CHARS).into()),
        ];
        Self {
            title: format!("refused at {node}: {}", attempt.code),
            severity: Severity::Medium,
            digest: attempt.digest,
            details: details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Self::unlogged(id, Topic::Security, "tagout.security.refused", attempt.time_ms, deployment)
        }
    }

    /// What `tagout notifications test` sends.
    pub fn test(deployment: &str, id: String, now_ms: u64) -> Self {
        Self {
            title: "a test: nothing has happened".into(),
            next: Some("tagout notifications".into()),
            ..Self::unlogged(id, Topic::Security, "tagout.test", now_ms, deployment)
        }
    }

    fn unlogged(id: String, topic: Topic, kind: &str, time_ms: u64, deployment: &str) -> Self {
        Self {
            id,
            topic,
            kind: kind.into(),
            time_ms,
            deployment: deployment.into(),
            scope: Scope::fleet(),
            title: String::new(),
            severity: Severity::Informational,
            by: Vec::new(),
            reason: None,
            case: None,
            index: None,
            digest: None,
            proposal: None,
            next: None,
            details: BTreeMap::new(),
        }
    }

    /// A line for whatever has room for one.
    pub fn line(&self) -> String {
        let by = if self.by.is_empty() { String::new() } else { format!(" by {}", self.by.join(", ")) };
        shortened(&format!("{}{by}", self.title), TITLE_MAX_CHARS)
    }

    /// What people want to know, by name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let detail = |key: &str| self.details.get(key).and_then(Value::as_str).map(str::to_owned);
        let limits = self.details.get("limits").and_then(|limits| CallLimits::deserialize(limits).ok());
        let facts = [
            ("Scope", Some(self.scope.to_string())),
            ("Limits", limits.map(|limits| limits.to_string())),
            ("By", (!self.by.is_empty()).then(|| self.by.join(", "))),
            ("Reason", self.reason.clone()),
            ("Case", self.case.clone()),
            ("Detail", detail("detail")),
            ("From", detail("peer")),
            ("Until", detail("expires_at")),
            ("Time", Some(format_instant_ms(self.time_ms))),
            ("Entry", self.index.map(|index| index.to_string())),
            ("Deployment", self.deployment.split(':').next().map(str::to_owned)),
            ("Id", Some(self.id.clone())),
        ];
        facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub fn expiry_id(ending: &Digest, hours: u64) -> String {
    format!("exp_{}_{hours}h", ending.short())
}

fn severity_of_end(within_h: u64) -> Severity {
    match within_h {
        ..24 => Severity::High,
        24..72 => Severity::Medium,
        _ => Severity::Low,
    }
}

/// A command in a few words of ours.
fn title_of(action: &Action) -> String {
    let (kind, scope) = (action.kind(), action.scope());
    match action {
        Action::Lock(lock) if lock.kind.name() != kind.name() => {
            format!("{kind} {scope} ({})", lock.kind.name())
        }
        Action::Refuse(refuse) => format!("proposal {} on {scope} refused", refuse.proposal.short()),
        Action::Suspend(suspend) => format!("suspend {} of keys", suspend.keys.len()),
        Action::Authority(authority) => format!("authority version {}", authority.version),
        Action::Lock(_)
        | Action::Revoke(_)
        | Action::Release(_)
        | Action::Start(_)
        | Action::Grant(_)
        | Action::Enroll(_) => format!("{kind} {scope}"),
    }
}

/// At most so many characters, none of which is a control character.
pub fn shortened(text: &str, max_chars: usize) -> String {
    let harmless = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let mut chars = text.chars().map(harmless);
    let mut short: String = chars.by_ref().take(max_chars).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A stop of the night call, as every format's test has it.
    pub fn stop() -> Event {
        let document = format!(
            "{{\"tagout\":1,\"deployment\":\"moltbook:{}\",\"action\":\"stop\",\"id\":\"1\",\"issued_at\":\"2026-11-22T15:00:00Z\",\
             \"scope\":\"support/agent_22\",\"mode\":\"halt\",\"reason\":\"policy <violation> & 4.1\",\"case\":\"INC-4711\"}}",
            "0".repeat(64)
        );
        of(EntryKind::Command, document, false)
    }

    pub fn proposal() -> Event {
        let document = format!(
            "{{\"tagout\":1,\"deployment\":\"moltbook:{}\",\"action\":\"release\",\"id\":\"1\",\"issued_at\":\"2026-11-22T15:00:00Z\",\
             \"scope\":\"support/agent_22\",\"locks\":[\"{}\"],\"reason\":\"reviewed\"}}",
            "0".repeat(64),
            "1".repeat(64)
        );
        of(EntryKind::Proposal, document, true)
    }

    pub fn attempt() -> Event {
        let attempt = Attempt {
            time_ms: 1_764_000_000_000,
            peer: Some("192.0.2.7:4711"),
            status: 401,
            code: "no-valid-signature",
            detail: "no signature is valid",
            digest: Some(Digest([7; 32])),
        };
        Event::of_attempt("moltbook", "moltbook/node-1", "sec_0011".into(), &attempt)
    }

    fn of(kind: EntryKind, document: String, opens: bool) -> Event {
        let envelope = Envelope { document, signatures: Vec::new() };
        let entry = Entry { kind, index: 12, time_ms: 1_764_000_000_000, prev: Digest::default(), envelope };
        let by = vec!["alice".to_owned()];
        Event::of_entry(&entry, Surroundings { deployment: "moltbook", by, opens, stopped: None })
    }

    #[test]
    fn a_drill_says_what_it_showed_and_whether_the_canary_runs_again() {
        let place = |index: u64| json!({"digest": Digest([index as u8; 32]), "index": index});
        let mut document = json!({
            "tagout": 1, "deployment": format!("moltbook:{}", "0".repeat(64)), "issued_at": "2026-11-22T15:00:00Z",
            "drill": {
                "scope": "support/canary", "stop": place(5), "outcome": 6, "release": place(7), "start": place(8),
                "confirmed": 1, "bounded": 0, "slowest_ms": 3,
                "instances": [{"agent": "support/canary", "instance": "host-1", "after_ms": 3}]
            }
        });
        let told = |document: &Value| of(EntryKind::Drill, document.to_string(), false);
        let drill = told(&document);
        assert_eq!((drill.topic, drill.kind.as_str()), (Topic::Drill, "tagout.drill"));
        assert_eq!(drill.title, "drill on support/canary: 1 confirmed, the slowest after 3 ms, 0 bounded");
        assert_eq!((drill.scope.as_str(), &drill.details["resumed"]), ("support/canary", &json!(true)));
        let parts = document["drill"].as_object_mut().expect("an object");
        parts.retain(|key, _| key != "release" && key != "start");
        assert_eq!(told(&document).next.as_deref(), Some("tagout resume support/canary --reason WHY"));
    }

    #[test]
    fn people_are_told_to_what_a_throttle_limits() {
        let document = json!({
            "tagout": 1, "deployment": format!("moltbook:{}", "0".repeat(64)), "action": "throttle", "id": "1",
            "issued_at": "2026-11-22T15:00:00Z", "scope": "support", "reason": "r",
            "limits": {"calls_per_minute": 1, "tokens_per_minute": 500}
        });
        let facts = of(EntryKind::Command, document.to_string(), false).facts();
        assert_eq!(facts[1], ("Limits", "1 call and 500 tokens a minute".to_owned()));
    }

    #[test]
    fn an_entry_has_one_id_and_its_index_can_be_told_from_it() {
        let (one, other) = (stop(), stop());
        assert_eq!(one, other);
        assert!(one.id.starts_with("evt_12_") && !one.id.contains('.'), "{}", one.id);
        assert_eq!(entry_of(&one.id), Some(12));
        assert_eq!(entry_of("sec_12_x"), None);
        assert_eq!(entry_of("evt_x_y"), None);
    }

    #[test]
    fn what_others_wrote_is_bounded_and_holds_no_control_characters() {
        assert_eq!(shortened("a\u{1b}b", 10), "a\u{fffd}b");
        assert_eq!(shortened(&"x".repeat(11), 10), format!("{}…", "x".repeat(9)));
        assert_eq!(shortened(&"x".repeat(10), 10), "x".repeat(10));
    }

    #[test]
    fn a_proposal_says_what_to_look_at_and_whether_it_is_new() {
        let opened = proposal();
        assert_eq!((opened.topic, opened.kind.as_str()), (Topic::Proposal, "tagout.proposal.opened"));
        assert_eq!(opened.title, "proposal opened: release support/agent_22");
        assert_eq!(
            opened.next,
            Some(format!("tagout proposals show {}", opened.proposal.expect("its own").short()))
        );
    }
}
